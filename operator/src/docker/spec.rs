//! What a service container should be, as plain data that the driver builds from the cluster specification.
//!
//! All maps are ordered, so that the serialised form, and with it the configuration hash, is the same on every
//! run. No I/O here.

use serde::Serialize;
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

#[cfg(test)]
mod tests {
    use super::*;

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
