//! `/register/<client id>`, RFC 7592: a client reads, replaces or deletes its registration, with the token that it was
//! given when it registered.
//!
//! An unknown client, a wrong token and one of another client are one answer, after the same work (§2.1). Neither the id
//! nor the secret can be changed, and a client stays public or confidential as it was.

use http::{Method, StatusCode};
use serde_json::Value;

use super::metadata::{self, Metadata};
use super::register::{self, Registered};
use super::{Answer, Call, Endpoints, unavailable, web};
use crate::domain::client::{Client, ClientAuthMethod, ClientId};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::secret::{Secret, SecretHash, SecretKind};
use crate::telemetry::audit::{Act, Event};

/// Compared with where there is no client, so that an unknown one costs what a wrong token costs.
const NOBODY: SecretHash = SecretHash::from_bytes([0; 32]);

/// Answers a request about one client's registration.
pub async fn manage(at: &Endpoints, call: &Call<'_>) -> Answer {
    match handle(at, call).await {
        Ok(answer) => answer,
        Err(error) => register::refuse(&error),
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let (client, token) = authenticate(at, call).await?;
    match *call.request.method() {
        Method::PUT => replace(at, call, client, &token).await,
        Method::DELETE => delete(at, &client).await,
        _ => Ok(read(at, &client, &token)),
    }
}

/// The client whose registration this is, if the request has its token.
async fn authenticate(at: &Endpoints, call: &Call<'_>) -> Result<(Client, Secret), OAuthError> {
    let token = register::bearer(call).and_then(|text| Secret::parse(SecretKind::RegistrationToken, text));
    let client = match ClientId::parse(call.about) {
        Some(id) => at.store.client(&id).await.map_err(unavailable)?,
        None => None,
    };
    let expected = client.as_ref().and_then(|client| client.registration_token);
    let presented = token.as_ref().map_or("", Secret::expose);
    let right = expected.unwrap_or(NOBODY).matches(presented);
    match (client, token) {
        (Some(client), Some(token)) if right && expected.is_some() => Ok((client, token)),
        _ => Err(OAuthError::new(
            ErrorCode::InvalidToken,
            "the registration_access_token is wrong, or the client is not registered here",
        )
        .because("a registration was asked for without its token")),
    }
}

/// §2.1.
fn read(at: &Endpoints, client: &Client, token: &Secret) -> Answer {
    let registered = Registered {
        client,
        secret: None,
        token,
    };
    registered.answer(at, StatusCode::OK)
}

/// §2.2: what is sent replaces what was registered, under the rules of a registration. What people allowed the client at
/// addresses that it had before is forgotten, so that they are asked again.
async fn replace(at: &Endpoints, call: &Call<'_>, client: Client, token: &Secret) -> Result<Answer, OAuthError> {
    let mut document = register::document(call)?;
    match document.get("client_id") {
        Some(Value::String(id)) if *id == client.id.as_str() => {}
        _ => return Err(metadata::invalid("client_id must be this client's")),
    }
    let secret = match document.get("client_secret") {
        None | Some(Value::Null) => None,
        Some(Value::String(secret)) => Some(secret.as_str()),
        Some(_) => return Err(metadata::invalid("client_secret must be a string")),
    };
    if secret.is_some_and(|secret| !client.secret.unwrap_or(NOBODY).matches(secret)) {
        return Err(metadata::invalid("client_secret must be this client's, or left out"));
    }
    if let (None | Some(Value::Null), Some(method)) = (document.get("token_endpoint_auth_method"), client.auth_method) {
        document.insert("token_endpoint_auth_method".to_owned(), method.as_str().into());
    }
    let metadata = Metadata::read(&document, &at.config)?;
    if credential(Some(metadata.auth_method)) != credential(client.auth_method) {
        return Err(metadata::invalid(
            "token_endpoint_auth_method cannot change between none, a secret and keys; register anew",
        ));
    }
    let replaced = Client {
        auth_method: Some(metadata.auth_method),
        keys: metadata.keys,
        redirect_uris: metadata.redirect_uris,
        grant_types: metadata.grant_types,
        name: metadata.name,
        display: metadata.display,
        id_token_algorithm: metadata.id_token_algorithm,
        key_bound: metadata.key_bound,
        ..client
    };
    if !at.store.update_client(&replaced).await.map_err(unavailable)? {
        return Err(gone());
    }
    tracing::info!(client = %replaced.id, "a client changed its registration");
    at.metrics.audit().note(|| Act {
        client_id: Some(replaced.id.as_str()),
        ..Act::new(Event::ClientChanged, "done")
    });
    let registered = Registered {
        client: &replaced,
        secret: None,
        token,
    };
    Ok(registered.answer(at, StatusCode::OK))
}

/// What a client authenticates with. One that never named a method has a secret.
const fn credential(method: Option<ClientAuthMethod>) -> &'static str {
    match method {
        Some(ClientAuthMethod::None) => "nothing",
        Some(ClientAuthMethod::PrivateKeyJwt) => "keys",
        None | Some(ClientAuthMethod::ClientSecretBasic | ClientAuthMethod::ClientSecretPost) => "a secret",
    }
}

/// §2.3: with the client goes everything that it holds.
async fn delete(at: &Endpoints, client: &Client) -> Result<Answer, OAuthError> {
    if !at.store.remove_client(&client.id).await.map_err(unavailable)? {
        return Err(gone());
    }
    tracing::info!(client = %client.id, "a client deleted its registration");
    at.metrics.audit().note(|| Act {
        client_id: Some(client.id.as_str()),
        ..Act::new(Event::ClientRemoved, "done")
    });
    let mut answer = web::empty(StatusCode::NO_CONTENT);
    web::no_store(&mut answer);
    Ok(answer)
}

/// It was there a moment ago.
fn gone() -> OAuthError {
    OAuthError::new(ErrorCode::InvalidToken, "the client is not registered here")
}
