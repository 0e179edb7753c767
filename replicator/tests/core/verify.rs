//! Verify, one test per promise: a difference is found and marked, nothing else is, a repair mends it and costs the
//! peer nothing, interruptions are survived or named.

use crate::bugs::Bug;
use crate::world::{BLOCK, World, data};
use baton_replicator::api::VerifyState;
use baton_replicator::core::engine::{Event, FrontOp, Token};
use baton_replicator::types::{DiskState, Role};
use std::time::Duration;

const SIZE: u64 = 16 << 20;

/// alpha leads, beta is in the required set, and there is something on both.
fn pair(seed: u64) -> World {
    let mut w = World::new(2, SIZE, seed);
    w.promote_first(0);
    for block in 0..40 {
        assert!(w.write(0, block * 97, block + 1));
    }
    w.admit(0, 1, 1);
    w
}

fn ended(w: &mut World) {
    w.until("the verify's end", Duration::from_secs(60), |w| !w.verified(0).state.is_running());
}

#[test]
fn equal_replicas_are_compared_to_the_last_byte() {
    let mut w = pair(1);
    assert_eq!(w.verify(0, 7, false), Ok(()));
    assert_eq!(w.verify(0, 7, false), Ok(()), "the same request again changes nothing");
    assert!(w.verify(0, 8, false).is_err_and(|e| e.contains("running")));
    ended(&mut w);
    let v = w.verified(0);
    assert_eq!((v.state, v.checked_bytes, v.total_bytes), (VerifyState::Done, SIZE, SIZE));
    assert_eq!((v.mismatched_bytes, v.unconfirmed, v.reason), (0, 0, None));
    assert_eq!(w.peer(0, 1).dirty_bytes, 0);
}

#[test]
fn what_rotted_is_found_marked_named_and_costs_the_peer_nothing() {
    let mut w = pair(2);
    for block in [0, 777, 778, SIZE / BLOCK - 1] {
        w.nodes[1].disk.rot(block);
    }
    assert_eq!(w.verify(0, 1, false), Ok(()));
    ended(&mut w);
    let v = w.verified(0);
    assert_eq!((v.mismatched_bytes, v.repaired_bytes), (4 * BLOCK, 0));
    let named: Vec<(u64, u64)> = v.mismatches.iter().map(|m| (m.offset / BLOCK, m.len / BLOCK)).collect();
    assert_eq!(named, [(0, 1), (777, 2), (SIZE / BLOCK - 1, 1)]);
    let peer = w.peer(0, 1);
    assert_eq!(
        (peer.dirty_bytes, peer.resynced, peer.settled),
        (4 * BLOCK, true, true),
        "marked, still a member"
    );
    assert!(w.write(0, 5, 55));
    // The marks are durable, and the next handshake copies them.
    w.crash(0, false);
    w.start(0);
    w.until("attached", Duration::from_secs(5), |w| w.is_attached(0));
    assert!(w.peer(0, 1).dirty_bytes >= 4 * BLOCK);
    let required = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, required, false);
    w.serve(0, 1, Duration::from_secs(99));
    w.until("resync", Duration::from_secs(60), |w| w.nodes[0].device && w.peer(0, 1).resynced);
    assert!(
        [0, 777, 778, SIZE / BLOCK - 1].iter().all(|b| w.nodes[0].disk.get(*b) == w.nodes[1].disk.get(*b))
    );
    assert_ne!(w.engine(1).status().disk, DiskState::Inconsistent);
}

#[test]
fn a_repair_copies_from_the_primary_while_the_peer_stays_connected() {
    let mut w = pair(3);
    w.nodes[1].disk.rot(777);
    assert_eq!(w.verify(0, 1, false), Ok(()));
    ended(&mut w);
    w.nodes[1].disk.rot(2000);
    assert_eq!(w.verify(0, 2, true), Ok(()));
    while w.verified(0).state.is_running() {
        let peer = w.peer(0, 1);
        assert!(peer.resynced && peer.settled && w.engine(1).status().disk == DiskState::UpToDate);
        w.step();
    }
    let v = w.verified(0);
    assert_eq!(
        v.mismatched_bytes, BLOCK,
        "the one that was marked before had been copied before it was compared"
    );
    assert_eq!(v.repaired_bytes, 2 * BLOCK);
    assert_eq!(w.peer(0, 1).dirty_bytes, 0);
    assert!([777, 2000].iter().all(|b| w.nodes[0].disk.get(*b) == w.nodes[1].disk.get(*b)));
    // It is durable there.
    w.crash(1, true);
    assert_eq!(w.nodes[1].disk.get(777), w.nodes[0].disk.get(777));
}

#[test]
fn writes_that_never_stop_raise_no_false_alarm_and_do_not_wait_for_answers() {
    let mut w = pair(4);
    assert_eq!(w.verify(0, 1, true), Ok(()));
    let mut id = 0;
    while w.verified(0).state.is_running() {
        // Always in the ranges that are being compared: that is where it could go wrong.
        let at = (w.verified(0).checked_bytes / BLOCK + id % 3).min(SIZE / BLOCK - 2);
        w.step();
        if id - w.nodes[0].replies.len() as u64 >= 16 {
            continue;
        }
        id += 1;
        let op = match id % 5 {
            0 => FrontOp::Discard(w.range(at, 2)),
            _ => FrontOp::Write(at * BLOCK, data(id, 2)),
        };
        w.request(0, id, op);
    }
    let v = w.verified(0);
    assert_eq!((v.state, v.mismatched_bytes, v.unconfirmed), (VerifyState::Done, 0, 0));
    assert!(id > 150, "{id} writes");
}

/// Verifies without a pause while `writes` writes go into what is being compared. How many bytes differed, as it was told or only
/// at the first look, and how much was compared.
fn loaded(seed: u64, writes: u64, bug: Option<Bug>) -> (u64, u64) {
    let mut w = pair(seed);
    w.bug = bug;
    let (mut id, mut answered, mut runs, mut alarms, mut compared) = (0, 0, 0, 0, 0);
    while id < writes && alarms == 0 {
        if runs == 0 || !w.verified(0).state.is_running() {
            runs += 1;
            // With repair: marks of a false alarm would be wiped out by what it copies.
            assert_eq!(w.verify(0, runs, runs % 2 == 0), Ok(()));
        }
        let v = w.verified(0);
        let at = (v.checked_bytes / BLOCK + w.random.below(24)).min(SIZE / BLOCK - 4);
        w.step();
        answered += std::mem::take(&mut w.nodes[0].replies).len() as u64;
        let v = w.verified(0);
        alarms = v.mismatched_bytes + v.unconfirmed;
        if !v.state.is_running() {
            assert_eq!(v.state, VerifyState::Done);
            compared += v.checked_bytes;
        }
        if id - answered < 16 {
            id += 1;
            let op = match id % 9 {
                0 => FrontOp::Discard(w.range(at, 2)),
                1 => FrontOp::Zero(w.range(at, 1)),
                n => FrontOp::Write(at * BLOCK, data(id, 1 + n % 3)),
            };
            w.request(0, id, op);
        }
    }
    (alarms, compared)
}

/// An hour of load raises no false alarm; this is a good part of the writes of one. And it would, if what is compared were not
/// locked until the other side has been asked.
#[test]
fn a_long_load_into_what_is_compared_raises_no_false_alarm_and_would_without_the_lock() {
    let (alarms, compared) = loaded(11, 20_000, None);
    assert_eq!(alarms, 0);
    assert!(compared >= 4 * SIZE, "{compared} bytes");
    let (alarms, _) = loaded(11, 20_000, Some(Bug::AskedLate));
    assert!(alarms > 0, "the same load finds a missing lock");
}

#[test]
fn a_write_into_a_range_whose_answer_is_late_goes_through() {
    let mut w = pair(5);
    w.stalled.insert((0, 1));
    assert_eq!(w.verify(0, 1, false), Ok(()));
    w.run_for(Duration::from_millis(50));
    w.request(0, 1, FrontOp::Write(0, data(99, 1)));
    w.run_for(Duration::from_millis(50));
    assert_eq!(w.nodes[0].disk.get(0), 99, "only the peer's acknowledgement is missing, as ever");
}

#[test]
fn a_lost_peer_is_waited_for_and_the_comparison_goes_on_where_it_was() {
    let mut w = pair(6);
    w.nodes[1].disk.rot(20);
    w.nodes[1].disk.rot(SIZE / BLOCK - 5);
    assert_eq!(w.verify(0, 1, false), Ok(()));
    w.until("half of it", Duration::from_secs(60), |w| w.verified(0).checked_bytes > SIZE / 2);
    w.cut(0, 1);
    w.run_for(Duration::from_millis(700));
    let v = w.verified(0);
    assert_eq!((v.state, v.reason.as_deref()), (VerifyState::Waiting, Some("waiting for beta")));
    w.mend(0, 1);
    ended(&mut w);
    let v = w.verified(0);
    assert_eq!((v.state, v.checked_bytes, v.mismatched_bytes), (VerifyState::Done, SIZE, 2 * BLOCK));
    assert_eq!(v.repaired_bytes, BLOCK, "the handshake's resync copied the first");
    assert_eq!(w.nodes[1].disk.get(20), w.nodes[0].disk.get(20));
    assert_eq!(w.peer(0, 1).dirty_bytes, BLOCK);
}

#[test]
fn a_peer_that_stays_away_ends_it_and_so_does_a_command_or_a_demotion() {
    let mut w = pair(7);
    assert_eq!(w.verify(0, 1, false), Ok(()));
    w.cut(0, 1);
    w.pace = 200;
    w.until("aborted", Duration::from_secs(700), |w| !w.verified(0).state.is_running());
    let v = w.verified(0);
    assert_eq!(v.state, VerifyState::Aborted);
    assert!(v.reason.as_ref().is_some_and(|r| r.contains("beta has been away")), "{v:?}");
    assert!(w.verify(0, 2, false).is_err_and(|e| e.contains("beta is not connected")));

    let mut w = pair(8);
    assert_eq!(w.verify(0, 1, false), Ok(()));
    w.give(0, Event::StopVerify { token: Token(900) });
    assert_eq!((w.verified(0).state, w.nodes[0].done[&900].clone()), (VerifyState::Stopped, Ok(())));
    assert_eq!(w.verify(0, 2, true), Ok(()), "late answers of the first do no harm");
    w.run_for(Duration::from_millis(2));
    w.desire(0, Role::Secondary, 1, Vec::new(), false);
    ended(&mut w);
    assert_eq!(w.verified(0).state, VerifyState::Aborted);
    assert!(w.verify(0, 3, false).is_err_and(|e| e.contains("only the primary")));
    assert!(w.verify(1, 3, false).is_err_and(|e| e.contains("only the primary")));
}

#[test]
fn a_peer_of_the_release_before_replicates_and_says_why_it_is_not_compared() {
    let mut w = World::new(2, SIZE, 9);
    w.nodes[1].old = true;
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 3, 33));
    assert_eq!(w.nodes[1].disk.get(3), 33);
    let refused = w.verify(0, 1, false).expect_err("it does not know the question");
    assert!(refused.contains("beta's replicator speaks version 1"), "{refused}");
    // It is upgraded: the next session offers the newest again.
    w.nodes[1].old = false;
    w.cut(0, 1);
    w.mend(0, 1);
    w.run_for(Duration::from_millis(20));
    w.until("connected", Duration::from_secs(5), |w| w.peer(0, 1).resynced);
    assert_eq!(w.verify(0, 2, false), Ok(()));
}

#[test]
fn greetings_that_break_off_do_not_make_a_peer_look_older() {
    let mut w = pair(8);
    for _ in 0..2 {
        w.cut(0, 1);
        w.run_for(Duration::from_millis(20));
        w.mend(0, 1);
        w.until("a greeting", Duration::from_secs(9), |w| {
            w.peer(0, 1).reason.is_some_and(|r| r.contains("waiting for its greeting"))
        });
    }
    w.cut(0, 1);
    w.run_for(Duration::from_millis(20));
    w.mend(0, 1);
    w.until("connected", Duration::from_secs(9), |w| w.peer(0, 1).settled);
    assert_eq!(w.verify(0, 1, false), Ok(()), "version 2, as before");
}

#[test]
fn a_primary_of_the_release_before_is_served() {
    let mut w = World::new(2, SIZE, 10);
    w.nodes[0].old = true;
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 3, 33));
    assert_eq!(w.nodes[1].disk.get(3), 33);
}
