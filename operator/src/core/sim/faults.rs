//! What can be done to the simulated hosts, links and etcd.

use super::etcd::Etcd;
use super::unit::Input;
use super::world::{STEP, World};
use crate::core::group::Event;
use crate::core::runtime::ContainerState;
use std::time::Duration;

impl World {
    pub(super) fn crash_agent(&mut self, i: usize) {
        if self.hosts[i].agent.take().is_some() {
            self.note(i, "agent crashes");
        }
    }

    pub(super) fn power_cut(&mut self, i: usize) {
        self.note(i, "POWER CUT");
        let now = self.now;
        let h = &mut self.hosts[i];
        h.agent = None;
        h.power = false;
        h.address = false;
        h.published = None;
        h.paused = false;
        h.replica.power_cut();
        for c in h.engine.values_mut() {
            c.state = ContainerState::Exited(137);
        }
        h.boots += 1;
        // CLOCK_BOOTTIME starts again.
        h.offset = 0u64.wrapping_sub(now / STEP * h.rate).wrapping_add(5_000_000_000);
    }

    /// I/O errors. A replica that answers again after a power cut is as it was at that moment.
    pub(super) fn fail_disk(&mut self, i: usize) {
        self.note(i, "DISK FAILS");
        let member = |h: &super::world::Host| self.hosts[i].replica.required.iter().any(|m| m.node == h.name);
        let reads = (0..self.hosts.len()).any(|j| {
            j != i && self.linked(i, j) && member(&self.hosts[j]) && !self.hosts[j].replica.is_gone()
        });
        self.hosts[i].replica.fail_disk(reads);
    }

    pub(super) fn power_on(&mut self, i: usize) {
        if !self.hosts[i].power {
            let rate = self.hosts[i].rate;
            self.hosts[i].offset = 5_000_000_000u64.wrapping_sub(self.now / STEP * rate);
            self.hosts[i].power = true;
            self.note(i, "power is back");
            self.start_agent(i);
        }
    }

    /// Cuts or mends everything between a host and the others; `etcd` too if asked.
    pub(super) fn isolate(&mut self, i: usize, cut: bool, etcd: bool) {
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let pair = (i.min(j), i.max(j));
            if cut {
                self.cut.extend([(i, j), (j, i)]);
                self.repl_cut.insert(pair);
            } else {
                self.cut.remove(&(i, j));
                self.cut.remove(&(j, i));
                self.repl_cut.remove(&pair);
            }
        }
        if etcd && cut {
            self.etcd_cut.insert(i);
        } else if etcd {
            self.etcd_cut.remove(&i);
        }
        self.note(i, if cut { "isolated" } else { "connected again" });
    }

    pub(super) fn heal(&mut self) {
        // A disk is replaced with the power off, and nobody does that while a heartbeat is on its way.
        for i in (0..self.hosts.len()).filter(|i| self.hosts[*i].replica.is_gone()).collect::<Vec<_>>() {
            self.power_cut(i);
        }
        self.run(200);
        self.etcd_up = true;
        self.cut.clear();
        self.repl_cut.clear();
        self.etcd_cut.clear();
        self.loss = 0;
        self.etcd_faults = 0;
        for i in 0..self.hosts.len() {
            self.hosts[i].paused = false;
            if self.hosts[i].hung {
                self.crash_agent(i);
            }
            self.power_on(i);
            self.start_agent(i);
        }
    }

    pub(super) fn restarting(&mut self, i: usize) {
        self.turn(i, Input::Group(Event::Restarting));
    }

    pub(super) fn restart_covered(&self, i: usize) -> bool {
        self.hosts[i].agent.as_ref().is_some_and(|a| a.unit.core().restart_covered())
    }

    pub(super) fn order_move(&mut self, to: usize) {
        self.etcd.target = Some(self.hosts[to].name.clone());
        self.etcd.revision += 1;
        self.wake();
    }

    pub(super) fn cancel_move(&mut self) {
        self.etcd.target = None;
        self.etcd.revision += 1;
        self.wake();
    }

    pub(super) fn set_mode(&mut self, i: usize, mode: crate::status::NodeMode) {
        self.etcd.modes.insert(self.hosts[i].name.clone(), mode);
        self.etcd.revision += 1;
        self.wake();
    }

    /// Someone rewrites the in-sync record with the same content: every guard on it fails.
    pub(super) fn touch_insync(&mut self) {
        self.etcd.revision += 1;
        let revision = self.etcd.revision;
        if let Some(i) = &mut self.etcd.insync {
            i.revision = revision;
        }
    }

    pub(super) fn restore(&mut self, mut backup: Etcd, cluster_id: u64) {
        backup.cluster_id = cluster_id;
        backup.leases = self.etcd.leases.clone();
        backup.alive = self.etcd.alive.clone();
        if let Some(l) = &backup.leader {
            backup.leases.entry(l.lease).or_insert((l.value.node.clone(), self.now + 5000));
        }
        self.etcd = backup;
        self.trace.push(format!("{:>7} etcd: restored as {cluster_id:x}", self.now));
        self.wake();
    }

    /// An old acknowledgement of `from` for `to` arrives as if it were new.
    pub(super) fn replay_ack(&mut self, from: usize, to: usize) {
        let Some(agent) = &self.hosts[from].agent else { return };
        let mut msg = agent.beats.lock().expect("lock").answer(self.local(from));
        let epoch = self.etcd.insync.as_ref().map(|i| i.value.epoch).unwrap_or_default();
        for beat in &mut msg.groups {
            beat.epoch = epoch;
            beat.ack = Some(crate::core::beat::Ack {
                leader: self.hosts[to].name.clone(),
                incarnation: 1,
                epoch,
                sent: self.local(to).plus(Duration::from_secs(1)),
                promise_ms: 1500,
            });
        }
        self.hosts[to].inbox.push((from, msg));
    }

    /// One message of `from` reaches `to` although the link is cut: it was on its way before.
    pub(super) fn deliver(&mut self, from: usize, to: usize) {
        let now = self.local(from);
        let Some(agent) = &self.hosts[from].agent else { return };
        let msg = agent.beats.lock().expect("lock").answer(now);
        self.hosts[to].inbox.push((from, msg));
    }

    pub(super) fn drop_inbox(&mut self, i: usize) {
        self.hosts[i].inbox.clear();
    }
}
