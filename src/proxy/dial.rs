//! How one upstream is reached: TCP, TLS as the configuration wants it, HTTP/1.1 or HTTP/2.
//!
//! A connection of HTTP/1.1 is for one exchange at a time and waits in the [`Pool`] between two; one of HTTP/2 is shared by
//! as many as the upstream allows, streams that last for hours among them, so that there may be several.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pingora::connectors::http::v2::{ConnectionRef, H2HandshakeSettings, handshake as http2_handshake};
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::tls::client::handshake as tls_handshake;
use pingora::protocols::{ALPN, Stream, TcpKeepalive};
use pingora::{Error, ErrorType, OrErr as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::place::Place;
use super::pool::{self, Pool};
use super::wire::{Plain, Wire};
use crate::config::Upstream;

/// A silent connection to an upstream is probed this often, so that a host that vanished does not keep streams for ever.
const PROBE: Duration = Duration::from_secs(30);
/// Most exchanges at once on one connection of HTTP/2, if the upstream allows as many.
const MAX_STREAMS: usize = 100;
/// What an upstream may send on one of them before it was taken, and on all of them: a client that reads slowly holds up
/// itself and nobody else.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 100;
/// A connection of HTTP/2 on which nothing happens is kept for so long.
const IDLE: Duration = Duration::from_secs(60);

/// Makes and keeps the connections to one upstream.
pub(super) struct Dialer {
    place: Place,
    tls: Option<Tls>,
    http2: bool,
    pool: Pool,
    shared: Mutex<Vec<Shared>>,
    /// Held while a connection of HTTP/2 is made, so that the others wait for it and do not make one each.
    making: tokio::sync::Mutex<()>,
    /// Whether it was asked for HTTP/2 and answered in HTTP/1.1.
    declined: AtomicBool,
}

/// How connections are encrypted, and whom the certificate has to be for.
struct Tls {
    connector: TlsConnector,
    name: String,
}

/// A connection of HTTP/2.
struct Shared {
    connection: ConnectionRef,
    used: Instant,
}

/// A connection for one exchange.
pub(super) struct Line {
    pub(super) session: HttpSession,
    /// Whether it was used before, and may have been closed in the meantime.
    pub(super) reused: bool,
}

impl Dialer {
    /// The way to an upstream.
    ///
    /// # Errors
    /// If its certificates cannot be used.
    pub(super) fn of(upstream: &Upstream) -> Result<Self, String> {
        let tls = if upstream.url.tls {
            let config = upstream.tls.client_config(upstream.http2)?;
            let name = upstream.tls.server_name.as_ref().unwrap_or(&upstream.url.host);
            Some(Tls {
                connector: TlsConnector::from(config),
                name: name.clone(),
            })
        } else {
            None
        };
        Ok(Self {
            place: Place::of(&upstream.url),
            tls,
            http2: upstream.http2,
            pool: Pool::default(),
            shared: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            declined: AtomicBool::new(false),
        })
    }

    /// A connection: one that is there already, if that will do.
    pub(super) async fn open(&self, upstream: &Upstream, may_be_used: bool) -> pingora::Result<Line> {
        if may_be_used {
            if let Some(stream) = self.pool.take().await {
                return Ok(Line::http1(stream, true));
            }
            if self.http2
                && let Some(session) = self.join().await
            {
                return Ok(Line::http2(session, true));
            }
        }
        // Boxed, because it is rare.
        Box::pin(self.make(upstream, may_be_used)).await
    }

    async fn make(&self, upstream: &Upstream, may_be_used: bool) -> pingora::Result<Line> {
        let turn = if self.http2 && !self.declined.load(Ordering::Relaxed) {
            let turn = self.making.lock().await;
            if may_be_used && let Some(session) = self.join().await {
                return Ok(Line::http2(session, true));
            }
            Some(turn)
        } else {
            None
        };
        let stream = self.connect(upstream).await.map_err(|error| {
            self.place.try_next();
            error.into_up()
        })?;
        let speaks_http2 = match &self.tls {
            Some(_) => matches!(stream.selected_alpn_proto(), Some(ALPN::H2)),
            None => self.http2,
        };
        self.declined.store(!speaks_http2, Ordering::Relaxed);
        if !speaks_http2 {
            return Ok(Line::http1(Box::new(Wire::new(stream)), false));
        }
        let session = self.share(stream, upstream.limits.connect_timeout).await;
        drop(turn);
        session
            .map(|session| Line::http2(session, false))
            .map_err(Error::into_up)
    }

    /// Keeps a connection of HTTP/1.1 for the next exchange.
    pub(super) fn keep(&self, stream: Stream) {
        self.pool.put(stream);
    }

    /// Closes what has been idle for too long.
    pub(super) fn tidy(&self) {
        self.pool.tidy();
        let gone = self.change(|shared| {
            let is_old =
                |one: &mut Shared| one.connection.is_closed() || one.connection.is_idle() && one.used.elapsed() >= IDLE;
            shared.extract_if(.., is_old).collect::<Vec<_>>()
        });
        drop(gone);
    }

    /// Closes all of them when their exchanges have ended: another configuration is in force.
    pub(super) fn retire(&self) {
        self.pool.retire();
        drop(self.change(std::mem::take));
    }

    /// A place on a connection of HTTP/2 that is there.
    async fn join(&self) -> Option<Http2Session> {
        loop {
            let connection = self.change(|shared| {
                shared.retain(|one| !one.connection.is_closed() && !one.connection.is_shutting_down());
                let one = shared.iter_mut().find(|one| one.connection.can_accept_streams(1))?;
                one.used = Instant::now();
                Some(one.connection.clone())
            })?;
            match connection.spawn_stream().await {
                Ok(Some(session)) => return Some(session),
                // It has just been filled, or is about to close.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection of HTTP/2 takes no more");
                    connection.mark_shutdown();
                }
            }
        }
    }

    /// Begins HTTP/2 on a new connection.
    async fn share(&self, stream: Stream, within: Duration) -> pingora::Result<Http2Session> {
        let mut settings = H2HandshakeSettings::new();
        settings.max_streams = MAX_STREAMS;
        settings.ping_interval = Some(PROBE);
        settings.stream_window_size = Some(STREAM_WINDOW);
        settings.connection_window_size = Some(CONNECTION_WINDOW);
        let begin = async {
            let connection = http2_handshake(stream, settings).await?;
            let session = connection.spawn_stream().await?;
            Ok::<_, Box<Error>>((connection, session))
        };
        let begun = tokio::time::timeout(within, begin).await;
        let (connection, session) =
            begun.map_err(|_| Error::explain(ErrorType::ConnectTimedout, "beginning HTTP/2 with an upstream"))??;
        self.change(|shared| {
            shared.push(Shared {
                connection,
                used: Instant::now(),
            });
        });
        session.ok_or_else(|| Error::explain(ErrorType::H2Error, "an upstream takes no request at all"))
    }

    async fn connect(&self, upstream: &Upstream) -> pingora::Result<Stream> {
        let within = upstream.limits.connect_timeout;
        let address = self.place.find(within).await?;
        let keepalive = TcpKeepalive {
            idle: PROBE,
            interval: PROBE,
            count: 4,
            // Not before our own deadline, which says what has happened.
            user_timeout: upstream.limits.response_timeout.saturating_add(Duration::from_secs(1)),
        };
        let socket: TcpStream = pool::connect(address, within, &keepalive).await?;
        let plain = Plain::new(socket);
        let Some(tls) = &self.tls else {
            return Ok(Box::new(plain));
        };
        let handshake = tls_handshake(&tls.connector, &tls.name, plain);
        let encrypted = tokio::time::timeout(within, handshake)
            .await
            .or_err(ErrorType::TLSHandshakeTimedout, "encrypting to an upstream")??;
        Ok(Box::new(encrypted))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<Shared>) -> T) -> T {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Line {
    fn http1(stream: Stream, reused: bool) -> Self {
        Self {
            session: HttpSession::H1(Http1Session::new(stream)),
            reused,
        }
    }

    fn http2(session: Http2Session, reused: bool) -> Self {
        Self {
            session: HttpSession::H2(session),
            reused,
        }
    }
}
