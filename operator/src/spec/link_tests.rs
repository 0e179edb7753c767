//! Heartbeat links in a specification: what is read, and what is refused with line and way out.

use super::*;
use crate::spec::Spec;

/// Two nodes with these links.
fn text(alpha: &str, beta: &str) -> String {
    format!(
        "cluster: demo\nnodes:\n  alpha:\n    address: 10.0.0.1\n    heartbeat: {alpha}\n  beta:\n    address: 10.0.0.2\n    \
         heartbeat: {beta}\ngroups: {{ web: {{ addresses: [10.0.0.9/24] }} }}\n"
    )
}

fn links(text: &str) -> Vec<HeartbeatLink> {
    let spec = Spec::parse(text, |_| None).unwrap_or_else(|e| panic!("{e}"));
    spec.nodes.values().next().expect("a node").heartbeat.clone()
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = Spec::parse(text, |_| None).expect_err("must be refused").to_string();
    assert!(error.contains(expected), "expected '{expected}' in:\n{error}");
}

const ALL: &str = "[10.0.0.1, { unicast: 'fd00::1' }, { broadcast: eth0 }, { multicast: { group: 239.1.2.3, interface: eth0 } }, \
                   { multicast: { group: 'ff02::694', interface: eth1, ttl: 3 } }, { serial: { device: /dev/ttyS0 } }]";

#[test]
fn every_kind_is_read_and_shown() {
    let other = ALL.replace("10.0.0.1", "10.0.0.2").replace("fd00::1", "fd00::2").replace("ttyS0", "ttyUSB0");
    let shown: Vec<String> = links(&text(ALL, &other)).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "10.0.0.1",
            "fd00::1",
            "broadcast eth0",
            "multicast 239.1.2.3 eth0",
            "multicast ff02::694 eth1",
            "serial /dev/ttyS0"
        ]
    );
    let json = serde_json::to_value(links(&text(ALL, &other))).expect("as JSON");
    assert_eq!(json[0], "10.0.0.1", "as before there were other kinds");
    assert_eq!(json[2], serde_json::json!({ "broadcast": { "interface": "eth0" } }));
    assert_eq!(json[5], serde_json::json!({ "serial": { "device": "/dev/ttyS0", "baud": 115_200 } }));
}

/// A specification of the release before: one address, several, the same twice.
#[test]
fn what_was_valid_stays_valid() {
    assert_eq!(links(&text("10.0.0.1", "10.0.0.2")).len(), 1);
    assert_eq!(links(&text("[10.0.0.1, 10.1.0.1]", "[10.0.0.2, 10.1.0.2]")).len(), 2);
    assert_eq!(links(&text("[10.0.0.1, 10.0.0.1]", "[10.0.0.2]")).len(), 1);
    refused(&text("[10.0.0.1, 10.1.0.1]", "10.0.0.2"), "has 1 heartbeat link(s) where the first node has 2");
}

#[test]
fn each_entry_is_refused_with_what_to_write() {
    let alone = |link: &str| text(&format!("[10.0.0.1, {link}]"), &format!("[10.0.0.2, {link}]"));
    for (link, expected) in [
        (
            "{ broadcast: eth0, unicast: 10.0.0.5 }",
            "cluster.yaml:5:5: nodes.alpha.heartbeat[1]: must be exactly one of",
        ),
        ("{}", "it has none of them"),
        ("{ braodcast: eth0 }", "unknown field; known here are broadcast, multicast, serial, unicast"),
        ("{ broadcast: an-interface-name-too-long }", "is not the name of an interface"),
        ("{ multicast: { group: 10.0.0.1, interface: eth0 } }", "is not a multicast group"),
        ("{ multicast: { group: 239.0.0.1 } }", "nodes.alpha.heartbeat[1].multicast.interface: is missing"),
        ("{ multicast: { group: 239.0.0.1, interface: eth0, ttl: 0 } }", "not a number from 1 to 255"),
        ("{ serial: { device: ttyS0 } }", "is not a device under /dev"),
        ("{ serial: { device: /dev/ttyS0, baud: 115000 } }", "is not a speed of a serial line"),
        ("239.0.0.1", "is not the address of a host"),
    ] {
        refused(&alone(link), expected);
    }
}

#[test]
fn links_of_all_nodes_must_fit() {
    let with = |a: &str, b: &str| text(&format!("[10.0.0.1, {a}]"), &format!("[10.0.0.2, {b}]"));
    let group = |g: &str| format!("{{ multicast: {{ group: {g}, interface: eth0 }} }}");
    refused(
        &with("{ broadcast: eth0 }", "10.1.0.2"),
        "is unicast, but broadcast at alpha: a link has one kind",
    );
    refused(&with(&group("239.0.0.1"), &group("239.0.0.2")), "the nodes would not hear each other");
    let line = |baud| format!("{{ serial: {{ device: /dev/ttyS0, baud: {baud} }} }}");
    refused(&with(&line(115_200), &line(57_600)), "both ends of a line need the same");
    refused(&with(&line(115_200), "none"), "a serial line joins two nodes, this one 1");
    refused(
        &text("[none, { broadcast: e }]", "[10.0.0.2, none]"),
        "alpha and beta have no heartbeat link in common",
    );
    refused(
        &text("[{ broadcast: e }, { broadcast: e }]", "[{ broadcast: e }, { broadcast: f }]"),
        "broadcast e is listed twice",
    );
}

/// Of three nodes two are joined by a line; the third writes none in its place.
#[test]
fn a_line_between_two_of_three() {
    let third = "  gamma: { address: 10.0.0.3, heartbeat: [10.0.0.3, none] }\n";
    let line = "{ serial: { device: /dev/ttyS0 } }";
    let two = text(&format!("[10.0.0.1, {line}]"), &format!("[10.0.0.2, {line}]"));
    let three = two.replace("groups:", &format!("{third}groups:"));
    assert_eq!(links(&three)[1].kind(), "serial");
    refused(
        &three.replace("10.0.0.3, none", &format!("10.0.0.3, {line}")),
        "a serial line joins two nodes, this one 3",
    );
}

#[test]
fn a_line_too_slow_for_a_heartbeat_is_refused_with_numbers() {
    let with = |baud: u32, timers: &str| {
        let line = |n| format!("[10.0.0.{n}, {{ serial: {{ device: /dev/ttyS0, baud: {baud} }} }}]");
        text(&line(1), &line(2)).replace("nodes:", &format!("{timers}nodes:"))
    };
    refused(
        &with(9600, ""),
        "9600 baud carry 86 bytes in a keepalive of 100 ms, and a heartbeat may need 493: take a line of 57600 baud, or a \
         keepalive of at least 571 ms",
    );
    // What it says is true.
    links(&with(57_600, ""));
    links(&with(9600, "heartbeat: { keepalive: 571ms, warntime: 2s, deadtime: 10s }\n"));
    // A profile's keepalive counts like one that was given.
    refused(&with(57_600, "heartbeat: { profile: fast }\n"), "in a keepalive of 50 ms");
}
