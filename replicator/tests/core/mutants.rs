//! Tests that exist because a mutated engine once passed all others: each names the line that it guards.

use crate::world::{BLOCK, World};
use baton_replicator::core::engine::StoreOp;
use baton_replicator::types::{DiskState, Role};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIZE: u64 = 16 << 20;
const EXTENT: u64 = 4 << 20;
/// A block in an extent that nothing else touches.
const FAR: u64 = 3000;

fn pair() -> World {
    let mut w = World::with_idle(2, SIZE, 17, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 1, 11) && w.flush(0));
    w
}

fn wait(w: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    w.until(what, Duration::from_secs(20), done);
}

fn reason(w: &World, words: &str) -> bool {
    w.peer(0, 1).reason.is_some_and(|r| r.contains(words))
}

/// `welcome`: the write-off of a peer whose replicator restarted.
#[test]
fn what_a_restarted_replicator_had_not_flushed_is_dirty_before_its_own_log_is_heard() {
    let mut w = pair();
    assert!(w.write(0, FAR, 22), "acknowledged by both, flushed by none");
    w.crash(1, false);
    w.start(1);
    wait(&mut w, "its greeting", |w| reason(w, "reading its bitmap"));
    assert!(w.peer(0, 1).dirty_bytes >= BLOCK, "not only what beta's log will name");
}

/// `pump_replica`: the flush before `SyncDoneAck`.
#[test]
fn a_target_that_says_it_is_done_has_flushed() {
    let mut w = pair();
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    for block in 0..20 {
        assert!(w.write(0, FAR + block, 100 + block));
    }
    w.mend(0, 1);
    wait(&mut w, "resynced", |w| w.peer(0, 1).resynced);
    assert!(
        (0..20).all(|b| w.nodes[1].disk.durable(FAR + b) == 100 + b),
        "a power cut now takes nothing away"
    );
}

/// `send_decision`: `trusted`.
#[test]
fn a_member_that_was_added_while_it_was_away_is_inconsistent_until_it_has_everything() {
    let mut w = pair();
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, FAR, 33), "acknowledged without beta");
    // An admission in etcd whose outcome is unknown: beta counts, though it lacks a write.
    let required = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, required, false);
    w.mend(0, 1);
    wait(&mut w, "inconsistent", |w| w.engine(1).status().disk == DiskState::Inconsistent);
    wait(&mut w, "resynced", |w| w.peer(0, 1).resynced);
    assert_eq!(w.nodes[1].disk.get(FAR), 33);
}

/// `peer_ready`: a second decision when the peer was taken out of the set after the first.
#[test]
fn a_member_taken_out_while_it_catches_up_is_inconsistent_until_it_has_everything() {
    let mut w = pair();
    w.cut(0, 1);
    assert!(!w.write(0, 2, 22), "it waits for beta");
    w.mend(0, 1);
    wait(&mut w, "the decision", |w| reason(w, "agreeing"));
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    wait(&mut w, "inconsistent", |w| w.engine(1).status().disk == DiskState::Inconsistent);
    wait(&mut w, "resynced", |w| w.peer(0, 1).resynced);
    assert_eq!(w.nodes[1].disk.get(2), 22);
}

/// alpha alone, with an empty log.
fn alone() -> World {
    let mut w = World::with_idle(2, SIZE, 19, 100 * MS);
    w.cut(0, 1);
    w.promote_first(0);
    assert!(w.write(0, 1, 11));
    wait(&mut w, "an empty log", |w| w.engine(0).status().activity_log_extents == 0);
    w
}

fn flushing(w: &World) -> bool {
    w.nodes[0].store.iter().any(|(_, op)| *op == StoreOp::Flush)
}

/// `clean_pages`: `last_seq <= before`.
#[test]
fn a_write_during_the_cleaning_of_its_extent_keeps_it_in_the_log() {
    let mut w = alone();
    assert!(w.write(0, FAR, 33));
    wait(&mut w, "a cleaning", |w| flushing(w));
    assert!(w.write(0, FAR + 1, 34));
    wait(&mut w, "the flush", |w| !flushing(w));
    w.run_for(10 * MS);
    assert_eq!(w.engine(0).status().activity_log_extents, 1, "FAR + 1 is on no platter yet");
    wait(&mut w, "the next cleaning", |w| w.engine(0).status().activity_log_extents == 0);
    assert_eq!(w.nodes[0].disk.durable(FAR + 1), 34);
}

/// `clean_pages`: the bitmap's pages are durable before the extent leaves the log.
#[test]
fn bits_of_an_absent_peer_are_durable_before_the_log_forgets_their_extent() {
    let mut w = pair();
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, FAR, 33));
    wait(&mut w, "an empty log", |w| w.engine(0).status().activity_log_extents == 0);
    let dirty = w.peer(0, 1).dirty_bytes;
    assert!(dirty >= BLOCK);
    w.crash(0, true);
    w.start(0);
    wait(&mut w, "attached", |w| w.is_attached(0));
    assert_eq!(w.peer(0, 1).dirty_bytes, dirty, "from the bitmap alone");
}

/// `busy_extents`: what a member has not flushed keeps its extent in the log.
#[test]
fn an_extent_that_a_member_has_not_flushed_stays_in_the_log() {
    let mut w = pair();
    assert!(w.write(0, FAR, 33));
    // beta's acknowledgement of the cleaning's flush does not come.
    w.stalled.insert((0, 1));
    w.run_for(450 * MS);
    assert!(w.engine(0).status().activity_log_extents >= 1);
    w.crash(0, false);
    w.start(0);
    wait(&mut w, "attached", |w| w.is_attached(0));
    assert!(w.peer(0, 1).dirty_bytes >= EXTENT);
}
