//! `/revoke`, RFC 7009. A refresh token takes its whole grant with it; an access token goes alone.

use http::StatusCode;

use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, client_auth, unavailable};
use crate::domain::client::Client;
use crate::domain::error::OAuthError;
use crate::domain::secret::{Secret, SecretKind};
use crate::telemetry::audit::{Act, Event};

/// Takes a token back. What is not a living token of this client is left alone and answered in the same way (§2.2), so
/// that the answer tells nothing about other people's tokens.
pub async fn revoke(at: &Endpoints, call: &Call<'_>) -> Answer {
    match handle(at, call).await {
        Ok(()) => {
            let mut answer = web::empty(StatusCode::OK);
            web::no_store(&mut answer);
            answer
        }
        Err(error) => client_auth::refuse(call, &error),
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<(), OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    take_back(at, &client, form.require("token")?).await
}

/// A token's own prefix says what it is; `token_type_hint` (§2.1) adds nothing and is not read.
async fn take_back(at: &Endpoints, client: &Client, presented: &str) -> Result<(), OAuthError> {
    if let Some(token) = Secret::parse(SecretKind::RefreshToken, presented) {
        let found = at.store.refresh_token(&token.hash()).await.map_err(unavailable)?;
        if let Some((token, grant)) = found.filter(|(_, grant)| grant.client_id == client.id) {
            at.store.revoke_grant(&token.grant).await.map_err(unavailable)?;
            tracing::info!(client = %client.id, subject = %grant.subject, grant = %token.grant, "a client gave up its grant");
            at.metrics.audit().note(|| Act {
                subject: Some(grant.subject.as_str()),
                client_id: Some(client.id.as_str()),
                grant: Some(&token.grant),
                ..Act::new(Event::Revoked, "by_client")
            });
        }
    } else if let Some(token) = Secret::parse(SecretKind::AccessToken, presented) {
        let hash = token.hash();
        let found = at.store.access_token(&hash).await.map_err(unavailable)?;
        if let Some(live) = found.filter(|live| live.grant.client_id == client.id) {
            at.store.revoke_access_token(&hash).await.map_err(unavailable)?;
            tracing::info!(client = %client.id, subject = %live.grant.subject, "a client gave up an access token");
            at.metrics.audit().note(|| Act {
                subject: Some(live.grant.subject.as_str()),
                client_id: Some(client.id.as_str()),
                ..Act::new(Event::Revoked, "access_token")
            });
        }
    }
    Ok(())
}
