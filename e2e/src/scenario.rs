//! The frame of a scenario: one at a time, from a healthy cluster to a healthy cluster, with its figures kept.
//!
//! Without `BATON_E2E` a scenario prints that it is skipped and ends, so that `cargo test` works anywhere;
//! `make test` sets it, and then a missing cluster is an error. Lost data fails a scenario at once, another wrong fact at
//! its end, after everything was measured. A scenario that missed nothing but time bounds, or saw a takeover where nothing was
//! wrong, runs again, twice at most: what others do on a shared machine is not told from what Baton does by one measurement.
//! All runs stand in the report.

use crate::cluster::{Cluster, WHOLE};
use crate::config::Config;
use crate::journal::Journal;
use crate::netns::Netns;
use crate::prober::{CADENCE, Prober};
use crate::report;
use crate::status::Status;
use crate::writer::{self, Writer};
use std::cell::RefCell;
use std::fs::File;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// "No gap": ten missed probes in a row. What a healthy cluster on a busy two-core machine shows is below half.
pub const NO_GAP: Duration = Duration::from_millis(100);

/// A running scenario.
#[derive(Debug)]
pub struct Scenario {
    cluster: Cluster,
    name: &'static str,
    /// Facts that are not as they must be.
    wrong: RefCell<Vec<String>>,
    /// Durations over their bounds, takeovers that a stall may explain.
    late: RefCell<Vec<String>>,
}

/// How often a scenario may miss a time bound, never a fact, before that counts: others on a shared machine steal more than the 100 ms
/// that some bounds are.
const TRIES: usize = 3;

/// Runs a scenario against the cluster, or skips it if there is to be none.
///
/// # Panics
/// If the scenario does, missed a bound three times in a row, or left a cluster that does not become healthy.
pub fn scenario(name: &'static str, body: impl Fn(&Scenario, &str)) {
    if std::env::var_os("BATON_E2E").is_none() {
        println!("skipped: '{name}' needs the cluster of 'make test'");
        return;
    }
    // One cluster, one scenario: held until this function ends, whatever test threads and processes there are.
    let lock = File::create(std::env::temp_dir().join("baton-e2e.lock")).and_then(|f| f.lock().map(|()| f));
    let _lock = lock.unwrap_or_else(|e| panic!("lock of the suite: {e}"));
    println!("=== {name}");
    let mut missed = Vec::new();
    for _ in 0..TRIES {
        let late = once(name, &body);
        if late.is_empty() {
            return;
        }
        println!("    it was late: {late}");
        missed.push(late);
    }
    panic!("{name} missed its bounds {TRIES} times: {}", missed.join("; then "));
}

/// Runs a scenario, and says which time bounds it missed.
fn once(name: &'static str, body: &impl Fn(&Scenario, &str)) -> String {
    let begin = Instant::now();
    let cluster = Cluster { config: Config::from_env() };
    let this = Scenario { cluster, name, wrong: RefCell::default(), late: RefCell::default() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        let leader = heal(&this.cluster);
        body(&this, &leader);
        let _ = heal(&this.cluster);
    }));
    let took = begin.elapsed().as_secs_f64();
    report::row(name, "whole scenario", &format!("{took:.1} s"), "", result.is_ok());
    if let Err(panic) = result {
        this.diagnose();
        resume_unwind(panic);
    }
    let (wrong, late) = (this.wrong.take(), this.late.take());
    assert!(wrong.is_empty(), "{name}: not as it must be: {}", [wrong, late].concat().join("; "));
    late.join("; ")
}

/// Set when the cluster did not become healthy: what follows need not wait as long for the same.
static BROKEN: AtomicBool = AtomicBool::new(false);
/// Patience with a cluster that was broken before.
const IMPATIENT: Duration = Duration::from_secs(20);

fn heal(cluster: &Cluster) -> String {
    let limit = if BROKEN.swap(true, Ordering::Relaxed) { IMPATIENT } else { WHOLE };
    let leader = cluster.heal_within(limit);
    BROKEN.store(false, Ordering::Relaxed);
    leader
}

impl Deref for Scenario {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Scenario {
    /// Starts a prober at the VIP.
    #[must_use]
    pub fn prober(&self) -> Prober {
        Prober::start(self.config.at_vip(80), &self.config.probe_path, CADENCE, None)
    }

    /// Starts a prober of the page with the table: it asks the database too, and costs more, so it asks less often.
    #[must_use]
    pub fn page_prober(&self) -> Prober {
        Prober::start(self.config.at_vip(80), "/", Duration::from_millis(50), None)
    }

    /// Starts a prober at the VIP that sits on a host.
    #[must_use]
    pub fn prober_inside(&self, namespace: &Netns) -> Prober {
        Prober::start(self.config.at_vip(80), &self.config.probe_path, CADENCE, Some(namespace))
    }

    /// Starts a writer at the VIP and waits for its first acknowledged row.
    ///
    /// # Panics
    /// If there is none within 10 s.
    #[must_use]
    pub fn writer(&self, name: &str, namespace: Option<&Netns>) -> Writer {
        Self::acknowledged(|| Writer::start(self, name, namespace.cloned()))
    }

    /// The same of one that waits for each commit for up to `answer`.
    ///
    /// # Panics
    /// As [`Self::writer`].
    #[must_use]
    pub fn writer_waiting(&self, name: &str, answer: Duration) -> Writer {
        Self::acknowledged(|| Writer::waiting(self, name, None, answer))
    }

    fn acknowledged(start: impl FnOnce() -> anyhow::Result<Writer>) -> Writer {
        let begin = Instant::now();
        let writer = start().unwrap_or_else(|e| panic!("{e:#}"));
        writer.wait_ack(begin, Duration::from_secs(10));
        writer
    }

    /// A host's network namespace.
    ///
    /// # Panics
    /// If the host is off.
    #[must_use]
    pub fn namespace(&self, host: &str) -> Netns {
        Netns::of(self, host).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Every acknowledged row of a stopped writer is there exactly once, and none that was never attempted.
    ///
    /// # Panics
    /// If not.
    pub fn audit(&self, journal: &Journal) {
        let verdict = writer::audit(self, journal).unwrap_or_else(|e| panic!("{e:#}"));
        let measured = format!(
            "{} of {} acknowledged, {} lost",
            verdict.acknowledged,
            journal.attempted(),
            verdict.lost.len()
        );
        report::row(self.name, &format!("rows of {}", journal.run), &measured, "0 lost", verdict.sound());
        assert!(verdict.sound(), "the database does not agree with the writer {}: {verdict:?}", journal.run);
        assert!(
            verdict.acknowledged > 0,
            "the writer {} proves nothing: no row was acknowledged",
            journal.run
        );
    }

    /// A duration with its bound; a miss has the scenario run once more.
    pub fn at_most(&self, what: &str, measured: Duration, bound: Duration) {
        let ok = measured <= bound;
        report::row(self.name, what, &report::ms(measured), &format!("at most {}", report::ms(bound)), ok);
        if !ok {
            self.late.borrow_mut().push(format!("{what}: {} > {}", report::ms(measured), report::ms(bound)));
        }
    }

    /// A figure without a bound.
    pub fn tell(&self, what: &str, measured: impl std::fmt::Display) {
        report::row(self.name, what, &measured.to_string(), "", true);
    }

    /// A condition that is not a duration; a miss fails the scenario at its end.
    pub fn expect(&self, what: &str, ok: bool, measured: impl std::fmt::Display) {
        report::row(self.name, what, &measured.to_string(), "required", ok);
        if !ok {
            self.wrong.borrow_mut().push(format!("{what}: {measured}"));
        }
    }

    /// That nobody took over: `leader` leads in `epoch`. A miss has the scenario run once more: where a shared machine stands
    /// still for longer than `deadtime`, a takeover is right.
    ///
    /// # Panics
    /// If nobody says that it leads within 10 s.
    pub fn stayed(&self, what: &str, leader: &str, epoch: u64) {
        let (now, at) = self.wait_for("a leader", Duration::from_secs(10), |view| {
            let own =
                |host: &String| view.of(host).ok().filter(|s| s.leader() == Some(host)).map(Status::epoch);
            let found = view.of.keys().find_map(|host| Some((host.clone(), own(host)?)));
            found.ok_or_else(|| "nobody leads".to_owned())
        });
        let (ok, said) = ((now.as_str(), at) == (leader, epoch), format!("{now} leads in epoch {at}"));
        report::row(self.name, what, &said, &format!("{leader} in {epoch}"), ok);
        if !ok {
            self.late.borrow_mut().push(format!("{what}: {said}, not {leader} in {epoch}"));
        }
    }

    /// Leader and epoch as every agent that answers says.
    ///
    /// # Panics
    /// If the leader's own agent does not answer within 10 s.
    #[must_use]
    pub fn epoch_of(&self, leader: &str) -> u64 {
        self.wait_for("the leader's own epoch", Duration::from_secs(10), |view| {
            let own = view.of(leader)?;
            if own.leader() == Some(leader) {
                Ok(own.epoch())
            } else {
                Err(format!("{leader} does not lead"))
            }
        })
    }

    /// As [`Cluster::diagnose`], in the scenario's name.
    pub fn diagnose(&self) {
        self.cluster.diagnose(self.name);
    }
}
