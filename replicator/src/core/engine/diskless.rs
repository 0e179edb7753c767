//! A primary whose disk has failed goes on through its peers.
//!
//! ```text
//! UpToDate ── I/O error, disk_timeout; a connected member can read for us ──► Diskless ── demoted ──► (Diskless, secondary)
//!     └────── the same without such a member ──► Failed: I/O fails
//! ```
//! Reads are asked of a connected member, in the order of its session, so that they see every write before them; writes
//! and flushes are acknowledged by the required members alone. Metadata changes take place in memory only: what is on
//! the disk is what was there when it failed, with a mark (if it could still be written) that it is not to be promoted.
//!
//! Invariants:
//! * nothing leaves before the agent has said [`Membership::Left`], and nothing is acknowledged without a member;
//! * nothing is acknowledged before every member has recorded a generation that is not on this disk, so whoever leads
//!   next copies everything to this replica when it comes back with its old metadata;
//! * a member that comes back may lack nothing but unanswered writes, for there is nothing to copy from.
//!
//! If the process dies, what protects is that etcd's in-sync set is without this node.

use super::io::{Origin, Use};
use super::peer::Link;
use super::role::{Goal, Step};
use super::{Action, Engine};
use crate::api::Membership;
use crate::core::frame::{MAX_READ, Message, PROTOCOL_READ, Refused};
use crate::core::meta::{SUPERBLOCK_AT, pair, superblock};
use crate::core::range::Range;
use crate::types::{DiskState, Instant, Role};
use bytes::Bytes;

/// A read of the front end that peers answer, part by part.
#[derive(Clone, Debug)]
pub(super) struct FarRead {
    /// The request.
    pub front: u64,
    range: Range,
    got: Vec<u8>,
    /// When the front end asked.
    at: Instant,
    /// The peer that was asked for the next part, and when.
    asked: Option<(usize, Instant)>,
}

impl FarRead {
    /// What is asked for next.
    fn part(&self) -> Range {
        let start = self.range.start + self.got.len() as u64;
        Range { start, end: self.range.end.min(start + MAX_READ) }
    }
}

impl Engine {
    /// It is gone on with without a disk.
    pub(super) fn is_detached(&self) -> bool {
        self.disk == DiskState::Diskless && !self.stopping
    }

    /// A member that answers reads, the quickest first.
    fn reader(&self) -> Option<usize> {
        let able = |peer: &usize| {
            let p = &self.peers[*peer];
            p.link == Link::Connected && p.protocol >= PROTOCOL_READ && self.counts(*peer)
        };
        (0..self.peers.len()).filter(able).min_by_key(|peer| self.peers[*peer].lag_us)
    }

    /// A primary in force, told by its agent where it stands, with somebody to read from.
    pub(super) fn may_detach(&self) -> bool {
        let settled = match &self.transition {
            None => true,
            Some(t) => matches!(t.goal, Goal::Demote(..)) && t.step != Step::Recording,
        };
        self.role == Role::Primary
            && !self.stopping
            && settled
            && self.membership != Membership::Untold
            && self.reader().is_some()
    }

    /// The disk is given up, and everything that waits for it goes on without.
    pub(super) fn detach(&mut self, reason: String) {
        self.condemn();
        self.disk = DiskState::Diskless;
        let text = format!("the disk failed: {reason}");
        self.alarm(format!("{text}; the volume goes on through its peers"));
        self.disk_reason = Some(text);
        for (_, (what, at)) in std::mem::take(&mut self.store) {
            if let Use::FrontRead(front, range) = what {
                self.far_read(front, range, at);
            }
        }
        self.full.clear();
        self.clean = None;
        if let Some((_, running, _)) = self.running.take() {
            self.transactions.push_front(running);
        }
        for peer in 0..self.peers.len() {
            if self.peers[peer].session.is_some() && self.peers[peer].link != Link::Connected {
                self.lose_peer(peer, Link::Down, "this node's disk failed: there is nothing to copy from");
            }
        }
        self.start_generation();
        self.detach_operations();
        self.flushed_without_disk();
        self.dial_all();
    }

    /// The replica as it is on the disk must not be promoted. It may be that this cannot be written any more.
    fn condemn(&mut self) {
        let mut condemned = self.superblock.clone();
        condemned.inconsistent = true;
        self.superblock_sequence += 1;
        let payload = condemned.encode();
        let writes = pair::update(superblock::MAGIC, SUPERBLOCK_AT, self.superblock_sequence, &payload);
        let tag = self.next_id();
        self.out.push(Action::Meta { tag, writes });
    }

    fn detach_operations(&mut self) {
        let (mut background, mut running) = (Vec::new(), Vec::new());
        for (id, op) in &self.ops {
            match op.origin {
                Origin::Front(_) | Origin::Chunk(_) if op.started && !op.local => running.push(*id),
                Origin::Front(_) | Origin::Chunk(_) => {}
                Origin::Remote { .. }
                | Origin::Resync { .. }
                | Origin::Mend { .. }
                | Origin::Verify { .. }
                | Origin::Ask { .. }
                | Origin::Serve { .. }
                | Origin::Clear => background.push(*id),
            }
        }
        self.bypassed.extend(running);
        for id in &background {
            self.ops.remove(id);
        }
        for id in std::mem::take(&mut self.heating) {
            self.run(id);
        }
        for id in background {
            for granted in self.locks.release(id) {
                self.granted(granted);
            }
        }
    }

    /// Ends what would wait for the disk or the metadata; false if there was nothing.
    pub(super) fn pump_detached(&mut self) -> bool {
        if !self.is_detached() {
            return false;
        }
        let mut any = false;
        while let Some(id) = self.bypassed.pop_first() {
            any = true;
            self.op_done(id, Bytes::new());
        }
        while let Some(transaction) = self.transactions.pop_front() {
            any = true;
            if transaction.empty_log {
                self.log.clear();
            }
            self.is_durable(transaction.after);
        }
        any
    }

    /// The agent says where this primary stands.
    pub(super) fn stands(&mut self, membership: Membership) {
        if std::mem::replace(&mut self.membership, membership) != membership {
            self.progress();
            self.release_held();
        }
    }

    /// With a disk, always; without one, when others have everything and the in-sync set is theirs.
    pub(super) fn may_do_without_disk(&self) -> bool {
        !self.is_detached() || (self.membership == Membership::Left && !self.required.is_empty())
    }

    /// Why nothing is answered without a disk, if so.
    pub(super) fn why_frozen_detached(&self) -> Option<String> {
        if !self.is_detached() || self.may_do_without_disk() {
            return None;
        }
        let why = if self.required.is_empty() {
            "no other node holds the data"
        } else {
            "waits until this node has left the in-sync set"
        };
        Some(format!("{}; {why}", self.disk_reason.as_deref().unwrap_or("the disk failed")))
    }

    /// It lacks nothing that would have to be copied from this replica, as far as is known here.
    pub(super) fn may_come_back(&self, peer: usize) -> bool {
        let p = &self.peers[peer];
        self.is_detached() && self.is_required(peer) && p.trusted && p.bitmap.is_empty()
    }

    /// It would need blocks from a disk that is gone.
    pub(super) fn turn_away(&mut self, peer: usize) {
        let reason = "it may lack acknowledged writes, and the leader has no disk to copy them from";
        if let Some(session) = self.peers[peer].session {
            self.send(session, Message::Refused(Refused::Other(reason.into())));
        }
        self.lose_peer(peer, Link::StandAlone, reason);
        self.dial_all();
    }

    // ---- reads ----------------------------------------------------------------------------------------------

    pub(super) fn far_read(&mut self, front: u64, range: Range, at: Instant) {
        let id = self.next_id();
        self.far.insert(id, FarRead { front, range, got: Vec::new(), at, asked: None });
    }

    /// Asks what nobody has been asked yet.
    pub(super) fn pump_far_reads(&mut self) {
        if !self.is_detached() || self.far.values().all(|read| read.asked.is_some()) {
            return;
        }
        let Some(peer) = self.reader() else { return };
        let Some(session) = self.peers[peer].session else { return };
        let now = self.now;
        let mut questions = Vec::new();
        for (id, read) in self.far.iter_mut().filter(|(_, read)| read.asked.is_none()) {
            read.asked = Some((peer, now));
            questions.push((*id, read.part()));
        }
        self.peers[peer].last_sent = now;
        for (id, range) in questions {
            self.send(session, Message::Read { id, range });
        }
    }

    /// A peer answers. False if the answer does not fit the question.
    pub(super) fn far_data(&mut self, peer: usize, id: u64, data: Bytes) -> bool {
        let asked = |read: &FarRead| read.asked.is_some_and(|(who, _)| who == peer);
        let Some(mut read) = self.far.remove(&id) else { return true }; // Given up meanwhile.
        let part = read.part();
        if !asked(&read) || data.len() as u64 != part.bytes() {
            self.far.insert(id, read);
            return false;
        }
        let last = part.end == read.range.end;
        if !last || !read.got.is_empty() {
            read.got.extend_from_slice(&data);
        }
        if !last {
            let next = self.next_id();
            self.far.insert(next, FarRead { asked: None, ..read });
            return true;
        }
        let data = if read.got.is_empty() { data } else { read.got.into() };
        self.counters.reads += 1;
        self.counters.read_bytes += data.len() as u64;
        self.observe(read.at);
        self.leave(read.front, data);
        true
    }

    /// What this peer was asked is asked of another, or of itself when it is back.
    pub(super) fn ask_elsewhere(&mut self, peer: usize) {
        let asked: Vec<u64> = self
            .far
            .iter()
            .filter(|(_, read)| read.asked.is_some_and(|(who, _)| who == peer))
            .map(|(id, _)| *id)
            .collect();
        for id in asked {
            if let Some(read) = self.far.remove(&id) {
                // Under a new number: a late answer to the old one means nothing.
                let id = self.next_id();
                self.far.insert(id, FarRead { asked: None, ..read });
            }
        }
    }

    /// When this peer was asked for what it has not answered for longest.
    pub(super) fn oldest_far_read(&self, peer: usize) -> Option<Instant> {
        let mine = |read: &FarRead| read.asked.filter(|(who, _)| *who == peer).map(|(_, at)| at);
        self.far.values().filter_map(mine).min()
    }
}
