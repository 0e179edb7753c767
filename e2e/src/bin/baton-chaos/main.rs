//! `baton-chaos`: random faults on a real cluster under load, judged by what clients saw.
//!
//! | module | owns |
//! | --- | --- |
//! | `plan` | which faults, whom, when, for how long: all from the seed |
//! | `nemesis` | carrying them out and undoing them |
//! | `load`, `history` | the clients of the database and what they were told |
//! | `run` | a round: faults, probes from three places, recovery |
//! | `judge` | what must hold: of lists, of transactions, of who answers |
//! | `report` | what is said of it |
//!
//! The cluster is there already (`make chaos` brings it up, `make test` has it) and is left healthy. Exit code 0 if the
//! run was sound, 1 if not.

mod history;
mod judge;
mod load;
mod nemesis;
mod plan;
mod report;
mod run;

use anyhow::{Context, Result};
use baton_e2e::cluster::{Cluster, WHOLE};
use baton_e2e::config::{Config, output_dir};
use baton_e2e::replicas;
use clap::Parser;
use history::Kind;
use load::Load;
use report::Report;
use run::Run;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Random faults on a cluster of this machine, under load; then a judgement over what clients saw.
#[derive(Parser, Clone, Debug)]
#[command(name = "baton-chaos", version)]
struct Options {
    /// How long rounds are begun; the last one and the judgement come on top.
    #[arg(long, env = "BATON_CHAOS_MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// The same seed has the same faults strike for the same times. Default: another one each time.
    #[arg(long, env = "BATON_CHAOS_SEED")]
    seed: Option<u64>,
    /// Prints the first rounds of the seed, as many as given, and ends.
    #[arg(long)]
    plan: Option<usize>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let seconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seed = options.seed.unwrap_or_else(seconds);
    if let Some(rounds) = options.plan {
        for round in plan::Plan::new(seed).take(rounds) {
            println!("{round:?}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let dir = output_dir().join("chaos");
    std::fs::create_dir_all(&dir)?;
    println!("chaos for {} min, seed {seed}", options.minutes);
    let cluster = Cluster { config: Config::from_env() };
    let report = chaos(&cluster, seed, options.minutes, &dir)?;
    let text = report.text();
    print!("\n{text}");
    std::fs::write(dir.join("report.txt"), &text)?;
    std::fs::write(dir.join("report.json"), serde_json::to_string_pretty(&report.json())? + "\n")?;
    println!("report.txt, report.json and history.jsonl are in {}", dir.display());
    if report.wrong().is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("the same faults again: make chaos MINUTES={} SEED={seed}", options.minutes);
    Ok(ExitCode::FAILURE)
}

fn chaos(cluster: &Cluster, seed: u64, minutes: u64, dir: &Path) -> Result<Report> {
    let leader = cluster.heal();
    let load = Load::start(&cluster.config, &format!("{seed}-{}", std::process::id()), seed, minutes)?;
    let mut run = Run::new(cluster, load, leader);
    let (start, end) = (run.start, run.start + Duration::from_secs(60 * minutes));
    let (mut rounds, mut stuck) = (Vec::new(), None);
    for round in plan::Plan::new(seed) {
        if Instant::now() >= end {
            break;
        }
        match run.round(&round) {
            Ok(done) => {
                println!("{}", done.line());
                rounds.push(done);
            }
            Err(why) => {
                println!("          {why}");
                cluster.diagnose("chaos");
                stuck = Some(why);
                break;
            }
        }
    }
    let lasted = start.elapsed();
    let healed = catch_unwind(AssertUnwindSafe(|| cluster.heal_within(WHOLE)));
    let seen = run.end();
    let leader = match healed {
        Ok(leader) => leader,
        Err(panic) => {
            // There is nobody to ask for the rows; what is known is said.
            let why = stuck.unwrap_or_else(|| run::message(panic.as_ref()));
            let doubles = judge::double_answers(seen.answers);
            return Ok(Report {
                doubles: doubles.into_iter().map(|d| (d.from.duration_since(start), d)).collect(),
                stuck: Some(why),
                ..Report::empty(seed, lasted, rounds, seen.probes)
            });
        }
    };
    let (history, last) = seen.load.finish()?;
    history.write(&dir.join("history.jsonl")).context("write the history")?;
    let begin = Instant::now();
    let anomalies = judge::anomalies(&judge::transactions(&history));
    let checked = begin.elapsed();
    let mut answers = BTreeMap::new();
    for answer in &seen.answers {
        *answers.entry(answer.host.clone()).or_default() += 1;
    }
    let doubles = judge::double_answers(seen.answers);
    Ok(Report {
        answers,
        doubles: doubles.into_iter().map(|d| (d.from.duration_since(start), d)).collect(),
        transactions: [Kind::Ok, Kind::Fail, Kind::Info].map(|k| history.count(k)),
        rows: judge::rows(&history, &last),
        anomalies,
        checked,
        replicas: at_rest(cluster, &leader),
        stuck,
        ..Report::empty(seed, lasted, rounds, seen.probes)
    })
}

/// What is wrong with the replicas when the group is stopped. Everything is started again.
fn at_rest(cluster: &Cluster, leader: &str) -> Option<String> {
    let compared = catch_unwind(AssertUnwindSafe(|| {
        replicas::rest(cluster, leader);
        let compared = replicas::verify(cluster);
        let _ = cluster.heal();
        compared
    }));
    match compared {
        Ok(compared) => compared.err().map(|e| format!("{e:#}")),
        Err(panic) => Some(run::message(panic.as_ref())),
    }
}
