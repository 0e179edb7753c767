//! The heartbeat's timers and the one function that holds their inequalities.

use serde::Serialize;
use std::time::Duration;

/// The heartbeat's timers (DESIGN "Leadership").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timers {
    /// Between two heartbeats.
    pub keepalive: Duration,
    /// A peer silent for this long is late: out of the in-sync set.
    pub warntime: Duration,
    /// A leader counts a promise good for this long after it sent the heartbeat that was acknowledged.
    pub fencetime: Duration,
    /// A standby keeps its promise for this long.
    pub deadtime: Duration,
    /// At a cold start, how long others wait for a preferred node.
    pub initdead: Duration,
    /// What is asked of etcd as the lease's time to live; etcd may grant more.
    pub lease_ttl: Duration,
    /// The longer promise that is asked for before an orderly restart of an agent.
    pub restart_window: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_millis(100),
            warntime: Duration::from_millis(500),
            fencetime: Duration::from_millis(1000),
            deadtime: Duration::from_millis(1500),
            initdead: Duration::from_secs(10),
            lease_ttl: Duration::from_secs(5),
            restart_window: Duration::from_secs(10),
        }
    }
}

/// Timers that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    /// Two timers in the wrong order.
    #[error("{shorter} ({shorter_ms} ms) must be shorter than {longer} ({longer_ms} ms)")]
    Order {
        /// Name of the one that must be shorter.
        shorter: &'static str,
        /// Its value.
        shorter_ms: u128,
        /// Name of the other.
        longer: &'static str,
        /// Its value.
        longer_ms: u128,
    },
    /// Fencing would not be done when a standby takes over.
    #[error(
        "deadtime ({deadtime_ms} ms) must be at least 1.25 × fencetime + 100 ms = {least_ms} ms: clocks drift and fencing \
         takes time; raise deadtime, or lower fencetime to {most_ms} ms"
    )]
    Margin {
        /// deadtime.
        deadtime_ms: u128,
        /// The smallest deadtime for this fencetime.
        least_ms: u128,
        /// The largest fencetime for this deadtime.
        most_ms: u128,
    },
    /// A timer outside the range that works.
    #[error("{name} is {value_ms} ms; it must be between {least_ms} and {most_ms} ms")]
    Range {
        /// The timer.
        name: &'static str,
        /// Its value.
        value_ms: u128,
        /// Smallest value.
        least_ms: u128,
        /// Largest value.
        most_ms: u128,
    },
}

/// Covers what fencing itself takes (DESIGN "Leadership").
const FENCE_MARGIN: Duration = Duration::from_millis(100);

impl Timers {
    /// The fencetime that goes with a deadtime if none is given: (deadtime − 100 ms) / 1.25.
    #[must_use]
    pub fn default_fencetime(deadtime: Duration) -> Duration {
        deadtime.saturating_sub(FENCE_MARGIN) * 4 / 5
    }

    /// All inequalities that the timers break.
    #[must_use]
    pub fn check(&self) -> Vec<TimerError> {
        let mut errors = Vec::new();
        let ordered = [
            ("keepalive", self.keepalive),
            ("warntime", self.warntime),
            ("fencetime", self.fencetime),
            ("deadtime", self.deadtime),
        ];
        for pair in ordered.windows(2) {
            let ((shorter, a), (longer, b)) = (pair[0], pair[1]);
            if a >= b {
                errors.push(TimerError::Order {
                    shorter,
                    shorter_ms: a.as_millis(),
                    longer,
                    longer_ms: b.as_millis(),
                });
            }
        }
        let least = self.fencetime * 5 / 4 + FENCE_MARGIN;
        if self.deadtime < least && self.fencetime < self.deadtime {
            errors.push(TimerError::Margin {
                deadtime_ms: self.deadtime.as_millis(),
                least_ms: least.as_millis(),
                most_ms: Self::default_fencetime(self.deadtime).as_millis(),
            });
        }
        if self.initdead < self.deadtime {
            errors.push(TimerError::Order {
                shorter: "deadtime",
                shorter_ms: self.deadtime.as_millis(),
                longer: "initdead",
                longer_ms: self.initdead.as_millis(),
            });
        }
        // 10 ms is the granularity of the heartbeat thread; an hour stands for "a unit was forgotten".
        let hour = 3_600_000;
        for (name, value, least, most) in [
            ("keepalive", self.keepalive, 10, 10_000),
            ("deadtime", self.deadtime, 100, 600_000),
            ("initdead", self.initdead, 100, hour),
            // etcd rounds up to whole seconds and never grants less than two with its fastest settings.
            ("lease_ttl", self.lease_ttl, 1000, hour),
            ("restart_window", self.restart_window, 0, hour),
        ] {
            let value_ms = value.as_millis();
            if !(least..=most).contains(&value_ms) {
                errors.push(TimerError::Range { name, value_ms, least_ms: least, most_ms: most });
            }
        }
        errors
    }
}
