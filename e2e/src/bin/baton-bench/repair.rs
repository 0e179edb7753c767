//! A peer that comes back: how fast it is resynced, and what the application feels of it.

use crate::fio;
use crate::options::Options;
use crate::os;
use crate::replicator::{Replicated, Setup, Transport};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What is dirty when the peer comes back.
const DIRTY: u64 = 512 << 20;
/// Writes per second of the application whose latency is looked at: a tenth of what the device can do.
const STEADY: u32 = 500;
/// The most that is dirty when a throttled resync is measured: one of a quick disk must not end before.
const MOST_DIRTY: u64 = 8 << 30;
/// Seconds of a throttled resync beside those that are measured: the job's start, and some to spare.
const AROUND: u64 = 3;
const LIMIT: Duration = Duration::from_secs(300);

/// A replicated volume of its own for these measurements.
pub struct Repair {
    volume: Replicated,
    dir: PathBuf,
    size: u64,
    seconds: u64,
}

/// One round of them.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Bytes per second of a resync that nothing holds back.
    pub resync: f64,
    /// Bytes per second of `cp --reflink=never` and `sync` of as many bytes.
    pub copy: f64,
    /// p99 of the application's writes without a resync, microseconds.
    pub calm_p99_us: f64,
    /// The same while the rate controller runs a resync.
    pub resync_p99_us: f64,
    /// Bytes per second of that resync.
    pub throttled: f64,
}

impl Repair {
    /// Starts the volume.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(options: &Options, pki: &Path) -> Result<Self> {
        let (dir, size) = (options.dir.join("repair"), options.size_bytes());
        let program = options.program("baton-replicator")?;
        let peer = Some(Transport::Plain);
        let whole = size.max(MOST_DIRTY);
        let volume =
            Replicated::start(Setup { program, pki: pki.into(), dir: dir.clone(), size: whole, peer })?;
        fio::fill(&volume.device, size)?;
        Ok(Self { volume, dir, size, seconds: options.seconds })
    }

    /// Measures once.
    ///
    /// # Errors
    /// Something fails, or the throttled resync was over before its measurement.
    pub fn round(&mut self) -> Result<Round> {
        let copy = self.copy()?;
        let calm = fio::steady(&self.volume.device, self.size, self.seconds, STEADY)?;

        self.volume.lose_peer()?;
        fio::fill(&self.volume.device, DIRTY)?;
        // Nothing of the application is running: what holds a resync back is the disk.
        self.volume.find_peer(&json!({}))?;
        let resync = self.resynced()?;
        self.volume.admit(LIMIT)?;

        // As much as takes long enough even if nothing held it back, in whole MiB.
        let lasting = (resync as u64).saturating_mul(self.seconds + AROUND) >> 20 << 20;
        let dirty = lasting.clamp(self.size, self.size.max(MOST_DIRTY));
        self.volume.lose_peer()?;
        fio::fill(&self.volume.device, dirty)?;
        self.volume.find_peer(&json!({}))?;
        os::wait_for("the resync to begin", LIMIT, || self.dirty().filter(|d| *d < dirty))?;
        let (before, began) = (self.dirty(), Instant::now());
        let busy = fio::steady(&self.volume.device, self.size, self.seconds, STEADY)?;
        let (after, took) = (self.dirty(), began.elapsed());
        let (Some(before), Some(after)) = (before, after) else {
            anyhow::bail!("the replicator says nothing of its peer");
        };
        ensure!(
            after > 0,
            "the throttled resync ended before its measurement: a smaller BATON_BENCH_SECONDS"
        );
        let throttled = before.saturating_sub(after) as f64 / took.as_secs_f64();
        self.volume.admit(LIMIT)?;
        self.volume.is_well()?;
        let (calm_p99_us, resync_p99_us) = (calm.p99_us, busy.p99_us);
        Ok(Round { resync, copy, calm_p99_us, resync_p99_us, throttled })
    }

    fn dirty(&self) -> Option<u64> {
        self.volume.peer()?["dirty_bytes"].as_u64()
    }

    /// Bytes per second from the first block to the last.
    fn resynced(&self) -> Result<f64> {
        let first = os::wait_for("the resync to begin", LIMIT, || self.dirty().filter(|d| *d < DIRTY))?;
        let began = Instant::now();
        os::wait_for("the resync to end", LIMIT, || self.dirty().filter(|d| *d == 0))?;
        ensure!(first > DIRTY / 4, "the resync was over before it could be watched");
        Ok(first as f64 / began.elapsed().as_secs_f64())
    }

    /// Copies as many bytes from file to file, down to the disk.
    fn copy(&self) -> Result<f64> {
        let (from, to) = (self.dir.join("from"), self.dir.join("to"));
        if !from.exists() {
            std::fs::File::create(&from)?.set_len(DIRTY)?;
            // With direct I/O: what is copied is not in the page cache, as a resync's is not.
            fio::fill(&from, DIRTY)?;
        }
        let began = Instant::now();
        os::run(LIMIT, Command::new("cp").arg("--reflink=never").args([&from, &to]))?;
        os::run(LIMIT, Command::new("sync").arg(&to))?;
        let rate = DIRTY as f64 / began.elapsed().as_secs_f64();
        // Read once, it is in the page cache: the next round needs another one.
        for file in [&from, &to] {
            std::fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
        }
        Ok(rate)
    }
}
