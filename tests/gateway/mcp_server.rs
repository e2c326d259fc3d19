//! An MCP server of both transports with sessions, over raw TCP, so that a test decides what it says and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::http1::find;

/// What it knows and what it saw.
#[derive(Default)]
pub struct State {
    /// Every head, in order.
    pub heads: Vec<String>,
    /// Streams that are open, by their session.
    streams: BTreeMap<String, UnboundedSender<String>>,
    sessions: Vec<String>,
    /// How many sessions it began, of both transports.
    begun: usize,
    /// Streams that ended because the other side had gone.
    pub abandoned: usize,
}

/// A running server. Its endpoint event says what `endpoint` made of the session's id.
#[derive(Clone)]
pub struct McpServer {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
    endpoint: Arc<Says>,
}

/// What an endpoint event is made of: the server's address and the session's id.
type Says = dyn Fn(SocketAddr, &str) -> String + Send + Sync;

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn json_answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl McpServer {
    /// Starts one that announces `/messages?sessionId=…`.
    pub async fn start() -> Self {
        Self::announcing(|_, id| format!("event: endpoint\r\ndata: /messages?sessionId={id}\r\n\r\n")).await
    }

    pub async fn announcing(endpoint: impl Fn(SocketAddr, &str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            endpoint: Arc::new(endpoint),
        };
        let shared = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        server
    }

    pub fn count(&self) -> usize {
        self.state.lock().unwrap().heads.len()
    }

    pub fn last(&self) -> String {
        self.state.lock().unwrap().heads.last().cloned().unwrap_or_default()
    }

    /// Sends text on every stream that is open, as one chunk.
    pub fn say(&self, text: &str) {
        for stream in self.state.lock().unwrap().streams.values() {
            stream.send(text.to_owned()).unwrap();
        }
    }

    pub async fn until_abandoned(&self, count: usize) {
        for _ in 0..200 {
            if self.state.lock().unwrap().abandoned >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server still has its streams");
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&buffer, b"\r\n\r\n") {
                    break at + 4;
                }
                let mut more = [0; 4096];
                match stream.read(&mut more).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => buffer.extend_from_slice(&more[..n]),
                }
            };
            let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
            let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            while buffer.len() < length {
                let mut more = [0; 4096];
                match stream.read(&mut more).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => buffer.extend_from_slice(&more[..n]),
                }
            }
            let body = String::from_utf8(buffer.drain(..length).collect()).unwrap();
            let answer = match self.answer(&head, &body) {
                Ok(answer) => answer,
                Err((session, first)) => return self.stream(stream, session, first).await,
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// An answer, or the session of a stream and what it begins with.
    fn answer(&self, head: &str, body: &str) -> Result<String, (String, String)> {
        let mut state = self.state.lock().unwrap();
        state.heads.push(head.to_owned());
        let mut line = head.split(' ');
        let (method, target) = (line.next().unwrap(), line.next().unwrap());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let accepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned();
        let unknown = json_answer(
            "404 Not Found",
            "",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#,
        );
        if method == "GET" && path == "/sse" {
            state.begun += 1;
            let id = format!("old-{}", state.begun);
            let first = (self.endpoint)(self.address, &id);
            return Err((id, first));
        }
        if method == "POST" && path.starts_with("/messages") {
            let id = query.split('&').find_map(|pair| pair.strip_prefix("sessionId="));
            let Some(stream) = id.and_then(|id| state.streams.get(id)) else {
                return Ok(unknown);
            };
            stream.send(format!("event: message\ndata: {body}\n\n")).unwrap();
            return Ok(accepted);
        }
        if body.contains("\"initialize\"") {
            state.begun += 1;
            let id = format!("new-{}", state.begun);
            state.sessions.push(id.clone());
            let session = format!("Mcp-Session-Id: {id}\r\n");
            return Ok(json_answer(
                "200 OK",
                &session,
                r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            ));
        }
        let Some(id) = header(head, "mcp-session-id").filter(|id| state.sessions.contains(id)) else {
            return Ok(unknown);
        };
        match method {
            "GET" => Err((id, String::new())),
            "DELETE" => {
                state.sessions.retain(|own| *own != id);
                Ok("HTTP/1.1 204 No Content\r\n\r\n".to_owned())
            }
            _ if body.contains("\"slow\"") => Err((id, String::new())),
            _ => {
                let session = format!("Mcp-Session-Id: {id}\r\n");
                Ok(json_answer("200 OK", &session, &json!({ "heard": body }).to_string()))
            }
        }
    }

    async fn stream(self, mut stream: TcpStream, session: String, first: String) {
        let (sender, mut receiver) = unbounded_channel();
        stream.write_all(STREAM.as_bytes()).await.unwrap();
        if !first.is_empty() {
            stream.write_all(chunk(&first).as_bytes()).await.unwrap();
        }
        // From here on it can be written to, and not before its beginning is out.
        self.state.lock().unwrap().streams.insert(session.clone(), sender);
        let mut byte = [0];
        loop {
            tokio::select! {
                said = receiver.recv() => {
                    let Some(said) = said else { return };
                    if said == "END" {
                        stream.write_all(b"0\r\n\r\n").await.ok();
                        return;
                    }
                    if stream.write_all(chunk(&said).as_bytes()).await.is_err() {
                        break;
                    }
                }
                read = stream.read(&mut byte) => if matches!(read, Ok(0) | Err(_)) { break },
            }
        }
        let mut state = self.state.lock().unwrap();
        state.streams.remove(&session);
        state.abandoned += 1;
    }
}

pub fn header(head: &str, name: &str) -> Option<String> {
    let mut found = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned());
    let first = found.next();
    assert_eq!(found.next(), None, "{name} is there twice: {head}");
    first
}
