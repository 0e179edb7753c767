//! The clock of every deadline: CLOCK_BOOTTIME, which counts suspend and is the same in all containers of a host.

use baton_replicator::types::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on this host's CLOCK_BOOTTIME.
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    // The clock starts at zero with the kernel; it is never negative.
    Instant(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn advances_like_time_does() {
        let (a, wall) = (super::now(), std::time::Instant::now());
        while wall.elapsed() < Duration::from_millis(5) {
            std::thread::yield_now();
        }
        let passed = super::now().since(a);
        assert!(passed >= Duration::from_millis(5) && passed < Duration::from_secs(5), "{passed:?}");
    }
}
