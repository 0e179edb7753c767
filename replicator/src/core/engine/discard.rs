//! A secondary that is at odds with the primary gives its data up: by command, or because the policy says so.
//!
//! ```text
//! Draining ─(nothing runs in the store)─► Copying ─(the copy is durable)─► Saving ─► given up, until it is overwritten
//! ```
//! Nothing is overwritten before the copy exists and the superblock says durably that this generation of the data is
//! given up. The next greeting says so too; then the primary copies everything. Should other data come meanwhile (this
//! replica is promoted, or filled by another primary), what was given up is not that data.

use super::journal::{After, Transaction};
use super::role::problem;
use super::{Action, Engine, Token};
use crate::api::{Apart, ApartReason, Backing, DiscardRequest};
use crate::core::handshake::{Refusal, Verdict, decide};
use crate::core::split_brain::{Primaries, Side, victim};
use crate::types::{DiskState, Generation, Role};

/// Data that is being given up.
#[derive(Clone, Debug)]
pub(super) struct Discard {
    /// Who waits for it; nobody if the policy decided.
    tokens: Vec<Token>,
    generation: Generation,
    copies: bool,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Draining,
    Copying,
    Saving,
}

/// Callers that wait for one copy: an agent repeats itself every few seconds.
const WAITING: usize = 32;

impl Engine {
    /// By command.
    pub(super) fn discard(&mut self, token: Token, request: DiscardRequest) {
        if self.yields() {
            return self.done(token, Ok(()));
        }
        if let Some(discard) = self.discard.as_mut() {
            discard.tokens.push(token);
            if discard.tokens.len() > WAITING {
                let oldest = discard.tokens.remove(0);
                self.refuse(oldest, "superseded", "Superseded", "a later command took its place".into());
            }
            return;
        }
        if let Err(detail) = self.may_discard() {
            return self.refuse(token, "not-apart", "Nothing to give up", detail);
        }
        let at_odds = |p: &super::Peer| p.at_odds.is_some_and(Refusal::can_be_resolved);
        if !self.peers.iter().any(at_odds) {
            let detail = "this replica is at odds with nobody, as far as it was told: a primary asks every ten seconds";
            return self.refuse(token, "not-apart", "Nothing to give up", detail.into());
        }
        if request.snapshot && matches!(self.config.backing, Backing::Device(_)) {
            let detail = "its backing store is a block device, of which no copy can be kept: save what is needed by \
                          hand, then repeat without a snapshot";
            return self.refuse(token, "no-snapshot", "No copy possible", detail.into());
        }
        self.begin_discard(vec![token], request.snapshot);
    }

    fn may_discard(&self) -> Result<(), String> {
        let sb = &self.superblock;
        if self.role == Role::Primary {
            return Err("this replica is primary: its data is in use".into());
        }
        if self.transition.is_some() || self.stopping || self.disk == DiskState::Attaching {
            return Err("this replica is starting, stopping or changing its role; try again".into());
        }
        if !self.has_disk() || sb.generation == Generation(0) || sb.partial {
            return Err("this replica has no data of its own".into());
        }
        Ok(())
    }

    fn begin_discard(&mut self, tokens: Vec<Token>, copies: bool) {
        let generation = self.superblock.generation;
        self.discard = Some(Discard { tokens, generation, copies, stage: Stage::Draining });
    }

    /// The durable word that the present data may be overwritten.
    pub(super) fn yields(&self) -> bool {
        let sb = &self.superblock;
        sb.generation != Generation(0) && sb.yields == sb.generation && self.discard.is_none()
    }

    /// A secondary that is about to send its greeting knows what the primary will say, and what the policy makes of it.
    pub(super) fn judge_apart(&mut self, peer: usize, may_begin: bool) {
        let p = &mut self.peers[peer];
        let (theirs, ours) = (&p.theirs, &p.ours);
        p.at_odds = match decide(theirs, ours) {
            Verdict::Refuse(refusal) => Some(refusal),
            Verdict::Bitmap | Verdict::Full => None,
        };
        let lost = p.at_odds == Some(Refusal::SplitBrain)
            && victim(Primaries::One(Side::Source), theirs, ours) == Some(Side::Target);
        if lost && may_begin && self.discard.is_none() && self.may_discard().is_ok() {
            let copies = matches!(self.config.backing, Backing::File(_));
            self.begin_discard(Vec::new(), copies);
            let copy = if copies { "a copy of it is kept" } else { "of a block device no copy can be kept" };
            let node = self.peers[peer].node.clone();
            let rule = "the policy after_split_brain gives this node's data up";
            self.out.push(Action::Note(format!("split brain with {node}: {rule}; {copy}")));
        }
    }

    pub(super) fn pump_discard(&mut self) {
        if self.discard.as_ref().is_some_and(|d| d.stage == Stage::Draining) {
            // A write that waits for space would be tried again while the copy is made. Nobody was promised it.
            self.drop_full();
        }
        let busy = self.store.values().any(|(what, _)| matches!(what, super::Use::Op(_)));
        let Some(discard) = self.discard.as_mut().filter(|d| d.stage == Stage::Draining && !busy) else {
            return;
        };
        if discard.copies {
            discard.stage = Stage::Copying;
            let generation = discard.generation;
            self.out.push(Action::Keep(generation));
        } else {
            self.save_discard();
        }
    }

    /// The copy is there, or cannot be had.
    pub(super) fn kept(&mut self, result: Result<String, String>) {
        if self.discard.as_ref().is_none_or(|d| d.stage != Stage::Copying) {
            return; // Of one that was given up on: the copy stays and is listed.
        }
        match result {
            Ok(name) => {
                let text = format!(
                    "the data of this replica is given up after a split brain; a copy is kept: {name}"
                );
                if self.discard.as_ref().is_some_and(|d| d.tokens.is_empty()) {
                    self.alarm(text); // Nobody asked for it: somebody should know.
                } else {
                    self.out.push(Action::Note(text));
                }
                self.save_discard();
            }
            Err(why) => {
                self.end_discard(Err(format!("no copy could be kept, and nothing was given up: {why}")))
            }
        }
    }

    fn save_discard(&mut self) {
        let Some(discard) = self.discard.as_mut() else { return };
        discard.stage = Stage::Saving;
        if discard.generation != self.superblock.generation {
            return self.end_discard(Err("other data has come meanwhile".into()));
        }
        self.superblock.yields = discard.generation;
        let after = vec![After::Yielded];
        self.transact(Transaction { superblock: true, after, ..Transaction::default() });
    }

    pub(super) fn end_discard(&mut self, result: Result<(), String>) {
        let Some(discard) = self.discard.take() else { return };
        if let (Err(why), true) = (&result, discard.tokens.is_empty()) {
            let text = format!("not given up, as the policy says: {why}");
            if !self.alarms.contains(&text) {
                self.alarm(text);
            }
        }
        for token in discard.tokens {
            let answer = result.clone().map_err(|why| problem(409, "no-snapshot", "Not given up", why));
            self.done(token, answer);
        }
        self.greet_held();
    }

    /// For status: how this replica and a peer's stay apart.
    pub(super) fn apart(&self, peer: usize) -> Option<Apart> {
        let p = &self.peers[peer];
        let why = match p.at_odds? {
            Refusal::SplitBrain => ApartReason::SplitBrain,
            Refusal::TargetNewer => ApartReason::NewerData,
            Refusal::Unrelated => ApartReason::UnrelatedData,
            Refusal::SourceEmpty | Refusal::SourceInconsistent => return None,
        };
        let (ours, theirs) = (p.ours.parted, p.theirs.parted);
        let primary = self.role == Role::Primary;
        Some(Apart {
            why,
            since_s: [ours.at_s, theirs.at_s].into_iter().filter(|at| *at != 0).min(),
            here_blocks: ours.blocks,
            there_blocks: theirs.blocks,
            discard: if primary { p.node.clone() } else { self.node.clone() },
            yields: !primary && (self.discard.is_some() || self.yields()),
        })
    }
}
