//! A backing store without space: an error that passes, unlike all others.
//!
//! A write that finds no space is not acknowledged and not given up: it keeps its place and is tried again until it has
//! been written whole. On a primary I/O freezes meanwhile, with the reason in status, since every write that follows
//! would fail too and an application that gets errors would have to be repaired. A secondary ends its session, so that
//! the primary goes on without it, and is accepted again by itself when there is space.
//!
//! Only writes are treated so. A flush that finds no space has lost what was acknowledged before, and metadata is
//! allocated when it is made: there it is an error like any other.

use super::io::{Origin, Use, Work};
use super::{Action, Engine};
use crate::types::Role;
use std::time::Duration;

/// How often a write is tried again: soon enough for a person who waits, rarely enough for a disk that is full.
const AGAIN: Duration = Duration::from_secs(1);

impl Engine {
    /// A store command found no space; true if it is a write, which waits for some.
    pub(super) fn waits_for_space(&mut self, what: &Use, reason: &str) -> bool {
        let Use::Op(id) = *what else { return false };
        if !self.has_disk() {
            return false;
        }
        let Some(op) = self.ops.get(&id) else { return true }; // Given up meanwhile.
        let origin = op.origin;
        if origin == Origin::Clear {
            self.not_cleared(id, reason);
            return true;
        }
        if !matches!(op.work, Work::Write(_) | Work::Zero { .. }) {
            return false;
        }
        if self.full.is_empty() {
            let text = format!("the backing store is full: {reason}; make space, it goes on by itself");
            self.alarm(text.clone());
            self.disk_reason = Some(text);
        }
        self.full.insert(id, self.now);
        if self.role == Role::Secondary
            && let Origin::Remote { session, .. } = origin
            && self.sessions.contains_key(&session)
        {
            self.close(session, "the backing store is full");
        }
        true
    }

    /// A store command succeeded: if it had waited for space, there is some.
    pub(super) fn has_space(&mut self, tag: u64) {
        if self.full.remove(&tag).is_some() && self.full.is_empty() {
            self.space_is_back();
        }
    }

    fn space_is_back(&mut self) {
        self.disk_reason = None;
        self.out.push(Action::Note("the backing store has space again".into()));
    }

    /// Tries again what waits.
    pub(super) fn tick_full(&mut self) {
        if !self.has_disk() {
            return;
        }
        let due: Vec<u64> = self
            .full
            .iter()
            .filter(|(id, tried)| self.now.since(**tried) >= AGAIN && !self.store.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some((range, work)) = self.ops.get(&id).map(|op| (op.range, op.work.clone())) else {
                self.forget_full(id);
                continue;
            };
            self.full.insert(id, self.now);
            self.submit(id, Use::Op(id), Self::store_op(range, work));
        }
    }

    /// It is not tried again; true if the store is not at it either.
    pub(super) fn forget_full(&mut self, id: u64) -> bool {
        let waited = self.full.remove(&id).is_some();
        if waited && self.full.is_empty() {
            self.disk_reason = None;
        }
        waited && !self.store.contains_key(&id)
    }

    /// A change of role does not wait for space: what waits was never acknowledged by anybody.
    pub(super) fn drop_full(&mut self) {
        let all: Vec<u64> = self.full.keys().copied().filter(|id| !self.store.contains_key(id)).collect();
        for id in all.into_iter().rev() {
            self.drop_op(id);
        }
    }
}
