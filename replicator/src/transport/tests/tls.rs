//! Certificates: whose they are, whether they are good, renewed while we run.

use super::*;
use crate::api::HandshakeFailure;
use std::io::Read;
use std::path::Path;

/// The other side has counted it, or does so soon: it may learn of a failure later than the one that is refused.
pub(super) fn counted(log: &HandshakeLog, reason: HandshakeFailure) -> bool {
    let end = Instant::now() + WAIT;
    while log.counts().failed[&reason] == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    log.counts().failed[&reason] > 0
}

/// Dials until `events` names a failure, and gives it.
fn refused(rig: &Rig, config: DialerConfig) -> String {
    let (_dialer, events) = dial(config);
    let why = failed(&events);
    eprintln!("{why}; at beta: {:?}", rig.at_beta.counts().last_failure);
    why
}

#[test]
fn a_session_says_how_it_is_protected() {
    let rig = Rig::new(Transport::Tls);
    let pair = rig.session();
    for link in [pair.alpha.link(), pair.beta.link()] {
        assert_eq!((link.transport.as_str(), link.address.as_str()), ("TLS 1.3", "127.0.0.1"));
        assert!(link.cipher.unwrap().starts_with("TLS13_"));
    }
    assert_eq!((rig.at_alpha.counts().completed, rig.at_beta.counts().completed), (2, 2));
    let plain = Rig::new(Transport::Plain).session().alpha.link();
    assert_eq!((plain.transport.as_str(), plain.cipher), ("plain", None));
}

#[test]
fn a_certificate_of_another_node_opens_nothing() {
    // alpha shows gamma's good certificate and says it is alpha.
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
    rig.pki.node("gamma");
    let config =
        DialerConfig { credentials: rig.credentials("gamma"), ..rig.dialer_config(listener.local_address()) };
    let why = refused(&rig, config);
    assert!(why.contains("says it is alpha, its certificate is gamma's"), "{why}");
    assert!(counted(&rig.at_beta, HandshakeFailure::WrongNode));
    assert!(at_beta.try_recv().is_err(), "nothing reached the volume");

    // beta shows gamma's.
    let rig = Rig::new(Transport::Tls);
    rig.pki.node("gamma");
    let (listener, _events) =
        listen(ListenerConfig { credentials: rig.credentials("gamma"), ..rig.listener_config() });
    let why = refused(&rig, rig.dialer_config(listener.local_address()));
    assert!(why.contains("another node's than the one this connection is for"), "{why}");
    assert!(counted(&rig.at_alpha, HandshakeFailure::WrongNode));
}

#[test]
fn certificates_of_strangers_of_viewers_and_of_the_past_are_refused_with_the_reason() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
    let address = listener.local_address();
    let with = |dir: &Path, file: &str| DialerConfig {
        credentials: Credentials::new(node("alpha"), TlsFiles::of_node(dir, file)),
        ..rig.dialer_config(address)
    };
    // Another authority, which trusts ours: a stranger who knows the secret.
    let theirs = rig.dir.path().join("theirs");
    let stranger = Pki::new(&theirs);
    stranger.node("alpha");
    std::fs::copy(rig.dir.path().join("ca.crt"), theirs.join("ca.crt")).unwrap();
    let why = refused(&rig, with(&theirs, "alpha"));
    assert!(why.contains("the peer refuses this node's certificate"), "{why}");
    assert!(counted(&rig.at_beta, HandshakeFailure::Certificate));
    // And one who does not trust ours.
    let why = refused(&rig, {
        Pki::new(&theirs).node("alpha");
        with(&theirs, "alpha")
    });
    assert!(why.contains("not signed by this cluster's authority"), "{why}");
    // A person's certificate is no node's, whatever its name: this node does not even start with it.
    rig.pki.issue("person", "admin", "alpha", (-1, 30));
    let why = refused(&rig, with(rig.dir.path(), "person"));
    assert!(why.contains("not a certificate of the node alpha"), "{why}");
    // Expired.
    rig.pki.issue("old", "node", "alpha", (-30, -1));
    let why = refused(&rig, with(rig.dir.path(), "old"));
    assert!(why.contains("expired") && why.contains("baton cert renew"), "{why}");
    // None.
    let why = refused(&rig, with(rig.dir.path(), "nobody"));
    assert!(why.contains("alpha has no certificate for replication") && why.contains("nobody.crt"), "{why}");
    assert!(at_beta.try_recv().is_err(), "nothing reached the volume");
    let (_dialer, at_alpha) = dial(rig.dialer_config(address));
    opened(&at_alpha);
}

#[test]
fn a_renewed_certificate_is_for_new_connections_and_ends_none() {
    let rig = Rig::new(Transport::Tls);
    rig.pki.issue("beta", "node", "beta", (-30, 1));
    let (listener, at_beta) = rig.listen();
    let credentials = rig.credentials("alpha");
    let config =
        || DialerConfig { credentials: credentials.clone(), ..rig.dialer_config(listener.local_address()) };
    let (_dialer, at_alpha) = dial(config());
    let (alpha, _beta) = (opened(&at_alpha), opened(&at_beta));
    // Both run out, and the session goes on.
    for name in ["alpha", "beta"] {
        rig.pki.issue(name, "node", name, (-30, -1));
    }
    let (_second, at_second) = dial(config());
    assert!(failed(&at_second).contains("expired"));
    alpha.send(RawFrame::new(7, "still")).unwrap();
    assert_eq!(frame(&at_beta).kind, 7);
    // Renewed: the next attempt of the same dialer succeeds; nobody was restarted.
    for name in ["alpha", "beta"] {
        rig.pki.node(name);
    }
    let later = loop {
        match at_second.recv_timeout(WAIT).unwrap() {
            TransportEvent::Opened(session) => break session,
            TransportEvent::DialFailed { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    };
    assert!(later.id() > alpha.id());
    alpha.send(RawFrame::new(8, "and on")).unwrap();
    let seen = loop {
        if let TransportEvent::Frame { frame, .. } = at_beta.recv_timeout(WAIT).unwrap() {
            break frame;
        }
    };
    assert_eq!(seen.kind, 8);
    // Half a pair changes nothing.
    std::fs::write(rig.dir.path().join("alpha.key"), "not a key").unwrap();
    assert!(credentials.current().is_ok());
    assert!(rig.credentials("alpha").current().is_err());
}

#[test]
fn keys_of_a_long_session_are_renewed_on_the_way() {
    let rig = Rig::new(Transport::Tls);
    let pair = rig.session();
    let body = Bytes::from(vec![5; 300_000]);
    for i in 0..20u16 {
        pair.alpha.refresh_keys();
        pair.beta.refresh_keys();
        let size = if i % 2 == 0 { 4096 } else { body.len() };
        pair.alpha.send(RawFrame { kind: i, head: Bytes::new(), body: body.slice(..size) }).unwrap();
        assert_eq!((frame(&pair.at_beta).kind, i), (i, i));
        pair.beta.send(RawFrame::new(i, "ok")).unwrap();
        assert_eq!(frame(&pair.at_alpha).kind, i);
    }
}

#[test]
fn one_side_in_plain_and_the_other_in_tls_is_told_to_both() {
    for (ours, theirs) in [(Transport::Tls, Transport::Plain), (Transport::Plain, Transport::Tls)] {
        let rig = Rig::new(ours);
        let (listener, at_beta) =
            listen(ListenerConfig { admit: admit(theirs, PATIENT), ..rig.listener_config() });
        let why = refused(&rig, rig.dialer_config(listener.local_address()));
        let expected = format!(
            "web has 'transport: {}' on beta and 'transport: {}' on alpha",
            theirs.word(),
            ours.word()
        );
        assert!(why.contains(&expected), "{why}");
        match at_beta.recv_timeout(WAIT).unwrap() {
            TransportEvent::Refused { peer, volume, reason } => {
                assert_eq!((peer, volume), (node("alpha"), web()));
                assert!(reason.contains(&expected), "{reason}");
            }
            other => panic!("expected Refused, got {other:?}"),
        }
        assert!(counted(&rig.at_beta, HandshakeFailure::Transport));
    }
}

/// What goes from one to the other, as somebody on the wire sees it.
#[test]
fn what_is_on_the_wire_is_readable_in_plain_only() {
    for transport in [Transport::Plain, Transport::Tls] {
        let rig = Rig::new(transport);
        let (listener, at_beta) = rig.listen();
        let tap = Tap::start(listener.local_address(), None);
        let (_dialer, at_alpha) = dial(rig.dialer_config(tap.address));
        let alpha = opened(&at_alpha);
        opened(&at_beta);
        let marker = b"a row that nobody else may read";
        let body = Bytes::from(marker.repeat(200));
        alpha.send(RawFrame { kind: 1, head: Bytes::new(), body: body.clone() }).unwrap();
        assert_eq!(frame(&at_beta).body, body);
        let seen = tap.seen();
        assert!(seen.len() > body.len());
        let readable = seen.windows(marker.len()).any(|w| w == marker);
        assert_eq!(readable, transport == Transport::Plain);
    }
}

#[test]
fn a_bit_that_flips_on_the_way_ends_the_session_and_delivers_nothing() {
    for transport in [Transport::Plain, Transport::Tls] {
        let rig = Rig::new(transport);
        let (listener, at_beta) = rig.listen();
        let tap = Tap::start(listener.local_address(), Some(150_000));
        let (_dialer, at_alpha) = dial(rig.dialer_config(tap.address));
        let alpha = opened(&at_alpha);
        opened(&at_beta);
        alpha.send(RawFrame { kind: 1, head: Bytes::new(), body: Bytes::from(vec![7; 400_000]) }).unwrap();
        let reason = closed(&at_beta);
        match transport {
            Transport::Plain => assert_eq!(reason, CloseReason::BadFrame(FrameError::Checksum("body"))),
            Transport::Tls => assert!(reason.to_string().contains("decrypt"), "{reason}"),
        }
    }
}

/// Sits between dialer and listener, keeps what the dialer says, and flips a bit at a place of a connection.
pub(super) struct Tap {
    pub address: SocketAddr,
    seen: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Tap {
    pub fn start(to: SocketAddr, flip_at: Option<usize>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let kept = seen.clone();
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let Ok(near) = stream else { return };
                let Ok(far) = TcpStream::connect(to) else { return };
                let (back_from, back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                std::thread::spawn(move || Self::pump(back_from, back_to, None, None));
                let kept = kept.clone();
                std::thread::spawn(move || Self::pump(near, far, Some(&kept), flip_at));
            }
        });
        Self { address, seen }
    }

    fn pump(
        mut from: TcpStream,
        mut to: TcpStream,
        keep: Option<&std::sync::Mutex<Vec<u8>>>,
        flip_at: Option<usize>,
    ) {
        let (mut buffer, mut at) = (vec![0; 65_536], 0);
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                break;
            }
            if let Some(flip) = flip_at
                && (at..at + n).contains(&flip)
            {
                buffer[flip - at] ^= 1;
            }
            at += n;
            if let Some(keep) = keep {
                keep.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
    }

    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }
}
