//! Frozen leader: SIGSTOP of its agent, of agent and replicator, of everything; then SIGCONT.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Container, Role};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::watch::Watch;
use baton_e2e::{faults, netns, replicas, report};
use std::time::{Duration, Instant};

/// An address with `valid_lft` 2 was measured to last 2.0 to 2.9 s after its last extension; the documented bound of
/// this fence is `valid_lft` + 1.25 s. The last extension is up to a keepalive before the freeze, never after.
const ADDRESS_GONE: Duration = Duration::from_millis(3250);
/// From the freeze to the last answer that the frozen host's address gives: `fencetime` from the last heartbeat that was
/// acknowledged, 50 ms of the kernel, and what freezing containers one after another and a probe's own time take.
const SILENT: Duration = Duration::from_millis(1300);
/// How long the leader stays frozen: longer than the etcd lease (5 s), so that both ways to a takeover were open.
const FROZEN: Duration = Duration::from_secs(7);
/// From SIGCONT to the old leader's own word that it leads no more.
const NOTICED: Duration = Duration::from_secs(10);

#[test]
fn agent() {
    scenario("frozen agent of the leader", |t, leader| {
        freeze(t, leader, "frozen-agent", |c| c.role == Role::Agent)
    });
}

#[test]
fn agent_and_replicator() {
    scenario("frozen agent and replicator of the leader", |t, leader| {
        freeze(t, leader, "frozen-both", |c| matches!(c.role, Role::Agent | Role::Replicator));
    });
}

#[test]
fn everything() {
    scenario("everything frozen on the leader", |t, leader| freeze(t, leader, "frozen-all", |_| true));
}

fn freeze(t: &Scenario, old: &str, name: &str, which: impl Fn(&Container) -> bool) {
    let epoch = t.epoch_of(old);
    t.wait_for("nftables fences the leader", Duration::from_secs(5), |view| {
        let by =
            view.of(old)?.node(old)["fencing"]["by"].as_str().unwrap_or("nothing that is said").to_owned();
        if by == "nftables" { Ok(()) } else { Err(format!("{old} is fenced by {by}")) }
    });
    let mut watch = Watch::start(t, name, old);
    let begin = Instant::now() - Duration::from_millis(500);
    let containers = docker::of_host(&t.config, old).unwrap_or_else(|e| panic!("{e:#}"));
    let targets: Vec<_> = containers.into_iter().filter(|c| c.running && which(c)).collect();
    let frozen = faults::freeze(&targets).unwrap_or_else(|e| panic!("{e:#}"));
    let at = frozen.at;
    watch.wait_takeover(at);
    let_pass((at + FROZEN).saturating_duration_since(Instant::now()));
    let found = watch.findings();
    let gone = netns::gone_at(&found.old_held).map(|gone| gone.saturating_duration_since(at));
    t.at_most("the address left the frozen host", gone.unwrap_or(FROZEN), ADDRESS_GONE);
    t.tell(
        "both hosts held the address",
        report::ms(netns::both(&found.old_held, &found.new_held, at, found.to)),
    );
    t.at_most("last answer on the frozen host", found.silence(old, at), SILENT);
    t.tell("HTTP gap", report::ms(found.outside.gap(begin, found.to)));
    t.tell("gap of committed writes", report::ms(watch.writer.journal().gap(begin, found.to)));

    let thawed = frozen.thaw();
    t.wait_for("the old leader's own word that it does not lead", NOTICED, |view| {
        let own = view.of(old)?;
        let part = own.group_node(old)["state"].as_str().unwrap_or_default();
        let stood_down = own.leader() == Some(&watch.new) && own.epoch() > epoch && part == "standby";
        if stood_down {
            Ok(())
        } else {
            Err(format!("{old} is {part}, epoch {}, leader {:?}", own.epoch(), own.leader()))
        }
    });
    t.tell("stepped down after SIGCONT", report::ms(thawed.elapsed()));
    let leader = t.wait_healthy(WHOLE);
    let found = watch.findings();
    t.expect("the new leader still leads", leader == watch.new, found.answers(at));
    let both = netns::both(&found.old_held, &found.new_held, thawed, found.to);
    t.expect("both hosts held the address after SIGCONT", both.is_zero(), report::ms(both));
    let from_old = |p: &&baton_e2e::prober::Probe| p.end > thawed && p.served_by.as_deref() == Ok(old);
    let answers = found.outside.ok().filter(from_old).count() + found.inside.ok().filter(from_old).count();
    t.expect("answers of the old leader after SIGCONT", answers == 0, answers);
    watch.judge_rows(t, at);
    replicas::rest(t, &leader);
    replicas::verify(t).unwrap_or_else(|e| panic!("{e:#}"));
}
