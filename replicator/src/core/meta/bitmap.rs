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

/// Words without a bit. Large ones cost no memory before they are written to: the kernel has them all on one page.
fn zeroes(size: u64) -> Vec<u64> {
    vec![0; size.div_ceil(BLOCK_BYTES).div_ceil(64) as usize]
}

/// The bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Decides where its pages are.
    size: u64,
    /// No bit is set at or behind this byte.
    end: u64,
    words: Vec<u64>,
    set: u64,
    unsaved: BTreeSet<u32>,
}

impl Bitmap {
    /// No bit set, for a volume of `size` bytes (a multiple of 4096).
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, end: size, words: zeroes(size), set: 0, unsaved: BTreeSet::new() }
    }

    fn blocks(&self) -> u64 {
        self.end.div_ceil(BLOCK_BYTES)
    }

    /// From now on only blocks before `end` are marked; bits behind it are cleared.
    pub fn set_end(&mut self, end: u64) {
        let end = end.min(self.size);
        if end < self.end {
            self.change(end.div_ceil(BLOCK_BYTES)..self.blocks(), false);
        }
        self.end = end;
    }

    /// Makes room for a volume of `size` bytes. All its pages are somewhere else then and must be written; the end stays.
    pub fn grow(&mut self, size: u64) {
        assert!(size >= self.size, "a bitmap never shrinks");
        self.size = size;
        self.words.resize(size.div_ceil(BLOCK_BYTES).div_ceil(64) as usize, 0);
    }

    /// All pages have been written.
    pub fn saved(&mut self) {
        self.unsaved.clear();
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

    /// Clears all bits, and gives their memory back.
    pub fn clear_all(&mut self) {
        if self.set > 0 {
            self.change(0..self.blocks(), false);
            self.words = zeroes(self.size);
        }
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
        let end = range.end.min(self.end);
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

    /// The same for several, in ascending order. Neighbours are one write: a whole bitmap in one piece of memory is one that
    /// the allocator gives back when it is freed.
    pub fn save_all(&mut self, slot: usize, pages: &[u32]) -> Vec<Write> {
        self.unsaved.retain(|page| pages.binary_search(page).is_err());
        pages.chunk_by(|a, b| a + 1 == *b).map(|run| self.run(slot, run[0], run.len())).collect()
    }

    /// All pages, for a slot that is used for the first time.
    #[must_use]
    pub fn all_pages(&self, slot: usize) -> Vec<Write> {
        vec![self.run(slot, 0, pages(self.size) as usize)]
    }

    fn page(&self, slot: usize, page: u32) -> Write {
        self.run(slot, page, 1)
    }

    /// So many pages from `first` on.
    fn run(&self, slot: usize, first: u32, count: usize) -> Write {
        let mut bytes = Vec::with_capacity(count * block::BLOCK);
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        for page in (first..).take(count) {
            let from = page as usize * (PAYLOAD_BYTES / 8);
            let words = &self.words[from..self.words.len().min(from + PAYLOAD_BYTES / 8)];
            payload.clear();
            payload.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            let index = (page_at(self.size, slot, page) / BLOCK_BYTES) as u32;
            block::encode_into(&mut bytes, MAGIC, 0, index, &payload);
        }
        (page_at(self.size, slot, first), bytes.into())
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
                    // A word that stays as it is takes no memory.
                    let set = words.iter().enumerate().filter(|(_, b)| **b != [0; 8]);
                    set.for_each(|(at, b)| map.words[from + at] = u64::from_le_bytes(*b));
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
        map.mark(Range { start: PAGE_BITS * 4096, end: SIZE });
        let writes = map.save_all(3, &[0, 1, 2]);
        assert!(map.unsaved(None).is_empty());
        assert_eq!(writes, map.all_pages(3), "one write");
        assert_eq!(writes[0].1.len(), 3 * block::BLOCK);
        assert_eq!(writes[0].1[block::BLOCK..2 * block::BLOCK], map.save(3, 1).1, "page by page the same");
        let apart: Vec<u64> = map.save_all(3, &[0, 2]).iter().map(|w| w.0).collect();
        assert_eq!(apart, [page_at(SIZE, 3, 0), page_at(SIZE, 3, 2)]);
    }

    #[test]
    fn nothing_is_marked_behind_the_end_and_what_was_is_cleared() {
        let mut map = Bitmap::new(SIZE);
        map.mark_all();
        let end = 10 << 20;
        map.set_end(end);
        assert_eq!(map.dirty_bytes(), end);
        map.mark(Range { start: end - 4096, end: end + (4 << 20) });
        map.mark_all();
        assert_eq!((map.dirty_bytes(), map.is_full(Range { start: 0, end: SIZE })), (end, true));
        assert_eq!(map.runs(u64::MAX).last().map(|run| run.end), Some(end));
        map.set_end(SIZE);
        assert_eq!(map.dirty_bytes(), end, "what comes to it is clean");
    }

    #[test]
    fn a_bitmap_that_grows_keeps_its_bits_and_its_end() {
        let mut map = Bitmap::new(SIZE);
        map.mark(Range { start: SIZE - 8192, end: SIZE });
        let large = SIZE * 4;
        map.grow(large);
        assert_eq!(map.dirty_bytes(), 8192);
        map.mark(Range { start: SIZE, end: large });
        assert_eq!(map.dirty_bytes(), 8192, "the end stays");
        let mut file = vec![0; file_bytes(large) as usize];
        for (offset, bytes) in map.all_pages(2) {
            file[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        let (loaded, alarms) = Bitmap::load(large, 2, &file);
        assert_eq!((loaded.dirty_bytes(), alarms), (8192, vec![]));
        map.saved();
        assert!(map.unsaved(None).is_empty());
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
