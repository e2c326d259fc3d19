//! `identity_jwt`: who is calling, signed; what it says, who can check it, and that it opens nothing.

use mcpgate::domain::clock::{Clock as _, SystemClock};
use mcpgate::jose::{Algorithm, KeySet, Token};
use serde_json::{Value, json};

use crate::http1::Reply;
use crate::person::{Browser, Client, authorize_target, redeem, register, tokens, walk};
use crate::setup::Gateway;

struct Signed {
    gateway: Gateway,
    client: Client,
    token: String,
}

impl Signed {
    async fn start(setting: &'static str) -> Self {
        let gateway = Gateway::start_with(move |yaml| {
            yaml.replace(
                "name: one, path: /one/mcp,",
                &format!("name: one, path: /one/mcp, identity_jwt: {setting},"),
            )
        })
        .await;
        let client = register(&gateway, json!({})).await;
        let token = tokens(&gateway, &client, "ada", "one").await.access;
        Self { gateway, client, token }
    }

    /// What the upstream gets as its own header.
    async fn stated(&self, header: &str) -> String {
        assert_eq!(self.gateway.call("one", Some(&self.token)).await.status, 200);
        self.gateway.upstream.last().header(header).unwrap().to_owned()
    }

    /// The claims, checked as an upstream would.
    async fn read(&self, stated: &str) -> Value {
        let keys = KeySet::parse(&self.gateway.get("/jwks.json", &[]).await.json()).unwrap();
        let token = Token::parse(stated).unwrap();
        assert!(token.is_of_type("mcpgate-identity+jwt") && token.algorithm() == Algorithm::Es256);
        token.verify(&keys, &[Algorithm::Es256]).unwrap();
        payload(stated)
    }
}

fn payload(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Spec: I7, K19
#[tokio::test]
async fn an_upstream_can_check_who_is_calling() {
    let at = Signed::start("true").await;
    let stated = at.stated("x-forwarded-identity").await;
    let mut claims = at.read(&stated).await;
    let now = at.gateway.clock_now() / 1000;
    assert!(claims["jti"].as_str().unwrap().len() >= 22);
    claims.as_object_mut().unwrap().remove("jti");
    let seen = at.gateway.upstream.last();
    assert_eq!(
        claims,
        json!({
            "iss": at.gateway.origin(),
            "aud": at.gateway.resource("one"),
            "sub": seen.header("x-forwarded-user").unwrap(),
            "iat": now,
            "exp": now + 300,
            "client_id": at.client.id,
            "scope": seen.header("x-forwarded-scope").unwrap(),
            "preferred_username": "ada",
            "name": "Ada Lovelace",
            "email": "ada@example.com",
            "groups": ["engineering", "a,b"],
        })
    );
    // Made once, and again when half of its time is over, or when the clock was put back behind it.
    assert_eq!(at.stated("x-forwarded-identity").await, stated);
    at.gateway.advance(149);
    assert_eq!(at.stated("x-forwarded-identity").await, stated);
    at.gateway.advance(1);
    let next = at.stated("x-forwarded-identity").await;
    let claims = at.read(&next).await;
    assert_eq!(
        (claims["iat"].as_u64(), claims["exp"].as_u64()),
        (Some(now + 150), Some(now + 450))
    );
    at.gateway.set_clock((now + 60) * 1000);
    let back = at.read(&at.stated("x-forwarded-identity").await).await;
    assert_eq!(back["iat"].as_u64(), Some(now + 60));
    // It is good for no longer than the token is.
    at.gateway.set_clock((now + 3_500) * 1000);
    let last = at.read(&at.stated("x-forwarded-identity").await).await;
    assert_eq!(
        (last["iat"].as_u64(), last["exp"].as_u64()),
        (Some(now + 3_500), Some(now + 3_600))
    );
}

/// Spec: K18, K21, L8
#[tokio::test]
async fn nobody_else_can_say_it() {
    let at = Signed::start("{ header: X-Who, audience: tools, lifetime: 60s }").await;
    let stated = at.stated("x-who").await;
    let claims = at.read(&stated).await;
    assert_eq!(claims["aud"], "tools");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
    let authorization = format!("Bearer {}", at.token);
    for name in ["X-Who", "x_who", "X-Forwarded-Identity", "X_Forwarded_Identity"] {
        let headers = [("Authorization", authorization.as_str()), (name, "mine")];
        assert_eq!(at.gateway.post("/one/mcp", &headers, "{}").await.status, 200);
        let seen = at.gateway.upstream.last();
        let all: Vec<_> = seen.headers.iter().filter(|(_, value)| *value == "mine").collect();
        assert!(all.is_empty(), "{name}: {all:?}");
        assert_eq!(seen.header("x-who"), Some(stated.as_str()));
    }
    // The other upstream is told nothing of the kind.
    let two = tokens(&at.gateway, &at.client, "ada", "two").await.access;
    assert_eq!(at.gateway.call("two", Some(&two)).await.status, 200);
    let seen = at.gateway.upstream.last();
    assert!(seen.header("x-who").is_none() && seen.header("x-forwarded-identity").is_none());
}

/// Spec: I5, G6, L22
#[tokio::test]
async fn keys_that_change_leave_no_gap() {
    const DAY: u64 = 86_400;
    let at = Signed::start("true").await;
    let keys = async || KeySet::parse(&at.gateway.get("/jwks.json", &[]).await.json()).unwrap();
    let stated = async || {
        let token = tokens(&at.gateway, &at.client, "ada", "one").await.access;
        assert_eq!(at.gateway.call("one", Some(&token)).await.status, 200);
        at.gateway
            .upstream
            .last()
            .header("x-forwarded-identity")
            .unwrap()
            .to_owned()
    };
    let kid = |text: &str| Token::parse(text).unwrap().key_id().unwrap().to_owned();
    let first = stated().await;
    at.gateway.advance(90 * DAY);
    // Whoever fetches the keys now has both; the old one still signs.
    let fetched = keys().await;
    assert_eq!(kid(&stated().await), kid(&first));
    at.gateway.advance(DAY + 1);
    let later = stated().await;
    assert_ne!(kid(&later), kid(&first));
    assert!(
        Token::parse(&later)
            .unwrap()
            .verify(&fetched, &[Algorithm::Es256])
            .is_ok()
    );
    assert!(
        Token::parse(&first)
            .unwrap()
            .verify(&keys().await, &[Algorithm::Es256])
            .is_ok()
    );
}

/// It is signed by the gateway, and everything that takes what the gateway signed must know it from that.
/// Spec: I5, I6
#[tokio::test]
async fn it_opens_nothing_at_the_gateway() {
    let at = Signed::start("true").await;
    let stated = at.stated("x-forwarded-identity").await;
    let reply = at.gateway.call("one", Some(&stated)).await;
    assert_eq!(reply.status, 401);
    assert!(reply.header("www-authenticate").unwrap().contains("invalid_token"));
    let bearer = format!("Bearer {stated}");
    let userinfo = at.gateway.get("/userinfo", &[("Authorization", &bearer)]).await;
    assert_eq!(userinfo.status, 401);
    let basic = "Basic Y2ktcnVubmVyOmErc2VjcmV0K29mK3RoZStjaStydW5uZXI=";
    let form = async |path: &str, pairs: &[(&str, &str)]| -> Reply {
        at.gateway.post_form(path, &[("Authorization", basic)], pairs).await
    };
    let inspected = form("/introspect", &[("token", &stated)]).await;
    assert_eq!((inspected.status, inspected.json()), (200, json!({ "active": false })));
    for (name, more) in [
        (
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            ("assertion", stated.as_str()),
        ),
        (
            "urn:ietf:params:oauth:grant-type:token-exchange",
            ("subject_token", stated.as_str()),
        ),
        ("refresh_token", ("refresh_token", stated.as_str())),
    ] {
        for kind in ["access_token", "id_token", "jwt"] {
            let kind = format!("urn:ietf:params:oauth:token-type:{kind}");
            let reply = form("/token", &[("grant_type", name), ("subject_token_type", &kind), more]).await;
            assert!((400..=401).contains(&reply.status), "{name} {kind}: {}", reply.text());
        }
    }
    let asserted = at
        .gateway
        .post_form(
            "/token",
            &[],
            &[
                ("grant_type", "client_credentials"),
                ("client_id", "ci-runner"),
                (
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                ),
                ("client_assertion", &stated),
            ],
        )
        .await;
    assert_eq!((asserted.status, asserted.error().as_str()), (401, "invalid_client"));
    let proof = at
        .gateway
        .post(
            "/one/mcp",
            &[("Authorization", &format!("DPoP {}", at.token)), ("DPoP", &stated)],
            "{}",
        )
        .await;
    assert_eq!(proof.status, 401);

    // As a hint at who is signed in it is nobody's: an ID token of somebody else would be `login_required`.
    let mut browser = Browser::default();
    let resource = at.gateway.resource("one");
    let target = authorize_target(&at.client, Some(&resource), None, &[]);
    walk(&at.gateway, &mut browser, &target, "bob").await;
    let mut silently = async |more: &[(&str, &str)]| {
        let more = [&[("prompt", "none")], more].concat();
        let target = authorize_target(&at.client, Some(&resource), None, &more);
        let reply = browser.get(&at.gateway, &target).await;
        reply.redirected("error")
    };
    let unhinted = silently(&[]).await;
    assert_eq!(silently(&[("id_token_hint", &stated)]).await, unhinted);
    assert_ne!(unhinted.as_deref(), Some("login_required"));
}

/// The part of the documentation that is a program in this language.
fn snippet(language: &str) -> String {
    let document = include_str!("../../docs/identity.md");
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("\n```").unwrap().0.to_owned()
}

/// Where tests/setup.sh puts what is installed for the tests.
#[expect(clippy::disallowed_methods, reason = "the place is the environment's to say")]
fn environment() -> String {
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    std::env::var("TEST_ENV").unwrap_or_else(|_| format!("{target}/test-env"))
}

/// Runs a program with statements as its arguments; it prints a line of JSON for each, `null` where it refuses.
async fn verdicts(command: &[&str], gateway: &str, audience: &str, statements: &[&str]) -> Vec<Value> {
    let (program, arguments) = command.split_first().unwrap();
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .args(statements)
        .env("GATEWAY_URL", gateway)
        .env("MCP_URL", audience)
        .current_dir("tests/judges")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await;
    let output = output
        .expect("it ends")
        .unwrap_or_else(|error| panic!("{program} is missing ({error}); run tests/setup.sh"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n(what is missing comes with tests/setup.sh)"
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), statements.len());
    lines
}

/// What docs/identity.md has upstreams do, done.
/// Spec: I7
#[tokio::test]
async fn the_documented_programs_tell_a_statement_from_everything_else() {
    let python = std::path::absolute(format!("{}/python-1/bin/python", environment())).unwrap();
    let node = format!(
        "{}\nfor (const it of process.argv.slice(1)) {{
            console.log(JSON.stringify(await caller(it).catch((error) => {{
                if (!error.code?.startsWith('ERR_J')) throw error;
                return null;
            }})));
        }}",
        snippet("js")
    );
    let script = format!(
        "{}\n\nimport json, sys\nfor it in sys.argv[1:]:\n    try:\n        print(json.dumps(caller(it)))\n    except jwt.PyJWTError:\n        print('null')\n",
        snippet("python")
    );

    let at = Signed::start("true").await;
    // Others have a clock of their own.
    let now = SystemClock.now().as_seconds();
    at.gateway.set_clock((now - 400) * 1000);
    let token = async || tokens(&at.gateway, &at.client, "ada", "one").await.access;
    let state = async |token: &str| {
        assert_eq!(at.gateway.call("one", Some(token)).await.status, 200);
        let seen = at.gateway.upstream.last();
        seen.header("x-forwarded-identity").unwrap().to_owned()
    };
    let expired = state(&token().await).await;
    at.gateway.set_clock(now * 1000);
    let good = state(&token().await).await;
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[1] = expired.split('.').nth(1).unwrap();
    let mixed = parts.join(".");
    // Signed with the same key, for whoever takes it for its own: all that is different is what it calls itself.
    let client = register(&at.gateway, json!({ "id_token_signed_response_alg": "ES256" })).await;
    let resource = at.gateway.resource("one");
    let asked = authorize_target(&client, Some(&resource), Some("one:use openid"), &[]);
    let reply = walk(&at.gateway, &mut Browser::default(), &asked, "ada").await;
    let reply = redeem(&at.gateway, &client, &reply.redirected("code").unwrap(), &[]).await;
    let id_token = reply.json()["id_token"].as_str().unwrap().to_owned();
    assert_eq!(payload(&id_token)["aud"], client.id);

    let gateway = at.gateway.origin();
    let node = ["node", "--input-type=module", "--eval", &node, "--"];
    let python = [python.to_str().unwrap(), "-c", &script];
    for command in [&node[..], &python[..]] {
        let all = [good.as_str(), &expired, &mixed, &id_token, &at.token, ""];
        let said = verdicts(command, &gateway, &resource, &all).await;
        assert_eq!(said[0], payload(&good), "{}", command[0]);
        assert!(said[1..].iter().all(Value::is_null), "{}: {said:?}", command[0]);
        for elsewhere in [at.gateway.resource("two"), client.id.clone()] {
            let said = verdicts(command, &gateway, &elsewhere, &[&good, &id_token]).await;
            assert!(said.iter().all(Value::is_null), "{}: {said:?}", command[0]);
        }
    }
}
