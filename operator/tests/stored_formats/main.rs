//! What agents keep in etcd and on their own disk, as release 0.1.0 wrote it: `v0.1.0.txt`, a line each, what it is and its
//! JSON. It is read as it was meant, and what is written now still says all of it in the same words, so that an agent of that
//! release reads it, too. Additions are free; nothing recorded is ever changed. Heartbeats have theirs in `src/heartbeat`.

use baton_operator::core::record::{Durable, InSync, LeaderKey, LongPromise, StoredNote};
use baton_operator::etcd::{Alive, SpecEntry};
use baton_operator::status::NodeMode;
use baton_replicator::types::{BootId, Epoch, Instant, Member, NodeName, TermId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;

const RECORDED: &str = include_str!("v0.1.0.txt");

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(0x0123_4567_89ab_cdef + number) }
}

/// Whether all of `old` is in `new`, in the same words.
fn says(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|found| says(found, value)))
        }
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| says(new, old))
        }
        (new, old) => new == old,
    }
}

fn kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(what: &str, meant: &T) {
    let now = serde_json::to_string(meant).expect("JSON");
    let line = RECORDED.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
    let recorded = line.unwrap_or_else(|| panic!("no line '{what}'; it would be: {what} {now}"));
    let read: T = serde_json::from_str(recorded).unwrap_or_else(|e| panic!("{what} is not read: {e}"));
    assert_eq!(&read, meant, "{what} is read otherwise");
    let [now, old] = [&now, recorded].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
    assert!(says(&now, &old), "{what} is written otherwise: {now}, was {old}");
}

#[test]
fn what_the_first_release_kept_is_read_and_still_written() {
    let members = vec![
        Member { node: node("alpha"), boot: BootId(0xfedc_ba98_7654_3210) },
        Member { node: node("beta"), boot: BootId(7) },
    ];
    kept("leader", &LeaderKey { node: node("alpha"), epoch: epoch(7), handed: false });
    kept("handed", &LeaderKey { node: node("beta"), epoch: epoch(8), handed: true });
    let candidates = vec![node("alpha"), node("beta")];
    kept("insync", &InSync { epoch: epoch(7), members, candidates, fresh: false });
    let promise = Some(LongPromise { until: Instant(1_234_567_890), length_ms: 30_000 });
    kept(
        "durable",
        &Durable {
            known: epoch(7),
            served: epoch(7),
            released: epoch(6),
            left: Epoch::ZERO,
            cluster_id: u64::MAX,
            revision: 42,
            promise,
        },
    );
    let alive = Alive {
        addresses: vec!["192.0.2.1:7700".into()],
        version: "0.1.0".into(),
        incarnation: "5e1f".into(),
    };
    kept("alive", &alive);
    for (what, mode) in [
        ("mode-online", NodeMode::Online),
        ("mode-standby", NodeMode::Standby),
        ("mode-maintenance", NodeMode::Maintenance),
    ] {
        kept(what, &mode);
    }
    let (owner, reason) = ("admin".to_owned(), "a new disk".to_owned());
    kept("mode-note", &StoredNote { owner, reason, since: 1_795_000_000, until: Some(1_795_003_600) });
    let entry = SpecEntry {
        version: 0,
        at: "2026-11-21T20:00:00Z".into(),
        by: "admin".into(),
        from: "alpha".into(),
        message: "first".into(),
        text: "cluster: demo\n".into(),
    };
    kept("spec-entry", &entry);
}

/// Values of before that lack what was added since.
#[test]
fn what_an_older_agent_leaves_out_has_a_default() {
    let without = |what: &str, fields: &[&str]| {
        let line = RECORDED.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        let mut value: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
        fields.iter().for_each(|field| drop(value.as_object_mut().expect("an object").remove(*field)));
        value
    };
    let leader: LeaderKey = serde_json::from_value(without("handed", &["handed"])).expect("read");
    assert!(!leader.handed);
    let insync: InSync = serde_json::from_value(without("insync", &["fresh"])).expect("read");
    assert!(!insync.fresh);
    let note: StoredNote = serde_json::from_value(without("mode-note", &["reason", "until"])).expect("read");
    assert_eq!((note.reason.as_str(), note.until), ("", None));
}
