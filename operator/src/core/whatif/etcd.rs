//! etcd for one group: keys with revisions, leases that run out, and transactions that are guarded. Every request takes
//! effect at one moment.

use super::{Scene, Way};
use crate::core::record::{
    GroupWish, Guard, InSync, LeaderKey, LeaderWrite, LeaseRef, NodeKeys, Outcome, Record, Txn, TxnKind,
    Versioned,
};
use baton_replicator::types::{Epoch, Member, NodeName};
use std::collections::BTreeMap;

/// Revision of everything that was there before.
pub(super) const BEFORE: i64 = 10;
/// Identity of the modelled cluster.
pub(super) const CLUSTER: u64 = 1;

pub(super) struct Etcd {
    revision: i64,
    pub(super) leader: Option<Versioned<LeaderKey>>,
    pub(super) insync: Option<Versioned<InSync>>,
    fences: BTreeMap<NodeName, i64>,
    target: Option<NodeName>,
    wish: GroupWish,
    nodes: BTreeMap<NodeName, NodeKeys>,
    /// End of each lease, milliseconds.
    leases: BTreeMap<i64, u64>,
    /// How the newest leader came to lead.
    pub(super) way: Option<Way>,
}

impl Etcd {
    /// As the scene has it. Node *i* holds lease *i* + 1.
    pub(super) fn new(scene: &Scene, epoch: Epoch, members: Vec<Member>, until: u64) -> Self {
        let lease_of = |name: &NodeName| scene.nodes.iter().position(|n| n.name == *name).map(lease);
        let leader = scene.leader.as_ref().and_then(|node| {
            let value = LeaderKey { node: node.clone(), epoch, handed: false };
            Some(Versioned { value, revision: BEFORE, lease: lease_of(node)? })
        });
        let candidates = scene.nodes.iter().map(|n| n.name.clone()).collect();
        let insync = (!members.is_empty() || leader.is_some())
            .then_some(InSync { epoch, members, candidates, fresh: false })
            .map(|value| Versioned { value, revision: BEFORE, lease: 0 });
        let keys = |(i, n): (usize, &super::SceneNode)| {
            (n.name.clone(), NodeKeys { mode: n.mode, note: None, lease: Some(lease(i)) })
        };
        Self {
            revision: BEFORE,
            leader,
            insync,
            fences: BTreeMap::new(),
            target: scene.target.clone(),
            wish: scene.wish.clone(),
            nodes: scene.nodes.iter().enumerate().map(keys).collect(),
            leases: (0..scene.nodes.len()).map(|i| (lease(i), until)).collect(),
            way: None,
        }
    }

    /// The agent's lease lives until then; granted anew if it had run out.
    pub(super) fn renew(&mut self, lease: i64, until: u64) {
        self.leases.insert(lease, until);
    }

    /// Leases that ran out go, and the leader key with its own; true if it went.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        self.leases.retain(|_, until| *until > now);
        let gone = self.leader.as_ref().is_some_and(|l| !self.leases.contains_key(&l.lease));
        if gone {
            self.revision += 1;
            self.leader = None;
        }
        gone
    }

    pub(super) fn read(&self, node: &NodeName) -> Record {
        let mut nodes = self.nodes.clone();
        for keys in nodes.values_mut() {
            keys.lease = keys.lease.filter(|l| self.leases.contains_key(l));
        }
        Record {
            cluster_id: CLUSTER,
            revision: self.revision,
            leader: self.leader.clone(),
            insync: self.insync.clone(),
            fence_rev: self.fences.get(node).copied().unwrap_or(0),
            target: self.target.clone(),
            wish: self.wish.clone(),
            nodes,
        }
    }

    pub(super) fn fence(&mut self, node: &NodeName) {
        self.revision += 1;
        self.fences.insert(node.clone(), self.revision);
    }

    pub(super) fn transact(&mut self, node: &NodeName, mine: i64, txn: &Txn) -> Outcome {
        let revision = |at: Option<i64>| at.unwrap_or(0);
        let found = Guard {
            leader: revision(self.leader.as_ref().map(|l| l.revision)),
            insync: revision(self.insync.as_ref().map(|i| i.revision)),
            fence: txn.guard.fence.map(|_| revision(self.fences.get(node).copied())),
        };
        let lease = match &txn.leader {
            LeaderWrite::Put(_, LeaseRef::Mine) => mine,
            LeaderWrite::Put(_, LeaseRef::Of(id)) => *id,
            LeaderWrite::Keep | LeaderWrite::Delete => 0,
        };
        if found != txn.guard || (lease != 0 && !self.leases.contains_key(&lease)) {
            return Outcome::GuardFailed;
        }
        match &txn.kind {
            TxnKind::Takeover if self.leader.is_some() => self.way = Some(Way::Silence),
            TxnKind::Takeover | TxnKind::FirstStart => self.way = Some(Way::KeyGone),
            TxnKind::Handover(_) => self.way = Some(Way::Handover),
            TxnKind::Remove(_)
            | TxnKind::Admit(_)
            | TxnKind::Recreate
            | TxnKind::Rewrite
            | TxnKind::Candidates
            | TxnKind::Resign
            | TxnKind::ClearTarget => {}
        }
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
        Outcome::Committed { revision }
    }
}

/// The lease of a node's agent.
pub(super) fn lease(node: usize) -> i64 {
    i64::try_from(node).unwrap_or(i64::MAX - 1) + 1
}
