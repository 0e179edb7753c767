//! The release before (version 1: no TLS, one connection) is served or refused, and both sides say which.

use super::super::auth::{self, Parties, Terms};
use super::super::frame::{KIND_CHALLENGE, KIND_HELLO, KIND_OPEN, KIND_PING, KIND_WELCOME, read_frame};
use super::tls::counted;
use super::*;
use crate::api::HandshakeFailure;

/// A dialer of the release before, up to its welcome or the reason why not.
fn old_dialer(address: SocketAddr) -> Result<TcpStream, String> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let nonce = auth::challenged(&mut stream).unwrap();
    let parties = Parties { dialer: node("alpha"), listener: node("beta"), volume: web() };
    auth::dial(&mut stream, &secret(1), &nonce, &parties, &Terms::Before).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// The bytes that the release before sends in its HELLO: they must not change.
#[test]
fn the_proof_of_the_release_before_is_what_it_was() {
    let mut sent = Vec::new();
    let parties = Parties { dialer: node("alpha"), listener: node("beta"), volume: web() };
    struct Once<'a>(&'a mut Vec<u8>);
    impl std::io::Read for Once<'_> {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Ok(0)
        }
    }
    impl Write for Once<'_> {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = auth::dial(&mut Once(&mut sent), &secret(1), &[9; 32], &parties, &Terms::Before);
    let hello = read_frame(&mut &sent[..], 1024, 0).unwrap();
    assert_eq!(hello.kind, KIND_HELLO);
    let (nonce, rest) = hello.head.split_at(32);
    let (names, mac) = rest.split_at(rest.len() - 32);
    assert_eq!(names, b"\x05alpha\x04beta\x03web");
    let parts: [&[u8]; 6] = [&[1, 0], &[9; 32], nonce, b"alpha", b"beta", b"web"];
    assert!(secret(1).verify("baton replication: dialer to listener", &parts, mac));
}

#[test]
fn it_is_served_where_the_volume_is_plain() {
    let rig = Rig::new(Transport::Plain);
    let (listener, at_beta) = rig.listen();
    let mut stream = old_dialer(listener.local_address()).unwrap();
    let beta = opened(&at_beta);
    // One connection, both ways, pings included.
    let message = RawFrame { kind: 3, head: Bytes::from_static(b"w"), body: Bytes::from(vec![1; 4096]) };
    stream.write_all(&[&message.header()[..], &message.head, &message.body].concat()).unwrap();
    assert_eq!(frame(&at_beta), message);
    beta.send(RawFrame::new(4, "ok")).unwrap();
    let mut kinds = Vec::new();
    while !(kinds.contains(&4) && kinds.contains(&KIND_PING)) {
        kinds.push(read_frame(&mut stream, 1024, 0).unwrap().kind);
        assert!(kinds.len() < 20, "{kinds:?}");
    }
    assert_eq!(beta.link().transport, "plain");
}

#[test]
fn it_is_refused_in_words_where_the_volume_wants_tls() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
    let why = old_dialer(listener.local_address()).unwrap_err();
    assert!(why.contains("alpha runs a release before TLS") && why.contains("--accept-before"), "{why}");
    assert!(matches!(at_beta.recv_timeout(WAIT).unwrap(), TransportEvent::Refused { .. }));
    assert!(counted(&rig.at_beta, HandshakeFailure::Version));
    drop(listener);

    // While the cluster is being upgraded.
    let (listener, at_beta) = listen(ListenerConfig { accept_before: true, ..rig.listener_config() });
    let _stream = old_dialer(listener.local_address()).unwrap();
    opened(&at_beta);
    // That opens no door for a release that could do better.
    let (_dialer, at_alpha) =
        dial(DialerConfig { transport: Transport::Plain, ..rig.dialer_config(listener.local_address()) });
    assert!(failed(&at_alpha).contains("'transport: tls' on beta"));
}

/// A listener of the release before; `connections` are accepted one after the other.
fn old_listener(connections: usize) -> (SocketAddr, std::thread::JoinHandle<Vec<TcpStream>>) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut welcomed = Vec::new();
        for _ in 0..connections {
            let mut stream = socket.accept().unwrap().0;
            stream.set_read_timeout(Some(WAIT)).unwrap();
            let challenge = RawFrame::new(KIND_CHALLENGE, vec![6; 32]);
            stream.write_all(&[&challenge.header()[..], &challenge.head].concat()).unwrap();
            let said = read_frame(&mut stream, 1024, 0).unwrap();
            if said.kind == KIND_OPEN {
                continue; // Unexpected: it hangs up.
            }
            let parts: [&[u8]; 6] = [&[1, 0], &[6; 32], &said.head[..32], b"alpha", b"beta", b"web"];
            let mac = secret(1).mac("baton replication: listener to dialer", &parts);
            let welcome = RawFrame::new(KIND_WELCOME, mac.to_vec());
            stream.write_all(&[&welcome.header()[..], &welcome.head].concat()).unwrap();
            welcomed.push(stream);
        }
        welcomed
    });
    (address, thread)
}

#[test]
fn its_listener_is_spoken_to_in_its_way_where_the_volume_is_plain() {
    let (address, old) = old_listener(2);
    let rig = Rig::new(Transport::Plain);
    let (_dialer, at_alpha) = dial(rig.dialer_config(address));
    let alpha = opened(&at_alpha);
    let mut stream = old.join().unwrap().pop().expect("welcomed at the second attempt");
    alpha.send(RawFrame::new(5, "hello")).unwrap();
    assert_eq!(read_frame(&mut stream, 1024, 0).unwrap().kind, 5);
    assert_eq!(rig.at_alpha.counts().failed.values().sum::<u64>(), 0);
}

#[test]
fn its_listener_gets_nothing_in_plain_where_the_volume_wants_tls() {
    let (address, old) = old_listener(2);
    let rig = Rig::new(Transport::Tls);
    let (_dialer, at_alpha) = dial(rig.dialer_config(address));
    let why = failed(&at_alpha);
    assert!(why.contains("a release before TLS") && why.contains("Upgrade it"), "{why}");
    assert!(old.join().unwrap().is_empty(), "it was never greeted without TLS");
    assert!(counted(&rig.at_alpha, HandshakeFailure::Version));
}
