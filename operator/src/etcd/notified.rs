//! Who has told what: claims of notifications, so that one agent tells and not all of them.
//!
//! `notified/<target>/state/<key>` stands while a told state lasts and has no lease: it must outlive who wrote it, or its
//! end would not be told. `notified/<target>/once/<key>` is under a lease of its own that nobody renews.

use super::pool::{Etcd, EtcdError};
use super::records::to_json;
use crate::core::record::Outcome;
use crate::notify::core::Claim;
use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use std::collections::BTreeMap;

/// Much longer than any agent may wait with its turn (ten minutes).
const ONCE_TTL_S: i64 = 3600;
/// Told states read at once: 128 groups with a few each.
const MOST: i64 = 2000;

impl Etcd {
    /// The told states of a target, by key, with their revisions. What another version wrote and this one cannot read is
    /// left out.
    ///
    /// # Errors
    /// No member answered.
    pub async fn claims(&self, target: &str) -> Result<BTreeMap<String, (Claim, i64)>, EtcdError> {
        let prefix = format!("{}state/", self.keys().notified(target));
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix().with_limit(MOST))).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let read = |kv: &etcd_client::KeyValue| {
            let key = String::from_utf8_lossy(kv.key()).strip_prefix(&prefix)?.to_owned();
            Some((key, (serde_json::from_slice(kv.value()).ok()?, kv.mod_revision())))
        };
        Ok(answer.kvs().iter().filter_map(read).collect())
    }

    /// Claims a state for this node, if its key has revision `expected`; none = if it is not there.
    pub async fn claim(&self, target: &str, claim: &Claim, expected: Option<i64>) -> Outcome {
        let key = format!("{}state/{}", self.keys().notified(target), claim.what.key());
        let guard = Compare::mod_revision(key.clone(), CompareOp::Equal, expected.unwrap_or(0));
        self.send_once(Txn::new().when([guard]).and_then([TxnOp::put(key, to_json(claim), None)])).await
    }

    /// Removes the key of a told state; [`Outcome::GuardFailed`] if it was not there.
    pub async fn release_claim(&self, target: &str, key: &str) -> Outcome {
        let key = format!("{}state/{key}", self.keys().notified(target));
        let there = Compare::create_revision(key.clone(), CompareOp::Greater, 0);
        self.send_once(Txn::new().when([there]).and_then([TxnOp::delete(key, None)])).await
    }

    /// Claims something that happened; the claim goes by itself after an hour.
    pub async fn claim_once(&self, target: &str, key: &str) -> Outcome {
        let key = format!("{}once/{key}", self.keys().notified(target));
        let grant = |mut client: Client| async move { client.lease_grant(ONCE_TTL_S, None).await };
        let Ok((lease, _)) = self.hedged(grant).await else { return Outcome::Unknown };
        let absent = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let put = TxnOp::put(key, to_json(self.me()), Some(PutOptions::new().with_lease(lease.id())));
        self.send_once(Txn::new().when([absent]).and_then([put])).await
    }
}
