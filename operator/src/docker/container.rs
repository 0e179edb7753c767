//! Service containers: create, start, stop, freeze, remove.
//!
//! Created ahead on a standby, so that a takeover only starts them. Nothing here waits without a bound: a
//! process that hangs in the kernel on a frozen device survives SIGKILL, and the engine then never answers.

use super::body::{ResolvedNetwork, ceil_seconds, config_hash, create_body};
use super::error::translate_start;
use super::spec::{LABEL_CLUSTER, LABEL_HOST, MountSpec, NetworkMode, ServiceSpec};
use super::{DockerError, Engine, Inspection, Liveness};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptionsBuilder,
};
use std::time::Duration;
use tokio::time::Instant;

/// Creating a container unpacks nothing: it prepares a layer. A loaded disk may take seconds.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);
/// A start mounts the filesystem, which replays its journal through the replication path.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The freezer acts in milliseconds unless a process hangs in the kernel.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bound of a removal; the container is stopped by then.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a process may take to die of SIGKILL before it counts as stuck in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(3);
/// Step of looking again after a kill.
const POLL: Duration = Duration::from_millis(20);
/// What [`Engine::ensure_created`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was there and is as it should be.
    Unchanged,
    /// It was not there and has been created.
    Created,
    /// It was another configuration, not running, and has been created anew.
    Recreated,
    /// It is another configuration and runs: left alone. Stop it and ensure again.
    OutdatedRunning,
}

impl Engine {
    /// Makes sure that the container exists as specified, without starting it. A running container is never
    /// touched. Every volume must exist, because Docker would silently make an empty one on the host's disk.
    ///
    /// # Errors
    /// [`DockerError::ImageMissing`], [`DockerError::VolumeMissing`], [`DockerError::NamespaceGone`],
    /// [`DockerError::Foreign`], or what the engine says.
    pub async fn ensure_created(&self, spec: &ServiceSpec) -> Result<Ensured, DockerError> {
        let name = &spec.container;
        let network = self.resolve_network(name).await?;
        let image_missing =
            || DockerError::ImageMissing { container: name.clone(), image: spec.image.clone() };
        let image_id = self.image_id(&spec.image).await?.ok_or_else(image_missing)?;
        for mount in &spec.mounts {
            if let MountSpec::Volume { name: volume, .. } = mount
                && !self.volume_exists(volume).await?
            {
                return Err(DockerError::VolumeMissing { container: name.clone(), volume: volume.clone() });
            }
        }
        let hash = config_hash(spec, &network, &image_id);
        let found = self.try_inspect(name).await?;
        let outcome = if found.missing() {
            Ensured::Created
        } else {
            self.check_ours(&found, name)?;
            let usable = !matches!(found.state.as_str(), "dead" | "removing");
            match (found.config.as_deref() == Some(&*hash), found.liveness) {
                (true, _) if usable => return Ok(Ensured::Unchanged),
                (false, Liveness::Running) => return Ok(Ensured::OutdatedRunning),
                _ => {}
            }
            self.remove(name).await?;
            Ensured::Recreated
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let body = create_body(spec, &self.owner, &network, &hash);
        let doing = format!("creating container '{name}' of image '{}'", spec.image);
        let created =
            self.call(&doing, CREATE_TIMEOUT, self.docker.create_container(Some(options), body)).await;
        match created {
            Ok(answer) => {
                for warning in answer.warnings {
                    tracing::warn!(container = %name, %warning, "the engine warns about the container");
                }
                Ok(outcome)
            }
            Err(DockerError::Engine { status: 404, message, .. }) if message.contains("image") => {
                Err(image_missing())
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the container; a paused one goes on, a running one is left alone.
    ///
    /// # Errors
    /// [`DockerError::MountFailed`], [`DockerError::NamespaceGone`] (ensure it anew), or what the engine says.
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        if self.try_inspect(name).await?.paused {
            return self.unpause(name).await;
        }
        let doing = format!("starting container '{name}'");
        let started = self.docker.start_container(name, None::<StartContainerOptions>);
        let namespace = match &self.network {
            NetworkMode::Host => None,
            NetworkMode::Container(namespace) => Some(namespace.as_str()),
        };
        self.call(&doing, START_TIMEOUT, started).await.map_err(|e| translate_start(e, name, namespace))
    }

    /// Stops the container: its stop signal, then SIGKILL after `grace`. One that is stopped or missing is
    /// fine. Takes at most `grace` plus about three seconds.
    ///
    /// # Errors
    /// [`DockerError::StillRunning`] if SIGKILL does not help, or that the engine does not answer.
    pub async fn stop(&self, name: &str, grace: Duration) -> Result<(), DockerError> {
        let found = self.try_inspect(name).await?;
        if found.liveness == Liveness::Stopped {
            return Ok(());
        }
        if found.paused {
            // Frozen processes hear no signal; the group is fenced already, so nothing is gained by grace.
            return self.kill(name).await;
        }
        // The engine counts in whole seconds and goes on by itself should the agent die; the exact bound is ours.
        let seconds = i32::try_from(ceil_seconds(grace)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let doing = format!("stopping container '{name}'");
        match self.call(&doing, grace, self.docker.stop_container(name, Some(options))).await {
            Ok(()) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(DockerError::Timeout { .. }) => self.kill(name).await,
            Err(error) => Err(error),
        }
    }

    /// Kills the container (a paused one too) and waits until it is gone, three seconds at most.
    ///
    /// # Errors
    /// [`DockerError::StillRunning`] if a process is stuck in the kernel, or that the engine does not answer.
    pub async fn kill(&self, name: &str) -> Result<(), DockerError> {
        let deadline = Instant::now() + KILL_WAIT;
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let doing = format!("killing container '{name}'");
        // The engine answers only when the processes are gone, so the request itself is part of the wait.
        let killed = self.call(&doing, KILL_WAIT, self.docker.kill_container(name, Some(options))).await;
        match killed {
            // 409: not running.
            Ok(()) | Err(DockerError::Timeout { .. } | DockerError::Engine { status: 404 | 409, .. }) => {}
            Err(error) => return Err(error),
        }
        loop {
            let found = self.try_inspect(name).await?;
            if found.liveness == Liveness::Stopped {
                return Ok(());
            }
            if found.paused {
                // With cgroup v1 a frozen process dies only when it is thawed; SIGKILL is pending by now, so it
                // does not run again.
                if let Err(error) = self.unpause(name).await {
                    tracing::warn!(container = name, %error, "cannot thaw the killed container");
                }
            }
            if Instant::now() >= deadline {
                return Err(DockerError::StillRunning { container: name.to_owned(), within: KILL_WAIT });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Freezes the container. One that is paused, stopped or missing is fine.
    ///
    /// # Errors
    /// [`DockerError::Timeout`] if a process cannot be frozen because it hangs in the kernel.
    pub async fn pause(&self, name: &str) -> Result<(), DockerError> {
        let doing = format!("pausing container '{name}'");
        tolerate(self.call(&doing, PAUSE_TIMEOUT, self.docker.pause_container(name)).await)
    }

    /// Thaws the container. One that is not paused is fine.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn unpause(&self, name: &str) -> Result<(), DockerError> {
        let doing = format!("unpausing container '{name}'");
        tolerate(self.call(&doing, PAUSE_TIMEOUT, self.docker.unpause_container(name)).await)
    }

    /// Removes the container, killing it if it runs. A missing one is fine.
    ///
    /// # Errors
    /// [`DockerError::Foreign`] if it is not ours, [`DockerError::StillRunning`], or what the engine says.
    pub async fn remove(&self, name: &str) -> Result<(), DockerError> {
        let found = self.try_inspect(name).await?;
        if found.missing() {
            return Ok(());
        }
        self.check_ours(&found, name)?;
        if found.liveness != Liveness::Stopped {
            self.kill(name).await?;
        }
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let doing = format!("removing container '{name}'");
        match self.call(&doing, REMOVE_TIMEOUT, self.docker.remove_container(name, Some(options))).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            other => other,
        }
    }

    async fn resolve_network(&self, container: &str) -> Result<ResolvedNetwork, DockerError> {
        match &self.network {
            NetworkMode::Host => Ok(ResolvedNetwork::Host),
            NetworkMode::Container(namespace) => match self.container_id(namespace).await? {
                Some(id) => Ok(ResolvedNetwork::Container(id)),
                None => Err(DockerError::NamespaceGone {
                    container: container.to_owned(),
                    namespace: namespace.clone(),
                    detail: "it does not exist".to_owned(),
                }),
            },
        }
    }

    fn check_ours(&self, found: &Inspection, name: &str) -> Result<(), DockerError> {
        let has = |label: &str, value: &String| found.labels.get(label) == Some(value);
        if has(LABEL_CLUSTER, &self.owner.cluster) && has(LABEL_HOST, &self.owner.node) {
            Ok(())
        } else {
            Err(self.foreign("container", name))
        }
    }
}

/// 404 (missing) and 409 or the texts of older engines (not running, already or not paused) are what was wanted.
fn tolerate(result: Result<(), DockerError>) -> Result<(), DockerError> {
    match result {
        Err(DockerError::Engine { status, message, .. })
            if matches!(status, 404 | 409)
                || ["already paused", "is not paused", "is not running"]
                    .iter()
                    .any(|t| message.contains(t)) =>
        {
            Ok(())
        }
        other => other,
    }
}
