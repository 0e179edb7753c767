//! What once went wrong in DRBD, by the dates of its change logs from 2020 to 2026, tried on this engine. Each test
//! names the date and the fault.

use crate::world::{BLOCK, World, data};
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{ConnectionState, DiskState, Role};
use std::collections::BTreeSet;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;
/// A block in an extent that nothing else touches.
const FAR: u64 = 3000;

/// alpha leads at epoch 1, the others are in the required set.
fn group(nodes: usize, seed: u64) -> World {
    let mut w = World::with_idle(nodes, SIZE, seed, 100 * MS);
    w.promote_first(0);
    (1..nodes).for_each(|n| w.admit(0, n, 1));
    assert!(w.write(0, 1, 11) && w.flush(0));
    w
}

/// beta is away and has been taken out of the set.
fn without_beta(seed: u64) -> World {
    let mut w = group(2, seed);
    w.cut(0, 1);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    w
}

/// Writes a block in every 32, from `first` on, without waiting.
fn scatter(w: &mut World, first: u64, value: u64) {
    for n in 0..100 {
        w.request(0, value + n, FrontOp::Write((first + n * 32) * BLOCK, data(value + n, 1)));
    }
    for n in 0..100 {
        w.until("its answer", LONG, |w| w.reply(0, value + n).is_some());
    }
}

fn steps(w: &mut World, count: u64) {
    for _ in 0..count {
        w.step();
    }
}

fn equal(w: &World, a: usize, b: usize) {
    for block in 0..SIZE / BLOCK {
        assert_eq!(w.nodes[a].disk.get(block), w.nodes[b].disk.get(block), "block {block}; {}", w.describe());
    }
}

/// 2026-08: with the activity log off, slots of peers that had none yet stayed "in sync" over a crash.
#[test]
fn a_peer_that_first_joins_after_a_crash_is_copied_in_full() {
    let mut w = group(2, 1);
    assert!(w.write(0, FAR, 33));
    w.crash(0, true);
    w.start(0);
    let gamma = w.join(BTreeSet::from([0, 1]));
    w.start(gamma);
    w.until("attached", LONG, |w| w.is_attached(0) && w.is_attached(gamma));
    w.reconfigure(0, BTreeSet::from([1, gamma])).expect("there is room");
    w.desire(0, Role::Primary, 2, Vec::new(), false);
    w.serve(0, 2, Duration::from_secs(999));
    w.until("the copying", LONG, |w| w.peer(0, gamma).resync.is_some());
    assert_eq!(w.peer(0, gamma).resync.expect("a resync").total_bytes, SIZE);
    w.admit(0, gamma, 2);
    equal(&w, 0, gamma);
}

/// 2026-07: a bit set behind the resync's cursor was never asked for, and the resync hung just before its end.
#[test]
fn a_write_behind_the_cursor_of_a_resync_is_copied_though_the_link_breaks() {
    for breaks in [false, true] {
        let mut w = without_beta(2);
        scatter(&mut w, 0, 1000);
        w.mend(0, 1);
        w.until("half of it", LONG, |w| {
            w.peer(0, 1).resync.is_some_and(|r| r.done_bytes * 2 > r.total_bytes) || w.peer(0, 1).resynced
        });
        assert!(!w.peer(0, 1).resynced, "the cursor is on its way");
        if breaks {
            w.request(0, 5, FrontOp::Write(0, data(55, 1)));
            w.cut(0, 1);
            w.run_for(100 * MS);
            w.mend(0, 1);
        } else {
            assert!(w.write(0, 0, 55));
        }
        w.admit(0, 1, 1);
        assert_eq!(w.nodes[1].disk.get(0), 55);
        equal(&w, 0, 1);
    }
}

/// 2026-06 and 07: bits left between equal generations were dropped; then a handshake that only one side entered hung.
#[test]
fn bits_between_equal_generations_are_copied_and_the_handshake_ends() {
    let mut w = group(2, 3);
    w.nodes[1].disk.rot(777);
    assert_eq!(w.verify(0, 1, false), Ok(()));
    w.until("the verify's end", LONG, |w| !w.verified(0).state.is_running());
    assert_eq!(w.peer(0, 1).dirty_bytes, BLOCK);
    assert_eq!(w.engine(0).data_generation(), w.engine(1).data_generation());
    w.cut(0, 1);
    w.run_for(50 * MS);
    w.mend(0, 1);
    w.until("connected", LONG, |w| {
        w.peer(0, 1).connection == ConnectionState::Connected && w.peer(0, 1).settled
    });
    assert_eq!((w.peer(0, 1).dirty_bytes, w.engine(1).status().disk), (0, DiskState::UpToDate));
    equal(&w, 0, 1);
    assert!(w.write(0, FAR, 33), "and it goes on");
}

/// 2026-04: a stale peer came back and was believed UpToDate, though a newer generation was known.
#[test]
fn a_stale_replica_is_never_believed_up_to_date() {
    let mut w = without_beta(4);
    assert!(w.write(0, FAR, 33));
    w.crash(1, false);
    w.start(1);
    w.mend(0, 1);
    let mut looked = 0;
    let end = w.now.plus(LONG);
    while !w.peer(0, 1).resynced {
        let believed = w.peer(0, 1).disk == DiskState::UpToDate || w.peer(0, 1).settled;
        assert!(!believed || w.nodes[1].disk.get(FAR) == 33, "{}", w.describe());
        assert!(w.now < end, "{}", w.describe());
        looked += 1;
        w.step();
    }
    assert!(looked > 10, "it was seen on its way");
    equal(&w, 0, 1);
}

/// 2024-08: resolving a split brain by hand used a bitmap that knew nothing of the other side instead of a full sync.
#[test]
fn a_replica_made_anew_after_a_split_brain_is_copied_in_full() {
    let mut w = without_beta(5);
    assert!(w.write(0, FAR, 33), "alpha went on alone");
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    w.until("promotion", LONG, |w| w.nodes[1].device);
    assert!(w.write(1, 1, 12), "so did beta, against all rules");
    w.desire(0, Role::Secondary, 2, Vec::new(), true);
    w.mend(0, 1);
    w.until("standing alone", LONG, |w| w.peer(1, 0).connection == ConnectionState::StandAlone);
    // It is asked again now and then, and that is nobody's news.
    let (alarms, sessions) = (w.alarms.len(), w.sessions());
    let end = w.now.plus(25_000 * MS);
    while w.now < end {
        let peer = w.peer(1, 0);
        assert_eq!(peer.connection, ConnectionState::StandAlone, "{:?}", peer.reason);
        assert!(peer.reason.is_some_and(|r| r.contains("split brain")));
        w.step();
    }
    assert_eq!((w.alarms.len(), w.sessions()), (alarms, sessions + 4), "two sessions, both ends counted");
    // A person decides for beta and removes alpha's files. alpha keeps its name.
    w.crash(0, false);
    w.wipe(0);
    w.start(0);
    w.until("the copying", LONG, |w| w.peer(1, 0).resync.is_some());
    assert_eq!(w.peer(1, 0).resync.expect("a resync").total_bytes, SIZE);
    w.admit(1, 0, 2);
    equal(&w, 1, 0);
    assert_eq!(w.nodes[0].disk.get(FAR), 0);
}

/// 2022-08: a write while the peer was Outdated and its resync paused was neither sent nor marked. 2020-11: blocks that
/// became dirty during the exchange of bitmaps were missed. Here: a write at any moment of a handshake and a resync, which
/// is cut off again at any moment.
#[test]
fn a_write_at_any_moment_of_a_handshake_is_sent_or_marked() {
    let mut moments = BTreeSet::new();
    for at in 0..90 {
        let mut w = without_beta(600 + at);
        scatter(&mut w, 0, 1000);
        w.mend(0, 1);
        steps(&mut w, at * 3);
        moments.insert(format!("{:?}", w.peer(0, 1).connection));
        w.request(0, 5, FrontOp::Write(FAR * BLOCK, data(55, 1)));
        if at % 2 == 0 {
            steps(&mut w, at / 2);
            w.cut(0, 1);
            w.run_for(20 * MS);
            w.mend(0, 1);
        }
        w.admit(0, 1, 1);
        w.until("its answer", LONG, |w| w.reply(0, 5).is_some());
        assert_eq!(w.nodes[1].disk.get(FAR), 55, "{at}");
        equal(&w, 0, 1);
    }
    assert!(moments.len() >= 3, "only {moments:?}");
}

/// 2022-08: the same while the resync is paused: a pause that begins and ends at any moment, writes in it to what is copied
/// already, to what is not and to what was never dirty, and a link or a process that fails meanwhile.
#[test]
fn a_write_during_a_paused_resync_is_sent_or_marked() {
    let mut held = 0;
    for at in 0..60 {
        let mut w = without_beta(1200 + at);
        scatter(&mut w, 0, 1000);
        w.mend(0, 1);
        steps(&mut w, at * 3);
        w.pause_resync(0, true);
        w.run_for(300 * MS);
        held += u64::from(w.peer(0, 1).resync.is_some_and(|r| r.paused));
        for (n, block) in [(0, 0), (1, 32 * 99), (2, FAR + 7)] {
            assert!(w.write(0, block, 5000 + n), "{at}: {}", w.describe());
        }
        let lacks = w.engine(1).status().disk == DiskState::Inconsistent;
        match at % 4 {
            0 => {
                w.cut(0, 1);
                assert!(w.write(0, FAR + 8, 6000));
                w.mend(0, 1);
            }
            1 => {
                w.crash(1, true);
                assert!(w.write(0, FAR + 8, 6000));
                w.start(1);
            }
            2 => assert!(w.flush(0) && w.write(0, FAR + 8, 6000)),
            _ => {
                assert!(w.write(0, FAR + 8, 6000) && w.flush(0));
                w.crash(0, true);
                w.start(0);
                w.until("attached", LONG, |w| w.is_attached(0));
                w.pause_resync(0, true);
                w.desire(0, Role::Primary, 1, Vec::new(), false);
                w.serve(0, 1, Duration::from_secs(999));
                w.until("the device", LONG, |w| w.nodes[0].device);
            }
        }
        w.run_for(1000 * MS);
        if lacks {
            let peer = w.peer(0, 1);
            assert!(!peer.resynced && !peer.settled && peer.dirty_bytes > 0, "{at}: {}", w.describe());
            assert_ne!(w.engine(1).status().disk, DiskState::UpToDate);
        }
        w.pause_resync(0, false);
        w.admit(0, 1, 1);
        let there = [(0, 5000), (32 * 99, 5001), (FAR + 7, 5002), (FAR + 8, 6000)];
        there.iter().for_each(|(block, value)| assert_eq!(w.nodes[1].disk.get(*block), *value, "{at}"));
        equal(&w, 0, 1);
    }
    assert!(held > 20, "only {held} were paused in the middle of it");
}

/// 2021-08: two inconsistent nodes cleared the bitmaps about each other when they met, and a later sync missed blocks.
#[test]
fn two_unfinished_targets_do_not_make_each_other_clean() {
    let mut w = group(3, 7);
    w.cut(0, 1);
    w.cut(0, 2);
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    scatter(&mut w, 0, 1000);
    w.mend(0, 1);
    w.mend(0, 2);
    let unfinished = |w: &World, n: usize| w.engine(n).status().disk == DiskState::Inconsistent;
    w.until("both have begun", LONG, |w| unfinished(w, 1) && unfinished(w, 2));
    w.crash(0, false);
    w.run_for(1000 * MS);
    for node in [1, 2] {
        assert!(unfinished(&w, node));
        let token = w.desire(node, Role::Primary, 2, Vec::new(), false);
        assert!(w.nodes[node].done[&token].is_err(), "neither can be promoted");
    }
    w.start(0);
    w.until("attached", LONG, |w| w.is_attached(0));
    w.desire(0, Role::Primary, 3, Vec::new(), false);
    w.serve(0, 3, Duration::from_secs(999));
    w.admit(0, 1, 3);
    w.admit(0, 2, 3);
    equal(&w, 0, 1);
    equal(&w, 0, 2);
}

/// 2021-04: the error of one part of a split request was overwritten by the success of a later one.
#[test]
fn one_failed_part_of_a_discard_fails_the_whole() {
    let size = 160 << 20;
    let mut w = World::new(2, size, 8);
    w.promote_first(0);
    w.request(0, 8, FrontOp::Discard(w.range(0, size / BLOCK)));
    w.until("its first part", LONG, |w| !w.nodes[0].store.is_empty());
    w.nodes[0].broken = true;
    w.until("the error", LONG, |w| w.engine(0).status().disk == DiskState::Failed);
    w.nodes[0].broken = false;
    w.run_for(500 * MS);
    assert_eq!(w.reply(0, 8), Some(Err(())));
    assert_eq!(w.reply(0, 8), None, "answered once");
}

/// 2020-09 and 10: the sides decided differently, because one's state changed between what it sent and what it compared.
/// Here: the agent changes who counts, or the epoch, at any moment of a handshake.
#[test]
fn what_changes_during_a_handshake_does_not_make_the_sides_disagree() {
    for at in 0..60 {
        let mut w = without_beta(900 + at);
        scatter(&mut w, 0, 1000);
        w.mend(0, 1);
        steps(&mut w, at * 2);
        let mut number = 1;
        match at % 3 {
            // An admission of unknown outcome, taken back.
            0 => {
                let required = vec![w.member(1)];
                w.desire(0, Role::Primary, 1, required, false);
                steps(&mut w, at / 2);
                w.desire(0, Role::Primary, 1, Vec::new(), false);
            }
            // beta's agent hears of a later epoch before alpha's does.
            1 => {
                number = 2;
                w.desire(1, Role::Secondary, 2, Vec::new(), false);
                steps(&mut w, at / 2);
                w.desire(0, Role::Primary, 2, Vec::new(), false);
                w.serve(0, 2, Duration::from_secs(999));
            }
            // alpha's process dies, and the next one has forgotten what was said.
            _ => {
                w.crash(0, false);
                w.start(0);
                w.until("attached", LONG, |w| w.is_attached(0));
                w.desire(0, Role::Primary, 1, Vec::new(), false);
                w.serve(0, 1, Duration::from_secs(999));
            }
        }
        w.until("the device", LONG, |w| w.nodes[0].device);
        w.admit(0, 1, number);
        assert!(w.write(0, FAR, 55), "{at}: {}", w.describe());
        equal(&w, 0, 1);
        assert_eq!(w.engine(0).data_generation(), w.engine(1).data_generation());
    }
}
