//! How a handover goes, told from the group's status before the command and now. Pure.

use super::words;
use crate::status::{GroupState, GroupStatus};
use baton_replicator::types::NodeName;

/// Where a handover stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// On its way; one sentence for people.
    Going(String),
    /// The group serves on this node.
    Done(NodeName),
    /// It did not happen; why, one sentence.
    Failed(String),
}

/// Watches one handover.
#[derive(Clone, Debug)]
pub struct Handover {
    before: GroupStatus,
    to: Option<NodeName>,
    /// The wish was seen in a status after the command.
    seen: bool,
}

impl Handover {
    /// `before` is the group's status before the command was sent.
    #[must_use]
    pub fn new(before: GroupStatus, to: Option<NodeName>) -> Self {
        Self { before, to, seen: false }
    }

    /// The node that serves already, if nothing needs to be done.
    #[must_use]
    pub fn needless(&self) -> Option<&NodeName> {
        let serves = self.before.state == GroupState::Serving;
        self.to.as_ref().filter(|to| serves && self.before.leader.as_ref() == Some(to))
    }

    /// Judges a later status.
    pub fn look(&mut self, now: &GroupStatus) -> Progress {
        self.seen |= now.target.is_some();
        let newer = now.epoch.number > self.before.epoch.number;
        let serving = now.state == GroupState::Serving;
        let arrived = match (&self.to, &now.leader) {
            (Some(to), Some(leader)) => leader == to,
            (None, Some(leader)) => Some(leader) != self.before.leader.as_ref(),
            (_, None) => false,
        };
        let reason = || match now.reason.is_empty() {
            true => String::new(),
            false => format!(": {}", now.reason),
        };
        match &now.leader {
            Some(leader) if newer && serving && arrived => Progress::Done(leader.clone()),
            Some(leader) if newer && serving => {
                Progress::Failed(format!("group {} serves on {leader} instead{}", now.name, reason()))
            }
            _ if now.state == GroupState::Failed => {
                Progress::Failed(format!("group {} failed{}", now.name, reason()))
            }
            Some(leader) if self.seen && !newer && serving && now.target.is_none() => {
                Progress::Failed(format!("group {} stays on {leader}{}", now.name, reason()))
            }
            Some(leader) => {
                Progress::Going(format!("{} on {leader}{}", words::group_state(now.state), reason()))
            }
            None => Progress::Going(format!("{}, no leader{}", words::group_state(now.state), reason())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn web() -> GroupStatus {
        fixture::healthy().groups.remove(0)
    }

    fn now(leader: &str, epoch: u64, state: GroupState, target: Option<&str>) -> GroupStatus {
        let mut group = web();
        group.leader = Some(fixture::node(leader));
        group.epoch.number = epoch;
        group.state = state;
        group.target = target.map(fixture::node);
        group
    }

    #[test]
    fn a_handover_is_followed_to_its_end() {
        let mut handover = Handover::new(web(), Some(fixture::node("beta")));
        assert_eq!(handover.needless(), None);
        // The wish has not been read by the agent yet: the old state is no failure.
        let early = handover.look(&now("alpha", 7, GroupState::Serving, None));
        assert_eq!(early, Progress::Going("serving on alpha".into()));
        for state in [GroupState::Serving, GroupState::Stopping, GroupState::HandingOver] {
            assert!(matches!(handover.look(&now("alpha", 7, state, Some("beta"))), Progress::Going(_)));
        }
        assert!(matches!(handover.look(&now("beta", 8, GroupState::Starting, None)), Progress::Going(_)));
        assert_eq!(
            handover.look(&now("beta", 8, GroupState::Serving, None)),
            Progress::Done(fixture::node("beta"))
        );
    }

    #[test]
    fn ways_to_fail_are_told_apart() {
        let to_beta = || Handover::new(web(), Some(fixture::node("beta")));
        let back = to_beta().look(&now("alpha", 9, GroupState::Serving, None));
        assert_eq!(back, Progress::Failed("group web serves on alpha instead".into()));

        let mut dropped = to_beta();
        dropped.look(&now("alpha", 7, GroupState::Serving, Some("beta")));
        let mut stays = now("alpha", 7, GroupState::Serving, None);
        stays.reason = "beta lacks the image".into();
        assert_eq!(
            dropped.look(&stays),
            Progress::Failed("group web stays on alpha: beta lacks the image".into())
        );

        let failed = to_beta().look(&now("beta", 8, GroupState::Failed, None));
        assert!(matches!(failed, Progress::Failed(_)));
    }

    #[test]
    fn without_a_target_any_other_node_will_do_and_being_there_needs_nothing() {
        let mut anywhere = Handover::new(web(), None);
        assert!(matches!(anywhere.look(&now("alpha", 7, GroupState::Serving, None)), Progress::Going(_)));
        assert_eq!(
            anywhere.look(&now("beta", 8, GroupState::Serving, None)),
            Progress::Done(fixture::node("beta"))
        );
        let there = Handover::new(web(), Some(fixture::node("alpha")));
        assert_eq!(there.needless(), Some(&fixture::node("alpha")));
    }
}
