//! Rules, runbooks and dashboards against the code: what they name must exist, and each alert must be explained and
//! tested. That they work is promtool's business (`make check`) and the end-to-end suite's.

use super::{Kind, LIVE, METRICS};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Metrics of others that rules and dashboards use: etcd's, Alertmanager's, and every process' own.
const FOREIGN: &[&str] = &[
    "alertmanager_notifications_failed_total",
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_quota_backend_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn files(dir: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(repository().join(dir)).unwrap_or_else(|e| panic!("{dir}: {e}"));
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<_> = names.filter(|n| n.ends_with(extension)).map(|n| format!("{dir}/{n}")).collect();
    found.sort();
    found
}

/// What follows `mark` at the begin of a line.
fn after<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |l| l.trim_start().strip_prefix(mark)).map(str::trim)
}

/// Every word of a text that could be a metric.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    const PREFIXES: [&str; 6] = ["baton_", "baton:", "etcd_", "etcd:", "alertmanager_", "process_"];
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|w| PREFIXES.iter().any(|p| w.starts_with(p))).collect()
}

fn exists(name: &str, recorded: &BTreeSet<&str>) -> bool {
    let own = |m: &super::Metric| match m.kind {
        Kind::Histogram => {
            name.strip_prefix(m.name).is_some_and(|s| matches!(s, "_bucket" | "_count" | "_sum"))
        }
        Kind::Counter | Kind::Gauge => name == m.name,
    };
    METRICS.iter().chain(LIVE).any(own) || FOREIGN.contains(&name) || recorded.contains(name)
}

#[test]
fn every_metric_that_a_rule_or_dashboard_names_exists() {
    let recording = read("charts/prometheus/recording.yml");
    let recorded: BTreeSet<&str> = after(&recording, "- record:").collect();
    assert!(recorded.len() > 5, "{recorded:?}");
    let mut sources = vec!["charts/prometheus/recording.yml".into(), "charts/prometheus/alerts.yml".into()];
    sources.extend(files("charts/prometheus/tests", ".yml"));
    sources.extend(files("charts/grafana/dashboards", ".json"));
    for source in sources {
        let text = read(&source);
        let named = metrics_named(&text);
        assert!(!named.is_empty(), "{source} names no metric");
        for name in named {
            assert!(exists(name, &recorded), "{source} names {name}, which does not exist");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let rules = read("charts/prometheus/alerts.yml");
    let alerts: BTreeSet<String> =
        after(&rules, "- alert:").map(|a| format!("docs/runbooks/{a}.md")).collect();
    assert!(alerts.len() >= 30, "{}", alerts.len());
    let pages: BTreeSet<String> = files("docs/runbooks", ".md").into_iter().collect();
    assert_eq!(alerts, pages);
    let linked: BTreeSet<String> = after(&rules, "runbook_url:")
        .filter_map(|u| Some(u[u.find("docs/runbooks/")?..].to_owned()))
        .collect();
    assert_eq!(alerts, linked);
    for page in pages {
        let text = read(&page);
        for part in [
            "## What it means",
            "## How urgent",
            "## How to look",
            "## How to mend",
            "## What Baton does by itself",
        ] {
            assert!(text.contains(&format!("{part}\n\n")), "{page} lacks '{part}'");
        }
        for target in text.split("](").skip(1).filter_map(|t| t.split(')').next()) {
            // Headings are the business of the documentation's own test.
            let file = target.split('#').next().unwrap_or(target);
            assert!(repository().join("docs/runbooks").join(file).exists(), "{page} links {target}");
        }
    }
}

#[test]
fn every_alert_says_how_bad_it_is_and_is_tested_both_ways() {
    let rules = read("charts/prometheus/alerts.yml");
    let tests: String = files("charts/prometheus/tests", ".yml").iter().map(|f| read(f)).collect();
    let tested: BTreeSet<&str> = after(&tests, "- name:").collect();
    let overview = read("docs/monitoring.md");
    for rule in rules.split("- alert:").skip(1) {
        let name = rule.lines().next().unwrap().trim();
        for part in ["severity:", "summary:", "consequence:", "runbook_url:"] {
            assert!(rule.contains(part), "{name} lacks {part}");
        }
        for kind in ["fires", "is quiet"] {
            assert!(tested.contains(format!("{name} {kind}").as_str()), "no promtool test '{name} {kind}'");
        }
        assert!(
            overview.contains(&format!("[{name}](runbooks/{name}.md)")),
            "docs/monitoring.md lacks {name}"
        );
    }
}
