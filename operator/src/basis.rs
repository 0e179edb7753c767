//! What decisions rest on besides facts: the timers in force, what the specification says of a group, and what a leader
//! may serve on. Part of the status snapshot, so that `explain` and `what-if` need nothing else.

use crate::core::group::{AfterPowerLoss, Placing};
use crate::core::promises::GroupFacts;
use crate::core::timing::Timers;
use crate::spec;
use baton_replicator::types::{GroupName, Instant, NodeName};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// The timers in force, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimersStatus {
    /// The profile that the timers come from where the specification does not give them.
    #[serde(default)]
    pub profile: spec::Profile,
    /// Interval of heartbeats.
    pub keepalive_ms: u64,
    /// Silence after which a member is removed from the in-sync set.
    pub warntime_ms: u64,
    /// How long after it was sent an acknowledged heartbeat entitles to serve.
    pub fencetime_ms: u64,
    /// Silence after which a standby may take over.
    pub deadtime_ms: u64,
    /// How long others wait for preferred or unseen nodes at a cold start.
    pub initdead_ms: u64,
    /// Life of the agents' leases in etcd.
    pub ttl_ms: u64,
    /// The longer promise asked for before an orderly restart of an agent.
    pub restart_window_ms: u64,
    /// I/O frozen longer than this makes a group unusable.
    pub peer_timeout_ms: u64,
    /// How long a fenced group's containers stay paused before they are stopped.
    pub fence_stop_ms: u64,
    /// Bound of one request to etcd.
    pub etcd_timeout_ms: u64,
}

impl Default for TimersStatus {
    fn default() -> Self {
        Self::of(&Timers::default())
    }
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl TimersStatus {
    /// Those of a specification.
    #[must_use]
    pub fn of_spec(t: &spec::Timers) -> Self {
        Self { profile: t.profile, ..Self::of(&t.core()) }
    }

    /// The same for people and programs; by what profile they came about is not known here.
    #[must_use]
    pub fn of(t: &Timers) -> Self {
        Self {
            profile: spec::Profile::default(),
            keepalive_ms: ms(t.keepalive),
            warntime_ms: ms(t.warntime),
            fencetime_ms: ms(t.fencetime),
            deadtime_ms: ms(t.deadtime),
            initdead_ms: ms(t.initdead),
            ttl_ms: ms(t.ttl),
            restart_window_ms: ms(t.restart_window),
            peer_timeout_ms: ms(t.peer_timeout),
            fence_stop_ms: ms(t.fence_stop),
            etcd_timeout_ms: ms(t.etcd_timeout),
        }
    }

    /// As the core takes them.
    #[must_use]
    pub fn core(&self) -> Timers {
        let d = Duration::from_millis;
        Timers {
            keepalive: d(self.keepalive_ms),
            warntime: d(self.warntime_ms),
            fencetime: d(self.fencetime_ms),
            deadtime: d(self.deadtime_ms),
            initdead: d(self.initdead_ms),
            ttl: d(self.ttl_ms),
            restart_window: d(self.restart_window_ms),
            peer_timeout: d(self.peer_timeout_ms),
            fence_stop: d(self.fence_stop_ms),
            etcd_timeout: d(self.etcd_timeout_ms),
        }
    }
}

/// What the specification says of a group, as far as leadership rests on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSettings {
    /// Preferred nodes, best first.
    pub prefer: Vec<NodeName>,
    /// It goes back to a more preferred node once that is ready.
    pub auto_failback: bool,
    /// For how long that must have been ready, milliseconds.
    #[serde(default)]
    pub failback_after_ms: Option<u64>,
    /// By how much more than this another node must be better.
    #[serde(default)]
    pub stickiness: u32,
    /// After a power cut of the whole site it starts without a member that stays unseen, after `initdead`.
    pub starts_without_unseen: bool,
    /// Failures older than this do not count, milliseconds.
    pub failure_timeout_ms: u64,
    /// The group that it goes with.
    #[serde(default)]
    pub with: Option<GroupName>,
    /// Groups that it keeps apart from.
    #[serde(default)]
    pub apart_from: Vec<GroupName>,
    /// It has volumes.
    pub data: bool,
    /// It has health checks of its own.
    pub checks: bool,
}

impl GroupSettings {
    /// What a specification says.
    #[must_use]
    pub fn of(group: &spec::Group) -> Self {
        Self {
            prefer: group.prefer.clone(),
            auto_failback: group.auto_failback.is_some(),
            failback_after_ms: group.auto_failback.map(ms),
            stickiness: group.stickiness,
            with: group.with.clone(),
            apart_from: group.apart_from.clone(),
            starts_without_unseen: group.after_power_loss == spec::AfterPowerLoss::Start,
            failure_timeout_ms: ms(group.failure_timeout),
            data: !group.volumes.is_empty(),
            checks: !group.checks.is_empty(),
        }
    }

    /// What moves it although nothing is wrong, other groups left aside.
    #[must_use]
    pub fn placing(&self) -> Placing {
        let after = self.failback_after_ms.map_or(spec::FAILBACK_AFTER, Duration::from_millis);
        let failback = self.auto_failback.then_some(after);
        Placing { failback, stickiness: self.stickiness, ..Placing::default() }
    }

    /// What the core waits for after a power cut of the whole site.
    #[must_use]
    pub fn after_power_loss(&self) -> AfterPowerLoss {
        if self.starts_without_unseen { AfterPowerLoss::Start } else { AfterPowerLoss::Wait }
    }
}

/// What the answering node may serve a group on, while it leads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entitlement {
    /// It may serve for so long from now, milliseconds; 0 if it may not. Renewed by each acknowledged heartbeat.
    pub serve_ms: u64,
    /// E: whose promises it needs, by name.
    pub promises: Vec<PromiseStatus>,
    /// Its lease in etcd counts for so long from now, milliseconds; none if it does not.
    pub lease_ms: Option<u64>,
}

/// A node's promise not to take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromiseStatus {
    /// The node.
    pub node: NodeName,
    /// It counts for so long from now, milliseconds; none if there is none, or it has run out.
    pub good_ms: Option<u64>,
}

impl Entitlement {
    /// What the heartbeats say, for the leader. `required` is E, `lease_until` the end of its lease.
    #[must_use]
    pub fn of(facts: &GroupFacts, required: &[NodeName], lease_until: Instant, now: Instant) -> Self {
        let left = |until: Instant| Some(ms(until.since(now))).filter(|ms| *ms > 0);
        let promise = |node: &NodeName| {
            let good_ms = facts.promises.get(node).and_then(|p| left(p.good_until));
            PromiseStatus { node: node.clone(), good_ms }
        };
        Self {
            serve_ms: facts.serve_until.and_then(left).unwrap_or(0),
            promises: required.iter().map(promise).collect(),
            lease_ms: left(lease_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::promises::Promise;

    #[test]
    fn timers_survive_the_way_through_status() {
        let t = Timers { deadtime: Duration::from_secs(7), ..Timers::default() };
        assert_eq!(TimersStatus::of(&t).core(), t);
    }

    #[test]
    fn a_promise_that_has_run_out_counts_no_more() {
        let node = |n: &str| NodeName::new(n).unwrap();
        let at = |ms: u64| Instant(ms * 1_000_000);
        let promise = |until| Promise { sent: at(0), good_until: at(until) };
        let facts = GroupFacts {
            promises: [(node("beta"), promise(1900)), (node("gamma"), promise(900))].into(),
            serve_until: Some(at(900)),
            ..GroupFacts::default()
        };
        let e = [node("beta"), node("delta"), node("gamma")];
        let seen = Entitlement::of(&facts, &e, at(4000), at(1000));
        let good: Vec<_> = seen.promises.iter().map(|p| p.good_ms).collect();
        assert_eq!((good, seen.serve_ms, seen.lease_ms), (vec![Some(900), None, None], 0, Some(3000)));
    }
}
