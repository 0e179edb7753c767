//! Hands serve-until to the replicator: one JSON datagram per group to `<run-dir>/serve-until.sock`.
//!
//! Never blocks and never fails loudly: a replicator that is away freezes by itself, which is the safe direction.

use baton_replicator::api::ServeUntil;
use baton_replicator::types::{Epoch, GroupName, Instant};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Sender of serve-until datagrams.
#[derive(Debug)]
pub struct ServeUntilSender {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServeUntilSender {
    /// A sender to `<run-dir>/serve-until.sock`, which need not exist yet.
    ///
    /// # Errors
    /// If no socket can be made.
    pub fn new(run_dir: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: run_dir.join("serve-until.sock") })
    }

    /// Sends one; returns whether the kernel took it.
    pub fn send(&self, group: &GroupName, epoch: Epoch, until: Instant) -> bool {
        let message = ServeUntil { group: group.clone(), epoch, until };
        let Ok(bytes) = serde_json::to_vec(&message) else { return false };
        self.socket.send_to(&bytes, &self.path).is_ok()
    }
}
