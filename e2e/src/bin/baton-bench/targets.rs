//! What Baton's speed must be, as ratios within one run, and whether it was.

use crate::candidate::Kind;
use crate::fio::Job;
use crate::results::{Results, Row, Summary, ratios, summary};

/// Against QEMU's quorum, for each way to write.
const OVER_QEMU: f64 = 1.5;
/// Of plain, at depth 1.
const TLS: f64 = 0.85;
/// Over two raw writes at once, microseconds.
const OVER_TWINS_US: f64 = 60.0;
/// IOPS at depth 32 that are enough on any machine.
const ENOUGH_IOPS: f64 = 30_000.0;
/// Otherwise: of half of what the loop device does, for each block is written twice.
const OF_HALF_LOOP: f64 = 0.6;
/// Of the raw file's bandwidth, with both replicas on one disk.
const OF_RAW: f64 = 0.45;
/// Of the loop device's reads.
const OF_READS: f64 = 0.8;
/// Of the speed of `cp`.
const OF_COPY: f64 = 0.7;
/// p99 while a resync runs, of that without.
const P99: f64 = 2.0;
/// Resident memory, bytes: of a replicator, and per TiB and peer.
const RESIDENT: f64 = ((30 << 20) + (32 << 20)) as f64;

/// One target and what became of it.
pub struct Target {
    /// What is demanded.
    pub text: String,
    /// The bar, with its unit.
    pub bar: String,
    /// What was found: median and spread over the rounds.
    pub found: String,
    /// None: not measured in this run.
    pub met: Option<bool>,
}

/// All of them.
pub fn judge(results: &Results) -> Vec<Target> {
    let mut all = Vec::new();
    for row in Row::all().into_iter().filter(|r| r.writes()) {
        let ratio = results.ratio(row, Kind::Peer, Kind::Qemu);
        let title = row.title();
        let job = title.rsplit_once(", ").map_or(title.as_str(), |(job, _)| job);
        all.push(at_least(format!("{job}: Baton + peer over QEMU quorum"), OVER_QEMU, ratio));
    }
    for job in [Job::Sync1, Job::Write1] {
        let ratio = results.ratio(Row::Job(job), Kind::Tls, Kind::Peer);
        all.push(at_least(format!("{}: TLS over plain", job.title()), TLS, ratio));
    }
    all.push(depth_one(results));
    all.push(depth_32(results));
    let of = |row, one, other| results.ratio(Row::Job(row), one, other);
    let stream = of(Job::Stream, Kind::Peer, Kind::Raw);
    all.push(at_least(format!("{}: Baton + peer over the raw file", Job::Stream.title()), OF_RAW, stream));
    let reads = of(Job::Read32, Kind::Peer, Kind::Loop);
    all.push(at_least(
        format!("{}: Baton + peer over the loop device", Job::Read32.title()),
        OF_READS,
        reads,
    ));
    let figures = |figure: fn(&crate::repair::Round) -> f64| -> Vec<f64> {
        results.repairs.iter().map(figure).collect()
    };
    let copied = ratios(&figures(|r| r.resync), &figures(|r| r.copy));
    all.push(at_least("Resync, nothing else running: over `cp` of the same bytes".into(), OF_COPY, copied));
    let felt = ratios(&figures(|r| r.resync_p99_us), &figures(|r| r.calm_p99_us));
    all.push(Target {
        text: "p99 of 4 KiB writes during a throttled resync, over without".into(),
        bar: format!("<= {P99:.2}"),
        found: shown(felt, |v| format!("{v:.2}")),
        met: felt.map(|f| f.median <= P99),
    });
    let most = summary(results.memory.iter().copied());
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    all.push(Target {
        text: "Resident memory, idle, 1 TiB and one peer: the larger of both nodes".into(),
        bar: format!("<= {}", mib(RESIDENT)),
        found: most.map_or_else(String::new, |m| mib(m.max)),
        met: most.map(|m| m.max <= RESIDENT),
    });
    all
}

/// Latency of a replicated write: of two raw ones at once and a bit.
fn depth_one(results: &Results) -> Target {
    let replicated = results.details(Job::Write1, Kind::Peer, |s| s.mean_us);
    let over = replicated.iter().zip(&results.twins).map(|(mean, twins)| mean - twins.mean_us);
    let over = summary(over);
    Target {
        text: format!(
            "{}: Baton + peer, mean latency over that of two raw writes at once",
            Job::Write1.title()
        ),
        bar: format!("<= +{OVER_TWINS_US:.0} us"),
        found: shown(over, |v| format!("{v:+.0} us")),
        met: over.map(|o| o.median <= OVER_TWINS_US),
    }
}

/// IOPS in the absolute, or against the loop device where that is slow.
fn depth_32(results: &Results) -> Target {
    let row = Row::Job(Job::Write32);
    let (peer, plain) = (results.rates(row, Kind::Peer), results.rates(row, Kind::Loop));
    let bars: Vec<f64> = plain.iter().map(|rate| ENOUGH_IOPS.min(OF_HALF_LOOP * rate / 2.0)).collect();
    let ratio = ratios(peer, &bars);
    let bar = summary(bars).map_or_else(String::new, |b| format!("; here {:.0}", b.median));
    Target {
        text: format!("{}: Baton + peer, IOPS", Job::Write32.title()),
        bar: format!(">= the lesser of {ENOUGH_IOPS:.0} and {OF_HALF_LOOP} x loop / 2{bar}"),
        found: shown(summary(peer.iter().copied()), |v| format!("{v:.0}")),
        met: ratio.map(|r| r.median >= 1.0),
    }
}

fn at_least(text: String, bar: f64, ratio: Option<Summary>) -> Target {
    Target {
        text,
        bar: format!(">= {bar:.2}"),
        found: shown(ratio, |v| format!("{v:.2}")),
        met: ratio.map(|r| r.median >= bar),
    }
}

fn shown(summary: Option<Summary>, show: impl Fn(f64) -> String) -> String {
    summary.map_or_else(String::new, |s| {
        let (median, min, max) = (show(s.median), show(s.min), show(s.max));
        if min == max { median } else { format!("{median} ({min} to {max})") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fio::Sample;

    fn sample(iops: f64) -> Sample {
        Sample { iops, bytes: iops * 4096.0, mean_us: 1e6 / iops, p50_us: 0.0, p99_us: 0.0 }
    }

    fn verdict(results: &Results, about: &str) -> Option<bool> {
        let found: Vec<_> = judge(results).into_iter().filter(|t| t.text.contains(about)).collect();
        assert_eq!(found.len(), 1, "{about}");
        found[0].met
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        assert!(judge(&Results::default()).iter().all(|t| t.met.is_none()));
    }

    #[test]
    fn depth_32_is_judged_by_the_lesser_bar() {
        let about = "depth 32: Baton + peer, IOPS";
        for (plain, peer, met) in
            [(50e3, 15.1e3, true), (50e3, 14.9e3, false), (400e3, 30.1e3, true), (400e3, 29.9e3, false)]
        {
            let mut results = Results::default();
            results.add(Job::Write32, Kind::Loop, sample(plain));
            results.add(Job::Write32, Kind::Peer, sample(peer));
            assert_eq!(verdict(&results, about), Some(met), "{plain} {peer}");
        }
    }

    #[test]
    fn depth_1_is_judged_by_its_latency_over_two_raw_writes() {
        for (peer_us, met) in [(99.0, true), (101.0, false)] {
            let mut results = Results { twins: vec![sample(1e6 / 40.0)], ..Results::default() };
            results.add(Job::Write1, Kind::Peer, sample(1e6 / peer_us));
            assert_eq!(verdict(&results, "two raw writes"), Some(met));
        }
    }

    #[test]
    fn memory_is_judged_by_the_larger_node() {
        for (standby, met) in [(61, true), (63, false)] {
            let memory = vec![f64::from(1 << 20), f64::from(standby << 20)];
            let results = Results { memory, ..Results::default() };
            assert_eq!(verdict(&results, "Resident memory"), Some(met));
        }
    }
}
