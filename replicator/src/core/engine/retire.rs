//! Giving a role up: releasing the device, draining, flushing, and what becomes of the activity log.
//!
//! An orderly demotion ends with an empty log, because every member has everything durably; any other makes
//! what the log names dirty towards everyone, durably, before the log is used again.

use super::flush::FlushKind;
use super::io::{Origin, Use};
use super::journal::{After, Transaction};
use super::role::{Goal, Step, Transition, problem};
use super::{Action, Engine, StoreOp, Token};
use crate::api::Membership;
use crate::types::{DiskState, Role};
use std::time::Duration;

impl Engine {
    pub(super) fn release_device(&mut self) {
        let force = match self.transition.as_ref().map(|t| &t.goal) {
            Some(Goal::Demote(desired, _)) => desired.force,
            Some(Goal::Promote(_) | Goal::Stop) | None => true,
        };
        if !self.front_end {
            self.step(Step::Draining);
        } else {
            self.out.push(Action::StopFrontEnd { force });
        }
    }

    pub(super) fn front_end_stopped(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.front_end = false;
                self.device_left = false;
                self.device = None;
                self.filesystem = None;
                if self.transition.as_ref().is_some_and(|t| t.step == Step::Releasing) {
                    self.step(Step::Draining);
                } else if self.role == Role::Primary {
                    self.alarm(
                        "the device went away by itself; it must be demoted and promoted again".into(),
                    );
                }
            }
            Err(reason) => {
                if self.transition.as_ref().is_some_and(|t| t.step == Step::Releasing) {
                    self.finish(Err(problem(409, "busy", "Device in use", reason)));
                }
            }
        }
    }

    /// Stop in order.
    pub(super) fn stop(&mut self, token: Token, even_primary: bool) {
        if self.role == Role::Primary && !even_primary {
            let detail = "it is primary; demote it first".into();
            return self.refuse(token, "primary", "Volume is primary", detail);
        }
        if self.stopping || !self.has_disk() {
            return self.done(token, Ok(()));
        }
        self.stopping = true;
        if let Some(transition) = self.transition.take() {
            let waiting = transition.tokens.into_iter().chain(transition.next.map(|(t, _)| t));
            for other in waiting.collect::<Vec<_>>() {
                self.refuse(other, "stopping", "Stopping", "the replicator is stopping".into());
            }
        }
        self.end_discard(Err("the replicator stops".into()));
        self.close_all_sessions("the replicator stops");
        self.dial_all();
        self.set_transition(Goal::Stop, Step::Draining, token);
    }

    fn local_work_done(&self) -> bool {
        let running = |u: &Use| matches!(u, Use::Op(_));
        !self.store.values().any(|(u, _)| running(u))
    }

    pub(super) fn transition_blocks_generation(&self) -> bool {
        matches!(&self.transition, Some(t) if matches!(t.goal, Goal::Demote(..) | Goal::Stop))
    }

    /// Whatever step of the change can end, ends.
    pub(super) fn pump_role(&mut self) {
        let Some(transition) = &self.transition else { return };
        let (goal, step, since) = (transition.goal.clone(), transition.step, transition.since);
        match (goal, step) {
            (Goal::Promote(desired), Step::Draining) => {
                self.drop_unstarted_remote();
                self.drop_full();
                if self.local_work_done() {
                    self.save_promotion(&desired);
                }
            }
            (Goal::Demote(..), _) if self.disk == DiskState::Failed && step != Step::Releasing => {
                self.demoted()
            }
            (Goal::Demote(_, orderly), Step::Draining) => {
                let unanswered =
                    self.ops.values().any(|op| matches!(op.origin, Origin::Front(_) | Origin::Chunk(_)));
                if unanswered && orderly {
                    // A moment for acknowledgements that are on their way.
                    if self.now.since(since) <= Duration::from_millis(self.config.peer_timeout_ms) {
                        return;
                    }
                    if let Some(Transition { goal: Goal::Demote(_, orderly), .. }) = self.transition.as_mut()
                    {
                        *orderly = false;
                    }
                }
                self.abort_front();
                if self.local_work_done() {
                    self.step(Step::Flushing);
                    self.forget_flushes();
                    self.start_flush(FlushKind::Role);
                }
            }
            (Goal::Demote(_, orderly), Step::Flushing) => {
                let patience =
                    if orderly { Duration::from_millis(self.config.peer_timeout_ms) } else { Duration::ZERO };
                if self.now.since(since) > patience {
                    self.save_demotion(false); // Not everyone answered: the log becomes dirty.
                }
            }
            (Goal::Stop, Step::Draining) => {
                self.drop_unstarted_remote();
                self.drop_full();
                if self.local_work_done() {
                    self.step(Step::Flushing);
                    let tag = self.next_id();
                    self.submit(tag, Use::StopFlush, StoreOp::Flush);
                }
            }
            (Goal::Promote(_) | Goal::Demote(..) | Goal::Stop, _) => {} // Waits for an event.
        }
    }

    /// The flush of a demotion or stop is answered.
    pub(super) fn role_flushed(&mut self) {
        let Some(transition) = self.transition.as_ref().filter(|t| t.step == Step::Flushing) else { return };
        match transition.goal {
            Goal::Demote(_, orderly) => self.save_demotion(orderly),
            Goal::Stop => {
                self.step(Step::Saving);
                self.superblock.clean = true;
                if self.role == Role::Secondary {
                    self.drop_settled_extents();
                }
                let after = vec![After::Role];
                self.transact(Transaction { pages: true, ..Transaction::default() });
                self.transact(Transaction { superblock: true, log: true, after, ..Transaction::default() });
            }
            Goal::Promote(_) => {}
        }
    }

    /// `settled`: every member has everything durably, so the log has done its duty.
    fn save_demotion(&mut self, settled: bool) {
        self.step(Step::Saving);
        self.superblock.was_primary = false;
        let caught_up = !self.peers.iter().any(|p| p.resumed);
        let settled = settled && caught_up && self.by_seq.is_empty() && self.generation.is_none();
        if settled {
            self.durable_seq = self.last_seq;
            self.tell_durable();
        }
        for peer in 0..self.peers.len() {
            if !settled || !self.counts(peer) {
                self.peers[peer].write_off();
            }
        }
        if !settled {
            self.mark_log_dirty(None);
        }
        self.transact(Transaction { pages: true, ..Transaction::default() });
        self.empty_log(After::Role);
    }

    /// The step's metadata is durable.
    pub(super) fn role_saved(&mut self) {
        let Some(transition) = &self.transition else {
            self.dial_all(); // A renewed epoch.
            self.answer_waiting();
            return;
        };
        match (transition.goal.clone(), transition.step) {
            (Goal::Promote(_), Step::Saving) => {
                self.role = Role::Primary;
                self.disk = DiskState::UpToDate;
                self.step(Step::Device);
                self.front_end = true;
                self.make_device();
                self.dial_all();
            }
            (Goal::Demote(..), Step::Recording) => {
                self.step(Step::Releasing);
                self.release_device();
            }
            (Goal::Demote(..), Step::Saving) => self.demoted(),
            (Goal::Stop, Step::Saving) => {
                self.disk = DiskState::Diskless;
                self.finish(Ok(()));
            }
            (_, _) => {}
        }
    }

    fn demoted(&mut self) {
        if self.role == Role::Primary {
            self.leave_primary("this replica is secondary now");
        }
        self.finish(Ok(()));
    }

    pub(super) fn leave_primary(&mut self, reason: &str) {
        self.role = Role::Secondary;
        self.abort_front();
        self.forget_flushes();
        self.close_all_sessions(reason);
        self.dial_all();
        self.required.clear();
        self.generation = None;
        self.deposed = None;
        self.until = None;
        self.peers.iter_mut().for_each(|p| p.at_odds = None); // Whoever leads next finds out anew.
        self.membership = Membership::Untold;
        if self.has_disk() {
            self.disk = DiskState::Consistent;
        }
    }
}
