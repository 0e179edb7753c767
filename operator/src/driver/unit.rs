//! One group on this node: its two cores, its plan, and what was last observed. Plain data with a few helpers; the
//! [`owner`](super::owner) drives it.

use super::exec::Plan;
use super::snapshot::GroupInput;
use super::takeover::{Kind, Tracker};
use crate::core::group::{AfterPowerLoss, GroupConfig, GroupCore, State};
use crate::core::promises::Intent;
use crate::core::record::{Durable, Record};
use crate::core::rules::Rules;
use crate::core::runtime::{Need, RunReport, Runtime, RuntimeConfig, ServicePlan, VolumePlan};
use crate::core::timing::Timers;
use crate::spec::{self, Condition, Spec};
use crate::status::ServiceStatus;
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::sync::Arc;

/// One group on this node.
pub(super) struct Unit {
    pub(super) core: GroupCore,
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
    pub(super) handed: bool,
    pub(super) fresh: bool,
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
        let config = GroupConfig {
            group: group.clone(),
            me: me.clone(),
            nodes: spec.nodes.keys().cloned().collect(),
            prefer: g.prefer.clone(),
            volumes: g.volumes.keys().cloned().collect(),
            auto_failback: g.auto_failback,
            after_power_loss: match g.after_power_loss {
                spec::AfterPowerLoss::Wait => AfterPowerLoss::Wait,
                spec::AfterPowerLoss::Start => AfterPowerLoss::Start,
            },
            timers,
        };
        Some(Self {
            core: GroupCore::new(config, durable, Rules::default(), now),
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
            handed: false,
            fresh: false,
        })
    }

    /// What the record says about how a leadership came about.
    pub(super) fn note_record(&mut self, record: &Record) {
        self.handed = record.leader.as_ref().is_some_and(|l| l.value.handed);
        self.fresh = record.insync.as_ref().is_none_or(|i| i.value.fresh);
    }

    pub(super) fn kind(&self, before: State) -> Kind {
        match before {
            State::Joining => Kind::Resume,
            _ if self.handed => Kind::Handover,
            _ if self.fresh => Kind::FirstStart,
            _ => Kind::Takeover,
        }
    }

    /// What the status snapshot is made of.
    pub(super) fn input(&self) -> GroupInput {
        let restarts =
            |s: &ServiceStatus| ServiceStatus { restarts: self.runtime.restarts(&s.name), ..s.clone() };
        let mut view = self.core.view_of();
        // What the runtime waits for says more than what leadership does.
        if matches!(view.state, State::Starting | State::Failed) && !self.report.reason.is_empty() {
            view.reason = self.report.reason.clone();
        }
        GroupInput {
            view,
            services: self.services.iter().map(restarts).collect(),
            takeover: self.tracker.last().cloned(),
        }
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
            .map(|(name, v)| VolumePlan { volume: name.clone(), filesystem: Some(v.filesystem.clone()) })
            .collect(),
        addresses: !group.addresses.is_empty(),
        services: group
            .services
            .iter()
            .map(|(name, s)| ServicePlan {
                name: name.clone(),
                after: s.depends_on.iter().map(|(on, c)| (on.clone(), need(c))).collect(),
            })
            .collect(),
        migration_threshold: group.migration_threshold,
        failure_timeout: group.failure_timeout,
        start_timeout: group.start_timeout,
    }
}
