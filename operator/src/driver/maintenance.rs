//! What is remembered of a maintenance, so that it is not forgotten: who, why, until when; and one event when that has
//! passed. Nothing else happens then: nobody is surprised at three in the morning by a node that starts to move things.
//!
//! Every agent looks; which of them tells is settled in etcd. If the task dies, advice, metric and alert remain.

use super::history::History;
use crate::api::ModeChange;
use crate::core::group::Severity;
use crate::core::record::{ModeWish, Outcome, StoredNote};
use crate::etcd::Etcd;
use crate::status::{ClusterStatus, ModeNote, NodeMode, NodeStatus};
use baton_replicator::types::NodeName;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks: a person who waits for the event at the minute is served, and it costs a look at memory.
const LOOK: Duration = Duration::from_secs(1);
/// A maintenance may be planned for so long: about a quarter of a year. Longer is a node that should leave.
const LONGEST: Duration = Duration::from_secs(116 * 86_400);

/// The wish after `change`, at `now` seconds since 1970. What is left out stays as it was if the mode is the same.
///
/// # Errors
/// Why it cannot be: an end that has passed or is too far away, or of a mode that has none.
pub(super) fn after(present: &ModeWish, change: &ModeChange, now: u64) -> Result<ModeWish, String> {
    if let Some(until) = change.until {
        if change.mode != NodeMode::Maintenance {
            return Err("only a maintenance has an end: leave 'for' and 'until' out".into());
        }
        if until <= now {
            return Err("the end of the maintenance has passed already: give a later one".into());
        }
        if until - now > LONGEST.as_secs() {
            let days = LONGEST.as_secs() / 86_400;
            return Err(format!("a maintenance may last {days} days at most: give an earlier end"));
        }
    }
    let same = present.mode == change.mode;
    let silent = change.owner.is_none() && change.reason.is_none() && change.until.is_none();
    if same && silent {
        return Ok(present.clone());
    }
    let before = present.note.as_ref().filter(|_| same);
    let note = StoredNote {
        owner: change.owner.clone().or(before.map(|n| n.owner.clone())).unwrap_or_else(|| change.by.clone()),
        reason: change.reason.clone().or(before.map(|n| n.reason.clone())).unwrap_or_default(),
        since: before.map_or(now, |n| n.since),
        until: change.until.or(before.and_then(|n| n.until)),
    };
    Ok(ModeWish { mode: change.mode, note: Some(note) })
}

/// Who, why and until when, in brackets; empty if there is nothing to say.
pub(super) fn said(wish: &ModeWish, now: u64) -> String {
    let Some(note) = wish.note.as_ref().map(|note| ModeNote::of(note, now)) else { return String::new() };
    let until = note.until.map(|until| format!(", until {until}")).unwrap_or_default();
    let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
    format!(" ({}{until}{reason})", note.owner)
}

fn overdue(node: &NodeStatus) -> Option<(&ModeNote, &str)> {
    let note = node.mode_note.as_ref().filter(|n| n.expired && node.mode == NodeMode::Maintenance)?;
    Some((note, note.until.as_deref()?))
}

/// What to do about a maintenance that should be over.
pub(super) fn advice(node: &NodeStatus) -> Option<String> {
    let (note, until) = overdue(node)?;
    let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
    let name = &node.name;
    Some(format!(
        "the maintenance of {name} was to end at {until} ({}{reason}), but nothing is moved or restarted there yet: \
         'baton online {name}' ends it, 'baton maintenance {name} --for 2h' prolongs it",
        note.owner
    ))
}

/// Starts the task; it ends with the runtime.
pub(super) fn watch(etcd: Etcd, status: watch::Receiver<ClusterStatus>, history: History) {
    tokio::spawn(async move {
        let mut done: BTreeMap<NodeName, ModeNote> = BTreeMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let nodes = status.borrow().nodes.clone();
            for node in nodes {
                let Some((note, until)) = overdue(&node) else { continue };
                if done.get(&node.name) != Some(note) && tell(&etcd, &history, &node.name, note, until).await
                {
                    done.insert(node.name.clone(), note.clone());
                }
            }
        }
    });
}

/// False if it has to be tried again.
async fn tell(etcd: &Etcd, history: &History, node: &NodeName, note: &ModeNote, until: &str) -> bool {
    let Ok((wish, version)) = etcd.mode(node).await else { return false };
    // Ended or prolonged meanwhile: status will say so.
    let still = |stored: &StoredNote| ModeNote::of(stored, u64::MAX) == *note;
    if wish.mode != NodeMode::Maintenance || !wish.note.as_ref().is_some_and(still) {
        return false;
    }
    match etcd.tell_mode_expired(node, version).await {
        Outcome::Committed { .. } => {
            let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
            let text = format!(
                "the maintenance of {node} was to end at {until} ({}{reason}); it goes on until 'baton online {node}'",
                note.owner
            );
            history.record(None, Severity::Warning, &text);
            true
        }
        Outcome::GuardFailed => true,
        Outcome::Unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn change(mode: NodeMode) -> ModeChange {
        ModeChange { mode, by: "root".into(), owner: None, reason: None, until: None }
    }

    fn note(wish: &ModeWish) -> (&str, &str, u64, Option<u64>) {
        let note = wish.note.as_ref().expect("a note");
        (&note.owner, &note.reason, note.since, note.until)
    }

    #[test]
    fn who_asks_is_the_owner_unless_another_one_is_named() {
        let asked = change(NodeMode::Standby);
        let wish = after(&ModeWish::default(), &asked, 100).unwrap();
        assert_eq!(note(&wish), ("root", "", 100, None));
        assert_eq!(after(&wish, &asked, 200).unwrap(), wish, "a repetition changes nothing");
        let named = ModeChange { owner: Some("ada".into()), reason: Some("new disk".into()), ..asked };
        assert_eq!(note(&after(&wish, &named, 200).unwrap()), ("ada", "new disk", 100, None));
    }

    #[test]
    fn a_maintenance_is_prolonged_by_its_end_alone_and_forgotten_with_its_mode() {
        let first = ModeChange {
            owner: Some("ada".into()),
            reason: Some("new disk".into()),
            until: Some(7_300),
            ..change(NodeMode::Maintenance)
        };
        let wish = after(&ModeWish::default(), &first, 100).unwrap();
        let longer = ModeChange { until: Some(9_000), ..change(NodeMode::Maintenance) };
        let wish = after(&wish, &longer, 7_400).unwrap();
        assert_eq!(note(&wish), ("ada", "new disk", 100, Some(9_000)));
        assert_eq!(said(&wish, 0), " (ada, until 1970-01-01T02:30:00Z: new disk)");
        let online = after(&wish, &change(NodeMode::Online), 8_000).unwrap();
        assert_eq!(note(&online), ("root", "", 8_000, None));
        assert_eq!(said(&online, 0), " (root)");
        let again = after(&online, &change(NodeMode::Maintenance), 9_500).unwrap();
        assert_eq!(note(&again), ("root", "", 9_500, None));
    }

    #[test]
    fn a_node_in_a_mode_of_before_gets_its_note_with_the_first_word() {
        let old = ModeWish::from(NodeMode::Maintenance);
        assert_eq!(after(&old, &change(NodeMode::Maintenance), 50).unwrap(), old);
        let reason = ModeChange { reason: Some("fan".into()), ..change(NodeMode::Maintenance) };
        assert_eq!(note(&after(&old, &reason, 50).unwrap()), ("root", "fan", 50, None));
    }

    #[test]
    fn an_end_that_makes_no_sense_is_refused() {
        let until = |mode, until| {
            let asked = ModeChange { until: Some(until), ..change(mode) };
            after(&ModeWish::default(), &asked, 1_000)
        };
        assert!(until(NodeMode::Maintenance, 1_001).is_ok());
        assert!(until(NodeMode::Maintenance, 1_000).unwrap_err().contains("passed"));
        assert!(until(NodeMode::Maintenance, 1_001 + LONGEST.as_secs()).unwrap_err().contains("116 days"));
        for mode in [NodeMode::Standby, NodeMode::Online] {
            assert!(until(mode, 2_000).unwrap_err().contains("only a maintenance"));
        }
    }

    #[test]
    fn advice_comes_with_the_end_and_goes_with_the_mode() {
        let mut status = fixture::maintained();
        assert_eq!(advice(&status.nodes[1]), None, "not yet over");
        status.nodes[1].mode_note.as_mut().expect("a note").expired = true;
        let said = advice(&status.nodes[1]).expect("advice");
        assert!(said.contains("baton online beta") && said.contains("ada: new disk"), "{said}");
        assert_eq!(advice(&status.nodes[0]), None);
        status.nodes[1].mode = NodeMode::Online;
        assert_eq!(advice(&status.nodes[1]), None);
    }
}
