//! The canonical form of a state: what cannot influence the future is left out, so that states that differ in nothing else are
//! one. Times become ages in ticks; revisions become "the present one" or "an earlier one", because a guard asks for nothing
//! else; terms of epochs become the order in which they are first met.

use super::cluster::{Cluster, TICK};
use crate::core::record::{Guard, LeaderWrite, LeaseRef, Record, Txn, TxnKind, Versioned};
use crate::core::sim::writes::Writes;
use baton_replicator::types::{BootId, Epoch, Instant, Member, NodeName, TermId};

/// Collects what matters of a state.
pub(in crate::core) struct Key<'a> {
    cluster: &'a Cluster,
    bytes: Vec<u8>,
    /// The node whose state is being written, and its clock.
    host: usize,
    now: Instant,
    terms: Vec<TermId>,
}

/// 128 bits of FNV-1a over the bytes: among ten million states two share them with a probability of 10⁻²⁴.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    let mix = |sum: u128, byte: &u8| {
        (sum ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B)
    };
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, mix)
}

fn small(n: u64) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

impl<'a> Key<'a> {
    pub(super) fn of(cluster: &'a Cluster) -> Vec<u8> {
        let bytes = Vec::with_capacity(512);
        let mut key = Self { cluster, bytes, host: 0, now: Instant::ZERO, terms: Vec::new() };
        cluster.write_key(&mut key);
        key.bytes
    }

    /// From now on it is about this node.
    pub(super) fn host(&mut self, i: usize) {
        self.host = i;
        self.now = self.cluster.local(i);
    }

    pub(in crate::core) fn num(&mut self, n: u8) {
        self.bytes.push(n);
    }

    pub(in crate::core) fn count(&mut self, n: usize) {
        self.num(small(n as u64));
    }

    pub(in crate::core) fn flag(&mut self, is: bool) {
        self.num(u8::from(is));
    }

    /// Half ticks since then, at most so many ticks. Whatever happens does so within a small part of a tick after its begin, or
    /// after its half.
    pub(in crate::core) fn age(&mut self, at: Instant, most: u8) {
        let halves = (self.now.0.saturating_sub(at.0) + TICK / 4) / (TICK / 2);
        self.num(small(halves).min(2 * most));
    }

    /// Begun half ticks until then.
    pub(in crate::core) fn left(&mut self, until: Instant) {
        self.num(small(until.0.saturating_sub(self.now.0).div_ceil(TICK / 2)));
    }

    /// The same of the send time of a message, on the clock of its sender.
    pub(in crate::core) fn sent(&mut self, by: &NodeName, at: Instant) {
        let now = self.now;
        self.now = self.cluster.index(by).map_or(now, |i| self.cluster.local(i));
        self.age(at, 2);
        self.now = now;
    }

    pub(in crate::core) fn is_ahead(&self, until: Instant) -> bool {
        until > self.now
    }

    pub(in crate::core) fn node(&mut self, node: &NodeName) {
        let index = self.cluster.index(node);
        self.count(index.map_or(usize::MAX, |i| i + 1));
    }

    pub(in crate::core) fn boot(&mut self, boot: BootId) {
        self.bytes.extend(boot.0.to_le_bytes().into_iter().take(2));
    }

    pub(in crate::core) fn epoch(&mut self, epoch: Epoch) {
        self.num(small(epoch.number));
        if epoch != Epoch::ZERO {
            let met = self.terms.iter().position(|t| *t == epoch.term);
            let met = met.unwrap_or_else(|| {
                self.terms.push(epoch.term);
                self.terms.len() - 1
            });
            self.count(met);
        }
    }

    pub(in crate::core) fn members(&mut self, members: &[Member]) {
        let mut all: Vec<&Member> = members.iter().collect();
        all.sort();
        self.count(all.len());
        for m in all {
            self.node(&m.node);
            self.boot(m.boot);
        }
    }

    pub(in crate::core) fn leader_revision(&mut self, revision: i64) {
        self.revision(revision, self.cluster.etcd.leader.as_ref().map(|v| v.revision));
    }

    /// Whether what was written at this revision still stands.
    pub(super) fn written(&mut self, revision: i64) {
        self.leader_revision(revision);
        self.revision(revision, self.cluster.etcd.insync.as_ref().map(|v| v.revision));
    }

    fn revision(&mut self, revision: i64, present: Option<i64>) {
        self.num(match revision {
            0 => 0,
            _ if present == Some(revision) => 1,
            _ => 2,
        });
    }

    /// Whose lease it is, if it lives.
    pub(in crate::core) fn lease(&mut self, id: i64) {
        let owner = self.cluster.etcd.leases.get(&id).map(|(node, _)| node.clone());
        self.flag(owner.is_some());
        if let Some(owner) = owner {
            self.node(&owner);
            self.flag(self.cluster.etcd.alive.get(&owner) == Some(&id));
        }
    }

    /// The node leads this epoch.
    pub(in crate::core) fn leads(&self, node: &NodeName, epoch: Epoch) -> bool {
        let agent = self.cluster.index(node).and_then(|i| self.cluster.hosts[i].agent.as_ref());
        agent.is_some_and(|a| a.unit.core().leads(epoch))
    }

    pub(in crate::core) fn is_of_present_life(&self, node: &NodeName, incarnation: u64) -> bool {
        self.cluster.index(node).is_some_and(|i| self.cluster.hosts[i].incarnation == incarnation)
    }

    /// A record as a node knows it: what is as in etcd is not written again.
    pub(in crate::core) fn record(&mut self, view: &Record, lease: i64) {
        let etcd = &self.cluster.etcd;
        let present = |a: Option<i64>, b: Option<i64>| a.is_some() && a == b;
        let leader = view.leader.as_ref();
        self.flag(leader.is_some());
        let same = present(leader.map(|v| v.revision), etcd.leader.as_ref().map(|v| v.revision));
        if let Some(Versioned { value, lease: under, .. }) = leader {
            self.flag(same);
            if !same {
                self.node(&value.node);
                self.epoch(value.epoch);
                self.flag(value.handed);
            }
            self.flag(*under == lease);
        }
        let insync = view.insync.as_ref();
        self.flag(insync.is_some());
        let same = present(insync.map(|v| v.revision), etcd.insync.as_ref().map(|v| v.revision));
        if let Some(Versioned { value, .. }) = insync {
            self.flag(same);
            if !same {
                self.epoch(value.epoch);
                self.members(&value.members);
                self.count(value.candidates.len());
                self.flag(value.fresh);
            }
        }
        let own = etcd.fences.get(&self.cluster.hosts[self.host].name).copied().unwrap_or(0);
        self.flag(view.fence_rev == own);
        self.flag(view.target.is_some());
        if let Some(target) = &view.target {
            self.node(target);
        }
        self.count(view.nodes.len());
        for keys in view.nodes.values() {
            self.num(keys.mode as u8);
            self.lease(keys.lease.unwrap_or(0));
        }
    }

    /// Which of the writes so far are among these.
    pub(super) fn writes(&mut self, these: &Writes, next: u64) {
        self.count(usize::try_from(next).unwrap_or(usize::MAX));
        for write in 1..next {
            self.flag(these.contains(write));
        }
    }

    /// Whether a transaction of this node with this guard would be taken now.
    pub(super) fn guard(&mut self, guard: &Guard) {
        let etcd = &self.cluster.etcd;
        let name = &self.cluster.hosts[self.host].name;
        let fence = etcd.fences.get(name).copied().unwrap_or(0);
        let rev = |r: Option<i64>| r.unwrap_or(0);
        let parts = [
            guard.leader == rev(etcd.leader.as_ref().map(|v| v.revision)),
            guard.insync == rev(etcd.insync.as_ref().map(|v| v.revision)),
            guard.fence.is_none_or(|f| f == fence),
        ];
        for part in parts {
            self.flag(part);
        }
    }

    /// A transaction that may still take effect.
    pub(super) fn txn(&mut self, txn: &Txn) {
        self.num(match &txn.kind {
            TxnKind::FirstStart => 1,
            TxnKind::Takeover => 2,
            TxnKind::Remove(_) => 3,
            TxnKind::Admit(_) => 4,
            TxnKind::Recreate => 5,
            TxnKind::Rewrite => 6,
            TxnKind::Candidates => 7,
            TxnKind::Handover(_) => 8,
            TxnKind::Resign => 9,
            TxnKind::ClearTarget => 10,
        });
        if let TxnKind::Remove(nodes) = &txn.kind {
            self.count(nodes.len());
            nodes.iter().for_each(|n| self.node(n));
        }
        if let TxnKind::Admit(member) = &txn.kind {
            self.members(std::slice::from_ref(member));
        }
        match &txn.leader {
            LeaderWrite::Keep => self.num(0),
            LeaderWrite::Delete => self.num(1),
            LeaderWrite::Put(key, lease) => {
                self.num(2);
                self.node(&key.node);
                self.epoch(key.epoch);
                self.flag(key.handed);
                match lease {
                    LeaseRef::Mine => self.num(0),
                    LeaseRef::Of(id) => {
                        self.num(1);
                        self.lease(*id);
                    }
                }
            }
        }
        self.flag(txn.insync.is_some());
        if let Some(insync) = &txn.insync {
            self.epoch(insync.epoch);
            self.members(&insync.members);
            self.count(insync.candidates.len());
            self.flag(insync.fresh);
        }
        self.flag(txn.clear_target);
    }
}
