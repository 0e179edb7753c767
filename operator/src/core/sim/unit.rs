//! One group on one node: leadership, runtime and heartbeats put together in the order the driver does it.
//!
//! Order of effects: persist, then tell the heartbeats, then act. A durable promise or release is on disk
//! before any heartbeat speaks of it.

use crate::core::group::{Action, EtcdFacts, Event, Facts, GroupConfig, GroupCore};
use crate::core::promises::{HeartbeatCore, Intent};
use crate::core::record::Durable;
use crate::core::rules::Rules;
use crate::core::runtime::{RunEvent, RunReport, Runtime, RuntimeConfig, Step};
use baton_replicator::types::{GroupName, Instant};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Rounds of "the intent changed, so look again" per turn: campaigning and leading need two.
const ROUNDS: usize = 6;

/// What a unit is told.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// Time passed, or the heartbeats have news.
    Tick,
    /// For the leadership.
    Group(Event),
    /// For the runtime.
    Run(RunEvent),
}

/// What it answers.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Everything but [`Action::Persist`], in order.
    pub(super) actions: Vec<Action>,
    /// Steps of the runtime to begin.
    pub(super) steps: Vec<Step>,
}

/// One group on one node.
#[derive(Clone)]
pub(super) struct Unit {
    group: GroupName,
    core: GroupCore,
    runtime: Runtime,
    intent: Intent,
    report: RunReport,
}

impl Unit {
    /// Nothing known yet.
    pub(super) fn new(
        cfg: GroupConfig,
        run: RuntimeConfig,
        durable: Durable,
        rules: Rules,
        now: Instant,
    ) -> Self {
        Self {
            group: cfg.group.clone(),
            core: GroupCore::new(cfg, durable, rules, now),
            runtime: Runtime::new(run, now),
            intent: Intent::silent(),
            report: RunReport::default(),
        }
    }

    /// The leadership.
    pub(super) fn core(&self) -> &GroupCore {
        &self.core
    }

    /// The runtime.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Takes one input and everything that follows from it at once. `persist` returns when the memory is
    /// durable; the heartbeats' lock is never held while it runs.
    pub(super) fn turn(
        &mut self,
        input: Input,
        etcd: EtcdFacts,
        beats: &Mutex<HeartbeatCore>,
        now: Instant,
        random: u64,
        persist: &mut dyn FnMut(&Durable),
    ) -> Turn {
        let mut turn = Turn::default();
        let mut queue = VecDeque::from([input]);
        let mut rounds = 0;
        while let Some(input) = queue.pop_front() {
            match input {
                Input::Tick => {
                    let facts = self.facts(etcd, beats, now);
                    self.lead(Event::Tick(Box::new(facts)), &mut turn, now, random ^ rounds as u64, persist);
                    turn.steps.extend(self.runtime.handle(RunEvent::Tick, now));
                }
                Input::Group(event) => {
                    if let Event::Replicas(Some(volumes)) = &event {
                        turn.steps.extend(self.runtime.handle(RunEvent::Volumes(volumes.clone()), now));
                    }
                    self.lead(event, &mut turn, now, random ^ rounds as u64, persist);
                }
                Input::Run(event) => turn.steps.extend(self.runtime.handle(event, now)),
            }
            turn.steps.extend(self.runtime.handle(RunEvent::Goal(self.core.goal()), now));
            if rounds >= ROUNDS {
                continue;
            }
            let intent = self.core.intent();
            let report = self.runtime.report();
            if intent != self.intent {
                let lock = &mut beats.lock().unwrap_or_else(PoisonError::into_inner);
                lock.set_intent(&self.group, intent.clone());
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
        turn
    }

    fn facts(&self, etcd: EtcdFacts, beats: &Mutex<HeartbeatCore>, now: Instant) -> Facts {
        let lock = beats.lock().unwrap_or_else(PoisonError::into_inner);
        Facts { beats: lock.facts(&self.group, now), peers: lock.peers().into(), etcd }
    }

    fn lead(
        &mut self,
        event: Event,
        turn: &mut Turn,
        now: Instant,
        random: u64,
        persist: &mut dyn FnMut(&Durable),
    ) {
        for action in self.core.handle(event, now, random) {
            match action {
                Action::Persist(durable) => persist(&durable),
                Action::Read(_)
                | Action::WriteFence(_)
                | Action::Txn(_)
                | Action::SetVolume(..)
                | Action::FenceNode { .. }
                | Action::Event(..) => turn.actions.push(action),
            }
        }
    }
}
