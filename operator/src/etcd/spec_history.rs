//! Writing the specification, and the history of those that were in force.
//!
//! Each version is written together with its entry in one transaction that compares the version it replaces: of two
//! people who apply at the same time one is refused. The entry's revision *is* the version, because both keys are
//! written at once. The oldest entries are dropped as new ones come.

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, SortOrder, SortTarget, TxnOp};
use serde::{Deserialize, Serialize};

/// Entries kept: at most half a MiB each, in practice a few KiB.
pub const SPECS_KEPT: usize = 50;

/// A specification as it was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecEntry {
    /// Its version; not stored, it is the entry's revision.
    #[serde(default)]
    pub version: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who applied it.
    pub by: String,
    /// From where.
    #[serde(default)]
    pub from: String,
    /// Why, in their words.
    #[serde(default)]
    pub message: String,
    /// The document.
    pub text: String,
}

impl Etcd {
    /// The version of the specification alone; none if there is none.
    ///
    /// # Errors
    /// No member answered.
    pub async fn spec_version(&self) -> Result<Option<i64>, EtcdError> {
        let key = self.keys().spec();
        let get = |mut client: Client| {
            let key = key.clone();
            async move { client.get(key, Some(GetOptions::new().with_keys_only())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        Ok(answer.kvs().first().map(etcd_client::KeyValue::mod_revision))
    }

    /// Replaces the specification if its version is still `expected` (0 = there is none); `entry` goes to the
    /// history. The new version is the revision of [`Outcome::Committed`].
    pub async fn put_spec(&self, entry: &SpecEntry, expected: i64) -> Outcome {
        // Without an answer nothing is dropped this time; the next one drops more.
        let known = self.spec_keys().await.unwrap_or_default();
        let key = self.keys().spec();
        let mut writes = vec![
            TxnOp::put(key.clone(), entry.text.as_str(), None),
            TxnOp::put(self.keys().spec_entry(expected), to_json(entry), None),
        ];
        if known.len() >= SPECS_KEPT {
            let first_kept = known[known.len() - SPECS_KEPT + 1].clone();
            let range = DeleteOptions::new().with_range(first_kept);
            writes.push(TxnOp::delete(self.keys().spec_history(), Some(range)));
        }
        let request = etcd_client::Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, expected)])
            .and_then(writes);
        self.send_once(request).await
    }

    /// The specifications that were in force, oldest first, the present one last.
    ///
    /// # Errors
    /// No member answered, or an entry that cannot be read.
    pub async fn spec_history(&self) -> Result<Vec<SpecEntry>, EtcdError> {
        let answer = self.spec_range(false).await?;
        answer
            .kvs()
            .iter()
            .map(|kv| json::<SpecEntry>(kv).map(|entry| SpecEntry { version: kv.mod_revision(), ..entry }))
            .collect()
    }

    async fn spec_keys(&self) -> Result<Vec<Vec<u8>>, EtcdError> {
        Ok(self.spec_range(true).await?.kvs().iter().map(|kv| kv.key().to_vec()).collect())
    }

    async fn spec_range(&self, keys_only: bool) -> Result<etcd_client::GetResponse, EtcdError> {
        let prefix = self.keys().spec_history();
        let mut options = GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Ascend);
        if keys_only {
            options = options.with_keys_only();
        }
        let get = |mut client: Client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.get(prefix, Some(options)).await }
        };
        Ok(self.hedged(get).await?.0)
    }
}
