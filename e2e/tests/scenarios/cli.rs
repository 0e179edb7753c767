//! Each CLI command on the demo cluster. The table names every command that clap knows; one without a line fails by name.
//!
//! Commands run beside an agent, as an operator on a host would type them; `outside` goes over TLS with a context and a token.
//! The order of the table is that of the run: `spec diff` needs what `apply` wrote, `cert show` what `cert init` made.

mod outside;
mod writes;

use baton_e2e::docker::{self, Role};
use baton_e2e::scenario::{Scenario, scenario};
use baton_e2e::shell::{self, Output};
use baton_operator::cli::examples::{Leaf, leaves};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How a command is tried.
enum How {
    /// It only reads: text that is not empty and says this, and every other form that it offers. The exit code is 0.
    Read { args: &'static str, says: &'static str },
    /// By a function that looks at the effect.
    By(fn(&Bench<'_>)),
    /// By another scenario of this binary.
    Elsewhere(&'static str),
}
use How::{By, Elsewhere, Read};

const TABLE: &[(&str, How)] = &[
    ("status", Read { args: "", says: "Cluster e2e: ok" }),
    ("nodes", Read { args: "", says: "alpha" }),
    ("links", Read { args: "", says: "Who hears whom" }),
    ("node show", Read { args: "beta", says: "Node beta: online" }),
    ("groups", Read { args: "", says: "serving" }),
    ("group show", Read { args: "web", says: "Group web: serving" }),
    ("explain", Read { args: "web", says: "web" }),
    ("what-if", Read { args: "--down beta", says: "If beta goes down" }),
    ("watch", Read { args: "--plain --count 2 --interval 100ms", says: "Group web" }),
    ("volume list", Read { args: "", says: "webstore" }),
    ("volume show", Read { args: "webstore", says: "UpToDate" }),
    ("volume snapshots", Read { args: "webstore", says: "No copies are kept" }),
    ("volume wait", Read { args: "webstore --timeout 60s", says: "in sync" }),
    ("events", Read { args: "-n 5", says: "e" }),
    ("notify list", Read { args: "", says: "operators" }),
    ("spec show", Read { args: "", says: "cluster:" }),
    ("spec schema", Read { args: "", says: "\"properties\"" }),
    ("spec reference", Read { args: "", says: "`cluster`" }),
    ("check", By(writes::check)),
    ("apply", By(writes::apply)),
    ("spec log", Read { args: "", says: "by the scenario" }),
    ("spec diff", Read { args: "", says: "target operators changes" }),
    ("spec export", By(writes::export)),
    ("spec rollback", By(writes::rollback)),
    ("move", By(writes::moves)),
    ("standby", By(writes::standby)),
    ("online", By(writes::online)),
    ("maintenance", By(writes::maintenance)),
    ("fence", Elsewhere("fencing::required_fencing_holds_a_takeover_until_the_former_leader_is_off")),
    ("recover", By(writes::recover)),
    ("cluster recover", Read { args: "--dry-run", says: "nothing to do" }),
    ("volume verify", By(writes::verify)),
    ("volume pause-sync", By(writes::pause_sync)),
    ("volume resume-sync", By(writes::resume_sync)),
    ("volume resolve", By(writes::resolve)),
    ("volume release", By(writes::release)),
    ("volume export", By(writes::export_volume)),
    ("notify test", By(writes::notify)),
    ("cert init", By(writes::cert_init)),
    ("cert node", By(writes::cert_node)),
    ("cert etcd", By(writes::cert_etcd)),
    ("cert client", By(writes::cert_client)),
    ("cert renew", By(writes::cert_renew)),
    ("cert show", Read { args: "--dir /tmp/e2e-cli/pki", says: "ada" }),
    ("token create", By(writes::tokens)),
    ("token list", Read { args: "", says: "NAME" }),
    ("token revoke", Elsewhere("security::access")),
    ("is", By(writes::questions)),
    ("context add", By(outside::contexts)),
    ("context list", Elsewhere("cli::contexts_and_tokens_over_tls")),
    ("context use", Elsewhere("cli::contexts_and_tokens_over_tls")),
    ("context show", Elsewhere("cli::contexts_and_tokens_over_tls")),
    ("context remove", Elsewhere("cli::contexts_and_tokens_over_tls")),
    ("support-bundle", By(writes::bundle)),
    ("doctor", By(writes::doctor)),
    ("completions", Read { args: "bash", says: "complete" }),
    ("exit-codes", Read { args: "", says: "BATON_API" }),
    ("man", Read { args: "", says: ".TH baton" }),
    ("group pin", Read { args: "web --reason audit", says: "web is pinned" }),
    ("group unpin", Read { args: "web", says: "web is not pinned" }),
    ("group disable", Elsewhere("placing::a_disabled_group_stays_stopped_until_it_is_enabled")),
    ("group enable", Elsewhere("placing::a_disabled_group_stays_stopped_until_it_is_enabled")),
];

/// Command lines that must fail: with which exit code, and what the message says, what to do next included.
const ERRORS: &[(&str, i32, &[&str])] = &[
    ("status --nonsense", 2, &["--nonsense", "--help"]),
    ("status --api https://127.0.0.1:1 --ca /etc/baton/pki/ca.crt", 5, &["127.0.0.1:1", "->"]),
    ("status --api ftp://alpha", 2, &["ftp://alpha", "https://HOST:7480"]),
    ("status --group nothing", 1, &["nothing", "web"]),
    ("node show nobody", 1, &["nobody", "alpha, beta"]),
    ("group show nothing", 1, &["nothing", "web"]),
    ("explain nothing", 1, &["nothing", "web"]),
    ("what-if --down nobody", 1, &["nobody", "alpha, beta"]),
    ("what-if --down a&b", 2, &["a&b", "what-if --help"]),
    ("volume show nothing", 1, &["nothing", "webstore"]),
    ("volume show Bad_Name!", 2, &["Bad_Name!", "baton status"]),
    ("volume wait nothing", 1, &["nothing", "webstore"]),
    ("volume verify nothing", 1, &["nothing", "webstore"]),
    ("volume pause-sync nothing", 1, &["nothing", "webstore"]),
    ("move nothing", 1, &["nothing", "web"]),
    ("move web --to nobody", 1, &["nobody", "alpha, beta"]),
    ("standby nobody", 1, &["nobody", "alpha, beta"]),
    ("online nobody", 1, &["nobody", "alpha, beta"]),
    ("maintenance nobody", 1, &["nobody", "alpha, beta"]),
    ("maintenance beta --for soon", 2, &["soon", "--for"]),
    ("maintenance beta --for 0s", 1, &["'for'", "2h"]),
    ("maintenance beta --until tomorrow", 1, &["'until'", "2026-01-02T03:04:05Z"]),
    ("maintenance beta --until 2020-01-01T00:00:00Z", 1, &["passed already", "later"]),
    ("fence nobody --yes", 1, &["nobody", "alpha, beta"]),
    ("fence beta --yes", 1, &["beta has no fence devices", "nodes.beta.fence"]),
    ("recover nothing", 1, &["nothing", "web"]),
    ("notify test nobody", 1, &["nobody", "operators"]),
    ("check /no/such.yaml", 1, &["/no/such.yaml", "->"]),
    ("apply /no/such.yaml", 1, &["/no/such.yaml", "->"]),
    ("spec show 999999999", 1, &["999999999", "baton spec log"]),
    ("spec diff 999999998 999999999", 1, &["99999999", "baton spec log"]),
    ("spec rollback 999999999 --yes", 1, &["999999999", "baton spec log"]),
    ("cert show --dir /no/such", 1, &["/no/such", "baton cert init"]),
    ("cert node gamma --address 10.0.0.1 --dir /no/such", 1, &["/no/such", "baton cert init"]),
    ("token revoke ffffffff", 1, &["ffffffff", "baton token list"]),
    ("is leader --group nothing", 2, &["baton status"]),
    ("context use nothing", 2, &["nothing", "baton context add"]),
    ("status --context nothing", 2, &["nothing", "baton context add"]),
    ("completions tcsh", 2, &["tcsh", "bash"]),
];

/// A heartbeat that was late is followed by others.
const WELL: Duration = Duration::from_secs(15);

/// The cluster and who leads it.
struct Bench<'a> {
    t: &'a Scenario,
    leader: String,
    other: String,
}

impl Bench<'_> {
    /// Runs a command beside the leader's agent, whatever comes of it.
    fn run(&self, args: &[&str]) -> Output {
        self.t.baton_at(&self.leader, args).unwrap_or_else(|e| panic!("baton {}: {e:#}", args.join(" ")))
    }

    /// Runs one that must succeed and say something; returns what it says.
    fn ok(&self, args: &[&str]) -> String {
        let end = Instant::now() + WELL;
        let mut output = self.run(args);
        // What ends with the cluster's health says "degraded" when a single heartbeat is late.
        while matches!(output.code, Some(3 | 4)) && Instant::now() < end {
            output = self.run(args);
        }
        assert_eq!(output.code, Some(0), "baton {}: {}", args.join(" "), output.text());
        assert!(!output.text().trim().is_empty(), "baton {} says nothing", args.join(" "));
        output.stdout
    }

    /// The same, of words without spaces in them.
    fn line(&self, line: &str) -> String {
        self.ok(&line.split_whitespace().collect::<Vec<_>>())
    }

    fn json(&self, line: &str) -> Value {
        let text = self.line(line);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("baton {line}: {e}: {text}"))
    }

    /// A shell's line in the leader's agent container.
    fn shell(&self, line: &str) -> String {
        let agent =
            docker::part(&self.t.config, &self.leader, Role::Agent).unwrap_or_else(|e| panic!("{e:#}"));
        shell::run(&["docker", "exec", &agent.name, "sh", "-c", line]).unwrap_or_else(|e| panic!("{e:#}"))
    }

    fn expect(&self, what: &str, ok: bool, found: impl std::fmt::Display) {
        self.t.expect(what, ok, found);
    }
}

fn leaf(path: &str) -> Leaf {
    let found = leaves(&baton_operator::cli::command()).into_iter().find(|leaf| leaf.path == path);
    found.unwrap_or_else(|| panic!("the table names '{path}', which is no command"))
}

/// Text, and each other form that the command offers.
fn read(b: &Bench<'_>, path: &str, args: &str, says: &str) {
    let line = format!("{path} {args}");
    let text = b.line(&line);
    b.expect(&format!("'baton {}' says", line.trim()), text.contains(says), first_line(&text));
    let offers = leaf(path).options;
    let offers = |form: &str| offers.iter().any(|option| option == form);
    if offers("json") {
        let text = b.line(&format!("{line} --json"));
        // One document, or one per line.
        let one = serde_json::from_str::<Value>(&text).is_ok();
        let each = || text.lines().all(|l| serde_json::from_str::<Value>(l).is_ok());
        b.expect(&format!("'baton {path} --json' is JSON"), one || each(), first_line(&text));
    }
    if offers("yaml") {
        let text = b.line(&format!("{line} --yaml"));
        let documents = text.split("---\n").filter(|d| !d.trim().is_empty());
        let read: Vec<bool> =
            documents.map(|d| serde_saphyr::from_str::<Value>(d).is_ok_and(|v| !v.is_string())).collect();
        b.expect(
            &format!("'baton {path} --yaml' is YAML"),
            !read.is_empty() && read.iter().all(|ok| *ok),
            first_line(&text),
        );
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(60).collect()
}

#[test]
fn each_command_on_the_demo_cluster() {
    scenario("each CLI command", |t, leader| {
        let b = Bench { t, leader: leader.to_owned(), other: t.config.other(leader) };
        b.shell("rm -rf /tmp/e2e-cli && mkdir -m 700 /tmp/e2e-cli");
        for (path, how) in TABLE {
            match how {
                Read { args, says } => read(&b, path, args, says),
                By(function) => function(&b),
                Elsewhere(_) => {}
            }
        }
        for (line, code, parts) in ERRORS {
            let output = b.run(&line.split_whitespace().collect::<Vec<_>>());
            let said = output.stderr.as_str();
            let ok = output.code == Some(*code) && parts.iter().all(|part| said.contains(part));
            b.expect(
                &format!("'baton {line}' ends with {code} and says what to do"),
                ok,
                format!("{:?}: {said}", output.code),
            );
        }
        b.shell("rm -rf /tmp/e2e-cli");
    });
}

#[test]
fn contexts_and_tokens_over_tls() {
    scenario("the CLI from outside", |t, leader| {
        let b = Bench { t, leader: leader.to_owned(), other: t.config.other(leader) };
        outside::contexts(&b);
        outside::credentials(&b);
    });
}

/// Needs no cluster, so that a new command is missed at once.
#[test]
fn no_command_is_forgotten() {
    let commands: BTreeSet<String> =
        leaves(&baton_operator::cli::command()).into_iter().map(|leaf| leaf.path).collect();
    let tried: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
    let forgotten: Vec<_> = commands.difference(&tried).collect();
    assert!(forgotten.is_empty(), "no entry in the table tries {forgotten:?}");
    let unknown: Vec<_> = tried.difference(&commands).collect();
    assert!(unknown.is_empty(), "the table names what is no command: {unknown:?}");
    assert_eq!(tried.len(), TABLE.len(), "a command stands in the table twice");
    let binary = std::env::current_exe().expect("this binary");
    let binary = binary.to_str().expect("a path in UTF-8");
    let list = shell::run(&[binary, "--list"]).unwrap_or_else(|e| panic!("{e:#}"));
    for (path, how) in TABLE {
        if let Elsewhere(scenario) = how {
            assert!(
                list.lines().any(|l| l == format!("{scenario}: test")),
                "'{path}': there is no scenario {scenario}"
            );
        }
    }
}
