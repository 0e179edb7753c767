//! Pulled cable: the leader's namespace loses its link, with everything on it alive.

use crate::{HTTP_WORST, WRITES_MEDIAN, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::watch::Watch;
use baton_e2e::{faults, replicas, report};
use std::time::Duration;

#[test]
fn of_the_leader_there_and_back() {
    scenario("pulled cable of the leader", |t, leader| {
        let old = leader.to_owned();
        pull(t, &old, "cable-1");
        let new = t.heal();
        t.expect("the new leader stays when the cable is back", new != old, &new);
        pull(t, &new, "cable-2");
        let last = t.heal();
        replicas::rest(t, &last);
        replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("replicas", "byte-identical, fsck.ext4 -fn clean");
    });
}

fn pull(t: &Scenario, old: &str, name: &str) {
    let mut watch = Watch::start(t, name, old);
    let begin = std::time::Instant::now() - Duration::from_millis(500);
    let cut = faults::cut_cable(t, old).unwrap_or_else(|e| panic!("{e:#}"));
    watch.wait_takeover(cut.at);
    // Longer than lease and initdead: everything that the cut-off side does by itself has been done.
    let_pass(Duration::from_secs(6));
    let found = watch.findings();
    t.at_most("HTTP gap", found.outside.gap(begin, found.to), HTTP_WORST);
    t.at_most("gap of committed writes", watch.writer.journal().gap(begin, found.to), WRITES_MEDIAN);
    t.tell("last answer on the cut-off host", report::ms(found.silence(old, cut.at)));
    let inside = watch.inside_writer.journal().acks.iter().filter(|a| a.begin > cut.at).count();
    t.expect("writes acknowledged on the cut-off host", inside == 0, inside);
    found.expect_exclusive(t, old, &watch.new, cut.at);
    let at = cut.at;
    drop(cut);
    let leader = t.wait_healthy(WHOLE);
    let_pass(Duration::from_secs(2));
    let found = watch.findings();
    let owners = [&found.old_held, &found.new_held].map(|h| h.last().is_some_and(|(_, holds)| *holds));
    t.expect("one address owner after the cable is back", owners == [false, true], format!("{owners:?}"));
    found.expect_exclusive(t, old, &watch.new, at);
    t.expect("the new leader still leads", leader == watch.new, found.answers(at));
    for host in [old, &watch.new] {
        let volume = t.status(host).map(|s| s.volume().to_string()).unwrap_or_default();
        t.expect("no split brain", !volume.contains("StandAlone"), format!("on {host}"));
    }
    watch.judge_rows(t, at);
}
