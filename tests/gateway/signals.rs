//! The built program under load while its configuration is read again and again.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http1::{PATIENCE, Reply, form, read_reply, request, send};

/// A gateway that is a process of its own.
struct Program {
    process: Child,
    directory: TempDir,
    address: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
}

impl Program {
    async fn start(arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let upstream = upstream().await;
        loop {
            let [address, admin] = [0; 2].map(|_| {
                let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                free.local_addr().unwrap()
            });
            let file = directory.path().join("gateway.yaml");
            fs::write(&file, yaml(directory.path(), address, admin, upstream, "")).unwrap();
            let mut process = Command::new(env!("CARGO_BIN_EXE_mcpgate"))
                .args(["serve", "-c"])
                .arg(&file)
                .args(arguments)
                .env("RUST_LOG", "info,mcpgate::access=off")
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stderr = BufReader::new(process.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains("listening on") && !line.contains("cannot listen") {
                line.clear();
                assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended without listening");
            }
            // What it says later goes nowhere, but must not stop it.
            std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
            if line.contains("listening on") {
                return Self {
                    process,
                    directory,
                    address,
                    admin,
                    upstream,
                };
            }
            // Somebody else has taken the port in the meantime.
            process.wait().unwrap();
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("gateway.yaml")
    }

    /// Puts another file in the place of the configuration, as a careful editor does.
    fn write(&self, more: &str) {
        let next = self.directory.path().join("next.yaml");
        fs::write(
            &next,
            yaml(self.directory.path(), self.address, self.admin, self.upstream, more),
        )
        .unwrap();
        fs::rename(next, self.file()).unwrap();
    }

    fn hang_up(&self) {
        let id = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", "HUP", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// How often the configuration was read again with this outcome.
    async fn reloads(&self, outcome: &str) -> u64 {
        let metrics = send(self.admin, &request("GET", "/metrics", "admin", &[], b""))
            .await
            .text();
        let name = format!("mcpgate_config_reloads_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().unwrap())
    }

    async fn wait_for(&self, outcome: &str, count: u64) {
        let started = Instant::now();
        while self.reloads(outcome).await < count {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "no {count} reloads were {outcome}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn token(&self, upstream: &str) -> String {
        let resource = format!("http://{}/{upstream}/mcp", self.address);
        let body = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", "robot"),
            ("client_secret", "the secret of the robot"),
            ("resource", &resource),
        ]);
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let reply = self.exchange("POST", "/token", &headers, body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["access_token"].as_str().unwrap().to_owned()
    }

    async fn exchange(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        send(
            self.address,
            &request(method, target, &self.address.to_string(), headers, body),
        )
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn yaml(directory: &Path, address: SocketAddr, admin: SocketAddr, upstream: SocketAddr, more: &str) -> String {
    // Nobody signs in here; what matters is that there is an account.
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6rngH5QHWmslik9+Y4s9wKyAK4wm8";
    format!(
        "public_url: http://{address}\nlisten: {address}\nadmin: {{ listen: '{admin}' }}\n\
         store: {{ sled: {{ path: '{}/data' }} }}\n\
         oauth: {{ clients: [{{ client_id: robot, client_secret: the secret of the robot, grant_types: [client_credentials] }}] }}\n\
         users: [{{ username: ada, password_hash: '{hash}' }}]\n\
         upstreams:\n  - {{ name: one, path: /one/mcp, url: 'http://{upstream}/mcp' }}\n{more}",
        directory.display()
    )
}

/// A server that echoes, and sends an event every 20 ms for ever.
pub async fn upstream() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/mcp", post(|body: Bytes| async { body }))
        .route("/mcp/events", get(events));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

async fn events() -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for count in 0_u32.. {
            let event = Bytes::from(format!("data: {count}\n\n"));
            if sender.send(Ok::<_, std::io::Error>(event)).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let body = Body::new(Events(receiver));
    ([("content-type", "text/event-stream")], body).into_response()
}

/// A body out of a channel.
struct Events(tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<http_body::Frame<Bytes>>>> {
        self.0
            .poll_recv(context)
            .map(|event| event.map(|event| event.map(http_body::Frame::data)))
    }
}

/// Calls on one connection until it is told to stop; every answer has to be that of its own call.
async fn load(address: SocketAddr, token: String, name: usize, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) {
    let authorization = format!("Bearer {token}");
    let mut stream = TcpStream::connect(address).await.unwrap();
    for call in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":\"{name}-{call}\",\"method\":\"ping\"}}");
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/json"),
        ];
        let bytes = request("POST", "/one/mcp", &address.to_string(), &headers, body.as_bytes());
        stream.write_all(&bytes).await.unwrap();
        let reply = tokio::time::timeout(PATIENCE, read_reply(&mut stream, false))
            .await
            .unwrap();
        assert_eq!(
            (reply.status, reply.text()),
            (200, body),
            "call {call} on connection {name}"
        );
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Spec: L22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reloads_under_load_lose_nothing() {
    let program = Program::start(&[]).await;
    let token = program.token("one").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|name| {
            tokio::spawn(load(
                program.address,
                token.clone(),
                name,
                Arc::clone(&stop),
                Arc::clone(&done),
            ))
        })
        .collect();
    // A stream that is open all the while.
    let authorization = format!("Bearer {token}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Accept", "text/event-stream"),
    ];
    let mut stream = TcpStream::connect(program.address).await.unwrap();
    let host = program.address.to_string();
    stream
        .write_all(&request("GET", "/one/mcp/events", &host, &headers, b""))
        .await
        .unwrap();

    for turn in 1..=20 {
        program.write(&format!(
            "  - {{ name: extra-{turn}, path: /extra-{turn}/mcp, url: 'http://{}/mcp' }}\n",
            program.upstream
        ));
        let before = done.load(Ordering::Relaxed);
        program.hang_up();
        program.wait_for("applied", turn).await;
        // The new server is there, the one before it is gone.
        let own = program.token(&format!("extra-{turn}")).await;
        let headers = [("Authorization", &*format!("Bearer {own}"))];
        let reply = program
            .exchange("POST", &format!("/extra-{turn}/mcp"), &headers, b"{}")
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let gone = program
            .exchange("POST", &format!("/extra-{}/mcp", turn - 1), &headers, b"{}")
            .await;
        assert_eq!(gone.status, 404);
        while done.load(Ordering::Relaxed) < before + 20 {
            assert!(callers.iter().all(|caller| !caller.is_finished()), "a caller gave up");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    // A file with problems changes nothing.
    program.write("  - { name: broken }\nlissten: x\n");
    program.hang_up();
    program.wait_for("refused", 1).await;
    let headers = [("Authorization", authorization.as_str())];
    assert_eq!(program.exchange("POST", "/one/mcp", &headers, b"{}").await.status, 200);
    assert_eq!(program.exchange("POST", "/extra-20/mcp", &[], b"{}").await.status, 401);

    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(
        (program.reloads("applied").await, program.reloads("needs_restart").await),
        (20, 0)
    );
    // The stream has every event from the first on, and goes on.
    let mut text = String::new();
    let mut buffer = vec![0; 64 << 10];
    let expected = "data: 60\n";
    while !text.contains(expected) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(read > 0, "the stream ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let heard: Vec<u32> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: ")?.trim_end().parse().ok())
        .collect();
    assert!(
        heard.iter().copied().eq(0..u32::try_from(heard.len()).unwrap()),
        "{heard:?}"
    );
}

/// Spec: L22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_files_are_taken_where_that_is_switched_on() {
    let program = Program::start(&["--watch"]).await;
    program.write(&format!(
        "  - {{ name: two, path: /two/mcp, url: 'http://{}/mcp' }}\n",
        program.upstream
    ));
    program.wait_for("applied", 1).await;
    assert_eq!(program.exchange("POST", "/two/mcp", &[], b"{}").await.status, 401);
    program.write("  - { name: broken }\n");
    program.wait_for("refused", 1).await;
    assert_eq!(program.exchange("POST", "/two/mcp", &[], b"{}").await.status, 401);
    // A secret in a file: the one that mends the configuration, and then another.
    let secret = program.directory.path().join("secret");
    let with_secret = format!(
        "  - {{ name: two, path: /two/mcp, url: 'http://{}/mcp', headers: {{ X-Key: {{ file: '{}' }} }} }}\n",
        program.upstream,
        secret.display()
    );
    program.write(&with_secret);
    program.wait_for("refused", 2).await;
    fs::write(&secret, "one").unwrap();
    program.wait_for("applied", 2).await;
    fs::write(&secret, "two").unwrap();
    program.wait_for("applied", 3).await;
    // Left alone it stays as it is.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (program.reloads("applied").await, program.reloads("refused").await),
        (3, 2)
    );
}
