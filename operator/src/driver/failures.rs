//! What failed here, across restarts of the agent: failures counted by the leadership core and by the group's runtime.
//!
//! A file per group, replaced as a whole and not flushed: a crash of the host loses it, and after a reboot it counts for
//! nothing anyway, because its times are of another boot. A file that cannot be read or written is only told of in the
//! log: failures are then counted from zero, as a node would do that has never failed.

use super::unit::Unit;
use crate::core::group::Failures;
use crate::core::runtime::RunFailures;
use baton_replicator::types::GroupName;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::{fs, io};
use tokio::sync::mpsc;

/// Changes not written yet; more than that are written with the next look.
const QUEUE: usize = 64;

/// What failed of one group on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    group: Failures,
    run: RunFailures,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// The kernel's boot id: times of another boot say nothing.
    boot: String,
    #[serde(flatten)]
    failures: Remembered,
}

/// The directory, and the task that writes into it.
#[derive(Clone)]
pub(super) struct FailureBook {
    dir: PathBuf,
    boot: String,
    writes: mpsc::Sender<(GroupName, Remembered)>,
}

impl FailureBook {
    /// Opens `<state-dir>/agent/failures`. Needs a tokio runtime.
    pub(super) fn open(state_dir: &Path, boot_id_file: &Path) -> Self {
        let dir = state_dir.join("agent").join("failures");
        if let Err(error) = fs::create_dir_all(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "failures of groups will not survive a restart");
        }
        // Without one, every restart counts as a reboot.
        let boot = fs::read_to_string(boot_id_file).map(|id| id.trim().to_owned()).unwrap_or_default();
        let (writes, mut waiting) = mpsc::channel::<(GroupName, Remembered)>(QUEUE);
        let (to, of) = (dir.clone(), boot.clone());
        tokio::spawn(async move {
            while let Some((group, failures)) = waiting.recv().await {
                let (path, boot) = (to.join(format!("{group}.json")), of.clone());
                let wrote =
                    tokio::task::spawn_blocking(move || write(&path, &Stored { boot, failures })).await;
                if let Ok(Err(error)) = wrote {
                    tracing::warn!(%group, %error, "what failed here will not survive a restart");
                }
            }
        });
        Self { dir, boot, writes }
    }

    /// What failed since the host's boot.
    pub(super) fn load(&self, group: &GroupName) -> Remembered {
        let path = self.dir.join(format!("{group}.json"));
        let stored = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Stored>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Remembered::default(),
            Err(error) => Err(error),
        };
        match stored {
            Ok(stored) if stored.boot == self.boot && !self.boot.is_empty() => stored.failures,
            Ok(_) => Remembered::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what failed here before is not known");
                Remembered::default()
            }
        }
    }

    /// Writes what has changed since the last look; never waits.
    pub(super) fn look(&self, group: &GroupName, unit: &mut Unit) {
        if unit.remembered.group == *unit.core.failures() && unit.remembered.run == *unit.runtime.failures() {
            return;
        }
        let now = Remembered { group: unit.core.failures().clone(), run: unit.runtime.failures().clone() };
        if self.writes.try_send((group.clone(), now.clone())).is_ok() {
            unit.remembered = now;
        }
    }
}

impl Remembered {
    /// Tells the cores of a unit that begins.
    pub(super) fn tell(self, unit: &mut Unit) {
        unit.core.remember_failures(self.group.clone());
        unit.runtime.remember_failures(self.run.clone());
        unit.remembered = self;
    }
}

fn write(path: &Path, stored: &Stored) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    fs::write(&aside, serde_json::to_vec_pretty(stored)?)?;
    fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::Instant;

    #[tokio::test]
    async fn failures_survive_a_restart_of_the_agent_and_not_one_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot_id");
        fs::write(&boot, "one\n").unwrap();
        let group = GroupName::new("web").unwrap();
        let book = FailureBook::open(dir.path(), &boot);
        assert_eq!(book.load(&group), Remembered::default());
        let mut failed = Remembered::default();
        failed.run.failures.entry("db".into()).or_default().push_back(Instant(7));
        failed.run.restarts.insert("db".into(), 1);
        book.writes.send((group.clone(), failed.clone())).await.unwrap();
        let begin = std::time::Instant::now();
        while book.load(&group) != failed {
            assert!(begin.elapsed().as_secs() < 10, "written");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(FailureBook::open(dir.path(), &boot).load(&group), failed, "the agent was restarted");
        fs::write(&boot, "two\n").unwrap();
        assert_eq!(FailureBook::open(dir.path(), &boot).load(&group), Remembered::default(), "the host was");
        fs::remove_file(&boot).unwrap();
        assert_eq!(FailureBook::open(dir.path(), &boot).load(&group), Remembered::default(), "nobody knows");
        fs::write(dir.path().join("agent/failures/web.json"), "{").unwrap();
        assert_eq!(book.load(&group), Remembered::default(), "nonsense does no harm");
    }
}
