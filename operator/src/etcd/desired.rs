//! Desired state: the specification, node modes, targets; and who is alive.

use super::lease::Alive;
use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::{NodeKeys, Outcome};
use crate::status::NodeMode;
use baton_replicator::types::{GroupName, NodeName};
use etcd_client::{Client, Compare, CompareOp, GetOptions, TxnOp};
use std::collections::BTreeMap;

impl Etcd {
    /// The specification's text and its version (mod_revision), if one is there.
    ///
    /// # Errors
    /// No member answered.
    pub async fn spec(&self) -> Result<Option<(String, i64)>, EtcdError> {
        let key = self.keys().spec();
        let get = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let Some(kv) = answer.kvs().first() else { return Ok(None) };
        let text = String::from_utf8(kv.value().to_vec())
            .map_err(|e| EtcdError::BadValue { key: self.keys().spec(), why: e.to_string() })?;
        Ok(Some((text, kv.mod_revision())))
    }

    /// Replaces the specification if its version is still `expected` (0 = there is none).
    pub async fn put_spec(&self, text: &str, expected: i64) -> Outcome {
        let key = self.keys().spec();
        let request = etcd_client::Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, text, None)]);
        self.send_once(request).await
    }

    /// Writes the operator's wish for a node. Returns the revision.
    ///
    /// # Errors
    /// Not confirmed.
    pub async fn put_mode(&self, node: &NodeName, mode: NodeMode) -> Result<i64, EtcdError> {
        self.put(self.keys().mode(node), to_json(&mode)).await
    }

    /// Writes or removes the node that an operator asked for. Returns the revision.
    ///
    /// # Errors
    /// Not confirmed.
    pub async fn put_target(&self, group: &GroupName, target: Option<&NodeName>) -> Result<i64, EtcdError> {
        let key = self.keys().target(group);
        if let Some(node) = target {
            return self.put(key, to_json(node)).await;
        }
        let delete = |mut client: Client| {
            let key = key.clone();
            async move { client.delete(key, None).await }
        };
        let (answer, _) = self.hedged(delete).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
    }

    async fn put(&self, key: String, value: Vec<u8>) -> Result<i64, EtcdError> {
        let put = |mut client: Client| {
            let (key, value) = (key.clone(), value.clone());
            async move { client.put(key, value, None).await }
        };
        let (answer, _) = self.hedged(put).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
    }

    /// Mode and lease of every node, and what the living ones say about themselves.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn nodes(
        &self,
    ) -> Result<(BTreeMap<NodeName, NodeKeys>, BTreeMap<NodeName, Alive>), EtcdError> {
        let prefix = self.keys().nodes();
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut alive = BTreeMap::new();
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let name = key.strip_prefix(&prefix).and_then(|k| k.strip_suffix("/alive"));
            if let Some(name) = name.and_then(|n| NodeName::new(n).ok()) {
                alive.insert(name, json(kv)?);
            }
        }
        Ok((self.node_keys(answer.kvs())?, alive))
    }
}
