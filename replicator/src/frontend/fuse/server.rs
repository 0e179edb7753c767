//! The connection to the kernel: threads that read requests, and replies from anywhere.
//!
//! Invariants: every request that was handed out is in `pending` until it is answered, and is answered at most
//! once; nothing here waits for the sink's owner; buffers are in memory before the kernel copies into them, so that
//! a process killed at any moment loses no request. The threads end when the kernel ends the connection.

use super::proto::{self, Ask, IN_HEADER, MAX_IO, Tree, WRITE_IN};
use crate::frontend::{Errno, FrontEndEvent, Op, Request};
use crate::memory::{Budget, Charge, Pool};
use crate::store::{AlignedBuf, BLOCK};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

/// Threads that read requests: two reach what the loop device delivers on two cores (DATAPATH A4).
const READERS: usize = 2;
/// A write's data begins here in the read buffer: on a page, so that it can go to the disk where it is.
const DATA_AT: usize = 4096;
/// A request's headers end where the page of the data begins.
const START: usize = DATA_AT - IN_HEADER - WRITE_IN;
/// A read buffer: headers, data, and a page because the kernel refuses a buffer without room to spare.
const LEN: usize = DATA_AT + MAX_IO as usize + 4096;
/// Bytes of requests that are handed out and not answered. At the bound no more are read: they wait in the kernel, and
/// with them whoever made them. Loop has 128 requests in its queue; this is 32 of the largest, more than any disk needs
/// to be busy.
const MAX_HELD: usize = 32 << 20;
/// Buffers that are kept: one per reader and as many writes of the largest size as keep a disk busy (4 MiB in all).
const KEPT: usize = READERS + 2;
/// While a reader waits for room it looks this often whether the connection is over.
const LOOK: Duration = Duration::from_millis(50);
/// Writes from this size on keep the buffer they were read into; smaller ones are copied out of it.
const KEEP_FROM: usize = 64 << 10;

/// What an answer must look like.
#[derive(Clone, Copy)]
enum Expected {
    Data(u32),
    Written(u32),
    Nothing,
}

pub(super) struct Server {
    device: File,
    tree: Tree,
    pending: Mutex<HashMap<u64, (Expected, Charge)>>,
    budget: Budget,
    buffers: Pool,
    sink: super::EventSink,
    running: AtomicUsize,
    /// Nothing can have been written yet: the loop device is being set up, for which the kernel syncs the file.
    untouched: AtomicBool,
    /// Whether the kernel can resend; known after its first request.
    resends: OnceLock<bool>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Mounted a moment ago.
    New,
    /// Another process served it: what it has not answered is asked for again.
    TakenOver,
}

impl Server {
    /// Starts reading. `ended` is called once, when the connection is over.
    pub fn start(
        device: File,
        origin: Origin,
        tree: Tree,
        sink: super::EventSink,
        ended: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let resends = OnceLock::new();
        if origin == Origin::TakenOver {
            (&device).write_all(&proto::resend())?;
            let _ = resends.set(true);
        }
        let server = Arc::new(Self {
            device,
            tree,
            pending: Mutex::default(),
            budget: Budget::new(MAX_HELD),
            buffers: Pool::new(LEN, KEPT),
            sink,
            running: AtomicUsize::new(READERS),
            untouched: AtomicBool::new(origin == Origin::New),
            resends,
        });
        let ended = Arc::new(ended);
        for i in 0..READERS {
            let (this, ended) = (server.clone(), ended.clone());
            let run = move || {
                this.read_loop();
                if this.running.fetch_sub(1, Ordering::SeqCst) == 1 {
                    this.lock().clear();
                    ended();
                }
            };
            if let Err(e) = thread::Builder::new().name(format!("fuse-{i}")).spawn(run) {
                if i == 0 {
                    return Err(e);
                }
                // One thread serves as well, only slower.
                tracing::warn!(error = %e, "the front end runs with fewer threads");
                server.running.fetch_sub(READERS - i, Ordering::SeqCst);
                break;
            }
        }
        Ok(server)
    }

    /// The kernel can send again what a killed process had taken.
    pub fn resends(&self) -> bool {
        self.resends.get() == Some(&true)
    }

    /// The connection.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// From now on the file has this size for whoever asks.
    pub fn resize(&self, size_bytes: u64) {
        self.tree.size_bytes.fetch_max(size_bytes, Ordering::SeqCst);
    }

    /// The loop device exists: from now on every flush counts.
    pub fn attached(&self) {
        self.untouched.store(false, Ordering::SeqCst);
    }

    pub fn pending(&self) -> usize {
        self.lock().len()
    }

    pub fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        // Removed first: of two answers, only one finds it.
        let Some((expected, _charge)) = self.lock().remove(&id) else { return };
        match (result, expected) {
            (Err(errno), _) => self.send(id, errno.raw_os_error(), &[]),
            (Ok(data), Expected::Data(len)) if data.len() == len as usize => self.send(id, 0, &data),
            (Ok(data), Expected::Data(len)) => {
                tracing::error!(got = data.len(), wanted = len, "a read was answered with the wrong length");
                self.send(id, libc::EIO, &[]);
            }
            (Ok(_), Expected::Written(len)) => self.send(id, 0, &proto::write_out(len)),
            (Ok(_), Expected::Nothing) => self.send(id, 0, &[]),
        }
    }

    /// A server without a kernel, for fuzzing: what it answers goes nowhere.
    #[cfg(any(test, fuzzing))]
    pub fn deaf(tree: Tree, sink: super::EventSink) -> Self {
        let device = std::fs::OpenOptions::new().write(true).open("/dev/null").expect("/dev/null");
        Self {
            device,
            tree,
            pending: Mutex::default(),
            budget: Budget::new(MAX_HELD),
            buffers: Pool::new(LEN, 0),
            sink,
            running: AtomicUsize::new(0),
            untouched: AtomicBool::new(false),
            resends: OnceLock::new(),
        }
    }

    /// As if the kernel had given it.
    #[cfg(any(test, fuzzing))]
    pub fn hear(&self, request: &[u8]) {
        let mut buf = AlignedBuf::zeroed(LEN.max(START + request.len()));
        buf[START..START + request.len()].copy_from_slice(request);
        self.take(&mut buf, request.len());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Expected, Charge)>> {
        self.pending.lock().expect("no panic under this lock")
    }

    fn read_loop(&self) {
        let mut buf = self.buffers.take();
        loop {
            let n = match (&self.device).read(&mut buf[START..]) {
                Ok(n) => n,
                Err(e) => match e.raw_os_error() {
                    // ENOENT: the request was interrupted before it was read.
                    Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => continue,
                    Some(libc::ENODEV) => return,
                    _ => {
                        tracing::error!(error = %e, "cannot read from /dev/fuse");
                        return;
                    }
                },
            };
            self.take(&mut buf, n);
        }
    }

    /// A request of `n` bytes is in the buffer. A large write keeps the buffer and leaves another one.
    fn take(&self, buf: &mut AlignedBuf, n: usize) {
        let bytes = &buf[START..START + n];
        let Some((id, ask)) = proto::parse(bytes) else {
            tracing::error!(len = n, "a FUSE request that is too short");
            return;
        };
        let Ask::Write { offset, len } = ask else { return self.handle(id, &ask) };
        let whole = len <= MAX_IO && n == IN_HEADER + WRITE_IN + len as usize;
        if !whole || !self.in_volume(offset, u64::from(len)) {
            return self.send(id, libc::EINVAL, &[]);
        }
        let data = if len as usize >= KEEP_FROM {
            let full = std::mem::replace(buf, self.buffers.take());
            self.buffers.share(full).slice(DATA_AT..DATA_AT + len as usize)
        } else {
            AlignedBuf::copy_of(&buf[DATA_AT..DATA_AT + len as usize]).into_bytes()
        };
        self.hand_out(id, Op::Write { offset, data }, Expected::Written(len));
    }

    fn handle(&self, id: u64, ask: &Ask<'_>) {
        let (op, expected, range) = match *ask {
            // The kernel does not: it was told a number of pages.
            Ask::Read { len, .. } if len > MAX_IO => return self.send(id, libc::EINVAL, &[]),
            Ask::Read { offset, len } => {
                (Op::Read { offset, len }, Expected::Data(len), Some((offset, u64::from(len))))
            }
            // Answered here, because attaching must not wait for an engine that is frozen.
            Ask::Fsync if self.untouched.load(Ordering::SeqCst) => return self.send(id, 0, &[]),
            Ask::Fsync => (Op::Flush, Expected::Nothing, None),
            Ask::Discard { offset, len } => {
                (Op::Discard { offset, len }, Expected::Nothing, Some((offset, len)))
            }
            Ask::Zero { offset, len } => {
                (Op::WriteZeroes { offset, len }, Expected::Nothing, Some((offset, len)))
            }
            _ => {
                if let Ask::Init { more, .. } = *ask {
                    let _ = self.resends.set(proto::can_resend(more));
                }
                match self.tree.answer(ask) {
                    Some(Ok(body)) => self.send(id, 0, &body),
                    Some(Err(errno)) => self.send(id, errno, &[]),
                    None => {}
                }
                return;
            }
        };
        match range {
            Some((offset, len)) if !self.in_volume(offset, len) => self.send(id, libc::EINVAL, &[]),
            _ => self.hand_out(id, op, expected),
        }
    }

    fn in_volume(&self, offset: u64, len: u64) -> bool {
        offset.is_multiple_of(BLOCK)
            && len.is_multiple_of(BLOCK)
            && len > 0
            && offset.checked_add(len).is_some_and(|end| end <= self.tree.size())
    }

    fn hand_out(&self, id: u64, op: Op, expected: Expected) {
        if !matches!(op, Op::Read { .. } | Op::Flush) {
            self.untouched.store(false, Ordering::SeqCst);
        }
        let bytes = match expected {
            Expected::Data(len) | Expected::Written(len) => len as usize,
            Expected::Nothing => 0,
        };
        // None: nobody waits for an answer any more.
        let Some(charge) = self.budget.take(bytes, LOOK, || !self.is_over()) else { return };
        self.lock().insert(id, (expected, charge));
        (self.sink)(FrontEndEvent::Request(Request { id, op }));
    }

    /// The kernel has ended the connection.
    fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.device, PollFlags::empty())];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&none)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
    }

    fn send(&self, id: u64, errno: i32, body: &[u8]) {
        let header = proto::out_header(id, errno, body.len());
        let slices = [IoSlice::new(&header), IoSlice::new(body)];
        if let Err(e) = (&self.device).write_vectored(&slices) {
            // ENOENT: the kernel has given the request up; ENODEV: the connection is over.
            if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) {
                tracing::error!(error = %e, "cannot answer a FUSE request");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// FUSE_READ of 1 MiB at the beginning, as the kernel writes it down.
    fn read(id: u64) -> Vec<u8> {
        let mut request = vec![0; IN_HEADER + 40];
        request[4..8].copy_from_slice(&15_u32.to_ne_bytes());
        request[8..16].copy_from_slice(&id.to_ne_bytes());
        request[IN_HEADER + 16..IN_HEADER + 20].copy_from_slice(&MAX_IO.to_ne_bytes());
        request
    }

    #[test]
    fn requests_beyond_the_bound_are_handed_out_when_others_are_answered() {
        let (sink, out) = channel();
        let tree = Tree::new("disk".into(), 1 << 30);
        let server = Arc::new(Server::deaf(tree, Arc::new(move |event| drop(sink.send(event)))));
        let fit = MAX_HELD as u64 / u64::from(MAX_IO);
        (0..fit).for_each(|id| server.hear(&read(id)));
        assert_eq!((out.try_iter().count() as u64, server.pending() as u64), (fit, fit));
        let theirs = server.clone();
        let reader = thread::spawn(move || theirs.hear(&read(fit)));
        assert!(out.recv_timeout(2 * LOOK).is_err(), "there is no room for it");
        assert_eq!(server.pending() as u64, fit, "and it is not held");
        server.reply(3, Err(Errno::IO));
        assert!(out.recv_timeout(Duration::from_secs(20)).is_ok());
        reader.join().expect("it ends");
        assert_eq!(server.budget.in_use(), MAX_HELD);
        (0..=fit).for_each(|id| server.reply(id, Err(Errno::IO)));
        assert_eq!(server.budget.in_use(), 0);
    }
}
