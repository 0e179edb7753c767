//! The invariants of DESIGN §3, judged after every step by someone who sees all hosts at once.
//!
//! | invariant | where |
//! | --- | --- |
//! | 1, one acknowledging primary | [`World::acknowledged`]: no write is acknowledged in an epoch that is over |
//! | 2, nothing acknowledged is lost | [`World::acknowledged`]: every member of the set in etcd has it; [`World::check`]: who serves has everything |
//! | 3, only an in-sync node is promoted | `took_over` in `flights` |
//! | 4, a fenced node serves nobody | [`World::check`]: two nodes are never entitled at once; a machine whose clock stood still is held to the bound that DESIGN §3 states |
//! | 5, losing etcd stops nothing | the seeds of `storm` that disturb etcd alone |
//! | 7, every wait has a bound | `seeds`: after healing everything serves again within a stated time |

use super::sights::Sight;
use super::world::{Host, World};
use crate::core::group::State;
use crate::core::runtime::ContainerState;
use baton_replicator::types::{DiskState, Instant, Role};

/// From the first moment at which a machine whose clock had stood still runs again and can hear the new leader, until it
/// serves nobody: two intervals of heartbeats and their way.
const STALE: u64 = 250;

impl World {
    /// Entitled by what was handed to the kernel and the replicator, agent alive or not.
    pub(super) fn entitled(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        h.power && h.published.is_some_and(|(_, until)| until > self.local(i))
    }

    /// It has stopped everything for a handover and starts nothing before it has read what became of that, its agent dead or
    /// not: what it was told before expires over nothing.
    fn has_let_go(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        let runs = h.engine.values().any(|c| c.state == ContainerState::Running);
        let waits = self.state(i).is_none_or(|s| matches!(s, State::HandingOver | State::Joining));
        waits && !h.address && !runs && h.replica.role == Role::Secondary
    }

    pub(super) fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        self.check_stale();
        let n = self.hosts.len();
        let counts =
            |i: &usize| self.entitled(*i) && self.hosts[*i].stale_until.is_none() && !self.has_let_go(*i);
        if (0..n).filter(counts).count() > 1 {
            let all: Vec<usize> = (0..n).filter(|i| self.entitled(*i)).collect();
            self.violated(|| format!("two nodes are entitled to serve: {all:?}"));
        }
        for i in 0..n {
            if self.hosts[i].stale_until.is_none() && self.entitled(i) {
                self.check_data(i);
            }
        }
    }

    fn check_data(&mut self, i: usize) {
        let r = &self.hosts[i].replica;
        let primary = r.role == Role::Primary;
        let serves = primary && self.hosts[i].published.is_some_and(|(e, _)| e == r.epoch);
        // Without a disk it reads from a member.
        let through = r.disk == DiskState::Diskless && primary;
        let holds = |h: &Host| self.acked.is_subset(&h.replica.have) && !h.replica.is_gone();
        let member = |h: &&Host| r.required.iter().any(|m| m.node == h.name);
        if through && r.frozen_since.is_none() && !self.hosts.iter().filter(member).any(holds) {
            let text = format!("{} is served by nobody who has everything", self.hosts[i].name);
            return self.violated(|| text);
        }
        if serves && !r.is_gone() && !self.acked.is_subset(&r.have) {
            let lost = self.acked.lacking_in(&r.have);
            let text = format!("{} serves without acknowledged writes {lost:?}", self.hosts[i].name);
            self.violated(|| text);
        }
    }

    /// A write is about to be acknowledged by host `i`, which leads `required`.
    pub(super) fn acknowledged(&mut self, i: usize, write: u64) {
        let epoch = self.hosts[i].replica.epoch;
        if epoch.number < self.acked_epoch {
            let text = format!(
                "{} acknowledges in epoch {epoch} after epoch {} was acknowledged in",
                self.hosts[i].name, self.acked_epoch
            );
            self.violated(|| text);
        }
        self.acked_epoch = self.acked_epoch.max(epoch.number);
        // An etcd that was restored says what was once.
        let trusted = self.etcd.cluster_id == self.hosts[i].durable.cluster_id;
        let record = self.etcd.insync.as_ref().filter(|r| trusted && r.value.epoch == epoch);
        let members = record.map(|r| &r.value.members);
        let lacks = members.into_iter().flatten().find(|m| {
            let host = self.hosts.iter().find(|h| h.name == m.node);
            host.is_some_and(|h| {
                h.replica.boot == m.boot && !h.replica.is_gone() && !h.replica.have.contains(write)
            })
        });
        if let Some(lacks) = lacks {
            let text = format!(
                "{} acknowledges write {write} that in-sync {} lacks",
                self.hosts[i].name, lacks.node
            );
            self.violated(|| text);
        }
        self.acked.insert(write);
    }

    /// A machine whose clock stood still believes what it was told before, until it hears better or that runs out.
    fn check_stale(&mut self) {
        for i in 0..self.hosts.len() {
            let Some(until) = self.hosts[i].stale_until else { continue };
            if self.hosts[i].still.is_some() {
                continue;
            }
            let now = self.local(i);
            if until <= now {
                self.hosts[i].stale_until = None;
            }
            if until <= now || !self.entitled(i) {
                self.hosts[i].heard_for = 0;
                continue;
            }
            let others: Vec<usize> = (0..self.hosts.len())
                .filter(|j| *j != i && self.entitled(*j) && self.hosts[*j].stale_until.is_none())
                .collect();
            if !others.is_empty() {
                self.saw(Sight::StaleAfterStandstill);
            }
            let hears = |j: &usize| {
                let h = &self.hosts[*j];
                h.agent.is_some() && !h.paused && !h.hung && !self.cut.contains(&(*j, i))
            };
            let listens = self.hosts[i].agent.is_some() && !self.hosts[i].paused;
            let lossless = self.loss == 0 && self.lossy.is_empty();
            if !(listens && lossless && others.iter().any(hears)) {
                self.hosts[i].heard_for = 0;
                continue;
            }
            self.hosts[i].heard_for += super::world::STEP;
            if self.hosts[i].heard_for > STALE {
                let text = format!("{} serves on although it hears a later epoch", self.hosts[i].name);
                self.violated(|| text);
            }
        }
    }

    /// Its clock stands still from now on: what it was promised, and its lease, may end without its knowing.
    pub(super) fn note_stale(&mut self, i: usize) {
        let h = &self.hosts[i];
        let lease = h.agent.as_ref().map_or(Instant::ZERO, |a| a.lease.lease_until);
        // A promise on its way counts from when its heartbeat was sent, which was before.
        let promised = self.local(i).plus(self.timers.fencetime);
        let told = h.published.map_or(Instant::ZERO, |(_, until)| until);
        self.hosts[i].stale_until = Some(told.max(lease).max(promised));
        self.hosts[i].heard_for = 0;
    }
}
