//! Hosts, network and time: what is on its way arrives in order, until nothing more would change.
//!
//! Everything is an entry of one queue, ordered by its time in milliseconds and by when it was put there.

use super::etcd::{Etcd, lease};
use super::host::{Host, Input, Start};
use super::watcher::Watcher;
use super::{Cut, Moment, Outlook, Scene};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{Action, Event, GroupConfig};
use crate::core::promises::Verdict;
use crate::core::record::{Outcome, Record, Txn};
use crate::core::runtime::{RunEvent, Step};
use baton_replicator::api::Desired;
use baton_replicator::types::{BootId, Epoch, GroupName, Instant, Member, NodeName, TermId, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Interval of the driver's ticks, as in the driver.
const TICK: u64 = 25;
/// Interval at which containers are looked at, as in the driver.
const LOOK: u64 = 1000;
/// Interval of renewals of a lease, as in the etcd adapter.
const RENEW: u64 = 1000;
/// A datagram, and a step that takes no time here.
const HOP: u64 = 1;
/// A request to etcd until its answer: a write to three disks in one room.
const ETCD: u64 = 5;
/// The fault strikes so long after a heartbeat: its acknowledgement has just arrived.
const AFTER_BEAT: u64 = 3;
/// The longest look ahead; an `initdead` beyond it is not waited for.
const FARTHEST: u64 = 600_000;
/// The clocks stand so far from zero that "before the start" exists.
const ORIGIN: Duration = Duration::from_secs(1_000_000);

enum Happening {
    Beat(usize, usize, Box<HeartbeatMsg>),
    Keepalive(usize),
    Tick(usize),
    Look(usize),
    Renew(usize),
    Read(usize, u64, Option<Box<Record>>),
    Fence(usize, u64, bool),
    Txn(usize, u64, Outcome),
    Commit(usize, Box<Txn>),
    Watch(usize),
    Done(usize, Step),
    Told(usize, Desired),
}

/// The model of one group.
pub(super) struct World {
    group: GroupName,
    scene: Scene,
    pub(super) now: u64,
    order: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    pub(super) hosts: Vec<Host>,
    pub(super) etcd: Etcd,
    etcd_up: bool,
    /// When each node lost its way to etcd: it notices after `etcd_timeout`.
    lost_etcd: BTreeMap<usize, u64>,
    beats: BTreeSet<(NodeName, NodeName)>,
    blocks: BTreeSet<(NodeName, NodeName)>,
    moments: Vec<(u64, Moment)>,
    changed: u64,
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn pair(a: &NodeName, b: &NodeName) -> (NodeName, NodeName) {
    if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}

impl World {
    pub(super) fn new(group: &GroupName, volume: &VolumeName, scene: &Scene) -> Self {
        let epoch = Epoch { number: super::EPOCH, term: TermId(super::EPOCH) };
        // Without data nothing is lost by a reboot: the cores use one id for all.
        let recorded = |i: usize| BootId(if scene.data { 10 + i as u64 } else { 1 });
        let position = |name: &NodeName| scene.nodes.iter().position(|n| n.name == *name);
        let member = |name: &NodeName| Some(Member { node: name.clone(), boot: recorded(position(name)?) });
        let members: Vec<Member> = scene.members.iter().filter_map(member).collect();
        let began = Instant::ZERO.plus(ORIGIN);
        // As if every agent had been there for as long as any rule waits.
        let wait = scene.timers.initdead.max(scene.timers.deadtime).min(ORIGIN / 2);
        let started = Instant(began.0 - Instant::ZERO.plus(wait).0);
        let host = |(i, n): (usize, &super::SceneNode)| {
            let leads = scene.leader.as_ref() == Some(&n.name);
            let boot = if n.same_boot || !scene.data { recorded(i) } else { BootId(100 + i as u64) };
            let others = || members.iter().filter(|m| m.node != n.name).cloned().collect();
            let start = Start { epoch, leads: leads.then(others), boot, started };
            let cfg = GroupConfig {
                group: group.clone(),
                me: n.name.clone(),
                nodes: scene.nodes.iter().map(|n| n.name.clone()).collect(),
                prefer: scene.prefer.clone(),
                volumes: if scene.data { vec![volume.clone()] } else { Vec::new() },
                placing: scene.placing.clone(),
                failure_timeout: scene.failure_timeout,
                after_power_loss: scene.after_power_loss,
                timers: scene.timers,
                retire: None,
                stop_timeout: Duration::from_secs(60),
                hot: false,
                gateway_hold: Duration::from_secs(10),
                fencing: Default::default(),
            };
            Host::new(cfg, n, scene.addresses, &start)
        };
        let hosts: Vec<Host> = scene.nodes.iter().enumerate().map(host).collect();
        let etcd = Etcd::new(scene, epoch, members.clone(), ms(scene.timers.ttl));
        let mut world = Self {
            group: group.clone(),
            scene: scene.clone(),
            now: 0,
            order: 0,
            queue: BTreeMap::new(),
            etcd,
            etcd_up: true,
            lost_etcd: BTreeMap::new(),
            beats: BTreeSet::new(),
            blocks: BTreeSet::new(),
            moments: Vec::new(),
            changed: 0,
            hosts,
        };
        for i in 0..world.hosts.len() {
            for first in
                [Happening::Renew(i), Happening::Look(i), Happening::Keepalive(i), Happening::Tick(i)]
            {
                world.put(0, first);
            }
        }
        world
    }

    /// Settles, cuts, and looks ahead until nothing more would change.
    pub(super) fn through(mut self, cut: &Cut) -> Outlook {
        let t = self.scene.timers;
        // Long enough for settling requests, reading, promising and admitting; then up to a round moment.
        let settle = ms(t.deadtime) * 3 + 2000;
        self.run_to_a_beat(settle);
        // The lease runs out, silence counts afresh after it, precedence and a handover on top.
        let quiet = ms(t.ttl) + ms(t.deadtime) * 3 + ms(t.etcd_timeout) + 2000;
        let lost = self.lost_already();
        if lost != Cut::default() {
            self.cut(&lost);
            self.run_to_a_beat(self.now + quiet);
        }
        let fault = self.now;
        let before = self.server();
        self.cut(cut);
        self.moments.clear();
        self.etcd.way = None;
        self.changed = fault;
        let end = (fault + quiet + ms(t.initdead.max(t.restart_window))).min(fault + FARTHEST);
        let server = before.map(|i| self.hosts[i].name.clone());
        let mut watch = Watcher::new(fault, server, self.members());
        watch.look(&self);
        while self.now < end {
            let next = self.now + HOP;
            self.run(next);
            watch.look(&self);
            // Somebody serves, and for long nobody has changed anything.
            if watch.server.is_some() && self.now - self.changed > quiet {
                break;
            }
        }
        let alive = |h: &&Host| h.power && h.agent;
        let reasons =
            self.hosts.iter().filter(alive).map(|h| (h.name.clone(), h.core.view_of().reason)).collect();
        Outlook {
            before: before.map(|i| self.hosts[i].name.clone()),
            after: watch.server,
            won: watch.won,
            gaps: watch.gaps,
            removed: watch.removed,
            members: self.members(),
            moments: self.moments.iter().map(|(at, m)| Moment { at_ms: at - fault, ..m.clone() }).collect(),
            reasons,
            horizon_ms: self.now - fault,
        }
    }

    /// On to the moment right after a renewal of the leases and a heartbeat, not before `at`.
    fn run_to_a_beat(&mut self, at: u64) {
        let keepalive = ms(self.scene.timers.keepalive).max(1);
        let renewed = at.div_ceil(RENEW) * RENEW;
        self.run(renewed.div_ceil(keepalive) * keepalive + AFTER_BEAT);
    }

    /// What is gone before the fault. The model begins with everything there, as the cluster once did.
    fn lost_already(&self) -> Cut {
        let names = |lost: fn(&super::SceneNode) -> bool| {
            self.scene.nodes.iter().filter(|n| lost(n)).map(|n| n.name.clone()).collect::<BTreeSet<_>>()
        };
        let etcd = names(|n| n.up && !n.etcd);
        let all_etcd = !self.scene.nodes.iter().any(|n| n.up && n.etcd);
        Cut { hosts: names(|n| !n.up), etcd, all_etcd, ..Cut::default() }
    }

    pub(super) fn members(&self) -> Vec<NodeName> {
        let all = self.etcd.insync.as_ref().map(|i| i.value.members.as_slice()).unwrap_or_default();
        let mut names: Vec<NodeName> = all.iter().map(|m| m.node.clone()).collect();
        names.sort();
        names
    }

    fn cut(&mut self, cut: &Cut) {
        for (i, host) in self.hosts.iter_mut().enumerate() {
            host.power &= !cut.hosts.contains(&host.name);
            host.agent &= host.power && !cut.agents.contains(&host.name);
            if cut.all_etcd || cut.etcd.contains(&host.name) {
                host.way = false;
                self.lost_etcd.insert(i, self.now);
            }
        }
        self.etcd_up &= !cut.all_etcd;
        self.beats.extend(cut.beats.iter().cloned());
        self.blocks.extend(cut.blocks.iter().cloned());
    }

    pub(super) fn server(&self) -> Option<usize> {
        let now = self.local();
        (0..self.hosts.len()).find(|i| self.hosts[*i].serves(now, self.scene.addresses))
    }

    fn local(&self) -> Instant {
        Instant::ZERO.plus(ORIGIN + Duration::from_millis(self.now))
    }

    fn put(&mut self, delay: u64, what: Happening) {
        self.order += 1;
        self.queue.insert((self.now + delay, self.order), what);
    }

    fn run(&mut self, end: u64) {
        while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= end) {
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            if self.etcd_up && self.etcd.expire(at) {
                self.wake();
            }
            self.happen(what);
        }
        self.now = end;
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Keepalive(i) => {
                self.put(ms(self.scene.timers.keepalive), Happening::Keepalive(i));
                self.keepalive(i);
            }
            Happening::Tick(i) => {
                self.put(TICK, Happening::Tick(i));
                self.tick(i);
            }
            Happening::Look(i) => {
                self.put(LOOK, Happening::Look(i));
                let seen = self.hosts[i].containers();
                self.turn(i, Input::Run(seen));
            }
            Happening::Renew(i) => {
                self.put(RENEW, Happening::Renew(i));
                self.renew(i);
            }
            Happening::Beat(to, from, msg) => self.heard(to, from, *msg),
            Happening::Read(i, id, record) => self.turn(i, Input::Group(Event::Record(id, record))),
            Happening::Fence(i, id, written) => self.turn(i, Input::Group(Event::Fence(id, written))),
            Happening::Txn(i, id, outcome) => self.turn(i, Input::Group(Event::Txn(id, outcome))),
            Happening::Commit(i, txn) => self.commit(i, &txn),
            Happening::Watch(i) => self.turn(i, Input::Group(Event::Changed)),
            Happening::Done(i, step) => {
                if self.hosts[i].power {
                    self.hosts[i].done(&step);
                    self.turn(i, Input::Run(RunEvent::Done(step, Ok(()))));
                }
            }
            Happening::Told(i, desired) => self.told(i, &desired),
        }
    }

    fn lives(&self, i: usize) -> bool {
        self.hosts[i].power && self.hosts[i].agent
    }

    fn reaches_etcd(&self, i: usize) -> bool {
        self.etcd_up && self.hosts[i].way
    }

    fn turn(&mut self, i: usize, input: Input) {
        if !self.lives(i) {
            return;
        }
        // Only told apart from others: term ids must differ.
        self.order += 1;
        let (now, random) = (self.local(), self.order);
        let before = self.hosts[i].core.state();
        let (actions, steps) = self.hosts[i].turn(input, now, random);
        if self.hosts[i].core.state() != before {
            self.changed = self.now;
        }
        for action in actions {
            self.act(i, action);
        }
        for step in steps {
            self.put(HOP, Happening::Done(i, step));
        }
    }

    fn act(&mut self, i: usize, action: Action) {
        let open = self.reaches_etcd(i);
        let timeout = ms(self.scene.timers.etcd_timeout);
        match action {
            Action::Persist(_) => {}
            Action::Event(_, text) => {
                let node = self.hosts[i].name.clone();
                self.moments.push((self.now, Moment { at_ms: 0, node, text }));
            }
            Action::Read(id) if open => {
                let record = Box::new(self.etcd.read(&self.hosts[i].name));
                self.put(ETCD, Happening::Read(i, id, Some(record)));
            }
            Action::Read(id) => self.put(timeout, Happening::Read(i, id, None)),
            Action::WriteFence(id) if open => {
                self.etcd.fence(&self.hosts[i].name);
                self.put(ETCD, Happening::Fence(i, id, true));
            }
            Action::WriteFence(id) => self.put(timeout, Happening::Fence(i, id, false)),
            Action::Txn(txn) if open => self.put(ETCD - HOP, Happening::Commit(i, Box::new(txn))),
            Action::Txn(txn) => self.put(timeout, Happening::Txn(i, txn.id, Outcome::Unknown)),
            // Devices are not asked here: their groups are modelled as if nothing had to be switched off.
            Action::FenceNode { .. } => {}
            Action::SetVolume(_, desired) => self.put(HOP, Happening::Told(i, desired)),
        }
    }

    fn commit(&mut self, i: usize, txn: &Txn) {
        let outcome = self.etcd.transact(&self.hosts[i].name, lease(i), txn);
        if matches!(outcome, Outcome::Committed { .. }) {
            self.changed = self.now;
            self.wake();
        }
        self.put(HOP, Happening::Txn(i, txn.id, outcome));
    }

    fn told(&mut self, i: usize, desired: &Desired) {
        let Some(replica) = self.hosts[i].replica.as_mut() else { return };
        let (volume, result) = (replica.volume.clone(), replica.obey(desired));
        self.replica(i);
        self.turn(i, Input::Group(Event::VolumeSet(volume, result)));
    }

    /// Tells the cores what became of the replica.
    fn replica(&mut self, i: usize) {
        let boots: Vec<(NodeName, Option<BootId>)> = (0..self.hosts.len())
            .filter(|j| *j != i)
            .map(|j| {
                let (here, there) = (&self.hosts[i], &self.hosts[j]);
                let open = here.power && there.power && !self.blocks.contains(&pair(&here.name, &there.name));
                (there.name.clone(), there.replica.as_ref().filter(|_| open).map(|r| r.boot))
            })
            .collect();
        let (now, group) = (self.local(), self.group.clone());
        let Some(replica) = self.hosts[i].replica.as_mut() else { return };
        if let Some(status) = replica.news(&group, boots.into_iter(), now) {
            self.turn(i, Input::Group(Event::Replicas(Some(vec![status]))));
        }
    }

    fn wake(&mut self) {
        for i in 0..self.hosts.len() {
            if self.reaches_etcd(i) {
                self.put(HOP, Happening::Watch(i));
            }
        }
    }

    fn renew(&mut self, i: usize) {
        if self.lives(i) && self.reaches_etcd(i) {
            let ttl = self.scene.timers.ttl;
            self.etcd.renew(lease(i), self.now + ms(ttl));
            let lease_until = self.scene.timers.lease_until(self.local(), ttl);
            let etcd = &mut self.hosts[i].etcd;
            (etcd.reachable, etcd.lease, etcd.lease_until) = (true, lease(i), lease_until);
        }
    }

    fn tick(&mut self, i: usize) {
        if !self.lives(i) {
            return;
        }
        let noticed = |lost: &u64| self.now >= lost + ms(self.scene.timers.etcd_timeout);
        if self.lost_etcd.get(&i).is_some_and(noticed) {
            self.hosts[i].etcd.reachable = false;
        }
        let (now, reachable) = (self.local(), self.hosts[i].etcd.reachable);
        self.hosts[i].beats.vouch(now, reachable);
        self.replica(i);
        self.turn(i, Input::Tick);
        self.hosts[i].publish(now);
    }

    fn keepalive(&mut self, i: usize) {
        if !self.lives(i) {
            return;
        }
        let now = self.local();
        for (to, msg) in self.hosts[i].beats.tick(now) {
            self.send(i, &to, msg);
        }
        self.hosts[i].publish(now);
    }

    fn send(&mut self, from: usize, to: &NodeName, msg: HeartbeatMsg) {
        let way = (self.hosts[from].name.clone(), to.clone());
        let Some(to) = self.hosts.iter().position(|h| h.name == *to) else { return };
        if !self.beats.contains(&way) {
            self.put(HOP, Happening::Beat(to, from, Box::new(msg)));
        }
    }

    fn heard(&mut self, to: usize, from: usize, msg: HeartbeatMsg) {
        if !self.lives(to) {
            return;
        }
        let (now, name) = (self.local(), self.hosts[from].name.clone());
        if self.hosts[to].beats.on_datagram(&name, msg, now) == Verdict::Answer {
            let answer = self.hosts[to].beats.answer(now);
            self.send(to, &name, answer);
        }
        self.hosts[to].publish(now);
    }
}
