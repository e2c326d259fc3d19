//! A listener's certificate: read when the configuration is checked, so that a bad one is a problem and never a surprise.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsFiles;

impl TlsFiles {
    /// What a TLS listener needs: TLS 1.2 and 1.3, HTTP/1.1.
    ///
    /// # Errors
    /// A sentence on what is wrong with the files.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, String> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("cannot read certificates from {cert}: {error}"))?;
        if chain.is_empty() {
            return Err(format!("{cert} holds no certificate"));
        }
        let private = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| format!("cannot read a private key from {key}: {error}"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(|error| format!("{cert} and {key} do not go together: {error}"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
