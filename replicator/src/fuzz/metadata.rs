//! A metadata file that is damaged, or written by something else: it is opened or refused, at once and within bounds, and
//! what was opened can be written and opened again.

use super::bytes::Choices;
use crate::api::{Backing, PeerConfig, VolumeConfig};
use crate::core::engine::{LOG_IDLE, Setup, VERIFY_CHUNK};
use crate::core::meta::{ActivityLog, MAX_VOLUME_BYTES, Superblock, image};
use crate::core::split_brain::AfterSplitBrain;
use crate::types::{GroupName, Instant, NodeName, Protocol, Transport, VolumeName};
use std::collections::BTreeMap;
use std::sync::OnceLock;

const SIZE: u64 = 64 << 20;
const BLOCK: usize = 4096;

/// A replica on alpha with two peers.
pub(super) fn setup(size_bytes: u64, seed: u64) -> Setup {
    let node = |name: &str| NodeName::new(name).expect("a name");
    let peer = |name| PeerConfig {
        node: node(name),
        address: "127.0.0.1:1".parse().expect("an address"),
        alternatives: Vec::new(),
    };
    let config = VolumeConfig {
        volume: VolumeName::new("vol").expect("a name"),
        group: GroupName::new("web").expect("a name"),
        size_bytes,
        backing: Backing::File("/x".into()),
        metadata: "/x".into(),
        peers: vec![peer("beta"), peer("gamma")],
        protocol: Protocol::C,
        protocols: BTreeMap::new(),
        after_split_brain: AfterSplitBrain::default(),
        transport: Transport::Tls,
        peer_timeout_ms: 500,
        resync_rate: 0,
        resync_min_rate: 1 << 40,
        target_latency_us: 0,
        disk_timeout_ms: 30_000,
        front_end: Default::default(),
    };
    Setup {
        node: node("alpha"),
        config,
        host_boot: "boot".into(),
        seed,
        log_idle: LOG_IDLE,
        verify_chunk: VERIFY_CHUNK,
        held: false,
    }
}

/// A new replica's metadata file.
pub(super) fn file(setup: &Setup) -> Vec<u8> {
    let (len, writes) = setup.create().expect("creates");
    let mut file = vec![0; usize::try_from(len).expect("a small volume")];
    writes.iter().for_each(|(at, bytes)| put(&mut file, *at, bytes));
    file
}

pub(super) fn put(file: &mut [u8], at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).expect("a small file");
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The block's checksum is made right, so that what stands in it is looked at.
fn seal(block: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block[..28]), &block[32..]);
    block[28..32].copy_from_slice(&crc.to_le_bytes());
}

/// Runs it.
pub fn run(data: &[u8]) {
    static NEW: OnceLock<Vec<u8>> = OnceLock::new();
    let mut c = Choices::new(data);
    match c.below(4) {
        0 => records(c.rest()),
        1 => open(c.rest()),
        _ => {
            let mut file = NEW.get_or_init(|| file(&setup(SIZE, 1))).clone();
            while !c.is_done() {
                let block = usize::from(c.below((file.len() / BLOCK).min(255) as u8)) * BLOCK;
                let at = usize::from(c.short()) % BLOCK;
                let len = usize::from(c.below(16)).min(BLOCK - at);
                let bytes = c.take(len);
                file[block + at..block + at + bytes.len()].copy_from_slice(bytes);
                match c.below(8) {
                    0 => {} // Damage, and no more.
                    1 => {
                        let keep = block + at;
                        file.truncate(keep.max(BLOCK));
                        break;
                    }
                    _ => seal(&mut file[block..block + BLOCK]),
                }
            }
            open(&file);
        }
    }
}

fn records(payload: &[u8]) {
    if let Some(extents) = ActivityLog::decode(payload) {
        assert_eq!(ActivityLog::from_disk(&extents, 0).len(), extents.len(), "an extent stands twice");
        assert_eq!(ActivityLog::from_disk(&extents, 0).encode(), payload);
    }
    if let Ok(superblock) = Superblock::decode(payload) {
        assert_eq!(Superblock::decode(&superblock.encode()).as_ref(), Ok(&superblock));
    }
}

fn open(file: &[u8]) {
    let Ok(loaded) = image::load(file) else { return };
    assert!(loaded.superblock.size <= MAX_VOLUME_BYTES, "memory for {} bytes", loaded.superblock.size);
    for (_, bitmap) in &loaded.bitmaps {
        assert!(bitmap.dirty_bytes() <= loaded.superblock.size.next_multiple_of(BLOCK as u64));
    }
    // Its own bitmap would be read in full: not for each of a million inputs.
    if loaded.superblock.size == SIZE
        && let Ok((engine, _)) = setup(SIZE, 2).attach(file, Instant(1))
    {
        assert_eq!(engine.status().size_bytes, SIZE);
    }
}
