//! Requests: their order, their way to the local store and the peers, and their acknowledgement.
//!
//! ```text
//! arrived ─ nothing older overlaps ─► granted ─ extents hot ─► running ─► done locally ─┐
//!                                                       └──► sent to peers ─► acked ────┴─► complete ─► answered
//! ```
//! Sequence numbers are given when an operation starts to run, so the order on the wire is the order of the
//! numbers, and overlapping operations are in it as they arrived.

use super::{Action, Engine, Fault, FrontOp, SessionId, StoreOp};
use crate::core::frame::Message;
use crate::core::meta::{BLOCK_BYTES, EXTENT_BYTES};
use crate::core::range::Range;
use crate::types::{DiskState, Instant, Role};
use bytes::Bytes;
use std::time::Duration;

/// Discards and zeroes run in pieces of this size, so that one request cannot need more extents than the log
/// has (a discard may span the whole device; 16 of 1015 extents).
pub(super) const CHUNK: u64 = 16 * EXTENT_BYTES;
/// Resync yields while the front end has been active this recently.
const BUSY: Duration = Duration::from_millis(20);

/// What an operation does.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Write(Bytes),
    Zero { discard: bool },
    Read,
    Digest { by_block: bool },
}

/// Where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    Front(u64),
    Chunk(u64),
    Remote {
        session: SessionId,
        seq: u64,
    },
    Resync {
        peer: usize,
        session: SessionId,
    },
    /// Verify: a block that differs is copied.
    Mend {
        peer: usize,
        session: SessionId,
        run: u64,
    },
    /// Verify, and a resync that compares: the local side; the secondary's side.
    Verify {
        peer: usize,
        session: SessionId,
    },
    Ask {
        session: SessionId,
        id: u64,
    },
    /// A primary without a disk reads here.
    Serve {
        session: SessionId,
        id: u64,
    },
    /// The store's new area is made zero.
    Clear,
}

/// An operation that is queued or under way.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub range: Range,
    pub work: Work,
    pub origin: Origin,
    /// Zero until it runs.
    pub seq: u64,
    /// Bit per peer.
    pub acked: u16,
    pub started: bool,
    pub local: bool,
    /// When it arrived.
    pub at: Instant,
}

/// What a store command was for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Op(u64),
    FrontRead(u64, Range),
    Flush(u64),
    Probe,
    RemoteFlush(SessionId, u64),
    FinishFlush(SessionId),
    StopFlush,
    ClearFlush,
}

impl Engine {
    /// A request of the front end.
    pub(super) fn request(&mut self, id: u64, op: FrontOp) {
        if self.role != Role::Primary {
            self.out.push(Action::Reply { id, result: Err(()) });
            return;
        }
        self.last_front = self.now;
        if self.disk == DiskState::Failed {
            self.out.push(Action::Reply { id, result: Err(()) });
            return;
        }
        if self.stopping {
            return; // Never answered: it fails when the device goes.
        }
        let fits = |range: &Range| range.end <= self.superblock.offered;
        let accepted = match op {
            FrontOp::Flush => {
                self.front_flush(id);
                true
            }
            FrontOp::Read(range) if fits(&range) => {
                self.front_read(id, range);
                true
            }
            FrontOp::Write(offset, data) => match Range::new(offset, data.len() as u64).filter(fits) {
                Some(range) => {
                    self.enqueue(range, Work::Write(data), Origin::Front(id));
                    true
                }
                None => false,
            },
            FrontOp::Discard(range) if fits(&range) => self.zero(id, range, true),
            FrontOp::Zero(range) if fits(&range) => self.zero(id, range, false),
            FrontOp::Read(_) | FrontOp::Discard(_) | FrontOp::Zero(_) => false,
        };
        if !accepted {
            self.out.push(Action::Reply { id, result: Err(()) });
        }
    }

    fn front_read(&mut self, id: u64, range: Range) {
        if self.has_disk() {
            let tag = self.next_id();
            self.submit(tag, Use::FrontRead(id, range), StoreOp::Read(range));
        } else {
            self.far_read(id, range, self.now);
        }
    }

    fn zero(&mut self, id: u64, range: Range, discard: bool) -> bool {
        if range.bytes() <= CHUNK {
            self.enqueue(range, Work::Zero { discard }, Origin::Front(id));
        } else {
            self.chunked.insert(id, (range, discard));
            self.next_chunk(id);
        }
        true
    }

    fn next_chunk(&mut self, id: u64) {
        let Some((range, discard)) = self.chunked.get(&id).copied() else { return };
        let end = range.end.min(range.start + CHUNK);
        if end == range.end {
            self.chunked.remove(&id);
            self.enqueue(range, Work::Zero { discard }, Origin::Front(id));
        } else {
            self.chunked.insert(id, (Range { start: end, ..range }, discard));
            self.enqueue(Range { end, ..range }, Work::Zero { discard }, Origin::Chunk(id));
        }
    }

    /// Queues an operation behind everything older that it overlaps.
    pub(super) fn enqueue(&mut self, range: Range, work: Work, origin: Origin) -> u64 {
        let id = self.next_id();
        let op = Op { range, work, origin, seq: 0, acked: 0, started: false, local: false, at: self.now };
        self.ops.insert(id, op);
        if self.locks.acquire(id, range) {
            self.granted(id);
        }
        id
    }

    pub(super) fn granted(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let (range, origin) = (op.range, op.origin);
        if !self.has_disk() {
            // No activity log either: this replica is brought up to date in full before it counts again.
            return self.run(id);
        }
        if origin == Origin::Clear {
            // Outside the volume still: no replica can differ there, so the log need not name it.
            self.start(id);
            self.submit(id, Use::Op(id), StoreOp::Discard(range));
        } else if let Work::Digest { by_block } = op.work {
            self.start(id);
            if let Origin::Verify { peer, session } = origin {
                // Everything older that overlaps has been sent on this session, nothing younger can be before the
                // lock goes: both sides look at the same moment of the range.
                self.ask_digest(peer, session, id, range, by_block);
            }
            let piece = if by_block { BLOCK_BYTES } else { range.bytes() };
            self.submit(id, Use::Op(id), StoreOp::Digest(range, piece));
        } else if matches!(op.work, Work::Read) {
            self.start(id);
            self.submit(id, Use::Op(id), StoreOp::Read(range));
        } else if self.log.is_hot(range.extents()) {
            self.run(id);
        } else {
            self.heating.insert(id);
            self.heat(range);
        }
    }

    fn start(&mut self, id: u64) {
        if let Some(op) = self.ops.get_mut(&id) {
            op.started = true;
        }
    }

    fn heat(&mut self, range: Range) {
        use super::journal::{After, Transaction};
        match self.log.activate(range.extents()) {
            None => self.clean_wanted = true,
            Some(true) => {
                self.transact(Transaction { log: true, after: vec![After::Heat], ..Transaction::default() });
            }
            Some(false) => {}
        }
    }

    /// The log is durable: run what waited for it, oldest first.
    pub(super) fn heated(&mut self) {
        for id in std::mem::take(&mut self.heating) {
            let Some(range) = self.ops.get(&id).map(|op| op.range) else { continue };
            if self.log.is_hot(range.extents()) {
                self.run(id);
            } else {
                self.heating.insert(id);
                self.heat(range);
            }
        }
    }

    pub(super) fn run(&mut self, id: u64) {
        self.start(id);
        let Some(op) = self.ops.get(&id) else { return };
        let (range, work, origin) = (op.range, op.work.clone(), op.origin);
        match origin {
            Origin::Remote { seq, .. } => {
                self.log.touch(range.extents(), seq);
                self.track_for_absent(range);
            }
            Origin::Front(_) | Origin::Chunk(_) => {
                self.last_seq += 1;
                let seq = self.last_seq;
                self.by_seq.insert(seq, id);
                if let Some(op) = self.ops.get_mut(&id) {
                    op.seq = seq;
                }
                if self.has_disk() {
                    self.log.touch(range.extents(), seq);
                }
                for peer in 0..self.peers.len() {
                    if self.peers[peer].in_replication() {
                        self.send_op(peer, id);
                    } else if !self.is_required(peer) {
                        self.peers[peer].bitmap.mark(range);
                    }
                }
            }
            // Reads, which never come here.
            Origin::Resync { .. }
            | Origin::Mend { .. }
            | Origin::Verify { .. }
            | Origin::Ask { .. }
            | Origin::Serve { .. }
            | Origin::Clear => {
                return;
            }
        }
        if !self.has_disk() {
            self.bypassed.insert(id);
            return;
        }
        self.submit(id, Use::Op(id), Self::store_op(range, work));
    }

    /// What an operation is for the store.
    pub(super) fn store_op(range: Range, work: Work) -> StoreOp {
        match work {
            Work::Write(data) => StoreOp::Write(range.start, data),
            Work::Zero { discard } => Self::zero_op(range, discard),
            Work::Read | Work::Digest { .. } => StoreOp::Read(range),
        }
    }

    /// Sends a running operation to a peer in replication.
    pub(super) fn send_op(&mut self, peer: usize, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        let (seq, range, durable) = (op.seq, op.range, self.durable_seq);
        let message = match &op.work {
            Work::Write(data) => Message::Write { seq, offset: range.start, durable, data: data.clone() },
            Work::Zero { discard } => Message::Zero { seq, range, discard: *discard, durable },
            Work::Read | Work::Digest { .. } => return,
        };
        self.send_counted(peer, seq, range, false, message);
    }

    /// A peer has just entered replication: it gets every operation that is not complete, in order.
    pub(super) fn resend_ops(&mut self, peer: usize) {
        let missing: Vec<u64> = self
            .by_seq
            .values()
            .copied()
            .filter(|id| self.ops.get(id).is_some_and(|op| op.acked & 1 << peer == 0))
            .collect();
        missing.into_iter().for_each(|id| self.send_op(peer, id));
    }

    pub(super) fn store_done(&mut self, tag: u64, result: Result<Bytes, Fault>) {
        let Some((what, since)) = self.store.remove(&tag) else { return };
        let data = match result {
            Ok(data) => data,
            Err(Fault::Full(reason)) if self.waits_for_space(&what, &reason) => return,
            Err(Fault::Full(reason) | Fault::Failed(reason)) => {
                // With all that the store was asked: a peer answers it, or nobody does.
                self.store.insert(tag, (what, since));
                self.fail_disk(reason);
                return;
            }
        };
        if !self.has_disk() {
            return;
        }
        self.has_space(tag);
        match what {
            Use::Op(id) => self.op_done(id, data),
            Use::FrontRead(id, _) => {
                self.counters.reads += 1;
                self.counters.read_bytes += data.len() as u64;
                self.observe(since);
                self.leave(id, data);
            }
            Use::Flush(id) => self.flushed_locally(id),
            Use::Probe => self.out.push(Action::Probe(data)),
            Use::RemoteFlush(session, id) => self.replica_answer(session, Message::FlushAck(id)),
            Use::FinishFlush(session) => self.replica_finish_flushed(session),
            Use::StopFlush => self.role_flushed(),
            Use::ClearFlush => self.clear_flushed(tag),
        }
    }

    pub(super) fn op_done(&mut self, id: u64, data: Bytes) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.local = true;
        let (origin, range) = (op.origin, op.range);
        // Before the lock goes: a write that waits for it must come after the copy on the wire.
        match origin {
            Origin::Resync { peer, session } => self.resync_read(peer, session, range, data.clone()),
            Origin::Mend { peer, session, run } => {
                if self.verify_run() == Some(run) {
                    self.mend_read(peer, session, range, data.clone());
                }
            }
            Origin::Front(_)
            | Origin::Chunk(_)
            | Origin::Remote { .. }
            | Origin::Verify { .. }
            | Origin::Ask { .. }
            | Origin::Serve { .. }
            | Origin::Clear => {}
        }
        for granted in self.locks.release(id) {
            self.granted(granted);
        }
        match origin {
            Origin::Front(_) | Origin::Chunk(_) => self.check_op(id),
            Origin::Remote { session, seq } => {
                self.ops.remove(&id);
                self.replica_answer(session, Message::Ack(seq));
            }
            Origin::Resync { .. } | Origin::Mend { .. } => {
                self.ops.remove(&id);
            }
            Origin::Clear => {
                self.ops.remove(&id);
                self.cleared(id, range);
            }
            Origin::Verify { peer, .. } => {
                self.ops.remove(&id);
                self.digest_here(peer, id, data);
            }
            Origin::Ask { session, id: ask } => {
                self.ops.remove(&id);
                self.replica_answer(session, Message::Digests { id: ask, digests: data });
            }
            Origin::Serve { session, id: ask } => {
                self.ops.remove(&id);
                self.replica_answer(session, Message::ReadReply { id: ask, data });
            }
        }
    }

    /// A peer has carried out what has number `seq`.
    pub(super) fn op_acked(&mut self, peer: usize, seq: u64) {
        if let Some(id) = self.by_seq.get(&seq).copied() {
            if let Some(op) = self.ops.get_mut(&id) {
                op.acked |= 1 << peer;
            }
            self.check_op(id);
        }
    }

    pub(super) fn check_ops(&mut self) {
        let ids: Vec<u64> = self.by_seq.values().copied().collect();
        ids.into_iter().for_each(|id| self.check_op(id));
    }

    /// Every required member that counts is in `acked`, and every one counts.
    pub(super) fn all_required(&self, acked: u16) -> bool {
        self.may_do_without_disk()
            && self.required.iter().all(|member| {
                self.peer_index(&member.node).is_some_and(|peer| acked & 1 << peer != 0 && self.counts(peer))
            })
    }

    fn check_op(&mut self, id: u64) {
        let Some(op) = self.ops.get(&id) else { return };
        if !op.local || self.generation.is_some() || !self.all_required(op.acked) {
            return;
        }
        let Some(op) = self.ops.remove(&id) else { return };
        self.by_seq.remove(&op.seq);
        if matches!(op.work, Work::Write(_)) {
            self.observe(op.at);
        }
        match op.origin {
            Origin::Front(request) => {
                match op.work {
                    Work::Write(data) => {
                        self.counters.writes += 1;
                        self.counters.written_bytes += data.len() as u64;
                    }
                    Work::Zero { .. } | Work::Read | Work::Digest { .. } => self.counters.discards += 1,
                }
                self.leave(request, Bytes::new());
            }
            Origin::Chunk(request) => self.next_chunk(request),
            Origin::Remote { .. }
            | Origin::Resync { .. }
            | Origin::Mend { .. }
            | Origin::Verify { .. }
            | Origin::Ask { .. }
            | Origin::Serve { .. }
            | Origin::Clear => {}
        }
    }

    /// An answer may leave now.
    pub(super) fn may_leave(&self) -> bool {
        let entitled =
            self.until.is_some_and(|(epoch, until)| epoch == self.superblock.epoch && until > self.now);
        entitled
            && self.role == Role::Primary
            && self.deposed.is_none()
            && !self.stopping
            && self.disk != DiskState::Failed
            && self.may_do_without_disk()
    }

    /// Answers a request now, or when serve-until allows it.
    pub(super) fn leave(&mut self, id: u64, data: Bytes) {
        if self.may_leave() && self.held.is_empty() {
            self.out.push(Action::Reply { id, result: Ok(data) });
        } else {
            self.held.push_back((id, data));
        }
    }

    pub(super) fn release_held(&mut self) {
        if self.may_leave() {
            let held = std::mem::take(&mut self.held);
            self.out.extend(held.into_iter().map(|(id, data)| Action::Reply { id, result: Ok(data) }));
        }
    }

    /// Gives up everything of the front end that is not answered; what runs in the store is only forgotten.
    pub(super) fn abort_front(&mut self) {
        for (id, _) in std::mem::take(&mut self.held) {
            self.out.push(Action::Reply { id, result: Err(()) });
        }
        for (_, read) in std::mem::take(&mut self.far) {
            self.out.push(Action::Reply { id: read.front, result: Err(()) });
        }
        self.chunked.clear();
        let mine: Vec<(u64, u64)> = self
            .ops
            .iter()
            .filter_map(|(id, op)| match op.origin {
                Origin::Front(request) | Origin::Chunk(request) => Some((*id, request)),
                Origin::Remote { .. }
                | Origin::Resync { .. }
                | Origin::Mend { .. }
                | Origin::Verify { .. }
                | Origin::Ask { .. }
                | Origin::Serve { .. }
                | Origin::Clear => None,
            })
            .collect();
        // Youngest first: nothing that waits for an older one gets to run in between.
        for (id, request) in mine.into_iter().rev() {
            self.out.push(Action::Reply { id: request, result: Err(()) });
            self.drop_op(id);
        }
        self.by_seq.clear();
    }

    /// Fails everything the front end waits for, reads and flushes too: the disk is gone. An application that gets
    /// an error can be stopped and its group handed over; one that hangs cannot.
    pub(super) fn fail_front(&mut self) {
        let reads: Vec<u64> = self
            .store
            .values()
            .filter_map(|(what, _)| if let Use::FrontRead(id, _) = what { Some(*id) } else { None })
            .collect();
        for id in reads.into_iter().chain(self.unanswered_flushes()) {
            self.out.push(Action::Reply { id, result: Err(()) });
        }
        self.forget_flushes();
        self.abort_front();
    }

    /// Takes an operation out: at once if it has not started, else when the store is done with it.
    pub(super) fn drop_op(&mut self, id: u64) {
        self.heating.remove(&id);
        let waits_for_space = self.forget_full(id);
        let Some(op) = self.ops.get(&id) else { return };
        if !op.started || op.local || waits_for_space {
            self.ops.remove(&id);
            for granted in self.locks.release(id) {
                self.granted(granted);
            }
        } else if let Some(op) = self.ops.get_mut(&id) {
            // The store still works on it; its lock goes with it.
            op.origin = Origin::Remote { session: SessionId(0), seq: 0 };
        }
    }

    /// The application's request that arrived at `at` is done: what resync and verify go by.
    pub(super) fn observe(&mut self, at: Instant) {
        let background = self.is_verifying() || self.is_resyncing();
        self.pace.observe(self.now.since(at), background);
    }

    /// The front end has asked for something a moment ago.
    pub(super) fn is_busy(&self) -> bool {
        self.now.since(self.last_front) < BUSY
    }
}
