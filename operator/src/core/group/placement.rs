//! Where a group should be when nothing is wrong: moves of convenience, to a node that is better and not because this one
//! is bad.
//!
//! Such a move interrupts a service that runs, so it needs a reason that has lasted without a break and that outweighs
//! `stickiness`: a node further ahead in `prefer` (`auto_failback`), or one that reaches more gateways
//! ([`gateway`](super::gateway)). Each strictly improves what it is about, so no two of them undo each other.
//!
//! A person's word stands above them: a pinned group makes no such move, and a disabled one is stopped by its leader as
//! if every node were in standby mode and taken over by nobody. Neither touches fencing, promises or the in-sync set.

use super::GroupCore;
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where a group should be, as the specification says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// The group goes back to a more preferred node that has been ready for so long; none = it stays.
    pub failback: Option<Duration>,
    /// By how much more than this another node must be better: places in `prefer`, or gateways reached.
    pub stickiness: u32,
    /// It is led where this group is, and starts after it.
    pub with: Option<GroupName>,
    /// It is rather not led where these groups are.
    pub apart_from: Vec<GroupName>,
}

impl GroupCore {
    /// A person wants the group to stay where it is: no move of convenience.
    pub(super) fn pinned(&self) -> bool {
        self.view().is_some_and(|v| v.wish.pinned.is_some())
    }

    /// Why nobody may run the group, if a person has disabled it.
    pub(super) fn disabled(&self) -> Option<String> {
        let note = self.view()?.wish.disabled.as_ref()?;
        let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
        Some(format!("the group is disabled ({}{reason})", note.owner))
    }

    /// Why a leader that may serve does not start the group: it is about to stop it.
    pub(super) fn rests(&self) -> Option<String> {
        self.disabled().filter(|_| !self.left_alone())
    }

    /// Notes for how long each more preferred node has been ready.
    pub(super) fn watch_preferred(&mut self) {
        let before = std::mem::take(&mut self.preferred_ready);
        if self.cfg.placing.failback.is_none() {
            return;
        }
        let stickiness = usize::try_from(self.cfg.placing.stickiness).unwrap_or(usize::MAX);
        let mine = self.place(&self.cfg.me);
        let ahead = |n: &&NodeName| mine.saturating_sub(self.place(n)) > stickiness;
        let here = self.beside(&self.cfg.me);
        let ready = |n: &&NodeName| self.ready(n).is_ok() && !self.worse_placed(n) && self.beside(n) <= here;
        let good = self.cfg.prefer.iter().filter(ahead).filter(ready).cloned();
        self.preferred_ready = good
            .map(|n| (n.clone(), before.get(&n).copied().unwrap_or(self.now)))
            .collect::<BTreeMap<_, _>>();
    }

    /// The most preferred of the nodes ahead that has been ready for long enough.
    pub(super) fn failback(&self) -> Option<NodeName> {
        let after = self.cfg.placing.failback?;
        let long = |since: &Instant| self.now.since(*since) >= after;
        let ready = self.preferred_ready.iter().filter(|(_, since)| long(since));
        ready.map(|(node, _)| node).min_by_key(|n| self.place(n)).cloned()
    }

    /// Position in `prefer`; a node that is not in it comes after all that are.
    fn place(&self, node: &NodeName) -> usize {
        let prefer = &self.cfg.prefer;
        prefer.iter().position(|n| n == node).unwrap_or(prefer.len())
    }
}
