//! Sign-in at an identity provider: the good way, every lie that it could tell, and whether people are still who they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mcpgate::store::Store;
use serde_json::{Value, json};

use crate::http1::{Reply, form, request};
use crate::memory::Memory;
use crate::person::{Browser, Client, Tokens, authorize_target, redeem, refresh, register, walk};
use crate::provider::{Idp, Lie, MARK, SECRET, Signature, arrive, trip, way};
use crate::setup::Gateway;

/// What is changed in a logout token.
type Spoil = fn(&mut Value);

struct At {
    idp: Idp,
    gateway: Gateway,
    client: Client,
}

impl At {
    /// On a store of the test's own.
    async fn on(store: Option<Arc<dyn Store>>) -> Self {
        let idp = Idp::start().await;
        let gateway = idp.gateway_on(store, "", |yaml| yaml).await;
        let client = register(&gateway, json!({})).await;
        Self { idp, gateway, client }
    }

    async fn start(more: &str) -> Self {
        let idp = Idp::start().await;
        let gateway = idp.gateway(more).await;
        let client = register(&gateway, json!({})).await;
        Self { idp, gateway, client }
    }

    fn target(&self, more: &[(&str, &str)]) -> String {
        let scope = "one:use one:admin";
        authorize_target(&self.client, Some(&self.gateway.resource("one")), Some(scope), more)
    }

    async fn tokens_in(&self, browser: &mut Browser) -> Tokens {
        let reply = arrive(&self.gateway, &self.idp, browser, &self.target(&[])).await;
        let code = reply.redirected("code").unwrap();
        Tokens::of(&redeem(&self.gateway, &self.client, &code, &[]).await)
    }

    async fn tokens(&self) -> Tokens {
        self.tokens_in(&mut Browser::default()).await
    }

    async fn refresh(&self, token: &str) -> Reply {
        refresh(&self.gateway, &self.client, token).await
    }

    async fn logins(&self, outcome: &str) -> u64 {
        let line = format!("mcpgate_logins_total{{outcome=\"{outcome}\",provider=\"idp\"}} ");
        let metrics = self.gateway.metrics().await;
        let found = metrics.lines().find_map(|own| own.strip_prefix(&line));
        found.map_or(0, |count| count.parse().unwrap())
    }

    /// Whether a browser is signed in: else every request leads to the sign-in page.
    async fn is_signed_in(&self, browser: &mut Browser) -> bool {
        let reply = browser.get(&self.gateway, &self.target(&[("prompt", "none")])).await;
        reply.redirected("error").as_deref() != Some("login_required")
    }

    async fn logout(&self, token: &str) -> Reply {
        self.gateway
            .post_form("/logout/backchannel/idp", &[], &[("logout_token", token)])
            .await
    }
}

/// Spec: E1, E9, I7
#[tokio::test]
async fn people_sign_in_at_their_provider_and_its_tokens_go_nowhere() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    let page = browser.get(&at.gateway, &at.target(&[("login_hint", "grace")])).await;
    let page = browser.follow(&at.gateway, page).await;
    // Before anybody is sent anywhere the page says who asks, for what, and where the answer goes.
    for part in [
        "A test",
        "one",
        "an app on this computer",
        "127.0.0.1:33418",
        "Continue with The Company",
    ] {
        assert!(page.text().contains(part), "{part}: {}", page.text());
    }
    let way = browser.fill_in(&at.gateway, &page, &[]).await;
    assert_eq!(way.status, 303);
    let way = way.location();
    let asked: std::collections::HashMap<String, String> = way.query_pairs().into_owned().collect();
    assert_eq!(asked["tenant"], "1");
    assert_eq!(asked["client_id"], "us");
    assert_eq!(asked["code_challenge_method"], "S256");
    assert_eq!(asked["login_hint"], "grace");
    assert_eq!(asked["scope"], "openid profile email offline_access");
    assert_eq!(
        asked["redirect_uri"],
        format!("{}/login/callback/idp", at.gateway.origin())
    );
    assert!(!asked.contains_key("prompt"));
    // The address of the sign-in page does not leave the gateway.
    let request_id = page.text().split("mgar_").nth(1).unwrap()[..43].to_owned();
    assert!(!way.as_str().contains(&request_id));

    let reply = browser.get(&at.gateway, &at.idp.come_back(&way)).await;
    let reply = browser.follow(&at.gateway, reply).await;
    assert!(reply.text().contains("Grace Hopper"), "{}", reply.text());
    let reply = browser.fill_in(&at.gateway, &reply, &[("decision", "approve")]).await;
    let code = reply.redirected("code").unwrap();
    let tokens = redeem(&at.gateway, &at.client, &code, &[]).await;
    assert!(!tokens.text().contains(MARK));
    let tokens = Tokens::of(&tokens);
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 200);
    let seen = at.gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("idp:248289761001"));
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("grace"));
    assert_eq!(seen.header("x-forwarded-email"), Some("grace@example.com"));
    assert_eq!(seen.header("x-forwarded-groups"), Some("admins,navy"));
    assert_eq!(seen.header("x-forwarded-scope"), Some("one:use one:admin"));
    assert!(
        seen.headers
            .iter()
            .all(|(_, value)| !value.to_str().unwrap().contains(MARK))
    );
    assert_eq!(at.logins("success").await, 1);

    // All of it outlives a restart; what is on disk has no token of the provider in it.
    let gateway = at.gateway.restart_after(|directory| {
        for file in walk_files(directory) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(
                crate::http1::find(&bytes, MARK.as_bytes()).is_none(),
                "{}",
                file.display()
            );
        }
    });
    let gateway = gateway.await;
    assert_eq!(gateway.call("one", Some(&tokens.access)).await.status, 200);
}

fn walk_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk_files(&path) } else { vec![path] })
        .collect()
}

/// Spec: E9
#[tokio::test]
async fn a_token_that_does_not_hold_signs_nobody_in() {
    let at = At::start("").await;
    let lies: Vec<(&str, Lie)> = vec![
        (
            "another issuer",
            Box::new(|claims| claims["iss"] = "https://evil.example".into()),
        ),
        ("for somebody else", Box::new(|claims| claims["aud"] = "them".into())),
        (
            "for many without azp",
            Box::new(|claims| claims["aud"] = json!(["us", "them"])),
        ),
        ("azp is another", Box::new(|claims| claims["azp"] = "them".into())),
        ("no audience", Box::new(|claims| claims["aud"] = Value::Null)),
        ("another nonce", Box::new(|claims| claims["nonce"] = "x".into())),
        ("no nonce", Box::new(|claims| claims["nonce"] = Value::Null)),
        (
            "expired",
            Box::new(|claims| claims["exp"] = (claims["iat"].as_u64().unwrap() - 61).into()),
        ),
        ("no end", Box::new(|claims| claims["exp"] = Value::Null)),
        (
            "of tomorrow",
            Box::new(|claims| claims["iat"] = (claims["iat"].as_u64().unwrap() + 3600).into()),
        ),
        ("without a date", Box::new(|claims| claims["iat"] = Value::Null)),
        ("about nobody", Box::new(|claims| claims["sub"] = "".into())),
        ("of nobody", Box::new(|claims| claims["sub"] = Value::Null)),
        ("a logout token", Box::new(|claims| claims["events"] = json!({}))),
        (
            "groups that are none",
            Box::new(|claims| claims["groups"] = json!([{"admin": true}])),
        ),
    ];
    let mut browser = Browser::default();
    for (what, lie) in lies {
        at.idp.inside().lie = lie;
        let reply = trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await;
        assert!(
            matches!(reply.status, 502 | 403),
            "{what}: {} {}",
            reply.status,
            reply.text()
        );
        assert!(reply.text().contains("role=\"alert\""), "{what}");
        assert!(!at.is_signed_in(&mut browser).await, "{what}");
    }
    at.idp.inside().lie = Box::new(|_| {});
    for signature in [
        Signature::OtherKey,
        Signature::None,
        Signature::PublicKeyAsSecret,
        Signature::ClientSecret,
        Signature::Typed("logout+jwt"),
        Signature::Typed("at+jwt"),
    ] {
        at.idp.inside().signature = signature;
        let reply = trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await;
        assert_eq!(reply.status, 502, "{signature:?}: {}", reply.text());
        assert!(!at.is_signed_in(&mut browser).await, "{signature:?}");
    }
    at.idp.inside().signature = Signature::Good;
    assert_eq!(at.logins("success").await, 0);
    // Userinfo about somebody else is no better.
    at.idp.inside().only_userinfo = vec!["email"];
    at.idp.inside().userinfo = json!({ "sub": "1", "email": "root@example.com" });
    assert_eq!(
        trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await.status,
        502
    );
    at.idp.inside().userinfo = json!({});
    let tokens = at.tokens_in(&mut browser).await;
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 200);
    assert_eq!(
        at.gateway.upstream.last().header("x-forwarded-email"),
        Some("grace@example.com")
    );
}

/// Spec: E9
#[tokio::test]
async fn a_way_back_is_good_once_in_one_browser_and_from_one_provider() {
    let at = At::start("").await;
    let (mut browser, mut other) = (Browser::default(), Browser::default());
    let target = at.target(&[]);
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &target).await);
    // In another browser, with an authorization of its own or none: nothing happens, and the code is not spent.
    assert_eq!(other.get(&at.gateway, &back).await.status, 403);
    way(&at.gateway, &mut other, &target).await;
    assert_eq!(other.get(&at.gateway, &back).await.status, 403);
    assert!(!at.is_signed_in(&mut other).await);
    // Changed, cut, empty, somebody's own.
    let (path, query) = back.split_once("state=").unwrap();
    let first = if query.starts_with('A') { "B" } else { "A" };
    let flipped = format!("{first}{}", &query[1..]);
    for state in ["", "x", &query[..40], &flipped, &"A".repeat(9000)] {
        let reply = browser.get(&at.gateway, &format!("{path}state={state}")).await;
        assert!(matches!(reply.status, 400 | 403 | 414 | 431), "{}", reply.status);
    }
    assert_eq!(browser.get(&at.gateway, path).await.status, 400);
    assert_eq!(
        browser.get(&at.gateway, &back.replace("/idp?", "/other?")).await.status,
        404
    );
    // An error from the provider: the sign-in page again, and nothing is lost.
    let denied = format!("/login/callback/idp?error=access_denied&state={query}");
    let reply = browser.get(&at.gateway, &denied).await;
    assert!(
        reply.status == 200 && reply.text().contains("You were not signed in there"),
        "{}",
        reply.text()
    );
    let odd = format!("/login/callback/idp?error=%3Cscript%3E&code=x&state={query}");
    let reply = browser.get(&at.gateway, &odd).await;
    assert!(
        reply.status == 502 && !reply.text().contains("<script"),
        "{}",
        reply.text()
    );
    assert_eq!(at.idp.count("/token"), 0);
    // RFC 9207: an answer that says that it is another provider's.
    let wrong = browser
        .get(&at.gateway, &format!("{back}&iss=https%3A%2F%2Fevil.example"))
        .await;
    assert_eq!(wrong.status, 502);
    assert_eq!(at.idp.count("/token"), 0, "the code went to nobody");
    // That was its one use.
    assert_eq!(browser.get(&at.gateway, &back).await.status, 400);
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &target).await);
    let (first, second) = {
        let (mut one, mut two) = (Browser::default(), Browser::default());
        (one.cookies, two.cookies) = (browser.cookies.clone(), browser.cookies.clone());
        tokio::join!(one.get(&at.gateway, &back), two.get(&at.gateway, &back))
    };
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 400]);
    // Ten minutes, and no longer.
    let back = at
        .idp
        .come_back(&way(&at.gateway, &mut Browser::default(), &target).await);
    at.gateway.advance(601);
    assert!(matches!(browser.get(&at.gateway, &back).await.status, 400 | 403));
}

/// Spec: E9
#[tokio::test]
async fn a_provider_that_names_itself_has_to() {
    let idp = Idp::start().await;
    idp.inside().metadata = json!({ "authorization_response_iss_parameter_supported": true });
    let gateway = idp.gateway("").await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let mut browser = Browser::default();
    assert_eq!(trip(&gateway, &idp, &mut browser, &target).await.status, 502);
    let back = idp.come_back(&way(&gateway, &mut browser, &target).await);
    let issuer: String = form_urlencoded::byte_serialize(idp.inside().issuer.as_bytes()).collect();
    assert_eq!(browser.get(&gateway, &format!("{back}&iss={issuer}")).await.status, 303);
}

/// Spec: E9
#[tokio::test]
async fn a_form_of_another_page_or_site_sends_nobody_away() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    let page = browser.get(&at.gateway, &at.target(&[])).await;
    let page = browser.follow(&at.gateway, page).await;
    let text = page.text();
    let id = format!("mgar_{}", &text.split("mgar_").nth(1).unwrap()[..43]);
    let tokens: Vec<&str> = text
        .split("name=\"csrf\" value=\"")
        .skip(1)
        .map(|rest| &rest[..43])
        .collect();
    assert_eq!(tokens.len(), 2, "one for the provider, one for the password");
    for (token, status) in [(tokens[1], 403), ("", 403), (tokens[0], 303)] {
        let pairs = [("request", id.as_str()), ("csrf", token)];
        let reply = browser.submit(&at.gateway, "/login/provider/idp", &pairs).await;
        assert_eq!(reply.status, status, "{token}");
    }
    let pairs = [("request", id.as_str()), ("csrf", tokens[0])];
    let cookies: Vec<String> = browser
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let foreign = [("Cookie", cookies[0].as_str()), ("Origin", "https://evil.example")];
    assert_eq!(
        at.gateway
            .post_form("/login/provider/idp", &foreign, &pairs)
            .await
            .status,
        403
    );
    assert_eq!(
        browser.submit(&at.gateway, "/login/provider/none", &pairs).await.status,
        404
    );
    assert_eq!(browser.get(&at.gateway, "/login/provider/idp").await.status, 400);
    // Nobody is sent anywhere without a word.
    let silent = browser.get(&at.gateway, &at.target(&[("prompt", "none")])).await;
    assert_eq!(silent.redirected("error").as_deref(), Some("login_required"));
}

/// Spec: E9
#[tokio::test]
async fn only_those_may_sign_in_who_are_allowed() {
    let rules = ", allowed_domains: [example.com], allowed_groups: [navy], groups_map: { navy: sailors }";
    let at = At::start(rules).await;
    let mut browser = Browser::default();
    for (change, said) in [
        (json!({ "email_verified": false }), "has to be verified"),
        (json!({ "email_verified": null }), "has to be verified"),
        (json!({ "email": null }), "has to be verified"),
        (json!({ "email": "grace@example.com.evil.example" }), "not one of those"),
        (json!({ "email": "grace@evil-example.com" }), "not one of those"),
        (json!({ "groups": ["army"] }), "none of the groups"),
        (json!({ "groups": null }), "none of the groups"),
    ] {
        let before = at.idp.inside().person.clone();
        for (name, value) in change.as_object().unwrap() {
            at.idp.inside().person[name] = value.clone();
        }
        let reply = trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await;
        assert_eq!(reply.status, 403, "{change}");
        assert!(reply.text().contains(said), "{change}: {}", reply.text());
        // Another account there may do: the next trip lets them choose.
        let again = browser.fill_in(&at.gateway, &reply, &[]).await.location();
        assert!(again.as_str().contains("prompt=select_account"), "{again}");
        at.idp.inside().person = before;
    }
    assert_eq!((at.logins("denied").await, at.logins("success").await), (7, 0));
    let tokens = at.tokens_in(&mut browser).await;
    at.gateway.call("one", Some(&tokens.access)).await;
    assert_eq!(at.gateway.upstream.last().header("x-forwarded-groups"), Some("sailors"));
    // one:admin is for admins, who are not on the map.
    assert_eq!(at.gateway.upstream.last().header("x-forwarded-scope"), Some("one:use"));
}

/// Spec: E9, I7
#[tokio::test]
async fn nobody_elsewhere_passes_for_an_account_of_ours() {
    let at = At::start("").await;
    at.idp.inside().person = json!({ "sub": "ada", "preferred_username": "ada", "email": "ada@example.com" });
    let tokens = at.tokens().await;
    at.gateway.call("one", Some(&tokens.access)).await;
    let seen = at.gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("idp:ada"));
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("idp:ada"));
    assert_eq!(seen.header("x-forwarded-email"), None, "it was not verified");
    assert_eq!(seen.header("x-forwarded-groups"), None);
    // The account of that name has its password still.
    let reply = walk(&at.gateway, &mut Browser::default(), &at.target(&[]), "bob").await;
    assert!(reply.redirected("code").is_some());
}

/// Spec: E9
#[tokio::test]
async fn who_has_to_sign_in_again_does_so_there() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    at.tokens_in(&mut browser).await;
    let target = at.target(&[("prompt", "login")]);
    let now = at.gateway.clock_now() / 1000;
    for (auth_time, status) in [(None, 502), (Some(now - 120), 502), (Some(now), 303)] {
        at.idp.inside().auth_time = auth_time;
        let way = way(&at.gateway, &mut browser, &target).await;
        assert!(way.as_str().contains("prompt=login&max_age=0"), "{way}");
        let reply = browser.get(&at.gateway, &at.idp.come_back(&way)).await;
        assert_eq!(reply.status, status, "{auth_time:?}");
    }
    let target = at.target(&[("max_age", "60")]);
    let mut fresh = Browser::default();
    for (auth_time, status) in [(None, 502), (Some(now - 121), 502), (Some(now - 50), 303)] {
        at.idp.inside().auth_time = auth_time;
        let way = way(&at.gateway, &mut fresh, &target).await;
        assert!(way.as_str().contains("max_age=60"), "{way}");
        let reply = fresh.get(&at.gateway, &at.idp.come_back(&way)).await;
        assert_eq!(reply.status, status, "{auth_time:?}");
    }
}

/// Spec: E10
#[tokio::test]
async fn another_account_can_be_chosen_there() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    let reply = trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await;
    let page = browser.follow(&at.gateway, reply).await;
    assert!(page.text().contains("Use another account"));
    let token = page.text().split("name=\"sign_out\" value=\"").nth(1).unwrap()[..43].to_owned();
    let id = format!("mgar_{}", &page.text().split("mgar_").nth(1).unwrap()[..43]);
    let pairs = [("request", id.as_str()), ("sign_out", token.as_str())];
    let reply = browser.submit(&at.gateway, "/logout", &pairs).await;
    let page = browser.follow(&at.gateway, reply).await;
    assert!(
        page.status == 200 && !page.text().contains("role=\"alert\""),
        "{}",
        page.text()
    );
    let way = browser.fill_in(&at.gateway, &page, &[]).await.location();
    assert!(way.as_str().contains("prompt=select_account"), "{way}");
    at.idp.inside().person["sub"] = "2".into();
    let reply = browser.get(&at.gateway, &at.idp.come_back(&way)).await;
    assert_eq!(reply.status, 303);
    let people = at.gateway.running.endpoints().store.people(None, 10).await.unwrap();
    assert_eq!(people.len(), 2);
}

/// Spec: E9
#[tokio::test]
async fn keys_change_and_a_trip_survives_a_restart() {
    let mut at = At::start("").await;
    let tokens = at.tokens().await;
    at.gateway.advance(61);
    at.idp.inside().rotate_keys();
    let mut browser = Browser::default();
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &at.target(&[])).await);
    at.gateway = at.gateway.restart().await;
    assert_eq!(browser.get(&at.gateway, &back).await.status, 303);
    at.gateway.advance(61);
    at.idp.inside().rotate_keys();
    let fetched = at.idp.count("/jwks");
    assert_eq!(
        trip(&at.gateway, &at.idp, &mut Browser::default(), &at.target(&[]))
            .await
            .status,
        303
    );
    assert_eq!(at.idp.count("/jwks"), fetched + 1);
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 200);
}

/// Spec: E9
#[tokio::test]
async fn a_provider_that_is_down_is_a_page_and_not_a_door() {
    let at = At::start("").await;
    at.idp.inside().status = 500;
    let mut browser = Browser::default();
    let page = browser.get(&at.gateway, &at.target(&[])).await;
    let page = browser.follow(&at.gateway, page).await;
    let reply = browser.fill_in(&at.gateway, &page, &[]).await;
    assert!(
        reply.status == 503 && reply.text().contains("does not answer"),
        "{}",
        reply.text()
    );
    // Other ways to sign in are open all the while.
    let reply = walk(&at.gateway, &mut Browser::default(), &at.target(&[]), "bob").await;
    assert!(reply.redirected("code").is_some());
    at.gateway.advance(11);
    at.idp.inside().status = 200;
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &at.target(&[])).await);
    at.idp.inside().status = 503;
    assert_eq!(browser.get(&at.gateway, &back).await.status, 503);
    assert!(!at.is_signed_in(&mut browser).await);
    at.idp.inside().status = 200;
    at.gateway.advance(11);
    // A document about another issuer is that of somebody else.
    let liar = Idp::start().await;
    liar.inside().metadata = json!({ "issuer": "https://accounts.google.com" });
    let gateway = liar.gateway("").await;
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let page = browser.get(&gateway, &target).await;
    let page = browser.follow(&gateway, page).await;
    assert_eq!(browser.fill_in(&gateway, &page, &[]).await.status, 502);
}

/// Spec: E9
#[tokio::test]
async fn a_provider_that_stalls_holds_up_nobody_else() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &at.target(&[])).await);
    at.idp.inside().stall = Duration::from_secs(60);
    let cookies: Vec<String> = browser
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let bytes = request("GET", &back, &at.gateway.host, &[("Cookie", &cookies.join("; "))], b"");
    let address = at.gateway.address;
    let stalled = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        crate::http1::read_reply(&mut stream, false).await
    });
    let reply = walk(&at.gateway, &mut Browser::default(), &at.target(&[]), "bob").await;
    assert!(reply.redirected("code").is_some());
    assert!(!stalled.is_finished());
    let reply = tokio::time::timeout(Duration::from_secs(30), stalled)
        .await
        .unwrap()
        .unwrap();
    assert!(
        reply.status == 503 && reply.text().contains("does not answer"),
        "{}",
        reply.text()
    );
}

/// Spec: F20
#[tokio::test]
async fn groups_that_somebody_left_give_no_scope_with_the_next_token() {
    let at = At::start("").await;
    let tokens = at.tokens().await;
    let asked = at.idp.count("/token");
    let next = Tokens::of(&at.refresh(&tokens.refresh).await);
    assert_eq!(at.idp.count("/token"), asked, "what is known is fresh");
    at.gateway.advance(901);
    at.idp.inside().person["groups"] = json!(["navy"]);
    at.idp.inside().person["email"] = "hopper@example.com".into();
    at.idp.inside().person["preferred_username"] = "ada".into();
    let reply = at.refresh(&next.refresh).await;
    assert_eq!(at.idp.count("/token"), asked + 1);
    assert_eq!(reply.json()["scope"], "one:use");
    let next = Tokens::of(&reply);
    at.gateway.call("one", Some(&next.access)).await;
    let seen = at.gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-groups"), Some("navy"));
    assert_eq!(seen.header("x-forwarded-email"), Some("hopper@example.com"));
    // Whoever renames themselves there does not become one of ours.
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("grace"));
    // The provider replaces its refresh token each time, and may tell who it is at userinfo alone.
    at.idp.inside().id_token_at_refresh = false;
    at.gateway.advance(901);
    at.idp.inside().person["groups"] = json!(["navy", "admins"]);
    let reply = at.refresh(&next.refresh).await;
    assert_eq!(reply.json()["scope"], "one:use one:admin", "{}", reply.text());
}

/// Spec: F20
#[tokio::test]
async fn who_is_not_there_any_more_gets_no_token() {
    type Change = fn(&Idp);
    let changes: [(&str, &str, Change); 5] = [
        ("revoked", "", |idp| idp.inside().refresh_tokens.clear()),
        ("somebody else", "", |idp| idp.inside().person["sub"] = "1".into()),
        ("not in the group", ", allowed_groups: [navy]", |idp| {
            idp.inside().person["groups"] = json!(["army"]);
        }),
        ("another domain", ", allowed_domains: [example.com]", |idp| {
            idp.inside().person["email"] = "grace@left.example".into();
        }),
        ("no longer verified", ", allowed_emails: [grace@example.com]", |idp| {
            idp.inside().person["email_verified"] = false.into();
        }),
    ];
    for (what, more, change) in changes {
        let at = At::start(more).await;
        let mut browser = Browser::default();
        let tokens = at.tokens_in(&mut browser).await;
        at.gateway.advance(901);
        change(&at.idp);
        assert!(at.is_signed_in(&mut browser).await, "{what}");
        let reply = at.refresh(&tokens.refresh).await;
        assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_grant"), "{what}");
        // The grant is over, with every token of it, and so is the session.
        assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 401, "{what}");
        assert_eq!(at.refresh(&tokens.refresh).await.status, 400, "{what}");
        assert!(!at.is_signed_in(&mut browser).await, "{what}");
    }
}

/// Spec: F20
#[tokio::test]
async fn a_code_is_worth_nothing_either() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    at.tokens_in(&mut browser).await;
    at.gateway.advance(901);
    at.idp.inside().refresh_tokens.clear();
    // The session is there still, and nobody asks when a code is made.
    let reply = browser.get(&at.gateway, &at.target(&[])).await;
    let reply = browser.follow(&at.gateway, reply).await;
    let reply = browser.fill_in(&at.gateway, &reply, &[("decision", "approve")]).await;
    let reply = redeem(&at.gateway, &at.client, &reply.redirected("code").unwrap(), &[]).await;
    assert_eq!((reply.status, reply.error().as_str()), (400, "invalid_grant"));
    assert!(!at.is_signed_in(&mut browser).await);
}

/// Spec: F20
#[tokio::test]
async fn an_outage_is_bridged_for_an_hour_and_ends_nothing() {
    let at = At::start("").await;
    let tokens = at.tokens().await;
    at.idp.inside().status = 503;
    at.gateway.advance(1800);
    let next = Tokens::of(&at.refresh(&tokens.refresh).await);
    let asked = at.idp.count("/token");
    at.gateway.advance(5);
    let next = Tokens::of(&at.refresh(&next.refresh).await);
    assert_eq!(
        at.idp.count("/token"),
        asked,
        "who did not answer is left alone for a moment"
    );
    at.gateway.advance(1800);
    let reply = at.refresh(&next.refresh).await;
    assert_eq!((reply.status, reply.error().as_str()), (503, "temporarily_unavailable"));
    assert!(reply.header("retry-after").is_some());
    at.gateway.advance(11);
    at.idp.inside().status = 200;
    let next = Tokens::of(&at.refresh(&next.refresh).await);
    // Lies are no answers.
    at.gateway.advance(3601);
    at.idp.inside().signature = Signature::OtherKey;
    assert_eq!(at.refresh(&next.refresh).await.status, 503);
    at.idp.inside().signature = Signature::Good;
}

/// Spec: F20
#[tokio::test]
async fn of_many_refreshes_of_one_person_one_asks() {
    let at = At::start("").await;
    let mut all = Vec::new();
    let mut browser = Browser::default();
    for _ in 0..6 {
        let client = register(&at.gateway, json!({})).await;
        let target = authorize_target(&client, Some(&at.gateway.resource("one")), None, &[]);
        let reply = walk_on(&at, &mut browser, &target).await;
        let code = reply.redirected("code").unwrap();
        let tokens = Tokens::of(&redeem(&at.gateway, &client, &code, &[]).await);
        all.push((client, tokens.refresh));
    }
    at.gateway.advance(901);
    let asked = at.idp.count("/token");
    at.idp.inside().stall = Duration::from_millis(200);
    assert_eq!(all.len(), 6);
    let one = |(client, token): &(Client, String)| {
        let (gateway, client, token) = (&at.gateway, client.id.clone(), token.clone());
        async move {
            let pairs = [
                ("grant_type", "refresh_token"),
                ("client_id", &client),
                ("refresh_token", &token),
            ];
            gateway.post_form("/token", &[], &pairs).await.status
        }
    };
    let statuses = tokio::join!(
        one(&all[0]),
        one(&all[1]),
        one(&all[2]),
        one(&all[3]),
        one(&all[4]),
        one(&all[5])
    );
    assert_eq!(statuses, (200, 200, 200, 200, 200, 200));
    assert_eq!(at.idp.count("/token"), asked + 1);
}

async fn walk_on(at: &At, browser: &mut Browser, target: &str) -> Reply {
    let reply = browser.get(&at.gateway, target).await;
    let reply = browser.follow(&at.gateway, reply).await;
    if reply.text().contains("name=\"decision\"") {
        return browser.fill_in(&at.gateway, &reply, &[("decision", "approve")]).await;
    }
    arrive(&at.gateway, &at.idp, browser, target).await
}

/// A client that gives up does not leave us with a token of the provider's that is used up.
///
/// Spec: F20
#[tokio::test]
async fn asking_goes_on_when_nobody_waits() {
    let at = At::start("").await;
    let tokens = at.tokens().await;
    at.gateway.advance(901);
    at.idp.inside().stall = Duration::from_millis(500);
    let pairs = [
        ("grant_type", "refresh_token"),
        ("client_id", &at.client.id),
        ("refresh_token", &tokens.refresh),
    ];
    let kind = [("Content-Type", "application/x-www-form-urlencoded")];
    let bytes = request("POST", "/token", &at.gateway.host, &kind, form(&pairs).as_bytes());
    {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(at.gateway.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    at.idp.inside().stall = Duration::ZERO;
    assert_eq!(at.idp.inside().refresh_tokens.len(), 1);
    let next = Tokens::of(&at.refresh(&tokens.refresh).await);
    at.gateway.advance(901);
    assert_eq!(at.refresh(&next.refresh).await.status, 200);
}

/// Spec: F20
#[tokio::test]
async fn without_a_refresh_token_nobody_is_asked() {
    let idp = Idp::start().await;
    idp.inside().gives_refresh_token = false;
    let gateway = idp.gateway("").await;
    let client = register(&gateway, json!({})).await;
    let at = At { idp, gateway, client };
    let tokens = at.tokens().await;
    let asked = at.idp.count("/token");
    at.gateway.advance(7200);
    assert_eq!(at.refresh(&tokens.refresh).await.status, 200);
    assert_eq!(at.idp.count("/token"), asked);
}

/// Spec: E10
#[tokio::test]
async fn the_provider_signs_somebody_out() {
    let at = At::start("").await;
    let (mut one, mut two) = (Browser::default(), Browser::default());
    let tokens = at.tokens_in(&mut one).await;
    at.idp.inside().person["sid"] = "session-2".into();
    at.tokens_in(&mut two).await;
    let sub = "248289761001";
    let wrong: [(&str, Spoil); 11] = [
        ("another audience", |claims| claims["aud"] = "them".into()),
        ("another issuer", |claims| claims["iss"] = "https://evil.example".into()),
        ("no event", |claims| claims["events"] = json!({})),
        ("another event", |claims| claims["events"] = json!({ "x": {} })),
        ("a nonce", |claims| claims["nonce"] = "n".into()),
        ("no id", |claims| claims["jti"] = Value::Null),
        ("nobody", |claims| claims["sub"] = Value::Null),
        ("malformed", |claims| claims["sid"] = json!(["a"])),
        ("expired", |claims| {
            claims["exp"] = (claims["iat"].as_u64().unwrap() - 61).into();
        }),
        ("old", |claims| {
            claims["exp"] = Value::Null;
            claims["iat"] = (claims["iat"].as_u64().unwrap() - 3700).into();
        }),
        ("undated", |claims| claims["iat"] = Value::Null),
    ];
    for (what, change) in wrong {
        let token = at.idp.logout_token(|claims| {
            claims["sub"] = sub.into();
            change(claims);
        });
        assert_eq!(at.logout(&token).await.status, 400, "{what}");
    }
    let id_token = at.idp.inside().id_token(None);
    for token in ["", "x.y.z", id_token.as_str()] {
        assert_eq!(at.logout(token).await.status, 400);
    }
    assert!(at.is_signed_in(&mut one).await && at.is_signed_in(&mut two).await);

    // One session, named with its person or alone; apps keep their access.
    let by_session = at.idp.logout_token(|claims| {
        claims["sid"] = "session-1".into();
        claims["jti"] = "a".into();
    });
    let reply = at.logout(&by_session).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    assert!(!at.is_signed_in(&mut one).await && at.is_signed_in(&mut two).await);
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 200);
    at.tokens_in(&mut one).await;
    assert_eq!(at.logout(&by_session).await.status, 400, "each token is good once");
    let by_both = at.idp.logout_token(|claims| {
        claims["sub"] = sub.into();
        claims["sid"] = "session-2".into();
        claims["jti"] = "b".into();
    });
    assert_eq!(at.logout(&by_both).await.status, 200);
    assert!(!at.is_signed_in(&mut two).await);

    // The person: everything ends.
    at.tokens_in(&mut two).await;
    let by_person = at.idp.logout_token(|claims| claims["sub"] = sub.into());
    assert_eq!(at.logout(&by_person).await.status, 200);
    assert!(!at.is_signed_in(&mut two).await);
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 401);
    assert_eq!(
        at.gateway.post_form("/logout/backchannel/none", &[], &[]).await.status,
        404
    );
}

/// A logout that could not be carried out is not done with: the provider comes again.
#[tokio::test]
async fn a_store_that_fails_loses_no_logout() {
    let store = Arc::new(Memory::default());
    let at = At::on(Some(Arc::clone(&store) as Arc<dyn Store>)).await;
    let mut browser = Browser::default();
    let tokens = at.tokens_in(&mut browser).await;
    let token = at.idp.logout_token(|claims| claims["sub"] = "248289761001".into());
    store.keeps_sessions.store(true, Ordering::SeqCst);
    assert_eq!(at.logout(&token).await.status, 503);
    assert!(at.is_signed_in(&mut browser).await);
    store.keeps_sessions.store(false, Ordering::SeqCst);
    assert_eq!(at.logout(&token).await.status, 200);
    assert!(!at.is_signed_in(&mut browser).await);
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 401);
    assert_eq!(at.logout(&token).await.status, 400, "from then on it is used");
}

/// Spec: E9, F20
#[tokio::test]
async fn who_is_disabled_here_or_whose_provider_is_gone_is_nobody() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    let tokens = at.tokens_in(&mut browser).await;
    let endpoints = at.gateway.running.endpoints();
    let people = endpoints.store.people(None, 10).await.unwrap();
    endpoints.store.set_disabled(&people[0], true).await.unwrap();
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 401);
    let reply = trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await;
    assert!(
        reply.status == 403 && reply.text().contains("may not sign in"),
        "{}",
        reply.text()
    );
    endpoints.store.set_disabled(&people[0], false).await.unwrap();
    let tokens = at.tokens_in(&mut browser).await;
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 200);

    let without = at.gateway.yaml.replace("id: idp,", "id: other,");
    let config = mcpgate::config::parse(&without, std::path::Path::new("."), &|_| None).unwrap();
    at.gateway.running.put_in_force(config).unwrap();
    assert_eq!(at.gateway.call("one", Some(&tokens.access)).await.status, 401);
    assert_eq!(at.refresh(&tokens.refresh).await.status, 400);
    assert!(!at.is_signed_in(&mut browser).await);
}

/// Spec: E9
#[tokio::test]
async fn several_providers_stand_side_by_side_and_none_answers_for_another() {
    let idp = Idp::start().await;
    let issuer = idp.inside().issuer.clone();
    let gateway = Gateway::start_with(move |yaml| {
        // Nobody has a password here.
        let users = yaml.find("users:\n").unwrap()..yaml.find("upstreams:\n").unwrap();
        let entry = |id: &str| {
            format!("  - {{ id: {id}, issuer: \"{issuer}\", client_id: us, client_secret: \"{SECRET}\" }}\n")
        };
        let mut yaml = yaml.clone();
        yaml.replace_range(
            users,
            &format!("identity_providers:\n{}{}", entry("one-idp"), entry("two-idp")),
        );
        yaml
    })
    .await;
    idp.inside().clock = Some(std::sync::Arc::clone(&gateway.clock));
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let mut browser = Browser::default();
    let page = browser.get(&gateway, &target).await;
    let page = browser.follow(&gateway, page).await;
    let text = page.text();
    assert!(text.contains("Continue with one-idp") && text.contains("Continue with two-idp"));
    assert!(!text.contains("type=\"password\""), "{text}");
    let way = browser.fill_in(&gateway, &page, &[]).await.location();
    let back = idp.come_back(&way);
    assert!(back.starts_with("/login/callback/one-idp?"));
    let crossed = back.replace("/one-idp?", "/two-idp?");
    assert_eq!(browser.get(&gateway, &crossed).await.status, 403);
    assert_eq!(idp.count("/token"), 0);
    assert_eq!(browser.get(&gateway, &back).await.status, 303);
    // The same name at another provider is another person.
    let mut other = Browser::default();
    let page = other.get(&gateway, &target).await;
    let page = other.follow(&gateway, page).await;
    let second = page.text().split("<form").nth(2).unwrap().to_owned();
    let page = crate::http1::Reply {
        body: format!("<form{second}").into_bytes(),
        ..page
    };
    let way = other.fill_in(&gateway, &page, &[]).await.location();
    assert_eq!(other.get(&gateway, &idp.come_back(&way)).await.status, 303);
    let people = gateway.running.endpoints().store.people(None, 10).await.unwrap();
    let subjects: Vec<String> = people.iter().map(|person| person.user.subject.to_string()).collect();
    assert_eq!(subjects, ["one-idp:248289761001", "two-idp:248289761001"]);
}

/// Spec: E9, L16
#[tokio::test]
async fn an_answer_without_end_or_from_elsewhere_is_none() {
    let at = At::start("").await;
    let mut browser = Browser::default();
    at.idp.inside().person["padding"] = "x".repeat(70_000).into();
    assert_eq!(
        trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await.status,
        503
    );
    at.idp.inside().person["padding"] = "x".repeat(20_000).into();
    assert_eq!(
        trip(&at.gateway, &at.idp, &mut browser, &at.target(&[])).await.status,
        502
    );
    at.idp.inside().person["padding"] = Value::Null;
    // A redirect is no answer, wherever it leads.
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &at.target(&[])).await);
    at.idp.inside().status = 307;
    assert_eq!(browser.get(&at.gateway, &back).await.status, 503);
    at.idp.inside().status = 429;
    let back = at.idp.come_back(&way(&at.gateway, &mut browser, &at.target(&[])).await);
    assert_eq!(browser.get(&at.gateway, &back).await.status, 503);
    assert!(!at.is_signed_in(&mut browser).await);
}

/// A provider that replaces its token and then fails has told us half: the new token is kept all the same.
///
/// Spec: F20
#[tokio::test]
async fn half_an_answer_loses_no_token() {
    let at = At::start("").await;
    let tokens = at.tokens().await;
    at.gateway.advance(901);
    at.idp.inside().id_token_at_refresh = false;
    at.idp.inside().broken = "/userinfo";
    let next = Tokens::of(&at.refresh(&tokens.refresh).await);
    at.gateway.advance(11);
    at.idp.inside().broken = "";
    let next = Tokens::of(&at.refresh(&next.refresh).await);
    at.gateway.advance(901);
    assert_eq!(at.refresh(&next.refresh).await.status, 200);
}

/// Spec: F20
#[tokio::test]
async fn a_provider_that_says_nothing_more_than_that_the_token_is_good() {
    let idp = Idp::start().await;
    idp.inside().metadata = json!({ "userinfo_endpoint": null });
    idp.inside().id_token_at_refresh = false;
    let gateway = idp.gateway("").await;
    let client = register(&gateway, json!({})).await;
    let at = At { idp, gateway, client };
    let mut tokens = at.tokens().await;
    for _ in 0..2 {
        at.gateway.advance(901);
        tokens = Tokens::of(&at.refresh(&tokens.refresh).await);
    }
    at.gateway.advance(901);
    at.idp.inside().refresh_tokens.clear();
    assert_eq!(at.refresh(&tokens.refresh).await.error(), "invalid_grant");
}

/// Spec: F20, E10
#[tokio::test]
async fn a_token_that_nobody_refreshes_ends_with_its_person_too() {
    let at = At::start("").await;
    let yaml = at
        .gateway
        .yaml
        .replacen("oauth:\n", "oauth:\n  personal_access_tokens: true\n", 1);
    let config = mcpgate::config::parse(&yaml, std::path::Path::new("."), &|_| None).unwrap();
    at.gateway.running.put_in_force(config).unwrap();
    let mut browser = Browser::default();
    let page = browser.get(&at.gateway, "/account").await;
    let page = browser.follow(&at.gateway, page).await;
    let way = browser.fill_in(&at.gateway, &page, &[]).await.location();
    let reply = browser.get(&at.gateway, &at.idp.come_back(&way)).await;
    let page = browser.follow(&at.gateway, reply).await;
    assert!(page.text().contains("by The Company"), "{}", page.text());
    let text = page.text();
    let csrf = text
        .split("name=\"csrf\" value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let pairs = [
        ("csrf", csrf),
        ("action", "make_token"),
        ("name", "backup"),
        ("for.one", "1"),
        ("days", "90"),
    ];
    let shown = browser.submit(&at.gateway, "/account", &pairs).await.text();
    let token = format!(
        "mgpt_{}",
        shown.split("value=\"mgpt_").nth(1).unwrap().split('"').next().unwrap()
    );
    let asked = at.idp.count("/token");
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
    at.gateway.advance(901);
    at.idp.inside().person["groups"] = json!(["fleet"]);
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
    assert_eq!(at.gateway.upstream.last().header("x-forwarded-groups"), Some("fleet"));
    assert_eq!(at.idp.count("/token"), asked + 1);
    at.gateway.advance(901);
    at.idp.inside().status = 503;
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
    at.gateway.advance(3600);
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 503);
    at.gateway.advance(11);
    at.idp.inside().status = 200;
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
    at.gateway.advance(901);
    at.idp.inside().refresh_tokens.clear();
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 401);
    assert_eq!(at.gateway.call("one", Some(&token)).await.status, 401);
}
