//! What each version of the protocol put on the wire, as bytes in a file: read as it was meant, and written as it was. A peer of
//! any earlier version is served; one of a later version is refused.
//!
//! `recorded/vN.txt` holds what version N brought: a line each, kind, head and body. Those of versions 1 to 3 were written by the
//! release that spoke version 3. None of them is ever changed: a new version gets a file of its own.

use crate::world::{BLOCK, World, epoch, name};
use baton_replicator::core::frame::{Frame, Greeting, Message, OLDEST_PROTOCOL, PROTOCOL, Refused, Sync};
use baton_replicator::core::handshake::Identity;
use baton_replicator::core::range::Range;
use baton_replicator::core::split_brain::{AfterSplitBrain, OnePrimary, Parted, ZeroPrimaries};
use baton_replicator::types::{BootId, Generation, Role, VolumeName};
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;

fn range(start: u64, end: u64) -> Range {
    Range { start, end }
}

fn greeting(protocol: u16) -> Greeting {
    let identity = Identity {
        generation: Generation(5),
        pending: Generation(6),
        history: vec![Generation(7), Generation(8)],
        base: Generation(9),
        tracking: true,
        inconsistent: false,
        partial: true,
        yields: true,
        parted: Parted { at_s: 1_795_000_000, epoch: 4, blocks: Some(12) },
        policy: AfterSplitBrain {
            zero_primaries: ZeroPrimaries::DiscardLeastChanges,
            one_primary: OnePrimary::Consensus,
            ..AfterSplitBrain::default()
        },
    };
    Greeting {
        protocol,
        from: name(0),
        to: name(1),
        volume: VolumeName::new("webstore").expect("a name"),
        size: 1 << 30,
        // Greetings before say neither how much room there is nor how the sides parted.
        capacity: if protocol >= 4 { 2 << 30 } else { 1 << 30 },
        boot: BootId(3),
        incarnation: 4,
        identity: if protocol >= 3 { identity } else { identity.for_older() },
        members: vec![name(0), name(2)],
    }
}

/// What a version brought.
fn brought(version: u16) -> Vec<Message> {
    let data = Bytes::from_static(b"block data");
    let mut all = vec![Message::Hello(greeting(version)), Message::Welcome(greeting(version))];
    all.extend(match version {
        1 => vec![
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
            Message::Members { generation: Generation(21), committed: true, members: vec![name(2)] },
            Message::MembersAck(Generation(22)),
            Message::Durable(23),
            Message::WantDurable,
            Message::Ping,
            Message::Pong,
        ],
        2 => vec![
            Message::Digest { id: 24, range: range(8192, 16384), by_block: true },
            Message::Digests { id: 24, digests: vec![7; 64].into() },
        ],
        3 => vec![
            Message::Read { id: 25, range: range(0, 1 << 20) },
            Message::ReadReply { id: 25, data: vec![8; 4096].into() },
        ],
        4 => vec![Message::Capacity(1 << 40), Message::Offer(4096), Message::OfferAck(4 << 40)],
        _ => panic!("say here what version {version} brought"),
    });
    all
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect()
}

fn line(frame: &Frame) -> String {
    let (kind, head, body) = frame.encode();
    format!("{kind} {} {}", hex(&head), hex(&body)).trim_end().to_owned()
}

#[test]
fn what_every_version_put_on_the_wire_is_read_and_written_as_it_was() {
    for version in OLDEST_PROTOCOL..=PROTOCOL {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/core/recorded/v{version}.txt"));
        let frames: Vec<Frame> =
            brought(version).into_iter().map(|message| Frame { epoch: epoch(7), message }).collect();
        if !path.exists() && std::env::var_os("BATON_UPDATE_GOLDEN").is_some() {
            let lines: String = frames.iter().map(|frame| line(frame) + "\n").collect();
            std::fs::write(&path, lines).expect("recorded");
        }
        let recorded = std::fs::read_to_string(&path).unwrap_or_else(|_| {
            panic!("{} is missing: record the version with BATON_UPDATE_GOLDEN=1", path.display())
        });
        assert_eq!(recorded.lines().count(), frames.len(), "version {version}");
        for (recorded, frame) in recorded.lines().zip(&frames) {
            assert_eq!(recorded, line(frame), "version {version}: {frame:?} is written otherwise");
            let mut parts = recorded.split(' ');
            let kind = parts.next().and_then(|k| k.parse().ok()).expect("a kind");
            let (head, body) = (bytes(parts.next().expect("a head")), bytes(parts.next().unwrap_or("")));
            let read = Frame::decode(kind, &head, body.into());
            assert_eq!(read.as_ref(), Ok(frame), "version {version} is read otherwise");
        }
    }
}

#[test]
fn a_greeting_of_a_version_that_is_not_known_is_no_frame() {
    let (kind, head, body) = Frame { epoch: epoch(7), message: Message::Hello(greeting(PROTOCOL)) }.encode();
    for version in [OLDEST_PROTOCOL - 1, PROTOCOL + 1, u16::MAX] {
        let mut head = head.clone();
        head[16..18].copy_from_slice(&version.to_le_bytes());
        assert!(Frame::decode(kind, &head, body.clone()).is_err(), "{version}");
    }
}

/// Whichever of the two is upgraded first: writes, a power cut of the standby, and the resync after it.
#[test]
fn a_peer_of_every_earlier_version_is_served_and_serves() {
    const SIZE: u64 = 8 << 20;
    for version in OLDEST_PROTOCOL..PROTOCOL {
        for before in [0, 1] {
            let mut w = World::new(2, SIZE, u64::from(version) * 10 + before as u64);
            w.nodes[before].speaks = version;
            w.promote_first(0);
            assert!(w.write(0, 1, 11));
            w.admit(0, 1, 1);
            assert!(w.write(0, 2, 22) && w.flush(0), "version {version} at {before}");
            w.crash(1, true);
            w.desire(0, Role::Primary, 1, Vec::new(), false);
            w.run_for(Duration::from_millis(500));
            assert!(w.write(0, 3, 33));
            w.start(1);
            w.admit(0, 1, 1);
            assert!(w.write(0, 4, 44) && w.flush(0));
            for block in 0..SIZE / BLOCK {
                assert_eq!(
                    w.nodes[0].disk.get(block),
                    w.nodes[1].disk.get(block),
                    "version {version}, {block}"
                );
            }
            assert_eq!([1, 2, 3, 4].map(|b| w.nodes[0].disk.get(b)), [11, 22, 33, 44]);
        }
    }
}
