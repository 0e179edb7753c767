//! Known bugs, seeded at the engine's edge: what goes in or comes out is changed as the bug would change it. The judge of
//! the simulation must find each of them soon; a judge that finds nothing proves nothing.

use crate::sim::{SIZE, Sim};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is wrong with every node of a [`World`](crate::world::World).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A write counts as done by a peer when it is sent.
    AcknowledgedEarly,
    /// A write counts as done by a peer when the peer's process has it in memory: DRBD's protocol B.
    AcknowledgedOnReceipt,
    /// A question for digests comes [`WRITES_LATE`] writes late: as if the range were not locked until it is asked.
    AskedLate,
    /// A copied block counts as there when it is sent: its bit is cleared before the confirmation.
    CleanedEarly,
    /// A flush is answered and not done.
    FlushForgotten,
    /// The tail that was not flushed is forgotten: a power cut takes what the log should have named.
    LogForgotten,
    /// Metadata is called durable [`LATE`] transactions early.
    MetadataEarly,
    /// A required peer that does not answer is dropped without the agent's word.
    PeerDropped,
}

/// How many transactions.
pub const LATE: usize = 4;
/// How many writes overtake a question.
pub const WRITES_LATE: u32 = 2;
/// In how many seeds a bug may hide.
const SEEDS: u64 = 600;

/// What the judge says when data is lost, differs, is acknowledged by who must not, or cannot be served by who has it.
const JUDGED: [&str; 7] = [
    "acknowledged",
    "differs",
    "a false alarm",
    "joins the set, but",
    "a verify finds",
    "not mended",
    "promotion refused",
];

/// Runs seeds until the judge complains.
fn judged(bug: Bug) {
    for seed in 1..=SEEDS {
        let mut sim = Sim::new(2, SIZE, seed);
        sim.with_bug(bug);
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| sim.run(4000))) else { continue };
        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        let first = what.lines().next().unwrap_or_default();
        println!("{bug:?}: seed {seed}: {first}");
        if JUDGED.iter().any(|words| first.contains(words)) {
            return;
        }
    }
    panic!("{bug:?} hid in {SEEDS} seeds");
}

#[test]
fn an_acknowledgement_before_the_peer_has_it_is_found() {
    judged(Bug::AcknowledgedEarly);
}

/// Decision 0016: why protocol B is served as C.
#[test]
fn an_acknowledgement_on_receipt_is_found() {
    judged(Bug::AcknowledgedOnReceipt);
}

#[test]
fn a_bit_cleared_before_the_confirmation_is_found() {
    judged(Bug::CleanedEarly);
}

#[test]
fn a_forgotten_flush_is_found() {
    judged(Bug::FlushForgotten);
}

#[test]
fn a_forgotten_tail_is_found() {
    judged(Bug::LogForgotten);
}

#[test]
fn metadata_that_is_not_durable_yet_is_found() {
    judged(Bug::MetadataEarly);
}

#[test]
fn a_peer_dropped_without_permission_is_found() {
    judged(Bug::PeerDropped);
}
