//! The OpenAPI document held against the real agents, by schemathesis, as each role, while clients use the service: no
//! undocumented answer, no success for who may not, and whatever a script asks of the agents, no agent dies of it and
//! no acknowledged write is lost.
//!
//! Commands are carried out: nodes change their modes, the group moves, verifies begin and end, tokens come and go, the
//! specification is rolled back. Afterwards the cluster is as it was found.

use crate::apply;
use baton_e2e::config::{API_PORT, GROUP, VOLUME};
use baton_e2e::identity::handed_out;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{report, shell};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// For each role, seconds for single operations and for chains of them. What each constraint of the document excludes
/// (schemathesis' phase `coverage`) is asked of the fake agent only: at nine commands a second it takes a minute a role.
const PHASES: [(&str, u64); 2] = [("examples,fuzzing", 12), ("stateful", 6)];
/// A run that is asked to end finishes the case it is at; Python starts within seconds on busy cores.
const RUN: Duration = Duration::from_secs(180);
/// A verify is stopped by the agent beside the primary at its next look; a move takes some seconds.
const QUIET: Duration = Duration::from_secs(30);
/// A writer's first acknowledged row after everything was put back.
const WRITES: Duration = Duration::from_secs(10);

#[test]
fn the_document_holds_as_each_role() {
    scenario("contract of the API", |t, leader| {
        let other = t.config.other(leader);
        let (original, _) = apply::in_force(t);
        let before = tokens(t);
        let incarnations = incarnations(t);
        let mut writer = t.writer("contract", None);
        let prober = t.prober();
        let begin = Instant::now();

        // Both agents have their turn, and each role that may command has it where the group is not.
        let roles = [("none", leader), ("viewer", &other), ("operator", &other), ("admin", leader)];
        let made: Vec<Option<String>> = roles.iter().map(|(role, _)| token(t, role)).collect();
        let keep: BTreeSet<String> =
            before.iter().cloned().chain(made.iter().flatten().map(|m| id(m))).collect();
        for ((role, host), token) in roles.iter().zip(&made) {
            let asked = Instant::now();
            for (phases, seconds) in PHASES {
                let (well, cases) = hold(t, host, role, token.as_deref(), &keep, phases, seconds);
                t.expect(&format!("as {role}, {phases}"), well, cases);
            }
            t.tell(&format!("as {role} at {host} took"), report::ms(asked.elapsed()));
        }
        let gap = prober.history().gap(begin, Instant::now());
        t.tell("longest time without HTTP, with what was commanded", report::ms(gap));

        put_back(t, &original, &before);
        let _ = t.heal();
        wait_quiet(t);
        let now = t.heal();
        t.expect("no agent died", self::incarnations(t) == incarnations, incarnations.join(" "));
        t.expect("tokens are those from before", tokens(t) == before, before.len());
        let (text, _) = apply::in_force(t);
        t.expect("the specification is the one from before", text == original, text.len());
        writer.wait_ack(Instant::now(), WRITES);
        writer.stop();
        t.audit(&writer.journal());
        t.tell("serves afterwards", now);
    });
}

/// Makes a token of this role; nobody has none.
fn token(t: &Scenario, role: &str) -> Option<String> {
    let name = format!("contract-{role}");
    let make = || t.baton(&["token", "create", &name, "--role", role, "--expires", "1h"]);
    (role != "none").then(|| make().unwrap_or_else(|e| panic!("{e:#}")).trim().to_owned())
}

/// The id of a token: the part between the two underscores.
fn id(token: &str) -> String {
    token.split('_').nth(1).unwrap_or_default().to_owned()
}

/// Runs schemathesis; whether it found nothing, and its summary.
fn hold(
    t: &Scenario,
    host: &str,
    role: &str,
    token: Option<&str>,
    keep: &BTreeSet<String>,
    phases: &str,
    seconds: u64,
) -> (bool, String) {
    let words = |names: &[String]| names.join(" ");
    let nodes: Vec<String> = t.config.hosts.iter().map(|h| h.name.clone()).collect();
    let settings = [
        ("TOKEN", token.unwrap_or_default().to_owned()),
        ("CA", handed_out(&t.config.project).join("ca.crt").display().to_string()),
        ("NODES", words(&nodes)),
        ("GROUPS", GROUP.to_owned()),
        ("VOLUMES", VOLUME.to_owned()),
        ("KEEP", words(&keep.iter().cloned().collect::<Vec<_>>())),
    ];
    let mut command: Vec<String> = ["nice", "-n", "19", "env"].map(str::to_owned).into();
    command.extend(settings.map(|(name, value)| format!("BATON_CONTRACT_{name}={value}")));
    command.push(concat!(env!("CARGO_MANIFEST_DIR"), "/contract/check").to_owned());
    command.push(format!("https://{}:{API_PORT}", t.config.host(host).address));
    command.push(role.to_owned());
    let seconds = seconds.to_string();
    let options = ["--phases", phases, "--max-time", &seconds, "--max-examples", "5", "--no-shrink"];
    command.extend(options.map(str::to_owned));
    let argv: Vec<&str> = command.iter().map(String::as_str).collect();
    let output = shell::try_run(RUN, &argv).unwrap_or_else(|e| panic!("{e:#}"));
    let well = output.code == Some(0);
    if !well {
        println!("{}", output.text());
    }
    let cases = output.stdout.lines().find(|line| line.contains(" generated"));
    // Nothing found because nothing was asked is no success.
    (well && cases.is_some(), cases.unwrap_or("no summary").trim().to_owned())
}

/// Ids of the tokens that there are.
fn tokens(t: &Scenario) -> BTreeSet<String> {
    let text = t.baton(&["token", "list", "--json"]).unwrap_or_else(|e| panic!("{e:#}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    all.as_array().into_iter().flatten().filter_map(|t| t["id"].as_str().map(str::to_owned)).collect()
}

/// Names each run of an agent.
fn incarnations(t: &Scenario) -> Vec<String> {
    let own = |host: &str| t.status(host).map(|s| s.node(host)["incarnation"].to_string());
    t.config.hosts.iter().map(|h| own(&h.name).unwrap_or_else(|e| panic!("{e:#}"))).collect()
}

/// Undoes what the commands have left, but for the modes, which healing sets.
fn put_back(t: &Scenario, original: &str, before: &BTreeSet<String>) {
    for id in tokens(t).difference(before) {
        t.baton(&["token", "revoke", id]).unwrap_or_else(|e| panic!("{e:#}"));
    }
    for host in &t.config.hosts {
        t.mode(&host.name, "online");
    }
    t.baton(&["group", "enable", GROUP]).unwrap_or_else(|e| panic!("{e:#}"));
    if apply::in_force(t).0 != original {
        let host = &t.config.hosts[0].name;
        t.tell("specification put back in", report::ms(apply::take(t, host, original)));
    }
    t.baton(&["volume", "verify", VOLUME, "--stop"]).unwrap_or_else(|e| panic!("{e:#}"));
    t.baton(&["volume", "resume-sync", VOLUME]).unwrap_or_else(|e| panic!("{e:#}"));
    for host in &t.config.hosts {
        let end = ["volume", "export", VOLUME, "--node", &host.name, "--end"];
        t.baton(&end).unwrap_or_else(|e| panic!("{e:#}"));
    }
}

/// Waits until nothing that was asked for is still under way.
fn wait_quiet(t: &Scenario) {
    t.wait_for("no verify and no move", QUIET, |view| {
        for host in view.of.keys() {
            let (volume, group) = (view.of(host)?.volume(), view.of(host)?.group());
            let verify = &volume["verify"]["state"];
            if matches!(verify.as_str(), Some("running" | "waiting")) || !group["target"].is_null() {
                return Err(format!("{host}: verify {verify}, target {}", group["target"]));
            }
        }
        Ok(())
    });
}
