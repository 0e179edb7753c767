//! How often somebody may fail to prove who they are.
//!
//! Each source address (IPv6: its /64) may fail `BURST` times, and once more every `REFILL`. Beyond, it is answered
//! 429 without being recorded, so that nobody can fill the log or the history. Who proves who they are is let in at any
//! time: tokens cannot be guessed, so there is nothing to slow down, and a stranger behind the same address must not be
//! able to lock an operator out.

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

/// Failures that a mistyped token in somebody's script makes before it is noticed.
const BURST: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// One more failure is answered after this.
const REFILL: Duration = Duration::from_secs(6);
/// Sources remembered, some 100 KiB. While more than this fail at once, further ones count as having failed too often.
const SOURCES: usize = 4096;

/// Failures by source.
#[derive(Debug)]
pub struct Failures {
    of: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

impl Default for Failures {
    fn default() -> Self {
        let quota = Quota::with_period(REFILL).unwrap_or(Quota::per_minute(BURST)).allow_burst(BURST);
        Self { of: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }
}

impl Failures {
    /// Notes a failure.
    ///
    /// # Errors
    /// It was one too many: how long until the next one is answered.
    pub fn failed(&self, from: IpAddr) -> Result<(), Duration> {
        if self.of.len() >= SOURCES {
            self.of.retain_recent();
            if self.of.len() >= SOURCES {
                return Err(REFILL);
            }
        }
        self.of.check_key(&source(from)).map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// A host may choose any address of its /64.
fn source(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(v6) => {
            let s = v6.segments();
            Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_answered_and_then_told_how_long_to_wait() {
        let failures = Failures::default();
        for _ in 0..BURST.get() {
            assert_eq!(failures.failed(ip("10.0.0.1")), Ok(()));
        }
        let wait = failures.failed(ip("10.0.0.1")).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= REFILL, "{wait:?}");
        assert_eq!(failures.failed(ip("10.0.0.2")), Ok(()), "others are others");
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_memory_is_bounded() {
        let failures = Failures::default();
        for n in 0..BURST.get() {
            assert_eq!(failures.failed(ip(&format!("2001:db8::{n:x}"))), Ok(()));
        }
        assert!(failures.failed(ip("2001:db8::ffff")).is_err());
        assert_eq!(failures.failed(ip("2001:db8:0:1::1")), Ok(()));
        for n in 0..3 * SOURCES as u32 {
            let _ = failures.failed(IpAddr::V4((n + 0x0a00_0000).into()));
        }
        assert!(failures.of.len() <= SOURCES, "{}", failures.of.len());
    }
}
