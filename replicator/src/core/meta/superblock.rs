//! The superblock: everything about a replica that is not its blocks.
//!
//! Payload, little-endian, strings as u8 length + bytes:
//! volume, node, size u64, epoch number u64, epoch term u64, generation u64, pending u64, boot u64, flags u8,
//! host boot id, history u8 count + u64 each, peers: 8 × (u8 present; name, base u64, tracking u8). Behind that, what
//! later releases added, each as kind u8, length u16, content; what is not known is skipped:
//! 1: 8 × (parted at, seconds since 1970, u64; epoch number then u64); 2: generation that is given up u64;
//! 3: offered size u64, whether the filesystem is behind it u64 (0 or 1); absent: the whole size, and it is not.

use super::{MAX_PEERS, MAX_VOLUME_BYTES};
use crate::core::codec::{Reader, text};
use crate::types::{BootId, Epoch, Generation, NodeName, TermId, VolumeName};

/// Magic of a superblock.
pub const MAGIC: [u8; 8] = *b"BATONSB1";
/// Generations remembered (DRBD 9 keeps 32 too). A peer older than that gets refused as unrelated.
pub const HISTORY: usize = 32;
/// Longest host boot id kept; the kernel's has 36 characters.
pub const HOST_BOOT_BYTES: usize = 64;

/// What is known about one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerSlot {
    /// The peer.
    pub node: NodeName,
    /// The generation of the peer's data that the bitmap counts from.
    pub base: Generation,
    /// The bitmap holds everything that may differ since `base`. False until the peer was first synced.
    pub tracking: bool,
}

/// A replica's identity and state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The volume.
    pub volume: VolumeName,
    /// The node this replica lives on.
    pub node: NodeName,
    /// Bytes that this replica has room for, and its bitmaps.
    pub size: u64,
    /// Bytes that a primary offers: what is beyond has never been written to by anybody, see [`crate::core::engine`].
    pub offered: u64,
    /// The filesystem may not have been grown to what is offered.
    pub behind: bool,
    /// Highest epoch seen.
    pub epoch: Epoch,
    /// Generation of the data; zero: no data yet.
    pub generation: Generation,
    /// A generation that is being introduced: some peers may have it already. Zero: none.
    pub pending: Generation,
    /// Earlier generations, newest first.
    pub history: Vec<Generation>,
    /// The data is a mixture: never promotable.
    pub inconsistent: bool,
    /// It is an unfinished *full* sync: there is nothing of its own in it.
    pub partial: bool,
    /// The replica's boot id.
    pub boot: BootId,
    /// The host's boot id when the replica was last attached.
    pub host_boot: String,
    /// Nothing volatile was lost: the backing store was flushed before the last stop.
    pub clean: bool,
    /// It was primary, and was not demoted.
    pub was_primary: bool,
    /// The peers; the index is the bitmap's slot.
    pub peers: [Option<PeerSlot>; MAX_PEERS],
    /// When the data went on without each peer's: seconds since 1970 and the number of the epoch that led it. Zero: it
    /// has not, as far as known.
    pub parted: [(u64, u64); MAX_PEERS],
    /// The data of this generation may be overwritten, whatever the peer's is. Zero: none.
    pub yields: Generation,
}

/// Kinds of what is behind the peers.
const PARTED: u8 = 1;
const YIELDS: u8 = 2;
const OFFERED: u8 = 3;

/// The payload of a valid block does not make sense: written by something else.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the superblock's {0} makes no sense")]
pub struct BadSuperblock(pub &'static str);

impl Superblock {
    /// Puts `generation` before all others in the history, once.
    pub fn remember(&mut self, generation: Generation) {
        if generation == Generation(0) {
            return;
        }
        self.history.retain(|g| *g != generation);
        self.history.insert(0, generation);
        self.history.truncate(HISTORY);
    }

    /// Makes `next` the generation of the data; the present and the pending one become history.
    pub fn advance(&mut self, next: Generation) {
        let (old, pending) = (self.generation, self.pending);
        self.pending = Generation(0);
        if old == next {
            return;
        }
        self.remember(old);
        if pending != next {
            self.remember(pending);
        }
        self.generation = next;
        self.history.retain(|g| *g != next);
    }

    /// The payload of the superblock's block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        text(&mut out, self.volume.as_str());
        text(&mut out, self.node.as_str());
        let numbers =
            [self.size, self.epoch.number, self.epoch.term.0, self.generation.0, self.pending.0, self.boot.0];
        for number in numbers {
            out.extend(number.to_le_bytes());
        }
        let flags = [self.inconsistent, self.partial, self.clean, self.was_primary];
        out.push(flags.iter().enumerate().fold(0, |byte, (bit, set)| byte | u8::from(*set) << bit));
        text(&mut out, &self.host_boot);
        out.push(self.history.len() as u8);
        for generation in &self.history {
            out.extend(generation.0.to_le_bytes());
        }
        for peer in &self.peers {
            out.push(u8::from(peer.is_some()));
            if let Some(peer) = peer {
                text(&mut out, peer.node.as_str());
                out.extend(peer.base.0.to_le_bytes());
                out.push(u8::from(peer.tracking));
            }
        }
        if self.parted.iter().any(|p| *p != (0, 0)) {
            let numbers: Vec<u64> = self.parted.iter().flat_map(|(at, epoch)| [*at, *epoch]).collect();
            added(&mut out, PARTED, &numbers);
        }
        if self.yields != Generation(0) {
            added(&mut out, YIELDS, &[self.yields.0]);
        }
        if self.offered != self.size || self.behind {
            added(&mut out, OFFERED, &[self.offered, u64::from(self.behind)]);
        }
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`BadSuperblock`] with the field that makes no sense.
    pub fn decode(payload: &[u8]) -> Result<Self, BadSuperblock> {
        let mut r = Reader::new(payload);
        let volume =
            VolumeName::new(r.text().ok_or(BadSuperblock("volume"))?).map_err(|_| BadSuperblock("volume"))?;
        let node =
            NodeName::new(r.text().ok_or(BadSuperblock("node"))?).map_err(|_| BadSuperblock("node"))?;
        // Before anything is made that is as large as its bitmap.
        let size = r.u64().filter(|size| *size <= MAX_VOLUME_BYTES).ok_or(BadSuperblock("size"))?;
        let epoch = Epoch {
            number: r.u64().ok_or(BadSuperblock("epoch"))?,
            term: TermId(r.u64().ok_or(BadSuperblock("epoch"))?),
        };
        let generation = Generation(r.u64().ok_or(BadSuperblock("generation"))?);
        let pending = Generation(r.u64().ok_or(BadSuperblock("generation"))?);
        let boot = BootId(r.u64().ok_or(BadSuperblock("boot id"))?);
        let flags = r.u8().ok_or(BadSuperblock("flags"))?;
        let host_boot = r.text().ok_or(BadSuperblock("host boot id"))?;
        let count = usize::from(r.u8().ok_or(BadSuperblock("history"))?);
        if count > HISTORY || flags > 15 || boot == BootId(0) {
            return Err(BadSuperblock("flags, history or boot id"));
        }
        let history = (0..count)
            .map(|_| r.u64().map(Generation).ok_or(BadSuperblock("history")))
            .collect::<Result<_, _>>()?;
        let mut peers = [const { None }; MAX_PEERS];
        for slot in &mut peers {
            *slot = match r.u8().ok_or(BadSuperblock("peers"))? {
                0 => None,
                1 => Some(PeerSlot {
                    node: NodeName::new(r.text().ok_or(BadSuperblock("peers"))?)
                        .map_err(|_| BadSuperblock("peers"))?,
                    base: Generation(r.u64().ok_or(BadSuperblock("peers"))?),
                    tracking: r.u8().ok_or(BadSuperblock("peers"))? == 1,
                }),
                _ => return Err(BadSuperblock("peers")),
            };
        }
        let (mut parted, mut yields) = ([(0, 0); MAX_PEERS], Generation(0));
        let (mut offered, mut behind) = (size, false);
        while let Some(kind) = r.u8() {
            let bad = || BadSuperblock("additions");
            let length = usize::from(r.u16().ok_or_else(bad)?);
            let mut inner = Reader::new(r.take(length).ok_or_else(bad)?);
            match kind {
                PARTED => {
                    for slot in &mut parted {
                        *slot = (inner.u64().ok_or_else(bad)?, inner.u64().ok_or_else(bad)?);
                    }
                }
                YIELDS => yields = Generation(inner.u64().ok_or_else(bad)?),
                OFFERED => {
                    offered = inner.u64().filter(|o| *o <= size).ok_or(BadSuperblock("offered size"))?;
                    behind = inner.u64().filter(|b| *b <= 1).ok_or(BadSuperblock("offered size"))? == 1;
                }
                _ => {} // Of a later release; it is written again without it.
            }
        }
        let flag = |bit: u8| flags & 1 << bit != 0;
        Ok(Self {
            volume,
            node,
            size,
            offered,
            behind,
            epoch,
            generation,
            pending,
            history,
            inconsistent: flag(0),
            partial: flag(1),
            boot,
            host_boot,
            clean: flag(2),
            was_primary: flag(3),
            peers,
            parted,
            yields,
        })
    }
}

fn added(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    out.extend(((numbers.len() * 8) as u16).to_le_bytes());
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        let mut peers = [const { None }; MAX_PEERS];
        let node = NodeName::new("beta").expect("a name");
        peers[2] = Some(PeerSlot { node, base: Generation(7), tracking: true });
        let mut parted = [(0, 0); MAX_PEERS];
        parted[2] = (1_795_000_000, 4);
        Superblock {
            volume: VolumeName::new("webstore").expect("a name"),
            node: NodeName::new("alpha").expect("a name"),
            size: 1 << 30,
            offered: 1 << 30,
            behind: false,
            epoch: Epoch { number: 5, term: TermId(6) },
            generation: Generation(8),
            pending: Generation(0),
            history: vec![Generation(7)],
            inconsistent: false,
            partial: false,
            boot: BootId(9),
            host_boot: "kernel".into(),
            clean: true,
            was_primary: false,
            peers,
            parted,
            yields: Generation(8),
        }
    }

    #[test]
    fn what_was_added_survives_and_is_absent_in_what_is_older() {
        let sample = sample();
        let bytes = sample.encode();
        assert_eq!(Superblock::decode(&bytes).as_ref(), Ok(&sample));
        let plain = Superblock { parted: [(0, 0); MAX_PEERS], yields: Generation(0), ..sample.clone() };
        let older = plain.encode();
        assert_eq!(older, bytes[..older.len()], "what a release before wrote, and all it reads");
        assert_eq!(Superblock::decode(&older), Ok(plain));
        // Of a later release.
        let mut later = bytes.clone();
        later.extend([200, 2, 0, 1, 1]);
        assert_eq!(Superblock::decode(&later).as_ref(), Ok(&sample));
        for cut in older.len() + 1..bytes.len() {
            let whole = cut == older.len() + 3 + 8 * 16;
            assert_eq!(Superblock::decode(&bytes[..cut]).is_ok(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_size_that_is_offered_is_named_only_while_it_is_not_the_whole() {
        let whole = sample();
        let bytes = whole.encode();
        for (offered, behind) in [(1 << 29, false), (1 << 29, true), (1 << 30, true)] {
            let sb = Superblock { offered, behind, ..whole.clone() };
            let more = sb.encode();
            assert_eq!(Superblock::decode(&more), Ok(sb), "{offered} {behind}");
            assert_eq!(more[..bytes.len()], bytes[..], "what an older release reads");
            assert_eq!(more.len(), bytes.len() + 3 + 16);
        }
        let beyond = Superblock { offered: (1 << 30) + 4096, ..whole };
        assert_eq!(Superblock::decode(&beyond.encode()), Err(BadSuperblock("offered size")));
    }
}
