//! What a certificate says about its holder.
//!
//! Cluster, kind and name are its subject, see [`baton_replicator::tls`].
//!
//! A `node` may do everything: whoever has its key is root on a host of the cluster and commands its engine anyway. An
//! `etcd` certificate opens etcd and nothing of the API; it comes from an authority of its own, because etcd lets
//! everybody in whom its authority has signed.

use super::principal::Role;
use baton_replicator::tls::Subject;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The cluster's authority: nodes and clients of the API.
    Authority,
    /// The authority of etcd's members and clients.
    EtcdAuthority,
    /// A node's agent.
    Node,
    /// A member or a client of etcd.
    Etcd,
    /// A person or a tool.
    Client(Role),
}

impl Kind {
    /// The word in the subject (OU).
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Authority => "ca",
            Self::EtcdAuthority => "etcd-ca",
            Self::Node => "node",
            Self::Etcd => "etcd",
            Self::Client(role) => role.word(),
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        [
            Self::Authority,
            Self::EtcdAuthority,
            Self::Node,
            Self::Etcd,
            Self::Client(Role::Viewer),
            Self::Client(Role::Operator),
            Self::Client(Role::Admin),
        ]
        .into_iter()
        .find(|kind| kind.word() == word)
    }

    /// What its holder may do at the API; none for authorities and etcd.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Node => Some(Role::Admin),
            Self::Client(role) => Some(role),
            Self::Authority | Self::EtcdAuthority | Self::Etcd => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: String,
    /// What it is for.
    pub kind: Kind,
    /// The node, person or tool.
    pub name: String,
    /// Addresses and host names it may serve at.
    pub addresses: Vec<String>,
    /// Valid from, seconds since 1970.
    pub not_before: i64,
    /// Valid until, seconds since 1970.
    pub not_after: i64,
}

/// Why something is no certificate of Baton's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not a certificate in PEM.
    #[error("there is no certificate in it (PEM, 'BEGIN CERTIFICATE')")]
    Pem,
    /// Not X.509.
    #[error("it is not a valid X.509 certificate: {0}")]
    Parse(String),
    /// Its subject is not one of those above.
    #[error("its subject '{0}' is not one that 'baton cert' makes (O=cluster, OU=role, CN=name)")]
    Subject(String),
}

impl Identity {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn of_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| IdentityError::Parse(e.to_string()))?;
        let strange = || IdentityError::Subject(certificate.subject().to_string());
        let subject = Subject::of(certificate.subject()).ok_or_else(strange)?;
        let kind = Kind::of_word(&subject.kind).ok_or_else(strange)?;
        let addresses = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(address).collect(),
            Ok(None) => Vec::new(),
            Err(e) => return Err(IdentityError::Parse(e.to_string())),
        };
        Ok(Self {
            cluster: subject.cluster,
            kind,
            name: subject.name,
            addresses,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Reads the first certificate of a PEM file's content.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn of_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| IdentityError::Pem)?;
        Self::of_der(&der)
    }

    /// Whole days until it expires; negative if it has expired. `now` in seconds since 1970.
    #[must_use]
    pub fn days_left(&self, now: i64) -> i64 {
        (self.not_after - now).div_euclid(24 * 60 * 60)
    }

    /// The subject as OpenSSL shows it.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("O={}, OU={}, CN={}", self.cluster, self.kind, self.name)
    }
}

fn address(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|o| std::net::Ipv4Addr::from(o).to_string()),
            16 => <[u8; 16]>::try_from(*octets).ok().map(|o| std::net::Ipv6Addr::from(o).to_string()),
            _ => None,
        },
        _ => None,
    }
}
