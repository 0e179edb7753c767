//! The cluster secret, strangers, and what a refusal says.

use super::super::frame::{KIND_CHALLENGE, KIND_OPEN, KIND_OPENED, KIND_REFUSED, KIND_WELCOME, read_frame};
use super::*;
use crate::api::HandshakeFailure;
use std::io::Read;

#[test]
fn another_secret_is_named_as_the_cause_on_both_sides() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = listen(ListenerConfig { secret: secret(2), ..rig.listener_config() });
    let (_dialer, at_alpha) = dial(rig.dialer_config(listener.local_address()));
    assert!(failed(&at_alpha).contains("different cluster secrets"));
    assert!(at_beta.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(failed(&at_alpha).contains("different cluster secrets"), "as long as it lasts");
    assert!(rig.at_beta.counts().failed[&HandshakeFailure::Secret] > 0);
    assert!(rig.at_alpha.counts().failed[&HandshakeFailure::Secret] > 0);
}

#[test]
fn a_listener_without_the_secret_cannot_pose_as_the_peer() {
    // It says WELCOME to everything, with a proof that it copied from the dialer.
    let fake = TcpListener::bind("127.0.0.1:0").unwrap();
    let rig = Rig::new(Transport::Plain);
    let (_dialer, at_alpha) = dial(rig.dialer_config(fake.local_addr().unwrap()));
    let (mut stream, _) = fake.accept().unwrap();
    let send = |stream: &mut TcpStream, kind, head: &[u8]| {
        let frame = RawFrame::new(kind, head.to_vec());
        stream.write_all(&[&frame.header()[..], head].concat()).unwrap();
    };
    send(&mut stream, KIND_CHALLENGE, &[9; 32]);
    assert_eq!(read_frame(&mut stream, 1024, 0).unwrap().kind, KIND_OPEN);
    send(&mut stream, KIND_OPENED, &[2, 0]);
    let hello = read_frame(&mut stream, 1024, 0).unwrap();
    send(&mut stream, KIND_WELCOME, &hello.head[hello.head.len() - 32..]);
    assert!(failed(&at_alpha).contains("different cluster secrets"));
}

#[test]
fn refusals_say_why() {
    let rig = Rig::new(Transport::Tls);
    rig.pki.node("gamma");
    let (listener, at_beta) = rig.listen();
    let address = listener.local_address();
    let (_a, events) =
        dial(DialerConfig { peer: node("gamma"), transport: Transport::Plain, ..rig.dialer_config(address) });
    assert!(failed(&events).contains("this is beta"));
    assert!(
        failed(&events).contains("this is beta"),
        "again, for a volume that could not heed it the first time"
    );
    let volume = VolumeName::new("mail").unwrap();
    let (_b, events) = dial(DialerConfig { volume, ..rig.dialer_config(address) });
    assert_eq!(failed(&events), "refused by the peer: no volume mail here");
    drop(listener);
    let (_c, events) = dial(rig.dialer_config(address));
    assert!(failed(&events).contains("refused"), "nobody listens any more");
    assert!(at_beta.try_recv().is_err());
}

#[test]
fn strangers_are_cut_off_and_do_not_disturb() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
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
    let (_dialer, at_alpha) = dial(rig.dialer_config(address));
    opened(&at_alpha);
    opened(&at_beta);
}

#[test]
fn too_many_strangers_are_turned_away_with_a_reason() {
    let rig = Rig::new(Transport::Tls);
    let (listener, _at_beta) = rig.listen();
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
    assert!(rig.at_beta.counts().failed[&HandshakeFailure::Busy] > 0);
}
