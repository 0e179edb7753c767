//! Hosts, clocks and links: what there is, and how an agent starts. Time is in [`step`](super::step).

use super::Dice;
use super::etcd::{Answer, Etcd, Request};
use super::replica::Replica;
use super::sights::{Sight, Sights};
use super::unit::Unit;
use super::writes::Writes;
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{AfterPowerLoss, EtcdFacts, Fencing, GroupConfig, State};
use crate::core::promises::HeartbeatCore;
use crate::core::record::{Durable, TxnKind};
use crate::core::rules::Rules;
use crate::core::runtime::{Container, ContainerState, Need, RuntimeConfig, ServicePlan, Step, VolumePlan};
use crate::core::timing::Timers;
use baton_replicator::api::{Desired, VolumeStatus};
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

pub(super) const STEP: u64 = 10;

pub(super) struct Options {
    pub nodes: usize,
    pub volume: bool,
    pub rules: Rules,
    pub seed: u64,
    pub drift: bool,
    pub after_power_loss: AfterPowerLoss,
    /// The others do not know the last host.
    pub newcomer: bool,
    /// External fence agents of every host.
    pub switch: Option<Switch>,
    /// Keeps no trace: a run that fails is repeated with one.
    pub quiet: bool,
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
            switch: None,
            quiet: false,
        }
    }
}

impl Options {
    fn fencing(&self, nodes: &[NodeName]) -> Fencing {
        let Some(switch) = self.switch else { return Fencing::default() };
        let nodes = nodes.iter().map(|n| (n.clone(), Duration::from_secs(20))).collect();
        Fencing { required: switch.required, nodes }
    }
}

/// A power switch that every host can use on the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch {
    pub required: bool,
    /// Else it fails.
    pub works: bool,
    /// Milliseconds until it has.
    pub takes: u64,
}

pub(super) struct Agent {
    pub beats: Mutex<HeartbeatCore>,
    pub unit: Unit,
    pub incarnation: u64,
    pub lease: EtcdFacts,
    pub waiting: BTreeSet<(char, u64)>,
    pub last_beat: u64,
    /// What it was told last: the same again is not told.
    pub told_volume: Option<VolumeStatus>,
    pub told_engine: Option<BTreeMap<String, Container>>,
}

/// A whole machine that stands still, as a virtual one that is paused: nothing on it runs or answers.
#[derive(Clone, Copy)]
pub(super) struct Still {
    pub since: u64,
    /// Its clock stands still with it (else it counts the time, as `CLOCK_BOOTTIME` does over a suspend).
    pub clock: bool,
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
    pub still: Option<Still>,
    /// Its clock stood still while it was entitled: what it may serve until then proves nothing (DESIGN §3).
    pub stale_until: Option<Instant>,
    /// For how long it has been able to hear the one that serves in its place.
    pub heard_for: u64,
    /// The agent dies when it has carried out so many more actions.
    pub crash_after: Option<u64>,
    /// The engine answers nothing before this.
    pub engine_hangs: u64,
    /// It starts no container before this.
    pub engine_fails: u64,
    /// Milliseconds by which watches come late; none: they have died, and nobody noticed.
    pub watch_lag: Option<u64>,
}

pub(super) enum Flight {
    Beat { to: usize, from: usize, msg: Box<HeartbeatMsg> },
    Arrive { from: usize, incarnation: u64, request: Request, answered: bool },
    Answer { to: usize, incarnation: u64, answer: Answer },
    GiveUp { to: usize, incarnation: u64, kind: char, id: u64 },
    Watch { to: usize },
    Step { to: usize, incarnation: u64, step: Step },
    Volume { to: usize, incarnation: u64, desired: Desired },
    Switched { by: usize, incarnation: u64, id: u64, target: usize },
}

/// A scripted fault of the next transaction of a node of that kind: it arrives only after so many
/// milliseconds, and its answer is lost.
pub(super) struct Late {
    pub node: usize,
    pub kind: &'static str,
    pub after: u64,
}

/// etcd has no leader for a while: requests wait, leases do not end.
pub(super) struct Stall {
    pub until: u64,
    /// It ends with another leader, who gives every lease its whole life again. Else leases that ran out meanwhile end
    /// at once.
    pub election: bool,
}

pub(super) struct World {
    pub now: u64,
    pub dice: Dice,
    pub opts: Options,
    pub group: GroupName,
    pub timers: Timers,
    pub etcd: Etcd,
    pub etcd_up: bool,
    pub stall: Option<Stall>,
    pub backups: Vec<Etcd>,
    pub hosts: Vec<Host>,
    /// Heartbeats from → to that do not arrive.
    pub cut: BTreeSet<(usize, usize)>,
    /// Replication links that are down (smaller index first).
    pub repl_cut: BTreeSet<(usize, usize)>,
    pub etcd_cut: BTreeSet<usize>,
    pub loss: u64,
    /// Per cent of heartbeats from → to that are lost besides.
    pub lossy: BTreeMap<(usize, usize), u64>,
    /// Per cent of requests to etcd that arrive late or whose answer is lost.
    pub etcd_faults: u64,
    /// Who switches somebody off: etcd's lock.
    pub switching: Option<usize>,
    pub late: Vec<Late>,
    pub acked: Writes,
    pub flushed: Writes,
    /// Highest epoch in which a write was acknowledged.
    pub acked_epoch: u64,
    pub next_write: u64,
    /// By the time of arrival, and the order of sending.
    pub flights: BTreeMap<(u64, u64), Flight>,
    pub order: u64,
    pub trace: Vec<String>,
    pub sights: Sights,
    pub served: u64,
    pub violation: Option<String>,
}

pub(super) fn group() -> GroupName {
    GroupName::new("web").expect("name")
}

pub(super) fn volume() -> VolumeName {
    VolumeName::new("store").expect("name")
}

pub(super) fn kind_word(kind: &TxnKind) -> &'static str {
    match kind {
        TxnKind::FirstStart => "FirstStart",
        TxnKind::Takeover => "Takeover",
        TxnKind::Remove(_) => "Remove",
        TxnKind::Admit(_) => "Admit",
        TxnKind::Recreate => "Recreate",
        TxnKind::Rewrite => "Rewrite",
        TxnKind::Candidates => "Candidates",
        TxnKind::Handover(_) => "Handover",
        TxnKind::Resign => "Resign",
        TxnKind::ClearTarget => "ClearTarget",
    }
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
                still: None,
                stale_until: None,
                heard_for: 0,
                crash_after: None,
                engine_hangs: 0,
                engine_fails: 0,
                watch_lag: Some(0),
            }
        });
        let hosts = hosts.collect();
        let timers = Timers::default().check().expect("defaults");
        let mut world = Self {
            now: 0,
            dice,
            opts,
            group: group(),
            timers,
            etcd: Etcd::new(),
            etcd_up: true,
            stall: None,
            backups: Vec::new(),
            hosts,
            cut: BTreeSet::new(),
            repl_cut: BTreeSet::new(),
            etcd_cut: BTreeSet::new(),
            loss: 0,
            lossy: BTreeMap::new(),
            etcd_faults: 0,
            switching: None,
            late: Vec::new(),
            acked: Writes::default(),
            flushed: Writes::default(),
            acked_epoch: 0,
            next_write: 1,
            flights: BTreeMap::new(),
            order: 0,
            trace: Vec::new(),
            sights: Sights::default(),
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
        let at = h.still.filter(|s| s.clock).map_or(self.now, |s| s.since);
        Instant(h.offset.wrapping_add(at / STEP * h.rate))
    }

    pub(super) fn start_agent(&mut self, i: usize) {
        if !self.hosts[i].power || self.hosts[i].agent.is_some() || self.hosts[i].still.is_some() {
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
                ServicePlan { name: "db".into(), after: vec![], leaving: false, hot: false, judged: false },
                ServicePlan {
                    name: "web".into(),
                    after: vec![("db".into(), Need::Started)],
                    leaving: false,
                    hot: false,
                    judged: false,
                },
            ],
            migration_threshold: 3,
            failure_timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(60),
            takeover_timeout: Duration::from_secs(60),
            engine_timeout: Duration::from_secs(60),
        };
        let h = &mut self.hosts[i];
        let cfg = GroupConfig {
            group: group(),
            me: h.name.clone(),
            nodes: nodes.clone(),
            prefer: vec![nodes[0].clone()],
            volumes,
            placing: Default::default(),
            failure_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(60),
            hot: false,
            gateway_hold: Duration::from_secs(10),
            fencing: self.opts.fencing(&nodes),
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
            told_volume: None,
            told_engine: None,
        });
        self.note(i, "agent starts");
    }

    pub(super) fn note(&mut self, i: usize, text: impl std::fmt::Display) {
        if !self.opts.quiet {
            let line = format!("{:>7} {} {text}", self.now, self.hosts[i].name);
            self.trace.push(line);
        }
    }

    pub(super) fn note_etcd(&mut self, text: impl std::fmt::Display) {
        if !self.opts.quiet {
            self.trace.push(format!("{:>7} etcd: {text}", self.now));
        }
    }

    pub(super) fn saw(&mut self, sight: Sight) {
        self.sights.add(sight);
    }

    pub(super) fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
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

    /// The host that serves users now.
    pub(super) fn server(&self) -> Option<usize> {
        let runs = |h: &Host| h.engine.get("web").is_some_and(|c| c.state == ContainerState::Running);
        let acts = |i: &usize| {
            self.entitled(*i) && self.hosts[*i].still.is_none() && self.hosts[*i].stale_until.is_none()
        };
        (0..self.hosts.len()).find(|i| acts(i) && self.hosts[*i].address && runs(&self.hosts[*i]))
    }

    pub(super) fn in_sync(&self) -> Vec<String> {
        let insync = self.etcd.insync.as_ref();
        let mut all: Vec<String> =
            insync.map(|i| i.value.members.iter().map(|m| m.node.to_string()).collect()).unwrap_or_default();
        all.sort();
        all
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
}
