//! `/introspect`, RFC 7662: what a token is, for whoever may know.
//!
//! A client may look into its own tokens. Tokens of others it may look into where the configuration says so
//! (`oauth.clients[].introspects`): that is how an upstream asks. Everybody else hears that the token is not active, which
//! is what they hear of a token that was never issued.

use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::standing;
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, client_auth, unavailable};
use crate::domain::client::Client;
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::Grant;
use crate::domain::scope::Scope;
use crate::domain::secret::{Secret, SecretKind};
use crate::domain::uri::Resource;

/// RFC 7662 §2.2.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the specification's")]
struct Active<'a> {
    active: bool,
    #[serde(skip_serializing_if = "Scope::is_empty")]
    scope: &'a Scope,
    client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    token_type: &'static str,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    sub: &'a str,
    aud: Audience<'a>,
    iss: &'a str,
    /// RFC 9449 §6.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<serde_json::Value>,
}

/// What a token is for: text where it is one thing, a list where there are several (RFC 7662 §2.2).
#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(&'a str),
    Several(Vec<&'a str>),
}

/// A token that counts.
struct Found {
    grant: Grant,
    scope: Scope,
    key: Option<String>,
    issued_at: Option<Timestamp>,
    expires_at: Timestamp,
    token_type: &'static str,
}

/// Tells what a token is.
pub async fn introspect(at: &Endpoints, call: &Call<'_>) -> Answer {
    match handle(at, call).await {
        Ok(answer) => answer,
        Err(error) => client_auth::refuse(call, &error),
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    // §2.1: without authentication anybody could try tokens out.
    if !client.is_confidential() {
        return Err(OAuthError::new(
            ErrorCode::InvalidClient,
            "only clients that authenticate may introspect",
        )
        .because(format!("public client {} wanted to introspect", client.id)));
    }
    let presented = form.require("token")?;
    let found = find(at, presented).await?;
    let told = found.as_ref().map(|found| told(at, &client, found)).unwrap_or_default();
    let Some(found) = found.as_ref().filter(|_| !told.is_empty()) else {
        return Ok(web::json_no_store(StatusCode::OK, &json!({ "active": false })));
    };
    let user = at.identity.user(&found.grant.subject).await.map_err(unavailable)?;
    let scope = told.iter().fold(Scope::empty(), |all, (_, scope)| all.union(scope));
    Ok(web::json_no_store(
        StatusCode::OK,
        &Active {
            active: true,
            scope: &standing::scope_now(at, &found.grant, scope, user.as_ref()),
            client_id: found.grant.client_id.as_str(),
            username: user.as_ref().map(|user| user.username.as_str()),
            token_type: found.token_type,
            exp: found.expires_at.as_seconds(),
            iat: found.issued_at.map(Timestamp::as_seconds),
            nbf: found.issued_at.map(Timestamp::as_seconds),
            sub: found.grant.subject.as_str(),
            aud: Audience::of(&told),
            iss: &at.config.public_url.origin,
            cnf: found.key.as_ref().map(|key| json!({ "jkt": key })),
        },
    ))
}

/// A token that is alive, of a client, a person and an upstream that there still are. Its own prefix says what it is.
async fn find(at: &Endpoints, presented: &str) -> Result<Option<Found>, OAuthError> {
    let now = at.now();
    let access = Secret::parse(SecretKind::AccessToken, presented);
    let found = if let Some(token) = access.or_else(|| Secret::parse(SecretKind::PersonalToken, presented)) {
        let live = at.store.access_token(&token.hash()).await.map_err(unavailable)?;
        live.filter(|live| live.is_alive(now)).map(|live| Found {
            token_type: if live.token.key.is_some() { "DPoP" } else { "Bearer" },
            issued_at: Some(live.token.issued_at),
            expires_at: live.token.expires_at.min(live.grant.expires_at),
            scope: live.token.scope,
            key: live.token.key,
            grant: live.grant,
        })
    } else if let Some(token) = Secret::parse(SecretKind::RefreshToken, presented) {
        let found = at.store.refresh_token(&token.hash()).await.map_err(unavailable)?;
        found
            .filter(|(token, grant)| token.rotated.is_none() && now < token.expires_at && now < grant.expires_at)
            .map(|(token, grant)| Found {
                token_type: "refresh_token",
                issued_at: None,
                expires_at: token.expires_at.min(grant.expires_at),
                scope: token.scope,
                key: grant.key.clone(),
                grant,
            })
    } else {
        None
    };
    let Some(found) = found else { return Ok(None) };
    let known = at.knows_client(&found.grant.client_id).await.map_err(unavailable)?;
    let counts = known
        && found
            .grant
            .resources()
            .any(|resource| at.config.upstream_for(resource).is_some())
        && at.has_principal(&found.grant).await.map_err(unavailable)?;
    Ok(counts.then_some(found))
}

/// What a client may know of a token: all of its own, and of others what they allow at the upstreams that it asks for
/// (RFC 7662 §2.2: protected resources may be answered differently).
fn told<'a>(at: &Endpoints, caller: &Client, found: &'a Found) -> Vec<(&'a Resource, &'a Scope)> {
    let may_know = |resource: &Resource| {
        let upstream = at.config.upstream_for(resource);
        upstream.is_some_and(|upstream| caller.permissions.introspects.contains(&upstream.name))
    };
    let grant = &found.grant;
    grant
        .resources()
        .filter(|resource| caller.id == grant.client_id || may_know(resource))
        .map(|resource| (resource, grant.scope_at(resource, &found.scope)))
        .collect()
}

impl<'a> Audience<'a> {
    fn of(told: &[(&'a Resource, &'a Scope)]) -> Self {
        match told {
            [(only, _)] => Self::One(only.as_str()),
            several => Self::Several(several.iter().map(|(resource, _)| resource.as_str()).collect()),
        }
    }
}
