//! What waits for delivery, on disk: one file per message in `<state>/agent/notify/<target>/`, written aside and renamed.
//!
//! A message counts as kept when its file is there; a file is removed after the delivery, so a crash in between delivers
//! twice rather than not at all. A disk that cannot be written costs what a restart would need, never a delivery.

use super::message::Message;
use super::queue::Item;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Messages given up that are kept for a look.
const GIVEN_UP: usize = 20;

/// The directory of one target.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// Opens the directory of `target` under the agent's state, making it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(state: &Path, target: &str) -> io::Result<Self> {
        let dir = state.join("agent").join("notify").join(target);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join("given-up"))?;
        Ok(Self { dir })
    }

    /// The messages that an earlier run left, oldest first. A file that cannot be read is set aside.
    #[must_use]
    pub fn load(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for path in self.files(&self.dir) {
            let Some(id) = number(&path) else { continue };
            match fs::read(&path).and_then(|b| Ok(serde_json::from_slice(&b)?)) {
                Ok(message) => items.push(Item { id, message }),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a notification of an earlier run cannot be read");
                    let _ = fs::rename(&path, path.with_extension("damaged"));
                }
            }
        }
        items
    }

    /// Keeps a message.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep(&self, item: &Item) -> io::Result<()> {
        self.write(&self.path(item.id), &serde_json::to_vec(&item.message)?)
    }

    /// Forgets messages.
    pub fn forget(&self, items: &[Item]) {
        for item in items {
            let _ = fs::remove_file(self.path(item.id));
        }
    }

    /// Sets messages that nobody took aside.
    pub fn give_up(&self, items: &[Item]) {
        let aside = self.dir.join("given-up");
        for item in items {
            let _ = fs::rename(self.path(item.id), aside.join(format!("{:020}.json", item.id)));
        }
        let all = self.files(&aside);
        for old in all.iter().take(all.len().saturating_sub(GIVEN_UP)) {
            let _ = fs::remove_file(old);
        }
    }

    /// What the core has not let out yet.
    #[must_use]
    pub fn unsent(&self) -> Vec<Message> {
        let kept = fs::read(self.dir.join("unsent")).ok();
        kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps that.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_unsent(&self, messages: &[Message]) -> io::Result<()> {
        let path = self.dir.join("unsent");
        if messages.is_empty() {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        self.write(&path, &serde_json::to_vec(messages)?)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:020}.json"))
    }

    /// Numbered files, oldest first.
    fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let mut all: Vec<PathBuf> = entries.filter(|p| number(p).is_some()).collect();
        all.sort();
        all
    }
}

fn number(path: &Path) -> Option<u64> {
    if path.extension()? != "json" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::node;
    use crate::notify::text::test_message;

    #[test]
    fn what_was_kept_is_there_again_and_damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), "operators").unwrap();
        let item =
            |id| Item { id, message: test_message("demo", &node("alpha"), "operators", &format!("{id}")) };
        (7..12).for_each(|id| spool.keep(&item(id)).unwrap());
        spool.forget(&[item(8)]);
        spool.give_up(&[item(9)]);
        fs::write(spool.path(10), "{").unwrap();
        let again = Spool::open(dir.path(), "operators").unwrap();
        assert_eq!(again.load(), [item(7), item(11)]);
        assert_eq!(again.load().len(), 2, "the damaged one is out of the way");
        assert!(again.unsent().is_empty());
        again.keep_unsent(&[item(1).message]).unwrap();
        assert_eq!(again.unsent(), [item(1).message]);
        again.keep_unsent(&[]).unwrap();
        assert!(again.unsent().is_empty());
        for id in 100..130 {
            again.keep(&item(id)).unwrap();
            again.give_up(&[item(id)]);
        }
        assert_eq!(again.files(&again.dir.join("given-up")).len(), GIVEN_UP);
    }
}
