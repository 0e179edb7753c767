//! A peer that an engine under test talks to: it knows what a peer would answer, and can say anything else as well.

use super::bytes::Choices;
use super::handshake::identity;
use crate::core::engine::SessionId;
use crate::core::frame::{Greeting, Message, OLDEST_PROTOCOL, PROTOCOL, Refused, Sync};
use crate::core::handshake::{Identity, Verdict, decide};
use crate::core::range::Range;
use crate::types::{BootId, Epoch, Generation, NodeName, VolumeName};
use bytes::Bytes;
use std::collections::VecDeque;

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;

/// One of the engine's peers.
pub(super) struct Peer {
    pub node: NodeName,
    pub session: Option<SessionId>,
    /// What it would say next.
    pub owed: VecDeque<Message>,
    /// It greeted first, as a primary, in this epoch.
    pub leads: Option<Epoch>,
    mine: Identity,
    theirs: Identity,
    boot: u64,
    incarnation: u64,
    pub seq: u64,
}

/// A block's worth of a value that nothing else has.
pub(super) fn data(value: u64, blocks: u64) -> Bytes {
    let mut bytes = vec![0; (blocks * BLOCK) as usize];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    bytes.into()
}

/// The value in it.
pub(super) fn value(data: &[u8]) -> u64 {
    data.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Peer {
    pub fn new(name: &str) -> Self {
        Self {
            node: NodeName::new(name).expect("a name"),
            session: None,
            owed: VecDeque::new(),
            leads: None,
            mine: Identity::default(),
            theirs: Identity::default(),
            boot: 7,
            incarnation: 1,
            seq: 0,
        }
    }

    /// A session begins: with what data, after which restart.
    pub fn begin(&mut self, c: &mut Choices<'_>, session: SessionId, leads: Option<Epoch>) {
        (self.session, self.leads) = (Some(session), leads);
        self.owed.clear();
        let how = c.byte();
        if how & 1 != 0 {
            self.incarnation += 1;
        }
        if how & 2 != 0 {
            self.boot += 1;
        }
        if how & 4 != 0 {
            self.mine = identity(c);
        }
        if leads.is_some() && self.mine.generation == Generation(0) {
            self.mine.generation = Generation(5);
        }
    }

    pub fn greeting(&self, c: &mut Choices<'_>, size: u64) -> Greeting {
        let me = NodeName::new("alpha").expect("a name");
        let protocol = if c.rarely(8) { OLDEST_PROTOCOL } else { PROTOCOL };
        Greeting {
            protocol,
            from: self.node.clone(),
            to: me.clone(),
            volume: VolumeName::new("vol").expect("a name"),
            size: if c.rarely(32) { size + BLOCK } else { size },
            capacity: size + BLOCK,
            boot: BootId(self.boot),
            incarnation: self.incarnation,
            identity: self.mine.clone(),
            members: if c.rarely(2) { vec![self.node.clone(), me] } else { vec![self.node.clone()] },
        }
    }

    /// Takes what the engine said, and owes what a peer would answer.
    pub fn hears(&mut self, c: &mut Choices<'_>, said: &Message, size: u64) {
        match said {
            Message::Hello(greeting) => {
                self.theirs = greeting.identity.clone();
                let welcome = Greeting {
                    protocol: greeting.protocol.min(PROTOCOL),
                    members: Vec::new(),
                    ..self.greeting(c, size)
                };
                self.owed.extend([Message::Welcome(welcome), Message::DirtyEnd]);
            }
            Message::Welcome(greeting) => self.theirs = greeting.identity.clone(),
            Message::DirtyEnd => {
                let sync = match decide(&self.mine, &self.theirs) {
                    Verdict::Bitmap if c.rarely(2) => Sync::Bitmap,
                    Verdict::Bitmap if self.theirs.inconsistent => Sync::Bitmap,
                    Verdict::Bitmap => Sync::CatchUp,
                    Verdict::Full => Sync::Full(Generation(77)),
                    Verdict::Refuse(_) => return,
                };
                self.owed.push_back(Message::Decision(sync));
            }
            Message::Decision(_) => self.owed.push_back(Message::Ready),
            Message::Write { seq, .. }
            | Message::Zero { seq, .. }
            | Message::Copy { seq, .. }
            | Message::CopyZero { seq, .. } => self.owed.push_back(Message::Ack(*seq)),
            Message::Flush(id) => self.owed.push_back(Message::FlushAck(*id)),
            Message::SyncDone { generation, history, .. } => {
                self.mine = Identity {
                    generation: *generation,
                    history: history.clone(),
                    inconsistent: false,
                    partial: false,
                    ..self.mine.clone()
                };
                self.owed.push_back(Message::SyncDoneAck(*generation));
            }
            Message::Members { generation, .. } => self.owed.push_back(Message::MembersAck(*generation)),
            Message::WantDurable => self.owed.push_back(Message::Durable(self.seq)),
            Message::Digest { id, range, by_block } => {
                let blocks = if *by_block { range.bytes() / BLOCK } else { 1 };
                let same = u8::from(c.rarely(4));
                self.owed.push_back(Message::Digests {
                    id: *id,
                    digests: vec![same; blocks as usize * 32].into(),
                });
            }
            Message::Ping => self.owed.push_back(Message::Pong),
            _ => {}
        }
    }

    /// What a primary says when it feels like it.
    pub fn leads_on(&mut self, c: &mut Choices<'_>, size: u64, value: u64) -> Message {
        let blocks = 1 + u64::from(c.below(2));
        let offset = u64::from(c.short()) * BLOCK % (size - blocks * BLOCK);
        let offset = offset / BLOCK * BLOCK;
        let range = Range { start: offset, end: offset + blocks * BLOCK };
        self.seq += 1;
        let (seq, durable) = (self.seq, self.seq.saturating_sub(1 + u64::from(c.below(4))));
        let generation = Generation(5 + u64::from(c.below(4)));
        match c.below(12) {
            0 => Message::Zero { seq, range, discard: c.rarely(2), durable },
            1 => Message::Copy { seq, offset, data: data(value, blocks) },
            2 => Message::CopyZero { seq, range },
            3 | 4 => Message::Flush(seq),
            5 | 6 => {
                self.mine.generation = generation;
                let members = vec![self.node.clone(), NodeName::new("alpha").expect("a name")];
                Message::SyncDone { generation, history: self.mine.history.clone(), members }
            }
            7 => Message::Members { generation, committed: c.rarely(2), members: vec![self.node.clone()] },
            8 => Message::Durable(durable),
            9 => Message::Digest { id: seq, range, by_block: c.rarely(2) },
            _ => Message::Write { seq, offset, durable, data: data(value, blocks) },
        }
    }

    /// Anything at all.
    pub fn anything(&self, c: &mut Choices<'_>, size: u64, value: u64) -> Message {
        let seq = c.number(self.seq);
        let offset = c.number(size);
        let len = 1 + c.number(0) % if c.rarely(8) { size } else { 2 << 20 };
        let range = Range::new(offset, len).unwrap_or(Range { start: 0, end: BLOCK });
        let generation = Generation(c.number(5));
        let members = vec![self.node.clone(); usize::from(c.below(3))];
        match c.below(26) {
            0 => Message::Hello(self.greeting(c, size)),
            1 => Message::Welcome(self.greeting(c, size)),
            2 => Message::Refused(Refused::EpochTooOld),
            3 => Message::Refused(Refused::EpochForeign),
            4 => Message::Refused(Refused::Other("no".into())),
            5 => Message::Dirty(vec![range; usize::from(c.below(4))]),
            6 => Message::DirtyEnd,
            7 => Message::Decision(Sync::Nothing),
            8 => Message::Decision(Sync::CatchUp),
            9 => Message::Decision(Sync::Bitmap),
            10 => Message::Decision(Sync::Full(generation)),
            11 => Message::Ready,
            12 => Message::Write { seq, offset, durable: c.number(0), data: data(value, 1) },
            13 => Message::Zero { seq, range, discard: c.rarely(2), durable: c.number(0) },
            14 => Message::Copy { seq, offset, data: data(value, 1).slice(..(len % BLOCK) as usize) },
            15 => Message::CopyZero { seq, range },
            16 => Message::Ack(seq),
            17 => Message::Flush(seq),
            18 => Message::FlushAck(seq),
            19 => {
                Message::SyncDone { generation, history: vec![generation; usize::from(c.below(64))], members }
            }
            20 => Message::SyncDoneAck(generation),
            21 => Message::Members { generation, committed: c.rarely(2), members },
            22 => Message::MembersAck(generation),
            23 => Message::Durable(seq),
            24 => Message::Digest { id: seq, range, by_block: c.rarely(2) },
            _ => Message::Digests { id: seq, digests: vec![0; 32 * (1 + usize::from(c.below(64)))].into() },
        }
    }
}
