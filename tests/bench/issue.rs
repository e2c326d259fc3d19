//! How many tokens are issued in a second: 64 clients, each replacing its refresh token over and over.
//!
//! `bench-issue store DIRECTORY SECONDS` talks to the store, once with flushes shared and once with one flush for each write;
//! `bench-issue http ADDRESS CLIENT_ID SECONDS < REFRESH_TOKENS` talks to a running gateway. Prints one JSON object.

use std::io::BufRead as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CLIENTS: usize = 64;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["store", directory, seconds] => store(directory, seconds).await,
        ["http", address, client, seconds] => http(address, client, seconds).await,
        _ => Err("usage: bench-issue store DIRECTORY SECONDS | http ADDRESS CLIENT_ID SECONDS".into()),
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
    store.approve(&id.hash(), (&code.hash(), &record), None).await?;
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

async fn http(address: &str, client: &str, seconds: &str) -> Result<String, Failure> {
    let time = Duration::from_secs(seconds.parse()?);
    let tokens = std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>()?;
    let done = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let (done, address, client) = (Arc::clone(&done), address.to_owned(), client.to_owned());
            tokio::spawn(async move { refresh_for(&address, &client, token, started, time, &done).await })
        })
        .collect();
    let clients = tasks.len();
    for task in tasks {
        task.await??;
    }
    Ok(format!(
        "{{\"clients\": {clients}, \"tokens\": {:.0}}}",
        rate(done.load(Ordering::Relaxed), started.elapsed())
    ))
}

async fn refresh_for(
    address: &str,
    client: &str,
    mut token: String,
    started: Instant,
    time: Duration,
    done: &AtomicUsize,
) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while started.elapsed() < time {
        let body = format!("grant_type=refresh_token&client_id={client}&refresh_token={token}");
        let head = format!(
            "POST /token HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await?;
        buffer.clear();
        token = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err("the gateway closed the connection".into());
            }
            let text = String::from_utf8_lossy(&buffer);
            if !text.starts_with("HTTP/1.1 200") {
                return Err(format!("a refresh was refused: {}", text.lines().next().unwrap_or_default()).into());
            }
            let found = text
                .split("\"refresh_token\":\"")
                .nth(1)
                .and_then(|rest| rest.split_once('"'));
            if let Some((next, _)) = found.filter(|_| text.trim_end().ends_with('}')) {
                break next.to_owned();
            }
        };
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
