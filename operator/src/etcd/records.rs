//! A group's record: one linearizable read, guarded transactions, and the fence key that settles unknown ones.

use super::pool::{Etcd, EtcdError};
use crate::core::record::{
    InSync, LeaderWrite, LeaseRef, NodeKeys, Outcome, Record, StoredNote, Txn, Versioned,
};
use crate::status::NodeMode;
use baton_replicator::types::{GroupName, NodeName};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, TxnOp, TxnOpResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

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

/// What was said about the mode of this revision. An agent that writes no notes leaves an older one beside its mode: not
/// of one transaction, it is about another mode. One that cannot be read does no harm: nothing is decided on it.
pub(super) fn note(kv: &KeyValue, mode_revision: i64) -> Option<StoredNote> {
    (kv.mod_revision() == mode_revision).then(|| serde_json::from_slice(kv.value()).ok()).flatten()
}

impl Etcd {
    /// Everything about one group in one linearizable read.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn read(&self, group: &GroupName) -> Result<Record, EtcdError> {
        let keys = self.keys();
        let request = etcd_client::Txn::new().and_then([
            TxnOp::get(keys.leader(group), None),
            TxnOp::get(keys.insync(group), None),
            TxnOp::get(keys.fence(group, self.me()), None),
            TxnOp::get(keys.target(group), None),
            TxnOp::get(keys.wish(group), None),
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
        let (leader, insync, fence, target, wish, nodes) = (next(), next(), next(), next(), next(), next());
        let header = answer.header();
        Ok(Record {
            cluster_id: header.map_or(0, |h| h.cluster_id()),
            revision: header.map_or(0, |h| h.revision()),
            leader: versioned(&leader)?,
            insync: versioned(&insync)?,
            fence_rev: fence.first().map_or(0, KeyValue::mod_revision),
            target: target.first().map(json).transpose()?,
            wish: wish.first().map(json).transpose()?.unwrap_or_default(),
            nodes: self.node_keys(&nodes)?,
        })
    }

    pub(super) fn node_keys(&self, kvs: &[KeyValue]) -> Result<BTreeMap<NodeName, NodeKeys>, EtcdError> {
        let prefix = self.keys().nodes();
        let mut nodes: BTreeMap<NodeName, NodeKeys> = BTreeMap::new();
        let mut modes: BTreeMap<NodeName, i64> = BTreeMap::new();
        let mut notes: Vec<(NodeName, &KeyValue)> = Vec::new();
        for kv in kvs {
            let key = String::from_utf8_lossy(kv.key());
            // A key that is not ours does no harm here.
            let Some((name, field)) = key.strip_prefix(&prefix).and_then(|k| k.split_once('/')) else {
                continue;
            };
            let Ok(name) = NodeName::new(name) else { continue };
            let node = nodes.entry(name.clone()).or_default();
            match field {
                "alive" => node.lease = Some(kv.lease()),
                "mode" => {
                    node.mode = json::<NodeMode>(kv)?;
                    modes.insert(name, kv.mod_revision());
                }
                "mode-note" => notes.push((name, kv)),
                _ => {}
            }
        }
        for (name, kv) in notes {
            let mode = modes.get(&name).copied();
            if let Some(node) = nodes.get_mut(&name) {
                node.note = mode.and_then(|revision| note(kv, revision));
            }
        }
        Ok(nodes)
    }

    /// Carries out a guarded transaction, once. `lease` is this node's own.
    pub async fn transact(&self, group: &GroupName, txn: &Txn, lease: i64) -> Outcome {
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
        self.send(etcd_client::Txn::new().when(compare).and_then(writes), txn.cluster).await
    }

    /// Writes a group's record anew after etcd lost it, as a person decided: `insync`, and no leader. Only if the keys are
    /// still as they were read.
    pub async fn restore_record(&self, group: &GroupName, insync: &InSync, read: &Record) -> Outcome {
        let keys = self.keys();
        let revision_is = |key: String, revision| Compare::mod_revision(key, CompareOp::Equal, revision);
        let compare = [
            revision_is(keys.leader(group), read.leader.as_ref().map_or(0, |l| l.revision)),
            revision_is(keys.insync(group), read.insync.as_ref().map_or(0, |i| i.revision)),
        ];
        let writes =
            [TxnOp::put(keys.insync(group), to_json(insync), None), TxnOp::delete(keys.leader(group), None)];
        self.send(etcd_client::Txn::new().when(compare).and_then(writes), read.cluster_id).await
    }

    /// Sends a transaction to one member and reports what is known about its fate.
    pub(super) async fn send_once(&self, request: etcd_client::Txn) -> Outcome {
        self.send(request, 0).await
    }

    /// The same, where only the answer of one etcd cluster counts; zero for any.
    async fn send(&self, request: etcd_client::Txn, cluster: u64) -> Outcome {
        // Nothing has been sent when no member is ready; "unknown" is safe all the same.
        let Ok(index) = self.ready().await else { return Outcome::Unknown };
        let mut client = self.client(index);
        let begin = std::time::Instant::now();
        let answer = tokio::time::timeout(self.timeout(), client.txn(request)).await;
        let answered = matches!(answer, Ok(Ok(_)));
        crate::metrics::live().etcd_request("transaction", begin.elapsed(), answered);
        match answer {
            Ok(Ok(answer)) => {
                self.succeeded(index);
                self.took(begin.elapsed());
                match answer.header() {
                    Some(header) if cluster != 0 && header.cluster_id() != cluster => {
                        let found = header.cluster_id();
                        tracing::warn!("a transaction meant for etcd {cluster:x} was answered by {found:x}");
                        Outcome::Unknown
                    }
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
    pub async fn write_fence(&self, group: &GroupName) -> Result<i64, EtcdError> {
        let key = self.keys().fence(group, self.me());
        let put = |mut client: Client| {
            let (key, value) = (key.clone(), to_json(&self.next_fence()));
            async move { client.put(key, value, None).await }
        };
        let (answer, _) = self.hedged(put).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
    }
}
