//! Messages to one target that wait for their delivery. Pure: what is kept on disk and when it is tried is done
//! elsewhere ([`super::worker`]).
//!
//! They go out in order. A failed attempt is repeated after ever longer pauses, for a day; a new message asks for an
//! attempt soon, because whatever was wrong may be mended by now.

use super::message::{Kind, Message, between};
use baton_replicator::types::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Messages kept; more than a target with the largest limit gets in a day is a server that is gone. Then the oldest of
/// the least severe is given up.
pub const MOST: usize = 500;
/// Pauses after the first, second, … failure in a row; the last one repeats.
const PAUSES: [Duration; 8] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(600),
    Duration::from_secs(900),
    Duration::from_secs(1800),
    Duration::from_secs(3600),
];
/// A message this old is given up.
const TOO_OLD: Duration = Duration::from_secs(24 * 3600);

/// A message with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Grows; the file's name.
    pub id: u64,
    /// The message.
    pub message: Message,
}

/// The queue.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    items: VecDeque<Item>,
    next_id: u64,
    failures: usize,
    not_before: Option<Instant>,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again.
    Again,
    /// Never.
    GivenUp,
}

impl Queue {
    /// With what an earlier run left, oldest first.
    #[must_use]
    pub fn of(items: Vec<Item>) -> Self {
        let next_id = items.iter().map(|i| i.id + 1).max().unwrap_or(0);
        Self { items: items.into(), next_id, ..Self::default() }
    }

    /// Messages that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes a message; returns it with its number, and those that it replaces and that had to go for it. `in_flight`
    /// is being tried at the moment and stays.
    pub fn push(
        &mut self,
        mut message: Message,
        in_flight: Option<u64>,
        now: Instant,
    ) -> (Item, Vec<Item>, Vec<Item>) {
        let mut replaced = Vec::new();
        if message.kind == Kind::End {
            let same = |i: &Item| i.message.incident == message.incident && Some(i.id) != in_flight;
            replaced = self.remove(same);
            if !replaced.is_empty() {
                message.notes.push("Its begin could not be delivered when it happened".into());
            }
        }
        let mut given_up = Vec::new();
        while self.items.len() >= MOST {
            let free = self.items.iter().filter(|i| Some(i.id) != in_flight);
            let Some(id) = free.min_by_key(|i| (i.message.severity, i.id)).map(|i| i.id) else { break };
            given_up.extend(self.remove(|i| i.id == id));
        }
        let item = Item { id: self.next_id, message };
        self.next_id += 1;
        self.items.push_back(item.clone());
        self.not_before = self.not_before.map(|at| at.min(now.plus(PAUSES[0])));
        (item, replaced, given_up)
    }

    /// The message to try now.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<&Item> {
        self.items.front().filter(|_| self.not_before.is_none_or(|at| now >= at))
    }

    /// When to look again; none if only a new message changes anything.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.items.front().map(|_| self.not_before.unwrap_or(Instant::ZERO))
    }

    /// It has been delivered.
    pub fn delivered(&mut self, id: u64) {
        self.remove(|i| i.id == id);
        self.failures = 0;
        self.not_before = None;
    }

    /// It has not. `at` is the wall clock (RFC 3339), by which its age is known.
    pub fn failed(&mut self, id: u64, fatal: bool, now: Instant, at: &str) -> Verdict {
        let old = |i: &Item| between(&i.message.at, at).is_some_and(|age| age >= TOO_OLD);
        let give_up = fatal || self.items.iter().any(|i| i.id == id && old(i));
        if give_up {
            self.remove(|i| i.id == id);
        }
        if fatal {
            // The server works; it does not want this one.
            self.not_before = None;
            return Verdict::GivenUp;
        }
        let pause = PAUSES[self.failures.min(PAUSES.len() - 1)];
        self.failures += 1;
        self.not_before = Some(now.plus(pause));
        if give_up { Verdict::GivenUp } else { Verdict::Again }
    }

    fn remove(&mut self, which: impl Fn(&Item) -> bool) -> Vec<Item> {
        let (gone, kept) = std::mem::take(&mut self.items).into_iter().partition(|i| which(i));
        self.items = kept;
        gone.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture::node;
    use crate::notify::text::test_message;
    use crate::spec::Severity;

    const AT: &str = "2026-11-21T03:10:00Z";

    fn message(incident: &str, kind: Kind) -> Message {
        let key = incident.to_owned();
        Message { incident: key.clone(), key, kind, ..test_message("demo", &node("alpha"), "x", AT) }
    }

    fn seconds(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }

    #[test]
    fn pauses_grow_and_a_success_ends_them() {
        let mut q = Queue::default();
        let (a, ..) = q.push(message("a", Kind::Event), None, seconds(0));
        q.push(message("b", Kind::Event), None, seconds(0));
        let mut now = seconds(0);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            assert_eq!(q.due(now).map(|i| i.id), Some(a.id), "in order");
            assert_eq!(q.failed(a.id, false, now, AT), Verdict::Again);
            let next = q.next().unwrap();
            pauses.push(next.since(now).as_secs());
            assert_eq!(q.due(next.plus(Duration::ZERO)).map(|i| i.id), Some(a.id));
            now = next;
        }
        assert_eq!(pauses, [5, 15, 60, 300, 600, 900, 1800, 3600, 3600, 3600]);
        q.delivered(a.id);
        assert_eq!((q.len(), q.next()), (1, Some(Instant::ZERO)));
    }

    #[test]
    fn after_a_day_or_a_refusal_it_is_given_up_and_the_next_one_goes() {
        let mut q = Queue::default();
        let (a, ..) = q.push(message("a", Kind::Event), None, seconds(0));
        let (b, ..) = q.push(message("b", Kind::Event), None, seconds(0));
        assert_eq!(q.failed(a.id, false, seconds(9), "2026-11-22T03:10:00Z"), Verdict::GivenUp);
        assert_eq!(q.failed(b.id, true, seconds(60), AT), Verdict::GivenUp);
        assert!(q.is_empty() && q.next().is_none());
    }

    #[test]
    fn a_new_message_shortens_a_long_pause() {
        let mut q = Queue::default();
        let (a, ..) = q.push(message("a", Kind::Event), None, seconds(0));
        for _ in 0..8 {
            q.failed(a.id, false, seconds(0), AT);
        }
        assert_eq!(q.next(), Some(seconds(3600)));
        q.push(message("b", Kind::Event), None, seconds(100));
        assert_eq!(q.next(), Some(seconds(105)));
    }

    #[test]
    fn an_end_replaces_a_begin_that_never_went_out() {
        let mut q = Queue::default();
        let (begin, ..) = q.push(message("a", Kind::Begin), None, seconds(0));
        let (end, replaced, _) = q.push(message("a", Kind::End), None, seconds(9));
        assert_eq!((replaced, q.len()), (vec![begin], 1));
        assert_eq!(end.message.notes.len(), 1);
        let (begin, ..) = q.push(message("b", Kind::Begin), None, seconds(0));
        let (end, replaced, _) = q.push(message("b", Kind::End), Some(begin.id), seconds(9));
        assert!(replaced.is_empty() && end.message.notes.is_empty(), "it is on its way");
    }

    #[test]
    fn the_least_severe_and_oldest_has_to_go() {
        let mut q = Queue::default();
        q.push(Message { severity: Severity::Critical, ..message("worst", Kind::Event) }, None, seconds(0));
        for n in 0..MOST - 1 {
            q.push(message(&n.to_string(), Kind::Event), None, seconds(0));
        }
        let (_, _, gone) = q.push(message("one more", Kind::Event), Some(1), seconds(0));
        assert_eq!(gone.iter().map(|i| i.id).collect::<Vec<_>>(), [2], "1 is being tried");
        assert_eq!(q.len(), MOST);
        let again = Queue::of(q.items.into());
        assert_eq!((again.len(), again.next_id), (MOST, 501));
    }
}
