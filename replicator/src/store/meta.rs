//! The metadata file.
use super::{Completion, StoreError};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;

/// An open metadata file with its thread. Commands are carried out in order; each is durable when it completes.
/// After a failed one nothing is written any more ([`StoreError::Poisoned`]).
pub struct MetaFile;

impl MetaFile {
    /// Creates the file with `len` zero bytes and `initial` content, all allocated, atomically and durably.
    ///
    /// # Errors
    /// It exists already or cannot be made.
    pub fn create(path: &Path, len: u64, initial: &[(u64, Bytes)]) -> Result<(), StoreError> {
        let _ = (path, len, initial);
        unimplemented!("follows")
    }

    /// Opens and locks the file, reads all of it and starts its thread.
    ///
    /// # Errors
    /// Absent, unreadable or locked by another process.
    pub fn open(
        path: &Path,
        sink: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<(Self, Vec<u8>), StoreError> {
        let _ = (path, sink);
        unimplemented!("follows")
    }

    /// Hands in writes (offset, bytes) that become durable together: all writes, then one fdatasync, then the
    /// completion. Never blocks. Not atomic in a power cut: the caller's formats must notice torn blocks.
    pub fn submit(&self, tag: u64, writes: Vec<(u64, Bytes)>) {
        let _ = (tag, writes);
    }

    /// Finishes what was submitted and unlocks; false if it still hangs after `limit`.
    pub fn close(&self, limit: Duration) -> bool {
        let _ = limit;
        unimplemented!("follows")
    }
}
