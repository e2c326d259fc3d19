//! `/authorize`, sign-in and consent, as people and their apps meet them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
}

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use http::Method;
use mcpgate::config::RootResource;
use mcpgate::domain::client::{ClientOrigin, GrantType};
use mcpgate::domain::secret::{Secret, SecretKind};
use mcpgate::domain::user::Subject;
use support::endpoints::{FILES, NOTES, ORIGIN, VERIFIER, form};
use support::people::{PASSWORD, People, STATE, WEB, client, pairs, request, web};

const LOCAL: &str = "http://127.0.0.1:40123/cb";
const PRIVATE: &str = "cursor://anysphere.cursor-mcp/oauth/callback";

// --- the whole way

/// Spec: D1, D8, D9, D16, E1, E12, L5
#[tokio::test]
async fn a_person_signs_in_and_allows_and_the_app_gets_its_code() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let consent = browser.sign_in_with(&login, "ada", PASSWORD).await;
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(done.status, 303);
    assert!(
        done.location().starts_with("https://app.example/cb?code=mgac_"),
        "{}",
        done.location()
    );
    assert_eq!(done.answer("state").as_deref(), Some(STATE));
    assert_eq!(done.answer("iss").as_deref(), Some(ORIGIN));

    let record = people.code(&done).await;
    let now = people.gateway.at.now();
    assert_eq!(record.scope.to_string(), "files:read");
    assert_eq!(record.resource.as_str(), FILES);
    assert_eq!(record.subject, Subject::of_username("ada").unwrap());
    assert_eq!(record.redirect.as_str(), WEB);
    assert_eq!(
        (record.authenticated_at, record.expires_at.since(now).as_secs()),
        (now, 600)
    );
    assert_eq!(record.code_challenge.unwrap().verified_by(VERIFIER), Ok(true));
    assert!(people.metric("mcpgate_logins_total{outcome=\"success\",provider=\"builtin\"} 1"));
}

/// Spec: D1
#[tokio::test]
async fn a_posted_request_is_as_good_as_a_query() {
    let people = People::new();
    let mut browser = people.browser();
    let seen = browser.post("/authorize", &pairs("web", WEB, &[])).await;
    browser.follow(seen).await.asks_for_password();
}

#[tokio::test]
async fn an_endpoint_prefix_is_kept_on_the_way() {
    let people = People::with(|config| config.oauth.endpoint_prefix = "/api/auth".to_owned());
    let mut browser = people.browser();
    let login = browser.open(&format!("/api/auth{}", web(&[]))).await;
    let seen = browser
        .fill_in(
            &login,
            "/api/auth/login",
            &[("username", "ada"), ("password", PASSWORD)],
        )
        .await;
    let consent = browser.follow(seen).await;
    let done = browser
        .fill_in(&consent, "/api/auth/consent", &[("decision", "approve")])
        .await;
    people.code(&done).await;
}

// --- errors that are shown

/// Spec: D3, L4
#[tokio::test]
async fn an_unknown_client_is_told_what_to_do_and_never_redirected() {
    let people = People::new();
    let (long, odd) = ("x".repeat(600), "a b");
    for id in ["nobody", &long, odd, "ä"] {
        let seen = people.browser().get(&web(&[("client_id", id)])).await;
        seen.page(400, "invalid_client");
        assert!(seen.text.contains("remove this server"));
    }
    people
        .browser()
        .get(&web(&[("client_id", "")]))
        .await
        .page(400, "invalid_request");
}

/// Spec: D3
#[tokio::test]
async fn programs_hear_of_an_unknown_client_in_json() {
    let people = People::new();
    let mut program = people.browser();
    program.headers = vec![("accept", "application/json".to_owned())];
    let mut request = http::Request::get(web(&[("client_id", "nobody")]));
    request = request.header("accept", "application/json");
    let request = request.body(bytes::Bytes::new()).unwrap();
    let reply = people.gateway.send(request).await;
    reply.refused(400, "invalid_client");
}

/// Spec: D3, D4, L4
#[tokio::test]
async fn unregistered_redirect_uri_is_rendered_not_redirected() {
    let people = People::new();
    for uri in [
        "https://evil.example/cb",
        "https://app.example/cb/",
        "https://app.example/cb?x=1",
        "https://app.example:443/cb",
        "https://app.example/CB",
        "https://app.example.evil.example/cb",
        "https://app.example@evil.example/cb",
        "http://app.example/cb",
        "//app.example/cb",
        "/cb",
        "javascript:alert(1)",
    ] {
        people
            .browser()
            .get(&web(&[("redirect_uri", uri)]))
            .await
            .page(400, "invalid_request");
    }
    for uri in [
        "http://localhost:1/cb",
        "http://127.0.0.1:1/other",
        "http://127.0.0.1:1@evil.example/cb",
    ] {
        people
            .browser()
            .get(&request("local", uri, &[]))
            .await
            .page(400, "invalid_request");
    }
}

/// Spec: D4
#[tokio::test]
async fn redirect_uri_may_be_missing_only_where_one_is_registered() {
    let people = People::new();
    people
        .browser()
        .get(&request("two", "", &[]))
        .await
        .page(400, "invalid_request");
    let done = people.browser().allow(&web(&[("redirect_uri", "")]), "ada").await;
    assert!(done.location().starts_with(WEB));
}

/// Spec: D9, D16, L1
#[tokio::test]
async fn a_redirect_uri_keeps_its_query_and_cannot_bring_a_parameter_of_the_answer() {
    let people = People::with(|config| {
        config.oauth.clients.push(client(
            "odd",
            &["https://odd.example/cb?x=1&iss=https://evil.example"],
            true,
        ));
        config
            .oauth
            .clients
            .push(client("open", &["https://open.example/cb?"], true));
    });
    let done = people
        .browser()
        .allow(&request("two", "https://two.example/b?x=1", &[]), "ada")
        .await;
    assert!(
        done.location().starts_with("https://two.example/b?x=1&code=mgac_"),
        "{}",
        done.location()
    );
    let done = people
        .browser()
        .allow(&request("open", "https://open.example/cb?", &[]), "ada")
        .await;
    assert!(
        done.location().starts_with("https://open.example/cb?code=mgac_"),
        "{}",
        done.location()
    );
    let odd = request("odd", "https://odd.example/cb?x=1&iss=https://evil.example", &[]);
    people.browser().get(&odd).await.page(400, "invalid_request");
}

/// Spec: D2, L4
#[tokio::test]
async fn what_could_be_read_in_two_ways_is_shown_and_not_redirected() {
    let people = People::new();
    for extra in [
        "&client_id=web",
        "&redirect_uri=https://evil.example/",
        "&state=b",
        "&scope=a",
        "&x=%zz",
    ] {
        let target = format!("{}{extra}", web(&[]));
        people.browser().get(&target).await.page(400, "invalid_request");
    }
    let seen = people.browser().send(Method::PUT, "/authorize", None).await;
    assert_eq!(seen.status, 405);
}

// --- errors that are sent to the app

/// Spec: D2, D6, D10, D12, D13, D15, D17
#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_to_its_client() {
    let people = People::new();
    let many = (0..65).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("response_type", "code id_token", "unsupported_response_type"),
        ("response_type", "", "invalid_request"),
        ("response_mode", "fragment", "invalid_request"),
        ("response_mode", "form_post", "invalid_request"),
        ("request", "eyJ", "request_not_supported"),
        ("request_uri", "urn:x", "request_uri_not_supported"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge", "short", "invalid_request"),
        ("code_challenge_method", "", "invalid_request"),
        ("code_challenge_method", "s256", "invalid_request"),
        ("resource", "https://gw.example/other", "invalid_target"),
        ("resource", "https://gw.example/files/mcp/x", "invalid_target"),
        ("resource", "https://gw.example/files", "invalid_target"),
        ("resource", "https://evil.example/files/mcp", "invalid_target"),
        ("resource", "files", "invalid_target"),
        ("resource", "https://gw.example/files/mcp#x", "invalid_target"),
        ("resource", "https://gw.example", "invalid_target"),
        ("resource", "", "invalid_target"),
        ("scope", "a\"b", "invalid_scope"),
        ("scope", "ä", "invalid_scope"),
        ("scope", &many, "invalid_scope"),
        ("prompt", "none", "login_required"),
        ("prompt", "none login", "invalid_request"),
    ] {
        let seen = people.browser().get(&web(&[(name, value)])).await;
        seen.refused(WEB, error);
    }
    let target = format!("{}&resource={NOTES}", web(&[]));
    people.browser().get(&target).await.refused(WEB, "invalid_target");
}

/// Spec: D7, L2, L3
#[tokio::test]
async fn plain_pkce_is_refused() {
    let people = People::with(|config| config.oauth.require_pkce = false);
    for client in [("web", WEB), ("spa", "https://spa.example/cb")] {
        for changes in [[("code_challenge_method", "plain")], [("code_challenge_method", "")]] {
            people
                .browser()
                .get(&request(client.0, client.1, &changes))
                .await
                .refused(client.1, "invalid_request");
        }
    }
}

/// Spec: D7
#[tokio::test]
async fn only_a_confidential_client_goes_without_pkce_and_only_where_it_may() {
    let none = [("code_challenge", ""), ("code_challenge_method", "")];
    let people = People::with(|config| config.oauth.require_pkce = false);
    let done = people.browser().allow(&web(&none), "ada").await;
    assert_eq!(people.code(&done).await.code_challenge, None);
    let spa = request("spa", "https://spa.example/cb", &none);
    people
        .browser()
        .get(&spa)
        .await
        .refused("https://spa.example/cb", "invalid_request");
    People::new()
        .browser()
        .get(&web(&none))
        .await
        .refused(WEB, "invalid_request");
}

/// Spec: C15
#[tokio::test]
async fn a_client_that_did_not_register_for_codes_gets_none() {
    let people = People::with(|config| {
        let mut refresher = client("refresher", &[WEB], true);
        refresher.grant_types = vec![GrantType::RefreshToken];
        config.oauth.clients.push(refresher);
    });
    people
        .browser()
        .get(&request("refresher", WEB, &[]))
        .await
        .refused(WEB, "unauthorized_client");
}

/// Spec: A8, D9, L1
#[tokio::test]
async fn every_redirect_carries_exactly_one_iss_unless_it_is_turned_off() {
    let people = People::new();
    let done = people.browser().allow(&web(&[]), "ada").await;
    assert_eq!(done.answer("iss").as_deref(), Some(ORIGIN));
    let mut browser = people.browser();
    let consent = browser.sign_in(&web(&[("prompt", "consent")]), "ada").await;
    browser.decide(&consent, "deny").await.refused(WEB, "access_denied");

    let people = People::with(|config| config.oauth.issuer_in_response = false);
    let done = people.browser().allow(&web(&[]), "ada").await;
    assert!(done.answer("code").is_some() && done.answer("iss").is_none());
    assert_eq!(people.browser().get(&web(&[("scope", "ä")])).await.answer("iss"), None);
}

/// Spec: D8, L2
#[tokio::test]
async fn state_is_echoed_byte_for_byte_and_only_if_it_came() {
    let people = People::new();
    let long = "äé~ +&=%/".repeat(400);
    for state in ["x", " ", "%25", "a+b", "\u{1f600}\n\t", &long] {
        let seen = people.browser().get(&web(&[("state", state), ("scope", "ä")])).await;
        assert_eq!(seen.answer("state").as_deref(), Some(state));
        let done = people.browser().allow(&web(&[("state", state)]), "ada").await;
        assert_eq!(done.answer("state").as_deref(), Some(state));
    }
    let done = people.browser().allow(&web(&[("state", "")]), "ada").await;
    assert!(done.answer("code").is_some() && done.answer("state").is_none());
}

// --- resource and scope

/// Spec: D10, I3
#[tokio::test]
async fn a_resource_is_compared_in_canonical_form() {
    let people = People::new();
    for text in [
        "https://GW.example/files/mcp",
        "https://gw.example:443/files/mcp/",
        FILES,
    ] {
        let done = people.browser().allow(&web(&[("resource", text)]), "ada").await;
        assert_eq!(people.code(&done).await.resource.as_str(), FILES);
    }
    // Twice the same is one.
    let done = people
        .browser()
        .allow(&format!("{}&resource={FILES}/", web(&[])), "ada")
        .await;
    assert_eq!(people.code(&done).await.resource.as_str(), FILES);
}

/// Spec: D11, D12
#[tokio::test]
async fn without_a_resource_the_root_s_is_meant_if_there_is_one() {
    let people = People::with(|config| config.oauth.root_resource = RootResource::Named("notes".to_owned()));
    for resource in ["", "https://gw.example", "https://gw.example/"] {
        let done = people
            .browser()
            .allow(&web(&[("resource", resource), ("scope", "")]), "ada")
            .await;
        assert_eq!(people.code(&done).await.resource.as_str(), NOTES);
    }
    let people = People::with(|config| config.upstreams.truncate(1));
    let done = people.browser().allow(&web(&[("resource", "")]), "ada").await;
    assert_eq!(people.code(&done).await.resource.as_str(), FILES);
}

/// Spec: D13, D14, I4, L23
#[tokio::test]
async fn unknown_scopes_are_dropped_and_missing_ones_mean_the_default() {
    let people = People::new();
    for (asked, granted) in [
        ("", "files:read"),
        ("claudeai nonsense", "files:read"),
        ("files:read claudeai", "files:read"),
        (
            "files:write files:read offline_access",
            "files:write files:read offline_access",
        ),
    ] {
        let done = people.browser().allow(&web(&[("scope", asked)]), "ada").await;
        assert_eq!(people.code(&done).await.scope.to_string(), granted, "{asked:?}");
    }
    // A scope of one server is none of another's.
    let done = people
        .browser()
        .allow(&web(&[("resource", NOTES), ("scope", "files:read openid")]), "ada")
        .await;
    assert_eq!(people.code(&done).await.scope.to_string(), "openid");
}

/// Spec: B5, D13
#[tokio::test]
async fn offline_access_can_be_asked_for_even_where_it_is_not_listed() {
    let people = People::with(|config| config.oauth.scopes = "openid".parse().unwrap());
    let done = people
        .browser()
        .allow(&web(&[("scope", "files:read offline_access")]), "ada")
        .await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read offline_access");
}

/// Spec: C28
#[tokio::test]
async fn a_configured_client_gets_no_scope_that_it_is_not_configured_for() {
    let people = People::with(|config| {
        let mut bound = client("bound", &[WEB], true);
        bound.origin = ClientOrigin::Configured;
        bound.scope = Some("files:read".parse().unwrap());
        config.oauth.clients.push(bound);
    });
    let target = request("bound", WEB, &[("scope", "files:write files:read offline_access")]);
    let done = people.browser().allow(&target, "ada").await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read offline_access");
}

/// Spec: D13, I4
#[tokio::test]
async fn a_scope_of_a_group_goes_to_its_members_alone() {
    let people = People::new();
    let target = web(&[("scope", "files:read files:admin")]);
    let mut browser = people.browser();
    let consent = browser.sign_in(&target, "ada").await;
    assert!(!consent.text.contains("files:admin"));
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read");
    let done = people.browser().allow(&target, "root").await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read files:admin");
    // Nothing else was asked for: there is nothing to grant.
    let mut browser = people.browser();
    let page = browser.open(&web(&[("scope", "files:admin")])).await;
    browser
        .sign_in_with(&page, "ada", PASSWORD)
        .await
        .refused(WEB, "access_denied");
}

#[tokio::test]
async fn an_account_without_a_scope_that_the_server_needs_is_turned_away_and_can_be_changed() {
    let people = People::with(|config| config.upstreams[0].scopes = "files:read files:admin".parse().unwrap());
    let mut browser = people.browser();
    let page = browser.open(&web(&[("scope", "")])).await;
    let seen = browser.sign_in_with(&page, "ada", PASSWORD).await;
    seen.refused(WEB, "access_denied");
    assert!(seen.answer("error_description").unwrap().contains("files:admin"));
    // Still signed in as ada, who is asked for another account rather than sent away again.
    browser
        .get(&web(&[("scope", ""), ("prompt", "none")]))
        .await
        .refused(WEB, "access_denied");
    let page = browser.open(&web(&[("scope", "")])).await;
    let consent = browser.sign_in_with(&page, "root", PASSWORD).await;
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(people.code(&done).await.subject, Subject::of_username("root").unwrap());
}

// --- the browser

/// Spec: D21, L2
#[tokio::test]
async fn the_request_is_worth_nothing_in_another_browser() {
    let people = People::new();
    let (mut own, mut other) = (people.browser(), people.browser());
    let consent = own.sign_in(&web(&[("prompt", "consent")]), "ada").await;
    let id = consent.hidden("/consent")[0].1.clone();
    // Without a cookie, with a cookie of its own, and signed in.
    other
        .get(&format!("/login?request={id}"))
        .await
        .page(403, "other_browser");
    other.allow(&web(&[]), "root").await;
    for page in ["login", "consent"] {
        other
            .get(&format!("/{page}?request={id}"))
            .await
            .page(403, "other_browser");
    }
    let hidden = consent.hidden("/consent");
    let stolen = [
        ("request", id.as_str()),
        ("csrf", hidden[1].1.as_str()),
        ("decision", "approve"),
    ];
    other.post("/consent", &stolen).await.page(403, "other_browser");
    // And it still stands where it began.
    people.code(&own.decide(&consent, "approve").await).await;
}

/// Spec: D21
#[tokio::test]
async fn the_login_prompt_cookie_is_signed_and_lives_ten_minutes() {
    let people = People::new();
    let mut browser = people.browser();
    let seen = browser.get(&web(&[])).await;
    let cookie = seen.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("oidc_login_prompt=mgbr_"), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure"),
        "{cookie}"
    );
    let genuine = browser.cookies["oidc_login_prompt"].clone();
    let target = seen.location().to_owned();
    let unsigned = genuine.split('.').next().unwrap().to_owned();
    let made_up = format!(
        "{}.{}",
        Secret::generate(SecretKind::Browser).expose(),
        genuine.split_once('.').unwrap().1
    );
    for forged in [
        unsigned.clone(),
        format!("{unsigned}."),
        made_up,
        genuine[..genuine.len() - 1].to_owned(),
        "x".into(),
    ] {
        browser.cookies.insert("oidc_login_prompt".to_owned(), forged.clone());
        browser.get(&target).await.page(403, "other_browser");
        // A forged cookie is replaced, never taken over.
        let seen = browser.get(&web(&[])).await;
        assert!(!seen.header("set-cookie").unwrap().contains(&forged) || forged == "x");
    }
    browser.cookies.insert("oidc_login_prompt".to_owned(), genuine);
    browser.get(&target).await.asks_for_password();
}

/// Spec: D21
#[tokio::test]
async fn two_tabs_do_not_end_each_other() {
    let people = People::new();
    let mut browser = people.browser();
    let first = browser.open(&web(&[])).await;
    let second = browser.open(&web(&[("resource", NOTES), ("scope", "")])).await;
    let consent = browser.sign_in_with(&first, "ada", PASSWORD).await;
    people.code(&browser.decide(&consent, "approve").await).await;
    let consent = browser.sign_in_with(&second, "ada", PASSWORD).await;
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(people.code(&done).await.resource.as_str(), NOTES);
}

/// Spec: D21
#[tokio::test]
async fn an_unfinished_authorization_lapses_after_ten_minutes() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    people.gateway.later(599);
    let consent = browser.sign_in_with(&login, "ada", PASSWORD).await;
    people.gateway.later(1);
    browser
        .fill_in(&consent, "/consent", &[("decision", "approve")])
        .await
        .page(400, "request_over");
    let add = [("username", "ada"), ("password", PASSWORD)];
    browser.fill_in(&login, "/login", &add).await.page(400, "request_over");
}

/// Spec: D18, D21
#[tokio::test]
async fn an_answered_request_is_over() {
    let people = People::new();
    for decision in ["approve", "deny"] {
        let mut browser = people.browser();
        let consent = browser.sign_in(&web(&[("prompt", "consent")]), "ada").await;
        browser.decide(&consent, decision).await;
        browser.decide(&consent, "approve").await.page(400, "request_over");
    }
}

#[tokio::test]
async fn pages_opened_by_themselves_say_where_to_start() {
    let people = People::new();
    for target in [
        "/login",
        "/consent",
        "/login?request=x",
        "/consent?request=mgar_x",
        "/login?next=https://evil.example",
    ] {
        people.browser().get(target).await.page(400, "no_request");
    }
}

// --- forms

/// Spec: E3
#[tokio::test]
async fn login_without_csrf_token_changes_nothing() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let id = login.hidden("/login")[0].1.clone();
    let credentials = [("request", id.as_str()), ("username", "ada"), ("password", PASSWORD)];
    browser.post("/login", &credentials).await.page(403, "stale_form");
    let other = people.browser().open(&web(&[])).await.hidden("/login")[1].1.clone();
    for token in ["x", other.as_str(), "\u{e4}"] {
        let pairs = [&credentials[..], &[("csrf", token)]].concat();
        browser.post("/login", &pairs).await.page(403, "stale_form");
    }
    assert_eq!(browser.session(), None);
    assert!(!people.metric("mcpgate_logins_total{outcome=\"success\",provider=\"builtin\"} 1"));
}

/// Spec: E3
#[tokio::test]
async fn consent_without_csrf_token_changes_nothing() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let consent = browser.sign_in_with(&login, "ada", PASSWORD).await;
    let id = consent.hidden("/consent")[0].1.clone();
    let for_login = login.hidden("/login")[1].1.clone();
    let for_logout = consent.hidden("/logout")[1].1.clone();
    for token in ["", "x", &for_login, &for_logout] {
        for decision in ["approve", "deny"] {
            let pairs = [("request", id.as_str()), ("csrf", token), ("decision", decision)];
            browser.post("/consent", &pairs).await.page(403, "stale_form");
        }
    }
    browser
        .fill_in(&consent, "/consent", &[])
        .await
        .page(400, "invalid_request");
    browser
        .fill_in(&consent, "/consent", &[("decision", "maybe")])
        .await
        .page(400, "invalid_request");
    people.code(&browser.decide(&consent, "approve").await).await;
}

/// The consent page has a second form; a program that sends every hidden input of the page still decides.
#[tokio::test]
async fn hidden_inputs_of_the_consent_page_do_not_collide() {
    let people = People::new();
    let mut browser = people.browser();
    let consent = browser.sign_in(&web(&[]), "ada").await;
    let all = [consent.hidden("/consent"), consent.hidden("/logout")].concat();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for (name, value) in &all {
        match pairs.iter().find(|(other, _)| other == name) {
            Some((_, other)) => assert_eq!(other, value, "{name} has two values"),
            None => pairs.push((name, value)),
        }
    }
    pairs.push(("decision", "approve"));
    people.code(&browser.post("/consent", &pairs).await).await;
}

/// Spec: E3
#[tokio::test]
async fn a_consent_page_is_worth_nothing_for_the_next_person() {
    let people = People::new();
    let mut browser = people.browser();
    let consent = browser.sign_in(&web(&[]), "ada").await;
    let login = browser.open(&web(&[("prompt", "login")])).await;
    browser.sign_in_with(&login, "root", PASSWORD).await.asks_for_consent();
    browser.decide(&consent, "approve").await.page(403, "stale_form");
}

/// Spec: E3
#[tokio::test]
async fn a_form_from_another_site_changes_nothing() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    for (name, value, fine) in [
        ("origin", "https://evil.example", false),
        ("origin", "http://gw.example", false),
        ("origin", "https://gw.example.evil.example", false),
        ("sec-fetch-site", "cross-site", false),
        ("sec-fetch-site", "same-site", false),
        ("sec-fetch-site", "same-origin", true),
        ("origin", "null", true),
        ("origin", ORIGIN, true),
    ] {
        browser.headers = vec![(name, value.to_owned())];
        let add = [("username", "ada"), ("password", PASSWORD)];
        let seen = browser.fill_in(&login, "/login", &add).await;
        if fine {
            assert_eq!(seen.status, 303, "{name}: {value}");
        } else {
            seen.page(403, "foreign_form");
            assert_eq!(browser.session(), None);
        }
    }
}

#[tokio::test]
async fn a_form_of_another_type_or_too_odd_is_refused() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let hidden = login.hidden("/login");
    let twice = form(&[
        ("request", &hidden[0].1),
        ("csrf", &hidden[1].1),
        ("username", "ada"),
        ("username", "root"),
    ]);
    browser
        .send(Method::POST, "/login", Some(twice))
        .await
        .page(400, "invalid_request");
    browser
        .send(Method::POST, "/login", None)
        .await
        .page(400, "invalid_request");
}

// --- sign-in

/// Spec: E8
#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_look_the_same() {
    let people = People::new();
    let mut pages = Vec::new();
    for (username, password) in [("ada", "not the password"), ("bob", PASSWORD)] {
        let mut browser = people.browser();
        let login = browser.open(&web(&[])).await;
        let add = [("username", username), ("password", password)];
        let seen = browser.fill_in(&login, "/login", &add).await;
        assert_eq!((seen.status, browser.session()), (401, None));
        assert_eq!(seen.header("www-authenticate"), None);
        assert!(seen.text.contains("role=\"alert\"") && !seen.text.contains(password));
        let hidden = seen.hidden("/login");
        let text = seen
            .text
            .replace(&format!("value=\"{username}\""), "")
            .replace(&hidden[0].1, "")
            .replace(&hidden[1].1, "");
        pages.push(text);
        // The page that comes back still works.
        let again = browser
            .fill_in(&seen, "/login", &[("username", "root"), ("password", PASSWORD)])
            .await;
        assert_eq!(again.status, 303);
    }
    assert_eq!(pages[0], pages[1]);
    assert!(people.metric("mcpgate_logins_total{outcome=\"failure\",provider=\"builtin\"} 2"));
}

/// Spec: E6
#[tokio::test]
async fn session_id_changes_at_sign_in_and_the_old_one_ends() {
    let people = People::new();
    let mut browser = people.browser();
    browser.cookies.insert(
        "__Host-mcpgate_session".to_owned(),
        Secret::generate(SecretKind::Session).expose().to_owned(),
    );
    let planted = browser.session().unwrap().clone();
    browser.sign_in(&web(&[]), "ada").await;
    let first = browser.session().unwrap().clone();
    assert_ne!(planted, first);
    let login = browser.open(&web(&[("prompt", "login")])).await;
    let add = [("username", "ada"), ("password", PASSWORD)];
    let seen = browser.fill_in(&login, "/login", &add).await;
    let cookie = seen.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-mcpgate_session=mgss_"), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax; Secure"),
        "{cookie}"
    );
    let second = browser.session().unwrap().clone();
    assert_ne!(first, second);
    for old in [planted, first] {
        browser.cookies.insert("__Host-mcpgate_session".to_owned(), old);
        browser.open(&web(&[])).await.asks_for_password();
    }
    browser.cookies.insert("__Host-mcpgate_session".to_owned(), second);
    browser.open(&web(&[])).await.asks_for_consent();
}

/// Spec: E6
#[tokio::test]
async fn a_session_ends_after_twelve_hours_however_often_it_is_used() {
    let people = People::new();
    let mut browser = people.browser();
    browser.sign_in(&web(&[]), "ada").await;
    for _ in 0..11 {
        people.gateway.later(3600);
        browser.open(&web(&[])).await.asks_for_consent();
    }
    people.gateway.later(3599);
    browser.open(&web(&[])).await.asks_for_consent();
    people.gateway.later(1);
    browser.open(&web(&[])).await.asks_for_password();
}

/// Spec: E6
#[tokio::test]
async fn a_session_ends_when_it_was_not_used_for_two_hours() {
    let people = People::new();
    let mut browser = people.browser();
    browser.sign_in(&web(&[]), "ada").await;
    for _ in 0..2 {
        people.gateway.later(2 * 3600 - 1);
        browser.open(&web(&[])).await.asks_for_consent();
    }
    people.gateway.later(2 * 3600);
    browser.open(&web(&[])).await.asks_for_password();
}

/// Spec: E6, L12
#[tokio::test]
async fn on_a_loopback_address_cookies_go_without_https() {
    let people = People::with(|config| {
        config.public_url.origin = "http://127.0.0.1:8080".to_owned();
        config.public_url.scheme = "http";
        config.public_url.loopback = true;
    });
    let mut browser = people.browser();
    let page = browser.open(&web(&[])).await;
    browser.sign_in_with(&page, "ada", PASSWORD).await.asks_for_consent();
    assert!(browser.cookies.contains_key("mcpgate_session"));
    assert_eq!(page.header("strict-transport-security"), None);
}

/// Spec: E8, L13
#[tokio::test]
async fn an_account_is_locked_after_five_failures_whatever_the_password() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    for n in 1..=5 {
        browser.address = IpAddr::from([10, 0, 0, n]);
        let add = [("username", "ada"), ("password", "wrong")];
        assert_eq!(browser.fill_in(&login, "/login", &add).await.status, 401);
    }
    let right = [("username", "ada"), ("password", PASSWORD)];
    let seen = browser.fill_in(&login, "/login", &right).await;
    assert_eq!(
        (seen.status, seen.header("retry-after"), browser.session()),
        (429, Some("30"), None)
    );
    assert!(seen.text.contains("Try again in 30 seconds"));
    assert!(people.metric("mcpgate_logins_total{outcome=\"throttled\",provider=\"builtin\"} 1"));
    // Nobody else is.
    let mut other = people.browser();
    other.address = browser.address;
    other.sign_in(&web(&[]), "root").await.asks_for_consent();
    people.gateway.later(30);
    assert_eq!(browser.fill_in(&login, "/login", &right).await.status, 303);
}

/// Spec: E8
#[tokio::test]
async fn a_name_that_nobody_has_is_locked_as_well() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let add = [("username", "bob"), ("password", "wrong")];
    for _ in 0..5 {
        assert_eq!(browser.fill_in(&login, "/login", &add).await.status, 401);
    }
    assert_eq!(browser.fill_in(&login, "/login", &add).await.status, 429);
}

/// Spec: E8, L13
#[tokio::test]
async fn an_address_is_locked_after_twenty_failures_whoever_it_tries() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    for n in 0..20 {
        let name = format!("nobody{n}");
        let add = [("username", name.as_str()), ("password", "wrong")];
        assert_eq!(browser.fill_in(&login, "/login", &add).await.status, 401);
    }
    let right = [("username", "ada"), ("password", PASSWORD)];
    assert_eq!(browser.fill_in(&login, "/login", &right).await.status, 429);
    browser.address = IpAddr::from([10, 0, 0, 2]);
    assert_eq!(browser.fill_in(&login, "/login", &right).await.status, 303);
}

// --- consent

/// Spec: D8, D17, E2
#[tokio::test]
async fn deny_returns_access_denied_with_state() {
    let people = People::new();
    let mut browser = people.browser();
    let consent = browser.sign_in(&web(&[]), "ada").await;
    browser.decide(&consent, "deny").await.refused(WEB, "access_denied");
    // And nothing was remembered.
    browser.open(&web(&[])).await.asks_for_consent();
}

/// Spec: E7
#[tokio::test]
async fn remembered_consent_goes_straight_to_the_app() {
    let people = People::new();
    let mut browser = people.browser();
    browser.allow(&web(&[("scope", "files:read files:write")]), "ada").await;
    let done = browser.get(&web(&[("scope", "files:write")])).await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:write");
    let done = browser.get(&web(&[("prompt", "none")])).await;
    people.code(&done).await;
    // In another browser, after signing in there.
    let done = people.browser().sign_in(&web(&[]), "ada").await;
    people.code(&done).await;
}

/// Spec: E7
#[tokio::test]
async fn a_new_scope_asks_again() {
    let people = People::new();
    let mut browser = people.browser();
    browser.allow(&web(&[]), "ada").await;
    let more = web(&[("scope", "files:read files:write")]);
    browser
        .get(&web(&[("scope", "files:read files:write"), ("prompt", "none")]))
        .await
        .refused(WEB, "consent_required");
    let consent = browser.open(&more).await;
    browser.decide(&consent, "approve").await;
    people.code(&browser.get(&more).await).await;
}

/// Spec: E1, E7, I4
#[tokio::test]
async fn consent_is_for_one_person_client_redirect_uri_and_resource() {
    let people = People::new();
    let mut browser = people.browser();
    let first = request("two", "https://two.example/a", &[]);
    browser.allow(&first, "ada").await;
    people.code(&browser.get(&first).await).await;
    let others = [
        request("two", "https://two.example/b?x=1", &[]),
        request(
            "two",
            "https://two.example/a",
            &[("resource", NOTES), ("scope", "openid")],
        ),
        web(&[]),
    ];
    for other in others {
        browser.open(&other).await.asks_for_consent();
    }
    people.browser().sign_in(&first, "root").await.asks_for_consent();
}

/// Spec: E7
#[tokio::test]
async fn public_loopback_clients_are_always_asked() {
    let people = People::new();
    for (id, redirect, remembered) in [
        ("local", LOCAL, false),
        ("private", PRIVATE, false),
        ("local-secret", LOCAL, true),
        ("spa", "https://spa.example/cb", true),
    ] {
        let mut browser = people.browser();
        let target = request(id, redirect, &[]);
        let done = browser.allow(&target, "ada").await;
        assert!(
            done.location().starts_with(&format!("{redirect}?code=mgac_")),
            "{}",
            done.location()
        );
        let again = browser.open(&target).await;
        if remembered {
            people.code(&again).await;
        } else {
            again.asks_for_consent();
            browser
                .get(&request(id, redirect, &[("prompt", "none")]))
                .await
                .refused(redirect, "consent_required");
        }
    }
}

/// Spec: D15
#[tokio::test]
async fn prompt_login_and_prompt_consent_are_honoured() {
    let people = People::new();
    let mut browser = people.browser();
    browser.allow(&web(&[]), "ada").await;
    let consent = browser.open(&web(&[("prompt", "consent")])).await;
    consent.asks_for_consent();
    people.gateway.later(60);
    let login = browser.get(&web(&[("prompt", "login")])).await;
    // The consent page is no way around the sign-in page.
    let aside = login.location().replace("/login", "/consent");
    let login = browser.open(&aside).await;
    let done = browser.sign_in_with(&login, "ada", PASSWORD).await;
    let record = people.code(&done).await;
    assert_eq!(record.authenticated_at, people.gateway.at.now());
    people.code(&browser.open(&web(&[("prompt", "what")])).await).await;
    let login = browser.open(&web(&[("prompt", "login consent")])).await;
    browser.sign_in_with(&login, "ada", PASSWORD).await.asks_for_consent();
}

/// Spec: E2
#[tokio::test]
async fn the_consent_page_says_who_asks_for_what_and_where_the_answer_goes() {
    let people = People::new();
    let page = people
        .browser()
        .sign_in(&web(&[("scope", "files:read profile")]), "ada")
        .await;
    for part in [
        "The web app",
        "An app that calls itself",
        "files",
        FILES,
        "app.example",
        "See your name",
        "ada",
        "Deny",
    ] {
        assert!(page.text.contains(part), "{part} in {}", page.text);
    }
    assert!(!page.text.contains("role=\"note\""));
    let page = people.browser().sign_in(&request("local", LOCAL, &[]), "ada").await;
    for part in [LOCAL, "an app on this computer", "role=\"note\""] {
        assert!(page.text.contains(part), "{part} in {}", page.text);
    }
    let page = people.browser().sign_in(&request("private", PRIVATE, &[]), "ada").await;
    assert!(page.text.contains(PRIVATE) && page.text.contains("role=\"note\""));
}

/// Spec: C14, L19
#[tokio::test]
async fn hostile_client_names_are_text() {
    let people = People::with(|config| {
        let mut evil = client("evil", &[WEB], true);
        evil.name = Some(format!("<script>alert(1)</script>\u{202e}\"'&{}", "x".repeat(500)));
        config.oauth.clients.push(evil);
    });
    let mut browser = people.browser();
    let login = browser.open(&request("evil", WEB, &[])).await;
    let consent = browser.sign_in_with(&login, "ada", PASSWORD).await;
    for page in [login, consent] {
        assert!(page.text.contains("&lt;script&gt;alert(1)"), "{}", page.text);
        for bad in ["<script", "\u{202e}", &"x".repeat(80)] {
            assert!(!page.text.contains(bad), "{bad}");
        }
    }
    let evil = "\"><script>alert(1)</script>";
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let page = browser
        .fill_in(&login, "/login", &[("username", evil), ("password", evil)])
        .await;
    assert!(!page.text.contains("<script") && page.text.contains("&quot;&gt;&lt;script"));
}

// --- every page

/// Spec: D1, D19, E4, E5, L6, L7
#[tokio::test]
async fn every_page_is_kept_from_frames_caches_and_scripts() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let wrong = browser
        .fill_in(&login, "/login", &[("username", "ada"), ("password", "x")])
        .await;
    let consent = browser.sign_in_with(&login, "ada", PASSWORD).await;
    let logout = browser.get("/logout").await;
    let error = browser.get(&web(&[("client_id", "nobody")])).await;
    for page in [login, wrong, consent, logout, error] {
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("strict-transport-security"), Some("max-age=31536000"));
        assert_eq!(page.header("access-control-allow-origin"), None);
        let policy = page.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "style-src 'sha256-",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        // Chromium would hold the redirect to the client against it.
        assert!(
            !policy.contains("form-action") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(!page.text.contains("<script") && !page.text.contains(" style=") && !page.text.contains("src="));
        assert!(page.text.contains("<html lang=\"en\">") && page.text.contains("name=\"viewport\""));
    }
    let redirect = browser.get(&web(&[("scope", "ä")])).await;
    assert_eq!(redirect.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(redirect.header("cache-control"), Some("no-store"));
}

// --- sign-out

/// Spec: E10
#[tokio::test]
async fn signing_out_ends_the_session_and_takes_a_form_of_ours() {
    let people = People::new();
    let mut browser = people.browser();
    browser.sign_in(&web(&[]), "ada").await;
    let id = browser.session().unwrap().clone();
    let page = browser.get("/logout").await;
    assert!(
        page.text.contains("ada") && browser.session().is_some(),
        "a GET changes nothing"
    );
    browser.post("/logout", &[]).await.page(403, "stale_form");
    browser
        .post("/logout", &[("sign_out", "x")])
        .await
        .page(403, "stale_form");
    browser.headers = vec![("origin", "https://evil.example".to_owned())];
    browser.fill_in(&page, "/logout", &[]).await.page(403, "foreign_form");
    browser.headers.clear();
    assert_eq!(browser.session(), Some(&id));
    let seen = browser.fill_in(&page, "/logout", &[]).await;
    assert!(seen.status == 200 && seen.text.contains("signed out"));
    assert!(browser.cookies.is_empty());
    browser.cookies.insert("__Host-mcpgate_session".to_owned(), id);
    browser.open(&web(&[])).await.asks_for_password();
    let seen = people.browser().get("/logout").await;
    assert!(seen.status == 200 && seen.text.contains("signed out"));
}

#[tokio::test]
async fn another_account_can_be_used_for_the_same_request() {
    let people = People::new();
    let mut browser = people.browser();
    let consent = browser.sign_in(&web(&[]), "ada").await;
    let seen = browser.fill_in(&consent, "/logout", &[]).await;
    let login = browser.follow(seen).await;
    let consent = browser.sign_in_with(&login, "root", PASSWORD).await;
    let done = browser.decide(&consent, "approve").await;
    assert_eq!(people.code(&done).await.subject, Subject::of_username("root").unwrap());
}

/// Spec: E11, L4
#[tokio::test]
async fn no_parameter_leads_anywhere_else() {
    let people = People::new();
    let mut browser = people.browser();
    browser.sign_in(&web(&[]), "ada").await;
    for name in [
        "next",
        "return_to",
        "redirect",
        "redirect_uri",
        "post_logout_redirect_uri",
        "continue",
    ] {
        let page = browser.get(&format!("/logout?{name}=https://evil.example")).await;
        assert!(page.status == 200 && !page.text.contains("evil"));
    }
    let page = browser.get("/logout").await;
    let seen = browser
        .fill_in(&page, "/logout", &[("request", "https://evil.example")])
        .await;
    assert_eq!((seen.status, seen.header("location")), (200, None));
}

// --- a store that fails

/// Spec: D17
#[tokio::test]
async fn a_store_that_fails_opens_no_door() {
    let people = People::new();
    let mut browser = people.browser();
    let login = browser.open(&web(&[])).await;
    let mut second = people.browser();
    let consent = second.sign_in(&web(&[]), "ada").await;
    people.store.broken.store(true, Ordering::SeqCst);
    // Configured clients are known without the store, so the client can be told.
    people
        .browser()
        .get(&web(&[]))
        .await
        .refused(WEB, "temporarily_unavailable");
    people
        .browser()
        .get(&web(&[("client_id", "mgc_x")]))
        .await
        .page(503, "temporarily_unavailable");
    let right = [("username", "ada"), ("password", PASSWORD)];
    let seen = browser.fill_in(&login, "/login", &right).await;
    seen.page(503, "temporarily_unavailable");
    assert_eq!((browser.session(), seen.header("retry-after")), (None, Some("5")));
    second
        .decide(&consent, "approve")
        .await
        .page(503, "temporarily_unavailable");
}
