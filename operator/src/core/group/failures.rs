//! A group that fails on this node: when it is tried again here, and when this node offers itself again.
//!
//! Two nodes must not throw a broken group at each other. Each failure on a node doubles two pauses: the one before the
//! group is tried again in place (if no other node takes it), and the one during which the node does not offer itself
//! as a successor. Failures older than twice `failure_timeout` do not count, and nobody waits for longer than
//! `failure_timeout`. A person's word (a move to this node, another specification, the leader's node in standby mode)
//! does not wait; nor does a takeover, if nobody else takes the group.
//!
//! The driver keeps them across restarts of the agent, until the host is rebooted. An agent that restarts tries once, at
//! once; what fails then counts on.

use super::{GroupCore, State};
use crate::status::NodeMode;
use baton_replicator::types::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A group that failed with nowhere to go is tried again after this, doubled by each further failure: a container that
/// starts needs about as long.
const RETRY: Duration = Duration::from_secs(5);
/// Longest pause between two tries in place: what was mended meanwhile is noticed within this.
const RETRY_MOST: Duration = Duration::from_secs(300);
/// A node on which the group failed is no successor for this long, doubled by each further failure.
const UNFIT: Duration = Duration::from_secs(60);
/// Why a node on which the group failed does not offer itself. Status carries it as text; a move to that very node
/// outweighs it.
pub const FAILED_HERE: &str = "the group failed here a short while ago";
/// Doublings that matter: 5 s become 300 s with six, and `failure_timeout` bounds the rest.
const DOUBLINGS: u32 = 16;

/// What happened to the group on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The last one, as a sentence.
    pub(super) why: String,
    count: u32,
    last: Instant,
    pause: Duration,
    unfit: Duration,
}

impl GroupCore {
    /// What failed here, to be kept across restarts of the agent.
    #[must_use]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// What failed here before the agent was restarted, in this boot of the host.
    pub fn remember_failures(&mut self, failures: Failures) {
        self.failures = failures;
    }

    /// The group could not be started here.
    pub(super) fn failed(&mut self) {
        let why = self.run.reason.clone();
        self.count_failure(why.clone());
        self.become_(State::Failed, why);
    }

    /// Counts a failure of the group on this node, after which it may leave.
    pub(super) fn count_failure(&mut self, why: String) {
        let most = self.cfg.failure_timeout;
        let f = &mut self.failures;
        if self.now.since(f.last) > most * 2 {
            f.count = 0;
        }
        let doubled = |first: Duration, most: Duration| (first * (1 << f.count.min(DOUBLINGS))).min(most);
        (f.pause, f.unfit) = (doubled(RETRY, RETRY_MOST.min(most)), doubled(UNFIT, most));
        f.count = f.count.saturating_add(1);
        (f.last, f.why) = (self.now, why);
    }

    /// A person has changed something: whatever failed before may work now.
    pub(super) fn forget_failures(&mut self) {
        self.failures = Failures::default();
        self.move_at = self.now;
    }

    /// A failed group is tried again in place; in maintenance nothing is.
    pub(super) fn tries_again(&self) -> bool {
        !self.left_alone() && self.now.since(self.failures.last) >= self.failures.pause
    }

    /// When it will be, in words.
    pub(super) fn next_try(&self) -> String {
        if self.left_alone() {
            return "nothing is started in maintenance mode".into();
        }
        format!("tries again {} s after it failed", self.failures.pause.as_secs())
    }

    /// The group failed here a short while ago, and nobody has asked for this node.
    pub(super) fn unfit(&self) -> bool {
        self.failures.count > 0
            && self.now.since(self.failures.last) < self.failures.unfit
            && !self.asked_for()
    }

    /// A person wants the group here, or at least away from where it is.
    fn asked_for(&self) -> bool {
        let Some(view) = self.view() else { return false };
        let leader = view.leader.as_ref().map(|l| &l.value.node);
        let away = |n| view.mode(n) == NodeMode::Standby || !self.cfg.nodes.contains(n);
        view.target.as_ref() == Some(&self.cfg.me) || leader.is_some_and(away)
    }

    /// This node is in maintenance mode: nothing is moved or restarted by itself.
    pub(super) fn left_alone(&self) -> bool {
        self.view().is_some_and(|v| v.mode(&self.cfg.me) == NodeMode::Maintenance)
    }
}
