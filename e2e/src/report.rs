//! The measured figures: a line on standard output and a row in `target/e2e-report.md`, each at once, so that a
//! suite that is cut short leaves what it knew.

use crate::config::output_dir;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

static BEGUN: Once = Once::new();

fn path() -> PathBuf {
    output_dir().join("e2e-report.md")
}

/// Adds a row. `bound` is empty for a figure that is only told.
pub fn row(scenario: &str, what: &str, measured: &str, bound: &str, ok: bool) {
    let verdict = match (bound.is_empty(), ok) {
        (true, true) => "",
        (false, true) => "ok",
        (_, false) => "FAILED",
    };
    println!(
        "    {what}: {measured}{}",
        if bound.is_empty() { String::new() } else { format!(" ({bound}) {verdict}") }
    );
    BEGUN.call_once(|| {
        let head = "# Measured by the end-to-end suite\n\nOne process ran the scenarios below, in this order, against one cluster.\n\n\
                    | scenario | what | measured | bound | |\n| --- | --- | --- | --- | --- |\n";
        let _ = std::fs::write(path(), head);
    });
    // A report that cannot be written must not fail a scenario that succeeded: the line above is on stdout.
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path());
    let _ = file.and_then(|mut f| writeln!(f, "| {scenario} | {what} | {measured} | {bound} | {verdict} |"));
}

/// A duration as it reads best in a table.
#[must_use]
pub fn ms(d: Duration) -> String {
    format!("{:.0} ms", d.as_secs_f64() * 1000.0)
}
