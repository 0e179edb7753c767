//! Decides what to do about one address in the timed sets: `(now, serve-until, what stands there) -> step`. Pure.

use baton_replicator::types::Instant;
use std::time::Duration;

/// The time between reading the clock and the kernel's taking a request in; an element that may end later than
/// serve-until by more was sent by a process that stood still meanwhile, and is put right at once.
pub(super) const SLACK: Duration = Duration::from_millis(5);
/// A step forward that is worth a transaction.
const GROWTH: Duration = Duration::from_millis(10);

/// What is known of an address in the timed sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    /// Perhaps left by an earlier run of the agent, or gone with what somebody else flushed.
    Unknown,
    /// It stands there until then at the latest; in the past if it does not.
    Until(Instant),
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Leave,
    /// Packets pass until then.
    Open(Instant),
    /// Packets pass no more.
    Close,
}

/// `wanted`: its group holds the address, or lets it linger. `until`: serve-until, if it was ever set.
pub(super) fn step(wanted: bool, until: Option<Instant>, element: Element, now: Instant) -> Step {
    let until = match (wanted, until) {
        // An agent that has just started does not know yet whether it may serve; what it left ends by itself.
        (true, None) => return Step::Leave,
        (true, Some(until)) => until,
        (false, _) => Instant::ZERO,
    };
    match element {
        Element::Unknown if until > now => Step::Open(until),
        Element::Unknown => Step::Close,
        Element::Until(ends) if until <= now => {
            if ends > now.plus(SLACK) {
                Step::Close
            } else {
                Step::Leave
            }
        }
        Element::Until(ends) if ends > until.plus(SLACK) || ends <= now || until >= ends.plus(GROWTH) => {
            Step::Open(until)
        }
        Element::Until(_) => Step::Leave,
    }
}

/// The timeout of an element that is to end at `until`, in the kernel's milliseconds, rounded down.
pub(super) fn timeout_ms(until: Instant, now: Instant) -> u64 {
    u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant(1_000_000_000_000);

    fn ms(offset: i64) -> Instant {
        Instant(NOW.0.saturating_add_signed(offset * 1_000_000))
    }

    /// The whole table: wanted or not × serve-until × what stands there.
    #[test]
    fn every_state() {
        use Step::{Close, Leave};
        let untils = [None, Some(Instant::ZERO), Some(NOW), Some(ms(1000))];
        let elements = [
            Element::Unknown,
            Element::Until(Instant::ZERO),
            Element::Until(ms(3)),
            Element::Until(ms(500)),
            Element::Until(ms(995)),
            Element::Until(ms(1004)),
            Element::Until(ms(1006)),
        ];
        let open = Step::Open(ms(1000));
        let fenced = [Close, Leave, Leave, Close, Close, Close, Close];
        let table = [
            (true, [[Leave; 7], fenced, fenced, [open, open, open, open, Leave, Leave, open]]),
            (false, [fenced; 4]),
        ];
        for (wanted, rows) in table {
            for (until, row) in untils.into_iter().zip(rows) {
                for (element, expected) in elements.into_iter().zip(row) {
                    assert_eq!(step(wanted, until, element, NOW), expected, "{wanted} {until:?} {element:?}");
                }
            }
        }
    }

    #[test]
    fn a_timeout_never_reaches_beyond_serve_until() {
        assert_eq!(timeout_ms(ms(1000), NOW), 1000);
        assert_eq!(timeout_ms(Instant(NOW.0 + 1_999_999), NOW), 1);
        assert_eq!(timeout_ms(ms(-1), NOW), 0);
    }
}
