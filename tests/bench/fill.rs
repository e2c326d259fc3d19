//! Fills a store with living tokens, as a client with `client_credentials` gets them, through the trait that the gateway uses.
//!
//! `bench-fill DIRECTORY COUNT CLIENT RESOURCE TOKENS`: prints the first TOKENS of them, one a line, and how long it took on
//! stderr.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcpgate::domain::client::ClientId;
use mcpgate::domain::clock::{Clock as _, SystemClock, Timestamp};
use mcpgate::domain::grant::{AccessToken, Grant, GrantId};
use mcpgate::domain::scope::Scope;
use mcpgate::domain::secret::{Secret, SecretKind};
use mcpgate::domain::uri::Resource;
use mcpgate::domain::user::Subject;
use mcpgate::store::sled::SledStore;
use mcpgate::store::{Issued, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writers side by side: they share flushes.
const WRITERS: usize = 512;
const LIFETIME: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        [directory, count, client, resource, tokens] => fill(directory, count, client, resource, tokens).await,
        _ => Err("usage: bench-fill DIRECTORY COUNT CLIENT RESOURCE TOKENS".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn fill(directory: &str, count: &str, client: &str, resource: &str, tokens: &str) -> Result<(), Failure> {
    let (count, shown): (usize, usize) = (count.parse()?, tokens.parse()?);
    let store: Arc<dyn Store> = Arc::new(SledStore::open(directory.as_ref(), Arc::new(()))?);
    let now = SystemClock.now();
    let client_id = ClientId::parse(client).ok_or("not a client's id")?;
    let grant = Grant {
        subject: Subject::of_client(&client_id),
        client_id,
        resource: Resource::parse(resource)?,
        scope: Scope::empty(),
        authenticated_at: now,
        key: None,
        name: None,
        used_at: None,
        more: Vec::new(),
        created_at: now,
        expires_at: now.plus(LIFETIME),
    };
    let started = Instant::now();
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let (store, grant) = (Arc::clone(&store), grant.clone());
        let own = count / WRITERS + usize::from(number < count % WRITERS);
        let keep = shown.div_ceil(WRITERS);
        writers.push(tokio::spawn(async move {
            let mut kept = Vec::with_capacity(keep);
            for _ in 0..own {
                let token = issue(&*store, &grant, now).await?;
                if kept.len() < keep {
                    kept.push(token.expose().to_owned());
                }
            }
            Ok::<_, Failure>(kept)
        }));
    }
    let mut kept = Vec::with_capacity(shown);
    for writer in writers {
        kept.extend(writer.await??);
    }
    store.close().await?;
    eprintln!("{:.1}", started.elapsed().as_secs_f64());
    let mut out = std::io::stdout().lock();
    for token in kept.iter().take(shown) {
        writeln!(out, "{token}")?;
    }
    Ok(out.flush()?)
}

async fn issue(store: &dyn Store, grant: &Grant, now: Timestamp) -> Result<Secret, Failure> {
    let token = Secret::generate(SecretKind::AccessToken);
    let grant_id = GrantId::generate();
    let access = AccessToken {
        grant: grant_id,
        scope: Scope::empty(),
        key: None,
        issued_at: now,
        expires_at: now.plus(LIFETIME),
    };
    let issued = Issued {
        grant_id,
        access: (token.hash(), access),
        refresh: None,
    };
    store.issue(grant, &issued).await?;
    Ok(token)
}
