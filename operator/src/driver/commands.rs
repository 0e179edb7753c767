//! What the API asks for: desired state goes to etcd, where whichever agent it concerns finds it.

use super::consequences;
use super::history::History;
use super::maintenance;
use super::owner::Back;
use crate::api::{
    Accepted, Applied, Apply, ApplyError, CommandError, Commands, How, ModeChange, PlaceChange, Resolve,
    Restore, SpecDocument, SpecVersion, Wish,
};
use crate::core::group::{Event as CoreEvent, FAILED_HERE, Severity};
use crate::core::record::{ModeWish, Outcome};
use crate::core::resync::PauseRecord;
use crate::core::verify::VerifyRecord;
use crate::etcd::{Etcd, EtcdError};
use crate::fence::{Action, Fencer};
use crate::heartbeat::clock;
use crate::notify::{Notifier, TestOutcome};
use crate::replica::{ReplicaClient, ReplicaError};
use crate::security::tokens::Tokens;
use crate::spec::Spec;
use crate::status::{ClusterStatus, Event, GroupState, GroupStatus, ModeNote, NodeMode, NodeStatus};
use baton_replicator::api::ExportStatus;
use baton_replicator::types::{GroupName, Instant, NodeName, VolumeName};
use futures::future::BoxFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// A core that has not run for this long is not alive: ten times the default warntime, so that a loaded machine
/// does not restart an agent that only was slow.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Until a verify that has ended is written down: the verifier looks every second.
const WRITTEN_DOWN: Duration = Duration::from_secs(3);

/// Until this agent's own status shows what was asked for: a read of the record and the next publication.
const SHOWN: Duration = Duration::from_secs(1);

/// A verify writes down once a second what it has found: to stop it between two of these takes one repetition.
const STOP_ROUNDS: u32 = 5;

/// Carries out the API's commands.
pub(super) struct DriverCommands {
    pub(super) me: NodeName,
    pub(super) back: mpsc::Sender<Back>,
    pub(super) in_force: watch::Receiver<Arc<Spec>>,
    pub(super) state_dir: PathBuf,
    pub(super) etcd: Etcd,
    pub(super) history: History,
    pub(super) status: watch::Receiver<ClusterStatus>,
    pub(super) alive: Arc<AtomicU64>,
    pub(super) notifier: Notifier,
    pub(super) replica: ReplicaClient,
    pub(super) fencer: Fencer,
    pub(super) tokens: Arc<Tokens>,
}

impl DriverCommands {
    pub(super) fn known_node(&self, node: &NodeName) -> Result<(), CommandError> {
        let spec = Arc::clone(&self.in_force.borrow());
        if spec.nodes.contains_key(node) {
            return Ok(());
        }
        let names: Vec<&str> = spec.nodes.keys().map(NodeName::as_str).collect();
        Err(CommandError::NotFound(format!("there is no node {node}; the nodes are {}", names.join(", "))))
    }

    pub(super) fn group(&self, name: &GroupName) -> Result<GroupStatus, CommandError> {
        let found = self.status.borrow().groups.iter().find(|g| g.name == *name).cloned();
        found.ok_or_else(|| {
            let spec = Arc::clone(&self.in_force.borrow());
            let names: Vec<&str> = spec.groups.keys().map(GroupName::as_str).collect();
            CommandError::NotFound(format!("there is no group {name}; the groups are {}", names.join(", ")))
        })
    }

    /// Waits until this agent's status shows what has just been written, so that whoever asks it next reads that. It is
    /// written anyway: after [`SHOWN`] the answer is the same.
    pub(super) async fn shown(&self, seen: impl FnMut(&ClusterStatus) -> bool) {
        let _ = tokio::time::timeout(SHOWN, self.status.clone().wait_for(seen)).await;
    }

    /// As [`Self::shown`], of one group.
    pub(super) async fn shown_of(&self, group: &GroupName, seen: impl Fn(&GroupStatus) -> bool) {
        self.shown(|status| status.groups.iter().any(|g| g.name == *group && seen(g))).await;
    }

    /// Whether this verify is over, whatever etcd says so far.
    fn has_ended(&self, volume: &VolumeName, id: u64) -> bool {
        let status = self.status.borrow();
        let volumes = status.groups.iter().flat_map(|g| &g.volumes);
        let verify = volumes.filter(|v| v.volume == *volume).find_map(|v| v.verify.as_ref());
        verify.is_some_and(|v| v.id == id && !v.state.is_running())
    }
}

pub(super) fn unavailable(error: &EtcdError) -> CommandError {
    CommandError::Unavailable(format!("etcd did not confirm it: {error}; try again"))
}

/// What came of a write that depended on a version.
pub(super) fn settled(outcome: &Outcome, what: &str) -> Result<(), CommandError> {
    match outcome {
        Outcome::Committed { .. } => Ok(()),
        Outcome::GuardFailed => {
            let detail = format!("{what} was changed by somebody else just now: look again, then repeat");
            Err(CommandError::Changed { detail, current: None })
        }
        Outcome::Unknown => Err(CommandError::Unavailable(format!(
            "etcd did not say whether it took the change: look at {what}, then repeat"
        ))),
    }
}

/// The version in force, if it is the one that the command depends on.
fn held(version: i64, how: How, what: &str) -> Result<(), CommandError> {
    match how.expected {
        Some(expected) if expected != version => Err(CommandError::Changed {
            detail: format!(
                "{what} was changed by somebody else: it is at version {version}, not {expected}"
            ),
            current: Some(version),
        }),
        _ => Ok(()),
    }
}

/// A refusal in the replicator's own words; anything else may be tried again.
fn replicator_said(error: &ReplicaError) -> CommandError {
    match error.problem() {
        Some(problem) if problem.status == 409 => CommandError::Refused(problem.detail.clone()),
        _ => CommandError::Unavailable(crate::causes::chain(error)),
    }
}

/// The node that takes `group` over: the one asked for, or the first that is ready.
pub(super) fn successor(group: &GroupStatus, to: Option<NodeName>) -> Result<NodeName, CommandError> {
    let name = &group.name;
    if let Some(node) = to {
        let there = group.nodes.iter().find(|n| n.node == node);
        // Whoever names a node where the group failed has mended it, or wants to see.
        return match there.filter(|n| !n.ready && n.reason != FAILED_HERE) {
            Some(n) => Err(CommandError::Refused(format!("{node} cannot take {name} now: {}", n.reason))),
            None => Ok(node),
        };
    }
    let mut others = group.nodes.iter().filter(|n| Some(&n.node) != group.leader.as_ref());
    let why: Vec<String> = others.clone().map(|n| format!("{}: {}", n.node, n.reason)).collect();
    others
        .find(|n| n.ready)
        .map(|n| n.node.clone())
        .ok_or_else(|| CommandError::Refused(format!("no node can take {name} now ({})", why.join("; "))))
}

impl DriverCommands {
    pub(super) fn volume(&self, name: &VolumeName) -> Result<GroupName, CommandError> {
        let holds = |g: &crate::spec::Group| g.volumes.contains_key(name);
        let spec = Arc::clone(&self.in_force.borrow());
        let found = spec.groups.iter().find(|(_, g)| holds(g)).map(|(group, _)| group.clone());
        found.ok_or_else(|| {
            let all = spec.groups.values().flat_map(|g| g.volumes.keys());
            let names: Vec<&str> = all.map(VolumeName::as_str).collect();
            CommandError::NotFound(format!("there is no volume {name}; the volumes are {}", names.join(", ")))
        })
    }

    /// The volume's verify in etcd, with its version (0: there was none).
    async fn verify_record(&self, volume: &VolumeName) -> Result<(Option<VerifyRecord>, i64), CommandError> {
        let mut all = self.etcd.asked_of_volumes().await.map_err(|e| unavailable(&e))?;
        Ok(all.verifies.remove(volume).map_or((None, 0), |(record, at)| (Some(record), at)))
    }
}

impl Commands for DriverCommands {
    fn set_mode(
        &self,
        node: NodeName,
        change: ModeChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            self.known_node(&node)?;
            let what = format!("the mode of {node}");
            let (present, version) = self.etcd.mode(&node).await.map_err(|e| unavailable(&e))?;
            held(version, how, &what)?;
            let now = crate::status::unix_seconds(std::time::SystemTime::now());
            let wish = maintenance::after(&present, &change, now).map_err(CommandError::Refused)?;
            let message = match wish.mode {
                NodeMode::Online => format!("{node} may lead groups again"),
                NodeMode::Standby => {
                    format!("{node} hands its groups over and leads none until it is online again")
                }
                NodeMode::Maintenance => {
                    format!("nothing is moved or restarted on {node} until it is online again")
                }
            };
            let message = message + &maintenance::said(&wish, now);
            let consequences = consequences::of_mode(&self.status.borrow(), &node, &wish);
            let accepted = Accepted { message, dry_run: how.dry_run, consequences };
            // A repetition changes nothing, not even the version.
            if how.dry_run || present == wish {
                return Ok(accepted);
            }
            match how.expected {
                Some(version) => settled(&self.etcd.put_mode_if(&node, &wish, version).await, &what)?,
                None => {
                    self.etcd.put_mode(&node, &wish).await.map_err(|e| unavailable(&e))?;
                }
            }
            self.history.record(None, Severity::Info, &format!("asked for: {}", accepted.message));
            let note = wish.note.as_ref().map(|note| ModeNote::of(note, now));
            let is = |n: &NodeStatus| n.name == node && n.mode == wish.mode && n.mode_note == note;
            self.shown(|status| status.nodes.iter().any(is)).await;
            Ok(accepted)
        })
    }

    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let mut known = self.group(&group)?;
            let what = format!("the target of {group}");
            // What was said a moment ago counts, whether or not this agent's status shows it yet.
            let (wish, _) = self.etcd.group_wish(&group).await.map_err(|e| unavailable(&e))?;
            known.pinned = wish.pinned.as_ref().map(|note| ModeNote::of(note, 0));
            known.disabled = wish.disabled.as_ref().map(|note| ModeNote::of(note, 0));
            if let Some(node) = &to {
                self.known_node(node)?;
            }
            let (present, version) = self.etcd.target(&group).await.map_err(|e| unavailable(&e))?;
            held(version, how, &what)?;
            let stays = |message| Ok(Accepted { message, dry_run: how.dry_run, consequences: Vec::new() });
            match (&to, &present) {
                // Repeated while the move waits or is under way: the same move.
                (None, Some(node)) => return stays(format!("{group} moves to {node} already")),
                (Some(to), Some(node)) if to == node => {
                    return stays(format!("{group} moves to {node} already"));
                }
                // A group that failed there is tried again at once.
                (Some(to), _)
                    if known.leader.as_ref() == Some(to)
                        && present.is_none()
                        && known.state != GroupState::Failed =>
                {
                    return stays(format!("{group} is on {to} already"));
                }
                _ => {}
            }
            // To try it again where it is, or to take a move back, interrupts nothing that somebody wants to stay.
            let stays_here = to.is_some() && to == known.leader && known.disabled.is_none();
            if let Some(why) = super::placement::unmovable(&known).filter(|_| !stays_here) {
                return Err(CommandError::Refused(why));
            }
            // The leader itself is asked for while a move waits: that takes the move back.
            let target = match to {
                Some(node) if known.leader.as_ref() == Some(&node) => node,
                to => successor(&known, to)?,
            };
            let consequences = consequences::of_move(&known, &target);
            let verb = match known.leader.as_ref() == Some(&target) {
                true if known.state == GroupState::Failed => "is tried again on",
                true => "stays on",
                false => "moves to",
            };
            let message = format!("{group} {verb} {target}");
            let accepted = Accepted { message, dry_run: how.dry_run, consequences };
            if how.dry_run {
                return Ok(accepted);
            }
            match how.expected {
                Some(version) => {
                    settled(&self.etcd.put_target_if(&group, Some(&target), version).await, &what)?;
                }
                None => {
                    self.etcd.put_target(&group, Some(&target)).await.map_err(|e| unavailable(&e))?;
                }
            }
            self.history.record(Some(&group), Severity::Info, &format!("asked for: {}", accepted.message));
            // It may have arrived before anybody saw it go.
            self.shown_of(&group, |g| g.target.as_ref().or(g.leader.as_ref()) == Some(&target)).await;
            Ok(accepted)
        })
    }

    fn place_group(
        &self,
        group: GroupName,
        change: PlaceChange,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(self.ask_to_place(group, change, how))
    }

    fn fence(
        &self,
        node: NodeName,
        action: Action,
        who: String,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(self.ask_to_fence(node, action, who, how))
    }

    fn fence_test(&self) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.fencer.test();
        let message = format!("{} asks every fence device whether it answers", self.me);
        Box::pin(std::future::ready(Ok(Accepted { message, ..Accepted::default() })))
    }

    fn recover(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let known = self.group(&group)?;
            let message = format!("{} trusts what etcd says about {group} now", self.me);
            let consequences = consequences::of_recovery(&known, &self.me);
            let accepted = Accepted { message, dry_run: how.dry_run, consequences };
            if how.dry_run {
                return Ok(accepted);
            }
            self.history.record(Some(&group), Severity::Warning, &format!("asked for: {}", accepted.message));
            let gone = |_| CommandError::Internal("the owner loop has ended".into());
            self.back.send(Back::Group(group, CoreEvent::Recover)).await.map_err(gone)?;
            Ok(accepted)
        })
    }

    fn restore(
        &self,
        group: GroupName,
        request: Restore,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(self.restore_here(group, request, how))
    }

    fn write_back(&self, by: String, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(DriverCommands::write_back(self, by, how))
    }

    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>> {
        Box::pin(async move {
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            self.etcd.events(last).await.map_err(|e| unavailable(&e))
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.history.subscribe()
    }

    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>> {
        Box::pin(async move {
            let found = self.etcd.spec().await.map_err(|e| unavailable(&e))?;
            let (text, version) = found.ok_or_else(|| {
                CommandError::NotFound(
                    "etcd holds no specification yet; start an agent with --spec FILE".into(),
                )
            })?;
            Ok(SpecDocument { text, version })
        })
    }

    fn core_alive(&self) -> bool {
        let ran = Instant(self.alive.load(Ordering::Relaxed));
        clock::now().since(ran) < ALIVE_WITHIN
    }

    fn mode(&self, node: NodeName) -> BoxFuture<'_, Result<Wish<ModeWish>, CommandError>> {
        Box::pin(async move {
            self.known_node(&node)?;
            let (value, version) = self.etcd.mode(&node).await.map_err(|e| unavailable(&e))?;
            Ok(Wish { value, version })
        })
    }

    fn target(&self, group: GroupName) -> BoxFuture<'_, Result<Wish<Option<NodeName>>, CommandError>> {
        Box::pin(async move {
            self.group(&group)?;
            let (value, version) = self.etcd.target(&group).await.map_err(|e| unavailable(&e))?;
            Ok(Wish { value, version })
        })
    }

    fn cancel_move(&self, group: GroupName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let known = self.group(&group)?;
            let what = format!("the target of {group}");
            let (present, version) = self.etcd.target(&group).await.map_err(|e| unavailable(&e))?;
            held(version, how, &what)?;
            let answer = |message| Accepted { message, dry_run: how.dry_run, consequences: Vec::new() };
            let Some(target) = present else { return Ok(answer(format!("no move of {group} waits"))) };
            if matches!(known.state, GroupState::HandingOver | GroupState::Stopping) {
                return Err(CommandError::Refused(format!(
                    "{group} is being handed over to {target} already; move it back when it has arrived"
                )));
            }
            let accepted = answer(format!("{group} does not move to {target}"));
            if how.dry_run {
                return Ok(accepted);
            }
            // Guarded in any case: a move asked for meanwhile is another one.
            settled(&self.etcd.put_target_if(&group, None, version).await, &what)?;
            self.history.record(Some(&group), Severity::Info, &format!("asked for: {}", accepted.message));
            self.shown_of(&group, |g| g.target.is_none()).await;
            Ok(accepted)
        })
    }

    fn verify(
        &self,
        volume: VolumeName,
        repair: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let group = self.volume(&volume)?;
            let (mut record, mut version) = self.verify_record(&volume).await?;
            // One that has ended already is written down within a second or two: nobody has to ask again.
            let patience = tokio::time::Instant::now() + WRITTEN_DOWN;
            while record.as_ref().is_some_and(|r| r.is_open() && self.has_ended(&volume, r.id))
                && tokio::time::Instant::now() < patience
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
                (record, version) = self.verify_record(&volume).await?;
            }
            if let Some(open) = record.filter(VerifyRecord::is_open) {
                let detail = format!(
                    "a verify of {volume} is running, asked for by {}: wait for it, or stop it with 'baton volume \
                     verify {volume} --stop'",
                    open.by
                );
                return Err(CommandError::Refused(detail));
            }
            let message = match repair {
                true => {
                    format!("the replicas of {volume} are compared, what differs is copied from the primary")
                }
                false => format!("the replicas of {volume} are compared"),
            };
            let accepted = Accepted { message, dry_run: how.dry_run, consequences: Vec::new() };
            if how.dry_run {
                return Ok(accepted);
            }
            let record = VerifyRecord {
                // Readers of JSON lose more than 53 bits.
                id: rand::random::<u64>() >> 11,
                repair,
                by: self.me.to_string(),
                asked_at: crate::status::unix_seconds(std::time::SystemTime::now()),
                ..VerifyRecord::default()
            };
            let what = format!("the verify of {volume}");
            settled(&self.etcd.put_verify(&volume, &record, version).await, &what)?;
            self.history.record(Some(&group), Severity::Info, &format!("asked for: {}", accepted.message));
            Ok(accepted)
        })
    }

    fn stop_verify(&self, volume: VolumeName, how: How) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let group = self.volume(&volume)?;
            let answer = |message| Accepted { message, dry_run: how.dry_run, consequences: Vec::new() };
            let what = format!("the verify of {volume}");
            let mut rounds = 0;
            loop {
                let (record, version) = self.verify_record(&volume).await?;
                let Some(open) = record.filter(|r| r.is_open() && !r.stop) else {
                    return Ok(answer(format!("no verify of {volume} runs")));
                };
                let accepted =
                    answer(format!("the verify of {volume} is stopped; what it found stays marked"));
                if how.dry_run {
                    return Ok(accepted);
                }
                let record = VerifyRecord { stop: true, ..open };
                let outcome = self.etcd.put_verify(&volume, &record, version).await;
                rounds += 1;
                // What it has found so far was written down meanwhile, perhaps that it has ended: nobody has to ask again.
                if outcome == Outcome::GuardFailed && rounds < STOP_ROUNDS {
                    continue;
                }
                settled(&outcome, &what)?;
                self.history.record(
                    Some(&group),
                    Severity::Info,
                    &format!("asked for: {}", accepted.message),
                );
                return Ok(accepted);
            }
        })
    }

    fn pause_resync(
        &self,
        volume: VolumeName,
        paused: bool,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(async move {
            let group = self.volume(&volume)?;
            let mut all = self.etcd.asked_of_volumes().await.map_err(|e| unavailable(&e))?;
            let (present, version) = all.pauses.remove(&volume).unwrap_or_default();
            let message = match (paused, present.paused == paused) {
                (true, false) => format!("resync of {volume} is paused"),
                (true, true) => format!("resync of {volume} is paused already"),
                (false, false) => format!("resync of {volume} goes on"),
                (false, true) => format!("resync of {volume} is not paused"),
            };
            let warn = || format!("a replica of {volume} that is not in sync stays so and cannot take over");
            let consequences = paused.then(warn).into_iter().collect();
            let accepted = Accepted { message, dry_run: how.dry_run, consequences };
            if how.dry_run || present.paused == paused {
                return Ok(accepted);
            }
            let at = crate::status::unix_seconds(std::time::SystemTime::now());
            let record = PauseRecord { paused, by: self.me.to_string(), at };
            let what = format!("the pause of {volume}'s resync");
            settled(&self.etcd.put_pause(&volume, &record, version).await, &what)?;
            self.history.record(Some(&group), Severity::Info, &format!("asked for: {}", accepted.message));
            Ok(accepted)
        })
    }

    fn resolve(
        &self,
        volume: VolumeName,
        request: Resolve,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(self.ask_to_resolve(volume, request, how))
    }

    fn release(
        &self,
        volume: VolumeName,
        snapshot: String,
        node: Option<NodeName>,
        how: How,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        Box::pin(self.ask_to_release(volume, snapshot, node, how))
    }

    fn export(&self, volume: VolumeName) -> BoxFuture<'_, Result<ExportStatus, CommandError>> {
        Box::pin(async move {
            let group = self.volume(&volume)?;
            let export = self.replica.export(&volume).await.map_err(|e| replicator_said(&e))?;
            let text = format!("a snapshot of volume {volume} is served for backup on {}", self.me);
            self.history.record(Some(&group), Severity::Info, &text);
            Ok(export)
        })
    }

    fn end_export(&self, volume: VolumeName) -> BoxFuture<'_, Result<(), CommandError>> {
        Box::pin(async move {
            self.volume(&volume)?;
            self.replica.end_export(&volume).await.map_err(|e| replicator_said(&e))
        })
    }

    fn apply_spec(&self, apply: Apply) -> BoxFuture<'_, Result<Applied, ApplyError>> {
        Box::pin(self.apply(apply))
    }

    fn spec_history(&self) -> BoxFuture<'_, Result<Vec<SpecVersion>, CommandError>> {
        Box::pin(self.spec_versions())
    }

    fn notify_test(&self, target: Option<String>) -> BoxFuture<'_, Result<Vec<TestOutcome>, CommandError>> {
        Box::pin(async move {
            let names: Vec<String> = self.notifier.board().into_iter().map(|s| s.target).collect();
            if names.is_empty() {
                let text = "the specification names nobody to tell; give it a target under notify".to_owned();
                return Err(CommandError::NotFound(text));
            }
            if let Some(name) = target.as_ref().filter(|t| !names.contains(t)) {
                let text = format!("there is no target {name} under notify; there is {}", names.join(", "));
                return Err(CommandError::NotFound(text));
            }
            Ok(self.notifier.test(target).await)
        })
    }
}
