//! Whether the devices still answer, so that a broken power switch is known before it is needed; and the board that status
//! shows.

use super::Fencer;
use super::agent::{Call, run};
use crate::core::group::Severity;
use crate::spec::Spec;
use crate::status::{ClusterStatus, FenceDeviceStatus, FenceRecord, FenceStatus, unix_seconds};
use baton_replicator::types::NodeName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Between two rounds: management boards have few sessions, and a night is long.
const ROUND: Duration = Duration::from_secs(300);
/// Between two looks at what other nodes have fenced.
const RECORDS: Duration = Duration::from_secs(5);

/// What is known.
#[derive(Default)]
pub(super) struct Board {
    /// The newest answer of each device, by node, level and place in it, with what it was asked as.
    pub(super) devices: BTreeMap<(NodeName, usize, usize), (String, FenceDeviceStatus)>,
    /// What is being done now.
    pub(super) running: BTreeMap<NodeName, String>,
    /// What was done last.
    pub(super) last: BTreeMap<NodeName, FenceRecord>,
    /// Successes and failures of this agent.
    pub(super) counts: BTreeMap<NodeName, (u64, u64)>,
}

impl Board {
    pub(super) fn with(last: BTreeMap<NodeName, FenceRecord>) -> Self {
        Self { last, ..Self::default() }
    }

    pub(super) fn count(&mut self, node: &NodeName, ok: bool) {
        let (done, failed) = self.counts.entry(node.clone()).or_default();
        *(if ok { done } else { failed }) += 1;
    }
}

impl Fencer {
    /// Asks every device of the other nodes, at the start, after each change of the specification, and every five minutes.
    pub(super) async fn watch_devices(self) {
        let mut in_force = self.0.parts.in_force.clone();
        loop {
            let spec = Arc::clone(&in_force.borrow_and_update());
            self.round(&spec).await;
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                () = self.0.look.notified() => {}
                changed = in_force.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn round(&self, spec: &Spec) {
        let parts = &self.0.parts;
        let others = spec.nodes.iter().filter(|(name, _)| **name != parts.me);
        let mut seen = BTreeMap::new();
        for (node, n) in others {
            for (level, devices) in n.fence.iter().enumerate() {
                for (place, device) in devices.iter().enumerate() {
                    let ended = run(&parts.dir, device, node, Call::Monitor).await;
                    let name = device.name();
                    let status = FenceDeviceStatus {
                        level: level + 1,
                        name: name.clone(),
                        answers: Some(ended.ok()),
                        said: if ended.ok() { String::new() } else { ended.words() },
                        asked: unix_seconds(SystemTime::now()),
                    };
                    let key = (node.clone(), level, place);
                    let before = self.board().devices.insert(key.clone(), (name.clone(), status.clone()));
                    let before = before.and_then(|(_, s)| s.answers);
                    self.tell(node, &status, before);
                    seen.insert(key, ());
                }
            }
        }
        self.board().devices.retain(|key, _| seen.contains_key(key));
    }

    /// A device that stops answering, or answers again.
    fn tell(&self, node: &NodeName, status: &FenceDeviceStatus, before: Option<bool>) {
        let history = &self.0.parts.history;
        let name = &status.name;
        match (before, status.answers) {
            (None | Some(true), Some(false)) => history.record(
                None,
                Severity::Warning,
                &format!("the fence device {name} of {node} does not answer: {}", status.said),
            ),
            (Some(false), Some(true)) => {
                history.record(
                    None,
                    Severity::Info,
                    &format!("the fence device {name} of {node} answers again"),
                );
            }
            _ => {}
        }
    }

    /// What other nodes have fenced. Nothing is asked of etcd while no node has devices.
    pub(super) async fn follow_records(self) {
        let mut look = tokio::time::interval(RECORDS);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.give_back().await;
            let spec = Arc::clone(&self.0.parts.in_force.borrow());
            if spec.nodes.values().all(|n| n.fence.is_empty()) {
                continue;
            }
            let Ok(records) = self.0.parts.etcd.fence_records().await else { continue };
            let mut board = self.board();
            for (node, record) in records {
                // What this node did last and could not write down yet is newer.
                if board.last.get(&node).is_none_or(|known| known.id < record.id) {
                    board.last.insert(node, record);
                }
            }
        }
    }

    /// Puts devices, what is being done and what was done into the snapshot, with advice where a person is needed.
    pub(crate) fn put_into(&self, status: &mut ClusterStatus) {
        let spec = Arc::clone(&self.0.parts.in_force.borrow());
        let mut board = self.board();
        self.notice_return(&mut board, status);
        let mut advice = Vec::new();
        for node in &mut status.nodes {
            let levels = spec.nodes.get(&node.name).map(|n| n.fence.as_slice()).unwrap_or_default();
            let last = board.last.get(&node.name);
            if levels.is_empty() && last.is_none() {
                continue;
            }
            let mut devices = Vec::new();
            for (level, all) in levels.iter().enumerate() {
                for (place, device) in all.iter().enumerate() {
                    let (level, name) = (level, device.name());
                    let known = board.devices.get(&(node.name.clone(), level, place));
                    let known = known.filter(|(asked, _)| *asked == name).map(|(_, s)| s.clone());
                    devices.push(known.unwrap_or(FenceDeviceStatus {
                        level: level + 1,
                        name,
                        answers: None,
                        said: String::new(),
                        asked: 0,
                    }));
                }
            }
            for device in devices.iter().filter(|d| d.answers == Some(false)) {
                advice.push(format!(
                    "The fence device {} of {} does not answer ({}): mend it before it is needed, then 'baton fence --test'.",
                    device.name, node.name, device.said
                ));
            }
            let (done, failed) = board.counts.get(&node.name).copied().unwrap_or_default();
            let off = !node.alive && last.is_some_and(|r| r.ok && r.action == "off" && !r.over);
            node.fence = Some(FenceStatus {
                devices,
                running: board.running.get(&node.name).cloned(),
                last: last.cloned(),
                off,
                done,
                failed,
            });
        }
        status.advice.extend(advice);
    }

    /// A node that is heard after it was switched off is not certain to be off any more, for every agent and for good.
    fn notice_return(&self, board: &mut Board, status: &ClusterStatus) {
        let now = unix_seconds(SystemTime::now());
        for node in status.nodes.iter().filter(|n| n.alive) {
            let heard = now.saturating_sub(node.age_ms.unwrap_or_default().div_ceil(1000));
            let Some(record) = board.last.get_mut(&node.name).filter(|r| !r.over && heard > r.at + 1) else {
                continue;
            };
            record.over = true;
            let (parts, name, record) = (&self.0.parts, node.name.clone(), record.clone());
            // Where it cannot be kept, the next agent that hears the node says it again.
            let _ = super::records::save(&parts.records, &name, &record);
            let etcd = parts.etcd.clone();
            tokio::spawn(async move { drop(etcd.put_fence_record(&name, &record).await) });
        }
    }
}
