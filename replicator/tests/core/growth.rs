//! A volume grows while it is in use: what it waits for, and what a crash leaves, at every step of it.

use crate::world::{BLOCK, World, data, name};
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{DiskState, Role};
use std::time::Duration;

const SIZE: u64 = 12 << 20;
const LARGE: u64 = 18 << 20;
const LIMIT: Duration = Duration::from_secs(60);
/// In the new area.
const NEW: u64 = SIZE / BLOCK + 5;

/// alpha leads, the others are in the set.
fn world(nodes: usize, size: u64, seed: u64) -> World {
    let mut w = World::new(nodes, size, seed);
    w.nodes.iter_mut().for_each(|n| n.filesystem = Some("ext4".into()));
    w.promote_first(0);
    (1..nodes).for_each(|peer| w.admit(0, peer, 1));
    w
}

fn grow_all(w: &mut World, size: u64) {
    (0..w.nodes.len()).for_each(|i| w.grow(i, size).expect("it grows while in use"));
}

/// The leader's device has the size, and nobody has anything left to do.
fn grown(w: &World, leader: usize, size: u64) -> bool {
    let all = (0..w.nodes.len()).all(|i| w.growth(i).is_none() && w.engine(i).status().size_bytes == size);
    all && w.nodes[leader].device_size == size
}

fn lead(w: &mut World, node: usize, number: u64) {
    w.until("attach", LIMIT, |w| w.is_attached(node));
    let token = w.desire(node, Role::Primary, number, Vec::new(), false);
    w.serve(node, number, Duration::from_secs(1_000_000));
    w.until("promotion", LIMIT, |w| w.nodes[node].done.contains_key(&token));
    assert_eq!(w.nodes[node].done[&token], Ok(()));
}

fn equal(w: &World, size: u64) {
    for block in 0..size / BLOCK {
        let all: Vec<u64> = w.nodes.iter().map(|n| n.disk.get(block)).collect();
        assert!(all.iter().all(|b| *b == all[0]), "block {block} differs: {all:x?}");
    }
}

/// Nobody sees what was on the disks before, not even after a power cut. Asked the moment that the device has the size.
fn cleared(w: &World) {
    for (node, block) in w.nodes.iter().flat_map(|n| (SIZE / BLOCK..LARGE / BLOCK).map(move |b| (n, b))) {
        assert_eq!(node.disk.durable(block), 0, "block {block} of {}", node.name);
    }
}

fn waits(w: &mut World, node: usize, for_what: &str) {
    w.until(for_what, LIMIT, |w| w.growth(node).is_some_and(|why| why.contains(for_what)));
}

#[test]
fn it_grows_under_load_and_every_write_is_answered() {
    let mut w = world(3, SIZE, 1);
    grow_all(&mut w, LARGE);
    let mut value = 0;
    while !grown(&w, 0, LARGE) {
        value += 1;
        assert!(w.write(0, value % (SIZE / BLOCK), value), "write {value} {}", w.describe());
        assert!(value < 10_000, "{}", w.describe());
    }
    assert!(value > 3, "there was some load");
    assert_eq!(w.nodes[0].filled, 1, "the filesystem too, once");
    assert!(w.write(0, NEW, 77) && w.write(0, LARGE / BLOCK - 1, 78));
    assert!(w.flush(0));
    assert_eq!(w.nodes[2].disk.get(NEW), 77);
    equal(&w, LARGE);
    w.request(0, 9, FrontOp::Write(LARGE, data(1, 1)));
    assert_eq!(w.reply(0, 9), Some(Err(())), "behind the end");
}

#[test]
fn it_never_shrinks_and_no_size_is_taken_that_cannot_be() {
    let mut w = world(2, SIZE, 2);
    assert!(w.grow(0, SIZE / 2).is_err_and(|why| why.contains("never shrinks")));
    assert!(w.grow(0, SIZE + 1).is_err());
    assert!(w.grow(0, 8 << 40).is_err());
    assert_eq!(w.growth(0), None);
}

#[test]
fn it_waits_for_a_peer_that_is_away_and_says_so() {
    let mut w = world(2, SIZE, 3);
    w.crash(1, false);
    grow_all(&mut w, LARGE);
    waits(&mut w, 0, "beta is not connected");
    w.run_for(Duration::from_secs(20));
    assert_eq!((w.nodes[0].device_size, w.engine(0).status().size_bytes), (SIZE, SIZE));
    w.start(1);
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
    // Without the disk that was full of something else.
    w.until("resync", LIMIT, |w| w.peer(0, 1).resynced);
    equal(&w, LARGE);
}

#[test]
fn it_waits_for_a_store_that_has_no_room_and_says_how_much_there_is() {
    let mut w = world(2, SIZE, 4);
    w.nodes[1].most = SIZE;
    grow_all(&mut w, LARGE);
    waits(&mut w, 1, "there are 12582912 bytes");
    waits(&mut w, 0, "beta's replica has room for 12582912 bytes, 18874368 are needed");
    assert!(w.write(0, 1, 5), "the volume goes on as it is");
    w.nodes[1].most = LARGE;
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
}

#[test]
fn it_waits_for_a_peer_whose_agent_does_not_know_yet() {
    let mut w = world(2, SIZE, 5);
    w.grow(0, LARGE).expect("grows");
    waits(&mut w, 0, "beta's replica has room for 12582912 bytes");
    assert_eq!(w.growth(1), None);
    w.grow(1, LARGE).expect("grows");
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
}

#[test]
fn it_waits_for_a_peer_of_an_older_release_and_says_so() {
    let mut w = world(2, SIZE, 6);
    w.crash(1, false);
    w.nodes[1].old = true;
    w.start(1);
    w.until("the old words", LIMIT, |w| w.peer(0, 1).resynced);
    grow_all(&mut w, LARGE);
    waits(&mut w, 0, "beta's replicator is of an older release");
    assert!(w.write(0, 1, 5));
    w.crash(1, false);
    w.nodes[1].old = false;
    w.start(1);
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
}

#[test]
fn a_peer_that_is_filled_is_waited_for() {
    let mut w = world(2, SIZE, 7);
    w.crash(1, false);
    w.wipe(1);
    w.pause_resync(0, true);
    w.start(1);
    grow_all(&mut w, LARGE);
    waits(&mut w, 0, "beta is being resynced");
    w.pause_resync(0, false);
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
    equal(&w, LARGE);
}

/// A new replica is as large as the specification says, on a disk that was used before, and the volume is not yet.
#[test]
fn a_new_disk_that_is_larger_than_the_volume_is_cleared_behind_it() {
    let mut w = world(2, SIZE, 8);
    w.nodes[0].most = SIZE;
    grow_all(&mut w, LARGE);
    w.crash(1, false);
    w.used_disks = true;
    w.wipe(1);
    w.until("absence", LIMIT, |w| !w.peer(0, 1).resynced);
    w.start(1);
    w.until("resync", LIMIT, |w| w.peer(0, 1).resynced);
    assert_eq!(w.engine(1).status().size_bytes, SIZE, "the primary's size is the volume's");
    w.nodes[0].most = LARGE;
    w.until("the device", LIMIT, |w| w.nodes[0].device_size == LARGE);
    cleared(&w);
    w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
    equal(&w, LARGE);
}

/// Whichever of the two loses its power after any number of steps, each time: it goes on as the leader or comes back as the
/// other one's standby, and the volume grows.
#[test]
fn a_crash_after_any_step_leaves_one_size_or_the_other() {
    let (mut sizes, mut written) = (std::collections::BTreeSet::new(), 0);
    for steps in (0..240).step_by(3) {
        for (victim, takes_over) in [(0, false), (0, true), (1, false)] {
            let mut w = world(2, SIZE, 1000 + steps);
            grow_all(&mut w, LARGE);
            for _ in 0..steps {
                w.step();
            }
            let before = w.nodes[0].device_size;
            if before == LARGE {
                assert!(w.write(0, NEW, 7) && w.flush(0));
                written += 1;
            }
            w.crash(victim, true);
            let leader = if takes_over { 1 } else { 0 };
            match (victim, takes_over) {
                (0, false) => {
                    w.start(0);
                    lead(&mut w, 0, 2);
                }
                (0, true) => {
                    lead(&mut w, 1, 2);
                    w.start(0);
                }
                _ => w.start(1),
            }
            let after = w.nodes[leader].device_size;
            assert!(after >= before, "after {steps} steps the device has {after} bytes, it had {before}");
            sizes.insert(after);
            w.until("growth", LIMIT, |w| grown(w, leader, LARGE));
            w.until("resync", LIMIT, |w| w.peer(leader, 1 - leader).resynced);
            let expected = if before == LARGE { 7 } else { 0 };
            assert_eq!(w.nodes[leader].disk.get(NEW), expected, "after {steps} steps");
            equal(&w, LARGE);
        }
    }
    assert_eq!(sizes.len(), 2, "some crashes came early and some late");
    assert!(written > 10, "and some after the growth: {written}");
}

/// beta has agreed to a size that alpha never came to offer: alpha's word stands, and what beta has there goes.
#[test]
fn a_size_that_was_agreed_to_and_never_offered_is_taken_back() {
    let mut taken_back = 0;
    for seed in 0..8 {
        let mut w = world(3, SIZE, 3000 + seed);
        grow_all(&mut w, LARGE);
        w.until("the word", LIMIT, |w| (1..3).all(|i| w.engine(i).status().size_bytes == LARGE));
        assert_eq!(w.nodes[0].device_size, SIZE);
        w.nodes[0].meta_held = true;
        w.until("their records", LIMIT, |w| (1..3).all(|i| w.nodes[i].metas.is_empty()));
        w.crash(2, true);
        w.crash(0, true);
        w.nodes[0].meta_held = false;
        w.start(0);
        lead(&mut w, 0, 2);
        w.until("resync", LIMIT, |w| w.peer(0, 1).resynced);
        let sizes = [0, 1].map(|i| w.engine(i).status().size_bytes);
        assert_eq!(sizes[0], sizes[1], "seed {seed}");
        assert_eq!(w.nodes[0].device_size, sizes[0], "seed {seed}: what is not on the disk does not count");
        taken_back += u64::from(sizes[1] == SIZE);
        w.start(2);
        w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
        w.until("resync", LIMIT, |w| w.peer(0, 2).resynced);
        equal(&w, LARGE);
    }
    assert!(taken_back > 0, "its record was durable each time");
}

/// The same, and beta leads: it offers what it agreed to, and alpha follows before anything is copied.
#[test]
fn whoever_takes_over_goes_on_with_what_it_agreed_to() {
    let mut w = world(2, SIZE, 10);
    grow_all(&mut w, LARGE);
    w.until("the word", LIMIT, |w| w.engine(1).status().size_bytes == LARGE);
    w.nodes[0].meta_held = true;
    w.until("its record", LIMIT, |w| w.nodes[1].metas.is_empty());
    w.crash(0, true);
    w.nodes[0].meta_held = false;
    lead(&mut w, 1, 2);
    assert_eq!(w.nodes[1].device_size, LARGE);
    assert!(w.write(1, NEW, 4));
    w.start(0);
    w.until("resync", LIMIT, |w| w.peer(1, 0).resynced);
    w.until("growth", LIMIT, |w| grown(w, 1, LARGE));
    assert_eq!(w.nodes[0].disk.get(NEW), 4);
    equal(&w, LARGE);
    assert!(w.nodes[1].filled > 0, "the filesystem is the new leader's affair");
}

/// From one page of bitmap per peer to four: every slot moves. A replica that is away has bits, which must not.
#[test]
fn what_a_peer_lacks_is_known_in_the_new_metadata_file() {
    let (small, large) = (120 << 20, 400 << 20);
    for torn in [false, true] {
        let mut w = World::new(3, small, 11);
        w.promote_first(0);
        w.admit(0, 1, 1);
        w.admit(0, 2, 1);
        w.crash(2, false);
        let members = vec![w.member(1)];
        w.until("absence", LIMIT, |w| !w.peer(0, 2).resynced);
        w.desire(0, Role::Primary, 1, members, false);
        for block in [3, 20_000, small / BLOCK - 1] {
            assert!(w.write(0, block, block + 1));
        }
        let before = w.nodes[0].meta.len();
        grow_all(&mut w, large);
        if torn {
            w.until("a new file under way", LIMIT, |w| {
                w.nodes[0].metas.iter().any(|(_, whole, _)| whole.is_some())
            });
        } else {
            w.until("a new file", LIMIT, |w| w.nodes[0].meta.len() > before);
            w.run_for(Duration::from_millis(100));
            assert_eq!(w.peer(0, 2).dirty_bytes, 3 * BLOCK);
        }
        w.crash(0, true);
        w.start(0);
        w.until("attach", LIMIT, |w| w.is_attached(0));
        assert!(w.alarms.is_empty(), "{:?}", w.alarms);
        let dirty = w.peer(0, 2).dirty_bytes;
        assert!((3 * BLOCK..16 << 20).contains(&dirty), "{dirty} bytes are marked");
        lead(&mut w, 0, 2);
        w.start(2);
        w.until("resync", LIMIT, |w| w.peer(0, 2).resynced && w.peer(0, 1).resynced);
        assert!(w.peer(0, 2).copied_bytes < small / 2, "not all of it");
        w.until("growth", LIMIT, |w| grown(w, 0, large));
        equal(&w, small);
        assert_eq!(w.nodes[2].disk.get(20_000), 20_001);
    }
}

/// The process of the leader dies and its device is gone on with, larger than it was left.
#[test]
fn a_device_that_was_left_is_taken_over_with_the_new_size() {
    for steps in (0..200).step_by(5) {
        let mut w = world(2, SIZE, 2000 + steps);
        w.nodes[0].keeps = true;
        grow_all(&mut w, LARGE);
        for _ in 0..steps {
            w.step();
        }
        let members = w.engine(0).status().required;
        w.crash(0, false);
        w.start(0);
        w.until("attach", LIMIT, |w| w.is_attached(0));
        let token = w.desire(0, Role::Primary, 1, members, false);
        w.serve(0, 1, Duration::from_secs(1_000_000));
        w.until("resumption", LIMIT, |w| w.nodes[0].done.contains_key(&token));
        assert!(w.nodes[0].taken_over, "{:?}", w.nodes[0].done[&token]);
        w.until("growth", LIMIT, |w| grown(w, 0, LARGE));
        assert!(w.write(0, NEW, 3));
    }
}

#[test]
fn a_primary_without_a_disk_does_not_grow() {
    let mut w = world(2, SIZE, 12);
    w.nodes[0].broken = true;
    assert!(!w.write(0, 1, 2) || w.engine(0).status().disk == DiskState::Diskless);
    w.until("detaching", LIMIT, |w| w.engine(0).status().disk == DiskState::Diskless);
    grow_all(&mut w, LARGE);
    waits(&mut w, 0, &format!("{} has no disk", name(0)));
    w.run_for(Duration::from_secs(2));
    assert_eq!(w.nodes[0].device_size, SIZE);
}
