//! The metadata of one replica, as a file beside its backing store.
//!
//! ```text
//! offset   content                            blocks of 4 KiB
//!      0   superblock   pair 0: copy A, copy B; pair 1: copy A, copy B
//!  16384   activity log pair 0: copy A, copy B; pair 1: copy A, copy B
//!  32768   dirty bitmap of peer slot 0, pages 0..P; of slot 1, …; of slot 7   (P = pages per peer)
//! ```
//!
//! Every block carries magic, format version, length, its own index, a sequence number and a CRC32C
//! ([`block`]). Superblock and activity log are rewritten as a whole into alternating pairs ([`pair`]): a torn
//! update leaves the pair before it intact, and a flipped bit in one copy is mended from its twin. A bitmap page
//! is rewritten in place: one that does not verify counts as all dirty, which costs time and loses nothing.
//!
//! A volume that grows needs larger bitmaps, so all slots move: a whole new file is made aside and takes the old one's
//! place by its name ([`image::whole`]). A crash leaves the old file or the new one.
//!
//! Whoever writes several of these in one transaction gets them durable together but in no order; what must
//! come first needs a transaction of its own ([`super::engine`] queues them).

pub mod actlog;
pub mod bitmap;
pub mod block;
pub mod image;
pub mod pair;
pub mod superblock;
#[cfg(test)]
mod torn;

pub use actlog::ActivityLog;
pub use bitmap::Bitmap;
pub use image::{Loaded, MetaError};
pub use superblock::{PeerSlot, Superblock};

/// Bytes that one bit of a dirty bitmap stands for.
pub const BLOCK_BYTES: u64 = 4096;
/// Bytes of an activity-log extent (DRBD's choice: one log update per 4 MiB touched, 1024 bits to resync).
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Most peers a volume can have: bounds the file's size and the superblock's.
pub const MAX_PEERS: usize = 8;
/// Largest volume: extent numbers are 32 bits and the bitmap must fit in memory (128 MiB per peer).
pub const MAX_VOLUME_BYTES: u64 = 4 << 40;

/// Where the superblock's pairs begin.
pub const SUPERBLOCK_AT: u64 = 0;
/// Where the activity log's pairs begin.
pub const ACTLOG_AT: u64 = 16384;
/// Where the bitmaps begin.
pub const BITMAP_AT: u64 = 32768;

/// Bytes to write at an offset of the metadata file.
pub type Write = (u64, bytes::Bytes);

/// A volume can have this size.
#[must_use]
pub fn is_size(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES) && bytes <= MAX_VOLUME_BYTES
}

/// Bitmap pages per peer for a volume of `size` bytes.
#[must_use]
pub fn pages(size: u64) -> u32 {
    let bits_per_page = (block::PAYLOAD_BYTES as u64) * 8;
    u32::try_from(size.div_ceil(BLOCK_BYTES).div_ceil(bits_per_page)).unwrap_or(u32::MAX)
}

/// Offset of a bitmap page.
#[must_use]
pub fn page_at(size: u64, slot: usize, page: u32) -> u64 {
    BITMAP_AT + (slot as u64 * u64::from(pages(size)) + u64::from(page)) * BLOCK_BYTES
}

/// Length of the metadata file of a volume of `size` bytes.
#[must_use]
pub fn file_bytes(size: u64) -> u64 {
    page_at(size, MAX_PEERS, 0)
}
