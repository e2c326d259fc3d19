//! Certificates: read when the configuration is checked, so that a bad one is a problem and never a surprise. What was read
//! is what is used; nobody reads the files again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::values::{read_regular, shown};
use crate::domain::clock::Timestamp;

/// Largest certificate or key file.
const MAX_PEM: u64 = 1 << 20;
/// The end of the year 9999: dates end there.
const LAST_SECOND: u64 = 253_402_300_799;
/// Most names of one certificate that are looked at.
const MAX_NAMES: usize = 1_000;

/// A certificate and its key, which belong together.
#[derive(Clone)]
pub struct Certificate {
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    certified: Arc<CertifiedKey>,
}

/// `listen[].tls`: what a listener shows, and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// By the name that a client asks for; the first is for every other name. At least one.
    pub certificates: Vec<Certificate>,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
}

/// `upstreams[].tls`: whom an https upstream has to be, and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The only authorities that count; `None` for the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// What we show if we are asked.
    pub certificate: Option<Certificate>,
    /// The name that its certificate has to be for, if it is not the host of the URL.
    pub server_name: Option<String>,
}

/// Chooses a certificate by the name that a client asks for (RFC 6066 §3).
#[derive(Debug)]
struct ByName(Vec<Certificate>);

// === impl Certificate ===

impl Certificate {
    /// Puts the two together.
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, String> {
        let first = chain.first().ok_or("there is no certificate")?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_| "the certificate cannot be read".to_owned())?;
        let (not_before, not_after) = (parsed.validity().not_before, parsed.validity().not_after);
        let names = names(&parsed);
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| format!("the certificate and the key cannot be used together: {error}"))?;
        Ok(Self {
            names,
            not_before: moment(not_before.timestamp()),
            not_after: moment(not_after.timestamp()),
            certified: Arc::new(certified),
        })
    }

    /// What it is for: host names in lower case, such as `*.example.com`, and addresses.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What it is called where there is room for one name only.
    #[must_use]
    pub fn title(&self) -> &str {
        self.names.first().map_or("without a name", String::as_str)
    }

    /// The last moment of its validity.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.not_after
    }

    /// The same for people: `Sat, 30 Oct 2126 03:50:59 GMT`.
    #[must_use]
    pub fn expiry_date(&self) -> String {
        let seconds = self.not_after.as_seconds().min(LAST_SECOND);
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// Whether it is valid at a moment.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whether it is for a host: its own name, or the one label before a name with a star (RFC 9525 §6.3).
    fn is_for(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(under) => parent == Some(under),
            None => name == host,
        })
    }
}

impl PartialEq for Certificate {
    /// The same certificate has the same key.
    fn eq(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("expires", &self.not_after)
            .finish_non_exhaustive()
    }
}

// === impl ListenerTls ===

impl ListenerTls {
    /// What a TLS listener needs: TLS 1.2 and 1.3, the certificates, the protocols.
    ///
    /// # Errors
    /// A sentence on what is wrong; the checks of the configuration leave nothing to be.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, String> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByName(self.certificates.clone())));
        config.alpn_protocols = protocols(self.http2);
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let named: Vec<&Certificate> = host
            .iter()
            .flat_map(|host| self.0.iter().filter(move |certificate| certificate.is_for(host)))
            .collect();
        // One name may have a certificate of each kind of key, and not every client knows every kind.
        let known = |certificate: &&&Certificate| {
            let key = &certificate.certified.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let named = named.iter().find(known).or(named.first()).copied();
        // Whoever asks for a name that we do not know sees whom it reached, and decides for itself.
        named
            .or_else(|| self.0.first())
            .map(|certificate| Arc::clone(&certificate.certified))
    }
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// What a connection to the upstream needs.
    ///
    /// # Errors
    /// A sentence on what is wrong, such as a system without any certificates of authorities.
    pub fn client_config(&self, http2: bool) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(own) => {
                for authority in own {
                    roots
                        .add(authority.clone())
                        .map_err(|_| "a certificate in it is not that of an authority".to_owned())?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let shown = SingleCertAndKey::from(Arc::clone(&own.certified));
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        config.alpn_protocols = protocols(http2);
        Ok(Arc::new(config))
    }
}

/// Whether a text can be the name of a server's certificate.
pub(super) fn is_server_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

/// The certificates of authorities in a PEM file.
pub(super) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = certificates(path)?;
    let mut store = RootCertStore::empty();
    if found.iter().all(|authority| store.add(authority.clone()).is_ok()) {
        Ok(found)
    } else {
        Err("a certificate in it is not that of an authority".to_owned())
    }
}

/// The certificates of a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
        let file = shown(&path.display().to_string());
        format!("{file} holds no certificate; write a PEM file with BEGIN CERTIFICATE")
    })
}

/// The private key of a PEM file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        let file = shown(&path.display().to_string());
        format!("{file} holds no private key; write a PEM file with BEGIN PRIVATE KEY, without a password")
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = || shown(&path.display().to_string());
    read_regular(path, MAX_PEM).map_err(|error| format!("the file {} cannot be read: {error}", file()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What is offered in the handshake (RFC 7301), the best first.
fn protocols(http2: bool) -> Vec<Vec<u8>> {
    let http1 = b"http/1.1".to_vec();
    if http2 {
        vec![b"h2".to_vec(), http1]
    } else {
        vec![http1]
    }
}

/// Who a certificate is for. Its subject's common name counts for nobody any more (RFC 9525 §2), but is better than nothing
/// to call it by.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let names: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()))
        .take(MAX_NAMES)
        .collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().iter_common_name().next();
    common
        .and_then(|name| name.as_str().ok())
        .filter(|name| !name.is_empty() && name.len() < 256 && name.bytes().all(|b| b.is_ascii_graphic()))
        .map(str::to_ascii_lowercase)
        .into_iter()
        .collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four: Option<[u8; 4]> = bytes.try_into().ok();
    let sixteen: Option<[u8; 16]> = bytes.try_into().ok();
    let address = four
        .map(|four| IpAddr::V4(Ipv4Addr::from(four)))
        .or_else(|| sixteen.map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen))))?;
    Some(address.to_string())
}

/// Seconds since 1970; what is before that is long ago.
fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000))
}
