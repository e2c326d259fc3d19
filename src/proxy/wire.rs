//! Connections as the engine sees them, without the engine's own buffers: 64 KiB for reading and one system call for each
//! piece that is written are what idle streams and small answers cannot afford.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// What is gathered before it is written: a head with a small body goes out in one piece, and a large body is not copied.
const GATHERED: usize = 16 << 10;
/// Room for a head.
const FIRST: usize = 1 << 10;

/// A socket.
#[derive(Debug)]
pub(super) struct Plain {
    socket: TcpStream,
    digest: Arc<SocketDigest>,
}

/// A connection that gathers what is written until it is flushed.
pub(super) struct Wire {
    inner: Stream,
    gathered: Vec<u8>,
    /// How much of it is written.
    written: usize,
    held: AtomicBool,
}

// === impl Plain ===

impl Plain {
    /// Over a connected socket.
    pub(super) fn new(socket: TcpStream) -> Self {
        let address = socket.peer_addr().ok();
        Self::with(socket, address)
    }

    /// Over one whose other end speaks for this address.
    pub(super) fn from(socket: TcpStream, address: SocketAddr) -> Self {
        Self::with(socket, Some(address))
    }

    fn with(socket: TcpStream, address: Option<SocketAddr>) -> Self {
        // Small messages must not wait for each other; failing to say so only makes them slower.
        let _ = socket.set_nodelay(true);
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        if let Some(address) = address {
            // The cell is new, so it is empty.
            let _ = digest.peer_addr.set(Some(address.into()));
        }
        Self {
            socket,
            digest: Arc::new(digest),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shutdown for Plain {
    async fn shutdown(&mut self) {
        // Whoever is gone already misses nothing.
        let _ = self.socket.shutdown().await;
    }
}

impl UniqueID for Plain {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

impl Ssl for Plain {}

impl GetTimingDigest for Plain {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Plain {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Plain {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

#[async_trait]
impl Peek for Plain {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        Ok(self.socket.peek(buffer).await? == buffer.len())
    }
}

// === impl Wire ===

impl Wire {
    /// Over a connection, plain or encrypted.
    pub(super) fn new(inner: Stream) -> Self {
        Self {
            inner,
            gathered: Vec::new(),
            written: 0,
            held: AtomicBool::new(false),
        }
    }

    /// The wire under a session of the engine, if that is what it runs on.
    pub(super) fn under(stream: &Stream) -> Option<&Self> {
        stream.as_any().downcast_ref()
    }

    /// While it is held, flushing does nothing: the engine flushes a head when more is about to follow.
    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// Writes what can be written now, unless it is held.
    pub(super) fn push_out(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.gathered.is_empty() || self.held.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.poll_drain(context) {
            Poll::Ready(written) => written,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes what is gathered.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.gathered.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        // Given back: a connection that waits, and most do, keeps nothing.
        (self.gathered, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.gathered.len() + bytes.len() <= GATHERED {
                if self.gathered.capacity() == 0 {
                    self.gathered.reserve(FIRST.max(bytes.len()));
                }
                self.gathered.extend_from_slice(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            let this = &mut *self;
            let rest = this.gathered.get(this.written..).unwrap_or_default();
            if rest.is_empty() {
                (this.gathered, this.written) = (Vec::new(), 0);
                return Pin::new(&mut this.inner).poll_write(context, bytes);
            }
            // Head and body together, without copying the body.
            let both = [io::IoSlice::new(rest), io::IoSlice::new(bytes)];
            let count = ready!(Pin::new(&mut this.inner).poll_write_vectored(context, &both))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_bytes = count.saturating_sub(rest.len());
            this.written += count - of_bytes;
            if of_bytes > 0 {
                (this.gathered, this.written) = (Vec::new(), 0);
                return Poll::Ready(Ok(of_bytes));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Wire {
    async fn shutdown(&mut self) {
        if self.flush().await.is_ok() {
            Shutdown::shutdown(self.inner.as_mut()).await;
        }
    }
}

impl UniqueID for Wire {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Wire {
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

impl GetTimingDigest for Wire {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Wire {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Wire {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

#[async_trait]
impl Peek for Wire {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buffer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt};

    /// A wire, and the other end of it.
    async fn pair() -> (Wire, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (other, _) = listener.accept().await.unwrap();
        (Wire::new(Box::new(Plain::new(socket))), other)
    }

    #[tokio::test]
    async fn what_is_written_goes_out_in_order_whatever_its_size() {
        let (mut wire, mut other) = pair().await;
        let sizes = [1, 700, GATHERED - 701, 1, GATHERED, GATHERED + 1, 3, 100_000, 5];
        let all: Vec<u8> = (0..sizes.iter().sum::<usize>())
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let expected = all.clone();
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            other.read_to_end(&mut read).await.unwrap();
            read
        });
        let mut rest = all.as_slice();
        for size in sizes {
            let (now, later) = rest.split_at(size);
            wire.write_all(now).await.unwrap();
            rest = later;
        }
        AsyncWriteExt::shutdown(&mut wire).await.unwrap();
        assert!(reading.await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_held_wire_waits_and_then_says_everything_at_once() {
        let (mut wire, mut other) = pair().await;
        wire.hold(true);
        wire.write_all(b"head").await.unwrap();
        wire.flush().await.unwrap();
        let mut buffer = [0; 16];
        assert!(other.try_read(&mut buffer).is_err(), "nothing was sent");
        wire.hold(false);
        wire.write_all(b"body").await.unwrap();
        wire.flush().await.unwrap();
        let count = other.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"headbody");
        assert_eq!(wire.gathered.capacity(), 0);
    }
}
