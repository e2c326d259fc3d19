//! Accounts in the store: they sign in beside those that are written down, and a password that somebody else chose opens
//! nothing but the page on which another is chosen.

use mcpgate::domain::person::{Person, Source};
use mcpgate::domain::user::{Subject, User};
use mcpgate::store::{Addition, Chosen};
use serde_json::json;

use crate::http1::Reply;
use crate::person::{Browser, Client, authorize_target, redeem, register};
use crate::setup::{Gateway, PASSWORD, PASSWORD_HASH};

const NEW: &str = "a new one that is long";

/// Puts an account on record, with the password that all have here.
pub async fn add(gateway: &Gateway, name: &str, must_change: bool) -> Subject {
    let subject = Subject::of_username(name).unwrap();
    let user = User {
        subject: subject.clone(),
        username: name.to_owned(),
        email: None,
        name: None,
        groups: vec!["engineering".to_owned()],
    };
    let endpoints = gateway.running.endpoints();
    let person = Person {
        password_hash: Some(PASSWORD_HASH.clone()),
        must_change,
        ..Person::new(user, Source::Store, endpoints.now())
    };
    assert_eq!(endpoints.store.add_person(&person).await.unwrap(), Addition::Done);
    subject
}

/// Begins an authorization and types a password; what comes after it.
pub async fn type_password(
    gateway: &Gateway,
    browser: &mut Browser,
    client: &Client,
    name: &str,
    password: &str,
) -> Reply {
    let target = authorize_target(client, Some(&gateway.resource("two")), None, &[]);
    let reply = browser.get(gateway, &target).await;
    let page = browser.follow(gateway, reply).await;
    let reply = browser
        .fill_in(gateway, &page, &[("username", name), ("password", password)])
        .await;
    browser.follow(gateway, reply).await
}

#[tokio::test]
async fn an_account_of_the_store_signs_in_until_it_is_disabled() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let subject = add(&gateway, "carol", false).await;
    // A name that is written down stays whose it is.
    add(&gateway, "ada", false).await;
    let mut browser = Browser::default();
    let consent = type_password(&gateway, &mut browser, &client, "carol", PASSWORD).await;
    let done = browser.fill_in(&gateway, &consent, &[("decision", "approve")]).await;
    let token = redeem(&gateway, &client, &done.redirected("code").unwrap(), &[])
        .await
        .json();
    let token = token["access_token"].as_str().unwrap().to_owned();
    assert_eq!(gateway.call("two", Some(&token)).await.status, 200);
    assert_eq!(gateway.upstream.last().header("x-forwarded-user"), Some("carol"));
    assert_eq!(
        gateway.upstream.last().header("x-forwarded-groups"),
        Some("engineering")
    );
    let consent = type_password(&gateway, &mut Browser::default(), &client, "ada", PASSWORD).await;
    assert!(
        consent.text().contains("Ada Lovelace"),
        "the configuration says who ada is"
    );

    let endpoints = gateway.running.endpoints();
    let carol = endpoints.store.person(&subject).await.unwrap().unwrap();
    endpoints.store.set_disabled(&carol, true).await.unwrap();
    assert_eq!(gateway.call("two", Some(&token)).await.status, 401);
    let refused = type_password(&gateway, &mut Browser::default(), &client, "carol", PASSWORD).await;
    let unknown = type_password(&gateway, &mut Browser::default(), &client, "nobody", PASSWORD).await;
    assert_eq!((refused.status, unknown.status), (401, 401));
    assert!(refused.text().contains("Username or password is wrong"));
    // Being right is no better than being wrong: it is counted alike, or the answer after the fifth attempt would tell.
    for _ in 0..4 {
        type_password(&gateway, &mut Browser::default(), &client, "carol", PASSWORD).await;
    }
    let counted = type_password(&gateway, &mut Browser::default(), &client, "carol", PASSWORD).await;
    assert_eq!(counted.status, 429);
    // One that is written down can be disabled too.
    let ada = Subject::of_username("ada").unwrap();
    let ada = endpoints.store.person(&ada).await.unwrap().unwrap();
    endpoints.store.set_disabled(&ada, true).await.unwrap();
    let refused = type_password(&gateway, &mut Browser::default(), &client, "ada", PASSWORD).await;
    assert_eq!(refused.status, 401);
}

/// Spec: E8
#[tokio::test]
async fn guesses_at_an_account_of_the_store_are_counted() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    add(&gateway, "carol", false).await;
    for _ in 0..5 {
        let wrong = type_password(&gateway, &mut Browser::default(), &client, "carol", "wrong").await;
        assert_eq!(wrong.status, 401);
    }
    let right = type_password(&gateway, &mut Browser::default(), &client, "carol", PASSWORD).await;
    assert_eq!(right.status, 429);
}

/// The attacks: whoever has the first password tries to get by with it alone, in every way that there is.
#[tokio::test]
async fn a_password_that_somebody_else_chose_is_changed_before_anything_else() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let subject = add(&gateway, "carol", true).await;
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, "carol", PASSWORD).await;
    assert!(page.text().contains("Choose a password"), "{}", page.text());
    assert!(!browser.cookies.contains_key("mcpgate_session"), "nobody is signed in");
    let html = page.text();
    let request = html
        .split("name=\"request\" value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    for path in ["/consent", "/login"] {
        let reply = browser.get(&gateway, &format!("{path}?request={request}")).await;
        let reply = browser.follow(&gateway, reply).await;
        assert!(
            reply.text().contains("name=\"password\""),
            "{path} asks for the password"
        );
    }
    let account = browser.get(&gateway, "/account").await;
    assert_eq!(account.status, 303);
    let mut other = Browser::default();
    let elsewhere = other.get(&gateway, &format!("/login/password?request={request}")).await;
    assert_eq!(elsewhere.status, 403, "another browser");
    for (new, again, says) in [
        ("short", "short", "at least 10"),
        (NEW, "another that is long", "not the same"),
        ("Password123", "Password123", "first that anybody"),
        (PASSWORD, PASSWORD, "that you have"),
    ] {
        let reply = browser
            .fill_in(&gateway, &page, &[("new_password", new), ("again", again)])
            .await;
        assert_eq!(reply.status, 400);
        assert!(reply.text().contains(says), "{new}: {}", reply.text());
        assert!(!browser.cookies.contains_key("mcpgate_session"));
    }
    let consent = browser
        .fill_in(&gateway, &page, &[("new_password", NEW), ("again", NEW)])
        .await;
    let consent = browser.follow(&gateway, consent).await;
    assert!(consent.text().contains("name=\"decision\""), "{}", consent.text());
    // The form is good for one time, and the old password for nothing.
    let again = browser
        .fill_in(
            &gateway,
            &page,
            &[("new_password", "yet another one"), ("again", "yet another one")],
        )
        .await;
    assert_eq!(again.status, 400);
    let old = type_password(&gateway, &mut Browser::default(), &client, "carol", PASSWORD).await;
    assert_eq!(old.status, 401);
    let fresh = type_password(&gateway, &mut Browser::default(), &client, "carol", NEW).await;
    assert!(fresh.text().contains("name=\"decision\""));
    // An administrator's reset takes effect at once: whoever is signed in is out.
    let store = &gateway.running.endpoints().store;
    assert!(
        store
            .set_password(&subject, &PASSWORD_HASH, Chosen::ForThem)
            .await
            .unwrap()
    );
    assert_eq!(browser.get(&gateway, "/account").await.status, 303);
}

#[tokio::test]
async fn a_person_changes_their_own_password_and_is_out_everywhere_else() {
    let gateway = Gateway::start().await;
    add(&gateway, "carol", false).await;
    let client = register(&gateway, json!({})).await;
    let (mut here, mut there) = (Browser::default(), Browser::default());
    for browser in [&mut here, &mut there] {
        type_password(&gateway, browser, &client, "carol", PASSWORD).await;
    }
    let page = here.get(&gateway, "/account/password").await;
    let pairs = |now: &'static str| [("password", now), ("new_password", NEW), ("again", NEW)];
    let wrong = here.fill_in(&gateway, &page, &pairs("wrong")).await;
    assert_eq!(wrong.status, 400);
    assert!(there.get(&gateway, "/account").await.status == 200);
    let done = here.fill_in(&gateway, &page, &pairs(PASSWORD)).await;
    let done = here.follow(&gateway, done).await;
    assert!(done.text().contains("Your password is changed"), "{}", done.text());
    assert_eq!(there.get(&gateway, "/account").await.status, 303);
    // Guesses at the old one are counted, whoever is signed in.
    for _ in 0..5 {
        here.fill_in(&gateway, &page, &pairs("wrong")).await;
    }
    assert_eq!(here.fill_in(&gateway, &page, &pairs(NEW)).await.status, 429);
    // Somebody who is written down has none to change here.
    let mut ada = Browser::default();
    type_password(&gateway, &mut ada, &client, "ada", PASSWORD).await;
    let page = ada.get(&gateway, "/account/password").await;
    assert!(page.text().contains("not kept here") && !page.text().contains("new_password"));
}
