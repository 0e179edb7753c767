//! What of the heartbeats can influence their future, for the exhaustive check (tests only). Left out: counters, numbers of
//! messages (in the check every message but a late one is newer than what was heard), status for people.

use super::{HeartbeatCore, Part};
use crate::core::beat::HeartbeatMsg;
use crate::core::sim::exhaustive::Key;
use baton_replicator::types::{GroupName, NodeName};

impl HeartbeatCore {
    /// A message says nothing that a later one of the same life has not said.
    pub(in crate::core) fn knows_newer(&self, from: &NodeName, msg: &HeartbeatMsg) -> bool {
        let of_that_life = |p: &&super::Peer| p.facts.incarnation == Some(msg.incarnation);
        self.peers.get(from).filter(of_that_life).is_some_and(|p| p.seq >= msg.seq)
    }

    /// Writes what may matter later of one group.
    pub(in crate::core) fn write_key(&self, group: &GroupName, key: &mut Key<'_>) {
        key.age(self.vouched, 2);
        key.age(self.last_tick, 1);
        let Some(g) = self.groups.get(group) else { return };
        key.epoch(g.highest);
        key.left(g.floor);
        let mut given: Vec<_> = g.given.iter().filter(|x| key.is_ahead(x.until)).collect();
        given.sort_by_key(|x| (x.leader.clone(), x.epoch.number));
        key.count(given.len());
        for x in given {
            key.node(&x.leader);
            key.epoch(x.epoch);
            key.left(x.until);
        }
        let ack = g.ack.as_ref().filter(|a| key.leads(&a.leader, a.epoch));
        key.flag(ack.is_some());
        if let Some(ack) = ack {
            key.node(&ack.leader);
            key.flag(key.is_of_present_life(&ack.leader, ack.incarnation));
            key.sent(&ack.leader, ack.sent);
        }
        key.flag(g.released.is_some());
        if let Some((who, epoch)) = &g.released {
            key.node(who);
            key.epoch(*epoch);
        }
        key.flag(g.foreign.is_some());
        let leads = match &g.intent.part {
            Part::Standby { acknowledge, .. } => {
                key.count(0);
                key.flag(*acknowledge);
                false
            }
            Part::Leader { members, others, serve, busy, .. } => {
                key.count(1 + members.len() + others.len());
                for node in members.iter().chain(others) {
                    key.node(node);
                }
                key.flag(*serve);
                key.flag(*busy);
                true
            }
        };
        key.flag(g.intent.ready);
        for (name, peer) in &self.peers {
            let promise = g.promises.get(name).filter(|_| leads);
            key.flag(promise.is_some());
            if let Some(p) = promise {
                key.age(p.sent, 2);
                key.left(p.good_until);
            }
            key.flag(peer.facts.heard.is_some());
            if let Some(heard) = peer.facts.heard {
                key.age(heard, 3);
            }
            key.flag(peer.facts.incarnation.is_some_and(|life| key.is_of_present_life(name, life)));
            key.flag(peer.facts.groups.contains_key(group));
            if let Some(beat) = peer.facts.groups.get(group) {
                key.boot(beat.boot);
                if leads {
                    key.flag(beat.ready);
                    key.flag(peer.facts.etcd);
                }
            }
        }
    }
}
