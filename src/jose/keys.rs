//! Public keys from outside: RFC 7517.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse, ThumbprintHash};
use serde_json::Value;

use super::Algorithm;

/// Most keys in one set.
const MAX_KEYS: usize = 50;
/// RSA moduli in bytes: 2048 bits (RFC 7518 §3.3) to 8192, above which verifying is work that a stranger could order.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// The members of RFC 7518 §6 that nobody shows to others.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Somebody's public keys.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<PublicKey>);

/// A public key, and what it may be used for.
#[derive(Clone, Debug)]
pub struct PublicKey {
    jwk: Jwk,
    key: DecodingKey,
    algorithms: &'static [Algorithm],
}

/// Why text is not a set of public keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// RFC 7517 §5.
    #[error("it is not an object with a list of keys")]
    Form,
    /// More of them than anybody needs.
    #[error("there are more than 50 keys")]
    Count,
    /// A private or symmetric key: whoever shows one has lost it.
    #[error("there is a private or a symmetric key in it")]
    Private,
    /// None that we could use.
    #[error("there is no key for RS256, PS256, ES256 or Ed25519 in it")]
    Unusable,
}

impl KeySet {
    /// Reads a key set. Keys that are for something else are left out.
    ///
    /// # Errors
    /// See [`InvalidKeys`].
    pub fn parse(value: &Value) -> Result<Self, InvalidKeys> {
        let keys = value.get("keys").and_then(Value::as_array).ok_or(InvalidKeys::Form)?;
        if keys.len() > MAX_KEYS {
            return Err(InvalidKeys::Count);
        }
        let mut found = Vec::new();
        for key in keys {
            match PublicKey::parse(key) {
                Ok(key) => found.push(key),
                Err(InvalidKeys::Unusable) => {}
                Err(error) => return Err(error),
            }
        }
        if found.is_empty() {
            return Err(InvalidKeys::Unusable);
        }
        Ok(Self(found))
    }

    /// Whether there is a key of this name.
    #[must_use]
    pub fn names(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id() == Some(id))
    }

    /// The keys that a signature with this algorithm and key id may be from. A token without a key id, or one from a set
    /// without any, is tried with every key that fits.
    pub(super) fn candidates<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a PublicKey> {
        let named = self.0.iter().any(|key| key.id().is_some());
        self.0
            .iter()
            .filter(move |key| key.serves(algorithm))
            .filter(move |key| !named || id.is_none() || key.id() == id)
    }
}

impl From<PublicKey> for KeySet {
    fn from(key: PublicKey) -> Self {
        Self(vec![key])
    }
}

impl PublicKey {
    /// Reads one key.
    ///
    /// # Errors
    /// See [`InvalidKeys`].
    pub fn parse(value: &Value) -> Result<Self, InvalidKeys> {
        let object = value.as_object().ok_or(InvalidKeys::Form)?;
        if PRIVATE.iter().any(|member| object.contains_key(*member)) {
            return Err(InvalidKeys::Private);
        }
        let mut value = value.clone();
        // The library knows Ed25519 by its older name alone.
        if value.get("alg").and_then(Value::as_str) == Some(Algorithm::Ed25519.as_str()) {
            value["alg"] = Algorithm::EdDsa.as_str().into();
        }
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| InvalidKeys::Unusable)?;
        if matches!(
            jwk.common.public_key_use,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_))
        ) {
            return Err(InvalidKeys::Unusable);
        }
        let algorithms: &'static [Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if is_sound_modulus(&rsa.n) => &[Algorithm::Rs256, Algorithm::Ps256],
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => &[Algorithm::Es256],
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDsa, Algorithm::Ed25519]
            }
            _ => return Err(InvalidKeys::Unusable),
        };
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| InvalidKeys::Unusable)?;
        Ok(Self { jwk, key, algorithms })
    }

    /// Its RFC 7638 thumbprint with SHA-256, in base64url.
    ///
    /// # Errors
    /// If the key is of a kind that has none.
    pub fn thumbprint(&self) -> Result<String, InvalidKeys> {
        self.jwk
            .thumbprint(ThumbprintHash::SHA256)
            .map_err(|_| InvalidKeys::Unusable)
    }

    pub(super) const fn key(&self) -> &DecodingKey {
        &self.key
    }

    fn id(&self) -> Option<&str> {
        self.jwk.common.key_id.as_deref()
    }

    /// Whether it may verify this algorithm: one of its family, and the one that it is for, if it says (RFC 8725 §3.1).
    fn serves(&self, algorithm: Algorithm) -> bool {
        let own = self.jwk.common.key_algorithm;
        let name = match algorithm {
            Algorithm::Ed25519 => Algorithm::EdDsa,
            other => other,
        };
        self.algorithms.contains(&algorithm) && own.is_none_or(|own| own.to_string() == name.as_str())
    }
}

fn is_sound_modulus(encoded: &str) -> bool {
    // Cut off what cannot be right before decoding it.
    encoded.len() < 4 * RSA_BYTES.end()
        && URL_SAFE_NO_PAD.decode(encoded).is_ok_and(|bytes| {
            let leading = bytes.iter().take_while(|byte| **byte == 0).count();
            RSA_BYTES.contains(&(bytes.len() - leading))
        })
}
