//! What the API asks for: desired state goes to etcd, where whichever agent it concerns finds it.

use super::history::History;
use super::owner::Back;
use crate::api::{Accepted, CommandError, Commands, SpecDocument};
use crate::core::group::Event as CoreEvent;
use crate::etcd::{Etcd, EtcdError};
use crate::heartbeat::clock;
use crate::spec::Spec;
use crate::status::{ClusterStatus, Event, GroupStatus, NodeMode};
use baton_replicator::types::{GroupName, Instant, NodeName};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// A core that has not run for this long is not alive: ten times the default warntime, so that a loaded machine
/// does not restart an agent that only was slow.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Carries out the API's commands.
pub(super) struct DriverCommands {
    pub(super) me: NodeName,
    pub(super) back: mpsc::Sender<Back>,
    pub(super) spec: Arc<Spec>,
    pub(super) etcd: Etcd,
    pub(super) history: History,
    pub(super) status: watch::Receiver<ClusterStatus>,
    pub(super) alive: Arc<AtomicU64>,
}

impl DriverCommands {
    fn known_node(&self, node: &NodeName) -> Result<(), CommandError> {
        if self.spec.nodes.contains_key(node) {
            return Ok(());
        }
        let names: Vec<&str> = self.spec.nodes.keys().map(NodeName::as_str).collect();
        Err(CommandError::NotFound(format!("there is no node {node}; the nodes are {}", names.join(", "))))
    }

    fn group(&self, name: &GroupName) -> Result<GroupStatus, CommandError> {
        let found = self.status.borrow().groups.iter().find(|g| g.name == *name).cloned();
        found.ok_or_else(|| {
            let names: Vec<&str> = self.spec.groups.keys().map(GroupName::as_str).collect();
            CommandError::NotFound(format!("there is no group {name}; the groups are {}", names.join(", ")))
        })
    }
}

fn unavailable(error: &EtcdError) -> CommandError {
    CommandError::Unavailable(format!("etcd did not confirm it: {error}; try again"))
}

impl Commands for DriverCommands {
    fn set_mode(&self, node: NodeName, mode: NodeMode) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            self.known_node(&node)?;
            self.etcd.put_mode(&node, mode).await.map_err(|e| unavailable(&e))?;
            let message = match mode {
                NodeMode::Online => format!("{node} may lead groups again"),
                NodeMode::Standby => {
                    format!("{node} hands its groups over and leads none until it is online again")
                }
                NodeMode::Maintenance => {
                    format!("nothing is moved or restarted on {node} until it is online again")
                }
            };
            self.history.record(None, crate::core::group::Severity::Info, &format!("asked for: {message}"));
            Ok(Accepted { message })
        })
    }

    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let known = self.group(&group)?;
            let target = match to {
                Some(node) => {
                    self.known_node(&node)?;
                    if known.leader.as_ref() == Some(&node) {
                        return Ok(Accepted { message: format!("{group} is on {node} already") });
                    }
                    let there = known.nodes.iter().find(|n| n.node == node);
                    if let Some(n) = there.filter(|n| !n.ready) {
                        return Err(CommandError::Refused(format!(
                            "{node} cannot take {group} now: {}",
                            n.reason
                        )));
                    }
                    node
                }
                None => {
                    let other = |n: &&crate::status::GroupNode| Some(&n.node) != known.leader.as_ref();
                    let ready = known.nodes.iter().filter(other).find(|n| n.ready);
                    let Some(best) = ready else {
                        let why: Vec<String> = known
                            .nodes
                            .iter()
                            .filter(other)
                            .map(|n| format!("{}: {}", n.node, n.reason))
                            .collect();
                        let text = format!("no node can take {group} now ({})", why.join("; "));
                        return Err(CommandError::Refused(text));
                    };
                    best.node.clone()
                }
            };
            self.etcd.put_target(&group, Some(&target)).await.map_err(|e| unavailable(&e))?;
            let message = format!("{group} moves to {target}");
            self.history.record(
                Some(&group),
                crate::core::group::Severity::Info,
                &format!("asked for: {message}"),
            );
            Ok(Accepted { message })
        })
    }

    fn recover(&self, group: GroupName) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            self.group(&group)?;
            let message = format!("{} trusts what etcd says about {group} now", self.me);
            self.history.record(
                Some(&group),
                crate::core::group::Severity::Warning,
                &format!("asked for: {message}"),
            );
            let gone = |_| CommandError::Internal("the owner loop has ended".into());
            self.back.send(Back::Group(group, CoreEvent::Recover)).await.map_err(gone)?;
            Ok(Accepted { message })
        })
    }

    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>> {
        Box::pin(async move {
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            self.etcd.events(last).await.map_err(|e| unavailable(&e))
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.history.subscribe()
    }

    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>> {
        Box::pin(async move {
            let found = self.etcd.spec().await.map_err(|e| unavailable(&e))?;
            let (text, version) = found.ok_or_else(|| {
                CommandError::NotFound(
                    "etcd holds no specification yet; start an agent with --spec FILE".into(),
                )
            })?;
            Ok(SpecDocument { text, version })
        })
    }

    fn core_alive(&self) -> bool {
        let ran = Instant(self.alive.load(Ordering::Relaxed));
        clock::now().since(ran) < ALIVE_WITHIN
    }
}
