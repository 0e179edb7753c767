//! What a run is asked to do: flags, each with an environment variable for `make bench`.

use crate::candidate::Kind;
use crate::fio::Job;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::path::PathBuf;

/// Runs the same jobs on Baton and on what else there is, side by side, and compares.
#[derive(Parser, Clone, Debug)]
#[command(name = "baton-bench", version)]
pub struct Options {
    /// Seconds that each job is measured, after one second that does not count.
    #[arg(long, env = "BATON_BENCH_SECONDS", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// How often each job is run on each candidate; the order of the candidates is turned round each time.
    #[arg(long, env = "BATON_BENCH_ROUNDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub rounds: u64,
    /// The candidates, by comma: raw, loop, alone, peer, tls, qemu, and base-alone, base-peer, base-tls of --base.
    /// Default: all of the first six.
    #[arg(long, env = "BATON_BENCH_CANDIDATES", value_delimiter = ',')]
    pub candidates: Vec<Kind>,
    /// The jobs, by comma. Default: all.
    #[arg(long, env = "BATON_BENCH_JOBS", value_delimiter = ',')]
    pub jobs: Vec<Job>,
    /// What else is measured, by comma: database, resync, memory; or none. Default: all.
    #[arg(long, env = "BATON_BENCH_PARTS", value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// Size of each volume, MiB. The activity log holds all of it from 4 to 4096.
    #[arg(long, env = "BATON_BENCH_SIZE_MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(512..=65536))]
    pub size_mib: u64,
    /// An empty or new directory for all files: its filesystem's disk is what is measured.
    #[arg(long, env = "BATON_BENCH_DIR")]
    pub dir: PathBuf,
    /// Another build of baton-replicator, to compare with.
    #[arg(long, env = "BATON_BENCH_BASE")]
    pub base: Option<PathBuf>,
    /// Where `baton` and `baton-replicator` are. Default: beside this program.
    #[arg(long, env = "BATON_BENCH_PROGRAMS")]
    pub programs: Option<PathBuf>,
    /// Writes every sample to this file, as JSON.
    #[arg(long, env = "BATON_BENCH_JSON")]
    pub json: Option<PathBuf>,
    /// Writes the tables into this page, between its markers.
    #[arg(long, env = "BATON_BENCH_PAGE")]
    pub page: Option<PathBuf>,
}

/// What is measured besides the jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Part {
    /// Commits per second of MariaDB.
    Database,
    /// Speed of a resync, and what the application feels of one.
    Resync,
    /// Resident memory.
    Memory,
    /// Nothing.
    None,
}

impl Options {
    /// Reads and completes them.
    ///
    /// # Errors
    /// What they need is missing.
    pub fn read() -> Result<Self> {
        let mut options = Self::parse();
        if options.candidates.is_empty() {
            options.candidates = Kind::DEFAULT.to_vec();
        }
        if options.jobs.is_empty() {
            options.jobs = Job::ALL.to_vec();
        }
        if options.parts.is_empty() {
            options.parts = vec![Part::Database, Part::Resync, Part::Memory];
        }
        if options.programs.is_none() {
            let this = std::env::current_exe().context("where this program is")?;
            options.programs = this.parent().map(PathBuf::from);
        }
        if options.candidates.iter().any(|c| c.is_base()) {
            ensure!(options.base.is_some(), "a base candidate needs --base FILE, another baton-replicator");
        }
        for program in [&mut options.programs, &mut options.base].into_iter().flatten() {
            *program = program.canonicalize().with_context(|| format!("find {}", program.display()))?;
        }
        let dir = &options.dir;
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        options.dir = dir.canonicalize().with_context(|| format!("find {}", dir.display()))?;
        Ok(options)
    }

    /// A program of this build.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.clone().unwrap_or_default().join(name);
        ensure!(path.exists(), "{} is missing: make build makes it", path.display());
        Ok(path)
    }

    /// Bytes of each volume.
    pub fn size_bytes(&self) -> u64 {
        self.size_mib << 20
    }

    /// Whether a part is wanted.
    pub fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}
