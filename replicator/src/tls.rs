//! Certificates and keys from files, for everything in Baton that speaks TLS; and what a certificate says about its holder.
//!
//! ```text
//! O  = name of the cluster            a certificate of another cluster is nobody here
//! OU = ca | etcd-ca | node | etcd | viewer | operator | admin
//! CN = name of the node or of the person or tool
//! ```
//!
//! Files may change while we run: their [`Stamp`] says so. A key that others may read is refused.

use crate::files::{self, FileError};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Why files make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what it should be.
    #[error("{} holds no {what} (PEM)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key, or certificate and authority, do not fit together.
    #[error("{} and {} do not make a usable identity: {why}", cert.display(), key.display())]
    Unfit {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        why: String,
    },
    /// The authority's file.
    #[error("{} is no usable authority: {why}", ca.display())]
    Authority {
        /// The file.
        ca: PathBuf,
        /// Why.
        why: String,
    },
}

/// Files of one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authorities that are trusted; more than one while a new authority is introduced.
    pub ca: PathBuf,
    /// The certificate.
    pub cert: PathBuf,
    /// Its key, mode 0600.
    pub key: PathBuf,
}

/// Where `baton cert` puts certificates if nothing else is said.
pub const PKI_DIR: &str = "/etc/baton/pki";

/// What a file looked like; another one means that it was replaced.
pub type Stamp = Vec<Option<(u64, i64, i64, u64)>>;

impl TlsFiles {
    /// A node's identity towards other nodes and the API's clients, in a directory made by `baton cert`.
    #[must_use]
    pub fn of_node(dir: &Path, node: &str) -> Self {
        Self {
            ca: dir.join("ca.crt"),
            cert: dir.join(format!("{node}.crt")),
            key: dir.join(format!("{node}.key")),
        }
    }

    /// A node's identity towards etcd.
    #[must_use]
    pub fn of_node_for_etcd(dir: &Path, node: &str) -> Self {
        Self {
            ca: dir.join("etcd-ca.crt"),
            cert: dir.join(format!("{node}-etcd.crt")),
            key: dir.join(format!("{node}-etcd.key")),
        }
    }

    /// A node's identity towards etcd, found as the agent of this host finds it by default.
    #[must_use]
    pub fn of_this_node_for_etcd() -> Self {
        let dir = std::env::var_os("BATON_PKI_DIR").map_or_else(|| PathBuf::from(PKI_DIR), PathBuf::from);
        let node = std::env::var("BATON_NODE").unwrap_or_else(|_| "NODE".to_owned());
        Self::of_node_for_etcd(&dir, &node)
    }

    /// Inode, time of change and length of each file.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let of = |path: &PathBuf| {
            let m = std::fs::metadata(path).ok()?;
            Some((m.ino(), m.mtime(), m.mtime_nsec(), m.len()))
        };
        [&self.ca, &self.cert, &self.key].map(of).to_vec()
    }

    /// All three are there.
    #[must_use]
    pub fn exist(&self) -> bool {
        [&self.ca, &self.cert, &self.key].iter().all(|path| path.exists())
    }
}

/// The one provider of cryptography of all of Baton.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Reads the authorities of a file.
///
/// # Errors
/// [`TlsError`].
pub fn roots(ca: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|e| TlsError::Authority { ca: ca.into(), why: e.to_string() })?;
    }
    Ok(Arc::new(roots))
}

/// Reads a file's certificates; at least one.
///
/// # Errors
/// [`TlsError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = files::read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(TlsError::Empty { path: path.into(), what: "certificate" }),
    }
}

/// Reads a key that nobody else may read.
///
/// # Errors
/// [`TlsError`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = files::read_private(path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| TlsError::Empty { path: path.into(), what: "private key" })
}

/// Whose certificate it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The cluster (O).
    pub cluster: String,
    /// What it is for (OU).
    pub kind: String,
    /// The node, person or tool (CN).
    pub name: String,
}

/// The OU of a node's certificate.
pub const KIND_NODE: &str = "node";

impl Subject {
    /// Reads a name with exactly one of each; any other is nobody's.
    #[must_use]
    pub fn of(name: &X509Name<'_>) -> Option<Self> {
        Some(Self {
            cluster: one(name.iter_organization())?,
            kind: one(name.iter_organizational_unit())?,
            name: one(name.iter_common_name())?,
        })
    }

    /// Reads a certificate.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Self::of(certificate.subject())
    }
}

/// The only attribute of its kind: with two of them, different readers could see different holders.
fn one<'a>(mut attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    let value = attributes.next()?.as_str().ok()?.to_owned();
    attributes.next().is_none().then_some(value)
}
