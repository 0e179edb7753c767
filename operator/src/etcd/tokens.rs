//! Tokens of the API, one key each (docs/decisions/0007): hashes only.

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use crate::security::token::TokenRecord;
use crate::security::tokens::{MAX_TOKENS, Tokens, Vault};
use etcd_client::{Client, Compare, CompareOp, GetOptions, TxnOp};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// The copy of the tokens is compared with etcd this often even if no watch says so.
const REFRESH: Duration = Duration::from_secs(5);
/// After a read that failed.
const RETRY: Duration = Duration::from_secs(1);

impl Etcd {
    /// All tokens.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, EtcdError> {
        let prefix = self.keys().tokens();
        let options =
            GetOptions::new().with_prefix().with_limit(i64::try_from(MAX_TOKENS).unwrap_or(i64::MAX));
        let get = |mut client: Client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.get(prefix, Some(options)).await }
        };
        let (answer, _) = self.hedged(get).await?;
        answer.kvs().iter().map(json).collect()
    }

    /// All tokens; none if etcd holds no specification. Every cluster has one from its first agent's start on, so that
    /// an etcd without one was emptied, and has not revoked anything.
    async fn tokens_of_the_cluster(&self) -> Result<Option<Vec<TokenRecord>>, EtcdError> {
        // The specification last: what was emptied in between is seen to be.
        let tokens = self.tokens().await?;
        Ok(self.spec_version().await?.map(|_| tokens))
    }

    /// Keeps `tokens` like etcd, for ever; what an emptied etcd does not hold is kept.
    pub async fn follow_tokens(self, tokens: Arc<Tokens>) {
        let mut watch = self.watch_prefix(self.keys().tokens(), REFRESH);
        loop {
            match self.tokens_of_the_cluster().await {
                Ok(Some(all)) => tokens.replace(all),
                Ok(None) => tracing::debug!(
                    "etcd holds no specification, so nothing of the cluster: keeps the tokens"
                ),
                Err(error) => {
                    tracing::debug!(%error, "tokens: the copy on this node is used");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            watch.changed().await;
        }
    }
}

impl Vault for Etcd {
    fn all(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, String>> {
        Box::pin(async move { self.tokens().await.map_err(|e| e.to_string()) })
    }

    fn add(&self, record: TokenRecord) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let key = self.keys().token(&record.id);
            let request = etcd_client::Txn::new()
                .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
                .and_then([TxnOp::put(key, to_json(&record), None)]);
            match self.send_once(request).await {
                Outcome::Committed { .. } => Ok(()),
                Outcome::GuardFailed => Err("a token of this id is there already".into()),
                Outcome::Unknown => Err("etcd did not confirm it".into()),
            }
        })
    }

    fn remove(&self, id: String) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move {
            let key = self.keys().token(&id);
            let delete = |mut client: Client| {
                let key = key.clone();
                async move { client.delete(key, None).await }
            };
            // Hedged: the second of two deletions finds nothing, which must not look like "there was none".
            let there = self.tokens().await.map_err(|e| e.to_string())?.iter().any(|t| t.id == id);
            self.hedged(delete).await.map_err(|e| e.to_string())?;
            Ok(there)
        })
    }
}
