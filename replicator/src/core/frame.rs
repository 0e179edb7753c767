//! What replicators say to each other; `wire` makes bytes of it.
//!
//! ```text
//! primary                        secondary
//!   Hello ───────────────────────────►   (records a higher epoch durably, refuses a lower one)
//!   ◄───────────── Welcome, Dirty…, DirtyEnd      its identity and its own bitmap
//!   Decision ────────────────────────►   (durably Inconsistent if it must be)
//!   ◄─────────────────────────── Ready
//!   Write…, Zero…, Flush (unanswered ones first), Copy… (resync) ►    ◄ Ack…, FlushAck…
//!   SyncDone ────────────────────────►   (flush, adopt the generation)
//!   ◄──────────────────────── SyncDoneAck         only now it counts as connected
//!   Digest ──────────────────────────►   (verify, any time while connected)
//!   ◄──────────────────────────── Digests
//!   Read ────────────────────────────►   (a primary without a disk, any time while connected)
//!   ◄──────────────────────────── ReadReply
//!   ◄──────────────────────────── Capacity    (the replica has got larger, any time while in sync)
//!   Offer ───────────────────────────►   (a larger volume, when every peer has the room for it)
//!   ◄──────────────────────────── OfferAck    durably
//! ```

use super::handshake::Identity;
use super::range::Range;
use crate::types::{BootId, Epoch, Generation, NodeName, VolumeName};
use bytes::Bytes;

/// Version of this protocol. 2: `Digest` and `Digests`. 3: those during a resync, too; `Read` and `ReadReply`; greetings
/// say how the sides parted. 4: greetings say how much room there is; `Capacity`, `Offer` and `OfferAck`.
pub const PROTOCOL: u16 = 4;
/// Oldest version that is spoken with a peer of the release before. A primary offers [`PROTOCOL`] in its Hello and, if
/// that is not understood, this; the secondary answers in the version it was offered.
pub const OLDEST_PROTOCOL: u16 = 1;
/// Version that knows verify.
pub const PROTOCOL_VERIFY: u16 = 2;
/// Version that answers reads of a primary without a disk.
pub const PROTOCOL_READ: u16 = 3;
/// Longest range of a `Read` frame: the largest read of the device; longer ones are asked in parts.
pub const MAX_READ: u64 = 1 << 20;
/// Version that answers digests during a resync.
pub const PROTOCOL_COMPARE: u16 = 3;
/// Version whose greetings say when the sides parted, what each wrote since and whose data is given up.
pub const PROTOCOL_SPLIT_BRAIN: u16 = 3;
/// Version that knows volumes that grow.
pub const PROTOCOL_GROW: u16 = 4;
/// Longest range of a `Digest` frame: its digests by block must fit a frame, its read must not hold writes up for long.
pub const MAX_DIGEST_RANGE: u64 = 1 << 20;
/// Largest body: a FUSE write has at most 1 MiB; room for two.
pub const MAX_BODY: usize = 2 << 20;
/// Largest head: a `Dirty` frame with [`MAX_RUNS`] runs.
pub const MAX_HEAD: usize = 64 << 10;
/// Runs in one `Dirty` frame.
pub const MAX_RUNS: usize = 4000;
/// A message and the epoch of the leadership it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Primary: its epoch. Secondary: the highest it knows.
    pub epoch: Epoch,
    /// The message.
    pub message: Message,
}

/// Who somebody is and what data it has; first frame in each direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Version offered, or taken.
    pub protocol: u16,
    /// The sender.
    pub from: NodeName,
    /// Who it thinks it talks to.
    pub to: NodeName,
    /// The volume.
    pub volume: VolumeName,
    /// Size of the volume in bytes, as this replica's primary would offer it.
    pub size: u64,
    /// Bytes that the replica has room for; what is beyond `size` reads as zeroes.
    pub capacity: u64,
    /// The replica's boot id.
    pub boot: BootId,
    /// Drawn at each start of the replicator: a new one has forgotten what was in flight.
    pub incarnation: u64,
    /// Its data.
    pub identity: Identity,
    /// Nodes that have every acknowledged write (primary only).
    pub members: Vec<NodeName>,
}

/// How the resync begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// No block differs.
    Nothing,
    /// The target is a member that lacks nothing acknowledged: it stays consistent all the while.
    CatchUp,
    /// Dirty blocks; the target is Inconsistent until the end.
    Bitmap,
    /// All blocks; until its end the target's data carries this generation.
    Full(Generation),
}

/// Why a handshake was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The secondary knows a higher epoch (the frame's). The refused primary is deposed.
    EpochTooOld,
    /// The same number with another term.
    EpochForeign,
    /// Anything else, as a sentence.
    Other(String),
}

/// The messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Primary's first.
    Hello(Greeting),
    /// Secondary's answer.
    Welcome(Greeting),
    /// Secondary's other answer.
    Refused(Refused),
    /// Runs of the secondary's dirty bitmap towards the primary.
    Dirty(Vec<Range>),
    /// That was all of it.
    DirtyEnd,
    /// What will be done.
    Decision(Sync),
    /// The secondary is ready for it.
    Ready,
    /// A write.
    Write {
        /// Sequence number.
        seq: u64,
        /// Where.
        offset: u64,
        /// Every member has everything up to this durably.
        durable: u64,
        /// What.
        data: Bytes,
    },
    /// Zeroes (`discard`: the blocks may be given back).
    Zero {
        /// Sequence number.
        seq: u64,
        /// Where.
        range: Range,
        /// A discard rather than zeroes that must stay allocated.
        discard: bool,
        /// Every member has everything up to this durably.
        durable: u64,
    },
    /// A resync block.
    Copy {
        /// Sequence number.
        seq: u64,
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
    },
    /// A resync run of zeroes.
    CopyZero {
        /// Sequence number.
        seq: u64,
        /// Where.
        range: Range,
    },
    /// Done with a `Write`, `Zero`, `Copy` or `CopyZero`.
    Ack(u64),
    /// Make everything acknowledged so far durable.
    Flush(u64),
    /// It is.
    FlushAck(u64),
    /// The resync is over: flush, take over generation, history and members.
    SyncDone {
        /// The generation.
        generation: Generation,
        /// The generations before it.
        history: Vec<Generation>,
        /// Nodes that have every acknowledged write.
        members: Vec<NodeName>,
    },
    /// Done, durably.
    SyncDoneAck(Generation),
    /// A change of generation or members.
    Members {
        /// The generation.
        generation: Generation,
        /// It is in force; else it is being introduced (pending).
        committed: bool,
        /// Nodes that have every acknowledged write.
        members: Vec<NodeName>,
    },
    /// Taken over, durably.
    MembersAck(Generation),
    /// Every member has everything up to this durably.
    Durable(u64),
    /// The secondary's activity log is filling up: please flush.
    WantDurable,
    /// Primary: what is the digest of this range, or of each block in it, as of now in the order of this session?
    Digest {
        /// For the answer.
        id: u64,
        /// Whole blocks, at most [`MAX_DIGEST_RANGE`].
        range: Range,
        /// One digest per block instead of one for all.
        by_block: bool,
    },
    /// The digests, one behind the other.
    Digests {
        /// Of the question.
        id: u64,
        /// Each [`crate::core::digest::DIGEST_BYTES`] long.
        digests: Bytes,
    },
    /// Primary: what is in this range, as of now in the order of this session?
    Read {
        /// For the answer.
        id: u64,
        /// Whole blocks, at most [`MAX_READ`].
        range: Range,
    },
    /// This.
    ReadReply {
        /// Of the question.
        id: u64,
        /// All of the range.
        data: Bytes,
    },
    /// Secondary: there is room for so many bytes now, durably, and they read as zeroes from the volume's size on.
    Capacity(u64),
    /// Primary: the volume is to have this size.
    Offer(u64),
    /// It may have, durably.
    OfferAck(u64),
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

/// A frame that is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame of kind {kind} with {head} bytes of head and {body} of body makes no sense")]
pub struct BadFrame {
    /// Its kind.
    pub kind: u16,
    /// Length of its head.
    pub head: usize,
    /// Length of its body.
    pub body: usize,
}
