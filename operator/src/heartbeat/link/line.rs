//! A serial line: a tty in raw mode, frames on it, and never a wait.
//!
//! What the line cannot take at once is dropped and counted. Apart from what the kernel takes, at most the rest of one
//! frame waits here; how much the line is still busy with is reckoned from its speed, because a tty's buffer would take
//! several seconds of heartbeats and deliver them late.

use super::cobs::{Decoder, Piece, encode};
use baton_replicator::types::Instant;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{self, ControlModes, OptionalActions, QueueSelector};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Bytes read at once.
const CHUNK: usize = 4096;

/// An open serial line.
#[derive(Debug)]
pub struct Line {
    tty: OwnedFd,
    baud: u32,
    /// The rest of a frame that the kernel has not taken yet.
    rest: Vec<u8>,
    /// When the line will have sent everything.
    free_at: Instant,
    decoder: Decoder,
    arrived: VecDeque<Piece>,
}

/// Why a frame did not go out.
#[derive(Debug)]
pub enum Refuses {
    /// The line is busy, or stuck.
    Busy(&'static str),
    /// It is gone: open it again.
    Gone(io::Error),
}

impl Line {
    /// Opens the tty: raw, eight bits, no parity, no flow control, no wait for a carrier.
    pub fn open(device: &Path, baud: u32) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let tty = rustix::fs::open(device, flags, Mode::empty())?;
        let mut attributes = termios::tcgetattr(&tty)?;
        attributes.make_raw();
        attributes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        attributes.control_modes -= ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::PARENB;
        attributes.set_speed(baud)?;
        termios::tcsetattr(&tty, OptionalActions::Now, &attributes)?;
        termios::tcflush(&tty, QueueSelector::IOFlush)?;
        Ok(Self {
            tty,
            baud,
            rest: Vec::new(),
            free_at: Instant::ZERO,
            decoder: Decoder::default(),
            arrived: VecDeque::new(),
        })
    }

    /// Sends a datagram as one frame if the line can take it now; `patience`: how long it may still be busy.
    pub fn send(&mut self, datagram: &[u8], patience: Duration, now: Instant) -> Result<(), Refuses> {
        self.go_on().map_err(Refuses::Gone)?;
        if !self.rest.is_empty() {
            return Err(Refuses::Busy("the line takes nothing: its other end may hold it"));
        }
        if self.free_at.since(now) > patience {
            return Err(Refuses::Busy("the line is still busy with what was sent before"));
        }
        encode(datagram, &mut self.rest);
        let nanos = self.rest.len() as u64 * 10 * 1_000_000_000 / u64::from(self.baud.max(1));
        let whole = self.rest.len();
        self.go_on().map_err(Refuses::Gone)?;
        if self.rest.len() == whole {
            self.rest.clear();
            return Err(Refuses::Busy("the line takes nothing: its other end may hold it"));
        }
        self.free_at = self.free_at.max(now).plus(Duration::from_nanos(nanos));
        Ok(())
    }

    /// Goes on with the rest of a frame.
    pub fn go_on(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match rustix::io::write(&self.tty, &self.rest) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => drop(self.rest.drain(..n)),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// The next piece that came; none if nothing waits.
    pub fn receive(&mut self) -> io::Result<Option<Piece>> {
        if let Some(piece) = self.arrived.pop_front() {
            return Ok(Some(piece));
        }
        let mut chunk = [0; CHUNK];
        let read = match rustix::io::read(&self.tty, &mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        for byte in &chunk[..read] {
            self.arrived.extend(self.decoder.push(*byte));
        }
        Ok(self.arrived.pop_front())
    }

    /// For poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.tty.as_fd()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The kernel would wait up to half a minute for what a stuck line does not take.
        let _ = termios::tcflush(&self.tty, QueueSelector::OFlush);
    }
}
