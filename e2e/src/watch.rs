//! Everything that watches one change of leadership: clients outside, clients on the old leader itself, and who
//! holds the address on which host. Judges that the old one was silent before the new one spoke.

use crate::netns::{self, Held, HolderWatch};
use crate::prober::{History, Prober};
use crate::scenario::Scenario;
use crate::writer::{self, Writer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest wait for the other host to serve and acknowledge; well above every bound, so that a miss is measured.
const TAKEOVER: Duration = Duration::from_secs(20);

/// The watchers.
#[derive(Debug)]
pub struct Watch {
    /// The host that leads at the start, and the one that should take over.
    pub old: String,
    /// See `old`.
    pub new: String,
    /// Clients as everybody else.
    pub outside: Prober,
    /// See `outside`.
    pub writer: Writer,
    /// Clients that sit on the old leader: only they can reach it once its cable is pulled.
    pub inside: Prober,
    /// See `inside`.
    pub inside_writer: Writer,
    old_holder: HolderWatch,
    new_holder: HolderWatch,
}

/// What happened, from the fault to the moment it was asked for.
#[derive(Debug)]
pub struct Findings {
    /// Outside clients.
    pub outside: History,
    /// Clients on the old leader.
    pub inside: History,
    /// When the old leader held the address.
    pub old_held: Held,
    /// When the new one did.
    pub new_held: Held,
    /// When this was.
    pub to: Instant,
}

impl Watch {
    /// Starts all of them and waits until they see a working service.
    #[must_use]
    pub fn start(t: &Scenario, name: &str, old: &str) -> Self {
        let new = t.config.other(old);
        let (there, here) = (t.namespace(old), t.namespace(&new));
        let watch = Self {
            old: old.to_owned(),
            outside: t.prober(),
            writer: t.writer(&format!("{name}-outside"), None),
            inside: t.prober_inside(&there),
            inside_writer: t.writer(&format!("{name}-inside"), Some(&there)),
            old_holder: HolderWatch::start(t.config.vip, Some(there)),
            new_holder: HolderWatch::start(t.config.vip, Some(here)),
            new,
        };
        // A second of peace before the fault, so that the gap has a beginning.
        std::thread::sleep(Duration::from_secs(1));
        watch
    }

    /// Waits until the other host serves and acknowledges writes that were begun after `fault`, and a while longer for
    /// answers of the old one that should not be.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_takeover(&self, fault: Instant) {
        let end = Instant::now() + TAKEOVER;
        while self.outside.history().first_from(&self.new, fault).is_none() {
            assert!(
                Instant::now() < end,
                "{} did not serve: {}",
                self.new,
                self.outside.history().failures(fault)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        self.writer.wait_ack(Instant::now(), TAKEOVER);
        std::thread::sleep(Duration::from_secs(2));
    }

    /// What was seen so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        Findings {
            outside: self.outside.history(),
            inside: self.inside.history(),
            old_held: self.old_holder.held(),
            new_held: self.new_holder.held(),
            to: Instant::now(),
        }
    }

    /// Stops the writers and judges their rows: all acknowledged ones are there, and no host acknowledged one after
    /// the other host had begun to.
    ///
    /// # Panics
    /// If not.
    pub fn judge_rows(&mut self, t: &Scenario, fault: Instant) {
        self.writer.stop();
        self.inside_writer.stop();
        let mut last_of_old = None;
        let mut first_of_new = None;
        for writer in [&self.writer, &self.inside_writer] {
            let journal = writer.journal();
            if journal.acks.is_empty() {
                continue;
            }
            t.audit(&journal);
            let (_, hosts) = writer::rows(t, &journal.run).unwrap_or_else(|e| panic!("{e:#}"));
            let old = journal.acks.iter().rfind(|a| a.end < fault).and_then(|a| hosts.get(&a.key));
            for ack in &journal.acks {
                if hosts.get(&ack.key) == old {
                    last_of_old = last_of_old.max(Some(ack.end));
                } else if first_of_new.is_none_or(|first| ack.end < first) {
                    first_of_new = Some(ack.end);
                }
            }
        }
        let order = match (last_of_old, first_of_new) {
            (Some(last), Some(first)) => first.checked_duration_since(last),
            _ => None,
        };
        let after = order.map_or("not after".to_owned(), |d| format!("{} ms after", d.as_millis()));
        t.expect("first acknowledgement of the new leader after the last of the old", order.is_some(), after);
    }
}

impl Findings {
    /// When the old leader gave its last answer to a client beside it, counted from the fault; zero: before it.
    #[must_use]
    pub fn silence(&self, old: &str, fault: Instant) -> Duration {
        self.inside.last_from(old).map_or(Duration::ZERO, |p| p.end.saturating_duration_since(fault))
    }

    /// The old leader answered nobody once the new one did, and they never held the address at the same time.
    pub fn expect_exclusive(&self, t: &Scenario, old: &str, new: &str, fault: Instant) {
        let first = self.outside.first_from(new, fault).map(|p| p.end);
        let late = |h: &History| {
            h.ok()
                .filter(|p| p.served_by.as_deref() == Ok(old))
                .filter(|p| first.is_some_and(|first| p.begin > first))
                .count()
        };
        let answers = late(&self.inside) + late(&self.outside);
        t.expect("answers of the old leader after the new one's first", answers == 0, answers);
        let both = netns::both(&self.old_held, &self.new_held, fault, self.to);
        t.expect("both hosts held the address", both.is_zero(), format!("{} ms", both.as_millis()));
    }

    /// Hosts as they answered outside clients after the fault, with counts.
    #[must_use]
    pub fn answers(&self, fault: Instant) -> String {
        let mut hosts = BTreeMap::<&str, u32>::new();
        for host in self.outside.ok().filter(|p| p.end > fault).filter_map(|p| p.served_by.as_deref().ok()) {
            *hosts.entry(host).or_default() += 1;
        }
        hosts.iter().map(|(host, n)| format!("{host} {n} times")).collect::<Vec<_>>().join(", ")
    }
}
