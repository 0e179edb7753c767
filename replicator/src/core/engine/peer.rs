//! A peer as this replica sees it: its connection, what it lacks, what it owes.
//!
//! ```text
//!            session          Welcome          DirtyEnd         Ready             SyncDone    SyncDoneAck
//! Down ────────────► Greeting ───────► Reading ───────► Deciding ────► Syncing ─────────► Finishing ────► Connected
//!  ▲                     │                │                 │            │                  │              │
//!  └─────────────────────┴────────────────┴────── session lost, silent or nonsense ─────────┴──────────────┘
//!                        └──────────── refused ──► StandAlone (asked again now and then)
//! ```
//! A peer gets every new write from Syncing on (*in replication*), and counts for an acknowledgement when it is
//! Connected.

use super::SessionId;
use super::resync::Resync;
use crate::core::frame::{PROTOCOL, Sync};
use crate::core::handshake::{Identity, Refusal};
use crate::core::meta::Bitmap;
use crate::core::range::{Range, RangeSet};
use crate::types::{BootId, ConnectionState, DiskState, Generation, Instant, NodeName};
use std::collections::BTreeMap;

/// State of the connection as the drawing has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Down,
    TimedOut,
    StandAlone,
    Greeting,
    Reading,
    Deciding,
    Syncing,
    Finishing,
    Connected,
}

/// Something sent that is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub range: Range,
    pub at: Instant,
    /// A resync block: its bits are still set.
    pub copy: bool,
}

/// The peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub node: NodeName,
    pub slot: usize,
    /// What differs or may differ.
    pub bitmap: Bitmap,
    pub session: Option<SessionId>,
    pub link: Link,
    pub reason: Option<String>,
    /// Why the two replicas stay apart, until a greeting says otherwise.
    pub at_odds: Option<Refusal>,
    pub since: Instant,
    pub dialed: bool,
    pub boot: Option<BootId>,
    /// Version of the protocol in this session; what the next Hello offers; how often that was answered by closing.
    pub protocol: u16,
    pub offer: u16,
    pub unanswered: u8,
    /// Size and room that it spoke of last; the size it was offered in this session, and has agreed to. Zero: none.
    pub size: u64,
    pub capacity: u64,
    pub asked: u64,
    pub agreed: u64,
    /// The process that was greeted again because the volume is to grow.
    pub greeted_anew: u64,
    /// Zero until it was first heard.
    pub incarnation: u64,
    pub disk: DiskState,
    pub last_heard: Instant,
    pub last_sent: Instant,
    pub lag_us: u64,
    /// What was sent and received in the greetings of this session, or of the last one.
    pub ours: Identity,
    pub theirs: Identity,
    pub sync: Sync,
    pub resync: Option<Resync>,
    /// Bytes that resyncs copied, and found to be the same, since the replicator started.
    pub copied_bytes: u64,
    pub spared_bytes: u64,
    /// It owed answers when a resync stood still: the next ones do not compare.
    pub compares_not: bool,
    pub inflight: BTreeMap<u64, Sent>,
    /// Acknowledged, not flushed.
    pub unflushed: RangeSet,
    /// Covered by a flush that is not answered.
    pub flushing: BTreeMap<u64, (RangeSet, Instant)>,
    /// Generation it recorded, and what it was told last: a generation and whether it is in force.
    pub adopted: Generation,
    pub told: (Generation, bool),
    pub settling: Option<u64>,
    pub settled: bool,
    /// Required ever since it had everything: it lacks nothing acknowledged.
    pub trusted: bool,
    /// A member of a leadership that goes on after the process died: it has everything acknowledged, and the kernel
    /// sends the rest again, so nothing waits for its catching up.
    pub resumed: bool,
}

impl Peer {
    pub fn new(node: NodeName, slot: usize, bitmap: Bitmap, now: Instant) -> Self {
        Self {
            node,
            slot,
            bitmap,
            session: None,
            link: Link::Down,
            reason: None,
            at_odds: None,
            since: now,
            dialed: false,
            boot: None,
            protocol: 0,
            offer: PROTOCOL,
            unanswered: 0,
            size: 0,
            capacity: 0,
            asked: 0,
            agreed: 0,
            greeted_anew: 0,
            incarnation: 0,
            disk: DiskState::DUnknown,
            last_heard: now,
            last_sent: now,
            lag_us: 0,
            ours: Identity::default(),
            theirs: Identity::default(),
            sync: Sync::Nothing,
            resync: None,
            copied_bytes: 0,
            spared_bytes: 0,
            compares_not: false,
            inflight: BTreeMap::new(),
            unflushed: RangeSet::default(),
            flushing: BTreeMap::new(),
            adopted: Generation(0),
            told: (Generation(0), false),
            settling: None,
            settled: false,
            trusted: false,
            resumed: false,
        }
    }

    /// It is sent every write.
    pub fn in_replication(&self) -> bool {
        match self.link {
            Link::Syncing | Link::Finishing | Link::Connected => true,
            Link::Down
            | Link::TimedOut
            | Link::StandAlone
            | Link::Greeting
            | Link::Reading
            | Link::Deciding => false,
        }
    }

    /// What it has acknowledged and may still lose.
    pub fn owed(&self) -> RangeSet {
        let mut owed = self.unflushed.clone();
        self.flushing.values().for_each(|(covered, _)| owed.extend(covered));
        owed
    }

    /// Everything it may lack becomes dirty.
    pub fn write_off(&mut self) {
        for range in self.owed().iter() {
            self.bitmap.mark(range);
        }
        for sent in self.inflight.values().filter(|s| !s.copy) {
            self.bitmap.mark(sent.range);
        }
        self.unflushed = RangeSet::default();
        self.flushing.clear();
        self.inflight.clear();
    }

    pub fn wants_settling(&self) -> bool {
        !self.settled && self.settling.is_none()
    }

    pub fn settle_answered(&mut self, id: u64, by_it: bool) {
        if self.settling == Some(id) {
            self.settling = None;
            self.settled = by_it;
        }
    }

    /// When the oldest thing it has not answered was sent.
    pub fn oldest(&self) -> Option<Instant> {
        let writes = self.inflight.values().map(|s| s.at);
        let flushes = self.flushing.values().filter(|_| self.session.is_some()).map(|(_, at)| *at);
        writes.chain(flushes).min()
    }

    /// In the agent's words.
    pub fn connection(&self) -> ConnectionState {
        match self.link {
            Link::Down | Link::TimedOut | Link::Greeting if self.at_odds.is_some() => {
                ConnectionState::StandAlone
            }
            Link::Down => ConnectionState::Connecting,
            Link::TimedOut => ConnectionState::Timeout,
            Link::StandAlone => ConnectionState::StandAlone,
            Link::Greeting | Link::Reading | Link::Deciding => ConnectionState::Handshake,
            Link::Syncing | Link::Finishing => ConnectionState::SyncSource,
            Link::Connected => ConnectionState::Connected,
        }
    }
}
