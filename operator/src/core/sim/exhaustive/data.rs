//! The data path in miniature, without chance: writes reach every replica that is connected at once, a resync takes a tick, and
//! a flush follows when a member of the required set has not answered one yet.

use super::cluster::Cluster;
use baton_replicator::types::{BootId, Role};

impl Cluster {
    /// The replica's primary has what it takes to acknowledge: serve-until of its epoch is ahead.
    pub(super) fn may_acknowledge(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        let now = self.local(i);
        h.power && h.published.is_some_and(|(e, until)| e == h.replica.epoch && until > now)
    }

    fn takes(&self, i: usize, j: usize) -> bool {
        let (epoch, r) = (self.hosts[i].replica.epoch, &self.hosts[j].replica);
        self.replicates(i, j) && r.role == Role::Secondary && r.epoch.number <= epoch.number
    }

    fn required_boot(&self, i: usize, j: usize) -> Option<BootId> {
        let name = &self.hosts[j].name;
        self.hosts[i].replica.required.iter().find(|m| m.node == *name).map(|m| m.boot)
    }

    /// Writes go as far as they can.
    pub(super) fn flow(&mut self) {
        if !self.cfg.volume {
            return;
        }
        for i in 0..self.hosts.len() {
            if self.hosts[i].power && self.hosts[i].replica.role == Role::Primary {
                self.flow_of(i);
            }
        }
    }

    fn flow_of(&mut self, i: usize) {
        let (epoch, pending) = (self.hosts[i].replica.epoch, self.hosts[i].replica.pending);
        let mut all = true;
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let boot = self.hosts[j].replica.boot;
            let name = self.hosts[j].name.clone();
            let synced = self.hosts[i].replica.synced.get(&name) == Some(&boot);
            let needed = self.required_boot(i, j);
            let ok = self.takes(i, j) && needed.is_none_or(|b| b == boot);
            all &= needed.is_none() || ok;
            if ok && (synced || needed.is_some()) {
                let has = pending.is_none_or(|w| self.hosts[j].replica.have.contains(w));
                if self.hosts[j].replica.epoch != epoch || !has {
                    let peer = &mut self.host(j).replica;
                    peer.epoch = epoch;
                    pending.into_iter().for_each(|w| peer.have.insert(w));
                }
            } else if synced && pending.is_some() {
                self.host(i).replica.synced.remove(&name);
            }
        }
        let now = self.local(i);
        let valid = self.may_acknowledge(i);
        if all && valid {
            if let Some(w) = pending {
                self.host(i).replica.pending = None;
                self.acknowledged(i, w);
            }
            if self.hosts[i].replica.frozen_since.is_some() {
                self.host(i).replica.frozen_since = None;
            }
            self.flush_if_new(i);
        } else if (pending.is_some() || !valid) && self.hosts[i].replica.frozen_since.is_none() {
            self.host(i).replica.frozen_since = Some(now);
        }
    }

    fn flush_if_new(&mut self, i: usize) {
        let r = &self.hosts[i].replica;
        if r.required.iter().all(|m| r.settled.contains(&m.node)) {
            return;
        }
        let settled = r.required.iter().map(|m| m.node.clone()).collect();
        self.host(i).replica.settled = settled;
        self.flushed.clone_from(&self.acked);
        for j in 0..self.hosts.len() {
            if j == i || self.required_boot(i, j).is_some() {
                let r = &mut self.host(j).replica;
                r.durable.clone_from(&r.have);
            }
        }
    }

    /// Replicas that are connected and not members are brought up to date.
    pub(super) fn resync(&mut self) {
        for i in 0..self.hosts.len() {
            if self.hosts[i].replica.role != Role::Primary || !self.may_acknowledge(i) {
                continue;
            }
            for j in (0..self.hosts.len()).filter(|j| *j != i) {
                let (name, boot) = (self.hosts[j].name.clone(), self.hosts[j].replica.boot);
                let synced = self.hosts[i].replica.synced.get(&name) == Some(&boot);
                if self.takes(i, j) && self.required_boot(i, j).is_none() && !synced {
                    let (have, epoch) = (self.hosts[i].replica.have.clone(), self.hosts[i].replica.epoch);
                    let peer = &mut self.host(j).replica;
                    (peer.have, peer.durable, peer.epoch) = (have.clone(), have, epoch);
                    self.host(i).replica.synced.insert(name, boot);
                }
            }
        }
    }
}
