//! Docker volumes: the `local` driver mounts `device` with filesystem `type` when the first container that
//! uses the volume starts, and unmounts it when the last one stops.
//!
//! A volume's options cannot be changed, only its existence: one with other options is removed and made anew
//! if no container runs with it. Removing it touches no data: it is a name for a device.

use super::spec::{LABEL_CLUSTER, LABEL_HOST, Owner};
use super::{DockerError, Engine, QUERY_TIMEOUT};
use bollard::models::{ContainerSummaryStateEnum, VolumeCreateRequest};
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveVolumeOptionsBuilder};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Creating or removing a volume is a directory and a small file on the engine's disk.
const VOLUME_TIMEOUT: Duration = Duration::from_secs(5);

/// A wanted Docker volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Docker's name, [`Owner::volume_name`](super::Owner::volume_name).
    pub name: String,
    /// Filesystem (`ext4`).
    pub filesystem: String,
    /// The block device as the engine sees it.
    pub device: String,
    /// Mount options (`noatime`), may be empty.
    pub options: String,
}

impl VolumeSpec {
    fn driver_opts(&self) -> BTreeMap<String, String> {
        let mut opts = BTreeMap::from([
            ("type".to_owned(), self.filesystem.clone()),
            ("device".to_owned(), self.device.clone()),
        ]);
        if !self.options.is_empty() {
            opts.insert("o".to_owned(), self.options.clone());
        }
        opts
    }
}

impl Engine {
    /// Makes sure that the volume exists with these options. One with other options is made anew unless a
    /// container runs with it; our stopped containers that refer to it are removed with it.
    ///
    /// # Errors
    /// [`DockerError::VolumeInUse`], [`DockerError::Foreign`], or what the engine says.
    pub async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), DockerError> {
        let name = &spec.name;
        let doing = format!("inspecting Docker volume '{name}'");
        let found = self.call(&doing, QUERY_TIMEOUT, self.docker.inspect_volume(name)).await;
        let wanted = spec.driver_opts();
        match found {
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(error),
            Ok(volume) => {
                if volume.labels.get(LABEL_CLUSTER) != Some(&self.owner.cluster)
                    || volume.labels.get(LABEL_HOST) != Some(&self.owner.node)
                {
                    return Err(self.foreign("Docker volume", name));
                }
                let has: BTreeMap<String, String> = volume.options.into_iter().collect();
                match difference(&has, &wanted) {
                    None => return Ok(()),
                    Some(difference) => self.release_volume(name, difference).await?,
                }
            }
        }
        let Owner { cluster, node } = &self.owner;
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            driver: Some("local".to_owned()),
            driver_opts: Some(wanted.into_iter().collect()),
            labels: Some(HashMap::from([
                (LABEL_CLUSTER.to_owned(), cluster.clone()),
                (LABEL_HOST.to_owned(), node.clone()),
            ])),
            ..Default::default()
        };
        let doing = format!("creating Docker volume '{name}' on {}", spec.device);
        self.call(&doing, VOLUME_TIMEOUT, self.docker.create_volume(request)).await.map(drop)
    }

    /// Removes the volume if it is there. Its device is not touched.
    ///
    /// # Errors
    /// [`DockerError::Engine`] with 409 if a container refers to it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let doing = format!("removing Docker volume '{name}'");
        let options = RemoveVolumeOptionsBuilder::new().force(false).build();
        match self.call(&doing, VOLUME_TIMEOUT, self.docker.remove_volume(name, Some(options))).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            other => other,
        }
    }

    pub(super) async fn volume_exists(&self, name: &str) -> Result<bool, DockerError> {
        let doing = format!("inspecting Docker volume '{name}'");
        match self.call(&doing, QUERY_TIMEOUT, self.docker.inspect_volume(name)).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release_volume(&self, name: &str, difference: String) -> Result<(), DockerError> {
        let filters = HashMap::from([("volume", vec![name])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let doing = format!("listing the users of Docker volume '{name}'");
        let users = self.call(&doing, QUERY_TIMEOUT, self.docker.list_containers(Some(options))).await?;
        let idle = |state: Option<ContainerSummaryStateEnum>| {
            matches!(
                state,
                Some(
                    ContainerSummaryStateEnum::CREATED
                        | ContainerSummaryStateEnum::EXITED
                        | ContainerSummaryStateEnum::DEAD
                )
            )
        };
        let ours = |labels: &Option<HashMap<String, String>>| {
            labels.as_ref().is_some_and(|l| {
                l.get(LABEL_CLUSTER) == Some(&self.owner.cluster)
                    && l.get(LABEL_HOST) == Some(&self.owner.node)
            })
        };
        let name_of = |names: &Option<Vec<String>>| {
            names.iter().flatten().next().map_or("?", |n| n.trim_start_matches('/')).to_owned()
        };
        let busy: Vec<String> =
            users.iter().filter(|c| !(idle(c.state) && ours(&c.labels))).map(|c| name_of(&c.names)).collect();
        if !busy.is_empty() {
            let users = busy.join(", ");
            return Err(DockerError::VolumeInUse { volume: name.to_owned(), difference, users });
        }
        for container in &users {
            self.remove(&name_of(&container.names)).await?;
        }
        tracing::info!(volume = name, %difference, "the Docker volume is made anew");
        self.remove_volume(name).await
    }
}

/// The first difference in words, none if there is none.
fn difference(has: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Option<String> {
    let keys: std::collections::BTreeSet<_> = has.keys().chain(wanted.keys()).collect();
    let show = |value: Option<&String>| value.map_or("nothing".to_owned(), |v| format!("'{v}'"));
    keys.into_iter()
        .find(|key| has.get(*key) != wanted.get(*key))
        .map(|key| format!("{key} is {} instead of {}", show(has.get(key)), show(wanted.get(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named() {
        let spec = VolumeSpec {
            name: "demo_alpha_webstore".into(),
            filesystem: "ext4".into(),
            device: "/dev/baton/webstore".into(),
            options: String::new(),
        };
        let wanted = spec.driver_opts();
        assert_eq!(difference(&wanted, &wanted), None);
        let with_options = VolumeSpec { options: "noatime".into(), ..spec.clone() }.driver_opts();
        assert_eq!(difference(&wanted, &with_options).unwrap(), "o is nothing instead of 'noatime'");
        let moved = VolumeSpec { device: "/dev/x".into(), ..spec }.driver_opts();
        assert_eq!(
            difference(&moved, &wanted).unwrap(),
            "device is '/dev/x' instead of '/dev/baton/webstore'"
        );
    }
}
