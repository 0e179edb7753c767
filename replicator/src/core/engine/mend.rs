//! A verify that repairs: copying marked blocks to a peer that is connected and stays what it is.
//!
//! First everything that earlier runs marked, in order, then what this one finds. A copy is an operation in the range
//! queue from the read to the send, like a resync's; every one takes the peer's replica from wrong to right, so it
//! needs not be Inconsistent meanwhile. Bits are cleared when the peer has flushed the copy.

use super::io::{Origin, Work};
use super::journal::Transaction;
use super::{Engine, SessionId};
use crate::core::frame::Message;
use crate::core::range::{Range, RangeSet};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// One copy.
const CHUNK: u64 = 128 << 10;
/// Copies under way.
const WINDOW: usize = 4;
/// Found and not yet copied: the comparison waits while there are more.
const QUEUE: usize = 64;
/// Bytes copied between two flushes.
const CHECKPOINT: u64 = 64 << 20;

/// What is being copied to one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Mend {
    wanted: bool,
    /// Where the walk through the marks of earlier runs is; none when it is over.
    marked: Option<u64>,
    queue: VecDeque<Range>,
    reading: usize,
    sending: BTreeMap<u64, Range>,
    /// Acknowledged, not flushed.
    copied: RangeSet,
    copied_bytes: u64,
    flush: Option<(u64, RangeSet)>,
    /// Bytes copied, durably.
    pub repaired: u64,
}

impl Mend {
    pub fn new(wanted: bool) -> Self {
        Self { wanted, marked: wanted.then_some(0), ..Self::default() }
    }

    /// Nothing is to be copied or on its way.
    pub fn is_idle(&self) -> bool {
        self.marked.is_none()
            && self.queue.is_empty()
            && self.reading == 0
            && self.sending.is_empty()
            && self.copied_bytes == 0
            && self.flush.is_none()
    }

    /// The comparison may find more. Marks of earlier runs come first: their blocks would be found again.
    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE && self.marked.is_none()
    }

    pub fn found(&mut self, run: Range) {
        if self.wanted {
            self.queue.push_back(run);
        }
    }

    /// The session was lost, and the resync after it has copied everything that was marked.
    pub fn begin_anew(&mut self, found: u64) {
        *self = Self { wanted: self.wanted, repaired: self.repaired.max(found), ..Self::default() };
    }
}

impl Engine {
    /// Copies the next ones; flushes when there is enough or nothing more.
    pub(super) fn pump_mend(&mut self, run: u64, peer: usize, session: SessionId, mend: &mut Mend) {
        if !mend.wanted {
            return;
        }
        let (now, limits) = (self.now, self.limits());
        while mend.reading + mend.sending.len() < WINDOW {
            let next = match mend.marked {
                Some(from) => self.peers[peer].bitmap.next_run(from, CHUNK),
                None => mend.queue.front().copied(),
            };
            if next.is_none() && mend.marked.take().is_some() {
                continue;
            }
            let Some(range) = next.filter(|r| self.pace.grant(now, &limits, r.bytes())) else { break };
            if mend.marked.is_some() {
                mend.marked = Some(range.end);
            } else {
                mend.queue.pop_front();
            }
            mend.reading += 1;
            self.enqueue(range, Work::Read, Origin::Mend { peer, session, run });
        }
        let pending = mend.reading + mend.sending.len() + mend.queue.len() > 0 || mend.marked.is_some();
        if mend.flush.is_none() && mend.copied_bytes > 0 && (!pending || mend.copied_bytes >= CHECKPOINT) {
            mend.copied_bytes = 0;
            let id = self.next_id();
            let p = &mut self.peers[peer];
            let covered = std::mem::take(&mut p.unflushed);
            p.flushing.insert(id, (covered, now));
            mend.flush = Some((id, std::mem::take(&mut mend.copied)));
            self.send(session, Message::Flush(id));
        }
    }

    /// A block has been read: send it before anything younger can touch it.
    pub(super) fn mend_read(&mut self, peer: usize, session: SessionId, range: Range, data: Bytes) {
        if self.peers[peer].session != Some(session) {
            return;
        }
        self.last_seq += 1;
        let seq = self.last_seq;
        if let Some(mend) = self.mend_of(peer) {
            mend.reading -= 1;
            mend.sending.insert(seq, range);
            self.send_copy(peer, seq, range, data);
        }
    }

    /// The peer has written a copy; one of a run that has ended is only that.
    pub(super) fn mend_acked(&mut self, peer: usize, seq: u64) {
        if let Some(mend) = self.mend_of(peer)
            && let Some(range) = mend.sending.remove(&seq)
        {
            mend.copied.insert(range);
            mend.copied_bytes += range.bytes();
        }
    }

    /// The peer has flushed copies: their bits may go.
    pub(super) fn mend_flushed(&mut self, peer: usize, id: u64) {
        let Some(mend) = self.mend_of(peer) else { return };
        let Some((_, copied)) = mend.flush.take_if(|(flush, _)| *flush == id) else { return };
        mend.repaired += copied.iter().map(Range::bytes).sum::<u64>();
        copied.iter().for_each(|range| self.peers[peer].bitmap.clear(range));
        self.transact(Transaction { pages: true, ..Transaction::default() });
    }
}
