//! What an admin does on purpose, as docs/operations.md tells it.

use crate::{MOVE_BESIDE, let_pass};
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::{report, shell};
use std::time::{Duration, Instant};

/// Making two containers anew takes seconds each, and their stop up to its grace period.
const UPGRADE: Duration = Duration::from_secs(90);

#[test]
fn rolling_upgrade() {
    scenario("rolling upgrade to a rebuilt image", |t, leader| {
        let other = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        let old = image_of(t, leader);
        rebuild(&old);
        let prober = t.prober();
        let mut writer = t.writer("upgrade", None);
        let_pass(Duration::from_secs(1));

        let begin = Instant::now();
        upgrade(t, &other);
        t.at_most("HTTP gap, standby upgraded", prober.history().gap(begin, Instant::now()), NO_GAP);

        let begin = Instant::now();
        t.move_to(&other);
        t.wait_for("the move", Duration::from_secs(20), |view| match view.serving() {
            Some(now) if now == other => Ok(()),
            now => Err(format!("{now:?} serves")),
        });
        writer.wait_ack(Instant::now(), Duration::from_secs(10));
        let _ = t.wait_healthy(WHOLE);
        t.at_most("HTTP gap, planned move", prober.history().gap(begin, Instant::now()), MOVE_BESIDE);

        let begin = Instant::now();
        upgrade(t, leader);
        t.at_most("HTTP gap, old leader upgraded", prober.history().gap(begin, Instant::now()), NO_GAP);

        for host in &t.config.hosts {
            t.expect("runs the new image", image_of(t, &host.name) != old, &host.name);
        }
        let (after, now) = (t.wait_healthy(WHOLE), t.epoch_of(&other));
        t.expect(
            "one planned move, no takeover",
            after == other && now == epoch + 1,
            format!("{epoch} to {now}"),
        );
        writer.stop();
        t.tell("longest pause of committed writes", report::ms(writer.journal().gap(begin, Instant::now())));
        t.audit(&writer.journal());
    });
}

/// The image that a host's agent was made from, by id.
fn image_of(t: &Scenario, host: &str) -> String {
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
    let id = shell::run(&["docker", "inspect", "--format", "{{.Image}}", &agent.name]);
    id.unwrap_or_else(|e| panic!("{e:#}")).trim().to_owned()
}

/// The same content under another id, as after a rebuild.
fn rebuild(old: &str) {
    let container = shell::run(&["docker", "create", old]).unwrap_or_else(|e| panic!("{e:#}"));
    let container = container.trim();
    let built = shell::run(&["docker", "commit", "--change", "LABEL upgraded=yes", container, "baton/baton"]);
    let removed = shell::run(&["docker", "rm", container]);
    built.and(removed).unwrap_or_else(|e| panic!("{e:#}"));
}

/// Upgrades a host that leads nothing and waits until it could take over again.
fn upgrade(t: &Scenario, host: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose/scripts/host.sh");
    let output = shell::try_run(UPGRADE, &[script, "upgrade", host]).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(output.code, Some(0), "upgrade of {host}: {}", output.text());
    let _ = t.wait_healthy(WHOLE);
}
