//! A group's record: one linearizable read, guarded transactions, and the fence key that settles unknown ones.

use super::pool::{Etcd, EtcdError};
use crate::status::NodeMode;
use baton_replicator::types::{Epoch, GroupName, Member, NodeName};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Value of the leader key: written once per term, under the leader's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderKey {
    /// The leader.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The leader before handed the group over: it has stopped serving.
    #[serde(default)]
    pub handed: bool,
}

/// Value of the in-sync key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSync {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// Nodes that hold every acknowledged write, the leader included, with their boot ids.
    pub members: Vec<Member>,
    /// Nodes allowed to campaign.
    pub candidates: Vec<NodeName>,
    /// First start, never served yet: a blank volume may be formatted.
    #[serde(default)]
    pub fresh: bool,
}

/// A key's value with the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// mod_revision.
    pub revision: i64,
    /// The lease it stands under; 0 = none.
    pub lease: i64,
}

/// Keys of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeKeys {
    /// Operator's wish.
    pub mode: NodeMode,
    /// Lease under which its `alive` key stands; none if it is not there.
    pub lease: Option<i64>,
}

/// Everything about one group as one linearizable read found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Identity of the etcd cluster that answered.
    pub cluster_id: u64,
    /// Revision of the answer.
    pub revision: i64,
    /// The leader key.
    pub leader: Option<Versioned<LeaderKey>>,
    /// The in-sync key.
    pub insync: Option<Versioned<InSync>>,
    /// mod_revision of this node's own fence key; 0 if absent.
    pub fence_rev: i64,
    /// The node an operator asked for.
    pub target: Option<NodeName>,
    /// Nodes with a mode or alive key.
    pub nodes: BTreeMap<NodeName, NodeKeys>,
}

impl Record {
    /// The epoch in force: the in-sync record's, or the leader key's if that one is missing.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let insync = self.insync.as_ref().map(|i| i.value.epoch);
        insync.or(self.leader.as_ref().map(|l| l.value.epoch)).unwrap_or(Epoch::ZERO)
    }

    /// The in-sync members, none without a record.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        self.insync.as_ref().map_or(&[], |i| &i.value.members)
    }

    /// Nodes allowed to campaign.
    #[must_use]
    pub fn candidates(&self) -> &[NodeName] {
        self.insync.as_ref().map_or(&[], |i| &i.value.candidates)
    }

    /// A node's mode (online unless something else was written).
    #[must_use]
    pub fn mode(&self, node: &NodeName) -> NodeMode {
        self.nodes.get(node).map(|n| n.mode).unwrap_or_default()
    }
}

/// The mod_revisions a transaction compares; 0 means "absent".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Of the leader key.
    pub leader: i64,
    /// Of the in-sync key.
    pub insync: i64,
    /// Of the writer's own fence key; none only where the rule is left out in a test.
    pub fence: Option<i64>,
}

/// Whose lease the leader key is put under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRef {
    /// The writer's.
    Mine,
    /// Another node's, by id.
    Of(i64),
}

/// What a transaction does with the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderWrite {
    /// Leaves it.
    Keep,
    /// Puts it.
    Put(LeaderKey, LeaseRef),
    /// Deletes it.
    Delete,
}

/// Why a transaction is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnKind {
    /// The first record of a group.
    FirstStart,
    /// A standby takes over.
    Takeover,
    /// Members leave the in-sync set.
    Remove(Vec<NodeName>),
    /// A node enters the in-sync set.
    Admit(Member),
    /// The lost leader key is written again.
    Recreate,
    /// The serving leader writes its record into an etcd that is not the one it knew.
    Rewrite,
    /// The list of candidates changes.
    Candidates,
    /// The group goes to another node.
    Handover(NodeName),
    /// The leader key is deleted.
    Resign,
    /// The operator's target is reached and cleared.
    ClearTarget,
}

/// One transaction: all guards hold and everything is written, or nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Comes back in the outcome.
    pub id: u64,
    /// Why.
    pub kind: TxnKind,
    /// What is compared.
    pub guard: Guard,
    /// The leader key.
    pub leader: LeaderWrite,
    /// The in-sync key, if written.
    pub insync: Option<InSync>,
    /// Delete the target key.
    pub clear_target: bool,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed; every key written has this mod_revision.
    Committed {
        /// The revision.
        revision: i64,
    },
    /// A comparison failed, or etcd refused it for good (a lease that is gone): nothing was written.
    GuardFailed,
    /// Timed out, or the connection broke: it may have been committed or may still be.
    Unknown,
}

/// gRPC's NOT_FOUND: etcd says so, after it has applied the request, if the lease of a put is gone.
const NOT_FOUND: i32 = 5;

pub(super) fn json<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, EtcdError> {
    serde_json::from_slice(kv.value()).map_err(|e| EtcdError::BadValue {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        why: e.to_string(),
    })
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text keys always encodes")
}

fn versioned<T: DeserializeOwned>(kvs: &[KeyValue]) -> Result<Option<Versioned<T>>, EtcdError> {
    let read =
        |kv: &KeyValue| Ok(Versioned { value: json(kv)?, revision: kv.mod_revision(), lease: kv.lease() });
    kvs.first().map(read).transpose()
}

impl Etcd {
    /// Everything about one group in one linearizable read.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn read_group(&self, group: &GroupName) -> Result<Record, EtcdError> {
        let keys = self.keys();
        let request = etcd_client::Txn::new().and_then([
            TxnOp::get(keys.leader(group), None),
            TxnOp::get(keys.insync(group), None),
            TxnOp::get(keys.fence(group, self.me()), None),
            TxnOp::get(keys.target(group), None),
            TxnOp::get(keys.nodes(), Some(GetOptions::new().with_prefix())),
        ]);
        // A transaction of reads only changes nothing, so it may be asked of several members.
        let ask = |mut client: Client| {
            let request = request.clone();
            async move { client.txn(request).await }
        };
        let (answer, _) = self.hedged(ask).await?;
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs(),
            _ => Vec::new(),
        });
        let mut next = || found.next().unwrap_or_default();
        let (leader, insync, fence, target, nodes) = (next(), next(), next(), next(), next());
        let header = answer.header();
        Ok(Record {
            cluster_id: header.map_or(0, |h| h.cluster_id()),
            revision: header.map_or(0, |h| h.revision()),
            leader: versioned(&leader)?,
            insync: versioned(&insync)?,
            fence_rev: fence.first().map_or(0, KeyValue::mod_revision),
            target: target.first().map(json).transpose()?,
            nodes: self.node_keys(&nodes)?,
        })
    }

    pub(super) fn node_keys(&self, kvs: &[KeyValue]) -> Result<BTreeMap<NodeName, NodeKeys>, EtcdError> {
        let prefix = self.keys().nodes();
        let mut nodes: BTreeMap<NodeName, NodeKeys> = BTreeMap::new();
        for kv in kvs {
            let key = String::from_utf8_lossy(kv.key());
            // A key that is not ours does no harm here.
            let Some((name, field)) = key.strip_prefix(&prefix).and_then(|k| k.split_once('/')) else {
                continue;
            };
            let Ok(name) = NodeName::new(name) else { continue };
            let node = nodes.entry(name).or_default();
            match field {
                "alive" => node.lease = Some(kv.lease()),
                "mode" => node.mode = json::<NodeMode>(kv)?,
                _ => {}
            }
        }
        Ok(nodes)
    }

    /// Carries out a guarded transaction, once. `lease` is this node's own.
    pub async fn commit(&self, group: &GroupName, txn: &Txn, lease: i64) -> Outcome {
        let keys = self.keys();
        let revision_is = |key: String, revision| Compare::mod_revision(key, CompareOp::Equal, revision);
        let mut compare = vec![
            revision_is(keys.leader(group), txn.guard.leader),
            revision_is(keys.insync(group), txn.guard.insync),
        ];
        compare.extend(txn.guard.fence.map(|fence| revision_is(keys.fence(group, self.me()), fence)));
        let mut writes = Vec::new();
        match &txn.leader {
            LeaderWrite::Keep => {}
            LeaderWrite::Put(value, under) => {
                let lease = match under {
                    LeaseRef::Mine => lease,
                    LeaseRef::Of(other) => *other,
                };
                let options = PutOptions::new().with_lease(lease);
                writes.push(TxnOp::put(keys.leader(group), to_json(value), Some(options)));
            }
            LeaderWrite::Delete => writes.push(TxnOp::delete(keys.leader(group), None)),
        }
        writes.extend(txn.insync.as_ref().map(|value| TxnOp::put(keys.insync(group), to_json(value), None)));
        if txn.clear_target {
            writes.push(TxnOp::delete(keys.target(group), None));
        }
        self.send_once(etcd_client::Txn::new().when(compare).and_then(writes)).await
    }

    /// Sends a transaction to one member and reports what is known about its fate.
    pub(super) async fn send_once(&self, request: etcd_client::Txn) -> Outcome {
        // Nothing has been sent when no member is ready; "unknown" is safe all the same.
        let Ok(index) = self.ready().await else { return Outcome::Unknown };
        let mut client = self.client(index);
        match tokio::time::timeout(self.timeout(), client.txn(request)).await {
            Ok(Ok(answer)) => {
                self.succeeded(index);
                match answer.header() {
                    Some(header) if answer.succeeded() => Outcome::Committed { revision: header.revision() },
                    Some(_) => Outcome::GuardFailed,
                    None => Outcome::Unknown,
                }
            }
            Ok(Err(Error::GRpcStatus(status))) if status.code() as i32 == NOT_FOUND => Outcome::GuardFailed,
            Ok(Err(error)) => {
                tracing::warn!(%error, "outcome of a transaction is unknown");
                self.renew(index).await;
                Outcome::Unknown
            }
            Err(_) => {
                tracing::warn!(timeout = ?self.timeout(), "outcome of a transaction is unknown: no answer in time");
                self.renew(index).await;
                Outcome::Unknown
            }
        }
    }

    /// Writes this node's fence key of a group. Once this has succeeded, no transaction sent before can commit any
    /// more. Returns the key's new mod_revision; a later read may find a higher one, if an earlier attempt of this
    /// very write arrived late.
    ///
    /// # Errors
    /// Not confirmed: repeat.
    pub async fn fence(&self, group: &GroupName) -> Result<i64, EtcdError> {
        let key = self.keys().fence(group, self.me());
        let put = |mut client: Client| {
            let (key, value) = (key.clone(), to_json(&self.next_fence()));
            async move { client.put(key, value, None).await }
        };
        let (answer, _) = self.hedged(put).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
    }
}
