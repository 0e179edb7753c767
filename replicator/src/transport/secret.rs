//! The cluster secret: one file per node, the same content on all, readable by its owner only.
//!
//! Invariants: the secret is never printed or sent; comparisons take constant time.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shortest secret: as long as the output of the HMAC.
pub const MIN_LEN: usize = 32;
/// Longest secret: a bound on what is read, well above any sensible key.
const MAX_LEN: u64 = 4096;

/// The secret that all nodes of a cluster share. Never printed.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

/// Why a secret was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "the secret file {path} has mode {mode:04o}: group or others may use it. Run: chmod 600 {path}",
        path = .path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It could be guessed, or is no key.
    #[error("the secret has {len} bytes; 32 to 4096 are needed, e.g. from: openssl rand -hex 32")]
    Length {
        /// Its length.
        len: usize,
    },
}

impl Secret {
    /// Reads the secret from a file that only its owner can read; white space at the end does not count.
    ///
    /// # Errors
    /// Unreadable, readable by group or others, or shorter than 32 bytes.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let fail = |source| SecretError::Io { path: path.into(), source };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(fail(io::Error::other("not a regular file")));
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::TooOpen { path: path.into(), mode });
        }
        let mut content = Vec::new();
        file.take(MAX_LEN + 1).read_to_end(&mut content).map_err(fail)?;
        Self::new(content.trim_ascii_end())
    }

    /// Wraps bytes.
    ///
    /// # Errors
    /// Shorter than 32 bytes or longer than 4096.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        let bytes = bytes.as_ref();
        if bytes.len() < MIN_LEN || bytes.len() as u64 > MAX_LEN {
            return Err(SecretError::Length { len: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// HMAC-SHA256 over a label and parts, each with its length before it.
    #[must_use]
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.keyed(label, parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is right, in constant time.
    #[must_use]
    pub fn verify(&self, label: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.keyed(label, parts).verify_slice(mac).is_ok()
    }

    fn keyed(&self, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in [label.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn loads_only_a_private_file_of_some_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(Secret::load(&path).unwrap_err().to_string().contains(path.to_str().unwrap()));
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        for mode in [0o644, 0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Secret::load(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let secret = Secret::load(&path).unwrap();
        assert_eq!(
            secret.mac("l", &[b"x"]),
            Secret::new(b"0123456789abcdef0123456789abcdef").unwrap().mac("l", &[b"x"])
        );
        std::fs::write(&path, "0123456789abcdef0123456789abcde\n").unwrap();
        assert!(matches!(Secret::load(&path), Err(SecretError::Length { len: 31 })));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn a_mac_binds_label_and_the_border_between_parts() {
        let secret = Secret::new([7; 32]).unwrap();
        let mac = secret.mac("a", &[b"bc", b"d"]);
        assert!(secret.verify("a", &[b"bc", b"d"], &mac));
        assert!(!secret.verify("a", &[b"b", b"cd"], &mac));
        assert!(!secret.verify("ab", &[b"c", b"d"], &mac));
        assert!(!secret.verify("a", &[b"bc", b"d"], &mac[..31]));
        assert!(!Secret::new([8; 32]).unwrap().verify("a", &[b"bc", b"d"], &mac));
    }
}
