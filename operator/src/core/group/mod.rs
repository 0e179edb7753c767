//! Leadership of one group: who leads, who is in sync, when this node serves, fences, takes over, hands over.
//!
//! The driver feeds [`Event`]s into [`GroupCore::handle`], carries out the [`Action`]s in their order, and after
//! each call applies [`GroupCore::intent`] (to the heartbeats) and [`GroupCore::goal`] (to the runtime).
//!
//! ```text
//!              ┌─────────► Standby ◄──────────────┐ deposed, resigned, released, handed over
//!   Joining ───┤   refuses │  ▲ holds heard again │ (from every leading state)
//!              │           ▼  │                   │
//!              │        Campaigning ──committed──┐│
//!              │                                 ▼│
//!              └──resume in place──────────────► Waiting ──entitled──► Starting ──► Serving
//!                                                  ▲  ▲                │  ▲ │        │ │
//!                                                  │  └─guard failed── HandingOver ◄──┘ │
//!                                                  │                   │  │ └─► Failed ◄┤
//!                                                  └─────── Fenced ◄───┴──┴─────────────┘
//! ```
//!
//! Invariants:
//! * `Serving` and `Starting` only while the heartbeats' serve-until is in the future.
//! * A member leaves E only after the transaction that removes it has committed; a node enters E before the
//!   transaction that admits it is sent.
//! * Nothing is sent to etcd while an earlier outcome is unsettled ([`ledger`](self)).
//!
//! If the process dies, [`Durable`] and etcd decide whether the group is resumed in place.

#[cfg(test)]
mod canon;
mod failures;
mod fencing;
mod gateway;
mod handover;
mod identity;
mod leader;
mod ledger;
mod placement;
mod retire;
mod standby;
mod state;
#[cfg(test)]
mod tests;
mod together;
mod types;
mod volumes;

pub use failures::{FAILED_HERE, Failures};
pub use fencing::{FenceOutcome, Fencing};
pub use placement::Placing;
pub use state::State;
pub use together::{Leaving, Told};
pub use types::{Action, AfterPowerLoss, EtcdFacts, Event, Facts, GroupConfig, GroupView, Retire, Severity};

use crate::core::promises::{GroupFacts, Intent, Part};
use crate::core::record::{Durable, Record};
use crate::core::rules::{Detail, Rule, Rules};
use crate::core::runtime::{Goal, Phase, RunReport};
use crate::status::{GroupState, NodeMode};
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{BootId, Epoch, GroupName, Instant, Member, NodeName, TermId, VolumeName};
use ledger::{Ask, Ledger};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Admission {
    member: Member,
    sent: bool,
}

#[derive(Clone, Debug)]
struct Handover {
    /// None: every node is in standby mode, the group rests.
    to: Option<NodeName>,
    stopped: Option<Instant>,
    sent: bool,
    failed: Option<String>,
    /// The group cannot stay here: if it cannot be stopped in time, this node is fenced.
    must: bool,
}

/// Leadership of one group on one node.
#[cfg_attr(test, derive(Clone))]
pub struct GroupCore {
    cfg: GroupConfig,
    rules: Rules,
    state: State,
    since: Instant,
    now: Instant,
    started: Instant,
    random: u64,
    reason: String,
    durable: Durable,
    ledger: Ledger,
    facts: Facts,
    replicas: Option<Vec<VolumeStatus>>,
    calls: BTreeMap<VolumeName, volumes::Call>,
    link_down: BTreeMap<NodeName, Instant>,
    run: RunReport,
    epoch: Epoch,
    set: Vec<Member>,
    candidates: Vec<NodeName>,
    handed: bool,
    led_since: Instant,
    known_since: Instant,
    /// End of the last gap in which this core decided nothing: what it did not hear then, nobody failed to say.
    awake_since: Instant,
    leader_rev: i64,
    silence_from: Instant,
    admission: Option<Admission>,
    handover: Option<Handover>,
    foreign: Option<String>,
    /// The epoch of a record that a person vouched for although a later one is known.
    vouched: Option<Epoch>,
    failures: failures::Failures,
    gateways: gateway::Gateways,
    fences: fencing::Fences,
    /// No handover is tried before this.
    move_at: Instant,
    /// Since when each more preferred node has been ready without a break.
    preferred_ready: BTreeMap<NodeName, Instant>,
    restarting: bool,
    /// Other groups on this node, as far as this one goes with them or keeps away from them.
    others: BTreeMap<GroupName, Told>,
    /// Where the group is to go, and since when those that go with it know.
    leaving: Option<(Leaving, Instant)>,
    /// Groups that go with this one and cannot run here: where they could, and since when.
    stranded: BTreeMap<GroupName, (NodeName, Instant)>,
    /// A node that leads fewer groups to be kept away from, and since when it has been ready.
    room: Option<(NodeName, Instant)>,
    /// Led again after a restart of the agent: what runs need not wait.
    in_place: bool,
    note: Option<String>,
    out: Vec<Action>,
}

impl GroupCore {
    /// Starts with what the state directory remembers. `now` is the agent's start.
    #[must_use]
    pub fn new(cfg: GroupConfig, durable: Durable, rules: Rules, now: Instant) -> Self {
        Self {
            cfg,
            rules,
            state: State::Joining,
            since: now,
            now,
            started: now,
            random: 0,
            reason: "starting: etcd has not been read yet".into(),
            durable,
            ledger: Ledger::new(rules),
            // Until the heartbeats have been asked, this node may have promised anything.
            facts: Facts {
                beats: GroupFacts {
                    promised_until: Instant(u64::MAX),
                    last_holds: now,
                    ..GroupFacts::default()
                },
                ..Facts::default()
            },
            replicas: None,
            calls: BTreeMap::new(),
            link_down: BTreeMap::new(),
            run: RunReport::default(),
            epoch: Epoch::ZERO,
            set: Vec::new(),
            candidates: Vec::new(),
            handed: false,
            led_since: now,
            known_since: now,
            awake_since: now,
            leader_rev: 0,
            silence_from: if rules.on(Rule::StartAck) { now } else { Instant::ZERO },
            admission: None,
            handover: None,
            foreign: None,
            vouched: None,
            failures: failures::Failures::default(),
            gateways: gateway::Gateways::default(),
            fences: fencing::Fences::default(),
            move_at: Instant::ZERO,
            preferred_ready: BTreeMap::new(),
            restarting: false,
            others: BTreeMap::new(),
            leaving: None,
            stranded: BTreeMap::new(),
            room: None,
            in_place: false,
            note: None,
            out: Vec::new(),
        }
    }

    /// Takes an event and decides. `random` is fresh for every call.
    pub fn handle(&mut self, event: Event, now: Instant, random: u64) -> Vec<Action> {
        if now.since(self.now) > self.cfg.timers.warntime {
            self.awake_since = now;
            if self.rules.on(Rule::Gap) {
                // What it knows is of before the gap, silence and record alike: etcd may have been restored meanwhile.
                self.silence_from = now;
                self.ledger.mark_stale();
            }
        }
        self.now = now;
        self.random = random;
        match event {
            Event::Tick(facts) => {
                if facts.etcd.reachable && !self.facts.etcd.reachable {
                    // It may be another one than before.
                    self.ledger.mark_stale();
                }
                self.facts = *facts;
                self.forget_fences();
            }
            Event::Record(id, record) => {
                if self.ledger.on_read(id, record.map(|r| *r), now) {
                    self.on_view();
                }
            }
            Event::Fence(id, written) => self.ledger.on_fence(id, written, now),
            Event::Txn(id, outcome) => self.on_txn(id, &outcome),
            Event::Changed => self.ledger.look_again(),
            Event::Replicas(replicas) => self.on_replicas(replicas),
            Event::VolumeSet(volume, result) => self.on_volume_set(&volume, result),
            Event::Run(report) => self.run = report,
            Event::Gateways(own, others) => self.gateways(own, others),
            Event::Others(others) => self.others = others,
            Event::Restarting => self.restarting = true,
            Event::NodeFenced(id, outcome) => self.on_fenced(id, outcome),
            Event::Recover => self.recover(),
            Event::Configured(cfg) => self.configured(*cfg),
        }
        self.step();
        std::mem::take(&mut self.out)
    }

    /// What the heartbeats should say and do from now on.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let part = if self.state.leads() {
            let members = self.promisers();
            Part::Leader {
                others: self.outsiders(&members),
                members,
                lease_until: self.lease_until(),
                serve: self.guard_over() && self.state != State::Joining,
                busy: matches!(self.state, State::Starting | State::HandingOver),
                ask: self.restarting.then_some(self.cfg.timers.restart_window),
            }
        } else {
            Part::Standby {
                acknowledge: self.state == State::Standby && !self.ledger.unsettled(),
                long_promise: self.granted(),
            }
        };
        Intent {
            epoch: if self.state.leads() { self.epoch } else { self.known() },
            part,
            released: (self.durable.released != Epoch::ZERO).then_some(self.durable.released),
            ready: self.fit().is_ok(),
            state: self.group_state() as u8,
            boot: self.boot().unwrap_or(BootId(0)),
            insync_rev: self.record_told(),
        }
    }

    /// The revision of the record as others may rely on it: a leader does not vouch for what it found in a foreign etcd.
    fn record_told(&self) -> i64 {
        let own = self.foreign.is_none() || !self.rules.keeps(Detail::WrittenRecord);
        self.view().filter(|_| own).and_then(|v| v.insync.as_ref()).map_or(0, |i| i.revision)
    }

    /// What the runtime should do.
    #[must_use]
    pub fn goal(&self) -> Goal {
        let over = |limit| self.now.since(self.since) >= limit;
        match self.state {
            State::Joining => Goal::Hold,
            State::Standby | State::Campaigning if self.stays_hot() => Goal::Standby,
            State::Standby | State::Campaigning => Goal::Stop { force: true },
            // Resumed in place: the first promises come within a few keepalives.
            State::Waiting if over(self.cfg.timers.warntime) => Goal::Fence,
            State::Waiting => Goal::Hold,
            State::Serving if self.left_alone() => Goal::Hold,
            State::Starting | State::Serving => {
                let (format, takeover) = (self.fresh(), !self.handed && !self.fresh());
                Goal::Run { epoch: self.epoch, format, takeover }
            }
            State::Fenced if over(self.cfg.timers.fence_stop) => Goal::Stop { force: true },
            State::Fenced => Goal::Fence,
            State::HandingOver | State::Failed => Goal::Stop { force: false },
        }
    }

    /// Services run here although another node leads: not for a person who has taken this node out of service.
    fn stays_hot(&self) -> bool {
        let standby = self.view().is_some_and(|v| v.mode(&self.cfg.me) == NodeMode::Standby);
        self.cfg.hot && !standby && self.retiring().is_none() && self.disabled().is_none()
    }

    /// The group as this core sees it.
    #[must_use]
    pub fn view_of(&self) -> GroupView {
        let view = self.view();
        let heard = self.facts.beats.leader_heard.as_ref().map(|h| h.0.clone());
        let leader = if self.state.leads() {
            Some(self.cfg.me.clone())
        } else if self.facts.etcd.reachable {
            view.and_then(|v| v.leader.as_ref()).map(|l| l.value.node.clone())
        } else {
            heard
        };
        GroupView {
            state: self.state,
            group_state: self.group_state(),
            reason: match &self.note {
                Some(note) => format!("{}; {note}", self.reason),
                None => self.reason.clone(),
            },
            advice: self.advice(),
            leader,
            epoch: self.known(),
            members: view.map(|v| v.members().to_vec()).unwrap_or_default(),
            required: if self.state.leads() { self.required() } else { Vec::new() },
            target: view.and_then(|v| v.target.clone()),
            wish: view.map(|v| v.wish.clone()).unwrap_or_default(),
            boot: self.boot(),
            ready: self.fit(),
            memory: self.memory(),
        }
    }

    /// Whether every member of E has given the longer promise asked for before a restart.
    #[must_use]
    pub fn restart_covered(&self) -> bool {
        let needed = self.now.plus(self.cfg.timers.good_for(self.cfg.timers.restart_window) / 2);
        !self.state.leads() || self.facts.beats.serve_until.is_some_and(|until| until >= needed)
    }

    /// What the state directory should hold.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// Where the group stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    fn step(&mut self) {
        self.learn();
        match self.state {
            State::Joining => self.step_joining(),
            State::Standby => self.step_standby(),
            State::Campaigning => self.step_campaigning(),
            State::Waiting
            | State::Starting
            | State::Serving
            | State::Fenced
            | State::HandingOver
            | State::Failed => self.step_leading(),
        }
        self.step_volumes();
        match self.ledger.step(self.now) {
            Some(Ask::Read { id }) => self.out.push(Action::Read(id)),
            Some(Ask::Fence { id }) => self.out.push(Action::WriteFence(id)),
            None => {}
        }
    }

    /// Changes the state; one sentence says why.
    fn become_(&mut self, next: State, reason: impl Into<String>) {
        assert!(self.state.may_become(next), "{:?} may not become {next:?}", self.state);
        self.reason = reason.into();
        // The report is about what was wanted before.
        if self.run.phase == Phase::Failed {
            self.run.phase = if next == State::Starting { Phase::Starting } else { Phase::Stopping };
        }
        let dethroned = self.state.leads() && self.state != State::HandingOver;
        let severity = match next {
            State::Standby if dethroned => Severity::Critical,
            State::Fenced | State::Failed => Severity::Critical,
            State::Campaigning => Severity::Warning,
            State::Joining
            | State::Standby
            | State::Waiting
            | State::Starting
            | State::Serving
            | State::HandingOver => Severity::Info,
        };
        let message = format!("{} -> {}: {}", self.state.word(), next.word(), self.reason);
        self.out.push(Action::Event(severity, message));
        if self.state.leads() && !next.leads() {
            self.silence_from = self.now;
            self.admission = None;
            self.handover = None;
            self.restarting = false;
        }
        if next == State::HandingOver {
            self.in_place = false;
        } else {
            self.leaving = None;
        }
        self.state = next;
        self.since = self.now;
    }

    fn view(&self) -> Option<&Record> {
        self.ledger.view()
    }

    fn fresh(&self) -> bool {
        self.view().and_then(|v| v.insync.as_ref()).is_some_and(|i| i.value.fresh)
    }

    /// Highest epoch in etcd, in the replicas' metadata, in any heartbeat, in the own memory.
    fn known(&self) -> Epoch {
        let mut best = self.durable.known;
        let replicas = self.replicas.iter().flatten().map(|v| v.epoch);
        let view = self.view().map(Record::epoch);
        for epoch in replicas.chain(view).chain([self.facts.beats.highest, self.epoch]) {
            if epoch.number > best.number {
                best = epoch;
            }
        }
        best
    }

    /// The next epoch. The last number is never reached by counting: who says it is damaged, and nothing can follow.
    fn next_epoch(&self) -> Result<Epoch, String> {
        let known = self.known();
        let number = known.number.checked_add(1).ok_or_else(|| {
            format!(
                "no epoch can follow {}: etcd's record, a replica's metadata or a heartbeat is damaged",
                known.number
            )
        })?;
        Ok(Epoch { number, term: TermId(self.random) })
    }

    fn persist(&mut self) {
        self.out.retain(|a| !matches!(a, Action::Persist(_)));
        self.out.insert(0, Action::Persist(self.durable.clone()));
    }

    fn group_state(&self) -> GroupState {
        match self.state {
            State::Joining => GroupState::Unknown,
            State::Standby if self.run.phase != Phase::Stopped => GroupState::Stopping,
            State::Standby => GroupState::Standby,
            State::Campaigning => GroupState::Campaigning,
            State::Waiting => GroupState::Waiting,
            State::Starting => GroupState::Starting,
            State::Serving => GroupState::Serving,
            State::Fenced => GroupState::Fenced,
            State::HandingOver if self.handover.as_ref().is_some_and(|h| h.stopped.is_some()) => {
                GroupState::HandingOver
            }
            State::HandingOver => GroupState::Stopping,
            State::Failed => GroupState::Failed,
        }
    }
}
