//! The parts of a volume that say how its replicas are compared and brought together.
//!
//! ```yaml
//! verify: { every: 7d, at: "03:00", repair: false }
//! resync: { rate: 200MiB, min: 4MiB, target_latency: 5ms }
//! ```

use super::read::{Reader, join};
use super::tree::Node;
use crate::core::verify::Schedule;
use serde::Serialize;
use std::time::Duration;

/// A verify reads every block of every replica; more often than this it would never end.
const LEAST_EVERY: Duration = Duration::from_secs(3600);
/// Longer than any disk's own retries.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(30);
/// A flush of a busy hard disk takes as long.
pub const LEAST_DISK_TIMEOUT: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What bounds resync and verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResyncLimits {
    /// Bytes per second at most; 0 = unbounded.
    pub rate: u64,
    /// Bytes per second that are always allowed, however busy the application is.
    pub min: u64,
    /// Latency of the application's requests that is held; none = twice what they take without resync.
    pub target_latency: Option<Duration>,
}

impl Default for ResyncLimits {
    /// Unbounded while the application is quiet; 4 MiB/s (350 GiB a day, 5 % of a hard disk) at least.
    fn default() -> Self {
        Self { rate: 0, min: 4 << 20, target_latency: None }
    }
}

impl Reader<'_> {
    pub fn verify_schedule(&mut self, node: &Node, path: &str) -> Option<Schedule> {
        let mut f = self.fields(node, path, "every, at, repair");
        if f.entries.iter().all(|e| e.key != "every") {
            self.error(node.line, &join(path, "every"), "is missing; give the time between two, e.g. 7d");
        }
        let every = self.get(&mut f, "every", Self::duration).unwrap_or(7 * DAY);
        let at_min = self.get(&mut f, "at", |r, n, p| r.scalar(n, p, time_of_day));
        let repair = self.get(&mut f, "repair", Self::boolean).unwrap_or(false);
        self.finish(f);
        let least = if at_min.is_some() { DAY } else { LEAST_EVERY };
        if every < least {
            let text = if at_min.is_some() {
                "must be at least 1d if a time of day is given"
            } else {
                "must be at least 1h: a verify reads every block"
            };
            self.error(node.line, &join(path, "every"), text);
        }
        Some(Schedule { every_s: every.as_secs(), at_min, repair })
    }

    pub fn resync_limits(&mut self, node: &Node, path: &str) -> Option<ResyncLimits> {
        let mut f = self.fields(node, path, "rate, min, target_latency");
        let default = ResyncLimits::default();
        let limits = ResyncLimits {
            rate: self.get(&mut f, "rate", Self::size).unwrap_or(default.rate),
            min: self.get(&mut f, "min", Self::size).unwrap_or(default.min),
            target_latency: self.get(&mut f, "target_latency", Self::duration),
        };
        self.finish(f);
        if limits.rate != 0 && limits.min > limits.rate {
            self.error(node.line, &join(path, "min"), "must not be above the rate");
        }
        Some(limits)
    }
}

/// `HH:MM`, UTC, as minutes after midnight.
fn time_of_day(text: &str) -> Result<u32, String> {
    let parts = text.split_once(':').filter(|(h, m)| (1..=2).contains(&h.len()) && m.len() == 2);
    let numbers = parts.and_then(|(h, m)| Some((h.parse::<u32>().ok()?, m.parse::<u32>().ok()?)));
    match numbers {
        Some((h @ 0..=23, m @ 0..=59)) => Ok(h * 60 + m),
        _ => Err(format!(
            "'{text}' is not a time of day; write hours and minutes (UTC) in quotes, e.g. \"03:00\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Spec, Volume};

    fn parse(volume: &str) -> Result<Volume, String> {
        let text = format!(
            "cluster: c\nnodes:\n  a: {{ address: 10.0.0.1 }}\n  b: {{ address: 10.0.0.2 }}\ngroups:\n  g:\n    volumes:\n      v: {{ size: 1GiB, {volume} }}\n"
        );
        let spec = Spec::parse(&text, |_| None).map_err(|e| e.to_string())?;
        Ok(spec.groups.values().next().and_then(|g| g.volumes.values().next().cloned()).expect("a volume"))
    }

    #[test]
    fn a_schedule_and_limits_are_read_and_have_defaults() {
        let volume = parse("filesystem: ext4").expect("valid");
        assert_eq!((volume.verify, volume.resync), (None, ResyncLimits::default()));
        let volume = parse(
            "verify: { every: 7d, at: \"03:30\", repair: true }, resync: { rate: 200MiB, min: 1MiB, target_latency: 5ms }",
        )
        .expect("valid");
        assert_eq!(volume.verify, Some(Schedule { every_s: 604_800, at_min: Some(210), repair: true }));
        let limits =
            ResyncLimits { rate: 200 << 20, min: 1 << 20, target_latency: Some(Duration::from_millis(5)) };
        assert_eq!(volume.resync, limits);
        assert_eq!(volume.disk_timeout, DISK_TIMEOUT);
        let short = parse("disk_timeout: 5s").expect("valid");
        assert_eq!(short.disk_timeout, Duration::from_secs(5));
        assert_eq!(parse("resync_rate: 9MiB").expect("the old word").resync.rate, 9 << 20);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, words) in [
            ("verify: { at: \"03:00\" }", "volumes.v.verify.every is missing"),
            ("verify: { every: 2h, at: \"03:00\" }", "at least 1d"),
            ("verify: { every: 10m }", "at least 1h"),
            ("verify: { every: 7d, at: \"24:00\" }", "not a time of day"),
            ("verify: { every: 7d, at: noon }", "not a time of day"),
            ("disk_timeout: 500ms", "disk_timeout"),
            ("resync: { rate: 1MiB, min: 2MiB }", "must not be above the rate"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.replace(": ", " ").contains(words) || error.contains(words), "{text}: {error}");
        }
    }
}
