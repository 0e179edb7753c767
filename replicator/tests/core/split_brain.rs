//! Both sides went on alone: what status says, what a person's word and the policies do, and that nothing is overwritten
//! before there is a copy.

use crate::world::{BLOCK, WALL_S, World, name};
use baton_replicator::api::{Apart, ApartReason};
use baton_replicator::core::split_brain::{AfterSplitBrain, OnePrimary, ZeroPrimaries};
use baton_replicator::types::{ConnectionState, DiskState, Role};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;
/// In an extent that nothing else touches.
const FAR: u64 = 3000;

/// alpha wrote FAR alone in epoch 1 (one block); beta was promoted without it in epoch 2 and wrote 1 and 2. alpha has
/// been told to be secondary. They have not met again yet.
fn parted(seed: u64, policy: AfterSplitBrain) -> World {
    let mut w = World::with_idle(2, SIZE, seed, 100 * MS);
    for i in 0..2 {
        w.crash(i, false);
    }
    w.after_split_brain = policy;
    (0..2).for_each(|i| w.start(i));
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 1, 11) && w.flush(0));
    w.run_for(3000 * MS);
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, FAR, 33) && w.flush(0), "alpha went on alone");
    w.until("an empty log", LONG, |w| w.engine(0).status().activity_log_extents == 0);
    w.run_for(2000 * MS);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    w.until("promotion", LONG, |w| w.nodes[1].device);
    assert!(w.write(1, 1, 12) && w.write(1, 2, 22) && w.flush(1), "so did beta, against all rules");
    w.until("an empty log", LONG, |w| w.engine(1).status().activity_log_extents == 0);
    w.desire(0, Role::Secondary, 2, Vec::new(), true);
    w.until("demotion", LONG, |w| w.engine(0).status().role == Role::Secondary);
    w
}

fn met(seed: u64, policy: AfterSplitBrain) -> World {
    let mut w = parted(seed, policy);
    w.mend(0, 1);
    w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    w
}

fn apart(w: &World, i: usize) -> Apart {
    w.peer(i, 1 - i).apart.expect("they are apart")
}

fn resynced(w: &mut World) {
    w.until("the resync", LONG, |w| w.peer(1, 0).resynced);
    for block in [1, 2, FAR] {
        assert_eq!(w.nodes[0].disk.get(block), w.nodes[1].disk.get(block), "block {block}");
    }
    assert_eq!(w.nodes[0].disk.get(1), 12);
}

#[test]
fn status_says_when_they_parted_what_each_wrote_and_what_to_do_on_both_sides() {
    let w = met(1, AfterSplitBrain::default());
    for i in 0..2 {
        let apart = apart(&w, i);
        assert_eq!((apart.why, &apart.discard, apart.yields), (ApartReason::SplitBrain, &name(0), false));
        let since = apart.since_s.expect("known") - WALL_S;
        assert!((4..=6).contains(&since), "alpha went on about five seconds after the beginning: {since}");
        let (here, there) = (apart.here_blocks.expect("known"), apart.there_blocks.expect("known"));
        assert_eq!(if i == 0 { (here, there) } else { (there, here) }, (1, 2), "alpha one block, beta two");
        let reason = w.peer(i, 1 - i).reason.expect("a reason");
        assert!(
            reason.contains("split brain") && reason.contains("parted at 2026-11-21 20:00:0"),
            "{reason}"
        );
        assert!(reason.contains("'baton volume resolve vol --discard alpha'"), "{reason}");
    }
}

#[test]
fn by_default_nothing_is_given_up() {
    let mut w = met(2, AfterSplitBrain::default());
    w.run_for(25_000 * MS);
    assert_eq!(w.peer(1, 0).connection, ConnectionState::StandAlone);
    assert_eq!((w.nodes[0].disk.get(FAR), w.nodes[0].disk.get(1)), (33, 11));
    assert!(w.nodes[0].copies.is_empty());
}

#[test]
fn a_person_decides_and_all_of_it_is_copied_when_there_is_a_copy() {
    let mut w = met(3, AfterSplitBrain::default());
    let generation = w.engine(0).data_generation();
    let token = w.discard(0, true);
    w.until("the answer", LONG, |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.nodes[0].done[&token], Ok(()));
    assert!(apart(&w, 0).yields);
    assert_eq!(w.nodes[0].disk.get(FAR), 33, "nothing is overwritten before beta asks again");
    w.until("the copying", LONG, |w| w.peer(1, 0).resync.is_some());
    assert_eq!(w.peer(1, 0).resync.expect("a resync").total_bytes, SIZE, "by no bitmap");
    assert_eq!(w.engine(0).status().disk, DiskState::Inconsistent);
    resynced(&mut w);
    let (of, copy) = &w.nodes[0].copies[0];
    assert_eq!((*of, copy.get(FAR), copy.get(1)), (generation, 33, 11), "what was given up, as it was");
    assert_eq!(w.nodes[0].copies.len(), 1);
    assert!(w.peer(1, 0).apart.is_none() && w.peer(0, 1).apart.is_none());
    // It is a standby like any other from now on.
    w.admit(1, 0, 2);
    assert!(w.write(1, FAR, 55) && w.flush(1));
    assert_eq!(w.nodes[0].disk.get(FAR), 55);
    // And its next split brain asks again.
    let token = w.discard(0, true);
    assert!(w.nodes[0].done[&token].as_ref().is_err_and(|e| e.contains("at odds with nobody")));
}

#[test]
fn what_was_given_up_stays_given_up_over_a_crash_and_is_void_when_other_data_comes() {
    let mut w = met(4, AfterSplitBrain::default());
    w.cut(0, 1);
    let token = w.discard(0, true);
    w.until("the answer", LONG, |w| w.nodes[0].done.contains_key(&token));
    w.crash(0, true);
    w.start(0);
    w.until("attached", LONG, |w| w.is_attached(0));
    let mut promoted = met(5, AfterSplitBrain::default());
    promoted.cut(0, 1);
    let token = promoted.discard(0, true);
    promoted.until("the answer", LONG, |w| w.nodes[0].done.contains_key(&token));
    // alpha: overwritten, though it has forgotten everything that is not durable.
    w.mend(0, 1);
    resynced(&mut w);
    // The other alpha led again meanwhile, and somebody may have written to it: that was not given up.
    let token = promoted.desire(0, Role::Primary, 3, Vec::new(), false);
    promoted.serve(0, 3, Duration::from_secs(999));
    promoted.until("promotion", LONG, |w| w.nodes[0].done.contains_key(&token));
    assert!(promoted.write(0, 5, 77));
    promoted.desire(0, Role::Secondary, 4, Vec::new(), true);
    promoted.desire(1, Role::Primary, 4, Vec::new(), false);
    promoted.serve(1, 4, Duration::from_secs(999));
    promoted.mend(0, 1);
    promoted.run_for(15_000 * MS);
    assert_eq!(promoted.peer(1, 0).connection, ConnectionState::StandAlone);
    assert_eq!(promoted.nodes[0].disk.get(5), 77);
}

#[test]
fn without_room_for_a_copy_nothing_is_given_up_unless_the_person_says_so() {
    let mut w = met(6, AfterSplitBrain::default());
    w.nodes[0].no_room = true;
    let token = w.discard(0, true);
    w.until("the answer", LONG, |w| w.nodes[0].done.contains_key(&token));
    assert!(w.nodes[0].done[&token].as_ref().is_err_and(|e| e.contains("no room")));
    w.run_for(15_000 * MS);
    assert_eq!(w.nodes[0].disk.get(FAR), 33);
    let token = w.discard(0, false);
    w.until("the answer", LONG, |w| w.nodes[0].done.contains_key(&token));
    resynced(&mut w);
    assert!(w.nodes[0].copies.is_empty());
}

#[test]
fn a_primary_gives_nothing_up_and_a_replica_that_gives_up_is_not_promoted_while_it_is_copied() {
    let mut w = met(7, AfterSplitBrain::default());
    let token = w.discard(1, false);
    assert!(w.nodes[1].done[&token].as_ref().is_err_and(|e| e.contains("primary")));
    // The copy takes a while: its end has not come back yet.
    let token = w.discard(0, true);
    assert_eq!(w.nodes[0].copies.len(), 1, "begun");
    assert!(!w.nodes[0].done.contains_key(&token));
    let promotion = w.desire(0, Role::Primary, 3, Vec::new(), false);
    assert!(w.nodes[0].done[&promotion].as_ref().is_err_and(|e| e.contains("given up")));
}

#[test]
fn a_peer_of_the_release_before_stays_apart_as_it_did() {
    let mut w =
        parted(8, AfterSplitBrain { one_primary: OnePrimary::DiscardSecondary, ..Default::default() });
    // The primary is of the release before: it neither says nor hears of any of this.
    w.nodes[1].old = true;
    w.mend(0, 1);
    w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    w.run_for(25_000 * MS);
    assert_eq!(w.nodes[0].disk.get(FAR), 33);
    assert!(w.nodes[0].copies.is_empty(), "what was not said by both sides is not acted on");
}

/// Every policy, by what it does to alpha (older, one block, secondary) when beta leads.
#[test]
fn policies_do_what_their_names_say() {
    use OnePrimary::{Consensus, DiscardSecondary, Disconnect};
    use ZeroPrimaries as Z;
    let rows = [
        (Z::Disconnect, DiscardSecondary, true),
        (Z::Disconnect, Consensus, false),
        (Z::DiscardLeastChanges, Disconnect, false),
        (Z::DiscardLeastChanges, Consensus, true),
        (Z::DiscardOlderPrimary, Consensus, true),
        (Z::DiscardYoungerPrimary, Consensus, false),
        (Z::DiscardZeroChanges, Consensus, false),
    ];
    for (i, (zero_primaries, one_primary, given_up)) in rows.into_iter().enumerate() {
        let policy = AfterSplitBrain { zero_primaries, one_primary, ..AfterSplitBrain::default() };
        let mut w = parted(20 + i as u64, policy);
        w.mend(0, 1);
        let begun = w.now;
        if given_up {
            resynced(&mut w);
            assert!(w.now.since(begun) < 2000 * MS, "the first greeting says so: nobody asks a second time");
            assert_eq!(w.nodes[0].copies[0].1.get(FAR), 33, "a copy is kept, {policy:?}");
            assert!(w.alarms.iter().any(|a| a.contains("a copy is kept: copy-")), "and somebody is told");
        } else {
            w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
            w.run_for(15_000 * MS);
            assert_eq!(w.nodes[0].disk.get(FAR), 33, "{policy:?}");
            assert!(w.nodes[0].copies.is_empty());
        }
    }
}

/// A copy that takes long is not waited for: the primary hears that they are apart, and of the end when it asks again. One for
/// which there is no room is tried once per greeting.
#[test]
fn a_greeting_waits_for_a_copy_but_not_for_long() {
    let policy = AfterSplitBrain { one_primary: OnePrimary::DiscardSecondary, ..Default::default() };
    let mut w = parted(41, policy);
    // Its end is durable later than anybody waits.
    w.mend(0, 1);
    w.until("the copy", LONG, |w| !w.nodes[0].copies.is_empty());
    w.nodes[0].meta_held = true;
    let begun = w.now;
    w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    assert!((4000 * MS..6000 * MS).contains(&w.now.since(begun)), "{:?}", w.now.since(begun));
    w.nodes[0].meta_held = false;
    resynced(&mut w);
    assert_eq!(w.nodes[0].copies.len(), 1);

    let mut w = parted(42, policy);
    w.nodes[0].no_room = true;
    w.mend(0, 1);
    let begun = w.now;
    w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    assert!(w.now.since(begun) < 1000 * MS, "a failure is not waited for");
    w.run_for(15_000 * MS);
    assert_eq!(w.nodes[0].disk.get(FAR), 33);
    assert!(w.alarms.iter().any(|a| a.contains("no room")), "{:?}", w.alarms);
}

/// A side that wrote nothing since is the one that can be given up without loss.
#[test]
fn zero_changes_are_found_and_given_up() {
    let zero = ZeroPrimaries::DiscardZeroChanges;
    let policy =
        AfterSplitBrain { zero_primaries: zero, one_primary: OnePrimary::Consensus, ..Default::default() };
    let mut w = World::with_idle(2, SIZE, 40, 100 * MS);
    for i in 0..2 {
        w.crash(i, false);
    }
    w.after_split_brain = policy;
    (0..2).for_each(|i| w.start(i));
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 1, 11) && w.flush(0));
    w.until("empty logs", LONG, |w| (0..2).all(|i| w.engine(i).status().activity_log_extents == 0));
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    w.until("promotion", LONG, |w| w.nodes[1].device);
    assert!(w.write(1, 1, 12));
    w.desire(0, Role::Secondary, 2, Vec::new(), true);
    w.mend(0, 1);
    w.until("the resync", LONG, |w| w.peer(1, 0).resynced);
    assert_eq!(w.nodes[0].disk.get(1), 12);
    assert_eq!(w.nodes[0].copies.len(), 1);
    assert!(w.size / BLOCK > FAR);
}

/// beta follows alpha and is at odds with gamma, which led against all rules; its disk is full, and a write of alpha's waits
/// there for space when a person gives beta's data up.
#[test]
fn a_full_replica_whose_data_is_given_up_writes_nothing_more_into_it() {
    let mut w = World::with_idle(3, SIZE, 8, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.admit(0, 2, 1);
    assert!(w.write(0, 1, 11) && w.flush(0));
    w.cut(0, 2);
    w.cut(1, 2);
    let beta = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, beta.clone(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, 2, 22) && w.flush(0), "gamma lacks it");
    w.desire(2, Role::Primary, 2, Vec::new(), false);
    w.serve(2, 2, Duration::from_secs(999));
    w.until("gamma to lead", LONG, |w| w.nodes[2].device);
    assert!(w.write(2, 1, 12) && w.flush(2));
    w.cut(0, 1);
    w.mend(1, 2);
    w.until("beta to be asked by gamma", LONG, |w| w.peer(1, 2).apart.is_some());
    w.cut(1, 2);
    w.mend(0, 1);
    w.desire(0, Role::Primary, 3, beta, false);
    w.serve(0, 3, Duration::from_secs(999));
    w.until("beta to follow alpha", LONG, |w| w.peer(0, 1).connection == ConnectionState::Connected);
    w.nodes[1].no_space = true;
    assert!(!w.write(0, FAR, 33), "it waits for beta");
    w.until("beta to be full", LONG, |w| w.engine(1).status().full);
    w.cut(0, 1);
    let token = w.discard(1, true);
    w.until("the answer", LONG, |w| w.nodes[1].done.contains_key(&token));
    assert_eq!(w.nodes[1].done[&token], Ok(()));
    w.nodes[1].no_space = false;
    w.run_for(3000 * MS);
    let (_, copy) = &w.nodes[1].copies[0];
    assert_eq!((copy.get(2), copy.get(FAR)), (22, 0), "what beta has acknowledged");
    assert_eq!(w.nodes[1].disk.get(FAR), 0, "what was copied is what is given up");
    assert!(!w.engine(1).status().full);
}
