//! A changed specification, taken over while everything runs: nothing restarts but what has to.
//!
//! The etcd watch wakes the owner, which compares the version there with the one it runs and reads the document if
//! they differ. A document that cannot be read, or that this node cannot follow, changes nothing; status and the
//! history say so. Otherwise cores, heartbeats, addresses, checks and volumes are told in turn what is different.
//! Promises, incarnation, lease and epochs go on, so two nodes may do this at different times: see
//! docs/decisions/0006-live-configuration.md for why that is safe.
//!
//! Nodes and groups that are gone stay known (`leaving`, retiring units) until no record counts on them.

use super::checks;
use super::exec::Plan;
use super::owner::{Back, Owner, Work};
use super::translate;
use super::unit::{Unit, group_config};
use crate::causes::chain;
use crate::core::group::{Event, Retire, Severity};
use crate::core::runtime::RunEvent;
use crate::core::timing::Timers;
use crate::heartbeat::{HeartbeatConfig, clock};
use crate::spec::{Facts, Spec, diff};
use baton_replicator::api::{Desired, Membership, VolumeStatus};
use baton_replicator::types::{GroupName, Instant, NodeName, Role, VolumeName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Agents differ in their version for a moment at every change; longer than this needs a person.
const DIFFERS: Duration = Duration::from_secs(30);
/// Bound of demoting a volume whose group is gone.
const LET_GO_LIMIT: Duration = Duration::from_secs(10);
/// Such a volume is tried again after this.
const LET_GO_RETRY: Duration = Duration::from_secs(2);

/// What was found in etcd.
pub enum Found {
    /// etcd did not answer, or nothing differs.
    Same,
    /// There is none.
    Nothing,
    /// Another one than the one in force.
    Other(String, i64),
}

/// What the owner keeps about specifications.
pub struct Reload {
    /// Version in force; 0 if it does not come from etcd.
    pub version: i64,
    /// Told the specification in force, with every change.
    pub told: tokio::sync::watch::Sender<Arc<Spec>>,
    /// Nodes that are gone and still counted on.
    pub leaving: BTreeMap<NodeName, crate::spec::Node>,
    /// A version that was not taken over, and why.
    pub refused: Option<(i64, String)>,
    /// etcd holds no specification.
    pub nothing: bool,
    /// A read is on its way.
    pub reading: bool,
    /// Since when a living peer runs another version.
    pub differs: Option<Instant>,
    /// When a volume that is gone from the specification may be let go again.
    pub let_go_at: BTreeMap<VolumeName, Instant>,
    /// Tasks of the groups' checks.
    pub checks: Vec<tokio::task::JoinHandle<()>>,
    /// What they found.
    pub board: checks::Board,
}

impl Reload {
    pub fn new(told: tokio::sync::watch::Sender<Arc<Spec>>, version: i64) -> Self {
        Self {
            version,
            told,
            leaving: BTreeMap::new(),
            refused: None,
            nothing: false,
            reading: false,
            differs: None,
            let_go_at: BTreeMap::new(),
            checks: Vec::new(),
            board: checks::Board::default(),
        }
    }
}

impl Owner {
    /// Looks whether etcd has another specification than the one in force. At most one look at a time; the watch
    /// wakes at least once per second, so one that is left out is made up for.
    pub(super) fn look_at_spec(&mut self) {
        if std::mem::replace(&mut self.reload.reading, true) {
            return;
        }
        let known = (self.reload.version, self.reload.refused.as_ref().map(|r| r.0));
        let (etcd, back) = (self.etcd.clone(), self.back.clone());
        tokio::spawn(async move {
            let found = match etcd.spec_version().await {
                Err(_) => Found::Same,
                Ok(None) => Found::Nothing,
                Ok(Some(version)) if version == known.0 || Some(version) == known.1 => Found::Same,
                Ok(Some(_)) => match etcd.spec().await {
                    Ok(Some((text, version))) => Found::Other(text, version),
                    Ok(None) | Err(_) => Found::Same,
                },
            };
            let _ = back.send(Back::Spec(found)).await;
        });
    }

    /// What was found is taken over if it can be.
    pub(super) async fn spec_found(&mut self, found: Found) {
        self.reload.reading = false;
        self.reload.nothing = matches!(found, Found::Nothing);
        let Found::Other(text, version) = found else { return };
        // What an etcd says that is not the one we knew is not followed; its groups' advice says what to do.
        if self.units.values().any(|u| u.core.foreign()) {
            return;
        }
        if text == self.spec.text {
            self.reload.version = version;
            self.reload.refused = None;
            return;
        }
        let name = format!("version {version}");
        let parsed = Spec::parse(&text, |_| None).map_err(|e| e.in_file(name).to_string());
        let taken = match parsed.and_then(|spec| self.acceptable(&spec).map(|()| spec)) {
            Ok(spec) => self.take_spec(spec, version).await,
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            let text = format!(
                "specification version {version} is not followed here, version {} stays in force: {error}",
                self.reload.version
            );
            self.history.record(None, Severity::Critical, &text);
            self.reload.refused = Some((version, error));
        }
    }

    /// Whether this node can follow a specification at all, whoever wrote it.
    fn acceptable(&self, new: &Spec) -> Result<(), String> {
        new.heartbeat.core().check().map_err(|e| e.to_string())?;
        let refused: Vec<String> = diff::plan(&self.spec, new, &Facts::default())
            .refused()
            .map(|c| format!("{}: {}", c.path, c.consequence))
            .collect();
        if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
    }

    async fn take_spec(&mut self, new: Spec, version: i64) -> Result<(), String> {
        let me = self.config.node.clone();
        let timers = new.heartbeat.core().check().map_err(|e| e.to_string())?;
        let gone = self.shown.nodes.iter().filter(|(name, _)| !new.nodes.contains_key(*name));
        let mut leaving: BTreeMap<_, _> = gone.map(|(name, node)| (name.clone(), node.clone())).collect();
        std::mem::swap(&mut leaving, &mut self.reload.leaving);
        let new = Arc::new(new);
        let shown = self.shown_of(&new);
        // The only part that can fail comes first.
        if let Err(error) = self.thread.reconfigure(links(&shown, &self.config, timers)) {
            std::mem::swap(&mut leaving, &mut self.reload.leaving);
            return Err(chain(&error));
        }
        let before = std::mem::replace(&mut self.spec, Arc::clone(&new));
        self.timers = timers;
        self.lease_task.ask_for(timers.ttl);
        let own = shown.nodes.get(&me).map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |n| n.address);
        drop(tokio::spawn(self.executor.keeper.reconfigure(own, timers.fencetime)));
        self.executor.keeper.guard(new.vips());
        self.beats().reconfigure(timers, shown.nodes.keys().cloned(), clock::now());
        self.shown = Arc::new(shown);

        let mut work = Vec::new();
        let here = new.nodes.contains_key(&me);
        for (name, unit) in &mut self.units {
            let group = new.groups.get(name).filter(|g| here && unit.can_become(g, &me));
            let retire = match (here, group) {
                (false, _) => Some(Retire::Node),
                (true, None) => Some(Retire::Group),
                (true, Some(_)) => None,
            };
            if let Some(group) = group
                && let Some(plan) = Plan::of(&new, &self.config, &self.executor.engine, name)
            {
                unit.become_(group.clone(), plan);
            }
            let cfg = group_config(&new, &me, name, &unit.spec, timers, retire);
            work.push(Work::Core(name.clone(), Event::Configured(Box::new(cfg))));
            work.push(Work::Run(name.clone(), RunEvent::Tick));
        }
        self.reload.version = version;
        self.reload.refused = None;
        self.reload.told.send_replace(Arc::clone(&new));
        self.add_units();
        self.start_checks();
        self.work(work).await;
        keep_copy(&self.config.state_dir, &new.text);
        let words = diff::plan(&before, &new, &Facts::default()).summary();
        self.history.record(
            None,
            Severity::Info,
            &format!("{}{version}: {words}", crate::notify::news::NEW_SPEC),
        );
        self.published = Instant::ZERO;
        Ok(())
    }

    /// The specification with what is gone from it and still counted on.
    fn shown_of(&self, spec: &Spec) -> Spec {
        let mut shown = spec.clone();
        for (name, node) in &self.reload.leaving {
            shown.nodes.entry(name.clone()).or_insert_with(|| node.clone());
        }
        for (name, unit) in &self.units {
            shown.groups.entry(name.clone()).or_insert_with(|| unit.spec.clone());
        }
        shown
    }

    /// Units for groups that have none yet.
    pub(super) fn add_units(&mut self) {
        if !self.spec.nodes.contains_key(&self.config.node) {
            return;
        }
        let now = clock::now();
        for name in self.spec.groups.keys() {
            if self.units.contains_key(name) {
                continue;
            }
            let durable = match self.state_dir.load(name) {
                Ok(durable) => durable,
                Err(error) => {
                    let text = format!("the group cannot begin on {}: {}", self.config.node, chain(&error));
                    self.history.record(Some(name), Severity::Critical, &text);
                    continue;
                }
            };
            let bound = super::start::bound_until(&durable, now);
            let Some(plan) = Plan::of(&self.spec, &self.config, &self.executor.engine, name) else {
                continue;
            };
            let Some(unit) = Unit::new(&self.spec, &self.config.node, name, plan, self.timers, durable, now)
            else {
                continue;
            };
            self.beats().add_group(name.clone(), bound, now);
            self.units.insert(name.clone(), unit);
        }
    }

    /// Checks of all groups in force, instead of those that run.
    pub(super) fn start_checks(&mut self) {
        for task in self.reload.checks.drain(..) {
            task.abort();
        }
        for unit in self.units.values_mut() {
            unit.gateways.clear();
        }
        let status = self.status.subscribe();
        let place = checks::Place {
            me: &self.config.node,
            own: self.spec.nodes.get(&self.config.node).map(|n| n.address),
            engine: &self.executor.engine,
            status: &status,
            board: &self.reload.board,
        };
        let mut all = Vec::new();
        for (name, group) in self.spec.groups.iter().filter(|(name, _)| self.units.contains_key(*name)) {
            all.extend(checks::start(name, group, &place, &self.back));
        }
        self.reload.checks = all;
    }

    /// Drops units that are done, nodes that nobody counts on any more, and volumes that nobody has.
    pub(super) fn let_go(&mut self, now: Instant) {
        let done: Vec<GroupName> =
            self.units.iter().filter(|(_, u)| u.core.retired()).map(|(name, _)| name.clone()).collect();
        for name in &done {
            self.drop_unit(name);
        }
        let mut counted: BTreeSet<NodeName> = self.units.values().flat_map(|u| u.core.counts_on()).collect();
        if !self.units.is_empty() {
            counted.insert(self.config.node.clone());
        }
        let before = self.reload.leaving.len();
        self.reload.leaving.retain(|name, _| counted.contains(name));
        if before != self.reload.leaving.len() || !done.is_empty() {
            let shown = self.shown_of(&self.spec);
            // No link is new, so nothing has to be bound.
            if let Err(error) = self.thread.reconfigure(links(&shown, &self.config, self.timers)) {
                tracing::warn!(error = %chain(&error), "heartbeat links stay as they were");
            }
            self.beats().reconfigure(self.timers, shown.nodes.keys().cloned(), now);
            self.shown = Arc::new(shown);
            self.add_units();
        }
        self.let_volumes_go(now);
    }

    fn drop_unit(&mut self, name: &GroupName) {
        let Some(unit) = self.units.remove(name) else { return };
        self.beats().remove_group(name);
        let kept: Vec<String> = unit
            .spec
            .volumes
            .iter()
            .map(|(v, volume)| match volume.backing.on(&self.config.node) {
                Some(device) => device.display().to_string(),
                None => translate::image(&self.config, v).display().to_string(),
            })
            .collect();
        let data =
            if kept.is_empty() { String::new() } else { format!("; its data stay in {}", kept.join(", ")) };
        let text = format!("has left {}{data}", self.config.node);
        self.history.record(Some(name), Severity::Info, &text);
        let (executor, plan) = (self.executor.clone(), Arc::clone(&unit.plan));
        tokio::spawn(async move {
            for (container, _) in plan.containers() {
                if let Err(error) = executor.engine.remove(&container).await {
                    tracing::warn!(%container, error = %chain(&error), "cannot remove it; the next start tries again");
                }
            }
        });
    }

    /// Volumes that the replicator still has and the specification has not: demoted and closed, never removed.
    fn let_volumes_go(&mut self, now: Instant) {
        // Without etcd the specification may be an old one.
        if self.reload.version == 0 {
            return;
        }
        let here = self.spec.nodes.contains_key(&self.config.node) || !self.units.is_empty();
        let wanted = |v: &VolumeStatus| {
            let known = |g: &crate::spec::Group| g.volumes.contains_key(&v.volume);
            here && self.shown.groups.get(&v.group).is_some_and(known)
        };
        let orphans: Vec<VolumeStatus> =
            self.volumes.iter().flatten().filter(|v| v.boot.0 != 0 && !wanted(v)).cloned().collect();
        for volume in orphans {
            let at = self.reload.let_go_at.entry(volume.volume.clone()).or_insert(Instant::ZERO);
            if now < *at {
                continue;
            }
            *at = now.plus(LET_GO_RETRY);
            self.configured.remove(&volume.volume);
            let replica = self.executor.replica.clone();
            tokio::spawn(async move {
                let name = &volume.volume;
                let demoted = match volume.role {
                    Role::Secondary => Ok(()),
                    Role::Primary => {
                        let role = Role::Secondary;
                        let desired = Desired {
                            epoch: volume.epoch,
                            role,
                            required: Vec::new(),
                            accept_data_loss: false,
                            force: true,
                            order: clock::now().0,
                            membership: Membership::Untold,
                        };
                        replica.desired(name, &desired, LET_GO_LIMIT).await.map(drop)
                    }
                };
                let closed = match demoted {
                    Ok(()) => replica.detach(name).await,
                    Err(error) => Err(error),
                };
                match closed {
                    Ok(()) => {
                        tracing::info!(volume = %name, "closed: it is not in the specification; its data stay")
                    }
                    Err(error) => {
                        tracing::warn!(volume = %name, error = %chain(&error), "cannot be closed yet")
                    }
                }
            });
        }
    }

    /// What a person should know about the specification.
    pub(super) fn spec_advice(&mut self, now: Instant) -> Vec<String> {
        let me = &self.config.node;
        let mut advice = Vec::new();
        if let Some((version, why)) = &self.reload.refused {
            advice.push(format!(
                "{me} does not follow specification version {version}: {why}. Version {} stays in force there; apply a \
                 corrected one, or 'baton spec rollback {0}'",
                self.reload.version
            ));
        }
        if self.reload.nothing {
            advice.push(
                "etcd holds no specification: 'baton cluster recover' writes the one in force back".into(),
            );
        }
        if !self.spec.nodes.contains_key(me) {
            let names: Vec<&str> = self.spec.nodes.keys().map(NodeName::as_str).collect();
            let rest = if self.units.is_empty() { "it does nothing" } else { "it leaves in order" };
            advice.push(format!(
                "{me} is not in the specification, whose nodes are {}: {rest}. Add it and 'baton apply', or stop its \
                 agent and replicator",
                names.join(", ")
            ));
        }
        let status = self.status.borrow();
        let other = |n: &&crate::status::NodeStatus| {
            n.alive && n.spec_version.is_some_and(|v| v != self.reload.version)
        };
        let others: Vec<String> = status
            .nodes
            .iter()
            .filter(other)
            .map(|n| format!("{} version {}", n.name, n.spec_version.unwrap_or(0)))
            .collect();
        drop(status);
        self.reload.differs = (!others.is_empty()).then(|| self.reload.differs.unwrap_or(now));
        if self.reload.differs.is_some_and(|since| now.since(since) >= DIFFERS) {
            advice.push(format!(
                "the nodes run different specifications: {me} version {}, {}; look at the advice and the log of each",
                self.reload.version,
                others.join(", ")
            ));
        }
        advice
    }
}

/// Heartbeat links of this node and where its peers are.
pub(super) fn links(shown: &Spec, config: &super::Config, timers: Timers) -> HeartbeatConfig {
    let own = shown.nodes.get(&config.node);
    let peers = shown.nodes.iter().filter(|(name, _)| own.is_some() && **name != config.node);
    HeartbeatConfig {
        node: config.node.clone(),
        links: own.map(|n| n.heartbeat.clone()).unwrap_or_default(),
        peers: peers.map(|(name, n)| (name.clone(), n.heartbeat.clone())).collect(),
        port: config.heartbeat_port,
        keepalive: timers.keepalive,
        warntime: timers.warntime,
        deadtime: timers.deadtime,
    }
}

/// Keeps the document for a start without etcd: written aside and renamed, so that there is always a whole one.
pub(super) fn keep_copy(state_dir: &Path, text: &str) {
    let kept = state_dir.join("agent").join("spec.yaml");
    let aside = kept.with_extension("yaml.new");
    if let Err(error) = std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &kept)) {
        tracing::warn!(%error, "cannot keep a copy of the specification for a start without etcd");
    }
}
