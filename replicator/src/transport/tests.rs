//! Two ends on the loopback interface.

use super::frame::{KIND_CHALLENGE, KIND_REFUSED, read_frame};
use super::*;
use crate::store::AlignedBuf;
use bytes::Bytes;
use std::io::{Read, Write};
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

fn listen(secret_byte: u8, peer_timeout: Duration) -> (Listener, Receiver<TransportEvent>) {
    let admit: Admit =
        Arc::new(
            move |_, volume| {
                if *volume == web() { Ok(peer_timeout) } else { Err(format!("no volume {volume} here")) }
            },
        );
    let config = ListenerConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        secret: secret(secret_byte),
        node: node("beta"),
        admit,
    };
    let (sink, events) = sink();
    (Listener::bind(config, sink).unwrap(), events)
}

fn dialer_config(address: SocketAddr) -> DialerConfig {
    DialerConfig {
        address,
        secret: secret(1),
        node: node("alpha"),
        peer: node("beta"),
        volume: web(),
        peer_timeout: PATIENT,
    }
}

fn dial(config: DialerConfig) -> (Dialer, Receiver<TransportEvent>) {
    let (sink, events) = sink();
    (Dialer::start(config, sink), events)
}

fn opened(events: &Receiver<TransportEvent>) -> Session {
    match events.recv_timeout(WAIT).unwrap() {
        TransportEvent::Opened(session) => session,
        other => panic!("expected Opened, got {other:?}"),
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

fn failed(events: &Receiver<TransportEvent>) -> String {
    match events.recv_timeout(WAIT).unwrap() {
        TransportEvent::DialFailed { reason, .. } => reason,
        other => panic!("expected DialFailed, got {other:?}"),
    }
}

#[test]
fn frames_of_all_sizes_arrive_in_order_both_ways() {
    let (listener, at_beta) = listen(1, PATIENT);
    let (_dialer, at_alpha) = dial(dialer_config(listener.local_address()));
    let (alpha, beta) = (opened(&at_alpha), opened(&at_beta));
    assert_eq!((alpha.peer(), alpha.volume()), (&node("beta"), &web()));
    assert_eq!((beta.peer(), beta.volume()), (&node("alpha"), &web()));
    let sizes = [0, 1, 4096, 100, 512 << 10, 4096, MAX_BODY, 70_000, 4096];
    for (from, to) in [(&alpha, &at_beta), (&beta, &at_alpha)] {
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
        assert_eq!(from.queued_bytes(), 0);
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
    assert_eq!(closed(&at_alpha), CloseReason::Local("enough".into()));
    assert_eq!(closed(&at_beta), CloseReason::Peer);
}

#[test]
fn an_idle_session_lives_on_pings_and_a_lost_one_is_dialed_again() {
    let timeout = Duration::from_millis(300);
    let (listener, at_beta) = listen(1, timeout);
    let (dialer, at_alpha) =
        dial(DialerConfig { peer_timeout: timeout, ..dialer_config(listener.local_address()) });
    let first = opened(&at_alpha);
    let at_listener = opened(&at_beta);
    assert!(at_alpha.recv_timeout(4 * timeout).is_err(), "nothing but pings for four timeouts");
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

#[test]
fn another_secret_is_named_as_the_cause_on_both_sides() {
    let (listener, at_beta) = listen(2, PATIENT);
    let (_dialer, at_alpha) = dial(dialer_config(listener.local_address()));
    assert!(failed(&at_alpha).contains("different cluster secrets"));
    assert!(at_beta.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(at_alpha.try_recv().is_err(), "the same reason is told once");

    let parties = auth::Parties { dialer: node("alpha"), listener: node("beta"), volume: web() };
    let (mut a, mut b) = socket_pair();
    let listening =
        std::thread::spawn(move || auth::listen(&mut b, &secret(2), &node("beta"), |_, _| Ok(PATIENT)));
    assert!(matches!(auth::dial(&mut a, &secret(1), &parties), Err(auth::AuthError::WrongSecret)));
    assert!(matches!(listening.join().unwrap(), Err(auth::AuthError::WrongSecret)));
}

#[test]
fn a_listener_without_the_secret_cannot_pose_as_the_peer() {
    // It says WELCOME to everything, with a proof that it copied from the dialer.
    let fake = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_dialer, at_alpha) = dial(dialer_config(fake.local_addr().unwrap()));
    let (mut stream, _) = fake.accept().unwrap();
    let send = |stream: &mut TcpStream, kind, head: &[u8]| {
        let frame = RawFrame::new(kind, head.to_vec());
        stream.write_all(&[&frame.header()[..], head].concat()).unwrap();
    };
    send(&mut stream, KIND_CHALLENGE, &[9; 32]);
    let hello = read_frame(&mut stream, 1024, 0).unwrap();
    send(&mut stream, frame::KIND_WELCOME, &hello.head[hello.head.len() - 32..]);
    assert!(failed(&at_alpha).contains("different cluster secrets"));
}

#[test]
fn refusals_say_why() {
    let (listener, at_beta) = listen(1, PATIENT);
    let address = listener.local_address();
    let (_a, events) = dial(DialerConfig { peer: node("gamma"), ..dialer_config(address) });
    assert!(failed(&events).contains("this is beta"));
    let volume = VolumeName::new("mail").unwrap();
    let (_b, events) = dial(DialerConfig { volume, ..dialer_config(address) });
    assert_eq!(failed(&events), "refused by the peer: no volume mail here");
    drop(listener);
    let (_c, events) = dial(dialer_config(address));
    assert!(failed(&events).contains("refused"), "nobody listens any more");
    assert!(at_beta.try_recv().is_err());
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

#[test]
fn strangers_are_cut_off_and_do_not_disturb() {
    let (listener, at_beta) = listen(1, PATIENT);
    let address = listener.local_address();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"[..],
        &[0xff; 4096],
        b"BtnR\x01\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        assert_eq!(read_frame(&mut stream, 1024, 0).unwrap().kind, KIND_CHALLENGE);
        stream.write_all(garbage).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest); // reset or closed, with or without a refusal
        assert!(rest.len() < 1100);
    }
    // A stranger that says nothing is cut off too.
    let silent = TcpStream::connect(address).unwrap();
    let began = Instant::now();
    silent.set_read_timeout(Some(WAIT)).unwrap();
    let mut bytes = Vec::new();
    (&silent).read_to_end(&mut bytes).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    let (_dialer, at_alpha) = dial(dialer_config(address));
    opened(&at_alpha);
    opened(&at_beta);
}

#[test]
fn too_many_strangers_are_turned_away_with_a_reason() {
    let (listener, _at_beta) = listen(1, PATIENT);
    let mut strangers: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(listener.local_address()).unwrap()).collect();
    let kinds: Vec<u16> = strangers
        .iter_mut()
        .map(|s| {
            s.set_read_timeout(Some(WAIT)).unwrap();
            read_frame(s, 1024, 0).unwrap().kind
        })
        .collect();
    assert!(kinds[39] == KIND_REFUSED && kinds[0] == KIND_CHALLENGE, "{kinds:?}");
}

/// An authenticated session whose far end is a bare socket.
fn half_open(peer_timeout: Duration) -> (Session, Receiver<TransportEvent>, TcpStream) {
    let (ours, theirs) = socket_pair();
    let (sink, events) = sink();
    let session = Session::start(ours, node("beta"), web(), peer_timeout, sink).unwrap();
    opened(&events);
    (session, events, theirs)
}

#[test]
fn a_peer_that_is_silent_or_talks_nonsense_is_left() {
    let timeout = Duration::from_millis(400);
    let (_session, events, far) = half_open(timeout);
    let began = Instant::now();
    assert_eq!(closed(&events), CloseReason::PeerTimeout(timeout));
    assert!(began.elapsed() >= timeout && began.elapsed() < 3 * timeout, "{:?}", began.elapsed());
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
    let (listener, at_beta) = listen(1, PATIENT);
    let (_dialer, at_alpha) = dial(dialer_config(listener.local_address()));
    let (alpha, beta) = (opened(&at_alpha), opened(&at_beta));
    let body = Bytes::from(vec![3; 4096]);
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let began = Instant::now();
            alpha.send(RawFrame { kind: 1, head: Bytes::from_static(b"w"), body: body.clone() }).unwrap();
            frame(&at_beta);
            beta.send(RawFrame::new(2, "ok")).unwrap();
            frame(&at_alpha);
            began.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("4 KiB round trip: median {:?}, 99 % {:?}", times[250], times[495]);
    // Generous, as the machine is shared; a timer anywhere on the way would cost milliseconds (40 for Nagle).
    assert!(times[250] < Duration::from_millis(5), "{:?}", times[250]);
}
