//! The table against the reader, the generated files against the table, and the schema against real documents.

use super::*;
use crate::spec::Spec;
use std::collections::BTreeSet;
use std::path::PathBuf;

const GOOD: &str = include_str!("../testdata/good.yaml");

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// A document in which every section has the unknown field `zzz`: the reader answers with the fields it knows there.
const PROBE: &str = r#"
zzz: 1
cluster: demo
heartbeat: { zzz: 1 }
etcd: { zzz: 1 }
nodes:
  a:
    address: 10.0.0.1
    zzz: 1
    fence: [{ agent: fence_x, zzz: 1 }]
    heartbeat:
      - { broadcast: eth0, zzz: 1 }
      - { multicast: { group: 239.0.0.1, interface: eth0, zzz: 1 } }
      - { serial: { device: /dev/ttyS0, zzz: 1 } }
  b: { address: 10.0.0.2 }
groups:
  web:
    zzz: 1
    addresses: [{ address: 10.0.0.9/24, zzz: 1 }]
    volumes: { v: { size: 1GiB, zzz: 1, resync: { zzz: 1 }, verify: { every: 7d, zzz: 1 }, after_split_brain: { zzz: 1 } } }
    services:
      s:
        zzz: 1
        image: x
        volumes: [{ source: v, target: /v, zzz: 1 }]
        depends_on: { t: { zzz: 1 } }
        healthcheck: { zzz: 1 }
        ulimits: { nofile: { soft: 1, hard: 1, zzz: 1 } }
      t: { image: x }
    checks:
      - { http: { url: "http://x/", zzz: 1 }, zzz: 1 }
      - { tcp: { address: "x:1", zzz: 1 } }
      - { exec: { service: s, command: [x], zzz: 1 } }
      - { sql: { address: "x:1", user: u, database: d, zzz: 1 } }
      - { docker: { service: s, zzz: 1 } }
      - { write: { service: s, path: /v/f, zzz: 1 } }
      - { ping: { address: 10.0.0.3, zzz: 1 } }
notify:
  m: { mail: { to: [a@b.org], via: "smtp://x", zzz: 1 }, zzz: 1 }
  w: { webhook: { url: "http://x/", zzz: 1 } }
  e: { exec: { command: [x], zzz: 1 } }
"#;

/// Where each section of the table stands in the probe.
const PLACES: &[(&str, &str)] = &[
    ("", "zzz"),
    ("heartbeat", "heartbeat.zzz"),
    ("etcd", "etcd.zzz"),
    ("nodes.<node>", "nodes.a.zzz"),
    ("nodes.<node>.fence[]", "nodes.a.fence[0].zzz"),
    ("nodes.<node>.heartbeat[]", "nodes.a.heartbeat[0].zzz"),
    ("nodes.<node>.heartbeat[].multicast", "nodes.a.heartbeat[1].multicast.zzz"),
    ("nodes.<node>.heartbeat[].serial", "nodes.a.heartbeat[2].serial.zzz"),
    ("groups.<group>", "groups.web.zzz"),
    ("groups.<group>.addresses[]", "groups.web.addresses[0].zzz"),
    ("groups.<group>.volumes.<volume>", "groups.web.volumes.v.zzz"),
    ("groups.<group>.volumes.<volume>.resync", "groups.web.volumes.v.resync.zzz"),
    ("groups.<group>.volumes.<volume>.verify", "groups.web.volumes.v.verify.zzz"),
    ("groups.<group>.volumes.<volume>.after_split_brain", "groups.web.volumes.v.after_split_brain.zzz"),
    ("groups.<group>.services.<service>", "groups.web.services.s.zzz"),
    ("groups.<group>.services.<service>.volumes[]", "groups.web.services.s.volumes[0].zzz"),
    ("groups.<group>.services.<service>.depends_on.<service>", "groups.web.services.s.depends_on.t.zzz"),
    ("groups.<group>.services.<service>.healthcheck", "groups.web.services.s.healthcheck.zzz"),
    ("groups.<group>.services.<service>.ulimits.<name>", "groups.web.services.s.ulimits.nofile.zzz"),
    ("groups.<group>.checks[]", "groups.web.checks[0].zzz"),
    ("groups.<group>.checks[].http", "groups.web.checks[0].http.zzz"),
    ("groups.<group>.checks[].tcp", "groups.web.checks[1].tcp.zzz"),
    ("groups.<group>.checks[].exec", "groups.web.checks[2].exec.zzz"),
    ("groups.<group>.checks[].sql", "groups.web.checks[3].sql.zzz"),
    ("groups.<group>.checks[].docker", "groups.web.checks[4].docker.zzz"),
    ("groups.<group>.checks[].write", "groups.web.checks[5].write.zzz"),
    ("groups.<group>.checks[].ping", "groups.web.checks[6].ping.zzz"),
    ("notify.<name>", "notify.m.zzz"),
    ("notify.<name>.mail", "notify.m.mail.zzz"),
    ("notify.<name>.webhook", "notify.w.webhook.zzz"),
    ("notify.<name>.exec", "notify.e.exec.zzz"),
];

#[test]
fn the_table_has_every_field_that_the_reader_knows_and_no_other() {
    let errors = Spec::parse(PROBE, |_| None).expect_err("has unknown fields").errors;
    for section in sections() {
        let at = PLACES.iter().find(|(path, _)| *path == section.path).map(|(_, at)| *at);
        let at = at.unwrap_or_else(|| panic!("the probe has no '{}'", section.path));
        let said = errors
            .iter()
            .find(|e| e.path == at)
            .unwrap_or_else(|| panic!("nothing said at {at}: {errors:?}"));
        let known: BTreeSet<&str> =
            said.message.split("known here are ").nth(1).unwrap_or_default().split(", ").collect();
        // Named by the reader only to explain why they are refused.
        let refused = [
            "build",
            "container_name",
            "deploy",
            "env_file",
            "network_mode",
            "networks",
            "ports",
            "privileged",
            "restart",
        ];
        let mut known: BTreeSet<&str> = known.into_iter().filter(|k| !refused.contains(k)).collect();
        if section.path.ends_with("services.<service>.volumes[]") {
            known.remove("volume");
        }
        let table: BTreeSet<&str> = section.fields.iter().map(|f| f.name).collect();
        assert_eq!(table, known, "{at}");
    }
    assert_eq!(sections().len(), PLACES.len());
}

/// `BATON_UPDATE_GOLDEN=1` writes them anew.
#[test]
fn reference_and_schema_in_docs_are_current() {
    let schema = serde_json::to_string_pretty(&schema()).expect("serialises") + "\n";
    for (name, text) in [("configuration.md", markdown()), ("cluster.schema.json", schema)] {
        if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
            std::fs::write(docs(name), &text).expect("written");
        }
        let kept = std::fs::read_to_string(docs(name)).unwrap_or_default();
        // The order of keys is a matter of how the library was built.
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        let same = kept == text || (name.ends_with("json") && json(&kept) == json(&text));
        assert!(same, "docs/{name} is not current; BATON_UPDATE_GOLDEN=1 makes it anew");
    }
}

fn read(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn the_schema_takes_good_documents_and_refuses_bad_ones() {
    let validator = jsonschema::validator_for(&schema()).expect("the schema is one");
    let says = |text: &str| {
        let document = read(text);
        validator.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect::<Vec<_>>()
    };
    for text in [
        GOOD,
        include_str!("../testdata/diff/base.yaml"),
        include_str!("../../../../compose/demo/cluster.yaml"),
    ] {
        let errors = says(text);
        assert!(errors.is_empty(), "{errors:#?}");
    }
    let bad = [
        ("cluster: tholdi", "clustre: tholdi"),
        ("keepalive: 100ms", "keepalive: 100"),
        ("address: 192.168.0.5", "address: web1.example.org"),
        ("192.168.0.7/29", "192.168.0.7"),
        ("size: 1GiB", "size: big"),
        ("protocol: C", "protocol: D"),
        ("filesystem: ext4", "filesystem: ntfs"),
        ("auto_failback: false", "auto_failback: maybe"),
        ("condition: service_healthy", "condition: service_happy"),
        ("image: httpd:2.4", "ports: [80]"),
        ("after_power_loss: start", "after_power_loss: run"),
        ("http: { url: \"http://{address}/\"", "gopher: { url: \"http://{address}/\""),
        ("http: { url: \"http://{address}/\"", "ping: { url: \"http://{address}/\""),
        ("via: \"smtp://mail:25\"", "via: mail"),
        ("migration_threshold: 2", "migration_threshold: often"),
    ];
    for (from, to) in bad {
        assert!(GOOD.contains(from), "the good document has no '{from}'");
        assert!(!says(&GOOD.replacen(from, to, 1)).is_empty(), "'{to}' must be refused");
    }
}

/// What the table calls an example is one: it reads as the kind it claims.
#[test]
fn defaults_and_examples_read_as_what_they_are() {
    for f in sections().iter().flat_map(|s| s.fields) {
        match f.kind {
            Kind::Duration => assert!(crate::spec::parse_duration(f.example).is_ok(), "{}", f.name),
            Kind::Size => assert!(crate::spec::parse_size(f.example).is_ok(), "{}", f.name),
            Kind::Word(words) => assert!(words.contains(&f.example), "{}", f.name),
            _ => assert!(!f.example.is_empty() && !f.meaning.is_empty(), "{}", f.name),
        }
        assert!(f.meaning.ends_with('.'), "{}: {}", f.name, f.meaning);
    }
}
