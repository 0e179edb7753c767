//! Time. One step is 10 ms: what is due arrives, heartbeats and drivers run, data flows; then the invariants are
//! checked.

use super::sights::Sight;
use super::unit::Input;
use super::world::{Flight, STEP, World, group};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{EtcdFacts, Event, State};
use crate::core::promises::Verdict;
use crate::core::runtime::RunEvent;
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::Instant;

/// Interval of the driver's ticks; the core wants one every 50 ms at least.
const TICK: u64 = 40;

impl World {
    pub(super) fn send(&mut self, delay: u64, flight: Flight) {
        self.order += 1;
        self.flights.insert((self.now + delay, self.order), flight);
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        self.etcd_goes_on();
        let later = self.flights.split_off(&(self.now + 1, 0));
        for (_, flight) in std::mem::replace(&mut self.flights, later) {
            if self.waits(&flight) {
                self.send(50, flight);
            } else {
                self.land(flight);
            }
        }
        for i in 0..self.hosts.len() {
            let h = &self.hosts[i];
            if h.power && h.agent.is_some() && !h.paused && h.still.is_none() {
                self.heartbeat_thread(i);
                if !self.hosts[i].hung {
                    self.driver(i);
                }
            }
        }
        for i in 0..self.hosts.len() {
            self.data(i);
        }
        let server = self.server();
        self.served += if server.is_some() { STEP } else { 0 };
        if let Some(agent) = server.and_then(|i| self.hosts[i].agent.as_ref())
            && !self.opts.volume
            && agent.lease.lease_until < server.map_or(Instant::ZERO, |i| self.local(i))
        {
            self.saw(Sight::ServedWithoutLease);
        }
        self.check();
    }

    /// What comes for a driver that does not run waits in its socket.
    fn waits(&self, flight: &Flight) -> bool {
        match flight {
            Flight::Answer { to, .. }
            | Flight::GiveUp { to, .. }
            | Flight::Watch { to }
            | Flight::Step { to, .. } => {
                let h = &self.hosts[*to];
                let hangs = matches!(flight, Flight::Step { step, .. } if step.service().is_some())
                    && h.engine_hangs > self.now;
                h.still.is_some() || hangs || (h.agent.is_some() && (h.hung || h.paused))
            }
            Flight::Volume { to, .. } => self.hosts[*to].still.is_some(),
            Flight::Switched { by, .. } => self.hosts[*by].still.is_some(),
            Flight::Arrive { .. } => self.etcd_up && self.stall.is_some(),
            Flight::Beat { .. } => false,
        }
    }

    pub(super) fn wake(&mut self) {
        for to in 0..self.hosts.len() {
            if !self.etcd_cut.contains(&to)
                && let Some(lag) = self.hosts[to].watch_lag
            {
                let delay = STEP + self.dice.below(20) + lag;
                self.send(delay, Flight::Watch { to });
            }
        }
    }

    fn heartbeat_thread(&mut self, i: usize) {
        let now = self.local(i);
        let due = self.timers.keepalive.as_millis() as u64;
        let time = self.now;
        let mut out: Vec<(usize, HeartbeatMsg)> = Vec::new();
        let inbox = std::mem::take(&mut self.hosts[i].inbox);
        let published = {
            let Some(agent) = self.hosts[i].agent.as_ref() else { return };
            let beats = &mut *agent.beats.lock().expect("lock");
            for (from, msg) in inbox {
                if beats.on_datagram(&self.hosts[from].name, msg, now) == Verdict::Answer {
                    out.push((from, beats.answer(now)));
                }
            }
            if time >= agent.last_beat + due {
                for (to, msg) in beats.tick(now) {
                    let to = self.hosts.iter().position(|h| h.name == to).expect("known");
                    out.push((to, msg));
                }
            }
            let serve = beats.serve_until(&self.group, now);
            // What was handed on stays in force until its end, also across a restart of the agent.
            let joins = matches!(agent.unit.core().state(), State::Joining | State::Waiting);
            serve.or(self.hosts[i].published.filter(|_| joins))
        };
        self.hosts[i].published = published;
        if let Some(agent) = self.hosts[i].agent.as_mut()
            && time >= agent.last_beat + due
        {
            agent.last_beat = time;
        }
        for (to, msg) in out {
            let loss = self.loss + self.lossy.get(&(i, to)).copied().unwrap_or(0);
            if !self.cut.contains(&(i, to)) && !self.dice.chance(loss) {
                let delay = self.dice.below(if loss > 0 { 60 } else { 8 });
                self.send(delay, Flight::Beat { to, from: i, msg: Box::new(msg) });
            }
        }
    }

    pub(super) fn reaches_etcd(&self, i: usize) -> bool {
        self.etcd_up && self.stall.is_none() && !self.etcd_cut.contains(&i)
    }

    fn driver(&mut self, i: usize) {
        let now = self.local(i);
        let reachable = self.reaches_etcd(i);
        let held = self.hosts[i].agent.as_ref().map_or(0, |a| a.lease.lease);
        if self.now.is_multiple_of(200) || held == 0 {
            let ttl = self.timers.ttl;
            let name = self.hosts[i].name.clone();
            let id = reachable.then(|| self.etcd.keep_alive(&name, held, self.now, ttl.as_millis() as u64));
            let until = self.timers.lease_until(now, ttl);
            if let Some(a) = self.hosts[i].agent.as_mut() {
                a.lease.reachable = reachable;
                if let Some(id) = id {
                    a.lease = EtcdFacts { reachable, lease: id, lease_until: until };
                }
            }
        }
        if (self.now + i as u64 * STEP).is_multiple_of(TICK) {
            if let Some(a) = self.hosts[i].agent.as_mut() {
                a.beats.lock().expect("lock").vouch(now, reachable);
            }
            self.turn(i, Input::Tick);
        }
        if self.opts.volume && self.now.is_multiple_of(20) {
            self.look_at_volume(i);
        }
        if self.now.is_multiple_of(100) && self.hosts[i].engine_hangs <= self.now {
            let h = &mut self.hosts[i];
            let Some(agent) = h.agent.as_mut() else { return };
            if self.now.is_multiple_of(1000) || agent.told_engine.as_ref() != Some(&h.engine) {
                let all = h.engine.clone();
                agent.told_engine = Some(all.clone());
                self.turn(i, Input::Run(RunEvent::Containers(Some(all))));
            }
        }
    }

    /// The agent asks its replicator; what has not changed is told again once in a while.
    fn look_at_volume(&mut self, i: usize) {
        let status = self.volume_status(i);
        let Some(agent) = self.hosts[i].agent.as_mut() else { return };
        if self.now.is_multiple_of(500) || agent.told_volume.as_ref() != Some(&status) {
            agent.told_volume = Some(status.clone());
            self.turn(i, Input::Group(Event::Replicas(Some(vec![status]))));
        }
    }

    pub(super) fn volume_status(&self, i: usize) -> VolumeStatus {
        let peers = (0..self.hosts.len()).filter(|j| *j != i).map(|j| {
            let up = self.linked(i, j) && !self.hosts[j].replica.is_gone();
            (self.hosts[j].name.clone(), up, up.then_some(self.hosts[j].replica.boot))
        });
        self.hosts[i].replica.status(&group(), peers)
    }

    pub(super) fn linked(&self, i: usize, j: usize) -> bool {
        let runs = |k: usize| self.hosts[k].power && self.hosts[k].still.is_none();
        runs(i) && runs(j) && !self.repl_cut.contains(&(i.min(j), i.max(j)))
    }
}
