//! Time limits that the engine cannot express: until a response begins, and between two pieces of it.
//!
//! pingora has one read timeout for both, which would either cut silent event streams or never give up on a dead server.
//! So the client's connection carries a deadline: while an exchange waits, the engine also waits to hear from the client,
//! and once the deadline has passed that wait fails, which ends the exchange in order, with the client still there to be
//! answered.

use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::time::Sleep;

/// A head and a small body together, which is what most responses are.
const WRITE_BUFFER: usize = 2048;

/// The deadline of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Watchdog(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    deadline: Option<Instant>,
    barked: bool,
}

/// A client's connection under a watchdog.
pub(super) struct Watched {
    /// The engine writes a response in pieces; without a buffer each would be a system call of its own, at half the
    /// throughput.
    inner: BufWriter<Stream>,
    watchdog: Watchdog,
    /// Sleeps until some deadline; it may be one that was moved on since.
    sleep: Option<Pin<Box<Sleep>>>,
    digest: Option<Arc<ProxyDigest>>,
}

// === impl Watchdog ===

impl Watchdog {
    /// The watchdog of a session's connection.
    pub(super) fn of(digest: Option<&pingora::protocols::Digest>) -> Self {
        digest
            .and_then(|digest| digest.proxy_digest.as_ref())
            .and_then(|digest| digest.user_data.as_ref())
            .and_then(|data| data.downcast_ref::<Self>())
            .cloned()
            .unwrap_or_default()
    }

    /// Something has to happen within this time.
    pub(super) fn expect_within(&self, time: Duration) {
        self.set(Some(Instant::now() + time));
    }

    /// Nothing is waited for.
    pub(super) fn rest(&self) {
        self.set(None);
    }

    /// Whether the deadline passed in this exchange.
    pub(super) fn has_barked(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).barked
    }

    fn set(&self, deadline: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State {
            deadline,
            barked: false,
        };
    }
}

// === impl Watched ===

impl Watched {
    /// Puts a connection under a watchdog.
    pub(super) fn new(inner: Stream) -> Self {
        let watchdog = Watchdog::default();
        // The engine hands this record to every request of the connection; the response in it is of no meaning here.
        let digest = ResponseHeader::build(200, Some(0))
            .ok()
            .map(|response| Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(watchdog.clone())))));
        Self {
            inner: BufWriter::with_capacity(WRITE_BUFFER, inner),
            watchdog,
            sleep: None,
            digest,
        }
    }

    /// Whether the deadline has passed; if there is one ahead, this task is woken then.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> bool {
        let mut state = self.watchdog.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(deadline) = state.deadline else { return false };
        loop {
            let wake_at = tokio::time::Instant::from_std(deadline);
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(wake_at)));
            // A sleep that ends earlier is left alone: to move it with every request would cost more than to wake once for nothing.
            if sleep.deadline() > wake_at {
                sleep.as_mut().reset(wake_at);
            }
            if sleep.as_mut().poll(context).is_pending() {
                return false;
            }
            if Instant::now() >= deadline {
                self.sleep = None;
                *state = State {
                    deadline: None,
                    barked: true,
                };
                return true;
            }
            sleep.as_mut().reset(wake_at);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_pending() && self.poll_deadline(context) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the upstream was too slow",
            )));
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
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
        let _ = self.inner.flush().await;
        Shutdown::shutdown(&mut **self.inner.get_mut()).await;
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().id()
    }
}

impl Ssl for Watched {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ref().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ref().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.get_ref().selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest.clone()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().get_socket_digest()
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.inner.get_mut().try_peek(buffer).await
    }
}
