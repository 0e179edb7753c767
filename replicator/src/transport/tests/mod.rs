//! Two ends on the loopback interface.

mod before;
mod links;
mod pki;
mod proofs;
mod tls;

use super::session::{Lines, Side};
use super::wire::Wire;
use super::*;
use crate::store::AlignedBuf;
use crate::tls::TlsFiles;
use crate::types::Transport;
use bytes::Bytes;
use pki::Pki;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);
const PATIENT: Duration = Duration::from_secs(5);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn web() -> VolumeName {
    VolumeName::new("web").unwrap()
}

fn secret(byte: u8) -> Secret {
    Secret::new([byte; 32]).unwrap()
}

fn sink() -> (EventSink, Receiver<TransportEvent>) {
    let (tx, rx) = channel();
    (Arc::new(move |e| drop(tx.send(e))), rx)
}

/// Two nodes, alpha that dials and beta that listens, and their authority.
struct Rig {
    dir: tempfile::TempDir,
    pki: Pki,
    transport: Transport,
    at_alpha: Arc<HandshakeLog>,
    at_beta: Arc<HandshakeLog>,
}

impl Rig {
    fn new(transport: Transport) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        pki.node("alpha");
        pki.node("beta");
        Self { dir, pki, transport, at_alpha: Arc::default(), at_beta: Arc::default() }
    }

    fn credentials(&self, name: &str) -> Credentials {
        Credentials::new(node(name), TlsFiles::of_node(self.dir.path(), name))
    }

    fn listener_config(&self) -> ListenerConfig {
        ListenerConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            secret: secret(1),
            credentials: self.credentials("beta"),
            node: node("beta"),
            admit: admit(self.transport, PATIENT),
            accept_before: false,
            log: self.at_beta.clone(),
        }
    }

    fn listen(&self) -> (Listener, Receiver<TransportEvent>) {
        listen(self.listener_config())
    }

    fn dialer_config(&self, address: SocketAddr) -> DialerConfig {
        DialerConfig {
            addresses: vec![address],
            transport: self.transport,
            secret: secret(1),
            credentials: self.credentials("alpha"),
            node: node("alpha"),
            peer: node("beta"),
            volume: web(),
            peer_timeout: PATIENT,
            log: self.at_alpha.clone(),
        }
    }

    /// A session, with both of its ends and their events.
    fn session(&self) -> Pair {
        let (listener, at_beta) = self.listen();
        let (dialer, at_alpha) = dial(self.dialer_config(listener.local_address()));
        let (alpha, beta) = (opened(&at_alpha), opened(&at_beta));
        Pair { _listener: listener, _dialer: dialer, alpha, beta, at_alpha, at_beta }
    }
}

struct Pair {
    _listener: Listener,
    _dialer: Dialer,
    alpha: Session,
    beta: Session,
    at_alpha: Receiver<TransportEvent>,
    at_beta: Receiver<TransportEvent>,
}

fn admit(transport: Transport, peer_timeout: Duration) -> Admit {
    Arc::new(move |_, volume| {
        if *volume == web() {
            Ok(Admission { peer_timeout, transport })
        } else {
            Err(format!("no volume {volume} here"))
        }
    })
}

fn listen(config: ListenerConfig) -> (Listener, Receiver<TransportEvent>) {
    let (sink, events) = sink();
    (Listener::bind(config, sink).unwrap(), events)
}

fn dial(config: DialerConfig) -> (Dialer, Receiver<TransportEvent>) {
    let (sink, events) = sink();
    (Dialer::start(config, sink), events)
}

/// The session that comes about, after however many attempts that failed.
fn opened(events: &Receiver<TransportEvent>) -> Session {
    loop {
        match events.recv_timeout(WAIT).unwrap() {
            TransportEvent::Opened(session) => return session,
            TransportEvent::DialFailed { .. } => {}
            other => panic!("expected Opened, got {other:?}"),
        }
    }
}

fn frame(events: &Receiver<TransportEvent>) -> RawFrame {
    match events.recv_timeout(WAIT).unwrap() {
        TransportEvent::Frame { frame, .. } => frame,
        other => panic!("expected a frame, got {other:?}"),
    }
}

fn closed(events: &Receiver<TransportEvent>) -> CloseReason {
    loop {
        if let TransportEvent::Closed { reason, .. } = events.recv_timeout(WAIT).unwrap() {
            return reason;
        }
    }
}

/// Why dialing failed; that a machine which stood still did not answer in time says nothing.
fn failed(events: &Receiver<TransportEvent>) -> String {
    loop {
        match events.recv_timeout(WAIT).unwrap() {
            TransportEvent::DialFailed { reason, .. } if reason.contains("no answer in time") => {}
            TransportEvent::DialFailed { reason, .. } => return reason,
            other => panic!("expected DialFailed, got {other:?}"),
        }
    }
}

#[test]
fn frames_of_all_sizes_arrive_in_order_both_ways_in_plain() {
    frames_of_all_sizes_arrive_in_order(Transport::Plain);
}

#[test]
fn frames_of_all_sizes_arrive_in_order_both_ways_in_tls() {
    frames_of_all_sizes_arrive_in_order(Transport::Tls);
}

fn frames_of_all_sizes_arrive_in_order(transport: Transport) {
    let rig = Rig::new(transport);
    let pair = rig.session();
    let Pair { alpha, beta, at_alpha, at_beta, .. } = &pair;
    assert_eq!((alpha.peer(), alpha.volume()), (&node("beta"), &web()));
    assert_eq!((beta.peer(), beta.volume()), (&node("alpha"), &web()));
    let sizes = [0, 1, 4096, 100, 512 << 10, 4096, MAX_BODY, 70_000, 4096];
    for (from, to) in [(alpha, at_beta), (beta, at_alpha)] {
        for (i, size) in sizes.into_iter().cycle().take(60).enumerate() {
            let body = Bytes::from(vec![i as u8; size]);
            let head = Bytes::from(vec![i as u8; size.min(MAX_HEAD)]);
            from.send(RawFrame { kind: i as u16, head, body }).unwrap();
            if i % 10 == 9 {
                for j in i - 9..=i {
                    let got = frame(to);
                    let size = sizes[j % sizes.len()];
                    assert_eq!((usize::from(got.kind), got.body.len()), (j, size));
                    assert_eq!(got.head.len(), size.min(MAX_HEAD));
                    assert!(got.body.iter().all(|b| *b == j as u8));
                    assert!(AlignedBuf::is_aligned(&got.body) || size == 0, "bodies suit O_DIRECT");
                }
            }
        }
        // The last frame may be here before its sender has counted it out.
        let end = Instant::now() + WAIT;
        while from.queued_bytes() != 0 {
            assert!(Instant::now() < end, "{} bytes are queued", from.queued_bytes());
            std::thread::yield_now();
        }
    }
    assert_eq!(
        alpha.send(RawFrame { kind: 1, head: Bytes::new(), body: Bytes::from(vec![0; MAX_BODY + 1]) }),
        Err(SendError::Frame(FrameError::TooLong { what: "body", len: MAX_BODY + 1, max: MAX_BODY }))
    );
    assert_eq!(
        alpha.send(RawFrame::new(RESERVED_KINDS, "")),
        Err(SendError::Frame(FrameError::Kind(RESERVED_KINDS)))
    );
    alpha.close("enough");
    assert_eq!(alpha.send(RawFrame::new(1, "")), Err(SendError::Closed));
    assert_eq!(closed(at_alpha), CloseReason::Local("enough".into()));
    assert_eq!(closed(at_beta), CloseReason::Peer);
}

#[test]
fn an_idle_session_lives_on_pings_and_a_lost_one_is_dialed_again() {
    let timeout = Duration::from_secs(2);
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) =
        listen(ListenerConfig { admit: admit(Transport::Tls, timeout), ..rig.listener_config() });
    let (dialer, at_alpha) =
        dial(DialerConfig { peer_timeout: timeout, ..rig.dialer_config(listener.local_address()) });
    let first = opened(&at_alpha);
    let at_listener = opened(&at_beta);
    assert!(at_alpha.recv_timeout(2 * timeout).is_err(), "nothing but pings for two timeouts");
    assert!(!first.is_closed());
    at_listener.close("test");
    assert_eq!(closed(&at_alpha), CloseReason::Peer);
    let second = opened(&at_alpha);
    assert!(second.id() > first.id());
    closed(&at_beta);
    opened(&at_beta);
    drop(dialer);
    assert!(matches!(closed(&at_alpha), CloseReason::Local(_)));
    assert_eq!(closed(&at_beta), CloseReason::Peer);
    assert!(at_alpha.recv_timeout(2 * Duration::from_secs(1)).is_err(), "a dropped dialer dials no more");
}

fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let b = listener.accept().unwrap().0;
    for s in [&a, &b] {
        s.set_read_timeout(Some(WAIT)).unwrap();
    }
    (a, b)
}

/// An authenticated session whose far end is a bare socket.
fn half_open(peer_timeout: Duration) -> (Session, Receiver<TransportEvent>, TcpStream) {
    let (ours, theirs) = socket_pair();
    let (sink, events) = sink();
    let lines = Lines::One(Arc::new(Wire::new(ours, None)));
    let session = Session::start(lines, Side::Dialer, node("beta"), web(), peer_timeout, sink).unwrap();
    opened(&events);
    (session, events, theirs)
}

#[test]
fn a_peer_that_is_silent_or_talks_nonsense_is_left() {
    let timeout = Duration::from_millis(400);
    // Its clock runs from the handshake on.
    let began = Instant::now();
    let (_session, events, far) = half_open(timeout);
    assert_eq!(closed(&events), CloseReason::PeerTimeout(timeout));
    assert!(began.elapsed() >= timeout && began.elapsed() < PATIENT, "{:?}", began.elapsed());
    drop(far);

    let (_session, events, mut far) = half_open(PATIENT);
    let frame = RawFrame { kind: 1, head: Bytes::from_static(b"h"), body: Bytes::from(vec![1; 4096]) };
    let mut bytes = [&frame.header()[..], &frame.head, &frame.body].concat();
    *bytes.last_mut().unwrap() ^= 1;
    far.write_all(&bytes).unwrap();
    assert_eq!(closed(&events), CloseReason::BadFrame(FrameError::Checksum("body")));

    let (_session, events, mut far) = half_open(PATIENT);
    bytes[12..16].copy_from_slice(&(MAX_BODY as u32 + 1).to_le_bytes());
    far.write_all(&bytes).unwrap();
    assert!(matches!(closed(&events), CloseReason::BadFrame(FrameError::TooLong { .. })));
}

#[test]
fn a_peer_that_takes_nothing_overflows_the_queue() {
    let (session, events, _far) = half_open(PATIENT);
    let body = Bytes::from(vec![0; 1 << 20]);
    let began = Instant::now();
    let error = (0..200)
        .find_map(|_| session.send(RawFrame { kind: 1, head: Bytes::new(), body: body.clone() }).err())
        .expect("the queue is bounded");
    assert!(matches!(error, SendError::Overflow { queued } if queued > 64 << 20), "{error}");
    assert!(began.elapsed() < PATIENT, "send never waits for the peer");
    assert!(matches!(closed(&events), CloseReason::Overflow { .. }));
    assert_eq!(session.queued_bytes(), 0);
}

#[test]
fn a_small_write_goes_there_and_back_fast() {
    for transport in [Transport::Plain, Transport::Tls] {
        round_trips(transport);
    }
}

fn round_trips(transport: Transport) {
    let rig = Rig::new(transport);
    let pair = rig.session();
    let Pair { alpha, beta, at_alpha, at_beta, .. } = &pair;
    let body = Bytes::from(vec![3; 4096]);
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let began = Instant::now();
            alpha.send(RawFrame { kind: 1, head: Bytes::from_static(b"w"), body: body.clone() }).unwrap();
            frame(at_beta);
            beta.send(RawFrame::new(2, "ok")).unwrap();
            frame(at_alpha);
            began.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("4 KiB round trip, {}: median {:?}, 99 % {:?}", transport.word(), times[250], times[495]);
    // Generous, as the machine is shared; a timer anywhere on the way would cost milliseconds (40 for Nagle).
    assert!(times[250] < Duration::from_millis(5), "{:?}", times[250]);
}
