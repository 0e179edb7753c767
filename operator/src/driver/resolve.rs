//! Carries out what is asked of this node after a split brain (see [`crate::core::resolve`]): looks every second at its
//! records in etcd, does the next step, and shows what every node holds.
//!
//! Nothing else waits for it. If it dies, wishes stay open in etcd, and the copies lie where they are.

use super::history::History;
use super::rounds::Rounds;
use crate::causes::chain;
use crate::core::group::Severity;
use crate::core::record::Outcome;
use crate::core::resolve::{Facts, Failure, GivenUp, Step, step};
use crate::etcd::Etcd;
use crate::replica::{ReplicaClient, ReplicaError};
use crate::spec::Spec;
use crate::status::{ClusterStatus, unix_seconds};
use baton_replicator::api::{DiscardRequest, VolumeStatus};
use baton_replicator::types::{GroupName, NodeName, VolumeName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The records of all nodes, as etcd has them.
pub(super) type Shown = BTreeMap<(VolumeName, NodeName), GivenUp>;

/// What the task is made of.
pub(super) struct Resolver {
    pub(super) me: NodeName,
    pub(super) in_force: watch::Receiver<Arc<Spec>>,
    pub(super) etcd: Etcd,
    pub(super) replica: ReplicaClient,
    pub(super) history: History,
}

/// What was tried for one volume.
type Tried = BTreeMap<VolumeName, (u64, Result<(), Failure>)>;

impl Resolver {
    /// Starts the task; it ends with the runtime.
    pub(super) fn start(self) -> watch::Receiver<Shown> {
        let (shown, receiver) = watch::channel(Shown::new());
        tokio::spawn(async move {
            let mut tried = Tried::new();
            let mut rounds = Rounds::of(self.in_force.clone());
            loop {
                rounds.next(&shown).await;
                self.round(&shown, &mut tried).await;
            }
        });
        receiver
    }

    async fn round(&self, shown: &watch::Sender<Shown>, tried: &mut Tried) {
        let Ok(records) = self.etcd.given_up().await else { return };
        shown.send_replace(records.iter().map(|(key, (record, _))| (key.clone(), record.clone())).collect());
        let spec = Arc::clone(&self.in_force.borrow());
        let Ok(local) = self.replica.status(0, Duration::ZERO).await else { return };
        for (group, here) in spec.groups.keys().flat_map(|g| of_group(g, &local.volumes)) {
            let found = records.get(&(here.volume.clone(), self.me.clone()));
            let (record, at) = found.cloned().unwrap_or_default();
            let facts = Facts {
                record: &record,
                snapshots: &here.snapshots,
                now: unix_seconds(SystemTime::now()),
                tried: tried.get(&here.volume).cloned(),
            };
            let now = facts.now;
            match step(&facts) {
                Step::Wait => {}
                Step::Discard(snapshot) => {
                    let request = DiscardRequest { snapshot };
                    let outcome = self.replica.discard(&here.volume, &request).await.map_err(judged);
                    tried.insert(here.volume.clone(), (now, outcome));
                }
                Step::Release(name) => {
                    // What fails is tried again at the next look.
                    if self.replica.release(&here.volume, &name).await.is_ok() {
                        let text =
                            format!("volume {}: the copy {name} on {} was removed", here.volume, self.me);
                        self.history.record(Some(group), Severity::Info, &text);
                    }
                }
                Step::Report(next) => {
                    let ended = record.wish.is_some() && next.wish.is_none();
                    let written = self.etcd.put_given_up(&here.volume, &self.me, &next, at).await;
                    if let (Outcome::Committed { .. }, true, Some(said)) = (written, ended, &next.said) {
                        let text = format!("split brain of volume {} on {}: {said}", here.volume, self.me);
                        self.history.record(Some(group), Severity::Warning, &text);
                    }
                }
            }
        }
    }
}

fn of_group<'a>(
    group: &'a GroupName,
    volumes: &'a [VolumeStatus],
) -> impl Iterator<Item = (&'a GroupName, &'a VolumeStatus)> {
    volumes.iter().filter(move |v| v.group == *group).map(move |v| (group, v))
}

/// What a refusal means for the next attempt.
fn judged(error: ReplicaError) -> Failure {
    let why = chain(&error);
    match error.problem() {
        Some(problem) if problem.kind == "/problems/no-snapshot" => Failure::Never(problem.detail.clone()),
        Some(problem) => Failure::NotYet(problem.detail.clone()),
        None => Failure::NotYet(why),
    }
}

/// Puts the copies of all nodes into the snapshot; what the local replicator lists is newer than the record.
pub(super) fn put_into(status: &mut ClusterStatus, shown: &Shown) {
    let me = status.node.clone();
    for volume in status.groups.iter_mut().flat_map(|g| &mut g.volumes) {
        for ((name, node), record) in shown {
            if *name == volume.volume && *node != me {
                volume.snapshots.extend(record.snapshots.iter().cloned());
            }
        }
        for copy in &volume.snapshots {
            status.advice.push(format!(
                "Volume {0}: {1} holds a copy of data that was given up, {2}. Take out of it what is needed, then release \
                 it with 'baton volume release {0} {2}'.",
                volume.volume, copy.node, copy.name
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use baton_replicator::api::Snapshot;
    use baton_replicator::types::Generation;

    #[test]
    fn every_agent_shows_the_copies_of_all_nodes_once() {
        let copy = |node: &str, name: &str| Snapshot {
            node: NodeName::new(node).unwrap(),
            name: name.into(),
            made_at_s: 1_795_000_000,
            generation: Generation(7),
            bytes: 4096,
        };
        let volume = VolumeName::new("webstore").unwrap();
        let record = |c: Snapshot| GivenUp { snapshots: vec![c], ..GivenUp::default() };
        let mut status = fixture::healthy();
        let me = status.node.clone();
        status.groups[0].volumes[0].snapshots = vec![copy(me.as_str(), "newest")];
        let shown = Shown::from([
            ((volume.clone(), me.clone()), record(copy(me.as_str(), "older"))),
            ((volume.clone(), NodeName::new("gamma").unwrap()), record(copy("gamma", "there"))),
            ((VolumeName::new("other").unwrap(), me.clone()), record(copy(me.as_str(), "of another volume"))),
        ]);
        put_into(&mut status, &shown);
        let names: Vec<&str> =
            status.groups[0].volumes[0].snapshots.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["newest", "there"]);
        assert!(status.advice.iter().any(|a| a.contains("'baton volume release webstore there'")));
    }
}
