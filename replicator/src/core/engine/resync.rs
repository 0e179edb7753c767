//! Copying dirty blocks to a peer, in order, a bounded number at a time.
//!
//! A copy is an operation in the range queue from the read to the send, so it is never older on the wire than a
//! write to the same place. Its bits are cleared when the target has *flushed* it: at checkpoints, and at the
//! end. An interruption therefore costs at most what was copied since the last checkpoint. What may be the same on both
//! sides is compared first ([`super::compare`]).
//!
//! A person may pause it. New writes go to the target all the same, what is dirty stays dirty, and the target is not
//! promotable meanwhile. A member that acknowledgements wait for is not paused: its resync is short and I/O is frozen
//! until its end.
//!
//! One that stands still although nothing holds it is noticed, told and begun anew with a new session.

use super::compare::Compare;
use super::io::{Origin, Work};
use super::pace::Limits;
use super::peer::Link;
use super::{Engine, SessionId, Token};
use crate::api::ResyncProgress;
use crate::core::frame::Message;
use crate::core::meta::{BLOCK_BYTES, Bitmap};
use crate::core::range::{Range, RangeSet};
use crate::types::{Instant, NodeName};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// One copy: large enough for the network, small enough that a write that waits for its read notices nothing.
const CHUNK: u64 = 128 << 10;
/// Copies under way when the front end is quiet: 4 MiB fill a gigabit link at 30 ms.
const WINDOW: usize = 32;
/// Copies under way when it is not.
const BUSY_WINDOW: usize = 4;
static ZEROES: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];
/// Shorter runs of zeroes are sent as data: a hole costs the target an extent of its file, 16 KiB are not worth it.
const HOLE_BLOCKS: usize = 4;
/// Bytes between two checkpoints.
const CHECKPOINT: u64 = 64 << 20;
/// One that has not moved for longer, or than two peer_timeouts, is begun anew. A slow disk's own retries fit in.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// Between two marks of the progress; the speed is what was done since the oldest of [`MARKS`].
const MARK: Duration = Duration::from_secs(2);
/// As many as DRBD keeps: the speed of the last 16 s.
const MARKS: usize = 8;

/// A resync under way.
#[derive(Clone, Debug)]
pub(super) struct Resync {
    /// What has not been read yet.
    todo: Bitmap,
    cursor: u64,
    pub(super) compare: Compare,
    reading: usize,
    sending: usize,
    total: u64,
    done: u64,
    /// Acknowledged or the same, not flushed.
    copied: RangeSet,
    copied_bytes: u64,
    checkpoint: Option<(u64, RangeSet)>,
    started: Instant,
    /// When it got further last, or was not meant to.
    moved: Instant,
    marks: VecDeque<(Instant, u64)>,
}

impl Resync {
    fn under_way(&self) -> usize {
        self.reading + self.sending + self.compare.asked()
    }

    fn mark(&mut self, now: Instant) {
        if self.marks.back().is_none_or(|(at, _)| now.since(*at) >= MARK) {
            self.marks.push_back((now, self.done));
            if self.marks.len() > MARKS {
                self.marks.pop_front();
            }
        }
    }

    /// `ranges` are the same on both sides now; durably after the next flush.
    pub(super) fn achieved(&mut self, range: Range, now: Instant) {
        self.done += range.bytes();
        self.copied.insert(range);
        self.copied_bytes += range.bytes();
        self.moved = now;
        self.mark(now);
    }

    /// It got further without anything done yet.
    pub(super) fn moves(&mut self, now: Instant) {
        self.moved = now;
    }
}

/// Bytes per second.
fn speed(bytes: u64, span: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / span.as_millis().max(1)).unwrap_or(u64::MAX)
}

impl Engine {
    /// A person pauses the volume's resyncs, or lets them go on.
    pub(super) fn pause_resync(&mut self, token: Token, paused: bool) {
        if self.paused != paused {
            self.paused = paused;
            let text = if paused { "resync is paused" } else { "resync goes on" };
            self.out.push(super::Action::Note(text.into()));
        }
        self.done(token, Ok(()));
    }

    /// The resync to this peer waits for a person.
    pub(super) fn is_paused(&self, peer: usize) -> bool {
        self.paused && !self.is_required(peer)
    }

    /// Blocks are being read for a resync, which the application may feel.
    pub(super) fn is_resyncing(&self) -> bool {
        (0..self.peers.len()).any(|p| self.peers[p].resync.is_some() && !self.is_paused(p))
    }

    pub(super) fn begin_resync(&mut self, peer: usize) {
        let now = self.now;
        let p = &mut self.peers[peer];
        let todo = p.bitmap.clone();
        let total = todo.dirty_bytes();
        p.resync = Some(Resync {
            todo,
            cursor: 0,
            compare: Compare::new(p.compares()),
            reading: 0,
            sending: 0,
            total,
            done: 0,
            copied: RangeSet::default(),
            copied_bytes: 0,
            checkpoint: None,
            started: now,
            moved: now,
            marks: VecDeque::from([(now, 0)]),
        });
        self.set_link(peer, Link::Syncing, Some("resync".into()));
    }

    pub(super) fn pump_resync(&mut self) {
        let window = if self.is_busy() { BUSY_WINDOW } else { WINDOW };
        for peer in 0..self.peers.len() {
            if self.peers[peer].link == Link::Syncing {
                self.pump_peer(peer, window);
            }
        }
    }

    fn pump_peer(&mut self, peer: usize, window: usize) {
        let (now, limits, paused) = (self.now, self.limits(), self.is_paused(peer));
        let p = &mut self.peers[peer];
        let Some(session) = p.session else { return };
        let Some(resync) = p.resync.as_mut() else { return };
        let (mut copies, mut questions, mut throttled) = (Vec::new(), Vec::new(), false);
        while !paused && resync.under_way() + copies.len() + questions.len() < window {
            let again = resync.compare.differs();
            let fresh = || {
                let next = resync.todo.next_run(resync.cursor, CHUNK);
                next.or_else(|| resync.todo.next_run(0, CHUNK))
            };
            let Some(run) = again.or_else(fresh) else { break };
            throttled = !self.pace.grant(now, &limits, run.bytes());
            if throttled {
                break;
            }
            if again.is_some() {
                resync.compare.taken();
                copies.push(run);
                continue;
            }
            resync.todo.clear(run);
            resync.cursor = run.end;
            if resync.compare.wants(run, &p.bitmap) { questions.push(run) } else { copies.push(run) }
        }
        resync.reading += copies.len();
        let pending = !resync.todo.is_empty() || resync.compare.differs().is_some();
        let idle = resync.under_way() + questions.len() == 0;
        if idle && (paused || throttled || !pending) {
            resync.moved = now; // It is not meant to get further.
        }
        for run in copies {
            self.enqueue(run, Work::Read, Origin::Resync { peer, session });
        }
        for run in questions {
            self.compare(peer, session, run);
        }
        if idle && !pending && !self.is_committing() {
            self.set_link(peer, Link::Finishing, Some("the peer flushes after the resync".into()));
            let generation = self.superblock.generation;
            self.peers[peer].told = (generation, true);
            let history = self.superblock.history.clone();
            let members = self.member_names();
            self.send(session, Message::SyncDone { generation, history, members });
        } else {
            // While it is paused, nothing of what was done is to be lost.
            self.checkpoint(peer, if idle && paused { 1 } else { CHECKPOINT });
        }
    }

    /// A block has been read: send it before anything younger can touch it.
    pub(super) fn resync_read(&mut self, peer: usize, session: SessionId, range: Range, data: Bytes) {
        if self.peers[peer].session != Some(session) {
            return;
        }
        let pieces = pieces(range, &data);
        let Some(resync) = self.peers[peer].resync.as_mut() else { return };
        resync.reading -= 1;
        resync.sending += pieces.len();
        for (range, data) in pieces {
            self.last_seq += 1;
            let seq = self.last_seq;
            self.send_copy(peer, seq, range, data);
        }
    }

    pub(super) fn send_copy(&mut self, peer: usize, seq: u64, range: Range, data: Bytes) {
        let message = if data.chunks(ZEROES.len()).all(|part| *part == ZEROES[..part.len()]) {
            Message::CopyZero { seq, range }
        } else {
            Message::Copy { seq, offset: range.start, data }
        };
        self.send_counted(peer, seq, range, true, message);
    }

    /// What bounds resync and verify, see `pace`.
    pub(super) fn limits(&self) -> Limits {
        let target = Duration::from_micros(self.config.target_latency_us);
        Limits {
            most: self.config.resync_rate,
            least: self.config.resync_min_rate,
            target: (!target.is_zero()).then_some(target),
        }
    }

    pub(super) fn copy_acked(&mut self, peer: usize, range: Range) {
        let now = self.now;
        let p = &mut self.peers[peer];
        let Some(resync) = p.resync.as_mut() else { return };
        resync.sending -= 1;
        resync.achieved(range, now);
        p.copied_bytes += range.bytes();
    }

    /// Asks the target to flush what it has, if that is at least so much and no such flush is under way.
    fn checkpoint(&mut self, peer: usize, least: u64) {
        let (id, now) = (self.last_id + 1, self.now);
        let p = &mut self.peers[peer];
        let Some(resync) = p.resync.as_mut() else { return };
        if resync.copied_bytes < least || resync.checkpoint.is_some() {
            return;
        }
        resync.copied_bytes = 0;
        resync.checkpoint = Some((id, std::mem::take(&mut resync.copied)));
        let covered = std::mem::take(&mut p.unflushed);
        p.flushing.insert(id, (covered, now));
        self.last_id = id;
        if let Some(session) = self.peers[peer].session {
            self.send(session, Message::Flush(id));
        }
    }

    /// The target has flushed a checkpoint: its bits may go.
    pub(super) fn checkpoint_flushed(&mut self, peer: usize, id: u64) {
        let p = &mut self.peers[peer];
        let Some(resync) = p.resync.as_mut() else { return };
        if let Some((_, copied)) = resync.checkpoint.take_if(|(flush, _)| *flush == id) {
            copied.iter().for_each(|range| p.bitmap.clear(range));
            self.transact(super::journal::Transaction { pages: true, ..Default::default() });
        }
    }

    /// Notices resyncs that stand still although nothing holds them.
    pub(super) fn tick_resync(&mut self) {
        let (now, limit) = (self.now, STALL_LIMIT.max(self.peer_timeout() * 2));
        for peer in 0..self.peers.len() {
            // Its reads may wait for writes that wait for somebody else.
            let frozen = self.frozen.is_some() && !self.is_required(peer);
            let p = &mut self.peers[peer];
            let Some(resync) = p.resync.as_mut().filter(|_| p.link == Link::Syncing) else { continue };
            resync.mark(now);
            if frozen {
                resync.moved = now;
            } else if now.since(resync.moved) > limit {
                let (reads, copies, asked) = (resync.reading, resync.sending, resync.compare.asked());
                // A target that owes answers may be one that cannot give them.
                p.compares_not |= asked > 0;
                let node: NodeName = p.node.clone();
                let text = format!(
                    "the resync to {node} has not moved for {limit:?} ({reads} reads, {copies} copies and {asked} \
                     comparisons are unanswered, {} bytes are not begun): it is begun anew",
                    resync.todo.dirty_bytes()
                );
                self.alarm(text);
                self.lose_peer(peer, Link::TimedOut, "its resync stood still");
            }
        }
    }

    /// For status.
    pub(super) fn resync_progress(&self, peer: usize) -> Option<ResyncProgress> {
        let resync = self.peers[peer].resync.as_ref()?;
        let (at, done) = resync.marks.front().copied().unwrap_or((resync.started, 0));
        let paused = self.is_paused(peer);
        let bytes_per_s = if paused { 0 } else { speed(resync.done - done, self.now.since(at)) };
        let left = resync.total.saturating_sub(resync.done);
        let eta_s = if left == 0 { Some(0) } else { left.checked_div(bytes_per_s) };
        Some(ResyncProgress {
            total_bytes: resync.total,
            done_bytes: resync.done,
            bytes_per_s,
            eta_s,
            average_bytes_per_s: speed(resync.done, self.now.since(resync.started)),
            spared_bytes: resync.compare.spared,
            paused,
            stalled_s: self.now.since(resync.moved).as_secs(),
        })
    }
}

/// What was read, as data and as runs of zeroes long enough to be holes.
fn pieces(range: Range, data: &Bytes) -> Vec<(Range, Bytes)> {
    let block = BLOCK_BYTES as usize;
    let mut runs: Vec<(bool, usize)> = Vec::new();
    for part in data.chunks(block) {
        let zero = *part == ZEROES[..part.len()];
        match runs.last_mut() {
            Some((last, blocks)) if *last == zero => *blocks += 1,
            _ => runs.push((zero, 1)),
        }
    }
    let whole = runs.len() == 1;
    let (mut from, mut begin, mut all) = (0, 0, Vec::new());
    let mut cut = |begin: &mut usize, end: usize| {
        if *begin < end {
            let start = range.start + *begin as u64;
            all.push((Range { start, end: range.start + end as u64 }, data.slice(*begin..end)));
            *begin = end;
        }
    };
    for (zero, blocks) in runs {
        let end = data.len().min(from + blocks * block);
        if zero && (blocks >= HOLE_BLOCKS || whole) {
            cut(&mut begin, from);
            cut(&mut begin, end);
        }
        from = end;
    }
    cut(&mut begin, data.len());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_of_zeroes_are_pieces_of_their_own() {
        let split = |marked: &[usize], blocks: usize| {
            let mut data = vec![0; blocks * 4096];
            marked.iter().for_each(|b| data[b * 4096 + 17] = 1);
            let range = Range { start: 8192, end: 8192 + data.len() as u64 };
            let all = pieces(range, &data.clone().into());
            let back: Vec<u8> = all.iter().flat_map(|(_, part)| part.to_vec()).collect();
            assert!(back == data && all.iter().all(|(r, part)| r.bytes() == part.len() as u64));
            assert!(all.windows(2).all(|w| w[0].0.end == w[1].0.start) && all[0].0.start == range.start);
            all.iter().map(|(r, part)| (r.bytes() / 4096, part.iter().all(|b| *b == 0))).collect::<Vec<_>>()
        };
        assert_eq!(split(&[], 1), [(1, true)]);
        assert_eq!(split(&[], 32), [(32, true)]);
        assert_eq!(split(&[0], 32), [(1, false), (31, true)]);
        assert_eq!(split(&[31], 32), [(31, true), (1, false)]);
        assert_eq!(split(&[10, 14, 20], 32), [(10, true), (5, false), (5, true), (1, false), (11, true)]);
        assert_eq!(split(&[1, 5], 7), [(7, false)], "three blocks are no hole");
    }
}
