//! The heartbeat thread: drain the sockets, tick when a keepalive is due, hand serve-until on; again within 10 ms.
//!
//! Invariants: datagrams are drained before a tick, so that after a pause of the process the logic judges silence
//! with everything in hand that arrived. The logic's lock is held only while it computes, never over a system
//! call. Sending never blocks. Everything that is dropped is counted.

use super::publish::Publisher;
use super::realtime::{self, Realtime};
use super::wire::{Codec, MAX_DATAGRAM, Refused};
use super::{ServeUntilSink, clock};
use baton_replicator::api::ServeUntil;
use baton_replicator::types::{Instant, NodeName};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Granularity of the loop: the latest that a deadline or a stop is noticed.
const STEP: Duration = Duration::from_millis(10);
/// Datagrams taken in one round before the timers get their turn; the sockets' buffers hold a few hundred.
const DRAIN: usize = 1024;
/// Room for a burst while the thread waits for a CPU: several seconds of heartbeats of eight peers.
const RECEIVE_BUFFER: usize = 1 << 20;
/// One message in the log per kind of refusal and this time; a flood must not fill the disk.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What the thread serves. Called with its lock held; must not block.
pub trait HeartbeatLogic: Send + 'static {
    /// What a heartbeat carries.
    type Message: Serialize + DeserializeOwned;

    /// An authentic message of a peer arrived. Returns what is to be sent at once.
    fn on_datagram(
        &mut self,
        from: &NodeName,
        message: Self::Message,
        now: Instant,
    ) -> Vec<(NodeName, Self::Message)>;

    /// A keepalive is due. Returns what is to be sent.
    fn tick(&mut self, now: Instant) -> Vec<(NodeName, Self::Message)>;

    /// Every deadline in force, one per group that may serve.
    fn serve_until(&mut self, now: Instant) -> Vec<ServeUntil>;
}

/// What the thread needs to know.
#[derive(Debug, Clone)]
pub struct HeartbeatConfig {
    /// This node.
    pub node: NodeName,
    /// Where to listen, e.g. `0.0.0.0:694` and `[::]:694`.
    pub listen: Vec<SocketAddr>,
    /// The other nodes, each with its addresses: every message goes to all of them.
    pub peers: BTreeMap<NodeName, Vec<SocketAddr>>,
    /// Between two ticks.
    pub keepalive: Duration,
}

impl HeartbeatConfig {
    /// Listens on `port` on all addresses of every family that the peers' addresses need.
    #[must_use]
    pub fn new(
        node: NodeName,
        port: u16,
        peers: BTreeMap<NodeName, Vec<IpAddr>>,
        keepalive: Duration,
    ) -> Self {
        let mut listen = Vec::new();
        for any in [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])] {
            if peers.values().flatten().any(|a| a.is_ipv4() == any.is_ipv4()) {
                listen.push(SocketAddr::new(any, port));
            }
        }
        let peers = peers
            .into_iter()
            .map(|(name, addresses)| {
                (name, addresses.into_iter().map(|a| SocketAddr::new(a, port)).collect())
            })
            .collect();
        Self { node, listen, peers, keepalive }
    }
}

/// Why heartbeats could not start.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// The port is taken, or not allowed.
    #[error("cannot listen for heartbeats on UDP {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread or file descriptor left.
    #[error("cannot start the heartbeat thread: {0}")]
    Start(#[source] io::Error),
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Authentic messages handed to the logic.
    pub received: AtomicU64,
    /// Datagrams sent.
    pub sent: AtomicU64,
    /// Datagrams that could not be sent.
    pub send_errors: AtomicU64,
    /// Not a heartbeat, cut off, or too long.
    pub refused_garbage: AtomicU64,
    /// Another version, or another cluster.
    pub refused_foreign: AtomicU64,
    /// Another secret.
    pub refused_authentication: AtomicU64,
    /// Authentic, but the message does not decode.
    pub refused_message: AtomicU64,
    /// Authentic, but of no peer.
    pub refused_stranger: AtomicU64,
    /// Ticks that came later than one keepalive after they were due.
    pub late_ticks: AtomicU64,
    /// The longest time between two ticks, microseconds.
    pub longest_tick_us: AtomicU64,
}

/// [`Counters`] of everything refused, added up.
impl Counters {
    /// Datagrams refused for whatever reason.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let Self {
            refused_garbage,
            refused_foreign,
            refused_authentication,
            refused_message,
            refused_stranger,
            ..
        } = self;
        [refused_garbage, refused_foreign, refused_authentication, refused_message, refused_stranger]
            .iter()
            .map(|c| c.load(Relaxed))
            .sum()
    }
}

/// One address of one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Datagrams sent there.
    pub sent: u64,
    /// Datagrams that could not be sent.
    pub errors: u64,
    /// The last error, none if the last datagram went out.
    pub error: Option<String>,
}

struct Shared {
    stop: AtomicBool,
    wake: OwnedFd,
    counters: Counters,
    links: Mutex<BTreeMap<(NodeName, SocketAddr), LinkCounters>>,
    plan: Mutex<Plan>,
}

struct Plan {
    peers: BTreeMap<NodeName, Vec<SocketAddr>>,
    keepalive: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere aborts the agent; in tests the data is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Talks to the running thread; cheap to clone.
#[derive(Clone)]
pub struct HeartbeatHandle(Arc<Shared>);

impl HeartbeatHandle {
    /// Ticks at once: something changed that the peers should hear before the next keepalive.
    pub fn kick(&self) {
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }

    /// Replaces the peers and the keepalive.
    pub fn set_peers(&self, peers: BTreeMap<NodeName, Vec<SocketAddr>>, keepalive: Duration) {
        lock(&self.0.links).retain(|(name, address), _| peers.get(name).is_some_and(|a| a.contains(address)));
        *lock(&self.0.plan) = Plan { peers, keepalive };
        self.kick();
    }

    /// Totals since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Every address of every peer.
    #[must_use]
    pub fn links(&self) -> BTreeMap<(NodeName, SocketAddr), LinkCounters> {
        lock(&self.0.links).clone()
    }
}

/// The running thread. Dropping it stops heartbeats.
pub struct HeartbeatThread {
    handle: HeartbeatHandle,
    thread: Option<JoinHandle<()>>,
    realtime: Realtime,
    addresses: Vec<SocketAddr>,
}

impl HeartbeatThread {
    /// Binds the sockets and starts the thread.
    ///
    /// # Errors
    /// A port is taken, or the system has no thread left.
    pub fn start<L: HeartbeatLogic>(
        config: HeartbeatConfig,
        codec: Codec,
        logic: Arc<Mutex<L>>,
        sinks: Vec<Box<dyn ServeUntilSink>>,
    ) -> Result<Self, HeartbeatError> {
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for &address in &config.listen {
            let socket = bind(address).map_err(|source| HeartbeatError::Listen { address, source })?;
            addresses.push(socket.local_addr().map_err(|source| HeartbeatError::Listen { address, source })?);
            sockets.push(socket);
        }
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| HeartbeatError::Start(e.into()))?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            wake,
            counters: Counters::default(),
            links: Mutex::default(),
            plan: Mutex::new(Plan { peers: config.peers, keepalive: config.keepalive }),
        });
        let (report, granted) = std::sync::mpsc::sync_channel(1);
        let mut looper = Loop {
            node: config.node,
            codec,
            logic,
            sinks,
            sockets,
            shared: shared.clone(),
            buffer: vec![0; MAX_DATAGRAM + 1],
            logged: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                let _ = report.send(realtime::ask());
                looper.run();
            })
            .map_err(HeartbeatError::Start)?;
        let realtime = granted.recv().map_err(|e| HeartbeatError::Start(io::Error::other(e)))?;
        Ok(Self { handle: HeartbeatHandle(shared), thread: Some(thread), realtime, addresses })
    }

    /// A handle to the thread.
    #[must_use]
    pub fn handle(&self) -> HeartbeatHandle {
        self.handle.clone()
    }

    /// What of real-time priority and locked memory was granted.
    #[must_use]
    pub fn realtime(&self) -> &Realtime {
        &self.realtime
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for HeartbeatThread {
    fn drop(&mut self) {
        self.handle.0.stop.store(true, Relaxed);
        self.handle.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As much as the system allows; the default will do, too.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    // Expedited forwarding, for networks that look at it: a heartbeat behind a resync is late.
    let _ = if address.is_ipv4() { socket.set_tos_v4(0xb8) } else { socket.set_tclass_v6(0xb8) };
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

struct Loop<L: HeartbeatLogic> {
    node: NodeName,
    codec: Codec,
    logic: Arc<Mutex<L>>,
    sinks: Vec<Box<dyn ServeUntilSink>>,
    sockets: Vec<UdpSocket>,
    shared: Arc<Shared>,
    buffer: Vec<u8>,
    logged: BTreeMap<&'static str, Instant>,
}

impl<L: HeartbeatLogic> Loop<L> {
    fn run(&mut self) {
        let mut last_tick = clock::now();
        let mut next_tick = last_tick;
        let mut publisher = Publisher::new(lock(&self.shared.plan).keepalive);
        while !self.shared.stop.load(Relaxed) {
            let kicked = self.wait(next_tick.since(clock::now()).min(STEP));
            self.drain();
            let now = clock::now();
            if kicked || now >= next_tick {
                let keepalive = lock(&self.shared.plan).keepalive;
                let late = now.since(next_tick) > keepalive;
                self.shared.counters.late_ticks.fetch_add(u64::from(late), Relaxed);
                let gap = u64::try_from(now.since(last_tick).as_micros()).unwrap_or(u64::MAX);
                self.shared.counters.longest_tick_us.fetch_max(gap, Relaxed);
                last_tick = now;
                // Keep the rhythm; after a pause do not make up for what was missed.
                next_tick = if late || kicked { now.plus(keepalive) } else { next_tick.plus(keepalive) };
                let messages = lock(&self.logic).tick(now);
                self.send(messages);
            }
            let now = clock::now();
            let in_force = lock(&self.logic).serve_until(now);
            for due in publisher.due(in_force, now) {
                for sink in &mut self.sinks {
                    sink.serve_until(&due);
                }
            }
        }
    }

    /// Waits for a datagram, a kick or the time; true if kicked.
    fn wait(&self, at_most: Duration) -> bool {
        let mut fds: Vec<PollFd<'_>> = self.sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
        if let Err(error) = poll(&mut fds, Some(&timeout))
            && error != rustix::io::Errno::INTR
        {
            // Out of memory, at worst: keep the rhythm all the same.
            std::thread::sleep(at_most);
        }
        let mut count = [0; 8];
        rustix::io::read(&self.shared.wake, &mut count).is_ok()
    }

    fn drain(&mut self) {
        for at in 0..self.sockets.len() {
            for _ in 0..DRAIN {
                let received = self.sockets[at].recv_from(&mut self.buffer);
                match received {
                    Ok((length, from)) => self.datagram(length, from),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about something sent earlier; the next datagram may be fine.
                    Err(_) => {}
                }
            }
        }
    }

    fn datagram(&mut self, length: usize, from: SocketAddr) {
        let opened = self.codec.open::<L::Message>(&self.buffer[..length]);
        let checked = opened.and_then(|(sender, message)| {
            let known = sender != self.node && lock(&self.shared.plan).peers.contains_key(&sender);
            if known { Ok((sender, message)) } else { Err(Refused::Stranger) }
        });
        match checked {
            Ok((sender, message)) => {
                self.shared.counters.received.fetch_add(1, Relaxed);
                let answers = lock(&self.logic).on_datagram(&sender, message, clock::now());
                self.send(answers);
            }
            Err(refused) => self.refuse(refused, from),
        }
    }

    fn refuse(&mut self, refused: Refused, from: SocketAddr) {
        let counters = &self.shared.counters;
        let (counter, kind) = match refused {
            Refused::Garbage | Refused::Oversize => (&counters.refused_garbage, "garbage"),
            Refused::Version | Refused::Cluster => (&counters.refused_foreign, "foreign"),
            Refused::Authentication => (&counters.refused_authentication, "authentication"),
            Refused::Message => (&counters.refused_message, "message"),
            Refused::Stranger => (&counters.refused_stranger, "stranger"),
        };
        counter.fetch_add(1, Relaxed);
        let now = clock::now();
        if self.logged.get(kind).is_none_or(|&last| now.since(last) >= LOG_EVERY) {
            self.logged.insert(kind, now);
            tracing::warn!(%from, reason = %refused, "heartbeat datagram refused");
        }
    }

    fn send(&mut self, messages: Vec<(NodeName, L::Message)>) {
        for (peer, message) in messages {
            let addresses = lock(&self.shared.plan).peers.get(&peer).cloned().unwrap_or_default();
            let Ok(datagram) = self.codec.seal(&self.node, &message) else {
                self.shared.counters.send_errors.fetch_add(1, Relaxed);
                continue;
            };
            for address in addresses {
                let socket = self
                    .sockets
                    .iter()
                    .find(|s| s.local_addr().is_ok_and(|a| a.is_ipv4() == address.is_ipv4()));
                let outcome = match socket {
                    Some(socket) => socket.send_to(&datagram, address).map(|_| ()),
                    None => Err(io::ErrorKind::AddrNotAvailable.into()),
                };
                let mut links = lock(&self.shared.links);
                let link = links.entry((peer.clone(), address)).or_default();
                match outcome {
                    Ok(()) => {
                        self.shared.counters.sent.fetch_add(1, Relaxed);
                        link.sent += 1;
                        link.error = None;
                    }
                    Err(error) => {
                        self.shared.counters.send_errors.fetch_add(1, Relaxed);
                        link.errors += 1;
                        if link.error.is_none() {
                            tracing::warn!(%peer, %address, %error, "heartbeat cannot be sent on this link");
                        }
                        link.error = Some(error.to_string());
                    }
                }
            }
        }
    }
}
