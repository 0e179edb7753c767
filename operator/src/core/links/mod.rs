//! What is known about each heartbeat link: who is heard on it, who hears us on it, how late, how much was lost, what
//! was refused and why.
//!
//! Owned by the heartbeat thread. A link is named by its number, its place in every node's list: link 0 of one node
//! leads to link 0 of the others. Nothing is decided on any of this but one thing: a datagram whose number was seen
//! before is dropped as a replay before it reaches the promises. If the thread dies, only counters are lost.

mod day;
#[cfg(test)]
mod tests;
mod window;

pub use day::{ENOUGH, Measured, Suggestion, suggest};
pub use window::{Numbered, Window};

use baton_replicator::types::{Instant, NodeName};
use day::Day;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Most links of a node; what hears whom is told as one bit per link.
pub const MAX_LINKS: usize = 32;
/// Most peers that a heartbeat may report on; a cluster has at most nine nodes.
pub const MAX_REPORTS: usize = 16;
/// Streams of one peer that are told apart: two generations of [`MAX_LINKS`]; older ones count as replays.
const MAX_STREAMS: usize = 2 * MAX_LINKS;
/// Lives of a peer that are remembered as over; as many as the promises remember.
const RETIRED: usize = 8;
/// Upper bounds of the histogram of gaps, milliseconds; what is longer goes to one more place.
pub const GAP_BOUNDS_MS: [u64; 13] = [50, 90, 110, 130, 160, 200, 300, 500, 750, 1000, 1500, 3000, 10_000];

/// What a heartbeat says about the links, beside its message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBeat {
    /// The sender's number of the link that this datagram takes.
    pub link: u8,
    /// The stream: drawn anew, and higher, whenever a link or its destination is new in the sender's life.
    pub stream: u32,
    /// Number in the stream, without gaps.
    pub number: u64,
    /// Peers, each with one bit per link by which the sender heard it within `warntime`.
    pub hears: Vec<(NodeName, u32)>,
}

impl LinkBeat {
    /// Whether every length is within its limit.
    #[must_use]
    pub fn in_bounds(&self) -> bool {
        self.hears.len() <= MAX_REPORTS
    }
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not a heartbeat, or not decodable.
    Malformed,
    /// Of a version this agent does not speak.
    Version,
    /// Of a cluster with another name.
    OtherCluster,
    /// Its authentication fails: forged, damaged, or of another secret.
    Forged,
    /// Seen before, or of a life of the sender that is over.
    Replayed,
    /// Authentic, but of a node that the specification does not name, or of another one with this node's name.
    Stranger,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Version, Self::OtherCluster, Self::Forged, Self::Replayed, Self::Stranger];

    /// Its word in metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::OtherCluster => "other_cluster",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Stranger => "stranger",
        }
    }
}

/// How a peer is heard on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hearing {
    /// Not heard yet, and not missed yet: the first `deadtime`.
    #[default]
    Unknown,
    /// Heard within `warntime`.
    Up,
    /// Heard within `deadtime`.
    Late,
    /// Not heard for longer.
    Down,
}

/// Counters of one peer on one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOnLink {
    /// How it is heard.
    pub hearing: Hearing,
    /// Since when.
    pub since: Instant,
    /// Last heartbeat.
    pub heard: Option<Instant>,
    /// Heartbeats.
    pub received: u64,
    /// Numbers of its streams that never came.
    pub lost: u64,
    /// Heartbeats that came later than `warntime` after the one before.
    pub late: u64,
    /// Longest gap that ended in a heartbeat.
    pub longest: Duration,
    /// Gaps by [`GAP_BOUNDS_MS`], the last place for longer ones.
    pub gaps: [u64; GAP_BOUNDS_MS.len() + 1],
    /// The number that the peer gives this link; another one than here means that cables or addresses are crossed.
    pub theirs: Option<u8>,
    /// The peer says that it hears this node on the link; none if it does not say, or is not heard at all.
    pub hears_us: Option<bool>,
    /// Heard in one direction only, for at least `deadtime`.
    pub one_way: bool,
    one_way_since: Option<Instant>,
}

/// Counters of one link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams that it would not take, or that a line had no room for.
    pub dropped: u64,
    /// Datagrams refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Why the last one was not sent, or why the link is not open.
    pub error: Option<String>,
    /// Heartbeats until every group had its turn; more than one on a serial line that does not carry all at once.
    pub turns: u32,
    /// Peers that are on it.
    pub peers: BTreeMap<NodeName, PeerOnLink>,
}

/// One life of a peer: what was seen of it.
#[derive(Clone, Debug, Default)]
struct Life {
    incarnation: u64,
    streams: BTreeMap<u32, Window>,
    /// Streams up to this one are over.
    floor: u32,
}

#[derive(Debug, Default)]
struct Peer {
    life: Option<Life>,
    /// Lives that seem to be over.
    retired: VecDeque<Life>,
    /// When a datagram was last taken.
    taken: Option<Instant>,
    hears: BTreeMap<NodeName, u32>,
    reported: Option<Instant>,
    first: Option<Instant>,
    day: Day,
}

/// All links of one node.
#[derive(Debug)]
pub struct Links {
    me: NodeName,
    keepalive: Duration,
    warntime: Duration,
    deadtime: Duration,
    started: Instant,
    links: Vec<Link>,
    peers: BTreeMap<NodeName, Peer>,
}

/// Who hears whom: for every node, by its peers, one bit per link.
pub type Matrix = BTreeMap<NodeName, BTreeMap<NodeName, u32>>;

impl Links {
    /// Starts with nothing known. `links`: for each, the peers that are on it.
    #[must_use]
    pub fn new(me: NodeName, timers: [Duration; 3], links: &[Vec<NodeName>], now: Instant) -> Self {
        let [keepalive, warntime, deadtime] = timers;
        let mut this = Self {
            me,
            keepalive,
            warntime,
            deadtime,
            started: now,
            links: Vec::new(),
            peers: BTreeMap::new(),
        };
        this.reconfigure(timers, links, &vec![None; links.len()], now);
        this
    }

    /// Takes over other links; `before` says which number each had, if it was there. Its counters stay.
    pub fn reconfigure(
        &mut self,
        timers: [Duration; 3],
        links: &[Vec<NodeName>],
        before: &[Option<usize>],
        now: Instant,
    ) {
        if timers[0] != self.keepalive {
            // What was measured at another pace says nothing about this one.
            for peer in self.peers.values_mut() {
                (peer.day, peer.first) = (Day::default(), None);
            }
        }
        [self.keepalive, self.warntime, self.deadtime] = timers;
        let mut old: Vec<Option<Link>> = std::mem::take(&mut self.links).into_iter().map(Some).collect();
        for (peers, before) in links.iter().zip(before) {
            let mut link = before.and_then(|b| old.get_mut(b)?.take()).unwrap_or_default();
            link.peers.retain(|name, _| peers.contains(name));
            for name in peers {
                let fresh = || PeerOnLink { since: now, ..PeerOnLink::default() };
                link.peers.entry(name.clone()).or_insert_with(fresh);
            }
            self.links.push(link);
        }
        self.peers.retain(|name, _| links.iter().flatten().any(|n| n == name));
        for name in links.iter().flatten() {
            self.peers.entry(name.clone()).or_default();
        }
    }

    /// A datagram went out.
    pub fn sent(&mut self, link: usize) {
        if let Some(l) = self.links.get_mut(link) {
            l.sent += 1;
            l.error = None;
        }
    }

    /// On a serial line the groups take turns.
    pub fn takes_turns(&mut self, link: usize, turns: u32) {
        if let Some(l) = self.links.get_mut(link) {
            l.turns = turns;
        }
    }

    /// A datagram did not go out.
    pub fn dropped(&mut self, link: usize, why: &str) {
        if let Some(l) = self.links.get_mut(link) {
            l.dropped += 1;
        }
        self.trouble(link, why);
    }

    /// The link is not usable at the moment.
    pub fn trouble(&mut self, link: usize, why: &str) {
        if let Some(l) = self.links.get_mut(link)
            && l.error.as_deref() != Some(why)
        {
            l.error = Some(why.to_owned());
        }
    }

    /// A datagram was refused.
    pub fn refused(&mut self, link: usize, why: Refusal) {
        if let Some(l) = self.links.get_mut(link) {
            *l.refused.entry(why).or_default() += 1;
        }
    }

    /// Takes what an authentic datagram says about links. False: it is a replay, nothing of it may be used.
    pub fn arrived(
        &mut self,
        link: usize,
        from: &NodeName,
        incarnation: u64,
        beat: Option<&LinkBeat>,
        now: Instant,
    ) -> bool {
        // Strangers are the promises' business.
        let Some(peer) = self.peers.get_mut(from) else { return true };
        let new = Numbered::New { skipped: 0 };
        let numbered = beat.map_or(new, |b| peer.number(incarnation, b, self.warntime, now));
        if numbered == Numbered::Seen {
            self.refused(link, Refusal::Replayed);
            return false;
        }
        if let Some(beat) = beat
            && numbered != Numbered::Late
        {
            peer.reported = Some(now);
            // As a rule nothing has changed, and nothing is allocated.
            if !beat.hears.iter().map(|(n, b)| (n, b)).eq(peer.hears.iter()) {
                peer.hears = beat.hears.iter().cloned().collect();
            }
        }
        let warntime = self.warntime;
        if let Some(at) = self.links.get_mut(link).and_then(|l| l.peers.get_mut(from)) {
            at.theirs = beat.map(|b| b.link);
            at.heard(numbered, warntime, now);
        }
        true
    }

    /// A heartbeat that no other link had brought before was taken.
    pub fn first(&mut self, from: &NodeName, now: Instant) {
        let Some(peer) = self.peers.get_mut(from) else { return };
        if let Some(last) = peer.first.replace(now) {
            peer.day.gap(now.since(last), self.deadtime, now);
        }
    }

    /// Judges silence. Call it once per keepalive, after the sockets have been drained.
    pub fn tick(&mut self, now: Instant) {
        let (warntime, deadtime) = (self.warntime, self.deadtime);
        for (number, link) in self.links.iter_mut().enumerate() {
            for (name, at) in &mut link.peers {
                let says = self.peers.get(name).and_then(|p| p.says(&self.me, number, deadtime, now));
                at.judge(says, warntime, deadtime, now);
            }
        }
    }

    /// What this node's heartbeats say about whom it hears.
    #[must_use]
    pub fn hears(&self) -> Vec<(NodeName, u32)> {
        let bits = |name: &NodeName| {
            let up = |l: &Link| l.peers.get(name).is_some_and(|p| p.hearing == Hearing::Up);
            (0u32..)
                .zip(&self.links)
                .filter(|(_, l)| up(l))
                .fold(0, |bits, (n, _)| bits | 1u32.unbounded_shl(n))
        };
        self.peers.keys().take(MAX_REPORTS).map(|name| (name.clone(), bits(name))).collect()
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Who hears whom, as far as it was told within `deadtime`.
    #[must_use]
    pub fn matrix(&self, now: Instant) -> Matrix {
        let fresh = |p: &&Peer| p.reported.is_some_and(|at| now.since(at) < self.deadtime);
        let told = self.peers.iter().filter(|(_, p)| fresh(p)).map(|(n, p)| (n.clone(), p.hears.clone()));
        told.chain([(self.me.clone(), self.hears().into_iter().collect())]).collect()
    }

    /// Gaps of the last day: the worst of all peers, and the sum of their numbers.
    #[must_use]
    pub fn measured(&self, now: Instant) -> Measured {
        let all = self.peers.values().map(|p| p.day.measured(now));
        all.fold(Measured::default(), |a, b| Measured {
            worst: a.worst.max(b.worst),
            gaps: a.gaps + b.gaps,
            silences: a.silences + b.silences,
            over: a.over.max(b.over),
        })
    }

    /// Timers that the measured gaps would allow.
    #[must_use]
    pub fn suggestion(&self, now: Instant) -> Option<Suggestion> {
        suggest(self.measured(now), self.keepalive)
    }

    /// When it began to count.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }
}

impl Peer {
    fn number(&mut self, incarnation: u64, beat: &LinkBeat, warntime: Duration, now: Instant) -> Numbered {
        let current = self.life.as_ref().is_some_and(|l| l.incarnation == incarnation);
        if !current && !self.begin(incarnation, beat, warntime, now) {
            return Numbered::Seen;
        }
        let numbered = self.life.as_mut().map_or(Numbered::Seen, |life| life.number(beat));
        if numbered != Numbered::Seen {
            self.taken = Some(now);
        }
        numbered
    }

    /// Another life than the one so far. A datagram of the life before may come after the first one of the present life, when
    /// both agents start at once: the present one goes on as soon as it alone is heard (as in the promises).
    fn begin(&mut self, incarnation: u64, beat: &LinkBeat, warntime: Duration, now: Instant) -> bool {
        let over = self.retired.iter().position(|l| l.incarnation == incarnation);
        let life = match over.and_then(|k| self.retired.get(k)) {
            None => Life { incarnation, ..Life::default() },
            Some(life) => {
                let silent = self.taken.is_none_or(|at| now.since(at) > warntime);
                if !silent || life.clone().number(beat) == Numbered::Seen {
                    return false;
                }
                life.clone()
            }
        };
        if let Some(k) = over {
            self.retired.remove(k);
        }
        if let Some(old) = self.life.replace(life) {
            self.retired.push_back(old);
            if self.retired.len() > RETIRED {
                self.retired.pop_front();
            }
        }
        // A gap between two lives is no delay.
        self.first = None;
        true
    }

    /// Whether the peer says that it hears `me` on a link.
    fn says(&self, me: &NodeName, link: usize, fresh: Duration, now: Instant) -> Option<bool> {
        self.reported.filter(|at| now.since(*at) < fresh)?;
        let bit = 1u32.unbounded_shl(u32::try_from(link).unwrap_or(u32::MAX));
        Some(self.hears.get(me).is_some_and(|bits| bits & bit != 0))
    }
}

impl Life {
    fn number(&mut self, beat: &LinkBeat) -> Numbered {
        if !self.streams.contains_key(&beat.stream) && beat.stream <= self.floor {
            return Numbered::Seen;
        }
        let numbered = self.streams.entry(beat.stream).or_default().take(beat.number);
        if self.streams.len() > MAX_STREAMS
            && let Some((oldest, _)) = self.streams.pop_first()
        {
            self.floor = oldest;
        }
        numbered
    }
}

impl PeerOnLink {
    fn heard(&mut self, numbered: Numbered, warntime: Duration, now: Instant) {
        self.received += 1;
        match numbered {
            Numbered::New { skipped } => self.lost += skipped,
            Numbered::Late => self.lost = self.lost.saturating_sub(1),
            Numbered::Seen => {}
        }
        if let Some(last) = self.heard.replace(now) {
            let gap = now.since(last);
            self.longest = self.longest.max(gap);
            self.late += u64::from(gap > warntime);
            let ms = u64::try_from(gap.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            self.gaps[GAP_BOUNDS_MS.partition_point(|bound| *bound < ms)] += 1;
        }
        self.become_(Hearing::Up, now);
    }

    fn judge(&mut self, says: Option<bool>, warntime: Duration, deadtime: Duration, now: Instant) {
        let silent = now.since(self.heard.unwrap_or(self.since));
        let hearing = match self.heard {
            Some(_) if silent < warntime => Hearing::Up,
            Some(_) if silent < deadtime => Hearing::Late,
            None if self.hearing == Hearing::Unknown && silent < deadtime => Hearing::Unknown,
            Some(_) | None => Hearing::Down,
        };
        self.become_(hearing, now);
        self.hears_us = says;
        let apart = match self.hearing {
            Hearing::Up => says == Some(false),
            Hearing::Late | Hearing::Down => says == Some(true),
            Hearing::Unknown => false,
        };
        let since = apart.then(|| self.one_way_since.unwrap_or(now));
        self.one_way_since = since;
        self.one_way = since.is_some_and(|s| now.since(s) >= deadtime);
    }

    fn become_(&mut self, hearing: Hearing, now: Instant) {
        if self.hearing != hearing {
            self.hearing = hearing;
            self.since = now;
        }
    }
}
