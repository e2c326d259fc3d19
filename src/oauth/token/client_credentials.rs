//! `grant_type=client_credentials`: RFC 6749 §4.4, for programs that act for themselves.
//!
//! Only clients of the configuration may use it: whoever could register for it would need nobody's leave for anything.

use async_trait::async_trait;

use super::{Grant, Issue, TokenRequest, Tokens, must_be_named, own_scope, target};
use crate::config::Config;
use crate::domain::client::GrantType;
use crate::domain::error::OAuthError;
use crate::domain::grant::{Grant as Family, GrantId};
use crate::domain::secret::{Secret, SecretKind};
use crate::domain::user::Subject;
use crate::oauth::{Endpoints, unavailable};
use crate::telemetry::IssuedBy;

/// Gives a client a token of its own.
pub(super) struct ClientCredentialsGrant;

#[async_trait]
impl Grant for ClientCredentialsGrant {
    fn grant_type(&self) -> GrantType {
        GrantType::ClientCredentials
    }

    fn is_on(&self, config: &Config) -> bool {
        config.oauth.grants.client_credentials
    }

    async fn exchange(&self, at: &Endpoints, request: &TokenRequest<'_>) -> Result<Tokens, OAuthError> {
        let client = request.client;
        must_be_named(client, GrantType::ClientCredentials)?;
        let upstream = target(at, request)?;
        let scope = own_scope(at, request, upstream)?;
        let now = at.now();
        let grant = Family {
            subject: Subject::of_client(&client.id),
            client_id: client.id.clone(),
            resource: upstream.resource.clone(),
            scope: scope.clone(),
            authenticated_at: now,
            key: None,
            name: None,
            used_at: None,
            more: Vec::new(),
            created_at: now,
            expires_at: now.plus(at.config.oauth.access_token_expires_in),
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
        // No refresh token (§4.4.3): the client can come again whenever it likes.
        let issued = issue.records(&at.config, access.hash(), None);
        at.store.issue(&grant, &issued).await.map_err(unavailable)?;
        at.metrics.token_issued(IssuedBy::ClientCredentials);
        tracing::info!(client = %client.id, resource = %grant.resource, scope = %grant.scope, "a client got a token for itself");
        Ok(Tokens::new(access, &issued, scope))
    }
}
