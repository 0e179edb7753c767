//! Pure analysis of a client's history: how long was there no success?

use std::time::{Duration, Instant};

/// The longest stretch without a success in `from..=to`, edges included: a service that never came back has
/// a gap until `to`. The times need not be sorted.
#[must_use]
pub fn longest(successes: impl IntoIterator<Item = Instant>, from: Instant, to: Instant) -> Duration {
    let mut times: Vec<_> = successes.into_iter().filter(|t| (from..=to).contains(t)).collect();
    times.sort_unstable();
    times.push(to);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for t in times {
        longest = longest.max(t.duration_since(last));
        last = t;
    }
    longest
}

/// The middle of the values (the lower of two), or zero of none.
#[must_use]
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// The largest of the values, or zero of none.
#[must_use]
pub fn worst(values: &[Duration]) -> Duration {
    values.iter().max().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn gap_between_successes_in_any_order() {
        let t = Instant::now();
        let at = |n| t + ms(n);
        assert_eq!(longest([at(30), at(10), at(20), at(500), at(510)], t, at(520)), ms(470));
    }

    #[test]
    fn edges_count() {
        let t = Instant::now();
        assert_eq!(longest([t + ms(10)], t, t + ms(900)), ms(890), "it never came back");
        assert_eq!(longest([t + ms(700)], t, t + ms(900)), ms(700), "it was away from the start");
        assert_eq!(longest([], t, t + ms(900)), ms(900));
        assert_eq!(longest([t + ms(2000)], t, t + ms(900)), ms(900), "a later success fills no gap");
    }

    #[test]
    fn middle_and_worst() {
        assert_eq!(median(&[ms(9), ms(1), ms(5)]), ms(5));
        assert_eq!(median(&[ms(4), ms(1), ms(2), ms(3)]), ms(2));
        assert_eq!((median(&[]), worst(&[ms(3), ms(7)])), (ms(0), ms(7)));
    }
}
