//! Clients that go wrong: slow ones, many, those that lie about lengths, break off or say half. Nobody else notices, nothing
//! of theirs reaches an upstream as if it were whole, and nothing is left when they are gone.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::faults::{Act, CALL, Rig, Script, ok, say, within};
use crate::http1::{find, read_reply, request};
use crate::person::{register, tokens};
use crate::setup::Gateway;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The head of an upload to the scripted upstream.
fn upload(rig: &Rig, framing: &str) -> String {
    let (host, bearer) = (&rig.gateway.host, &rig.bearer);
    format!("POST /one/mcp/ok HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer}\r\n{framing}\r\n\r\n")
}

/// Everything that is read until the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end, too.
    let _ = within("the rest", stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn metric(rig: &Rig, what: &str) -> u64 {
    let metrics = rig.gateway.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with(what));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// A request of which the end never came is none: the upstream does not get it whole, and is not to blame.
/// Spec: K3, K22
#[tokio::test]
async fn a_client_that_vanishes_in_the_middle_of_its_body() {
    let rig = Rig::start(|_| ok("{}"), "response_timeout: 5s").await;
    rig.recovers().await;
    let whole = rig.upstream.whole.load(Ordering::SeqCst);
    let rows = [
        upload(&rig, "Content-Length: 100000") + &"x".repeat(50_000),
        upload(&rig, "Content-Length: 100") + "x",
        upload(&rig, "Content-Length: 100"),
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r\n",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhel",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n",
        upload(&rig, "Transfer-Encoding: chunked") + "5",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r\n5",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r\n5\r",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r",
        upload(&rig, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0",
        upload(&rig, "Content-Length: 2") + "",
    ];
    for row in &rows {
        // Closed in order, and torn off.
        for tear in [false, true] {
            let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
            stream.write_all(row.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            if tear {
                stream.set_zero_linger().unwrap();
            }
        }
    }
    // All are gone, but for the connection that was kept when the upstream last answered.
    let since = Instant::now();
    while rig.upstream.open.load(Ordering::SeqCst) > 1 {
        assert!(
            since.elapsed() < Duration::from_secs(3),
            "requests of nobody are still open at the upstream"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        rig.upstream.whole.load(Ordering::SeqCst),
        whole,
        "half a request arrived as a whole one"
    );
    assert_eq!(
        metric(&rig, "mcpgate_upstream_errors_total{").await,
        0,
        "the upstream is blamed"
    );
    rig.recovers().await;
    rig.finish().await;
}

/// More than was announced is the next request, or none; less is waited for. Nothing of it is forwarded twice or in parts.
/// Spec: K22
#[tokio::test]
async fn a_client_that_lies_about_its_length() {
    let rig = Rig::start(|_| ok("{}"), "response_timeout: 1s").await;
    // Longer: what comes behind is no request.
    let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
    let text = upload(&rig, "Content-Length: 2") + "{}and then nonsense that goes on\r\n\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    let answers = rest(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 1, "{answers}");
    assert_eq!(rig.upstream.whole.load(Ordering::SeqCst), 1);
    // Longer: what comes behind is a request without a token.
    let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
    let closing = [("Connection", "close")];
    let smuggled = request("POST", "/one/mcp/ok", &rig.gateway.host, &closing, CALL.as_bytes());
    let text = [upload(&rig, "Content-Length: 2").as_bytes(), b"{}", &smuggled].concat();
    stream.write_all(&text).await.unwrap();
    let answers = rest(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 401 ").count(), 1, "{answers}");
    assert_eq!(rig.upstream.whole.load(Ordering::SeqCst), 2, "the second was forwarded");
    // Shorter: it is waited for, as long as is usual, and answered.
    let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
    stream
        .write_all((upload(&rig, "Content-Length: 100") + "{}").as_bytes())
        .await
        .unwrap();
    let late = within("a body that does not come", read_reply(&mut stream, false)).await;
    assert_eq!(late.status, 408, "{late:?}");
    assert_eq!(
        rig.upstream.whole.load(Ordering::SeqCst),
        2,
        "half of it was forwarded as a whole"
    );
    assert_eq!(metric(&rig, "mcpgate_upstream_errors_total{").await, 0);
    rig.recovers().await;
    rig.finish().await;
}

/// Whoever takes a byte now and then holds up nobody, and the upstream is read no faster than that.
#[tokio::test]
async fn a_client_that_reads_a_byte_at_a_time() {
    let script: Script = |name| match name {
        "flood" => vec![
            say(STREAM),
            Act::Repeat([b"10000\r\n".as_slice(), &vec![b'x'; 65_536], b"\r\n"].concat()),
        ],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 1s").await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(rig.open("flood").await);
    }
    let mut byte = [0; 1];
    for _ in 0..10 {
        for stream in &mut slow {
            assert_eq!(within("a byte", stream.read(&mut byte)).await.unwrap(), 1);
        }
        rig.recovers().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(slow);
    let since = Instant::now();
    while rig.upstream.open.load(Ordering::SeqCst) > 1 {
        assert!(since.elapsed() < Duration::from_secs(3), "streams of nobody go on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.finish().await;
}

/// A thousand connections that say nothing, half a head, or hold a stream: others are served, and all is given back.
/// Spec: K25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once() {
    let script: Script = |name| match name {
        "stream" => vec![say(format!("{STREAM}9\r\ndata: 0\n\n\r\n")), Act::Hold],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 5s").await;
    let mut all = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
        match number % 4 {
            0 => {}
            1 => stream
                .write_all(b"POST /one/mcp HTTP/1.1\r\nHost: a\r\nX-Half: ")
                .await
                .unwrap(),
            2 => stream
                .write_all((upload(&rig, "Content-Length: 100") + "{").as_bytes())
                .await
                .unwrap(),
            _ => stream.write_all(&rig.request("stream")).await.unwrap(),
        }
        all.push(stream);
    }
    let mut part = [0; 4096];
    for stream in all.iter_mut().skip(3).step_by(4) {
        let mut seen = Vec::new();
        while find(&seen, b"data: 0\n\n").is_none() {
            let n = within("a stream among many", stream.read(&mut part)).await.unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&part[..n]);
        }
    }
    rig.recovers().await;
    assert_eq!(metric(&rig, "mcpgate_open_streams{upstream=\"one\"}").await, 250);
    drop(all);
    let since = Instant::now();
    loop {
        let (streams, connections) = (
            metric(&rig, "mcpgate_open_streams{upstream=\"one\"}").await,
            metric(&rig, "mcpgate_open_connections").await,
        );
        // The healthy upstream's caller may be there just now.
        if streams == 0 && connections <= 1 && rig.upstream.open.load(Ordering::SeqCst) <= 1 {
            break;
        }
        assert!(
            since.elapsed() < Duration::from_secs(8),
            "{streams} streams and {connections} connections are left"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig.recovers().await;
    rig.finish().await;
}

/// A client that closes its half of a connection with a stream has gone: the upstream is let go.
/// Spec: K3
#[tokio::test]
async fn a_client_that_says_goodbye_in_the_middle_of_a_stream() {
    let script: Script = |name| match name {
        "stream" => vec![say(format!("{STREAM}9\r\ndata: 0\n\n\r\n")), Act::Hold],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 5s").await;
    let mut stream = rig.open("stream").await;
    let mut part = [0; 4096];
    assert!(within("the head", stream.read(&mut part)).await.unwrap() > 0);
    rig.upstream.settles_at(1).await;
    stream.shutdown().await.unwrap();
    rig.upstream.settles_at(0).await;
    assert_eq!(metric(&rig, "mcpgate_upstream_errors_total{").await, 0);
    rig.finish().await;
}

/// A body in chunks arrives whole, wherever the network cuts it.
/// Spec: K1, K2
#[tokio::test]
async fn a_chunked_request_cut_anywhere_arrives_whole() {
    let gateway = Gateway::start().await;
    let client = register(&gateway, json!({})).await;
    let bearer = tokens(&gateway, &client, "ada", "two").await.access;
    let head = format!(
        "POST /two/mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {bearer}\r\nTransfer-Encoding: chunked\r\n\r\n",
        gateway.host
    );
    let body = "5\r\nhello\r\nA;ext=1\r\n, wonderfu\r\n00007\r\nl world\r\n0\r\nX-Trailer: a\r\n\r\n";
    // One after the other on the same connection: whatever is wrong with one shows at the next.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for cut in 0..body.len() {
        stream
            .write_all([&head, &body[..cut]].concat().as_bytes())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(6)).await;
        stream.write_all(&body.as_bytes()[cut..]).await.unwrap();
        let reply = within("an answer", read_reply(&mut stream, false)).await;
        let seen = String::from_utf8_lossy(&gateway.upstream.last().body).into_owned();
        assert_eq!(
            (reply.status, seen.as_str()),
            (200, "hello, wonderful world"),
            "cut before {:?}",
            &body[cut..]
        );
        assert_eq!(gateway.upstream.count(), cut + 1, "cut before {:?}", &body[cut..]);
    }
}
