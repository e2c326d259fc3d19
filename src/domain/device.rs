//! The device flow (RFC 8628): a program without a browser asks, a person somewhere else answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::ClientId;
use super::clock::Timestamp;
use super::grant::GrantId;
use super::scope::Scope;
use super::secret::{SecretHash, random_bytes};
use super::uri::Resource;
use super::user::Subject;

/// How long a device waits between two questions, to begin with (§3.2).
pub const INTERVAL: Duration = Duration::from_secs(5);
/// How much longer, each time that it does not (§3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The longest that the interval gets.
const SLOWEST: Duration = Duration::from_secs(60);
/// The letters of user codes: no vowels, so that no words come out, and nothing that looks like something else (§6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// How many of them: 20⁸ codes, 34 bits.
const USER_CODE_LENGTH: usize = 8;

/// A device's request on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAuthorization {
    /// Who asks.
    pub client_id: ClientId,
    /// For what.
    pub scope: Scope,
    /// For which upstream.
    pub resource: Resource,
    /// Hash of the code that the person types.
    pub user_code: SecretHash,
    /// What the person said.
    pub decision: Option<Decision>,
    /// When the device asked last.
    pub polled_at: Option<Timestamp>,
    /// How long it has to wait between two questions.
    pub interval: Duration,
    /// The grant that it became.
    pub redeemed: Option<GrantId>,
    /// When it lapses.
    pub expires_at: Timestamp,
}

/// What a person said to a device's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// No.
    Denied,
    /// Yes.
    Approved {
        /// Who.
        subject: Subject,
        /// To how much of it.
        scope: Scope,
        /// When they signed in.
        authenticated_at: Timestamp,
    },
}

/// What a person types to name a device's request, such as `BDFX-KLMQ`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserCode(String);

// === impl DeviceAuthorization ===

impl DeviceAuthorization {
    /// Notes that the device asks now. Whether it asks too soon: then it has to wait longer from now on.
    pub fn poll(&mut self, now: Timestamp) -> bool {
        let too_soon = self.polled_at.is_some_and(|last| now.since(last) < self.interval);
        if too_soon {
            self.interval = (self.interval + SLOWER).min(SLOWEST);
        }
        self.polled_at = Some(now);
        too_soon
    }
}

// === impl UserCode ===

impl UserCode {
    /// A fresh code.
    #[must_use]
    pub fn generate() -> Self {
        let mut code = String::with_capacity(USER_CODE_LENGTH);
        while code.len() < USER_CODE_LENGTH {
            // Bytes beyond the largest multiple would make some letters likelier than others.
            let fair = 256 / LETTERS.len() * LETTERS.len();
            for byte in random_bytes::<16>().into_iter().map(usize::from) {
                if byte < fair && code.len() < USER_CODE_LENGTH {
                    code.extend(LETTERS.get(byte % LETTERS.len()).map(|letter| char::from(*letter)));
                }
            }
        }
        Self(code)
    }

    /// Reads what a person typed: case, spaces and dashes do not matter (§6.1).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 64 {
            return None;
        }
        let code: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '-' | '‐' | '‑' | '–' | '—' | '.'))
            .map(|c| c.to_ascii_uppercase())
            .collect();
        let fine = code.len() == USER_CODE_LENGTH && code.bytes().all(|b| LETTERS.contains(&b));
        fine.then_some(Self(code))
    }

    /// As a person reads it: in two groups.
    #[must_use]
    pub fn shown(&self) -> String {
        let (left, right) = self.0.split_at_checked(USER_CODE_LENGTH / 2).unwrap_or((&self.0, ""));
        format!("{left}-{right}")
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl std::fmt::Debug for UserCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserCode(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_code_is_read_as_people_write_it() {
        let code = UserCode::parse("BDFXKLMQ").unwrap();
        for text in ["bdfx-klmq", " BDFX KLMQ ", "b d f x – k l m q", "BDFX‑KLMQ"] {
            assert_eq!(UserCode::parse(text).unwrap(), code, "{text}");
        }
        for wrong in [
            "",
            "BDFXKLM",
            "BDFXKLMQQ",
            "BDFXKLMA",
            "BDFXKLM0",
            "ВDFXKLMQ",
            &"-".repeat(65),
        ] {
            assert_eq!(UserCode::parse(wrong), None, "{wrong}");
        }
        assert_eq!(code.shown(), "BDFX-KLMQ");
    }

    #[test]
    fn user_codes_are_random_and_can_be_typed() {
        let codes: std::collections::HashSet<_> = (0..1000).map(|_| UserCode::generate().shown()).collect();
        assert_eq!(codes.len(), 1000);
        for code in &codes {
            assert_eq!(UserCode::parse(code).unwrap().shown(), *code);
        }
        let all: std::collections::HashSet<_> = codes.iter().flat_map(|code| code.bytes()).collect();
        assert_eq!(all.len(), LETTERS.len() + 1, "every letter occurs, and the dash");
    }

    #[test]
    fn a_device_that_asks_too_often_has_to_wait_longer() {
        let mut request = DeviceAuthorization {
            client_id: ClientId::parse("tv").unwrap(),
            scope: Scope::empty(),
            resource: Resource::parse("https://gw.example/mcp").unwrap(),
            user_code: UserCode::generate().hash(),
            decision: None,
            polled_at: None,
            interval: INTERVAL,
            redeemed: None,
            expires_at: Timestamp::from_millis(600_000),
        };
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        assert!(!request.poll(at(1)), "the first question");
        assert!(!request.poll(at(6)), "after five seconds");
        assert!(request.poll(at(10)), "after four");
        assert!(request.poll(at(19)), "after nine, when ten were asked for");
        assert!(!request.poll(at(34)), "after fifteen");
        for _ in 0..20 {
            request.poll(at(34));
        }
        assert_eq!(request.interval, SLOWEST);
    }
}
