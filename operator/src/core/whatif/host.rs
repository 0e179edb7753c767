//! One host: the production cores in the order the driver runs them, and a replica and containers that do at once what
//! they are told.

use super::SceneNode;
use crate::core::group::{Action, EtcdFacts, Event, Facts, GroupConfig, GroupCore, State};
use crate::core::promises::{HeartbeatCore, Intent};
use crate::core::record::Durable;
use crate::core::rules::Rules;
use crate::core::runtime::{
    Container, ContainerState, Health, RunEvent, RunReport, Runtime, RuntimeConfig, ServicePlan, Step,
    VolumePlan,
};
use baton_replicator::api::{Desired, Membership, PeerStatus, VolumeStatus};
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Generation, GroupName, Instant, Member, NodeName, Role,
    VolumeName,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Rounds of "the intent changed, so look again" after one event; the driver allows as many.
const ROUNDS: usize = 8;
/// The one container that stands for all services.
const SERVICE: &str = "services";

/// For the cores.
pub(super) enum Input {
    Tick,
    Group(Event),
    Run(RunEvent),
}

/// What a host is made of.
pub(super) struct Host {
    pub(super) name: NodeName,
    group: GroupName,
    pub(super) power: bool,
    /// The agent lives.
    pub(super) agent: bool,
    /// The way to etcd is open.
    pub(super) way: bool,
    pub(super) beats: HeartbeatCore,
    pub(super) core: GroupCore,
    runtime: Runtime,
    intent: Intent,
    report: RunReport,
    pub(super) etcd: EtcdFacts,
    /// Until when kernel and replicator let it serve, as handed on last.
    pub(super) until: Option<Instant>,
    pub(super) replica: Option<Replica>,
    containers: BTreeMap<String, Container>,
    address: bool,
}

/// What a replica is asked for.
pub(super) struct Replica {
    pub(super) volume: VolumeName,
    pub(super) boot: BootId,
    disk: DiskState,
    role: Role,
    epoch: Epoch,
    required: Vec<Member>,
    membership: Membership,
    frozen_since: Option<Instant>,
    told: Option<VolumeStatus>,
}

/// What is there when the model begins.
pub(super) struct Start {
    /// The epoch in force.
    pub(super) epoch: Epoch,
    /// This node leads: what its writes wait for.
    pub(super) leads: Option<Vec<Member>>,
    /// Boot id for the group.
    pub(super) boot: BootId,
    /// When the agent started.
    pub(super) started: Instant,
}

impl Host {
    pub(super) fn new(cfg: GroupConfig, scene: &SceneNode, addresses: bool, start: &Start) -> Self {
        let (name, group) = (cfg.me.clone(), cfg.group.clone());
        let leads = start.leads.is_some();
        let run = RuntimeConfig {
            volumes: cfg
                .volumes
                .iter()
                .map(|v| VolumePlan { volume: v.clone(), filesystem: Some("ext4".into()) })
                .collect(),
            addresses,
            services: vec![ServicePlan {
                name: SERVICE.into(),
                after: Vec::new(),
                leaving: false,
                hot: false,
                judged: false,
            }],
            migration_threshold: 3,
            failure_timeout: cfg.failure_timeout,
            start_timeout: Duration::from_secs(60),
            takeover_timeout: Duration::from_secs(60),
            engine_timeout: Duration::from_secs(60),
        };
        let durable = Durable {
            known: start.epoch,
            served: if leads { start.epoch } else { Epoch::ZERO },
            cluster_id: super::etcd::CLUSTER,
            revision: super::etcd::BEFORE,
            ..Durable::default()
        };
        let replica = cfg.volumes.first().map(|volume| Replica {
            volume: volume.clone(),
            boot: start.boot,
            disk: scene.disk,
            role: if leads { Role::Primary } else { Role::Secondary },
            epoch: start.epoch,
            required: start.leads.clone().unwrap_or_default(),
            membership: if leads { Membership::Member } else { Membership::Untold },
            frozen_since: None,
            told: None,
        });
        let state = if leads { ContainerState::Running } else { ContainerState::Created };
        let (timers, peers, rules) = (cfg.timers, cfg.nodes.clone(), Rules::default());
        let promised = [(group.clone(), Instant::ZERO)];
        Self {
            beats: HeartbeatCore::new(name.clone(), 1, timers, rules, peers, promised, start.started),
            core: GroupCore::new(cfg, durable, rules, start.started),
            runtime: Runtime::new(run, start.started),
            name,
            group,
            power: true,
            agent: true,
            way: true,
            intent: Intent::silent(),
            report: RunReport::default(),
            etcd: EtcdFacts::default(),
            until: None,
            replica,
            containers: BTreeMap::from([(
                SERVICE.to_owned(),
                Container { state, health: Health::None, outdated: false },
            )]),
            address: leads && addresses,
        }
    }

    /// Takes one input and all that follows from it at once. Returns what others have to do, and steps of the runtime.
    pub(super) fn turn(&mut self, input: Input, now: Instant, random: u64) -> (Vec<Action>, Vec<Step>) {
        let (mut actions, mut steps) = (Vec::new(), Vec::new());
        let mut queue = VecDeque::from([input]);
        let mut rounds = 0;
        while let Some(input) = queue.pop_front() {
            match input {
                Input::Tick => {
                    let facts = Facts {
                        beats: self.beats.facts(&self.group, now),
                        peers: self.beats.peers().into(),
                        etcd: self.etcd,
                    };
                    let random = random ^ rounds as u64;
                    actions.extend(self.core.handle(Event::Tick(Box::new(facts)), now, random));
                    steps.extend(self.runtime.handle(RunEvent::Tick, now));
                }
                Input::Group(event) => {
                    if let Event::Replicas(Some(volumes)) = &event {
                        steps.extend(self.runtime.handle(RunEvent::Volumes(volumes.clone()), now));
                    }
                    actions.extend(self.core.handle(event, now, random ^ rounds as u64));
                }
                Input::Run(event) => steps.extend(self.runtime.handle(event, now)),
            }
            steps.extend(self.runtime.handle(RunEvent::Goal(self.core.goal()), now));
            if rounds >= ROUNDS {
                continue;
            }
            let (intent, report) = (self.core.intent(), self.runtime.report());
            if intent != self.intent {
                self.beats.set_intent(&self.group, intent.clone());
                self.intent = intent;
                rounds += 1;
                queue.push_back(Input::Tick);
            }
            if report != self.report {
                self.report = report.clone();
                rounds += 1;
                queue.push_back(Input::Group(Event::Run(report)));
            }
        }
        (actions, steps)
    }

    /// Hands serve-until on. What was handed on stays in force until its end while the agent finds out what it leads.
    pub(super) fn publish(&mut self, now: Instant) {
        let joins = matches!(self.core.state(), State::Joining | State::Waiting);
        let until = self.beats.serve_until(&self.group, now).map(|(_, until)| until);
        self.until = until.or(self.until.filter(|_| joins));
    }

    /// Users get answers here.
    pub(super) fn serves(&self, now: Instant, addresses: bool) -> bool {
        let runs = self.containers.values().all(|c| c.state == ContainerState::Running);
        let promoted = self.replica.as_ref().is_none_or(|r| r.role == Role::Primary);
        self.power
            && self.until.is_some_and(|until| until > now)
            && runs
            && promoted
            && self.address == addresses
    }

    /// A step of the runtime is done.
    pub(super) fn done(&mut self, step: &Step) {
        let state = match step {
            Step::AddAddresses => return self.address = true,
            Step::RemoveAddresses => return self.address = false,
            Step::Format(_) | Step::Prepare | Step::Discard(_) => return,
            Step::Start(_) | Step::Restart(_) | Step::Unpause(_) => ContainerState::Running,
            Step::Stop(_) | Step::Kill(_) => ContainerState::Exited(0),
            Step::Pause(_) => ContainerState::Paused,
        };
        self.containers.values_mut().for_each(|c| c.state = state);
    }

    pub(super) fn containers(&self) -> RunEvent {
        RunEvent::Containers(Some(self.containers.clone()))
    }
}

impl Replica {
    pub(super) fn obey(&mut self, desired: &Desired) -> Result<(), String> {
        let becomes_primary = desired.role == Role::Primary && self.role == Role::Secondary;
        if desired.epoch.number < self.epoch.number {
            return Err(format!("epoch {} is older than {}", desired.epoch, self.epoch));
        }
        if becomes_primary && !matches!(self.disk, DiskState::UpToDate | DiskState::Consistent) {
            return Err(format!("it is {:?}", self.disk));
        }
        (self.role, self.epoch, self.membership) = (desired.role, desired.epoch, desired.membership);
        self.required.clone_from(&desired.required);
        if desired.role == Role::Secondary {
            self.frozen_since = None;
        }
        Ok(())
    }

    /// Its status, if it differs from what was told last. `peers` are the other nodes, with their boot ids where they are
    /// connected.
    pub(super) fn news(
        &mut self,
        group: &GroupName,
        peers: impl Iterator<Item = (NodeName, Option<BootId>)>,
        now: Instant,
    ) -> Option<VolumeStatus> {
        let primary = self.role == Role::Primary;
        let needed = |node: &NodeName| primary && self.required.iter().any(|m| m.node == *node);
        let peers: Vec<PeerStatus> = peers
            .map(|(node, boot)| {
                let resynced = boot.is_some() && needed(&node);
                let connection =
                    if boot.is_some() { ConnectionState::Connected } else { ConnectionState::Connecting };
                PeerStatus { connection, boot, resynced, settled: resynced, ..PeerStatus::unknown(node) }
            })
            .collect();
        let waits = peers.iter().any(|p| needed(&p.node) && p.boot.is_none());
        self.frozen_since = waits.then(|| self.frozen_since.unwrap_or(now));
        let gone = matches!(self.disk, DiskState::Diskless | DiskState::Failed);
        let status = VolumeStatus {
            size_bytes: 1 << 20,
            role: self.role,
            epoch: self.epoch,
            disk: self.disk,
            disk_reason: gone.then(|| "its disk is gone".into()),
            membership: Some(self.membership),
            generation: Generation(1),
            boot: self.boot,
            device: primary.then(|| "/dev/baton".into()),
            filesystem: Some("ext4".into()),
            frozen: waits.then(|| "waits for a member of the in-sync set".into()),
            frozen_since: self.frozen_since,
            required: self.required.clone(),
            peers,
            ..VolumeStatus::unknown(self.volume.clone(), group.clone())
        };
        let new = self.told.as_ref() != Some(&status);
        if new {
            self.told = Some(status.clone());
        }
        new.then_some(status)
    }
}
