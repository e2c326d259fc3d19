//! The account page: what somebody allowed is shown and taken back at once, and nobody else can do it for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::http1::Reply;
use crate::person::{Browser, Tokens, authorize_target, redeem, register, tokens, walk};
use crate::setup::{Gateway, PASSWORD};

/// Signs in for the page.
pub async fn open(gateway: &Gateway, browser: &mut Browser, username: &str) -> Reply {
    let reply = browser.get(gateway, "/account").await;
    let mut reply = browser.follow(gateway, reply).await;
    if reply.text().contains("name=\"password\"") {
        reply = browser
            .fill_in(gateway, &reply, &[("username", username), ("password", PASSWORD)])
            .await;
        reply = browser.follow(gateway, reply).await;
    }
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("Your account"), "{}", reply.text());
    reply
}

/// Sends the form of the page that has this hidden value in it.
pub async fn press(gateway: &Gateway, browser: &mut Browser, page: &Reply, mark: &str) -> Reply {
    let html = page.text();
    let form = html
        .split("<form")
        .find(|form| form.split("</form>").next().unwrap_or_default().contains(mark))
        .unwrap_or_else(|| panic!("no form with {mark} in {html}"));
    let only = format!("<form{}</form>", form.split("</form>").next().unwrap());
    let alone = Reply {
        body: only.into_bytes(),
        ..page.clone()
    };
    let reply = browser.fill_in(gateway, &alone, &[]).await;
    browser.follow(gateway, reply).await
}

fn value_of(page: &Reply, name: &str) -> String {
    let html = page.text();
    let after = html
        .split(&format!("name=\"{name}\" value=\""))
        .nth(1)
        .unwrap_or_else(|| panic!("{html}"));
    after.split('"').next().unwrap().to_owned()
}

/// Spec: E10
#[tokio::test]
async fn what_was_allowed_is_shown_and_taken_back_at_once() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({ "client_name": "<b>Editor</b>" })).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let mut browser = Browser::default();
    let page = open(&gateway, &mut browser, "ada").await;
    let text = page.text();
    assert!(
        text.contains("&lt;b&gt;Editor&lt;/b&gt;") && text.contains("Uses one: Use server one"),
        "{text}"
    );
    assert!(text.contains("ada@example.com") && text.contains("(this browser)"));
    let session = browser.cookies["mcpgate_session"].clone();
    assert!(!text.contains(&session), "no session's secret is on the page");
    let page = press(&gateway, &mut browser, &page, "value=\"revoke\"").await;
    assert!(page.text().contains("has no access any more"));
    assert!(!page.text().contains("Editor"));
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 401);
    let refreshed = crate::person::refresh(&gateway, &client, &own.refresh).await;
    assert_eq!(refreshed.json()["error"], "invalid_grant");
    // The page can be seen after it, and its address says nothing that it would not say itself.
    let odd = browser.get(&gateway, "/account?done=%3Cscript%3E").await;
    assert!(odd.status == 200 && !odd.text().contains("script"));
}

/// Spec: E3, E10
///
/// The attacks: another person's form, a form without a token, one of another site, a session that ended.
#[tokio::test]
async fn only_their_own_form_in_their_own_session_changes_anything() {
    let gateway = with_tokens().await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "one").await;
    let (mut ada, mut bob) = (Browser::default(), Browser::default());
    let hers = open(&gateway, &mut ada, "ada").await;
    let his = open(&gateway, &mut bob, "bob").await;
    assert!(!his.text().contains("value=\"revoke\""), "bob allowed nothing");
    let revoke = |token: String| {
        [
            ("csrf", token),
            ("action", "revoke".to_owned()),
            ("client", client.id.clone()),
        ]
    };
    for token in ["", "x", &value_of(&hers, "csrf")] {
        let pairs = revoke(token.to_owned());
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = bob.submit(&gateway, "/account", &pairs).await;
        assert_eq!(reply.status, 403, "{}", reply.text());
    }
    // With his own token he takes back what he allowed, which is nothing.
    let pairs = revoke(value_of(&his, "csrf"));
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(bob.submit(&gateway, "/account", &pairs).await.status, 303);
    let cookies = format!("mcpgate_session={}", ada.cookies["mcpgate_session"]);
    let pairs = revoke(value_of(&hers, "csrf"));
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let foreign = [("Cookie", cookies.as_str()), ("Origin", "https://evil.example")];
    assert_eq!(gateway.post_form("/account", &foreign, &pairs).await.status, 403);
    assert_eq!(
        gateway.call("one", Some(&own.access)).await.status,
        200,
        "nothing of that took anything away"
    );
    // Nobody signed in: the form leads to the sign-in page.
    let reply = gateway.post_form("/account", &[("Origin", "null")], &pairs).await;
    assert_eq!(reply.status, 303);
    assert!(reply.header("location").unwrap().starts_with("/login?request="));
}

/// Spec: E10
#[tokio::test]
async fn other_browsers_are_signed_out_from_here() {
    let gateway = Gateway::start().await;
    let (mut here, mut there, mut third) = (Browser::default(), Browser::default(), Browser::default());
    for browser in [&mut third, &mut there] {
        open(&gateway, browser, "ada").await;
        gateway.advance(60);
    }
    let page = open(&gateway, &mut here, "ada").await;
    let page = press(&gateway, &mut here, &page, "value=\"end_session\"").await;
    assert!(page.text().contains("That browser is signed out"));
    let asks = async |browser: &mut Browser| browser.get(&gateway, "/account").await.status == 303;
    assert!(
        asks(&mut there).await,
        "the one that signed in last is listed before the older one"
    );
    assert!(!asks(&mut third).await && !asks(&mut here).await);
    let page = open(&gateway, &mut here, "ada").await;
    press(&gateway, &mut here, &page, "value=\"end_others\"").await;
    assert!(asks(&mut third).await && !asks(&mut here).await);
}

async fn with_tokens() -> Gateway {
    Gateway::start_with(|yaml| yaml.replacen("oauth:\n", "oauth:\n  personal_access_tokens: true\n", 1)).await
}

/// Makes a token for one upstream or several; the page that shows it.
async fn make(gateway: &Gateway, browser: &mut Browser, page: &Reply, upstream: &str, more: &[(&str, &str)]) -> Reply {
    let token = value_of(page, "csrf");
    let mut pairs = vec![
        ("csrf", token.as_str()),
        ("action", "make_token"),
        ("name", "backup <script>"),
        ("days", "7"),
    ];
    let names: Vec<String> = upstream.split(' ').map(|name| format!("for.{name}")).collect();
    pairs.extend(names.iter().map(|name| (name.as_str(), "1")));
    pairs.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    pairs.extend(more);
    browser.submit(gateway, "/account", &pairs).await
}

fn made(page: &Reply) -> String {
    let html = page.text();
    let token = html.split("value=\"mgpt_").nth(1).unwrap_or_else(|| panic!("{html}"));
    format!("mgpt_{}", token.split('"').next().unwrap())
}

#[tokio::test]
async fn a_token_of_one_s_own_opens_what_it_was_made_for() {
    let gateway = with_tokens().await;
    let mut browser = Browser::default();
    let page = open(&gateway, &mut browser, "ada").await;
    let shown = make(
        &gateway,
        &mut browser,
        &page,
        "one",
        &[("scope.profile", "1"), ("scope.one:admin", "1")],
    )
    .await;
    let token = made(&shown);
    assert_eq!(gateway.call("one", Some(&token)).await.status, 200);
    let seen = gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("ada"));
    assert_eq!(seen.header("x-forwarded-client-id"), Some("personal-access-token"));
    assert_eq!(
        seen.header("x-forwarded-scope"),
        Some("one:use profile"),
        "ada is no admin"
    );
    assert_eq!(gateway.call("two", Some(&token)).await.status, 401);
    // It is shown once, and escaped where its name is.
    let page = browser.get(&gateway, "/account").await;
    assert!(page.text().contains("backup &lt;script&gt;") && !page.text().contains("mgpt_"));
    // It is no refresh token, and tells nobody who ada is.
    let client = register(&gateway, json!({})).await;
    assert_eq!(crate::person::refresh(&gateway, &client, &token).await.status, 400);
    let authorization = format!("Bearer {token}");
    let headers = [("Authorization", authorization.as_str())];
    assert_eq!(gateway.get("/userinfo", &headers).await.status, 401);
    // It lasts over a restart, ends by itself, and at once when it is revoked.
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("one", Some(&token)).await.status, 200);
    let page = open(&gateway, &mut browser, "ada").await;
    let page = press(&gateway, &mut browser, &page, "value=\"revoke_token\"").await;
    assert!(page.text().contains("worth nothing any more"));
    assert_eq!(gateway.call("one", Some(&token)).await.status, 401);
    let page = open(&gateway, &mut browser, "ada").await;
    let token = made(&make(&gateway, &mut browser, &page, "two", &[]).await);
    assert_eq!(gateway.call("two", Some(&token)).await.status, 200);
    gateway.advance(7 * 86_400 + 1);
    assert_eq!(gateway.call("two", Some(&token)).await.status, 401);
}

#[tokio::test]
async fn a_token_of_one_s_own_may_be_for_several_servers_and_no_others() {
    let gateway = Gateway::start_with(|yaml| {
        let yaml = yaml.replacen("oauth:\n", "oauth:\n  personal_access_tokens: true\n", 1);
        let runner = "      redirect_uris: [https://ci.example.com/callback]\n";
        let upstreams = yaml.split("\nupstreams:").nth(1).unwrap();
        let url = upstreams
            .split("url: ")
            .nth(1)
            .unwrap()
            .split([',', ' ', '\n'])
            .next()
            .unwrap()
            .to_owned();
        let third = format!("\nupstreams:\n  - {{ name: three, path: /three/mcp, url: {url} }}");
        yaml.replace(runner, &format!("{runner}      introspects: [one, two]\n"))
            .replacen("\nupstreams:", &third, 1)
    })
    .await;
    let mut browser = Browser::default();
    let page = open(&gateway, &mut browser, "bob").await;
    let page = make(&gateway, &mut browser, &page, "one two", &[("scope.one:admin", "1")]).await;
    let token = made(&page);
    assert!(
        page.text().contains("For one, two") || page.text().contains("For two, one"),
        "{}",
        page.text()
    );
    assert!(page.text().contains("not used yet"));
    // In turns: what is remembered of it at one server says nothing of the others.
    for _ in 0..2 {
        for (upstream, status) in [("one", 200), ("two", 200), ("three", 401)] {
            assert_eq!(gateway.call(upstream, Some(&token)).await.status, status, "{upstream}");
        }
    }
    // What was ticked counts where it is known; what one of them needs for any use is nothing at the other, which may take the
    // same word for another thing.
    let scope = |seen: &crate::setup::Seen| seen.header("x-forwarded-scope").unwrap_or_default().to_owned();
    assert_eq!(
        (gateway.upstream.last().path.as_str(), scope(&gateway.upstream.last())),
        ("/two", "one:admin".to_owned())
    );
    gateway.call("one", Some(&token)).await;
    assert_eq!(scope(&gateway.upstream.last()), "one:use one:admin");
    let page = open(&gateway, &mut browser, "bob").await;
    assert!(page.text().contains("last used just now"), "{}", page.text());
    gateway.advance(3 * 3600);
    assert_eq!(gateway.call("one", Some(&token)).await.status, 200);
    gateway.advance(2 * 3600 - 10);
    let page = open(&gateway, &mut browser, "bob").await;
    assert!(page.text().contains("last used 2 hours ago"), "{}", page.text());
    // Introspection names them all, and what its person may still do.
    let runner = format!("Basic {}", STANDARD.encode("ci-runner:a secret of the ci runner"));
    let inspect = async || {
        let headers = [("Authorization", runner.as_str())];
        let reply = gateway.post_form("/introspect", &headers, &[("token", &token)]).await;
        reply.json()
    };
    let seen = inspect().await;
    assert_eq!(seen["aud"].as_array().unwrap().len(), 2, "{seen}");
    assert_eq!(seen["scope"], "one:use one:admin", "{seen}");
    let file = gateway.directory.path().join("gateway.yaml");
    let fewer = gateway
        .yaml
        .replace("groups: [admins] }\nupstreams", "groups: [guests] }\nupstreams");
    std::fs::write(&file, fewer).unwrap();
    let config = mcpgate::config::load(&file).unwrap();
    gateway.running.put_in_force(config).unwrap();
    assert_eq!(inspect().await["scope"], "one:use");
    // Revoked, it is worth nothing anywhere.
    let page = open(&gateway, &mut browser, "bob").await;
    press(&gateway, &mut browser, &page, "value=\"revoke_token\"").await;
    for upstream in ["one", "two"] {
        assert_eq!(gateway.call(upstream, Some(&token)).await.status, 401);
    }
}

/// Who loses a group loses what the group may do, without waiting for the token to end.
#[tokio::test]
async fn a_token_of_one_s_own_follows_the_groups_of_its_person() {
    let gateway = with_tokens().await;
    let mut browser = Browser::default();
    let page = open(&gateway, &mut browser, "bob").await;
    let token = made(&make(&gateway, &mut browser, &page, "one", &[("scope.one:admin", "1")]).await);
    assert_eq!(gateway.call("one", Some(&token)).await.status, 200);
    assert_eq!(
        gateway.upstream.last().header("x-forwarded-scope"),
        Some("one:use one:admin")
    );
    let file = gateway.directory.path().join("gateway.yaml");
    std::fs::write(
        &file,
        gateway
            .yaml
            .replace("groups: [admins] }\nupstreams", "groups: [guests] }\nupstreams"),
    )
    .unwrap();
    let config = mcpgate::config::load(&file).unwrap();
    gateway.running.put_in_force(config).unwrap();
    assert_eq!(gateway.call("one", Some(&token)).await.status, 200);
    assert_eq!(gateway.upstream.last().header("x-forwarded-scope"), Some("one:use"));
}

/// The attacks: a browser left open, a server that the account may not use, another person's token, too many.
#[tokio::test]
async fn a_token_is_made_only_by_somebody_who_just_signed_in() {
    let gateway = with_tokens().await;
    let mut browser = Browser::default();
    let page = open(&gateway, &mut browser, "ada").await;
    for wrong in [("name", ""), ("name", "\u{7}"), ("days", "8"), ("days", "x")] {
        let reply = make(&gateway, &mut browser, &page, "one", &[wrong]).await;
        assert!(!reply.text().contains("mgpt_"), "{wrong:?}");
    }
    for wrong in ["", "three", "ONE"] {
        let reply = make(&gateway, &mut browser, &page, wrong, &[]).await;
        assert!(reply.text().contains("Choose what the token is for"), "{wrong}");
    }
    let mut mallory = Browser::default();
    let his = open(&gateway, &mut mallory, "bob").await;
    let token = made(&make(&gateway, &mut browser, &page, "two", &[]).await);
    let hers = open(&gateway, &mut browser, "ada").await;
    let id = value_of(&hers, "token");
    let csrf = value_of(&his, "csrf");
    let pairs = [
        ("csrf", csrf.as_str()),
        ("action", "revoke_token"),
        ("token", id.as_str()),
    ];
    assert_eq!(mallory.submit(&gateway, "/account", &pairs).await.status, 303);
    assert_eq!(gateway.call("two", Some(&token)).await.status, 200, "it is not bob's");
    gateway.advance(601);
    let reply = make(&gateway, &mut browser, &hers, "two", &[]).await;
    assert_eq!(reply.status, 303);
    let again = browser.follow(&gateway, reply).await;
    assert!(again.text().contains("name=\"password\""), "they sign in again");
    let page = browser
        .fill_in(&gateway, &again, &[("username", "ada"), ("password", PASSWORD)])
        .await;
    let page = browser.follow(&gateway, page).await;
    for _ in 1..50 {
        made(&make(&gateway, &mut browser, &page, "two", &[]).await);
    }
    let reply = make(&gateway, &mut browser, &page, "two", &[]).await;
    assert!(reply.text().contains("You have 50 tokens"));
}

#[tokio::test]
async fn where_tokens_are_not_wanted_none_is_made() {
    let gateway = Gateway::start().await;
    let mut browser = Browser::default();
    open(&gateway, &mut Browser::default(), "ada").await;
    let page = open(&gateway, &mut browser, "ada").await;
    assert!(!page.text().contains("make_token"));
    let reply = make(&gateway, &mut browser, &page, "two", &[]).await;
    assert_eq!(reply.status, 400);
    // The page is the same for somebody who came through an app.
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("two")), None, &[]);
    let mut other = Browser::default();
    let done = walk(&gateway, &mut other, &target, "bob").await;
    Tokens::of(&redeem(&gateway, &client, &done.redirected("code").unwrap(), &[]).await);
    let page = other.get(&gateway, "/account").await;
    assert!(page.status == 200 && page.text().contains("A test"), "{}", page.text());
}
