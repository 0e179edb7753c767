//! Leaving in good order: who should have the group instead, the handover, the release, and what to tell people.

use super::{Action, GroupCore, Handover, Leaving, Retire, Severity, State};
use crate::core::record::{LeaderKey, LeaderWrite, LeaseRef, TxnKind};
use crate::core::rules::Rule;
use crate::status::NodeMode;
use baton_replicator::types::{DiskState, Instant, Member, NodeName};
use std::time::Duration;

/// A group stopped for a handover that cannot be sent is resumed after this.
const HANDOVER_WAIT: Duration = Duration::from_secs(2);
/// After a handover that failed the next one waits this long: each attempt stops the services.
const HANDOVER_AGAIN: Duration = Duration::from_secs(10);

impl GroupCore {
    /// The successor wished for, ready or not, with the reason; none if the group may stay.
    fn wish(&self) -> Option<(Option<NodeName>, String)> {
        let view = self.view()?;
        if view.mode(&self.cfg.me) == NodeMode::Maintenance {
            return None;
        }
        // A group that goes with another one leaves a node with that, also for good.
        let own = self.cfg.placing.with.is_none() || self.cfg.retire == Some(Retire::Group);
        if let Some(why) = self.retiring().filter(|_| own) {
            return Some((None, why.into()));
        }
        if let Some(why) = self.disabled() {
            return Some((None, why));
        }
        if self.cfg.placing.with.is_some() {
            return self.follow();
        }
        if let Some(v) = self.disk_gone() {
            return Some((None, format!("the disk of volume {} is gone", v.volume)));
        }
        if self.state == State::Failed {
            return Some((None, format!("the group failed here: {}", self.failures.why)));
        }
        let run = &self.run;
        if let Some(why) = run.stuck.as_ref().or(run.unusable.as_ref()).or(run.wants_move.as_ref()) {
            return Some((None, why.clone()));
        }
        if view.mode(&self.cfg.me) == NodeMode::Standby {
            return Some((None, "this node is in standby mode".into()));
        }
        if let Some(target) = view.target.as_ref().filter(|t| **t != self.cfg.me) {
            return Some((Some(target.clone()), "an operator asked for it".into()));
        }
        if let Some((node, why)) = self.for_company() {
            return Some((Some(node), why));
        }
        if self.pinned() {
            return None;
        }
        if let Some((node, why)) = self.better_placed() {
            return Some((Some(node), why));
        }
        if let Some((node, why)) = self.apart() {
            return Some((Some(node), why));
        }
        self.failback().map(|best| (Some(best), "it is preferred".into()))
    }

    /// Whether a node could take the group over in good order.
    pub(super) fn ready(&self, node: &NodeName) -> Result<i64, String> {
        let view = self.view().ok_or("etcd has not been read yet")?;
        let member =
            self.set.iter().find(|m| m.node == *node).ok_or_else(|| format!("{node} is not in sync"))?;
        if view.mode(node) != NodeMode::Online {
            return Err(format!("{node} is not online"));
        }
        if let Some(why) = self.lost(member) {
            return Err(why);
        }
        self.next_epoch()?;
        let beat = self.facts.peers.get(node).and_then(|p| p.groups.get(&self.cfg.group));
        if !self.promises(node) || !beat.is_some_and(|b| b.ready) {
            return Err(format!("{node} says that it is not ready"));
        }
        if !self.all_volumes(node, |p| p.settled) && self.state == State::Serving {
            return Err(format!("{node} has not settled"));
        }
        view.nodes.get(node).and_then(|n| n.lease).ok_or_else(|| format!("{node} has no lease in etcd"))
    }

    pub(super) fn step_wish(&mut self) {
        let Some((to, why)) = self.wish() else {
            self.leaving = None;
            self.note = match self.disabled() {
                Some(why) if self.left_alone() => {
                    Some(format!("should stop ({why}), but nothing is stopped in maintenance mode"))
                }
                Some(_) | None if self.state == State::Failed => Some(self.next_try()),
                Some(_) | None => self.crowded(),
            };
            return;
        };
        // What waits for the group it goes with is not interrupted by another attempt.
        if self.now < self.move_at && self.state != State::Waiting {
            self.note = Some(format!("should move ({why}), but that failed a moment ago"));
            return;
        }
        if self.stop_for_good() {
            return;
        }
        let candidates = to.map_or_else(|| self.cfg.nodes.clone(), |n| vec![n]);
        let fault = self.run.wants_move.clone().or(self.run.unusable.clone());
        let must = fault.is_some() || self.disk_gone().is_some();
        let broken = must || self.state == State::Failed;
        let mut refusals = Vec::new();
        for node in candidates.into_iter().filter(|n| *n != self.cfg.me) {
            match self.ready(&node).map(drop).and_then(|()| self.company_ready(&node, broken)) {
                Ok(()) if self.facts.etcd.reachable => {
                    if let Some(why) = self.run.stuck.clone() {
                        return self.fence_off(&format!("{why}; {node} takes over"));
                    }
                    if !self.company_gone(Leaving::To(node.clone()), broken) {
                        return;
                    }
                    let text = format!("moves to {node}: {why}");
                    if let Some(why) = self.run.wants_move.clone().filter(|_| self.state == State::Serving) {
                        self.count_failure(why);
                    }
                    self.handover =
                        Some(Handover { to: Some(node), stopped: None, sent: false, failed: None, must });
                    return self.become_(State::HandingOver, text);
                }
                Ok(()) => refusals.push("etcd is out of reach".to_owned()),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if self.all_in_standby() && self.facts.etcd.reachable {
            if !self.company_gone(Leaving::Stop, true) {
                return;
            }
            self.handover =
                Some(Handover { to: None, stopped: None, sent: false, failed: None, must: false });
            return self.become_(State::HandingOver, "stops: every node is in standby mode");
        }
        self.leaving = None;
        let again =
            if self.state == State::Failed { format!("; {}", self.next_try()) } else { String::new() };
        self.note = Some(format!("should move ({why}), but {}{again}", refusals.join(", ")));
    }

    /// A person has taken every node out of service, this one included.
    fn all_in_standby(&self) -> bool {
        self.view().is_some_and(|v| self.cfg.nodes.iter().all(|n| v.mode(n) == NodeMode::Standby))
    }

    pub(super) fn step_handover(&mut self, entitled: bool) {
        let Some(h) = self.handover.clone() else { return };
        if h.sent && (self.ledger.in_flight().is_some() || !self.ledger.settled()) {
            return;
        }
        // Settled, and the record still names this node: it did not happen.
        if let Some(why) = h.failed.or_else(|| h.sent.then(|| "it was not confirmed".to_owned())) {
            if self.ledger.settled() {
                self.resume(format!("handover failed, resumes: {why}"));
            }
            return;
        }
        if !entitled {
            let text = format!("handover broken off: {}", self.missing());
            return self.become_(State::Fenced, text);
        }
        let lost = |to: &NodeName| {
            self.set.iter().find(|m| m.node == *to).map_or(Some("it left the set".into()), |m| self.lost(m))
        };
        if let Some(why) = h.to.as_ref().and_then(lost) {
            return self.resume(format!("handover broken off, resumes: {why}"));
        }
        let late = self.now.since(self.since) >= self.cfg.stop_timeout && !h.sent;
        if late && h.must && !self.let_go() && self.ledger.free() && self.foreign.is_none() {
            if let Some(h) = &mut self.handover {
                h.sent = true;
            }
            let seconds = self.cfg.stop_timeout.as_secs();
            return self.fence_off(&format!("not stopped within {seconds} s ({})", self.run.reason));
        }
        if late && !h.must && !self.let_go() {
            let text = format!("handover broken off, resumes: not stopped in time ({})", self.run.reason);
            return self.resume(text);
        }
        if !self.let_go() {
            return;
        }
        let stopped = h.stopped.unwrap_or(self.now);
        if let Some(h) = &mut self.handover {
            h.stopped = Some(stopped);
        }
        let waits = h.to.as_ref().is_some_and(|to| self.holds_back(to));
        if self.state != State::HandingOver {
            return;
        }
        if self.now.since(stopped) >= HANDOVER_WAIT {
            return self.resume("handover broken off, resumes: etcd does not take it".into());
        }
        if waits {
            return;
        }
        let stands = self.view().is_some_and(|v| v.leader.is_some());
        if !(stands && self.ledger.free() && self.foreign.is_none()) {
            return;
        }
        let Some(to) = h.to else {
            if let Some(h) = &mut self.handover {
                h.sent = true;
            }
            return self.send(TxnKind::Resign, LeaderWrite::Delete, None, false);
        };
        let lease = self.view().and_then(|v| v.nodes.get(&to)).and_then(|n| n.lease);
        if let Some(lease) = lease {
            self.send_handover(to, lease);
        }
    }

    /// What cannot be stopped is fenced: without the leader key this node serves nobody, its volumes are taken away from
    /// whatever still runs, and the successor takes over as from one that died.
    fn fence_off(&mut self, why: &str) {
        let text = format!("gives the leadership up and is fenced: {why}");
        self.count_failure(why.to_owned());
        self.out.push(Action::Event(Severity::Critical, text));
        self.send(TxnKind::Resign, LeaderWrite::Delete, None, false);
    }

    /// The group stays; the next attempt would interrupt it again, so it waits.
    pub(super) fn resume(&mut self, why: String) {
        self.put_off();
        self.become_(State::Waiting, why);
    }

    pub(super) fn put_off(&mut self) {
        self.move_at = self.now.plus(HANDOVER_AGAIN);
    }

    fn send_handover(&mut self, to: NodeName, lease: i64) {
        let epoch = match self.next_epoch() {
            Ok(epoch) => epoch,
            Err(why) => return self.resume(format!("handover broken off, resumes: {why}")),
        };
        let insync = self.insync(|i| {
            i.epoch = epoch;
            i.fresh = false;
        });
        let reached = self.view().is_some_and(|v| v.target.as_ref() == Some(&to));
        let key = LeaderKey { node: to.clone(), epoch, handed: true };
        if let Some(h) = &mut self.handover {
            h.sent = true;
        }
        self.send(TxnKind::Handover(to), LeaderWrite::Put(key, LeaseRef::Of(lease)), insync, reached);
    }

    /// The group is unusable here, etcd is out of reach here but not for another member: why.
    pub(super) fn must_release(&self) -> Option<String> {
        if !self.rules.on(Rule::Release) || self.facts.etcd.reachable || self.state == State::HandingOver {
            return None;
        }
        let near = |at: Instant| self.now.since(at) <= self.cfg.timers.warntime;
        let could =
            |n: &NodeName| self.facts.peers.get(n).is_some_and(|p| p.etcd && p.heard.is_some_and(near));
        if !self.promisers().iter().any(could) {
            return None;
        }
        // One that is served through a peer is unusable only when it is frozen.
        let gone = self.disk_gone().filter(|v| v.disk != DiskState::Diskless);
        let disk = gone.map(|v| format!("the disk of volume {} is gone", v.volume));
        disk.or_else(|| self.frozen()).or_else(|| self.run.unusable.clone())
    }

    /// Fences itself and gives its epoch up, durably.
    pub(super) fn release(&mut self, why: &str) {
        self.durable.released = self.epoch;
        self.persist();
        self.become_(
            State::Standby,
            format!("released epoch {}: {why}, and etcd is out of reach", self.epoch),
        );
    }

    /// What a person should do, if anything.
    pub(super) fn advice(&self) -> Option<String> {
        let group = &self.cfg.group;
        if self.foreign.is_some() {
            return Some(format!(
                "group {group}: `baton cluster recover` says what to do; or make sure that etcd holds the right record, then \
                 `baton recover {group}`"
            ));
        }
        if let Some((who, epoch)) = &self.facts.beats.foreign {
            return Some(format!(
                "group {group}: {who} speaks of epoch {epoch}, which comes from another history than this node's"
            ));
        }
        match self.state {
            State::Fenced | State::Waiting => Some(format!("group {group}: {}", self.reason)),
            State::Failed => Some(format!("group {group}: {}; see the logs of its containers", self.reason)),
            State::Standby if self.leaderless() && self.disabled().is_none() => {
                let others = self.view().map(|v| v.members().to_vec()).unwrap_or_default();
                let others: Vec<Member> = others.into_iter().filter(|m| m.node != self.cfg.me).collect();
                let who = super::standby::names(&others);
                let only = if who.is_empty() || self.boot_current() {
                    String::new()
                } else {
                    format!("; start {who}: only there is every write")
                };
                let lost = self.memory().lost;
                let lost = if lost { "; `baton cluster recover` says what to do" } else { "" };
                Some(format!("group {group} has no leader: {}{only}{lost}", self.reason))
            }
            State::Joining
            | State::Standby
            | State::Campaigning
            | State::Starting
            | State::Serving
            | State::HandingOver => None,
        }
    }

    fn leaderless(&self) -> bool {
        let silent = self.now.since(self.facts.beats.last_holds.max(self.silence_from));
        silent >= self.cfg.timers.deadtime * 2 && self.now.since(self.started) >= self.cfg.timers.initdead
    }
}
