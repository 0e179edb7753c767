//! The groups' own health checks, made while the group serves here; those of a gateway always, and those that a hot
//! standby can be judged by on standbys, too.
//!
//! A task per check makes it, lets [`Judge`] say what the outcome means, and keeps the check's line on the [`Board`] that
//! status shows. What follows from a failure is the runtime's decision. If a task hangs, its probe is bounded.

mod prober;

use super::history::rfc3339;
use super::owner::Back;
use crate::core::checks::{Judge, Limits, News, OnFailure, Outcome, State, phase};
use crate::core::group::Severity;
use crate::core::runtime::{CheckFailure, RunEvent};
use crate::docker::Engine;
use crate::heartbeat::clock;
use crate::spec::{Check, CheckProbe, Group};
use crate::status::{CheckState, CheckStatus, ClusterStatus, GroupState};
use baton_replicator::types::{GroupName, Instant, NodeName};
use prober::Prober;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Least pause between two checks, whatever a specification of an early release says.
const LEAST: Duration = Duration::from_millis(50);

/// What the checks of all groups found last, and what they have to know of services.
#[derive(Clone, Debug, Default)]
pub(super) struct Board(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// By group and name.
    lines: BTreeMap<(GroupName, String), Line>,
    /// When services last failed or were started again, by group and service.
    disturbed: BTreeMap<GroupName, BTreeMap<String, Instant>>,
}

#[derive(Clone, Debug)]
struct Line {
    status: CheckStatus,
    ended: Instant,
}

impl Board {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the group's runtime knows (see [`Runtime::disturbed`](crate::core::runtime::Runtime::disturbed)).
    pub(super) fn disturbed(&self, group: &GroupName, services: &BTreeMap<String, Instant>) {
        // Asked at every tick, and nearly always there is nothing.
        if services.is_empty() {
            return;
        }
        self.with(|shared| {
            if shared.disturbed.get(group) != Some(services) {
                shared.disturbed.insert(group.clone(), services.clone());
            }
        });
    }

    /// When one of these services last failed or was started again.
    fn last_disturbed(&self, group: &GroupName, services: &BTreeSet<String>) -> Option<Instant> {
        self.with(|shared| {
            let of = shared.disturbed.get(group)?;
            of.iter().filter(|(service, _)| services.contains(*service)).map(|(_, at)| *at).max()
        })
    }

    /// Puts the lines into a snapshot, and into its advice what a person has to see to.
    pub(super) fn put_into(&self, snapshot: &mut ClusterStatus, now: Instant) {
        let lines = self.with(|shared| shared.lines.clone());
        for ((group, _), line) in lines {
            let Some(found) = snapshot.groups.iter_mut().find(|g| g.name == group) else { continue };
            let age_ms = Some(super::snapshot::millis(now.since(line.ended)));
            let check = CheckStatus { age_ms, ..line.status };
            if check.state == CheckState::Alarm {
                let why = check.last_error.as_deref().unwrap_or("it does not pass");
                snapshot.advice.push(format!(
                    "group {group}: {}: {why}; neither a restart nor another node would help, so nothing is moved",
                    check.name
                ));
            }
            found.checks.push(check);
        }
    }
}

/// What a group's checks need to know of where they run.
pub(super) struct Place<'a> {
    pub(super) me: &'a NodeName,
    /// This node's own address: a hot standby is asked there.
    pub(super) own: Option<IpAddr>,
    pub(super) engine: &'a Engine,
    pub(super) status: &'a watch::Receiver<ClusterStatus>,
    pub(super) board: &'a Board,
}

/// Starts a task per check. They end when aborted, or with the process.
pub(super) fn start(
    group: &GroupName,
    spec: &Group,
    place: &Place<'_>,
    back: &mpsc::Sender<Back>,
) -> Vec<JoinHandle<()>> {
    let hot = super::unit::hot(spec).next().is_some();
    let names = names(&spec.checks);
    let start = |(i, (check, name)): (usize, (&Check, String))| {
        let task = Task {
            group: group.clone(),
            name,
            me: place.me.clone(),
            limits: Limits {
                rise: check.rise,
                fall: check.retries,
                start_period: check.start_period,
                start_timeout: spec.start_timeout,
                on_failure: check.on_failure,
            },
            address: spec.addresses.first().map(|a| a.address),
            own: place.own,
            hot: hot && judges_standbys(check, spec),
            prober: Prober::of(check, group, i, place.engine),
            about: about(check.service.as_ref(), spec),
            check: check.clone(),
            status: place.status.clone(),
            board: place.board.clone(),
            back: back.clone(),
        };
        tokio::spawn(task.run())
    };
    spec.checks.iter().zip(names).enumerate().map(start).collect()
}

/// It says something about what runs on a standby, and changes nothing there.
fn judges_standbys(check: &Check, group: &Group) -> bool {
    let hot = |service: &String| super::unit::hot(group).any(|h| h == service);
    match &check.probe {
        CheckProbe::Http { .. } | CheckProbe::Tcp { .. } => {
            check.service.as_ref().map_or(group.services.values().all(|s| s.runs_on_standbys()), hot)
        }
        CheckProbe::Exec { service, .. } | CheckProbe::Docker { service } => hot(service),
        CheckProbe::Sql { .. } | CheckProbe::Write { .. } | CheckProbe::Ping { .. } => false,
    }
}

/// The services that it takes for the check to pass: the one it blames with all it depends on; without one, all.
fn about(blamed: Option<&String>, group: &Group) -> BTreeSet<String> {
    let Some(blamed) = blamed else { return group.services.keys().cloned().collect() };
    let mut found = BTreeSet::from([blamed.clone()]);
    let mut next = vec![blamed];
    while let Some(service) = next.pop().and_then(|name| group.services.get(name)) {
        next.extend(service.depends_on.keys().filter(|on| found.insert((*on).clone())));
    }
    found
}

/// A name for each, those that are made up told apart by a number.
fn names(checks: &[Check]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for check in checks {
        let plain = check.name.clone().unwrap_or_else(|| match &check.probe {
            CheckProbe::Http { url, .. } => format!("check {url}"),
            CheckProbe::Tcp { address } => format!("check {address}"),
            CheckProbe::Exec { service, .. } => format!("check in {service}"),
            CheckProbe::Sql { address, .. } => format!("sql {address}"),
            CheckProbe::Docker { service } => format!("docker {service}"),
            CheckProbe::Write { service, path, .. } => format!("write {service}:{}", path.display()),
            CheckProbe::Ping { address, .. } => format!("ping {address}"),
        });
        let numbered = (2..).map(|n| format!("{plain} ({n})"));
        let name = std::iter::once(plain.clone()).chain(numbered).find(|name| !all.contains(name));
        all.extend(name);
    }
    all
}

fn kind(probe: &CheckProbe) -> &'static str {
    match probe {
        CheckProbe::Http { .. } => "http",
        CheckProbe::Tcp { .. } => "tcp",
        CheckProbe::Exec { .. } => "exec",
        CheckProbe::Sql { .. } => "sql",
        CheckProbe::Docker { .. } => "docker",
        CheckProbe::Write { .. } => "write",
        CheckProbe::Ping { .. } => "ping",
    }
}

/// Where the group is, as far as a check is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// It serves here.
    Here,
    /// It stands by here, hot.
    Hot,
    /// Neither; or it is not known.
    Elsewhere,
}

struct Task {
    group: GroupName,
    name: String,
    me: NodeName,
    check: Check,
    limits: Limits,
    address: Option<IpAddr>,
    own: Option<IpAddr>,
    /// Made on standbys, too.
    hot: bool,
    prober: Prober,
    /// Services without which it fails.
    about: BTreeSet<String>,
    status: watch::Receiver<ClusterStatus>,
    board: Board,
    back: mpsc::Sender<Back>,
}

impl Drop for Task {
    /// Its line goes with it: a changed specification begins new ones.
    fn drop(&mut self) {
        self.wipe();
    }
}

impl Task {
    async fn run(mut self) {
        let interval = self.check.interval.max(LEAST);
        let first = phase(&format!("{}/{}", self.group, self.name), self.check.jitter);
        let mut every = tokio::time::interval_at(tokio::time::Instant::now() + first, interval);
        // Skip keeps its place in the interval.
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut place = Where::Elsewhere;
        let mut judge = Judge::new(self.limits, clock::now());
        let mut answered = false;
        loop {
            every.tick().await;
            let now_at = self.place();
            if now_at != place {
                (place, judge) = (now_at, Judge::new(self.limits, clock::now()));
                answered = false;
                self.wipe();
            }
            if place == Where::Elsewhere {
                continue;
            }
            let address = if place == Where::Hot { self.own } else { self.address };
            let began = clock::now();
            let outcome = self.prober.once(&self.check, address).await;
            let now = clock::now();
            if self.place() != place {
                continue;
            }
            // A standby's readiness is judged by what is.
            if place == Where::Here
                && let Some(at) = self.board.last_disturbed(&self.group, &self.about)
            {
                judge.spare(at);
            }
            let before = judge.state();
            let news = judge.take(&outcome, now);
            self.show(&judge, before, &outcome, now, now.since(began));
            if matches!(self.check.probe, CheckProbe::Ping { .. }) {
                let reached = judge.state().0 == State::Passing;
                self.tell(Back::Gateway(self.group.clone(), self.name.clone(), reached)).await;
            }
            if self.is_first_answer(place, &outcome, &mut answered) {
                self.tell(Back::Answered(self.group.clone(), now)).await;
            }
            if let Some(news) = news {
                self.report(news, place).await;
            }
        }
    }

    /// The group's first good answer since it serves here, for its timeline. A gateway's says nothing of the group.
    fn is_first_answer(&self, place: Where, outcome: &Outcome, answered: &mut bool) -> bool {
        let ping = matches!(self.check.probe, CheckProbe::Ping { .. });
        let good = place == Where::Here && !ping && matches!(outcome, Outcome::Good);
        good && !std::mem::replace(answered, true)
    }

    /// A gateway is asked wherever the group may be.
    fn place(&self) -> Where {
        if matches!(self.check.probe, CheckProbe::Ping { .. }) {
            return Where::Here;
        }
        let status = self.status.borrow();
        let Some(group) = status.groups.iter().find(|g| g.name == self.group) else {
            return Where::Elsewhere;
        };
        let mine = group.nodes.iter().find(|n| n.node == self.me).map(|n| n.state);
        if group.leader.as_ref() == Some(&self.me) {
            if group.state == GroupState::Serving { Where::Here } else { Where::Elsewhere }
        } else if self.hot && mine == Some(GroupState::Standby) {
            Where::Hot
        } else {
            Where::Elsewhere
        }
    }

    fn wipe(&self) {
        crate::metrics::live().check_ended(self.group.as_str(), &self.name);
        self.board.with(|shared| shared.lines.remove(&(self.group.clone(), self.name.clone())));
    }

    fn show(&self, judge: &Judge, before: (State, Instant), outcome: &Outcome, now: Instant, took: Duration) {
        let (last_error, ok) = match outcome {
            Outcome::Good => (None, Some(true)),
            Outcome::Bad(why) | Outcome::Incurable(why) => (Some(why.clone()), Some(false)),
            Outcome::Unknown(why) => (Some(why.clone()), None),
        };
        let state = match judge.state().0 {
            State::Starting => CheckState::Starting,
            State::Passing => CheckState::Passing,
            State::Failing => CheckState::Failing,
            // Nothing is ever done about a gateway, so there is nothing to be alarmed about.
            State::Alarm if matches!(self.check.probe, CheckProbe::Ping { .. }) => CheckState::Failing,
            State::Alarm => CheckState::Alarm,
        };
        let (group, name) = (self.group.as_str(), &self.name);
        crate::metrics::live().check(group, name, ok, took);
        crate::metrics::live().check_state(group, name, state);
        if let Some(why) = &last_error {
            tracing::debug!(%group, check = name, "{why}");
        }
        let ping = matches!(self.check.probe, CheckProbe::Ping { .. });
        let word = if ping { "prefer" } else { self.check.on_failure.word() };
        let changed = judge.state() != before;
        self.board.with(|shared| {
            let since =
                shared.lines.get(&(self.group.clone(), name.clone())).map(|line| line.status.since.clone());
            let status = CheckStatus {
                name: name.clone(),
                kind: kind(&self.check.probe).into(),
                service: self.check.service.clone(),
                on_failure: word.into(),
                state,
                since: since.filter(|_| !changed).unwrap_or_else(|| rfc3339(SystemTime::now())),
                last_error,
                unknown: ok.is_none(),
                duration_ms: Some(super::snapshot::millis(took)),
                age_ms: Some(0),
            };
            shared.lines.insert((self.group.clone(), name.clone()), Line { status, ended: now });
        });
    }

    async fn report(&self, news: News, place: Where) {
        let name = &self.name;
        let ping = matches!(self.check.probe, CheckProbe::Ping { .. });
        let on_failure = self.check.on_failure;
        let (event, run) = match news {
            News::Passes(State::Starting) => (None, Some(RunEvent::CheckPassed(name.clone()))),
            News::Passes(_) => {
                let text = format!("{name}: passes again");
                (Some((Severity::Info, text)), Some(RunEvent::CheckPassed(name.clone())))
            }
            News::Fails(why) | News::StillFails(why) => {
                let text = format!("{name}: fails: {why}; {}", self.consequence(place));
                (Some((Severity::Warning, text)), (!ping).then(|| self.failure(on_failure)))
            }
            News::Alarm(_) if ping => (None, None),
            News::Alarm(why) => {
                let text = format!("{name}: {why}; nothing is restarted or moved, a person has to see to it");
                // A standby that it concerns is not ready, though.
                let run = (place == Where::Hot).then(|| self.failure(OnFailure::Alarm));
                (Some((Severity::Critical, text)), run)
            }
        };
        if let Some((severity, text)) = event {
            self.tell(Back::Told(self.group.clone(), severity, text)).await;
        }
        if let Some(run) = run {
            self.tell(Back::Check(self.group.clone(), run)).await;
        }
    }

    fn failure(&self, on_failure: OnFailure) -> RunEvent {
        let (check, service) = (self.name.clone(), self.check.service.clone());
        RunEvent::CheckFailed(CheckFailure { check, service, on_failure })
    }

    /// What follows, in words.
    fn consequence(&self, place: Where) -> String {
        if matches!(self.check.probe, CheckProbe::Ping { .. }) {
            return "a node that reaches it is preferred".into();
        }
        match (self.check.on_failure, &self.check.service) {
            (OnFailure::Restart, Some(service)) => format!("restarts {service}"),
            (OnFailure::Restart, None) => "restarts the group's services".into(),
            (OnFailure::Move, _) if place == Where::Here => "the group should move".into(),
            (OnFailure::Move | OnFailure::Alarm, _) => "nothing is done about it here".into(),
        }
    }

    async fn tell(&self, back: Back) {
        // The owner ends with the process.
        let _ = self.back.send(back).await;
    }
}

#[cfg(test)]
mod tests;
