//! Rules about tools, resources, prompts and methods, through the whole gateway: who may call what in both eras of the
//! protocol, what lists show, and every way to get around them that we could think of.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http1::{Reply, read_reply, request, send};
use crate::person::{Browser, Client, Tokens, authorize_target, redeem, register, walk};
use crate::setup::Gateway;

const RULES: &str = r#"
    scopes: ["one:use"]
    limits: { body: 2MiB }
    tools:
      - { match: "get-*", scopes: [] }
      - { match: "*-write", scopes: ["one:write"] }
      - { match: "admin-*", scopes: ["one:root", "one:write"] }
      - { match: "danger*", deny: true }
    resources:
      - { match: "file:///public/*", scopes: [] }
      - { match: "file:///notes/*", scopes: ["one:write"] }
      - { match: "*", deny: true }
    prompts:
      - { match: "secret-*", deny: true }
    methods:
      - { match: "logging/*", deny: true }
"#;

/// What the server offers, with fields and numbers that no library would write like this.
const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"ttlMs":1.50e3,"cacheScope":"public","tools":[{"name":"get-sum","x":1e400},{"name":"file-write"},{"name":"danger-zone"},{"name":"admin-reset"},{ "name":"echo","inputSchema":{"type":"object"} }],"nextCursor":"c"}}"#;
const SHOWN: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"ttlMs":1.50e3,"cacheScope":"private","tools":[{"name":"get-sum","x":1e400},{ "name":"echo","inputSchema":{"type":"object"} }],"nextCursor":"c"}}"#;

/// A server that answers as `X-Answer` says, and remembers the bodies that it saw.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Vec<(HeaderMap, Bytes)>>>);

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> (HeaderMap, Bytes) {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

async fn answer(State(server): State<Server>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let how = headers
        .get("x-answer")
        .map_or("json", |value| value.to_str().unwrap())
        .to_owned();
    server.0.lock().unwrap().push((headers, body.clone()));
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let lists = |list: &str, by: &str, names: &[&str]| {
        let entries: Vec<_> = names.iter().map(|name| json!({ by: name })).collect();
        json!({ "jsonrpc": "2.0", "id": 1, "result": { list: entries } }).to_string()
    };
    let text = match asked["method"].as_str() {
        Some("tools/list") => TOOLS.to_owned(),
        None if method == Method::GET => TOOLS.to_owned(),
        Some("resources/list") => lists(
            "resources",
            "uri",
            &["file:///public/a", "file:///notes/b", "file:///etc/c"],
        ),
        Some("resources/templates/list") => lists(
            "resourceTemplates",
            "uriTemplate",
            &["file:///public/{name}", "file:///etc/{name}"],
        ),
        Some("prompts/list") => lists("prompts", "name", &["greet", "secret-plan"]),
        _ => {
            json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "heard": true, "tools": [{ "name": "danger" }] } })
                .to_string()
        }
    };
    let json = [(header::CONTENT_TYPE, "application/json; charset=utf-8")];
    match how.as_str() {
        "sse" => {
            // After something else, and before an event that is not for filters.
            let body = format!(
                ": hello\n\nevent: endpoint\r\ndata: /elsewhere\r\n\r\nid: 7\ndata: {text}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}}\n\n"
            );
            ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
        }
        "garbage" => (json, "{\"result\":{\"tools\":[").into_response(),
        "garbage-sse" => (
            [(header::CONTENT_TYPE, "text/event-stream")],
            "data: {\"result\":{\"tools\":[{\"name\":\"danger\"}]\n\n",
        )
            .into_response(),
        "gzip" => (json, [(header::CONTENT_ENCODING, "gzip")], text).into_response(),
        "long" => (json, vec![b' '; 5 << 20]).into_response(),
        "empty" => axum::http::StatusCode::ACCEPTED.into_response(),
        _ => (json, text).into_response(),
    }
}

/// A gateway with rules before such a server.
struct Ruled {
    gateway: Gateway,
    server: Server,
    client: Client,
    /// `Bearer …` of ada, with what any use needs.
    ada: String,
}

impl Ruled {
    async fn start() -> Self {
        Self::with("").await
    }

    async fn with(more: &str) -> Self {
        let server = Server::default();
        let address = server.start().await;
        Self::before(server, address, more).await
    }

    async fn before(server: Server, address: SocketAddr, more: &str) -> Self {
        let more = more.to_owned();
        let gateway = Gateway::start_with(move |yaml| {
            let (before, _) = yaml.split_once("upstreams:").unwrap();
            let before = before.replace(
                "users:",
                "  - { name: \"one:root\", description: Everything, implies: [\"one:write\", \"one:use\"] }\nusers:",
            );
            let mut yaml = format!("{before}upstreams:\n");
            write!(
                yaml,
                "  - name: one\n    path: /one/mcp\n    url: \"http://{address}/mcp\"{RULES}{more}"
            )
            .unwrap();
            yaml
        })
        .await;
        let client = register(&gateway, json!({})).await;
        let mut at = Self {
            gateway,
            server,
            client,
            ada: String::new(),
        };
        at.ada = at.bearer("one:use").await;
        at
    }

    async fn bearer(&self, scope: &str) -> String {
        let target = authorize_target(&self.client, Some(&self.gateway.resource("one")), Some(scope), &[]);
        let answer = walk(&self.gateway, &mut Browser::default(), &target, "ada").await;
        let reply = redeem(&self.gateway, &self.client, &answer.redirected("code").unwrap(), &[]).await;
        format!("Bearer {}", Tokens::of(&reply).access)
    }

    async fn raw(&self, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut all = vec![("Authorization", self.ada.as_str())];
        all.extend_from_slice(headers);
        send(
            self.gateway.address,
            &request("POST", "/one/mcp", &self.gateway.host, &all, body),
        )
        .await
    }

    async fn post(&self, bearer: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut all = vec![
            ("Authorization", bearer),
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
        ];
        all.extend_from_slice(headers);
        send(
            self.gateway.address,
            &request("POST", "/one/mcp", &self.gateway.host, &all, body.as_bytes()),
        )
        .await
    }

    /// Posts as ada what has to be refused; the server must not hear of it.
    async fn refused(&self, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let before = self.server.count();
        let reply = self.raw(headers, body).await;
        assert!(
            matches!(reply.status, 400 | 403),
            "{} {}",
            reply.status,
            String::from_utf8_lossy(body)
        );
        assert_eq!(self.server.count(), before, "{}", String::from_utf8_lossy(body));
        reply
    }
}

fn call(name: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": "a-7", "method": "tools/call", "params": { "name": name, "arguments": {} } })
        .to_string()
}

fn read(uri: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "resources/read", "params": { "uri": uri } }).to_string()
}

fn is_denied(reply: &Reply, id: &Value) {
    assert_eq!(reply.status, 403, "{}", reply.text());
    let answer = reply.json();
    assert_eq!((&answer["id"], &answer["jsonrpc"]), (id, &json!("2.0")), "{answer}");
    assert_eq!(answer["error"]["code"], -32015);
    assert!(reply.header("www-authenticate").is_none());
}

/// Spec: H5, H6, H16
#[tokio::test]
async fn rules_decide_who_may_call_what() {
    let at = Ruled::start().await;
    let allowed = at.post(&at.ada, &[], &call("get-sum")).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    assert_eq!(at.server.last().1, call("get-sum"), "the body passes as it is");
    assert_eq!(
        allowed.json()["result"]["tools"][0]["name"],
        "danger",
        "what is no list stays"
    );
    is_denied(&at.post(&at.ada, &[], &call("danger-zone")).await, &json!("a-7"));
    is_denied(
        &at.post(&at.ada, &[], r#"{"id":3,"method":"logging/setLevel"}"#).await,
        &json!(3),
    );

    let before = at.server.count();
    let reply = at.post(&at.ada, &[], &call("file-write")).await;
    assert_eq!(reply.status, 403);
    let challenge = reply.header("www-authenticate").unwrap();
    assert!(
        challenge.starts_with("Bearer error=\"insufficient_scope\", resource_metadata=\"http://"),
        "{challenge}"
    );
    assert!(
        challenge.ends_with("scope=\"one:use one:write\""),
        "all that is needed: {challenge}"
    );
    assert_eq!(at.server.count(), before);
    let reply = at.post(&at.ada, &[], &call("admin-reset")).await;
    assert!(
        reply
            .header("www-authenticate")
            .unwrap()
            .ends_with("scope=\"one:use one:root one:write\"")
    );

    // The step up that the challenge asks for, and a scope that implies what is needed.
    for scope in ["one:use one:write", "one:root"] {
        let bearer = at.bearer(scope).await;
        assert_eq!(at.post(&bearer, &[], &call("file-write")).await.status, 200, "{scope}");
        assert_eq!(at.post(&bearer, &[], &call("danger")).await.status, 403);
    }
    let metrics = at.gateway.metrics().await;
    for (tool, outcome, count) in [
        ("get-sum", "allowed", 1),
        ("danger-zone", "denied", 1),
        ("danger", "denied", 2),
        ("file-write", "insufficient_scope", 1),
        ("file-write", "allowed", 2),
        ("admin-reset", "insufficient_scope", 1),
    ] {
        let line =
            format!("mcpgate_tool_calls_total{{outcome=\"{outcome}\",tool=\"{tool}\",upstream=\"one\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    for (decision, count) in [("tool_denied", 4), ("insufficient_scope", 2), ("allowed", 3)] {
        let line = format!("mcpgate_auth_decisions_total{{decision=\"{decision}\",upstream=\"one\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

/// Spec: H5, H16
///
/// What is missing for all messages of a batch is asked for at once, and one that is forbidden forbids all.
#[tokio::test]
async fn a_batch_is_as_good_as_its_worst_message() {
    let at = Ruled::start().await;
    let batch = |names: &[&str]| {
        format!(
            "[{}]",
            names.iter().map(|name| call(name)).collect::<Vec<_>>().join(",")
        )
    };
    assert_eq!(at.post(&at.ada, &[], &batch(&["get-a", "echo"])).await.status, 200);
    let before = at.server.count();
    let reply = at.post(&at.ada, &[], &batch(&["get-a", "file-write", "admin-x"])).await;
    assert!(
        reply
            .header("www-authenticate")
            .unwrap()
            .ends_with("scope=\"one:use one:write one:root\"")
    );
    is_denied(&at.post(&at.ada, &[], &batch(&["get-a", "danger"])).await, &Value::Null);
    assert_eq!(at.server.count(), before);
    // Notifications and answers to the server pass.
    let others = r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","id":1,"result":{}}]"#;
    assert_eq!(at.post(&at.ada, &[], others).await.status, 200);
}

/// Spec: H16
#[tokio::test]
async fn in_the_newer_era_headers_have_to_be_those_of_the_body() {
    let at = Ruled::start().await;
    let modern = ("MCP-Protocol-Version", "2026-07-28");
    let method = ("Mcp-Method", "tools/call");
    let body = call("get-sum");
    for name in ["get-sum", "=?base64?Z2V0LXN1bQ==?="] {
        let reply = at.post(&at.ada, &[modern, method, ("Mcp-Name", name)], &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(at.server.last().0["mcp-name"], name);
    }
    let other = |name| vec![modern, method, ("Mcp-Name", name)];
    for headers in [
        vec![modern],
        vec![modern, method],
        vec![modern, ("Mcp-Name", "get-sum")],
        vec![modern, ("Mcp-Method", "ping"), ("Mcp-Name", "get-sum")],
        other("echo"),
        other("GET-SUM"),
        other("=?base64?ZWNobw==?="),
        other("=?base64?Z2V0LXN1bQ?="),
        vec![modern, method, method, ("Mcp-Name", "get-sum")],
        vec![modern, method, ("Mcp-Name", "get-sum"), ("Mcp-Name", "get-sum")],
        vec![
            modern,
            ("MCP-Protocol-Version", "2025-11-25"),
            method,
            ("Mcp-Name", "get-sum"),
        ],
    ] {
        let reply = at.refused(&headers, body.as_bytes()).await;
        assert_eq!(reply.status, 400);
        let answer = reply.json();
        assert_eq!(
            (&answer["error"]["code"], &answer["id"]),
            (&json!(-32020), &json!("a-7")),
            "{headers:?}"
        );
    }
    // Headers that fit do not make a denied tool an allowed one.
    is_denied(
        &at.refused(&other("danger"), call("danger").as_bytes()).await,
        &json!("a-7"),
    );
    // A harmless name in front of a denied tool, and the other way round, in the older era.
    let old = ("MCP-Protocol-Version", "2025-11-25");
    is_denied(
        &at.refused(&[old, method, ("Mcp-Name", "get-sum")], call("danger").as_bytes())
            .await,
        &json!("a-7"),
    );
    is_denied(
        &at.refused(&[old, method, ("Mcp-Name", "danger")], body.as_bytes())
            .await,
        &json!("a-7"),
    );
    assert_eq!(
        at.raw(&[old, ("Mcp-Method", "ping")], body.as_bytes()).await.status,
        200,
        "the body decides"
    );
}

/// Spec: H17
#[tokio::test]
async fn lists_are_without_what_their_reader_may_not_use() {
    let at = Ruled::start().await;
    let list = |method: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": method }).to_string();
    let reply = at
        .post(&at.ada, &[("Accept-Encoding", "gzip")], &list("tools/list"))
        .await;
    assert_eq!(reply.text(), SHOWN);
    assert_eq!(reply.header("content-length"), Some(SHOWN.len().to_string().as_str()));
    assert!(!at.server.last().0.contains_key("accept-encoding"));
    let root = at.bearer("one:root").await;
    let all = at.post(&root, &[], &list("tools/list")).await.text();
    assert!(all.contains("admin-reset") && all.contains("file-write") && !all.contains("danger"));

    let entries = async |bearer: &str, method: &str, list_name: &str| {
        let reply = at.post(bearer, &[], &list(method)).await;
        reply.json()["result"][list_name].as_array().unwrap().len()
    };
    assert_eq!(entries(&at.ada, "resources/list", "resources").await, 1);
    assert_eq!(entries(&root, "resources/list", "resources").await, 2);
    assert_eq!(
        entries(&at.ada, "resources/templates/list", "resourceTemplates").await,
        1
    );
    assert_eq!(entries(&at.ada, "prompts/list", "prompts").await, 1);

    // In a stream, whose other events are as they were; and in one that answers no request.
    let expected = format!(
        ": hello\n\nevent: endpoint\r\ndata: /elsewhere\r\n\r\nid: 7\ndata: {SHOWN}\n\n\
         data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}}\n\n"
    );
    let reply = at.post(&at.ada, &[("X-Answer", "sse")], &list("tools/list")).await;
    assert_eq!(reply.text(), expected);
    let headers = [
        ("Authorization", at.ada.as_str()),
        ("Accept", "text/event-stream"),
        ("X-Answer", "sse"),
        ("Last-Event-ID", "6"),
    ];
    let resumed = at.gateway.get("/one/mcp", &headers).await;
    assert!(
        resumed.text().contains(SHOWN) && !resumed.text().contains("danger"),
        "{}",
        resumed.text()
    );

    // What cannot be looked into is not passed on.
    for how in ["garbage", "gzip", "long"] {
        let reply = at.post(&at.ada, &[("X-Answer", how)], &list("tools/list")).await;
        assert_eq!(reply.status, 502, "{how}");
        assert_eq!(reply.json()["id"], 1);
    }
    let reply = at
        .post(&at.ada, &[("X-Answer", "garbage-sse")], &list("tools/list"))
        .await;
    assert!(!reply.text().contains("danger"), "{}", reply.text());
    assert_eq!(
        at.post(&at.ada, &[("X-Answer", "empty")], &list("tools/list"))
            .await
            .status,
        202
    );
    // An answer that holds no list is not held back, whatever its form.
    assert_eq!(
        at.post(&at.ada, &[("X-Answer", "long")], &call("echo")).await.status,
        200
    );
}

/// Spec: H17
///
/// A stream that comes byte for byte, and what was whole goes on at once.
#[tokio::test]
async fn events_in_pieces_are_put_together_before_they_are_judged() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let at = Ruled::before(Server::default(), address, "").await;
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"tools/list\"}") {
            stream.read_buf(&mut seen).await.unwrap();
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for byte in format!("data: {TOOLS}\r\n\r\ndata: {TOOLS}").bytes() {
            stream
                .write_all(&[b'1', b'\r', b'\n', byte, b'\r', b'\n'])
                .await
                .unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let ask = at.post(&at.ada, &[], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let (reply, ()) = tokio::join!(ask, serve);
    assert_eq!(reply.text(), format!("data: {SHOWN}\r\n\r\ndata: {SHOWN}\n"));
}

/// Spec: H17
#[tokio::test]
async fn lists_may_be_left_as_they_are() {
    let at = Ruled::with("    filter_lists: false\n").await;
    let reply = at
        .post(&at.ada, &[], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#)
        .await;
    assert_eq!(reply.text(), TOOLS);
    assert_eq!(at.post(&at.ada, &[], &call("danger")).await.status, 403);
}

/// Spec: H16, K6
#[tokio::test]
async fn no_body_gets_around_a_rule() {
    let at = Ruled::start().await;
    let json = ("Content-Type", "application/json");
    let deep = format!(
        r#"{{"method":"tools/call","params":{{"arguments":{}"#,
        "[".repeat(200_000)
    );
    let many = format!("[{}]", vec![call("echo"); 101].join(","));
    let sixteen: Vec<u8> = call("danger").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = ["\u{feff}", &call("danger")].concat();
    let latin = b"{\"method\":\"tools/call\",\"params\":{\"name\":\"echo\xff\"}}";
    for body in [
        br#"{"id":1,"method":"ping","method":"tools/call","params":{"name":"danger"}}"#.as_slice(),
        br#"{"id":1,"method":"tools/call","params":{"name":"echo","name":"danger"}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":"echo"},"params":{"name":"danger"}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":"echo","n\u0061me":"danger"}}"#,
        br#"{"id":1,"method":"ping","Method":"tools/call","params":{"name":"danger"}}"#,
        br#"{"id":1,"METHOD":"tools/call","params":{"name":"danger"}}"#,
        br#"{"id":1,"method":"tools/call","params":{"Name":"danger","name":"echo"}}"#,
        br#"{"id":1,"\u006dethod":"tools\/\u0063all","params":{"name":"d\u0061nger"}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":"danger "}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":"echo "}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":"echo\u0000"}}"#,
        br#"{"id":1,"method":"tools/call","params":{"name":["danger"]}}"#,
        br#"{"id":1,"method":"tools/call","params":["danger"]}"#,
        br#"{"id":1,"method":"tools/call"}"#,
        br#"[{"id":1,"method":"ping"},{"id":2,"method":"tools/call","params":{"name":"danger"}}]"#,
        br#"[[{"id":2,"method":"tools/call","params":{"name":"danger"}}]]"#,
        br#"[{"id":1,"method":"ping"},[{"id":2,"method":"tools/call","params":{"name":"danger"}}]]"#,
        br#"{"id":1,"method":"ping"}{"id":2,"method":"tools/call","params":{"name":"danger"}}"#,
        br#"{"id":1,/* */"method":"tools/call","params":{"name":"danger"}}"#,
        br"[]",
        br"",
        br"7",
        deep.as_bytes(),
        many.as_bytes(),
        &sixteen,
        marked.as_bytes(),
        latin,
    ] {
        at.refused(&[json], body).await;
    }
    for (body, code, id) in [
        ("{", -32700, Value::Null),
        ("[]", -32600, Value::Null),
        (r#"{"id":7,"method":"tools/call","Method":"ping"}"#, -32600, json!(7)),
        (r#"{"id":"x","method":"tools/call","params":{}}"#, -32602, json!("x")),
    ] {
        let answer = at.refused(&[json], body.as_bytes()).await.json();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &id), "{body}");
    }
    // The same bytes mean something else in another coding, so they are judged in none.
    let harmless = call("echo");
    for header in [
        ("Content-Type", "application/json; charset=utf-7"),
        ("Content-Type", "application/json;CHARSET = \"utf-16le\""),
        ("Content-Encoding", "gzip"),
    ] {
        assert_eq!(
            at.refused(&[header], harmless.as_bytes()).await.status,
            400,
            "{header:?}"
        );
    }
    assert_eq!(
        at.refused(&[json, ("Content-Type", "text/plain")], harmless.as_bytes())
            .await
            .status,
        400
    );
    assert_eq!(
        at.raw(
            &[("Content-Type", "application/json; charset=UTF-8")],
            harmless.as_bytes()
        )
        .await
        .status,
        200
    );
    // A body that comes with another method is a body.
    let headers = [("Authorization", at.ada.as_str())];
    let sneaky = request(
        "DELETE",
        "/one/mcp",
        &at.gateway.host,
        &headers,
        call("danger").as_bytes(),
    );
    let before = at.server.count();
    assert!(matches!(send(at.gateway.address, &sneaky).await.status, 400 | 403));
    assert_eq!(at.server.count(), before);
}

/// Spec: H16
#[tokio::test]
async fn no_spelling_of_a_uri_gets_around_a_rule() {
    let at = Ruled::start().await;
    assert_eq!(at.post(&at.ada, &[], &read("file:///public/a%20b")).await.status, 200);
    for uri in [
        "file:///etc/passwd",
        "file:///public/../etc/passwd",
        "file:///public/%2e%2e/etc/passwd",
        "file:///public/..%2fetc/passwd",
        "file:///public/%252e%252e/etc/passwd",
        "FILE:///public/../etc/passwd",
        "file:///public/a\u{0}",
        " file:///public/a",
    ] {
        for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
            let body = json!({ "id": 7, "method": method, "params": { "uri": uri } }).to_string();
            at.refused(&[], body.as_bytes()).await;
        }
        let body = json!({ "id": 7, "method": "completion/complete", "params": { "ref": { "type": "ref/resource", "uri": uri } } });
        at.refused(&[], body.to_string().as_bytes()).await;
    }
    let reply = at.post(&at.ada, &[], &read("file:///notes/%61")).await;
    let challenge = reply.header("www-authenticate").unwrap();
    assert!(challenge.ends_with("scope=\"one:use one:write\""), "{challenge}");
    for two_ways in [
        "file:///public//../etc/passwd",
        "file:///public/%2f../etc/passwd",
        "file:///public//a",
    ] {
        at.refused(&[], read(two_ways).as_bytes()).await;
    }
    let prompt = json!({ "id": 7, "method": "completion/complete", "params": { "ref": { "type": "ref/prompt", "name": "secret-x" } } });
    at.refused(&[], prompt.to_string().as_bytes()).await;
}

/// Spec: H16, K6
#[tokio::test]
async fn bodies_are_read_whole_whatever_their_pieces_and_no_further_than_their_limit() {
    let at = Ruled::start().await;
    let head = |more: &str| {
        format!(
            "POST /one/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Type: application/json\r\n{more}\r\n",
            at.gateway.host, at.ada
        )
    };
    let chunked = |text: &str| {
        let (start, end) = text.split_at(20);
        format!("{:x}\r\n{start}\r\n{:x}\r\n{end}\r\n0\r\n\r\n", start.len(), end.len())
    };
    // Twice on one connection: what was read for the rules is not missing for what comes after.
    let mut stream = TcpStream::connect(at.gateway.address).await.unwrap();
    for (name, status) in [("echo", 200), ("danger", 403), ("get-sum", 200)] {
        let bytes = head("Transfer-Encoding: chunked\r\n") + &chunked(&call(name));
        let (first, second) = bytes.split_at(bytes.len() - 30);
        stream.write_all(first.as_bytes()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stream.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(read_reply(&mut stream, false).await.status, status, "{name}");
    }
    assert_eq!(at.server.last().1, call("get-sum"));
    // Somebody who waits to be asked for the body.
    let body = call("echo");
    let expecting = head(&format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len()));
    let mut stream = TcpStream::connect(at.gateway.address).await.unwrap();
    stream.write_all(expecting.as_bytes()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.status, 200);

    let large = |size: usize| {
        let arguments = json!({ "text": "x".repeat(size) });
        json!({ "id": 7, "method": "tools/call", "params": { "arguments": arguments, "name": "echo" } }).to_string()
    };
    let fits = large((2 << 20) - 200);
    assert_eq!(at.post(&at.ada, &[], &fits).await.status, 200);
    assert_eq!(at.server.last().1, fits);
    let before = at.server.count();
    assert_eq!(at.post(&at.ada, &[], &large(2 << 20)).await.status, 413);
    let bytes = head("Transfer-Encoding: chunked\r\n") + &chunked(&large(2 << 20));
    assert_eq!(send(at.gateway.address, bytes.as_bytes()).await.status, 413);
    assert_eq!(at.server.count(), before);
}
