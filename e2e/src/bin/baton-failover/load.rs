//! Minutes in which every processor is full and nothing is wrong: whoever moves the address was mistaken.
//!
//! The load is containers that spin, two per processor, each with the same weight as every other container: what a
//! candidate's daemon gets is what is left of a machine that somebody else uses up.

use crate::sample::{self, Entry, Load};
use crate::site::{PATH, Site};
use anyhow::{Result, ensure};
use baton_e2e::netns::{Held, HolderWatch, Netns};
use baton_e2e::prober::Prober;
use baton_e2e::shell;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two probes: enough to see a pause, little enough to be no load of its own.
const CADENCE: Duration = Duration::from_millis(50);
const PER_PROCESSOR: usize = 2;

/// The containers that spin; gone with this.
struct Burners(Vec<String>);

impl Burners {
    fn start(project: &str) -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut all = Self(Vec::new());
        for n in 0..processors * PER_PROCESSOR {
            let name = format!("{project}-burner-{n}");
            all.0.push(name.clone());
            let spin = "while :; do :; done";
            shell::run(&[
                "docker",
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                &name,
                "baton/host",
                "sh",
                "-c",
                spin,
            ])?;
        }
        Ok(all)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        // failover.sh removes what is left of them.
        let _ = shell::run(&[&["docker", "rm", "-f"][..], &names[..]].concat());
    }
}

/// Fills the processors for so long, counts, and keeps what was seen.
///
/// # Errors
/// If the site does not become whole, or the load cannot be made.
pub fn watch(site: &Site, long: Duration, dir: &Path) -> Result<()> {
    let config = &site.cluster.config;
    let holder = site.settle()?;
    let other = config.other(&holder);
    println!("{}: {holder} serves; {} min of full load", site.candidate.name(), long.as_secs() / 60);
    let watched = |host: &str| -> Result<HolderWatch> {
        Ok(HolderWatch::start(config.vip, Some(Netns::of(&site.cluster, host)?)))
    };
    let (mine, theirs) = (watched(&holder)?, watched(&other)?);
    let burners = Burners::start(&config.project)?;
    let prober = Prober::start(config.at_vip(80), PATH, CADENCE, None);
    let (begin, before) = (Instant::now(), processor_time());
    std::thread::sleep(long);
    let (end, after) = (Instant::now(), processor_time());
    let longest = prober.history().gap(begin, end);
    let (mine, theirs) = (mine.held(), theirs.held());
    drop(burners);
    let busy_percent = busy(before, after);
    // Less would prove nothing.
    ensure!(busy_percent > 90.0, "the processors were busy for {busy_percent:.0} % of the time only");
    let found = Load {
        at: sample::now(),
        minutes: (end - begin).as_secs_f64() / 60.0,
        takeovers: gains(&theirs),
        interruptions: gains(&mine),
        longest_ms: longest.as_secs_f64() * 1000.0,
        busy_percent,
    };
    println!(
        "  takeovers {}, interruptions {}, longest time without an answer {:.0} ms, processors {:.0} % busy",
        found.takeovers, found.interruptions, found.longest_ms, found.busy_percent
    );
    sample::keep(dir, site.candidate, &Entry::Load(found))
}

/// How often the address came to a host; the first entry is the state at the start.
fn gains(held: &Held) -> u64 {
    held.iter().skip(1).filter(|(_, holds)| *holds).count() as u64
}

/// Used and all time of all processors, in ticks.
fn processor_time() -> (u64, u64) {
    parse_stat(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
}

fn parse_stat(text: &str) -> (u64, u64) {
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is contained in the first two.
    let all: u64 = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

fn busy(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (used, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    #[expect(clippy::cast_precision_loss, reason = "ticks of some minutes")]
    let percent = if all == 0 { 0.0 } else { 100.0 * used as f64 / all as f64 };
    percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_counted_without_the_state_at_the_start() {
        let t = Instant::now();
        assert_eq!(gains(&vec![(t, true)]), 0);
        assert_eq!(gains(&vec![(t, false), (t, true), (t, false), (t, true)]), 2);
        assert_eq!(gains(&vec![(t, true), (t, false), (t, true)]), 1);
        assert_eq!(gains(&Vec::new()), 0);
    }

    #[test]
    fn busy_processors() {
        let stat = |idle| parse_stat(&format!("cpu  100 10 40 {idle} 5 3 2 40 0 0\ncpu0 1 2\n"));
        assert_eq!(stat(800), (195, 1000));
        assert!((busy((0, 0), stat(800)) - 19.5).abs() < 1e-9);
        assert!(busy(stat(800), stat(800)).abs() < 1e-9);
    }
}
