//! Proof Key for Code Exchange, RFC 7636, with S256 alone: `plain` is never offered (RFC 9700 §2.1.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

/// A stored code challenge: base64url(SHA-256(verifier)), 43 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodeChallenge(String);

/// Why a challenge or verifier cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPkce {
    /// A challenge made with S256 is 43 base64url characters.
    #[error("code_challenge must be 43 base64url characters (S256)")]
    Challenge,
    /// RFC 7636 §4.1: 43 to 128 unreserved characters.
    #[error("code_verifier must be 43 to 128 unreserved characters")]
    Verifier,
}

// === impl CodeChallenge ===

impl CodeChallenge {
    /// Takes a `code_challenge` for S256 (RFC 7636 §4.2). Of its last character two bits belong to no byte; a text in which
    /// they are set is well-formed by the RFC's grammar, and merely has no verifier.
    ///
    /// # Errors
    /// If it is not 43 base64url characters.
    pub fn parse(text: &str) -> Result<Self, InvalidPkce> {
        let base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.len() == 43 && text.bytes().all(base64url) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidPkce::Challenge)
        }
    }

    /// The challenge that belongs to a verifier.
    ///
    /// # Errors
    /// If the verifier is not 43 to 128 unreserved characters.
    pub fn of(verifier: &str) -> Result<Self, InvalidPkce> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if !(43..=128).contains(&verifier.len()) || !verifier.bytes().all(unreserved) {
            return Err(InvalidPkce::Verifier);
        }
        Ok(Self(URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))))
    }

    /// Whether `verifier` is the one behind this challenge, in constant time.
    ///
    /// # Errors
    /// If the verifier cannot be one at all.
    pub fn verified_by(&self, verifier: &str) -> Result<bool, InvalidPkce> {
        Ok(Self::of(verifier)?.0.as_bytes().ct_eq(self.0.as_bytes()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7636, Appendix B.
    /// Spec: F8
    #[test]
    fn the_rfc_s_own_example() {
        let challenge = CodeChallenge::parse("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM").unwrap();
        assert_eq!(
            challenge.verified_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            Ok(true)
        );
        assert_eq!(
            challenge.verified_by("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXl"),
            Ok(false)
        );
    }

    #[test]
    fn a_challenge_without_a_verifier_is_well_formed() {
        let challenge = CodeChallenge::parse(&"a".repeat(43)).unwrap();
        assert_eq!(challenge.verified_by(&"a".repeat(43)), Ok(false));
    }

    /// Spec: D7
    #[test]
    fn only_what_s256_can_yield_is_a_challenge() {
        for bad in [
            "",
            "short",
            &"A".repeat(42),
            &"A".repeat(44),
            &format!("{}=", "A".repeat(43)),
            &"A".repeat(128),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM",
        ] {
            assert_eq!(CodeChallenge::parse(bad), Err(InvalidPkce::Challenge), "{bad:?}");
        }
    }

    /// Spec: F8
    #[test]
    fn a_verifier_has_43_to_128_unreserved_characters() {
        assert!(CodeChallenge::of(&"a".repeat(43)).is_ok() && CodeChallenge::of(&"~".repeat(128)).is_ok());
        for bad in [
            "a".repeat(42),
            "a".repeat(129),
            format!("{} ", "a".repeat(43)),
            format!("{}ä", "a".repeat(43)),
            format!("{}%41", "a".repeat(43)),
        ] {
            assert_eq!(CodeChallenge::of(&bad), Err(InvalidPkce::Verifier), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_challenge_knows_its_verifier_and_no_other(a in "[A-Za-z0-9._~-]{43,128}", b in "[A-Za-z0-9._~-]{43,128}") {
            let challenge = CodeChallenge::of(&a).unwrap();
            prop_assert_eq!(CodeChallenge::parse(&challenge.0).unwrap(), challenge.clone());
            prop_assert_eq!(challenge.verified_by(&a), Ok(true));
            prop_assert_eq!(challenge.verified_by(&b), Ok(a == b));
        }
    }
}
