//! Where the gateway listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::read::{At, Object};
use super::tls::Certificate;
use super::values::shown;
use super::{Listener, ListenerTls, keys, tls};
use crate::domain::network::{Network, Networks};

/// Most certificates of one listener.
const MAX_CERTIFICATES: usize = 64;
/// Most networks of proxies.
const MAX_NETWORKS: usize = 256;
/// Most listeners.
const MAX_LISTENERS: usize = 64;
/// Where it listens if nothing is said.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
pub(super) const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// `trusted_proxies`: networks whose word on where a request comes from counts.
pub(super) fn trusted_proxies(top: &Object<'_>) -> Networks {
    let items = top.items("trusted_proxies");
    if let Some(at) = top.get("trusted_proxies").filter(|_| items.len() > MAX_NETWORKS) {
        at.problem(format!("has more than {MAX_NETWORKS} networks"));
        return Networks::default();
    }
    items.iter().filter_map(At::network).collect()
}

/// `listen` and `admin.listen`, which may not meet.
pub(super) fn read(top: &Object<'_>, section: &Object<'_>, trusted_proxies: &Networks) -> (Vec<Listener>, SocketAddr) {
    let admin = section.or("listen", DEFAULT_ADMIN, At::address);
    let Some(at) = top.get("listen") else {
        if let Some(at) = section.get("listen").filter(|_| clash(admin, DEFAULT_LISTEN)) {
            at.problem(format!(
                "{DEFAULT_LISTEN} is where the gateway itself listens unless `listen` says otherwise; write 127.0.0.1:9090"
            ));
        }
        return (vec![plain(DEFAULT_LISTEN)], admin);
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
        let Some(listener) = item.listener(trusted_proxies) else {
            continue;
        };
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

/// A listener with nothing special about it.
fn plain(address: SocketAddr) -> Listener {
    Listener {
        address,
        tls: None,
        proxy_protocol: false,
    }
}

/// Whether two sockets cannot be open at once. Port 0 is whatever is free.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

impl At<'_> {
    /// An address and a port.
    pub(super) fn address(&self) -> Option<SocketAddr> {
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

    fn network(&self) -> Option<Network> {
        let text = self.text()?;
        let network = text.parse();
        network
            .map_err(|error| self.problem(format!("{} {error}", shown(text))))
            .ok()
    }

    /// An entry of `listen`: an address, or one with certificates.
    fn listener(&self, trusted_proxies: &Networks) -> Option<Listener> {
        if !self.is_map() {
            return self.address().map(plain);
        }
        let object = self.object(keys::LISTENER)?;
        let address = object.required("address", "127.0.0.1:8443").and_then(At::address);
        let http2 = object.or("http2", true, At::boolean);
        let tls = object.optional("tls", |at| {
            let certificates = at.certificates()?;
            Some(ListenerTls { certificates, http2 })
        });
        if let Some(at) = object.get("http2").filter(|_| object.get("tls").is_none()) {
            at.problem("is for listeners with `tls`: browsers and SDKs speak HTTP/2 over TLS only; leave it out");
        }
        let proxy_protocol = object.or("proxy_protocol", false, At::boolean);
        if let Some(at) = object
            .get("proxy_protocol")
            .filter(|_| proxy_protocol && trusted_proxies.is_empty())
        {
            at.problem("needs trusted_proxies: the header is taken from those addresses only; write theirs there");
        }
        address.map(|address| Listener {
            address,
            tls,
            proxy_protocol,
        })
    }

    /// `tls`: one certificate with its key, or a list of them. The first is for clients that ask for another name or none.
    fn certificates(&self) -> Option<Vec<Certificate>> {
        if !self.is_list() {
            return self.certificate().map(|only| vec![only]);
        }
        let items = self.list()?;
        if items.is_empty() || items.len() > MAX_CERTIFICATES {
            return self.refuse(format!("must have 1 to {MAX_CERTIFICATES} certificates"));
        }
        let found: Vec<Certificate> = items.iter().filter_map(At::certificate).collect();
        (found.len() == items.len()).then_some(found)
    }

    fn certificate(&self) -> Option<Certificate> {
        let object = self.object(keys::TLS)?;
        object.required("cert", "cert.pem");
        object.required("key", "key.pem");
        self.certified(&object)
    }

    /// The certificate and the key that a map names.
    pub(super) fn certified(&self, object: &Object<'_>) -> Option<Certificate> {
        let file = |key| {
            let at = object.get(key)?;
            Some((at, at.file()?))
        };
        let (cert, key) = (file("cert"), file("key"));
        let ((cert_at, cert), (key_at, key)) = (cert?, key?);
        let chain = tls::certificates(&cert).map_err(|wrong| cert_at.problem(wrong));
        let private = tls::private_key(&key).map_err(|wrong| key_at.problem(wrong));
        let certificate = Certificate::new(chain.ok()?, private.ok()?);
        certificate.map_err(|wrong| self.problem(wrong)).ok()
    }
}
