//! The commands of a backing store.

use bytes::Bytes;
use std::ops::Range;

/// A range of bytes and whether it is changed.
pub(super) type Touched = (Range<u64>, bool);

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
    /// Completed with the digests of its pieces, see [`crate::core::digest`]: hashed on the store's thread.
    Digest {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u32,
        /// Bytes per digest.
        piece: u32,
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

impl StoreOp {
    /// The bytes it touches and whether it changes them; none for a flush.
    pub(super) fn range(&self) -> Option<Touched> {
        let (offset, len, changes) = match self {
            Self::Read { offset, len } | Self::Digest { offset, len, .. } => {
                (*offset, u64::from(*len), false)
            }
            Self::Write { offset, data } => (*offset, data.len() as u64, true),
            Self::Discard { offset, len } | Self::WriteZeroes { offset, len } => (*offset, *len, true),
            Self::Flush => return None,
        };
        Some((offset..offset.saturating_add(len), changes))
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Digest { .. } => "digest",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Discard { .. } => "discard",
            Self::WriteZeroes { .. } => "zero",
        }
    }

    pub(super) fn describe(&self) -> String {
        match self.range() {
            Some((range, _)) => {
                format!("{} {} bytes at {} of", self.name(), range.end - range.start, range.start)
            }
            None => self.name().to_string(),
        }
    }
}
