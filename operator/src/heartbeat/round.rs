//! What the heartbeat thread does: drains the links, ticks the core once per keepalive or when it is hurried, answers
//! leaders at once, and after each round hands serve-until on and says whether there is news.
//!
//! Order of a round: receive everything that waits, then tick. After a pause of the process the peers' heartbeats
//! are thus heard before silence is judged. The mutexes are held for microseconds and never over I/O. No link can hold
//! up another: every call returns at once, and what a link does not take is dropped and counted.

use super::bell::Bell;
use super::clock;
use super::link::pack::{framed, pack, split};
use super::link::{Desk, Port, Received, Slot};
use super::thread::{HeartbeatConfig, LinkCounters, SharedCore, SharedLinks};
use super::wire::{MAX_DATAGRAM, Opened, Refused, Sealer};
use crate::core::beat::HeartbeatMsg;
use crate::core::links::{LinkBeat, Links, Refusal};
use crate::core::promises::{HeartbeatCore, Verdict};
use crate::metrics::Beats;
use crate::spec::HeartbeatLink;
use crate::spec::link::serial_budget;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Datagrams taken from one link before the core ticks again: two keepalives of 64 peers on two links.
const DRAIN: usize = 256;
/// Longest datagram where a heartbeat can be split: an Ethernet frame takes 1452 bytes by IPv6, a tunnel some of these. What
/// the network has to cut into fragments is lost with any of them.
const PACKET: usize = 1400;
/// serve-until is handed on between ticks when it grew by this much: a fifth of the default keepalive.
const GROWTH: Duration = Duration::from_millis(20);

/// Heartbeats that are hurried are this part of a keepalive apart at least, however often others ask for one.
const HURRY: u32 = 10;

/// What the thread takes over at the beginning of a round.
#[derive(Debug)]
pub(super) struct Change {
    pub config: HeartbeatConfig,
    /// Sockets of unicast links that are new.
    pub ports: Vec<(HeartbeatLink, Port)>,
}

/// Who is told about serve-until.
type OnServeUntil = Box<dyn Fn(&GroupName, Epoch, Instant) + Send>;

pub(super) struct Round {
    pub config: HeartbeatConfig,
    pub sealer: Sealer,
    pub core: SharedCore,
    pub incarnation: u64,
    pub slots: Vec<Slot>,
    /// The highest stream so far.
    pub ids: u32,
    pub desk: Arc<Desk>,
    pub board: SharedLinks,
    pub counters: Arc<LinkCounters>,
    pub next: Arc<Mutex<Option<Change>>>,
    pub bell: Arc<Bell>,
    /// When the last heartbeat went.
    pub sent: Instant,
    /// Something that the driver should look at now.
    pub news: bool,
    /// What was handed on last, and when.
    pub handed: BTreeMap<GroupName, (Epoch, Instant, Instant)>,
    pub beats: Beats,
    pub on_serve_until: OnServeUntil,
    pub on_news: Box<dyn Fn() + Send>,
}

/// A message, ready for each link's additions.
struct Outgoing<'a> {
    message: &'a HeartbeatMsg,
    encoded: &'a [u8],
    hears: &'a [(NodeName, u32)],
    now: Instant,
}

impl Round {
    pub fn run(mut self, stop: &AtomicBool) {
        let mut next = clock::now();
        let mut hurried: Option<Instant> = None;
        let mut buffer = vec![0; MAX_DATAGRAM];
        while !stop.load(Ordering::Relaxed) {
            if self.take_change() {
                next = next.min(clock::now().plus(self.config.keepalive));
            }
            self.take_ready();
            self.receive(&mut buffer);
            if self.bell.was_rung() {
                hurried = hurried.or(Some(self.sent.plus(self.config.keepalive / HURRY)));
            }
            let now = clock::now();
            let due = now >= next;
            if due || hurried.is_some_and(|at| now >= at) {
                self.tick(now, due);
                self.sent = now;
                hurried = None;
                self.counters.beat.store(now.0, Ordering::Relaxed);
            }
            if due {
                next = next.plus(self.config.keepalive);
                // After a pause the missed beats are not made up for.
                if next <= now {
                    next = now.plus(self.config.keepalive);
                }
            }
            self.hand_on();
            if std::mem::take(&mut self.news) {
                (self.on_news)();
            }
            self.wait(hurried.map_or(next, |at| at.min(next)).since(clock::now()));
        }
    }

    /// Links that stay keep their ports, and what waits in them.
    fn take_change(&mut self) -> bool {
        let change = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Change { config, mut ports }) = change else { return false };
        let on = config.on_links();
        let before: Vec<Option<usize>> =
            config.links.iter().map(|l| self.slots.iter().position(|s| s.link == *l)).collect();
        self.board().reconfigure(config.timers(), &on, &before, clock::now());
        let mut old: Vec<Slot> = std::mem::take(&mut self.slots);
        for (link, peers) in config.links.iter().zip(on) {
            let mut slot = match old.iter().position(|s| s.link == *link) {
                Some(at) => old.swap_remove(at),
                None => Slot::new(link.clone(), None, Vec::new()),
            };
            if slot.port.is_none() {
                slot.port = ports.iter().position(|(l, _)| l == link).map(|at| ports.swap_remove(at).1);
            }
            slot.peers = peers;
            slot.forget_streams();
            self.slots.push(slot);
        }
        let unused = old.into_iter().filter_map(|s| s.port).chain(ports.into_iter().map(|(_, port)| port));
        unused.for_each(|port| self.desk.close(port));
        self.beats = Beats::new(&config.names());
        self.config = config;
        true
    }

    /// Links that were opened meanwhile, or could not be.
    fn take_ready(&mut self) {
        for (link, opened) in self.desk.ready() {
            let Some(at) = self.slots.iter().position(|s| s.link == link) else {
                // Configured a moment ago and not taken over yet: once more.
                self.desk.lost(&link);
                continue;
            };
            let old = match opened {
                Ok(port) => self.slots[at].port.replace(port),
                Err(why) => {
                    self.board().trouble(at, &why);
                    self.slots[at].port.take()
                }
            };
            old.into_iter().for_each(|port| self.desk.close(port));
        }
    }

    fn core(&self) -> MutexGuard<'_, HeartbeatCore> {
        // A panic aborts the process, so a poisoned mutex cannot be met.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self) -> MutexGuard<'_, Links> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&mut self, buffer: &mut [u8]) {
        for link in 0..self.slots.len() {
            for _ in 0..DRAIN {
                match self.slots[link].receive(buffer) {
                    Received::Datagram(length, source) => self.take(link, source, &buffer[..length]),
                    Received::Garbage => self.refuse(link, None, Refusal::Malformed),
                    Received::Nothing => break,
                    Received::Gone(error) => {
                        self.lose(link, &error.to_string());
                        break;
                    }
                }
            }
        }
    }

    /// A link has to be opened again.
    fn lose(&mut self, link: usize, why: &str) {
        self.board().trouble(link, why);
        if let Some(port) = self.slots[link].port.take() {
            self.desk.close(port);
            self.desk.lost(&self.slots[link].link);
        }
    }

    fn refuse(&self, link: usize, source: Option<IpAddr>, why: Refusal) {
        // Another cluster on the same network or in the same multicast group is a neighbour and no attack.
        let shared = self.slots[link].link.address().is_none();
        if !(shared && why == Refusal::OtherCluster) {
            self.counters.refuse(&self.config.peers, source);
        }
        self.board().refused(link, why);
    }

    fn take(&mut self, link: usize, source: Option<IpAddr>, datagram: &[u8]) {
        let Opened { from, message, links } = match self.sealer.open(datagram) {
            Ok(opened) => opened,
            Err(refused) => return self.refuse(link, source, reason(refused)),
        };
        // What is sent to all comes back to its sender.
        if from == self.config.node && message.incarnation == self.incarnation {
            return;
        }
        let now = clock::now();
        if !self.board().arrived(link, &from, message.incarnation, links.as_ref(), now) {
            return self.counters.refuse(&self.config.peers, source);
        }
        let asked: Vec<GroupName> =
            message.groups.iter().filter(|b| b.leading).map(|b| b.group.clone()).collect();
        let (news, verdict, answer) = {
            let mut core = self.core();
            let news = core.is_news(&from, &message);
            let verdict = core.on_datagram(&from, message, now);
            (news, verdict, (verdict == Verdict::Answer).then(|| core.answer(now)))
        };
        match verdict {
            Verdict::Refused => self.refuse(link, source, Refusal::Replayed),
            Verdict::Stranger => self.refuse(link, source, Refusal::Stranger),
            Verdict::Taken | Verdict::Answer | Verdict::Duplicate => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                let first = verdict != Verdict::Duplicate;
                self.news |= first && news;
                self.beats.came(&from, link, first, now);
                if first {
                    self.board().first(&from, now);
                }
            }
        }
        if let Some(answer) = answer {
            self.answer(&from, &answer, &asked, now);
        }
    }

    /// A serial line has room for one heartbeat per keepalive: it carries those that are `due` only.
    fn tick(&mut self, now: Instant, due: bool) {
        let messages = self.core().tick(now);
        let hears = {
            let mut board = self.board();
            board.tick(now);
            board.hears()
        };
        // All are the same: the core gives one per peer.
        let Some((_, message)) = messages.first() else { return };
        for encoded in self.packets(message, None, &hears) {
            let out = Outgoing { message, encoded: &encoded, hears: &hears, now };
            for (peer, _) in &messages {
                self.unicast(peer, &out);
            }
            for link in 0..self.slots.len() {
                if self.slots[link].link.is_shared() {
                    self.share(link, &out);
                }
            }
        }
        for link in (0..self.slots.len()).filter(|_| due) {
            if let HeartbeatLink::Serial { baud, .. } = self.slots[link].link {
                self.by_line(link, baud, &Outgoing { message, encoded: &[], hears: &hears, now });
            }
        }
    }

    /// The answer to a leader. A serial line carries none: the next heartbeat says the same.
    fn answer(&mut self, peer: &NodeName, message: &HeartbeatMsg, asked: &[GroupName], now: Instant) {
        let hears = self.board().hears();
        for encoded in self.packets(message, Some(asked), &hears) {
            let out = Outgoing { message, encoded: &encoded, hears: &hears, now };
            self.unicast(peer, &out);
            for link in 0..self.slots.len() {
                if self.slots[link].link.is_shared() && self.slots[link].peers.contains(peer) {
                    self.share(link, &out);
                }
            }
        }
    }

    /// The message as it goes onto a network: one packet, or several with numbers of their own, so that each is heard for
    /// itself. An answer that takes several speaks only of what was `asked`: each packet of the leader's gets its own.
    fn packets(
        &self,
        message: &HeartbeatMsg,
        asked: Option<&[GroupName]>,
        hears: &[(NodeName, u32)],
    ) -> Vec<Vec<u8>> {
        let links = LinkBeat { link: u8::MAX, stream: u32::MAX, number: u64::MAX, hears: hears.to_vec() };
        let encode = |message: &HeartbeatMsg| self.sealer.encode(&self.config.node, message);
        let Some(whole) = encode(message) else { return Vec::new() };
        if Sealer::length(&whole, &links) <= PACKET {
            return vec![whole];
        }
        let bare = HeartbeatMsg { groups: Vec::new(), summary: Vec::new(), ..*message };
        let Some(around) = encode(&bare).map(|bare| Sealer::length(&bare, &links)) else { return Vec::new() };
        // The lengths of both lists may take a byte more each than those of empty ones.
        let room = PACKET.saturating_sub(around + 2);
        let mut parts = match asked {
            None => split(message, room),
            Some(asked) => {
                let groups = message.groups.iter().filter(|b| asked.contains(&b.group)).cloned().collect();
                split(&HeartbeatMsg { groups, ..bare }, room)
            }
        };
        let mut core = self.core();
        parts.iter_mut().skip(1).for_each(|part| part.seq = core.number());
        drop(core);
        parts.iter().filter_map(encode).collect()
    }

    fn unicast(&mut self, peer: &NodeName, out: &Outgoing<'_>) {
        let Some(last) = self.slots.len().checked_sub(1) else { return };
        for number in 0..self.config.peers.get(peer).map_or(0, Vec::len) {
            let theirs = self.config.peers.get(peer).and_then(|links| links.get(number));
            let Some(address) = theirs.and_then(HeartbeatLink::address) else { continue };
            // A node that is leaving may have had another number of links.
            let link = number.min(last);
            if number <= last && !self.slots[link].link.is_there() {
                continue;
            }
            let Some(datagram) = self.seal(link, Some(peer), out) else { continue };
            let to = SocketAddr::new(address, self.config.port);
            let done = self.send_from(link, &datagram, to);
            self.account(link, Some(peer), done.map_err(|e| (e, false)));
        }
    }

    /// From the link's own socket, or else from another one of the same family: which way the kernel takes is its routing
    /// table's business.
    fn send_from(&self, link: usize, datagram: &[u8], to: SocketAddr) -> Result<(), String> {
        let others = (0..self.slots.len()).filter(|other| *other != link);
        let fits = |slot: &&Slot| slot.link.address().is_some_and(|own| own.is_ipv4() == to.is_ipv4());
        let sockets = std::iter::once(link).chain(others).map(|at| &self.slots[at]).filter(fits);
        let mut error = None;
        for socket in sockets.filter_map(Slot::udp) {
            match socket.send(datagram, Some(to)) {
                Ok(()) => return Ok(()),
                Err(e) => _ = error.get_or_insert(e),
            }
        }
        Err(error.map_or_else(
            || format!("this node has no address of the family of {}", to.ip()),
            |e| e.to_string(),
        ))
    }

    fn share(&mut self, link: usize, out: &Outgoing<'_>) {
        if self.slots[link].port.is_none() || self.slots[link].peers.is_empty() {
            return;
        }
        let Some(datagram) = self.seal(link, None, out) else { return };
        let done = self.slots[link].send(&datagram, Duration::ZERO, out.now);
        self.account(link, None, done);
    }

    fn by_line(&mut self, link: usize, baud: u32, out: &Outgoing<'_>) {
        let slot = &self.slots[link];
        if slot.port.is_none() || slot.peers.is_empty() {
            return;
        }
        // Only who is on the line is told whom we hear: room is short.
        let hears: Vec<(NodeName, u32)> =
            out.hears.iter().filter(|(name, _)| slot.peers.contains(name)).cloned().collect();
        let budget = serial_budget(baud, self.config.keepalive);
        let (bare, ..) =
            pack(&HeartbeatMsg { groups: Vec::new(), summary: Vec::new(), ..*out.message }, 0, 0);
        let Some(encoded) = self.sealer.encode(&self.config.node, &bare) else { return };
        let empty = Outgoing { message: &bare, encoded: &encoded, hears: &hears, now: out.now };
        let around = self.seal(link, None, &empty).map_or(0, |d| framed(d.len()));
        // What one group more may add to the frame's own length is covered by the tenth that the budget leaves.
        let (part, cursor, turns) = pack(out.message, self.slots[link].cursor, budget.saturating_sub(around));
        let Some(encoded) = self.sealer.encode(&self.config.node, &part) else { return };
        let Some(datagram) = self.seal(link, None, &Outgoing { encoded: &encoded, ..empty }) else { return };
        let done = self.slots[link].send(&datagram, self.config.keepalive / 4, out.now);
        if done.is_ok() {
            self.slots[link].cursor = cursor;
            self.board().takes_turns(link, turns);
        }
        self.account(link, None, done);
    }

    fn seal(&mut self, link: usize, to: Option<&NodeName>, out: &Outgoing<'_>) -> Option<Vec<u8>> {
        let (stream, number) = self.slots[link].stream(to, &mut self.ids);
        let beat = LinkBeat {
            link: u8::try_from(link).unwrap_or(u8::MAX),
            stream,
            number,
            hears: out.hears.to_vec(),
        };
        self.sealer.seal(out.encoded, &beat)
    }

    fn account(&mut self, link: usize, to: Option<&NodeName>, done: Result<(), (String, bool)>) {
        match done {
            Ok(()) => {
                self.slots[link].went(to);
                self.board().sent(link);
                self.counters.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err((why, gone)) => {
                self.board().dropped(link, &why);
                self.counters.send_failed.fetch_add(1, Ordering::Relaxed);
                if gone {
                    self.lose(link, &why);
                }
            }
        }
    }

    /// Serve-until, where it has moved or nothing was handed on for a keepalive.
    fn hand_on(&mut self) {
        let now = clock::now();
        let served: Vec<_> = {
            let core = self.core();
            let groups = core.groups();
            groups.into_iter().filter_map(|g| core.serve_until(&g, now).map(|s| (g, s))).collect()
        };
        for (group, (epoch, until)) in served {
            let last = self.handed.get(&group).copied();
            let moved = last.is_none_or(|(e, u, _)| e != epoch || until >= u.plus(GROWTH) || until < u);
            let silent = last.is_none_or(|(.., at)| now.since(at) >= self.config.keepalive);
            let entitled = until > now && last.is_none_or(|(e, u, _)| e != epoch || u <= now);
            self.news |= entitled;
            if silent || moved || entitled {
                (self.on_serve_until)(&group, epoch, until);
                self.handed.insert(group, (epoch, until, now));
            }
        }
    }

    fn wait(&self, at_most: Duration) {
        let ports = self.slots.iter().filter_map(|s| s.port.as_ref());
        let mut fds: Vec<PollFd<'_>> = ports
            .map(Port::fd)
            .chain([self.bell.fd()])
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(at_most.min(Duration::from_millis(500)).subsec_nanos()),
        };
        // An interrupted or failed poll only means an early round.
        let _ = poll(&mut fds, Some(&timeout));
    }
}

fn reason(refused: Refused) -> Refusal {
    match refused {
        Refused::Garbage | Refused::Content => Refusal::Malformed,
        Refused::Version(_) => Refusal::Version,
        Refused::Authentication => Refusal::Forged,
        Refused::OtherCluster => Refusal::OtherCluster,
    }
}
