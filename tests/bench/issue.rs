//! How many tokens are issued in a second: 64 clients, each replacing its refresh token over and over.
//!
//! `bench-issue store DIRECTORY SECONDS` talks to the store, once with flushes shared and once with one flush for each write;
//! `bench-issue http KIND SECONDS < PLAN` talks to a running server: KIND is a grant type or `registration`, the plan says where
//! and as whom. Prints one JSON object.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcpgate::domain::client::{ClientId, GrantType};
use mcpgate::domain::clock::Timestamp;
use mcpgate::domain::grant::{
    AccessToken, AuthorizationCode, AuthorizationRequest, GrantId, RefreshToken, RequestDetails, Succession,
};
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::{Nonce, Secret, SecretHash, SecretKind};
use mcpgate::domain::uri::Resource;
use mcpgate::domain::user::Subject;
use mcpgate::store::sled::SledStore;
use mcpgate::store::{Issued, Redemption, Rotation, Store};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Mutex};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CLIENTS: usize = 64;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["store", directory, seconds] => store(directory, seconds).await,
        ["http", kind, seconds] => http(kind, seconds).await,
        _ => Err("usage: bench-issue store DIRECTORY SECONDS | http KIND SECONDS < PLAN".into()),
    };
    match outcome {
        Ok(line) => {
            use std::io::Write as _;
            if writeln!(std::io::stdout(), "{line}").is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn store(directory: &str, seconds: &str) -> Result<String, Failure> {
    let time = Duration::from_secs(seconds.parse()?);
    let store: Arc<dyn Store> = Arc::new(SledStore::open(directory.as_ref(), Arc::new(()))?);
    let shared = rotations(&store, None, time).await?;
    let alone = rotations(&store, Some(Arc::new(Mutex::new(()))), time).await?;
    store.close().await?;
    Ok(format!("{{\"shared\": {shared:.0}, \"alone\": {alone:.0}}}"))
}

/// Rotations in a second; with a gate, one at a time, so that each has a flush of its own.
async fn rotations(store: &Arc<dyn Store>, gate: Option<Arc<Mutex<()>>>, time: Duration) -> Result<f64, Failure> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    let mut tokens = Vec::new();
    for _ in 0..CLIENTS {
        tokens.push(begin(store).await?);
    }
    let started = Instant::now();
    for (grant, mut token) in tokens {
        let (store, gate, done) = (Arc::clone(store), gate.clone(), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            while started.elapsed() < time {
                let nonce = Nonce::generate();
                let (access, refresh) = (
                    token.derive(SecretKind::AccessToken, &nonce),
                    token.derive(SecretKind::RefreshToken, &nonce),
                );
                let succession = Succession {
                    at: NOW,
                    nonce,
                    scope: Scope::empty(),
                    access_expires_at: NOW.plus(Duration::from_secs(3600)),
                    key: None,
                };
                let issued = issued(grant, access.hash(), refresh.hash());
                let turn = match &gate {
                    Some(gate) => Some(gate.lock().await),
                    None => None,
                };
                match store.rotate(&token.hash(), &succession, &issued).await? {
                    Rotation::Done => {}
                    Rotation::AlreadyRotated(_) | Rotation::Unknown => {
                        return Err(Failure::from("a rotation was refused"));
                    }
                }
                drop(turn);
                token = refresh;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(rate(done.load(Ordering::Relaxed), started.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "a count of some seconds fits")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn issued(grant_id: GrantId, access: SecretHash, refresh: SecretHash) -> Issued {
    let access_token = AccessToken {
        grant: grant_id,
        scope: Scope::empty(),
        issued_at: NOW,
        key: None,
        expires_at: NOW.plus(Duration::from_secs(3600)),
    };
    let refresh_token = RefreshToken {
        grant: grant_id,
        scope: Scope::empty(),
        expires_at: NOW.plus(Duration::from_secs(604_800)),
        rotated: None,
    };
    Issued {
        grant_id,
        access: (access, access_token),
        refresh: Some((refresh, refresh_token)),
    }
}

/// A grant with its first tokens.
async fn begin(store: &Arc<dyn Store>) -> Result<(GrantId, Secret), Failure> {
    let client_id = ClientId::generate();
    let client: mcpgate::domain::client::Client = serde_json::from_value(serde_json::json!({
        "id": client_id, "origin": "registered", "secret": null, "auth_method": "none", "redirect_uris": ["http://127.0.0.1/"],
        "grant_types": [GrantType::AuthorizationCode, GrantType::RefreshToken], "scope": null, "name": null, "display": {}, "created_at": 0,
    }))?;
    store.register_client(&client).await?;
    let redirect = client
        .redirect_target("http://127.0.0.1/")
        .ok_or("the redirect URI is not registered")?;
    let (id, code, refresh) = (
        Secret::generate(SecretKind::Authorization),
        Secret::generate(SecretKind::AuthorizationCode),
        Secret::generate(SecretKind::RefreshToken),
    );
    let resource = Resource::parse("http://127.0.0.1/mcp")?;
    let expires_at = NOW.plus(Duration::from_secs(600));
    let request = AuthorizationRequest {
        client_id: client_id.clone(),
        redirect: redirect.clone(),
        state: None,
        code_challenge: None,
        scope: Scope::empty(),
        resource: resource.clone(),
        browser: id.hash(),
        sign_in_again: false,
        ask_again: false,
        details: RequestDetails::default(),
        created_at: NOW,
        expires_at,
    };
    store.begin_authorization(&id.hash(), &request).await?;
    let subject = Subject::of_username("ada").ok_or("ada is no username")?;
    let record = AuthorizationCode {
        client_id,
        redirect,
        code_challenge: None,
        scope: Scope::empty(),
        resource,
        subject,
        authenticated_at: NOW,
        details: RequestDetails::default(),
        expires_at,
        redeemed: None,
        failed_attempts: 0,
    };
    store.approve(Some(&id.hash()), (&code.hash(), &record), None).await?;
    let grant_id = GrantId::generate();
    let grant = record.grant(NOW, Duration::from_secs(604_800));
    let issued = issued(
        grant_id,
        Secret::generate(SecretKind::AccessToken).hash(),
        refresh.hash(),
    );
    match store.redeem_code(&code.hash(), &grant, &issued).await? {
        Redemption::Done => Ok((grant_id, refresh)),
        Redemption::AlreadyUsed(_) | Redemption::Unknown => Err("a code was refused".into()),
    }
}

/// Where tokens are asked for, and as whom. Both servers of the bench give one of these.
#[derive(serde::Deserialize)]
struct Plan {
    address: String,
    authorize: String,
    token: String,
    register: String,
    resource: String,
    redirect: String,
    /// Of a browser in which somebody is signed in who has agreed to this client.
    cookie: String,
    client: String,
    scope: String,
    machine: Machine,
}

/// A client that acts for itself.
#[derive(serde::Deserialize)]
struct Machine {
    client: String,
    secret: String,
    scope: String,
}

/// What is counted.
#[derive(Clone, Copy)]
enum Kind {
    AuthorizationCode,
    RefreshToken,
    ClientCredentials,
    Registration,
}

async fn http(kind: &str, seconds: &str) -> Result<String, Failure> {
    let kind = match kind {
        "authorization_code" => Kind::AuthorizationCode,
        "refresh_token" => Kind::RefreshToken,
        "client_credentials" => Kind::ClientCredentials,
        "registration" => Kind::Registration,
        other => return Err(format!("no such kind: {other}").into()),
    };
    let time = Duration::from_secs(seconds.parse()?);
    let plan: Arc<Plan> = Arc::new(serde_json::from_reader(std::io::stdin().lock())?);
    // Nobody is timed before all are ready.
    let ready = Arc::new(Barrier::new(CLIENTS));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(work(Arc::clone(&plan), kind, time, Arc::clone(&ready))))
        .collect();
    let mut all = 0.0;
    for task in tasks {
        all += task.await??;
    }
    Ok(format!("{{\"rate\": {all:.0}}}"))
}

/// One client: how often in a second it gets what it asks for.
async fn work(plan: Arc<Plan>, kind: Kind, time: Duration, ready: Arc<Barrier>) -> Result<f64, Failure> {
    let mut connection = Connection::open(&plan).await?;
    let mut token = String::new();
    if let Kind::RefreshToken = kind {
        token = connection.tokens().await?;
    }
    ready.wait().await;
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < time {
        match kind {
            Kind::AuthorizationCode => drop(connection.tokens().await?),
            Kind::RefreshToken => token = connection.refresh(&token).await?,
            Kind::ClientCredentials => connection.credentials().await?,
            Kind::Registration => connection.register().await?,
        }
        done += 1;
    }
    Ok(rate(done, started.elapsed()))
}

/// A kept-alive connection, and the browser's cookies.
struct Connection {
    plan: Arc<Plan>,
    stream: TcpStream,
    cookies: Vec<(String, String)>,
}

struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

impl Connection {
    async fn open(plan: &Arc<Plan>) -> Result<Self, Failure> {
        let stream = TcpStream::connect(&plan.address).await?;
        stream.set_nodelay(true)?;
        let cookies = plan
            .cookie
            .split("; ")
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self {
            plan: Arc::clone(plan),
            stream,
            cookies,
        })
    }

    /// A whole authorization, in a browser that was here before, and the code's exchange. The refresh token.
    async fn tokens(&mut self) -> Result<String, Failure> {
        let verifier: String = Secret::generate(SecretKind::Session).expose().to_owned();
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
        let plan = Arc::clone(&self.plan);
        let query = encoded(&[
            ("response_type", "code"),
            ("client_id", &plan.client),
            ("redirect_uri", &plan.redirect),
            ("scope", &plan.scope),
            ("state", "bench"),
            ("resource", &plan.resource),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let mut target = format!("{}?{query}", plan.authorize);
        let code = loop {
            let answer = self.ask("GET", &target, "", "").await?;
            let location = answer
                .location
                .ok_or_else(|| format!("{target} did not redirect but said {}: {}", answer.status, answer.body))?;
            if let Some(query) = location.strip_prefix(&plan.redirect) {
                break form_urlencoded::parse(query.trim_start_matches('?').as_bytes())
                    .find(|(name, _)| name == "code")
                    .map(|(_, code)| code.into_owned())
                    .ok_or_else(|| format!("no code: {location}"))?;
            }
            let own = format!("http://{}", plan.address);
            location.strip_prefix(&own).unwrap_or(&location).clone_into(&mut target);
        };
        let answer = self
            .exchange(&[
                ("grant_type", "authorization_code"),
                ("client_id", &plan.client),
                ("code", &code),
                ("redirect_uri", &plan.redirect),
                ("code_verifier", &verifier),
                ("resource", &plan.resource),
            ])
            .await?;
        member(&answer, "refresh_token")
    }

    async fn refresh(&mut self, token: &str) -> Result<String, Failure> {
        let plan = Arc::clone(&self.plan);
        let answer = self
            .exchange(&[
                ("grant_type", "refresh_token"),
                ("client_id", &plan.client),
                ("refresh_token", token),
                ("resource", &plan.resource),
            ])
            .await?;
        member(&answer, "refresh_token")
    }

    async fn credentials(&mut self) -> Result<(), Failure> {
        let plan = Arc::clone(&self.plan);
        let answer = self
            .exchange(&[
                ("grant_type", "client_credentials"),
                ("client_id", &plan.machine.client),
                ("client_secret", &plan.machine.secret),
                ("scope", &plan.machine.scope),
                ("resource", &plan.resource),
            ])
            .await?;
        member(&answer, "access_token").map(drop)
    }

    async fn register(&mut self) -> Result<(), Failure> {
        let plan = Arc::clone(&self.plan);
        let body = serde_json::json!({
            "redirect_uris": [plan.redirect],
            "client_name": "bench",
            "application_type": "web",
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
        });
        let answer = self
            .ask("POST", &plan.register, "application/json", &body.to_string())
            .await?;
        member(&answer.body, "client_id").map(drop)
    }

    async fn exchange(&mut self, form: &[(&str, &str)]) -> Result<String, Failure> {
        let plan = Arc::clone(&self.plan);
        let answer = self
            .ask("POST", &plan.token, "application/x-www-form-urlencoded", &encoded(form))
            .await?;
        if answer.status == 200 {
            Ok(answer.body)
        } else {
            Err(format!("a token was refused with {}: {}", answer.status, answer.body).into())
        }
    }

    async fn ask(&mut self, method: &str, target: &str, media_type: &str, body: &str) -> Result<Answer, Failure> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", self.plan.address);
        if method == "GET" {
            // Browsers say so, and some servers answer a program with JSON.
            head.push_str("accept: text/html\r\nsec-fetch-mode: navigate\r\n");
            let cookies: Vec<_> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            head.extend(["cookie: ", &cookies.join("; "), "\r\n"]);
        } else {
            let length = body.len().to_string();
            head.extend(["content-type: ", media_type, "\r\ncontent-length: ", &length, "\r\n"]);
        }
        head.push_str("\r\n");
        self.stream.write_all((head + body).as_bytes()).await?;
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut buffer).await?;
        };
        let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .ok_or("no status")?
            .parse()?;
        let (mut length, mut chunked, mut location) = (0, false, None);
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "transfer-encoding" => chunked = true,
                "location" => location = Some(value.to_owned()),
                "set-cookie" => self.remember(value),
                _ => {}
            }
        }
        if chunked {
            while !buffer.ends_with(b"0\r\n\r\n") {
                self.more(&mut buffer).await?;
            }
        } else {
            while buffer.len() < end + length {
                self.more(&mut buffer).await?;
            }
        }
        let body = String::from_utf8_lossy(buffer.get(end..).unwrap_or_default()).into_owned();
        let body = if chunked { joined(&body) } else { body };
        Ok(Answer { status, location, body })
    }

    async fn more(&mut self, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        match self.stream.read_buf(buffer).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    fn remember(&mut self, line: &str) {
        let Some((name, value)) = line.split(';').next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        self.cookies.retain(|(own, _)| own != name);
        if !value.is_empty() {
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// The pieces of a chunked body; none of the servers' answers has a line end in it that is not a chunk's.
fn joined(body: &str) -> String {
    body.split("\r\n").skip(1).step_by(2).collect()
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

fn member(json: &str, name: &str) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_str(json)?;
    let text = value.get(name).and_then(serde_json::Value::as_str);
    text.map(str::to_owned)
        .ok_or_else(|| format!("there is no {name} in {json}").into())
}
