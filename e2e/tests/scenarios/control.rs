//! What must not be felt: restarts of an agent, an etcd that is away, and one whose leader moves.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::{faults, report};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Writes may be slower while something restarts on the same two cores, but not as slow as if a member had been lost.
pub const WRITES_GO_ON: Duration = Duration::from_millis(500);
/// Everything that an agent's restart could cause has happened by then: lease (5 s) and margins.
const AFTERMATH: Duration = Duration::from_secs(8);

#[test]
fn agent_restart_on_the_leader() {
    scenario("agent restart on the leader", |t, leader| {
        let gap = restart(t, leader, "restart-leader", || again(t, leader));
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_restart_on_the_standby() {
    scenario("agent restart on the standby", |t, leader| {
        let standby = t.config.other(leader);
        let gap = restart(t, leader, "restart-standby", || again(t, &standby));
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_crash_on_the_leader() {
    scenario("agent crash on the leader", |t, leader| {
        let gap = restart(t, leader, "crash-leader", || crash(t, leader));
        t.at_most("HTTP gap", gap, NO_GAP);
    });
}

#[test]
fn agent_crash_on_the_standby() {
    scenario("agent crash on the standby", |t, leader| {
        let standby = t.config.other(leader);
        let gap = restart(t, leader, "crash-standby", || crash(t, &standby));
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

/// The agent's container is stopped and started, as an administrator does it.
fn again(t: &Scenario, host: &str) {
    docker::restart(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
}

/// Restarts an agent under load; returns the gap of HTTP. No takeover, no lost row.
fn restart(t: &Scenario, leader: &str, name: &str, how: impl FnOnce()) -> Duration {
    let epoch = t.epoch_of(leader);
    let prober = t.prober();
    let mut writer = t.writer(name, None);
    let_pass(Duration::from_secs(1));
    let begin = Instant::now();
    how();
    t.tell("restart took", report::ms(begin.elapsed()));
    let_pass(AFTERMATH);
    let to = Instant::now();
    let _ = t.wait_healthy(WHOLE);
    t.stayed("no takeover", leader, epoch);
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
        let _ = t.wait_healthy(WHOLE);
        let_pass(AFTERMATH);
        let to = Instant::now();
        t.at_most("HTTP gap when etcd is back", prober.history().gap(back, to), NO_GAP);
        t.at_most("gap of committed writes when etcd is back", writer.journal().gap(back, to), WRITES_GO_ON);
        t.stayed("no takeover", leader, epoch);
        writer.stop();
        t.audit(&writer.journal());
    });
}

/// An agent that has not had etcd's leader moved yet waits 20 s before it does, and looks at the members every few seconds.
const LEADER_AWAY: Duration = Duration::from_secs(60);

#[test]
fn etcds_leader_does_not_stay_beside_the_groups() {
    scenario("etcd's leader beside the group", |t, leader| {
        let epoch = t.epoch_of(leader);
        let prober = t.prober();
        let mut writer = t.writer("etcd-leader", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        let line = format!("{leader} leads groups");
        let told = || -> Result<Vec<String>, String> {
            let events =
                t.baton_at(leader, &["events", "-n", "200", "--json"]).map_err(|e| format!("{e:#}"))?;
            let ours = |l: &&str| l.contains("etcd's leader moved to its member") && l.contains(&line);
            Ok(events.stdout.lines().filter(ours).map(str::to_owned).collect())
        };
        let before = told().unwrap_or_else(|e| panic!("{e}"));
        // It asks ever more rarely, and earlier scenarios have made it ask; one that has just started has not.
        again(t, leader);
        // A busy machine has etcd elect by itself now and then: its leader is brought here until the agent has moved it. What is
        // seen of it is up to ten seconds old.
        let mut bring = Instant::now();
        let event = t.wait_for("an event tells that etcd's leader was moved", 3 * LEADER_AWAY, |_| {
            if let Some(event) = told()?.into_iter().find(|line| !before.contains(line)) {
                return Ok(event);
            }
            let there = etcds_leader(t, leader)?;
            if there != leader && Instant::now() >= bring {
                let members = t.etcdctl(&there, &["member", "list"]).map_err(|e| format!("{e:#}"))?;
                let line = members.lines().find(|line| line.split(", ").nth(2) == Some(leader));
                let id = line.and_then(|line| line.split(", ").next()).unwrap_or_default();
                t.etcdctl(&there, &["move-leader", id]).map_err(|e| format!("{e:#}"))?;
                bring = Instant::now() + LEADER_AWAY / 2;
            }
            Err(format!("etcd's leader is {there}"))
        });
        t.tell("from the restart to its event", format!("{}: {event}", report::ms(begin.elapsed())));
        t.wait_for("etcd's leader elsewhere", LEADER_AWAY, |_| {
            etcds_leader(t, leader).and_then(|at| if at == leader { Err(at) } else { Ok(()) })
        });
        let _ = t.wait_healthy(WHOLE);
        let end = Instant::now();
        t.stayed("no takeover", leader, epoch);
        t.at_most("HTTP gap", prober.history().gap(begin, end), NO_GAP);
        t.at_most("gap of committed writes", writer.journal().gap(begin, end), WRITES_GO_ON);
        writer.stop();
        t.audit(&writer.journal());
    });
}

/// The name of the member that leads etcd, as a host's agent sees it.
fn etcds_leader(t: &Scenario, host: &str) -> Result<String, String> {
    let status = t.status(host).map_err(|e| format!("{e:#}"))?;
    let members = status.0["etcd"]["members"].as_array().cloned().unwrap_or_default();
    let leads = members.iter().find(|m| m["leads"] == true).and_then(|m| m["name"].as_str());
    leads.map(str::to_owned).ok_or_else(|| format!("{members:?}"))
}
