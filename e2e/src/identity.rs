//! Who the suite is towards the agents: the administrator whose certificate the cluster's script hands out, or somebody
//! without one.

use anyhow::{Context, Result, anyhow};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A TLS client.
#[derive(Clone, Debug)]
pub struct Identity(Arc<ClientConfig>);

impl Identity {
    /// Trusts `ca.crt` of a directory and shows `NAME.crt` with its key, or nothing.
    ///
    /// # Errors
    /// If a file is missing or no certificate.
    pub fn load(dir: &Path, name: Option<&str>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&dir.join("ca.crt"))? {
            roots.add(certificate).context("ca.crt")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("TLS 1.3")?
            .with_root_certificates(roots);
        let Some(name) = name else { return Ok(Self(Arc::new(builder.with_no_client_auth()))) };
        let key = dir.join(format!("{name}.key"));
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| anyhow!("{}: {e}", key.display()))?;
        let chain = certificates(&dir.join(format!("{name}.crt")))?;
        Ok(Self(Arc::new(builder.with_client_auth_cert(chain, key).context("client certificate")?)))
    }

    /// The certificate that a server shows, DER.
    ///
    /// # Errors
    /// If there is no handshake within 2 s.
    pub fn served_at(&self, at: SocketAddr) -> Result<Vec<u8>> {
        const LIMIT: Duration = Duration::from_secs(2);
        let mut socket = TcpStream::connect_timeout(&at, LIMIT)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let mut session = ClientConnection::new(self.config(), ServerName::from(at.ip()))?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        Ok(shown.context("no certificate")?.to_vec())
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|e| anyhow!("{}: {e}; bring the cluster up with 'make test'", path.display()))
}

/// Where `compose/scripts/cluster.sh` puts what an administrator of a project needs.
#[must_use]
pub fn handed_out(project: &str) -> PathBuf {
    match std::env::var_os("BATON_E2E_PKI") {
        Some(dir) => dir.into(),
        None => Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.build/pki")).join(project),
    }
}
