//! Opaque secrets: access tokens, refresh tokens, codes, client secrets, browser sessions.
//!
//! A secret is 256 bits from the operating system's generator behind a prefix that makes a leak easy to find
//! (`mgat_…`). The store sees nothing but its SHA-256. A value from outside becomes a [`Secret`] through
//! [`Secret::parse`] alone, and no `Debug` or error ever prints more than the prefix.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What a secret is for; decides its prefix, so that one kind can never be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// RFC 6749 §1.4.
    AccessToken,
    /// An access token that a person made for a program of theirs.
    PersonalToken,
    /// RFC 6749 §1.5.
    RefreshToken,
    /// RFC 6749 §1.3.1.
    AuthorizationCode,
    /// RFC 6749 §2.3.1, of a dynamically registered client.
    ClientSecret,
    /// A signed-in browser.
    Session,
    /// An unfinished authorization, as the sign-in and consent pages name it.
    Authorization,
    /// The browser that began an authorization, before anybody signed in.
    Browser,
    /// RFC 8628 §3.2.
    DeviceCode,
    /// The secret part of a `request_uri` (RFC 9126 §2.2).
    PushedRequest,
    /// RFC 7592 §3.
    RegistrationToken,
    /// What a browser brings back from the operator's own sign-in page.
    LoginVerifier,
}

/// A secret in clear; wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

/// SHA-256 of a secret: what is stored, looked up and compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretHash([u8; 32]);

/// Random bytes kept with a rotated refresh token, from which (together with that token, which only its holder has) the
/// successor is computed again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 32]);

/// Bytes of randomness in every secret.
const SECRET_BYTES: usize = 32;
/// Length of those bytes in unpadded base64url.
const ENCODED_LENGTH: usize = 43;

/// Fills a buffer from the operating system's generator.
///
/// # Panics
/// If the operating system has no randomness to give: nothing that we could answer then would be safe.
#[must_use]
#[expect(clippy::expect_used, reason = "without randomness nothing may be issued")]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system's random generator works");
    bytes
}

// === impl SecretKind ===

impl SecretKind {
    /// The text that every secret of this kind begins with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::AccessToken => "mgat_",
            Self::PersonalToken => "mgpt_",
            Self::RefreshToken => "mgrt_",
            Self::AuthorizationCode => "mgac_",
            Self::ClientSecret => "mgcs_",
            Self::Session => "mgss_",
            Self::Authorization => "mgar_",
            Self::Browser => "mgbr_",
            Self::DeviceCode => "mgdc_",
            Self::PushedRequest => "mgpr_",
            Self::RegistrationToken => "mgrg_",
            Self::LoginVerifier => "mglv_",
        }
    }
}

// === impl Secret ===

impl Secret {
    /// A fresh secret.
    #[must_use]
    pub fn generate(kind: SecretKind) -> Self {
        let bytes = Zeroizing::new(random_bytes::<SECRET_BYTES>());
        Self::encode(kind, &bytes)
    }

    /// Takes text from outside for a secret of this kind if it has the shape of one: anything else cannot have been
    /// issued here and need not be looked up.
    #[must_use]
    pub fn parse(kind: SecretKind, text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(kind.prefix())?;
        let shape = encoded.len() == ENCODED_LENGTH
            && encoded
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        shape.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The secret that follows from this one and a nonce: the same every time, and out of reach for whoever lacks either.
    #[must_use]
    pub fn derive(&self, kind: SecretKind, nonce: &Nonce) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"mcpgate successor v1\0");
        digest.update(kind.prefix().as_bytes());
        digest.update(nonce.0);
        digest.update(self.0.as_bytes());
        let bytes: Zeroizing<[u8; SECRET_BYTES]> = Zeroizing::new(digest.finalize().into());
        Self::encode(kind, &bytes)
    }

    /// What the store keeps of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }

    /// The secret itself, for the one response that hands it out.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn encode(kind: SecretKind, bytes: &[u8; SECRET_BYTES]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(kind.prefix().len() + ENCODED_LENGTH));
        text.push_str(kind.prefix());
        URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.0.get(..5).unwrap_or_default())
    }
}

// === impl SecretHash ===

impl SecretHash {
    /// The hash of any secret text, such as a client secret from the configuration.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// A hash as it was stored.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to use as a key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `presented` is the secret behind this hash; takes the same time for every wrong one.
    #[must_use]
    pub fn matches(&self, presented: &str) -> bool {
        self.0.ct_eq(&Self::of(presented).0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode32(deserializer).map(Self)
    }
}

// === impl Nonce ===

impl Nonce {
    /// A fresh nonce.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_bytes())
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        decode32(deserializer).map(Self)
    }
}

fn decode32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    use serde::de::Error as _;
    let text = String::deserialize(deserializer)?;
    let bytes = URL_SAFE_NO_PAD.decode(&text).map_err(D::Error::custom)?;
    bytes.try_into().map_err(|_| D::Error::custom("expected 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_parses_only_as_its_own_kind() {
        let token = Secret::generate(SecretKind::AccessToken);
        assert_eq!(token.expose().len(), 48);
        assert!(Secret::parse(SecretKind::AccessToken, token.expose()).is_some());
        assert!(Secret::parse(SecretKind::RefreshToken, token.expose()).is_none());
    }

    #[test]
    fn text_of_another_shape_is_no_secret() {
        let good = Secret::generate(SecretKind::AccessToken).expose().to_owned();
        for bad in [
            "",
            "mgat_",
            &good[..47],
            &format!("{good}x"),
            &good.replace("mgat_", "MGAT_"),
            &format!("{} ", &good[..47]),
        ] {
            assert!(Secret::parse(SecretKind::AccessToken, bad).is_none(), "{bad:?}");
        }
    }

    /// Spec: F22
    #[test]
    fn debug_never_shows_the_secret() {
        let secret = Secret::generate(SecretKind::ClientSecret);
        assert_eq!(format!("{secret:?}"), "mgcs_…");
        assert_eq!(format!("{:?}", secret.hash()), "SecretHash(…)");
    }

    #[test]
    fn a_successor_needs_both_the_token_and_the_nonce() {
        let (token, nonce) = (Secret::generate(SecretKind::RefreshToken), Nonce::generate());
        let next = token.derive(SecretKind::RefreshToken, &nonce);
        assert_eq!(next.expose(), token.derive(SecretKind::RefreshToken, &nonce).expose());
        assert_ne!(
            next.expose(),
            token.derive(SecretKind::RefreshToken, &Nonce::generate()).expose()
        );
        let other = Secret::generate(SecretKind::RefreshToken);
        assert_ne!(next.expose(), other.derive(SecretKind::RefreshToken, &nonce).expose());
        let access = token.derive(SecretKind::AccessToken, &nonce);
        assert_ne!(access.expose()[5..], next.expose()[5..]);
    }

    /// Spec: F6, L21
    #[test]
    fn a_hash_survives_serialisation_and_recognises_its_secret() {
        let secret = Secret::generate(SecretKind::Session);
        let json = serde_json::to_string(&secret.hash()).unwrap();
        let back: SecretHash = serde_json::from_str(&json).unwrap();
        assert!(back.matches(secret.expose()));
        assert!(!back.matches("mgss_something else"));
    }
}
