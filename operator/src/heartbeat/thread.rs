//! The heartbeat thread: drains the sockets, ticks the core once per keepalive, answers leaders at once, and after
//! each round hands serve-until on.
//!
//! Order of a round: receive everything that waits, then tick. After a pause of the process the peers' heartbeats
//! are thus heard before silence is judged. The core's mutex is held for microseconds and never over I/O.

use super::clock;
use super::realtime::{Realtime, ask};
use super::wire::{MAX_DATAGRAM, Sealer};
use crate::core::promises::{HeartbeatCore, Verdict};
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Datagrams taken from one socket before the core ticks again: two keepalives of 64 peers on two links.
const DRAIN: usize = 256;
/// serve-until is handed on between ticks when it grew by this much: a fifth of the default keepalive.
const GROWTH: Duration = Duration::from_millis(20);

/// The core that the heartbeat thread and the driver share.
pub type SharedCore = Arc<Mutex<HeartbeatCore>>;

/// Where heartbeats go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// This node.
    pub node: NodeName,
    /// Own addresses, one per link; a socket is bound to each.
    pub links: Vec<IpAddr>,
    /// Peers with their addresses, one per link.
    pub peers: BTreeMap<NodeName, Vec<IpAddr>>,
    /// UDP port, the same everywhere.
    pub port: u16,
    /// Interval.
    pub keepalive: Duration,
}

/// Why the thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen for heartbeats on UDP {address}: is the address this node's, and the port free?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start the heartbeat thread")]
    Thread(#[source] io::Error),
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Datagrams sent.
    pub sent: AtomicU64,
    /// Datagrams the kernel would not send.
    pub send_failed: AtomicU64,
    /// Datagrams received and taken.
    pub received: AtomicU64,
    /// Datagrams refused: garbage, another version, bad authentication, strangers.
    pub refused: AtomicU64,
    /// Those among them that came from a peer's address (which may be forged).
    pub refused_from: Mutex<BTreeMap<NodeName, u64>>,
}

impl LinkCounters {
    fn refuse(&self, peers: &BTreeMap<NodeName, Vec<IpAddr>>, from: IpAddr) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let sender = peers.iter().find(|(_, links)| links.contains(&from)).map(|(name, _)| name);
        if let Some(name) = sender {
            // A panic aborts the process, so a poisoned mutex cannot be met.
            let mut all = self.refused_from.lock().unwrap_or_else(PoisonError::into_inner);
            *all.entry(name.clone()).or_default() += 1;
        }
    }
}

/// The running thread. Dropping it stops and joins it.
#[derive(Debug)]
pub struct HeartbeatThread {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
    links: Mutex<Vec<IpAddr>>,
    next: Arc<Mutex<Option<Change>>>,
    /// Totals.
    pub counters: Arc<LinkCounters>,
}

impl HeartbeatThread {
    /// Binds a socket per link and starts the thread. `on_serve_until` is called from it, must not block, and gets
    /// every group that this node may serve, once per keepalive and when the deadline moved.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: HeartbeatConfig,
        sealer: Sealer,
        core: SharedCore,
        on_serve_until: impl Fn(&GroupName, Epoch, Instant) + Send + 'static,
    ) -> Result<(Self, Realtime), StartError> {
        let sockets = bind(&config.links, config.port)?;
        let links = Mutex::new(config.links.clone());
        let next = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(LinkCounters::default());
        let (tell, told) = std::sync::mpsc::channel();
        let beats = crate::metrics::Beats::new(&config.peers);
        let round = Round {
            config,
            sealer,
            core,
            sockets,
            counters: Arc::clone(&counters),
            next: Arc::clone(&next),
            handed: BTreeMap::new(),
            beats,
            on_serve_until: Box::new(on_serve_until),
        };
        let halt = Arc::clone(&stop);
        let handle = std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                let _ = tell.send(ask());
                round.run(&halt);
            })
            .map_err(StartError::Thread)?;
        let realtime = told.recv().unwrap_or(Realtime { priority: false, memory: false });
        Ok((Self { stop, handle: Some(handle), links, next, counters }, realtime))
    }

    /// Takes over other links, peers or another interval without missing a beat: links that stay keep their sockets.
    /// In force with the thread's next round.
    ///
    /// # Errors
    /// [`StartError::Bind`] for a link that is new; then everything stays as it was.
    pub fn reconfigure(&self, config: HeartbeatConfig) -> Result<(), StartError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let added: Vec<IpAddr> = config.links.iter().filter(|l| !links.contains(l)).copied().collect();
        let sockets = bind(&added, config.port)?;
        links.clone_from(&config.links);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sockets: Vec<(IpAddr, UdpSocket)> = added.into_iter().zip(sockets).collect();
        // What was handed over and not taken yet goes along.
        sockets.extend(next.take().into_iter().flat_map(|change: Change| change.sockets));
        *next = Some(Change { config, sockets });
        Ok(())
    }
}

fn bind(links: &[IpAddr], port: u16) -> Result<Vec<UdpSocket>, StartError> {
    let bind = |link: &IpAddr| {
        let address = SocketAddr::new(*link, port);
        let bound = UdpSocket::bind(address).and_then(|s| s.set_nonblocking(true).map(|()| s));
        bound.map_err(|source| StartError::Bind { address, source })
    };
    links.iter().map(bind).collect()
}

/// What the thread takes over at the beginning of a round.
#[derive(Debug)]
struct Change {
    config: HeartbeatConfig,
    /// Sockets of links that are new.
    sockets: Vec<(IpAddr, UdpSocket)>,
}

impl Drop for HeartbeatThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

/// Who is told about serve-until.
type OnServeUntil = Box<dyn Fn(&GroupName, Epoch, Instant) + Send>;

struct Round {
    config: HeartbeatConfig,
    sealer: Sealer,
    core: SharedCore,
    sockets: Vec<UdpSocket>,
    counters: Arc<LinkCounters>,
    next: Arc<Mutex<Option<Change>>>,
    handed: BTreeMap<GroupName, (Epoch, Instant)>,
    beats: crate::metrics::Beats,
    on_serve_until: OnServeUntil,
}

impl Round {
    fn run(mut self, stop: &AtomicBool) {
        let mut next = clock::now();
        let mut buffer = vec![0; MAX_DATAGRAM];
        while !stop.load(Ordering::Relaxed) {
            if self.take_change() {
                next = next.min(clock::now().plus(self.config.keepalive));
            }
            self.receive(&mut buffer);
            let now = clock::now();
            let due = now >= next;
            if due {
                let messages = self.lock().tick(now);
                for (peer, message) in messages {
                    self.send(&peer, &message);
                }
                next = next.plus(self.config.keepalive);
                // After a pause the missed beats are not made up for.
                if next <= now {
                    next = now.plus(self.config.keepalive);
                }
            }
            self.hand_on(due);
            self.wait(next.since(clock::now()));
        }
    }

    /// Links that stay keep their sockets, and what waits in them.
    fn take_change(&mut self) -> bool {
        let change = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Change { config, sockets }) = change else { return false };
        let old = std::mem::take(&mut self.config.links).into_iter().zip(std::mem::take(&mut self.sockets));
        let mut all: BTreeMap<IpAddr, UdpSocket> = old.chain(sockets).collect();
        // Every link has its socket: it was bound, or was there before.
        let (links, sockets) = config.links.iter().filter_map(|l| Some((*l, all.remove(l)?))).unzip();
        self.sockets = sockets;
        self.config = HeartbeatConfig { links, ..config };
        true
    }

    fn lock(&self) -> MutexGuard<'_, HeartbeatCore> {
        // A panic aborts the process, so a poisoned mutex cannot be met.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for socket in &self.sockets {
            for _ in 0..DRAIN {
                let Ok((length, source)) = socket.recv_from(buffer) else { break };
                let Ok((from, message)) = self.sealer.open(&buffer[..length]) else {
                    self.counters.refuse(&self.config.peers, source.ip());
                    continue;
                };
                let now = clock::now();
                let (verdict, answer) = {
                    let mut core = self.lock();
                    let verdict = core.on_datagram(&from, message, now);
                    match verdict {
                        Verdict::Taken | Verdict::Answer | Verdict::Duplicate => {
                            self.counters.received.fetch_add(1, Ordering::Relaxed);
                        }
                        Verdict::Refused | Verdict::Stranger => {
                            self.counters.refuse(&self.config.peers, source.ip());
                        }
                    }
                    (verdict, (verdict == Verdict::Answer).then(|| core.answer(now)))
                };
                if !matches!(verdict, Verdict::Refused | Verdict::Stranger) {
                    self.beats.came(&from, source.ip(), verdict != Verdict::Duplicate, now);
                }
                if let Some(answer) = answer {
                    self.send(&from, &answer);
                }
            }
        }
    }

    fn send(&self, peer: &NodeName, message: &crate::core::beat::HeartbeatMsg) {
        let Some(datagram) = self.sealer.seal(&self.config.node, message) else { return };
        for address in self.config.peers.get(peer).into_iter().flatten() {
            let to = SocketAddr::new(*address, self.config.port);
            // The socket of the same family; which link the kernel takes is its routing table's business.
            let sent = self
                .sockets
                .iter()
                .zip(&self.config.links)
                .filter(|(_, link)| link.is_ipv4() == address.is_ipv4())
                .any(|(socket, _)| socket.send_to(&datagram, to).is_ok());
            let counter = if sent { &self.counters.sent } else { &self.counters.send_failed };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hand_on(&mut self, due: bool) {
        let now = clock::now();
        let served: Vec<_> = {
            let core = self.lock();
            let groups = core.groups();
            groups.into_iter().filter_map(|g| core.serve_until(&g, now).map(|s| (g, s))).collect()
        };
        for (group, (epoch, until)) in served {
            let last = self.handed.get(&group).copied();
            let moved = last.is_none_or(|(e, u)| e != epoch || until >= u.plus(GROWTH) || until < u);
            if due || moved {
                (self.on_serve_until)(&group, epoch, until);
                self.handed.insert(group, (epoch, until));
            }
        }
    }

    fn wait(&self, at_most: Duration) {
        let mut fds: Vec<PollFd<'_>> = self.sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(at_most.min(Duration::from_millis(500)).subsec_nanos()),
        };
        // An interrupted or failed poll only means an early round.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
