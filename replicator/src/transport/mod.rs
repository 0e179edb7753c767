//! The way to the peers: framed, authenticated sessions over TCP, with TLS 1.3 unless the volume says plain; one per
//! volume and peer.
//!
//! Nothing here knows what a frame means. Sessions carry [`RawFrame`]s in order, without loss while they live;
//! a session that ends says why, once, and is never revived: a new one takes its place.
//!
//! A primary has a [`Dialer`] for a volume and peer, the secondary waits at its [`Listener`]; so there is one session
//! at a time. A session has two connections, see `session`.
//!
//! Invariants: no frame is delivered before both sides have proved that they know the cluster secret and, with TLS,
//! have shown valid certificates of the very nodes they say they are; lengths are checked before use, checksums before
//! delivery; what is queued is bounded. Every event of a session comes in order: Opened, Frame…, Closed. If a thread
//! here dies, the process dies ([`abort_on_panic`](crate::process::abort_on_panic)).

mod auth;
mod credentials;
mod dial;
mod early;
mod failure;
mod frame;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod listen;
mod reading;
mod reason;
pub mod secret;
mod session;
mod wire;

pub use credentials::Credentials;
pub use dial::{Dialer, DialerConfig};
pub use failure::HandshakeLog;
pub use frame::{FrameError, MAX_BODY, MAX_HEAD, RESERVED_KINDS, RawFrame};
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_wire;
pub use listen::{Admission, Admit, Listener, ListenerConfig};
pub use reason::{CloseReason, SendError};
pub use secret::{Secret, SecretError};
pub use session::Session;

use crate::types::{NodeName, VolumeName};
use std::sync::Arc;

/// Names a session within this process; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What the transport tells its owner. Sent from the transport's own threads.
#[derive(Debug)]
pub enum TransportEvent {
    /// Both sides proved who they are. Frames of this session follow.
    Opened(Session),
    /// A frame arrived, complete and with a good checksum.
    Frame {
        /// The session it came by.
        session: SessionId,
        /// The frame.
        frame: RawFrame,
    },
    /// The session ended. Nothing of it follows.
    Closed {
        /// The session.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
    /// A dialer could not get a session and tries again. Sent after each round of its addresses, once a second at most in the end.
    DialFailed {
        /// The peer.
        peer: NodeName,
        /// The volume.
        volume: VolumeName,
        /// Why, as one sentence.
        reason: String,
    },
    /// A listener refused a peer that proved itself, because the two are not configured alike.
    Refused {
        /// The peer.
        peer: NodeName,
        /// The volume it came for.
        volume: VolumeName,
        /// Why, as one sentence.
        reason: String,
    },
}

/// Where the transport's events go. Must not block for long: it runs on the threads that read the sockets.
pub type EventSink = Arc<dyn Fn(TransportEvent) + Send + Sync>;

#[cfg(test)]
mod tests;
