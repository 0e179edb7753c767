//! Checks of every kind on the real cluster, a disk that is full, and a group whose containers run on both hosts.
//!
//! Every scenario puts the specification back that it found.

use crate::apply::{in_force, take};
use crate::let_pass;
use baton_e2e::cluster::WHOLE;
use baton_e2e::prober::{CADENCE, Prober};
use baton_e2e::report::ms;
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{docker, faults, gaps, shell};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Issue 5: a power cut of a stateless group takes deadtime (1.5 s) and this much.
const POWER_CUT: Duration = Duration::from_millis(1500 + 300);
/// Issue 5: a planned move of one.
const MOVE: Duration = Duration::from_millis(150);
/// How often each is measured.
const ROUNDS: usize = 4;
/// Two intervals of the slow checks (1 s here), `fall` (3), and a loaded machine.
const NOTICED: Duration = Duration::from_secs(30);
/// Where the group with the small server answers.
const PORT: u16 = 8099;

/// All kinds that the demo's group can have.
const CHECKS: &str = r#"    checks:
      - sql: { name: transaction, address: "{address}:3306", user: web, password_file: /tmp/sql-password, database: cluster, interval: 1s, timeout: 1s, service: mysql }
      - docker: { name: health, service: mysql }
      - write: { name: durable, service: mysql, path: /var/lib/mysql/.baton-check, min_free: 1MiB, interval: 1s, timeout: 2s }
      - ping: { name: gateway, address: "#;

fn checks(t: &Scenario, host: &str) -> Vec<Value> {
    let status = t.status(host).unwrap_or_else(|e| panic!("{e:#}"));
    status.group()["checks"].as_array().cloned().unwrap_or_default()
}

fn wait_state(t: &Scenario, host: &str, name: &str, wanted: &str) -> Value {
    t.wait_for(&format!("check {name} is {wanted}"), NOTICED, |view| {
        let all = view.of(host)?.group()["checks"].as_array().cloned().unwrap_or_default();
        match all.iter().find(|c| c["name"] == name) {
            Some(check) if check["state"] == wanted => Ok(check.clone()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// A command in the leader's database container.
fn in_mysql(t: &Scenario, host: &str, script: &str) -> String {
    let name = format!("{}-{host}-web-mysql", t.config.cluster);
    shell::run(&["docker", "exec", &name, "sh", "-c", script]).unwrap_or_else(|e| panic!("{e:#}"))
}

/// The database's password where the check looks for it, on both hosts.
fn passwords(t: &Scenario) {
    for host in &t.config.hosts {
        let agent =
            docker::part(&t.config, &host.name, docker::Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
        let script = format!("printf %s '{}' > /tmp/sql-password", t.config.database.password);
        shell::run(&["docker", "exec", &agent.name, "sh", "-c", &script]).unwrap_or_else(|e| panic!("{e:#}"));
    }
}

#[test]
fn a_full_disk_is_an_alarm_and_moves_nothing() {
    scenario("health: checks of every kind, and a full disk", |t, leader| {
        let (original, _) = in_force(t);
        let epoch = t.epoch_of(leader);
        passwords(t);
        let gateway = t.config.at_vip(80).ip().to_string().replace(".100", ".1");
        let begin = original.find("    checks:\n").expect("the demo has checks");
        let end = original[begin..].find("    notify:").expect("and notifications") + begin;
        let text = format!("{}{CHECKS}{gateway} }}\n{}", &original[..begin], &original[end..]);
        take(t, leader, &text);
        for name in ["transaction", "health", "durable", "gateway"] {
            let check = wait_state(t, leader, name, "passing");
            t.tell(&format!("check {name}"), &check);
        }
        let standby = t.config.other(leader);
        t.wait_for("the standby asks the gateway, and nothing that it does not run", NOTICED, |_| {
            let there: Vec<String> = checks(t, &standby).iter().map(|c| c["name"].to_string()).collect();
            if there == ["\"gateway\""] { Ok(()) } else { Err(format!("{there:?}")) }
        });

        // Until nothing is left for ordinary users; the database's user is one.
        in_mysql(t, leader, "dd if=/dev/zero of=/var/lib/mysql/filling bs=1M 2>/dev/null; true");
        let full = wait_state(t, leader, "durable", "alarm");
        t.tell("the full disk", &full["last_error"]);
        let advice = t.status(leader).map(|s| s.advice()).unwrap_or_default();
        t.expect("a person is told", advice.contains("nothing is moved"), &advice);
        let_pass(Duration::from_secs(10));
        t.stayed("nothing moved", leader, epoch);
        in_mysql(t, leader, "rm /var/lib/mysql/filling");
        wait_state(t, leader, "durable", "passing");
        wait_state(t, leader, "transaction", "passing");

        take(t, leader, &original);
        t.stayed("nothing moved at all", leader, epoch);
    });
}

#[test]
fn a_database_that_hangs_is_restarted_in_place() {
    scenario("health: a database that hangs", |t, leader| {
        let (original, _) = in_force(t);
        let epoch = t.epoch_of(leader);
        passwords(t);
        let begin = original.find("    checks:\n").expect("the demo has checks");
        let end = original[begin..].find("    notify:").expect("and notifications") + begin;
        let sql = CHECKS.lines().take(2).collect::<Vec<_>>().join("\n");
        take(t, leader, &format!("{}{sql}\n{}", &original[..begin], &original[end..]));
        wait_state(t, leader, "transaction", "passing");

        // It accepts connections and answers none of them.
        let container = format!("{}-{leader}-web-mysql", t.config.cluster);
        let before = shell::run(&["docker", "inspect", "--format", "{{.State.StartedAt}}", &container]);
        let before = before.unwrap_or_else(|e| panic!("{e:#}"));
        let begin = Instant::now();
        let all = docker::of_host(&t.config, leader).unwrap_or_else(|e| panic!("{e:#}"));
        let mysql = all.iter().find(|c| c.name == container).expect("the database's container");
        let pids = docker::processes(mysql).unwrap_or_else(|e| panic!("{e:#}"));
        faults::signal(&pids, rustix::process::Signal::STOP);
        t.wait_for("the database restarted", NOTICED, |_| {
            match shell::run(&["docker", "inspect", "--format", "{{.State.StartedAt}}", &container]) {
                Ok(now) if now != before => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        t.tell("until the restart", ms(begin.elapsed()));
        wait_state(t, leader, "transaction", "passing");
        t.stayed("in place", leader, epoch);
        take(t, leader, &original);
    });
}

/// A group without volumes, whose one container answers with its host's name.
fn small(address: &str) -> String {
    format!(
        r#"  small:
    standby: hot
    addresses: ["{address}/24"]
    services:
      server:
        image: baton/webhook
        entrypoint: [perl, -MIO::Socket::INET, -e]
        command:
          - |
            my $$l = IO::Socket::INET->new(LocalPort => {PORT}, Listen => 64, ReuseAddr => 1) or die;
            while (1) {{ my $$c = $$l->accept or next; while (<$$c>) {{ last if /^\r?\n/ }}
            print $$c "HTTP/1.1 200 OK\r\nX-Served-By: $$ENV{{BATON_NODE}}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"; close $$c }}
        stop_grace_period: 1s
    checks:
      - http: {{ url: "http://{{address}}:{PORT}/", interval: 500ms, service: server }}
"#
    )
}

fn group<'a>(view: &'a baton_e2e::status::View, host: &str) -> Result<&'a Value, String> {
    let groups = view.of(host)?.0["groups"].as_array();
    groups.into_iter().flatten().find(|g| g["name"] == "small").ok_or_else(|| "there is no such group".into())
}

/// It serves on a host, and the other one could take it over. Who leads.
fn settled(t: &Scenario) -> String {
    t.wait_for("the small group is ready on both hosts", WHOLE, |view| {
        let hosts: Vec<&String> = view.of.keys().collect();
        let seen = group(view, hosts[0])?;
        let leader = seen["leader"].as_str().ok_or("no leader")?.to_owned();
        let own = group(view, &leader)?;
        let ready = own["nodes"].as_array().into_iter().flatten().any(|n| n["ready"] == true);
        if own["state"] == "serving" && ready { Ok(leader) } else { Err(own["nodes"].to_string()) }
    })
}

#[test]
fn a_hot_group_moves_in_a_blink() {
    scenario("health: a hot group", |t, web| {
        let (original, _) = in_force(t);
        let vip: SocketAddr = SocketAddr::new(t.config.at_vip(80).ip(), PORT);
        let at: SocketAddr = vip.to_string().replace(".100:", ".102:").parse().unwrap_or(vip);
        let document =
            original.replacen("\ngroups:\n", &format!("\ngroups:\n{}", small(&at.ip().to_string())), 1);
        take(t, web, &document);
        let mut leader = settled(t);
        let standby = t.config.other(&leader);
        let own = SocketAddr::new(t.config.host(&standby).address.into(), PORT);
        t.wait_for("the standby answers at its own address", NOTICED, |_| {
            let answer = baton_e2e::http::get(own, "/", Duration::from_secs(2), Duration::from_secs(2));
            let answers = answer.as_ref().is_ok_and(|a| a.header("x-served-by") == Some(standby.as_str()));
            if answers { Ok(()) } else { Err(format!("{answer:?}")) }
        });

        let mut moves = Vec::new();
        for _ in 0..ROUNDS {
            let prober = Prober::start(at, "/", CADENCE, None);
            let_pass(Duration::from_secs(1));
            let begin = Instant::now();
            let to = t.config.other(&leader);
            t.baton(&["move", "small", "--to", &to]).unwrap_or_else(|e| panic!("{e:#}"));
            leader = settled(t);
            t.expect("it is there", leader == to, &leader);
            let_pass(Duration::from_secs(1));
            moves.push(prober.history().gap(begin, Instant::now()));
        }
        let mut cuts = Vec::new();
        for _ in 0..ROUNDS {
            let prober = Prober::start(at, "/", CADENCE, None);
            let_pass(Duration::from_secs(2));
            let begin = Instant::now();
            faults::power_cut(t, &leader).unwrap_or_else(|e| panic!("{e:#}"));
            let new = t.config.other(&leader);
            t.wait_for("a takeover", WHOLE, |view| match group(view, &new)? {
                g if g["state"] == "serving" && g["leader"] == *new => Ok(()),
                g => Err(g["state"].to_string()),
            });
            let_pass(Duration::from_secs(1));
            cuts.push(prober.history().gap(begin, Instant::now()));
            faults::power_on(t, &leader).unwrap_or_else(|e| panic!("{e:#}"));
            let _ = t.heal();
            leader = settled(t);
        }
        t.tell("planned moves", moves.iter().map(|g| ms(*g)).collect::<Vec<_>>().join(", "));
        t.tell("power cuts", cuts.iter().map(|g| ms(*g)).collect::<Vec<_>>().join(", "));
        t.at_most("planned move, median", gaps::median(&moves), MOVE);
        t.at_most("power cut, median", gaps::median(&cuts), POWER_CUT);
        take(t, web, &original);
    });
}
