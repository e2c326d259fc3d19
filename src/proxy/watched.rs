//! A client's connection, with what happens outside requests: a head that does not come or does not end, an idle
//! connection, the next request that comes before its turn, and the answer to a head that the engine cannot read.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::deadline::Deadline;
use super::wire::Wire;

/// Most of a head that is read before it is whole; above what `route` lets pass, so that an ordinary head that is too large
/// gets its answer there.
const ENDLESS_HEAD: usize = 256 << 10;
/// A head has to be whole in this time from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection may wait this long for its next request: longer than clients keep theirs, so that they close first.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Most that is kept of what a client sends before its request is answered: the beginning of the next one.
const MAX_AHEAD: usize = 64 << 10;
/// How much is read and thrown away, and for how long, before a connection goes, so that the client gets to read the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a connection is. Whoever stops the gateway has a look as well.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<AtomicU8>);

/// What the bytes on a connection belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// To nothing: none came since the last request.
    Idle,
    /// To a head. An answer is the engine's own.
    Head,
    /// To a request's body.
    Receiving,
    /// The request is whole: what comes now is the next one.
    Answering,
}

/// What came of the next head.
#[derive(Debug)]
struct Head {
    /// The exchange before it.
    after: u64,
    bytes: usize,
    /// When it began, or if nothing came yet, since when it is waited for.
    since: Instant,
}

/// A client's connection.
pub(super) struct Watched {
    inner: Wire,
    turn: Turn,
    /// Counts exchanges.
    exchange: AtomicU64,
    deadline: Deadline,
    head: Head,
    /// What was read before its time.
    ahead: BytesMut,
    parting: Parting,
}

/// How a connection goes that no exchange has closed.
#[derive(Debug, Default)]
enum Parting {
    /// At once.
    #[default]
    Quiet,
    /// With this answer: status and description.
    Saying(&'static str, &'static str),
    /// With an answer that is written.
    Said,
    /// When the client has stopped talking, or at this time, or after so many bytes: an answer on a connection that is
    /// closed over unread bytes may never be read.
    Lingering(Instant, usize),
}

// === impl Turn ===

impl Turn {
    /// Whether nothing of a request is there yet.
    pub(super) fn is_idle(&self) -> bool {
        self.phase() == Phase::Idle
    }

    fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Receiving,
            _ => Phase::Answering,
        }
    }

    fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }
}

// === impl Watched ===

impl Watched {
    /// Over a client's connection.
    pub(super) fn new(inner: Stream, turn: Turn) -> Self {
        Self {
            inner: Wire::new(inner),
            turn,
            exchange: AtomicU64::new(0),
            deadline: Deadline::default(),
            head: Head {
                after: 0,
                bytes: 0,
                since: Instant::now(),
            },
            ahead: BytesMut::new(),
            parting: Parting::default(),
        }
    }

    /// The connection of a session; none where the session has only a stream of one.
    pub(super) fn under(session: &ServerSession) -> Option<&Self> {
        session.stream()?.as_any().downcast_ref()
    }

    /// An exchange begins.
    pub(super) fn begin(&self) {
        self.turn.set(Phase::Receiving);
        self.exchange.fetch_add(1, Ordering::Relaxed);
    }

    /// The exchange's request is whole.
    pub(super) fn is_whole(&self) {
        self.turn.set(Phase::Answering);
    }

    /// The exchange is over.
    pub(super) fn end(&self) {
        self.turn.set(Phase::Idle);
    }

    /// While it is held, flushing does nothing.
    pub(super) fn hold(&self, held: bool) {
        self.inner.hold(held);
    }

    /// Whether this time has come; if not, this task is woken then.
    fn poll_until(&mut self, context: &mut Context<'_>, deadline: Instant) -> bool {
        self.deadline.expect_by(deadline);
        self.deadline.poll_passed(context).is_ready()
    }

    /// Reads a head, for as long and as far as that is reasonable.
    fn poll_head(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let exchange = self.exchange.load(Ordering::Relaxed);
        if self.head.after != exchange {
            self.head = Head {
                after: exchange,
                bytes: 0,
                since: Instant::now(),
            };
        }
        if self.head.bytes > ENDLESS_HEAD {
            self.parting = Parting::Saying("431 Request Header Fields Too Large", "the request's head is too large");
            return Poll::Ready(Err(io::Error::other("a head without an end")));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        let came = buffer.filled().len() - before;
        if came > 0 && self.head.bytes == 0 {
            self.head.since = Instant::now();
            self.turn.set(Phase::Head);
        }
        self.head.bytes += came;
        let patience = if self.head.bytes == 0 {
            IDLE_TIMEOUT
        } else {
            HEAD_TIMEOUT
        };
        if read.is_pending() && self.poll_until(context, self.head.since + patience) {
            if self.head.bytes > 0 {
                self.parting = Parting::Saying("408 Request Timeout", "the request's head did not arrive in time");
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")));
        }
        read
    }

    /// Keeps what comes before its time, so that the engine neither takes it for an error nor stops to see that a client
    /// has gone: it hears of the end only.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever listens to the client has nothing to add to what was written.
        self.inner.push_out(context)?;
        loop {
            if self.ahead.len() > MAX_AHEAD {
                return Poll::Ready(Err(io::Error::other("more requests than can be kept")));
            }
            let mut chunk = [MaybeUninit::uninit(); 4096];
            let mut into = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.ahead.extend_from_slice(into.filled());
        }
    }

    /// Closes the connection as it was decided to.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.parting {
                Parting::Quiet => return Pin::new(&mut self.inner).poll_shutdown(context),
                Parting::Saying(status, description) => {
                    let answer = early_answer(status, description, None);
                    // It fits the buffer, so it is taken in one piece.
                    ready!(Pin::new(&mut self.inner).poll_write(context, &answer))?;
                    self.parting = Parting::Said;
                }
                Parting::Said => {
                    ready!(Pin::new(&mut self.inner).poll_shutdown(context))?;
                    self.parting = Parting::Lingering(Instant::now() + LINGER_TIMEOUT, LINGER_BYTES);
                }
                Parting::Lingering(until, left) => {
                    if self.poll_until(context, until) {
                        return Poll::Ready(Ok(()));
                    }
                    let mut chunk = [0; 4096];
                    let mut into = ReadBuf::new(&mut chunk);
                    ready!(Pin::new(&mut self.inner).poll_read(context, &mut into))?;
                    let came = into.filled().len();
                    if came == 0 || came > left {
                        return Poll::Ready(Ok(()));
                    }
                    self.parting = Parting::Lingering(until, left - came);
                }
            }
        }
    }
}

/// The answer to what is no request, in the form of all others. `instead_of` is the engine's, which knows the date.
fn early_answer(status: &str, description: &str, instead_of: Option<&[u8]>) -> Vec<u8> {
    let date = instead_of
        .and_then(|head| std::str::from_utf8(head).ok())
        .and_then(|head| {
            head.split("\r\n")
                .find(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("date:")))
        })
        .map(|line| format!("{line}\r\n"))
        .unwrap_or_default();
    let body = format!(r#"{{"error":"invalid_request","error_description":"{description}"}}"#);
    format!(
        "HTTP/1.1 {status}\r\n{date}Content-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Access-Control-Allow-Origin: *\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let phase = self.turn.phase();
        if phase != Phase::Answering && !self.ahead.is_empty() {
            if phase == Phase::Idle {
                self.turn.set(Phase::Head);
            }
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match phase {
            Phase::Idle | Phase::Head => self.poll_head(context, buffer),
            Phase::Receiving => Pin::new(&mut self.inner).poll_read(context, buffer),
            Phase::Answering => self.poll_ahead(context),
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // A response that belongs to no exchange is the engine's: it names the engine and has no body.
        if bytes.starts_with(b"HTTP/1.") && matches!(self.turn.phase(), Phase::Idle | Phase::Head) {
            let (status, description) = match bytes.get(9..12) {
                Some(b"405") => ("405 Method Not Allowed", "this method is not allowed"),
                _ => (
                    "400 Bad Request",
                    "the request's head is not that of an HTTP/1.1 request",
                ),
            };
            let answer = early_answer(status, description, Some(bytes));
            // It fits the buffer, so it is taken in one piece.
            ready!(Pin::new(&mut self.inner).poll_write(context, &answer))?;
            self.parting = Parting::Said;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_part(context)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        // Whoever is gone already misses nothing.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Watched {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buffer).await
    }
}
