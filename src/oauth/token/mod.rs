//! `/token`, RFC 6749 §3.2. Each grant is a file here and a line in [`GRANTS`], from which discovery and registration
//! take what they announce and accept.

mod authorization_code;
mod refresh_token;

use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use serde::Serialize;

use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, client_auth};
use crate::config::Config;
use crate::domain::client::{Client, GrantType};
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AccessToken, Grant as Family, GrantId, RefreshToken};
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretHash};
use crate::domain::uri::Resource;
use crate::domain::user::User;
use crate::store::Issued;

/// Every grant that is honoured here.
pub static GRANTS: &[&dyn Grant] = &[
    &authorization_code::AuthorizationCodeGrant,
    &refresh_token::RefreshTokenGrant,
];

/// Something that an authenticated client can turn into tokens.
#[async_trait]
pub trait Grant: Sync {
    /// What `grant_type` calls it.
    fn grant_type(&self) -> GrantType;
    /// Checks what was presented and puts the tokens on record.
    async fn exchange(&self, at: &Endpoints, client: &Client, form: &Parameters) -> Result<Tokens, OAuthError>;
}

/// The tokens of one answer, in clear for this once. No `Debug`.
pub struct Tokens {
    access: Secret,
    access_expires_at: Timestamp,
    scope: Scope,
    refresh: Option<Secret>,
}

/// What the tokens of one answer have in common.
struct Issue<'a> {
    grant_id: GrantId,
    grant: &'a Family,
    /// For the access token.
    scope: &'a Scope,
    /// For the access tokens that the refresh token will yield: narrowing one of them does not narrow the next
    /// (RFC 6749 §6).
    refresh_scope: &'a Scope,
    now: Timestamp,
}

/// RFC 6749 §5.1.
#[derive(Serialize)]
struct TokenResponse<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Scope::is_empty")]
    scope: &'a Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
}

/// Turns a grant into tokens. The client comes first: one that is unknown hears `invalid_client` whatever it presents,
/// because only that makes SDKs register again.
pub async fn token(at: &Endpoints, call: &Call<'_>) -> Answer {
    match exchange(at, call).await {
        Ok(tokens) => tokens.answer(at.now()),
        Err(error) => client_auth::refuse(call, &error),
    }
}

async fn exchange(at: &Endpoints, call: &Call<'_>) -> Result<Tokens, OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    let name = form.require("grant_type")?;
    let grant = GRANTS.iter().find(|grant| grant.grant_type().as_str() == name);
    let grant = grant.ok_or_else(|| {
        OAuthError::new(ErrorCode::UnsupportedGrantType, "this grant_type is not supported here")
            .because(format!("client {} presented an unsupported grant", client.id))
    })?;
    grant.exchange(at, &client, &form).await
}

/// `invalid_grant`, with the reason for the log alone.
fn refused(client: &Client, why: impl std::fmt::Display) -> OAuthError {
    OAuthError::invalid_grant().because(format!("client {}: {why}", client.id))
}

/// `invalid_target` (RFC 8707 §2).
fn wrong_target(client: &Client, description: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidTarget, description).because(format!("client {}: wrong resource", client.id))
}

/// The `resource` of a token request, if there is one. A token is for one resource, so several must be the same; the bare
/// origin stands for the default upstream, as it does at `/authorize`.
fn requested_resource(config: &Config, client: &Client, form: &Parameters) -> Result<Option<Resource>, OAuthError> {
    let mut requested: Option<Resource> = None;
    for text in form.all("resource") {
        let resource = Resource::parse(text)
            .map_err(|_| wrong_target(client, "resource is not an absolute URI without a fragment"))?;
        if requested.as_ref().is_some_and(|first| *first != resource) {
            return Err(wrong_target(client, "a token can be for one resource only"));
        }
        requested = Some(resource);
    }
    let default = config.root_upstream().filter(|_| {
        requested
            .as_ref()
            .is_some_and(|one| one.as_str() == config.public_url.origin && config.upstream_for(one).is_none())
    });
    Ok(default.map(|upstream| upstream.resource.clone()).or(requested))
}

/// The person behind a grant, who must still be there, as must the upstream that it is for.
fn person<'a>(
    at: &'a Endpoints,
    client: &Client,
    subject: &crate::domain::user::Subject,
    resource: &Resource,
) -> Result<&'a User, OAuthError> {
    if at.config.upstream_for(resource).is_none() {
        return Err(refused(client, "the upstream is gone"));
    }
    at.identity
        .user(subject)
        .ok_or_else(|| refused(client, "the user is gone"))
}

/// A lifetime in seconds, to the nearest: the few milliseconds since the token was made do not make an hour 3,599 s.
const fn whole_seconds(left: Duration) -> u64 {
    left.as_secs() + (left.subsec_millis() >= 500) as u64
}

// === impl Issue ===

impl Issue<'_> {
    /// The records of these tokens. Nothing outlives its grant.
    fn records(&self, config: &Config, access: SecretHash, refresh: Option<SecretHash>) -> Issued {
        let until = |lifetime| self.now.plus(lifetime).min(self.grant.expires_at);
        let access_token = AccessToken {
            grant: self.grant_id,
            scope: self.scope.clone(),
            key: None,
            issued_at: self.now,
            expires_at: until(config.oauth.access_token_expires_in),
        };
        let refresh = refresh.map(|hash| {
            let token = RefreshToken {
                grant: self.grant_id,
                scope: self.refresh_scope.clone(),
                expires_at: until(config.oauth.refresh_token_expires_in),
                rotated: None,
            };
            (hash, token)
        });
        Issued {
            grant_id: self.grant_id,
            access: (access, access_token),
            refresh,
        }
    }
}

// === impl Tokens ===

impl Tokens {
    fn answer(&self, now: Timestamp) -> Answer {
        web::json_no_store(
            StatusCode::OK,
            &TokenResponse {
                access_token: self.access.expose(),
                token_type: "Bearer",
                expires_in: whole_seconds(self.access_expires_at.since(now)),
                scope: &self.scope,
                refresh_token: self.refresh.as_ref().map(Secret::expose),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_rounded_to_the_nearest_second() {
        for (millis, seconds) in [
            (3_600_000, 3600),
            (3_599_990, 3600),
            (3_599_400, 3599),
            (499, 0),
            (0, 0),
        ] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
    }
}
