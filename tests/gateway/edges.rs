//! What goes wrong at the edges of the proxy: names that do not resolve, clients and upstreams that stall or break the
//! protocol. Whoever is still there gets an answer, and whoever is at fault is the one that is counted.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::http1::{Reply, find, read_reply, request, send};
use crate::person::{register, tokens};
use crate::setup::Gateway;

const CALL: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

/// A gateway whose upstream `two` is at this URL, and a token for it.
async fn in_front_of(url: String, limits: &'static str) -> (Gateway, String) {
    let gateway = Gateway::start_with(move |yaml| {
        let mut lines: Vec<String> = yaml
            .lines()
            .filter(|line| !line.contains("name: two, path"))
            .map(str::to_owned)
            .collect();
        lines.push(format!(
            "  - {{ name: two, path: /two/mcp, url: \"{url}\", limits: {{ {limits} }} }}"
        ));
        lines.join("\n")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "two").await.access);
    (gateway, bearer)
}

/// An upstream that reads a head and then sends these bytes, holding the connection open.
async fn says(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                while find(&seen, b"\r\n\r\n").is_none() {
                    match stream.read(&mut chunk).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => seen.extend_from_slice(&chunk[..n]),
                    }
                }
                if stream.write_all(bytes).await.is_ok() {
                    while !matches!(stream.read(&mut chunk).await, Ok(0) | Err(_)) {}
                }
            });
        }
    });
    address
}

async fn answer(gateway: &Gateway, bytes: &[u8]) -> Reply {
    send(gateway.address, bytes).await
}

/// A name that is gone, such as a container's, is an upstream that cannot be reached like any other.
/// Spec: K24
#[tokio::test]
async fn an_upstream_whose_name_does_not_resolve_is_a_502_with_the_request_s_id() {
    let (gateway, bearer) = in_front_of("http://no-such-host.invalid:3001/mcp".to_owned(), "").await;
    for _ in 0..2 {
        let reply = gateway.post("/two/mcp", &[("Authorization", &bearer)], CALL).await;
        assert_eq!(reply.status, 502, "{reply:?}");
        assert_eq!(reply.json()["id"], json!(7));
    }
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("mcpgate_upstream_errors_total{kind=\"connect\",upstream=\"two\"} 2"),
        "{metrics}"
    );
}

/// A head that the engine itself cannot parse: the answer is ours all the same, and does not name the engine.
/// Spec: K22
#[tokio::test]
async fn a_head_that_is_not_http_gets_an_answer_of_ours() {
    let gateway = Gateway::start().await;
    let many = "X: y\r\n".repeat(300);
    for (name, head) in [
        (
            "a space in a name",
            "GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n".to_owned(),
        ),
        ("no version", "GET /\r\n\r\n".to_owned()),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (
            "a folded line",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n".to_owned(),
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_owned(),
        ),
        ("a NUL", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n".to_owned()),
        ("too many headers", format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
    ] {
        let reply = answer(&gateway, head.as_bytes()).await;
        assert_eq!((reply.status, reply.header("server")), (400, None), "{name}: {reply:?}");
        assert_eq!(reply.error(), "invalid_request", "{name}");
        assert_eq!(reply.header("connection"), Some("close"), "{name}");
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{name}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
        assert!(reply.header("date").is_some(), "{name}");
    }
    let reply = answer(&gateway, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").await;
    assert_eq!((reply.status, reply.header("server")), (405, None), "{reply:?}");
    assert_eq!(reply.error(), "invalid_request");
}

/// The answer is read even where the client goes on talking: a connection that is closed over unread bytes is reset.
#[tokio::test]
async fn an_early_answer_arrives_at_a_client_that_goes_on_talking() {
    let gateway = Gateway::start().await;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let mut bytes = b"POST /token HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n".to_vec();
        bytes.resize(400_000, b'x');
        let (mut reading, mut writing) = stream.split();
        let write = writing.write_all(&bytes);
        let mut all = Vec::new();
        let read = reading.read_to_end(&mut all);
        let both = async { tokio::join!(write, read) };
        let (_, read) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        assert!(
            read.is_ok() && all.starts_with(b"HTTP/1.1 400 "),
            "{read:?} {}",
            String::from_utf8_lossy(&all)
        );
    }
}

/// An endless head is refused long before the memory is gone.
#[tokio::test]
async fn an_endless_head_is_refused() {
    let gateway = Gateway::start().await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ")
        .await
        .unwrap();
    let mut sent = 0;
    let line = vec![b'a'; 8 << 10];
    // As long as it is listened to.
    while sent < 4 << 20 {
        match tokio::time::timeout(Duration::from_secs(2), stream.write_all(&line)).await {
            Ok(Ok(())) => sent += line.len(),
            Ok(Err(_)) | Err(_) => break,
        }
        let mut one = [0; 1];
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(1), stream.peek(&mut one)).await {
            break;
        }
    }
    assert!(sent <= 512 << 10, "{sent} bytes of a head were taken");
    let reply = read_reply(&mut stream, false).await;
    assert_eq!((reply.status, reply.header("server")), (431, None), "{reply:?}");
}

/// `X-Forwarded-…` is what proxies say of a caller, whatever comes after: clients do not get to say it.
/// Spec: K18, L8
#[tokio::test]
async fn no_forwarded_header_of_a_client_arrives() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
    for name in [
        "X-Forwarded-Access-Token",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Ssl",
        "X_Forwarded_Roles",
        "X-Forwarded-Name",
    ] {
        let reply = gateway
            .post("/two/mcp", &[("Authorization", &bearer), (name, "mallory")], CALL)
            .await;
        assert_eq!(reply.status, 200, "{name}");
        let seen = gateway.upstream.last();
        let arrived = seen.headers.values().any(|value| value == "mallory");
        assert!(!arrived, "{name}: {:?}", seen.headers);
    }
}

/// RFC 9110 §7.6.1: what `Connection` may not name makes a bad request, and its sender is told so.
#[tokio::test]
async fn a_connection_header_that_names_what_it_may_not_is_a_400() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
    for options in ["host", "close, \"x\"", ":path"] {
        let reply = gateway
            .post("/two/mcp", &[("Authorization", &bearer), ("Connection", options)], CALL)
            .await;
        assert_eq!(reply.status, 400, "{options}: {reply:?}");
    }
}

#[tokio::test]
async fn a_broken_body_on_its_way_to_an_upstream_is_the_client_s_fault() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
    let head = format!(
        "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n",
        gateway.host
    );
    let reply = answer(&gateway, format!("{head}zz\r\nnonsense\r\n0\r\n\r\n").as_bytes()).await;
    assert_eq!(reply.status, 400, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json()["jsonrpc"], "2.0");
    let reply = answer(
        &gateway,
        format!("{head}2\r\n{{}}\r\n0\r\nnot a trailer\r\n\r\n").as_bytes(),
    )
    .await;
    assert!([200, 400].contains(&reply.status), "{reply:?}");
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("mcpgate_upstream_errors_total{"), "{metrics}");
}

/// A client that stalls in the middle of its body is not a slow upstream.
#[tokio::test]
async fn a_body_that_does_not_come_is_a_408_and_no_upstream_s_fault() {
    let address = says(b"").await;
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "response_timeout: 1s").await;
    let head = format!(
        "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nContent-Length: 100\r\n\r\nhalf",
        gateway.host
    );
    let reply = answer(&gateway, head.as_bytes()).await;
    assert_eq!(reply.status, 408, "{reply:?}");
    let metrics = gateway.metrics().await;
    assert!(!metrics.contains("mcpgate_upstream_errors_total{"), "{metrics}");
}

/// An interim answer is not the answer: the upstream still has to give one in its time.
#[tokio::test]
async fn an_upstream_that_only_says_wait_is_a_504() {
    let address = says(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "response_timeout: 1s").await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let bytes = request(
        "POST",
        "/two/mcp",
        &gateway.host,
        &[("Authorization", &bearer)],
        CALL.as_bytes(),
    );
    stream.write_all(&bytes).await.unwrap();
    let mut all = String::new();
    let read = async {
        let mut chunk = [0; 4096];
        while !all.contains("jsonrpc") {
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "{all}");
            all.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(5), read).await;
    assert!(came.is_ok(), "no answer after: {all}");
    assert!(all.contains("HTTP/1.1 504 ") && all.contains("\"id\":7"), "{all}");
}

/// Nobody asked for another protocol, so there is none, whatever the upstream says.
#[tokio::test]
async fn an_upstream_that_switches_protocols_is_a_502() {
    let address =
        says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes").await;
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "").await;
    for headers in [
        &[("Authorization", bearer.as_str())][..],
        &[
            ("Authorization", bearer.as_str()),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
    ] {
        let reply = gateway.get("/two/mcp", headers).await;
        assert_eq!(reply.status, 502, "{headers:?}: {reply:?}");
    }
}

/// K16: caches must know that answers differ by origin, and pages may read every answer.
/// Spec: K16, K17
#[tokio::test]
async fn every_answer_of_an_upstream_s_path_says_what_pages_may_read() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let token = tokens(&gateway, &client, "bob", "two").await.access;
    for (token, status) in [(None, 401), (Some("x"), 401), (Some(token.as_str()), 200)] {
        let reply = gateway.call("two", token).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("vary"), Some("Origin"), "{status}");
        let exposed = reply.header("access-control-expose-headers").unwrap_or_default();
        assert!(exposed.contains("WWW-Authenticate"), "{status}: {exposed}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{status}");
    }
}

/// An upstream that streams: three events in chunks, to whatever is asked.
async fn streams() -> SocketAddr {
    says(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
          9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n",
    )
    .await
}

/// HTTP/1.0 has no chunks: the end of the connection is the end of the answer (RFC 9112 §6.3), whatever the client says.
#[tokio::test]
async fn an_answer_to_http_1_0_has_no_chunks() {
    let address = streams().await;
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "").await;
    for connection in ["", "Connection: keep-alive\r\n"] {
        let text = format!(
            "GET /two/mcp HTTP/1.0\r\nHost: {}\r\nAuthorization: {bearer}\r\n{connection}\r\n",
            gateway.host
        );
        let reply = answer(&gateway, text.as_bytes()).await;
        assert_eq!(
            (reply.status, reply.header("transfer-encoding")),
            (200, None),
            "{reply:?}"
        );
        assert_eq!(reply.header("connection"), Some("close"), "{reply:?}");
        assert_eq!(reply.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
        assert!(reply.closed);
    }
}

/// Everything that comes until the other end closes, or this pattern came so often.
async fn read_times(stream: &mut TcpStream, what: &str, times: usize) -> String {
    let mut all = String::new();
    let read = async {
        let mut chunk = vec![0; 16 << 10];
        while all.matches(what).count() < times {
            let n = stream.read(&mut chunk).await.unwrap();
            assert!(n > 0, "closed after: {all}");
            all.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    };
    let came = tokio::time::timeout(Duration::from_secs(8), read).await;
    assert!(came.is_ok(), "not {times} times {what}: {all}");
    all
}

/// RFC 9112 §9.3.2: requests that follow each other without waiting are answered in their order, to an upstream, to an
/// endpoint, and behind an event stream.
#[tokio::test]
async fn requests_in_one_packet_are_all_answered_in_order() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "two").await.access);
    let call = |number: usize| {
        request(
            "POST",
            &format!("/two/mcp/{number}"),
            &gateway.host,
            &[("Authorization", &bearer), ("Content-Type", "application/json")],
            CALL.as_bytes(),
        )
    };
    let document = request(
        "GET",
        "/.well-known/oauth-authorization-server",
        &gateway.host,
        &[],
        b"",
    );
    let before = gateway.upstream.count();
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let all: Vec<u8> = [call(0), call(1), document, call(2)].concat();
    stream.write_all(&all).await.unwrap();
    let text = read_times(&mut stream, "HTTP/1.1 200 OK", 4).await;
    assert_eq!(gateway.upstream.count(), before + 3);
    assert!(gateway.upstream.last().path.ends_with("/2"));
    let (issuer, second) = (
        text.find("token_endpoint").unwrap(),
        text.match_indices("jsonrpc").nth(1).unwrap().0,
    );
    assert!(second < issuer, "{text}");
    // Split anywhere, also in the middle of a head.
    for at in [1, 30, all.len() - 50, all.len() / 2] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&all[..at]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stream.write_all(&all[at..]).await.unwrap();
        read_times(&mut stream, "HTTP/1.1 200 OK", 4).await;
    }
}

/// Spec: K3
#[tokio::test]
async fn a_request_that_comes_in_the_middle_of_a_stream_waits_and_a_client_that_goes_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, gone) = tokio::sync::oneshot::channel();
    let upstream = tokio::spawn(async move {
        let event = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n";
        let mut chunk = [0; 4096];
        // The first stream ends after a while, the second when its client goes.
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut chunk).await.unwrap() > 0);
        stream.write_all(event).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut chunk).await.unwrap() > 0);
        stream.write_all(event).await.unwrap();
        while !matches!(stream.read(&mut chunk).await, Ok(0) | Err(_)) {}
        let _ = told.send(());
    });
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "").await;
    let ask = request("GET", "/two/mcp", &gateway.host, &[("Authorization", &bearer)], b"");
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&ask).await.unwrap();
    read_times(&mut stream, "data: 0", 1).await;
    // In the middle of the first stream: the next two.
    stream.write_all(&ask).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    stream.write_all(&ask).await.unwrap();
    let text = read_times(&mut stream, "data: 0", 1).await;
    assert!(
        text.find("0\r\n\r\n").unwrap() < text.find("HTTP/1.1 200").unwrap(),
        "{text}"
    );
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), gone)
        .await
        .expect("the second stream went on")
        .unwrap();
    upstream.await.unwrap();
}

/// A client that has said all it has to say and closes its half still gets an endpoint's answer; what is on its way to an
/// upstream is given up, as when the client were gone, and nobody is blamed.
#[tokio::test]
async fn a_client_that_closes_its_half() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let bytes = request(
        "GET",
        "/.well-known/oauth-authorization-server",
        &gateway.host,
        &[],
        b"",
    );
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.status, 200);

    let address = says(b"").await;
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "").await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let bytes = request(
        "POST",
        "/two/mcp",
        &gateway.host,
        &[("Authorization", &bearer)],
        CALL.as_bytes(),
    );
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(5), read_reply(&mut stream, false))
        .await
        .unwrap();
    assert!(reply.closed && reply.status == 0, "{reply:?}");
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("outcome=\"client_gone\",upstream=\"two\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("mcpgate_upstream_errors_total{"), "{metrics}");
    drop(client);
}

/// Trailers are read over and go no further: nothing in them could be a header (RFC 9110 §6.5.1).
/// Spec: K18
#[tokio::test]
async fn trailers_are_not_headers() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
    let text = format!(
        "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nTrailer: X-Forwarded-User\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{CALL}\r\n0\r\nX-Forwarded-User: mallory\r\nX-Sum: 1\r\n\r\n",
        gateway.host,
        CALL.len()
    );
    let document = request(
        "GET",
        "/.well-known/oauth-authorization-server",
        &gateway.host,
        &[],
        b"",
    );
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(&[text.as_bytes(), &document].concat()).await.unwrap();
    read_times(&mut stream, "HTTP/1.1 200 OK", 2).await;
    let seen = gateway.upstream.last();
    assert_eq!(
        (seen.header("x-forwarded-user"), seen.body.as_slice()),
        (Some("bob"), CALL.as_bytes())
    );
    assert!(
        !seen.headers.values().any(|value| value == "mallory") && seen.header("x-sum").is_none(),
        "{seen:?}"
    );
}

/// An upstream that takes nothing of a body is late like one that says nothing.
#[tokio::test]
async fn an_upstream_that_does_not_read_is_a_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let (gateway, bearer) = in_front_of(format!("http://{address}/mcp"), "body: 64MiB, response_timeout: 1s").await;
    let body = vec![b'x'; 32 << 20];
    let bytes = request("POST", "/two/mcp", &gateway.host, &[("Authorization", &bearer)], &body);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut all = Vec::new();
    let both = async {
        let write = async { drop(writing.write_all(&bytes).await) };
        let read = async {
            let mut chunk = [0; 4096];
            while find(&all, b"\r\n\r\n").is_none() {
                match reading.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => all.extend_from_slice(&chunk[..n]),
                }
            }
        };
        tokio::select! { () = read => {} ((), ()) = async { tokio::join!(write, std::future::pending()) } => {} }
    };
    let came = tokio::time::timeout(Duration::from_secs(8), both).await;
    assert!(came.is_ok(), "no answer");
    assert!(all.starts_with(b"HTTP/1.1 504 "), "{}", String::from_utf8_lossy(&all));
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("mcpgate_upstream_errors_total{kind=\"timeout\",upstream=\"two\"} 1"),
        "{metrics}"
    );
}

/// RFC 9110 §15.5.6: `Allow` names everything that is.
#[tokio::test]
async fn a_405_names_every_method_that_there_is() {
    let gateway = Gateway::start().await;
    for (path, allowed) in [
        ("/token", "POST, OPTIONS"),
        ("/register", "POST, OPTIONS"),
        ("/authorize", "GET, HEAD, POST"),
        ("/.well-known/oauth-authorization-server", "GET, HEAD, OPTIONS"),
    ] {
        let reply = answer(&gateway, &request("DELETE", path, &gateway.host, &[], b"")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allowed)), "{path}");
    }
}

/// Contract §6: one 413, whether the length is declared or found out.
/// Spec: K6
#[tokio::test]
async fn a_413_is_the_same_however_it_is_found_out() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
    let body = "x".repeat(70_000);
    let declared = gateway.post("/two/mcp", &[("Authorization", &bearer)], &body).await;
    let head = format!(
        "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n",
        gateway.host
    );
    let found = answer(
        &gateway,
        format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes(),
    )
    .await;
    assert_eq!((declared.status, found.status), (413, 413));
    assert_eq!(declared.text(), found.text());
    assert_eq!(declared.json()["jsonrpc"], "2.0");
}
