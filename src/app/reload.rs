//! A new configuration in place of the one in force. It is read and made into a gateway beside the old one; then the two are
//! exchanged at once. Requests that began under the old one end under it; what is remembered and counted goes on.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::remote;
use crate::config::{self, Certificate, Config, Problems, ReadFile};
use crate::domain::clock::Clock;
use crate::fetch;
use crate::oauth::Endpoints;
use crate::proxy::listener::Live;
use crate::telemetry::audit::{Act, Event};
use crate::telemetry::{Metrics, Reload};

/// Why a configuration does not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has problems.
    #[error("it has problems:\n{0}")]
    Problems(Problems),
    /// Clients would turn away from what it has, and do not from what is there.
    #[error("the certificate for {names} is valid until {until} and not now")]
    Certificate {
        /// Whom it is for.
        names: String,
        /// When it ended or will end.
        until: String,
    },
    /// The gateway cannot be made.
    #[error("{0}")]
    Gateway(String),
    /// Nobody can be asked.
    #[error(transparent)]
    Fetch(#[from] fetch::SetupError),
    /// The file was not read to its end.
    #[error("it could not be read: {0}")]
    Reading(#[from] tokio::task::JoinError),
}

/// Puts configurations in force.
pub(super) struct Reloader {
    live: Arc<Live>,
    /// The endpoints in force. Locked while they are exchanged.
    endpoints: Mutex<Arc<Endpoints>>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Reloader {
    pub(super) fn new(live: Arc<Live>, endpoints: Arc<Endpoints>) -> Self {
        let (clock, metrics) = (Arc::clone(&endpoints.clock), Arc::clone(&endpoints.metrics));
        note_certificates(&metrics, &endpoints.config, clock.as_ref());
        metrics.in_force_since(clock.now());
        Self {
            live,
            endpoints: Mutex::new(endpoints),
            clock,
            metrics,
        }
    }

    /// The endpoints in force.
    pub(super) fn endpoints(&self) -> Arc<Endpoints> {
        Arc::clone(&self.endpoints.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a file and puts it in force; says in the log what came of it. The files that it names, if they are known.
    pub(super) async fn read(&self, path: &Path) -> Option<Vec<ReadFile>> {
        let file = path.to_owned();
        // Reading may wait for a disk.
        let read = tokio::task::spawn_blocking(move || config::load(&file)).await;
        let read = read.map_err(ReloadError::Reading);
        let (files, outcome) = match read.map(|read| read.map_err(ReloadError::Problems)) {
            Ok(Ok(config)) => (Some(config.files.clone()), self.put_in_force(config)),
            Ok(Err(error)) => {
                let files = match &error {
                    ReloadError::Problems(problems) => Some(problems.files().to_vec()),
                    _ => None,
                };
                (files, Err(error))
            }
            Err(error) => (None, Err(error)),
        };
        let file = path.display();
        match outcome {
            Ok(kept) => {
                for sentence in &kept {
                    tracing::warn!("not changed while the gateway runs: {sentence}");
                }
                tracing::info!(%file, "the configuration was read again and is in force");
                let outcome = if kept.is_empty() {
                    Reload::Applied
                } else {
                    Reload::NeedsRestart
                };
                self.metrics.reloaded(outcome);
                self.metrics.audit().note(|| Act::new(Event::Reloaded, "in_force"));
                // Whoever moves logs away asks for this.
                self.metrics.audit().reopen();
            }
            Err(error) => {
                tracing::error!(%file, "the configuration was read again, and the old one stays in force: {error}");
                self.metrics.reloaded(Reload::Refused);
                self.metrics.audit().note(|| Act::new(Event::Reloaded, "refused"));
                self.metrics.audit().reopen();
            }
        }
        files
    }

    /// Puts a configuration in force. What cannot change while the gateway runs, in sentences.
    ///
    /// # Errors
    /// Why the old one stays.
    pub(super) fn put_in_force(&self, config: Config) -> Result<Vec<String>, ReloadError> {
        let mut in_force = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let old = &in_force.config;
        let now = self.clock.now();
        let (config, kept) = old.followed_by(config);
        let stale = |new: &&Certificate| !new.is_valid_at(now) && !old.certificates().any(|own| own == *new);
        if let Some(certificate) = config.certificates().find(stale) {
            return Err(ReloadError::Certificate {
                names: certificate.names().join(", "),
                until: certificate.expiry_date(),
            });
        }
        let asks_alike =
            config.outbound_roots == old.outbound_roots && config.public_url.loopback == old.public_url.loopback;
        let remote = if asks_alike {
            Arc::clone(&in_force.remote)
        } else {
            Arc::new(remote(&config, &self.clock, &self.metrics)?)
        };
        let endpoints = Arc::new(in_force.with(Arc::new(config), remote));
        let gateway = self.live.now().with(Arc::clone(&endpoints));
        self.live.replace(gateway.map_err(ReloadError::Gateway)?);
        note_certificates(&self.metrics, &endpoints.config, self.clock.as_ref());
        *in_force = endpoints;
        self.metrics.in_force_since(now);
        Ok(kept)
    }
}

/// Says which certificates there are and how long they are good.
fn note_certificates(metrics: &Metrics, config: &Config, clock: &dyn Clock) {
    let now = clock.now();
    metrics.certificates(
        config
            .certificates()
            .map(|certificate| (certificate.title(), certificate.expires())),
    );
    for certificate in config
        .certificates()
        .filter(|certificate| !certificate.is_valid_at(now))
    {
        tracing::warn!(
            names = certificate.names().join(", "),
            until = certificate.expiry_date(),
            "a certificate is not valid now"
        );
    }
}
