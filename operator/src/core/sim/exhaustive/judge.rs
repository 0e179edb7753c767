//! The invariants of DESIGN §3, judged in every state by someone who sees all nodes at once; the same as the simulation's, and
//! stricter in one point: here no clock stands still, so two nodes are never entitled at once, without exception.

use super::cluster::{Budget, Cluster, Host, Link};
use super::moves::Move;
use crate::core::group::State;
use crate::core::record::{InSync, Versioned};
use crate::core::sim::sights::Sight;
use baton_replicator::types::Role;

impl Cluster {
    /// It has stopped everything for a handover and starts nothing before it has read what became of that.
    fn has_let_go(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        let waits = self.state(i).is_none_or(|s| matches!(s, State::HandingOver | State::Joining));
        waits && !h.address && (!self.cfg.volume || h.replica.role == Role::Secondary)
    }

    pub(super) fn check(&mut self) {
        let entitled: Vec<usize> =
            (0..self.hosts.len()).filter(|i| self.entitled(*i) && !self.has_let_go(*i)).collect();
        if entitled.len() > 1 {
            self.violated(format!("two nodes are entitled to serve: {entitled:?}"));
        }
        for i in entitled {
            let Host { replica: r, published, .. } = &*self.hosts[i];
            let serves = r.role == Role::Primary && published.is_some_and(|(e, _)| e == r.epoch);
            if serves && !self.acked.is_subset(&r.have) {
                self.violated(format!("n{i} serves without acknowledged writes"));
            }
        }
        if self.cfg.unbroken && self.begun && self.server().is_none() {
            self.violated("the service is away, and only etcd was disturbed".into());
        }
    }

    /// A write is about to be acknowledged by this node.
    pub(super) fn acknowledged(&mut self, i: usize, write: u64) {
        let epoch = self.hosts[i].replica.epoch;
        if epoch.number < self.acked_epoch {
            self.violated(format!("n{i} acknowledges in an epoch that is over"));
        }
        self.acked_epoch = self.acked_epoch.max(epoch.number);
        let record = self.etcd.insync.as_ref().filter(|r| r.value.epoch == epoch);
        let lacks = record.into_iter().flat_map(|r| &r.value.members).find(|m| {
            let host = self.hosts.iter().find(|h| h.name == m.node);
            host.is_some_and(|h| h.replica.boot == m.boot && !h.replica.have.contains(write))
        });
        if let Some(m) = lacks {
            let text = format!("n{i} acknowledges a write that in-sync {} lacks", m.node);
            self.violated(text);
        }
        self.acked.insert(write);
    }

    /// Only a node of the in-sync set is promoted. Where the whole set had lost its memory, what was never flushed is legally
    /// gone.
    pub(super) fn took_over(&mut self, i: usize, before: Option<&Versioned<InSync>>) {
        let Some(before) = before.filter(|_| self.cfg.volume) else { return };
        let name = &self.hosts[i].name;
        match before.value.members.iter().find(|m| m.node == *name) {
            None => self.violated(format!("n{i} was promoted and was not in the in-sync set")),
            Some(m) if m.boot != self.hosts[i].replica.boot => {
                self.sights.add(Sight::PowerLossStart);
                let flushed = self.flushed.clone();
                self.acked.keep(&flushed);
            }
            Some(_) => {}
        }
    }

    /// Heals the state and waits: somebody must serve. With everyone up, everyone must be in sync as well; with one node gone for
    /// good, whenever a node that the record qualifies is left. What was on its way arrives first, or never.
    pub(super) fn heals(&self) -> Result<(), String> {
        for arrives in [false, true] {
            for gone in (0..self.hosts.len()).map(Some).chain([None]) {
                let mut c = self.clone();
                if let Err(why) = c.heal(gone, arrives) {
                    let who =
                        gone.map_or_else(|| "everyone back".to_owned(), |i| format!("n{i} gone for good"));
                    return Err(format!("does not heal ({who}, late requests arrive: {arrives}): {why}"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn heal(&mut self, gone: Option<usize>, arrives: bool) -> Result<(), String> {
        /// More than any sequence of waits takes: a cold start, a handover broken off, a takeover and a resync.
        const PATIENCE: usize = 40;
        self.left = Budget::default();
        self.begun = false;
        self.link = Link::Up;
        self.blind.fill(false);
        self.late = None;
        for i in 0..self.hosts.len() {
            self.host(i).frozen = false;
            if Some(i) == gone {
                if arrives {
                    self.effect(i);
                }
                self.power_cut(i);
            }
            if arrives {
                while !self.hosts[i].ghosts.is_empty() {
                    self.apply(Move::Ghost(i, 0));
                }
            }
            self.host(i).ghosts.clear();
        }
        let mut well = 0;
        for round in 0..PATIENCE {
            for i in (0..self.hosts.len()).filter(|i| Some(*i) != gone) {
                if self.hosts[i].agent.is_none() {
                    self.start(i);
                }
            }
            self.quietly();
            let idle = self.cfg.volume && round >= 4 && self.leader_lease_may_end();
            if idle {
                self.apply(Move::Expire);
                self.quietly();
            }
            let fine = match gone {
                None => self.is_well(),
                Some(_) => self.server().is_some(),
            };
            well = if fine { well + 1 } else { 0 };
            if let Some(v) = &self.violation {
                return Err(v.clone());
            }
            if well > 3 {
                return Ok(());
            }
            self.tick(None);
        }
        let record = self.etcd.insync.as_ref().map(|i| i.value.members.clone()).unwrap_or_default();
        let qualified = |i: usize| {
            let h = &self.hosts[i];
            record.iter().any(|m| m.node == h.name && m.boot == h.replica.boot) || !self.cfg.volume
        };
        let somebody = (0..self.hosts.len()).any(|i| Some(i) != gone && qualified(i));
        if gone.is_some() && !somebody { Ok(()) } else { Err(format!("nobody serves\n{}", self.picture())) }
    }

    /// A state for people.
    pub(super) fn picture(&self) -> String {
        let leader = self.etcd.leader.as_ref().map(|l| (l.value.node.clone(), l.value.epoch, l.lease));
        let insync = self.etcd.insync.as_ref().map(|i| (i.value.epoch, i.value.members.clone()));
        let mut text = format!(
            "  {:?}, blind {:?}, etcd: leader {leader:?}, in sync {insync:?}, leases {:?}, acknowledged {:?}",
            self.link,
            self.blind,
            self.etcd.leases.keys(),
            self.acked
        );
        for (i, h) in self.hosts.iter().enumerate() {
            let (r, view) = (&h.replica, h.agent.as_ref().map(|a| a.unit.core().view_of()));
            let view = view.map(|v| (v.state, v.epoch, v.reason, v.ready));
            text += &format!(
                "\n  {}: {view:?}, entitled {}, {:?} {} {:?} has {:?}, required {:?}, synced {:?}, ghosts {}",
                h.name,
                self.entitled(i),
                r.role,
                r.epoch,
                r.boot,
                r.have,
                r.required,
                r.synced,
                h.ghosts.len()
            );
        }
        text
    }
}
