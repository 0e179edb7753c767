//! What checks and the engine's silence mean for the runtime: restarts in place, the wish to leave, readiness.

use super::{CheckFailure, ContainerState, Goal, Health, Runtime};
use crate::core::checks::OnFailure;
use std::time::Duration;

/// An engine holds a container's lock while it starts or stops it, for seconds: a shorter silence says nothing.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);

impl Runtime {
    /// Of a group that is left alone, or on its way to somewhere else, it says nothing.
    pub(super) fn check_failed(&mut self, failure: CheckFailure) {
        let leads = matches!(self.goal, Goal::Run { .. });
        if !leads && self.goal != Goal::Standby {
            return;
        }
        let CheckFailure { check, service, on_failure } = failure;
        self.failing.insert(check.clone());
        match on_failure {
            OnFailure::Alarm => {}
            OnFailure::Move if leads => self.leave = Some((check.clone(), format!("{check} failed"))),
            OnFailure::Move => {}
            OnFailure::Restart => {
                let blamed =
                    |s: &&super::ServicePlan| !s.leaving && service.as_ref().is_none_or(|b| s.name == *b);
                // That it does not run, or is about to be started again, has been counted.
                let comes_back = |s: &super::ServicePlan| {
                    !self.runs(&s.name) || self.changing(&s.name) || self.is_ill(&s.name)
                };
                if leads && self.cfg.services.iter().filter(blamed).any(comes_back) {
                    return;
                }
                self.failure(service.as_ref().unwrap_or(&check));
                let running = |s: &&super::ServicePlan| {
                    self.container(&s.name).state == ContainerState::Running && (leads || s.hot)
                };
                let ill: Vec<String> =
                    self.cfg.services.iter().filter(blamed).filter(running).map(|s| s.name.clone()).collect();
                self.ill.extend(ill);
            }
        }
    }

    pub(super) fn check_passed(&mut self, check: &str) {
        self.failing.remove(check);
        if self.leave.as_ref().is_some_and(|(of, _)| of == check) {
            self.leave = None;
        }
    }

    pub(super) fn forget_checks(&mut self) {
        self.ill.clear();
        self.failing.clear();
        self.leave = None;
    }

    /// It is meant to run, so its end is a failure.
    pub(super) fn counts(&self, service: &str) -> bool {
        match self.goal {
            Goal::Run { .. } => true,
            Goal::Standby => self.is_hot(service),
            Goal::Hold | Goal::Fence | Goal::Stop { .. } => false,
        }
    }

    /// A check failed since it was started.
    pub(super) fn is_ill(&self, service: &str) -> bool {
        self.ill.contains(service)
    }

    /// The engine has been silent for longer than its own locks explain.
    fn engine_away(&self) -> Option<Duration> {
        self.engine_silent.map(|since| self.now.since(since)).filter(|silent| *silent >= ENGINE_PATIENCE)
    }

    /// Why a takeover would not find everything as it should be.
    pub(super) fn unready(&self) -> Option<String> {
        if self.engine_away().is_some() {
            return Some("the Docker engine does not answer".into());
        }
        if !self.cfg.services.iter().any(|s| s.hot && !s.leaving) || matches!(self.goal, Goal::Run { .. }) {
            return None;
        }
        if let Some(check) = self.failing.first() {
            return Some(format!("{check} fails"));
        }
        self.cfg.services.iter().filter(|s| s.hot && !s.leaving).find_map(|s| {
            let c = self.container(&s.name);
            match (c.state, c.health) {
                (ContainerState::Exited(0), _) if self.completes(&s.name) => None,
                (ContainerState::Running, Health::None | Health::Healthy) => None,
                (ContainerState::Running, Health::Starting) => Some(format!("{} is not healthy yet", s.name)),
                (ContainerState::Running, Health::Unhealthy) => Some(format!("{} is not healthy", s.name)),
                (
                    ContainerState::Missing
                    | ContainerState::Created
                    | ContainerState::Paused
                    | ContainerState::Exited(_),
                    _,
                ) => Some(format!("{} does not run yet", s.name)),
            }
        })
    }

    /// An engine that does not answer makes nothing stopped. But it can stop nothing either: a group that has to leave
    /// meanwhile, or after `engine_timeout` in any case, can only be fenced.
    pub(super) fn stuck(&self) -> Option<String> {
        let silent = self.engine_away().filter(|_| self.reached)?;
        if silent >= self.cfg.engine_timeout {
            let seconds = self.cfg.engine_timeout.as_secs();
            return Some(format!("the Docker engine has not answered for {seconds} s"));
        }
        self.wants_move().map(|why| format!("{why}, and the Docker engine does not answer"))
    }
}
