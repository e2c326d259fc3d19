//! Upstreams that go wrong in every way that there is: whoever asked gets the right answer, nobody else notices, and once the
//! fault is over so are its consequences. The upstream is a script over raw TCP; beside it a healthy one is asked all the
//! while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http1::{Reply, find, read_reply, request};
use crate::person::{register, tokens};
use crate::setup::Gateway;

pub const CALL: &str = r#"{"jsonrpc":"2.0","id":"seven","method":"tools/call","params":{"name":"any"}}"#;
/// A healthy upstream answers in this time, whatever happens elsewhere.
const PROMPT: Duration = Duration::from_secs(3);
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What a scripted upstream does, step by step.
#[derive(Clone)]
pub enum Act {
    /// Sends this.
    Say(Vec<u8>),
    Wait(Duration),
    /// Sends this again and again until nobody takes it.
    Repeat(Vec<u8>),
    /// Waits until the other end closes.
    Hold,
    /// Reads the rest of the request.
    Read,
}

pub fn say(text: impl Into<Vec<u8>>) -> Act {
    Act::Say(text.into())
}

/// A script by the last segment of the path. It begins once the head is there; at its end the connection is closed, unless
/// the script is `ok`'s.
pub type Script = fn(&str) -> Vec<Act>;

/// What a scripted upstream remembers.
#[derive(Default)]
pub struct Scripted {
    pub connections: AtomicUsize,
    pub open: AtomicUsize,
    /// How many requests came whole.
    pub whole: AtomicUsize,
}

impl Scripted {
    pub async fn start(script: Script) -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Self::default());
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&shared);
                tokio::spawn(async move {
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    seen.open.fetch_add(1, Ordering::SeqCst);
                    seen.serve(stream, script).await;
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        (address, seen)
    }

    async fn serve(&self, mut stream: TcpStream, script: Script) {
        let mut buffer = Vec::new();
        loop {
            while find(&buffer, b"\r\n\r\n").is_none() {
                if !more(&mut stream, &mut buffer).await {
                    return;
                }
            }
            let end = find(&buffer, b"\r\n\r\n").unwrap() + 4;
            let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let name = path.rsplit('/').next().unwrap().to_owned();
            let acts = script(&name);
            let early = acts.iter().any(|act| matches!(act, Act::Read))
                || ["and-closes", "without-reading"].contains(&name.as_str());
            if !early && !self.read(&mut stream, &mut buffer, &head).await {
                return;
            }
            for act in acts {
                let ok = match act {
                    Act::Say(bytes) => stream.write_all(&bytes).await.is_ok(),
                    Act::Wait(pause) => {
                        tokio::time::sleep(pause).await;
                        true
                    }
                    Act::Repeat(bytes) => {
                        while stream.write_all(&bytes).await.is_ok() {}
                        false
                    }
                    Act::Hold => {
                        while more(&mut stream, &mut buffer).await {}
                        false
                    }
                    Act::Read => self.read(&mut stream, &mut buffer, &head).await,
                };
                if !ok {
                    return;
                }
            }
            if name != "ok" && !name.starts_with("keep-") {
                return;
            }
        }
    }

    async fn read(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>, head: &str) -> bool {
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            while find(buffer, b"0\r\n\r\n").is_none() {
                if !more(stream, buffer).await {
                    return false;
                }
            }
            buffer.clear();
        } else {
            let declared = lower.split("content-length: ").nth(1);
            let length = declared.map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
            while buffer.len() < length {
                if !more(stream, buffer).await {
                    return false;
                }
            }
            buffer.drain(..length);
        }
        self.whole.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Waits until so many connections are open.
    pub async fn settles_at(&self, open: usize) {
        let since = Instant::now();
        while self.open.load(Ordering::SeqCst) != open {
            let now = self.open.load(Ordering::SeqCst);
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "{now} connections are open, not {open}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn more(stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    let mut chunk = vec![0; 64 << 10];
    match stream.read(&mut chunk).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            into.extend_from_slice(&chunk[..n]);
            true
        }
    }
}

/// What an upstream says that is well.
pub fn ok(body: &str) -> Vec<Act> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    vec![say(head + body)]
}

/// A gateway in front of a scripted upstream `one` and a healthy upstream `two`, which is asked all the while.
pub struct Rig {
    pub gateway: Gateway,
    pub upstream: Arc<Scripted>,
    pub bearer: String,
    healthy: JoinHandle<usize>,
    over: Arc<AtomicBool>,
}

impl Rig {
    pub async fn start(script: Script, limits: &str) -> Self {
        let (address, upstream) = Scripted::start(script).await;
        let limits = limits.to_owned();
        let gateway = Gateway::start_with(move |yaml| {
            let lines = yaml.lines().map(|line| {
                if line.contains("name: one, path") {
                    return format!(
                        "  - {{ name: one, path: /one/mcp, url: \"http://{address}/mcp\", limits: {{ {limits} }} }}"
                    );
                }
                line.replace("requests_per_minute: 1000", "requests_per_minute: 1000000")
            });
            lines.collect::<Vec<_>>().join("\n")
        })
        .await;
        let client = register(&gateway, json!({})).await;
        let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "one").await.access);
        let other = format!("Bearer {}", tokens(&gateway, &client, "bob", "two").await.access);
        let over = Arc::new(AtomicBool::new(false));
        let call = request(
            "POST",
            "/two/mcp",
            &gateway.host,
            &[("Authorization", &other)],
            CALL.as_bytes(),
        );
        let healthy = tokio::spawn(ask(gateway.address, call, Arc::clone(&over)));
        Self {
            gateway,
            upstream,
            bearer,
            healthy,
            over,
        }
    }

    /// A request to the scripted upstream, as bytes.
    pub fn request(&self, name: &str) -> Vec<u8> {
        let headers = [
            ("Authorization", self.bearer.as_str()),
            ("Content-Type", "application/json"),
        ];
        request(
            "POST",
            &format!("/one/mcp/{name}"),
            &self.gateway.host,
            &headers,
            CALL.as_bytes(),
        )
    }

    /// Sends a request on a connection of its own.
    pub async fn open(&self, name: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.address).await.unwrap();
        stream.write_all(&self.request(name)).await.unwrap();
        stream
    }

    pub async fn call(&self, name: &str) -> Reply {
        let mut stream = self.open(name).await;
        within(name, read_reply(&mut stream, false)).await
    }

    /// Everything that comes in answer, to the end of the connection.
    pub async fn raw(&self, name: &str) -> String {
        let mut stream = self.open(name).await;
        let mut all = Vec::new();
        // A reset is an end, too.
        let _ = within(name, stream.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// The answer is the gateway's own, with this status and the request's id.
    pub async fn fails_with(&self, name: &str, status: u16) {
        let reply = self.call(name).await;
        assert_eq!(reply.status, status, "{name}: {reply:?}");
        assert_eq!(reply.json()["id"], json!("seven"), "{name}: {reply:?}");
        assert!(reply.json()["error"]["code"].is_i64(), "{name}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/json"), "{name}");
        assert!(
            reply.header("x-request-id").is_some() && reply.header("server").is_none(),
            "{name}: {reply:?}"
        );
    }

    /// The very same upstream answers again.
    pub async fn recovers(&self) {
        let reply = self.call("ok").await;
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "{}"),
            "after the fault: {reply:?}"
        );
    }

    /// The healthy upstream was asked all the while, and answered.
    pub async fn finish(self) {
        self.over.store(true, Ordering::SeqCst);
        let asked = self.healthy.await.expect("the healthy upstream answers as ever");
        assert!(asked > 0);
        self.gateway.running.stop().await.unwrap();
    }
}

async fn ask(address: SocketAddr, call: Vec<u8>, over: Arc<AtomicBool>) -> usize {
    let mut asked = 0;
    while asked == 0 || !over.load(Ordering::SeqCst) {
        let since = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&call).await.unwrap();
        let reply = tokio::time::timeout(PROMPT, read_reply(&mut stream, false)).await;
        let reply = reply.unwrap_or_else(|_| panic!("call {asked} of a healthy upstream had no answer"));
        assert_eq!(
            reply.status,
            200,
            "call {asked} of a healthy upstream after {:?}: {reply:?}",
            since.elapsed()
        );
        asked += 1;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    asked
}

/// Nothing here may hang.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(10), work).await;
    done.unwrap_or_else(|_| panic!("{what}: it hangs"))
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

// --- Before the head -----------------------------------------------------------------------------------------------------

/// Contract §6: 502 or 504, as JSON-RPC with the request's id.
/// Spec: K24
#[tokio::test]
async fn an_upstream_that_does_not_get_to_a_head() {
    let script: Script = |name| match name {
        "closes" => vec![],
        "silent" => vec![Act::Hold],
        "half" => vec![say("HTTP/1.1 200 OK\r\nContent-Ty"), Act::Hold],
        "half-and-gone" => vec![say("HTTP/1.1 200 OK\r\nContent-Ty")],
        "slow-head" => {
            let bytes =
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n{}";
            bytes
                .iter()
                .flat_map(|byte| [say([*byte]), Act::Wait(Duration::from_millis(30))])
                .collect()
        }
        "waits-for-ever" => vec![Act::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())],
        "hints-for-ever" => vec![Act::Repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec())],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 1s").await;
    for (name, status) in [
        ("closes", 502),
        ("silent", 504),
        ("half", 504),
        ("half-and-gone", 502),
        ("slow-head", 504),
    ] {
        rig.fails_with(name, status).await;
        rig.recovers().await;
    }
    // Interim answers without end are not an answer either.
    for name in ["waits-for-ever", "hints-for-ever"] {
        let reply = rig.call(name).await;
        assert!([502, 504].contains(&reply.status), "{name}: {reply:?}");
        rig.recovers().await;
    }
    rig.finish().await;
}

/// What could be read in two ways, or in none, is a 502; nothing of it reaches the client.
/// Spec: K22, K24
#[tokio::test]
async fn an_upstream_that_says_what_is_not_http() {
    const HEADS: &[(&str, &str)] = &[
        ("text", "this is not HTTP at all\r\n\r\n"),
        ("binary", "\u{1}\u{2}\u{3}\0\0\0\u{7f}\r\n\r\n"),
        ("tls", "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n"),
        ("no-number", "HTTP/1.1 banana OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("status-99", "HTTP/1.1 99 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("status-1000", "HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        (
            "two-lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
        ),
        ("lengths-in-one", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}}"),
        ("negative", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}"),
        ("hexadecimal", "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\n{}"),
        (
            "enormous",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        ),
        (
            "nul-in-value",
            "HTTP/1.1 200 OK\r\nX-Evil: a\0b\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "nul-in-name",
            "HTTP/1.1 200 OK\r\nX-\0Evil: a\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "space-in-name",
            "HTTP/1.1 200 OK\r\nX Evil: a\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "cr-in-value",
            "HTTP/1.1 200 OK\r\nX-Evil: a\rSet-Cookie: stolen=1\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "unknown-coding",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n{}",
        ),
    ];
    let script: Script = |name| match HEADS.iter().find(|(own, _)| *own == name) {
        Some((_, head)) => vec![say(*head), Act::Wait(Duration::from_millis(50))],
        None => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    let mut wrong = Vec::new();
    for (name, _) in HEADS {
        let reply = rig.call(name).await;
        if reply.status != 502
            || serde_json::from_slice::<Value>(&reply.body).map_or(true, |body| body["id"] != "seven")
        {
            wrong.push(format!("{name}: {} {:?} {}", reply.status, reply.headers, reply.text()));
        }
        rig.recovers().await;
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        HEADS.len(),
        wrong.join("\n")
    );
    rig.finish().await;
}

/// Response splitting: whatever an upstream puts into a head, what leaves the gateway is one answer, framed once.
/// Spec: K21, K22
#[tokio::test]
async fn a_head_that_could_be_two_becomes_one_or_none() {
    const HEADS: &[(&str, &str)] = &[
        (
            "folded",
            "HTTP/1.1 200 OK\r\nX-Long: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "length-and-chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ),
        ("bare-lf", "HTTP/1.1 200 OK\nContent-Length: 2\nX-A: b\n\n{}"),
        (
            "same-length-twice",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        ),
        ("old", "HTTP/1.0 200 OK\r\n\r\n{}"),
    ];
    let script: Script = |name| match HEADS.iter().find(|(own, _)| *own == name) {
        Some((_, head)) => vec![say(*head)],
        None => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    for (name, _) in HEADS {
        let mut stream = rig.open(name).await;
        let reply = within(name, read_reply(&mut stream, false)).await;
        assert!([200, 502].contains(&reply.status), "{name}: {reply:?}");
        let framings = ["content-length", "transfer-encoding"].map(|header| reply.header(header).is_some());
        assert!(framings != [true, true], "{name}: framed twice: {reply:?}");
        if reply.status == 200 {
            assert_eq!(reply.text(), "{}", "{name}: {reply:?}");
        }
        rig.recovers().await;
    }
    rig.finish().await;
}

/// Heads without end are given up long before they fill the memory, and are the upstream's failure.
/// Spec: K24
#[tokio::test]
async fn an_upstream_whose_head_has_no_end() {
    let script: Script = |name| match name {
        "lines" => vec![
            say("HTTP/1.1 200 OK\r\n"),
            Act::Repeat(b"X-Header: and another one\r\n".repeat(100)),
        ],
        "line" => vec![say("HTTP/1.1 200 OK\r\nX-Long: "), Act::Repeat(vec![b'a'; 64 << 10])],
        "reason" => vec![say("HTTP/1.1 200 "), Act::Repeat(vec![b'a'; 64 << 10])],
        "nothing" => vec![Act::Repeat(vec![b'\n'; 64 << 10])],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 5s").await;
    for name in ["lines", "line", "reason", "nothing"] {
        let since = Instant::now();
        rig.fails_with(name, 502).await;
        assert!(
            since.elapsed() < Duration::from_secs(4),
            "{name} was listened to for {:?}",
            since.elapsed()
        );
        rig.upstream.settles_at(0).await;
        rig.recovers().await;
    }
    rig.finish().await;
}

// --- After the head ------------------------------------------------------------------------------------------------------

/// An answer that is cut off ends cut off: never as if it were whole, or clients would take half of it for all.
/// Spec: K2, K3
#[tokio::test]
async fn an_upstream_that_dies_in_the_middle() {
    let script: Script = |name| match name {
        "stream" => vec![say(format!("{STREAM}{}{}", chunk("data: 0\n\n"), chunk("data: 1\n\n")))],
        "in-a-chunk" => vec![say(format!("{STREAM}{}20\r\ndata: half", chunk("data: 0\n\n")))],
        "in-a-size" => vec![say(format!("{STREAM}{}2", chunk("data: 0\n\n")))],
        "length" => vec![say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: 0\n\n")],
        "bad-size" => vec![
            say(format!("{STREAM}{}zz\r\nnonsense\r\n0\r\n\r\n", chunk("data: 0\n\n"))),
            Act::Hold,
        ],
        "endless-size" => vec![
            say(format!("{STREAM}{}", chunk("data: 0\n\n"))),
            Act::Repeat(vec![b'0'; 1 << 10]),
        ],
        "huge-size" => vec![
            say(format!("{STREAM}{}fffffffffffffffff\r\n", chunk("data: 0\n\n"))),
            Act::Hold,
        ],
        "no-end" => vec![
            say(format!("{STREAM}{}9\r\ndata: 1\n\nXX0\r\n\r\n", chunk("data: 0\n\n"))),
            Act::Hold,
        ],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    let names = [
        "stream",
        "in-a-chunk",
        "in-a-size",
        "length",
        "bad-size",
        "endless-size",
        "huge-size",
        "no-end",
    ];
    for name in names {
        let text = rig.raw(name).await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{name}: {text}");
        assert!(
            text.contains("data: 0\n\n"),
            "{name}: what came before the fault is passed on: {text}"
        );
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{name}: {text}");
        assert!(
            !text.ends_with("0\r\n\r\n"),
            "{name}: it ends as if it were whole: {text}"
        );
        rig.recovers().await;
    }
    let metrics = rig.gateway.metrics().await;
    let counted: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("mcpgate_upstream_errors_total{"))
        .collect();
    let total: u64 = counted
        .iter()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(total, 8, "each is the upstream's failure: {counted:?}");
    assert!(
        metrics.contains("mcpgate_open_streams{upstream=\"one\"} 0"),
        "{metrics}"
    );
    rig.finish().await;
}

/// What comes behind an answer belongs to nobody. Whoever gets that connection next must not take it for theirs.
/// Spec: K22
#[tokio::test]
async fn what_an_upstream_says_unasked_is_nobody_s_answer() {
    const FORGED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let script: Script = |name| match name {
        "keep-extra" => vec![say(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}{FORGED}"))],
        "keep-later" => vec![
            say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
            Act::Wait(Duration::from_millis(40)),
            say(FORGED),
        ],
        "keep-chunks" => vec![say(format!("{STREAM}{}0\r\n\r\n{FORGED}", chunk("{}")))],
        "keep-empty" => vec![say(format!("HTTP/1.1 204 No Content\r\n\r\n{FORGED}"))],
        "keep-accepted" => vec![say(format!(
            "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n{FORGED}"
        ))],
        _ => ok("mine"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    for name in ["keep-extra", "keep-later", "keep-chunks", "keep-empty", "keep-accepted"] {
        // Said after the next question, it is the answer to that: no proxy can tell.
        let pauses: &[u64] = if name == "keep-later" { &[80] } else { &[0, 80] };
        for &pause in pauses {
            let reply = rig.call(name).await;
            assert!(
                [200, 202, 204].contains(&reply.status) && !reply.text().contains("forged"),
                "{name}: {reply:?}"
            );
            tokio::time::sleep(Duration::from_millis(pause)).await;
            for _ in 0..3 {
                let next = rig.call("ok").await;
                // A connection that turned out to be spoilt may fail its request; it may not answer it.
                assert!(next.text() == "mine" || next.status == 502, "after {name}: {next:?}");
            }
        }
    }
    rig.finish().await;
}

/// A silent answer is let go after the silence that is allowed, and when its client goes.
/// Spec: K3, K4
#[tokio::test]
async fn an_upstream_that_stalls_after_the_head() {
    let script: Script = |name| match name {
        "length" => vec![say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), Act::Hold],
        "stream" => vec![say(format!("{STREAM}{}", chunk("data: 0\n\n"))), Act::Hold],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s, idle_stream: 1s").await;
    for name in ["length", "stream"] {
        let since = Instant::now();
        let text = rig.raw(name).await;
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\n") && !text.ends_with("0\r\n\r\n"),
            "{name}: {text}"
        );
        assert!(
            since.elapsed() > Duration::from_millis(900),
            "{name} was cut after {:?}",
            since.elapsed()
        );
        rig.upstream.settles_at(0).await;
    }
    rig.recovers().await;
    rig.finish().await;
    let rig = Rig::start(script, "response_timeout: 1s").await;
    for name in ["length", "stream"] {
        let mut stream = rig.open(name).await;
        let mut first = [0; 4096];
        assert!(within(name, stream.read(&mut first)).await.unwrap() > 0);
        rig.upstream.settles_at(1).await;
        drop(stream);
        rig.upstream.settles_at(0).await;
    }
    rig.finish().await;
}

/// An upstream may answer before it has read everything, or without reading anything: the answer arrives, in one piece or
/// in many, while the client is still sending.
/// Spec: K2
#[tokio::test]
async fn an_answer_that_comes_before_the_request_is_whole() {
    const ANSWER: &str = "HTTP/1.1 413 Too Much\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n";
    let script: Script = |name| match name {
        "keep-at-once" => vec![say(format!("{ANSWER}{{\"theirs\":1}}")), Act::Read],
        "without-reading" => vec![say(format!("{ANSWER}{{\"theirs\":1}}")), Act::Hold],
        "and-closes" => {
            let closing = ANSWER.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
            vec![say(closing + "{\"theirs\":1}"), Act::Wait(Duration::from_millis(300))]
        }
        "keep-in-pieces" => {
            let all = format!("{ANSWER}{{\"theirs\":1}}");
            let pieces = all.as_bytes().chunks(9);
            let slowly = pieces.flat_map(|piece| [say(piece), Act::Wait(Duration::from_millis(20))]);
            slowly.chain([Act::Read]).collect()
        }
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 3s, body: 8MiB").await;
    let mut wrong = Vec::new();
    for name in ["keep-at-once", "keep-in-pieces", "and-closes", "without-reading"] {
        for (pause, pieces) in [(0, 40), (25, 40), (0, 800)] {
            let since = Instant::now();
            let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
            let piece = vec![b'x'; 10_000];
            let head = format!(
                "POST /one/mcp/{name} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n",
                rig.gateway.host,
                rig.bearer,
                piece.len() * pieces
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut reading, mut writing) = stream.split();
            let write = async {
                for _ in 0..pieces {
                    // Whoever has answered need not listen any longer.
                    if writing.write_all(&piece).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            };
            let mut all = Vec::new();
            let read = async {
                let mut part = [0; 4096];
                while find(&all, b"\"theirs\":1}").is_none() {
                    match reading.read(&mut part).await {
                        Ok(0) | Err(_) => break,
                        Ok(n) => all.extend_from_slice(&part[..n]),
                    }
                }
            };
            within(name, async { tokio::join!(write, read) }).await;
            let text = String::from_utf8_lossy(&all);
            if since.elapsed() > Duration::from_millis(2_500)
                || !text.starts_with("HTTP/1.1 413 ")
                || !text.ends_with("{\"theirs\":1}")
            {
                wrong.push(format!(
                    "{name}, {pieces} pieces, {pause} ms between them, {:?}: {text}",
                    since.elapsed()
                ));
            }
        }
        rig.recovers().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    rig.finish().await;
}

/// An answer to HEAD, 204 and 304 has no body, whatever an upstream says.
/// Spec: K1, K22
#[tokio::test]
async fn an_answer_that_has_no_body_gets_none() {
    let script: Script = |name| match name {
        "keep-204" => vec![say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nextra")],
        "keep-304" => vec![say("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nextra")],
        _ => ok("mine"),
    };
    let rig = Rig::start(script, "response_timeout: 1s").await;
    for (method, name) in [("HEAD", "ok"), ("POST", "keep-204"), ("GET", "keep-304")] {
        let headers = [("Authorization", rig.bearer.as_str())];
        let mut bytes = request(method, &format!("/one/mcp/{name}"), &rig.gateway.host, &headers, b"");
        // Whatever came too much would be the answer to this.
        bytes.extend_from_slice(&rig.request("ok"));
        let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let first = within(name, read_reply(&mut stream, true)).await;
        assert!([200, 204, 304].contains(&first.status), "{method} {name}: {first:?}");
        let next = rig.call("ok").await;
        assert!(next.text() == "mine" || next.status == 502, "{method} {name}: {next:?}");
    }
    rig.finish().await;
}

/// An answer in chunks arrives whole, wherever the network cuts it, and the connection serves the next.
/// Spec: K1, K2
#[tokio::test]
async fn a_chunked_answer_cut_anywhere_arrives_whole() {
    const BODY: &str = "5\r\nhello\r\nA;ext=1\r\n, wonderfu\r\n00007\r\nl world\r\n0\r\nX-Trailer: a\r\n\r\n";
    let script: Script = |name| match name.strip_prefix("keep-").and_then(|cut| cut.parse::<usize>().ok()) {
        Some(cut) => vec![
            say(format!("{STREAM}{}", &BODY[..cut])),
            Act::Wait(Duration::from_millis(6)),
            say(BODY[cut..].to_owned()),
        ],
        None => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
    for cut in 0..BODY.len() {
        let name = format!("keep-{cut}");
        stream.write_all(&rig.request(&name)).await.unwrap();
        let reply = within(&name, read_reply(&mut stream, false)).await;
        let rest = &BODY[cut..];
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "hello, wonderful world"),
            "cut before {rest:?}"
        );
    }
    rig.finish().await;
}

/// A stream that never pauses ends with its token like one that does.
/// Spec: H11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_pause_ends_with_its_token() {
    let script: Script = |name| match name {
        "flood" => vec![
            say(STREAM),
            Act::Repeat(chunk(&format!("data: {}\n\n", "x".repeat(4_000))).into_bytes()),
        ],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "").await;
    let client = register(&rig.gateway, json!({})).await;
    let own = tokens(&rig.gateway, &client, "ada", "one").await;
    let headers = [("Authorization", &*format!("Bearer {}", own.access))];
    let bytes = request("POST", "/one/mcp/flood", &rig.gateway.host, &headers, CALL.as_bytes());
    let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut part = vec![0; 256 << 10];
    let since = Instant::now();
    let mut passed = 0;
    while since.elapsed() < Duration::from_secs(1) {
        passed += within("the flood", stream.read(&mut part)).await.unwrap();
    }
    assert!(passed > 1 << 20, "only {passed} bytes came");
    let form = [("token", own.refresh.as_str()), ("client_id", client.id.as_str())];
    assert_eq!(rig.gateway.post_form("/revoke", &[], &form).await.status, 200);
    let mut tail = Vec::new();
    let since = Instant::now();
    loop {
        match within("the flood", stream.read(&mut part)).await {
            Ok(0) | Err(_) => break,
            // Between two events it ends in order, and the connection stays.
            Ok(n) => {
                tail.extend_from_slice(&part[..n]);
                tail.drain(..tail.len().saturating_sub(5));
                if tail == b"0\r\n\r\n" {
                    break;
                }
                assert!(since.elapsed() < Duration::from_secs(6), "it goes on without a token");
            }
        }
    }
    rig.finish().await;
}

/// What is looked for at the beginning of a stream has its limit, and is passed on whole if it is not there.
/// Spec: K7
#[tokio::test]
async fn an_endpoint_event_without_an_end_is_given_up() {
    let script: Script = |name| match name {
        "endless" => vec![
            say(STREAM),
            say(chunk("event: endpoint\ndata: /messages?")),
            Act::Repeat(chunk(&"x".repeat(4_000)).into_bytes()),
        ],
        "comments" => vec![
            say(STREAM),
            say(chunk(&": a comment\n\n".repeat(5_000))),
            say(chunk("data: 1\n\n")),
            say("0\r\n\r\n"),
        ],
        "half" => vec![
            say(STREAM),
            say(chunk("event: endpoint\nda")),
            Act::Wait(Duration::from_millis(30)),
            say(chunk("ta: 1\n")),
            say("0\r\n\r\n"),
        ],
        _ => ok("{}"),
    };
    let rig = Rig::start(script, "response_timeout: 2s").await;
    let get = async |name: &str| {
        let headers = [
            ("Authorization", rig.bearer.as_str()),
            ("Accept", "text/event-stream"),
            ("Connection", "close"),
        ];
        let bytes = request("GET", &format!("/one/mcp/{name}"), &rig.gateway.host, &headers, b"");
        let mut stream = TcpStream::connect(rig.gateway.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut all = Vec::new();
        // A reset is an end, too.
        let _ = within(name, stream.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    };
    let endless = get("endless").await;
    assert!(
        endless.len() < 100_000 && !endless.ends_with("0\r\n\r\n"),
        "{} bytes",
        endless.len()
    );
    let comments = get("comments").await;
    assert_eq!(comments.matches(": a comment\n\n").count(), 5_000);
    assert!(comments.contains("data: 1\n\n") && comments.ends_with("0\r\n\r\n"));
    let half = get("half").await;
    assert!(half.ends_with("0\r\n\r\n"), "{half}");
    rig.finish().await;
}
