//! The owner loop: everything that happens arrives here, one thing at a time, and goes through the cores.
//!
//! The loop never waits for an adapter: calls run in tasks of their own and their answers come back by one channel.
//! The exception is [`Action::Persist`], which must be durable before anything after it. Each round vouches for the
//! decision core; a loop that hangs stops heartbeats from speaking for it.

use super::config::Config;
use super::exec::Executor;
use super::fencing::WatchdogState;
use super::history::{History, rfc3339};
use super::reload::{Found, Reload};
use super::replicator::Replicator;
use super::snapshot::{self, Input};
use super::state_dir::StateDir;
use super::summary::{GroupSummary, NodeSummary, ServiceBrief};
use super::takeover::Change;
use super::translate;
use super::unit::Unit;
use crate::causes::chain;
use crate::core::group::{Action, EtcdFacts, Event, Facts, Severity, Told};
use crate::core::promises::{HeartbeatCore, PeerFacts};
use crate::core::record::NodeKeys;
use crate::core::runtime::{Container, RunEvent, Step};
use crate::core::timing::Timers;
use crate::docker::Wake;
use crate::etcd::{Etcd, LeaseEvent, LeaseTask, Watch};
use crate::fence::Fencer;
use crate::heartbeat::{HeartbeatThread, SharedCore, clock};
use crate::notify::{self, Notifier};
use crate::replica::Followed;
use crate::spec::Spec;
use crate::status::{ClusterStatus, EtcdStatus, HeartbeatStatus, ServiceStatus};
use baton_replicator::api::{Handshakes, MemoryStatus, Status, VolumeConfig, VolumeStatus};
use baton_replicator::types::{GroupName, Instant, NodeName, VolumeName};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc, watch};

/// Interval of ticks while something may be due at any moment: a quarter of the default keepalive. Else a keepalive is soon
/// enough, because whatever happens wakes the loop up.
const TICK: Duration = Duration::from_millis(25);
/// After something has changed in a group, more may follow.
const SETTLES: Duration = Duration::from_secs(2);
/// The snapshot is made anew at least this often; when all is settled, half as often.
const PUBLISH: Duration = Duration::from_millis(250);
/// Containers are looked at this often even if no event says so, while something changes in their group.
const OBSERVE: Duration = Duration::from_millis(1000);
/// And this often when nothing does.
const OBSERVE_SETTLED: Duration = Duration::from_secs(5);
/// A volume that could not be configured is tried again after this.
const CONFIGURE_RETRY: Duration = Duration::from_secs(2);
/// Bound of one command to the replicator; it goes on inside and is repeated.
const DESIRED_LIMIT: Duration = Duration::from_secs(10);
/// Rounds of intent and tick after one event; two are enough unless the core is broken.
const SETTLE_ROUNDS: usize = 8;
/// Answers not yet taken.
pub(super) const QUEUE: usize = 1024;
/// How long a restart waits for longer promises; without them the restart must fit into fencetime.
const RESTART_WAIT: Duration = Duration::from_millis(1500);

/// Something that comes back from an adapter.
pub(super) enum Back {
    /// For the leadership core of a group.
    Group(GroupName, Event),
    /// A step of a group's runtime ended.
    Step(GroupName, Step, Result<(), String>),
    /// Containers of a group were looked at.
    Observed(GroupName, Option<(BTreeMap<String, Container>, Vec<ServiceStatus>)>),
    /// A volume was set; with its status at that moment.
    VolumeSet(GroupName, VolumeName, Result<Box<VolumeStatus>, String>),
    /// A volume was configured, or not.
    Configured(Box<VolumeConfig>, Result<(), String>),
    /// A check of a group means something for what runs.
    Check(GroupName, RunEvent),
    /// A check of a gateway of the group: reached or not.
    Gateway(GroupName, String, bool),
    /// Something for the history of a group.
    Told(GroupName, Severity, String),
    /// A check of a group succeeded for the first time since it serves here.
    Answered(GroupName, Instant),
    /// The keeper says something about an address.
    Address(GroupName, Severity, String),
    /// The specification in etcd was looked at.
    Spec(Found),
}

/// What the owner is made of.
pub(super) struct Owner {
    pub(super) config: Config,
    /// As it was applied.
    pub(super) spec: Arc<Spec>,
    /// The same with the nodes and groups that are on their way out.
    pub(super) shown: Arc<Spec>,
    pub(super) reload: Reload,
    pub(super) timers: Timers,
    pub(super) beats: SharedCore,
    pub(super) thread: HeartbeatThread,
    /// What was told about its links.
    pub(super) links_told: super::links::Told,
    pub(super) lease_task: LeaseTask,
    pub(super) etcd: Etcd,
    pub(super) executor: Executor,
    pub(super) state_dir: StateDir,
    pub(super) history: History,
    pub(super) units: BTreeMap<GroupName, Unit>,
    pub(super) back: mpsc::Sender<Back>,
    pub(super) status: watch::Sender<ClusterStatus>,
    pub(super) alive: Arc<AtomicU64>,
    pub(super) watchdog: WatchdogState,
    pub(super) node_keys: BTreeMap<NodeName, NodeKeys>,
    pub(super) revision: i64,
    pub(super) volumes: Option<Vec<VolumeStatus>>,
    pub(super) replicator: Replicator,
    /// How the replicator's connections to its peers began; stays while it does not answer.
    pub(super) handshakes: Handshakes,
    /// What the kernel granted the replicator, and what it uses.
    pub(super) memory: Option<MemoryStatus>,
    pub(super) configuring: BTreeSet<VolumeName>,
    pub(super) configure_at: BTreeMap<VolumeName, Instant>,
    pub(super) configure_errors: BTreeMap<VolumeName, String>,
    /// What the replicator was told last and took.
    pub(super) configured: BTreeMap<VolumeName, VolumeConfig>,
    pub(super) lease: Lease,
    pub(super) published: Instant,
    pub(super) verifies: watch::Receiver<super::verify::Shown>,
    pub(super) given_up: watch::Receiver<super::resolve::Shown>,
    pub(super) availability: crate::series::availability::Book,
    pub(super) security: watch::Receiver<crate::security::watch::Health>,
    pub(super) notifier: Notifier,
    pub(super) fencer: Fencer,
    pub(super) members: super::members::Seen,
    pub(super) failure_book: super::failures::FailureBook,
}

/// Ends of the channels that the loop waits for.
pub(super) struct Ears {
    pub(super) back: mpsc::Receiver<Back>,
    pub(super) replicas: Followed,
    pub(super) engine: mpsc::Receiver<Wake>,
    pub(super) etcd: Watch,
    pub(super) lease: mpsc::Receiver<LeaseEvent>,
    /// Heartbeats said something new.
    pub(super) news: Arc<Notify>,
}

/// The node's lease as last heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    reachable: bool,
    id: i64,
    sent: Option<Instant>,
    granted: Duration,
    error: Option<String>,
}

impl Lease {
    fn on(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Granted { lease, sent, ttl } | LeaseEvent::Renewed { lease, sent, ttl } => {
                *self = Self { reachable: true, id: lease, sent: Some(sent), granted: ttl, error: None };
            }
            LeaseEvent::Late { error, .. } => {
                self.reachable = false;
                self.error = Some(error);
            }
            LeaseEvent::Lost { .. } => {
                self.id = 0;
                self.sent = None;
            }
        }
    }
}

pub(super) enum Work {
    Core(GroupName, Event),
    Run(GroupName, RunEvent),
}

impl Owner {
    /// Runs until `shutdown` resolves, then prepares an orderly restart and returns.
    pub(super) async fn run(mut self, mut ears: Ears, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut leaving: Option<Instant> = None;
        let mut ticked = tokio::time::Instant::now();
        loop {
            let next = ticked + self.pace(clock::now());
            tokio::select! {
                biased;
                () = &mut shutdown, if leaving.is_none() => {
                    leaving = Some(clock::now().plus(RESTART_WAIT));
                    tracing::info!("asked to stop: asks for longer promises, so that everything goes on meanwhile");
                    self.all(|| Event::Restarting).await;
                }
                () = tokio::time::sleep_until(next) => {
                    ticked = tokio::time::Instant::now();
                    self.tick().await;
                }
                Some(back) = ears.back.recv() => self.take(back).await,
                Ok(()) = ears.replicas.changed() => {
                    let status = ears.replicas.borrow_and_update().clone();
                    self.replicas(status.as_deref()).await;
                }
                () = ears.news.notified() => self.tick().await,
                Some(wake) = ears.engine.recv() => self.engine_woke(&wake),
                () = ears.etcd.changed() => {
                    self.all(|| Event::Changed).await;
                    self.look_at_spec();
                }
                Some(event) = ears.lease.recv() => {
                    self.lease.on(event);
                    self.fencer.lease(self.lease.id);
                }
            }
            if let Some(deadline) = leaving {
                let covered = self.units.values().all(|u| u.core.restart_covered());
                if covered || clock::now() >= deadline {
                    self.linger(covered).await;
                    return;
                }
            }
        }
    }

    /// Starts the watchdog, if there is to be one.
    pub(super) fn watch(&mut self) {
        self.alive.store(clock::now().0, Ordering::Relaxed);
        let watched = super::fencing::Watched {
            keeper: Arc::clone(&self.executor.keeper),
            counters: Arc::clone(&self.thread.counters),
            ran: Arc::clone(&self.alive),
            warntime: self.timers.warntime,
        };
        self.watchdog = super::fencing::watchdog(&self.config, watched, &self.history);
    }

    /// Leaves the addresses standing for as long as this node may serve without an agent.
    async fn linger(&self, covered: bool) {
        let now = clock::now();
        for (group, unit) in &self.units {
            let until = self.beats().serve_until(group, now).map(|(_, until)| until);
            if let (true, Some(until)) = (unit.state.leads(), until) {
                let left = until.since(now);
                if let Err(error) = self.executor.keeper.linger(group.clone(), left).await {
                    tracing::warn!(%group, error = %chain(&error), "the addresses will not outlast this agent");
                }
            }
        }
        tracing::info!(
            covered,
            "stops; containers, volumes and addresses go on without the agent for a while"
        );
    }

    pub(super) fn beats(&self) -> MutexGuard<'_, HeartbeatCore> {
        // A panic aborts the process, so a poisoned mutex cannot be met.
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_settled(&self, now: Instant) -> bool {
        self.units.values().all(|unit| unit.is_settled(now, SETTLES)) && !self.beats().misses_one(now)
    }

    /// How long after a tick the next one may be. Each vouches for the decision core, which counts for `warntime`.
    fn pace(&self, now: Instant) -> Duration {
        let calm = self.timers.keepalive.min(self.timers.warntime / 4);
        if self.is_settled(now) { calm.max(TICK) } else { TICK }
    }

    async fn tick(&mut self) {
        let now = clock::now();
        self.beats().vouch(now, self.lease.reachable);
        self.alive.store(now.0, Ordering::Relaxed);
        let groups: Vec<GroupName> = self.units.keys().cloned().collect();
        let peers = Arc::new(self.beats().peers());
        for group in groups {
            let event = self.facts(&group, &peers, now);
            self.work([Work::Core(group.clone(), event), Work::Run(group.clone(), RunEvent::Tick)]).await;
            let due = |u: &Unit| {
                let every = if u.is_settled(now, SETTLES) { OBSERVE_SETTLED } else { OBSERVE };
                u.observe_again || now.since(u.observed) >= every
            };
            if self.units.get(&group).is_some_and(due) {
                self.observe(&group, now);
            }
        }
        let work = self.neighbours();
        self.work(work).await;
        self.configure_volumes(now);
        self.tell_timelines(now);
        if now.since(self.published) >= PUBLISH * (1 + u32::from(self.is_settled(now))) {
            self.let_go(now);
            self.units.iter_mut().for_each(|(group, unit)| self.failure_book.look(group, unit));
            let work = self.gateway_work(&peers, now);
            self.work(work).await;
            self.publish(&peers, now);
        }
    }

    /// What groups that go with others, or keep away from them, have to know of these, where it has changed.
    fn neighbours(&mut self) -> Vec<Work> {
        // One that knows of others when nobody is related any more has to forget them.
        let related =
            |u: &Unit| u.spec.with.is_some() || !u.spec.apart_from.is_empty() || !u.others.is_empty();
        if !self.units.values().any(related) {
            return Vec::new();
        }
        let told: BTreeMap<GroupName, Told> =
            self.units.iter().map(|(name, unit)| (name.clone(), unit.core.told())).collect();
        let mut work = Vec::new();
        for (name, unit) in &mut self.units {
            let named =
                |g: &GroupName| unit.spec.with.as_ref() == Some(g) || unit.spec.apart_from.contains(g);
            let concerns = |(g, t): &(&GroupName, &Told)| named(g) || t.with.as_ref() == Some(name);
            let others: BTreeMap<GroupName, Told> =
                told.iter().filter(concerns).map(|(g, t)| (g.clone(), t.clone())).collect();
            if others != unit.others {
                unit.others.clone_from(&others);
                work.push(Work::Core(name.clone(), Event::Others(others)));
            }
        }
        work
    }

    /// Until when this node's lease counts.
    fn lease_until(&self) -> Instant {
        let until = self.lease.sent.map(|sent| self.timers.lease_until(sent, self.lease.granted));
        until.unwrap_or(Instant::ZERO)
    }

    fn facts(&self, group: &GroupName, peers: &Arc<BTreeMap<NodeName, PeerFacts>>, now: Instant) -> Event {
        let lease_until = self.lease_until();
        let etcd = EtcdFacts { reachable: self.lease.reachable, lease: self.lease.id, lease_until };
        Event::Tick(Box::new(Facts { beats: self.beats().facts(group, now), peers: Arc::clone(peers), etcd }))
    }

    async fn all(&mut self, event: impl Fn() -> Event) {
        let work: Vec<Work> = self.units.keys().map(|g| Work::Core(g.clone(), event())).collect();
        self.work(work).await;
    }

    async fn take(&mut self, back: Back) {
        match back {
            Back::Group(group, event) => {
                if let Event::Record(_, Some(record)) = &event {
                    // Whoever asked for something waits for the status to show it.
                    let mut news = self.node_keys != record.nodes;
                    self.node_keys.clone_from(&record.nodes);
                    self.revision = self.revision.max(record.revision);
                    let mine = record.nodes.get(&self.config.node).and_then(|keys| keys.lease);
                    if self.lease.id != 0 && mine.is_none() {
                        self.lease_task.put_alive();
                    }
                    if let Some(unit) = self.units.get_mut(&group) {
                        news |= unit.note_record(record, clock::now());
                    }
                    if news {
                        self.published = Instant::ZERO;
                    }
                }
                self.work([Work::Core(group, event)]).await;
            }
            Back::Step(group, step, result) => {
                if let Err(error) = &result {
                    tracing::warn!(%group, step = step.word(), service = step.service(), "{error}");
                    self.tell_unstoppable(&group, &step, error);
                }
                if let Some(unit) = self.units.get_mut(&group) {
                    unit.observe_again = true;
                    unit.stepped = clock::now();
                }
                self.work([Work::Run(group, RunEvent::Done(step, result))]).await;
            }
            Back::Observed(group, found) => {
                let Some(unit) = self.units.get_mut(&group) else { return };
                unit.observing = false;
                // Looked at while a step changed something: it may show what was before.
                if unit.observed < unit.stepped {
                    return;
                }
                let containers = found.map(|(containers, services)| {
                    unit.services = services;
                    unit.seen = Some(clock::now());
                    containers
                });
                self.work([Work::Run(group, RunEvent::Containers(containers))]).await;
            }
            Back::VolumeSet(group, volume, result) => {
                let mut work = Vec::new();
                if let (Ok(status), Some(all)) = (&result, &mut self.volumes) {
                    all.retain(|v| v.volume != volume);
                    all.push((**status).clone());
                    work = self.replica_work();
                }
                work.push(Work::Core(group, Event::VolumeSet(volume, result.map(drop))));
                self.work(work).await;
            }
            Back::Configured(config, result) => {
                let volume = config.volume.clone();
                self.configuring.remove(&volume);
                match result {
                    Ok(()) => {
                        self.configure_errors.remove(&volume);
                        self.configured.insert(volume, *config);
                    }
                    Err(error) => {
                        if self.configure_errors.insert(volume.clone(), error.clone()).as_ref()
                            != Some(&error)
                        {
                            tracing::error!(%volume, "cannot attach: {error}");
                        }
                        self.configure_at.insert(volume, clock::now().plus(CONFIGURE_RETRY));
                    }
                }
            }
            Back::Check(group, event) => self.work([Work::Run(group, event)]).await,
            Back::Gateway(group, check, reached) => self.gateway(&group, check, reached),
            Back::Told(group, severity, message) => self.history.record(Some(&group), severity, &message),
            Back::Answered(group, at) => {
                if let Some(unit) = self.units.get_mut(&group) {
                    unit.tracker.on_answer(at);
                }
                self.published = Instant::ZERO;
            }
            Back::Spec(found) => self.spec_found(found).await,
            Back::Address(group, severity, message) => self.history.record(Some(&group), severity, &message),
        }
    }

    /// The ladder of a stop that does not end, each rung told once: the stop signal, SIGKILL, then the fence.
    fn tell_unstoppable(&mut self, group: &GroupName, step: &Step, error: &str) {
        let (severity, next) = match step {
            Step::Stop(_) => (Severity::Warning, "it is killed"),
            Step::Kill(_) => (Severity::Critical, "tried again until stop_timeout, then its node is fenced"),
            _ => return,
        };
        let text = format!("{} is not stopped ({error}): {next}", step.service().unwrap_or_default());
        let Some(unit) = self.units.get_mut(group).filter(|u| u.unstoppable.as_ref() != Some(&text)) else {
            return;
        };
        unit.unstoppable = Some(text.clone());
        self.history.record(Some(group), severity, &text);
    }

    async fn replicas(&mut self, status: Option<&Status>) {
        if let Some(status) = status {
            self.handshakes.clone_from(&status.handshakes);
        }
        self.memory = status.and_then(|s| s.memory.clone());
        let now = clock::now();
        if let Some(died) = self.replicator.look(status.map(|s| s.worker_restarts), now) {
            crate::metrics::live().replicator_restarts(died.times);
            self.history.record(None, Severity::Warning, &died.sentence());
        }
        if status.is_none() || self.replicator.is_new() {
            // It knows nothing any more and is told at once, however lately that was.
            self.configure_at.clear();
        }
        self.volumes = status.map(|s| s.volumes.clone());
        let work = self.replica_work();
        self.work(work).await;
        self.configure_volumes(clock::now());
    }

    fn replica_work(&self) -> Vec<Work> {
        let of = |group: &GroupName| -> Vec<VolumeStatus> {
            self.volumes.iter().flatten().filter(|v| v.group == *group).cloned().collect()
        };
        let each = |group: &GroupName| {
            let known = self.volumes.as_ref().map(|_| of(group));
            let run = RunEvent::Volumes(known.clone().unwrap_or_default());
            [Work::Core(group.clone(), Event::Replicas(known)), Work::Run(group.clone(), run)]
        };
        self.units.keys().flat_map(each).collect()
    }

    /// Volumes of the specification that the replicator does not have yet (it was restarted, or is new), or has with
    /// another configuration.
    fn configure_volumes(&mut self, now: Instant) {
        let Some(known) = &self.volumes else { return };
        let attached = |name: &VolumeName| known.iter().any(|v| v.volume == *name && v.boot.0 != 0);
        let wanted: Vec<VolumeConfig> = self
            .shown
            .groups
            .iter()
            .filter(|(g, _)| self.units.contains_key(*g))
            .flat_map(|(g, group)| group.volumes.keys().map(move |v| (g, v)))
            .filter(|(_, v)| !self.configuring.contains(*v))
            .filter(|(_, v)| self.configure_at.get(*v).is_none_or(|at| now >= *at))
            .filter_map(|(g, v)| translate::volume_config(&self.shown, &self.config, g, v))
            .filter(|config| !attached(&config.volume) || self.configured.get(&config.volume) != Some(config))
            .collect();
        for config in wanted {
            let volume = config.volume.clone();
            self.configuring.insert(volume.clone());
            // A success shows in the status; should it not, ask again later.
            self.configure_at.insert(volume, now.plus(CONFIGURE_RETRY));
            let (replica, back) = (self.executor.replica.clone(), self.back.clone());
            tokio::spawn(async move {
                let result = replica.configure(&config).await.map_err(|e| chain(&e));
                let _ = back.send(Back::Configured(Box::new(config), result)).await;
            });
        }
    }

    fn engine_woke(&mut self, wake: &Wake) {
        for unit in self.units.values_mut() {
            let concerned = match wake {
                Wake::Everything => true,
                Wake::Container { name, .. } => unit.plan.containers().any(|(c, _)| c == *name),
            };
            unit.observe_again |= concerned;
        }
    }

    fn observe(&mut self, group: &GroupName, now: Instant) {
        let Some(unit) = self.units.get_mut(group).filter(|u| !u.observing) else { return };
        unit.observing = true;
        unit.observe_again = false;
        unit.observed = now;
        let (executor, plan, back, group) =
            (self.executor.clone(), Arc::clone(&unit.plan), self.back.clone(), group.clone());
        tokio::spawn(async move {
            let found = executor.observe(&plan).await;
            let _ = back.send(Back::Observed(group, found)).await;
        });
    }

    /// Feeds the cores until nothing more follows from it.
    pub(super) async fn work(&mut self, work: impl IntoIterator<Item = Work>) {
        let mut queue: VecDeque<Work> = work.into_iter().collect();
        while let Some(work) = queue.pop_front() {
            match work {
                Work::Core(group, event) => self.core(&group, event, &mut queue).await,
                Work::Run(group, event) => self.runtime(&group, event, &mut queue),
            }
        }
    }

    async fn core(&mut self, group: &GroupName, event: Event, queue: &mut VecDeque<Work>) {
        let mut event = Some(event);
        for _ in 0..SETTLE_ROUNDS {
            let Some(next) = event.take() else { break };
            let now = clock::now();
            let Some(unit) = self.units.get_mut(group) else { return };
            let actions = unit.core.handle(next, now, rand::random());
            let intent = unit.core.intent();
            let changed = intent != unit.intent;
            let goal = unit.core.goal();
            // Durable first, then what others hear, then what is done.
            self.perform(group, actions).await;
            if changed {
                let told = self.beats().set_intent(group, intent.clone());
                if told {
                    self.thread.hurry();
                }
                if let Some(unit) = self.units.get_mut(group) {
                    // A lease that was renewed is none of it.
                    if told {
                        unit.changed = now;
                    }
                    unit.intent = intent;
                }
                let peers = Arc::new(self.beats().peers());
                event = Some(self.facts(group, &peers, clock::now()));
            }
            queue.push_back(Work::Run(group.clone(), RunEvent::Goal(goal)));
            self.track(group, now);
        }
    }

    fn track(&mut self, group: &GroupName, now: Instant) {
        let sign = self.beats().facts(group, now).last_holds;
        let Some(unit) = self.units.get_mut(group) else { return };
        let (before, state) = (unit.state, unit.core.state());
        if before == state {
            return;
        }
        unit.state = state;
        unit.changed = now;
        let kind = unit.kind(before);
        let epoch = unit.core.view_of().epoch;
        let marks = unit.runtime.marks().to_vec();
        unit.tracker.on_state(Change { before, after: state, kind, epoch, sign, marks: &marks }, now);
        self.published = Instant::ZERO;
    }

    /// Timelines that are whole go into the history.
    fn tell_timelines(&mut self, now: Instant) {
        for (group, unit) in &mut self.units {
            unit.tracker.on_tick(!unit.spec.checks.is_empty(), now);
            if let Some(whole) = unit.tracker.take_whole().filter(|t| t.kind != "resume") {
                self.history.timeline(group, whole);
            }
        }
    }

    fn runtime(&mut self, group: &GroupName, event: RunEvent, queue: &mut VecDeque<Work>) {
        let link_down = self.executor.keeper.own_link().is_some_and(|l| !l.carrier);
        let Some(unit) = self.units.get_mut(group) else { return };
        let now = clock::now();
        let todo = unit.runtime.handle(event, now);
        self.reload.board.disturbed(group, unit.runtime.disturbed());
        let mut report = unit.runtime.report();
        if link_down && !unit.plan.addresses.is_empty() {
            report.unusable = Some("the link that carries the addresses is down".into());
        }
        if report != unit.report {
            unit.changed = now;
            unit.report = report.clone();
            queue.push_back(Work::Core(group.clone(), Event::Run(report)));
        }
        for step in todo {
            let (executor, plan, back, group) =
                (self.executor.clone(), Arc::clone(&unit.plan), self.back.clone(), group.clone());
            tokio::spawn(async move {
                let result = executor.step(&plan, &step).await;
                let _ = back.send(Back::Step(group, step, result)).await;
            });
        }
    }

    async fn perform(&mut self, group: &GroupName, actions: Vec<Action>) {
        for action in actions {
            let (etcd, back, name) = (self.etcd.clone(), self.back.clone(), group.clone());
            match action {
                Action::Persist(durable) => {
                    let (dir, name) = (self.state_dir.clone(), group.clone());
                    let saved = tokio::task::spawn_blocking(move || dir.save(&name, &durable)).await;
                    // Promises that cannot be remembered must not be made.
                    let failed = match saved {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => chain(&error),
                        Err(error) => error.to_string(),
                    };
                    tracing::error!("{failed}: the agent stops");
                    std::process::abort();
                }
                Action::Read(id) => drop(tokio::spawn(async move {
                    let record = match etcd.read(&name).await {
                        Ok(record) => Some(Box::new(record)),
                        Err(error) => {
                            tracing::debug!(group = %name, error = %chain(&error), "cannot read the record");
                            None
                        }
                    };
                    let _ = back.send(Back::Group(name, Event::Record(id, record))).await;
                })),
                Action::WriteFence(id) => drop(tokio::spawn(async move {
                    let written = etcd.write_fence(&name).await.is_ok();
                    let _ = back.send(Back::Group(name, Event::Fence(id, written))).await;
                })),
                Action::Txn(txn) => {
                    let lease = self.lease.id;
                    drop(tokio::spawn(async move {
                        let outcome = etcd.transact(&name, &txn, lease).await;
                        tracing::debug!(group = %name, kind = ?txn.kind, ?outcome, "transaction");
                        let _ = back.send(Back::Group(name, Event::Txn(txn.id, outcome))).await;
                    }));
                }
                Action::SetVolume(volume, mut desired) => {
                    // One that arrives after a later one, having been given up here, is refused there.
                    desired.order = clock::now().0;
                    let replica = self.executor.replica.clone();
                    drop(tokio::spawn(async move {
                        let result =
                            replica.desired(&volume, &desired, DESIRED_LIMIT).await.map_err(|e| chain(&e));
                        if let Err(error) = &result {
                            tracing::warn!(%volume, role = ?desired.role, epoch = %desired.epoch, "{error}");
                        }
                        let _ = back.send(Back::VolumeSet(name, volume, result.map(Box::new))).await;
                    }));
                }
                Action::FenceNode { id, node, leader, insync } => {
                    self.fence(&name, id, node, (leader, insync));
                }
                Action::Event(severity, message) => self.history.record(Some(group), severity, &message),
            }
        }
    }

    /// Heartbeat links as they are now; what changed becomes an event.
    fn heartbeat_links(&mut self, now: Instant) -> HeartbeatStatus {
        let heartbeat = {
            let board = self.thread.board.lock().unwrap_or_else(PoisonError::into_inner);
            super::links::status(&board, &self.shown, &self.config.node, &self.timers, now)
        };
        for (severity, text) in self.links_told.news(&heartbeat, &self.config.node) {
            self.history.record(None, severity, &text);
        }
        heartbeat
    }

    fn refused(&self) -> BTreeMap<NodeName, u64> {
        let link = &self.thread.counters;
        let mut all: BTreeMap<NodeName, u64> =
            link.refused_from.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known: u64 = all.values().sum();
        all.insert(self.config.node.clone(), link.refused.load(Ordering::Relaxed).saturating_sub(known));
        all
    }

    fn publish(&mut self, peers: &BTreeMap<NodeName, PeerFacts>, now: Instant) {
        self.published = now;
        let groups = {
            let beats = self.beats();
            let until = self.lease_until();
            let input = |unit: &Unit| unit.input(unit.entitlement(&beats, until, now));
            self.units.iter().map(|(name, unit)| (name.clone(), input(unit))).collect()
        };
        let mut advice: Vec<String> = self
            .configure_errors
            .iter()
            .map(|(v, e)| format!("volume {v} on {}: {e}", self.config.node))
            .collect();
        advice.extend(self.spec_advice(now));
        let heartbeat = self.heartbeat_links(now);
        advice.extend(super::links::advice(&heartbeat, &self.config.node, &self.timers));
        advice.extend(super::links::profile_advice(
            &heartbeat,
            &self.config.node,
            self.spec.heartbeat.profile,
        ));
        let mut etcd = EtcdStatus {
            reachable: self.lease.reachable,
            endpoints: self.config.etcd.clone(),
            lease: (self.lease.id != 0).then(|| format!("{:x}", self.lease.id)),
            ttl_s: (self.lease.id != 0)
                .then(|| i64::try_from(self.lease.granted.as_secs()).unwrap_or(i64::MAX)),
            revision: self.revision,
            error: self.lease.error.clone(),
            age_ms: self.etcd.answered().map(|at| snapshot::millis(now.since(at))),
            ..EtcdStatus::default()
        };
        super::members::put_into(&mut etcd, &self.members.borrow(), &self.shown, self.etcd.latency());
        if !etcd.reachable {
            let why = self.lease.error.clone().unwrap_or_else(|| "no answer yet".into());
            let what = etcd.state.sentence().map(|s| format!(", {s}")).unwrap_or_default();
            advice.push(format!(
                "{} cannot reach etcd ({why}){what}: leadership cannot change until it can",
                self.config.node
            ));
        } else if let Some(what) = etcd.state.sentence() {
            advice.push(what.into());
        }
        advice.extend(super::members::advice(&etcd, &self.spec));
        let incarnation = self.beats().incarnation();
        let security = self.security.borrow().clone();
        advice.extend(security.advice);
        let notifications = self.notifier.board();
        advice.extend(notify::advice(&notifications, SystemTime::now()));
        let mut snapshot = snapshot::build(&Input {
            spec: &self.shown,
            spec_version: self.reload.version,
            me: &self.config.node,
            now,
            at: rfc3339(SystemTime::now()),
            incarnation,
            etcd,
            peers,
            refused: &self.refused(),
            node_keys: &self.node_keys,
            groups: &groups,
            volumes: self.volumes.as_deref(),
            volumes_at: self.executor.replica.answered(),
            advice,
        });
        super::verify::put_into(&mut snapshot, &self.verifies.borrow());
        super::resolve::put_into(&mut snapshot, &self.given_up.borrow());
        let keeper = &self.executor.keeper;
        super::fencing::put_into(&mut snapshot, keeper.gate(), &keeper.addresses(), &self.watchdog);
        self.fencer.put_into(&mut snapshot);
        snapshot.judge_safety();
        self.reload.board.put_into(&mut snapshot, now);
        self.availability.observe(&mut snapshot, now);
        snapshot.certificates = security.certificates;
        snapshot.handshakes = self.handshakes.clone();
        super::memory::put_into(&mut snapshot, self.memory.as_ref());
        snapshot.notifications = notifications;
        snapshot.heartbeat = heartbeat;
        let mut mine = summary(&snapshot, &self.config.node);
        mine.more.spec_version = self.reload.version;
        let own = snapshot.nodes.iter().find(|n| n.name == self.config.node);
        mine.more.fencing = own.and_then(|n| n.fencing.as_ref()).map_or(0, super::fencing::number);
        mine.more.gateways = self.own_gateways();
        self.beats().set_summary(mine.encode());
        crate::metrics::live().observe(&snapshot);
        crate::metrics::live().timers(&self.timers);
        if let Some(link) = self.executor.keeper.own_link() {
            crate::metrics::live().link(&link.interface, link.carrier);
        }
        self.status.send_replace(snapshot);
    }
}

/// What this node tells the others about itself.
fn summary(status: &ClusterStatus, me: &NodeName) -> NodeSummary {
    let mine = |g: &crate::status::GroupStatus| {
        let node = g.nodes.iter().find(|n| n.node == *me)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "per mille of 0 to 100 per cent"
        )]
        let resync = node.resync_percent.map(|p| (p.clamp(0.0, 100.0) * 10.0) as u16);
        Some(GroupSummary {
            group: g.name.clone(),
            disk: node.disk,
            resync,
            reason: if g.leader.as_ref() == Some(me) { g.reason.clone() } else { node.reason.clone() },
            services: g
                .services
                .iter()
                .filter(|_| g.leader.as_ref() == Some(me))
                .map(ServiceBrief::of)
                .collect(),
        })
    };
    NodeSummary {
        version: status.version.clone(),
        groups: status.groups.iter().filter_map(mine).collect(),
        ..NodeSummary::default()
    }
}
