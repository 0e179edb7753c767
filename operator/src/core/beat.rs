//! What a heartbeat carries. Every field is bounded; authentication and framing are the transport's.
//!
//! One message goes to one peer, but acknowledgements name the leader they are for, so a message may also be
//! broadcast.

use baton_replicator::types::{BootId, Epoch, GroupName, Instant, NodeName};
use serde::{Deserialize, Serialize};

/// Most groups of a cluster; keeps a heartbeat within 64 KiB. On a network it goes in as many packets as it takes.
pub const MAX_GROUPS: usize = 128;
/// Most bytes of opaque status that ride along.
pub const MAX_SUMMARY: usize = 1024;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatMsg {
    /// Drawn anew at each start of the sending agent.
    pub incarnation: u64,
    /// Grows with every message of an incarnation.
    pub seq: u64,
    /// The sender's own clock; comes back in acknowledgements and is meaningless to others.
    pub sent: Instant,
    /// An answer sent at once on a leader's heartbeat; not answered itself.
    pub echo: bool,
    /// The sender's last request to etcd succeeded.
    pub etcd: bool,
    /// One entry per group.
    pub groups: Vec<GroupBeat>,
    /// Status for people, opaque here; at most [`MAX_SUMMARY`] bytes.
    pub summary: Vec<u8>,
}

impl HeartbeatMsg {
    /// Whether every length is within its limit.
    #[must_use]
    pub fn in_bounds(&self) -> bool {
        self.groups.len() <= MAX_GROUPS && self.summary.len() <= MAX_SUMMARY
    }
}

/// What a node says about one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupBeat {
    /// The group.
    pub group: GroupName,
    /// Highest epoch the sender knows; its own while it leads.
    pub epoch: Epoch,
    /// The sender leads the group at `epoch` and its decision core is alive.
    pub leading: bool,
    /// Entitled to serve, or still starting or stopping the group. Not a statement of health.
    pub holds: bool,
    /// An epoch the sender has durably given up.
    pub released: Option<Epoch>,
    /// Before an orderly restart: the length of the promise asked for, milliseconds.
    pub ask_ms: Option<u32>,
    /// Could start the group now: in sync as far as it knows, online, containers prepared.
    pub ready: bool,
    /// `GroupState` of the sender as a number, for status.
    pub state: u8,
    /// The sender's boot id for the group; zero if not known yet.
    pub boot: BootId,
    /// mod_revision of the in-sync record as the sender knows it.
    pub insync_rev: i64,
    /// The last leader's heartbeat acknowledged.
    pub ack: Option<Ack>,
}

impl GroupBeat {
    /// Whether it says the same as another one of that sender and group. When what it acknowledges was sent is part of the
    /// acknowledgement and no news.
    #[must_use]
    pub fn says_as(&self, other: &Self) -> bool {
        let timeless =
            |b: &Self| Self { ack: b.ack.clone().map(|a| Ack { sent: Instant::ZERO, ..a }), ..b.clone() };
        timeless(self) == timeless(other)
    }
}

/// An acknowledgement: a promise not to take over for `promise_ms` from when it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The leader it is for.
    pub leader: NodeName,
    /// The leader's incarnation in the acknowledged heartbeat.
    pub incarnation: u64,
    /// The leader's epoch in it.
    pub epoch: Epoch,
    /// The leader's send time in it.
    pub sent: Instant,
    /// Length of the promise, milliseconds.
    pub promise_ms: u32,
}
