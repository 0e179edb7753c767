//! What can be done to the simulated hosts, links and etcd.

use super::etcd::Etcd;
use super::sights::Sight;
use super::unit::Input;
use super::world::{Host, STEP, Stall, Still, World};
use crate::core::group::Event;
use crate::core::record::{GroupWish, InSync, StoredNote, Versioned};
use crate::core::runtime::ContainerState;
use baton_replicator::types::{BootId, Epoch, Member};
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
        h.still = None;
        h.stale_until = None;
        h.crash_after = None;
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
        for i in 0..self.hosts.len() {
            self.wake_up(i);
        }
        // A disk is replaced with the power off, and nobody does that while a heartbeat is on its way.
        for i in (0..self.hosts.len()).filter(|i| self.hosts[*i].replica.is_gone()).collect::<Vec<_>>() {
            self.power_cut(i);
        }
        self.run(200);
        self.etcd_up = true;
        self.stall = self.stall.take().map(|s| Stall { until: self.now, ..s });
        self.cut.clear();
        self.repl_cut.clear();
        self.etcd_cut.clear();
        self.loss = 0;
        self.lossy.clear();
        self.etcd_faults = 0;
        self.etcd.modes.clear();
        self.etcd.wish = GroupWish::default();
        // The specification reaches every agent.
        let told = std::mem::take(&mut self.opts.newcomer);
        for i in 0..self.hosts.len() {
            let h = &mut self.hosts[i];
            h.paused = false;
            h.engine_hangs = 0;
            h.engine_fails = 0;
            h.crash_after = None;
            h.watch_lag = Some(0);
            if h.hung || told {
                self.crash_agent(i);
            }
            self.power_on(i);
            self.start_agent(i);
        }
    }

    /// What a person does when nobody serves and `baton explain` says that etcd is not the one it was: finds the node
    /// that has everything, makes the record say so, and vouches for it (`baton recover`) on every node.
    pub(super) fn person_recovers(&mut self) -> bool {
        let foreign = |h: &Host| h.agent.as_ref().is_some_and(|a| a.unit.core().foreign());
        if !self.hosts.iter().any(foreign) {
            return false;
        }
        self.saw(Sight::PersonRecovered);
        if self.server().is_none() {
            let known = |h: &Host| h.agent.as_ref().map(|a| a.unit.core().view_of().epoch);
            let (all, durable) = (!self.opts.volume, self.flushed.clone());
            // The primary of the last epoch has everything, and so has who replicated from it to the end. If all of these
            // lost their memory, what was never flushed is legally gone.
            let has =
                |h: &Host| (all || self.acked.is_subset(&h.replica.have), durable.is_subset(&h.replica.have));
            let best = self.hosts.iter().filter(|h| all || has(h).1);
            let best = best.max_by_key(|h| (has(h), h.replica.epoch.number, known(h).map(|e| e.number)));
            let forgotten = best.is_some_and(|h| !has(h).0);
            let epoch = self.hosts.iter().filter_map(known).max_by_key(|e| e.number);
            let (Some(best), Some(epoch)) = (best, epoch) else {
                self.note_etcd("a person finds no node that has everything");
                return false;
            };
            let boot = if self.opts.volume { best.replica.boot } else { BootId(1) };
            if forgotten {
                self.acked.keep(&durable);
            }
            let members = vec![Member { node: best.name.clone(), boot }];
            let candidates = self.hosts.iter().map(|h| h.name.clone()).collect();
            let value = InSync { epoch, members, candidates, fresh: false };
            self.etcd.revision += 1;
            self.etcd.insync = Some(Versioned { value, revision: self.etcd.revision, lease: 0 });
            self.etcd.delete_leader();
            self.note_etcd("a person puts the record right");
            self.wake();
            // They read it before anyone vouches for it.
            self.run(3000);
        }
        for i in 0..self.hosts.len() {
            self.turn(i, Input::Group(Event::Recover));
        }
        true
    }

    /// The whole machine stands still, and its clock with it or not.
    pub(super) fn stand_still(&mut self, i: usize, clock: bool) {
        if self.hosts[i].power && self.hosts[i].still.is_none() {
            self.note(i, if clock { "STANDS STILL, its clock too" } else { "STANDS STILL" });
            if clock {
                self.note_stale(i);
            }
            self.hosts[i].still = Some(Still { since: self.now, clock });
            self.hosts[i].inbox.clear();
        }
    }

    pub(super) fn wake_up(&mut self, i: usize) {
        if let Some(still) = self.hosts[i].still.take() {
            if still.clock {
                let missed = (self.now / STEP - still.since / STEP) * self.hosts[i].rate;
                self.hosts[i].offset = self.hosts[i].offset.wrapping_sub(missed);
            }
            self.note(i, "goes on");
        }
    }

    /// etcd stalls and recovers by itself; leases end by its own rules.
    pub(super) fn etcd_goes_on(&mut self) {
        let ends = self.stall.as_ref().is_some_and(|s| s.until <= self.now);
        let stalled = if ends { self.stall.take() } else { None };
        if let Some(s) = &stalled {
            let ttl = self.timers.ttl.as_millis() as u64;
            if s.election {
                if self.etcd.leases.values().any(|(_, end)| *end <= self.now) {
                    self.saw(Sight::LeasesLivedThroughAnElection);
                }
                self.etcd.promote(self.now, ttl);
            }
            self.note_etcd("answers again");
        }
        if self.etcd_up && self.stall.is_none() && self.etcd.expire(self.now) {
            if stalled.is_some() {
                self.saw(Sight::LeaseEndedAfterAStall);
            }
            self.note_etcd("the leader key expires");
            self.wake();
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

    pub(super) fn disable(&mut self, disabled: bool) {
        let note = StoredNote { owner: "ada".into(), reason: String::new(), since: 0, until: None };
        self.etcd.wish.disabled = disabled.then_some(note);
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
        backup.next_lease = self.etcd.next_lease;
        if let Some(l) = &backup.leader {
            backup.leases.entry(l.lease).or_insert((l.value.node.clone(), self.now + 5000));
        }
        self.etcd = backup;
        self.note_etcd(format_args!("restored as {cluster_id:x}"));
        self.wake();
    }

    /// An old acknowledgement of `from` for `to` arrives as if it were new.
    pub(super) fn replay_ack(&mut self, from: usize, to: usize, epoch: Epoch) {
        let Some(agent) = &self.hosts[from].agent else { return };
        let mut msg = agent.beats.lock().expect("lock").answer(self.local(from));
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
