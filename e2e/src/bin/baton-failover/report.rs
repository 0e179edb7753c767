//! The tables, and the page that they go into.

use crate::candidate::Candidate;
use crate::fault::Fault;
use crate::judge::{self, Verdict};
use crate::sample::{Results, Summary};
use std::fs;

/// All that is printed and written.
pub fn text(results: &Results) -> String {
    let mut out = format!("{}\n\n", machine());
    out += "Downtime over HTTP, milliseconds: median / worst (runs):\n\n";
    out += &downtimes(results, Candidate::ALL.to_vec(), Results::http);
    out += "\nTime without a committed write, milliseconds: median / worst (runs):\n\n";
    out += &downtimes(results, vec![Candidate::Data, Candidate::DataFast], Results::writes);
    out += "\nUnder full load, nothing being wrong:\n\n";
    out += &loads(results);
    out += "\nThe bars; the worst run counts:\n\n";
    out += &bars(results);
    out += "\nWhat was measured:\n\n";
    out += &programs(results);
    out
}

type Figure = fn(&Results, Candidate, Fault) -> Option<Summary>;

fn downtimes(results: &Results, candidates: Vec<Candidate>, figure: Figure) -> String {
    let head = std::iter::once("").chain(Fault::ALL.into_iter().map(Fault::title));
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
    for candidate in candidates {
        let cell = |s: Summary| format!("{:.0} / {:.0} ({})", s.median, s.worst, s.runs);
        let cells =
            Fault::ALL.map(|fault| figure(results, candidate, fault).map_or("not measured".into(), cell));
        rows.push(std::iter::once(candidate.title().to_owned()).chain(cells).collect());
    }
    table(&rows)
}

fn loads(results: &Results) -> String {
    let head = ["", "minutes", "takeovers", "lost and got back", "longest without an answer", "processors"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for candidate in Candidate::ALL.into_iter().filter(|c| c.under_load()) {
        let cells = results.load(candidate).map_or(["not measured"; 5].map(str::to_owned), |l| {
            [
                format!("{:.0}", l.minutes),
                l.takeovers.to_string(),
                l.interruptions.to_string(),
                format!("{:.0} ms", l.longest_ms),
                format!("{:.0} %", l.busy_percent),
            ]
        });
        rows.push(std::iter::once(candidate.title().to_owned()).chain(cells).collect());
    }
    table(&rows)
}

fn bars(results: &Results) -> String {
    let mut rows = vec![["", "bar", "found", "verdict"].map(str::to_owned).to_vec()];
    for bar in judge::bars(results) {
        let verdict = match bar.verdict {
            Verdict::Passed => "passed",
            Verdict::Missed => "**missed**",
            Verdict::Open => "not measured enough",
        };
        rows.push(vec![bar.text, bar.bound, bar.found, verdict.to_owned()]);
    }
    table(&rows)
}

fn programs(results: &Results) -> String {
    let mut rows = vec![["", "program", "measured (UTC)", "load average before"].map(str::to_owned).to_vec()];
    for (candidate, measured) in &results.0 {
        for meta in &measured.meta {
            let row = [candidate.title().to_owned(), meta.version.clone(), date(meta.at), meta.load.clone()];
            rows.push(row.to_vec());
        }
    }
    table(&rows)
}

/// A table in Markdown whose columns line up in a terminal as well.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|c| width(c).max(3)).collect();
    let line = |cells: &[String]| {
        let padded = widths.iter().enumerate().map(|(c, width)| {
            let cell = cells.get(c).map_or("", String::as_str);
            format!("{cell:<width$}")
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut lines: Vec<String> = rows.iter().map(|r| line(r)).collect();
    lines.insert(1.min(lines.len()), line(&rule));
    lines.concat()
}

/// The machine that all candidates shared.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processors = read("/proc/cpuinfo");
    let count = processors.lines().filter(|l| l.starts_with("processor")).count();
    let model = field(&processors, "model name").unwrap_or_else(|| "unknown processor".into());
    let guest = if processors.contains("hypervisor") { " (virtual machine)" } else { "" };
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let release = read("/proc/sys/kernel/osrelease");
    format!("{count} x {model}{guest}, {} GiB; Linux {}. Both hosts on it.", kib >> 20, release.trim())
}

/// Seconds since 1970 as a date and a time of day, UTC. Days to a date after Howard Hinnant's `civil_from_days`.
fn date(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}", of_day / 3600, of_day % 3600 / 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Load, Measured, Meta, Sample};

    #[test]
    fn the_tables_say_what_was_measured_and_what_was_not() {
        let sample = |http_ms: f64| Sample {
            fault: Fault::Power,
            at: 1,
            http_ms,
            write_ms: None,
            from: "alpha".into(),
            to: "beta".into(),
        };
        let load = Load {
            at: 1,
            minutes: 10.0,
            takeovers: 2,
            interruptions: 1,
            longest_ms: 44.4,
            busy_percent: 99.6,
        };
        let measured = Measured {
            meta: vec![Meta { version: "baton 1".into(), load: "0.1".into(), at: 1_795_341_600 }],
            samples: vec![sample(600.0), sample(640.0), sample(900.4)],
            loads: vec![load],
        };
        let text = text(&Results([(Candidate::HotFast, measured)].into()));
        let has = |part: &str| assert!(text.contains(part), "no '{part}' in\n{text}");
        has("| 640 / 900 (3)");
        has("| not measured");
        has("| 10           | 2            | 1                 | 44 ms                     | 100 %");
        has("at most 800 ms");
        has("worst of 3: 900 ms");
        has("**missed**");
        has("2026-11-22 10:00");
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59");
    }
}
