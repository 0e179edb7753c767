//! Carries out the runtime's steps and looks at the group's containers: one bounded call after another on the
//! adapters, no decision. Every step ends with an outcome.

use super::config::Config;
use super::translate;
use crate::causes::chain;
use crate::core::runtime::{Container, ContainerState, Health, Step};
use crate::docker::{self, DockerError, Engine, Ensured, Liveness, ServiceSpec, VolumeSpec};
use crate::net::{AddressKeeper, Wanted};
use crate::replica::ReplicaClient;
use crate::spec::{Cidr, Spec};
use crate::status::ServiceStatus;
use baton_replicator::types::{GroupName, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Fetching an image on a standby may take long; nothing waits for it.
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// What is fixed about a group's containers, addresses and volumes on this node.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The group.
    pub group: GroupName,
    /// Its containers by service.
    pub services: BTreeMap<String, ServiceSpec>,
    /// Grace of a stop, by service.
    pub grace: BTreeMap<String, Duration>,
    /// Its Docker volumes.
    pub docker_volumes: Vec<VolumeSpec>,
    /// Filesystem of each replicated volume.
    pub filesystems: BTreeMap<VolumeName, String>,
    /// Its addresses.
    pub addresses: Vec<Wanted>,
    /// Hash of each service's definition, as on the label of a container made from it.
    pub definitions: BTreeMap<String, String>,
    /// Services whose definition changed while this agent runs: tells for containers made before there was a label.
    pub changed: BTreeSet<String>,
    /// Services that are gone from the specification and may still have a container.
    pub leaving: BTreeMap<String, ServiceSpec>,
}

impl Plan {
    /// Reads it from the specification; none if the group is not in it.
    #[must_use]
    pub fn of(spec: &Spec, config: &Config, engine: &Engine, group: &GroupName) -> Option<Self> {
        let g = spec.groups.get(group)?;
        let owner = engine.owner();
        let service =
            |(name, s): (&String, _)| (name.clone(), translate::service(config, owner, group, name, s));
        let services: BTreeMap<String, ServiceSpec> = g.services.iter().map(service).collect();
        Some(Self {
            group: group.clone(),
            definitions: services.iter().map(|(n, s)| (n.clone(), s.definition())).collect(),
            changed: BTreeSet::new(),
            leaving: BTreeMap::new(),
            services,
            grace: g.services.iter().map(|(n, s)| (n.clone(), s.stop_grace_period)).collect(),
            docker_volumes: g
                .volumes
                .keys()
                .filter_map(|v| translate::docker_volume(spec, config, owner, group, v))
                .collect(),
            filesystems: g.volumes.iter().map(|(n, v)| (n.clone(), v.filesystem.clone())).collect(),
            addresses: g.addresses.iter().map(wanted).collect(),
        })
    }

    /// The plan of a changed specification, with what `before` had and it has not any more.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        let all = before.leaving.iter().chain(&before.services);
        let gone = all.filter(|(name, _)| !self.services.contains_key(*name));
        self.leaving = gone.map(|(name, service)| (name.clone(), service.clone())).collect();
        let differs = |name: &&String| before.definitions.get(*name) != self.definitions.get(*name);
        self.changed = before.definitions.keys().filter(differs).chain(&before.changed).cloned().collect();
        for name in self.leaving.keys() {
            self.grace.insert(name.clone(), grace(before, name));
        }
        self
    }

    /// All containers of the group on this node, by container name.
    pub fn containers(&self) -> impl Iterator<Item = (String, ServiceSpec)> + '_ {
        self.services.values().chain(self.leaving.values()).map(|s| (s.container.clone(), s.clone()))
    }
}

fn wanted(cidr: &Cidr) -> Wanted {
    Wanted { address: cidr.address, prefix: cidr.prefix, preferred: cidr.is_preferred() }
}

/// The adapters a step needs.
#[derive(Clone)]
pub struct Executor {
    /// The Docker engine.
    pub engine: Engine,
    /// The replicator.
    pub replica: ReplicaClient,
    /// The addresses.
    pub keeper: Arc<AddressKeeper>,
}

impl Executor {
    /// Carries out one step.
    ///
    /// # Errors
    /// What went wrong, as a sentence.
    pub async fn step(&self, plan: &Plan, step: &Step) -> Result<(), String> {
        match step {
            Step::Format(volume) => {
                let filesystem =
                    plan.filesystems.get(volume).ok_or("the volume is not in the specification")?;
                self.replica.format(volume, filesystem).await.map_err(|e| chain(&e))
            }
            Step::AddAddresses => {
                let hold = self.keeper.hold(plan.group.clone(), plan.addresses.clone());
                hold.await.map_err(|e| chain(&e))
            }
            Step::RemoveAddresses => self.keeper.release(plan.group.clone()).await.map_err(|e| chain(&e)),
            Step::Prepare => self.prepare(plan).await,
            Step::Start(name) => self.start(plan, name).await,
            Step::Restart(name) => {
                // What replaces it must be there before it is stopped.
                self.fetch(plan, service(plan, name)?).await?;
                let container = &service(plan, name)?.container;
                self.engine.stop(container, grace(plan, name)).await.map_err(|e| chain(&e))?;
                self.start(plan, name).await
            }
            Step::Stop(name) => {
                let container = &service(plan, name)?.container;
                self.engine.stop(container, grace(plan, name)).await.map_err(|e| chain(&e))
            }
            Step::Kill(name) => {
                self.engine.kill(&service(plan, name)?.container).await.map_err(|e| chain(&e))
            }
            Step::Pause(name) => {
                self.engine.pause(&service(plan, name)?.container).await.map_err(|e| chain(&e))
            }
            Step::Unpause(name) => {
                self.engine.unpause(&service(plan, name)?.container).await.map_err(|e| chain(&e))
            }
            Step::Discard(name) => {
                self.engine.remove(&service(plan, name)?.container).await.map_err(|e| chain(&e))
            }
        }
    }

    async fn prepare(&self, plan: &Plan) -> Result<(), String> {
        for service in plan.services.values() {
            self.fetch(plan, service).await?;
        }
        self.ensure_volumes(plan).await?;
        for service in plan.services.values() {
            self.engine.ensure_created(service).await.map_err(|e| chain(&e))?;
        }
        Ok(())
    }

    async fn fetch(&self, plan: &Plan, service: &ServiceSpec) -> Result<(), String> {
        if !self.engine.image_present(&service.image).await.map_err(|e| chain(&e))? {
            tracing::info!(group = %plan.group, image = %service.image, "pulling the image");
            self.engine.pull(&service.image, PULL_LIMIT).await.map_err(|e| chain(&e))?;
        }
        Ok(())
    }

    async fn ensure_volumes(&self, plan: &Plan) -> Result<(), String> {
        for volume in &plan.docker_volumes {
            match self.engine.ensure_volume(volume).await {
                // Other mount options, while it is mounted: used when the group starts the next time.
                Err(error @ DockerError::VolumeInUse { .. }) => {
                    tracing::info!(group = %plan.group, error = %chain(&error), "keeps its mount for now");
                }
                other => other.map_err(|e| chain(&e))?,
            }
        }
        Ok(())
    }

    async fn start(&self, plan: &Plan, name: &str) -> Result<(), String> {
        let service = service(plan, name)?;
        self.ensure_volumes(plan).await?;
        match self.engine.ensure_created(service).await.map_err(|e| chain(&e))? {
            Ensured::Unchanged | Ensured::Created | Ensured::Recreated => {}
            Ensured::OutdatedRunning => {
                self.engine.stop(&service.container, grace(plan, name)).await.map_err(|e| chain(&e))?;
                self.engine.ensure_created(service).await.map_err(|e| chain(&e))?;
            }
        }
        match self.engine.start(&service.container).await {
            // The host's namespace container was made anew: so must be whatever lives in it.
            Err(DockerError::NamespaceGone { .. }) => {
                self.engine.remove(&service.container).await.map_err(|e| chain(&e))?;
                self.engine.ensure_created(service).await.map_err(|e| chain(&e))?;
                self.engine.start(&service.container).await.map_err(|e| chain(&e))
            }
            other => other.map_err(|e| chain(&e)),
        }
    }

    /// All containers of a group as the engine sees them, for the runtime and for people. None if the engine does
    /// not answer for one of them.
    pub async fn observe(&self, plan: &Plan) -> Option<(BTreeMap<String, Container>, Vec<ServiceStatus>)> {
        let mut containers = BTreeMap::new();
        let mut services = Vec::new();
        for (name, spec) in plan.services.iter().chain(&plan.leaving) {
            let found = self.engine.inspect(&spec.container).await;
            let state = match (found.liveness, found.paused) {
                (Liveness::Unknown, _) => return None,
                (Liveness::Running, true) => ContainerState::Paused,
                (Liveness::Running, false) => ContainerState::Running,
                (Liveness::Stopped, _) if found.missing() => ContainerState::Missing,
                (Liveness::Stopped, _) if found.state == "created" => ContainerState::Created,
                (Liveness::Stopped, _) => ContainerState::Exited(found.exit_code.unwrap_or(-1)),
            };
            let health = match found.health {
                None => Health::None,
                Some(docker::Health::Starting) => Health::Starting,
                Some(docker::Health::Healthy) => Health::Healthy,
                Some(docker::Health::Unhealthy) => Health::Unhealthy,
            };
            let wanted = plan.definitions.get(name);
            let outdated = match (&found.definition, wanted) {
                (Some(found), Some(wanted)) => found != wanted,
                (None, Some(_)) => !found.missing() && plan.changed.contains(name),
                (_, None) => false,
            };
            containers.insert(name.clone(), Container { state, health, outdated });
            services.push(ServiceStatus {
                name: name.clone(),
                container: spec.container.clone(),
                state: found.state,
                health: found.health.map(|h| h.as_str().to_owned()),
                restarts: 0,
                error: found
                    .error
                    .or(found.health_output.filter(|_| found.health != Some(docker::Health::Healthy))),
            });
        }
        Some((containers, services))
    }

    /// Removes containers of this node that the specification does not know.
    pub async fn remove_strays(&self, known: &BTreeMap<String, ServiceSpec>) {
        let owned = match self.engine.list_owned().await {
            Ok(owned) => owned,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot look for stray containers");
                return;
            }
        };
        for stray in owned.into_iter().filter(|o| !known.contains_key(&o.name)) {
            tracing::warn!(container = %stray.name, "removing a container that is not in the specification");
            if let Err(error) = self.engine.remove(&stray.name).await {
                tracing::warn!(error = %chain(&error), "cannot remove it");
            }
        }
    }
}

fn service<'a>(plan: &'a Plan, name: &str) -> Result<&'a ServiceSpec, String> {
    plan.services
        .get(name)
        .or_else(|| plan.leaving.get(name))
        .ok_or_else(|| format!("service {name} is not in the specification"))
}

fn grace(plan: &Plan, name: &str) -> Duration {
    plan.grace.get(name).copied().unwrap_or(Duration::from_secs(10))
}
