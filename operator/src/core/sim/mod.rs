//! Deterministic simulation of the whole decision core: real `Unit`s and `HeartbeatCore`s on modelled hosts,
//! network, etcd, replicators and container engines, all driven by one seed.
//!
//! * [`etcd`]: linearizable, with leases, late and lost requests, and restores.
//! * [`replica`]: volumes with required sets, boot ids, volatile and durable writes.
//! * [`unit`]: the cores of one group on one node put together as the driver does it.
//! * [`world`]: hosts with drifting clocks, lossy links; [`step`]: time. [`judge`]: the invariants, checked after every
//!   step. [`faults`]: what can be done to it. [`data`]: writes and resyncs in miniature.
//! * [`fence`]: power switches.
//! * [`scenarios`]: what operators see; [`traps`]: each with and without its rule.
//! * [`many`]: many groups at once, and those that go together or keep apart.
//! * [`seeds`]: a campaign of random faults, then healing. [`storm`]: which faults a seed has; [`sights`]: what a campaign
//!   must have seen; [`mutants`]: rules left out or bent, which random faults must notice.

mod data;
mod etcd;
pub(in crate::core) mod exhaustive;
mod faults;
mod fence;
mod flights;
mod judge;
mod many;
mod mutants;
mod replica;
mod scenarios;
mod seeds;
mod sights;
mod step;
mod storm;
mod traps;
mod unit;
mod world;
mod writes;

/// A small generator (xorshift64*): the same numbers for the same seed, everywhere.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 16) % n
    }

    pub(super) fn chance(&mut self, per_cent: u64) -> bool {
        self.below(100) < per_cent
    }
}
