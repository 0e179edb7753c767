//! The cluster's two authorities, and the certificates they sign: ECDSA P-256, made on an administrator's machine.
//!
//! A directory holds `ca.crt`, `etcd-ca.crt`, and `NAME.crt` with `NAME.key` for every node and client, besides
//! `NAME-etcd.crt` with its key for what talks to etcd. The keys of the authorities (`ca.key`, `etcd-ca.key`) belong
//! on no host of the cluster: whoever has them is everybody. Nothing that exists is overwritten except by a renewal, and
//! that replaces the certificate only: its key, and with it every copy of the key, stays good.

use super::files::{self, FileError};
use super::identity::{Identity, IdentityError, Kind};
use baton_replicator::types::{BadName, NodeName};
use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Ten years: renewing an authority means touching every host.
pub const AUTHORITY_DAYS: u32 = 3650;
/// A year, and a month to notice.
pub const CERTIFICATE_DAYS: u32 = 397;
/// From here on status, `baton cert show` and the alert ask for a renewal.
pub const RENEW_WITHIN_DAYS: i64 = 30;
/// A certificate is valid from an hour before it was made, for hosts whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate that is no certificate of Baton's.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
    /// A name.
    #[error("{0}; lower-case letters, digits, '-', '_' and '.', at most 63")]
    Name(#[from] BadName),
    /// A name that a file of the authorities has.
    #[error(
        "'{0}' cannot be the name of a node or client: files of the authorities and of etcd are called so"
    )]
    Reserved(String),
    /// It would be overwritten.
    #[error("{} is there already; renew it with 'baton cert renew', or move it away", .0.display())]
    Exists(PathBuf),
    /// There is no authority yet.
    #[error("{} is missing: make the authorities with 'baton cert init --cluster NAME' in this directory first", .0.display())]
    NoAuthority(PathBuf),
    /// A certificate whose authority's key is not here.
    #[error("{} holds no authority that signs '{kind}' certificates", dir.display())]
    WrongAuthority {
        /// The directory.
        dir: PathBuf,
        /// What was to be signed.
        kind: &'static str,
    },
    /// An address or host name.
    #[error("'{0}' is neither an IP address nor a host name")]
    Address(String),
    /// The library refused.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// What to sign.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it is for.
    pub kind: Kind,
    /// The node, person or tool.
    pub name: String,
    /// IP addresses and host names at which it serves, beyond its own name and loopback.
    pub addresses: Vec<String>,
    /// How long it is valid.
    pub days: u32,
}

/// A certificate's file, and what it says or why it cannot be read.
pub type Listed = (PathBuf, Result<Identity, PkiError>);

/// A directory with certificates.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// The directory, which need not exist.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The certificate of this name.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// Makes both authorities. Returns the files written.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if one is there.
    pub fn init(&self, cluster: &str, days: u32) -> Result<Vec<PathBuf>, PkiError> {
        let cluster = NodeName::new(cluster)?;
        let kinds = [Kind::Authority, Kind::EtcdAuthority];
        for kind in kinds {
            self.absent(kind.word())?;
        }
        make_dir(&self.dir)?;
        let mut written = Vec::new();
        for kind in kinds {
            let key = KeyPair::generate()?;
            let mut params = params(cluster.as_str(), kind, cluster.as_str(), SystemTime::now(), days);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            written.extend(self.store(kind.word(), &params.self_signed(&key)?.pem(), Some(&key))?);
        }
        Ok(written)
    }

    /// Signs a new certificate with a new key: for a node two, the second one for etcd. Returns the files written.
    ///
    /// # Errors
    /// [`PkiError`]; nothing is overwritten.
    pub fn issue(&self, request: &Request) -> Result<Vec<PathBuf>, PkiError> {
        let name = NodeName::new(request.name.as_str())?;
        if ["ca", "etcd-ca"].contains(&name.as_str()) || name.as_str().ends_with("-etcd") {
            return Err(PkiError::Reserved(request.name.clone()));
        }
        let kinds: &[Kind] = match request.kind {
            Kind::Node => &[Kind::Node, Kind::Etcd],
            ref one => std::slice::from_ref(one),
        };
        for kind in kinds {
            self.absent(&file_name(*kind, name.as_str()))?;
        }
        let mut written = Vec::new();
        for kind in kinds {
            let key = KeyPair::generate()?;
            let pem = self.sign(*kind, name.as_str(), &request.addresses, request.days, &key)?;
            written.extend(self.store(&file_name(*kind, name.as_str()), &pem, Some(&key))?);
        }
        Ok(written)
    }

    /// Signs a certificate anew: same holder, same key, valid from now. Its file is replaced at once.
    ///
    /// # Errors
    /// [`PkiError`]; the old one stays.
    pub fn renew(&self, certificate: &Path, days: u32) -> Result<Identity, PkiError> {
        let (identity, der) = read_certificate(certificate)?;
        let spki = SubjectPublicKeyInfo::from_der(
            public_key(&der).map_err(|source| PkiError::Certificate { path: certificate.into(), source })?,
        )?;
        let pem = self.sign(identity.kind, &identity.name, &identity.addresses, days, &spki)?;
        files::write_public(certificate, pem.as_bytes())?;
        read_certificate(certificate).map(|(identity, _)| identity)
    }

    /// All certificates of the directory, by file name, with what is wrong with those that cannot be read.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, PkiError> {
        let fail = |source| FileError::Io { doing: "read", path: self.dir.clone(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|e| e == "crt") {
                let identity = read_certificate(&path).map(|(identity, _)| identity);
                found.push((path, identity));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn sign(
        &self,
        kind: Kind,
        name: &str,
        addresses: &[String],
        days: u32,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let authority = match kind {
            Kind::Node | Kind::Client(_) => Kind::Authority,
            Kind::Etcd => Kind::EtcdAuthority,
            Kind::Authority | Kind::EtcdAuthority => {
                return Err(PkiError::WrongAuthority { dir: self.dir.clone(), kind: kind.word() });
            }
        };
        let path = self.certificate(authority.word());
        let (of_authority, der) = read_certificate(&path).map_err(|error| match error {
            PkiError::File(e) if e.is_missing() => PkiError::NoAuthority(path.clone()),
            other => other,
        })?;
        if of_authority.kind != authority {
            return Err(PkiError::WrongAuthority { dir: self.dir.clone(), kind: kind.word() });
        }
        let key_path = self.key(authority.word());
        let pem = files::read_private(&key_path).map_err(|error| match error.is_missing() {
            true => PkiError::NoAuthority(key_path),
            false => error.into(),
        })?;
        let issuer = Issuer::from_ca_cert_der(&der, KeyPair::from_pem(&String::from_utf8_lossy(&pem))?)?;
        let mut params = params(&of_authority.cluster, kind, name, SystemTime::now(), days);
        // What outlives its authority is refused everywhere, with an error that names the wrong certificate.
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(of_authority.not_after).unwrap_or(0));
        params.not_after = params.not_after.min(end.into());
        params.subject_alt_names = alternative_names(kind, name, addresses)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match kind {
            Kind::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            _ => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &issuer)?.pem())
    }

    fn absent(&self, name: &str) -> Result<(), PkiError> {
        match [self.certificate(name), self.key(name)].into_iter().find(|path| path.exists()) {
            Some(path) => Err(PkiError::Exists(path)),
            None => Ok(()),
        }
    }

    /// The key first: a certificate without its key would look complete.
    fn store(&self, name: &str, pem: &str, key: Option<&KeyPair>) -> Result<Vec<PathBuf>, PkiError> {
        let mut written = Vec::new();
        if let Some(key) = key {
            files::write_private(&self.key(name), key.serialize_pem().as_bytes())?;
            written.push(self.key(name));
        }
        files::write_public(&self.certificate(name), pem.as_bytes())?;
        written.push(self.certificate(name));
        Ok(written)
    }
}

/// File name, without its ending, of a certificate.
#[must_use]
pub fn file_name(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Authority | Kind::EtcdAuthority => kind.word().to_owned(),
        Kind::Etcd => format!("{name}-etcd"),
        Kind::Node | Kind::Client(_) => name.to_owned(),
    }
}

/// Reads the first certificate of a file.
///
/// # Errors
/// [`PkiError::File`] or [`PkiError::Certificate`].
pub fn read_certificate(path: &Path) -> Result<(Identity, CertificateDer<'static>), PkiError> {
    let fail = |source| PkiError::Certificate { path: path.into(), source };
    let der = CertificateDer::from_pem_slice(&files::read(path)?).map_err(|_| fail(IdentityError::Pem))?;
    Ok((Identity::of_der(&der).map_err(fail)?, der))
}

fn public_key<'a>(der: &'a CertificateDer<'_>) -> Result<&'a [u8], IdentityError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|e| IdentityError::Parse(e.to_string()))?;
    Ok(certificate.tbs_certificate.subject_pki.raw)
}

fn params(cluster: &str, kind: Kind, name: &str, now: SystemTime, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::OrganizationalUnitName, kind.word());
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    // Without one it is made of the key, and a renewed certificate would have the number of the old one.
    let mut serial = [0; 16];
    rand::rng().fill_bytes(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * days).into();
    params
}

/// A node and a member of etcd serve at their name, at loopback and at their addresses; a client serves nowhere.
fn alternative_names(kind: Kind, name: &str, addresses: &[String]) -> Result<Vec<SanType>, PkiError> {
    let mut all: Vec<String> = Vec::new();
    if matches!(kind, Kind::Node | Kind::Etcd) {
        all.extend([name, "localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    for address in addresses {
        if !all.contains(address) {
            all.push(address.clone());
        }
    }
    let host_name = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let san = |address: String| match address.parse::<IpAddr>() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) if host_name(&address) => Ok(SanType::DnsName(address.try_into()?)),
        Err(_) => Err(PkiError::Address(address)),
    };
    all.into_iter().map(san).collect()
}

fn make_dir(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir);
    made.map_err(|source| FileError::Io { doing: "make", path: dir.into(), source })
}
