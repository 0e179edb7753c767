//! The agent's state directory: one small JSON file per group, replaced as a whole.
//!
//! A file is written aside, flushed, renamed and its directory flushed: after a crash there is the old content
//! or the new one. State that cannot be written stops the agent: it would make promises it cannot keep.

use crate::core::record::Durable;
use baton_replicator::types::GroupName;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// `read`, `write`, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The content is not what was written.
    #[error("{} is damaged: move it away to start as a node that remembers nothing", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Directory with what must survive the agent.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Opens `<state-dir>/agent`, making it if need be.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let dir = state_dir.join("agent");
        fs::create_dir_all(&dir).map_err(|source| StateError::Io {
            doing: "create",
            path: dir.clone(),
            source,
        })?;
        Ok(Self { dir })
    }

    /// What is remembered about a group; the default if nothing is.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load(&self, group: &GroupName) -> Result<Durable, StateError> {
        let path = self.path(group);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged { path, source })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Durable::default()),
            Err(source) => Err(StateError::Io { doing: "read", path, source }),
        }
    }

    /// Replaces what is remembered about a group; durable when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn save(&self, group: &GroupName, durable: &Durable) -> Result<(), StateError> {
        let path = self.path(group);
        let aside = path.with_extension("json.new");
        let fail = |source| StateError::Io { doing: "write", path: path.clone(), source };
        let bytes = serde_json::to_vec_pretty(durable).map_err(|e| fail(e.into()))?;
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(fail)
    }

    fn path(&self, group: &GroupName) -> PathBuf {
        self.dir.join(format!("{group}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::{Epoch, TermId};

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let group = GroupName::new("web").unwrap();
        assert_eq!(state.load(&group).unwrap(), Durable::default());
        let durable =
            Durable { known: Epoch { number: 7, term: TermId(9) }, revision: 3, ..Durable::default() };
        state.save(&group, &durable).unwrap();
        assert_eq!(state.load(&group).unwrap(), durable);
        let path = dir.path().join("agent/web.json");
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() / 2);
        fs::write(&path, bytes).unwrap();
        let message = state.load(&group).unwrap_err().to_string();
        assert!(message.contains("web.json is damaged"), "{message}");
    }
}
