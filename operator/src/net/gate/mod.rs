//! The gate: nftables sets through which packets of a group's addresses pass only until serve-until.
//!
//! A thread of its own keeps each address that the node may serve in a set of the kernel whose elements end by
//! themselves, at serve-until and never later: with the agent dead or frozen, too. The address's lifetime in the
//! keeper stands behind it. The tables (see `rules`) are this cluster's alone; nobody else's are touched.
//!
//! The thread looks at the number of the kernel's last transaction four times a second. If somebody else's came
//! between, it compares its tables with what they should be, and makes them anew if they differ. Where the kernel
//! refuses nftables, [`GateState::Missing`] says why, and it is tried again every few seconds.
//!
//! If the thread hangs in the kernel (another program's transaction takes long), elements end by themselves: this
//! node stops answering, which is the safe direction, and the state says for how long it hangs.

mod plan;
mod rules;
mod run;
mod socket;
mod wire;

use super::NetError;
use baton_replicator::types::{GroupName, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The thread has ended by then, or hangs in the kernel.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// A request to the kernel takes less than a millisecond; one that takes longer than this is told.
const HANGS: Duration = Duration::from_secs(1);

/// What enforces serve-until on packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateState {
    /// The rules are in force.
    InForce,
    /// They are not, and why.
    Missing(String),
}

/// News of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateEvent {
    /// The rules are in force, for the first time or again.
    InForce,
    /// Somebody else removed or changed them; they are there again.
    Restored,
    /// The kernel refused them.
    Missing(String),
}

/// Name of the tables of a cluster.
#[must_use]
pub fn table_name(cluster: &str) -> String {
    format!("baton_{cluster}")
}

/// Makes the tables with nothing in them and takes them away again, to see whether the kernel would.
///
/// # Errors
/// [`NetError`]: it refuses; nftables, its `fib` expression or NET_ADMIN is missing.
pub fn probe(table: &str) -> Result<(), NetError> {
    let mut nft = socket::Nft::open()?;
    let mut batch = nft.batch();
    rules::install(&mut batch, table, &[]);
    rules::remove(&mut batch, table);
    nft.commit(batch)?.map_err(|refused| refused.into_error("make nftables rules"))
}

#[derive(Debug)]
struct Desired {
    until: BTreeMap<GroupName, Instant>,
    /// Addresses that are held or linger, with their groups.
    wanted: BTreeMap<IpAddr, GroupName>,
    /// Addresses of the specification.
    guarded: BTreeSet<IpAddr>,
    /// Grows with every change that is to be carried out at once.
    asked: u64,
    stop: bool,
}

#[derive(Debug)]
struct Told {
    state: GateState,
    /// Elements that stand, and until when at the latest.
    open: BTreeMap<IpAddr, Instant>,
    /// The newest `asked` that is carried out.
    done: u64,
    /// Since when the kernel works on a request.
    busy: Option<Instant>,
    news: Vec<GateEvent>,
    restored: u64,
}

#[derive(Debug)]
struct Inner {
    clock: fn() -> Instant,
    desired: Mutex<Desired>,
    changed: Condvar,
    told: Mutex<Told>,
    settled: Condvar,
    /// Called after news, and after an address was opened.
    wake: Arc<tokio::sync::Notify>,
}

/// Handle of the gate's thread. Dropped, it removes the tables if nothing may pass any more, else leaves them to
/// end by themselves what stands in them.
#[derive(Debug)]
pub(super) struct Gate {
    inner: Arc<Inner>,
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Gate {
    /// Starts the thread in the caller's network namespace, and waits until it has looked once.
    pub(super) fn start(
        table: String,
        guarded: impl IntoIterator<Item = IpAddr>,
        clock: fn() -> Instant,
        wake: Arc<tokio::sync::Notify>,
    ) -> Result<Self, NetError> {
        let desired = Desired {
            until: BTreeMap::new(),
            wanted: BTreeMap::new(),
            guarded: guarded.into_iter().collect(),
            asked: 1,
            stop: false,
        };
        let told = Told {
            state: GateState::Missing("not tried yet".into()),
            open: BTreeMap::new(),
            done: 0,
            busy: None,
            news: Vec::new(),
            restored: 0,
        };
        let inner = Arc::new(Inner {
            clock,
            desired: Mutex::new(desired),
            changed: Condvar::new(),
            told: Mutex::new(told),
            settled: Condvar::new(),
            wake,
        });
        let (end, ended) = std::sync::mpsc::channel();
        let shared = Arc::clone(&inner);
        std::thread::Builder::new()
            .name("gate".into())
            .spawn(move || {
                // As urgent as the heartbeats: late, it would fence a healthy leader.
                let _ = crate::heartbeat::ask_realtime();
                run::thread(&shared, &table);
                drop(end);
            })
            .map_err(|e| NetError::refused("start the gate's thread", e))?;
        let gate = Self { inner, ended: Mutex::new(ended) };
        gate.settle(STOP_TIMEOUT);
        Ok(gate)
    }

    /// Serve-until of a group. Only what opens or cuts short is carried out at once; what goes on is looked at
    /// every tick.
    pub(super) fn set_until(&self, group: &GroupName, until: Instant) {
        let now = (self.inner.clock)();
        let mut desired = lock(&self.inner.desired);
        let before = desired.until.insert(group.clone(), until);
        if before.is_none_or(|b| b <= now || until < b) {
            self.ask(desired);
        }
    }

    /// Addresses of the specification, instead of those before. What is held is guarded besides.
    pub(super) fn guard(&self, guarded: impl IntoIterator<Item = IpAddr>) {
        let mut desired = lock(&self.inner.desired);
        desired.guarded = guarded.into_iter().collect();
        self.ask(desired);
    }

    /// The addresses that a group holds from now on; none: released.
    pub(super) fn want(&self, group: &GroupName, addresses: &[IpAddr]) {
        let mut desired = lock(&self.inner.desired);
        desired.wanted.retain(|_, g| g != group);
        desired.wanted.extend(addresses.iter().map(|a| (*a, group.clone())));
        self.ask(desired);
    }

    fn ask(&self, mut desired: MutexGuard<'_, Desired>) {
        desired.asked += 1;
        drop(desired);
        self.inner.changed.notify_one();
    }

    /// Looks, with what was asked for until now, and waits until it is carried out. False if that takes longer.
    pub(super) fn settle(&self, bound: Duration) -> bool {
        let mut desired = lock(&self.inner.desired);
        desired.asked += 1;
        let asked = desired.asked;
        drop(desired);
        self.inner.changed.notify_one();
        let told = lock(&self.inner.told);
        let waited = self.inner.settled.wait_timeout_while(told, bound, |told| told.done < asked);
        waited.is_ok_and(|(_, timeout)| !timeout.timed_out())
    }

    /// Whether packets of the address pass, or nothing here keeps them back.
    pub(super) fn passes(&self, address: IpAddr) -> bool {
        let told = lock(&self.inner.told);
        matches!(told.state, GateState::Missing(_))
            || told.open.get(&address).is_some_and(|ends| *ends > (self.inner.clock)())
    }

    /// What is in force, and how often it had to be restored.
    pub(super) fn state(&self) -> (GateState, u64) {
        let told = lock(&self.inner.told);
        let hangs = told.busy.map(|since| (self.inner.clock)().since(since)).filter(|d| *d > HANGS);
        let state = match hangs {
            Some(hangs) => {
                GateState::Missing(format!("the kernel has not answered for {:.0} s", hangs.as_secs_f64()))
            }
            None => told.state.clone(),
        };
        (state, told.restored)
    }

    /// News since the last call.
    pub(super) fn news(&self) -> Vec<GateEvent> {
        std::mem::take(&mut lock(&self.inner.told).news)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        lock(&self.inner.desired).stop = true;
        self.inner.changed.notify_one();
        // An error is the answer: nobody ever sends, the thread drops its end when it is done.
        let _ = lock(&self.ended).recv_timeout(STOP_TIMEOUT);
    }
}

/// A poisoned lock holds plain data that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
