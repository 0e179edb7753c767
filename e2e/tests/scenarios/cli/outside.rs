//! The CLI on a machine that is no host of the cluster: over TLS, with a context and a token.

use super::{Bench, first_line};
use baton_e2e::docker::{self, Role};
use baton_e2e::identity::handed_out;
use baton_e2e::shell::{self, Output};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A token made at one agent is known to the others by a watch; a loaded machine gets some more.
const KNOWN: Duration = Duration::from_secs(20);

/// Somebody's machine: a home directory, and the cluster's network. Dropping it removes the directory.
struct Machine {
    home: PathBuf,
    network: String,
    image: String,
}

impl Machine {
    fn new(b: &Bench<'_>) -> Self {
        let config = &b.t.config;
        let home = std::env::temp_dir().join(format!("{}-outside-{}", config.project, std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir(&home).unwrap_or_else(|e| panic!("{}: {e}", home.display()));
        std::fs::copy(handed_out(&config.project).join("ca.crt"), home.join("ca.crt")).expect("ca.crt");
        let agent = docker::part(config, &b.leader, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
        Self { home, network: format!("{}_default", config.project), image: agent.image }
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.home.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    fn run(&self, line: &str) -> Output {
        let home = format!("{}:/home/ada", self.home.display());
        let mut argv = vec!["docker", "run", "--rm", "--network", &self.network, "--cap-drop", "ALL"];
        argv.extend(["-v", &home, "-e", "HOME=/home/ada", "-w", "/home/ada", &self.image, "baton"]);
        argv.extend(line.split_whitespace());
        shell::try_run(shell::LONG, &argv).unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.code, Some(0), "baton {line}: {}", output.text());
        output.stdout
    }

    fn json(&self, line: &str) -> Value {
        let text = self.ok(line);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("baton {line}: {e}: {text}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// A token, gone with the value.
struct Token<'a> {
    b: &'a Bench<'a>,
    text: String,
}

impl<'a> Token<'a> {
    fn new(b: &'a Bench<'a>, name: &str, role: &str) -> Self {
        let text = b.line(&format!("token create {name} --role {role}"));
        Self { b, text: text.trim().to_owned() }
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        let _ = self.b.t.baton_at(&self.b.leader, &["token", "revoke", &self.text]);
    }
}

fn api(b: &Bench<'_>) -> String {
    let at: Vec<String> = b.t.config.hosts.iter().map(|h| format!("https://{}:7480", h.address)).collect();
    at.join(",")
}

/// Waits until a token that was made at one agent is known to the one that is asked.
fn known(machine: &Machine, line: &str) {
    let end = Instant::now() + KNOWN;
    while machine.run(line).code != Some(0) {
        assert!(Instant::now() < end, "the token is not known: {}", machine.run(line).text());
    }
}

/// Contexts are added, listed, chosen, shown, used and removed.
pub fn contexts(b: &Bench<'_>) {
    let machine = Machine::new(b);
    let token = Token::new(b, "e2e-ada", "operator");
    machine.file("token", &token.text);
    let api = api(b);
    let said = machine.run("context show");
    b.expect(
        "without a context it is said how to get one",
        said.code == Some(1) && said.stderr.contains("baton context"),
        &said.stderr,
    );
    for name in ["first", "shop"] {
        machine.ok(&format!("context add {name} {api} --ca ca.crt --token-file token"));
    }
    let names = || {
        let all = machine.json("context list --json");
        let keys = all["contexts"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
        (all["current"].as_str().unwrap_or_default().to_owned(), keys.collect::<Vec<_>>().join(" "))
    };
    b.expect(
        "the first one is in use",
        names() == ("first".into(), "first shop".into()),
        format!("{:?}", names()),
    );
    machine.ok("context use shop");
    let shown = machine.json("context show --json").to_string();
    b.expect("the one in use is shown", shown.contains("shop") && shown.contains("/home/ada/token"), &shown);
    b.expect(
        "a context's file holds no token",
        !machine.ok("context show").contains(&token.text),
        "context show",
    );

    // What an operator does all day, through it.
    known(&machine, "nodes");
    let status = machine.ok("status");
    b.expect("status from outside", status.contains("Group web: serving"), first_line(&status));
    let events = machine.ok("events -n 3 --json");
    b.expect("events from outside", events.lines().count() == 3, first_line(&events));
    machine.ok(&format!("maintenance {} --for 1h", b.other));
    let node = machine.json(&format!("node show {} --json", b.other));
    let node = node.get("node").cloned().unwrap_or(node);
    let owner = &node["mode_note"]["owner"];
    b.expect("the owner is the token's name", owner.as_str().is_some_and(|o| o.contains("e2e-ada")), owner);
    machine.ok(&format!("online {}", b.other));
    let refused = machine.run("token list");
    let ok = refused.code == Some(7) && refused.stderr.contains("admin");
    b.expect("what an operator may not do ends with 7", ok, &refused.stderr);

    machine.ok("context remove shop");
    b.expect("removed", names() == (String::new(), "first".into()), format!("{:?}", names()));
    let gone = machine.run("status --context shop");
    b.expect(
        "a context that is gone is named",
        gone.code == Some(2) && gone.stderr.contains("first"),
        &gone.stderr,
    );
}

/// Without a context: flags, and what is missing is said.
pub fn credentials(b: &Bench<'_>) {
    let machine = Machine::new(b);
    let api = api(b);
    let token = Token::new(b, "e2e-eye", "viewer");
    machine.file("token", &token.text);
    let fails = |what: &str, line: &str, code: i32, parts: &[&str]| {
        let output = machine.run(line);
        let ok = output.code == Some(code) && parts.iter().all(|part| output.stderr.contains(part));
        b.expect(what, ok, format!("{:?}: {}", output.code, output.stderr));
    };
    let at = |rest: &str| format!("--api {api} --ca ca.crt {rest}");
    fails("the authority is asked for", &format!("--api {api} status"), 2, &["--ca"]);
    fails("who asks is asked for", &at("status"), 7, &["--token-file"]);
    known(&machine, &at("--token-file token nodes"));
    fails("a viewer steers nothing", &at("--token-file token standby beta"), 7, &["operator", "viewer"]);
    let status =
        machine.ok(&format!("--api https://127.0.0.1:1,{api} --ca ca.crt --token-file token status"));
    b.expect("a dead address is passed by", status.contains("Group web"), first_line(&status));
    std::fs::set_permissions(machine.home.join("token"), std::fs::Permissions::from_mode(0o644))
        .expect("its mode");
    fails("a token that others can read", &at("--token-file token status"), 1, &["chmod"]);
}
