//! The cluster secret.
use std::path::Path;

/// The secret that all nodes of a cluster share. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why a secret was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Too short.
    #[error("too short")]
    Short,
}

impl Secret {
    /// Reads the secret from a file that only its owner can read; white space at the end does not count.
    ///
    /// # Errors
    /// Unreadable, readable by group or others, or shorter than 32 bytes.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let _ = path;
        unimplemented!("follows")
    }

    /// Wraps bytes.
    ///
    /// # Errors
    /// Shorter than 32 bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, SecretError> {
        Ok(Self(bytes.into()))
    }

    /// HMAC-SHA256 over a label and parts, each with its length before it.
    #[must_use]
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let _ = (&self.0, label, parts);
        unimplemented!("follows")
    }

    /// Whether `mac` is right, in constant time.
    #[must_use]
    pub fn verify(&self, label: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        let _ = (label, parts, mac);
        unimplemented!("follows")
    }
}
