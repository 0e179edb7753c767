//! What the replicator is told on its command line: where things are. What to do comes from the agent.

use crate::types::NodeName;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Baton's replicator: block devices whose acknowledged writes are on every in-sync node.
#[derive(Debug, Clone, Parser)]
#[command(name = "baton-replicator", version, about)]
pub struct Config {
    /// Name of this node, as in the cluster specification.
    #[arg(long, env = "BATON_NODE")]
    pub node: NodeName,
    /// Where peers connect.
    #[arg(long, env = "BATON_LISTEN", default_value = "0.0.0.0:7788")]
    pub listen: SocketAddr,
    /// File with the cluster secret (mode 0600, at least 32 bytes).
    #[arg(long, env = "BATON_SECRET_FILE", default_value = "/etc/baton/secret")]
    pub secret_file: PathBuf,
    /// What must survive a reboot.
    #[arg(long, env = "BATON_STATE_DIR", default_value = "/var/lib/baton")]
    pub state_dir: PathBuf,
    /// Sockets shared with the agent, and private mounts.
    #[arg(long, env = "BATON_RUN_DIR", default_value = "/run/baton")]
    pub run_dir: PathBuf,
    /// Where the devices' links are made.
    #[arg(long, env = "BATON_DEVICE_DIR", default_value = "/dev/baton")]
    pub device_dir: PathBuf,
    /// The same directory as the Docker engine sees it (default: --device-dir).
    #[arg(long, env = "BATON_HOST_DEVICE_DIR")]
    pub host_device_dir: Option<PathBuf>,
    /// File that names the host's present boot.
    #[arg(long, env = "BATON_BOOT_ID_FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// What is logged (`info`, `baton_replicator=debug`, …).
    #[arg(long, env = "BATON_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// The device directory as the Docker engine sees it.
    #[must_use]
    pub fn engine_device_dir(&self) -> &std::path::Path {
        self.host_device_dir.as_deref().unwrap_or(&self.device_dir)
    }
}
