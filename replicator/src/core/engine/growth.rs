//! From a larger size in the configuration to a larger device and filesystem, while the volume is in use.
//!
//! ```text
//! every node by itself:  Rest ─► Store (backing store, new metadata file) ─► Prepared ─► Saving (the new file takes the old
//!                        one's place) ─► Rest; then what is beyond the volume's size is made zero and flushed: *room*
//! the primary:           every peer connected, in sync and with room ─► Offer ─► every peer has agreed durably ─► the new
//!                        size is durable here ─► the device ─► the filesystem
//! ```
//! Three sizes: `superblock.size` is what this replica can hold, `room` how much of it may be offered, `superblock.offered`
//! what the volume has. Room ends where it is not certain any more that everything behind `offered` reads as zeroes.
//!
//! Invariants:
//! * nobody writes behind `offered`, so the new area is zero on every replica when the volume gets it, and no bit of it is
//!   set; what a replica has there of a leadership that never came to offer it is made zero again;
//! * the device is as large as `offered` only when that is durable here and on every peer that is configured: whoever is
//!   promoted next offers at least as much;
//! * a secondary takes the primary's size over in the handshake, before anything is copied.
//!
//! If the process dies, the metadata file is the old one or the new one, and whatever was not durable is done again.

use super::io::{CHUNK, Origin, Use, Work};
use super::journal::{After, Transaction};
use super::peer::Link;
use super::{Action, Engine, SessionId, StoreOp};
use crate::api::GrowthStatus;
use crate::core::frame::{Greeting, Message, PROTOCOL_GROW};
use crate::core::meta::{self, image};
use crate::core::range::Range;
use crate::types::{DiskState, FrontEndKind, Instant, Role};
use std::time::Duration;

/// How long after a step came to nothing it is tried again: a person may be making room.
const AGAIN: Duration = Duration::from_secs(5);

/// This replica's own store and metadata on their way to a size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Rest,
    Store(u64),
    Prepared(u64),
    Saving,
}

/// What is under way behind the volume's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Clearing {
    Zeroing(u64),
    Flushing(u64),
}

/// How the growth stands.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    step: Step,
    room: u64,
    /// Zero up to here, not yet flushed.
    cleared: u64,
    clearing: Option<Clearing>,
    /// The size before, while the new one is not durable.
    raising: Option<u64>,
    /// Size of the device that is being made, and of the one there is.
    making: u64,
    device: u64,
    resizing: Option<u64>,
    filling: Option<u64>,
    /// Why a step came to nothing, and when.
    failed: Option<(String, Instant)>,
}

impl Growth {
    /// After a start nothing is known of what is behind the volume's size.
    pub fn new(offered: u64) -> Self {
        Self {
            step: Step::Rest,
            room: offered,
            cleared: offered,
            clearing: None,
            raising: None,
            making: 0,
            device: 0,
            resizing: None,
            filling: None,
            failed: None,
        }
    }

    /// What failed is tried again at once.
    pub fn begin_anew(&mut self) {
        self.failed = None;
    }
}

impl Engine {
    /// Bytes that may be offered.
    pub(super) fn capacity(&self) -> u64 {
        self.growth.room
    }

    /// The size that a device may have: durable here and on every peer.
    #[must_use]
    pub fn exportable(&self) -> u64 {
        self.growth.raising.unwrap_or(self.superblock.offered)
    }

    pub(super) fn pump_growth(&mut self) {
        let (sb, g) = (&self.superblock, &self.growth);
        let rests = self.config.size_bytes <= sb.size
            && g.step == Step::Rest
            && [sb.size, g.room].iter().all(|size| *size == sb.offered)
            && (self.role != Role::Primary || g.device == sb.offered && !sb.behind);
        if rests || !self.has_disk() || self.disk == DiskState::Attaching || self.stopping {
            return;
        }
        self.make_room();
        if self.transition.is_some() {
            return;
        }
        self.clear_room();
        self.tell_room();
        if self.role == Role::Primary && self.deposed.is_none() && self.generation.is_none() {
            self.raise();
            self.fill();
        }
    }

    fn may_try(&self) -> bool {
        self.growth.failed.as_ref().is_none_or(|(_, at)| self.now.since(*at) >= AGAIN)
    }

    fn growth_failed(&mut self, reason: String) {
        if self.growth.failed.as_ref().is_none_or(|(known, _)| *known != reason) {
            self.out.push(Action::Note(format!("the volume does not grow yet: {reason}")));
        }
        self.growth.failed = Some((reason, self.now));
    }

    // ---- this replica ---------------------------------------------------------------------------------------

    fn make_room(&mut self) {
        let wanted = self.config.size_bytes;
        match self.growth.step {
            Step::Rest if wanted > self.superblock.size && self.may_try() => {
                self.growth.step = Step::Store(wanted);
                self.out.push(Action::Grow { size: wanted, meta: meta::file_bytes(wanted) });
            }
            Step::Prepared(size) if self.transactions.iter().all(|t| t.raw.is_empty()) => {
                self.growth.step = Step::Saving;
                self.superblock.size = size;
                self.peers.iter_mut().for_each(|p| p.bitmap.grow(size));
                let after = vec![After::Grown];
                // In front of all that waits, whose pages have their new places from now on. It writes everything at once,
                // so nothing of it can come too early.
                self.transactions.push_front(Transaction {
                    grow: Some(size),
                    after,
                    ..Transaction::default()
                });
            }
            Step::Rest | Step::Store(_) | Step::Prepared(_) | Step::Saving => {}
        }
    }

    pub(super) fn store_grown(&mut self, result: Result<(), String>) {
        let Step::Store(size) = self.growth.step else { return };
        match result {
            Ok(()) => (self.growth.step, self.growth.failed) = (Step::Prepared(size), None),
            Err(reason) => {
                self.growth.step = Step::Rest;
                self.growth_failed(reason);
            }
        }
    }

    /// The metadata file for a volume of `size` bytes, of all that is in memory.
    pub(super) fn write_anew(&mut self, size: u64) -> Action {
        let tag = self.next_id();
        let payload = self.log.begin_write();
        let superblock = (&self.superblock, self.superblock_sequence + 1);
        let bitmaps = self.peers.iter().map(|p| (p.slot, &p.bitmap));
        let (writes, superblock, log) = image::whole(superblock, (&payload, self.log.sequence), bitmaps);
        (self.superblock_sequence, self.log.sequence) = (superblock, log);
        self.peers.iter_mut().for_each(|p| p.bitmap.saved());
        Action::MetaReplace { tag, len: meta::file_bytes(size), writes }
    }

    pub(super) fn grown(&mut self) {
        self.growth.step = Step::Rest;
        let (node, size) = (&self.node, self.superblock.size);
        self.out.push(Action::Note(format!("{node} can hold {size} bytes")));
    }

    /// Makes zero what is behind the volume's size, piece by piece.
    fn clear_room(&mut self) {
        let (size, from) = (self.superblock.size, self.growth.cleared);
        if self.growth.room == size || self.growth.clearing.is_some() || !self.may_try() {
            return;
        }
        self.growth.clearing = Some(if from < size {
            let range = Range { start: from, end: size.min(from + CHUNK) };
            Clearing::Zeroing(self.enqueue(range, Work::Zero { discard: true }, Origin::Clear))
        } else {
            let tag = self.next_id();
            self.submit(tag, Use::ClearFlush, StoreOp::Flush);
            Clearing::Flushing(tag)
        });
    }

    pub(super) fn cleared(&mut self, op: u64, range: Range) {
        if self.growth.clearing == Some(Clearing::Zeroing(op)) {
            self.growth.clearing = None;
            self.growth.cleared = range.end;
        }
    }

    pub(super) fn clear_flushed(&mut self, tag: u64) {
        if self.growth.clearing == Some(Clearing::Flushing(tag)) {
            self.growth.clearing = None;
            self.growth.room = self.growth.cleared;
            self.growth.failed = None;
        }
    }

    /// There is no space to write zeroes to: that is no reason to hold anything up.
    pub(super) fn not_cleared(&mut self, op: u64, reason: &str) {
        self.ops.remove(&op);
        for granted in self.locks.release(op) {
            self.granted(granted);
        }
        if self.growth.clearing == Some(Clearing::Zeroing(op)) {
            self.growth.clearing = None;
            self.growth_failed(reason.to_owned());
        }
    }

    fn set_offered(&mut self, size: u64) {
        assert!(size <= self.growth.room.max(self.superblock.offered), "what may not be zero is offered");
        self.superblock.behind |= size > self.superblock.offered;
        self.superblock.offered = size;
        self.peers.iter_mut().for_each(|p| p.bitmap.set_end(size));
    }

    // ---- the secondary --------------------------------------------------------------------------------------

    /// Why a primary's volume does not fit here.
    pub(super) fn no_room(&self, greeting: &Greeting) -> Option<String> {
        let (ours, theirs) = (self.superblock.offered, greeting.size);
        if greeting.protocol < PROTOCOL_GROW {
            return (theirs != ours).then(|| format!("its replica has {ours} bytes, not {theirs}"));
        }
        let room = self.growth.room;
        (theirs > room).then(|| format!("its replica has room for {room} bytes, {theirs} are needed"))
    }

    /// The primary's size is the volume's. True if that is news, which must be durable before it is relied on.
    pub(super) fn follow_size(&mut self, size: u64) -> bool {
        if size == self.superblock.offered {
            return false;
        }
        self.set_offered(size);
        if size < self.growth.room {
            // A leadership that is over may have written there.
            (self.growth.room, self.growth.cleared, self.growth.clearing) = (size, size, None);
        }
        true
    }

    fn tell_room(&mut self) {
        let room = self.growth.room;
        let Some(upstream) = self.in_sync_with().filter(|u| u.told_room != room) else { return };
        upstream.told_room = room;
        let (peer, session) = (upstream.peer, upstream.session);
        if self.peers[peer].protocol >= PROTOCOL_GROW && room >= self.superblock.offered {
            self.send(session, Message::Capacity(room));
        }
    }

    /// The primary's offer. False: it does not fit.
    pub(super) fn take_offer(&mut self, session: SessionId, size: u64) -> bool {
        if size < self.superblock.offered || size > self.growth.room {
            return false;
        }
        self.set_offered(size);
        self.save_superblock(After::Answer(session, Box::new(Message::OfferAck(size))));
        true
    }

    // ---- the primary ----------------------------------------------------------------------------------------

    /// A peer's replica can hold more. False: it does not fit.
    pub(super) fn peer_has_room(&mut self, peer: usize, bytes: u64) -> bool {
        self.peers[peer].capacity = bytes;
        bytes >= self.superblock.offered
    }

    /// A peer has agreed to an offer, durably. False: it was never made.
    pub(super) fn offer_taken(&mut self, peer: usize, size: u64) -> bool {
        let p = &mut self.peers[peer];
        if size == p.asked {
            p.agreed = size;
        }
        size <= p.asked
    }

    /// What keeps the volume from getting `size`.
    fn obstacle(&self, size: u64) -> Option<String> {
        (0..self.peers.len()).filter(|peer| self.configured(*peer)).find_map(|peer| {
            let p = &self.peers[peer];
            let node = &p.node;
            match p.link {
                Link::Syncing | Link::Finishing => Some(format!("{node} is being resynced")),
                Link::Connected if p.protocol < PROTOCOL_GROW => {
                    Some(format!("{node}'s replicator is of an older release: upgrade it"))
                }
                Link::Connected if p.capacity < size => {
                    Some(format!("{node}'s replica has room for {} bytes, {size} are needed", p.capacity))
                }
                Link::Connected => None,
                Link::Down
                | Link::TimedOut
                | Link::StandAlone
                | Link::Greeting
                | Link::Reading
                | Link::Deciding => Some(format!("{node} is not connected")),
            }
        })
    }

    /// Greetings that broke off may have made a peer look older than it is; the next session begins with the newest words
    /// again. Once for each of its processes: one that is older stays so.
    fn greet_anew(&mut self) {
        for peer in 0..self.peers.len() {
            let p = &mut self.peers[peer];
            let older = p.link == Link::Connected && p.protocol < PROTOCOL_GROW;
            if older && p.greeted_anew != p.incarnation {
                p.greeted_anew = p.incarnation;
                self.lose_peer(peer, Link::Down, "greeted again, in case it knows volumes that grow");
            }
        }
    }

    fn raise(&mut self) {
        let size = self.config.size_bytes;
        let behind = size <= self.superblock.offered || size > self.growth.room;
        if behind || self.growth.raising.is_some() {
            return;
        }
        self.greet_anew();
        if self.obstacle(size).is_some() {
            return;
        }
        let mut agreed = true;
        for peer in (0..self.peers.len()).filter(|p| self.configured(*p)).collect::<Vec<_>>() {
            agreed &= self.peers[peer].agreed == size;
            if self.peers[peer].asked != size
                && let Some(session) = self.peers[peer].session
            {
                self.peers[peer].asked = size;
                self.send(session, Message::Offer(size));
            }
        }
        if agreed {
            self.growth.raising = Some(self.superblock.offered);
            self.set_offered(size);
            self.save_superblock(After::Raised);
        }
    }

    pub(super) fn raised(&mut self) {
        self.growth.raising = None;
        let text = format!("the volume has {} bytes on every replica", self.superblock.offered);
        self.out.push(Action::Note(text));
    }

    /// The device, and then what is on it.
    fn fill(&mut self) {
        let size = self.superblock.offered;
        if self.growth.raising.is_some() || self.device.is_none() || !self.may_try() {
            return;
        }
        if self.growth.device < size {
            if self.growth.resizing.is_none() {
                self.growth.resizing = Some(size);
                self.out.push(Action::Resize(size));
            }
            return;
        }
        if !self.superblock.behind || self.growth.filling.is_some() {
            return;
        }
        match self.filesystem.clone().filter(|_| self.config.front_end == FrontEndKind::Fuse) {
            Some(name) if name == "ext4" || name == "xfs" => {
                self.growth.filling = Some(size);
                self.out.push(Action::GrowFilesystem(name));
            }
            // Blank, or somebody else's affair.
            Some(_) | None => self.filled(),
        }
    }

    fn filled(&mut self) {
        self.superblock.behind = false;
        self.transact(Transaction { superblock: true, ..Transaction::default() });
    }

    /// Asks for a device, as large as may be offered at this moment.
    pub(super) fn make_device(&mut self) {
        self.growth.making = self.exportable();
        self.out.push(Action::StartFrontEnd);
    }

    pub(super) fn device_made(&mut self) {
        self.growth.device = self.growth.making;
        (self.growth.resizing, self.growth.filling) = (None, None);
    }

    pub(super) fn resized(&mut self, result: Result<(), String>) {
        let Some(size) = self.growth.resizing.take() else { return };
        match result {
            Ok(()) => (self.growth.device, self.growth.failed) = (size, None),
            Err(reason) => self.growth_failed(reason),
        }
    }

    pub(super) fn filesystem_grown(&mut self, result: Result<(), String>) {
        let Some(size) = self.growth.filling.take() else { return };
        match result {
            Ok(()) => {
                self.growth.failed = None;
                if size == self.superblock.offered && self.role == Role::Primary && self.has_disk() {
                    self.filled();
                }
            }
            Err(reason) => self.growth_failed(reason),
        }
    }

    /// For status: what a growth is about and what it waits for.
    pub(super) fn growth_status(&self) -> Option<GrowthStatus> {
        let (sb, g, node) = (&self.superblock, &self.growth, &self.node);
        let primary = self.role == Role::Primary;
        let device = primary && self.device.is_some() && (g.device < sb.offered || sb.behind);
        let to_bytes = self.config.size_bytes.max(sb.offered);
        if !(to_bytes > sb.offered || device || g.raising.is_some()) || self.disk == DiskState::Attaching {
            return None;
        }
        let waits = if !self.has_disk() {
            format!("{node} has no disk")
        } else if let Some((why, _)) = &g.failed {
            why.clone()
        } else if to_bytes > sb.size || g.step != Step::Rest {
            format!("{node}'s backing store is being made larger")
        } else if to_bytes > g.room {
            format!("the new area of {node}'s backing store is being made zero")
        } else if to_bytes > sb.offered && !primary {
            format!("{node} has room for it; the primary goes on when every node has")
        } else if to_bytes > sb.offered || g.raising.is_some() {
            self.obstacle(to_bytes).unwrap_or_else(|| "every node records the new size".into())
        } else if g.device < sb.offered {
            "the block device is being made larger".into()
        } else {
            "the filesystem is being made larger".into()
        };
        let from_bytes = if primary && self.device.is_some() { g.device } else { self.exportable() };
        Some(GrowthStatus { from_bytes, to_bytes, waits })
    }
}
