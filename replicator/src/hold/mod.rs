//! The holder: a small process that outlives the replicator proper, which is its *worker*.
//!
//! ```text
//!            spawn                    keep (descriptor, state)
//!  holder ──────────► worker  ──────────────────────────────────► holder
//!    ▲                  │ dies                                       │
//!    └── its end ───────┘      next worker ◄── all that is kept ─────┘
//! ```
//! The kernel ends a FUSE connection, and with it all I/O of the device, when the last descriptor of it closes. The
//! holder has one too, so a worker that crashes, or is replaced by a newer binary, is a pause: the next worker takes
//! the connection over and the kernel sends it again what was in flight (decision 0010).
//!
//! * [`Holder`] is the worker's handle; [`keeper`] the holder's own loop; `restarts` decides when to give up; `wire`
//!   moves descriptors between the two; `process` has the system calls.
//!
//! Invariants: the holder knows nothing of volumes, never touches what it keeps, has one thread and allocates only
//! when something is handed to it. If it dies, its worker is killed with it, and the kernel fails the devices' I/O
//! as if there had been no holder.

pub mod keeper;
mod process;
mod restarts;
mod wire;

pub use process::{Worker, lock_memory};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For the holder's first messages: it sends them before the worker runs.
const HELLO_LIMIT: Duration = Duration::from_secs(2);

/// What was kept: the owner's words about it, and the descriptor.
#[derive(Debug)]
pub struct Kept {
    /// Written and read by the owner.
    pub state: Vec<u8>,
    /// A duplicate of what was handed in.
    pub descriptor: OwnedFd,
}

/// A worker's handle on its holder; clones are the same one. Without a holder nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct Holder(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    socket: OwnedFd,
    restarts: u64,
    found: Mutex<BTreeMap<String, Kept>>,
}

impl Holder {
    /// Nobody: for a process that runs by itself.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes over what an earlier worker left. `restarts` is how often the holder has started a worker again.
    ///
    /// # Errors
    /// The holder does not say what it keeps.
    pub fn connect(socket: OwnedFd, restarts: u64) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        loop {
            let mut fds = [PollFd::new(&socket, PollFlags::IN)];
            let limit = Timespec { tv_sec: HELLO_LIMIT.as_secs().cast_signed(), tv_nsec: 0 };
            if poll(&mut fds, Some(&limit))? == 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the holder says nothing"));
            }
            match wire::receive(socket.as_fd())? {
                Some(wire::Message::Keep { key, state, descriptor }) => {
                    found.insert(key, Kept { state, descriptor });
                }
                Some(wire::Message::Drop { .. } | wire::Message::Up) => {}
                Some(wire::Message::End) => break,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(Self(Some(Arc::new(Inner { socket, restarts, found: Mutex::new(found) }))))
    }

    /// There is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// How often the holder has started a worker again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.restarts)
    }

    /// This process has started: listening, and ready to take over what is kept.
    pub fn up(&self) {
        let Some(inner) = &self.0 else { return };
        if let Err(error) = wire::send(inner.socket.as_fd(), &wire::Outgoing::Up) {
            tracing::warn!(%error, "cannot tell the holder that the replicator runs");
        }
    }

    /// Hands in a descriptor to be kept under `key`, in place of an earlier one. Kept once this returns true, even if
    /// the process dies at once; false if there is no holder.
    ///
    /// # Errors
    /// The holder is gone, or `state` is too long.
    pub fn keep(&self, key: &str, state: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<bool> {
        let Some(inner) = &self.0 else { return Ok(false) };
        wire::send(inner.socket.as_fd(), &wire::Outgoing::Keep { key, state, descriptor })?;
        Ok(true)
    }

    /// What is kept under `key` is not needed any more.
    pub fn drop_kept(&self, key: &str) {
        let Some(inner) = &self.0 else { return };
        self.found().remove(key);
        if let Err(error) = wire::send(inner.socket.as_fd(), &wire::Outgoing::Drop { key }) {
            tracing::warn!(key, %error, "cannot tell the holder to let go");
        }
    }

    /// An earlier worker left something under `key`, and nobody has taken it.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.found().contains_key(key)
    }

    /// What earlier workers left and nobody has taken: keys with their state.
    #[must_use]
    pub fn left(&self) -> Vec<(String, Vec<u8>)> {
        self.found().iter().map(|(key, kept)| (key.clone(), kept.state.clone())).collect()
    }

    /// Takes what an earlier worker left; the holder still keeps it.
    #[must_use]
    pub fn take(&self, key: &str) -> Option<Kept> {
        self.found().remove(key)
    }

    fn found(&self) -> impl std::ops::DerefMut<Target = BTreeMap<String, Kept>> + '_ {
        match &self.0 {
            Some(inner) => Found::Some(inner.found.lock().unwrap_or_else(PoisonError::into_inner)),
            None => Found::None(BTreeMap::new()),
        }
    }
}

/// The map, or an empty one where there is no holder.
enum Found<'a> {
    Some(MutexGuard<'a, BTreeMap<String, Kept>>),
    None(BTreeMap<String, Kept>),
}

impl std::ops::Deref for Found<'_> {
    type Target = BTreeMap<String, Kept>;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Some(guard) => guard,
            Self::None(empty) => empty,
        }
    }
}

impl std::ops::DerefMut for Found<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Some(guard) => guard,
            Self::None(empty) => empty,
        }
    }
}

#[cfg(test)]
mod tests;
