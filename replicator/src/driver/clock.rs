//! The only clock: CLOCK_BOOTTIME, which counts suspend and is the agent's too.

use crate::types::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)))
}
