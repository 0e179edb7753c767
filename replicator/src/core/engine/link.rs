//! The primary's part of a session, first half: dialing, greeting, handshake; and where frames go.

use super::journal::{After, Transaction};
use super::peer::Link;
use super::{Action, Engine, SessionId};
use crate::core::frame::{
    Frame, Greeting, Message, OLDEST_PROTOCOL, PROTOCOL, PROTOCOL_GROW, PROTOCOL_SPLIT_BRAIN, Refused, Sync,
};
use crate::core::handshake::{Identity, Refusal, Verdict, decide};
use crate::core::meta::BLOCK_BYTES;
use crate::core::split_brain::{Parted, story};
use crate::types::{DiskState, EpochRelation, Generation, NodeName, Protocol, Role};
use std::time::Duration;

/// How long a peer that stands alone is left alone: a person may have emptied its replica meanwhile.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Engine {
    pub(super) fn peer_timeout(&self) -> Duration {
        Duration::from_millis(self.config.peer_timeout_ms.max(100))
    }

    /// Asks for a session to a peer to be kept, or not, if that changes.
    pub(super) fn dial(&mut self, peer: usize, wanted: bool) {
        let wanted = wanted && self.configured(peer);
        if self.peers[peer].dialed != wanted {
            self.peers[peer].dialed = wanted;
            let peer = self.peers[peer].node.clone();
            self.out.push(Action::Dial { peer, wanted });
        }
    }

    /// A primary that may still lead keeps a session to everyone it is not at odds with.
    pub(super) fn dial_all(&mut self) {
        let leads = self.role == Role::Primary && self.deposed.is_none() && !self.stopping;
        for peer in 0..self.peers.len() {
            let p = &self.peers[peer];
            let at_odds = p.link == Link::StandAlone && self.now.since(p.since) < ASK_AGAIN;
            self.dial(peer, leads && !at_odds && (self.has_disk() || self.may_come_back(peer)));
        }
    }

    pub(super) fn dial_failed(&mut self, node: &NodeName, reason: String) {
        if let Some(peer) = self.peer_index(node)
            && self.peers[peer].session.is_none()
            && self.upstream.as_ref().is_none_or(|u| u.peer != peer)
        {
            self.peers[peer].reason = Some(reason);
        }
    }

    pub(super) fn session_opened(&mut self, session: SessionId, node: &NodeName) {
        let Some(peer) = self.peer_index(node).filter(|p| self.configured(*p)) else {
            self.close(session, "not a peer of this volume");
            return;
        };
        self.sessions.insert(session, peer);
        if self.role != Role::Primary {
            return; // It says Hello, or it is of no use and will time out.
        }
        let unborn = self.superblock.generation == Generation(0);
        let diskless = !self.has_disk() && !self.may_come_back(peer);
        if self.deposed.is_some() || self.stopping || unborn || diskless {
            self.close(session, "this replica cannot serve (yet)");
            return;
        }
        if self.peers[peer].session.is_some() {
            self.lose_peer(peer, Link::Down, "a new session took its place");
        }
        let ours = self.identity_towards(peer, self.peers[peer].offer);
        let now = self.now;
        let p = &mut self.peers[peer];
        p.session = Some(session);
        p.ours = ours.clone();
        (p.last_heard, p.last_sent) = (now, now);
        self.set_link(peer, Link::Greeting, Some("waiting for its greeting".into()));
        let greeting = self.greeting(peer, self.peers[peer].offer, ours);
        self.send(session, Message::Hello(greeting));
    }

    /// What is said about the data in this version of the protocol: no more than will be sent.
    pub(super) fn identity_towards(&self, peer: usize, protocol: u16) -> Identity {
        let sb = &self.superblock;
        let p = &self.peers[peer];
        let slot = sb.peers[p.slot].as_ref();
        let (at_s, epoch) = sb.parted[p.slot];
        let blocks = slot.is_some_and(|s| s.tracking).then(|| p.bitmap.dirty_bytes() / BLOCK_BYTES);
        let identity = Identity {
            generation: sb.generation,
            pending: sb.pending,
            history: sb.history.clone(),
            base: slot.map_or(Generation(0), |s| s.base),
            tracking: slot.is_some_and(|s| s.tracking),
            inconsistent: sb.inconsistent,
            partial: sb.partial,
            yields: self.yields(),
            parted: Parted { at_s, epoch, blocks },
            policy: self.config.after_split_brain,
        };
        if protocol >= PROTOCOL_SPLIT_BRAIN { identity } else { identity.for_older() }
    }

    pub(super) fn greeting(&self, peer: usize, protocol: u16, identity: Identity) -> Greeting {
        Greeting {
            protocol,
            from: self.node.clone(),
            to: self.peers[peer].node.clone(),
            volume: self.superblock.volume.clone(),
            size: self.superblock.offered,
            capacity: self.capacity(),
            boot: self.superblock.boot,
            incarnation: self.incarnation,
            identity,
            members: self.member_names(),
        }
    }

    /// Nobody waits for it: its writes are handed to the network and that is all (protocol A).
    pub(super) fn is_asynchronous(&self, peer: usize) -> bool {
        match self.config.protocol_of(&self.peers[peer].node) {
            Protocol::A => true,
            // What B promises, C keeps.
            Protocol::B | Protocol::C => false,
        }
    }

    /// This node and the required ones.
    pub(super) fn member_names(&self) -> Vec<NodeName> {
        let me = Some(self.node.clone()).filter(|_| self.has_disk());
        me.into_iter().chain(self.required.iter().map(|m| m.node.clone())).collect()
    }

    pub(super) fn set_link(&mut self, peer: usize, link: Link, reason: Option<String>) {
        let now = self.now;
        let p = &mut self.peers[peer];
        (p.link, p.reason, p.since) = (link, reason, now);
    }

    /// A frame of any session.
    pub(super) fn frame(&mut self, session: SessionId, frame: Frame) {
        let Some(peer) = self.sessions.get(&session).copied() else { return };
        self.peers[peer].last_heard = self.now;
        if let Some(upstream) = self.upstream.as_mut().filter(|u| u.session == session) {
            // A primary with nothing to write is not silent: it pings.
            upstream.last_heard = self.now;
        }
        let good = match frame.message {
            Message::Ping => {
                self.send(session, Message::Pong);
                true
            }
            Message::Pong => true,
            Message::Hello(greeting) => self.hello(session, peer, frame.epoch, greeting),
            message if self.peers[peer].session == Some(session) => {
                self.secondary_says(peer, session, frame.epoch, message)
            }
            message if self.upstream.as_ref().is_some_and(|u| u.session == session) => {
                frame.epoch == self.superblock.epoch && self.primary_says(session, message)
            }
            _ => return, // Late, of a conversation that we have ended.
        };
        if !good {
            self.nonsense(session, "it said something that does not fit");
        }
    }

    /// A peer talks nonsense: worth an alarm, never worth more than its session.
    pub(super) fn nonsense(&mut self, session: SessionId, reason: &str) {
        if let Some(peer) = self.sessions.get(&session).copied() {
            let node = self.peers[peer].node.clone();
            self.alarm(format!("{node} was disconnected: {reason}"));
            self.close(session, reason);
        }
    }

    fn secondary_says(
        &mut self,
        peer: usize,
        session: SessionId,
        epoch: crate::types::Epoch,
        message: Message,
    ) -> bool {
        let link = self.peers[peer].link;
        match message {
            Message::Refused(why) => self.refused(peer, epoch, why),
            _ if epoch != self.superblock.epoch => return false,
            Message::Welcome(greeting) if link == Link::Greeting => return self.welcome(peer, greeting),
            Message::Dirty(runs) if link == Link::Reading => {
                // What it has beyond the volume's size is thrown away.
                let size = self.superblock.offered.max(self.peers[peer].size);
                if runs.iter().any(|run| run.end > size || !run.start.is_multiple_of(BLOCK_BYTES)) {
                    return false;
                }
                // Without a disk nothing can be copied, and who comes back lacks nothing but what is sent again.
                let marks = runs.into_iter().filter(|_| self.has_disk()).collect::<Vec<_>>();
                marks.into_iter().for_each(|run| self.peers[peer].bitmap.mark(run));
            }
            Message::DirtyEnd if link == Link::Reading => self.dirty_end(peer, session),
            Message::Ready if link == Link::Deciding => self.peer_ready(peer, session),
            Message::Ack(seq) if self.peers[peer].in_replication() => return self.acked(peer, seq),
            Message::FlushAck(id) if self.peers[peer].in_replication() => return self.flush_acked(peer, id),
            Message::SyncDoneAck(generation)
                if link == Link::Finishing && (generation, true) == self.peers[peer].told =>
            {
                self.peer_synced(peer, generation);
            }
            Message::MembersAck(generation) if self.peers[peer].in_replication() => {
                self.members_acked(peer, generation)
            }
            Message::Capacity(bytes) if self.peers[peer].in_replication() => {
                return self.peer_has_room(peer, bytes);
            }
            Message::OfferAck(bytes) if link == Link::Connected => return self.offer_taken(peer, bytes),
            Message::WantDurable if self.peers[peer].in_replication() => self.want_durable(),
            Message::Digests { id, digests } if link == Link::Syncing => {
                return self.compared_there(peer, id, digests);
            }
            Message::Digests { id, digests } if link == Link::Connected => {
                return self.digest_there(peer, id, digests);
            }
            Message::ReadReply { id, data } if link == Link::Connected => {
                return self.far_data(peer, id, data);
            }
            _ => return false,
        }
        true
    }

    /// Who closes the session instead of answering a Hello may not understand its version: the next one but one offers that
    /// of the release before, the sixth the oldest. Whatever is taken, the session after that begins with the newest again.
    pub(super) fn unanswered_hello(&mut self, peer: usize) {
        let p = &mut self.peers[peer];
        if p.link == Link::Greeting {
            p.unanswered = p.unanswered.saturating_add(1);
            p.offer = match p.unanswered % 6 {
                2 => PROTOCOL - 1,
                5 => OLDEST_PROTOCOL,
                _ => PROTOCOL,
            };
        }
    }

    fn refused(&mut self, peer: usize, epoch: crate::types::Epoch, why: Refused) {
        let node = self.peers[peer].node.clone();
        let newer = self.superblock.epoch.relation(epoch) == EpochRelation::Newer;
        match why {
            Refused::EpochTooOld if newer => self.depose(format!("{node} knows epoch {epoch}")),
            Refused::EpochForeign => {
                self.depose(format!("{node} knows another term with this epoch's number"))
            }
            Refused::EpochTooOld => {
                self.lose_peer(peer, Link::Down, "refused for an epoch that is not newer")
            }
            Refused::Other(reason) => {
                // It answers: should it have seemed older than it is, that ends with the next greeting.
                (self.peers[peer].offer, self.peers[peer].unanswered) = (PROTOCOL, 0);
                self.lose_peer(peer, Link::Down, &format!("refused: {reason}"));
            }
        }
    }

    /// A higher epoch exists: nothing leaves any more, whatever serve-until says.
    pub(super) fn depose(&mut self, reason: String) {
        if self.deposed.is_none() {
            self.alarm(format!("deposed: {reason}"));
            self.deposed = Some(reason);
        }
        self.close_all_sessions("deposed");
        self.dial_all();
    }

    fn welcome(&mut self, peer: usize, greeting: Greeting) -> bool {
        let sb = &self.superblock;
        let p = &mut self.peers[peer];
        if greeting.from != p.node
            || greeting.to != self.node
            || greeting.volume != sb.volume
            || greeting.protocol > p.offer
            || !fits(&greeting, sb.offered)
        {
            return false;
        }
        let before = std::mem::replace(&mut p.protocol, greeting.protocol);
        (p.offer, p.unanswered) = (PROTOCOL, 0);
        if p.incarnation == greeting.incarnation && before > greeting.protocol {
            // The same process spoke a newer one: greetings that broke off made it look older.
            p.protocol = before;
            self.lose_peer(peer, Link::Down, "it speaks a newer version of the protocol: greeted again");
            return true;
        }
        // A replicator that restarted has forgotten what it had not flushed, as far as we can know.
        if p.incarnation != greeting.incarnation || p.boot != Some(greeting.boot) {
            p.write_off();
            // Who has known it longer than this may lack what it had not flushed.
            p.resumed &= p.incarnation == 0;
        }
        (p.size, p.capacity) = (greeting.size, greeting.capacity);
        (p.asked, p.agreed) = (0, 0);
        p.incarnation = greeting.incarnation;
        p.boot = Some(greeting.boot);
        p.theirs = greeting.identity;
        p.disk = if p.theirs.inconsistent { DiskState::Inconsistent } else { DiskState::Consistent };
        let verdict = decide(&p.ours, &p.theirs);
        if !self.has_disk()
            && (verdict != Verdict::Bitmap || !self.is_member(peer) || !self.may_come_back(peer))
        {
            self.turn_away(peer);
            return true;
        }
        let p = &mut self.peers[peer];
        match verdict {
            Verdict::Refuse(refusal) => self.stand_alone(peer, refusal),
            Verdict::Bitmap | Verdict::Full => {
                p.at_odds = None;
                self.set_link(peer, Link::Reading, Some("reading its bitmap".into()))
            }
        }
        true
    }

    fn stand_alone(&mut self, peer: usize, refusal: Refusal) {
        let reason = refusal.to_string();
        if self.peers[peer].at_odds.replace(refusal) != Some(refusal) {
            let node = self.peers[peer].node.clone();
            let text = self.odds(peer).unwrap_or_default();
            self.alarm(format!("not connected to {node}: {text}"));
        }
        if let Some(session) = self.peers[peer].session {
            self.send(session, Message::Refused(Refused::Other(reason.clone())));
        }
        self.lose_peer(peer, Link::StandAlone, &reason);
        self.dial_all();
    }

    /// Both bitmaps are united and durable before anything is decided on them.
    fn dirty_end(&mut self, peer: usize, session: SessionId) {
        self.set_link(peer, Link::Deciding, Some("agreeing on what to copy".into()));
        let full = decide(&self.peers[peer].ours, &self.peers[peer].theirs) == Verdict::Full;
        let mut superblock = false;
        if full {
            let marker = Generation(self.draw());
            self.peers[peer].bitmap.mark_all();
            self.peers[peer].sync = Sync::Full(marker);
            self.set_base(peer, marker);
            superblock = true;
        } else {
            self.peers[peer].sync = Sync::Bitmap;
        }
        let after = vec![After::Decide(session)];
        self.transact(Transaction { pages: true, superblock, after, ..Transaction::default() });
    }

    /// The bitmap towards `peer` counts from `generation`.
    pub(super) fn set_base(&mut self, peer: usize, generation: Generation) {
        let at = self.peers[peer].slot;
        self.superblock.parted[at] = (0, 0);
        if let Some(slot) = self.superblock.peers[at].as_mut() {
            slot.base = generation;
            slot.tracking = true;
        }
    }

    /// The data goes on without `peer`: for the first time since it was the same there, or that is remembered already.
    pub(super) fn part(&mut self, peer: usize) {
        let at = self.peers[peer].slot;
        let sb = &mut self.superblock;
        if sb.peers[at].as_ref().is_some_and(|s| s.tracking) && sb.parted[at] == (0, 0) {
            sb.parted[at] = (self.unix_s, sb.epoch.number);
        }
    }

    /// Why this replica and a peer's stay apart, and what ends it.
    pub(super) fn odds(&self, peer: usize) -> Option<String> {
        let p = &self.peers[peer];
        let (here, there) = ((&self.node, p.ours.parted), (&p.node, p.theirs.parted));
        let secondary = if self.role == Role::Primary { &p.node } else { &self.node };
        p.at_odds.map(|refusal| story(refusal, &self.superblock.volume, here, there, secondary))
    }

    fn link_of(&self, session: SessionId, link: Link) -> Option<usize> {
        let peer = self.sessions.get(&session).copied()?;
        let p = &self.peers[peer];
        (p.session == Some(session) && p.link == link).then_some(peer)
    }

    /// It is a member of the in-sync set, the same replica as when it was admitted.
    fn is_member(&self, peer: usize) -> bool {
        let p = &self.peers[peer];
        self.required.iter().any(|m| m.node == p.node && Some(m.boot) == p.boot)
    }

    /// Its acknowledgement is one that a required member can give.
    pub(super) fn counts(&self, peer: usize) -> bool {
        let p = &self.peers[peer];
        let catches_up =
            p.resumed && p.sync == Sync::CatchUp && matches!(p.link, Link::Syncing | Link::Finishing);
        (p.link == Link::Connected || catches_up) && self.is_member(peer)
    }

    pub(super) fn send_decision(&mut self, session: SessionId) {
        let Some(peer) = self.link_of(session, Link::Deciding) else { return };
        let p = &self.peers[peer];
        let sync = match p.sync {
            Sync::Full(marker) => Sync::Full(marker),
            // A member lacks nothing acknowledged, and any mixture of its blocks and ours is a state that a
            // disk with unflushed writes may have: it stays promotable.
            _ if self.is_member(peer) && p.trusted && !p.theirs.inconsistent => Sync::CatchUp,
            _ if p.bitmap.is_empty() && !p.theirs.inconsistent => Sync::Nothing,
            Sync::Nothing | Sync::CatchUp | Sync::Bitmap => Sync::Bitmap,
        };
        self.peers[peer].sync = sync;
        self.send(session, Message::Decision(sync));
    }

    fn peer_ready(&mut self, peer: usize, session: SessionId) {
        let p = &self.peers[peer];
        let grew = p.sync == Sync::Nothing && !p.bitmap.is_empty();
        let left = p.sync == Sync::CatchUp && !self.is_member(peer) && !p.bitmap.is_empty();
        if grew || left {
            // Written to, or taken out of the set, since the decision: it must not stay consistent.
            self.peers[peer].sync = Sync::Bitmap;
            self.send(session, Message::Decision(Sync::Bitmap));
            return;
        }
        self.begin_resync(peer);
        self.resend_ops(peer);
        self.resend_flushes(peer);
    }
}

/// A secondary can hold a volume of `size` bytes: it has the room, or it is of a release that knows one size only.
fn fits(greeting: &Greeting, size: u64) -> bool {
    if greeting.protocol >= PROTOCOL_GROW { greeting.capacity >= size } else { greeting.size == size }
}
