//! Names of the keys, under `/baton/<cluster>/` (DESIGN "Keys in etcd").

use baton_replicator::types::{GroupName, NodeName};

/// Makes the keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// For the cluster of this name.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { prefix: format!("/baton/{cluster}/") }
    }

    /// What all keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The specification.
    #[must_use]
    pub fn spec(&self) -> String {
        format!("{}spec", self.prefix)
    }

    /// What all entries of the specification's history begin with.
    #[must_use]
    pub fn spec_history(&self) -> String {
        format!("{}spec-history/", self.prefix)
    }

    /// The entry of the specification that replaced version `replaced` (0: the first one). It is written in the
    /// transaction that writes the specification, so its own revision is that specification's version.
    #[must_use]
    pub fn spec_entry(&self, replaced: i64) -> String {
        format!("{}{replaced:020}", self.spec_history())
    }

    /// What all keys of nodes begin with.
    #[must_use]
    pub fn nodes(&self) -> String {
        format!("{}nodes/", self.prefix)
    }

    /// Stands under the node's lease while its agent lives.
    #[must_use]
    pub fn alive(&self, node: &NodeName) -> String {
        format!("{}{node}/alive", self.nodes())
    }

    /// The operator's wish for a node.
    #[must_use]
    pub fn mode(&self, node: &NodeName) -> String {
        format!("{}{node}/mode", self.nodes())
    }

    /// What was said about the mode. Beside it and not in it: agents of before take the mode for one word.
    #[must_use]
    pub fn mode_note(&self, node: &NodeName) -> String {
        format!("{}-note", self.mode(node))
    }

    /// Written when the end of a maintenance was told.
    #[must_use]
    pub fn mode_told(&self, node: &NodeName) -> String {
        format!("{}-told", self.mode(node))
    }

    /// A group's leader.
    #[must_use]
    pub fn leader(&self, group: &GroupName) -> String {
        format!("{}groups/{group}/leader", self.prefix)
    }

    /// A group's in-sync set.
    #[must_use]
    pub fn insync(&self, group: &GroupName) -> String {
        format!("{}groups/{group}/insync", self.prefix)
    }

    /// A counter that only this node's agent writes.
    #[must_use]
    pub fn fence(&self, group: &GroupName, node: &NodeName) -> String {
        format!("{}groups/{group}/fence/{node}", self.prefix)
    }

    /// The node that an operator asked for.
    #[must_use]
    pub fn target(&self, group: &GroupName) -> String {
        format!("{}groups/{group}/target", self.prefix)
    }

    /// Whether an operator has pinned or disabled a group.
    #[must_use]
    pub fn wish(&self, group: &GroupName) -> String {
        format!("{}groups/{group}/wish", self.prefix)
    }

    /// What all keys of tokens begin with.
    #[must_use]
    pub fn tokens(&self) -> String {
        format!("{}tokens/", self.prefix)
    }

    /// A token of the API.
    #[must_use]
    pub fn token(&self, id: &str) -> String {
        format!("{}{id}", self.tokens())
    }

    /// What all keys of the history begin with.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}events/", self.prefix)
    }

    /// An entry of the history; sorts by number.
    #[must_use]
    pub fn event(&self, n: u64) -> String {
        format!("{}{n:020}", self.events())
    }

    /// What all keys about what a target of notifications has been told begin with.
    #[must_use]
    pub fn notified(&self, target: &str) -> String {
        format!("{}notified/{target}/", self.prefix)
    }
}
