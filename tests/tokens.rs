//! `/token` and `/revoke`, as clients meet them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
}

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use mcpgate::domain::client::{Client, ClientId, ClientOrigin, GrantType};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::secret::SecretHash;
use mcpgate::domain::uri::RedirectUri;
use proptest::prelude::*;
use serde_json::json;
use support::endpoints::{Allowed, FILES, Gateway, NOTES, ORIGIN, REDIRECT, Reply, VERIFIER, config, form};
use support::memory::Memory;

const WEEK: u64 = 7 * 24 * 3600;

fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

fn configured(id: &str, secret: Option<&str>, grant_types: &[GrantType]) -> Client {
    Client {
        id: ClientId::parse(id).unwrap(),
        origin: ClientOrigin::Configured,
        secret: secret.map(SecretHash::of),
        auth_method: None,
        keys: None,
        redirect_uris: vec![RedirectUri::parse(REDIRECT, &[]).unwrap()],
        grant_types: grant_types.to_vec(),
        scope: None,
        name: None,
        display: mcpgate::domain::client::ClientDisplay::default(),
        id_token_algorithm: None,
        key_bound: false,
        permissions: mcpgate::domain::client::Permissions::default(),
        registration_token: None,
        created_at: Timestamp::from_millis(0),
    }
}

/// Two requests that meet at every step; the one that succeeded comes first.
async fn side_by_side(one: impl Future<Output = Reply>, other: impl Future<Output = Reply>) -> (Reply, Reply) {
    let (one, other) = tokio::join!(one, other);
    if one.status == 200 {
        (one, other)
    } else {
        (other.fine(), one)
    }
}

// --- the request itself

/// Spec: F2, F8, F12
#[tokio::test]
async fn a_code_becomes_tokens_for_one_resource_and_one_person() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let reply = gateway.redeem(&client, &code).await.fine();
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("pragma"), Some("no-cache"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let answer = reply.json();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 3600);
    assert_eq!(answer["scope"], "files:read files:write");
    assert_eq!(answer.as_object().unwrap().len(), 5);
    let live = gateway
        .live(&reply.text_of("access_token"))
        .await
        .expect("a living token");
    assert_eq!(live.grant.resource.as_str(), FILES);
    assert_eq!(live.grant.subject.as_str(), "ada");
    assert_eq!(live.grant.client_id.as_str(), client);
    assert_eq!(live.token.scope.to_string(), "files:read files:write");
    assert!(gateway.metric("mcpgate_tokens_issued_total{grant=\"authorization_code\"} 1"));
    gateway.later(3600);
    assert!(gateway.live(&reply.text_of("access_token")).await.is_none());
}

/// Spec: A12
#[tokio::test]
async fn tokens_without_scope_have_no_scope_member() {
    let gateway = Gateway::new();
    let client = gateway.public_client(&["authorization_code"]).await;
    let allowed = Allowed {
        scope: "",
        resource: NOTES,
        ..Allowed::default()
    };
    let code = gateway.code(&client, allowed).await;
    let answer = gateway.redeem(&client, &code).await.fine().json();
    assert!(
        answer.get("scope").is_none() && answer.get("refresh_token").is_none(),
        "{answer}"
    );
}

/// Spec: F1
#[tokio::test]
async fn only_a_posted_form_is_read() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let parameters = [
        ("grant_type", "authorization_code"),
        ("client_id", client.as_str()),
        ("code", code.as_str()),
        ("code_verifier", VERIFIER),
    ];
    let get = gateway.get(&format!("/token?{}", form(&parameters))).await;
    get.refused(405, "invalid_request");
    assert_eq!(get.header("allow"), Some("POST, OPTIONS"));
    let document: serde_json::Map<_, _> = parameters.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    for (content_type, body) in [
        (Some("application/json"), serde_json::to_string(&document).unwrap()),
        (Some("text/plain"), form(&parameters)),
        (None, form(&parameters)),
    ] {
        let mut request = Request::post("/token");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let reply = gateway.send(request.body(Bytes::from(body)).unwrap()).await;
        reply.refused(400, "invalid_request");
    }
    let query = Request::post(format!("/token?{}", form(&parameters)))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::new())
        .unwrap();
    gateway.send(query).await.refused(401, "invalid_client");
    gateway.redeem(&client, &code).await.fine();
}

/// Spec: F1
#[tokio::test]
async fn a_parameter_that_is_there_twice_is_refused() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    for twice in [
        "grant_type",
        "client_id",
        "code",
        "code_verifier",
        "redirect_uri",
        "scope",
    ] {
        let reply = gateway
            .token(&[
                ("grant_type", "authorization_code"),
                ("client_id", &client),
                ("code", &code),
                ("code_verifier", VERIFIER),
                ("redirect_uri", REDIRECT),
                ("scope", "files:read"),
                (twice, "x"),
            ])
            .await;
        reply.refused(400, "invalid_request");
    }
    gateway.redeem(&client, &code).await.fine();
}

/// Spec: F3
#[tokio::test]
async fn grant_type_is_required_and_must_be_one_of_ours() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    gateway
        .token(&[("client_id", &client)])
        .await
        .refused(400, "invalid_request");
    for other in [
        "password",
        "implicit",
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "AUTHORIZATION_CODE",
        "authorization_code ",
    ] {
        let reply = gateway.token(&[("client_id", &client), ("grant_type", other)]).await;
        reply.refused(400, "unsupported_grant_type");
    }
    for grant in ["authorization_code", "refresh_token"] {
        let reply = gateway.token(&[("client_id", &client), ("grant_type", grant)]).await;
        reply.refused(400, "invalid_request");
    }
}

// --- the client

/// Spec: F4
#[tokio::test]
async fn an_unknown_client_is_invalid_client_whatever_it_presents() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let (_, refresh) = gateway.tokens(&client).await;
    for unknown in ["mgc_gone", "https://client.example/metadata.json", " ", "ä"] {
        gateway.redeem(unknown, &code).await.refused(401, "invalid_client");
        gateway.refresh(unknown, &refresh).await.refused(401, "invalid_client");
        gateway.refresh(unknown, "garbage").await.refused(401, "invalid_client");
        gateway
            .token(&[("client_id", unknown)])
            .await
            .refused(401, "invalid_client");
    }
    gateway
        .token(&[("grant_type", "refresh_token")])
        .await
        .refused(401, "invalid_client");
    gateway.redeem(&client, &code).await.fine();
    gateway.refresh(&client, &refresh).await.fine();
}

/// Spec: F3, L13
#[tokio::test]
async fn an_unknown_client_and_a_wrong_secret_get_the_same_answer() {
    let gateway = Gateway::with(|config| {
        config.oauth.clients = vec![configured("ci", Some("right"), &[GrantType::AuthorizationCode])];
    });
    let wrong = gateway
        .post("/token", None, &[("client_id", "ci"), ("client_secret", "wrong")])
        .await;
    let unknown = gateway
        .post("/token", None, &[("client_id", "no"), ("client_secret", "wrong")])
        .await;
    wrong.refused(401, "invalid_client");
    assert_eq!((&wrong.text, &wrong.headers), (&unknown.text, &unknown.headers));
    assert_eq!(wrong.header("www-authenticate"), None);
    let wrong = gateway.post("/token", Some(&basic("ci", "wrong")), &[]).await;
    let unknown = gateway.post("/token", Some(&basic("no", "wrong")), &[]).await;
    wrong.refused(401, "invalid_client");
    assert_eq!((&wrong.text, &wrong.headers), (&unknown.text, &unknown.headers));
    assert_eq!(wrong.header("www-authenticate"), Some("Basic realm=\"mcpgate\""));
}

/// claude.ai sends the form whatever is registered, others the header: the secret is what counts.
/// Spec: F5
#[tokio::test]
async fn a_confidential_client_may_send_its_secret_in_either_place() {
    let gateway = Gateway::new();
    for method in ["client_secret_basic", "client_secret_post"] {
        let document = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": method });
        let registered = gateway.register(&document).await.fine();
        let (id, secret) = (registered.text_of("client_id"), registered.text_of("client_secret"));
        for header in [true, false] {
            let code = gateway.code(&id, Allowed::default()).await;
            let mut parameters = vec![
                ("grant_type", "authorization_code"),
                ("code", code.as_str()),
                ("code_verifier", VERIFIER),
                ("client_id", id.as_str()),
            ];
            gateway.token(&parameters).await.refused(401, "invalid_client");
            if header {
                gateway
                    .post("/token", Some(&basic(&id, &secret)), &parameters)
                    .await
                    .fine();
            } else {
                parameters.push(("client_secret", &secret));
                gateway.token(&parameters).await.fine();
            }
        }
    }
}

/// Spec: F5
#[tokio::test]
async fn basic_is_read_url_encoded_and_as_it_is() {
    // A colon in the id can only be sent encoded.
    let (id, secret) = ("ci+runner/%41 b".replace(' ', "_"), "p+ss:w%72rd /ä=&");
    let gateway = Gateway::with(|config| {
        config.oauth.clients = vec![configured(&id, Some(secret), &[GrantType::RefreshToken])];
    });
    let encode = |text: &str| form(&[("", text)])[1..].to_owned();
    let encoded = basic(&encode(&id), &encode(secret));
    // Authenticated: what is missing is the grant's own parameter.
    let refresh = [("grant_type", "refresh_token")];
    for header in [
        encoded.clone(),
        basic(&id, secret),
        encoded.trim_end_matches('=').to_owned(),
        encoded.replacen("Basic", "bAsIc", 1),
    ] {
        let reply = gateway.post("/token", Some(&header), &refresh).await;
        reply.refused(400, "invalid_request");
        let with_id = [refresh[0], ("client_id", id.as_str())];
        gateway
            .post("/token", Some(&header), &with_id)
            .await
            .refused(400, "invalid_request");
    }
    for wrong in [
        basic(&encode(&id), &encode(&encode(secret))),
        basic(&id, &secret[1..]),
        basic(&id, ""),
        basic("", secret),
        "Basic".to_owned(),
        "Basic !!!".to_owned(),
        format!("Basic {}", STANDARD.encode("no colon")),
        format!("Basic {}", STANDARD.encode([0xff, b':', 0xff])),
        "Bearer mgat_x".to_owned(),
    ] {
        let reply = gateway.post("/token", Some(&wrong), &refresh).await;
        reply.refused(401, "invalid_client");
        assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"mcpgate\""));
    }
}

/// Spec: F5
#[tokio::test]
async fn a_client_authenticates_in_one_way_only() {
    let gateway = Gateway::with(|config| {
        config.oauth.clients = vec![configured("ci", Some("s"), &[]), configured("other", Some("s"), &[])];
    });
    let header = basic("ci", "s");
    for parameters in [
        vec![("client_secret", "s")],
        vec![("client_id", "ci"), ("client_secret", "s")],
        vec![("client_id", "other")],
    ] {
        // Had it been let in, it would hear unsupported_grant_type.
        let parameters = [&[("grant_type", "password")], &parameters[..]].concat();
        let reply = gateway.post("/token", Some(&header), &parameters).await;
        reply.refused(400, "invalid_request");
    }
    let request = Request::post("/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", &header)
        .header("authorization", &header)
        .body(Bytes::new())
        .unwrap();
    gateway.send(request).await.refused(400, "invalid_request");
}

/// Spec: F5
#[tokio::test]
async fn a_public_client_that_presents_a_secret_is_refused() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    let reply = gateway.refresh_with(&client, &refresh, &[("client_secret", "x")]).await;
    reply.refused(401, "invalid_client");
    let parameters = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    let reply = gateway.post("/token", Some(&basic(&client, "x")), &parameters).await;
    reply.refused(401, "invalid_client");
    // An empty password is no secret.
    gateway
        .post("/token", Some(&basic(&client, "")), &parameters)
        .await
        .fine();
}

/// Spec: C15, F3
#[tokio::test]
async fn a_client_that_may_not_redeem_codes_is_unauthorized() {
    let gateway = Gateway::with(|config| {
        config.oauth.clients = vec![configured("ci", None, &[GrantType::RefreshToken])];
    });
    let code = gateway.code("ci", Allowed::default()).await;
    gateway.redeem("ci", &code).await.refused(400, "unauthorized_client");
}

// --- codes

/// Spec: F7
#[tokio::test]
async fn a_code_that_was_never_issued_is_an_invalid_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let never = mcpgate::domain::secret::Secret::generate(mcpgate::domain::secret::SecretKind::AuthorizationCode);
    let (access, refresh) = gateway.tokens(&client).await;
    for code in ["x", never.expose(), &access, &refresh] {
        gateway.redeem(&client, code).await.refused(400, "invalid_grant");
    }
}

/// Spec: D18, F7
#[tokio::test]
async fn a_code_is_for_its_own_client() {
    let gateway = Gateway::new();
    let (own, other) = (gateway.usual_client().await, gateway.usual_client().await);
    let code = gateway.code(&own, Allowed::default()).await;
    for _ in 0..10 {
        gateway.redeem(&other, &code).await.refused(400, "invalid_grant");
    }
    gateway.redeem(&own, &code).await.fine();
}

/// Spec: D18, F7
#[tokio::test]
async fn an_expired_code_is_an_invalid_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    gateway.later(600);
    gateway.redeem(&client, &code).await.refused(400, "invalid_grant");
}

/// Spec: F7, F8, L2
#[tokio::test]
async fn a_wrong_verifier_does_not_burn_the_code_until_it_was_tried_five_times() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let wrong = "x".repeat(43);
    let malformed = format!("{VERIFIER}!");
    let attempt = async |code: &str, verifier: Option<&str>| {
        let mut parameters = vec![
            ("grant_type", "authorization_code"),
            ("client_id", client.as_str()),
            ("code", code),
        ];
        parameters.extend(verifier.map(|verifier| ("code_verifier", verifier)));
        gateway.token(&parameters).await
    };
    let code = gateway.code(&client, Allowed::default()).await;
    for verifier in [Some(wrong.as_str()), Some(&malformed), Some("short"), None] {
        attempt(&code, verifier).await.refused(400, "invalid_grant");
    }
    attempt(&code, Some(VERIFIER)).await.fine();
    let code = gateway.code(&client, Allowed::default()).await;
    for _ in 0..5 {
        attempt(&code, Some(&wrong)).await.refused(400, "invalid_grant");
    }
    attempt(&code, Some(VERIFIER)).await.refused(400, "invalid_grant");
}

/// RFC 9700 §4.8.2.
/// Spec: F8, L3
#[tokio::test]
async fn a_verifier_for_a_code_without_a_challenge_is_refused() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let bare = || Allowed {
        challenge: false,
        ..Allowed::default()
    };
    let code = gateway.code(&client, bare()).await;
    gateway.redeem(&client, &code).await.refused(400, "invalid_grant");
    let parameters = [
        ("grant_type", "authorization_code"),
        ("client_id", client.as_str()),
        ("code", code.as_str()),
    ];
    gateway.token(&parameters).await.fine();
}

/// Spec: F9
#[tokio::test]
async fn a_redirect_uri_that_is_sent_must_be_the_same_string() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let with = async |redirect: &str| {
        let parameters = [
            ("grant_type", "authorization_code"),
            ("client_id", client.as_str()),
            ("code", code.as_str()),
            ("code_verifier", VERIFIER),
            ("redirect_uri", redirect),
        ];
        gateway.token(&parameters).await
    };
    for other in [
        "http://127.0.0.1:5556/cb",
        "http://127.0.0.1:5555/cb/",
        "https://evil.example/",
    ] {
        with(other).await.refused(400, "invalid_grant");
    }
    // OAuth 2.1 dropped the parameter.
    with("").await.fine();
}

/// Spec: F11
#[tokio::test]
async fn another_resource_is_an_invalid_target_and_leaves_the_code_alone() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let with = async |resources: &[&str]| {
        let mut parameters = vec![
            ("grant_type", "authorization_code"),
            ("client_id", client.as_str()),
            ("code", code.as_str()),
            ("code_verifier", VERIFIER),
        ];
        parameters.extend(resources.iter().map(|resource| ("resource", *resource)));
        gateway.token(&parameters).await
    };
    for other in [
        &[NOTES][..],
        &[ORIGIN],
        &[FILES, NOTES],
        &["not a uri"],
        &["https://gw.example/files/mcp#x"],
        &["https://gw.example/files"],
        &["https://evil.example/files/mcp"],
    ] {
        with(other).await.refused(400, "invalid_target");
    }
    let reply = with(&["HTTPS://GW.example:443/files/mcp/", FILES]).await.fine();
    let live = gateway.live(&reply.text_of("access_token")).await.unwrap();
    assert_eq!(live.grant.resource.as_str(), FILES);
}

/// Clients with cached metadata of an older gateway name the bare origin.
/// Spec: D12
#[tokio::test]
async fn the_bare_origin_means_the_only_upstream() {
    let gateway = Gateway::with(|config| config.upstreams.truncate(1));
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let parameters = [
        ("grant_type", "authorization_code"),
        ("client_id", client.as_str()),
        ("code", code.as_str()),
        ("code_verifier", VERIFIER),
        ("resource", "https://gw.example/"),
    ];
    let reply = gateway.token(&parameters).await.fine();
    let live = gateway.live(&reply.text_of("access_token")).await.unwrap();
    assert_eq!(live.grant.resource.as_str(), FILES);
}

/// Spec: F10
#[tokio::test]
async fn code_replay_revokes_the_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let reply = gateway.redeem(&client, &code).await.fine();
    let (access, refresh) = (reply.text_of("access_token"), reply.text_of("refresh_token"));
    let refreshed = gateway.refresh(&client, &refresh).await.fine();
    // Nobody else can end the grant in this way.
    let other = gateway.usual_client().await;
    gateway.redeem(&other, &code).await.refused(400, "invalid_grant");
    assert!(gateway.live(&access).await.is_some());
    gateway.redeem(&client, &code).await.refused(400, "invalid_grant");
    assert!(gateway.live(&access).await.is_none());
    assert!(gateway.live(&refreshed.text_of("access_token")).await.is_none());
    let reply = gateway.refresh(&client, &refreshed.text_of("refresh_token")).await;
    reply.refused(400, "invalid_grant");
}

/// Spec: F10, L11
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_redemptions_of_one_code_have_one_winner_and_end_its_grant() {
    let gateway = Arc::new(Gateway::new());
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let attempts: Vec<_> = (0..20)
        .map(|_| {
            let (gateway, client, code) = (Arc::clone(&gateway), client.clone(), code.clone());
            tokio::spawn(async move { gateway.redeem(&client, &code).await })
        })
        .collect();
    let mut winners = Vec::new();
    for attempt in attempts {
        let reply = attempt.await.unwrap();
        if reply.status == 200 {
            winners.push(reply.text_of("access_token"));
        } else {
            reply.refused(400, "invalid_grant");
        }
    }
    assert_eq!(winners.len(), 1);
    assert!(gateway.live(&winners[0]).await.is_none());
}

/// Both find the code unused, so it is the store that tells the loser.
/// Spec: F10, L11
#[tokio::test]
async fn the_loser_of_a_race_for_a_code_ends_its_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let (winner, loser) = Box::pin(side_by_side(
        gateway.redeem(&client, &code),
        gateway.redeem(&client, &code),
    ))
    .await;
    loser.refused(400, "invalid_grant");
    assert!(gateway.live(&winner.text_of("access_token")).await.is_none());
}

#[tokio::test]
async fn the_loser_of_a_race_without_a_grace_ends_the_grant() {
    let gateway = Gateway::with(|config| config.oauth.refresh_grace = Duration::ZERO);
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    let (winner, loser) = Box::pin(side_by_side(
        gateway.refresh(&client, &refresh),
        gateway.refresh(&client, &refresh),
    ))
    .await;
    loser.refused(400, "invalid_grant");
    assert!(gateway.live(&winner.text_of("access_token")).await.is_none());
}

/// Spec: F19, F20
#[tokio::test]
async fn nothing_is_issued_for_a_person_or_an_upstream_that_is_gone() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    for allowed in [
        Allowed {
            subject: "bob",
            ..Allowed::default()
        },
        Allowed {
            resource: "https://gw.example/gone",
            ..Allowed::default()
        },
    ] {
        let code = gateway.code(&client, allowed).await;
        gateway.redeem(&client, &code).await.refused(400, "invalid_grant");
    }
}

/// Spec: F18
#[tokio::test]
async fn a_refresh_token_comes_with_the_grant_type_or_with_offline_access() {
    let gateway = Gateway::new();
    let without = gateway.public_client(&["authorization_code"]).await;
    let code = gateway.code(&without, Allowed::default()).await;
    let answer = gateway.redeem(&without, &code).await.fine().json();
    assert!(answer.get("refresh_token").is_none(), "{answer}");
    let allowed = Allowed {
        scope: "files:read offline_access",
        ..Allowed::default()
    };
    let code = gateway.code(&without, allowed).await;
    let refresh = gateway.redeem(&without, &code).await.fine().text_of("refresh_token");
    let reply = gateway.refresh(&without, &refresh).await.fine();
    assert_eq!(reply.text_of("scope"), "files:read offline_access");
}

// --- refresh tokens

/// Spec: F13
#[tokio::test]
async fn a_refresh_replaces_both_tokens() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (access, refresh) = gateway.tokens(&client).await;
    let reply = gateway.refresh(&client, &refresh).await.fine();
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.json()["expires_in"], 3600);
    assert_eq!(reply.json()["token_type"], "Bearer");
    assert_eq!(reply.text_of("scope"), "files:read files:write");
    assert_ne!(reply.text_of("refresh_token"), refresh);
    assert_ne!(reply.text_of("access_token"), access);
    let live = gateway.live(&reply.text_of("access_token")).await.unwrap();
    assert_eq!(
        (live.grant.resource.as_str(), live.grant.subject.as_str()),
        (FILES, "ada")
    );
    assert!(gateway.metric("mcpgate_tokens_issued_total{grant=\"refresh_token\"} 1"));
}

/// Spec: F15
#[tokio::test]
async fn a_refresh_retried_within_the_grace_gets_the_same_tokens() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    let first = gateway.refresh(&client, &refresh).await.fine().json();
    gateway.later(30);
    let second = gateway.refresh(&client, &refresh).await.fine().json();
    assert_eq!(first["access_token"], second["access_token"]);
    assert_eq!(first["refresh_token"], second["refresh_token"]);
    assert_eq!(
        (&first["expires_in"], &second["expires_in"]),
        (&json!(3600), &json!(3570))
    );
    // Also after the successor was used: another process may still be waiting for its answer.
    let next = first["refresh_token"].as_str().unwrap();
    let third = gateway.refresh(&client, next).await.fine().json();
    let late = gateway.refresh(&client, &refresh).await.fine().json();
    assert_eq!(late["refresh_token"], first["refresh_token"]);
    assert_ne!(third["refresh_token"], first["refresh_token"]);
    assert!(gateway.metric("mcpgate_tokens_issued_total{grant=\"refresh_token\"} 2"));
}

/// Spec: F14, L9
#[tokio::test]
async fn refresh_reuse_after_the_grace_revokes_the_family() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (first_access, first) = gateway.tokens(&client).await;
    let second = gateway.refresh(&client, &first).await.fine();
    gateway.later(60);
    gateway.refresh(&client, &first).await.refused(400, "invalid_grant");
    assert!(gateway.live(&first_access).await.is_none());
    assert!(gateway.live(&second.text_of("access_token")).await.is_none());
    let reply = gateway.refresh(&client, &second.text_of("refresh_token")).await;
    reply.refused(400, "invalid_grant");
}

/// Spec: F14
#[tokio::test]
async fn a_grace_of_zero_is_none() {
    let gateway = Gateway::with(|config| config.oauth.refresh_grace = Duration::ZERO);
    let client = gateway.usual_client().await;
    let (access, refresh) = gateway.tokens(&client).await;
    gateway.refresh(&client, &refresh).await.fine();
    gateway.refresh(&client, &refresh).await.refused(400, "invalid_grant");
    assert!(gateway.live(&access).await.is_none());
}

/// Spec: F15, L11
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_concurrent_refreshes_of_one_token_agree() {
    let gateway = Arc::new(Gateway::new());
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    let attempts: Vec<_> = (0..50)
        .map(|_| {
            let (gateway, client, refresh) = (Arc::clone(&gateway), client.clone(), refresh.clone());
            tokio::spawn(async move { gateway.refresh(&client, &refresh).await.fine().json() })
        })
        .collect();
    let mut answers = Vec::new();
    for attempt in attempts {
        answers.push(attempt.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let access = answers[0]["access_token"].as_str().unwrap();
    assert!(gateway.live(access).await.is_some());
    gateway
        .refresh(&client, answers[0]["refresh_token"].as_str().unwrap())
        .await
        .fine();
    assert!(gateway.metric("mcpgate_tokens_issued_total{grant=\"refresh_token\"} 2"));
}

/// Spec: F13
#[tokio::test]
async fn a_refresh_token_is_for_its_own_client() {
    let gateway = Gateway::new();
    let (own, other) = (gateway.usual_client().await, gateway.usual_client().await);
    let (access, refresh) = gateway.tokens(&own).await;
    gateway.refresh(&other, &refresh).await.refused(400, "invalid_grant");
    let next = gateway.refresh(&own, &refresh).await.fine().text_of("refresh_token");
    gateway.later(61);
    // Not even a rotated one lets another client end the grant.
    gateway.refresh(&other, &refresh).await.refused(400, "invalid_grant");
    assert!(gateway.live(&access).await.is_some());
    gateway.refresh(&own, &next).await.fine();
}

/// Spec: F4, F19
#[tokio::test]
async fn a_refresh_token_that_expired_or_never_was_is_an_invalid_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (access, refresh) = gateway.tokens(&client).await;
    let never = mcpgate::domain::secret::Secret::generate(mcpgate::domain::secret::SecretKind::RefreshToken);
    for token in ["x", &access, never.expose()] {
        gateway.refresh(&client, token).await.refused(400, "invalid_grant");
    }
    gateway.later(WEEK);
    gateway.refresh(&client, &refresh).await.refused(400, "invalid_grant");
}

/// Spec: F15
#[tokio::test]
async fn a_retry_within_the_grace_survives_the_old_tokens_expiry() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    gateway.later(WEEK - 5);
    let first = gateway.refresh(&client, &refresh).await.fine();
    gateway.later(10);
    let again = gateway.refresh(&client, &refresh).await.fine();
    assert_eq!(first.text_of("refresh_token"), again.text_of("refresh_token"));
}

/// Spec: F13, F19
#[tokio::test]
async fn no_rotation_prolongs_a_grant_beyond_its_end() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, mut refresh) = gateway.tokens(&client).await;
    for _ in 0..52 {
        gateway.later(WEEK - 1);
        refresh = gateway.refresh(&client, &refresh).await.fine().text_of("refresh_token");
    }
    let last = gateway.refresh(&client, &refresh).await.fine();
    assert_eq!(last.json()["expires_in"], 52);
    gateway.later(52);
    // Not even within the grace.
    gateway.refresh(&client, &refresh).await.refused(400, "invalid_grant");
    let reply = gateway.refresh(&client, &last.text_of("refresh_token")).await;
    reply.refused(400, "invalid_grant");
    assert!(gateway.live(&last.text_of("access_token")).await.is_none());
}

/// Spec: F16
#[tokio::test]
async fn a_refresh_may_narrow_the_scope_for_once_and_never_widen_it() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    for wider in ["files:read profile", "offline_access", "files:admin", "\"", "x\\y"] {
        let reply = gateway.refresh_with(&client, &refresh, &[("scope", wider)]).await;
        reply.refused(400, "invalid_scope");
    }
    let narrow = gateway
        .refresh_with(&client, &refresh, &[("scope", "files:write")])
        .await
        .fine();
    assert_eq!(narrow.text_of("scope"), "files:write");
    let live = gateway.live(&narrow.text_of("access_token")).await.unwrap();
    assert_eq!(live.token.scope.to_string(), "files:write");
    let wide = gateway.refresh(&client, &narrow.text_of("refresh_token")).await.fine();
    assert_eq!(wide.text_of("scope"), "files:read files:write");
}

/// Spec: F17, I2
#[tokio::test]
async fn a_refresh_keeps_its_resource() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (_, refresh) = gateway.tokens(&client).await;
    for other in [NOTES, "https://evil.example/", "nothing"] {
        let reply = gateway.refresh_with(&client, &refresh, &[("resource", other)]).await;
        reply.refused(400, "invalid_target");
    }
    let twice = [("resource", FILES), ("resource", NOTES)];
    gateway
        .refresh_with(&client, &refresh, &twice)
        .await
        .refused(400, "invalid_target");
    let reply = gateway
        .refresh_with(&client, &refresh, &[("resource", FILES)])
        .await
        .fine();
    let reply = gateway.refresh(&client, &reply.text_of("refresh_token")).await.fine();
    let live = gateway.live(&reply.text_of("access_token")).await.unwrap();
    assert_eq!(live.grant.resource.as_str(), FILES);
}

/// Spec: F20
#[tokio::test]
async fn a_refresh_drops_scopes_that_the_person_may_no_longer_have() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let allowed = Allowed {
        scope: "files:read files:admin",
        ..Allowed::default()
    };
    let code = gateway.code(&client, allowed).await;
    let refresh = gateway.redeem(&client, &code).await.fine().text_of("refresh_token");
    let reply = gateway.refresh(&client, &refresh).await.fine();
    assert_eq!(reply.text_of("scope"), "files:read");
}

/// What a family of refresh tokens should do, in the plainest terms.
struct Family {
    alive: bool,
    now: u64,
    tokens: Vec<Known>,
}

struct Known {
    text: String,
    issued_at: u64,
    /// When, and what came of it.
    rotated: Option<(u64, serde_json::Value)>,
}

#[derive(Clone, Debug)]
enum Step {
    Refresh(prop::sample::Index),
    Wait(u64),
    Revoke(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => any::<prop::sample::Index>().prop_map(Step::Refresh),
        6 => (0..50u64).prop_map(Step::Wait),
        1 => (WEEK - 100..WEEK + 100).prop_map(Step::Wait),
        1 => any::<prop::sample::Index>().prop_map(Step::Revoke),
    ];
    prop::collection::vec(step, 1..40)
}

impl Family {
    async fn refresh(&mut self, gateway: &Gateway, client: &str, index: usize) {
        let (now, token) = (self.now, &mut self.tokens[index]);
        let reply = gateway.refresh(client, &token.text).await;
        let expired = now >= token.issued_at + WEEK;
        match &token.rotated {
            Some((at, answer)) if self.alive && now - at < 60 => {
                let again = reply.fine().json();
                assert_eq!(again["access_token"], answer["access_token"]);
                assert_eq!(again["refresh_token"], answer["refresh_token"]);
            }
            None if self.alive && !expired => {
                let answer = reply.fine().json();
                let text = answer["refresh_token"].as_str().unwrap().to_owned();
                token.rotated = Some((now, answer));
                assert!(self.tokens.iter().all(|other| other.text != text));
                self.tokens.push(Known {
                    text,
                    issued_at: now,
                    rotated: None,
                });
            }
            rotated => {
                reply.refused(400, "invalid_grant");
                if rotated.is_some() && !expired {
                    self.alive = false;
                }
            }
        }
    }

    async fn check(&self, gateway: &Gateway) {
        for (at, answer) in self.tokens.iter().filter_map(|token| token.rotated.as_ref()) {
            let live = gateway.live(answer["access_token"].as_str().unwrap()).await.is_some();
            assert_eq!(live, self.alive && self.now < at + 3600);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Spec: F13, F14, F15, L9
    #[test]
    fn a_family_of_refresh_tokens_follows_its_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let gateway = Gateway::new();
            let client = gateway.usual_client().await;
            let (_, first) = gateway.tokens(&client).await;
            let first = Known { text: first, issued_at: 0, rotated: None };
            let mut family = Family { alive: true, now: 0, tokens: vec![first] };
            for step in steps {
                match step {
                    Step::Refresh(which) => {
                        let index = which.index(family.tokens.len());
                        family.refresh(&gateway, &client, index).await;
                    }
                    Step::Wait(seconds) => {
                        gateway.later(seconds);
                        family.now += seconds;
                    }
                    Step::Revoke(which) => {
                        let token = family.tokens[which.index(family.tokens.len())].text.as_str();
                        let parameters = [("client_id", client.as_str()), ("token", token)];
                        gateway.post("/revoke", None, &parameters).await.fine();
                        family.alive = false;
                    }
                }
                family.check(&gateway).await;
            }
        });
    }
}

// --- revocation

/// Spec: G1, G2
#[tokio::test]
async fn revoking_a_refresh_token_ends_the_grant() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    for hint in ["refresh_token", "access_token", "nonsense"] {
        let (access, refresh) = gateway.tokens(&client).await;
        let parameters = [
            ("client_id", client.as_str()),
            ("token", &refresh),
            ("token_type_hint", hint),
        ];
        let reply = gateway.post("/revoke", None, &parameters).await;
        assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert!(gateway.live(&access).await.is_none());
        gateway.refresh(&client, &refresh).await.refused(400, "invalid_grant");
    }
}

/// Spec: G2
#[tokio::test]
async fn revoking_an_access_token_leaves_the_refresh_token() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (access, refresh) = gateway.tokens(&client).await;
    let parameters = [
        ("client_id", client.as_str()),
        ("token", &access),
        ("token_type_hint", "refresh_token"),
    ];
    let reply = gateway.post("/revoke", None, &parameters).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
    assert!(gateway.live(&access).await.is_none());
    let reply = gateway.refresh(&client, &refresh).await.fine();
    assert!(gateway.live(&reply.text_of("access_token")).await.is_some());
}

/// Spec: G1
#[tokio::test]
async fn revoking_what_is_not_ones_own_does_nothing_and_says_nothing() {
    let gateway = Gateway::new();
    let (own, other) = (gateway.usual_client().await, gateway.usual_client().await);
    let (access, refresh) = gateway.tokens(&own).await;
    for token in [access.as_str(), &refresh, "garbage", "mgrt_", "mgat_x"] {
        let parameters = [("client_id", other.as_str()), ("token", token)];
        let reply = gateway.post("/revoke", None, &parameters).await;
        assert_eq!((reply.status.as_u16(), reply.text.as_str()), (200, ""));
    }
    assert!(gateway.live(&access).await.is_some());
    gateway.refresh(&own, &refresh).await.fine();
}

/// Spec: G1
#[tokio::test]
async fn revocation_wants_a_client_and_a_token() {
    let gateway = Gateway::new();
    let client = gateway.usual_client().await;
    let (access, _) = gateway.tokens(&client).await;
    gateway
        .post("/revoke", None, &[("client_id", &client)])
        .await
        .refused(400, "invalid_request");
    gateway
        .post("/revoke", None, &[("token", &access)])
        .await
        .refused(401, "invalid_client");
    let unknown = [("client_id", "nobody"), ("token", access.as_str())];
    gateway
        .post("/revoke", None, &unknown)
        .await
        .refused(401, "invalid_client");
    let reply = gateway
        .post("/revoke", Some(&basic(&client, "x")), &[("token", &access)])
        .await;
    reply.refused(401, "invalid_client");
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"mcpgate\""));
    gateway.get("/revoke").await.refused(405, "invalid_request");
    assert!(gateway.live(&access).await.is_some());
}

// --- everywhere

/// Clients in web pages must be able to read errors too.
/// Spec: A15, G3, K17
#[tokio::test]
async fn every_answer_can_be_read_by_a_web_page() {
    let gateway = Gateway::new();
    for path in ["/token", "/revoke", "/register"] {
        for method in ["POST", "GET", "OPTIONS"] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("origin", "https://page.example")
                .body(Bytes::new())
                .unwrap();
            let reply = gateway.send(request).await;
            assert_eq!(
                reply.header("access-control-allow-origin"),
                Some("*"),
                "{method} {path}"
            );
            assert_eq!(reply.header("access-control-allow-credentials"), None);
            assert!(
                reply
                    .header("access-control-expose-headers")
                    .unwrap()
                    .contains("WWW-Authenticate")
            );
        }
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Spec: F22, L17
#[tokio::test]
async fn no_secret_reaches_the_log_and_every_refusal_does() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let gateway = Gateway::new();
    let registered = gateway.register(&json!({ "redirect_uris": [REDIRECT] })).await.fine();
    let (id, secret) = (registered.text_of("client_id"), registered.text_of("client_secret"));
    let allowed = Allowed {
        scope: "files:read offline_access",
        ..Allowed::default()
    };
    let code = gateway.code(&id, allowed).await;
    let header = basic(&id, &secret);
    let wrong = "w".repeat(43);
    let redeem = |verifier| {
        [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("code_verifier", verifier),
        ]
    };
    gateway
        .post("/token", Some(&header), &redeem(&wrong))
        .await
        .refused(400, "invalid_grant");
    let tokens = gateway.post("/token", Some(&header), &redeem(VERIFIER)).await.fine();
    let (access, refresh) = (tokens.text_of("access_token"), tokens.text_of("refresh_token"));
    let again = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    let next = gateway.post("/token", Some(&header), &again).await.fine();
    gateway.later(61);
    gateway
        .post("/token", Some(&header), &again)
        .await
        .refused(400, "invalid_grant");
    gateway
        .post("/token", Some(&basic(&id, &wrong)), &again)
        .await
        .refused(401, "invalid_client");
    gateway
        .post("/token", Some(&header), &redeem(VERIFIER))
        .await
        .refused(400, "invalid_grant");
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for said in [
        "a code became a grant",
        "its grant is revoked",
        "a wrong secret",
        "code_verifier",
    ] {
        assert!(text.contains(said), "{said} in {text}");
    }
    let (next_access, next_refresh) = (next.text_of("access_token"), next.text_of("refresh_token"));
    let encoded = header.trim_start_matches("Basic ");
    for kept in [
        &secret,
        &code,
        VERIFIER,
        &wrong,
        &access,
        &refresh,
        &next_access,
        &next_refresh,
        encoded,
    ] {
        assert!(!text.contains(&kept[..20]), "{text}");
    }
}

/// Spec: F3, H12
#[tokio::test]
async fn a_store_that_fails_lets_nothing_through() {
    let store = Arc::new(Memory::default());
    let gateway = Gateway::on(config(), store.clone());
    let client = gateway.usual_client().await;
    let code = gateway.code(&client, Allowed::default()).await;
    let (access, refresh) = gateway.tokens(&client).await;
    store.broken.store(true, Ordering::SeqCst);
    let revoke = [("client_id", client.as_str()), ("token", access.as_str())];
    for reply in [
        gateway.redeem(&client, &code).await,
        gateway.refresh(&client, &refresh).await,
        gateway.post("/revoke", None, &revoke).await,
        gateway.register(&json!({ "redirect_uris": [REDIRECT] })).await,
    ] {
        reply.refused(503, "temporarily_unavailable");
        assert!(reply.header("retry-after").is_some());
        assert!(!reply.text.contains("told to"), "{}", reply.text);
    }
    store.broken.store(false, Ordering::SeqCst);
    gateway.redeem(&client, &code).await.fine();
    gateway.refresh(&client, &refresh).await.fine();
}
