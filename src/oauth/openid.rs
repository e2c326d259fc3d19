//! OpenID Connect on top of OAuth: ID tokens (Core §2), `/userinfo` (§5.3), `/jwks.json`.
//!
//! It is there if `openid` is one of the scopes of this gateway, and then all of it is; else none of it is announced.

use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, not_found, protected, unavailable};
use crate::config::Config;
use crate::domain::client::Client;
use crate::domain::clock::Timestamp;
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::key::Algorithm;
use crate::domain::scope::Scope;
use crate::domain::user::{Subject, User};
use crate::jose::Token;

/// The scope that asks for an ID token.
pub(super) const OPENID: &str = "openid";
/// What ID tokens and `/userinfo` can say about somebody.
pub(super) const CLAIMS: [&str; 14] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "auth_time",
    "nonce",
    "at_hash",
    "azp",
    "name",
    "preferred_username",
    "email",
    "email_verified",
    "groups",
];
/// Key sets may be kept for this long; a key is published a day before it signs.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// That somebody signed in, as an ID token tells it.
pub(super) struct Authentication {
    pub(super) subject: Subject,
    pub(super) at: Timestamp,
    pub(super) nonce: Option<String>,
}

/// OpenID Connect Core §2.
#[derive(Serialize)]
struct IdToken<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    azp: &'a str,
    iat: u64,
    exp: u64,
    auth_time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    at_hash: String,
    #[serde(flatten)]
    profile: Map<String, Value>,
}

/// Whether OpenID Connect is offered.
pub(super) fn is_on(config: &Config) -> bool {
    config.oauth.scopes.contains(OPENID)
}

/// The ID token that goes with an access token, if `openid` was granted.
pub(super) async fn id_token(
    at: &Endpoints,
    client: &Client,
    scope: &Scope,
    authentication: &Authentication,
    access_token: &str,
) -> Result<Option<String>, OAuthError> {
    let user = at.identity.user(&authentication.subject).await.map_err(unavailable)?;
    let (true, Some(user)) = (is_on(&at.config) && scope.contains(OPENID), user) else {
        return Ok(None);
    };
    let now = at.now();
    let lifetime = at.config.oauth.access_token_expires_in;
    let claims = IdToken {
        iss: &at.config.public_url.origin,
        sub: authentication.subject.as_str(),
        aud: client.id.as_str(),
        azp: client.id.as_str(),
        iat: now.as_seconds(),
        exp: now.plus(lifetime).as_seconds(),
        auth_time: authentication.at.as_seconds(),
        nonce: authentication.nonce.as_deref(),
        at_hash: left_half(access_token),
        profile: profile(&user, scope),
    };
    let algorithm = client.id_token_algorithm.unwrap_or(Algorithm::Rs256);
    at.keyring
        .sign(&*at.store, now, algorithm, "JWT", &claims)
        .await
        .map(Some)
}

/// The first half of the SHA-256, which goes with both of our algorithms (Core §3.1.3.6).
fn left_half(access_token: &str) -> String {
    let digest = Sha256::digest(access_token.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.iter().copied().take(16).collect::<Vec<_>>())
}

/// What a scope lets somebody know about a person (Core §5.4). What is not known is not there.
fn profile(user: &User, scope: &Scope) -> Map<String, Value> {
    let mut claims = Map::new();
    if scope.contains("profile") {
        claims.insert("preferred_username".to_owned(), json!(user.username));
        if let Some(name) = &user.name {
            claims.insert("name".to_owned(), json!(name));
        }
        if !user.groups.is_empty() {
            claims.insert("groups".to_owned(), json!(user.groups));
        }
    }
    if scope.contains("email")
        && let Some(email) = &user.email
    {
        claims.insert("email".to_owned(), json!(email));
        // Whoever runs the gateway wrote it down.
        claims.insert("email_verified".to_owned(), json!(true));
    }
    claims
}

/// Who an earlier ID token of ours was about, whenever that was (`id_token_hint`, Core §3.1.2.1). `None` for what is none
/// of ours.
pub(super) async fn hinted(at: &Endpoints, hint: &str) -> Result<Option<String>, OAuthError> {
    let Ok(token) = Token::parse(hint) else {
        return Ok(None);
    };
    // What else is signed with these keys is no ID token.
    if token.has_type() && !token.is_of_type("jwt") {
        return Ok(None);
    }
    let keys = at.keyring.verifying(&*at.store, at.now()).await?;
    let claims = token.verify(&keys, &Algorithm::OURS).ok();
    Ok(claims
        .filter(|claims| claims.text("iss") == Some(&at.config.public_url.origin))
        .and_then(|claims| claims.text("sub").map(str::to_owned)))
}

/// Answers `/jwks.json` (RFC 7517).
pub async fn jwks(at: &Endpoints) -> Answer {
    match at.keyring.public(&*at.store, at.now()).await {
        Ok(keys) => {
            let mut answer = web::json(StatusCode::OK, &keys);
            answer.headers_mut().insert(header::CACHE_CONTROL, CACHE_CONTROL);
            answer
        }
        Err(error) => web::error(&error),
    }
}

/// Answers `/userinfo`: who a token speaks for. Any token with `openid` will do, whichever upstream it is for.
pub async fn userinfo(at: &Endpoints, call: &Call<'_>) -> Answer {
    if !is_on(&at.config) {
        return not_found();
    }
    match claims(at, call).await {
        Ok(claims) => web::json_no_store(StatusCode::OK, &claims),
        Err(refused) => refused.answer(at),
    }
}

async fn claims(at: &Endpoints, call: &Call<'_>) -> Result<Value, protected::Refused> {
    // RFC 6750 §2.2 would have a form carry the token; clients use the header, and one way is enough.
    if *call.request.method() == Method::POST && !call.request.body().is_empty() {
        let form = Parameters::of_form(call.request)?;
        if form.get("access_token").is_some() {
            return Err(OAuthError::invalid_request("the token belongs into the Authorization header").into());
        }
    }
    let live = protected::token(at, call).await?;
    if !live.token.scope.contains(OPENID) {
        return Err(protected::Refused::Scope(OPENID));
    }
    let user = at.identity.user(&live.grant.subject).await.map_err(unavailable)?;
    let user = user.ok_or(protected::Refused::Token)?;
    if !at.knows_client(&live.grant.client_id).await.map_err(unavailable)? {
        return Err(protected::Refused::Token);
    }
    let mut claims = profile(&user, &live.token.scope);
    claims.insert("sub".to_owned(), json!(live.grant.subject.as_str()));
    Ok(Value::Object(claims))
}

/// `login_required` for a client that wants no page where somebody else is signed in than it thinks.
pub(super) fn other_person() -> OAuthError {
    OAuthError::new(ErrorCode::LoginRequired, "somebody else is signed in")
}
