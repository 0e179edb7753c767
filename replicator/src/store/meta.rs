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

/// An open metadata file with its thread. Commands are carried out in order; each is durable when it completes.
/// After a failed one nothing is written any more ([`StoreError::Poisoned`]).
pub struct MetaFile {
    shared: Arc<Shared>,
}

struct Shared {
    file: File,
    path: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    sink: Box<dyn Fn(Completion) + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(u64, Vec<(u64, Bytes)>)>,
    closed: bool,
    ended: bool,
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
        let mut temp = path.as_os_str().to_owned();
        temp.push(".new");
        let temp = PathBuf::from(temp);
        let write = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temp)?;
            match fallocate(&file, FallocateFlags::empty(), 0, len) {
                // Without preallocation a full disk shows up as a failed metadata write later.
                Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len)?,
                other => other?,
            }
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
            file,
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
        let mut queue = self.shared.lock();
        if queue.closed {
            drop(queue);
            let result = Err(StoreError::Closed { path: self.shared.path.clone() });
            return (self.shared.sink)(Completion { tag, result });
        }
        queue.waiting.push((tag, writes));
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
        let _ = flock(&self.shared.file, FlockOperation::Unlock);
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
            for (tag, _) in batch {
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
        }
    }

    fn write(&self, batch: &[(u64, Vec<(u64, Bytes)>)]) -> io::Result<()> {
        for (offset, bytes) in batch.iter().flat_map(|(_, writes)| writes) {
            self.file.write_all_at(bytes, *offset)?;
        }
        self.file.sync_data()
    }
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
}
