//! A vault of tokens without etcd, for tests of the door and of what is behind it.

use super::Security;
use super::principal::Role;
use super::token::{TokenRecord, generate};
use super::tokens::{Tokens, Vault};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};

/// A door that knows one token, of this id.
pub(crate) const TOKEN_ID: &str = "0123456789ab";

pub(crate) fn security() -> Arc<Security> {
    let memory = Memory::default();
    let (record, _) = generate("monitor", Role::Viewer, "root", 0, None);
    memory.records.lock().unwrap().push(TokenRecord { id: TOKEN_ID.into(), ..record });
    let tokens = Arc::new(Tokens::in_memory());
    Arc::new(Security::new("demo", tokens, Arc::new(memory), Box::new(|_, _| {})))
}

/// A vault in memory, which can be out of reach.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) records: Mutex<Vec<TokenRecord>>,
    pub(crate) away: std::sync::atomic::AtomicBool,
}

impl Memory {
    fn reach(&self) -> Result<std::sync::MutexGuard<'_, Vec<TokenRecord>>, String> {
        match self.away.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err("no answer in time".into()),
            false => Ok(self.records.lock().unwrap()),
        }
    }
}

impl Vault for Memory {
    fn all(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, String>> {
        Box::pin(async { Ok(self.reach()?.clone()) })
    }
    fn add(&self, record: TokenRecord) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            self.reach()?.push(record);
            Ok(())
        })
    }
    fn remove(&self, id: String) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move {
            let mut all = self.reach()?;
            let before = all.len();
            all.retain(|t| t.id != id);
            Ok(all.len() < before)
        })
    }
}
