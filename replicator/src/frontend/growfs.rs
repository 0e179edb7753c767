//! Lets a mounted filesystem fill a device that has become larger, with the programs that know how.
//!
//! The Docker engine has mounted it in the host's mount namespace, where this process sees nothing. A child process mounts
//! the same device a second time in a namespace of its own, which gives it the same filesystem, grows that, and ends; the
//! mount ends with it. This process itself never mounts its own device: it could not end while it waits for itself.
//!
//! A filesystem that nobody has mounted is left alone: whoever mounts first decides how.

use super::mkfs::run;
use super::{FrontEndError, sys};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// For finding out whether a device is mounted.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// `$1` device, `$2` type, `$3` mount point.
const SCRIPT: &str = r#"
set -e
mount -t "$2" "$1" "$3"
case "$2" in
ext4) resize2fs "$1" ;;
xfs) xfs_growfs -d "$3" ;;
esac
umount "$3"
"#;

/// Grows the `filesystem` (`ext4` or `xfs`) on `device` to its size; blocks at most `limit` and some seconds. `dir` is made
/// and removed.
///
/// # Errors
/// It is not mounted anywhere, or the programs fail or do not end in time.
pub fn grow_filesystem(
    device: &Path,
    filesystem: &str,
    dir: &Path,
    limit: Duration,
) -> Result<(), FrontEndError> {
    if !is_mounted(device)? {
        let detail = format!("the {filesystem} filesystem is grown when it is mounted");
        return Err(FrontEndError::Later { detail });
    }
    let fail = |what, source| FrontEndError::Sys { what, path: dir.into(), source };
    std::fs::create_dir_all(dir).map_err(|e| fail("make the directory", e))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "grow"]);
    let grown = run(command.arg(device).arg(filesystem).arg(dir), limit);
    let _ = std::fs::remove_dir(dir);
    match grown {
        // The kernel asks for more than for making one.
        Err(FrontEndError::Child { program, detail }) if detail.contains("ermission denied") => {
            let detail = format!("{detail}; give the replicator's container SYS_RESOURCE");
            Err(FrontEndError::Child { program, detail })
        }
        grown => grown,
    }
}

/// Somebody has it mounted, in whatever namespace: then it cannot be opened for oneself alone.
fn is_mounted(device: &Path) -> Result<bool, FrontEndError> {
    let path = device.to_path_buf();
    let open = move || {
        OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path).map(drop)
    };
    match sys::apart("looking whether a device is mounted", LOOK_LIMIT, open)? {
        Ok(()) => Ok(false),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(source) => Err(FrontEndError::Sys { what: "open", path: device.into(), source }),
    }
}
