//! The secondary's part: what it does with a primary's frames.
//!
//! ```text
//! Hello ─► Recording ─(epoch, old log durable)─► Deciding ─(Decision)─► Preparing ─(durable)─► Receiving
//!                                                    ▲                                │  SyncDone
//!                                                    └──── another Decision ──────────┤
//!                                                                                     ▼
//!                                      InSync ◄─(generation durable)─ Adopting ◄─(flush)─ Finishing
//! ```
//! A higher epoch is durable before anything is said to the one who brought it; a lower one gets `Refused` and
//! nothing else. The log of a primary that is not the one we last heard becomes dirty first: its last writes may
//! be here and nowhere else, or the other way round.

use super::io::{CHUNK, Origin, Use, Work};
use super::journal::{After, Transaction};
use super::{Engine, SessionId, StoreOp};
use crate::core::frame::{Greeting, MAX_RUNS, Message, Refused, Sync};
use crate::core::handshake::{Identity, Verdict, decide};
use crate::core::meta::BLOCK_BYTES;
use crate::core::range::Range;
use crate::types::{DiskState, Epoch, EpochRelation, Generation, Instant, NodeName, Role};

/// A primary silent for this many peer_timeouts is given up: it should have noticed before.
const SILENCE: u32 = 3;
/// A greeting waits for so long until data that is being given up is given up; a reflink takes milliseconds. With a copy that
/// takes longer the primary hears of it when it asks again.
const GREETING_HOLD: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the conversation is.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    Recording,
    Deciding,
    Preparing,
    Receiving,
    /// Operations older than this ticket end first, then the store is flushed (true: on its way).
    Finishing {
        ticket: u64,
        flushing: bool,
        done: Done,
    },
    Adopting,
    InSync,
}

/// What `SyncDone` said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Done {
    generation: Generation,
    history: Vec<Generation>,
    members: Vec<NodeName>,
}

/// The primary we follow.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    pub session: SessionId,
    pub(super) peer: usize,
    stage: Stage,
    ours: Identity,
    theirs: Identity,
    members: Vec<NodeName>,
    /// The volume's size as the primary has it, and the room that it was told of.
    size: u64,
    pub(super) told_room: u64,
    pub(super) last_heard: Instant,
    /// Since when the greeting waits, see [`GREETING_HOLD`].
    held: Option<Instant>,
}

impl Engine {
    /// The first frame of a primary.
    pub(super) fn hello(
        &mut self,
        session: SessionId,
        peer: usize,
        epoch: Epoch,
        greeting: Greeting,
    ) -> bool {
        let sb = &self.superblock;
        let meant = greeting.from == self.peers[peer].node && greeting.to == self.node;
        if !meant || greeting.volume != sb.volume {
            return false;
        }
        let relation = sb.epoch.relation(epoch);
        let refusal = if relation == EpochRelation::Older {
            Some(Refused::EpochTooOld)
        } else if relation == EpochRelation::Foreign
            || (self.role == Role::Primary && relation == EpochRelation::Same)
        {
            Some(Refused::EpochForeign)
        } else if let Some(why) = self.no_room(&greeting) {
            Some(Refused::Other(why))
        } else if self.role == Role::Primary {
            Some(Refused::Other("it is primary itself and must be demoted first".into()))
        } else if self.disk == DiskState::Attaching || self.transition.is_some() || self.stopping {
            Some(Refused::Other("it is starting, stopping or changing its role".into()))
        } else if !self.has_disk() {
            Some(Refused::Other("its disk failed".into()))
        } else if !self.full.is_empty() {
            Some(Refused::Other("its backing store is full".into()))
        } else {
            None
        };
        if let Some(refused) = refusal {
            self.send(session, Message::Refused(refused));
            if self.role == Role::Primary && matches!(relation, EpochRelation::Newer | EpochRelation::Foreign)
            {
                self.depose(format!("{} leads with epoch {epoch}", greeting.from));
            }
            return true;
        }
        if let Some(old) = self.upstream.as_ref().map(|u| u.session) {
            if old == session {
                return false; // A second Hello.
            }
            self.close(old, "a new session took its place");
        }
        self.drop_unstarted_remote();
        self.accept(session, peer, epoch, greeting);
        true
    }

    fn accept(&mut self, session: SessionId, peer: usize, epoch: Epoch, greeting: Greeting) {
        let same = self.last_primary == Some((greeting.from.clone(), greeting.incarnation))
            && self.superblock.epoch == epoch;
        self.superblock.epoch = epoch;
        self.peers[peer].boot = Some(greeting.boot);
        self.peers[peer].protocol = greeting.protocol;
        self.peers[peer].disk = DiskState::UpToDate;
        self.peers[peer].reason = None;
        self.peers[peer].theirs = greeting.identity.clone();
        self.upstream = Some(Upstream {
            session,
            peer,
            stage: Stage::Recording,
            ours: Identity::default(),
            theirs: greeting.identity,
            members: greeting.members,
            size: greeting.size,
            told_room: 0,
            last_heard: self.now,
            held: None,
        });
        if same {
            self.greet(session);
        } else {
            self.last_primary = Some((greeting.from, greeting.incarnation));
            self.log_to_bitmaps(After::Greet(session));
            self.durable_seq = 0;
        }
    }

    fn stage(&mut self, session: SessionId) -> Option<&mut Upstream> {
        self.upstream.as_mut().filter(|u| u.session == session)
    }

    /// Epoch and dirty bits are durable: say who we are and what we have.
    pub(super) fn greet(&mut self, session: SessionId) {
        let Some(peer) = self.stage(session).filter(|u| u.stage == Stage::Recording).map(|u| u.peer) else {
            return;
        };
        let protocol = self.peers[peer].protocol;
        let ours = self.identity_towards(peer, protocol);
        let greeting = self.greeting(peer, protocol, ours.clone());
        self.peers[peer].ours = ours.clone();
        let told_room = greeting.capacity;
        let first = self.stage(session).is_some_and(|u| u.held.is_none());
        self.judge_apart(peer, first);
        if self.holds_greeting(session) {
            return;
        }
        if let Some(upstream) = self.stage(session) {
            upstream.told_room = told_room;
            upstream.stage = Stage::Deciding;
            upstream.ours = ours;
        }
        self.send(session, Message::Welcome(greeting));
        let runs: Vec<Range> = self.peers[peer].bitmap.runs(u64::MAX).collect();
        for part in runs.chunks(MAX_RUNS) {
            self.send(session, Message::Dirty(part.to_vec()));
        }
        self.send(session, Message::DirtyEnd);
    }

    fn holds_greeting(&mut self, session: SessionId) -> bool {
        let (now, giving_up) = (self.now, self.discard.is_some());
        let mut upstream = self.stage(session).filter(|_| giving_up);
        upstream.as_mut().is_some_and(|u| now.since(*u.held.get_or_insert(now)) < GREETING_HOLD)
    }

    /// The data is given up, or will not be, or it takes too long: the greeting that waited goes out.
    pub(super) fn greet_held(&mut self) {
        let held = self.upstream.as_ref().filter(|u| u.held.is_some() && u.stage == Stage::Recording);
        if let Some(session) = held.map(|u| u.session) {
            self.greet(session);
        }
    }

    /// A frame of the primary, of its epoch. False: it does not fit.
    pub(super) fn primary_says(&mut self, session: SessionId, message: Message) -> bool {
        let Some(upstream) = self.stage(session) else { return true };
        let receiving = matches!(
            upstream.stage,
            Stage::Receiving | Stage::Finishing { .. } | Stage::Adopting | Stage::InSync
        );
        match message {
            Message::Refused(_) => self.close(session, "refused by the primary"),
            Message::Decision(sync) => return self.decision(session, sync),
            Message::Write { seq, offset, durable, data } if receiving => {
                self.durable_seq = self.durable_seq.max(durable);
                let range = Range::new(offset, data.len() as u64);
                return self.replicate(range, Work::Write(data), Origin::Remote { session, seq });
            }
            Message::Zero { seq, range, discard, durable } if receiving => {
                self.durable_seq = self.durable_seq.max(durable);
                let origin = Origin::Remote { session, seq };
                return self.replicate(Some(range), Work::Zero { discard }, origin);
            }
            Message::Copy { seq, offset, data } if receiving => {
                let range = Range::new(offset, data.len() as u64);
                return self.replicate(range, Work::Write(data), Origin::Remote { session, seq });
            }
            Message::CopyZero { seq, range } if receiving => {
                let origin = Origin::Remote { session, seq };
                return self.replicate(Some(range), Work::Zero { discard: true }, origin);
            }
            Message::Flush(id) if receiving => {
                let tag = self.next_id();
                self.submit(tag, Use::RemoteFlush(session, id), StoreOp::Flush);
            }
            Message::Digest { id, range, by_block } if receiving => {
                let origin = Origin::Ask { session, id };
                return self.replicate(Some(range), Work::Digest { by_block }, origin);
            }
            Message::Read { id, range } if upstream.stage == Stage::InSync => {
                return self.replicate(Some(range), Work::Read, Origin::Serve { session, id });
            }
            Message::Durable(seq) => self.durable_seq = self.durable_seq.max(seq),
            Message::Offer(bytes) if upstream.stage == Stage::InSync => {
                return self.take_offer(session, bytes);
            }
            Message::SyncDone { generation, history, members } => {
                let ticket = self.next_id();
                let Some(upstream) = self.stage(session).filter(|u| u.stage == Stage::Receiving) else {
                    return false;
                };
                let done = Done { generation, history, members };
                upstream.stage = Stage::Finishing { ticket, flushing: false, done };
            }
            Message::Members { generation, committed, members } => {
                if self.stage(session).is_none_or(|u| u.stage != Stage::InSync) || generation == Generation(0)
                {
                    return false;
                }
                self.adopt(session, generation, committed, members);
                self.save_superblock(After::Answer(session, Box::new(Message::MembersAck(generation))));
            }
            _ => return false,
        }
        true
    }

    fn decision(&mut self, session: SessionId, sync: Sync) -> bool {
        let Some(upstream) = self.stage(session) else { return true };
        let deciding = matches!(upstream.stage, Stage::Deciding | Stage::Receiving);
        let full = matches!(sync, Sync::Full(_));
        let fits = match decide(&upstream.theirs, &upstream.ours) {
            Verdict::Full => full,
            Verdict::Bitmap => !full,
            Verdict::Refuse(_) => false,
        };
        if !deciding || !fits {
            return false;
        }
        if self.discard.is_some() {
            self.close(session, "a copy is made of data that is given up");
            return true;
        }
        let Some(upstream) = self.stage(session) else { return true };
        upstream.stage = Stage::Preparing;
        let size = upstream.size;
        let resized = self.follow_size(size);
        let sb = &mut self.superblock;
        match sync {
            Sync::Nothing | Sync::CatchUp if resized => {
                self.save_superblock(After::Ready(session));
                return true;
            }
            Sync::Nothing | Sync::CatchUp => {
                self.replica_ready(session);
                return true;
            }
            Sync::Bitmap => {}
            Sync::Full(marker) => {
                let old = sb.generation;
                sb.remember(old);
                sb.generation = marker;
                sb.partial = true;
                sb.yields = Generation(0);
            }
        }
        sb.inconsistent = true;
        self.disk = DiskState::Inconsistent;
        self.save_superblock(After::Ready(session));
        true
    }

    /// What the decision needs is durable.
    pub(super) fn replica_ready(&mut self, session: SessionId) {
        if let Some(upstream) = self.stage(session).filter(|u| u.stage == Stage::Preparing) {
            upstream.stage = Stage::Receiving;
            self.send(session, Message::Ready);
        }
    }

    fn replicate(&mut self, range: Option<Range>, work: Work, origin: Origin) -> bool {
        let aligned = |r: &Range| r.start.is_multiple_of(BLOCK_BYTES) && r.end.is_multiple_of(BLOCK_BYTES);
        let size = self.superblock.offered;
        // A longer one might need more extents than the log has, and everything behind it would wait for ever.
        match range.filter(|r| r.end <= size && aligned(r) && r.bytes() <= CHUNK) {
            Some(range) => {
                self.enqueue(range, work, origin);
                true
            }
            None => false,
        }
    }

    /// What is written here is missing on every peer that is neither the primary nor a member.
    pub(super) fn track_for_absent(&mut self, range: Range) {
        let Some(upstream) = &self.upstream else { return };
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if index != upstream.peer && !upstream.members.contains(&peer.node) {
                peer.bitmap.mark(range);
            }
        }
    }

    /// Answers the primary, if it is still there.
    pub(super) fn replica_answer(&mut self, session: SessionId, message: Message) {
        let Some(upstream) = self.stage(session) else { return };
        if matches!(message, Message::SyncDoneAck(_)) {
            upstream.stage = Stage::InSync;
            self.disk = DiskState::UpToDate;
        }
        self.send(session, message);
    }

    /// Everything before `SyncDone` is written: flush it.
    pub(super) fn pump_replica(&mut self) {
        let oldest = self.ops.keys().next().copied();
        let Some(upstream) = self.upstream.as_mut() else { return };
        let session = upstream.session;
        if let Stage::Finishing { ticket, flushing, .. } = &mut upstream.stage
            && !*flushing
            && oldest.is_none_or(|op| op > *ticket)
        {
            *flushing = true;
            let tag = self.next_id();
            self.submit(tag, Use::FinishFlush(session), StoreOp::Flush);
        }
    }

    /// It is durable: this replica is what the primary's was when it said so.
    pub(super) fn replica_finish_flushed(&mut self, session: SessionId) {
        let Some(upstream) = self.stage(session) else { return };
        let Stage::Finishing { done, .. } = std::mem::replace(&mut upstream.stage, Stage::Adopting) else {
            return;
        };
        let peer = upstream.peer;
        for generation in done.history.iter().rev() {
            self.superblock.remember(*generation);
        }
        if self.superblock.partial {
            // Only a marker: nobody's data ever had it.
            self.superblock.generation = Generation(0);
        }
        self.superblock.inconsistent = false;
        self.superblock.partial = false;
        self.adopt(session, done.generation, true, done.members);
        self.peers[peer].bitmap.clear_all();
        self.set_base(peer, done.generation);
        let after = vec![After::Answer(session, Box::new(Message::SyncDoneAck(done.generation)))];
        self.transact(Transaction { superblock: true, pages: true, after, ..Transaction::default() });
    }

    /// Takes over generation (as pending if it is not in force yet) and members; the caller makes it durable.
    /// The primary and every other member have the same data; who left the members gets bits from now on, and
    /// what the log names.
    fn adopt(&mut self, session: SessionId, generation: Generation, committed: bool, members: Vec<NodeName>) {
        if committed {
            self.superblock.advance(generation);
        } else if self.superblock.pending != generation {
            let abandoned = std::mem::replace(&mut self.superblock.pending, generation);
            self.superblock.remember(abandoned);
        }
        let Some(upstream) = self.stage(session) else { return };
        let primary = upstream.peer;
        let before = std::mem::replace(&mut upstream.members, members.clone());
        for peer in 0..self.peers.len() {
            let node = &self.peers[peer].node;
            if peer == primary {
                self.set_base(peer, generation);
            } else if members.contains(node) {
                if committed {
                    self.set_base(peer, generation);
                }
                self.peers[peer].bitmap.clear_all();
            } else {
                if before.contains(node) {
                    self.mark_log_dirty(Some(peer));
                }
                if committed {
                    self.part(peer);
                }
            }
        }
    }

    pub(super) fn drop_unstarted_remote(&mut self) {
        let unstarted: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, op)| {
                let remote =
                    matches!(op.origin, Origin::Remote { .. } | Origin::Ask { .. } | Origin::Serve { .. });
                remote && !op.started
            })
            .map(|(id, _)| *id)
            .collect();
        unstarted.into_iter().rev().for_each(|id| self.drop_op(id));
    }

    /// The primary is gone. Whether this replica is current is for others to know now.
    pub(super) fn lose_upstream(&mut self, reason: &str) {
        let Some(upstream) = self.upstream.take() else { return };
        self.drop_unstarted_remote();
        let p = &mut self.peers[upstream.peer];
        p.reason = Some(reason.to_owned());
        p.disk = DiskState::DUnknown;
        if self.disk == DiskState::UpToDate {
            self.disk = DiskState::Consistent;
        }
    }

    pub(super) fn tick_replica(&mut self) {
        let limit = std::time::Duration::from_millis(self.config.peer_timeout_ms.max(100)) * SILENCE;
        let silent =
            self.upstream.as_ref().filter(|u| self.now.since(u.last_heard) > limit).map(|u| u.session);
        if let Some(session) = silent {
            self.close(session, "the primary is silent");
        }
        self.greet_held();
    }

    /// The primary that has said that this replica is in sync.
    pub(super) fn in_sync_with(&mut self) -> Option<&mut Upstream> {
        self.upstream.as_mut().filter(|u| u.stage == Stage::InSync)
    }

    /// For status: what the primary is to us.
    pub(super) fn upstream_state(&self, peer: usize) -> Option<crate::types::ConnectionState> {
        use crate::types::ConnectionState as State;
        let upstream = self.upstream.as_ref().filter(|u| u.peer == peer)?;
        Some(match upstream.stage {
            Stage::Recording | Stage::Deciding | Stage::Preparing => State::Handshake,
            Stage::Receiving | Stage::Finishing { .. } | Stage::Adopting => State::SyncTarget,
            Stage::InSync => State::Connected,
        })
    }
}
