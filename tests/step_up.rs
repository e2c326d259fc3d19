//! A client that needs more than it has, and scopes that come with others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
}

use mcpgate::config::{Config, ScopeInfo};
use support::endpoints::{Allowed, Gateway};
use support::people::{People, WEB, request, web};

const LOCAL: &str = "http://127.0.0.1:40123/cb";

/// `files:all` comes with `files:write`, and that with `files:read`, which the upstream needs.
fn hierarchy(config: &mut Config) {
    let info = |name: &str, implies: &str| ScopeInfo {
        name: name.parse().unwrap(),
        description: None,
        groups: None,
        implies: implies.parse().unwrap(),
    };
    config.scopes = vec![
        info("files:write", "files:read"),
        info("files:all", "files:write files:read"),
        info("files:share", ""),
    ];
}

/// Spec: H6
#[tokio::test]
async fn a_scope_covers_what_it_implies_at_the_consent() {
    let people = People::with(hierarchy);
    let mut browser = people.browser();
    let done = browser.allow(&web(&[("scope", "files:all")]), "ada").await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:all");
    for less in ["files:write", "files:read", "files:read files:write"] {
        let done = browser.get(&web(&[("scope", less)])).await;
        assert_eq!(people.code(&done).await.scope.to_string(), less, "without a word");
    }
    browser.open(&web(&[("scope", "files:share")])).await.asks_for_consent();
    let other = people.browser().allow(&web(&[("scope", "files:read")]), "root").await;
    people.code(&other).await;
    let more = people
        .browser()
        .sign_in(&web(&[("scope", "files:write")]), "root")
        .await;
    more.asks_for_consent();
}

/// Spec: H6, F16
#[tokio::test]
async fn a_refresh_may_narrow_to_what_is_implied_and_never_widens() {
    let gateway = Gateway::with(hierarchy);
    let client = gateway.usual_client().await;
    let allowed = Allowed {
        scope: "files:write",
        ..Allowed::default()
    };
    let code = gateway.code(&client, allowed).await;
    let refresh = gateway.redeem(&client, &code).await.fine().text_of("refresh_token");
    for wide in ["files:all", "files:write files:share"] {
        let reply = gateway.refresh_with(&client, &refresh, &[("scope", wide)]).await;
        reply.refused(400, "invalid_scope");
    }
    let reply = gateway
        .refresh_with(&client, &refresh, &[("scope", "files:read")])
        .await
        .fine();
    assert_eq!(reply.text_of("scope"), "files:read");
    let live = gateway.live(&reply.text_of("access_token")).await.unwrap();
    assert_eq!(live.token.scope.to_string(), "files:read");
    // The next one has it all again.
    let reply = gateway.refresh(&client, &reply.text_of("refresh_token")).await.fine();
    assert_eq!(reply.text_of("scope"), "files:write");
}

/// Spec: H5, E7
///
/// claude-code#28258: a client that steps up asks for the missing scope alone, and needs what it had as well.
#[tokio::test]
async fn a_step_up_keeps_what_was_allowed_and_shows_what_is_new() {
    let people = People::new();
    for (client, redirect) in [("web", WEB), ("local", LOCAL)] {
        let mut browser = people.browser();
        let first = browser
            .sign_in(
                &request(client, redirect, &[("scope", "files:read offline_access")]),
                "ada",
            )
            .await;
        assert!(!first.text.contains("You allowed before"), "there is no before");
        assert!(first.text.contains("files:read"));
        browser.decide(&first, "approve").await;

        let step = request(client, redirect, &[("scope", "files:write")]);
        let page = browser.open(&step).await;
        let list = page.text.split("<ul").nth(1).unwrap().split("</ul>").next().unwrap();
        assert!(list.contains("files:write") && !list.contains("files:read"), "{list}");
        let line = page
            .text
            .split("id=\"already\"")
            .nth(1)
            .unwrap()
            .split("</p>")
            .next()
            .unwrap();
        assert!(line.contains("files:read") && line.contains("Stay connected"), "{line}");
        let done = browser.decide(&page, "approve").await;
        let scope = people.code(&done).await.scope.sorted().to_string();
        assert_eq!(scope, "files:read files:write offline_access", "{client}");
    }
}

#[tokio::test]
async fn a_step_up_that_is_denied_changes_nothing() {
    let people = People::new();
    let mut browser = people.browser();
    browser.allow(&web(&[("scope", "files:read")]), "ada").await;
    let page = browser.open(&web(&[("scope", "files:write")])).await;
    browser.decide(&page, "deny").await.refused(WEB, "access_denied");
    browser.open(&web(&[("scope", "files:write")])).await.asks_for_consent();
    let done = browser.get(&web(&[("scope", "files:read")])).await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read");
}

/// What somebody else allowed, or what was allowed another client, is no business of this one.
#[tokio::test]
async fn grants_accumulate_for_one_person_and_client_alone() {
    let people = People::new();
    let all = [("scope", "files:read files:write")];
    people.browser().allow(&web(&all), "ada").await;
    let page = people.browser().sign_in(&web(&[("scope", "files:read")]), "root").await;
    assert!(!page.text.contains("You allowed before"));
    let other = request("two", "https://two.example/a", &[("scope", "files:read")]);
    let mut browser = people.browser();
    let page = browser.sign_in(&other, "ada").await;
    assert!(!page.text.contains("You allowed before"));
    let done = browser.decide(&page, "approve").await;
    assert_eq!(people.code(&done).await.scope.to_string(), "files:read");
}

/// A scope that the person may not have any more does not come back through the door of what was allowed.
#[tokio::test]
async fn what_was_allowed_is_held_against_today_s_groups() {
    let people = People::new();
    let mut browser = people.browser();
    browser
        .allow(&web(&[("scope", "files:read files:admin")]), "root")
        .await;
    // The same store under a configuration in which root is no admin.
    let mut config = support::people::people_config();
    for account in &mut config.users {
        account.user.groups.clear();
    }
    let later = People {
        gateway: Gateway::on(config, people.store.clone()),
        store: people.store.clone(),
    };
    let mut browser = later.browser();
    let page = browser.sign_in(&web(&[("scope", "files:write")]), "root").await;
    let done = browser.decide(&page, "approve").await;
    assert_eq!(
        later.code(&done).await.scope.sorted().to_string(),
        "files:read files:write"
    );
}

/// Spec: F18
#[tokio::test]
async fn offline_access_can_always_be_asked_for_and_refresh_tokens_follow_the_client() {
    let gateway = Gateway::with(|config| config.oauth.scopes = "openid".parse().unwrap());
    for (grants, scope, refresh) in [
        (&["authorization_code"][..], "files:read", false),
        (&["authorization_code"], "files:read offline_access", true),
        (&["authorization_code", "refresh_token"], "files:read", true),
    ] {
        let client = gateway.public_client(grants).await;
        let allowed = Allowed {
            scope,
            ..Allowed::default()
        };
        let code = gateway.code(&client, allowed).await;
        let reply = gateway.redeem(&client, &code).await.fine().json();
        assert_eq!(reply.get("refresh_token").is_some(), refresh, "{grants:?} {scope}");
    }
}
