//! Desired state: the specification, node modes, targets; and who is alive.

use super::lease::Alive;
use super::pool::{Etcd, EtcdError};
use super::records::{json, note, to_json};
use crate::core::record::{GroupWish, ModeWish, NodeKeys, Outcome};
use baton_replicator::types::{GroupName, NodeName};
use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// `write` if `key` is still at version `expected` (0 = absent).
fn guarded(key: String, expected: i64, write: impl Into<Vec<TxnOp>>) -> Txn {
    Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, expected)]).and_then(write)
}

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

    /// Mode and note, in one transaction: that they have one revision says that they belong together.
    fn mode_writes(&self, node: &NodeName, wish: &ModeWish) -> Vec<TxnOp> {
        let (mode, note) = (self.keys().mode(node), self.keys().mode_note(node));
        let note = match &wish.note {
            Some(said) => TxnOp::put(note, to_json(said), None),
            None => TxnOp::delete(note, None),
        };
        vec![TxnOp::put(mode, to_json(&wish.mode), None), note]
    }

    /// Writes the operator's wish for a node. Returns the revision.
    ///
    /// # Errors
    /// Not confirmed.
    pub async fn put_mode(&self, node: &NodeName, wish: &ModeWish) -> Result<i64, EtcdError> {
        let request = Txn::new().and_then(self.mode_writes(node, wish));
        let put = |mut client: Client| {
            let request = request.clone();
            async move { client.txn(request).await }
        };
        let (answer, _) = self.hedged(put).await?;
        Ok(answer.header().map_or(0, |h| h.revision()))
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

    /// The operator's wish for a node, with its version (mod_revision, 0 if it was never expressed).
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn mode(&self, node: &NodeName) -> Result<(ModeWish, i64), EtcdError> {
        let (mode, said) = (self.keys().mode(node), self.keys().mode_note(node));
        let request = Txn::new().and_then([TxnOp::get(mode, None), TxnOp::get(said, None)]);
        let get = |mut client: Client| {
            let request = request.clone();
            async move { client.txn(request).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut get) => get.take_kvs(),
            _ => Vec::new(),
        });
        let (mode, said) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        let Some(kv) = mode.first() else { return Ok(Default::default()) };
        let note = said.first().and_then(|said| note(said, kv.mod_revision()));
        Ok((ModeWish { mode: json(kv)?, note }, kv.mod_revision()))
    }

    /// Notes that the end of a node's maintenance is told, if its mode is still at `version` and nobody has noted it.
    pub async fn tell_mode_expired(&self, node: &NodeName, version: i64) -> Outcome {
        let (mode, told) = (self.keys().mode(node), self.keys().mode_told(node));
        let same = Compare::mod_revision(mode, CompareOp::Equal, version);
        // An absent key has revision 0.
        let untold = Compare::mod_revision(told.clone(), CompareOp::Less, version);
        let write = TxnOp::put(told, to_json(self.me()), None);
        self.send_once(Txn::new().when([same, untold]).and_then([write])).await
    }

    /// The node that an operator asked for, with the version of the wish (mod_revision, 0 if there is none).
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn target(&self, group: &GroupName) -> Result<(Option<NodeName>, i64), EtcdError> {
        let found = self.wish(self.keys().target(group)).await?;
        Ok(found.map_or((None, 0), |(node, version)| (Some(node), version)))
    }

    /// Whether an operator has pinned or disabled a group, with the version of the wish (mod_revision, 0 if there is none).
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn group_wish(&self, group: &GroupName) -> Result<(GroupWish, i64), EtcdError> {
        Ok(self.wish(self.keys().wish(group)).await?.unwrap_or_default())
    }

    /// Writes it if it is still at version `expected`, in one transaction with the node the group is to go to, if any.
    pub async fn put_group_wish_if(
        &self,
        group: &GroupName,
        wish: &GroupWish,
        to: Option<&NodeName>,
        expected: i64,
    ) -> Outcome {
        let key = self.keys().wish(group);
        let mut writes = vec![TxnOp::put(key.clone(), to_json(wish), None)];
        writes.extend(to.map(|node| TxnOp::put(self.keys().target(group), to_json(node), None)));
        self.send_once(guarded(key, expected, writes)).await
    }

    async fn wish<T: DeserializeOwned>(&self, key: String) -> Result<Option<(T, i64)>, EtcdError> {
        let get = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, None).await }
        };
        let (answer, _) = self.hedged(get).await?;
        answer.kvs().first().map(|kv| Ok((json(kv)?, kv.mod_revision()))).transpose()
    }

    /// Writes the operator's wish for a node if it is still at version `expected`.
    pub async fn put_mode_if(&self, node: &NodeName, wish: &ModeWish, expected: i64) -> Outcome {
        let writes = self.mode_writes(node, wish);
        self.send_once(guarded(self.keys().mode(node), expected, writes)).await
    }

    /// Writes or removes the node that an operator asked for if the wish is still at version `expected`.
    pub async fn put_target_if(
        &self,
        group: &GroupName,
        target: Option<&NodeName>,
        expected: i64,
    ) -> Outcome {
        let key = self.keys().target(group);
        let write = match target {
            Some(node) => TxnOp::put(key.clone(), to_json(node), None),
            None => TxnOp::delete(key.clone(), None),
        };
        self.send_once(guarded(key, expected, [write])).await
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
