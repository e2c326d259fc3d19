//! `grant_type=urn:ietf:params:oauth:grant-type:device_code`: RFC 8628 §3.4. A device asks until its person has answered.

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, bound_key, must_be_named, person, refused, wrong_target};
use crate::config::Config;
use crate::domain::client::GrantType;
use crate::domain::device::{Decision, DeviceAuthorization};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{FAMILY_LIFETIMES, Grant as Family, GrantId, wants_refresh_token};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::oauth::openid::Authentication;
use crate::oauth::{Endpoints, unavailable};
use crate::store::{Poll, Redemption};
use crate::telemetry::IssuedBy;

/// Redeems a device code.
pub(super) struct DeviceCodeGrant;

#[async_trait]
impl Grant for DeviceCodeGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::DeviceCode
    }

    fn is_on(&self, config: &Config) -> bool {
        config.oauth.grants.device_code
    }

    fn is_for_strangers(&self) -> bool {
        true
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let client = request.client;
        must_be_named(client, GrantType::DeviceCode)?;
        let presented = request.form.require("device_code")?;
        let hash = Secret::parse(SecretKind::DeviceCode, presented)
            .ok_or_else(|| refused(client, "this is not a device code"))?
            .hash();
        let Poll::Waiting(waiting, too_soon) = at.store.poll_device(&hash, at.now()).await.map_err(unavailable)? else {
            return Err(refused(client, "the device code is not known"));
        };
        if waiting.client_id != client.id {
            return Err(refused(client, "the device code belongs to another client"));
        }
        if waiting.redeemed.is_some() {
            return Err(refused(client, "the device code was used before"));
        }
        if at.now() >= waiting.expires_at {
            return Err(OAuthError::new(ErrorCode::ExpiredToken, "nobody answered in time"));
        }
        if request
            .resource
            .as_ref()
            .is_some_and(|resource| *resource != waiting.resource)
        {
            return Err(wrong_target(client, "the device code is for another resource"));
        }
        match &waiting.decision {
            _ if too_soon => Err(OAuthError::new(
                ErrorCode::SlowDown,
                format!("ask again in {} seconds", waiting.interval.as_secs()),
            )),
            None => Err(OAuthError::new(
                ErrorCode::AuthorizationPending,
                "nobody has answered yet",
            )),
            Some(Decision::Denied) => Err(OAuthError::new(
                ErrorCode::AccessDenied,
                "the person denied the request",
            )),
            Some(Decision::Approved { .. }) => redeem(at, request, &hash, &waiting).await,
        }
    }
}

async fn redeem(
    at: &Endpoints,
    request: &TokenRequest<'_>,
    hash: &SecretHash,
    waiting: &DeviceAuthorization,
) -> Result<Tokens, OAuthError> {
    let client = request.client;
    let Some(Decision::Approved {
        subject,
        scope,
        authenticated_at,
    }) = &waiting.decision
    else {
        return Err(refused(client, "nobody allowed this"));
    };
    person(at, client, subject, &waiting.resource, None).await?;
    let now = at.now();
    let refresh = wants_refresh_token(client, scope).then(|| Secret::generate(SecretKind::RefreshToken));
    let lifetime = if refresh.is_some() {
        at.config
            .oauth
            .refresh_token_expires_in
            .saturating_mul(FAMILY_LIFETIMES)
    } else {
        at.config.oauth.access_token_expires_in
    };
    let grant = Family {
        subject: subject.clone(),
        client_id: client.id.clone(),
        resource: waiting.resource.clone(),
        scope: scope.clone(),
        authenticated_at: *authenticated_at,
        key: bound_key(request),
        name: None,
        used_at: None,
        more: Vec::new(),
        created_at: now,
        expires_at: now.plus(lifetime),
    };
    let access = Secret::generate(SecretKind::AccessToken);
    let issue = Issue {
        grant_id: GrantId::generate(),
        grant: &grant,
        scope,
        refresh_scope: scope,
        key: request.key.clone(),
        now,
    };
    let issued = issue.records(&at.config, access.hash(), refresh.as_ref().map(Secret::hash));
    match at
        .store
        .redeem_device(hash, &grant, &issued)
        .await
        .map_err(unavailable)?
    {
        Redemption::Done => {
            at.metrics.token_issued(IssuedBy::DeviceCode);
            tracing::info!(
                client = %client.id, subject = %grant.subject, resource = %grant.resource, scope = %grant.scope,
                grant = %issued.grant_id, "a device became a grant"
            );
            Ok(Tokens {
                refresh,
                authentication: Some(Authentication {
                    subject: grant.subject.clone(),
                    at: grant.authenticated_at,
                    nonce: None,
                }),
                ..Tokens::new(access, &issued, scope.clone())
            })
        }
        Redemption::AlreadyUsed(_) | Redemption::Unknown => Err(refused(client, "the device code is gone")),
    }
}
