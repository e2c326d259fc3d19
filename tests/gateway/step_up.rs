//! More scope than before, scopes that come with others, and clients that change their registration, through the whole
//! gateway.

use serde_json::json;

use crate::http1::{Reply, request, send};
use crate::person::{Browser, Client, Tokens, authorize_target, redeem, register, tokens, walk};
use crate::setup::Gateway;

/// Signs in, allows whatever is asked, and redeems.
async fn allowed(gateway: &Gateway, client: &Client, username: &str, scope: &str) -> (Tokens, String) {
    let target = authorize_target(client, Some(&gateway.resource("one")), Some(scope), &[]);
    let answer = walk(gateway, &mut Browser::default(), &target, username).await;
    let reply = redeem(gateway, client, &answer.redirected("code").unwrap(), &[]).await;
    let granted = reply.json()["scope"].as_str().unwrap().to_owned();
    (Tokens::of(&reply), granted)
}

fn challenged_scope(reply: &Reply) -> String {
    let challenge = reply.header("www-authenticate").unwrap();
    let rest = challenge.split("scope=\"").nth(1).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// Spec: H5
///
/// Two kinds of client: one asks for what the challenge names, the other for what it lacks alone. Both get through, and
/// neither loses what it had.
#[tokio::test]
async fn a_step_up_ends_with_a_token_that_does_and_keeps_the_rest() {
    let gateway = Gateway::start().await;
    for whole in [true, false] {
        let client = register(&gateway, json!({})).await;
        let (first, _) = allowed(&gateway, &client, "ada", "profile").await;
        let refused = gateway.call("one", Some(&first.access)).await;
        assert_eq!(refused.status, 403);
        let asked = challenged_scope(&refused);
        assert_eq!(asked, "one:use profile", "all that is needed, and what it has");
        let scope = if whole { asked.as_str() } else { "one:use" };
        let (second, granted) = allowed(&gateway, &client, "ada", scope).await;
        assert_eq!(granted, "one:use profile");
        assert_eq!(gateway.call("one", Some(&second.access)).await.status, 200);
        let seen = gateway.upstream.last();
        assert_eq!(seen.headers["x-forwarded-scope"], "one:use profile");
    }
}

/// Spec: H6
#[tokio::test]
async fn a_scope_that_implies_what_the_upstream_needs_is_enough() {
    let gateway = Gateway::start_with(|yaml| {
        yaml.replace(
            "description: Administer server one,",
            "description: Administer server one, implies: [\"one:use\", profile],",
        )
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let (own, granted) = allowed(&gateway, &client, "bob", "one:admin").await;
    assert_eq!(granted, "one:admin");
    assert_eq!(gateway.call("one", Some(&own.access)).await.status, 200);
    let seen = gateway.upstream.last();
    assert_eq!(
        seen.headers["x-forwarded-scope"], "one:admin one:use profile",
        "the upstream need not know of the hierarchy"
    );
    // Ada is no admin, and nothing implies it.
    let (hers, granted) = allowed(&gateway, &client, "ada", "one:use one:admin").await;
    assert_eq!(granted, "one:use");
    assert_eq!(gateway.call("one", Some(&hers.access)).await.status, 200);
}

/// Spec: C12
///
/// A deletion counts at once, for tokens that were let through a moment ago too.
#[tokio::test]
async fn a_client_that_deletes_itself_is_out_at_once_and_stays_out() {
    let gateway = Gateway::start().await;
    let document = json!({ "redirect_uris": [crate::person::REDIRECT], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"] });
    let json_body = [("Content-Type", "application/json")];
    let answer = gateway
        .post("/register", &json_body, &document.to_string())
        .await
        .json();
    let text = |member: &str| answer[member].as_str().unwrap().to_owned();
    let client = Client {
        id: text("client_id"),
        secret: None,
        redirect: crate::person::REDIRECT.to_owned(),
    };
    let tokens = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&tokens.access)).await.status, 200);
    let uri = text("registration_client_uri");
    let path = uri.strip_prefix(&gateway.origin()).unwrap();
    let authorization = format!("Bearer {}", text("registration_access_token"));
    let headers = [("Authorization", authorization.as_str())];
    assert_eq!(gateway.get(path, &headers).await.json()["client_id"], client.id);
    assert_eq!(gateway.get(path, &[]).await.status, 401);
    let delete = request("DELETE", path, &gateway.host, &headers, b"");
    assert_eq!(send(gateway.address, &delete).await.status, 204);
    assert_eq!(gateway.call("one", Some(&tokens.access)).await.status, 401);
    let gateway = gateway.restart().await;
    assert_eq!(gateway.call("one", Some(&tokens.access)).await.status, 401);
    assert_eq!(gateway.get(path, &headers).await.status, 401);
}

/// Spec: L13
#[tokio::test]
async fn an_address_that_asks_too_often_hears_when_to_come_back_and_cannot_borrow_another() {
    let gateway =
        Gateway::start_with(|yaml| yaml.replace("oauth:\n", "oauth:\n  limits: { register: 2, token: none }\n")).await;
    for _ in 0..2 {
        register(&gateway, json!({})).await;
    }
    let document = json!({ "redirect_uris": [crate::person::REDIRECT] }).to_string();
    for forwarded in ["203.0.113.9", "203.0.113.10, 127.0.0.1"] {
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Forwarded-For", forwarded),
            ("Forwarded", "for=203.0.113.9"),
            ("X-Real-IP", "203.0.113.9"),
        ];
        let reply = gateway.post("/register", &headers, &document).await;
        assert_eq!(reply.status, 429);
        assert_eq!(reply.json()["error"], "temporarily_unavailable");
        assert_eq!(reply.header("retry-after"), Some("30"));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    }
    gateway.advance(30);
    register(&gateway, json!({})).await;
}
