//! Connections to one upstream: made when they are needed, kept while they are good.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use pingora::protocols::l4::ext::set_tcp_keepalive;
use pingora::protocols::{Stream, TcpKeepalive};
use pingora::{Error, ErrorType};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

/// Idle connections are let go before the upstream does it: Node closes after five seconds, and a request that meets a
/// closing connection fails.
const IDLE: Duration = Duration::from_secs(4);
/// Most idle connections kept: fewer than the concurrency costs a third of the throughput.
const KEPT: usize = 1_024;

/// The idle connections to one upstream, the longest idle first.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<VecDeque<(Stream, Instant)>>,
    /// Whether nobody will take from it any more.
    retired: AtomicBool,
}

impl Pool {
    /// A connection that was used before and is still good.
    pub(super) async fn take(&self) -> Option<Stream> {
        loop {
            let (mut stream, since) = self.change(VecDeque::pop_back)?;
            if since.elapsed() < IDLE && is_quiet(&mut stream).await {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next request, if there will be one.
    pub(super) fn put(&self, stream: Stream) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        let gone = self.change(|idle| {
            let gone = if idle.len() >= KEPT { idle.pop_front() } else { None };
            idle.push_back((stream, Instant::now()));
            gone
        });
        // Closed here, where nobody waits for the lock.
        drop(gone);
    }

    /// Closes what has been idle for too long.
    pub(super) fn tidy(&self) {
        let gone = self.change(|idle| {
            let old = idle.partition_point(|(_, since)| since.elapsed() >= IDLE);
            idle.drain(..old).collect::<Vec<_>>()
        });
        drop(gone);
    }

    /// Closes all of them, and those that come back: another configuration is in force.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        drop(self.change(std::mem::take));
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<(Stream, Instant)>) -> T) -> T {
        change(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether the other end has neither closed nor said anything, which nobody has asked it to.
async fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    poll_fn(|context| {
        let mut into = ReadBuf::new(&mut byte);
        Poll::Ready(Pin::new(&mut *stream).poll_read(context, &mut into).is_pending())
    })
    .await
}

/// Connects.
///
/// # Errors
/// With the engine's error types, which `verdict` reads.
pub(super) async fn connect(
    address: std::net::SocketAddr,
    within: Duration,
    keepalive: &TcpKeepalive,
) -> pingora::Result<TcpStream> {
    let socket = match tokio::time::timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
                _ => ErrorType::ConnectError,
            };
            return Err(Error::because(kind, "connecting to an upstream", error).into_up());
        }
        Err(_) => return Err(Error::explain(ErrorType::ConnectTimedout, "connecting to an upstream").into_up()),
    };
    set_tcp_keepalive(&socket, keepalive).map_err(Error::into_up)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Plain, Wire};
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    async fn pair() -> (Stream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let keepalive = TcpKeepalive {
            idle: IDLE,
            interval: IDLE,
            count: 4,
            user_timeout: IDLE,
        };
        let socket = connect(listener.local_addr().unwrap(), IDLE, &keepalive).await.unwrap();
        let stream: Stream = Box::new(Wire::new(Box::new(Plain::new(socket))));
        let (other, _) = listener.accept().await.unwrap();
        (stream, other)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_unless_it_was_closed_or_spoke() {
        let pool = Pool::default();
        assert!(pool.take().await.is_none());
        let (quiet, _stays) = pair().await;
        let (closed, goes) = pair().await;
        let (spoken, mut speaks) = pair().await;
        let id = quiet.id();
        pool.put(quiet);
        pool.put(closed);
        pool.put(spoken);
        drop(goes);
        speaks.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        // The system tells of it soon.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(pool.take().await.map(|stream| stream.id()), Some(id));
        assert!(pool.take().await.is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_agreed_and_old_ones_go() {
        let pool = Pool::default();
        let (stream, _stays) = pair().await;
        pool.change(|idle| idle.push_back((stream, Instant::now().checked_sub(IDLE).unwrap())));
        pool.tidy();
        assert!(pool.change(|idle| idle.is_empty()));
        let (stream, _stays) = pair().await;
        pool.change(|idle| idle.push_back((stream, Instant::now().checked_sub(IDLE).unwrap())));
        assert!(pool.take().await.is_none());
    }
}
