//! Two mirrored pairs of blocks that hold one record, rewritten as a whole.
//!
//! Update n goes to both copies of pair n mod 2, followed by one fdatasync. So
//! * a crash in the middle of update n spoils at most pair n mod 2; the other holds update n - 1 whole;
//! * later damage to one copy is seen by its checksum and mended from its twin, with an alarm;
//! * two valid copies of one update that differ, or no valid copy at all, are refused: nothing is guessed.

use super::block::{self, BLOCK, BlockError};
use super::{BLOCK_BYTES, Write};

/// The record cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PairError {
    /// No copy verifies.
    #[error("no copy of the {what} is valid; the first is block {block} at offset {offset}, which {cause}")]
    NoneValid {
        /// `superblock` or `activity log`.
        what: &'static str,
        /// Number of the record's first block.
        block: u64,
        /// Its offset.
        offset: u64,
        /// What is wrong with it.
        cause: BlockError,
    },
    /// Two valid copies of the same update differ.
    #[error("block {block} at offset {offset} ({what}) and its twin are both valid and differ")]
    Ambiguous {
        /// `superblock` or `activity log`.
        what: &'static str,
        /// Number of the block.
        block: u64,
        /// Its offset.
        offset: u64,
    },
}

/// The newest valid record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Newest {
    /// Its update number.
    pub sequence: u64,
    /// The record.
    pub payload: Vec<u8>,
    /// Writes that restore damaged twins of it.
    pub repairs: Vec<Write>,
    /// What was found damaged, one sentence each.
    pub alarms: Vec<String>,
}

/// The writes of update `sequence` of the record whose pairs begin at `at`.
#[must_use]
pub fn update(magic: [u8; 8], at: u64, sequence: u64, payload: &[u8]) -> Vec<Write> {
    let first = sequence % 2 * 2;
    [first, first + 1].map(|copy| write_of(magic, at, copy, sequence, payload)).to_vec()
}

/// The writes that create the record: every copy valid, so that an invalid one is always a finding.
#[must_use]
pub fn create(magic: [u8; 8], at: u64, payload: &[u8]) -> Vec<Write> {
    let mut writes = update(magic, at, 0, payload);
    writes.extend(update(magic, at, 1, payload));
    writes
}

fn write_of(magic: [u8; 8], at: u64, copy: u64, sequence: u64, payload: &[u8]) -> Write {
    let offset = at + copy * BLOCK_BYTES;
    (offset, block::encode(magic, sequence, index_of(offset), payload))
}

fn index_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_BYTES).unwrap_or(u32::MAX)
}

/// Finds the newest valid record in `region`, the four blocks that begin at offset `at` of the file.
///
/// # Errors
/// [`PairError`] if there is none or it is not clear which.
pub fn load(magic: [u8; 8], what: &'static str, at: u64, region: &[u8]) -> Result<Newest, PairError> {
    let mut valid: Vec<(u64, u64, &[u8])> = Vec::new(); // (sequence, copy, payload)
    let mut invalid: Vec<(u64, BlockError)> = Vec::new();
    for copy in 0..4u64 {
        let from = copy as usize * BLOCK;
        let bytes = region.get(from..from + BLOCK).unwrap_or(&[]);
        match block::decode(magic, index_of(at + copy * BLOCK_BYTES), bytes) {
            // A number of the wrong parity cannot have been written there by us.
            Ok((sequence, payload)) if sequence % 2 == copy / 2 => valid.push((sequence, copy, payload)),
            Ok(_) => invalid.push((copy, BlockError::Magic)),
            Err(cause) => invalid.push((copy, cause)),
        }
    }
    let Some(&(sequence, newest_copy, payload)) = valid.iter().max_by_key(|(sequence, ..)| *sequence) else {
        let cause = invalid.first().map_or(BlockError::Short, |(_, cause)| *cause);
        return Err(PairError::NoneValid { what, block: at / BLOCK_BYTES, offset: at, cause });
    };
    if valid.iter().any(|(s, _, p)| *s == sequence && *p != payload) {
        let offset = at + newest_copy * BLOCK_BYTES;
        return Err(PairError::Ambiguous { what, block: offset / BLOCK_BYTES, offset });
    }
    // The twin may be damaged or, after a crash between the two copies, hold the update before last.
    let twin = newest_copy ^ 1;
    let twin_good = valid.iter().any(|(s, copy, _)| *copy == twin && *s == sequence);
    let repairs = if twin_good { Vec::new() } else { vec![write_of(magic, at, twin, sequence, payload)] };
    let alarms = invalid
        .iter()
        .map(|(copy, cause)| {
            let offset = at + copy * BLOCK_BYTES;
            format!(
                "metadata block {} at offset {offset} ({what}) {cause}; another copy was used",
                offset / BLOCK_BYTES
            )
        })
        .collect();
    Ok(Newest { sequence, payload: payload.to_vec(), repairs, alarms })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"PAIRTEST";

    fn apply(region: &mut [u8], at: u64, writes: &[Write]) {
        for (offset, bytes) in writes {
            let from = (offset - at) as usize;
            region[from..from + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn region() -> Vec<u8> {
        let mut region = vec![0; 4 * BLOCK];
        apply(&mut region, 8192, &create(MAGIC, 8192, b"one"));
        apply(&mut region, 8192, &update(MAGIC, 8192, 2, b"two"));
        region
    }

    #[test]
    fn a_flip_at_any_byte_of_any_copy_still_loads_the_newest_and_is_reported() {
        let good = region();
        assert!(
            load(MAGIC, "superblock", 8192, &good).is_ok_and(|n| n.alarms.is_empty() && n.repairs.is_empty())
        );
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let newest = load(MAGIC, "superblock", 8192, &bad).expect("one flip is survived");
            assert_eq!((newest.sequence, newest.payload.as_slice()), (2, b"two".as_slice()), "byte {at}");
            assert_eq!(newest.alarms.len(), 1, "byte {at}");
            apply(&mut bad, 8192, &newest.repairs);
            if at < 2 * BLOCK {
                assert_eq!(bad, good, "mended, byte {at}");
            }
        }
    }

    #[test]
    fn an_update_torn_at_any_byte_loads_the_one_before_or_itself_whole() {
        let before = region();
        let writes = update(MAGIC, 8192, 3, b"three");
        for torn in 0..2 * BLOCK {
            // Any prefix of the two copies written, the rest as before.
            let mut after = before.clone();
            for (copy, (offset, bytes)) in writes.iter().enumerate() {
                let keep = torn.saturating_sub(copy * BLOCK).min(BLOCK);
                let from = (offset - 8192) as usize;
                after[from..from + keep].copy_from_slice(&bytes[..keep]);
            }
            // And the same written back to front: copy B first.
            let newest = load(MAGIC, "superblock", 8192, &after).expect("a torn update is survived");
            let expected: &[&[u8]] = if torn < BLOCK { &[b"two", b"three"] } else { &[b"three"] };
            assert!(expected.contains(&newest.payload.as_slice()), "torn at {torn}");
        }
    }

    #[test]
    fn both_copies_of_an_update_torn_load_the_one_before() {
        let mut torn = region();
        for (offset, bytes) in update(MAGIC, 8192, 3, b"three") {
            let from = (offset - 8192) as usize;
            torn[from..from + 512].copy_from_slice(&bytes[..512]);
            torn[from + 20] ^= 1;
        }
        let newest = load(MAGIC, "superblock", 8192, &torn).expect("loads");
        assert_eq!((newest.payload.as_slice(), newest.alarms.len()), (b"two".as_slice(), 2));
    }

    #[test]
    fn nothing_valid_or_two_truths_are_refused_by_name() {
        let error = load(MAGIC, "superblock", 8192, &vec![0; 4 * BLOCK]).expect_err("nothing there");
        assert!(error.to_string().contains("block 2 at offset 8192"), "{error}");
        let mut two = region();
        apply(&mut two, 8192, &[write_of(MAGIC, 8192, 1, 2, b"tow")]);
        assert!(matches!(load(MAGIC, "superblock", 8192, &two), Err(PairError::Ambiguous { .. })));
    }
}
