//! Dialers: each keeps one session to a peer for one volume, by whichever of its addresses works.
//!
//! Addresses are in order of preference. One round tries each of them once, without a pause between; rounds are
//! 100 ms to 1 s apart. A session that died of silence or of its connection is dialed again at the next address first.
//! While another than the first is in use, the first is looked at every few seconds, and taken again when it has
//! answered for a while.
//!
//! Invariants: a dialer has one session at a time, and both of its connections go to one address. Dropping it ends its
//! thread soon, and its session at once.

use super::auth::{self, Binding, Channel, Parties, Terms, Token};
use super::credentials::{Credentials, subject_of};
use super::early::{HANDSHAKE_TIMEOUT, Hurried, Secured, close_gently, prepare};
use super::failure::{AuthError, HandshakeLog};
use super::session::{Lines, Side};
use super::wire::Wire;
use super::{CloseReason, EventSink, Secret, Session, TransportEvent};
use crate::tls::KIND_NODE;
use crate::types::{NodeName, Transport, VolumeName};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// First and longest pause between two rounds: a peer that comes back is noticed within a second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// For a TCP connection where there are other addresses to try: a link that needs longer is no use for replication.
const HOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the first address is looked at while another one is in use, and how often in a row it must answer.
const LOOK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(5) };
const GOOD_LOOKS: u32 = 3;

/// What a dialer needs.
#[derive(Clone)]
pub struct DialerConfig {
    /// The peer's replicator, by each of its links; at least one, in order of preference.
    pub addresses: Vec<SocketAddr>,
    /// TLS or plain.
    pub transport: Transport,
    /// The cluster secret.
    pub secret: Secret,
    /// This node's certificate.
    pub credentials: Credentials,
    /// This node.
    pub node: NodeName,
    /// The peer.
    pub peer: NodeName,
    /// The volume.
    pub volume: VolumeName,
    /// A session in which nothing was received for this long is closed.
    pub peer_timeout: Duration,
    /// Counts.
    pub log: Arc<HandshakeLog>,
}

/// Keeps one session to a peer for one volume: dials, waits until the session ends, dials again (after 100 ms,
/// growing to 1 s while it fails). Dropping it stops dialing and closes its session.
pub struct Dialer {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    stopped: bool,
    session: Option<Session>,
    ended: Option<CloseReason>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

impl Dialer {
    /// Starts dialing. Events go to `sink`.
    #[must_use]
    pub fn start(config: DialerConfig, sink: EventSink) -> Self {
        let state = Arc::new(State::default());
        let theirs = state.clone();
        thread::Builder::new()
            .name("peer-dialer".into())
            .spawn(move || dial_loop(&config, &theirs, &sink))
            .expect("a process that cannot start a thread cannot replicate");
        Self { state }
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.stopped = true;
        if let Some(session) = inner.session.take() {
            session.close("the peer is not wanted any more");
        }
        self.state.wake.notify_all();
    }
}

fn dial_loop(config: &DialerConfig, state: &Arc<State>, sink: &EventSink) {
    let mut pause = BACKOFF.0;
    let mut first = 0;
    loop {
        match round(config, first, state, sink) {
            Ok(used) => {
                pause = BACKOFF.0;
                let Some(reason) = outlive(config, used, state) else { return };
                // By the same link if the peer or we wanted it to end, by the next one if the link may be why.
                let link = matches!(reason, CloseReason::PeerTimeout(_) | CloseReason::Io(_));
                let back = matches!(&reason, CloseReason::Local(why) if why == BETTER);
                first = match (back, link) {
                    (true, _) => 0,
                    (_, true) => (used + 1) % config.addresses.len(),
                    (_, false) => used,
                };
            }
            Err(_) if state.lock().stopped => return,
            // Every time: it is not heeded while the end of this dialer's predecessor's session has not been noticed.
            Err(reason) => {
                let (peer, volume) = (config.peer.clone(), config.volume.clone());
                sink(TransportEvent::DialFailed { peer, volume, reason });
            }
        }
        let wait = state.wake.wait_timeout_while(state.lock(), pause, |i| !i.stopped);
        if wait.expect("no panic under this lock").0.stopped {
            return;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Tries every address once. Gives the one that is in use, or what was wrong with each.
fn round(config: &DialerConfig, first: usize, state: &Arc<State>, sink: &EventSink) -> Result<usize, String> {
    let count = config.addresses.len();
    let mut failures = Vec::new();
    for at in (0..count).map(|i| (first + i) % count) {
        if state.lock().stopped {
            return Err("the peer is not wanted any more".into());
        }
        match dial(config, config.addresses[at], state, sink) {
            Ok(()) => return Ok(at),
            Err(error) => {
                config.log.failed(&format!("to {} at {}", config.peer, config.addresses[at].ip()), &error);
                failures.push((at, error.to_string()));
            }
        }
    }
    failures.sort();
    Err(match &failures[..] {
        [(_, only)] => only.clone(),
        all => {
            let each: Vec<String> =
                all.iter().map(|(at, why)| format!("{}: {why}", config.addresses[*at].ip())).collect();
            each.join("; ")
        }
    })
}

/// Why a session is given up for the first address.
const BETTER: &str = "the preferred link answers again";

/// Waits until the session has ended; none: dialing is over. Looks at the first address while another is in use.
fn outlive(config: &DialerConfig, used: usize, state: &State) -> Option<CloseReason> {
    let mut good = 0;
    loop {
        let wait = state.wake.wait_timeout_while(state.lock(), LOOK, |i| i.ended.is_none() && !i.stopped);
        let mut inner = wait.expect("no panic under this lock").0;
        if inner.stopped {
            return None;
        }
        if let Some(reason) = inner.ended.take() {
            inner.session = None;
            return Some(reason);
        }
        drop(inner);
        if used == 0 {
            continue;
        }
        good =
            if TcpStream::connect_timeout(&config.addresses[0], HOP_TIMEOUT).is_ok() { good + 1 } else { 0 };
        if good >= GOOD_LOOKS
            && let Some(session) = &state.lock().session
        {
            session.close(BETTER);
        }
    }
}

fn dial(
    config: &DialerConfig,
    address: SocketAddr,
    state: &Arc<State>,
    sink: &EventSink,
) -> Result<(), AuthError> {
    let token = auth::token();
    let lines = match connect(config, address, Channel::Bulk, token) {
        Ok(bulk) => Lines::Two {
            bulk: Arc::new(bulk),
            acks: Arc::new(connect(config, address, Channel::Acks, token)?),
        },
        Err(AuthError::Older) if config.transport == Transport::Plain => {
            Lines::One(Arc::new(connect_before(config, address)?))
        }
        Err(error) => return Err(error),
    };
    // The session reports its end to us as well. Holding the lock makes sure that it is known by then.
    let mut inner = state.lock();
    if inner.stopped {
        return Ok(());
    }
    inner.ended = None;
    let (owner, watched) = (sink.clone(), state.clone());
    let both: EventSink = Arc::new(move |event| {
        let closed = match &event {
            TransportEvent::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        owner(event);
        if closed.is_some() {
            watched.lock().ended = closed;
            watched.wake.notify_all();
        }
    });
    let (peer, volume) = (config.peer.clone(), config.volume.clone());
    let session = Session::start(lines, Side::Dialer, peer, volume, config.peer_timeout, both)?;
    inner.session = Some(session);
    Ok(())
}

fn reach(config: &DialerConfig, address: SocketAddr) -> Result<TcpStream, AuthError> {
    let limit = if config.addresses.len() > 1 { HOP_TIMEOUT } else { HANDSHAKE_TIMEOUT };
    let stream = TcpStream::connect_timeout(&address, limit).map_err(AuthError::Connect)?;
    prepare(&stream, HANDSHAKE_TIMEOUT)?;
    Ok(stream)
}

/// One authenticated connection.
fn connect(
    config: &DialerConfig,
    address: SocketAddr,
    channel: Channel,
    token: Token,
) -> Result<Wire, AuthError> {
    let identity = match config.transport {
        Transport::Plain => None,
        Transport::Tls => Some(config.credentials.current().map_err(|e| {
            AuthError::Certificate(format!("{} has no certificate for replication: {e}", config.node))
        })?),
    };
    let stream = reach(config, address)?;
    let mut early = Hurried::new(&stream);
    let nonce = auth::challenged(&mut early)?;
    auth::open(&mut early, config.transport)?;
    let parties = config.parties();
    let terms = |binding| Terms::Now { channel, token, binding };
    let tls = match identity {
        None => {
            auth::dial(&mut early, &config.secret, &nonce, &parties, &terms(Binding::default()))?;
            None
        }
        Some(identity) => {
            // The name that every certificate of a node is valid for.
            let name = ServerName::try_from(config.peer.as_str().to_owned()).map_err(|_| {
                AuthError::WrongNode(format!("no certificate can have the name {}", config.peer))
            })?;
            let connection = ClientConnection::new(identity.client, name)
                .map_err(|e| AuthError::Certificate(format!("TLS failed: {e}")))?;
            let mut tls = Connection::from(connection);
            let mut secured = Secured::new(&mut tls, &mut early)?;
            let shown = secured.connection().peer_certificates().and_then(subject_of);
            let right = |s: &crate::tls::Subject| {
                s.kind == KIND_NODE && s.cluster == identity.cluster && s.name == config.peer.as_str()
            };
            if !shown.as_ref().is_some_and(right) {
                let shown =
                    shown.map_or_else(|| "nobody's".to_owned(), |s| format!("{}'s ({})", s.name, s.kind));
                close_gently(&stream);
                return Err(AuthError::WrongNode(format!(
                    "the certificate at this address is {shown}, not {}'s",
                    config.peer
                )));
            }
            let binding = secured.binding()?;
            auth::dial(&mut secured, &config.secret, &nonce, &parties, &terms(binding))?;
            Some(tls)
        }
    };
    config.log.completed();
    prepare(&stream, config.peer_timeout)?;
    Ok(Wire::new(stream, tls))
}

/// As the release before does it.
fn connect_before(config: &DialerConfig, address: SocketAddr) -> Result<Wire, AuthError> {
    let stream = reach(config, address)?;
    let mut early = Hurried::new(&stream);
    let nonce = auth::challenged(&mut early)?;
    auth::dial(&mut early, &config.secret, &nonce, &config.parties(), &Terms::Before)?;
    config.log.completed();
    prepare(&stream, config.peer_timeout)?;
    Ok(Wire::new(stream, None))
}

impl DialerConfig {
    fn parties(&self) -> Parties {
        Parties { dialer: self.node.clone(), listener: self.peer.clone(), volume: self.volume.clone() }
    }
}
