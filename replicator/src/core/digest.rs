//! Digests of blocks, for comparing replicas without sending them.
//!
//! BLAKE3 with its full 256 bits: equal digests are taken for equal blocks and nothing else is looked at, so a
//! collision would hide a difference for ever. Whoever may write into the volume chooses the blocks, so the hash must
//! resist that too, which rules out CRCs and xxHash. SHA-256 would do as well; BLAKE3 is several times as fast where
//! the processor has no SHA instructions, and faster than most disks on one core.

use bytes::{Bytes, BytesMut};

/// Length of one digest.
pub const DIGEST_BYTES: usize = 32;

/// The digests of all pieces of `piece` bytes (the last may be shorter), one behind the other.
#[must_use]
pub fn digests(data: &[u8], piece: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len().div_ceil(piece.max(1)) * DIGEST_BYTES);
    for part in data.chunks(piece.max(1)) {
        out.extend_from_slice(blake3::hash(part).as_bytes());
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_per_piece_and_one_flipped_bit_shows_in_its_piece_only() {
        let mut data = vec![7u8; 3 * 4096];
        let before = digests(&data, 4096);
        assert_eq!(before.len(), 3 * DIGEST_BYTES);
        data[5000] ^= 0x10;
        let after = digests(&data, 4096);
        let differs: Vec<bool> =
            before.chunks(DIGEST_BYTES).zip(after.chunks(DIGEST_BYTES)).map(|(a, b)| a != b).collect();
        assert_eq!(differs, [false, true, false]);
        assert_eq!(digests(&data, data.len()).len(), DIGEST_BYTES);
    }

    /// Peers of another version must get the same digests: the published test vector for no input.
    #[test]
    fn golden_digest() {
        let hex: String = blake3::hash(b"").as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert!(digests(b"", 4096).is_empty());
    }
}
