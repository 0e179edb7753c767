//! What a group consists of on one node: addresses and containers, started, stopped, fenced and resumed.
//!
//! Level-triggered: the leadership core sets a [`Goal`], [`plan`](self) compares it with what is and names the
//! steps that can be taken now; their outcomes and the observed containers come back as events. So any
//! interruption is answered by planning again from what is found. Volumes are not commanded here (roles are
//! the leadership core's), only waited for.
//!
//! ```text
//!            Run                    all there                Fence
//!   Stopped ─────► Starting ─────────────────► Running ─────────────► Fencing ──► Fenced
//!      ▲              │ too many failures          │                     │  Run: Starting
//!      └── Stopping ◄─┴── Failed ◄────────────────(─)◄──── Stop ─────────┘
//! ```
//!
//! Invariants: services start only after all volumes are primary in the goal's epoch and the addresses are
//! there; nothing is formatted unless it is blank and the goal allows it.
//!
//! If the process dies, containers go on running under their labels and are observed again at the next start. Those
//! that are found running while a volume has no device are killed before anything is started: their mount is that of
//! an earlier device, which went with its replicator.

mod health;
mod plan;
#[cfg(test)]
mod tests;
mod types;

pub use types::{
    CheckFailure, Container, ContainerState, Goal, Health, Need, Phase, RunEvent, RunReport, RuntimeConfig,
    ServicePlan, Step, VolumePlan,
};

use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{Instant, Role};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Pause before a failed step is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Pause before containers are prepared again: pulling an image that is not there takes long and can wait.
const RETRY_PREPARE: Duration = Duration::from_secs(10);

/// What failed here, to be kept across restarts of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFailures {
    /// When services and checks failed within `failure_timeout`, by name.
    pub failures: BTreeMap<String, VecDeque<Instant>>,
    /// Restarts in place since the group started here, by service.
    pub restarts: BTreeMap<String, u32>,
}

/// Start, stop and fence of one group on one node.
#[cfg_attr(test, derive(Clone))]
pub struct Runtime {
    cfg: RuntimeConfig,
    goal: Goal,
    goal_since: Instant,
    now: Instant,
    volumes: Vec<VolumeStatus>,
    addresses: Option<bool>,
    containers: Option<BTreeMap<String, Container>>,
    /// Services that hold an earlier device of a volume, and get nothing but errors from it.
    orphans: BTreeSet<String>,
    /// A volume had no device here before the containers were first looked at.
    deviceless: bool,
    busy: BTreeMap<Step, Instant>,
    /// Steps on their way that were begun for an earlier configuration: their outcome says nothing any more.
    stale: BTreeSet<Step>,
    retry: BTreeMap<Step, Instant>,
    failed_here: RunFailures,
    /// Nothing has failed since these failures were remembered: they alone stop nothing that runs.
    recalled: bool,
    /// Told to stop since the group last ran here: failures count anew when it starts again.
    was_stopped: bool,
    last_error: Option<String>,
    failed: Option<String>,
    reached: bool,
    prepared: bool,
    marks: Vec<(&'static str, Instant)>,
    /// Services that run and are to be restarted because a check failed.
    ill: BTreeSet<String>,
    /// Checks that fail now.
    failing: BTreeSet<String>,
    /// A check that says the group should move: why.
    leave: Option<(String, String)>,
    /// When each service last failed or was started again, while it was meant to run.
    disturbed: BTreeMap<String, Instant>,
    /// Since when the engine has not answered.
    engine_silent: Option<Instant>,
}

impl Runtime {
    /// Nothing known yet, goal [`Goal::Hold`].
    #[must_use]
    pub fn new(cfg: RuntimeConfig, now: Instant) -> Self {
        let addresses = if cfg.addresses { None } else { Some(false) };
        Self {
            cfg,
            goal: Goal::Hold,
            goal_since: now,
            now,
            volumes: Vec::new(),
            addresses,
            containers: None,
            orphans: BTreeSet::new(),
            deviceless: false,
            busy: BTreeMap::new(),
            stale: BTreeSet::new(),
            retry: BTreeMap::new(),
            failed_here: RunFailures::default(),
            recalled: false,
            was_stopped: false,
            last_error: None,
            failed: None,
            reached: false,
            prepared: false,
            marks: Vec::new(),
            ill: BTreeSet::new(),
            failing: BTreeSet::new(),
            leave: None,
            disturbed: BTreeMap::new(),
            engine_silent: None,
        }
    }

    /// What failed here, to be kept across restarts of the agent.
    #[must_use]
    pub fn failures(&self) -> &RunFailures {
        &self.failed_here
    }

    /// What failed here before the agent was restarted, in this boot of the host.
    pub fn remember_failures(&mut self, failures: RunFailures) {
        self.failed_here = failures;
        self.recalled = true;
    }

    /// Takes an event and names the steps to begin now.
    pub fn handle(&mut self, event: RunEvent, now: Instant) -> Vec<Step> {
        self.now = now;
        match event {
            RunEvent::Tick => {}
            RunEvent::Goal(goal) => self.set_goal(goal),
            RunEvent::Volumes(volumes) => self.volumes = volumes,
            RunEvent::Containers(observed) => self.observe(observed),
            RunEvent::Done(step, result) => self.done(&step, result),
            RunEvent::CheckFailed(failure) => self.check_failed(failure),
            RunEvent::CheckPassed(check) => self.check_passed(&check),
        }
        self.look_for_orphans();
        self.judge();
        let steps = self.plan();
        for step in &steps {
            self.busy.insert(step.clone(), now);
        }
        steps
    }

    /// Takes over a changed specification. Services that are gone are stopped in order and removed; those whose
    /// definition changed are found by looking at their containers, and restarted in place. `addresses` says that
    /// the list of addresses differs.
    pub fn reconfigure(&mut self, mut cfg: RuntimeConfig, addresses: bool) {
        self.prepared = false;
        if addresses {
            // The addresses are set anew as a whole, also if there are none any more: those held go with that.
            self.addresses = None;
            cfg.addresses |= self.cfg.addresses;
        }
        for gone in std::mem::take(&mut self.cfg.services) {
            if !cfg.services.iter().any(|s| s.name == gone.name) {
                cfg.services.push(ServicePlan { leaving: true, ..gone });
            }
        }
        let whole = |s: &&Step| matches!(s, Step::AddAddresses | Step::Prepare);
        self.stale.extend(self.busy.keys().filter(whole).cloned());
        self.retry.clear();
        self.failed_here
            .failures
            .retain(|what, _| cfg.services.iter().any(|s| s.name == *what && !s.leaving));
        self.failed = None;
        // The checks begin anew.
        self.forget_checks();
        self.cfg = cfg;
    }

    /// The runtime as the leadership core sees it.
    #[must_use]
    pub fn report(&self) -> RunReport {
        let phase = self.phase();
        let reason = match (&self.failed, &self.last_error) {
            (Some(why), _) => why.clone(),
            (None, Some(error)) if phase != Phase::Running && phase != Phase::Stopped => error.clone(),
            (None, _) => self.waits_for(),
        };
        RunReport {
            phase,
            free: self.free(),
            prepared: self.prepared,
            unready: self.unready(),
            wants_move: self.wants_move(),
            stuck: self.stuck(),
            unusable: None,
            reason,
        }
    }

    /// When each part of the last start was done: for the durations of a takeover by step.
    #[must_use]
    pub fn marks(&self) -> &[(&'static str, Instant)] {
        &self.marks
    }

    /// Containers as last observed.
    #[must_use]
    pub fn containers(&self) -> BTreeMap<String, Container> {
        self.containers.clone().unwrap_or_default()
    }

    /// Restarts in place of a service since the group started here.
    #[must_use]
    pub fn restarts(&self, service: &str) -> u32 {
        self.failed_here.restarts.get(service).copied().unwrap_or(0)
    }

    /// When each service last failed or was started again, while it was meant to run: its checks fail until it is back.
    #[must_use]
    pub fn disturbed(&self) -> &BTreeMap<String, Instant> {
        &self.disturbed
    }

    /// How long the start under way may take.
    fn start_limit(&self) -> Duration {
        match self.goal {
            Goal::Run { takeover: true, .. } => self.cfg.takeover_timeout,
            Goal::Run { .. } | Goal::Hold | Goal::Fence | Goal::Standby | Goal::Stop { .. } => {
                self.cfg.start_timeout
            }
        }
    }

    fn set_goal(&mut self, goal: Goal) {
        if goal == self.goal {
            return;
        }
        let runs = |g: Goal| matches!(g, Goal::Run { .. });
        if runs(goal) != runs(self.goal) {
            self.forget_checks();
        }
        if !runs(goal) || !runs(self.goal) {
            self.goal_since = self.now;
            self.retry.clear();
            self.failed = None;
            self.last_error = None;
            self.reached = false;
        }
        if runs(goal) && !runs(self.goal) {
            self.marks = vec![("begin", self.now)];
            if std::mem::take(&mut self.was_stopped) {
                self.failed_here.failures.clear();
                self.failed_here.restarts.clear();
            }
        }
        self.was_stopped |= matches!(goal, Goal::Stop { .. } | Goal::Standby);
        self.goal = goal;
    }

    fn observe(&mut self, observed: Option<BTreeMap<String, Container>>) {
        let Some(observed) = observed else {
            self.engine_silent.get_or_insert(self.now);
            self.last_error = Some("the Docker engine does not answer".into());
            return;
        };
        self.engine_silent = None;
        let before = self.containers.take().unwrap_or_default();
        let mut fell: Vec<String> = Vec::new();
        for service in self.cfg.services.iter().filter(|s| !s.leaving) {
            let name = &service.name;
            let (Some(old), Some(new)) = (before.get(name), observed.get(name)) else { continue };
            let ended = old.state == ContainerState::Running
                && matches!(
                    new.state,
                    ContainerState::Exited(_) | ContainerState::Missing | ContainerState::Created
                );
            let turned = old.health != Health::Unhealthy && new.health == Health::Unhealthy;
            let sick = turned && !service.judged;
            let completed = new.state == ContainerState::Exited(0) && self.completes(name);
            if (ended && !completed) || (sick && new.state == ContainerState::Running) {
                fell.push(name.clone());
            }
        }
        // What a step is about to change is known better by that step's outcome.
        let mut merged = observed;
        for name in self.cfg.services.iter().map(|s| &s.name) {
            if self.changing(name)
                && let Some(old) = before.get(name)
            {
                merged.insert(name.clone(), *old);
                fell.retain(|f| f != name);
            }
        }
        self.containers = Some(merged);
        fell.retain(|name| self.counts(name));
        for name in fell {
            self.failure(&name);
        }
    }

    fn changing(&self, service: &str) -> bool {
        self.busy.keys().any(|step| step.service() == Some(service))
    }

    /// Replicator and agent were replaced at once (an upgrade with Compose, say): the device is new, the mount is not. An
    /// agent that was there all the while leaves it to the leadership core, and a replicator whose device was held to nobody.
    fn look_for_orphans(&mut self) {
        if self.reached {
            return;
        }
        // A worker that died leaves its device to the holder (`held`), and a promoted one shows its device a moment later.
        let gone = |p: &VolumePlan| {
            let lost = |v: &VolumeStatus| v.device.is_none() && !v.held && v.role != Role::Primary;
            self.volumes.iter().any(|v| v.volume == p.volume && lost(v))
        };
        self.deviceless |= self.cfg.volumes.iter().any(gone);
        let Some(containers) = &self.containers else { return };
        let executing: BTreeSet<String> = containers
            .iter()
            .filter(|(_, c)| matches!(c.state, ContainerState::Running | ContainerState::Paused))
            // What runs on standbys has no volume.
            .filter(|(name, _)| !self.is_hot(name))
            .map(|(name, _)| name.clone())
            .collect();
        if std::mem::take(&mut self.deviceless) {
            self.orphans = executing;
        } else {
            self.orphans.retain(|name| executing.contains(name));
        }
    }

    fn done(&mut self, step: &Step, result: Result<(), String>) {
        if self.busy.remove(step).is_none() || self.stale.remove(step) {
            return;
        }
        if let Step::Restart(name) = step {
            self.ill.remove(name);
        }
        match result {
            Ok(()) => self.succeeded(step),
            Err(error) => {
                let pause = if *step == Step::Prepare { RETRY_PREPARE } else { RETRY };
                self.retry.insert(step.clone(), self.now.plus(pause));
                self.last_error = Some(format!("{}: {error}", step.word()));
                match step {
                    Step::Start(name) | Step::Restart(name) => self.failure(&name.clone()),
                    Step::Format(_) | Step::AddAddresses => self.failure(step.word()),
                    // A stop that fails is followed by a kill; a kill that fails is tried again.
                    Step::Stop(_)
                    | Step::Kill(_)
                    | Step::Pause(_)
                    | Step::Unpause(_)
                    | Step::Discard(_)
                    | Step::RemoveAddresses
                    | Step::Prepare => {}
                }
            }
        }
    }

    fn succeeded(&mut self, step: &Step) {
        self.retry.remove(step);
        // A container that was restarted ran before, too; what its health was says nothing about it now.
        let set = |this: &mut Self, name: &str, state| {
            let fresh = Container { state, health: Health::Starting, outdated: false };
            this.containers.get_or_insert_default().insert(name.to_owned(), fresh);
        };
        match step {
            Step::Format(volume) => {
                let filesystem =
                    self.cfg.volumes.iter().find(|v| v.volume == *volume).and_then(|v| v.filesystem.clone());
                if let Some(v) = self.volumes.iter_mut().find(|v| v.volume == *volume) {
                    v.filesystem = filesystem;
                }
            }
            Step::AddAddresses => self.addresses = Some(true),
            Step::RemoveAddresses => self.addresses = Some(false),
            Step::Prepare => self.prepared = true,
            Step::Start(name) | Step::Restart(name) => {
                set(self, name, ContainerState::Running);
                if self.reached {
                    *self.failed_here.restarts.entry(name.clone()).or_default() += 1;
                    self.disturbed.insert(name.clone(), self.now);
                }
            }
            Step::Unpause(name) => set(self, name, ContainerState::Running),
            Step::Stop(name) | Step::Kill(name) => set(self, name, ContainerState::Exited(137)),
            Step::Pause(name) => set(self, name, ContainerState::Paused),
            Step::Discard(name) => {
                self.cfg.services.retain(|s| !(s.leaving && s.name == *name));
                self.containers.as_mut().map(|all| all.remove(name));
            }
        }
    }

    fn failure(&mut self, what: &str) {
        self.recalled = false;
        self.disturbed.insert(what.to_owned(), self.now);
        let window = self.cfg.failure_timeout;
        let all = self.failed_here.failures.entry(what.to_owned()).or_default();
        all.push_back(self.now);
        while all.front().is_some_and(|at| self.now.since(*at) > window) || all.len() > 1000 {
            all.pop_front();
        }
    }

    fn failures_of(&self, what: &str) -> usize {
        let window = self.cfg.failure_timeout;
        self.failed_here
            .failures
            .get(what)
            .map_or(0, |all| all.iter().filter(|at| self.now.since(**at) <= window).count())
    }

    fn too_often(&self) -> Option<String> {
        let limit = usize::try_from(self.cfg.migration_threshold.max(1)).unwrap_or(usize::MAX);
        let (what, n) =
            self.failed_here.failures.keys().map(|k| (k, self.failures_of(k))).find(|(_, n)| *n >= limit)?;
        let last = self.last_error.as_deref().map(|e| format!(" ({e})")).unwrap_or_default();
        Some(format!("{what} failed {n} times within {} s{last}", self.cfg.failure_timeout.as_secs()))
    }

    fn wants_move(&self) -> Option<String> {
        let leave = || self.leave.as_ref().map(|(_, why)| why.clone());
        self.reached.then(|| self.too_often().or_else(leave)).flatten()
    }

    /// Draws the conclusions of what is: everything there, or failed.
    fn judge(&mut self) {
        let Goal::Run { .. } = self.goal else { return };
        self.mark("volumes", self.volumes_ready());
        self.mark("addresses", self.addresses == Some(true) || !self.cfg.addresses);
        if !self.reached && self.everything_runs() {
            self.reached = true;
            self.mark("services", true);
        }
        if self.reached || self.failed.is_some() {
            return;
        }
        if let Some(why) = self.too_often().filter(|_| !self.recalled) {
            self.failed = Some(why);
        } else if self.now.since(self.goal_since) >= self.start_limit() {
            let why = self.last_error.clone().unwrap_or_else(|| self.waits_for());
            self.failed = Some(format!("not started within {} s: {why}", self.start_limit().as_secs()));
        } else if let Some(blank) = self.blank_volume() {
            self.failed = Some(format!("volume {blank} has no filesystem, and this is not its first start"));
        }
    }

    fn mark(&mut self, what: &'static str, reached: bool) {
        if reached && !self.marks.iter().any(|m| m.0 == what) {
            self.marks.push((what, self.now));
        }
    }

    fn phase(&self) -> Phase {
        match self.goal {
            Goal::Hold if self.still() => Phase::Stopped,
            Goal::Hold => Phase::Stopping,
            Goal::Run { .. } if self.failed.is_some() => Phase::Failed,
            Goal::Run { .. } if self.reached => Phase::Running,
            Goal::Run { .. } => Phase::Starting,
            Goal::Fence if self.quiet() => Phase::Fenced,
            Goal::Fence => Phase::Fencing,
            Goal::Standby | Goal::Stop { .. } if self.free() => Phase::Stopped,
            Goal::Standby | Goal::Stop { .. } => Phase::Stopping,
        }
    }
}
