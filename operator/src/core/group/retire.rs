//! A specification that changes under a running group, and leaving for good when it has no place for it any more.
//!
//! A group that is gone is stopped by its leader as if every node were in standby mode: services in order, volumes
//! flushed and demoted, the leader key deleted. Standbys go on acknowledging and replicating until then, so that the
//! in-sync set stays true and the group could be added again. A node that is gone hands the group over and goes on as
//! a standby that never campaigns until the leader has taken it out of the in-sync set and of the candidates: only
//! then may it stop acknowledging, because only then does nobody wait for it.

use super::{GroupConfig, GroupCore, Handover, Leaving, Retire, State};

impl GroupCore {
    /// Takes a changed specification over. Epochs, promises and the record are not touched: what differs from them
    /// follows from the next step. What failed before may work now.
    pub(super) fn configured(&mut self, cfg: GroupConfig) {
        assert!(
            cfg.group == self.cfg.group && cfg.me == self.cfg.me && cfg.volumes == self.cfg.volumes,
            "a core belongs to one group, one node and one set of volumes"
        );
        self.cfg = cfg;
        self.forget_failures();
    }

    /// Why this node does not lead the group any more, if the specification says so.
    pub(super) fn retiring(&self) -> Option<&'static str> {
        Some(match self.cfg.retire? {
            Retire::Group => "the group is no longer in the specification",
            Retire::Node => "this node is no longer in the specification",
        })
    }

    /// Begins to stop a group that is gone or disabled; true if so.
    pub(super) fn stop_for_good(&mut self) -> bool {
        let gone = self.retiring().filter(|_| self.cfg.retire == Some(Retire::Group)).map(str::to_owned);
        let disabled = self.disabled();
        // Who disables a group that cannot be stopped in order does not want it started again.
        let must = gone.is_none();
        let why = gone.or(disabled).or_else(|| self.stops_with());
        let Some(why) = why.filter(|_| self.facts.etcd.reachable) else { return false };
        if !self.company_gone(Leaving::Stop, true) {
            return true;
        }
        self.handover = Some(Handover { to: None, stopped: None, sent: false, failed: None, must });
        self.become_(State::HandingOver, format!("stops: {why}"));
        true
    }

    /// Nothing of the group is left on this node and nobody counts on it: the unit may be dropped.
    #[must_use]
    pub fn retired(&self) -> bool {
        let Some(retire) = self.cfg.retire else { return false };
        if self.state != State::Standby || !self.ledger.settled() || !self.let_go() {
            return false;
        }
        let Some(view) = self.view() else { return false };
        match retire {
            // Before the first start there is nothing to wait for either.
            Retire::Group => view.leader.is_none(),
            Retire::Node => {
                let me = &self.cfg.me;
                view.leader.as_ref().is_none_or(|l| l.value.node != *me)
                    && !view.members().iter().any(|m| m.node == *me)
                    && !view.candidates().contains(me)
            }
        }
    }

    /// Every node that a record, a promise or an admission names: their heartbeats still matter.
    #[must_use]
    pub fn counts_on(&self) -> Vec<baton_replicator::types::NodeName> {
        let view = self.view();
        let members = view.map(|v| v.members().to_vec()).unwrap_or_default().into_iter().map(|m| m.node);
        let candidates = view.map(|v| v.candidates().to_vec()).unwrap_or_default();
        let leader = view.and_then(|v| v.leader.as_ref()).map(|l| l.value.node.clone());
        members
            .chain(candidates)
            .chain(leader)
            .chain(self.promisers())
            .chain(self.candidates.clone())
            .collect()
    }

    /// The etcd that answers is not the one that was known: what it says is not followed.
    #[must_use]
    pub fn foreign(&self) -> bool {
        self.foreign.is_some()
    }
}
