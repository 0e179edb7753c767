//! What the engine says about containers, in three values where it matters: an engine that does not answer
//! does not make a container stopped.

use super::spec::{LABEL_CLUSTER, LABEL_CONFIG, LABEL_DEFINITION, LABEL_GROUP, LABEL_HOST, LABEL_SERVICE};
use super::{DockerError, Engine, QUERY_TIMEOUT};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use std::collections::HashMap;

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It has processes (paused ones included).
    Running,
    /// It has none, or does not exist.
    Stopped,
    /// The engine did not answer.
    Unknown,
}

/// Docker's health status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not checked often enough yet.
    Starting,
    /// The last check succeeded.
    Healthy,
    /// `retries` checks in a row failed.
    Unhealthy,
}

impl Health {
    /// Docker's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One container at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whether it runs.
    pub liveness: Liveness,
    /// Docker's word (`created`, `running`, `paused`, `exited`, `dead`, …), `missing`, or `unknown`.
    pub state: String,
    /// Frozen by the cgroup freezer.
    pub paused: bool,
    /// Health, none without a health check.
    pub health: Option<Health>,
    /// Output of the last failed health check, shortened.
    pub health_output: Option<String>,
    /// Exit code of the last run, if it ended.
    pub exit_code: Option<i64>,
    /// Why it does not run or is unknown, if the engine knows.
    pub error: Option<String>,
    /// Killed for want of memory.
    pub oom_killed: bool,
    /// Start of the last run as the engine wrote it, RFC 3339.
    pub started_at: Option<String>,
    /// Process id of its first process on the host, 0 if none.
    pub pid: i64,
    /// Our configuration hash, if it is ours.
    pub config: Option<String>,
    /// Hash of the definition it was created from; none in containers of versions that did not write it.
    pub definition: Option<String>,
    /// Network mode it was created with.
    pub network: Option<String>,
    pub(super) labels: HashMap<String, String>,
}

impl Inspection {
    fn absent(liveness: Liveness, state: &str, error: Option<String>) -> Self {
        Self {
            liveness,
            state: state.to_owned(),
            paused: false,
            health: None,
            health_output: None,
            exit_code: None,
            error,
            oom_killed: false,
            started_at: None,
            pid: 0,
            config: None,
            definition: None,
            network: None,
            labels: HashMap::new(),
        }
    }

    /// There is no such container.
    #[must_use]
    pub fn missing(&self) -> bool {
        self.state == "missing"
    }
}

/// A container that carries our labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// Group on its label.
    pub group: String,
    /// Service on its label.
    pub service: String,
    /// Docker's word for its state.
    pub state: String,
    /// Configuration hash on its label.
    pub config: String,
}

impl Engine {
    /// State and health. Never fails: an engine that does not answer yields [`Liveness::Unknown`] with the
    /// reason in `error`.
    pub async fn inspect(&self, container: &str) -> Inspection {
        match self.try_inspect(container).await {
            Ok(found) => found,
            Err(error) => {
                use std::error::Error;
                let mut text = error.to_string();
                if let Some(source) = error.source() {
                    text = format!("{text}: {source}");
                }
                Inspection::absent(Liveness::Unknown, "unknown", Some(text))
            }
        }
    }

    pub(super) async fn try_inspect(&self, container: &str) -> Result<Inspection, DockerError> {
        let doing = format!("inspecting container '{container}'");
        let request = self.docker.inspect_container(container, None::<InspectContainerOptions>);
        match self.call(&doing, QUERY_TIMEOUT, request).await {
            Ok(found) => Ok(read(found)),
            Err(error) if error.status() == Some(404) => {
                Ok(Inspection::absent(Liveness::Stopped, "missing", None))
            }
            Err(error) => Err(error),
        }
    }

    /// The id of a container.
    pub(super) async fn container_id(&self, container: &str) -> Result<Option<String>, DockerError> {
        let doing = format!("inspecting container '{container}'");
        let request = self.docker.inspect_container(container, None::<InspectContainerOptions>);
        match self.call(&doing, QUERY_TIMEOUT, request).await {
            Ok(found) => Ok(found.id),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All containers with our cluster's and node's labels and a service label, in any state, by name.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn list_owned(&self) -> Result<Vec<Owned>, DockerError> {
        let labels = vec![
            format!("{LABEL_CLUSTER}={}", self.owner.cluster),
            format!("{LABEL_HOST}={}", self.owner.node),
            LABEL_SERVICE.to_owned(),
        ];
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label", labels)]))
            .build();
        let listed = self
            .call("listing our containers", QUERY_TIMEOUT, self.docker.list_containers(Some(options)))
            .await?;
        let mut owned: Vec<Owned> = listed
            .into_iter()
            .map(|c| {
                let labels = c.labels.unwrap_or_default();
                let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
                Owned {
                    name: c
                        .names
                        .iter()
                        .flatten()
                        .next()
                        .map_or("", |n| n.trim_start_matches('/'))
                        .to_owned(),
                    group: label(LABEL_GROUP),
                    service: label(LABEL_SERVICE),
                    config: label(LABEL_CONFIG),
                    state: c.state.map(|s| s.to_string()).unwrap_or_default(),
                }
            })
            .collect();
        owned.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(owned)
    }
}

/// Longest text of a health check that is kept: enough for its last line in a table.
const HEALTH_OUTPUT_MAX: usize = 300;

fn read(found: ContainerInspectResponse) -> Inspection {
    let state = found.state.unwrap_or_default();
    let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
    let liveness = match status {
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::PAUSED
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => Liveness::Running,
        ContainerStateStatusEnum::CREATED
        | ContainerStateStatusEnum::EXITED
        | ContainerStateStatusEnum::DEAD
        | ContainerStateStatusEnum::REMOVING => Liveness::Stopped,
        ContainerStateStatusEnum::EMPTY => Liveness::Unknown,
    };
    let health = state.health.unwrap_or_default();
    let running = liveness == Liveness::Running;
    let health_output = health
        .log
        .iter()
        .flatten()
        .rev()
        .find(|entry| entry.exit_code.is_some_and(|code| code != 0))
        .and_then(|entry| entry.output.as_deref())
        .map(|text| text.trim().chars().take(HEALTH_OUTPUT_MAX).collect());
    let labels = found.config.and_then(|c| c.labels).unwrap_or_default();
    Inspection {
        liveness,
        state: status.to_string(),
        paused: state.paused.unwrap_or(false),
        health: match health.status {
            Some(HealthStatusEnum::STARTING) => Some(Health::Starting),
            Some(HealthStatusEnum::HEALTHY) => Some(Health::Healthy),
            Some(HealthStatusEnum::UNHEALTHY) => Some(Health::Unhealthy),
            Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) | None => None,
        },
        health_output,
        exit_code: state.exit_code.filter(|_| status == ContainerStateStatusEnum::EXITED),
        error: state.error.filter(|e| !e.is_empty() && !running),
        oom_killed: state.oom_killed.unwrap_or(false),
        started_at: state.started_at.filter(|at| !at.starts_with("0001-")),
        pid: state.pid.unwrap_or(0),
        config: labels.get(LABEL_CONFIG).cloned(),
        definition: labels.get(LABEL_DEFINITION).cloned(),
        network: found.host_config.and_then(|h| h.network_mode),
        labels,
    }
}
