//! Decides what to do about one address: `(what is, until, now) -> step`. Pure.
//!
//! ```text
//!              entitled: Add                     until passed: Remove(Fenced)
//!   down ───────────────────────────► up ───────────────────────────────────► down
//!                                      │ ▲
//!            not listed, not entitled: │ │ entitled: Extend each EXTEND_EVERY
//!   down ◄──────── Expired ────────────┘ └ entitled and not listed: Vanished, then Add
//! ```

use baton_replicator::types::Instant;
use std::time::Duration;

/// The kernel lifetime that an extension gives, in seconds: the smallest it knows. It lasts 1.0 to 1.3 s.
pub const LIFETIME_S: u32 = 1;
/// How often a lifetime is extended. The lifetime may miss five extensions before it ends.
pub const EXTEND_EVERY: Duration = Duration::from_millis(150);

/// What the kernel has of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not looked up this time.
    Unknown,
    /// Not there.
    Absent,
    /// There, with a finite lifetime.
    Ours,
    /// There without a lifetime: somebody else's.
    Permanent,
}

/// Everything the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// We put it up and have not taken it down.
    pub up: bool,
    /// What the kernel has.
    pub presence: Presence,
    /// Serve-until, if it was ever set.
    pub until: Option<Instant>,
    /// Now.
    pub now: Instant,
    /// When its lifetime was last extended.
    pub extended: Instant,
}

/// What to do about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Rest,
    /// Put it up, extending what may already be there.
    Add,
    /// Extend its lifetime.
    Extend,
    /// It was up and is gone although it was extended: put it up again.
    Readd,
    /// It was up, was not extended, and the kernel has removed it.
    Expired,
    /// Serve-until has passed: take it away.
    Remove,
    /// Do not touch it: it is somebody else's.
    Refuse,
}

/// Whether lifetimes may be given: what is left must cover most of what the kernel needs to end one.
#[must_use]
pub fn entitled(until: Option<Instant>, now: Instant, fencetime: Duration) -> bool {
    until.is_some_and(|u| u > now && u.since(now) >= fencetime * 4 / 5)
}

/// Whether serve-until has passed.
#[must_use]
pub fn lapsed(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|u| u <= now)
}

/// The step for one address.
#[must_use]
pub fn step(view: &View, fencetime: Duration) -> Step {
    use Presence::{Absent, Ours, Permanent, Unknown};
    if lapsed(view.until, view.now) {
        return match (view.up, view.presence) {
            (true, _) | (false, Ours) => Step::Remove,
            (false, Unknown | Absent | Permanent) => Step::Rest,
        };
    }
    if !entitled(view.until, view.now, fencetime) {
        return if view.up && view.presence == Absent { Step::Expired } else { Step::Rest };
    }
    match (view.up, view.presence) {
        (_, Permanent) => Step::Refuse,
        (false, Unknown) => Step::Rest,
        (false, Absent | Ours) => Step::Add,
        (true, Absent) => Step::Readd,
        (true, Unknown | Ours) if view.now.since(view.extended) >= EXTEND_EVERY => Step::Extend,
        (true, Unknown | Ours) => Step::Rest,
    }
}

/// The lifetime for an address that outlives the agent: at most what is left until serve-until, in whole seconds.
#[must_use]
pub fn linger_s(asked_s: u32, until: Option<Instant>, now: Instant) -> u32 {
    let left = until.map_or(0, |u| u.since(now).as_secs());
    asked_s.min(u32::try_from(left).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Presence::{Absent, Ours, Permanent, Unknown};

    const FENCETIME: Duration = Duration::from_secs(1);
    const NOW: Instant = Instant(1_000_000_000_000);

    fn ms(offset: i64) -> Instant {
        Instant(NOW.0.saturating_add_signed(offset * 1_000_000))
    }

    /// The whole table: serve-until × up × presence, with a lifetime extended 150 ms ago.
    #[test]
    fn every_state() {
        use Step::{Add, Expired, Extend, Readd, Refuse, Remove, Rest};
        let untils: [(&str, Option<Instant>); 6] = [
            ("unknown", None),
            ("zero", Some(Instant::ZERO)),
            ("now", Some(NOW)),
            ("too close", Some(ms(799))),
            ("just enough", Some(ms(800))),
            ("ahead", Some(ms(990))),
        ];
        // Columns: down and Unknown, Absent, Ours, Permanent; up and the same.
        let fenced = [Rest, Rest, Remove, Rest, Remove, Remove, Remove, Remove];
        let between = [Rest, Rest, Rest, Rest, Rest, Expired, Rest, Rest];
        let serving = [Rest, Add, Add, Refuse, Extend, Readd, Extend, Refuse];
        let table = [between, fenced, fenced, between, serving, serving];
        for ((name, until), row) in untils.into_iter().zip(table) {
            let columns =
                [false, true].into_iter().flat_map(|up| [Unknown, Absent, Ours, Permanent].map(|p| (up, p)));
            for ((up, presence), expected) in columns.zip(row) {
                let view = View { up, presence, until, now: NOW, extended: ms(-150) };
                assert_eq!(step(&view, FENCETIME), expected, "until {name}, up {up}, {presence:?}");
            }
        }
    }

    #[test]
    fn extends_no_more_often_than_needed() {
        let view = View { up: true, presence: Ours, until: Some(ms(1000)), now: NOW, extended: ms(-149) };
        assert_eq!(step(&view, FENCETIME), Step::Rest);
    }

    #[test]
    fn lingers_no_longer_than_it_may_serve() {
        assert_eq!(linger_s(8, Some(ms(9500)), NOW), 8);
        assert_eq!(linger_s(8, Some(ms(7999)), NOW), 7);
        assert_eq!(linger_s(8, Some(ms(900)), NOW), 0);
        assert_eq!(linger_s(8, Some(ms(-1)), NOW), 0);
        assert_eq!(linger_s(8, None, NOW), 0);
    }
}
