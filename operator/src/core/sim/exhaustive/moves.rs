//! What can happen next in a state, and how it happens.

use super::cluster::{Cluster, Config, Host, Late, Link, Sent};
use crate::core::group::Event;
use crate::core::record::{Guard, Outcome, Txn, TxnKind};
use crate::core::sim::etcd::{Answer, Request};
use crate::core::sim::sights::Sight;
use crate::core::sim::unit::Input;
use baton_replicator::types::Role;
use std::sync::Arc;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Time passes. A heartbeat of the first to the second node may be held back.
    Tick(Option<(usize, usize)>),
    /// The node's transaction takes effect, or its guard fails.
    Effect(usize),
    /// It hears what became of it.
    Answer(usize),
    /// It will not hear.
    Lose(usize),
    /// A transaction that it has given up takes effect.
    Ghost(usize, usize),
    /// Its watch says that something has changed.
    Watch(usize),
    CrashAgent(usize),
    PowerCut(usize),
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    Break(Link),
    Mend,
    Blind(usize),
    Sight(usize),
    /// etcd ends the leader key's lease.
    Expire,
    Order(usize),
    Write(usize),
    /// The heartbeat that was held back arrives.
    Late,
}

impl Cluster {
    pub(super) fn moves(&self) -> Vec<Move> {
        let epoch = self.etcd.insync.as_ref().map_or(0, |i| i.value.epoch.number);
        let mut all = Vec::new();
        if epoch > self.cfg.epochs {
            return all;
        }
        for i in 0..self.hosts.len() {
            self.moves_of(i, &mut all);
        }
        self.moves_of_links(&mut all);
        if self.leader_lease_may_end() {
            all.push(Move::Expire);
        }
        if self.late.is_some() {
            all.push(Move::Late);
        }
        // Whoever sees etcd hears of it before time passes, if that is not lost.
        let open = |i: usize| {
            let sent = self.hosts[i].agent.as_ref().and_then(|a| a.sent.as_ref());
            sent.is_some_and(|s| !s.lost && self.sees_etcd(i))
        };
        if !(0..self.hosts.len()).any(|i| self.lives(i) && open(i)) {
            all.push(Move::Tick(None));
            if self.left.late > 0 && self.late.is_none() {
                let n = self.hosts.len();
                let pairs = (0..n).flat_map(|i| (0..n).map(move |j| (i, j)));
                let sent = pairs.filter(|(i, j)| i != j && self.lives(*i) && self.hears(*i, *j));
                all.extend(sent.map(|pair| Move::Tick(Some(pair))));
            }
        }
        all
    }

    fn moves_of(&self, i: usize, all: &mut Vec<Move>) {
        let h = &self.hosts[i];
        let left = self.left;
        if let Some(agent) = &h.agent {
            if let Some(sent) = &agent.sent {
                self.moves_of_sent(i, sent, all);
            } else if !h.frozen && self.sees_etcd(i) && self.is_behind(i) {
                all.push(Move::Watch(i));
            }
            if left.agents > 0 {
                all.push(Move::CrashAgent(i));
            }
            if h.frozen {
                all.push(Move::Thaw(i));
            } else if left.frozen > 0 {
                all.push(Move::Freeze(i));
            }
        } else {
            all.push(Move::Start(i));
        }
        if h.power && left.powers > 0 {
            all.push(Move::PowerCut(i));
        }
        all.extend((0..h.ghosts.len()).map(|k| Move::Ghost(i, k)));
        if self.blind[i] {
            all.push(Move::Sight(i));
        } else if left.etcd > 0 && h.agent.is_some() {
            all.push(Move::Blind(i));
        }
        let other = self.etcd.leader.as_ref().is_some_and(|l| l.value.node != h.name);
        if left.moves > 0 && other && self.etcd.target.is_none() {
            all.push(Move::Order(i));
        }
        let primary = h.replica.role == Role::Primary && h.replica.pending.is_none();
        if left.writes > 0 && primary && h.address && self.may_acknowledge(i) {
            all.push(Move::Write(i));
        }
    }

    fn moves_of_sent(&self, i: usize, sent: &Sent, all: &mut Vec<Move>) {
        if !self.sees_etcd(i) {
            return;
        }
        if sent.outcome.is_none() {
            all.push(Move::Effect(i));
        } else if !sent.lost && self.lives(i) {
            all.push(Move::Answer(i));
        }
        if !sent.lost && self.left.unknown > 0 {
            all.push(Move::Lose(i));
        }
    }

    fn moves_of_links(&self, all: &mut Vec<Move>) {
        if self.link != Link::Up {
            all.push(Move::Mend);
        } else if self.left.cuts > 0 {
            // Between two nodes it does not matter who is isolated.
            let n = self.hosts.len();
            let apart = if n == 2 { 1 } else { n };
            all.extend((0..apart).map(|i| Move::Break(Link::Isolated(i))));
            if self.cfg.halves {
                all.extend((0..n).map(|i| Move::Break(Link::Mute(i))));
                all.extend((0..n).map(|i| Move::Break(Link::Card(i))));
            }
        }
    }

    fn is_behind(&self, i: usize) -> bool {
        let Some(view) = self.view(i) else { return false };
        let rev = |r: Option<i64>| r.unwrap_or(0);
        rev(view.leader.as_ref().map(|v| v.revision)) != rev(self.etcd.leader.as_ref().map(|v| v.revision))
            || rev(view.insync.as_ref().map(|v| v.revision))
                != rev(self.etcd.insync.as_ref().map(|v| v.revision))
            || view.target != self.etcd.target
    }

    /// The leader key's lease is not kept alive, or etcd errs.
    pub(super) fn leader_lease_may_end(&self) -> bool {
        let Some(lease) = self.etcd.leader.as_ref().map(|l| l.lease) else { return false };
        self.left.revoked > 0 || (self.cfg.volume && !self.is_kept(lease))
    }

    fn is_kept(&self, lease: i64) -> bool {
        let keeps = |i: usize| {
            let held = self.hosts[i].agent.as_ref().map(|a| a.lease.lease);
            self.lives(i) && self.sees_etcd(i) && held == Some(lease)
        };
        (0..self.hosts.len()).any(keeps)
    }

    pub(super) fn apply(&mut self, m: Move) {
        self.note(|| format!("{m:?}"));
        match m {
            Move::Tick(held) => {
                self.left.late -= u8::from(held.is_some());
                self.tick(held);
            }
            Move::Effect(i) => self.effect(i),
            Move::Answer(i) => {
                let sent = self.host(i).agent.as_mut().and_then(|a| a.sent.take());
                if let Some(Sent { txn, outcome: Some(outcome), .. }) = sent {
                    self.turn(i, Input::Group(Event::Txn(txn.id, outcome)));
                }
            }
            Move::Lose(i) => {
                self.left.unknown -= 1;
                if let Some(sent) = self.host(i).agent.as_mut().and_then(|a| a.sent.as_mut()) {
                    sent.lost = true;
                }
            }
            Move::Ghost(i, k) => {
                let txn = self.host(i).ghosts.remove(k);
                if matches!(self.transact(i, &txn), Outcome::Committed { .. }) {
                    self.sights.add(Sight::LateCommit);
                }
            }
            Move::Watch(i) => self.turn(i, Input::Group(Event::Changed)),
            Move::CrashAgent(i) => {
                self.left.agents -= 1;
                self.stop_agent(i);
            }
            Move::PowerCut(i) => {
                self.left.powers -= 1;
                self.power_cut(i);
            }
            Move::Start(i) => self.start(i),
            Move::Freeze(i) => {
                self.left.frozen -= 1;
                self.host(i).frozen = true;
            }
            Move::Thaw(i) => {
                self.host(i).frozen = false;
                self.keep_alive(i);
                self.driver(i);
            }
            Move::Break(link) => {
                self.left.cuts -= 1;
                self.link = link;
            }
            Move::Mend => self.link = Link::Up,
            Move::Blind(i) => {
                self.left.etcd -= 1;
                self.blind[i] = true;
            }
            Move::Sight(i) => self.blind[i] = false,
            Move::Expire => {
                let lease = self.etcd.leader.as_ref().map_or(0, |l| l.lease);
                if self.is_kept(lease) || !self.cfg.volume {
                    self.left.revoked -= 1;
                }
                self.end_lease(lease);
            }
            Move::Order(to) => {
                self.left.moves -= 1;
                let name = self.hosts[to].name.clone();
                let etcd = Arc::make_mut(&mut self.etcd);
                etcd.target = Some(name);
                etcd.revision += 1;
            }
            Move::Write(i) => {
                self.left.writes -= 1;
                let w = self.next_write;
                self.next_write += 1;
                let r = &mut self.host(i).replica;
                r.have.insert(w);
                r.pending = Some(w);
            }
            Move::Late => self.deliver_late(),
        }
        self.rest();
    }

    pub(super) fn end_lease(&mut self, lease: i64) {
        let etcd = Arc::make_mut(&mut self.etcd);
        etcd.leases.remove(&lease);
        etcd.delete_leader();
    }

    pub(super) fn effect(&mut self, i: usize) {
        let txn = self.hosts[i].agent.as_ref().and_then(|a| a.sent.as_ref()).map(|s| s.txn.clone());
        if let Some(txn) = txn {
            let outcome = self.transact(i, &txn);
            if let Some(sent) = self.host(i).agent.as_mut().and_then(|a| a.sent.as_mut()) {
                sent.outcome = Some(outcome);
            }
        }
    }

    fn transact(&mut self, i: usize, txn: &Txn) -> Outcome {
        let name = self.hosts[i].name.clone();
        let (before, stood) = (self.etcd.insync.clone(), self.etcd.leader.is_some());
        let etcd = Arc::make_mut(&mut self.etcd);
        let answer = etcd.apply(&name, &Request::Txn(Box::new(txn.clone())), 0);
        etcd.log.clear();
        let Answer::Txn(_, outcome) = answer else { return Outcome::Unknown };
        self.note(|| format!("    etcd: n{i}, {}: {outcome:?}", txn.kind));
        if matches!(outcome, Outcome::Committed { .. }) {
            if txn.kind == TxnKind::Takeover {
                self.took_over(i, before.as_ref());
            }
            self.see(&txn.kind, stood);
        } else {
            self.sights.add(Sight::GuardFailed);
        }
        outcome
    }

    fn see(&mut self, kind: &TxnKind, stood: bool) {
        self.sights.add(match kind {
            TxnKind::FirstStart => Sight::FirstStart,
            TxnKind::Takeover if stood => Sight::FastTakeover,
            TxnKind::Takeover => Sight::SlowTakeover,
            TxnKind::Remove(_) => Sight::Removed,
            TxnKind::Recreate => Sight::KeyWrittenAgain,
            TxnKind::Rewrite => Sight::RewroteEtcd,
            TxnKind::Candidates => Sight::CandidatesWritten,
            TxnKind::Resign => Sight::Resigned,
            TxnKind::ClearTarget => Sight::TargetCleared,
            TxnKind::Admit(_) | TxnKind::Handover(_) => return,
        });
    }

    /// What it had sent may still arrive.
    pub(super) fn stop_agent(&mut self, i: usize) {
        let h = self.host(i);
        h.frozen = false;
        if let Some(Sent { txn, outcome: None, .. }) = h.agent.take().and_then(|a| a.sent) {
            h.ghosts.push(txn);
        }
    }

    pub(super) fn power_cut(&mut self, i: usize) {
        self.stop_agent(i);
        let h = self.host(i);
        h.power = false;
        h.address = false;
        h.published = None;
        h.replica.power_cut();
    }

    /// Everything that follows at once, without a choice.
    pub(super) fn rest(&mut self) {
        for _ in 0..10 {
            self.flow();
            let told: Vec<bool> = (0..self.hosts.len()).map(|i| self.tell(i)).collect();
            if !told.contains(&true) {
                break;
            }
        }
        for i in 0..self.hosts.len() {
            if self.lives(i) {
                self.publish(i);
            }
        }
        self.forget();
        self.check();
    }

    /// Whether a transaction with this guard would be taken.
    fn holds(&self, i: usize, guard: Guard) -> bool {
        let rev = |r: Option<i64>| r.unwrap_or(0);
        let fence = self.etcd.fences.get(&self.hosts[i].name).copied();
        guard.leader == rev(self.etcd.leader.as_ref().map(|v| v.revision))
            && guard.insync == rev(self.etcd.insync.as_ref().map(|v| v.revision))
            && guard.fence.is_none_or(|f| f == rev(fence))
    }

    /// What can have no effect any more: revisions only grow, so a guard that fails now fails for ever.
    fn forget(&mut self) {
        for i in 0..self.hosts.len() {
            let dead = |h: &Host| h.ghosts.iter().any(|t| !self.holds(i, t.guard));
            if dead(&self.hosts[i]) {
                let mut ghosts = std::mem::take(&mut self.host(i).ghosts);
                ghosts.retain(|t| self.holds(i, t.guard));
                self.host(i).ghosts = ghosts;
            }
        }
        let key = self.etcd.leader.as_ref().map_or(0, |l| l.lease);
        let idle = |id: i64| id != key && !self.is_kept(id) && !self.etcd.alive.values().any(|a| *a == id);
        let idle: Vec<i64> = self.etcd.leases.keys().copied().filter(|id| idle(*id)).collect();
        for id in idle {
            Arc::make_mut(&mut self.etcd).leases.remove(&id);
        }
        let old = |late: &Late| {
            let agent = self.hosts[late.to].agent.as_ref();
            let from = &self.hosts[late.from].name;
            agent.is_some_and(|a| a.beats.lock().expect("lock").knows_newer(from, &late.msg))
        };
        if self.late.as_ref().is_some_and(old) {
            self.late = None;
        }
    }

    /// Everything that is on its way arrives, nothing goes wrong. What is refused until a lease is renewed waits for that.
    pub(super) fn quietly(&mut self) {
        for _ in 0..20 {
            let on_its_way = |m: &Move| matches!(m, Move::Effect(_) | Move::Answer(_));
            let mut all = Vec::new();
            (0..self.hosts.len()).for_each(|i| self.moves_of(i, &mut all));
            let Some(m) = all.into_iter().find(on_its_way) else { return };
            self.apply(m);
        }
    }
}

impl Config {
    /// One line that says what is checked.
    pub(super) fn line(&self) -> String {
        let b = self.budget;
        let all = [
            ("agent crashes", b.agents),
            ("power cuts", b.powers),
            ("broken links", b.cuts),
            ("nodes without etcd", b.etcd),
            ("unknown outcomes", b.unknown),
            ("revoked leases", b.revoked),
            ("moves", b.moves),
            ("writes", b.writes),
            ("late heartbeats", b.late),
            ("frozen agents", b.frozen),
        ];
        let all: Vec<String> =
            all.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {n}")).collect();
        let data = if self.volume { "one volume" } else { "no volume" };
        format!("{}: {} nodes, {data}, epochs to {}; {}", self.name, self.nodes, self.epochs, all.join(", "))
    }
}
