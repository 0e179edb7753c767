//! What the API asks of the driver. The driver implements [`Commands`]; tests use a fake.

use crate::status::{Event, NodeMode};
use baton_replicator::types::{GroupName, NodeName};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// Why a command was not accepted. The text says what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Names something that the specification does not have.
    #[error("{0}")]
    NotFound(String),
    /// Understood and refused in the present state.
    #[error("{0}")]
    Refused(String),
    /// etcd (or what else is needed) is out of reach; may be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

/// A command that was written as desired state; whichever agent it concerns carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// What was accepted, one sentence.
    pub message: String,
}

/// The specification in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecDocument {
    /// The document as it was applied.
    pub text: String,
    /// Its version: the key's mod_revision.
    pub version: i64,
}

/// What the API can ask of the agent. Every call is bounded by its implementation and again by the API.
pub trait Commands: Send + Sync + 'static {
    /// Writes a node's mode.
    fn set_mode(&self, node: NodeName, mode: NodeMode) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// Asks for a handover of `group`, to `to` or to the best standby.
    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// A person vouches for what etcd says about `group` now. Concerns this agent only: every agent has to hear it.
    fn recover(&self, group: GroupName) -> BoxFuture<'_, Result<Accepted, CommandError>>;

    /// The newest `last` entries of the history, oldest first.
    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>>;

    /// Entries as they are written. A receiver that lags misses some and is told so.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    /// The specification in force.
    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>>;

    /// The decision core has run lately (`/livez`).
    fn core_alive(&self) -> bool;
}
