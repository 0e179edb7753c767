//! The handle of the address keeper: what the driver, the heartbeat thread and the API call.
//!
//! The keeper is a thread with a runtime of its own, so that neither a busy main runtime nor a hung core can
//! extend an address by accident or delay its removal. It extends a held address only while the group's
//! serve-until lies far enough ahead, and takes it away when serve-until has passed. All calls here are cheap
//! and never block; those that wait return a future that is already under way and may be dropped.
//!
//! If the agent dies or freezes, packets of its addresses stop at serve-until (see [`gate`](super::gate)), and the kernel removes
//! every address within its lifetime ([`LIFETIME_S`] plus the kernel's rounding, 1.3 s together). If the handle is
//! dropped, held addresses are removed; lingering ones stay.

mod commands;
mod defend;
mod look;
mod plan;
mod run;

use super::NetError;
use super::frames::Mac;
use super::gate::{Gate, GateEvent, GateState};
use baton_replicator::types::{GroupName, Instant};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};

pub use plan::LIFETIME_S;

/// Commands that may wait for the thread. It needs a millisecond for each; a full queue means that it hangs, and
/// the caller hears [`KeeperError::Busy`].
const COMMANDS_MAX: usize = 64;
/// Bound of opening two netlink sockets and one packet socket.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an address waits for the gate to open for it, and an agent that ends for the gate to stay open.
const GATE_TIMEOUT: Duration = Duration::from_millis(100);
/// Bound of removing what is held when the handle is dropped; afterwards the kernel lifetime does it.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a call to the keeper did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeeperError {
    /// The thread has ended.
    #[error("the address keeper has stopped")]
    Stopped,
    /// The queue of commands is full.
    #[error("the address keeper hangs: {COMMANDS_MAX} commands wait")]
    Busy,
    /// The group was released, or held with other addresses, before they were up.
    #[error("the group was released before its addresses were up")]
    Released,
    /// Serve-until did not get far enough ahead. The group stays held.
    #[error("not entitled to serve within {} ms", waited.as_millis())]
    NotEntitled {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The group is not held.
    #[error("the group holds no addresses")]
    NotHeld,
    /// The kernel. A held group stays held, and is tried again.
    #[error(transparent)]
    Net(#[from] NetError),
}

/// Why an address was taken off the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// `release`.
    Released,
    /// Serve-until has passed: the node fenced itself.
    Fenced,
    /// The kernel lifetime was over while the group was not entitled to an extension.
    Expired,
    /// `strays`: a leftover of an earlier run.
    Stray,
}

/// What happened to an address. Sent to the callback given to [`AddressKeeper::start`].
#[derive(Debug, Clone)]
pub enum KeeperEvent {
    /// The address is on the interface, and announced.
    Up {
        /// Its group.
        group: GroupName,
        /// The address.
        address: IpAddr,
        /// Where.
        interface: String,
    },
    /// The address is gone.
    Removed {
        /// Its group; none for a stray.
        group: Option<GroupName>,
        /// The address.
        address: IpAddr,
        /// Why.
        why: RemovalReason,
    },
    /// Somebody else removed the address; it is added again at once (an `Up` follows).
    Vanished {
        /// Its group.
        group: GroupName,
        /// The address.
        address: IpAddr,
    },
    /// Adding, extending, announcing or removing failed; it is tried again, and reported again only when the
    /// error changes.
    Failed {
        /// The address, if it is about one.
        address: Option<IpAddr>,
        /// Why.
        error: NetError,
    },
    /// The carrier of the node's own interface, or of one that holds addresses, came or went.
    Link(LinkState),
    /// Another machine says that the address is its own. It stays, and is announced again.
    Conflict {
        /// Its group.
        group: GroupName,
        /// The address.
        address: IpAddr,
        /// The other machine's hardware address.
        mac: Mac,
    },
    /// The other machine has not said so for a while, although it was asked.
    ConflictOver {
        /// Its group.
        group: GroupName,
        /// The address.
        address: IpAddr,
    },
    /// The nftables rules are in force, or are not.
    Gate(GateEvent),
}

/// The nftables rules that an [`AddressKeeper`] keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    /// Name of the tables; see [`table_name`](super::gate::table_name).
    pub table: String,
    /// Every address of the specification.
    pub guarded: Vec<IpAddr>,
}

/// The state of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub interface: String,
    /// Up, with carrier. False if it is gone.
    pub carrier: bool,
}

/// A held address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressState {
    /// Its group.
    pub group: GroupName,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Whether it is on the interface.
    pub up: bool,
    /// The interface, once chosen.
    pub interface: Option<String>,
    /// Whether that interface has carrier.
    pub carrier: bool,
    /// Hardware address of another machine that says the address is its own.
    pub conflict: Option<Mac>,
    /// The last error, if it still stands.
    pub error: Option<String>,
}

/// What the handle and the thread share. Locked for a few instructions only.
#[derive(Default)]
struct Shared {
    until: Mutex<BTreeMap<GroupName, Instant>>,
    wake: Arc<Notify>,
    snapshot: Mutex<Snapshot>,
    gate: Option<Gate>,
}

#[derive(Default)]
struct Snapshot {
    addresses: Vec<AddressState>,
    own: Option<LinkState>,
}

type Reply<T> = oneshot::Sender<Result<T, KeeperError>>;

/// An address that is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// The host may choose it as a source of its own connections.
    pub preferred: bool,
}

enum Command {
    Hold { group: GroupName, addresses: Vec<Wanted>, reply: Reply<()> },
    Release { group: GroupName, reply: Reply<()> },
    Linger { group: GroupName, lifetime_s: u32, reply: Reply<u32> },
    Strays { addresses: Vec<IpAddr>, reply: Reply<Vec<IpAddr>> },
    Configure { own_address: IpAddr, fencetime: Duration, reply: Reply<()> },
}

/// Handle of the keeper's thread.
pub struct AddressKeeper {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    /// Disconnects when the thread has ended. In a mutex so that the handle can be shared between threads.
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl AddressKeeper {
    /// Starts the thread in the caller's network namespace. `own_address` is the node's address, `clock` reads
    /// CLOCK_BOOTTIME. Without `gate`, addresses have their lifetime only. `on_event` runs on the keeper's thread and
    /// must not block.
    ///
    /// # Errors
    /// [`NetError`] if the sockets cannot be opened: NET_ADMIN or NET_RAW is missing.
    pub fn start(
        own_address: IpAddr,
        fencetime: Duration,
        clock: fn() -> Instant,
        gate: Option<GateConfig>,
        on_event: impl Fn(KeeperEvent) + Send + 'static,
    ) -> Result<Self, NetError> {
        let wake = Arc::new(Notify::new());
        let gate = gate.map(|g| Gate::start(g.table, g.guarded, clock, Arc::clone(&wake))).transpose()?;
        let shared = Arc::new(Shared { wake, gate, ..Shared::default() });
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = std::sync::mpsc::channel();
        let setup = run::Setup {
            own_address,
            fencetime,
            clock,
            on_event: Box::new(on_event),
            shared: Arc::clone(&shared),
            queue,
        };
        std::thread::Builder::new()
            .name("addresses".into())
            .spawn(move || {
                run::thread(setup, &started);
                drop(end);
            })
            .map_err(|e| NetError::refused("start the address thread", e))?;
        match outcome.recv_timeout(START_TIMEOUT) {
            Ok(Ok(())) => Ok(Self { shared, commands: Some(commands), ended: Mutex::new(ended) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetError::Timeout {
                what: "open the netlink sockets".into(),
                timeout_ms: START_TIMEOUT.as_millis(),
            }),
        }
    }

    /// Holds `addresses` for `group`, instead of whatever it held. They are added
    /// once serve-until is at least 0.8 × fencetime ahead; addresses that already stand there with a lifetime (an
    /// agent that restarted) are taken over without a gap. Ready when all are up and announced once; an error
    /// tells that this failed for now, the group stays held until `release`.
    pub fn hold(
        &self,
        group: GroupName,
        addresses: Vec<Wanted>,
    ) -> impl Future<Output = Result<(), KeeperError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        self.call(Command::Hold { group, addresses, reply }, answer)
    }

    /// Removes the group's addresses at once. Ready when they are gone; an error means that the kernel refused,
    /// and that its lifetime will do it instead. Releasing what is not held is fine.
    pub fn release(
        &self,
        group: GroupName,
    ) -> impl Future<Output = Result<(), KeeperError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        self.call(Command::Release { group, reply }, answer)
    }

    /// Hands on the group's serve-until; the heartbeat thread calls this at least every keepalive. A past
    /// instant (`Instant::ZERO`) fences: held addresses go at once, and come back when it moves ahead again.
    /// Before the first call for a group nothing is added or removed, so that an agent that restarts leaves
    /// lingering addresses alone until it knows whether it is entitled.
    pub fn set_until(&self, group: &GroupName, until: Instant) {
        let mut all = lock(&self.shared.until);
        match all.get_mut(group) {
            Some(known) if *known == until => return,
            Some(known) => *known = until,
            None => {
                all.insert(group.clone(), until);
            }
        }
        drop(all);
        if let Some(gate) = &self.shared.gate {
            gate.set_until(group, until);
        }
        self.shared.wake.notify_one();
    }

    /// The last act before an orderly restart of the agent: gives the group's addresses one long lifetime, at
    /// most what is left until serve-until, and lets go of them without removing them. Ready with the lifetime
    /// in seconds.
    pub fn linger(
        &self,
        group: GroupName,
        lifetime: Duration,
    ) -> impl Future<Output = Result<u32, KeeperError>> + Send + 'static + use<> {
        let lifetime_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let (reply, answer) = oneshot::channel();
        self.call(Command::Linger { group, lifetime_s, reply }, answer)
    }

    /// Removes those of `addresses` that stand on an interface with a finite lifetime and are neither held nor
    /// lingering: leftovers of an earlier run. Ready with what was removed.
    pub fn strays(
        &self,
        addresses: Vec<IpAddr>,
    ) -> impl Future<Output = Result<Vec<IpAddr>, KeeperError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        self.call(Command::Strays { addresses, reply }, answer)
    }

    /// Another own address or fencetime from now on; what is held stays where it is. Ready when in force.
    pub fn reconfigure(
        &self,
        own_address: IpAddr,
        fencetime: Duration,
    ) -> impl Future<Output = Result<(), KeeperError>> + Send + 'static + use<> {
        let (reply, answer) = oneshot::channel();
        self.call(Command::Configure { own_address, fencetime, reply }, answer)
    }

    /// The addresses of a changed specification: packets of these pass only where they may be served.
    pub fn guard(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        if let Some(gate) = &self.shared.gate {
            gate.guard(addresses);
        }
    }

    /// Whether the nftables rules are in force, and how often somebody else removed them.
    #[must_use]
    pub fn gate(&self) -> (GateState, u64) {
        let off = || (GateState::Missing("switched off".into()), 0);
        self.shared.gate.as_ref().map_or_else(off, Gate::state)
    }

    /// The held addresses as they are now.
    #[must_use]
    pub fn addresses(&self) -> Vec<AddressState> {
        lock(&self.shared.snapshot).addresses.clone()
    }

    /// Groups with an address that is up, and until when each may be served; never, if nobody said.
    #[must_use]
    pub fn held_until(&self) -> Vec<(GroupName, Instant)> {
        let groups: std::collections::BTreeSet<GroupName> =
            lock(&self.shared.snapshot).addresses.iter().filter(|a| a.up).map(|a| a.group.clone()).collect();
        let until = lock(&self.shared.until);
        let of = |group: GroupName| {
            let until = until.get(&group).copied().unwrap_or(Instant::ZERO);
            (group, until)
        };
        groups.into_iter().map(of).collect()
    }

    /// The interface that carries the node's own address; none if there never was one.
    #[must_use]
    pub fn own_link(&self) -> Option<LinkState> {
        lock(&self.shared.snapshot).own.clone()
    }

    fn call<T: Send + 'static>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, KeeperError>>,
    ) -> impl Future<Output = Result<T, KeeperError>> + Send + 'static + use<T> {
        let sent = match &self.commands {
            Some(commands) => commands.try_send(command).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => KeeperError::Busy,
                mpsc::error::TrySendError::Closed(_) => KeeperError::Stopped,
            }),
            None => Err(KeeperError::Stopped),
        };
        async move {
            sent?;
            answer.await.unwrap_or(Err(KeeperError::Stopped))
        }
    }
}

impl Drop for AddressKeeper {
    fn drop(&mut self) {
        self.commands = None;
        // An error is the answer: nobody ever sends, the thread drops its end when it is done.
        let _ = lock(&self.ended).recv_timeout(STOP_TIMEOUT);
    }
}

/// A poisoned lock holds plain data that is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
