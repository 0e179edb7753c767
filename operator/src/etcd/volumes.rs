//! What is asked of volumes: verifies, that their resyncs stand still, and what is done about split brains.

use super::pool::{Etcd, EtcdError};
use super::records::{json, to_json};
use crate::core::record::Outcome;
use crate::core::resolve::GivenUp;
use crate::core::resync::PauseRecord;
use crate::core::verify::VerifyRecord;
use baton_replicator::types::{NodeName, VolumeName};
use etcd_client::{Client, Compare, CompareOp, GetOptions, TxnOp};
use std::collections::BTreeMap;

/// What is asked of all volumes, with the versions (mod_revision).
#[derive(Debug, Default)]
pub struct Asked {
    /// The newest verify of each.
    pub verifies: BTreeMap<VolumeName, (VerifyRecord, i64)>,
    /// Those whose resyncs stand still, or once did.
    pub pauses: BTreeMap<VolumeName, (PauseRecord, i64)>,
}

impl Etcd {
    fn volumes(&self) -> String {
        format!("{}volumes/", self.keys().prefix())
    }

    /// What is asked of volumes, in one read.
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn asked_of_volumes(&self) -> Result<Asked, EtcdError> {
        let prefix = self.volumes();
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut found = Asked::default();
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let Some((name, what)) = key.strip_prefix(&prefix).and_then(|k| k.split_once('/')) else {
                continue;
            };
            let Ok(name) = VolumeName::new(name) else { continue };
            match what {
                "verify" => drop(found.verifies.insert(name, (json(kv)?, kv.mod_revision()))),
                "resync" => drop(found.pauses.insert(name, (json(kv)?, kv.mod_revision()))),
                _ => {} // What was given up, or of a later release.
            }
        }
        Ok(found)
    }

    /// Writes whether a volume's resyncs stand still if that is still at version `expected` (0 = it was never said).
    pub async fn put_pause(&self, volume: &VolumeName, record: &PauseRecord, expected: i64) -> Outcome {
        let key = format!("{}{volume}/resync", self.volumes());
        let request = etcd_client::Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, to_json(record), None)]);
        self.send_once(request).await
    }

    /// What each node gave up of each volume, or shall give up, with its version (mod_revision).
    ///
    /// # Errors
    /// No member answered, or a value that cannot be read.
    pub async fn given_up(&self) -> Result<BTreeMap<(VolumeName, NodeName), (GivenUp, i64)>, EtcdError> {
        let prefix = self.volumes();
        let get = |mut client: Client| {
            let prefix = prefix.clone();
            async move { client.get(prefix, Some(GetOptions::new().with_prefix())).await }
        };
        let (answer, _) = self.hedged(get).await?;
        let mut found = BTreeMap::new();
        for kv in answer.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            let names = key.strip_prefix(&prefix).and_then(|k| k.split_once("/given_up/"));
            let parsed = names.and_then(|(v, n)| Some((VolumeName::new(v).ok()?, NodeName::new(n).ok()?)));
            if let Some(names) = parsed {
                found.insert(names, (json(kv)?, kv.mod_revision()));
            }
        }
        Ok(found)
    }

    /// Writes what a node gave up of a volume if it is still at version `expected` (0 = there was nothing).
    pub async fn put_given_up(
        &self,
        volume: &VolumeName,
        node: &NodeName,
        record: &GivenUp,
        expected: i64,
    ) -> Outcome {
        let key = format!("{}{volume}/given_up/{node}", self.volumes());
        let request = etcd_client::Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, expected)])
            .and_then([TxnOp::put(key, to_json(record), None)]);
        self.send_once(request).await
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
