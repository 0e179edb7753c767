//! CLOCK_BOOTTIME: the only clock anything is decided on. It counts suspend and never steps.

use crate::types::Instant;
use rustix::time::{ClockId, clock_gettime};

/// This host's CLOCK_BOOTTIME.
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    // Both fields are non-negative on this clock, and nanoseconds since boot fit for 584 years.
    Instant(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_goes_forward() {
        let a = super::now();
        let b = super::now();
        assert!(a <= b && a.0 > 0);
    }
}
