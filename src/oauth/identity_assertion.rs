//! A signed statement for an upstream of who is calling: what the identity headers say, in a form that can be checked with
//! `/jwks.json` (I7).
//!
//! It is no token of anybody's. Its `typ` is its own (RFC 8725 §3.11), its audience is one upstream, and no endpoint and no
//! upstream of this gateway takes it for anything.

use serde::Serialize;

use super::{Endpoints, unavailable};
use crate::config::{IdentityJwt, Upstream};
use crate::domain::clock::Timestamp;
use crate::domain::error::OAuthError;
use crate::domain::grant::Grant;
use crate::domain::key::Algorithm;
use crate::domain::scope::Scope;
use crate::domain::secret::random_bytes;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What it is called in its header.
pub const MEDIA_TYPE: &str = "mcpgate-identity+jwt";

/// A statement, and when the next one is to be made.
#[derive(Debug)]
pub struct Assertion {
    /// The signed token in compact form.
    pub text: String,
    /// Made then.
    pub made_at: Timestamp,
    /// Good for longer than this; from then on another one is sent.
    pub fresh_until: Timestamp,
}

/// What it says. What is not known is not there.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    client_id: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
}

/// States for an upstream who is calling. It is good for no longer than the access token is.
///
/// # Errors
/// If the store fails, or a key cannot be made or used.
pub async fn state(
    at: &Endpoints,
    upstream: &Upstream,
    settings: &IdentityJwt,
    grant: &Grant,
    scope: &Scope,
    expires_at: Timestamp,
) -> Result<Assertion, OAuthError> {
    let now = at.now();
    let user = at.identity.user(&grant.subject).await.map_err(unavailable)?;
    let user = user.as_ref();
    let claims = Claims {
        iss: &at.config.public_url.origin,
        aud: settings
            .audience
            .as_deref()
            .unwrap_or_else(|| upstream.resource.as_str()),
        sub: grant.subject.as_str(),
        iat: now.as_seconds(),
        exp: now.plus(settings.lifetime).min(expires_at).as_seconds(),
        jti: URL_SAFE_NO_PAD.encode(random_bytes::<16>()),
        client_id: grant.client_id.as_str(),
        scope: scope.to_string(),
        preferred_username: user.map(|user| user.username.as_str()),
        name: user.and_then(|user| user.name.as_deref()),
        email: user.and_then(|user| user.email.as_deref()),
        groups: user.map(|user| user.groups.as_slice()).unwrap_or_default(),
    };
    let text = at
        .keyring
        .sign(&*at.store, now, Algorithm::Es256, MEDIA_TYPE, &claims)
        .await?;
    Ok(Assertion {
        text,
        made_at: now,
        fresh_until: now.plus(settings.lifetime / 2),
    })
}
