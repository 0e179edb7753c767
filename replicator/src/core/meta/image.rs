//! A whole metadata file: creating one, and reading one back after any kind of stop.

use super::pair::{self, PairError};
use super::superblock::{BadSuperblock, Superblock};
use super::{
    ACTLOG_AT, ActivityLog, BITMAP_AT, Bitmap, EXTENT_BYTES, MAX_PEERS, SUPERBLOCK_AT, Write, actlog,
    superblock,
};
use crate::types::{NodeName, VolumeName};

/// The metadata cannot be used. Nothing is changed; the replica is not attached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MetaError {
    /// No trustworthy copy.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// A valid block with impossible content.
    #[error("block 0 at offset 0: {0}")]
    Superblock(#[from] BadSuperblock),
    /// A valid activity log with impossible content.
    #[error("block 4 at offset {ACTLOG_AT}: the activity log makes no sense")]
    ActivityLog,
    /// It belongs to something else.
    #[error("the metadata belongs to volume {volume} on {node}, {size} bytes, not to the one asked for")]
    Foreign {
        /// Volume named in it.
        volume: VolumeName,
        /// Node named in it.
        node: NodeName,
        /// Size named in it.
        size: u64,
    },
    /// More peers than slots.
    #[error("a volume can have at most {MAX_PEERS} peers")]
    TooManyPeers,
    /// The size is zero, not a multiple of 4096 or too large.
    #[error("{0} bytes is not a size a volume can have: a multiple of 4096, at most 4 TiB")]
    Size(u64),
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The superblock.
    pub superblock: Superblock,
    /// Number of its last update.
    pub superblock_sequence: u64,
    /// The log.
    pub log: ActivityLog,
    /// Bitmap of each used slot.
    pub bitmaps: Vec<(usize, Bitmap)>,
    /// Writes that mend damaged copies.
    pub repairs: Vec<Write>,
    /// What was found damaged.
    pub alarms: Vec<String>,
}

/// The writes that create the metadata of a replica.
#[must_use]
pub fn create(superblock: &Superblock) -> Vec<Write> {
    let mut writes = Vec::new();
    for slot in 0..MAX_PEERS {
        if superblock.peers[slot].is_some() {
            writes.extend(Bitmap::new(superblock.size).all_pages(slot));
        }
    }
    writes.extend(pair::create(actlog::MAGIC, ACTLOG_AT, &ActivityLog::default().encode()));
    writes.extend(pair::create(superblock::MAGIC, SUPERBLOCK_AT, &superblock.encode()));
    writes
}

/// The writes that make a whole metadata file of what is in memory, for a file that takes the place of the present one.
/// Both pairs of each record are written, from its present number on; the last numbers are returned.
#[must_use]
pub fn whole<'a>(
    superblock: (&Superblock, u64),
    log: (&[u8], u64),
    bitmaps: impl Iterator<Item = (usize, &'a Bitmap)>,
) -> (Vec<Write>, u64, u64) {
    let mut writes: Vec<Write> = bitmaps.flat_map(|(slot, bitmap)| bitmap.all_pages(slot)).collect();
    let payload = superblock.0.encode();
    for number in [superblock.1, superblock.1 + 1] {
        writes.extend(pair::update(superblock::MAGIC, SUPERBLOCK_AT, number, &payload));
    }
    for number in [log.1, log.1 + 1] {
        writes.extend(pair::update(actlog::MAGIC, ACTLOG_AT, number, log.0));
    }
    (writes, superblock.1 + 1, log.1 + 1)
}

/// What the replica can hold, by its metadata file.
///
/// # Errors
/// [`MetaError`] if the superblock cannot be trusted.
pub fn size(file: &[u8]) -> Result<u64, MetaError> {
    let region = file.get(..file.len().min(ACTLOG_AT as usize)).unwrap_or(&[]);
    let newest = pair::load(superblock::MAGIC, "superblock", SUPERBLOCK_AT, region)?;
    Ok(Superblock::decode(&newest.payload)?.size)
}

/// Reads a metadata file.
///
/// # Errors
/// [`MetaError`] if any of it cannot be trusted.
pub fn load(file: &[u8]) -> Result<Loaded, MetaError> {
    let region = |at: u64, until: u64| file.get(at as usize..file.len().min(until as usize)).unwrap_or(&[]);
    let sb = pair::load(superblock::MAGIC, "superblock", SUPERBLOCK_AT, region(SUPERBLOCK_AT, ACTLOG_AT))?;
    let al = pair::load(actlog::MAGIC, "activity log", ACTLOG_AT, region(ACTLOG_AT, BITMAP_AT))?;
    let superblock = Superblock::decode(&sb.payload)?;
    let extents = ActivityLog::decode(&al.payload).ok_or(MetaError::ActivityLog)?;
    let in_volume = |e: &u32| u64::from(*e) * EXTENT_BYTES < superblock.size;
    if !extents.iter().all(in_volume) {
        return Err(MetaError::ActivityLog);
    }
    let mut repairs = sb.repairs;
    repairs.extend(al.repairs);
    let mut alarms = sb.alarms;
    alarms.extend(al.alarms);
    let mut bitmaps = Vec::new();
    for slot in (0..MAX_PEERS).filter(|slot| superblock.peers[*slot].is_some()) {
        let (bitmap, found) = Bitmap::load(superblock.size, slot, file);
        alarms.extend(found);
        bitmaps.push((slot, bitmap));
    }
    let log = ActivityLog::from_disk(&extents, al.sequence);
    Ok(Loaded { superblock, superblock_sequence: sb.sequence, log, bitmaps, repairs, alarms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::meta::{PeerSlot, file_bytes};
    use crate::types::{BootId, Epoch, Generation, TermId};

    fn sample() -> Superblock {
        let mut peers = [const { None }; MAX_PEERS];
        let node = NodeName::new("beta").expect("a name");
        peers[0] = Some(PeerSlot { node, base: Generation(0xaa), tracking: true });
        Superblock {
            volume: VolumeName::new("webstore").expect("a name"),
            node: NodeName::new("alpha").expect("a name"),
            size: 64 << 20,
            offered: 64 << 20,
            behind: false,
            epoch: Epoch { number: 7, term: TermId(0x1122) },
            generation: Generation(0xbb),
            pending: Generation(0xcc),
            history: vec![Generation(0xaa), Generation(0x99)],
            inconsistent: true,
            partial: false,
            boot: BootId(0xb007),
            host_boot: "0f0e-kernel".into(),
            clean: true,
            was_primary: false,
            peers,
            parted: [(0, 0); MAX_PEERS],
            yields: Generation(0),
        }
    }

    fn file() -> Vec<u8> {
        let mut file = vec![0; file_bytes(64 << 20) as usize];
        for (offset, bytes) in create(&sample()) {
            file[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        file
    }

    #[test]
    fn what_was_created_is_read_back() {
        let loaded = load(&file()).expect("loads");
        assert_eq!(loaded.superblock, sample());
        assert!(loaded.log.is_empty() && loaded.alarms.is_empty() && loaded.repairs.is_empty());
        assert_eq!(loaded.bitmaps.len(), 1);
        assert!(loaded.bitmaps[0].1.is_empty());
    }

    /// The format on disk must not change by accident: version 1 is this, byte for byte.
    #[test]
    fn golden_superblock_block() {
        let writes = pair::update(superblock::MAGIC, SUPERBLOCK_AT, 2, &sample().encode());
        assert_eq!(writes.iter().map(|w| w.0).collect::<Vec<_>>(), vec![0, 4096]);
        let hex: String = writes[0].1[..32].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN_HEADER);
        let payload: String = sample().encode().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(payload, GOLDEN_PAYLOAD);
    }
    const GOLDEN_HEADER: &str = "4241544f4e5342310100000073000000020000000000000000000000ed05317f";
    const GOLDEN_PAYLOAD: &str = "0877656273746f726505616c706861000000040000000007000000000000002211000000000000bb00000000000000cc\
         0000000000000007b0000000000000050b306630652d6b65726e656c02aa000000000000009900000000000000010462\
         657461aa000000000000000100000000000000";

    #[test]
    fn every_single_flip_in_superblock_or_log_is_survived_and_reported() {
        let good = file();
        // Every byte of the first 32 KiB would be 32 768 loads of a 64 MiB volume's file: every 7th, and all headers.
        for at in (0..BITMAP_AT as usize).filter(|at| at % 7 == 0 || at % 4096 < 48) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let loaded = load(&bad).unwrap_or_else(|e| panic!("byte {at}: {e}"));
            assert_eq!(loaded.superblock, sample());
            assert_eq!(loaded.alarms.len(), 1, "byte {at}");
        }
    }

    #[test]
    fn a_file_that_is_empty_short_or_zero_is_refused_by_block() {
        for bad in [Vec::new(), vec![0; 100], vec![0; 1 << 20], file()[..4000].to_vec()] {
            let error = load(&bad).expect_err("refused").to_string();
            assert!(error.contains("block 0 at offset 0"), "{error}");
        }
    }

    #[test]
    fn generations_advance_into_history_once() {
        let mut sb = sample();
        sb.advance(Generation(0xdd));
        assert_eq!((sb.generation, sb.pending), (Generation(0xdd), Generation(0)));
        assert_eq!(sb.history[..3], [Generation(0xcc), Generation(0xbb), Generation(0xaa)]);
        sb.advance(Generation(0xdd));
        assert_eq!(sb.history.len(), 4);
    }
}
