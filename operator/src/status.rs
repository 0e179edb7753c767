//! The one snapshot of what an agent knows: REST API, CLI, metrics and page all read it, so that they cannot
//! contradict each other.
//!
//! `GET /v1/status` answers a [`ClusterStatus`]. Facts about other nodes carry `age_ms`: how old they are.

mod etcd;
mod fence;
mod heartbeat;

pub use etcd::{EtcdMember, EtcdState, GroupMemory, SLOW};
pub use fence::{FenceDeviceStatus, FenceRecord, FenceStatus, Safety};
pub use heartbeat::{
    GapBucket, HeardNode, HearingStatus, HeartbeatLinkCounters, HeartbeatLinkStatus, HeartbeatPeerCounters,
    HeartbeatPeerStatus, HeartbeatStatus, LinkState, MeasuredGaps, RefusedDatagrams,
};

use crate::basis::{Entitlement, GroupSettings, TimersStatus};
use crate::core::record::StoredNote;
use baton_replicator::api::{Handshakes, MemoryStatus, VolumeStatus};
use baton_replicator::types::{BootId, DiskState, Epoch, GroupName, Member, NodeName, VolumeName};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// The last second of the year 9999, since 1970: what RFC 3339 can write.
const LATEST: u64 = 253_402_300_799;

/// Everything at once, as one agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Certificates that the answering agent uses.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
    /// The answering node's replicator answers its agent; also true where there is no volume to replicate.
    #[serde(default)]
    pub replicator_reachable: bool,
    /// Connections between the answering node's replicator and its peers, since it started.
    #[serde(default)]
    pub handshakes: Handshakes,
    /// Whom the answering node tells, and how that goes, by name.
    #[serde(default)]
    pub notifications: Vec<NotificationStatus>,
    /// Heartbeat links of the answering node, and who hears whom.
    #[serde(default)]
    #[schema(required)]
    pub heartbeat: HeartbeatStatus,
    /// The timers that the answering node decides by.
    #[serde(default)]
    pub timers: TimersStatus,
}

/// A certificate in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// What for: `api`, `ca`, `etcd`, `etcd-ca`.
    pub name: String,
    /// Its subject.
    pub subject: String,
    /// Valid until, RFC 3339.
    pub expires: String,
    /// The same, seconds since 1970.
    pub expires_unix_s: i64,
    /// Whole days until then; negative if it has expired.
    pub days_left: i64,
}

/// One word for the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Age of its last answer, milliseconds; none if it never answered.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// Whether it confirms what is asked, in good time; and if not, what is wrong.
    #[serde(default)]
    pub state: EtcdState,
    /// How long a confirmed request takes, milliseconds, smoothed.
    #[serde(default)]
    pub latency_ms: Option<f64>,
    /// How many members vote; none before that is known.
    #[serde(default)]
    pub voters: Option<u32>,
    /// Its members, as they answered within the last ten seconds.
    #[serde(default)]
    pub members: Vec<EtcdMember>,
}

/// Operator's wish for a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

impl NodeMode {
    /// Why a node in this mode leads no group that it does not lead already.
    #[must_use]
    pub fn keeps_away(self) -> Option<&'static str> {
        match self {
            Self::Online => None,
            Self::Standby => Some("the node is in standby mode"),
            Self::Maintenance => Some("the node is in maintenance mode"),
        }
    }
}

/// What was said when a node's mode was set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModeNote {
    /// Who set it, or whom they named.
    pub owner: String,
    /// Why; empty if nothing was said.
    pub reason: String,
    /// When the mode was set, RFC 3339.
    pub since: String,
    /// When a maintenance is to be over, RFC 3339. Nothing happens by itself then: `advice` says so.
    pub until: Option<String>,
    /// That time has passed.
    pub expired: bool,
}

/// Seconds of the wall clock since 1970, as etcd holds times; 0 before that.
#[must_use]
pub fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl ModeNote {
    /// As etcd holds it, for people; `now` in seconds since 1970.
    #[must_use]
    pub fn of(stored: &StoredNote, now: u64) -> Self {
        let clock = |seconds: u64| {
            // Later than any calendar knows is nonsense from outside.
            let at = UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST));
            humantime::format_rfc3339_seconds(at).to_string()
        };
        Self {
            owner: stored.owner.clone(),
            reason: stored.reason.clone(),
            since: clock(stored.since),
            until: stored.until.map(clock),
            expired: stored.until.is_some_and(|until| until <= now),
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// Heard within `warntime` (always true for the answering node).
    pub alive: bool,
    /// Age of the newest fact about it, milliseconds; none if never heard. 0 for the answering node.
    pub age_ms: Option<u64>,
    /// Operator's wish.
    pub mode: NodeMode,
    /// What was said when it was set; none if it never was, or by an agent that records none.
    #[serde(default)]
    pub mode_note: Option<ModeNote>,
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
    /// Version of the specification that its agent runs, if known.
    #[serde(default)]
    pub spec_version: Option<i64>,
    /// Its last request to etcd succeeded; none if never heard.
    #[serde(default)]
    pub etcd: Option<bool>,
    /// Where heartbeats are sent to it, one address per link.
    #[serde(default)]
    pub heartbeat: Vec<String>,
    /// Where blocks are sent to it, one address per link, the preferred one first.
    #[serde(default)]
    pub replication: Vec<String>,
    /// Memory of its replicator, known of the answering node only; none while the replicator does not answer.
    #[serde(default)]
    pub replicator_memory: Option<MemoryStatus>,
    /// What keeps its addresses from answering when it may not serve; none if it has not said.
    #[serde(default)]
    pub fencing: Option<FencingStatus>,
    /// External fence agents that can switch it off; none if it has none.
    #[serde(default)]
    pub fence: Option<FenceStatus>,
}

/// What keeps a node's addresses from answering past the moment until which it may serve, with its agent dead or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FencedBy {
    /// Packets are dropped by nftables from that moment on.
    Nftables,
    /// The kernel removes the addresses when their lifetime is over.
    AddressLifetime,
}

/// The fence in force on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FencingStatus {
    /// What it is.
    pub by: FencedBy,
    /// How long after that moment an address may still answer, milliseconds.
    pub bound_ms: u64,
    /// Why it is not nftables; known on the node itself only.
    pub reason: Option<String>,
    /// How often somebody else removed the rules since the agent started; known on the node itself only.
    pub restored: u64,
    /// A watchdog device resets the host if its agent hangs.
    #[serde(default)]
    pub watchdog: bool,
}

/// State of a group on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Who pinned it and why; none if nobody did.
    #[serde(default)]
    pub pinned: Option<ModeNote>,
    /// Who disabled it and why; none if nobody did.
    #[serde(default)]
    pub disabled: Option<ModeNote>,
    /// The disabled group that this one goes with, directly or through others: it is stopped as long as that is.
    #[serde(default)]
    pub rests_with: Option<GroupName>,
    /// Addresses of the group (CIDR).
    pub addresses: Vec<String>,
    /// State of each node towards the group, by name.
    pub nodes: Vec<GroupNode>,
    /// Volumes of the group, as the answering node's replicator sees them.
    pub volumes: Vec<VolumeStatus>,
    /// Services on the leader, as far as known.
    pub services: Vec<ServiceStatus>,
    /// Checks of the group that the answering node makes: all of them on the leader, those that a standby is judged by on
    /// the others.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
    /// The newest takeover or handover this agent carried out.
    pub last_takeover: Option<Takeover>,
    /// What keeps its leader from serving beside another node, beside promises.
    #[serde(default)]
    #[schema(required)]
    pub safety: Vec<Safety>,
    /// How old these facts are.
    #[serde(default)]
    #[schema(required)]
    pub fresh: Freshness,
    /// The one under way on the answering node: its steps so far.
    #[serde(default)]
    pub under_way: Option<Takeover>,
    /// How long it served since this agent watches it.
    #[serde(default)]
    pub availability: Availability,
    /// What the specification says of it, as far as leadership rests on it.
    #[serde(default)]
    pub settings: GroupSettings,
    /// What the answering node may serve it on; none if that does not lead it.
    #[serde(default)]
    pub entitlement: Option<Entitlement>,
    /// What the answering node remembers of the group itself, beside what etcd says.
    #[serde(default)]
    pub memory: Option<GroupMemory>,
}

impl GroupStatus {
    /// It does not run because somebody wants so.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.is_unwanted() && self.leader.is_none()
    }

    /// Somebody wants that it does not run: it is disabled, or the group that it goes with is.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.disabled.is_some() || self.rests_with.is_some()
    }

    /// Who could take over now, by name.
    pub fn ready_standbys(&self) -> impl Iterator<Item = &NodeName> {
        let spare = |n: &&GroupNode| n.ready && Some(&n.node) != self.leader.as_ref();
        self.nodes.iter().filter(spare).map(|n| &n.node)
    }
}

/// How long a group served, as the answering agent saw it since its own start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Availability {
    /// Seconds watched.
    pub observed_seconds: f64,
    /// Seconds of these in which nobody served it.
    pub unavailable_seconds: f64,
    /// How often it stopped serving, planned moves included.
    pub outages: u64,
    /// The newest time it stopped.
    pub last_outage: Option<Outage>,
}

/// A time without service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outage {
    /// Wall clock when it was noticed, RFC 3339.
    pub noticed_at: String,
    /// How long it lasted; none while it lasts.
    pub seconds: Option<f64>,
}

/// How old the facts about a group are, and where they come from. None: never known. Facts about each node's part carry
/// an age of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Freshness {
    /// Leader, epoch, in-sync set and target: since the group's record was read in etcd, milliseconds.
    pub record_ms: Option<u64>,
    /// The node whose replicator the volumes come from.
    pub volumes_from: Option<NodeName>,
    /// Since that replicator answered, milliseconds.
    pub volumes_ms: Option<u64>,
    /// The node that the services run on.
    pub services_from: Option<NodeName>,
    /// Since its containers were looked at, or, from another node, since that node was heard, milliseconds.
    pub services_ms: Option<u64>,
}

/// One node's part in a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// A volume's blocks reach it by protocol A: it is never in sync and does not take over by itself.
    #[serde(default)]
    #[schema(required)]
    pub asynchronous: bool,
}

/// One container of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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

/// Where a check stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Has not passed since the group began to serve here.
    #[default]
    Starting,
    /// Passes.
    Passing,
    /// Fails.
    Failing,
    /// Fails for a reason that neither a restart nor a move would cure, or never passed: a person has to see to it.
    Alarm,
}

/// One check of a group, as the answering node makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckStatus {
    /// Its name.
    pub name: String,
    /// `http`, `tcp`, `exec`, `sql`, `docker`, `write` or `ping`.
    pub kind: String,
    /// The service that it blames; none = all of them.
    pub service: Option<String>,
    /// What is done when it fails: `restart`, `move` or `alarm`; `prefer` of a ping: another node is preferred.
    pub on_failure: String,
    /// Where it stands.
    pub state: CheckState,
    /// Since when, RFC 3339.
    pub since: String,
    /// What the last one found wrong; none if it was good.
    pub last_error: Option<String>,
    /// The last one could not find anything out: it counts neither way.
    pub unknown: bool,
    /// How long the last one took, milliseconds; none before the first.
    pub duration_ms: Option<u64>,
    /// Since the last one ended, milliseconds; none before the first.
    pub age_ms: Option<u64>,
}

/// Duration of a change of leadership by step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TakeoverStep {
    /// What was done.
    pub step: String,
    /// How long it took.
    pub ms: u64,
    /// When it was done, from the same moment as the total, milliseconds.
    #[serde(default)]
    pub at_ms: u64,
}

/// An entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// The timeline of a change of leadership that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
}

/// A target of notifications, as the answering node's deliveries to it go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotificationStatus {
    /// Its name in the specification.
    pub target: String,
    /// The way there, in words: `mail to operators@example.org via smtp://mail:25`.
    pub channel: String,
    /// `info`, `warning` or `critical`: what is less severe is not told.
    pub severity: String,
    /// Groups that it hears about.
    pub groups: Vec<GroupName>,
    /// Messages that wait for their delivery.
    pub queued: u64,
    /// Messages delivered since the agent started.
    pub delivered: u64,
    /// Attempts that failed since the agent started.
    pub failed: u64,
    /// Messages given up since the agent started: rejected for good, too old, or too many.
    pub given_up: u64,
    /// Wall clock of the last delivery, RFC 3339.
    pub last_success: Option<String>,
    /// Wall clock of the first failed attempt since the last delivery, RFC 3339.
    pub failing_since: Option<String>,
    /// What the last attempt said, if it failed.
    pub last_error: Option<String>,
}
