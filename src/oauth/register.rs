//! `/register`, RFC 7591: clients make themselves known.
//!
//! What a client asks for and we lack is replaced or left out, and the answer says what it got (§3.2.1); what would be
//! dangerous or senseless is refused. A registered `scope` is echoed but does not bind the client: a step-up asks for
//! scopes that the client had not heard of when it registered, and `offline_access` is in no resource's list.

use http::StatusCode;
use http::header::{self, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value};

use super::metadata::{self, Metadata};
use super::protected::{Scheme, presented};
use super::{Answer, Call, Endpoints, REGISTRATIONS, unavailable, web};
use crate::domain::client::{
    Client, ClientAuthMethod, ClientDisplay, ClientId, ClientOrigin, GrantType, KeySource, Permissions,
};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::domain::secret::{Secret, SecretKind};
use crate::domain::uri::RedirectUri;
use crate::store::Registration;
use crate::telemetry::audit::{Act, Event};

/// Most bytes of a registration.
const MAX_DOCUMENT: usize = 16 << 10;

/// RFC 7591 §3.2.1 and RFC 7592 §3.
#[derive(Serialize)]
struct ClientInformation<'a> {
    client_id: &'a str,
    client_id_issued_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<&'a str>,
    /// 0: it never expires. Required where there is a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_expires_at: Option<u64>,
    registration_client_uri: String,
    registration_access_token: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    redirect_uris: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_endpoint_auth_method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<&'a str>,
    grant_types: Vec<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    response_types: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token_signed_response_alg: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dpop_bound_access_tokens: bool,
    #[serde(flatten)]
    display: &'a ClientDisplay,
}

/// What a client hears of its registration.
pub(super) struct Registered<'a> {
    pub(super) client: &'a Client,
    /// Its new secret, this once.
    pub(super) secret: Option<&'a Secret>,
    /// What it may change its registration with.
    pub(super) token: &'a Secret,
}

/// Registers a client.
pub async fn register(at: &Endpoints, call: &Call<'_>) -> Answer {
    if !at.config.oauth.dynamic_registration {
        at.metrics.registration("refused");
        let mut answer = web::error(&OAuthError::new(
            ErrorCode::AccessDenied,
            "this gateway does not register clients; ask whoever runs it for a client_id",
        ));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        return answer;
    }
    let answer = match check_initial_access_token(at, call) {
        Ok(()) => handle(at, call).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            at.metrics.registration("dynamic");
            answer
        }
        Err(error) => {
            at.metrics.registration("refused");
            refuse(&error)
        }
    }
}

/// The answer to a registration, or to the management of one, that failed: with a challenge where a token was wanted
/// (RFC 7591 §3, RFC 6750 §3).
pub(super) fn refuse(error: &OAuthError) -> Answer {
    let mut answer = web::error(error);
    if error.code == ErrorCode::InvalidToken {
        answer.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer error=\"invalid_token\""),
        );
    }
    answer
}

/// RFC 7591 §3: where the configuration lists initial access tokens, a registration needs one of them. All of them are
/// compared, so that time does not tell which one was close.
fn check_initial_access_token(at: &Endpoints, call: &Call<'_>) -> Result<(), OAuthError> {
    let known = &at.config.oauth.initial_access_tokens;
    if known.is_empty() {
        return Ok(());
    }
    let token = bearer(call).unwrap_or_default();
    let right = known.iter().fold(false, |right, hash| hash.matches(token) | right);
    if right {
        return Ok(());
    }
    Err(OAuthError::new(
        ErrorCode::InvalidToken,
        "registration here needs an initial access token; ask whoever runs this gateway for one",
    )
    .because("a registration came without a right initial access token"))
}

/// The bearer token of a request.
pub(super) fn bearer<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    match presented(call.request.headers()) {
        Ok((Scheme::Bearer, token)) => Some(token),
        Ok((Scheme::Dpop, _)) | Err(_) => None,
    }
}

async fn handle(at: &Endpoints, call: &Call<'_>) -> Result<Answer, OAuthError> {
    let metadata = Metadata::read(&document(call)?, &at.config)?;
    let secret = match metadata.auth_method {
        ClientAuthMethod::None | ClientAuthMethod::PrivateKeyJwt => None,
        ClientAuthMethod::ClientSecretBasic | ClientAuthMethod::ClientSecretPost => {
            Some(Secret::generate(SecretKind::ClientSecret))
        }
    };
    let token = Secret::generate(SecretKind::RegistrationToken);
    let client = Client {
        id: ClientId::generate(),
        origin: ClientOrigin::Registered,
        secret: secret.as_ref().map(Secret::hash),
        auth_method: Some(metadata.auth_method),
        keys: metadata.keys,
        redirect_uris: metadata.redirect_uris,
        grant_types: metadata.grant_types,
        scope: None,
        name: metadata.name,
        display: metadata.display,
        id_token_algorithm: metadata.id_token_algorithm,
        key_bound: metadata.key_bound,
        permissions: Permissions::default(),
        registration_token: Some(token.hash()),
        created_at: at.now(),
    };
    match at.store.register_client(&client).await.map_err(unavailable)? {
        Registration::Done => {}
        Registration::Full => {
            return Err(OAuthError::new(
                ErrorCode::TemporarilyUnavailable,
                "no more clients can register at present",
            )
            .because("the store is full of clients that are in use"));
        }
    }
    tracing::info!(client = %client.id, "a client registered");
    at.metrics.audit().note(|| Act {
        client_id: Some(client.id.as_str()),
        ..Act::new(Event::ClientRegistered, "done")
    });
    let registered = Registered {
        client: &client,
        secret: secret.as_ref(),
        token: &token,
    };
    Ok(registered.answer(at, StatusCode::CREATED))
}

// === impl Registered ===

impl Registered<'_> {
    /// The client information response.
    pub(super) fn answer(&self, at: &Endpoints, status: StatusCode) -> Answer {
        let client = self.client;
        let (jwks, jwks_uri) = match client.keys.as_ref().map(|keys| &keys.source) {
            None => (None, None),
            Some(KeySource::Inline(text)) => (serde_json::from_str(text).ok(), None),
            Some(KeySource::At(address)) => (None, Some(address.as_str())),
        };
        web::json_no_store(
            status,
            &ClientInformation {
                client_id: client.id.as_str(),
                client_id_issued_at: client.created_at.as_seconds(),
                client_secret: self.secret.map(Secret::expose),
                client_secret_expires_at: self.secret.map(|_| 0),
                registration_client_uri: at.config.endpoint(&format!("{REGISTRATIONS}{}", client.id)),
                registration_access_token: self.token.expose(),
                redirect_uris: client.redirect_uris.iter().map(RedirectUri::as_str).collect(),
                token_endpoint_auth_method: client.auth_method.map(ClientAuthMethod::as_str),
                jwks,
                jwks_uri,
                grant_types: client.grant_types.iter().map(|grant| grant.as_str()).collect(),
                response_types: if client.may_use(GrantType::AuthorizationCode) {
                    &["code"]
                } else {
                    &[]
                },
                client_name: client.name.as_deref(),
                id_token_signed_response_alg: client.id_token_algorithm.map(Algorithm::as_str),
                dpop_bound_access_tokens: client.key_bound,
                display: &client.display,
            },
        )
    }
}

/// The JSON object that was posted.
pub(super) fn document(call: &Call<'_>) -> Result<Map<String, Value>, OAuthError> {
    let mut types = call.request.headers().get_all(header::CONTENT_TYPE).iter();
    let (first, second) = (types.next(), types.next());
    let essence = first
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .unwrap_or_default();
    if second.is_some() || !essence.trim().eq_ignore_ascii_case("application/json") {
        return Err(metadata::invalid("the body must be application/json"));
    }
    if call.request.body().len() > MAX_DOCUMENT {
        return Err(metadata::invalid("the registration is longer than 16 KiB"));
    }
    // serde_json goes no deeper than 128 levels.
    serde_json::from_slice(call.request.body()).map_err(|_| metadata::invalid("the body is not a JSON object"))
}
