//! Why a frame is not sent and why a session ends: shown in status, log and metric.

use super::FrameError;
use std::time::Duration;

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
    PeerTimeout(Duration),
    /// The peer did not take what was sent.
    #[error("{queued} bytes were queued for a peer that does not take them")]
    Overflow {
        /// Bytes in the queue.
        queued: usize,
    },
    /// Nonsense arrived.
    #[error("bad frame: {0}")]
    BadFrame(FrameError),
    /// The network failed.
    #[error("connection lost: {0}")]
    Io(String),
}
