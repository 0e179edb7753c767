//! Filesystems, and images of disks that are mounted to be looked at.

use crate::rig::{Mounted, run};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For files of a process that is gone.
const LET_GO: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    Ext4,
    Xfs,
}

impl Filesystem {
    pub fn make(self, device: &Path) {
        let device = device.to_str().unwrap();
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-F", "-b", "4096", device]),
            // An xfs that may be used for real has at least 300 MiB.
            Self::Xfs => run("mkfs.xfs", &["--unsupported", "-q", "-f", device]),
        };
    }

    /// The filesystem's own check, of an image that was mounted and unmounted: its log is empty. Changes nothing.
    pub fn check(self, image: &Path) -> Result<(), String> {
        let (program, how) = match self {
            Self::Ext4 => ("fsck.ext4", "-fn"),
            Self::Xfs => ("xfs_repair", "-n"),
        };
        succeeds(program, &[how, image.to_str().unwrap()])
    }
}

/// What a program that failed has to say is the error.
pub fn succeeds(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    Err(format!("{program} {arguments:?}: {out}{err}"))
}

/// Unmounts. A process that was killed may hold its files a moment longer than it is there: the kernel ends what it asked of
/// io_uring later, in a thread of its own.
pub fn unmount(root: &Path) -> Result<(), String> {
    let end = Instant::now() + LET_GO;
    loop {
        match succeeds("umount", &[root.to_str().unwrap()]) {
            Err(busy) if busy.contains("busy") && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Mounts what a disk holds (the filesystem replays its log), lets `look` judge it, then has the filesystem checked.
pub fn open(
    bytes: &[u8],
    filesystem: Filesystem,
    dir: &Path,
    look: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let (image, root) = (dir.join("cut.img"), dir.join("cut"));
    write_sparse(bytes, &image);
    std::fs::create_dir_all(&root).unwrap();
    succeeds("mount", &["-o", "loop", image.to_str().unwrap(), root.to_str().unwrap()])?;
    let mounted = Mounted(root.clone());
    look(&root)?;
    unmount(&root)?;
    std::mem::forget(mounted);
    filesystem.check(&image)
}

fn write_sparse(bytes: &[u8], path: &PathBuf) {
    const PIECE: usize = 64 << 10;
    let zeroes = vec![0; PIECE];
    let file = File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, piece) in (0..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
        if piece != &zeroes[..piece.len()] {
            file.write_all_at(piece, at).unwrap();
        }
    }
}
