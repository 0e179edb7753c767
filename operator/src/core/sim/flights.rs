//! What is on its way: actions become requests that arrive later, answers and outcomes come back.

use super::etcd::{Answer, Request};
use super::sights::Sight;
use super::unit::{Input, Turn};
use super::world::{Flight, World, kind_word, volume};
use crate::core::group::{Action, Event};
use crate::core::record::{InSync, Outcome, TxnKind, Versioned};
use crate::core::runtime::{Container, ContainerState, Health, RunEvent, Step};
use baton_replicator::types::NodeName;

impl World {
    pub(super) fn turn(&mut self, i: usize, input: Input) {
        let (now, random) = (self.local(i), self.dice.roll());
        let h = &mut self.hosts[i];
        let Some(agent) = h.agent.as_mut() else { return };
        let (mut durable, facts) = (None, agent.lease);
        let crash = &mut h.crash_after;
        let turn = agent.unit.turn(input, facts, &agent.beats, now, random, &mut |d| {
            if survives(crash) {
                durable = Some(d.clone());
            }
        });
        if let Some(d) = durable {
            h.durable = d;
            h.durable_boot = h.boots;
        }
        self.carry_out(i, turn);
    }

    fn carry_out(&mut self, i: usize, turn: Turn) {
        let incarnation = self.hosts[i].agent.as_ref().map_or(0, |a| a.incarnation);
        for action in turn.actions {
            if !survives(&mut self.hosts[i].crash_after) {
                break;
            }
            match action {
                Action::Persist(_) => {}
                Action::Event(_, text) => {
                    self.sights.read(&text);
                    self.note(i, text);
                }
                Action::Read(id) => self.request(i, incarnation, 'r', id, Request::Read(id)),
                Action::WriteFence(id) => self.request(i, incarnation, 'f', id, Request::Fence(id)),
                Action::Txn(txn) => self.request(i, incarnation, 't', txn.id, Request::Txn(Box::new(txn))),
                Action::FenceNode { id, node, leader, insync } => {
                    self.switch_off(i, incarnation, id, &node, (leader, insync));
                }
                Action::SetVolume(_, desired) => {
                    let delay = 10 + self.dice.below(30);
                    self.send(delay, Flight::Volume { to: i, incarnation, desired });
                }
            }
        }
        for step in turn.steps {
            if !survives(&mut self.hosts[i].crash_after) {
                break;
            }
            let delay = match step {
                Step::AddAddresses | Step::RemoveAddresses => 10,
                _ => 20 + self.dice.below(100),
            };
            if step.service().is_some() && self.hosts[i].engine_hangs > self.now {
                self.saw(Sight::EngineAnsweredLate);
            }
            self.send(delay, Flight::Step { to: i, incarnation, step });
        }
        if self.hosts[i].crash_after == Some(0) {
            self.hosts[i].crash_after = None;
            self.saw(Sight::CrashedAtAStep);
            self.crash_agent(i);
        }
    }

    pub(super) fn request(&mut self, i: usize, incarnation: u64, kind: char, id: u64, request: Request) {
        if let Some(a) = self.hosts[i].agent.as_mut() {
            a.waiting.insert((kind, id));
        }
        let timeout = self.timers.etcd_timeout.as_millis() as u64;
        self.send(timeout, Flight::GiveUp { to: i, incarnation, kind, id });
        let mut delay = self.dice.below(10);
        let mut answered = true;
        if let Request::Txn(txn) = &request {
            let word = kind_word(&txn.kind);
            self.note(i, format_args!("sends {word} {:?}", txn.guard));
            if let Some(k) = self.late.iter().position(|l| l.node == i && l.kind == word) {
                delay = self.late.remove(k).after;
                answered = false;
            }
        }
        if self.etcd_faults > 0 && self.dice.chance(self.etcd_faults) {
            answered = false;
            delay = self.dice.below(4000);
        }
        let out_of_reach = !self.etcd_up || self.etcd_cut.contains(&i);
        if out_of_reach {
            // Lost, or stuck in a socket until the way is free again.
            if !self.dice.chance(30) {
                return;
            }
            (delay, answered) = (2000 + self.dice.below(3000), false);
        }
        self.send(delay, Flight::Arrive { from: i, incarnation, request, answered });
    }

    pub(super) fn land(&mut self, flight: Flight) {
        match flight {
            Flight::Beat { to, from, msg } => {
                let h = &self.hosts[to];
                if h.power && h.agent.is_some() && h.still.is_none() {
                    self.hosts[to].inbox.push((from, *msg));
                }
            }
            Flight::Arrive { from, incarnation, request, answered } => {
                if self.etcd_up {
                    self.arrive(from, incarnation, &request, answered);
                }
            }
            Flight::Answer { to, incarnation, answer } => {
                let key = match &answer {
                    Answer::Read(id, _) => ('r', *id),
                    Answer::Fence(id, _) => ('f', *id),
                    Answer::Txn(id, _) => ('t', *id),
                };
                if self.expects(to, incarnation, key) {
                    let event = match answer {
                        Answer::Read(id, record) => Event::Record(id, record),
                        Answer::Fence(id, ok) => Event::Fence(id, ok),
                        Answer::Txn(id, outcome) => Event::Txn(id, outcome),
                    };
                    self.turn(to, Input::Group(event));
                }
            }
            Flight::GiveUp { to, incarnation, kind, id } => {
                if self.expects(to, incarnation, (kind, id)) {
                    let event = match kind {
                        'r' => Event::Record(id, None),
                        'f' => Event::Fence(id, false),
                        _ => Event::Txn(id, Outcome::Unknown),
                    };
                    self.turn(to, Input::Group(event));
                }
            }
            Flight::Watch { to } => {
                // It may have died while this was on its way.
                if self.hosts[to].watch_lag.is_some() {
                    self.turn(to, Input::Group(Event::Changed));
                }
            }
            Flight::Step { to, incarnation, step } => self.run_step(to, incarnation, step),
            Flight::Switched { by, incarnation, id, target } => self.switched(by, incarnation, id, target),
            Flight::Volume { to, incarnation, desired } => {
                if !self.hosts[to].power {
                    return;
                }
                let result = self.hosts[to].replica.command(&desired);
                if self.hosts[to].agent.as_ref().is_some_and(|a| a.incarnation == incarnation) {
                    let status = self.volume_status(to);
                    self.turn(to, Input::Group(Event::Replicas(Some(vec![status]))));
                    self.turn(to, Input::Group(Event::VolumeSet(volume(), result)));
                }
            }
        }
    }

    fn expects(&mut self, to: usize, incarnation: u64, key: (char, u64)) -> bool {
        let h = &mut self.hosts[to];
        let Some(a) = h.agent.as_mut().filter(|a| a.incarnation == incarnation) else { return false };
        a.waiting.remove(&key)
    }

    fn arrive(&mut self, from: usize, incarnation: u64, request: &Request, answered: bool) {
        let name = self.hosts[from].name.clone();
        let before = (self.etcd.leader.is_some(), self.etcd.insync.clone());
        let answer = self.etcd.apply(&name, request, self.now);
        if let (Answer::Txn(id, outcome), Request::Txn(txn)) = (&answer, request) {
            let late = if answered { "" } else { " (answer lost)" };
            self.note_etcd(format_args!("{name} {} {outcome:?}{late}", kind_word(&txn.kind)));
            let agent = self.hosts[from].agent.as_ref().filter(|a| a.incarnation == incarnation);
            let awaited = answered && agent.is_some_and(|a| a.waiting.contains(&('t', *id)));
            let committed = matches!(outcome, Outcome::Committed { .. });
            self.see_txn(from, &txn.kind, committed, awaited, before.0);
            if committed {
                if txn.kind == TxnKind::Takeover {
                    self.took_over(from, before.1.as_ref());
                }
                self.wake();
            }
        }
        if answered {
            let delay = self.dice.below(10);
            self.send(delay, Flight::Answer { to: from, incarnation, answer });
        }
    }

    fn see_txn(&mut self, from: usize, kind: &TxnKind, committed: bool, awaited: bool, key: bool) {
        let sight = match (committed, awaited, kind) {
            (true, false, TxnKind::Admit(_)) => Sight::AdmissionUnanswered,
            (true, false, _) => Sight::LateCommit,
            (false, false, TxnKind::Admit(_)) => Sight::AdmissionUndone,
            (false, false, _) => Sight::LateRefused,
            (false, true, _) => Sight::GuardFailed,
            (true, true, TxnKind::FirstStart) => Sight::FirstStart,
            (true, true, TxnKind::Takeover) if key => Sight::FastTakeover,
            (true, true, TxnKind::Takeover) => Sight::SlowTakeover,
            (true, true, TxnKind::Remove(_)) => Sight::Removed,
            (true, true, TxnKind::Recreate) => Sight::KeyWrittenAgain,
            (true, true, TxnKind::Rewrite) => Sight::RewroteEtcd,
            (true, true, TxnKind::Candidates) => Sight::CandidatesWritten,
            (true, true, TxnKind::Resign) => Sight::Resigned,
            (true, true, TxnKind::ClearTarget) => Sight::TargetCleared,
            (true, true, TxnKind::Admit(_) | TxnKind::Handover(_)) => return,
        };
        self.saw(sight);
        if matches!(sight, Sight::FastTakeover | Sight::SlowTakeover) && self.hosts[from].watch_lag.is_none()
        {
            self.saw(Sight::TakeoverWithoutWatch);
        }
    }

    /// The whole set had lost its memory: what was never flushed is legally gone.
    fn took_over(&mut self, i: usize, before: Option<&Versioned<InSync>>) {
        let boot = self.hosts[i].replica.boot;
        let Some(before) = before.filter(|_| self.opts.volume) else { return };
        let mine = before.value.members.iter().find(|m| m.node == self.hosts[i].name);
        match mine {
            None => {
                let text = format!("{} was not in the in-sync set", self.hosts[i].name);
                self.violated(|| text);
            }
            Some(m) if m.boot != boot => {
                self.saw(Sight::PowerLossStart);
                let flushed = self.flushed.clone();
                self.acked.keep(&flushed);
            }
            Some(_) => {}
        }
    }

    fn run_step(&mut self, i: usize, incarnation: u64, step: Step) {
        if !self.hosts[i].power {
            return;
        }
        if matches!(step, Step::Start(_) | Step::Restart(_)) && self.hosts[i].engine_fails > self.now {
            if self.hosts[i].agent.as_ref().is_some_and(|a| a.incarnation == incarnation) {
                self.turn(i, Input::Run(RunEvent::Done(step, Err("no space left on device".into()))));
            }
            return;
        }
        let h = &mut self.hosts[i];
        let mut formatted: Vec<NodeName> = Vec::new();
        let mut set = |name: &str, state| {
            h.engine.insert(name.to_owned(), Container { state, health: Health::None, outdated: false });
        };
        match &step {
            Step::Format(_) => {
                h.replica.filesystem = true;
                formatted = h.replica.synced.keys().cloned().collect();
            }
            Step::AddAddresses => h.address = true,
            Step::RemoveAddresses => h.address = false,
            Step::Prepare => {
                for name in ["db", "web"] {
                    h.engine.entry(name.into()).or_insert(Container {
                        state: ContainerState::Created,
                        health: Health::None,
                        outdated: false,
                    });
                }
            }
            Step::Start(s) | Step::Restart(s) | Step::Unpause(s) => set(s, ContainerState::Running),
            Step::Stop(s) | Step::Kill(s) => set(s, ContainerState::Exited(0)),
            Step::Pause(s) => set(s, ContainerState::Paused),
            Step::Discard(s) => drop(h.engine.remove(s)),
        }
        // mkfs writes through the replication like anyone else.
        for h in self.hosts.iter_mut().filter(|h| formatted.contains(&h.name)) {
            h.replica.filesystem = true;
        }
        if self.hosts[i].agent.as_ref().is_some_and(|a| a.incarnation == incarnation) {
            self.turn(i, Input::Run(RunEvent::Done(step, Ok(()))));
        }
    }
}

/// Counts one action down; false once the agent is dead.
fn survives(crash_after: &mut Option<u64>) -> bool {
    match crash_after {
        None => true,
        Some(0) => false,
        Some(n) => {
            *n -= 1;
            *n > 0
        }
    }
}
