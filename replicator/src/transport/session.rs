//! One session: a reader thread, a writer thread and a bounded queue between the owner and the socket.
//!
//! ```text
//! dialer (primary)                                      listener (secondary)
//!   writer ─────── bulk: writes, resync, commands ────────────► reader
//!   reader ◄────── acks: acknowledgements, bitmaps, pings ───── writer
//!          ─────── acks: pings ───────────────────────────────► watcher
//! ```
//!
//! Each side's frames go by one connection, so that they stay in order; with TLS a connection is encrypted by one side
//! and decrypted by the other, at the same time as the other connection. The dialer's pings go by the connection of the
//! acknowledgements and never wait behind blocks. With the release before, one connection is both.
//!
//! Small frames leave from a thread that sends them, with those that others queued meanwhile: no thread has to wake up for a
//! 4 KiB write, and several cost one system call. Everything else is written by the writer, which also says "I am alive" when
//! nothing was sent for a while. Readers end the session when nothing came by any connection for `peer_timeout`; blocks that are
//! stuck while pings come are for the owner to notice.
//!
//! Invariants: frames leave in the order of `send`; Closed is reported exactly once, by the reader, as the last
//! event; the first reason to close stands; a session never outlives one of its connections.

use super::frame::{HEADER_LEN, KIND_PING, RESERVED_KINDS};
use super::wire::Wire;
use super::{CloseReason, EventSink, FrameError, RawFrame, SendError, SessionId, TransportEvent};
use crate::api::LinkStatus;
use crate::memory::Budget;
use crate::types::{NodeName, VolumeName};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes queued for a peer: about half a second of 1 Gbit/s. A peer that is further behind is lost anyway,
/// and the primary's memory is finite.
const MAX_QUEUED: usize = 64 << 20;
/// Bytes of blocks that were received and are not yet on the disk and answered. At the bound no more are read, and the
/// peer's own queue fills: as much as that has, so that a peer whose disk is slower than the link is not cut off sooner.
const MAX_RECEIVED: usize = MAX_QUEUED;
/// Silence after which a ping is sent: several fit into the shortest sensible `peer_timeout`.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(200);
/// Frames up to this size are written by the calling thread; copying more would hold it up (64 KiB: about 10 us).
const INLINE_MAX: usize = 64 << 10;
/// The same where they must be encrypted first, which costs as much as copying several times as many.
const INLINE_MAX_TLS: usize = 17 << 10;
/// Frames that go into one system call: IOV_MAX is 1024, three parts each, and 32 are plenty.
const BATCH: usize = 32;
/// Such calls that a thread makes for what others queue meanwhile, before the writer goes on.
const ROUNDS: usize = 4;

/// A handle on a session; clones name the same one. Dropping handles does not close it.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

/// The connections of a session.
pub(super) enum Lines {
    /// One for both directions: version 1.
    One(Arc<Wire>),
    /// One for the dialer's frames, one for the listener's.
    Two {
        /// The dialer's.
        bulk: Arc<Wire>,
        /// The listener's.
        acks: Arc<Wire>,
    },
}

/// Who made the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

pub(super) struct Inner {
    pub id: SessionId,
    peer: NodeName,
    volume: VolumeName,
    pub side: Side,
    /// Where our frames go.
    pub away: Arc<Wire>,
    /// Where the peer's come from.
    pub home: Arc<Wire>,
    pub peer_timeout: Duration,
    pub began: Instant,
    /// When something was last received by either connection: milliseconds since `began`.
    pub heard_ms: AtomicU64,
    /// Blocks that came and are still held.
    pub received: Budget,
    out: Mutex<Out>,
    wake: Condvar,
}

#[derive(Default)]
struct Out {
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    writing: bool,
    /// The wire holds something back that must leave first.
    held_back: bool,
    sent: bool,
    closed: Option<CloseReason>,
}

/// A frame, or the rest of one whose beginning has been sent.
struct Pending {
    header: [u8; HEADER_LEN],
    frame: RawFrame,
    skip: usize,
}

impl Out {
    /// The frames at the front that fit into one small write.
    fn take_small(&mut self, most: usize) -> Vec<Pending> {
        let mut bytes = 0;
        let fits = |p: &&Pending| {
            bytes += p.len();
            bytes <= most
        };
        let n = self.queue.iter().take(BATCH).take_while(fits).count();
        self.queue.drain(..n).collect()
    }

    /// Of these frames so many bytes have left; the rest goes back to the front. Whether all have.
    fn put_back(&mut self, batch: Vec<Pending>, mut taken: usize) -> bool {
        // Nothing is queued any more if it was closed meanwhile.
        if self.closed.is_some() {
            return true;
        }
        self.queued_bytes = self.queued_bytes.saturating_sub(taken);
        let left = batch.into_iter().filter_map(|mut pending| {
            let part = taken.min(pending.len());
            taken -= part;
            pending.skip += part;
            (pending.len() > 0).then_some(pending)
        });
        let left: Vec<Pending> = left.collect();
        let all = left.is_empty();
        for pending in left.into_iter().rev() {
            self.queue.push_front(pending);
        }
        all
    }
}

/// The parts that are still to be sent.
fn io_slices(batch: &[Pending]) -> Vec<IoSlice<'_>> {
    batch.iter().flat_map(Pending::slices).filter(|s| !s.is_empty()).map(IoSlice::new).collect()
}

impl Session {
    /// Starts the threads on an authenticated connection and reports Opened, in this order: nothing of the
    /// session is reported before.
    pub(super) fn start(
        lines: Lines,
        side: Side,
        peer: NodeName,
        volume: VolumeName,
        peer_timeout: Duration,
        sink: EventSink,
    ) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // The reader looks at the clock this often; a timeout is late by at most an eighth.
        let tick = (peer_timeout / 8).clamp(Duration::from_millis(10), Duration::from_millis(100));
        let (away, home) = match (lines, side) {
            (Lines::One(wire), _) => (wire.clone(), wire),
            (Lines::Two { bulk, acks }, Side::Dialer) => (bulk, acks),
            (Lines::Two { bulk, acks }, Side::Listener) => (acks, bulk),
        };
        for wire in [&away, &home] {
            wire.set_timeouts(tick, peer_timeout.max(tick))?;
        }
        let inner = Arc::new(Inner {
            id: SessionId(NEXT.fetch_add(1, Ordering::Relaxed)),
            peer,
            volume,
            side,
            away,
            home,
            peer_timeout,
            began: Instant::now(),
            heard_ms: AtomicU64::new(0),
            received: Budget::new(MAX_RECEIVED),
            out: Mutex::default(),
            wake: Condvar::new(),
        });
        let session = Self { inner: inner.clone() };
        let writer = inner.clone();
        thread::Builder::new().name("peer-writer".into()).spawn(move || writer.write_loop())?;
        if !inner.is_single() && side == Side::Listener {
            let watcher = inner.clone();
            let spawned =
                thread::Builder::new().name("peer-watcher".into()).spawn(move || watcher.watch_loop());
            if let Err(e) = spawned {
                session.close("no thread for reading");
                return Err(e);
            }
        }
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

    /// The way its frames go.
    #[must_use]
    pub fn link(&self) -> LinkStatus {
        let wire = &self.inner.home;
        LinkStatus {
            transport: if wire.is_tls() { "TLS 1.3" } else { "plain" }.into(),
            cipher: wire.cipher().map(str::to_owned),
            address: wire.peer().map_or_else(|| "unknown".to_owned(), |ip| ip.to_string()),
        }
    }

    /// Queues a frame behind all frames of before, and sends what is queued: small ones at once from the calling thread. Never
    /// blocks.
    ///
    /// # Errors
    /// See [`SendError`]; after Closed and Overflow the session is over.
    pub fn send(&self, frame: RawFrame) -> Result<(), SendError> {
        self.queue(frame)?;
        self.flush();
        Ok(())
    }

    /// Queues a frame behind all frames of before. It leaves at the next [`Self::flush`], with all that is queued by then.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn queue(&self, frame: RawFrame) -> Result<(), SendError> {
        frame.check_bounds()?;
        if frame.kind >= RESERVED_KINDS {
            return Err(FrameError::Kind(frame.kind).into());
        }
        let pending = Pending { header: frame.header(), frame, skip: 0 };
        let mut out = self.inner.lock();
        if out.closed.is_some() {
            return Err(SendError::Closed);
        }
        let queued = out.queued_bytes + pending.len();
        if queued > MAX_QUEUED {
            self.inner.close_locked(&mut out, CloseReason::Overflow { queued });
            return Err(SendError::Overflow { queued });
        }
        out.queued_bytes = queued;
        out.queue.push_back(pending);
        Ok(())
    }

    /// Sends what is queued without waiting: the small frames from this thread, several per system call, unless another thread
    /// does already; the rest is left to the writer.
    pub fn flush(&self) {
        let inner = &self.inner;
        let most = if inner.away.is_tls() { INLINE_MAX_TLS } else { INLINE_MAX };
        let mut out = inner.lock();
        for _ in 0..ROUNDS {
            // Whoever writes looks into the queue afterwards.
            if out.queue.is_empty() || out.writing || out.held_back || out.closed.is_some() {
                return;
            }
            let batch = out.take_small(most);
            if batch.is_empty() {
                break;
            }
            out.writing = true;
            drop(out);
            let result = inner.away.send_now(&io_slices(&batch));
            out = inner.lock();
            out.writing = false;
            match result {
                Ok(sent) => {
                    out.sent = true;
                    out.held_back = sent.held_back;
                    let all = out.put_back(batch, sent.taken);
                    if sent.held_back || !all {
                        break;
                    }
                }
                Err(e) => return inner.close_locked(&mut out, CloseReason::Io(e.to_string())),
            }
        }
        drop(out);
        inner.wake.notify_one();
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

    /// Changes the keys of the connection by which our frames go.
    #[cfg(test)]
    pub(super) fn refresh_keys(&self) {
        self.inner.away.refresh_keys();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
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
            self.away.shutdown();
            self.home.shutdown();
            self.wake.notify_all();
        }
    }

    /// Ends the session for `reason`, or for the one that came first.
    pub(super) fn finish(&self, reason: CloseReason) -> CloseReason {
        let mut out = self.lock();
        self.close_locked(&mut out, reason);
        out.closed.clone().expect("just closed")
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// One connection carries both directions.
    pub(super) fn is_single(&self) -> bool {
        Arc::ptr_eq(&self.away, &self.home)
    }

    fn write_loop(&self) {
        let ping = RawFrame::new(KIND_PING, "");
        let ping_header = ping.header();
        let mut out = self.lock();
        loop {
            if out.closed.is_some() {
                return;
            }
            let batch: Vec<Pending> = if out.writing {
                // Another thread: it wakes us up if it leaves something.
                out = self.wait(out);
                continue;
            } else if std::mem::take(&mut out.held_back) || !out.queue.is_empty() {
                let n = out.queue.len().min(BATCH);
                out.queue.drain(..n).collect()
            } else if std::mem::take(&mut out.sent) {
                // Something went out since we last looked: silence begins now at the earliest.
                out = self.wait(out);
                continue;
            } else {
                let (woken, timed_out) = self.wait_timed(out);
                out = woken;
                if !timed_out || out.sent || out.held_back || !out.queue.is_empty() || out.closed.is_some() {
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
        self.away.push_out()?;
        self.away.send_all(&mut io_slices(batch))
    }
}
