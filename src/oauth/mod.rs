//! Floor 3: the authorization server, as functions from a request to a response. Nothing here knows the proxy engine.
//!
//! [`ROUTES`] is the whole of it on one screen. Every body is small and read in full beforehand; every answer is small.
//! A new endpoint is a file, a [`Route`], a row in [`ROUTES`] and an arm in [`Endpoints::answer`].

pub mod account;
pub mod authorize;
pub mod backchannel;
mod browser;
mod client_assertion;
pub mod client_auth;
mod client_document;
mod client_keys;
mod consent;
mod cookie;
pub mod device;
pub mod discovery;
pub mod dpop;
pub mod elsewhere;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity_assertion;
pub mod interaction;
pub mod introspect;
pub mod keyring;
pub mod limits;
pub mod login_page;
pub mod manage;
mod metadata;
pub mod openid;
pub mod pages;
pub mod par;
pub mod password;
pub mod protected;
pub mod quirks;
pub mod register;
pub mod remote;
mod response;
pub mod revoke;
pub mod second;
pub mod security;
pub mod session;
pub(crate) mod standing;
pub mod token;
pub mod web;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};

use crate::config::Config;
use crate::domain::client::{Client, ClientId};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::error::{ErrorCode, OAuthError};
use crate::domain::grant::Grant;
use crate::domain::user::Subject;
use crate::fetch::Patience;
use crate::identity::Identity;
use crate::mcp::session::Sessions;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use remote::Remote;

/// Most bytes of a body that an endpoint reads.
pub const MAX_BODY: usize = 64 << 10;

/// What the answer of an endpoint is.
pub type Answer = Response<Bytes>;

/// The parts that the endpoints need.
pub struct Endpoints {
    /// The checked configuration.
    pub config: Arc<Config>,
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// What others publish.
    pub remote: Arc<Remote>,
    /// Who can sign in.
    pub identity: Arc<Identity>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Signs `oidc_login_prompt` and form tokens.
    pub signing_key: [u8; 32],
    /// Ties the sessions of upstreams to those who began them.
    pub sessions: Sessions,
    /// Signs what others verify.
    pub keyring: Arc<keyring::Keyring>,
    /// What is remembered of proofs of possession.
    pub proofs: Arc<dpop::Proofs>,
    /// How often addresses have called.
    pub limits: Arc<limits::Memory>,
}

/// What a path of ours leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the paths in ROUTES")]
pub enum Route {
    Authorize,
    Token,
    Register,
    /// Below `/register/`: one client's registration (RFC 7592).
    ClientConfiguration,
    Revoke,
    Introspect,
    PushedRequest,
    DeviceAuthorization,
    UserInfo,
    Jwks,
    Device,
    Login,
    /// What the operator's own sign-in page says of a challenge.
    LoginAccept,
    LoginReject,
    Consent,
    Account,
    /// Where somebody chooses a password: at sign-in, and on the page of their account.
    LoginPassword,
    AccountPassword,
    /// Where somebody shows their second factor at sign-in, and where they set one up.
    LoginSecond,
    AccountSecurity,
    Logout,
    /// Below `/login/provider/`: the way to an identity provider.
    ProviderStart,
    /// Below `/login/callback/`: the way back.
    ProviderCallback,
    /// Below `/logout/backchannel/`: a provider says that somebody signed out there.
    BackchannelLogout,
    AuthorizationServer,
    OpenIdConfiguration,
    ProtectedResource,
    /// A path below `/.well-known/` that we do not serve, or an endpoint of a later version: 404 in JSON, never the
    /// upstream's.
    Reserved,
}

/// Who calls an endpoint: decides its CORS answer, and whether an error is a page or JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Programs, on any web page: CORS for everyone, without credentials.
    Programs,
    /// People: never CORS (RFC 9700 §2.6).
    People,
}

/// Every endpoint with a fixed path. They answer at the root, where clients of revision 2025-03-26 look without asking,
/// and under the configured prefix.
pub const ROUTES: &[(&str, Route)] = &[
    ("/authorize", Route::Authorize),
    ("/token", Route::Token),
    ("/register", Route::Register),
    ("/revoke", Route::Revoke),
    ("/login", Route::Login),
    ("/login/password", Route::LoginPassword),
    ("/account/password", Route::AccountPassword),
    ("/login/second", Route::LoginSecond),
    ("/account/security", Route::AccountSecurity),
    ("/login/accept", Route::LoginAccept),
    ("/login/reject", Route::LoginReject),
    ("/consent", Route::Consent),
    ("/logout", Route::Logout),
    ("/introspect", Route::Introspect),
    ("/par", Route::PushedRequest),
    ("/device_authorization", Route::DeviceAuthorization),
    ("/device", Route::Device),
    ("/userinfo", Route::UserInfo),
    ("/jwks.json", Route::Jwks),
    ("/account", Route::Account),
];

/// What the address of a client's registration begins with (RFC 7592 §1.1).
pub const REGISTRATIONS: &str = "/register/";
/// RFC 8414 §3.
pub const AUTHORIZATION_SERVER: &str = "/.well-known/oauth-authorization-server";
/// OpenID Connect Discovery §4.
pub const OPENID_CONFIGURATION: &str = "/.well-known/openid-configuration";
/// RFC 9728 §3.
pub const PROTECTED_RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A request to an endpoint, and where it came from.
pub struct Call<'a> {
    /// The whole request.
    pub request: &'a Request<Bytes>,
    /// For a well-known document: the path of the resource that it is about, inserted or appended. For a client's
    /// registration: the client's id. For the way to a provider and back: the provider's. Else empty.
    pub about: &'a str,
    /// The other end of the connection.
    pub address: IpAddr,
}

// === impl Route ===

impl Route {
    /// Who calls it.
    #[must_use]
    pub const fn audience(self) -> Audience {
        match self {
            Self::Authorize
            | Self::Login
            | Self::LoginPassword
            | Self::Consent
            | Self::Account
            | Self::AccountPassword
            | Self::LoginSecond
            | Self::AccountSecurity
            | Self::Logout
            | Self::Device
            | Self::ProviderStart
            | Self::ProviderCallback => Audience::People,
            Self::Token
            | Self::LoginAccept
            | Self::LoginReject
            | Self::Register
            | Self::ClientConfiguration
            | Self::Revoke
            | Self::Introspect
            | Self::PushedRequest
            | Self::DeviceAuthorization
            | Self::UserInfo
            | Self::Jwks
            | Self::BackchannelLogout
            | Self::AuthorizationServer
            | Self::OpenIdConfiguration
            | Self::ProtectedResource
            | Self::Reserved => Audience::Programs,
        }
    }

    /// Lets web pages read an answer of this endpoint, if it is for programs: every answer, whoever writes it, or a page
    /// cannot tell an error from a network that failed.
    pub fn share(self, answer: &mut Answer) {
        if self.audience() == Audience::Programs {
            let headers = answer.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("WWW-Authenticate, Retry-After, DPoP-Nonce"),
            );
        }
    }

    /// What `Allow` says (RFC 9110 §10.2.1).
    fn allowed(self) -> Vec<&'static str> {
        let methods = self.methods();
        let get = methods.contains(&Method::GET);
        let options = self.audience() == Audience::Programs;
        [
            (get, "GET"),
            (get, "HEAD"),
            (methods.contains(&Method::POST), "POST"),
            (methods.contains(&Method::PUT), "PUT"),
            (methods.contains(&Method::DELETE), "DELETE"),
            (options, "OPTIONS"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect()
    }

    /// What it may be called with; HEAD comes with GET.
    const fn methods(self) -> &'static [Method] {
        match self {
            Self::Authorize
            | Self::Login
            | Self::LoginPassword
            | Self::Consent
            | Self::Account
            | Self::AccountPassword
            | Self::LoginSecond
            | Self::AccountSecurity
            | Self::Logout
            | Self::Device
            | Self::ProviderStart
            | Self::UserInfo => &[Method::GET, Method::POST],
            Self::Token
            | Self::LoginAccept
            | Self::LoginReject
            | Self::Register
            | Self::Revoke
            | Self::Introspect
            | Self::PushedRequest
            | Self::BackchannelLogout
            | Self::DeviceAuthorization => &[Method::POST],
            Self::ClientConfiguration => &[Method::GET, Method::PUT, Method::DELETE],
            Self::Jwks
            | Self::ProviderCallback
            | Self::AuthorizationServer
            | Self::OpenIdConfiguration
            | Self::ProtectedResource
            | Self::Reserved => &[Method::GET],
        }
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// The same under another configuration: what is remembered and counted goes on.
    #[must_use]
    pub fn with(&self, config: Arc<Config>, remote: Arc<Remote>) -> Self {
        Self {
            identity: Arc::new(self.identity.with(Arc::clone(&config))),
            config,
            remote,
            store: Arc::clone(&self.store),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
            signing_key: self.signing_key,
            sessions: self.sessions.clone(),
            keyring: Arc::clone(&self.keyring),
            proofs: Arc::clone(&self.proofs),
            limits: Arc::clone(&self.limits),
        }
    }

    /// Which endpoint a path belongs to, and for well-known documents what they are about. `None`: it may be an upstream's.
    #[must_use]
    pub fn route<'a>(&self, path: &'a str) -> Option<(Route, &'a str)> {
        let prefix = self.config.oauth.endpoint_prefix.as_str();
        let bare = path
            .strip_prefix(prefix)
            .filter(|rest| !prefix.is_empty() && rest.starts_with('/'))
            .unwrap_or(path);
        if let Some((_, route)) = ROUTES.iter().find(|(own, _)| *own == bare) {
            return Some((*route, ""));
        }
        for (start, route) in [
            (REGISTRATIONS, Route::ClientConfiguration),
            (elsewhere::START, Route::ProviderStart),
            (elsewhere::CALLBACK, Route::ProviderCallback),
            (backchannel::BACKCHANNEL, Route::BackchannelLogout),
        ] {
            if let Some(about) = bare.strip_prefix(start).filter(|id| !id.is_empty()) {
                return Some((route, about));
            }
        }
        for (document, route) in [
            (AUTHORIZATION_SERVER, Route::AuthorizationServer),
            (OPENID_CONFIGURATION, Route::OpenIdConfiguration),
            (PROTECTED_RESOURCE, Route::ProtectedResource),
        ] {
            // Inserted: /.well-known/x/mount (RFC 8414 §3.1). Appended: /mount/.well-known/x, which some clients try first.
            if let Some(about) = path
                .strip_prefix(document)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            {
                return Some((route, about));
            }
            if let Some(about) = path.strip_suffix('/').unwrap_or(path).strip_suffix(document) {
                return Some((route, about));
            }
        }
        path.contains("/.well-known/").then_some((Route::Reserved, ""))
    }

    /// Answers a request to an endpoint: method, preflight and CORS here, the rest in the endpoint's own file.
    pub async fn handle(&self, route: Route, call: &Call<'_>) -> Answer {
        let method = call.request.method();
        let mut answer = if *method == Method::OPTIONS && route.audience() == Audience::Programs {
            preflight(route)
        } else if route == Route::Reserved {
            not_found()
        } else if route.methods().contains(method)
            || (*method == Method::HEAD && route.methods().contains(&Method::GET))
        {
            match limits::admit(self, route, call) {
                Ok(admission) => {
                    let answer = self.answer(route, call).await;
                    admission.settle(self, &answer);
                    answer
                }
                Err(too_often) => *too_often,
            }
        } else {
            let mut answer = web::error(&OAuthError::invalid_request("this method is not allowed here"));
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            if let Ok(allowed) = HeaderValue::from_str(&route.allowed().join(", ")) {
                answer.headers_mut().insert(header::ALLOW, allowed);
            }
            answer
        };
        route.share(&mut answer);
        answer
            .headers_mut()
            .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }

    async fn answer(&self, route: Route, call: &Call<'_>) -> Answer {
        match route {
            Route::Authorize => authorize::authorize(self, call).await,
            Route::Token => token::token(self, call).await,
            Route::Register => register::register(self, call).await,
            Route::ClientConfiguration => manage::manage(self, call).await,
            Route::Revoke => revoke::revoke(self, call).await,
            Route::Introspect => introspect::introspect(self, call).await,
            Route::PushedRequest => par::push(self, call).await,
            Route::DeviceAuthorization => device::begin(self, call).await,
            Route::Device => device::page(self, call).await,
            Route::UserInfo => openid::userinfo(self, call).await,
            Route::Jwks => openid::jwks(self).await,
            Route::Login => interaction::login(self, call).await,
            Route::LoginAccept => login_page::accept(self, call).await,
            Route::LoginReject => login_page::reject(self, call).await,
            Route::Consent => interaction::consent(self, call).await,
            Route::Account => account::account(self, call).await,
            Route::LoginPassword => password::at_sign_in(self, call).await,
            Route::AccountPassword => password::of_account(self, call).await,
            Route::LoginSecond => second::at_sign_in(self, call).await,
            Route::AccountSecurity => security::of_account(self, call).await,
            Route::Logout => interaction::logout(self, call).await,
            Route::ProviderStart => elsewhere::start(self, call).await,
            Route::ProviderCallback => elsewhere::callback(self, call).await,
            Route::BackchannelLogout => backchannel::logout(self, call).await,
            Route::AuthorizationServer => discovery::authorization_server(self, call),
            Route::OpenIdConfiguration => discovery::openid_configuration(self, call),
            Route::ProtectedResource => discovery::protected_resource(self, call),
            Route::Reserved => not_found(),
        }
    }

    /// The time of this request.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A client by its id: a configured one, one that has a metadata document there, or one that registered itself.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn client(&self, id: &ClientId) -> Result<Option<Client>, StoreError> {
        if let Some(client) = self.configured(id) {
            return Ok(Some(client.clone()));
        }
        if client_document::is_document(&self.config, id) {
            let found = client_document::find(self, id, Patience::LENIENT).await;
            return Ok(found.inspect_err(web::log_cause).ok());
        }
        self.store.client(id).await
    }

    /// The same, with the reason if a metadata document stands in the way, and with how old a copy of one may be.
    ///
    /// # Errors
    /// `invalid_client` if a document cannot be used, `temporarily_unavailable` if the store fails.
    pub(crate) async fn find_client(&self, id: &ClientId, patience: Patience) -> Result<Option<Client>, OAuthError> {
        if self.configured(id).is_none() && client_document::is_document(&self.config, id) {
            return client_document::find(self, id, patience).await.map(Some);
        }
        self.client(id).await.map_err(unavailable)
    }

    /// Whether tokens of this client still count. Nobody's site is asked for that: a document that cannot be had stops what
    /// is new, not what was allowed.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn knows_client(&self, id: &ClientId) -> Result<bool, StoreError> {
        if self.configured(id).is_some() || id.is_personal_token() {
            return Ok(true);
        }
        if client_document::is_document(&self.config, id) {
            return Ok(client_document::is_acceptable(&self.config, id));
        }
        Ok(self.store.client(id).await?.is_some())
    }

    fn configured(&self, id: &ClientId) -> Option<&Client> {
        self.config.oauth.clients.iter().find(|client| client.id == *id)
    }
}

impl Endpoints {
    /// Whether the one whom a grant speaks for is still there: its person, or the client itself.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn has_principal(&self, grant: &Grant) -> Result<bool, StoreError> {
        Ok(
            grant.subject == Subject::of_client(&grant.client_id)
                || self.identity.user(&grant.subject).await?.is_some(),
        )
    }
}

/// 404 in JSON: HTML with 200 where a document was looked for breaks clients.
#[must_use]
pub fn not_found() -> Answer {
    web::json_no_store(StatusCode::NOT_FOUND, &serde_json::json!({ "error": "not_found" }))
}

/// What an endpoint answers when the store fails: nothing is issued, nothing is let through.
#[must_use]
pub fn unavailable(error: StoreError) -> OAuthError {
    OAuthError::new(
        ErrorCode::TemporarilyUnavailable,
        "the gateway cannot reach its store; try again shortly",
    )
    .because(error)
}

/// The answer to a CORS preflight; SDKs send `MCP-Protocol-Version` even on discovery.
fn preflight(route: Route) -> Answer {
    let mut answer = web::empty(StatusCode::NO_CONTENT);
    let headers = answer.headers_mut();
    if let Ok(methods) = HeaderValue::from_str(&route.allowed().join(", ")) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Authorization, Content-Type, Accept, MCP-Protocol-Version, DPoP"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    answer
}
