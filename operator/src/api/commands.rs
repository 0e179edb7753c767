//! What the API asks of the driver. The driver implements [`Commands`]; tests use a fake.

use super::{Applied, Apply, ApplyError, SpecVersion};
use crate::core::record::ModeWish;
use crate::fence::Action;
use crate::notify::TestOutcome;
use crate::status::{Event, NodeMode};
use baton_replicator::api::ExportStatus;
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// Why a command was not accepted. The text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Names something that the specification does not have.
    #[error("{0}")]
    NotFound(String),
    /// Understood and refused in the present state.
    #[error("{0}")]
    Refused(String),
    /// Depended on a version that is no longer in force.
    #[error("{detail}")]
    Changed {
        /// What has changed.
        detail: String,
        /// The version in force, if known.
        current: Option<i64>,
    },
    /// etcd (or what else is needed) is out of reach; may be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

/// How a command is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Say what would happen and whether it would be refused; change nothing.
    pub dry_run: bool,
    /// Only if what is changed is still at this version (its key's mod_revision; 0 = never set).
    pub expected: Option<i64>,
}

/// A mode that somebody asks for. What is left out stays as it was if the node has that mode already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange {
    /// The mode.
    pub mode: NodeMode,
    /// Who asks.
    pub by: String,
    /// Whose business it is, if not theirs.
    pub owner: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When a maintenance is to be over, seconds since 1970.
    pub until: Option<u64>,
}

/// What somebody wants of a group's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It leaves its node only when it must; it is moved to this node first, if one is named.
    Pin(Option<NodeName>),
    /// It may move by itself again.
    Unpin,
    /// It is stopped, and nobody starts it.
    Disable,
    /// It may run again.
    Enable,
}

/// A change of a group's place. What is left out stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceChange {
    /// What is wanted.
    pub what: Place,
    /// Who asks.
    pub by: String,
    /// Whose business it is, if not theirs.
    pub owner: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// How a split brain shall end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The node whose data is given up; it must not lead the group.
    pub discard: NodeName,
    /// Keep a copy first, or give nothing up.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub snapshot: bool,
}

fn yes() -> bool {
    true
}

/// After etcd lost a group's record: the group shall start again from what the answering node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// Nodes that are not heard and of which a person knows that they are off.
    #[serde(default)]
    pub off: Vec<NodeName>,
    /// Writes that the answering node lacks may be lost.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// A command that was written as desired state; whichever agent it concerns carries it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// What was accepted, or would be, one sentence.
    #[schema(examples("web moves to beta"))]
    pub message: String,
    /// Nothing was changed: it was only asked what would happen.
    #[serde(default)]
    #[schema(required)]
    pub dry_run: bool,
    /// What follows for services and hosts, one sentence each.
    #[serde(default)]
    #[schema(required, examples(json!(["mysql and apache stop on alpha and start on beta"])))]
    pub consequences: Vec<String>,
}

/// The specification in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpecDocument {
    /// The document as it was applied.
    #[schema(examples("cluster: demo\n"))]
    pub text: String,
    /// Its version: the key's mod_revision.
    #[schema(examples(12))]
    pub version: i64,
}

/// A wish of an operator as etcd holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish<T> {
    /// The wish.
    pub value: T,
    /// Its version: the key's mod_revision; 0 if it was never expressed.
    pub version: i64,
}

/// What the API can ask of the agent. Every call is bounded by its implementation and again by the API.
pub trait Commands: Send + Sync + 'static {
    /// Writes a node's mode.
    fn set_mode(
        &self,
        node: NodeName,
        change: ModeChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Asks for a handover of `group`, to `to` or to the best standby.
    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Pins or disables `group`, or takes that back.
    fn place_group(
        &self,
        group: GroupName,
        change: PlaceChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// A person vouches for what etcd says about `group` now. Concerns this agent only: every agent has to hear it.
    fn recover(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Writes the record of `group` anew, from what this agent's node holds, after etcd lost it.
    fn restore(
        &self,
        group: GroupName,
        request: Restore,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Writes back to etcd what it lacks of the cluster and this agent remembers.
    fn write_back(&self, by: String, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// The newest `last` entries of the history, oldest first.
    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>>;

    /// Entries as they are written. A receiver that lags misses some and is told so.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    /// The specification in force.
    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>>;

    /// The decision core has run lately (`/livez`).
    fn core_alive(&self) -> bool;

    /// A node's mode as etcd holds it.
    fn mode(&self, node: NodeName) -> BoxFuture<'_, Result<Wish<ModeWish>, CommandError>>;

    /// The node that an operator asked for as leader of `group`.
    fn target(&self, group: GroupName) -> BoxFuture<'_, Result<Wish<Option<NodeName>>, CommandError>>;

    /// Takes back a move of `group` that has not begun.
    fn cancel_move(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Asks for a comparison of the replicas of `volume`; `repair`: copy what differs.
    fn verify(
        &self,
        volume: VolumeName,
        repair: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Stops the comparison.
    fn stop_verify(&self, volume: VolumeName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Lets the resyncs of `volume` stand still, or go on.
    fn pause_resync(
        &self,
        volume: VolumeName,
        paused: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Gives the data of one node's replica of `volume` up, so that the leader's is copied to it.
    fn resolve(
        &self,
        volume: VolumeName,
        request: Resolve,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Removes a copy of data that was given up; of `node`, if several have one of that name.
    fn release(
        &self,
        volume: VolumeName,
        snapshot: String,
        node: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Does something to `node` by its external fence agents, from this node, in the background. `who` asked.
    fn fence(
        &self,
        node: NodeName,
        action: Action,
        who: String,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Asks every fence device whether it answers, in the background.
    fn fence_test(&self) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Serves a snapshot of the replica here for backup. Concerns this node only.
    fn export(&self, volume: VolumeName) -> BoxFuture<'_, Result<ExportStatus, CommandError>>;

    /// Ends that.
    fn end_export(&self, volume: VolumeName) -> BoxFuture<'_, Result<(), CommandError>>;

    /// Checks, compares and, unless it is a dry run, writes a specification.
    fn apply_spec(&self, apply: Apply) -> BoxFuture<'_, Result<Applied, ApplyError>>;

    /// The specifications that were in force, oldest first, with their documents.
    fn spec_history(&self) -> BoxFuture<'_, Result<Vec<SpecVersion>, CommandError>>;

    /// Sends a test message to one target of notifications, or to all, and says what became of it.
    fn notify_test(&self, target: Option<String>) -> BoxFuture<'_, Result<Vec<TestOutcome>, CommandError>>;
}
