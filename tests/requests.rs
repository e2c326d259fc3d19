//! Requests that do not begin at `/authorize`: pushed ones and those of devices; and what OpenID Connect adds to the ones
//! that do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop"
)]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
}

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpgate::domain::client::{ClientId, GrantType, Permissions};
use mcpgate::domain::key::Algorithm;
use mcpgate::jose::{KeySet, Token};
use serde_json::json;
use support::endpoints::{FILES, NOTES, ORIGIN, Reply, VERIFIER};
use support::people::{PASSWORD, People, Seen, WEB, pairs, request, web};

const SECRET: &str = "a secret";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

fn basic(id: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{SECRET}")))
}

async fn redeem(people: &People, seen: &Seen) -> Reply {
    let code = seen.answer("code").unwrap_or_else(|| panic!("no code: {seen:?}"));
    let parameters = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", WEB),
        ("code_verifier", VERIFIER),
    ];
    people.gateway.post("/token", Some(&basic("web")), &parameters).await
}

// --- pushed requests

async fn push(people: &People, changes: &[(&str, &str)]) -> Reply {
    people
        .gateway
        .post("/par", Some(&basic("web")), &pairs("web", WEB, changes))
        .await
}

fn reference(client: &str, uri: &str) -> String {
    format!(
        "/authorize?{}",
        support::endpoints::form(&[("client_id", client), ("request_uri", uri)])
    )
}

/// Spec: J8, D20
#[tokio::test]
async fn a_pushed_request_is_one_like_any_other() {
    let people = People::new();
    let pushed = push(&people, &[("state", "pushed"), ("scope", "files:read files:write")]).await;
    assert_eq!(pushed.status, 201);
    assert_eq!(pushed.header("cache-control"), Some("no-store"));
    assert_eq!(pushed.json()["expires_in"], 90);
    let uri = pushed.text_of("request_uri");
    assert!(uri.starts_with("urn:ietf:params:oauth:request_uri:"), "{uri}");
    let mut browser = people.browser();
    // What stands beside the reference does not count (RFC 9126 §4).
    let target = format!("{}&scope=files%3Aadmin&state=other", reference("web", &uri));
    let done = browser.allow(&target, "ada").await;
    assert!(done.location().starts_with(WEB));
    assert_eq!(done.answer("state").as_deref(), Some("pushed"));
    let tokens = redeem(&people, &done).await.fine();
    assert_eq!(tokens.text_of("scope"), "files:read files:write");
}

/// Spec: J8, L2
#[tokio::test]
async fn a_reference_is_good_once_in_time_and_for_its_client() {
    let people = People::new();
    let uri = push(&people, &[]).await.fine().text_of("request_uri");
    people
        .browser()
        .get(&reference("spa", &uri))
        .await
        .page(400, "invalid_request_uri");
    // The attempt of another client has used it up: it was not kept secret.
    people
        .browser()
        .get(&reference("web", &uri))
        .await
        .page(400, "invalid_request_uri");
    let uri = push(&people, &[]).await.fine().text_of("request_uri");
    people.browser().open(&reference("web", &uri)).await.asks_for_password();
    people
        .browser()
        .get(&reference("web", &uri))
        .await
        .page(400, "invalid_request_uri");
    let uri = push(&people, &[]).await.fine().text_of("request_uri");
    people.gateway.later(90);
    people
        .browser()
        .get(&reference("web", &uri))
        .await
        .page(400, "invalid_request_uri");
    for wrong in [
        "urn:ietf:params:oauth:request_uri:x",
        "urn:ietf:params:oauth:request_uri:",
    ] {
        people
            .browser()
            .get(&reference("web", wrong))
            .await
            .page(400, "invalid_request_uri");
    }
    // Others' references are never fetched.
    let elsewhere = web(&[("request_uri", "https://evil.example/request")]);
    people
        .browser()
        .get(&elsewhere)
        .await
        .refused(WEB, "request_uri_not_supported");
}

/// Spec: J8, D6, D7, D10
#[tokio::test]
async fn what_would_be_refused_later_is_refused_when_it_is_pushed() {
    let people = People::new();
    for (changes, status, error) in [
        (
            &[("redirect_uri", "https://evil.example/cb")][..],
            400,
            "invalid_request",
        ),
        (&[("code_challenge", "")], 400, "invalid_request"),
        (&[("code_challenge_method", "plain")], 400, "invalid_request"),
        (&[("response_type", "token")], 400, "unsupported_response_type"),
        (&[("resource", "https://evil.example/")], 400, "invalid_target"),
        (&[("request_uri", "urn:x")], 400, "invalid_request"),
        (&[("request", "x.y.z")], 400, "request_not_supported"),
        (&[("dpop_jkt", "short")], 400, "invalid_request"),
    ] {
        push(&people, changes).await.refused(status, error);
    }
    let anonymous = people.gateway.post("/par", None, &pairs("web", WEB, &[])).await;
    anonymous.refused(401, "invalid_client");
    people.store.full.store(true, Ordering::SeqCst);
    let full = push(&people, &[]).await;
    full.refused(503, "temporarily_unavailable");
    assert!(full.header("retry-after").is_some());
}

// --- devices

fn with_devices() -> People {
    People::with(|config| {
        config.oauth.grants.device_code = true;
        for client in &mut config.oauth.clients {
            client.grant_types.push(GrantType::DeviceCode);
        }
    })
}

async fn ask(people: &People, client: &str) -> Reply {
    let parameters = [("client_id", client), ("resource", FILES), ("scope", "files:read")];
    people.gateway.post("/device_authorization", None, &parameters).await
}

async fn poll(people: &People, client: &str, device: &str) -> Reply {
    let parameters = [
        ("grant_type", DEVICE_CODE),
        ("client_id", client),
        ("device_code", device),
    ];
    people.gateway.token(&parameters).await
}

/// Spec: J6, F18
#[tokio::test]
async fn a_person_lets_a_device_in() {
    let people = with_devices();
    let answer = ask(&people, "spa").await.fine();
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let (device, code) = (answer.text_of("device_code"), answer.text_of("user_code"));
    assert_eq!(
        (answer.json()["expires_in"].as_u64(), answer.json()["interval"].as_u64()),
        (Some(600), Some(5))
    );
    assert_eq!(answer.text_of("verification_uri"), format!("{ORIGIN}/device"));
    poll(&people, "spa", &device)
        .await
        .refused(400, "authorization_pending");

    let mut browser = people.browser();
    let page = browser.get("/device").await;
    let typed = format!(" {} ", code.to_lowercase().replace('-', " "));
    let seen = browser.fill_in(&page, "/device", &[("user_code", &typed)]).await;
    let page = browser.follow(seen).await;
    let consent = browser.sign_in_with(&page, "ada", PASSWORD).await;
    assert!(consent.text.contains("Did you start this yourself"), "{}", consent.text);
    assert!(
        consent.text.contains("the device that shows the code"),
        "{}",
        consent.text
    );
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(done.location(), "/device?outcome=allowed");
    assert!(browser.follow(done).await.text.contains("Your device is connected"));

    people.gateway.later(5);
    let tokens = poll(&people, "spa", &device).await.fine();
    assert_eq!(
        (tokens.text_of("scope").as_str(), tokens.text_of("token_type").as_str()),
        ("files:read", "Bearer")
    );
    let live = people.gateway.live(&tokens.text_of("access_token")).await.unwrap();
    assert_eq!(
        (live.grant.subject.as_str(), live.grant.resource.as_str()),
        ("ada", FILES)
    );
    people
        .gateway
        .refresh("spa", &tokens.text_of("refresh_token"))
        .await
        .fine();
    people.gateway.later(5);
    poll(&people, "spa", &device).await.refused(400, "invalid_grant");
    // A code that was answered is none any more.
    let page = browser.get("/device").await;
    let again = browser.fill_in(&page, "/device", &[("user_code", &code)]).await;
    assert_eq!(again.status, 400);
    assert!(again.text.contains("No device waits with this code"));
}

/// Spec: J6, D17
#[tokio::test]
async fn a_person_may_say_no_or_nothing() {
    let people = with_devices();
    let answer = ask(&people, "spa").await.fine();
    let device = answer.text_of("device_code");
    let mut browser = people.browser();
    // The complete address fills the form in, and nothing more.
    let complete = answer.text_of("verification_uri_complete");
    let page = browser.get(complete.strip_prefix(ORIGIN).unwrap()).await;
    assert!(page.text.contains(&answer.text_of("user_code")));
    let code = answer.text_of("user_code");
    let seen = browser.fill_in(&page, "/device", &[("user_code", &code)]).await;
    let page = browser.follow(seen).await;
    let consent = browser.sign_in_with(&page, "ada", PASSWORD).await;
    let done = browser.decide(&consent, "deny").await;
    assert_eq!(done.location(), "/device?outcome=denied");
    poll(&people, "spa", &device).await.refused(400, "access_denied");

    let silent = ask(&people, "spa").await.fine().text_of("device_code");
    people.gateway.later(601);
    poll(&people, "spa", &silent).await.refused(400, "expired_token");
}

/// Spec: J6
#[tokio::test]
async fn a_device_that_does_not_wait_is_slowed_down() {
    let people = with_devices();
    let device = ask(&people, "spa").await.fine().text_of("device_code");
    poll(&people, "spa", &device)
        .await
        .refused(400, "authorization_pending");
    people.gateway.later(4);
    poll(&people, "spa", &device).await.refused(400, "slow_down");
    people.gateway.later(9);
    poll(&people, "spa", &device).await.refused(400, "slow_down");
    people.gateway.later(15);
    poll(&people, "spa", &device)
        .await
        .refused(400, "authorization_pending");
}

/// Spec: J6, C15, E1, E3, L2
#[tokio::test]
async fn a_device_s_request_cannot_be_used_by_others() {
    let people = with_devices();
    let answer = ask(&people, "spa").await.fine();
    let (device, code) = (answer.text_of("device_code"), answer.text_of("user_code"));
    // Another client has the code, or the wrong one.
    poll(&people, "two", &device).await.refused(401, "invalid_client");
    poll(&people, "private", &device).await.refused(400, "invalid_grant");
    for wrong in ["x", "mgdc_x", "mgdc_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        poll(&people, "spa", wrong).await.refused(400, "invalid_grant");
    }
    // A form from elsewhere, from another browser, without its token.
    let mut browser = people.browser();
    let page = browser.get("/device").await;
    let bare = browser.post("/device", &[("user_code", code.as_str())]).await;
    bare.page(403, "stale_form");
    let mut stranger = people.browser();
    stranger
        .fill_in(&page, "/device", &[("user_code", &code)])
        .await
        .page(403, "other_browser");
    stranger.get("/device").await;
    stranger
        .fill_in(&page, "/device", &[("user_code", &code)])
        .await
        .page(403, "stale_form");
    browser.headers.push(("origin", "https://evil.example".to_owned()));
    browser
        .fill_in(&page, "/device", &[("user_code", &code)])
        .await
        .page(403, "foreign_form");
    // Nobody was asked, so nothing was decided.
    people.gateway.later(5);
    poll(&people, "spa", &device)
        .await
        .refused(400, "authorization_pending");
    // A client that is not registered for it, or may not have the server, and one that is nobody.
    let strict = People::with(|config| {
        config.oauth.grants.device_code = true;
        let spa = config
            .oauth
            .clients
            .iter_mut()
            .find(|client| client.id.as_str() == "spa")
            .unwrap();
        spa.grant_types.push(GrantType::DeviceCode);
        spa.permissions = Permissions {
            upstreams: Some(vec!["notes".to_owned()]),
            ..Permissions::default()
        };
    });
    ask(&strict, "private").await.refused(400, "unauthorized_client");
    ask(&strict, "spa").await.refused(400, "invalid_target");
    ask(&strict, "nobody").await.refused(401, "invalid_client");
    people.store.full.store(true, Ordering::SeqCst);
    ask(&people, "spa").await.refused(503, "temporarily_unavailable");
}

/// Spec: C6, J6
#[tokio::test]
async fn a_program_without_a_browser_registers_without_redirect_uris() {
    let people = with_devices();
    let document = json!({"grant_types": [DEVICE_CODE, "refresh_token"], "token_endpoint_auth_method": "none"});
    let answer = people.gateway.register(&document).await.fine();
    assert_eq!(answer.json()["grant_types"], json!(["refresh_token", DEVICE_CODE]));
    let client = answer.text_of("client_id");
    ask(&people, &client).await.fine();
    assert!(ClientId::parse(&client).is_some());
    // For the code grant it would need one.
    let document = json!({"grant_types": [DEVICE_CODE, "authorization_code"]});
    people
        .gateway
        .register(&document)
        .await
        .refused(400, "invalid_redirect_uri");
}

// --- OpenID Connect at /authorize

/// Spec: A11, G5, D15
#[tokio::test]
async fn nonce_and_sign_in_time_reach_the_id_token() {
    let people = People::new();
    let mut browser = people.browser();
    let target = web(&[("scope", "openid files:read"), ("nonce", "n-0S6_WzA2Mj+ü")]);
    let done = browser.allow(&target, "ada").await;
    people.gateway.later(30);
    let text = redeem(&people, &done).await.fine().text_of("id_token");
    let keys = KeySet::parse(&people.gateway.get("/jwks.json").await.json()).unwrap();
    let claims = Token::parse(&text).unwrap().verify(&keys, &[Algorithm::Rs256]).unwrap();
    assert_eq!(claims.text("nonce"), Some("n-0S6_WzA2Mj+ü"));
    let issued = claims.get("iat").unwrap().as_u64().unwrap();
    assert_eq!(claims.get("auth_time").unwrap().as_u64(), Some(issued - 30));
    let long = "n".repeat(1025);
    browser
        .get(&web(&[("nonce", &long)]))
        .await
        .refused(WEB, "invalid_request");
}

/// Spec: D15, G5
#[tokio::test]
async fn max_age_asks_for_a_fresh_sign_in() {
    let people = People::new();
    let mut browser = people.browser();
    browser.allow(&web(&[]), "ada").await;
    people.gateway.later(100);
    assert!(browser.get(&web(&[("max_age", "100")])).await.answer("code").is_some());
    browser.open(&web(&[("max_age", "99")])).await.asks_for_password();
    browser.open(&web(&[("max_age", "0")])).await.asks_for_password();
    let silent = browser.get(&web(&[("max_age", "99"), ("prompt", "none")])).await;
    silent.refused(WEB, "login_required");
    let page = browser.open(&web(&[("max_age", "99")])).await;
    let done = browser.sign_in_with(&page, "ada", PASSWORD).await;
    assert!(done.answer("code").is_some());
    for wrong in ["-1", "x", "1.5", "99999999999"] {
        browser
            .get(&web(&[("max_age", wrong)]))
            .await
            .refused(WEB, "invalid_request");
    }
}

/// Spec: D20, D15, L19
#[tokio::test]
async fn a_hint_says_who_and_is_no_more_than_a_hint() {
    let people = People::new();
    let page = people.browser().open(&web(&[("login_hint", "ada")])).await;
    assert!(page.asks_for_password().text.contains("value=\"ada\""));
    let nasty = people
        .browser()
        .open(&web(&[("login_hint", "\"><script>alert(1)</script>")]))
        .await;
    assert!(!nasty.asks_for_password().text.contains("<script"));
    // An ID token of another person: that person has to sign in.
    let mut ada = people.browser();
    let done = ada.allow(&web(&[("scope", "openid files:read")]), "ada").await;
    let of_ada = redeem(&people, &done).await.fine().text_of("id_token");
    let mut root = people.browser();
    root.allow(&web(&[]), "root").await;
    let silent = root.get(&web(&[("id_token_hint", &of_ada), ("prompt", "none")])).await;
    silent.refused(WEB, "login_required");
    root.open(&web(&[("id_token_hint", &of_ada)])).await.asks_for_password();
    let own = ada.get(&web(&[("id_token_hint", &of_ada), ("prompt", "none")])).await;
    assert!(own.answer("code").is_some());
    // What is no token of ours hints at nobody.
    let forged = format!("{}x", &of_ada[..of_ada.len() - 1]);
    for hint in ["x", forged.as_str()] {
        let seen = root.get(&web(&[("id_token_hint", hint), ("prompt", "none")])).await;
        assert!(seen.answer("code").is_some(), "{hint}");
    }
    root.open(&web(&[("prompt", "select_account")]))
        .await
        .asks_for_password();
}

/// Spec: J7, L2
#[tokio::test]
async fn a_code_that_was_asked_for_with_a_key_needs_the_key() {
    let people = People::new();
    let key = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let done = people.browser().allow(&web(&[("dpop_jkt", key)]), "ada").await;
    redeem(&people, &done).await.refused(400, "invalid_grant");
    people
        .browser()
        .get(&web(&[("dpop_jkt", "short")]))
        .await
        .refused(WEB, "invalid_request");
}

/// Spec: C28, I4
#[tokio::test]
async fn a_client_reaches_the_upstreams_that_the_file_names() {
    let people = People::with(|config| {
        let web = config
            .oauth
            .clients
            .iter_mut()
            .find(|client| client.id.as_str() == "web")
            .unwrap();
        web.permissions.upstreams = Some(vec!["files".to_owned()]);
    });
    people
        .browser()
        .get(&web(&[("resource", NOTES)]))
        .await
        .refused(WEB, "invalid_target");
    people.browser().open(&web(&[])).await.asks_for_password();
    let free = request("spa", "https://spa.example/cb", &[("resource", NOTES)]);
    people.browser().open(&free).await.asks_for_password();
}
