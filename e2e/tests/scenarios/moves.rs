//! Planned moves: there and back, as an operator types them.

use crate::{MOVE, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{replicas, report};
use std::time::{Duration, Instant};

#[test]
fn there_and_back() {
    scenario("planned move there and back", |t, leader| {
        let other = t.config.other(leader);
        move_to(t, &other, "move-there");
        move_to(t, leader, "move-back");
        replicas::rest(t, leader);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
    });
}

fn move_to(t: &Scenario, host: &str, name: &str) {
    let prober = t.prober();
    let mut writer = t.writer(name, None);
    let_pass(Duration::from_secs(1));
    let begin = Instant::now();
    t.move_to(host);
    t.wait_for("the move", Duration::from_secs(20), |view| match view.serving() {
        Some(now) if now == host => Ok(()),
        other => Err(format!("{other:?} serves")),
    });
    writer.wait_ack(Instant::now(), Duration::from_secs(10));
    let after = t.wait_healthy(WHOLE);
    let_pass(Duration::from_secs(1));
    let to = Instant::now();
    t.at_most(&format!("HTTP gap, to {host}"), prober.history().gap(begin, to), MOVE);
    t.tell("gap of committed writes", report::ms(writer.journal().gap(begin, to)));
    let steps = t.status(host).map(|s| s.group()["last_takeover"].to_string()).unwrap_or_default();
    t.tell("steps", steps);
    t.expect("the group stays there", after == host, &after);
    writer.stop();
    t.audit(&writer.journal());
}
