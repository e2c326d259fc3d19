//! `grant_type=authorization_code`: RFC 6749 §4.1.3, RFC 7636 §4.5, RFC 8707 §2.2.

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, bound_key, person, refused, wrong_target};
use crate::config::Config;
use crate::domain::client::{Client, GrantType};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AuthorizationCode, CodePresentation, CodeRefusal, GrantId, wants_refresh_token};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::oauth::openid::Authentication;
use crate::oauth::{Endpoints, unavailable};
use crate::store::Redemption;
use crate::telemetry::IssuedBy;
use crate::telemetry::audit::{Act, Event};

/// Redeems a code.
pub(super) struct AuthorizationCodeGrant;

#[async_trait]
impl Grant for AuthorizationCodeGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::AuthorizationCode
    }

    fn is_on(&self, _config: &Config) -> bool {
        true
    }

    fn is_for_strangers(&self) -> bool {
        true
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let (client, form) = (request.client, request.form);
        if !client.may_use(GrantType::AuthorizationCode) {
            return Err(OAuthError::new(
                ErrorCode::UnauthorizedClient,
                "the client did not register for authorization_code",
            )
            .because(format!("client {} may not redeem codes", client.id)));
        }
        let presented = form.require("code")?;
        let hash = Secret::parse(SecretKind::AuthorizationCode, presented)
            .ok_or_else(|| refused(client, "this is not a code"))?
            .hash();
        let code = at.store.code(&hash).await.map_err(unavailable)?;
        let code = code.ok_or_else(|| refused(client, "the code is not known"))?;
        let presentation = CodePresentation {
            client_id: &client.id,
            redirect_uri: form.get("redirect_uri"),
            verifier: form.get("code_verifier"),
            resource: request.resource.as_ref(),
        };
        check(at, client, &hash, &code, &presentation).await?;
        // RFC 9449 §10: a code that was asked for with a key is for whoever has that key.
        if code.details.key.is_some() && code.details.key != request.key {
            return Err(refused(client, "the code is bound to another key"));
        }
        redeem(at, request, &hash, &code).await
    }
}

/// Whether this client may redeem the code in this way. A code that was used before is a stolen one, or its theft is what
/// this is (RFC 6749 §4.1.2); that is for its own client alone to set off, or anybody could end other people's grants.
async fn check(
    at: &Endpoints,
    client: &Client,
    hash: &SecretHash,
    code: &AuthorizationCode,
    presentation: &CodePresentation<'_>,
) -> Result<(), OAuthError> {
    if let Some(grant) = code.redeemed.filter(|_| code.client_id == client.id) {
        return Err(replayed(at, client, &grant).await?);
    }
    let Err(refusal) = code.redeemable_by(presentation, at.now()) else {
        return Ok(());
    };
    match refusal {
        CodeRefusal::Verifier | CodeRefusal::RedirectUri => {
            at.store.note_failed_attempt(hash).await.map_err(unavailable)?;
            Err(refused(client, refusal))
        }
        CodeRefusal::Resource => Err(wrong_target(client, "the code is for another resource")),
        CodeRefusal::Expired | CodeRefusal::OtherClient => Err(refused(client, refusal)),
    }
}

/// Uses the code up: one winner, however many race.
async fn redeem(
    at: &Endpoints,
    request: &TokenRequest<'_>,
    hash: &SecretHash,
    code: &AuthorizationCode,
) -> Result<Tokens, OAuthError> {
    let client = request.client;
    person(at, client, &code.subject, &code.resource, None).await?;
    let now = at.now();
    let config = &at.config;
    let mut grant = code.grant(now, config.oauth.refresh_token_expires_in);
    grant.key = bound_key(request);
    let refresh = wants_refresh_token(client, &code.scope).then(|| Secret::generate(SecretKind::RefreshToken));
    if refresh.is_none() {
        // Nothing can prolong it, so it need not be kept longer than its one token.
        grant.expires_at = now.plus(config.oauth.access_token_expires_in);
    }
    let access = Secret::generate(SecretKind::AccessToken);
    let issue = Issue {
        grant_id: GrantId::generate(),
        grant: &grant,
        scope: &code.scope,
        refresh_scope: &code.scope,
        key: request.key.clone(),
        now,
    };
    let issued = issue.records(config, access.hash(), refresh.as_ref().map(Secret::hash));
    match at.store.redeem_code(hash, &grant, &issued).await.map_err(unavailable)? {
        Redemption::Done => {
            at.metrics.token_issued(IssuedBy::AuthorizationCode);
            tracing::info!(
                client = %client.id, subject = %grant.subject, resource = %grant.resource, scope = %grant.scope,
                grant = %issued.grant_id, "a code became a grant"
            );
            Ok(Tokens {
                refresh,
                authentication: Some(Authentication {
                    subject: grant.subject.clone(),
                    at: grant.authenticated_at,
                    nonce: code.details.nonce.clone(),
                }),
                ..Tokens::new(access, &issued, code.scope.clone())
            })
        }
        Redemption::AlreadyUsed(grant) => Err(replayed(at, client, &grant).await?),
        Redemption::Unknown => Err(refused(client, "the code is gone, or was presented wrongly too often")),
    }
}

/// Ends the grant that a code became when it is presented again. The first error is ours, the second the client's.
async fn replayed(at: &Endpoints, client: &Client, grant: &GrantId) -> Result<OAuthError, OAuthError> {
    at.store.revoke_grant(grant).await.map_err(unavailable)?;
    tracing::warn!(client = %client.id, %grant, "a code was presented again: its grant is revoked");
    at.metrics.audit().note(|| Act {
        client_id: Some(client.id.as_str()),
        grant: Some(grant),
        ..Act::new(Event::ReuseDetected, "code")
    });
    Ok(refused(client, "the code was used before"))
}
