//! One volume's state machine: [`Engine::handle`] takes an event and the time, and returns what to do.
//!
//! One file per duty:
//! * [`event`]: what goes in and out;
//! * `attach`: from the metadata file to a running engine;
//! * `journal`: metadata transactions in order, the activity log's cleaning;
//! * `io`: requests, local and replicated, their order and their acknowledgement;
//! * `flush`: flushes and what is durable where;
//! * `diskless`: a primary whose disk failed goes on through its peers; `full`: a backing store without space;
//! * `peer`: a peer as the primary sees it; `link`: the primary's part of a session;
//! * `replica`: the secondary's part;
//! * `resync`: copying dirty blocks; `compare`: what need not be copied; `verify`: comparing replicas; `mend`: copying what differed; `pace`: how fast;
//! * `generation`: changes of generation and members;
//! * `reconfigure`: what may change while attached;
//! * `discard`: data that is given up after a split brain;
//! * `growth`: from a larger size in the configuration to a larger device;
//! * `role`: promotion and the required set; `retire`: demotion and stopping;
//! * `status`: what the agent sees.
//!
//! Invariants (the simulation in `tests/core` checks their consequences):
//! * an acknowledgement leaves only while serve-until lasts, when the local store and every required member
//!   have the write, and no change of generation is under way;
//! * a write runs only when its extents are durably in the activity log and nothing older overlaps it;
//! * a peer that is not in replication and not required has a dirty bit for everything it may lack; one that is
//!   required and not in replication gets every unanswered write again before it counts;
//! * a secondary says nothing to an older epoch except that it is older, and records a newer one first.
//!
//! If the process dies, the activity log and the bitmaps on disk cover everything that may differ.

mod attach;
mod compare;
mod discard;
mod diskless;
pub mod event;
mod flush;
mod full;
mod generation;
mod growth;
mod io;
mod journal;
mod link;
mod loss;
mod mend;
mod pace;
mod peer;
mod reconfigure;
mod replica;
mod resync;
mod retire;
mod role;
mod status;
mod verify;

pub use attach::{AttachError, LOG_IDLE, Setup, VERIFY_CHUNK};
pub use event::{Action, Event, Fault, FrontOp, SessionId, StoreOp, Token};

use crate::api::{Counters, Membership, VolumeConfig};
use crate::core::frame::{Frame, Message};
use crate::core::meta::{ActivityLog, Superblock};
use crate::core::range::{Locks, Range};
use crate::types::{BootId, DiskState, Epoch, Generation, Instant, Member, NodeName, Role};
use bytes::Bytes;
use discard::Discard;
use diskless::FarRead;
use flush::Flush;
use generation::GenerationChange;
use growth::Growth;
use io::{Op, Use};
use journal::{Clean, Transaction};
use pace::Pace;
use peer::Peer;
use replica::Upstream;
use role::Transition;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;
use verify::Verify;

/// No shorter disk_timeout counts: a flush of a busy hard disk takes as long.
const LEAST_DISK_TIMEOUT_MS: u64 = 1000;
/// Alarms kept for status.
const ALARMS: usize = 16;

/// One volume.
#[derive(Debug)]
pub struct Engine {
    node: NodeName,
    config: VolumeConfig,
    now: Instant,
    out: Vec<Action>,
    /// Tags, tickets, flush numbers: one counter, never reused.
    last_id: u64,
    random: u64,
    /// Drawn at each start: tells peers that this process has forgotten what was in flight.
    incarnation: u64,

    superblock: Superblock,
    superblock_sequence: u64,
    log: ActivityLog,
    transactions: VecDeque<Transaction>,
    running: Option<(u64, Transaction, Instant)>,
    heating: BTreeSet<u64>,
    clean: Option<Clean>,
    clean_wanted: bool,
    log_idle: Duration,
    last_clean: Instant,
    last_clean_seq: u64,

    role: Role,
    disk: DiskState,
    /// Why the disk is gone, or that it is full.
    disk_reason: Option<String>,
    /// Where the agent says that this primary stands towards the in-sync set.
    membership: Membership,
    /// Operations whose local part is over because there is no disk any more.
    bypassed: BTreeSet<u64>,
    /// Reads that a peer answers, by the number of the question.
    far: BTreeMap<u64, FarRead>,
    /// Operations that wait for space, and when they were tried last.
    full: BTreeMap<u64, Instant>,
    transition: Option<Transition>,
    generation: Option<GenerationChange>,
    waiting_tokens: Vec<Token>,
    /// When the newest command of the agent was decided; see [`crate::api::Desired::order`].
    last_order: u64,
    required: Vec<Member>,
    until: Option<(Epoch, Instant)>,
    /// Why nothing may be acknowledged any more, whatever serve-until says.
    deposed: Option<String>,
    stopping: bool,

    peers: Vec<Peer>,
    sessions: BTreeMap<SessionId, usize>,
    upstream: Option<Upstream>,
    last_primary: Option<(NodeName, u64)>,

    locks: Locks,
    ops: BTreeMap<u64, Op>,
    chunked: BTreeMap<u64, (Range, bool)>,
    by_seq: BTreeMap<u64, u64>,
    last_seq: u64,
    durable_seq: u64,
    last_front: Instant,
    store: BTreeMap<u64, (Use, Instant)>,
    flushes: BTreeMap<u64, Flush>,
    pace: Pace,
    /// A person has paused resyncs.
    paused: bool,
    verify_chunk: u64,
    verify: Option<Verify>,
    discard: Option<Discard>,
    growth: Growth,
    /// The wall clock, seconds since 1970: told to people, never decided on. Zero until it was said.
    unix_s: u64,
    held: VecDeque<(u64, Bytes)>,

    front_end: bool,
    /// The device of an earlier process is there, with requests that it did not answer. It is gone on with only in the
    /// epoch in which it was left, when the agent says primary; otherwise it is taken away.
    device_left: bool,
    device: Option<PathBuf>,
    filesystem: Option<String>,
    frozen: Option<String>,
    frozen_since: Option<Instant>,
    counters: Counters,
    alarms: VecDeque<String>,
    digest: u64,
}

impl Engine {
    /// Takes an event at a time; returns what to do, in order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        self.now = now;
        let data_path = matches!(event, Event::Request { .. } | Event::StoreDone { .. })
            || matches!(
                &event,
                Event::Frame {
                    frame: Frame {
                        message: Message::Write { .. }
                            | Message::Ack(_)
                            | Message::Digests { .. }
                            | Message::Read { .. }
                            | Message::ReadReply { .. },
                        ..
                    },
                    ..
                }
            );
        let health = (self.disk, self.full.is_empty());
        self.dispatch(event);
        self.pump();
        if !data_path || health != (self.disk, self.full.is_empty()) {
            self.note_changes();
        }
        std::mem::take(&mut self.out)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Request { id, op } => self.request(id, op),
            Event::StoreDone { tag, result } => self.store_done(tag, result),
            Event::MetaDone { tag, result } => self.meta_done(tag, result),
            Event::Grown(result) => self.store_grown(result),
            Event::Resized(result) => self.resized(result),
            Event::FilesystemGrown(result) => self.filesystem_grown(result),
            Event::FrontEndStarted(result) => self.front_end_started(result),
            Event::FrontEndStopped(result) => self.front_end_stopped(result),
            Event::Probed(found) => self.probed(found),
            Event::Probe => self.probe(),
            Event::SessionOpened { session, peer } => self.session_opened(session, &peer),
            Event::DialFailed { peer, reason } => self.dial_failed(&peer, reason),
            Event::Frame { session, frame } => self.frame(session, frame),
            Event::Nonsense { session, reason } => self.nonsense(session, &reason),
            Event::SessionClosed { session, reason } => self.session_closed(session, &reason),
            Event::Desired { token, desired } => self.desired(token, desired),
            Event::Verify { token, request } => self.verify(token, request),
            Event::StopVerify { token } => self.stop_verify(token),
            Event::PauseResync { token, paused } => self.pause_resync(token, paused),
            Event::Discard { token, request } => self.discard(token, request),
            Event::Kept(result) => self.kept(result),
            Event::ServeUntil { epoch, until } => self.serve_until(epoch, until),
            Event::Stop { token, even_primary } => self.stop(token, even_primary),
            Event::Tick => self.tick(),
        }
    }

    /// Whatever can go on, goes on. Level-triggered: it looks at what is, not at what just happened.
    fn pump(&mut self) {
        loop {
            self.pump_role();
            self.pump_discard();
            self.pump_replica();
            self.pump_generation();
            self.pump_settle();
            self.pump_resync();
            self.pump_verify();
            self.pump_growth();
            self.pump_clean();
            self.pump_far_reads();
            // Without a disk nothing is waited for: what would follow an event follows at once.
            if !self.pump_detached() {
                break;
            }
        }
        self.pump_transactions();
    }

    fn tick(&mut self) {
        let limit = Duration::from_millis(self.config.disk_timeout_ms.max(LEAST_DISK_TIMEOUT_MS));
        let now = self.now;
        let late = |since: Instant| now.since(since) > limit;
        if self.store.values().any(|(_, since)| late(*since)) {
            self.fail_disk(format!("a store command has taken longer than {limit:?}"));
        }
        // A whole file takes longer than a few blocks.
        let metadata = |(_, t, since): &(u64, Transaction, Instant)| {
            now.since(*since) > if t.grow.is_some() { limit * 10 } else { limit }
        };
        if self.running.as_ref().is_some_and(metadata) {
            self.fail_disk(format!("a write of the metadata has taken longer than {limit:?}"));
        }
        self.tick_full();
        self.tick_links();
        self.tick_resync();
        self.tick_replica();
        self.tick_verify();
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The next number of the engine's own generator (splitmix64), never zero.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1)
    }

    fn send(&mut self, session: SessionId, message: Message) {
        let frame = Frame { epoch: self.superblock.epoch, message };
        self.out.push(Action::Send { session, frame });
    }

    fn alarm(&mut self, text: String) {
        self.out.push(Action::Alarm(text.clone()));
        self.alarms.push_back(text);
        if self.alarms.len() > ALARMS {
            self.alarms.pop_front();
        }
    }

    fn peer_index(&self, node: &NodeName) -> Option<usize> {
        self.peers.iter().position(|p| p.node == *node)
    }

    fn is_required(&self, peer: usize) -> bool {
        self.required.iter().any(|m| m.node == self.peers[peer].node)
    }

    /// The local store and metadata can be used.
    fn has_disk(&self) -> bool {
        match self.disk {
            DiskState::Failed | DiskState::Diskless => false,
            DiskState::Attaching
            | DiskState::Inconsistent
            | DiskState::Outdated
            | DiskState::Consistent
            | DiskState::UpToDate
            | DiskState::DUnknown => true,
        }
    }

    /// The local store or metadata cannot be used any more. A primary goes on through a peer if there is one that can;
    /// otherwise nothing is acknowledged from here on, in any role.
    fn fail_disk(&mut self, reason: String) {
        if !self.has_disk() {
            return;
        }
        if self.may_detach() {
            return self.detach(reason);
        }
        self.disk = DiskState::Failed;
        self.full.clear();
        self.alarm(format!("the disk failed: {reason}"));
        self.disk_reason = Some(format!("the disk failed: {reason}"));
        self.transactions.clear();
        self.end_discard(Err(reason.clone()));
        self.fail_front();
        if self.device_left {
            // Nobody will go on with it: what waits must not wait for ever.
            self.out.push(Action::StopFrontEnd { force: true });
        }
        self.close_all_sessions("the local disk failed");
        for peer in 0..self.peers.len() {
            self.dial(peer, false);
        }
        self.fail_transition(&reason);
    }

    /// What the wall clock says, seconds since 1970. It is remembered when replicas part, and shown.
    pub fn wall_clock(&mut self, unix_s: u64) {
        self.unix_s = unix_s;
    }

    /// The volume's configuration.
    #[must_use]
    pub fn config(&self) -> &VolumeConfig {
        &self.config
    }

    /// The role in force.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The data's generation.
    #[must_use]
    pub fn data_generation(&self) -> Generation {
        self.superblock.generation
    }

    /// The replica's boot id.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.superblock.boot
    }
}
