//! Metadata transactions, one at a time in the order they were asked for, and the cleaning of the activity log.
//!
//! A transaction's parts become durable together but in no order, so what must come first is a transaction of
//! its own. Its bytes are taken when it starts, not when it was queued: state only ever runs ahead in the safe
//! direction (marks are set before they are needed, entries leave the log when they are not).
//!
//! An extent leaves the log when a flush that began after its last write is answered by the local store and by
//! every peer in replication, the bitmap pages that cover it are durable for all, and nothing in it is in
//! flight or unflushed anywhere. A secondary needs the primary's word (`durable`) instead of the flush.

use super::flush::FlushKind;
use super::{Action, Engine, SessionId};
use crate::core::frame::Message;
use crate::core::meta::{ACTLOG_AT, SUPERBLOCK_AT, Write, actlog, pair, superblock};
use crate::types::{DiskState, Generation, Role};
use std::collections::BTreeSet;
use std::time::Duration;

/// What to do once a transaction is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum After {
    Attached,
    Heat,
    Clean,
    Greet(SessionId),
    Decide(SessionId),
    Ready(SessionId),
    Answer(SessionId, Box<Message>),
    GenerationPersisted(Generation),
    GenerationDone(Generation),
    Role,
    Yielded,
    Grown,
    Raised,
}

/// Parts of the metadata to write, and what then.
#[derive(Clone, Debug, Default)]
pub(super) struct Transaction {
    pub raw: Vec<Write>,
    pub superblock: bool,
    pub log: bool,
    /// Empty the log when this starts, not earlier: what it named became dirty in a transaction before.
    pub empty_log: bool,
    /// All unsaved pages of all bitmaps.
    pub pages: bool,
    /// All of it anew, in a file for a volume of this size. Only when nothing else waits: raw writes of others know where
    /// pages are.
    pub grow: Option<u64>,
    pub after: Vec<After>,
}

/// A cleaning of the log under way.
#[derive(Clone, Debug)]
pub(super) struct Clean {
    extents: BTreeSet<u32>,
    before: u64,
    stage: CleanStage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CleanStage {
    Flushing(u64),
    Flushed,
    Saving,
}

impl Engine {
    /// Queues a transaction; joins the last one if that waits too and both only write the log.
    pub(super) fn transact(&mut self, transaction: Transaction) {
        if self.disk == DiskState::Failed {
            return;
        }
        let plain = |t: &Transaction| t.log && !t.empty_log && !t.superblock && !t.pages && t.raw.is_empty();
        if let Some(last) = self.transactions.back_mut()
            && plain(last)
            && plain(&transaction)
        {
            last.after.extend(transaction.after);
            return;
        }
        self.transactions.push_back(transaction);
    }

    pub(super) fn save_superblock(&mut self, after: After) {
        self.transact(Transaction { superblock: true, after: vec![after], ..Transaction::default() });
    }

    pub(super) fn pump_transactions(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(mut next) = self.transactions.pop_front().filter(|_| self.has_disk()) else { return };
        if let Some(size) = next.grow {
            let action = self.write_anew(size);
            self.out.push(action);
            self.running = Some((self.last_id, next, self.now));
            return;
        }
        let mut writes = std::mem::take(&mut next.raw);
        if next.pages {
            for peer in &mut self.peers {
                let pages = peer.bitmap.unsaved(None);
                writes.extend(peer.bitmap.save_all(peer.slot, &pages));
            }
        }
        if next.empty_log {
            self.log.clear();
        }
        if next.log {
            let payload = self.log.begin_write();
            writes.extend(pair::update(actlog::MAGIC, ACTLOG_AT, self.log.sequence, &payload));
        }
        if next.superblock {
            self.superblock_sequence += 1;
            let payload = self.superblock.encode();
            writes.extend(pair::update(superblock::MAGIC, SUPERBLOCK_AT, self.superblock_sequence, &payload));
        }
        let tag = self.next_id();
        self.out.push(Action::Meta { tag, writes });
        self.running = Some((tag, next, self.now));
    }

    pub(super) fn meta_done(&mut self, tag: u64, result: Result<(), String>) {
        let Some((_, transaction, _)) = self.running.take_if(|(running, ..)| *running == tag) else { return };
        if let Err(reason) = result {
            // If it is gone on without a disk, what follows a transaction follows all the same.
            self.transactions.push_front(transaction);
            self.fail_disk(format!("metadata: {reason}"));
            return;
        }
        if self.disk == DiskState::Failed {
            return;
        }
        if transaction.log || transaction.grow.is_some() {
            self.log.written();
        }
        self.is_durable(transaction.after);
    }

    /// What follows a transaction.
    pub(super) fn is_durable(&mut self, after: Vec<After>) {
        for after in after {
            match after {
                After::Attached => self.attached(),
                After::Heat => self.heated(),
                After::Clean => self.clean_saved(),
                After::Greet(session) => self.greet(session),
                After::Decide(session) => self.send_decision(session),
                After::Ready(session) => self.replica_ready(session),
                After::Answer(session, message) => self.replica_answer(session, *message),
                After::GenerationPersisted(generation) => self.generation_persisted(generation),
                After::GenerationDone(generation) => self.generation_done(generation),
                After::Role => self.role_saved(),
                After::Yielded => self.end_discard(Ok(())),
                After::Grown => self.grown(),
                After::Raised => self.raised(),
            }
        }
    }

    /// Makes everything the log names dirty towards all peers, then empties it together with `superblock`.
    pub(super) fn log_to_bitmaps(&mut self, after: After) {
        self.drop_settled_extents();
        self.mark_log_dirty(None);
        self.transact(Transaction { pages: true, ..Transaction::default() });
        self.empty_log(after);
    }

    /// Empties the log, together with the superblock.
    pub(super) fn empty_log(&mut self, after: After) {
        let after = vec![after];
        self.transact(Transaction {
            superblock: true,
            log: true,
            empty_log: true,
            after,
            ..Transaction::default()
        });
    }

    // ---- cleaning -------------------------------------------------------------------------------------------

    /// Extents that something in flight or unflushed anywhere touches.
    fn busy_extents(&self) -> BTreeSet<u32> {
        let mut busy = BTreeSet::new();
        for op in self.ops.values() {
            busy.extend(op.range.extents());
        }
        for peer in &self.peers {
            peer.inflight.values().for_each(|sent| busy.extend(sent.range.extents()));
            peer.owed().iter().for_each(|range| busy.extend(range.extents()));
        }
        busy
    }

    pub(super) fn pump_clean(&mut self) {
        match self.clean.as_ref().map(|c| c.stage) {
            Some(CleanStage::Flushed) => self.clean_pages(),
            Some(CleanStage::Flushing(_) | CleanStage::Saving) => {}
            None => self.begin_clean(),
        }
    }

    fn begin_clean(&mut self) {
        if self.log.is_empty() || self.transition.is_some() || !self.has_disk() {
            return;
        }
        let pressed = self.clean_wanted || self.log.len() > actlog::HIGH_WATER;
        let idle = self.now.since(self.last_clean) >= self.log_idle;
        if !pressed && !idle {
            return;
        }
        let secondary = self.role == Role::Secondary;
        let settled = match (secondary, pressed) {
            (true, _) => self.durable_seq,
            (false, true) => self.last_seq,
            (false, false) => self.last_clean_seq,
        };
        let busy = self.busy_extents();
        let mut idle_ones: Vec<(u64, u32)> = self
            .log
            .iter()
            .filter(|(extent, entry)| {
                entry.heat == actlog::Heat::Hot && entry.last_seq <= settled && !busy.contains(extent)
            })
            .map(|(extent, entry)| (entry.last_seq, extent))
            .collect();
        idle_ones.sort_unstable();
        idle_ones.truncate(actlog::CAPACITY / 2);
        let repeat = self.now.since(self.last_clean) >= Duration::from_millis(100);
        if idle || repeat {
            self.last_clean = self.now;
            self.last_clean_seq = self.last_seq;
            if let (true, Some(session)) = (secondary && pressed, self.upstream.as_ref().map(|u| u.session)) {
                self.send(session, Message::WantDurable);
            }
        }
        if idle_ones.is_empty() {
            return;
        }
        self.clean_wanted = false;
        let extents = idle_ones.into_iter().map(|(_, extent)| extent).collect();
        let (before, stage) = if secondary {
            (self.durable_seq, CleanStage::Flushed)
        } else {
            (self.last_seq, CleanStage::Flushing(self.start_flush(FlushKind::Clean)))
        };
        self.clean = Some(Clean { extents, before, stage });
    }

    /// The flush of a cleaning is answered everywhere.
    pub(super) fn clean_flushed(&mut self, id: u64) {
        if let Some(clean) = self.clean.as_mut().filter(|c| c.stage == CleanStage::Flushing(id)) {
            clean.stage = CleanStage::Flushed;
        }
    }

    fn clean_pages(&mut self) {
        let Some(clean) = self.clean.clone() else { return };
        if self.peers.iter().any(|p| !p.bitmap.unsaved(Some(&clean.extents)).is_empty()) {
            self.clean = Some(Clean { stage: CleanStage::Saving, ..clean });
            self.transact(Transaction { pages: true, after: vec![After::Clean], ..Transaction::default() });
            return;
        }
        self.clean = None;
        let busy = self.busy_extents();
        let settled: Vec<u32> = self
            .log
            .iter()
            .filter(|(e, entry)| {
                clean.extents.contains(e) && entry.last_seq <= clean.before && !busy.contains(e)
            })
            .map(|(extent, _)| extent)
            .collect();
        settled.iter().for_each(|extent| self.log.remove(*extent));
        if !settled.is_empty() {
            self.transact(Transaction { log: true, after: vec![After::Heat], ..Transaction::default() });
        }
        if self.role == Role::Primary {
            self.tell_durable();
        }
    }

    fn clean_saved(&mut self) {
        if let Some(clean) = self.clean.as_mut().filter(|c| c.stage == CleanStage::Saving) {
            clean.stage = CleanStage::Flushed;
        }
    }

    /// Tells every secondary what is durable everywhere, so that it can clean its log too.
    pub(super) fn tell_durable(&mut self) {
        let durable = self.durable_seq;
        let sessions: Vec<SessionId> =
            self.peers.iter().filter(|p| p.in_replication()).filter_map(|p| p.session).collect();
        for session in sessions {
            self.send(session, Message::Durable(durable));
        }
    }

    /// Drops what certainly is the same everywhere from a secondary's log, before the rest becomes dirty.
    pub(super) fn drop_settled_extents(&mut self) {
        let busy = self.busy_extents();
        let durable = self.durable_seq;
        let settled: Vec<u32> = self
            .log
            .iter()
            .filter(|(extent, entry)| {
                let saved =
                    self.peers.iter().all(|p| p.bitmap.unsaved(Some(&BTreeSet::from([*extent]))).is_empty());
                entry.last_seq <= durable && !busy.contains(extent) && saved
            })
            .map(|(extent, _)| extent)
            .collect();
        settled.iter().for_each(|extent| self.log.remove(*extent));
    }
}
