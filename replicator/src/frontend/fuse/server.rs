//! The connection to the kernel: threads that read requests, and replies from anywhere.
//!
//! Invariants: every request that was handed out is in `pending` until it is answered, and is answered at most
//! once; nothing here waits for the sink's owner; buffers are in memory before the kernel copies into them, so that
//! a process killed at any moment loses no request. The threads end when the kernel ends the connection.

use super::proto::{self, Ask, IN_HEADER, MAX_IO, Tree, WRITE_IN};
use crate::frontend::{Errno, FrontEndEvent, Op, Request};
use crate::store::{AlignedBuf, BLOCK};
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;

/// Threads that read requests: two reach what the loop device delivers on two cores (DATAPATH A4).
const READERS: usize = 2;
/// A write's data begins here in the read buffer: on a page, so that it can go to the disk where it is.
const DATA_AT: usize = 4096;
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
    pending: Mutex<HashMap<u64, Expected>>,
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

    /// The loop device exists: from now on every flush counts.
    pub fn attached(&self) {
        self.untouched.store(false, Ordering::SeqCst);
    }

    pub fn pending(&self) -> usize {
        self.lock().len()
    }

    pub fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        // Removed first: of two answers, only one finds it.
        let Some(expected) = self.lock().remove(&id) else { return };
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

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Expected>> {
        self.pending.lock().expect("no panic under this lock")
    }

    fn read_loop(&self) {
        // The headers end where the page of the data begins.
        const START: usize = DATA_AT - IN_HEADER - WRITE_IN;
        const LEN: usize = DATA_AT + MAX_IO as usize + 4096;
        let mut buf = AlignedBuf::resident(LEN);
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
            let bytes = &buf[START..START + n];
            let Some((id, ask)) = proto::parse(bytes) else {
                tracing::error!(len = n, "a FUSE request that is too short");
                continue;
            };
            if let Ask::Write { offset, len } = ask {
                let whole = len <= MAX_IO && n == IN_HEADER + WRITE_IN + len as usize;
                if !whole || !self.in_volume(offset, u64::from(len)) {
                    self.send(id, libc::EINVAL, &[]);
                    continue;
                }
                let data = if len as usize >= KEEP_FROM {
                    let full = std::mem::replace(&mut buf, AlignedBuf::resident(LEN));
                    full.into_bytes().slice(DATA_AT..DATA_AT + len as usize)
                } else {
                    AlignedBuf::copy_of(&buf[DATA_AT..DATA_AT + len as usize]).into_bytes()
                };
                self.hand_out(id, Op::Write { offset, data }, Expected::Written(len));
            } else {
                self.handle(id, &ask);
            }
        }
    }

    fn handle(&self, id: u64, ask: &Ask<'_>) {
        let (op, expected, range) = match *ask {
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
            && offset.checked_add(len).is_some_and(|end| end <= self.tree.size_bytes)
    }

    fn hand_out(&self, id: u64, op: Op, expected: Expected) {
        if !matches!(op, Op::Read { .. } | Op::Flush) {
            self.untouched.store(false, Ordering::SeqCst);
        }
        self.lock().insert(id, expected);
        (self.sink)(FrontEndEvent::Request(Request { id, op }));
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
