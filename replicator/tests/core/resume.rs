//! A process that died as primary and is started again while its device is kept: what it may go on with, and when.

use crate::world::{BLOCK, World, data};
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{ConnectionState, DiskState, Role};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIZE: u64 = 40 << 20;
/// A block of the extent with this number.
fn at(extent: u64) -> u64 {
    extent * 1024
}

fn wait(w: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    w.until(what, Duration::from_secs(30), done);
}

/// Alpha leads, beta is a member, ten extents are in alpha's log; then alpha's process dies with a write unanswered.
fn left_behind() -> World {
    let mut w = World::new(2, SIZE, 23);
    w.nodes[0].keeps = true;
    w.promote_first(0);
    w.admit(0, 1, 1);
    for extent in 0..10 {
        assert!(w.write(0, at(extent), 100 + extent));
    }
    w.cut(0, 1);
    assert!(!w.write(0, at(3), 77), "beta does not have it");
    w.crash(0, false);
    w.mend(0, 1);
    w.start(0);
    wait(&mut w, "attached", |w| w.is_attached(0));
    w
}

fn resend(w: &mut World) {
    w.request(0, 1, FrontOp::Write(at(3) * BLOCK, data(77, 1)));
}

#[test]
fn the_same_leadership_goes_on_and_waits_for_no_copying() {
    let mut w = left_behind();
    let status = w.engine(0).status();
    assert!(status.held && status.role == Role::Secondary);
    let generation = status.generation;
    let member = w.member(1);
    w.desire(0, Role::Primary, 1, vec![member], false);
    w.serve(0, 1, Duration::from_secs(99));
    wait(&mut w, "the device", |w| w.nodes[0].taken_over);
    resend(&mut w);
    wait(&mut w, "the answer", |w| w.reply(0, 1).is_some());
    let beta = w.peer(0, 1);
    assert_eq!(beta.connection, ConnectionState::SyncSource, "it is still being caught up: {beta:?}");
    assert!(beta.resynced && !beta.settled, "a member, but nobody to be admitted or handed over to yet");
    assert_eq!((w.nodes[0].disk.get(at(3)), w.nodes[1].disk.get(at(3))), (77, 77), "on both");
    assert!(w.flush(0), "flushes wait for no copying either");
    wait(&mut w, "caught up", |w| w.peer(0, 1).settled && w.peer(0, 1).dirty_bytes == 0);
    let status = w.engine(0).status();
    assert!(!status.held);
    assert_eq!((status.generation, w.engine(1).data_generation()), (generation, generation));
    assert_ne!(w.engine(1).status().disk, DiskState::Inconsistent);
}

#[test]
fn a_member_that_left_meanwhile_makes_a_new_generation() {
    let mut w = left_behind();
    let generation = w.engine(0).data_generation();
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.serve(0, 1, Duration::from_secs(99));
    wait(&mut w, "the device", |w| w.nodes[0].taken_over);
    resend(&mut w);
    wait(&mut w, "the answer", |w| w.reply(0, 1).is_some());
    assert_ne!(w.engine(0).data_generation(), generation, "beta's data could be forced to lead");
}

#[test]
fn a_member_that_restarts_meanwhile_is_caught_up_first() {
    let mut w = left_behind();
    let member = w.member(1);
    w.desire(0, Role::Primary, 1, vec![member], false);
    w.serve(0, 1, Duration::from_secs(99));
    wait(&mut w, "beta's first answer", |w| w.peer(0, 1).connection == ConnectionState::SyncSource);
    w.crash(1, false);
    wait(&mut w, "its end to be noticed", |w| w.peer(0, 1).connection == ConnectionState::Connecting);
    w.start(1);
    wait(&mut w, "beta's next answer", |w| w.peer(0, 1).connection == ConnectionState::SyncSource);
    assert!(!w.peer(0, 1).resynced, "what it had not flushed is not known any more");
    wait(&mut w, "caught up", |w| w.peer(0, 1).settled);
}

#[test]
fn another_epoch_gets_another_device() {
    let mut w = left_behind();
    let member = w.member(1);
    let token = w.desire(0, Role::Primary, 2, vec![member], false);
    wait(&mut w, "promotion", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.nodes[0].done[&token], Ok(()));
    assert!(w.nodes[0].device && !w.nodes[0].taken_over && !w.nodes[0].left);
    assert!(!w.engine(0).status().held);
}

#[test]
fn a_deposed_leader_s_device_is_taken_away() {
    for number in [1, 2] {
        let mut w = left_behind();
        let token = w.desire(0, Role::Secondary, number, Vec::new(), true);
        wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
        assert_eq!(w.nodes[0].done[&token], Ok(()));
        assert!(!w.nodes[0].left && !w.nodes[0].device);
        let status = w.engine(0).status();
        assert!(!status.held && status.epoch.number == number);
        // What it may have written alone is known, so the next leader copies it back.
        let member = w.member(0);
        w.desire(1, Role::Primary, 3, vec![member], false);
        w.serve(1, 3, Duration::from_secs(99));
        wait(&mut w, "alpha follows", |w| w.peer(1, 0).resynced);
        assert_eq!(w.nodes[0].disk.get(at(3)), w.nodes[1].disk.get(at(3)));
    }
}

#[test]
fn whoever_has_followed_another_leader_does_not_go_on() {
    let mut w = left_behind();
    let alpha = w.member(0);
    w.desire(1, Role::Primary, 2, vec![alpha], false);
    w.serve(1, 2, Duration::from_secs(99));
    wait(&mut w, "alpha follows beta", |w| w.engine(0).status().epoch.number == 2);
    let member = w.member(1);
    let token = w.desire(0, Role::Primary, 1, vec![member], false);
    w.run_for(10 * MS);
    assert!(
        w.nodes[0].done[&token].as_ref().is_err_and(|why| why.contains("older")),
        "{:?}",
        w.nodes[0].done
    );
    assert!(w.nodes[0].left && !w.nodes[0].taken_over, "nobody has been served");
}

#[test]
fn a_power_cut_leaves_nothing() {
    let mut w = left_behind();
    w.crash(0, true);
    w.start(0);
    assert!(!w.engine(0).status().held);
}
