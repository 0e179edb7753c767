//! A volume as it was at one moment, while it goes on changing: for backups.
//!
//! Copy before write: before a block of the store changes for the first time after the moment, its old content is copied
//! to a file that has no name. A read takes a block from there if it was copied, else from the store. That works
//! on every filesystem and block device; it costs a read and a write per block that changes.
//!
//! The moment lies between changes, so that the content is what the disk would hold after a power cut at that moment: what
//! was flushed is in it, and a filesystem with a journal recovers from it.
//!
//! Invariants: a block of the store is changed only after its bit is set, under the lock of its stripe, and read for
//! the snapshot under the same lock; the store's duty goes first: if a copy fails or takes too long, the snapshot
//! breaks and the change goes on. If the process dies, the copies are gone with their nameless file.

use super::{AlignedBuf, BLOCK};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, fstatvfs};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};
use std::time::{Duration, Instant};

/// Blocks that are locked together: a reader of 1 MiB holds up a writer of the same MiB only.
const STRIPE: u64 = 1 << 20;
/// How much is copied at once, and how long copying may hold up one change. A write has at most 1 MiB; a large discard of
/// much data may take longer, and breaks the snapshot instead of holding up replication (`peer_timeout` is 2 s).
const COPY_LIMIT: Duration = if cfg!(test) { Duration::from_secs(60) } else { Duration::from_secs(1) };
/// What stays free on the filesystem that has the copies: they must not fill the disk of the volume itself.
const KEEP_FREE_PERCENT: u64 = 10;
/// Locks for all stripes of a volume, which share them: more than threads that could want one.
const STRIPES: usize = 64;
/// After this many copied bytes the free space is looked at again.
const LOOK_EVERY: u64 = 16 << 20;

/// Where a store's snapshot is kept, for whoever changes the store.
#[derive(Default)]
pub(super) struct Slot {
    /// Held for reading during every change, so that taking a snapshot waits for the changes in progress.
    current: RwLock<Option<Arc<Snapshot>>>,
}

/// A store at one moment.
pub struct Snapshot {
    store: File,
    copies: File,
    size_bytes: u64,
    /// One bit a block: its old content is in `copies`.
    copied: Vec<AtomicU64>,
    stripes: Vec<Mutex<()>>,
    /// What may hold data, sorted and disjoint, as it was at the moment; everything else reads as zeroes.
    data: OnceLock<Vec<Range<u64>>>,
    copied_bytes: AtomicU64,
    looked_at: AtomicU64,
    is_broken: AtomicBool,
    broken: OnceLock<String>,
    #[cfg(test)]
    copies_fail: AtomicBool,
}

impl Slot {
    /// Carries out a change of `range`, after what it changes was copied.
    pub fn change<T>(&self, range: Range<u64>, change: impl FnOnce() -> T) -> T {
        let current = self.current.read().expect("no panic under this lock");
        if let Some(snapshot) = current.as_ref() {
            snapshot.preserve(range);
        }
        change()
    }

    /// Takes a snapshot of the store: waits for the changes in progress. `data` finds what is allocated.
    pub fn take(
        &self,
        store: File,
        size_bytes: u64,
        dir: &Path,
        data: impl FnOnce() -> io::Result<Vec<Range<u64>>>,
    ) -> io::Result<Arc<Snapshot>> {
        let snapshot = Arc::new(Snapshot::new(store, size_bytes, dir)?);
        {
            let mut current = self.current.write().expect("no panic under this lock");
            if current.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a snapshot already"));
            }
            *current = Some(snapshot.clone());
        }
        // After the moment: what is punched meanwhile is copied first, and counted in below.
        let found = data().map(|found| snapshot.with_copied(found));
        match found {
            Ok(found) => {
                let _ = snapshot.data.set(found);
                Ok(snapshot)
            }
            Err(error) => {
                self.drop_snapshot();
                Err(error)
            }
        }
    }

    /// There is one, broken or not.
    pub fn is_taken(&self) -> bool {
        self.current.read().expect("no panic under this lock").is_some()
    }

    /// Changes are not copied any more; whoever still reads the snapshot gets errors.
    pub fn drop_snapshot(&self) {
        let old = self.current.write().expect("no panic under this lock").take();
        if let Some(old) = old {
            old.break_with("it was ended");
        }
    }
}

impl Snapshot {
    fn new(store: File, size_bytes: u64, dir: &Path) -> io::Result<Self> {
        let copies = nameless(dir)?;
        copies.set_len(size_bytes)?;
        // 32 MiB of memory per TiB, for as long as the snapshot lives.
        let words = (size_bytes / BLOCK).div_ceil(64) as usize;
        let copied = std::iter::repeat_with(|| AtomicU64::new(0)).take(words).collect();
        let stripes = std::iter::repeat_with(Mutex::default).take(STRIPES).collect();
        Ok(Self {
            store,
            copies,
            size_bytes,
            copied,
            stripes,
            data: OnceLock::new(),
            copied_bytes: AtomicU64::new(0),
            looked_at: AtomicU64::new(0),
            is_broken: AtomicBool::new(false),
            broken: OnceLock::new(),
            #[cfg(test)]
            copies_fail: AtomicBool::new(false),
        })
    }

    /// Reads whole blocks as they were, at most some MiB. Blocks.
    ///
    /// # Errors
    /// The disk failed, or the snapshot is broken.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = offset + len as u64;
        if !offset.is_multiple_of(BLOCK) || !end.is_multiple_of(BLOCK) || end > self.size_bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut buf = AlignedBuf::zeroed(len);
        for part in stripes(offset..end) {
            let into = &mut buf[(part.start - offset) as usize..(part.end - offset) as usize];
            let _stripe = self.stripe(part.start);
            self.check()?;
            for (run, copied) in self.runs(part.clone()) {
                let into = &mut into[(run.start - part.start) as usize..(run.end - part.start) as usize];
                let from = if copied { &self.copies } else { &self.store };
                from.read_exact_at(into, run.start)?;
            }
        }
        Ok(buf.into_bytes())
    }

    /// Until where what is at `offset` goes on, and whether it is a hole.
    #[must_use]
    pub fn range(&self, offset: u64) -> (u64, bool) {
        let Some(data) = self.data.get() else { return (self.size_bytes, false) };
        let next = data.partition_point(|r| r.end <= offset);
        match data.get(next) {
            Some(range) if range.start <= offset => (range.end, false),
            Some(range) => (range.start, true),
            None => (self.size_bytes, true),
        }
    }

    /// Bytes that were copied because they changed.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that may hold data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data.get().map_or(self.size_bytes, |data| data.iter().map(|r| r.end - r.start).sum())
    }

    /// Why it cannot be read any more.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    fn check(&self) -> io::Result<()> {
        match self.broken() {
            None if !self.is_broken.load(Ordering::SeqCst) => Ok(()),
            _ => Err(io::Error::other("the snapshot is broken")),
        }
    }

    fn break_with(&self, why: &str) {
        self.is_broken.store(true, Ordering::SeqCst);
        if self.broken.set(why.to_owned()).is_ok() && why != "it was ended" {
            tracing::warn!(why, "a snapshot broke");
        }
        // Its space is wanted back at once, not when the last reader is gone.
        let _ = self.copies.set_len(0);
    }

    /// Copies what a change is about to replace. Never fails: rather the snapshot breaks.
    fn preserve(&self, range: Range<u64>) {
        if self.is_broken.load(Ordering::SeqCst) {
            return;
        }
        // The store may have grown since.
        let range = range.start.min(self.size_bytes)..range.end.min(self.size_bytes);
        let began = Instant::now();
        for part in stripes(range) {
            let _stripe = self.stripe(part.start);
            if self.is_broken.load(Ordering::SeqCst) {
                return;
            }
            for (run, copied) in self.runs(part) {
                if copied {
                    continue;
                }
                if let Err(error) = self.copy(&run) {
                    return self.break_with(&format!("what a write replaced could not be copied: {error}"));
                }
                self.set_copied(&run);
            }
            if began.elapsed() > COPY_LIMIT {
                return self.break_with("copying what one change replaced took longer than a second");
            }
        }
    }

    fn copy(&self, run: &Range<u64>) -> io::Result<()> {
        let len = (run.end - run.start) as usize;
        let mut buf = AlignedBuf::zeroed(len);
        self.store.read_exact_at(&mut buf, run.start)?;
        if buf.iter().all(|b| *b == 0) {
            return Ok(()); // The copies read as zeroes where nothing was written.
        }
        let total = self.copied_bytes.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if total == len as u64 || total - self.looked_at.load(Ordering::Relaxed) >= LOOK_EVERY {
            self.looked_at.store(total, Ordering::Relaxed);
            let disk = fstatvfs(&self.copies)?;
            if disk.f_bavail * 100 < disk.f_blocks * KEEP_FREE_PERCENT {
                let why = format!("less than {KEEP_FREE_PERCENT} % of the disk with the copies is free");
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
        }
        #[cfg(test)]
        if self.copies_fail.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.copies.write_all_at(&buf, run.start)
    }

    fn stripe(&self, offset: u64) -> MutexGuard<'_, ()> {
        self.stripes[(offset / STRIPE) as usize % STRIPES].lock().expect("no panic under this lock")
    }

    fn is_copied(&self, block: u64) -> bool {
        self.copied[(block / 64) as usize].load(Ordering::Relaxed) >> (block % 64) & 1 == 1
    }

    fn set_copied(&self, run: &Range<u64>) {
        for block in run.start / BLOCK..run.end / BLOCK {
            self.copied[(block / 64) as usize].fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
    }

    /// A range within one stripe in runs that are copied or not. The stripe is locked.
    fn runs(&self, part: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut runs: Vec<(Range<u64>, bool)> = Vec::new();
        for block in part.start / BLOCK..part.end / BLOCK {
            let copied = self.is_copied(block);
            match runs.last_mut() {
                Some((run, same)) if *same == copied => run.end += BLOCK,
                _ => runs.push((block * BLOCK..(block + 1) * BLOCK, copied)),
            }
        }
        runs
    }

    /// Ranges of data, with what was copied while they were being found.
    fn with_copied(&self, mut data: Vec<Range<u64>>) -> Vec<Range<u64>> {
        for (word, bits) in self.copied.iter().enumerate() {
            let bits = bits.load(Ordering::Relaxed);
            if bits != 0 {
                let start = word as u64 * 64 * BLOCK;
                data.push(start..(start + 64 * BLOCK).min(self.size_bytes));
            }
        }
        data.sort_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(data.len());
        for range in data {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        merged
    }
}

/// A file that nobody else sees and that is gone with this process.
fn nameless(dir: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(dir, OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
        Ok(fd) => Ok(File::from(fd)),
        // The filesystem has no such files: one that loses its name at once.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            let path = dir.join(".snapshot");
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let _ = std::fs::remove_file(&path);
            let fd = rustix::fs::open(&path, flags, mode)?;
            std::fs::remove_file(&path)?;
            Ok(File::from(fd))
        }
        Err(error) => Err(error.into()),
    }
}

/// A range in pieces that lie within one stripe each.
fn stripes(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let start = at;
            at = (start / STRIPE * STRIPE + STRIPE).min(range.end);
            start..at
        })
    })
}

#[cfg(test)]
mod tests;
