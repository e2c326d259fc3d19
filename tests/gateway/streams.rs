//! Event streams: the conversation of the old transport, comments in silences, and the end of a stream with its token.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::account;
use crate::http1::{find, request};
use crate::mcp_server::McpServer;
use crate::person::{Browser, Client, Tokens, register, tokens};
use crate::sessions::{ADMIN_TOKEN, Bound};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// A stream as a client reads it: the text in its chunks.
struct Open {
    stream: TcpStream,
    raw: Vec<u8>,
    head: String,
    text: String,
    /// Whether the end was said, or the connection just went.
    ended: Option<bool>,
}

impl Open {
    async fn get(at: &Bound, bearer: &str, target: &str) -> Self {
        Self::ask(at, "GET", target, &[("Authorization", bearer)], "").await
    }

    async fn ask(at: &Bound, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let mut stream = TcpStream::connect(at.gateway.address).await.unwrap();
        let headers = [&[("Accept", "text/event-stream, application/json")], headers].concat();
        let bytes = request(method, target, &at.gateway.host, &headers, body.as_bytes());
        stream.write_all(&bytes).await.unwrap();
        let mut open = Self {
            stream,
            raw: Vec::new(),
            head: String::new(),
            text: String::new(),
            ended: None,
        };
        let head = open.until(|open| find(&open.raw, b"\r\n\r\n").is_some());
        tokio::time::timeout(Duration::from_secs(5), head)
            .await
            .expect("a head comes");
        let end = find(&open.raw, b"\r\n\r\n").expect("a head") + 4;
        open.head = String::from_utf8(open.raw.drain(..end).collect()).unwrap();
        open.take_chunks();
        open
    }

    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) && self.ended.is_none() {
            let mut more = [0; 4096];
            match self.stream.read(&mut more).await {
                Ok(0) | Err(_) => self.ended = Some(false),
                Ok(n) => self.raw.extend_from_slice(&more[..n]),
            }
            if !self.head.is_empty() {
                self.take_chunks();
            }
        }
    }

    fn take_chunks(&mut self) {
        while let Some(at) = find(&self.raw, b"\r\n") {
            let length = usize::from_str_radix(std::str::from_utf8(&self.raw[..at]).unwrap(), 16).unwrap();
            if self.raw.len() < at + 2 + length + 2 {
                return;
            }
            if length == 0 {
                self.ended = Some(true);
                return;
            }
            self.text
                .push_str(std::str::from_utf8(&self.raw[at + 2..at + 2 + length]).unwrap());
            self.raw.drain(..at + 2 + length + 2);
        }
    }

    /// Waits for this text.
    async fn hears(&mut self, text: &str) {
        let heard = self.until(|open| open.text.contains(text));
        tokio::time::timeout(Duration::from_secs(5), heard)
            .await
            .unwrap_or_else(|_| panic!("{text:?} never came"));
        assert!(self.text.contains(text), "{text:?} never came: {:?}", self.text);
    }

    /// Waits for the end; whether it was said.
    async fn ends(&mut self, within: Duration) -> bool {
        let ended = self.until(|_| false);
        tokio::time::timeout(within, ended).await.expect("the stream ends");
        self.ended.unwrap()
    }

    async fn goes_on(&mut self, for_so_long: Duration) {
        let ended = self.until(|_| false);
        assert!(
            tokio::time::timeout(for_so_long, ended).await.is_err(),
            "the stream ended"
        );
    }

    /// What the endpoint event says.
    async fn endpoint(&mut self) -> String {
        self.hears("event: endpoint").await;
        self.hears("data: ").await;
        let data = self.text.split("data: ").nth(1).unwrap();
        data.lines().next().unwrap().to_owned()
    }
}

async fn post(at: &Bound, bearer: &str, target: &str) -> u16 {
    let headers = [("Authorization", bearer), ("Content-Type", "application/json")];
    at.send("POST", target, &headers, PING).await.status
}

// --- the old transport

/// Spec: K1, K7, K10
#[tokio::test]
async fn the_old_transport_works_from_end_to_end() {
    let at = Bound::start("/sse", "").await;
    let mut ada = Open::get(&at, &at.ada, "/one/mcp").await;
    let endpoint = ada.endpoint().await;
    assert!(endpoint.starts_with("/one/mcp/messages?sessionId=old-1&"), "{endpoint}");
    assert!(
        ada.text.ends_with("\r\n\r\n") && ada.text.starts_with("event: endpoint\r\n"),
        "the line ends are the server's"
    );
    assert_eq!(post(&at, &at.ada, &endpoint).await, 202);
    assert!(
        at.server
            .last()
            .starts_with("POST /messages?sessionId=old-1 HTTP/1.1\r\n"),
        "{}",
        at.server.last()
    );
    ada.hears(&format!("event: message\ndata: {PING}\n\n")).await;

    // Somebody else's stream is somebody else's.
    let mut bob = Open::get(&at, &at.bob, "/one/mcp").await;
    let his = bob.endpoint().await;
    let before = at.server.count();
    assert_eq!(post(&at, &at.bob, &endpoint).await, 404);
    assert_eq!(post(&at, &at.ada, &his).await, 404);
    assert_eq!(
        at.send("POST", &endpoint, &[], PING).await.status,
        401,
        "it is no credential"
    );
    let (plain, tag) = endpoint.split_once("&mcpgate=").unwrap();
    let swapped = his.split_once("&mcpgate=").unwrap().1;
    for turned in [
        plain.to_owned(),
        format!("{plain}&mcpgate={}", &tag[..42]),
        format!("{plain}&mcpgate={tag}A"),
        format!("{plain}&mcpgate={swapped}"),
        format!("{plain}&sessionId=old-2&mcpgate={tag}"),
        format!("{plain}&mcpgate={tag}&sessionId=old-2"),
        format!("/one/mcp/messages?sessionId=old-2&mcpgate={tag}"),
        format!("/one/mcp/admin?sessionId=old-1&mcpgate={tag}"),
        "/one/mcp/messages?session_id=old-1".to_owned(),
        format!("/one/mcp?mcpgate={tag}"),
    ] {
        assert_eq!(post(&at, &at.ada, &turned).await, 404, "{turned}");
    }
    let two = format!("Bearer {}", tokens(&at.gateway, &at.client, "ada", "two").await.access);
    assert_eq!(post(&at, &two, &endpoint.replace("/one/", "/two/")).await, 404);
    assert_eq!(at.server.count(), before, "the upstream heard of it");
    // Without an address that was given out, requests go below the configured one, and not elsewhere.
    post(&at, &at.ada, "/one/mcp/messages").await;
    assert!(
        at.server.last().starts_with("POST /sse/messages HTTP/1.1\r\n"),
        "{}",
        at.server.last()
    );
    assert_eq!(post(&at, &at.bob, &his).await, 202);
}

/// Spec: K7
#[tokio::test]
async fn an_endpoint_is_rewritten_however_it_is_said() {
    type Says = fn(std::net::SocketAddr, &str) -> String;
    let says: [Says; 6] = [
        |_, id| format!("event: endpoint\ndata: messages?sessionId={id}\n\n"),
        |own, id| format!("event: endpoint\ndata: http://{own}/messages?sessionId={id}\n\n"),
        |own, id| {
            format!(
                ": hello\n\nevent: endpoint\ndata: http://localhost:{}/messages?sessionId={id}\n\n",
                own.port()
            )
        },
        |_, id| format!("data:/messages?sessionId={id}\rid: 1\revent:endpoint\r\r"),
        |_, id| format!("retry: 100\n\nevent: endpoint\r\ndata: /messages?sessionId={id}\r\n\r\n"),
        |_, id| format!("\u{feff}event: endpoint\ndata: /messages?sessionId={id}\n\n"),
    ];
    for (index, says) in says.into_iter().enumerate() {
        let at = Bound::before(McpServer::announcing(says).await, "/sse", "").await;
        let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
        open.hears("mcpgate=").await;
        let said = open
            .text
            .split(['\r', '\n'])
            .find_map(|line| line.strip_prefix("data:"))
            .unwrap()
            .trim_start()
            .to_owned();
        let target = said.strip_prefix(&at.gateway.origin()).unwrap_or(&said);
        assert!(
            target.starts_with("/one/mcp/messages?sessionId=old-1&"),
            "{index}: {said}"
        );
        assert_eq!(said.starts_with("http"), index == 1 || index == 2, "{index}: {said}");
        assert_eq!(post(&at, &at.ada, target).await, 202, "{index}");
        assert!(
            at.server.last().starts_with("POST /messages?sessionId=old-1 "),
            "{index}"
        );
        open.hears("\"ping\"").await;
    }
}

/// An endpoint that is not the upstream's: no client hears of it.
///
/// Spec: K7
#[tokio::test]
async fn an_endpoint_that_leads_elsewhere_ends_the_stream() {
    for evil in [
        "//evil.example/messages",
        "\\\\\\\\evil.example/messages",
        "/\\\\evil.example/messages",
        "https://evil.example/messages",
        "http://{own}@evil.example/messages",
        "http://user@{own}/messages",
        "http://127.0.0.1:1/messages",
        "https://{own}/messages",
        "javascript:alert(1)",
        "data:text/plain,x",
        "/a//b",
        "/a%2f..%2fb",
        "",
    ] {
        let server = McpServer::announcing(move |own, _| {
            let data = evil.replace("\\\\", "\\").replace("{own}", &own.to_string());
            format!("event: endpoint\ndata: {data}\n\n")
        })
        .await;
        let at = Bound::before(server, "/sse", "").await;
        let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
        assert!(!open.ends(Duration::from_secs(5)).await, "{evil}: an end in order");
        assert_eq!(open.text, "", "{evil}");
        at.server.until_abandoned(1).await;
        assert!(
            at.gateway
                .metrics()
                .await
                .contains("mcpgate_upstream_errors_total{kind=\"protocol\",upstream=\"one\"} 1"),
            "{evil}"
        );
    }
    let endless = McpServer::announcing(|_, _| format!("event: endpoint\ndata: /{}", "x".repeat(20 << 10))).await;
    let at = Bound::before(endless, "/sse", "").await;
    let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
    assert!(!open.ends(Duration::from_secs(5)).await);
    assert_eq!(open.text, "");
}

/// Spec: K6, K7
#[tokio::test]
async fn what_is_no_endpoint_event_passes_as_it_is() {
    let large: String = format!("data: {}\n\n", "x".repeat(40 << 10));
    for first in [
        "data: 1\n\nevent: endpoint\ndata: //evil.example\n\n".to_owned(),
        "event: message\r\ndata: 1\r\n\r\n".to_owned(),
        large,
    ] {
        let say = first.clone();
        let at = Bound::before(McpServer::announcing(move |_, _| say.clone()).await, "/sse", "").await;
        let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
        open.hears(&first).await;
        assert_eq!(open.text, first);
    }
}

/// Spec: K7
#[tokio::test]
async fn an_endpoint_is_rewritten_where_sessions_are_not_bound_too() {
    let at = Bound::start("/sse", ", bind_sessions: false").await;
    let mut ada = Open::get(&at, &at.ada, "/one/mcp").await;
    let endpoint = ada.endpoint().await;
    assert_eq!(post(&at, &at.ada, &endpoint).await, 202);
    assert_eq!(post(&at, &at.bob, &endpoint).await, 202);
    assert_eq!(post(&at, &at.bob, &endpoint.replace("/messages", "/admin")).await, 404);
}

// --- silence

/// Spec: K4
#[tokio::test]
async fn a_silent_stream_gets_comments_and_only_between_events() {
    let at = Bound::start("/sse", ", keep_alive: 1s").await;
    let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
    open.endpoint().await;
    let start = open.text.clone();
    open.hears(": keepalive\n\n").await;
    assert_eq!(open.text, format!("{start}: keepalive\n\n"));
    at.server.say("id: 1\ndata: half");
    open.hears("half").await;
    open.goes_on(Duration::from_millis(2_500)).await;
    assert!(open.text.ends_with("id: 1\ndata: half"), "{:?}", open.text);
    at.server.say(" and half\n");
    open.goes_on(Duration::from_millis(1_500)).await;
    assert!(open.text.ends_with("and half\n"), "{:?}", open.text);
    at.server.say("\n");
    open.hears("and half\n\n: keepalive\n\n: keepalive\n\n").await;
    at.server.say("END");
    assert!(
        open.ends(Duration::from_secs(5)).await,
        "it ends as the upstream ends it"
    );
}

/// An event without an end is passed on, and nothing of it is kept.
///
/// Spec: K4
#[tokio::test]
async fn other_answers_get_no_comments() {
    let at = Bound::start("/mcp", ", keep_alive: 1s, limits: { idle_stream: 3s }").await;
    let begun = at
        .send(
            "POST",
            "/one/mcp",
            &[("Authorization", &at.ada)],
            r#"{"id":1,"method":"initialize"}"#,
        )
        .await;
    assert_eq!(begun.text(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let id = begun.header("mcp-session-id").unwrap();
    let headers = [("Authorization", at.ada.as_str()), ("Mcp-Session-Id", id)];
    let started = Instant::now();
    let mut open = Open::ask(&at, "POST", "/one/mcp", &headers, r#"{"id":2,"method":"slow"}"#).await;
    // Comments are the gateway's: they are no sign of life of the upstream.
    assert!(!open.ends(Duration::from_secs(5)).await);
    assert!(started.elapsed() >= Duration::from_millis(2_900));
    assert_eq!(open.text, ": keepalive\n\n".repeat(2));
}

/// Spec: K4
#[tokio::test]
async fn comments_can_be_switched_off() {
    let at = Bound::start("/sse", ", keep_alive: none").await;
    let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
    let endpoint = open.endpoint().await;
    open.goes_on(Duration::from_millis(1_500)).await;
    assert!(open.text.ends_with(&format!("{endpoint}\r\n\r\n")), "{}", open.text);
}

/// Spec: K3
#[tokio::test]
async fn a_client_that_leaves_ends_the_stream_upstream() {
    let at = Bound::start("/sse", "").await;
    let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
    open.endpoint().await;
    drop(open);
    at.server.until_abandoned(1).await;
}

// --- the end of a token

/// Spec: H11
#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let at = Bound::start("/sse", "").await;
    let mut first = Open::get(&at, &at.ada, "/one/mcp").await;
    first.endpoint().await;
    at.gateway.advance(1_800);
    let client = register(&at.gateway, json!({})).await;
    let later = format!("Bearer {}", tokens(&at.gateway, &client, "ada", "one").await.access);
    let mut second = Open::get(&at, &later, "/one/mcp").await;
    second.endpoint().await;
    first.goes_on(Duration::from_secs(2)).await;
    at.gateway.advance(1_801);
    assert!(
        first.ends(Duration::from_secs(3)).await,
        "between events a stream ends in order"
    );
    second.goes_on(Duration::from_millis(1_500)).await;
    at.server.until_abandoned(1).await;
}

/// In the middle of an event the end must not look like one.
///
/// Spec: H11
#[tokio::test]
async fn a_stream_that_is_cut_does_not_look_whole() {
    let at = Bound::start("/sse", "").await;
    let mut open = Open::get(&at, &at.ada, "/one/mcp").await;
    open.endpoint().await;
    at.server.say("data: half");
    open.hears("half").await;
    at.gateway.advance(3_601);
    assert!(!open.ends(Duration::from_secs(3)).await);
}

/// Spec: H11
#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked_and_no_other_does() {
    let at = Bound::start("/sse", "").await;
    let client = register(&at.gateway, json!({})).await;
    let (one, other) = (
        tokens(&at.gateway, &client, "ada", "one").await,
        tokens(&at.gateway, &client, "bob", "one").await,
    );
    let bearer = |tokens: &Tokens| format!("Bearer {}", tokens.access);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(Open::get(&at, &bearer(&one), "/one/mcp").await);
    }
    let mut spared = Open::get(&at, &bearer(&other), "/one/mcp").await;
    spared.goes_on(Duration::from_millis(1_500)).await;
    let revoke = async |token: &str| {
        let pairs = [("token", token), ("client_id", client.id.as_str())];
        assert_eq!(at.gateway.post_form("/revoke", &[], &pairs).await.status, 200);
    };
    revoke(&one.access).await;
    for stream in &mut streams {
        assert!(stream.ends(Duration::from_secs(3)).await);
    }
    // So does the whole family, with its refresh token.
    spared.goes_on(Duration::from_millis(1_500)).await;
    revoke(&other.refresh).await;
    assert!(spared.ends(Duration::from_secs(3)).await);
    at.server.until_abandoned(4).await;
}

/// What people take back on their account page is closed at once, also where it is being used.
///
/// Spec: E10, H11
#[tokio::test]
async fn a_stream_ends_when_its_person_takes_the_access_back_and_no_other_does() {
    let at = Bound::start("/sse", "").await;
    let (kept, taken) = (
        register(&at.gateway, json!({ "client_name": "Kept" })).await,
        register(&at.gateway, json!({ "client_name": "Taken" })).await,
    );
    let bearer = async |client: &Client, username: &str| {
        let tokens = tokens(&at.gateway, client, username, "one").await;
        format!("Bearer {}", tokens.access)
    };
    let mut open = Open::get(&at, &bearer(&taken, "ada").await, "/one/mcp").await;
    let mut spared = [
        Open::get(&at, &bearer(&kept, "ada").await, "/one/mcp").await,
        Open::get(&at, &bearer(&taken, "bob").await, "/one/mcp").await,
    ];
    open.goes_on(Duration::from_millis(1_500)).await;
    let mut browser = Browser::default();
    let page = account::open(&at.gateway, &mut browser, "ada").await;
    let mark = format!("value=\"{}\"", taken.id);
    let page = account::press(&at.gateway, &mut browser, &page, &mark).await;
    assert!(page.text().contains("Kept") && !page.text().contains("Taken"));
    assert!(open.ends(Duration::from_secs(3)).await);
    for stream in &mut spared {
        stream.goes_on(Duration::from_millis(500)).await;
    }
}

/// Of many streams those end whose tokens are gone, and all at once.
///
/// Spec: H11
#[tokio::test]
async fn of_many_streams_those_of_the_revoked_tokens_end() {
    let at = Bound::start("/sse", "").await;
    let secret = [
        ("client_id", "ci-runner"),
        ("client_secret", "a secret of the ci runner"),
    ];
    let resource = at.gateway.resource("one");
    let mut streams = Vec::new();
    for _ in 0..30 {
        let asked = [
            &secret[..],
            &[("grant_type", "client_credentials"), ("resource", &resource)],
        ]
        .concat();
        let answer = at.gateway.post_form("/token", &[], &asked).await;
        let token = answer.json()["access_token"].as_str().unwrap().to_owned();
        let mut own = Vec::new();
        for _ in 0..5 {
            own.push(Open::get(&at, &format!("Bearer {token}"), "/one/mcp").await);
        }
        streams.push((token, own));
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    for (token, _) in streams.iter().step_by(2) {
        let pairs = [&secret[..], &[("token", token)]].concat();
        assert_eq!(at.gateway.post_form("/revoke", &[], &pairs).await.status, 200);
    }
    let revoked = Instant::now();
    for (_, own) in streams.iter_mut().step_by(2) {
        for stream in own {
            assert!(stream.ends(Duration::from_secs(5)).await);
        }
    }
    assert!(revoked.elapsed() < Duration::from_secs(4), "{:?}", revoked.elapsed());
    at.server.until_abandoned(75).await;
    for (_, own) in streams.iter_mut().skip(1).step_by(2) {
        for stream in own {
            let ended = stream.until(|_| false);
            assert!(tokio::time::timeout(Duration::from_millis(10), ended).await.is_err());
        }
    }
}

/// Also one that has only just begun, whose token nobody has written down yet.
///
/// Spec: H11
#[tokio::test]
async fn a_stream_that_begins_while_its_token_is_revoked_ends() {
    let at = Bound::start("/sse", "").await;
    let client = register(&at.gateway, json!({})).await;
    let own = tokens(&at.gateway, &client, "ada", "one").await;
    let mut open = Open::get(&at, &format!("Bearer {}", own.access), "/one/mcp").await;
    let pairs = [("token", own.access.as_str()), ("client_id", client.id.as_str())];
    assert_eq!(at.gateway.post_form("/revoke", &[], &pairs).await.status, 200);
    assert!(open.ends(Duration::from_secs(3)).await);
}

/// Spec: H11
#[tokio::test]
async fn a_stream_ends_when_its_client_is_deleted() {
    let at = Bound::start("/sse", "").await;
    let metadata = json!({ "client_name": "Short", "redirect_uris": ["http://127.0.0.1:5555/cb"], "token_endpoint_auth_method": "none" });
    let registered = at
        .gateway
        .post(
            "/register",
            &[("Content-Type", "application/json")],
            &metadata.to_string(),
        )
        .await
        .json();
    let text = |name: &str| registered[name].as_str().unwrap().to_owned();
    let client = crate::person::Client {
        id: text("client_id"),
        secret: None,
        redirect: "http://127.0.0.1:5555/cb".to_owned(),
    };
    let own = tokens(&at.gateway, &client, "ada", "one").await;
    let mut open = Open::get(&at, &format!("Bearer {}", own.access), "/one/mcp").await;
    open.goes_on(Duration::from_millis(1_500)).await;
    let uri = text("registration_client_uri");
    let target = uri.strip_prefix(&at.gateway.origin()).unwrap();
    let authorization = format!("Bearer {}", text("registration_access_token"));
    assert_eq!(
        at.send("DELETE", target, &[("Authorization", &authorization)], "")
            .await
            .status,
        204
    );
    assert!(open.ends(Duration::from_secs(3)).await);
}

/// A new token is for new requests; a stream goes by the one that it was opened with.
///
/// Spec: H11
#[tokio::test]
async fn a_refreshed_token_does_not_keep_an_old_stream_alive() {
    let at = Bound::start("/sse", "").await;
    let client = register(&at.gateway, json!({})).await;
    let own = tokens(&at.gateway, &client, "ada", "one").await;
    let mut open = Open::get(&at, &format!("Bearer {}", own.access), "/one/mcp").await;
    open.endpoint().await;
    at.gateway.advance(3_000);
    let refreshed = crate::person::refresh(&at.gateway, &client, &own.refresh).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    open.goes_on(Duration::from_millis(1_500)).await;
    at.gateway.advance(601);
    assert!(open.ends(Duration::from_secs(3)).await);
}

/// However much an upstream has to say, and however little a client takes of it.
///
/// Spec: H11
#[tokio::test]
async fn a_flood_does_not_keep_a_stream_alive() {
    let at = Bound::start("/sse", "").await;
    let server = at.server.clone();
    let client = register(&at.gateway, json!({})).await;
    let own = tokens(&at.gateway, &client, "ada", "one").await;
    let bearer = format!("Bearer {}", own.access);
    let mut reading = Open::get(&at, &bearer, "/one/mcp").await;
    let stalled = Open::get(&at, &bearer, "/one/mcp").await;
    reading.endpoint().await;
    let flood = tokio::spawn(async move {
        let event = format!("data: {}\n\n", "x".repeat(8 << 10));
        loop {
            server.say(&event);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    reading.goes_on(Duration::from_secs(2)).await;
    let pairs = [("token", own.access.as_str()), ("client_id", client.id.as_str())];
    assert_eq!(at.gateway.post_form("/revoke", &[], &pairs).await.status, 200);
    reading.ends(Duration::from_secs(3)).await;
    at.server.until_abandoned(2).await;
    flood.abort();
    drop(stalled);
}

/// Also from the very beginning.
///
/// Spec: H11
#[tokio::test]
async fn a_client_that_takes_nothing_is_not_waited_for_when_its_token_ends() {
    let at = Bound::start("/sse", "").await;
    let client = register(&at.gateway, json!({})).await;
    let own = tokens(&at.gateway, &client, "ada", "one").await;
    let stalled = Open::get(&at, &format!("Bearer {}", own.access), "/one/mcp").await;
    let event = format!("data: {}\n\n", "x".repeat(1 << 20));
    for _ in 0..32 {
        at.server.say(&event);
    }
    let pairs = [("token", own.access.as_str()), ("client_id", client.id.as_str())];
    assert_eq!(at.gateway.post_form("/revoke", &[], &pairs).await.status, 200);
    at.server.until_abandoned(1).await;
    drop(stalled);
}

/// Spec: H11, L22
#[tokio::test]
async fn a_stream_ends_when_its_person_is_removed_and_stays_when_others_are() {
    let at = Bound::start("/sse", "").await;
    let mut ada = Open::get(&at, &at.ada, "/one/mcp").await;
    let mut bob = Open::get(&at, &at.bob, "/one/mcp").await;
    bob.goes_on(Duration::from_millis(1_500)).await;
    let without_bob: String = at
        .gateway
        .yaml
        .lines()
        .filter(|line| !line.contains("username: bob"))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = mcpgate::config::parse(&without_bob, std::path::Path::new("."), &|_| None).unwrap();
    at.gateway.running.put_in_force(config).unwrap();
    assert!(bob.ends(Duration::from_secs(3)).await);
    ada.goes_on(Duration::from_millis(1_500)).await;
    let endpoint = ada.endpoint().await;
    assert_eq!(
        post(&at, &at.ada, &endpoint).await,
        202,
        "what was given out before is good"
    );
    ada.hears("\"ping\"").await;
    // The old stream is looked after under the new configuration.
    at.gateway.advance(3_601);
    assert!(ada.ends(Duration::from_secs(3)).await);
}

/// Spec: H11, L22
#[tokio::test]
async fn a_stream_ends_when_its_person_is_disabled_and_no_other_does() {
    let at = Bound::start("/sse", "").await;
    let mut ada = Open::get(&at, &at.ada, "/one/mcp").await;
    let mut bob = Open::get(&at, &at.bob, "/one/mcp").await;
    bob.goes_on(Duration::from_millis(1_500)).await;
    let admin = at.gateway.running.admin;
    let headers = [("Authorization", &*format!("Bearer {ADMIN_TOKEN}"))];
    let disable = request("POST", "/api/users/bob/disable", &admin.to_string(), &headers, b"");
    assert_eq!(crate::http1::send(admin, &disable).await.status, 200);
    assert!(bob.ends(Duration::from_secs(3)).await);
    ada.goes_on(Duration::from_millis(1_500)).await;
}

// --- what upstreams may do to heads

/// Answers every request with these bytes, and remembers the head of the last one.
async fn answering(answer: String) -> (std::net::SocketAddr, std::sync::Arc<std::sync::Mutex<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = std::sync::Arc::<std::sync::Mutex<String>>::default();
    let shared = std::sync::Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (answer, seen) = (answer.clone(), std::sync::Arc::clone(&shared));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while find(&head, b"\r\n\r\n").is_none() {
                    let mut more = [0; 4096];
                    match stream.read(&mut more).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => head.extend_from_slice(&more[..n]),
                    }
                }
                *seen.lock().unwrap() = String::from_utf8_lossy(&head).to_ascii_lowercase();
                stream.write_all(answer.as_bytes()).await.ok();
                let mut byte = [0];
                while !matches!(stream.read(&mut byte).await, Ok(0) | Err(_)) {}
            });
        }
    });
    (address, seen)
}

async fn before(address: std::net::SocketAddr) -> (crate::setup::Gateway, String) {
    let gateway = crate::setup::Gateway::start_with(move |yaml| {
        let (before, _) = yaml.split_once("upstreams:").unwrap();
        format!("{before}upstreams:\n  - {{ name: one, path: /one/mcp, url: \"http://{address}/sse\" }}\n")
    })
    .await;
    let client = register(&gateway, json!({})).await;
    let bearer = format!("Bearer {}", tokens(&gateway, &client, "ada", "one").await.access);
    (gateway, bearer)
}

/// A stream that becomes longer has no length, and what is looked into is not compressed.
///
/// Spec: K1, K7
#[tokio::test]
async fn a_stream_of_a_given_length_is_rewritten_too() {
    let event = "event: endpoint\ndata: /m?sessionId=1\n\n";
    let (address, seen) = answering(format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream; charset=utf-8\r\nContent-Length: {}\r\n\r\n{event}",
        event.len()
    ))
    .await;
    let (gateway, bearer) = before(address).await;
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Accept", "text/event-stream"),
        ("Accept-Encoding", "gzip, br"),
    ];
    let reply = gateway.get("/one/mcp", &headers).await;
    assert!(
        reply
            .text()
            .starts_with("event: endpoint\ndata: /one/mcp/m?sessionId=1&mcpgate="),
        "{}",
        reply.text()
    );
    assert_eq!(
        (reply.header("content-length"), reply.header("transfer-encoding")),
        (None, Some("chunked"))
    );
    assert!(
        !seen.lock().unwrap().contains("accept-encoding"),
        "{}",
        seen.lock().unwrap()
    );
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Accept", "application/json"),
        ("Accept-Encoding", "gzip, br"),
    ];
    gateway.post("/one/mcp", &headers, PING).await;
    assert!(
        seen.lock().unwrap().contains("accept-encoding: gzip, br"),
        "{}",
        seen.lock().unwrap()
    );
}

/// Spec: K10
#[tokio::test]
async fn a_session_id_that_cannot_be_bound_is_no_answer() {
    for ids in [
        format!("Mcp-Session-Id: {}\r\n", "x".repeat(5_000)),
        "Mcp-Session-Id: a\r\nmcp-session-id: b\r\n".to_owned(),
    ] {
        let (address, _) = answering(format!("HTTP/1.1 200 OK\r\n{ids}Content-Length: 2\r\n\r\n{{}}")).await;
        let (gateway, bearer) = before(address).await;
        let reply = gateway.post("/one/mcp", &[("Authorization", &bearer)], PING).await;
        assert_eq!((reply.status, reply.json()["id"].as_i64()), (502, Some(1)));
        assert!(reply.header("mcp-session-id").is_none());
    }
    let (address, _) = answering("HTTP/1.1 200 OK\r\nMcp-Session-Id:\r\nContent-Length: 2\r\n\r\n{}".to_owned()).await;
    let (gateway, bearer) = before(address).await;
    let reply = gateway.post("/one/mcp", &[("Authorization", &bearer)], PING).await;
    assert_eq!(
        (reply.status, reply.header("mcp-session-id")),
        (200, None),
        "an empty one is none"
    );
}
