//! A run: round after round, each with its clients watched, until the time is over; then the rest of the cluster, at rest.

use crate::judge::Answer;
use crate::load::Load;
use crate::nemesis::{self, Roles, Undo};
use crate::plan::{self, Kind, Strike};
use crate::report::{self, clock};
use anyhow::{Result, anyhow};
use baton_e2e::cluster::{Cluster, WHOLE};
use baton_e2e::gaps;
use baton_e2e::netns::Netns;
use baton_e2e::prober::{CADENCE, Prober};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Between two probes on a host: three probers and the cluster share two cores.
const CADENCE_INSIDE: Duration = Duration::from_millis(25);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// What a run needs, and what it has seen.
pub struct Run {
    cluster: Cluster,
    load: Load,
    outside: Prober,
    /// When it began.
    pub start: Instant,
    leader: String,
    epoch: u64,
    /// Answers seen on the hosts themselves.
    inside: Vec<Answer>,
}

/// What it has seen.
pub struct Seen {
    /// Probes from outside, and those that were answered.
    pub probes: (usize, usize),
    /// Answers from all places.
    pub answers: Vec<Answer>,
    /// The clients of the database, still at it.
    pub load: Load,
}

impl Run {
    /// On a healthy cluster.
    pub fn new(cluster: &Cluster, load: Load, leader: String) -> Self {
        let outside = Prober::start(cluster.config.at_vip(80), &cluster.config.probe_path, CADENCE, None);
        let epoch = epoch(cluster);
        Self {
            cluster: cluster.clone(),
            load,
            outside,
            start: Instant::now(),
            leader,
            epoch,
            inside: Vec::new(),
        }
    }

    /// One round, to its end.
    ///
    /// # Errors
    /// Why the cluster did not recover in time.
    pub fn round(&mut self, plan: &plan::Round) -> Result<report::Round, String> {
        std::thread::sleep(plan.pause);
        let probers = self.probe_inside();
        let begin = Instant::now();
        let before = (self.leader.clone(), self.epoch);
        let mut strikes: Vec<(Strike, String, Option<String>)> = Vec::new();
        let mut undo: Vec<Option<Undo>> = Vec::new();
        for (at, n, strikes_now) in moments(&plan.strikes) {
            std::thread::sleep((begin + at).saturating_duration_since(Instant::now()));
            if strikes_now {
                let (host, done) = self.strike(&plan.strikes[n]);
                strikes.push((plan.strikes[n], host, done.as_ref().err().cloned()));
                undo.push(done.ok());
            } else if let Some(Err(error)) = undo[n].take().map(|u| u.now(&self.cluster)) {
                println!("          not undone yet: {error:#}");
            }
        }
        let last = Instant::now();
        let recovered = catch_unwind(AssertUnwindSafe(|| self.recover(plan, last)));
        let recovered = recovered.unwrap_or_else(|panic| Err(message(panic.as_ref())));
        let whole = last.elapsed();
        let end = Instant::now();
        if let Some(leader) = self.cluster.view().serving() {
            leader.clone_into(&mut self.leader);
        }
        self.epoch = epoch(&self.cluster).max(self.epoch);
        for prober in probers {
            self.inside.extend(answers(&prober));
        }
        recovered?;
        Ok(report::Round {
            at: begin.duration_since(self.start),
            strikes,
            http: self.outside.history().gap(begin, end),
            commits: gaps::longest(self.load.commits(begin), begin, end),
            leaders: (before.0, self.leader.clone()),
            epochs: (before.1, self.epoch),
            whole,
        })
    }

    /// On each host, as long as the round lasts: a host that begins anew has another namespace.
    fn probe_inside(&self) -> Vec<Prober> {
        let config = &self.cluster.config;
        let namespaces = config.hosts.iter().filter_map(|h| Netns::of(&self.cluster, &h.name).ok());
        let at = config.at_vip(80);
        namespaces.map(|n| Prober::start(at, &config.probe_path, CADENCE_INSIDE, Some(&n))).collect()
    }

    fn strike(&mut self, strike: &Strike) -> (String, Result<Undo, String>) {
        if let Some(leader) = self.cluster.view().serving() {
            leader.clone_into(&mut self.leader);
        }
        let roles = Roles { leader: self.leader.clone(), standby: self.cluster.config.other(&self.leader) };
        let host = match strike.on {
            plan::On::Cluster => String::new(),
            on => roles.hosts(on)[0].to_owned(),
        };
        let whom = if host.is_empty() { String::new() } else { format!(" on the {} ({host})", strike.on) };
        let lasts = match strike.lasts {
            Duration::ZERO => String::new(),
            some => format!(" for {:.1} s", some.as_secs_f64()),
        };
        println!("{}   {}{whom}{lasts}", clock(self.start.elapsed()), strike.kind.name());
        let done = nemesis::strike(&self.cluster, strike, &roles).map_err(|e| format!("{e:#}"));
        if let Err(refused) = &done {
            println!("          did not strike: {refused}");
        }
        (host, done)
    }

    /// Undoes what is left, and waits until the next round may begin.
    fn recover(&self, plan: &plan::Round, last: Instant) -> Result<(), String> {
        let end = last + WHOLE;
        let until = |what: &str, done: &mut dyn FnMut() -> Result<()>| loop {
            match done() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(format!("{what}: {error:#}")),
                Err(_) => std::thread::sleep(LOOK),
            }
        };
        until("faults undone", &mut || self.cluster.mend())?;
        if plan.strikes.iter().any(|s| s.kind == Kind::DiskFull) {
            until("space on the volume", &mut || {
                let view = self.cluster.view();
                let leader = view.serving().ok_or_else(|| anyhow!("no host serves"))?;
                nemesis::empty_volume(&self.cluster, leader)
            })?;
        }
        // Acknowledged after all was undone, not left over from before.
        let from = Instant::now();
        until("a commit", &mut || {
            let some = self.load.commits(from).len() > 10;
            if some { Ok(()) } else { Err(anyhow!("no transaction is acknowledged")) }
        })?;
        if !plan.hurried {
            let _ = self.cluster.wait_healthy(end.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Stops probing.
    pub fn end(self) -> Seen {
        let outside = self.outside.history();
        let probes = (outside.0.len(), outside.ok().count());
        let mut all = self.inside;
        all.extend(answers(&self.outside));
        Seen { probes, answers: all, load: self.load }
    }
}

/// When something is begun (true) or undone, in order.
fn moments(strikes: &[Strike]) -> Vec<(Duration, usize, bool)> {
    let begins = strikes.iter().enumerate().map(|(n, s)| (s.at, n, true));
    let ends = strikes.iter().enumerate().map(|(n, s)| (s.until(), n, false));
    let mut all: Vec<_> = begins.chain(ends).collect();
    // Of the same moment: begun before it is undone.
    all.sort_by_key(|(at, n, begins)| (*at, *n, !begins));
    all
}

fn answers(prober: &Prober) -> Vec<Answer> {
    let answer = |p: baton_e2e::prober::Probe| {
        let host = p.served_by.ok()?;
        Some(Answer { begin: p.begin, end: p.end, host })
    };
    prober.history().0.into_iter().filter_map(answer).collect()
}

/// The largest number that an agent knows.
fn epoch(cluster: &Cluster) -> u64 {
    let view = cluster.view();
    view.of.values().flatten().map(baton_e2e::status::Status::epoch).max().unwrap_or(0)
}

/// The first line of what was panicked with.
pub fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::On;

    #[test]
    fn what_lasts_ends_after_what_strikes_meanwhile() {
        let strike = |at, lasts| Strike {
            kind: Kind::PowerCut,
            on: On::Leader,
            at: Duration::from_millis(at),
            lasts: Duration::from_millis(lasts),
            pick: 0,
        };
        let order: Vec<_> =
            moments(&[strike(0, 500), strike(200, 0)]).into_iter().map(|(_, n, b)| (n, b)).collect();
        assert_eq!(order, [(0, true), (1, true), (1, false), (0, false)]);
    }
}
