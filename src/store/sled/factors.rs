//! Second factors.

use async_trait::async_trait;

use super::SledStore;
use super::change::Change;
use super::events::find;
use super::records::{PasskeyOwner, key};
use crate::domain::factors::{Factor, FactorName, Factors, Passkey};
use crate::domain::secret::SecretHash;
use crate::domain::user::Subject;
use crate::store::{Added, SecondFactors, StoreError};

type Outcome<T> = Result<T, StoreError>;

#[async_trait]
impl SecondFactors for SledStore {
    async fn factors(&self, subject: &Subject) -> Outcome<Option<Factors>> {
        self.look("factors", |tree| find(tree, subject))
    }

    async fn add_factor(
        &self,
        subject: &Subject,
        factor: &Factor,
        recovery: &[SecretHash],
        first: bool,
    ) -> Outcome<Added> {
        self.write("add_factor", |change| {
            let known = change.get::<Factors>(subject)?;
            if first && known.is_some() {
                return Ok(Added::Refused);
            }
            let added = known.as_ref().map_or(Added::First, |_| Added::Another);
            let mut factors = known.unwrap_or_else(|| Factors::with_recovery(recovery));
            if !factors.add(factor) {
                return Ok(Added::Refused);
            }
            if let Factor::Passkey(passkey) = factor {
                let id = owner(&passkey.id);
                if change.get::<PasskeyOwner>(&id)?.is_some() {
                    return Ok(Added::Refused);
                }
                change.put(&id, &PasskeyOwner(subject.as_str().to_owned()))?;
            }
            change.put(subject, &factors)?;
            Ok(added)
        })
        .await
    }

    async fn use_step(&self, subject: &Subject, sealed: &str, step: u64) -> Outcome<bool> {
        self.write("use_step", |change| {
            change.of_factors(subject, |factors| factors.use_step(sealed, step))
        })
        .await
    }

    async fn use_passkey(&self, subject: &Subject, used: &Passkey) -> Outcome<bool> {
        self.write("use_passkey", |change| {
            change.of_factors(subject, |factors| factors.use_passkey(used))
        })
        .await
    }

    async fn use_recovery_code(&self, subject: &Subject, code: &SecretHash) -> Outcome<bool> {
        self.write("use_recovery_code", |change| {
            change.of_factors(subject, |factors| factors.use_recovery_code(code))
        })
        .await
    }

    async fn replace_recovery(&self, subject: &Subject, codes: &[SecretHash]) -> Outcome<bool> {
        self.write("replace_recovery", |change| {
            change.of_factors(subject, |factors| {
                factors.recovery = codes.to_vec();
                true
            })
        })
        .await
    }

    async fn remove_factor(&self, subject: &Subject, which: &FactorName) -> Outcome<bool> {
        self.write("remove_factor", |change| {
            let was_there = change.of_factors(subject, |factors| factors.remove(which))?;
            if let FactorName::Passkey(id) = which
                && was_there
            {
                change.remove(key::<PasskeyOwner>(&owner(id)))?;
            }
            if change.get::<Factors>(subject)?.is_some_and(|left| left.is_empty()) {
                change.remove(key::<Factors>(subject))?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn reset_factors(&self, subject: &Subject) -> Outcome<bool> {
        self.write("reset_factors", |change| change.forget_factors(subject))
            .await
    }
}

/// By what the owner of a passkey is found: its id may be longer than a key.
fn owner(id: &str) -> SecretHash {
    SecretHash::of(&format!("passkey {id}"))
}

impl Change<'_> {
    /// Does something to somebody's factors, if they have any, and writes them if it says that it did.
    fn of_factors(&mut self, subject: &Subject, what: impl FnOnce(&mut Factors) -> bool) -> Outcome<bool> {
        let Some(mut factors) = self.get::<Factors>(subject)? else {
            return Ok(false);
        };
        let done = what(&mut factors);
        if done {
            self.put(subject, &factors)?;
        }
        Ok(done)
    }

    /// Forgets all second factors of somebody. Whether there were any.
    pub(super) fn forget_factors(&mut self, subject: &Subject) -> Outcome<bool> {
        let Some(factors) = self.get::<Factors>(subject)? else {
            return Ok(false);
        };
        for passkey in &factors.passkeys {
            self.remove(key::<PasskeyOwner>(&owner(&passkey.id)))?;
        }
        self.remove(key::<Factors>(subject))?;
        Ok(true)
    }
}
