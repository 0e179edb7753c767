//! The backing store of a volume: a sparse file or a block device, used with O_DIRECT where possible.
//!
//! A small pool of threads carries out commands. A read or write that comes alone is carried out by one of them; several that
//! are there together are handed to the kernel at once ([`super::aio`]), if it is one that can, and a thread of its own hears of
//! their ends. One command waits for another only if they overlap and at least one of them changes data: then the
//! earlier one goes first. Flushes that wait together share one fdatasync.
//!
//! If a thread is stuck in the kernel (a disk that hangs), the others go on; when all are stuck, commands wait
//! and their owner notices by its own clock.

use super::aio::{BATCH, Buffer, Command, DEPTH, Ring};
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
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Threads per store. Measured: overlapping disk I/O matters, more than four threads on two cores do not help.
const THREADS: usize = 4;
/// Longest read or write that is handed over: preparing a larger one takes the processor so long that several should do it.
const SMALL: u32 = 64 << 10;
/// Jobs that are looked at for what can begin: each is compared with those before it, and thousands may wait behind a slow disk.
const LOOKED_AT: usize = 256;
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
    /// There may be something to do for a thread.
    changed: Condvar,
    /// A command or a thread has ended, and somebody waits for that.
    ended: Condvar,
    ring: Option<Arc<Ring<Job>>>,
    snapshot: Slot,
    sink: Sink,
}

type Sink = Box<dyn Fn(&mut dyn Iterator<Item = Completion>) + Send + Sync>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// What was begun, by a thread or by the kernel, and has not ended.
    running: Vec<(u64, Option<Touched>)>,
    next_job: u64,
    closed: bool,
    threads: usize,
    /// Threads that wait for something to do.
    idle: usize,
    /// One of them has been told, and has not looked yet.
    told: bool,
    /// What came back from the kernel and is for a thread.
    returned: VecDeque<(u64, Job)>,
    /// The kernel carries out what it can.
    asynchronous: bool,
    /// Changes are for threads, because a snapshot wants what was there before.
    snapshot: bool,
}

struct Job {
    tag: u64,
    op: StoreOp,
}

/// What a thread does next.
enum Task {
    /// Carries these out; several are flushes.
    Do(u64, Vec<Job>),
    /// Hands these to the kernel.
    HandOver(Vec<(u64, Job)>),
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
        sink: impl Fn(&mut dyn Iterator<Item = Completion>) + Send + Sync + 'static,
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
        sink: impl Fn(&mut dyn Iterator<Item = Completion>) + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let path = path_of(backing).to_path_buf();
        let device = matches!(backing, Backing::Device(_));
        let (file, direct) = open_checked(&path, size_bytes, if device { u64::MAX } else { most })?;
        lock(&file, &path)?;
        // Through the page cache the kernel would do it at once, while it is asked.
        let ring = if direct { Ring::new().map(Arc::new) } else { Err(io::ErrorKind::Unsupported.into()) };
        if let Err(error) = &ring {
            tracing::info!(path = %path.display(), %error, "disk commands go by threads alone");
        }
        let shared = Arc::new(Shared {
            file,
            path,
            size_bytes: AtomicU64::new(size_bytes),
            device,
            queue: Mutex::default(),
            changed: Condvar::new(),
            ended: Condvar::new(),
            ring: ring.ok(),
            snapshot: Slot::default(),
            sink: Box::new(sink),
        });
        let failed = |source| {
            shared.shut();
            StoreError::Io { op: "start a thread for".into(), path: shared.path.clone(), source }
        };
        for i in 0..THREADS {
            let worker = shared.clone();
            let run = move || worker.work();
            thread::Builder::new().name(format!("store-{i}")).spawn(run).map_err(failed)?;
            shared.lock().threads += 1;
        }
        if let Some(ring) = &shared.ring {
            let (collector, ring) = (shared.clone(), ring.clone());
            let run = move || collector.collect(&ring);
            thread::Builder::new().name("store-ended".into()).spawn(run).map_err(failed)?;
            shared.lock().asynchronous = true;
        }
        Ok(Self { shared })
    }

    /// Hands in a command; never blocks. Its completion arrives at the sink, exactly once.
    pub fn submit(&self, tag: u64, op: StoreOp) {
        self.queue(tag, op);
        self.begin();
    }

    /// Begins what was queued.
    pub fn begin(&self) {
        self.shared.tell_of_the_rest(&mut self.shared.lock());
    }

    /// Hands in a command that is begun at the next [`Self::begin`], at the latest.
    pub fn queue(&self, tag: u64, op: StoreOp) {
        let shared = &self.shared;
        let bad = op.range().is_some_and(|(r, _)| {
            r.start % BLOCK != 0 || r.end % BLOCK != 0 || r.end > shared.size() || r.is_empty()
        });
        if bad {
            let result = Err(StoreError::BadRange { op: op.describe(), path: shared.path.clone() });
            return shared.report(Completion { tag, result });
        }
        let mut queue = shared.lock();
        if queue.closed {
            drop(queue);
            return shared.report(Completion { tag, result: Err(shared.closed()) });
        }
        queue.waiting.push_back(Job { tag, op });
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
        let mut queue = self.shared.lock();
        queue.snapshot = true;
        // From now on threads alone change something, under the snapshot's own lock.
        let before = queue.next_job;
        while queue.running.iter().any(|(id, range)| *id < before && range.as_ref().is_some_and(|(_, c)| *c))
        {
            queue = self.shared.ended.wait(queue).expect("no panic under this lock");
        }
        drop(queue);
        let data = || self.allocated_ranges().map_err(|e| io::Error::other(e.to_string()));
        let taken = self.shared.snapshot.take(store, self.shared.size(), dir, data).map_err(failed);
        self.shared.lock().snapshot = self.shared.snapshot.is_taken();
        taken
    }

    /// Ends the snapshot, if there is one. Blocks until the changes in progress have ended.
    pub fn end_snapshot(&self) {
        self.shared.snapshot.drop_snapshot();
        self.shared.lock().snapshot = false;
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
            queue = self.shared.ended.wait_timeout(queue, left).expect("no panic under this lock").0;
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

/// The job as the kernel takes it, if it does.
fn command((number, job): (u64, Job)) -> Result<Command<Job>, (u64, Job)> {
    let (offset, buffer) = match &job.op {
        StoreOp::Read { offset, len } => (*offset, Buffer::Into(AlignedBuf::for_overwrite(*len as usize))),
        StoreOp::Write { offset, data } if AlignedBuf::is_aligned(data) => {
            (*offset, Buffer::From(data.clone()))
        }
        StoreOp::Write { offset, data } => (*offset, Buffer::From(AlignedBuf::copy_of(data).into_bytes())),
        StoreOp::Digest { .. } | StoreOp::Flush | StoreOp::Discard { .. } | StoreOp::WriteZeroes { .. } => {
            return Err((number, job));
        }
    };
    Ok(Command { number, offset, buffer, of: job })
}

fn path_of(backing: &Backing) -> &Path {
    match backing {
        Backing::File(path) | Backing::Device(path) => path,
    }
}

/// With whether it is used without the page cache.
fn open_checked(path: &Path, size_bytes: u64, most: u64) -> Result<(File, bool), StoreError> {
    let fail = |source| StoreError::Io { op: "open".into(), path: path.into(), source };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let (fd, direct) = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
        // The filesystem has no direct I/O.
        Err(rustix::io::Errno::INVAL) => (rustix::fs::open(path, flags, Mode::empty()), false),
        other => (other, true),
    };
    let file = File::from(fd.map_err(|e| fail(e.into()))?);
    let found = seek(&file, SeekFrom::End(0)).map_err(|e| fail(e.into()))?;
    if found < size_bytes || found > most {
        return Err(StoreError::Size { path: path.into(), found, wanted: size_bytes });
    }
    Ok((file, direct))
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
    /// What a thread is to do: what came back first, else the first job that overlaps nothing before it, with all that may be
    /// handed over together, at most `room`; for a flush, all flushes that wait.
    fn take(&mut self, room: usize) -> Option<Task> {
        if let Some((id, job)) = self.returned.pop_front() {
            return Some(Task::Do(id, vec![job]));
        }
        let mut before: Vec<Touched> = self.running.iter().filter_map(|(_, r)| r.clone()).collect();
        let mut together: Vec<usize> = Vec::new();
        for (i, job) in self.waiting.iter().take(LOOKED_AT).enumerate() {
            let Some((range, changes)) = job.op.range() else {
                if together.is_empty() {
                    return Some(self.one(i));
                }
                continue;
            };
            let conflict =
                before.iter().any(|(r, c)| (*c || changes) && r.start < range.end && range.start < r.end);
            if !conflict && !self.may_be_handed_over(&job.op) {
                if together.is_empty() {
                    return Some(self.one(i));
                }
            } else if !conflict && together.len() < room {
                together.push(i);
                if together.len() == room {
                    break;
                }
            }
            before.push((range, changes));
        }
        match together[..] {
            [] => None,
            // Nobody waits behind it: a thread that waits for the disk itself is told of the end first.
            [one] if self.running.is_empty() => Some(self.one(one)),
            _ => {
                let mut jobs: Vec<(u64, Job)> = Vec::with_capacity(together.len());
                for index in together.into_iter().rev() {
                    let Some(job) = self.waiting.remove(index) else { continue };
                    jobs.push((self.begin(job.op.range()), job));
                }
                jobs.reverse();
                Some(Task::HandOver(jobs))
            }
        }
    }

    fn may_be_handed_over(&self, op: &StoreOp) -> bool {
        self.asynchronous
            && match op {
                StoreOp::Read { len, .. } => *len <= SMALL,
                StoreOp::Write { data, .. } => data.len() <= SMALL as usize && !self.snapshot,
                StoreOp::Digest { .. }
                | StoreOp::Flush
                | StoreOp::Discard { .. }
                | StoreOp::WriteZeroes { .. } => false,
            }
    }

    fn begin(&mut self, range: Option<Touched>) -> u64 {
        let id = self.next_job;
        self.next_job += 1;
        self.running.push((id, range));
        id
    }

    /// The job at this place, for a thread.
    fn one(&mut self, index: usize) -> Task {
        let mut jobs: Vec<Job> = self.waiting.remove(index).into_iter().collect();
        let range = jobs.first().and_then(|job| job.op.range());
        if range.is_none() {
            // A flush covers what completed before it was submitted, so one sync now serves all that wait.
            let (flushes, rest): (VecDeque<_>, VecDeque<_>) =
                self.waiting.drain(..).partition(|j| j.op == StoreOp::Flush);
            self.waiting = rest;
            jobs.extend(flushes);
        }
        Task::Do(self.begin(range), jobs)
    }

    /// Closed, and nothing is left to do or to wait for.
    fn is_over(&self) -> bool {
        self.closed && self.waiting.is_empty() && self.running.is_empty()
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

    fn report(&self, done: Completion) {
        (self.sink)(&mut std::iter::once(done));
    }

    fn shut(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.waiting);
        drop(queue);
        self.changed.notify_all();
        (self.sink)(
            &mut dropped.into_iter().map(|job| Completion { tag: job.tag, result: Err(self.closed()) }),
        );
    }

    /// One of the threads that wait looks into the queue: the next one is told by that one, if something is left.
    fn tell_one(&self, queue: &mut Queue) {
        if queue.idle > 0 && !queue.told {
            queue.told = true;
            self.changed.notify_one();
        }
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            match queue.take(self.room()) {
                Some(Task::Do(id, jobs)) => {
                    self.tell_of_the_rest(&mut queue);
                    drop(queue);
                    self.carry_out(&jobs);
                    queue = self.lock();
                    self.done(&mut queue, &[id]);
                }
                Some(Task::HandOver(jobs)) => {
                    self.tell_of_the_rest(&mut queue);
                    drop(queue);
                    self.hand_over(jobs);
                    queue = self.lock();
                }
                None if queue.is_over() => {
                    queue.threads -= 1;
                    // Nobody is left who could hand anything over.
                    if let (0, Some(ring)) = (queue.threads, &self.ring) {
                        ring.stop();
                    }
                    self.ended.notify_all();
                    return;
                }
                None => {
                    queue.idle += 1;
                    queue = self.changed.wait(queue).expect("no panic under this lock");
                    queue.idle -= 1;
                    queue.told = false;
                }
            }
        }
    }

    /// Commands that the kernel may be handed now.
    fn room(&self) -> usize {
        self.ring.as_ref().map_or(0, |ring| DEPTH.saturating_sub(ring.under_way()).min(BATCH))
    }

    fn tell_of_the_rest(&self, queue: &mut Queue) {
        if !queue.waiting.is_empty() || !queue.returned.is_empty() {
            self.tell_one(queue);
        }
    }

    /// These have ended. Something that overlapped may go now.
    fn done(&self, queue: &mut Queue, ids: &[u64]) {
        queue.running.retain(|(running, _)| !ids.contains(running));
        self.tell_of_the_rest(queue);
        if queue.closed {
            self.changed.notify_all();
        }
        if queue.snapshot {
            self.ended.notify_all();
        }
    }

    fn hand_over(&self, jobs: Vec<(u64, Job)>) {
        let Some(ring) = &self.ring else { return self.return_(jobs) };
        let (commands, mut refused) = (jobs.into_iter().map(command), Vec::new());
        let commands = commands.filter_map(|c| c.map_err(|job| refused.push(job)).ok()).collect();
        let back = ring.submit(self.file.as_fd(), commands);
        refused.extend(back.into_iter().map(|c| (c.number, c.of)));
        if !refused.is_empty() {
            self.return_(refused);
        }
    }

    /// These are for threads.
    fn return_(&self, jobs: Vec<(u64, Job)>) {
        let mut queue = self.lock();
        queue.returned.extend(jobs);
        self.tell_one(&mut queue);
    }

    /// Hears of what the kernel has carried out.
    fn collect(&self, ring: &Ring<Job>) {
        let mut ended = Vec::with_capacity(BATCH);
        while ring.wait(&mut ended) {
            let (mut done, mut ids) = (Vec::with_capacity(ended.len()), Vec::with_capacity(ended.len()));
            for (command, outcome) in ended.drain(..) {
                let id = command.number;
                match self.judged(command, outcome) {
                    Ok(completion) => {
                        done.push(completion);
                        ids.push(id);
                    }
                    Err(job) => self.return_(vec![(id, job)]),
                }
            }
            (self.sink)(&mut done.into_iter());
            self.done(&mut self.lock(), &ids);
        }
    }

    /// What came of it; a job that is to be carried out by a thread instead.
    fn judged(&self, command: Command<Job>, outcome: i64) -> Result<Completion, Job> {
        let Command { buffer, of: job, .. } = command;
        if u64::try_from(outcome) == Ok(buffer.len() as u64) {
            let data = match buffer {
                Buffer::Into(buffer) => Some(buffer.into_bytes()),
                Buffer::From(_) => None,
            };
            return Ok(Completion { tag: job.tag, result: Ok(data) });
        }
        match i32::try_from(-outcome).unwrap_or_default() {
            // It would have had to wait; or less than all was done: a thread does all of it, or finds out why not.
            libc::EAGAIN | ..=0 => Err(job),
            error @ (libc::EINVAL | libc::EOPNOTSUPP) => {
                if std::mem::replace(&mut self.lock().asynchronous, false) {
                    let error = io::Error::from_raw_os_error(error);
                    tracing::info!(path = %self.path.display(), %error, "disk commands go by threads alone");
                }
                Err(job)
            }
            error => {
                let error = self.io(job.op.describe(), io::Error::from_raw_os_error(error));
                Ok(Completion { tag: job.tag, result: Err(error) })
            }
        }
    }

    fn carry_out(&self, jobs: &[Job]) {
        let Some(first) = jobs.first() else { return };
        let outcome = match first.op.range() {
            Some((range, true)) => self.snapshot.change(range, || self.execute(&first.op)),
            _ => self.execute(&first.op),
        };
        (self.sink)(&mut jobs.iter().map(|job| {
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
            Completion { tag: job.tag, result }
        }));
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
