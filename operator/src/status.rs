//! The one snapshot of what an agent knows: REST API, CLI, metrics and page all read it, so that they cannot
//! contradict each other.
//!
//! `GET /v1/status` answers a [`ClusterStatus`]. Facts about other nodes carry `age_ms`: how old they are.

use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{BootId, DiskState, Epoch, GroupName, Member, NodeName, VolumeName};
use serde::{Deserialize, Serialize};

/// Everything at once, as one agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The agent that answers.
    pub node: NodeName,
    /// Version of the agent.
    pub version: String,
    /// Wall clock at the answering agent, RFC 3339. For people; nothing is decided on it.
    pub at: String,
    /// `ok`, `degraded` (serving, but a single failure now stops the service) or `down` (a group that should
    /// run does not).
    pub health: Health,
    /// What to do next, one sentence per thing that needs a person. Empty when all is well.
    pub advice: Vec<String>,
    /// etcd as this agent sees it.
    pub etcd: EtcdStatus,
    /// All nodes of the specification, by name.
    pub nodes: Vec<NodeStatus>,
    /// All groups of the specification, by name.
    pub groups: Vec<GroupStatus>,
}

/// One word for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Every group serves and has a standby that could take over.
    Ok,
    /// Everything serves; something is missing.
    Degraded,
    /// A group that should serve does not.
    Down,
}

/// etcd as this agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// The last request succeeded.
    pub reachable: bool,
    /// Endpoints configured.
    pub endpoints: Vec<String>,
    /// The agent's lease, hexadecimal.
    pub lease: Option<String>,
    /// Time to live that etcd granted, seconds.
    pub ttl_s: Option<i64>,
    /// Highest revision seen.
    pub revision: i64,
    /// The last error, if the last request failed.
    pub error: Option<String>,
}

/// Operator's wish for a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeMode {
    /// May lead groups.
    #[default]
    Online,
    /// Replicates but leads nothing: its groups are handed over.
    Standby,
    /// Nothing is moved or restarted.
    Maintenance,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Heard within `warntime` (always true for the answering node).
    pub alive: bool,
    /// Age of the newest fact about it, milliseconds; none if never heard. 0 for the answering node.
    pub age_ms: Option<u64>,
    /// Operator's wish.
    pub mode: NodeMode,
    /// Heartbeat address.
    pub address: String,
    /// Agent version, if known.
    pub version: Option<String>,
    /// Incarnation (changes with every agent start), if known.
    pub incarnation: Option<String>,
    /// Longest silence between two heartbeats in the last minute, milliseconds.
    pub longest_gap_ms: u64,
    /// Heartbeats later than `warntime` since the agent started.
    pub late_heartbeats: u64,
    /// Datagrams refused (bad authentication, replay, other cluster) since the agent started.
    pub refused_datagrams: u64,
}

/// State of a group on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Ready or not, it does not lead.
    Standby,
    /// A transaction to take over is on its way.
    Campaigning,
    /// Leads but may not serve yet (promises, or deadtime after a takeover).
    Waiting,
    /// Volumes, addresses, services are being started.
    Starting,
    /// Serves.
    Serving,
    /// Leads but is fenced: not entitled at the moment.
    Fenced,
    /// Being stopped.
    Stopping,
    /// Stopped for a handover, the transaction is on its way.
    HandingOver,
    /// The start or stop failed; see `reason`.
    Failed,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: GroupName,
    /// The leader as etcd (or, while etcd is away, the newest heartbeat) says.
    pub leader: Option<NodeName>,
    /// Its epoch.
    pub epoch: Epoch,
    /// State on the leader as far as known here; on the answering node if there is no leader.
    pub state: GroupState,
    /// Why the state is what it is, one sentence.
    pub reason: String,
    /// In-sync set in etcd, names only, sorted.
    pub in_sync: Vec<NodeName>,
    /// The same with boot ids.
    pub members: Vec<Member>,
    /// Node an operator asked for.
    pub target: Option<NodeName>,
    /// Addresses of the group (CIDR).
    pub addresses: Vec<String>,
    /// State of each node towards the group, by name.
    pub nodes: Vec<GroupNode>,
    /// Volumes of the group, as the answering node's replicator sees them.
    pub volumes: Vec<VolumeStatus>,
    /// Services on the leader, as far as known.
    pub services: Vec<ServiceStatus>,
    /// The newest takeover or handover this agent carried out.
    pub last_takeover: Option<Takeover>,
}

/// One node's part in a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNode {
    /// The node.
    pub node: NodeName,
    /// Its state.
    pub state: GroupState,
    /// Age of this fact, milliseconds; none if never heard.
    pub age_ms: Option<u64>,
    /// Epoch it knows.
    pub epoch: Epoch,
    /// Its data, worst of its volumes; none for a group without volumes.
    pub disk: Option<DiskState>,
    /// Its boot id for this group.
    pub boot: Option<BootId>,
    /// Could take over now.
    pub ready: bool,
    /// Why not, one sentence.
    pub reason: String,
    /// Resync of this node's replica, worst of its volumes, per cent; none if none runs.
    pub resync_percent: Option<f64>,
}

/// One container of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Name in the specification.
    pub name: String,
    /// Container name in the engine.
    pub container: String,
    /// `created`, `running`, `paused`, `exited`, `missing`.
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`, or none without a health check.
    pub health: Option<String>,
    /// Restarts in place since the group started here.
    pub restarts: u32,
    /// Last error, if any.
    pub error: Option<String>,
}

/// Duration of a change of leadership by step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Takeover {
    /// `takeover`, `handover`, `first start`, `resume`.
    pub kind: String,
    /// The epoch it produced.
    pub epoch: Epoch,
    /// Wall clock at its end, RFC 3339.
    pub at: String,
    /// Steps in order: name (`detect`, `decide`, `promote`, `mount`, `address`, `services`, …), milliseconds.
    pub steps: Vec<TakeoverStep>,
    /// From the last sign of life of the old leader (takeover) or the command (handover) to serving,
    /// milliseconds.
    pub total_ms: u64,
}

/// One step of a change of leadership.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TakeoverStep {
    /// What was done.
    pub step: String,
    /// How long it took.
    pub ms: u64,
}

/// An entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one per entry.
    pub n: u64,
    /// Wall clock, RFC 3339.
    pub at: String,
    /// The node that wrote it.
    pub node: NodeName,
    /// The group it concerns, if any.
    pub group: Option<GroupName>,
    /// The volume it concerns, if any.
    pub volume: Option<VolumeName>,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened and why, one sentence.
    pub message: String,
}
