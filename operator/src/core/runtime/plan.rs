//! From what is to what should be: the steps that can be taken now.
//!
//! Start: volumes primary → format → addresses → services in dependency order. Stop: the reverse. Fence:
//! addresses, then pause. A step is named only while it is not on its way and its pause after a failure is over.

use super::{Container, ContainerState, Goal, Health, Need, Runtime, ServicePlan, Step};
use baton_replicator::types::{Role, VolumeName};
use std::time::Duration;

/// A service that failed is started again after this much per failure so far, at most ten times as much.
const BACKOFF: Duration = Duration::from_millis(500);

impl Runtime {
    pub(super) fn plan(&self) -> Vec<Step> {
        let steps = match self.goal {
            Goal::Hold => Vec::new(),
            Goal::Run { format, .. } if self.failed.is_none() => self.plan_run(format),
            Goal::Run { .. } => Vec::new(),
            Goal::Fence => self.plan_fence(),
            Goal::Standby => self.plan_standby(),
            Goal::Stop { force: true } => self.plan_kill(),
            Goal::Stop { force: false } => self.plan_stop(),
        };
        steps.into_iter().filter(|s| self.may_begin(s)).collect()
    }

    fn may_begin(&self, step: &Step) -> bool {
        let busy = match step.service() {
            // Killing does not wait for a graceful stop that hangs.
            Some(_) if matches!(step, Step::Kill(_)) => self.busy.contains_key(step),
            Some(service) => self.busy.keys().any(|b| b.service() == Some(service)),
            None => self.busy.contains_key(step),
        };
        !busy && self.retry.get(step).is_none_or(|at| self.now >= *at)
    }

    fn plan_run(&self, format: bool) -> Vec<Step> {
        // All of them first: whoever joins them would get their mount.
        if !self.orphans.is_empty() {
            return self.orphans.iter().cloned().map(Step::Kill).collect();
        }
        let mut steps: Vec<Step> = Vec::new();
        if !self.volumes_ready() {
            return steps;
        }
        let blank: Vec<VolumeName> = self.blank_volumes();
        if !blank.is_empty() {
            return if format { blank.into_iter().map(Step::Format).collect() } else { Vec::new() };
        }
        if self.cfg.addresses && self.addresses != Some(true) {
            steps.push(Step::AddAddresses);
        }
        steps.extend(self.plan_leaving());
        let addresses = !self.cfg.addresses || self.addresses == Some(true);
        for service in self.cfg.services.iter().filter(|s| !s.leaving) {
            steps.extend(self.plan_service(service, addresses, self.reached));
        }
        steps
    }

    /// What brings a service to run as it should. `may_start` says that its surroundings are there, `settled` that
    /// what runs may be restarted.
    fn plan_service(&self, service: &ServicePlan, may_start: bool, settled: bool) -> Option<Step> {
        let name = &service.name;
        let container = self.container(name);
        let unhealthy = container.health == Health::Unhealthy && !service.judged;
        match container.state {
            ContainerState::Running if container.outdated => {
                let now = settled && self.current(service) && self.satisfied(service);
                now.then(|| Step::Restart(name.clone()))
            }
            ContainerState::Paused => Some(Step::Unpause(name.clone())),
            ContainerState::Running if settled && unhealthy => {
                self.backoff_over(name).then(|| Step::Restart(name.clone()))
            }
            ContainerState::Running if settled && self.is_ill(name) => {
                // What it depends on goes first, if that is to be restarted, too.
                let first = service
                    .after
                    .iter()
                    .any(|(on, _)| self.is_ill(on) && self.container(on).state == ContainerState::Running);
                (!first && self.satisfied(service) && self.backoff_over(name))
                    .then(|| Step::Restart(name.clone()))
            }
            ContainerState::Running => None,
            ContainerState::Exited(0) if self.completes(name) => None,
            ContainerState::Missing | ContainerState::Created | ContainerState::Exited(_) => {
                let ready = may_start
                    && self.containers.is_some()
                    && self.satisfied(service)
                    && self.backoff_over(name);
                ready.then(|| Step::Start(name.clone()))
            }
        }
    }

    /// No address, nothing on a volume, at once; what may run here runs.
    fn plan_standby(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        if self.cfg.addresses && self.addresses != Some(false) {
            steps.push(Step::RemoveAddresses);
        }
        let executing = self.in_state(&[ContainerState::Running, ContainerState::Paused]);
        steps.extend(executing.filter(|name| !self.is_hot(name)).map(Step::Kill));
        steps.extend(self.plan_discard());
        steps.extend(self.plan_prepare());
        // What was paused by a fence must not answer at an address that is still here.
        if self.cfg.addresses && self.addresses != Some(false) {
            return steps;
        }
        for service in self.cfg.services.iter().filter(|s| s.hot && !s.leaving) {
            steps.extend(self.plan_service(service, self.prepared, true));
        }
        steps
    }

    /// Services that are gone from the specification: stopped like in a stop of the group, then removed.
    fn plan_leaving(&self) -> Vec<Step> {
        let leaves = |s: &&ServicePlan| s.leaving;
        let step = |service: &ServicePlan| {
            let name = &service.name;
            let needed = |s: &&ServicePlan| {
                s.leaving && s.after.iter().any(|(on, _)| on == name) && self.executes(&s.name)
            };
            match self.container(name).state {
                ContainerState::Paused => Some(Step::Kill(name.clone())),
                ContainerState::Running if self.cfg.services.iter().any(|s| needed(&s)) => None,
                ContainerState::Running => Some(self.stop_or_kill(name)),
                ContainerState::Missing | ContainerState::Created | ContainerState::Exited(_) => {
                    self.containers.is_some().then(|| Step::Discard(name.clone()))
                }
            }
        };
        self.cfg.services.iter().filter(leaves).filter_map(step).collect()
    }

    /// A stop that failed once is not repeated: the container is killed.
    fn stop_or_kill(&self, name: &str) -> Step {
        let stop = Step::Stop(name.to_owned());
        if self.retry.contains_key(&stop) { Step::Kill(name.to_owned()) } else { stop }
    }

    /// Nothing that the service depends on still has to be restarted for its changed definition.
    fn current(&self, service: &ServicePlan) -> bool {
        service.after.iter().all(|(on, _)| {
            let restarting = self.busy.contains_key(&Step::Restart(on.clone()));
            !self.container(on).outdated && !restarting
        })
    }

    fn plan_fence(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        if self.cfg.addresses && self.addresses != Some(false) {
            steps.push(Step::RemoveAddresses);
        }
        steps.extend(self.in_state(&[ContainerState::Running]).map(Step::Pause));
        steps
    }

    fn plan_kill(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        if self.cfg.addresses && self.addresses != Some(false) {
            steps.push(Step::RemoveAddresses);
        }
        for name in self.in_state(&[ContainerState::Running, ContainerState::Paused]) {
            // What served nobody any more as a standby may take its time.
            let idle = self.is_hot(&name) && self.addresses == Some(false);
            let runs = self.container(&name).state == ContainerState::Running;
            steps.push(if idle && runs { self.stop_or_kill(&name) } else { Step::Kill(name) });
        }
        steps.extend(self.plan_discard());
        steps.extend(self.plan_prepare());
        steps
    }

    fn plan_stop(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self.in_state(&[ContainerState::Paused]).map(Step::Unpause).collect();
        for name in self.in_state(&[ContainerState::Running]).filter(|name| !self.is_hot(name)) {
            let needed =
                |s: &&ServicePlan| s.after.iter().any(|(on, _)| *on == name) && self.executes(&s.name);
            if self.cfg.services.iter().any(|s| needed(&s)) {
                continue;
            }
            steps.push(self.stop_or_kill(&name));
        }
        if self.still() && self.cfg.addresses && self.addresses != Some(false) {
            steps.push(Step::RemoveAddresses);
        }
        steps.extend(self.plan_discard());
        steps.extend(self.plan_prepare());
        steps
    }

    fn plan_discard(&self) -> Vec<Step> {
        self.plan_leaving().into_iter().filter(|s| matches!(s, Step::Discard(_))).collect()
    }

    fn plan_prepare(&self) -> Option<Step> {
        (self.free() && !self.prepared).then_some(Step::Prepare)
    }

    pub(super) fn container(&self, service: &str) -> Container {
        let missing = Container { state: ContainerState::Missing, health: Health::None, outdated: false };
        self.containers.as_ref().and_then(|all| all.get(service)).copied().unwrap_or(missing)
    }

    fn in_state(&self, states: &'static [ContainerState]) -> impl Iterator<Item = String> {
        let all = self.cfg.services.iter().map(|s| s.name.clone());
        all.filter(move |name| states.contains(&self.container(name).state))
    }

    /// The container executes or is on its way to.
    fn executes(&self, service: &str) -> bool {
        let active =
            matches!(self.container(service).state, ContainerState::Running | ContainerState::Paused);
        let starting = [Step::Start(service.into()), Step::Restart(service.into())];
        active || starting.iter().any(|s| self.busy.contains_key(s))
    }

    fn satisfied(&self, service: &ServicePlan) -> bool {
        service.after.iter().all(|(on, need)| {
            let c = self.container(on);
            match need {
                Need::Started => c.state == ContainerState::Running,
                Need::Healthy => c.state == ContainerState::Running && c.health == Health::Healthy,
                Need::Completed => c.state == ContainerState::Exited(0),
            }
        })
    }

    /// Some service waits for this one to complete, so ending well is no failure.
    pub(super) fn completes(&self, service: &str) -> bool {
        self.cfg
            .services
            .iter()
            .flat_map(|s| &s.after)
            .any(|(on, need)| on == service && *need == Need::Completed)
    }

    fn backoff_over(&self, service: &str) -> bool {
        let n = u32::try_from(self.failures_of(service)).unwrap_or(u32::MAX).min(10);
        let last = self.failed_here.failures.get(service).and_then(|all| all.back());
        last.is_none_or(|at| self.now.since(*at) >= BACKOFF * n)
    }

    /// All volumes are primary in the goal's epoch, and their devices are there.
    pub(super) fn volumes_ready(&self) -> bool {
        let Goal::Run { epoch, .. } = self.goal else { return false };
        self.cfg.volumes.iter().all(|plan| {
            let v = self.volumes.iter().find(|v| v.volume == plan.volume);
            v.is_some_and(|v| v.role == Role::Primary && v.epoch == epoch && v.device.is_some())
        })
    }

    fn blank_volumes(&self) -> Vec<VolumeName> {
        let blank = |plan: &&super::VolumePlan| {
            let v = self.volumes.iter().find(|v| v.volume == plan.volume);
            plan.filesystem.is_some() && v.is_some_and(|v| v.filesystem.is_none())
        };
        self.cfg.volumes.iter().filter(blank).map(|p| p.volume.clone()).collect()
    }

    /// A blank volume that must not be formatted.
    pub(super) fn blank_volume(&self) -> Option<VolumeName> {
        let Goal::Run { format: false, .. } = self.goal else { return None };
        self.volumes_ready().then(|| self.blank_volumes().into_iter().next()).flatten()
    }

    /// It does what it is there for, or has done it.
    pub(super) fn runs(&self, service: &str) -> bool {
        match self.container(service).state {
            ContainerState::Running => true,
            ContainerState::Exited(0) => self.completes(service),
            ContainerState::Missing
            | ContainerState::Created
            | ContainerState::Paused
            | ContainerState::Exited(_) => false,
        }
    }

    pub(super) fn everything_runs(&self) -> bool {
        self.volumes_ready()
            && self.orphans.is_empty()
            && self.blank_volumes().is_empty()
            && (!self.cfg.addresses || self.addresses == Some(true))
            && self.containers.is_some()
            && self.cfg.services.iter().filter(|s| !s.leaving).all(|s| self.runs(&s.name))
    }

    /// No container executes, no address is there, and nothing on its way could change that.
    pub(super) fn free(&self) -> bool {
        self.still() && self.addresses == Some(false) && !self.busy.contains_key(&Step::AddAddresses)
    }

    /// No container executes that should not (addresses apart).
    pub(super) fn still(&self) -> bool {
        let kept = self.goal != Goal::Stop { force: true };
        let wrong = |s: &ServicePlan| !(kept && s.hot && !s.leaving) && self.executes(&s.name);
        self.containers.is_some() && !self.cfg.services.iter().any(wrong)
    }

    pub(super) fn is_hot(&self, service: &str) -> bool {
        self.cfg.services.iter().any(|s| s.name == service && s.hot && !s.leaving)
    }

    /// Nothing executes and no address is there; containers may be paused.
    pub(super) fn quiet(&self) -> bool {
        let running = |s: &ServicePlan| self.container(&s.name).state == ContainerState::Running;
        self.addresses == Some(false) && self.containers.is_some() && !self.cfg.services.iter().any(running)
    }

    /// What is missing, as a sentence.
    pub(super) fn waits_for(&self) -> String {
        match self.goal {
            Goal::Run { .. } if self.reached => "everything runs".into(),
            Goal::Run { .. } if !self.orphans.is_empty() => {
                let names: Vec<&str> = self.orphans.iter().map(String::as_str).collect();
                format!("ends {}: their volume's device was replaced under them", names.join(", "))
            }
            Goal::Run { .. } if !self.volumes_ready() => "waits for the volumes to become primary".into(),
            Goal::Run { .. } if self.containers.is_none() => "waits for the Docker engine".into(),
            Goal::Run { .. } if self.cfg.addresses && self.addresses != Some(true) => {
                "adds the addresses".into()
            }
            Goal::Run { .. } => {
                let waiting = self.cfg.services.iter().filter(|s| !s.leaving && !self.executes(&s.name));
                let names: Vec<&str> = waiting.map(|s| s.name.as_str()).collect();
                format!("starts {}", names.join(", "))
            }
            Goal::Hold => "looks at what is there".into(),
            Goal::Fence => "fenced".into(),
            Goal::Standby if self.free() => "stands by".into(),
            Goal::Standby => "stops".into(),
            Goal::Stop { .. } if self.free() => "stopped".into(),
            Goal::Stop { .. } => "stops".into(),
        }
    }
}
