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

use super::beat::{Ack, GroupBeat, HeartbeatMsg};
use super::rules::{Rule, Rules};
use super::timing::Timers;
use baton_replicator::types::{BootId, Epoch, EpochRelation, GroupName, Instant, NodeName};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Incarnations of a peer remembered as over; a datagram of one of them is a replay.
const RETIRED: usize = 8;
/// Half the window over which the longest silence is reported ("in the last minute").
const GAP_WINDOW: Duration = Duration::from_secs(30);

/// What the decision core wants the heartbeats of one group to say and do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Highest epoch the core knows; its own while it leads.
    pub epoch: Epoch,
    /// Leader or standby.
    pub part: Part,
    /// Epoch durably given up.
    pub released: Option<Epoch>,
    /// Could start the group now.
    pub ready: bool,
    /// `GroupState` as a number.
    pub state: u8,
    /// Boot id for the group; zero if unknown.
    pub boot: BootId,
    /// mod_revision of the in-sync record as known.
    pub insync_rev: i64,
}

/// A node's part in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Does not lead.
    Standby {
        /// Acknowledge leaders' heartbeats: not campaigning, nothing unsettled.
        acknowledge: bool,
        /// Longest promise that may be given because it was made durable first; zero for the ordinary one.
        long_promise: Duration,
    },
    /// Leads at `Intent::epoch`.
    Leader {
        /// E: the union of all in-sync sets that may be current, without this node.
        members: Vec<NodeName>,
        /// Candidates outside of E (groups without volumes): their promises stand in for the lease.
        others: Vec<NodeName>,
        /// Until when the lease under the leader key counts.
        lease_until: Option<Instant>,
        /// May serve as far as the core is concerned (guard time over, nothing blocked).
        serve: bool,
        /// Starting or stopping the group: holds it although not entitled at the moment.
        busy: bool,
        /// Before an orderly restart: the longer promise to ask for.
        ask: Option<Duration>,
    },
}

impl Intent {
    /// The intent before anything is known: say nothing, acknowledge nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            epoch: Epoch::ZERO,
            part: Part::Standby { acknowledge: false, long_promise: Duration::ZERO },
            released: None,
            ready: false,
            state: 0,
            boot: BootId(0),
            insync_rev: 0,
        }
    }
}

/// What the heartbeats say about one group at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Leaders' heartbeats are being acknowledged (the intent in force).
    pub acknowledging: bool,
    /// No takeover before this: the longest promise given, the start of the agent included.
    pub promised_until: Instant,
    /// Last heartbeat that said `holds` (or the start, or the end of a gap in the clock).
    pub last_holds: Instant,
    /// Last heartbeat of a leader at the highest epoch.
    pub leader_heard: Option<(NodeName, Epoch, Instant)>,
    /// The leader of the highest epoch says that it gave that epoch up.
    pub released: Option<(NodeName, Epoch)>,
    /// Highest epoch heard or set.
    pub highest: Epoch,
    /// An epoch with a number known here and another term was heard: two histories.
    pub foreign: Option<(NodeName, Epoch)>,
    /// Length of the longer promise that the leader asks for.
    pub asked: Option<Duration>,
    /// Promises received for the present incarnation and epoch, by peer.
    pub promises: BTreeMap<NodeName, Promise>,
    /// As leader: until when serving is allowed. None: not at all.
    pub serve_until: Option<Instant>,
}

/// A promise received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// When this node sent the acknowledged heartbeat.
    pub sent: Instant,
    /// Until when it counts.
    pub good_until: Instant,
}

/// What is known about a peer from its heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerFacts {
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// Its incarnation.
    pub incarnation: Option<u64>,
    /// Its etcd is in reach.
    pub etcd: bool,
    /// Longest silence in the last minute.
    pub longest_gap: Duration,
    /// Heartbeats that came later than `warntime` after the one before.
    pub late: u64,
    /// Datagrams refused as replays or out of bounds.
    pub refused: u64,
    /// Its newest entry per group.
    pub groups: BTreeMap<GroupName, GroupBeat>,
    /// Its status, opaque.
    pub summary: Vec<u8>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Taken; nothing to send.
    Taken,
    /// Taken, and it was a leader's: answer it at once.
    Answer,
    /// Not newer than what was heard already (a second link, or a reordered datagram).
    Duplicate,
    /// Of an incarnation that is over, or longer than allowed.
    Refused,
    /// The sender is no node of this cluster.
    Stranger,
}

struct Given {
    leader: NodeName,
    epoch: Epoch,
    until: Instant,
}

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
struct Peer {
    facts: PeerFacts,
    seq: u64,
    retired: VecDeque<u64>,
    window: Instant,
    gap_before: Duration,
    gap_now: Duration,
}

/// Heartbeats of all groups of one node.
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

    /// The decision core ran: heartbeats may speak for it for another `warntime`.
    pub fn vouch(&mut self, now: Instant, etcd: bool) {
        self.vouched = now;
        self.etcd = etcd;
    }

    /// Replaces the opaque status; what exceeds the limit is cut off by the caller.
    pub fn set_summary(&mut self, summary: Vec<u8>) {
        debug_assert!(summary.len() <= super::beat::MAX_SUMMARY);
        self.summary = summary;
    }

    /// Sets what the heartbeats of a group say from now on.
    pub fn set_intent(&mut self, group: &GroupName, intent: Intent) {
        let Some(g) = self.groups.get_mut(group) else { return };
        let leads = matches!(intent.part, Part::Leader { .. });
        // What etcd's record says outweighs a foreign term of the same number.
        if intent.epoch.number > g.highest.number || (leads && intent.epoch.number == g.highest.number) {
            g.highest = intent.epoch;
        }
        let led = matches!(g.intent.part, Part::Leader { .. });
        if leads && (!led || g.intent.epoch != intent.epoch) {
            g.promises.clear();
        }
        if leads {
            g.ack = None;
            g.released = None;
        }
        g.intent = intent;
    }

    /// Takes a datagram that the transport has authenticated as `from`'s.
    pub fn on_datagram(&mut self, from: &NodeName, msg: HeartbeatMsg, now: Instant) -> Verdict {
        let Some(peer) = self.peers.get_mut(from) else { return Verdict::Stranger };
        if !msg.in_bounds() || peer.retired.contains(&msg.incarnation) {
            peer.facts.refused += 1;
            return Verdict::Refused;
        }
        if peer.facts.incarnation == Some(msg.incarnation) {
            if msg.seq <= peer.seq {
                return Verdict::Duplicate;
            }
        } else if let Some(old) = peer.facts.incarnation.replace(msg.incarnation) {
            peer.retired.push_back(old);
            if peer.retired.len() > RETIRED {
                peer.retired.pop_front();
            }
        }
        peer.seq = msg.seq;
        peer.heard(now, self.timers.warntime);
        peer.facts.etcd = msg.etcd;
        if !msg.summary.is_empty() {
            peer.facts.summary = msg.summary;
        }
        let mut answer = false;
        for beat in msg.groups {
            if let Some(group) = self.groups.get_mut(&beat.group) {
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
        let peers: Vec<NodeName> = self.peers.keys().cloned().collect();
        peers.into_iter().map(|p| (p, self.message(now, false))).collect()
    }

    /// The immediate answer to a leader's heartbeat.
    pub fn answer(&mut self, now: Instant) -> HeartbeatMsg {
        self.message(now, true)
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
            nodes.iter().map(good).min().unwrap_or(alone)
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

impl Group {
    /// Leads, but has heard a higher epoch: fenced at once, before the decision core has even noticed.
    fn overruled(&self) -> bool {
        self.highest.number > self.intent.epoch.number
    }

    fn promised_until(&self) -> Instant {
        self.given.iter().map(|g| g.until).max().unwrap_or(Instant::ZERO).max(self.floor)
    }

    /// Returns whether the beat was a leader's that got acknowledged.
    fn on_beat(
        &mut self,
        me: (&NodeName, u64, Timers, Rules),
        from: &NodeName,
        incarnation: u64,
        sent: Instant,
        beat: &GroupBeat,
        now: Instant,
    ) -> bool {
        let (name, own, timers, rules) = me;
        match self.highest.relation(beat.epoch) {
            EpochRelation::Foreign => {
                self.foreign = Some((from.clone(), beat.epoch));
                return false;
            }
            EpochRelation::Newer => {
                self.highest = beat.epoch;
                self.released = None;
                self.leader_heard = None;
            }
            EpochRelation::Same => {}
            EpochRelation::Older => {
                self.take_ack(name, own, rules, timers, from, beat, now);
                return false;
            }
        }
        self.take_ack(name, own, rules, timers, from, beat, now);
        if let Some(epoch) = beat.released.filter(|e| *e == self.highest) {
            self.given.retain(|g| g.leader != *from || g.epoch != epoch);
            self.released = Some((from.clone(), epoch));
        }
        if !beat.leading {
            return false;
        }
        self.leader_heard = Some((from.clone(), beat.epoch, now));
        self.asked = beat.ask_ms.map(|ms| Duration::from_millis(ms.into()));
        if beat.holds {
            self.last_holds = now;
        }
        let Part::Standby { acknowledge: true, long_promise } = self.intent.part else { return false };
        let promise =
            self.asked.filter(|d| *d <= long_promise).unwrap_or(timers.deadtime).max(timers.deadtime);
        self.ack = Some(Ack {
            leader: from.clone(),
            incarnation,
            epoch: beat.epoch,
            sent,
            promise_ms: u32::try_from(promise.as_millis()).unwrap_or(u32::MAX),
        });
        if beat.holds || rules.on(Rule::AnyAck) {
            let until = now.plus(promise);
            self.given
                .retain(|g| g.until > now && (g.leader != *from || g.epoch != beat.epoch || g.until > until));
            self.given.push(Given { leader: from.clone(), epoch: beat.epoch, until });
        }
        true
    }

    fn take_ack(
        &mut self,
        me: &NodeName,
        own: u64,
        rules: Rules,
        timers: Timers,
        from: &NodeName,
        beat: &GroupBeat,
        now: Instant,
    ) {
        let Some(ack) = beat.ack.as_ref().filter(|a| a.leader == *me) else { return };
        let leads = matches!(self.intent.part, Part::Leader { .. });
        if !leads || ack.epoch != self.intent.epoch {
            return;
        }
        if rules.on(Rule::Incarnation) && (ack.incarnation != own || ack.sent > now) {
            return;
        }
        let good_until = ack.sent.plus(timers.good_for(Duration::from_millis(ack.promise_ms.into())));
        let p = self.promises.entry(from.clone()).or_insert(Promise { sent: ack.sent, good_until });
        p.sent = p.sent.max(ack.sent);
        p.good_until = p.good_until.max(good_until);
    }
}

impl Peer {
    fn heard(&mut self, now: Instant, warntime: Duration) {
        let gap = self.facts.heard.map_or(Duration::ZERO, |last| now.since(last));
        if gap > warntime {
            self.facts.late += 1;
        }
        if now.since(self.window) > GAP_WINDOW {
            self.gap_before = self.gap_now;
            self.gap_now = Duration::ZERO;
            self.window = now;
        }
        self.gap_now = self.gap_now.max(gap);
        self.facts.longest_gap = self.gap_now.max(self.gap_before);
        self.facts.heard = Some(now);
    }
}

#[cfg(test)]
#[path = "promises_tests.rs"]
mod tests;
