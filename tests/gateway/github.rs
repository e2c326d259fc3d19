//! GitHub's shape of OAuth and API, by a stand-in: no ID token, errors with status 200, addresses and organisations as lists
//! of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::person::{Browser, Client, Tokens, authorize_target, redeem, refresh, register};
use crate::setup::Gateway;

const TOKEN: &str = "gho_16C7e42F292c6912E7710c838347Ae178B4a";

struct Inside {
    user: Value,
    emails: Option<Value>,
    organizations: Vec<String>,
    teams: Value,
    token_is_good: bool,
    api_status: u16,
    requests: Vec<String>,
    form: HashMap<String, String>,
}

struct GitHub {
    address: String,
    inside: Arc<Mutex<Inside>>,
}

impl GitHub {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let inside = Arc::new(Mutex::new(Inside {
            user: json!({ "login": "octocat", "id": 583_231, "name": "The Octocat", "email": null }),
            emails: Some(json!([
                { "email": "octocat@users.noreply.github.com", "primary": false, "verified": true },
                { "email": "octocat@github.com", "primary": true, "verified": true },
                { "email": "ceo@bank.example", "primary": false, "verified": false },
            ])),
            organizations: vec!["Acme".to_owned()],
            teams: json!([{ "slug": "ops", "organization": { "login": "Acme" } }]),
            token_is_good: true,
            api_status: 200,
            requests: Vec::new(),
            form: HashMap::new(),
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inside));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, inside }
    }

    async fn gateway(&self, more: &str) -> (Gateway, Client) {
        let (address, more) = (self.address.clone(), more.to_owned());
        let gateway = Gateway::start_with(move |yaml| {
            let entry = format!(
                "identity_providers:\n  - {{ id: gh, preset: github, client_id: us, client_secret: secret, \
                 github: {{ url: \"{address}\", api_url: \"{address}/api\" }}{more} }}\nupstreams:"
            );
            yaml.replace("upstreams:", &entry)
        })
        .await;
        let client = register(&gateway, json!({})).await;
        (gateway, client)
    }

    fn set(&self, change: impl FnOnce(&mut Inside)) {
        change(&mut self.inside.lock().unwrap());
    }
}

async fn answer(State(state): State<Arc<Mutex<Inside>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut inside = state.lock().unwrap();
    inside.requests.push(uri.to_string());
    let json = |status: u16, value: &Value| {
        let status = StatusCode::from_u16(status).unwrap();
        (
            status,
            [("content-type", "application/json; charset=utf-8")],
            value.to_string(),
        )
            .into_response()
    };
    if uri.path() == "/login/oauth/access_token" {
        inside.form = form_urlencoded::parse(&body).into_owned().collect();
        return if inside.form["code"] == "good" && inside.form["client_secret"] == "secret" {
            json(
                200,
                &json!({ "access_token": TOKEN, "scope": "read:user,user:email", "token_type": "bearer" }),
            )
        } else {
            json(
                200,
                &json!({ "error": "bad_verification_code", "error_description": "The code is incorrect" }),
            )
        };
    }
    let bearer = format!("Bearer {TOKEN}");
    let agent = headers.get("user-agent").is_some();
    if headers.get("authorization").map(|value| value.to_str().unwrap()) != Some(&bearer) || !inside.token_is_good {
        return json(401, &json!({ "message": "Bad credentials" }));
    }
    // GitHub wants to know who asks.
    if !agent || inside.api_status != 200 {
        return json(
            inside.api_status.max(403),
            &json!({ "message": "API rate limit exceeded" }),
        );
    }
    let second_page = uri.query().is_some_and(|query| query.contains("page=2"));
    match uri.path() {
        "/api/user" => json(200, &inside.user),
        "/api/user/emails" => match &inside.emails {
            Some(emails) => json(200, emails),
            None => json(404, &json!({ "message": "Not Found" })),
        },
        "/api/user/orgs" => {
            let page = inside
                .organizations
                .chunks(100)
                .nth(usize::from(second_page))
                .unwrap_or_default();
            let entries: Vec<Value> = page.iter().map(|name| json!({ "login": name })).collect();
            json(200, &entries.into())
        }
        "/api/user/teams" => json(200, &inside.teams),
        _ => json(404, &json!({ "message": "Not Found" })),
    }
}

/// From an authorization request to where the callback leads.
async fn trip(gateway: &Gateway, client: &Client, browser: &mut Browser, code: &str) -> crate::http1::Reply {
    let target = authorize_target(client, Some(&gateway.resource("one")), None, &[]);
    let page = browser.get(gateway, &target).await;
    let page = browser.follow(gateway, page).await;
    assert!(page.text().contains("Continue with GitHub"), "{}", page.text());
    let way = browser.fill_in(gateway, &page, &[]).await.location();
    assert_eq!(way.path(), "/login/oauth/authorize");
    let state = way
        .query_pairs()
        .find(|(name, _)| name == "state")
        .unwrap()
        .1
        .into_owned();
    let query = crate::http1::form(&[("code", code), ("state", &state)]);
    browser.get(gateway, &format!("/login/callback/gh?{query}")).await
}

async fn tokens(gateway: &Gateway, client: &Client) -> Tokens {
    let mut browser = Browser::default();
    let reply = trip(gateway, client, &mut browser, "good").await;
    let reply = browser.follow(gateway, reply).await;
    let reply = browser.fill_in(gateway, &reply, &[("decision", "approve")]).await;
    let code = reply.redirected("code").unwrap();
    Tokens::of(&redeem(gateway, client, &code, &[]).await)
}

/// Spec: E9
#[tokio::test]
async fn somebody_with_an_account_at_github_is_known_by_its_number() {
    let github = GitHub::start().await;
    let (gateway, client) = github
        .gateway(", allowed_organizations: [acme], groups_map: { Acme: staff, Acme/ops: operators }")
        .await;
    let issued = tokens(&gateway, &client).await;
    gateway.call("one", Some(&issued.access)).await;
    let seen = gateway.upstream.last();
    assert_eq!(seen.header("x-forwarded-user"), Some("gh:583231"));
    assert_eq!(seen.header("x-forwarded-preferred-username"), Some("octocat"));
    assert_eq!(seen.header("x-forwarded-email"), Some("octocat@github.com"));
    assert_eq!(seen.header("x-forwarded-groups"), Some("operators,staff"));
    let form = github.inside.lock().unwrap().form.clone();
    assert_eq!(form["redirect_uri"], format!("{}/login/callback/gh", gateway.origin()));
    assert_eq!(form["code_verifier"].len(), 43);

    // An address that is not verified is none, nor is one that may not be seen.
    github.set(|inside| inside.emails = Some(json!([{ "email": "x@y.example", "primary": true, "verified": false }])));
    let reply = trip(&gateway, &client, &mut Browser::default(), "good").await;
    assert_eq!(reply.status, 303);
    gateway.call("one", Some(&issued.access)).await;
    assert_eq!(gateway.upstream.last().header("x-forwarded-email"), None);
    github.set(|inside| inside.emails = None);
    assert_eq!(
        trip(&gateway, &client, &mut Browser::default(), "good").await.status,
        303
    );
}

/// Spec: E9
#[tokio::test]
async fn github_says_no_in_its_own_way() {
    let github = GitHub::start().await;
    let (gateway, client) = github.gateway(", allowed_organizations: [acme]").await;
    let mut browser = Browser::default();
    assert_eq!(trip(&gateway, &client, &mut browser, "bad").await.status, 502);
    // On the second page of a hundred there is one more.
    github.set(|inside| inside.organizations = (0..101).map(|n| format!("org-{n}")).collect());
    let reply = trip(&gateway, &client, &mut browser, "good").await;
    assert!(
        reply.status == 403 && reply.text().contains("organisations"),
        "{}",
        reply.text()
    );
    github.set(|inside| inside.organizations.push("ACME".to_owned()));
    assert_eq!(trip(&gateway, &client, &mut browser, "good").await.status, 303);
    browser = Browser::default();
    github.set(|inside| inside.user["id"] = "583231".into());
    assert_eq!(trip(&gateway, &client, &mut browser, "good").await.status, 502);
    github.set(|inside| inside.api_status = 500);
    assert_eq!(trip(&gateway, &client, &mut browser, "good").await.status, 503);
}

/// Spec: F20
#[tokio::test]
async fn who_left_the_organisation_or_revoked_the_app_gets_no_token() {
    let github = GitHub::start().await;
    let (gateway, client) = github.gateway(", allowed_organizations: [acme]").await;
    let left = tokens(&gateway, &client).await;
    gateway.advance(901);
    let left = Tokens::of(&refresh(&gateway, &client, &left.refresh).await);
    gateway.advance(901);
    // Asked too often: what is known is believed for an hour.
    github.set(|inside| inside.api_status = 403);
    let left = Tokens::of(&refresh(&gateway, &client, &left.refresh).await);
    gateway.advance(11);
    github.set(|inside| {
        inside.api_status = 200;
        inside.organizations.clear();
    });
    assert_eq!(refresh(&gateway, &client, &left.refresh).await.error(), "invalid_grant");
    assert_eq!(gateway.call("one", Some(&left.access)).await.status, 401);

    github.set(|inside| inside.organizations.push("Acme".to_owned()));
    let revoked = tokens(&gateway, &client).await;
    gateway.advance(901);
    github.set(|inside| inside.token_is_good = false);
    assert_eq!(
        refresh(&gateway, &client, &revoked.refresh).await.error(),
        "invalid_grant"
    );
}
