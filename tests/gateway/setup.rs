//! A gateway under test: its configuration, its clock, its upstream.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use mcpgate::app::{self, Running, StartError};
use mcpgate::config;
use mcpgate::domain::clock::{Clock as _, ManualClock, Timestamp};
use mcpgate::store::Store;
use serde_json::json;
use tempfile::TempDir;

use crate::http1::{Reply, request, send};

/// Everybody's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// What the upstream calls the session that an `initialize` begins.
pub const SESSION: &str = "s-1";

pub static PASSWORD_HASH: LazyLock<String> =
    LazyLock::new(|| mcpgate::identity::local::hash_password(PASSWORD).unwrap());

/// What the upstream saw of one request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An MCP server as far as these tests need one: it remembers what it saw, and answers JSON.
#[derive(Clone, Default)]
pub struct Upstream(Arc<Mutex<Vec<Seen>>>);

impl Upstream {
    pub async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn last(&self) -> Seen {
        self.0
            .lock()
            .unwrap()
            .last()
            .expect("the upstream saw a request")
            .clone()
    }
}

async fn answer(
    State(upstream): State<Upstream>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = body.to_vec();
    let begins = String::from_utf8_lossy(&body).contains("\"initialize\"");
    upstream.0.lock().unwrap().push(Seen {
        method: method.to_string(),
        path: uri.to_string(),
        headers,
        body,
    });
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    let session = begins.then_some([("mcp-session-id", SESSION)]);
    let result = json!({ "jsonrpc": "2.0", "id": 1, "result": {} }).to_string();
    match session {
        Some(session) => (json, session, result).into_response(),
        None => (json, result).into_response(),
    }
}

/// A gateway with two upstreams, `one` (needs the scope one:use) and `two` (needs none), and the users ada and bob.
pub struct Gateway {
    pub running: Running,
    pub clock: Arc<ManualClock>,
    pub address: SocketAddr,
    pub host: String,
    pub upstream: Upstream,
    pub yaml: String,
    pub directory: TempDir,
}

impl Gateway {
    pub async fn start() -> Self {
        Self::start_with(|yaml| yaml).await
    }

    /// Starts with a configuration that `change` made of the usual one.
    pub async fn start_with(change: impl Fn(String) -> String) -> Self {
        Self::start_on(None, change).await
    }

    /// The same on a store of the test's own.
    pub async fn start_on(store: Option<Arc<dyn Store>>, change: impl Fn(String) -> String) -> Self {
        let upstream = Upstream::default();
        let upstream_address = upstream.start().await;
        let directory = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
        // public_url has to name the port before it is bound, so somebody else may be quicker.
        let (running, yaml, port) = loop {
            let [port, admin] = free_ports();
            let yaml = change(usual(
                port,
                admin,
                upstream_address,
                &directory.path().display().to_string(),
            ));
            match run_on(store.clone(), &yaml, &clock).await {
                Ok(running) => break (running, yaml, port),
                Err(StartError::Listen { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let address = running.addresses[0];
        Self {
            running,
            clock,
            address,
            host: format!("127.0.0.1:{port}"),
            upstream,
            yaml,
            directory,
        }
    }

    /// Stops and starts again on the same store.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| ()).await
    }

    /// The same, with something done to the directory in between.
    pub async fn restart_after(self, between: impl FnOnce(&std::path::Path)) -> Self {
        let Self {
            running,
            clock,
            host,
            upstream,
            yaml,
            directory,
            ..
        } = self;
        running.stop().await.unwrap();
        between(directory.path());
        let running = run(&yaml, &clock).await.unwrap_or_else(|error| panic!("{error}"));
        let address = running.addresses[0];
        Self {
            running,
            clock,
            address,
            host,
            upstream,
            yaml,
            directory,
        }
    }

    /// What Prometheus would read.
    pub async fn metrics(&self) -> String {
        let admin = self.running.admin;
        send(admin, &request("GET", "/metrics", &admin.to_string(), &[], b""))
            .await
            .text()
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.host)
    }

    pub fn resource(&self, upstream: &str) -> String {
        format!("http://{}/{upstream}/mcp", self.host)
    }

    /// Milliseconds of the clock.
    pub fn clock_now(&self) -> u64 {
        self.clock.now().as_millis()
    }

    pub fn set_clock(&self, millis: u64) {
        self.clock.set(Timestamp::from_millis(millis));
    }

    pub fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> Reply {
        send(self.address, &request("GET", target, &self.host, headers, b"")).await
    }

    pub async fn post(&self, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        send(
            self.address,
            &request("POST", target, &self.host, headers, body.as_bytes()),
        )
        .await
    }

    pub async fn post_form(&self, target: &str, headers: &[(&str, &str)], pairs: &[(&str, &str)]) -> Reply {
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        all.extend_from_slice(headers);
        self.post(target, &all, &crate::http1::form(pairs)).await
    }

    /// An MCP call with a token.
    pub async fn call(&self, upstream: &str, token: Option<&str>) -> Reply {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
        ];
        if let Some(value) = &authorization {
            headers.push(("Authorization", value));
        }
        self.post(
            &format!("/{upstream}/mcp"),
            &headers,
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#,
        )
        .await
    }
}

async fn run(yaml: &str, clock: &Arc<ManualClock>) -> Result<Running, StartError> {
    run_on(None, yaml, clock).await
}

async fn run_on(store: Option<Arc<dyn Store>>, yaml: &str, clock: &Arc<ManualClock>) -> Result<Running, StartError> {
    let config = config::parse(yaml, std::path::Path::new("."), &|_| None)
        .unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    app::start_on(config, Arc::clone(clock) as _, |opened| store.unwrap_or(opened)).await
}

fn free_ports() -> [u16; 2] {
    let listeners = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn usual(port: u16, admin: u16, upstream: SocketAddr, directory: &str) -> String {
    let hash = PASSWORD_HASH.as_str();
    format!(
        r#"
public_url: http://127.0.0.1:{port}
listen: 127.0.0.1:{port}
admin: {{ listen: "127.0.0.1:{admin}" }}
store: {{ sled: {{ path: "{directory}/data" }} }}
oauth:
  clients:
    - client_id: ci-runner
      client_secret: "a secret of the ci runner"
      client_name: CI runner
      redirect_uris: [https://ci.example.com/callback]
scopes:
  - {{ name: "one:use", description: Use server one }}
  - {{ name: "one:admin", description: Administer server one, groups: [admins] }}
users:
  - {{ username: ada, password_hash: "{hash}", email: ada@example.com, name: Ada Lovelace, groups: [engineering, "a,b"] }}
  - {{ username: bob, password_hash: "{hash}", groups: [admins] }}
upstreams:
  - {{ name: one, path: /one/mcp, url: "http://{upstream}/mcp", scopes: ["one:use"], headers: {{ X-Api-Key: upstream-key }}, allowed_origins: ["https://app.example.com"] }}
  - {{ name: two, path: /two/mcp, url: "http://{upstream}/two", limits: {{ body: 64KiB, requests_per_minute: 1000 }} }}
"#
    )
}
