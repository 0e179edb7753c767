//! Authorities and certificates for tests, as `baton cert` makes them.

use super::TlsFiles;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// An authority in a directory.
pub struct Pki {
    dir: PathBuf,
    ca: CertifiedIssuer<'static, KeyPair>,
}

fn params(kind: &str, name: &str, valid: (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    for (field, value) in [
        (DnType::OrganizationName, "test"),
        (DnType::OrganizationalUnitName, kind),
        (DnType::CommonName, name),
    ] {
        params.distinguished_name.push(field, value);
    }
    let at = |days: i64| {
        let day = Duration::from_secs(86_400) * u32::try_from(days.abs()).unwrap();
        if days < 0 { SystemTime::now() - day } else { SystemTime::now() + day }
    };
    (params.not_before, params.not_after) = (at(valid.0).into(), at(valid.1).into());
    params
}

impl Pki {
    /// A new authority; its certificate replaces what is in `dir`.
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = params("ca", "test", (-1, 100));
        params.subject_alt_names.clear();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.join("ca.crt"), ca.pem()).unwrap();
        Self { dir: dir.to_owned(), ca }
    }

    /// A certificate with its key, valid from and until so many days from now; replaces the one of that name.
    pub fn issue(&self, file: &str, kind: &str, name: &str, valid: (i64, i64)) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = params(kind, name, valid);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&key, &self.ca).unwrap();
        let files = TlsFiles::of_node(&self.dir, file);
        let aside = files.key.with_extension("new");
        std::fs::write(&aside, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&aside, &files.key).unwrap();
        std::fs::write(&files.cert, signed.pem()).unwrap();
        files
    }

    /// A node's certificate that is valid now.
    pub fn node(&self, name: &str) -> TlsFiles {
        self.issue(name, "node", name, (-1, 30))
    }
}
