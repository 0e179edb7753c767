//! Builds the status snapshot from what the driver holds. A pure function of its inputs.

use super::summary::{GroupSummary, NodeSummary, ServiceBrief};
use super::{maintenance, placement};
use crate::basis::{Entitlement, GroupSettings, TimersStatus};
use crate::core::group::GroupView;
use crate::core::promises::PeerFacts;
use crate::core::record::NodeKeys;
use crate::spec::Spec;
use crate::status::{
    ClusterStatus, EtcdStatus, Freshness, GroupNode, GroupState, GroupStatus, Health, HeartbeatStatus,
    ModeNote, NodeStatus, ServiceStatus, Takeover, unix_seconds,
};
use baton_replicator::api::{Handshakes, VolumeStatus};
use baton_replicator::types::{ConnectionState, DiskState, Epoch, GroupName, Instant, NodeName, Protocol};
use std::collections::BTreeMap;
use std::time::Duration;

/// One group as this node's driver sees it.
#[derive(Clone, Debug)]
pub struct GroupInput {
    /// The leadership core's view.
    pub view: GroupView,
    /// Containers on this node.
    pub services: Vec<ServiceStatus>,
    /// The newest change of leadership carried out here.
    pub takeover: Option<Takeover>,
    /// When its containers on this node were seen last.
    pub seen: Option<Instant>,
    /// When its record was read last.
    pub read: Option<Instant>,
    /// The change of leadership under way here.
    pub under_way: Option<Takeover>,
    /// What this node may serve it on, while it leads it.
    pub entitlement: Option<Entitlement>,
}

/// Everything the snapshot is made of.
pub struct Input<'a> {
    /// The specification in force.
    pub spec: &'a Spec,
    /// This node.
    pub me: &'a NodeName,
    /// CLOCK_BOOTTIME.
    pub now: Instant,
    /// Wall clock.
    pub at: String,
    /// Incarnation of this agent.
    pub incarnation: u64,
    /// etcd.
    pub etcd: EtcdStatus,
    /// Peers as heard.
    pub peers: &'a BTreeMap<NodeName, PeerFacts>,
    /// Datagrams refused by the transport, by the node whose address they came from; under this node those from
    /// elsewhere.
    pub refused: &'a BTreeMap<NodeName, u64>,
    /// Version of the specification in force; 0 if it does not come from etcd.
    pub spec_version: i64,
    /// Modes of nodes, with what was said about them.
    pub node_keys: &'a BTreeMap<NodeName, NodeKeys>,
    /// Groups.
    pub groups: &'a BTreeMap<GroupName, GroupInput>,
    /// Volumes here; none if the replicator does not answer.
    pub volumes: Option<&'a [VolumeStatus]>,
    /// When the replicator here answered last.
    pub volumes_at: Option<Instant>,
    /// Things that need a person, beyond the groups' own advice.
    pub advice: Vec<String>,
}

/// Builds the snapshot.
#[must_use]
pub fn build(input: &Input<'_>) -> ClusterStatus {
    let summaries: BTreeMap<&NodeName, NodeSummary> =
        input.peers.iter().filter_map(|(n, p)| Some((n, NodeSummary::decode(&p.summary)?))).collect();
    let nodes: Vec<NodeStatus> = input.spec.nodes.keys().map(|name| node(input, &summaries, name)).collect();
    let mut groups: Vec<GroupStatus> = input
        .spec
        .groups
        .keys()
        .filter_map(|name| Some(group(input, &summaries, name, input.groups.get(name)?)))
        .collect();
    placement::rest_with_others(&mut groups);
    let mut advice: Vec<String> = input.groups.values().filter_map(|g| g.view.advice.clone()).collect();
    advice.extend(input.advice.iter().cloned());
    advice.extend(nodes.iter().filter_map(maintenance::advice));
    advice.extend(groups.iter().filter_map(|g| placement::advice(g, &groups)));
    if input.volumes.is_none() && input.spec.has_volumes() {
        advice.push(format!("the replicator on {} does not answer: look at its log and start it", input.me));
    }
    for volume in input.volumes.into_iter().flatten() {
        if let Some(alarm) = volume.alarms.last() {
            advice.push(format!("volume {} on {}: {alarm}", volume.volume, input.me));
        }
    }
    ClusterStatus {
        cluster: input.spec.cluster.clone(),
        node: input.me.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        at: input.at.clone(),
        health: health(&groups),
        advice,
        etcd: input.etcd.clone(),
        nodes,
        groups,
        certificates: Vec::new(),
        replicator_reachable: input.volumes.is_some() || !input.spec.has_volumes(),
        handshakes: Handshakes::default(),
        notifications: Vec::new(),
        heartbeat: HeartbeatStatus::default(),
        timers: TimersStatus::of_spec(&input.spec.heartbeat),
    }
}

fn health(groups: &[GroupStatus]) -> Health {
    let serves = |g: &GroupStatus| g.state == GroupState::Serving || g.rests();
    let ready = |g: &GroupStatus| g.nodes.iter().any(|n| Some(&n.node) != g.leader.as_ref() && n.ready);
    let covered = |g: &GroupStatus| ready(g) || g.rests();
    if !groups.iter().all(serves) {
        Health::Down
    } else if groups.iter().all(covered) {
        Health::Ok
    } else {
        Health::Degraded
    }
}

fn node(input: &Input<'_>, summaries: &BTreeMap<&NodeName, NodeSummary>, name: &NodeName) -> NodeStatus {
    let mine = name == input.me;
    let peer = input.peers.get(name);
    let keys = input.node_keys.get(name);
    let age = peer.and_then(|p| p.heard).map(|heard| input.now.since(heard));
    let warntime = input.spec.heartbeat.warntime;
    NodeStatus {
        name: name.clone(),
        alive: mine || age.is_some_and(|a| a < warntime),
        age_ms: if mine { Some(0) } else { age.map(millis) },
        mode: keys.map(|k| k.mode).unwrap_or_default(),
        mode_note: keys.and_then(|k| k.note.as_ref()).map(|note| ModeNote::of(note, seconds_of(&input.at))),
        address: input.spec.nodes[name].address.to_string(),
        version: if mine {
            Some(env!("CARGO_PKG_VERSION").into())
        } else {
            summaries.get(name).map(|s| s.version.clone())
        },
        incarnation: if mine { Some(input.incarnation) } else { peer.and_then(|p| p.incarnation) }
            .map(|i| format!("{i:016x}")),
        // A silence that still lasts counts.
        longest_gap_ms: peer.map_or(0, |p| millis(p.longest_gap.max(age.unwrap_or_default()))),
        late_heartbeats: peer.map_or(0, |p| p.late),
        refused_datagrams: input.refused.get(name).copied().unwrap_or(0),
        spec_version: if mine {
            Some(input.spec_version)
        } else {
            summaries.get(name).map(|s| s.more.spec_version)
        }
        .filter(|v| *v != 0),
        etcd: if mine {
            Some(input.etcd.reachable)
        } else {
            peer.filter(|p| p.heard.is_some()).map(|p| p.etcd)
        },
        fence: None,
        fencing: summaries.get(name).and_then(|s| super::fencing::of_number(s.more.fencing)),
        replicator_memory: None,
        heartbeat: input.spec.nodes[name].heartbeat.iter().map(ToString::to_string).collect(),
        replication: input.spec.nodes[name].replication.iter().map(ToString::to_string).collect(),
    }
}

/// 0 if it cannot be read: nothing is over then.
fn seconds_of(at: &str) -> u64 {
    humantime::parse_rfc3339(at).map_or(0, unix_seconds)
}

fn group(
    input: &Input<'_>,
    summaries: &BTreeMap<&NodeName, NodeSummary>,
    name: &GroupName,
    own: &GroupInput,
) -> GroupStatus {
    let view = &own.view;
    let spec = &input.spec.groups[name];
    let volumes: Vec<VolumeStatus> =
        input.volumes.into_iter().flatten().filter(|v| v.group == *name).cloned().collect();
    let summary =
        |node: &NodeName| summaries.get(node).and_then(|s| s.groups.iter().find(|g| g.group == *name));
    let nodes: Vec<GroupNode> =
        input.spec.nodes.keys().map(|node| part(input, name, own, &volumes, summary(node), node)).collect();
    let of_leader = view.leader.as_ref().and_then(|l| nodes.iter().find(|n| n.node == *l));
    let leads_here = view.leader.as_ref() == Some(input.me);
    let fresh =
        |n: &&GroupNode| n.age_ms.is_some_and(|a| u128::from(a) < input.spec.heartbeat.deadtime.as_millis());
    let (state, reason) = match of_leader.filter(fresh) {
        Some(leader) if !leads_here => (leader.state, leader.reason.clone()),
        Some(_) => (view.group_state, view.reason.clone()),
        None => (
            if leads_here || view.leader.is_none() { view.group_state } else { GroupState::Unknown },
            view.reason.clone(),
        ),
    };
    let mut in_sync: Vec<NodeName> = view.members.iter().map(|m| m.node.clone()).collect();
    in_sync.sort();
    let fresh = freshness(input, own, of_leader);
    let services = if leads_here || view.leader.is_none() {
        own.services.clone()
    } else {
        let brief = view.leader.as_ref().and_then(summary).map(|s| s.services.as_slice()).unwrap_or_default();
        brief.iter().map(|b| service(input, name, view.leader.as_ref(), b)).collect()
    };
    GroupStatus {
        safety: Vec::new(),
        name: name.clone(),
        leader: view.leader.clone(),
        epoch: view.epoch,
        state,
        reason,
        in_sync,
        members: view.members.clone(),
        target: view.target.clone(),
        pinned: view.wish.pinned.as_ref().map(|note| ModeNote::of(note, 0)),
        disabled: view.wish.disabled.as_ref().map(|note| ModeNote::of(note, 0)),
        rests_with: None,
        memory: Some(view.memory.clone()),
        addresses: spec.addresses.iter().map(ToString::to_string).collect(),
        nodes,
        volumes,
        services,
        checks: Vec::new(),
        last_takeover: own.takeover.clone(),
        fresh,
        under_way: own.under_way.clone(),
        availability: crate::status::Availability::default(),
        settings: GroupSettings::of(spec),
        entitlement: own.entitlement.clone(),
    }
}

fn freshness(input: &Input<'_>, own: &GroupInput, leader: Option<&GroupNode>) -> Freshness {
    let since = |at: Option<Instant>| at.map(|at| millis(input.now.since(at)));
    let (services_from, services_ms) = match leader {
        Some(leader) if leader.node != *input.me => (&leader.node, leader.age_ms),
        Some(_) | None => (input.me, since(own.seen)),
    };
    Freshness {
        record_ms: since(own.read),
        // While the replicator does not answer nothing is said about volumes.
        volumes_from: input.volumes.is_some().then(|| input.me.clone()),
        volumes_ms: since(input.volumes_at).filter(|_| input.volumes.is_some()),
        services_from: services_ms.is_some().then(|| services_from.clone()),
        services_ms,
    }
}

fn service(
    input: &Input<'_>,
    group: &GroupName,
    leader: Option<&NodeName>,
    brief: &ServiceBrief,
) -> ServiceStatus {
    let leader = leader.map_or("?", NodeName::as_str);
    ServiceStatus {
        name: brief.name.clone(),
        container: format!("{}-{leader}-{group}-{}", input.spec.cluster, brief.name),
        state: brief.state.clone(),
        health: brief.health.clone(),
        restarts: brief.restarts,
        error: None,
    }
}

fn part(
    input: &Input<'_>,
    group: &GroupName,
    own: &GroupInput,
    volumes: &[VolumeStatus],
    summary: Option<&GroupSummary>,
    node: &NodeName,
) -> GroupNode {
    let reached = |v: &crate::spec::Volume| v.protocols.get(node).copied().unwrap_or(v.protocol);
    let asynchronous = input.spec.groups[group].volumes.values().any(|v| reached(v) == Protocol::A);
    if node == input.me {
        let view = &own.view;
        return GroupNode {
            node: node.clone(),
            state: view.group_state,
            age_ms: Some(0),
            epoch: view.epoch,
            disk: worst_disk(volumes),
            boot: view.boot,
            ready: view.ready.is_ok(),
            reason: view.ready.as_ref().err().cloned().unwrap_or_else(|| view.reason.clone()),
            resync_percent: resync_here(volumes),
            asynchronous,
        };
    }
    let peer = input.peers.get(node);
    let beat = peer.and_then(|p| p.groups.get(group));
    let age = peer.and_then(|p| p.heard).map(|heard| input.now.since(heard));
    let silent = age.is_none_or(|a| a >= input.spec.heartbeat.warntime);
    // Known here before its next heartbeat says so itself: whoever asks after a command is not told otherwise.
    let mode = input.node_keys.get(node).map(|keys| keys.mode).unwrap_or_default();
    let away = beat.filter(|b| b.ready).and_then(|_| mode.keeps_away());
    let reason = match (age, summary) {
        (None, _) => "never heard".to_owned(),
        (Some(age), _) if silent => format!("not heard for {:.1} s", age.as_secs_f64()),
        (Some(_), _) if let Some(away) = away => away.to_owned(),
        (Some(_), Some(s)) => s.reason.clone(),
        (Some(_), None) => String::new(),
    };
    GroupNode {
        node: node.clone(),
        state: beat.filter(|_| !silent).map_or(GroupState::Unknown, |b| state_of(b.state)),
        age_ms: age.map(millis),
        epoch: beat.map_or(Epoch::ZERO, |b| b.epoch),
        disk: if volumes.is_empty() { None } else { summary.and_then(|s| s.disk).filter(|_| !silent) },
        boot: beat.map(|b| b.boot).filter(|b| b.0 != 0),
        ready: !silent && away.is_none() && beat.is_some_and(|b| b.ready),
        reason,
        resync_percent: resync_of(volumes, node)
            .or_else(|| summary.filter(|_| !silent)?.resync.map(|r| f64::from(r) / 10.0)),
        asynchronous,
    }
}

/// The state that a heartbeat carries as a number.
#[must_use]
pub fn state_of(number: u8) -> GroupState {
    const ALL: [GroupState; 10] = [
        GroupState::Unknown,
        GroupState::Standby,
        GroupState::Campaigning,
        GroupState::Waiting,
        GroupState::Starting,
        GroupState::Serving,
        GroupState::Fenced,
        GroupState::Stopping,
        GroupState::HandingOver,
        GroupState::Failed,
    ];
    ALL.into_iter().find(|s| *s as u8 == number).unwrap_or_default()
}

/// The worst of a group's replicas.
#[must_use]
pub fn worst_disk(volumes: &[VolumeStatus]) -> Option<DiskState> {
    let rank = |d: DiskState| match d {
        DiskState::UpToDate => 0,
        DiskState::Consistent => 1,
        DiskState::DUnknown => 2,
        DiskState::Attaching => 3,
        DiskState::Outdated => 4,
        DiskState::Inconsistent => 5,
        DiskState::Diskless => 6,
        DiskState::Failed => 7,
    };
    volumes.iter().map(|v| v.disk).max_by_key(|d| rank(*d))
}

/// Progress of a resync towards this node, per cent, worst of its volumes.
#[must_use]
pub fn resync_here(volumes: &[VolumeStatus]) -> Option<f64> {
    let target = |v: &VolumeStatus| {
        let p = v.peers.iter().find(|p| p.connection == ConnectionState::SyncTarget)?;
        p.resync.map(percent)
    };
    volumes.iter().filter_map(target).min_by(f64::total_cmp)
}

fn resync_of(volumes: &[VolumeStatus], node: &NodeName) -> Option<f64> {
    let source = |v: &VolumeStatus| {
        let p = v.peers.iter().find(|p| p.node == *node && p.connection == ConnectionState::SyncSource)?;
        p.resync.map(percent)
    };
    volumes.iter().filter_map(source).min_by(f64::total_cmp)
}

#[expect(clippy::cast_precision_loss, reason = "per cent for people")]
fn percent(p: baton_replicator::api::ResyncProgress) -> f64 {
    if p.total_bytes == 0 { 100.0 } else { 100.0 * p.done_bytes as f64 / p.total_bytes as f64 }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
