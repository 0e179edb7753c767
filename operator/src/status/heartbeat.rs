//! Heartbeat links as the answering node has them, and who hears whom.

use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything about heartbeat links.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatStatus {
    /// Links of the answering node, in the order of the specification.
    pub links: Vec<HeartbeatLinkStatus>,
    /// Who hears whom, by node; only nodes that said so within `deadtime`.
    pub hearing: Vec<HearingStatus>,
    /// Gaps between heartbeats, whichever link they came by, and the timers that they would allow.
    pub measured: MeasuredGaps,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatLinkStatus {
    /// Its number, from 1: the same at every node.
    pub link: u32,
    /// `unicast`, `broadcast`, `multicast`, `serial`, or `none` if the node is not on it.
    pub kind: String,
    /// Its address here, or its interface or device.
    pub name: String,
    /// Why it is not open, or why the last heartbeat was not sent.
    pub error: Option<String>,
    /// Heartbeats until every group had its turn: more than one on a serial line that does not carry all at once.
    pub turns: u32,
    /// What was counted since the agent started, or since the link was configured.
    pub counters: HeartbeatLinkCounters,
    /// Peers on it, by name.
    pub peers: Vec<HeartbeatPeerStatus>,
}

/// Counters of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatLinkCounters {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats that the kernel would not take, or that a line had no room for.
    pub dropped: u64,
    /// Datagrams refused, by reason.
    pub refused: Vec<RefusedDatagrams>,
}

/// Datagrams refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedDatagrams {
    /// `malformed`, `version`, `other_cluster`, `forged` (authentication fails), `replayed` or `stranger`.
    pub reason: String,
    /// How many.
    pub datagrams: u64,
}

/// How a peer is heard on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Not heard yet, and not missed yet.
    #[default]
    Unknown,
    /// Heard within `warntime`.
    Up,
    /// Heard within `deadtime`.
    Late,
    /// Not heard for longer.
    Down,
}

/// A peer on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatPeerStatus {
    /// The peer.
    pub node: NodeName,
    /// Its address on the link, or what the link is called here if it has none.
    pub address: String,
    /// How it is heard.
    pub state: LinkState,
    /// The peer says that it hears this node on this link; none if it does not say.
    pub hears_us: Option<bool>,
    /// Heard in one direction only, for at least `deadtime`.
    pub one_way: bool,
    /// The number that the peer gives this link, if it is another one: cables or addresses are crossed.
    pub crossed: Option<u32>,
    /// What was counted.
    pub counters: HeartbeatPeerCounters,
}

/// Counters of a peer on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatPeerCounters {
    /// For how long the state has been what it is, milliseconds.
    pub state_ms: u64,
    /// Age of the newest heartbeat, milliseconds.
    pub age_ms: Option<u64>,
    /// Heartbeats.
    pub received: u64,
    /// Heartbeats that were sent and did not come, by their numbers.
    pub lost: u64,
    /// Heartbeats that came later than `warntime` after the one before.
    pub late: u64,
    /// Longest gap that ended in a heartbeat, milliseconds.
    pub longest_gap_ms: u64,
    /// Gaps by length.
    pub gaps: Vec<GapBucket>,
}

/// Gaps of one range of lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GapBucket {
    /// At most so long, and longer than the bucket before; none: longer than all.
    pub up_to_ms: Option<u64>,
    /// How many.
    pub gaps: u64,
}

/// Whom one node hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HearingStatus {
    /// The node.
    pub node: NodeName,
    /// Whom it hears, and by which links.
    pub hears: Vec<HeardNode>,
}

/// A node that is heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeardNode {
    /// The node.
    pub node: NodeName,
    /// Numbers of the links by which it is heard; empty: not at all.
    pub links: Vec<u32>,
}

/// Gaps of the last day, and what follows from them (docs/timing.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeasuredGaps {
    /// Longest gap of all peers, milliseconds.
    pub worst_ms: u64,
    /// Number of gaps measured.
    pub gaps: u64,
    /// Silences of `deadtime` or longer: faults, left out of `worst_ms`.
    pub silences: u64,
    /// The time that this speaks of, seconds; at most a day.
    pub over_s: u64,
    /// `warntime` in force, milliseconds.
    pub warntime_ms: u64,
    /// `deadtime` in force, milliseconds.
    pub deadtime_ms: u64,
    /// Suggested `warntime`; none while too little was measured.
    pub suggested_warntime_ms: Option<u64>,
    /// Suggested `deadtime`; none while too little was measured.
    pub suggested_deadtime_ms: Option<u64>,
}
