//! Decisions as lines that people read.

use super::scene::{ME, node};
use baton_operator::core::beat::GroupBeat;
use baton_operator::core::group::{Action, GroupCore};
use baton_operator::core::promises::Part;
use baton_operator::core::record::{Durable, LeaderWrite, LeaseRef, Txn, TxnKind};
use baton_operator::core::runtime::Goal;
use baton_replicator::types::NodeName;

fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeName>) -> Vec<&'a str> {
    nodes.into_iter().map(NodeName::as_str).collect()
}

pub fn action(action: &Action) -> String {
    match action {
        Action::Persist(d) => memory(d),
        Action::Read(_) => "etcd: read".into(),
        Action::WriteFence(_) => "etcd: write the fence key".into(),
        Action::Txn(txn) => transaction(txn),
        Action::SetVolume(volume, d) => {
            let required = names(d.required.iter().map(|m| &m.node));
            let force = if d.force { ", by force" } else { "" };
            format!("volume {volume}: {:?} in epoch {}, required {required:?}{force}", d.role, d.epoch)
        }
        Action::FenceNode { node, .. } => format!("fence agents: switch {node} off"),
        Action::Event(severity, text) => format!("{severity:?}: {text}"),
    }
}

pub fn memory(d: &Durable) -> String {
    let promise = d
        .promise
        .as_ref()
        .map_or(String::new(), |p| format!(", promised until {} ms", p.until.0 / 1_000_000));
    format!("remember: knows {}, served {}, released {}{promise}", d.known, d.served, d.released)
}

pub fn goal(goal: Goal) -> String {
    match goal {
        Goal::Hold => "leave as it is".into(),
        Goal::Run { epoch, .. } => format!("run in epoch {epoch}"),
        Goal::Fence => "fence".into(),
        Goal::Standby => "stand by, hot".into(),
        Goal::Stop { force: true } => "stop at once".into(),
        Goal::Stop { force: false } => "stop in order".into(),
    }
}

pub fn part(part: &Part) -> String {
    match part {
        Part::Standby { acknowledge: true, long_promise } if !long_promise.is_zero() => {
            format!("acknowledge, promising up to {} s", long_promise.as_secs())
        }
        Part::Standby { acknowledge: true, .. } => "acknowledge".into(),
        Part::Standby { acknowledge: false, .. } => "acknowledge nobody".into(),
        Part::Leader { members, others, serve, busy, ask, .. } => {
            let others = match names(others) {
                others if others.is_empty() => String::new(),
                others => format!(" and candidates {others:?}"),
            };
            let busy = if *busy { ", busy" } else { "" };
            let ask = ask.map_or(String::new(), |d| format!(", asks for {} s", d.as_secs()));
            let serve = if *serve { "may serve" } else { "may not serve yet" };
            format!("lead with E = {:?}{others}, {serve}{busy}{ask}", names(members))
        }
    }
}

fn transaction(txn: &Txn) -> String {
    let kind = format!("{:?}", txn.kind);
    let leader = match &txn.leader {
        LeaderWrite::Keep => String::new(),
        LeaderWrite::Delete => ", no leader".into(),
        LeaderWrite::Put(key, lease) => {
            let lease = match lease {
                LeaseRef::Mine if key.node == node(ME) => String::new(),
                LeaseRef::Mine => " under the own lease".into(),
                LeaseRef::Of(id) => format!(" under lease {id}"),
            };
            format!(", leader {} in epoch {}{lease}", key.node, key.epoch)
        }
    };
    let insync = txn.insync.as_ref().map_or(String::new(), |i| {
        let fresh = if i.fresh { ", fresh" } else { "" };
        format!(", in sync {:?}{fresh}", names(i.members.iter().map(|m| &m.node)))
    });
    let listed = txn.insync.as_ref().filter(|_| txn.kind == TxnKind::Candidates);
    let listed = listed.map_or(String::new(), |i| format!(", candidates {:?}", names(&i.candidates)));
    let target = if txn.clear_target { ", target cleared" } else { "" };
    format!("etcd: {}{leader}{insync}{listed}{target}", kind.split('(').next().unwrap_or_default())
}

pub fn status(core: &GroupCore) -> String {
    let view = core.view_of();
    let advice = view.advice.map_or(String::new(), |a| format!(" | advice: {a}"));
    let retired = if core.retired() { " | may be dropped" } else { "" };
    format!("{}: {}{advice}{retired}", view.state.word(), view.reason)
}

/// What the next heartbeat says of the group.
pub fn beat(beat: &GroupBeat) -> String {
    let mut said = vec![if beat.leading {
        format!("leads {}{}", beat.epoch, if beat.holds { ", holds it" } else { ", does not hold it" })
    } else {
        format!("does not lead, knows {}", beat.epoch)
    }];
    if let Some(ack) = &beat.ack {
        said.push(format!("last acknowledged {} of {}", ack.epoch, ack.leader));
    }
    if let Some(epoch) = beat.released {
        said.push(format!("gave {epoch} up"));
    }
    if beat.ready {
        said.push("ready".into());
    }
    format!("says: {}", said.join("; "))
}
