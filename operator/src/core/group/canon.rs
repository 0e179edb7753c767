//! What of a leadership core can influence its future, for the exhaustive check (tests only): two states that write the same
//! key are taken for one.
//!
//! Left out: texts; what only a leader uses while it does not lead, and what only others use while it does; what the checked
//! configurations never set (failures of services, gateways, fence devices, longer promises, another specification); copies of
//! what [`HeartbeatCore`](crate::core::promises::HeartbeatCore) and the replica say, which are told anew before anything is
//! decided on them. The check compares the successors of states that it took for one, so that a mistake here shows.

use super::{GroupCore, State};
use crate::core::record::Record;
use crate::core::sim::exhaustive::Key;
use baton_replicator::types::Epoch;

impl GroupCore {
    /// Leads this epoch as far as it knows.
    pub(in crate::core) fn leads(&self, epoch: Epoch) -> bool {
        self.state.leads() && self.epoch == epoch
    }

    /// The record as this core knows it.
    pub(in crate::core) fn known_record(&self) -> Option<&Record> {
        self.view()
    }

    /// Writes what may matter later. Ages are in ticks of the check, each up to the longest that a rule asks for.
    pub(in crate::core) fn write_key(&self, key: &mut Key<'_>) {
        key.num(self.state as u8);
        match self.state {
            State::Waiting => key.age(self.since, 1),
            State::Fenced => key.age(self.since, 2),
            State::Joining
            | State::Standby
            | State::Campaigning
            | State::Starting
            | State::Serving
            | State::HandingOver
            | State::Failed => {}
        }
        self.ledger.write_key(key, self.known_since, self.facts.etcd.lease);
        for epoch in [self.durable.known, self.durable.served, self.durable.released] {
            key.epoch(epoch);
        }
        key.flag(self.durable.cluster_id == 0);
        key.flag(self.foreign.is_some());
        key.flag(self.vouched.is_some());
        key.flag(self.facts.etcd.reachable);
        key.lease(self.facts.etcd.lease);
        if self.cfg.volumes.is_empty() {
            key.left(self.facts.etcd.lease_until);
        }
        key.num(self.run.phase as u8);
        key.flag(self.run.free);
        key.flag(self.run.prepared);
        key.left(self.move_at);
        key.count(self.calls.len());
        for call in self.calls.values() {
            key.left(call.retry_at);
        }
        key.count(self.link_down.len());
        for (node, since) in &self.link_down {
            key.node(node);
            key.age(*since, 1);
        }
        key.leader_revision(self.leader_rev);
        let cold = self.leader_rev == 0;
        if cold {
            key.age(self.started, 4);
            key.flag(self.facts.beats.leader_heard.is_some());
        }
        if self.state.leads() {
            self.write_leading(key);
        } else {
            // `deadtime` and the lead of a more preferred node.
            key.age(self.facts.beats.last_holds.max(self.silence_from), 4);
        }
    }

    fn write_leading(&self, key: &mut Key<'_>) {
        key.epoch(self.epoch);
        key.members(&self.set);
        key.count(self.candidates.len());
        for node in &self.candidates {
            key.node(node);
        }
        key.flag(self.handed);
        key.age(self.led_since.max(self.awake_since), 1);
        key.flag(self.admission.is_some());
        if let Some(a) = &self.admission {
            key.members(std::slice::from_ref(&a.member));
            key.flag(a.sent);
        }
        key.flag(self.handover.is_some());
        if let Some(h) = &self.handover {
            key.flag(h.to.is_some());
            if let Some(to) = &h.to {
                key.node(to);
            }
            key.flag(h.stopped.is_some());
            key.flag(h.sent);
            key.flag(h.failed.is_some());
            if let Some(stopped) = h.stopped {
                key.age(stopped, 1);
            }
        }
    }
}
