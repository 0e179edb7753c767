//! External fence agents in the snapshot, and the level of safety in force for a group.

use super::{ClusterStatus, FencedBy};
use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was done to a node from outside, last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceRecord {
    /// Grows with every attempt.
    pub id: u64,
    /// `off`, `reboot`, `on` or `status`.
    pub action: String,
    /// The node whose agent did it.
    pub by: NodeName,
    /// On whose account.
    pub because: String,
    /// When it ended, seconds since 1970.
    pub at: u64,
    /// It succeeded, confirmed by the devices.
    pub ok: bool,
    /// What the devices said.
    pub said: String,
    /// The node was heard since: it is no longer certain to be off.
    #[serde(default)]
    pub over: bool,
}

impl FenceRecord {
    /// A blank one of `by`.
    #[must_use]
    pub fn of(by: NodeName) -> Self {
        Self {
            id: 0,
            action: String::new(),
            by,
            because: String::new(),
            at: 0,
            ok: false,
            said: String::new(),
            over: false,
        }
    }
}

/// One fence device of a node, as the answering agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceDeviceStatus {
    /// Its level, from 1.
    pub level: usize,
    /// Agent program and where the device is.
    pub name: String,
    /// It answered when it was asked last; none if it was not asked yet.
    pub answers: Option<bool>,
    /// Why not.
    pub said: String,
    /// When it was asked last, seconds since 1970; 0 = not yet.
    pub asked: u64,
}

/// A node's external fencing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FenceStatus {
    /// Its devices, by level. A node does not ask its own.
    pub devices: Vec<FenceDeviceStatus>,
    /// What the answering agent does to it now (`off`, …).
    pub running: Option<String>,
    /// What was done to it last, by any agent.
    pub last: Option<FenceRecord>,
    /// It was switched off, and has not been heard since: it serves nobody.
    pub off: bool,
    /// Successful attempts of the answering agent since its start.
    pub done: u64,
    /// Failed ones.
    pub failed: u64,
}

/// One of the things that keep two nodes from serving a group at the same time, beside promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Safety {
    /// The leader's kernel drops packets of the addresses at the moment until which it may serve.
    KernelGate,
    /// Only the lifetime of the addresses ends them, seconds later.
    AddressLifetimeOnly,
    /// A watchdog device resets the leader's host if its agent hangs.
    Watchdog,
    /// Other nodes can switch the leader's host off.
    ExternalAgent,
}

impl Safety {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::KernelGate, Self::AddressLifetimeOnly, Self::Watchdog, Self::ExternalAgent];

    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::KernelGate => "kernel gate (nftables)",
            Self::AddressLifetimeOnly => "address lifetime only",
            Self::Watchdog => "watchdog armed",
            Self::ExternalAgent => "external agent",
        }
    }

    /// As in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::KernelGate => "kernel_gate",
            Self::AddressLifetimeOnly => "address_lifetime_only",
            Self::Watchdog => "watchdog",
            Self::ExternalAgent => "external_agent",
        }
    }
}

impl ClusterStatus {
    /// Whether `node` is certain to be off: its fence devices confirmed it, and it has not been heard since. As good as a
    /// person's word that it is off.
    #[must_use]
    pub fn is_off(&self, node: &NodeName) -> bool {
        self.nodes.iter().any(|n| n.name == *node && n.fence.as_ref().is_some_and(|f| f.off))
    }

    /// Says of each group what is in force on its leader; nothing of one without a leader, or whose leader has not said.
    pub fn judge_safety(&mut self) {
        for group in &mut self.groups {
            let leader = group.leader.as_ref();
            let Some(node) = self.nodes.iter().find(|n| Some(&n.name) == leader) else {
                group.safety.clear();
                continue;
            };
            let by = node.fencing.as_ref().filter(|_| !group.addresses.is_empty()).map(|f| match f.by {
                FencedBy::Nftables => Safety::KernelGate,
                FencedBy::AddressLifetime => Safety::AddressLifetimeOnly,
            });
            let watchdog = node.fencing.as_ref().is_some_and(|f| f.watchdog).then_some(Safety::Watchdog);
            let devices = node.fence.as_ref().is_some_and(|f| !f.devices.is_empty());
            let external = devices.then_some(Safety::ExternalAgent);
            group.safety = by.into_iter().chain(watchdog).chain(external).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::healthy;

    #[test]
    fn a_groups_safety_is_that_of_its_leader() {
        let mut status = healthy();
        status.judge_safety();
        assert_eq!(status.groups[0].safety, [Safety::KernelGate]);
        let fencing = status.nodes[0].fencing.as_mut().unwrap();
        (fencing.by, fencing.watchdog) = (FencedBy::AddressLifetime, true);
        let device =
            FenceDeviceStatus { level: 1, name: "x".into(), answers: None, said: String::new(), asked: 0 };
        let (devices, running, last) = (vec![device], None, None);
        status.nodes[0].fence = Some(FenceStatus { devices, running, last, off: false, done: 0, failed: 0 });
        status.judge_safety();
        let (alpha, beta) = (status.nodes[0].name.clone(), status.nodes[1].name.clone());
        assert!(!status.is_off(&alpha) && !status.is_off(&beta));
        status.nodes[0].fence.as_mut().unwrap().off = true;
        assert!(status.is_off(&alpha) && !status.is_off(&beta));
        let all = [Safety::AddressLifetimeOnly, Safety::Watchdog, Safety::ExternalAgent];
        assert_eq!(status.groups[0].safety, all);
        status.groups[0].leader = None;
        status.judge_safety();
        assert!(status.groups[0].safety.is_empty());
    }
}
