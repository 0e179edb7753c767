//! What a specification says, typed. Plain data; [`Spec::parse`] is the only way to a checked one.

use super::fence::FenceDevice;
use super::link::HeartbeatLink;
use super::volume::ResyncLimits;
use super::{Cidr, Timers};
use crate::core::checks::OnFailure;
use crate::core::verify::Schedule;
use baton_replicator::core::split_brain::AfterSplitBrain;
use baton_replicator::types::{FrontEndKind, GroupName, NodeName, Protocol, Transport, VolumeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A checked cluster specification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spec {
    /// The cluster's name: prefix of its keys in etcd and of its containers.
    pub cluster: String,
    /// The heartbeat's timers.
    pub heartbeat: Timers,
    /// The nodes; at least two.
    pub nodes: BTreeMap<NodeName, Node>,
    /// The groups.
    pub groups: BTreeMap<GroupName, Group>,
    /// What is asked of etcd.
    pub etcd: EtcdSettings,
    /// Whom to tell, by name.
    pub notify: BTreeMap<String, NotifyTarget>,
    /// The document this was read from, variables replaced. This is what etcd keeps.
    #[serde(skip)]
    pub text: String,
}

/// What is asked of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EtcdSettings {
    /// Accept an etcd of two members, where the loss of either stops every change of leadership.
    pub two_members: bool,
    /// Ask etcd to keep its leader off the hosts that lead groups.
    pub leader_away: bool,
}

impl Default for EtcdSettings {
    fn default() -> Self {
        Self { two_members: false, leader_away: true }
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its address on the clients' network; heartbeats go there.
    pub address: IpAddr,
    /// Its addresses for replication, one per link, in order of preference (default: `address`). Never empty.
    pub replication: Vec<IpAddr>,
    /// Its heartbeat links, in the same order at every node (default: unicast on `address`, and on those of `replication`
    /// that are others).
    /// Never empty.
    pub heartbeat: Vec<HeartbeatLink>,
    /// What can switch it off from outside: levels, tried in order; of a level, every device must succeed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fence: Vec<Vec<FenceDevice>>,
}

/// When a former leader is switched off by its external fence agents before its group is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FencePolicy {
    /// Before a slow takeover, if it may still serve; one that cannot be fenced holds nothing up for longer than the attempt.
    #[default]
    Auto,
    /// Before every takeover of a leader that has not given the group up; without success nobody takes over.
    Required,
}

/// What to do after the whole site lost power and a member of the in-sync set stays unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterPowerLoss {
    /// Wait for it, or for a person.
    #[default]
    Wait,
    /// Start without it after `initdead`.
    Start,
}

/// What standbys do with containers that need no volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StandbyMode {
    /// They are created, and started by a takeover.
    #[default]
    Cold,
    /// They run, so that a takeover only moves the addresses.
    Hot,
}

/// `auto_failback: true`: a node that comes back must have been ready for this long.
pub const FAILBACK_AFTER: Duration = Duration::from_secs(10);
/// Largest `stickiness`: more than any node can be ahead.
pub const STICKINESS_MAX: u32 = 1000;

/// The unit of failover.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Nodes in order of preference; may be empty.
    pub prefer: Vec<NodeName>,
    /// Hand over to a more preferred node that has been ready for so long; none = never.
    pub auto_failback: Option<Duration>,
    /// By how much more than this another node must be better before the group follows.
    pub stickiness: u32,
    /// The group that this one goes with: led on the same node, started after it.
    pub with: Option<GroupName>,
    /// Groups that this one is rather not led beside.
    pub apart_from: Vec<GroupName>,
    /// Addresses that follow the group.
    pub addresses: Vec<Cidr>,
    /// Replicated volumes.
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// Containers, by name. Start order is a matter of `depends_on`.
    pub services: BTreeMap<String, Service>,
    /// Health checks of the group as a whole.
    pub checks: Vec<Check>,
    /// Restarts in place within `failure_timeout` before the group moves.
    pub migration_threshold: u32,
    /// See `migration_threshold`.
    pub failure_timeout: Duration,
    /// Bound of a start of the group.
    pub start_timeout: Duration,
    /// Bound of a start after a takeover; none = `start_timeout`.
    pub takeover_timeout: Option<Duration>,
    /// Bound of a stop of the group; after it, the group is fenced rather than waited for.
    pub stop_timeout: Duration,
    /// A Docker engine that has not answered for this long makes the group leave.
    pub engine_timeout: Duration,
    /// What standbys do with containers that need no volume.
    pub standby: StandbyMode,
    /// After a power cut of the whole site.
    pub after_power_loss: AfterPowerLoss,
    /// Fencing of a former leader from outside.
    pub fence: FencePolicy,
    /// Names of `notify` targets.
    pub notify: Vec<String>,
}

/// Where a volume's blocks are kept, if not in a file under the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct VolumeBacking {
    /// The block device on every node that is not in `by_node`.
    pub all: Option<PathBuf>,
    /// Block devices of single nodes.
    pub by_node: BTreeMap<NodeName, PathBuf>,
}

impl VolumeBacking {
    /// The block device on `node`; none = a sparse file in the state directory.
    #[must_use]
    pub fn on(&self, node: &NodeName) -> Option<&Path> {
        self.by_node.get(node).or(self.all.as_ref()).map(PathBuf::as_path)
    }
}

/// A replicated block device with a filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Size in bytes, a multiple of 4096.
    pub size_bytes: u64,
    /// `ext4` or `xfs`; of no meaning with the front end `nbd`.
    pub filesystem: String,
    /// Replication protocol.
    pub protocol: Protocol,
    /// The protocol by which a node is reached, where it is another one.
    pub protocols: BTreeMap<NodeName, Protocol>,
    /// How its blocks travel; the cluster's unless it says otherwise.
    pub transport: Transport,
    /// How the leader's host gets at it.
    pub front_end: FrontEndKind,
    /// Block devices instead of files.
    pub backing: VolumeBacking,
    /// Options for mount, comma separated; may be empty.
    pub mount_options: String,
    /// I/O that waits longer than this for a connected peer counts the peer as lost.
    pub peer_timeout: Duration,
    /// A request to the backing store or the metadata that takes longer has failed.
    pub disk_timeout: Duration,
    /// What bounds resync and verify.
    pub resync: ResyncLimits,
    /// When it verifies by itself; none: only when asked to.
    pub verify: Option<Schedule>,
    /// What resolves a split brain by itself.
    pub after_split_brain: AfterSplitBrain,
}

/// When a dependency counts as fulfilled, in Compose's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its container runs.
    #[default]
    ServiceStarted,
    /// Its health check says healthy.
    ServiceHealthy,
    /// It ended with status 0.
    ServiceCompletedSuccessfully,
}

/// Where a mount of a service comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A volume of the group, as a whole.
    Volume {
        /// The volume.
        volume: VolumeName,
    },
    /// A path of the host.
    Host(PathBuf),
}

/// One entry of a service's `volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where it comes from.
    pub source: MountSource,
    /// Where it is in the container, absolute.
    pub target: PathBuf,
    /// `ro`.
    pub read_only: bool,
}

/// How a container is asked whether it is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// `["NONE"]` or `disable: true`: no check, not even the image's.
    Disabled,
    /// Program and arguments.
    Command(Vec<String>),
    /// For the container's shell.
    Shell(String),
}

/// A container's health check, in Compose's words and with its defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healthcheck {
    /// The test; none = the image's own.
    pub test: Option<HealthTest>,
    /// Pause between tests.
    pub interval: Duration,
    /// Bound of one test.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// Failures in this time after the start do not count.
    pub start_period: Duration,
}

/// Resource limit of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// Soft limit; -1 = unlimited.
    pub soft: i64,
    /// Hard limit; -1 = unlimited.
    pub hard: i64,
}

/// A container, in Compose's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Image.
    pub image: String,
    /// Arguments; none = the image's.
    pub command: Option<Vec<String>>,
    /// Program; none = the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Mounts.
    pub volumes: Vec<Mount>,
    /// Other services of the group that must have reached a condition before this one starts.
    pub depends_on: BTreeMap<String, Condition>,
    /// Health check; none = the image's.
    pub healthcheck: Option<Healthcheck>,
    /// User.
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<PathBuf>,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// Devices, `host[:container[:rwm]]`.
    pub devices: Vec<String>,
    /// Resource limits.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Paths that are a tmpfs, with options: `/run` or `/run:size=64m`.
    pub tmpfs: Vec<String>,
    /// Size of /dev/shm in bytes.
    pub shm_size: Option<u64>,
    /// Host name.
    pub hostname: Option<String>,
    /// Time between the stop signal and SIGKILL.
    pub stop_grace_period: Duration,
    /// Signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Run an init process as PID 1.
    pub init: Option<bool>,
    /// Root filesystem read-only.
    pub read_only: bool,
    /// Security options.
    pub security_opt: Vec<String>,
}

impl Service {
    /// It needs nothing that only the leader has, so it may run on standbys, too.
    #[must_use]
    pub fn runs_on_standbys(&self) -> bool {
        !self.volumes.iter().any(|m| matches!(m.source, MountSource::Volume { .. }))
    }
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckProbe {
    /// GET; good if the status is in the list, or 200 to 399 if it is empty.
    Http {
        /// The URL; `{address}` stands for the group's first address.
        url: String,
        /// Statuses that are good.
        status: Vec<u16>,
    },
    /// Connect.
    Tcp {
        /// `host:port`; `{address}` stands for the group's first address.
        address: String,
    },
    /// A command in a service's container; good if it ends with status 0.
    Exec {
        /// The service.
        service: String,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A fresh connection to a server that speaks the MySQL protocol, and a transaction.
    Sql {
        /// `host:port`; `{address}` stands for the group's first address.
        address: String,
        /// User.
        user: String,
        /// File with the user's password, on every node.
        password_file: Option<PathBuf>,
        /// Database that is used.
        database: String,
        /// What the transaction does; none = a row in the table `baton_check`.
        statement: Option<String>,
    },
    /// The health of a service's container, as the engine's own check of it says.
    Docker {
        /// The service.
        service: String,
    },
    /// Write a file on a replicated volume and make it durable, in a service's container.
    Write {
        /// The service.
        service: String,
        /// The file, as the container sees it.
        path: PathBuf,
        /// Less free space than this on its filesystem counts as full, bytes.
        min_free: u64,
    },
    /// ICMP echo: a reason to prefer another node, never one to stop.
    Ping {
        /// Who has to answer.
        address: IpAddr,
        /// For how long the other node must have been better.
        hold: Duration,
    },
}

/// A health check of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name; none = one made of what it does.
    pub name: Option<String>,
    /// What to do.
    pub probe: CheckProbe,
    /// Pause between two.
    pub interval: Duration,
    /// Bound of one.
    pub timeout: Duration,
    /// Its place in the interval is drawn from its name, at most this far into it.
    pub jitter: Duration,
    /// Successes in a row after which it passes.
    pub rise: u32,
    /// Failures in a row that count as a failure of the group (`fall`).
    pub retries: u32,
    /// Failures in this time after one that was acted upon do not count.
    pub start_period: Duration,
    /// What is done when it fails.
    pub on_failure: OnFailure,
    /// The service that is restarted when it fails; none = all of the group's services.
    pub service: Option<String>,
}

/// How bad a thing is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As planned.
    Info,
    /// Someone should look.
    #[default]
    Warning,
    /// The service is affected.
    Critical,
}

/// Whom to tell, how, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotifyTarget {
    /// The way there.
    pub channel: Channel,
    /// What is less severe is not told.
    pub severity: Severity,
    /// Only these groups, and nothing that concerns the cluster as a whole; empty = no such limit.
    pub groups: Vec<GroupName>,
    /// A state that lasts is told again after each such time; none = once.
    pub alert_every: Option<Duration>,
    /// Tell the end of what was told.
    pub recovery: bool,
    /// A state is told when it has lasted this long, and its end when it has been over this long.
    pub hold: Duration,
    /// More than this are put together.
    pub max_per_hour: u32,
}

/// The way to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Electronic mail.
    Mail(Mail),
    /// POST of the message as JSON.
    Webhook(Webhook),
    /// A command in the agent's container.
    Exec(Exec),
}

/// Encryption of the connection to the mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// None.
    None,
    /// STARTTLS if the server offers it.
    Opportunistic,
    /// STARTTLS, or no mail.
    Required,
    /// TLS from the first byte (`smtps://`).
    Wrapped,
}

/// Electronic mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mail {
    /// Recipients.
    pub to: Vec<String>,
    /// Name or address of the mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Encryption.
    pub tls: MailTls,
    /// Sender; none = `baton@<node>`.
    pub from: Option<String>,
    /// User to authenticate as.
    pub user: Option<String>,
    /// File with the user's password, on every node.
    pub password_file: Option<PathBuf>,
    /// CA certificates (PEM) to check the server against instead of the public ones, on every node.
    pub ca_file: Option<PathBuf>,
}

/// POST of the message as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// The URL.
    pub url: String,
    /// File with a bearer token, on every node.
    pub token_file: Option<PathBuf>,
    /// File with the key of the signature (HMAC-SHA256), on every node.
    pub secret_file: Option<PathBuf>,
    /// CA certificates (PEM) to check the server against instead of the public ones, on every node.
    pub ca_file: Option<PathBuf>,
    /// Bound of one attempt.
    pub timeout: Duration,
}

/// A command in the agent's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// After this it is killed.
    pub timeout: Duration,
}
