//! When the watchdog is fed: `facts -> verdict`. Pure.

use baton_replicator::types::{GroupName, Instant};
use std::time::Duration;

/// An address that may not stand any more is taken away within milliseconds; one that stands for so long after
/// serve-until stays because something hangs.
pub const FENCED_WITHIN: Duration = Duration::from_secs(1);

/// A group with an address on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The group.
    pub group: GroupName,
    /// Until when it may be served here.
    pub until: Instant,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Now.
    pub now: Instant,
    /// The last round of the heartbeat thread.
    pub beat: Instant,
    /// The last run of the decision core.
    pub ran: Instant,
    /// The silence that either may keep.
    pub warntime: Duration,
    /// Groups with an address that is up.
    pub held: Vec<Held>,
}

/// Whether to feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Feed,
    /// The heartbeat thread has not run for so long: nobody moves serve-until on.
    Heartbeat(Duration),
    /// The decision core has not run for so long: nobody decides.
    Core(Duration),
    /// This group's addresses still stand so long after the node had to fence itself.
    NotFenced(GroupName, Duration),
}

impl Verdict {
    /// Whether the device is fed.
    #[must_use]
    pub fn feeds(&self) -> bool {
        matches!(self, Self::Feed)
    }

    /// The same but for how long.
    #[must_use]
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = Duration::as_secs_f64;
        match self {
            Self::Feed => write!(f, "fed"),
            Self::Heartbeat(d) => write!(f, "not fed: the heartbeat thread has not run for {:.1} s", s(d)),
            Self::Core(d) => write!(f, "not fed: the decision core has not run for {:.1} s", s(d)),
            Self::NotFenced(group, d) => write!(
                f,
                "not fed: addresses of group {group} still stand {:.1} s after this node had to fence itself",
                s(d)
            ),
        }
    }
}

/// The rule: the heartbeat thread and the core have run within `warntime`, and every group that is held may be served,
/// or had to be given up only just now.
#[must_use]
pub fn verdict(facts: &Facts) -> Verdict {
    let silent = |last: Instant| Some(facts.now.since(last)).filter(|d| *d > facts.warntime);
    if let Some(d) = silent(facts.beat) {
        return Verdict::Heartbeat(d);
    }
    if let Some(d) = silent(facts.ran) {
        return Verdict::Core(d);
    }
    let overdue = facts.held.iter().find(|h| facts.now.since(h.until) > FENCED_WITHIN);
    overdue.map_or(Verdict::Feed, |h| Verdict::NotFenced(h.group.clone(), facts.now.since(h.until)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000_000);

    fn ago(ms: u64) -> Instant {
        Instant(NOW.0 - ms * 1_000_000)
    }

    /// The whole table: thread × core × a group's serve-until.
    #[test]
    fn every_state() {
        let group = GroupName::new("web").unwrap();
        let ms = Duration::from_millis;
        let untils: [(Option<Instant>, Option<Duration>); 5] = [
            (None, None),
            (Some(NOW.plus(ms(900))), None),
            (Some(NOW), None),
            (Some(ago(1000)), None),
            (Some(ago(1001)), Some(ms(1001))),
        ];
        for (beat, thread_hangs) in [(0, false), (500, false), (501, true)] {
            for (ran, core_hangs) in [(0, false), (500, false), (501, true)] {
                for (until, overdue) in untils {
                    let held = until.map(|until| Held { group: group.clone(), until });
                    let facts = Facts {
                        now: NOW,
                        beat: ago(beat),
                        ran: ago(ran),
                        warntime: ms(500),
                        held: held.into_iter().collect(),
                    };
                    let expected = match (thread_hangs, core_hangs, overdue) {
                        (true, _, _) => Verdict::Heartbeat(ms(501)),
                        (false, true, _) => Verdict::Core(ms(501)),
                        (false, false, Some(d)) => Verdict::NotFenced(group.clone(), d),
                        (false, false, None) => Verdict::Feed,
                    };
                    assert_eq!(verdict(&facts), expected, "{beat} {ran} {until:?}");
                }
            }
        }
    }

    #[test]
    fn one_group_that_is_not_fenced_is_enough() {
        let held = |name, until| Held { group: GroupName::new(name).unwrap(), until };
        let facts = Facts {
            now: NOW,
            beat: NOW,
            ran: NOW,
            warntime: Duration::from_millis(500),
            held: vec![held("web", NOW.plus(Duration::from_secs(1))), held("db", ago(2000))],
        };
        let found = verdict(&facts);
        assert!(!found.feeds() && found.to_string().contains("group db still stand 2.0 s"), "{found}");
    }
}
