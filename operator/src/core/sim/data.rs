//! The data path in miniature: writes, acknowledgements by the required set, flushes and resyncs.

use super::world::World;
use crate::core::runtime::ContainerState;
use baton_replicator::api::Membership;
use baton_replicator::types::{DiskState, Role};

impl World {
    /// One host's replica: writes, acknowledgements, flushes, resyncs.
    pub(super) fn data(&mut self, i: usize) {
        let local = self.local(i);
        let h = &self.hosts[i];
        if !h.power || h.still.is_some() || !self.opts.volume || h.replica.role != Role::Primary {
            return;
        }
        let valid = h.published.is_some_and(|(e, until)| e == h.replica.epoch && until > local);
        let runs = h.engine.get("db").is_some_and(|c| c.state == ContainerState::Running);
        if valid && runs && h.replica.pending.is_none() && self.dice.chance(20) {
            let w = self.next_write;
            self.next_write += 1;
            let r = &mut self.hosts[i].replica;
            if !r.is_gone() {
                r.have.insert(w);
            }
            r.pending = Some(w);
        }
        let epoch = self.hosts[i].replica.epoch;
        let required = self.hosts[i].replica.required.clone();
        let takes = |w: &Self, j: usize| {
            let r = &w.hosts[j].replica;
            w.linked(i, j) && r.role == Role::Secondary && r.epoch.number <= epoch.number && !r.is_gone()
        };
        let member = |w: &Self, j: usize| required.iter().find(|m| m.node == w.hosts[j].name).map(|m| m.boot);
        let (disk, told) = (self.hosts[i].replica.disk, self.hosts[i].replica.membership);
        // Without a disk: only through others, and only when the set is theirs.
        let mut all = match disk {
            DiskState::Diskless => told == Membership::Left && !required.is_empty(),
            DiskState::Failed => false,
            _ => true,
        };
        let gone = self.hosts[i].replica.is_gone();
        let pending = self.hosts[i].replica.pending;
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let name = self.hosts[j].name.clone();
            let synced = self.hosts[i].replica.synced.get(&name).copied() == Some(self.hosts[j].replica.boot);
            let needed = member(self, j);
            let ok = takes(self, j) && needed.is_none_or(|b| b == self.hosts[j].replica.boot);
            all &= needed.is_none() || ok;
            if ok && (synced || needed.is_some()) {
                let peer = &mut self.hosts[j].replica;
                peer.epoch = epoch;
                if let Some(w) = pending {
                    peer.have.insert(w);
                }
            } else if synced && pending.is_some() {
                self.hosts[i].replica.synced.remove(&name);
            } else if takes(self, j) && valid && needed.is_none() && !gone && self.dice.chance(4) {
                let (have, boot, fs) = (
                    self.hosts[i].replica.have.clone(),
                    self.hosts[j].replica.boot,
                    self.hosts[i].replica.filesystem,
                );
                let peer = &mut self.hosts[j].replica;
                (peer.have, peer.durable, peer.epoch, peer.filesystem) = (have.clone(), have, epoch, fs);
                self.hosts[i].replica.synced.insert(name, boot);
            }
        }
        let missing = required.iter().any(|m| !self.hosts.iter().any(|h| h.name == m.node));
        if all && valid && !missing {
            if let Some(w) = self.hosts[i].replica.pending.take() {
                self.acknowledged(i, w);
            }
            self.hosts[i].replica.frozen_since = None;
            let new = required.iter().any(|m| !self.hosts[i].replica.settled.contains(&m.node));
            if new || self.dice.chance(3) {
                self.hosts[i].replica.settled = required.iter().map(|m| m.node.clone()).collect();
                self.flushed.clone_from(&self.acked);
                for j in 0..self.hosts.len() {
                    if j == i || member(self, j).is_some() {
                        let r = &mut self.hosts[j].replica;
                        if !r.is_gone() {
                            r.durable.clone_from(&r.have);
                        }
                    }
                }
            }
        } else if pending.is_some() || !valid || gone {
            let since = self.hosts[i].replica.frozen_since.unwrap_or(local);
            self.hosts[i].replica.frozen_since = Some(since);
        }
    }
}
