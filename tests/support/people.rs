//! A person in front of a browser: it keeps cookies, reads forms and fills them in.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for tests, each of which is a crate of its own and uses its part of this"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, Version};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use mcpgate::config::{Account, Config};
use mcpgate::domain::client::{Client, ClientId, ClientOrigin, GrantType};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::grant::AuthorizationCode;
use mcpgate::domain::secret::{Secret, SecretHash, SecretKind};
use mcpgate::domain::uri::RedirectUri;
use mcpgate::domain::user::{Subject, User};
use mcpgate::oauth::Call;
use zeroize::Zeroizing;

use super::endpoints::{FILES, Gateway, VERIFIER, config, form};
use super::memory::Memory;

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";
/// A `state` in which everything could go wrong.
pub const STATE: &str = "a state: äß& +%2F=?#\"<x>";
/// The confidential client's redirect URI.
pub const WEB: &str = "https://app.example/cb";

/// A hash that takes next to no work, or these tests would measure argon2.
static HASH: LazyLock<String> = LazyLock::new(|| {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap())
        .hash_password_with_salt(PASSWORD.as_bytes(), b"salt of these tests")
        .unwrap()
        .to_string()
});

fn account(username: &str, groups: &[&str]) -> Account {
    Account {
        user: User {
            subject: Subject::of_username(username).unwrap(),
            username: username.to_owned(),
            email: None,
            name: None,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        },
        password_hash: Zeroizing::new(HASH.clone()),
    }
}

/// A client; with a secret it is confidential.
pub fn client(id: &str, redirect_uris: &[&str], secret: bool) -> Client {
    Client {
        id: ClientId::parse(id).unwrap(),
        origin: ClientOrigin::Registered,
        secret: secret.then(|| SecretHash::of("a secret")),
        auth_method: None,
        keys: None,
        redirect_uris: redirect_uris
            .iter()
            .map(|uri| RedirectUri::parse(uri, &config().oauth.allowed_redirect_hosts).unwrap())
            .collect(),
        grant_types: vec![GrantType::AuthorizationCode, GrantType::RefreshToken],
        scope: None,
        name: Some(format!("The {id} app")),
        display: mcpgate::domain::client::ClientDisplay::default(),
        id_token_algorithm: None,
        key_bound: false,
        permissions: mcpgate::domain::client::Permissions::default(),
        registration_token: None,
        created_at: Timestamp::from_millis(0),
    }
}

/// The configuration of these tests: ada is an engineer, root an admin. Clients stand in it, which is quicker than to
/// register them.
pub fn people_config() -> Config {
    let mut config = config();
    config.users = vec![account("ada", &["engineering"]), account("root", &["admins"])];
    config.oauth.clients = vec![
        client("web", &[WEB], true),
        client("spa", &["https://spa.example/cb"], false),
        client("local", &["http://127.0.0.1/cb"], false),
        client("local-secret", &["http://127.0.0.1/cb"], true),
        client("private", &["cursor://anysphere.cursor-mcp/oauth/callback"], false),
        client("two", &["https://two.example/a", "https://two.example/b?x=1"], true),
    ];
    config
}

/// The endpoints, and people to use them.
pub struct People {
    pub gateway: Gateway,
    pub store: Arc<Memory>,
}

/// What a browser got.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

/// A browser at an address.
pub struct Browser<'a> {
    people: &'a People,
    pub cookies: BTreeMap<String, String>,
    pub address: IpAddr,
    /// Sent with every request.
    pub headers: Vec<(&'static str, String)>,
}

impl People {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = people_config();
        change(&mut config);
        let store = Arc::new(Memory::default());
        Self {
            gateway: Gateway::on(config, store.clone()),
            store,
        }
    }

    pub fn browser(&self) -> Browser<'_> {
        Browser {
            people: self,
            cookies: BTreeMap::new(),
            address: [127, 0, 0, 1].into(),
            headers: Vec::new(),
        }
    }

    /// The record of the code that a client was given.
    pub async fn code(&self, seen: &Seen) -> AuthorizationCode {
        let code = seen.answer("code").unwrap_or_else(|| panic!("no code: {seen:?}"));
        let hash = Secret::parse(SecretKind::AuthorizationCode, &code).unwrap().hash();
        self.gateway
            .at
            .store
            .code(&hash)
            .await
            .unwrap()
            .expect("a code on record")
    }

    pub fn metric(&self, line: &str) -> bool {
        self.gateway.metric(line)
    }
}

/// The path and query of an authorization request; a value of nothing takes the usual parameter away.
pub fn request(client: &str, redirect: &str, changes: &[(&str, &str)]) -> String {
    format!("/authorize?{}", form(&pairs(client, redirect, changes)))
}

pub fn pairs<'a>(client: &'a str, redirect: &'a str, changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut pairs = vec![
        ("response_type", "code"),
        ("client_id", client),
        ("redirect_uri", redirect),
        ("state", STATE),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
        ("resource", FILES),
        ("scope", "files:read"),
    ];
    assert!(mcpgate::domain::pkce::CodeChallenge::of(VERIFIER).is_ok());
    pairs.retain(|(name, _)| !changes.iter().any(|(other, _)| other == name));
    pairs.extend(changes.iter().copied().filter(|(_, value)| !value.is_empty()));
    pairs
}

/// The usual request of the confidential client.
pub fn web(changes: &[(&str, &str)]) -> String {
    request("web", WEB, changes)
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn location(&self) -> &str {
        self.header("location")
            .unwrap_or_else(|| panic!("no redirect: {self:?}"))
    }

    /// A parameter of the answer to a client; asserts that it is there once at most.
    #[track_caller]
    pub fn answer(&self, name: &str) -> Option<String> {
        let query = self.location().split_once('?').map_or("", |(_, query)| query);
        let all: Vec<String> = form_urlencoded::parse(query.as_bytes())
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.into_owned())
            .collect();
        assert!(all.len() <= 1, "{name} twice in {}", self.location());
        all.into_iter().next()
    }

    /// Asserts that the client is told of this error, with everything that belongs to an answer.
    #[track_caller]
    pub fn refused(&self, redirect: &str, error: &str) {
        assert_eq!(self.status, 303, "{self:?}");
        assert!(self.location().starts_with(redirect), "{}", self.location());
        assert_eq!(self.answer("error").as_deref(), Some(error), "{}", self.location());
        assert_eq!(self.answer("code"), None);
        assert_eq!(self.answer("state").as_deref(), Some(STATE));
        assert_eq!(self.answer("iss").as_deref(), Some(super::endpoints::ORIGIN));
        let description = self.answer("error_description").expect("a description");
        assert!(
            description
                .bytes()
                .all(|b| matches!(b, 0x20..=0x7e) && b != b'"' && b != b'\\'),
            "{description}"
        );
    }

    /// Asserts that this is an error page, and nothing is sent anywhere.
    #[track_caller]
    pub fn page(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("location"), None);
        assert_eq!(self.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(self.text.contains(&format!("<code>{code}</code>")), "{}", self.text);
    }

    /// Asserts that this is the sign-in page.
    #[track_caller]
    pub fn asks_for_password(&self) -> &Self {
        assert!(
            self.status == 200 && self.text.contains("name=\"password\""),
            "{self:?}"
        );
        self
    }

    /// Asserts that this is the consent page.
    #[track_caller]
    pub fn asks_for_consent(&self) -> &Self {
        assert!(
            self.status == 200 && self.text.contains("name=\"decision\""),
            "{self:?}"
        );
        self
    }

    /// The hidden inputs of the form that posts to `action`.
    #[track_caller]
    pub fn hidden(&self, action: &str) -> Vec<(String, String)> {
        let start = format!("action=\"{action}\"");
        let form = self
            .text
            .split("<form")
            .find(|form| form.contains(&start))
            .unwrap_or_else(|| panic!("no {start} in {}", self.text));
        let attribute =
            |tag: &str, name: &str| Some(tag.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.to_owned());
        form.split("<input")
            .skip(1)
            .filter(|tag| attribute(tag, "type").as_deref() == Some("hidden"))
            .map(|tag| (attribute(tag, "name").unwrap(), attribute(tag, "value").unwrap()))
            .collect()
    }
}

impl Browser<'_> {
    pub async fn send(&mut self, method: Method, target: &str, body: Option<String>) -> Seen {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("accept", "text/html,*/*;q=0.8");
        if body.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Bytes::from(body.unwrap_or_default())).unwrap();
        let at = &self.people.gateway.at;
        let (route, about) = at.route(request.uri().path()).expect("an endpoint's path");
        let call = Call {
            request: &request,
            about,
            address: self.address,
        };
        let answer = at.handle(route, &call).await;
        for cookie in answer.headers().get_all("set-cookie") {
            let (pair, attributes) = cookie.to_str().unwrap().split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Seen {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            text: String::from_utf8(answer.into_body().to_vec()).unwrap(),
        }
    }

    pub async fn get(&mut self, target: &str) -> Seen {
        self.send(Method::GET, target, None).await
    }

    pub async fn post(&mut self, target: &str, pairs: &[(&str, &str)]) -> Seen {
        self.send(Method::POST, target, Some(form(pairs))).await
    }

    /// Sends a page's form, with what the person adds.
    pub async fn fill_in(&mut self, page: &Seen, action: &str, add: &[(&str, &str)]) -> Seen {
        let hidden = page.hidden(action);
        let mut pairs: Vec<(&str, &str)> = hidden
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        pairs.extend(add);
        self.post(action, &pairs).await
    }

    /// Follows redirects as long as they stay on the gateway.
    pub async fn follow(&mut self, mut seen: Seen) -> Seen {
        for _ in 0..5 {
            match seen
                .header("location")
                .filter(|location| location.starts_with('/'))
                .map(str::to_owned)
            {
                Some(target) => seen = self.get(&target).await,
                None => return seen,
            }
        }
        panic!("a redirect loop: {seen:?}");
    }

    pub async fn open(&mut self, target: &str) -> Seen {
        let seen = self.get(target).await;
        self.follow(seen).await
    }

    pub async fn sign_in_with(&mut self, page: &Seen, username: &str, password: &str) -> Seen {
        let add = [("username", username), ("password", password)];
        let seen = self.fill_in(page.asks_for_password(), "/login", &add).await;
        self.follow(seen).await
    }

    /// Opens an authorization request and signs in.
    pub async fn sign_in(&mut self, target: &str, username: &str) -> Seen {
        let page = self.open(target).await;
        self.sign_in_with(&page, username, PASSWORD).await
    }

    pub async fn decide(&mut self, page: &Seen, decision: &str) -> Seen {
        self.fill_in(page.asks_for_consent(), "/consent", &[("decision", decision)])
            .await
    }

    /// All of it, up to the redirect to the client; a consent that is remembered is not asked for again.
    pub async fn allow(&mut self, target: &str, username: &str) -> Seen {
        let page = self.sign_in(target, username).await;
        if page.status == 303 {
            return page;
        }
        self.decide(&page, "approve").await
    }

    pub fn session(&self) -> Option<&String> {
        self.cookies.get("__Host-mcpgate_session")
    }
}
