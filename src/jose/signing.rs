//! Our own keys, and what is signed with them.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Algorithm, library};
use crate::domain::clock::Timestamp;
use crate::domain::key::{KeyRecord, PrivateKey};

/// A key that signs.
pub struct SigningKey {
    record: KeyRecord,
    key: EncodingKey,
    public: Value,
}

/// Why a key cannot be used. Nothing of the key is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It could not be made.
    #[error("a signing key cannot be made")]
    Generate,
    /// What is on record is not a key.
    #[error("a signing key on record cannot be read")]
    Read,
    /// It did not sign.
    #[error("a token cannot be signed")]
    Sign,
}

impl SigningKey {
    /// A fresh key. An RSA key takes a tenth of a second or more.
    ///
    /// # Errors
    /// If the library makes none.
    pub fn generate(algorithm: Algorithm, now: Timestamp) -> Result<Self, KeyError> {
        let private = match algorithm {
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Generate)?;
                let der = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
                PrivateKey::new(der.as_ref().to_vec())
            }
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Generate)?;
                PrivateKey::new(unwrapped(der.as_ref()).ok_or(KeyError::Generate)?.to_vec())
            }
            Algorithm::EdDsa | Algorithm::Ed25519 => return Err(KeyError::Generate),
        };
        let mut record = KeyRecord {
            id: String::new(),
            algorithm,
            private,
            created_at: now,
        };
        let (_, jwk) = halves(&record)?;
        record.id = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::Generate)?;
        Self::from_record(record)
    }

    /// A key that is on record.
    ///
    /// # Errors
    /// If the record holds none.
    pub fn from_record(record: KeyRecord) -> Result<Self, KeyError> {
        let (key, mut jwk) = halves(&record)?;
        jwk.common.key_id = Some(record.id.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        let public = serde_json::to_value(&jwk).map_err(|_| KeyError::Read)?;
        Ok(Self { record, key, public })
    }

    /// What is kept of it.
    #[must_use]
    pub const fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// The public half as others read it (RFC 7517), with `kid`, `use` and `alg`.
    #[must_use]
    pub fn public(&self) -> Value {
        self.public.clone()
    }

    /// Signs claims as a token of this `typ`.
    ///
    /// # Errors
    /// If the library does not sign.
    pub fn sign(&self, media_type: &str, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = json!({ "alg": self.record.algorithm.as_str(), "kid": self.record.id, "typ": media_type });
        let claims = serde_json::to_vec(claims).map_err(|_| KeyError::Sign)?;
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&claims, &mut token);
        self.sign_raw(&token)
    }

    /// Signs header and claims that are encoded already (RFC 7515 §5.1).
    ///
    /// # Errors
    /// If the library does not sign.
    pub fn sign_raw(&self, message: &str) -> Result<String, KeyError> {
        let algorithm = library(self.record.algorithm);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, algorithm);
        let signature = signature.map_err(|_| KeyError::Sign)?;
        Ok(format!("{message}.{signature}"))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({}, {})", self.record.algorithm.as_str(), self.record.id)
    }
}

/// The PKCS #1 key inside PKCS #8 (RFC 5208 §5), which is what the signing library reads for RSA. For a key of 2048 bits
/// the wrapping is always of this length and form.
fn unwrapped(pkcs8: &[u8]) -> Option<&[u8]> {
    /// `SEQUENCE { INTEGER 0, SEQUENCE { OID rsaEncryption, NULL }, OCTET STRING …`, without the outer header.
    const INNER: [u8; 18] = [
        0x02, 0x01, 0x00, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let rest = pkcs8.strip_prefix(&[0x30, 0x82])?.get(2..)?.strip_prefix(&INNER)?;
    let key = rest.strip_prefix(&[0x04, 0x82])?.get(2..)?;
    key.starts_with(&[0x30, 0x82]).then_some(key)
}

/// The private half as the library wants it, and the public one.
fn halves(record: &KeyRecord) -> Result<(EncodingKey, Jwk), KeyError> {
    let der = record.private.expose();
    let key = match record.algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 => EncodingKey::from_rsa_der(der),
        Algorithm::Es256 => EncodingKey::from_ec_der(der),
        Algorithm::EdDsa | Algorithm::Ed25519 => EncodingKey::from_ed_der(der),
    };
    let jwk = Jwk::from_encoding_key(&key, library(record.algorithm)).map_err(|_| KeyError::Read)?;
    Ok((key, jwk))
}
