//! Blocks straight on the device, and what they may hold after a power cut on either replica.
//!
//! The oracle: each block has the history of its values; a flush that was confirmed commits the newest value that was
//! confirmed before that flush was asked for. After a cut, a block holds that value or one asked for later. Anything else
//! is corruption (what Oxide's Crucible calls the committed minimum).

use crate::cut::Cuts;
use crate::log::{Log, Tick};
use baton_replicator::store::{AlignedBuf, BLOCK};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Each writes to its own part of the device, all flush for all.
const WRITERS: u64 = 3;
/// Blocks per request at most: 128 KiB.
const LONGEST: u64 = 32;
/// What a discarded block holds, and one that was never written.
const ZERO: u64 = 0;

/// A value that a block was given.
#[derive(Clone, Copy)]
struct Change {
    begin: Tick,
    end: Tick,
    value: u64,
}

/// What was asked of the device.
pub struct History {
    /// By block.
    changes: Vec<Vec<Change>>,
    /// Asked for, confirmed.
    flushes: Vec<(Tick, Tick)>,
}

fn fill(block: u64, value: u64, bytes: &mut [u8]) {
    for pair in bytes.chunks_exact_mut(16) {
        let (at, what) = if value == ZERO { (0, 0) } else { (block, value) };
        pair[..8].copy_from_slice(&at.to_le_bytes());
        pair[8..].copy_from_slice(&what.to_le_bytes());
    }
}

/// What a block holds, if all of it is one value of this block.
fn value_of(block: u64, bytes: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let mut expected = [0; 16];
    fill(block, value, &mut expected);
    (bytes[..16] == expected && bytes[16..] == bytes[..bytes.len() - 16]).then_some(value)
}

/// Writes, discards and flushes until told to stop, with every request noted.
pub fn write(device: &Path, blocks: u64, seed: u64, log: &Log, stop: &AtomicBool) -> History {
    let mut history = History { changes: vec![Vec::new(); blocks as usize], flushes: Vec::new() };
    let part = blocks / WRITERS;
    let parts = thread::scope(|scope| {
        let spawn =
            |n| scope.spawn(move || write_part(device, n * part..(n + 1) * part, seed + n, log, stop));
        let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
        writers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>()
    });
    for (changes, flushes) in parts {
        for (block, change) in changes {
            history.changes[block as usize].push(change);
        }
        history.flushes.extend(flushes);
    }
    history
}

type Part = (Vec<(u64, Change)>, Vec<(Tick, Tick)>);

fn write_part(device: &Path, part: std::ops::Range<u64>, seed: u64, log: &Log, stop: &AtomicBool) -> Part {
    let mut random = StdRng::seed_from_u64(seed);
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(device).unwrap();
    let (mut changes, mut flushes) = (Vec::new(), Vec::new());
    for value in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let what = random.random_range(0..100);
        if what < 15 {
            let begin = log.tick();
            file.sync_data().expect("no I/O error");
            flushes.push((begin, log.tick()));
            continue;
        }
        let len = if random.random() { 1 } else { random.random_range(1..=LONGEST) };
        let first = random.random_range(part.start..=part.end - len);
        let value = if what < 20 { ZERO } else { value };
        let begin = log.tick();
        if value == ZERO {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, how, first * BLOCK, len * BLOCK).expect("no I/O error");
        } else {
            let mut bytes = AlignedBuf::zeroed((len * BLOCK) as usize);
            for (block, piece) in (first..).zip(bytes.chunks_exact_mut(BLOCK as usize)) {
                fill(block, value, piece);
            }
            file.write_all_at(&bytes, first * BLOCK).expect("no I/O error");
        }
        let end = log.tick();
        changes.extend((first..first + len).map(|block| (block, Change { begin, end, value })));
    }
    (changes, flushes)
}

impl History {
    /// The committed minimum and everything later, at a cut.
    fn legal(&self, block: usize, committed: Tick, cut: Tick) -> Vec<u64> {
        let changes = &self.changes[block];
        let lowest = changes.iter().rposition(|c| c.end < committed);
        let later = changes.iter().skip(lowest.unwrap_or(0)).filter(|c| c.begin < cut).map(|c| c.value);
        later.chain(lowest.is_none().then_some(ZERO)).collect()
    }

    /// Whether an image is what the device may hold after a cut.
    pub fn check(&self, image: &[u8], cut: Tick) -> Result<(), String> {
        let committed = self.flushes.iter().filter(|f| f.1 < cut).map(|f| f.0).max().unwrap_or(0);
        for (block, bytes) in image.chunks_exact(BLOCK as usize).enumerate() {
            let legal = self.legal(block, committed, cut);
            match value_of(block as u64, bytes) {
                Some(value) if legal.contains(&value) => {}
                found => {
                    return Err(format!("block {block} holds {found:?}, legal are {legal:?} (cut at {cut})"));
                }
            }
        }
        Ok(())
    }

    /// Cuts a disk at `count` random moments, half of them just after a flush was confirmed. The first that left something
    /// illegal is the error.
    pub fn cut(&self, mut cuts: Cuts, last: Tick, count: u64, seed: u64) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let confirmed: Vec<Tick> = self.flushes.iter().map(|f| f.1).collect();
        let moments = cuts.moments(&confirmed);
        let at = |n| match moments.choose(&mut random) {
            Some(tick) if n % 2 == 0 => *tick,
            _ => random.random_range(1..=last),
        };
        let mut ticks: Vec<Tick> = (1..count).map(at).chain([last]).collect();
        ticks.sort_unstable();
        ticks.into_iter().try_for_each(|tick| self.check(&cuts.at(tick, &mut random), tick))
    }
}
