//! The rules of leadership that decide about a group now, with the figures they decide by.

use crate::cli::paint::duration_ms;
use crate::status::{ClusterStatus, GroupState, GroupStatus};
use baton_replicator::types::NodeName;

fn set(nodes: &[&NodeName]) -> String {
    let all: Vec<&str> = nodes.iter().map(|n| n.as_str()).collect();
    format!("{{{}}}", all.join(", "))
}

/// One sentence per rule.
pub(super) fn in_force(status: &ClusterStatus, group: &GroupStatus) -> Vec<String> {
    let mut rules = Vec::new();
    match (&group.leader, &group.rests_with) {
        _ if group.disabled.is_some() => rules.push(
            "A disabled group is stopped by its leader and started by nobody; its volumes stay replicated."
                .into(),
        ),
        (_, Some(lead)) => rules.push(format!(
            "A group that goes with another is stopped with it and started after it: {lead} is disabled."
        )),
        (Some(leader), None) => {
            rules.push(serving(status, group, leader));
            rules.extend(lease(group));
            rules.push(takeover(status, group, leader));
        }
        (None, None) => rules.push(start(status, group)),
    }
    if group.pinned.is_some() && !group.is_unwanted() {
        rules.push(
            "A pinned group leaves its node only when that dies, goes into standby mode or cannot run it."
                .into(),
        );
    }
    if !status.etcd.reachable {
        rules.push(
            "Without etcd nobody takes over and nobody leaves or enters the in-sync set: who serves goes on while all \
             promises are good."
                .into(),
        );
    }
    rules
}

/// By what the leader serves.
fn serving(status: &ClusterStatus, group: &GroupStatus, leader: &NodeName) -> String {
    let fencetime = duration_ms(status.timers.fencetime_ms);
    let alone = || {
        format!(
            "E is empty, nobody but {leader} may lead: it serves as long as its agent decides, {fencetime} (fencetime) \
             at a time."
        )
    };
    let Some(entitlement) = &group.entitlement else {
        let e: Vec<&NodeName> = group.in_sync.iter().filter(|n| *n != leader).collect();
        if e.is_empty() {
            return alone();
        }
        return format!(
            "{leader} serves while every node of E = {} promises not to take over; each acknowledged heartbeat renews \
             that to {fencetime} (fencetime) after it was sent.",
            set(&e)
        );
    };
    if entitlement.promises.is_empty() {
        return alone();
    }
    let e: Vec<&NodeName> = entitlement.promises.iter().map(|p| &p.node).collect();
    let left = match entitlement.serve_ms {
        0 => "it may not serve now".to_owned(),
        ms => format!("good for another {:.2} s", hundredths(ms)),
    };
    let state = if group.state == GroupState::Serving { "serves" } else { "may serve" };
    format!(
        "{leader} {state} while every node of E = {} promises not to take over: {left}; each acknowledged heartbeat \
         renews it to {fencetime} (fencetime) after it was sent.",
        set(&e)
    )
}

/// Rounded down: it counts no longer than that.
fn hundredths(ms: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    let seconds = (ms / 10) as f64;
    seconds / 100.0
}

/// What keeps candidates outside of E from taking over a group without data.
fn lease(group: &GroupStatus) -> Option<String> {
    let entitlement = group.entitlement.as_ref().filter(|_| !group.settings.data)?;
    Some(match entitlement.lease_ms {
        Some(ms) => format!(
            "Candidates outside of E are kept away by the leader key: its lease in etcd counts for another {:.2} s.",
            hundredths(ms)
        ),
        None => {
            "Its lease in etcd does not count: it serves only with the promises of all candidates.".into()
        }
    })
}

/// What a standby waits for.
fn takeover(status: &ClusterStatus, group: &GroupStatus, leader: &NodeName) -> String {
    let t = &status.timers;
    let who = if group.settings.data { "A member of the in-sync set" } else { "A candidate" };
    format!(
        "{who} takes over once it has heard nothing that {leader} holds the group for {} (deadtime), at the latest when \
         {leader}'s key in etcd is gone with its lease of {} (ttl).",
        duration_ms(t.deadtime_ms),
        duration_ms(t.ttl_ms)
    )
}

/// Who may start a group that nobody leads.
fn start(status: &ClusterStatus, group: &GroupStatus) -> String {
    let initdead = duration_ms(status.timers.initdead_ms);
    if !group.settings.data {
        return format!(
            "Any node that is online may start it; preferred ones go first, for up to {initdead} (initdead)."
        );
    }
    let members: Vec<&NodeName> = group.in_sync.iter().collect();
    if members.is_empty() {
        return format!(
            "It has never run: the first preferred node starts it, others after {initdead} (initdead)."
        );
    }
    format!(
        "Only a node of {} may start it: those hold every acknowledged write. Preferred ones go first, for up to \
         {initdead} (initdead).",
        set(&members)
    )
}
