//! How long a shared machine let nobody run: told by a thread that does nothing but sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A nap of the thread.
const NAP: Duration = Duration::from_millis(5);

/// The thread; it ends with the value.
pub struct Canary {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Canary {
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let begin = Instant::now();
                thread::sleep(NAP);
                longest = longest.max(begin.elapsed().saturating_sub(NAP));
            }
            longest
        });
        Self { stop, thread: Some(thread) }
    }

    /// The longest standstill since the start.
    pub fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Duration::ZERO, |thread| thread.join().expect("it only sleeps"))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
