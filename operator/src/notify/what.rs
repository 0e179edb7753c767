//! The states that are told: the list of them, and what is fixed about each. Pure.
//!
//! A [`What`] names one state of one thing. It is what agents agree upon through etcd, so each of them can tell the end
//! of what another one began.

use crate::spec::Severity;
use crate::status::{ClusterStatus, NodeMode};
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use serde::{Deserialize, Serialize};

/// A state worth telling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A group that should serve does not.
    NobodyServes(GroupName),
    /// It could not be started, or not be kept running.
    Failed(GroupName),
    /// The leader is fenced.
    Fenced(GroupName),
    /// Nobody could take the group over.
    NoStandby(GroupName),
    /// Both replicas of a volume have writes that the other lacks.
    SplitBrain(GroupName, VolumeName),
    /// I/O of the leader's volume waits.
    Frozen(GroupName, VolumeName, NodeName),
    /// A replica lost its disk.
    Disk(GroupName, NodeName),
    /// A replica is being brought up to date.
    Resync(GroupName, NodeName),
    /// A container of the leader is not running or not healthy.
    Service(GroupName, String),
    /// A node is not heard.
    NodeLost(NodeName),
    /// The node's replicator does not answer its agent.
    Replicator(NodeName),
    /// No living node reaches etcd.
    EtcdLost,
    /// This one does not, others do.
    EtcdOutOfReach(NodeName),
    /// A certificate of this node ends soon, or has ended.
    Certificate(NodeName, String),
    /// A node is in standby mode.
    Standby(NodeName),
    /// A node is in maintenance.
    Maintenance(NodeName),
}

impl What {
    /// Its name: part of keys in etcd, of message ids, and in JSON.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::NobodyServes(g) => format!("{g}/nobody-serves"),
            Self::Failed(g) => format!("{g}/failed"),
            Self::Fenced(g) => format!("{g}/fenced"),
            Self::NoStandby(g) => format!("{g}/no-standby"),
            Self::SplitBrain(g, v) => format!("{g}/split-brain/{v}"),
            Self::Frozen(g, v, n) => format!("{g}/frozen/{v}/{n}"),
            Self::Disk(g, n) => format!("{g}/disk/{n}"),
            Self::Resync(g, n) => format!("{g}/resync/{n}"),
            Self::Service(g, s) => format!("{g}/service/{s}"),
            Self::NodeLost(n) => format!("node/{n}/lost"),
            Self::Replicator(n) => format!("node/{n}/replicator"),
            Self::EtcdLost => "etcd/lost".into(),
            Self::EtcdOutOfReach(n) => format!("node/{n}/etcd"),
            Self::Certificate(n, c) => format!("node/{n}/certificate/{c}"),
            Self::Standby(n) => format!("node/{n}/standby"),
            Self::Maintenance(n) => format!("node/{n}/maintenance"),
        }
    }

    /// The group it concerns, if one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::NobodyServes(g)
            | Self::Failed(g)
            | Self::Fenced(g)
            | Self::NoStandby(g)
            | Self::SplitBrain(g, _)
            | Self::Frozen(g, _, _)
            | Self::Disk(g, _)
            | Self::Resync(g, _)
            | Self::Service(g, _) => Some(g),
            Self::NodeLost(_)
            | Self::Replicator(_)
            | Self::EtcdLost
            | Self::EtcdOutOfReach(_)
            | Self::Certificate(..)
            | Self::Standby(_)
            | Self::Maintenance(_) => None,
        }
    }

    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::NobodyServes(_)
            | Self::Failed(_)
            | Self::Fenced(_)
            | Self::SplitBrain(..)
            | Self::Frozen(..)
            | Self::Disk(..) => Severity::Critical,
            Self::NoStandby(_)
            | Self::Service(..)
            | Self::NodeLost(_)
            | Self::Replicator(_)
            | Self::EtcdLost
            | Self::EtcdOutOfReach(_)
            | Self::Certificate(..) => Severity::Warning,
            Self::Resync(..) | Self::Standby(_) | Self::Maintenance(_) => Severity::Info,
        }
    }

    /// Told without waiting whether it lasts: never a blip, or one that a person has to know of.
    #[must_use]
    pub fn at_once(&self) -> bool {
        match self {
            Self::Failed(_)
            | Self::Fenced(_)
            | Self::SplitBrain(..)
            | Self::Disk(..)
            | Self::Standby(_)
            | Self::Maintenance(_) => true,
            Self::NobodyServes(_)
            | Self::NoStandby(_)
            | Self::Frozen(..)
            | Self::Resync(..)
            | Self::Service(..)
            | Self::NodeLost(_)
            | Self::Replicator(_)
            | Self::EtcdLost
            | Self::EtcdOutOfReach(_)
            | Self::Certificate(..) => false,
        }
    }

    /// The only node that can see it, if there is only one.
    #[must_use]
    pub fn seen_by(&self) -> Option<&NodeName> {
        match self {
            Self::Frozen(_, _, n) | Self::Replicator(n) | Self::Certificate(n, _) => Some(n),
            _ => None,
        }
    }

    /// What to say when it is over.
    #[must_use]
    pub fn over(&self, status: &ClusterStatus) -> String {
        let group = self.group().and_then(|g| status.groups.iter().find(|s| s.name == *g));
        let leader = group.and_then(|g| g.leader.as_ref()).map_or("a node", NodeName::as_str);
        match self {
            Self::NobodyServes(g) => format!("{g}: {leader} serves again"),
            Self::Failed(g) => format!("{g}: no longer failed"),
            Self::Fenced(g) => format!("{g}: no longer fenced"),
            Self::NoStandby(g) => {
                let ready = group.and_then(|g| g.nodes.iter().find(|n| n.ready));
                match ready {
                    Some(n) => format!("{g}: redundant again, {} could take over from {leader}", n.node),
                    None => format!("{g}: redundant again"),
                }
            }
            Self::SplitBrain(g, v) => format!("{g}: the split brain of volume {v} is resolved"),
            Self::Frozen(g, v, n) => format!("{g}: I/O of volume {v} on {n} flows again"),
            Self::Disk(g, n) => format!("{g}: {n} has a disk again"),
            Self::Resync(g, n) => {
                let in_sync = group.is_some_and(|g| g.in_sync.contains(n));
                format!("{g}: resync of {n} ended{}", if in_sync { ", it is in sync" } else { "" })
            }
            Self::Service(g, s) => format!("{g}: service {s} runs again"),
            Self::NodeLost(n) => format!("node {n} is back"),
            Self::Replicator(n) => format!("the replicator on {n} answers again"),
            Self::EtcdLost => "etcd is back".into(),
            Self::EtcdOutOfReach(n) => format!("{n} reaches etcd again"),
            Self::Certificate(n, c) => format!("certificate {c} of {n} is renewed"),
            Self::Standby(n) => format!("node {n} is no longer in standby mode"),
            Self::Maintenance(n) => format!("maintenance of node {n} is over"),
        }
    }
}

/// The state that a mode of a node is, if it is one.
pub(super) fn of_mode(node: &NodeName, mode: NodeMode) -> Option<What> {
    match mode {
        NodeMode::Online => None,
        NodeMode::Standby => Some(What::Standby(node.clone())),
        NodeMode::Maintenance => Some(What::Maintenance(node.clone())),
    }
}
