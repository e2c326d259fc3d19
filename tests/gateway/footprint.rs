//! The program itself, with its memory and descriptors looked at from outside, while upstreams and clients misbehave in
//! ways that could fill it: whatever they send or do not take, it grows by a bounded amount and gives back what it held.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::faults::{Act, CALL, Script, Scripted, ok, say, within};
use crate::http1::{read_reply, request, send};

const SECRET: &str = "a secret of the tests that is long enough";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const MIB: u64 = 1 << 20;

/// The built program in front of a scripted upstream.
struct Program {
    child: Child,
    _directory: TempDir,
    address: SocketAddr,
    bearer: String,
}

impl Program {
    async fn start(script: Script, limits: &str) -> Self {
        let (upstream_address, _) = Scripted::start(script).await;
        let directory = TempDir::new().unwrap();
        let ports = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, admin] = ports.map(|listener| listener.local_addr().unwrap());
        let path = directory.path().display();
        let yaml = format!(
            r#"
public_url: http://{address}
listen: {address}
admin: {{ listen: "{admin}" }}
store: {{ sled: {{ path: "{path}/data" }} }}
oauth:
  clients: [{{ client_id: tests, client_secret: "{SECRET}", grant_types: [client_credentials], redirect_uris: ["http://127.0.0.1/callback"] }}]
users: [{{ username: nobody, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$saSKtCUxgrqI1gLOKTbpOA$9kajQeEbOji1LH6rngH5QHWmslik9+Y4s9wKyAK4wm8" }}]
upstreams: [{{ name: one, path: /one/mcp, url: "http://{upstream_address}/mcp", limits: {{ {limits} }} }}]
"#
        );
        let file = directory.path().join("gateway.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mcpgate"))
            .args(["serve", "-c", &file.display().to_string()])
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().contains("listening on")),
            "it does not start"
        );
        // Read on, or it would wait for somebody to take its log.
        std::thread::spawn(move || lines.count());
        let form = format!(
            "grant_type=client_credentials&client_id=tests&client_secret={}&resource=http%3A%2F%2F{address}%2Fone%2Fmcp",
            SECRET.replace(' ', "+")
        );
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let reply = send(
            address,
            &request("POST", "/token", &address.to_string(), &headers, form.as_bytes()),
        )
        .await;
        let bearer = format!("Bearer {}", reply.json()["access_token"].as_str().unwrap());
        let program = Self {
            child,
            _directory: directory,
            address,
            bearer,
        };
        // What is made once is made now.
        for _ in 0..20 {
            assert_eq!(program.ok().await, 200);
        }
        program
    }

    fn request(&self, name: &str, body: &[u8]) -> Vec<u8> {
        let headers = [
            ("Authorization", self.bearer.as_str()),
            ("Content-Type", "application/json"),
        ];
        request(
            "POST",
            &format!("/one/mcp/{name}"),
            &self.address.to_string(),
            &headers,
            body,
        )
    }

    async fn ok(&self) -> u16 {
        send(self.address, &self.request("ok", CALL.as_bytes())).await.status
    }

    async fn open(&self, name: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&self.request(name, CALL.as_bytes())).await.unwrap();
        stream
    }

    /// Bytes of memory that it holds.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// How much more it holds at most while so much time passes, than `before`; a good request is answered meanwhile.
    async fn growth(&self, before: u64, during: Duration) -> u64 {
        let since = Instant::now();
        let mut most = 0;
        while since.elapsed() < during {
            let asked = Instant::now();
            assert_eq!(self.ok().await, 200);
            assert!(
                asked.elapsed() < Duration::from_secs(3),
                "an ordinary call took {:?}",
                asked.elapsed()
            );
            most = most.max(self.resident().saturating_sub(before));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        most
    }

    /// Everything is closed again: no more descriptors than at the beginning, give or take a kept connection.
    async fn settles(&self, descriptors: usize) {
        let since = Instant::now();
        while self.descriptors() > descriptors + 2 {
            let now = self.descriptors();
            assert!(
                since.elapsed() < Duration::from_secs(10),
                "{now} descriptors are open, {descriptors} were"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flood(text: &str, size: usize) -> Vec<Act> {
    let chunk = [format!("{size:x}\r\n").as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
    vec![
        say(STREAM),
        say(format!("{:x}\r\n{text}\r\n", text.len())),
        Act::Repeat(chunk),
    ]
}

/// An upstream that says more than its client takes is made to wait, and costs no more than any stream.
/// Spec: K1, L15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_that_nobody_reads_stays_outside() {
    let script: Script = |name| {
        if name == "flood" {
            flood("data: ", 256 << 10)
        } else {
            ok("{}")
        }
    };
    let program = Program::start(script, "").await;
    let (before, descriptors) = (program.resident(), program.descriptors());
    let mut streams = Vec::new();
    for _ in 0..60 {
        streams.push(program.open("flood").await);
    }
    let grown = program.growth(before, Duration::from_secs(2)).await;
    assert!(grown < 60 * MIB, "{} MiB for 60 floods", grown / MIB);
    drop(streams);
    program.settles(descriptors).await;
    assert_eq!(program.ok().await, 200);
}

/// One event without an end passes through like anything else; nothing collects it.
/// Spec: K1, L15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_event_passes_through() {
    let script: Script = |name| {
        if name == "event" {
            flood("data: ", 64 << 10)
        } else {
            ok("{}")
        }
    };
    let program = Program::start(script, "").await;
    let (before, descriptors) = (program.resident(), program.descriptors());
    let passed = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for _ in 0..8 {
        let (mut stream, passed) = (program.open("event").await, Arc::clone(&passed));
        readers.push(tokio::spawn(async move {
            let mut part = vec![0; 256 << 10];
            while let Ok(n @ 1..) = stream.read(&mut part).await {
                passed.fetch_add(n as u64, Ordering::Relaxed);
            }
        }));
    }
    let grown = program.growth(before, Duration::from_secs(3)).await;
    let passed = passed.load(Ordering::Relaxed);
    assert!(passed > 64 * MIB, "only {} MiB came through", passed / MIB);
    assert!(
        grown < 24 * MIB,
        "{} MiB more, for {} MiB passed on",
        grown / MIB,
        passed / MIB
    );
    for reader in readers {
        reader.abort();
    }
    program.settles(descriptors).await;
}

/// Heads that do not end are given up before they are large, many at once, too; so are endless trailers.
/// Spec: L15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_heads_and_trailers_do_not_fill_the_memory() {
    let script: Script = |name| match name {
        "head" => vec![say("HTTP/1.1 200 OK\r\nX-Long: "), Act::Repeat(vec![b'a'; 256 << 10])],
        "heads" => vec![
            say("HTTP/1.1 200 OK\r\n"),
            Act::Repeat(b"X-Header: and another one\r\n".repeat(1000)),
        ],
        "trailers" => vec![
            say(format!("{STREAM}2\r\n{{}}\r\n0\r\n")),
            Act::Repeat(b"X-Trailer: one\r\n".repeat(1000)),
        ],
        "extension" => vec![say(format!("{STREAM}2;")), Act::Repeat(vec![b'e'; 64 << 10])],
        _ => ok("{}"),
    };
    let program = Program::start(script, "response_timeout: 2s").await;
    let (before, descriptors) = (program.resident(), program.descriptors());
    let mut streams = Vec::new();
    for name in ["head", "heads", "trailers", "extension"] {
        for _ in 0..15 {
            streams.push((name, program.open(name).await));
        }
    }
    let grown = program.growth(before, Duration::from_secs(2)).await;
    assert!(grown < 60 * MIB, "{} MiB for 60 endless heads", grown / MIB);
    for (name, mut stream) in streams {
        let mut all = Vec::new();
        // A reset is an end, too; what matters is that there is one.
        let _ = within(name, stream.read_to_end(&mut all)).await;
    }
    program.settles(descriptors).await;
    assert_eq!(program.ok().await, 200);
}

/// Uploads to an upstream that does not take them wait at their client.
/// Spec: L15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_nobody_takes_stay_outside() {
    let script: Script = |name| {
        if name == "never-reads" {
            vec![Act::Wait(Duration::from_secs(60)), Act::Read]
        } else {
            ok("{}")
        }
    };
    let program = Program::start(script, "body: 64MiB, response_timeout: 4s").await;
    let (before, descriptors) = (program.resident(), program.descriptors());
    let body = vec![b'x'; 32 << 20];
    let bytes = Arc::new(program.request("never-reads", &body));
    let mut uploads = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        let bytes = Arc::clone(&bytes);
        uploads.push(tokio::spawn(async move {
            let (mut reading, mut writing) = stream.split();
            let mut first = [0; 12];
            tokio::select! {
                () = async { let _ = writing.write_all(&bytes).await; std::future::pending::<()>().await } => {}
                // It may be reset while it still sends; then it has learnt enough.
                read = reading.read_exact(&mut first) => drop(read),
            }
            first
        }));
    }
    let grown = program.growth(before, Duration::from_secs(3)).await;
    assert!(grown < 40 * MIB, "{} MiB for 20 uploads", grown / MIB);
    for upload in uploads {
        let first = within("an upload", upload).await.unwrap();
        let answers: [&[u8; 12]; 3] = [b"HTTP/1.1 504", b"HTTP/1.1 502", &[0; 12]];
        assert!(answers.contains(&&first), "{}", String::from_utf8_lossy(&first));
    }
    program.settles(descriptors).await;
}

/// A thousand clients that say nothing or half a head cost little, and nothing once they are gone.
/// Spec: L15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_cost_little() {
    let program = Program::start(|_| ok("{}"), "").await;
    let (before, descriptors) = (program.resident(), program.descriptors());
    let mut all = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        if number % 2 == 0 {
            stream
                .write_all(b"POST /one/mcp HTTP/1.1\r\nHost: a\r\nX-Half: ")
                .await
                .unwrap();
        }
        all.push(stream);
    }
    let grown = program.growth(before, Duration::from_secs(1)).await;
    assert!(
        grown < 40 * MIB,
        "{} KiB for each of a thousand connections",
        (grown >> 10) / 1_000
    );
    drop(all);
    program.settles(descriptors).await;
    let mut stream = program.open("ok").await;
    assert_eq!(within("afterwards", read_reply(&mut stream, false)).await.status, 200);
}
