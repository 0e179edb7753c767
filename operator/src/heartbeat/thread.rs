//! The heartbeat thread as its owner has it: started, told of another configuration, stopped, and its counters. What it
//! does is in [`Round`].

use super::bell::Bell;
use super::clock;
use super::link::{Desk, Port, Slot};
use super::realtime::{Realtime, ask};
use super::round::{Change, Round};
use super::wire::Sealer;
use crate::core::links::Links;
use crate::core::promises::HeartbeatCore;
use crate::spec::HeartbeatLink;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The core that the heartbeat thread and the driver share.
pub type SharedCore = Arc<Mutex<HeartbeatCore>>;
/// What the heartbeat thread knows about its links, for who shows it.
pub type SharedLinks = Arc<Mutex<Links>>;

/// Where heartbeats go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatConfig {
    /// This node.
    pub node: NodeName,
    /// Own links.
    pub links: Vec<HeartbeatLink>,
    /// Peers with their links, in the same order.
    pub peers: BTreeMap<NodeName, Vec<HeartbeatLink>>,
    /// UDP port, the same everywhere.
    pub port: u16,
    /// Interval.
    pub keepalive: Duration,
    /// A peer silent for this long is late.
    pub warntime: Duration,
    /// A peer silent for this long is not heard any more.
    pub deadtime: Duration,
}

impl HeartbeatConfig {
    pub(super) fn timers(&self) -> [Duration; 3] {
        [self.keepalive, self.warntime, self.deadtime]
    }

    /// For each link the peers that are on it.
    pub(super) fn on_links(&self) -> Vec<Vec<NodeName>> {
        let on = |(i, link): (usize, &HeartbeatLink)| {
            let there = |theirs: &[HeartbeatLink]| {
                link.is_there() && theirs.get(i).is_some_and(|l| l.kind() == link.kind())
            };
            self.peers.iter().filter(|(_, l)| there(l)).map(|(name, _)| name.clone()).collect()
        };
        self.links.iter().enumerate().map(on).collect()
    }

    /// By peer, what each of its links is called in metrics: its address, or the kind and interface here.
    pub(super) fn names(&self) -> BTreeMap<NodeName, Vec<String>> {
        let name = |(own, theirs): (&HeartbeatLink, &HeartbeatLink)| {
            theirs.address().map_or_else(|| own.to_string(), |a| a.to_string())
        };
        let names = |links: &[HeartbeatLink]| self.links.iter().zip(links).map(name).collect();
        self.peers.iter().map(|(node, links)| (node.clone(), names(links))).collect()
    }
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
    /// No thread, or nothing to wake it with.
    #[error("cannot start the heartbeat thread")]
    Thread(#[source] io::Error),
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// When the thread ran last, CLOCK_BOOTTIME in nanoseconds.
    pub beat: AtomicU64,
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
    pub(super) fn refuse(&self, peers: &BTreeMap<NodeName, Vec<HeartbeatLink>>, from: Option<IpAddr>) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let is_its = |links: &[HeartbeatLink]| from.is_some() && links.iter().any(|l| l.address() == from);
        let sender = peers.iter().find(|(_, links)| is_its(links)).map(|(name, _)| name);
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
    links: Mutex<Vec<HeartbeatLink>>,
    next: Arc<Mutex<Option<Change>>>,
    desk: Arc<Desk>,
    bell: Arc<Bell>,
    /// Totals.
    pub counters: Arc<LinkCounters>,
    /// Each link.
    pub board: SharedLinks,
}

impl HeartbeatThread {
    /// Binds a socket per unicast link and starts the thread; the other links are opened as soon as they can be.
    /// `on_serve_until` is called from the thread, must not block, and gets every group that this node may serve, once
    /// per keepalive and when the deadline moved. `on_news` is called from it, too, when a peer says something else of a group
    /// than before, and when this node may serve a group that it could not serve a moment ago.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: HeartbeatConfig,
        sealer: Sealer,
        core: SharedCore,
        on_serve_until: impl Fn(&GroupName, Epoch, Instant) + Send + 'static,
        on_news: impl Fn() + Send + 'static,
    ) -> Result<(Self, Realtime), StartError> {
        let mut ports = bind(&config.links, config.port)?;
        let on = config.on_links();
        let slot = |(link, peers): (&HeartbeatLink, &Vec<NodeName>)| {
            let port = ports.iter().position(|(l, _)| l == link).map(|at| ports.swap_remove(at).1);
            Slot::new(link.clone(), port, peers.clone())
        };
        let slots = config.links.iter().zip(&on).map(slot).collect();
        let desk = Arc::new(Desk::start(config.port).map_err(StartError::Thread)?);
        desk.want(opened_later(&config.links));
        let board = Links::new(config.node.clone(), config.timers(), &on, clock::now());
        let board: SharedLinks = Arc::new(Mutex::new(board));
        let links = Mutex::new(config.links.clone());
        let next = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(LinkCounters::default());
        let bell = Arc::new(Bell::new().map_err(StartError::Thread)?);
        let (tell, told) = std::sync::mpsc::channel();
        let incarnation = core.lock().unwrap_or_else(PoisonError::into_inner).incarnation();
        let round = Round {
            beats: crate::metrics::Beats::new(&config.names()),
            incarnation,
            config,
            sealer,
            core,
            slots,
            ids: 0,
            desk: Arc::clone(&desk),
            board: Arc::clone(&board),
            counters: Arc::clone(&counters),
            next: Arc::clone(&next),
            bell: Arc::clone(&bell),
            sent: clock::now(),
            news: false,
            handed: BTreeMap::new(),
            on_serve_until: Box::new(on_serve_until),
            on_news: Box::new(on_news),
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
        Ok((Self { stop, handle: Some(handle), links, next, desk, bell, counters, board }, realtime))
    }

    /// Has the next heartbeat sent now, a tenth of a keepalive after the last one at the earliest: an intent says something
    /// that others wait for.
    pub fn hurry(&self) {
        self.bell.ring();
    }

    /// Takes over other links, peers or another interval without missing a beat: links that stay keep their sockets.
    /// In force with the thread's next round.
    ///
    /// # Errors
    /// [`StartError::Bind`] for a unicast link that is new; then everything stays as it was.
    pub fn reconfigure(&self, config: HeartbeatConfig) -> Result<(), StartError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let added: Vec<HeartbeatLink> = config.links.iter().filter(|l| !links.contains(l)).cloned().collect();
        let mut ports = bind(&added, config.port)?;
        links.clone_from(&config.links);
        let later = opened_later(&config.links);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // What was handed over and not taken yet goes along.
        ports.extend(next.take().into_iter().flat_map(|change: Change| change.ports));
        *next = Some(Change { config, ports });
        drop(next);
        self.desk.want(later);
        Ok(())
    }
}

fn bind(links: &[HeartbeatLink], port: u16) -> Result<Vec<(HeartbeatLink, Port)>, StartError> {
    let bind = |link: &HeartbeatLink| {
        let address = SocketAddr::new(link.address()?, port);
        let bound = Port::open(link, port).map(|opened| (link.clone(), opened));
        Some(bound.map_err(|source| StartError::Bind { address, source }))
    };
    links.iter().filter_map(bind).collect()
}

fn opened_later(links: &[HeartbeatLink]) -> Vec<HeartbeatLink> {
    links.iter().filter(|l| l.is_there() && l.address().is_none()).cloned().collect()
}

impl Drop for HeartbeatThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.bell.ring();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
