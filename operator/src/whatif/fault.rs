//! What goes down: how people write it, and what it means.

use crate::status::ClusterStatus;
use baton_replicator::types::NodeName;
use std::fmt;

/// Most faults at once: more than the nodes of any cluster and what is between them.
pub const MOST_FAULTS: usize = 16;

/// Something that goes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `NODE`: a host's power.
    Node(NodeName),
    /// `agent:NODE`: only its agent.
    Agent(NodeName),
    /// `cable:NODE`: every cable of a host; it stays on.
    Cable(NodeName),
    /// `etcd`: all of it.
    Etcd,
    /// `etcd:NODE`: a node's way to it.
    EtcdFor(NodeName),
    /// `link`, `link:2`: a network between the nodes, counted from 1 in the order of the specification.
    Link(usize),
}

impl Fault {
    /// Reads a list of them, separated by commas.
    ///
    /// # Errors
    /// A sentence that says what may be written.
    pub fn list(text: &str, status: &ClusterStatus) -> Result<Vec<Self>, String> {
        let words: Vec<&str> = text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
        if words.is_empty() {
            return Err(format!("nothing goes down. {}", may_be(status)));
        }
        if words.len() > MOST_FAULTS {
            return Err(format!("{} things go down at once; at most {MOST_FAULTS} may.", words.len()));
        }
        words.into_iter().map(|word| Self::read(word, status)).collect()
    }

    fn read(word: &str, status: &ClusterStatus) -> Result<Self, String> {
        let unknown = || format!("'{}' is not known here. {}", shown(word), may_be(status));
        let node = |name: &str| {
            status.nodes.iter().find(|n| n.name.as_str() == name).map(|n| n.name.clone()).ok_or_else(unknown)
        };
        match word.split_once(':') {
            None if word == "etcd" => Ok(Self::Etcd),
            None if word == "link" => Self::link(1, status),
            None => node(word).map(Self::Node),
            Some(("node", name)) => node(name).map(Self::Node),
            Some(("agent", name)) => node(name).map(Self::Agent),
            Some(("cable", name)) => node(name).map(Self::Cable),
            Some(("etcd", name)) => node(name).map(Self::EtcdFor),
            Some(("link", number)) => Self::link(number.parse().map_err(|_| unknown())?, status),
            Some(_) => Err(unknown()),
        }
    }

    fn link(number: usize, status: &ClusterStatus) -> Result<Self, String> {
        let links = links(status);
        match number {
            1.. if number <= links => Ok(Self::Link(number)),
            _ => Err(format!("there is no link {number}: the nodes have {links}.")),
        }
    }

    /// In words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Node(node) => format!("{node} goes down"),
            Self::Agent(node) => format!("the agent on {node} dies"),
            Self::Cable(node) => format!("every cable of {node} is pulled"),
            Self::Etcd => "etcd goes down".into(),
            Self::EtcdFor(node) => format!("{node} loses its way to etcd"),
            Self::Link(number) => format!("link {number} goes down"),
        }
    }
}

impl fmt::Display for Fault {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Agent(node) => write!(f, "agent:{node}"),
            Self::Cable(node) => write!(f, "cable:{node}"),
            Self::Etcd => f.write_str("etcd"),
            Self::EtcdFor(node) => write!(f, "etcd:{node}"),
            Self::Link(number) => write!(f, "link:{number}"),
        }
    }
}

/// How many links the nodes have: as many as the one with most.
pub(super) fn links(status: &ClusterStatus) -> usize {
    status.nodes.iter().map(|n| n.heartbeat.len().max(1)).max().unwrap_or(1)
}

/// So much of a word as an error may repeat.
fn shown(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn may_be(status: &ClusterStatus) -> String {
    let names: Vec<&str> = status.nodes.iter().map(|n| n.name.as_str()).collect();
    format!(
        "What may go down: a node ({}), etcd, link (or link:2 …), agent:NODE, cable:NODE, etcd:NODE.",
        names.join(", ")
    )
}
