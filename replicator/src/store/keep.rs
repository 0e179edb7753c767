//! Copies of a backing file whose data was given up: made, listed and removed.
//!
//! A copy lies beside its backing file, as `<file>.discarded-<unix seconds>-<generation>`: the name says all there is to
//! know, so nothing else has to be kept in step. It is a reflink where the filesystem has them (no room, no time), else a
//! sparse copy, if there is room for it. It has that name only once it is whole and durable; one that was being made when
//! the process died is called `discarding` and removed at the next start. A block device has no room beside it.

use crate::api::{Backing, Snapshot};
use crate::types::{Generation, NodeName};
use rustix::fs::{SeekFrom, fstatvfs, ioctl_ficlone, seek};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Room that a copy leaves on the filesystem: the resync that follows may need some where the file had holes, and a full
/// filesystem hurts everyone on it.
const SPARE: u64 = 256 << 20;
/// Copied at once.
const PIECE: usize = 1 << 20;
const DONE: &str = ".discarded-";
const BEGUN: &str = ".discarding-";

fn place(backing: &Backing) -> Option<(&Path, &str)> {
    match backing {
        Backing::File(path) => Some((path.parent()?, path.file_name()?.to_str()?)),
        Backing::Device(_) => None,
    }
}

/// What has been kept of this backing store of a node, oldest first.
#[must_use]
pub fn kept(backing: &Backing, node: &NodeName) -> Vec<Snapshot> {
    let Some((dir, file)) = place(backing) else { return Vec::new() };
    let mut found: Vec<Snapshot> = names(backing)
        .into_iter()
        .filter_map(|name| {
            let (at, generation) = parsed(file, &name)?;
            Some(Snapshot {
                node: node.clone(),
                made_at_s: at,
                generation,
                bytes: dir.join(&name).metadata().ok()?.blocks() * 512,
                name,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.made_at_s, &a.name).cmp(&(b.made_at_s, &b.name)));
    found
}

fn parsed(file: &str, name: &str) -> Option<(u64, Generation)> {
    let (at, generation) = name.strip_prefix(file)?.strip_prefix(DONE)?.split_once('-')?;
    Some((at.parse().ok()?, generation.parse().ok()?))
}

fn names(backing: &Backing) -> Vec<String> {
    let Some((dir, file)) = place(backing) else { return Vec::new() };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok().filter(|name| parsed(file, name).is_some()))
        .collect()
}

/// Removes what was being made when an earlier process died.
pub fn clean(backing: &Backing) {
    let Some((dir, file)) = place(backing) else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let begun = |n: &str| n.strip_prefix(file).is_some_and(|rest| rest.starts_with(BEGUN));
        if name.to_str().is_some_and(begun) {
            // What cannot be removed now is tried again at the next start.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Keeps a copy of a backing file that nobody writes to; returns its name once it is durable. A copy of the same data
/// that exists already is enough.
///
/// # Errors
/// No room, a block device, or the disk failed; nothing is left behind then.
pub fn keep(backing: &Backing, generation: Generation, unix_s: u64) -> io::Result<String> {
    let (Some((dir, file)), Backing::File(path)) = (place(backing), backing) else {
        return Err(io::Error::other("of a block device no copy can be kept"));
    };
    let known = names(backing).into_iter().find(|name| name.ends_with(&format!("-{generation}")));
    if let Some(name) = known {
        return Ok(name);
    }
    let begun = dir.join(format!("{file}{BEGUN}{generation}"));
    let name = format!("{file}{DONE}{unix_s}-{generation}");
    let made = copy(path, &begun).and_then(|()| std::fs::rename(&begun, dir.join(&name)));
    made.and_then(|()| File::open(dir)?.sync_all()).map(|()| name).inspect_err(|_| {
        let _ = std::fs::remove_file(&begun);
    })
}

/// Removes a copy; one that is not there is no error.
///
/// # Errors
/// It is there and cannot be removed.
pub fn release(backing: &Backing, name: &str) -> io::Result<()> {
    let found = names(backing).iter().any(|known| known == name);
    let (Some((dir, _)), true) = (place(backing), found) else { return Ok(()) };
    std::fs::remove_file(dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn copy(from: &Path, to: &PathBuf) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
    if ioctl_ficlone(&target, &source).is_err() {
        let (needed, room) = (source.metadata()?.blocks() * 512, fstatvfs(&target)?);
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if free < needed.saturating_add(SPARE) {
            return Err(io::Error::other(format!(
                "it needs {needed} bytes beside {} and {SPARE} bytes to spare, and {free} are free",
                from.display()
            )));
        }
        sparse(&source, &target)?;
    }
    target.sync_all()
}

/// Copies what is not a hole.
fn sparse(source: &File, target: &File) -> io::Result<()> {
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        at = match seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // A filesystem that knows no holes.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e.into()),
        };
        let end = match seek(source, SeekFrom::Hole(at)) {
            Ok(end) => end,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => size,
            Err(e) => return Err(e.into()),
        };
        while at < end {
            let want = piece.len().min(usize::try_from(end - at).unwrap_or(PIECE));
            let got = source.read_at(&mut piece[..want], at)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            target.write_all_at(&piece[..got], at)?;
            at += got as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn listed(backing: &Backing) -> Vec<Snapshot> {
        kept(backing, &NodeName::new("alpha").expect("a name"))
    }

    fn backing(dir: &Path) -> Backing {
        let path = dir.join("vol.img");
        let file = File::create(&path).expect("a file");
        file.set_len(SIZE).expect("its size");
        file.write_all_at(&[7; 8192], 0).expect("data");
        file.write_all_at(&[9; 5000], SIZE - 5000).expect("data at the end");
        Backing::File(path)
    }

    #[test]
    fn a_copy_is_whole_sparse_listed_and_released() {
        let dir = tempfile::tempdir().expect("a directory");
        let backing = backing(dir.path());
        let name = keep(&backing, Generation(0xab), 1_795_000_000).expect("a copy");
        assert_eq!(name, "vol.img.discarded-1795000000-00000000000000ab");
        let Backing::File(path) = &backing else { unreachable!() };
        let before = std::fs::read(path).expect("the file");
        // What happens to the file now is nothing to the copy.
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|f| f.write_all_at(&[1; 8192], 0))
            .expect("a write");
        assert!(std::fs::read(dir.path().join(&name)).expect("the copy") == before, "byte by byte");
        let found = listed(&backing);
        assert_eq!(
            (found.len(), found[0].made_at_s, found[0].generation),
            (1, 1_795_000_000, Generation(0xab))
        );
        assert!(found[0].bytes < SIZE / 2, "holes stay holes: {found:?}");
        // The same data once more is the same copy: a command that is repeated keeps no second one.
        assert_eq!(keep(&backing, Generation(0xab), 1_795_000_099).expect("the copy"), name);
        assert_ne!(keep(&backing, Generation(0xac), 1_795_000_099).expect("another"), name);
        release(&backing, &name).expect("released");
        release(&backing, &name).expect("twice is once");
        release(&backing, "vol.img").expect("nothing else is ever removed");
        assert!(path.exists() && listed(&backing).len() == 1);
    }

    #[test]
    fn what_was_begun_is_removed_and_a_device_keeps_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let backing = backing(dir.path());
        let left = dir.path().join("vol.img.discarding-00000000000000ab");
        std::fs::write(&left, b"half").expect("a file");
        assert!(listed(&backing).is_empty(), "half a copy is none");
        clean(&backing);
        assert!(!left.exists() && dir.path().join("vol.img").exists());
        let device = Backing::Device(dir.path().join("vol.img"));
        assert!(keep(&device, Generation(1), 1).expect_err("refused").to_string().contains("block device"));
        assert!(listed(&device).is_empty());
    }
}
