//! Tests whose subject is time itself: lifetimes that the kernel ends, silence that counts as a failure. On a shared machine all of
//! it stands still now and then, and then what happens next is right: an address is gone whose holder was not there to extend it.
//! So a test that failed while the machine stood still is run again, and one that failed otherwise has failed.

#[path = "../../../replicator/tests/standstill/mod.rs"]
mod standstill;

use standstill::Canary;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// How often a machine may stand still during one test before that is its failure.
const TRIES: usize = 5;
/// A thread that is late by more than this was kept from running.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// Runs `test`; again if it panicked and the machine stood still meanwhile.
pub fn undisturbed(test: impl Fn()) {
    for n in 1..=TRIES {
        let canary = Canary::start();
        let result = catch_unwind(AssertUnwindSafe(&test));
        let worst = canary.end();
        match result {
            Ok(()) => return,
            Err(_) if worst > STOOD_STILL && n < TRIES => {
                println!("run {n} failed, and the machine stood still for {worst:?}: once more");
            }
            Err(panic) => {
                println!("the longest standstill was {worst:?}");
                resume_unwind(panic);
            }
        }
    }
}

/// The same of a test in network namespaces, which need root. Without it that is said where it cannot be overlooked.
pub fn undisturbed_as_root(test: impl Fn()) {
    if rustix::process::geteuid().is_root() {
        undisturbed(test);
    } else {
        eprintln!("SKIPPED, NOTHING TESTED: network namespaces need root");
    }
}
