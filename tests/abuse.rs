//! What strangers can use up: requests, records, and other people's places. Attacks, and that they come to nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod support {
    pub(crate) mod endpoints;
    pub(crate) mod memory;
    pub(crate) mod people;
}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use mcpgate::config::{Counted, EndpointLimits, LIMITS};
use mcpgate::domain::client::ClientId;
use mcpgate::oauth::{Call, ROUTES};
use mcpgate::store::sled::{Limits, Options, SledStore};
use serde_json::json;
use support::endpoints::{FILES, Gateway, REDIRECT, Reply, config, form};
use support::people::{PASSWORD, People, WEB, request, web};
use tempfile::TempDir;

fn v4(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

/// Sends a request from an address.
async fn from(gateway: &Gateway, address: IpAddr, request: &Request<Bytes>) -> Reply {
    let (route, about) = gateway.at.route(request.uri().path()).unwrap();
    let call = Call {
        request,
        about,
        address,
    };
    let answer = gateway.at.handle(route, &call).await;
    Reply {
        status: answer.status(),
        headers: answer.headers().clone(),
        text: String::from_utf8(answer.into_body().to_vec()).unwrap(),
    }
}

fn post(path: &str, pairs: &[(&str, &str)]) -> Request<Bytes> {
    Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form(pairs)))
        .unwrap()
}

fn get(path: &str) -> Request<Bytes> {
    Request::get(path)
        .header("accept", "text/html")
        .body(Bytes::new())
        .unwrap()
}

fn registration() -> Request<Bytes> {
    let document = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none" });
    Request::post("/register")
        .header("content-type", "application/json")
        .body(Bytes::from(document.to_string()))
        .unwrap()
}

/// A request to each endpoint of the table that fails there, but for what counts every request.
fn failing(endpoint: &str) -> Request<Bytes> {
    match endpoint {
        "register" => registration(),
        "client_configuration" => Request::get("/register/mgc_nobody").body(Bytes::new()).unwrap(),
        "authorize" => get("/authorize?client_id=nobody"),
        "login" => get("/login"),
        "login_page" => post("/login/accept", &[]),
        "backchannel_logout" => post("/logout/backchannel/nobody", &[("logout_token", "x")]),
        "account" => get("/account"),
        "userinfo" => Request::get("/userinfo")
            .header("authorization", "Bearer nonsense")
            .body(Bytes::new())
            .unwrap(),
        "device" => post("/device", &[("user_code", "BCDF-GHJK")]),
        "token" | "revoke" | "introspect" | "par" | "device_authorization" => {
            post(&format!("/{endpoint}"), &[("client_id", "nobody")])
        }
        other => panic!("no request for {other}"),
    }
}

/// Spec: L13, F3, K4
#[tokio::test]
async fn every_endpoint_for_strangers_says_429_and_when_to_come_back() {
    for row in LIMITS {
        let gateway = Gateway::with(|config| config.oauth.grants.device_code = true);
        let request = failing(row.endpoint);
        for n in 0..row.per_minute {
            let reply = from(&gateway, v4(1), &request).await;
            assert_ne!(reply.status, 429, "{} number {n}", row.endpoint);
        }
        let reply = from(&gateway, v4(1), &request).await;
        assert_eq!(reply.status, 429, "{}", row.endpoint);
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        if matches!(row.endpoint, "authorize" | "login" | "device" | "account") {
            assert!(reply.header("content-type").unwrap().starts_with("text/html"));
            assert!(reply.header("access-control-allow-origin").is_none());
            assert!(reply.header("content-security-policy").is_some());
        } else {
            assert_eq!(reply.json()["error"], "temporarily_unavailable");
            assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
            let exposed = reply.header("access-control-expose-headers").unwrap();
            assert!(exposed.contains("Retry-After"));
        }
        assert!(gateway.metric(&format!(
            "mcpgate_limited_requests_total{{endpoint=\"{}\"}} 1",
            row.endpoint
        )));
        // Somebody else is not held to account, and neither is whoever waits.
        assert_ne!(from(&gateway, v4(2), &request).await.status, 429);
        gateway.later(wait);
        assert_ne!(from(&gateway, v4(1), &request).await.status, 429, "{}", row.endpoint);
    }
}

/// Rows that are for more than one path, or for those below one.
const BY_NAME: [&str; 3] = ["client_configuration", "login_page", "backchannel_logout"];

/// A limit that nobody could hit would be none: every endpoint that takes something from strangers has a row.
#[test]
fn the_table_names_endpoints_that_there_are_and_leaves_none_out() {
    for row in LIMITS {
        let path = format!("/{}", row.endpoint);
        assert!(
            BY_NAME.contains(&row.endpoint) || ROUTES.iter().any(|(own, _)| *own == path),
            "{path}"
        );
    }
    // These answer from memory, or take nothing that was not given to this browser before.
    let free = ["/consent", "/logout", "/jwks.json"];
    for (path, _) in ROUTES {
        // What is below a page goes with it.
        let limited = LIMITS
            .iter()
            .any(|row| path.trim_start_matches('/').split('/').next() == Some(row.endpoint));
        assert!(limited != free.contains(path), "{path}");
    }
}

#[tokio::test]
async fn a_limit_can_be_moved_and_turned_off() {
    let gateway = Gateway::with(|config| {
        config.oauth.limits = EndpointLimits::default()
            .with("register", Some(2))
            .with("authorize", None);
    });
    for status in [201, 201, 429] {
        assert_eq!(from(&gateway, v4(1), &registration()).await.status, status);
    }
    for _ in 0..800 {
        assert_eq!(from(&gateway, v4(1), &get("/authorize?client_id=x")).await.status, 400);
    }
}

/// An IPv6 customer has more addresses than there are requests.
#[tokio::test]
async fn an_ipv6_network_is_one_address() {
    let gateway = Gateway::with(|config| config.oauth.limits = EndpointLimits::default().with("register", Some(5)));
    let address = |net: u16, host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, net, 0, 0, 0, host));
    for n in 0..5 {
        assert_eq!(from(&gateway, address(1, n), &registration()).await.status, 201);
    }
    assert_eq!(from(&gateway, address(1, 99), &registration()).await.status, 429);
    assert_eq!(from(&gateway, address(2, 1), &registration()).await.status, 201);
}

/// SDKs look at `/authorize` before they open a browser.
#[tokio::test]
async fn a_program_at_authorize_hears_json() {
    let gateway = Gateway::with(|config| config.oauth.limits = EndpointLimits::default().with("authorize", Some(1)));
    let request = Request::get("/authorize")
        .header("accept", "application/json")
        .body(Bytes::new())
        .unwrap();
    from(&gateway, v4(1), &request).await;
    let reply = from(&gateway, v4(1), &request).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.json()["error"], "temporarily_unavailable");
}

/// The limit at `/token` is for those who guess: a thousand refreshes are a thousand refreshes.
#[tokio::test]
async fn work_that_succeeds_is_never_slowed_down() {
    let gateway = Gateway::with(|config| config.oauth.limits = EndpointLimits::default().with("token", Some(3)));
    let client = gateway.usual_client().await;
    let (_, mut refresh) = gateway.tokens(&client).await;
    for _ in 0..1000 {
        refresh = gateway.refresh(&client, &refresh).await.fine().text_of("refresh_token");
    }
    for _ in 0..3 {
        gateway
            .refresh(&client, "mgrt_wrong")
            .await
            .refused(400, "invalid_grant");
    }
    assert_eq!(gateway.refresh(&client, &refresh).await.status, 429);
    gateway.later(60);
    gateway.refresh(&client, &refresh).await.fine();
}

/// RFC 8628 §3.5: a device asks every few seconds, and hears 400 until its person has answered.
#[tokio::test]
async fn a_device_that_waits_is_no_failure() {
    let gateway = Gateway::with(|config| {
        config.oauth.grants.device_code = true;
        config.oauth.limits = EndpointLimits::default().with("token", Some(2));
    });
    let grant = "urn:ietf:params:oauth:grant-type:device_code";
    let client = gateway.public_client(&[grant]).await;
    let begun = gateway
        .post(
            "/device_authorization",
            None,
            &[("client_id", &client), ("resource", FILES)],
        )
        .await
        .fine();
    let code = begun.text_of("device_code");
    for _ in 0..10 {
        gateway.later(30);
        let pairs = [("grant_type", grant), ("client_id", &client), ("device_code", &code)];
        gateway.token(&pairs).await.refused(400, "authorization_pending");
    }
}

/// Spec: E8
#[tokio::test]
async fn many_addresses_guess_no_further_than_one() {
    let people = People::new();
    let mut guessed = 0;
    for n in 0..200 {
        let mut browser = people.browser();
        browser.address = v4(n);
        let page = browser.open(&web(&[])).await;
        let seen = browser.sign_in_with(&page, "ada", &format!("guess {n}")).await;
        guessed += u32::from(seen.status == 401);
    }
    assert_eq!(guessed, 5, "the account is locked for all of them");
    // And for its owner no longer than that.
    people.gateway.later(31);
    let mut own = people.browser();
    own.address = v4(9_999);
    let page = own.open(&web(&[])).await;
    own.sign_in_with(&page, "ada", PASSWORD).await.asks_for_consent();
}

/// A client secret, guessed from one address.
#[tokio::test]
async fn a_secret_is_not_guessed_at_the_token_endpoint() {
    let gateway = Gateway::new();
    let row = LIMITS.iter().find(|row| row.endpoint == "token").unwrap();
    assert_eq!(row.counted, Counted::Failures);
    let document = json!({ "redirect_uris": [REDIRECT] });
    let client = gateway.register(&document).await.fine();
    let (id, secret) = (client.text_of("client_id"), client.text_of("client_secret"));
    let pairs = |secret| {
        [
            ("grant_type", "refresh_token"),
            ("client_id", id.clone().leak() as &str),
            ("client_secret", secret),
        ]
    };
    for _ in 0..row.per_minute {
        gateway.token(&pairs("mgcs_wrong")).await.refused(401, "invalid_client");
    }
    // Not even the right one is looked at any more, so nobody learns that it is right.
    assert_eq!(gateway.token(&pairs(secret.clone().leak())).await.status, 429);
}

fn store(limits: Limits) -> (TempDir, Arc<SledStore>) {
    let home = TempDir::new().unwrap();
    let options = Options {
        limits,
        ..Options::default()
    };
    let store = Arc::new(SledStore::open_with(home.path(), options).unwrap());
    (home, store)
}

/// Spec: L15, C9
///
/// Whoever has ten thousand addresses and all the time has room for what is capped, and not for more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_thousand_requests_of_strangers_leave_a_bounded_store() {
    let (home, store) = store(Limits {
        registered_clients: 200,
        authorizations: 200,
        pushed_requests: 200,
        ..Limits::default()
    });
    let mut config = config();
    config.oauth.limits = EndpointLimits::none();
    let gateway = Arc::new(Gateway::on(config, store.clone()));
    let client = Arc::new(gateway.usual_client().await);
    let mut tasks = Vec::new();
    for task in 0..20u32 {
        let (gateway, client) = (Arc::clone(&gateway), Arc::clone(&client));
        tasks.push(tokio::spawn(async move {
            let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
            let usual = [
                ("client_id", client.as_str()),
                ("response_type", "code"),
                ("redirect_uri", REDIRECT),
                ("code_challenge", challenge),
                ("code_challenge_method", "S256"),
                ("resource", FILES),
            ];
            let authorize = get(&format!("/authorize?{}", form(&usual)));
            let (push, register) = (post("/par", &usual), registration());
            let wrong = post(
                "/token",
                &[
                    ("grant_type", "authorization_code"),
                    ("client_id", &client),
                    ("code", "mgac_x"),
                ],
            );
            for n in 0..5_000u32 {
                let address = v4(task * 5_000 + n);
                // Most of what can be asked leaves nothing behind; every tenth request tries to.
                match n % 100 {
                    0..4 => from(&gateway, address, &register).await.status,
                    4..8 => from(&gateway, address, &authorize).await.status,
                    8..10 => from(&gateway, address, &push).await.status,
                    10..50 => from(&gateway, address, &wrong).await.status,
                    _ => {
                        from(&gateway, address, &get("/authorize?client_id=nobody"))
                            .await
                            .status
                    }
                };
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(
        gateway
            .at
            .store
            .client(&ClientId::parse(&client).unwrap())
            .await
            .unwrap()
            .is_some(),
        "the client with unfinished authorizations is still there"
    );
    drop(gateway);
    let inventory = store.inventory().unwrap();
    assert!(inventory.values().all(|count| *count <= 600), "{inventory:?}");
    for kind in ['c', 'a', 'p'] {
        assert_eq!(inventory.get(&kind), Some(&200), "{kind} in {inventory:?}");
    }
    // Records and their entries in indexes, and nothing left over from what had to go.
    assert!(inventory.values().sum::<usize>() <= 3_000, "{inventory:?}");
    drop(home);
}

/// The client of somebody who is just signing in, and what they have begun, outlive any flood from one address.
#[tokio::test]
async fn a_flood_pushes_out_nobody_who_is_in_the_middle_of_something() {
    let (_home, store) = store(Limits {
        registered_clients: 20,
        authorizations: 100,
        per_address: 10,
        ..Limits::default()
    });
    let mut config = support::people::people_config();
    config.oauth.limits = EndpointLimits::none();
    let gateway = Gateway::on(config, store);
    let document = json!({ "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code", "refresh_token"] });
    let victim = gateway.register(&document).await.fine().text_of("client_id");
    let waiting = from(&gateway, v4(1), &get(&request(&victim, REDIRECT, &[]))).await;
    let page = waiting.header("location").unwrap().to_owned();
    let cookie = waiting
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    for n in 0..200u32 {
        gateway.later(1);
        assert_eq!(from(&gateway, v4(666), &registration()).await.status, 201, "{n}");
        from(&gateway, v4(666), &get(&request("spa", "https://spa.example/cb", &[]))).await;
    }
    let page = Request::get(page)
        .header("accept", "text/html")
        .header("cookie", cookie)
        .body(Bytes::new())
        .unwrap();
    let page = from(&gateway, v4(1), &page).await;
    assert_eq!(page.status, 200, "the sign-in page is still there: {}", page.text);
    assert!(page.text.contains("password"));
    gateway.client(&victim).await;
}

/// Spec: D21
#[tokio::test]
async fn a_browser_has_room_for_a_few_unfinished_authorizations() {
    let (_home, store) = store(Limits::default());
    let people_config = support::people::people_config();
    let gateway = Gateway::on(people_config, store.clone());
    let begin = |cookie: Option<String>| {
        let mut request = Request::get(request("web", WEB, &[])).header("accept", "text/html");
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        request.body(Bytes::new()).unwrap()
    };
    let first = from(&gateway, v4(1), &begin(None)).await;
    let cookie = first
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    for _ in 0..100 {
        gateway.later(1);
        from(&gateway, v4(1), &begin(Some(cookie.clone()))).await;
    }
    assert_eq!(store.inventory().unwrap().get(&'a'), Some(&20));
}
