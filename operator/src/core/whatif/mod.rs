//! What would happen if: the cores of all nodes of one group, put into the state they are in now, driven through a
//! fault with simulated time.
//!
//! It decides nothing of its own. Each modelled host runs the production [`GroupCore`](super::group::GroupCore),
//! [`Runtime`](super::runtime::Runtime) and [`HeartbeatCore`](super::promises::HeartbeatCore); around them stand the
//! smallest models that do: an etcd with leases (`etcd`), a replica that is asked for its role (`host`), a network that
//! delivers in a millisecond or not at all (`world`).
//!
//! The fault strikes right after a heartbeat and a renewal of the lease: the times are the longest, not the average.
//! Starting containers takes no time here; how long it takes is for the caller to add from what was measured.

mod etcd;
mod host;
#[cfg(test)]
mod tests;
mod watcher;
mod world;

use super::group::{AfterPowerLoss, Placing};
use super::record::GroupWish;
use super::timing::Timers;
use crate::status::NodeMode;
use baton_replicator::types::{DiskState, GroupName, NodeName, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The epoch in force when the model begins, whatever the group's is: sentences are to be read against it.
pub const EPOCH: u64 = 7;

/// One group as it stands before the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The timers in force.
    pub timers: Timers,
    /// All nodes that may run it.
    pub nodes: Vec<SceneNode>,
    /// Preferred nodes, best first.
    pub prefer: Vec<NodeName>,
    /// See [`Placing`].
    pub placing: Placing,
    /// See [`GroupConfig`](super::group::GroupConfig).
    pub failure_timeout: Duration,
    /// See [`AfterPowerLoss`].
    pub after_power_loss: AfterPowerLoss,
    /// It has volumes.
    pub data: bool,
    /// It has addresses.
    pub addresses: bool,
    /// Whom etcd's leader key names.
    pub leader: Option<NodeName>,
    /// The in-sync set.
    pub members: Vec<NodeName>,
    /// The node an operator asked for.
    pub target: Option<NodeName>,
    /// Whether it is pinned or disabled.
    pub wish: GroupWish,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SceneNode {
    /// Its name.
    pub name: NodeName,
    /// It is heard.
    pub up: bool,
    /// It reaches etcd.
    pub etcd: bool,
    /// What its operator wishes.
    pub mode: NodeMode,
    /// Its data.
    pub disk: DiskState,
    /// Its boot id is the one in the in-sync set.
    pub same_boot: bool,
}

/// What goes away, all at one moment and for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Hosts whose power is cut.
    pub hosts: BTreeSet<NodeName>,
    /// Hosts whose agent dies; replicator and containers go on.
    pub agents: BTreeSet<NodeName>,
    /// Nodes that do not reach etcd any more.
    pub etcd: BTreeSet<NodeName>,
    /// etcd itself: its leases do not run out either.
    pub all_etcd: bool,
    /// Heartbeats from → to that do not arrive.
    pub beats: BTreeSet<(NodeName, NodeName)>,
    /// Pairs whose replication is cut, the smaller name first.
    pub blocks: BTreeSet<(NodeName, NodeName)>,
}

/// What opened the way for a new leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Silence for `deadtime`, while etcd's leader key still stood.
    Silence,
    /// The leader key was gone: its lease ran out, or it was given up.
    KeyGone,
    /// The leader handed it over.
    Handover,
}

/// A change of leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Won {
    /// The new leader.
    pub node: NodeName,
    /// From the fault until it may serve and begins to start the group, milliseconds.
    pub at_ms: u64,
    /// What opened the way.
    pub way: Way,
}

/// Something that a core said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// From the fault, milliseconds.
    pub at_ms: u64,
    /// Where.
    pub node: NodeName,
    /// Its sentence.
    pub text: String,
}

/// What would happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Who serves before the fault.
    pub before: Option<NodeName>,
    /// Who serves in the end.
    pub after: Option<NodeName>,
    /// The last change of leader.
    pub won: Option<Won>,
    /// When nobody serves, from the fault, milliseconds; the last may have no end. Time to start the group is not in it.
    pub gaps: Vec<(u64, Option<u64>)>,
    /// Who left the in-sync set when, without a change of leader.
    pub removed: Vec<(NodeName, u64)>,
    /// The in-sync set in the end.
    pub members: Vec<NodeName>,
    /// What the cores said, in order.
    pub moments: Vec<Moment>,
    /// Why each node whose agent lives is where it is in the end.
    pub reasons: BTreeMap<NodeName, String>,
    /// How far it was looked ahead, milliseconds.
    pub horizon_ms: u64,
}

/// Drives the cores through the fault. `volume` is the name that its volumes go by, if it has any.
#[must_use]
pub fn foresee(group: &GroupName, volume: &VolumeName, scene: &Scene, cut: &Cut) -> Outlook {
    world::World::new(group, volume, scene).through(cut)
}
