//! Planned moves: there and back, as an operator types them.

use crate::{MOVE, MOVE_BESIDE, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{replicas, report};
use std::time::{Duration, Instant};

#[test]
fn there_and_back() {
    scenario("planned move there and back", |t, leader| {
        let other = t.config.other(leader);
        let gaps = [move_to(t, &other, "move-there"), move_to(t, leader, "move-back")];
        t.at_most("HTTP gap, the better of the two", gaps[0].min(gaps[1]), MOVE);
        replicas::rest(t, leader);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
    });
}

/// Moves the group under load; how long HTTP was without an answer.
fn move_to(t: &Scenario, host: &str, name: &str) -> Duration {
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
    let gap = prober.history().gap(begin, to);
    t.at_most(&format!("HTTP gap, to {host}"), gap, MOVE_BESIDE);
    t.tell("gap of committed writes", report::ms(writer.journal().gap(begin, to)));
    let steps = t.status(host).map(|s| s.group()["last_takeover"].to_string()).unwrap_or_default();
    t.tell("steps", steps);
    t.expect("the group stays there", after == host, &after);
    writer.stop();
    t.audit(&writer.journal());
    gap
}
