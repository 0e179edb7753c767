//! Hosts, clocks, links and time. One step is 10 ms; after each, the invariants are checked.

use super::Dice;
use super::etcd::{Answer, Etcd, Request};
use super::replica::Replica;
use super::unit::{Input, Unit};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{AfterPowerLoss, EtcdFacts, Event, GroupConfig, State};
use crate::core::promises::{HeartbeatCore, Verdict};
use crate::core::record::{Durable, TxnKind};
use crate::core::rules::Rules;
use crate::core::runtime::{
    Container, ContainerState, Need, RunEvent, RuntimeConfig, ServicePlan, Step, VolumePlan,
};
use crate::core::timing::Timers;
use baton_replicator::api::Desired;
use baton_replicator::types::{DiskState, Epoch, GroupName, Instant, NodeName, VolumeName};
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
    pub beats: Mutex<HeartbeatCore>,
    pub unit: Unit,
    pub incarnation: u64,
    pub lease: EtcdFacts,
    pub waiting: BTreeSet<(char, u64)>,
    pub last_beat: u64,
}

pub(super) struct Host {
    pub name: NodeName,
    pub offset: u64,
    /// Nanoseconds of the local clock per step.
    pub rate: u64,
    pub boots: u64,
    pub power: bool,
    pub agent: Option<Agent>,
    pub hung: bool,
    pub paused: bool,
    pub durable: Durable,
    pub durable_boot: u64,
    pub replica: Replica,
    pub engine: BTreeMap<String, Container>,
    pub address: bool,
    pub published: Option<(Epoch, Instant)>,
    pub inbox: Vec<(usize, HeartbeatMsg)>,
    pub starts: u64,
}

pub(super) enum Flight {
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
    pub flushed: BTreeSet<u64>,
    pub next_write: u64,
    pub flights: Vec<(u64, u64, FlightBox)>,
    pub order: u64,
    pub trace: Vec<String>,
    pub served: u64,
    pub violation: Option<String>,
}

pub(super) struct FlightBox(pub Flight);

pub(super) fn group() -> GroupName {
    GroupName::new("web").expect("name")
}

pub(super) fn volume() -> VolumeName {
    VolumeName::new("store").expect("name")
}

pub(super) fn kind_word(kind: &TxnKind) -> String {
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
                ServicePlan { name: "db".into(), after: vec![], leaving: false },
                ServicePlan { name: "web".into(), after: vec![("db".into(), Need::Started)], leaving: false },
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
            failure_timeout: Duration::from_secs(60),
            after_power_loss: self.opts.after_power_loss,
            timers: self.timers,
            retire: None,
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
            let r = &h.replica;
            let replica = (r.role, r.disk, r.epoch, r.boot, &r.synced, &r.settled, r.pending, r.membership);
            all += &format!(
                "\n{} power={} entitled={} {replica:?} {:?}",
                h.name,
                h.power,
                self.entitled(i),
                view
            );
        }
        all += &format!("\netcd leader={:?} insync={:?}", self.etcd.leader, self.etcd.insync);
        all
    }

    pub(super) fn view(&self, i: usize) -> Option<crate::core::group::GroupView> {
        self.hosts[i].agent.as_ref().map(|a| a.unit.core().view_of())
    }

    pub(super) fn send(&mut self, delay: u64, flight: Flight) {
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

    pub(super) fn wake(&mut self) {
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
        if self.now.is_multiple_of(200) || self.hosts[i].agent.as_ref().is_some_and(|a| a.lease.lease == 0) {
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
        if (self.now + i as u64 * STEP).is_multiple_of(TICK) {
            if let Some(a) = self.hosts[i].agent.as_mut() {
                a.beats.lock().expect("lock").vouch(now, reachable);
            }
            self.turn(i, Input::Tick);
        }
        if self.opts.volume && self.now.is_multiple_of(20) {
            let status = self.volume_status(i);
            self.turn(i, Input::Group(Event::Replicas(Some(vec![status]))));
        }
        if self.now.is_multiple_of(100) {
            let all = self.hosts[i].engine.clone();
            self.turn(i, Input::Run(RunEvent::Containers(Some(all))));
        }
    }

    pub(super) fn volume_status(&self, i: usize) -> baton_replicator::api::VolumeStatus {
        let peers = (0..self.hosts.len()).filter(|j| *j != i).map(|j| {
            let up = self.linked(i, j) && !self.hosts[j].replica.is_gone();
            (self.hosts[j].name.clone(), up, up.then_some(self.hosts[j].replica.boot))
        });
        self.hosts[i].replica.status(&group(), peers)
    }

    pub(super) fn linked(&self, i: usize, j: usize) -> bool {
        self.hosts[i].power && self.hosts[j].power && !self.repl_cut.contains(&(i.min(j), i.max(j)))
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
            // Without a disk it reads from a member.
            let through = r.disk == DiskState::Diskless && r.role == baton_replicator::types::Role::Primary;
            let holds = |h: &Host| self.acked.is_subset(&h.replica.have) && !h.replica.is_gone();
            let member = |h: &&Host| r.required.iter().any(|m| m.node == h.name);
            if through && r.frozen_since.is_none() && !self.hosts.iter().filter(member).any(holds) {
                self.violation =
                    Some(format!("{} is served by nobody who has everything", self.hosts[i].name));
            }
            if serves && !r.is_gone() && !self.acked.is_subset(&r.have) {
                let lost: Vec<&u64> = self.acked.difference(&r.have).collect();
                self.violation =
                    Some(format!("{} serves without acknowledged writes {lost:?}", self.hosts[i].name));
            }
        }
    }
}
