//! Getting sessions: the listener and the dialers.
use super::{EventSink, Secret};
use crate::types::{NodeName, VolumeName};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Decides, after authentication, whether a peer's session for a volume is welcome; an Err's text is told to
/// the peer. Gives the volume's `peer_timeout`.
pub type Admit = Arc<dyn Fn(&NodeName, &VolumeName) -> Result<Duration, String> + Send + Sync>;

/// What a listener needs.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Address to listen on.
    pub address: SocketAddr,
    /// The cluster secret.
    pub secret: Secret,
    /// This node.
    pub node: NodeName,
    /// Who is welcome.
    pub admit: Admit,
}

/// Accepts sessions until dropped. Open sessions live on.
pub struct Listener;

impl Listener {
    /// Starts listening. Events go to `sink`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(config: ListenerConfig, sink: EventSink) -> io::Result<Self> {
        let _ = (config, sink);
        unimplemented!("follows")
    }
    /// Where it listens (the port is known if 0 was asked for).
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        unimplemented!("follows")
    }
}

/// What a dialer needs.
#[derive(Clone)]
pub struct DialerConfig {
    /// The peer's replicator.
    pub address: SocketAddr,
    /// The cluster secret.
    pub secret: Secret,
    /// This node.
    pub node: NodeName,
    /// The peer.
    pub peer: NodeName,
    /// The volume.
    pub volume: VolumeName,
    /// A session in which nothing was received for this long is closed.
    pub peer_timeout: Duration,
}

/// Keeps one session to a peer for one volume: dials, waits until the session ends, dials again (after 100 ms,
/// growing to 1 s while it fails). Dropping it stops dialing and closes its session.
pub struct Dialer;

impl Dialer {
    /// Starts dialing. Events go to `sink`.
    #[must_use]
    pub fn start(config: DialerConfig, sink: EventSink) -> Self {
        let _ = (config, sink);
        unimplemented!("follows")
    }
}
