//! The samples, and what is said of several: median, spread, and ratios taken round by round.

use crate::candidate::Kind;
use crate::database;
use crate::fio::{Job, Sample};
use crate::repair::Round;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is measured on each candidate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Row {
    /// By fio.
    Job(Job),
    /// Commits per second with so many clients.
    Commits(u32),
}

/// Everything that was measured; in each list, one entry per round.
#[derive(Default)]
pub struct Results {
    /// By row and candidate.
    pub samples: BTreeMap<(Row, Kind), Vec<f64>>,
    /// Details of fio's.
    pub details: BTreeMap<(Job, Kind), Vec<Sample>>,
    /// Two raw writes at once.
    pub twins: Vec<Sample>,
    /// Resyncs.
    pub repairs: Vec<Round>,
    /// Resident bytes of leader and standby with 1 TiB and a peer.
    pub memory: Vec<f64>,
}

/// Median and extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half are below.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Row {
    /// All, in the order of the table.
    pub fn all() -> Vec<Self> {
        Job::ALL.into_iter().map(Self::Job).chain(database::THREADS.map(Self::Commits)).collect()
    }

    /// For people, with the unit.
    pub fn title(self) -> String {
        match self {
            Self::Job(job) if job.is_sequential() => format!("{}, MiB/s", job.title()),
            Self::Job(job) => format!("{}, IOPS", job.title()),
            Self::Commits(1) => "MariaDB, 1 client, commits/s".into(),
            Self::Commits(clients) => format!("MariaDB, {clients} clients, commits/s"),
        }
    }

    fn word(self) -> String {
        match self {
            Self::Job(job) => job.word().into(),
            Self::Commits(clients) => format!("commits{clients}"),
        }
    }

    /// It changes data.
    pub fn writes(self) -> bool {
        match self {
            Self::Job(job) => job.writes(),
            Self::Commits(_) => true,
        }
    }
}

impl Results {
    /// Takes a sample of fio's in.
    pub fn add(&mut self, job: Job, kind: Kind, sample: Sample) {
        let value = if job.is_sequential() { sample.bytes / f64::from(1 << 20) } else { sample.iops };
        self.samples.entry((Row::Job(job), kind)).or_default().push(value);
        self.details.entry((job, kind)).or_default().push(sample);
    }

    /// Rates of one row on one candidate.
    pub fn rates(&self, row: Row, kind: Kind) -> &[f64] {
        self.samples.get(&(row, kind)).map_or(&[], Vec::as_slice)
    }

    /// Of two candidates' rates, round by round.
    pub fn ratio(&self, row: Row, one: Kind, other: Kind) -> Option<Summary> {
        ratios(self.rates(row, one), self.rates(row, other))
    }

    /// One figure of fio's, round by round.
    pub fn details(&self, job: Job, kind: Kind, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        self.details.get(&(job, kind)).into_iter().flatten().map(figure).collect()
    }

    /// Every sample, for programs.
    pub fn json(&self) -> Value {
        let sample = |s: &Sample| json!({ "iops": s.iops, "bytes_per_s": s.bytes, "mean_us": s.mean_us, "p50_us": s.p50_us, "p99_us": s.p99_us });
        let fio: Vec<Value> = self.details.iter().map(|((job, kind), samples)| {
            json!({ "job": job.word(), "candidate": kind.word(), "rounds": samples.iter().map(sample).collect::<Vec<_>>() })
        }).collect();
        let commits = self.samples.iter().filter(|((row, _), _)| matches!(row, Row::Commits(_)));
        let commits: Vec<Value> = commits
            .map(|((row, kind), rates)| json!({ "job": row.word(), "candidate": kind.word(), "commits_per_s": rates }))
            .collect();
        let repairs: Vec<Value> = self.repairs.iter().map(|r| json!({
            "resync_bytes_per_s": r.resync, "copy_bytes_per_s": r.copy, "throttled_bytes_per_s": r.throttled,
            "p99_us": r.calm_p99_us, "p99_us_during_resync": r.resync_p99_us,
        })).collect();
        json!({
            "fio": fio, "mariadb": commits, "two_raw_writes": self.twins.iter().map(sample).collect::<Vec<_>>(),
            "resync": repairs, "resident_bytes_of_1_tib": self.memory,
        })
    }
}

/// Of two lists, entry by entry; none if there is nothing to compare.
pub fn ratios(one: &[f64], other: &[f64]) -> Option<Summary> {
    summary(one.iter().zip(other).map(|(a, b)| a / b))
}

/// None of nothing.
pub fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 };
    Some(Summary { median, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        // A machine that was half as fast in the second round changes no ratio.
        let found = ratios(&[300.0, 150.0, 330.0], &[100.0, 50.0, 100.0]).unwrap();
        assert_eq!((found.median, found.min), (3.0, 3.0));
        assert!((found.max - 3.3).abs() < 1e-9);
        assert_eq!(ratios(&[], &[1.0]), None);
        assert_eq!(summary([1.0, 4.0, 2.0, 3.0]).unwrap().median, 2.5);
    }
}
