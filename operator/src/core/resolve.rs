//! Split brains that a person resolves: what is asked of a node stands in etcd, that node's agent carries it out beside
//! its replicator and writes down what came of it. Pure: one function says what that agent should do next.
//!
//! ```text
//! asked ─► its replica keeps a copy and gives its data up ─► written down ─► the primary copies everything
//!                └─► cannot be ─► written down, with the reason
//! ```
//! The copies that a node holds stand in the same record, so that every agent can show them.

use baton_replicator::api::Snapshot;
use baton_replicator::types::NodeName;
use serde::{Deserialize, Serialize};

/// Seconds between two attempts: a primary says every ten seconds what is wrong, and the replica has to have heard it.
const RETRY_S: u64 = 2;
/// Seconds after which a wish that cannot be carried out is dropped: one that comes into force much later surprises.
const PATIENCE_S: u64 = 600;

/// The key `volumes/<volume>/given_up/<node>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// The node's data should be given up.
    #[serde(default)]
    pub wish: Option<DiscardWish>,
    /// Copies that should be removed.
    #[serde(default)]
    pub release: Vec<String>,
    /// Copies that the node holds, as it reported last.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// What came of the last wish, for people.
    #[serde(default)]
    pub said: Option<String>,
}

/// Give the data of a node's replica up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardWish {
    /// Keep a copy first, or give nothing up.
    pub snapshot: bool,
    /// The node whose agent was asked.
    pub by: NodeName,
    /// Seconds since 1970.
    pub asked_at: u64,
}

/// Why the replicator did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may do it later: it has not heard of the split brain yet, is starting, or still copies.
    NotYet(String),
    /// It will not.
    Never(String),
}

/// What the node's agent knows.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The node's record.
    pub record: &'a GivenUp,
    /// The copies that its replicator lists.
    pub snapshots: &'a [Snapshot],
    /// Seconds since 1970.
    pub now: u64,
    /// When it was tried last, and what came of it.
    pub tried: Option<(u64, Result<(), Failure>)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Tell the replicator to give the data up; keep a copy first.
    Discard(bool),
    /// Tell the replicator to remove this copy.
    Release(String),
    /// Write the record.
    Report(GivenUp),
}

/// The next step.
#[must_use]
pub fn step(f: &Facts<'_>) -> Step {
    let record = f.record;
    let ended = |said: String| {
        let snapshots = f.snapshots.to_vec();
        Step::Report(GivenUp { wish: None, snapshots, said: Some(said), ..record.clone() })
    };
    if let Some(wish) = &record.wish {
        // An attempt of an earlier wish says nothing about this one.
        let tried = f.tried.as_ref().filter(|(at, _)| *at >= wish.asked_at);
        return match tried {
            Some((_, Ok(()))) => {
                let copy = if wish.snapshot { "a copy is kept" } else { "no copy is kept" };
                ended(format!("its data is given up; {copy}"))
            }
            Some((_, Err(Failure::Never(why)))) => ended(format!("nothing was given up: {why}")),
            Some((_, Err(Failure::NotYet(why)))) if f.now.saturating_sub(wish.asked_at) > PATIENCE_S => {
                ended(format!("nothing was given up in {} min: {why}", PATIENCE_S / 60))
            }
            Some((at, Err(Failure::NotYet(_)))) if f.now.saturating_sub(*at) < RETRY_S => Step::Wait,
            _ => Step::Discard(wish.snapshot),
        };
    }
    if let Some(name) = record.release.iter().find(|name| f.snapshots.iter().any(|s| s.name == **name)) {
        return Step::Release(name.clone());
    }
    if record.release.is_empty() && record.snapshots == f.snapshots {
        return Step::Wait;
    }
    Step::Report(GivenUp { release: Vec::new(), snapshots: f.snapshots.to_vec(), ..record.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_replicator::types::Generation;

    const T: u64 = 1_795_000_000;

    fn wish(snapshot: bool) -> GivenUp {
        let by = NodeName::new("beta").unwrap();
        GivenUp { wish: Some(DiscardWish { snapshot, by, asked_at: T }), ..GivenUp::default() }
    }

    fn copy(name: &str) -> Snapshot {
        let (made_at_s, generation, bytes) = (T, Generation(5), 4096);
        Snapshot { node: NodeName::new("alpha").unwrap(), name: name.into(), made_at_s, generation, bytes }
    }

    fn facts<'a>(record: &'a GivenUp, snapshots: &'a [Snapshot]) -> Facts<'a> {
        Facts { record, snapshots, now: T + 1, tried: None }
    }

    #[test]
    fn a_wish_from_the_command_to_its_end() {
        let record = wish(true);
        assert_eq!(step(&facts(&record, &[])), Step::Discard(true));
        let copies = [copy("a")];
        let done = Facts { tried: Some((T + 1, Ok(()))), ..facts(&record, &copies) };
        let Step::Report(ended) = step(&done) else { panic!("a report") };
        assert_eq!((ended.wish.as_ref(), ended.snapshots.len()), (None, 1));
        assert!(ended.said.as_ref().unwrap().contains("a copy is kept"));
        assert_eq!(
            step(&Facts { tried: done.tried, ..facts(&ended, &copies) }),
            Step::Wait,
            "and that was it"
        );
        let bare = wish(false);
        assert_eq!(step(&facts(&bare, &[])), Step::Discard(false));
    }

    #[test]
    fn what_came_of_an_earlier_wish_is_nothing_to_this_one() {
        let record = wish(true);
        for before in [Ok(()), Err(Failure::Never("no room".into())), Err(Failure::NotYet("starting".into()))]
        {
            let facts = Facts { tried: Some((T - 1, before)), ..facts(&record, &[]) };
            assert_eq!(step(&facts), Step::Discard(true));
        }
    }

    #[test]
    fn what_cannot_be_now_is_tried_again_and_dropped_with_the_reason() {
        let record = wish(true);
        let not_yet = |at| Some((at, Err(Failure::NotYet("at odds with nobody".into()))));
        assert_eq!(step(&Facts { tried: not_yet(T), now: T + 1, ..facts(&record, &[]) }), Step::Wait);
        assert_eq!(
            step(&Facts { tried: not_yet(T), now: T + 2, ..facts(&record, &[]) }),
            Step::Discard(true)
        );
        let late = Facts { tried: not_yet(T + 600), now: T + 601, ..facts(&record, &[]) };
        let Step::Report(ended) = step(&late) else { panic!("a report") };
        assert!(ended.wish.is_none() && ended.said.unwrap().contains("at odds with nobody"));
        let never = Some((T + 1, Err(Failure::Never("no room".into()))));
        let Step::Report(ended) = step(&Facts { tried: never, ..facts(&record, &[]) }) else {
            panic!("a report")
        };
        assert!(ended.wish.is_none() && ended.said.unwrap().contains("no room"));
    }

    #[test]
    fn copies_are_reported_and_released_one_by_one() {
        let two = [copy("a"), copy("b")];
        let empty = GivenUp::default();
        let Step::Report(known) = step(&facts(&empty, &two)) else { panic!("a report") };
        assert_eq!(known.snapshots, two);
        assert_eq!(step(&facts(&known, &two)), Step::Wait);
        let release = GivenUp { release: vec!["b".into(), "gone".into()], ..known };
        assert_eq!(step(&facts(&release, &two)), Step::Release("b".into()));
        let Step::Report(rest) = step(&facts(&release, &two[..1])) else { panic!("a report") };
        assert!(rest.release.is_empty() && rest.snapshots == two[..1]);
    }
}
