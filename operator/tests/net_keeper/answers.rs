//! A neighbour that keeps asking whether an address is there, and remembers when it was answered.

use crate::fixture::{Net, OWN, VIP4, VIP6, clock, ip, mac_of, run};
use baton_replicator::types::Instant;
use etherparse::{Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Echo4,
    Echo6,
    Arp,
    Neighbour,
    /// An echo of the host's own address, which is no address of a group.
    Own,
}

/// Asks every 5 ms until it is dropped.
pub struct Answers {
    heard: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
}

impl Answers {
    pub fn start(net: &Net, ask: Ask) -> Self {
        Self::to(&net.there, "vb", ask)
    }

    /// Asks from another namespace, and its interface.
    pub fn to(namespace: &str, interface: &'static str, ask: Ask) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let (ear, mouth) = {
            let asks_from = namespace.to_owned();
            Net::inside(namespace, move || sockets(&asks_from, interface, ask))
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                // Full queues and unreachable neighbours are no answers.
                let _ = mouth();
                let start = clock();
                while clock().since(start) < Duration::from_millis(5) {
                    let Ok(n) = (&ear).read(&mut buffer) else { continue };
                    if is_answer(&buffer[..n], ask) {
                        sink.lock().expect("heard").push(clock());
                    }
                }
            }
        });
        Self { heard, stop }
    }

    pub fn count(&self) -> usize {
        self.heard.lock().expect("heard").len()
    }

    /// When the last answer came.
    pub fn last(&self) -> Instant {
        *self.heard.lock().expect("heard").last().expect("an answer")
    }

    /// The longest time between two answers.
    pub fn longest_gap(&self) -> Duration {
        let heard = self.heard.lock().expect("heard");
        let gaps = heard.windows(2).map(|pair| pair[1].since(pair[0]));
        gaps.chain(heard.last().map(|last| clock().since(*last))).max().expect("answers")
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A packet socket that hears everything, and how to ask once.
fn sockets(
    namespace: &str,
    interface: &str,
    ask: Ask,
) -> (Socket, Box<dyn Fn() -> std::io::Result<usize> + Send>) {
    let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let ear = Socket::new(Domain::PACKET, Type::RAW, Some(everything)).expect("packet socket");
    ear.set_read_timeout(Some(Duration::from_millis(2))).expect("timeout");
    let echo = |domain, protocol, first: u8, to: IpAddr| {
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).expect("raw socket");
        // The kernel fills in the sum of ICMPv6.
        let mut message = vec![first, 0, 0, 0, 0x42, 0x42, 0, 1];
        if first == 8 {
            let sum = !(0x0800_u16 + 0x4242 + 1);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let to = SocketAddr::new(to, 0).into();
        Box::new(move || socket.send_to(&message, &to)) as Box<dyn Fn() -> std::io::Result<usize> + Send>
    };
    let mouth = match ask {
        Ask::Echo4 => echo(Domain::IPV4, Protocol::ICMPV4, 8, ip(VIP4)),
        Ask::Own => echo(Domain::IPV4, Protocol::ICMPV4, 8, ip(OWN)),
        Ask::Echo6 => echo(Domain::IPV6, Protocol::ICMPV6, 128, ip(VIP6)),
        Ask::Arp | Ask::Neighbour => {
            let index = run(&format!("ip netns exec {namespace} cat /sys/class/net/{interface}/ifindex"));
            let index = index.trim().parse().expect("index");
            let mac = mac_of(namespace, interface);
            let wanted = if ask == Ask::Arp { VIP4 } else { VIP6 };
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("packet socket");
            let frame = baton_operator::net::frames::probe(mac, ip(wanted));
            Box::new(move || socket.send_to(&frame, &baton_operator::net::announce::link_address(index)))
        }
    };
    (ear, mouth)
}

fn is_answer(frame: &[u8], ask: Ask) -> bool {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return false };
    let from = match &packet.net {
        Some(NetSlice::Arp(arp)) => <[u8; 4]>::try_from(arp.sender_protocol_addr()).ok().map(IpAddr::from),
        Some(NetSlice::Ipv4(header)) => Some(IpAddr::from(header.header().source_addr())),
        Some(NetSlice::Ipv6(header)) => Some(IpAddr::from(header.header().source_addr())),
        None => None,
    };
    let advertised = matches!(&packet.transport, Some(TransportSlice::Icmpv6(icmp))
        if matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(_)));
    match ask {
        Ask::Arp => from == Some(ip(VIP4)) && matches!(packet.net, Some(NetSlice::Arp(_))) && to_one(frame),
        Ask::Own => from == Some(ip(OWN)) && matches!(packet.transport, Some(TransportSlice::Icmpv4(_))),
        Ask::Echo4 => from == Some(ip(VIP4)) && matches!(packet.transport, Some(TransportSlice::Icmpv4(_))),
        Ask::Neighbour => from == Some(ip(VIP6)) && advertised,
        Ask::Echo6 => from == Some(ip(VIP6)) && !advertised && packet.transport.is_some(),
    }
}

/// Not one of the keeper's announcements, which go to everybody.
fn to_one(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 == 0)
}
