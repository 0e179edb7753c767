//! What is asked of volumes: verifies.

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use crate::core::verify::VerifyRecord;
use baton_replicator::types::VolumeName;
use etcd_client::{Client, Compare, CompareOp, GetOptions, TxnOp};
use std::collections::BTreeMap;

impl Etcd {
    fn volumes(&self) -> String {
        format!("{}volumes/", self.keys().prefix())
    }

    /// The newest verify of each volume, with its version (mod_revision).
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn verifies(&self) -> Result<BTreeMap<VolumeName, (VerifyRecord, i64)>, EtcdError> {
        let prefix = self.volumes();
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut found = BTreeMap::new();
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let name = key.strip_prefix(&prefix).and_then(|k| k.strip_suffix("/verify"));
            if let Some(name) = name.and_then(|n| VolumeName::new(n).ok()) {
                found.insert(name, (json(kv)?, kv.mod_revision()));
            }
        }
        Ok(found)
    }

    /// Writes a volume's verify if it is still at version `expected` (0 = there was none).
    pub async fn put_verify(&self, volume: &VolumeName, record: &VerifyRecord, expected: i64) -> Outcome {
        let key = format!("{}{volume}/verify", self.volumes());
        let request = etcd_client::Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, to_json(record), None)]);
        self.send_once(request).await
    }
}
