//! The standby's side: joining after a start, acknowledging, and taking over.
//!
//! `GroupCore::eligible` is the whole rule of who may take over when; its refusals are the sentences that
//! status shows.

use super::{Action, GroupCore, Severity, State};
use crate::core::record::{Durable, InSync, LeaderKey, LeaderWrite, LeaseRef, LongPromise, TxnKind};
use crate::core::rules::{Detail, Rule};
use crate::core::runtime::Phase;
use baton_replicator::types::{Epoch, Member, NodeName};
use std::time::Duration;

/// Lead of a more preferred node over the next one when both could take over: a few round trips to etcd.
const PRECEDENCE: Duration = Duration::from_millis(300);

/// Nothing is known of the data here.
pub(super) const SILENT_REPLICATOR: &str = "the replicator does not answer, or does not have all volumes yet";

/// How a group can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// There is no record yet.
    First,
    /// The leader key stands, its owner is silent.
    Fast,
    /// The leader key stands, its owner has given the epoch up.
    Released,
    /// The leader key is gone.
    Slow,
}

impl GroupCore {
    pub(super) fn step_joining(&mut self) {
        if !self.ledger.settled() {
            self.reason = "settles what an earlier run may have sent to etcd".into();
            return;
        }
        let named = self.named() || self.nameless();
        if named && self.boot().is_none() {
            self.reason =
                "etcd names this node the leader; waits for the replicator to tell its boot id".into();
            return;
        }
        if named && self.try_lead() {
            return;
        }
        self.become_(State::Standby, "joined");
    }

    pub(super) fn step_standby(&mut self) {
        self.promise_longer();
        if self.ledger.settled() && self.named() {
            if self.boot().is_some() && self.run.phase == Phase::Stopped && self.try_lead() {
                return;
            }
            self.resign_if_unfit();
        }
        match self.eligible() {
            Ok(path) => match self.fenced_first(path) {
                Ok(()) => self.become_(State::Campaigning, format!("{}: stops acknowledging", path.why())),
                Err(why) => self.reason = why,
            },
            Err(why) => self.reason = why,
        }
    }

    pub(super) fn step_campaigning(&mut self) {
        if self.ledger.in_flight().is_some() || !self.ledger.settled() {
            return;
        }
        if self.named() && self.try_lead() {
            return;
        }
        let path = match self.eligible() {
            Ok(path) => path,
            Err(why) => return self.become_(State::Standby, why),
        };
        // The path may be another one by now.
        if let Err(why) = self.fenced_first(path) {
            return self.become_(State::Standby, why);
        }
        let beats = &self.facts.beats;
        // The intent must be in force first: a heartbeat acknowledged now would be a fresh promise.
        let promised = self.now < beats.promised_until && path != Path::Released;
        if beats.acknowledging || promised || !self.ledger.free() {
            return;
        }
        self.take_over(path);
    }

    /// Sends the takeover.
    fn take_over(&mut self, path: Path) {
        let Some(boot) = self.boot() else { return };
        let Ok(epoch) = self.next_epoch() else { return }; // Then nobody is eligible.
        let me = Member { node: self.cfg.me.clone(), boot };
        let mut members = vec![me.clone()];
        if path == Path::Slow && !self.rules.on(Rule::WinnerAlone) {
            let others = self.view().map(|v| v.members().to_vec()).unwrap_or_default();
            members.extend(others.into_iter().filter(|m| m.node != me.node));
        }
        let insync = InSync {
            epoch,
            members,
            candidates: self.cfg.nodes.clone(),
            fresh: path == Path::First || self.fresh(),
        };
        let key = LeaderKey { node: self.cfg.me.clone(), epoch, handed: false };
        let kind = if path == Path::First { TxnKind::FirstStart } else { TxnKind::Takeover };
        self.send(kind, LeaderWrite::Put(key, LeaseRef::Mine), Some(insync), false);
    }

    /// etcd's leader key names this node.
    fn named(&self) -> bool {
        self.view().and_then(|v| v.leader.as_ref()).is_some_and(|l| l.value.node == self.cfg.me)
    }

    /// The leader key is gone, but the record is still the one this node has served: its lease ran out while
    /// its agent was away, and nobody has taken over.
    fn nameless(&self) -> bool {
        let Some(view) = self.view() else { return false };
        let served = self.durable.served != Epoch::ZERO && view.epoch() == self.durable.served;
        view.leader.is_none() && view.insync.is_some() && served
    }

    /// Leads the epoch under which etcd names this node, if it may.
    fn try_lead(&mut self) -> bool {
        let Some(view) = self.view() else { return false };
        let Some(insync) = &view.insync else { return false };
        let epoch = view.leader.as_ref().map_or(insync.value.epoch, |l| l.value.epoch);
        if self.foreign.is_some() || insync.value.epoch != epoch || epoch != self.known() {
            return false;
        }
        if self.durable.released == epoch || !self.boot_current() {
            return false;
        }
        let handed = view.leader.as_ref().is_some_and(|l| l.value.handed);
        let why = if handed {
            "the group was handed over to this node"
        } else if self.durable.served == epoch {
            "resumes in place"
        } else {
            "etcd names this node the leader"
        };
        self.lead(epoch, handed, why);
        true
    }

    /// This node is in the record's in-sync set with the boot id it has.
    pub(super) fn boot_current(&self) -> bool {
        let own = self.view().and_then(|v| v.members().iter().find(|m| m.node == self.cfg.me));
        let Some(own) = own else { return false };
        self.boot() == Some(own.boot) || !self.rules.on(Rule::Boot)
    }

    /// Named leader, but it rebooted, gave the epoch up, or knows of a later one: deletes the key and competes like any standby.
    fn resign_if_unfit(&mut self) {
        let Some(leader) = self.view().and_then(|v| v.leader.as_ref()) else { return };
        let epoch = leader.value.epoch;
        // A record that a person vouched for, older than what is known: only a new epoch may be led.
        let lags = self.vouched == Some(epoch) && epoch != self.known();
        let unfit = lags || self.durable.released == epoch || (self.boot().is_some() && !self.boot_current());
        if unfit && self.foreign.is_none() && self.ledger.free() && self.facts.etcd.reachable {
            self.send(TxnKind::Resign, LeaderWrite::Delete, None, false);
        }
    }

    /// Makes the longer promise that a restarting leader asks for durable, so that it can be given.
    fn promise_longer(&mut self) {
        let window = self.cfg.timers.restart_window;
        let heard = self.facts.beats.leader_heard.as_ref().map(|h| h.2);
        if heard.is_none_or(|at| self.now.since(at) > self.cfg.timers.warntime) {
            return;
        }
        let Some(asked) = self.facts.beats.asked.filter(|d| *d <= window && *d > self.cfg.timers.deadtime)
        else {
            return;
        };
        if self.granted() >= asked {
            return;
        }
        // A little more than needed, so that one write covers the leader's whole last second.
        let until = self.now.plus(asked + self.cfg.timers.deadtime * 2);
        let length_ms = u64::try_from((asked + self.cfg.timers.deadtime * 2).as_millis()).unwrap_or(u64::MAX);
        self.durable = Durable { promise: Some(LongPromise { until, length_ms }), ..self.durable.clone() };
        self.persist();
        self.out.push(Action::Event(
            Severity::Info,
            "promises the leader a longer absence for its restart".into(),
        ));
    }

    /// The longest promise that may be given now because its end is durable.
    pub(super) fn granted(&self) -> Duration {
        let window = self.cfg.timers.restart_window;
        let covered = self.durable.promise.as_ref().is_some_and(|p| p.until >= self.now.plus(window));
        if covered { window } else { Duration::ZERO }
    }

    /// Could start the group now, apart from the leader being alive.
    pub(super) fn fit(&self) -> Result<(), String> {
        let Some(view) = self.view() else { return Err("etcd has not been read yet".into()) };
        if self.state.leads() {
            return Err("leads the group".into());
        }
        self.able()?;
        if self.unfit() {
            return Err(super::FAILED_HERE.into());
        }
        if let Some(why) = &self.run.unusable {
            return Err(why.clone());
        }
        if self.boot().is_none() {
            return Err(SILENT_REPLICATOR.into());
        }
        if view.insync.is_some() && !view.members().iter().any(|m| m.node == self.cfg.me) {
            return Err("not in sync".into());
        }
        if view.insync.is_some() && !self.boot_current() {
            return Err("not in sync: it rebooted since".into());
        }
        if let Some(why) = self.unfit_volume() {
            return Err(why);
        }
        if !self.run.prepared {
            return Err("its containers are not prepared yet".into());
        }
        if let Some(why) = &self.run.unready {
            return Err(why.clone());
        }
        Ok(())
    }

    /// Nothing on this node itself stands against leading.
    fn able(&self) -> Result<(), String> {
        let Some(view) = self.view() else { return Err("etcd has not been read yet".into()) };
        if let Some(foreign) = &self.foreign {
            return Err(format!("{foreign}: no automatic takeover"));
        }
        if let Some(why) = view.mode(&self.cfg.me).keeps_away() {
            return Err(why.into());
        }
        if let Some(why) = self.retiring() {
            return Err(why.into());
        }
        if let Some(why) = self.disabled() {
            return Err(why);
        }
        if self.run.phase != Phase::Stopped {
            return Err("what ran here before is still being stopped".into());
        }
        self.next_epoch().map(drop)
    }

    /// Whether this node may take over now, and on which path; else why not.
    pub(super) fn eligible(&self) -> Result<Path, String> {
        let path = self.path()?;
        if path != Path::Released {
            self.makes_room()?;
        }
        self.unfit_volume().map_or(Ok(path), Err)
    }

    fn path(&self) -> Result<Path, String> {
        if !self.ledger.settled() {
            return Err("etcd has to be read first".into());
        }
        if !self.facts.etcd.reachable {
            return Err("etcd is out of reach: the leader stays who it is".into());
        }
        if self.facts.etcd.lease == 0 {
            return Err("this node has no lease in etcd yet".into());
        }
        self.able()?;
        self.with_lead()?;
        if self.boot().is_none() {
            return Err(SILENT_REPLICATOR.into());
        }
        let Some(view) = self.view() else { return Err("etcd has not been read yet".into()) };
        if view.insync.is_none() {
            return self.first_start();
        }
        if self.rules.on(Rule::Candidates) && !view.candidates().contains(&self.cfg.me) {
            return Err("not a candidate yet: the leader has to admit it".into());
        }
        let member = view.members().iter().any(|m| m.node == self.cfg.me);
        match &view.leader {
            Some(leader) => {
                let name = &leader.value.node;
                if *name == self.cfg.me {
                    return Err("etcd still names this node: gives the key up first".into());
                }
                if !member || !self.boot_current() {
                    return Err(format!("not in sync with {name}"));
                }
                if self.released(name, leader.value.epoch) {
                    return Ok(Path::Released);
                }
                self.silence(name)?;
                Ok(Path::Fast)
            }
            None => {
                self.silence("the former leader")?;
                let data = !self.cfg.volumes.is_empty();
                if data && !member {
                    return Err(format!("not in sync: only {} may lead", names(view.members())));
                }
                if data && !self.boot_current() {
                    self.all_rebooted(view.members())?;
                }
                self.precedence()?;
                Ok(Path::Slow)
            }
        }
    }

    fn released(&self, leader: &NodeName, epoch: Epoch) -> bool {
        self.facts.beats.released.as_ref().is_some_and(|(who, what)| who == leader && *what == epoch)
    }

    /// No `holds` was heard for `deadtime`; twice that where the group failed: another node may do better.
    fn silence(&self, of: impl std::fmt::Display) -> Result<(), String> {
        let since = self.facts.beats.last_holds.max(self.silence_from);
        if self.facts.beats.promised_until > self.now.plus(self.cfg.timers.deadtime) {
            return Err(format!("has promised {of} a longer absence for its restart"));
        }
        let silent = self.now.since(since);
        let enough = if self.rules.keeps(Detail::Deadtime) {
            self.cfg.timers.deadtime
        } else {
            self.cfg.timers.warntime
        };
        if silent < enough {
            return Err(format!("stands by: {of} was heard holding the group within deadtime"));
        }
        if self.unfit() && silent < self.cfg.timers.deadtime * 2 {
            return Err(format!("{}: others go first", super::FAILED_HERE));
        }
        Ok(())
    }

    /// After a power cut of the whole site: everyone must have lost its memory.
    fn all_rebooted(&self, members: &[Member]) -> Result<(), String> {
        if !self.rules.on(Rule::PowerLoss) {
            return Err("it rebooted since it was in sync".into());
        }
        for other in members.iter().filter(|m| m.node != self.cfg.me) {
            let peer = self.facts.peers.get(&other.node);
            let near =
                peer.and_then(|p| p.heard).is_some_and(|at| self.now.since(at) <= self.cfg.timers.deadtime);
            let boot = peer.and_then(|p| p.groups.get(&self.cfg.group)).map(|b| b.boot).filter(|b| b.0 != 0);
            match boot.filter(|_| near) {
                Some(boot) if boot == other.boot => {
                    return Err(format!(
                        "it rebooted since it was in sync; {} did not and goes first",
                        other.node
                    ));
                }
                Some(_) => {}
                None => {
                    let waited = self.now.since(self.started) >= self.cfg.timers.initdead;
                    let start = self.cfg.after_power_loss == super::AfterPowerLoss::Start;
                    if !(start && waited) {
                        return Err(format!(
                            "it rebooted since it was in sync; {} has not been seen yet and may hold more",
                            other.node
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// More preferred nodes go first; at a cold start the others wait for them up to `initdead`.
    fn precedence(&self) -> Result<(), String> {
        let Some(view) = self.view() else { return Ok(()) };
        // Who goes with another group goes where that is.
        if self.cfg.placing.with.is_some() {
            return Ok(());
        }
        let data = !self.cfg.volumes.is_empty();
        let qualified =
            |n: &NodeName| !data || view.insync.is_none() || view.members().iter().any(|m| m.node == *n);
        let cold = self.leader_rev == 0 && self.facts.beats.leader_heard.is_none();
        let mut ahead: u32 = 0;
        for node in self.order().into_iter().take_while(|n| *n != self.cfg.me).filter(qualified) {
            let heard = self.facts.peers.get(&node).and_then(|p| p.heard);
            let alive = heard.is_some_and(|at| self.now.since(at) <= self.cfg.timers.warntime);
            let preferred = self.cfg.prefer.contains(&node);
            if alive {
                ahead += 1;
            } else if cold && preferred && self.now.since(self.started) < self.cfg.timers.initdead {
                return Err(format!("cold start: waits for {node}, which is preferred, up to initdead"));
            }
        }
        let since = self.facts.beats.last_holds.max(self.silence_from);
        if self.now.since(since) < self.cfg.timers.deadtime + PRECEDENCE * ahead {
            return Err("more preferred nodes go first".into());
        }
        Ok(())
    }

    fn order(&self) -> Vec<NodeName> {
        let mut order = self.cfg.prefer.clone();
        let mut rest = self.cfg.nodes.clone();
        rest.sort();
        order.extend(rest.into_iter().filter(|n| !self.cfg.prefer.contains(n)));
        order
    }

    /// There is no record: either the group never ran, or etcd lost it.
    fn first_start(&self) -> Result<Path, String> {
        let history = self.has_history() || self.known() != Epoch::ZERO;
        if history && self.rules.on(Rule::Identity) {
            return Err("etcd has no record of the group although it has run before".into());
        }
        self.silence("nobody")?;
        self.precedence()?;
        let waited = self.now.since(self.started) >= self.cfg.timers.initdead;
        let first = self.cfg.placing.with.is_some() || self.order().first() == Some(&self.cfg.me);
        if first || waited {
            return Ok(Path::First);
        }
        let best = self.order().first().map(ToString::to_string).unwrap_or_default();
        Err(format!("first start: {best} goes first, the others wait for it up to initdead"))
    }
}

impl Path {
    fn why(self) -> &'static str {
        match self {
            Self::First => "first start",
            Self::Fast => "the leader is silent",
            Self::Released => "the leader gave its epoch up",
            Self::Slow => "the leader key is gone",
        }
    }
}

pub(super) fn names(members: &[Member]) -> String {
    let all: Vec<&str> = members.iter().map(|m| m.node.as_str()).collect();
    all.join(", ")
}
