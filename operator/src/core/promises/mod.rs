//! Acknowledgements given and received, and what follows from them: how long this node may serve (as leader)
//! and how long it must not take over (as standby).
//!
//! Owned by the heartbeat thread and the driver together, behind a mutex that is never held over I/O. The
//! driver sets an [`Intent`] per group and [`HeartbeatCore::vouch`]es that the decision core is alive; the
//! thread feeds datagrams in, sends what [`HeartbeatCore::tick`] returns and hands
//! [`HeartbeatCore::serve_until`] on to the replicator and the kernel.
//!
//! Invariants:
//! * An acknowledgement is given only while the intent allows it and no newer epoch is known; from then on
//!   [`GroupFacts::promised_until`] is at least `deadtime` away.
//! * A promise received counts from this node's own *send* time, for its present incarnation and epoch only.
//! * serve-until is never "now + anything" while the in-sync set has another member.
//!
//! If the process dies, promises given are forgotten: a start counts as having given one at that moment.

#[cfg(test)]
mod canon;
mod group;
#[cfg(test)]
mod tests;
mod types;

pub use types::{GroupFacts, Intent, Part, PeerFacts, Promise, Verdict};

use super::beat::{Ack, GroupBeat, HeartbeatMsg};
use super::rules::{Detail, Rule, Rules};
use super::timing::Timers;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Incarnations of a peer remembered as over; a datagram of one of them is a replay.
const RETIRED: usize = 8;
/// Half the window over which the longest silence is reported ("in the last minute").
const GAP_WINDOW: Duration = Duration::from_secs(30);

#[cfg_attr(test, derive(Clone))]
struct Given {
    leader: NodeName,
    epoch: Epoch,
    until: Instant,
}

#[cfg_attr(test, derive(Clone))]
struct Group {
    intent: Intent,
    highest: Epoch,
    floor: Instant,
    given: Vec<Given>,
    ack: Option<Ack>,
    last_holds: Instant,
    leader_heard: Option<(NodeName, Epoch, Instant)>,
    released: Option<(NodeName, Epoch)>,
    foreign: Option<(NodeName, Epoch)>,
    asked: Option<Duration>,
    promises: BTreeMap<NodeName, Promise>,
}

#[derive(Default)]
#[cfg_attr(test, derive(Clone))]
struct Peer {
    facts: PeerFacts,
    seq: u64,
    /// Number of the newest message that spoke of a group: one that takes a slow line carries only some of them.
    spoke: BTreeMap<GroupName, u64>,
    /// Incarnations that are over, each with the last number heard of it.
    retired: VecDeque<(u64, u64)>,
    window: Instant,
    gap_before: Duration,
    gap_now: Duration,
}

impl Peer {
    /// Whether a message of the present incarnation says something about a group that no newer one has said.
    fn is_news(&self, group: &GroupName, seq: u64) -> bool {
        self.spoke.get(group).map_or(seq >= self.seq, |spoke| seq > *spoke)
    }
}

/// Heartbeats of all groups of one node.
#[cfg_attr(test, derive(Clone))]
pub struct HeartbeatCore {
    me: NodeName,
    incarnation: u64,
    timers: Timers,
    rules: Rules,
    seq: u64,
    last_tick: Instant,
    vouched: Instant,
    gaps: u64,
    etcd: bool,
    summary: Vec<u8>,
    peers: BTreeMap<NodeName, Peer>,
    groups: BTreeMap<GroupName, Group>,
}

impl HeartbeatCore {
    /// Starts with nothing known. `promised` holds, per group, until when a durable longer promise binds.
    #[must_use]
    pub fn new(
        me: NodeName,
        incarnation: u64,
        timers: Timers,
        rules: Rules,
        peers: impl IntoIterator<Item = NodeName>,
        groups: impl IntoIterator<Item = (GroupName, Instant)>,
        now: Instant,
    ) -> Self {
        let peers =
            peers.into_iter().filter(|p| *p != me).map(|p| (p, Peer { window: now, ..Peer::default() }));
        let peers = peers.collect();
        let mut core = Self {
            me,
            incarnation,
            timers,
            rules,
            seq: 0,
            last_tick: now,
            vouched: now,
            gaps: 0,
            etcd: false,
            summary: Vec::new(),
            peers,
            groups: BTreeMap::new(),
        };
        for (group, promised) in groups {
            core.add_group(group, promised, now);
        }
        core
    }

    /// Adds a group that appeared in the specification; counts as having acknowledged its leader just now.
    pub fn add_group(&mut self, group: GroupName, promised: Instant, now: Instant) {
        let start =
            if self.rules.on(Rule::StartAck) { now.plus(self.timers.deadtime) } else { Instant::ZERO };
        self.groups.entry(group).or_insert_with(|| Group {
            intent: Intent::silent(),
            highest: Epoch::ZERO,
            floor: start.max(promised),
            given: Vec::new(),
            ack: None,
            last_holds: if start > Instant::ZERO { now } else { Instant::ZERO },
            leader_heard: None,
            released: None,
            foreign: None,
            asked: None,
            promises: BTreeMap::new(),
        });
    }

    /// Forgets a group that is gone from the specification and from this node.
    pub fn remove_group(&mut self, group: &GroupName) {
        self.groups.remove(group);
    }

    /// Takes over changed timers and another set of peers. What was promised and received stays as it is: every
    /// promise carries its own length. The caller keeps a peer in the list as long as any record names it.
    pub fn reconfigure(&mut self, timers: Timers, peers: impl IntoIterator<Item = NodeName>, now: Instant) {
        self.timers = timers;
        let mut before = std::mem::take(&mut self.peers);
        for name in peers.into_iter().filter(|p| *p != self.me) {
            let peer = before.remove(&name).unwrap_or_else(|| Peer { window: now, ..Peer::default() });
            self.peers.insert(name, peer);
        }
    }

    /// The decision core ran: heartbeats may speak for it for another `warntime`.
    pub fn vouch(&mut self, now: Instant, etcd: bool) {
        self.vouched = now;
        self.etcd = etcd;
    }

    /// Replaces the opaque status; what exceeds the limit is cut off by the caller.
    pub fn set_summary(&mut self, summary: Vec<u8>) {
        assert!(summary.len() <= super::beat::MAX_SUMMARY, "a summary of {} bytes", summary.len());
        self.summary = summary;
    }

    /// Sets what the heartbeats of a group say from now on. Returns whether that is something else than before, which the
    /// peers should not learn only with the next heartbeat.
    pub fn set_intent(&mut self, group: &GroupName, intent: Intent) -> bool {
        let Some(g) = self.groups.get_mut(group) else { return false };
        let leads = matches!(intent.part, Part::Leader { .. });
        // What etcd's record says outweighs a foreign term of the same number.
        if intent.epoch.number > g.highest.number || (leads && intent.epoch.number == g.highest.number) {
            g.highest = intent.epoch;
        }
        let led = matches!(g.intent.part, Part::Leader { .. });
        if leads && (!led || g.intent.epoch != intent.epoch) && self.rules.keeps(Detail::EpochReset) {
            g.promises.clear();
        }
        if leads {
            g.ack = None;
            g.released = None;
        }
        let news = g.intent.says() != intent.says();
        g.intent = intent;
        news
    }

    /// Whether a message says something else of a group than its sender did before. To be asked before it is taken.
    #[must_use]
    pub fn is_news(&self, from: &NodeName, msg: &HeartbeatMsg) -> bool {
        let Some(peer) = self.peers.get(from) else { return false };
        let known = |b: &&GroupBeat| self.groups.contains_key(&b.group);
        let same = |b: &GroupBeat| peer.facts.groups.get(&b.group).is_some_and(|before| b.says_as(before));
        msg.groups.iter().filter(known).any(|b| !same(b))
    }

    /// Takes a datagram that the transport has authenticated as `from`'s.
    pub fn on_datagram(&mut self, from: &NodeName, msg: HeartbeatMsg, now: Instant) -> Verdict {
        let Some(peer) = self.peers.get_mut(from) else { return Verdict::Stranger };
        let over = peer.retired.iter().position(|(life, _)| *life == msg.incarnation);
        let revives = over.is_some_and(|k| peer.lives_on(k, msg.seq, now, self.timers.warntime));
        if !msg.in_bounds() || (over.is_some() && !revives) {
            peer.facts.refused += 1;
            return Verdict::Refused;
        }
        if let Some(k) = over {
            peer.retired.remove(k);
        }
        let mut newer = true;
        if peer.facts.incarnation == Some(msg.incarnation) {
            newer = msg.seq > peer.seq;
            let news = |b: &GroupBeat| self.groups.contains_key(&b.group) && peer.is_news(&b.group, msg.seq);
            if !newer && !msg.groups.iter().any(news) {
                return Verdict::Duplicate;
            }
        } else if let Some(old) = peer.facts.incarnation.replace(msg.incarnation) {
            peer.retired.push_back((old, peer.seq));
            if peer.retired.len() > RETIRED {
                peer.retired.pop_front();
            }
            peer.spoke.clear();
        }
        if newer {
            peer.seq = msg.seq;
            peer.heard(now, self.timers.warntime);
            peer.facts.etcd = msg.etcd;
        }
        if msg.seq == peer.seq && !msg.summary.is_empty() {
            peer.facts.summary = msg.summary;
        }
        let mut answer = false;
        for beat in msg.groups {
            if let Some(group) = self.groups.get_mut(&beat.group) {
                if !peer.is_news(&beat.group, msg.seq) {
                    continue;
                }
                match peer.spoke.get_mut(&beat.group) {
                    Some(seq) => *seq = msg.seq,
                    None => _ = peer.spoke.insert(beat.group.clone(), msg.seq),
                }
                let me = (&self.me, self.incarnation, self.timers, self.rules);
                answer |= group.on_beat(me, from, msg.incarnation, msg.sent, &beat, now);
                peer.facts.groups.insert(beat.group.clone(), beat);
            }
        }
        if answer && !msg.echo { Verdict::Answer } else { Verdict::Taken }
    }

    /// The heartbeats due now: one per peer. Notices gaps of the clock; call it about once per keepalive,
    /// after the socket has been drained.
    pub fn tick(&mut self, now: Instant) -> Vec<(NodeName, HeartbeatMsg)> {
        if now.since(self.last_tick) > self.timers.warntime {
            self.gaps += 1;
            if self.rules.on(Rule::Gap) {
                for g in self.groups.values_mut() {
                    g.last_holds = now;
                }
            }
        }
        self.last_tick = now;
        // One message for all, under one number: on a link that several peers share it is sent once.
        let message = self.message(now, false);
        self.peers.keys().map(|p| (p.clone(), message.clone())).collect()
    }

    /// The immediate answer to a leader's heartbeat.
    pub fn answer(&mut self, now: Instant) -> HeartbeatMsg {
        self.message(now, true)
    }

    /// The number of a message more: for a part of one that does not fit into a packet.
    pub fn number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn message(&mut self, now: Instant, echo: bool) -> HeartbeatMsg {
        self.seq += 1;
        let groups = self.groups.keys().map(|name| self.beat(name, now)).collect();
        HeartbeatMsg {
            incarnation: self.incarnation,
            seq: self.seq,
            sent: now,
            echo,
            etcd: self.etcd,
            groups,
            summary: self.summary.clone(),
        }
    }

    fn alive(&self, now: Instant) -> bool {
        now.since(self.vouched) <= self.timers.warntime || !self.rules.on(Rule::Vouch)
    }

    fn beat(&self, name: &GroupName, now: Instant) -> GroupBeat {
        let g = &self.groups[name];
        let (leading, holds, ask) = match &g.intent.part {
            Part::Leader { busy, ask, .. } if self.alive(now) && !g.overruled() => {
                (true, *busy || self.serve_until(name, now).is_some_and(|(_, until)| now < until), *ask)
            }
            Part::Leader { .. } | Part::Standby { .. } => (false, false, None),
        };
        GroupBeat {
            group: name.clone(),
            epoch: if leading { g.intent.epoch } else { g.highest },
            leading,
            holds,
            released: g.intent.released,
            ask_ms: ask.map(|d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX)),
            ready: g.intent.ready && self.alive(now),
            state: g.intent.state,
            boot: g.intent.boot,
            insync_rev: g.intent.insync_rev,
            ack: g.ack.clone(),
        }
    }

    /// Until when this node may serve the group, with the epoch that goes with it; none if not at all. May be
    /// in the past: then it has run out.
    #[must_use]
    pub fn serve_until(&self, group: &GroupName, now: Instant) -> Option<(Epoch, Instant)> {
        let g = self.groups.get(group)?;
        let Part::Leader { members, others, lease_until, serve, ask, .. } = &g.intent.part else {
            return None;
        };
        if !serve || g.overruled() {
            return None;
        }
        let alone = {
            // Nobody else may take over. Still bounded by the life of the decision core.
            let from = if self.rules.on(Rule::Vouch) {
                now.min(self.vouched.plus(self.timers.warntime))
            } else {
                now
            };
            from.plus(ask.map_or(self.timers.fencetime, |d| self.timers.good_for(d)))
        };
        // Not heard of yet in this life: what an earlier life handed on stays in force until its end.
        let unknown = |n: &NodeName| !g.promises.contains_key(n);
        if members.iter().any(unknown) {
            return None;
        }
        let all = |nodes: &[NodeName]| {
            let good = |n: &NodeName| g.promises.get(n).map_or(Instant::ZERO, |p| p.good_until);
            let good = nodes.iter().map(good);
            if self.rules.keeps(Detail::Earliest) { good.min() } else { good.max() }.unwrap_or(alone)
        };
        let slow_path = if others.is_empty() {
            alone.max(all(members))
        } else {
            // The lease keeps candidates outside of E off the slow path; so do their promises.
            let lease = lease_until.unwrap_or(Instant::ZERO);
            if lease > now { alone.min(lease).max(all(others)) } else { all(others) }
        };
        Some((g.intent.epoch, all(members).min(slow_path)))
    }

    /// What the heartbeats say about a group now.
    #[must_use]
    pub fn facts(&self, group: &GroupName, now: Instant) -> GroupFacts {
        let Some(g) = self.groups.get(group) else { return GroupFacts::default() };
        GroupFacts {
            acknowledging: matches!(g.intent.part, Part::Standby { acknowledge: true, .. }),
            promised_until: g.promised_until(),
            last_holds: g.last_holds,
            leader_heard: g.leader_heard.clone(),
            released: g.released.clone(),
            highest: g.highest,
            foreign: g.foreign.clone(),
            asked: g.asked,
            promises: g.promises.clone(),
            serve_until: self.serve_until(group, now).map(|(_, until)| until),
        }
    }

    /// What is known about each peer.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<NodeName, PeerFacts> {
        self.peers.iter().map(|(name, p)| (name.clone(), p.facts.clone())).collect()
    }

    /// Whether a peer that was heard lately is late by now: a decision may be due soon.
    #[must_use]
    pub fn misses_one(&self, now: Instant) -> bool {
        let late = self.timers.keepalive * 2..=self.timers.deadtime * 2;
        self.peers.values().filter_map(|p| p.facts.heard).any(|heard| late.contains(&now.since(heard)))
    }

    /// Gaps of the clock longer than `warntime` since the start.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// The incarnation in every message.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Names of all groups.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupName> {
        self.groups.keys().cloned().collect()
    }
}
