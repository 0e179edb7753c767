//! Disks: how long etcd's flushes would take, space for state and volumes, and file modes of secrets.

use super::report::Finding;
use crate::cli::paint::bytes;
use baton_replicator::transport::Secret;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// etcd's docs ask for a 99th percentile of WAL flushes below 10 ms, measured with writes of about 2300 bytes
/// (etcd.io, "How to benchmark the disk").
const GOOD: Duration = Duration::from_millis(10);
/// The recommended election timeout is 250 ms, the heartbeat 50 ms: two flushes of this kind cost the leadership.
const BAD: Duration = Duration::from_millis(100);
const WRITE: usize = 2300;
/// Enough for a 99th percentile, a few seconds on the slowest disk that is any good.
const WRITES: usize = 200;
/// A disk that is slower than this on average is judged by what there is.
const BUDGET: Duration = Duration::from_secs(8);

/// Writes and flushes in `dir`, and judges the 99th percentile. Blocking; 8 s at most.
pub(super) fn fsync(dir: &Path) -> Finding {
    judge_fsync(measure(dir), dir)
}

fn measure(dir: &Path) -> Result<Vec<Duration>, std::io::Error> {
    let path = dir.join(format!(".baton-doctor-{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let block = [0x5a; WRITE];
    let (began, mut all) = (Instant::now(), Vec::with_capacity(WRITES));
    let mut outcome = Ok(());
    while all.len() < WRITES && began.elapsed() < BUDGET {
        let start = Instant::now();
        outcome = file.write_all(&block).and_then(|()| file.sync_data());
        if outcome.is_err() {
            break;
        }
        all.push(start.elapsed());
    }
    drop(file);
    std::fs::remove_file(&path)?;
    outcome.map(|()| all)
}

fn judge_fsync(measured: Result<Vec<Duration>, std::io::Error>, dir: &Path) -> Finding {
    const CHECK: &str = "fsync";
    let mut all = match measured {
        Ok(all) if !all.is_empty() => all,
        Ok(_) => return Finding::skipped("disk", CHECK, "nothing could be measured"),
        Err(e) => {
            let found = format!("{} cannot be written: {e}", dir.display());
            return Finding::failed(
                "disk",
                CHECK,
                found,
                "Check the directory, its owner and the free space.",
            );
        }
    };
    all.sort();
    let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1000.0);
    let (p99, n) = (at(99), all.len());
    let found =
        format!("in {}: median {}, 99th percentile {} of {n} flushes", dir.display(), ms(at(50)), ms(p99));
    if p99 <= GOOD {
        Finding::ok("disk", CHECK, found)
    } else if p99 <= BAD {
        let mend = "etcd asks for 10 ms: give its data directory a disk of its own (--etcd-dir measures another one).";
        Finding::warning("disk", CHECK, found, mend)
    } else {
        let mend = "etcd would lose its leader again and again: give its data directory another disk, at best an SSD.";
        Finding::failed("disk", CHECK, found, mend)
    }
}

/// Space where the state and the volumes' files are. `volumes` is what the specification wants to keep here.
pub(super) fn space(dir: &Path, volumes: u64) -> Finding {
    match rustix::fs::statvfs(dir) {
        Ok(fs) => {
            let (free, total) = (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize);
            judge_space(dir, free, total, volumes, allocated(&dir.join("volumes")) + allocated(dir))
        }
        Err(e) => Finding::failed(
            "disk",
            "space",
            format!("{} cannot be looked at: {e}", dir.display()),
            "Make the state directory, or give --state-dir.",
        ),
    }
}

/// What files in a directory take on disk.
fn allocated(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .map(|m| m.blocks() * 512)
        .sum()
}

fn judge_space(dir: &Path, free: u64, total: u64, volumes: u64, used_by_volumes: u64) -> Finding {
    let shown = format!("{} of {} are free in {}", bytes(free), bytes(total), dir.display());
    let mend = "Free some, or give volumes a block device of their own (backing).";
    // A sparse file grows with what is written: a full disk is an I/O error under the filesystem.
    let missing = volumes.saturating_sub(used_by_volumes).saturating_sub(free);
    if free < 128 << 20 || free < total / 50 {
        Finding::failed("disk", "space", shown, mend)
    } else if missing > 0 {
        let found = format!(
            "{shown}; the volumes may grow to {}, {} more than there is",
            bytes(volumes),
            bytes(missing)
        );
        Finding::warning("disk", "space", found, mend)
    } else if free < 1 << 30 || free < total / 10 {
        Finding::warning("disk", "space", shown, mend)
    } else {
        Finding::ok("disk", "space", shown)
    }
}

/// The cluster's secret, and every key, token and password file beside it.
pub(super) fn secrets(secret: &Path) -> Vec<Finding> {
    let mut all = vec![match Secret::load(secret) {
        Ok(_) => Finding::ok(
            "secrets",
            "cluster secret",
            format!("{} is private and long enough", secret.display()),
        ),
        Err(error) => {
            let make = format!(
                "Same content on all hosts, mode 0600: (umask 077; openssl rand -hex 32 > {}).",
                secret.display()
            );
            Finding::failed("secrets", "cluster secret", error.to_string(), make)
        }
    }];
    let Some(dir) = secret.parent() else { return all };
    let mut open: Vec<(PathBuf, u32)> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|path| path != secret && private_by_name(path))
        .filter_map(|path| Some((path.clone(), path.metadata().ok()?.permissions().mode() & 0o7777)))
        .filter(|(_, mode)| mode & 0o077 != 0)
        .collect();
    open.sort();
    all.extend(open.into_iter().map(|(path, mode)| {
        Finding::failed(
            "secrets",
            path.display().to_string(),
            format!("has mode {mode:04o}: group or others may use it"),
            format!("Run: chmod 600 {}", path.display()),
        )
    }));
    all
}

/// Whether a file's name says that nobody else should read it.
fn private_by_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_ascii_lowercase();
    name.ends_with(".key")
        || name.ends_with("-key.pem")
        || ["secret", "token", "password", "passwd"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn flushes_are_judged_by_their_99th_percentile() {
        let dir = Path::new("/x");
        let series = |slow: usize, ms: u64| {
            let of = |i: usize| Duration::from_millis(if i < slow { ms } else { 2 });
            judge_fsync(Ok((0..200).map(of).collect()), dir).verdict
        };
        assert_eq!(series(0, 0), Verdict::Ok);
        assert_eq!(series(1, 900), Verdict::Ok, "one in 200 is not the 99th percentile");
        assert_eq!(series(4, 30), Verdict::Warning);
        assert_eq!(series(4, 101), Verdict::Failed);
        assert_eq!(
            judge_fsync(Err(std::io::ErrorKind::PermissionDenied.into()), dir).verdict,
            Verdict::Failed
        );
        assert_eq!(judge_fsync(Ok(vec![]), dir).verdict, Verdict::Skipped);
        let real = tempfile::tempdir().unwrap();
        let finding = fsync(real.path());
        assert!(finding.found.contains("99th percentile"), "{finding:?}");
        assert_eq!(std::fs::read_dir(real.path()).unwrap().count(), 0);
    }

    #[test]
    fn space_counts_what_the_volumes_may_still_grow_to() {
        const G: u64 = 1 << 30;
        for (free, total, volumes, used, verdict) in [
            (50 * G, 100 * G, 10 * G, 0, Verdict::Ok),
            (50 * G, 100 * G, 60 * G, 0, Verdict::Warning),
            (50 * G, 100 * G, 60 * G, 20 * G, Verdict::Ok),
            (9 * G, 100 * G, 0, 0, Verdict::Warning),
            (G, 100 * G, 0, 0, Verdict::Failed),
            (100 << 20, G, 0, 0, Verdict::Failed),
        ] {
            let found = judge_space(Path::new("/x"), free, total, volumes, used);
            assert_eq!(found.verdict, verdict, "{found:?}");
        }
    }

    #[test]
    fn open_secrets_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "0123456789abcdef0123456789abcdef").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let secret = write("secret", 0o600);
        write("ca.crt", 0o644);
        write("node.key", 0o600);
        assert!(secrets(&secret).iter().all(|f| f.verdict == Verdict::Ok), "{:?}", secrets(&secret));
        write("node.key", 0o640);
        write("admin-token", 0o644);
        let found = secrets(&secret);
        assert_eq!(found.iter().filter(|f| f.verdict == Verdict::Failed).count(), 2, "{found:?}");
        assert!(found[1].mend.starts_with("Run: chmod 600 "), "{found:?}");
        write("secret", 0o644);
        assert_eq!(secrets(&secret)[0].verdict, Verdict::Failed);
    }
}
