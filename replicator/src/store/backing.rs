//! The backing store.
use super::{Completion, StoreError};
use crate::api::Backing;
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;

/// What a backing store does. Offsets and lengths are multiples of [`super::BLOCK`] within the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOp {
    /// Completed with exactly `len` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Completed when all of it is written (not yet durable).
    Write {
        /// First byte.
        offset: u64,
        /// The data; written without a copy if its address is a multiple of 4096.
        data: Bytes,
    },
    /// Everything completed before it was submitted is durable when it completes.
    Flush,
    /// The range reads as zeroes and its space is given back where that is possible.
    Discard {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The range reads as zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// An open backing store with its threads. Dropping it ends the threads after what they are doing.
pub struct BackingStore;

impl BackingStore {
    /// Whether the file or device exists.
    #[must_use]
    pub fn exists(backing: &Backing) -> bool {
        let _ = backing;
        unimplemented!("follows")
    }

    /// Creates a sparse file of the volume's size, durably; for a device only checks that it is there.
    /// Parent directories are made.
    ///
    /// # Errors
    /// The file exists already or cannot be made; the device is absent or too small.
    pub fn create(backing: &Backing, size_bytes: u64) -> Result<(), StoreError> {
        let _ = (backing, size_bytes);
        unimplemented!("follows")
    }

    /// Opens and locks the store and starts its threads. Completions arrive at `sink` on those threads.
    ///
    /// # Errors
    /// Absent, locked by another process, or of another size than the volume (a device may be larger).
    pub fn open(
        backing: &Backing,
        size_bytes: u64,
        sink: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let _ = (backing, size_bytes, sink);
        unimplemented!("follows")
    }

    /// Hands in a command; never blocks. Its completion arrives at the sink, exactly once.
    pub fn submit(&self, tag: u64, op: StoreOp) {
        let _ = (tag, op);
    }

    /// The ranges that may hold data, sorted, disjoint, in whole blocks; everything else reads as zeroes.
    /// Blocks for a moment (no data is read).
    ///
    /// # Errors
    /// The filesystem cannot be asked.
    pub fn allocated_ranges(&self) -> Result<Vec<Range<u64>>, StoreError> {
        unimplemented!("follows")
    }

    /// Size of the volume in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        unimplemented!("follows")
    }

    /// Refuses new commands, finishes the submitted ones and unlocks. Waits at most `limit`; returns false if a
    /// command still hangs then (the lock stays until it ends).
    pub fn close(&self, limit: Duration) -> bool {
        let _ = limit;
        unimplemented!("follows")
    }
}
