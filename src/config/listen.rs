//! Where the gateway listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::read::{At, Object};
use super::values::shown;
use super::{Listener, TlsFiles, keys, tls};

/// Most listeners.
const MAX_LISTENERS: usize = 64;
/// Where it listens if nothing is said.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// `listen` and `admin.listen`, which may not meet.
pub(super) fn read(top: &Object<'_>) -> (Vec<Listener>, SocketAddr) {
    let section = top.section("admin", keys::ADMIN);
    let admin = section.or("listen", DEFAULT_ADMIN, At::address);
    let Some(at) = top.get("listen") else {
        if let Some(at) = section.get("listen").filter(|_| clash(admin, DEFAULT_LISTEN)) {
            at.problem(format!(
                "{DEFAULT_LISTEN} is where the gateway itself listens unless `listen` says otherwise; write 127.0.0.1:9090"
            ));
        }
        let listen = Listener {
            address: DEFAULT_LISTEN,
            tls: None,
        };
        return (vec![listen], admin);
    };
    let mut listeners: Vec<Listener> = Vec::new();
    let items = if at.is_list() {
        at.list().unwrap_or_default()
    } else if at.is_map() {
        at.problem("must be an address or a list; write `- ` before `address`");
        Vec::new()
    } else {
        vec![at.clone()]
    };
    if at.is_list() && items.is_empty() {
        at.problem("is an empty list; write 127.0.0.1:8080");
    }
    if items.len() > MAX_LISTENERS {
        at.problem(format!("has more than {MAX_LISTENERS} addresses"));
        return (listeners, admin);
    }
    for item in items {
        let Some(listener) = item.listener() else { continue };
        if listeners.iter().any(|other| clash(other.address, listener.address)) {
            item.problem(format!(
                "{} is taken by an earlier entry; write another port",
                listener.address
            ));
        }
        if clash(admin, listener.address) {
            item.problem(format!(
                "{} is where admin.listen listens; metrics never go on a public listener, write another port",
                listener.address
            ));
        }
        listeners.push(listener);
    }
    (listeners, admin)
}

/// Whether two sockets cannot be open at once. Port 0 is whatever is free.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

impl At<'_> {
    /// An address and a port.
    fn address(&self) -> Option<SocketAddr> {
        let text = self.text()?;
        text.parse().ok().or_else(|| {
            let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            self.refuse(format!(
                "{} is not an IP address with a port; write 127.0.0.1:{port}, or 0.0.0.0:{port} for every address of this machine",
                shown(text),
                port = port.unwrap_or(8080),
            ))
        })
    }

    /// An entry of `listen`: an address, or one with a certificate.
    fn listener(&self) -> Option<Listener> {
        if !self.is_map() {
            return self.address().map(|address| Listener { address, tls: None });
        }
        let object = self.object(keys::LISTENER)?;
        let address = object.required("address", "127.0.0.1:8443").and_then(At::address);
        let tls = object.optional("tls", At::tls);
        address.map(|address| Listener { address, tls })
    }

    fn tls(&self) -> Option<TlsFiles> {
        let object = self.object(keys::TLS)?;
        let file = |key, example| {
            let at = object.required(key, example)?;
            Some((at, self.reader.directory.join(at.text()?)))
        };
        let (cert, key) = (file("cert", "cert.pem"), file("key", "key.pem"));
        let ((cert_at, cert), (key_at, key)) = (cert?, key?);
        let chain = tls::certificates(&cert).map_err(|wrong| cert_at.problem(wrong));
        let private = tls::private_key(&key).map_err(|wrong| key_at.problem(wrong));
        if let Err(wrong) = tls::server_config(chain.ok()?, private.ok()?) {
            return self.refuse(wrong);
        }
        Some(TlsFiles { cert, key })
    }
}
