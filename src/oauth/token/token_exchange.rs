//! Token exchange, RFC 8693: a service of the operator's own turns a token that it was given into one with less scope or
//! for another upstream, in the same person's name.
//!
//! It is off unless switched on, and then for clients of the configuration that name the grant. What comes out is never
//! more than what went in: not more scope, not a longer life, and its own family only so that it can be revoked alone.

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, must_be_named, narrowed, refused, target};
use crate::config::Config;
use crate::domain::client::GrantType;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{Grant as Family, GrantId, LiveToken};
use crate::domain::secret::{Secret, SecretKind};
use crate::oauth::{Endpoints, unavailable};
use crate::telemetry::IssuedBy;

/// RFC 8693 §3.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Exchanges an access token.
pub(super) struct TokenExchangeGrant;

#[async_trait]
impl Grant for TokenExchangeGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::TokenExchange
    }

    fn is_on(&self, config: &Config) -> bool {
        config.oauth.grants.token_exchange
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let client = request.client;
        must_be_named(client, GrantType::TokenExchange)?;
        let live = subject_token(at, request).await?;
        let upstream = target(at, request)?;
        // A scope that both upstreams have may mean another thing at each (spec I4), so it goes along only where it is a
        // general one or the upstream stays the same.
        let same = upstream.resource == live.grant.resource;
        let carried = live
            .token
            .scope
            .filtered(|token| same || at.config.oauth.scopes.contains(token.as_str()));
        let scope = narrowed(&at.config, request, &carried)?;
        let now = at.now();
        let ends_at = live.token.expires_at.min(live.grant.expires_at);
        let grant = Family {
            subject: live.grant.subject.clone(),
            client_id: client.id.clone(),
            resource: upstream.resource.clone(),
            scope: scope.clone(),
            authenticated_at: live.grant.authenticated_at,
            key: None,
            name: None,
            used_at: None,
            more: Vec::new(),
            created_at: now,
            expires_at: ends_at,
        };
        let access = Secret::generate(SecretKind::AccessToken);
        let issue = Issue {
            grant_id: GrantId::generate(),
            grant: &grant,
            scope: &scope,
            refresh_scope: &scope,
            key: request.key.clone(),
            now,
        };
        let issued = issue.records(&at.config, access.hash(), None);
        at.store.issue(&grant, &issued).await.map_err(unavailable)?;
        at.metrics.token_issued(IssuedBy::TokenExchange);
        tracing::info!(
            client = %client.id, subject = %grant.subject, from = %live.grant.client_id, resource = %grant.resource,
            scope = %grant.scope, "a token was exchanged"
        );
        Ok(Tokens {
            issued_token_type: Some(ACCESS_TOKEN),
            ..Tokens::new(access, &issued, scope)
        })
    }
}

/// The token that is exchanged: alive, of this gateway, not bound to somebody's key, and one that this client may have.
async fn subject_token(at: &Endpoints, request: &TokenRequest<'_>) -> Result<LiveToken, OAuthError> {
    let (client, form) = (request.client, request.form);
    for (name, wanted) in [("subject_token_type", true), ("requested_token_type", false)] {
        match form.get(name) {
            Some(ACCESS_TOKEN) => {}
            None if !wanted => {}
            _ => return Err(OAuthError::invalid_request(format!("{name} must be {ACCESS_TOKEN}"))),
        }
    }
    if form.get("actor_token").is_some() {
        return Err(OAuthError::invalid_request("actor_token is not supported"));
    }
    let presented = form.require("subject_token")?;
    let token = Secret::parse(SecretKind::AccessToken, presented)
        .ok_or_else(|| invalid(request, "the subject token is not one of ours"))?;
    let live = at.store.access_token(&token.hash()).await.map_err(unavailable)?;
    let live = live
        .filter(|live| live.is_alive(at.now()))
        .ok_or_else(|| invalid(request, "the subject token is not alive"))?;
    if !at.has_principal(&live.grant).await.map_err(unavailable)? {
        return Err(invalid(request, "the subject token is not alive"));
    }
    // A bound token is of use to its key's holder alone; a service that was given one cannot take the binding off.
    if live.token.key.is_some() {
        return Err(invalid(request, "the subject token is bound to a key"));
    }
    let upstream = at
        .config
        .upstream_for(&live.grant.resource)
        .ok_or_else(|| refused(client, "the upstream is gone"))?;
    // Whoever was not given the token by its client or its upstream has stolen it.
    let may_have = live.grant.client_id == client.id || client.permissions.introspects.contains(&upstream.name);
    if !may_have {
        return Err(invalid(
            request,
            "the subject token is neither this client's nor for an upstream of its",
        ));
    }
    Ok(live)
}

/// RFC 8693 §2.2.2: a subject token that cannot be taken is `invalid_request`.
fn invalid(request: &TokenRequest<'_>, why: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidRequest, "the subject token cannot be exchanged")
        .because(format!("client {}: {why}", request.client.id))
}
