//! The judgement over what clients saw.
//!
//! | who | decides |
//! | --- | --- |
//! | [`rows`] | every acknowledged append is in the last read, once; nothing else is but what may be; each read is a prefix of the last one and holds what was acknowledged before it began |
//! | [`transactions`] | the crate `adya`: all transactions together are strictly serializable, over all keys |
//! | [`double_answers`] | two hosts never answer at once |

use crate::history::{History, Kind, Mop};
use adya::{Opts, Report, Valid, Workload};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Wrong facts that are listed; more of them say nothing new.
const LISTED: usize = 20;
/// Time for the search of a cycle. A sound history has none, and this is never reached.
const SEARCH: Duration = Duration::from_secs(30);
/// Answers of a host that are closer to each other than this are of one leadership: no handover there and back is as quick.
const ONE_SPAN: Duration = Duration::from_millis(250);

/// What is wrong with the rows, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Appends whose transaction was acknowledged.
    pub acknowledged: usize,
    /// Reads of acknowledged transactions that were compared.
    pub reads: usize,
    /// Acknowledged, and not in the last read.
    pub lost: usize,
    /// The first ones of everything that is wrong.
    pub wrong: Vec<String>,
}

impl Rows {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        if self.wrong.len() < LISTED {
            self.wrong.push(what());
        }
    }
}

/// Compares all that was acknowledged and read with the lists as they were read last.
pub fn rows(history: &History, last: &BTreeMap<u64, Vec<u64>>) -> Rows {
    let mut rows = Rows::default();
    // Value to (its key, whether it may be there).
    let mut known: HashMap<u64, (u64, Kind)> = HashMap::new();
    for event in &history.0 {
        for mop in &event.mops {
            if let Mop::Append(key, value) = mop {
                known.insert(*value, (*key, event.kind));
            }
        }
    }
    let mut place: HashMap<u64, usize> = HashMap::new();
    for (key, list) in last {
        for (n, value) in list.iter().enumerate() {
            if place.insert(*value, n).is_some() {
                rows.wrong(|| format!("{value} is there twice, list {key}"));
            }
            match known.get(value) {
                None => rows.wrong(|| format!("{value} in list {key} was never appended")),
                Some((own, _)) if own != key => rows.wrong(|| format!("{value} is of list {own}, not {key}")),
                Some((_, Kind::Fail)) => rows.wrong(|| format!("{value} in list {key} was rolled back")),
                Some(_) => {}
            }
        }
    }
    for (value, (key, kind)) in &known {
        if *kind == Kind::Ok {
            rows.acknowledged += 1;
            if !place.contains_key(value) {
                rows.lost += 1;
                rows.wrong(|| format!("{value} was acknowledged and is not in list {key}"));
            }
        }
    }
    reads(history, last, &place, &mut rows);
    rows
}

/// Each read is a prefix of the last one, and holds all that was acknowledged before its transaction began.
fn reads(history: &History, last: &BTreeMap<u64, Vec<u64>>, place: &HashMap<u64, usize>, rows: &mut Rows) {
    // How much of each list was acknowledged by now, and by when each open transaction began.
    let mut settled: HashMap<u64, usize> = HashMap::new();
    let mut begun: HashMap<i64, HashMap<u64, usize>> = HashMap::new();
    for event in &history.0 {
        if event.kind == Kind::Invoke {
            let keys = event.mops.iter().filter_map(|m| match m {
                Mop::Read(key, _) => Some((*key, settled.get(key).copied().unwrap_or(0))),
                Mop::Append(..) => None,
            });
            begun.insert(event.process, keys.collect());
            continue;
        }
        let before = begun.remove(&event.process).unwrap_or_default();
        if event.kind != Kind::Ok {
            continue;
        }
        for mop in &event.mops {
            match mop {
                Mop::Append(key, value) => {
                    let end = place.get(value).map_or(0, |n| n + 1);
                    let known = settled.entry(*key).or_default();
                    *known = end.max(*known);
                }
                Mop::Read(key, Some(list)) => {
                    rows.reads += 1;
                    let whole = last.get(key).map(Vec::as_slice).unwrap_or_default();
                    if !whole.starts_with(list) {
                        rows.wrong(|| format!("list {key} was read as {list:?}, and is {whole:?}"));
                    } else if before.get(key).is_some_and(|least| list.len() < *least) {
                        rows.wrong(|| {
                            format!(
                                "list {key} was read as {list:?} at {:?}, with {} values acknowledged",
                                event.at, before[key]
                            )
                        });
                    }
                }
                Mop::Read(key, None) => rows.wrong(|| format!("a read of list {key} without a result")),
            }
        }
    }
}

/// The existing checker's word on the whole history.
pub fn transactions(history: &History) -> Report {
    let opts = Opts { models: vec!["strict-serializable".into()], timeout: SEARCH, ..Opts::default() };
    adya::check(&history.for_adya(), Workload::ListAppend, &opts)
}

/// What the checker found, shortly; none if the history is sound.
pub fn anomalies(report: &Report) -> Option<String> {
    if report.valid == Valid::True {
        return None;
    }
    let first = report.anomalies.values().flatten().next().map(|a| a.explanation.clone()).unwrap_or_default();
    Some(format!("{:?}: {}. {first}", report.valid, report.anomaly_types.join(", ")))
}

/// An answer: when it was asked for, when it was complete, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question was sent.
    pub begin: Instant,
    /// The answer was there.
    pub end: Instant,
    /// Header `X-Served-By`.
    pub host: String,
}

/// A host that answered while the other one did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Double {
    /// Whose answers should not have been.
    pub host: String,
    /// How many.
    pub answers: usize,
    /// The first of them was asked for.
    pub from: Instant,
    /// From there to the last one's end.
    pub lasted: Duration,
}

/// Answers of a host that were asked for after the other one's answer, and complete before that one was asked for another
/// answer of the same leadership: the two served at once, however long each answer was under way.
pub fn double_answers(mut answers: Vec<Answer>) -> Vec<Double> {
    answers.sort_by_key(|a| a.end);
    let hosts: BTreeSet<String> = answers.iter().map(|a| a.host.clone()).collect();
    let mut doubles: Vec<Double> = Vec::new();
    for host in hosts {
        for (first, last) in spans(answers.iter().filter(|a| a.host == host)) {
            let inside = |a: &&Answer| a.host != host && a.begin >= first && a.end <= last;
            let mut strange: Vec<&Answer> = answers.iter().filter(inside).collect();
            strange.sort_by_key(|a| a.begin);
            if let (Some(begin), Some(end)) = (strange.first(), strange.iter().map(|a| a.end).max()) {
                doubles.push(Double {
                    host: begin.host.clone(),
                    answers: strange.len(),
                    from: begin.begin,
                    lasted: end.duration_since(begin.begin),
                });
            }
        }
    }
    doubles.sort_by_key(|d| d.from);
    doubles
}

/// Stretches in which a host certainly answered: from the end of its first answer to the begin of its last one.
fn spans<'a>(answers: impl Iterator<Item = &'a Answer>) -> Vec<(Instant, Instant)> {
    let mut spans: Vec<(Instant, Instant, Instant)> = Vec::new();
    for answer in answers {
        match spans.last_mut() {
            Some((_, last, end)) if answer.end.duration_since(*end) < ONE_SPAN => {
                *last = (*last).max(answer.begin);
                *end = answer.end;
            }
            _ => spans.push((answer.end, answer.begin, answer.end)),
        }
    }
    spans.into_iter().filter(|(first, last, _)| last > first).map(|(first, last, _)| (first, last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;

    type Txn<'a> = (Kind, &'a [Mop]);

    /// Transactions one after the other, each by a process of its own.
    fn one_by_one(txns: &[Txn<'_>]) -> History {
        let mut events = Vec::new();
        for (n, (kind, mops)) in txns.iter().enumerate() {
            events.push(event(Kind::Invoke, n, mops));
            events.push(event(*kind, n, mops));
        }
        History(events)
    }

    /// All of them at the same time.
    fn at_once(txns: &[Txn<'_>]) -> History {
        let begins = txns.iter().enumerate().map(|(n, (_, mops))| event(Kind::Invoke, n, mops));
        let ends = txns.iter().enumerate().map(|(n, (kind, mops))| event(*kind, n, mops));
        History(begins.chain(ends).collect())
    }

    fn event(kind: Kind, process: usize, mops: &[Mop]) -> Event {
        let asked = |m: &Mop| match m {
            Mop::Read(key, _) if kind == Kind::Invoke => Mop::Read(*key, None),
            other => other.clone(),
        };
        let mops = mops.iter().map(asked).collect();
        Event { kind, process: process as i64, at: Duration::from_millis(process as u64), mops }
    }

    fn append(key: u64, value: u64) -> Mop {
        Mop::Append(key, value)
    }

    fn read(key: u64, list: &[u64]) -> Mop {
        Mop::Read(key, Some(list.to_vec()))
    }

    fn lists(of: &[(u64, &[u64])]) -> BTreeMap<u64, Vec<u64>> {
        of.iter().map(|(key, list)| (*key, list.to_vec())).collect()
    }

    /// As a run records it: the last read is a transaction, too.
    fn with_last(mut history: History, last: &BTreeMap<u64, Vec<u64>>) -> History {
        let mops: Vec<_> = last.iter().map(|(key, list)| read(*key, list)).collect();
        history.0.extend([event(Kind::Invoke, 99, &mops), event(Kind::Ok, 99, &mops)]);
        history
    }

    fn said(history: &History, last: &BTreeMap<u64, Vec<u64>>) -> (Vec<String>, Vec<String>) {
        let history = with_last(history.clone(), last);
        let report = transactions(&history);
        assert_eq!(report.valid == Valid::True, anomalies(&report).is_none());
        (rows(&history, last).wrong, report.anomaly_types)
    }

    #[test]
    fn a_sound_history_passes_both() {
        let history = one_by_one(&[
            (Kind::Ok, &[append(1, 1), read(2, &[])]),
            (Kind::Fail, &[append(1, 2)]),
            (Kind::Info, &[append(1, 3)]),
            (Kind::Info, &[append(2, 4)]),
            (Kind::Ok, &[read(1, &[1, 3]), append(2, 5), append(1, 6)]),
        ]);
        let last = lists(&[(1, &[1, 3, 6]), (2, &[5])]);
        assert_eq!(said(&history, &last), (vec![], vec![]));
        let found = rows(&history, &last);
        assert_eq!((found.acknowledged, found.lost, found.reads), (3, 0, 2));
    }

    #[test]
    fn a_lost_append_is_found() {
        let history = one_by_one(&[
            (Kind::Ok, &[append(1, 1)]),
            (Kind::Ok, &[append(1, 2), read(1, &[1, 2])]),
            (Kind::Ok, &[append(1, 3)]),
        ]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[1, 3])]));
        assert!(wrong.iter().any(|w| w.contains("2 was acknowledged and is not in list 1")), "{wrong:?}");
        assert!(anomalies.contains(&"incompatible-order".to_owned()), "{anomalies:?}");
        // Nobody read it: only the last read says so.
        let unread = one_by_one(&[(Kind::Ok, &[append(1, 1)]), (Kind::Ok, &[append(1, 2), read(2, &[])])]);
        let (wrong, anomalies) = said(&unread, &lists(&[(1, &[1])]));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(!anomalies.is_empty(), "the checker misses an append that nobody read");
    }

    #[test]
    fn an_append_that_is_there_twice_or_was_never_made_is_found() {
        let history = one_by_one(&[(Kind::Ok, &[append(1, 1)])]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[1, 1])]));
        assert!(wrong[0].contains("twice"), "{wrong:?}");
        assert!(anomalies.contains(&"duplicate-elements".to_owned()), "{anomalies:?}");
        let (wrong, _) = said(&history, &lists(&[(1, &[1, 7])]));
        assert!(wrong[0].contains("7 in list 1 was never appended"), "{wrong:?}");
    }

    #[test]
    fn an_aborted_read_is_found() {
        let history =
            one_by_one(&[(Kind::Fail, &[append(1, 1)]), (Kind::Ok, &[append(1, 2), read(1, &[1, 2])])]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[1, 2])]));
        assert!(wrong.iter().any(|w| w.contains("1 in list 1 was rolled back")), "{wrong:?}");
        assert!(anomalies.contains(&"G1a".to_owned()), "{anomalies:?}");
    }

    #[test]
    fn a_stale_read_after_a_takeover_is_found() {
        // The old leader goes on answering reads after the new one acknowledged 2.
        let history = one_by_one(&[
            (Kind::Ok, &[append(1, 1)]),
            (Kind::Ok, &[append(1, 2)]),
            (Kind::Ok, &[read(1, &[1]), append(2, 3)]),
        ]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[1, 2]), (2, &[3])]));
        assert!(wrong.iter().any(|w| w.contains("with 2 values acknowledged")), "{wrong:?}");
        assert!(anomalies.iter().any(|a| a.ends_with("realtime")), "{anomalies:?}");
        // The same read is sound while the second append is still under way.
        let concurrent = at_once(&[
            (Kind::Ok, &[append(1, 1)]),
            (Kind::Ok, &[append(1, 2)]),
            (Kind::Ok, &[read(1, &[1]), append(2, 3)]),
        ]);
        assert_eq!(said(&concurrent, &lists(&[(1, &[1, 2]), (2, &[3])])), (vec![], vec![]));
    }

    #[test]
    fn two_histories_that_went_on_side_by_side_are_found() {
        let history = one_by_one(&[
            (Kind::Ok, &[append(1, 1)]),
            (Kind::Ok, &[append(1, 2), read(1, &[1, 2])]),
            (Kind::Ok, &[append(1, 3), read(1, &[1, 3])]),
        ]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[1, 3])]));
        assert!(wrong.len() >= 2, "{wrong:?}");
        assert!(anomalies.contains(&"incompatible-order".to_owned()), "{anomalies:?}");
    }

    #[test]
    fn only_the_checker_sees_what_spans_two_lists() {
        // Each list alone is sound; together, each transaction comes before the other.
        let history =
            at_once(&[(Kind::Ok, &[read(1, &[]), append(2, 1)]), (Kind::Ok, &[read(2, &[]), append(1, 2)])]);
        let (wrong, anomalies) = said(&history, &lists(&[(1, &[2]), (2, &[1])]));
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(anomalies, ["G2-item"]);
    }

    #[test]
    fn nothing_committed_is_no_proof() {
        assert_eq!(transactions(&History::default()).valid, Valid::Unknown);
    }

    fn answers(of: &[(u64, u64, &str)]) -> Vec<Answer> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        of.iter().map(|(b, e, h)| Answer { begin: at(*b), end: at(*e), host: (*h).to_owned() }).collect()
    }

    #[test]
    fn a_takeover_and_a_slow_answer_are_no_double_answers() {
        let mut seen = vec![(0, 2, "a"), (10, 12, "a"), (20, 400, "a"), (300, 302, "b"), (310, 312, "b")];
        seen.extend([(320, 322, "b"), (500, 502, "b"), (2000, 2002, "a"), (2010, 2012, "a")]);
        assert_eq!(double_answers(answers(&seen)), Vec::new());
    }

    #[test]
    fn two_hosts_that_answer_in_turns_are_found_with_their_length() {
        let seen = [
            (0, 2, "b"),
            (10, 12, "b"),
            (14, 16, "a"),
            (20, 22, "b"),
            (24, 26, "a"),
            (30, 32, "b"),
            (34, 36, "a"),
        ];
        let found = double_answers(answers(&seen));
        let worst = found.iter().find(|d| d.host == "a").unwrap();
        assert_eq!(
            (worst.host.as_str(), worst.answers, worst.lasted),
            ("a", 2, Duration::from_millis(12)),
            "{found:?}"
        );
    }

    #[test]
    fn one_stray_answer_of_the_old_leader_is_found() {
        let found = double_answers(answers(&[(0, 2, "b"), (10, 12, "b"), (14, 16, "a"), (20, 22, "b")]));
        assert_eq!((found.len(), found[0].answers, found[0].lasted), (1, 1, Duration::from_millis(2)));
    }
}
