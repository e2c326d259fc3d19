//! An identity provider that does as it is told, lies included.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mcpgate::domain::clock::{Clock as _, ManualClock, Timestamp};
use mcpgate::jose::{Algorithm, SigningKey};
use mcpgate::store::Store;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::http1::Reply;
use crate::person::Browser;
use crate::setup::Gateway;

pub const SECRET: &str = "the secret of the gateway at its provider";
/// What every token of the provider begins with: none may ever be seen elsewhere.
pub const MARK: &str = "idp-token-";

/// What is changed in an ID token before it is signed.
pub type Lie = Box<dyn Fn(&mut Value) + Send>;

/// How an ID token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    Good,
    /// By a key of nobody, under the name of the good one.
    OtherKey,
    None,
    /// With what everybody knows as the secret: the public key.
    PublicKeyAsSecret,
    /// With the client's secret.
    ClientSecret,
    /// As a token for something else.
    Typed(&'static str),
}

pub struct Idp {
    state: Arc<Mutex<Inside>>,
}

pub struct Inside {
    pub issuer: String,
    pub clock: Option<Arc<ManualClock>>,
    pub key: Arc<SigningKey>,
    /// What it says of whoever signs in.
    pub person: Value,
    /// Left out of the ID token and said at the userinfo endpoint alone.
    pub only_userinfo: Vec<&'static str>,
    pub userinfo: Value,
    pub metadata: Value,
    pub lie: Lie,
    pub signature: Signature,
    /// Whether a refresh brings an ID token.
    pub id_token_at_refresh: bool,
    pub gives_refresh_token: bool,
    /// Refresh tokens that are good.
    pub refresh_tokens: Vec<String>,
    pub status: u16,
    pub stall: Duration,
    /// A path that fails alone.
    pub broken: &'static str,
    pub auth_time: Option<u64>,
    codes: HashMap<String, HashMap<String, String>>,
    count: usize,
    /// Every request: path, form, `Authorization`.
    pub requests: Vec<(String, HashMap<String, String>, String)>,
}

impl Idp {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(Inside {
            issuer: format!("http://{address}"),
            clock: None,
            key: new_key(),
            person: json!({
                "sub": "248289761001", "preferred_username": "grace", "email": "grace@example.com",
                "email_verified": true, "name": "Grace Hopper", "groups": ["navy", "admins"], "sid": "session-1",
                "amr": ["pwd", "otp"],
            }),
            only_userinfo: Vec::new(),
            userinfo: json!({}),
            metadata: json!({}),
            lie: Box::new(|_| {}),
            signature: Signature::Good,
            id_token_at_refresh: true,
            gives_refresh_token: true,
            refresh_tokens: Vec::new(),
            status: 200,
            stall: Duration::ZERO,
            broken: "",
            auth_time: None,
            codes: HashMap::new(),
            count: 0,
            requests: Vec::new(),
        }));
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { state }
    }

    /// A gateway in front of which people sign in here; `more` is added to the provider's entry.
    pub async fn gateway(&self, more: &str) -> Gateway {
        self.gateway_on(None, more, |yaml| yaml).await
    }

    /// The same on a store of the test's own, or with something else in its configuration.
    pub async fn gateway_on(&self, store: Option<Arc<dyn Store>>, more: &str, change: fn(String) -> String) -> Gateway {
        let issuer = self.inside().issuer.clone();
        let more = more.to_owned();
        let gateway = Gateway::start_on(store, move |yaml| {
            let entry = format!(
                "identity_providers:\n  - {{ id: idp, name: The Company, issuer: \"{issuer}\", client_id: us, \
                 client_secret: \"{SECRET}\"{more} }}\nupstreams:"
            );
            change(yaml.replace("upstreams:", &entry))
        })
        .await;
        self.inside().clock = Some(Arc::clone(&gateway.clock));
        gateway
    }

    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().unwrap()
    }

    /// Signs somebody in on the provider's page, and says where their browser goes then: a path of the gateway.
    pub fn come_back(&self, way: &Url) -> String {
        let mut inside = self.inside();
        let asked: HashMap<String, String> = way.query_pairs().into_owned().collect();
        inside.count += 1;
        let code = format!("{MARK}code-{}", inside.count);
        inside.codes.insert(code.clone(), asked.clone());
        let callback = Url::parse(&asked["redirect_uri"]).unwrap();
        let query = crate::http1::form(&[("code", &code), ("state", &asked["state"])]);
        format!("{}?{query}", callback.path())
    }

    pub fn count(&self, path: &str) -> usize {
        self.inside().requests.iter().filter(|(own, _, _)| own == path).count()
    }

    pub fn logout_token(&self, change: impl Fn(&mut Value)) -> String {
        let inside = self.inside();
        let now = inside.now();
        let mut claims = json!({
            "iss": inside.issuer, "aud": "us", "iat": now, "exp": now + 120, "jti": format!("jti-{now}"),
            "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        change(&mut claims);
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        inside.key.sign("logout+jwt", &claims).unwrap()
    }
}

impl Inside {
    fn now(&self) -> u64 {
        self.clock.as_ref().unwrap().now().as_seconds()
    }

    /// Other keys from now on.
    pub fn rotate_keys(&mut self) {
        self.key = new_key();
    }

    pub fn id_token(&self, nonce: Option<&str>) -> String {
        let now = self.now();
        let mut claims = json!({ "iss": self.issuer, "aud": "us", "iat": now, "exp": now + 300 });
        for (name, value) in self.person.as_object().unwrap() {
            if !self.only_userinfo.contains(&name.as_str()) {
                claims[name] = value.clone();
            }
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        if let Some(at) = self.auth_time {
            claims["auth_time"] = at.into();
        }
        (self.lie)(&mut claims);
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let public = self.key.public();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let hmac = |secret: &[u8]| {
            let message = format!(
                "{}.{}",
                part(&json!({"alg": "HS256", "kid": public["kid"]})),
                part(&claims)
            );
            let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
            mac.update(message.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
        };
        match self.signature {
            Signature::Good => self.key.sign("JWT", &claims).unwrap(),
            Signature::Typed(media_type) => self.key.sign(media_type, &claims).unwrap(),
            Signature::OtherKey => {
                let header = part(&json!({"alg": "ES256", "kid": public["kid"]}));
                new_key().sign_raw(&format!("{header}.{}", part(&claims))).unwrap()
            }
            Signature::None => format!("{}.{}.AA", part(&json!({"alg": "none"})), part(&claims)),
            Signature::PublicKeyAsSecret => hmac(public.to_string().as_bytes()),
            Signature::ClientSecret => hmac(SECRET.as_bytes()),
        }
    }
}

fn new_key() -> Arc<SigningKey> {
    Arc::new(SigningKey::generate(Algorithm::Es256, Timestamp::from_millis(0)).unwrap())
}

fn patched(mut document: Value, patch: &Value) -> Value {
    for (name, value) in patch.as_object().unwrap() {
        document[name] = value.clone();
    }
    document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    document
}

fn answer(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

type Shared = State<Arc<Mutex<Inside>>>;

/// Writes a request down, and says whether it is to fail.
async fn enter(state: &Shared, uri: &Uri, headers: &HeaderMap, form: HashMap<String, String>) -> Option<Response> {
    let (status, stall) = {
        let mut inside = state.0.lock().unwrap();
        let authorization = headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        inside
            .requests
            .push((uri.path().to_owned(), form, authorization.unwrap_or_default()));
        let broken = inside.broken == uri.path();
        (if broken { 500 } else { inside.status }, inside.stall)
    };
    tokio::time::sleep(stall).await;
    (status != 200).then(|| (StatusCode::from_u16(status).unwrap(), "not now").into_response())
}

async fn metadata(state: Shared, uri: Uri, headers: HeaderMap) -> Response {
    if let Some(failure) = enter(&state, &uri, &headers, HashMap::new()).await {
        return failure;
    }
    let inside = state.0.lock().unwrap();
    let issuer = &inside.issuer;
    let document = json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize?tenant=1"),
        "token_endpoint": format!("{issuer}/token"), "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/jwks"), "scopes_supported": ["openid", "offline_access"],
        "code_challenge_methods_supported": ["S256"],
    });
    answer(&patched(document, &inside.metadata))
}

async fn jwks(state: Shared, uri: Uri, headers: HeaderMap) -> Response {
    if let Some(failure) = enter(&state, &uri, &headers, HashMap::new()).await {
        return failure;
    }
    let key = state.0.lock().unwrap().key.public();
    answer(&json!({ "keys": [key] }))
}

async fn userinfo(state: Shared, uri: Uri, headers: HeaderMap) -> Response {
    if let Some(failure) = enter(&state, &uri, &headers, HashMap::new()).await {
        return failure;
    }
    let inside = state.0.lock().unwrap();
    answer(&patched(inside.person.clone(), &inside.userinfo))
}

async fn token(state: Shared, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    if let Some(failure) = enter(&state, &uri, &headers, form.clone()).await {
        return failure;
    }
    let mut inside = state.0.lock().unwrap();
    let refuse = |error: &str| (StatusCode::BAD_REQUEST, answer(&json!({ "error": error }))).into_response();
    let secret: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let basic = format!("Basic {}", STANDARD.encode(format!("us:{secret}")));
    if headers.get("authorization").map(|value| value.to_str().unwrap()) != Some(&basic) {
        return refuse("invalid_client");
    }
    let nonce = if form["grant_type"] == "refresh_token" {
        let Some(place) = inside
            .refresh_tokens
            .iter()
            .position(|own| *own == form["refresh_token"])
        else {
            return refuse("invalid_grant");
        };
        inside.refresh_tokens.remove(place);
        None
    } else {
        let Some(asked) = inside.codes.remove(&form["code"]) else {
            return refuse("invalid_grant");
        };
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
        if challenge != asked["code_challenge"] || form["redirect_uri"] != asked["redirect_uri"] {
            return refuse("invalid_grant");
        }
        Some(asked["nonce"].clone())
    };
    inside.count += 1;
    let (access, refresh) = (
        format!("{MARK}access-{}", inside.count),
        format!("{MARK}refresh-{}", inside.count),
    );
    let mut tokens = json!({ "access_token": access, "token_type": "Bearer", "expires_in": 300 });
    if nonce.is_some() || inside.id_token_at_refresh {
        tokens["id_token"] = inside.id_token(nonce.as_deref()).into();
    }
    if inside.gives_refresh_token {
        inside.refresh_tokens.push(refresh.clone());
        tokens["refresh_token"] = refresh.into();
    }
    answer(&tokens)
}

// --- what a browser does

/// From an authorization request to the way to the provider.
pub async fn way(gateway: &Gateway, browser: &mut Browser, target: &str) -> Url {
    let page = browser.get(gateway, target).await;
    let page = browser.follow(gateway, page).await;
    assert!(
        page.text().contains("Continue with The Company"),
        "{} {}",
        page.status,
        page.text()
    );
    browser.fill_in(gateway, &page, &[]).await.location()
}

/// The whole trip: what the gateway says when the browser comes back.
pub async fn trip(gateway: &Gateway, idp: &Idp, browser: &mut Browser, target: &str) -> Reply {
    let way = way(gateway, browser, target).await;
    browser.get(gateway, &idp.come_back(&way)).await
}

/// The trip, and consent to what is asked for.
pub async fn arrive(gateway: &Gateway, idp: &Idp, browser: &mut Browser, target: &str) -> Reply {
    let reply = trip(gateway, idp, browser, target).await;
    assert_eq!(reply.status, 303, "{}", reply.text());
    let reply = browser.follow(gateway, reply).await;
    if reply.status == 200 && reply.text().contains("name=\"decision\"") {
        return browser.fill_in(gateway, &reply, &[("decision", "approve")]).await;
    }
    reply
}
