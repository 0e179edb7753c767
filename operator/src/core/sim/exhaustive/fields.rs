//! The fields of a state that its key has, in order: see [`key`](super::key).

use super::cluster::{Cluster, Host, Late, Link, TICK};
use super::key::Key;
use crate::core::record::Outcome;
use crate::core::sim::world::group;
use baton_replicator::types::NodeName;

impl Cluster {
    pub(super) fn write_key(&self, key: &mut Key<'_>) {
        let b = self.left;
        for n in
            [b.agents, b.powers, b.cuts, b.etcd, b.unknown, b.revoked, b.moves, b.writes, b.late, b.frozen]
        {
            key.num(n);
        }
        let (kind, who) = match self.link {
            Link::Up => (0, 0),
            Link::Isolated(k) => (1, k),
            Link::Mute(k) => (2, k),
            Link::Card(k) => (3, k),
        };
        key.num(kind);
        key.count(who);
        self.write_etcd(key);
        for n in [&self.acked, &self.flushed] {
            key.writes(n, self.next_write);
        }
        key.num(u8::try_from(self.acked_epoch).unwrap_or(u8::MAX));
        for i in 0..self.hosts.len() {
            key.host(i);
            key.flag(self.blind[i]);
            self.hosts[i].write_key(self.next_write, key);
        }
        key.flag(self.late.is_some());
        if let Some(late) = &self.late {
            late.write_key(&self.hosts[late.from].name, key);
        }
    }

    fn write_etcd(&self, key: &mut Key<'_>) {
        let etcd = &self.etcd;
        key.flag(etcd.leader.is_some());
        if let Some(l) = &etcd.leader {
            key.node(&l.value.node);
            key.epoch(l.value.epoch);
            key.flag(l.value.handed);
            key.lease(l.lease);
        }
        key.flag(etcd.insync.is_some());
        if let Some(i) = &etcd.insync {
            key.epoch(i.value.epoch);
            key.members(&i.value.members);
            key.count(i.value.candidates.len());
            key.flag(i.value.fresh);
        }
        key.flag(etcd.target.is_some());
        if let Some(target) = &etcd.target {
            key.node(target);
        }
        key.count(etcd.leases.len());
        for (id, (_, end)) in &etcd.leases {
            key.lease(*id);
            if !self.cfg.volume {
                key.num(
                    u8::try_from((end * 1_000_000).saturating_sub(self.now).div_ceil(TICK))
                        .unwrap_or(u8::MAX),
                );
            }
        }
    }
}

impl Host {
    fn write_key(&self, writes: u64, key: &mut Key<'_>) {
        key.flag(self.power);
        key.flag(self.frozen);
        key.flag(self.address);
        let ahead = self.published.filter(|(_, until)| key.is_ahead(*until));
        key.flag(ahead.is_some());
        if let Some((epoch, until)) = ahead {
            key.epoch(epoch);
            key.left(until);
        }
        let r = &self.replica;
        key.num(r.role as u8);
        key.epoch(r.epoch);
        key.boot(r.boot);
        key.members(&r.required);
        key.writes(&r.have, writes);
        key.writes(&r.durable, writes);
        key.num(r.membership as u8);
        key.count(r.synced.len());
        for (node, boot) in &r.synced {
            key.node(node);
            key.boot(*boot);
        }
        key.count(r.settled.len());
        for node in &r.settled {
            key.node(node);
        }
        key.flag(r.frozen_since.is_some());
        if let Some(since) = r.frozen_since {
            key.age(since, 2);
        }
        key.flag(r.pending.is_some());
        key.count(self.ghosts.len());
        for txn in &self.ghosts {
            key.txn(txn);
        }
        key.flag(self.agent.is_some());
        let Some(agent) = &self.agent else {
            for epoch in [self.durable.known, self.durable.served, self.durable.released] {
                key.epoch(epoch);
            }
            return;
        };
        agent.unit.core().write_key(key);
        agent.beats.lock().expect("lock").write_key(&group(), key);
        key.flag(agent.waiting.is_some());
        key.flag(agent.sent.is_some());
        if let Some(sent) = &agent.sent {
            key.flag(sent.lost);
            key.num(match &sent.outcome {
                None => 0,
                Some(Outcome::Committed { .. }) => 1,
                Some(Outcome::GuardFailed) => 2,
                Some(Outcome::Unknown) => 3,
            });
            if let Some(Outcome::Committed { revision }) = &sent.outcome {
                key.written(*revision);
            }
            key.txn(&sent.txn);
            key.guard(&sent.txn.guard);
        }
    }
}

impl Late {
    fn write_key(&self, from: &NodeName, key: &mut Key<'_>) {
        key.count(self.from);
        key.flag(key.is_of_present_life(from, self.msg.incarnation));
        key.sent(from, self.msg.sent);
        for beat in &self.msg.groups {
            key.epoch(beat.epoch);
            key.flag(beat.leading);
            key.flag(beat.holds);
            key.flag(beat.ready);
            key.boot(beat.boot);
            key.flag(beat.released.is_some());
            key.flag(beat.ack.is_some());
            if let Some(ack) = &beat.ack {
                key.node(&ack.leader);
                key.epoch(ack.epoch);
                key.flag(key.is_of_present_life(&ack.leader, ack.incarnation));
                key.sent(&ack.leader, ack.sent);
            }
        }
    }
}
