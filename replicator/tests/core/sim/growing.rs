//! The volume grows in the middle of a storm: each agent configures the larger size when it gets to it, on whatever is left
//! of its replica; disks have something on them where the volume gets larger, and so have new ones.
//!
//! Judged by: whoever is promoted offers at least what any leader has offered; what nobody wrote in the new area reads as
//! zeroes, on every replica; and everything that all storms are judged by, with writes in the new area among the others.

use super::Sim;
use crate::world::name;

/// Not a multiple of an extent: the volume ends in the middle of one.
const STEP: u64 = 6 << 20;
/// How often it grows.
const TIMES: u64 = 2;

#[derive(Default)]
pub struct Growing {
    on: bool,
    begun: u64,
    target: u64,
    /// The largest device that a client has written to.
    exported: u64,
    /// Bytes that devices got larger by while a leader went on leading.
    pub online: u64,
}

impl Sim {
    /// The volume grows twice.
    pub fn with_growth(&mut self) {
        self.w.used_disks = true;
        self.growing = Growing { on: true, target: self.w.size, ..Growing::default() };
    }

    pub(super) fn grow_volumes(&mut self, faults: bool) {
        if !self.growing.on {
            return;
        }
        if self.growing.begun < TIMES && self.w.random.chance(if faults { 2 } else { 1000 }) {
            self.growing.begun += 1;
            self.growing.target += STEP;
            self.w.size = self.growing.target;
            self.note(format!("the volume is to have {} bytes", self.growing.target));
        }
        let target = self.growing.target;
        for node in self.alive() {
            let due = self.w.nodes[node].size < target && (!self.w.is_up(node) || self.w.is_attached(node));
            if due && self.w.random.chance(if faults { 15 } else { 1000 }) {
                self.w.grow(node, target).expect("a volume grows while in use");
            }
        }
    }

    /// The leader's device is written to: who leads later must offer as much.
    pub(super) fn exports(&mut self, leader: usize) -> u64 {
        let size = self.w.nodes[leader].device_size;
        if self.growing.exported != 0 {
            self.growing.online += size.saturating_sub(self.growing.exported);
        }
        self.growing.exported = self.growing.exported.max(size);
        size
    }

    pub(super) fn offers_enough(&self, node: usize) {
        let (size, least) = (self.w.nodes[node].device_size, self.growing.exported);
        let seed = self.seed;
        assert!(size >= least, "seed {seed}: {} offers {size} of {least}\n{}", name(node), self.w.describe());
    }

    /// Nothing is left to do.
    pub(super) fn grown(&self) -> bool {
        let target = self.growing.target;
        let done = |node: usize| {
            self.w.nodes[node].size == target && self.w.is_attached(node) && self.w.growth(node).is_none()
        };
        let device = |leader: usize| self.w.nodes[leader].device_size == target;
        !self.growing.on
            || self.growing.begun == TIMES
                && self.alive().into_iter().all(done)
                && self.leader.is_some_and(device)
    }
}
