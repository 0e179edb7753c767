//! Changes of the data's generation, and who is a member of it.
//!
//! A new generation begins with every promotion and whenever a member is taken out. It is first recorded as
//! *pending*, then every remaining member takes it over durably, then it becomes current, and only then are
//! acknowledgements released: so no node can be promoted that does not know of it, and a primary that dies in
//! between has nothing that the others lack.

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

    /// The generation a peer that is in sync should have.
    pub(super) fn next_generation(&self) -> Generation {
        match self.generation {
            Some(change) if matches!(change.stage, Stage::Spreading | Stage::Committing) => change.new,
            Some(_) | None => self.superblock.generation,
        }
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

    /// Connected peers learn of a generation they were not told yet.
    fn tell_generation(&mut self) {
        let generation = self.next_generation();
        for peer in 0..self.peers.len() {
            let p = &self.peers[peer];
            if p.link == Link::Connected && p.told != generation {
                self.tell_members(peer, generation);
            }
        }
    }

    fn tell_members(&mut self, peer: usize, generation: Generation) {
        self.peers[peer].told = generation;
        let members = self.member_names();
        if let Some(session) = self.peers[peer].session {
            self.send(session, Message::Members { generation, members });
        }
    }

    /// The set of members changed: whoever is in sync learns of it now.
    pub(super) fn tell_all_members(&mut self) {
        let generation = self.next_generation();
        for peer in 0..self.peers.len() {
            if self.peers[peer].link == Link::Connected {
                self.tell_members(peer, generation);
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
        if self.peers[peer].told != generation {
            return; // An older one; the answer to the newer one follows.
        }
        let known = self.peers[peer].adopted == generation;
        self.peers[peer].adopted = generation;
        if !known && generation == self.superblock.generation {
            self.set_base(peer, generation);
            self.transact(Transaction { superblock: true, ..Transaction::default() });
        }
    }
}
