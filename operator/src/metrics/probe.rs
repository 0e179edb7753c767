//! Looks now and then at what nobody reports by itself: how full the disks are. Dies with the runtime; the values then
//! stand still, which harms nobody.

use super::live;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks: as often as people scrape.
const EVERY: Duration = Duration::from_secs(10);

/// Looks at the filesystems under `paths`, for ever.
pub async fn probe(paths: BTreeSet<PathBuf>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let paths = paths.clone();
        // A filesystem on a network may hang; the loop then waits, and nothing else does.
        let looked =
            tokio::task::spawn_blocking(move || paths.iter().for_each(|path| filesystem(path))).await;
        if let Err(error) = looked {
            tracing::debug!(%error, "cannot look at the filesystems");
        }
    }
}

/// A path that cannot be looked at (a volume's directory before the first volume) has no values.
fn filesystem(path: &Path) {
    let Ok(found) = rustix::fs::statvfs(path) else { return };
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
    let bytes = |blocks: u64| blocks as f64 * found.f_frsize as f64;
    live().filesystem(&path.display().to_string(), bytes(found.f_bavail), bytes(found.f_blocks));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filesystem_has_a_size_and_one_that_is_not_there_has_none() {
        let dir = tempfile::tempdir().unwrap();
        filesystem(dir.path());
        filesystem(&dir.path().join("absent"));
        let text = super::super::render(&crate::cli::fixture::healthy());
        let shown = dir.path().display().to_string();
        let values: Vec<f64> = text
            .lines()
            .filter(|l| l.contains(&format!("{{path=\"{shown}\"}}")))
            .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(values.len(), 2);
        assert!(values.iter().all(|v| *v > 0.0), "{values:?}");
        assert!(!text.contains("/absent"));
    }
}
