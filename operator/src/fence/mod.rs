//! External fence agents: who may switch whom off, what becomes of it, and whether the devices still answer.
//!
//! One fence at a time in the cluster: whoever fences holds a lock in etcd under its own lease, and looks before each run of
//! an agent whether it still does. So of two nodes that do not hear each other only one, which has a quorum, switches the
//! other off. A person's word needs no lock where etcd is out of reach. Nobody fences himself.
//!
//! If the baton agent dies meanwhile, a program that runs goes on to its own end, and the lock ends with the lease: what it
//! switches off was to be off.

mod agent;
mod levels;
mod monitor;
mod records;
#[cfg(test)]
mod tests;

pub use levels::Action;

use crate::core::group::{FenceOutcome, Severity};
use crate::core::record::Outcome;
use crate::driver::history::History;
use crate::etcd::{Etcd, FenceLock};
use crate::spec::{FenceDevice, Spec, fence_delay};
use crate::status::{FenceRecord, unix_seconds};
use baton_replicator::types::{GroupName, NodeName};
use monitor::Board;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// Most locks that are remembered as left over; one attempt may leave one.
const LEFT_MAX: usize = 64;

/// What the fencer is made of.
pub struct Parts {
    /// This node.
    pub me: NodeName,
    /// Where the agent programs are.
    pub dir: PathBuf,
    /// Where records are kept on this node.
    pub records: PathBuf,
    /// The specification in force.
    pub in_force: watch::Receiver<Arc<Spec>>,
    /// etcd.
    pub etcd: Etcd,
    /// The history.
    pub history: History,
}

/// Switches nodes off. Cheap to clone.
#[derive(Clone)]
pub struct Fencer(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// This node's lease in etcd; 0 = none.
    lease: AtomicI64,
    board: Mutex<Board>,
    /// Locks of attempts that are over, of which it is not known whether they stand or may come to stand yet.
    left: Mutex<VecDeque<FenceLock>>,
    look: Notify,
}

/// On whose account something is switched.
#[derive(Clone, Debug)]
pub enum Because {
    /// A group is to be taken over: leader and in-sync record at these revisions.
    Takeover(GroupName, i64, i64),
    /// A person asked for it.
    Person(String),
}

impl Fencer {
    /// Starts watching the devices.
    #[must_use]
    pub fn start(parts: Parts) -> Self {
        let kept = records::load(&parts.records);
        let inner = Inner {
            parts,
            lease: AtomicI64::new(0),
            board: Mutex::new(Board::with(kept)),
            left: Mutex::default(),
            look: Notify::new(),
        };
        let fencer = Self(Arc::new(inner));
        tokio::spawn(fencer.clone().watch_devices());
        tokio::spawn(fencer.clone().follow_records());
        fencer
    }

    /// This node's lease in etcd has changed.
    pub fn lease(&self, id: i64) {
        self.0.lease.store(id, Ordering::Relaxed);
    }

    /// Asks all devices at once whether they answer.
    pub fn test(&self) {
        self.0.look.notify_one();
    }

    /// Whether something can be done to `node` from here, or why not.
    ///
    /// # Errors
    /// A sentence that says what to do instead.
    pub fn could(&self, node: &NodeName) -> Result<Vec<Vec<FenceDevice>>, String> {
        let me = &self.0.parts.me;
        if node == me {
            return Err(format!("{me} does not fence itself: ask the agent of another node (--api)"));
        }
        let levels = self.levels(node);
        if levels.is_empty() {
            return Err(format!("{node} has no fence devices: add them under nodes.{node}.fence"));
        }
        Ok(levels)
    }

    fn levels(&self, node: &NodeName) -> Vec<Vec<FenceDevice>> {
        self.0.parts.in_force.borrow().nodes.get(node).map(|n| n.fence.clone()).unwrap_or_default()
    }

    /// Does it, and says what came of it. Bounded by the devices' timeouts.
    pub async fn fence(&self, node: NodeName, action: Action, because: Because) -> FenceOutcome {
        let levels = match self.could(&node) {
            Ok(levels) => levels,
            Err(why) => return FenceOutcome::Failed(why),
        };
        if matches!(because, Because::Takeover(..)) {
            tokio::time::sleep(fence_delay(&levels)).await;
        }
        let id = u64::try_from(
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis(),
        )
        .unwrap_or_default();
        let lock = match action {
            Action::Status => None,
            Action::Off | Action::Reboot | Action::On => match self.lock(&node, id, &because).await {
                Ok(lock) => lock,
                Err(why) => return FenceOutcome::Busy(why),
            },
        };
        let outcome = self.locked(&node, &levels, action, id, &because, lock).await;
        if let Some(revision) = lock {
            // One that is not given back is found by the next look, or ends with the lease.
            if self.0.parts.etcd.unlock_fencing(revision).await == Outcome::Unknown {
                self.leave(self.lock_of(&node, id));
            }
        }
        outcome
    }

    fn lock_of(&self, node: &NodeName, id: u64) -> FenceLock {
        FenceLock { by: self.0.parts.me.clone(), target: node.clone(), id }
    }

    fn left(&self) -> MutexGuard<'_, VecDeque<FenceLock>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody uses this lock (any more), and it may stand.
    fn leave(&self, lock: FenceLock) {
        let mut left = self.left();
        left.push_back(lock);
        if left.len() > LEFT_MAX {
            left.pop_front();
        }
    }

    /// Gives the lock back if it is one that was left over here.
    async fn give_back(&self) {
        if self.left().is_empty() {
            return;
        }
        let etcd = &self.0.parts.etcd;
        let Ok(Some((found, revision))) = etcd.fencing_lock().await else { return };
        if !self.left().contains(&found) {
            return;
        }
        match etcd.unlock_fencing(revision).await {
            // It is put once: gone is gone.
            Outcome::Committed { .. } | Outcome::GuardFailed => self.left().retain(|lock| *lock != found),
            Outcome::Unknown => {}
        }
    }

    /// The lock's revision; none if a person wants it without one because etcd does not answer.
    async fn lock(&self, node: &NodeName, id: u64, because: &Because) -> Result<Option<i64>, String> {
        let parts = &self.0.parts;
        let lock = self.lock_of(node, id);
        self.give_back().await;
        let (guard, person) = match because {
            Because::Takeover(group, leader, insync) => (Some((group.clone(), *leader, *insync)), false),
            Because::Person(_) => (None, true),
        };
        let lease = self.0.lease.load(Ordering::Relaxed);
        let outcome = parts.etcd.lock_fencing(&lock, guard.as_ref(), lease).await;
        if let Outcome::Committed { revision } = outcome {
            return Ok(Some(revision));
        }
        let found = parts.etcd.fencing_lock().await;
        if let Ok(Some((found, revision))) = &found
            && *found == lock
        {
            return Ok(Some(*revision));
        }
        if outcome == Outcome::Unknown {
            // It may be committed yet.
            self.leave(lock);
        }
        match found {
            Ok(Some((found, _))) => Err(format!("{} is switching {} off", found.by, found.target)),
            Ok(None) => Err("the group's record has changed, or this node has no lease in etcd".into()),
            Err(_) if person => {
                tracing::warn!(%node, "etcd does not answer: a person's word is enough without its lock");
                Ok(None)
            }
            Err(error) => Err(format!("etcd does not answer: {error}")),
        }
    }

    async fn locked(
        &self,
        node: &NodeName,
        levels: &[Vec<FenceDevice>],
        action: Action,
        id: u64,
        because: &Because,
        lock: Option<i64>,
    ) -> FenceOutcome {
        let parts = &self.0.parts;
        let (group, why) = match because {
            Because::Takeover(group, ..) => (Some(group), format!("before {group} is taken over")),
            Because::Person(who) => (None, format!("asked for by {who}")),
        };
        if action != Action::Status {
            let text = format!("fence agents: {} of {node}, {why}", action.word());
            parts.history.record(group, Severity::Warning, &text);
        }
        self.board().running.insert(node.clone(), action.word().to_owned());
        let call = |device: FenceDevice, call| async move {
            let ended = agent::run(&parts.dir, &device, node, call).await;
            tracing::info!(%node, device = device.name(), call = call.word(), "{}", ended.words());
            ended
        };
        let allowed = || async move {
            let Some(revision) = lock else { return Ok(()) };
            match parts.etcd.fencing_lock().await {
                Ok(Some((_, found))) if found == revision => Ok(()),
                Ok(_) => Err("the lock in etcd is gone: nothing more is switched from here".into()),
                Err(error) => Err(format!("etcd does not confirm the lock any more: {error}")),
            }
        };
        let result = levels::carry_out(levels, action, call, allowed).await;
        let (ok, said) = match result {
            Ok(said) => (true, said),
            Err(why) => (false, why),
        };
        let record = FenceRecord {
            id,
            action: action.word().into(),
            by: parts.me.clone(),
            because: why,
            at: unix_seconds(SystemTime::now()),
            ok,
            said: said.clone(),
            over: false,
        };
        self.ended(node, group, action, record);
        if ok { FenceOutcome::Off } else { FenceOutcome::Failed(said) }
    }

    fn ended(&self, node: &NodeName, group: Option<&GroupName>, action: Action, record: FenceRecord) {
        let parts = &self.0.parts;
        {
            let mut board = self.board();
            board.running.remove(node);
            board.count(node, record.ok);
            board.last.insert(node.clone(), record.clone());
        }
        if action == Action::Status {
            return;
        }
        let severity = if record.ok { Severity::Warning } else { Severity::Critical };
        let word = if record.ok { "done" } else { "FAILED" };
        let text = format!("fence agents: {} of {node} {word}: {}", action.word(), record.said);
        parts.history.record(group, severity, &text);
        if let Err(error) = records::save(&parts.records, node, &record) {
            tracing::error!(%node, %error, "cannot remember on this node what was fenced");
        }
        let (etcd, node) = (parts.etcd.clone(), node.clone());
        tokio::spawn(async move {
            // An hour of attempts: the copy on this node stays.
            for _ in 0..3600 {
                if etcd.put_fence_record(&node, &record).await.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
