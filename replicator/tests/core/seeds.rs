//! Ranges of seeds for the simulation: the usual ones, or those of `make simulate`.

use crate::sim::{SIZE, SMALL, Sim, Sums};
use std::num::NonZero;
use std::ops::{AddAssign, Range};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is simulated.
#[derive(Clone, Copy)]
struct Storm {
    nodes: usize,
    steps: u64,
    /// Hosts leave for good and new ones come.
    replace: bool,
    /// The last of them is reached by protocol A.
    asynchronous: bool,
    /// The volume grows.
    grow: bool,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.acks += other.acks;
        self.takeovers += other.takeovers;
        self.compared += other.compared;
        self.pauses += other.pauses;
        self.spared += other.spared;
        self.replaced += other.replaced;
        self.resumed += other.resumed;
        self.diskless += other.diskless;
        self.diskless_acks += other.diskless_acks;
        self.grown += other.grown;
    }
}

/// Says how to run a seed again when it ends by a panic.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        eprintln!("seed {} failed; again: make simulate SEEDS={}..{}", self.0, self.0, self.0 + 1);
    }
}

impl Storm {
    fn one(self, seed: u64) -> Sums {
        let told = Replay(seed);
        let small = self.replace || self.asynchronous || self.grow;
        let mut sim = Sim::new(self.nodes, if small { SMALL } else { SIZE }, seed);
        if self.replace {
            sim.with_replacements();
        }
        if self.asynchronous {
            sim.with_asynchronous();
        }
        if self.grow {
            sim.with_growth();
        }
        let sums = sim.run(self.steps);
        std::mem::forget(told);
        sums
    }

    /// Runs the seeds on every core.
    fn run(self, seeds: &Range<u64>) -> Sums {
        let next = AtomicU64::new(seeds.start);
        let work = || {
            let mut sums = Sums::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return sums;
                }
                sums += self.one(seed);
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut all = Sums::default();
        std::thread::scope(|scope| {
            for thread in (0..cores).map(|_| scope.spawn(work)).collect::<Vec<_>>() {
                all += thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        all
    }
}

/// `BATON_SIM_SEEDS=FROM..TO`, or the usual ones.
fn wanted(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("BATON_SIM_SEEDS") else { return usual };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("BATON_SIM_SEEDS is FROM..TO, not '{text}'"))
}

/// Few seeds say nothing about the average.
const ENOUGH: u64 = 16;

fn judged(storm: Storm, usual: Range<u64>, enough: impl FnOnce(&Sums, u64) -> bool) {
    let seeds = wanted(usual);
    let count = seeds.end - seeds.start;
    let sums = storm.run(&seeds);
    println!("{count} seeds of {} replicas: {sums:?}", storm.nodes);
    // The storm must not be so strong that nothing is tested.
    assert!(count < ENOUGH || enough(&sums, count), "{sums:?} in {count} storms");
}

/// Enough of everything happened to judge by.
fn busy(sums: &Sums, count: u64) -> bool {
    sums.acks > count * 20
        && sums.takeovers > count
        && sums.compared > count * SIZE / 32
        && sums.resumed > count / 8
        && sums.diskless > count / 25
        && sums.diskless_acks > count / 4
        && sums.pauses > count / 8
        && sums.spared > count * SIZE / 64
}

// Together 21,300 seeds: 200 s of processor time, those of the mutants included.

#[test]
fn sim_two_replicas() {
    judged(
        Storm { nodes: 2, steps: 2000, replace: false, asynchronous: false, grow: false },
        1..16_001,
        busy,
    );
}

#[test]
fn sim_three_replicas() {
    judged(
        Storm { nodes: 3, steps: 2500, replace: false, asynchronous: false, grow: false },
        100_001..103_601,
        busy,
    );
}

#[test]
fn sim_one_reached_by_a() {
    let storm = Storm { nodes: 3, steps: 4000, replace: false, asynchronous: true, grow: false };
    judged(storm, 300_001..300_101, |sums, count| sums.acks > count * 20 && sums.takeovers > count);
}

#[test]
fn sim_hosts_replaced() {
    judged(
        Storm { nodes: 2, steps: 12_000, replace: true, asynchronous: false, grow: false },
        200_001..200_401,
        |sums, count| sums.acks > count * 20 && sums.takeovers > count && sums.replaced > count,
    );
}

#[test]
fn sim_growing() {
    let grown = |sums: &Sums, count: u64| {
        sums.acks > count * 20 && sums.takeovers > count && sums.grown > count * (2 << 20)
    };
    let storm = Storm { nodes: 2, steps: 2500, replace: false, asynchronous: false, grow: true };
    judged(storm, 400_001..400_701, grown);
    judged(Storm { nodes: 3, ..storm }, 500_001..500_501, grown);
}
