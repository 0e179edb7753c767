//! The query of every panel against the demo's real Prometheus: none may be refused, and none empty. Where a healthy
//! cluster has nothing to show, the query itself says 0.

use baton_e2e::monitoring::Monitoring;
use baton_e2e::scenario::scenario;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rates over five minutes need two scrapes (5 s), recording rules one evaluation more, etcd's members a look of the
/// agents (10 s); a cluster that has just come up has all of it after half a minute.
const FILLED: Duration = Duration::from_secs(60);

/// What Grafana would put in: "All", and a range that a young cluster has filled.
const VARIABLES: [(&str, &str); 7] = [
    ("$__rate_interval", "1m"),
    ("$__range_s", "300"),
    ("$__range", "5m"),
    ("$__interval", "30s"),
    ("$group", ".*"),
    ("$volume", ".*"),
    ("$datasource", "prometheus"),
];

fn dashboards() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/grafana/dashboards");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut found: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn substituted(expression: &str) -> String {
    let all = VARIABLES.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!all.contains('$'), "a variable that Grafana does not have, or this test not: {all}");
    all
}

/// Title and query of each panel's targets.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten().filter(|p| p["type"] != "row") {
        let title = format!("{}: {}", dashboard["title"], panel["title"]);
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title} has no targets"));
        assert!(!targets.is_empty(), "{title} asks for nothing");
        for target in targets {
            let expression = target["expr"].as_str().unwrap_or_else(|| panic!("{title} has no query"));
            found.push((title.clone(), substituted(expression)));
        }
    }
    found
}

#[test]
fn dashboards_are_whole() {
    let mut uids = Vec::new();
    for path in dashboards() {
        let dashboard = read(&path);
        let shown = path.display();
        assert_eq!(dashboard["schemaVersion"], 41, "{shown}");
        assert_eq!(path.file_stem().and_then(|s| s.to_str()), dashboard["uid"].as_str(), "{shown}");
        uids.push(dashboard["uid"].clone());
        assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource", "{shown}");
        for panel in dashboard["panels"].as_array().into_iter().flatten().filter(|p| p["type"] != "row") {
            let described = panel["description"].as_str().is_some_and(|d| d.ends_with('.'));
            assert!(described, "{shown}: {} has no description", panel["title"]);
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{shown}: {}", panel["title"]);
        }
        assert!(queries(&dashboard).len() > 10, "{shown}");
    }
    uids.dedup();
    assert_eq!(uids.len(), dashboards().len(), "uids are unique");
}

#[test]
fn every_panel_shows_something() {
    scenario("dashboards against the real Prometheus", |t, _| {
        let monitoring = Monitoring::of(&t.config);
        let mut left: Vec<(String, String)> = dashboards().iter().flat_map(|p| queries(&read(p))).collect();
        let asked = left.len();
        let end = Instant::now() + FILLED;
        let mut why = Vec::new();
        while !left.is_empty() {
            why.clear();
            left.retain(|(title, query)| match monitoring.query(query) {
                Ok(found) if !found.is_empty() => false,
                Ok(_) => {
                    why.push(format!("{title}: nothing for {query}"));
                    true
                }
                Err(error) => {
                    why.push(format!("{title}: {query}: {error:#}"));
                    true
                }
            });
            if Instant::now() >= end {
                break;
            }
            std::thread::sleep(Duration::from_secs(2));
        }
        t.expect(
            "queries of panels that show something",
            why.is_empty(),
            format!("{} of {asked}", asked - left.len()),
        );
        assert!(why.is_empty(), "{}", why.join("\n"));
    });
}
