//! A sign-in page of the operator's own: what its server says counts once, in the browser that began, and nowhere else.

use mcpgate::domain::user::Subject;
use serde_json::{Value, json};

use crate::http1::Reply;
use crate::person::{Browser, Client, Tokens, authorize_target, redeem, register};
use crate::setup::Gateway;

const SECRET: &str = "a secret that the page's server has";

async fn gateway() -> Gateway {
    Gateway::start_with(|yaml| {
        let page = format!(
            "oauth:\n  login_page: {{ url: \"https://app.example.com/sign-in?from=mcp\", secret: \"{SECRET}\" }}\n"
        );
        yaml.replacen("oauth:\n", &page, 1)
    })
    .await
}

/// What the page was sent.
struct Sent {
    challenge: String,
    client_name: String,
    query: Vec<(String, String)>,
}

/// Begins an authorization, up to the page.
async fn begin(gateway: &Gateway, browser: &mut Browser, client: &Client, more: &[(&str, &str)]) -> Sent {
    let target = authorize_target(client, Some(&gateway.resource("one")), Some("one:use"), more);
    let reply = browser.get(gateway, &target).await;
    sent(&browser.follow(gateway, reply).await)
}

fn sent(reply: &Reply) -> Sent {
    let location = reply
        .header("location")
        .unwrap_or_else(|| panic!("{} {}", reply.status, reply.text()));
    let query = location
        .strip_prefix("https://app.example.com/sign-in?")
        .unwrap_or_else(|| panic!("{location}"));
    let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let value = |name: &str| {
        query
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.clone())
    };
    assert_eq!(value("from").as_deref(), Some("mcp"));
    Sent {
        challenge: value("login_challenge").unwrap(),
        client_name: value("client_name").unwrap(),
        query,
    }
}

async fn say(gateway: &Gateway, path: &str, secret: &str, body: &Value) -> Reply {
    let authorization = format!("Bearer {secret}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
    ];
    gateway.post(path, &headers, &body.to_string()).await
}

/// Says that somebody has signed in; where the browser goes with it.
async fn accept(gateway: &Gateway, challenge: &str, subject: &str) -> String {
    let body = json!({ "login_challenge": challenge, "subject": subject, "username": "Ada", "email": "ada@example.com",
        "name": "Ada Lovelace", "groups": ["engineering", "a,b"] });
    let reply = say(gateway, "/login/accept", SECRET, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let redirect_to = reply.json()["redirect_to"].as_str().unwrap().to_owned();
    redirect_to.strip_prefix(&gateway.origin()).unwrap().to_owned()
}

/// Spec: E1, E9
#[tokio::test]
async fn whoever_the_page_accepts_is_who_upstreams_hear_of() {
    let gateway = gateway().await;
    let client = register(&gateway, json!({ "client_name": "An app & more" })).await;
    let mut browser = Browser::default();
    let at_page = begin(&gateway, &mut browser, &client, &[("login_hint", "ada@example.com")]).await;
    assert_eq!(at_page.client_name, "An app & more");
    assert!(
        at_page
            .query
            .contains(&("login_hint".to_owned(), "ada@example.com".to_owned()))
    );
    let back = accept(&gateway, &at_page.challenge, "auth0|5f7c").await;
    let reply = browser.get(&gateway, &back).await;
    let consent = browser.follow(&gateway, reply).await;
    assert!(consent.text().contains("Ada Lovelace"), "{}", consent.text());
    let done = browser.fill_in(&gateway, &consent, &[("decision", "approve")]).await;
    let own = Tokens::of(&redeem(&gateway, &client, &done.redirected("code").unwrap(), &[]).await);
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let seen = gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("auth0|5f7c"));
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("Ada"));
    assert_eq!(seen.header("x-forwarded-email"), Some("ada@example.com"));
    assert_eq!(seen.header("x-forwarded-groups"), Some("engineering,a%2Cb"));
    // Signed in here now: the next client goes straight to consent, one that wants a sign-in back to the page.
    let again = browser
        .get(
            &gateway,
            &authorize_target(&client, Some(&gateway.resource("one")), None, &[]),
        )
        .await;
    assert!(
        browser
            .follow(&gateway, again)
            .await
            .text()
            .contains("name=\"decision\"")
    );
    let anew = begin(&gateway, &mut browser, &client, &[("prompt", "login")]).await;
    assert!(anew.query.contains(&("prompt".to_owned(), "login".to_owned())));
    // After a restart they are still known.
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
}

/// Spec: E9, E11
///
/// The attacks: the challenge in another browser, an answer for somebody else's challenge, a second use of everything.
#[tokio::test]
async fn an_answer_counts_once_and_only_where_it_belongs() {
    let gateway = gateway().await;
    let client = register(&gateway, json!({})).await;
    let (mut mallory, mut ada) = (Browser::default(), Browser::default());
    // Mallory has Ada sign in at Mallory's challenge. Ada's browser gets nowhere with it …
    let planted = begin(&gateway, &mut mallory, &client, &[]).await;
    let back = accept(&gateway, &planted.challenge, "ada").await;
    begin(&gateway, &mut ada, &client, &[]).await;
    let reply = ada.get(&gateway, &back).await;
    assert_eq!((reply.status, reply.header("location")), (403, None));
    // … and Mallory's does not know the verifier: it is asked to sign in, at a new challenge.
    let without = back.split("&login_verifier").next().unwrap().to_owned();
    let reply = mallory.get(&gateway, &without).await;
    let fresh = sent(&reply);
    assert_ne!(fresh.challenge, planted.challenge);
    for guess in [
        "",
        "&login_verifier=x",
        "&login_verifier=mglv_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        let reply = mallory.get(&gateway, &format!("{without}{guess}")).await;
        assert!(
            !reply.text().contains("name=\"decision\"") && !mallory.cookies.contains_key("mcpgate_session"),
            "{guess}"
        );
    }
    // The old answer went with the old challenge.
    assert_eq!(mallory.get(&gateway, &back).await.status, 400);

    // A challenge is answered once.
    let own = begin(&gateway, &mut ada, &client, &[]).await;
    let back = accept(&gateway, &own.challenge, "ada").await;
    let body = json!({ "login_challenge": own.challenge, "subject": "mallory" });
    let again = say(&gateway, "/login/accept", SECRET, &body).await;
    assert_eq!(
        (again.status, again.json()["error"].as_str()),
        (409, Some("challenge_used"))
    );
    let refused = say(&gateway, "/login/reject", SECRET, &body).await;
    assert_eq!(refused.status, 409);
    // And the verifier used once.
    assert_eq!(ada.get(&gateway, &back).await.status, 303);
    assert_eq!(ada.get(&gateway, &back).await.status, 400);
    // An old challenge does nothing.
    gateway.advance(601);
    let body = json!({ "login_challenge": fresh.challenge, "subject": "ada" });
    let late = say(&gateway, "/login/accept", SECRET, &body).await;
    assert_eq!(
        (late.status, late.json()["error"].as_str()),
        (404, Some("unknown_challenge"))
    );
}

#[tokio::test]
async fn only_the_page_s_server_is_heard_and_only_what_makes_sense() {
    let gateway = gateway().await;
    let client = register(&gateway, json!({})).await;
    let mut browser = Browser::default();
    let challenge = begin(&gateway, &mut browser, &client, &[]).await.challenge;
    let fine = json!({ "login_challenge": challenge, "subject": "ada" });
    for secret in ["", "x", "a secret that the page's server haz"] {
        let reply = say(&gateway, "/login/accept", secret, &fine).await;
        assert_eq!(reply.status, 401, "{secret}");
        assert_eq!(reply.json()["error"], "unauthorized");
    }
    let bare = gateway
        .post(
            "/login/accept",
            &[("Content-Type", "application/json")],
            &fine.to_string(),
        )
        .await;
    assert_eq!(bare.status, 401);
    for (status, wrong) in [
        (400, json!({ "login_challenge": challenge })),
        (400, json!({ "login_challenge": challenge, "subject": "" })),
        (400, json!({ "login_challenge": challenge, "subject": "client:ci" })),
        (400, json!({ "login_challenge": challenge, "subject": "a\u{0}b" })),
        (400, json!({ "login_challenge": challenge, "subject": "x".repeat(321) })),
        (400, json!({ "login_challenge": challenge, "subject": 7 })),
        (
            400,
            json!({ "login_challenge": challenge, "subject": "a", "username": "x".repeat(257) }),
        ),
        (
            400,
            json!({ "login_challenge": challenge, "subject": "a", "email": "a\r\nb" }),
        ),
        (
            400,
            json!({ "login_challenge": challenge, "subject": "a", "groups": vec!["g"; 201] }),
        ),
        (404, json!({ "login_challenge": "", "subject": "a" })),
        (404, json!({ "login_challenge": "mgar_x.y", "subject": "a" })),
        (
            404,
            json!({ "login_challenge": challenge.replace('.', ".x"), "subject": "a" }),
        ),
        (
            404,
            json!({ "login_challenge": challenge.split('.').next(), "subject": "a" }),
        ),
    ] {
        let reply = say(&gateway, "/login/accept", SECRET, &wrong).await;
        assert_eq!(reply.status, status, "{wrong} {}", reply.text());
        assert!(reply.json()["error_description"].is_string());
    }
    // None of that used the challenge up. The built-in form is not there, and its POST leads to the page.
    let request = challenge.split('.').next().unwrap().to_owned();
    let page = browser.get(&gateway, &format!("/login?request={request}")).await;
    let challenge = sent(&page).challenge;
    let pairs = [
        ("request", request.as_str()),
        ("username", "ada"),
        ("password", crate::setup::PASSWORD),
    ];
    let reply = browser.submit(&gateway, "/login", &pairs).await;
    assert_ne!(sent(&reply).challenge, challenge);
    assert!(!browser.cookies.contains_key("mcpgate_session"));
}

/// An account with a password here is not the page's to give away; and it is what it was, once there is no page any more.
#[tokio::test]
async fn the_page_takes_no_account_of_the_store() {
    let gateway = gateway().await;
    crate::passwords::add(&gateway, "carol", false).await;
    let carol = Subject::of_username("carol").unwrap();
    let store = &gateway.running.endpoints().store;
    let before = store.person(&carol).await.unwrap();
    let client = register(&gateway, json!({})).await;
    let mut browser = Browser::default();
    let at_page = begin(&gateway, &mut browser, &client, &[]).await;
    let back = accept(&gateway, &at_page.challenge, "carol").await;
    let reply = browser.get(&gateway, &back).await;
    assert_eq!(reply.redirected("error").as_deref(), Some("access_denied"));
    assert!(!browser.cookies.contains_key("mcpgate_session"));
    assert_eq!(store.person(&carol).await.unwrap(), before);
}

#[tokio::test]
async fn a_refusal_reaches_the_client() {
    let gateway = gateway().await;
    let client = register(&gateway, json!({})).await;
    for (body, error, description) in [
        (
            json!({ "error": "access_denied", "error_description": "no \"guests\"\r\nhere" }),
            "access_denied",
            "no guestshere",
        ),
        (json!({ "error": "login_required" }), "login_required", "login_required"),
        (json!({ "error": "account_locked" }), "access_denied", "account_locked"),
        (json!({}), "access_denied", "the sign-in was refused"),
    ] {
        let mut browser = Browser::default();
        let mut body = body;
        body["login_challenge"] = json!(begin(&gateway, &mut browser, &client, &[]).await.challenge);
        let reply = say(&gateway, "/login/reject", SECRET, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let back = reply.json()["redirect_to"].as_str().unwrap().to_owned();
        let reply = browser
            .get(&gateway, back.strip_prefix(&gateway.origin()).unwrap())
            .await;
        assert_eq!(reply.redirected("error").as_deref(), Some(error));
        assert_eq!(reply.redirected("error_description").as_deref(), Some(description));
        assert!(reply.redirected("state").is_some());
    }
}

#[tokio::test]
async fn without_a_page_of_one_s_own_nobody_is_listened_to() {
    let gateway = Gateway::start().await;
    for path in ["/login/accept", "/login/reject"] {
        let reply = say(
            &gateway,
            path,
            SECRET,
            &json!({ "login_challenge": "x", "subject": "ada" }),
        )
        .await;
        assert_eq!(reply.status, 404);
    }
}
