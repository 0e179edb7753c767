//! A person's word about where a group runs, on the real cluster: disabled and enabled again, pinned and free again.

use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::http;
use baton_e2e::report::ms;
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::shell;
use std::time::{Duration, Instant};

/// Apache (2 s) and MariaDB (5 s) have their grace, the filesystem is unmounted; on two busy cores.
const STOPPED: Duration = Duration::from_secs(30);
/// The lease (5 s), its margin and several deadtimes: by then every automatic takeover would have happened.
const PATIENCE: Duration = Duration::from_secs(12);
/// Requests of the scenario itself.
const ASK: Duration = Duration::from_secs(1);

/// Names of the group's containers that run, on both hosts.
fn running(t: &Scenario) -> Vec<String> {
    let names = shell::run(&["docker", "ps", "--format", "{{.Names}}"]).unwrap_or_else(|e| panic!("{e:#}"));
    let services = t.config.hosts.iter().map(|host| format!("{}-{}-web-", t.config.cluster, host.name));
    let services: Vec<String> = services.collect();
    let of_group = |name: &&str| services.iter().any(|service| name.starts_with(service.as_str()));
    names.lines().filter(of_group).map(str::to_owned).collect()
}

fn answers(t: &Scenario) -> bool {
    http::get(t.config.at_vip(80), "/healthz", ASK, ASK).is_ok_and(|answer| answer.status == 200)
}

#[test]
fn a_disabled_group_stays_stopped_until_it_is_enabled() {
    scenario("group disabled and enabled", |t, leader| {
        let mut writer = t.writer("disabled", None);
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        t.baton(&["group", "disable", "web", "--reason", "new tables"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("the group stopped everywhere", STOPPED, |view| {
            let on = running(t);
            match (view.of(leader)?.leader(), on.is_empty()) {
                (None, true) => Ok(()),
                (who, _) => Err(format!("{who:?} leads, {on:?} run")),
            }
        });
        t.tell("from the command to a stopped group", ms(begin.elapsed()));

        let end = Instant::now() + PATIENCE;
        for host in &t.config.hosts {
            docker::restart(&t.config, &host.name, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
        }
        let mut seen = Vec::new();
        while Instant::now() < end {
            seen.extend(running(t));
            if answers(t) {
                seen.push("the address answers".to_owned());
            }
        }
        t.expect("it stays stopped while agents restart", seen.is_empty(), seen.join(", "));
        let why = t.baton(&["explain", "web"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("explain says so and why", why.contains("disabled") && why.contains("new tables"), &why);

        let begin = Instant::now();
        t.baton(&["group", "enable", "web"]).unwrap_or_else(|e| panic!("{e:#}"));
        let after = t.wait_healthy(WHOLE);
        t.tell("from the command to a whole cluster", ms(begin.elapsed()));
        t.tell("serves afterwards", &after);
        writer.wait_ack(begin, STOPPED);
        writer.stop();
        t.audit(&writer.journal());
    });
}

#[test]
fn a_pinned_group_is_not_moved_until_it_is_free() {
    scenario("group pinned", |t, leader| {
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let prober = t.prober();
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();
        t.baton(&["group", "pin", "web", "--reason", "licence"]).unwrap_or_else(|e| panic!("{e:#}"));
        let refused =
            t.baton_at(leader, &["move", "web", "--to", &standby]).unwrap_or_else(|e| panic!("{e:#}"));
        let said = refused.text();
        t.expect("a move is refused", refused.code != Some(0) && said.contains("pinned"), &said);
        t.expect("and says how to go on", said.contains("baton group unpin web"), &said);
        let_pass(Duration::from_secs(2));
        t.stayed("nothing moved", leader, epoch);
        t.at_most("HTTP gap", prober.history().gap(begin, Instant::now()), NO_GAP);
        t.baton(&["group", "unpin", "web"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.move_to(&standby);
        t.wait_for("the move", STOPPED, |view| match view.serving() {
            Some(host) if host == standby => Ok(()),
            other => Err(format!("{other:?} serves")),
        });
    });
}
