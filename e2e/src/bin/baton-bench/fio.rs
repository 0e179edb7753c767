//! The jobs, and how `fio` is asked to run them.

use crate::os;
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Time before a job is measured: the first writes to an extent, cold caches and sleeping cores are over by then.
const RAMP_SECONDS: u64 = 1;
/// On top of its own time, for start and end.
const LIMIT: Duration = Duration::from_secs(60);

/// One way to use a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Job {
    /// 4 KiB random write, each followed by fsync.
    Sync1,
    /// 4 KiB random write at depth 1.
    Write1,
    /// 4 KiB random write at depth 16.
    Write16,
    /// 4 KiB random write at depth 32.
    Write32,
    /// 4 KiB random read at depth 32.
    Read32,
    /// 1 MiB sequential write at depth 4.
    Stream,
    /// 1 MiB sequential read at depth 4.
    Scan,
}

/// What a job did.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    /// Operations per second.
    pub iops: f64,
    /// Bytes per second.
    pub bytes: f64,
    /// Mean time from submission to completion, microseconds.
    pub mean_us: f64,
    /// Half are faster.
    pub p50_us: f64,
    /// 99 of 100 are faster.
    pub p99_us: f64,
}

impl Job {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Sync1, Self::Write1, Self::Write16, Self::Write32, Self::Read32, Self::Stream, Self::Scan];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Sync1 => "4 KiB random write + fsync, depth 1",
            Self::Write1 => "4 KiB random write, depth 1",
            Self::Write16 => "4 KiB random write, depth 16",
            Self::Write32 => "4 KiB random write, depth 32",
            Self::Read32 => "4 KiB random read, depth 32",
            Self::Stream => "1 MiB sequential write, depth 4",
            Self::Scan => "1 MiB sequential read, depth 4",
        }
    }

    /// For programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sync1 => "sync1",
            Self::Write1 => "write1",
            Self::Write16 => "write16",
            Self::Write32 => "write32",
            Self::Read32 => "read32",
            Self::Stream => "stream",
            Self::Scan => "scan",
        }
    }

    /// Judged by its bandwidth.
    pub fn is_sequential(self) -> bool {
        matches!(self, Self::Stream | Self::Scan)
    }

    /// It changes data.
    pub fn writes(self) -> bool {
        !matches!(self, Self::Read32 | Self::Scan)
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Sync1 => &["--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=1"],
            Self::Write1 => &["--rw=randwrite", "--bs=4k", "--iodepth=1"],
            Self::Write16 => &["--rw=randwrite", "--bs=4k", "--iodepth=16"],
            Self::Write32 => &["--rw=randwrite", "--bs=4k", "--iodepth=32"],
            Self::Read32 => &["--rw=randread", "--bs=4k", "--iodepth=32"],
            Self::Stream => &["--rw=write", "--bs=1m", "--iodepth=4"],
            Self::Scan => &["--rw=read", "--bs=1m", "--iodepth=4"],
        }
    }

    /// Runs it on a file or device.
    ///
    /// # Errors
    /// fio fails.
    pub fn run(self, target: &Path, size: u64, seconds: u64) -> Result<Sample> {
        timed(self.arguments(), &[target], size, seconds)
    }
}

/// 4 KiB writes to two files at once, both waited for before the next two: what replication on one disk costs at
/// least.
///
/// # Errors
/// fio fails.
pub fn twins(targets: &[&Path; 2], size: u64, seconds: u64) -> Result<Sample> {
    let arguments = [
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=2",
        "--iodepth_batch_submit=2",
        "--iodepth_batch_complete_min=2",
        "--iodepth_batch_complete_max=2",
        "--file_service_type=roundrobin:1",
    ];
    timed(&arguments, targets, size, seconds)
}

/// 4 KiB random writes, no more than so many per second: an application that is not in a hurry.
///
/// # Errors
/// fio fails.
pub fn steady(target: &Path, size: u64, seconds: u64, rate: u32) -> Result<Sample> {
    let rate = format!("--rate_iops={rate}");
    timed(&["--rw=randwrite", "--bs=4k", "--iodepth=1", &rate], &[target], size, seconds)
}

/// Writes everything once from the first byte to `size`.
///
/// # Errors
/// fio fails.
pub fn fill(target: &Path, size: u64) -> Result<()> {
    let limit = LIMIT + Duration::from_secs(size >> 25);
    fio(&["--rw=write", "--bs=1m", "--iodepth=4", "--end_fsync=1"], &[target], size, limit).map(drop)
}

fn timed(arguments: &[&str], targets: &[&Path], size: u64, seconds: u64) -> Result<Sample> {
    let (runtime, ramp) = (format!("--runtime={seconds}"), format!("--ramp_time={RAMP_SECONDS}"));
    let mut all = vec!["--time_based", "--norandommap", "--randrepeat=0", &runtime, &ramp];
    all.extend(arguments);
    fio(&all, targets, size, LIMIT + Duration::from_secs(RAMP_SECONDS + seconds))
}

fn fio(arguments: &[&str], targets: &[&Path], size: u64, limit: Duration) -> Result<Sample> {
    let names: Vec<String> = targets.iter().map(|t| t.display().to_string()).collect();
    let mut command = Command::new("fio");
    command.args(["--name=bench", "--output-format=json", "--direct=1", "--ioengine=libaio"]);
    // Latency from submission on: that of a write which is carried out within the call counts, too.
    command.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
    // One description each, and no reading of a device's partitions or of the whole file first.
    command.args(["--invalidate=0", "--allow_file_create=0", "--group_reporting=1"]);
    command.arg(format!("--filename={}", names.join(":"))).arg(format!("--filesize={size}"));
    command.args(arguments);
    let text = os::run(limit, &mut command)?;
    let start = text.find('{').context("fio printed no JSON")?;
    let json: Value = serde_json::from_str(&text[start..]).context("fio printed no JSON")?;
    read(&json).context("fio's JSON has not the fields that are needed")
}

fn read(json: &Value) -> Option<Sample> {
    let job = json["jobs"].get(0)?;
    let side = [&job["write"], &job["read"]].into_iter().find(|s| s["total_ios"].as_u64() > Some(0))?;
    let latency = &side["lat_ns"];
    let us = |value: &Value| value.as_f64().map(|ns| ns / 1000.0);
    Some(Sample {
        iops: side["iops"].as_f64()?,
        bytes: side["bw_bytes"].as_f64()?,
        mean_us: us(&latency["mean"])?,
        p50_us: us(&latency["percentile"]["50.000000"])?,
        p99_us: us(&latency["percentile"]["99.000000"])?,
    })
}
