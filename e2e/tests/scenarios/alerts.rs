//! Alerts fired for real, by their cause, with the very rules that are shipped: seen in Prometheus, in Alertmanager, in the
//! mail server and at the webhook. Faults that do not disturb each other are caused together.
//!
//! Left to `promtool test rules` alone are alerts whose `for` or window is longer than two minutes, and those whose fault
//! would cost the cluster its data or this machine its disk.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::config::HEARTBEAT_PORT;
use baton_e2e::docker::{self, Container, Role};
use baton_e2e::monitoring::Monitoring;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{faults, report, shell};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// From a condition to a mail: two scrapes, two evaluations (5 s each), Alertmanager's group_wait or, for a later alert of
/// the same urgency, its group_interval (30 s), and a busy machine.
const DELIVERY: Duration = Duration::from_secs(55);
/// Until alerts of the phase before are over: they are resolved at the first evaluation without them.
const QUIET: Duration = Duration::from_secs(30);

/// A host restarts a service twice before the group moves; one that was moved away needs as many kills on the other.
const KILLS: usize = 6;
/// Prometheus has seen what there is: an interval of 5 s, and a little more.
const SCRAPED: Duration = Duration::from_secs(6);

/// Waits for the alerts of a phase and judges them.
fn must_arrive(t: &Scenario, m: &Monitoring, names: &[&str], longest_for: Duration, cause: impl FnOnce()) {
    m.wait_quiet(names, QUIET).unwrap_or_else(|e| panic!("{e:#}"));
    let before = m.before().unwrap_or_else(|e| panic!("{e:#}"));
    let begin = Instant::now();
    cause();
    // What causes them takes a while itself, and the last of it counts.
    let limit = begin.elapsed() + longest_for + DELIVERY;
    for (name, seen) in m.watch(names, &before, begin, limit) {
        let word =
            |way: Option<Duration>| way.map_or("never".to_owned(), |d| format!("{:.0} s", d.as_secs_f64()));
        let measured = format!(
            "fired {}, mail {}, webhook {}{}",
            word(seen.fired),
            word(seen.mailed),
            word(seen.called),
            if seen.silenced { ", silenced by its cause" } else { "" }
        );
        t.expect(&name, seen.arrived(), measured);
    }
}

fn etcd_members(t: &Scenario, hosts: &[&str]) -> Vec<Container> {
    let all = docker::containers(&t.config).unwrap_or_else(|e| panic!("{e:#}"));
    // The witness's carries its host's label, too.
    let mine = |c: &Container| c.role == Role::Etcd && c.host.as_deref().is_some_and(|h| hosts.contains(&h));
    all.into_iter().filter(|c| c.running && mine(c)).collect()
}

/// Kills these members of etcd; healing starts them.
fn kill_etcd(t: &Scenario, hosts: &[&str]) {
    let members = etcd_members(t, hosts);
    assert_eq!(members.len(), hosts.len(), "{members:?}");
    docker::all(&["kill", "-s", "KILL"], &members).unwrap_or_else(|e| panic!("{e:#}"));
}

#[test]
fn driven_back_and_forth() {
    scenario("alerts: moves, restarts, foreign heartbeats, partition", |t, leader| {
        let m = Monitoring::of(&t.config);
        let names = ["BatonFlapping", "BatonServiceRestarts", "BatonHeartbeatsRefused", "BatonNodesApart"];
        let standby = t.config.other(leader);
        let mut apart = None;
        must_arrive(t, &m, &names, Duration::from_secs(30), || {
            let stranger = UdpSocket::bind("0.0.0.0:0").unwrap();
            let beats = (t.config.host(leader).address, HEARTBEAT_PORT);
            for _ in 0..5 {
                stranger.send_to(b"this is no heartbeat of yours", beats).unwrap();
            }
            for to in [&standby, leader, &standby, leader] {
                t.move_to(to);
                let _ = t.wait_healthy(WHOLE);
            }
            kill_service(t);
            apart = Some(faults::block_heartbeats(t, &standby).unwrap_or_else(|e| panic!("{e:#}")));
        });
        drop(apart);
    });
}

/// Kills Apache until its agent says that it has restarted it twice in place, and waits each time until all is well again. A
/// restart that takes long counts against the group as well: then it moves, and the next one begins anew on the other host.
fn kill_service(t: &Scenario) {
    let apache = || {
        let all = docker::containers(&t.config).unwrap_or_else(|e| panic!("{e:#}"));
        all.into_iter().find(|c| c.running && c.service.as_deref() == Some("apache"))
    };
    for _ in 0..KILLS {
        let killed = apache().unwrap_or_else(|| panic!("apache does not run"));
        shell::run(&["docker", "kill", "-s", "KILL", &killed.id]).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("apache again", Duration::from_secs(20), |_| {
            apache().filter(|now| now.pid != killed.pid).map(drop).ok_or_else(|| "it does not run".to_owned())
        });
        // The runtime counts one failure per look at the containers, at least one a second.
        let_pass(Duration::from_secs(2));
        let serves = t.wait_healthy(WHOLE);
        let status = t.status(&serves).unwrap_or_else(|e| panic!("{e:#}"));
        let services = status.0["groups"][0]["services"].as_array().cloned().unwrap_or_default();
        let restarts = services.iter().find(|s| s["name"] == "apache").and_then(|s| s["restarts"].as_u64());
        if restarts >= Some(2) {
            return let_pass(SCRAPED);
        }
    }
    panic!("apache was not restarted twice in place on one host by {KILLS} kills");
}

#[test]
fn of_a_host_and_of_etcd_lost() {
    scenario("alerts: standby's power, etcd's majority", |t, leader| {
        let m = Monitoring::of(&t.config);
        let standby = t.config.other(leader);
        let names = [
            "BatonNodeDown",
            "BatonAgentDown",
            "BatonReplicationLinkDown",
            "BatonEtcdUnreachable",
            "EtcdMemberDown",
            "EtcdNoQuorum",
        ];
        must_arrive(t, &m, &names, Duration::from_secs(60), || {
            faults::power_cut(t, &standby).unwrap_or_else(|e| panic!("{e:#}"));
            t.wait_for("the leader alone in the in-sync set", Duration::from_secs(10), |view| {
                let set = view.of(leader)?.in_sync().len();
                if set == 1 { Ok(()) } else { Err(format!("{set} members")) }
            });
            kill_etcd(t, &["witness"]);
        });
        let page = t.status(leader).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("it serves all the while", page.group()["state"] == "serving", &page.group()["state"]);
    });
}

#[test]
fn of_writes_that_cannot_go_on() {
    scenario("alerts: replicator, etcd and heartbeats lost", |t, leader| {
        let m = Monitoring::of(&t.config);
        let standby = t.config.other(leader);
        let names = ["BatonReplicatorDown", "BatonVolumeFrozen"];
        let mut frozen = None;
        let mut writer = t.writer("alerts-frozen", None);
        must_arrive(t, &m, &names, Duration::from_secs(30), || {
            kill_etcd(t, &["witness", &standby]);
            let replicator =
                docker::part(&t.config, &standby, Role::Replicator).unwrap_or_else(|e| panic!("{e:#}"));
            frozen = Some(faults::freeze(&[replicator]).unwrap_or_else(|e| panic!("{e:#}")));
        });
        // Neither a promise of its standby nor a way to remove it: the leader has to fence itself.
        let names = ["BatonFenced", "BatonNobodyServes"];
        let mut apart = None;
        must_arrive(t, &m, &names, Duration::from_secs(10), || {
            apart = Some(faults::block_heartbeats(t, &standby).unwrap_or_else(|e| panic!("{e:#}")));
        });
        drop((apart, frozen));
        writer.stop();
        let _ = t.heal();
        t.audit(&writer.journal());
    });
}

#[test]
fn of_a_group_without_a_leader_and_a_webhook_that_does_not_answer() {
    scenario("alerts: no leader, webhook down", |t, leader| {
        let m = Monitoring::of(&t.config);
        let standby = t.config.other(leader);
        t.mode(&standby, "maintenance");
        let webhook = m.webhook_down().unwrap_or_else(|e| panic!("{e:#}"));
        let before = m.before().unwrap_or_else(|e| panic!("{e:#}"));
        let begin = Instant::now();
        faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        // Alertmanager gives a notification up after its group_interval.
        let seen =
            m.watch(&["BatonNoLeader", "BatonAlertsNotDelivered"], &before, begin, Duration::from_secs(100));
        drop(webhook);
        for (name, seen) in &seen {
            // The webhook cannot have heard of it: the mail has to.
            let ok = seen.fired.is_some() && (seen.mailed.is_some() || seen.silenced);
            let mailed = seen.mailed.map_or("silenced by its cause".into(), report::ms);
            t.expect(name, ok, format!("fired {:?}, mail {mailed}", seen.fired.map(|d| d.as_secs())));
        }
        t.mode(&standby, "online");
        faults::power_on(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let _ = t.wait_healthy(WHOLE);
    });
}

#[test]
fn of_agents_that_all_hang() {
    scenario("alerts: no agent answers", |t, _| {
        let m = Monitoring::of(&t.config);
        let mut frozen = None;
        must_arrive(t, &m, &["BatonNoAgentAnswers"], Duration::from_secs(30), || {
            let all = docker::containers(&t.config).unwrap_or_else(|e| panic!("{e:#}"));
            let agents: Vec<_> = all.into_iter().filter(|c| c.running && c.role == Role::Agent).collect();
            frozen = Some(faults::freeze(&agents).unwrap_or_else(|e| panic!("{e:#}")));
        });
        drop(frozen);
    });
}
