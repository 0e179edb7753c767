//! One group's dealings with etcd: at most one request at a time, and the fence key that settles what is
//! unknown.
//!
//! ```text
//!            read                     transaction
//!   Idle ───────────► Reading   Idle ────────────► Sent ──Committed──► Idle
//!    ▲                  │                            ├──GuardFailed──► Idle, stale: read before anything else
//!    └──── answer ──────┘                            └──Unknown──────► Idle, unsettled: write the fence key until
//!                                                                      that is confirmed, then read
//! ```
//!
//! Invariant: nothing is sent while something is unsettled or stale. If the process dies, the next start is
//! unsettled again.

use crate::core::record::{Guard, Outcome, Record, Txn, Versioned};
use crate::core::record::{LeaderWrite, TxnKind};
use crate::core::rules::{Rule, Rules};
use baton_replicator::types::{Instant, NodeName};
use std::time::Duration;

/// Pause before a failed request is repeated: short against fencetime, long against a round trip.
const RETRY: Duration = Duration::from_millis(150);
/// A record is read again after this even if no watch said so: a lost watch costs no more than this.
const REREAD: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Idle,
    Reading { id: u64, asked: Instant },
    Fencing { id: u64 },
    Sent { txn: Box<Txn> },
}

/// What the ledger wants done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Read { id: u64 },
    Fence { id: u64 },
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Ledger {
    op: Op,
    unsettled: bool,
    stale: bool,
    look: bool,
    retry_at: Instant,
    next_id: u64,
    view: Option<Record>,
    asked: Instant,
    answered: Instant,
}

impl Ledger {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            op: Op::Idle,
            unsettled: rules.on(Rule::Settle),
            stale: true,
            look: false,
            retry_at: Instant::ZERO,
            next_id: 1,
            view: None,
            asked: Instant::ZERO,
            answered: Instant::ZERO,
        }
    }

    /// The record as last read or written; it may be out of date.
    pub(super) fn view(&self) -> Option<&Record> {
        self.view.as_ref()
    }

    /// Whether the view can be judged: nothing unsettled, nothing to be read first.
    pub(super) fn settled(&self) -> bool {
        !self.unsettled && !self.stale && self.view.is_some()
    }

    /// The outcome of an earlier request, or of an earlier life, is unknown.
    pub(super) fn unsettled(&self) -> bool {
        self.unsettled
    }

    /// A transaction may be sent.
    pub(super) fn free(&self) -> bool {
        self.settled() && matches!(self.op, Op::Idle | Op::Reading { .. })
    }

    /// A transaction is on its way.
    pub(super) fn in_flight(&self) -> Option<&TxnKind> {
        match &self.op {
            Op::Sent { txn } => Some(&txn.kind),
            Op::Idle | Op::Reading { .. } | Op::Fencing { .. } => None,
        }
    }

    /// When the read that gave the view was asked for.
    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    /// The view may be out of date: read before anything else.
    pub(super) fn mark_stale(&mut self) {
        self.stale = true;
    }

    /// Something may have changed: read soon. Transactions need not wait for that, their guards notice.
    pub(super) fn look_again(&mut self) {
        self.look = true;
    }

    /// Settle again before anything else (another etcd answered).
    pub(super) fn mark_unsettled(&mut self) {
        self.unsettled = true;
    }

    pub(super) fn guard(&self, rules: Rules) -> Guard {
        let view = self.view.as_ref();
        let rev = |r: Option<i64>| r.unwrap_or(0);
        Guard {
            leader: rev(view.and_then(|v| v.leader.as_ref()).map(|l| l.revision)),
            insync: rev(view.and_then(|v| v.insync.as_ref()).map(|i| i.revision)),
            fence: rules.on(Rule::Settle).then(|| rev(view.map(|v| v.fence_rev))),
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Notes a transaction as sent. A read that is on its way does not count any more.
    pub(super) fn sent(&mut self, txn: Txn) {
        assert!(self.free(), "a transaction is on its way");
        self.op = Op::Sent { txn: Box::new(txn) };
    }

    /// What to ask for now, if anything.
    pub(super) fn step(&mut self, now: Instant) -> Option<Ask> {
        if self.op != Op::Idle || now < self.retry_at {
            return None;
        }
        if self.unsettled {
            let id = self.next_id();
            self.op = Op::Fencing { id };
            return Some(Ask::Fence { id });
        }
        if self.stale || self.look || now.since(self.answered) >= REREAD {
            let id = self.next_id();
            self.op = Op::Reading { id, asked: now };
            self.look = false;
            return Some(Ask::Read { id });
        }
        None
    }

    /// Takes the answer to a read; false if nobody waits for it any more.
    pub(super) fn on_read(&mut self, id: u64, record: Option<Record>, now: Instant) -> bool {
        let Op::Reading { id: expected, asked } = self.op else { return false };
        if id != expected {
            return false;
        }
        self.op = Op::Idle;
        let Some(record) = record else {
            self.retry_at = now.plus(RETRY);
            return false;
        };
        self.view = Some(record);
        self.asked = asked;
        self.answered = now;
        self.stale = false;
        true
    }

    /// Takes the outcome of a write of the fence key.
    pub(super) fn on_fence(&mut self, id: u64, written: bool, now: Instant) {
        if self.op != (Op::Fencing { id }) {
            return;
        }
        self.op = Op::Idle;
        if written {
            self.unsettled = false;
            self.stale = true;
        } else {
            self.retry_at = now.plus(RETRY);
        }
    }

    /// Takes the outcome of a transaction and brings the view up to date. None if nobody waits for it.
    pub(super) fn on_txn(
        &mut self,
        id: u64,
        outcome: &Outcome,
        me: &NodeName,
        lease: i64,
        rules: Rules,
    ) -> Option<Txn> {
        let Op::Sent { txn } = &self.op else { return None };
        if txn.id != id {
            return None;
        }
        let txn = (**txn).clone();
        self.op = Op::Idle;
        match outcome {
            Outcome::Committed { revision } => self.apply(&txn, *revision, me, lease),
            Outcome::GuardFailed => self.stale = true,
            Outcome::Unknown => {
                self.unsettled = rules.on(Rule::Settle);
                self.stale = true;
            }
        }
        Some(txn)
    }

    fn apply(&mut self, txn: &Txn, revision: i64, me: &NodeName, lease: i64) {
        let Some(view) = self.view.as_mut() else { return };
        view.revision = view.revision.max(revision);
        match &txn.leader {
            LeaderWrite::Keep => {}
            LeaderWrite::Put(key, _) => {
                let lease = if key.node == *me { lease } else { 0 };
                view.leader = Some(Versioned { value: key.clone(), revision, lease });
            }
            LeaderWrite::Delete => view.leader = None,
        }
        if let Some(insync) = &txn.insync {
            view.insync = Some(Versioned { value: insync.clone(), revision, lease: 0 });
        }
        if txn.clear_target {
            view.target = None;
        }
    }
}

#[cfg(test)]
impl Ledger {
    /// What may matter later, for the exhaustive check. A transaction on its way is written by whoever carries it.
    pub(super) fn write_key(
        &self,
        key: &mut crate::core::sim::exhaustive::Key<'_>,
        known_since: Instant,
        lease: i64,
    ) {
        key.num(match self.op {
            Op::Idle => 0,
            Op::Reading { .. } => 1,
            Op::Fencing { .. } => 2,
            Op::Sent { .. } => 3,
        });
        for flag in [self.unsettled, self.stale, self.look, self.asked <= known_since] {
            key.flag(flag);
        }
        key.left(self.retry_at);
        key.age(self.answered, 1);
        key.flag(self.view.is_some());
        if let Some(view) = &self.view {
            key.record(view, lease);
        }
    }
}
