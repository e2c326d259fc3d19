//! The way to the upstream and back: streams, faults, headers, connections. The upstream is a script over raw TCP, so that it
//! can do what no library would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::http1::{Reply, find, read_reply, request, send};
use crate::person::{register, tokens};
use crate::setup::Gateway;

const CALL: &str = r#"{"jsonrpc":"2.0","id":"seven","method":"tools/call"}"#;

/// What a scripted upstream remembers.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    /// Set when the gateway closed a connection that was still being served.
    abandoned: AtomicBool,
}

/// Serves by the last segment of the path; the rest of this file says what each stands for.
async fn scripted() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, Arc::clone(&shared), address));
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>, own: SocketAddr) {
    let mut buffer = Vec::new();
    loop {
        while find(&buffer, b"\r\n\r\n").is_none() {
            let mut chunk = vec![0; 4096];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            }
        }
        let end = find(&buffer, b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let length = head
            .to_ascii_lowercase()
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let ok = |headers: &str, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let answer = match path.split('?').next().unwrap().rsplit('/').next().unwrap() {
            "silent-stream" | "stream" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                if path.ends_with("/stream") {
                    for number in 0..3 {
                        tokio::time::sleep(Duration::from_millis(150)).await;
                        let event = format!("data: {number}\n\n");
                        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
                    }
                }
                let mut rest = [0; 64];
                while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
                seen.abandoned.store(true, Ordering::SeqCst);
                return;
            }
            "never" => {
                let mut rest = [0; 64];
                while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
                seen.abandoned.store(true, Ordering::SeqCst);
                return;
            }
            "unauthorized" => "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"theirs\"\r\nContent-Length: 6\r\n\r\nsecret".to_owned(),
            "forbidden" => "HTTP/1.1 403 Forbidden\r\nWWW-Authenticate: Bearer realm=\"theirs\"\r\nContent-Length: 2\r\n\r\nno".to_owned(),
            "chatty" => ok("Set-Cookie: a=b\r\nServer: theirs\r\nX-Powered-By: theirs\r\nAccess-Control-Allow-Origin: *\r\nX-Forwarded-User: ada\r\nX-Api-Key: upstream-key\r\nMcp-Session-Id: s1\r\nMCP-Protocol-Version: 2025-11-25\r\nX-Kept: yes\r\n", "{}"),
            "redirect-inside" => format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{own}/mcp/there?x=1\r\nContent-Length: 0\r\n\r\n"),
            "redirect-outside" => "HTTP/1.1 302 Found\r\nLocation: https://evil.example/mcp\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "garbage" => "this is not HTTP\r\n\r\n".to_owned(),
            "cut" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
                return;
            }
            "close" => return,
            "status" => path.split('/').rev().nth(1).map(|status| format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{{\"e\": 1}}")).unwrap(),
            "head" => ok("", &head),
            _ => ok("", "{}"),
        };
        while buffer.len() < length {
            let mut chunk = vec![0; 64 << 10];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            }
        }
        buffer.drain(..length);
        if stream.write_all(answer.as_bytes()).await.is_err() || answer.starts_with("this") {
            return;
        }
    }
}

/// A gateway in front of a scripted upstream, and a token for it.
struct Proxied {
    gateway: Gateway,
    seen: Arc<Seen>,
    bearer: String,
}

impl Proxied {
    async fn start(limits: &str) -> Self {
        let (address, seen) = scripted().await;
        let limits = limits.to_owned();
        let gateway = Gateway::start_with(move |yaml| {
            let mut lines: Vec<String> = yaml.lines().filter(|line| !line.contains("name: one, path")).map(str::to_owned).collect();
            lines.push(format!("  - {{ name: one, path: /one/mcp, url: \"http://{address}/mcp\", headers: {{ X-Api-Key: upstream-key }}, allowed_origins: [\"https://app.example.com\"], limits: {{ {limits} }} }}"));
            lines.join("\n")
        })
        .await;
        let client = register(&gateway, json!({})).await;
        let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "one").await.access);
        Self { gateway, seen, bearer }
    }

    async fn get(&self, path: &str) -> Reply {
        self.gateway
            .get(&format!("/one/mcp/{path}"), &[("Authorization", &self.bearer)])
            .await
    }

    async fn post(&self, path: &str) -> Reply {
        self.gateway
            .post(
                &format!("/one/mcp/{path}"),
                &[("Authorization", &self.bearer), ("Content-Type", "application/json")],
                CALL,
            )
            .await
    }

    async fn open(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.address).await.unwrap();
        let bytes = request(
            "GET",
            &format!("/one/mcp/{path}"),
            &self.gateway.host,
            &[("Authorization", &self.bearer), ("Accept", "text/event-stream")],
            b"",
        );
        stream.write_all(&bytes).await.unwrap();
        stream
    }
}

async fn read_until(stream: &mut TcpStream, what: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async {
        while find(&all, what).is_none() {
            let mut chunk = vec![0; 4096];
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&chunk[..n]);
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .unwrap_or_else(|_| panic!("{} never came", String::from_utf8_lossy(what)));
    all
}

/// Python clients wait for the head of the event stream before they do anything else; there may never be an event in it.
/// Spec: K1, K3
#[tokio::test]
async fn the_head_of_an_event_stream_comes_before_any_event() {
    let proxied = Proxied::start("").await;
    let mut stream = proxied.open("silent-stream").await;
    let head = String::from_utf8(read_until(&mut stream, b"\r\n\r\n").await)
        .unwrap()
        .to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 200")
            && head.contains("x-accel-buffering: no")
            && head.contains("cache-control: no-cache"),
        "{head}"
    );
    let admin = proxied.gateway.running.admin;
    let metrics = || async {
        send(admin, &request("GET", "/metrics", &admin.to_string(), &[], b""))
            .await
            .text()
    };
    assert!(metrics().await.contains("mcpgate_open_streams{upstream=\"one\"} 1"));
    drop(stream);
    for _ in 0..100 {
        if proxied.seen.abandoned.load(Ordering::SeqCst)
            && metrics().await.contains("mcpgate_open_streams{upstream=\"one\"} 0")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the upstream's connection stays open after the client has gone");
}

/// Spec: K1
#[tokio::test]
async fn events_pass_as_they_happen() {
    let proxied = Proxied::start("").await;
    let mut stream = proxied.open("stream").await;
    let mut times = Vec::new();
    for number in 0..3 {
        read_until(&mut stream, format!("data: {number}\n\n").as_bytes()).await;
        times.push(Instant::now());
    }
    assert!(
        times
            .windows(2)
            .all(|pair| pair[1] - pair[0] > Duration::from_millis(50)),
        "they came together"
    );
}

/// K4: a stream may be silent for longer than any response may take to begin.
/// Spec: K4
#[tokio::test]
async fn a_silent_stream_outlives_the_response_timeout() {
    let proxied = Proxied::start("response_timeout: 1s").await;
    let mut stream = proxied.open("silent-stream").await;
    read_until(&mut stream, b"\r\n\r\n").await;
    let mut byte = [0];
    assert!(
        tokio::time::timeout(Duration::from_millis(2_500), stream.read(&mut byte))
            .await
            .is_err(),
        "the stream was cut"
    );
}

/// Spec: K4
#[tokio::test]
async fn a_stream_is_cut_after_the_silence_that_is_allowed() {
    let proxied = Proxied::start("idle_stream: 1s").await;
    let mut stream = proxied.open("silent-stream").await;
    read_until(&mut stream, b"\r\n\r\n").await;
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest))
        .await
        .expect("it is cut")
        .ok();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut stream must not look complete");
}

/// Contract §6: 504 with the request's id.
/// Spec: K3, K24
#[tokio::test]
async fn a_server_that_does_not_answer_is_a_504_with_the_request_s_id() {
    let proxied = Proxied::start("response_timeout: 1s").await;
    let reply = proxied.post("never").await;
    assert_eq!((reply.status, &reply.json()["id"]), (504, &json!("seven")));
    assert!(reply.json()["error"]["code"].is_i64() && reply.header("server").is_none());
    for _ in 0..50 {
        if proxied.seen.abandoned.load(Ordering::SeqCst) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the upstream is still being waited for");
}

/// Spec: K24
#[tokio::test]
async fn a_server_that_fails_is_a_502_with_the_request_s_id() {
    let proxied = Proxied::start("").await;
    for path in ["close", "garbage", "unauthorized"] {
        let reply = proxied.post(path).await;
        assert_eq!((reply.status, &reply.json()["id"]), (502, &json!("seven")), "{path}");
        assert!(
            reply.header("www-authenticate").is_none() && !reply.text().contains("secret"),
            "{path}"
        );
        assert_eq!(reply.header("content-type"), Some("application/json"), "{path}");
        assert!(reply.header("x-request-id").is_some(), "{path}");
    }
    let refused = Gateway::start_with(|yaml| {
        yaml.replace(
            "name: two, path: /two/mcp, url: \"http://127.0.0.1:",
            "name: two, path: /two/mcp, url: \"http://127.0.0.1:1/x",
        )
    })
    .await;
    let client = register(&refused, json!({})).await;
    let own = tokens(&refused, &client, "ada", "two").await;
    let reply = refused.call("two", Some(&own.access)).await;
    assert_eq!((reply.status, &reply.json()["id"]), (502, &json!(7)));
    let admin = refused.running.admin;
    let metrics = send(admin, &request("GET", "/metrics", &admin.to_string(), &[], b""))
        .await
        .text();
    assert!(
        metrics.contains("mcpgate_upstream_errors_total{kind=\"connect\",upstream=\"two\"} 1"),
        "{metrics}"
    );
}

/// H14: never a 401 to somebody whose token is good, or the client throws its session away.
/// Spec: B11, H14, K21
#[tokio::test]
async fn the_upstream_s_own_401_never_reaches_the_client() {
    let proxied = Proxied::start("").await;
    assert_eq!(proxied.get("unauthorized").await.status, 502);
    let forbidden = proxied.get("forbidden").await;
    assert_eq!(
        (
            forbidden.status,
            forbidden.text().as_str(),
            forbidden.header("www-authenticate")
        ),
        (403, "no", None)
    );
}

/// K2: clients tell the protocol's era by these.
/// Spec: K2, K6
#[tokio::test]
async fn other_statuses_and_bodies_pass_as_they_are() {
    let proxied = Proxied::start("").await;
    for status in [200, 202, 400, 404, 405, 406, 409, 415, 429, 500, 503] {
        let reply = proxied.post(&format!("{status}/status")).await;
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.header("content-type")),
            (status, "{\"e\": 1}", Some("application/json"))
        );
    }
}

/// Spec: K5, K8, K16, K17, K20, K21
#[tokio::test]
async fn what_an_upstream_may_not_say_is_left_out() {
    let proxied = Proxied::start("").await;
    let origin = "https://app.example.com";
    let reply = proxied
        .gateway
        .get(
            "/one/mcp/chatty",
            &[("Authorization", &proxied.bearer), ("Origin", origin)],
        )
        .await;
    assert_eq!(reply.status, 200);
    for gone in ["set-cookie", "server", "x-powered-by", "x-forwarded-user", "x-api-key"] {
        assert_eq!(reply.header(gone), None, "{gone}");
    }
    assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
    let exposed = reply.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("Mcp-Session-Id") && exposed.contains("WWW-Authenticate"));
    for (kept, value) in [("mcp-protocol-version", "2025-11-25"), ("x-kept", "yes")] {
        assert_eq!(reply.header(kept), Some(value));
    }
    assert!(reply.header("mcp-session-id").unwrap().starts_with("s1."));
    let inside = proxied.get("redirect-inside").await;
    assert_eq!(
        inside.header("location"),
        Some(&*format!("{}/there?x=1", proxied.gateway.resource("one")))
    );
    let outside = proxied.get("redirect-outside").await;
    assert_eq!((outside.status, outside.header("location")), (302, None));
}

/// K5, K18, K19: what passes and what does not, as the upstream's socket sees it.
/// Spec: I6, K5, K18, K19, K20
#[tokio::test]
async fn the_upstream_gets_its_own_host_and_nothing_of_the_client_s_secrets() {
    let proxied = Proxied::start("").await;
    let begun = proxied.get("chatty").await;
    let sent = [
        ("Authorization", proxied.bearer.as_str()),
        ("Cookie", "mcpgate_session=mgss_secret"),
        ("Origin", "https://app.example.com"),
        ("Mcp-Param-Region", "eu"),
        ("Mcp-Session-Id", begun.header("mcp-session-id").unwrap()),
        ("Last-Event-ID", "5"),
        ("traceparent", "00-1-2-01"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, X-Private"),
        ("X-Private", "mine"),
        ("TE", "trailers"),
    ];
    let head = proxied
        .gateway
        .get("/one/mcp/head?x=1&y=%20", &sent)
        .await
        .text()
        .to_ascii_lowercase();
    assert!(head.starts_with("get /mcp/head?x=1&y=%20 http/1.1\r\n"), "{head}");
    for passed in [
        "mcp-param-region: eu",
        "mcp-session-id: s1\r\n",
        "last-event-id: 5",
        "traceparent: 00-1-2-01",
        "x-api-key: upstream-key",
        "x-forwarded-user: ada",
        "x-forwarded-proto: http",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(head.contains(passed), "{passed} is missing in {head}");
    }
    assert!(head.contains(&format!("x-forwarded-host: {}", proxied.gateway.host)));
    for gone in [
        "authorization",
        "cookie",
        "origin:",
        "upgrade",
        "x-private",
        "\r\nte:",
        "mgat_",
        "mgss_",
    ] {
        assert!(!head.contains(gone), "{gone} arrived: {head}");
    }
    assert_eq!(head.matches("\r\nhost:").count(), 1);
    assert!(!head.contains(&format!("\r\nhost: {}", proxied.gateway.host)));
}

/// The mount with and without a slash is the endpoint itself; what is below goes below.
/// Spec: K9
#[tokio::test]
async fn paths_map_onto_the_upstream_s_endpoint() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "two").await.access);
    for (target, arrives) in [
        ("/two/mcp", "/two"),
        ("/two/mcp/", "/two"),
        ("/two/mcp/a/b?c=d", "/two/a/b?c=d"),
        ("/two/mcp?x=%2F", "/two?x=%2F"),
    ] {
        assert_eq!(gateway.get(target, &[("Authorization", &bearer)]).await.status, 200);
        assert_eq!(gateway.upstream.last().path, arrives, "{target}");
    }
}

/// One connection, many requests: refusals do not end it, and their bodies are never taken for the next request.
#[tokio::test]
async fn a_connection_goes_on_after_refusals() {
    let proxied = Proxied::start("").await;
    let gateway = &proxied.gateway;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let smuggled = "GET /one/mcp/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for round in 0..3 {
        for (target, bearer, status) in [
            ("/one/mcp", "Bearer x", 401),
            ("/nothing", "Bearer x", 404),
            ("/one/mcp", proxied.bearer.as_str(), 200),
        ] {
            let bytes = request(
                "POST",
                target,
                &gateway.host,
                &[("Authorization", bearer)],
                smuggled.as_bytes(),
            );
            stream.write_all(&bytes).await.unwrap();
            let reply = read_reply(&mut stream, false).await;
            assert_eq!(reply.status, status, "round {round} {target}");
        }
    }
    assert_eq!(proxied.seen.requests.load(Ordering::SeqCst), 3);
}

/// A client that waits for 100 gets it, at once and only if its request may pass.
#[tokio::test]
async fn expect_100_continue_is_answered_where_the_body_is_wanted() {
    let proxied = Proxied::start("").await;
    let gateway = &proxied.gateway;
    for (bearer, status) in [(proxied.bearer.as_str(), 200), ("Bearer x", 401)] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /one/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            gateway.host,
            CALL.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let started = Instant::now();
        if status == 200 {
            read_until(&mut stream, b"HTTP/1.1 100").await;
            assert!(started.elapsed() < Duration::from_millis(500));
            stream.write_all(CALL.as_bytes()).await.unwrap();
            read_until(&mut stream, b"HTTP/1.1 200").await;
        } else {
            let reply = read_reply(&mut stream, false).await;
            assert_eq!(reply.status, status);
        }
    }
    let registered = format!(
        "POST /register HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        gateway.host
    );
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(registered.as_bytes()).await.unwrap();
    read_until(&mut stream, b"HTTP/1.1 100").await;
    stream.write_all(b"{}").await.unwrap();
    read_until(&mut stream, b"HTTP/1.1 400").await;
}

/// Contract §7: the method, also of a message that came in pieces.
/// Spec: L18
#[tokio::test]
async fn a_message_in_pieces_is_counted_by_its_method() {
    let proxied = Proxied::start("").await;
    let gateway = &proxied.gateway;
    let admin = gateway.running.admin;
    let (first, second) = CALL.split_at(20);
    let head = format!(
        "POST /one/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{first}",
        gateway.host,
        proxied.bearer,
        CALL.len()
    );
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.write_all(second.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.status, 200);
    for _ in 0..50 {
        let metrics = send(admin, &request("GET", "/metrics", &admin.to_string(), &[], b""))
            .await
            .text();
        if metrics.contains("mcpgate_requests_total{method=\"tools/call\",outcome=\"ok\",upstream=\"one\"} 1") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not counted");
}

/// A body that cannot be read is the client's fault, and a page may read that answer too.
#[tokio::test]
async fn a_broken_body_at_an_endpoint_is_the_clients_fault() {
    let gateway = Gateway::start().await;
    for (head, body, status) in [
        ("Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n".to_owned(), 400),
        ("Content-Length: 100000", "x".repeat(100_000), 413),
    ] {
        let text = format!("POST /token HTTP/1.1\r\nHost: {}\r\n{head}\r\n\r\n{body}", gateway.host);
        let reply = send(gateway.address, text.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.header("access-control-allow-origin")),
            (status, Some("*")),
            "{head}"
        );
        assert_eq!(reply.json()["error"], "invalid_request");
    }
}

/// Contract §6: 413, whether the length is declared or found out.
/// Spec: K6
#[tokio::test]
async fn a_body_over_the_limit_is_a_413() {
    let proxied = Proxied::start("body: 64KiB").await;
    let gateway = &proxied.gateway;
    let large = "x".repeat(100_000);
    let declared = gateway
        .post("/one/mcp", &[("Authorization", &proxied.bearer)], &large)
        .await;
    assert_eq!(declared.status, 413);
    assert_eq!(proxied.seen.requests.load(Ordering::SeqCst), 0);
    let mut bytes = format!(
        "POST /one/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        gateway.host, proxied.bearer
    )
    .into_bytes();
    for _ in 0..10 {
        bytes.extend_from_slice(format!("{:x}\r\n{}\r\n", 10_000, &large[..10_000]).as_bytes());
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(send(gateway.address, &bytes).await.status, 413);
    let fits = gateway
        .post("/one/mcp", &[("Authorization", &proxied.bearer)], &large[..65_536])
        .await;
    assert_eq!(fits.status, 200);
}

/// Bodies of every size arrive whole, with a length and in chunks.
/// Spec: K1, K6
#[tokio::test]
async fn bodies_arrive_byte_for_byte() {
    let gateway = Gateway::start_with(|yaml| yaml.replace("body: 64KiB", "body: 4MiB")).await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "two").await.access);
    for size in [0, 1, 10, 65_535, 65_536, 65_537, 1_000_000, 4 << 20] {
        let body: String = (0..size)
            .map(|n: usize| char::from(b'a' + u8::try_from(n % 23).unwrap()))
            .collect();
        assert_eq!(
            gateway
                .post(
                    "/two/mcp",
                    &[("Authorization", &bearer), ("Content-Type", "application/json")],
                    &body
                )
                .await
                .status,
            200,
            "{size}"
        );
        assert!(
            gateway.upstream.last().body == body.as_bytes(),
            "{size} bytes with a length"
        );
        let mut bytes = format!(
            "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n",
            gateway.host
        )
        .into_bytes();
        for chunk in body.as_bytes().chunks(70_001) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(send(gateway.address, &bytes).await.status, 200, "{size}");
        assert!(
            gateway.upstream.last().body == body.as_bytes(),
            "{size} bytes in chunks"
        );
    }
}

/// Spec: K25
#[tokio::test]
async fn one_subject_s_requests_are_limited() {
    let proxied = Proxied::start("requests_per_minute: 3").await;
    for _ in 0..3 {
        assert_eq!(proxied.post("x").await.status, 200);
    }
    let reply = proxied.post("x").await;
    assert_eq!(reply.status, 429);
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 20);
    proxied.gateway.advance(21);
    assert_eq!(proxied.post("x").await.status, 200);
}

/// A pooled connection that the upstream has closed meanwhile is not what a POST fails on.
/// Spec: K24
#[tokio::test]
async fn a_post_after_the_upstream_closed_its_idle_connection_succeeds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Serves one request on each connection, keeps it open for a moment, then closes it without a word.
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                read_until(&mut stream, b"\r\n\r\n").await;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    .await
                    .unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            });
        }
    });
    let gateway = Gateway::start_with(move |yaml| {
        yaml.lines()
            .map(|line| {
                if line.contains("name: two") {
                    format!("  - {{ name: two, path: /two/mcp, url: \"http://{address}/\" }}")
                } else {
                    line.to_owned()
                }
            })
            .collect::<Vec<_>>()
            .join("\n")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let own = tokens(&gateway, &client, "ada", "two").await;
    for _ in 0..4 {
        assert_eq!(gateway.call("two", Some(&own.access)).await.status, 200);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Stopping: nothing new is taken, what is in flight finishes, and then it is over at once.
/// Spec: L22
#[tokio::test]
async fn stopping_waits_for_what_is_in_flight_and_no_longer() {
    let proxied = Proxied::start("").await;
    let address = proxied.gateway.address;
    let idle = TcpStream::connect(address).await.unwrap();
    let mut stream = proxied.open("stream").await;
    read_until(&mut stream, b"data: 0\n\n").await;
    let Gateway { running, .. } = proxied.gateway;
    let stopping = tokio::spawn(running.stop());
    read_until(&mut stream, b"data: 2\n\n").await;
    assert!(TcpStream::connect(address).await.is_err(), "it still accepts");
    assert!(!stopping.is_finished(), "a stream is still open");
    drop(stream);
    tokio::time::timeout(Duration::from_secs(3), stopping)
        .await
        .expect("it ends with the stream")
        .unwrap()
        .unwrap();
    drop(idle);
}
