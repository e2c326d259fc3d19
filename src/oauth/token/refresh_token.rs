//! `grant_type=refresh_token`: RFC 6749 §6 with rotation (RFC 9700 §4.14.2), for public and confidential clients alike.
//!
//! Clients lose answers and share one token between processes. So for `oauth.refresh_grace` a rotated token gets the very
//! successors that it got before: they are derived from the token, which only its holder has, and a random nonce, which
//! only the store has, so neither side needs to keep them. After the grace it is taken for stolen and the grant ends.

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, person, refused, wrong_target};
use crate::config::Config;
use crate::domain::client::{Client, GrantType};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{Grant as Family, GrantId, RefreshToken, Succession};
use crate::domain::scope::Scope;
use crate::domain::secret::{Nonce, Secret, SecretKind};
use crate::oauth::openid::Authentication;
use crate::oauth::web::Parameters;
use crate::oauth::{Endpoints, unavailable};
use crate::store::Rotation;
use crate::telemetry::IssuedBy;
use crate::telemetry::audit::{Act, Event};

/// Replaces a refresh token. Whoever was given one may use it, registered for the grant or not: it was given because the
/// client registered for it, or because the person allowed `offline_access`.
pub(super) struct RefreshTokenGrant;

#[async_trait]
impl Grant for RefreshTokenGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::RefreshToken
    }

    fn is_on(&self, _config: &Config) -> bool {
        true
    }

    fn is_for_strangers(&self) -> bool {
        true
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let (client, form) = (request.client, request.form);
        let presented = form.require("refresh_token")?;
        let requested = requested_scope(client, form)?;
        let token = Secret::parse(SecretKind::RefreshToken, presented)
            .ok_or_else(|| refused(client, "this is not a refresh token"))?;
        let found = at.store.refresh_token(&token.hash()).await.map_err(unavailable)?;
        let (record, grant) =
            found.ok_or_else(|| refused(client, "the refresh token is not known or its grant is gone"))?;
        if grant.client_id != client.id {
            return Err(refused(client, "the refresh token belongs to another client"));
        }
        check_life(at, client, &record, &grant).await?;
        // RFC 9449 §5: a public client's refresh token is for whoever has the key.
        if grant.key.is_some() && grant.key != request.key {
            return Err(refused(client, "the refresh token is bound to another key"));
        }
        if request
            .resource
            .as_ref()
            .is_some_and(|resource| *resource != grant.resource)
        {
            return Err(wrong_target(client, "the refresh token is for another resource"));
        }
        let user = person(at, client, &grant.subject, &grant.resource, Some(&record.grant)).await?;
        let scope = requested.as_ref().unwrap_or(&record.scope);
        if !at.config.covers(&record.scope, scope) {
            return Err(invalid_scope(client, "more scope was asked for than was granted"));
        }
        if let Some(succession) = &record.rotated {
            return again(request, &token, &grant, succession);
        }
        // Groups may have changed since the person was asked.
        let still = record.scope.filtered(|name| at.config.may_be_granted(&user, name));
        let still = at.config.with_implied(&still);
        let scope = scope.filtered(|name| still.contains(name.as_str()));
        rotate(at, request, &token, &record, &grant, scope).await
    }
}

/// Whether the token still counts. One that was replaced longer ago than the grace is in two hands: the grant ends
/// (RFC 9700 §4.14.2). One that has merely expired is worth nothing to anybody, and nothing follows from it.
async fn check_life(at: &Endpoints, client: &Client, record: &RefreshToken, grant: &Family) -> Result<(), OAuthError> {
    let now = at.now();
    if now >= grant.expires_at {
        return Err(refused(client, "the grant has expired"));
    }
    if record
        .rotated
        .as_ref()
        .is_some_and(|succession| in_grace(at, succession))
    {
        return Ok(());
    }
    if now >= record.expires_at {
        return Err(refused(client, "the refresh token has expired"));
    }
    match record.rotated {
        Some(_) => Err(reused(at, client, &record.grant).await?),
        None => Ok(()),
    }
}

/// Replaces the token: one winner, however many race, and within the grace all of them get what the winner got.
async fn rotate(
    at: &Endpoints,
    request: &TokenRequest<'_>,
    token: &Secret,
    record: &RefreshToken,
    grant: &Family,
    scope: Scope,
) -> Result<Tokens, OAuthError> {
    let client = request.client;
    let (now, nonce) = (at.now(), Nonce::generate());
    let (access, refresh) = successors(token, &nonce);
    let issue = Issue {
        grant_id: record.grant,
        grant,
        scope: &scope,
        refresh_scope: &record.scope,
        key: request.key.clone(),
        now,
    };
    let issued = issue.records(&at.config, access.hash(), Some(refresh.hash()));
    let succession = Succession {
        at: now,
        nonce,
        scope,
        access_expires_at: issued.access.1.expires_at,
        key: request.key.clone(),
    };
    match at
        .store
        .rotate(&token.hash(), &succession, &issued)
        .await
        .map_err(unavailable)?
    {
        Rotation::Done => {
            at.metrics.token_issued(IssuedBy::RefreshToken);
            tracing::info!(client = %client.id, subject = %grant.subject, grant = %record.grant, "a refresh token was replaced");
            again(request, token, grant, &succession)
        }
        Rotation::AlreadyRotated(winner) if in_grace(at, &winner) => again(request, token, grant, &winner),
        Rotation::AlreadyRotated(_) => Err(reused(at, client, &record.grant).await?),
        Rotation::Unknown => Err(refused(client, "the grant ended meanwhile")),
    }
}

/// Whether a replaced token still gets its successors again. A grace of zero is none at all.
fn in_grace(at: &Endpoints, succession: &Succession) -> bool {
    at.now().since(succession.at) < at.config.oauth.refresh_grace
}

fn successors(token: &Secret, nonce: &Nonce) -> (Secret, Secret) {
    (
        token.derive(SecretKind::AccessToken, nonce),
        token.derive(SecretKind::RefreshToken, nonce),
    )
}

/// The answer that belongs to a succession, the first time and every other: to the same key.
fn again(
    request: &TokenRequest<'_>,
    token: &Secret,
    grant: &Family,
    succession: &Succession,
) -> Result<Tokens, OAuthError> {
    if succession.key != request.key {
        return Err(refused(
            request.client,
            "the refresh token was replaced with another key",
        ));
    }
    let (access, refresh) = successors(token, &succession.nonce);
    Ok(Tokens {
        access,
        access_expires_at: succession.access_expires_at,
        scope: succession.scope.clone(),
        refresh: Some(refresh),
        key_bound: succession.key.is_some(),
        // OpenID Connect Core §12.2: the person is as they were, and there is no nonce.
        authentication: Some(Authentication {
            subject: grant.subject.clone(),
            at: grant.authenticated_at,
            nonce: None,
        }),
        issued_token_type: None,
    })
}

/// Ends the grant of a refresh token that was presented again too late. The first error is ours, the second the client's.
async fn reused(at: &Endpoints, client: &Client, grant: &GrantId) -> Result<OAuthError, OAuthError> {
    at.store.revoke_grant(grant).await.map_err(unavailable)?;
    tracing::warn!(client = %client.id, %grant, "a refresh token was presented again after its grace: its grant is revoked");
    at.metrics.audit().note(|| Act {
        client_id: Some(client.id.as_str()),
        grant: Some(grant),
        ..Act::new(Event::ReuseDetected, "refresh_token")
    });
    Ok(refused(client, "the refresh token was replaced before"))
}

/// The `scope` of the request; none means as before.
fn requested_scope(client: &Client, form: &Parameters) -> Result<Option<Scope>, OAuthError> {
    form.get("scope")
        .map(str::parse)
        .transpose()
        .map_err(|_| invalid_scope(client, "scope is malformed"))
        .map(|scope| scope.filter(|scope: &Scope| !scope.is_empty()))
}

fn invalid_scope(client: &Client, description: &'static str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidScope, description).because(format!("client {}: {description}", client.id))
}
