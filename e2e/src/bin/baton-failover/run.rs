//! One fault, watched by a prober that opens a connection every 10 ms and, where there is a database, by a writer.

use crate::fault::{self, Fault};
use crate::sample::{self, Entry, Meta, Sample};
use crate::site::{PATH, Site};
use anyhow::Result;
use baton_e2e::prober::{CADENCE, History, Prober};
use baton_e2e::writer::Writer;
use std::path::Path;
use std::time::{Duration, Instant};

/// Before the fault, so that a gap has a beginning; and each run a little longer than the one before it, so that the faults
/// strike at different moments between two heartbeats.
const PEACE: Duration = Duration::from_millis(1000);
const PHASE_MS: u64 = 137;
/// A service that answers without a longer pause for so long is back.
const BACK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(200);
/// What would be worth seeing after a fault that moves nothing comes within the silence and this.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Beyond every candidate's takeover: what is not back by then is measured as that.
const LIMIT: Duration = Duration::from_secs(60);
/// What an ordinary takeover costs beside the silence: one that takes longer leaves its logs behind.
const ORDINARY: Duration = Duration::from_millis(1500);
/// Probes that were on their way when the fault struck count.
const BEFORE: Duration = Duration::from_millis(50);

/// All faults, each so often, in turns: what the machine does meanwhile strikes all of them.
///
/// # Errors
/// If the site does not become whole, or a fault cannot strike. What was measured by then is kept.
pub fn all(site: &Site, runs: u64, faults: &[Fault], dir: &Path) -> Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let leader = site.settle()?;
    println!("{}: {leader} serves; {}", site.candidate.name(), site.version());
    let meta = Meta { version: site.version(), load, at: sample::now() };
    sample::keep(dir, site.candidate, &Entry::Meta(meta))?;
    for n in 1..=runs {
        for &fault in faults {
            let found = once(site, fault, n)?;
            let writes = found.write_ms.map(|ms| format!(", writes {ms:.0} ms")).unwrap_or_default();
            println!(
                "  {n:>3} {:<14} HTTP {:.0} ms{writes}; {} to {}",
                fault.title(),
                found.http_ms,
                found.from,
                found.to
            );
            sample::keep(dir, site.candidate, &Entry::Sample(found))?;
        }
    }
    site.settle().map(drop)
}

fn once(site: &Site, fault: Fault, n: u64) -> Result<Sample> {
    let victim = site.settle()?;
    let other = site.cluster.config.other(&victim);
    let prober = Prober::start(site.cluster.config.at_vip(80), PATH, CADENCE, None);
    let name = format!("failover-{}-{}-{n}", site.candidate.name(), fault.name());
    let writer = site.candidate.data().then(|| Writer::start(&site.cluster, &name, None)).transpose()?;
    std::thread::sleep(PEACE + Duration::from_millis(n * PHASE_MS % 500));
    let (at, held) = fault::strike(site, fault, &victim)?;
    while at.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(100));
        let now = Instant::now();
        // A write that was begun after the service was back: with the database it is not back before.
        let wrote = |since: Instant| {
            writer.as_ref().is_none_or(|w| w.journal().acks.last().is_some_and(|a| a.begin > since))
        };
        let Some(since) = over(&prober.history(), fault, &other, at, site.candidate.silence(), now) else {
            continue;
        };
        if wrote(since) {
            break;
        }
    }
    let (from, to) = (at.checked_sub(BEFORE).unwrap_or(at), Instant::now());
    let history = prober.history();
    let http = history.gap(from, to);
    let write = writer.as_ref().map(|w| w.journal().gap(from, to));
    if site.candidate.peer().is_none() && http > site.candidate.silence() + ORDINARY {
        println!("      {}", history.failures(at));
        site.cluster.diagnose(&format!("failover-{}-{}-{n}", site.candidate.name(), sample::now()));
    }
    drop(held);
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let last = history.ok().last().and_then(|p| p.served_by.clone().ok());
    Ok(Sample {
        fault,
        at: sample::now(),
        http_ms: ms(http),
        write_ms: write.map(ms),
        from: victim,
        to: last.unwrap_or_else(|| "nobody".into()),
    })
}

/// Since when the service is back, once it has been for a while: at the other host if the fault moves it, and in any case
/// not before the silence is over after which something may still happen.
fn over(
    history: &History,
    fault: Fault,
    other: &str,
    at: Instant,
    silence: Duration,
    now: Instant,
) -> Option<Instant> {
    let since = if fault.moves() {
        history.first_from(other, at)?.end
    } else {
        let quiet = at + silence + AFTERMATH;
        (now > quiet).then_some(quiet)?
    };
    let begin = now.checked_sub(BACK)?;
    (begin >= since && history.gap(begin, now) < PAUSE).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_e2e::prober::Probe;

    /// A probe every 10 ms over some seconds: who answered in each of these spans of milliseconds.
    fn history(t: Instant, spans: &[(u64, u64, Result<&str, &str>)]) -> History {
        let at = |ms| t + Duration::from_millis(ms);
        let probes = spans.iter().flat_map(|(from, to, by)| {
            (*from..*to).step_by(10).map(|ms| Probe {
                begin: at(ms),
                end: at(ms + 1),
                served_by: by.map(str::to_owned).map_err(str::to_owned),
            })
        });
        History(probes.collect())
    }

    #[test]
    fn a_takeover_is_over_when_the_other_host_has_answered_for_a_while() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let seen = history(t, &[(0, 1000, Ok("a")), (1000, 2600, Err("x")), (2600, 4000, Ok("b"))]);
        let silence = Duration::from_millis(1500);
        let ask = |ms| over(&seen, Fault::Power, "b", at(1000), silence, at(ms));
        assert_eq!(ask(3500), None, "not back for a second yet");
        assert_eq!(ask(3650), Some(at(2601)));
        assert_eq!(over(&seen, Fault::Power, "a", at(1000), silence, at(3650)), None, "the wrong host");
        assert_eq!(ask(4900), None, "it went away again");
        assert_eq!(seen.gap(at(950), at(3650)), Duration::from_millis(1610));
    }

    #[test]
    fn a_killed_daemon_is_watched_until_a_takeover_would_be_over() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let seen = history(t, &[(0, 9000, Ok("a"))]);
        let ask = |ms| over(&seen, Fault::Daemon, "b", at(1000), Duration::from_millis(500), at(ms));
        assert_eq!((ask(5400), ask(6400)), (None, None), "until the silence and the aftermath have passed");
        assert_eq!(ask(6600), Some(at(5500)));
    }
}
