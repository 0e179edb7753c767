//! Two network namespaces joined by a veth pair, made and removed by each test, and a capture of what arrives.

use baton_operator::net::frames::Mac;
use baton_operator::net::{AddressKeeper, GateConfig, KeeperEvent, Wanted};
use baton_replicator::types::{GroupName, Instant};
use etherparse::{ArpOperation, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub use crate::answers::{Answers, Ask};

pub const OWN: &str = "10.79.0.5";
pub const VIP4: &str = "10.79.0.100";
pub const VIP6: &str = "fd00:79::100";
pub const TABLE: &str = "baton_test";
pub const FENCETIME: Duration = Duration::from_millis(1000);

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub fn group() -> GroupName {
    GroupName::new("web").expect("group")
}

/// The rules of these tests; each is in a network namespace of its own.
pub fn gate() -> GateConfig {
    GateConfig { table: TABLE.into(), guarded: vec![ip(VIP4), ip(VIP6)] }
}

pub fn vips() -> Vec<Wanted> {
    vec![wanted(VIP4, 24, true), wanted(VIP6, 64, false)]
}

pub fn wanted(address: &str, prefix: u8, preferred: bool) -> Wanted {
    Wanted { address: ip(address), prefix, preferred }
}

pub fn clock() -> Instant {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Instant(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("utf-8")
}

/// Hardware address of an interface.
pub fn mac_of(namespace: &str, interface: &str) -> Mac {
    let mac = run(&format!("ip netns exec {namespace} cat /sys/class/net/{interface}/address"));
    let mac: Vec<u8> = mac.trim().split(':').map(|h| u8::from_str_radix(h, 16).expect("mac")).collect();
    mac.try_into().expect("six bytes")
}

/// `here` has the node's own addresses on `va`, `there` is the neighbour that listens on `vb`.
pub struct Net {
    pub here: String,
    pub there: String,
}

impl Net {
    pub fn new(name: &str) -> Self {
        let (here, there) =
            (format!("bt{}{name}a", std::process::id()), format!("bt{}{name}b", std::process::id()));
        run(&format!("ip netns add {here}; ip netns add {there}"));
        let net = Self { here, there };
        run(&format!(
            "set -e; ip -n {a} link add va type veth peer name vb netns {b}
             for x in lo va; do ip -n {a} link set $x up; done; ip -n {b} link set vb up
             ip -n {a} addr add {OWN}/24 dev va; ip -n {a} addr add fd00:79::5/64 dev va nodad",
            a = net.here,
            b = net.there
        ));
        net
    }

    /// The same with addresses for the neighbour, so that it can talk to this host.
    pub fn with_neighbour(name: &str) -> Self {
        let net = Self::new(name);
        run(&format!(
            "set -e; ip -n {0} addr add 10.79.0.9/24 dev vb; ip -n {0} addr add fd00:79::9/64 dev vb nodad",
            net.there
        ));
        net
    }

    /// Runs `f` on a thread inside the namespace `name`; threads it starts are inside, too.
    pub fn inside<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{name}");
        let body = move || {
            let file = File::open(path).expect("namespace");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            f()
        };
        std::thread::spawn(body).join().expect("thread in the namespace")
    }

    pub fn keeper(&self) -> (Arc<AddressKeeper>, Events) {
        self.keeper_behind(gate())
    }

    pub fn keeper_behind(&self, gate: GateConfig) -> (Arc<AddressKeeper>, Events) {
        let events = Events::default();
        let sink = events.clone();
        let keeper = Self::inside(&self.here, move || {
            AddressKeeper::start(ip(OWN), FENCETIME, clock, Some(gate), move |e| {
                eprintln!("{:?} {e:?}", clock());
                sink.0.lock().expect("events").push(e);
            })
        });
        (Arc::new(keeper.expect("keeper")), events)
    }

    /// The kernel's line about an address, if it is there.
    pub fn line(&self, address: &str) -> Option<String> {
        let all = run(&format!("ip -n {} -o addr show", self.here));
        all.lines().find(|l| l.contains(&format!(" {address}/"))).map(str::to_owned)
    }

    pub fn has(&self, address: &str) -> bool {
        self.line(address).is_some()
    }

    /// Waits until an address is there, or gone, and says how long it took.
    pub fn wait(&self, address: &str, there: bool, bound: Duration) -> Duration {
        let start = clock();
        wait_for(bound, &format!("{address} there: {there}"), || self.has(address) == there);
        clock().since(start)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.here, &self.there] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

pub fn wait_for(bound: Duration, what: &str, mut reached: impl FnMut() -> bool) {
    let start = clock();
    while !reached() {
        assert!(clock().since(start) < bound, "not within {bound:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the keeper reported.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<KeeperEvent>>>);

impl Events {
    pub fn count(&self, is: impl Fn(&KeeperEvent) -> bool) -> usize {
        self.0.lock().expect("events").iter().filter(|e| is(e)).count()
    }
}

/// Sets serve-until every 50 ms, as the heartbeat thread does, until stopped.
pub struct Heartbeat {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Instant>>,
}

impl Heartbeat {
    pub fn start(keeper: &Arc<AddressKeeper>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (keeper, stopped) = (Arc::clone(keeper), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            loop {
                let until = clock().plus(FENCETIME);
                keeper.set_until(&group(), until);
                std::thread::sleep(Duration::from_millis(50));
                if stopped.load(Ordering::Relaxed) {
                    return until;
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// Stops, and says what serve-until was last.
    pub fn stop(mut self) -> Instant {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("heartbeat")
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a neighbour heard: gratuitous ARP requests and replies for `VIP4`, advertisements for `VIP6`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    pub requests: usize,
    pub replies: usize,
    pub advertisements: usize,
}

/// Listens on the neighbour's side until it is dropped.
pub struct Capture {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
}

impl Capture {
    pub fn start(net: &Net) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (sink, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let socket = Net::inside(&net.there, || {
            let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything)).expect("packet socket");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("timeout");
            socket
        });
        let mac = mac_of(&net.here, "va");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(n) = (&socket).read(&mut buffer) {
                    count(&buffer[..n], &mac, &mut sink.lock().expect("heard"));
                }
            }
        });
        Self { heard, stop }
    }

    pub fn heard(&self) -> Heard {
        *self.heard.lock().expect("heard")
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn count(frame: &[u8], mac: &[u8], heard: &mut Heard) {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Arp(arp)), _) => {
            let vip = ip(VIP4);
            let gratuitous = [arp.sender_protocol_addr(), arp.target_protocol_addr()]
                .iter()
                .all(|a| <[u8; 4]>::try_from(*a).is_ok_and(|a| IpAddr::from(a) == vip));
            if gratuitous && arp.sender_hw_addr() == mac {
                match arp.operation() {
                    ArpOperation::REQUEST => heard.requests += 1,
                    ArpOperation::REPLY => heard.replies += 1,
                    _ => {}
                }
            }
        }
        (Some(NetSlice::Ipv6(header)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = header.header();
            let announced = matches!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(f) if f.r#override);
            if announced
                && IpAddr::from(header.source_addr()) == ip(VIP6)
                && icmp.is_checksum_valid(header.source(), header.destination())
                && icmp.payload().ends_with(mac)
            {
                heard.advertisements += 1;
            }
        }
        _ => {}
    }
}
