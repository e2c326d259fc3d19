//! The administration on the admin listener: for programs, for people in a browser, and for those who should get nowhere.

use mcpgate::config;
use serde_json::{Value, json};

use crate::http1::{Reply, form, request, send};
use crate::passwords;
use crate::person::{Browser, REDIRECT, Tokens, authorize_target, redeem, register, tokens, walk};
use crate::setup::{Gateway, PASSWORD};

const TOKEN: &str = "the token of whoever administers";

/// A gateway with an administration.
async fn start() -> Gateway {
    Gateway::start_with(|yaml| yaml.replace("admin: { listen:", &format!("admin: {{ token: \"{TOKEN}\", listen:")))
        .await
}

/// Somebody who sends requests to the admin listener.
struct Operator<'a> {
    gateway: &'a Gateway,
    cookie: Option<String>,
}

impl<'a> Operator<'a> {
    fn of(gateway: &'a Gateway) -> Self {
        Self { gateway, cookie: None }
    }

    async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let admin = self.gateway.running.admin;
        let host = headers
            .iter()
            .find(|(name, _)| *name == "Host")
            .map(|(_, value)| (*value).to_owned());
        let rest: Vec<(&str, &str)> = headers.iter().copied().filter(|(name, _)| *name != "Host").collect();
        let host = host.unwrap_or_else(|| admin.to_string());
        send(admin, &request(method, target, &host, &rest, body.as_bytes())).await
    }

    /// With the token, as a program.
    async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let authorization = format!("Bearer {TOKEN}");
        let mut headers = vec![("Authorization", authorization.as_str())];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        let text = body.map(|body| body.to_string()).unwrap_or_default();
        let reply = self.send(method, &format!("/api/{path}"), &headers, &text).await;
        (reply.status, reply.json())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.api("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// As a browser.
    async fn page(&self, target: &str) -> Reply {
        let cookie = self.cookie.clone().unwrap_or_default();
        self.send("GET", target, &[("Cookie", &cookie)], "").await
    }

    async fn submit(&self, target: &str, more: &[(&str, &str)], pairs: &[(&str, &str)]) -> Reply {
        let cookie = self.cookie.clone().unwrap_or_default();
        let mut headers = vec![
            ("Cookie", cookie.as_str()),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        headers.extend_from_slice(more);
        self.send("POST", target, &headers, &form(pairs)).await
    }

    async fn sign_in(&mut self) {
        let reply = self.submit("/sign-in", &[OWN_PAGE], &[("token", TOKEN)]).await;
        assert_eq!(reply.status, 303, "{}", reply.text());
        let set = reply.header("set-cookie").unwrap();
        for part in ["HttpOnly", "SameSite=Strict", "Max-Age=28800"] {
            assert!(set.contains(part), "{set}");
        }
        self.cookie = Some(set.split(';').next().unwrap().to_owned());
    }

    /// The token of the forms on a page.
    async fn form_token(&self) -> String {
        let page = self.page("/").await.text();
        let rest = page.split("name=\"form_token\" value=\"").nth(1).unwrap();
        rest.split('"').next().unwrap().to_owned()
    }
}

/// What a browser says of a form that one of our own pages sends.
const OWN_PAGE: (&str, &str) = ("Sec-Fetch-Site", "same-origin");

fn names(list: &Value, of: &str, field: &str) -> Vec<String> {
    let entries = list[of].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry[field].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_in_the_configuration_there_is_no_administration() {
    let gateway = Gateway::start().await;
    let operator = Operator::of(&gateway);
    for target in ["/", "/users", "/api/users", "/sign-in"] {
        let reply = operator.send("GET", target, &[("Authorization", "Bearer x")], "").await;
        assert_eq!(reply.status, 404, "{target}");
        assert!(reply.text().contains("admin.token"), "{}", reply.text());
    }
    for open in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(operator.send("GET", open, &[], "").await.status, 200);
    }
    // Nor on the public listener.
    assert_eq!(gateway.get("/api/users", &[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_opens_it_and_guessing_has_an_end() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let with = async |value: &str| {
        operator
            .send("GET", "/api/users", &[("Authorization", value)], "")
            .await
    };
    let reply = operator.send("GET", "/api/users", &[], "").await;
    assert_eq!((reply.status, reply.error().as_str()), (401, "token_needed"));
    assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer "));
    assert_eq!(with(&format!("Bearer {TOKEN}")).await.status, 200);
    assert_eq!(with(&format!("Basic {TOKEN}")).await.status, 401);
    for wrong in ["", "x", &TOKEN[1..], &format!("{TOKEN}x"), &"y".repeat(5_000)] {
        let reply = with(&format!("Bearer {wrong}")).await;
        assert_eq!(reply.status, 401, "{wrong:?}");
        assert!(!reply.text().contains(TOKEN));
    }
    // The page counts with it.
    for _ in 0..6 {
        operator.submit("/sign-in", &[OWN_PAGE], &[("token", "guess")]).await;
    }
    let reply = with(&format!("Bearer {TOKEN}")).await;
    assert_eq!((reply.status, reply.error().as_str()), (429, "too_many_attempts"));
    assert!(reply.header("retry-after").is_some());
    let reply = operator.submit("/sign-in", &[OWN_PAGE], &[("token", TOKEN)]).await;
    assert_eq!(reply.status, 429);
    assert!(reply.header("set-cookie").is_none());
    gateway.advance(61);
    assert_eq!(with(&format!("Bearer {TOKEN}")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_and_other_names_get_nowhere() {
    let gateway = start().await;
    let mut operator = Operator::of(&gateway);
    operator.sign_in().await;
    let token = operator.form_token().await;
    // A page whose name was made to lead here (DNS rebinding).
    for host in ["rebind.example", "rebind.example:9090", "127.0.0.1.evil.example"] {
        for target in ["/", "/api/users", "/sign-in"] {
            let reply = operator.send("GET", target, &[("Host", host)], "").await;
            assert_eq!(
                (reply.status, reply.error().as_str()),
                (421, "wrong_host"),
                "{host} {target}"
            );
        }
    }
    // A page elsewhere, or at another port of this machine, that sends a form with the operator's cookie (CSRF).
    let pairs = [("form_token", token.as_str())];
    for (origin, site) in [
        ("https://evil.example", "cross-site"),
        ("http://127.0.0.1:3000", "same-site"),
        ("null", "cross-site"),
    ] {
        let headers = [("Origin", origin), ("Sec-Fetch-Site", site)];
        let reply = operator.submit("/users/ada/disable", &headers, &pairs).await;
        assert_eq!(reply.status, 403, "{origin}");
        let authorization = format!("Bearer {TOKEN}");
        let headers = [
            ("Origin", origin),
            ("Sec-Fetch-Site", site),
            ("Authorization", &authorization),
        ];
        assert_eq!(
            operator
                .send("POST", "/api/users/ada/disable", &headers, "")
                .await
                .status,
            403
        );
    }
    // Without the form's token, with another session's, without a session.
    for wrong in [&[][..], &[("form_token", "")], &[("form_token", "mgar_x")]] {
        assert_eq!(
            operator.submit("/users/ada/disable", &[OWN_PAGE], wrong).await.status,
            403
        );
    }
    let mut other = Operator::of(&gateway);
    other.sign_in().await;
    assert_eq!(
        other.submit("/users/ada/disable", &[OWN_PAGE], &pairs).await.status,
        403
    );
    assert_eq!(
        Operator::of(&gateway)
            .submit("/users/ada/disable", &[OWN_PAGE], &pairs)
            .await
            .status,
        403
    );
    // A GET changes nothing.
    assert_eq!(operator.page("/users/ada/disable").await.status, 404);
    // The cookie opens no API.
    let cookie = operator.cookie.clone().unwrap();
    assert_eq!(
        operator
            .send("GET", "/api/users", &[("Cookie", &cookie)], "")
            .await
            .status,
        401
    );
    assert_eq!(operator.get("users/ada").await["disabled"], false);
    // And the right one does it.
    let reply = operator.submit("/users/ada/disable", &[OWN_PAGE], &pairs).await;
    assert_eq!((reply.status, reply.header("location")), (303, Some("/users")));
    assert_eq!(operator.get("users/ada").await["disabled"], true);
    // Signed out is signed out, whatever cookie the browser kept.
    assert_eq!(operator.submit("/sign-out", &[OWN_PAGE], &pairs).await.status, 303);
    assert!(operator.page("/users").await.text().contains("name=\"token\""));
    assert_eq!(
        operator.submit("/users/ada/enable", &[OWN_PAGE], &pairs).await.status,
        403
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_added_disabled_enabled_reset_and_removed() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let new = json!({ "username": "grace", "password": "a long password", "email": "grace@example.com",
        "name": "Grace Hopper", "groups": ["navy"], "must_change": true });
    let (status, grace) = operator.api("POST", "users", Some(new.clone())).await;
    assert_eq!(
        (status, &grace["source"], &grace["must_change_password"]),
        (201, &json!("store"), &json!(true)),
        "{grace}"
    );
    assert_eq!(
        names(&operator.get("users").await, "users", "subject"),
        ["ada", "bob", "grace"]
    );
    let error = async |method: &str, path: &str, body: Option<Value>| {
        let (status, body) = operator.api(method, path, body).await;
        (status, body["error"].as_str().unwrap_or_default().to_owned())
    };
    let expect = |status: u16, code: &str| (status, code.to_owned());
    // Taken, in the store and in the file.
    assert_eq!(error("POST", "users", Some(new)).await, expect(409, "taken"));
    let ada = json!({ "username": "ada", "password": "a long password" });
    assert_eq!(error("POST", "users", Some(ada)).await, expect(409, "taken"));
    for wrong in [
        json!({ "username": "a:b", "password": "a long password" }),
        json!({ "username": "client:x", "password": "a long password" }),
        json!({ "username": " a", "password": "a long password" }),
        json!({ "username": "a", "password": "short" }),
        json!({ "username": "a", "password": "x".repeat(1025) }),
        json!({ "username": "a", "password": "a long password", "email": "no address" }),
        json!({ "username": "a", "password": "a long password", "name": "two\nlines" }),
        json!({ "username": "a", "password": "a long password", "groups": vec!["g"; 101] }),
        json!({ "username": "a", "password": "a long password", "admin": true }),
        json!({ "username": "a" }),
        json!([]),
    ] {
        assert_eq!(
            error("POST", "users", Some(wrong.clone())).await,
            expect(400, "invalid_request"),
            "{wrong}"
        );
    }
    let reply = operator
        .api("POST", "users", Some(json!({ "username": "a", "password": 7777_7777 })))
        .await;
    assert!(!reply.1.to_string().contains("7777"), "{}", reply.1);
    // What the file says is the file's to change.
    assert_eq!(error("DELETE", "users/ada", None).await, expect(409, "configured"));
    let password = json!({ "password": "another password" });
    assert_eq!(
        error("POST", "users/ada/reset", Some(password.clone())).await,
        expect(409, "configured")
    );
    assert_eq!(
        error("POST", "users/nobody/reset", Some(password.clone())).await,
        expect(404, "not_found")
    );
    assert_eq!(
        error("POST", "users/nobody/disable", None).await,
        expect(404, "not_found")
    );
    assert_eq!(error("DELETE", "users/nobody", None).await, expect(404, "not_found"));
    assert_eq!(operator.api("POST", "users/grace/reset", Some(password)).await.0, 200);
    let text = operator.get("users").await.to_string();
    assert!(!text.contains("argon2") && !text.contains("password_hash"), "{text}");
    // Those of the file can be disabled: it is written beside it, and survives a restart.
    assert_eq!(
        operator.api("POST", "users/bob/disable", None).await.1["disabled"],
        true
    );
    let gateway = gateway.restart().await;
    let operator = Operator::of(&gateway);
    assert_eq!(operator.get("users/bob").await["disabled"], true);
    assert_eq!(
        operator.api("POST", "users/bob/enable", None).await.1["disabled"],
        false
    );
    assert_eq!(operator.api("DELETE", "users/grace", None).await.0, 200);
    assert_eq!(operator.api("GET", "users/grace", None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_disabled_is_out_at_once() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let client = register(&gateway, json!({})).await;
    let ada = tokens(&gateway, &client, "ada", "one").await;
    let bob = tokens(&gateway, &client, "bob", "two").await;
    assert_eq!(gateway.call("one", Some(&ada.access)).await.status, 200);
    let sessions = operator.get("users/ada/sessions").await;
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 1);
    assert!(!sessions.to_string().contains("\"id\""));
    assert_eq!(operator.api("POST", "users/ada/disable", None).await.0, 200);
    assert_eq!(gateway.call("one", Some(&ada.access)).await.status, 401);
    assert_eq!(
        crate::person::refresh(&gateway, &client, &ada.refresh).await.status,
        400
    );
    assert_eq!(gateway.call("two", Some(&bob.access)).await.status, 200);
    assert_eq!(operator.get("users/ada/sessions").await["sessions"], json!([]));
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let reply = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    assert!(
        !reply.headers.iter().any(|(_, value)| value.contains("code=")),
        "{reply:?}"
    );
    // Enabled again, they sign in again; what was revoked stays revoked.
    assert_eq!(operator.api("POST", "users/ada/enable", None).await.0, 200);
    assert_eq!(gateway.call("one", Some(&ada.access)).await.status, 401);
    let again = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&again.access)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_and_clients_are_listed_and_revoked() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let first = register(&gateway, json!({ "client_name": "First" })).await;
    let second = register(&gateway, json!({ "client_name": "Second" })).await;
    let ada = tokens(&gateway, &first, "ada", "one").await;
    let ada_two = tokens(&gateway, &second, "ada", "two").await;
    let bob = tokens(&gateway, &first, "bob", "two").await;
    let clients = operator.get("clients").await;
    assert_eq!(
        clients["clients"].as_array().unwrap().len(),
        3,
        "the one of the file too"
    );
    assert!(!clients.to_string().contains("secret\":"), "{clients}");
    assert_eq!(
        operator.get("clients?search=SECOND").await["clients"][0]["client_id"],
        second.id
    );
    assert_eq!(operator.get(&format!("clients/{}", first.id)).await["name"], "First");
    let count = async |query: &str| operator.get(query).await["grants"].as_array().unwrap().len();
    assert_eq!(count("grants").await, 3);
    assert_eq!(count("grants?subject=ada").await, 2);
    assert_eq!(count("grants?upstream=two").await, 2);
    assert_eq!(count(&format!("grants?client={}&subject=bob", first.id)).await, 1);
    assert_eq!(count("grants?search=second").await, 1);
    assert_eq!(
        operator.get("tokens?subject=ada").await["tokens"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for (query, status) in [
        ("grants?limit=201", 400),
        ("grants?colour=red", 400),
        ("grants?after=x", 400),
    ] {
        assert_eq!(operator.api("GET", query, None).await.0, status, "{query}");
    }
    // One by one, in pages.
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.get(&format!("grants?limit=1&after={after}")).await;
        seen.extend(names(&page, "grants", "id"));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    // A grant, then a person's, then a client's.
    let id = operator.get("grants?subject=ada&upstream=one").await["grants"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        operator.api("POST", &format!("grants/{id}/revoke"), None).await.1["revoked"],
        1
    );
    assert_eq!(gateway.call("one", Some(&ada.access)).await.status, 401);
    assert_eq!(gateway.call("two", Some(&ada_two.access)).await.status, 200);
    assert_eq!(operator.api("POST", &format!("grants/{id}/revoke"), None).await.0, 404);
    assert_eq!(
        operator
            .api("POST", "tokens/revoke", Some(json!({ "subject": "ada" })))
            .await
            .1["revoked"],
        1
    );
    assert_eq!(gateway.call("two", Some(&ada_two.access)).await.status, 401);
    assert_eq!(
        operator
            .api("POST", &format!("clients/{}/revoke", first.id), None)
            .await
            .1["revoked"],
        1
    );
    assert_eq!(gateway.call("two", Some(&bob.access)).await.status, 401);
    assert_eq!(
        operator.api("DELETE", &format!("clients/{}", first.id), None).await.0,
        200
    );
    assert_eq!(
        operator.api("DELETE", &format!("clients/{}", first.id), None).await.0,
        404
    );
    assert_eq!(
        operator.api("DELETE", "clients/ci-runner", None).await.1["error"],
        "configured"
    );
    assert_eq!(operator.api("POST", "clients/nobody/revoke", None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_call_was_refused_is_said_to_the_operator_alone() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let client = register(&gateway, json!({})).await;
    let ada = tokens(&gateway, &client, "ada", "one").await;
    assert_eq!(gateway.call("one", Some(&ada.access)).await.status, 200);
    assert_eq!(
        operator.get("decisions").await["decisions"],
        json!([]),
        "nothing is kept of what passes"
    );
    let id = |reply: &Reply| reply.header("x-request-id").unwrap().to_owned();
    // It is noted when the request has ended, which is after its answer.
    let noted = async |reply: Reply| {
        for _ in 0..200 {
            let found = operator.get(&format!("decisions?request_id={}", id(&reply))).await;
            if found["decisions"] != json!([]) {
                return reply;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{} was not noted", id(&reply));
    };
    let nobody = noted(gateway.call("one", None).await).await;
    let elsewhere = noted(gateway.call("two", Some(&ada.access)).await).await;
    gateway.advance(3_601);
    let late = noted(gateway.call("one", Some(&ada.access)).await).await;
    let all = operator.get("decisions").await;
    assert_eq!(
        names(&all, "decisions", "request_id"),
        [id(&late), id(&elsewhere), id(&nobody)]
    );
    assert_eq!(
        names(&all, "decisions", "decision"),
        ["invalid_token", "wrong_resource", "no_token"]
    );
    let found = operator.get(&format!("decisions?request_id={}", id(&late))).await;
    let found = &found["decisions"][0];
    assert_eq!(found["reason"], "the token has expired");
    assert_eq!(
        (&found["subject"], &found["client"]),
        (&json!("ada"), &json!(client.id))
    );
    assert!(
        !late.text().contains("has expired"),
        "its holder is told less: {}",
        late.text()
    );
    assert_eq!(
        operator.get("decisions?subject=ada").await["decisions"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let first = operator.get("decisions?limit=2").await;
    let rest = operator
        .get(&format!("decisions?limit=2&after={}", first["next"].as_str().unwrap()))
        .await;
    assert_eq!(
        (names(&rest, "decisions", "request_id"), &rest["next"]),
        (vec![id(&nobody)], &Value::Null)
    );
    // No token of anybody's is in it.
    assert!(!operator.get("decisions").await.to_string().contains("mgat_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_rules_forbid_is_named_with_its_tool_and_without_its_arguments() {
    let gateway = Gateway::start_with(|yaml| {
        let rules = "tools: [{ match: \"danger*\", deny: true }, { match: \"admin*\", scopes: [\"one:admin\"] }], scopes: [\"one:use\"]";
        yaml.replace("scopes: [\"one:use\"]", rules)
            .replace("admin: { listen:", &format!("admin: {{ token: \"{TOKEN}\", listen:"))
    })
    .await;
    let operator = Operator::of(&gateway);
    let client = register(&gateway, json!({})).await;
    let ada = tokens(&gateway, &client, "ada", "one").await;
    let authorization = format!("Bearer {}", ada.access);
    let call = async |tool: &str| {
        let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": { "name": tool, "arguments": { "password": "hunter2" } } });
        let headers = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("Authorization", authorization.as_str()),
        ];
        gateway.post("/one/mcp", &headers, &body.to_string()).await.status
    };
    assert_eq!(
        (
            call("dangerous").await,
            call("administer").await,
            call("harmless").await
        ),
        (403, 403, 200)
    );
    let mut found = Value::Null;
    for _ in 0..200 {
        found = operator.get("decisions?subject=ada").await;
        if found["decisions"].as_array().unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut seen: Vec<(String, String)> = names(&found, "decisions", "tool")
        .into_iter()
        .zip(names(&found, "decisions", "decision"))
        .collect();
    seen.sort();
    let expected = [("administer", "insufficient_scope"), ("dangerous", "tool_denied")];
    assert_eq!(
        seen,
        expected.map(|(tool, decision)| (tool.to_owned(), decision.to_owned()))
    );
    assert_eq!(names(&found, "decisions", "rpc_method"), ["tools/call", "tools/call"]);
    assert!(!found.to_string().contains("hunter2"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_added_chooses_its_password_and_works_until_it_is_gone() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let new = json!({ "username": "grace", "password": PASSWORD, "must_change": true });
    assert_eq!(operator.api("POST", "users", Some(new)).await.0, 201);
    let client = register(&gateway, json!({})).await;
    let target = authorize_target(&client, Some(&gateway.resource("two")), None, &[]);
    let mut browser = Browser::default();
    // With the password that the operator knows nobody gets further than to another one.
    let page = walk(&gateway, &mut browser, &target, "grace").await;
    assert!(
        page.text().contains("Choose a password"),
        "{} {}",
        page.status,
        page.text()
    );
    assert_eq!(operator.get("users/grace/sessions").await["sessions"], json!([]));
    let chosen = "a password of her own";
    let reply = browser
        .fill_in(&gateway, &page, &[("new_password", chosen), ("again", chosen)])
        .await;
    let page = browser.follow(&gateway, reply).await;
    let reply = browser.fill_in(&gateway, &page, &[("decision", "approve")]).await;
    let code = reply.redirected("code").unwrap();
    let grace = Tokens::of(&redeem(&gateway, &client, &code, &[]).await);
    assert_eq!(gateway.call("two", Some(&grace.access)).await.status, 200);
    assert_eq!(operator.get("users/grace").await["must_change_password"], false);
    assert_eq!(operator.get("tokens?subject=grace").await["tokens"][0]["kind"], "oauth");
    // A reset ends the sessions, and the password of before.
    let reset = json!({ "password": PASSWORD });
    let (status, entry) = operator.api("POST", "users/grace/reset", Some(reset)).await;
    assert_eq!((status, &entry["must_change_password"]), (200, &json!(true)));
    assert_eq!(operator.get("users/grace/sessions").await["sessions"], json!([]));
    // Whoever is disabled is told what everybody is told who does not get in.
    assert_eq!(operator.api("POST", "users/grace/disable", None).await.0, 200);
    assert_eq!(gateway.call("two", Some(&grace.access)).await.status, 401);
    let refused = walk(&gateway, &mut Browser::default(), &target, "grace").await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("Username or password is wrong"));
    assert_eq!(operator.api("DELETE", "users/grace", None).await.0, 200);
    let refused = walk(&gateway, &mut Browser::default(), &target, "grace").await;
    assert_eq!(refused.status, 401);
}

/// The password on a page that shows one.
fn shown(page: &Reply) -> String {
    let html = page.text();
    let rest = html
        .split("readonly value=\"")
        .nth(1)
        .unwrap_or_else(|| panic!("{html}"));
    rest.split('"').next().unwrap().to_owned()
}

/// The same by the pages: passwords are made up, shown on the answer alone, and good for choosing another.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_added_and_reset_on_the_pages() {
    let gateway = Gateway::start_with(|yaml| {
        let directory = yaml.split("path: \"").nth(1).unwrap().split("/data").next().unwrap();
        let audit = format!("audit: {{ file: \"{directory}/audit.jsonl\" }}\nscopes:\n");
        yaml.replace("admin: { listen:", &format!("admin: {{ token: \"{TOKEN}\", listen:"))
            .replacen("scopes:\n", &audit, 1)
    })
    .await;
    let mut operator = Operator::of(&gateway);
    operator.sign_in().await;
    let token = operator.form_token().await;
    let add = async |more: &[(&str, &str)]| {
        let mut pairs = vec![("form_token", token.as_str())];
        pairs.extend_from_slice(more);
        operator.submit("/users/add", &[OWN_PAGE], &pairs).await
    };
    let page = operator.page("/users/add").await;
    assert!(page.text().contains("name=\"username\""), "{}", page.text());
    let grace = [
        ("username", " grace "),
        ("name", "Grace Hopper"),
        ("email", ""),
        ("groups", "navy, , staff"),
    ];
    // Not without the form's token, nor by a page elsewhere.
    for (headers, pairs) in [
        (OWN_PAGE, &grace[..]),
        (
            ("Sec-Fetch-Site", "cross-site"),
            &[("form_token", token.as_str()), ("username", "grace")],
        ),
    ] {
        for target in ["/users/add", "/users/ada/reset"] {
            assert_eq!(operator.submit(target, &[headers], pairs).await.status, 403, "{target}");
        }
    }
    assert_eq!(operator.api("GET", "users/grace", None).await.0, 404);
    let added = add(&grace).await;
    assert_eq!((added.status, added.header("cache-control")), (200, Some("no-store")));
    let first = shown(&added);
    assert_eq!(first.len(), 20);
    let entry = operator.get("users/grace").await;
    assert_eq!(
        (&entry["source"], &entry["must_change_password"], &entry["email"]),
        (&json!("store"), &json!(true), &Value::Null)
    );
    assert_eq!(
        (&entry["name"], &entry["groups"]),
        (&json!("Grace Hopper"), &json!(["navy", "staff"]))
    );
    // What cannot be is said beside what was typed, and nothing is on record.
    for (status, name, more, why) in [
        (409, "grace", ("email", ""), "is taken by an account"),
        (409, "ada", ("email", ""), "in `users` of the configuration"),
        (400, "", ("email", ""), "A username has 1 to 128 characters"),
        (400, "a:b", ("email", ""), "A username has 1 to 128 characters"),
        (
            400,
            "alan",
            ("email", "\"><script>alert(1)</script>"),
            "not an e-mail address",
        ),
    ] {
        let page = add(&[("username", name), more]).await;
        assert_eq!(page.status, status, "{name}");
        let html = page.text();
        assert!(
            html.contains(why) && html.contains(&format!("value=\"{name}\"")),
            "{html}"
        );
        assert!(!html.contains("<script") && !html.contains("readonly"), "{html}");
    }
    assert_eq!(
        names(&operator.get("users").await, "users", "subject"),
        ["ada", "bob", "grace"]
    );

    let client = register(&gateway, json!({})).await;
    let mut browser = Browser::default();
    let page = passwords::type_password(&gateway, &mut browser, &client, "grace", &first).await;
    assert!(page.text().contains("Choose a password"), "{}", page.text());

    // Those of the store have the button, and are asked about before anything happens.
    let list = operator.page("/users").await.text();
    assert!(
        list.contains("action=\"/users/grace/reset\"") && !list.contains("action=\"/users/ada/reset\""),
        "{list}"
    );
    let asked = operator.page("/users/grace/reset").await;
    assert!(
        asked.status == 200 && asked.text().contains("stops working at once"),
        "{}",
        asked.text()
    );
    assert_eq!(operator.page("/users/ada/reset").await.status, 409);
    assert_eq!(operator.page("/users/nobody/reset").await.status, 404);
    let pairs = [("form_token", token.as_str())];
    assert_eq!(
        operator.submit("/users/ada/reset", &[OWN_PAGE], &pairs).await.status,
        409
    );
    let second = shown(&operator.submit("/users/grace/reset", &[OWN_PAGE], &pairs).await);
    assert!(second.len() == 20 && second != first);
    let refused = passwords::type_password(&gateway, &mut Browser::default(), &client, "grace", &first).await;
    assert_eq!(refused.status, 401);
    let page = passwords::type_password(&gateway, &mut browser, &client, "grace", &second).await;
    assert!(page.text().contains("Choose a password"), "{}", page.text());
    // Neither is anywhere else; both acts are on record.
    for target in [
        "/users",
        "/users?search=grace",
        "/users/add",
        "/users/grace/reset",
        "/api/users",
    ] {
        let text = operator.page(target).await.text();
        assert!(!text.contains(&first) && !text.contains(&second), "{target}");
    }
    let file = gateway.directory.path().join("audit.jsonl");
    gateway.running.stop().await.unwrap();
    let log = std::fs::read_to_string(file).unwrap();
    for act in ["user_added", "password_reset"] {
        let line = format!("\"event\":\"administration\",\"outcome\":\"{act}\",\"subject\":\"grace\",\"by\":\"page\"");
        assert_eq!(log.matches(&line).count(), 1, "{act}: {log}");
    }
    assert!(!log.contains(&first) && !log.contains(&second), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_add_one_name_at_once_one_wins() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let add = async |password: &str| {
        let new = json!({ "username": "grace", "password": password });
        operator.api("POST", "users", Some(new)).await.0
    };
    let (one, other) = tokio::join!(add("a long password"), add("another password"));
    assert_eq!([one.min(other), one.max(other)], [201, 409]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_may_write_is_text_on_the_pages() {
    let gateway = start().await;
    let mut operator = Operator::of(&gateway);
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    let client = register(&gateway, json!({ "client_name": evil })).await;
    let target = authorize_target(&client, Some(&gateway.resource("one")), None, &[]);
    let reply = walk(&gateway, &mut Browser::default(), &target, "ada").await;
    assert!(reply.location().as_str().starts_with(REDIRECT));
    let code = reply.redirected("code").unwrap();
    assert_eq!(crate::person::redeem(&gateway, &client, &code, &[]).await.status, 200);
    operator.sign_in().await;
    for place in ["/", "/users", "/clients", "/grants", "/decisions"] {
        for query in ["", "?search=%3Cscript%3Ealert%281%29%22%27%3E"] {
            let page = operator.page(&format!("{place}{query}")).await;
            assert_eq!(page.status, 200);
            let html = page.text();
            assert!(!html.contains("<script") && !html.contains("<img"), "{place}: {html}");
            let policy = page.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
            assert_eq!(page.header("x-frame-options"), Some("DENY"));
            assert_eq!(page.header("cache-control"), Some("no-store"));
        }
    }
    assert!(operator.page("/clients").await.text().contains("&lt;script&gt;"));
    assert_eq!(operator.page("/clients?limit=10000").await.status, 400);
    // A signed-in page keeps nothing of the operator's token.
    assert!(!operator.page("/").await.text().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_token_in_the_configuration_ends_what_began_with_the_old_one() {
    let gateway = start().await;
    let mut operator = Operator::of(&gateway);
    operator.sign_in().await;
    assert!(operator.page("/users").await.text().contains("Sign out"));
    let yaml = gateway.yaml.replace(TOKEN, "another token, just as long as it");
    let config =
        config::parse(&yaml, std::path::Path::new("."), &|_| None).unwrap_or_else(|problems| panic!("{problems}"));
    gateway.running.put_in_force(config).unwrap();
    assert!(operator.page("/users").await.text().contains("name=\"token\""));
    assert_eq!(operator.api("GET", "users", None).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_factors_are_shown_and_forgotten_on_the_pages() {
    let gateway = start().await;
    let client = register(&gateway, json!({})).await;
    let (mut browser, ..) = crate::second::set_up(&gateway, &client).await;
    let mut operator = Operator::of(&gateway);
    operator.sign_in().await;
    let ada = operator.get("users/ada").await;
    assert_eq!(ada["second_factors"], json!(["authenticator"]), "{ada}");
    assert_eq!(operator.get("users/bob").await["second_factors"], json!([]));
    let page = operator.page("/users").await.text();
    assert_eq!(page.matches("Forget second factor: ").count(), 1, "{page}");
    let token = operator.form_token().await;
    let reply = operator
        .submit("/users/ada/forget-factor", &[OWN_PAGE], &[("form_token", &token)])
        .await;
    assert_eq!(reply.status, 303, "{}", reply.text());
    assert_eq!(operator.get("users/ada").await["second_factors"], json!([]));
    let reply = browser.get(&gateway, "/account/security").await;
    assert_eq!(reply.status, 303, "their sessions ended");
    let again = operator
        .submit("/users/ada/forget-factor", &[OWN_PAGE], &[("form_token", &token)])
        .await;
    assert_eq!(again.status, 409, "{}", again.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_is_refused_and_the_listener_goes_on() {
    let gateway = start().await;
    let operator = Operator::of(&gateway);
    let (status, _) = operator
        .api("POST", "users", Some(json!({ "username": "x".repeat(20_000) })))
        .await;
    assert_eq!(status, 400);
    assert_eq!(
        operator
            .api("GET", &format!("users?search={}", "x".repeat(9_000)), None)
            .await
            .0,
        400
    );
    assert_eq!(
        operator.api("GET", &format!("users/{}", "x".repeat(400)), None).await.0,
        400
    );
    assert_eq!(operator.api("GET", "users/%FF", None).await.0, 400);
    assert_eq!(operator.api("PUT", "users", None).await.0, 405);
    assert_eq!(operator.api("GET", "nothing", None).await.0, 404);
    assert_eq!(operator.get("users").await["next"], Value::Null);
}
