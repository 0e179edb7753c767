//! Why a group is where it is: the facts (held, lost, unknown), the rule in force, and what would change it, from one
//! snapshot. Pure; behind `baton explain` and `GET /v1/groups/{group}/explain`.
//!
//! It says nothing that the snapshot does not hold: reasons are the agents' own sentences.

mod rule;
#[cfg(test)]
mod tests;

use crate::cli::group_health;
use crate::cli::paint::duration_ms;
use crate::cli::words;
use crate::status::{ClusterStatus, GroupNode, GroupState, GroupStatus, Health};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A group explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The group.
    pub group: String,
    /// `ok`, `degraded` or `down`, for this group alone.
    pub health: Health,
    /// What is, one sentence each.
    pub facts: Vec<String>,
    /// What should be there and is not, one sentence each.
    #[serde(default)]
    pub lost: Vec<String>,
    /// What the answering agent does not know, one sentence each.
    #[serde(default)]
    pub unknown: Vec<String>,
    /// The rules that decide now, with their figures, one sentence each.
    #[serde(default)]
    pub rule: Vec<String>,
    /// Why it is so, one sentence each; empty if the snapshot gives no reason.
    pub because: Vec<String>,
    /// What would change it, one sentence each.
    pub changes: Vec<String>,
}

/// Explains one group of a snapshot.
#[must_use]
pub fn explain(status: &ClusterStatus, group: &GroupStatus) -> Explanation {
    Explanation {
        group: group.name.to_string(),
        health: group_health(group),
        facts: facts(status, group),
        lost: lost(status, group),
        unknown: unknown(status, group),
        rule: rule::in_force(status, group),
        because: because(group),
        changes: changes(status, group),
    }
}

fn facts(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let name = group.name.as_str();
    let mut facts = vec![match (&group.leader, group.state) {
        (Some(leader), GroupState::Serving) => {
            format!("{leader} leads group {name} in epoch {} and serves.", group.epoch.number)
        }
        (Some(leader), state) => format!(
            "{leader} leads group {name} in epoch {} and does not serve; its state is {}.",
            group.epoch.number,
            words::group_state(state)
        ),
        (None, _) => format!("Nobody leads group {name}; the last epoch known is {}.", group.epoch.number),
    }];
    let in_sync: Vec<&str> = group.in_sync.iter().map(|n| n.as_str()).collect();
    facts.push(match in_sync.as_slice() {
        [] => "No node is known to hold every acknowledged write.".to_owned(),
        [one] => format!("Only {one} holds every acknowledged write."),
        several => format!("{} hold every acknowledged write.", several.join(", ")),
    });
    let state = status.etcd.state.sentence();
    if !status.etcd.reachable {
        let what = state.map(|s| format!(" ({s})")).unwrap_or_default();
        facts.push(format!(
            "{} cannot reach etcd{what}: who serves goes on, leadership cannot change. That is not a lost leadership, \
             which would stand in the group's record.",
            status.node
        ));
    } else if let Some(what) = state {
        facts.push(format!("For {}, {what}.", status.node));
    }
    let leader = status.nodes.iter().find(|n| Some(&n.name) == group.leader.as_ref());
    if let Some((leader, fencing)) = leader.and_then(|n| Some((n, n.fencing.as_ref()?)))
        && !group.addresses.is_empty()
    {
        facts.push(format!("{} is fenced by {}.", leader.name, words::fencing(fencing)));
    }
    facts.extend(words::placement(group, &status.at).map(|text| format!("It is {text}.")));
    if let Some(lead) = &group.settings.with {
        facts.push(format!("It goes with group {lead}: on the same node, started after it."));
    }
    if !group.settings.apart_from.is_empty() {
        let names: Vec<&str> = group.settings.apart_from.iter().map(|g| g.as_str()).collect();
        facts.push(format!("It keeps apart from {} while another node is ready.", names.join(", ")));
    }
    if let Some(target) = &group.target {
        facts.push(format!("A person asked for it to move to {target}."));
    }
    facts
}

/// What was held once, or should be, and is not.
fn lost(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let mut lost = Vec::new();
    for node in status.nodes.iter().filter(|n| !n.alive) {
        let member =
            if group.in_sync.contains(&node.name) { ", and is still in the in-sync set" } else { "" };
        if let Some(age) = node.age_ms {
            lost.push(format!("{} has not been heard for {}{member}.", node.name, duration_ms(age)));
        }
    }
    for node in status.nodes.iter().filter(|n| n.alive && n.name != status.node && n.etcd == Some(false)) {
        lost.push(format!("{} says that it cannot reach etcd.", node.name));
    }
    for promise in group.entitlement.iter().flat_map(|e| &e.promises).filter(|p| p.good_ms.is_none()) {
        lost.push(format!("{} has given no promise that still counts.", promise.node));
    }
    lost
}

/// What this agent has no facts about.
fn unknown(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let mut unknown = Vec::new();
    for node in status.nodes.iter().filter(|n| n.age_ms.is_none()) {
        unknown.push(format!("{} was never heard: what it holds is not known.", node.name));
    }
    match group.fresh.record_ms {
        None => unknown.push("The group's record in etcd has not been read yet.".to_owned()),
        Some(age) if !status.etcd.reachable => unknown.push(format!(
            "Whether the record in etcd has changed since it was read {} ago.",
            duration_ms(age)
        )),
        Some(_) => {}
    }
    if let Some(leader) = group.leader.as_ref().filter(|l| **l != status.node) {
        unknown.push(format!("Until when {leader} may serve: only its own agent knows."));
    }
    if group.settings.data && group.fresh.volumes_ms.is_none() {
        unknown.push(format!("What the volumes hold: {}'s replicator has not answered.", status.node));
    }
    unknown
}

fn because(group: &GroupStatus) -> Vec<String> {
    let mut because = Vec::new();
    if !group.reason.is_empty() {
        because.push(format!("{}: {}", group.name, group.reason));
    }
    for part in others(group).filter(|part| !part.ready && !part.reason.is_empty()) {
        because.push(format!("{} could not take over: {}", part.node, part.reason));
    }
    for volume in &group.volumes {
        if let Some(frozen) = &volume.frozen {
            because.push(format!("volume {} is frozen: {frozen}", volume.volume));
        }
    }
    because
}

fn others(group: &GroupStatus) -> impl Iterator<Item = &GroupNode> {
    group.nodes.iter().filter(|part| Some(&part.node) != group.leader.as_ref())
}

fn changes(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let mut all = Vec::new();
    let ready: Vec<&str> = others(group).filter(|p| p.ready).map(|p| p.node.as_str()).collect();
    let serving = group.state == GroupState::Serving;
    match (&group.leader, ready.as_slice(), status.etcd.reachable) {
        (Some(leader), [], _) if serving => {
            all.push(format!("If {leader} fails now, the service stops until {leader} is back."));
        }
        (Some(leader), ready, true) if serving => {
            let who = ready.join(" or ");
            all.push(format!("If {leader} fails now, {who} takes over by itself."));
            all.push(format!("'baton move {} --to {}' hands it over in order.", group.name, ready[0]));
        }
        (Some(leader), _, false) if serving => {
            all.push(format!("If {leader} fails now, nobody takes over before etcd answers again."));
        }
        (_, [], _) => {}
        (_, ready, _) => all.push(format!("{} may start it by itself.", ready.join(" or "))),
    }
    for part in others(group) {
        if let Some(percent) = part.resync_percent {
            let eta = group.volumes.iter().flat_map(|v| &v.peers).find(|p| p.node == part.node);
            let eta = eta.and_then(|p| p.resync).and_then(|r| r.eta_s);
            let eta = eta.map(|s| format!(", in about {s} s")).unwrap_or_default();
            all.push(format!("When {}'s resync ends (now {percent:.1} %{eta}) it may take over.", part.node));
        }
    }
    // The agents' advice about this group, or about everything when it is the only one.
    let about = |text: &String| {
        let word = |w: &str| w.trim_matches(|c: char| !c.is_alphanumeric()) == group.name.as_str();
        text.split_whitespace().any(word) || status.groups.len() == 1
    };
    all.extend(status.advice.iter().filter(|text| about(text)).cloned());
    all
}
