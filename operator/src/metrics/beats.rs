//! Counts heartbeats as they arrive. Every handle is made beforehand: the heartbeat thread takes no lock and no memory
//! for it.

use super::live;
use baton_replicator::types::{Instant, NodeName};
use prometheus::{Counter, Histogram};
use std::collections::BTreeMap;

/// The heartbeat thread's counters.
#[derive(Debug)]
pub struct Beats(BTreeMap<NodeName, Peer>);

#[derive(Debug)]
struct Peer {
    gaps: Histogram,
    /// By the number of the link.
    links: Vec<(Counter, Histogram, Option<Instant>)>,
    last: Option<Instant>,
}

impl Beats {
    /// For these peers with their links: the address of each, or what it is called.
    #[must_use]
    pub fn new(peers: &BTreeMap<NodeName, Vec<String>>) -> Self {
        let live = live();
        let link = |node: &NodeName, name: &String| {
            let labels = [node.as_str(), name.as_str()];
            let count = live.counter("baton_heartbeats_received_total", &labels);
            (count, live.histogram("baton_heartbeat_link_gap_seconds", &labels), None)
        };
        let peer = |(node, links): (&NodeName, &Vec<String>)| {
            let gaps = live.histogram("baton_heartbeat_gap_seconds", &[node.as_str()]);
            (
                node.clone(),
                Peer { gaps, links: links.iter().map(|name| link(node, name)).collect(), last: None },
            )
        };
        Self(peers.iter().map(peer).collect())
    }

    /// A valid heartbeat came by a link; `first` if not by another link before.
    pub fn came(&mut self, from: &NodeName, link: usize, first: bool, now: Instant) {
        let Some(peer) = self.0.get_mut(from) else { return };
        if let Some((count, gaps, last)) = peer.links.get_mut(link) {
            count.inc();
            if let Some(last) = last.replace(now) {
                gaps.observe(now.since(last).as_secs_f64());
            }
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
        let links = vec!["10.9.0.1".to_owned(), "broadcast eth1".to_owned()];
        let mut beats = Beats::new(&BTreeMap::from([(node.clone(), links)]));
        for n in 1..=3u64 {
            beats.came(&node, 0, true, Instant(n * 100_000_000));
            beats.came(&node, 1, false, Instant(n * 100_000_000 + 1));
        }
        let peer = &beats.0[&node];
        assert_eq!(peer.gaps.get_sample_count(), 2);
        assert!((peer.gaps.get_sample_sum() - 0.2).abs() < 1e-9);
        assert!(peer.links.iter().all(|(_, gaps, _)| gaps.get_sample_count() == 2));
        assert!(peer.links.iter().all(|(l, ..)| (l.get() - 3.0).abs() < f64::EPSILON));
    }
}
