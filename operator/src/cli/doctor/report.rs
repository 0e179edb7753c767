//! What a check found, and how all of it is shown. Pure.

use crate::cli::paint::{Paint, Tone, cell, flow, hanging};
use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Could not be looked at; the sentence says why.
    Skipped,
    /// Works, with a risk.
    Warning,
    /// Baton will not work, or not safely.
    Failed,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `engine`, `kernel`, `devices`, `ports`, `clock`, `disk`, `etcd`, `network`, `secrets`.
    pub family: &'static str,
    /// What was checked, a few words.
    pub check: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, one sentence.
    pub found: String,
    /// How to mend it; empty if there is nothing to mend.
    pub mend: String,
}

impl Finding {
    fn new(
        family: &'static str,
        check: impl Into<String>,
        verdict: Verdict,
        found: impl Into<String>,
    ) -> Self {
        Self { family, check: check.into(), verdict, found: found.into(), mend: String::new() }
    }

    /// As it should be.
    pub fn ok(family: &'static str, check: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(family, check, Verdict::Ok, found)
    }

    /// Not looked at, and why.
    pub fn skipped(family: &'static str, check: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(family, check, Verdict::Skipped, why)
    }

    /// A risk, and how to mend it.
    pub fn warning(
        family: &'static str,
        check: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { mend: mend.into(), ..Self::new(family, check, Verdict::Warning, found) }
    }

    /// Will not work, and how to mend it.
    pub fn failed(
        family: &'static str,
        check: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { mend: mend.into(), ..Self::new(family, check, Verdict::Failed, found) }
    }
}

/// Everything that was found on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The node's name, if it was given.
    pub node: Option<String>,
    /// The worst verdict, skipped checks aside.
    pub verdict: Verdict,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Puts findings together.
    #[must_use]
    pub fn new(node: Option<String>, findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|f| f.verdict).filter(|v| *v != Verdict::Skipped).max();
        Self { node, verdict: worst.unwrap_or(Verdict::Ok), findings }
    }

    /// 0 = ok, 1 = warnings, 2 = something failed.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self.verdict {
            Verdict::Ok | Verdict::Skipped => 0,
            Verdict::Warning => 1,
            Verdict::Failed => 2,
        }
    }
}

/// The report as text.
#[must_use]
pub fn render(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let mut family = "";
    for finding in &report.findings {
        if finding.family != family {
            family = finding.family;
            out.push_str(&format!("{}\n", paint.tone(Tone::Head, family)));
        }
        let (word, tone) = match finding.verdict {
            Verdict::Ok => ("ok     ", Tone::Good),
            Verdict::Skipped => ("skipped", Tone::Dim),
            Verdict::Warning => ("WARNING", Tone::Warn),
            Verdict::Failed => ("FAILED ", Tone::Bad),
        };
        let line = hanging("          ", &format!("{}: {}", finding.check, finding.found));
        out.push_str(&format!("  {} {}", paint.tone(tone, word), &line[10..]));
        if !finding.mend.is_empty() {
            out.push_str(&hanging("          -> ", &finding.mend));
        }
    }
    let count = |verdict| report.findings.iter().filter(|f| f.verdict == verdict).count();
    let text = format!(
        "\n{} ok, {} warnings, {} failed, {} skipped",
        count(Verdict::Ok),
        count(Verdict::Warning),
        count(Verdict::Failed),
        count(Verdict::Skipped)
    );
    let tone = match report.verdict {
        Verdict::Ok | Verdict::Skipped => Tone::Good,
        Verdict::Warning => Tone::Warn,
        Verdict::Failed => Tone::Bad,
    };
    out.push('\n');
    out.push_str(&flow(paint, 0, 0, &[(text, tone), cell("")]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("kernel", "version", "6.1.0 is new enough (5.9)"),
            Finding::skipped("kernel", "capabilities", "/proc/self/status cannot be read"),
            Finding::warning(
                "disk",
                "fsync",
                "99 of 100 take up to 31 ms; etcd wants 10 ms".repeat(2),
                "Put it elsewhere.",
            ),
            Finding::failed("disk", "space", "3 MiB are free", "Free some."),
        ]
    }

    #[test]
    fn the_worst_finding_decides_the_code_and_skipped_ones_do_not() {
        let all = findings();
        for (take, code) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            assert_eq!(Report::new(None, all[..take].to_vec()).code(), code, "{take}");
        }
        assert_eq!(Report::new(None, Vec::new()).code(), 0);
    }

    #[test]
    fn the_page_fits_and_says_how_to_mend() {
        let page = render(&Report::new(Some("alpha".into()), findings()), Paint { color: false });
        assert!(page.lines().all(|l| l.chars().count() <= 80), "{page}");
        assert!(
            page.contains("  WARNING fsync: 99 of 100") && page.contains("          -> Put it"),
            "{page}"
        );
        assert!(page.ends_with("1 ok, 1 warnings, 1 failed, 1 skipped\n"), "{page}");
    }
}
