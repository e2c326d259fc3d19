//! Accepting connections, and the requests on them. The loop is our own, around pingora's HTTP sessions: pingora's own server
//! sleeps for fixed times when it stops, and cannot say which port it got.

use std::cmp;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora::ErrorType;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession as Http2Session, handshake};
use pingora::protocols::http::{ReusableHttpStream, ServerSession};
use pingora::protocols::{ALPN, Digest, Stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

use super::deadline::Deadline;
use super::watched::{Turn, Watched};
use super::{End, Gateway, tenure};
use crate::config::Listener;
use crate::telemetry::Metrics;

/// Most connections at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 30_000;
/// A client that does not finish its part of the HTTP/2 handshake in this time is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after an accept that failed, so that running out of descriptors is not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections to upstreams are looked over.
const TIDY: Duration = Duration::from_secs(2);
/// Most requests at once on one connection of HTTP/2.
const MAX_STREAMS: u32 = 128;
/// Largest head on such a connection, counted as HTTP/2 counts.
const MAX_HEAD: u32 = 64 << 10;
/// How often it is seen whether such a connection has any request, and how often it may have none before it is closed: as
/// long as a connection of HTTP/1 may wait for its next one.
const QUIET: Duration = Duration::from_secs(30);
const MAX_QUIET: u32 = 5;
/// Malformed requests on one connection of HTTP/2, before it is closed.
const MAX_MALFORMED: u32 = 16;

/// Addresses that are listened on.
pub struct Bound(Vec<(TcpListener, SocketAddr)>);

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
    /// If an address cannot be had.
    pub async fn bind(listeners: &[Listener]) -> io::Result<Self> {
        let mut bound = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let socket = TcpListener::bind(listener.address).await?;
            let address = socket.local_addr()?;
            bound.push((socket, address));
        }
        Ok(Self(bound))
    }

    /// The addresses, with the ports that were got.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, address)| *address).collect()
    }

    /// Serves until `stop` becomes true; then takes no more connections, lets requests in flight finish for at most `grace`,
    /// and returns as soon as there are none.
    pub async fn serve(self, live: Arc<Live>, mut stop: watch::Receiver<bool>, grace: Duration) {
        let (in_flight, metrics) = {
            let gateway = live.now();
            (
                gateway.lasting.in_flight.clone(),
                Arc::clone(&gateway.endpoints.metrics),
            )
        };
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // When this goes, every connection that is left goes with it.
        let (stay, leave) = watch::channel(());
        let loops: Vec<_> = self
            .0
            .into_iter()
            .enumerate()
            .map(|(place, (socket, _))| {
                let connections = Connections {
                    live: Arc::clone(&live),
                    stop: stop.clone(),
                    leave: leave.clone(),
                    places: Arc::clone(&places),
                    place,
                    metrics: Arc::clone(&metrics),
                };
                tokio::spawn(connections.accept_from(socket))
            })
            .collect();
        let keeping = tokio::spawn(tenure::keep(live.clone()));
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            tokio::select! {
                _ = tidy.tick() => live.now().tidy(),
                // An error means that nobody can say stop any more.
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        for accepting in loops {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "an accept loop ended badly");
            }
        }
        if tokio::time::timeout(grace, in_flight.none_left()).await.is_err() {
            tracing::warn!(
                requests = in_flight.count(),
                "the grace is over; what is still in flight is cut off"
            );
        }
        drop(stay);
        keeping.abort();
    }
}

/// What an accept loop hands to each connection.
#[derive(Clone)]
struct Connections {
    live: Arc<Live>,
    stop: watch::Receiver<bool>,
    leave: watch::Receiver<()>,
    places: Arc<Semaphore>,
    /// Which listener it is, in the order of the configuration.
    place: usize,
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
                    let connection = self.clone();
                    tokio::spawn(async move {
                        connection.serve(stream, address).await;
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

    async fn serve(mut self, socket: TcpStream, address: SocketAddr) {
        let _counted = self.metrics.connection();
        // The configuration that is in force now decides how it comes in; each request asks again.
        let gateway = self.live.now();
        let Some(stream) = gateway.admit_connection(self.place, socket, address).await else {
            return;
        };
        drop(gateway);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            Box::pin(self.serve_http2(stream)).await;
        } else {
            self.serve_http1(stream).await;
        }
    }

    /// Serves one request after the other. A stop ends it between two of them, the end of the grace anywhere.
    async fn serve_http1(&mut self, stream: Stream) {
        let turn = Turn::default();
        let stream: Stream = Box::new(Watched::new(stream, turn.clone()));
        let stop = self.stop.clone();
        let serving = serve_requests(&self.live, stream, &stop);
        tokio::pin!(serving);
        tokio::select! {
            () = &mut serving => return,
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
        if turn.is_idle() {
            return;
        }
        tokio::select! {
            () = &mut serving => {}
            // The sender is dropped, which is the signal.
            _ = self.leave.changed() => {}
        }
    }

    /// Serves the requests of one connection side by side.
    async fn serve_http2(&mut self, stream: Stream) {
        let digest = Arc::new(Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: Vec::new(),
            proxy_digest: None,
            socket_digest: stream.get_socket_digest(),
        });
        let mut options = H2Options::new();
        options
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD);
        let mut connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, Some(options))).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%error, "an HTTP/2 handshake failed");
                return;
            }
            Err(_) => return,
        };
        let (mut malformed, mut stopping) = (0, false);
        // One more is with each request, so that it is known when there are none.
        let here = Arc::new(());
        let mut quiet = tokio::time::interval(QUIET);
        let mut since = 0;
        loop {
            let accepted = tokio::select! {
                accepted = Http2Session::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
                _ = self.stop.wait_for(|stop| *stop), if !stopping => {
                    // New requests go to another connection; those that are here are finished.
                    connection.graceful_shutdown();
                    stopping = true;
                    continue;
                }
                _ = quiet.tick() => {
                    since = if Arc::strong_count(&here) > 1 { 0 } else { since + 1 };
                    match since.cmp(&MAX_QUIET) {
                        cmp::Ordering::Less => continue,
                        cmp::Ordering::Equal => {
                            connection.graceful_shutdown();
                            continue;
                        }
                        // It had its time to say good-bye.
                        cmp::Ordering::Greater => return,
                    }
                }
                _ = self.leave.changed() => return,
            };
            since = 0;
            match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    let (gateway, here) = (self.live.now(), Arc::clone(&here));
                    tokio::spawn(async move {
                        let mut session = ServerSession::new_http2(session);
                        match Box::pin(gateway.serve(&mut session, &mut Deadline::default())).await {
                            End::InOrder => {
                                if let Err(error) = session.finish().await {
                                    tracing::debug!(%error, "an exchange did not end in order");
                                }
                            }
                            End::Broken => session.shutdown().await,
                        }
                        drop(here);
                    });
                }
                Ok(Some(H2Accept::Rejected)) if malformed < MAX_MALFORMED => malformed += 1,
                Ok(Some(H2Accept::Rejected) | None) => return,
                Err(error) => {
                    tracing::debug!(%error, "an HTTP/2 connection broke");
                    return;
                }
            }
        }
    }
}

/// Serves the requests of one connection of HTTP/1.
async fn serve_requests(live: &Live, stream: Stream, stop: &watch::Receiver<bool>) {
    let mut deadline = Deadline::default();
    let mut next = Some((stream, None));
    while let Some((stream, prefix)) = next.take() {
        let mut session = ServerSession::new_http1(stream);
        // How long is waited for heads is the connection's business, and for bodies that of whoever reads them.
        session.set_keepalive(Some(0));
        session.set_read_timeout(None);
        // A second request in the same packet is served after the first (RFC 9112 §9.3.2).
        session.set_pipelining_enabled(true);
        if let Some(prefix) = prefix {
            session.set_pipelined_prefix(prefix);
        }
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "a head could not be read");
                if *error.etype() == ErrorType::InvalidHTTPHeader {
                    // Whoever is gone already misses nothing.
                    let _ = session.respond_error(400).await;
                }
                session.shutdown().await;
                return;
            }
        }
        if let End::Broken = live.now().serve(&mut session, &mut deadline).await {
            session.shutdown().await;
            return;
        }
        if *stop.borrow() {
            session.set_keepalive(None);
        }
        match session.finish().await {
            Ok(reusable) => next = reusable.map(ReusableHttpStream::into_parts),
            Err(error) => tracing::debug!(%error, "an exchange did not end in order"),
        }
    }
}

// === impl Live ===

/// The gateway that is in force. Requests that began under another one end under it.
pub struct Live(ArcSwap<Gateway>);

impl Live {
    /// Begins with this one.
    #[must_use]
    pub fn new(gateway: Gateway) -> Self {
        Self(ArcSwap::from_pointee(gateway))
    }

    /// Puts another in force, for every request that begins from now on.
    pub fn replace(&self, gateway: Gateway) {
        let tenures = gateway.lasting.tenures.clone();
        self.0.swap(Arc::new(gateway)).retire();
        // The streams that are open stay, if their tokens are still good under the new one.
        tenures.unsettle();
    }

    /// The one in force now.
    #[must_use]
    pub fn now(&self) -> Arc<Gateway> {
        self.0.load_full()
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
