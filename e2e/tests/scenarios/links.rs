//! Heartbeat links on the real cluster: a second one beside unicast, cut in one direction, and mended.

use crate::apply::{in_force, take};
use crate::let_pass;
use baton_e2e::config::HEARTBEAT_PORT;
use baton_e2e::faults;
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::shell::one_line;
use serde_json::Value;
use std::time::{Duration, Instant};

/// `deadtime`, and as long again until a silence in one direction counts as one-way; on two busy cores.
const SEEN: Duration = Duration::from_secs(10);
const TABLE: &str = "baton_e2e_links";

/// `baton links --json` at a host.
fn links(t: &Scenario, host: &str) -> Value {
    let answer = t.baton_at(host, &["links", "--json"]).unwrap_or_else(|e| panic!("{e:#}"));
    serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

/// The only peer on a link.
fn peer(t: &Scenario, host: &str, link: usize) -> Value {
    links(t, host)["links"][link]["peers"][0].clone()
}

fn wait(t: &Scenario, what: &str, reached: impl Fn() -> Result<(), String>) {
    t.wait_for(what, SEEN, |_| reached());
}

fn expect(found: &Value, state: &str, one_way: bool) -> Result<(), String> {
    if found["state"] == state && found["one_way"] == one_way { Ok(()) } else { Err(found.to_string()) }
}

#[test]
fn a_link_cut_in_one_direction_is_shown_and_moves_nothing() {
    scenario("heartbeat links: one of two cut in one direction", |t, leader| {
        let (original, _) = in_force(t);
        let epoch = t.epoch_of(leader);
        let standby = t.config.other(leader);
        let mut text = original.clone();
        for host in [leader, &standby] {
            let address = t.config.host(host).address;
            let from = format!("{host}: {{ address: \"{address}\" }}");
            assert!(text.contains(&from), "the specification has no '{from}':\n{text}");
            let to = format!(
                "{host}: {{ address: \"{address}\", heartbeat: [\"{address}\", {{ broadcast: eth0 }}] }}"
            );
            text = text.replace(&from, &to);
        }
        let mut writer = t.writer("links", None);
        let prober = t.prober();
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        take(t, leader, &text);
        for host in [leader, &standby] {
            for link in 0..2 {
                wait(t, "both links up", || expect(&peer(t, host, link), "up", false));
            }
        }

        // The standby no longer hears what is broadcast; the leader still hears the standby.
        let rules = format!(
            "table inet {TABLE} {{ chain input {{ type filter hook input priority -150; ip daddr 255.255.255.255 udp dport \
             {HEARTBEAT_PORT} drop; }}; }}"
        );
        faults::in_namespace(t, &standby, &["nft", &rules]).unwrap_or_else(|e| panic!("{e:#}"));
        wait(t, "the standby shows it", || expect(&peer(t, &standby, 1), "down", true));
        wait(t, "the leader shows it", || expect(&peer(t, leader, 1), "up", true));
        for host in [leader, &standby] {
            wait(t, "the other link is up", || expect(&peer(t, host, 0), "up", false));
        }
        let page = t.baton(&["links"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("in words", page.contains("(one-way link)"), &page);
        let status = t.baton_at(leader, &["status"]).unwrap_or_else(|e| panic!("{e:#}")).text();
        t.expect("advice", status.contains("is one-way"), &status);
        // Longer than lease and deadtime: what could be set off by it has been.
        let_pass(Duration::from_secs(7));
        t.stayed("nothing moved", leader, epoch);

        faults::in_namespace(t, &standby, &["nft", "delete", "table", "inet", TABLE])
            .unwrap_or_else(|e| panic!("{e:#}"));
        wait(t, "both ways again", || expect(&peer(t, &standby, 1), "up", false));
        let events = t.baton(&["events", "-n", "40"]).unwrap_or_else(|e| panic!("{e:#}"));
        let words = one_line(&events);
        t.expect("it was an event", words.contains("(broadcast eth0) is one-way"), &events);
        take(t, leader, &original);
        t.at_most("HTTP gap", prober.history().gap(begin, Instant::now()), NO_GAP);
        writer.stop();
        t.audit(&writer.journal());
    });
}
