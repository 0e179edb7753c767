//! Serial links: garbage, half a frame, a line that is held, a cable that is pulled, more groups than the line carries.

use crate::fixture::{DEADTIME, KEEPALIVE, Node, WARNTIME, config, node, wait_for};
use crate::null_modem::NullModem;
use crate::undisturbed::undisturbed;
use baton_operator::core::links::{Hearing, Refusal};
use baton_operator::spec::HeartbeatLink;
use std::time::Duration;

/// alpha and beta, joined by the modem, and by loopback if there is a `port` for it.
fn pair(modem: &NullModem, port: u16, loopback: bool, keepalive: Duration, groups: usize) -> (Node, Node) {
    let line = |end| HeartbeatLink::Serial { device: modem.end(end), baud: 115_200 };
    let lo = |address: &str| HeartbeatLink::Unicast(address.parse().expect("address"));
    let links = |end, address: &str| {
        let other = if loopback { lo(address) } else { HeartbeatLink::None };
        vec![line(end), other]
    };
    let all = [("alpha", links("a", "127.0.0.81")), ("beta", links("b", "127.0.0.82"))];
    let start = |name| Node::start(config(name, keepalive, &all, port), groups);
    (start("alpha"), start("beta"))
}

#[test]
fn garbage_and_half_a_frame_cost_no_more_than_a_frame_each() {
    undisturbed(|| {
        let modem = NullModem::new();
        let (alpha, beta) = pair(&modem, 20_701, false, KEEPALIVE, 1);
        wait_for("the line is up", || alpha.hears_all(&[0]) && beta.hears_all(&[0]));
        // What came before beta had opened its end was echoed by it: a terminal is one until somebody makes a line of it.
        let echoed = alpha.refused(0, Refusal::Malformed);
        let noise: Vec<u8> = (0..4000u32).map(|i| (i * 7919 % 256) as u8).collect();
        for (n, bytes) in
            [&noise[..], b"\0half a frame", &[0xff; 3000], b"\0\0\0\x05\x01\0"].into_iter().enumerate()
        {
            let before = beta.refused(0, Refusal::Malformed);
            modem.spoil(bytes);
            wait_for("the garbage is counted", || beta.refused(0, Refusal::Malformed) > before);
            let received = beta.peer(0, "alpha").received;
            wait_for("heartbeats go on", || beta.peer(0, "alpha").received > received + 5);
            let lost = beta.peer(0, "alpha").lost;
            assert!(lost <= 2 * (n as u64 + 1), "{lost} lost after {} disturbances", n + 1);
        }
        assert_eq!(alpha.refused(0, Refusal::Malformed), echoed, "the other direction is clean");
    });
}

#[test]
fn a_line_that_is_held_delays_no_other_link_and_drops_what_it_cannot_take() {
    undisturbed(|| {
        let modem = NullModem::new();
        let (alpha, beta) = pair(&modem, 20_702, true, KEEPALIVE, 1);
        wait_for("both links up", || alpha.hears_all(&[0, 1]) && beta.hears_all(&[0, 1]));
        modem.hold(true);
        wait_for("the line is down and full", || {
            beta.peer(0, "alpha").hearing == Hearing::Down && alpha.link(0).dropped > 20
        });
        let error = alpha.link(0).error.expect("an error");
        assert!(error.contains("the line"), "{error}");
        for (n, other) in [(&alpha, "beta"), (&beta, "alpha")] {
            let p = n.peer(1, other);
            assert!(p.hearing == Hearing::Up && p.longest < WARNTIME, "{p:?}");
            assert_eq!(n.link(1).dropped, 0);
        }
        modem.hold(false);
        wait_for("up again", || alpha.hears_all(&[0, 1]) && beta.hears_all(&[0, 1]));
    });
}

#[test]
fn a_cable_that_was_pulled_is_opened_again_when_it_is_back() {
    undisturbed(|| {
        let mut modem = NullModem::new();
        let (alpha, beta) = pair(&modem, 20_703, true, KEEPALIVE, 1);
        wait_for("both links up", || alpha.hears_all(&[0, 1]) && beta.hears_all(&[0, 1]));
        modem.unplug();
        wait_for("down, and said why", || {
            let gone = |n: &Node| n.link(0).error.is_some_and(|e| e.contains("cannot be opened"));
            alpha.peer(0, "beta").hearing == Hearing::Down && gone(&alpha) && gone(&beta)
        });
        assert_eq!(beta.peer(1, "alpha").hearing, Hearing::Up);
        modem.plug();
        wait_for("up again", || alpha.hears_all(&[0, 1]) && beta.hears_all(&[0, 1]));
        assert!(beta.peer(1, "alpha").longest < DEADTIME);
    });
}

#[test]
fn a_hundred_groups_take_turns_on_a_line() {
    undisturbed(|| {
        let modem = NullModem::new();
        let keepalive = Duration::from_millis(100);
        let (alpha, beta) = pair(&modem, 20_704, false, keepalive, 100);
        wait_for("beta has heard of every group", || {
            beta.core.lock().expect("core").peers()[&node("alpha")].groups.len() == 100
        });
        let turns = alpha.link(0).turns;
        assert!((2..=100).contains(&turns), "{turns}");
        assert_eq!(
            beta.peer(0, "alpha").hearing,
            Hearing::Up,
            "the node itself is heard with every heartbeat"
        );
        let few = alpha.link(0).sent / 10;
        assert!(alpha.link(0).dropped <= few, "what is sent fits: {:?}", alpha.link(0));
    });
}
