//! `/token`, RFC 6749 §3.2. Each grant is a file here and a line in [`GRANTS`], from which discovery and registration
//! take what they announce and accept.

mod authorization_code;
mod client_credentials;
mod device_code;
mod jwt_bearer;
mod refresh_token;
mod token_exchange;

use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use serde::Serialize;

use super::openid::{self, Authentication};
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, client_auth, dpop, standing, unavailable};
use crate::config::{Config, Upstream};
use crate::domain::client::{Client, GrantType};
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AccessToken, Grant as Family, GrantId, RefreshToken};
use crate::domain::scope::{OFFLINE_ACCESS, Scope};
use crate::domain::secret::{Secret, SecretHash};
use crate::domain::uri::Resource;
use crate::domain::user::User;
use crate::store::Issued;
use crate::telemetry::audit::{Act, Event};

/// Every grant that is honoured here.
pub static GRANTS: &[&dyn Grant] = &[
    &authorization_code::AuthorizationCodeGrant,
    &refresh_token::RefreshTokenGrant,
    &client_credentials::ClientCredentialsGrant,
    &device_code::DeviceCodeGrant,
    &jwt_bearer::JwtBearerGrant,
    &token_exchange::TokenExchangeGrant,
];

/// Something that an authenticated client can turn into tokens.
#[async_trait]
pub trait Grant: Sync {
    /// What `grant_type` calls it.
    fn grant_type(&self) -> GrantType;
    /// Whether it is honoured in this configuration.
    fn is_on(&self, config: &Config) -> bool;
    /// Whether clients that nobody here knows may register for it.
    fn is_for_strangers(&self) -> bool {
        false
    }
    /// Checks what was presented and puts the tokens on record.
    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError>;
}

/// A token request of an authenticated client.
pub struct TokenRequest<'a> {
    /// Who asks.
    client: &'a Client,
    /// What it presents.
    form: &'a Parameters,
    /// The resource that it names, if it names one.
    resource: Option<Resource>,
    /// The thumbprint of the key that it proved to have (RFC 9449 §5).
    key: Option<String>,
}

/// The tokens of one answer, in clear for this once. No `Debug`.
pub struct Tokens {
    access: Secret,
    access_expires_at: Timestamp,
    scope: Scope,
    refresh: Option<Secret>,
    /// Whether the access token is bound to a key.
    key_bound: bool,
    /// For an ID token.
    authentication: Option<Authentication>,
    /// RFC 8693 §2.2.1.
    issued_token_type: Option<&'static str>,
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
    /// What the access token is bound to.
    key: Option<String>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
}

/// Turns a grant into tokens. The client comes first: one that is unknown hears `invalid_client` whatever it presents,
/// because only that makes SDKs register again.
pub async fn token(at: &Endpoints, call: &Call<'_>) -> Answer {
    match exchange(at, call).await {
        Ok(answer) => answer,
        Err(error) => dpop::with_nonce(at, &error, client_auth::refuse(call, &error)),
    }
}

async fn exchange(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    let name = form.require("grant_type")?;
    let grant = GRANTS
        .iter()
        .find(|grant| grant.grant_type().as_str() == name && grant.is_on(&at.config));
    let grant = grant.ok_or_else(|| {
        OAuthError::new(ErrorCode::UnsupportedGrantType, "this grant_type is not supported here")
            .because(format!("client {} presented an unsupported grant", client.id))
    })?;
    let request = TokenRequest {
        resource: requested_resource(&at.config, &client, &form)?,
        key: dpop::at_endpoint(at, call, &client)?,
        client: &client,
        form: &form,
    };
    let tokens = grant.exchange(at, &request).await?;
    at.metrics.audit().note(|| Act {
        subject: tokens.authentication.as_ref().map(|person| person.subject.as_str()),
        client_id: Some(client.id.as_str()),
        scope: Some(&tokens.scope),
        by: Some(grant.grant_type().as_str()),
        ..Act::new(
            match grant.grant_type() {
                GrantType::RefreshToken => Event::TokenRefreshed,
                _ => Event::TokenIssued,
            },
            "done",
        )
    });
    tokens.answer(at, &client).await
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

/// The key that a grant's refresh tokens are bound to: a public client's. A confidential one authenticates each time, and
/// may change its key (RFC 9449 §5).
fn bound_key(request: &TokenRequest<'_>) -> Option<String> {
    request.key.clone().filter(|_| !request.client.is_confidential())
}

/// The person behind a grant, who must still be there, as must the upstream that it is for. The grant is ended if their
/// identity provider says that they are not.
async fn person(
    at: &Endpoints,
    client: &Client,
    subject: &crate::domain::user::Subject,
    resource: &Resource,
    grant: Option<&GrantId>,
) -> Result<User, OAuthError> {
    if at.config.upstream_for(resource).is_none() {
        return Err(refused(client, "the upstream is gone"));
    }
    let user = at.identity.user(subject).await.map_err(unavailable)?;
    let user = user.ok_or_else(|| refused(client, "the user is gone"))?;
    standing::confirm(at, client, user, grant).await
}

/// A grant that a client may use only if it is registered for it.
fn must_be_named(client: &Client, grant: GrantType) -> Result<(), OAuthError> {
    if client.may_use(grant) {
        return Ok(());
    }
    let description = format!("the client is not registered for {}", grant.as_str());
    Err(
        OAuthError::new(ErrorCode::UnauthorizedClient, description).because(format!(
            "client {} may not use {}",
            client.id,
            grant.as_str()
        )),
    )
}

/// The upstream that a token request is for, where nothing but the request says so: the one that it names, else the
/// default one.
fn target<'a>(at: &'a Endpoints, request: &TokenRequest<'_>) -> Result<&'a Upstream, OAuthError> {
    let client = request.client;
    let upstream = match &request.resource {
        Some(resource) => at.config.upstream_for(resource),
        None => at.config.root_upstream(),
    };
    let upstream =
        upstream.ok_or_else(|| wrong_target(client, "resource is missing or no server behind this gateway"))?;
    may_reach(client, upstream)?;
    Ok(upstream)
}

/// Whether the configuration lets a client have tokens for an upstream.
pub(in crate::oauth) fn may_reach(client: &Client, upstream: &Upstream) -> Result<(), OAuthError> {
    let allowed = client.permissions.upstreams.as_ref();
    if allowed.is_none_or(|names| names.contains(&upstream.name)) {
        Ok(())
    } else {
        Err(wrong_target(
            client,
            "this client may not have tokens for this resource",
        ))
    }
}

/// What a token may do at most, narrowed to what the request asks for (RFC 6749 §3.3). Never widened.
fn narrowed(config: &Config, request: &TokenRequest<'_>, most: &Scope) -> Result<Scope, OAuthError> {
    let invalid = |description: &'static str| {
        let cause = format!("client {}: {description}", request.client.id);
        OAuthError::new(ErrorCode::InvalidScope, description).because(cause)
    };
    let Some(asked) = request.form.get("scope") else {
        return Ok(most.clone());
    };
    let asked: Scope = asked.parse().map_err(|_| invalid("scope is malformed"))?;
    if config.covers(most, &asked) {
        Ok(asked)
    } else {
        Err(invalid("more scope was asked for than can be granted"))
    }
}

/// The scope of a client that acts for itself: what it asks for, as far as it exists and the configuration lets it have
/// it. A client is in no group, so a scope that is for groups has to be named in its entry; and what is about people is
/// not for it.
fn own_scope(at: &Endpoints, request: &TokenRequest<'_>, upstream: &Upstream) -> Result<Scope, OAuthError> {
    let client = request.client;
    let known = at.config.scopes_of(upstream);
    let most = known.filtered(|token| {
        let personal = matches!(token.as_str(), "openid" | "profile" | "email" | OFFLINE_ACCESS);
        let named = client.scope.as_ref().map(|scope| scope.contains(token.as_str()));
        let for_groups = at
            .config
            .scopes
            .iter()
            .any(|info| info.name == *token && info.groups.is_some());
        !personal && named.unwrap_or(!for_groups)
    });
    match request.form.get("scope") {
        Some(_) => narrowed(&at.config, request, &most),
        None => Ok(upstream.scopes.filtered(|token| most.contains(token.as_str()))),
    }
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
            key: self.key.clone(),
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
    /// An access token alone, as it was put on record.
    fn new(access: Secret, issued: &Issued, scope: Scope) -> Self {
        let (_, record) = &issued.access;
        Self {
            access,
            access_expires_at: record.expires_at,
            scope,
            refresh: None,
            key_bound: record.key.is_some(),
            authentication: None,
            issued_token_type: None,
        }
    }

    async fn answer(&self, at: &Endpoints, client: &Client) -> Result<Answer, OAuthError> {
        let id_token = match &self.authentication {
            Some(authentication) => {
                openid::id_token(at, client, &self.scope, authentication, self.access.expose()).await?
            }
            None => None,
        };
        Ok(web::json_no_store(
            StatusCode::OK,
            &TokenResponse {
                access_token: self.access.expose(),
                token_type: if self.key_bound { "DPoP" } else { "Bearer" },
                expires_in: whole_seconds(self.access_expires_at.since(at.now())),
                scope: &self.scope,
                refresh_token: self.refresh.as_ref().map(Secret::expose),
                id_token,
                issued_token_type: self.issued_token_type,
            },
        ))
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
