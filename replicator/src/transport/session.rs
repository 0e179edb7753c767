//! One session: a reader thread, a writer thread and a bounded queue between the owner and the socket.
//!
//! Small frames leave from the thread that sends them, if nothing is queued: no thread has to wake up for a
//! 4 KiB write. Everything else is queued and written by the writer, which also says "I am alive" when nothing
//! was sent for a while. The reader delivers frames and ends the session when nothing came for `peer_timeout`.
//!
//! Invariants: frames leave in the order of `send`; Closed is reported exactly once, by the reader, as the last
//! event; the first reason to close stands.

use super::frame::{HEADER_LEN, KIND_PING, MAX_BODY, MAX_HEAD, RESERVED_KINDS, ReadError, read_frame};
use super::{CloseReason, EventSink, FrameError, RawFrame, SendError, SessionId, TransportEvent};
use crate::types::{NodeName, VolumeName};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes queued for a peer: about half a second of 1 Gbit/s. A peer that is further behind is lost anyway,
/// and the primary's memory is finite.
const MAX_QUEUED: usize = 64 << 20;
/// Silence after which a ping is sent: several fit into the shortest sensible `peer_timeout`.
const PING_INTERVAL: Duration = Duration::from_millis(200);
/// Frames up to this size are written by the calling thread; copying more would hold it up (64 KiB: about 10 us).
const INLINE_MAX: usize = 64 << 10;
/// Frames that go into one system call: IOV_MAX is 1024, three parts each, and 32 are plenty.
const BATCH: usize = 32;
/// Read-ahead of the socket: small frames come several per system call.
const READ_BUFFER: usize = 64 << 10;

/// A handle on a session; clones name the same one. Dropping handles does not close it.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    id: SessionId,
    peer: NodeName,
    volume: VolumeName,
    stream: TcpStream,
    peer_timeout: Duration,
    out: Mutex<Out>,
    wake: Condvar,
}

#[derive(Default)]
struct Out {
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    writing: bool,
    sent: bool,
    closed: Option<CloseReason>,
}

/// A frame, or the rest of one whose beginning has been sent.
struct Pending {
    header: [u8; HEADER_LEN],
    frame: RawFrame,
    skip: usize,
}

impl Session {
    /// Starts the threads on an authenticated connection and reports Opened, in this order: nothing of the
    /// session is reported before.
    pub(super) fn start(
        stream: TcpStream,
        peer: NodeName,
        volume: VolumeName,
        peer_timeout: Duration,
        sink: EventSink,
    ) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The reader looks at the clock this often; a timeout is late by at most an eighth.
        let tick = (peer_timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(100));
        stream.set_read_timeout(Some(tick))?;
        stream.set_write_timeout(Some(peer_timeout.max(tick)))?;
        let inner = Arc::new(Inner {
            id: SessionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            peer,
            volume,
            stream,
            peer_timeout,
            out: Mutex::default(),
            wake: Condvar::new(),
        });
        let session = Self { inner: inner.clone() };
        let writer = inner.clone();
        thread::Builder::new().name("peer-writer".into()).spawn(move || writer.write_loop())?;
        let opened = session.clone();
        let spawned = thread::Builder::new().name("peer-reader".into()).spawn(move || {
            sink(TransportEvent::Opened(opened));
            let reason = inner.read_loop(&sink);
            let reason = inner.finish(reason);
            sink(TransportEvent::Closed { session: inner.id, reason });
        });
        if let Err(e) = spawned {
            session.close("no thread for reading");
            return Err(e);
        }
        Ok(session)
    }

    /// Names it.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// The authenticated peer.
    #[must_use]
    pub fn peer(&self) -> &NodeName {
        &self.inner.peer
    }

    /// The volume it is for.
    #[must_use]
    pub fn volume(&self) -> &VolumeName {
        &self.inner.volume
    }

    /// Sends a frame after all frames sent before; small ones at once from the calling thread. Never blocks.
    ///
    /// # Errors
    /// See [`SendError`]; after Closed and Overflow the session is over.
    pub fn send(&self, frame: RawFrame) -> Result<(), SendError> {
        frame.check_bounds()?;
        if frame.kind >= RESERVED_KINDS {
            return Err(FrameError::Kind(frame.kind).into());
        }
        let mut pending = Pending { header: frame.header(), frame, skip: 0 };
        let inner = &self.inner;
        let mut out = inner.lock();
        if out.closed.is_some() {
            return Err(SendError::Closed);
        }
        if out.queue.is_empty() && !out.writing && pending.len() <= INLINE_MAX {
            match inner.send_now(&pending) {
                Ok(n) if n == pending.len() => {
                    out.sent = true;
                    return Ok(());
                }
                Ok(n) => pending.skip = n,
                Err(e) => {
                    inner.close_locked(&mut out, CloseReason::Io(e.to_string()));
                    return Err(SendError::Closed);
                }
            }
        }
        let queued = out.queued_bytes + pending.len();
        if queued > MAX_QUEUED {
            inner.close_locked(&mut out, CloseReason::Overflow { queued });
            return Err(SendError::Overflow { queued });
        }
        out.queued_bytes = queued;
        out.queue.push_back(pending);
        drop(out);
        inner.wake.notify_one();
        Ok(())
    }

    /// Bytes accepted by [`Self::send`] and not yet taken by the kernel.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.inner.lock().queued_bytes
    }

    /// Ends the session; what is queued is lost. The Closed event says `Local(reason)`.
    pub fn close(&self, reason: &str) {
        self.inner.close_locked(&mut self.inner.lock(), CloseReason::Local(reason.into()));
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {} with {} for {}", self.inner.id.0, self.inner.peer, self.inner.volume)
    }
}

impl Pending {
    fn len(&self) -> usize {
        self.frame.wire_len() - self.skip
    }

    /// The parts that are still to be sent.
    fn slices(&self) -> [&[u8]; 3] {
        let mut skip = self.skip;
        [&self.header[..], &self.frame.head, &self.frame.body].map(|part| {
            let n = skip.min(part.len());
            skip -= n;
            &part[n..]
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().expect("no panic under this lock")
    }

    fn close_locked(&self, out: &mut Out, reason: CloseReason) {
        if out.closed.is_none() {
            out.closed = Some(reason);
            out.queue.clear();
            out.queued_bytes = 0;
            // Wakes the reader and a blocked writer at once.
            let _ = self.stream.shutdown(Shutdown::Both);
            self.wake.notify_all();
        }
    }

    /// Ends the session for `reason`, or for the one that came first.
    fn finish(&self, reason: CloseReason) -> CloseReason {
        let mut out = self.lock();
        self.close_locked(&mut out, reason);
        out.closed.clone().expect("just closed")
    }

    /// Writes as much as the socket takes without waiting.
    fn send_now(&self, pending: &Pending) -> io::Result<usize> {
        let slices = pending.slices().map(IoSlice::new);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match sendmsg(&self.stream, &slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(n) => return Ok(n),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn write_loop(&self) {
        let ping = RawFrame::new(KIND_PING, "");
        let ping_header = ping.header();
        let mut out = self.lock();
        loop {
            if out.closed.is_some() {
                return;
            }
            let batch: Vec<Pending> = if !out.queue.is_empty() {
                let n = out.queue.len().min(BATCH);
                out.queue.drain(..n).collect()
            } else if std::mem::take(&mut out.sent) {
                // Something went out since we last looked: silence begins now at the earliest.
                out = self.wait(out);
                continue;
            } else {
                let (woken, timed_out) = self.wait_timed(out);
                out = woken;
                if !timed_out || out.sent || !out.queue.is_empty() || out.closed.is_some() {
                    continue;
                }
                vec![Pending { header: ping_header, frame: ping.clone(), skip: 0 }]
            };
            out.writing = true;
            drop(out);
            let result = self.write_batch(&batch);
            let bytes: usize = batch.iter().filter(|p| p.frame.kind != KIND_PING).map(Pending::len).sum();
            out = self.lock();
            out.writing = false;
            out.queued_bytes = out.queued_bytes.saturating_sub(bytes);
            if let Err(e) = result {
                let why = match e.kind() {
                    io::ErrorKind::WouldBlock => "the peer takes nothing".into(),
                    _ => e.to_string(),
                };
                self.close_locked(&mut out, CloseReason::Io(why));
            }
        }
    }

    fn wait<'a>(&self, out: MutexGuard<'a, Out>) -> MutexGuard<'a, Out> {
        self.wait_timed(out).0
    }

    fn wait_timed<'a>(&self, out: MutexGuard<'a, Out>) -> (MutexGuard<'a, Out>, bool) {
        let interval = PING_INTERVAL.min(self.peer_timeout / 4);
        let (out, result) = self.wake.wait_timeout(out, interval).expect("no panic under this lock");
        (out, result.timed_out())
    }

    fn write_batch(&self, batch: &[Pending]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> =
            batch.iter().flat_map(Pending::slices).filter(|s| !s.is_empty()).map(IoSlice::new).collect();
        let mut rest = &mut slices[..];
        let mut stream = &self.stream;
        while !rest.is_empty() {
            match stream.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn read_loop(&self, sink: &EventSink) -> CloseReason {
        let patient = Patient { inner: self, last: Instant::now() };
        let mut from = BufReader::with_capacity(READ_BUFFER, patient);
        loop {
            match read_frame(&mut from, MAX_HEAD, MAX_BODY) {
                Ok(frame) if frame.kind == KIND_PING => {}
                Ok(frame) if frame.kind >= RESERVED_KINDS => {
                    return CloseReason::BadFrame(FrameError::Kind(frame.kind));
                }
                Ok(frame) => {
                    if self.lock().closed.is_some() {
                        return CloseReason::Peer; // The first reason stands.
                    }
                    sink(TransportEvent::Frame { session: self.id, frame });
                    // Time that the owner took is not the peer's silence.
                    from.get_mut().last = Instant::now();
                }
                Err(ReadError::Frame(e)) => return CloseReason::BadFrame(e),
                Err(ReadError::Io(e)) => {
                    return match e.kind() {
                        io::ErrorKind::UnexpectedEof => CloseReason::Peer,
                        io::ErrorKind::TimedOut => CloseReason::PeerTimeout(self.peer_timeout),
                        _ => CloseReason::Io(e.to_string()),
                    };
                }
            }
        }
    }
}

/// Reads from the socket and turns `peer_timeout` without a byte into TimedOut.
struct Patient<'a> {
    inner: &'a Inner,
    last: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.inner.stream).read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.inner.lock().closed.is_some() {
                        return Ok(0);
                    }
                    if self.last.elapsed() >= self.inner.peer_timeout {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.last = Instant::now();
                    return Ok(n);
                }
                // TCP_USER_TIMEOUT: the same thing, noticed by the kernel.
                Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                other => return other,
            }
        }
    }
}
