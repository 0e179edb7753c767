//! What may change while a volume is attached: addresses, timeout, rate, and the set of peers.
//!
//! A peer that is added gets a slot and a bitmap, durably, before it is dialed; the handshake finds that it needs
//! everything. A peer that is left out is not dialed any more and disappears from status, but keeps its slot and its
//! bitmap: should it come back, only what differs is copied. Its slot is given to another peer only when there is no
//! free one, and then every bit of it is set first: if we die before the slot has its new owner, the old one must not
//! be taken for one that lacks nothing. The one thing refused is to leave out a peer that must still acknowledge writes.

use super::journal::Transaction;
use super::peer::{Link, Peer};
use super::{Action, Engine};
use crate::api::VolumeConfig;
use crate::core::meta::{self, Bitmap, PeerSlot, Write};
use crate::types::{Generation, Instant, NodeName, Role};

impl Engine {
    /// Takes a changed configuration over; what follows from it comes as actions.
    ///
    /// # Errors
    /// Something differs that cannot change while attached; nothing was changed.
    pub fn reconfigure(&mut self, config: VolumeConfig, now: Instant) -> Result<Vec<Action>, String> {
        self.now = now;
        let (old, new) = (&self.config, &config);
        if (&old.group, &old.backing, &old.metadata) != (&new.group, &new.backing, &new.metadata) {
            return Err("group, backing store and metadata cannot change while the volume is attached".into());
        }
        if new.size_bytes < old.size_bytes.max(self.superblock.size) {
            return Err("a volume never shrinks".into());
        }
        if !meta::is_size(new.size_bytes) {
            return Err(meta::MetaError::Size(new.size_bytes).to_string());
        }
        if old.front_end != new.front_end {
            return Err("the front end cannot change while the volume is attached".into());
        }
        let named = |node: &NodeName| config.peers.iter().any(|p| p.node == *node);
        if let Some(member) = self.required.iter().find(|m| !named(&m.node)) {
            return Err(format!(
                "{} must still acknowledge every write; take it out of the set first",
                member.node
            ));
        }
        let added: Vec<NodeName> = config
            .peers
            .iter()
            .map(|p| p.node.clone())
            .filter(|node| *node != self.node && self.peer_index(node).is_none())
            .collect();
        let free = self.superblock.peers.iter().filter(|slot| slot.is_none()).count();
        let left_out = self.peers.iter().filter(|p| !named(&p.node)).count();
        if added.len() > free + left_out {
            return Err("there is no room for another peer".into());
        }
        self.config = config;
        self.growth.begin_anew();
        for peer in 0..self.peers.len() {
            if !self.configured(peer) {
                self.leave_out(peer);
            }
        }
        for node in added {
            self.admit_peer(node);
        }
        // Set before the peers greet, so that they find it.
        if self.role == Role::Primary {
            self.dial_all();
        }
        self.pump();
        self.note_changes();
        Ok(std::mem::take(&mut self.out))
    }

    pub(super) fn configured(&self, peer: usize) -> bool {
        self.config.peers.iter().any(|c| c.node == self.peers[peer].node)
    }

    fn leave_out(&mut self, peer: usize) {
        self.dial(peer, false);
        if self.peers[peer].session.is_some() {
            self.lose_peer(peer, Link::Down, "it is no peer of this volume any more");
        }
        let sessions: Vec<_> = self.sessions.iter().filter(|(_, p)| **p == peer).map(|(s, _)| *s).collect();
        for session in sessions {
            self.close(session, "it is no peer of this volume any more");
        }
        self.leave_verify(peer);
    }

    fn admit_peer(&mut self, node: NodeName) {
        // There is a slot: they were counted.
        let Some(raw) = self.enlist(node) else { return };
        // The pages first: a slot whose bitmap is another peer's must never be found.
        self.transact(Transaction { raw, ..Transaction::default() });
        self.transact(Transaction { superblock: true, ..Transaction::default() });
    }

    /// Gives a peer a slot and a bitmap, whose pages are returned: they must be durable before the superblock is. None
    /// if every slot has an owner that is configured.
    pub(super) fn enlist(&mut self, node: NodeName) -> Option<Vec<Write>> {
        let mut bitmap = Bitmap::new(self.superblock.size);
        bitmap.set_end(self.superblock.offered);
        let slot = match self.superblock.peers.iter().position(Option::is_none) {
            Some(slot) => slot,
            None => {
                let left_out = (0..self.peers.len()).find(|p| !self.configured(*p))?;
                bitmap.mark_all();
                self.peers[left_out].slot
            }
        };
        let raw = bitmap.all_pages(slot);
        self.superblock.peers[slot] =
            Some(PeerSlot { node: node.clone(), base: Generation(0), tracking: false });
        self.superblock.parted[slot] = (0, 0);
        let peer = Peer::new(node, slot, bitmap, self.now);
        match self.peers.iter().position(|p| p.slot == slot) {
            // In place, because sessions and answers know peers by their position.
            Some(position) => {
                self.peers[position] = peer;
                self.forget_answers(position);
            }
            None => self.peers.push(peer),
        }
        Some(raw)
    }

    /// What another peer has acknowledged is not acknowledged by the one that has its place now.
    fn forget_answers(&mut self, position: usize) {
        self.ops.values_mut().for_each(|op| op.acked &= !(1 << position));
        self.flushes.values_mut().for_each(|flush| flush.acked &= !(1 << position));
    }
}
