//! The replicator's process dies or is replaced on the leader: a pause, not an error, and nobody takes over. If its container is,
//! together with the agent, the services start anew on the new device.
//!
//! What is killed is the worker; its holder is the container's first process and starts the next one.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Container, Role};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{faults, replicas, shell};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The longest that committed writes may pause.
const PAUSE: Duration = Duration::from_secs(2);
/// So long a commit is waited for before it counts as failed.
const UNBROKEN: Duration = Duration::from_secs(15);
/// Four containers that the engine kills and starts, then the services, MariaDB's crash recovery among them.
const REPLACED: Duration = Duration::from_secs(30);
/// Everything that a death could cause has happened by then: lease (5 s) and margins.
const AFTERMATH: Duration = Duration::from_secs(8);

#[test]
fn killed_on_the_leader_under_load() {
    scenario("replicator's worker killed on the leader", |t, leader| {
        pause(t, leader, "worker-killed", |holder, worker| {
            assert_ne!(holder, worker);
            faults::signal(&[worker], Signal::KILL);
        });
    });
}

#[test]
fn replaced_on_the_leader_under_load() {
    scenario("replicator's worker replaced on the leader", |t, leader| {
        pause(t, leader, "worker-replaced", |holder, _| faults::signal(&[holder], Signal::HUP));
    });
}

/// As Compose does to two hosts whose image has changed: the services go on running, their device goes.
#[test]
fn all_agents_and_replicators_replaced_at_once() {
    scenario("agents and replicators of both hosts replaced at once", |t, _| {
        let mut writer = t.writer("all-replaced", None);
        let_pass(Duration::from_secs(1));
        let all = docker::containers(&t.config).unwrap_or_else(|e| panic!("{e:#}"));
        let ours = |c: &Container| c.running && matches!(c.role, Role::Agent | Role::Replicator);
        let ours: Vec<Container> = all.into_iter().filter(ours).collect();
        assert_eq!(ours.len(), 2 * t.config.hosts.len(), "{ours:?}");
        let begin = Instant::now();
        for command in [&["kill", "-s", "KILL"][..], &["start"]] {
            docker::all(command, &ours).unwrap_or_else(|e| panic!("{e:#}"));
        }
        // Healthy is more than what the agents say: the page is asked, and it asks the database.
        let now = t.wait_healthy(WHOLE);
        writer.wait_ack(Instant::now(), Duration::from_secs(10));
        let to = Instant::now();
        t.tell("serves again", &now);
        t.at_most("gap of committed writes", writer.journal().gap(begin, to), REPLACED);
        writer.stop();
        t.audit(&writer.journal());
        drop(writer);
        replicas::rest(t, &now);
        let equal = replicas::verify(t);
        t.expect("the replicas are byte-identical", equal.is_ok(), format!("{equal:?}"));
    });
}

/// Holder and worker of a host's replicator.
fn processes(t: &Scenario, host: &str) -> (i32, i32) {
    let part = docker::part(&t.config, host, Role::Replicator).unwrap_or_else(|e| panic!("{e:#}"));
    let holder = i32::try_from(part.pid).unwrap_or(0);
    let children = shell::run(&["cat", &format!("/proc/{holder}/task/{holder}/children")]);
    let worker = children.ok().and_then(|c| c.split_whitespace().next()?.parse().ok());
    (holder, worker.unwrap_or(0))
}

fn pause(t: &Scenario, leader: &str, name: &str, how: impl FnOnce(i32, i32)) {
    let epoch = t.epoch_of(leader);
    let (holder, worker) = processes(t, leader);
    assert!(holder > 1 && worker > 1, "the replicator of {leader} has no worker: {holder}, {worker}");
    // The pause is measured; how long it may be is one thing, that no connection breaks another.
    let mut writer = t.writer_waiting(name, UNBROKEN);
    let_pass(Duration::from_secs(2));
    let begin = Instant::now();
    how(holder, worker);
    writer.wait_ack(begin + Duration::from_millis(200), WHOLE);
    let_pass(AFTERMATH);
    let to = Instant::now();
    let (same, next) = processes(t, leader);
    t.expect("the same holder has another worker", same == holder && next != worker && next > 1, next);
    let _ = t.wait_healthy(WHOLE);
    t.stayed("no takeover", leader, epoch);
    t.at_most("pause of committed writes", writer.journal().gap(begin, to), PAUSE);
    writer.stop();
    let failed = {
        let journal = writer.journal();
        journal.attempted() as usize - journal.acks.len()
    };
    t.expect("no transaction failed", failed == 0, failed);
    t.audit(&writer.journal());
    drop(writer);
    replicas::rest(t, leader);
    let equal = replicas::verify(t);
    t.expect("the replicas are byte-identical", equal.is_ok(), format!("{equal:?}"));
}
