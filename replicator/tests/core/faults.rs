//! Faults below the replicator: disks that fail, hang or are full, on either side.

use crate::world::{BLOCK, World, data, name};
use baton_replicator::api::Membership;
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{ConnectionState, DiskState, Role};
use bytes::Bytes;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIZE: u64 = 16 << 20;
/// A block in an extent that nothing else touches.
const FAR: u64 = 3000;

/// The first leads, the others are members, and nothing is in their logs.
fn members(nodes: usize, seed: u64) -> World {
    let mut w = World::with_idle(nodes, SIZE, seed, 100 * MS);
    w.promote_first(0);
    (1..nodes).for_each(|peer| w.admit(0, peer, 1));
    assert!(w.write(0, 1, 11) && w.flush(0) && w.write(0, 1, 12));
    wait(&mut w, "short logs", |w| (0..nodes).all(|n| w.engine(n).status().activity_log_extents <= 1));
    w
}

fn wait(w: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    w.until(what, Duration::from_secs(20), done);
}

fn disk(w: &World, i: usize) -> DiskState {
    w.engine(i).status().disk
}

/// What the agent says once etcd's in-sync set is without the leader.
fn leaves(w: &mut World, i: usize, number: u64) {
    w.nodes[i].membership = Membership::Left;
    let required = w.engine(i).status().required;
    w.desire(i, Role::Primary, number, required, false);
}

fn ask(w: &mut World, id: u64, op: FrontOp) -> u64 {
    w.request(0, id, op);
    id
}

fn answer(w: &mut World, id: u64) -> Bytes {
    let mut found = None;
    wait(w, "an answer", |w| {
        found = w.reply(0, id);
        found.is_some()
    });
    found.expect("an answer").expect("no error reaches the application")
}

fn value(data: &Bytes, block: usize) -> u64 {
    u64::from_le_bytes(data[block * 4096..block * 4096 + 8].try_into().expect("eight bytes"))
}

fn read(w: &mut World, block: u64) -> u64 {
    let id = 3_000_000 + w.now.0;
    let range = w.range(block, 1);
    ask(w, id, FrontOp::Read(range));
    let data = answer(w, id);
    value(&data, 0)
}

#[test]
fn a_primary_whose_disk_fails_goes_on_through_its_peer_without_an_error() {
    let mut w = members(2, 1);
    // Everything at once, some of it in the store already.
    let range = w.range(0, 8);
    let ids = [
        ask(&mut w, 10, FrontOp::Read(range)),
        ask(&mut w, 11, FrontOp::Write(2 * BLOCK, data(22, 1))),
        ask(&mut w, 12, FrontOp::Flush),
        ask(&mut w, 13, FrontOp::Write(FAR * BLOCK, data(33, 2))),
        ask(&mut w, 14, FrontOp::Write(FAR * BLOCK, data(34, 1))),
    ];
    w.nodes[0].broken = true;
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    let range = w.range(FAR, 2);
    ask(&mut w, 15, FrontOp::Read(range));
    w.run_for(300 * MS);
    // Trap diskless-member: nothing leaves while the set may name a node without a disk.
    assert!(w.nodes[0].replies.is_empty(), "{:?}", w.nodes[0].replies);
    let frozen = w.engine(0).status().frozen.expect("frozen");
    assert!(frozen.contains("left the in-sync set"), "{frozen}");
    leaves(&mut w, 0, 1);
    ids.into_iter().for_each(|id| drop(answer(&mut w, id)));
    let data = answer(&mut w, 15);
    assert_eq!((value(&data, 0), value(&data, 1)), (34, 33), "as written before it was asked");
    assert_eq!(w.engine(0).status().frozen, None);
    assert!(w.write(0, 5, 55) && w.flush(0));
    assert_eq!(read(&mut w, 5), 55);
    assert_eq!((w.nodes[1].disk.durable(5), w.nodes[1].disk.durable(FAR)), (55, 34));
    assert_ne!(w.nodes[0].disk.get(5), 55, "not from the disk that failed");
    // In good order to the one that has everything.
    let token = w.desire(0, Role::Secondary, 1, Vec::new(), false);
    wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.nodes[0].done[&token], Ok(()));
    assert_eq!((w.engine(0).status().role, disk(&w, 0)), (Role::Secondary, DiskState::Diskless));
    let token = w.desire(0, Role::Primary, 2, Vec::new(), false);
    assert!(w.nodes[0].done[&token].is_err(), "a node without a disk is not promoted");
}

#[test]
fn a_read_sees_every_write_before_it_and_a_large_one_comes_in_parts() {
    let mut w = members(2, 2);
    w.nodes[0].broken = true;
    ask(&mut w, 9, FrontOp::Flush);
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    leaves(&mut w, 0, 1);
    for i in 0..40 {
        // Not waited for: the read passes nothing that was sent before it.
        ask(&mut w, 100 + i, FrontOp::Write((i % 4) * BLOCK, data(500 + i, 1)));
        let range = w.range(i % 4, 1);
        ask(&mut w, 200 + i, FrontOp::Read(range));
    }
    for i in 0..40 {
        let data = answer(&mut w, 200 + i);
        assert!(value(&data, 0) >= 500 + i, "read {i} found {}", value(&data, 0));
    }
    let blocks = (3 << 20) / BLOCK + 5;
    let range = w.range(0, blocks);
    let data = answer_to_read(&mut w, range);
    assert_eq!(data.len() as u64, blocks * BLOCK);
    assert!((0..4).all(|b| value(&data, b) == 536 + b as u64));
}

fn answer_to_read(w: &mut World, range: baton_replicator::core::range::Range) -> Bytes {
    ask(w, 300, FrontOp::Read(range));
    answer(w, 300)
}

#[test]
fn reads_are_asked_of_another_peer_when_one_goes() {
    let mut w = members(3, 3);
    assert!(w.write(0, 7, 77));
    w.nodes[0].broken = true;
    ask(&mut w, 9, FrontOp::Flush);
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    leaves(&mut w, 0, 1);
    drop(answer(&mut w, 9));
    for silent in [1, 2] {
        w.nodes[silent].paused = true;
        // It does not answer; after peer_timeout the other one is asked.
        assert_eq!(read(&mut w, 7), 77);
        w.nodes[silent].paused = false;
        wait(&mut w, "back", |w| w.peer(0, silent).resynced);
    }
    w.nodes[1].paused = true;
    w.nodes[2].paused = true;
    let range = w.range(7, 1);
    ask(&mut w, 400, FrontOp::Read(range));
    w.run_for(2000 * MS);
    assert!(w.reply(0, 400).is_none(), "frozen, not failed");
    w.nodes[2].paused = false;
    let data = answer(&mut w, 400);
    assert_eq!(value(&data, 0), 77);
}

/// The rule of the trap `diskless-member`, the other way round: the last member with a disk is not given up.
#[test]
fn without_a_member_a_diskless_primary_acknowledges_nothing() {
    let mut w = members(2, 4);
    w.nodes[0].broken = true;
    ask(&mut w, 9, FrontOp::Flush);
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    leaves(&mut w, 0, 1);
    drop(answer(&mut w, 9));
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    assert!(!w.write(0, 5, 55));
    let frozen = w.engine(0).status().frozen.expect("frozen");
    assert!(frozen.contains("no other node holds the data"), "{frozen}");
}

#[test]
fn a_member_that_may_lack_something_is_turned_away() {
    for restarted in [false, true] {
        let mut w = members(2, 5);
        assert!(w.write(0, FAR, 33), "acknowledged, not flushed");
        w.nodes[0].broken = true;
        w.request(0, 9, FrontOp::Write(6 * BLOCK, data(66, 1)));
        wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
        leaves(&mut w, 0, 1);
        drop(answer(&mut w, 9));
        w.cut(0, 1);
        assert!(!w.write(0, 5, 55), "it waits for beta");
        if restarted {
            w.crash(1, false);
            w.start(1);
        }
        w.mend(0, 1);
        w.run_for(3000 * MS);
        let peer = w.peer(0, 1);
        assert_eq!(peer.connection == ConnectionState::Connected, !restarted, "{}", w.describe());
        assert_eq!(w.nodes[1].disk.get(5) == 55, !restarted);
        if restarted {
            assert!(peer.reason.is_some_and(|r| r.contains("no disk to copy them from")));
            assert!(w.engine(0).status().frozen.is_some());
        }
    }
}

/// Comes back with the metadata that was on the disk when it failed, whether or not a last mark could be written.
#[test]
fn a_replica_that_was_diskless_is_copied_in_full_when_it_comes_back() {
    for (meta_broken, seed) in [(false, 6), (true, 7)] {
        let mut w = members(2, seed);
        w.nodes[0].broken = true;
        w.nodes[0].meta_broken = meta_broken;
        ask(&mut w, 9, FrontOp::Flush);
        wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
        leaves(&mut w, 0, 1);
        drop(answer(&mut w, 9));
        // Flushed, and forgotten by beta's log: nothing but the generation says that alpha lacks it.
        for block in 0..20 {
            assert!(w.write(0, FAR + block, 100 + block));
        }
        assert!(w.flush(0) && w.write(0, 1, 13) && w.flush(0));
        wait(&mut w, "beta's log forgets", |w| w.engine(1).status().activity_log_extents <= 1);
        let token = w.desire(0, Role::Secondary, 1, Vec::new(), false);
        wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
        w.crash(0, false);
        (w.nodes[0].broken, w.nodes[0].meta_broken) = (false, false);
        w.start(0);
        wait(&mut w, "attached", |w| w.is_attached(0));
        let promotable = matches!(disk(&w, 0), DiskState::Consistent | DiskState::UpToDate);
        assert_eq!(promotable, meta_broken, "the mark, if it could be written");
        w.desire(1, Role::Primary, 2, Vec::new(), false);
        w.serve(1, 2, Duration::from_secs(999));
        wait(&mut w, "inconsistent", |w| disk(w, 0) == DiskState::Inconsistent);
        wait(&mut w, "resync", |w| w.peer(1, 0).resynced);
        assert!((0..20).all(|b| w.nodes[0].disk.get(FAR + b) == 100 + b), "{}", w.describe());
        assert_eq!(w.nodes[0].disk.get(1), 13);
    }
}

/// The agent defends this too; it is told in every command where it stands.
#[test]
fn what_has_left_the_set_is_not_promoted() {
    let mut w = members(2, 8);
    w.crash(0, false);
    w.start(0);
    wait(&mut w, "attached", |w| w.is_attached(0));
    w.nodes[0].membership = Membership::Left;
    let token = w.desire(0, Role::Primary, 1, Vec::new(), false);
    assert!(w.nodes[0].done[&token].as_ref().is_err_and(|e| e.contains("not in the in-sync set")));
}

#[test]
fn a_metadata_error_and_a_hang_lead_the_same_way() {
    let mut w = members(2, 9);
    w.nodes[0].meta_broken = true;
    ask(&mut w, 10, FrontOp::Write(FAR * BLOCK, data(33, 1)));
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    leaves(&mut w, 0, 1);
    drop(answer(&mut w, 10));
    assert!(w.write(0, 6, 66) && w.flush(0));

    for meta in [false, true] {
        let mut w = members(2, 10);
        (w.nodes[0].hangs, w.nodes[0].meta_held) = (!meta, meta);
        let begun = w.now;
        ask(&mut w, 10, FrontOp::Write(FAR * BLOCK, data(33, 1)));
        w.until("diskless", Duration::from_secs(40), |w| disk(w, 0) == DiskState::Diskless);
        let took = w.now.since(begun);
        assert!((Duration::from_secs(30)..Duration::from_secs(31)).contains(&took), "disk_timeout: {took:?}");
        let reason = w.engine(0).status().disk_reason.expect("a reason");
        assert!(reason.contains("has taken longer than 30s"), "{reason}");
        leaves(&mut w, 0, 1);
        drop(answer(&mut w, 10));
    }
}

#[test]
fn a_peer_of_an_older_release_cannot_be_read_from_and_the_error_shows() {
    let mut w = World::with_idle(2, SIZE, 11, 100 * MS);
    w.nodes[1].old = true;
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.nodes[0].broken = true;
    assert!(!w.write(0, 3, 33));
    assert_eq!(disk(&w, 0), DiskState::Failed);
}

#[test]
fn demotion_works_while_nothing_may_be_acknowledged() {
    let mut w = members(2, 12);
    w.nodes[0].broken = true;
    w.request(0, 9, FrontOp::Write(6 * BLOCK, data(66, 1)));
    wait(&mut w, "diskless", |w| disk(w, 0) == DiskState::Diskless);
    w.cut(0, 1);
    let token = w.desire(0, Role::Secondary, 1, Vec::new(), true);
    wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.reply(0, 9), Some(Err(())));
    assert_eq!(disk(&w, 0), DiskState::Diskless);
}

#[test]
fn a_full_primary_freezes_and_goes_on_when_there_is_space() {
    let mut w = members(2, 13);
    w.nodes[0].no_space = true;
    assert!(!w.write(0, FAR, 33), "not acknowledged, and no error");
    let status = w.engine(0).status();
    assert!(status.full && status.disk == DiskState::UpToDate);
    assert!(status.frozen.is_some_and(|r| r.contains("the backing store is full")));
    let at = 1;
    assert_eq!(read(&mut w, at), 12, "reads go on");
    w.run_for(5000 * MS);
    assert_eq!(w.peer(0, 1).connection, ConnectionState::Connected);
    assert!(w.nodes[0].replies.is_empty());
    w.nodes[0].no_space = false;
    drop(answer(&mut w, 1_000_033));
    let status = w.engine(0).status();
    assert_eq!((status.full, status.frozen, status.disk_reason), (false, None, None));
    assert_eq!((w.nodes[0].disk.get(FAR), w.nodes[1].disk.get(FAR)), (33, 33));
    // It may be demoted meanwhile, too.
    w.nodes[0].no_space = true;
    assert!(!w.write(0, FAR, 44));
    let token = w.desire(0, Role::Secondary, 1, Vec::new(), true);
    wait(&mut w, "demotion", |w| w.nodes[0].done.contains_key(&token));
    assert!(!w.engine(0).status().full);
}

#[test]
fn a_full_secondary_leaves_says_why_and_comes_back_by_itself() {
    let mut w = members(2, 14);
    w.nodes[1].no_space = true;
    assert!(!w.write(0, FAR, 33), "it waits for beta until the agent takes beta out");
    let status = w.engine(1).status();
    assert!(status.full && status.disk_reason.is_some_and(|r| r.contains("full")));
    let why = |w: &World| w.peer(0, 1).reason.is_some_and(|r| r.contains("its backing store is full"));
    wait(&mut w, "the reason on the primary", |w| why(w));
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    drop(answer(&mut w, 1_000_033));
    assert!(w.write(0, FAR + 1, 34));
    w.run_for(3000 * MS);
    assert_ne!(disk(&w, 1), DiskState::Inconsistent, "what it has stays a whole");
    w.nodes[1].no_space = false;
    w.admit(0, 1, 1);
    assert_eq!((w.nodes[1].disk.get(FAR), w.nodes[1].disk.get(FAR + 1)), (33, 34));
    assert!(!w.engine(1).status().full);
}

#[test]
fn a_full_secondary_is_promoted_without_waiting_for_space() {
    let mut w = members(2, 15);
    w.nodes[1].no_space = true;
    assert!(!w.write(0, FAR, 33));
    w.crash(0, true);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    wait(&mut w, "promotion", |w| w.nodes[1].device);
    w.nodes[1].no_space = false;
    assert!(w.write(1, FAR, 44));
    w.start(0);
    w.admit(1, 0, 2);
    assert_eq!((w.nodes[0].disk.get(FAR), w.nodes[1].disk.get(FAR)), (44, 44));
}

/// Whatever happens to a secondary's disk, the primary hears of it within peer_timeout (500 ms here) and goes on as soon
/// as the agent has taken the secondary out.
#[test]
fn a_secondarys_disk_never_stops_the_primary_for_longer_than_peer_timeout_and_a_command() {
    for fault in 0..5 {
        let mut w = members(2, 20 + fault);
        let node = &mut w.nodes[1];
        match fault {
            0 => node.broken = true,
            1 => node.meta_broken = true,
            2 => node.hangs = true,
            3 => node.meta_held = true,
            _ => node.no_space = true,
        }
        let begun = w.now;
        w.request(0, 9, FrontOp::Write(FAR * BLOCK, data(33, 1)));
        let lost = |w: &World| !w.peer(0, 1).resynced;
        w.until("the primary knows", Duration::from_secs(1), |w| lost(w));
        w.desire(0, Role::Primary, 1, Vec::new(), false);
        drop(answer(&mut w, 9));
        let took = w.now.since(begun);
        assert!(took < 700 * MS, "fault {fault}: {took:?}");
        assert_eq!(disk(&w, 0), DiskState::UpToDate);
        // And it stays so however long the other side hangs: it is not required any more.
        for round in 0..30 {
            w.run_for(100 * MS);
            assert!(w.write(0, FAR + 1, 100 + round), "fault {fault}: {}", w.describe());
        }
        assert!(!w.engine(0).status().peers.iter().any(|p| p.node == name(1) && p.resynced));
    }
}
