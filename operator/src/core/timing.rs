//! The timers, with Heartbeat's names and meaning, and the one function that holds their inequalities.
//!
//! Why they must hold: a standby takes over `deadtime` after its last acknowledgement at the earliest; the
//! leader stops `fencetime` after it *sent* the heartbeat acknowledged last. Two clocks may run apart and
//! fencing takes time, so `deadtime` must exceed `fencetime` by a quarter and 100 ms.

use baton_replicator::types::Instant;
use std::time::Duration;

/// Extra time between fencetime and deadtime, for the work of fencing itself (DESIGN §4).
pub const FENCING_WORK: Duration = Duration::from_millis(100);

/// All timers of a cluster, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Interval of heartbeats.
    pub keepalive: Duration,
    /// Silence after which a member is removed from the in-sync set.
    pub warntime: Duration,
    /// How long after sending it an acknowledged heartbeat entitles to serve.
    pub fencetime: Duration,
    /// How long an acknowledgement keeps a standby from taking over.
    pub deadtime: Duration,
    /// How long others wait for preferred or unseen nodes at a cold start.
    pub initdead: Duration,
    /// Life of the agent's etcd lease.
    pub ttl: Duration,
    /// The longer promise asked for before an orderly restart of the agent.
    pub restart_window: Duration,
    /// I/O frozen longer than this makes a group unusable; the replicator counts a peer as lost by it.
    pub peer_timeout: Duration,
    /// How long a fenced group's containers stay paused before they are stopped.
    pub fence_stop: Duration,
    /// Upper bound of one request to etcd; when it passes, the outcome is unknown.
    pub etcd_timeout: Duration,
}

/// A timer configuration that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTimers {
    /// Two timers in the wrong order.
    #[error("{small} ({small_ms} ms) must be shorter than {large} ({large_ms} ms)")]
    Order {
        /// Name of the timer that must be shorter.
        small: &'static str,
        /// Its value.
        small_ms: u128,
        /// Name of the timer that must be longer.
        large: &'static str,
        /// Its value.
        large_ms: u128,
    },
    /// No room between fencing and takeover.
    #[error(
        "deadtime ({deadtime_ms} ms) must be at least 1.25 x fencetime + 100 ms = {needed_ms} ms (fencetime is {fencetime_ms} ms): the difference covers clock drift and the time fencing takes"
    )]
    Margin {
        /// Value of deadtime.
        deadtime_ms: u128,
        /// Value of fencetime.
        fencetime_ms: u128,
        /// The least deadtime for that fencetime.
        needed_ms: u128,
    },
    /// A timer that is too short to work at all.
    #[error("{name} ({ms} ms) must be at least {least_ms} ms")]
    TooShort {
        /// The timer.
        name: &'static str,
        /// Its value.
        ms: u128,
        /// The least value.
        least_ms: u128,
    },
}

impl Default for Timers {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            keepalive: ms(100),
            warntime: ms(500),
            fencetime: ms(1000),
            deadtime: ms(1500),
            initdead: ms(10_000),
            ttl: ms(5000),
            restart_window: ms(10_000),
            peer_timeout: ms(3000),
            // A partition that heals within this time costs no restart of the services.
            fence_stop: ms(10_000),
            // Longer than an election of etcd with the recommended timing (250 ms) and two round trips.
            etcd_timeout: ms(1000),
        }
    }
}

impl Timers {
    /// Timers for hosts that are hardly ever late: a takeover after half a second of silence. Only what is paid for in
    /// a takeover is shorter than the default. `warntime` leaves three heartbeats to be lost before a member is
    /// removed, and a little more than a third of `fencetime` for the transaction that removes it.
    #[must_use]
    pub fn fast() -> Self {
        let ms = Duration::from_millis;
        Self {
            keepalive: ms(50),
            warntime: ms(200),
            fencetime: Self::default_fencetime(ms(500)),
            deadtime: ms(500),
            ..Self::default()
        }
    }

    /// The default of fencetime for a deadtime: (deadtime − 100 ms) / 1.25.
    #[must_use]
    pub fn default_fencetime(deadtime: Duration) -> Duration {
        deadtime.saturating_sub(FENCING_WORK) * 4 / 5
    }

    /// Checks every inequality; the only place that holds them.
    ///
    /// # Errors
    /// [`BadTimers`] with the numbers of the first rule broken.
    pub fn check(self) -> Result<Self, BadTimers> {
        let least = |name, value: Duration, least: u64| {
            let ok = value >= Duration::from_millis(least);
            if ok {
                Ok(())
            } else {
                Err(BadTimers::TooShort { name, ms: value.as_millis(), least_ms: least.into() })
            }
        };
        let order = |small, a: Duration, large, b: Duration| {
            let bad = || BadTimers::Order { small, small_ms: a.as_millis(), large, large_ms: b.as_millis() };
            if a < b { Ok(()) } else { Err(bad()) }
        };
        // A thread of ordinary priority is woken within a few milliseconds; below 10 ms jitter dominates.
        least("keepalive", self.keepalive, 10)?;
        // etcd counts leases in whole seconds and grants no less than its election timeout.
        least("ttl", self.ttl, 1000)?;
        least("etcd_timeout", self.etcd_timeout, 50)?;
        order("keepalive", self.keepalive, "warntime", self.warntime)?;
        order("warntime", self.warntime, "fencetime", self.fencetime)?;
        order("fencetime", self.fencetime, "deadtime", self.deadtime)?;
        let needed = self.fencetime * 5 / 4 + FENCING_WORK;
        if self.deadtime < needed {
            return Err(BadTimers::Margin {
                deadtime_ms: self.deadtime.as_millis(),
                fencetime_ms: self.fencetime.as_millis(),
                needed_ms: needed.as_millis(),
            });
        }
        order("deadtime", self.deadtime, "initdead", self.initdead)?;
        order("deadtime", self.deadtime, "restart_window", self.restart_window)?;
        order("warntime", self.warntime, "peer_timeout", self.peer_timeout)?;
        Ok(self)
    }

    /// How long the leader counts a promise of the given length: never longer than that length allows, whatever
    /// this node's own timers say (while a changed specification is on its way, the other node's may be shorter);
    /// for an ordinary promise not longer than `fencetime`.
    #[must_use]
    pub fn good_for(&self, promise: Duration) -> Duration {
        let at_most = Self::default_fencetime(promise);
        if promise <= self.deadtime { at_most.min(self.fencetime) } else { at_most }
    }

    /// Until when a lease counts whose last acknowledged keepalive was *sent* at `sent`, with the time to live
    /// that etcd granted. The margin covers drift and the work of fencing.
    #[must_use]
    pub fn lease_until(&self, sent: Instant, granted: Duration) -> Instant {
        sent.plus((granted * 4 / 5).saturating_sub(FENCING_WORK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_consistent() {
        let t = Timers::default().check().expect("defaults hold");
        assert_eq!(Timers::default_fencetime(t.deadtime), Duration::from_millis(1120));
        assert_eq!(t.good_for(t.deadtime), t.fencetime);
        assert_eq!(t.good_for(t.restart_window), Duration::from_millis(7920));
    }

    #[test]
    fn the_fast_ones_are_accepted_and_differ_only_in_what_a_takeover_costs() {
        let ms = Duration::from_millis;
        let t = Timers::fast().check().expect("they hold");
        assert_eq!((t.keepalive, t.warntime, t.fencetime, t.deadtime), (ms(50), ms(200), ms(320), ms(500)));
        let Timers { keepalive, warntime, fencetime, deadtime, .. } = Timers::default();
        assert_eq!(Timers { keepalive, warntime, fencetime, deadtime, ..t }, Timers::default());
    }

    /// Two nodes run different timers for a moment when a specification is applied: what is promised for 600 ms
    /// must not be counted for a second.
    #[test]
    fn a_promise_shorter_than_the_own_deadtime_is_not_stretched() {
        let t = Timers::default();
        for ms in [150_u64, 600, 1499, 1500, 1501, 10_000] {
            let promise = Duration::from_millis(ms);
            let counted = t.good_for(promise);
            assert!(
                counted * 5 / 4 + FENCING_WORK <= promise.max(FENCING_WORK),
                "{ms} ms counted as {counted:?}"
            );
        }
        assert_eq!(t.good_for(Duration::from_millis(600)), Duration::from_millis(400));
    }

    #[test]
    fn the_default_fencetime_of_any_deadtime_passes_the_check() {
        for deadtime in [900u64, 1500, 3000, 30_000] {
            let deadtime = Duration::from_millis(deadtime);
            let fencetime = Timers::default_fencetime(deadtime);
            let t = Timers {
                deadtime,
                fencetime,
                initdead: deadtime * 4,
                restart_window: deadtime * 4,
                ..Timers::default()
            };
            t.check().expect("derived fencetime fits");
        }
    }

    #[test]
    fn a_refusal_names_the_timers_and_the_numbers() {
        let base = Timers::default();
        let ms = Duration::from_millis;
        let cases = [
            (Timers { keepalive: ms(5), ..base }, "keepalive (5 ms) must be at least 10 ms"),
            (Timers { warntime: ms(80), ..base }, "keepalive (100 ms) must be shorter than warntime (80 ms)"),
            (
                Timers { fencetime: ms(400), ..base },
                "warntime (500 ms) must be shorter than fencetime (400 ms)",
            ),
            (
                Timers { deadtime: ms(1000), ..base },
                "fencetime (1000 ms) must be shorter than deadtime (1000 ms)",
            ),
            (Timers { fencetime: ms(1200), ..base }, "1.25 x fencetime + 100 ms = 1600 ms"),
            (
                Timers { initdead: ms(1000), ..base },
                "deadtime (1500 ms) must be shorter than initdead (1000 ms)",
            ),
            (Timers { ttl: ms(500), ..base }, "ttl (500 ms) must be at least 1000 ms"),
        ];
        for (timers, text) in cases {
            let message = timers.check().expect_err(text).to_string();
            assert!(message.contains(text), "{message} lacks {text}");
        }
    }
}
