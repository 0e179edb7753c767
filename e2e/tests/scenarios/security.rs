//! Who may do what, asked of the real agents over TLS; and certificates that are renewed under them.

use baton_e2e::docker::{self, Role};
use baton_e2e::identity::{Identity, handed_out};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::{retry, shell};
use std::time::{Duration, Instant};

/// A token made or revoked at one agent is known to the others by a watch; a loaded machine gets some more.
const KNOWN: Duration = Duration::from_secs(3);
/// What comes about by itself on a machine that is not too busy; bounds that are judged are shorter.
const PATIENCE: Duration = Duration::from_secs(20);
/// Agents look at their files every 5 s.
const RENEWED: Duration = Duration::from_secs(12);

#[test]
fn access() {
    scenario("access", |t, leader| {
        let epoch = t.epoch_of(leader);
        let other = t.config.other(leader);
        let dir = handed_out(&t.config.project);
        let nobody = Identity::load(&dir, None).unwrap_or_else(|e| panic!("{e:#}"));
        let as_nobody = |host: &str, method: &str, path: &str, headers: &[&str]| {
            let json = (method != "GET").then_some("{}");
            let ask = || t.ask_as(&nobody, host, method, path, json, headers);
            let answer = retry::until_ok(PATIENCE, Duration::from_millis(50), ask);
            answer.unwrap_or_else(|e| panic!("{method} {path} at {host}: {e:#}")).status
        };
        let moving = format!("/v1/groups/{}/move", baton_e2e::config::GROUP);

        for path in ["/livez", "/readyz"] {
            t.expect("open to anybody", as_nobody(leader, "GET", path, &[]) == 200, path);
        }
        for (method, path) in
            [("GET", "/v1/status"), ("GET", "/v1/spec"), ("GET", "/metrics"), ("POST", moving.as_str())]
        {
            let status = as_nobody(leader, method, path, &[]);
            t.expect("nobody is told or obeyed", status == 401, format!("{method} {path}: {status}"));
        }

        // A viewer's token, made beside one agent, good at the other.
        let token = cli(t, leader, &["token", "create", "e2e", "--role", "viewer"]);
        let token = token.trim();
        let bearer = format!("Authorization: Bearer {token}");
        let reads = |host: &str| as_nobody(host, "GET", "/v1/status", &[&bearer]);
        let made = Instant::now();
        until("the other agent knows the token", || reads(&other) == 200);
        t.at_most("known everywhere", made.elapsed(), KNOWN);
        t.expect("viewer reads", reads(leader) == 200, leader);
        let refused = as_nobody(leader, "POST", &moving, &[&bearer]);
        t.expect("viewer moves nothing", refused == 403, refused);

        let id = token.split('_').nth(1).unwrap_or_default();
        let begin = Instant::now();
        cli(t, &other, &["token", "revoke", id]);
        // An address that was refused often is told to wait.
        let refuses = |host: &str| matches!(reads(host), 401 | 429);
        until("no agent takes the revoked token", || refuses(leader) && refuses(&other));
        t.at_most("revoked everywhere", begin.elapsed(), KNOWN);

        let lines = [
            "audit: root (admin, Unix socket, from local): POST /v1/tokens answered 201".to_owned(),
            format!("POST {moving} refused with 403"),
            format!("DELETE /v1/tokens/{id} answered 200"),
        ];
        // Each agent writes its own down a little later.
        let mut history = String::new();
        until(&format!("all in the history: {lines:?}"), || {
            history = cli(t, leader, &["events", "-n", "60", "--json"]);
            lines.iter().all(|line| history.contains(line))
        });
        let secret = token.rsplit('_').next().unwrap_or_default();
        let logs: String =
            t.config.hosts.iter().map(|h| docker::log_tail(&part(t, &h.name, Role::Agent), 2000)).collect();
        let leaked = history.contains(secret) || logs.contains(secret);
        t.expect("the token is in no log", !leaked, logs.lines().count());
        t.stayed("no takeover", leader, epoch);
    });
}

#[test]
fn renewed_certificates() {
    scenario("renewed certificates", |t, leader| {
        let epoch = t.epoch_of(leader);
        let incarnation = || t.status(leader).map(|s| s.node(leader)["incarnation"].clone()).ok();
        let (before, old) = (incarnation(), served(t, leader));
        let pki = format!("{}-pki", t.config.project);
        let environment = [
            format!("BATON_CLUSTER={}", t.config.cluster),
            format!("BATON_SUBNET={}", t.config.vip.to_string().trim_end_matches(".100")),
        ];
        let etcd = format!("{leader}-etcd");
        // The image it was made from: the tag may be another build's by now.
        let image = shell::run(&["docker", "inspect", "--format", "{{.Image}}", &pki]);
        let image = image.unwrap_or_else(|e| panic!("{e:#}"));
        let mut command = vec!["docker", "run", "--rm", "--network", "none", "--cap-drop", "ALL"];
        command.extend(["--cap-add", "CHOWN", "--volumes-from", &pki]);
        command.extend(["-e", &environment[0], "-e", &environment[1]]);
        command.extend([image.trim(), "make-pki", leader, &etcd]);
        shell::run(&command).unwrap_or_else(|e| panic!("{e:#}"));
        let begin = Instant::now();
        until("the agent serves its renewed certificate", || served(t, leader) != old);
        t.at_most("renewed certificate served", begin.elapsed(), RENEWED);
        let told = |line: &str| cli(t, leader, &["events", "-n", "30", "--json"]).contains(line);
        until("the agent uses its renewed certificate towards etcd", || {
            told("connections to etcd use the renewed certificate")
        });
        until("etcd is reached", || t.status(leader).is_ok_and(|s| s.0["etcd"]["reachable"] == true));
        t.expect("no restart", incarnation() == before, format!("{before:?}"));
        t.stayed("no takeover", leader, epoch);

        // etcd lets nobody in without a certificate of its own authority.
        let member = part(t, leader, Role::Etcd);
        let asked = |more: &[&str]| {
            let mut command = vec!["docker", "exec"];
            command.extend(more);
            command.extend([
                member.as_str(),
                "etcdctl",
                "--command-timeout=15s",
                "get",
                "/baton/",
                "--prefix",
            ]);
            command.extend(["--keys-only", "--limit=1"]);
            shell::try_run(shell::LONG, &command).unwrap_or_else(|e| panic!("{e:#}"))
        };
        t.expect("etcd answers its own", asked(&[]).code == Some(0), "etcdctl with a certificate");
        let stranger = asked(&["-e", "ETCDCTL_CERT=", "-e", "ETCDCTL_KEY="]);
        t.expect("etcd answers no stranger", stranger.code != Some(0), stranger.text().trim());
    });
}

fn part(t: &Scenario, host: &str, role: Role) -> String {
    docker::part(&t.config, host, role).unwrap_or_else(|e| panic!("{e:#}")).name
}

fn cli(t: &Scenario, host: &str, args: &[&str]) -> String {
    let output = t.baton_at(host, args).unwrap_or_else(|e| panic!("{e:#}"));
    assert_eq!(output.code, Some(0), "baton {}: {}", args.join(" "), output.text());
    output.stdout
}

fn served(t: &Scenario, host: &str) -> Vec<u8> {
    let dir = handed_out(&t.config.project);
    let served = Identity::load(&dir, None).and_then(|nobody| nobody.served_at(t.api(host)));
    served.unwrap_or_else(|e| panic!("{e:#}"))
}

fn until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !look() {
        assert!(Instant::now() < end, "after {PATIENCE:?} still not: {what}");
        // An agent answers an address that it refuses ten times in a row with "wait".
        std::thread::sleep(Duration::from_millis(250));
    }
}
