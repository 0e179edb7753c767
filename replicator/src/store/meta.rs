//! The metadata file of a volume: read whole at the start, then only written.
//!
//! One thread carries out submissions in order. Submissions that wait together share one fdatasync. After the
//! first error the file's content on disk is unknown (the kernel drops dirty pages that it could not write), so
//! nothing is written any more.

use super::backing::lock;
use super::{Completion, StoreError};
use bytes::Bytes;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Largest metadata file that is read: 8 peers × 32 MiB of bitmap per TiB, for some TiB. A larger file is damaged.
const MAX_LEN: u64 = 2 << 30;
/// What was written at once and left so much memory in small pieces, a whole bitmap mostly, gives it back to the kernel.
const LARGE: usize = 1 << 20;

/// An open metadata file with its thread. Commands are carried out in order; each is durable when it completes.
/// After a failed one nothing is written any more ([`StoreError::Poisoned`]).
pub struct MetaFile {
    shared: Arc<Shared>,
}

struct Shared {
    /// The worker's; another one after the file was replaced.
    file: Mutex<File>,
    path: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    sink: Box<dyn Fn(Completion) + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Job>,
    closed: bool,
    ended: bool,
}

struct Job {
    tag: u64,
    /// A file of this length takes the present one's place, with nothing but these writes in it.
    replace: Option<u64>,
    writes: Vec<(u64, Bytes)>,
}

/// The name under which a file is made.
fn aside(path: &Path) -> PathBuf {
    let mut temp = path.as_os_str().to_owned();
    temp.push(".new");
    PathBuf::from(temp)
}

/// A new file of `len` zero bytes, allocated where that is possible.
fn allocated(path: &Path, len: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    match fallocate(&file, FallocateFlags::empty(), 0, len) {
        // Without preallocation a full disk shows up as a failed metadata write later.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len)?,
        other => other?,
    }
    Ok(file)
}

impl MetaFile {
    /// Creates the file with `len` zero bytes and `initial` content, all allocated, atomically and durably.
    ///
    /// # Errors
    /// It exists already or cannot be made.
    pub fn create(path: &Path, len: u64, initial: &[(u64, Bytes)]) -> Result<(), StoreError> {
        let fail = |op: &str, source: io::Error| StoreError::Io { op: op.into(), path: path.into(), source };
        if path.symlink_metadata().is_ok() {
            return Err(fail("create", io::ErrorKind::AlreadyExists.into()));
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir).map_err(|e| fail("make the directory of", e))?;
        let temp = aside(path);
        let write = || -> io::Result<()> {
            let file = allocated(&temp, len)?;
            for (offset, bytes) in initial {
                file.write_all_at(bytes, *offset)?;
            }
            file.sync_all()?;
            std::fs::rename(&temp, path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temp);
            fail("create", e)
        })
    }

    /// Opens and locks the file, reads all of it and starts its thread.
    ///
    /// # Errors
    /// Absent, unreadable or locked by another process.
    pub fn open(
        path: &Path,
        sink: impl Fn(Completion) + Send + Sync + 'static,
    ) -> Result<(Self, Vec<u8>), StoreError> {
        let fail = |op: &str, source: io::Error| StoreError::Io { op: op.into(), path: path.into(), source };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| fail("open", e))?;
        lock(&file, path)?;
        let found = file.metadata().map_err(|e| fail("look at", e))?.len();
        if found > MAX_LEN {
            return Err(StoreError::Size { path: path.into(), found, wanted: MAX_LEN });
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|e| fail("read", e))?;
        let shared = Arc::new(Shared {
            file: Mutex::new(file),
            path: path.into(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            sink: Box::new(sink),
        });
        let worker = shared.clone();
        thread::Builder::new()
            .name("meta".into())
            .spawn(move || worker.work())
            .map_err(|e| fail("start a thread for", e))?;
        Ok((Self { shared }, content))
    }

    /// Hands in writes (offset, bytes) that become durable together: all writes, then one fdatasync, then the
    /// completion. Never blocks. Not atomic in a power cut: the caller's formats must notice torn blocks.
    pub fn submit(&self, tag: u64, writes: Vec<(u64, Bytes)>) {
        self.hand_in(Job { tag, replace: None, writes });
    }

    /// Makes the file with which [`Self::submit_whole`] replaces the present one, so that it cannot fail for want of space
    /// then. Blocks.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn prepare(path: &Path, len: u64) -> Result<(), StoreError> {
        let aside = aside(path);
        let made = allocated(&aside, len).and_then(|file| file.sync_all());
        made.map_err(|source| {
            let _ = std::fs::remove_file(&aside);
            StoreError::Io { op: format!("allocate {len} bytes for"), path: aside, source }
        })
    }

    /// Like [`Self::submit`], for the whole content of a file of `len` bytes, otherwise zeroes, that takes the present
    /// one's place: a crash leaves one or the other.
    pub fn submit_whole(&self, tag: u64, len: u64, writes: Vec<(u64, Bytes)>) {
        self.hand_in(Job { tag, replace: Some(len), writes });
    }

    fn hand_in(&self, job: Job) {
        let tag = job.tag;
        let mut queue = self.shared.lock();
        if queue.closed {
            drop(queue);
            let result = Err(StoreError::Closed { path: self.shared.path.clone() });
            return (self.shared.sink)(Completion { tag, result });
        }
        queue.waiting.push(job);
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Finishes what was submitted and unlocks; false if it still hangs after `limit`.
    pub fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.changed.notify_all();
        while !queue.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.shared.changed.wait_timeout(queue, left).expect("no panic under this lock").0;
        }
        let _ = flock(&*self.shared.file(), FlockOperation::Unlock);
        true
    }
}

impl Drop for MetaFile {
    fn drop(&mut self) {
        // What was submitted is still written: a dropped handle must not lose bookkeeping.
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic under this lock")
    }

    fn work(&self) {
        let mut first_error: Option<String> = None;
        loop {
            let batch = {
                let mut queue = self.lock();
                while queue.waiting.is_empty() && !queue.closed {
                    queue = self.changed.wait(queue).expect("no panic under this lock");
                }
                if queue.waiting.is_empty() {
                    queue.ended = true;
                    self.changed.notify_all();
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let outcome = if first_error.is_some() { Ok(()) } else { self.write(&batch) };
            let len: usize = batch.iter().flat_map(|job| &job.writes).map(|(_, bytes)| bytes.len()).sum();
            for Job { tag, .. } in batch {
                let result = match (&first_error, &outcome) {
                    (Some(first), _) => {
                        Err(StoreError::Poisoned { path: self.path.clone(), first: first.clone() })
                    }
                    (None, Ok(())) => Ok(None),
                    (None, Err(e)) => Err(StoreError::Io {
                        op: "write".into(),
                        path: self.path.clone(),
                        source: io::Error::new(e.kind(), e.to_string()),
                    }),
                };
                (self.sink)(Completion { tag, result });
            }
            if let Err(e) = outcome {
                first_error = Some(e.to_string());
            }
            if len >= LARGE {
                crate::memory::trim();
            }
        }
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().expect("no panic under this lock")
    }

    fn write(&self, batch: &[Job]) -> io::Result<()> {
        let mut file = self.file();
        for job in batch {
            match job.replace {
                Some(len) => *file = self.replace(len, &job.writes)?,
                None => write_all(&file, &job.writes)?,
            }
        }
        file.sync_data()
    }

    /// The new file is complete and locked before it has the name.
    fn replace(&self, len: u64, writes: &[(u64, Bytes)]) -> io::Result<File> {
        let aside = aside(&self.path);
        let prepared = OpenOptions::new().read(true).write(true).open(&aside).ok();
        let file = match prepared.filter(|f| f.metadata().is_ok_and(|m| m.len() == len)) {
            Some(file) => file,
            None => allocated(&aside, len)?,
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        write_all(&file, writes)?;
        file.sync_all()?;
        std::fs::rename(&aside, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        Ok(file)
    }
}

fn write_all(file: &File, writes: &[(u64, Bytes)]) -> io::Result<()> {
    writes.iter().try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const WAIT: Duration = Duration::from_secs(10);

    #[test]
    fn creates_writes_in_order_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/web.meta");
        MetaFile::create(&path, 16384, &[(4096, Bytes::from_static(b"first"))]).unwrap();
        assert!(MetaFile::create(&path, 16384, &[]).is_err(), "an existing file is never replaced");
        let (tx, rx) = channel();
        let (meta, content) = MetaFile::open(&path, move |c| tx.send(c).unwrap()).unwrap();
        assert_eq!(content.len(), 16384);
        assert_eq!(&content[4096..4101], b"first");
        assert!(content[..4096].iter().all(|b| *b == 0));
        for tag in 0..50u64 {
            meta.submit(
                tag,
                vec![(0, Bytes::from(vec![tag as u8; 4096])), (8192 + tag, Bytes::from_static(b"x"))],
            );
        }
        for tag in 0..50u64 {
            let done = rx.recv_timeout(WAIT).unwrap();
            assert_eq!(done.tag, tag);
            done.result.unwrap();
        }
        assert!(matches!(MetaFile::open(&path, |_| ()), Err(StoreError::Locked { .. })));
        assert!(meta.close(WAIT));
        let (_meta, content) = MetaFile::open(&path, |_| ()).unwrap();
        assert!(content[..4096].iter().all(|b| *b == 49));
        assert!(content[8192..8242].iter().all(|b| *b == b'x'));
    }

    #[test]
    fn nothing_is_written_after_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        MetaFile::create(&path, 4096, &[]).unwrap();
        let (tx, rx) = channel();
        let (meta, _) = MetaFile::open(&path, move |c| tx.send(c).unwrap()).unwrap();
        // An offset beyond what any file can have: EINVAL or EFBIG from the kernel.
        meta.submit(1, vec![(i64::MAX as u64 - 1, Bytes::from_static(b"far"))]);
        let error = rx.recv_timeout(WAIT).unwrap().result.unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains(path.to_str().unwrap()), "{error}");
        meta.submit(2, vec![(0, Bytes::from_static(b"late"))]);
        assert!(matches!(rx.recv_timeout(WAIT).unwrap().result, Err(StoreError::Poisoned { .. })));
        assert!(meta.close(WAIT));
        assert_eq!(&std::fs::read(&path).unwrap()[..4], &[0; 4]);
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = MetaFile::open(Path::new("/nonexistent/web.meta"), |_| ()).err().unwrap().to_string();
        assert!(error.contains("cannot open /nonexistent/web.meta"), "{error}");
    }

    #[test]
    fn a_whole_file_takes_the_old_ones_place_between_two_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.meta");
        MetaFile::create(&path, 8192, &[(0, Bytes::from_static(b"old"))]).unwrap();
        let (tx, rx) = channel();
        let (meta, _) = MetaFile::open(&path, move |c| tx.send(c).unwrap()).unwrap();
        MetaFile::prepare(&path, 16384).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192, "nothing has happened yet");
        meta.submit(1, vec![(4096, Bytes::from_static(b"gone"))]);
        meta.submit_whole(2, 16384, vec![(0, Bytes::from_static(b"new"))]);
        meta.submit(3, vec![(12288, Bytes::from_static(b"last"))]);
        for tag in 1..=3 {
            let done = rx.recv_timeout(WAIT).unwrap();
            assert_eq!(done.tag, tag);
            done.result.unwrap();
        }
        assert!(matches!(MetaFile::open(&path, |_| ()), Err(StoreError::Locked { .. })), "it is locked, too");
        // Without having been prepared, and with what an earlier attempt left.
        std::fs::write(aside(&path), b"half of it").unwrap();
        meta.submit_whole(4, 20480, vec![(0, Bytes::from_static(b"newer"))]);
        rx.recv_timeout(WAIT).unwrap().result.unwrap();
        assert!(meta.close(WAIT) && !aside(&path).exists());
        let (_meta, content) = MetaFile::open(&path, |_| ()).unwrap();
        assert_eq!((content.len(), &content[..5]), (20480, &b"newer"[..]));
        assert!(content[5..].iter().all(|b| *b == 0), "nothing of the old one");
        let error = MetaFile::prepare(&path, 1 << 60).unwrap_err().to_string();
        assert!(error.contains("cannot allocate"), "{error}");
        assert!(!aside(&path).exists());
    }
}
