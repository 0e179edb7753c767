//! Hosts, clocks, links and time. One step is 10 ms; after each, the invariants are checked.

use super::Dice;
use super::etcd::{Answer, Etcd, Request};
use super::replica::Replica;
use super::unit::{Input, Turn, Unit};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{Action, AfterPowerLoss, EtcdFacts, Event, GroupConfig, State};
use crate::core::promises::{HeartbeatCore, Verdict};
use crate::core::record::{Durable, Outcome, TxnKind};
use crate::core::rules::Rules;
use crate::core::runtime::{
    Container, ContainerState, Health, Need, RunEvent, RuntimeConfig, ServicePlan, Step, VolumePlan,
};
use crate::core::timing::Timers;
use baton_replicator::api::Desired;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

pub(super) const STEP: u64 = 10;
const TICK: u64 = 40;

pub(super) struct Options {
    pub nodes: usize,
    pub volume: bool,
    pub rules: Rules,
    pub seed: u64,
    pub drift: bool,
    pub after_power_loss: AfterPowerLoss,
    /// The others do not know the last host.
    pub newcomer: bool,
}

impl Default for Options {
    fn default() -> Self {
        let after_power_loss = AfterPowerLoss::Wait;
        Self {
            nodes: 2,
            volume: true,
            rules: Rules::default(),
            seed: 1,
            drift: false,
            after_power_loss,
            newcomer: false,
        }
    }
}

pub(super) struct Agent {
    beats: Mutex<HeartbeatCore>,
    pub unit: Unit,
    incarnation: u64,
    lease: EtcdFacts,
    waiting: BTreeSet<(char, u64)>,
    last_beat: u64,
}

pub(super) struct Host {
    pub name: NodeName,
    offset: u64,
    /// Nanoseconds of the local clock per step.
    rate: u64,
    boots: u64,
    pub power: bool,
    pub agent: Option<Agent>,
    pub hung: bool,
    pub paused: bool,
    pub durable: Durable,
    durable_boot: u64,
    pub replica: Replica,
    pub engine: BTreeMap<String, Container>,
    pub address: bool,
    pub published: Option<(Epoch, Instant)>,
    inbox: Vec<(usize, HeartbeatMsg)>,
    starts: u64,
}

enum Flight {
    Beat { to: usize, from: usize, msg: Box<HeartbeatMsg> },
    Arrive { from: usize, incarnation: u64, request: Request, answered: bool },
    Answer { to: usize, incarnation: u64, answer: Answer },
    GiveUp { to: usize, incarnation: u64, kind: char, id: u64 },
    Watch { to: usize },
    Step { to: usize, incarnation: u64, step: Step },
    Volume { to: usize, incarnation: u64, desired: Desired },
}

/// A scripted fault of the next transaction of a node of that kind: it arrives only after so many
/// milliseconds, and its answer is lost.
pub(super) struct Late {
    pub node: usize,
    pub kind: &'static str,
    pub after: u64,
}

pub(super) struct World {
    pub now: u64,
    pub dice: Dice,
    pub opts: Options,
    pub timers: Timers,
    pub etcd: Etcd,
    pub etcd_up: bool,
    pub hosts: Vec<Host>,
    /// Heartbeats from → to that do not arrive.
    pub cut: BTreeSet<(usize, usize)>,
    /// Replication links that are down (smaller index first).
    pub repl_cut: BTreeSet<(usize, usize)>,
    pub etcd_cut: BTreeSet<usize>,
    pub loss: u64,
    /// Per cent of requests to etcd that arrive late or whose answer is lost.
    pub etcd_faults: u64,
    pub late: Vec<Late>,
    pub acked: BTreeSet<u64>,
    flushed: BTreeSet<u64>,
    next_write: u64,
    pub flights: Vec<(u64, u64, FlightBox)>,
    order: u64,
    pub trace: Vec<String>,
    pub served: u64,
    pub violation: Option<String>,
}

pub(super) struct FlightBox(Flight);

pub(super) fn group() -> GroupName {
    GroupName::new("web").expect("name")
}

pub(super) fn volume() -> VolumeName {
    VolumeName::new("store").expect("name")
}

fn kind_word(kind: &TxnKind) -> String {
    let text = format!("{kind:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

impl World {
    pub(super) fn new(opts: Options) -> Self {
        let mut dice = Dice::new(opts.seed);
        let hosts = (0..opts.nodes).map(|i| {
            let drift = if opts.drift { dice.below(1_600_000) } else { 800_000 };
            Host {
                name: NodeName::new(format!("n{i}")).expect("name"),
                offset: 1_000_000_000 * (1 + dice.below(1000)),
                rate: STEP * 1_000_000 - 800_000 + drift,
                boots: 0,
                power: true,
                agent: None,
                hung: false,
                paused: false,
                durable: Durable::default(),
                durable_boot: 0,
                replica: Replica::new(1000 * (i as u64 + 1)),
                engine: BTreeMap::new(),
                address: false,
                published: None,
                inbox: Vec::new(),
                starts: 0,
            }
        });
        let hosts = hosts.collect();
        let timers = Timers::default().check().expect("defaults");
        let mut world = Self {
            now: 0,
            dice,
            opts,
            timers,
            etcd: Etcd::new(),
            etcd_up: true,
            hosts,
            cut: BTreeSet::new(),
            repl_cut: BTreeSet::new(),
            etcd_cut: BTreeSet::new(),
            loss: 0,
            etcd_faults: 0,
            late: Vec::new(),
            acked: BTreeSet::new(),
            flushed: BTreeSet::new(),
            next_write: 1,
            flights: Vec::new(),
            order: 0,
            trace: Vec::new(),
            served: 0,
            violation: None,
        };
        for i in 0..world.hosts.len() {
            world.start_agent(i);
        }
        world
    }

    pub(super) fn local(&self, i: usize) -> Instant {
        let h = &self.hosts[i];
        Instant(h.offset.wrapping_add(self.now / STEP * h.rate))
    }

    pub(super) fn start_agent(&mut self, i: usize) {
        if !self.hosts[i].power || self.hosts[i].agent.is_some() {
            return;
        }
        let now = self.local(i);
        let last = self.hosts.len() - 1;
        let known = if self.opts.newcomer && i != last { last } else { last + 1 };
        let nodes: Vec<NodeName> = self.hosts.iter().take(known).map(|h| h.name.clone()).collect();
        let incarnation = self.dice.roll();
        let volumes = if self.opts.volume { vec![volume()] } else { Vec::new() };
        let plans = volumes.iter().map(|v| VolumePlan { volume: v.clone(), filesystem: Some("ext4".into()) });
        let run = RuntimeConfig {
            volumes: plans.collect(),
            addresses: true,
            services: vec![
                ServicePlan { name: "db".into(), after: vec![] },
                ServicePlan { name: "web".into(), after: vec![("db".into(), Need::Started)] },
            ],
            migration_threshold: 3,
            failure_timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(60),
        };
        let h = &mut self.hosts[i];
        let cfg = GroupConfig {
            group: group(),
            me: h.name.clone(),
            nodes: nodes.clone(),
            prefer: vec![nodes[0].clone()],
            volumes,
            auto_failback: false,
            after_power_loss: self.opts.after_power_loss,
            timers: self.timers,
        };
        let promised = match &h.durable.promise {
            Some(p) if h.durable_boot == h.boots => p.until,
            Some(p) => now.plus(Duration::from_millis(p.length_ms)),
            None => Instant::ZERO,
        };
        let beats = HeartbeatCore::new(
            h.name.clone(),
            incarnation,
            self.timers,
            self.opts.rules,
            nodes,
            [(group(), promised)],
            now,
        );
        let unit = Unit::new(cfg, run, h.durable.clone(), self.opts.rules, now);
        h.starts += 1;
        h.inbox.clear();
        h.hung = false;
        let lease = EtcdFacts::default();
        h.agent = Some(Agent {
            beats: Mutex::new(beats),
            unit,
            incarnation,
            lease,
            waiting: BTreeSet::new(),
            last_beat: 0,
        });
        self.note(i, "agent starts");
    }

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

    pub(super) fn note(&mut self, i: usize, text: &str) {
        let line = format!("{:>7} {} {text}", self.now, self.hosts[i].name);
        self.trace.push(line);
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end && self.violation.is_none() {
            self.step();
        }
    }

    /// Runs until the predicate holds; false after `ms`.
    pub(super) fn until(&mut self, ms: u64, what: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while self.now < end && self.violation.is_none() {
            if what(self) {
                return true;
            }
            self.step();
        }
        what(self)
    }

    pub(super) fn state(&self, i: usize) -> Option<State> {
        self.hosts[i].agent.as_ref().map(|a| a.unit.core().state())
    }

    /// Entitled by what was handed to the kernel and the replicator, agent alive or not.
    pub(super) fn entitled(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        h.power && h.published.is_some_and(|(_, until)| until > self.local(i))
    }

    /// The host that serves users now.
    pub(super) fn server(&self) -> Option<usize> {
        let runs = |h: &Host| h.engine.get("web").is_some_and(|c| c.state == ContainerState::Running);
        (0..self.hosts.len()).find(|i| self.entitled(*i) && self.hosts[*i].address && runs(&self.hosts[*i]))
    }

    pub(super) fn in_sync(&self) -> Vec<String> {
        let insync = self.etcd.insync.as_ref();
        insync.map(|i| i.value.members.iter().map(|m| m.node.to_string()).collect()).unwrap_or_default()
    }

    pub(super) fn story(&self) -> String {
        let from = self.trace.len().saturating_sub(70);
        let mut all = self.trace[from..].join("\n");
        for (i, h) in self.hosts.iter().enumerate() {
            let view = h.agent.as_ref().map(|a| {
                (
                    a.unit.core().view_of(),
                    a.unit.runtime().report(),
                    a.unit.runtime().marks(),
                    h.address,
                    &h.engine,
                )
            });
            all += &format!("\n{} power={} entitled={} {:?}", h.name, h.power, self.entitled(i), view);
        }
        all += &format!("\netcd leader={:?} insync={:?}", self.etcd.leader, self.etcd.insync);
        all
    }

    pub(super) fn view(&self, i: usize) -> Option<crate::core::group::GroupView> {
        self.hosts[i].agent.as_ref().map(|a| a.unit.core().view_of())
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

    fn send(&mut self, delay: u64, flight: Flight) {
        self.order += 1;
        self.flights.push((self.now + delay, self.order, FlightBox(flight)));
    }

    pub(super) fn step(&mut self) {
        self.now += STEP;
        if self.etcd_up && self.etcd.expire(self.now) {
            self.trace.push(format!("{:>7} etcd: the leader key expires", self.now));
            self.wake();
        }
        let (mut due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|f| f.0 <= self.now);
        self.flights = later;
        due.sort_by_key(|f| (f.0, f.1));
        for (_, _, flight) in due {
            // What comes for a driver that does not run waits in its socket.
            let waits = match &flight.0 {
                Flight::Answer { to, .. }
                | Flight::GiveUp { to, .. }
                | Flight::Watch { to }
                | Flight::Step { to, .. } => {
                    self.hosts[*to].agent.is_some() && (self.hosts[*to].hung || self.hosts[*to].paused)
                }
                Flight::Beat { .. } | Flight::Arrive { .. } | Flight::Volume { .. } => false,
            };
            if waits {
                self.send(50, flight.0);
            } else {
                self.land(flight.0);
            }
        }
        for i in 0..self.hosts.len() {
            if self.hosts[i].power && self.hosts[i].agent.is_some() && !self.hosts[i].paused {
                self.heartbeat_thread(i);
                if !self.hosts[i].hung {
                    self.driver(i);
                }
            }
        }
        for i in 0..self.hosts.len() {
            self.data(i);
        }
        self.served += if self.server().is_some() { STEP } else { 0 };
        self.check();
    }

    fn wake(&mut self) {
        for to in 0..self.hosts.len() {
            if !self.etcd_cut.contains(&to) {
                let delay = STEP + self.dice.below(20);
                self.send(delay, Flight::Watch { to });
            }
        }
    }

    fn heartbeat_thread(&mut self, i: usize) {
        let now = self.local(i);
        let inbox = std::mem::take(&mut self.hosts[i].inbox);
        let names: Vec<NodeName> = self.hosts.iter().map(|h| h.name.clone()).collect();
        let due = self.timers.keepalive.as_millis() as u64;
        let time = self.now;
        let mut out: Vec<(usize, HeartbeatMsg)> = Vec::new();
        let host = &mut self.hosts[i];
        let Some(agent) = host.agent.as_mut() else { return };
        {
            let beats = &mut *agent.beats.lock().expect("lock");
            for (from, msg) in inbox {
                if beats.on_datagram(&names[from], msg, now) == Verdict::Answer {
                    out.push((from, beats.answer(now)));
                }
            }
            if time >= agent.last_beat + due {
                agent.last_beat = time;
                for (to, msg) in beats.tick(now) {
                    let to = names.iter().position(|n| *n == to).expect("known");
                    out.push((to, msg));
                }
            }
            // What was handed on stays in force until its end, also across a restart of the agent.
            let joins = matches!(agent.unit.core().state(), State::Joining | State::Waiting);
            host.published = beats.serve_until(&group(), now).or(host.published.filter(|_| joins));
        }
        for (to, msg) in out {
            if !self.cut.contains(&(i, to)) && !self.dice.chance(self.loss) {
                let delay = self.dice.below(if self.loss > 0 { 60 } else { 8 });
                self.send(delay, Flight::Beat { to, from: i, msg: Box::new(msg) });
            }
        }
    }

    fn driver(&mut self, i: usize) {
        let now = self.local(i);
        let reachable = self.etcd_up && !self.etcd_cut.contains(&i);
        let name = self.hosts[i].name.clone();
        if self.now % 200 == 0 || self.hosts[i].agent.as_ref().is_some_and(|a| a.lease.lease == 0) {
            let held = self.hosts[i].agent.as_ref().map_or(0, |a| a.lease.lease);
            let ttl = self.timers.ttl;
            let id = reachable.then(|| self.etcd.keep_alive(&name, held, self.now, ttl.as_millis() as u64));
            let until = self.timers.lease_until(now, ttl);
            if let Some(a) = self.hosts[i].agent.as_mut() {
                a.lease.reachable = reachable;
                if let Some(id) = id {
                    a.lease = EtcdFacts { reachable, lease: id, lease_until: until };
                }
            }
        }
        if (self.now + i as u64 * STEP) % TICK == 0 {
            if let Some(a) = self.hosts[i].agent.as_mut() {
                a.beats.lock().expect("lock").vouch(now, reachable);
            }
            self.turn(i, Input::Tick);
        }
        if self.opts.volume && self.now % 20 == 0 {
            let status = self.volume_status(i);
            self.turn(i, Input::Group(Event::Replicas(Some(vec![status]))));
        }
        if self.now % 100 == 0 {
            let all = self.hosts[i].engine.clone();
            self.turn(i, Input::Run(RunEvent::Containers(Some(all))));
        }
    }

    fn volume_status(&self, i: usize) -> baton_replicator::api::VolumeStatus {
        let peers = (0..self.hosts.len()).filter(|j| *j != i).map(|j| {
            let up = self.linked(i, j);
            (self.hosts[j].name.clone(), up, up.then_some(self.hosts[j].replica.boot))
        });
        self.hosts[i].replica.status(&group(), peers)
    }

    fn linked(&self, i: usize, j: usize) -> bool {
        self.hosts[i].power && self.hosts[j].power && !self.repl_cut.contains(&(i.min(j), i.max(j)))
    }

    fn turn(&mut self, i: usize, input: Input) {
        let (now, random) = (self.local(i), self.dice.roll());
        let h = &mut self.hosts[i];
        let Some(agent) = h.agent.as_mut() else { return };
        let (mut durable, facts) = (None, agent.lease);
        let turn =
            agent.unit.turn(input, facts, &agent.beats, now, random, &mut |d| durable = Some(d.clone()));
        if let Some(d) = durable {
            h.durable = d;
            h.durable_boot = h.boots;
        }
        self.carry_out(i, turn);
    }

    fn carry_out(&mut self, i: usize, turn: Turn) {
        let incarnation = self.hosts[i].agent.as_ref().map_or(0, |a| a.incarnation);
        for action in turn.actions {
            match action {
                Action::Persist(_) => {}
                Action::Event(_, text) => self.note(i, &text),
                Action::Read(id) => self.request(i, incarnation, 'r', id, Request::Read(id)),
                Action::WriteFence(id) => self.request(i, incarnation, 'f', id, Request::Fence(id)),
                Action::Txn(txn) => self.request(i, incarnation, 't', txn.id, Request::Txn(Box::new(txn))),
                Action::SetVolume(_, desired) => {
                    let delay = 10 + self.dice.below(30);
                    self.send(delay, Flight::Volume { to: i, incarnation, desired });
                }
            }
        }
        for step in turn.steps {
            let delay = match step {
                Step::AddAddresses | Step::RemoveAddresses => 10,
                _ => 20 + self.dice.below(100),
            };
            self.send(delay, Flight::Step { to: i, incarnation, step });
        }
    }

    fn request(&mut self, i: usize, incarnation: u64, kind: char, id: u64, request: Request) {
        if let Some(a) = self.hosts[i].agent.as_mut() {
            a.waiting.insert((kind, id));
        }
        let timeout = self.timers.etcd_timeout.as_millis() as u64;
        self.send(timeout, Flight::GiveUp { to: i, incarnation, kind, id });
        let mut delay = self.dice.below(10);
        let mut answered = true;
        if let Request::Txn(txn) = &request {
            let word = kind_word(&txn.kind);
            self.note(i, &format!("sends {word} {:?}", txn.guard));
            if let Some(k) = self.late.iter().position(|l| l.node == i && l.kind == word) {
                delay = self.late.remove(k).after;
                answered = false;
            }
        }
        if self.etcd_faults > 0 && self.dice.chance(self.etcd_faults) {
            answered = false;
            delay = self.dice.below(4000);
        }
        let out_of_reach = !self.etcd_up || self.etcd_cut.contains(&i);
        if out_of_reach {
            // Lost, or stuck in a socket until the way is free again.
            if !self.dice.chance(30) {
                return;
            }
            (delay, answered) = (2000 + self.dice.below(3000), false);
        }
        self.send(delay, Flight::Arrive { from: i, incarnation, request, answered });
    }

    fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Beat { to, from, msg } => {
                if self.hosts[to].power && self.hosts[to].agent.is_some() {
                    self.hosts[to].inbox.push((from, *msg));
                }
            }
            Flight::Arrive { from, incarnation, request, answered } => {
                if self.etcd_up {
                    self.arrive(from, incarnation, &request, answered);
                }
            }
            Flight::Answer { to, incarnation, answer } => {
                let key = match &answer {
                    Answer::Read(id, _) => ('r', *id),
                    Answer::Fence(id, _) => ('f', *id),
                    Answer::Txn(id, _) => ('t', *id),
                };
                if self.expects(to, incarnation, key) {
                    let event = match answer {
                        Answer::Read(id, record) => Event::Record(id, record),
                        Answer::Fence(id, ok) => Event::Fence(id, ok),
                        Answer::Txn(id, outcome) => Event::Txn(id, outcome),
                    };
                    self.turn(to, Input::Group(event));
                }
            }
            Flight::GiveUp { to, incarnation, kind, id } => {
                if self.expects(to, incarnation, (kind, id)) {
                    let event = match kind {
                        'r' => Event::Record(id, None),
                        'f' => Event::Fence(id, false),
                        _ => Event::Txn(id, Outcome::Unknown),
                    };
                    self.turn(to, Input::Group(event));
                }
            }
            Flight::Watch { to } => self.turn(to, Input::Group(Event::Changed)),
            Flight::Step { to, incarnation, step } => self.run_step(to, incarnation, step),
            Flight::Volume { to, incarnation, desired } => {
                if !self.hosts[to].power {
                    return;
                }
                let result = self.hosts[to].replica.command(&desired);
                if self.hosts[to].agent.as_ref().is_some_and(|a| a.incarnation == incarnation) {
                    let status = self.volume_status(to);
                    self.turn(to, Input::Group(Event::Replicas(Some(vec![status]))));
                    self.turn(to, Input::Group(Event::VolumeSet(volume(), result)));
                }
            }
        }
    }

    fn expects(&mut self, to: usize, incarnation: u64, key: (char, u64)) -> bool {
        let h = &mut self.hosts[to];
        let Some(a) = h.agent.as_mut().filter(|a| a.incarnation == incarnation) else { return false };
        a.waiting.remove(&key)
    }

    fn arrive(&mut self, from: usize, incarnation: u64, request: &Request, answered: bool) {
        let name = self.hosts[from].name.clone();
        let before = self.etcd.insync.clone();
        let answer = self.etcd.apply(&name, request, self.now);
        if let (Answer::Txn(_, outcome), Request::Txn(txn)) = (&answer, request) {
            let late = if answered { "" } else { " (answer lost)" };
            self.trace.push(format!(
                "{:>7} etcd: {name} {} {outcome:?}{late}",
                self.now,
                kind_word(&txn.kind)
            ));
            if matches!(outcome, Outcome::Committed { .. }) {
                if txn.kind == TxnKind::Takeover {
                    self.took_over(from, before.as_ref());
                }
                self.wake();
            }
        }
        if answered {
            let delay = self.dice.below(10);
            self.send(delay, Flight::Answer { to: from, incarnation, answer });
        }
    }

    /// The whole set had lost its memory: what was never flushed is legally gone.
    fn took_over(
        &mut self,
        i: usize,
        before: Option<&crate::core::record::Versioned<crate::core::record::InSync>>,
    ) {
        let boot = self.hosts[i].replica.boot;
        let Some(before) = before.filter(|_| self.opts.volume) else { return };
        let mine = before.value.members.iter().find(|m| m.node == self.hosts[i].name);
        match mine {
            None => self.violation = Some(format!("{} was not in the in-sync set", self.hosts[i].name)),
            Some(m) if m.boot != boot => {
                self.acked = self.acked.intersection(&self.flushed).copied().collect()
            }
            Some(_) => {}
        }
    }

    fn run_step(&mut self, i: usize, incarnation: u64, step: Step) {
        if !self.hosts[i].power {
            return;
        }
        let h = &mut self.hosts[i];
        let mut formatted: Vec<NodeName> = Vec::new();
        let mut set = |name: &str, state| {
            h.engine.insert(name.to_owned(), Container { state, health: Health::None });
        };
        match &step {
            Step::Format(_) => {
                h.replica.filesystem = true;
                formatted = h.replica.synced.keys().cloned().collect();
            }
            Step::AddAddresses => h.address = true,
            Step::RemoveAddresses => h.address = false,
            Step::Prepare => {
                for name in ["db", "web"] {
                    h.engine
                        .entry(name.into())
                        .or_insert(Container { state: ContainerState::Created, health: Health::None });
                }
            }
            Step::Start(s) | Step::Restart(s) | Step::Unpause(s) => set(s, ContainerState::Running),
            Step::Stop(s) | Step::Kill(s) => set(s, ContainerState::Exited(0)),
            Step::Pause(s) => set(s, ContainerState::Paused),
        }
        // mkfs writes through the replication like anyone else.
        for h in self.hosts.iter_mut().filter(|h| formatted.contains(&h.name)) {
            h.replica.filesystem = true;
        }
        if self.hosts[i].agent.as_ref().is_some_and(|a| a.incarnation == incarnation) {
            self.turn(i, Input::Run(RunEvent::Done(step, Ok(()))));
        }
    }

    /// One host's replica: writes, acknowledgements, flushes, resyncs.
    fn data(&mut self, i: usize) {
        let local = self.local(i);
        let h = &self.hosts[i];
        if !h.power || !self.opts.volume || h.replica.role != baton_replicator::types::Role::Primary {
            return;
        }
        let valid = h.published.is_some_and(|(e, until)| e == h.replica.epoch && until > local);
        let runs = h.engine.get("db").is_some_and(|c| c.state == ContainerState::Running);
        if valid && runs && h.replica.pending.is_none() && self.dice.chance(20) {
            let w = self.next_write;
            self.next_write += 1;
            let r = &mut self.hosts[i].replica;
            r.have.insert(w);
            r.pending = Some(w);
        }
        let epoch = self.hosts[i].replica.epoch;
        let required = self.hosts[i].replica.required.clone();
        let takes = |w: &Self, j: usize| {
            let r = &w.hosts[j].replica;
            w.linked(i, j)
                && r.role == baton_replicator::types::Role::Secondary
                && r.epoch.number <= epoch.number
        };
        let member = |w: &Self, j: usize| required.iter().find(|m| m.node == w.hosts[j].name).map(|m| m.boot);
        let mut all = true;
        let pending = self.hosts[i].replica.pending;
        for j in (0..self.hosts.len()).filter(|j| *j != i) {
            let name = self.hosts[j].name.clone();
            let synced = self.hosts[i].replica.synced.get(&name).copied() == Some(self.hosts[j].replica.boot);
            let needed = member(self, j);
            let ok = takes(self, j) && needed.is_none_or(|b| b == self.hosts[j].replica.boot);
            all &= needed.is_none() || ok;
            if ok && (synced || needed.is_some()) {
                let have = pending.filter(|_| ok);
                let peer = &mut self.hosts[j].replica;
                peer.epoch = epoch;
                peer.have.extend(have);
            } else if synced && pending.is_some() {
                self.hosts[i].replica.synced.remove(&name);
            } else if takes(self, j) && valid && needed.is_none() && self.dice.chance(4) {
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
                self.acked.insert(w);
            }
            self.hosts[i].replica.frozen_since = None;
            let new = required.iter().any(|m| !self.hosts[i].replica.settled.contains(&m.node));
            if new || self.dice.chance(3) {
                self.hosts[i].replica.settled = required.iter().map(|m| m.node.clone()).collect();
                self.flushed = self.acked.clone();
                for j in 0..self.hosts.len() {
                    if j == i || member(self, j).is_some() {
                        let r = &mut self.hosts[j].replica;
                        r.durable = r.have.clone();
                    }
                }
            }
        } else if pending.is_some() || !valid {
            let since = self.hosts[i].replica.frozen_since.unwrap_or(local);
            self.hosts[i].replica.frozen_since = Some(since);
        }
    }

    fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let entitled: Vec<usize> = (0..self.hosts.len()).filter(|i| self.entitled(*i)).collect();
        if entitled.len() > 1 {
            self.violation = Some(format!("two nodes are entitled to serve: {entitled:?}"));
        }
        for i in entitled {
            let r = &self.hosts[i].replica;
            let serves = r.role == baton_replicator::types::Role::Primary
                && self.hosts[i].published.is_some_and(|(e, _)| e == r.epoch);
            if serves && !self.acked.is_subset(&r.have) {
                let lost: Vec<&u64> = self.acked.difference(&r.have).collect();
                self.violation =
                    Some(format!("{} serves without acknowledged writes {lost:?}", self.hosts[i].name));
            }
        }
    }
}
