//! `baton-bench`: Baton's speed beside that of what it is made of and of what else there is, on one machine.
//!
//! | module | owns |
//! | --- | --- |
//! | `options` | what a run is asked to do |
//! | `os` | processes, loop devices, mounts, and that none is left behind |
//! | `candidate`, `replicator`, `qemu` | what is compared |
//! | `fio`, `database`, `repair`, `memory` | what is measured |
//! | `results`, `targets`, `report` | what is said of it |
//!
//! All candidates are up at the same time; a job runs on one of them at a time, on each in turn, and the order is turned
//! round with every round. So a machine that becomes slower for a while changes rates, and ratios little. A target that
//! is missed is said plainly and is no error: the exit code is 0 unless something could not be measured.

mod candidate;
mod database;
mod fio;
mod memory;
mod options;
mod os;
mod qemu;
mod repair;
mod replicator;
mod report;
mod results;
mod targets;

use anyhow::{Context, Result, ensure};
use candidate::{Candidate, Kind};
use database::{Database, Template};
use indicatif::{ProgressBar, ProgressStyle};
use options::{Options, Part};
use repair::Repair;
use results::{Results, Row};
use std::path::Path;

fn main() -> Result<()> {
    let options = Options::read()?;
    ensure!(rustix::process::geteuid().is_root(), "loop devices and mounts need root");
    os::catch_signals()?;
    os::sweep(&options.dir);
    let machine = report::machine(&options);
    let mut results = Results::default();
    let measured = measure(&options, &mut results);
    os::sweep(&options.dir);
    let text = report::text(&options, &results, &machine);
    print!("{text}");
    // What a failed run did measure is worth showing, and no page. Its files stay, with the logs that say why.
    measured.with_context(|| format!("logs are in {}", options.dir.display()))?;
    std::fs::remove_dir_all(&options.dir).with_context(|| format!("remove {}", options.dir.display()))?;
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&results.json())? + "\n";
        std::fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(page) = &options.page {
        baton_e2e::page::write(page, "bench", &text)?;
    }
    Ok(())
}

fn measure(options: &Options, results: &mut Results) -> Result<()> {
    for entry in std::fs::read_dir(&options.dir)? {
        let path = entry?.path();
        let ours = path.is_dir() && std::fs::remove_dir_all(&path).is_ok();
        ensure!(ours, "{} is in the way: --dir must be a directory of its own", path.display());
    }
    let progress = Progress::new(options);
    let pki = options.dir.join("pki");
    progress.says("making certificates");
    replicator::certificates(&options.program("baton")?, &pki)?;
    if !options.candidates.is_empty() {
        on_candidates(options, &pki, &progress, results)?;
    }
    if options.wants(Part::Resync) {
        progress.says("starting a pair to resync");
        let mut repair = Repair::start(options, &pki)?;
        for _ in 0..options.rounds {
            progress.says("resync");
            results.repairs.push(repair.round().context("resync")?);
            progress.step();
        }
    }
    if options.wants(Part::Memory) {
        progress.says("resident memory");
        results.memory = memory::of_a_tebibyte(options, &pki).context("resident memory")?;
        progress.step();
    }
    Ok(())
}

fn on_candidates(options: &Options, pki: &Path, progress: &Progress, results: &mut Results) -> Result<()> {
    // First, because it needs programs that may be missing: a long run should not end by that.
    let template = if options.wants(Part::Database) {
        progress.says("making a database");
        Some(Template::make(options).context("MariaDB")?)
    } else {
        None
    };
    let mut candidates = Vec::new();
    for kind in &options.candidates {
        progress.says(&format!("starting {}", kind.title()));
        candidates.push(Candidate::start(*kind, options, pki)?);
        progress.step();
    }
    for round in 0..options.rounds {
        for job in &options.jobs {
            for at in order(candidates.len(), round) {
                let candidate = &mut candidates[at];
                progress.says(&format!("{}: {}", candidate.kind.title(), job.title()));
                let found = job.run(&candidate.target, options.size_bytes(), options.seconds);
                let found =
                    found.with_context(|| format!("{} on '{}'", job.title(), candidate.kind.title()))?;
                candidate.is_well()?;
                results.add(*job, candidate.kind, found);
                progress.step();
            }
            if *job == fio::Job::Write1
                && let Some(raw) = candidates.iter().find(|c| c.kind == Kind::Raw)
            {
                progress.says("two raw writes at once");
                let other = twin(&raw.target, options)?;
                let sample = fio::twins(&[&raw.target, &other], options.size_bytes(), options.seconds)?;
                results.twins.push(sample);
            }
        }
    }
    if let Some(template) = template {
        databases(options, &template, &mut candidates, progress, results)?;
    }
    Ok(())
}

fn databases(
    options: &Options,
    template: &Template,
    candidates: &mut [Candidate],
    progress: &Progress,
    results: &mut Results,
) -> Result<()> {
    let mut copies = Vec::new();
    for candidate in candidates.iter() {
        progress.says(&format!("copying the database to {}", candidate.kind.title()));
        candidate.keep_data()?;
        copies.push(Database::copy(template, candidate, options)?);
    }
    for round in 0..options.rounds {
        for at in order(copies.len(), round) {
            let copy = &copies[at];
            progress.says(&format!("{}: MariaDB", copy.kind.title()));
            let found = copy
                .measure(options.seconds)
                .with_context(|| format!("MariaDB on '{}'", copy.kind.title()))?;
            candidates[at].is_well()?;
            for (clients, rate) in database::THREADS.into_iter().zip(found) {
                results.samples.entry((Row::Commits(clients), copy.kind)).or_default().push(rate);
            }
            progress.step();
        }
    }
    Ok(())
}

/// A second file like the raw one, made when it is first needed.
fn twin(raw: &Path, options: &Options) -> Result<std::path::PathBuf> {
    let other = raw.with_extension("twin");
    if !other.exists() {
        std::fs::File::create(&other)?.set_len(options.size_bytes())?;
        fio::fill(&other, options.size_bytes())?;
    }
    Ok(other)
}

/// Indexes, in an order that alternates.
fn order(count: usize, round: u64) -> Vec<usize> {
    let forth = 0..count;
    if round.is_multiple_of(2) { forth.collect() } else { forth.rev().collect() }
}

/// A bar on a terminal; otherwise nothing.
struct Progress(ProgressBar);

impl Progress {
    fn new(options: &Options) -> Self {
        let count = |wanted: bool, steps: u64| if wanted { steps } else { 0 };
        let candidates = options.candidates.len() as u64;
        let per_round = candidates * (options.jobs.len() as u64 + u64::from(options.wants(Part::Database)))
            + count(options.wants(Part::Resync), 1);
        let steps = candidates + options.rounds * per_round + count(options.wants(Part::Memory), 1);
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise}, {eta} left: {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    fn says(&self, text: &str) {
        self.0.set_message(text.to_owned());
    }

    fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
