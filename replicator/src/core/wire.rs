//! Frames as bytes.
//!
//! A frame on the wire is (kind, head, body): the head holds the fields, little-endian, beginning with the
//! epoch; the body holds block data. Authentication, lengths and CRC32C are the transport's; what the bytes
//! mean is checked here, completely, before the engine sees a [`Frame`]. What is accepted is exactly what
//! would have been sent.

use super::codec::{Reader, text};
use super::digest::DIGEST_BYTES;
use super::frame::{
    BadFrame, Frame, Greeting, MAX_BODY, MAX_DIGEST_RANGE, MAX_HEAD, MAX_READ, MAX_RUNS, Message,
    OLDEST_PROTOCOL, PROTOCOL, PROTOCOL_GROW, PROTOCOL_SPLIT_BRAIN, Refused, Sync,
};
use super::handshake::Identity;
use super::meta::is_size;
use super::range::Range;
use super::split_brain::{AfterSplitBrain, OnePrimary, Parted, TwoPrimaries, ZeroPrimaries};
use crate::types::{BootId, Epoch, Generation, NodeName, TermId, VolumeName};
use bytes::Bytes;

/// Most members or history entries in a frame.
const MAX_LIST: usize = 64;
/// Longest reason of a refusal, bytes: one sentence.
const MAX_DETAIL: usize = 250;

impl Frame {
    /// (kind, head, body).
    #[must_use]
    pub fn encode(&self) -> (u16, Vec<u8>, Bytes) {
        let mut h = Vec::with_capacity(64);
        number(&mut h, self.epoch.number);
        number(&mut h, self.epoch.term.0);
        let mut body = Bytes::new();
        let kind = match &self.message {
            Message::Hello(g) => greeting(&mut h, g, 1),
            Message::Welcome(g) => greeting(&mut h, g, 2),
            Message::Refused(why) => {
                let (code, detail) = match why {
                    Refused::EpochTooOld => (0, ""),
                    Refused::EpochForeign => (1, ""),
                    Refused::Other(detail) => (2, detail.as_str()),
                };
                h.push(code);
                let cut = (0..=detail.len().min(MAX_DETAIL)).rev().find(|n| detail.is_char_boundary(*n));
                let cut = cut.unwrap_or(0);
                text(&mut h, &detail[..cut]);
                3
            }
            Message::Dirty(runs) => {
                for run in runs {
                    range(&mut h, *run);
                }
                4
            }
            Message::DirtyEnd => 5,
            Message::Decision(sync) => {
                let (code, generation) = match sync {
                    Sync::Nothing => (0, 0),
                    Sync::CatchUp => (1, 0),
                    Sync::Bitmap => (2, 0),
                    Sync::Full(generation) => (3, generation.0),
                };
                h.push(code);
                number(&mut h, generation);
                6
            }
            Message::Ready => 7,
            Message::Write { seq, offset, durable, data } => {
                numbers(&mut h, &[*seq, *offset, *durable]);
                body = data.clone();
                8
            }
            Message::Zero { seq, range: r, discard, durable } => {
                numbers(&mut h, &[*seq, *durable]);
                range(&mut h, *r);
                h.push(u8::from(*discard));
                9
            }
            Message::Copy { seq, offset, data } => {
                numbers(&mut h, &[*seq, *offset]);
                body = data.clone();
                10
            }
            Message::CopyZero { seq, range: r } => {
                number(&mut h, *seq);
                range(&mut h, *r);
                11
            }
            Message::Ack(seq) => one(&mut h, *seq, 12),
            Message::Flush(id) => one(&mut h, *id, 13),
            Message::FlushAck(id) => one(&mut h, *id, 14),
            Message::SyncDone { generation, history, members } => {
                number(&mut h, generation.0);
                generations(&mut h, history);
                names(&mut h, members);
                15
            }
            Message::SyncDoneAck(generation) => one(&mut h, generation.0, 16),
            Message::Members { generation, committed, members } => {
                number(&mut h, generation.0);
                h.push(u8::from(*committed));
                names(&mut h, members);
                17
            }
            Message::MembersAck(generation) => one(&mut h, generation.0, 18),
            Message::Durable(seq) => one(&mut h, *seq, 19),
            Message::WantDurable => 20,
            Message::Ping => 21,
            Message::Pong => 22,
            Message::Digest { id, range: r, by_block } => {
                number(&mut h, *id);
                range(&mut h, *r);
                h.push(u8::from(*by_block));
                23
            }
            Message::Digests { id, digests } => {
                body = digests.clone();
                one(&mut h, *id, 24)
            }
            Message::Read { id, range: r } => {
                number(&mut h, *id);
                range(&mut h, *r);
                25
            }
            Message::ReadReply { id, data } => {
                body = data.clone();
                one(&mut h, *id, 26)
            }
            Message::Capacity(bytes) => one(&mut h, *bytes, 35),
            Message::Offer(bytes) => one(&mut h, *bytes, 36),
            Message::OfferAck(bytes) => one(&mut h, *bytes, 37),
        };
        (kind, h, body)
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`BadFrame`] unless every field is there, in bounds, and nothing is left over.
    pub fn decode(kind: u16, head: &[u8], body: Bytes) -> Result<Self, BadFrame> {
        let bad = BadFrame { kind, head: head.len(), body: body.len() };
        if head.len() > MAX_HEAD || body.len() > MAX_BODY {
            return Err(bad);
        }
        let mut r = Reader::new(head);
        let epoch = read_epoch(&mut r).ok_or_else(|| bad.clone())?;
        let has_body = !body.is_empty();
        let message = read_message(kind, &mut r, body).ok_or_else(|| bad.clone())?;
        let body_due = matches!(kind, 8 | 10 | 24 | 26);
        if r.is_done() && has_body == body_due { Ok(Self { epoch, message }) } else { Err(bad) }
    }
}

fn read_epoch(r: &mut Reader<'_>) -> Option<Epoch> {
    Some(Epoch { number: r.u64()?, term: TermId(r.u64()?) })
}

fn read_message(kind: u16, r: &mut Reader<'_>, body: Bytes) -> Option<Message> {
    Some(match kind {
        1 => Message::Hello(read_greeting(r)?),
        2 => Message::Welcome(read_greeting(r)?),
        3 => Message::Refused(match (r.u8()?, r.text()?) {
            (0, detail) if detail.is_empty() => Refused::EpochTooOld,
            (1, detail) if detail.is_empty() => Refused::EpochForeign,
            (2, detail) if detail.len() <= MAX_DETAIL => Refused::Other(detail),
            _ => return None,
        }),
        4 => {
            let mut runs = Vec::new();
            while !r.is_done() {
                runs.push(read_range(r)?);
            }
            (runs.len() <= MAX_RUNS).then_some(Message::Dirty(runs))?
        }
        5 => Message::DirtyEnd,
        6 => Message::Decision(match (r.u8()?, Generation(r.u64()?)) {
            (0, Generation(0)) => Sync::Nothing,
            (1, Generation(0)) => Sync::CatchUp,
            (2, Generation(0)) => Sync::Bitmap,
            (3, generation) if generation != Generation(0) => Sync::Full(generation),
            _ => return None,
        }),
        7 => Message::Ready,
        8 => Message::Write { seq: r.u64()?, offset: r.u64()?, durable: r.u64()?, data: body },
        9 => {
            let (seq, durable) = (r.u64()?, r.u64()?);
            Message::Zero { seq, range: read_range(r)?, discard: r.flag()?, durable }
        }
        10 => Message::Copy { seq: r.u64()?, offset: r.u64()?, data: body },
        11 => Message::CopyZero { seq: r.u64()?, range: read_range(r)? },
        12 => Message::Ack(r.u64()?),
        13 => Message::Flush(r.u64()?),
        14 => Message::FlushAck(r.u64()?),
        15 => {
            let generation = Generation(r.u64()?);
            Message::SyncDone { generation, history: read_generations(r)?, members: read_names(r)? }
        }
        16 => Message::SyncDoneAck(Generation(r.u64()?)),
        17 => {
            let generation = Generation(r.u64()?);
            Message::Members { generation, committed: r.flag()?, members: read_names(r)? }
        }
        18 => Message::MembersAck(Generation(r.u64()?)),
        19 => Message::Durable(r.u64()?),
        20 => Message::WantDurable,
        21 => Message::Ping,
        22 => Message::Pong,
        23 => {
            let (id, range) = (r.u64()?, read_range(r)?);
            (range.bytes() <= MAX_DIGEST_RANGE).then_some(Message::Digest {
                id,
                range,
                by_block: r.flag()?,
            })?
        }
        24 => {
            let whole = body.len().is_multiple_of(DIGEST_BYTES);
            whole.then_some(Message::Digests { id: r.u64()?, digests: body })?
        }
        25 => {
            let (id, range) = (r.u64()?, read_range(r)?);
            (range.bytes() <= MAX_READ).then_some(Message::Read { id, range })?
        }
        26 => Message::ReadReply { id: r.u64()?, data: body },
        35 => Message::Capacity(read_size(r)?),
        36 => Message::Offer(read_size(r)?),
        37 => Message::OfferAck(read_size(r)?),
        _ => return None,
    })
}

/// A size that a volume can have.
fn read_size(r: &mut Reader<'_>) -> Option<u64> {
    r.u64().filter(|size| is_size(*size))
}

fn number(h: &mut Vec<u8>, n: u64) {
    h.extend(n.to_le_bytes());
}

fn numbers(h: &mut Vec<u8>, list: &[u64]) {
    list.iter().for_each(|n| number(h, *n));
}

fn one(h: &mut Vec<u8>, n: u64, kind: u16) -> u16 {
    number(h, n);
    kind
}

fn range(h: &mut Vec<u8>, r: Range) {
    number(h, r.start);
    number(h, r.bytes());
}

fn read_range(r: &mut Reader<'_>) -> Option<Range> {
    Range::new(r.u64()?, r.u64()?)
}

fn generations(h: &mut Vec<u8>, list: &[Generation]) {
    h.push(list.len().min(MAX_LIST) as u8);
    list.iter().take(MAX_LIST).for_each(|g| number(h, g.0));
}

fn read_generations(r: &mut Reader<'_>) -> Option<Vec<Generation>> {
    let count = usize::from(r.u8()?);
    if count > MAX_LIST {
        return None;
    }
    (0..count).map(|_| r.u64().map(Generation)).collect()
}

fn names(h: &mut Vec<u8>, list: &[NodeName]) {
    h.push(list.len().min(MAX_LIST) as u8);
    list.iter().take(MAX_LIST).for_each(|n| text(h, n.as_str()));
}

fn read_names(r: &mut Reader<'_>) -> Option<Vec<NodeName>> {
    let count = usize::from(r.u8()?);
    if count > MAX_LIST {
        return None;
    }
    (0..count).map(|_| NodeName::new(r.text()?).ok()).collect()
}

fn greeting(h: &mut Vec<u8>, g: &Greeting, kind: u16) -> u16 {
    h.extend(g.protocol.to_le_bytes());
    text(h, g.from.as_str());
    text(h, g.to.as_str());
    text(h, g.volume.as_str());
    numbers(h, &[g.size, g.boot.0, g.incarnation]);
    let id = &g.identity;
    numbers(h, &[id.generation.0, id.pending.0, id.base.0]);
    h.extend([id.tracking, id.inconsistent, id.partial].map(u8::from));
    generations(h, &id.history);
    names(h, &g.members);
    if g.protocol >= PROTOCOL_SPLIT_BRAIN {
        h.push(u8::from(id.yields));
        parted(h, &id.parted);
        policy(h, id.policy);
    }
    if g.protocol >= PROTOCOL_GROW {
        number(h, g.capacity);
    }
    kind
}

fn parted(h: &mut Vec<u8>, p: &Parted) {
    numbers(h, &[p.at_s, p.epoch, p.blocks.unwrap_or(0)]);
    h.push(u8::from(p.blocks.is_some()));
}

fn read_parted(r: &mut Reader<'_>) -> Option<Parted> {
    let (at_s, epoch, blocks) = (r.u64()?, r.u64()?, r.u64()?);
    let blocks = if r.flag()? { Some(blocks) } else { (blocks == 0).then_some(None)? };
    Some(Parted { at_s, epoch, blocks })
}

fn policy(h: &mut Vec<u8>, p: AfterSplitBrain) {
    h.push(match p.zero_primaries {
        ZeroPrimaries::Disconnect => 0,
        ZeroPrimaries::DiscardYoungerPrimary => 1,
        ZeroPrimaries::DiscardOlderPrimary => 2,
        ZeroPrimaries::DiscardZeroChanges => 3,
        ZeroPrimaries::DiscardLeastChanges => 4,
    });
    h.push(match p.one_primary {
        OnePrimary::Disconnect => 0,
        OnePrimary::Consensus => 1,
        OnePrimary::DiscardSecondary => 2,
    });
    h.push(match p.two_primaries {
        TwoPrimaries::Disconnect => 0,
    });
}

fn read_policy(r: &mut Reader<'_>) -> Option<AfterSplitBrain> {
    let zero_primaries = match r.u8()? {
        0 => ZeroPrimaries::Disconnect,
        1 => ZeroPrimaries::DiscardYoungerPrimary,
        2 => ZeroPrimaries::DiscardOlderPrimary,
        3 => ZeroPrimaries::DiscardZeroChanges,
        4 => ZeroPrimaries::DiscardLeastChanges,
        _ => return None,
    };
    let one_primary = match r.u8()? {
        0 => OnePrimary::Disconnect,
        1 => OnePrimary::Consensus,
        2 => OnePrimary::DiscardSecondary,
        _ => return None,
    };
    let two_primaries = match r.u8()? {
        0 => TwoPrimaries::Disconnect,
        _ => return None,
    };
    Some(AfterSplitBrain { zero_primaries, one_primary, two_primaries })
}

fn read_greeting(r: &mut Reader<'_>) -> Option<Greeting> {
    let protocol = r.u16().filter(|p| (OLDEST_PROTOCOL..=PROTOCOL).contains(p))?;
    let from = NodeName::new(r.text()?).ok()?;
    let to = NodeName::new(r.text()?).ok()?;
    let volume = VolumeName::new(r.text()?).ok()?;
    let (size, boot, incarnation) = (r.u64()?, BootId(r.u64()?), r.u64()?);
    let mut identity = Identity {
        generation: Generation(r.u64()?),
        pending: Generation(r.u64()?),
        base: Generation(r.u64()?),
        tracking: r.flag()?,
        inconsistent: r.flag()?,
        partial: r.flag()?,
        history: read_generations(r)?,
        ..Identity::default()
    };
    let members = read_names(r)?;
    if protocol >= PROTOCOL_SPLIT_BRAIN {
        (identity.yields, identity.parted, identity.policy) = (r.flag()?, read_parted(r)?, read_policy(r)?);
    }
    let capacity = if protocol >= PROTOCOL_GROW { r.u64().filter(|c| *c >= size)? } else { size };
    Some(Greeting { protocol, from, to, volume, size, capacity, boot, incarnation, identity, members })
}
