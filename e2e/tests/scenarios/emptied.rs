//! etcd loses everything it holds, as docs/operations.md tells what happens then: while the group is served, and while nobody
//! serves it.

use crate::control::WRITES_GO_ON;
use crate::{MOVE_BESIDE, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::config::GROUP;
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use std::time::{Duration, Instant};

/// Until a leader has written its record into the etcd that answers: a watch says at once that it is gone.
const REWRITTEN: Duration = Duration::from_secs(10);
/// A group that must not start by itself is watched for so long: longer than any timer of a takeover, and than `initdead`.
const LEFT_ALONE: Duration = Duration::from_secs(12);

#[test]
fn under_a_served_group() {
    scenario("etcd emptied under a served group", |t, leader| {
        let (epoch, other) = (t.epoch_of(leader), t.config.other(leader));
        let prober = t.prober();
        let mut writer = t.writer("emptied", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        empty(t);
        t.wait_for("the leader's record", REWRITTEN, |_| {
            let record = keys(t);
            if record.iter().any(|k| k.ends_with("/insync")) { Ok(()) } else { Err(format!("{record:?}")) }
        });
        let dry = said(t, &["cluster", "recover", "--dry-run"]);
        t.expect(
            "the leader needs nothing",
            dry.contains(&format!("{GROUP}: nothing to do, {leader} leads it")),
            &dry,
        );
        t.expect("the specification is missed", dry.contains("specification"), &dry);
        let done = said(t, &["cluster", "recover", "--yes"]);
        t.expect("the specification is written back", keys(t).iter().any(|k| k.ends_with("/spec")), &done);
        let _ = t.wait_healthy(WHOLE);
        let end = Instant::now();
        t.at_most("HTTP gap", prober.history().gap(begin, end), NO_GAP);
        t.at_most("gap of committed writes", writer.journal().gap(begin, end), WRITES_GO_ON);
        t.stayed("nobody took over", leader, epoch);

        t.move_to(&other);
        t.wait_for("a move as ever", Duration::from_secs(20), |view| match view.serving() {
            Some(now) if now == other => Ok(()),
            now => Err(format!("{now:?} serves")),
        });
        writer.wait_ack(Instant::now(), Duration::from_secs(10));
        t.at_most("HTTP gap, planned move", prober.history().gap(end, Instant::now()), MOVE_BESIDE);
        writer.stop();
        t.audit(&writer.journal());
    });
}

#[test]
fn while_nobody_serves() {
    scenario("etcd emptied while nobody serves", |t, leader| {
        let epoch = t.epoch_of(leader);
        let mut writer = t.writer("emptied-stopped", None);
        writer.wait_ack(Instant::now(), Duration::from_secs(10));
        t.baton(&["group", "disable", GROUP]).unwrap_or_else(|e| panic!("{e:#}"));
        let stopped = |view: &baton_e2e::status::View| {
            let state = view.of(leader)?.state().to_owned();
            if view.serving().is_none() && view.of(leader)?.leader().is_none() { Ok(()) } else { Err(state) }
        };
        t.wait_for("the group to stop", Duration::from_secs(30), stopped);
        writer.stop();
        let prober = t.prober();
        let begin = Instant::now();
        empty(t);
        // The wish is gone, too: what keeps the group from starting is what agents remember.
        let_pass(LEFT_ALONE);
        t.expect(
            "nobody starts it",
            prober.history().ok().next().is_none(),
            prober.history().failures(begin),
        );
        let dry = said(t, &["cluster", "recover", "--dry-run"]);
        let line = format!("{GROUP}: starts again from what {leader} holds");
        t.expect("it is said where it starts again", dry.contains(&line), &dry);
        t.expect(
            "a dry run changes nothing",
            !keys(t).iter().any(|k| k.ends_with("/insync")),
            keys(t).join(" "),
        );
        let done = said(t, &["cluster", "recover", "--yes"]);
        t.tell("what was done", done.lines().last().unwrap_or_default());
        let after = t.wait_healthy(WHOLE);
        let now = t.epoch_of(&after);
        t.expect("the epoch is a new one", now > epoch, format!("{epoch} to {now}"));
        t.audit(&writer.journal());
    });
}

/// Deletes every key.
fn empty(t: &Scenario) {
    let said = etcdctl(t, &["del", "", "--prefix"]);
    assert!(said.trim().parse().is_ok_and(|n: u32| n > 0), "etcd held nothing: {said}");
}

fn keys(t: &Scenario) -> Vec<String> {
    let all = etcdctl(t, &["get", "", "--prefix", "--keys-only"]);
    all.split_whitespace().map(str::to_owned).collect()
}

fn etcdctl(t: &Scenario, args: &[&str]) -> String {
    t.etcdctl(&t.config.hosts[0].name, args).unwrap_or_else(|e| panic!("{e:#}"))
}

fn said(t: &Scenario, args: &[&str]) -> String {
    t.baton(args).unwrap_or_else(|e| panic!("{e:#}"))
}
