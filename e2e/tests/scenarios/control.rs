//! What must not be felt: restarts of an agent, and an etcd that is away.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::{faults, report, shell};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Writes may be slower while something restarts on the same two cores, but not as slow as if a member had been lost.
const WRITES_GO_ON: Duration = Duration::from_millis(500);
/// Everything that an agent's restart could cause has happened by then: lease (5 s) and margins.
const AFTERMATH: Duration = Duration::from_secs(8);

#[test]
fn agent_restart_on_the_leader() {
    scenario("agent restart on the leader", |t, leader| {
        let gap = restart(t, leader, leader, "restart-leader", |agent| {
            shell::run(&["docker", "restart", agent]).unwrap_or_else(|e| panic!("{e:#}"));
        });
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_restart_on_the_standby() {
    scenario("agent restart on the standby", |t, leader| {
        let gap = restart(t, leader, &t.config.other(leader), "restart-standby", |agent| {
            shell::run(&["docker", "restart", agent]).unwrap_or_else(|e| panic!("{e:#}"));
        });
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_crash_on_the_leader() {
    scenario("agent crash on the leader", |t, leader| {
        let gap = restart(t, leader, leader, "crash-leader", |_| crash(t, leader));
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_crash_on_the_standby() {
    scenario("agent crash on the standby", |t, leader| {
        let standby = t.config.other(leader);
        let gap = restart(t, leader, &standby, "crash-standby", |_| crash(t, &standby));
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

/// SIGKILL of the agent's process; the engine starts its container again (`restart: unless-stopped`).
fn crash(t: &Scenario, host: &str) {
    let pid = || docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).pid;
    let before = pid();
    faults::signal(&[i32::try_from(before).unwrap_or(0)], Signal::KILL);
    let end = Instant::now() + Duration::from_secs(30);
    while [0, before].contains(&pid()) {
        assert!(Instant::now() < end, "the agent of {host} was not started again");
    }
}

/// Restarts the agent of `host` under load; returns the gap of HTTP. No takeover, no lost row.
fn restart(t: &Scenario, leader: &str, host: &str, name: &str, how: impl FnOnce(&str)) -> Duration {
    let epoch = t.epoch_of(leader);
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}")).name;
    let prober = t.prober();
    let mut writer = t.writer(name, None);
    let_pass(Duration::from_secs(1));
    let begin = Instant::now();
    how(&agent);
    t.tell("restart took", report::ms(begin.elapsed()));
    let_pass(AFTERMATH);
    let to = Instant::now();
    let after = t.wait_healthy(WHOLE);
    t.expect("no takeover", after == leader && t.epoch_of(leader) == epoch, &after);
    t.tell("gap of committed writes", report::ms(writer.journal().gap(begin, to)));
    writer.stop();
    t.audit(&writer.journal());
    prober.history().gap(begin, to)
}

/// How long etcd is away.
const ETCD_DOWN: Duration = Duration::from_secs(60);

#[test]
fn etcd_down() {
    scenario("etcd down", |t, leader| {
        let epoch = t.epoch_of(leader);
        let prober = t.prober();
        let mut writer = t.writer("etcd-down", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        let down = faults::etcd_down(t).unwrap_or_else(|e| panic!("{e:#}"));
        let_pass(Duration::from_secs(10));
        for host in &t.config.hosts {
            let status = t.status(&host.name).unwrap_or_else(|e| panic!("{e:#}"));
            t.expect(
                "status says that etcd is away",
                status.0["etcd"]["reachable"] == false,
                &status.0["etcd"]["error"],
            );
        }
        let_pass((down.at + ETCD_DOWN).saturating_duration_since(Instant::now()));
        let back = Instant::now();
        t.at_most("HTTP gap while etcd is down", prober.history().gap(begin, back), NO_GAP);
        t.at_most(
            "gap of committed writes while etcd is down",
            writer.journal().gap(begin, back),
            WRITES_GO_ON,
        );
        drop(down);
        let after = t.wait_healthy(WHOLE);
        let_pass(AFTERMATH);
        let to = Instant::now();
        t.at_most("HTTP gap when etcd is back", prober.history().gap(back, to), NO_GAP);
        t.at_most("gap of committed writes when etcd is back", writer.journal().gap(back, to), WRITES_GO_ON);
        t.expect("no takeover", after == leader && t.epoch_of(leader) == epoch, &after);
        writer.stop();
        t.audit(&writer.journal());
    });
}
