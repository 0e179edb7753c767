//! What was measured: a line of JSON each, written at once, so that a run that is cut short leaves what it knew.

use crate::candidate::Candidate;
use crate::fault::Fault;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::SystemTime;

/// One fault, as clients saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What struck.
    pub fault: Fault,
    /// Seconds since 1970.
    pub at: u64,
    /// Longest time between two answers.
    pub http_ms: f64,
    /// Longest time between two committed writes, where there is a database.
    pub write_ms: Option<f64>,
    /// Who served before.
    pub from: String,
    /// Who answered last.
    pub to: String,
}

/// Minutes under full load.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Seconds since 1970.
    pub at: u64,
    /// How long.
    pub minutes: f64,
    /// The other host took the address although nothing was wrong.
    pub takeovers: u64,
    /// The host that had it lost it and got it back.
    pub interruptions: u64,
    /// Longest time between two answers.
    pub longest_ms: f64,
    /// Share of the processors' time that was used, percent.
    pub busy_percent: f64,
}

/// What was noted when a candidate's measurement began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// What the program calls itself.
    pub version: String,
    /// Load average of the machine before.
    pub load: String,
    /// Seconds since 1970.
    pub at: u64,
}

/// All of one candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Of each time it was brought up.
    pub meta: Vec<Meta>,
    /// In order.
    pub samples: Vec<Sample>,
    /// In order.
    pub loads: Vec<Load>,
}

/// All of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results(pub BTreeMap<Candidate, Measured>);

/// Median and worst, and of how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub worst: f64,
    /// How many.
    pub runs: usize,
}

/// None of none.
pub fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut all: Vec<f64> = values.into_iter().collect();
    all.sort_by(f64::total_cmp);
    let worst = *all.last()?;
    let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
    Some(Summary { median: f64::midpoint(low, high), worst, runs: all.len() })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Sample {
    fn json(&self) -> Value {
        json!({
            "fault": self.fault.name(), "at": self.at, "http_ms": self.http_ms, "write_ms": self.write_ms,
            "from": self.from, "to": self.to,
        })
    }

    fn read(v: &Value) -> Option<Self> {
        Some(Self {
            fault: Fault::ALL.into_iter().find(|f| v["fault"] == f.name())?,
            at: v["at"].as_u64()?,
            http_ms: v["http_ms"].as_f64()?,
            write_ms: v["write_ms"].as_f64(),
            from: v["from"].as_str()?.to_owned(),
            to: v["to"].as_str()?.to_owned(),
        })
    }
}

impl Load {
    fn json(&self) -> Value {
        json!({
            "load": {
                "at": self.at, "minutes": self.minutes, "takeovers": self.takeovers,
                "interruptions": self.interruptions, "longest_ms": self.longest_ms, "busy_percent": self.busy_percent,
            }
        })
    }

    fn read(v: &Value) -> Option<Self> {
        let v = &v["load"];
        Some(Self {
            at: v["at"].as_u64()?,
            minutes: v["minutes"].as_f64()?,
            takeovers: v["takeovers"].as_u64()?,
            interruptions: v["interruptions"].as_u64()?,
            longest_ms: v["longest_ms"].as_f64()?,
            busy_percent: v["busy_percent"].as_f64()?,
        })
    }
}

impl Meta {
    fn json(&self) -> Value {
        json!({ "meta": { "version": self.version, "load": self.load, "at": self.at } })
    }

    fn read(v: &Value) -> Option<Self> {
        let v = &v["meta"];
        Some(Self {
            version: v["version"].as_str()?.to_owned(),
            load: v["load"].as_str()?.to_owned(),
            at: v["at"].as_u64()?,
        })
    }
}

/// A line of a candidate's file.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Its measurement begins.
    Meta(Meta),
    /// A fault.
    Sample(Sample),
    /// Minutes of load.
    Load(Load),
}

impl Entry {
    fn json(&self) -> Value {
        match self {
            Self::Meta(meta) => meta.json(),
            Self::Sample(sample) => sample.json(),
            Self::Load(load) => load.json(),
        }
    }

    fn read(v: &Value) -> Option<Self> {
        let sample = || Sample::read(v).map(Self::Sample);
        Meta::read(v).map(Self::Meta).or_else(|| Load::read(v).map(Self::Load)).or_else(sample)
    }
}

/// Adds a line to a candidate's file.
///
/// # Errors
/// If it cannot be written.
pub fn keep(dir: &Path, candidate: Candidate, entry: &Entry) -> Result<()> {
    let path = dir.join(format!("{}.jsonl", candidate.name()));
    let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
    writeln!(file, "{}", entry.json()).with_context(|| path.display().to_string())
}

impl Results {
    /// What is in a directory.
    ///
    /// # Errors
    /// If a file cannot be read or is not what [`keep`] writes.
    pub fn read(dir: &Path) -> Result<Self> {
        let mut all = Self::default();
        for candidate in Candidate::ALL {
            let path = dir.join(format!("{}.jsonl", candidate.name()));
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    _ = all.0.insert(candidate, parse(&text).with_context(|| path.display().to_string())?)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        Ok(all)
    }

    /// Downtimes over HTTP.
    pub fn http(&self, candidate: Candidate, fault: Fault) -> Option<Summary> {
        summary(self.of(candidate, fault).map(|s| s.http_ms))
    }

    /// Times without a committed write.
    pub fn writes(&self, candidate: Candidate, fault: Fault) -> Option<Summary> {
        summary(self.of(candidate, fault).filter_map(|s| s.write_ms))
    }

    fn of(&self, candidate: Candidate, fault: Fault) -> impl Iterator<Item = &Sample> {
        self.0.get(&candidate).into_iter().flat_map(|m| &m.samples).filter(move |s| s.fault == fault)
    }

    /// The longest watch under full load; of two of the same length the newer one.
    pub fn load(&self, candidate: Candidate) -> Option<&Load> {
        self.0.get(&candidate)?.loads.iter().max_by(|a, b| a.minutes.total_cmp(&b.minutes))
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let of = |(candidate, m): (&Candidate, &Measured)| {
            let entries = m.meta.iter().map(Meta::json).chain(m.samples.iter().map(Sample::json));
            let entries: Vec<Value> = entries.chain(m.loads.iter().map(Load::json)).collect();
            (candidate.name().to_owned(), Value::from(entries))
        };
        self.0.iter().map(of).collect::<serde_json::Map<_, _>>().into()
    }
}

fn parse(text: &str) -> Result<Measured> {
    let mut all = Measured::default();
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).with_context(|| format!("line {}", n + 1))?;
        match Entry::read(&value).with_context(|| format!("line {}: not a measurement", n + 1))? {
            Entry::Meta(meta) => all.meta.push(meta),
            Entry::Sample(sample) => all.samples.push(sample),
            Entry::Load(load) => all.loads.push(load),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(fault: Fault, http_ms: f64, write_ms: Option<f64>) -> Sample {
        Sample { fault, at: 7, http_ms, write_ms, from: "alpha".into(), to: "beta".into() }
    }

    #[test]
    fn median_and_worst() {
        let of = |values: &[f64]| summary(values.iter().copied()).unwrap();
        assert_eq!(of(&[9.0, 1.0, 5.0]), Summary { median: 5.0, worst: 9.0, runs: 3 });
        assert_eq!(of(&[4.0, 1.0, 2.0, 30.0]), Summary { median: 3.0, worst: 30.0, runs: 4 });
        assert_eq!(summary([]), None);
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = std::env::temp_dir().join(format!("baton-failover-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let load = |minutes, takeovers| Load {
            at: 9,
            minutes,
            takeovers,
            interruptions: 1,
            longest_ms: 12.5,
            busy_percent: 99.5,
        };
        let entries = [
            Entry::Meta(Meta { version: "v 1".into(), load: "0.5".into(), at: 5 }),
            Entry::Sample(sample(Fault::Power, 100.0, Some(250.5))),
            Entry::Sample(sample(Fault::Power, 300.0, None)),
            Entry::Sample(sample(Fault::Move, 20.0, None)),
            Entry::Load(load(1.0, 3)),
            Entry::Load(load(10.0, 0)),
            Entry::Load(load(2.0, 4)),
        ];
        for entry in &entries {
            keep(&dir, Candidate::DataFast, entry).unwrap();
        }
        let all = Results::read(&dir).unwrap();
        assert_eq!(all.0.len(), 1);
        let power = all.http(Candidate::DataFast, Fault::Power).unwrap();
        assert_eq!(power, Summary { median: 200.0, worst: 300.0, runs: 2 });
        assert_eq!(all.writes(Candidate::DataFast, Fault::Power).unwrap().worst, 250.5);
        assert_eq!(all.http(Candidate::DataFast, Fault::Cable), None);
        assert_eq!(all.http(Candidate::Hot, Fault::Power), None);
        assert_eq!(all.load(Candidate::DataFast), Some(&load(10.0, 0)));
        assert_eq!(all.0[&Candidate::DataFast].meta[0].version, "v 1");
        assert_eq!(all.json()["data-fast"].as_array().unwrap().len(), entries.len());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_line_that_is_no_measurement_is_an_error_with_its_number() {
        let good = sample(Fault::Cable, 1.0, None).json().to_string();
        for bad in
            ["{", "{}", "{\"fault\": \"flood\", \"at\": 1, \"http_ms\": 1, \"from\": \"a\", \"to\": \"b\"}"]
        {
            let error = parse(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert!(format!("{error:#}").contains("line 3"), "{error:#}");
        }
    }
}
