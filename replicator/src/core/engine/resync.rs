//! Copying dirty blocks to a peer, in order, a bounded number at a time.
//!
//! A copy is an operation in the range queue from the read to the send, so it is never older on the wire than a
//! write to the same place. Its bits are cleared when the target has *flushed* it: at checkpoints, and at the
//! end. An interruption therefore costs at most what was copied since the last checkpoint.

use super::io::{Origin, Work};
use super::pace::Limits;
use super::peer::Link;
use super::{Engine, SessionId};
use crate::api::ResyncProgress;
use crate::core::frame::Message;
use crate::core::meta::Bitmap;
use crate::core::range::{Range, RangeSet};
use crate::types::Instant;
use bytes::Bytes;
use std::time::Duration;

/// One copy: large enough for the network, small enough that a write that waits for its read notices nothing.
const CHUNK: u64 = 128 << 10;
/// Copies under way when the front end is quiet: 4 MiB fill a gigabit link at 30 ms.
const WINDOW: usize = 32;
/// Copies under way when it is not.
const BUSY_WINDOW: usize = 4;
static ZEROES: [u8; 4096] = [0; 4096];
/// Bytes between two checkpoints.
const CHECKPOINT: u64 = 64 << 20;

/// A resync under way.
#[derive(Clone, Debug)]
pub(super) struct Resync {
    /// What has not been read yet.
    todo: Bitmap,
    cursor: u64,
    reading: usize,
    sending: usize,
    total: u64,
    done: u64,
    /// Acknowledged, not flushed.
    copied: RangeSet,
    copied_bytes: u64,
    checkpoint: Option<(u64, RangeSet)>,
    started: Instant,
}

impl Engine {
    pub(super) fn begin_resync(&mut self, peer: usize) {
        let now = self.now;
        let p = &mut self.peers[peer];
        let todo = p.bitmap.clone();
        let total = todo.dirty_bytes();
        p.resync = Some(Resync {
            todo,
            cursor: 0,
            reading: 0,
            sending: 0,
            total,
            done: 0,
            copied: RangeSet::default(),
            copied_bytes: 0,
            checkpoint: None,
            started: now,
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
        let (now, limits) = (self.now, self.limits());
        let Some(session) = self.peers[peer].session else { return };
        let mut chunks = Vec::new();
        let Some(resync) = self.peers[peer].resync.as_mut() else { return };
        while resync.reading + resync.sending + chunks.len() < window {
            let next = resync.todo.next_run(resync.cursor, CHUNK).or_else(|| resync.todo.next_run(0, CHUNK));
            let Some(run) = next.filter(|run| self.pace.grant(now, &limits, run.bytes())) else { break };
            resync.todo.clear(run);
            resync.cursor = run.end;
            chunks.push(run);
        }
        resync.reading += chunks.len();
        let finished = resync.reading + resync.sending == 0 && resync.todo.is_empty();
        for run in chunks {
            self.enqueue(run, Work::Read, Origin::Resync { peer, session });
        }
        if finished && !self.is_committing() {
            self.set_link(peer, Link::Finishing, Some("the peer flushes after the resync".into()));
            let generation = self.superblock.generation;
            self.peers[peer].told = (generation, true);
            let history = self.superblock.history.clone();
            let members = self.member_names();
            self.send(session, Message::SyncDone { generation, history, members });
        }
    }

    /// A block has been read: send it before anything younger can touch it.
    pub(super) fn resync_read(&mut self, peer: usize, session: SessionId, range: Range, data: Bytes) {
        if self.peers[peer].session != Some(session) {
            return;
        }
        let Some(resync) = self.peers[peer].resync.as_mut() else { return };
        resync.reading -= 1;
        resync.sending += 1;
        self.last_seq += 1;
        let seq = self.last_seq;
        self.send_copy(peer, seq, range, data);
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
        let Some(resync) = self.peers[peer].resync.as_mut() else { return };
        resync.sending -= 1;
        resync.done += range.bytes();
        resync.copied.insert(range);
        resync.copied_bytes += range.bytes();
        if resync.copied_bytes >= CHECKPOINT && resync.checkpoint.is_none() {
            let copied = std::mem::take(&mut resync.copied);
            resync.copied_bytes = 0;
            let id = self.next_id();
            let now = self.now;
            let p = &mut self.peers[peer];
            if let Some(resync) = p.resync.as_mut() {
                resync.checkpoint = Some((id, copied));
            }
            let covered = std::mem::take(&mut p.unflushed);
            p.flushing.insert(id, (covered, now));
            if let Some(session) = p.session {
                self.send(session, Message::Flush(id));
            }
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

    /// For status.
    pub(super) fn resync_progress(&self, peer: usize) -> Option<ResyncProgress> {
        let resync = self.peers[peer].resync.as_ref()?;
        let elapsed = self.now.since(resync.started).max(Duration::from_millis(1));
        let bytes_per_s =
            u64::try_from(u128::from(resync.done) * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX);
        let left = resync.total.saturating_sub(resync.done);
        let eta_s = if left == 0 { Some(0) } else { left.checked_div(bytes_per_s) };
        Some(ResyncProgress { total_bytes: resync.total, done_bytes: resync.done, bytes_per_s, eta_s })
    }
}
