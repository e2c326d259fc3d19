//! The claims of a token whose signature holds.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::domain::clock::Timestamp;

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(60);
/// Later than any token's end, and far below where a float loses seconds.
const END_OF_TIME: f64 = 1e12;

/// What a verified token says (RFC 7519 §4).
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Why claims do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClaims {
    /// A claim is missing.
    #[error("the claim {0} is missing")]
    Missing(&'static str),
    /// A claim is of another type than RFC 7519 gives it.
    #[error("the claim {0} is malformed")]
    Malformed(&'static str),
    /// `exp` is over.
    #[error("it has expired")]
    Expired,
    /// `nbf` or `iat` is ahead.
    #[error("it is not valid yet")]
    Early,
    /// It would be good for longer than such a token may be.
    #[error("it lives too long")]
    TooLong,
}

impl Claims {
    pub(super) const fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// A claim as it is.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A claim that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A claim that must be there and be text.
    ///
    /// # Errors
    /// If it is not.
    pub fn require(&self, name: &'static str) -> Result<&str, InvalidClaims> {
        match self.0.get(name) {
            None | Some(Value::Null) => Err(InvalidClaims::Missing(name)),
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(InvalidClaims::Malformed(name)),
        }
    }

    /// The audience if it is a single one: text, or a list of one. A token that several parties would accept can be played
    /// by one of them against another (rfc7523bis §4).
    #[must_use]
    pub fn sole_audience(&self) -> Option<&str> {
        match self.0.get("aud")? {
            Value::String(audience) => Some(audience),
            Value::Array(list) => match list.as_slice() {
                [Value::String(audience)] => Some(audience),
                _ => None,
            },
            _ => None,
        }
    }

    /// When it expires, if it says so.
    ///
    /// # Errors
    /// If the claim is not a date.
    pub fn expires_at(&self) -> Result<Option<Timestamp>, InvalidClaims> {
        self.date("exp")
    }

    /// When it was issued, if it says so.
    ///
    /// # Errors
    /// If the claim is not a date.
    pub fn issued_at(&self) -> Result<Option<Timestamp>, InvalidClaims> {
        self.date("iat")
    }

    /// When the person signed in, if it says so (OpenID Connect Core §2).
    ///
    /// # Errors
    /// If the claim is not a date.
    pub fn authenticated_at(&self) -> Result<Option<Timestamp>, InvalidClaims> {
        self.date("auth_time")
    }

    /// All of them.
    #[must_use]
    pub const fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The same with an end, where they have none.
    pub fn expire_by(&mut self, end: Timestamp) {
        self.0.entry("exp").or_insert_with(|| end.as_seconds().into());
    }

    /// Whether this is its time: `exp` is ahead but no further than `longest`, `nbf` and `iat` are not; a minute of
    /// difference between clocks is granted. The result is when it need not be remembered any more.
    ///
    /// # Errors
    /// Which rule does not hold.
    pub fn check_life(&self, now: Timestamp, longest: Duration) -> Result<Timestamp, InvalidClaims> {
        let expires_at = self.date("exp")?.ok_or(InvalidClaims::Missing("exp"))?;
        let forgotten_at = expires_at.plus(SKEW);
        if now >= forgotten_at {
            return Err(InvalidClaims::Expired);
        }
        if expires_at > now.plus(longest).plus(SKEW) {
            return Err(InvalidClaims::TooLong);
        }
        for name in ["nbf", "iat"] {
            if self.date(name)?.is_some_and(|date| date > now.plus(SKEW)) {
                return Err(InvalidClaims::Early);
            }
        }
        Ok(forgotten_at)
    }

    /// A `NumericDate` (RFC 7519 §2): seconds, with or without a fraction.
    fn date(&self, name: &'static str) -> Result<Option<Timestamp>, InvalidClaims> {
        let seconds = match self.0.get(name) {
            None => return Ok(None),
            Some(value) => value.as_f64().ok_or(InvalidClaims::Malformed(name))?,
        };
        if !(0.0..END_OF_TIME).contains(&seconds) {
            return Err(InvalidClaims::Malformed(name));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was just checked"
        )]
        Ok(Some(Timestamp::from_millis((seconds * 1000.0) as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        let Value::Object(map) = value else { panic!("an object") };
        Claims::new(map)
    }

    /// Spec: L20
    #[test]
    fn a_token_has_its_time() {
        let hour = Duration::from_secs(3600);
        let now = Timestamp::from_millis(1_000_000_000);
        let at = 1_000_000_u64;
        for (value, outcome) in [
            (json!({"exp": at + 10}), Ok(at + 70)),
            (json!({"exp": at - 59}), Ok(at + 1)),
            (json!({"exp": at - 60}), Err(InvalidClaims::Expired)),
            (json!({"exp": at + 3660}), Ok(at + 3720)),
            (json!({"exp": at + 3661}), Err(InvalidClaims::TooLong)),
            (json!({}), Err(InvalidClaims::Missing("exp"))),
            (json!({"exp": "soon"}), Err(InvalidClaims::Malformed("exp"))),
            (json!({"exp": -1}), Err(InvalidClaims::Malformed("exp"))),
            (json!({"exp": 1e300}), Err(InvalidClaims::Malformed("exp"))),
            (json!({"exp": at + 10, "nbf": at + 60}), Ok(at + 70)),
            (json!({"exp": at + 10, "nbf": at + 61}), Err(InvalidClaims::Early)),
            (json!({"exp": at + 10, "iat": at + 61}), Err(InvalidClaims::Early)),
            (json!({"exp": at + 10, "iat": []}), Err(InvalidClaims::Malformed("iat"))),
        ] {
            assert_eq!(
                claims(value.clone()).check_life(now, hour).map(Timestamp::as_seconds),
                outcome,
                "{value}"
            );
        }
    }

    #[test]
    fn an_audience_is_one() {
        for (value, sole) in [
            (json!({"aud": "a"}), Some("a")),
            (json!({"aud": ["a"]}), Some("a")),
            (json!({"aud": ["a", "b"]}), None),
            (json!({"aud": []}), None),
            (json!({"aud": 1}), None),
            (json!({}), None),
        ] {
            assert_eq!(claims(value.clone()).sole_audience(), sole, "{value}");
        }
    }
}
