//! The second factor: whoever has the password alone gets nowhere, by any path, and each code is good once.

use mcpgate::domain::user::Subject;
use mcpgate::jose::otp;
use serde_json::json;

use crate::http1::Reply;
use crate::person::{Browser, Client, authorize_target, register};
use crate::setup::{Gateway, PASSWORD};

async fn type_password(gateway: &Gateway, browser: &mut Browser, client: &Client, more: &[(&str, &str)]) -> Reply {
    let target = authorize_target(client, Some(&gateway.resource("two")), None, more);
    let reply = browser.get(gateway, &target).await;
    let page = browser.follow(gateway, reply).await;
    let reply = browser
        .fill_in(gateway, &page, &[("username", "ada"), ("password", PASSWORD)])
        .await;
    browser.follow(gateway, reply).await
}

fn between(html: &str, start: &str) -> String {
    html.split(start).nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// The key of the page that sets an app up.
fn key_of(page: &Reply) -> Vec<u8> {
    let text = between(&page.text(), "?secret=");
    let text = text.split('&').next().unwrap();
    let (mut bits, mut held, mut key) = (0_u64, 0, Vec::new());
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            _ => letter - b'2' + 26,
        };
        bits = bits << 5 | u64::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            key.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    key
}

fn code(gateway: &Gateway, key: &[u8], ahead: u64) -> String {
    otp::password(key, gateway.running.endpoints().now().as_millis() / 30_000 + ahead)
}

fn recovery_codes(page: &Reply) -> Vec<String> {
    let text = page.text();
    text.split("<code>")
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}

/// Sets an app up for ada, as she does it.
pub async fn set_up(gateway: &Gateway, client: &Client) -> (Browser, Vec<u8>, Vec<String>) {
    let mut browser = Browser::default();
    type_password(gateway, &mut browser, client, &[]).await;
    let page = browser.get(gateway, "/account/security").await;
    let key = key_of(&page);
    let wrong = browser.fill_in(gateway, &page, &[("code", "000000x")]).await;
    assert_eq!(wrong.status, 401);
    let done = browser
        .fill_in(gateway, &page, &[("code", &code(gateway, &key, 0))])
        .await;
    let codes = recovery_codes(&done);
    assert_eq!(codes.len(), 10, "{}", done.text());
    (browser, key, codes)
}

/// Whoever has the password and an open browser of somebody cannot lock them out.
#[tokio::test]
async fn a_password_is_changed_with_the_second_factor_or_not_at_all() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    crate::passwords::add(&gateway, "carol", false).await;
    let mut browser = Browser::default();
    crate::passwords::type_password(&gateway, &mut browser, &client, "carol", PASSWORD).await;
    let page = browser.get(&gateway, "/account/security").await;
    let key = key_of(&page);
    browser
        .fill_in(&gateway, &page, &[("code", &code(&gateway, &key, 0))])
        .await;
    let page = browser.get(&gateway, "/account/password").await;
    let new = "a new one that is long";
    let pairs = |code: &'static str| {
        [
            ("password", PASSWORD),
            ("new_password", new),
            ("again", new),
            ("code", code),
        ]
    };
    for wrong in ["", "000000x"] {
        let reply = browser.fill_in(&gateway, &page, &pairs(wrong)).await;
        assert_eq!(reply.status, 400, "{wrong}");
        assert!(reply.text().contains("The code or the passkey is not right"));
    }
    gateway.advance(30);
    let right = code(&gateway, &key, 0);
    let pairs = [
        ("password", PASSWORD),
        ("new_password", new),
        ("again", new),
        ("code", &right),
    ];
    let done = browser.fill_in(&gateway, &page, &pairs).await;
    assert_eq!(done.header("location"), Some("/account?done=password_changed"));
}

#[tokio::test]
async fn a_password_alone_opens_nothing() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let (_, key, codes) = set_up(&gateway, &client).await;
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, &[]).await;
    assert!(page.text().contains("One more step"), "{}", page.text());
    assert!(!browser.cookies.contains_key("mcpgate_session"));
    let request = between(&page.text(), "name=\"request\" value=\"");
    for path in ["/consent", "/login"] {
        let reply = browser.get(&gateway, &format!("{path}?request={request}")).await;
        let reply = browser.follow(&gateway, reply).await;
        assert!(reply.text().contains("name=\"password\""), "{path}");
    }
    let around = browser
        .get(&gateway, &format!("/login/password?request={request}"))
        .await;
    assert_eq!(around.status, 400, "no other password is chosen either");
    let silent = authorize_target(&client, Some(&gateway.resource("two")), None, &[("prompt", "none")]);
    let silent = browser.get(&gateway, &silent).await;
    assert_eq!(silent.redirected("error").as_deref(), Some("login_required"));
    assert_eq!(silent.redirected("code"), None);
    assert_eq!(browser.get(&gateway, "/account/security").await.status, 303);
    let mut other = Browser::default();
    let elsewhere = other.get(&gateway, &format!("/login/second?request={request}")).await;
    assert_eq!(elsewhere.status, 403);

    // The code that set it up is used; the next one is good, once.
    let used = browser
        .fill_in(&gateway, &page, &[("code", &code(&gateway, &key, 0))])
        .await;
    assert_eq!(used.status, 401);
    let next = code(&gateway, &key, 1);
    let done = browser.fill_in(&gateway, &page, &[("code", &next)]).await;
    let done = browser.follow(&gateway, done).await;
    assert!(done.text().contains("name=\"decision\""), "{}", done.text());
    let again = browser.fill_in(&gateway, &page, &[("code", &codes[1])]).await;
    assert_eq!(again.status, 400, "the form is good once");
    let mut third = Browser::default();
    let page = type_password(&gateway, &mut third, &client, &[]).await;
    assert_eq!(third.fill_in(&gateway, &page, &[("code", &next)]).await.status, 401);
    // Signing in again asks for both.
    let page = type_password(&gateway, &mut browser, &client, &[("prompt", "login")]).await;
    assert!(page.text().contains("One more step"));
}

#[tokio::test]
async fn a_recovery_code_is_good_once_however_many_race() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let (_, _, codes) = set_up(&gateway, &client).await;
    let (mut one, mut two) = (Browser::default(), Browser::default());
    let first = type_password(&gateway, &mut one, &client, &[]).await;
    let second = type_password(&gateway, &mut two, &client, &[]).await;
    let pair = [("code", codes[0].as_str())];
    let (first, second) = tokio::join!(
        one.fill_in(&gateway, &first, &pair),
        two.fill_in(&gateway, &second, &pair)
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 401]);
    let ada = Subject::of_username("ada").unwrap();
    let store = &gateway.running.endpoints().store;
    assert_eq!(store.factors(&ada).await.unwrap().unwrap().recovery.len(), 9);
}

/// Spec: E8
#[tokio::test]
async fn guesses_at_a_second_factor_are_counted_and_the_right_one_waits_too() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let (_, _, codes) = set_up(&gateway, &client).await;
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, &[]).await;
    for _ in 0..5 {
        assert_eq!(browser.fill_in(&gateway, &page, &[("code", "12345")]).await.status, 401);
    }
    let right = browser.fill_in(&gateway, &page, &[("code", &codes[0])]).await;
    assert_eq!(right.status, 429);
    assert!(!browser.cookies.contains_key("mcpgate_session"));
}

#[tokio::test]
async fn where_one_is_required_it_is_set_up_before_anything_else() {
    let gateway = Gateway::start_with(|yaml| format!("{yaml}\naccounts: {{ second_factor: required }}\n")).await;
    let client = register(&gateway, json!({})).await;
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, &[]).await;
    assert!(page.text().contains("Set up a second factor"), "{}", page.text());
    assert!(!browser.cookies.contains_key("mcpgate_session"));
    let key = key_of(&page);
    let done = browser
        .fill_in(&gateway, &page, &[("code", &code(&gateway, &key, 0))])
        .await;
    assert_eq!(recovery_codes(&done).len(), 10);
    assert!(browser.cookies.contains_key("mcpgate_session"));
    let again = type_password(&gateway, &mut Browser::default(), &client, &[]).await;
    assert!(again.text().contains("One more step"));
}

#[tokio::test]
async fn it_is_removed_with_a_code_only() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let (mut browser, _, codes) = set_up(&gateway, &client).await;
    let page = browser.get(&gateway, "/account/security").await;
    assert!(page.text().contains("Recovery codes left: 10"));
    assert!(!page.text().contains("remove_app"), "not before a factor was shown");
    assert_eq!(
        browser.fill_in(&gateway, &page, &[("code", "123456x")]).await.status,
        401
    );
    // Saying that one was shown is not showing it.
    let token = between(&page.text(), "name=\"csrf\" value=\"");
    for shown in ["1", "1800000000000.", "1800000000000.AAAA", "x.y"] {
        let pairs = [("csrf", token.as_str()), ("shown", shown), ("deed", "remove_app")];
        let reply = browser.submit(&gateway, "/account/security", &pairs).await;
        assert_eq!(reply.status, 401, "{shown}");
        gateway.advance(100);
    }
    let mut browser = Browser::default();
    let page = type_password(&gateway, &mut browser, &client, &[]).await;
    browser.fill_in(&gateway, &page, &[("code", &codes[2])]).await;
    let page = browser.get(&gateway, "/account/security").await;
    let open = browser.fill_in(&gateway, &page, &[("code", &codes[3])]).await;
    assert_eq!(open.status, 200);
    assert!(open.text().contains("Recovery codes left: 8"), "{}", open.text());
    // Other codes, in place of all.
    let token = between(&open.text(), "name=\"csrf\" value=\"");
    let shown = between(&open.text(), "name=\"shown\" value=\"");
    let deed = |deed: &'static str| [("csrf", token.as_str()), ("shown", shown.as_str()), ("deed", deed)];
    let renewed = browser.submit(&gateway, "/account/security", &deed("renew")).await;
    assert_eq!(recovery_codes(&renewed).len(), 10);
    let page = browser.get(&gateway, "/account/security").await;
    assert_eq!(
        browser.fill_in(&gateway, &page, &[("code", &codes[4])]).await.status,
        401
    );
    let nonsense = browser
        .submit(&gateway, "/account/security", &deed("forget_everything"))
        .await;
    assert_eq!(nonsense.status, 400);
    // What was shown in one session opens nothing in another.
    let mut other = Browser::default();
    let page = type_password(&gateway, &mut other, &client, &[]).await;
    let reply = other.submit(&gateway, "/account/security", &deed("remove_app")).await;
    assert_eq!(reply.status, 303, "to sign in");
    let fresh = recovery_codes(&renewed);
    other.fill_in(&gateway, &page, &[("code", &fresh[0])]).await;
    let page = other.get(&gateway, "/account/security").await;
    let own = between(&page.text(), "name=\"csrf\" value=\"");
    let pairs = [("csrf", own.as_str()), ("shown", &shown), ("deed", "remove_app")];
    let reply = other.submit(&gateway, "/account/security", &pairs).await;
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert_eq!(
        browser
            .submit(&gateway, "/account/security", &deed("remove_app"))
            .await
            .status,
        303
    );
    let reply = type_password(&gateway, &mut Browser::default(), &client, &[]).await;
    assert!(reply.text().contains("name=\"decision\""));
}
