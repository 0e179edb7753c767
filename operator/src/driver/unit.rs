//! One group on this node: its two cores, its plan, and what was last observed. Plain data with a few helpers; the
//! [`owner`](super::owner) drives it.

use super::exec::Plan;
use super::snapshot::GroupInput;
use super::takeover::{Kind, Tracker};
use crate::basis::Entitlement;
use crate::core::group::{AfterPowerLoss, Fencing, GroupConfig, GroupCore, Placing, Retire, State, Told};
use crate::core::promises::{HeartbeatCore, Intent};
use crate::core::record::{Durable, GroupWish, Record};
use crate::core::rules::Rules;
use crate::core::runtime::{Need, RunReport, Runtime, RuntimeConfig, ServicePlan, VolumePlan};
use crate::core::timing::Timers;
use crate::spec::{self, Condition, Spec};
use crate::status::ServiceStatus;
use baton_replicator::types::{FrontEndKind, GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One group on this node.
pub(super) struct Unit {
    pub(super) core: GroupCore,
    /// The group as the specification has it; as it had it last, if it is gone.
    pub(super) spec: spec::Group,
    pub(super) runtime: Runtime,
    pub(super) plan: Arc<Plan>,
    pub(super) intent: Intent,
    pub(super) report: RunReport,
    pub(super) services: Vec<ServiceStatus>,
    pub(super) tracker: Tracker,
    pub(super) state: State,
    pub(super) observing: bool,
    pub(super) observe_again: bool,
    pub(super) observed: Instant,
    /// When the last step ended.
    pub(super) stepped: Instant,
    /// When its state changed last, what runs here, or what heartbeats say of it.
    pub(super) changed: Instant,
    /// When containers were seen last.
    pub(super) seen: Option<Instant>,
    /// When the group's record was read last.
    pub(super) read: Option<Instant>,
    /// What people see of that record: the node and the place they asked for, who is in sync.
    shown: (Option<NodeName>, GroupWish, Vec<NodeName>),
    pub(super) handed: bool,
    pub(super) fresh: bool,
    /// Its checks of gateways by name: reached or not.
    pub(super) gateways: BTreeMap<String, bool>,
    /// What it was told last of the groups that it goes with or keeps away from.
    pub(super) others: BTreeMap<GroupName, Told>,
    /// What was said last of a container that does not stop.
    pub(super) unstoppable: Option<String>,
    /// What is kept of its failures.
    pub(super) remembered: super::failures::Remembered,
}

impl Unit {
    pub(super) fn new(
        spec: &Spec,
        me: &NodeName,
        group: &GroupName,
        plan: Plan,
        timers: Timers,
        durable: Durable,
        now: Instant,
    ) -> Option<Self> {
        let g = spec.groups.get(group)?;
        let config = group_config(spec, me, group, g, timers, None);
        Some(Self {
            core: GroupCore::new(config, durable, Rules::default(), now),
            spec: g.clone(),
            runtime: Runtime::new(runtime_config(g), now),
            plan: Arc::new(plan),
            intent: Intent::silent(),
            report: RunReport::default(),
            services: Vec::new(),
            tracker: Tracker::default(),
            state: State::Joining,
            observing: false,
            observe_again: true,
            observed: Instant::ZERO,
            stepped: Instant::ZERO,
            changed: now,
            seen: None,
            read: None,
            shown: Default::default(),
            handed: false,
            fresh: false,
            gateways: BTreeMap::new(),
            others: BTreeMap::new(),
            unstoppable: None,
            remembered: Default::default(),
        })
    }

    /// Stands by or serves, and nothing has changed or ended for `long`.
    pub(super) fn is_settled(&self, now: Instant, long: Duration) -> bool {
        matches!(self.state, State::Standby | State::Serving)
            && now.since(self.changed.max(self.stepped)) > long
    }

    /// Whether the unit can go on with the group as it is now.
    pub(super) fn can_become(&self, group: &spec::Group, me: &NodeName) -> bool {
        fn fixed<'g>(g: &'g spec::Group, me: &'g NodeName) -> impl Iterator<Item = impl PartialEq + 'g> + 'g {
            g.volumes.iter().map(move |(n, v)| (n, &v.filesystem, v.front_end, v.backing.on(me)))
        }
        fixed(&self.spec, me).eq(fixed(group, me))
    }

    /// Takes the group over as it is in a changed specification; what runs and is the same does not notice.
    pub(super) fn become_(&mut self, group: spec::Group, plan: Plan) {
        let plan = plan.after(&self.plan);
        let addresses = plan.addresses != self.plan.addresses;
        let (old, new) = (runtime_config(&self.spec), runtime_config(&group));
        let same = old == new
            && plan.services == self.plan.services
            && plan.leaving.keys().eq(self.plan.leaving.keys())
            && plan.docker_volumes == self.plan.docker_volumes;
        if !same || addresses {
            self.runtime.reconfigure(new, addresses);
            self.observe_again = true;
        }
        self.plan = Arc::new(plan);
        self.spec = group;
    }

    /// What the record says about how a leadership came about. True if people see something else in it than before.
    pub(super) fn note_record(&mut self, record: &Record, now: Instant) -> bool {
        self.read = Some(now);
        self.handed = record.leader.as_ref().is_some_and(|l| l.value.handed);
        self.fresh = record.insync.as_ref().is_none_or(|i| i.value.fresh);
        let members = record.members().iter().map(|m| m.node.clone()).collect();
        let shown = (record.target.clone(), record.wish.clone(), members);
        let news = shown != self.shown;
        self.shown = shown;
        news
    }

    pub(super) fn kind(&self, before: State) -> Kind {
        kind(before, self.handed, self.fresh)
    }

    fn pings(&self) -> usize {
        self.spec.checks.iter().filter(|c| matches!(c.probe, spec::CheckProbe::Ping { .. })).count()
    }

    pub(super) fn asks_gateways(&self) -> bool {
        self.pings() > 0
    }

    /// How many of its gateways answer; none before all have been asked.
    pub(super) fn reached(&self) -> Option<u8> {
        let known = self.asks_gateways() && self.gateways.len() >= self.pings();
        let reached = self.gateways.values().filter(|reached| **reached).count();
        known.then(|| u8::try_from(reached).unwrap_or(u8::MAX))
    }

    /// What this node may serve the group on; none if it does not lead it.
    pub(super) fn entitlement(
        &self,
        beats: &HeartbeatCore,
        lease_until: Instant,
        now: Instant,
    ) -> Option<Entitlement> {
        let required: Vec<NodeName> = self.core.view_of().required.into_iter().map(|m| m.node).collect();
        let facts = || beats.facts(&self.plan.group, now);
        self.core.state().leads().then(|| Entitlement::of(&facts(), &required, lease_until, now))
    }

    /// What the status snapshot is made of.
    pub(super) fn input(&self, entitlement: Option<Entitlement>) -> GroupInput {
        let restarts =
            |s: &ServiceStatus| ServiceStatus { restarts: self.runtime.restarts(&s.name), ..s.clone() };
        let mut view = self.core.view_of();
        // What the runtime waits for says more than what leadership does.
        if matches!(view.state, State::Starting | State::Failed) && !self.report.reason.is_empty() {
            view.reason = self.report.reason.clone();
        }
        GroupInput {
            entitlement,
            under_way: self.tracker.under_way(view.epoch, self.runtime.marks()),
            view,
            services: self.services.iter().map(restarts).collect(),
            takeover: self.tracker.last().cloned(),
            seen: self.seen,
            read: self.read,
        }
    }
}

/// What the leadership core has to know of the specification.
pub(super) fn group_config(
    spec: &Spec,
    me: &NodeName,
    name: &GroupName,
    group: &spec::Group,
    timers: Timers,
    retire: Option<Retire>,
) -> GroupConfig {
    GroupConfig {
        group: name.clone(),
        me: me.clone(),
        nodes: spec.nodes.keys().cloned().collect(),
        prefer: group.prefer.clone(),
        volumes: group.volumes.keys().cloned().collect(),
        placing: Placing {
            failback: group.auto_failback,
            stickiness: group.stickiness,
            with: group.with.clone(),
            apart_from: group.apart_from.clone(),
        },
        failure_timeout: group.failure_timeout,
        stop_timeout: group.stop_timeout,
        hot: hot(group).next().is_some(),
        gateway_hold: gateway_hold(group),
        fencing: fencing(spec, group),
        after_power_loss: match group.after_power_loss {
            spec::AfterPowerLoss::Wait => AfterPowerLoss::Wait,
            spec::AfterPowerLoss::Start => AfterPowerLoss::Start,
        },
        timers,
        retire,
    }
}

fn runtime_config(group: &spec::Group) -> RuntimeConfig {
    let need = |condition: &Condition| match condition {
        Condition::ServiceStarted => Need::Started,
        Condition::ServiceHealthy => Need::Healthy,
        Condition::ServiceCompletedSuccessfully => Need::Completed,
    };
    RuntimeConfig {
        volumes: group
            .volumes
            .iter()
            .map(|(name, v)| {
                let formatted = v.front_end == FrontEndKind::Fuse;
                VolumePlan { volume: name.clone(), filesystem: formatted.then(|| v.filesystem.clone()) }
            })
            .collect(),
        addresses: !group.addresses.is_empty(),
        services: group
            .services
            .iter()
            .map(|(name, s)| ServicePlan {
                name: name.clone(),
                after: s.depends_on.iter().map(|(on, c)| (on.clone(), need(c))).collect(),
                leaving: false,
                hot: hot(group).any(|h| h == name),
                judged: group
                    .checks
                    .iter()
                    .any(|c| matches!(&c.probe, spec::CheckProbe::Docker { service } if service == name)),
            })
            .collect(),
        migration_threshold: group.migration_threshold,
        failure_timeout: group.failure_timeout,
        start_timeout: group.start_timeout,
        takeover_timeout: group.takeover_timeout.unwrap_or(group.start_timeout),
        engine_timeout: group.engine_timeout,
    }
}

/// Services that run on standbys, too.
pub(super) fn hot(group: &spec::Group) -> impl Iterator<Item = &String> {
    let on = group.standby == spec::StandbyMode::Hot;
    group.services.iter().filter(move |(_, s)| on && s.runs_on_standbys()).map(|(name, _)| name)
}

/// Who can be switched off from outside, and whether it has to be.
fn fencing(spec: &Spec, group: &spec::Group) -> Fencing {
    let can = spec.nodes.iter().filter(|(_, n)| !n.fence.is_empty());
    Fencing {
        required: group.fence == spec::FencePolicy::Required,
        nodes: can.map(|(name, n)| (name.clone(), spec::fence_bound(&n.fence))).collect(),
    }
}

/// The longest of its ping checks, so that one of them alone does not hurry the others.
fn gateway_hold(group: &spec::Group) -> std::time::Duration {
    let hold = |c: &spec::Check| match c.probe {
        spec::CheckProbe::Ping { hold, .. } => Some(hold),
        _ => None,
    };
    group.checks.iter().filter_map(hold).max().unwrap_or_default()
}

/// How a leadership came about. `handed` and `fresh` are of the record read last.
fn kind(before: State, handed: bool, fresh: bool) -> Kind {
    match before {
        State::Joining => Kind::Resume,
        // It campaigned and won; the record read last may still be that of the leader before, who was handed the group.
        State::Campaigning if !fresh => Kind::Takeover,
        _ if handed => Kind::Handover,
        _ if fresh => Kind::FirstStart,
        _ => Kind::Takeover,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_from_a_leader_that_was_handed_the_group_is_a_takeover() {
        let word = |before, handed, fresh| kind(before, handed, fresh).word();
        assert_eq!(word(State::Campaigning, true, false), "takeover");
        assert_eq!(word(State::Campaigning, false, false), "takeover");
        assert_eq!(word(State::Campaigning, false, true), "first start");
        assert_eq!(word(State::Standby, true, false), "handover");
        assert_eq!(word(State::Joining, true, false), "resume");
    }
}
