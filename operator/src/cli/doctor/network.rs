//! The network between the hosts: do packets of full size arrive, how long do they take, and does anybody else have
//! one of the groups' addresses?

use super::report::Finding;
use super::sys;
use crate::causes::chain;
use crate::net::interface::{choose, own_link};
use crate::net::netlink::{Link, Listed, Netlink};
use crate::net::{frames::Mac, gate, probe};
use crate::spec::{Cidr, Timers};
use crate::status::ClusterStatus;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const FAMILY: &str = "network";
/// IPv4 and ICMP headers.
const HEADERS: usize = 28;
const PING: Duration = Duration::from_millis(500);
const TRIES: u16 = 3;
/// Three probes with half a second each for an answer.
const PROBE: Duration = Duration::from_millis(1500);

/// What this host's kernel lists.
pub(super) struct Interfaces {
    pub addresses: Vec<Listed>,
    pub links: Vec<Link>,
}

pub(super) async fn interfaces() -> Result<Interfaces, String> {
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    let addresses = netlink.addresses().await.map_err(|e| e.to_string())?;
    let links = netlink.links().await.map_err(|e| e.to_string())?;
    Ok(Interfaces { addresses, links })
}

/// The kernel takes the rules that fence this host's addresses. They are made and removed in one transaction.
pub(super) fn fencing() -> Finding {
    judge_fencing(gate::probe("baton_doctor").map_err(|e| chain(&e)))
}

fn judge_fencing(outcome: Result<(), String>) -> Finding {
    match outcome {
        Ok(()) => Finding::ok(FAMILY, "fencing", "nftables takes the rules that fence this host's addresses"),
        Err(why) => Finding::warning(
            FAMILY,
            "fencing",
            format!("nftables refuses the rules ({why}); address lifetimes fence, about 2 s later"),
            "Give the agent NET_ADMIN, and the host's kernel the modules nf_tables and nft_fib_inet.",
        ),
    }
}

/// The fence devices of the other nodes answer, as this host's agent was told last.
pub(super) fn fence_devices(status: Option<&ClusterStatus>) -> Vec<Finding> {
    let Some(status) = status else {
        return vec![Finding::skipped(FAMILY, "fence devices", "no agent runs here that could ask them")];
    };
    let mut all = Vec::new();
    for node in status.nodes.iter().filter(|n| n.name != status.node) {
        for device in node.fence.iter().flat_map(|f| &f.devices) {
            let check = format!("fence device {} of {}", device.name, node.name);
            all.push(match device.answers {
                Some(true) => Finding::ok(FAMILY, check, "answers"),
                None => Finding::skipped(FAMILY, check, "has not been asked yet"),
                Some(false) => Finding::failed(
                    FAMILY,
                    check,
                    format!("does not answer: {}", device.said),
                    "Mend the device, its address, user or password file; then 'baton fence --test'.",
                ),
            });
        }
    }
    if all.is_empty() {
        all.push(Finding::ok(
            FAMILY,
            "fence devices",
            "no node has any; promises and the kernel's gate fence",
        ));
    }
    all
}

/// This node's address is on an interface that is up.
pub(super) fn own_address(own: IpAddr, host: &Interfaces) -> Finding {
    match own_link(own, &host.addresses, &host.links) {
        Some(link) if link.carrier => {
            let mtu = mtu_of(&link.name).map(|m| format!(", MTU {m}")).unwrap_or_default();
            Finding::ok(FAMILY, "own address", format!("{own} is on {}{mtu}", link.name))
        }
        Some(link) => Finding::failed(
            FAMILY,
            "own address",
            format!("{own} is on {}, which has no carrier", link.name),
            "Plug the cable in, or set the interface up.",
        ),
        None => Finding::failed(
            FAMILY,
            "own address",
            format!("no interface of this host has {own}, which the specification gives this node"),
            "Correct nodes.<name>.address, or --node; in a container, use the host's network.",
        ),
    }
}

fn mtu_of(interface: &str) -> Option<usize> {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
}

/// What pings of two sizes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pings {
    mtu: usize,
    small: Option<Duration>,
    full: Option<Duration>,
}

/// Pings a peer with small packets and with ones as large as the interface sends. Blocking; 3 s at most.
pub(super) fn mtu(name: &str, to: IpAddr, own: IpAddr, host: &Interfaces, timers: Timers) -> Vec<Finding> {
    let check = format!("packets to {name}");
    let IpAddr::V4(to) = to else {
        return vec![Finding::skipped(FAMILY, check, "only IPv4 is probed")];
    };
    let connected = choose(to.into(), own, &host.addresses, &host.links, &[]);
    let mtu = connected.and_then(|choice| mtu_of(&choice.link.name)).unwrap_or(1500);
    let pings = ping(to, 56).and_then(|small| {
        let full = if small.is_some() { ping(to, mtu - HEADERS)? } else { None };
        Ok(Pings { mtu, small, full })
    });
    judge_mtu(name, pings, timers)
}

fn judge_mtu(name: &str, pings: io::Result<Pings>, timers: Timers) -> Vec<Finding> {
    let check = format!("packets to {name}");
    let pings = match pings {
        Ok(pings) => pings,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return vec![Finding::skipped(FAMILY, check, "pinging needs NET_RAW")];
        }
        Err(e) => {
            let mend = format!("Check the route to {name}.");
            return vec![Finding::failed(FAMILY, check, format!("cannot be sent: {e}"), mend)];
        }
    };
    let ms = |d: Duration| format!("{:.2} ms", d.as_secs_f64() * 1000.0);
    let Some(small) = pings.small else {
        let why = format!("{name} answers no ping: it is down, or filters them");
        return vec![Finding::skipped(FAMILY, check, why)];
    };
    let size = match pings.full {
        Some(full) => Finding::ok(
            FAMILY,
            check,
            format!("{} bytes unfragmented arrive, back in {}", pings.mtu, ms(full)),
        ),
        None => Finding::failed(
            FAMILY,
            check,
            format!("small packets arrive, but none of {} bytes: replication would hang", pings.mtu),
            "Set the same MTU on both hosts and on what is between them (switch, VLAN, tunnel).",
        ),
    };
    let check = format!("time to {name}");
    let found = format!("{} there and back (keepalive {} ms)", ms(small), timers.keepalive.as_millis());
    let time = if small * 2 > timers.warntime {
        let mend = "This is no local network: raise the heartbeat's timers (all of them) to fit.";
        Finding::failed(FAMILY, check, found, mend)
    } else if small > timers.keepalive / 2 {
        let mend = "Every committed write waits this long. Use a closer network, or raise the timers.";
        Finding::warning(FAMILY, check, found, mend)
    } else {
        Finding::ok(FAMILY, check, found)
    };
    vec![size, time]
}

/// The quickest answer to an echo request with `payload` bytes, not to be fragmented.
fn ping(to: Ipv4Addr, payload: usize) -> io::Result<Option<Duration>> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    sys::do_not_fragment(socket.as_fd())?;
    socket.connect(&SocketAddrV4::new(to, 0).into())?;
    let id = std::process::id().to_be_bytes();
    let mut best = None;
    for sequence in 0..TRIES {
        let mut packet = vec![8, 0, 0, 0, id[2], id[3]];
        packet.extend(sequence.to_be_bytes());
        packet.resize(8 + payload, 0xa5);
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
        let began = Instant::now();
        match socket.send(&packet) {
            Ok(_) => {}
            // The interface itself does not take it: it does not arrive.
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(None),
            Err(e) => return Err(e),
        }
        while let Some(left) = PING.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let mut answer = vec![0; 65_536];
            match (&socket).read(&mut answer) {
                Ok(n) if is_reply(&answer[..n], [id[2], id[3]], sequence, payload) => {
                    let took = began.elapsed();
                    best = Some(best.map_or(took, |b: Duration| b.min(took)));
                    break;
                }
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(best)
}

/// Whether an IPv4 packet is the echo reply to ours.
fn is_reply(packet: &[u8], id: [u8; 2], sequence: u16, payload: usize) -> bool {
    let header = packet.first().map_or(0, |b| usize::from(b & 0x0f) * 4);
    packet.get(header..).is_some_and(|icmp| {
        icmp.len() == 8 + payload && icmp[0] == 0 && icmp[4..6] == id && icmp[6..8] == sequence.to_be_bytes()
    })
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap_or(0))
}

/// Whether anybody has an address of a group that nobody should have now. Blocking; 1.5 s.
pub(super) fn duplicate(
    group: &str,
    address: &Cidr,
    own: IpAddr,
    host: &Interfaces,
    serves: Option<String>,
) -> Finding {
    let check = format!("{} (group {group})", address.address);
    if let Some(node) = serves {
        return Finding::skipped(
            FAMILY,
            check,
            format!("the group is at home on {node}, which answers for it"),
        );
    }
    if host.addresses.iter().any(|listed| listed.address == address.address) {
        return Finding::failed(
            FAMILY,
            check,
            "this host has it itself, although the group does not run",
            "Remove it from the host's network configuration: Baton adds it.",
        );
    }
    let IpAddr::V4(wanted) = address.address else {
        return Finding::skipped(FAMILY, check, "only IPv4 is probed");
    };
    let choice = choose(address.address, own, &host.addresses, &host.links, &[]);
    let link = match (&address.interface, choice) {
        (Some(name), _) => host.links.iter().find(|l| l.name == *name).cloned(),
        (None, choice) => choice.map(|c| c.link),
    };
    let Some((link, mac)) = link.and_then(|link| Some((link.clone(), link.mac?))) else {
        return Finding::failed(
            FAMILY,
            check,
            "no Ethernet interface of this host fits it",
            "Give the host an address of the same network, or the group's address the interface.",
        );
    };
    judge_duplicate(
        check,
        &link.name,
        probe::who_has(link.index, mac, wanted, PROBE).map_err(|e| e.to_string()),
    )
}

fn judge_duplicate(check: String, interface: &str, answers: Result<Vec<Mac>, String>) -> Finding {
    match answers {
        Ok(macs) if macs.is_empty() => {
            Finding::ok(FAMILY, check, format!("nobody on {interface} answers for it"))
        }
        Ok(macs) => {
            let hex = |mac: &Mac| mac.map(|b| format!("{b:02x}")).join(":");
            let who: Vec<String> = macs.iter().map(hex).collect();
            Finding::failed(
                FAMILY,
                check,
                format!("{} on {interface} answers for it, although the group does not run", who.join(", ")),
                "Find that machine and take the address off it, or choose another address.",
            )
        }
        Err(why) => Finding::skipped(FAMILY, check, format!("cannot ask: {why} (NET_RAW?)")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;
    use crate::status::{FenceDeviceStatus, FenceStatus};

    #[test]
    fn sizes_and_times() {
        let ms = |n| Some(Duration::from_millis(n));
        let judge = |small, full| {
            let pings = Ok(Pings { mtu: 9000, small, full });
            judge_mtu("beta", pings, Timers::default()).iter().map(|f| f.verdict).collect::<Vec<_>>()
        };
        assert_eq!(judge(ms(0), ms(1)), [Verdict::Ok, Verdict::Ok]);
        assert_eq!(judge(ms(1), None), [Verdict::Failed, Verdict::Ok], "the black hole of a wrong MTU");
        assert_eq!(judge(ms(60), ms(60)), [Verdict::Ok, Verdict::Warning]);
        assert_eq!(judge(ms(400), ms(400)), [Verdict::Ok, Verdict::Failed]);
        assert_eq!(judge(None, None), [Verdict::Skipped]);
        let error = |kind: ErrorKind| judge_mtu("beta", Err(kind.into()), Timers::default())[0].verdict;
        assert_eq!(error(ErrorKind::PermissionDenied), Verdict::Skipped);
        assert_eq!(error(ErrorKind::NetworkUnreachable), Verdict::Failed);
    }

    #[test]
    fn what_fences_is_said() {
        assert_eq!(judge_fencing(Ok(())).verdict, Verdict::Ok);
        let found = judge_fencing(Err("Operation not permitted".into()));
        assert!(found.verdict == Verdict::Warning && found.found.contains("not permitted"), "{found:?}");
    }

    #[test]
    fn a_fence_device_that_does_not_answer_is_a_failure() {
        let mut status = crate::cli::fixture::healthy();
        assert_eq!(fence_devices(None)[0].verdict, Verdict::Skipped);
        assert_eq!(fence_devices(Some(&status))[0].verdict, Verdict::Ok);
        let device = |answers| FenceDeviceStatus {
            level: 1,
            name: "fence_ipmilan 10.9.0.12".into(),
            answers,
            said: "exit code 1".into(),
            asked: 5,
        };
        let devices = vec![device(Some(true)), device(Some(false)), device(None)];
        let fence = FenceStatus { devices, running: None, last: None, off: false, done: 0, failed: 0 };
        // A node does not ask its own.
        status.nodes[0].fence = Some(fence.clone());
        status.nodes[1].fence = Some(fence);
        let verdicts: Vec<Verdict> = fence_devices(Some(&status)).iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Failed, Verdict::Skipped]);
    }

    #[test]
    fn duplicates_are_named() {
        let judge = |answers| judge_duplicate("10.0.0.100".into(), "eth0", answers);
        assert_eq!(judge(Ok(vec![])).verdict, Verdict::Ok);
        let found = judge(Ok(vec![[2, 0, 0, 0, 0, 9]]));
        assert!(found.verdict == Verdict::Failed && found.found.contains("02:00:00:00:00:09"), "{found:?}");
        assert_eq!(judge(Err("no".into())).verdict, Verdict::Skipped);
    }

    #[test]
    fn echo_replies_are_told_from_others() {
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend([0, 0, 0, 0, 7, 9, 0, 2]);
        packet.extend([0xa5; 56]);
        assert!(is_reply(&packet, [7, 9], 2, 56));
        assert!(!is_reply(&packet, [7, 9], 3, 56) && !is_reply(&packet, [7, 8], 2, 56));
        assert!(!is_reply(&packet, [7, 9], 2, 1472) && !is_reply(&packet[..24], [7, 9], 2, 56));
        packet[20] = 8;
        assert!(!is_reply(&packet, [7, 9], 2, 56), "our own request");
        let mut sums = vec![8, 0, 0, 0, 1, 2, 0, 1, 0xa5];
        let sum = checksum(&sums).to_be_bytes();
        sums[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&sums), 0);
    }

    /// The loopback interface answers pings, where the test may send them.
    #[test]
    fn the_host_answers_itself() {
        match ping(Ipv4Addr::LOCALHOST, 1000) {
            Ok(answer) => assert!(answer.is_some()),
            Err(e) => assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}"),
        }
    }
}
