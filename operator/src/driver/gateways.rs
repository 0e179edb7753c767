//! Which gateways this node reaches, and what the others say that they do, for the groups that ask.

use super::owner::{Owner, Work};
use super::summary::NodeSummary;
use crate::core::group::Event;
use crate::core::promises::PeerFacts;
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::collections::BTreeMap;

impl Owner {
    /// A check of a gateway said something.
    pub(super) fn gateway(&mut self, group: &GroupName, check: String, reached: bool) {
        if let Some(unit) = self.units.get_mut(group) {
            unit.gateways.insert(check, reached);
        }
    }

    /// What this node tells the others.
    pub(super) fn own_gateways(&self) -> Vec<(GroupName, u8)> {
        self.units.iter().filter_map(|(name, unit)| Some((name.clone(), unit.reached()?))).collect()
    }

    /// What the cores are told. One who was not heard within warntime says nothing.
    pub(super) fn gateway_work(&self, peers: &BTreeMap<NodeName, PeerFacts>, now: Instant) -> Vec<Work> {
        if !self.units.values().any(|u| u.asks_gateways()) {
            return Vec::new();
        }
        let fresh = |p: &&PeerFacts| p.heard.is_some_and(|at| now.since(at) < self.timers.warntime);
        let said: Vec<(&NodeName, NodeSummary)> = peers
            .iter()
            .filter(|(_, p)| fresh(p))
            .filter_map(|(n, p)| Some((n, NodeSummary::decode(&p.summary)?)))
            .collect();
        let of = |group: &GroupName| {
            let count = |s: &NodeSummary| s.more.gateways.iter().find(|(g, _)| g == group).map(|(_, n)| *n);
            said.iter().filter_map(|(node, s)| Some(((*node).clone(), count(s)?))).collect()
        };
        let asking = self.units.iter().filter(|(_, u)| u.asks_gateways());
        asking.map(|(g, u)| Work::Core(g.clone(), Event::Gateways(u.reached(), of(g)))).collect()
    }
}
