//! A listener's certificate: read when the configuration is checked, so that a bad one is a problem and never a surprise.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsFiles;
use super::values::{read_regular, shown};

/// Largest certificate or key file.
const MAX_PEM: u64 = 1 << 20;

impl TlsFiles {
    /// What a TLS listener needs: TLS 1.2 and 1.3, HTTP/1.1. Reads the files again.
    ///
    /// # Errors
    /// A sentence on what is wrong with the files.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, String> {
        server_config(certificates(&self.cert)?, private_key(&self.key)?)
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

/// Makes a server of the two, if they belong together.
pub(super) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("the certificate and the key cannot be used together: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = || shown(&path.display().to_string());
    read_regular(path, MAX_PEM).map_err(|error| format!("the file {} cannot be read: {error}", file()))
}
