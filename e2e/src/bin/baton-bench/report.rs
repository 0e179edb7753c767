//! The tables, for the terminal and for the page.

use crate::candidate::Kind;
use crate::options::Options;
use crate::results::{Results, Row, Summary, ratios, summary};
use crate::targets::{Target, judge};
use crate::{os, qemu};
use std::fs;

/// A table in Markdown whose columns line up in a terminal as well.
struct Table(Vec<Vec<String>>);

impl Table {
    fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |c: usize| self.0.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |cells: &[String]| {
            let padded = widths.iter().enumerate().map(|(c, width)| {
                let cell = cells.get(c).map_or("", String::as_str);
                if c == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let rule: Vec<String> = widths
            .iter()
            .enumerate()
            .map(
                |(c, w)| {
                    if c == 0 { "-".repeat(*w) } else { format!("{}:", "-".repeat(w.saturating_sub(1))) }
                },
            )
            .collect();
        let mut rows = self.0.iter();
        let head = rows.next().map(|r| line(r)).unwrap_or_default();
        [head, line(&rule), rows.map(|r| line(r)).collect::<String>()].concat()
    }
}

/// All that is printed and written.
pub fn text(options: &Options, results: &Results, machine: &str) -> String {
    let mut out = format!("{machine}\n");
    let rounds = |n: u64| if n == 1 { "one round".to_owned() } else { format!("{n} rounds, medians") };
    out += &format!(
        "{} of {} s per job and candidate, in alternating order; volumes of {} MiB.\n\n",
        rounds(options.rounds),
        options.seconds,
        options.size_mib
    );
    out += &rates(options, results);
    out += "\nLatency, mean / p99, microseconds:\n\n";
    out += &latencies(options, results);
    if let Some(other) = others(results) {
        out += &format!("\nWhat else was measured:\n\n{other}");
    }
    if options.base.is_some() {
        out += &format!("\nOver the other build, median (spread):\n\n{}", over_base(results));
    }
    out += &format!(
        "\nTargets; ratios are taken round by round, then the median, with the spread in brackets:\n\n{}",
        targets(&judge(results))
    );
    out
}

fn header(options: &Options) -> Vec<String> {
    std::iter::once("job".to_owned()).chain(options.candidates.iter().map(|c| c.title().into())).collect()
}

fn rates(options: &Options, results: &Results) -> String {
    let mut rows = vec![header(options)];
    for row in Row::all() {
        let cells = options.candidates.iter().map(|kind| {
            summary(results.rates(row, *kind).iter().copied())
                .map_or_else(String::new, |s| thousands(s.median))
        });
        let cells: Vec<String> = cells.collect();
        if cells.iter().any(|c| !c.is_empty()) {
            rows.push(std::iter::once(row.title()).chain(cells).collect());
        }
    }
    Table(rows).text()
}

fn latencies(options: &Options, results: &Results) -> String {
    let mut rows = vec![header(options)];
    for job in &options.jobs {
        let cells = options.candidates.iter().map(|kind| {
            let mean = summary(results.details(*job, *kind, |s| s.mean_us));
            let p99 = summary(results.details(*job, *kind, |s| s.p99_us));
            match (mean, p99) {
                (Some(mean), Some(p99)) => format!("{} / {}", thousands(mean.median), thousands(p99.median)),
                _ => String::new(),
            }
        });
        rows.push(std::iter::once(job.title().to_owned()).chain(cells).collect());
    }
    Table(rows).text()
}

fn others(results: &Results) -> Option<String> {
    let mut rows = vec![vec!["figure".to_owned(), "median".into(), "spread".into()]];
    let mut add = |name: &str, values: Vec<f64>, scale: f64, unit: &str| {
        if let Some(Summary { median, min, max }) = summary(values) {
            let shown = |v: f64| format!("{:.0}", v / scale);
            rows.push(vec![
                name.into(),
                format!("{} {unit}", shown(median)),
                format!("{} to {}", shown(min), shown(max)),
            ]);
        }
    };
    let mib = f64::from(1 << 20);
    add(
        "two raw 4 KiB writes at once, mean latency",
        results.twins.iter().map(|s| s.mean_us).collect(),
        1.0,
        "us",
    );
    let repairs = &results.repairs;
    add("resync of 512 MiB, nothing else running", repairs.iter().map(|r| r.resync).collect(), mib, "MiB/s");
    add("`cp --reflink=never` and `sync` of 512 MiB", repairs.iter().map(|r| r.copy).collect(), mib, "MiB/s");
    add("p99 of 500 writes/s of 4 KiB", repairs.iter().map(|r| r.calm_p99_us).collect(), 1.0, "us");
    add(
        "the same while a throttled resync runs",
        repairs.iter().map(|r| r.resync_p99_us).collect(),
        1.0,
        "us",
    );
    add("speed of that resync", repairs.iter().map(|r| r.throttled).collect(), mib, "MiB/s");
    for (node, bytes) in ["leader", "standby"].iter().zip(&results.memory) {
        add(&format!("resident memory, 1 TiB, one peer: {node}"), vec![*bytes], mib, "MiB");
    }
    (rows.len() > 1).then(|| Table(rows).text())
}

fn over_base(results: &Results) -> String {
    let pairs = [(Kind::Alone, Kind::BaseAlone), (Kind::Peer, Kind::BasePeer), (Kind::Tls, Kind::BaseTls)];
    let mut rows = vec![vec!["job".to_owned(), "alone".into(), "with a peer".into(), "with TLS".into()]];
    for row in Row::all() {
        let cells = pairs.map(|(one, other)| {
            ratios(results.rates(row, one), results.rates(row, other))
                .map_or_else(String::new, |s| format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max))
        });
        if cells.iter().any(|c| !c.is_empty()) {
            rows.push(std::iter::once(row.title()).chain(cells).collect());
        }
    }
    Table(rows).text()
}

fn targets(all: &[Target]) -> String {
    let mut rows = vec![vec!["target".to_owned(), "bar".into(), "found".into(), "".into()]];
    for target in all {
        let verdict = match target.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        rows.push(vec![target.text.clone(), target.bar.clone(), target.found.clone(), verdict.into()]);
    }
    Table(rows).text()
}

/// Three significant digits are what such a measurement is good for; whole numbers read best.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// The machine and the programs, and what it did before the run began.
pub fn machine(options: &Options) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processors = read("/proc/cpuinfo");
    let count = processors.lines().filter(|l| l.starts_with("processor")).count();
    let model = field(&processors, "model name").unwrap_or_else(|| "unknown processor".into());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let guest = if processors.contains("hypervisor") { " (virtual machine)" } else { "" };
    let release = read("/proc/sys/kernel/osrelease");
    let disk = os::quick(
        "findmnt",
        &["--noheadings", "--output", "FSTYPE,SOURCE", "--target", &options.dir.display().to_string()],
    );
    let disk: Vec<String> = disk.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let first = |program: &str, argument: &str| {
        os::quick(program, &[argument]).ok().and_then(|t| Some(t.lines().next()?.trim().to_owned()))
    };
    let mariadb = first("mariadbd", "--version")
        .and_then(|t| Some(t.split("Ver ").nth(1)?.split('-').next()?.to_owned()));
    let programs = [
        first("fio", "--version"),
        qemu::version(),
        mariadb.map(|v| format!("MariaDB {v}")),
        first("sysbench", "--version"),
    ];
    let programs: Vec<String> = programs.into_iter().flatten().collect();
    format!(
        "{count} x {model}{guest}, {} GiB; Linux {}; {}; {}; load before the run {load}.",
        kib >> 20,
        release.trim(),
        disk.join(" on "),
        programs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let table = Table(vec![vec!["job".into(), "a".into()], vec!["x".into(), "12".into()]]);
        assert_eq!(table.text(), "| job |  a |\n| --- | -: |\n| x   | 12 |\n");
        assert_eq!([thousands(999.4), thousands(1234567.0)], ["999", "1 234 567"]);
    }
}
