//! What has to be kept and read again, but by nobody else: sealed with AES-256-GCM under a key made from a secret.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::domain::secret::random_bytes;

/// Most bytes that are sealed.
const MAX_PLAIN: usize = 64 << 10;

/// Why something was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it could not be sealed")]
pub struct NotSealed;

/// Seals and opens for one purpose.
pub struct Sealer(LessSafeKey);

// === impl Sealer ===

impl Sealer {
    /// One that a secret and a purpose make: what was sealed for one purpose does not open for another.
    ///
    /// # Errors
    /// If the key cannot be derived.
    pub fn new(secret: &[u8], purpose: &str) -> Result<Self, NotSealed> {
        let extracted = Salt::new(HKDF_SHA256, b"mcpgate seal").extract(secret);
        let info = [purpose.as_bytes()];
        let derived = extracted.expand(&info, &AES_256_GCM).map_err(|_| NotSealed)?;
        Ok(Self(LessSafeKey::new(UnboundKey::from(derived))))
    }

    /// Text that only this opens, and only together with the same `owner`: records cannot be swapped.
    ///
    /// # Errors
    /// If it is longer than anything that we seal.
    pub fn seal(&self, plain: &[u8], owner: &str) -> Result<String, NotSealed> {
        if plain.len() > MAX_PLAIN {
            return Err(NotSealed);
        }
        let nonce = random_bytes::<NONCE_LEN>();
        let mut sealed = plain.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| NotSealed)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// What was sealed; `None` if it was sealed by another, for another, or changed since.
    #[must_use]
    pub fn open(&self, sealed: &str, owner: &str) -> Option<Zeroizing<Vec<u8>>> {
        if sealed.len() > 2 * MAX_PLAIN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut rest = Zeroizing::new(rest.to_vec());
        let opened = self.0.open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(owner.as_bytes()),
            &mut rest,
        );
        let length = opened.ok()?.len();
        rest.truncate(length);
        Some(rest)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_purpose_and_owner_open_it() {
        let sealer = Sealer::new(b"a secret", "tokens").unwrap();
        let (one, two) = (
            sealer.seal(b"plain", "ada").unwrap(),
            sealer.seal(b"plain", "ada").unwrap(),
        );
        assert_ne!(one, two);
        assert_eq!(sealer.open(&one, "ada").unwrap().as_slice(), b"plain");
        assert_eq!(sealer.open(&one, "bob"), None);
        assert_eq!(Sealer::new(b"another", "tokens").unwrap().open(&one, "ada"), None);
        assert_eq!(Sealer::new(b"a secret", "other").unwrap().open(&one, "ada"), None);
        for place in 0..one.len() {
            let mut changed = one.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last letter has bits that say nothing; a decoder that minds them says no as well.
            assert_eq!(sealer.open(&changed, "ada"), None, "{place}");
        }
        for nonsense in ["", "A", "!!!!", &"A".repeat(15)] {
            assert_eq!(sealer.open(nonsense, "ada"), None);
        }
        assert!(sealer.seal(&vec![0; MAX_PLAIN + 1], "ada").is_err());
    }
}
