//! The audit log of a whole gateway: what is in it, what is never in it, and that a change of one byte is found.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::person::{Browser, Client, authorize_target, refresh, register, tokens};
use crate::provider::{Idp, trip, way};
use crate::setup::{Gateway, PASSWORD};

const KEY: &str = "a key that is long enough";

struct Audited {
    gateway: Gateway,
    file: PathBuf,
    key: PathBuf,
}

/// A configuration with an audit log.
fn with_audit(yaml: &str) -> String {
    let directory = yaml.split("path: \"").nth(1).unwrap().split("/data").next().unwrap();
    let section = format!("audit: {{ file: \"{directory}/audit.jsonl\", key: \"{KEY}\" }}\nscopes:\n");
    yaml.replacen("scopes:\n", &section, 1)
}

impl Audited {
    async fn start() -> Self {
        Self::of(Gateway::start_with(|yaml| with_audit(&yaml)).await)
    }

    fn of(gateway: Gateway) -> Self {
        let file = gateway.directory.path().join("audit.jsonl");
        let key = gateway.directory.path().join("key");
        std::fs::write(&key, format!("{KEY}\n")).unwrap();
        Self { gateway, file, key }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    /// The lines, once there is one of this event and outcome.
    async fn lines_with(&self, event: &str, outcome: &str) -> Vec<Value> {
        for _ in 0..200 {
            let lines: Vec<Value> = self
                .text()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .filter(|line: &Value| line["event"] == event && line["outcome"] == outcome)
                .collect();
            if !lines.is_empty() {
                return lines;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("no {event} {outcome} in {}", self.text());
    }

    fn verify(&self, more: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcpgate"));
        command
            .args(["audit", "verify", "--key-file"])
            .arg(&self.key)
            .args(more)
            .arg(&self.file);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }
}

async fn fail_to_sign_in(gateway: &Gateway, client: &Client) {
    let mut browser = Browser::default();
    let target = authorize_target(client, Some(&gateway.resource("two")), None, &[]);
    let reply = browser.get(gateway, &target).await;
    let page = browser.follow(gateway, reply).await;
    let pairs = [("username", "not-a-name-but-a-password"), ("password", "wrong")];
    browser.fill_in(gateway, &page, &pairs).await;
}

/// Spec: L17
#[tokio::test(flavor = "multi_thread")]
async fn what_matters_is_written_down_and_nothing_secret_with_it() {
    let audited = Audited::start().await;
    let gateway = &audited.gateway;
    let client = register(gateway, json!({})).await;
    fail_to_sign_in(gateway, &client).await;
    let own = tokens(gateway, &client, "ada", "one").await;
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": { "name": "delete", "arguments": { "secret": "an argument" } } });
    let authorization = format!("Bearer {}", own.access);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
    ];
    assert_eq!(gateway.post("/one/mcp", &headers, &call.to_string()).await.status, 200);
    gateway
        .call("one", Some("mgat_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
        .await;
    gateway.call("one", None).await;
    let rotated = refresh(gateway, &client, &own.refresh).await.json();
    gateway.advance(120);
    assert_eq!(refresh(gateway, &client, &own.refresh).await.status, 400);

    let registered = audited.lines_with("client_registered", "done").await;
    assert_eq!(registered[0]["client_id"], client.id.as_str());
    let failed = audited.lines_with("sign_in", "failure").await;
    assert_eq!(
        (failed[0]["by"].as_str(), failed[0]["address"].as_str()),
        (Some("builtin"), Some("127.0.0.1"))
    );
    assert!(failed[0].get("subject").is_none());
    assert_eq!(audited.lines_with("sign_in", "success").await[0]["subject"], "ada");
    let consent = &audited.lines_with("consent", "given").await[0];
    assert_eq!(
        (consent["upstream"].as_str(), consent["scope"].as_str()),
        (Some("one"), Some("one:use"))
    );
    assert_eq!(
        audited.lines_with("token_issued", "done").await[0]["by"],
        "authorization_code"
    );
    assert_eq!(audited.lines_with("token_refreshed", "done").await[0]["subject"], "ada");
    let call = &audited.lines_with("tool_call", "allowed").await[0];
    assert_eq!(
        (call["tool"].as_str(), call["subject"].as_str()),
        (Some("delete"), Some("ada"))
    );
    assert!(call["request_id"].is_string());
    let denied = audited.lines_with("access_denied", "invalid_token").await;
    assert_eq!(denied.len(), 1, "a call without a token is how every client begins");
    assert_eq!(
        audited.lines_with("reuse_detected", "refresh_token").await[0]["client_id"],
        client.id.as_str()
    );

    let text = audited.text();
    let refreshed = rotated["refresh_token"].as_str().unwrap().to_owned();
    for secret in [
        own.access.as_str(),
        &own.refresh,
        &refreshed,
        PASSWORD,
        "an argument",
        "not-a-name",
        "ada@example.com",
        KEY,
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    // It is nobody else's to read.
    let mode = std::fs::metadata(&audited.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // It goes on after a restart.
    let before = text.lines().count();
    let Audited { gateway, file, key } = audited;
    let gateway = gateway.restart().await;
    let audited = Audited { gateway, file, key };
    assert_eq!(audited.lines_with("started", "done").await.len(), 2);
    assert!(audited.text().lines().count() >= before + 2);
    let (code, said) = audited.verify(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("lines hold, from the beginning"), "{said}");
}

/// The attacks: a byte changed, a line taken out, the end cut off, a line made up, another key.
/// Spec: L17
#[tokio::test(flavor = "multi_thread")]
async fn second_factors_and_sign_ins_elsewhere_are_written_down() {
    let audited = Audited::start().await;
    let client = register(&audited.gateway, json!({})).await;
    let (mut browser, _, codes) = crate::second::set_up(&audited.gateway, &client).await;
    audited.lines_with("account_changed", "second_factor_set_up").await;
    let page = browser.get(&audited.gateway, "/account/security").await;
    browser.fill_in(&audited.gateway, &page, &[("code", "000000")]).await;
    browser.fill_in(&audited.gateway, &page, &[("code", &codes[0])]).await;
    assert_eq!(audited.lines_with("second_factor", "wrong").await[0]["subject"], "ada");
    let shown = &audited.lines_with("second_factor", "shown").await[0];
    assert_eq!(
        (shown["by"].as_str(), shown["subject"].as_str()),
        (Some("kba"), Some("ada"))
    );
    assert!(codes.iter().all(|code| !audited.text().contains(code.as_str())));

    let idp = Idp::start().await;
    let audited = Audited::of(
        idp.gateway_on(None, ", allowed_groups: [nobody]", |yaml| with_audit(&yaml))
            .await,
    );
    let client = register(&audited.gateway, json!({})).await;
    let target = authorize_target(&client, Some(&audited.gateway.resource("two")), None, &[]);
    trip(&audited.gateway, &idp, &mut Browser::default(), &target).await;
    let denied = &audited.lines_with("sign_in", "denied").await[0];
    assert_eq!(
        (denied["by"].as_str(), denied["address"].as_str()),
        (Some("idp"), Some("127.0.0.1"))
    );
    let mut browser = Browser::default();
    let back = idp.come_back(&way(&audited.gateway, &mut browser, &target).await);
    idp.inside().status = 503;
    browser.get(&audited.gateway, &back).await;
    audited.lines_with("sign_in", "error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_it_is_found_out() {
    let audited = Audited::start().await;
    for _ in 0..3 {
        register(&audited.gateway, json!({})).await;
    }
    audited.lines_with("client_registered", "done").await;
    let Audited { gateway, file, key } = audited;
    gateway.running.stop().await.unwrap();
    let directory = gateway.directory;
    let audited = Audited {
        gateway: Gateway::start().await,
        file,
        key,
    };
    let whole = audited.text();
    let (code, said) = audited.verify(&[]);
    assert_eq!(code, 0, "{said}");
    let last = said.rsplit(' ').next().unwrap().trim().to_owned();
    assert_eq!(audited.verify(&["--expect", &last]).0, 0);
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 5, "{whole}");
    let second = lines[1].replacen("client_registered", "client_removed", 1);
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    for (changed, says) in [
        (whole.replacen("mgc_", "mgd_", 1), "line 2"),
        (joined(&[lines[0], &second, lines[2], lines[3], lines[4]]), "line 2"),
        (joined(&[lines[0], lines[2], lines[3], lines[4]]), "line 2"),
        (joined(&[lines[0], lines[2], lines[1], lines[3], lines[4]]), "line 2"),
        (joined(&[lines[0], lines[1], lines[1], lines[2]]), "line 3"),
        (joined(&lines) + "{\"seq\":6}\n", "line 6"),
        (whole.trim_end().to_owned(), "line 5"),
    ] {
        std::fs::write(&audited.file, &changed).unwrap();
        let (code, said) = audited.verify(&[]);
        assert!(code == 1 && said.contains(says), "{code} {said} {changed}");
    }
    std::fs::write(&audited.file, joined(&lines[..4])).unwrap();
    assert_eq!(
        audited.verify(&[]).0,
        0,
        "that the end is missing shows only to who knows it"
    );
    assert_eq!(audited.verify(&["--expect", &last]).0, 1);
    std::fs::write(&audited.file, &whole).unwrap();
    std::fs::write(&audited.key, "another key").unwrap();
    assert_eq!(audited.verify(&[]).0, 1);
    std::fs::remove_file(&audited.key).unwrap();
    assert_eq!(audited.verify(&[]).0, 2);
    drop(directory);
}

/// The page and the program say the same.
#[test]
fn every_event_is_documented_and_no_other() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/audit.md")).unwrap();
    let events = page.split("## Events").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut documented: Vec<String> = events
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|row| {
            row.split(" | ")
                .next()
                .unwrap_or_default()
                .split(", ")
                .collect::<Vec<_>>()
        })
        .map(|name| name.trim_matches('`').to_owned())
        .collect();
    documented.sort();
    let mut known: Vec<String> = mcpgate::telemetry::audit::Event::ALL
        .iter()
        .map(|event| serde_json::to_value(event).unwrap().as_str().unwrap().to_owned())
        .collect();
    known.sort();
    assert_eq!(documented, known);
}
