//! Promotion, demotion, the required set, stopping: what the agent decides, brought into force step by step.
//!
//! ```text
//! promote: Draining ─► Saving (old log dirty; epoch, mark) ─► Device ─► Probing ─► in force
//! resume:  the same, with the device that an earlier process left and, if nobody left the set, its generation
//! demote:  Recording (higher epoch first) ─► Releasing (device) ─► Draining ─► Flushing ─► Saving ─► in force
//! stop:    Draining ─► Flushing ─► Saving ─► stopped
//! ```
//! A device that an earlier process left and that is not resumed is released first, whatever is to come.
//! One change at a time; a command that comes meanwhile waits for it, and replaces one that waited before.

use super::io::Use;
use super::journal::After;
use super::peer::Link;
use super::{Action, Engine, StoreOp, Token};
use crate::api::{Desired, Membership, Problem};
use crate::core::frame::{Message, Refused};
use crate::core::range::Range;
use crate::types::{DiskState, Epoch, EpochRelation, Generation, Instant, Role};
use std::path::PathBuf;

/// Bytes looked at to recognise a filesystem.
const PROBE_BYTES: u64 = 256 << 10;
/// Commands that wait for one change of generation: an agent repeats itself every few seconds.
const WAITING: usize = 32;

/// A change of role under way.
#[derive(Clone, Debug)]
pub(super) struct Transition {
    pub goal: Goal,
    pub step: Step,
    pub since: Instant,
    pub tokens: Vec<Token>,
    /// What to do next.
    pub next: Option<(Token, Desired)>,
}

#[derive(Clone, Debug)]
pub(super) enum Goal {
    Promote(Desired),
    /// True: the epoch is ours, the members can be asked to flush.
    Demote(Desired, bool),
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Recording,
    Releasing,
    Draining,
    Flushing,
    Saving,
    Device,
    Probing,
}

pub(super) fn problem(status: u16, kind: &str, title: &str, detail: String) -> Problem {
    Problem { kind: format!("/problems/{kind}"), title: title.to_owned(), status, detail }
}

impl Engine {
    pub(super) fn done(&mut self, token: Token, result: Result<(), Problem>) {
        self.out.push(Action::Done { token, result });
    }

    pub(super) fn refuse(&mut self, token: Token, kind: &str, title: &str, detail: String) {
        self.done(token, Err(problem(409, kind, title, detail)));
    }

    /// The agent's word.
    pub(super) fn desired(&mut self, token: Token, mut desired: Desired) {
        desired.required.retain(|m| m.node != self.node);
        match self.superblock.epoch.relation(desired.epoch) {
            EpochRelation::Older => {
                let detail =
                    format!("epoch {} is known here, {} is older", self.superblock.epoch, desired.epoch);
                return self.refuse(token, "epoch-too-old", "Epoch too old", detail);
            }
            EpochRelation::Foreign => {
                let detail = format!(
                    "epoch {} is known here, {:?} has another term",
                    self.superblock.epoch, desired.epoch
                );
                return self.refuse(token, "epoch-foreign", "Foreign epoch", detail);
            }
            EpochRelation::Same | EpochRelation::Newer => {}
        }
        if desired.order != 0 && desired.order < self.last_order {
            let detail = "a command that was decided later has arrived before it".into();
            return self.refuse(token, "superseded", "Superseded", detail);
        }
        self.last_order = self.last_order.max(desired.order);
        if self.stopping {
            return self.refuse(token, "stopping", "Stopping", "the replicator is stopping".into());
        }
        if self.disk == DiskState::Attaching {
            let detail = "its metadata is being updated; try again in a moment".into();
            return self.done(token, Err(problem(503, "attaching", "Volume is being attached", detail)));
        }
        if let Some(transition) = self.transition.as_mut() {
            let replaced = transition.next.replace((token, desired));
            if let Some((old, _)) = replaced {
                self.refuse(old, "superseded", "Superseded", "a later command took its place".into());
            }
            return;
        }
        self.begin(token, desired);
    }

    fn begin(&mut self, token: Token, desired: Desired) {
        let newer = self.superblock.epoch.relation(desired.epoch) == EpochRelation::Newer;
        if desired.role == Role::Primary {
            self.stands(desired.membership);
        }
        match (self.role, desired.role) {
            (Role::Secondary, Role::Secondary) if self.device_left => self.discard_device(token, desired),
            (Role::Secondary, Role::Secondary) if newer => {
                if let Some(session) = self.upstream.as_ref().map(|u| u.session) {
                    self.superblock.epoch = desired.epoch;
                    self.send(session, Message::Refused(Refused::EpochTooOld));
                    self.close(session, "the agent knows a higher epoch");
                }
                self.superblock.epoch = desired.epoch;
                self.set_transition(Goal::Demote(desired, false), Step::Saving, token);
                self.log_to_bitmaps(After::Role);
                self.last_primary = None;
            }
            (Role::Secondary, Role::Secondary) => self.done(token, Ok(())),
            (Role::Secondary, Role::Primary) => self.begin_promotion(token, desired),
            (Role::Primary, Role::Primary) if newer => self.renew(token, desired),
            (Role::Primary, Role::Primary) => {
                self.set_required(desired.clone());
                if !self.front_end && self.has_disk() {
                    // The kernel closed the device: make it again.
                    self.set_transition(Goal::Promote(desired), Step::Device, token);
                    self.front_end = true;
                    self.make_device();
                    return;
                }
                self.waiting_tokens.push(token);
                if self.waiting_tokens.len() > WAITING {
                    let oldest = self.waiting_tokens.remove(0);
                    self.refuse(oldest, "superseded", "Superseded", "a later command took its place".into());
                }
                self.answer_waiting();
            }
            (Role::Primary, Role::Secondary) => {
                if newer {
                    self.deposed.get_or_insert_with(|| format!("the agent knows epoch {}", desired.epoch));
                }
                let orderly = !newer && self.deposed.is_none();
                let epoch = desired.epoch;
                if newer && self.has_disk() {
                    self.superblock.epoch = epoch;
                    self.close_all_sessions("deposed");
                    self.set_transition(Goal::Demote(desired, false), Step::Recording, token);
                    self.save_superblock(After::Role);
                } else {
                    self.set_transition(Goal::Demote(desired, orderly), Step::Releasing, token);
                    self.release_device();
                }
            }
        }
    }

    pub(super) fn set_transition(&mut self, goal: Goal, step: Step, token: Token) {
        self.transition = Some(Transition { goal, step, since: self.now, tokens: vec![token], next: None });
    }

    pub(super) fn step(&mut self, step: Step) {
        let now = self.now;
        if let Some(transition) = self.transition.as_mut() {
            (transition.step, transition.since) = (step, now);
        }
    }

    // ---- promotion ------------------------------------------------------------------------------------------

    fn begin_promotion(&mut self, token: Token, desired: Desired) {
        let sb = &self.superblock;
        let empty = sb.generation == Generation(0);
        if desired.epoch == Epoch::ZERO {
            return self.refuse(token, "epoch-too-old", "Epoch too old", "epoch 0 leads nothing".into());
        }
        if !self.has_disk() {
            return self.refuse(token, "disk-failed", "Disk failed", "this replica cannot serve".into());
        }
        if desired.membership == Membership::Left {
            let detail = "this node is not in the in-sync set: others have writes that it lacks".into();
            return self.refuse(token, "not-in-sync", "Not promotable", detail);
        }
        if sb.inconsistent && !empty && !desired.accept_data_loss {
            let detail = "the data is a mixture of old and new blocks: an unfinished resync".into();
            return self.refuse(token, "inconsistent", "Not promotable", detail);
        }
        if self.discard.is_some() {
            let detail =
                "a copy of its data is being made, because the data is given up; try again when it is done";
            return self.refuse(token, "discarding", "Not promotable", detail.into());
        }
        self.close_all_sessions("this replica is being promoted");
        let releases = self.device_left && !self.resumes(&desired);
        let step = if releases { Step::Releasing } else { Step::Draining };
        self.set_transition(Goal::Promote(desired), step, token);
        if releases {
            self.out.push(Action::StopFrontEnd { force: true });
        }
    }

    /// The leadership that is asked for is the one whose device was left, so whoever has it open has seen no other data.
    fn resumes(&self, desired: &Desired) -> bool {
        let sb = &self.superblock;
        self.device_left && sb.was_primary && sb.epoch.relation(desired.epoch) == EpochRelation::Same
    }

    /// The data's generation was in force when the process died, and those who have it are the members now.
    fn generation_stands(&self) -> bool {
        let sb = &self.superblock;
        let has_it = |peer: usize| {
            let slot = sb.peers[self.peers[peer].slot].as_ref();
            slot.is_some_and(|s| s.tracking && s.base == sb.generation)
        };
        sb.generation != Generation(0)
            && sb.pending == Generation(0)
            && (0..self.peers.len()).all(|peer| has_it(peer) == self.is_required(peer))
    }

    /// A device of a leadership that is over: its I/O fails, and what its log names becomes dirty.
    fn discard_device(&mut self, token: Token, desired: Desired) {
        let newer = self.superblock.epoch.relation(desired.epoch) == EpochRelation::Newer;
        if let Some(session) = self.upstream.as_ref().map(|u| u.session) {
            if newer {
                self.superblock.epoch = desired.epoch;
                self.send(session, Message::Refused(Refused::EpochTooOld));
            }
            self.close(session, "a device of an earlier leadership is taken away");
        }
        self.superblock.epoch = desired.epoch;
        self.last_primary = None;
        self.set_transition(Goal::Demote(desired, false), Step::Releasing, token);
        self.out.push(Action::StopFrontEnd { force: true });
    }

    pub(super) fn save_promotion(&mut self, desired: &Desired) {
        self.step(Step::Saving);
        let resumes = self.resumes(desired);
        self.superblock.epoch = desired.epoch;
        self.superblock.was_primary = true;
        self.superblock.inconsistent = false;
        self.superblock.partial = false;
        self.superblock.yields = Generation(0);
        self.reset_leadership();
        self.required.clone_from(&desired.required);
        for peer in 0..self.peers.len() {
            self.peers[peer].trusted = self.is_required(peer);
        }
        if resumes && self.generation_stands() {
            self.peers.iter_mut().for_each(|p| p.resumed = p.trusted);
        } else {
            self.start_generation();
        }
        self.log_to_bitmaps(After::Role);
    }

    fn reset_leadership(&mut self) {
        self.deposed = None;
        self.forget_flushes();
        self.by_seq.clear();
        self.held.clear();
        (self.last_seq, self.durable_seq) = (0, 0);
        self.last_primary = None;
        for peer in 0..self.peers.len() {
            self.set_link(peer, Link::Down, None);
            self.peers[peer].at_odds = None;
            self.peers[peer].unflushed = Default::default();
            self.peers[peer].trusted = false;
            self.peers[peer].resumed = false;
        }
    }

    /// A new epoch for the node that leads already: everyone else comes back through a handshake.
    fn renew(&mut self, token: Token, desired: Desired) {
        self.superblock.epoch = desired.epoch;
        self.deposed = None;
        self.close_all_sessions("a new epoch begins");
        let before = std::mem::replace(&mut self.required, desired.required);
        self.write_off_removed(&before);
        for peer in 0..self.peers.len() {
            self.peers[peer].trusted = self.is_required(peer);
            self.peers[peer].resumed = false;
        }
        for peer in 0..self.peers.len() {
            self.peers[peer].at_odds = None;
            if self.peers[peer].link == Link::StandAlone {
                self.set_link(peer, Link::Down, None);
            }
        }
        for peer in 0..self.peers.len() {
            self.dial(peer, false); // Again when the epoch is durable.
        }
        self.start_generation();
        self.save_superblock(After::Role);
        self.waiting_tokens.push(token);
    }

    pub(super) fn front_end_started(&mut self, result: Result<PathBuf, String>) {
        self.device_left = false; // Taken over, or gone.
        let promoting = self.transition.as_ref().is_some_and(|t| t.step == Step::Device);
        if result.is_ok() {
            self.device_made();
        }
        match result {
            Ok(path) if promoting => {
                self.device = Some(path);
                self.step(Step::Probing);
                self.probe();
            }
            Ok(_) => {}
            Err(reason) if promoting => {
                self.front_end = false;
                self.leave_primary("no device");
                self.finish(Err(problem(500, "front-end", "No block device", reason)));
            }
            Err(reason) => {
                self.front_end = false;
                self.alarm(format!("the front end ended: {reason}"));
                if self.transition.as_ref().is_some_and(|t| t.step == Step::Releasing) {
                    self.step(Step::Draining); // It was being taken away while it was starting.
                }
            }
        }
    }

    pub(super) fn probe(&mut self) {
        if !self.has_disk() {
            return; // What was found when there was one stands.
        }
        let tag = self.next_id();
        let range = Range { start: 0, end: PROBE_BYTES.min(self.superblock.offered) };
        self.submit(tag, Use::Probe, StoreOp::Read(range));
    }

    pub(super) fn probed(&mut self, found: Option<String>) {
        self.filesystem = found;
        if self.transition.as_ref().is_some_and(|t| t.step == Step::Probing) {
            self.finish(Ok(()));
        }
    }

    // ---- the required set -----------------------------------------------------------------------------------

    fn set_required(&mut self, desired: Desired) {
        if self.required == desired.required {
            return;
        }
        let before = std::mem::replace(&mut self.required, desired.required);
        for peer in 0..self.peers.len() {
            let node = &self.peers[peer].node;
            let was = before.iter().any(|m| m.node == *node);
            let connected = self.peers[peer].link == Link::Connected;
            self.peers[peer].trusted =
                self.is_required(peer) && (connected || was && self.peers[peer].trusted);
        }
        let removed = self.write_off_removed(&before);
        if removed {
            self.start_generation();
        } else {
            self.tell_all_members();
            self.progress();
        }
    }

    /// What those who were taken out may lack becomes dirty. True if somebody was.
    fn write_off_removed(&mut self, before: &[crate::types::Member]) -> bool {
        let mut removed = false;
        for member in before.iter().filter(|m| !self.required.contains(m)) {
            removed = true;
            let Some(peer) = self.peer_index(&member.node) else { continue };
            self.peers[peer].settled = false;
            self.peers[peer].settling = None;
            self.peers[peer].resumed = false;
            if self.peers[peer].in_replication() || self.is_required(peer) {
                continue; // It still gets everything.
            }
            self.peers[peer].write_off();
            let missing: Vec<Range> = self
                .by_seq
                .values()
                .filter_map(|id| self.ops.get(id))
                .filter(|op| op.acked & 1 << peer == 0)
                .map(|op| op.range)
                .collect();
            missing.into_iter().for_each(|range| self.peers[peer].bitmap.mark(range));
        }
        removed
    }

    /// Commands that wait for a change of generation.
    pub(super) fn answer_waiting(&mut self) {
        if self.generation.is_none() {
            for token in std::mem::take(&mut self.waiting_tokens) {
                self.done(token, Ok(()));
            }
        }
    }

    pub(super) fn serve_until(&mut self, epoch: Epoch, until: Instant) {
        // Remembered also before the epoch is in force; it counts only for its own epoch.
        if self.until.is_none_or(|(known, _)| known.number <= epoch.number) {
            self.until = Some((epoch, until));
        }
        self.release_held();
    }

    pub(super) fn finish(&mut self, result: Result<(), Problem>) {
        let Some(transition) = self.transition.take() else { return };
        for token in transition.tokens {
            self.done(token, result.clone());
        }
        if let Some((token, desired)) = transition.next {
            self.desired(token, desired);
        }
    }

    /// The disk failed in the middle of it.
    pub(super) fn fail_transition(&mut self, reason: &str) {
        let failed = problem(500, "disk-failed", "Disk failed", reason.to_owned());
        for token in std::mem::take(&mut self.waiting_tokens) {
            self.done(token, Err(failed.clone()));
        }
        let demoting = self.transition.as_ref().is_some_and(|t| matches!(t.goal, Goal::Demote(..)));
        if !demoting {
            self.finish(Err(failed));
        }
    }
}
