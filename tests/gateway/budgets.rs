//! Limits of upstreams: how often and how many at a time, for one person, one client, one tool and everybody.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::http1::{Reply, find, read_reply, request};
use crate::person::{register, tokens};
use crate::sessions::Bound;
use crate::setup::Gateway;

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

fn call(id: u32, tool: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool } }).to_string()
}

/// An upstream that answers when it is told to: whatever it is asked, with what `answer` makes of the request.
async fn patient(answer: &'static str) -> (std::net::SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut go = receiver.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while find(&buffer, b"\r\n\r\n").is_none() {
                    let mut more = [0; 4096];
                    match stream.read(&mut more).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => buffer.extend_from_slice(&more[..n]),
                    }
                }
                go.wait_for(|go| *go).await.ok();
                stream.write_all(answer.as_bytes()).await.ok();
                let mut rest = [0; 64];
                while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
            });
        }
    });
    (address, sender)
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A gateway before an upstream of the test's own.
async fn before(address: std::net::SocketAddr, limits: &str) -> Bound {
    let mut server = crate::mcp_server::McpServer::start().await;
    server.address = address;
    Bound::before(server, "/mcp", &format!(", limits: {{ {limits} }}")).await
}

async fn ask(at: &Bound, method: &str, bearer: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(at.gateway.address).await.unwrap();
    let headers = [
        ("Authorization", bearer),
        ("Accept", "text/event-stream, application/json"),
    ];
    let bytes = request(method, "/one/mcp", &at.gateway.host, &headers, body.as_bytes());
    stream.write_all(&bytes).await.unwrap();
    stream
}

async fn post(at: &Bound, bearer: &str, body: &str) -> Reply {
    at.send("POST", "/one/mcp", &[("Authorization", bearer)], body).await
}

async fn metric(at: &Bound, line: &str) -> bool {
    at.gateway.metrics().await.lines().any(|own| own == line)
}

/// Waits until a metric says so.
async fn until(at: &Bound, line: &str) {
    for _ in 0..200 {
        if metric(at, line).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never {line}:\n{}", at.gateway.metrics().await);
}

fn is_one_too_many(reply: &Reply, id: &serde_json::Value, message: &str) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let body = reply.json();
    assert_eq!(
        (
            &body["id"],
            body["error"]["code"].as_i64(),
            body["error"]["message"].as_str()
        ),
        (id, Some(-32012), Some(message))
    );
    assert!(
        reply.header("www-authenticate").is_none(),
        "no client must sign in again for this"
    );
}

/// Spec: K25
#[tokio::test]
async fn a_client_s_requests_are_counted_whoever_uses_it() {
    let at = Bound::start("/mcp", ", limits: { client_requests_per_minute: 3 }").await;
    for bearer in [&at.ada, &at.bob, &at.ada] {
        assert_ne!(post(&at, bearer, PING).await.status, 429);
    }
    let reply = at.send("GET", "/one/mcp", &[("Authorization", &at.bob)], "").await;
    is_one_too_many(
        &reply,
        &serde_json::Value::Null,
        "too many requests of this client in a minute",
    );
    let reply = post(&at, &at.bob, r#"{"jsonrpc":"2.0","id":"x","method":"ping"}"#).await;
    is_one_too_many(&reply, &json!("x"), "too many requests of this client in a minute");
    let other = register(&at.gateway, json!({})).await;
    let other = format!("Bearer {}", tokens(&at.gateway, &other, "bob", "one").await.access);
    assert_ne!(
        post(&at, &other, PING).await.status,
        429,
        "another client's are another's"
    );
    assert!(
        metric(
            &at,
            r#"mcpgate_limit_rejections_total{limit="client_requests_per_minute",upstream="one"} 2"#
        )
        .await
    );
    assert!(
        metric(
            &at,
            r#"mcpgate_limit_ceiling{limit="client_requests_per_minute",upstream="two"} 3"#
        )
        .await
    );
    at.gateway.advance(21);
    assert_ne!(post(&at, &at.ada, PING).await.status, 429);
}

/// Spec: K25, K6
#[tokio::test]
async fn calls_of_one_tool_by_one_person_are_counted() {
    let at = Bound::start("/mcp", ", limits: { tool_calls_per_minute: 2, body: 100KiB }").await;
    let session = {
        let begun = post(&at, &at.ada, r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#).await;
        begun.header("mcp-session-id").unwrap().to_owned()
    };
    let post = async |bearer: &str, body: &str| {
        let headers = [("Authorization", bearer), ("Mcp-Session-Id", session.as_str())];
        at.send("POST", "/one/mcp", &headers, body).await
    };
    // However large, byte for byte.
    let large = call(1, "echo").replace(
        "tools/call\"",
        &format!("tools/call\",\"x\":\"{}\"", "ä \\u00e4".repeat(8_000)),
    );
    let reply = post(&at.ada, &large).await;
    assert_eq!(
        (reply.status, reply.json()["heard"].as_str()),
        (200, Some(large.as_str()))
    );
    assert_eq!(post(&at.ada, &call(2, "echo")).await.status, 200);
    is_one_too_many(
        &post(&at.ada, &call(3, "echo")).await,
        &json!(3),
        "too many calls of this tool in a minute",
    );
    // The same name written otherwise, and within a batch.
    let disguised = call(4, "echo")
        .replace("echo", "\\u0065cho")
        .replace("tools/call", "tools\\/call");
    assert_eq!(post(&at.ada, &disguised).await.status, 429);
    assert_eq!(
        post(&at.ada, &format!("[{PING},{}]", call(5, "echo"))).await.status,
        429
    );
    let heard = at.server.count();
    assert_eq!(post(&at.ada, &call(6, "other")).await.status, 200, "another tool");
    assert_eq!(post(&at.ada, PING).await.status, 200);
    assert_eq!(
        at.server.count(),
        heard + 2,
        "of what was refused the server heard nothing"
    );
    assert_eq!(
        post_without_session(&at, &at.bob, &call(7, "echo")).await.status,
        404,
        "another person, whose session it is not"
    );
    for broken in ["{", r#"{"method":"tools/call","method":"ping"}"#] {
        let reply = post(&at.ada, broken).await;
        assert_eq!(
            (reply.status, reply.json()["error"]["code"].as_i64()),
            (400, Some(-32014))
        );
    }
    let too_large = call(1, &"x".repeat(200_000));
    assert_eq!(post(&at.ada, &too_large).await.status, 413);
    at.gateway.advance(31);
    assert_eq!(post(&at.ada, &call(9, "echo")).await.status, 200);
}

/// A body in chunks comes to the upstream in chunks.
/// Spec: K6
#[tokio::test]
async fn a_body_in_chunks_is_read_and_sent_on() {
    let gateway =
        Gateway::start_with(|yaml| yaml.replace("body: 64KiB,", "body: 64KiB, tool_calls_per_minute: 1,")).await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "two").await.access);
    let chunked = async |id| {
        let headers = [("Authorization", bearer.as_str()), ("Transfer-Encoding", "chunked")];
        let mut head = request("POST", "/two/mcp", &gateway.host, &headers, b"");
        head.truncate(find(&head, b"\r\n\r\n").unwrap() + 4);
        let head = String::from_utf8(head).unwrap().replace("Content-Length: 0\r\n", "");
        let body = call(id, "echo");
        let (one, two) = body.split_at(20);
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let first = format!("{head}{:x}\r\n{one}\r\n", one.len());
        stream.write_all(first.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let last = format!("{:x}\r\n{two}\r\n0\r\n\r\n", two.len());
        stream.write_all(last.as_bytes()).await.unwrap();
        read_reply(&mut stream, false).await
    };
    assert_eq!(chunked(7).await.status, 200);
    assert_eq!(gateway.upstream.last().body, call(7, "echo").as_bytes());
    is_one_too_many(&chunked(8).await, &json!(8), "too many calls of this tool in a minute");
    assert_eq!(gateway.upstream.count(), 1);
}

async fn post_without_session(at: &Bound, bearer: &str, body: &str) -> Reply {
    at.send("POST", "/one/mcp", &[("Authorization", bearer)], body).await
}

/// Spec: K25
#[tokio::test]
async fn requests_at_a_time_are_limited_and_places_come_back() {
    let (address, go) = patient(ANSWER).await;
    let at = before(address, "concurrent_requests: 2, total_concurrent_requests: 3").await;
    let in_use = |n: u32| format!("mcpgate_limit_in_use{{limit=\"total_concurrent_requests\",upstream=\"one\"}} {n}");
    let first = ask(&at, "POST", &at.ada, PING).await;
    let mut second = ask(&at, "POST", &at.ada, PING).await;
    until(&at, &in_use(2)).await;
    is_one_too_many(
        &post(&at, &at.ada, PING).await,
        &json!(1),
        "too many requests at a time",
    );
    let mut third = ask(&at, "POST", &at.bob, PING).await;
    until(&at, &in_use(3)).await;
    is_one_too_many(&post(&at, &at.bob, PING).await, &json!(1), "the server is busy");
    // A client that vanishes gives its place back.
    drop(first);
    until(&at, &in_use(2)).await;
    let mut fourth = ask(&at, "POST", &at.ada, PING).await;
    until(&at, &in_use(3)).await;
    go.send(true).unwrap();
    for waiting in [&mut second, &mut third, &mut fourth] {
        assert_eq!(read_reply(waiting, false).await.status, 200);
    }
    // Whoever has an answer may ask again at once, on whatever connection.
    for _ in 0..50 {
        let (one, two) = tokio::join!(post(&at, &at.ada, PING), post(&at, &at.ada, PING));
        assert_eq!((one.status, two.status), (200, 200));
    }
    until(&at, &in_use(0)).await;
    assert!(
        metric(
            &at,
            r#"mcpgate_limit_rejections_total{limit="concurrent_requests",upstream="one"} 1"#
        )
        .await
    );
    assert!(
        metric(
            &at,
            r#"mcpgate_limit_rejections_total{limit="total_concurrent_requests",upstream="one"} 1"#
        )
        .await
    );
}

/// Spec: K25
#[tokio::test]
async fn open_streams_are_limited_and_places_come_back() {
    let (address, go) = patient(STREAM).await;
    go.send(true).unwrap();
    let at = before(
        address,
        "concurrent_streams: 2, concurrent_requests: 2, total_concurrent_streams: 3",
    )
    .await;
    let in_use = |n: u32| format!("mcpgate_limit_in_use{{limit=\"total_concurrent_streams\",upstream=\"one\"}} {n}");
    let mut first = ask(&at, "GET", &at.ada, "").await;
    assert_eq!(read_reply(&mut first, true).await.status, 200);
    let mut second = ask(&at, "POST", &at.ada, PING).await;
    assert_eq!(read_reply(&mut second, true).await.status, 200);
    until(&at, &in_use(2)).await;
    // They are streams and no requests any more: it is of streams that there are too many.
    let reply = at.send("GET", "/one/mcp", &[("Authorization", &at.ada)], "").await;
    is_one_too_many(&reply, &serde_json::Value::Null, "too many streams at a time");
    is_one_too_many(&post(&at, &at.ada, PING).await, &json!(1), "too many streams at a time");
    let mut third = ask(&at, "GET", &at.bob, "").await;
    assert_eq!(read_reply(&mut third, true).await.status, 200);
    is_one_too_many(&post(&at, &at.bob, PING).await, &json!(1), "the server is busy");
    drop(first);
    until(&at, &in_use(2)).await;
    let mut fourth = ask(&at, "GET", &at.ada, "").await;
    assert_eq!(read_reply(&mut fourth, true).await.status, 200);
    drop((second, third, fourth));
    until(&at, &in_use(0)).await;
}
