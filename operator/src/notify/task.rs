//! The task that watches and tells: feeds the targets' cores with snapshots, events and etcd's keys, and carries out what
//! they decide. Nothing in the agent waits for it; if it is slow, it sees fewer snapshots.

use super::conditions::conditions;
use super::core::{Action, Answer, Core, Look, Settings};
use super::deliver::{Failure, deliver, words};
use super::message::{Message, severity_word};
use super::news::{News, Reporter};
use super::spool::Spool;
use super::text::test_message;
use super::worker::{Board, Mailbox, now};
use crate::core::record::Outcome;
use crate::etcd::Etcd;
use crate::heartbeat::clock;
use crate::spec::{NotifyTarget, Spec};
use crate::status::{ClusterStatus, Event, NotificationStatus};
use baton_replicator::types::{GroupName, Instant, NodeName};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use utoipa::ToSchema;

/// Time passes for the cores at least this often.
const TICK: Duration = Duration::from_millis(500);
/// The keys are read this often: often enough that a node knows before its turn comes what an earlier one did.
const READ: Duration = Duration::from_secs(5);
/// Tests asked for and not begun.
const TESTS: usize = 8;
/// A person waits for a test; the API's own bound is 10 s.
const TEST: Duration = Duration::from_secs(8);

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestOutcome {
    /// The target.
    pub target: String,
    /// The way there, in words.
    pub channel: String,
    /// The other side has taken it.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
}

/// What the task works with.
pub struct Parts {
    /// This node.
    pub me: NodeName,
    /// The specification in force, now and later.
    pub spec: watch::Receiver<Arc<Spec>>,
    /// What must survive a restart.
    pub state_dir: PathBuf,
    /// For claims.
    pub etcd: Etcd,
    /// Snapshots.
    pub status: watch::Receiver<ClusterStatus>,
    /// This node's history.
    pub events: broadcast::Receiver<Event>,
}

/// The running task's other end.
#[derive(Clone)]
pub struct Notifier {
    tests: mpsc::Sender<(Option<String>, oneshot::Sender<Vec<TestOutcome>>)>,
    board: watch::Receiver<Vec<NotificationStatus>>,
}

impl Notifier {
    /// Starts to watch and tell.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let (tests, tests_ear) = mpsc::channel(TESTS);
        let (board, board_ear) = watch::channel(Vec::new());
        let task = Task {
            me: parts.me,
            spec: Arc::clone(&parts.spec.borrow()),
            state_dir: parts.state_dir,
            etcd: parts.etcd,
            board: Arc::new(board),
            targets: Vec::new(),
            reporter: Reporter::default(),
            read: None,
        };
        tokio::spawn(task.run(parts.status, parts.events, tests_ear, parts.spec));
        Self { tests, board: board_ear }
    }

    /// How the deliveries go.
    #[must_use]
    pub fn board(&self) -> Vec<NotificationStatus> {
        self.board.borrow().clone()
    }

    /// Delivers a test message to one target or all, past queue, threshold and limits. Empty if there is no such target.
    pub async fn test(&self, target: Option<String>) -> Vec<TestOutcome> {
        let (answer, outcome) = oneshot::channel();
        if self.tests.send((target, answer)).await.is_err() {
            return Vec::new();
        }
        outcome.await.unwrap_or_default()
    }
}

struct Target {
    name: String,
    core: Core,
    mailbox: Arc<Mailbox>,
    worker: JoinHandle<()>,
    /// What the disk holds for the core.
    kept: Vec<Message>,
}

/// Whom a target asks before it tells.
trait Arbiter: Send {
    fn ask(&mut self, action: &Action) -> BoxFuture<'_, Answer>;
}

/// etcd, in one round; one silence is enough for it.
struct Round {
    etcd: Etcd,
    target: String,
    answers: bool,
}

impl Arbiter for Round {
    fn ask(&mut self, action: &Action) -> BoxFuture<'_, Answer> {
        let action = action.clone();
        Box::pin(async move {
            let answer =
                if self.answers { ask(&self.etcd, &self.target, &action).await } else { Answer::Unknown };
            self.answers &= answer != Answer::Unknown;
            answer
        })
    }
}

impl Target {
    /// Carries out what the core decided. Before it asks, the disk holds what the answer may let out: whatever this node
    /// has claimed is told, though it die on the next line. The worst that can come of it is that something is told twice.
    async fn carry_out(&mut self, actions: Vec<Action>, status: &ClusterStatus, arbiter: &mut dyn Arbiter) {
        let look = || Look { now: clock::now(), at: &status.at, status };
        let (sends, asks): (Vec<_>, Vec<_>) =
            actions.into_iter().partition(|action| matches!(action, Action::Send(_)));
        for send in sends {
            if let Action::Send(message) = send {
                self.mailbox.put(*message).await;
            }
        }
        if !asks.is_empty() {
            self.keep(self.core.intents(&asks, look())).await;
        }
        for action in asks {
            let answer = arbiter.ask(&action).await;
            self.core.answered(&action, answer, look());
        }
        self.keep(self.core.unsent().to_vec()).await;
    }

    async fn keep(&mut self, unsent: Vec<Message>) {
        if unsent != self.kept {
            self.kept.clone_from(&unsent);
            self.mailbox.keep_unsent(unsent).await;
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

struct Task {
    me: NodeName,
    spec: Arc<Spec>,
    state_dir: PathBuf,
    etcd: Etcd,
    board: Arc<Board>,
    targets: Vec<Target>,
    reporter: Reporter,
    read: Option<Instant>,
}

impl Task {
    async fn run(
        mut self,
        mut status: watch::Receiver<ClusterStatus>,
        mut events: broadcast::Receiver<Event>,
        mut tests: mpsc::Receiver<(Option<String>, oneshot::Sender<Vec<TestOutcome>>)>,
        mut specs: watch::Receiver<Arc<Spec>>,
    ) {
        self.set_up();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // The agent's end: its worker tasks end with it.
                changed = status.changed() => if changed.is_err() { return },
                Some((target, answer)) = tests.recv() => {
                    self.test(target, answer);
                    continue;
                }
                Ok(()) = specs.changed() => {
                    let spec = Arc::clone(&specs.borrow_and_update());
                    let before = std::mem::replace(&mut self.spec, spec);
                    // Limits and hold-downs start anew only where whom to tell has changed.
                    if targets(&before) != targets(&self.spec) {
                        self.set_up();
                    }
                    continue;
                }
            }
            let snapshot = status.borrow_and_update().clone();
            let mut news = self.heard(&mut events);
            news.extend(self.reporter.on_status(&snapshot));
            self.look(&snapshot, &news).await;
        }
    }

    /// Makes the targets of the specification; cores learn from etcd what has been told, letter boxes from disk.
    fn set_up(&mut self) {
        self.targets.clear();
        let line = |(name, t): (&String, &NotifyTarget)| {
            let old = self.board.borrow().iter().find(|s| s.target == *name).cloned();
            NotificationStatus {
                target: name.clone(),
                channel: words(&t.channel),
                severity: severity_word(t.severity).into(),
                groups: hears(&self.spec, name, t).into_iter().collect(),
                ..old.unwrap_or_default()
            }
        };
        let lines = self.spec.notify.iter().map(line).collect();
        self.board.send_replace(lines);
        let now = clock::now();
        for (name, target) in &self.spec.notify {
            let spool = Spool::open(&self.state_dir, name).inspect_err(
                |error| tracing::warn!(target_name = %name, %error, "notifications cannot be kept on disk"),
            );
            let mailbox = Arc::new(Mailbox::new(
                name,
                target.channel.clone(),
                self.me.clone(),
                spool.ok(),
                Arc::clone(&self.board),
            ));
            let mut core = Core::new(
                Settings {
                    cluster: self.spec.cluster.clone(),
                    me: self.me.clone(),
                    groups: hears(&self.spec, name, target),
                    whole: target.groups.is_empty(),
                    severity: target.severity,
                    alert_every: target.alert_every,
                    recovery: target.recovery,
                    hold: target.hold,
                    max_per_hour: target.max_per_hour,
                },
                now,
            );
            core.restore(mailbox.unsent(), now);
            let worker = tokio::spawn(Arc::clone(&mailbox).run());
            self.targets.push(Target { name: name.clone(), core, mailbox, worker, kept: Vec::new() });
        }
        self.read = None;
    }

    fn heard(&mut self, events: &mut broadcast::Receiver<Event>) -> Vec<News> {
        let now = clock::now();
        let mut news = Vec::new();
        loop {
            match events.try_recv() {
                Ok(event) => news.extend(self.reporter.on_event(&event, now)),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "entries of the history came too fast to be told");
                }
                Err(_) => return news,
            }
        }
    }

    async fn look(&mut self, status: &ClusterStatus, news: &[News]) {
        if self.targets.is_empty() {
            return;
        }
        let with_volumes: BTreeSet<GroupName> =
            self.spec.groups.iter().filter(|(_, g)| !g.volumes.is_empty()).map(|(n, _)| n.clone()).collect();
        let holds = conditions(status, &with_volumes);
        let now = clock::now();
        let read = status.etcd.reachable && self.read.is_none_or(|at| now.since(at) >= READ);
        if read {
            self.read = Some(now);
        }
        // One silence of etcd is enough for this round.
        let mut answers = true;
        for target in &mut self.targets {
            let mut actions = Vec::new();
            if read && answers {
                match self.etcd.claims(&target.name).await {
                    Ok(claims) => actions.extend(target.core.claims(&claims, clock::now())),
                    Err(_) => answers = false,
                }
            }
            let look = Look { now: clock::now(), at: &status.at, status };
            actions.extend(target.core.look(look, &holds, news));
            let mut round = Round { etcd: self.etcd.clone(), target: target.name.clone(), answers };
            target.carry_out(actions, status, &mut round).await;
            answers = round.answers;
        }
    }

    /// In tasks of their own: a person who waits must not stop the others being told.
    fn test(&self, target: Option<String>, answer: oneshot::Sender<Vec<TestOutcome>>) {
        let chosen = self.targets.iter().filter(|t| target.as_ref().is_none_or(|name| *name == t.name));
        let attempts: Vec<_> = chosen
            .map(|t| {
                let (mailbox, name) = (Arc::clone(&t.mailbox), t.name.clone());
                let (cluster, me) = (self.spec.cluster.clone(), self.me.clone());
                async move {
                    let message = test_message(&cluster, &me, &name, &now());
                    let attempt = deliver(mailbox.channel(), &message, &me);
                    let result = match tokio::time::timeout(TEST, attempt).await {
                        Ok(result) => result,
                        Err(_) => {
                            let text = format!("no answer within {} s", TEST.as_secs());
                            Err(Failure { text, fatal: false })
                        }
                    };
                    TestOutcome {
                        target: name,
                        channel: words(mailbox.channel()),
                        delivered: result.is_ok(),
                        error: result.err().map(|f| f.text),
                    }
                }
            })
            .collect();
        tokio::spawn(async move { answer.send(futures::future::join_all(attempts).await) });
    }
}

async fn ask(etcd: &Etcd, target: &str, action: &Action) -> Answer {
    let outcome = match action {
        Action::Claim(claim, expected) => etcd.claim(target, claim, *expected).await,
        Action::Once(key) => etcd.claim_once(target, key).await,
        Action::Release(key) => etcd.release_claim(target, key).await,
        Action::Send(_) => return Answer::Unknown,
    };
    match outcome {
        Outcome::Committed { revision } => Answer::Won(revision),
        Outcome::GuardFailed => Answer::Lost,
        Outcome::Unknown => Answer::Unknown,
    }
}

/// The groups that a target hears about: those that name it or name nobody, narrowed by its own list.
fn hears(spec: &Spec, name: &str, target: &NotifyTarget) -> BTreeSet<GroupName> {
    let chosen = |(group, g): (&GroupName, &crate::spec::Group)| {
        let named = g.notify.is_empty() || g.notify.iter().any(|n| n == name);
        (named && (target.groups.is_empty() || target.groups.contains(group))).then(|| group.clone())
    };
    spec.groups.iter().filter_map(chosen).collect()
}

/// What the targets are made of.
fn targets(spec: &Spec) -> Vec<(&String, &NotifyTarget, BTreeSet<GroupName>)> {
    spec.notify.iter().map(|(name, t)| (name, t, hears(spec, name, t))).collect()
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
