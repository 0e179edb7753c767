//! The way to the gateways as a reason to prefer another node (Heartbeat's ipfail).
//!
//! Every node counts the gateways that it reaches and tells the others. A group follows only to a node that is ready and
//! has been better without a break for `gateway_hold`; who does not know its own count, or is not heard, is not compared.
//! So nothing moves when the gateway itself is gone, and a node that is better for a moment only gains nothing.

use super::GroupCore;
use baton_replicator::types::{Instant, NodeName};
use std::collections::BTreeMap;

/// What is known of the gateways.
#[derive(Clone, Debug, Default)]
pub(super) struct Gateways {
    own: Option<u8>,
    others: BTreeMap<NodeName, u8>,
    /// Since when a node has reached more of them than this one.
    better: BTreeMap<NodeName, Instant>,
}

impl GroupCore {
    /// Takes what the nodes reach now.
    pub(super) fn gateways(&mut self, own: Option<u8>, others: BTreeMap<NodeName, u8>) {
        let now = self.now;
        let g = &mut self.gateways;
        (g.own, g.others) = (own, others);
        let stickiness = self.cfg.placing.stickiness;
        let better = |n: &u8| own.is_some_and(|own| u32::from(n.saturating_sub(own)) > stickiness);
        g.better.retain(|node, _| g.others.get(node).is_some_and(better));
        for (node, _) in g.others.iter().filter(|(_, n)| better(n)) {
            g.better.entry(node.clone()).or_insert(now);
        }
    }

    /// A ready node that has been better for long enough, and why it is.
    pub(super) fn better_placed(&self) -> Option<(NodeName, String)> {
        let g = &self.gateways;
        let long = |since: &Instant| self.now.since(*since) >= self.cfg.gateway_hold;
        let nodes = g.better.iter().filter(|(_, since)| long(since)).map(|(node, _)| node);
        let node = nodes.filter(|n| self.ready(n).is_ok()).max_by_key(|n| g.others.get(*n))?;
        let (theirs, own) = (g.others.get(node).copied().unwrap_or_default(), g.own.unwrap_or_default());
        let s = if theirs == 1 { "" } else { "s" };
        let seconds = self.cfg.gateway_hold.as_secs();
        let why = format!("{node} has reached {theirs} gateway{s}, this node {own}, for {seconds} s");
        Some((node.clone(), why))
    }

    /// It is known to reach fewer gateways than this node.
    pub(super) fn worse_placed(&self, node: &NodeName) -> bool {
        let g = &self.gateways;
        g.own.zip(g.others.get(node)).is_some_and(|(own, theirs)| *theirs < own)
    }
}
