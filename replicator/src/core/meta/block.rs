//! One self-describing 4 KiB block of metadata.
//!
//! ```text
//!  0  magic, 8 bytes      8  format version, u16     10  zero, u16      12  payload length, u32
//! 16  sequence, u64      24  index of the block in the file, u32        28  CRC32C of all else, u32
//! 32  payload, padded with zeroes                                       (numbers little-endian)
//! ```

use bytes::Bytes;

/// Size of a block.
pub const BLOCK: usize = 4096;
/// Size of the header.
const HEADER: usize = 32;
/// Room for payload.
pub const PAYLOAD_BYTES: usize = BLOCK - HEADER;
/// The format described here. A reader of version n refuses n + 1: it cannot know what it would drop.
pub const VERSION: u16 = 1;

/// Why a block is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Not 4096 bytes.
    #[error("is cut off")]
    Short,
    /// Other magic.
    #[error("is not a block of this kind (bad magic)")]
    Magic,
    /// Checksum mismatch: torn or flipped.
    #[error("does not match its checksum")]
    Checksum,
    /// Valid, but of a newer format.
    #[error("has format version {0}, this program knows {VERSION}")]
    Version(u16),
    /// Valid, but was written for another place.
    #[error("was written for block {0}")]
    Index(u32),
    /// Length field out of bounds.
    #[error("claims a payload of {0} bytes")]
    Length(u32),
}

/// Builds the block with number `index`.
///
/// # Panics
/// If the payload does not fit: sizes are fixed by constants, so that is a bug.
#[must_use]
pub fn encode(magic: [u8; 8], sequence: u64, index: u32, payload: &[u8]) -> Bytes {
    let mut block = Vec::with_capacity(BLOCK);
    encode_into(&mut block, magic, sequence, index, payload);
    block.into()
}

/// The same behind what `out` holds.
pub fn encode_into(out: &mut Vec<u8>, magic: [u8; 8], sequence: u64, index: u32, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES, "payload of {} bytes", payload.len());
    let from = out.len();
    out.resize(from + BLOCK, 0);
    let block = &mut out[from..];
    block[..8].copy_from_slice(&magic);
    block[8..10].copy_from_slice(&VERSION.to_le_bytes());
    block[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    block[16..24].copy_from_slice(&sequence.to_le_bytes());
    block[24..28].copy_from_slice(&index.to_le_bytes());
    block[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    let crc = checksum(block);
    block[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// Verifies a block and returns its sequence number and payload.
///
/// # Errors
/// [`BlockError`] if any part of it is not as written.
pub fn decode(magic: [u8; 8], index: u32, block: &[u8]) -> Result<(u64, &[u8]), BlockError> {
    if block.len() != BLOCK {
        return Err(BlockError::Short);
    }
    if block[..8] != magic {
        return Err(BlockError::Magic);
    }
    let u32_at = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if u32_at(28) != checksum(block) {
        return Err(BlockError::Checksum);
    }
    let version = u16::from_le_bytes([block[8], block[9]]);
    if version != VERSION {
        return Err(BlockError::Version(version));
    }
    if u32_at(24) != index {
        return Err(BlockError::Index(u32_at(24)));
    }
    let len = u32_at(12);
    let payload = block.get(HEADER..HEADER + len as usize).ok_or(BlockError::Length(len))?;
    Ok((u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32, payload))
}

fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&block[..28]), &block[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let block = encode(*b"TESTTEST", 7, 3, b"payload");
        assert_eq!(decode(*b"TESTTEST", 3, &block), Ok((7, b"payload".as_slice())));
        for bit in 0..BLOCK * 8 {
            let mut bad = block.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(*b"TESTTEST", 3, &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_block_in_the_wrong_place_or_of_another_kind_is_refused() {
        let block = encode(*b"TESTTEST", 7, 3, b"payload");
        assert_eq!(decode(*b"TESTTEST", 4, &block), Err(BlockError::Index(3)));
        assert_eq!(decode(*b"OTHEROTH", 3, &block), Err(BlockError::Magic));
        assert_eq!(decode(*b"TESTTEST", 3, &block[..4095]), Err(BlockError::Short));
    }
}
