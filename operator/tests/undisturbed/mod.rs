//! Tests whose subject is time itself: lifetimes that the kernel ends, silence that counts as a failure. On a shared machine all of
//! it stands still now and then, and then what happens next is right: an address is gone whose holder was not there to extend it.
//! So a test that failed while the machine stood still is run again, and one that failed otherwise has failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a machine may stand still during one test before that is its failure.
const TRIES: usize = 5;
/// A thread that sleeps so long
const NAP: Duration = Duration::from_millis(5);
/// and is late by more than this was kept from running.
const STOOD_STILL: Duration = Duration::from_millis(100);

/// Runs `test`; again if it panicked and a thread that does nothing but sleep was late meanwhile.
pub fn undisturbed(test: impl Fn()) {
    for n in 1..=TRIES {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let canary = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                std::thread::sleep(NAP);
                worst = worst.max(begin.elapsed().saturating_sub(NAP));
            }
            worst
        });
        let result = catch_unwind(AssertUnwindSafe(&test));
        stop.store(true, Ordering::Relaxed);
        let worst = canary.join().expect("it only sleeps");
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
