//! The rest of the internet: a server with a certificate of its own authority, and names that lead to it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "for tests, each of which is a crate of its own and uses its part of this"
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mcpgate::fetch::Network;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// An address of the public internet; in these tests, everybody on it is the site.
pub const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));

/// Names that the site has a certificate for.
const NAMES: [&str; 9] = [
    "client.example",
    "other.example",
    "keys.example",
    "claude.ai",
    "chatgpt.com",
    "vscode.dev",
    "opencode.ai",
    "localhost",
    "127.0.0.1",
];

/// What is behind a path.
#[derive(Clone, Debug)]
pub struct Page {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub pace: Pace,
}

/// How it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once, with its length.
    AtOnce,
    /// After a while.
    After(Duration),
    /// In chunks, without saying how long it is.
    Chunked,
    /// A byte each second.
    Dripping,
    /// Less than was announced.
    BrokenOff,
}

#[derive(Default)]
struct State {
    pages: Mutex<HashMap<String, Page>>,
    requests: Mutex<Vec<String>>,
}

/// The server.
#[derive(Clone)]
pub struct Site {
    pub address: SocketAddr,
    /// The authority behind its certificate.
    pub root: CertificateDer<'static>,
    pub root_pem: String,
    state: Arc<State>,
}

impl Page {
    pub fn json(value: &Value) -> Self {
        Self::typed("application/json", value.to_string())
    }

    pub fn typed(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", media_type.to_owned())],
            body: body.into(),
            pace: Pace::AtOnce,
        }
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }
}

impl Site {
    pub async fn start() -> Self {
        Self::serve(true).await
    }

    /// The same without TLS, for what is on the developer's own machine.
    pub async fn start_plain() -> Self {
        Self::serve(false).await
    }

    async fn serve(tls: bool) -> Self {
        let (config, root, root_pem) = certificates();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let (acceptor, shared) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&state));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    // Whoever breaks off is part of what is tested.
                    if !tls {
                        let _ = answer(stream, &state).await;
                    } else if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = answer(stream, &state).await;
                    }
                });
            }
        });
        Self {
            address,
            root,
            root_pem,
            state,
        }
    }

    /// Puts a page behind a path, such as `client.example/a`; the host goes without its port.
    pub fn put(&self, at: &str, page: Page) {
        self.state.pages.lock().unwrap().insert(at.to_owned(), page);
    }

    pub fn put_json(&self, at: &str, value: &Value) {
        self.put(at, Page::json(value));
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        let start = format!("GET {path} HTTP/1.1\r\n");
        let requests = self.state.requests.lock().unwrap();
        requests.iter().filter(|head| head.starts_with(&start)).count()
    }
}

fn certificates() -> (ServerConfig, CertificateDer<'static>, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let (root_der, root_pem) = (root.der().clone(), root.pem());
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(NAMES.map(str::to_owned)).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    (config, root_der, root_pem)
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, state: &State) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let lines = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("host:").map(str::to_owned));
    let host = lines.unwrap();
    let host = host.trim().split(':').next().unwrap();
    let page = state.pages.lock().unwrap().get(&format!("{host}{path}")).cloned();
    state.requests.lock().unwrap().push(head.clone());
    let page = page.unwrap_or_else(|| Page::typed("text/html", "<p>nothing here").status(404));
    if let Pace::After(wait) = page.pace {
        tokio::time::sleep(wait).await;
    }
    let mut text = format!("HTTP/1.1 {} Whatever\r\nconnection: close\r\n", page.status);
    for (name, value) in &page.headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    match page.pace {
        Pace::Chunked => text.push_str("transfer-encoding: chunked\r\n"),
        Pace::BrokenOff => write!(text, "content-length: {}\r\n", page.body.len() + 1).unwrap(),
        Pace::AtOnce | Pace::After(_) | Pace::Dripping => {
            write!(text, "content-length: {}\r\n", page.body.len()).unwrap();
        }
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    match page.pace {
        Pace::Chunked => {
            for part in page.body.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
                stream.write_all(part).await?;
                stream.write_all(b"\r\n").await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Pace::Dripping => {
            for byte in &page.body {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Pace::AtOnce | Pace::After(_) | Pace::BrokenOff => stream.write_all(&page.body).await?,
    }
    stream.shutdown().await
}

/// Names and where they lead. A name with several answers gives them in turn and stays with the last.
pub struct Names {
    site: SocketAddr,
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    /// Nothing can be resolved.
    pub down: std::sync::atomic::AtomicBool,
}

impl Names {
    /// Every name of the site leads to it.
    pub fn of(site: &Site) -> Arc<Self> {
        let answers = NAMES.map(|name| (name.to_owned(), vec![vec![PUBLIC]]));
        Arc::new(Self {
            site: site.address,
            answers: Mutex::new(answers.into_iter().collect()),
            down: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Lets a name lead elsewhere.
    pub fn lead(&self, name: &str, answers: &[&[&str]]) {
        let parsed = answers
            .iter()
            .map(|addresses| addresses.iter().map(|text| text.parse().unwrap()).collect())
            .collect();
        self.answers.lock().unwrap().insert(name.to_owned(), parsed);
    }
}

#[async_trait]
impl Network for Names {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::other("no name server"));
        }
        let mut all = self.answers.lock().unwrap();
        let Some(answers) = all.get_mut(name) else {
            return Ok(Vec::new());
        };
        let first = answers[0].clone();
        if answers.len() > 1 {
            answers.remove(0);
        }
        Ok(first)
    }

    /// The public internet is the site; anything else is where it says.
    fn reach(&self, address: IpAddr) -> SocketAddr {
        if address == PUBLIC {
            self.site
        } else {
            SocketAddr::new(address, self.site.port())
        }
    }
}
