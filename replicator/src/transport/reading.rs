//! The reading half of a session: frames for the owner, pings, and the judgement that a peer is silent.

use super::frame::{KIND_PING, MAX_BODY, MAX_HEAD, RESERVED_KINDS, ReadError, read_frame};
use super::session::{Inner, PING_INTERVAL, Side};
use super::wire::{Wire, WireReader};
use super::{CloseReason, EventSink, FrameError, RawFrame, TransportEvent};
use std::io::{self, BufReader, IoSlice, Read};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// While a session waits for room it looks this often whether it is closed.
const ROOM: Duration = Duration::from_millis(50);
/// Read-ahead of the socket: small frames come several per system call.
const READ_BUFFER: usize = 64 << 10;

impl Inner {
    pub(super) fn read_loop(&self, sink: &EventSink) -> CloseReason {
        let patient = Patient::new(self, &self.home, !self.is_single() && self.side == Side::Dialer);
        let mut from = BufReader::with_capacity(READ_BUFFER, patient);
        loop {
            match read_frame(&mut from, MAX_HEAD, MAX_BODY) {
                Ok(frame) if frame.kind == KIND_PING => {}
                Ok(frame) if frame.kind >= RESERVED_KINDS => {
                    return CloseReason::BadFrame(FrameError::Kind(frame.kind));
                }
                Ok(frame) => {
                    if self.is_closed() {
                        return CloseReason::Peer; // The first reason stands.
                    }
                    let Some(frame) = self.charged(frame) else { return CloseReason::Peer };
                    sink(TransportEvent::Frame { session: self.id, frame });
                    // Time that the owner took is not the peer's silence.
                    self.heard();
                }
                Err(error) => return self.why(error),
            }
        }
    }

    /// The frame as soon as what came before it has left enough room; none if the session ends meanwhile.
    fn charged(&self, mut frame: RawFrame) -> Option<RawFrame> {
        if !frame.body.is_empty() {
            let charge = self.received.take(frame.body.len(), ROOM, || !self.is_closed())?;
            frame.body = charge.on(frame.body);
        }
        Some(frame)
    }

    /// Listener: nothing but the dialer's pings comes by the connection of the acknowledgements.
    pub(super) fn watch_loop(&self) {
        let mut from = BufReader::new(Patient::new(self, &self.away, false));
        let reason = loop {
            match read_frame(&mut from, 0, 0) {
                Ok(frame) if frame.kind == KIND_PING => {}
                Ok(frame) => break CloseReason::BadFrame(FrameError::Kind(frame.kind)),
                Err(error) => break self.why(error),
            }
        };
        self.finish(reason);
    }

    fn why(&self, error: ReadError) -> CloseReason {
        match error {
            ReadError::Frame(e) => CloseReason::BadFrame(e),
            ReadError::Io(e) => match e.kind() {
                io::ErrorKind::UnexpectedEof => CloseReason::Peer,
                io::ErrorKind::TimedOut => CloseReason::PeerTimeout(self.peer_timeout),
                _ => CloseReason::Io(e.to_string()),
            },
        }
    }

    fn heard(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(ms, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(heard) >= self.peer_timeout
    }
}

/// Reads from a wire and turns `peer_timeout` without a byte into TimedOut. The dialer's one also pings, and looks
/// after the connection on which nothing ever comes.
struct Patient<'a> {
    inner: &'a Inner,
    from: WireReader<'a>,
    wire: &'a Wire,
    /// When the last ping was sent, if it is for this thread to send them.
    pinged: Option<Instant>,
}

impl<'a> Patient<'a> {
    fn new(inner: &'a Inner, wire: &'a Wire, pings: bool) -> Self {
        Self { inner, from: wire.reader(), wire, pinged: pings.then(Instant::now) }
    }

    fn ping_if_due(&mut self) -> io::Result<()> {
        let interval = PING_INTERVAL.min(self.inner.peer_timeout / 4);
        if self.pinged.is_some_and(|at| at.elapsed() >= interval) {
            self.pinged = Some(Instant::now());
            let ping = RawFrame::new(KIND_PING, "").header();
            let sent = self.wire.send_now(&[IoSlice::new(&ping)])?;
            // Nothing else goes this way: a buffer that is full is one that the peer does not read.
            if sent.held_back || sent.taken != ping.len() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no pings"));
            }
        }
        Ok(())
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.ping_if_due()?;
            match self.from.read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.inner.is_closed() {
                        return Ok(0);
                    }
                    if self.inner.is_silent() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    if self.pinged.is_some() && self.inner.away.hung_up() {
                        return Ok(0);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n) => {
                    self.inner.heard();
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
