//! Floor 1: JSON Web Tokens (RFC 7519), those of others and our own.
//!
//! ```text
//! text ──Token::parse──▶ Token (nothing believed yet) ──verify(keys, algorithms)──▶ Claims ──check_life──▶ usable
//!        size, form, no crit        the key set decides which algorithms a key may serve
//! ```
//! The cryptography is jsonwebtoken's; what is written here is the strictness around it. A key never serves an algorithm
//! of another family, so that a public key cannot be taken for an HMAC secret (RFC 8725 §3.1), and `none` has no name here.

mod claims;
mod keys;
pub mod otp;
pub mod seal;
mod signing;
mod token;

pub use claims::{Claims, InvalidClaims};
pub use keys::{InvalidKeys, KeySet, PublicKey};
pub use signing::{KeyError, SigningKey};
pub use token::{InvalidToken, Token};

use jsonwebtoken::Algorithm as Library;

pub use crate::domain::key::Algorithm;

/// Longest token that is read.
pub const MAX_TOKEN: usize = 16 << 10;

/// What the library calls an algorithm.
const fn library(algorithm: Algorithm) -> Library {
    match algorithm {
        Algorithm::Rs256 => Library::RS256,
        Algorithm::Ps256 => Library::PS256,
        Algorithm::Es256 => Library::ES256,
        Algorithm::EdDsa | Algorithm::Ed25519 => Library::EdDSA,
    }
}
