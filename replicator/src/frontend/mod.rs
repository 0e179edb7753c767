//! Front ends: how a volume becomes a block device of this host.
//!
//! A front end takes requests from the kernel and hands them to one sink; answers come back by request id,
//! from any thread, in any order. It decides nothing: it neither orders, caches nor splits requests.
//!
//! * [`fuse`] is the one that works everywhere: a FUSE file attached to a loop device.
//! * [`nbd`] serves the NBD protocol on a Unix socket: for virtual machines, and to read a volume without mounting it.
//! * [`stale`] cleans up what an earlier process of this node left behind.
//! * [`probe`] and [`mkfs`] look at a device's first bytes and make filesystems; [`growfs`] makes them larger.
//!
//! Invariants: a request is answered at most once (later answers are dropped); a front end that is starting or
//! stopping never waits for the engine on the engine's thread; every step of a stop is bounded. If the process
//! dies, the holder has the connection and the next process takes it over ([`Begin::TakeOver`]); without a holder the
//! kernel fails all requests, and [`stale::clean`] of the next process frees the device.

#[cfg(test)]
mod conformance;
mod field;
pub mod fuse;
pub mod growfs;
mod loopdev;
pub mod mkfs;
pub mod nbd;
pub mod probe;
pub mod stale;
mod sys;

use crate::hold::Holder;
use crate::types::{FrontEndKind, VolumeName};
use bytes::Bytes;
pub use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;
pub use sys::set_io_flusher;

/// What a front end needs to know about a volume.
#[derive(Debug, Clone)]
pub struct FrontEndConfig {
    /// Which one.
    pub kind: FrontEndKind,
    /// The volume: the name of the symlink.
    pub volume: VolumeName,
    /// Size in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// Tells this node's devices from those of other nodes on the same kernel: see [`stale::node_tag`].
    pub tag: String,
    /// Directory for private mounts and device nodes (`<run-dir>`).
    pub run_dir: PathBuf,
    /// Where the symlink `<volume>` is made (`<device-dir>`).
    pub device_dir: PathBuf,
    /// Who keeps the device when this process dies.
    pub holder: Holder,
    /// How to begin.
    pub begin: Begin,
}

/// What a front end does first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Makes a device. What an earlier process left of it goes first.
    Make,
    /// Goes on with the device that an earlier process left: requests it has not answered come again.
    TakeOver,
    /// Takes the device away that an earlier process left, and ends: I/O that waits for it fails.
    Release,
}

/// One request of the kernel. Offsets and lengths are multiples of 4096 and within the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names the request in [`FrontEnd::reply`]; unique while the front end lives.
    pub id: u64,
    /// What is asked.
    pub op: Op,
}

/// What the kernel asks of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Answered with exactly `len` bytes (at most 1 MiB).
    Read {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// At most 1 MiB. The buffer is 4096-aligned, so that it can be written with O_DIRECT.
    Write {
        /// First byte.
        offset: u64,
        /// The data.
        data: Bytes,
    },
    /// Everything answered before must become durable.
    Flush,
    /// The range need not be kept; it reads as zeroes afterwards. Up to 4 GiB in one request.
    Discard {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The range must read as zeroes. Up to 4 GiB in one request.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// What a front end tells its owner. Sent from the front end's own threads.
#[derive(Debug)]
pub enum FrontEndEvent {
    /// The device exists. Requests may arrive before this.
    Ready(Device),
    /// A request to be answered with [`FrontEnd::reply`].
    Request(Request),
    /// What came of [`FrontEnd::resize`].
    Resized(Result<(), FrontEndError>),
    /// Starting failed and everything has been undone. Nothing follows.
    Failed(FrontEndError),
    /// A stop without force found the device still in use; requests are still served. To be stopped again.
    StopRefused(FrontEndError),
    /// The front end has ended, by [`FrontEnd::stop`] or because the kernel closed it. Nothing follows.
    /// What could not be cleaned up is listed; [`stale::clean`] tries again at the next start.
    Stopped {
        /// Leftovers, one sentence each.
        problems: Vec<String>,
    },
}

/// A block device that a front end made. All three are the socket if it is `nbd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As the host sees it: `/dev/loopN`.
    pub host_path: PathBuf,
    /// As this process can open it.
    pub local_path: PathBuf,
    /// The symlink `<device-dir>/<volume>`.
    pub symlink: PathBuf,
}

/// Starts a front end of the kind that is configured. Returns at once; [`FrontEndEvent::Ready`] or `Failed` follows.
#[must_use]
pub fn start(config: FrontEndConfig, sink: EventSink) -> Arc<dyn FrontEnd> {
    match (config.kind, config.begin) {
        // Whatever an earlier process left that can be gone on with, or must be taken away, is a FUSE connection.
        (FrontEndKind::Fuse, _) | (FrontEndKind::Nbd, Begin::Release) => fuse::start(config, sink),
        (FrontEndKind::Nbd, Begin::Make | Begin::TakeOver) => nbd::start(config, sink),
    }
}

/// Where a front end's events go. Must not block for long: it runs on the thread that reads requests.
pub type EventSink = Arc<dyn Fn(FrontEndEvent) + Send + Sync>;

/// A running (or starting, or stopping) front end.
pub trait FrontEnd: Send + Sync {
    /// Answers a request: data for a read, empty bytes for all others, or an errno. Answers to requests that
    /// the kernel has given up, or that were answered before, are dropped. Called from any thread.
    fn reply(&self, id: u64, result: Result<Bytes, Errno>);

    /// Starts stopping, on a thread of its own; the outcome comes as an event. Without `force`, a device that
    /// is still mounted after a short wait is left alone ([`FrontEndEvent::StopRefused`]). With `force`, all
    /// pending and later I/O fails. Requests must be answered while a stop without force runs.
    fn stop(&self, force: bool);

    /// Makes the device larger while it is in use; [`FrontEndEvent::Resized`] follows. Never smaller.
    fn resize(&self, size_bytes: u64);

    /// Requests handed out and not answered.
    fn pending(&self) -> usize;

    /// Who is connected; none where that cannot be told.
    fn clients(&self) -> Option<usize> {
        None
    }
}

/// Why a front end failed.
#[derive(Debug, thiserror::Error)]
pub enum FrontEndError {
    /// An operating system call failed.
    #[error("cannot {what} {path}", path = .path.display())]
    Sys {
        /// What was tried, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The device is mounted or held exclusively.
    #[error("{path} is still in use (mounted?)", path = .path.display())]
    Busy {
        /// The device.
        path: PathBuf,
    },
    /// Clients are connected.
    #[error("{path} is still in use by {clients} clients; disconnect them first", path = .path.display())]
    Clients {
        /// The socket.
        path: PathBuf,
        /// How many.
        clients: usize,
    },
    /// What an earlier process left cannot be gone on with.
    #[error("cannot take over the device of {volume}: {detail}")]
    TakeOver {
        /// The volume.
        volume: VolumeName,
        /// Why.
        detail: String,
    },
    /// No free loop device could be had.
    #[error("no loop device could be attached in {tries} tries: others took each one first")]
    NoLoopDevice {
        /// How often it was tried.
        tries: u32,
    },
    /// A child process did not do what it was asked.
    #[error("{program} failed: {detail}")]
    Child {
        /// Its name.
        program: String,
        /// Its complaint.
        detail: String,
    },
    /// The time for it has not come.
    #[error("{detail}")]
    Later {
        /// What is waited for.
        detail: String,
    },
    /// The kernel does not see the new size.
    #[error("{path} has {found} bytes, not {wanted}", path = .path.display())]
    Size {
        /// The device.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What it should have.
        wanted: u64,
    },
    /// Something took longer than it may.
    #[error("{what} did not end within {seconds} s")]
    Timeout {
        /// What.
        what: String,
        /// The bound.
        seconds: u64,
    },
}
