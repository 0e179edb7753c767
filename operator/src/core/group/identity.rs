//! Whether the etcd that answers is the one that was known, and what is remembered of it.
//!
//! A foreign etcd (another cluster id, a lower revision than seen, an epoch that lags behind what is known) stops
//! takeovers, re-creations and removals, until the serving leader has written its record there or a person has
//! vouched for it.

use super::{Action, GroupCore, Severity};
use crate::core::rules::Rule;
use crate::status::GroupMemory;
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{DiskState, Epoch};

impl GroupCore {
    /// Remembers the highest epoch durably, and judges whether the record is older than what is known.
    pub(super) fn learn(&mut self) {
        let known = self.known();
        if known.number > self.durable.known.number {
            self.durable.known = known;
            self.known_since = self.now;
            self.persist();
        }
        if !self.ledger.settled() || !self.rules.on(Rule::Identity) {
            return;
        }
        let Some(view) = self.view() else { return };
        let in_force = view.epoch();
        if self.vouched == Some(in_force) {
            return;
        }
        if in_force.number < known.number {
            if self.ledger.asked() <= self.known_since {
                self.ledger.mark_stale();
            } else if self.foreign.is_none() {
                let text =
                    format!("etcd knows epoch {in_force} at most, but epoch {known} was in force already");
                self.found_foreign(text);
            }
        } else if in_force.number == known.number && in_force != known && self.foreign.is_none() {
            self.found_foreign(format!(
                "etcd says epoch {in_force}, but this cluster has known epoch {known}"
            ));
        }
        self.trust_rewritten();
    }

    /// A record has been read: is it the etcd we knew, and did the leader change?
    pub(super) fn on_view(&mut self) {
        let Some(view) = self.view() else { return };
        let (cluster, revision) = (view.cluster_id, view.revision);
        let newest = [view.leader.as_ref().map(|l| l.revision), view.insync.as_ref().map(|i| i.revision)];
        let newest = newest.into_iter().flatten().max().unwrap_or(0);
        let leader = view.leader.as_ref().map_or(0, |l| l.revision);
        if self.rules.on(Rule::Identity) && self.foreign.is_none() {
            if self.durable.cluster_id != 0 && self.durable.cluster_id != cluster {
                let text = format!(
                    "etcd is another cluster ({cluster:x}) than before ({:x})",
                    self.durable.cluster_id
                );
                self.found_foreign(text);
            } else if revision < self.durable.revision {
                let text =
                    format!("etcd is at revision {revision}, but {} was seen already", self.durable.revision);
                self.found_foreign(text);
            }
        }
        if self.foreign.is_none() && (newest > self.durable.revision || self.durable.cluster_id == 0) {
            self.durable.cluster_id = cluster;
            self.durable.revision = self.durable.revision.max(newest);
            self.persist();
        }
        if leader != 0 && leader != self.leader_rev {
            if self.leader_rev != 0 || self.rules.on(Rule::StartAck) {
                self.silence_from = self.now;
            }
            self.leader_rev = leader;
        }
        self.note_former();
    }

    fn found_foreign(&mut self, why: String) {
        let text = format!("{why}: no automatic takeover, re-creation or removal");
        self.out.push(Action::Event(Severity::Critical, text));
        self.foreign = Some(why);
        self.ledger.mark_unsettled();
    }

    /// A standby trusts an etcd again once the serving leader says that it wrote the record found there.
    fn trust_rewritten(&mut self) {
        if self.foreign.is_none() || self.state.leads() {
            return;
        }
        let Some(view) = self.view() else { return };
        let Some(insync) = &view.insync else { return };
        let Some((leader, epoch, at)) = &self.facts.beats.leader_heard else { return };
        let beat = self.facts.peers.get(leader).and_then(|p| p.groups.get(&self.cfg.group));
        let fresh = self.now.since(*at) <= self.cfg.timers.warntime;
        let same = beat.is_some_and(|b| b.leading && b.insync_rev == insync.revision);
        if fresh && same && insync.value.epoch == *epoch && view.epoch() == self.known() {
            self.recover();
        }
    }

    /// What this node remembers, for a person who has to find out which one holds everything.
    pub(super) fn memory(&self) -> GroupMemory {
        let record = self.view().and_then(|v| v.insync.as_ref()).map(|i| i.value.epoch);
        let disks = self.volumes();
        // Where nobody leads, a replica that lacks nothing says Consistent.
        let good = |v: &VolumeStatus| matches!(v.disk, DiskState::UpToDate | DiskState::Consistent);
        let complete = self.cfg.volumes.is_empty() || disks.is_some_and(|all| all.into_iter().all(good));
        // What was acknowledged after the set was left is on others.
        let left = self.durable.left == self.durable.served;
        GroupMemory {
            known: self.known(),
            served: if left { Epoch::ZERO } else { self.durable.served },
            record,
            lost: record.is_none() && self.view().is_some() && self.known() != Epoch::ZERO,
            foreign: self.foreign.clone(),
            complete,
            leads: self.state.leads(),
        }
    }

    pub(super) fn recover(&mut self) {
        let Some((cluster, revision, epoch)) = self.view().map(|v| (v.cluster_id, v.revision, v.epoch()))
        else {
            return;
        };
        self.vouched = (epoch != self.known()).then_some(epoch);
        self.durable.cluster_id = cluster;
        self.durable.revision = revision;
        self.foreign = None;
        self.persist();
        self.out.push(Action::Event(Severity::Info, "the record in etcd is trusted again".into()));
    }
}
