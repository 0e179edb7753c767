//! What the agent and the replicator say to each other: HTTP with JSON over a Unix socket
//! (`/run/baton/replicator.sock`), plus serve-until datagrams (`/run/baton/serve-until.sock`).
//!
//! | request | meaning |
//! | --- | --- |
//! | `GET /v1/status?after=<version>&wait_ms=<n>` | [`Status`]; answers at once if its version is greater than `after`, else when it changes or after `wait_ms` (at most 30 000) |
//! | `PUT /v1/volumes/{volume}` | [`VolumeConfig`]: create the backing store and metadata if both are absent, and attach. Idempotent |
//! | `PUT /v1/volumes/{volume}/desired` | [`Desired`]: the role, epoch and required set. Idempotent; answers [`VolumeStatus`] once it is in force (promotion: once the device exists and the first local access works) |
//! | `POST /v1/volumes/{volume}/format` | [`Format`]: make a filesystem, refused unless primary and blank |
//! | `POST /v1/volumes/{volume}/verify` | [`VerifyRequest`]: compare the replicas; refused unless primary and connected to a peer. Idempotent by id |
//! | `DELETE /v1/volumes/{volume}/verify` | stop comparing. Idempotent |
//! | `PUT /v1/volumes/{volume}/resync` | [`ResyncRequest`]: let resyncs stand still, or go on. Idempotent, in any role; forgotten when the replicator ends |
//! | `POST /v1/volumes/{volume}/discard` | [`DiscardRequest`]: give this secondary's data up after a split brain: keep a copy, then let the primary overwrite it. Refused unless it is at odds with a peer. Idempotent |
//! | `DELETE /v1/volumes/{volume}/snapshots/{name}` | remove such a copy. Idempotent |
//! | `POST /v1/volumes/{volume}/export` | take a snapshot of the replica here and serve it read-only by NBD; refused unless it is UpToDate. Idempotent: the one that is served stays |
//! | `DELETE /v1/volumes/{volume}/export` | end it. Idempotent |
//! | `POST /v1/volumes/{volume}/detach` | flush, write the clean-shutdown mark and close (secondary only) |
//!
//! Errors are RFC 9457 problem documents ([`Problem`]). All commands are idempotent, so that an agent that
//! does not know whether its last call arrived repeats it.

use crate::core::split_brain::AfterSplitBrain;
use crate::types::{
    BootId, ConnectionState, DiskState, Epoch, FrontEndKind, Generation, GroupName, Instant, Member,
    NodeName, Protocol, Role, Transport, VolumeName,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a replica's blocks are kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// A sparse file, created with the volume's size if absent, and made larger when the volume grows.
    File(PathBuf),
    /// A block device at least as large as the volume.
    Device(PathBuf),
}

/// A peer of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerConfig {
    /// The peer's node.
    pub node: NodeName,
    /// Where its replicator listens (TCP 7788 by default).
    pub address: SocketAddr,
    /// Where else, by other links: tried in this order when one fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<SocketAddr>,
}

/// Everything that is fixed about a volume on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeConfig {
    /// The volume.
    pub volume: VolumeName,
    /// The group it belongs to: volumes of a group share epochs and serve-until.
    pub group: GroupName,
    /// Size in bytes, a multiple of 4096. A larger one than before lets the volume grow.
    pub size_bytes: u64,
    /// The blocks.
    pub backing: Backing,
    /// The metadata file.
    pub metadata: PathBuf,
    /// All other nodes with a replica. At most 8.
    pub peers: Vec<PeerConfig>,
    /// Replication protocol of the peers that have none of their own.
    #[serde(default)]
    pub protocol: Protocol,
    /// The protocol by which a node is reached, where it is another one; the same on every node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub protocols: BTreeMap<NodeName, Protocol>,
    /// What resolves a split brain by itself; nothing unless it says so.
    #[serde(default)]
    pub after_split_brain: AfterSplitBrain,
    /// How the blocks travel; the same on every node.
    #[serde(default)]
    pub transport: Transport,
    /// I/O that waits longer than this for a connected peer counts the peer as lost. Milliseconds.
    pub peer_timeout_ms: u64,
    /// Upper bound of the resync rate, bytes per second; 0 = unbounded.
    #[serde(default)]
    pub resync_rate: u64,
    /// Resync and verify go at least this fast, however busy the application is, bytes per second.
    #[serde(default = "resync_min_rate")]
    pub resync_min_rate: u64,
    /// Resync and verify slow down while the application's requests take longer than this on average,
    /// microseconds; 0: twice what they take when neither runs.
    #[serde(default)]
    pub target_latency_us: u64,
    /// How the primary is offered to this host.
    #[serde(default)]
    pub front_end: FrontEndKind,
    /// A command to the backing store or the metadata file that takes longer has failed. Milliseconds.
    #[serde(default = "disk_timeout_ms")]
    pub disk_timeout_ms: u64,
}

/// 30 s: longer than any disk's own retries.
fn disk_timeout_ms() -> u64 {
    30_000
}

impl VolumeConfig {
    /// The protocol by which `node` is reached.
    #[must_use]
    pub fn protocol_of(&self, node: &NodeName) -> Protocol {
        self.protocols.get(node).copied().unwrap_or(self.protocol)
    }
}

/// 4 MiB/s: a day for 350 GiB on the busiest of disks, and no more than 5 % of a hard disk's bandwidth.
fn resync_min_rate() -> u64 {
    4 << 20
}

/// Compare the replicas of a primary volume with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Names this run; asking for the same one again changes nothing.
    pub id: u64,
    /// Copy what differs from the primary to the secondary, what earlier runs marked included.
    #[serde(default)]
    pub repair: bool,
}

/// Whether a volume's resyncs stand still.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResyncRequest {
    /// They do.
    pub paused: bool,
}

/// Give this replica's data up, because another's is to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiscardRequest {
    /// Keep a copy first, or give nothing up if that is not possible.
    #[serde(default = "yes")]
    pub snapshot: bool,
}

fn yes() -> bool {
    true
}

/// A copy of data that was given up, kept beside the backing file until it is released.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    /// The node that holds it.
    pub node: NodeName,
    /// Its file name, in the directory of the backing file.
    pub name: String,
    /// When it was made, seconds since 1970.
    pub made_at_s: u64,
    /// The generation of the data.
    pub generation: Generation,
    /// Bytes it occupies on the disk; a reflink shares them with the backing file until that is overwritten.
    pub bytes: u64,
}

/// Two replicas that stay apart because the primary's data does not descend from the secondary's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Apart {
    /// Why: `split_brain`, `newer_data` (on the secondary) or `unrelated_data`.
    pub why: ApartReason,
    /// When they parted, seconds since 1970, by the clock that says the earlier time; none if nobody knows.
    pub since_s: Option<u64>,
    /// Blocks of 4096 bytes that this node's replica wrote since, at most; none if not known.
    pub here_blocks: Option<u64>,
    /// Blocks that the peer's replica wrote since, at most; none if not known.
    pub there_blocks: Option<u64>,
    /// The node whose data can be given up: the secondary.
    pub discard: NodeName,
    /// This node is giving its data up: a copy is being made, or the primary is waited for.
    pub yields: bool,
}

/// Why two replicas stay apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ApartReason {
    /// Both went on alone.
    SplitBrain,
    /// The secondary's data is the newer one.
    NewerData,
    /// They have nothing in common.
    UnrelatedData,
}

/// How a verify stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum VerifyState {
    /// Blocks are being compared.
    #[default]
    Running,
    /// It goes on when a peer is connected again.
    Waiting,
    /// All blocks were compared.
    Done,
    /// By command.
    Stopped,
    /// It could not end; the reason says why.
    Aborted,
}

impl VerifyState {
    /// It goes on.
    #[must_use]
    pub fn is_running(self) -> bool {
        match self {
            Self::Running | Self::Waiting => true,
            Self::Done | Self::Stopped | Self::Aborted => false,
        }
    }
}

/// A verify, running or the last one since the replicator started. Bytes are sums over the peers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VerifyStatus {
    /// The request.
    pub id: u64,
    /// It repairs.
    pub repair: bool,
    /// How it stands.
    pub state: VerifyState,
    /// Why it waits, was stopped or aborted.
    pub reason: Option<String>,
    /// The peers it compares with.
    pub peers: Vec<NodeName>,
    /// Bytes to compare.
    pub total_bytes: u64,
    /// Bytes compared.
    pub checked_bytes: u64,
    /// Blocks of 4096 bytes that differed, twice in a row, the second time with their range locked.
    pub mismatched_bytes: u64,
    /// Bytes copied to a peer because they differed, in this run or an earlier one.
    pub repaired_bytes: u64,
    /// Ranges whose digests differed at first and not at the second look: a disk or memory that errs now and then.
    pub unconfirmed: u64,
    /// The first ranges that differed, at most 16.
    pub mismatches: Vec<Mismatch>,
    /// Average speed.
    pub bytes_per_s: u64,
    /// Estimated time left, seconds; none if it does not move or has ended.
    pub eta_s: Option<u64>,
    /// For how long it has been running or ran, milliseconds.
    pub took_ms: u64,
    /// Who asked for it: a node's agent, or `schedule`. The agent fills this in, and the two that follow.
    #[serde(default)]
    pub by: Option<String>,
    /// Wall clock of the command, RFC 3339.
    #[serde(default)]
    pub asked_at: Option<String>,
    /// Wall clock of the end, RFC 3339.
    #[serde(default)]
    pub ended_at: Option<String>,
}

/// A run of blocks that differed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Mismatch {
    /// The peer.
    pub peer: NodeName,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// What a volume should be, as the agent decided. Epochs never go back: a lower one is refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Desired {
    /// The leadership this command belongs to. Made durable before anything else is done.
    pub epoch: Epoch,
    /// The role.
    pub role: Role,
    /// Primary only: every peer that must have a write before it is acknowledged: the union of all in-sync
    /// sets that may be current, without this node. Taking a node out lets writes that wait for it go on,
    /// marks what it lacks in its bitmap and starts a new generation.
    #[serde(default)]
    pub required: Vec<Member>,
    /// Primary only: promote although the replica is not UpToDate. A person said so.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// Secondary only: let go of a device that is still open somewhere: pending and later I/O fails.
    #[serde(default)]
    pub force: bool,
    /// When it was decided, on this host's CLOCK_BOOTTIME in nanoseconds: a command that was given up by its
    /// sender and arrives after a later one is refused. 0: not ordered.
    #[serde(default)]
    pub order: u64,
    /// Primary only: where this node stands towards the in-sync set. A primary that has lost its disk acknowledges
    /// nothing before it is [`Membership::Left`].
    #[serde(default)]
    pub membership: Membership,
}

/// Where a primary's node stands towards the in-sync set in etcd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// The agent does not say: it is of a release that knows no primary without a disk, so a disk error fails the I/O.
    #[default]
    Untold,
    /// It is in the set, or may be.
    Member,
    /// etcd has confirmed that it is not: others have every acknowledged write, this replica need not. It is not
    /// promoted.
    Left,
}

/// A filesystem to make on a blank primary volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Format {
    /// `ext4` or `xfs`.
    pub filesystem: String,
}

/// A serve-until datagram: past `until`, the group's volumes neither acknowledge writes nor answer reads.
/// Sent by the agent's heartbeat thread about once per keepalive, as one JSON datagram.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServeUntil {
    /// The group.
    pub group: GroupName,
    /// Only the epoch in force is heeded.
    pub epoch: Epoch,
    /// Deadline on this host's CLOCK_BOOTTIME.
    pub until: Instant,
}

/// The replicator at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Grows with every change that an agent would react to (not with byte counters).
    pub version: u64,
    /// This node.
    pub node: Option<NodeName>,
    /// The volumes, by name.
    pub volumes: Vec<VolumeStatus>,
    /// How often the replicator was started again after it died, while its devices waited.
    #[serde(default)]
    pub worker_restarts: u64,
    /// Connections to and from peers since the replicator started.
    #[serde(default)]
    pub handshakes: Handshakes,
    /// What keeps it from waiting for its own devices. None: a replicator of the release before.
    #[serde(default)]
    pub memory: Option<MemoryStatus>,
}

/// Memory of the replicator's process: what the kernel granted it, and what it uses.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryStatus {
    /// Its pages stay in memory (`mlockall`, needs `IPC_LOCK`).
    pub locked: bool,
    /// Its allocations do not wait for write-back (`PR_SET_IO_FLUSHER`, needs `SYS_RESOURCE`).
    pub io_flusher: bool,
    /// What was not granted, and what to do about it; none if all was.
    pub problem: Option<String>,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// How often requests or frames were left waiting, by the kernel or the peer, because those under way held as many
    /// bytes as they may.
    pub waits: u64,
}

/// How connections to and from peers began, since the replicator started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Handshakes {
    /// Both sides proved who they are.
    pub completed: u64,
    /// They did not, by reason; every reason is there.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, u64>))]
    pub failed: BTreeMap<HandshakeFailure, u64>,
    /// The last one that failed: with whom and why.
    pub last_failure: Option<String>,
}

/// Why a connection to or from a peer came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandshakeFailure {
    /// A certificate is missing, expired, of another authority or not a node's.
    Certificate,
    /// A valid certificate or proof, of another node than the connection is for.
    WrongNode,
    /// The nodes have different cluster secrets.
    Secret,
    /// One side wants TLS and the other plain.
    Transport,
    /// The peer is of a release that is not understood, or not without TLS.
    Version,
    /// The volume is not attached here, or the node is no peer of it.
    NotAdmitted,
    /// The peer refused; its own reason is in its status.
    Refused,
    /// Too many connections were in their handshake.
    Busy,
    /// The connection broke or nonsense came.
    Broken,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Certificate,
        Self::WrongNode,
        Self::Secret,
        Self::Transport,
        Self::Version,
        Self::NotAdmitted,
        Self::Refused,
        Self::Busy,
        Self::Broken,
    ];

    /// Its word in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::WrongNode => "wrong_node",
            Self::Secret => "secret",
            Self::Transport => "transport",
            Self::Version => "version",
            Self::NotAdmitted => "not_admitted",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Broken => "broken",
        }
    }
}

/// One replica.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeStatus {
    /// The volume.
    pub volume: VolumeName,
    /// Its group.
    pub group: GroupName,
    /// Size in bytes.
    pub size_bytes: u64,
    /// The volume is growing, or is to grow.
    #[serde(default)]
    pub growth: Option<GrowthStatus>,
    /// Role in force.
    pub role: Role,
    /// Highest epoch seen, durable.
    pub epoch: Epoch,
    /// Local data.
    pub disk: DiskState,
    /// Why `disk` is Diskless or Failed, or that the backing store is full, as one sentence.
    #[serde(default)]
    pub disk_reason: Option<String>,
    /// The backing store is full: writes wait, and go on by themselves when there is space again.
    #[serde(default)]
    pub full: bool,
    /// Primary only: what the agent said last; none from a release that does not know it.
    #[serde(default)]
    pub membership: Option<Membership>,
    /// Generation of the local data; zero if it never had any.
    pub generation: Generation,
    /// The replica's boot id.
    pub boot: BootId,
    /// The block device while primary, as the Docker engine of this host sees it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub device: Option<PathBuf>,
    /// The device of a replicator that died is still there and its I/O waits: made primary again in the same epoch,
    /// this one goes on with it; made secondary, it is taken away and the I/O fails.
    #[serde(default)]
    pub held: bool,
    /// Filesystem found on the local data (`ext4`, `xfs`, …), none if blank. Known while primary.
    pub filesystem: Option<String>,
    /// Why I/O is frozen, as one sentence; none while it flows.
    pub frozen: Option<String>,
    /// Since when I/O has been frozen.
    pub frozen_since: Option<Instant>,
    /// The required set in force.
    pub required: Vec<Member>,
    /// Peers, by name.
    pub peers: Vec<PeerStatus>,
    /// Extents of 4 MiB in the activity log.
    pub activity_log_extents: u64,
    /// Reads, writes and flushes answered since the replicator started.
    pub counters: Counters,
    /// Nonsense from a peer or the disk, newest last, at most 16.
    pub alarms: Vec<String>,
    /// The running or the last verify; none since the replicator started.
    #[serde(default)]
    pub verify: Option<VerifyStatus>,
    /// Resyncs from this node stand still by command.
    #[serde(default)]
    pub resync_paused: bool,
    /// Copies of data of this replica that was given up.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that is served for backup.
    #[serde(default)]
    pub export: Option<ExportStatus>,
    /// Clients of the front end; none where that cannot be told: a block device does not say who has it open.
    #[serde(default)]
    pub clients: Option<u64>,
}

impl VolumeStatus {
    /// A secondary of which nothing is known yet: no data, no boot id, so that nobody takes it for a replica.
    #[must_use]
    pub fn unknown(volume: VolumeName, group: GroupName) -> Self {
        Self {
            volume,
            group,
            size_bytes: 0,
            growth: None,
            role: Role::Secondary,
            epoch: Epoch::ZERO,
            disk: DiskState::default(),
            disk_reason: None,
            full: false,
            membership: None,
            generation: Generation(0),
            boot: BootId(0),
            device: None,
            held: false,
            filesystem: None,
            frozen: None,
            frozen_since: None,
            required: Vec::new(),
            peers: Vec::new(),
            activity_log_extents: 0,
            counters: Counters::default(),
            alarms: Vec::new(),
            verify: None,
            resync_paused: false,
            snapshots: Vec::new(),
            export: None,
            clients: None,
        }
    }
}

/// A volume on its way to a larger size, as one node sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrowthStatus {
    /// Size of the device, or of the volume where there is none.
    pub from_bytes: u64,
    /// Size that it is to have.
    pub to_bytes: u64,
    /// What is being done or waited for, as one sentence.
    pub waits: String,
}

/// A snapshot of the replica here, served read-only by NBD on a Unix socket of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportStatus {
    /// For NBD clients: `nbd+unix:///VOLUME?socket=PATH`.
    pub uri: String,
    /// The socket, which only root may open.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub socket: PathBuf,
    /// The moment that the snapshot shows: wall clock, seconds since 1970.
    pub taken_at_s: u64,
    /// Clients that are connected.
    pub clients: u64,
    /// Bytes that clients have read.
    pub read_bytes: u64,
    /// Bytes that may hold data; the rest are holes.
    pub data_bytes: u64,
    /// Bytes that changed since and whose old content takes space beside the metadata.
    pub copied_bytes: u64,
    /// Why it cannot be read any more: end it and take another.
    pub broken: Option<String>,
}

/// Totals since the replicator started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Counters {
    /// Reads answered.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Discards and write-zeroes acknowledged.
    pub discards: u64,
}

/// One peer of a replica, as this replica sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeName,
    /// The connection.
    pub connection: ConnectionState,
    /// Why the connection is what it is, as one sentence, if it is not Connected.
    pub reason: Option<String>,
    /// The protocol by which it is reached; one that is reached by A is never in sync.
    #[serde(default)]
    pub protocol: Protocol,
    /// The peer's boot id as it said in the last handshake.
    pub boot: Option<BootId>,
    /// The peer's data as far as known.
    pub disk: DiskState,
    /// Primary only: the peer has every write ever acknowledged, is connected, receives every write, and has
    /// flushed: it may be put in the required set. Never of a peer that is reached by protocol A.
    pub resynced: bool,
    /// Primary only: the peer is in the required set and a flush that began after it got there has been
    /// answered: the admission may be sent to etcd.
    pub settled: bool,
    /// Bytes that differ or may differ (dirty bitmap towards this peer).
    pub dirty_bytes: u64,
    /// Bytes sent to the peer and not acknowledged.
    pub unacked_bytes: u64,
    /// For how long the oldest unacknowledged request has been waiting, milliseconds.
    pub oldest_unacked_ms: u64,
    /// Smoothed time from send to acknowledgement, microseconds.
    pub lag_us: u64,
    /// How the replicas parted, while they stay apart.
    #[serde(default)]
    pub apart: Option<Apart>,
    /// The running resync.
    pub resync: Option<ResyncProgress>,
    /// Bytes that resyncs have copied to the peer since the replicator started.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Bytes that they did not copy because the peer had the same.
    #[serde(default)]
    pub spared_bytes: u64,
    /// The way the blocks go; none without a session.
    #[serde(default)]
    pub link: Option<LinkStatus>,
}

impl PeerStatus {
    /// A peer that was never heard.
    #[must_use]
    pub fn unknown(node: NodeName) -> Self {
        Self {
            node,
            connection: ConnectionState::Connecting,
            reason: None,
            protocol: Protocol::default(),
            boot: None,
            disk: DiskState::DUnknown,
            resynced: false,
            settled: false,
            dirty_bytes: 0,
            unacked_bytes: 0,
            oldest_unacked_ms: 0,
            lag_us: 0,
            apart: None,
            resync: None,
            copied_bytes: 0,
            spared_bytes: 0,
            link: None,
        }
    }
}

/// The way blocks go to or from a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkStatus {
    /// `TLS 1.3` or `plain`.
    pub transport: String,
    /// The cipher suite; none if plain.
    pub cipher: Option<String>,
    /// The peer's address of the link in use.
    pub address: String,
}

/// Progress of a resync.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResyncProgress {
    /// Bytes to copy in this resync.
    pub total_bytes: u64,
    /// Bytes done.
    pub done_bytes: u64,
    /// Speed over the last 16 seconds.
    pub bytes_per_s: u64,
    /// Estimated time left, seconds; none if it does not move.
    pub eta_s: Option<u64>,
    /// Speed since it began.
    #[serde(default)]
    pub average_bytes_per_s: u64,
    /// Bytes of those done that were compared, found the same and not copied.
    #[serde(default)]
    pub spared_bytes: u64,
    /// It stands still by command (DRBD's PausedSyncS).
    #[serde(default)]
    pub paused: bool,
    /// For how long it has not moved although nothing holds it, seconds. It is begun anew after 30, or two peer_timeouts.
    #[serde(default)]
    pub stalled_s: u64,
}

/// RFC 9457 problem document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{title}: {detail}")]
pub struct Problem {
    /// A URI reference that names the kind of problem, e.g. `/problems/epoch-too-old`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short text, the same for every occurrence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened and what to do next.
    pub detail: String,
}
