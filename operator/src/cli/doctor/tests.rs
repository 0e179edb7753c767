//! The whole of `baton doctor` against a host that is not one: it must end, and say so check by check.

use super::*;
use crate::cli::fixture;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    doctor: DoctorArgs,
}

fn args(dir: &Path, more: &[&str]) -> DoctorArgs {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut line = vec!["doctor".to_owned()];
    for (option, value) in [
        ("--spec", path("cluster.yaml")),
        ("--secret-file", path("secret")),
        ("--state-dir", path("")),
        ("--run-dir", path("run")),
        ("--docker", format!("unix://{}", path("no.sock"))),
        ("--node", "alpha".to_owned()),
    ] {
        line.extend([option.to_owned(), value]);
    }
    line.extend(more.iter().map(|m| (*m).to_owned()));
    Line::parse_from(line).doctor
}

fn nobody() -> ApiClient {
    ApiClient::new(&["http://127.0.0.1:1".to_owned()]).unwrap()
}

#[tokio::test]
async fn a_bare_host_is_told_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let report = examine(&nobody(), &args(dir.path(), &["--skip", "devices"])).await;
    assert_eq!(report.code(), 2);
    let find = |check: &str| {
        report.findings.iter().find(|f| f.check == check).unwrap_or_else(|| panic!("{check} in {report:?}"))
    };
    assert_eq!(find("reachable").verdict, Verdict::Failed, "no engine");
    assert_eq!(find("cluster secret").verdict, Verdict::Failed);
    assert_eq!(find("members").verdict, Verdict::Skipped);
    assert!(find("peers").found.contains("--spec"), "{:?}", find("peers"));
    let families: Vec<&str> = report.findings.iter().map(|f| f.family).collect();
    assert!(!families.contains(&"devices"));
    for finding in &report.findings {
        let bad = matches!(finding.verdict, Verdict::Failed | Verdict::Warning);
        assert_eq!(bad, !finding.mend.is_empty(), "what is wrong can be mended: {finding:?}");
    }
}

#[tokio::test]
async fn with_a_specification_the_peers_are_asked() {
    let dir = tempfile::tempdir().unwrap();
    let spec = "cluster: demo\nnodes:\n  alpha: { address: 127.0.0.1 }\n  beta: { address: 127.0.0.2 }\n\
                groups:\n  web:\n    addresses: [10.77.0.100/24]\n";
    std::fs::write(dir.path().join("cluster.yaml"), spec).unwrap();
    let report = examine(&nobody(), &args(dir.path(), &["--only", "ports,network"])).await;
    let checks: Vec<&str> = report.findings.iter().map(|f| f.check.as_str()).collect();
    assert!(checks.contains(&"beta's agent") && checks.contains(&"packets to beta"), "{checks:?}");
    assert!(checks.iter().any(|c| c.starts_with("10.77.0.100")), "{checks:?}");
    assert!(report.findings.iter().all(|f| ["ports", "network"].contains(&f.family)), "{report:?}");
}

#[test]
fn a_group_that_is_at_home_is_not_probed() {
    assert_eq!(at_home(Some(&fixture::healthy()), "web").as_deref(), Some("alpha"));
    let mut idle = fixture::healthy();
    idle.groups[0].leader = None;
    idle.groups[0].state = GroupState::Standby;
    assert_eq!(at_home(Some(&idle), "web"), None);
    assert_eq!(at_home(None, "web"), None);
    let found =
        Finding::failed("network", "x", "02:00 on eth0 answers for it, although the group does not run", "m");
    assert_eq!(unsure(found).verdict, Verdict::Warning);
    let other = Finding::failed("network", "x", "this host has it itself", "m");
    assert_eq!(unsure(other.clone()), other);
}
