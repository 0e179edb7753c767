//! A group's record in etcd, the guarded transactions on it, and what a node keeps in its own state
//! directory. Plain data; the etcd adapter translates it, the state directory keeps [`Durable`] as a file.
//!
//! | key | type here |
//! | --- | --- |
//! | `groups/<group>/leader` | [`LeaderKey`], JSON |
//! | `groups/<group>/insync` | [`InSync`], JSON |
//! | `groups/<group>/fence/<node>` | only its mod_revision matters |
//! | `groups/<group>/target` | a node name |
//! | `groups/<group>/wish` | [`GroupWish`], JSON |
//! | `nodes/<node>/mode`, `nodes/<node>/alive` | [`NodeKeys`] |
//! | `nodes/<node>/mode-note` | [`StoredNote`], JSON; counts only while it has the mode's revision |
//! | `nodes/<node>/mode-told` | only its mod_revision matters: newer than the mode's once its end was told |

use crate::status::NodeMode;
use baton_replicator::types::{Epoch, Instant, Member, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Value of the leader key: written once per term, under the leader's lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderKey {
    /// The leader.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
    /// The leader before handed the group over: it has stopped serving.
    #[serde(default)]
    pub handed: bool,
}

/// Value of the in-sync key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InSync {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// Nodes that hold every acknowledged write, the leader included, with their boot ids.
    pub members: Vec<Member>,
    /// Nodes allowed to campaign.
    pub candidates: Vec<NodeName>,
    /// First start, never served yet: a blank volume may be formatted.
    #[serde(default)]
    pub fresh: bool,
}

/// A key's value with the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// mod_revision.
    pub revision: i64,
    /// The lease it stands under; 0 = none.
    pub lease: i64,
}

/// What was said when a mode was set, or a group pinned or disabled. Nothing is decided on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredNote {
    /// Who set it, or whom they named.
    pub owner: String,
    /// Why; empty if nothing was said.
    #[serde(default)]
    pub reason: String,
    /// When the mode was set, seconds since 1970.
    pub since: u64,
    /// When a maintenance is to be over, seconds since 1970.
    #[serde(default)]
    pub until: Option<u64>,
}

/// A mode with what was said about it: one wish, written in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModeWish {
    /// The mode.
    pub mode: NodeMode,
    /// The note; none if the mode was never set, or by an agent that writes none.
    pub note: Option<StoredNote>,
}

/// Where a person wants a group to be: it stands until somebody takes it back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupWish {
    /// It leaves the node it is on only when it must.
    #[serde(default)]
    pub pinned: Option<StoredNote>,
    /// It is stopped, and nobody starts it.
    #[serde(default)]
    pub disabled: Option<StoredNote>,
}

impl From<NodeMode> for ModeWish {
    fn from(mode: NodeMode) -> Self {
        Self { mode, note: None }
    }
}

/// Keys of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeKeys {
    /// Operator's wish.
    pub mode: NodeMode,
    /// What was said about it.
    pub note: Option<StoredNote>,
    /// Lease under which its `alive` key stands; none if it is not there.
    pub lease: Option<i64>,
}

/// Everything about one group as one linearizable read found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Identity of the etcd cluster that answered.
    pub cluster_id: u64,
    /// Revision of the answer.
    pub revision: i64,
    /// The leader key.
    pub leader: Option<Versioned<LeaderKey>>,
    /// The in-sync key.
    pub insync: Option<Versioned<InSync>>,
    /// mod_revision of this node's own fence key; 0 if absent.
    pub fence_rev: i64,
    /// The node an operator asked for.
    pub target: Option<NodeName>,
    /// Whether it is pinned or disabled.
    pub wish: GroupWish,
    /// Nodes with a mode or alive key.
    pub nodes: BTreeMap<NodeName, NodeKeys>,
}

impl Record {
    /// The epoch in force: the in-sync record's, or the leader key's if that one is missing.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let insync = self.insync.as_ref().map(|i| i.value.epoch);
        insync.or(self.leader.as_ref().map(|l| l.value.epoch)).unwrap_or(Epoch::ZERO)
    }

    /// The in-sync members, none without a record.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        self.insync.as_ref().map_or(&[], |i| &i.value.members)
    }

    /// Nodes allowed to campaign.
    #[must_use]
    pub fn candidates(&self) -> &[NodeName] {
        self.insync.as_ref().map_or(&[], |i| &i.value.candidates)
    }

    /// A node's mode (online unless something else was written).
    #[must_use]
    pub fn mode(&self, node: &NodeName) -> NodeMode {
        self.nodes.get(node).map(|n| n.mode).unwrap_or_default()
    }
}

/// The mod_revisions a transaction compares; 0 means "absent".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Of the leader key.
    pub leader: i64,
    /// Of the in-sync key.
    pub insync: i64,
    /// Of the writer's own fence key; none only where the rule is left out in a test.
    pub fence: Option<i64>,
}

/// Whose lease the leader key is put under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseRef {
    /// The writer's.
    Mine,
    /// Another node's, by id.
    Of(i64),
}

/// What a transaction does with the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderWrite {
    /// Leaves it.
    Keep,
    /// Puts it.
    Put(LeaderKey, LeaseRef),
    /// Deletes it.
    Delete,
}

/// Why a transaction is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnKind {
    /// The first record of a group.
    FirstStart,
    /// A standby takes over.
    Takeover,
    /// Members leave the in-sync set.
    Remove(Vec<NodeName>),
    /// A node enters the in-sync set.
    Admit(Member),
    /// The lost leader key is written again.
    Recreate,
    /// The serving leader writes its record into an etcd that is not the one it knew.
    Rewrite,
    /// The list of candidates changes.
    Candidates,
    /// The group goes to another node.
    Handover(NodeName),
    /// The leader key is deleted.
    Resign,
    /// The operator's target is reached and cleared.
    ClearTarget,
}

impl std::fmt::Display for TxnKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstStart => f.write_str("the first start"),
            Self::Takeover => f.write_str("the takeover"),
            Self::Remove(nodes) => {
                let all: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                write!(f, "the removal of {}", all.join(", "))
            }
            Self::Admit(member) => write!(f, "the admission of {}", member.node),
            Self::Recreate => f.write_str("the re-creation of the leader key"),
            Self::Rewrite => f.write_str("the rewritten record"),
            Self::Candidates => f.write_str("the list of candidates"),
            Self::Handover(to) => write!(f, "the handover to {to}"),
            Self::Resign => f.write_str("the deletion of the leader key"),
            Self::ClearTarget => f.write_str("the reached target"),
        }
    }
}

/// One transaction: all guards hold and everything is written, or nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Comes back in the outcome.
    pub id: u64,
    /// Why.
    pub kind: TxnKind,
    /// What is compared.
    pub guard: Guard,
    /// Identity of the etcd cluster whose record it goes by. Revisions are another cluster's, too, if it was restored from a
    /// backup of this one: what such a one answers says nothing, and counts as [`Outcome::Unknown`].
    pub cluster: u64,
    /// The leader key.
    pub leader: LeaderWrite,
    /// The in-sync key, if written.
    pub insync: Option<InSync>,
    /// Delete the target key.
    pub clear_target: bool,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed; every key written has this mod_revision.
    Committed {
        /// The revision.
        revision: i64,
    },
    /// A comparison failed, or etcd refused it for good (a lease that is gone): nothing was written.
    GuardFailed,
    /// Timed out, or the connection broke: it may have been committed or may still be.
    Unknown,
}

/// What one node must not forget about one group; a file in its state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// Highest epoch known.
    pub known: Epoch,
    /// The epoch this node has served as its leader: it may resume without waiting again.
    pub served: Epoch,
    /// The epoch it gave up.
    pub released: Epoch,
    /// The epoch in which it left the in-sync set because a disk had failed: others hold what was acknowledged since.
    #[serde(default)]
    pub left: Epoch,
    /// Identity of the etcd it trusts; 0 = none yet.
    pub cluster_id: u64,
    /// Highest revision at which it saw the record change.
    pub revision: i64,
    /// A promise longer than `deadtime` that it gave.
    pub promise: Option<LongPromise>,
}

/// A promise longer than `deadtime`, made durable before it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongPromise {
    /// It binds until then, on the clock of the host's present boot. After a reboot of the host the clock
    /// starts again, and the whole length counts from the start of the agent.
    pub until: Instant,
    /// Its length, milliseconds.
    pub length_ms: u64,
}
