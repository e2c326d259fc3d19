//! Clients whose id is the address of a metadata document, and everything that such an address could be used for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
    pub(crate) mod site;
}

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use mcpgate::config::{ClientHosts, Config};
use mcpgate::domain::client::{Client, ClientId, ClientOrigin};
use mcpgate::domain::uri::HostPattern;
use mcpgate::fetch::Network;
use serde_json::{Value, json};
use support::endpoints::{Gateway, ORIGIN, Reply, VERIFIER};
use support::memory::Memory;
use support::people::{People, Seen, people_config, request};
use support::site::{Names, PUBLIC, Pace, Page, Site};

const ID: &str = "https://client.example/client.json";
const AT: &str = "client.example/client.json";
const REDIRECT: &str = "https://client.example/cb";

struct World {
    people: People,
    site: Site,
    names: Arc<Names>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let site = Site::start().await;
        let names = Names::of(&site);
        let mut config = people_config();
        config.outbound_roots = vec![site.root.clone()];
        change(&mut config);
        let store = Arc::new(Memory::default());
        let network: Arc<dyn Network> = names.clone();
        let gateway = Gateway::in_network(config, store.clone(), &network);
        Self {
            people: People { gateway, store },
            site,
            names,
        }
    }

    /// The usual document at the usual place.
    async fn usual() -> Self {
        let world = Self::new().await;
        world.site.put_json(AT, &document(&[]));
        world
    }

    fn later(&self, seconds: u64) {
        self.people.gateway.later(seconds);
    }

    async fn authorize(&self, id: &str, redirect: &str) -> Seen {
        self.people.browser().open(&request(id, redirect, &[])).await
    }

    /// The whole way to a code, by a person who is asked.
    async fn code(&self, id: &str, redirect: &str) -> String {
        let done = self.people.browser().allow(&request(id, redirect, &[]), "ada").await;
        done.answer("code").unwrap_or_else(|| panic!("no code: {done:?}"))
    }

    async fn redeem(&self, id: &str, redirect: &str, code: &str) -> Reply {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", id),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", VERIFIER),
        ];
        self.people.gateway.token(&form).await
    }

    async fn tokens(&self, id: &str, redirect: &str) -> (String, String) {
        let code = self.code(id, redirect).await;
        let reply = self.redeem(id, redirect, &code).await.fine();
        (reply.text_of("access_token"), reply.text_of("refresh_token"))
    }

    async fn token_error(&self, id: &str) -> Reply {
        self.redeem(id, REDIRECT, "mgac_nothing").await
    }

    fn fetches(&self, kind: &str, result: &str) -> u64 {
        let start = format!("mcpgate_document_fetches_total{{kind=\"{kind}\",result=\"{result}\"}} ");
        let text = self.people.gateway.at.metrics.render().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

/// A document of a client with a site of its own, changed like this; `null` takes a member away.
fn document(changes: &[(&str, Value)]) -> Value {
    let mut document = json!({
        "client_id": ID,
        "client_name": "The client",
        "client_uri": "https://client.example/",
        "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    for (member, value) in changes {
        document[member] = value.clone();
    }
    document.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    document
}

// --- clients as they are

/// Spec: C16, C17, C19, C20, C22, D5, F18
/// Plays: 2025-11-25, Claude Code, VS Code and opencode with their documents
#[tokio::test]
async fn the_documents_of_real_clients_work() {
    let claude = "https://claude.ai/oauth/claude-code-client-metadata";
    let chatgpt = "https://chatgpt.com/oauth/abc123/client.json";
    let vscode = "https://vscode.dev/oauth/client-metadata.json";
    let opencode = "https://opencode.ai/oauth/opencode/client.json";
    let world = World::new().await;
    world.site.put_json(
        "claude.ai/oauth/claude-code-client-metadata",
        &json!({
            "client_id": claude,
            "client_name": "Claude Code",
            "client_uri": "https://claude.ai",
            "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }),
    );
    world.site.put_json(
        "chatgpt.com/oauth/abc123/client.json",
        &json!({
            "client_id": chatgpt,
            "client_name": "ChatGPT",
            "client_uri": "https://chatgpt.com/",
            "logo_uri": "https://chatgpt.com/logo.png",
            "redirect_uris": ["https://chatgpt.com/connector/oauth/abc123"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
            "token_endpoint_auth_signing_alg": "RS256",
            "jwks_uri": "https://chatgpt.com/oauth/jwks.json",
        }),
    );
    world.site.put_json(
        "vscode.dev/oauth/client-metadata.json",
        &json!({
            "client_id": vscode,
            "client_name": "Visual Studio Code",
            "client_uri": "https://code.visualstudio.com",
            "redirect_uris": ["http://127.0.0.1/", "https://vscode.dev/redirect", "http://127.0.0.1:33418/"],
            "grant_types": [
                "authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"
            ],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
        }),
    );
    world.site.put_json(
        "opencode.ai/oauth/opencode/client.json",
        &json!({
            "client_id": opencode,
            "client_name": "OpenCode",
            "redirect_uris": ["http://127.0.0.1:19876/mcp/oauth/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }),
    );
    for (id, redirect) in [
        (claude, "http://localhost:63785/callback"),
        (claude, "http://127.0.0.1:3118/callback"),
        (chatgpt, "https://chatgpt.com/connector/oauth/abc123"),
        (vscode, "http://127.0.0.1:59656/"),
        (vscode, "https://vscode.dev/redirect"),
        (opencode, "http://127.0.0.1:19876/mcp/oauth/callback"),
        (opencode, "http://127.0.0.1:40001/mcp/oauth/callback"),
    ] {
        let (_, refresh) = world.tokens(id, redirect).await;
        let reply = world.people.gateway.refresh(id, &refresh).await.fine();
        assert!(reply.json()["refresh_token"].is_string(), "{id}");
    }
    for (id, redirect) in [
        (claude, "http://localhost:63785/other"),
        (claude, "https://claude.ai/callback"),
        (chatgpt, "https://chatgpt.com/connector/oauth/another"),
        (vscode, "http://localhost:59656/"),
    ] {
        world.authorize(id, redirect).await.page(400, "invalid_request");
    }
    // One fetch each, however often they came.
    assert_eq!((world.fetches("document", "ok"), world.site.requests().len()), (4, 4));
    assert!(world.people.metric("mcpgate_registrations_total{kind=\"document\"} 4"));
}

/// Spec: C17
#[tokio::test]
async fn the_site_hears_nothing_but_the_request() {
    let world = World::usual().await;
    world.authorize(ID, REDIRECT).await.asks_for_password();
    let head = world.site.requests().concat().to_lowercase();
    let mut lines: Vec<&str> = head.trim_end().lines().collect();
    lines.sort_unstable();
    let agent = concat!("user-agent: mcpgate/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        lines,
        [
            "accept: application/json",
            "get /client.json http/1.1",
            "host: client.example",
            agent
        ]
    );
}

/// Spec: C23, E2
#[tokio::test]
async fn consent_names_the_site_and_the_destination_and_warns() {
    let world = World::usual().await;
    let page = world.people.browser().sign_in(&request(ID, REDIRECT, &[]), "ada").await;
    let text = &page.asks_for_consent().text;
    assert!(text.contains("<dd><strong>client.example</strong>"), "{text}");
    assert!(text.contains(ID) && text.contains("An app that calls itself"), "{text}");
    assert!(!text.contains("role=\"note\""), "{text}");

    let host = format!("other.example:{}", world.site.address.port());
    let local = &format!("https://{host}/local");
    let uris = json!(["http://localhost/cb", "http://127.0.0.1/cb"]);
    let changes = [("client_id", json!(local)), ("redirect_uris", uris)];
    world.site.put_json("other.example/local", &document(&changes));
    let page = world
        .people
        .browser()
        .sign_in(&request(local, "http://localhost:5000/cb", &[]), "ada")
        .await;
    let text = &page.asks_for_consent().text;
    assert!(text.contains(&format!("<strong>{host}</strong>")), "{text}");
    assert!(
        text.contains(&format!("{host} cannot tell whether it is its own app")),
        "{text}"
    );
    assert!(text.contains("an app on this computer") && text.contains("any program could use that name"));
}

/// Spec: A7
#[tokio::test]
async fn documents_can_be_turned_off() {
    let world = World::with(|config| config.oauth.client_documents = None).await;
    world.site.put_json(AT, &document(&[]));
    let page = world.authorize(ID, REDIRECT).await;
    page.page(400, "invalid_client");
    assert!(page.text.contains("not known here"));
    world.token_error(ID).await.refused(401, "invalid_client");
    assert_eq!(world.site.requests().len(), 0);
}

/// Spec: C24
#[tokio::test]
async fn the_operator_says_whose_clients_are_welcome() {
    let pattern = |text| HostPattern::parse(text).unwrap();
    let world = World::with(|config| {
        config.oauth.client_documents = Some(ClientHosts {
            allowed: vec![pattern("client.example"), pattern("*.ai")],
            denied: vec![pattern("claude.ai")],
        });
    })
    .await;
    world.site.put_json(AT, &document(&[]));
    world.authorize(ID, REDIRECT).await.asks_for_password();
    for id in ["https://other.example/client.json", "https://claude.ai/client.json"] {
        let page = world.authorize(id, REDIRECT).await;
        page.page(400, "invalid_client");
        assert!(page.text.contains("this gateway takes no apps from"), "{}", page.text);
        assert!(
            !world
                .people
                .gateway
                .at
                .knows_client(&ClientId::parse(id).unwrap())
                .await
                .unwrap()
        );
    }
    assert_eq!(world.site.requests().len(), 1);
}

/// Spec: C28, C29
#[tokio::test]
async fn a_configured_client_wins_over_a_document() {
    let world = World::with(|config| {
        let mut own: Client = support::people::client("web", &["https://client.example/own"], false);
        own.id = ClientId::parse(ID).unwrap();
        own.origin = ClientOrigin::Configured;
        config.oauth.clients.push(own);
    })
    .await;
    world.site.put_json(AT, &document(&[]));
    world
        .authorize(ID, "https://client.example/own")
        .await
        .asks_for_password();
    world.authorize(ID, REDIRECT).await.page(400, "invalid_request");
    assert_eq!(world.site.requests().len(), 0);
}

/// Spec: C26
#[tokio::test]
async fn a_new_sign_in_leaves_other_installations_alone() {
    let world = World::usual().await;
    let (first, first_refresh) = world.tokens(ID, REDIRECT).await;
    let (second, _) = world.tokens(ID, REDIRECT).await;
    let gateway = &world.people.gateway;
    assert!(gateway.live(&first).await.is_some() && gateway.live(&second).await.is_some());
    gateway.refresh(ID, &first_refresh).await.fine();
    assert!(gateway.live(&second).await.is_some());
}

/// Spec: C24, E7
#[tokio::test]
async fn a_changed_document_is_asked_about_again() {
    let key = |x: &str| json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] });
    let world = World::usual().await;
    let mut browser = world.people.browser();
    let again = request(ID, REDIRECT, &[]);
    let seen = browser.allow(&again, "ada").await;
    assert!(seen.answer("code").is_some());
    let changes: [&[(&str, Value)]; 4] = [
        &[("redirect_uris", json!([REDIRECT, "https://client.example/more"]))],
        &[
            ("jwks_uri", json!("https://client.example/jwks")),
            ("token_endpoint_auth_method", json!("private_key_jwt")),
        ],
        &[
            ("jwks", key("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")),
            ("token_endpoint_auth_method", json!("private_key_jwt")),
        ],
        &[
            ("jwks", key("2G1xkN3LuFpCTDfTKXKPcX1CbTN6BDBFHRsZjJhaeXg")),
            ("token_endpoint_auth_method", json!("private_key_jwt")),
        ],
    ];
    for change in changes {
        // What is remembered counts, also after a look at a document in which only the name changed.
        world.site.put_json(AT, &document(change));
        world.later(301);
        browser.open(&again).await.asks_for_consent();
        let page = browser.open(&again).await;
        assert!(browser.decide(&page, "approve").await.answer("code").is_some());
        assert!(browser.open(&again).await.answer("code").is_some());
    }
    world
        .site
        .put_json(AT, &document(&[("client_name", json!("Another name"))]));
    world.later(301);
    assert!(
        browser.open(&again).await.answer("code").is_some(),
        "as it was at first"
    );
}

/// Spec: C20, C24
#[tokio::test]
async fn a_redirect_uri_that_was_taken_back_gets_no_code() {
    let world = World::usual().await;
    let mut browser = world.people.browser();
    let page = browser.sign_in(&request(ID, REDIRECT, &[]), "ada").await;
    world.site.put_json(
        AT,
        &document(&[("redirect_uris", json!(["https://client.example/new"]))]),
    );
    world.later(301);
    let page = browser.decide(&page, "approve").await;
    page.page(400, "invalid_client");
}

// --- documents that do not count

type Change = (&'static str, Value);

/// What is wrong with a document, and what people hear of it.
fn broken_rules() -> Vec<(Vec<Change>, &'static str)> {
    let private = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": "a", "y": "b", "d": "c" }] });
    let symmetric = json!({ "keys": [{ "kty": "oct", "k": "AAAA" }] });
    let public =
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    let signs = ("token_endpoint_auth_method", json!("private_key_jwt"));
    vec![
        (
            vec![("client_id", json!("https://client.example/other.json"))],
            "the client_id in it is not its own address",
        ),
        (
            vec![("client_id", json!("https://CLIENT.example/client.json"))],
            "not its own address",
        ),
        (vec![("client_id", Value::Null)], "not its own address"),
        (vec![("client_name", Value::Null)], "it has no client_name"),
        (vec![("client_name", json!(" \u{202e} "))], "it has no client_name"),
        (vec![("client_name", json!(7))], "client_name must be a string"),
        (
            vec![("redirect_uris", Value::Null)],
            "redirect_uris must name at least one",
        ),
        (
            vec![("redirect_uris", json!([]))],
            "redirect_uris must name at least one",
        ),
        (
            vec![("redirect_uris", json!(["http://client.example/cb"]))],
            "no redirect URI can be used",
        ),
        (
            vec![("redirect_uris", json!(["javascript:alert(1)"]))],
            "no redirect URI can be used",
        ),
        (
            vec![("redirect_uris", json!("https://client.example/cb"))],
            "must be a list",
        ),
        (
            vec![("client_secret", json!("s3cret"))],
            "there is a client_secret in it",
        ),
        (
            vec![("client_secret_expires_at", json!(0))],
            "there is a client_secret_expires_at in it",
        ),
        (
            vec![("token_endpoint_auth_method", json!("client_secret_basic"))],
            "needs a secret",
        ),
        (
            vec![("token_endpoint_auth_method", json!("client_secret_post"))],
            "needs a secret",
        ),
        (
            vec![("token_endpoint_auth_method", json!("client_secret_jwt"))],
            "needs a secret",
        ),
        (
            vec![("token_endpoint_auth_method", json!("tls_client_auth"))],
            "is not supported here",
        ),
        (vec![signs.clone()], "private_key_jwt needs jwks or jwks_uri"),
        (
            vec![signs.clone(), ("jwks_uri", json!("http://client.example/jwks"))],
            "jwks_uri must be an https URL",
        ),
        (
            vec![signs.clone(), ("jwks_uri", json!("https://a/k")), ("jwks", public)],
            "cannot both be there",
        ),
        (
            vec![signs.clone(), ("jwks", json!({ "keys": [] }))],
            "there is no key for",
        ),
        (
            vec![signs.clone(), ("jwks", private.clone())],
            "private or a symmetric key",
        ),
        (vec![("jwks", private)], "private or a symmetric key"),
        (vec![("jwks", symmetric)], "private or a symmetric key"),
        (
            vec![("grant_types", json!(["implicit"]))],
            "grant_types must have authorization_code",
        ),
        (
            vec![("response_types", json!(["token"]))],
            "response_types must have code",
        ),
    ]
}

/// Spec: C19, C25, C22
#[tokio::test]
async fn a_document_that_breaks_a_rule_makes_no_client() {
    let cases = broken_rules();
    let world = World::new().await;
    for (changes, why) in &cases {
        world.site.put_json(AT, &document(changes));
        let page = world.authorize(ID, REDIRECT).await;
        page.page(400, "invalid_client");
        assert!(
            page.text.contains("client.example has one, but"),
            "{changes:?}: {}",
            page.text
        );
        assert!(page.text.contains(why), "{changes:?}: {}", page.text);
        assert!(!page.text.contains("s3cret"));
        let before = world.site.requests().len();
        let reply = world.token_error(ID).await;
        reply.refused(401, "invalid_client");
        assert_eq!(world.site.requests().len(), before, "a moment later nobody asks again");
        world.later(61);
    }
    // Programs that look first hear the same.
    let reply = world.people.gateway.send(
        http::Request::get(request(ID, REDIRECT, &[]))
            .header("accept", "application/json")
            .body(bytes::Bytes::new())
            .unwrap(),
    );
    reply.await.refused(400, "invalid_client");
    assert_eq!(world.fetches("document", "invalid"), cases.len() as u64 + 1);
}

/// Spec: C22
#[tokio::test]
async fn what_a_document_need_not_have_does_not_matter() {
    let world = World::new().await;
    for changes in [
        &[("token_endpoint_auth_method", Value::Null)][..],
        &[("grant_types", Value::Null), ("response_types", Value::Null)],
        &[("grant_types", json!(["authorization_code", "urn:example:unheard-of"]))],
        &[(
            "redirect_uris",
            json!([REDIRECT, "http://client.example/cb", "foo:bar"]),
        )],
        &[(
            "token_endpoint_auth_methods_supported",
            json!(["none", "client_secret_post"]),
        )],
        &[
            ("token_endpoint_auth_method", json!("tls_client_auth")),
            ("token_endpoint_auth_methods_supported", json!(["none"])),
        ],
        &[(
            "jwks",
            json!({ "keys": [{ "kty": "EC", "crv": "P-521", "x": "a", "y": "b" }] }),
        )],
        &[
            ("unheard_of", json!({ "a": [1, 2] })),
            ("contacts", json!(["a@client.example"])),
        ],
    ] {
        world.site.put_json(AT, &document(changes));
        world.authorize(ID, REDIRECT).await.asks_for_password();
        world.later(301);
    }
}

/// Spec: C16, C25
#[tokio::test]
async fn an_address_that_no_document_can_have_is_not_asked() {
    let world = World::new().await;
    for id in [
        "https://client.example",
        "https://client.example/",
        "https://client.example/a#b",
        "https://client.example/a/../client.json",
        "https://client.example/%2e%2e/client.json",
        "https://user@client.example/client.json",
        "https://client.example:443/client.json",
        "HTTPS://client.example/client.json",
        "https://gw.example/client.json",
        "https://gw.example/authorize?client_id=https://client.example/client.json",
    ] {
        world.authorize(id, REDIRECT).await.page(400, "invalid_client");
        world.token_error(id).await.refused(401, "invalid_client");
    }
    world
        .authorize("http://client.example/client.json", REDIRECT)
        .await
        .page(400, "invalid_client");
    assert_eq!(world.site.requests().len(), 0);
}

/// Spec: C17, C25
#[tokio::test]
async fn an_answer_that_is_no_document_makes_no_client() {
    let good = document(&[]).to_string();
    let padded = format!("{good}{}", " ".repeat((16 << 10) - good.len() + 1));
    let secret = "internal-words-of-the-site";
    let cases = [
        (Page::json(&document(&[])).status(201), "status", "status 201"),
        (Page::json(&document(&[])).status(203), "status", "status 203"),
        (Page::json(&document(&[])).status(404), "status", "status 404"),
        (Page::json(&document(&[])).status(500), "status", "status 500"),
        (Page::typed("text/html", good.clone()), "media_type", "application/json"),
        (Page::typed("text/json", good.clone()), "media_type", "application/json"),
        (
            Page::typed("application/jsonp", good.clone()),
            "media_type",
            "application/json",
        ),
        (
            Page::typed("application/json", padded.clone()),
            "too_large",
            "more than 16 KiB",
        ),
        (
            Page::typed("application/json", padded).pace(Pace::Chunked),
            "too_large",
            "more than 16 KiB",
        ),
        (
            Page::typed("application/json", good.clone()).pace(Pace::BrokenOff),
            "broken",
            "broke off",
        ),
        (Page::typed("application/json", secret), "invalid", "not a JSON object"),
        (Page::typed("application/json", "[]"), "invalid", "not a JSON object"),
        (Page::typed("application/json", ""), "invalid", "not a JSON object"),
        (
            Page::typed("application/json", "[".repeat(9000)),
            "invalid",
            "not a JSON object",
        ),
        (
            Page::typed("application/json", [0xff, 0xfe]),
            "invalid",
            "not a JSON object",
        ),
    ];
    let world = World::new().await;
    for (page, result, why) in cases {
        let name = format!("{page:.0?}").len();
        world.site.put(AT, page);
        let before = world.fetches("document", result);
        let seen = world.authorize(ID, REDIRECT).await;
        seen.page(400, "invalid_client");
        assert!(seen.text.contains(why), "{why} ({name}): {}", seen.text);
        assert!(!seen.text.contains(secret));
        assert_eq!(world.fetches("document", result), before + 1, "{why}");
        world.later(61);
    }
    for media_type in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.client+json",
    ] {
        world.site.put(AT, Page::typed(media_type, good.clone()));
        world.authorize(ID, REDIRECT).await.asks_for_password();
        world.later(301);
    }
}

/// Spec: C17
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let world = World::new().await;
    world.site.put_json("other.example/there", &document(&[]));
    world.site.put_json("client.example/there", &document(&[]));
    for status in [301, 302, 303, 307, 308] {
        for to in ["https://other.example/there", "/there", "http://127.0.0.1/there"] {
            world
                .site
                .put(AT, Page::json(&document(&[])).status(status).header("location", to));
            let seen = world.authorize(ID, REDIRECT).await;
            seen.page(400, "invalid_client");
            assert!(seen.text.contains(&format!("status {status}")), "{}", seen.text);
            world.later(61);
        }
    }
    assert_eq!(world.site.count("/there"), 0);
}

/// Spec: C17
#[tokio::test]
async fn a_slow_site_does_not_keep_people_waiting() {
    let world = World::new().await;
    world.site.put(AT, Page::json(&document(&[])).pace(Pace::Dripping));
    let begun = std::time::Instant::now();
    let seen = world.authorize(ID, REDIRECT).await;
    seen.page(400, "invalid_client");
    assert!(seen.text.contains("took too long"), "{}", seen.text);
    assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
    assert_eq!(world.fetches("document", "timeout"), 1);
}

/// Spec: C17
#[tokio::test]
async fn a_certificate_has_to_hold() {
    // Signed by nobody whom this gateway trusts.
    let stranger = World::with(|config| config.outbound_roots.clear()).await;
    stranger.site.put_json(AT, &document(&[]));
    // For another name.
    let wrong = World::usual().await;
    wrong.names.lead("elsewhere.example", &[&[&PUBLIC.to_string()]]);
    for (world, id) in [(&stranger, ID), (&wrong, "https://elsewhere.example/client.json")] {
        let seen = world.authorize(id, REDIRECT).await;
        seen.page(400, "invalid_client");
        assert!(seen.text.contains("does not show a certificate"), "{}", seen.text);
        assert_eq!(world.fetches("document", "tls"), 1);
        assert_eq!(world.site.requests().len(), 0);
    }
}

// --- addresses

/// Spec: C18, L16
#[tokio::test]
async fn a_name_that_leads_inside_is_not_followed() {
    let world = World::usual().await;
    let public = PUBLIC.to_string();
    for (index, addresses) in [
        &["127.0.0.1"][..],
        &["10.0.0.1"],
        &["169.254.169.254"],
        &["100.64.0.1"],
        &["0.0.0.0"],
        &["::1"],
        &["::"],
        &["fd00::1"],
        &["fe80::1"],
        &["::ffff:127.0.0.1"],
        &["::127.0.0.1"],
        &["64:ff9b::7f00:1"],
        &["64:ff9b:1::7f00:1"],
        &["2002:7f00:1::"],
        &["2001:0:7f00:1::"],
        &[&public, "127.0.0.1"],
        &["127.0.0.1", &public],
        &[&public, "::1"],
    ]
    .into_iter()
    .enumerate()
    {
        world.names.lead("client.example", &[addresses]);
        let id = format!("https://client.example/{index}");
        let seen = world.authorize(&id, REDIRECT).await;
        seen.page(400, "invalid_client");
        assert!(
            seen.text.contains("client.example cannot be reached from here"),
            "{addresses:?}"
        );
        for address in addresses {
            assert!(!seen.text.contains(&format!(" {address}")), "{}", seen.text);
        }
        world.later(61);
    }
    assert_eq!(
        (world.fetches("document", "forbidden"), world.site.requests().len()),
        (18, 0)
    );
    // A name that is not there sounds the same.
    let seen = world.authorize("https://nowhere.example/a", REDIRECT).await;
    assert!(
        seen.text.contains("nowhere.example cannot be reached from here"),
        "{}",
        seen.text
    );
}

/// Spec: C18, L16
#[tokio::test]
async fn an_address_in_place_of_a_name_is_judged_too() {
    let world = World::new().await;
    for host in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "192.168.0.1",
        "[::1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a00:1]",
        "[2002:a00:1::]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        // Other spellings of 127.0.0.1.
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
    ] {
        let id = format!("https://{host}:{}/client.json", world.site.address.port());
        world.authorize(&id, REDIRECT).await.page(400, "invalid_client");
        world.token_error(&id).await.refused(401, "invalid_client");
    }
    assert_eq!(world.site.requests().len(), 0);
}

/// Spec: C18, L16
#[tokio::test]
async fn a_name_is_judged_at_every_fetch() {
    let world = World::usual().await;
    let public = PUBLIC.to_string();
    // The first answer is public and the next is not: the first fetch uses what was judged, the second is refused.
    world.names.lead("client.example", &[&[&public], &["127.0.0.1"]]);
    world.authorize(ID, REDIRECT).await.asks_for_password();
    assert_eq!(world.site.requests().len(), 1);
    world.later(24 * 3600);
    world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
    assert_eq!(
        (world.site.requests().len(), world.fetches("document", "forbidden")),
        (1, 1)
    );
}

// --- how often

/// Spec: C27
#[tokio::test]
async fn fifty_people_at_once_are_one_fetch() {
    let world = Arc::new(World::usual().await);
    let slow = Page::json(&document(&[])).pace(Pace::After(Duration::from_millis(300)));
    world.site.put(AT, slow);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let world = Arc::clone(&world);
        tasks.spawn(async move { world.authorize(ID, REDIRECT).await.status });
    }
    assert_eq!(tasks.join_all().await, [200; 50]);
    assert_eq!(world.site.requests().len(), 1);
}

/// Spec: C27
#[tokio::test]
async fn fifty_people_at_once_are_one_failure() {
    let world = Arc::new(World::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let world = Arc::clone(&world);
        tasks.spawn(async move { world.authorize(ID, REDIRECT).await.status });
    }
    assert_eq!(tasks.join_all().await, [400; 50]);
    assert_eq!(world.site.requests().len(), 1);
}

/// Spec: C27, L13
#[tokio::test]
async fn made_up_addresses_do_not_turn_us_on_a_site() {
    let world = World::usual().await;
    world.authorize(ID, REDIRECT).await.asks_for_password();
    for index in 0..100 {
        let seen = world
            .authorize(&format!("https://client.example/{index}"), REDIRECT)
            .await;
        assert!(matches!(seen.status, 400 | 503), "{seen:?}");
    }
    assert_eq!(world.site.requests().len(), 30, "in a minute");
    let seen = world.authorize("https://client.example/one-more", REDIRECT).await;
    seen.page(503, "temporarily_unavailable");
    assert!(seen.header("retry-after").is_some());
    // The client that was good before is not among those who pay for it, even when its copy is over.
    world.later(301);
    for index in 0..100 {
        world
            .authorize(&format!("https://client.example/again/{index}"), REDIRECT)
            .await;
    }
    world.authorize(ID, REDIRECT).await.asks_for_password();
    assert_eq!(world.site.count("/client.json"), 2);
}

/// Spec: C21
#[tokio::test]
async fn a_copy_is_used_for_as_long_as_the_site_says_within_bounds() {
    for (header, fresh_until) in [
        ("max-age=3600", 3600),
        ("max-age=0", 300),
        ("no-store", 300),
        ("max-age=31536000", 86_400),
    ] {
        let world = World::new().await;
        world
            .site
            .put(AT, Page::json(&document(&[])).header("cache-control", header));
        world.authorize(ID, REDIRECT).await.asks_for_password();
        world.later(fresh_until - 1);
        world.authorize(ID, REDIRECT).await.asks_for_password();
        assert_eq!(world.site.requests().len(), 1, "{header}");
        world.later(1);
        world.authorize(ID, REDIRECT).await.asks_for_password();
        assert_eq!(world.site.requests().len(), 2, "{header}");
    }
}

/// Spec: C21, C27
#[tokio::test]
async fn an_error_is_never_an_answer_for_long() {
    let world = World::new().await;
    world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
    world
        .site
        .put(AT, Page::json(&document(&[])).header("cache-control", "max-age=3600"));
    world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
    assert_eq!(world.site.requests().len(), 1, "asked again only after a while");
    world.later(10);
    world.authorize(ID, REDIRECT).await.asks_for_password();
    assert_eq!(world.site.requests().len(), 2);
}

/// Spec: C21
#[tokio::test]
async fn an_outage_of_the_site_signs_nobody_out() {
    for page in [
        Page::json(&document(&[])).status(500),
        Page::json(&document(&[])).status(404),
        Page::typed("text/html", "<h1>maintenance"),
        Page::typed("application/json", "{}"),
    ] {
        let world = World::usual().await;
        let gateway = &world.people.gateway;
        let (access, mut refresh) = world.tokens(ID, REDIRECT).await;
        world.site.put(AT, page);
        for _ in 0..6 {
            world.later(24 * 3600);
            let reply = gateway.refresh(ID, &refresh).await.fine();
            refresh = reply.text_of("refresh_token");
        }
        // For a week, and no longer; whoever wants to sign in anew is told at once.
        world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
        world.later(24 * 3600 - 400);
        gateway.refresh(ID, &refresh).await.fine();
        world.later(500);
        gateway.refresh(ID, &refresh).await.refused(401, "invalid_client");
        assert!(world.site.requests().len() > 7, "the site was asked each time");
        // Tokens do not hang on the site at all.
        assert!(gateway.at.knows_client(&ClientId::parse(ID).unwrap()).await.unwrap());
        assert!(gateway.live(&access).await.is_none(), "it has expired long ago");
    }
}

/// Spec: C21
#[tokio::test]
async fn new_sign_ins_get_by_without_the_site_for_a_day() {
    let world = World::usual().await;
    world.authorize(ID, REDIRECT).await.asks_for_password();
    world.names.down.store(true, Ordering::Relaxed);
    world.later(24 * 3600 - 1);
    world.authorize(ID, REDIRECT).await.asks_for_password();
    world.later(1);
    world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
    world.names.down.store(false, Ordering::Relaxed);
    world.later(10);
    world.authorize(ID, REDIRECT).await.asks_for_password();
    // A site that does not want to be remembered is not; and one that took its document away has none.
    for page in [
        Page::json(&document(&[])).header("cache-control", "no-store"),
        Page::json(&document(&[])).status(404),
    ] {
        let world = World::usual().await;
        let gone = page.status == 404;
        if !gone {
            world.site.put(AT, page.clone());
        }
        world.authorize(ID, REDIRECT).await.asks_for_password();
        if gone {
            world.site.put(AT, page);
        } else {
            world.names.down.store(true, Ordering::Relaxed);
        }
        world.later(301);
        world.authorize(ID, REDIRECT).await.page(400, "invalid_client");
    }
}

/// Spec: C13, L15
#[tokio::test]
async fn nothing_is_registered_for_a_document() {
    let world = World::usual().await;
    world.tokens(ID, REDIRECT).await;
    let id = ClientId::parse(ID).unwrap();
    let store = &world.people.gateway.at.store;
    assert!(store.client(&id).await.unwrap().is_none());
    let client = world.people.gateway.client(ID).await;
    assert_eq!((client.origin, client.secret), (ClientOrigin::Document, None));
    assert!(world.people.metric("mcpgate_registrations_total{kind=\"document\"} 1"));
    let reply = world
        .people
        .browser()
        .send(Method::GET, &request(ID, REDIRECT, &[("prompt", "none")]), None)
        .await;
    assert_eq!(reply.answer("iss").as_deref(), Some(ORIGIN));
}
