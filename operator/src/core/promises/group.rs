//! One group's part of a heartbeat: what is acknowledged, what is promised, which acknowledgements count.

use super::{GAP_WINDOW, Given, Group, Part, Peer, Promise};
use crate::core::beat::{Ack, GroupBeat};
use crate::core::rules::{Detail, Rule, Rules};
use crate::core::timing::Timers;
use baton_replicator::types::{EpochRelation, Instant, NodeName};
use std::time::Duration;

impl Group {
    /// Leads, but has heard a higher epoch: fenced at once, before the decision core has even noticed.
    pub(super) fn overruled(&self) -> bool {
        self.highest.number > self.intent.epoch.number
    }

    pub(super) fn promised_until(&self) -> Instant {
        self.given.iter().map(|g| g.until).max().unwrap_or(Instant::ZERO).max(self.floor)
    }

    /// Returns whether the beat was a leader's that got acknowledged.
    pub(super) fn on_beat(
        &mut self,
        me: (&NodeName, u64, Timers, Rules),
        from: &NodeName,
        incarnation: u64,
        sent: Instant,
        beat: &GroupBeat,
        now: Instant,
    ) -> bool {
        let (_, _, timers, rules) = me;
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
                self.take_ack(me, from, beat, now);
                return false;
            }
        }
        self.take_ack(me, from, beat, now);
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
            let until = now.plus(if rules.keeps(Detail::Deadtime) { promise } else { timers.warntime });
            self.given
                .retain(|g| g.until > now && (g.leader != *from || g.epoch != beat.epoch || g.until > until));
            self.given.push(Given { leader: from.clone(), epoch: beat.epoch, until });
        }
        true
    }

    fn take_ack(
        &mut self,
        me: (&NodeName, u64, Timers, Rules),
        from: &NodeName,
        beat: &GroupBeat,
        now: Instant,
    ) {
        let (me, own, timers, rules) = me;
        let Some(ack) = beat.ack.as_ref().filter(|a| a.leader == *me) else { return };
        let leads = matches!(self.intent.part, Part::Leader { .. });
        if !leads || ack.epoch != self.intent.epoch {
            return;
        }
        if rules.on(Rule::Incarnation) && (ack.incarnation != own || ack.sent > now) {
            return;
        }
        let from_when = if rules.keeps(Detail::SendTime) { ack.sent } else { now };
        let good_until = from_when.plus(timers.good_for(Duration::from_millis(ack.promise_ms.into())));
        let p = self.promises.entry(from.clone()).or_insert(Promise { sent: ack.sent, good_until });
        p.sent = p.sent.max(ack.sent);
        p.good_until = p.good_until.max(good_until);
    }
}

impl Peer {
    /// Whether an incarnation that seemed to be over goes on. When both agents start at once, a datagram of the peer's life
    /// before may come after the first one of its present life: the present one would be refused for ever. It is known by
    /// this, that it alone goes on, with numbers never heard of it.
    pub(super) fn lives_on(&self, retired: usize, seq: u64, now: Instant, warntime: Duration) -> bool {
        let silent = self.facts.heard.is_none_or(|last| now.since(last) > warntime);
        silent && self.retired.get(retired).is_some_and(|(_, last)| seq > *last)
    }

    pub(super) fn heard(&mut self, now: Instant, warntime: Duration) {
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
