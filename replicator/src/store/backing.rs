//! The backing store of a volume: a sparse file or a block device, used with O_DIRECT where possible.
//!
//! A small pool of threads carries out commands. One command waits for another only if they overlap and at least
//! one of them changes data: then the earlier one goes first. Flushes that wait together share one fdatasync.
//!
//! If a thread is stuck in the kernel (a disk that hangs), the others go on; when all are stuck, commands wait
//! and their owner notices by its own clock.

use super::op::{StoreOp, Touched};
use super::snapshot::Slot;
use super::{AlignedBuf, BLOCK, Completion, Snapshot, StoreError};
use crate::api::Backing;
use crate::core::digest::digests;
use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom, fallocate, flock, seek};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Threads per store. Measured: overlapping disk I/O matters, more than four threads on two cores do not help.
const THREADS: usize = 4;
/// Zeroes written at once where the filesystem cannot make a range zero by itself.
const ZERO_CHUNK: usize = 1 << 20;
/// Ranges of data that are closer than this are reported as one: bounds the list for a much-punched file.
const MERGE_GAP: u64 = 1 << 20;
/// udev may hold a lock on a block device's node for a moment; our own lock is tried again for this long.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// An open backing store with its threads. Dropping it ends the threads after what they are doing; commands
/// that were not begun complete with [`StoreError::Closed`].
pub struct BackingStore {
    shared: Arc<Shared>,
}

struct Shared {
    file: File,
    path: PathBuf,
    size_bytes: AtomicU64,
    device: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    snapshot: Slot,
    sink: Box<dyn Fn(Completion) + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    running: Vec<(u64, Option<Touched>)>,
    next_job: u64,
    closed: bool,
    threads: usize,
}

struct Job {
    tag: u64,
    op: StoreOp,
}

impl BackingStore {
    /// Whether the file or device exists.
    #[must_use]
    pub fn exists(backing: &Backing) -> bool {
        path_of(backing).symlink_metadata().is_ok()
    }

    /// Creates a sparse file of the volume's size, durably; for a device only checks that it is there.
    /// Parent directories are made.
    ///
    /// # Errors
    /// The file exists already or cannot be made; the device is absent or too small.
    pub fn create(backing: &Backing, size_bytes: u64) -> Result<(), StoreError> {
        let path = match backing {
            Backing::Device(path) => return open_checked(path, size_bytes, u64::MAX).map(|_| ()),
            Backing::File(path) => path,
        };
        let fail = |op: &str, source| StoreError::Io { op: op.into(), path: path.clone(), source };
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).map_err(|e| fail("make the directory of", e))?;
        let file =
            OpenOptions::new().write(true).create_new(true).open(path).map_err(|e| fail("create", e))?;
        let made = file
            .set_len(size_bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(dir)?.sync_all());
        made.map_err(|e| {
            // It is ours and empty: a half-made file must not look like a replica.
            let _ = std::fs::remove_file(path);
            fail("set the size of", e)
        })
    }

    /// Opens and locks the store and starts its threads. Completions arrive at `sink` on those threads.
    ///
    /// # Errors
    /// Absent, locked by another process, or of another size than the volume (a device may be larger).
    pub fn open(
        backing: &Backing,
        size_bytes: u64,
        sink: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_growing(backing, size_bytes, size_bytes, sink)
    }

    /// Like [`Self::open`]; a file may be as large as `most` already, because making it larger was interrupted.
    ///
    /// # Errors
    /// Like [`Self::open`].
    pub fn open_growing(
        backing: &Backing,
        size_bytes: u64,
        most: u64,
        sink: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let path = path_of(backing).to_path_buf();
        let device = matches!(backing, Backing::Device(_));
        let file = open_checked(&path, size_bytes, if device { u64::MAX } else { most })?;
        lock(&file, &path)?;
        let shared = Arc::new(Shared {
            file,
            path,
            size_bytes: AtomicU64::new(size_bytes),
            device,
            queue: Mutex::default(),
            changed: Condvar::new(),
            snapshot: Slot::default(),
            sink: Box::new(sink),
        });
        for i in 0..THREADS {
            let worker = shared.clone();
            shared.lock().threads += 1;
            thread::Builder::new().name(format!("store-{i}")).spawn(move || worker.work()).map_err(
                |source| {
                    shared.shut();
                    StoreError::Io { op: "start a thread for".into(), path: shared.path.clone(), source }
                },
            )?;
        }
        Ok(Self { shared })
    }

    /// Hands in a command; never blocks. Its completion arrives at the sink, exactly once.
    pub fn submit(&self, tag: u64, op: StoreOp) {
        let shared = &self.shared;
        let bad = op.range().is_some_and(|(r, _)| {
            r.start % BLOCK != 0 || r.end % BLOCK != 0 || r.end > shared.size() || r.is_empty()
        });
        if bad {
            let result = Err(StoreError::BadRange { op: op.describe(), path: shared.path.clone() });
            return (shared.sink)(Completion { tag, result });
        }
        let mut queue = shared.lock();
        if queue.closed {
            drop(queue);
            return (shared.sink)(Completion { tag, result: Err(shared.closed()) });
        }
        queue.waiting.push_back(Job { tag, op });
        drop(queue);
        shared.changed.notify_one();
    }

    /// The ranges that may hold data, sorted, disjoint, in whole blocks; everything else reads as zeroes.
    /// Blocks for a moment (no data is read).
    ///
    /// # Errors
    /// The filesystem cannot be asked.
    pub fn allocated_ranges(&self) -> Result<Vec<Range<u64>>, StoreError> {
        let (file, size) = (&self.shared.file, self.shared.size());
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => break,
                // Block devices have no holes to ask for.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => at,
                Err(e) => return Err(self.shared.io("find the data of", e.into())),
            };
            if start >= size {
                break;
            }
            let end = match seek(file, SeekFrom::Hole(start)) {
                Ok(end) => end,
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => size,
                Err(e) => return Err(self.shared.io("find the holes of", e.into())),
            };
            let start = start / BLOCK * BLOCK;
            let end = end.max(start + 1).next_multiple_of(BLOCK).min(size);
            match ranges.last_mut() {
                Some(last) if start.saturating_sub(last.end) < MERGE_GAP => last.end = end,
                _ => ranges.push(start..end),
            }
            at = end;
        }
        Ok(ranges)
    }

    /// Takes a snapshot, whose copies are kept in `dir` without a name. Blocks until the changes in progress have ended.
    /// It costs a read and a write per block that changes, until [`Self::end_snapshot`].
    ///
    /// # Errors
    /// There is one already, or its file cannot be made.
    pub fn snapshot(&self, dir: &Path) -> Result<Arc<Snapshot>, StoreError> {
        let failed = |source| self.shared.io("take a snapshot of", source);
        let store = self.shared.file.try_clone().map_err(failed)?;
        let data = || self.allocated_ranges().map_err(|e| io::Error::other(e.to_string()));
        self.shared.snapshot.take(store, self.shared.size(), dir, data).map_err(failed)
    }

    /// Ends the snapshot, if there is one. Blocks until the changes in progress have ended.
    pub fn end_snapshot(&self) {
        self.shared.snapshot.drop_snapshot();
    }

    /// Size of the volume in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.size()
    }

    /// Makes room for `size_bytes`, durably: a file is made longer by a hole, a device must be large enough already. Blocks.
    /// What was there goes on meanwhile; nothing happens if there is that much room.
    ///
    /// # Errors
    /// The file cannot be made longer, or the device is too small.
    pub fn grow(&self, size_bytes: u64) -> Result<(), StoreError> {
        let shared = &self.shared;
        // A descriptor of our own: where a shared one stands is others' affair.
        let mut file = File::open(&shared.path).map_err(|e| shared.io("open", e))?;
        let found = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(|e| shared.io("measure", e))?;
        if found < size_bytes {
            if shared.device {
                return Err(StoreError::Size { path: shared.path.clone(), found, wanted: size_bytes });
            }
            shared.file.set_len(size_bytes).map_err(|e| shared.io("set the size of", e))?;
        }
        shared.file.sync_all().map_err(|e| shared.io("flush", e))?;
        shared.size_bytes.fetch_max(size_bytes, Ordering::SeqCst);
        Ok(())
    }

    /// Refuses new commands, finishes the submitted ones and unlocks. Waits at most `limit`; returns false if a
    /// command still hangs then (the lock stays until it ends).
    pub fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.changed.notify_all();
        while queue.threads > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.changed.wait_timeout(queue, left).expect("no panic under this lock").0;
        }
        // Unlocking explicitly: the file itself lives as long as the last handle.
        let _ = flock(&self.shared.file, FlockOperation::Unlock);
        true
    }
}

impl Drop for BackingStore {
    fn drop(&mut self) {
        self.shared.shut();
    }
}

fn path_of(backing: &Backing) -> &Path {
    match backing {
        Backing::File(path) | Backing::Device(path) => path,
    }
}

fn open_checked(path: &Path, size_bytes: u64, most: u64) -> Result<File, StoreError> {
    let fail = |source| StoreError::Io { op: "open".into(), path: path.into(), source };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fd = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        // The filesystem has no direct I/O.
        Err(rustix::io::Errno::INVAL) => rustix::fs::open(path, flags, Mode::empty()),
        other => other,
    };
    let file = File::from(fd.map_err(|e| fail(e.into()))?);
    let found = seek(&file, SeekFrom::End(0)).map_err(|e| fail(e.into()))?;
    if found < size_bytes || found > most {
        return Err(StoreError::Size { path: path.into(), found, wanted: size_bytes });
    }
    Ok(file)
}

/// Takes the advisory lock that keeps a second replicator out.
pub(super) fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked { path: path.into() }),
            Err(e) => return Err(StoreError::Io { op: "lock".into(), path: path.into(), source: e.into() }),
        }
    }
}

impl Queue {
    /// Takes the first job that overlaps nothing before it; for a flush, all flushes that wait.
    fn take(&mut self) -> Option<(u64, Vec<Job>)> {
        let mut before: Vec<Touched> = self.running.iter().filter_map(|(_, r)| r.clone()).collect();
        let mut found = None;
        for (i, job) in self.waiting.iter().enumerate() {
            let Some((range, changes)) = job.op.range() else {
                found = Some((i, None));
                break;
            };
            let conflict =
                before.iter().any(|(r, c)| (*c || changes) && r.start < range.end && range.start < r.end);
            if !conflict {
                found = Some((i, Some((range, changes))));
                break;
            }
            before.push((range, changes));
        }
        let (index, range) = found?;
        let id = self.next_job;
        self.next_job += 1;
        self.running.push((id, range.clone()));
        let mut jobs: Vec<Job> = self.waiting.remove(index).into_iter().collect();
        if range.is_none() {
            // A flush covers what completed before it was submitted, so one sync now serves all that wait.
            let (flushes, rest): (VecDeque<_>, VecDeque<_>) =
                self.waiting.drain(..).partition(|j| j.op == StoreOp::Flush);
            self.waiting = rest;
            jobs.extend(flushes);
        }
        Some((id, jobs))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic under this lock")
    }

    fn size(&self) -> u64 {
        self.size_bytes.load(Ordering::SeqCst)
    }

    fn closed(&self) -> StoreError {
        StoreError::Closed { path: self.path.clone() }
    }

    fn io(&self, op: impl Into<String>, source: io::Error) -> StoreError {
        StoreError::Io { op: op.into(), path: self.path.clone(), source }
    }

    fn shut(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.waiting);
        drop(queue);
        self.changed.notify_all();
        for job in dropped {
            (self.sink)(Completion { tag: job.tag, result: Err(self.closed()) });
        }
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            if let Some((id, jobs)) = queue.take() {
                drop(queue);
                self.carry_out(&jobs);
                queue = self.lock();
                queue.running.retain(|(running, _)| *running != id);
                // Something that overlapped may go now.
                if !queue.waiting.is_empty() {
                    self.changed.notify_all();
                }
            } else if queue.closed && queue.waiting.is_empty() {
                queue.threads -= 1;
                self.changed.notify_all();
                return;
            } else {
                queue = self.changed.wait(queue).expect("no panic under this lock");
            }
        }
    }

    fn carry_out(&self, jobs: &[Job]) {
        let Some(first) = jobs.first() else { return };
        let outcome = match first.op.range() {
            Some((range, true)) => self.snapshot.change(range, || self.execute(&first.op)),
            _ => self.execute(&first.op),
        };
        for job in jobs {
            let result = match &outcome {
                Ok(data) => Ok(data.clone()),
                Err(e) => {
                    // io::Error cannot be cloned; the number says it all.
                    let source = e
                        .raw_os_error()
                        .map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error);
                    Err(self.io(job.op.describe(), source))
                }
            };
            (self.sink)(Completion { tag: job.tag, result });
        }
    }

    fn execute(&self, op: &StoreOp) -> io::Result<Option<Bytes>> {
        match op {
            StoreOp::Read { offset, len } => {
                let mut buf = AlignedBuf::for_overwrite(*len as usize);
                self.file.read_exact_at(&mut buf, *offset)?;
                return Ok(Some(buf.into_bytes()));
            }
            StoreOp::Digest { offset, len, piece } => {
                let mut buf = AlignedBuf::for_overwrite(*len as usize);
                self.file.read_exact_at(&mut buf, *offset)?;
                return Ok(Some(digests(&buf, *piece as usize)));
            }
            StoreOp::Write { offset, data } if AlignedBuf::is_aligned(data) => {
                self.file.write_all_at(data, *offset)?
            }
            StoreOp::Write { offset, data } => self.file.write_all_at(&AlignedBuf::copy_of(data), *offset)?,
            StoreOp::Flush => self.file.sync_data()?,
            StoreOp::Discard { offset, len } => {
                self.make_zero(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, *offset, *len)?;
            }
            StoreOp::WriteZeroes { offset, len } => {
                self.make_zero(FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, *offset, *len)?;
            }
        }
        Ok(None)
    }

    /// Replicas must be equal after a discard too, so it always ends in zeroes, written ones if need be.
    fn make_zero(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        match fallocate(&self.file, how, offset, len) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
        let zeroes = AlignedBuf::zeroed(ZERO_CHUNK.min(usize::try_from(len).unwrap_or(ZERO_CHUNK)));
        let mut done = 0;
        while done < len {
            let n = zeroes.len().min(usize::try_from(len - done).unwrap_or(usize::MAX));
            self.file.write_all_at(&zeroes[..n], offset + done)?;
            done += n as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
