//! Getting sessions: the listener and the dialers.
//!
//! Invariants: a connection that has not proved itself lives a few seconds at most, and there are few of them;
//! a dialer has one connection at a time. Dropping a listener or a dialer ends its thread soon, and a dialer's
//! session at once.

use super::auth::{self, AuthError, Parties};
use super::{EventSink, Secret, Session, TransportEvent};
use crate::types::{NodeName, VolumeName};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for a TCP connection to come about, and for each message of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections in the handshake at a time: more than all volumes of all peers need, too few to hurt.
const MAX_HANDSHAKES: usize = 32;
/// First and longest pause between two attempts: a peer that comes back is noticed within a second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

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
        thread::Builder::new()
            .name("peer-listener".into())
            .spawn(move || accept_loop(&listening, &stopping, &config, &sink))?;
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

fn accept_loop(socket: &TcpListener, stop: &AtomicBool, config: &ListenerConfig, sink: &EventSink) {
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
                thread::sleep(BACKOFF.0);
                continue;
            }
        };
        if handshakes.load(Ordering::SeqCst) >= MAX_HANDSHAKES {
            let _ = stream.set_nonblocking(true);
            auth::refuse(&mut stream, "too many connections are in their handshake");
            continue;
        }
        handshakes.fetch_add(1, Ordering::SeqCst);
        let (config, sink, count) = (config.clone(), sink.clone(), handshakes.clone());
        let spawned = thread::Builder::new().name("peer-handshake".into()).spawn(move || {
            if let Err(error) = welcome(stream, &config, &sink) {
                tracing::warn!(%from, %error, "replication connection refused");
            }
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for a replication connection");
            handshakes.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn welcome(mut stream: TcpStream, config: &ListenerConfig, sink: &EventSink) -> Result<(), AuthError> {
    prepare(&stream, HANDSHAKE_TIMEOUT)?;
    let (parties, peer_timeout) =
        auth::listen(&mut Hurried::new(&mut stream), &config.secret, &config.node, |n, v| {
            (config.admit)(n, v)
        })?;
    prepare(&stream, peer_timeout)?;
    Session::start(stream, parties.dialer, parties.volume, peer_timeout, sink.clone())?;
    Ok(())
}

/// Small frames must not wait for more (NODELAY), and a peer that vanished must not be waited for by TCP for
/// longer than by us (USER_TIMEOUT).
fn prepare(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(timeout))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(1)))
}

/// A stream in its handshake: the whole of it, not each read, has a deadline.
struct Hurried<'a> {
    stream: &'a mut TcpStream,
    deadline: Instant,
}

impl<'a> Hurried<'a> {
    fn new(stream: &'a mut TcpStream) -> Self {
        Self { stream, deadline: Instant::now() + HANDSHAKE_TIMEOUT }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"))
        } else {
            Ok(left)
        }
    }
}

impl io::Read for Hurried<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buf)
    }
}

impl io::Write for Hurried<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
pub struct Dialer {
    state: Arc<DialerState>,
}

#[derive(Default)]
struct DialerState {
    inner: Mutex<DialerInner>,
    wake: Condvar,
}

#[derive(Default)]
struct DialerInner {
    stopped: bool,
    session: Option<Session>,
    ended: bool,
}

impl Dialer {
    /// Starts dialing. Events go to `sink`.
    #[must_use]
    pub fn start(config: DialerConfig, sink: EventSink) -> Self {
        let state = Arc::new(DialerState::default());
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
        let mut inner = self.state.inner.lock().expect("no panic under this lock");
        inner.stopped = true;
        if let Some(session) = inner.session.take() {
            session.close("the peer is not wanted any more");
        }
        self.state.wake.notify_all();
    }
}

fn dial_loop(config: &DialerConfig, state: &Arc<DialerState>, sink: &EventSink) {
    let mut pause = BACKOFF.0;
    let mut told: Option<String> = None;
    loop {
        match dial(config, state, sink) {
            Ok(()) => {
                told = None;
                pause = BACKOFF.0;
                // Until the session has ended.
                let mut inner = state.inner.lock().expect("no panic under this lock");
                while !inner.ended && !inner.stopped {
                    inner = state.wake.wait(inner).expect("no panic under this lock");
                }
                inner.ended = false;
                inner.session = None;
            }
            Err(error) => {
                let reason = error.to_string();
                if told.as_ref() != Some(&reason) {
                    let (peer, volume) = (config.peer.clone(), config.volume.clone());
                    sink(TransportEvent::DialFailed { peer, volume, reason: reason.clone() });
                    told = Some(reason);
                }
            }
        }
        let inner = state.inner.lock().expect("no panic under this lock");
        let wait = state.wake.wait_timeout_while(inner, pause, |i| !i.stopped);
        if wait.expect("no panic under this lock").0.stopped {
            return;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

fn dial(config: &DialerConfig, state: &Arc<DialerState>, sink: &EventSink) -> Result<(), AuthError> {
    let mut stream = TcpStream::connect_timeout(&config.address, HANDSHAKE_TIMEOUT)?;
    prepare(&stream, HANDSHAKE_TIMEOUT)?;
    let parties =
        Parties { dialer: config.node.clone(), listener: config.peer.clone(), volume: config.volume.clone() };
    auth::dial(&mut Hurried::new(&mut stream), &config.secret, &parties)?;
    prepare(&stream, config.peer_timeout)?;
    // The session reports its end to us as well. Holding the lock makes sure that it is known by then.
    let mut inner = state.inner.lock().expect("no panic under this lock");
    if inner.stopped {
        return Ok(());
    }
    let (owner, watched) = (sink.clone(), state.clone());
    let both: EventSink = Arc::new(move |event| {
        let closed = matches!(event, TransportEvent::Closed { .. });
        owner(event);
        if closed {
            watched.inner.lock().expect("no panic under this lock").ended = true;
            watched.wake.notify_all();
        }
    });
    let (peer, volume) = (config.peer.clone(), config.volume.clone());
    inner.session = Some(Session::start(stream, peer, volume, config.peer_timeout, both)?);
    Ok(())
}
