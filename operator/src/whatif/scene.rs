//! The snapshot in the terms of the model.

use super::fault::Fault;
use crate::core::record::{GroupWish, StoredNote};
use crate::core::whatif::{Cut, Scene, SceneNode};
use crate::status::{ClusterStatus, GroupStatus, ModeNote, NodeStatus};
use baton_replicator::types::{DiskState, NodeName};
use std::collections::BTreeSet;
use std::time::Duration;

/// One group as it stands.
pub(super) fn of(status: &ClusterStatus, group: &GroupStatus) -> Scene {
    let settings = &group.settings;
    let node = |node: &NodeStatus| {
        let part = group.nodes.iter().find(|p| p.node == node.name);
        let member = group.members.iter().find(|m| m.node == node.name);
        let known = part.and_then(|p| p.disk).filter(|d| *d != DiskState::DUnknown);
        let fallback = if member.is_some() { DiskState::UpToDate } else { DiskState::Inconsistent };
        let boots = member.map(|m| m.boot).zip(part.and_then(|p| p.boot));
        SceneNode {
            name: node.name.clone(),
            up: node.alive,
            etcd: node.etcd.unwrap_or(node.alive),
            mode: node.mode,
            disk: if settings.data { known.unwrap_or(fallback) } else { DiskState::UpToDate },
            same_boot: boots.is_none_or(|(recorded, present)| recorded == present),
        }
    };
    Scene {
        timers: status.timers.core(),
        nodes: status.nodes.iter().map(node).collect(),
        prefer: settings.prefer.clone(),
        placing: settings.placing(),
        failure_timeout: Duration::from_millis(settings.failure_timeout_ms),
        after_power_loss: settings.after_power_loss(),
        data: settings.data,
        addresses: !group.addresses.is_empty(),
        leader: group.leader.clone(),
        members: group.in_sync.clone(),
        target: group.target.clone(),
        wish: GroupWish { pinned: note(&group.pinned), disabled: note(&group.disabled) },
    }
}

/// Times play no part in what the cores decide.
fn note(said: &Option<ModeNote>) -> Option<StoredNote> {
    said.as_ref().map(|n| StoredNote {
        owner: n.owner.clone(),
        reason: n.reason.clone(),
        since: 0,
        until: None,
    })
}

/// What the faults cut.
///
/// # Errors
/// The timers are not such that the model could run with them.
pub(super) fn cut(status: &ClusterStatus, faults: &[Fault]) -> Result<Cut, String> {
    status.timers.core().check().map_err(|error| format!("the timers make no sense: {error}"))?;
    let mut cut = Cut::default();
    let mut links = BTreeSet::new();
    for fault in faults {
        match fault {
            Fault::Node(node) => drop(cut.hosts.insert(node.clone())),
            Fault::Agent(node) => drop(cut.agents.insert(node.clone())),
            Fault::Cable(node) => {
                cut.etcd.insert(node.clone());
                for other in status.nodes.iter().map(|n| &n.name).filter(|n| *n != node) {
                    cut.beats.insert((node.clone(), other.clone()));
                    cut.beats.insert((other.clone(), node.clone()));
                    cut.blocks.insert(pair(node, other));
                }
            }
            Fault::Etcd => cut.all_etcd = true,
            Fault::EtcdFor(node) => drop(cut.etcd.insert(node.clone())),
            Fault::Link(number) => drop(links.insert(number - 1)),
        }
    }
    for (from, to) in pairs(status) {
        if deaf(to, &links) {
            cut.beats.insert((from.name.clone(), to.name.clone()));
        }
        if unreplicated(to, &links) {
            cut.blocks.insert(pair(&from.name, &to.name));
        }
    }
    cut.all_etcd |= majority_lost(status, faults) == Some(true);
    Ok(cut)
}

fn pairs(status: &ClusterStatus) -> impl Iterator<Item = (&NodeStatus, &NodeStatus)> {
    let to = move |a| status.nodes.iter().map(move |b: &NodeStatus| (a, b));
    status.nodes.iter().flat_map(to).filter(|(a, b): &(&NodeStatus, &NodeStatus)| a.name != b.name)
}

/// Smaller name first.
fn pair(a: &NodeName, b: &NodeName) -> (NodeName, NodeName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

/// No heartbeat reaches it with these links down.
fn deaf(node: &NodeStatus, links: &BTreeSet<usize>) -> bool {
    !links.is_empty() && (0..node.heartbeat.len().max(1)).all(|i| links.contains(&i))
}

/// No block reaches it: a replication link goes with the heartbeat link that has its address.
fn unreplicated(node: &NodeStatus, links: &BTreeSet<usize>) -> bool {
    let first = std::slice::from_ref(&node.address);
    let beats = if node.heartbeat.is_empty() { first } else { &node.heartbeat };
    let blocks = if node.replication.is_empty() { first } else { &node.replication };
    let down = |a: &String| beats.iter().position(|b| b == a).is_some_and(|i| links.contains(&i));
    !links.is_empty() && blocks.iter().all(down)
}

/// Whether etcd loses its majority with the hosts that go; none if its endpoints do not say where its members are.
pub(super) fn majority_lost(status: &ClusterStatus, faults: &[Fault]) -> Option<bool> {
    let hosts: Vec<&str> = status.etcd.endpoints.iter().map(|e| host_of(e)).collect();
    let local = |h: &&str| *h == "localhost" || *h == "::1" || h.starts_with("127.");
    if hosts.is_empty() || hosts.iter().any(local) {
        return None;
    }
    let gone: Vec<&NodeStatus> = status
        .nodes
        .iter()
        .filter(|n| {
            let goes = |f: &Fault| matches!(f, Fault::Node(x) | Fault::Cable(x) if *x == n.name);
            // One that is silent already is off as well.
            faults.iter().any(goes) || !n.alive
        })
        .collect();
    let on = |node: &NodeStatus, host: &str| {
        node.name.as_str() == host
            || [&node.address].into_iter().chain(&node.heartbeat).chain(&node.replication).any(|a| a == host)
    };
    let lost = hosts.iter().filter(|h| gone.iter().any(|n| on(n, h))).count();
    Some(hosts.len() - lost <= hosts.len() / 2)
}

/// The host of a URL, without the brackets of an IPv6 address.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or_default();
    match rest.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => rest.rsplit_once(':').map_or(rest, |(host, _)| host),
    }
}
