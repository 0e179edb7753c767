//! What changed from one snapshot to the next: who leads, which mode, which change of leadership ended here. Pure;
//! [`super::Live`] turns it into counters.

use crate::status::{ClusterStatus, GroupStatus, NodeMode, Takeover};
use baton_replicator::types::{Epoch, GroupName, NodeName};
use std::collections::BTreeMap;

/// The step that comes after the others: the first check that succeeded.
const ANSWER: &str = "answer";

/// Something to count.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// A group that was not there before.
    NewGroup(String),
    /// Another leader or epoch, or the first look at it.
    Leader(String),
    /// Another mode of a node, or the first look at it.
    Mode(String),
    /// A change of leadership ended in serving here.
    Serves(String, Takeover),
    /// The first good answer after such a change: kind, and milliseconds since it serves.
    Answers(String, String, u64),
}

/// The last snapshot, as far as it is compared.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    modes: BTreeMap<NodeName, NodeMode>,
    groups: BTreeMap<GroupName, Group>,
}

#[derive(Debug, Default)]
struct Group {
    leader: Option<(Option<NodeName>, u64)>,
    /// Epoch and time of the newest change of leadership here.
    takeover: Option<(Epoch, String)>,
    /// Its first good answer was seen.
    answered: bool,
}

impl Watcher {
    pub(super) fn look(&mut self, status: &ClusterStatus) -> Vec<Seen> {
        let mut seen = Vec::new();
        for node in &status.nodes {
            if self.modes.insert(node.name.clone(), node.mode) != Some(node.mode) {
                seen.push(Seen::Mode(node.name.to_string()));
            }
        }
        for group in &status.groups {
            self.group(group, &mut seen);
        }
        seen
    }

    fn group(&mut self, status: &GroupStatus, seen: &mut Vec<Seen>) {
        let name = || status.name.to_string();
        let group = self.groups.entry(status.name.clone()).or_insert_with(|| {
            seen.push(Seen::NewGroup(status.name.to_string()));
            Group::default()
        });
        let leader = (status.leader.clone(), status.epoch.number);
        if group.leader.as_ref() != Some(&leader) {
            group.leader = Some(leader);
            seen.push(Seen::Leader(name()));
        }
        if let Some(takeover) = &status.last_takeover {
            let which = (takeover.epoch, takeover.at.clone());
            if group.takeover.as_ref() != Some(&which) {
                group.takeover = Some(which);
                group.answered = false;
                let steps = takeover.steps.iter().filter(|s| s.step != ANSWER).cloned().collect();
                seen.push(Seen::Serves(name(), Takeover { steps, ..takeover.clone() }));
            }
            let answer = takeover.steps.iter().find(|s| s.step == ANSWER).filter(|_| !group.answered);
            if let Some(answer) = answer {
                group.answered = true;
                seen.push(Seen::Answers(name(), takeover.kind.clone(), answer.ms));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use crate::status::GroupState;

    /// A snapshot of a survivor: `state` of the group, and the takeover once it is over.
    fn snapshot(state: GroupState, total_ms: Option<u64>) -> ClusterStatus {
        let mut status = fixture::healthy();
        let web = &mut status.groups[0];
        web.state = state;
        web.last_takeover = web.last_takeover.take().zip(total_ms).map(|(mut takeover, ms)| {
            takeover.total_ms = ms;
            takeover
        });
        status
    }

    #[test]
    fn the_first_look_makes_every_series_and_says_what_it_finds() {
        let mut watcher = Watcher::default();
        let seen = watcher.look(&snapshot(GroupState::Serving, None));
        let expected = [
            Seen::Mode("alpha".into()),
            Seen::Mode("beta".into()),
            Seen::NewGroup("web".into()),
            Seen::Leader("web".into()),
        ];
        assert_eq!(seen, expected);
        assert_eq!(watcher.look(&snapshot(GroupState::Serving, None)), []);
    }

    #[test]
    fn a_first_good_answer_is_counted_once_and_apart() {
        let mut watcher = Watcher::default();
        let mut status = snapshot(GroupState::Serving, Some(2080));
        let before = watcher.look(&status);
        assert!(!before.iter().any(|s| matches!(s, Seen::Answers(..))), "{before:?}");
        let takeover = status.groups[0].last_takeover.as_mut().unwrap();
        let answer = crate::status::TakeoverStep { step: ANSWER.into(), ms: 230, at_ms: 2310 };
        takeover.steps.push(answer);
        assert_eq!(watcher.look(&status), [Seen::Answers("web".into(), "takeover".into(), 230)]);
        assert_eq!(watcher.look(&status), []);
        let mut late = Watcher::default();
        let seen = late.look(&status);
        let steps = |s: &Seen| if let Seen::Serves(_, t) = s { Some(t.steps.len()) } else { None };
        assert_eq!(seen.iter().find_map(steps), Some(6), "no step is counted twice: {seen:?}");
    }

    #[test]
    fn a_takeover_is_told_once() {
        let mut watcher = Watcher::default();
        watcher.look(&snapshot(GroupState::Starting, None));
        let seen = watcher.look(&snapshot(GroupState::Serving, Some(2100)));
        assert_eq!(seen.iter().filter(|s| matches!(s, Seen::Serves(..))).count(), 1);
        assert_eq!(watcher.look(&snapshot(GroupState::Serving, Some(2100))), []);
    }

    #[test]
    fn a_leader_or_mode_that_changes_is_noted_once() {
        let mut watcher = Watcher::default();
        watcher.look(&snapshot(GroupState::Serving, None));
        let mut moved = snapshot(GroupState::Serving, None);
        moved.groups[0].leader = Some(fixture::node("beta"));
        moved.nodes[1].mode = NodeMode::Maintenance;
        let expected = [Seen::Mode("beta".into()), Seen::Leader("web".into())];
        assert_eq!(watcher.look(&moved), expected);
        assert_eq!(watcher.look(&moved), []);
    }
}
