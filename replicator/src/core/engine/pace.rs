//! How fast resync and verify may go: as fast as they can while the application is quiet, and while it is not, no
//! faster than keeps its latency at a target.
//!
//! A window of 100 ms is judged at a time: if the application's reads and writes took longer than the target on
//! average, the rate falls by 30 %; if they took clearly less, it rises by a quarter. It is never made lower than the
//! floor (else a busy database would never get its redundancy back) and never higher than the configured most.
//! Without a configured target it is twice what the same volume needs when nothing runs in the background.
//!
//! What it does not see: other volumes and other programs on the same disk, except by the latency they cause.

use crate::types::Instant;
use std::time::Duration;

/// Length of a judgement: several requests of a busy database, short against what a person notices.
const WINDOW: Duration = Duration::from_millis(100);
/// The target before anything was ever measured: a disk with a write cache is faster, a bare one not much slower.
const UNKNOWN_TARGET: Duration = Duration::from_millis(5);
/// No target below this: the latency of a fast disk is noise.
const LEAST_TARGET: Duration = Duration::from_millis(1);
/// A request that took longer was frozen rather than slowed down: it says nothing about the disk, and no more than this
/// about the rate.
const STALL: Duration = Duration::from_millis(500);
/// How much may be saved up: two ticks of the owner loop.
const BURST: Duration = Duration::from_millis(100);

/// What is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Bytes per second, 0 = unbounded.
    pub most: u64,
    /// Bytes per second that are always allowed.
    pub least: u64,
    /// None: twice the quiet latency.
    pub target: Option<Duration>,
}

/// The controller of one volume: resync and verify load the same disk.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Bytes per second; none: as fast as it goes.
    rate: Option<u64>,
    allowance: u64,
    refilled: Instant,
    window: Instant,
    requests: u32,
    waited: Duration,
    granted: u64,
    /// Smoothed latency while nothing ran in the background, microseconds; 0: unknown.
    quiet_us: u64,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            rate: None,
            allowance: 0,
            refilled: now,
            window: now,
            requests: 0,
            waited: Duration::ZERO,
            granted: 0,
            quiet_us: 0,
        }
    }

    /// A request of the application was answered after `took`.
    pub fn observe(&mut self, took: Duration, background: bool) {
        if background {
            self.requests += 1;
            self.waited += took.min(STALL);
        } else if took <= STALL {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
            self.quiet_us = if self.quiet_us == 0 { us } else { (self.quiet_us * 63 + us) / 64 };
        }
    }

    /// The latency that is held.
    pub fn target(&self, limits: &Limits) -> Duration {
        let quiet = Duration::from_micros(self.quiet_us * 2);
        limits.target.unwrap_or(if self.quiet_us == 0 { UNKNOWN_TARGET } else { quiet.max(LEAST_TARGET) })
    }

    /// Whether `bytes` may be read now.
    pub fn grant(&mut self, now: Instant, limits: &Limits, bytes: u64) -> bool {
        self.judge(now, limits);
        let rate = match (self.rate, limits.most) {
            (Some(rate), _) => rate,
            (None, 0) => {
                self.granted += bytes;
                return true;
            }
            (None, most) => most,
        };
        let earned = u128::from(rate) * now.since(self.refilled).as_micros() / 1_000_000;
        if let Ok(earned @ 1..) = u64::try_from(earned) {
            let most = u64::try_from(u128::from(rate) * BURST.as_micros() / 1_000_000).unwrap_or(u64::MAX);
            self.allowance = self.allowance.saturating_add(earned).min(most.max(bytes));
            self.refilled = now;
        }
        let granted = self.allowance >= bytes;
        if granted {
            self.allowance -= bytes;
            self.granted += bytes;
        }
        granted
    }

    fn judge(&mut self, now: Instant, limits: &Limits) {
        let span = now.since(self.window);
        if span < WINDOW {
            return;
        }
        let (requests, waited, granted) = (self.requests, self.waited, self.granted);
        (self.requests, self.waited, self.granted, self.window) = (0, Duration::ZERO, 0, now);
        if span > WINDOW * 10 || requests == 0 {
            // Nothing ran here, or the application asks for nothing: nobody to yield to.
            self.rate = None;
            return;
        }
        let speed = u64::try_from(u128::from(granted) * 1_000_000 / span.as_micros()).unwrap_or(u64::MAX);
        let (mean, target) = (waited / requests, self.target(limits));
        let bounded = |rate: u64| {
            let most = if limits.most == 0 { u64::MAX } else { limits.most };
            rate.max(limits.least).min(most)
        };
        if mean > target {
            let from = self.rate.unwrap_or(speed).min(speed.max(limits.least));
            self.rate = Some(bounded(from / 10 * 7));
        } else if mean < target.mul_f64(0.8)
            && let Some(rate) = self.rate
        {
            self.rate = Some(bounded(rate.saturating_add(rate / 4).saturating_add(64 << 10)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk whose latency grows with what is read in the background. Returns (bytes per second, mean latency)
    /// over the last five of ten seconds.
    fn run(limits: Limits, quiet_us: u64, us_per_mib_s: u64, busy: bool) -> (u64, Duration) {
        let mut pace = Pace::new(Instant::ZERO);
        (0..200).for_each(|_| pace.observe(Duration::from_micros(quiet_us), false));
        let (mut now, mut read, mut waited, mut requests) = (Instant::ZERO, 0u64, Duration::ZERO, 0u32);
        let mut last = std::collections::VecDeque::new();
        for step in 0..10_000 {
            now = now.plus(Duration::from_millis(1));
            let mut here = 0;
            // 400 MiB/s at most, in copies of 128 KiB.
            while here < 4 * (128 << 10) && pace.grant(now, &limits, 128 << 10) {
                here += 128 << 10;
            }
            last.push_back(here);
            if last.len() > 50 {
                last.pop_front();
            }
            let speed = last.iter().sum::<u64>() * 20 / MIB;
            let took = Duration::from_micros(quiet_us + us_per_mib_s * speed);
            if busy && step % 2 == 0 {
                pace.observe(took, true);
                if step > 5000 {
                    (waited, requests) = (waited + took, requests + 1);
                }
            }
            read += if step > 5000 { here } else { 0 };
        }
        (read / 5, waited / requests.max(1))
    }

    const AUTO: Limits = Limits { most: 0, least: MIB, target: None };

    #[test]
    fn alone_it_goes_as_fast_as_it_can_and_never_faster_than_the_most() {
        assert!(run(AUTO, 800, 10, false).0 > 390 * MIB);
        let (speed, _) = run(Limits { most: 50 * MIB, ..AUTO }, 800, 10, false);
        assert!((48 * MIB..=51 * MIB).contains(&speed), "{speed}");
    }

    #[test]
    fn beside_an_application_its_latency_at_most_doubles() {
        // At 160 MiB/s the latency would have doubled.
        let (speed, latency) = run(AUTO, 800, 5, true);
        assert!(latency < Duration::from_micros(1760), "{latency:?}");
        assert!((80 * MIB..200 * MIB).contains(&speed), "and it uses what there is: {} MiB/s", speed / MIB);
    }

    #[test]
    fn a_configured_target_is_held_instead() {
        let limits = Limits { target: Some(Duration::from_millis(4)), ..AUTO };
        let (_, latency) = run(limits, 800, 10, true);
        assert!(latency < Duration::from_micros(4400) && latency > Duration::from_millis(2), "{latency:?}");
    }

    #[test]
    fn the_floor_is_kept_however_slow_the_disk() {
        let (speed, _) = run(Limits { least: 10 * MIB, ..AUTO }, 800, 10_000, true);
        assert!((9 * MIB..=12 * MIB).contains(&speed), "{speed}");
    }

    #[test]
    fn a_frozen_request_is_no_measurement() {
        let mut pace = Pace::new(Instant::ZERO);
        pace.observe(Duration::from_secs(9), false);
        assert_eq!(pace.target(&AUTO), UNKNOWN_TARGET);
        pace.observe(Duration::from_micros(100), false);
        assert_eq!(pace.target(&AUTO), LEAST_TARGET);
    }
}
