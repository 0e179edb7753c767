//! The owner's and the API's side of external fencing: what the core asks for, and what a person asks for.

use super::commands::DriverCommands;
use super::consequences;
use super::owner::{Back, Owner};
use crate::api::{Accepted, CommandError, How};
use crate::core::group::Event;
use crate::fence::{Action, Because};
use baton_replicator::types::{GroupName, NodeName};

impl Owner {
    /// The core wants `node` off before it takes `group` over.
    pub(super) fn fence(&self, group: &GroupName, id: u64, node: NodeName, read: (i64, i64)) {
        let (fencer, back, group) = (self.fencer.clone(), self.back.clone(), group.clone());
        tokio::spawn(async move {
            let because = Because::Takeover(group.clone(), read.0, read.1);
            let outcome = fencer.fence(node, Action::Off, because).await;
            let _ = back.send(Back::Group(group, Event::NodeFenced(id, outcome))).await;
        });
    }
}

impl DriverCommands {
    pub(super) async fn ask_to_fence(
        &self,
        node: NodeName,
        action: Action,
        who: String,
        how: How,
    ) -> Result<Accepted, CommandError> {
        self.known_node(&node)?;
        self.fencer.could(&node).map_err(CommandError::Refused)?;
        let message = match action {
            Action::Status => format!("{} asks for the power of {node}", self.me),
            Action::Off => format!("{} switches {node} off", self.me),
            Action::Reboot => format!("{} switches {node} off and on again", self.me),
            Action::On => format!("{} switches {node} on", self.me),
        };
        let consequences = consequences::of_fence(&self.status.borrow(), &node, action);
        let accepted = Accepted { message, dry_run: how.dry_run, consequences };
        if how.dry_run {
            return Ok(accepted);
        }
        let fencer = self.fencer.clone();
        tokio::spawn(async move { fencer.fence(node, action, Because::Person(who)).await });
        Ok(accepted)
    }
}
