//! Keys that sign, as they are kept, and the algorithms that have a name here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::clock::Timestamp;

/// The signature algorithms of RFC 7518 §3.1 and RFC 8037 that are honoured: asymmetric ones alone. What is not listed
/// cannot be named, `none` and HMAC above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSA with PKCS #1 padding and SHA-256, which OpenID Connect wants everybody to know.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSA with PSS padding and SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519, by the name of RFC 8037.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// Ed25519, by the name of RFC 9864, which newer clients use.
    #[serde(rename = "Ed25519")]
    Ed25519,
}

/// A private key of ours on record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its name in `kid`: the thumbprint of the public half (RFC 7638).
    pub id: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// The private half.
    pub private: PrivateKey,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A private key in DER, PKCS #1 for RSA and PKCS #8 for the others; wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

// === impl Algorithm ===

impl Algorithm {
    /// Every algorithm, in the order in which discovery names them.
    pub const ALL: [Self; 5] = [Self::Rs256, Self::Es256, Self::Ps256, Self::EdDsa, Self::Ed25519];
    /// Those that we sign with.
    pub const OURS: [Self; 2] = [Self::Rs256, Self::Es256];

    /// The registered name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// Reads the registered name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

// === impl PrivateKey ===

impl PrivateKey {
    /// A key in DER.
    #[must_use]
    pub fn new(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The bytes, for the one who signs.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(URL_SAFE_NO_PAD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        URL_SAFE_NO_PAD
            .decode(text.as_bytes())
            .map(Self::new)
            .map_err(|_| serde::de::Error::custom("not base64url"))
    }
}
