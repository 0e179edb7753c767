//! `baton-failover`: how long nobody answers when a host is lost, for Baton and for its peers on the same containers.
//!
//! | module | owns |
//! | --- | --- |
//! | `candidate` | what is compared, and what each is said to do |
//! | `site` | two hosts that run a candidate: whole again, who serves, commands of its own |
//! | `fault` | what strikes the host that serves |
//! | `run` | one fault, watched by clients |
//! | `load` | minutes of full processors, in which nothing may move |
//! | `sample` | what was measured, as lines of JSON |
//! | `judge`, `report` | the bars, the tables, the page |
//!
//! `compose/scripts/failover.sh` brings a candidate up before `measure` and `load`, and takes it down after them; `report`
//! makes the page of what they left. Nothing is bent: a bar is held by the worst of at least ten runs, or missed.

mod candidate;
mod fault;
mod judge;
mod load;
mod report;
mod run;
mod sample;
mod site;

use anyhow::{Context, Result};
use candidate::Candidate;
use clap::{Parser, Subcommand};
use fault::Fault;
use sample::Results;
use site::Site;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the downtime of a failover, one candidate at a time, and compares.
#[derive(Parser, Clone, Debug)]
#[command(name = "baton-failover", version)]
struct Options {
    /// Where samples are kept.
    #[arg(long, env = "BATON_FAILOVER_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Strikes the candidate that is up; adds to its samples.
    Measure {
        /// Which one is up.
        candidate: Candidate,
        /// How often each fault strikes.
        #[arg(long, env = "BATON_FAILOVER_RUNS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
        runs: u64,
        /// The faults, by comma. Default: all.
        #[arg(long, env = "BATON_FAILOVER_FAULTS", value_delimiter = ',')]
        faults: Vec<Fault>,
    },
    /// Fills all processors and counts what moves although nothing is wrong.
    Load {
        /// Which one is up.
        candidate: Candidate,
        /// For how long.
        #[arg(long, env = "BATON_FAILOVER_LOAD_MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
        minutes: u64,
    },
    /// Prints the tables of all samples.
    Report {
        /// Writes them into this page, between its markers.
        #[arg(long, env = "BATON_FAILOVER_PAGE")]
        page: Option<PathBuf>,
        /// Writes every sample to this file.
        #[arg(long, env = "BATON_FAILOVER_JSON")]
        json: Option<PathBuf>,
    },
    /// The names of all candidates, or of those that stay still under load, one per line.
    List {
        /// Those whose timers are short, and those that they are compared with.
        #[arg(long)]
        load: bool,
    },
}

fn main() -> Result<()> {
    let Options { dir, what } = Options::parse();
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    match what {
        What::Measure { candidate, runs, faults } => {
            let faults = if faults.is_empty() { Fault::ALL.to_vec() } else { faults };
            run::all(&Site::of(candidate), runs, &faults, &dir)
        }
        What::Load { candidate, minutes } => {
            load::watch(&Site::of(candidate), Duration::from_secs(60 * minutes), &dir)
        }
        What::Report { page, json } => {
            let results = Results::read(&dir)?;
            let text = report::text(&results);
            println!("{text}");
            if let Some(json) = json {
                let all = serde_json::to_string_pretty(&results.json())? + "\n";
                std::fs::write(&json, all).with_context(|| format!("write {}", json.display()))?;
            }
            page.map_or(Ok(()), |page| baton_e2e::page::write(&page, "failover", &text))
        }
        What::List { load } => {
            for candidate in Candidate::ALL.into_iter().filter(|c| !load || c.under_load()) {
                println!("{}", candidate.name());
            }
            Ok(())
        }
    }
}
