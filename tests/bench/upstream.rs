//! The upstream of the benchmarks: as little of an HTTP server as will do, so that the proxies are what is measured.
//!
//! `bench-upstream ADDRESS [TOKEN]`
//!
//! POST answers with a small JSON-RPC result, `initialize` with a session, `tools/list` with a list. GET answers with an event
//! stream: one event at once, then silence; below `…/paced` an event every 10 ms that says when it was sent. Below `/auth` it
//! is who other proxies ask whether a token is good.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"forty-two"}]}}"#;
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const FIRST: &str = "d\r\ndata: first\n\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
const AUTHORIZED: &str = "HTTP/1.1 200 OK\r\nx-forwarded-user: ada\r\ncontent-length: 0\r\n\r\n";
/// How many events a paced stream has, and how far apart they are.
const PACED: (usize, Duration) = (200, Duration::from_millis(10));
/// Streams begin at so many different times within one pause.
const TURNS: u32 = 10;
static TURN: AtomicU32 = AtomicU32::new(0);
/// Tools in a list.
const TOOLS: usize = 20;

/// What is sent, made once.
struct Answers {
    result: String,
    session: String,
    list: String,
    token: Option<String>,
}

/// What a request's head says, as far as anybody here wants to know.
struct Head<'a> {
    method: &'a [u8],
    path: &'a [u8],
    length: usize,
    authorization: &'a [u8],
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let answers: &'static Answers = Box::leak(Box::new(Answers::new(arguments.next())));
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Who goes away in the middle is of no interest here.
                let _ = serve(stream, answers).await;
            });
        }
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let Some(head) = buffer.get(..end).and_then(Head::parse) else {
            return Ok(());
        };
        if head.path.starts_with(b"/auth") {
            let good = answers.token.as_ref().is_some_and(|token| {
                let presented = head.authorization.strip_prefix(b"Bearer ");
                presented == Some(token.as_bytes())
            });
            let end = end + head.length;
            read_to(&mut stream, &mut buffer, end).await?;
            buffer.drain(..end);
            let answer = if good { AUTHORIZED } else { UNAUTHORIZED };
            stream.write_all(answer.as_bytes()).await?;
            continue;
        }
        if head.method == b"GET" {
            return if head.path.ends_with(b"/paced") {
                paced(&mut stream).await
            } else {
                silent(&mut stream, &mut buffer).await
            };
        }
        let all = end + head.length;
        read_to(&mut stream, &mut buffer, all).await?;
        let body = buffer.get(end..all).unwrap_or_default();
        let answer = answers.to(body);
        stream.write_all(answer.as_bytes()).await?;
        buffer.drain(..all);
    }
}

async fn read_to(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: usize) -> std::io::Result<()> {
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// One event, then silence until the other side goes.
async fn silent(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    stream.write_all([STREAM, FIRST].concat().as_bytes()).await?;
    buffer.clear();
    while stream.read_buf(buffer).await? > 0 {
        buffer.clear();
    }
    Ok(())
}

/// Events that say when they were sent.
async fn paced(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(STREAM.as_bytes()).await?;
    let (count, apart) = PACED;
    // Streams take turns, so that what is timed is not how long a queue of them is.
    let turn = TURN.fetch_add(1, Ordering::Relaxed) % TURNS;
    tokio::time::sleep(apart * turn / TURNS).await;
    let mut ticks = tokio::time::interval(apart);
    for _ in 0..count {
        ticks.tick().await;
        let event = format!("data: {}\n\n", now());
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        stream.write_all(chunk.as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

#[expect(
    clippy::disallowed_methods,
    reason = "two programs on one machine compare their clocks, and no test moves them"
)]
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

// === impl Answers ===

impl Answers {
    fn new(token: Option<String>) -> Self {
        let answer = |headers: &str, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let tools: Vec<String> = (0..TOOLS)
            .map(|number| {
                format!(
                    r#"{{"name":"tool-{number}","description":"{}","inputSchema":{{"type":"object"}}}}"#,
                    "x".repeat(100)
                )
            })
            .collect();
        Self {
            result: answer("", RESULT),
            session: answer(
                "mcp-session-id: 1868a90c-9c1d-4f3e-8e6a-0f4d2d6f6f61\r\n",
                r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}"#,
            ),
            list: answer(
                "",
                &format!(
                    r#"{{"jsonrpc":"2.0","id":1,"result":{{"tools":[{}]}}}}"#,
                    tools.join(",")
                ),
            ),
            token,
        }
    }

    fn to(&self, body: &[u8]) -> &str {
        // The method is near the start of what the bench sends.
        let start = body.get(..body.len().min(64)).unwrap_or_default();
        if find(start, b"\"tools/list\"").is_some() {
            &self.list
        } else if find(start, b"\"initialize\"").is_some() {
            &self.session
        } else {
            &self.result
        }
    }
}

// === impl Head ===

impl<'a> Head<'a> {
    fn parse(head: &'a [u8]) -> Option<Self> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let mut words = lines.next()?.split(|byte| *byte == b' ');
        let mut parsed = Self {
            method: words.next()?,
            path: words.next()?,
            length: 0,
            authorization: b"",
        };
        for line in lines {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let (name, value) = line.split_at_checked(colon)?;
            let value = value.trim_ascii_start().get(1..)?.trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                parsed.length = std::str::from_utf8(value).ok()?.parse().ok()?;
            } else if name.eq_ignore_ascii_case(b"authorization") {
                parsed.authorization = value;
            }
        }
        Some(parsed)
    }
}
