//! TLS 1.3 as server and client, from files that may change while we run.
//!
//! A server's configuration is replaced as a whole when its files have changed and fit together; until they do (a key
//! was copied, its certificate not yet), the old one goes on. Connections that stand keep what they were made with, and
//! no session is resumed across a change.

pub use baton_replicator::tls::{
    PKI_DIR, Stamp, TlsError, TlsFiles, certificates, private_key, provider, roots,
};

use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// A server that takes connections with and without a client certificate; one that is shown must be valid.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let unfit = |why: String| TlsError::Unfit { cert: files.cert.clone(), key: files.key.clone(), why };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&files.ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Authority { ca: files.ca.clone(), why: e.to_string() })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| unfit(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, private_key(&files.key)?)
        .map_err(|e| unfit(e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that trusts `ca` only, and shows `identity` (certificate, key) if it has one.
///
/// # Errors
/// [`TlsError`].
pub fn client_config(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    let wrong = |why: String| TlsError::Authority { ca: ca.into(), why };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider())
        .build()
        .map_err(|e| wrong(e.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong(e.to_string()))?
        .with_webpki_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|e| TlsError::Unfit { cert: cert.into(), key: key.into(), why: e.to_string() }),
    }
}

/// A client that trusts nobody: for connections without TLS.
#[must_use]
pub fn no_authority() -> ClientConfig {
    // The provider offers TLS 1.3, and no authority is a valid set of them.
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring offers TLS 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// A server's configuration that follows its files.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    current: RwLock<(Arc<ServerConfig>, Stamp)>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // The stamp first: a file that changes while it is read is read again.
        let stamp = files.stamp();
        let current = RwLock::new((Arc::new(server_config(&files)?), stamp));
        Ok(Self { files, current })
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The configuration for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The files are others than those in use.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.files.stamp() != self.current.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// [`TlsError`]; the old configuration stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let stamp = self.files.stamp();
        let new = (Arc::new(server_config(&self.files)?), stamp);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }
}
