//! What keeps the bytes: the backing store of a volume and its metadata file.
//!
//! Both take commands with a tag and report each completion, with its tag, to a sink, from their own threads.
//! They never decide anything: an error is reported as it came, with path and operation.
//!
//! Invariants: a write is complete or an error, never short; requests that overlap are carried out in the order
//! in which they were submitted; two processes never have the same store open (advisory lock). If the process
//! dies, what was reported as flushed is durable and anything else may or may not be.

mod aio;
mod backing;
mod buffer;
pub mod keep;
mod meta;
mod op;
mod snapshot;

pub use backing::BackingStore;
pub use buffer::AlignedBuf;
pub use meta::MetaFile;
pub use op::StoreOp;
pub use snapshot::Snapshot;

use bytes::Bytes;
use std::path::PathBuf;

/// Offsets and lengths of a backing store are multiples of this: the bitmap's granularity, the device's
/// logical block, and enough for O_DIRECT on every disk.
pub const BLOCK: u64 = 4096;

/// The end of a submitted command.
#[derive(Debug)]
pub struct Completion {
    /// The tag it was submitted with.
    pub tag: u64,
    /// Data for a read, none for everything else.
    pub result: Result<Option<Bytes>, StoreError>,
}

/// What failed, on which file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An operating system call failed.
    #[error("cannot {op} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, with offset and length where there is one.
        op: String,
        /// The file or device.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process", path = .path.display())]
    Locked {
        /// The file or device.
        path: PathBuf,
    },
    /// The size is not the volume's.
    #[error("{path} has {found} bytes, the volume {wanted}", path = .path.display())]
    Size {
        /// The file or device.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The volume's size.
        wanted: u64,
    },
    /// A request outside the volume or not in whole blocks: the caller's mistake.
    #[error("{op} of {path} is not in whole blocks within the volume", path = .path.display())]
    BadRange {
        /// What was asked.
        op: String,
        /// The file or device.
        path: PathBuf,
    },
    /// An earlier metadata write failed, so its content on disk is not known any more.
    #[error("{path} is not written any more after: {first}", path = .path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The first error.
        first: String,
    },
    /// The store was closed first.
    #[error("{path} was closed", path = .path.display())]
    Closed {
        /// The file or device.
        path: PathBuf,
    },
}

impl StoreError {
    /// The operating system's error number; EIO where there is none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Locked { .. } => libc::EBUSY,
            Self::Size { .. } | Self::BadRange { .. } => libc::EINVAL,
            Self::Poisoned { .. } | Self::Closed { .. } => libc::EIO,
        }
    }
}
