//! This node's certificate as the transport uses it, from files that may be renewed while we run.
//!
//! The files are looked at before each handshake; a session keeps what it began with. Files that do not fit together
//! (a key was copied, its certificate not yet) change nothing: the old ones go on, and the log says so once.
//!
//! Invariant: no session is resumed, so that every new connection shows a certificate that is valid now.

use crate::tls::{KIND_NODE, Stamp, Subject, TlsError, TlsFiles, certificates, private_key, provider, roots};
use crate::types::NodeName;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ServerConfig};
use std::sync::{Arc, Mutex, PoisonError};

/// What one handshake needs.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    pub cluster: String,
}

/// A node's certificate, its key and its authority. Clones share what was read.
#[derive(Clone, Debug)]
pub struct Credentials {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeName,
    files: TlsFiles,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    identity: Option<Identity>,
    /// What the files looked like when they were last read, with or without success.
    seen: Option<Stamp>,
}

impl Credentials {
    /// Of this node, in these files. They are read when they are needed.
    #[must_use]
    pub fn new(node: NodeName, files: TlsFiles) -> Self {
        Self { inner: Arc::new(Inner { node, files, held: Mutex::default() }) }
    }

    /// The newest that can be used.
    pub(super) fn current(&self) -> Result<Identity, TlsError> {
        let mut held = self.inner.held.lock().unwrap_or_else(PoisonError::into_inner);
        // The stamp first: a file that changes while it is read is read again.
        let stamp = self.inner.files.stamp();
        if held.seen.as_ref() == Some(&stamp)
            && let Some(identity) = &held.identity
        {
            return Ok(identity.clone());
        }
        let renewed = held.identity.is_some();
        held.seen = Some(stamp);
        match self.inner.read() {
            Ok(identity) => {
                if renewed {
                    tracing::info!(certificate = %self.inner.files.cert.display(), "new connections use the renewed certificate");
                }
                held.identity = Some(identity.clone());
                Ok(identity)
            }
            Err(error) => match &held.identity {
                Some(old) => {
                    tracing::warn!(%error, "replication goes on with its old certificate");
                    Ok(old.clone())
                }
                None => Err(error),
            },
        }
    }
}

impl Inner {
    fn read(&self) -> Result<Identity, TlsError> {
        let TlsFiles { ca, cert, key } = &self.files;
        let unfit = |why: String| TlsError::Unfit { cert: cert.clone(), key: key.clone(), why };
        let no_authority = |why: String| TlsError::Authority { ca: ca.clone(), why };
        let (trusted, chain) = (roots(ca)?, certificates(cert)?);
        let subject = subject_of(&chain)
            .filter(|s| s.kind == KIND_NODE && s.name == self.node.as_str())
            .ok_or_else(|| unfit(format!("it is not a certificate of the node {}", self.node)))?;
        let provider = Arc::new(suites());
        let clients = WebPkiClientVerifier::builder_with_provider(trusted.clone(), provider.clone())
            .build()
            .map_err(|e| no_authority(e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unfit(e.to_string()))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), private_key(key)?)
            .map_err(|e| unfit(e.to_string()))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let servers = WebPkiServerVerifier::builder_with_provider(trusted, provider.clone())
            .build()
            .map_err(|e| no_authority(e.to_string()))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| unfit(e.to_string()))?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, private_key(key)?)
            .map_err(|e| unfit(e.to_string()))?;
        client.resumption = Resumption::disabled();
        Ok(Identity { client: Arc::new(client), server: Arc::new(server), cluster: subject.cluster })
    }
}

/// Whose certificate a chain begins with.
pub(super) fn subject_of(chain: &[CertificateDer<'_>]) -> Option<Subject> {
    Subject::of_der(chain.first()?)
}

/// AES-128 first: as good as unbreakable, and a third faster than AES-256. Without instructions for AES, ChaCha20 is
/// several times faster than either.
fn suites() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let aes = [TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    let chacha = [TLS13_CHACHA20_POLY1305_SHA256];
    let cipher_suites = if has_aes() { [&aes[..], &chacha].concat() } else { [&chacha[..], &aes].concat() };
    CryptoProvider { cipher_suites, ..(*provider()).clone() }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}
