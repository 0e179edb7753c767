//! One health check of a group: from single outcomes to what they mean.
//!
//! ```text
//!              `rise` successes                     `fall` failures
//!   Starting ───────────────────► Passing ─────────────────────────────► Failing
//!      ▲                             ▲  `fall` failures, no cure by a move ─► Alarm
//!      └── the group begins to serve └────────────── `rise` successes ─────────┘
//! ```
//!
//! A check counts only after it has passed once since the group began to serve here: a slow start is the start timeout's
//! business, and one that never passes only raises an alarm after it. What could not be found out (the engine does not
//! answer) is neither a success nor a failure. After a failure that was acted upon, and after the end of a service that it is
//! about, failures count again only after `start_period`, so that a restart is not judged while it happens.

use baton_replicator::types::Instant;
use std::time::Duration;

/// What a single check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Not so: why.
    Bad(String),
    /// Not so, and neither a restart nor another node would help (the replicated disk is full): why.
    Incurable(String),
    /// It could not be found out: why.
    Unknown(String),
}

/// What is done about a check that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The service is restarted in place; after `migration_threshold` failures the group moves.
    #[default]
    Restart,
    /// The group moves at once, if a standby is ready.
    Move,
    /// People are told, nothing else.
    Alarm,
}

impl OnFailure {
    /// The word of the specification.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Move => "move",
            Self::Alarm => "alarm",
        }
    }
}

/// Where a check stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Has not passed since the group began to serve here.
    #[default]
    Starting,
    /// Passes.
    Passing,
    /// Fails.
    Failing,
    /// Fails for a reason that neither a restart nor a move would cure, or never passed at all: a person has to see to it.
    Alarm,
}

/// When a check counts as passed or failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Successes in a row that make it pass.
    pub rise: u32,
    /// Failures in a row that make it fail.
    pub fall: u32,
    /// Failures in this time after one that was acted upon, or after the end of a service, do not count.
    pub start_period: Duration,
    /// One that has not passed for this long since the group began to serve raises an alarm.
    pub start_timeout: Duration,
    /// What is done about a failure.
    pub on_failure: OnFailure,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It passes; what it was before.
    Passes(State),
    /// It fails: to be acted upon as `on_failure` says.
    Fails(String),
    /// It fails for longer than a cure took: to be acted upon again.
    StillFails(String),
    /// A person has to see to it.
    Alarm(String),
}

/// The memory of one check.
#[derive(Clone, Debug)]
pub struct Judge {
    limits: Limits,
    state: State,
    begun: Instant,
    since: Instant,
    good: u32,
    bad: u32,
    /// Failures do not count before this.
    quiet_until: Instant,
    /// The last end or start of a service that it was spared for.
    spared: Instant,
}

impl Judge {
    /// Of a group that begins to serve now.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        let state = State::Starting;
        Self { limits, state, begun: now, since: now, good: 0, bad: 0, quiet_until: now, spared: now }
    }

    /// Where it stands, and since when.
    #[must_use]
    pub fn state(&self) -> (State, Instant) {
        (self.state, self.since)
    }

    /// A service that it is about ended `at` this time, or was started again: that is dealt with, and takes its time.
    pub fn spare(&mut self, at: Instant) {
        if at <= self.spared {
            return;
        }
        self.spared = at;
        self.bad = 0;
        self.quiet_until = self.quiet_until.max(at.plus(self.limits.start_period));
    }

    /// Takes what was found.
    pub fn take(&mut self, outcome: &Outcome, now: Instant) -> Option<News> {
        match outcome {
            Outcome::Good => {
                self.bad = 0;
                self.good = self.good.saturating_add(1);
                if self.good < self.limits.rise.max(1) {
                    return None;
                }
                // What comes back is not spared any longer.
                self.quiet_until = now;
                (self.state != State::Passing).then(|| News::Passes(self.become_(State::Passing, now)))
            }
            Outcome::Unknown(_) => None,
            Outcome::Bad(why) | Outcome::Incurable(why) => {
                self.good = 0;
                if self.state == State::Starting {
                    let late = now.since(self.begun) >= self.limits.start_timeout;
                    return late.then(|| {
                        self.become_(State::Alarm, now);
                        News::Alarm(why.clone())
                    });
                }
                if now < self.quiet_until {
                    return None;
                }
                self.bad = self.bad.saturating_add(1);
                if self.bad < self.limits.fall.max(1) {
                    return None;
                }
                self.bad = 0;
                self.failed(outcome, why, now)
            }
        }
    }

    fn failed(&mut self, outcome: &Outcome, why: &str, now: Instant) -> Option<News> {
        let incurable = matches!(outcome, Outcome::Incurable(_));
        match self.state {
            // Once an alarm, it is acted upon only after it has passed: it never passed, or the cause may still be there.
            State::Alarm => None,
            State::Starting | State::Passing | State::Failing if incurable => {
                self.become_(State::Alarm, now);
                Some(News::Alarm(why.to_owned()))
            }
            State::Failing if self.limits.on_failure == OnFailure::Alarm => None,
            State::Failing => {
                self.quiet_until = now.plus(self.limits.start_period);
                Some(News::StillFails(why.to_owned()))
            }
            State::Starting | State::Passing => {
                self.become_(State::Failing, now);
                self.quiet_until = now.plus(self.limits.start_period);
                Some(News::Fails(why.to_owned()))
            }
        }
    }

    fn become_(&mut self, next: State, now: Instant) -> State {
        self.since = now;
        std::mem::replace(&mut self.state, next)
    }
}

/// How far into its interval a check begins: a matter of its name only, so that many of them are spread evenly, and each
/// keeps its place (FNV-1a).
#[must_use]
pub fn phase(name: &str, jitter: Duration) -> Duration {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The upper half: the lower bits of neighbours like check-1 and check-2 differ too little.
    let part =
        u32::try_from((hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32).unwrap_or(u32::MAX);
    let nanos = jitter.as_nanos() * u128::from(part) / (u128::from(u32::MAX) + 1);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(on_failure: OnFailure) -> Limits {
        let (start_period, start_timeout) = (Duration::from_secs(10), Duration::from_secs(60));
        Limits { rise: 2, fall: 3, start_period, start_timeout, on_failure }
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn bad() -> Outcome {
        Outcome::Bad("refused".into())
    }

    /// One outcome per second, `g`ood, `b`ad, `i`ncurable or `u`nknown; the news with the second they came in.
    fn story(limits: Limits, outcomes: &str) -> Vec<(u64, News)> {
        let mut judge = Judge::new(limits, at(0));
        let mut told = Vec::new();
        for (second, letter) in (0..).zip(outcomes.chars()) {
            let outcome = match letter {
                'g' => Outcome::Good,
                'b' => bad(),
                'i' => Outcome::Incurable("full".into()),
                _ => Outcome::Unknown("no answer".into()),
            };
            told.extend(judge.take(&outcome, at(second)).map(|news| (second, news)));
        }
        told
    }

    #[test]
    fn rise_and_fall_are_counted_in_a_row() {
        let restart = limits(OnFailure::Restart);
        assert_eq!(story(restart, "gbgbgg"), [(5, News::Passes(State::Starting))]);
        let told = story(restart, "ggbbgbbgbbb");
        assert_eq!(told[1..], [(10, News::Fails("refused".into()))]);
    }

    #[test]
    fn what_is_unknown_is_neither_good_nor_bad() {
        let told = story(limits(OnFailure::Restart), "ggbuuuuuuubuuuub");
        assert_eq!(told[1..], [(15, News::Fails("refused".into()))]);
        assert_eq!(story(limits(OnFailure::Restart), "gguuuuuuuuuuuuu").len(), 1);
    }

    /// A restart takes its time: failures within `start_period` of it do not count, those after it do.
    #[test]
    fn a_cure_gets_its_time_before_it_is_judged() {
        let told = story(limits(OnFailure::Restart), &format!("ggbbb{}", "b".repeat(14)));
        assert_eq!(told[1..], [(4, News::Fails("refused".into())), (16, News::StillFails("refused".into()))]);
        // Once it is back, the next failure counts at once.
        let told = story(limits(OnFailure::Restart), "ggbbbbggbbb");
        assert_eq!(told[2..], [(7, News::Passes(State::Failing)), (10, News::Fails("refused".into()))]);
    }

    /// The end of a service is a failure already: that its check fails, too, until it is back, is none of its own.
    #[test]
    fn a_service_that_is_started_again_is_not_judged_meanwhile() {
        let mut judge = Judge::new(limits(OnFailure::Restart), at(0));
        let take = |judge: &mut Judge, outcome: Outcome, seconds: std::ops::Range<u64>| -> Vec<u64> {
            seconds.filter(|second| judge.take(&outcome, at(*second)).is_some()).collect()
        };
        judge.spare(at(0));
        assert_eq!(take(&mut judge, Outcome::Good, 0..3), [1]);
        // Two failures before it is known why are taken back.
        assert!(take(&mut judge, bad(), 3..5).is_empty());
        judge.spare(at(4));
        assert!(take(&mut judge, bad(), 5..14).is_empty());
        judge.spare(at(4));
        assert_eq!(take(&mut judge, bad(), 14..17), [16], "it does not come back");
        // Each start gets its time; once it is back, the next failure counts at once.
        judge.spare(at(30));
        assert!(take(&mut judge, bad(), 31..38).is_empty());
        judge.spare(at(38));
        assert!(take(&mut judge, bad(), 38..48).is_empty());
        assert_eq!(take(&mut judge, Outcome::Good, 48..50), [49]);
        judge.spare(at(38));
        assert_eq!(take(&mut judge, bad(), 50..53), [52]);
    }

    #[test]
    fn a_full_disk_is_an_alarm_and_never_a_failure() {
        let told = story(limits(OnFailure::Restart), &format!("gg{}gg", "i".repeat(40)));
        assert_eq!(told[1..], [(4, News::Alarm("full".into())), (43, News::Passes(State::Alarm))]);
        // Neither is what follows from it, until it passes again.
        assert_eq!(story(limits(OnFailure::Restart), &format!("ggiii{}", "b".repeat(40))).len(), 2);
    }

    #[test]
    fn an_alarm_is_told_once_and_nothing_is_done() {
        let told = story(limits(OnFailure::Alarm), &format!("gg{}", "b".repeat(40)));
        assert_eq!(told[1..], [(4, News::Fails("refused".into()))]);
    }

    /// A slow start is not a failure; one that never ends is told once, and cures nothing.
    #[test]
    fn a_check_that_never_passed_only_raises_an_alarm() {
        let told = story(limits(OnFailure::Restart), &"b".repeat(200));
        assert_eq!(told, [(60, News::Alarm("refused".into()))]);
    }

    #[test]
    fn a_hundred_checks_are_spread_over_their_interval_and_stay_where_they_are() {
        let interval = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for n in 0..100 {
            let name = format!("web/check-{n}");
            assert_eq!(phase(&name, interval), phase(&name, interval));
            tenths[usize::try_from(phase(&name, interval).as_millis() / 100).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (2..=20).contains(n)), "{tenths:?}");
        assert_eq!(phase("web", Duration::ZERO), Duration::ZERO);
    }
}
