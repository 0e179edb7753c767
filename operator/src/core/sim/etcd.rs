//! etcd as the simulation needs it: one group's keys, revisions, leases; every request takes effect at one
//! moment, which may lie long after the client gave up.

use crate::core::record::{
    GroupWish, InSync, LeaderKey, LeaderWrite, LeaseRef, NodeKeys, Outcome, Record, Txn, TxnKind, Versioned,
};
use crate::status::NodeMode;
use baton_replicator::types::NodeName;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) enum Request {
    Read(u64),
    Fence(u64),
    Txn(Box<Txn>),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Read(u64, Option<Box<Record>>),
    Fence(u64, bool),
    Txn(u64, Outcome),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Etcd {
    pub cluster_id: u64,
    pub revision: i64,
    pub leader: Option<Versioned<LeaderKey>>,
    pub insync: Option<Versioned<InSync>>,
    pub fences: BTreeMap<NodeName, i64>,
    pub target: Option<NodeName>,
    pub wish: GroupWish,
    pub modes: BTreeMap<NodeName, NodeMode>,
    /// Owner of each lease and the time it ends, milliseconds.
    pub leases: BTreeMap<i64, (NodeName, u64)>,
    /// The lease of each node's running agent.
    pub alive: BTreeMap<NodeName, i64>,
    pub next_lease: i64,
    /// Nobody looks which cluster answers a transaction.
    pub nameless: bool,
    pub log: Vec<(u64, NodeName, TxnKind)>,
}

impl Etcd {
    pub(super) fn new() -> Self {
        Self { cluster_id: 0xe7cd, revision: 1, next_lease: 100, ..Self::default() }
    }

    /// Grants or renews a node's lease; returns its id.
    pub(super) fn keep_alive(&mut self, node: &NodeName, held: i64, now: u64, ttl: u64) -> i64 {
        if let Some((_, end)) = self.leases.get_mut(&held) {
            *end = now + ttl;
            return held;
        }
        self.next_lease += 1;
        self.leases.insert(self.next_lease, (node.clone(), now + ttl));
        self.alive.insert(node.clone(), self.next_lease);
        self.revision += 1;
        self.next_lease
    }

    fn lives(&self, lease: i64) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Expires leases and the keys under them; true if a key went.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        self.leases.retain(|_, (_, end)| *end > now);
        let gone = self.leader.as_ref().is_some_and(|l| !self.lives(l.lease));
        if gone {
            self.delete_leader();
        }
        gone
    }

    /// A new leader of etcd gives every lease its whole life again.
    pub(super) fn promote(&mut self, now: u64, ttl: u64) {
        for (_, end) in self.leases.values_mut() {
            *end = (*end).max(now + ttl);
        }
    }

    pub(super) fn delete_leader(&mut self) {
        self.revision += 1;
        self.leader = None;
    }

    pub(super) fn apply(&mut self, node: &NodeName, request: &Request, now: u64) -> Answer {
        match request {
            Request::Read(id) => Answer::Read(*id, Some(Box::new(self.read(node)))),
            Request::Fence(id) => {
                self.revision += 1;
                self.fences.insert(node.clone(), self.revision);
                Answer::Fence(*id, true)
            }
            Request::Txn(txn) => {
                let outcome = self.transact(node, txn, now);
                let ours = txn.cluster == self.cluster_id || self.nameless;
                Answer::Txn(txn.id, if ours { outcome } else { Outcome::Unknown })
            }
        }
    }

    fn read(&self, node: &NodeName) -> Record {
        let mut nodes: BTreeMap<NodeName, NodeKeys> = BTreeMap::new();
        for (name, mode) in &self.modes {
            nodes.entry(name.clone()).or_default().mode = *mode;
        }
        for (name, lease) in self.alive.iter().filter(|(_, l)| self.lives(**l)) {
            nodes.entry(name.clone()).or_default().lease = Some(*lease);
        }
        Record {
            cluster_id: self.cluster_id,
            revision: self.revision,
            leader: self.leader.clone(),
            insync: self.insync.clone(),
            fence_rev: self.fences.get(node).copied().unwrap_or(0),
            target: self.target.clone(),
            wish: self.wish.clone(),
            nodes,
        }
    }

    fn transact(&mut self, node: &NodeName, txn: &Txn, now: u64) -> Outcome {
        let rev = |r: Option<i64>| r.unwrap_or(0);
        let holds = rev(self.leader.as_ref().map(|l| l.revision)) == txn.guard.leader
            && rev(self.insync.as_ref().map(|i| i.revision)) == txn.guard.insync
            && txn.guard.fence.is_none_or(|f| f == rev(self.fences.get(node).copied()));
        let lease = match &txn.leader {
            LeaderWrite::Put(_, LeaseRef::Mine) => self.alive.get(node).copied().filter(|l| self.lives(*l)),
            LeaderWrite::Put(_, LeaseRef::Of(id)) => self.lives(*id).then_some(*id),
            LeaderWrite::Keep | LeaderWrite::Delete => Some(0),
        };
        let Some(lease) = lease.filter(|_| holds) else { return Outcome::GuardFailed };
        self.revision += 1;
        let revision = self.revision;
        match &txn.leader {
            LeaderWrite::Keep => {}
            LeaderWrite::Put(key, _) => self.leader = Some(Versioned { value: key.clone(), revision, lease }),
            LeaderWrite::Delete => self.leader = None,
        }
        if let Some(insync) = &txn.insync {
            self.insync = Some(Versioned { value: insync.clone(), revision, lease: 0 });
        }
        if txn.clear_target {
            self.target = None;
        }
        self.log.push((now, node.clone(), txn.kind.clone()));
        Outcome::Committed { revision }
    }
}
