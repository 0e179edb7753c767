//! The bars, and who held them: with the worst of at least ten runs, or not at all.

use crate::candidate::Candidate;
use crate::fault::Fault;
use crate::sample::{Load, Results, Summary};
use std::time::Duration;

/// Fewer runs judge nothing.
pub const RUNS: usize = 10;
/// Fewer minutes of load neither.
pub const LOAD_MINUTES: f64 = 10.0;

/// What came of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was held.
    Passed,
    /// It was not.
    Missed,
    /// There are no samples, or too few.
    Open,
}

/// A bar and what was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What it asks for.
    pub text: String,
    /// The bound.
    pub bound: String,
    /// What was measured.
    pub found: String,
    /// What that means.
    pub verdict: Verdict,
}

/// All of them.
pub fn bars(results: &Results) -> Vec<Bar> {
    use Candidate::{Data, DataFast, Hot, HotFast, HotShort};
    let ms = Duration::from_millis;
    let mut all = vec![
        at_most(results, Hot, Fault::Power, ms(300) + Hot.silence()),
        at_most(results, Hot, Fault::Move, ms(150)),
        at_most(results, HotFast, Fault::Power, ms(800)),
        at_most(results, HotFast, Fault::Move, ms(150)),
    ];
    for candidate in [HotFast, HotShort, DataFast] {
        all.push(still(results, candidate));
    }
    all.extend([HotFast, HotShort].map(|candidate| ahead(results, candidate)));
    for candidate in [Data, DataFast] {
        all.push(at_most(results, candidate, Fault::Power, ms(1000) + candidate.silence()));
        let bound = ms(3000) + candidate.silence();
        let text = format!("{}: power cut, first committed write", candidate.title());
        all.push(bound_of(text, results.writes(candidate, Fault::Power), bound));
    }
    all
}

fn at_most(results: &Results, candidate: Candidate, fault: Fault, bound: Duration) -> Bar {
    let text = format!("{}: {}, HTTP", candidate.title(), fault.title());
    bound_of(text, results.http(candidate, fault), bound)
}

fn bound_of(text: String, found: Option<Summary>, bound: Duration) -> Bar {
    let limit = bound.as_secs_f64() * 1000.0;
    let verdict = match found {
        Some(s) if s.worst > limit => Verdict::Missed,
        Some(s) if s.runs >= RUNS => Verdict::Passed,
        Some(_) | None => Verdict::Open,
    };
    let found = found.map_or_else(String::new, |s| format!("worst of {}: {:.0} ms", s.runs, s.worst));
    Bar { text, bound: format!("at most {limit:.0} ms"), found, verdict }
}

/// Nothing moved under load, for long enough to say so.
fn survived(load: Option<&Load>) -> Verdict {
    match load {
        Some(l) if l.takeovers > 0 => Verdict::Missed,
        // A sleep is never short, but a figure that was read may be.
        Some(l) if l.minutes > LOAD_MINUTES - 0.01 => Verdict::Passed,
        Some(_) | None => Verdict::Open,
    }
}

fn still(results: &Results, candidate: Candidate) -> Bar {
    let load = results.load(candidate);
    Bar {
        text: format!("{}: full load on all processors", candidate.title()),
        bound: format!("no takeover in {LOAD_MINUTES:.0} min"),
        found: load.map_or_else(String::new, |l| format!("{} in {:.0} min", l.takeovers, l.minutes)),
        verdict: survived(load),
    }
}

/// A candidate is ahead of every peer that stays still under load, by the median and by the worst.
fn ahead(results: &Results, candidate: Candidate) -> Bar {
    let fast = results.http(candidate, Fault::Power);
    let mut verdict = if fast.is_some_and(|s| s.runs >= RUNS) { Verdict::Passed } else { Verdict::Open };
    let mut found = Vec::new();
    for peer in Candidate::ALL.into_iter().filter(|c| c.peer().is_some()) {
        let (Some(fast), Some(theirs)) = (fast, results.http(peer, Fault::Power)) else {
            verdict = open(verdict);
            continue;
        };
        let behind = fast.median >= theirs.median || fast.worst >= theirs.worst;
        match survived(results.load(peer)) {
            // One that moves for nothing is no standard.
            Verdict::Missed => found.push(format!("{} moved under load", peer.title())),
            Verdict::Passed if behind => {
                verdict = Verdict::Missed;
                found.push(format!("{}: {:.0} and {:.0} ms", peer.title(), theirs.median, theirs.worst));
            }
            Verdict::Passed if theirs.runs >= RUNS => {}
            // Ahead of it by whatever it does under load.
            Verdict::Open if !behind && theirs.runs >= RUNS => {}
            Verdict::Passed | Verdict::Open => {
                found.push(format!("{} is not known to stay still", peer.title()));
                verdict = open(verdict);
            }
        }
    }
    if let Some(s) = fast {
        found.insert(0, format!("median {:.0} ms, worst {:.0} ms", s.median, s.worst));
    }
    Bar {
        text: format!("{}: power cut, HTTP", candidate.title()),
        bound: "ahead of every peer that stays still under load".into(),
        found: found.join("; "),
        verdict,
    }
}

/// What is missed stays missed.
fn open(verdict: Verdict) -> Verdict {
    if verdict == Verdict::Missed { verdict } else { Verdict::Open }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    fn add(results: &mut Results, candidate: Candidate, fault: Fault, runs: usize, http_ms: f64) {
        let write_ms = candidate.data().then_some(http_ms + 100.0);
        let sample = Sample { fault, at: 1, http_ms, write_ms, from: "alpha".into(), to: "beta".into() };
        results.0.entry(candidate).or_default().samples.extend(vec![sample; runs]);
    }

    fn loaded(results: &mut Results, candidate: Candidate, minutes: f64, takeovers: u64) {
        let load = Load { at: 1, minutes, takeovers, interruptions: 0, longest_ms: 1.0, busy_percent: 100.0 };
        results.0.entry(candidate).or_default().loads.push(load);
    }

    #[test]
    fn the_worst_of_ten_decides() {
        let mut results = Results::default();
        let verdict = |r: &Results| bars(r)[2].verdict;
        assert_eq!(verdict(&results), Verdict::Open);
        add(&mut results, Candidate::HotFast, Fault::Power, 9, 600.0);
        assert_eq!(verdict(&results), Verdict::Open, "nine are not enough to pass");
        add(&mut results, Candidate::HotFast, Fault::Power, 1, 800.0);
        assert_eq!(verdict(&results), Verdict::Passed, "at most is at most");
        add(&mut results, Candidate::HotFast, Fault::Power, 1, 801.0);
        assert_eq!(verdict(&results), Verdict::Missed);
    }

    #[test]
    fn bounds_are_those_of_the_timers() {
        let bounds: Vec<_> = bars(&Results::default()).into_iter().map(|b| b.bound).collect();
        for (n, ms) in
            [(0, 1800), (1, 150), (2, 800), (3, 150), (9, 2500), (10, 4500), (11, 1500), (12, 3500)]
        {
            assert_eq!(bounds[n], format!("at most {ms} ms"));
        }
    }

    #[test]
    fn one_takeover_under_load_is_one_too_many_and_nine_minutes_are_too_few() {
        let verdict = |minutes, takeovers| {
            let mut results = Results::default();
            loaded(&mut results, Candidate::HotFast, minutes, takeovers);
            still(&results, Candidate::HotFast).verdict
        };
        assert_eq!(verdict(10.0, 0), Verdict::Passed);
        assert_eq!(verdict(10.0, 1), Verdict::Missed);
        assert_eq!(verdict(9.0, 0), Verdict::Open);
        assert_eq!(verdict(1.0, 1), Verdict::Missed, "it will not get better");
    }

    #[test]
    fn only_peers_that_stay_still_are_a_standard() {
        let peers = || Candidate::ALL.into_iter().filter(|c| c.peer().is_some());
        let with = |tuned_ms: f64, minutes: f64, takeovers: u64| {
            let mut results = Results::default();
            add(&mut results, Candidate::HotFast, Fault::Power, 10, 600.0);
            for peer in peers() {
                let ms = if peer == Candidate::KeepalivedTuned { tuned_ms } else { 5000.0 };
                add(&mut results, peer, Fault::Power, 10, ms);
            }
            loaded(&mut results, Candidate::KeepalivedTuned, minutes, takeovers);
            ahead(&results, Candidate::HotFast)
        };
        assert_eq!(with(700.0, 10.0, 0).verdict, Verdict::Passed);
        let behind = with(350.0, 10.0, 0);
        assert_eq!(behind.verdict, Verdict::Missed);
        assert!(behind.found.contains("keepalived (100 ms): 350 and 350 ms"), "{}", behind.found);
        assert_eq!(with(350.0, 10.0, 2).verdict, Verdict::Passed, "it moved for nothing");
        assert_eq!(with(350.0, 3.0, 0).verdict, Verdict::Open, "nobody knows yet");
        let mut one_missing = Results::default();
        add(&mut one_missing, Candidate::HotFast, Fault::Power, 10, 600.0);
        assert_eq!(ahead(&one_missing, Candidate::HotFast).verdict, Verdict::Open);
    }
}
