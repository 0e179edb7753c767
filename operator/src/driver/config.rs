//! What the agent is told on its command line: where things are. What to do comes from the cluster
//! specification. Checked before anything is opened.

use crate::docker::NetworkMode;
use baton_replicator::types::NodeName;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Baton's agent: elects a leader per service group and carries out what that means on this host.
#[derive(Debug, Clone, Parser)]
#[command(name = "baton-agent", version, about)]
pub struct Config {
    /// Name of this node, as in the cluster specification.
    #[arg(long, env = "BATON_NODE")]
    pub node: NodeName,
    /// Cluster specification, written to etcd if there is none yet.
    #[arg(long, env = "BATON_SPEC")]
    pub spec: Option<PathBuf>,
    /// Name of the cluster; needed only without --spec.
    #[arg(long, env = "BATON_CLUSTER")]
    pub cluster: Option<String>,
    /// Client URLs of all etcd members, separated by commas.
    #[arg(long, env = "BATON_ETCD", value_delimiter = ',', required = true)]
    pub etcd: Vec<String>,
    /// File with the cluster secret (mode 0600, at least 32 bytes).
    #[arg(long, env = "BATON_SECRET_FILE", default_value = "/etc/baton/secret")]
    pub secret_file: PathBuf,
    /// What must survive a reboot.
    #[arg(long, env = "BATON_STATE_DIR", default_value = "/var/lib/baton")]
    pub state_dir: PathBuf,
    /// Sockets shared with the replicator.
    #[arg(long, env = "BATON_RUN_DIR", default_value = "/run/baton")]
    pub run_dir: PathBuf,
    /// Address of the REST API and /metrics.
    #[arg(long, env = "BATON_API_LISTEN", default_value = "0.0.0.0:7480")]
    pub api: SocketAddr,
    /// Who may come in over TCP, and with what.
    #[command(flatten)]
    pub access: super::access::AccessConfig,
    /// The Docker engine.
    #[arg(long, env = "BATON_DOCKER", default_value = "unix:///var/run/docker.sock")]
    pub docker: String,
    /// File that names the host's present boot.
    #[arg(long, env = "BATON_BOOT_ID_FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// Network of the service containers: `host`, or `container:NAME`.
    #[arg(long, env = "BATON_SERVICE_NETWORK", default_value = "host")]
    pub service_network: NetworkMode,
    /// Directory of the volumes' device links as the Docker engine sees it.
    #[arg(long, env = "BATON_HOST_DEVICE_DIR", default_value = "/dev/baton")]
    pub host_device_dir: PathBuf,
    /// UDP port of the heartbeats.
    #[arg(long, env = "BATON_HEARTBEAT_PORT", default_value_t = 694)]
    pub heartbeat_port: u16,
    /// TCP port of the replicators.
    #[arg(long, env = "BATON_REPLICATION_PORT", default_value_t = 7788)]
    pub replication_port: u16,
    /// Directory of the external fence agents.
    #[arg(long, env = "BATON_FENCE_AGENTS", default_value = "/usr/sbin")]
    pub fence_agents: PathBuf,
    /// Watchdog device, as /dev/watchdog, that resets this host if the agent hangs. Off by default.
    #[arg(long, env = "BATON_WATCHDOG")]
    pub watchdog: Option<PathBuf>,
    /// The watchdog's timeout, in whole seconds.
    #[arg(long, env = "BATON_WATCHDOG_TIMEOUT", default_value = "10s", value_parser = humantime::parse_duration)]
    pub watchdog_timeout: Duration,
    /// What is logged (`info`, `baton_operator=debug`, …).
    #[arg(long, env = "BATON_LOG", default_value = "info")]
    pub log: String,
}
