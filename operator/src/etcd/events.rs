//! The cluster's history: numbered entries, the oldest dropped as new ones come.

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use crate::status::Event;
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, SortOrder, SortTarget, TxnOp};

/// Entries kept: a few hundred bytes each, so well below a megabyte; about a year of a quiet cluster.
pub const KEEP: u64 = 1000;
/// Two agents rarely write at once, and never eight times in a row.
const ATTEMPTS: usize = 8;

impl Etcd {
    /// Appends an entry; its `n` is ignored and given by the history. Returns the number.
    ///
    /// # Errors
    /// Not confirmed; the entry may be there nevertheless.
    pub async fn append_event(&self, event: &Event) -> Result<u64, EtcdError> {
        for _ in 0..ATTEMPTS {
            let newest = self.range(GetOptions::new().with_limit(1), SortOrder::Descend).await?;
            let n = newest.first().map_or(1, |e| e.n + 1);
            let (key, first) = (self.keys().event(n), self.keys().event(0));
            let entry = Event { n, ..event.clone() };
            let mut writes = vec![TxnOp::put(key.clone(), to_json(&entry), None)];
            if n > KEEP {
                let until = self.keys().event(n - KEEP + 1);
                writes.push(TxnOp::delete(first, Some(DeleteOptions::new().with_range(until))));
            }
            let request = etcd_client::Txn::new()
                .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
                .and_then(writes);
            match self.send_once(request).await {
                Outcome::Committed { .. } => return Ok(n),
                Outcome::GuardFailed => {}
                Outcome::Unknown => {
                    return Err(EtcdError::Unreachable("an event may not have been recorded".into()));
                }
            }
        }
        Err(EtcdError::Contended { key: self.keys().events() })
    }

    /// The newest entries, at most `limit`, oldest first.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn events(&self, limit: u32) -> Result<Vec<Event>, EtcdError> {
        let mut newest = self.range(GetOptions::new().with_limit(limit.into()), SortOrder::Descend).await?;
        newest.reverse();
        Ok(newest)
    }

    async fn range(&self, options: GetOptions, order: SortOrder) -> Result<Vec<Event>, EtcdError> {
        let prefix = self.keys().events();
        let options = options.with_prefix().with_sort(SortTarget::Key, order);
        let get = |mut client: Client| {
            let (prefix, options) = (prefix.clone(), options.clone());
            async move { client.get(prefix, Some(options)).await }
        };
        let (answer, _) = self.hedged(get).await?;
        answer.kvs().iter().map(json).collect()
    }
}
