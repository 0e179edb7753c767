//! One state of the checked system: nodes with the production cores, etcd, links, what is on its way, what may still go wrong.
//!
//! Time passes in ticks; within a tick anything that can happen may happen in any order. Every timer is a number of ticks less
//! 100 ms, and everything happens within a small part of the tick after its begin, so that no comparison of times depends on
//! the order within a tick. A node's cores come to rest at once after each event: what they ask of their replica and of the
//! runtime is done, reads of etcd and writes of the fence key are answered, if etcd is in reach.

use crate::core::group::{Action, AfterPowerLoss, EtcdFacts, Event, Fencing, GroupConfig, State};
use crate::core::promises::HeartbeatCore;
use crate::core::record::{Durable, Outcome, Record, Txn};
use crate::core::rules::Rules;
use crate::core::runtime::{Phase, RunEvent, RuntimeConfig, Step, VolumePlan};
use crate::core::sim::etcd::{Answer, Etcd, Request};
use crate::core::sim::replica::Replica;
use crate::core::sim::sights::Sights;
use crate::core::sim::unit::{Input, Unit};
use crate::core::sim::world::{group, volume};
use crate::core::sim::writes::Writes;
use crate::core::timing::Timers;
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{Epoch, Instant, NodeName, Role};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A tick, nanoseconds. Longer than the pause after which a core reads etcd again by itself (2 s), so that it does at each.
pub(super) const TICK: u64 = 2_100_000_000;
/// How much shorter than its ticks a timer is.
const EARLY: u64 = 100_000_000;
/// Time between two events of a tick.
const MOMENT: u64 = 1_000;
/// A node that has not come to rest after so many rounds never will.
const RESTLESS: usize = 200;

/// What may go wrong, each so many times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Budget {
    /// Agents that die.
    pub agents: u8,
    /// Hosts that lose their power.
    pub powers: u8,
    /// Links that break; they are mended at any time.
    pub cuts: u8,
    /// Nodes that lose sight of etcd, until that is mended.
    pub etcd: u8,
    /// Transactions whose answer is lost, and which may take effect late.
    pub unknown: u8,
    /// Leases that etcd ends although they are kept alive.
    pub revoked: u8,
    /// Moves that a person orders.
    pub moves: u8,
    /// Writes.
    pub writes: u8,
    /// Heartbeats that are held back, and may come at any time later.
    pub late: u8,
    /// Agents that are frozen, and go on at any time.
    pub frozen: u8,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    pub name: &'static str,
    pub nodes: usize,
    pub volume: bool,
    pub rules: Rules,
    pub budget: Budget,
    /// Links break in one direction, or for replication and etcd alone, too.
    pub halves: bool,
    /// States with a later epoch are not followed.
    pub epochs: u64,
    /// Nothing that may go wrong here stops the service (invariant 5).
    pub unbroken: bool,
}

/// The links between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Up,
    /// Nothing passes between this node and the others.
    Isolated(usize),
    /// The others do not hear this node; it hears them.
    Mute(usize),
    /// Heartbeats pass, replication does not, and this node does not see etcd: a card has failed.
    Card(usize),
}

/// A transaction on its way.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub txn: Txn,
    /// What etcd did.
    pub outcome: Option<Outcome>,
    /// The answer is lost.
    pub lost: bool,
}

pub(super) struct Agent {
    pub beats: Mutex<HeartbeatCore>,
    pub unit: Unit,
    pub lease: EtcdFacts,
    pub told: Option<VolumeStatus>,
    pub sent: Option<Sent>,
    /// A read or a write of the fence key that nobody has answered yet.
    pub waiting: Option<Request>,
}

impl Clone for Agent {
    fn clone(&self) -> Self {
        Self {
            beats: Mutex::new(self.beats.lock().expect("lock").clone()),
            unit: self.unit.clone(),
            lease: self.lease,
            told: self.told.clone(),
            sent: self.sent.clone(),
            waiting: self.waiting.clone(),
        }
    }
}

#[derive(Clone)]
pub(super) struct Host {
    pub name: NodeName,
    pub offset: u64,
    pub power: bool,
    pub agent: Option<Agent>,
    pub frozen: bool,
    pub incarnation: u64,
    pub durable: Durable,
    pub replica: Replica,
    pub address: bool,
    /// What was handed to the kernel and the replicator: it stays in force until its end, the agent dead or alive.
    pub published: Option<(Epoch, Instant)>,
    /// Transactions that were given up, and may take effect yet.
    pub ghosts: Vec<Txn>,
}

/// A heartbeat that is held back.
#[derive(Clone)]
pub(super) struct Late {
    pub from: usize,
    pub to: usize,
    pub msg: Box<crate::core::beat::HeartbeatMsg>,
}

#[derive(Clone)]
pub(super) struct Cluster {
    pub cfg: Arc<Config>,
    pub now: u64,
    pub moment: u64,
    pub hosts: Vec<Arc<Host>>,
    pub etcd: Arc<Etcd>,
    pub link: Link,
    /// Who does not see etcd.
    pub blind: Vec<bool>,
    pub left: Budget,
    pub late: Option<Late>,
    pub acked: Writes,
    pub flushed: Writes,
    pub acked_epoch: u64,
    pub next_write: u64,
    /// The faults have begun.
    pub begun: bool,
    pub violation: Option<String>,
    /// Interesting things on the way here; no part of the state.
    pub sights: Sights,
    /// What happened, when a path is told.
    pub notes: Option<Vec<String>>,
}

fn ticks(n: u64) -> Duration {
    Duration::from_nanos(n * TICK - EARLY)
}

/// FENCE 2, DEAD 3 ticks, as in DESIGN's own model. The runtime's bounds play no part.
pub(super) fn timers() -> Timers {
    let t = Timers {
        keepalive: Duration::from_secs(1),
        warntime: ticks(1),
        fencetime: ticks(2),
        deadtime: ticks(3),
        initdead: ticks(4),
        ttl: ticks(4),
        restart_window: ticks(5),
        peer_timeout: ticks(2),
        fence_stop: ticks(2),
        etcd_timeout: ticks(1),
    };
    t.check().expect("timers of the check")
}

impl Cluster {
    /// Agents that have just started, nothing in etcd.
    fn new(cfg: Config) -> Self {
        let host = |i: usize| Host {
            name: NodeName::new(format!("n{i}")).expect("name"),
            offset: 1_000_000_000_000 * (1 + i as u64),
            power: true,
            agent: None,
            frozen: false,
            incarnation: 0,
            durable: Durable::default(),
            replica: Replica::new(100 * (1 + i as u64)),
            address: false,
            published: None,
            ghosts: Vec::new(),
        };
        let hosts = (0..cfg.nodes).map(|i| Arc::new(host(i))).collect();
        let mut c = Self {
            now: 0,
            moment: 0,
            hosts,
            etcd: Arc::new(Etcd::new()),
            link: Link::Up,
            blind: vec![false; cfg.nodes],
            left: Budget::default(),
            late: None,
            acked: Writes::default(),
            flushed: Writes::default(),
            acked_epoch: 0,
            next_write: 1,
            begun: false,
            violation: None,
            sights: Sights::default(),
            notes: None,
            cfg: Arc::new(cfg),
        };
        for i in 0..c.hosts.len() {
            c.start(i);
        }
        c
    }

    /// n0 serves, everyone is in sync: here the check begins.
    pub(super) fn settled(cfg: Config) -> Self {
        let mut c = Self::new(cfg);
        for _ in 0..30 {
            c.quietly();
            c.tick(None);
        }
        assert!(c.violation.is_none() && c.is_well(), "does not settle: {:?}\n{}", c.violation, c.picture());
        (c.left, c.begun, c.sights) = (cfg.budget, true, Sights::default());
        c
    }

    pub(super) fn index(&self, node: &NodeName) -> Option<usize> {
        self.hosts.iter().position(|h| h.name == *node)
    }

    pub(super) fn host(&mut self, i: usize) -> &mut Host {
        Arc::make_mut(&mut self.hosts[i])
    }

    pub(super) fn local(&self, i: usize) -> Instant {
        Instant((self.now + self.moment * MOMENT).wrapping_add(self.hosts[i].offset))
    }

    /// It is there and runs.
    pub(super) fn lives(&self, i: usize) -> bool {
        self.hosts[i].agent.is_some() && !self.hosts[i].frozen
    }

    pub(super) fn sees_etcd(&self, i: usize) -> bool {
        !self.blind[i] && self.link != Link::Card(i)
    }

    pub(super) fn hears(&self, from: usize, to: usize) -> bool {
        match self.link {
            Link::Up | Link::Card(_) => true,
            Link::Isolated(k) => k != from && k != to,
            Link::Mute(k) => k != from,
        }
    }

    pub(super) fn replicates(&self, i: usize, j: usize) -> bool {
        let path = match self.link {
            Link::Up => true,
            Link::Isolated(k) | Link::Mute(k) | Link::Card(k) => k != i && k != j,
        };
        path && self.hosts[i].power && self.hosts[j].power
    }

    pub(super) fn state(&self, i: usize) -> Option<State> {
        self.hosts[i].agent.as_ref().map(|a| a.unit.core().state())
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(notes) = &mut self.notes {
            notes.push(text());
        }
    }

    pub(super) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Power if needed, then the agent.
    pub(super) fn start(&mut self, i: usize) {
        let (cfg, zero) = (Arc::clone(&self.cfg), self.now);
        let nodes: Vec<NodeName> = self.hosts.iter().map(|h| h.name.clone()).collect();
        let h = self.host(i);
        if !h.power {
            h.power = true;
            h.offset = 5_000_000_000u64.wrapping_sub(zero);
        }
        h.incarnation += 1;
        let now = self.local(i);
        let h = self.host(i);
        let volumes = if cfg.volume { vec![volume()] } else { Vec::new() };
        let hour = Duration::from_secs(3600);
        let plans = volumes.iter().map(|v| VolumePlan { volume: v.clone(), filesystem: None }).collect();
        let run = RuntimeConfig {
            volumes: plans,
            addresses: true,
            services: Vec::new(),
            migration_threshold: 3,
            failure_timeout: hour,
            start_timeout: hour,
            takeover_timeout: hour,
            engine_timeout: hour,
        };
        let group_cfg = GroupConfig {
            group: group(),
            me: h.name.clone(),
            nodes: nodes.clone(),
            prefer: vec![nodes[0].clone()],
            volumes,
            placing: Default::default(),
            failure_timeout: hour,
            stop_timeout: hour,
            hot: false,
            gateway_hold: hour,
            fencing: Fencing::default(),
            after_power_loss: AfterPowerLoss::Wait,
            timers: timers(),
            retire: None,
        };
        let groups = [(group(), Instant::ZERO)];
        let beats =
            HeartbeatCore::new(h.name.clone(), h.incarnation, timers(), cfg.rules, nodes, groups, now);
        let unit = Unit::new(group_cfg, run, h.durable.clone(), cfg.rules, now);
        h.agent = Some(Agent {
            beats: Mutex::new(beats),
            unit,
            lease: EtcdFacts::default(),
            told: None,
            sent: None,
            waiting: None,
        });
        self.keep_alive(i);
        self.turn(i, Input::Run(RunEvent::Containers(Some(BTreeMap::new()))));
        self.tell(i);
        self.turn(i, Input::Tick);
    }

    /// Renews the node's lease. With a volume nothing depends on how long a lease lives: it may end at any time once it is
    /// not renewed.
    pub(super) fn keep_alive(&mut self, i: usize) {
        let (sees, now, at) = (self.sees_etcd(i), self.local(i), self.now / 1_000_000);
        let Some(agent) = self.host(i).agent.as_mut() else { return };
        agent.lease.reachable = sees;
        let (held, name) = (agent.lease.lease, self.hosts[i].name.clone());
        if sees {
            let ttl = timers().ttl;
            let id = Arc::make_mut(&mut self.etcd).keep_alive(&name, held, at, ttl.as_millis() as u64);
            let lease = EtcdFacts { reachable: true, lease: id, lease_until: timers().lease_until(now, ttl) };
            if let Some(agent) = self.host(i).agent.as_mut() {
                agent.lease = lease;
            }
        }
    }

    /// One input of a node and everything that follows from it at once.
    pub(super) fn turn(&mut self, i: usize, input: Input) {
        let mut queue = VecDeque::from([input]);
        let (mut rounds, mut reads) = (0, 0);
        while let Some(input) = queue.pop_front() {
            rounds += 1;
            if rounds > RESTLESS {
                return self.violated(format!("n{i} does not come to rest: {input:?}"));
            }
            self.moment += 1;
            let (now, random) =
                (self.local(i), ((self.now / TICK) << 32) | (self.moment << 12) | ((i as u64) << 8));
            let h = self.host(i);
            let Some(agent) = h.agent.as_mut() else { return };
            let mut durable = None;
            let keep = &mut |d: &Durable| durable = Some(d.clone());
            let turn = agent.unit.turn(input, agent.lease, &agent.beats, now, random, keep);
            if let Some(d) = durable {
                h.durable = d;
            }
            for action in turn.actions {
                match action {
                    Action::Persist(_) | Action::FenceNode { .. } => {}
                    Action::Event(_, text) => {
                        self.sights.read(&text);
                        self.note(|| format!("    n{i}: {text}"));
                    }
                    Action::Read(id) => {
                        reads += 1;
                        self.ask(i, Request::Read(id), reads < 4, &mut queue);
                    }
                    Action::WriteFence(id) => self.ask(i, Request::Fence(id), true, &mut queue),
                    Action::Txn(txn) => {
                        self.note(|| format!("    n{i} sends {}", txn.kind));
                        if let Some(a) = self.host(i).agent.as_mut() {
                            a.sent = Some(Sent { txn, outcome: None, lost: false });
                        }
                    }
                    Action::SetVolume(name, desired) => {
                        let result = self.host(i).replica.command(&desired);
                        self.flow();
                        let status = self.status(i);
                        queue.push_back(Input::Group(Event::Replicas(Some(vec![status]))));
                        queue.push_back(Input::Group(Event::VolumeSet(name, result)));
                    }
                }
            }
            for step in turn.steps {
                match step {
                    Step::AddAddresses => self.host(i).address = true,
                    Step::RemoveAddresses => self.host(i).address = false,
                    _ => {}
                }
                queue.push_back(Input::Run(RunEvent::Done(step, Ok(()))));
            }
        }
        self.publish(i);
    }

    fn ask(&mut self, i: usize, request: Request, now: bool, queue: &mut VecDeque<Input>) {
        if now && self.sees_etcd(i) {
            queue.push_back(Input::Group(self.answer(i, &request)));
        } else if let Some(a) = self.host(i).agent.as_mut() {
            a.waiting = Some(request);
        }
    }

    /// etcd's answer to a read or a write of the fence key.
    pub(super) fn answer(&mut self, i: usize, request: &Request) -> Event {
        let name = self.hosts[i].name.clone();
        let etcd = Arc::make_mut(&mut self.etcd);
        match etcd.apply(&name, request, 0) {
            Answer::Read(id, record) => Event::Record(id, record),
            Answer::Fence(id, done) => Event::Fence(id, done),
            Answer::Txn(id, outcome) => Event::Txn(id, outcome),
        }
    }

    /// Hands on until when the node may serve.
    pub(super) fn publish(&mut self, i: usize) {
        let now = self.local(i);
        let before = self.hosts[i].published;
        let Some(agent) = &self.hosts[i].agent else { return };
        let serve = agent.beats.lock().expect("lock").serve_until(&group(), now);
        let joins = matches!(agent.unit.core().state(), State::Joining | State::Waiting);
        let published = serve.or(before.filter(|_| joins));
        if published != before {
            self.host(i).published = published;
        }
    }

    pub(super) fn status(&self, i: usize) -> VolumeStatus {
        let peers = (0..self.hosts.len()).filter(|j| *j != i).map(|j| {
            let up = self.replicates(i, j);
            (self.hosts[j].name.clone(), up, up.then_some(self.hosts[j].replica.boot))
        });
        self.hosts[i].replica.status(&group(), peers)
    }

    /// The agent hears of its replica what it does not know yet; true if that was something.
    pub(super) fn tell(&mut self, i: usize) -> bool {
        if !self.cfg.volume || !self.lives(i) {
            return false;
        }
        let status = self.status(i);
        let known = self.hosts[i].agent.as_ref().is_some_and(|a| a.told.as_ref() == Some(&status));
        if !known {
            if let Some(a) = self.host(i).agent.as_mut() {
                a.told = Some(status.clone());
            }
            self.turn(i, Input::Group(Event::Replicas(Some(vec![status]))));
        }
        !known
    }

    /// Entitled by what was handed on.
    pub(super) fn entitled(&self, i: usize) -> bool {
        let h = &self.hosts[i];
        h.power && h.published.is_some_and(|(_, until)| until > self.local(i))
    }

    /// The node that serves users.
    pub(super) fn server(&self) -> Option<usize> {
        let primary = |h: &Host| !self.cfg.volume || h.replica.role == Role::Primary;
        (0..self.hosts.len())
            .find(|i| self.entitled(*i) && self.hosts[*i].address && primary(&self.hosts[*i]))
    }

    /// One serves, and everyone is in sync.
    pub(super) fn is_well(&self) -> bool {
        let set = self.etcd.insync.as_ref().map_or(0, |i| i.value.members.len());
        let serving = (0..self.hosts.len()).filter(|i| self.state(*i) == Some(State::Serving)).count();
        let runs = |i: usize| {
            let report = self.hosts[i].agent.as_ref().map(|a| a.unit.runtime().report().phase);
            report == Some(Phase::Running)
        };
        set == self.hosts.len() && serving == 1 && self.server().is_some_and(runs)
    }

    pub(super) fn view(&self, i: usize) -> Option<&Record> {
        self.hosts[i].agent.as_ref().and_then(|a| a.unit.core().known_record())
    }
}
