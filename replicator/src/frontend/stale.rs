//! What an earlier process of this node left: loop devices on dead files, FUSE mounts, symlinks.
//!
//! Several nodes may share a kernel (a demonstration, a test), so everything carries the node's tag, and nothing
//! without it is touched.

use super::loopdev::{LoopDevice, attached, backing_name};
use crate::types::NodeName;
use rustix::mount::{UnmountFlags, unmount};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For each device. A device that is mounted is freed by the kernel when it is unmounted.
const DETACH_LIMIT: Duration = Duration::from_secs(1);

/// `<node>-<8 hex digits>`: drawn once and kept in `<state-dir>/device-tag`, so that it tells this node's devices
/// from those of other nodes, and other clusters, on the same kernel, and is the same after a restart.
///
/// # Errors
/// The file cannot be read or written, or holds something else.
pub fn node_tag(state_dir: &Path, node: &NodeName) -> io::Result<String> {
    let path = state_dir.join("device-tag");
    let explain = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_string(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let text = format!("{:08x}", rand::random::<u32>());
            std::fs::create_dir_all(state_dir).map_err(explain)?;
            let temp = state_dir.join("device-tag.new");
            let written = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(&temp)
                .and_then(|mut f| writeln!(f, "{text}").and_then(|()| f.sync_all()))
                .and_then(|()| std::fs::rename(&temp, &path));
            written.map_err(explain)?;
            text
        }
        Err(e) => return Err(explain(e)),
    };
    if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(explain(io::Error::new(
            io::ErrorKind::InvalidData,
            "not 8 hexadecimal digits; remove the file",
        )));
    }
    Ok(format!("{node}-{text}"))
}

/// Frees loop devices, FUSE mounts and symlinks that an earlier process of the node with this tag left.
/// Returns what it did and what it could not do, one sentence each. To be called before the first front end
/// starts; blocks a few seconds at most. Spared are FUSE files, by name, that somebody goes on with.
#[must_use]
pub fn clean(tag: &str, run_dir: &Path, device_dir: &Path, spared: &[String]) -> Vec<String> {
    let mut report = Vec::new();
    let source = mount_source(tag);
    let spare = |name: &str| spared.iter().any(|s| s == name);
    for dir in mounts_from(&source) {
        if dir.file_name().and_then(|n| n.to_str()).is_some_and(|n| spare(&format!("baton-{n}"))) {
            continue;
        }
        report.push(match unmount(&dir, UnmountFlags::FORCE | UnmountFlags::DETACH) {
            Ok(()) => format!("unmounted the stale filesystem on {}", dir.display()),
            Err(e) => format!("cannot unmount the stale filesystem on {}: {e}", dir.display()),
        });
        let _ = std::fs::remove_dir(&dir);
    }
    let prefix = file_prefix(tag);
    let private = private_dir(run_dir);
    for (number, name) in attached() {
        if !name.starts_with(&prefix) || spare(&name) {
            continue;
        }
        let freed = LoopDevice::numbered(number, &private)
            .map_err(|e| e.to_string())
            .and_then(|device| device.detach(&name, None, DETACH_LIMIT).map_err(|e| e.to_string()));
        report.push(match freed {
            Ok(()) => format!("freed the stale loop device /dev/loop{number} ({name})"),
            Err(e) => format!("the stale loop device /dev/loop{number} ({name}) stays for now: {e}"),
        });
    }
    for link in std::fs::read_dir(device_dir).into_iter().flatten().flatten() {
        let Ok(target) = std::fs::read_link(link.path()) else { continue };
        let number = target.to_str().and_then(|t| t.strip_prefix("/dev/loop")?.parse::<u32>().ok());
        let Some(number) = number else { continue };
        // A device that somebody else uses now is theirs; ours, or nobody's, is stale.
        if backing_name(number).is_none_or(|name| name.starts_with(&prefix) && !spare(&name)) {
            report.push(match std::fs::remove_file(link.path()) {
                Ok(()) => format!("removed the stale symlink {}", link.path().display()),
                Err(e) => format!("cannot remove the stale symlink {}: {e}", link.path().display()),
            });
        }
    }
    report
}

/// The mount point of a FUSE file, which has the file's name without "baton-".
pub(super) fn mount_point(run_dir: &Path, tag: &str, volume: &str) -> PathBuf {
    private_dir(run_dir).join(format!("{tag}-{volume}"))
}

/// What the names of this node's FUSE files begin with.
pub(super) fn file_prefix(tag: &str) -> String {
    format!("baton-{tag}-")
}

/// What `mount` shows as the source of this node's FUSE mounts.
pub(super) fn mount_source(tag: &str) -> String {
    format!("baton:{tag}")
}

/// Where mount points and device nodes are made.
pub(super) fn private_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("frontend")
}

fn mounts_from(source: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| mount_point_of(line, source)).collect()
}

/// `36 35 98:0 / /mount/point rw,… shared:1 - fuse.baton SOURCE rw,…`
fn mount_point_of(line: &str, source: &str) -> Option<PathBuf> {
    let (before, after) = line.split_once(" - ")?;
    let mut tail = after.split(' ');
    let (kind, from) = (tail.next()?, tail.next()?);
    if kind != "fuse.baton" || from != source {
        return None;
    }
    // Blanks and the like are escaped in octal; our own directories have none, others' are left alone.
    let point = before.split(' ').nth(4)?;
    (!point.contains('\\')).then(|| PathBuf::from(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_stays_and_differs_between_state_directories() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let node = NodeName::new("alpha").unwrap();
        let tag = node_tag(a.path(), &node).unwrap();
        assert!(tag.starts_with("alpha-") && tag.len() == 14, "{tag}");
        assert_eq!(node_tag(a.path(), &node).unwrap(), tag);
        assert_ne!(node_tag(b.path(), &node).unwrap(), tag);
        std::fs::write(a.path().join("device-tag"), "../../etc").unwrap();
        assert!(node_tag(a.path(), &node).unwrap_err().to_string().contains("device-tag"));
    }

    #[test]
    fn only_our_own_mounts_are_found() {
        let ours = "36 35 0:50 / /run/baton/frontend/x rw,nosuid shared:1 - fuse.baton baton:alpha-0123 rw,user_id=0";
        assert_eq!(mount_point_of(ours, "baton:alpha-0123"), Some("/run/baton/frontend/x".into()));
        assert_eq!(mount_point_of(ours, "baton:alpha-4567"), None);
        assert_eq!(mount_point_of(&ours.replace("fuse.baton", "fuse.sshfs"), "baton:alpha-0123"), None);
        assert_eq!(mount_point_of("nonsense", "baton:alpha-0123"), None);
    }

    #[test]
    fn links_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let link = |name: &str, target: &str| {
            let path = dir.path().join(name);
            std::os::unix::fs::symlink(target, &path).unwrap();
            path
        };
        let stale = link("web", "/dev/loop987654");
        let other = link("disk", "/dev/sda");
        std::fs::write(dir.path().join("file"), "x").unwrap();
        let report = clean("nobody-00000000", dir.path(), dir.path(), &[]);
        assert_eq!(report, [format!("removed the stale symlink {}", stale.display())]);
        assert!(other.is_symlink() && !stale.is_symlink());
    }
}
