//! What goes into and comes out of the runtime.

use crate::core::checks::OnFailure;
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{Epoch, VolumeName};
use std::collections::BTreeMap;
use std::time::Duration;

/// When a dependency is satisfied, as Compose means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `service_started`.
    Started,
    /// `service_healthy`.
    Healthy,
    /// `service_completed_successfully`.
    Completed,
}

/// A service of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its name in the specification.
    pub name: String,
    /// What it depends on.
    pub after: Vec<(String, Need)>,
    /// No longer in the specification: to be stopped in order and removed.
    pub leaving: bool,
    /// Runs on standbys, too (`standby: hot`): it needs no volume.
    pub hot: bool,
    /// A check of the group judges its health, so the engine's word alone restarts nothing.
    pub judged: bool,
}

/// A volume of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// The volume.
    pub volume: VolumeName,
    /// Filesystem to make at the first start; none for a raw device.
    pub filesystem: Option<String>,
}

/// What a group consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Volumes.
    pub volumes: Vec<VolumePlan>,
    /// Whether there are addresses.
    pub addresses: bool,
    /// Services, in the order of the specification.
    pub services: Vec<ServicePlan>,
    /// Failures of a service within `failure_timeout` that make the group want to move.
    pub migration_threshold: u32,
    /// See `migration_threshold`.
    pub failure_timeout: Duration,
    /// A start that takes longer has failed.
    pub start_timeout: Duration,
    /// The same after a takeover.
    pub takeover_timeout: Duration,
    /// A group whose engine has been silent for this long should leave.
    pub engine_timeout: Duration,
}

/// What the leadership core wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Change nothing yet, only look.
    Hold,
    /// Run.
    Run {
        /// The volumes must be primary in this epoch.
        epoch: Epoch,
        /// A blank volume may be formatted.
        format: bool,
        /// Nobody handed the group over: logs may have to be replayed.
        takeover: bool,
    },
    /// Serve nobody, keep everything for a quick return.
    Fence,
    /// Stand by: no address, nothing that needs a volume, at once; what may run on a standby runs.
    Standby,
    /// Stop; then keep containers created.
    Stop {
        /// At once: addresses first, containers killed, everything. Else in order, and what may run on a standby goes on.
        force: bool,
    },
}

/// State of a container as the engine reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// There is none.
    Missing,
    /// Created, never started.
    Created,
    /// Runs (or is being restarted by the engine).
    Running,
    /// Paused.
    Paused,
    /// Ended with this code.
    Exited(i64),
}

/// Health as the engine reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No health check.
    None,
    /// Not known yet.
    Starting,
    /// Fine.
    Healthy,
    /// Not.
    Unhealthy,
}

/// A container as observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its state.
    pub state: ContainerState,
    /// Its health.
    pub health: Health,
    /// It was made from another definition than the specification has now.
    pub outdated: bool,
}

/// One thing to do. Idempotent; bounded by the adapter, which always reports an outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Make the filesystem of a blank volume.
    Format(VolumeName),
    /// Add and announce the addresses.
    AddAddresses,
    /// Remove the addresses.
    RemoveAddresses,
    /// Pull images, create networks, volumes and all containers, without starting them.
    Prepare,
    /// Create if needed and start a service.
    Start(String),
    /// Stop and start a service again.
    Restart(String),
    /// Stop a service within its grace period.
    Stop(String),
    /// Kill a service's container, paused or not.
    Kill(String),
    /// Pause a service's container.
    Pause(String),
    /// Let a paused container go on.
    Unpause(String),
    /// Remove the container of a service that is gone from the specification.
    Discard(String),
}

/// A check that failed, and what is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// The check's name.
    pub check: String,
    /// What it blames; none = all services of the group.
    pub service: Option<String>,
    /// What is done.
    pub on_failure: OnFailure,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// Time passed.
    Tick,
    /// The goal, each time the leadership core has decided.
    Goal(Goal),
    /// The volumes as the replicator sees them.
    Volumes(Vec<VolumeStatus>),
    /// All containers of the group as the engine sees them; none if it does not answer.
    Containers(Option<BTreeMap<String, Container>>),
    /// A step ended.
    Done(Step, Result<(), String>),
    /// A check of the group failed (HTTP and the like).
    CheckFailed(CheckFailure),
    /// A check of the group passes again, or for the first time.
    CheckPassed(String),
}

/// How far the runtime is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs, no address is there.
    Stopped,
    /// On the way to running.
    Starting,
    /// Everything runs.
    Running,
    /// On the way to stopped. Also before anything has been observed.
    #[default]
    Stopping,
    /// On the way to fenced.
    Fencing,
    /// No address, nothing executes.
    Fenced,
    /// Could not be started (or not be stopped).
    Failed,
}

/// The runtime as the leadership core sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// How far.
    pub phase: Phase,
    /// No container executes and no address is there: volumes may be let go.
    pub free: bool,
    /// All containers exist, so that a takeover only starts them.
    pub prepared: bool,
    /// It could not take the group over at once, prepared or not: why.
    pub unready: Option<String>,
    /// The group would be better off elsewhere: why.
    pub wants_move: Option<String>,
    /// The same, and it cannot be stopped in order here because the engine does not answer: why.
    pub stuck: Option<String>,
    /// The group cannot be reached here at all (its link is down): why.
    pub unusable: Option<String>,
    /// Why the phase is what it is.
    pub reason: String,
}

impl Step {
    /// The service a step changes.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Start(s)
            | Self::Restart(s)
            | Self::Stop(s)
            | Self::Kill(s)
            | Self::Pause(s)
            | Self::Unpause(s)
            | Self::Discard(s) => Some(s),
            Self::Format(_) | Self::AddAddresses | Self::RemoveAddresses | Self::Prepare => None,
        }
    }

    /// The word for people.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Format(_) => "format",
            Self::AddAddresses => "add addresses",
            Self::RemoveAddresses => "remove addresses",
            Self::Prepare => "prepare containers",
            Self::Start(_) => "start",
            Self::Restart(_) => "restart",
            Self::Stop(_) => "stop",
            Self::Kill(_) => "kill",
            Self::Pause(_) => "pause",
            Self::Unpause(_) => "unpause",
            Self::Discard(_) => "remove",
        }
    }
}
