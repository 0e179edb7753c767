//! Serve-until datagrams.
use crate::api::ServeUntil;
use std::io;
use std::path::Path;

/// Receives serve-until datagrams on a thread of its own until dropped.
pub struct ServeUntilSocket;

impl ServeUntilSocket {
    /// Binds the socket (mode 0600, replacing a dead one). Each good datagram goes to `sink`.
    ///
    /// # Errors
    /// The socket cannot be made, or another process receives on it.
    pub fn bind(path: &Path, sink: impl Fn(ServeUntil) + Send + Sync + 'static) -> io::Result<Self> {
        let _ = (path, sink);
        unimplemented!("follows")
    }

    /// Datagrams that were not readable.
    #[must_use]
    pub fn garbage(&self) -> u64 {
        unimplemented!("follows")
    }
}
