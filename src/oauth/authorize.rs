//! The authorization endpoint: RFC 6749 §4.1.1 with PKCE (RFC 7636), `resource` (RFC 8707) and `iss` (RFC 9207).
//!
//! The checks run in the order of the RFC. Until client and redirect URI are known to belong together an error is a page:
//! only a [`RedirectTarget`] can be redirected to, and only a client's registration yields one.
//!
//! [`RedirectTarget`]: crate::domain::client::RedirectTarget

use std::time::Duration;

use http::{Method, StatusCode, header};

use super::browser::{self, Browser};
use super::consent::{self, Ends, Permission};
use super::interaction::Interaction;
use super::pages::Problem;
use super::response::{self, ReturnAddress};
use super::session;
use super::token::may_reach;
use super::web::{self, Parameters};
use super::{Answer, Call, Endpoints, openid, par, unavailable};
use crate::config::Upstream;
use crate::domain::client::{Client, ClientId, ClientOrigin, GrantType, RedirectTarget};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::{AuthorizationRequest, RequestDetails};
use crate::domain::pkce::CodeChallenge;
use crate::domain::scope::{OFFLINE_ACCESS, Scope};
use crate::domain::secret::{Secret, SecretKind};
use crate::domain::uri::Resource;
use crate::fetch::Patience;

/// Longest `nonce`: it comes back in an ID token.
const MAX_NONCE: usize = 1024;

/// How a request is refused.
enum Refusal {
    /// Shown to the person: nobody is known to whom the error could be sent.
    Page(OAuthError),
    /// Sent to the client.
    Redirect(ReturnAddress, OAuthError),
}

/// What `prompt` asks for (OpenID Connect Core §3.1.2.1); unknown values are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Prompt {
    /// No page at all.
    none: bool,
    /// Sign in again.
    login: bool,
    /// Ask again.
    consent: bool,
}

/// A request that passed every check.
struct Accepted<'a> {
    client: Client,
    upstream: &'a Upstream,
    back: ReturnAddress,
    code_challenge: Option<CodeChallenge>,
    scope: Scope,
    prompt: Prompt,
    max_age: Option<Duration>,
    hint: Option<String>,
    details: RequestDetails,
}

/// What a client asks for.
pub(super) struct Asked<'a> {
    /// Of which server.
    pub(super) upstream: &'a Upstream,
    /// How much.
    pub(super) scope: Scope,
}

/// Answers `/authorize`: with a page to sign in or consent on, or straight with a code where a person allowed this before.
pub async fn authorize(at: &Endpoints, call: &Call<'_>) -> Answer {
    let refusal = match accept(at, call).await {
        Ok(accepted) => {
            let back = accepted.back.clone();
            match begin(at, call, accepted).await {
                Ok(answer) => return answer,
                Err(error) => Refusal::Redirect(back, error),
            }
        }
        Err(refusal) => refusal,
    };
    match refusal {
        Refusal::Redirect(back, error) => back.error(at, &error),
        Refusal::Page(error) => refuse_unsent(at, call, &error),
    }
}

/// An error that cannot be sent to a client: a page for the person, or JSON for a program that asks for it. SDKs look
/// before they open the browser, and register again when they hear `invalid_client`. The status is 400 for both.
fn refuse_unsent(at: &Endpoints, call: &Call<'_>, error: &OAuthError) -> Answer {
    if wants_json(call) {
        let mut answer = web::error(error);
        if answer.status() == StatusCode::UNAUTHORIZED {
            *answer.status_mut() = StatusCode::BAD_REQUEST;
        }
        return answer;
    }
    web::log_cause(error);
    Problem::of_request(error).answer(at)
}

pub(super) fn wants_json(call: &Call<'_>) -> bool {
    let names = |what: &str| {
        let mut accepted = call.request.headers().get_all(header::ACCEPT).iter();
        accepted.any(|value| value.to_str().is_ok_and(|text| text.contains(what)))
    };
    names("application/json") && !names("text/html")
}

// --- the checks

async fn accept<'a>(at: &'a Endpoints, call: &Call<'_>) -> Result<Accepted<'a>, Refusal> {
    let parameters = read(at, call).await.map_err(Refusal::Page)?;
    let client = check_client(at, &parameters).await.map_err(Refusal::Page)?;
    let back = ReturnAddress {
        redirect: check_redirect_uri(&client, &parameters).map_err(Refusal::Page)?,
        state: parameters.get("state").map(str::to_owned),
    };
    match check_rest(at, &client, &parameters) {
        Ok(rest) => Ok(Accepted {
            client,
            upstream: rest.upstream,
            back,
            code_challenge: rest.code_challenge,
            scope: rest.scope,
            prompt: rest.prompt,
            max_age: rest.max_age,
            hint: parameters.get("id_token_hint").map(str::to_owned),
            details: rest.details,
        }),
        Err(error) => Err(Refusal::Redirect(back, error)),
    }
}

/// What the checks after client and redirect URI yield.
struct Rest<'a> {
    upstream: &'a Upstream,
    code_challenge: Option<CodeChallenge>,
    scope: Scope,
    prompt: Prompt,
    max_age: Option<Duration>,
    details: RequestDetails,
}

fn check_rest<'a>(at: &'a Endpoints, client: &Client, parameters: &Parameters) -> Result<Rest<'a>, OAuthError> {
    check_request_objects(parameters)?;
    check_response_type(client, parameters)?;
    check_response_mode(parameters)?;
    let code_challenge = check_pkce(at, client, parameters)?;
    let Asked { upstream, scope } = asked(at, client, parameters)?;
    Ok(Rest {
        upstream,
        code_challenge,
        scope,
        prompt: Prompt::parse(parameters.get("prompt").unwrap_or_default())?,
        max_age: check_max_age(parameters)?,
        details: details(at, parameters)?,
    })
}

/// The resource and scope that a request asks for, at `/authorize` and for a device.
pub(super) fn asked<'a>(at: &'a Endpoints, client: &Client, parameters: &Parameters) -> Result<Asked<'a>, OAuthError> {
    let upstream = check_resource(at, parameters)?;
    may_reach(client, upstream)?;
    let scope = check_scope(at, client, upstream, parameters)?;
    Ok(Asked { upstream, scope })
}

/// Holds a pushed request against the rules that it will meet at `/authorize` (RFC 9126 §2.1).
pub(super) fn check_pushed(at: &Endpoints, client: &Client, parameters: &Parameters) -> Result<(), OAuthError> {
    check_redirect_uri(client, parameters)?;
    check_rest(at, client, parameters).map(drop)
}

/// RFC 6749 §3.1: GET with a query, or POST with a form; nothing twice. A reference to a pushed request stands for all of
/// it, and nothing beside it counts (RFC 9126 §4).
async fn read(at: &Endpoints, call: &Call<'_>) -> Result<Parameters, OAuthError> {
    let parameters = if *call.request.method() == Method::POST {
        Parameters::of_form(call.request)?
    } else {
        Parameters::of_query(call.request)?
    };
    match parameters.get("request_uri") {
        Some(uri) if par::is_ours(at, uri) => par::take(at, uri, parameters.require("client_id")?).await,
        _ => Ok(parameters),
    }
}

/// OpenID Connect Core §3.1.2.1: how long ago the person may have signed in.
fn check_max_age(parameters: &Parameters) -> Result<Option<Duration>, OAuthError> {
    parameters
        .get("max_age")
        .map(str::parse::<u32>)
        .transpose()
        .map(|seconds| seconds.map(|seconds| Duration::from_secs(seconds.into())))
        .map_err(|_| OAuthError::invalid_request("max_age must be a number of seconds"))
}

/// What goes along to the tokens.
fn details(at: &Endpoints, parameters: &Parameters) -> Result<RequestDetails, OAuthError> {
    let nonce = parameters.get("nonce");
    if nonce.is_some_and(|nonce| nonce.len() > MAX_NONCE) {
        return Err(OAuthError::invalid_request("nonce is longer than 1024 bytes"));
    }
    let key = parameters.get("dpop_jkt").filter(|_| at.config.oauth.dpop);
    if key.is_some_and(|key| !is_thumbprint(key)) {
        return Err(OAuthError::invalid_request("dpop_jkt is not a SHA-256 thumbprint"));
    }
    // A hint that could not be a username is of no use to anybody.
    let hint = parameters.get("login_hint").filter(|hint| hint.chars().count() <= 128);
    Ok(RequestDetails {
        nonce: nonce.map(str::to_owned),
        login_hint: hint.map(str::to_owned),
        key: key.map(str::to_owned),
        ..RequestDetails::default()
    })
}

/// 32 bytes in base64url (RFC 7638, RFC 9449 §10).
fn is_thumbprint(text: &str) -> bool {
    text.len() == 43
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// RFC 6749 §4.1.2.1: an unknown client is never redirected anywhere.
async fn check_client(at: &Endpoints, parameters: &Parameters) -> Result<Client, OAuthError> {
    let unknown = || {
        OAuthError::new(
            ErrorCode::InvalidClient,
            "no client of this client_id is registered here",
        )
    };
    let id = ClientId::parse(parameters.require("client_id")?).ok_or_else(unknown)?;
    at.find_client(&id, Patience::STRICT).await?.ok_or_else(unknown)
}

/// RFC 6749 §3.1.2.3: it may be left out where exactly one is registered. OAuth 2.1 §4.1.3 wants the same text otherwise.
fn check_redirect_uri(client: &Client, parameters: &Parameters) -> Result<RedirectTarget, OAuthError> {
    let presented = match (parameters.get("redirect_uri"), client.redirect_uris.as_slice()) {
        (Some(presented), _) => presented,
        (None, [only]) => only.as_str(),
        (None, _) => return Err(OAuthError::invalid_request("redirect_uri is missing")),
    };
    let target = client
        .redirect_target(presented)
        .ok_or_else(|| OAuthError::invalid_request("redirect_uri is not one that this client registered"))?;
    let query = presented.split_once('?').map_or("", |(_, query)| query);
    let own = |name: &str| response::PARAMETERS.contains(&name);
    if form_urlencoded::parse(query.as_bytes()).any(|(name, _)| own(&name)) {
        return Err(OAuthError::invalid_request(
            "redirect_uri has a parameter in its query that belongs to the answer",
        ));
    }
    Ok(target)
}

/// RFC 9101 and OpenID Connect Core §6 are not offered, and ignoring them would ignore what the client asked for.
fn check_request_objects(parameters: &Parameters) -> Result<(), OAuthError> {
    for (name, code) in [
        ("request", ErrorCode::RequestNotSupported),
        ("request_uri", ErrorCode::RequestUriNotSupported),
    ] {
        if parameters.get(name).is_some() {
            return Err(OAuthError::new(code, format!("the parameter {name} is not supported")));
        }
    }
    Ok(())
}

/// RFC 6749 §3.1.1; a client that did not register for codes gets none (§4.1.2.1).
fn check_response_type(client: &Client, parameters: &Parameters) -> Result<(), OAuthError> {
    if parameters.require("response_type")? != "code" {
        return Err(OAuthError::new(
            ErrorCode::UnsupportedResponseType,
            "response_type must be code",
        ));
    }
    if !client.may_use(GrantType::AuthorizationCode) {
        return Err(OAuthError::new(
            ErrorCode::UnauthorizedClient,
            "this client is not registered for the authorization code grant",
        ));
    }
    Ok(())
}

fn check_response_mode(parameters: &Parameters) -> Result<(), OAuthError> {
    match parameters.get("response_mode") {
        None | Some("query") => Ok(()),
        Some(_) => Err(OAuthError::invalid_request("response_mode must be query")),
    }
}

/// RFC 7636 §4.3, §4.4.1: S256 for everybody; only confidential clients may go without, and only where the configuration
/// says so. A missing method would mean `plain`.
fn check_pkce(at: &Endpoints, client: &Client, parameters: &Parameters) -> Result<Option<CodeChallenge>, OAuthError> {
    let (challenge, method) = (
        parameters.get("code_challenge"),
        parameters.get("code_challenge_method"),
    );
    let Some(challenge) = challenge else {
        let optional = !at.config.oauth.require_pkce && client.is_confidential() && method.is_none();
        return if optional {
            Ok(None)
        } else {
            Err(OAuthError::invalid_request("code_challenge is missing"))
        };
    };
    if method != Some("S256") {
        return Err(OAuthError::invalid_request("code_challenge_method must be S256"));
    }
    let challenge = CodeChallenge::parse(challenge).map_err(|error| OAuthError::invalid_request(error.to_string()))?;
    Ok(Some(challenge))
}

/// RFC 8707 §2: exactly one upstream. Our bare origin stands for the one that clients of older revisions find there; no
/// token is ever good for everything.
fn check_resource<'a>(at: &'a Endpoints, parameters: &Parameters) -> Result<&'a Upstream, OAuthError> {
    let invalid = |description: &'static str| OAuthError::new(ErrorCode::InvalidTarget, description);
    let mut named: Option<Resource> = None;
    for text in parameters.all("resource") {
        let resource = Resource::parse(text)
            .map_err(|_| invalid("resource must be an absolute http or https URI without a fragment"))?;
        if named.as_ref().is_some_and(|other| *other != resource) {
            return Err(invalid("only one resource can be asked for at a time"));
        }
        named = Some(resource);
    }
    let root = || at.config.root_upstream();
    match named {
        None => {
            root().ok_or_else(|| invalid("resource is missing, and this gateway has several servers to choose from"))
        }
        Some(resource) => at
            .config
            .upstream_for(&resource)
            .or_else(|| root().filter(|_| resource.as_str() == at.config.public_url.origin))
            .ok_or_else(|| invalid("resource is not a server behind this gateway")),
    }
}

/// RFC 6749 §3.3: what nobody here knows is dropped, since clients ask for `openid` and the like unseen; the token response
/// says what was granted. `offline_access` can always be asked for. What the operator wrote down for a client binds it.
fn check_scope(
    at: &Endpoints,
    client: &Client,
    upstream: &Upstream,
    parameters: &Parameters,
) -> Result<Scope, OAuthError> {
    let asked: Scope =
        parameters
            .get("scope")
            .unwrap_or_default()
            .parse()
            .map_err(|error: crate::domain::scope::InvalidScope| {
                OAuthError::new(ErrorCode::InvalidScope, error.to_string())
            })?;
    let usable = usable(at, client, upstream, &asked);
    if usable.is_empty() {
        return Ok(self::usable(at, client, upstream, &at.config.default_scope(upstream)));
    }
    Ok(usable)
}

/// As much of a scope as exists for an upstream and a client may have.
pub(super) fn usable(at: &Endpoints, client: &Client, upstream: &Upstream, scope: &Scope) -> Scope {
    let known = at.config.scopes_of(upstream);
    let registered = client
        .scope
        .as_ref()
        .filter(|_| client.origin == ClientOrigin::Configured);
    let may_ask = |name: &str| name == OFFLINE_ACCESS || registered.is_none_or(|scope| scope.contains(name));
    scope.filtered(|token| {
        let name = token.as_str();
        may_ask(name) && (name == OFFLINE_ACCESS || known.contains(name))
    })
}

// --- what happens then

/// Puts the request on record and decides which page comes first, if any. Errors go to the client.
async fn begin(at: &Endpoints, call: &Call<'_>, accepted: Accepted<'_>) -> Result<Answer, OAuthError> {
    let signed_in = session::signed_in(at, call).await.map_err(unavailable)?;
    let mut prompt = accepted.prompt;
    let browser = Browser::of_or_new(at, call);
    let now = at.now();
    if let Some(signed_in) = &signed_in {
        let age = now.since(signed_in.session.authenticated_at);
        let too_long_ago = accepted.max_age.is_some_and(|most| most.is_zero() || age > most);
        let hinted = match &accepted.hint {
            Some(hint) => openid::hinted(at, hint).await?,
            None => None,
        };
        let somebody_else = hinted.is_some_and(|subject| subject != signed_in.user.subject.as_str());
        if prompt.none && somebody_else {
            return Err(openid::other_person());
        }
        if prompt.none && too_long_ago {
            return Err(OAuthError::new(
                ErrorCode::LoginRequired,
                "the person signed in too long ago",
            ));
        }
        prompt.login |= too_long_ago || somebody_else;
    }
    let mut interaction = Interaction {
        id: Secret::generate(SecretKind::Authorization),
        request: AuthorizationRequest {
            client_id: accepted.client.id.clone(),
            redirect: accepted.back.redirect,
            state: accepted.back.state,
            code_challenge: accepted.code_challenge,
            scope: accepted.scope,
            resource: accepted.upstream.resource.clone(),
            browser: browser.hash(),
            sign_in_again: prompt.login,
            ask_again: prompt.consent,
            details: RequestDetails {
                source: Some(browser::source(at, call)),
                max_age: accepted.max_age.map(|most| most.as_secs()),
                ..accepted.details
            },
            created_at: now,
            expires_at: now.plus(Duration::from_secs(browser::LIFETIME)),
        },
        browser,
        client: accepted.client,
        upstream: accepted.upstream,
    };
    let permission = match &signed_in {
        Some(signed_in) => Some(consent::permission(at, &interaction, signed_in).await?),
        None => None,
    };
    if prompt.none {
        let (Some(signed_in), Some(permission)) = (&signed_in, permission) else {
            return Err(OAuthError::new(ErrorCode::LoginRequired, "nobody is signed in"));
        };
        return match permission {
            Permission::Remembered(scope) => consent::approve(at, &interaction, signed_in, scope, Ends::Nothing).await,
            Permission::Ask(_) => Err(OAuthError::new(ErrorCode::ConsentRequired, "consent is needed")),
            Permission::Denied(error) => Err(error),
        };
    }
    // An account that may not have this is no reason to turn its owner away: they may have another.
    interaction.request.sign_in_again |= matches!(permission, Some(Permission::Denied(_)));
    let mut answer = match (&signed_in, permission) {
        (Some(signed_in), Some(Permission::Remembered(scope))) if !prompt.login => {
            consent::approve(at, &interaction, signed_in, scope, Ends::Nothing).await?
        }
        (Some(_), Some(_)) if !interaction.request.sign_in_again => {
            put_on_record(at, &interaction).await?;
            interaction.redirect_to(at, "/consent")
        }
        _ => {
            put_on_record(at, &interaction).await?;
            interaction.ask_to_sign_in(at).await?
        }
    };
    interaction.browser.remember(at, answer.headers_mut());
    Ok(answer)
}

async fn put_on_record(at: &Endpoints, interaction: &Interaction<'_>) -> Result<(), OAuthError> {
    let id = interaction.id.hash();
    at.store
        .begin_authorization(&id, &interaction.request)
        .await
        .map_err(unavailable)
}

// === impl Prompt ===

impl Prompt {
    /// Reads a list of values; `none` stands alone.
    fn parse(text: &str) -> Result<Self, OAuthError> {
        let mut prompt = Self::default();
        for value in text.split(' ') {
            match value {
                "none" => prompt.none = true,
                // Choosing an account is signing in with it.
                "login" | "select_account" => prompt.login = true,
                "consent" => prompt.consent = true,
                _ => {}
            }
        }
        if prompt.none && (prompt.login || prompt.consent) {
            return Err(OAuthError::invalid_request("prompt=none cannot be combined"));
        }
        Ok(prompt)
    }
}
