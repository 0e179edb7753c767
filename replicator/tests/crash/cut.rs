//! What a disk may hold after its power was cut: images made from a write log.
//!
//! The rules are those of a disk with a volatile cache, the weakest that DESIGN.md section 6 allows below a replica:
//!
//! 1. A flush that was answered before the cut made durable every request that had been *answered* before that flush
//!    *arrived*. Those are on the image, in the order in which they were carried out.
//! 2. Any other request that had arrived may be on it, not at all or in part. Nothing is promised about the order: a later one
//!    may be there and an earlier one not. That includes what was in flight when a flush arrived, and what was
//!    never answered.
//! 3. The unit that is never torn is the device's logical block, 4096 bytes ([`BLOCK`]); a discard is torn like a write.
//! 4. Nothing else is on the image.
//!
//! `BATON_CRASH_TEAR=512` breaks rule 3 as disks with smaller sectors would.

use crate::disk::apply;
use crate::log::{Log, Recorded, Tick};
use baton_replicator::frontend::Op;
use baton_replicator::store::BLOCK;
use rand::Rng;
use rand::rngs::StdRng;

/// Makes the images of one disk, at cuts that go forward in time.
pub struct Cuts {
    /// In the order in which they were carried out.
    ops: Vec<Recorded>,
    /// What is durable for certain: the first `done` of `ops`.
    base: Vec<u8>,
    done: usize,
    tear: usize,
}

/// How much of what is not durable got lost.
#[derive(Clone, Copy, Debug)]
enum Luck {
    /// All was written.
    Good,
    /// Nothing was.
    Bad,
    /// Each request with this probability; one in four of those only in part.
    Mixed(f64),
}

impl Cuts {
    pub fn new(log: &Log, disk: usize, size_bytes: u64) -> Self {
        Self::of(log.of(disk), size_bytes)
    }

    /// Of requests in the order in which they were carried out.
    pub fn of(ops: Vec<Recorded>, size_bytes: u64) -> Self {
        let tear = std::env::var("BATON_CRASH_TEAR").map_or(BLOCK as usize, |t| t.parse().unwrap());
        Self { ops, base: vec![0; size_bytes as usize], done: 0, tear }
    }

    /// Moments just after something was confirmed to be durable; those at which this disk was busy with a flush, if there are
    /// such: whoever confirms too early does it then.
    pub fn moments(&self, confirmed: &[Tick]) -> Vec<Tick> {
        let after: Vec<Tick> = confirmed.iter().map(|tick| tick + 1).collect();
        let busy = |tick: Tick| {
            let under_way = |r: &Recorded| r.begin < tick && r.end.is_none_or(|end| end >= tick);
            self.ops.iter().any(|r| r.op == Op::Flush && under_way(r))
        };
        let risky: Vec<Tick> = after.iter().copied().filter(|tick| busy(*tick)).collect();
        if risky.is_empty() { after } else { risky }
    }

    /// What the disk may hold after a cut at `tick`.
    pub fn at(&mut self, tick: Tick, random: &mut StdRng) -> Vec<u8> {
        let flushes = self.ops.iter().filter(|r| r.op == Op::Flush && r.end.is_some_and(|end| end < tick));
        let durable = flushes.map(|r| r.begin).max().unwrap_or(0);
        while let Some(next) = self.ops.get(self.done).filter(|r| r.end.is_some_and(|end| end < durable)) {
            apply(&mut self.base, &next.op);
            self.done += 1;
        }
        let mut image = self.base.clone();
        let luck = match random.random_range(0..6) {
            0 => Luck::Good,
            1 => Luck::Bad,
            2 => Luck::Mixed(0.1),
            3 => Luck::Mixed(0.9),
            _ => Luck::Mixed(0.5),
        };
        for lost in self.ops[self.done..].iter().filter(|r| r.begin < tick) {
            let answered = lost.end.is_some_and(|end| end < tick);
            match luck {
                Luck::Good if answered => apply(&mut image, &lost.op),
                Luck::Good | Luck::Bad => {}
                Luck::Mixed(share) => {
                    if !random.random_bool(share) {
                        continue;
                    }
                    if random.random_ratio(3, 4) {
                        apply(&mut image, &lost.op);
                    } else {
                        torn(&mut image, &lost.op, self.tear, random);
                    }
                }
            }
        }
        image
    }
}

/// Carries out some of a request's units.
fn torn(image: &mut [u8], op: &Op, unit: usize, random: &mut StdRng) {
    let (offset, len) = match op {
        Op::Write { offset, data } => (*offset as usize, data.len()),
        Op::Discard { offset, len } | Op::WriteZeroes { offset, len } => (*offset as usize, *len as usize),
        Op::Read { .. } | Op::Flush => return,
    };
    for at in (0..len).step_by(unit) {
        if random.random() {
            let target = &mut image[offset + at..][..unit];
            match op {
                Op::Write { data, .. } => target.copy_from_slice(&data[at..][..unit]),
                _ => target.fill(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn write(block: u64, value: u8, begin: Tick, end: Option<Tick>) -> Recorded {
        let op = Op::Write { offset: block * BLOCK, data: vec![value; BLOCK as usize].into() };
        Recorded { disk: 0, op, begin, end }
    }

    fn flush(begin: Tick, end: Tick) -> Recorded {
        Recorded { disk: 0, op: Op::Flush, begin, end: Some(end) }
    }

    /// Which values each of two blocks can have.
    fn possible(ops: &[Recorded], tick: Tick) -> [Vec<u8>; 2] {
        let mut found = [Vec::new(), Vec::new()];
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let image = Cuts::of(ops.to_vec(), 2 * BLOCK).at(tick, &mut random);
            for (block, values) in found.iter_mut().enumerate() {
                values.push(image[block * BLOCK as usize]);
            }
        }
        found.map(|mut values| {
            values.sort_unstable();
            values.dedup();
            values
        })
    }

    #[test]
    fn an_image_holds_what_was_flushed_and_any_part_of_the_rest() {
        let ops = [
            write(0, 1, 1, Some(2)),
            // In flight when the flush arrives: not covered.
            write(1, 2, 3, Some(5)),
            flush(4, 6),
            write(0, 3, 7, Some(8)),
            write(1, 4, 9, None),
        ];
        assert_eq!(possible(&ops, 3), [vec![0, 1], vec![0]], "not flushed, not arrived");
        assert_eq!(possible(&ops, 6), [vec![0, 1], vec![0, 2]], "the flush is not answered yet");
        assert_eq!(possible(&ops, 7), [vec![1], vec![0, 2]], "flushed; in flight when the flush arrived");
        assert_eq!(possible(&ops, 99), [vec![1, 3], vec![0, 2, 4]], "what was never answered may be there");
    }
}
