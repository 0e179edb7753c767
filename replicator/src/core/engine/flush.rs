//! Flushes: what is durable where.
//!
//! A flush is answered when the local store and every required member have made durable what was acknowledged
//! before it. It stays in the books until every other peer in replication has answered too; only then does
//! `durable_seq` advance, on which all activity logs rely.

use super::io::Use;
use super::peer::Link;
use super::{Action, Engine, StoreOp};
use crate::core::frame::Message;

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlushKind {
    /// The front end.
    Front(u64),
    /// The cleaning of the log.
    Clean,
    /// A demotion or a stop.
    Role,
    /// A peer became required: its admission waits for this.
    Settle(usize),
    /// A secondary's log is filling up.
    Tell,
}

/// A flush under way.
#[derive(Clone, Debug)]
pub(super) struct Flush {
    kind: FlushKind,
    local: bool,
    /// Bit per peer.
    pub(super) acked: u16,
    /// Every write up to this was complete when it began.
    upto: u64,
    answered: bool,
}

impl Engine {
    pub(super) fn start_flush(&mut self, kind: FlushKind) -> u64 {
        let id = self.next_id();
        let sent = self.peers.iter().filter_map(|p| p.inflight.first_key_value()).map(|(seq, _)| *seq);
        let unanswered = self.by_seq.first_key_value().map(|(seq, _)| *seq).into_iter().chain(sent).min();
        let upto = unanswered.map_or(self.last_seq, |seq| seq - 1);
        self.flushes.insert(id, Flush { kind, local: !self.has_disk(), acked: 0, upto, answered: false });
        if self.has_disk() {
            self.submit(id, Use::Flush(id), StoreOp::Flush);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].in_replication() {
                self.send_flush(peer, id);
            }
        }
        id
    }

    fn send_flush(&mut self, peer: usize, id: u64) {
        let now = self.now;
        let p = &mut self.peers[peer];
        let Some(session) = p.session else { return };
        let covered = std::mem::take(&mut p.unflushed);
        p.flushing.insert(id, (covered, now));
        self.send(session, Message::Flush(id));
    }

    /// A peer has just entered replication: it gets the flushes it has not answered, after the writes.
    pub(super) fn resend_flushes(&mut self, peer: usize) {
        let missing: Vec<u64> =
            self.flushes.iter().filter(|(_, f)| f.acked & 1 << peer == 0).map(|(id, _)| *id).collect();
        for id in missing {
            self.send_flush(peer, id);
        }
    }

    pub(super) fn flushed_locally(&mut self, id: u64) {
        if let Some(flush) = self.flushes.get_mut(&id) {
            flush.local = true;
        }
        self.check_flush(id);
    }

    /// False if this flush was never sent to that peer.
    pub(super) fn flush_acked(&mut self, peer: usize, id: u64) -> bool {
        if self.peers[peer].flushing.remove(&id).is_none() {
            return false;
        }
        self.checkpoint_flushed(peer, id);
        self.mend_flushed(peer, id);
        if let Some(flush) = self.flushes.get_mut(&id) {
            flush.acked |= 1 << peer;
        }
        self.check_flush(id);
        true
    }

    pub(super) fn check_flushes(&mut self) {
        let ids: Vec<u64> = self.flushes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.check_flush(id));
    }

    fn check_flush(&mut self, id: u64) {
        let Some(flush) = self.flushes.get(&id) else { return };
        if !flush.local || !self.all_required(flush.acked) || self.generation.is_some() {
            return;
        }
        let (kind, upto, acked) = (flush.kind, flush.upto, flush.acked);
        if !flush.answered {
            if let Some(flush) = self.flushes.get_mut(&id) {
                flush.answered = true;
            }
            match kind {
                FlushKind::Front(request) => {
                    self.counters.flushes += 1;
                    self.leave(request, bytes::Bytes::new());
                }
                FlushKind::Role => self.role_flushed(),
                FlushKind::Settle(peer) => self.peers[peer].settle_answered(id, acked & 1 << peer != 0),
                FlushKind::Clean | FlushKind::Tell => {}
            }
        }
        if self.peers.iter().all(|p| !p.in_replication() || !p.flushing.contains_key(&id)) {
            self.durable_seq = self.durable_seq.max(upto);
            self.flushes.remove(&id);
            match kind {
                FlushKind::Clean => self.clean_flushed(id),
                FlushKind::Tell => self.tell_durable(),
                FlushKind::Front(_) | FlushKind::Role | FlushKind::Settle(_) => {}
            }
        }
    }

    /// A secondary asks for a flush, so that it can clean its log.
    pub(super) fn want_durable(&mut self) {
        if !self.flushes.values().any(|f| f.kind == FlushKind::Tell) {
            self.start_flush(FlushKind::Tell);
        }
    }

    /// Gives up all flushes: the front end is gone, the role ends.
    /// Flushes that the front end still waits for.
    pub(super) fn unanswered_flushes(&self) -> Vec<u64> {
        let open = |f: &Flush| match f.kind {
            FlushKind::Front(id) if !f.answered => Some(id),
            _ => None,
        };
        self.flushes.values().filter_map(open).collect()
    }

    /// There is no disk any more that could flush.
    pub(super) fn flushed_without_disk(&mut self) {
        self.flushes.values_mut().for_each(|flush| flush.local = true);
    }

    pub(super) fn forget_flushes(&mut self) {
        self.flushes.clear();
        self.clean = None;
    }

    pub(super) fn front_flush(&mut self, id: u64) {
        self.start_flush(FlushKind::Front(id));
    }

    /// A required peer that is connected is settled once a flush that began after that has been answered. It begins when
    /// the peer has every write that was answered without it: those may still wait on the other side while a flush
    /// passes them, and whoever is told that the peer is in sync may promote it at that moment.
    pub(super) fn pump_settle(&mut self) {
        for peer in 0..self.peers.len() {
            let p = &self.peers[peer];
            let answered = |seq: &u64| !self.by_seq.contains_key(seq);
            let behind = p.inflight.iter().any(|(seq, sent)| !sent.copy && answered(seq));
            let connected = p.link == Link::Connected;
            if connected && p.wants_settling() && !behind && self.counts(peer) {
                let id = self.start_flush(FlushKind::Settle(peer));
                self.peers[peer].settling = Some(id);
            }
        }
    }

    /// Carries out an operation on the store and remembers what it was for.
    pub(super) fn submit(&mut self, tag: u64, what: Use, op: StoreOp) {
        self.store.insert(tag, (what, self.now));
        self.out.push(Action::Store { tag, op });
    }

    /// What the front end's zeroing requests become locally.
    pub(super) fn zero_op(range: crate::core::range::Range, discard: bool) -> StoreOp {
        if discard { StoreOp::Discard(range) } else { StoreOp::Zero(range) }
    }
}
