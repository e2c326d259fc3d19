//! `/par`, RFC 9126: a client pushes its authorization request, and its person's browser carries no more than a reference
//! to it. What is pushed is held against the same rules as what is not, so the client hears of mistakes itself.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;

use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, authorize, client_auth, dpop, not_found, unavailable};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::PushedRequest;
use crate::domain::secret::{Secret, SecretKind};
use crate::store::Room;

/// What every `request_uri` begins with (§2.2).
const URN: &str = "urn:ietf:params:oauth:request_uri:";
/// How long a pushed request waits for its browser.
const LIFETIME: Duration = Duration::from_secs(90);
/// How the client showed that it is itself: not part of the request (§2.1).
const CREDENTIALS: [&str; 3] = ["client_secret", "client_assertion", "client_assertion_type"];

/// RFC 9126 §2.2.
#[derive(Serialize)]
struct Pushed {
    request_uri: String,
    expires_in: u64,
}

/// Answers `/par`.
pub async fn push(at: &Endpoints, call: &Call<'_>) -> Answer {
    if !at.config.oauth.pushed_authorization_requests {
        return not_found();
    }
    match handle(at, call).await {
        Ok(answer) => answer,
        Err(error) => dpop::with_nonce(at, &error, client_auth::refuse(call, &error)),
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let form = Parameters::of_form(call.request)?;
    let client = client_auth::authenticate(at, call, &form).await?;
    if form.get("request_uri").is_some() {
        return Err(OAuthError::invalid_request("request_uri cannot be pushed"));
    }
    let proved = dpop::at_endpoint(at, call, &client)?;
    let mut parameters: Vec<(String, String)> = form
        .pairs()
        .filter(|(name, _)| !CREDENTIALS.contains(name) && *name != "client_id")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    parameters.push(("client_id".to_owned(), client.id.as_str().to_owned()));
    // RFC 9449 §10.1: a proof here binds the code as `dpop_jkt` does, and the two may not differ.
    if let Some(key) = proved {
        match form.get("dpop_jkt") {
            None => parameters.push(("dpop_jkt".to_owned(), key)),
            Some(named) if named == key => {}
            Some(_) => return Err(OAuthError::invalid_request("dpop_jkt is not the key of the proof")),
        }
    }
    authorize::check_pushed(at, &client, &Parameters::of_pairs(parameters.clone()))?;
    let secret = Secret::generate(SecretKind::PushedRequest);
    let request = PushedRequest {
        client_id: client.id.clone(),
        parameters,
        expires_at: at.now().plus(LIFETIME),
    };
    match at
        .store
        .push_request(&secret.hash(), &request)
        .await
        .map_err(unavailable)?
    {
        Room::Kept => Ok(web::json_no_store(
            StatusCode::CREATED,
            &Pushed {
                request_uri: format!("{URN}{}", secret.expose()),
                expires_in: LIFETIME.as_secs(),
            },
        )),
        Room::Full => Err(OAuthError::new(
            ErrorCode::TemporarilyUnavailable,
            "too many pushed requests wait at present",
        )
        .because("the store is full of pushed requests")),
    }
}

/// Whether a `request_uri` is of our making.
pub(super) fn is_ours(at: &Endpoints, request_uri: &str) -> bool {
    at.config.oauth.pushed_authorization_requests && request_uri.starts_with(URN)
}

/// The request that a browser brings the reference to: once, in time, and for the client that pushed it.
pub(super) async fn take(at: &Endpoints, request_uri: &str, client_id: &str) -> Result<Parameters, OAuthError> {
    let invalid = || {
        OAuthError::new(
            ErrorCode::InvalidRequestUri,
            "request_uri was used before, has lapsed or is another client's",
        )
    };
    let secret = request_uri
        .strip_prefix(URN)
        .and_then(|secret| Secret::parse(SecretKind::PushedRequest, secret))
        .ok_or_else(invalid)?;
    let pushed = at
        .store
        .take_pushed_request(&secret.hash())
        .await
        .map_err(unavailable)?;
    pushed
        .filter(|pushed| at.now() < pushed.expires_at && pushed.client_id.as_str() == client_id)
        .map(|pushed| Parameters::of_pairs(pushed.parameters))
        .ok_or_else(invalid)
}
