//! A tick: what is due ends, heartbeats are exchanged, resyncs are done, and every core is asked.

use super::cluster::{Cluster, Late, Sent, TICK};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::Event;
use crate::core::promises::Verdict;
use crate::core::record::Outcome;
use crate::core::sim::etcd::Request;
use crate::core::sim::unit::Input;
use std::sync::Arc;

impl Cluster {
    /// Time passes. The cores are asked in between, too, as the driver does much more often.
    pub(super) fn tick(&mut self, held: Option<(usize, usize)>) {
        self.now += TICK / 2;
        self.moment = 0;
        for i in 0..self.hosts.len() {
            let now = self.local(i);
            if self.lives(i) {
                if let Some(a) = self.host(i).agent.as_mut() {
                    drop(a.beats.get_mut().expect("lock").tick(now));
                }
                self.driver(i);
            }
        }
        self.rest();
        self.now += TICK / 2;
        self.moment = 0;
        if !self.cfg.volume {
            let now = self.now / 1_000_000;
            Arc::make_mut(&mut self.etcd).expire(now);
        }
        for i in 0..self.hosts.len() {
            if self.lives(i) {
                self.give_up(i);
                self.keep_alive(i);
            }
        }
        self.heartbeats(held);
        self.resync();
        for i in 0..self.hosts.len() {
            if self.lives(i) {
                self.driver(i);
            }
        }
        self.rest();
    }

    pub(super) fn driver(&mut self, i: usize) {
        let (now, sees) = (self.local(i), self.sees_etcd(i));
        if let Some(a) = self.host(i).agent.as_mut() {
            a.beats.get_mut().expect("lock").vouch(now, sees);
        }
        self.turn(i, Input::Tick);
    }

    /// Requests that nobody has answered for a tick: their time is up.
    fn give_up(&mut self, i: usize) {
        let sees = self.sees_etcd(i);
        let Some(agent) = self.host(i).agent.as_mut() else { return };
        let waiting = agent.waiting.take();
        let lost = agent.sent.take_if(|s| s.lost || !sees);
        if let Some(request) = waiting {
            let event = match request {
                _ if sees => self.answer(i, &request),
                Request::Read(id) => Event::Record(id, None),
                Request::Fence(id) => Event::Fence(id, false),
                Request::Txn(txn) => Event::Txn(txn.id, Outcome::Unknown),
            };
            self.turn(i, Input::Group(event));
        }
        if let Some(Sent { txn, outcome, .. }) = lost {
            let id = txn.id;
            if outcome.is_none() {
                self.host(i).ghosts.push(txn);
            }
            self.turn(i, Input::Group(Event::Txn(id, Outcome::Unknown)));
        }
    }

    fn heartbeats(&mut self, held: Option<(usize, usize)>) {
        for i in 0..self.hosts.len() {
            if !self.lives(i) {
                continue;
            }
            let now = self.local(i);
            let Some(a) = self.host(i).agent.as_mut() else { continue };
            let out = a.beats.get_mut().expect("lock").tick(now);
            for (to, msg) in out {
                let Some(j) = self.index(&to) else { continue };
                if held == Some((i, j)) {
                    self.late = Some(Late { from: i, to: j, msg: Box::new(msg) });
                } else if self.hears(i, j) {
                    self.deliver(i, j, msg);
                }
            }
        }
    }

    fn deliver(&mut self, i: usize, j: usize, msg: HeartbeatMsg) {
        if !self.lives(j) {
            return;
        }
        self.moment += 1;
        let (from, to) = (self.hosts[i].name.clone(), self.hosts[j].name.clone());
        let (here, there) = (self.local(i), self.local(j));
        let Some(a) = self.host(j).agent.as_mut() else { return };
        let beats = a.beats.get_mut().expect("lock");
        if beats.on_datagram(&from, msg, there) == Verdict::Answer {
            let answer = beats.answer(there);
            if self.hears(j, i)
                && self.lives(i)
                && let Some(a) = self.host(i).agent.as_mut()
            {
                a.beats.get_mut().expect("lock").on_datagram(&to, answer, here);
            }
        }
    }

    pub(super) fn deliver_late(&mut self) {
        if let Some(Late { from, to, msg }) = self.late.take() {
            self.deliver(from, to, *msg);
            for i in [to, from] {
                if self.lives(i) {
                    self.turn(i, Input::Tick);
                }
            }
        }
    }
}
