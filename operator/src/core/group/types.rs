//! What goes into and comes out of the leadership core.

use super::{FenceOutcome, Fencing, Placing, State, Told};
use crate::core::promises::{GroupFacts, PeerFacts};
use crate::core::record::{Durable, GroupWish, Outcome, Record, Txn};
use crate::core::runtime::RunReport;
use crate::core::timing::Timers;
use crate::status::{GroupMemory, GroupState};
use baton_replicator::api::{Desired, VolumeStatus};
use baton_replicator::types::{BootId, Epoch, GroupName, Instant, Member, NodeName, VolumeName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What decides after a power cut of the whole site when a member of the set stays unseen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterPowerLoss {
    /// Wait for it: it may hold a write that nobody else has.
    #[default]
    Wait,
    /// Start without it after `initdead`.
    Start,
}

/// Everything fixed about a group on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// Its name.
    pub group: GroupName,
    /// This node.
    pub me: NodeName,
    /// All nodes that may run it, this one included.
    pub nodes: Vec<NodeName>,
    /// Preferred nodes, best first.
    pub prefer: Vec<NodeName>,
    /// Its volumes; empty for a group without data.
    pub volumes: Vec<VolumeName>,
    /// What moves the group although nothing is wrong.
    pub placing: Placing,
    /// Failures of the group on this node that are older do not count; no pause after one is longer.
    pub failure_timeout: Duration,
    /// Bound of a stop in order.
    pub stop_timeout: Duration,
    /// Some of its services run on standbys, too.
    pub hot: bool,
    /// For how long another node must have reached more gateways before the group follows.
    pub gateway_hold: Duration,
    /// Fencing of a former leader from outside.
    pub fencing: Fencing,
    /// See [`AfterPowerLoss`].
    pub after_power_loss: AfterPowerLoss,
    /// The timers.
    pub timers: Timers,
    /// The specification has no place for the group here any more.
    pub retire: Option<Retire>,
}

/// What is gone from the specification. The group is left in good order: see `retire`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// The group: its leader stops it, nobody takes it over. Record and data stay.
    Group,
    /// This node: it hands the group over and replicates until the leader has taken it out of the record.
    Node,
}

/// etcd as the driver sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EtcdFacts {
    /// The last request succeeded.
    pub reachable: bool,
    /// This node's lease.
    pub lease: i64,
    /// Until when it counts ([`Timers::lease_until`]); zero if there is none.
    pub lease_until: Instant,
}

/// What is known at a tick.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The heartbeats about this group.
    pub beats: GroupFacts,
    /// The heartbeats about each peer.
    pub peers: Arc<BTreeMap<NodeName, PeerFacts>>,
    /// etcd.
    pub etcd: EtcdFacts,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed; at least every 50 ms, and at once after an intent changed.
    Tick(Box<Facts>),
    /// Answer to [`Action::Read`]; none if it failed.
    Record(u64, Option<Box<Record>>),
    /// Answer to [`Action::WriteFence`].
    Fence(u64, bool),
    /// Answer to [`Action::Txn`].
    Txn(u64, Outcome),
    /// A watch says that a key of the group or of a node changed.
    Changed,
    /// The group's volumes as the replicator sees them; none if it cannot be asked.
    Replicas(Option<Vec<VolumeStatus>>),
    /// Answer to [`Action::SetVolume`].
    VolumeSet(VolumeName, Result<(), String>),
    /// The runtime's state.
    Run(RunReport),
    /// How many of the group's gateways each node reaches: this one, and those of the others that were heard lately and
    /// say so.
    Gateways(Option<u8>, BTreeMap<NodeName, u8>),
    /// What other groups' cores on this node say, as far as this group goes with them or keeps away from them, or they with
    /// or from it.
    Others(BTreeMap<GroupName, Told>),
    /// The agent is about to restart in order: ask for longer promises.
    Restarting,
    /// Answer to [`Action::FenceNode`].
    NodeFenced(u64, FenceOutcome),
    /// A person vouches for the etcd that answers now (`baton recover`).
    Recover,
    /// The specification changed. Group, node and volumes are the same as before.
    Configured(Box<GroupConfig>),
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As planned.
    Info,
    /// Someone should look.
    Warning,
    /// The service is affected.
    Critical,
}

/// Something to do. Carried out in order; [`Action::Persist`] is finished before anything after it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the node's memory of the group durable. A failure stops the agent.
    Persist(Durable),
    /// Read the record, linearizably.
    Read(u64),
    /// Write this node's fence key of the group.
    WriteFence(u64),
    /// Send a transaction.
    Txn(Txn),
    /// Tell the replicator what a volume should be.
    SetVolume(VolumeName, Desired),
    /// Switch a node off by its external fence agents, if nobody else fences and leader and in-sync record are still at these
    /// revisions (0 = absent).
    FenceNode {
        /// Comes back in the answer.
        id: u64,
        /// The node.
        node: NodeName,
        /// mod_revision of the leader key.
        leader: i64,
        /// mod_revision of the in-sync record.
        insync: i64,
    },
    /// Tell people: history, log, notifications.
    Event(Severity, String),
}

/// A group as its core sees it, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// State of this node.
    pub state: State,
    /// The same in the status' words.
    pub group_state: GroupState,
    /// Why.
    pub reason: String,
    /// What a person should do, if anything.
    pub advice: Option<String>,
    /// Leader by etcd or, while that is away, by heartbeats.
    pub leader: Option<NodeName>,
    /// Highest epoch known.
    pub epoch: Epoch,
    /// The in-sync set in etcd.
    pub members: Vec<Member>,
    /// E: who must promise and acknowledge, without this node.
    pub required: Vec<Member>,
    /// The target asked for.
    pub target: Option<NodeName>,
    /// Whether it is pinned or disabled.
    pub wish: GroupWish,
    /// Boot id of this node for the group.
    pub boot: Option<BootId>,
    /// Could take over now, apart from the leader being alive.
    pub ready: Result<(), String>,
    /// What this node remembers of the group itself, beside what etcd says.
    pub memory: GroupMemory,
}
