//! The two replicas at rest: their backing files byte by byte, and the filesystem on each.
//!
//! "At rest" means that the group is stopped: both nodes are put in standby, so that the filesystem is unmounted, and
//! everything is flushed and demoted. The files are only read.

use crate::cluster::Cluster;
use crate::config::VOLUME;
use crate::docker::{self, Role};
use crate::shell;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of stopping the group on both hosts: MariaDB's orderly stop takes a second or two, its own bound is 10.
const STOP: Duration = Duration::from_secs(30);
/// Unit of a reported difference: a block of the dirty bitmap.
const BLOCK: usize = 4096;
/// More differing blocks than this are not listed.
const LISTED: usize = 16;

/// Directory of a host that its replicator and agent see as `/var/lib/baton`.
///
/// # Errors
/// If the host has no replicator with such a mount.
pub fn state_dir(cluster: &Cluster, host: &str) -> Result<PathBuf> {
    let replicator = docker::part(&cluster.config, host, Role::Replicator)?;
    let mount = replicator.mounts.into_iter().find(|m| m.inside == "/var/lib/baton");
    Ok(PathBuf::from(mount.ok_or_else(|| anyhow!("the replicator of {host} has no /var/lib/baton"))?.outside))
}

/// A host's backing file.
///
/// # Errors
/// As [`state_dir`].
pub fn backing(cluster: &Cluster, host: &str) -> Result<PathBuf> {
    Ok(state_dir(cluster, host)?.join("volumes").join(format!("{VOLUME}.img")))
}

/// Stops the group everywhere by putting the standby and then the leader in standby, and waits until both replicas
/// are secondary with nothing on its way between them. [`Cluster::heal`] brings everything back.
///
/// # Panics
/// If they do not come to rest in time.
pub fn rest(cluster: &Cluster, leader: &str) {
    cluster.mode(&cluster.config.other(leader), "standby");
    cluster.mode(leader, "standby");
    cluster.wait_for("both replicas at rest", STOP, |view| {
        for host in view.of.keys() {
            let status = view.of(host)?;
            if let Some(leader) = status.leader() {
                return Err(format!("{leader} leads"));
            }
            let volume = status.volume();
            if volume["role"] != "Secondary" {
                return Err(format!("the replica of {host} is {}", volume["role"]));
            }
            for peer in volume["peers"].as_array().into_iter().flatten() {
                if peer["unacked_bytes"] != 0 || peer["dirty_bytes"] != 0 {
                    return Err(format!("{host} still has bytes for its peer: {peer}"));
                }
            }
        }
        Ok(())
    });
}

/// Both replicas are byte-identical and hold a clean filesystem. Only at rest.
///
/// # Errors
/// What differs or what `fsck.ext4 -fn` found.
pub fn verify(cluster: &Cluster) -> Result<()> {
    let [a, b] = [&cluster.config.hosts[0], &cluster.config.hosts[1]].map(|h| backing(cluster, &h.name));
    let (a, b) = (a?, b?);
    let differing = compare(&a, &b)?;
    if !differing.is_empty() {
        bail!("the replicas differ in {} or more blocks of 4 KiB, first {differing:?}", differing.len());
    }
    for file in [&a, &b] {
        fsck(file)?;
    }
    Ok(())
}

fn fsck(file: &Path) -> Result<()> {
    let limit = Duration::from_secs(60);
    let output = shell::try_run(limit, &["fsck.ext4", "-fn", &file.to_string_lossy()])?;
    if output.code != Some(0) {
        bail!("fsck.ext4 -fn {} ended with {:?}: {}", file.display(), output.code, output.text().trim());
    }
    Ok(())
}

/// Numbers of the first blocks in which two files differ. Holes count as zeroes, as they do on a disk.
///
/// # Errors
/// If one cannot be read, or their lengths differ.
pub fn compare(a: &Path, b: &Path) -> Result<Vec<usize>> {
    let open = |p: &Path| File::open(p).with_context(|| p.display().to_string());
    let (mut one, mut other) = (open(a)?, open(b)?);
    let (len, other_len) = (one.metadata()?.len(), other.metadata()?.len());
    if len != other_len {
        bail!("{} has {len} bytes, {} has {other_len}", a.display(), b.display());
    }
    let mut differing = Vec::new();
    // 256 blocks at a time: large enough to be fast, small enough for any cache.
    let (mut x, mut y) = (vec![0; 256 * BLOCK], vec![0; 256 * BLOCK]);
    let mut first_block = 0;
    let mut left = len;
    while left > 0 && differing.len() < LISTED {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(x.len());
        one.read_exact(&mut x[..n])?;
        other.read_exact(&mut y[..n])?;
        if x[..n] != y[..n] {
            let blocks = x[..n].chunks(BLOCK).zip(y[..n].chunks(BLOCK)).enumerate();
            differing.extend(blocks.filter(|(_, (p, q))| p != q).map(|(i, _)| first_block + i));
        }
        first_block += n / BLOCK;
        left -= n as u64;
    }
    differing.truncate(LISTED);
    Ok(differing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_hole_equals_zeroes_and_one_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let size = 3 << 20;
        let sparse = File::create(&a).unwrap();
        sparse.set_len(size).unwrap();
        std::fs::write(&b, vec![0; size as usize]).unwrap();
        assert_eq!(compare(&a, &b).unwrap(), [0; 0]);
        sparse.write_all_at(b"x", (2 << 20) + 5000).unwrap();
        sparse.write_all_at(b"x", size - 1).unwrap();
        assert_eq!(compare(&a, &b).unwrap(), [513, 767]);
        sparse.set_len(size + 1).unwrap();
        assert!(compare(&a, &b).unwrap_err().to_string().contains("bytes"));
    }

    #[test]
    fn fsck_tells_a_clean_filesystem_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(8 << 20).unwrap();
        shell::run(&["mkfs.ext4", "-q", &image.to_string_lossy()]).unwrap();
        fsck(&image).unwrap();
        // Zeroes over the block group's bitmaps and inode table, behind the superblock and the descriptors.
        file.write_all_at(&[0; 64 << 10], 8 << 10).unwrap();
        assert!(fsck(&image).is_err());
    }
}
