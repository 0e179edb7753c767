//! CLOCK_BOOTTIME: the only clock anything is decided on. It counts suspend and never steps. And the wall clock, for people.

use crate::types::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

/// This host's CLOCK_BOOTTIME.
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    // Both fields are non-negative on this clock, and nanoseconds since boot fit for 584 years.
    Instant(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}

/// The wall clock, seconds since 1970: for people, and for the names of files.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
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
