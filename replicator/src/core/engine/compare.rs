//! A resync that compares before it copies.
//!
//! After a crash every extent of the activity log is dirty in full, 1024 blocks each, of which few or none differ. What
//! is dirty in whole extents is therefore compared first: the source asks for the target's digests, block by block, and
//! copies only what differs. The question is put like that of a verify: while the range is locked here, behind everything
//! older that overlaps and before everything younger, so both sides see the same moment of it, however busy it is. What
//! is the same counts as copied: its bits go with the next checkpoint, when the target has *flushed*.
//!
//! It costs both sides a read and saves the network and a write. Where most of it differs, after a database was filled
//! for example, it does not pay and ends by itself. A full sync does not compare: its target has nothing to compare with.

use super::io::{Origin, Work};
use super::peer::{Link, Peer};
use super::verify::differing;
use super::{Engine, SessionId};
use crate::core::digest::DIGEST_BYTES;
use crate::core::frame::{PROTOCOL_COMPARE, Sync};
use crate::core::meta::{BLOCK_BYTES, Bitmap, EXTENT_BYTES};
use crate::core::range::Range;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// Compared before it is judged whether it pays: two extents.
const TRIAL: u64 = 2 * EXTENT_BYTES;

/// The comparing part of a resync.
#[derive(Clone, Debug, Default)]
pub(super) struct Compare {
    enabled: bool,
    /// The extent looked at last, and whether it was dirty in full when the resync came to it.
    extent: Option<(u64, bool)>,
    asks: BTreeMap<u64, Ask>,
    /// To be copied.
    differ: VecDeque<Range>,
    compared: u64,
    /// Bytes that were the same.
    pub spared: u64,
}

/// A question and what is known of its answer.
#[derive(Clone, Debug)]
struct Ask {
    range: Range,
    here: Option<Bytes>,
    there: Option<Bytes>,
}

impl Compare {
    pub fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// Questions under way.
    pub fn asked(&self) -> usize {
        self.asks.len()
    }

    /// The next run that differs and is not copied yet.
    pub fn differs(&self) -> Option<Range> {
        self.differ.front().copied()
    }

    /// That one is being copied.
    pub fn taken(&mut self) {
        self.differ.pop_front();
    }

    /// Whether `run` is to be compared first.
    pub fn wants(&mut self, run: Range, dirty: &Bitmap) -> bool {
        if !self.enabled || self.compared >= TRIAL && self.spared * 2 < self.compared {
            return false;
        }
        let extent = run.start / EXTENT_BYTES;
        if self.extent.is_none_or(|(last, _)| last != extent) {
            let start = extent * EXTENT_BYTES;
            self.extent = Some((extent, dirty.is_full(Range { start, end: start + EXTENT_BYTES })));
        }
        self.extent.is_some_and(|(_, full)| full)
    }
}

impl Peer {
    /// It answers questions during a resync, and has something to compare with.
    pub fn compares(&self) -> bool {
        let has_data = match self.sync {
            Sync::Nothing | Sync::CatchUp | Sync::Bitmap => true,
            Sync::Full(_) => false,
        };
        has_data && self.protocol >= PROTOCOL_COMPARE && !self.compares_not
    }
}

impl Engine {
    /// Puts a question.
    pub(super) fn compare(&mut self, peer: usize, session: SessionId, range: Range) {
        let id = self.enqueue(range, Work::Digest { by_block: true }, Origin::Verify { peer, session });
        if let Some(resync) = self.peers[peer].resync.as_mut() {
            resync.compare.asks.insert(id, Ask { range, here: None, there: None });
        }
    }

    /// The local answer. False: it is none of these questions.
    pub(super) fn compared_here(&mut self, peer: usize, id: u64, digests: &Bytes) -> bool {
        let Some(resync) = self.peers[peer].resync.as_mut() else { return false };
        let Some(ask) = resync.compare.asks.get_mut(&id) else { return false };
        ask.here = Some(digests.clone());
        self.judge_compared(peer, id);
        true
    }

    /// The target's answer. False if it makes no sense.
    pub(super) fn compared_there(&mut self, peer: usize, id: u64, digests: Bytes) -> bool {
        debug_assert_eq!(self.peers[peer].link, Link::Syncing);
        let Some(resync) = self.peers[peer].resync.as_mut() else { return false };
        let Some(ask) = resync.compare.asks.get_mut(&id) else { return false };
        let count = ask.range.bytes() / BLOCK_BYTES;
        if ask.there.is_some() || digests.len() as u64 != count * DIGEST_BYTES as u64 {
            return false;
        }
        ask.there = Some(digests);
        self.judge_compared(peer, id);
        true
    }

    /// Both answers are there: the same, or to be copied.
    fn judge_compared(&mut self, peer: usize, id: u64) {
        let now = self.now;
        let p = &mut self.peers[peer];
        let Some(resync) = p.resync.as_mut() else { return };
        let Some(Ask { range, here: Some(here), there: Some(there) }) = resync.compare.asks.get(&id).cloned()
        else {
            return;
        };
        resync.compare.asks.remove(&id);
        resync.compare.compared += range.bytes();
        resync.moves(now);
        let mut same_from = range.start;
        let differ = differing(range, true, &here, &there);
        let end = Range { start: range.end, end: range.end };
        for run in differ.iter().chain([&end]) {
            if same_from < run.start {
                let same = Range { start: same_from, end: run.start };
                resync.achieved(same, now);
                resync.compare.spared += same.bytes();
                p.spared_bytes += same.bytes();
            }
            same_from = run.end;
        }
        resync.compare.differ.extend(differ);
    }
}
