//! What goes into an engine and what comes out of it.

use crate::api::{Desired, DiscardRequest, Problem, VerifyRequest};
use crate::core::frame::Frame;
use crate::core::meta::Write;
use crate::core::range::Range;
use crate::types::{Epoch, Generation, Instant, NodeName};
use bytes::Bytes;
use std::path::PathBuf;

/// Names a session with a peer; never used twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// Names a command whose outcome somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What the front end wants. Ranges are in whole blocks and within the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrontOp {
    /// Read.
    Read(Range),
    /// Write at an offset.
    Write(u64, Bytes),
    /// Make everything acknowledged durable.
    Flush,
    /// Zeroes; the blocks may be given back.
    Discard(Range),
    /// Zeroes.
    Zero(Range),
}

/// A command to the backing store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// Read.
    Read(Range),
    /// Write at an offset.
    Write(u64, Bytes),
    /// Everything completed before is durable when this completes.
    Flush,
    /// Zeroes; the blocks may be given back.
    Discard(Range),
    /// Zeroes.
    Zero(Range),
    /// Read and answer the digests of pieces of this many bytes, see [`crate::core::digest`].
    Digest(Range, u64),
}

/// Why a store command came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no space; all else is well. As text.
    Full(String),
    /// Anything else: the store cannot be used any more. As text.
    Failed(String),
}

/// Something happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The front end wants something.
    Request {
        /// Names it in [`Action::Reply`].
        id: u64,
        /// What.
        op: FrontOp,
    },
    /// A store command ended.
    StoreDone {
        /// Its tag.
        tag: u64,
        /// Data of a read, else empty; or the error.
        result: Result<Bytes, Fault>,
    },
    /// A metadata transaction ended.
    MetaDone {
        /// Its tag.
        tag: u64,
        /// The error as text.
        result: Result<(), String>,
    },
    /// What [`Action::Grow`] asked for is there, durably, or why not.
    Grown(Result<(), String>),
    /// The device has the size that [`Action::Resize`] asked for, or why not.
    Resized(Result<(), String>),
    /// The filesystem fills the device, or why not.
    FilesystemGrown(Result<(), String>),
    /// The device exists, or does not.
    FrontEndStarted(Result<PathBuf, String>),
    /// The device is gone, or is still in use.
    FrontEndStopped(Result<(), String>),
    /// What the first blocks look like (`ext4`, …; none: blank).
    Probed(Option<String>),
    /// Look again: a filesystem was made.
    Probe,
    /// An authenticated session with a peer exists.
    SessionOpened {
        /// Its name.
        session: SessionId,
        /// The peer.
        peer: NodeName,
    },
    /// No session could be had.
    DialFailed {
        /// The peer.
        peer: NodeName,
        /// Why.
        reason: String,
    },
    /// A peer said something.
    Frame {
        /// By this session.
        session: SessionId,
        /// What.
        frame: Frame,
    },
    /// A peer sent what is no frame.
    Nonsense {
        /// By this session.
        session: SessionId,
        /// Why it is none.
        reason: String,
    },
    /// A session ended.
    SessionClosed {
        /// Which.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// The agent decided.
    Desired {
        /// For the answer.
        token: Token,
        /// What.
        desired: Desired,
    },
    /// Compare the replicas.
    Verify {
        /// For the answer.
        token: Token,
        /// What.
        request: VerifyRequest,
    },
    /// Stop comparing them.
    StopVerify {
        /// For the answer.
        token: Token,
    },
    /// Let resyncs stand still, or go on.
    PauseResync {
        /// For the answer.
        token: Token,
        /// Whether they stand still.
        paused: bool,
    },
    /// Give this replica's data up.
    Discard {
        /// For the answer.
        token: Token,
        /// How.
        request: DiscardRequest,
    },
    /// The copy that [`Action::Keep`] asked for exists (its name), or why not.
    Kept(Result<String, String>),
    /// The agent vouches.
    ServeUntil {
        /// For this leadership.
        epoch: Epoch,
        /// Until then.
        until: Instant,
    },
    /// Stop in order: a secondary with the clean mark and an emptied log; a primary frozen and flushed.
    Stop {
        /// For the answer.
        token: Token,
        /// Also if it is primary.
        even_primary: bool,
    },
    /// Time passed (about every 50 ms).
    Tick,
}

/// Do something. Actions are carried out in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Command the backing store; answer with [`Event::StoreDone`].
    Store {
        /// For the answer.
        tag: u64,
        /// What.
        op: StoreOp,
    },
    /// Write all of it to the metadata file, then one fdatasync; answer with [`Event::MetaDone`].
    Meta {
        /// For the answer.
        tag: u64,
        /// What.
        writes: Vec<Write>,
    },
    /// Make room for a volume of `size` bytes in the backing store, and prepare a metadata file of `meta` bytes beside the
    /// present one; answer with [`Event::Grown`].
    Grow {
        /// Of the backing store, at least.
        size: u64,
        /// Of the metadata file.
        meta: u64,
    },
    /// Write all of it to the prepared metadata file of `len` bytes, otherwise zeroes, and put it in the present one's place,
    /// durably; answer with [`Event::MetaDone`].
    MetaReplace {
        /// For the answer.
        tag: u64,
        /// Length of the file.
        len: u64,
        /// What.
        writes: Vec<Write>,
    },
    /// Give the device this size; answer with [`Event::Resized`].
    Resize(u64),
    /// Let the filesystem (`ext4` or `xfs`) fill the device; answer with [`Event::FilesystemGrown`].
    GrowFilesystem(String),
    /// Send to a peer.
    Send {
        /// By this session.
        session: SessionId,
        /// What.
        frame: Frame,
    },
    /// End a session; [`Event::SessionClosed`] may follow.
    Close {
        /// Which.
        session: SessionId,
        /// Why.
        reason: String,
    },
    /// Keep a session to this peer, or do not.
    Dial {
        /// The peer.
        peer: NodeName,
        /// Whether.
        wanted: bool,
    },
    /// Answer the front end.
    Reply {
        /// Its request.
        id: u64,
        /// Data for a read, else empty; or failed (EIO).
        result: Result<Bytes, ()>,
    },
    /// Make the device.
    StartFrontEnd,
    /// Take the device away; `force`: although it is in use.
    StopFrontEnd {
        /// Whether.
        force: bool,
    },
    /// Look what these first bytes of the volume are; answer with [`Event::Probed`].
    Probe(Bytes),
    /// Keep a copy of the backing store, named after the data's generation; answer with [`Event::Kept`]. Nothing is
    /// written meanwhile.
    Keep(Generation),
    /// Tell who waits.
    Done {
        /// For this command.
        token: Token,
        /// How it ended.
        result: Result<(), Problem>,
    },
    /// Something that an agent would react to changed; say so.
    StatusChanged,
    /// For the log; it is also in status.
    Alarm(String),
    /// For the log.
    Note(String),
}
