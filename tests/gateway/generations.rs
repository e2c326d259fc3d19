//! One story for each generation of clients, and one for each client whose traffic is known: the requests that it sends, in
//! its order, with its headers and its omissions. What real programs do is in tests/clients; these are the clients that
//! cannot be run here, and the shapes that have to keep working when those programs move on.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::http1::{Reply, find, form, request, send};
use crate::person::{Browser, walk};
use crate::setup::{Gateway, SESSION};

/// What Python clients take: as long as may be, with every character that may be in it.
const VERIFIER: &str = "0123456789-._~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuv";
const STATE: &str = "eyJzZXJ2ZXIiOiJvbmUifQ==.x-_~";
const BOTH: (&str, &str) = ("Accept", "application/json, text/event-stream");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const SERVER: &str = "/.well-known/oauth-authorization-server";
const RESOURCE: &str = "/.well-known/oauth-protected-resource";

/// A client in front of the upstream `one`, as far as it has come.
struct App<'a> {
    gateway: &'a Gateway,
    browser: Browser,
    id: String,
    secret: Option<String>,
}

fn initialize(version: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "a client", "version": "1.0.0" } } })
    .to_string()
}

/// Where a challenge says that the resource is described, without our origin.
fn described(gateway: &Gateway, refused: &Reply) -> String {
    assert_eq!(refused.status, 401, "{}", refused.text());
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer "), "{challenge}");
    let (_, rest) = challenge.split_once("resource_metadata=\"").unwrap();
    let (url, _) = rest.split_once('"').unwrap();
    url.strip_prefix(&gateway.origin()).unwrap().to_owned()
}

/// A form of which some parameters are taken away: those with nothing in them.
fn without_empty<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    pairs.iter().copied().filter(|(_, value)| !value.is_empty()).collect()
}

impl<'a> App<'a> {
    /// Registers with exactly this document and these headers.
    async fn registered(gateway: &'a Gateway, headers: &[(&str, &str)], document: &Value) -> Self {
        let headers = [headers, &[JSON]].concat();
        let reply = gateway.post("/register", &headers, &document.to_string()).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        let answer = reply.json();
        let text = |member: &str| answer[member].as_str().map(str::to_owned);
        Self {
            gateway,
            browser: Browser::default(),
            id: text("client_id").unwrap(),
            secret: text("client_secret"),
        }
    }

    fn target(&self, redirect: &str, more: &[(&str, &str)]) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", self.id.as_str()),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
            ("redirect_uri", redirect),
            ("state", STATE),
        ];
        pairs.extend(without_empty(more));
        format!("/authorize?{}", form(&pairs))
    }

    /// Sends the person off and gets the code back, with all that belongs to it.
    async fn code(&mut self, redirect: &str, more: &[(&str, &str)]) -> String {
        let target = self.target(redirect, more);
        let reply = walk(self.gateway, &mut self.browser, &target, "ada").await;
        let location = reply.location();
        assert!(location.as_str().starts_with(redirect), "{location}");
        assert_eq!(reply.redirected("state").as_deref(), Some(STATE));
        assert_eq!(reply.redirected("iss"), Some(self.gateway.origin()));
        reply
            .redirected("code")
            .unwrap_or_else(|| panic!("no code in {location}"))
    }

    async fn token(&self, headers: &[(&str, &str)], pairs: &[(&str, &str)]) -> Value {
        let reply = self.gateway.post_form("/token", headers, &without_empty(pairs)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let answer = reply.json();
        assert_eq!(answer["token_type"], "Bearer");
        answer
    }

    /// As public clients do it: the id in the form.
    async fn redeem(&self, code: &str, redirect: &str, resource: &str) -> Value {
        let pairs = [
            ("grant_type", "authorization_code"),
            ("client_id", self.id.as_str()),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", redirect),
            ("resource", resource),
        ];
        self.token(&[("Accept", "application/json")], &pairs).await
    }

    async fn refresh(&self, tokens: &Value, resource: &str) -> Value {
        let pairs = [
            ("grant_type", "refresh_token"),
            ("refresh_token", tokens["refresh_token"].as_str().unwrap()),
            ("client_id", self.id.as_str()),
            ("client_secret", self.secret.as_deref().unwrap_or_default()),
            ("resource", resource),
        ];
        self.token(&[], &pairs).await
    }

    /// An MCP request that has to arrive as it was sent.
    async fn mcp(&self, method: &str, tokens: &Value, headers: &[(&str, &str)], body: &str) -> Reply {
        let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
        let all = [&[("Authorization", bearer.as_str())], headers].concat();
        let bytes = request(method, "/one/mcp", &self.gateway.host, &all, body.as_bytes());
        let before = self.gateway.upstream.count();
        let reply = send(self.gateway.address, &bytes).await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
        assert_eq!(self.gateway.upstream.count(), before + 1);
        let seen = self.gateway.upstream.last();
        assert_eq!((seen.method.as_str(), seen.path.as_str()), (method, "/mcp"));
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
        for (name, value) in headers {
            // What the client has of a session is more than the upstream's id.
            let value = if *name == "Mcp-Session-Id" { SESSION } else { value };
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("x-forwarded-user"), Some("ada"));
        reply
    }

    /// The conversation of the session era: everything after `initialize` names version and session.
    async fn session(&self, tokens: &Value, version: &str) {
        let begun = self.mcp("POST", tokens, &[JSON, BOTH], &initialize(version)).await;
        let id = begun.header("mcp-session-id").unwrap();
        let named = [("MCP-Protocol-Version", version), ("Mcp-Session-Id", id)];
        let posted = [&named[..], &[JSON, BOTH]].concat();
        let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        self.mcp("POST", tokens, &posted, initialized).await;
        let stream = [&named[..], &[("Accept", "text/event-stream")]].concat();
        self.mcp("GET", tokens, &stream, "").await;
        let again = [&stream[..], &[("Last-Event-ID", "e-7")]].concat();
        self.mcp("GET", tokens, &again, "").await;
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        self.mcp("POST", tokens, &posted, list).await;
        self.mcp("DELETE", tokens, &named, "").await;
    }
}

async fn first(gateway: &Gateway, headers: &[(&str, &str)], body: &str) -> String {
    let before = gateway.upstream.count();
    let refused = gateway.post("/one/mcp", &[&[JSON, BOTH], headers].concat(), body).await;
    assert_eq!(gateway.upstream.count(), before, "the upstream heard of it");
    described(gateway, &refused)
}

async fn document(gateway: &Gateway, target: &str, headers: &[(&str, &str)]) -> Value {
    let reply = gateway.get(target, headers).await;
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{target}");
    reply.json()
}

fn public(redirects: &[&str]) -> Value {
    json!({
        "client_name": "A client", "redirect_uris": redirects, "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    })
}

// --- the generations

/// A server of the old transport: its stream begins with where to post, and what is posted there is accepted.
async fn old_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                while find(&seen, b"\r\n\r\n").is_none() {
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => seen.extend_from_slice(&chunk[..n]),
                    }
                }
                let answer: &[u8] = if seen.starts_with(b"GET /mcp ") {
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: endpoint\ndata: mcp/messages?sessionId=5\n\n"
                } else if seen.starts_with(b"POST /mcp/messages?sessionId=5 ") {
                    b"HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\nConnection: close\r\n\r\nAccepted"
                } else {
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                };
                if stream.write_all(answer).await.is_ok() {
                    while !matches!(stream.read(&mut chunk).await, Ok(0) | Err(_)) {}
                }
            });
        }
    });
    address
}

/// The stream comes first, messages are posted to where its first event says; each of them needs the token. The server
/// here names its endpoint relative to the stream.
///
/// Spec: H1, H10, K1, K2, K9
/// Plays: 2024-11-05, a client of the HTTP+SSE transport
#[tokio::test]
async fn a_client_of_2024_11_05_opens_the_stream_first() {
    let server = old_server().await;
    let gateway = Gateway::start_with(move |yaml| {
        let (before, rest) = yaml.split_once("name: one, path: /one/mcp, url: \"").unwrap();
        let (_, after) = rest.split_once('"').unwrap();
        format!("{before}name: one, path: /one/mcp, url: \"http://{server}/mcp\"{after}")
    })
    .await;
    let stream = [("Accept", "text/event-stream"), ("Cache-Control", "no-store")];
    let refused = gateway.get("/one/mcp", &stream).await;
    document(&gateway, &described(&gateway, &refused), &[]).await;
    document(&gateway, SERVER, &[]).await;
    let redirect = "http://localhost:3334/oauth/callback";
    let mut app = App::registered(&gateway, &[], &public(&[redirect])).await;
    let code = app.code(redirect, &[("resource", &gateway.resource("one"))]).await;
    let tokens = app.redeem(&code, redirect, &gateway.resource("one")).await;
    let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());

    let mut open = TcpStream::connect(gateway.address).await.unwrap();
    let headers = [&stream[..], &[("Authorization", &bearer)]].concat();
    let bytes = request("GET", "/one/mcp", &gateway.host, &headers, b"");
    open.write_all(&bytes).await.unwrap();
    let mut text = Vec::new();
    let read = async {
        while !text.ends_with(b"\n\n") || find(&text, b"data: ").is_none() {
            let mut chunk = [0; 4096];
            let n = open.read(&mut chunk).await.unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&chunk[..n]);
        }
    };
    tokio::time::timeout(crate::http1::PATIENCE, read).await.unwrap();
    assert!(text.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&text));

    let base = url::Url::parse(&gateway.resource("one")).unwrap();
    let named = find(&text, b"data: ").map(|at| &text[at + 6..text.len() - 2]).unwrap();
    let endpoint = base.join(std::str::from_utf8(named).unwrap()).unwrap();
    assert!(
        endpoint.path() == "/one/mcp/messages" && endpoint.query().unwrap().starts_with("sessionId=5&"),
        "{endpoint}"
    );
    let target = &endpoint[url::Position::BeforePath..];
    let message = initialize("2024-11-05");
    let posted = gateway
        .post(target, &[JSON, ("Authorization", &bearer)], &message)
        .await;
    assert_eq!((posted.status, posted.text().as_str()), (202, "Accepted"));
    // The session's id in the query is no credential.
    assert_eq!(gateway.post(target, &[JSON], &message).await.status, 401);
}

/// It drops the path to find the server, knows of no resource, and asks the default places if it finds nothing.
///
/// Spec: A1, A10, D11, D14, F11, F12
/// Plays: 2025-03-26, a client that knows no protected resource
#[tokio::test]
async fn a_client_of_2025_03_26_looks_at_the_root_and_names_no_resource() {
    let gateway = Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  root_resource: one\n")).await;
    first(&gateway, &[], &initialize("2025-03-26")).await;
    let version = [("MCP-Protocol-Version", "2025-03-26")];
    let server = document(&gateway, SERVER, &version).await;
    assert_eq!(server["issuer"], gateway.origin());
    // These are its default places, too: it goes there without metadata.
    for (member, path) in [
        ("authorization_endpoint", "/authorize"),
        ("token_endpoint", "/token"),
        ("registration_endpoint", "/register"),
    ] {
        assert_eq!(server[member], format!("{}{path}", gateway.origin()));
    }
    let redirect = "http://127.0.0.1:6274/oauth/callback";
    let mut app = App::registered(&gateway, &[], &public(&[redirect])).await;
    let code = app.code(redirect, &[]).await;
    let tokens = app.redeem(&code, redirect, "").await;
    assert_eq!(tokens["scope"], "one:use");
    app.session(&tokens, "2025-03-26").await;
    let tokens = app.refresh(&tokens, "").await;
    app.session(&tokens, "2025-03-26").await;
    // Nothing was said of a resource, and yet the token is for one of them alone.
    assert_eq!(gateway.call("two", tokens["access_token"].as_str()).await.status, 401);
}

/// Where no upstream is meant by default, such a client is told, and gets no token for all of them.
///
/// Spec: D11, D17
/// Plays: 2025-03-26, the same in front of several upstreams
#[tokio::test]
async fn a_client_that_names_no_resource_gets_no_token_for_all_of_them() {
    let gateway = Gateway::start().await;
    let redirect = "http://127.0.0.1:6274/oauth/callback";
    let mut app = App::registered(&gateway, &[], &public(&[redirect])).await;
    let target = app.target(redirect, &[]);
    let reply = walk(&gateway, &mut app.browser, &target, "ada").await;
    assert_eq!(reply.redirected("error").as_deref(), Some("invalid_target"));
    assert_eq!(reply.redirected("iss"), Some(gateway.origin()));
    assert_eq!(reply.redirected("state").as_deref(), Some(STATE));
}

/// The header names the resource's document; everything is asked for again before each token.
///
/// Spec: H1, H2, B1, B2, B3, C3, F2, F11, F17, K5
/// Plays: 2025-06-18, TypeScript SDK 1.x
#[tokio::test]
async fn a_client_of_2025_06_18_follows_the_challenge() {
    let gateway = Gateway::start().await;
    let version = ("MCP-Protocol-Version", "2025-06-18");
    let body = initialize("2025-06-18");
    let named = first(&gateway, &[], &body).await;
    assert_eq!(named, format!("{RESOURCE}/one/mcp"));
    let look = || async {
        let about = document(&gateway, &named, &[("Accept", "*/*"), version]).await;
        assert_eq!(about["resource"], gateway.resource("one"));
        assert_eq!(about["authorization_servers"], json!([gateway.origin()]));
        let server = document(&gateway, SERVER, &[("Accept", "application/json"), version]).await;
        assert_eq!(server["issuer"], gateway.origin());
    };
    look().await;
    let redirect = "http://localhost:8090/callback";
    let mut metadata = public(&[redirect]);
    metadata["scope"] = json!("one:use");
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let resource = gateway.resource("one");
    let code = app
        .code(redirect, &[("scope", "one:use"), ("resource", &resource)])
        .await;
    look().await;
    let tokens = app.redeem(&code, redirect, &resource).await;
    app.session(&tokens, "2025-06-18").await;
    // The token lapses; it looks again, refreshes and repeats the request.
    gateway.advance(3_601);
    assert_eq!(gateway.call("one", tokens["access_token"].as_str()).await.status, 401);
    look().await;
    let tokens = app.refresh(&tokens, &resource).await;
    app.session(&tokens, "2025-06-18").await;
}

/// Without the header's help: the path-inserted document first. It asks for `offline_access`, and therefore for consent.
///
/// Spec: B1, A1, A4, A11, D9, D15, F18, K5
/// Plays: 2025-11-25, Python SDK 2.x and TypeScript SDK 2.x
#[tokio::test]
async fn a_client_of_2025_11_25_finds_its_own_way() {
    let gateway = Gateway::start().await;
    first(&gateway, &[], &initialize("2025-11-25")).await;
    let version = [("MCP-Protocol-Version", "2025-11-25")];
    let about = document(&gateway, &format!("{RESOURCE}/one/mcp"), &version).await;
    assert_eq!(about["resource"], gateway.resource("one"));
    let server = document(&gateway, SERVER, &version).await;
    assert_eq!(server["code_challenge_methods_supported"], json!(["S256"]));
    let openid = document(&gateway, "/.well-known/openid-configuration", &version).await;
    for member in [
        "issuer",
        "authorization_endpoint",
        "token_endpoint",
        "code_challenge_methods_supported",
    ] {
        assert_eq!(openid[member], server[member], "{member}");
    }
    let mut metadata = public(&["http://localhost:3030/callback"]);
    metadata["application_type"] = json!("native");
    metadata["scope"] = json!("one:use offline_access");
    let mut app = App::registered(&gateway, &version, &metadata).await;
    let resource = gateway.resource("one");
    let more = [
        ("resource", resource.as_str()),
        ("scope", "one:use offline_access"),
        ("prompt", "consent"),
    ];
    let code = app.code("http://localhost:3030/callback", &more).await;
    let tokens = app.redeem(&code, "http://localhost:3030/callback", &resource).await;
    assert_eq!(tokens["scope"], "one:use offline_access");
    app.session(&tokens, "2025-11-25").await;
    let tokens = app.refresh(&tokens, &resource).await;
    app.session(&tokens, "2025-11-25").await;
}

/// Stateless from the first request on, and strict about who the issuer is, in codes and in errors.
///
/// Spec: A2, A8, D9, H1, K5, K26, L1
/// Plays: 2026-07-28, TypeScript SDK 2.x in modern mode
#[tokio::test]
async fn a_client_of_2026_07_28_discovers_and_checks_the_issuer() {
    let gateway = Gateway::start().await;
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let modern = |method: &str, params: Value| {
        let mut params = params;
        params["_meta"] = meta.clone();
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
    };
    let version = ("MCP-Protocol-Version", "2026-07-28");
    let discover = modern("server/discover", json!({}));
    let named = first(&gateway, &[version, ("Mcp-Method", "server/discover")], &discover).await;
    let about = document(&gateway, &named, &[version]).await;
    let issuer = about["authorization_servers"][0].as_str().unwrap().to_owned();
    let server = document(&gateway, SERVER, &[version]).await;
    assert_eq!(
        (
            &server["issuer"],
            &server["authorization_response_iss_parameter_supported"]
        ),
        (&json!(issuer), &json!(true))
    );

    let redirect = "http://127.0.0.1:49152/callback";
    let mut metadata = public(&[redirect]);
    metadata["application_type"] = json!("native");
    metadata["scope"] = json!("one:use offline_access");
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let resource = gateway.resource("one");
    let refused = gateway
        .get(
            &app.target(redirect, &[("resource", "https://elsewhere.example/mcp")]),
            &[],
        )
        .await;
    assert_eq!(refused.redirected("error").as_deref(), Some("invalid_target"));
    assert_eq!(refused.redirected("iss").as_deref(), Some(issuer.as_str()));
    let more = [
        ("resource", resource.as_str()),
        ("scope", "one:use offline_access"),
        ("prompt", "consent"),
    ];
    let code = app.code(redirect, &more).await;
    let tokens = app.redeem(&code, redirect, &resource).await;

    let headers = [JSON, BOTH, version, ("Mcp-Method", "server/discover")];
    app.mcp("POST", &tokens, &headers, &discover).await;
    let call = modern(
        "tools/call",
        json!({ "name": "weather", "arguments": { "region": "Köln" } }),
    );
    let headers = [
        JSON,
        BOTH,
        version,
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "weather"),
        ("Mcp-Param-Region", "=?base64?S8O2bG4=?="),
    ];
    app.mcp("POST", &tokens, &headers, &call).await;
}

// --- clients one by one

/// Discovery without `Accept` and `User-Agent`; a `Content-Type` on requests without a body; a token that is refused means
/// signing in anew.
///
/// Spec: F8, H3, K1
/// Plays: 2025-11-25, Python SDK 1.30
#[tokio::test]
async fn the_python_sdk_1_sends_no_more_than_it_has_to() {
    let gateway = Gateway::start().await;
    let version = [("MCP-Protocol-Version", "2025-11-25")];
    let named = first(&gateway, &[], &initialize("2025-11-25")).await;
    document(&gateway, &named, &version).await;
    document(&gateway, SERVER, &version).await;
    let redirect = "http://localhost:3030/callback";
    let mut metadata = public(&[redirect]);
    metadata["scope"] = json!("one:use");
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let resource = gateway.resource("one");
    for _ in 0..2 {
        let code = app
            .code(redirect, &[("resource", &resource), ("scope", "one:use")])
            .await;
        let tokens = app.redeem(&code, redirect, &resource).await;
        let begun = app.mcp("POST", &tokens, &[JSON, BOTH], &initialize("2025-11-25")).await;
        let headers = [
            ("Accept", "text/event-stream"),
            JSON,
            ("MCP-Protocol-Version", "2025-11-25"),
            ("Mcp-Session-Id", begun.header("mcp-session-id").unwrap()),
        ];
        app.mcp("GET", &tokens, &headers, "").await;
        app.mcp("DELETE", &tokens, &headers[1..], "").await;
        gateway.advance(3_601);
        assert_eq!(gateway.call("one", tokens["access_token"].as_str()).await.status, 401);
    }
}

/// It does not say how it authenticates, looks at /authorize before the browser does, and sends its id twice.
///
/// Spec: C2, C3, D1, F5
/// Plays: 2025-11-25, `FastMCP` 3.4
#[tokio::test]
async fn fastmcp_3_is_confidential_without_knowing() {
    let gateway = Gateway::start().await;
    let redirect = "http://localhost:49321/callback";
    let metadata = json!({
        "client_name": "FastMCP Client", "redirect_uris": [redirect], "scope": "one:use",
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
    });
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let secret = app.secret.clone().expect("the default is client_secret_basic");
    let resource = gateway.resource("one");
    let more = [("resource", resource.as_str()), ("scope", "one:use")];
    let preflight = gateway.get(&app.target(redirect, &more), &[("Accept", "*/*")]).await;
    assert!([200, 302, 303].contains(&preflight.status), "{}", preflight.text());
    let code = app.code(redirect, &more).await;
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{secret}", app.id)));
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect),
        ("client_id", app.id.as_str()),
        ("code_verifier", VERIFIER),
        ("resource", resource.as_str()),
    ];
    let tokens = app.token(&[("Authorization", &basic)], &pairs).await;
    app.session(&tokens, "2025-11-25").await;
}

/// It opens with GET, looks everything up twice, sends headers of the newest revision in the old one, and finds out by
/// itself that it was forgotten.
///
/// Spec: D3, H1, K5
/// Plays: 2025-11-25, mcp-remote 0.15
#[tokio::test]
async fn mcp_remote_begins_with_get() {
    let gateway = Gateway::start().await;
    for _ in 0..2 {
        let refused = gateway.get("/one/mcp", &[("Accept", "text/event-stream")]).await;
        let named = described(&gateway, &refused);
        for headers in [
            vec![("Accept", "application/json")],
            vec![("MCP-Protocol-Version", "2025-11-25")],
        ] {
            document(&gateway, &named, &headers).await;
            document(&gateway, SERVER, &headers).await;
        }
    }
    // Its registration of last year: known to nobody, and told so in JSON, before a browser opens.
    let stale = "/authorize?response_type=code&client_id=forgotten&redirect_uri=http%3A%2F%2Flocalhost%3A16571%2Foauth%2Fcallback";
    let told = gateway.get(stale, &[("Accept", "application/json")]).await;
    assert_eq!((told.status, told.error().as_str()), (400, "invalid_client"));
    let redirect = "http://localhost:16571/oauth/callback";
    let mut metadata = public(&[redirect]);
    metadata["application_type"] = json!("native");
    metadata["client_name"] = json!("MCP CLI Proxy");
    metadata["client_uri"] = json!("https://github.com/modelcontextprotocol/mcp-cli");
    metadata["software_id"] = json!("2e6dc280-f3c3-4e01-99a7-8181dbd1d23d");
    metadata["software_version"] = json!("0.15.1");
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let resource = gateway.resource("one");
    let more = [
        ("resource", resource.as_str()),
        ("scope", "one:use offline_access"),
        ("prompt", "consent"),
    ];
    let code = app.code(redirect, &more).await;
    let tokens = app.redeem(&code, redirect, &resource).await;
    let headers = [JSON, BOTH, ("Mcp-Method", "initialize")];
    app.mcp("POST", &tokens, &headers, &initialize("2025-11-25")).await;
    app.session(&tokens, "2025-11-25").await;
}

/// The newest revision in `initialize`, the oldest in discovery.
///
/// Spec: A1, B1, H1
/// Plays: 2026-07-28, the Rust SDK 3.11
#[tokio::test]
async fn rmcp_names_two_revisions_at_once() {
    let gateway = Gateway::start().await;
    let named = first(&gateway, &[], &initialize("2026-07-28")).await;
    let version = [("MCP-Protocol-Version", "2024-11-05")];
    document(&gateway, &named, &version).await;
    document(&gateway, SERVER, &version).await;
    let redirect = "http://127.0.0.1:41234/callback";
    let mut metadata = public(&[redirect]);
    metadata["application_type"] = json!("native");
    metadata["scope"] = json!("one:use offline_access");
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let resource = gateway.resource("one");
    let code = app
        .code(
            redirect,
            &[("resource", &resource), ("scope", "one:use offline_access")],
        )
        .await;
    let tokens = app.redeem(&code, redirect, &resource).await;
    app.session(&tokens, "2025-11-25").await;
}

/// It asks the root as well, registers twice, posts its secret, and refreshes without naming anything.
///
/// Spec: B6, C2, C5, C11, F5, F16, F17, H2
/// Plays: 2025-11-25, Claude (claude.ai, desktop, mobile)
#[tokio::test]
async fn claude_ai_posts_its_secret() {
    let gateway = Gateway::start().await;
    let agent = [("User-Agent", "python-httpx/0.28.1")];
    let named = first(&gateway, &agent, &initialize("2025-11-25")).await;
    assert_eq!(named, format!("{RESOURCE}/one/mcp"));
    assert_eq!(gateway.get(RESOURCE, &agent).await.status, 404);
    document(&gateway, &named, &agent).await;
    document(&gateway, SERVER, &agent).await;
    let redirect = "https://claude.ai/api/mcp/auth_callback";
    let mut metadata = public(&[redirect]);
    metadata["client_name"] = json!("Claude");
    metadata["token_endpoint_auth_method"] = json!("client_secret_post");
    metadata["scope"] = json!("one:use");
    let forgotten = App::registered(&gateway, &agent, &metadata).await;
    let mut app = App::registered(&gateway, &agent, &metadata).await;
    assert_ne!(forgotten.id, app.id);
    let secret = app.secret.clone().expect("a confidential client has a secret");
    let resource = gateway.resource("one");
    let code = app
        .code(redirect, &[("resource", &resource), ("scope", "one:use")])
        .await;
    let pairs = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect),
        ("client_id", app.id.as_str()),
        ("client_secret", secret.as_str()),
        ("code_verifier", VERIFIER),
        ("resource", resource.as_str()),
    ];
    let tokens = app.token(&agent, &pairs).await;
    app.session(&tokens, "2025-11-25").await;
    let tokens = app.refresh(&tokens, "").await;
    assert_eq!(tokens["scope"], "one:use");
    app.session(&tokens, "2025-11-25").await;
}

/// Three redirect URIs of three kinds; the code goes to the private scheme.
///
/// Spec: B4, C7, C8, D4
/// Plays: 2025-11-25, Cursor
#[tokio::test]
async fn cursor_registers_three_redirect_uris() {
    let gateway = Gateway::start().await;
    let named = first(&gateway, &[], &initialize("2025-11-25")).await;
    let about = document(&gateway, &named, &[]).await;
    let scope = about["scopes_supported"]
        .as_array()
        .unwrap()
        .iter()
        .fold(String::new(), |mut all, scope| {
            write!(
                all,
                "{}{}",
                if all.is_empty() { "" } else { " " },
                scope.as_str().unwrap()
            )
            .unwrap();
            all
        });
    let redirects = [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
    ];
    let reply = gateway
        .post("/register", &[JSON], &public(&redirects).to_string())
        .await;
    assert_eq!(reply.json()["redirect_uris"], json!(redirects));
    let resource = gateway.resource("one");
    for redirect in redirects {
        let mut app = App::registered(&gateway, &[], &public(&redirects)).await;
        let code = app.code(redirect, &[("resource", &resource), ("scope", &scope)]).await;
        let tokens = app.redeem(&code, redirect, &resource).await;
        app.session(&tokens, "2025-11-25").await;
    }
}

/// A random end of the path and another port each time; refreshes name no resource.
///
/// Spec: D5, F5, F17
/// Plays: 2025-06-18, Codex
#[tokio::test]
async fn codex_has_a_callback_of_its_own_each_time() {
    let gateway = Gateway::start().await;
    let resource = gateway.resource("one");
    let registered = "http://127.0.0.1:1455/callback/h7Jq2";
    let mut app = App::registered(&gateway, &[], &public(&[registered])).await;
    let redirect = "http://127.0.0.1:61234/callback/h7Jq2";
    let code = app
        .code(redirect, &[("resource", &resource), ("scope", "one:use")])
        .await;
    let tokens = app.redeem(&code, redirect, &resource).await;
    app.session(&tokens, "2025-06-18").await;
    let tokens = app.refresh(&tokens, "").await;
    app.session(&tokens, "2025-06-18").await;
    // Another path is another client's.
    let foreign = gateway
        .get(&app.target("http://127.0.0.1:61234/callback/other", &[]), &[])
        .await;
    assert_eq!((foreign.status, foreign.header("location")), (400, None));
}

/// A port that nobody registered, a path that is only a slash, and a grant type that is not offered to it.
///
/// Spec: C6, D5
/// Plays: 2025-11-25, Visual Studio Code
#[tokio::test]
async fn vs_code_comes_from_any_port() {
    let gateway = Gateway::start().await;
    let mut metadata = public(&[
        "https://insiders.vscode.dev/redirect",
        "https://vscode.dev/redirect",
        "http://127.0.0.1/",
        "http://127.0.0.1:33418/",
    ]);
    metadata["grant_types"] = json!([
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code"
    ]);
    metadata["application_type"] = json!("native");
    let resource = gateway.resource("one");
    for redirect in [
        "http://127.0.0.1:59656/",
        "http://127.0.0.1:33418/",
        "https://vscode.dev/redirect",
    ] {
        let mut app = App::registered(&gateway, &[], &metadata).await;
        let code = app
            .code(redirect, &[("resource", &resource), ("scope", "one:use")])
            .await;
        let tokens = app.redeem(&code, redirect, &resource).await;
        app.session(&tokens, "2025-06-18").await;
    }
}

/// The root first, then the path; `resource` has to be the very URL; openid-configuration is looked at, too.
///
/// Spec: A11, B2, B6
/// Plays: 2025-06-18, Gemini CLI
#[tokio::test]
async fn gemini_cli_compares_the_resource_strictly() {
    let gateway = Gateway::start().await;
    first(&gateway, &[], &initialize("2025-06-18")).await;
    let root = gateway.get(RESOURCE, &[]).await;
    assert_eq!(
        (root.status, root.header("content-type")),
        (404, Some("application/json"))
    );
    let about = document(&gateway, &format!("{RESOURCE}/one/mcp"), &[]).await;
    let url = gateway.resource("one");
    assert_eq!(about["resource"].as_str(), Some(url.as_str()));
    document(&gateway, SERVER, &[]).await;
    document(&gateway, "/.well-known/openid-configuration", &[]).await;
    let redirect = "http://localhost:7777/oauth/callback";
    let mut metadata = public(&[redirect]);
    metadata["client_name"] = json!("Gemini CLI MCP Client");
    metadata["code_challenge_method"] = json!(["S256"]);
    let mut app = App::registered(&gateway, &[], &metadata).await;
    let code = app.code(redirect, &[("resource", &url), ("scope", "one:use")]).await;
    let tokens = app.redeem(&code, redirect, &url).await;
    app.session(&tokens, "2025-06-18").await;
}

/// Everything in a page: each request that it sends is preceded by a preflight, and has to be readable.
///
/// Spec: A15, K15, K16, K17
/// Plays: 2025-06-18, MCP Inspector 1.x in a browser
#[tokio::test]
async fn the_inspector_in_a_page_needs_cors_everywhere() {
    let page = "http://localhost:6274";
    let gateway = Gateway::start_with(move |yaml| yaml.replace("https://app.example.com", page)).await;
    let preflight = |target: &'static str, method: &'static str, names: &'static str| {
        let gateway = &gateway;
        async move {
            let headers = [
                ("Origin", page),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", names),
            ];
            let reply = send(
                gateway.address,
                &request("OPTIONS", target, &gateway.host, &headers, b""),
            )
            .await;
            assert_eq!(reply.status, 204, "{target}: {}", reply.text());
            let origin = reply.header("access-control-allow-origin").unwrap();
            assert!(origin == "*" || origin == page, "{target}: {origin}");
            let allowed = reply
                .header("access-control-allow-headers")
                .unwrap()
                .to_ascii_lowercase();
            for name in names.split(", ") {
                assert!(
                    allowed.split(", ").any(|own| own == name),
                    "{target}: {name} is not in {allowed}"
                );
            }
            assert!(
                reply.header("access-control-allow-methods").unwrap().contains(method),
                "{target}"
            );
            assert_eq!(reply.header("access-control-allow-credentials"), None);
        }
    };
    preflight("/one/mcp", "POST", "authorization, content-type, mcp-protocol-version, mcp-session-id, mcp-method, mcp-name, last-event-id, dpop, mcp-param-region").await;
    let refused = gateway
        .post("/one/mcp", &[("Origin", page), JSON, BOTH], &initialize("2025-06-18"))
        .await;
    assert_eq!(refused.header("access-control-allow-origin"), Some(page));
    assert!(
        refused
            .header("access-control-expose-headers")
            .unwrap()
            .contains("WWW-Authenticate")
    );
    let named = described(&gateway, &refused);
    assert_eq!(named, format!("{RESOURCE}/one/mcp"));
    preflight(
        "/.well-known/oauth-protected-resource/one/mcp",
        "GET",
        "mcp-protocol-version",
    )
    .await;
    preflight(SERVER, "GET", "mcp-protocol-version").await;
    preflight("/register", "POST", "content-type").await;
    preflight("/token", "POST", "authorization, content-type").await;
    preflight("/revoke", "POST", "content-type").await;
    for target in [SERVER, &named] {
        let reply = gateway
            .get(target, &[("Origin", page), ("MCP-Protocol-Version", "2025-06-18")])
            .await;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (200, Some("*"))
        );
    }
    // Pages for people are not for other pages.
    for target in ["/authorize", "/login", "/consent", "/logout"] {
        let headers = [("Origin", page), ("Access-Control-Request-Method", "GET")];
        let reply = send(
            gateway.address,
            &request("OPTIONS", target, &gateway.host, &headers, b""),
        )
        .await;
        assert_eq!(reply.header("access-control-allow-origin"), None, "{target}");
        assert_eq!(
            gateway
                .get(target, &[("Origin", page)])
                .await
                .header("access-control-allow-origin"),
            None,
            "{target}"
        );
    }
}
