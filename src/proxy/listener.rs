//! Accepting connections. The loop is our own, around pingora's HTTP engine: pingora's own server sleeps for fixed times when
//! it stops, and cannot say which port it got.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora::apps::{HttpServerApp as _, ServerApp as _};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as TcpLayer;
use pingora::protocols::{GetSocketDigest as _, SocketDigest, Stream};
use pingora::proxy::{HttpProxy, http_proxy};
use pingora::server::configuration::ServerConf;
use std::os::fd::AsRawFd as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::Gateway;
use super::watchdog::Watched;
use crate::config::Listener;
use crate::telemetry::Metrics;

/// Most connections at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 30_000;
/// A client that does not finish its TLS handshake in this time is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after an accept that failed, so that running out of descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Idle connections kept to upstreams: fewer than the concurrency costs a third of the throughput.
const UPSTREAM_POOL: usize = 1_024;

/// Addresses that are listened on.
pub struct Bound(Vec<(TcpListener, SocketAddr, Option<Acceptor>)>);

/// Counts requests that are being served, and says when there are none.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<(AtomicUsize, Notify)>);

/// One request being served.
#[derive(Debug)]
pub(super) struct InFlightGuard(InFlight);

// === impl Bound ===

impl Bound {
    /// Listens on every address.
    ///
    /// # Errors
    /// If an address cannot be had, or a certificate cannot be used.
    pub async fn bind(listeners: &[Listener]) -> io::Result<Self> {
        let mut bound = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let tls = listener
                .tls
                .as_ref()
                .map(|tls| tls.server_config().map_err(io::Error::other))
                .transpose()?;
            let acceptor = tls.map(Acceptor::from_server_config);
            let socket = TcpListener::bind(listener.address).await?;
            let address = socket.local_addr()?;
            bound.push((socket, address, acceptor));
        }
        Ok(Self(bound))
    }

    /// The addresses, with the ports that were got.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, address, _)| *address).collect()
    }

    /// Serves until `stop` becomes true; then takes no more connections, lets requests in flight finish for at most `grace`,
    /// and returns as soon as there are none.
    pub async fn serve(self, gateway: Gateway, stop: watch::Receiver<bool>, grace: Duration) {
        let (in_flight, metrics) = (gateway.in_flight.clone(), Arc::clone(&gateway.endpoints.metrics));
        let conf = ServerConf {
            upstream_keepalive_pool_size: UPSTREAM_POOL,
            max_retries: 1,
            ..ServerConf::default()
        };
        let proxy = Arc::new(http_proxy(&Arc::new(conf), gateway));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // When this goes, every connection that is left goes with it.
        let (stay, leave) = watch::channel(());
        let loops: Vec<_> = self
            .0
            .into_iter()
            .map(|(socket, _, acceptor)| {
                let connections = Connections {
                    proxy: Arc::clone(&proxy),
                    stop: stop.clone(),
                    leave: leave.clone(),
                    places: Arc::clone(&places),
                    acceptor: acceptor.map(Arc::new),
                    metrics: Arc::clone(&metrics),
                };
                tokio::spawn(connections.accept_from(socket))
            })
            .collect();
        for accepting in loops {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "an accept loop ended badly");
            }
        }
        // Connections that wait for their next request are closed now.
        proxy.http_cleanup().await;
        if tokio::time::timeout(grace, in_flight.none_left()).await.is_err() {
            tracing::warn!(
                requests = in_flight.count(),
                "the grace is over; what is still in flight is cut off"
            );
        }
        drop(stay);
    }
}

/// What an accept loop hands to each connection.
#[derive(Clone)]
struct Connections {
    proxy: Arc<HttpProxy<Gateway>>,
    stop: watch::Receiver<bool>,
    leave: watch::Receiver<()>,
    places: Arc<Semaphore>,
    acceptor: Option<Arc<Acceptor>>,
    metrics: Arc<Metrics>,
}

impl Connections {
    async fn accept_from(mut self, socket: TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                // An error means that nobody can say stop any more.
                _ = self.stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let mut connection = self.clone();
                    tokio::spawn(async move {
                        let mut leave = connection.leave.clone();
                        tokio::select! {
                            () = connection.serve(stream, address) => {}
                            // The sender is dropped, which is the signal.
                            _ = leave.changed() => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&mut self, stream: TcpStream, address: SocketAddr) {
        let _counted = self.metrics.connection();
        // Small answers must not wait for each other; failing to say so only makes them slower.
        let _ = stream.set_nodelay(true);
        let mut layer = TcpLayer::from(stream);
        let digest = SocketDigest::from_raw_fd(layer.as_raw_fd());
        // The cell is new, so it is empty.
        let _ = digest.peer_addr.set(Some(address.into()));
        layer.set_socket_digest(digest);
        let stream: Stream = match &self.acceptor {
            None => Box::new(layer),
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.tls_handshake(layer)).await {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
                Err(_) => return,
            },
        };
        self.proxy.process_new(Box::new(Watched::new(stream)), &self.stop).await;
    }
}

// === impl InFlight ===

impl InFlight {
    /// One more.
    pub(super) fn enter(&self) -> InFlightGuard {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        InFlightGuard(self.clone())
    }

    fn count(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    async fn none_left(&self) {
        loop {
            let changed = self.0.1.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let counter = &self.0.0;
        if counter.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            counter.1.notify_waiters();
        }
    }
}
