//! External fencing on the real cluster: with `fence: required` nobody takes over before a fence agent has confirmed that the
//! former leader is off. The agent program speaks the ClusterLabs convention; the power switch behind it is this test.

use crate::apply::{in_force, take};
use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::docker::{self, Role};
use baton_e2e::report::ms;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{faults, shell};
use serde_json::Value;
use std::time::{Duration, Instant};

const AGENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/fencing/fence_e2e");
/// The leader is noticed after `deadtime` (1.5 s), and the program is started.
const ASKED: Duration = Duration::from_secs(15);
/// A takeover without a fence would have happened several times by then.
const HELD: Duration = Duration::from_secs(6);
/// From the confirmed off to the first commit.
const TAKEOVER: Duration = Duration::from_secs(20);
/// A round over the devices by command.
const SEEN: Duration = Duration::from_secs(20);

/// Runs a line in the agent's container of `host`, where fence agents run.
fn beside_agent(t: &Scenario, host: &str, line: &str) -> Result<String, String> {
    let agent = docker::part(&t.config, host, Role::Agent).map_err(|e| format!("{e:#}"))?;
    shell::run(&["docker", "exec", &agent.name, "sh", "-c", line]).map_err(|e| format!("{e:#}"))
}

fn install(t: &Scenario, host: &str) {
    let agent = docker::part(&t.config, host, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
    let to = format!("{}:/usr/sbin/fence_e2e", agent.name);
    shell::run(&["docker", "cp", AGENT, &to]).unwrap_or_else(|e| panic!("{e:#}"));
}

/// The specification with a device for each host, and a group that takes over only with it.
fn with_devices(t: &Scenario, original: &str, mode: &str) -> String {
    let mut text =
        original.replacen("    prefer: [alpha]\n", "    prefer: [alpha]\n    fence: required\n", 1);
    assert!(text != original, "the specification has no 'prefer: [alpha]':\n{original}");
    for host in &t.config.hosts {
        let from = format!("{}: {{ address: \"{}\" }}", host.name, host.address);
        assert!(text.contains(&from), "the specification has no '{from}':\n{text}");
        let to = format!(
            "{}: {{ address: \"{}\", fence: [{{ agent: fence_e2e, timeout: 60s, options: {{ plug: {}, mode: {mode} }} }}] }}",
            host.name, host.address, host.name
        );
        text = text.replace(&from, &to);
    }
    text
}

/// What `host`'s agent says of the fencing of `node`.
fn fence_of(t: &Scenario, host: &str, node: &str) -> Result<Value, String> {
    Ok(t.status(host).map_err(|e| format!("{e:#}"))?.node(node)["fence"].clone())
}

#[test]
fn required_fencing_holds_a_takeover_until_the_former_leader_is_off() {
    scenario("external fencing: required", |t, leader| {
        let (original, _) = in_force(t);
        let standby = t.config.other(leader);
        let epoch = t.epoch_of(leader);
        for host in [leader, &standby] {
            install(t, host);
        }

        // A switch that does not answer is known before it is needed.
        take(t, leader, &with_devices(t, &original, "dead"));
        let test = t.baton_at(&standby, &["fence", "--test", "--json"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("a dead switch is an exit code of 'baton fence --test'", test.code == Some(1), test.text());
        t.expect("and said", test.text().contains("the switch does not answer"), test.text());

        take(t, leader, &with_devices(t, &original, "good"));
        let test = t.baton_at(&standby, &["fence", "--test"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("a switch that answers", test.code == Some(0), test.text());
        t.wait_for("the safety level in force", SEEN, |view| {
            let safety = view.of(leader)?.group()["safety"].to_string();
            if safety.contains("external_agent") { Ok(()) } else { Err(safety) }
        });
        let said = t.baton_at(&standby, &["fence", leader, "--action", "status"]);
        let said = said.unwrap_or_else(|e| panic!("{e:#}"));
        t.expect("the switch says on", said.code == Some(0) && said.text().contains("says on"), said.text());

        let mut writer = t.writer("fencing", None);
        let_pass(Duration::from_secs(1));
        let cut = faults::power_cut(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        t.wait_for("the fence agent asked", ASKED, |_| {
            beside_agent(t, &standby, &format!("cat /tmp/power-{leader}.asked")).map(drop)
        });
        t.tell("from the power cut to the program", ms(cut.elapsed()));
        let_pass(HELD);
        let seen = t.status(&standby).unwrap_or_else(|e| panic!("{e:#}"));
        t.expect(
            "nobody takes over before the switch has answered",
            seen.group_node(&standby)["state"] == "standby" && seen.epoch() == epoch,
            seen.group(),
        );
        let list = t.baton_at(&standby, &["fence", "--list"]).unwrap_or_else(|e| panic!("{e:#}"));
        t.tell("baton fence --list meanwhile", list.text().trim());

        let off = Instant::now();
        beside_agent(t, &standby, &format!("echo off > /tmp/power-{leader}"))
            .unwrap_or_else(|e| panic!("{e}"));
        writer.wait_ack(off, TAKEOVER);
        t.tell("from off to the first commit", ms(off.elapsed()));
        t.expect("the new leader", t.status(&standby).is_ok_and(|s| s.leader() == Some(&standby)), &standby);
        let fence = fence_of(t, &standby, leader).unwrap_or_else(|e| panic!("{e}"));
        t.expect("the former one counts as off", fence["off"] == true, &fence);

        faults::power_on(t, leader).unwrap_or_else(|e| panic!("{e:#}"));
        beside_agent(t, &standby, &format!("echo on > /tmp/power-{leader}"))
            .unwrap_or_else(|e| panic!("{e}"));
        let after = t.wait_healthy(WHOLE);
        t.expect("the new leader stays", after == standby, &after);
        t.wait_for("a node that is heard no longer counts as off", SEEN, |_| {
            let fence = fence_of(t, &standby, leader)?;
            if fence["off"] == false { Ok(()) } else { Err(fence.to_string()) }
        });
        writer.stop();
        t.audit(&writer.journal());
        take(t, &standby, &original);
        let _ = t.wait_healthy(WHOLE);
    });
}
