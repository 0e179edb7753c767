//! Reading and writing files with keys, certificates and tokens.
//!
//! A private file is refused if group or others may use it, and is written aside with its final mode and renamed: it
//! never stands there readable, and never half-written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Largest file that is read here: a bundle of some twenty certificates, or the cached tokens of a cluster.
const MAX_LEN: u64 = 256 << 10;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Reading or writing failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error("{} has mode {mode:04o}: group or others may use it. Run: chmod 600 {}", path.display(), path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no key, certificate or token.
    #[error("{} is larger than {} KiB: that is no key, certificate or token", path.display(), MAX_LEN >> 10)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Nothing is there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { doing, path: path.clone(), source }
}

/// Reads a file that anybody may read.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let fail = io_error("read", path);
    read_open(path, File::open(path).map_err(fail)?)
}

/// Reads a file that only its owner may use.
///
/// # Errors
/// [`FileError::TooOpen`] if its mode is wider than 0600 (0400 is good, too).
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    let fail = io_error("read", path);
    let file = File::open(path).map_err(&fail)?;
    let metadata = file.metadata().map_err(&fail)?;
    if !metadata.is_file() {
        return Err(fail(io::Error::other("not a regular file")));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.into(), mode });
    }
    read_open(path, file)
}

fn read_open(path: &Path, file: File) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    let length = file.take(MAX_LEN + 1).read_to_end(&mut content).map_err(io_error("read", path))?;
    if length as u64 > MAX_LEN {
        return Err(FileError::TooLong { path: path.into() });
    }
    Ok(content)
}

/// Replaces a file, mode 0600.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o600).map_err(io_error("write", path))
}

/// Replaces a file that anybody may read, mode 0644.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, content, 0o644).map_err(io_error("write", path))
}

fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    // The umask may have taken bits away; nothing may add any.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_written_0600_and_refused_when_wider() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(read_private(&path).unwrap_err().is_missing());
        fs::write(&path, "old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_private(&path).unwrap(), b"new");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_private(&path).unwrap(), b"new");
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn what_is_no_key_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        fs::write(&path, vec![b'x'; 300 << 10]).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLong { .. })));
        assert!(read_private(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
