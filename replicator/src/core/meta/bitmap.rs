//! A peer's dirty bitmap: one bit per 4 KiB that differs, or may differ, from the peer's replica.
//!
//! It lives in memory; its pages are persisted when an activity-log extent they cover is dropped, and at a
//! resync's checkpoints. Setting a bit too many costs a copy; clearing one too early loses data, so bits are
//! cleared only after the peer has *flushed* what they stand for.

use super::block::PAYLOAD_BYTES;
use super::{BLOCK_BYTES, EXTENT_BYTES, Write, block, page_at, pages};
use crate::core::range::Range;
use std::collections::BTreeSet;

/// Magic of a bitmap page.
pub const MAGIC: [u8; 8] = *b"BATONBM1";
const PAGE_BITS: u64 = PAYLOAD_BYTES as u64 * 8;

/// The bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    size: u64,
    words: Vec<u64>,
    set: u64,
    unsaved: BTreeSet<u32>,
}

impl Bitmap {
    /// No bit set, for a volume of `size` bytes (a multiple of 4096).
    #[must_use]
    pub fn new(size: u64) -> Self {
        let blocks = size.div_ceil(BLOCK_BYTES);
        Self { size, words: vec![0; blocks.div_ceil(64) as usize], set: 0, unsaved: BTreeSet::new() }
    }

    fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK_BYTES)
    }

    /// Sets the bits of every block that `range` touches.
    pub fn mark(&mut self, range: Range) {
        self.change(range.blocks(), true);
    }

    /// Clears the bits of the blocks in `range`, which must be aligned to them.
    pub fn clear(&mut self, range: Range) {
        assert!(range.start.is_multiple_of(BLOCK_BYTES) && range.end.is_multiple_of(BLOCK_BYTES));
        self.change(range.blocks(), false);
    }

    /// Sets all bits.
    pub fn mark_all(&mut self) {
        self.change(0..self.blocks(), true);
    }

    /// Clears all bits.
    pub fn clear_all(&mut self) {
        self.change(0..self.blocks(), false);
    }

    fn change(&mut self, blocks: std::ops::Range<u64>, value: bool) {
        let (mut block, end) = (blocks.start, blocks.end.min(self.blocks()));
        while block < end {
            let bits = (end - block).min(64 - block % 64);
            let mask = (u64::MAX >> (64 - bits)) << (block % 64);
            let word = &mut self.words[(block / 64) as usize];
            let changed = if value { mask & !*word } else { mask & *word };
            if changed != 0 {
                *word ^= changed;
                let count = u64::from(changed.count_ones());
                self.set = if value { self.set + count } else { self.set - count };
                // No word straddles two pages: a page holds 508 whole words.
                self.unsaved.insert((block / PAGE_BITS) as u32);
            }
            block += bits;
        }
    }

    /// Bytes marked.
    #[must_use]
    pub fn dirty_bytes(&self) -> u64 {
        self.set * BLOCK_BYTES
    }

    /// Every block of `range`, as far as the volume reaches, is marked.
    #[must_use]
    pub fn is_full(&self, range: Range) -> bool {
        let end = range.end.min(self.size);
        match self.next_run(range.start, end.saturating_sub(range.start)) {
            Some(run) => run.start == range.start && run.end >= end,
            None => false,
        }
    }

    /// No bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set == 0
    }

    /// The first run of marked blocks at or after byte `from`, at most `most` bytes of it.
    #[must_use]
    pub fn next_run(&self, from: u64, most: u64) -> Option<Range> {
        if self.set == 0 {
            return None;
        }
        let blocks = self.blocks();
        let is_set = |b: u64| self.words[(b / 64) as usize] & 1 << (b % 64) != 0;
        let mut first = from.div_ceil(BLOCK_BYTES);
        loop {
            if first >= blocks {
                return None;
            }
            let rest = self.words[(first / 64) as usize] >> (first % 64);
            if rest != 0 {
                first += u64::from(rest.trailing_zeros());
                break;
            }
            first = (first / 64 + 1) * 64;
        }
        let limit = blocks.min(first + (most / BLOCK_BYTES).max(1));
        let mut end = first + 1;
        while end < limit && is_set(end) {
            end += 1;
        }
        Some(Range { start: first * BLOCK_BYTES, end: end * BLOCK_BYTES })
    }

    /// All marked runs, each at most `most` bytes.
    pub fn runs(&self, most: u64) -> impl Iterator<Item = Range> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(from, most)?;
            from = run.end;
            Some(run)
        })
    }

    /// Pages changed since they were last saved, of all or of those that cover `extents`.
    #[must_use]
    pub fn unsaved(&self, extents: Option<&BTreeSet<u32>>) -> Vec<u32> {
        let covers = |page: u32, extent: u32| {
            let bits = Range {
                start: u64::from(extent) * EXTENT_BYTES,
                end: (u64::from(extent) + 1) * EXTENT_BYTES,
            };
            (bits.start / BLOCK_BYTES / PAGE_BITS..=(bits.end / BLOCK_BYTES - 1) / PAGE_BITS)
                .contains(&u64::from(page))
        };
        let wanted = |page: &u32| extents.is_none_or(|all| all.iter().any(|e| covers(*page, *e)));
        self.unsaved.iter().copied().filter(wanted).collect()
    }

    /// The write that persists a page as it is now; the page counts as saved, so a failed write must end in a
    /// failed disk.
    pub fn save(&mut self, slot: usize, page: u32) -> Write {
        self.unsaved.remove(&page);
        self.page(slot, page)
    }

    /// All pages, for a slot that is used for the first time.
    #[must_use]
    pub fn all_pages(&self, slot: usize) -> Vec<Write> {
        (0..pages(self.size)).map(|page| self.page(slot, page)).collect()
    }

    fn page(&self, slot: usize, page: u32) -> Write {
        let from = page as usize * (PAYLOAD_BYTES / 8);
        let words = &self.words[from..self.words.len().min(from + PAYLOAD_BYTES / 8)];
        let payload: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let offset = page_at(self.size, slot, page);
        (offset, block::encode(MAGIC, 0, (offset / BLOCK_BYTES) as u32, &payload))
    }

    /// Reads a slot's pages from the whole metadata file. A page that does not verify counts as all dirty.
    #[must_use]
    pub fn load(size: u64, slot: usize, file: &[u8]) -> (Self, Vec<String>) {
        let mut map = Self::new(size);
        let mut alarms = Vec::new();
        for page in 0..pages(size) {
            let offset = page_at(size, slot, page);
            let from = page as usize * (PAYLOAD_BYTES / 8);
            let until = map.words.len().min(from + PAYLOAD_BYTES / 8);
            let bytes = file.get(offset as usize..offset as usize + block::BLOCK).unwrap_or(&[]);
            match block::decode(MAGIC, (offset / BLOCK_BYTES) as u32, bytes) {
                Ok((_, payload)) if payload.len() == (until - from) * 8 => {
                    let (words, _) = payload.as_chunks::<8>();
                    map.words[from..until]
                        .iter_mut()
                        .zip(words)
                        .for_each(|(w, b)| *w = u64::from_le_bytes(*b));
                }
                bad => {
                    let why = bad.err().map_or_else(|| "has a wrong length".to_owned(), |e| e.to_string());
                    alarms.push(format!(
                        "metadata block {} at offset {offset} (bitmap slot {slot}, page {page}) {why}; all it covers counts as dirty",
                        offset / BLOCK_BYTES
                    ));
                    map.words[from..until].fill(u64::MAX);
                    map.unsaved.insert(page);
                }
            }
        }
        // Bits past the end of the volume are never set by us; a page filled above may have some.
        let spare = map.words.len() as u64 * 64 - map.blocks();
        if spare > 0
            && let Some(last) = map.words.last_mut()
        {
            *last &= u64::MAX >> spare;
        }
        map.set = map.words.iter().map(|w| u64::from(w.count_ones())).sum();
        (map, alarms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::meta::file_bytes;
    use proptest::prelude::*;

    const SIZE: u64 = 300 << 20; // three pages

    fn file(map: &Bitmap, slot: usize) -> Vec<u8> {
        let mut file = vec![0; file_bytes(SIZE) as usize];
        for (offset, bytes) in map.all_pages(slot) {
            file[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        file
    }

    #[test]
    fn a_corrupt_page_counts_as_all_dirty() {
        let mut map = Bitmap::new(SIZE);
        map.mark(Range { start: 8192, end: 8193 });
        let mut file = file(&map, 2);
        let (same, alarms) = Bitmap::load(SIZE, 2, &file);
        assert_eq!((same.dirty_bytes(), alarms.len()), (4096, 0));
        file[page_at(SIZE, 2, 1) as usize + 77] ^= 4;
        let (worse, alarms) = Bitmap::load(SIZE, 2, &file);
        assert_eq!(worse.dirty_bytes(), 4096 + PAGE_BITS * 4096);
        assert!(alarms[0].contains("page 1"), "{alarms:?}");
        file[page_at(SIZE, 2, 2) as usize + 77] ^= 4;
        let (worse, _) = Bitmap::load(SIZE, 2, &file);
        assert_eq!(worse.dirty_bytes(), 4096 + SIZE - PAGE_BITS * 4096, "no bit past the end");
    }

    #[test]
    fn pages_that_cover_an_extent_are_found() {
        let mut map = Bitmap::new(SIZE);
        map.mark(Range { start: 0, end: 1 });
        map.mark(Range { start: SIZE - 1, end: SIZE });
        assert_eq!(map.unsaved(None), vec![0, 2]);
        let last = BTreeSet::from([(SIZE / EXTENT_BYTES - 1) as u32]);
        assert_eq!(map.unsaved(Some(&last)), vec![2]);
        map.save(0, 2);
        assert!(map.unsaved(Some(&last)).is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_blocks(changes in prop::collection::vec((any::<bool>(), 0u64..500, 1u64..90), 0..40)) {
            let mut map = Bitmap::new(600 * 4096);
            let mut model = BTreeSet::new();
            for (mark, first, len) in changes {
                let range = Range { start: first * 4096, end: (first + len) * 4096 };
                if mark { map.mark(range); model.extend(first..first + len) }
                else { map.clear(range); model.retain(|b| !(first..first + len).contains(b)) }
            }
            prop_assert_eq!(map.dirty_bytes(), model.len() as u64 * 4096);
            let blocks: Vec<u64> = map.runs(5 * 4096).flat_map(|r| r.blocks()).collect();
            prop_assert_eq!(&blocks, &model.into_iter().collect::<Vec<_>>());
        }
    }
}
