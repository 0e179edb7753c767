//! The wire format: every message survives the way there, no bytes crash the reader.

use crate::world::{epoch, name};
use baton_replicator::core::frame::{
    Frame, Greeting, MAX_DIGEST_RANGE, MAX_READ, Message, PROTOCOL, Refused, Sync,
};
use baton_replicator::core::handshake::Identity;
use baton_replicator::core::range::Range;
use baton_replicator::core::split_brain::{AfterSplitBrain, OnePrimary, Parted, ZeroPrimaries};
use baton_replicator::types::{BootId, Generation, VolumeName};
use bytes::Bytes;
use proptest::prelude::*;

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

fn all() -> Vec<Message> {
    let greeting = Greeting {
        protocol: PROTOCOL,
        from: name(0),
        to: name(1),
        volume: VolumeName::new("webstore").expect("a name"),
        size: 1 << 30,
        capacity: 2 << 30,
        boot: BootId(3),
        incarnation: 4,
        identity: Identity {
            generation: Generation(5),
            pending: Generation(6),
            history: vec![Generation(7), Generation(8)],
            base: Generation(9),
            tracking: true,
            inconsistent: false,
            partial: true,
            ..Identity::default()
        },
        members: vec![name(0), name(2)],
    };
    let data = Bytes::from_static(b"block data");
    vec![
        // An older one says nothing of the room.
        Message::Hello(Greeting { protocol: 1, capacity: 1 << 30, ..greeting.clone() }),
        Message::Hello(Greeting { protocol: 3, capacity: 1 << 30, ..greeting.clone() }),
        Message::Capacity(1 << 40),
        Message::Offer(4096),
        Message::OfferAck(4 << 40),
        Message::Hello(greeting.clone()),
        Message::Welcome(greeting.clone()),
        Message::Welcome(Greeting {
            identity: Identity {
                yields: true,
                parted: Parted { at_s: 1_795_000_000, epoch: 4, blocks: Some(12) },
                policy: AfterSplitBrain {
                    zero_primaries: ZeroPrimaries::DiscardLeastChanges,
                    one_primary: OnePrimary::Consensus,
                    ..AfterSplitBrain::default()
                },
                ..greeting.identity.clone()
            },
            ..greeting
        }),
        Message::Refused(Refused::EpochTooOld),
        Message::Refused(Refused::EpochForeign),
        Message::Refused(Refused::Other("its disk failed".into())),
        Message::Dirty(vec![range(0, 4096), range(8192, 1 << 40)]),
        Message::Dirty(Vec::new()),
        Message::DirtyEnd,
        Message::Decision(Sync::Nothing),
        Message::Decision(Sync::CatchUp),
        Message::Decision(Sync::Bitmap),
        Message::Decision(Sync::Full(Generation(10))),
        Message::Ready,
        Message::Write { seq: 11, offset: 4096, durable: 10, data: data.clone() },
        Message::Zero { seq: 12, range: range(4096, 8192), discard: true, durable: 10 },
        Message::Copy { seq: 13, offset: 0, data },
        Message::CopyZero { seq: 14, range: range(0, 131_072) },
        Message::Ack(15),
        Message::Flush(16),
        Message::FlushAck(17),
        Message::SyncDone {
            generation: Generation(18),
            history: vec![Generation(19)],
            members: vec![name(1)],
        },
        Message::SyncDoneAck(Generation(20)),
        Message::Members { generation: Generation(21), committed: true, members: vec![] },
        Message::MembersAck(Generation(22)),
        Message::Durable(23),
        Message::WantDurable,
        Message::Digest { id: 24, range: range(8192, 16384), by_block: true },
        Message::Digests { id: 24, digests: vec![7; 64].into() },
        Message::Read { id: 25, range: range(0, 1 << 20) },
        Message::ReadReply { id: 25, data: vec![8; 4096].into() },
        Message::Ping,
        Message::Pong,
    ]
}

#[test]
fn every_message_survives_and_every_truncation_is_refused() {
    for message in all() {
        let frame = Frame { epoch: epoch(7), message };
        let (kind, head, body) = frame.encode();
        assert_eq!(Frame::decode(kind, &head, body.clone()).as_ref(), Ok(&frame));
        for cut in 0..head.len() {
            // A list of runs has no count: cut between two runs it is a shorter list.
            let shorter_list = kind == 4 && cut >= 16 && (cut - 16) % 16 == 0;
            assert_eq!(
                Frame::decode(kind, &head[..cut], body.clone()).is_ok(),
                shorter_list,
                "{frame:?} at {cut}"
            );
        }
        let mut longer = head.clone();
        longer.push(0);
        assert!(Frame::decode(kind, &longer, body.clone()).is_err(), "{frame:?} with a byte too many");
        let other = if body.is_empty() { Bytes::from_static(b"x") } else { Bytes::new() };
        assert!(Frame::decode(kind, &head, other).is_err(), "{frame:?} with the wrong body");
    }
}

/// The format on the wire is this, byte for byte; whoever changes it counts up `PROTOCOL`.
#[test]
fn golden_write_and_flush() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let message =
        Message::Write { seq: 0x0b, offset: 0x1000, durable: 0x0a, data: Bytes::from_static(b"xy") };
    let (kind, head, body) = Frame { epoch: epoch(7), message }.encode();
    let expected = "07000000000000001b020000000000000b0000000000000000100000000000000a00000000000000";
    assert_eq!((kind, hex(&head).as_str(), &body[..]), (8, expected, &b"xy"[..]));
    let (kind, head, body) = Frame { epoch: epoch(7), message: Message::Flush(0x10) }.encode();
    let expected = "07000000000000001b020000000000001000000000000000";
    assert_eq!((kind, hex(&head).as_str(), body.len()), (13, expected, 0));
}

#[test]
fn a_digest_frame_asks_for_little_and_answers_whole_digests() {
    let encoded = |message| Frame { epoch: epoch(7), message }.encode();
    for (end, ok) in [(MAX_DIGEST_RANGE, true), (MAX_DIGEST_RANGE + 4096, false)] {
        let (kind, head, body) = encoded(Message::Digest { id: 1, range: range(0, end), by_block: false });
        assert_eq!(Frame::decode(kind, &head, body).is_ok(), ok, "{end}");
    }
    for (end, ok) in [(MAX_READ, true), (MAX_READ + 4096, false)] {
        let (kind, head, body) = encoded(Message::Read { id: 1, range: range(0, end) });
        assert_eq!(Frame::decode(kind, &head, body).is_ok(), ok, "{end}");
    }
    let (kind, head, _) = encoded(Message::Digests { id: 1, digests: vec![0; 32].into() });
    for (len, ok) in [(0, false), (31, false), (32, true), (33, false), (64, true)] {
        assert_eq!(Frame::decode(kind, &head, vec![0; len].into()).is_ok(), ok, "{len}");
    }
}

proptest! {
    #[test]
    fn no_bytes_crash_the_reader(kind in 0u16..30, head in prop::collection::vec(any::<u8>(), 0..200), body in any::<bool>()) {
        let body = if body { Bytes::from_static(b"some data") } else { Bytes::new() };
        if let Ok(frame) = Frame::decode(kind, &head, body.clone()) {
            let (k, h, b) = frame.encode();
            prop_assert_eq!((k, h, b), (kind, head, body), "what is accepted is what would have been sent");
        }
    }
}
