//! Measures a change of leadership by step, from the last sign of life of the old leader to the first good answer.
//!
//! Fed with what the cores and the checks say; decides nothing. A timeline is told once, when it is whole: with the first
//! check that succeeds; without one when the group has no checks, stops serving, or does not answer in [`PATIENCE`].

use super::history::rfc3339;
use crate::core::group::State;
use crate::status::{Takeover, TakeoverStep};
use baton_replicator::types::{Epoch, Instant};
use std::time::{Duration, SystemTime};

/// A first good answer that comes later than this is no part of the takeover: a database that replays its log for
/// minutes says so by its check.
const PATIENCE: Duration = Duration::from_secs(60);

/// How this node came to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unplanned.
    Takeover,
    /// Planned.
    Handover,
    /// The group had never run.
    FirstStart,
    /// The agent came back.
    Resume,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Takeover => "takeover",
            Self::Handover => "handover",
            Self::FirstStart => "first start",
            Self::Resume => "resume",
        }
    }
}

/// A change of the group's state on this node.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// State before.
    pub before: State,
    /// State from now on.
    pub after: State,
    /// How this node came to lead, if it just did.
    pub kind: Kind,
    /// Epoch known.
    pub epoch: Epoch,
    /// Last sign of life of the old leader.
    pub sign: Instant,
    /// When the parts of the last start were done.
    pub marks: &'a [(&'static str, Instant)],
}

#[derive(Clone, Debug)]
struct Running {
    kind: Kind,
    steps: Vec<(String, Instant)>,
    from: Instant,
}

/// Follows one group on this node.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    running: Option<Running>,
    last: Option<Takeover>,
    waits: Option<Waits>,
    whole: Option<Takeover>,
}

/// Serves, and has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Waits {
    from: Instant,
    served: Instant,
}

impl Tracker {
    /// The newest change of leadership that ended in serving here.
    #[must_use]
    pub fn last(&self) -> Option<&Takeover> {
        self.last.as_ref()
    }

    /// The change of leadership under way here, with the steps that are done; its time is that of these steps.
    #[must_use]
    pub fn under_way(&self, epoch: Epoch, marks: &[(&'static str, Instant)]) -> Option<Takeover> {
        let running = self.running.clone()?;
        // Marks of an earlier start are older than this change.
        let marks: Vec<_> = marks.iter().filter(|(_, at)| *at >= running.from).copied().collect();
        let (kind, from) = (running.kind, running.from);
        let (steps, end) = steps_of(running, &marks);
        let at = rfc3339(SystemTime::now());
        Some(Takeover { kind: kind.word().into(), epoch, at, steps, total_ms: millis(from, end) })
    }

    /// The timeline of a change of leadership that is whole now; once.
    pub fn take_whole(&mut self) -> Option<Takeover> {
        self.whole.take()
    }

    /// The first check succeeded since the group began to serve.
    pub fn on_answer(&mut self, now: Instant) {
        if let (Some(waits), Some(last)) = (self.waits.take(), &mut self.last) {
            let (ms, at_ms) = (millis(waits.served, now), millis(waits.from, now));
            last.steps.push(TakeoverStep { step: "answer".into(), ms, at_ms });
            self.whole = Some(last.clone());
        }
    }

    /// Time passed, `checks` says whether an answer is to be expected.
    pub fn on_tick(&mut self, checks: bool, now: Instant) {
        if self.waits.is_some_and(|w| !checks || now.since(w.served) >= PATIENCE) {
            self.no_answer();
        }
    }

    fn no_answer(&mut self) {
        if self.waits.take().is_some() {
            self.whole.clone_from(&self.last);
        }
    }

    /// The group's state changed.
    pub fn on_state(&mut self, change: Change<'_>, now: Instant) {
        let Change { before, after: now_is, kind, epoch, sign, marks } = change;
        if now_is != State::Serving {
            self.no_answer();
        }
        if !now_is.leads() {
            if now_is == State::Campaigning && before == State::Standby {
                // Kind is known when it has been won.
                self.running =
                    Some(Running { kind: Kind::Takeover, steps: vec![("detect".into(), now)], from: sign });
            } else if now_is != State::Campaigning {
                self.running = None;
            }
            return;
        }
        if !before.leads() {
            let mut running = self.running.take().filter(|_| kind == Kind::Takeover).unwrap_or(Running {
                kind,
                steps: Vec::new(),
                from: now,
            });
            running.kind = kind;
            if kind == Kind::Takeover {
                running.steps.push(("decide".into(), now));
            }
            self.running = Some(running);
        }
        match (now_is, &mut self.running) {
            (State::Starting, Some(running)) if !running.steps.iter().any(|s| s.0 == "wait") => {
                running.steps.push(("wait".into(), now));
            }
            (State::Serving, Some(_)) => self.finish(epoch, marks, now),
            _ => {}
        }
    }

    fn finish(&mut self, epoch: Epoch, marks: &[(&'static str, Instant)], now: Instant) {
        let Some(running) = self.running.take() else { return };
        let (kind, from) = (running.kind, running.from);
        self.last = Some(Takeover {
            kind: kind.word().into(),
            epoch,
            at: rfc3339(SystemTime::now()),
            steps: steps_of(running, marks).0,
            total_ms: millis(from, now),
        });
        self.waits = Some(Waits { from, served: now });
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

/// The steps with how long each took, and when the last of them ended.
fn steps_of(mut running: Running, marks: &[(&'static str, Instant)]) -> (Vec<TakeoverStep>, Instant) {
    running
        .steps
        .extend(marks.iter().filter(|(name, _)| *name != "begin").map(|(n, at)| ((*n).to_owned(), *at)));
    running.steps.sort_by_key(|(_, at)| *at);
    let from = running.from;
    let mut at = from;
    let mut steps = Vec::new();
    for (step, end) in running.steps {
        steps.push(TakeoverStep { step, ms: millis(at, end), at_ms: millis(from, end) });
        at = at.max(end);
    }
    (steps, at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::TermId;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_takeover_is_counted_from_the_last_sign_of_life() {
        let mut t = Tracker::default();
        let epoch = Epoch { number: 2, term: TermId(1) };
        let mut go = |before, after, marks: &[(&'static str, Instant)], now| {
            t.on_state(Change { before, after, kind: Kind::Takeover, epoch, sign: at(1000), marks }, at(now));
        };
        go(State::Standby, State::Campaigning, &[], 2500);
        go(State::Campaigning, State::Waiting, &[], 2520);
        go(State::Waiting, State::Starting, &[], 2530);
        let marks =
            [("begin", at(2530)), ("volumes", at(2600)), ("addresses", at(2610)), ("services", at(2800))];
        let so_far = t.under_way(epoch, &marks[..2]).unwrap();
        let names: Vec<&str> = so_far.steps.iter().map(|s| s.step.as_str()).collect();
        assert_eq!((names.join(" "), so_far.total_ms), ("detect decide wait volumes".into(), 1600));
        let old = [("begin", at(10)), ("volumes", at(20))];
        assert_eq!(
            t.under_way(epoch, &old).unwrap().steps.len(),
            3,
            "marks of an earlier start do not count"
        );
        let mut go = |before, after, marks: &[(&'static str, Instant)], now| {
            t.on_state(Change { before, after, kind: Kind::Takeover, epoch, sign: at(1000), marks }, at(now));
        };
        go(State::Starting, State::Serving, &marks, 2810);
        assert_eq!(t.under_way(epoch, &marks), None);
        let last = t.last().unwrap();
        let steps: Vec<(&str, u64)> = last.steps.iter().map(|s| (s.step.as_str(), s.ms)).collect();
        let expected = [
            ("detect", 1500),
            ("decide", 20),
            ("wait", 10),
            ("volumes", 70),
            ("addresses", 10),
            ("services", 190),
        ];
        assert_eq!(steps, expected);
        assert_eq!((last.kind.as_str(), last.total_ms), ("takeover", 1810));
    }

    /// Serves from 1000 ms on, after a takeover that began at 0.
    fn serving() -> Tracker {
        let mut t = Tracker::default();
        let epoch = Epoch { number: 2, term: TermId(1) };
        for (before, after, now) in [
            (State::Standby, State::Campaigning, 700),
            (State::Campaigning, State::Waiting, 800),
            (State::Waiting, State::Starting, 900),
            (State::Starting, State::Serving, 1000),
        ] {
            let change = Change { before, after, kind: Kind::Takeover, epoch, sign: at(0), marks: &[] };
            t.on_state(change, at(now));
        }
        t
    }

    #[test]
    fn the_first_good_answer_makes_the_timeline_whole() {
        let mut t = serving();
        t.on_tick(true, at(1200));
        assert_eq!(t.take_whole(), None, "a check is to be expected");
        t.on_answer(at(1300));
        let whole = t.take_whole().unwrap();
        let answer = whole.steps.last().unwrap();
        assert_eq!((answer.step.as_str(), answer.ms, answer.at_ms), ("answer", 300, 1300));
        assert_eq!((whole.total_ms, t.last()), (1000, Some(&whole)));
        t.on_answer(at(1400));
        assert_eq!(t.take_whole(), None, "only the first counts, and it is told once");
    }

    #[test]
    fn without_an_answer_it_is_told_all_the_same() {
        let answers = |t: &mut Tracker| t.take_whole().map(|w| w.steps.iter().any(|s| s.step == "answer"));
        let mut none = serving();
        none.on_tick(false, at(1001));
        assert_eq!(answers(&mut none), Some(false), "there is no check");
        let mut late = serving();
        late.on_tick(true, at(60_999));
        assert_eq!(answers(&mut late), None);
        late.on_tick(true, at(61_000));
        assert_eq!(answers(&mut late), Some(false));
        let mut fenced = serving();
        let epoch = Epoch { number: 2, term: TermId(1) };
        let (before, after) = (State::Serving, State::Fenced);
        let change = Change { before, after, kind: Kind::Takeover, epoch, sign: at(0), marks: &[] };
        fenced.on_state(change, at(1100));
        assert_eq!(answers(&mut fenced), Some(false));
        fenced.on_answer(at(1200));
        assert_eq!(answers(&mut fenced), None, "an answer after that is of another time");
    }

    #[test]
    fn a_resume_counts_from_the_agents_return_and_a_fence_later_is_no_takeover() {
        let mut t = Tracker::default();
        let epoch = Epoch { number: 2, term: TermId(1) };
        let mut go = |before, after, now| {
            t.on_state(Change { before, after, kind: Kind::Resume, epoch, sign: at(0), marks: &[] }, at(now));
            t.last().map(|last| last.total_ms)
        };
        go(State::Joining, State::Waiting, 100);
        go(State::Waiting, State::Starting, 300);
        assert_eq!(go(State::Starting, State::Serving, 310), Some(210));
        go(State::Serving, State::Fenced, 9000);
        go(State::Fenced, State::Starting, 9500);
        assert_eq!(go(State::Starting, State::Serving, 9900), Some(210));
    }
}
