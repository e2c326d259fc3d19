//! Second factors on record: an app, passkeys, and the recovery codes that stand in for them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::secret::SecretHash;

/// Most passkeys of one person.
pub const MAX_PASSKEYS: usize = 10;

/// The second factors of somebody with a password here: an app, or a passkey, or both.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factors {
    /// The app that shows them one-time passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<Authenticator>,
    /// Their passkeys, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passkeys: Vec<Passkey>,
    /// The recovery codes that are left, hashed.
    pub recovery: Vec<SecretHash>,
}

/// One second factor, to be put on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Factor {
    /// An app.
    Authenticator(Authenticator),
    /// A passkey.
    Passkey(Passkey),
}

/// What one of somebody's second factors is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactorName {
    /// The app.
    Authenticator,
    /// The passkey of this id.
    Passkey(String),
}

/// An app that computes one-time passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authenticator {
    /// The key that it shares with us, sealed.
    pub sealed: String,
    /// The last step of time whose password was used.
    pub last_step: u64,
}

/// A key pair of somebody's device, browser or security key (Web Authentication). We have the public half.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    /// The credential's id, base64url.
    pub id: String,
    /// What its person calls it.
    pub name: String,
    /// The public key and what its device says of itself, as the library that verifies has it.
    pub credential: String,
    /// How often it was used, as the device counts; 0 if it does not.
    pub counter: u32,
    /// When it came on record.
    pub created_at: Timestamp,
    /// When it was used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Timestamp>,
}

// === impl Authenticator ===

impl Authenticator {
    /// Whether a password of this step may be used with this key: each step once, and none before one that was used.
    #[must_use]
    pub fn may_use(&self, sealed: &str, step: u64) -> bool {
        self.sealed == sealed && step > self.last_step
    }
}

// === impl Passkey ===

impl Passkey {
    /// Whether this count may follow ours. One that does not grow is of a device whose key was copied (Web Authentication
    /// Level 3, section 6.1.1); 0 means that it does not count.
    #[must_use]
    pub const fn may_follow(&self, counter: u32) -> bool {
        counter > self.counter || (counter == 0 && self.counter == 0)
    }
}

// === impl Factors ===

impl Factors {
    /// None yet, but the recovery codes that come with the first.
    #[must_use]
    pub fn with_recovery(codes: &[SecretHash]) -> Self {
        Self {
            recovery: codes.to_vec(),
            ..Self::default()
        }
    }

    /// Puts one beside the others. Whether there was room: there is one app, and no passkey twice or too many.
    pub fn add(&mut self, factor: &Factor) -> bool {
        match factor {
            Factor::Authenticator(app) => {
                let is_new = self.authenticator.is_none();
                self.authenticator.get_or_insert_with(|| app.clone());
                is_new
            }
            Factor::Passkey(passkey) => {
                let has_room = self.passkeys.len() < MAX_PASSKEYS;
                let is_new = has_room && self.passkeys.iter().all(|known| known.id != passkey.id);
                if is_new {
                    self.passkeys.push(passkey.clone());
                }
                is_new
            }
        }
    }

    /// Removes one. Whether it was there.
    pub fn remove(&mut self, which: &FactorName) -> bool {
        match which {
            FactorName::Authenticator => self.authenticator.take().is_some(),
            FactorName::Passkey(id) => {
                let before = self.passkeys.len();
                self.passkeys.retain(|known| known.id != *id);
                self.passkeys.len() < before
            }
        }
    }

    /// Uses a step of the app with this sealed key. Whether it may be used.
    pub fn use_step(&mut self, sealed: &str, step: u64) -> bool {
        let app = self.authenticator.as_mut();
        app.filter(|app| app.may_use(sealed, step))
            .map(|app| app.last_step = step)
            .is_some()
    }

    /// Notes what is known of a passkey that was used; its name and its age stay. Whether it may have been.
    pub fn use_passkey(&mut self, used: &Passkey) -> bool {
        let known = self.passkeys.iter_mut().find(|known| known.id == used.id);
        let Some(known) = known.filter(|known| known.may_follow(used.counter)) else {
            return false;
        };
        known.credential.clone_from(&used.credential);
        known.counter = used.counter;
        known.used_at = used.used_at;
        true
    }

    /// Uses a recovery code. Whether there was one.
    pub fn use_recovery_code(&mut self, code: &SecretHash) -> bool {
        let before = self.recovery.len();
        self.recovery.retain(|known| known != code);
        self.recovery.len() < before
    }

    /// Whether there is nothing to show but recovery codes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.authenticator.is_none() && self.passkeys.is_empty()
    }
}

impl fmt::Debug for Factors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Factors")
            .field("authenticator", &self.authenticator)
            .field("passkeys", &self.passkeys)
            .field("recovery", &self.recovery.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passkey")
            .field("name", &self.name)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("last_step", &self.last_step)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_there_were_passkeys_is_read() {
        let code = SecretHash::of("code");
        let old = serde_json::json!({ "authenticator": { "sealed": "text", "last_step": 7 }, "recovery": [code] });
        let factors: Factors = serde_json::from_value(old.clone()).unwrap();
        assert!(factors.authenticator.as_ref().is_some_and(|app| app.may_use("text", 8)));
        assert!(factors.passkeys.is_empty() && !factors.is_empty());
        assert_eq!(serde_json::to_value(&factors).unwrap(), old);
    }

    #[test]
    fn a_count_grows_or_there_is_none() {
        let passkey = |counter| Passkey {
            id: "id".to_owned(),
            name: "name".to_owned(),
            credential: "{}".to_owned(),
            counter,
            created_at: Timestamp::from_millis(0),
            used_at: None,
        };
        for (before, after, fine) in [
            (0, 0, true),
            (0, 1, true),
            (1, 2, true),
            (1, 1, false),
            (2, 1, false),
            (1, 0, false),
        ] {
            assert_eq!(passkey(before).may_follow(after), fine, "{before} {after}");
        }
    }
}
