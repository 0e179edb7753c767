//! Counts heartbeats as they arrive. Every handle is made beforehand: the heartbeat thread takes no lock and no memory
//! for it.

use super::live;
use baton_replicator::types::{Instant, NodeName};
use prometheus::{Counter, Histogram};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The heartbeat thread's counters.
#[derive(Debug)]
pub struct Beats(BTreeMap<NodeName, Peer>);

#[derive(Debug)]
struct Peer {
    gaps: Histogram,
    links: BTreeMap<IpAddr, Counter>,
    last: Option<Instant>,
}

impl Beats {
    /// For these peers with their addresses, one per link.
    #[must_use]
    pub fn new(peers: &BTreeMap<NodeName, Vec<IpAddr>>) -> Self {
        let live = live();
        let link = |node: &NodeName, address: &IpAddr| {
            let shown = address.to_string();
            (*address, live.counter("baton_heartbeats_received_total", &[node.as_str(), &shown]))
        };
        let peer = |(node, links): (&NodeName, &Vec<IpAddr>)| {
            let gaps = live.histogram("baton_heartbeat_gap_seconds", &[node.as_str()]);
            (node.clone(), Peer { gaps, links: links.iter().map(|a| link(node, a)).collect(), last: None })
        };
        Self(peers.iter().map(peer).collect())
    }

    /// A valid heartbeat came by a link; `first` if not by another link before.
    pub fn came(&mut self, from: &NodeName, address: IpAddr, first: bool, now: Instant) {
        let Some(peer) = self.0.get_mut(from) else { return };
        if let Some(link) = peer.links.get(&address) {
            link.inc();
        }
        if first && let Some(last) = peer.last.replace(now) {
            peer.gaps.observe(now.since(last).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_between_first_arrivals_and_links_count_all() {
        let node = NodeName::new("beats-test").unwrap();
        let links: Vec<IpAddr> = vec!["10.9.0.1".parse().unwrap(), "10.9.1.1".parse().unwrap()];
        let mut beats = Beats::new(&BTreeMap::from([(node.clone(), links.clone())]));
        for n in 1..=3u64 {
            beats.came(&node, links[0], true, Instant(n * 100_000_000));
            beats.came(&node, links[1], false, Instant(n * 100_000_000 + 1));
        }
        let peer = &beats.0[&node];
        assert_eq!(peer.gaps.get_sample_count(), 2);
        assert!((peer.gaps.get_sample_sum() - 0.2).abs() < 1e-9);
        assert!(peer.links.values().all(|l| (l.get() - 3.0).abs() < f64::EPSILON));
    }
}
