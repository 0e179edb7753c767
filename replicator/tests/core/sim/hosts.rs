//! Hosts are replaced in the middle of a storm: a machine with an empty disk joins the specification, is filled, and one
//! of the others is taken out and shut down for good. Agents take each version over when they get to it; half of the
//! seeds begin with replicas whose slots are nearly all taken.
//!
//! Judged by: whoever joins the set holds every acknowledged write; a replica that was left out is in nobody's status;
//! only one that must still acknowledge may not be left out.

use super::Sim;
use crate::world::name;
use std::collections::BTreeSet;

/// Of the eight slots this many are taken before the storm.
const TAKEN: usize = 6;

pub struct Hosts {
    /// The specification.
    pub spec: BTreeSet<usize>,
    /// Shut down for good.
    pub gone: BTreeSet<usize>,
    /// How many the specification has when nobody is being replaced.
    nodes: usize,
    pub replacing: bool,
    pub replaced: u64,
    begun: bool,
    /// Joined to take somebody's place.
    fresh: Option<usize>,
}

impl Hosts {
    pub fn new(nodes: usize) -> Self {
        let (spec, gone) = ((0..nodes).collect(), BTreeSet::new());
        Self { spec, gone, nodes, replacing: false, replaced: 0, begun: false, fresh: None }
    }
}

impl Sim {
    /// Everybody that the specification or a record names.
    fn counted_on(&self) -> BTreeSet<usize> {
        let records = self.insync.keys().chain(self.required.keys()).chain(&self.leader);
        self.hosts.spec.iter().chain(records).copied().collect()
    }

    pub(super) fn replace_hosts(&mut self, more: bool) {
        if !self.hosts.replacing {
            return;
        }
        if !std::mem::replace(&mut self.hosts.begun, true) && self.seed.is_multiple_of(2) {
            self.fill_slots();
        }
        if self.w.random.chance(3) {
            self.mend_all();
        }
        self.take_over_spec();
        self.shut_down();
        if self.hosts.spec.len() > self.hosts.nodes {
            self.take_one_out();
        } else if more && self.counted_on().len() == self.hosts.nodes && self.w.random.chance(10) {
            let fresh = self.w.join(self.counted_on());
            self.w.start(fresh);
            self.note(format!("{} joins the specification", name(fresh)));
            self.hosts.spec.insert(fresh);
            self.hosts.fresh = Some(fresh);
        }
    }

    /// Peers that were there once and are not any more.
    fn fill_slots(&mut self) {
        let ghosts: BTreeSet<usize> = (0..TAKEN).map(|_| self.w.join(BTreeSet::new())).collect();
        self.hosts.gone.extend(&ghosts);
        for node in self.hosts.spec.clone() {
            if self.w.is_up(node) {
                let peers = self.w.nodes[node].peers.clone();
                let all = peers.union(&ghosts).copied().collect();
                self.w.reconfigure(node, all).expect("there is room");
                self.w.reconfigure(node, peers).expect("nobody leaves who counts");
            }
        }
    }

    fn take_over_spec(&mut self) {
        let counted = self.counted_on();
        for node in self.alive() {
            let wanted: BTreeSet<usize> = counted.iter().copied().filter(|n| *n != node).collect();
            if self.w.nodes[node].peers == wanted || !self.w.random.chance(30) {
                continue;
            }
            if !self.w.is_up(node) {
                self.w.nodes[node].peers = wanted;
                continue;
            }
            match self.w.reconfigure(node, wanted.clone()) {
                Ok(_) => {
                    let status = self.w.engine(node).status();
                    let named = status.peers.iter().all(|p| wanted.iter().any(|n| name(*n) == p.node));
                    assert!(named, "seed {}: {} still shows who left", self.seed, name(node));
                }
                // The replicator has not heard of the smaller set yet.
                Err(why) => {
                    assert!(why.contains("take it out of the set first"), "seed {}: {why}", self.seed)
                }
            }
        }
    }

    fn take_one_out(&mut self) {
        let Some(fresh) = self.hosts.fresh.filter(|f| self.insync.contains_key(f)) else { return };
        let may = |n: &usize| *n != fresh && Some(*n) != self.leader;
        let Some(out) = self.hosts.spec.iter().copied().find(may) else { return };
        if self.w.random.chance(50) {
            self.note(format!("{} leaves the specification", name(out)));
            self.hosts.spec.remove(&out);
            self.hosts.replaced += 1;
        }
    }

    /// Who is in no record and nobody's peer any more.
    fn shut_down(&mut self) {
        let counted = self.counted_on();
        for node in self.alive() {
            let known = |n: &usize| *n != node && self.w.nodes[*n].peers.contains(&node);
            if counted.contains(&node) || counted.iter().any(known) || !self.w.random.chance(20) {
                continue;
            }
            if self.w.is_up(node) {
                self.w.crash(node, false);
            }
            self.down_since.remove(&node);
            self.hosts.gone.insert(node);
        }
    }

    /// Only a node that is not in the specification any more has everything: a person takes that back.
    pub(super) fn roll_back(&mut self) {
        let set: Vec<usize> = self.insync.keys().copied().collect();
        for node in set {
            if self.w.is_attached(node) && self.hosts.spec.insert(node) {
                self.note(format!("{} is in the specification again", name(node)));
            }
        }
    }

    /// Everybody has the same peers, and who left is gone.
    pub(super) fn hosts_agree(&self) -> bool {
        let spec = &self.hosts.spec;
        let peers = |n: &usize| spec.iter().copied().filter(|p| p != n).collect::<BTreeSet<_>>();
        !self.hosts.replacing
            || self.alive().iter().all(|n| spec.contains(n) && self.w.nodes[*n].peers == peers(n))
                && spec.len() == self.hosts.nodes
    }

    /// At its admission a node has what was acknowledged, or what came after it.
    pub(super) fn holds_everything(&self, node: usize) {
        for (block, h) in self.history.iter().filter(|_| self.checked) {
            let found = self.w.nodes[node].disk.get(*block);
            assert!(
                h.values[h.acked..].contains(&found),
                "seed {}: {} joins the set, but block {block} holds {found}; wrote {:?}, acknowledged up to #{}\n{}",
                self.seed,
                name(node),
                h.values,
                h.acked,
                self.w.describe()
            );
        }
    }
}
