//! Fencing from outside: the lock that lets one node at a time switch another one off, and what was switched off.
//!
//! | key | value |
//! | --- | --- |
//! | `fencing/lock` | [`FenceLock`], under the lease of whoever fences: gone with it |
//! | `fencing/node/<node>` | [`FenceRecord`]: what was done to the node last, by whom, with what result |

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use crate::status::FenceRecord;
use baton_replicator::types::{GroupName, NodeName};
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, TxnOp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who fences whom now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceLock {
    /// Who fences.
    pub by: NodeName,
    /// Who is fenced.
    pub target: NodeName,
    /// Of the attempt.
    pub id: u64,
}

impl Etcd {
    fn fencing(&self) -> String {
        format!("{}fencing/", self.keys().prefix())
    }

    /// Takes the lock under the own `lease`, if nobody has it and, with a guard, if leader and in-sync record of the group are
    /// still at these revisions.
    pub async fn lock_fencing(
        &self,
        lock: &FenceLock,
        guard: Option<&(GroupName, i64, i64)>,
        lease: i64,
    ) -> Outcome {
        // Put without a lease the lock would stand for ever.
        if lease == 0 {
            return Outcome::GuardFailed;
        }
        let key = format!("{}lock", self.fencing());
        let is = |key: String, revision| Compare::mod_revision(key, CompareOp::Equal, revision);
        let mut when = vec![is(key.clone(), 0)];
        if let Some((group, leader, insync)) = guard {
            when.push(is(self.keys().leader(group), *leader));
            when.push(is(self.keys().insync(group), *insync));
        }
        let options = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(key, to_json(lock), Some(options));
        self.send_once(etcd_client::Txn::new().when(when).and_then([put])).await
    }

    /// Who fences now, with the lock's mod_revision.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn fencing_lock(&self) -> Result<Option<(FenceLock, i64)>, EtcdError> {
        let key = format!("{}lock", self.fencing());
        let get = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let (answer, _) = self.hedged(get).await?;
        answer.kvs().first().map(|kv| Ok((json(kv)?, kv.mod_revision()))).transpose()
    }

    /// Gives the lock back if it is still that one.
    pub async fn unlock_fencing(&self, revision: i64) -> Outcome {
        let key = format!("{}lock", self.fencing());
        let same = Compare::mod_revision(key.clone(), CompareOp::Equal, revision);
        self.send_once(etcd_client::Txn::new().when([same]).and_then([TxnOp::delete(key, None)])).await
    }

    /// What was done to each node last.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn fence_records(&self) -> Result<BTreeMap<NodeName, FenceRecord>, EtcdError> {
        let prefix = format!("{}node/", self.fencing());
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut found = BTreeMap::new();
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let name = key.strip_prefix(&prefix).and_then(|n| NodeName::new(n).ok());
            if let Some(name) = name {
                found.insert(name, json(kv)?);
            }
        }
        Ok(found)
    }

    /// Writes down what was done to a node.
    ///
    /// # Errors
    /// Not confirmed.
    pub async fn put_fence_record(&self, node: &NodeName, record: &FenceRecord) -> Result<(), EtcdError> {
        let key = format!("{}node/{node}", self.fencing());
        let put = |mut client: Client| {
            let (key, value) = (key.clone(), to_json(record));
            async move { client.put(key, value, None).await }
        };
        self.hedged(put).await.map(drop)
    }
}
