//! A specification that changes under load: what must restart restarts where it is, and nothing else is felt.
//!
//! Every scenario puts the specification back that it found.

use crate::let_pass;
use baton_e2e::cluster::Cluster;
use baton_e2e::docker::{self, Role};
use baton_e2e::http;
use baton_e2e::report;
use baton_e2e::scenario::{NO_GAP, Scenario, scenario};
use baton_e2e::shell::{self, Output};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Apache is stopped within its grace (2 s), created anew and started; on two busy cores.
const RESTART: Duration = Duration::from_secs(6);
/// Both agents run a new version: a watch wakes them within milliseconds, a lost one within a second.
const TAKEN_OVER: Duration = Duration::from_secs(5);
/// Requests of the scenario itself.
const ASK: Duration = Duration::from_secs(2);

/// The document in force and its version.
pub(crate) fn in_force(t: &Scenario) -> (String, i64) {
    let text = t.baton(&["spec", "show", "--json"]).unwrap_or_else(|e| panic!("{e:#}"));
    let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let version = document["version"].as_i64().unwrap_or(0);
    (document["text"].as_str().unwrap_or_default().to_owned(), version)
}

/// `baton apply -` at a host, as an operator would from a file.
fn apply(t: &Cluster, host: &str, text: &str, options: &str) -> Output {
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
    let file = std::env::temp_dir().join(format!("baton-apply-{host}-{}.yaml", std::process::id()));
    std::fs::write(&file, text).unwrap_or_else(|e| panic!("{e}"));
    let line = format!("docker exec -i {} baton apply - {options} < {}", agent.name, file.display());
    shell::try_run(Duration::from_secs(150), &["sh", "-c", &line]).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Applies what must be taken, and waits until every agent runs it.
pub(crate) fn take(t: &Scenario, host: &str, text: &str) -> Duration {
    let begin = Instant::now();
    let done = apply(t, host, text, "--yes --wait --timeout 60s");
    assert_eq!(done.code, Some(0), "{}", done.text());
    begin.elapsed()
}

/// The size of the demo's volume as the text has it: it may have grown.
pub(crate) fn size_of(text: &str) -> String {
    let at = text.find("size: ").unwrap_or_else(|| panic!("no size in\n{text}"));
    let end = text[at..].find([',', '}', '\n']).unwrap_or(text.len() - at);
    text[at..at + end].trim_end().to_owned()
}

fn edited(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the specification has no '{from}':\n{text}");
    text.replacen(from, to, 1)
}

/// Id and start of a service's container on a host; there is none while it is made anew.
fn made(t: &Scenario, host: &str, service: &str) -> Option<String> {
    let name = format!("{}-{host}-web-{service}", t.config.cluster);
    let format = "{{.Id}} {{.State.StartedAt}}";
    shell::run(&["docker", "inspect", "--format", format, &name]).ok()
}

fn service(t: &Scenario, host: &str, service: &str) -> String {
    made(t, host, service).unwrap_or_else(|| panic!("{service} of {host} has no container"))
}

fn answers(at: SocketAddr) -> bool {
    http::get(at, "/healthz", ASK, ASK).is_ok_and(|answer| answer.status == 200)
}

#[test]
fn a_changed_service_restarts_alone_and_in_place() {
    scenario("apply: a changed service", |t, leader| {
        let (original, _) = in_force(t);
        let epoch = t.epoch_of(leader);
        let (mysql, apache) = (service(t, leader, "mysql"), service(t, leader, "apache"));
        let mut writer = t.writer("apply-service", None);
        let prober = t.prober();
        let_pass(Duration::from_secs(1));

        let begin = Instant::now();
        let text = edited(
            &original,
            "image: baton/apache-php\n        environment: {",
            "image: baton/apache-php\n        environment: { APPLIED: \"1\",",
        );
        t.tell("apply --wait", report::ms(take(t, leader, &text)));
        t.wait_for("apache made anew", Duration::from_secs(20), |_| match made(t, leader, "apache") {
            Some(now) if now != apache => Ok(()),
            now => Err(format!("{now:?}")),
        });
        let _ = t.wait_healthy(Duration::from_secs(30));
        let_pass(Duration::from_secs(1));
        t.at_most("HTTP gap while apache restarts", prober.history().gap(begin, Instant::now()), RESTART);
        t.at_most(
            "gap of committed writes",
            writer.journal().gap(begin, Instant::now()),
            Duration::from_millis(500),
        );
        t.expect("MariaDB's container is the same and runs on", service(t, leader, "mysql") == mysql, &mysql);
        t.stayed("nothing moved", leader, epoch);

        let begin = Instant::now();
        take(t, &t.config.other(leader), &original);
        let_pass(Duration::from_secs(3));
        let _ = t.wait_healthy(Duration::from_secs(30));
        t.at_most("HTTP gap, back", prober.history().gap(begin, Instant::now()), RESTART);
        writer.stop();
        t.audit(&writer.journal());
    });
}

#[test]
fn timers_and_addresses_change_without_a_gap() {
    scenario("apply: timers and addresses", |t, leader| {
        let (original, before) = in_force(t);
        let epoch = t.epoch_of(leader);
        let mut writer = t.writer("apply-timers", None);
        let prober = t.prober();
        let_pass(Duration::from_secs(1));
        let begin = Instant::now();

        let slower =
            format!("{original}\nheartbeat: {{ keepalive: 150ms, warntime: 800ms, deadtime: 3s }}\n");
        t.at_most("timers in force everywhere", take(t, leader, &slower), TAKEN_OVER);
        let_pass(Duration::from_secs(4));

        let vip = t.config.at_vip(80);
        let second: SocketAddr = vip.to_string().replace(".100:", ".101:").parse().unwrap_or(vip);
        let prefix = vip.ip().to_string();
        let other = second.ip().to_string();
        let both = edited(&slower, &format!("\"{prefix}/24\""), &format!("\"{prefix}/24\", \"{other}/24\""));
        take(t, leader, &both);
        t.wait_for("the second address", Duration::from_secs(10), |_| {
            if answers(second) { Ok(()) } else { Err(format!("{second} does not answer")) }
        });
        let back =
            shell::run(&["sh", "-c", &rollback(t, leader, before)]).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("rollback", back.lines().last().unwrap_or_default());
        t.wait_for("the second address to go", Duration::from_secs(10), |_| {
            if answers(second) { Err(format!("{second} still answers")) } else { Ok(()) }
        });
        let_pass(Duration::from_secs(3));
        let end = Instant::now();
        t.at_most("HTTP gap", prober.history().gap(begin, end), NO_GAP);
        t.tell("gap of committed writes", report::ms(writer.journal().gap(begin, end)));
        t.stayed("nothing moved", leader, epoch);
        t.expect("the document is the first one again", in_force(t).0 == original, before);
        writer.stop();
        t.audit(&writer.journal());
    });
}

fn rollback(t: &Scenario, host: &str, version: i64) -> String {
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
    format!("docker exec {} baton spec rollback {version} --yes --wait", agent.name)
}

#[test]
fn what_is_wrong_or_late_is_refused() {
    scenario("apply: refusals", |t, leader| {
        let (original, version) = in_force(t);
        let wrong = edited(&original, &size_of(&original), "size: 1000000001");
        let refused = apply(t, leader, &wrong, "--yes");
        t.expect(
            "an invalid one",
            refused.code == Some(1) && refused.text().contains("size"),
            refused.text(),
        );
        let smaller = edited(&original, &size_of(&original), "size: 512MiB");
        let refused = apply(t, leader, &smaller, "--yes");
        t.expect("what cannot be done", refused.text().contains("never shrinks"), refused.text());
        t.expect("nothing was written", in_force(t) == (original.clone(), version), version);

        // Two people start from the same version.
        let standby = t.config.other(leader);
        let expect = format!("--yes --expect {version}");
        let (one, two) = (format!("{original}\n# one\n"), format!("{original}\n# two\n"));
        let cluster: &Cluster = t;
        let results = std::thread::scope(|s| {
            let a = s.spawn(|| apply(cluster, leader, &one, &expect));
            let b = s.spawn(|| apply(cluster, &standby, &two, &expect));
            [a.join(), b.join()].map(|r| r.unwrap_or_else(|_| panic!("the command did not run")))
        });
        let won = results.iter().filter(|r| r.code == Some(0)).count();
        let told = results.iter().filter(|r| r.text().contains("somebody else was faster")).count();
        t.expect("one of two wins, the other is told", (won, told) == (1, 1), format!("{won}, {told}"));
        take(t, leader, &original);
    });
}

#[test]
fn a_group_comes_and_goes() {
    scenario("apply: a group comes and goes", |t, leader| {
        let (original, _) = in_force(t);
        let epoch = t.epoch_of(leader);
        let prober = t.prober();
        let begin = Instant::now();
        let extra = edited(
            &original,
            "groups:\n",
            "groups:\n  extra:\n    services:\n      idle: { image: baton/apache-php, entrypoint: [sleep], command: [\"1000000\"], stop_grace_period: 1s }\n",
        );
        take(t, leader, &extra);
        let running = || {
            let filter = format!("label=baton.cluster={}", t.config.cluster);
            let line = [
                "docker",
                "ps",
                "-a",
                "--filter",
                &filter,
                "--filter",
                "label=baton.group=extra",
                "--format",
                "{{.State}}",
            ];
            shell::run(&line).unwrap_or_else(|e| panic!("{e:#}"))
        };
        t.wait_for("the new group's service", Duration::from_secs(40), |_| {
            let states = running();
            if states.contains("running") { Ok(()) } else { Err(format!("its containers: {states:?}")) }
        });
        take(t, leader, &original);
        t.wait_for("its containers to go", Duration::from_secs(40), |_| {
            let states = running();
            if states.trim().is_empty() { Ok(()) } else { Err(format!("its containers: {states:?}")) }
        });
        t.at_most("HTTP gap of the other group", prober.history().gap(begin, Instant::now()), NO_GAP);
        t.stayed("the other group did not move", leader, epoch);
    });
}
