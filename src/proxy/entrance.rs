//! What happens on a connection before its first request: the header of a balancer, then TLS.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use tokio::net::TcpStream;

use super::proxy_header::{self, HeaderError};
use super::wire::Plain;
use crate::config::{Listener, ListenerTls};
use crate::domain::network::Networks;

/// A client that does not finish its TLS handshake in this time is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How connections come in at one listener.
pub(super) struct Entrance {
    tls: Option<Acceptor>,
    proxy_protocol: bool,
}

impl Entrance {
    /// As the configuration wants it.
    ///
    /// # Errors
    /// If the certificates cannot be used.
    pub(super) fn of(listener: &Listener) -> Result<Self, String> {
        let tls = listener.tls.as_ref().map(ListenerTls::server_config).transpose()?;
        Ok(Self {
            tls: tls.map(Acceptor::from_server_config),
            proxy_protocol: listener.proxy_protocol,
        })
    }

    /// Lets a connection in; `None` if it is not one.
    pub(super) async fn admit(&self, mut socket: TcpStream, peer: SocketAddr, trusted: &Networks) -> Option<Stream> {
        let mut source = peer;
        if self.proxy_protocol {
            // Anybody else could be anybody by it.
            if !trusted.contain(peer.ip()) {
                tracing::info!(address = %peer.ip(), "a connection did not come from a trusted proxy and was closed");
                return None;
            }
            match proxy_header::read(&mut socket).await {
                Ok(said) => source = said.unwrap_or(peer),
                // A balancer that only looks whether somebody listens says nothing.
                Err(HeaderError::Broken(error)) => {
                    tracing::debug!(address = %peer.ip(), %error, "a trusted proxy closed a connection");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(address = %peer.ip(), %error, "a connection of a trusted proxy was closed");
                    return None;
                }
            }
        }
        let plain = Plain::from(socket, source);
        let Some(tls) = &self.tls else {
            return Some(Box::new(plain));
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.tls_handshake(plain)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }
}
