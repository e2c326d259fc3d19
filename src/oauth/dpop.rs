//! Demonstrating Proof of Possession, RFC 9449: tokens that are worth nothing without a key.
//!
//! ```text
//! DPoP: <JWT, its own public key in the header> ──▶ form? type? signature? method and URL? time or nonce? token? first use?
//!                                                   └──▶ thumbprint of the key, which the token was issued to
//! ```
//! Proofs are made by whoever holds a key, so what is remembered of them is kept in memory and bounded. A proof from before
//! the gateway started could have been used before, and nobody would know: it has to carry a nonce of ours (§8).

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;

use super::protected::Scheme;
use super::{Answer, Call, Endpoints};
use crate::domain::client::Client;
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::jose::{Claims, KeySet, Token};

/// How far the time in a proof may be from ours.
const WINDOW: Duration = Duration::from_secs(300);
/// How long a nonce of ours is the newest; it is good for twice that.
const NONCE_PERIOD: Duration = Duration::from_secs(300);
/// What is remembered of proofs is forgotten after at least this, which is longer than any proof is good.
const MEMORY: Duration = Duration::from_secs(660);
/// Most proofs remembered in that time.
const MAX_PROOFS: usize = 500_000;
/// Carries a nonce to the client.
pub const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// Longest `jti`.
const MAX_ID: usize = 256;
/// The algorithms that a proof may use.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::Es256,
    Algorithm::Rs256,
    Algorithm::Ps256,
    Algorithm::EdDsa,
    Algorithm::Ed25519,
];

/// What is remembered of proofs.
pub struct Proofs {
    nonce_key: [u8; 32],
    started: Timestamp,
    seen: Mutex<Seen>,
}

/// Proofs in two generations: the younger is filled, both are looked into, and the older is dropped as a whole.
#[derive(Default)]
struct Seen {
    younger: HashSet<[u8; 16]>,
    older: HashSet<[u8; 16]>,
    since: Option<Timestamp>,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The proof itself.
    #[error("{0}")]
    Proof(&'static str),
    /// It needs a nonce of ours, or a newer one.
    #[error("the proof needs a nonce of this server")]
    Nonce,
    /// The token is not the key's, or comes without the proof that it needs.
    #[error("{0}")]
    Token(&'static str),
}

/// How a token is used.
#[derive(Clone, Copy)]
pub struct Use<'a> {
    /// The scheme of the `Authorization` header.
    pub scheme: Scheme,
    /// The key that the token is bound to, if it is.
    pub key: Option<&'a str>,
    /// The method of the request.
    pub method: &'a Method,
    /// Its public URL.
    pub target: &'a str,
    /// The token.
    pub token: &'a str,
}

/// The names of the algorithms that a proof may use.
#[must_use]
pub fn algorithms() -> [&'static str; 5] {
    ALGORITHMS.map(Algorithm::as_str)
}

/// Whether a token is used as it must be: one that is bound to a key with a proof, any other as a bearer token (§7.1).
///
/// # Errors
/// See [`ProofError`].
pub fn check_bound(at: &Endpoints, headers: &HeaderMap, used: &Use<'_>) -> Result<(), ProofError> {
    match (used.key, used.scheme) {
        (None, Scheme::Bearer) => Ok(()),
        (None, Scheme::Dpop) => Err(ProofError::Token("the token is not bound to a key")),
        (Some(_), Scheme::Bearer) => Err(ProofError::Token("the token is bound to a key and needs a proof")),
        (Some(key), Scheme::Dpop) => {
            let proved = at
                .proofs
                .check(headers, used.method, used.target, Some(used.token), at.now())?;
            let proved = proved.ok_or(ProofError::Proof("there is no proof"))?;
            if proved.as_bytes().ct_eq(key.as_bytes()).into() {
                Ok(())
            } else {
                Err(ProofError::Token("the token is bound to another key"))
            }
        }
    }
}

/// The key whose possession a request to an endpoint of ours proves, if it proves one. A client all of whose tokens have
/// to be bound has to.
///
/// # Errors
/// See [`ProofError`].
pub(super) fn at_endpoint(at: &Endpoints, call: &Call<'_>, client: &Client) -> Result<Option<String>, OAuthError> {
    if !at.config.oauth.dpop {
        return Ok(None);
    }
    let target = at.config.public_url.join(call.request.uri().path());
    let key = at
        .proofs
        .check(call.request.headers(), call.request.method(), &target, None, at.now())?;
    if key.is_none() && client.key_bound {
        return Err(ProofError::Proof("this client has to send a proof").into());
    }
    Ok(key)
}

/// Adds the nonce to an answer that asks for one (§8).
pub(super) fn with_nonce(at: &Endpoints, error: &OAuthError, mut answer: Answer) -> Answer {
    if error.code == ErrorCode::UseDpopNonce
        && let Ok(nonce) = HeaderValue::try_from(at.proofs.nonce(at.now()))
    {
        answer.headers_mut().insert(NONCE, nonce);
    }
    answer
}

// === impl Proofs ===

impl Proofs {
    /// Nothing remembered yet.
    #[must_use]
    pub fn new(nonce_key: [u8; 32], started: Timestamp) -> Self {
        Self {
            nonce_key,
            started,
            seen: Mutex::default(),
        }
    }

    /// The thumbprint of the key whose possession a request proves; `None` if it has no proof.
    ///
    /// # Errors
    /// See [`ProofError`].
    pub fn check(
        &self,
        headers: &HeaderMap,
        method: &Method,
        target: &str,
        token: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<String>, ProofError> {
        let mut values = headers.get_all("dpop").iter();
        let (Some(proof), second) = (values.next(), values.next()) else {
            return Ok(None);
        };
        if second.is_some() {
            return Err(ProofError::Proof("there is more than one proof"));
        }
        let proof = proof
            .to_str()
            .map_err(|_| ProofError::Proof("the proof is malformed"))?;
        let (claims, key) = opened(proof)?;
        let text = |name| {
            claims
                .require(name)
                .map_err(|_| ProofError::Proof("a claim is missing"))
        };
        if text("htm")? != method.as_str() {
            return Err(ProofError::Proof("htm is not the method of this request"));
        }
        if !is_same_target(text("htu")?, target) {
            return Err(ProofError::Proof("htu is not the URL of this request"));
        }
        if let Some(token) = token {
            let wanted = URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes()));
            if text("ath")? != wanted {
                return Err(ProofError::Proof("ath is not the hash of the token"));
            }
        }
        self.check_time(&claims, now)?;
        let id = text("jti")?;
        if id.len() > MAX_ID {
            return Err(ProofError::Proof("jti is too long"));
        }
        self.remember(&key, id, now)?;
        Ok(Some(key))
    }

    /// The nonce that clients are given now (§8).
    #[must_use]
    pub fn nonce(&self, now: Timestamp) -> String {
        self.nonce_of(period(now))
    }

    fn nonce_of(&self, period: u64) -> String {
        let mut nonce = period.to_be_bytes().to_vec();
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.nonce_key) {
            mac.update(b"mcpgate dpop nonce v1\0");
            mac.update(&nonce);
            nonce.extend(mac.finalize().into_bytes().iter().copied().take(16));
        }
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// §11.1: the time in it is near ours, or a nonce of ours says when it was made.
    fn check_time(&self, claims: &Claims, now: Timestamp) -> Result<(), ProofError> {
        let made = claims
            .issued_at()
            .ok()
            .flatten()
            .ok_or(ProofError::Proof("iat is missing"))?;
        if let Some(nonce) = claims.text("nonce") {
            let current = period(now);
            let ours = [current, current.saturating_sub(1)]
                .into_iter()
                .any(|period| self.nonce_of(period).as_bytes().ct_eq(nonce.as_bytes()).into());
            return if ours { Ok(()) } else { Err(ProofError::Nonce) };
        }
        let near = now.since(made) <= WINDOW && made.since(now) <= WINDOW;
        // Seconds are compared with seconds: a proof of the second in which we started may be from before.
        if near && made.as_seconds() > self.started.as_seconds() {
            Ok(())
        } else {
            Err(ProofError::Nonce)
        }
    }

    fn remember(&self, key: &str, id: &str, now: Timestamp) -> Result<(), ProofError> {
        let mut digest = Sha256::new();
        digest.update(key.as_bytes());
        digest.update([0]);
        digest.update(id.as_bytes());
        let mut mark = [0; 16];
        mark.copy_from_slice(&digest.finalize()[..16]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *seen.since.get_or_insert(now);
        if now.since(since) >= MEMORY {
            seen.older = std::mem::take(&mut seen.younger);
            seen.since = Some(now);
        }
        if seen.older.contains(&mark) || seen.younger.contains(&mark) {
            return Err(ProofError::Proof("the proof was used before"));
        }
        if seen.younger.len() >= MAX_PROOFS {
            return Err(ProofError::Proof("too many proofs at present"));
        }
        seen.younger.insert(mark);
        Ok(())
    }
}

/// The claims of a proof whose own key signed it, and that key's thumbprint (§4.3).
fn opened(proof: &str) -> Result<(Claims, String), ProofError> {
    let malformed = ProofError::Proof("the proof is malformed");
    let token = Token::parse(proof).map_err(|_| malformed)?;
    if !token.is_of_type("dpop+jwt") {
        return Err(ProofError::Proof("typ is not dpop+jwt"));
    }
    let key = token
        .embedded_key()
        .map_err(|_| ProofError::Proof("jwk is not a public key that is accepted here"))?;
    let thumbprint = key.thumbprint().map_err(|_| malformed)?;
    let claims = token
        .verify(&KeySet::from(key), &ALGORITHMS)
        .map_err(|_| ProofError::Proof("the signature does not hold"))?;
    Ok((claims, thumbprint))
}

/// Whether a `htu` is this URL, without query and fragment (§4.3), compared as URLs and not as text.
fn is_same_target(presented: &str, target: &str) -> bool {
    let bare = |text: &str| {
        let mut url = Url::parse(text).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        Some(url)
    };
    presented.len() <= crate::domain::uri::MAX_URI_LENGTH
        && bare(presented).is_some_and(|presented| bare(target).is_some_and(|target| presented == target))
}

fn period(now: Timestamp) -> u64 {
    now.as_seconds() / NONCE_PERIOD.as_secs()
}

// === impl ProofError ===

impl ProofError {
    /// The code that a client decides by (§5, §7.1).
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Proof(_) => ErrorCode::InvalidDpopProof.as_str(),
            Self::Nonce => ErrorCode::UseDpopNonce.as_str(),
            Self::Token(_) => ErrorCode::InvalidToken.as_str(),
        }
    }

    /// What its developer reads.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Proof(text) | Self::Token(text) => text,
            Self::Nonce => "the proof needs a nonce of this server",
        }
    }
}

impl From<ProofError> for OAuthError {
    fn from(error: ProofError) -> Self {
        let code = match error {
            ProofError::Proof(_) => ErrorCode::InvalidDpopProof,
            ProofError::Nonce => ErrorCode::UseDpopNonce,
            ProofError::Token(_) => ErrorCode::InvalidToken,
        };
        Self::new(code, error.description())
    }
}
