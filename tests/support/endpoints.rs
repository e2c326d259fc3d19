//! The endpoints without the proxy: a configuration, a store, and a clock that stands still.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for tests, each of which is a crate of its own and uses its part of this"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Request, StatusCode};
use mcpgate::config::{
    Account, ClientHosts, Config, Limits, OAuthConfig, PublicUrl, RootResource, ScopeInfo, SecondFactor, StoreConfig,
    Upstream, UpstreamTls, UpstreamUrl,
};
use mcpgate::domain::client::{Client, ClientId};
use mcpgate::domain::clock::{Clock as _, ManualClock, Timestamp};
use mcpgate::domain::grant::{AuthorizationCode, AuthorizationRequest, LiveToken, RequestDetails};
use mcpgate::domain::network::Networks;
use mcpgate::domain::pkce::CodeChallenge;
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::{Secret, SecretKind};
use mcpgate::domain::uri::{HostPattern, Resource};
use mcpgate::domain::user::{Subject, User};
use mcpgate::fetch::{Fetcher, Kind, Network, Observer, Reach, Rules};
use mcpgate::identity::Identity;
use mcpgate::mcp::session::Sessions;
use mcpgate::oauth::dpop::Proofs;
use mcpgate::oauth::remote::Remote;
use mcpgate::oauth::{Call, Endpoints};
use mcpgate::store::{Approval, Store};
use mcpgate::telemetry::Metrics;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::memory::Memory;

/// The issuer.
pub const ORIGIN: &str = "https://gw.example";
/// What the first upstream is known as; it needs `files:read`.
pub const FILES: &str = "https://gw.example/files/mcp";
/// What the second upstream is known as.
pub const NOTES: &str = "https://gw.example/notes";
/// RFC 7636, Appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
/// Where the clients here want their codes.
pub const REDIRECT: &str = "http://127.0.0.1:5555/cb";

/// The configuration of these tests. `ada` is in no group that may have `files:admin`.
pub fn config() -> Config {
    let upstream = |name: &str, path: &str, scopes: &str| Upstream {
        name: name.to_owned(),
        path: path.to_owned(),
        host: None,
        resource: Resource::parse(&format!("{ORIGIN}{path}")).unwrap(),
        url: UpstreamUrl {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: 3001,
            authority: "127.0.0.1:3001".to_owned(),
            path: "/mcp".to_owned(),
        },
        scopes: scopes.parse().unwrap(),
        rules: mcpgate::domain::rules::Rules::default(),
        filter_lists: true,
        identity_headers: Vec::new(),
        identity_jwt: None,
        headers: Vec::new(),
        allowed_origins: Vec::new(),
        bind_sessions: true,
        keep_alive: None,
        limits: Limits::default(),
        tls: UpstreamTls::default(),
        http2: false,
    };
    let scope = |name: &str, groups: Option<&str>| ScopeInfo {
        name: name.parse().unwrap(),
        description: None,
        groups: groups.map(|group| vec![group.to_owned()]),
        implies: Scope::empty(),
    };
    Config {
        public_url: PublicUrl {
            origin: ORIGIN.to_owned(),
            scheme: "https",
            host: "gw.example".to_owned(),
            port: None,
            loopback: false,
        },
        listen: Vec::new(),
        identity_providers: Vec::new(),
        admin_token: None,
        audit: None,
        second_factor: SecondFactor::Optional,
        admin: ([127, 0, 0, 1], 0).into(),
        store: StoreConfig::Sled { path: PathBuf::new() },
        oauth: OAuthConfig {
            scopes: "openid profile email offline_access".parse().unwrap(),
            code_expires_in: Duration::from_secs(600),
            access_token_expires_in: Duration::from_secs(3600),
            refresh_token_expires_in: Duration::from_secs(7 * 24 * 3600),
            require_pkce: true,
            refresh_grace: Duration::from_secs(60),
            issuer_in_response: true,
            endpoint_prefix: String::new(),
            root_resource: RootResource::Auto,
            login_page: None,
            personal_access_tokens: true,
            dynamic_registration: true,
            client_documents: Some(ClientHosts {
                allowed: vec![HostPattern::parse("*").unwrap()],
                denied: Vec::new(),
            }),
            allowed_redirect_hosts: vec![HostPattern::parse("*").unwrap()],
            clients: Vec::new(),
            ..OAuthConfig::default()
        },
        scopes: vec![scope("files:write", None), scope("files:admin", Some("admins"))],
        users: vec![Account {
            user: User {
                subject: Subject::of_username("ada").unwrap(),
                username: "ada".to_owned(),
                email: None,
                name: None,
                groups: vec!["engineering".to_owned()],
            },
            password_hash: Zeroizing::new("nobody signs in here".to_owned()),
        }],
        upstreams: vec![
            upstream("files", "/files/mcp", "files:read"),
            upstream("notes", "/notes", ""),
        ],
        outbound_roots: Vec::new(),
        trusted_proxies: Networks::default(),
        watch_files: false,
        files: Vec::new(),
    }
}

/// A network without names.
struct Nowhere;

#[async_trait]
impl Network for Nowhere {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }
}

/// Counts fetches as the gateway does.
struct Fetches(Arc<Metrics>);

impl Observer for Fetches {
    fn fetched(&self, kind: Kind, outcome: &'static str) {
        self.0.fetch(kind.as_str(), outcome);
    }
}

pub struct Gateway {
    pub at: Endpoints,
    pub clock: Arc<ManualClock>,
}

/// An answer, read to the end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

/// What a code stands for.
pub struct Allowed<'a> {
    pub subject: &'a str,
    pub scope: &'a str,
    pub resource: &'a str,
    pub challenge: bool,
}

impl Default for Allowed<'_> {
    fn default() -> Self {
        Self {
            subject: "ada",
            scope: "files:read files:write",
            resource: FILES,
            challenge: true,
        }
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    /// A member that is text.
    pub fn text_of(&self, member: &str) -> String {
        self.json()[member]
            .as_str()
            .unwrap_or_else(|| panic!("{member} in {}", self.text))
            .to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that this is an OAuth error of this kind, in JSON, kept out of caches.
    #[track_caller]
    pub fn refused(&self, status: u16, error: &str) {
        assert_eq!(
            (self.status.as_u16(), self.json()["error"].as_str()),
            (status, Some(error)),
            "{}",
            self.text
        );
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let description = self.text_of("error_description");
        // RFC 6749 §5.2.
        assert!(
            description
                .bytes()
                .all(|b| matches!(b, 0x20..=0x7e) && b != b'"' && b != b'\\'),
            "{description}"
        );
    }

    #[track_caller]
    pub fn fine(self) -> Self {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text);
        self
    }
}

/// Whether a document has no `null`, no empty text and no empty list in it, at any depth.
pub fn has_no_holes(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(entries) => !entries.is_empty() && entries.iter().all(has_no_holes),
        Value::Object(members) => members.values().all(has_no_holes),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The form of these parameters.
pub fn form(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish()
}

impl Gateway {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The endpoints of a configuration that differs in this.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config();
        change(&mut config);
        Self::on(config, Arc::new(Memory::default()))
    }

    /// The endpoints on any store. Names lead nowhere.
    pub fn on(config: Config, store: Arc<dyn Store>) -> Self {
        let nowhere: Arc<dyn Network> = Arc::new(Nowhere);
        Self::in_network(config, store, &nowhere)
    }

    /// The endpoints in a network of the test's own.
    pub fn in_network(config: Config, store: Arc<dyn Store>, network: &Arc<dyn Network>) -> Self {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let fetcher = |reach| {
            let roots = config.outbound_roots.clone();
            let observer = Arc::new(Fetches(Arc::clone(&metrics)));
            let (network, clock) = (Arc::clone(network), clock.clone());
            Arc::new(Fetcher::new(Rules { reach, roots }, network, clock, observer).unwrap())
        };
        let strangers = if config.public_url.loopback {
            Reach::ThisMachine
        } else {
            Reach::Public
        };
        let remote = Remote::new(fetcher(strangers), fetcher(Reach::Anywhere));
        let at = Endpoints {
            remote: Arc::new(remote),
            identity: Arc::new(Identity::new(Arc::clone(&config), Arc::clone(&store))),
            config,
            store,
            metrics,
            clock: clock.clone(),
            signing_key: [7; 32],
            sessions: Sessions::new(&[8; 32]),
            keyring: Arc::default(),
            // Started a while ago: proofs of now need no nonce.
            proofs: Arc::new(Proofs::new([8; 32], Timestamp::from_millis(1_799_999_000_000))),
            limits: Arc::default(),
        };
        Self { at, clock }
    }

    pub async fn send(&self, request: Request<Bytes>) -> Reply {
        let (route, about) = self.at.route(request.uri().path()).expect("an endpoint's path");
        let call = Call {
            request: &request,
            about,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let answer = self.at.handle(route, &call).await;
        let reply = Reply {
            status: answer.status(),
            headers: answer.headers().clone(),
            text: String::from_utf8(answer.into_body().to_vec()).unwrap(),
        };
        if !reply.text.is_empty() {
            assert!(has_no_holes(&reply.json()), "{}", reply.text);
        }
        reply
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(
            Request::get(path)
                .header("host", "gw.example")
                .body(Bytes::new())
                .unwrap(),
        )
        .await
    }

    pub async fn get_on(&self, host: &str, path: &str) -> Reply {
        self.send(Request::get(path).header("host", host).body(Bytes::new()).unwrap())
            .await
    }

    /// Posts a form, with an `Authorization` header or without.
    pub async fn post(&self, path: &str, authorization: Option<&str>, parameters: &[(&str, &str)]) -> Reply {
        let mut request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        self.send(request.body(Bytes::from(form(parameters))).unwrap()).await
    }

    pub async fn token(&self, parameters: &[(&str, &str)]) -> Reply {
        self.post("/token", None, parameters).await
    }

    pub async fn register_text(&self, document: impl Into<String>) -> Reply {
        let request = Request::post("/register")
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(document.into()))
            .unwrap();
        self.send(request).await
    }

    pub async fn register(&self, document: &Value) -> Reply {
        self.register_text(document.to_string()).await
    }

    /// The id of a public client that registered for these grants.
    pub async fn public_client(&self, grants: &[&str]) -> String {
        let document = json!({
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "grant_types": grants,
        });
        self.register(&document).await.fine().text_of("client_id")
    }

    /// The id of a client that may do everything.
    pub async fn usual_client(&self) -> String {
        self.public_client(&["authorization_code", "refresh_token"]).await
    }

    pub async fn client(&self, id: &str) -> Client {
        let id = ClientId::parse(id).unwrap();
        self.at.client(&id).await.unwrap().expect("a client")
    }

    /// A code as the consent page would have made it.
    pub async fn code(&self, client_id: &str, allowed: Allowed<'_>) -> String {
        let redirect = self.client(client_id).await.redirect_target(REDIRECT).unwrap();
        let (request_id, code) = (
            Secret::generate(SecretKind::Authorization).hash(),
            Secret::generate(SecretKind::AuthorizationCode),
        );
        let (client_id, now) = (ClientId::parse(client_id).unwrap(), self.clock.now());
        let scope: Scope = allowed.scope.parse().unwrap();
        let resource = Resource::parse(allowed.resource).unwrap();
        let code_challenge = allowed.challenge.then(|| CodeChallenge::of(VERIFIER).unwrap());
        let request = AuthorizationRequest {
            client_id: client_id.clone(),
            redirect: redirect.clone(),
            state: None,
            code_challenge: code_challenge.clone(),
            scope: scope.clone(),
            resource: resource.clone(),
            browser: Secret::generate(SecretKind::Browser).hash(),
            sign_in_again: false,
            ask_again: false,
            details: RequestDetails::default(),
            created_at: now,
            expires_at: now.plus(Duration::from_secs(600)),
        };
        self.at.store.begin_authorization(&request_id, &request).await.unwrap();
        let record = AuthorizationCode {
            client_id,
            redirect,
            code_challenge,
            scope,
            resource,
            subject: Subject::of_username(allowed.subject).unwrap(),
            authenticated_at: now,
            details: RequestDetails::default(),
            expires_at: now.plus(self.at.config.oauth.code_expires_in),
            redeemed: None,
            failed_attempts: 0,
        };
        let approval = self
            .at
            .store
            .approve(Some(&request_id), (&code.hash(), &record), None)
            .await;
        assert_eq!(approval.unwrap(), Approval::Done);
        code.expose().to_owned()
    }

    /// Redeems a code as its client should.
    pub async fn redeem(&self, client_id: &str, code: &str) -> Reply {
        self.token(&[
            ("grant_type", "authorization_code"),
            ("client_id", client_id),
            ("code", code),
            ("redirect_uri", REDIRECT),
            ("code_verifier", VERIFIER),
        ])
        .await
    }

    /// The tokens of a fresh authorization.
    pub async fn tokens(&self, client_id: &str) -> (String, String) {
        let code = self.code(client_id, Allowed::default()).await;
        let reply = self.redeem(client_id, &code).await.fine();
        (reply.text_of("access_token"), reply.text_of("refresh_token"))
    }

    pub async fn refresh(&self, client_id: &str, token: &str) -> Reply {
        self.refresh_with(client_id, token, &[]).await
    }

    pub async fn refresh_with(&self, client_id: &str, token: &str, more: &[(&str, &str)]) -> Reply {
        let usual = [
            ("grant_type", "refresh_token"),
            ("client_id", client_id),
            ("refresh_token", token),
        ];
        self.token(&[&usual[..], more].concat()).await
    }

    /// What an access token is good for now, if anything.
    pub async fn live(&self, access_token: &str) -> Option<LiveToken> {
        let token = Secret::parse(SecretKind::AccessToken, access_token).expect("the shape of an access token");
        let live = self.at.store.access_token(&token.hash()).await.unwrap();
        live.filter(|live| live.is_alive(self.clock.now()))
    }

    pub fn later(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub fn metric(&self, line: &str) -> bool {
        self.at.metrics.render().unwrap().lines().any(|own| own == line)
    }
}
