//! Byte ranges, sets of ranges, and the queue that makes overlapping operations run in the order they came.
//!
//! Invariants: a [`RangeSet`] holds disjoint, non-touching, non-empty ranges; in [`Locks`] an operation is
//! granted only when every earlier overlapping one has been released, so there is no deadlock: each waits
//! only for older ones.

use super::meta::{BLOCK_BYTES, EXTENT_BYTES};
use std::collections::BTreeMap;

/// The bytes from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    /// `len` bytes from `offset`; none if that overflows or is empty.
    #[must_use]
    pub fn new(offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (len > 0).then_some(Self { start: offset, end })
    }

    /// Number of bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// They share at least one byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Activity-log extents touched.
    #[must_use]
    pub fn extents(self) -> std::ops::RangeInclusive<u32> {
        let number = |byte: u64| u32::try_from(byte / EXTENT_BYTES).unwrap_or(u32::MAX);
        number(self.start)..=number(self.end - 1)
    }

    /// Bitmap blocks touched.
    #[must_use]
    pub fn blocks(self) -> std::ops::Range<u64> {
        self.start / BLOCK_BYTES..self.end.div_ceil(BLOCK_BYTES)
    }
}

/// A set of bytes as disjoint ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Adds a range, joining it with those it overlaps or touches.
    pub fn insert(&mut self, range: Range) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.0.range(..=start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
            self.0.remove(&s);
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().map(|(&start, &end)| Range { start, end })
    }

    /// Number of disjoint ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No byte is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Lock {
    range: Range,
    waits_for: usize,
    blocks: Vec<u64>,
}

/// First come, first served per overlapping range. Tickets must be taken in ascending order.
#[derive(Debug, Default)]
pub struct Locks(BTreeMap<u64, Lock>);

impl Locks {
    /// Queues `ticket` for `range`; true if it is granted at once.
    ///
    /// # Panics
    /// If the ticket is not newer than every live one: that is a broken invariant of ours.
    pub fn acquire(&mut self, ticket: u64, range: Range) -> bool {
        assert!(self.0.last_key_value().is_none_or(|(&last, _)| last < ticket), "tickets go up");
        let mut waits_for = 0;
        for lock in self.0.values_mut().filter(|l| l.range.overlaps(range)) {
            lock.blocks.push(ticket);
            waits_for += 1;
        }
        self.0.insert(ticket, Lock { range, waits_for, blocks: Vec::new() });
        waits_for == 0
    }

    /// Takes `ticket` out, granted or not, and names those that are granted by it, oldest first.
    pub fn release(&mut self, ticket: u64) -> Vec<u64> {
        let Some(lock) = self.0.remove(&ticket) else { return Vec::new() };
        let mut granted = Vec::new();
        for waiter in lock.blocks {
            if let Some(other) = self.0.get_mut(&waiter) {
                other.waits_for -= 1;
                if other.waits_for == 0 {
                    granted.push(waiter);
                }
            }
        }
        granted
    }

    /// Nothing is queued or running.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, len: u64) -> Range {
        Range::new(offset, len).expect("a range")
    }

    #[test]
    fn a_range_that_overflows_or_is_empty_is_none() {
        assert_eq!(Range::new(u64::MAX, 2), None);
        assert_eq!(Range::new(5, 0), None);
        assert_eq!(range(4095, 2).blocks(), 0..2);
        assert_eq!(range(EXTENT_BYTES - 1, 2).extents(), 0..=1);
    }

    #[test]
    fn overlapping_operations_run_in_order_and_others_do_not_wait() {
        let mut locks = Locks::default();
        assert!(locks.acquire(1, range(0, 10)));
        assert!(!locks.acquire(2, range(5, 10)));
        assert!(!locks.acquire(3, range(0, 20)));
        assert!(locks.acquire(4, range(30, 1)));
        assert_eq!(locks.release(1), vec![2]);
        assert_eq!(locks.release(2), vec![3]);
        assert!(locks.release(3).is_empty() && locks.release(4).is_empty() && locks.is_empty());
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_what_was_inserted(parts in prop::collection::vec((0u64..200, 1u64..20), 0..30)) {
            let mut set = RangeSet::default();
            let mut model = std::collections::BTreeSet::new();
            for (offset, len) in parts {
                set.insert(range(offset, len));
                model.extend(offset..offset + len);
            }
            let mut last = None;
            let mut bytes = Vec::new();
            for r in set.iter() {
                prop_assert!(last.is_none_or(|end| end < r.start), "disjoint and not touching");
                last = Some(r.end);
                bytes.extend(r.start..r.end);
            }
            prop_assert_eq!(bytes, model.into_iter().collect::<Vec<_>>());
        }
    }
}
