//! The parts of a volume that say how its replicas are compared and brought together.
//!
//! ```yaml
//! verify: { every: 7d, at: "03:00", repair: false }
//! resync: { rate: 200MiB, min: 4MiB, target_latency: 5ms }
//! after_split_brain: { zero_primaries: discard-least-changes, one_primary: consensus }
//! ```

use super::read::{Reader, join};
use super::tree::{Node, Value};
use crate::core::verify::Schedule;
use baton_replicator::core::split_brain::{AfterSplitBrain, OnePrimary, TwoPrimaries, ZeroPrimaries};
use baton_replicator::types::FrontEndKind;
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

    /// One word for all of it, or a rule for each number of primaries.
    pub fn after_split_brain(&mut self, node: &Node, path: &str) -> Option<AfterSplitBrain> {
        if !matches!(node.value, Value::Map(_)) {
            return self.scalar(node, path, |text| {
                let none = AfterSplitBrain::default();
                match (text, zero_primaries(text)) {
                    ("discard-secondary", _) => {
                        Ok(AfterSplitBrain { one_primary: OnePrimary::DiscardSecondary, ..none })
                    }
                    ("disconnect", _) => Ok(none),
                    (_, Ok(zero_primaries)) => {
                        Ok(AfterSplitBrain { zero_primaries, one_primary: OnePrimary::Consensus, ..none })
                    }
                    (_, Err(why)) => Err(why),
                }
            });
        }
        let mut f = self.fields(node, path, "zero_primaries, one_primary, two_primaries");
        let policy = AfterSplitBrain {
            zero_primaries: self
                .get(&mut f, "zero_primaries", |r, n, p| r.scalar(n, p, zero_primaries))
                .unwrap_or_default(),
            one_primary: self
                .get(&mut f, "one_primary", |r, n, p| r.scalar(n, p, one_primary))
                .unwrap_or_default(),
            two_primaries: self
                .get(&mut f, "two_primaries", |r, n, p| r.scalar(n, p, two_primaries))
                .unwrap_or_default(),
        };
        self.finish(f);
        if policy.one_primary == OnePrimary::Consensus && policy.zero_primaries == ZeroPrimaries::Disconnect {
            let text = "consensus asks the rule for zero_primaries, which is disconnect: nothing would ever be resolved";
            self.error(node.line, &join(path, "one_primary"), text);
        }
        Some(policy)
    }

    pub fn front_end(&mut self, node: &Node, path: &str) -> Option<FrontEndKind> {
        self.scalar(node, path, |text| match text {
            "fuse" => Ok(FrontEndKind::Fuse),
            "nbd" => Ok(FrontEndKind::Nbd),
            other => {
                Err(format!("'{other}' is not known; write fuse, or nbd for a Unix socket without a device"))
            }
        })
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

fn zero_primaries(text: &str) -> Result<ZeroPrimaries, String> {
    match text {
        "disconnect" => Ok(ZeroPrimaries::Disconnect),
        "discard-younger-primary" => Ok(ZeroPrimaries::DiscardYoungerPrimary),
        "discard-older-primary" => Ok(ZeroPrimaries::DiscardOlderPrimary),
        "discard-zero-changes" => Ok(ZeroPrimaries::DiscardZeroChanges),
        "discard-least-changes" => Ok(ZeroPrimaries::DiscardLeastChanges),
        other => Err(format!(
            "'{other}' is not known; write disconnect, discard-younger-primary, discard-older-primary, \
             discard-zero-changes or discard-least-changes (disconnect if in doubt)"
        )),
    }
}

fn one_primary(text: &str) -> Result<OnePrimary, String> {
    match text {
        "disconnect" => Ok(OnePrimary::Disconnect),
        "consensus" => Ok(OnePrimary::Consensus),
        "discard-secondary" => Ok(OnePrimary::DiscardSecondary),
        "violently-as0p" | "call-pri-lost-after-sb" => Err(format!(
            "'{text}' would give up data that is in use; write disconnect, consensus or discard-secondary"
        )),
        other => Err(format!("'{other}' is not known; write disconnect, consensus or discard-secondary")),
    }
}

fn two_primaries(text: &str) -> Result<TwoPrimaries, String> {
    match text {
        "disconnect" => Ok(TwoPrimaries::Disconnect),
        other => Err(format!("'{other}' is not possible: the data of both is in use; write disconnect")),
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
    use baton_replicator::types::{NodeName, Protocol};

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
    fn a_node_may_be_reached_by_another_protocol() {
        let volume = parse("protocol: B, protocols: { b: A }").expect("valid");
        let b = NodeName::new("b").expect("a name");
        assert_eq!((volume.protocol, volume.protocols), (Protocol::B, [(b, Protocol::A)].into()));
    }

    #[test]
    fn split_brain_policies_have_drbd_s_names_and_a_short_form() {
        let policy =
            |text: &str| parse(&format!("after_split_brain: {text}")).expect("valid").after_split_brain;
        assert_eq!(parse("filesystem: ext4").expect("valid").after_split_brain, AfterSplitBrain::default());
        assert_eq!(policy("disconnect"), AfterSplitBrain::default());
        let both = |zero_primaries, one_primary| AfterSplitBrain {
            zero_primaries,
            one_primary,
            ..Default::default()
        };
        assert_eq!(
            policy("discard-secondary"),
            both(ZeroPrimaries::Disconnect, OnePrimary::DiscardSecondary)
        );
        for (word, zero) in [
            ("discard-younger-primary", ZeroPrimaries::DiscardYoungerPrimary),
            ("discard-older-primary", ZeroPrimaries::DiscardOlderPrimary),
            ("discard-zero-changes", ZeroPrimaries::DiscardZeroChanges),
            ("discard-least-changes", ZeroPrimaries::DiscardLeastChanges),
        ] {
            let expected = both(zero, OnePrimary::Consensus);
            assert_eq!(policy(word), expected);
            assert_eq!(policy(&format!("{{ zero_primaries: {word}, one_primary: consensus }}")), expected);
        }
    }

    #[test]
    fn a_volume_with_an_nbd_front_end_is_no_filesystem_that_a_service_could_mount() {
        assert_eq!(parse("protocol: C").expect("valid").front_end, FrontEndKind::Fuse);
        assert_eq!(parse("front_end: nbd").expect("valid").front_end, FrontEndKind::Nbd);
        assert!(parse("front_end: ublk").expect_err("unknown").contains("write fuse"));
        let text = "cluster: c\nnodes:\n  a: { address: 10.0.0.1 }\n  b: { address: 10.0.0.2 }\ngroups:\n  g:\n    volumes:\n      v: { size: 1GiB, front_end: nbd }\n    services:\n      s: { image: x, volumes: [\"v:/data\"] }\n";
        let error = Spec::parse(text, |_| None).expect_err("nothing to mount").to_string();
        assert!(error.contains("front_end: nbd") && error.contains("services.s.volumes[0]"), "{error}");
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
            ("protocols: { a: D }", "'D' is not known; write A, B or C"),
            ("protocols: { c: A }", "there is no node c"),
            ("after_split_brain: discard-all", "'discard-all' is not known"),
            ("after_split_brain: { one_primary: violently-as0p }", "data that is in use"),
            ("after_split_brain: { two_primaries: discard-secondary }", "the data of both is in use"),
            ("after_split_brain: { one_primary: consensus }", "nothing would ever be resolved"),
            ("after_split_brain: { three_primaries: disconnect }", "three_primaries"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.replace(": ", " ").contains(words) || error.contains(words), "{text}: {error}");
        }
    }
}
