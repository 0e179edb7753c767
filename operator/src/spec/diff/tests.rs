//! Every kind of change as a golden file that an operator can read: what was edited, and what the plan says.
//! `BATON_UPDATE_GOLDEN=1` writes them anew.

use super::*;
use std::path::Path;

const BASE: &str = include_str!("../testdata/diff/base.yaml");

/// A name, what is replaced by what in the base document, and how the cluster stands.
struct Case {
    name: &'static str,
    edits: &'static [(&'static str, &'static str)],
    leader: &'static str,
    in_sync: &'static [&'static str],
}

const fn case(name: &'static str, edits: &'static [(&'static str, &'static str)]) -> Case {
    Case { name, edits, leader: "alpha", in_sync: &["alpha", "beta"] }
}

const GAMMA: &str = "  gamma: { address: 10.0.0.13 }\n";
const BETA: &str = "  beta: { address: 10.0.0.12 }\n";
const WEB: &str = r#"  web:
    prefer: [alpha]
    addresses: [10.0.0.100/24]
    volumes:
      webstore: { size: 1GiB }
    services:
      mysql:
        image: mariadb:10
        environment: { PASSWORD: hunter2 }
        volumes: ["webstore:/var/lib/mysql"]
      apache:
        image: apache:2.4
        environment: { A: "1", B: "2" }
        depends_on:
          mysql: { condition: service_started }
          init: { condition: service_completed_successfully }
      init: { image: "init:1" }
    checks:
      - http: { url: "http://{address}/", interval: 1s }
    notify: [operators]
"#;
const BATCH: &str = "  batch:\n    services:\n      cron: { image: \"cron:1\" }\n";

const CASES: &[Case] = &[
    case("comment", &[("cluster: demo", "# a word\ncluster: demo")]),
    case("cluster-renamed", &[("cluster: demo", "cluster: other")]),
    case("timers", &[("keepalive: 100ms", "keepalive: 200ms"), ("deadtime: 1500ms", "deadtime: 3s")]),
    case("profile-fast", &[("{ keepalive: 100ms, warntime: 500ms, deadtime: 1500ms }", "{ profile: fast }")]),
    case(
        "profile-fast-with-a-timer-of-its-own",
        &[("{ keepalive: 100ms, warntime: 500ms, deadtime: 1500ms }", "{ profile: fast, deadtime: 1s }")],
    ),
    case("ttl", &[("deadtime: 1500ms", "deadtime: 1500ms, ttl: 8s")]),
    case("node-joins", &[(BETA, "  beta: { address: 10.0.0.12 }\n  gamma: { address: 10.0.0.13 }\n")]),
    case("node-replaced", &[(BETA, GAMMA)]),
    Case { leader: "beta", ..case("node-leaves-that-leads", &[(BETA, GAMMA)]) },
    Case { in_sync: &["beta"], ..case("node-leaves-with-the-last-copy", &[(BETA, GAMMA)]) },
    Case {
        leader: "beta",
        in_sync: &["beta"],
        ..case("node-leaves-that-leads-with-the-last-copy", &[(BETA, GAMMA)])
    },
    case("node-moves", &[("10.0.0.12", "10.0.9.12")]),
    case(
        "node-gets-a-link",
        &[
            ("alpha: { address: 10.0.0.11 }", "alpha: { address: 10.0.0.11, replication: 10.1.0.11 }"),
            ("beta: { address: 10.0.0.12 }", "beta: { address: 10.0.0.12, replication: 10.1.0.12 }"),
        ],
    ),
    case(
        "node-gets-a-second-way-for-blocks",
        &[(
            "alpha: { address: 10.0.0.11 }",
            "alpha: { address: 10.0.0.11, replication: [10.1.0.11, 10.0.0.11], heartbeat: 10.0.0.11 }",
        )],
    ),
    case(
        "group-begins",
        &[(
            "notify:\n",
            "  mail:\n    prefer: [beta]\n    addresses: [10.0.0.102/24]\n    volumes: { mailstore: { size: 2GiB } }\nnotify:\n",
        )],
    ),
    case("group-ends", &[(BATCH, "")]),
    case("group-with-data-ends", &[(WEB, "")]),
    case("group-renamed", &[("  web:\n", "  www:\n")]),
    case("prefer", &[("prefer: [alpha]", "prefer: [beta, alpha]")]),
    case("failback-moves", &[("prefer: [alpha]", "prefer: [beta]\n    auto_failback: true")]),
    case("failback-stays", &[("prefer: [alpha]", "prefer: [alpha]\n    auto_failback: true")]),
    case("address-joins", &[("[10.0.0.100/24]", "[10.0.0.100/24, 10.0.0.101/24]")]),
    case("address-changes", &[("[10.0.0.100/24]", "[10.0.0.101/24]")]),
    case("volume-grows", &[("size: 1GiB", "size: 2GiB")]),
    case("volume-shrinks", &[("size: 1GiB", "size: 512MiB")]),
    case(
        "volume-joins-a-group",
        &[("webstore: { size: 1GiB }", "webstore: { size: 1GiB }\n      logs: { size: 1GiB }")],
    ),
    case(
        "volume-leaves-a-group",
        &[
            ("    volumes:\n      webstore: { size: 1GiB }\n", ""),
            ("        volumes: [\"webstore:/var/lib/mysql\"]\n", ""),
        ],
    ),
    case("volume-filesystem", &[("size: 1GiB", "size: 1GiB, filesystem: xfs")]),
    case("volume-protocol", &[("size: 1GiB", "size: 1GiB, protocol: B")]),
    case(
        "volume-front-end",
        &[
            ("size: 1GiB", "size: 1GiB, front_end: nbd"),
            ("        volumes: [\"webstore:/var/lib/mysql\"]\n", ""),
        ],
    ),
    case("volume-transport", &[("size: 1GiB", "size: 1GiB, transport: plain")]),
    case("volume-backing", &[("size: 1GiB", "size: 1GiB, backing: /dev/vg0/web")]),
    case(
        "volume-tuning",
        &[(
            "size: 1GiB",
            "size: 1GiB, mount_options: noatime, resync_rate: 50MiB, peer_timeout: 5s, disk_timeout: 10s",
        )],
    ),
    case("service-environment", &[("{ A: \"1\", B: \"2\" }", "{ A: \"9\", C: \"3\" }")]),
    case("service-image", &[("apache:2.4", "apache:2.5")]),
    case("service-depended-on", &[("mariadb:10", "mariadb:11"), ("apache:2.4", "apache:2.5")]),
    case("service-grace", &[("image: apache:2.4", "image: apache:2.4\n        stop_grace_period: 3s")]),
    case("service-joins", &[("      apache:\n", "      cache: { image: \"cache:1\" }\n      apache:\n")]),
    case("service-leaves", &[("      cron: { image: \"cron:1\" }", "      tick: { image: \"cron:1\" }")]),
    case("job-changes", &[("init: { image: \"init:1\" }", "init: { image: \"init:2\" }")]),
    case("checks", &[("interval: 1s", "interval: 2s")]),
    case(
        "policies",
        &[(
            "prefer: [alpha]",
            "prefer: [alpha]\n    migration_threshold: 5\n    start_timeout: 90s\n    after_power_loss: start",
        )],
    ),
    case(
        "notify",
        &[
            ("to: [sip@example.org]", "to: [ops@example.org]"),
            ("notify:\n", "notify:\n  chat: { webhook: { url: \"http://chat/x\" } }\n"),
        ],
    ),
];

fn read(text: &str) -> Spec {
    Spec::parse(text, |_| None).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn every_kind_of_change_says_what_it_means() {
    let node = |name: &str| NodeName::new(name).expect("a name");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spec/testdata/diff");
    let update = std::env::var_os("BATON_UPDATE_GOLDEN").is_some();
    let old = read(BASE);
    let mut wrong = Vec::new();
    for case in CASES {
        let mut text = BASE.to_owned();
        let mut shown = String::new();
        for (from, to) in case.edits {
            assert!(text.contains(from), "{}: the base has no '{from}'", case.name);
            text = text.replacen(from, to, 1);
            from.lines().for_each(|l| shown += &format!("- {l}\n"));
            to.lines().for_each(|l| shown += &format!("+ {l}\n"));
        }
        let group = |leader: &str, in_sync: &[&str]| GroupFacts {
            leader: Some(node(leader)),
            in_sync: in_sync.iter().map(|n| node(n)).collect(),
        };
        let groups =
            [("web", group(case.leader, case.in_sync)), ("batch", group("alpha", &["alpha", "beta"]))];
        let facts = Facts {
            groups: groups.into_iter().map(|(n, g)| (GroupName::new(n).expect("a name"), g)).collect(),
            volumes_dir: "/var/lib/baton/volumes".into(),
        };
        let plan = plan(&old, &read(&text), &facts);
        let got = format!("{shown}\n{}\nHistory: {}\n", plan.render(), plan.summary());
        let path = dir.join(format!("{}.txt", case.name));
        if update {
            std::fs::write(&path, &got).expect("written");
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if expected != got {
            wrong.push(format!("{}\n{got}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "not as kept:\n{}", wrong.join("\n"));
    assert!(CASES.len() >= 25);
}

/// The other way round nothing is forgotten either, and no value of an environment is ever shown.
#[test]
fn every_change_is_seen_both_ways_and_secrets_are_not() {
    let old = read(BASE);
    for case in CASES.iter().filter(|c| c.name != "comment") {
        let text = case.edits.iter().fold(BASE.to_owned(), |text, (from, to)| text.replacen(from, to, 1));
        let new = read(&text);
        for plan in [plan(&old, &new, &Facts::default()), plan(&new, &old, &Facts::default())] {
            assert!(!plan.changes.is_empty(), "{}", case.name);
            assert!(
                plan.changes
                    .iter()
                    .all(|c| !c.path.is_empty() && !c.what.is_empty() && !c.consequence.is_empty())
            );
            assert!(!plan.render().contains("hunter2"), "{}", case.name);
        }
        assert!(plan(&new, &new, &Facts::default()).changes.is_empty());
    }
}
