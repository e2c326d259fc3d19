//! Floor 1: the only client that asks others: client metadata documents, and the key sets that signatures are verified
//! with. Who names the address is a stranger, so the rules are our own (RFC 9700 has none; the metadata document draft
//! does):
//!
//! ```text
//! URL ─ https, host ─▶ Limits ─▶ resolve, judge every address ─▶ connect to one of those ─▶ TLS ─▶ GET ─▶ 200, JSON, short
//! ```
//! Names are resolved for each fetch, all addresses of a name must be public, and the connection goes to an address that
//! was judged: a name cannot change between the look and the leap. No redirect is followed, no proxy of the environment
//! is used, nothing is sent that tells who asks. [`Cache`] keeps what was good.

mod address;
mod cache;
mod call;
mod freshness;
mod limits;
pub mod operator;

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use http::{HeaderValue, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::domain::clock::Clock;
use freshness::Freshness;
use limits::{Limits, Standing};

pub use address::is_public;
pub use cache::{Cache, Failure, Found, Patience};
pub use call::{Question, Reply};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest URL that is asked for.
const MAX_URL: usize = 2048;

/// What is fetched: it decides how long it may be, and what metrics call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A client metadata document.
    Document,
    /// A set of public keys.
    Keys,
    /// What an identity provider says of itself, or of somebody who signs in there.
    Provider,
}

/// Where names lead, and how their addresses are reached.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Every address of a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
    /// Where to connect for an address that was judged fit. Port 0 stands for that of the URL.
    fn reach(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, 0)
    }
}

/// The network of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNetwork;

/// Is told how each fetch ended.
pub trait Observer: Send + Sync + 'static {
    /// One fetch, and what became of it: one of a closed set of words.
    fn fetched(&self, kind: Kind, outcome: &'static str);
}

/// Who may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Whoever is on the public internet: for addresses that strangers name.
    #[default]
    Public,
    /// This machine too, without TLS if need be: only where the gateway itself is on this machine for nobody else.
    ThisMachine,
    /// Everybody: for addresses that whoever runs the gateway wrote down.
    Anywhere,
}

/// How to ask.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Whom.
    pub reach: Reach,
    /// Certificates to trust besides those of the system.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Asks.
pub struct Fetcher {
    client: reqwest::Client,
    limits: Limits,
    calls: call::Places,
    reach: Reach,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
}

/// Why nothing was fetched. No text of the other side is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL or the address that it leads to is not one that we ask.
    #[error("the address is not on the public internet")]
    Forbidden,
    /// There is no such name.
    #[error("the host has no address")]
    Unresolved,
    /// No connection.
    #[error("the host cannot be reached")]
    Unreachable,
    /// The certificate does not hold, or no TLS is spoken.
    #[error("the TLS handshake failed")]
    Tls,
    /// It took too long.
    #[error("the answer did not come in time")]
    Timeout,
    /// Another status than 200; redirects are no answer either.
    #[error("the answer has the status {0}")]
    Status(u16),
    /// Not JSON.
    #[error("the answer is not application/json")]
    MediaType,
    /// Longer than such a document may be.
    #[error("the answer is too long")]
    TooLarge,
    /// It broke off, or is not HTTP.
    #[error("the answer broke off")]
    Broken,
    /// Too much is being fetched, in all or from this host.
    #[error("too many fetches at present")]
    Busy,
    /// The host could not be reached a moment ago.
    #[error("the host could not be reached a moment ago")]
    Resting,
}

/// Why a client that asks cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the client for outbound requests: {0}")]
pub struct SetupError(Box<dyn Error + Send + Sync>);

/// What came back.
struct Response {
    body: Vec<u8>,
    freshness: Freshness,
}

// === impl Kind ===

impl Kind {
    /// What metrics call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Document => "document",
            Self::Keys => "keys",
            Self::Provider => "provider",
        }
    }

    const fn most(self) -> usize {
        match self {
            Self::Document => 16 << 10,
            Self::Keys | Self::Provider => 64 << 10,
        }
    }
}

// === impl FetchError ===

impl FetchError {
    /// What metrics call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::MediaType => "media_type",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
            Self::Busy | Self::Resting => "limited",
        }
    }

    /// Finds out what reqwest means.
    fn of(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(current) = cause {
            if let Some(own) = current.downcast_ref::<Self>() {
                return *own;
            }
            if current.is::<rustls::Error>() {
                return Self::Tls;
            }
            // An io::Error names as its source not what it wraps, but the source of that.
            cause = match current.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => current.source(),
            };
        }
        match (error.is_connect(), error.is_timeout()) {
            (true, _) => Self::Unreachable,
            (false, true) => Self::Timeout,
            (false, false) => Self::Broken,
        }
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// A client with these rules.
    ///
    /// # Errors
    /// If a certificate to trust cannot be used.
    pub fn new(
        rules: Rules,
        network: Arc<dyn Network>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, SetupError> {
        let reach = rules.reach;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(rules.roots)?)
            .https_only(reach == Reach::Public)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            // Every fetch looks the name up again and judges what it finds.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .user_agent(concat!("mcpgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Judged { network, reach })
            .build()
            .map_err(|error| SetupError(error.into()))?;
        Ok(Self {
            client,
            limits: Limits::new(),
            calls: call::Places::new(),
            reach,
            clock,
            observer,
        })
    }

    /// Whether this URL may be asked at all: https, or http where this machine may be asked; a host; no user name.
    /// An address in place of a name is judged here, a name when it is resolved.
    fn admit(&self, url: &Url) -> Result<String, FetchError> {
        let secure =
            url.scheme() == "https" || (self.reach != Reach::Public && url.scheme() == "http" && is_this_machine(url));
        if !secure || !url.username().is_empty() || url.password().is_some() || url.as_str().len() > MAX_URL {
            return Err(FetchError::Forbidden);
        }
        let literal = match url.host() {
            None => return Err(FetchError::Forbidden),
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        };
        if literal.is_some_and(|address| !self.reach.covers(address)) {
            return Err(FetchError::Forbidden);
        }
        let host = url.host_str().ok_or(FetchError::Forbidden)?;
        Ok(host.trim_end_matches('.').to_owned())
    }

    /// Fetches, within the limits.
    async fn fetch(&self, url: &Url, kind: Kind, standing: Standing) -> Result<Response, FetchError> {
        let host = self.admit(url)?;
        let turn = self.limits.begin(&host, standing, self.clock.now())?;
        let result = self.ask(url, kind).await;
        drop(turn);
        if let Err(error) = &result {
            self.limits.failed(&host, *error, self.clock.now());
        }
        result
    }

    async fn ask(&self, url: &Url, kind: Kind) -> Result<Response, FetchError> {
        let request = self
            .client
            .get(url.clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"));
        let mut response = request.send().await.map_err(|error| FetchError::of(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        }
        if !is_json(response.headers()) {
            return Err(FetchError::MediaType);
        }
        let freshness = Freshness::of(response.headers());
        let body = read(&mut response, kind.most()).await?;
        Ok(Response { body, freshness })
    }
}

/// The whole of a body that is no longer than this.
async fn read(response: &mut reqwest::Response, most: usize) -> Result<Vec<u8>, FetchError> {
    if response.content_length().is_some_and(|length| length > most as u64) {
        return Err(FetchError::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| FetchError::of(&error))? {
        if body.len() + chunk.len() > most {
            return Err(FetchError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The system's certificates and ours. Without any, nobody can be asked; that is no reason not to serve.
fn tls(own: Vec<CertificateDer<'static>>) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in own {
        roots.add(certificate).map_err(|error| SetupError(error.into()))?;
    }
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::warn!(
            "this system has no certificate authorities: client metadata documents and key sets cannot be fetched; \
             install the package ca-certificates"
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError(error.into()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// `application/json`, or a type that says it is JSON (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (types.next(), types.next()) else {
        return false;
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Reach {
    fn covers(self, address: IpAddr) -> bool {
        match self {
            Self::Public => is_public(address),
            Self::ThisMachine => is_public(address) || address.is_loopback(),
            Self::Anywhere => true,
        }
    }
}

// === impl Judged ===

/// Resolves names for the connector, and passes on nothing that may not be asked.
struct Judged {
    network: Arc<dyn Network>,
    reach: Reach,
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let (network, reach) = (Arc::clone(&self.network), self.reach);
        Box::pin(async move {
            let addresses = network.resolve(name.as_str()).await.map_err(|error| {
                tracing::debug!(%error, host = name.as_str(), "a name could not be resolved");
                FetchError::Unresolved
            })?;
            if addresses.is_empty() {
                return Err(FetchError::Unresolved.into());
            }
            // One bad address spoils the name: who answers so is trying something.
            if !addresses.iter().all(|address| reach.covers(*address)) {
                tracing::warn!(host = name.as_str(), "a name leads to an address that is not asked");
                return Err(FetchError::Forbidden.into());
            }
            let reached: Vec<_> = addresses.into_iter().map(|address| network.reach(address)).collect();
            Ok(Box::new(reached.into_iter()) as Addrs)
        })
    }
}

// === impl SystemNetwork ===

#[async_trait]
impl Network for SystemNetwork {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}
