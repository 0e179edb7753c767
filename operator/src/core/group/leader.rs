//! The leader's side: serving while entitled, fencing, and the transactions that keep the record true.

use super::{Action, Admission, GroupCore, Severity, State};
use crate::core::record::{InSync, LeaderKey, LeaderWrite, LeaseRef, Outcome, Txn, TxnKind};
use crate::core::rules::Rule;
use crate::core::runtime::Phase;
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{DiskState, Epoch, Member, NodeName, Role};

impl GroupCore {
    /// Becomes the leader of `epoch`, which etcd's record confirms.
    pub(super) fn lead(&mut self, epoch: Epoch, handed: bool, why: &str) {
        self.epoch = epoch;
        self.handed = handed;
        self.led_since = self.now;
        self.admission = None;
        self.handover = None;
        self.restarting = false;
        self.preferred_ready.clear();
        self.stranded.clear();
        self.room = None;
        self.in_place = self.durable.served == epoch;
        self.become_(State::Waiting, format!("{why} (epoch {epoch})"));
        self.adopt_record();
    }

    /// A new leader that was not handed the group waits until its own last promise has run out, unless it
    /// has served this epoch before.
    pub(super) fn guard_over(&self) -> bool {
        self.handed || self.durable.served == self.epoch || self.now >= self.facts.beats.promised_until
    }

    pub(super) fn step_leading(&mut self) {
        self.note = None;
        if self.facts.beats.highest.number > self.epoch.number {
            let text =
                format!("deposed: epoch {} was heard, this was {}", self.facts.beats.highest, self.epoch);
            self.ledger.mark_stale();
            return self.become_(State::Standby, text);
        }
        if self.ledger.settled() && self.foreign.is_none() {
            if !self.mine() {
                let now = self.view().map(crate::core::record::Record::epoch).unwrap_or_default();
                return self.become_(
                    State::Standby,
                    format!("deposed: etcd says epoch {now}, this was {}", self.epoch),
                );
            }
            self.adopt_record();
        }
        self.watch_preferred();
        self.watch_company();
        self.watch_room();
        if let Some(why) = self.must_release() {
            return self.release(&why);
        }
        let entitled = self.facts.beats.serve_until.is_some_and(|until| until > self.now);
        match self.state {
            State::Waiting if entitled => match self.waits_for_lead().or_else(|| self.rests()) {
                None => self.start("entitled"),
                Some(why) => self.reason = why,
            },
            State::Waiting => self.reason = self.missing(),
            State::Starting | State::Serving | State::Failed if !entitled => {
                let text = self.missing();
                self.become_(State::Fenced, text);
            }
            State::Starting => match self.run.phase {
                Phase::Running => self.become_(State::Serving, format!("epoch {} serves", self.epoch)),
                Phase::Failed => self.failed(),
                Phase::Stopped | Phase::Starting | Phase::Stopping | Phase::Fencing | Phase::Fenced => {}
            },
            State::Serving => match self.run.phase {
                Phase::Failed => self.failed(),
                Phase::Running
                | Phase::Stopped
                | Phase::Starting
                | Phase::Stopping
                | Phase::Fencing
                | Phase::Fenced => {}
            },
            State::Fenced if entitled => self.start("entitled again"),
            State::Fenced => self.reason = self.missing(),
            State::Failed if self.tries_again() => self.start("tries again"),
            State::Failed => {}
            State::HandingOver => return self.step_handover(entitled),
            State::Joining | State::Standby | State::Campaigning => return,
        }
        self.step_record(entitled);
    }

    fn start(&mut self, why: &str) {
        if self.durable.served != self.epoch {
            self.durable.served = self.epoch;
            self.persist();
        }
        self.become_(State::Starting, why.to_owned());
    }

    /// etcd's record still names this node's epoch, or nobody.
    fn mine(&self) -> bool {
        let Some(view) = self.view() else { return true };
        let epoch = view.insync.as_ref().is_some_and(|i| i.value.epoch == self.epoch);
        match &view.leader {
            Some(l) => epoch && l.value.node == self.cfg.me && l.value.epoch == self.epoch,
            None => epoch || !self.rules.on(Rule::RecreateEpoch),
        }
    }

    /// Takes the set over from a settled record, and with it what became of an admission.
    fn adopt_record(&mut self) {
        let Some(insync) = self.view().and_then(|v| v.insync.as_ref()).map(|i| i.value.clone()) else {
            return;
        };
        let known = |n: &NodeName| insync.members.iter().any(|m| m.node == *n);
        if self.ledger.in_flight().is_none()
            && let Some(a) = &mut self.admission
        {
            if known(&a.member.node) {
                self.admission = None;
            } else {
                a.sent = false;
            }
        }
        self.set = insync.members;
        if self.ledger.in_flight() != Some(&TxnKind::Candidates) {
            self.candidates = insync.candidates;
        }
    }

    /// Whose promise is missing, as a sentence.
    pub(super) fn missing(&self) -> String {
        if !self.guard_over() {
            return "leads, but serves only after its own last promise to another leader has run out".into();
        }
        let good = |n: &NodeName| self.facts.beats.promises.get(n).is_some_and(|p| p.good_until > self.now);
        let missing: Vec<String> =
            self.promisers().iter().filter(|n| !good(n)).map(ToString::to_string).collect();
        if missing.is_empty() {
            let outside: Vec<String> =
                self.outsiders(&self.promisers()).iter().map(ToString::to_string).collect();
            return format!(
                "its lease in etcd does not count, and outside of it {} could take over: waits for the lease or their promises",
                outside.join(", ")
            );
        }
        let etcd = if self.facts.etcd.reachable { "" } else { ", and etcd is out of reach to remove it" };
        format!("no promise of {}{etcd}", missing.join(", "))
    }

    /// The transactions that keep the record true: at most one at a time, the most urgent first.
    fn step_record(&mut self, entitled: bool) {
        if !self.ledger.free() {
            return;
        }
        if self.foreign.is_some() {
            return self.rewrite(entitled);
        }
        let Some(view) = self.view() else { return };
        if view.leader.is_none() {
            // Put without a lease the key would stand for ever.
            if self.facts.etcd.lease == 0 {
                return;
            }
            let key = LeaderKey { node: self.cfg.me.clone(), epoch: self.epoch, handed: false };
            return self.send(TxnKind::Recreate, LeaderWrite::Put(key, LeaseRef::Mine), None, false);
        }
        let target_reached = view.target.as_ref() == Some(&self.cfg.me);
        let mut wanted = self.cfg.nodes.clone();
        wanted.sort();
        let mut listed = view.candidates().to_vec();
        listed.sort();
        if self.give_up() || self.remove_lost() || self.leave_set() || self.step_admission() {
            return;
        }
        if wanted != listed && self.foreign.is_none() {
            // A candidate that is being added counts at once.
            self.candidates.extend(self.cfg.nodes.iter().cloned());
            let insync = self.insync(|i| i.candidates = wanted);
            return self.send(TxnKind::Candidates, LeaderWrite::Keep, insync, false);
        }
        if target_reached && matches!(self.state, State::Serving | State::Failed) {
            return self.send(TxnKind::ClearTarget, LeaderWrite::Keep, None, true);
        }
        let settled = matches!(self.state, State::Serving | State::Failed);
        // What is disabled, or in the wrong place, is not started up first, to be stopped then.
        let ends = self.disabled().is_some() || self.stops_with().is_some();
        let stops = matches!(self.state, State::Starting | State::Waiting) && ends;
        let early = stops || (self.state == State::Waiting && self.follow().is_some());
        if entitled && (settled || early) {
            self.step_wish();
        }
    }

    pub(super) fn insync(&self, change: impl FnOnce(&mut InSync)) -> Option<InSync> {
        let mut insync = self.view()?.insync.as_ref()?.value.clone();
        change(&mut insync);
        Some(insync)
    }

    fn remove_lost(&mut self) -> bool {
        let lost: Vec<(Member, String)> =
            self.members().into_iter().filter_map(|m| self.lost(&m).map(|why| (m, why))).collect();
        // The last member with a disk is never removed.
        let last = self.disk_gone().is_some() && lost.len() == self.members().len();
        if lost.is_empty() || (last && self.rules.on(Rule::LeaveDiskless)) {
            return false;
        }
        let gone: Vec<NodeName> = lost.iter().map(|l| l.0.node.clone()).collect();
        let why: Vec<&str> = lost.iter().map(|l| l.1.as_str()).collect();
        self.out.push(Action::Event(
            Severity::Warning,
            format!("removes from the in-sync set: {}", why.join("; ")),
        ));
        let insync = self.insync(|i| i.members.retain(|m| !gone.contains(&m.node)));
        self.send(TxnKind::Remove(gone), LeaderWrite::Keep, insync, false);
        true
    }

    /// A leader without a disk leaves the in-sync set, and is served by those who are in it. Nothing is acknowledged
    /// before that is confirmed.
    fn leave_set(&mut self) -> bool {
        if !self.rules.on(Rule::LeaveDiskless) || !self.in_set() || !self.has_well_member() {
            return false;
        }
        let Some(v) = self.diskless() else { return false };
        let why = v.disk_reason.clone().unwrap_or_else(|| "its disk is gone".into());
        let text =
            format!("leaves the in-sync set and goes on through its peers: volume {}: {why}", v.volume);
        self.out.push(Action::Event(Severity::Critical, text));
        if self.durable.left != self.epoch {
            self.durable.left = self.epoch;
            self.persist();
        }
        let me = self.cfg.me.clone();
        let insync = self.insync(|i| i.members.retain(|m| m.node != me));
        self.send(TxnKind::Remove(vec![me]), LeaderWrite::Keep, insync, false);
        true
    }

    /// A leader that can serve only through others, and cannot even do that, makes room for them: after `peer_timeout`
    /// without a well member, or when its replicator has forgotten what it led.
    fn give_up(&mut self) -> bool {
        let alone = self.diskless().is_some() && self.frozen().is_some() && !self.has_well_member();
        // Its process died after the disk had failed: what is on the disk is marked, or not known to be enough.
        let (in_set, fresh) = (self.in_set(), self.fresh());
        let marked = |v: &VolumeStatus| v.disk == DiskState::Inconsistent && v.generation.0 != 0 && !fresh;
        let unfit = |v: &&VolumeStatus| v.role == Role::Secondary && (!in_set || marked(v));
        let forgotten =
            !self.cfg.volumes.is_empty() && self.volumes().is_some_and(|all| all.iter().any(unfit));
        if !(alone || forgotten) || !self.rules.on(Rule::LeaveDiskless) {
            return false;
        }
        let text = "gives the leadership up: it has no disk, and nobody to go on through";
        self.out.push(Action::Event(Severity::Critical, text.into()));
        self.send(TxnKind::Resign, LeaderWrite::Delete, None, false);
        true
    }

    /// Stages, sends or undoes an admission; true if a transaction was sent.
    fn step_admission(&mut self) -> bool {
        if let Some(a) = self.admission.clone() {
            let node = &a.member.node;
            // A connection that broke and came back has to resync first, and nothing waits for it meanwhile.
            let well = self.promises(node)
                && self.all_volumes(node, |p| p.resynced)
                && self.peer_boot(node) == Some(a.member.boot)
                && self.lost(&a.member).is_none();
            if !well {
                self.admission = None;
                return false;
            }
            if self.all_volumes(node, |p| p.settled) {
                self.admission = Some(Admission { sent: true, ..a.clone() });
                let insync = self.insync(|i| {
                    i.members.push(a.member.clone());
                    i.fresh = false;
                });
                self.send(TxnKind::Admit(a.member), LeaderWrite::Keep, insync, false);
                return true;
            }
            return false;
        }
        let in_set = |n: &NodeName| *n == self.cfg.me || self.set.iter().any(|m| m.node == *n);
        let comes = |n: &&NodeName| !in_set(n) && self.promises(n) && self.all_volumes(n, |p| p.resynced);
        let Some(node) = self.cfg.nodes.iter().find(comes).cloned() else { return false };
        let Some(boot) = self.peer_boot(&node) else { return false };
        let member = Member { node, boot };
        // A group must have run before anyone can hold a copy of it.
        if self.state == State::Serving && self.lost(&member).is_none() {
            self.admission = Some(Admission { member, sent: false });
            return self.cfg.volumes.is_empty() && self.step_admission();
        }
        false
    }

    /// Writes the record into an etcd that is not the one it knew.
    fn rewrite(&mut self, entitled: bool) {
        if self.state != State::Serving || !entitled || self.boot().is_none() || self.facts.etcd.lease == 0 {
            return;
        }
        let key = LeaderKey { node: self.cfg.me.clone(), epoch: self.epoch, handed: false };
        let members = self.set.clone();
        let insync = InSync { epoch: self.epoch, members, candidates: self.cfg.nodes.clone(), fresh: false };
        self.send(TxnKind::Rewrite, LeaderWrite::Put(key, LeaseRef::Mine), Some(insync), false);
    }

    pub(super) fn send(
        &mut self,
        kind: TxnKind,
        leader: LeaderWrite,
        insync: Option<InSync>,
        clear_target: bool,
    ) {
        let (id, guard) = (self.ledger.next_id(), self.ledger.guard(self.rules));
        let cluster = self.view().map_or(0, |view| view.cluster_id);
        let txn = Txn { id, kind, guard, cluster, leader, insync, clear_target };
        self.ledger.sent(txn.clone());
        self.out.push(Action::Txn(txn));
    }

    pub(super) fn on_txn(&mut self, id: u64, outcome: &Outcome) {
        let (me, lease) = (self.cfg.me.clone(), self.facts.etcd.lease);
        let Some(txn) = self.ledger.on_txn(id, outcome, &me, lease, self.rules) else { return };
        match outcome {
            Outcome::Committed { revision } => self.committed(txn, *revision),
            Outcome::GuardFailed => {
                if self.state.leads() && !self.rules.on(Rule::Reread) {
                    return self.become_(State::Standby, "a guard failed");
                }
                if let Some(h) = self.handover.as_mut().filter(|h| h.sent) {
                    h.sent = false;
                    h.failed = Some("the record in etcd had changed".into());
                }
            }
            Outcome::Unknown => {
                let text = format!("etcd did not answer {}: whether it happened has to be settled", txn.kind);
                self.out.push(Action::Event(Severity::Warning, text));
                if let Some(h) = self.handover.as_mut().filter(|h| h.sent) {
                    h.failed = Some("etcd did not confirm the handover".into());
                }
            }
        }
    }

    fn committed(&mut self, txn: Txn, revision: i64) {
        if let Some(view) = self.view() {
            self.durable.cluster_id = view.cluster_id;
        }
        if txn.leader != LeaderWrite::Keep {
            self.leader_rev = revision;
        }
        self.durable.revision = self.durable.revision.max(revision);
        match txn.kind {
            TxnKind::FirstStart | TxnKind::Takeover if self.state == State::Campaigning => {
                let epoch = txn.insync.map(|i| i.epoch).unwrap_or_default();
                let released = self.facts.beats.released.is_some();
                self.lead(
                    epoch,
                    released,
                    if released { "took over what was released" } else { "took over" },
                );
            }
            TxnKind::Rewrite => {
                self.foreign = None;
                self.durable.revision = revision;
                let text = "wrote its record into the etcd that answers now".into();
                self.out.push(Action::Event(Severity::Warning, text));
            }
            TxnKind::Handover(to) if self.state == State::HandingOver => {
                self.become_(State::Standby, format!("handed over to {to}"));
                self.ledger.mark_stale();
            }
            TxnKind::Resign if self.state.leads() => self.become_(State::Standby, "gave the leadership up"),
            // Asked for here, where it had failed.
            TxnKind::ClearTarget if self.state == State::Failed => self.forget_failures(),
            TxnKind::Remove(nodes) => self.tell("in-sync set without", &nodes),
            TxnKind::Admit(member) => self.tell("in-sync set with", &[member.node]),
            TxnKind::FirstStart
            | TxnKind::Takeover
            | TxnKind::Recreate
            | TxnKind::Candidates
            | TxnKind::Handover(_)
            | TxnKind::Resign
            | TxnKind::ClearTarget => {}
        }
        self.persist();
    }

    fn tell(&mut self, what: &str, nodes: &[NodeName]) {
        let all: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        self.out.push(Action::Event(Severity::Info, format!("{what} {}", all.join(", "))));
    }
}
