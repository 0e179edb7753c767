//! What a service container should be, as plain data that the driver builds from the cluster specification.
//!
//! All maps are ordered, so that the serialised form, and with it the configuration hash, is the same on every
//! run. No I/O here.

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;

/// Label that carries the cluster's name.
pub const LABEL_CLUSTER: &str = "baton.cluster";
/// Label that carries the node's name.
pub const LABEL_HOST: &str = "baton.host";
/// Label that carries the group's name.
pub const LABEL_GROUP: &str = "baton.group";
/// Label that carries the service's name.
pub const LABEL_SERVICE: &str = "baton.service";
/// Label that carries the configuration hash.
pub const LABEL_CONFIG: &str = "baton.config";
/// Label that carries the hash of the service's definition alone: see [`ServiceSpec::definition`].
pub const LABEL_DEFINITION: &str = "baton.definition";

/// Whose containers and volumes: everything created carries this as labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
}

impl Owner {
    /// `<cluster>-<node>-<group>-<service>`.
    #[must_use]
    pub fn container_name(&self, group: &str, service: &str) -> String {
        format!("{}-{}-{group}-{service}", self.cluster, self.node)
    }

    /// `<cluster>_<node>_<volume>`.
    #[must_use]
    pub fn volume_name(&self, volume: &str) -> String {
        format!("{}_{}_{volume}", self.cluster, self.node)
    }
}

/// Network of the service containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum NetworkMode {
    /// The host's.
    Host,
    /// That of the named container, which holds a network namespace.
    Container(String),
}

/// A network mode that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a service network: use 'host' or 'container:NAME'")]
pub struct BadNetworkMode(String);

impl std::str::FromStr for NetworkMode {
    type Err = BadNetworkMode;
    fn from_str(s: &str) -> Result<Self, BadNetworkMode> {
        match (s, s.strip_prefix("container:")) {
            ("host", _) => Ok(Self::Host),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
            _ => Err(BadNetworkMode(s.to_owned())),
        }
    }
}

/// A mount of a service container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum MountSpec {
    /// A Docker volume (see `Engine::ensure_volume`). Image content is never copied into it.
    Volume {
        /// Docker's name of the volume.
        name: String,
        /// Path in the container.
        target: String,
        /// Mounted read-only.
        read_only: bool,
    },
    /// A directory or file of the host.
    Bind {
        /// Path on the host; must exist.
        source: String,
        /// Path in the container.
        target: String,
        /// Mounted read-only.
        read_only: bool,
    },
}

/// Docker health check. Intervals below 1 ms are refused by the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthcheckSpec {
    /// `["CMD", …]`, `["CMD-SHELL", "…"]`, or `["NONE"]` to disable the image's.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// Of one check.
    pub timeout: Option<Duration>,
    /// Failures in a row that count as unhealthy.
    pub retries: Option<u32>,
    /// Failures within it do not count.
    pub start_period: Option<Duration>,
}

/// A resource limit of the container's processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// `nofile`, `memlock`, …
    pub name: String,
    /// Soft limit, -1 = unlimited.
    pub soft: i64,
    /// Hard limit, -1 = unlimited.
    pub hard: i64,
}

/// One service container. Never privileged; restart policy always `no`: the agent restarts, and only where
/// the group leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServiceSpec {
    /// Container name, [`Owner::container_name`].
    pub container: String,
    /// Group, for the label.
    pub group: String,
    /// Service, for the label.
    pub service: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Replaces the image's entry point; an empty list resets it.
    pub entrypoint: Option<Vec<String>>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Mounts, in order.
    pub mounts: Vec<MountSpec>,
    /// tmpfs mounts: path -> options (`size=64m,mode=1777`), possibly empty.
    pub tmpfs: BTreeMap<String, String>,
    /// Health check, none = the image's.
    pub healthcheck: Option<HealthcheckSpec>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Host name; dropped with [`NetworkMode::Container`], whose name it shares.
    pub hostname: Option<String>,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// Security options (`no-new-privileges:true`, …).
    pub security_opt: Vec<String>,
    /// Root filesystem read-only.
    pub read_only: bool,
    /// An init process reaps zombies and forwards signals.
    pub init: Option<bool>,
    /// Default grace of a stop.
    pub stop_grace_period: Option<Duration>,
    /// Replaces the image's stop signal.
    pub stop_signal: Option<String>,
    /// Resource limits.
    pub ulimits: Vec<Ulimit>,
    /// Kernel parameters; with the host's or another container's network only non-`net.` ones are allowed.
    pub sysctls: BTreeMap<String, String>,
    /// `/dev/shm` in bytes.
    pub shm_size: Option<i64>,
    /// Memory limit in bytes.
    pub memory: Option<i64>,
    /// CPU limit in 10⁻⁹ CPUs.
    pub nano_cpus: Option<i64>,
    /// Limit of processes and threads.
    pub pids_limit: Option<i64>,
    /// Devices `host[:container[:permissions]]`.
    pub devices: Vec<String>,
    /// `name:address` lines for /etc/hosts; dropped with [`NetworkMode::Container`], whose file it shares.
    pub extra_hosts: Vec<String>,
    /// Labels of the user; the `baton.` ones are added.
    pub labels: BTreeMap<String, String>,
}

impl ServiceSpec {
    /// Hash of what the specification says about the service, without image id and network: it changes only when a
    /// person changes the specification. Fields that are absent or empty do not count, so that a version of Baton
    /// that knows more fields finds the same hash and restarts nothing.
    #[must_use]
    pub fn definition(&self) -> String {
        // Ordered maps and plain structs: serialisation cannot fail and is the same on every run.
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            // The agent stops it within the grace in force.
            map.remove("stop_grace_period");
        }
        drop_empty(&mut value);
        // The order of keys is a matter of how the library was built.
        value.sort_all_objects();
        let text = value.to_string();
        Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn drop_empty(value: &mut serde_json::Value) {
    use serde_json::Value;
    let empty = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    if let Value::Object(map) = value {
        map.retain(|_, v| !empty(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upgrade of the agent must not restart anybody's services: this hash stays.
    #[test]
    fn the_definition_of_a_service_is_the_same_in_every_version() {
        let mut spec = ServiceSpec {
            container: "demo-alpha-web-mysql".into(),
            group: "web".into(),
            service: "mysql".into(),
            image: "mariadb:10.11".into(),
            env: BTreeMap::from([("A".into(), "1".into())]),
            ..ServiceSpec::default()
        };
        let hash = spec.definition();
        assert_eq!(hash, "884d84a027b96c48");
        spec.env.insert("A".into(), "2".into());
        assert_ne!(spec.definition(), hash);
    }

    #[test]
    fn names_follow_the_convention() {
        let owner = Owner { cluster: "demo".into(), node: "alpha".into() };
        assert_eq!(owner.container_name("web", "mysql"), "demo-alpha-web-mysql");
        assert_eq!(owner.volume_name("webstore"), "demo_alpha_webstore");
    }

    #[test]
    fn network_modes_are_read_and_others_refused() {
        assert_eq!("host".parse(), Ok(NetworkMode::Host));
        assert_eq!("container:alpha-ns".parse(), Ok(NetworkMode::Container("alpha-ns".into())));
        for bad in ["", "bridge", "container:", "Host"] {
            assert!(bad.parse::<NetworkMode>().is_err(), "{bad}");
        }
    }
}
