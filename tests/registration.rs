//! `/register`, as clients meet it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
}

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use mcpgate::domain::secret::{Secret, SecretHash, SecretKind};
use mcpgate::domain::uri::HostPattern;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::endpoints::{Gateway, REDIRECT, Reply, config};
use support::memory::Memory;

fn with(more: &Value) -> Value {
    let mut document = json!({ "redirect_uris": [REDIRECT] });
    for (member, value) in more.as_object().unwrap() {
        document[member] = value.clone();
    }
    document
}

/// Spec: C1, C2, C3, C13
#[tokio::test]
async fn the_least_document_gets_the_defaults_of_the_rfc() {
    let gateway = Gateway::new();
    let reply = gateway.register(&with(&json!({}))).await;
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("pragma"), Some("no-cache"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let answer = reply.json();
    assert_eq!(answer["token_endpoint_auth_method"], "client_secret_basic");
    assert_eq!(answer["grant_types"], json!(["authorization_code"]));
    assert_eq!(answer["response_types"], json!(["code"]));
    assert_eq!(answer["redirect_uris"], json!([REDIRECT]));
    assert_eq!(answer["client_id_issued_at"], 1_800_000_000);
    assert_eq!(answer["client_secret_expires_at"], 0);
    assert_eq!(answer.as_object().unwrap().len(), 10, "{answer}");
    let id = reply.text_of("client_id");
    assert!(!id.starts_with("https://"));
    let secret = reply.text_of("client_secret");
    let stored = gateway.client(&id).await;
    assert!(stored.secret.unwrap().matches(&secret));
    assert!(!serde_json::to_string(&stored).unwrap().contains(&secret[5..]));
    assert!(gateway.metric("mcpgate_registrations_total{kind=\"dynamic\"} 1"));
}

/// Spec: C2
#[tokio::test]
async fn a_public_client_gets_no_secret() {
    let gateway = Gateway::new();
    let document = with(&json!({ "token_endpoint_auth_method": "none" }));
    let reply = gateway.register(&document).await.fine();
    let answer = reply.json();
    assert_eq!(answer["token_endpoint_auth_method"], "none");
    assert!(answer.get("client_secret").is_none() && answer.get("client_secret_expires_at").is_none());
    assert!(gateway.client(&reply.text_of("client_id")).await.secret.is_none());
}

/// Spec: C11
#[tokio::test]
async fn two_registrations_are_two_clients() {
    let gateway = Gateway::new();
    let first = gateway.register(&with(&json!({}))).await.fine();
    let second = gateway.register(&with(&json!({}))).await.fine();
    assert_ne!(first.text_of("client_id"), second.text_of("client_id"));
    assert_ne!(first.text_of("client_secret"), second.text_of("client_secret"));
}

/// Spec: C1
#[tokio::test]
async fn everything_that_is_understood_is_handed_back() {
    let gateway = Gateway::new();
    let understood = json!({
        "redirect_uris": [REDIRECT, "https://app.example/cb"],
        "token_endpoint_auth_method": "client_secret_post",
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "client_name": "Ünïcode 🦀 client",
        "client_uri": "https://app.example/",
        "logo_uri": "https://app.example/logo.png",
        "tos_uri": "https://app.example/tos",
        "policy_uri": "http://app.example/policy",
        "contacts": ["ada@app.example"],
        "software_id": "4NRB1-0XZABZI9E6-5SM3R",
        "software_version": "2.1",
        "application_type": "web",
        "scope": "files:read offline_access",
    });
    let mut sent = understood.clone();
    for (member, value) in [
        ("unknown", json!({ "deep": [1, null] })),
        ("jwks_uri", Value::Null),
        ("software_statement", json!("eyJ")),
        ("client_id", json!("mine")),
        ("client_secret", json!("mine")),
    ] {
        sent[member] = value;
    }
    let answer = gateway.register(&sent).await.fine().json();
    for (member, value) in understood.as_object().unwrap() {
        assert_eq!(answer[member], *value, "{member}");
    }
    assert_eq!(
        answer.as_object().unwrap().len(),
        understood.as_object().unwrap().len() + 6
    );
    assert_ne!(answer["client_id"], "mine");
    assert_ne!(answer["client_secret"], "mine");
}

/// Spec: A12, C3
#[tokio::test]
async fn null_is_absent_and_never_comes_back() {
    let gateway = Gateway::new();
    let members = [
        "token_endpoint_auth_method",
        "grant_types",
        "response_types",
        "client_name",
        "client_uri",
        "logo_uri",
        "tos_uri",
        "policy_uri",
        "contacts",
        "software_id",
        "software_version",
        "application_type",
        "scope",
    ];
    let nulls: serde_json::Map<_, _> = members
        .iter()
        .map(|member| ((*member).to_owned(), Value::Null))
        .collect();
    let answer = gateway.register(&with(&Value::Object(nulls))).await.fine();
    assert_eq!(answer.json().as_object().unwrap().len(), 10, "{}", answer.text);
    let empty = with(&json!({ "client_name": "", "scope": "", "contacts": [], "client_uri": "" }));
    let answer = gateway.register(&empty).await.fine();
    assert_eq!(answer.json().as_object().unwrap().len(), 10, "{}", answer.text);
}

/// Spec: C5, C6
#[tokio::test]
async fn what_is_not_supported_is_left_out_or_replaced() {
    let gateway = Gateway::new();
    let vs_code = with(&json!({
        "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        "response_types": ["code", "token"],
        "scope": "openid files:read nonsense \u{e4} offline_access",
    }));
    let answer = gateway.register(&vs_code).await.fine().json();
    assert_eq!(answer["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(answer["response_types"], json!(["code"]));
    assert_eq!(answer["scope"], "openid files:read offline_access");
    for (document, method) in [
        (json!({ "redirect_uris": [REDIRECT] }), "none"),
        (
            json!({ "redirect_uris": ["cursor://anysphere.cursor-mcp/oauth/callback"] }),
            "none",
        ),
        (
            json!({ "redirect_uris": ["https://app.example/cb"] }),
            "client_secret_basic",
        ),
        (
            json!({ "redirect_uris": ["https://app.example/cb"], "application_type": "native" }),
            "none",
        ),
        (
            json!({ "redirect_uris": [REDIRECT, "https://app.example/cb"] }),
            "client_secret_basic",
        ),
    ] {
        for unknown in ["private_key_jwt", "tls_client_auth", "x"] {
            let mut document = document.clone();
            document["token_endpoint_auth_method"] = json!(unknown);
            let answer = gateway.register(&document).await.fine().json();
            assert_eq!(answer["token_endpoint_auth_method"], method, "{document}");
            assert_eq!(answer.get("client_secret").is_some(), method != "none");
        }
    }
}

/// A step-up asks for scopes that the client had not heard of when it registered.
#[tokio::test]
async fn a_registered_scope_does_not_bind() {
    let gateway = Gateway::new();
    let reply = gateway.register(&with(&json!({ "scope": "files:read" }))).await.fine();
    assert_eq!(gateway.client(&reply.text_of("client_id")).await.scope, None);
}

/// Spec: C8
#[tokio::test]
async fn one_bad_redirect_uri_does_not_cost_the_good_ones() {
    let gateway = Gateway::with(|config| {
        config.oauth.allowed_redirect_hosts = vec![HostPattern::parse("claude.ai").unwrap()];
    });
    let cursor = json!({ "redirect_uris": [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
        "http://localhost:8787/callback",
    ] });
    let answer = gateway.register(&cursor).await.fine().json();
    let accepted = json!([
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "http://localhost:8787/callback"
    ]);
    assert_eq!(answer["redirect_uris"], accepted);
}

/// Spec: C4, C7
#[tokio::test]
async fn redirect_uris_that_could_carry_a_code_elsewhere_are_refused() {
    let gateway = Gateway::new();
    for (uris, rule) in [
        (json!(["https://a.example/#x"]), "fragment"),
        (json!(["https://a@a.example/"]), "user name"),
        (json!(["https://*.example/"]), "wildcard"),
        (json!(["http://a.example/"]), "http is allowed only for localhost"),
        (json!(["javascript:alert(1)"]), "scheme"),
        (json!(["data:text/html,x"]), "scheme"),
        (json!(["file:///etc/passwd"]), "scheme"),
        (json!(["vbscript:x"]), "scheme"),
        (json!(["/relative"]), "absolute"),
        (json!([""]), "absolute"),
        (json!([]), "at least one"),
        (json!(null), "at least one"),
        (json!("https://a.example/"), "list of strings"),
        (json!([1]), "list of strings"),
        (json!([null]), "list of strings"),
        (json!(vec![REDIRECT; 21]), "more than 20"),
    ] {
        let reply = gateway.register(&json!({ "redirect_uris": uris })).await;
        reply.refused(400, "invalid_redirect_uri");
        assert!(
            reply.text_of("error_description").contains(rule),
            "{uris}: {}",
            reply.text
        );
    }
    gateway.register(&json!({})).await.refused(400, "invalid_redirect_uri");
    assert!(gateway.metric("mcpgate_registrations_total{kind=\"refused\"} 17"));
}

/// Spec: C4
#[tokio::test]
async fn metadata_of_the_wrong_kind_is_refused_by_name() {
    let gateway = Gateway::new();
    for (member, value) in [
        ("token_endpoint_auth_method", json!(1)),
        ("grant_types", json!("authorization_code")),
        ("grant_types", json!([])),
        ("grant_types", json!(["refresh_token"])),
        ("grant_types", json!(["implicit", "client_credentials"])),
        ("response_types", json!(["token"])),
        ("response_types", json!([])),
        ("response_types", json!([["code"]])),
        ("client_name", json!({ "en": "x" })),
        ("client_uri", json!(["https://a.example/"])),
        ("contacts", json!("ada@a.example")),
        ("contacts", json!(vec!["x"; 33])),
        ("scope", json!(["files:read"])),
        ("application_type", json!(true)),
        ("software_version", json!(1.5)),
    ] {
        let reply = gateway.register(&with(&json!({ member: value }))).await;
        reply.refused(400, "invalid_client_metadata");
        assert!(reply.text_of("error_description").contains(member), "{}", reply.text);
    }
}

/// Spec: C4, C9
#[tokio::test]
async fn only_a_small_json_object_is_read() {
    let gateway = Gateway::new();
    let deep = format!(
        "{{\"redirect_uris\":[\"{REDIRECT}\"],\"x\":{}{}}}",
        "[".repeat(200),
        "]".repeat(200)
    );
    let long = with(&json!({ "x": "y".repeat(16 << 10) })).to_string();
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "redirect_uris=x",
        deep.as_str(),
        long.as_str(),
        "{\"a\":\"\u{0}\"}",
    ] {
        gateway
            .register_text(text)
            .await
            .refused(400, "invalid_client_metadata");
    }
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = Request::post("/register");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = Bytes::from(with(&json!({})).to_string());
        gateway
            .send(request.body(body).unwrap())
            .await
            .refused(400, "invalid_client_metadata");
    }
    let request = Request::post("/register")
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(Bytes::from(with(&json!({})).to_string()))
        .unwrap();
    gateway.send(request).await.fine();
    gateway.get("/register").await.refused(405, "invalid_request");
}

/// Spec: C14
#[tokio::test]
async fn what_people_will_see_is_cut_and_cleaned() {
    let gateway = Gateway::new();
    let document = with(&json!({
        "client_name": format!(" \u{202e}evil\u{2066}\r\n\u{0}\u{200b}\u{feff}{}", "x".repeat(300)),
        "client_uri": "javascript:alert(1)",
        "logo_uri": "data:image/png;base64,x",
        "tos_uri": "https://a.example/\"><script>",
        "policy_uri": format!("https://a.example/{}", "x".repeat(3000)),
        "contacts": ["\u{202e}", "a\u{7}b"],
        "application_type": "toaster",
        "software_id": "\u{200f}",
    }));
    let reply = gateway.register(&document).await.fine();
    let answer = reply.json();
    let name = reply.text_of("client_name");
    assert!(name.starts_with("evilxxx") && name.chars().count() <= 200, "{name}");
    assert_eq!(answer["contacts"], json!(["ab"]));
    for dropped in [
        "client_uri",
        "logo_uri",
        "tos_uri",
        "policy_uri",
        "application_type",
        "software_id",
    ] {
        assert!(answer.get(dropped).is_none(), "{dropped}: {answer}");
    }
    assert_eq!(gateway.client(&reply.text_of("client_id")).await.name, Some(name));
}

/// Spec: A7
#[tokio::test]
async fn a_gateway_that_registers_nobody_says_so() {
    let gateway = Gateway::with(|config| config.oauth.dynamic_registration = false);
    gateway.register(&with(&json!({}))).await.refused(403, "access_denied");
    assert!(gateway.metric("mcpgate_registrations_total{kind=\"refused\"} 1"));
}

#[tokio::test]
async fn a_full_store_asks_to_come_back() {
    let store = Arc::new(Memory::default());
    store.full.store(true, Ordering::SeqCst);
    let gateway = Gateway::on(config(), store);
    let reply = gateway.register(&with(&json!({}))).await;
    reply.refused(503, "temporarily_unavailable");
    assert!(reply.header("retry-after").is_some());
    assert!(gateway.metric("mcpgate_registrations_total{kind=\"refused\"} 1"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "(https?|cursor|javascript)://[a-z.@#*/]{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "none",
            "code",
            "authorization_code",
            "native",
            "files:read",
            REDIRECT
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..3).prop_map(|members| json!(members)),
        ]
    })
}

fn any_document() -> impl Strategy<Value = Value> {
    let member = prop::sample::select(vec![
        "redirect_uris",
        "token_endpoint_auth_method",
        "grant_types",
        "response_types",
        "client_name",
        "client_uri",
        "contacts",
        "software_id",
        "application_type",
        "scope",
        "unknown",
    ]);
    prop::collection::btree_map(member, any_json(), 0..6).prop_map(|members| json!(members))
}

proptest! {
    /// Whatever is sent, the answer is a registration without holes in it or one of two errors, and what was registered
    /// is what the answer says. (That no answer has `null` or an empty text in it, the harness checks for all of them.)
    /// Spec: C4, C6
    #[test]
    fn no_document_whatever_gets_more_than_a_registration(mut document in any_document(), fine in any::<bool>()) {
        if fine {
            document["redirect_uris"] = json!([REDIRECT]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let gateway = Gateway::new();
            let reply = gateway.register(&document).await;
            if reply.status == 201 {
                let (answer, client) = (reply.json(), gateway.client(&reply.text_of("client_id")).await);
                assert_eq!(json!(client.redirect_uris), answer["redirect_uris"]);
                assert_eq!(json!(client.grant_types), answer["grant_types"]);
                assert_eq!(client.is_confidential(), answer["token_endpoint_auth_method"] != "none");
                assert_eq!(client.is_confidential(), answer.get("client_secret").is_some());
                assert_eq!(json!(client.name), answer.get("client_name").cloned().unwrap_or_default());
            } else {
                assert_eq!(reply.status, 400);
                let error = reply.text_of("error");
                assert!(matches!(error.as_str(), "invalid_redirect_uri" | "invalid_client_metadata"), "{error}");
                reply.refused(400, &error);
            }
        });
    }
}

// --- who may register

/// Spec: C12
#[tokio::test]
async fn registration_may_need_an_initial_access_token() {
    let gateway = Gateway::with(|config| {
        config.oauth.initial_access_tokens = vec![
            SecretHash::of("one-token-for-friends"),
            SecretHash::of("another-for-robots"),
        ];
    });
    let document = with(&json!({})).to_string();
    let register = |authorization: Option<&'static str>| {
        let mut request = Request::post("/register").header("content-type", "application/json");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        request.body(Bytes::from(document.clone())).unwrap()
    };
    for wrong in [
        None,
        Some("Bearer one-token"),
        Some("Bearer "),
        Some("Basic one-token-for-friends"),
        Some("DPoP one-token-for-friends"),
    ] {
        let reply = gateway.send(register(wrong)).await;
        reply.refused(401, "invalid_token");
        assert_eq!(
            reply.header("www-authenticate"),
            Some("Bearer error=\"invalid_token\""),
            "{wrong:?}"
        );
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
    for right in ["Bearer one-token-for-friends", "bearer another-for-robots"] {
        assert_eq!(gateway.send(register(Some(right))).await.status, 201, "{right}");
    }
}

/// Spec: C7
#[tokio::test]
async fn private_use_schemes_are_those_of_the_list_and_those_with_a_dot() {
    let gateway = Gateway::with(|config| config.oauth.allowed_redirect_schemes = vec!["acme".to_owned()]);
    for (uri, fine) in [
        ("acme://callback", true),
        ("com.example.app:/oauth", true),
        ("cursor://anysphere.cursor-mcp/oauth/callback", false),
        ("javascript:alert(1)", false),
    ] {
        let reply = gateway.register(&json!({ "redirect_uris": [uri] })).await;
        assert_eq!(reply.status == 201, fine, "{uri}: {}", reply.text);
    }
    // What is dangerous stays so, whatever the list says.
    let gateway = Gateway::with(|config| {
        config.oauth.allowed_redirect_schemes = vec!["javascript".to_owned(), "data".to_owned()];
    });
    for uri in ["javascript:alert(1)", "data:text/html,x"] {
        let reply = gateway.register(&json!({ "redirect_uris": [uri] })).await;
        reply.refused(400, "invalid_redirect_uri");
    }
}

// --- RFC 7592

/// A request about a registration.
async fn manage(gateway: &Gateway, method: &str, uri: &str, token: &str, document: Option<&Value>) -> Reply {
    let path = uri.strip_prefix("https://gw.example").unwrap_or(uri);
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if document.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = document.map(ToString::to_string).unwrap_or_default();
    gateway.send(request.body(Bytes::from(body)).unwrap()).await
}

/// Spec: C12
#[tokio::test]
async fn a_client_reads_replaces_and_deletes_its_registration() {
    let gateway = Gateway::new();
    let document = with(&json!({
        "token_endpoint_auth_method": "none",
        "client_name": "Before",
        "scope": "files:read openid",
        "grant_types": ["authorization_code", "refresh_token"],
    }));
    let registered = gateway.register(&document).await.fine();
    let (id, uri, token) = (
        registered.text_of("client_id"),
        registered.text_of("registration_client_uri"),
        registered.text_of("registration_access_token"),
    );
    assert_eq!(uri, format!("https://gw.example/register/{id}"));
    let stored = serde_json::to_string(&gateway.client(&id).await).unwrap();
    assert!(!stored.contains(&token[5..]), "at rest there is a hash");

    let read = manage(&gateway, "GET", &uri, &token, None).await;
    assert_eq!(read.status, 200);
    assert_eq!(read.header("cache-control"), Some("no-store"));
    assert_eq!(read.json(), registered.json(), "nothing has changed");

    let other = "https://app.example/cb";
    let change = json!({ "client_id": id, "redirect_uris": [other], "client_name": "After",
        "grant_types": ["authorization_code", "refresh_token"], "registration_access_token": token });
    let changed = manage(&gateway, "PUT", &uri, &token, Some(&change)).await.fine().json();
    assert_eq!(changed["client_name"], "After");
    assert_eq!(changed["redirect_uris"], json!([other]));
    assert_eq!(changed["token_endpoint_auth_method"], "none");
    assert_eq!(changed["registration_access_token"], token);
    assert_eq!(changed["client_id_issued_at"], registered.json()["client_id_issued_at"]);
    assert!(gateway.client(&id).await.redirect_target(REDIRECT).is_none());
    let back = json!({ "client_id": id, "redirect_uris": [REDIRECT] , "grant_types": ["authorization_code", "refresh_token"] });
    let back = manage(&gateway, "PUT", &uri, &token, Some(&back)).await.fine();
    assert!(back.json().get("client_name").is_none(), "what is left out is gone");

    let (access, refresh) = gateway.tokens(&id).await;
    assert!(gateway.live(&access).await.is_some());
    let gone = manage(&gateway, "DELETE", &uri, &token, None).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    assert!(gateway.live(&access).await.is_none(), "its grants end with it");
    gateway.refresh(&id, &refresh).await.refused(401, "invalid_client");
    for method in ["GET", "DELETE"] {
        manage(&gateway, method, &uri, &token, None)
            .await
            .refused(401, "invalid_token");
    }
}

#[tokio::test]
async fn a_registration_cannot_become_another_client_s() {
    let gateway = Gateway::new();
    let confidential = gateway.register(&with(&json!({}))).await.fine();
    let public = gateway
        .register(&with(&json!({ "token_endpoint_auth_method": "none" })))
        .await
        .fine();
    let of = |reply: &Reply, member: &str| reply.text_of(member);
    for (reply, other) in [(&confidential, &public), (&public, &confidential)] {
        let (uri, token) = (
            of(reply, "registration_client_uri"),
            of(reply, "registration_access_token"),
        );
        let id = of(reply, "client_id");
        let own_method = reply.json()["token_endpoint_auth_method"].clone();
        let other_method = other.json()["token_endpoint_auth_method"].clone();
        for wrong in [
            json!({ "redirect_uris": [REDIRECT] }),
            json!({ "client_id": of(other, "client_id"), "redirect_uris": [REDIRECT] }),
            json!({ "client_id": 7, "redirect_uris": [REDIRECT] }),
            json!({ "client_id": id, "client_secret": "mine", "redirect_uris": [REDIRECT] }),
            json!({ "client_id": id, "client_secret": 7, "redirect_uris": [REDIRECT] }),
            json!({ "client_id": id, "token_endpoint_auth_method": other_method, "redirect_uris": [REDIRECT] }),
        ] {
            let reply = manage(&gateway, "PUT", &uri, &token, Some(&wrong)).await;
            reply.refused(400, "invalid_client_metadata");
        }
        let wrong = json!({ "client_id": id, "redirect_uris": ["http://evil.example/"] });
        let reply = manage(&gateway, "PUT", &uri, &token, Some(&wrong)).await;
        reply.refused(400, "invalid_redirect_uri");
        assert_eq!(
            gateway.client(&id).await.auth_method.unwrap().as_str(),
            own_method.as_str().unwrap()
        );
    }
    // Its own secret may be named, and still works afterwards.
    let (id, secret) = (of(&confidential, "client_id"), of(&confidential, "client_secret"));
    let fine = json!({ "client_id": id, "client_secret": secret, "redirect_uris": [REDIRECT],
        "token_endpoint_auth_method": "client_secret_post" });
    let uri = of(&confidential, "registration_client_uri");
    let token = of(&confidential, "registration_access_token");
    let reply = manage(&gateway, "PUT", &uri, &token, Some(&fine)).await.fine();
    assert_eq!(reply.json()["token_endpoint_auth_method"], "client_secret_post");
    assert!(reply.json().get("client_secret").is_none());
    assert!(gateway.client(&id).await.secret.unwrap().matches(&secret));
}

/// Unknown client, no token, wrong token, somebody else's token, an access token: one answer.
#[tokio::test]
async fn without_its_token_a_registration_is_nobody_s_business() {
    let gateway = Gateway::new();
    let document = with(&json!({ "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"] }));
    let (own, other) = (
        gateway.register(&document).await.fine(),
        gateway.register(&document).await.fine(),
    );
    let uri = own.text_of("registration_client_uri");
    let (access, refresh) = gateway.tokens(&own.text_of("client_id")).await;
    let others = other.text_of("registration_access_token");
    let never = Secret::generate(SecretKind::RegistrationToken).expose().to_owned();
    let mut answers = Vec::new();
    for (uri, token) in [
        (uri.as_str(), ""),
        (&uri, "nonsense"),
        (&uri, &never),
        (&uri, &others),
        (&uri, &access),
        (&uri, &refresh),
        ("/register/mgc_nobody", &never),
        ("/register/ci-runner", &others),
        ("/register/a/b", &others),
        ("/register/%00", &others),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let document = (method == "PUT").then(|| with(&json!({ "client_id": own.text_of("client_id") })));
            let reply = manage(&gateway, method, uri, token, document.as_ref()).await;
            reply.refused(401, "invalid_token");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
            answers.push(reply.text);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    gateway.client(&own.text_of("client_id")).await;
    let reply = manage(&gateway, "POST", &uri, &others, None).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("allow")),
        (405, Some("GET, HEAD, PUT, DELETE, OPTIONS"))
    );
    let reply = manage(&gateway, "OPTIONS", &uri, "", None).await;
    let allowed = reply.header("access-control-allow-methods").unwrap();
    assert!(reply.status == 204 && allowed.contains("PUT") && allowed.contains("DELETE"));
}

/// Spec: C11
#[tokio::test]
async fn the_same_registration_twice_is_two_clients_that_both_work() {
    let gateway = Gateway::new();
    let claude = json!({ "redirect_uris": [REDIRECT], "client_name": "Claude", "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"] });
    for _ in 0..2 {
        let id = gateway.register(&claude).await.fine().text_of("client_id");
        gateway.tokens(&id).await;
    }
}
