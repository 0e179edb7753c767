//! One session.
use super::{FrameError, RawFrame, SessionId};
use crate::types::{NodeName, VolumeName};

/// A handle on a session; clones name the same one. Dropping handles does not close it.
#[derive(Debug, Clone)]
pub struct Session;

/// Why a frame was not accepted for sending.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The session has ended (its Closed event comes or came).
    #[error("the session is closed")]
    Closed,
    /// More than 64 MiB are queued: the session is closed.
    #[error("{queued} bytes are queued for a peer that does not take them")]
    Overflow {
        /// Bytes in the queue.
        queued: usize,
    },
    /// Head, body or kind is out of bounds.
    #[error("{0}")]
    Frame(#[from] FrameError),
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed here: {0}")]
    Local(String),
    /// The peer closed the connection.
    #[error("closed by the peer")]
    Peer,
    /// Nothing was received for `peer_timeout`.
    #[error("nothing received for {0:?}")]
    PeerTimeout(std::time::Duration),
    /// The peer did not take what was sent.
    #[error("{0}")]
    Overflow(SendError),
    /// Nonsense arrived.
    #[error("bad frame: {0}")]
    BadFrame(FrameError),
    /// The network failed.
    #[error("connection lost: {0}")]
    Io(String),
}

impl Session {
    /// Names it.
    #[must_use]
    pub fn id(&self) -> SessionId {
        unimplemented!("follows")
    }
    /// The authenticated peer.
    #[must_use]
    pub fn peer(&self) -> &NodeName {
        unimplemented!("follows")
    }
    /// The volume it is for.
    #[must_use]
    pub fn volume(&self) -> &VolumeName {
        unimplemented!("follows")
    }
    /// Sends a frame after all frames sent before; small ones at once from the calling thread. Never blocks.
    ///
    /// # Errors
    /// See [`SendError`]; after Closed and Overflow the session is over.
    pub fn send(&self, frame: RawFrame) -> Result<(), SendError> {
        let _ = frame;
        unimplemented!("follows")
    }
    /// Bytes accepted by [`Self::send`] and not yet taken by the kernel.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        unimplemented!("follows")
    }
    /// Ends the session; what is queued is lost. The Closed event says `Local(reason)`.
    pub fn close(&self, reason: &str) {
        let _ = reason;
    }
}
