//! The longest gaps of the last day, and the timers that follow from them.
//!
//! As Heartbeat's manual has it: let the cluster run under its ordinary load, look at the latest heartbeat, and make
//! `deadtime` a safe multiple of that. Here the measurement never ends.

use baton_replicator::types::Instant;
use std::collections::VecDeque;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Hours kept: the one under way and those before it.
const HOURS: usize = 24;
/// Fewer gaps than these (a minute and a half at the default keepalive) say nothing.
pub const ENOUGH: u64 = 1000;
/// Suggestions are whole multiples of this.
const STEP_MS: u64 = 50;

#[derive(Clone, Copy, Debug)]
struct Hour {
    start: Instant,
    worst: Duration,
    gaps: u64,
    silences: u64,
}

/// Gaps between heartbeats of one peer, whichever link they came by.
#[derive(Clone, Debug, Default)]
pub struct Day(VecDeque<Hour>);

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The longest gap.
    pub worst: Duration,
    /// Number of gaps.
    pub gaps: u64,
    /// Silences of `deadtime` or longer: a fault, not a delay; left out of `worst`.
    pub silences: u64,
    /// Length of the time that this speaks of.
    pub over: Duration,
}

impl Day {
    /// Counts the gap that ended now.
    pub fn gap(&mut self, gap: Duration, deadtime: Duration, now: Instant) {
        let begin = self.0.back().is_none_or(|h| now.since(h.start) >= HOUR);
        if begin {
            self.0.push_back(Hour { start: now, worst: Duration::ZERO, gaps: 0, silences: 0 });
            if self.0.len() > HOURS {
                self.0.pop_front();
            }
        }
        let Some(hour) = self.0.back_mut() else { return };
        if gap >= deadtime {
            hour.silences += 1;
        } else {
            hour.gaps += 1;
            hour.worst = hour.worst.max(gap);
        }
    }

    /// The last day.
    #[must_use]
    pub fn measured(&self, now: Instant) -> Measured {
        let recent = || self.0.iter().filter(|h| now.since(h.start) < HOUR * 24);
        Measured {
            worst: recent().map(|h| h.worst).max().unwrap_or_default(),
            gaps: recent().map(|h| h.gaps).sum(),
            silences: recent().map(|h| h.silences).sum(),
            over: recent().next().map_or(Duration::ZERO, |h| now.since(h.start)),
        }
    }
}

/// Suggested timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Twice the longest gap, and never less than three keepalives.
    pub warntime: Duration,
    /// Twice that, and never less than `fencetime` needs beside it.
    pub deadtime: Duration,
}

/// The shortest timers that the longest gap allows (docs/timing.md). None while too little was measured.
#[must_use]
pub fn suggest(measured: Measured, keepalive: Duration) -> Option<Suggestion> {
    if measured.gaps < ENOUGH {
        return None;
    }
    let warntime = rounded_up((measured.worst * 2).max(keepalive * 3));
    // fencetime lies between: derived from deadtime as (deadtime − 100 ms) / 1.25, it must exceed warntime.
    let least = (warntime + keepalive).mul_f64(1.25) + Duration::from_millis(100);
    Some(Suggestion { warntime, deadtime: rounded_up((warntime * 2).max(least)) })
}

fn rounded_up(d: Duration) -> Duration {
    let ms = u64::try_from(d.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Duration::from_millis(ms.div_ceil(STEP_MS).saturating_mul(STEP_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Duration = Duration::from_millis(1500);

    fn at(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_worst_of_a_day_and_not_of_the_day_before() {
        let mut day = Day::default();
        day.gap(ms(700), DEAD, at(10));
        for hour in 0..30 {
            day.gap(ms(100 + hour), DEAD, at(4000 + hour * 3600));
        }
        let got = day.measured(at(4000 + 29 * 3600 + 60));
        assert_eq!(got.worst, ms(129), "the 700 ms are older than a day");
        assert_eq!(got.gaps, 24);
        assert_eq!(got.over, ms((23 * 3600 + 60) * 1000));
    }

    #[test]
    fn a_silence_is_a_fault_and_no_delay() {
        let mut day = Day::default();
        day.gap(ms(110), DEAD, at(1));
        day.gap(ms(60_000), DEAD, at(61));
        let Measured { worst, gaps, silences, .. } = day.measured(at(62));
        assert_eq!((worst, gaps, silences), (ms(110), 1, 1));
    }

    #[test]
    fn nothing_is_suggested_of_too_little() {
        let few = Measured { worst: ms(110), gaps: ENOUGH - 1, ..Measured::default() };
        assert_eq!(suggest(few, ms(100)), None);
    }

    /// Whatever was measured, the specification takes what is suggested, with fencetime left out.
    #[test]
    fn every_suggestion_is_a_valid_configuration() {
        for keepalive in [50, 100, 250, 1000] {
            for worst in (50..3000).step_by(37) {
                let measured = Measured { worst: ms(worst), gaps: ENOUGH, ..Measured::default() };
                let got = suggest(measured, ms(keepalive)).expect("enough was measured");
                let fencetime = (got.deadtime - ms(100)).div_f64(1.25);
                assert!(
                    ms(keepalive) < got.warntime && got.warntime < fencetime,
                    "{keepalive} {worst} {got:?}"
                );
                assert!(got.deadtime >= ms(worst * 4), "{worst} {got:?}");
            }
        }
    }

    #[test]
    fn the_example_of_the_documentation() {
        let measured = Measured { worst: ms(140), gaps: 864_000, ..Measured::default() };
        let got = suggest(measured, ms(100)).expect("enough was measured");
        assert_eq!((got.warntime, got.deadtime), (ms(300), ms(600)));
    }
}
