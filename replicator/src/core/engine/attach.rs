//! From a metadata file to a running engine, after any kind of stop.
//!
//! What the activity log names may differ from every peer, so all of it becomes dirty, durably, before the log
//! is emptied. The boot id changes if the host rebooted and the last stop was not clean: then something that
//! was acknowledged may have been lost with the page cache.

use super::growth::Growth;
use super::journal::{After, Transaction};
use super::pace::Pace;
use super::peer::Peer;
use super::{Action, Engine};
use crate::api::{Counters, Membership, VolumeConfig};
use crate::core::meta::{self, Bitmap, MAX_PEERS, MetaError, PeerSlot, Superblock, Write, image};
use crate::core::range::{Locks, Range};
use crate::types::{BootId, DiskState, Epoch, Generation, Instant, NodeName, Role};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The metadata cannot be used.
pub type AttachError = MetaError;

/// Everything an engine is made from, apart from the metadata file.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This node.
    pub node: NodeName,
    /// The volume.
    pub config: VolumeConfig,
    /// The host's boot id as text.
    pub host_boot: String,
    /// A random number that was never used before.
    pub seed: u64,
    /// Extents that were not written for this long leave the activity log even if there is room: what is in it
    /// is what a crash makes us copy. Usually [`LOG_IDLE`].
    pub log_idle: Duration,
    /// Bytes that a verify compares at once; a write that meets it waits for the read of this much. Whole blocks, at
    /// most [`crate::core::frame::MAX_DIGEST_RANGE`]. Usually [`VERIFY_CHUNK`].
    pub verify_chunk: u64,
    /// An earlier process left the volume's device, with requests that wait; which is gone on with only in the epoch
    /// in which it was left, when the agent says primary, and is taken away otherwise.
    pub held: bool,
}

/// Long enough that a database's working set stays hot, short enough that a crash copies little else.
pub const LOG_IDLE: Duration = Duration::from_secs(10);

/// Large enough for the network, small enough that a write that waits for its read notices nothing.
pub const VERIFY_CHUNK: u64 = 128 << 10;

impl Setup {
    fn check(&self) -> Result<(), MetaError> {
        let size = self.config.size_bytes;
        if !meta::is_size(size) {
            return Err(MetaError::Size(size));
        }
        if self.config.peers.len() > MAX_PEERS {
            return Err(MetaError::TooManyPeers);
        }
        Ok(())
    }

    fn host_boot(&self) -> String {
        self.host_boot
            .chars()
            .filter(char::is_ascii_graphic)
            .take(meta::superblock::HOST_BOOT_BYTES)
            .collect()
    }

    /// The length and the content of the metadata file of a new replica.
    ///
    /// # Errors
    /// The size or the number of peers is not possible.
    pub fn create(&self) -> Result<(u64, Vec<Write>), AttachError> {
        self.check()?;
        let mut peers = [const { None }; MAX_PEERS];
        for (slot, peer) in peers.iter_mut().zip(&self.config.peers) {
            *slot = Some(PeerSlot { node: peer.node.clone(), base: Generation(0), tracking: false });
        }
        let superblock = Superblock {
            volume: self.config.volume.clone(),
            node: self.node.clone(),
            size: self.config.size_bytes,
            offered: self.config.size_bytes,
            behind: false,
            epoch: Epoch::ZERO,
            generation: Generation(0),
            pending: Generation(0),
            history: Vec::new(),
            inconsistent: false,
            partial: false,
            boot: BootId(mix(self.seed ^ 0xb007).max(1)),
            host_boot: self.host_boot(),
            clean: true,
            was_primary: false,
            peers,
            parted: [(0, 0); MAX_PEERS],
            yields: Generation(0),
        };
        Ok((meta::file_bytes(self.config.size_bytes), image::create(&superblock)))
    }

    /// Starts from the content of the metadata file. The first actions make the start durable.
    ///
    /// # Errors
    /// The metadata cannot be trusted, or is another replica's.
    pub fn attach(self, file: &[u8], now: Instant) -> Result<(Engine, Vec<Action>), AttachError> {
        self.check()?;
        let loaded = image::load(file)?;
        let superblock = loaded.superblock;
        // A larger size is a growth that is to come, or was interrupted; a smaller one is somebody else's.
        let ours = (&superblock.volume, &superblock.node) == (&self.config.volume, &self.node);
        if !ours || superblock.size > self.config.size_bytes {
            let Superblock { volume, node, size, .. } = superblock;
            return Err(MetaError::Foreign { volume, node, size });
        }
        let host_boot = self.host_boot();
        let growth = Growth::new(superblock.offered);
        let mut engine = Engine {
            node: self.node,
            now,
            out: Vec::new(),
            last_id: 0,
            random: self.seed,
            incarnation: 0,
            superblock,
            superblock_sequence: loaded.superblock_sequence,
            log: loaded.log,
            transactions: VecDeque::new(),
            running: None,
            heating: BTreeSet::new(),
            clean: None,
            clean_wanted: false,
            log_idle: self.log_idle,
            last_clean: now,
            last_clean_seq: 0,
            role: Role::Secondary,
            disk: DiskState::Attaching,
            disk_reason: None,
            membership: Membership::Untold,
            bypassed: BTreeSet::new(),
            far: BTreeMap::new(),
            full: BTreeMap::new(),
            transition: None,
            generation: None,
            waiting_tokens: Vec::new(),
            last_order: 0,
            required: Vec::new(),
            until: None,
            deposed: None,
            stopping: false,
            peers: Vec::new(),
            sessions: BTreeMap::new(),
            upstream: None,
            last_primary: None,
            locks: Locks::default(),
            ops: BTreeMap::new(),
            chunked: BTreeMap::new(),
            by_seq: BTreeMap::new(),
            last_seq: 0,
            durable_seq: 0,
            last_front: Instant::ZERO,
            store: BTreeMap::new(),
            flushes: BTreeMap::new(),
            pace: Pace::new(now),
            paused: false,
            verify_chunk: self.verify_chunk,
            verify: None,
            discard: None,
            growth,
            unix_s: 0,
            held: VecDeque::new(),
            front_end: false,
            device_left: self.held,
            device: None,
            filesystem: None,
            frozen: None,
            frozen_since: None,
            counters: Counters::default(),
            alarms: VecDeque::new(),
            digest: 0,
            config: self.config,
        };
        engine.incarnation = engine.draw();
        loaded.alarms.into_iter().for_each(|text| engine.alarm(text));
        let first = engine.restore_peers(loaded.bitmaps, loaded.repairs)?;
        engine.transactions.push_back(first);
        if !engine.superblock.clean && engine.superblock.host_boot != host_boot {
            engine.superblock.boot = BootId(engine.draw());
        }
        engine.superblock.host_boot = host_boot;
        engine.superblock.clean = false;
        engine.empty_log(After::Attached);
        engine.pump();
        engine.note_changes();
        let actions = std::mem::take(&mut engine.out);
        Ok((engine, actions))
    }
}

impl Engine {
    /// Peers with their bitmaps, the log's extents marked in each; returns the transaction that must be durable
    /// before the log is emptied.
    fn restore_peers(
        &mut self,
        bitmaps: Vec<(usize, Bitmap)>,
        repairs: Vec<Write>,
    ) -> Result<Transaction, MetaError> {
        let mut raw = repairs;
        for (slot, mut bitmap) in bitmaps {
            // A page that was damaged counts as dirty beyond what there is.
            bitmap.set_end(self.superblock.offered);
            if let Some(known) = &self.superblock.peers[slot] {
                self.peers.push(Peer::new(known.node.clone(), slot, bitmap, self.now));
            }
        }
        for peer in self.config.peers.clone() {
            if self.peer_index(&peer.node).is_some() || peer.node == self.node {
                continue;
            }
            raw.extend(self.enlist(peer.node).ok_or(MetaError::TooManyPeers)?);
        }
        self.mark_log_dirty(None);
        Ok(Transaction { raw, pages: true, ..Transaction::default() })
    }

    /// Everything the log names becomes dirty towards one peer or all.
    pub(super) fn mark_log_dirty(&mut self, only: Option<usize>) {
        let size = self.superblock.offered;
        let extents: Vec<Range> = self
            .log
            .iter()
            .map(|(extent, _)| {
                let start = u64::from(extent) * meta::EXTENT_BYTES;
                Range { start, end: (start + meta::EXTENT_BYTES).min(size) }
            })
            .collect();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if only.is_none_or(|o| o == index) {
                extents.iter().for_each(|range| peer.bitmap.mark(*range));
            }
        }
    }

    pub(super) fn attached(&mut self) {
        let sb = &self.superblock;
        let consistent = sb.generation != Generation(0) && !sb.inconsistent;
        self.disk = if consistent { DiskState::Consistent } else { DiskState::Inconsistent };
    }
}

fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}
