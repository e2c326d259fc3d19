//! The Rust SDK's client: `client-rmcp legacy|auto`.
//!
//! In the mode `auto` it first asks in the newest protocol revision and falls back to the one that the server speaks. Prints
//! a line for each step, like the clients beside it; discovery, registration, PKCE, tokens and refresh are the SDK's.

use std::future::Future;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rmcp::model::{CallToolRequestParams, CallToolResult, ProgressNotificationParam, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, NotificationContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{
    AuthClient, AuthorizationManager, AuthorizationMetadataSource, AuthorizationRequest, AuthorizationSession,
    CredentialStore as _, InMemoryCredentialStore,
};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, RoleClient};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Running = RunningService<RoleClient, Watcher>;

/// Nobody has to listen there: the browser hands the address back.
const REDIRECT_URI: &str = "http://127.0.0.1:46275/callback";
const GREETING: &str = "grüße, 世界";
const STEPS: usize = 4;
const DURATION: u64 = 2;

/// Notes when reports arrive. A gateway that holds events back delivers them all at the end.
#[derive(Clone, Default)]
struct Watcher {
    reports: Arc<Mutex<Vec<Instant>>>,
}

impl ClientHandler for Watcher {
    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // Not the first to be installed is as good: then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let lifecycle = match std::env::args().nth(1).as_deref() {
        Some("legacy") => ClientLifecycleMode::Initialize,
        Some("auto") => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: None,
        },
        _ => return Err("usage: client-rmcp legacy|auto".into()),
    };
    let url = variable("MCP_URL")?;
    let lifetime = Duration::from_secs(variable("TOKEN_SECONDS")?.parse()?);
    let credentials = InMemoryCredentialStore::new();

    let challenge = step("a first connection is refused with a challenge", 10, async {
        let transport = StreamableHttpClientTransport::from_uri(url.clone());
        match Watcher::default()
            .serve_with_lifecycle(transport, lifecycle.clone())
            .await
        {
            Ok(_) => Err("connected without a token".into()),
            Err(error) => Ok(error.auth_challenge().ok_or_else(|| error.to_string())?.to_owned()),
        }
    })
    .await?;
    let session = step(
        "the challenge leads to the metadata, and the client registers",
        10,
        async {
            let mut manager = AuthorizationManager::new(url.as_str()).await?;
            manager.set_credential_store(credentials.clone());
            let found = manager.resolve_metadata_from_challenge(Some(&challenge)).await?;
            if found.source != AuthorizationMetadataSource::ProtectedResourceMetadata {
                return Err(format!("the metadata came from {:?}", found.source).into());
            }
            manager.set_metadata(found.metadata);
            let mut request = AuthorizationRequest::new(REDIRECT_URI)
                .with_client_name("Rust SDK")
                .with_challenge(challenge);
            if let Ok(document) = variable("CLIENT_DOCUMENT") {
                request = request.with_client_metadata_url(document);
            }
            Ok(AuthorizationSession::new(manager, request)
                .await
                .map_err(|(_, error)| error)?)
        },
    )
    .await?;
    step("sign-in and consent lead to a code that becomes tokens", 20, async {
        let callback = visit(session.get_authorization_url()).await?;
        session.handle_callback_url(&callback).await?;
        Ok(())
    })
    .await?;
    let (client_id, _) = session.get_credentials().await?;
    say(&format!("CLIENT {client_id}"));

    let watcher = Watcher::default();
    let running = step("the client connects", 10, async {
        let client = AuthClient::new(reqwest::Client::new(), session.auth_manager);
        let config = StreamableHttpClientTransportConfig::with_uri(url);
        let transport = StreamableHttpClientTransport::with_client(client, config);
        Ok(watcher.clone().serve_with_lifecycle(transport, lifecycle).await?)
    })
    .await?;
    converse(&running, &watcher).await?;
    step(
        "an expired token is refreshed without the person",
        30,
        renewed(&running, &credentials, lifetime),
    )
    .await?;
    if let Ok(signal) = variable("RESTART") {
        let name = format!("the gateway restarts after {signal}, and the client goes on without the person");
        let control = format!("{}/restart/{signal}", variable("CONTROL_URL")?);
        step(&name, 60, async {
            reqwest::Client::new().post(control).send().await?.error_for_status()?;
            renewed(&running, &credentials, lifetime).await
        })
        .await?;
    }
    step("the session is ended", 10, async {
        Ok(running.cancel().await.map(|_| ())?)
    })
    .await
}

async fn converse(running: &Running, watcher: &Watcher) -> Result<(), Failure> {
    step("tools/list names the tools of the server", 10, async {
        let tools = running.list_all_tools().await?;
        for name in ["echo", "trigger-long-running-operation"] {
            if !tools.iter().any(|tool| tool.name == name) {
                return Err(format!("no {name} among {} tools", tools.len()).into());
            }
        }
        Ok(())
    })
    .await?;
    step("tools/call answers", 10, echo(running, GREETING)).await?;
    step("progress arrives while the call runs", 15, async {
        let arguments = json!({ "duration": DURATION, "steps": STEPS });
        let result = call(running, "trigger-long-running-operation", arguments).await?;
        let end = Instant::now();
        expect(&result, "completed")?;
        let times = watcher.reports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ahead = times
            .first()
            .map(|first| end.duration_since(*first))
            .unwrap_or_default();
        // The last report leaves the server together with the result.
        if times.len() < STEPS - 1 || ahead < Duration::from_secs(DURATION) / 4 {
            return Err(format!("{} reports, the first {ahead:?} before the result", times.len()).into());
        }
        Ok(())
    })
    .await
}

/// Waits until the access token is over, calls again and expects that the client got a new one by itself.
async fn renewed(running: &Running, credentials: &InMemoryCredentialStore, lifetime: Duration) -> Result<(), Failure> {
    let before = token(credentials).await?;
    tokio::time::sleep(lifetime + Duration::from_secs(1)).await;
    echo(running, "after the token expired").await?;
    if token(credentials).await? == before {
        return Err("the access token is the old one".into());
    }
    Ok(())
}

/// The tokens that the client holds, as they were answered.
async fn token(credentials: &InMemoryCredentialStore) -> Result<Value, Failure> {
    let stored = credentials
        .load()
        .await?
        .and_then(|stored| stored.token_response)
        .ok_or("no tokens")?;
    Ok(serde_json::to_value(stored)?)
}

async fn echo(running: &Running, message: &str) -> Result<(), Failure> {
    expect(&call(running, "echo", json!({ "message": message })).await?, message)
}

async fn call(running: &Running, name: &'static str, arguments: Value) -> Result<CallToolResult, Failure> {
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    Ok(running
        .call_tool(CallToolRequestParams::new(name).with_arguments(arguments))
        .await?)
}

fn expect(result: &CallToolResult, text: &str) -> Result<(), Failure> {
    let content = serde_json::to_string(&result.content)?;
    if content.contains(text) {
        Ok(())
    } else {
        Err(format!("unexpected result: {content}").into())
    }
}

/// The redirect URI as the person's browser is sent to it.
async fn visit(url: &str) -> Result<String, Failure> {
    let browser = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/lib/browser.mjs");
    let node = variable("NODE").unwrap_or_else(|_| "node".into());
    let output = tokio::process::Command::new(node)
        .args([browser, url])
        .stdin(Stdio::null())
        .output()
        .await?;
    if !output.status.success() {
        return Err(format!("the browser: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the runner says in the environment where the gateway is and who signs in"
)]
fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

/// Runs one step and prints how it went.
async fn step<T>(name: &str, seconds: u64, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let outcome = tokio::time::timeout(Duration::from_secs(seconds), work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {seconds} s").into()));
    match &outcome {
        Ok(_) => say(&format!("PASS {name}")),
        Err(error) => say(&format!("FAIL {name}: {}", error.to_string().replace('\n', " "))),
    }
    outcome
}

/// One line for the runner; without it, it fails on its own.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
