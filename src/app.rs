//! The composition root: the only file that knows everyone. It turns a [`Config`] into a running gateway and stops it.

mod reload;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinHandle;

use crate::admin::{self, Admin};
use crate::config::{AuditConfig, AuditTo, Config, StoreConfig};
use crate::domain::clock::Clock;
use crate::fetch::{self, Fetcher, Reach, SystemNetwork};
use crate::identity::Identity;
use crate::mcp::session::Sessions;
use crate::oauth::Endpoints;
use crate::oauth::dpop::Proofs;
use crate::oauth::remote::Remote;
use crate::proxy::Gateway;
use crate::proxy::listener::{Bound, Live};
use crate::store::sled::{Observer, SledStore};
use crate::store::{Store, StoreError};
use crate::telemetry::audit::{Audit, AuditError, Destination};
use crate::telemetry::chain::Seal;
use crate::telemetry::{Metrics, MetricsError};
use reload::Reloader;
use watch::Watch;

pub use reload::ReloadError;

/// How long event streams may go on after the signal to stop. Service managers kill after 30 s by default, so this is less.
pub const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// How often expired records are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Records that one sweep removes at most before others get their turn.
const SWEEP_BATCH: usize = 1_000;
/// How often the store is asked whether it wants to be rewritten.
const COMPACT_EVERY: Duration = Duration::from_secs(600);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is something else using it?")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Metrics cannot be set up.
    #[error("cannot set up the metrics: {0}")]
    Metrics(#[from] MetricsError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Nobody can be asked.
    #[error(transparent)]
    Fetch(#[from] fetch::SetupError),
    /// The configuration cannot be put into practice.
    #[error("{0}")]
    Gateway(String),
}

/// A gateway that runs.
pub struct Running {
    /// Where it accepts requests, in the order of `listen`.
    pub addresses: Vec<SocketAddr>,
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub admin: SocketAddr,
    store: Arc<dyn Store>,
    reloader: Arc<Reloader>,
    read_again: Arc<Notify>,
    stop: channel::Sender<bool>,
    proxy: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

/// Passes the store's timings on to the metrics.
struct StoreTimings(Arc<Metrics>);

/// Counts what was fetched.
struct Fetches(Arc<Metrics>);

/// Opens the store, binds every address and starts to serve.
///
/// # Errors
/// If the store or an address cannot be had.
pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Running, StartError> {
    start_on(config, clock, |store| store).await
}

/// The same on what `choose` makes of the opened store: tests give it one that fails or stalls when it is told to.
///
/// # Errors
/// Those of [`start`].
pub async fn start_on(
    config: Config,
    clock: Arc<dyn Clock>,
    choose: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
) -> Result<Running, StartError> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
    if let Some(wanted) = &config.audit {
        let wanted = wanted.clone();
        let opened = tokio::task::spawn_blocking(move || open_audit(&wanted)).await;
        metrics.audit_with(opened.map_err(|error| StartError::Gateway(error.to_string()))??);
    }
    let listen_error = |address: String| move |source| StartError::Listen { address, source };
    // Addresses first: a second gateway with the same configuration fails here, before it waits for the store's lock.
    let names = config
        .listen
        .iter()
        .map(|listener| listener.address.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let bound = Bound::bind(&config.listen).await.map_err(listen_error(names))?;
    let admin_listener = TcpListener::bind(config.admin)
        .await
        .map_err(listen_error(config.admin.to_string()))?;
    let admin = admin_listener
        .local_addr()
        .map_err(listen_error(config.admin.to_string()))?;

    let StoreConfig::Sled { path } = &config.store;
    let observer: Arc<dyn Observer> = Arc::new(StoreTimings(Arc::clone(&metrics)));
    // Opening reads files and may wait for the lock of a process that is just ending.
    let path = path.clone();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&path, observer)).await;
    let opened = opened.map_err(|source| StoreError::Backend {
        operation: "opening",
        source: source.into(),
    })?;
    let store = choose(Arc::new(opened?));
    let remote = remote(&config, &clock, &metrics)?;
    let endpoints = Arc::new(Endpoints {
        remote: Arc::new(remote),
        identity: Arc::new(Identity::new(Arc::clone(&config), Arc::clone(&store))),
        signing_key: store.signing_key("browser").await?,
        sessions: Sessions::new(&store.signing_key("sessions").await?),
        store: Arc::clone(&store),
        metrics: Arc::clone(&metrics),
        keyring: Arc::default(),
        proofs: Arc::new(Proofs::new(store.signing_key("dpop").await?, clock.now())),
        limits: Arc::default(),
        clock: Arc::clone(&clock),
        config,
    });

    let (stop, stopping) = channel::channel(false);
    let addresses = bound.addresses();
    let gateway = Gateway::new(Arc::clone(&endpoints)).map_err(StartError::Gateway)?;
    let live = Arc::new(Live::new(gateway));
    let reloader = Arc::new(Reloader::new(Arc::clone(&live), endpoints));
    let in_force = Arc::clone(&reloader);
    let administration = Admin::new(
        metrics,
        Arc::clone(&store),
        stopping.clone(),
        Box::new(move || in_force.endpoints()),
    );
    let background = vec![
        tokio::spawn(admin::serve(admin_listener, Arc::new(administration))),
        tokio::spawn(keep_tidy(Arc::clone(&store), clock)),
    ];
    let proxy = tokio::spawn(bound.serve(live, stopping, DRAIN_GRACE));
    Ok(Running {
        addresses,
        admin,
        store,
        reloader,
        read_again: Arc::default(),
        stop,
        proxy,
        background,
    })
}

// === impl Running ===

impl Running {
    /// The authorization server's parts, as they are in force now.
    #[must_use]
    pub fn endpoints(&self) -> Arc<Endpoints> {
        self.reloader.endpoints()
    }

    /// Puts another configuration in force. What cannot change while the gateway runs, in sentences.
    ///
    /// # Errors
    /// Why the old one stays.
    pub fn put_in_force(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        self.reloader.put_in_force(config)
    }

    /// From now on the configuration is what this file says: it is read again when somebody asks, and when it changes if
    /// that is wanted here or by the configuration.
    pub fn follow(&mut self, path: PathBuf, watch: bool) {
        let (reloader, read_again) = (Arc::clone(&self.reloader), Arc::clone(&self.read_again));
        self.background
            .push(tokio::spawn(follow(reloader, read_again, path, watch)));
    }

    /// Reads the file again that is followed. Comes back at once; the log says what came of it.
    pub fn read_again(&self) {
        self.read_again.notify_one();
    }

    /// Stops accepting, lets what is in flight finish (event streams for at most [`DRAIN_GRACE`]), closes the store.
    ///
    /// # Errors
    /// If the store cannot write its last records.
    pub async fn stop(self) -> Result<(), StoreError> {
        // Nobody listening means that the proxy ended by itself, which is what stopping wants.
        let _ = self.stop.send(true);
        if let Err(error) = self.proxy.await {
            tracing::error!(%error, "the proxy did not end in order");
        }
        for task in self.background {
            task.abort();
            // Gone only now, and its port and its hold on the store with it; that it was aborted is no news.
            let _ = task.await;
        }
        let metrics = Arc::clone(&self.reloader.endpoints().metrics);
        // It ends when everything is on the disk.
        let _ = tokio::task::spawn_blocking(move || metrics.audit().close()).await;
        self.store.close().await
    }
}

// === impl StoreTimings ===

impl Observer for StoreTimings {
    fn operation(&self, name: &'static str, took: Duration) {
        self.0.store_operation(name, took);
    }
}

// === impl Fetches ===

impl fetch::Observer for Fetches {
    fn fetched(&self, kind: fetch::Kind, outcome: &'static str) {
        self.0.fetch(kind.as_str(), outcome);
    }
}

/// The audit log of a configuration.
fn open_audit(wanted: &AuditConfig) -> Result<Audit, AuditError> {
    let seal = match &wanted.key {
        // HMAC takes keys of every length.
        Some(key) => Seal::keyed(key.as_bytes()).unwrap_or(Seal::Plain),
        None => Seal::Plain,
    };
    let to = match &wanted.to {
        AuditTo::File(path) => Destination::File(path.clone()),
        AuditTo::Stdout => Destination::Stdout,
    };
    Audit::start(to, seal)
}

/// Who asks others: where strangers say, only on the public internet; where the configuration says, anywhere.
fn remote(config: &Config, clock: &Arc<dyn Clock>, metrics: &Arc<Metrics>) -> Result<Remote, fetch::SetupError> {
    let fetcher = |reach| {
        let roots = config.outbound_roots.clone();
        let observer = Arc::new(Fetches(Arc::clone(metrics)));
        let clock = Arc::clone(clock);
        Fetcher::new(fetch::Rules { reach, roots }, Arc::new(SystemNetwork), clock, observer).map(Arc::new)
    };
    let strangers = if config.public_url.loopback {
        Reach::ThisMachine
    } else {
        Reach::Public
    };
    Ok(Remote::new(fetcher(strangers)?, fetcher(Reach::Anywhere)?))
}

/// Reads the configuration again whenever somebody asks or it changes, for ever.
async fn follow(reloader: Arc<Reloader>, read_again: Arc<Notify>, path: PathBuf, watch: bool) {
    let mut files = Watch::of(reloader.endpoints().config.files.clone());
    let mut look = tokio::time::interval(watch::EVERY);
    loop {
        let asked = tokio::select! {
            () = read_again.notified() => true,
            _ = look.tick() => false,
        };
        let watching = asked || watch || reloader.endpoints().config.watch_files;
        let changed = watching && files.has_changed();
        if (asked || changed)
            && let Some(read) = reloader.read(&path).await
        {
            files = Watch::of(read);
        }
    }
}

/// Removes what has expired and gives its space back, for ever.
async fn keep_tidy(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut compact = tokio::time::interval_at(tokio::time::Instant::now() + COMPACT_EVERY, COMPACT_EVERY);
    loop {
        tokio::select! {
            _ = sweep.tick() => loop {
                match store.sweep(clock.now(), SWEEP_BATCH).await {
                    Ok(removed) if removed == SWEEP_BATCH => tokio::task::yield_now().await,
                    Ok(_) => break,
                    Err(error) => {
                        tracing::error!(%error, "expired records could not be removed");
                        break;
                    }
                }
            },
            _ = compact.tick() => match store.compact().await {
                Ok(true) => tracing::info!("the store was rewritten to give back disk space"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the store could not be rewritten"),
            },
        }
    }
}
