//! Heartbeat links against real kernels: broadcast and multicast over bridges between network namespaces, serial lines
//! over pseudo terminals.

mod fixture;
mod line;
mod null_modem;
#[path = "../undisturbed/mod.rs"]
mod undisturbed;

use baton_operator::core::links::{Hearing, LinkBeat, Refusal};
use baton_operator::spec::HeartbeatLink;
use fixture::{DEADTIME, KEEPALIVE, Lan, Node, PORT, config, inside, node, run, sealer, wait_for};
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use undisturbed::undisturbed_as_root;

fn unicast(address: &str) -> HeartbeatLink {
    HeartbeatLink::Unicast(address.parse().expect("address"))
}

fn broadcast(interface: &str) -> HeartbeatLink {
    HeartbeatLink::Broadcast { interface: interface.into() }
}

fn multicast(group: &str, interface: &str) -> HeartbeatLink {
    let group: IpAddr = group.parse().expect("group");
    HeartbeatLink::Multicast { group, interface: interface.into(), ttl: 1 }
}

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Hosts with unicast on the first network, and these links on the second.
fn cluster(lan: &Lan, hosts: usize, links: &[HeartbeatLink]) -> Vec<Node> {
    let of = |i: usize| [&[unicast(&format!("10.80.0.{}", i + 1))], links].concat();
    let all: Vec<_> = (0..hosts).map(|i| (NAMES[i], of(i))).collect();
    (0..hosts).map(|i| lan.start(i, config(NAMES[i], KEEPALIVE, &all, PORT))).collect()
}

#[test]
fn three_nodes_hear_each_other_by_every_kind_of_datagram_link() {
    undisturbed_as_root(|| {
        let lan = Lan::new("all", 3);
        let links =
            [broadcast("e1"), multicast("239.0.6.94", "e1"), multicast("ff02::694", "e1"), broadcast("e0")];
        let nodes = cluster(&lan, 3, &links);
        for (i, n) in nodes.iter().enumerate() {
            wait_for(&format!("{} hears all on five links", NAMES[i]), || n.hears_all(&[0, 1, 2, 3, 4]));
            let hearing = n.hearing();
            assert_eq!(hearing.len(), 2);
            assert!(hearing.values().all(|bits| *bits == 0b11111), "{hearing:?}");
        }
        for n in &nodes {
            for link in 0..5 {
                let link = n.link(link);
                assert_eq!(
                    (link.dropped, link.refused.len()),
                    (0, 0),
                    "its own heartbeats come back and are no fault: {link:?}"
                );
                assert!(link.peers.values().all(|p| p.theirs.is_some()));
            }
            assert!(
                n.core.lock().expect("core").peers().values().all(|p| p.heard.is_some() && p.refused == 0)
            );
        }
    });
}

#[test]
fn an_interface_that_comes_back_is_joined_again_and_the_other_link_never_waits() {
    undisturbed_as_root(|| {
        let lan = Lan::new("back", 2);
        let links = [broadcast("e1"), multicast("239.0.6.94", "e1"), multicast("ff02::694", "e1")];
        let nodes = cluster(&lan, 2, &links);
        wait_for("all links up", || nodes.iter().all(|n| n.hears_all(&[0, 1, 2, 3])));
        lan.unplug(1, 1);
        for n in &nodes {
            let other = if n.link(0).peers.contains_key(&node("beta")) { "beta" } else { "alpha" };
            wait_for("down", || (1..4).all(|l| n.peer(l, other).hearing == Hearing::Down));
            assert_eq!(n.peer(0, other).hearing, Hearing::Up, "the other network does not notice");
            assert!(n.peer(0, other).longest < DEADTIME);
        }
        let error = nodes[1].link(1).error.expect("an error");
        assert!(error.contains("e1"), "{error}");
        lan.plug(1, 1);
        wait_for("all links up again", || nodes.iter().all(|n| n.hears_all(&[0, 1, 2, 3])));
        assert_eq!(nodes[1].link(1).error, None);
    });
}

#[test]
fn a_one_way_link_is_seen_from_both_sides_and_moves_nothing() {
    undisturbed_as_root(|| {
        let lan = Lan::new("one", 2);
        let nodes = cluster(&lan, 2, &[broadcast("e1")]);
        wait_for("both links up", || nodes.iter().all(|n| n.hears_all(&[0, 1])));
        run(&format!(
            "ip netns exec {} nft 'add table inet t; add chain inet t in {{ type filter hook input priority 0; }}; add rule \
             inet t in iifname e1 udp dport {PORT} drop'",
            lan.host(1)
        ));
        wait_for("beta does not hear alpha", || {
            let p = nodes[1].peer(1, "alpha");
            p.one_way && p.hearing == Hearing::Down && p.hears_us == Some(true)
        });
        wait_for("alpha knows", || {
            let p = nodes[0].peer(1, "beta");
            p.one_way && p.hearing == Hearing::Up && p.hears_us == Some(false)
        });
        for (n, other) in [(&nodes[0], "beta"), (&nodes[1], "alpha")] {
            assert_eq!(n.peer(0, other).hearing, Hearing::Up);
            assert!(!n.peer(0, other).one_way);
        }
        run(&format!("ip netns exec {} nft delete table inet t", lan.host(1)));
        wait_for("both ways again", || nodes.iter().all(|n| n.hears_all(&[0, 1])));
    });
}

/// Another machine on the second network, that listens and sends.
fn stranger(lan: &Lan) -> UdpSocket {
    inside(&lan.hub, || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("socket");
        socket.set_broadcast(true).expect("broadcast");
        socket.bind_device(Some(b"br1")).expect("device");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
        socket.bind(&SocketAddr::from((Ipv4Addr::BROADCAST, PORT)).into()).expect("bind");
        socket.into()
    })
}

#[test]
fn replays_and_forgeries_are_refused_and_counted_by_link_and_reason() {
    undisturbed_as_root(|| {
        let lan = Lan::new("evil", 2);
        let nodes = cluster(&lan, 2, &[broadcast("e1")]);
        wait_for("both links up", || nodes.iter().all(|n| n.hears_all(&[0, 1])));
        let evil = stranger(&lan);
        let mut buffer = [0; 2000];
        // Both nodes' heartbeats are heard here; one of beta's is wanted, against alpha.
        let captured = loop {
            let (length, from) = evil.recv_from(&mut buffer).expect("a heartbeat");
            if from.ip() == IpAddr::from([10, 81, 0, 2]) {
                break buffer[..length].to_vec();
            }
        };
        let everyone = (Ipv4Addr::BROADCAST, PORT);
        let send =
            |datagram: &[u8]| assert_eq!(evil.send_to(datagram, everyone).expect("sent"), datagram.len());
        let received = nodes[0].core.lock().expect("core").peers()[&node("beta")].incarnation;
        for _ in 0..3 {
            send(&captured);
        }
        let mut forged = captured.clone();
        forged[20] ^= 1;
        send(&forged);
        send(b"not a heartbeat");
        let mut later = captured.clone();
        later[4] = 9;
        send(&later);
        let message = nodes[0].core.lock().expect("core").answer(baton_operator::heartbeat::clock::now());
        let sealed = |secret, cluster: &str, name: &str| {
            let sealer = sealer(secret, cluster);
            sealer
                .seal(&sealer.encode(&node(name), &message).expect("encoded"), &LinkBeat::default())
                .expect("sealed")
        };
        send(&sealed(7, "other", "beta"));
        send(&sealed(8, "demo", "beta"));
        send(&sealed(7, "demo", "mallory"));
        let alpha = &nodes[0];
        for (why, times) in [
            (Refusal::Replayed, 3),
            (Refusal::Forged, 2),
            (Refusal::Malformed, 1),
            (Refusal::Version, 1),
            (Refusal::OtherCluster, 1),
            (Refusal::Stranger, 1),
        ] {
            wait_for(&format!("{why:?}"), || alpha.refused(1, why) == times);
            assert_eq!(alpha.refused(0, why), 0, "the other link is clean");
        }
        assert_eq!(alpha.core.lock().expect("core").peers()[&node("beta")].incarnation, received);
        assert!(alpha.hears_all(&[0, 1]));
        let all = alpha.thread.counters.refused.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(all, 8, "a neighbour cluster in the same network is no attack");
    });
}

#[test]
fn links_change_while_others_carry_on() {
    undisturbed_as_root(|| {
        let lan = Lan::new("live", 2);
        let nodes = cluster(&lan, 2, &[]);
        wait_for("unicast up", || nodes.iter().all(|n| n.hears_all(&[0])));
        let of =
            |i: usize| vec![broadcast("e1"), unicast(&format!("10.80.0.{i}")), multicast("ff02::694", "e0")];
        let all = [("alpha", of(1)), ("beta", of(2))];
        for (i, n) in nodes.iter().enumerate() {
            let config = config(NAMES[i], KEEPALIVE, &all, PORT);
            let received = n.link(0).sent;
            n.thread.reconfigure(config).expect("taken");
            wait_for("taken over", || n.links() == 3);
            assert!(n.link(1).sent >= received, "its counters stay under the new number");
        }
        wait_for("all three up", || nodes.iter().all(|n| n.hears_all(&[0, 1, 2])));
        for (n, other) in [(&nodes[0], "beta"), (&nodes[1], "alpha")] {
            assert!(
                n.peer(1, other).longest < DEADTIME,
                "no gap on the link that stayed: {:?}",
                n.peer(1, other)
            );
            assert_eq!(n.refused(1, Refusal::Replayed), 0, "new streams are no replays");
        }
    });
}
