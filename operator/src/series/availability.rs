//! How long a group did not serve, as this agent saw it. Pure.
//!
//! Watching begins when the group is first seen serving, or after `GRACE` if it does not: the start of an agent is no
//! outage. A standby notices the end of a silent leader late; the outage is then counted from the leader's last sign of
//! life. A group that rests because every node is in standby mode, or because it is disabled, is no outage. Time in which nobody looked (the host was suspended, the loop hung) is neither service nor outage.

use crate::status::{Availability, ClusterStatus, GroupState, GroupStatus, NodeMode, Outage};
use baton_replicator::types::{GroupName, Instant};
use std::collections::BTreeMap;
use std::time::Duration;

/// A group that does not serve for this long after the agent's start is watched all the same: three times the default
/// initdead, so that a cold start in the usual time counts as a start.
const GRACE: Duration = Duration::from_secs(30);
/// A longer pause between two looks was not watched. Snapshots come four times per second.
const STALL: Duration = Duration::from_secs(10);

/// Follows all groups.
#[derive(Debug, Default)]
pub struct Book {
    groups: BTreeMap<GroupName, Watch>,
}

/// Follows one group.
#[derive(Debug)]
struct Watch {
    /// First and newest look.
    first: Instant,
    looked: Instant,
    /// The watch has begun.
    counts: bool,
    /// Since when it has not served.
    down: Option<Instant>,
    told: Availability,
}

impl Book {
    /// Looks at a new snapshot and writes into it what has been counted.
    pub fn observe(&mut self, status: &mut ClusterStatus, now: Instant) {
        self.groups.retain(|name, _| status.groups.iter().any(|g| g.name == *name));
        let at = status.at.clone();
        // Every node in standby mode: the groups rest because somebody wants them to.
        let rest = status.nodes.iter().all(|n| n.mode == NodeMode::Standby);
        for group in &mut status.groups {
            let watch = self.groups.entry(group.name.clone()).or_insert_with(|| Watch::new(now));
            watch.look(rest || group.rests() || group.state == GroupState::Serving, silence(group), now, &at);
            group.availability = watch.told.clone();
        }
    }
}

/// How long ago the leader gave its last sign of life, if that is why the group does not serve.
fn silence(group: &GroupStatus) -> Duration {
    let leader = group.nodes.iter().find(|n| Some(&n.node) == group.leader.as_ref());
    match leader.and_then(|n| n.age_ms) {
        Some(ms) if group.state == GroupState::Unknown => Duration::from_millis(ms),
        _ => Duration::ZERO,
    }
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { first: now, looked: now, counts: false, down: None, told: Availability::default() }
    }

    fn look(&mut self, serves: bool, silence: Duration, now: Instant, at: &str) {
        let passed = now.since(self.looked);
        self.looked = now;
        if !self.counts {
            self.counts = serves || now.since(self.first) >= GRACE;
            if !self.counts {
                return;
            }
        } else if passed <= STALL {
            self.told.observed_seconds += passed.as_secs_f64();
            if self.down.is_some() {
                self.told.unavailable_seconds += passed.as_secs_f64();
            }
        }
        match (serves, self.down) {
            (false, None) => {
                // Never more than has been watched.
                let back =
                    silence.as_secs_f64().min(self.told.observed_seconds - self.told.unavailable_seconds);
                let back = Duration::from_secs_f64(back.max(0.0));
                self.told.unavailable_seconds += back.as_secs_f64();
                self.told.outages += 1;
                self.told.last_outage = Some(Outage { noticed_at: at.to_owned(), seconds: None });
                self.down = Some(Instant(now.0.saturating_sub(back.as_nanos() as u64)));
            }
            (true, Some(since)) => {
                self.down = None;
                if let Some(outage) = &mut self.told.last_outage {
                    outage.seconds = Some(now.since(since).as_secs_f64());
                }
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    /// Looks every 250 ms from `from` to `to` (milliseconds).
    fn watch(book: &mut Book, status: &mut ClusterStatus, from: u64, to: u64) -> Availability {
        for ms in (from..=to).step_by(250) {
            book.observe(status, Instant(ms * 1_000_000));
        }
        status.groups[0].availability.clone()
    }

    fn serving() -> ClusterStatus {
        fixture::healthy()
    }

    fn not(state: GroupState) -> ClusterStatus {
        let mut status = fixture::healthy();
        status.groups[0].state = state;
        status
    }

    #[test]
    fn a_handover_counts_from_stop_to_serving() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 10_000);
        watch(&mut book, &mut not(GroupState::Stopping), 10_250, 11_000);
        watch(&mut book, &mut not(GroupState::Starting), 11_250, 11_500);
        let seen = watch(&mut book, &mut serving(), 11_750, 20_000);
        assert_eq!((seen.observed_seconds, seen.unavailable_seconds, seen.outages), (20.0, 1.5, 1));
        assert_eq!(seen.last_outage.unwrap().seconds, Some(1.5));
    }

    #[test]
    fn a_silent_leader_was_gone_from_its_last_sign_of_life() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 10_000);
        let mut silent = not(GroupState::Unknown);
        silent.groups[0].nodes[0].age_ms = Some(1500);
        let seen = watch(&mut book, &mut silent, 10_250, 10_250);
        assert_eq!(seen.unavailable_seconds, 1.5);
        assert_eq!(seen.last_outage.unwrap().seconds, None, "it lasts");
        let seen = watch(&mut book, &mut serving(), 10_500, 12_000);
        assert_eq!((seen.unavailable_seconds, seen.observed_seconds), (1.75, 12.0));
        assert_eq!(seen.last_outage.unwrap().seconds, Some(1.75));
    }

    #[test]
    fn more_is_never_missing_than_was_watched() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 250);
        let mut silent = not(GroupState::Unknown);
        silent.groups[0].nodes[0].age_ms = Some(60_000);
        let seen = watch(&mut book, &mut silent, 500, 500);
        assert!(seen.unavailable_seconds <= seen.observed_seconds, "{seen:?}");
    }

    #[test]
    fn a_start_is_no_outage_but_a_group_that_stays_down_is() {
        let mut book = Book::default();
        let seen = watch(&mut book, &mut not(GroupState::Starting), 0, 8_000);
        assert_eq!(seen, Availability::default());
        let seen = watch(&mut book, &mut serving(), 8_250, 9_250);
        assert_eq!((seen.observed_seconds, seen.unavailable_seconds, seen.outages), (1.0, 0.0, 0));

        let mut book = Book::default();
        let seen = watch(&mut book, &mut not(GroupState::Failed), 0, 40_000);
        assert_eq!((seen.observed_seconds, seen.unavailable_seconds, seen.outages), (10.0, 10.0, 1));
    }

    #[test]
    fn time_that_nobody_watched_is_not_counted() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 1_000);
        let seen = watch(&mut book, &mut serving(), 61_000, 61_250);
        assert_eq!((seen.observed_seconds, seen.unavailable_seconds), (1.25, 0.0));
    }

    #[test]
    fn a_group_that_left_the_specification_is_forgotten() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 1_000);
        let mut none = serving();
        none.groups.clear();
        book.observe(&mut none, Instant(1_250_000_000));
        assert_eq!(watch(&mut book, &mut serving(), 1_500, 1_500), Availability::default());
    }

    #[test]
    fn a_group_that_rests_is_no_outage() {
        let mut book = Book::default();
        watch(&mut book, &mut serving(), 0, 10_000);
        let mut rest = not(GroupState::Standby);
        for node in &mut rest.nodes {
            node.mode = NodeMode::Standby;
        }
        let seen = watch(&mut book, &mut rest, 10_250, 20_000);
        assert_eq!((seen.unavailable_seconds, seen.outages), (0.0, 0));
    }
}
