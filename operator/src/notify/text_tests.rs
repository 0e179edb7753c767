//! What arrives in the mailbox, held by golden files (`BATON_UPDATE_GOLDEN=1` writes them; read the diff).

use super::*;
use crate::cli::fixture::{self, group, node};
use crate::notify::conditions::conditions;
use crate::notify::core::{Answer, Core, Look, Settings};
use crate::notify::news::Reporter;
use crate::spec::Severity;
use crate::status::{ClusterStatus, Event, GroupState};
use baton_replicator::types::Instant;

const AT: &str = "2026-11-21T03:10:00.120Z";

fn golden(name: &str, m: &Message) {
    let mail =
        mail(m, "Baton <baton@alpha>", &["sip@tholdi.com".into(), "Night <n@tholdi.com>".into()]).unwrap();
    let text = String::from_utf8(mail.formatted()).unwrap().replace("\r\n", "\n");
    let path = format!("{}/src/notify/golden/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, held, "{name} differs from {path}");
}

/// What a core tells of a status within a minute.
fn told(status: &ClusterStatus, reporter: &mut Reporter) -> Vec<Message> {
    let settings = Settings {
        cluster: "tholdi".into(),
        me: status.node.clone(),
        groups: [group("web")].into(),
        whole: true,
        severity: Severity::Info,
        alert_every: None,
        recovery: true,
        hold: std::time::Duration::from_secs(10),
        max_per_hour: 20,
    };
    let mut core = Core::new(settings, Instant::ZERO);
    core.claims(&Default::default(), Instant::ZERO);
    let news = reporter.on_status(status);
    let mut all = Vec::new();
    for second in 1..60u64 {
        let look = Look { now: Instant(second * 1_000_000_000), at: AT, status };
        let news = if second == 1 { news.as_slice() } else { &[] };
        for action in core.look(look, &conditions(status, &[group("web")].into()), news) {
            match action {
                crate::notify::core::Action::Send(m) if m.parts.is_empty() => all.push(*m),
                crate::notify::core::Action::Send(m) => all.extend(m.parts),
                other => core.answered(&other, Answer::Won(1), look),
            }
        }
    }
    all
}

fn only(mut all: Vec<Message>, key: &str) -> Message {
    all.retain(|m| m.key == key);
    assert_eq!(all.len(), 1, "{key}");
    all.remove(0)
}

/// Beta took over from alpha, which is gone.
fn taken_over() -> (ClusterStatus, Reporter) {
    let mut reporter = Reporter::default();
    let mut before = fixture::healthy();
    before.node = node("beta");
    before.groups[0].last_takeover = None;
    assert!(reporter.on_status(&before).is_empty(), "the first look only remembers");
    let event = Event {
        n: 0,
        at: AT.into(),
        node: node("beta"),
        group: Some(group("web")),
        volume: None,
        severity: "warning".into(),
        message: "standby -> campaigning: nothing heard of the leader for 1500 ms".into(),
        takeover: None,
    };
    assert_eq!(reporter.on_event(&event, Instant::ZERO), None, "told as the takeover it leads to");
    let mut status = before;
    let mut takeover = fixture::healthy().groups[0].last_takeover.clone().unwrap();
    takeover.epoch.number = 8;
    takeover.total_ms = 1740;
    status.nodes[0].alive = false;
    status.nodes[0].age_ms = Some(1900);
    let web = &mut status.groups[0];
    web.leader = Some(node("beta"));
    web.epoch.number = 8;
    web.nodes[1].ready = false;
    web.nodes[0].ready = false;
    web.nodes[0].state = GroupState::Unknown;
    web.nodes[0].reason = "not heard for 1.9 s".into();
    web.in_sync = vec![node("beta")];
    web.last_takeover = Some(takeover);
    web.volumes[0].peers[0].node = node("alpha");
    web.volumes[0].peers[0].connection = baton_replicator::types::ConnectionState::Connecting;
    (status, reporter)
}

#[test]
fn a_takeover() {
    let (status, mut reporter) = taken_over();
    let all = told(&status, &mut reporter);
    let m = only(all.clone(), "web/leader/8");
    assert_eq!(subject(&m), "[baton tholdi] web: beta took over from alpha in 1.7 s");
    golden("takeover", &m);
    golden("node-lost", &only(all.clone(), "node/alpha/lost"));
    golden("no-standby", &only(all, "web/no-standby"));
}

#[test]
fn a_handover_names_its_reason_and_needs_nothing() {
    let mut reporter = Reporter::default();
    let mut status = fixture::healthy();
    assert!(reporter.on_status(&status).is_empty());
    status.groups[0].state = GroupState::HandingOver;
    status.groups[0].reason = "asked for: beta".into();
    assert!(reporter.on_status(&status).is_empty());
    status.groups[0].state = GroupState::Serving;
    status.groups[0].leader = Some(node("beta"));
    status.groups[0].epoch.number = 8;
    status.groups[0].nodes[0].ready = true;
    let news = reporter.on_status(&status);
    assert_eq!(news.len(), 1);
    assert_eq!(
        (news[0].title.as_str(), news[0].severity),
        ("web: handed over from alpha to beta", Severity::Info)
    );
    golden(
        "handover",
        &only(
            told(&status, &mut Reporter::default())
                .into_iter()
                .chain([Message {
                    kind: Kind::Event,
                    facts: news[0].facts.clone(),
                    done: news[0].done.clone(),
                    title: news[0].title.clone(),
                    key: news[0].key.clone(),
                    incident: news[0].key.clone(),
                    cluster: "tholdi".into(),
                    at: AT.into(),
                    ..test_message("tholdi", &node("beta"), "x", AT)
                }])
                .collect(),
            "web/leader/8",
        ),
    );
}

#[test]
fn a_recovery_stands_in_the_thread_of_its_begin() {
    let m = Message {
        severity: Severity::Warning,
        kind: Kind::End,
        key: "web/no-standby".into(),
        incident: "web/no-standby@2026-11-21T03:06:40Z".into(),
        sequence: 1,
        title: "web: redundant again, alpha could take over from beta, after 3 min 20 s".into(),
        lasted_ms: Some(200_000),
        facts: vec!["It had begun 2026-11-21T03:06:40Z and lasted 3 min 20 s".into()],
        ..test_message("tholdi", &node("beta"), "operators", AT)
    };
    golden("recovery", &m);
    let first = Message { sequence: 0, kind: Kind::Begin, ..m.clone() };
    assert_eq!(references(&m), Some(message_id(&first)));
    assert_eq!(references(&first), None);
}

#[test]
fn nobody_serves_and_what_the_advice_is() {
    let mut all = told(&fixture::down(), &mut Reporter::default());
    let m = only(all.clone(), "web/nobody-serves");
    assert_eq!(m.severity, Severity::Critical);
    golden("nobody-serves", &m);
    all.retain(|m| m.key == "web/nobody-serves" || m.key.starts_with("node") || m.key.starts_with("etcd"));
    let digest = Message {
        kind: Kind::Digest,
        severity: Severity::Critical,
        title: format!("{} (and {} more)", m.title, all.len() - 1),
        key: "digest".into(),
        incident: "digest@beta".into(),
        facts: vec![],
        advice: vec![],
        parts: all,
        ..m
    };
    golden("digest", &digest);
}

#[test]
fn a_test_and_a_title_that_nobody_could_have_foreseen() {
    let mut m = test_message("tholdi", &node("alpha"), "operators", AT);
    golden("test", &m);
    m.title = "Größe\r\nBcc: everybody@example.org\r\n\r\n".repeat(20);
    let mail = mail(&m, "baton@alpha", &["a@b.c".into()]).unwrap();
    let text = String::from_utf8(mail.formatted()).unwrap();
    assert!(!text.lines().any(|l| l.starts_with("Bcc")), "no header can be smuggled in: {text}");
    assert!(subject(&m).chars().count() <= SUBJECT);
}

#[test]
fn entries_of_the_history_that_no_state_covers_are_told_once_an_hour() {
    let mut r = Reporter::default();
    let mut event = fixture::history().remove(0);
    event.message = "10.0.0.1/24 was removed by somebody else; it is added again".into();
    assert_eq!(r.on_event(&event, Instant::ZERO).unwrap().severity, Severity::Warning);
    event.message = "10.0.0.2/24 was removed by somebody else; it is added again".into();
    assert_eq!(r.on_event(&event, Instant(60_000_000_000)), None, "the same but for a number");
    assert!(r.on_event(&event, Instant(3_700_000_000_000)).is_some());
    event.severity = "info".into();
    assert_eq!(r.on_event(&event, Instant::ZERO), None);
    event.message = "asked for: web moves to beta".into();
    assert_eq!(r.on_event(&event, Instant::ZERO).unwrap().severity, Severity::Info);
    event.severity = "info".into();
    event.message = format!("{}17: restarts apache on alpha", crate::notify::news::NEW_SPEC);
    let spec = r.on_event(&event, Instant::ZERO).unwrap();
    assert_eq!(
        (spec.key.as_str(), spec.local),
        ("specification/17", false),
        "every agent says it, one tells it"
    );
    for covered in [
        "serving -> fenced: promises ran out",
        "removes from the in-sync set: beta",
        "etcd did not answer Txn",
    ] {
        event.severity = "critical".into();
        event.message = covered.into();
        assert_eq!(r.on_event(&event, Instant::ZERO), None, "{covered}");
    }
}

#[test]
fn a_restart_of_a_service_is_told_where_it_happened() {
    let mut r = Reporter::default();
    let mut status = fixture::healthy();
    r.on_status(&status);
    status.groups[0].services[1].restarts = 1;
    let news = r.on_status(&status);
    assert_eq!(news.len(), 1);
    assert_eq!(news[0].title, "web: service apache was restarted on alpha");
    assert!(r.on_status(&status).is_empty());
}
