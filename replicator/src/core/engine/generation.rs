//! Changes of the data's generation, and who is a member of it.
//!
//! A new generation begins with every promotion and whenever a member is taken out. It is first recorded as
//! *pending* here, then by every remaining member, then it comes into force here, and only then are
//! acknowledgements released; the others learn that it is in force when they may. So no node can be promoted
//! that does not know of it, a primary that dies in between has nothing that the others lack, and who was told
//! of a generation that never came into force does not seem to have gone on alone.

use super::Engine;
use super::journal::{After, Transaction};
use super::peer::Link;
use crate::core::frame::Message;
use crate::types::{Generation, Role};

/// A change under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct GenerationChange {
    new: Generation,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Begun,
    Persisting,
    Spreading,
    Committing,
}

impl Engine {
    /// Begins a new generation; the caller sees to it that [`Engine::pump_generation`] runs.
    pub(super) fn start_generation(&mut self) {
        let new = Generation(self.draw());
        // One that was being introduced may be known to somebody.
        let abandoned = self.superblock.pending;
        self.superblock.remember(abandoned);
        self.superblock.pending = new;
        self.generation = Some(GenerationChange { new, stage: Stage::Begun });
    }

    /// What a connected peer should have been told last: the generation, and whether it is in force.
    fn news_for(&self, peer: usize) -> (Generation, bool) {
        match self.generation {
            Some(GenerationChange { new, stage: Stage::Spreading }) if self.counts(peer) => (new, false),
            // Not in force before it is durable: what is in memory runs ahead.
            Some(GenerationChange { stage: Stage::Committing, .. }) => self.peers[peer].told,
            Some(_) | None => (self.superblock.generation, true),
        }
    }

    /// The superblock in memory names a generation that is not durable yet.
    pub(super) fn is_committing(&self) -> bool {
        self.generation.is_some_and(|c| c.stage == Stage::Committing)
    }

    pub(super) fn pump_generation(&mut self) {
        if self.role != Role::Primary || self.transition_blocks_generation() {
            return;
        }
        if let Some(change) = self.generation {
            match change.stage {
                Stage::Begun if self.required.is_empty() => self.commit_generation(change.new),
                Stage::Begun => {
                    self.generation = Some(GenerationChange { stage: Stage::Persisting, ..change });
                    self.save_superblock(After::GenerationPersisted(change.new));
                }
                Stage::Spreading => {
                    let everyone = self.required.iter().all(|m| {
                        self.peer_index(&m.node)
                            .is_some_and(|p| self.counts(p) && self.peers[p].adopted == change.new)
                    });
                    if everyone {
                        self.commit_generation(change.new);
                    }
                }
                Stage::Persisting | Stage::Committing => {}
            }
        }
        self.tell_generation();
    }

    /// Connected peers learn what they were not told yet.
    fn tell_generation(&mut self) {
        for peer in 0..self.peers.len() {
            let p = &self.peers[peer];
            if p.link == Link::Connected && p.told != self.news_for(peer) {
                self.tell_members(peer);
            }
        }
    }

    fn tell_members(&mut self, peer: usize) {
        let (generation, committed) = self.news_for(peer);
        self.peers[peer].told = (generation, committed);
        let members = self.member_names();
        if let Some(session) = self.peers[peer].session {
            self.send(session, Message::Members { generation, committed, members });
        }
    }

    /// The set of members changed: whoever is in sync learns of it now.
    pub(super) fn tell_all_members(&mut self) {
        for peer in 0..self.peers.len() {
            if self.peers[peer].link == Link::Connected {
                self.tell_members(peer);
            }
        }
    }

    pub(super) fn generation_persisted(&mut self, generation: Generation) {
        if let Some(change) =
            self.generation.as_mut().filter(|c| c.new == generation && c.stage == Stage::Persisting)
        {
            change.stage = Stage::Spreading;
        }
    }

    fn commit_generation(&mut self, new: Generation) {
        self.generation = Some(GenerationChange { new, stage: Stage::Committing });
        self.superblock.advance(new);
        for peer in 0..self.peers.len() {
            if self.peers[peer].adopted == new {
                self.set_base(peer, new);
            } else {
                self.part(peer);
            }
        }
        self.save_superblock(After::GenerationDone(new));
    }

    pub(super) fn generation_done(&mut self, generation: Generation) {
        if self.generation.is_some_and(|c| c.new == generation && c.stage == Stage::Committing) {
            self.generation = None;
            self.progress();
            self.answer_waiting();
        }
    }

    pub(super) fn members_acked(&mut self, peer: usize, generation: Generation) {
        let (told, committed) = self.peers[peer].told;
        if told != generation {
            return; // An older one; the answer to the newer one follows.
        }
        let known = self.peers[peer].adopted == generation;
        self.peers[peer].adopted = generation;
        if !known && committed {
            self.set_base(peer, generation);
            self.transact(Transaction { superblock: true, ..Transaction::default() });
        }
    }
}
