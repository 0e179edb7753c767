//! What clients asked of the database and what they were told: transactions over lists, in the order of real time.
//!
//! The file of a history has the format of Jepsen and Elle (one JSON object per line), so that other checkers can read it.

use adya::history::{Interner, Mop as AdyaMop, Op, OpType, ReadValue, Scalar};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mop {
    /// A value goes to the end of a list. No value is ever appended twice.
    Append(u64, u64),
    /// A list as it was read; none before it was.
    Read(u64, Option<Vec<u64>>),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It begins.
    Invoke,
    /// Its commit was acknowledged.
    Ok,
    /// It was never committed: the client had not asked for that yet.
    Fail,
    /// The commit was asked for, and there was no answer, or an error.
    Info,
}

/// A transaction's begin or end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// See [`Kind`].
    pub kind: Kind,
    /// Who: one thing at a time, and never anything again after [`Kind::Info`].
    pub process: i64,
    /// Since the run began.
    pub at: Duration,
    /// Its steps.
    pub mops: Vec<Mop>,
}

/// In the order of real time.
#[derive(Clone, Debug, Default)]
pub struct History(pub Vec<Event>);

impl Event {
    fn json(&self, index: usize) -> Value {
        let kind = match self.kind {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
        };
        let steps: Vec<_> = self
            .mops
            .iter()
            .map(|m| match m {
                Mop::Append(key, value) => json!(["append", key, value]),
                Mop::Read(key, list) => json!(["r", key, list]),
            })
            .collect();
        let time = u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX);
        json!({ "index": index, "type": kind, "f": "txn", "process": self.process, "time": time, "value": steps })
    }
}

impl History {
    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (index, event) in self.0.iter().enumerate() {
            writeln!(file, "{}", event.json(index))?;
        }
        file.flush()
    }

    /// How many transactions ended so.
    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|e| e.kind == kind).count()
    }

    /// The same in the checker's own types.
    pub fn for_adya(&self) -> adya::History {
        let mut interner = Interner::default();
        let mut id = |n: u64| interner.intern(Scalar::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        let mut ops = Vec::with_capacity(self.0.len());
        for (index, event) in self.0.iter().enumerate() {
            let mut value = Vec::with_capacity(event.mops.len());
            for mop in &event.mops {
                value.push(match mop {
                    Mop::Append(key, value) => AdyaMop::Append { key: id(*key), value: id(*value) },
                    Mop::Read(key, list) => {
                        let key = id(*key);
                        let list = list.as_ref().map(|l| ReadValue::List(l.iter().map(|v| id(*v)).collect()));
                        AdyaMop::Read { key, value: list.unwrap_or(ReadValue::Nil) }
                    }
                });
            }
            ops.push(Op {
                index: index as u64,
                kind: match event.kind {
                    Kind::Invoke => OpType::Invoke,
                    Kind::Ok => OpType::Ok,
                    Kind::Fail => OpType::Fail,
                    Kind::Info => OpType::Info,
                },
                process: Some(event.process),
                value,
                time: i64::try_from(event.at.as_nanos()).ok(),
            });
        }
        adya::History::from_ops(ops, interner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_elle_reads() {
        let event = Event {
            kind: Kind::Ok,
            process: 3,
            at: Duration::from_millis(2),
            mops: vec![Mop::Append(1, 5), Mop::Read(2, Some(vec![7, 8])), Mop::Read(4, None)],
        };
        let expected = json!({ "index": 9, "type": "ok", "f": "txn", "process": 3, "time": 2_000_000,
            "value": [["append", 1, 5], ["r", 2, [7, 8]], ["r", 4, null]] });
        assert_eq!(event.json(9), expected);
    }

    #[test]
    fn the_file_and_what_the_checker_gets_are_the_same() {
        let event = |kind, mops| Event { kind, process: 1, at: Duration::from_nanos(4), mops };
        let history = History(vec![
            event(Kind::Invoke, vec![Mop::Append(1, 5), Mop::Read(1, None)]),
            event(Kind::Ok, vec![Mop::Append(1, 5), Mop::Read(1, Some(vec![5]))]),
        ]);
        let file = tempfile::NamedTempFile::new().unwrap();
        history.write(file.path()).unwrap();
        let read = adya::History::from_json(&std::fs::read_to_string(file.path()).unwrap()).unwrap();
        let made = history.for_adya();
        let shown = |h: &adya::History| format!("{:?} {:?}", h.ops, h.pair);
        assert_eq!(shown(&read), shown(&made));
    }
}
