//! The listener: takes connections, and makes a session of the two that belong together.
//!
//! Invariants: a connection that has not proved itself lives a few seconds at most, and there are few of them; so does
//! one whose other half does not come. Dropping a listener ends its thread soon; open sessions live on.

use super::auth::{self, Binding, Channel, First, Parties, Terms, Token};
use super::credentials::{Credentials, subject_of};
use super::early::{HANDSHAKE_TIMEOUT, Hurried, Secured, close_gently, prepare};
use super::failure::{AuthError, HandshakeLog};
use super::session::{Lines, Side};
use super::wire::Wire;
use super::{EventSink, Secret, Session, TransportEvent};
use crate::api::HandshakeFailure;
use crate::tls::KIND_NODE;
use crate::types::{NodeName, Transport, VolumeName};
use rustls::{Connection, ServerConnection};
use socket2::SockRef;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Connections in the handshake at a time: more than all volumes of all peers need, too few to hurt. Also the most
/// that wait for their other half.
const MAX_HANDSHAKES: usize = 32;
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a peer is let in for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The volume's.
    pub peer_timeout: Duration,
    /// The volume's.
    pub transport: Transport,
}

/// Decides, after authentication, whether a peer's session for a volume is welcome; an Err's text is told to
/// the peer.
pub type Admit = Arc<dyn Fn(&NodeName, &VolumeName) -> Result<Admission, String> + Send + Sync>;

/// What a listener needs.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Address to listen on.
    pub address: SocketAddr,
    /// The cluster secret.
    pub secret: Secret,
    /// This node's certificate.
    pub credentials: Credentials,
    /// This node.
    pub node: NodeName,
    /// Who is welcome.
    pub admit: Admit,
    /// Takes the release before, which has no TLS, for volumes that want TLS, too: while a cluster is being upgraded.
    pub accept_before: bool,
    /// Counts.
    pub log: Arc<HandshakeLog>,
}

/// Accepts sessions until dropped. Open sessions live on.
pub struct Listener {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    socket: Arc<TcpListener>,
}

impl Listener {
    /// Starts listening. Events go to `sink`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(config: ListenerConfig, sink: EventSink) -> io::Result<Self> {
        let socket = Arc::new(TcpListener::bind(config.address)?);
        let address = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (listening, stopping) = (socket.clone(), stop.clone());
        let door = Arc::new(Door { config, sink, halves: Mutex::default() });
        thread::Builder::new()
            .name("peer-listener".into())
            .spawn(move || accept_loop(&listening, &stopping, &door))?;
        Ok(Self { address, stop, socket })
    }

    /// Where it listens (the port is known if 0 was asked for).
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept call with an error.
        let _ = SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both);
    }
}

struct Door {
    config: ListenerConfig,
    sink: EventSink,
    halves: Mutex<Vec<Half>>,
}

/// A connection that waits for the other one of its session.
struct Half {
    parties: Parties,
    token: Token,
    channel: Channel,
    wire: Arc<Wire>,
    until: Instant,
}

/// A dialer that was let in.
struct Guest {
    parties: Parties,
    terms: Terms,
    peer_timeout: Duration,
    tls: Option<Connection>,
}

fn accept_loop(socket: &TcpListener, stop: &AtomicBool, door: &Arc<Door>) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = socket.accept();
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (mut stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a connection that died in the backlog: neither may end or spin us.
                tracing::warn!(%error, "cannot accept a replication connection");
                thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if handshakes.load(Ordering::SeqCst) >= MAX_HANDSHAKES {
            let why = "too many connections are in their handshake";
            door.config.log.count(HandshakeFailure::Busy, format!("{from}: {why}"));
            let _ = stream.set_nonblocking(true);
            auth::refuse(&mut stream, why);
            continue;
        }
        handshakes.fetch_add(1, Ordering::SeqCst);
        let (door, count) = (door.clone(), handshakes.clone());
        let spawned = thread::Builder::new().name("peer-handshake".into()).spawn(move || {
            door.receive(stream, from);
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a replication connection");
            handshakes.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Door {
    fn receive(&self, stream: TcpStream, from: SocketAddr) {
        let welcomed =
            prepare(&stream, HANDSHAKE_TIMEOUT).map_err(AuthError::from).and_then(|()| self.greet(&stream));
        match welcomed {
            Ok(guest) => {
                self.config.log.completed();
                if let Err(error) = self.seat(stream, guest) {
                    tracing::warn!(%from, %error, "no session for a replication connection");
                }
            }
            Err(AuthError::Silent) => tracing::debug!(%from, "{}", AuthError::Silent),
            Err(error) => {
                tracing::warn!(%from, %error, "replication connection refused");
                self.config.log.failed(&format!("from {}", from.ip()), &error);
                close_gently(&stream);
            }
        }
    }

    /// From the challenge to the welcome.
    fn greet(&self, stream: &TcpStream) -> Result<Guest, AuthError> {
        let mut early = Hurried::new(stream);
        let (nonce, first) = auth::challenge(&mut early)?;
        let transport = match first {
            First::Before(hello) => {
                let proved = auth::check(&self.config.secret, &nonce, &hello, None);
                return self.let_in(&mut early, proved, Transport::Plain);
            }
            First::Open(transport) => transport,
        };
        let identity = match transport {
            Transport::Plain => None,
            Transport::Tls => Some(self.config.credentials.current().map_err(|e| {
                let e = AuthError::Certificate(format!(
                    "{} has no certificate for replication: {e}",
                    self.config.node
                ));
                told(&mut early, e)
            })?),
        };
        auth::opened(&mut early)?;
        let Some(identity) = identity else {
            let hello = auth::hello(&mut early)?;
            let proved = auth::check(&self.config.secret, &nonce, &hello, Some(Binding::default()));
            return self.let_in(&mut early, proved, Transport::Plain);
        };
        let connection = ServerConnection::new(identity.server)
            .map_err(|e| AuthError::Certificate(format!("TLS failed: {e}")))?;
        let mut tls = Connection::from(connection);
        let mut secured = Secured::new(&mut tls, &mut early)?;
        let hello = auth::hello(&mut secured)?;
        let binding = secured.binding()?;
        let proved = auth::check(&self.config.secret, &nonce, &hello, Some(binding)).and_then(|proved| {
            let shown = secured.connection().peer_certificates().and_then(subject_of);
            let says = &proved.parties.dialer;
            match shown {
                Some(s) if s.kind != KIND_NODE || s.cluster != identity.cluster => {
                    Err(AuthError::Certificate(format!(
                        "the certificate of {} ({}) is not one of a node of {}",
                        s.name, s.kind, identity.cluster
                    )))
                }
                Some(s) if s.name == says.as_str() => Ok(proved),
                Some(s) => Err(AuthError::WrongNode(format!(
                    "the connection says it is {says}, its certificate is {}'s",
                    s.name
                ))),
                None => Err(AuthError::Certificate(
                    "the certificate's subject is not one that 'baton cert' makes".into(),
                )),
            }
        });
        let guest = self.let_in(&mut secured, proved, Transport::Tls)?;
        Ok(Guest { tls: Some(tls), ..guest })
    }

    /// A dialer that knows the secret, or does not: in or out. It is told why, and so is the volume it came for.
    fn let_in(
        &self,
        stream: &mut impl Write,
        proved: Result<auth::Proved, AuthError>,
        transport: Transport,
    ) -> Result<Guest, AuthError> {
        let proved = proved.map_err(|e| told(stream, e))?;
        let Parties { dialer, listener, volume } = proved.parties.clone();
        let admitted = self.admit(&dialer, &listener, &volume, &proved.terms, transport);
        match admitted {
            Ok(peer_timeout) => {
                let (parties, terms) = proved.welcome(stream)?;
                Ok(Guest { parties, terms, peer_timeout, tls: None })
            }
            Err(error) => {
                if let AuthError::Transport(why) | AuthError::Before(why) = &error {
                    (self.sink)(TransportEvent::Refused { peer: dialer, volume, reason: why.clone() });
                }
                Err(told(stream, error))
            }
        }
    }

    fn admit(
        &self,
        dialer: &NodeName,
        listener: &NodeName,
        volume: &VolumeName,
        terms: &Terms,
        transport: Transport,
    ) -> Result<Duration, AuthError> {
        let node = &self.config.node;
        if listener != node {
            return Err(AuthError::WrongNode(format!(
                "the node at this address is not {listener}: this is {node}"
            )));
        }
        let wanted = (self.config.admit)(dialer, volume).map_err(AuthError::NotAdmitted)?;
        if wanted.transport == transport {
            return Ok(wanted.peer_timeout);
        }
        match (terms, wanted.transport) {
            (Terms::Before, _) if self.config.accept_before => Ok(wanted.peer_timeout),
            (Terms::Before, _) => Err(AuthError::Before(format!(
                "{dialer} runs a release before TLS, and {volume} wants it on {node}: upgrade {dialer}, or start the \
                 replicator of {node} with --accept-before until that is done"
            ))),
            (Terms::Now { .. }, wanted) => Err(AuthError::Transport(format!(
                "{volume} has 'transport: {}' on {node} and 'transport: {}' on {dialer}: give both the same specification",
                wanted.word(),
                transport.word()
            ))),
        }
    }

    /// Starts the session, or keeps the connection until its other half is there.
    fn seat(&self, stream: TcpStream, guest: Guest) -> io::Result<()> {
        prepare(&stream, guest.peer_timeout)?;
        let wire = Arc::new(Wire::new(stream, guest.tls));
        let (parties, timeout) = (guest.parties, guest.peer_timeout);
        let (token, channel) = match guest.terms {
            Terms::Before => return self.start(Lines::One(wire), parties, timeout),
            Terms::Now { token, channel, .. } => (token, channel),
        };
        let other = {
            let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            halves.retain(|half| half.until > now);
            let found =
                halves.iter().position(|h| h.token == token && h.parties == parties && h.channel != channel);
            match found {
                Some(found) => halves.swap_remove(found),
                None if halves.len() >= MAX_HANDSHAKES => {
                    return Err(io::Error::other("too many half sessions"));
                }
                None => {
                    halves.push(Half { parties, token, channel, wire, until: now + HANDSHAKE_TIMEOUT });
                    return Ok(());
                }
            }
        };
        let (bulk, acks) = match channel {
            Channel::Bulk => (wire, other.wire),
            Channel::Acks => (other.wire, wire),
        };
        self.start(Lines::Two { bulk, acks }, parties, timeout)
    }

    fn start(&self, lines: Lines, parties: Parties, timeout: Duration) -> io::Result<()> {
        let sink = self.sink.clone();
        Session::start(lines, Side::Listener, parties.dialer, parties.volume, timeout, sink).map(drop)
    }
}

/// Tells the dialer why, if it may know.
fn told(stream: &mut impl Write, error: AuthError) -> AuthError {
    if let Some(why) = error.to_peer() {
        auth::refuse(stream, &why);
    }
    error
}
