//! What is said of a run: a line per fault while it goes, tables at its end, and the same as JSON.

use crate::judge::{Double, Rows};
use crate::plan::{Kind, Strike};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// One round as it went.
#[derive(Clone, Debug)]
pub struct Round {
    /// Since the run began.
    pub at: Duration,
    /// Its faults, with the host that each struck, and what kept it from striking.
    pub strikes: Vec<(Strike, String, Option<String>)>,
    /// Longest time without an answer over HTTP.
    pub http: Duration,
    /// Longest time without an acknowledged commit.
    pub commits: Duration,
    /// Who led before and after.
    pub leaders: (String, String),
    /// Number of the epoch before and after.
    pub epochs: (u64, u64),
    /// From the end of the last fault until the next round could begin.
    pub whole: Duration,
}

impl Round {
    /// What it is counted under: its fault, or that there were two.
    fn name(&self) -> &'static str {
        match self.strikes.as_slice() {
            [(strike, ..)] => strike.kind.name(),
            _ => "two at once",
        }
    }

    /// The only thing that happened was a person's wish.
    fn planned(&self) -> bool {
        matches!(self.strikes.as_slice(), [(Strike { kind: Kind::Moved, .. }, ..)])
    }

    /// Changes of leadership.
    fn changes(&self) -> u64 {
        self.epochs.1.saturating_sub(self.epochs.0)
    }

    /// What was seen of it.
    pub fn line(&self) -> String {
        let led = if self.changes() == 0 {
            "nothing moved".to_owned()
        } else {
            let word = if self.planned() { "handover" } else { "takeover" };
            let (from, to) = (&self.leaders.0, &self.leaders.1);
            format!("{word} {from} to {to}, epoch {} to {}", self.epochs.0, self.epochs.1)
        };
        format!(
            "          HTTP {}, commits {}; {led}; whole after {:.1} s",
            ms(self.http),
            ms(self.commits),
            self.whole.as_secs_f64()
        )
    }
}

/// Everything that a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plan's seed.
    pub seed: u64,
    /// From the first fault to the last round's end.
    pub lasted: Duration,
    /// In order.
    pub rounds: Vec<Round>,
    /// Probes from outside, and those that were answered.
    pub probes: (usize, usize),
    /// Answers by host, from all places.
    pub answers: BTreeMap<String, usize>,
    /// Two hosts at once; when, since the run began.
    pub doubles: Vec<(Duration, Double)>,
    /// Transactions committed, failed, unknown.
    pub transactions: [usize; 3],
    /// The judgement over lists.
    pub rows: Rows,
    /// What the checker found; none if the history is strictly serializable.
    pub anomalies: Option<String>,
    /// How long the checker took.
    pub checked: Duration,
    /// What is wrong with the two replicas at rest.
    pub replicas: Option<String>,
    /// A round after which the cluster did not recover.
    pub stuck: Option<String>,
}

impl Report {
    /// Of a run whose clients have not been judged.
    pub fn empty(seed: u64, lasted: Duration, rounds: Vec<Round>, probes: (usize, usize)) -> Self {
        Self {
            seed,
            lasted,
            rounds,
            probes,
            answers: BTreeMap::new(),
            doubles: Vec::new(),
            transactions: [0; 3],
            rows: Rows::default(),
            anomalies: None,
            checked: Duration::ZERO,
            replicas: None,
            stuck: None,
        }
    }

    /// Everything that is not as it must be, one sentence each.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        wrong.extend(self.stuck.iter().map(|w| format!("the cluster did not recover: {w}")));
        if self.rows.lost > 0 {
            wrong.push(format!("{} acknowledged appends are missing", self.rows.lost));
        }
        wrong.extend(self.rows.wrong.iter().cloned());
        wrong.extend(self.anomalies.iter().map(|a| format!("the history is not strictly serializable: {a}")));
        for (at, double) in &self.doubles {
            wrong.push(format!(
                "{} {} answered {} times within {} while the other host did",
                clock(*at),
                double.host,
                double.answers,
                ms(double.lasted)
            ));
        }
        wrong.extend(self.replicas.iter().map(|r| format!("the replicas: {r}")));
        if self.transactions[0] == 0 && self.stuck.is_none() {
            wrong.push("no transaction was committed: this proves nothing".into());
        }
        wrong
    }

    fn availability(&self) -> f64 {
        100.0 * self.probes.1 as f64 / self.probes.0.max(1) as f64
    }

    fn moves(&self) -> (u64, u64) {
        let of =
            |planned| self.rounds.iter().filter(|r| r.planned() == planned).map(Round::changes).sum::<u64>();
        (of(false), of(true))
    }

    /// The tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut kinds = BTreeMap::<&str, Vec<&Round>>::new();
        for round in &self.rounds {
            kinds.entry(round.name()).or_default().push(round);
        }
        let _ = writeln!(
            text,
            "{:<30} {:>6} {:>10} {:>12} {:>12} {:>10}",
            "fault", "rounds", "takeovers", "HTTP, worst", "commits", "whole"
        );
        for (name, rounds) in kinds {
            let worst = |of: fn(&Round) -> Duration| rounds.iter().map(|r| of(r)).max().unwrap_or_default();
            let changes: u64 = rounds.iter().map(|r| r.changes()).sum();
            let _ = writeln!(
                text,
                "{name:<30} {:>6} {changes:>10} {:>12} {:>12} {:>8.1} s",
                rounds.len(),
                ms(worst(|r| r.http)),
                ms(worst(|r| r.commits)),
                worst(|r| r.whole).as_secs_f64()
            );
        }
        let strikes: usize = self.rounds.iter().map(|r| r.strikes.len()).sum();
        let (takeovers, handovers) = self.moves();
        let [committed, failed, unknown] = self.transactions;
        let answers: Vec<_> = self.answers.iter().map(|(host, n)| format!("{host} {n}")).collect();
        let _ = write!(
            text,
            "\nseed {}: {strikes} faults in {} rounds, {:.1} min; {takeovers} takeovers, {handovers} handovers\n\
             HTTP: {:.3} % of {} probes answered; answers seen from outside and on both hosts: {}; double answers: {}\n\
             transactions: {committed} committed, {failed} failed, {unknown} unknown; {} appends acknowledged, {} missing; {} reads compared\n\
             checker: {} in {:.1} s; replicas: {}\n",
            self.seed,
            self.rounds.len(),
            self.lasted.as_secs_f64() / 60.0,
            self.availability(),
            self.probes.0,
            answers.join(", "),
            self.doubles.len(),
            self.rows.acknowledged,
            self.rows.lost,
            self.rows.reads,
            self.anomalies.as_deref().unwrap_or("strictly serializable"),
            self.checked.as_secs_f64(),
            self.replicas.as_deref().unwrap_or("byte-identical, fsck.ext4 -fn clean"),
        );
        let wrong = self.wrong();
        for each in &wrong {
            let _ = writeln!(text, "WRONG: {each}");
        }
        text + if wrong.is_empty() { "verdict: sound\n" } else { "verdict: FAILED\n" }
    }

    /// All of it, for programs.
    pub fn json(&self) -> Value {
        let round = |r: &Round| {
            let strikes: Vec<_> = r
                .strikes
                .iter()
                .map(|(s, host, refused)| {
                    json!({ "fault": s.kind.name(), "on": s.on.to_string(), "host": host,
                        "at_ms": s.at.as_millis(), "lasts_ms": s.lasts.as_millis(), "refused": refused })
                })
                .collect();
            json!({ "at_ms": r.at.as_millis(), "faults": strikes, "http_ms": r.http.as_millis(),
                "commits_ms": r.commits.as_millis(), "leader_before": r.leaders.0, "leader_after": r.leaders.1,
                "epoch_before": r.epochs.0, "epoch_after": r.epochs.1, "whole_ms": r.whole.as_millis() })
        };
        let double = |(at, d): &(Duration, Double)| json!({ "at_ms": at.as_millis(), "host": d.host, "answers": d.answers, "lasted_ms": d.lasted.as_millis() });
        let (takeovers, handovers) = self.moves();
        let [committed, failed, unknown] = self.transactions;
        json!({
            "seed": self.seed, "lasted_ms": self.lasted.as_millis(),
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "takeovers": takeovers, "handovers": handovers,
            "http": { "probes": self.probes.0, "answered": self.probes.1, "availability_percent": self.availability(),
                "answers": self.answers },
            "double_answers": self.doubles.iter().map(double).collect::<Vec<_>>(),
            "transactions": { "committed": committed, "failed": failed, "unknown": unknown },
            "appends": { "acknowledged": self.rows.acknowledged, "missing": self.rows.lost },
            "reads_compared": self.rows.reads,
            "checker": { "model": "strict-serializable", "anomalies": self.anomalies,
                "took_ms": self.checked.as_millis() },
            "replicas": self.replicas.as_deref().unwrap_or("identical"),
            "wrong": self.wrong(),
        })
    }
}

/// Minutes and seconds since the run began.
pub fn clock(at: Duration) -> String {
    let tenths = at.as_millis() / 100;
    format!("{:02}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

/// Milliseconds.
pub fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::On;

    fn report() -> Report {
        let strike = Strike {
            kind: Kind::PowerCut,
            on: On::Leader,
            at: Duration::ZERO,
            lasts: Duration::from_secs(2),
            pick: 0,
        };
        let round = Round {
            at: Duration::from_millis(83_450),
            strikes: vec![(strike, "alpha".into(), None)],
            http: Duration::from_millis(1900),
            commits: Duration::from_millis(4100),
            leaders: ("alpha".into(), "beta".into()),
            epochs: (7, 8),
            whole: Duration::from_millis(6240),
        };
        Report {
            answers: BTreeMap::from([("alpha".to_owned(), 500)]),
            transactions: [100, 3, 2],
            rows: Rows { acknowledged: 150, reads: 80, ..Rows::default() },
            checked: Duration::from_millis(100),
            ..Report::empty(5, Duration::from_secs(90), vec![round], (1000, 990))
        }
    }

    #[test]
    fn a_sound_run_says_so_with_its_figures() {
        let report = report();
        let text = report.text();
        for part in ["power cut", "1 takeovers", "99.000 %", "100 committed", "150 appends", "verdict: sound"]
        {
            assert!(text.contains(part), "'{part}' is missing:\n{text}");
        }
        assert_eq!(clock(report.rounds[0].at), "01:23.4");
        assert!(report.rounds[0].line().contains("takeover alpha to beta, epoch 7 to 8"));
        assert_eq!(report.json()["wrong"], json!([]));
        assert_eq!(report.json()["rounds"][0]["faults"][0]["host"], "alpha");
    }

    #[test]
    fn each_wrong_fact_alone_fails_the_run() {
        let double = Double {
            host: "beta".into(),
            answers: 2,
            from: std::time::Instant::now(),
            lasted: Duration::from_millis(12),
        };
        let spoil: [fn(&mut Report, Double); 7] = [
            |r, _| r.rows.lost = 1,
            |r, _| r.rows.wrong = vec!["5 is there twice".into()],
            |r, _| r.anomalies = Some("G0".into()),
            |r, double| r.doubles = vec![(Duration::ZERO, double)],
            |r, _| r.replicas = Some("differ".into()),
            |r, _| r.stuck = Some("no host serves".into()),
            |r, _| r.transactions[0] = 0,
        ];
        for spoil in spoil {
            let mut report = report();
            spoil(&mut report, double.clone());
            assert_eq!(report.wrong().len(), 1, "{report:?}");
            assert!(report.text().ends_with("verdict: FAILED\n"));
        }
    }
}
