//! What a writer attempted and what was acknowledged, and the judgement over what is there afterwards.
//!
//! Every event is a line of a file outside the cluster, written before the next attempt begins: what was
//! acknowledged is known even if this process dies. A key is attempted once, so that "there twice" is an error.

use crate::gaps;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// An acknowledged row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its key.
    pub key: u64,
    /// When its commit was begun.
    pub begin: Instant,
    /// When its acknowledgement was read.
    pub end: Instant,
}

/// The history of one writer.
#[derive(Debug)]
pub struct Journal {
    /// Names the writer in the table; no two writers share one.
    pub run: String,
    /// In order.
    pub acks: Vec<Ack>,
    attempted: u64,
    begun: Instant,
    file: File,
}

impl Journal {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(run: &str, path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        writeln!(file, "run {run}")?;
        Ok(Self { run: run.to_owned(), acks: Vec::new(), attempted: 0, begun: Instant::now(), file })
    }

    /// The next key; call it right before the commit is sent.
    ///
    /// # Panics
    /// If the file cannot be written: a history with holes proves nothing.
    pub fn attempt(&mut self) -> (u64, Instant) {
        self.attempted += 1;
        let now = Instant::now();
        self.line("try", self.attempted, now, "");
        (self.attempted, now)
    }

    /// The commit of `key` was acknowledged.
    ///
    /// # Panics
    /// As [`Journal::attempt`].
    pub fn acknowledged(&mut self, key: u64, begin: Instant) {
        let end = Instant::now();
        self.line("ack", key, end, "");
        self.acks.push(Ack { key, begin, end });
    }

    /// Nobody knows what became of `key`.
    ///
    /// # Panics
    /// As [`Journal::attempt`].
    pub fn unknown(&mut self, key: u64, why: &str) {
        self.line("unknown", key, Instant::now(), why);
    }

    fn line(&mut self, what: &str, key: u64, at: Instant, why: &str) {
        let ms = at.duration_since(self.begun).as_micros() as f64 / 1000.0;
        let why = why.replace('\n', " ");
        writeln!(self.file, "{what} {key} {ms:.3} {why}")
            .unwrap_or_else(|e| panic!("journal of {}: {e}", self.run));
    }

    /// Keys that were ever attempted: 1 to this.
    #[must_use]
    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    /// Longest time between two acknowledgements, edges included.
    #[must_use]
    pub fn gap(&self, from: Instant, to: Instant) -> Duration {
        gaps::longest(self.acks.iter().map(|a| a.end), from, to)
    }

    /// Compares the history with what is there: how often each key is.
    #[must_use]
    pub fn judge(&self, present: &BTreeMap<u64, u64>) -> Verdict {
        let acknowledged = self.acks.iter().map(|a| a.key);
        judge(acknowledged.collect(), self.attempted, present)
    }
}

/// What is wrong with the rows of one writer. Sound if all is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged rows.
    pub acknowledged: u64,
    /// Acknowledged, and not there.
    pub lost: Vec<u64>,
    /// There more than once.
    pub twice: Vec<u64>,
    /// There, and never attempted.
    pub invented: Vec<u64>,
}

impl Verdict {
    /// Nothing is wrong.
    #[must_use]
    pub fn sound(&self) -> bool {
        self.lost.is_empty() && self.twice.is_empty() && self.invented.is_empty()
    }
}

fn judge(acknowledged: BTreeSet<u64>, attempted: u64, present: &BTreeMap<u64, u64>) -> Verdict {
    let keys = |wrong: &dyn Fn(u64, u64) -> bool| {
        present.iter().filter(|(k, n)| wrong(**k, **n)).map(|(k, _)| *k).collect::<Vec<_>>()
    };
    Verdict {
        acknowledged: acknowledged.len() as u64,
        lost: acknowledged.iter().copied().filter(|k| !present.contains_key(k)).collect(),
        twice: keys(&|_, n| n > 1),
        invented: keys(&|k, _| k == 0 || k > attempted),
    }
}

/// Reads the file of a history again and judges by it, for the case that the process that wrote it is gone.
///
/// # Errors
/// If the file cannot be read or is not a journal.
pub fn judge_file(path: &Path, present: &BTreeMap<u64, u64>) -> io::Result<Verdict> {
    let bad =
        |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not a line of a journal: '{line}'"));
    let mut acknowledged = BTreeSet::new();
    let mut attempted = 0;
    for line in BufReader::new(File::open(path)?).lines() {
        let line = line?;
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        if what == "run" {
            continue;
        }
        let key: u64 = words.next().and_then(|k| k.parse().ok()).ok_or_else(|| bad(&line))?;
        match what {
            "try" => attempted = attempted.max(key),
            "ack" => drop(acknowledged.insert(key)),
            "unknown" => {}
            _ => return Err(bad(&line)),
        }
    }
    Ok(judge(acknowledged, attempted, present))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(rows: &[(u64, u64)]) -> BTreeMap<u64, u64> {
        rows.iter().copied().collect()
    }

    #[test]
    fn lost_twice_and_invented_are_noticed_and_unknown_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let mut journal = Journal::create("r", &path).unwrap();
        for key in 1..=4 {
            let (k, begin) = journal.attempt();
            assert_eq!(k, key);
            if key == 3 { journal.unknown(k, "timed\nout") } else { journal.acknowledged(k, begin) }
        }
        assert!(journal.judge(&present(&[(1, 1), (2, 1), (4, 1)])).sound());
        let with_the_unknown_row = present(&[(1, 1), (2, 1), (3, 1), (4, 1)]);
        assert!(journal.judge(&with_the_unknown_row).sound());
        let verdict = journal.judge(&present(&[(1, 1), (2, 2), (9, 1)]));
        assert_eq!(
            (&verdict.lost[..], &verdict.twice[..], &verdict.invented[..]),
            (&[4][..], &[2][..], &[9][..])
        );
        assert!(!verdict.sound());
        assert_eq!(
            judge_file(&path, &present(&[(1, 1), (2, 2), (9, 1)])).unwrap(),
            verdict,
            "the file says the same"
        );
        assert_eq!(verdict.acknowledged, 3);
    }

    #[test]
    fn the_gap_is_between_acknowledgements() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create("r", &dir.path().join("j")).unwrap();
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        journal.acks = [10, 20, 900, 910].map(|ms| Ack { key: ms, begin: at(ms), end: at(ms) }).into();
        assert_eq!(journal.gap(at(0), at(920)), Duration::from_millis(880));
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "run r\nack seven 1.0\n").unwrap();
        assert!(judge_file(&path, &BTreeMap::new()).unwrap_err().to_string().contains("ack seven"));
    }
}
