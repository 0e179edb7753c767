//! Commands that change something: done, and looked at whether it is so.

use super::{Bench, first_line};
use baton_e2e::cluster::WHOLE;
use baton_e2e::config::{GROUP, VOLUME};
use baton_e2e::monitoring::Monitoring;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A wish is in etcd when the command ends; each agent sees it by its watch; a loaded machine gets some more.
const SEEN: Duration = Duration::from_secs(20);
/// A maintenance that is over: looked at every second.
const TOLD: Duration = Duration::from_secs(10);
const FILE: &str = "/tmp/e2e-cli/cluster.yaml";
const PKI: &str = "--dir /tmp/e2e-cli/pki";

/// Waits until every agent says this about the other host.
fn agents_say(b: &Bench<'_>, what: &str, limit: Duration, look: impl Fn(&Value) -> bool) {
    b.t.wait_for(what, limit, |view| {
        for host in view.of.keys() {
            let node = view.of(host)?.node(&b.other);
            if !look(node) {
                return Err(format!("{host} says {node}"));
            }
        }
        Ok(())
    });
}

fn history(b: &Bench<'_>) -> String {
    b.line("events -n 60 --json")
}

pub fn check(b: &Bench<'_>) {
    b.line(&format!("spec export -o {FILE}"));
    b.line(&format!("check {FILE}"));
    b.shell("echo 'cluster: [' > /tmp/e2e-cli/bad.yaml");
    let bad = b.run(&["check", "/tmp/e2e-cli/bad.yaml"]);
    let ok = bad.code == Some(1) && bad.stderr.contains("bad.yaml:");
    b.expect("'baton check' names file and line", ok, &bad.stderr);
    let json = b.run(&["check", "/tmp/e2e-cli/bad.yaml", "--json"]);
    let errors: Value = serde_json::from_str(&json.stdout).unwrap_or_default();
    b.expect("'baton check --json' has the line", errors[0]["line"].is_u64(), &json.stdout);
}

fn version(b: &Bench<'_>) -> i64 {
    b.json("spec show --json")["version"].as_i64().expect("a version")
}

pub fn apply(b: &Bench<'_>) {
    let before = version(b);
    b.shell(&format!("sed -i 's/severity: info/severity: info\\n    alert_every: 4h/' {FILE}"));
    let plan = b.line(&format!("apply {FILE} --dry-run"));
    b.expect(
        "a dry run says what would change",
        plan.contains("target operators changes") && version(b) == before,
        &plan,
    );
    let old = b.run(&["apply", FILE, "--yes", "--expect", "1"]);
    let ok = old.code == Some(1) && old.stderr.contains(&before.to_string());
    b.expect("a version that is not in force is refused, naming the one that is", ok, &old.stderr);
    b.ok(&["apply", FILE, "--yes", "--wait", "--message", "by the scenario"]);
    let document = b.json("spec show --json");
    let ok =
        document["version"].as_i64() > Some(before) && document["text"].to_string().contains("alert_every");
    b.expect("what was applied is in force", ok, &document["version"]);
}

pub fn export(b: &Bench<'_>) {
    b.line("spec export -o /tmp/e2e-cli/exported.yaml");
    let text = b.shell("cat /tmp/e2e-cli/exported.yaml");
    b.expect("the export names its version", text.contains(&version(b).to_string()), first_line(&text));
    b.line("check /tmp/e2e-cli/exported.yaml");
}

pub fn rollback(b: &Bench<'_>) {
    let log = b.json("spec log --json");
    let versions: Vec<i64> =
        log.as_array().into_iter().flatten().filter_map(|v| v["version"].as_i64()).collect();
    let now = version(b);
    let before = versions.iter().copied().filter(|v| *v < now).max().expect("an earlier version");
    b.line(&format!("spec rollback {before} --yes --wait"));
    let text = b.line("spec show");
    b.expect(
        "the earlier document is in force again",
        !text.contains("alert_every") && version(b) > now,
        version(b),
    );
}

pub fn moves(b: &Bench<'_>) {
    for to in [&b.other, &b.leader] {
        let said = b.line(&format!("move {GROUP} --to {to}"));
        let status: Value = serde_json::from_str(&b.run(&["status", "--json"]).stdout).unwrap_or_default();
        let leader = status["groups"][0]["leader"].clone();
        let ok = said.contains(&format!("serves on {to} after")) && leader == to.as_str();
        b.expect("'baton move' ends when it serves there", ok, &said);
        let _ = b.t.wait_healthy(WHOLE);
    }
    let again = b.line(&format!("move {GROUP} --to {}", b.leader));
    b.expect("a move to where it is", again.contains("already"), &again);
}

pub fn standby(b: &Bench<'_>) {
    let said = b.ok(&["standby", &b.other, "--reason", "kernel update", "--owner", "ada"]);
    b.expect(
        "'baton standby' repeats who and why",
        said.contains("ada") && said.contains("kernel update"),
        &said,
    );
    let status = b.run(&["status"]);
    let ok = status.code == Some(3) && status.stdout.contains("by ada: kernel update");
    b.expect("status says at once who and why, and that nobody could take over", ok, &status.stdout);
    agents_say(b, "standby", SEEN, |node| {
        let note = &node["mode_note"];
        node["mode"] == "standby" && note["owner"] == "ada" && note["reason"] == "kernel update"
    });
    read_after_write(b);
}

/// Whoever asks an agent after a command finds what the command said, at once.
fn read_after_write(b: &Bench<'_>) {
    // The status of a cluster that is degraded ends with 3.
    let then = |command: &str, read: &str| -> Value {
        let text = b.shell(&format!("baton {command} > /dev/null && baton {read} --json; true"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("baton {command}, {read}: {e}: {text}"))
    };
    for reason in ["fan", "disk", "cable"] {
        let command = format!("standby {} --reason {reason}", b.other);
        let node = then(&command, &format!("node show {}", b.other));
        b.expect("read after write: a mode", node["mode_note"]["reason"] == reason, &node["mode_note"]);
        let command = format!("group pin {GROUP} --reason {reason}");
        let group = then(&command, &format!("group show {GROUP}"));
        b.expect("read after write: a pin", group["pinned"]["reason"] == reason, &group["pinned"]);
    }
    let group = then(&format!("group unpin {GROUP}"), &format!("group show {GROUP}"));
    b.expect(
        "read after write: no pin",
        group["name"] == GROUP && group["pinned"].is_null(),
        &group["pinned"],
    );
}

pub fn online(b: &Bench<'_>) {
    b.line(&format!("online {}", b.other));
    agents_say(b, "online", SEEN, |node| node["mode"] == "online");
    let _ = b.t.wait_healthy(WHOLE);
}

pub fn maintenance(b: &Bench<'_>) {
    let epoch = b.t.epoch_of(&b.leader);
    let monitoring = Monitoring::of(&b.t.config);
    let said = b.ok(&["maintenance", &b.other, "--reason", "new disk", "--for", "3s"]);
    b.expect(
        "'baton maintenance' repeats until when and why",
        said.contains("until") && said.contains("new disk"),
        &said,
    );
    agents_say(b, "maintenance", SEEN, |node| {
        node["mode"] == "maintenance"
            && node["mode_note"]["owner"] == "root"
            && node["mode_note"]["until"].is_string()
    });
    let begin = Instant::now();
    agents_say(b, "the end of the maintenance", TOLD, |node| {
        node["mode"] == "maintenance" && node["mode_note"]["expired"] == true
    });
    let line = format!("the maintenance of {} was to end at", b.other);
    let told = || history(b).lines().filter(|l| l.contains(&line) && l.contains("\"warning\"")).count();
    b.t.wait_for("an event about it", TOLD, |_| if told() > 0 { Ok(()) } else { Err("none".into()) });
    b.t.at_most("told after the end of a maintenance", begin.elapsed(), TOLD);
    let status = b.run(&["status"]).stdout;
    b.expect("status calls it overdue", status.contains("OVERDUE"), &status);
    // Its exit code says that something is wrong.
    let advice: Value = serde_json::from_str(&b.run(&["status", "--json"]).stdout).unwrap_or_default();
    let advice = advice["advice"].to_string();
    b.expect("advice says how to end it", advice.contains(&format!("baton online {}", b.other)), &advice);
    // Two scrapes and two evaluations of 5 s each.
    let limit = Duration::from_secs(40);
    let fires = |name: &str| monitoring.firing().is_ok_and(|firing| firing.contains(name));
    b.t.wait_for("the alert", limit, |_| {
        if fires("BatonMaintenanceExpired") { Ok(()) } else { Err("quiet".into()) }
    });

    // Prolonged: what was said stays, and the alert goes.
    b.line(&format!("maintenance {} --for 1h", b.other));
    agents_say(b, "prolonged", SEEN, |node| {
        node["mode_note"]["expired"] == false && node["mode_note"]["reason"] == "new disk"
    });
    b.t.wait_for("the end of the alert", limit, |_| {
        if fires("BatonMaintenanceExpired") { Err("fires".into()) } else { Ok(()) }
    });
    b.expect("one event, by whichever agent", told() == 1, told());
    b.t.stayed("nothing moved by itself", &b.leader, epoch);
    b.line(&format!("online {}", b.other));
    let _ = b.t.wait_healthy(WHOLE);
}

pub fn recover(b: &Bench<'_>) {
    let said = b.line(&format!("recover {GROUP}"));
    for host in &b.t.config.hosts {
        let line = format!("{} trusts what etcd says about {GROUP} now", host.name);
        b.expect("'baton recover' asks every agent", said.contains(&line), &said);
        b.t.wait_for("a recovery in the history", SEEN, |_| {
            if history(b).contains(&line) { Ok(()) } else { Err(line.clone()) }
        });
    }
}

pub fn verify(b: &Bench<'_>) {
    let before = b.t.view().of(&b.leader).map(|s| s.volume()["verify"]["id"].clone());
    b.line(&format!("volume verify {VOLUME}"));
    let state = |want: &str| {
        b.t.wait_for(want, Duration::from_secs(20), |view| {
            let verify = view.of(&b.leader)?.volume()["verify"].clone();
            // A gibibyte may be compared before anybody sees it or can stop it.
            let over = verify["state"] == "done" && Ok(&verify["id"]) != before.as_ref();
            if verify["state"] == want || over { Ok(()) } else { Err(verify.to_string()) }
        });
    };
    state("running");
    b.line(&format!("volume verify {VOLUME} --stop"));
    state("stopped");
    let none = b.line(&format!("volume verify {VOLUME} --stop"));
    b.expect("a verify that does not run cannot be stopped", none.contains("no verify of"), &none);
}

/// On every node, whatever its role: it may lead next.
fn paused_everywhere(b: &Bench<'_>, wanted: bool) {
    b.t.wait_for("every replicator is told", Duration::from_secs(10), |view| {
        for host in &b.t.config.hosts {
            let volume = view.of(&host.name)?.volume()["resync_paused"].clone();
            if volume != wanted {
                return Err(format!("{}: {volume}", host.name));
            }
        }
        Ok(())
    });
}

pub fn pause_sync(b: &Bench<'_>) {
    let said = b.line(&format!("volume pause-sync {VOLUME}"));
    b.expect("it says what follows", said.contains("cannot take over"), &said);
    paused_everywhere(b, true);
    let again = b.line(&format!("volume pause-sync {VOLUME}"));
    b.expect("a pause is no news twice", again.contains("paused already"), &again);
    let status = b.line("status");
    b.expect("status says how it ends", status.contains("resume-sync"), &status);
}

pub fn resume_sync(b: &Bench<'_>) {
    b.line(&format!("volume resume-sync {VOLUME}"));
    paused_everywhere(b, false);
    let again = b.line(&format!("volume resume-sync {VOLUME}"));
    b.expect("what is not paused is not resumed", again.contains("is not paused"), &again);
}

/// Without a split brain there is nothing to resolve.
pub fn resolve(b: &Bench<'_>) {
    let other = b.t.config.other(&b.leader);
    let said = b.run(&["volume", "resolve", VOLUME, "--discard", &other, "--yes"]);
    b.expect("replicas that agree are left alone", said.code == Some(1), &said.stderr);
}

pub fn release(b: &Bench<'_>) {
    let name = format!("{VOLUME}.img.discarded-1-0000000000000000");
    let said = b.run(&["volume", "release", VOLUME, &name, "--yes"]);
    b.expect(
        "a copy that is not there is named",
        said.code == Some(1) && said.stderr.contains(&name),
        &said.stderr,
    );
}

pub fn export_volume(b: &Bench<'_>) {
    for host in &b.t.config.hosts {
        let export = b.json(&format!("volume export {VOLUME} --node {} --json", host.name));
        let uri = export["uri"].as_str().unwrap_or_default();
        b.expect("a snapshot is served", uri.starts_with("nbd+unix:///"), uri);
        let shown = b.line(&format!("volume show {VOLUME}"));
        b.expect("data as of a moment", export["data_bytes"].as_u64() > Some(0), shown.lines().count());
        let ended = b.line(&format!("volume export {VOLUME} --node {} --end", host.name));
        b.expect("it ends", ended.contains("has ended"), &ended);
    }
}

pub fn notify(b: &Bench<'_>) {
    let monitoring = Monitoring::of(&b.t.config);
    let mails = || monitoring.mails().unwrap_or_else(|e| panic!("{e:#}")).len();
    let before = mails();
    let said = b.line("notify test operators");
    b.expect("a test message is delivered", said.contains("operators"), &said);
    // The server takes a mail before it is in the mailbox.
    b.t.wait_for("its mail", SEEN, |_| if mails() > before { Ok(()) } else { Err("none".into()) });
}

pub fn cert_init(b: &Bench<'_>) {
    b.line(&format!("cert init --cluster shop {PKI}"));
    let mode = b.shell("stat -c %a /tmp/e2e-cli/pki/ca.key");
    b.expect("the authority's key is its owner's", mode.trim() == "600", &mode);
    let again = b.run(&["cert", "init", "--cluster", "shop", "--dir", "/tmp/e2e-cli/pki"]);
    b.expect("an authority is not replaced", again.code == Some(1), &again.stderr);
}

fn made(b: &Bench<'_>, name: &str) {
    let certificates = b.json(&format!("cert show --json {PKI}")).to_string();
    b.expect(&format!("the certificate of {name} is there"), certificates.contains(name), &certificates);
}

pub fn cert_node(b: &Bench<'_>) {
    b.line(&format!("cert node gamma --address 10.0.0.3 {PKI}"));
    made(b, "gamma");
}

pub fn cert_etcd(b: &Bench<'_>) {
    b.line(&format!("cert etcd witness --address 10.0.0.9 {PKI}"));
    made(b, "witness");
}

pub fn cert_client(b: &Bench<'_>) {
    b.line(&format!("cert client ada --role operator {PKI}"));
    made(b, "ada");
}

pub fn cert_renew(b: &Bench<'_>) {
    let serial = || b.shell("sha256sum < /tmp/e2e-cli/pki/gamma.crt");
    let before = serial();
    let said = b.line(&format!("cert renew gamma {PKI}"));
    b.expect("a renewed certificate is another one", serial() != before && said.contains("gamma"), &said);
}

pub fn tokens(b: &Bench<'_>) {
    let token = b.line("token create e2e-cli --role viewer --expires 1h");
    let id = token.trim().split('_').nth(1).expect("an id").to_owned();
    let all = b.json("token list --json").to_string();
    let secret = token.trim().rsplit('_').next().expect("a secret");
    b.expect("a token is listed without its secret", all.contains(&id) && !all.contains(secret), &all);
    b.line(&format!("token revoke {id}"));
    let all = b.json("token list --json").to_string();
    b.expect("a revoked token is not listed", !all.contains(&id), &all);
}

pub fn questions(b: &Bench<'_>) {
    let ask = |host: &str, args: &[&str]| {
        let output = b.t.baton_at(host, &[&["is"][..], args].concat()).unwrap_or_else(|e| panic!("{e:#}"));
        output.code
    };
    for (question, leader, other) in [("live", 0, 0), ("ready", 0, 0), ("leader", 0, 1), ("standby", 1, 0)] {
        let args = if matches!(question, "live" | "ready") {
            vec![question]
        } else {
            vec![question, "--group", GROUP]
        };
        let found = (ask(&b.leader, &args), ask(&b.other, &args));
        b.expect(
            &format!("'baton is {question}' here and there"),
            found == (Some(leader), Some(other)),
            format!("{found:?}"),
        );
    }
}

pub fn bundle(b: &Bench<'_>) {
    b.line("support-bundle --no-doctor -o /tmp/e2e-cli/bundle.tar.gz");
    let secret = b.shell("cat /var/lib/baton-secret/secret");
    let text = b.shell("tar -xzOf /tmp/e2e-cli/bundle.tar.gz");
    b.expect("a bundle holds no secret", !text.contains(secret.trim()), text.len());
    let agent = format!("{}-{}-agent", b.t.config.project, b.leader);
    b.expect("and names containers in full", text.contains(&agent), first_line(&text));
    let again = b.run(&["support-bundle", "--no-doctor", "-o", "/tmp/e2e-cli/bundle.tar.gz"]);
    let ok =
        again.code == Some(1) && again.stderr.contains("there already") && again.stderr.contains("--output");
    b.expect("a bundle replaces no file", ok, &again.stderr);
}

pub fn doctor(b: &Bench<'_>) {
    for form in ["", "--json", "--yaml"] {
        let mut args = vec!["doctor", "--only", "clock", "--only", "secrets"];
        args.extend((!form.is_empty()).then_some(form));
        let output = b.run(&args);
        let said = match form {
            "--json" => serde_json::from_str::<Value>(&output.stdout).is_ok(),
            "--yaml" => serde_saphyr::from_str::<Value>(&output.stdout).is_ok_and(|v| v.is_object()),
            _ => !output.stdout.trim().is_empty(),
        };
        // 1: with warnings, of a machine whose clock nobody keeps.
        b.expect(
            &format!("'baton doctor {form}' judges"),
            said && matches!(output.code, Some(0 | 1)),
            output.text(),
        );
    }
}
