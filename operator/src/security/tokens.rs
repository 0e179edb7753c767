//! The cluster's tokens on this node: a copy of what etcd holds, in memory and in a private file.
//!
//! etcd has the truth. The copy lets an operator in while etcd is down or the agent has just started; a token revoked
//! meanwhile stays good on a node that cannot reach etcd, and that is said in docs/security.md. If the file is damaged
//! it is forgotten and made again from etcd.

use super::files::{self, FileError};
use super::token::{Refused, TokenRecord, recognise};
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// Tokens of a cluster. More are refused: somebody makes them in a loop.
pub const MAX_TOKENS: usize = 1000;

/// Where the truth is.
pub trait Vault: Send + Sync + 'static {
    /// All tokens.
    fn all(&self) -> BoxFuture<'_, Result<Vec<TokenRecord>, String>>;
    /// Adds one.
    fn add(&self, record: TokenRecord) -> BoxFuture<'_, Result<(), String>>;
    /// Removes one; false if there was none.
    fn remove(&self, id: String) -> BoxFuture<'_, Result<bool, String>>;
}

/// The copy.
#[derive(Debug)]
pub struct Tokens {
    file: Option<PathBuf>,
    records: RwLock<BTreeMap<String, TokenRecord>>,
}

impl Tokens {
    /// A copy in memory only.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { file: None, records: RwLock::default() }
    }

    /// Opens the copy in a file, which need not exist.
    ///
    /// # Errors
    /// [`FileError`] if it is there and others may read it.
    pub fn open(file: &Path) -> Result<Self, FileError> {
        let records = match files::read_private(file) {
            Ok(bytes) => serde_json::from_slice::<Vec<TokenRecord>>(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "the copy of the tokens is damaged: made again from etcd");
                Vec::new()
            }),
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file: Some(file.to_owned()), records: RwLock::new(by_id(records)) })
    }

    /// Takes over what etcd holds; the file is written if that is something else.
    pub fn replace(&self, records: Vec<TokenRecord>) {
        let new = by_id(records);
        self.change(|current| *current = new);
    }

    /// One was made: it is good here before etcd tells of it.
    pub fn add(&self, record: TokenRecord) {
        self.change(|current| drop(current.insert(record.id.clone(), record)));
    }

    /// One was revoked; false if it was not known here.
    pub fn remove(&self, id: &str) -> bool {
        let mut known = false;
        self.change(|current| known = current.remove(id).is_some());
        known
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, TokenRecord>)) {
        let mut current = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let before = current.clone();
        change(&mut current);
        if *current == before {
            return;
        }
        let all: Vec<&TokenRecord> = current.values().collect();
        let Some(file) = &self.file else { return };
        // Records are plain data: they serialise.
        let bytes = serde_json::to_vec(&all).unwrap_or_default();
        if let Err(error) = files::write_private(file, &bytes) {
            tracing::warn!(%error, "cannot keep a copy of the tokens for a time without etcd");
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<TokenRecord> {
        self.records.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn recognise(&self, text: &str, now: i64) -> Result<TokenRecord, Refused> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        recognise(text, |id| records.get(id), now).cloned()
    }
}

fn by_id(records: Vec<TokenRecord>) -> BTreeMap<String, TokenRecord> {
    records.into_iter().take(MAX_TOKENS).map(|record| (record.id.clone(), record)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::principal::Role;
    use super::super::token::generate;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_copy_survives_a_restart_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.json");
        let tokens = Tokens::open(&file).unwrap();
        let (record, token) = generate("monitor", Role::Viewer, "root", 0, None);
        tokens.replace(vec![record]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Tokens::open(&file).unwrap();
        assert_eq!(again.recognise(token.reveal(), 1).unwrap().name, "monitor");
        again.replace(Vec::new());
        assert_eq!(again.recognise(token.reveal(), 1), Err(Refused::Unknown), "revoked");
        let last = Tokens::open(&file).unwrap();
        assert_eq!(last.recognise(token.reveal(), 1), Err(Refused::Unknown), "revoked for good");
    }

    #[test]
    fn a_copy_that_others_may_read_is_refused_and_a_damaged_one_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tokens.json");
        files::write_private(&file, b"[{").unwrap();
        let (_, token) = generate("a", Role::Admin, "root", 0, None);
        assert_eq!(Tokens::open(&file).unwrap().recognise(token.reveal(), 1), Err(Refused::Unknown));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Tokens::open(&file).unwrap_err().to_string().contains("chmod 600"));
    }
}
