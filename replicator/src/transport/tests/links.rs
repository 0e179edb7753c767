//! Several addresses of one peer, and the two connections of a session.

use super::tls::Tap;
use super::*;

/// An address at which nobody answers: its listener's queue is full.
fn dead() -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.2:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let short = Duration::from_millis(100);
    let fill = (0..8).map_while(|_| TcpStream::connect_timeout(&address, short).ok()).collect();
    (listener, fill)
}

#[test]
fn the_next_address_is_tried_when_one_does_not_answer() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
    let (silent, _full) = dead();
    let closed_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = vec![silent.local_addr().unwrap(), closed_port, listener.local_address()];
    let began = Instant::now();
    let (_dialer, at_alpha) = dial(DialerConfig { addresses, ..rig.dialer_config(closed_port) });
    let alpha = opened(&at_alpha);
    opened(&at_beta);
    assert!(began.elapsed() < WAIT / 2, "{:?}", began.elapsed());
    assert_eq!(alpha.link().address, "127.0.0.1");
}

#[test]
fn what_is_wrong_with_each_address_is_told() {
    let rig = Rig::new(Transport::Tls);
    let port = |ip: &str| TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
    let addresses = vec![port("127.0.0.1"), port("127.0.0.3")];
    let (_dialer, events) = dial(DialerConfig { addresses, ..rig.dialer_config(port("127.0.0.1")) });
    let why = failed(&events);
    assert!(
        why.contains("127.0.0.1: no connection:") && why.contains("; 127.0.0.3: no connection:"),
        "{why}"
    );
}

#[test]
fn a_link_that_dies_under_a_session_is_left_for_the_next_one() {
    let rig = Rig::new(Transport::Tls);
    let timeout = Duration::from_secs(2);
    let admit = admit(Transport::Tls, timeout);
    let (listener, at_beta) = listen(ListenerConfig { admit, ..rig.listener_config() });
    let address = listener.local_address();
    // The first link: a relay that at some moment carries nothing any more, but whose connections stand.
    let link = Relay::start(address);
    let (_dialer, at_alpha) = dial(DialerConfig {
        addresses: vec![link.address, address],
        peer_timeout: timeout,
        ..rig.dialer_config(address)
    });
    let first = opened(&at_alpha);
    opened(&at_beta);
    first.send(RawFrame::new(1, "by the first")).unwrap();
    assert_eq!(frame(&at_beta).kind, 1);
    let began = Instant::now();
    link.freeze();
    assert!(matches!(closed(&at_alpha), CloseReason::PeerTimeout(_) | CloseReason::Io(_)));
    let second = opened(&at_alpha);
    assert!(began.elapsed() < timeout + WAIT / 2, "{:?}", began.elapsed());
    // Beta may have seen the first one end before the second came, or after.
    let mut events: Vec<TransportEvent> = (0..2).map(|_| at_beta.recv_timeout(WAIT).unwrap()).collect();
    events.sort_by_key(|event| matches!(event, TransportEvent::Opened { .. }));
    assert!(
        matches!(&events[..], [TransportEvent::Closed { .. }, TransportEvent::Opened { .. }]),
        "{events:?}"
    );
    second.send(RawFrame::new(2, "by the second")).unwrap();
    assert_eq!(frame(&at_beta).kind, 2);
}

#[test]
fn the_preferred_link_is_taken_back_when_it_has_answered_for_a_while() {
    let rig = Rig::new(Transport::Tls);
    let (listener, at_beta) = rig.listen();
    let preferred = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let addresses = vec![preferred, listener.local_address()];
    let (_dialer, at_alpha) = dial(DialerConfig { addresses, ..rig.dialer_config(preferred) });
    opened(&at_alpha);
    opened(&at_beta);
    let link = Relay::at(preferred, listener.local_address());
    assert!(matches!(closed(&at_alpha), CloseReason::Local(why) if why.contains("preferred link")));
    opened(&at_alpha);
    // Three looks, and the two connections of the session.
    let made = link.state.connections.lock().unwrap().len();
    assert!(made >= 5, "{made}");
    assert_eq!(rig.at_beta.counts().failed.values().sum::<u64>(), 0, "looking is no failure");
}

#[test]
fn a_session_does_not_outlive_one_of_its_connections() {
    for transport in [Transport::Plain, Transport::Tls] {
        for lost in [0, 1] {
            let rig = Rig::new(transport);
            let (listener, at_beta) = rig.listen();
            let link = Relay::start(listener.local_address());
            let (_dialer, at_alpha) = dial(rig.dialer_config(link.address));
            opened(&at_alpha);
            opened(&at_beta);
            link.cut(lost);
            let began = Instant::now();
            closed(&at_alpha);
            closed(&at_beta);
            assert!(began.elapsed() < PATIENT / 2, "{lost}: {:?}", began.elapsed());
            opened(&at_alpha);
            opened(&at_beta);
        }
    }
}

#[test]
fn each_direction_has_a_connection_of_its_own() {
    let rig = Rig::new(Transport::Plain);
    let (listener, at_beta) = rig.listen();
    let tap = Tap::start(listener.local_address(), None);
    let (_dialer, at_alpha) = dial(rig.dialer_config(tap.address));
    let (alpha, beta) = (opened(&at_alpha), opened(&at_beta));
    alpha.send(RawFrame::new(1, "a block")).unwrap();
    frame(&at_beta);
    beta.send(RawFrame::new(2, "an acknowledgement")).unwrap();
    frame(&at_alpha);
    let seen = tap.seen();
    let has = |text: &[u8]| seen.windows(text.len()).any(|w| w == text);
    assert!(has(b"a block") && !has(b"an acknowledgement"));
    assert_eq!(rig.at_beta.counts().completed, 2);
}

#[test]
fn half_a_session_is_none() {
    use super::super::auth::{self, Channel, Parties, Terms};
    let rig = Rig::new(Transport::Plain);
    let (listener, at_beta) = rig.listen();
    let parties = Parties { dialer: node("alpha"), listener: node("beta"), volume: web() };
    let half = |channel, token| {
        let mut stream = TcpStream::connect(listener.local_address()).unwrap();
        let nonce = auth::challenged(&mut stream).unwrap();
        auth::open(&mut stream, Transport::Plain).unwrap();
        let terms = Terms::Now { channel, token, binding: Default::default() };
        auth::dial(&mut stream, &secret(1), &nonce, &parties, &terms).unwrap();
        stream
    };
    let _halves = [half(Channel::Bulk, [1; 16]), half(Channel::Bulk, [1; 16]), half(Channel::Acks, [2; 16])];
    assert!(at_beta.recv_timeout(Duration::from_millis(300)).is_err());
    let _other = half(Channel::Acks, [1; 16]);
    opened(&at_beta);
}

/// A link that can be frozen or cut.
struct Relay {
    address: SocketAddr,
    state: Arc<RelayState>,
}

#[derive(Default)]
struct RelayState {
    frozen: std::sync::atomic::AtomicBool,
    connections: std::sync::Mutex<Vec<[TcpStream; 2]>>,
}

impl Relay {
    fn start(to: SocketAddr) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), to)
    }

    fn at(address: SocketAddr, to: SocketAddr) -> Self {
        let socket = TcpListener::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let state = Arc::<RelayState>::default();
        let theirs = state.clone();
        std::thread::spawn(move || {
            for near in socket.incoming() {
                let Ok(near) = near else { return };
                if theirs.frozen.load(std::sync::atomic::Ordering::SeqCst) {
                    // Accepted by the kernel, and nothing ever said.
                    theirs.connections.lock().unwrap().push([near.try_clone().unwrap(), near]);
                    continue;
                }
                let Ok(far) = TcpStream::connect(to) else { return };
                theirs
                    .connections
                    .lock()
                    .unwrap()
                    .push([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let state = theirs.clone();
                    std::thread::spawn(move || state.pump(from, to));
                }
            }
        });
        Self { address, state }
    }

    fn freeze(&self) {
        self.state.frozen.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Ends the connection that came as this number.
    fn cut(&self, number: usize) {
        for end in &self.state.connections.lock().unwrap()[number] {
            // The pump may have ended the other one already.
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl RelayState {
    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        use std::io::Read;
        let mut buffer = vec![0; 65_536];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if self.frozen.load(std::sync::atomic::Ordering::SeqCst) {
                // Keeps the connections open, so that only silence tells.
                std::thread::sleep(WAIT);
                return;
            }
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
    }
}
