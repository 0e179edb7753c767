//! The activity log: which 4 MiB extents may differ between replicas after a crash.
//!
//! An extent is *hot* once the log that names it is durable; only then may a write touch it. It leaves only
//! when the engine has made sure that no replica can differ there, or that the difference is in a durable
//! bitmap. Payload of its block: u32 count, then u32 extent numbers in order.

use super::block::PAYLOAD_BYTES;
use std::collections::BTreeMap;

/// Magic of an activity-log block.
pub const MAGIC: [u8; 8] = *b"BATONAL1";
/// Extents that fit in one block: about 4 GiB of working set.
pub const CAPACITY: usize = (PAYLOAD_BYTES - 4) / 4;
/// Above this the log is cleaned, so that writes to cold extents need not wait for it.
pub const HIGH_WATER: usize = CAPACITY / 4 * 3;

/// How far an extent's entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heat {
    /// To be written with the next transaction.
    Queued,
    /// In the transaction on its way.
    Writing,
    /// Durable.
    Hot,
}

/// One extent's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// How far its entry is.
    pub heat: Heat,
    /// Sequence number of the last write in it.
    pub last_seq: u64,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityLog {
    entries: BTreeMap<u32, Entry>,
    /// Number of the last update written.
    pub sequence: u64,
}

impl ActivityLog {
    /// The log found on disk.
    #[must_use]
    pub fn from_disk(extents: &[u32], sequence: u64) -> Self {
        let entries = extents.iter().map(|e| (*e, Entry { heat: Heat::Hot, last_seq: 0 })).collect();
        Self { entries, sequence }
    }

    /// All extents are hot.
    #[must_use]
    pub fn is_hot(&self, mut extents: impl Iterator<Item = u32>) -> bool {
        extents.all(|e| self.entries.get(&e).is_some_and(|entry| entry.heat == Heat::Hot))
    }

    /// Asks for entries. `None`: there is no room, clean first. `Some(true)`: something must be written.
    pub fn activate(&mut self, extents: impl Iterator<Item = u32>) -> Option<bool> {
        let missing: Vec<u32> = extents.filter(|e| !self.entries.contains_key(e)).collect();
        if self.entries.len() + missing.len() > CAPACITY {
            return None;
        }
        for extent in &missing {
            self.entries.insert(*extent, Entry { heat: Heat::Queued, last_seq: 0 });
        }
        Some(!missing.is_empty())
    }

    /// Notes a write with sequence number `seq`.
    pub fn touch(&mut self, extents: impl Iterator<Item = u32>, seq: u64) {
        for extent in extents {
            if let Some(entry) = self.entries.get_mut(&extent) {
                entry.last_seq = entry.last_seq.max(seq);
            }
        }
    }

    /// Takes an extent out.
    pub fn remove(&mut self, extent: u32) {
        self.entries.remove(&extent);
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// The extents, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        self.entries.iter().map(|(extent, entry)| (*extent, *entry))
    }

    /// Number of extents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is logged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The payload to write now; its queued entries become hot with [`Self::written`].
    pub fn begin_write(&mut self) -> Vec<u8> {
        self.sequence += 1;
        for entry in self.entries.values_mut().filter(|e| e.heat == Heat::Queued) {
            entry.heat = Heat::Writing;
        }
        self.encode()
    }

    /// What [`Self::begin_write`] gave is durable.
    pub fn written(&mut self) {
        for entry in self.entries.values_mut().filter(|e| e.heat == Heat::Writing) {
            entry.heat = Heat::Hot;
        }
    }

    /// The payload of the log as it is.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + 4 * self.entries.len());
        out.extend((self.entries.len() as u32).to_le_bytes());
        for extent in self.entries.keys() {
            out.extend(extent.to_le_bytes());
        }
        out
    }

    /// Reads a payload; none if it makes no sense.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Vec<u32>> {
        let (words, rest) = payload.as_chunks::<4>();
        let (count, extents) = words.split_first()?;
        let extents: Vec<u32> = extents.iter().map(|w| u32::from_le_bytes(*w)).collect();
        let whole = rest.is_empty() && u32::from_le_bytes(*count) as usize == extents.len();
        (whole && extents.is_sorted()).then_some(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_is_hot_only_after_the_log_that_names_it_is_durable() {
        let mut log = ActivityLog::default();
        assert_eq!(log.activate([1, 2].into_iter()), Some(true));
        assert!(!log.is_hot([1].into_iter()));
        log.begin_write();
        assert_eq!(log.activate([3].into_iter()), Some(true), "asked for while a write is on its way");
        assert!(!log.is_hot([1].into_iter()));
        log.written();
        assert!(log.is_hot([1, 2].into_iter()) && !log.is_hot([3].into_iter()), "3 was not in that write");
        assert_eq!(log.activate([1].into_iter()), Some(false));
    }

    #[test]
    fn a_full_log_takes_nothing_and_says_so() {
        let mut log = ActivityLog::default();
        assert_eq!(log.activate(0..CAPACITY as u32), Some(true));
        assert_eq!(log.activate([5_000].into_iter()), None);
        assert_eq!(log.len(), CAPACITY);
        let payload = log.begin_write();
        assert!(payload.len() <= PAYLOAD_BYTES);
        assert_eq!(ActivityLog::decode(&payload).map(|e| e.len()), Some(CAPACITY));
    }

    #[test]
    fn nonsense_is_not_a_log() {
        assert_eq!(ActivityLog::decode(&[]), None);
        assert_eq!(ActivityLog::decode(&[2, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(ActivityLog::decode(&[0, 0, 0, 0]), Some(vec![]));
    }
}
