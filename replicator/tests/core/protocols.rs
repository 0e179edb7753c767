//! Protocol A: a peer that gets every write and that nobody waits for. Protocol B: why it is served as C.

use crate::bugs::Bug;
use crate::world::{BLOCK, World, data};
use baton_replicator::api::Membership;
use baton_replicator::core::engine::FrontOp;
use baton_replicator::types::{ConnectionState, DiskState, Protocol, Role};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;
const FAR: u64 = 3000;

/// Everybody is told by which protocol beta is reached.
fn reach(w: &mut World, protocol: Protocol) {
    w.protocols.insert(1, protocol);
    for i in 0..w.nodes.len() {
        let peers = w.nodes[i].peers.clone();
        w.reconfigure(i, peers).expect("protocols change while in use");
    }
}

/// alpha leads, beta has everything and is reached by A.
fn pair(seed: u64) -> World {
    let mut w = World::with_idle(2, SIZE, seed, 100 * MS);
    reach(&mut w, Protocol::A);
    w.promote_first(0);
    w.until("connected", LONG, |w| w.peer(0, 1).connection == ConnectionState::Connected);
    assert!(w.write(0, 1, 11) && w.flush(0));
    w.until("beta has it", LONG, |w| w.peer(0, 1).unacked_bytes == 0);
    assert_eq!(w.nodes[1].disk.get(1), 11);
    // Flushed there and cleaned, too: what is dirty from now on was written from now on.
    assert!(w.flush(0));
    w.until("an empty log", LONG, |w| w.engine(0).status().activity_log_extents == 0);
    w
}

#[test]
fn a_node_reached_by_a_gets_everything_and_never_counts() {
    let mut w = World::with_idle(2, SIZE, 1, 100 * MS);
    reach(&mut w, Protocol::A);
    w.promote_first(0);
    let (mut connected, end) = (false, w.now.plus(LONG));
    while !(connected && w.peer(0, 1).unacked_bytes == 0 && w.nodes[1].disk.get(7) == 70) {
        let p = w.peer(0, 1);
        assert!(!p.resynced && !p.settled, "{}", w.describe());
        assert_eq!(p.protocol, Protocol::A);
        if !connected && p.connection == ConnectionState::Connected {
            connected = true;
            assert_eq!(p.disk, DiskState::UpToDate);
            w.request(0, 1, FrontOp::Write(7 * BLOCK, data(70, 1)));
        }
        assert!(w.now < end, "{}", w.describe());
        w.step();
    }
}

#[test]
fn nobody_waits_for_it_and_its_death_costs_what_was_on_its_way() {
    let mut w = pair(2);
    w.stalled.insert((0, 1));
    for block in 0..3 {
        assert!(w.write(0, FAR + block, 30 + block), "acknowledged while nothing arrives there");
    }
    assert!(w.flush(0));
    // alpha is gone for good: beta lacks exactly what was on its way, and a person may say that this is all right.
    w.crash(0, true);
    w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    w.until("promotion", LONG, |w| w.nodes[1].device);
    assert_eq!(w.nodes[1].disk.get(1), 11);
    assert!((0..3).all(|b| w.nodes[1].disk.get(FAR + b) == 0));
}

#[test]
fn what_it_missed_is_in_its_bitmap_and_copied_when_it_is_back() {
    let mut w = pair(3);
    w.stalled.insert((0, 1));
    assert!(w.write(0, FAR, 33));
    w.cut(0, 1);
    assert!(w.write(0, FAR + 1, 34));
    w.run_for(50 * MS);
    assert_eq!(w.peer(0, 1).dirty_bytes, 2 * BLOCK, "the one on its way and the one after that");
    w.mend(0, 1);
    w.until("resync", LONG, |w| w.peer(0, 1).resync.is_some());
    assert_eq!(w.peer(0, 1).resync.expect("a resync").total_bytes, 2 * BLOCK);
    w.until("connected", LONG, |w| w.peer(0, 1).connection == ConnectionState::Connected);
    assert_eq!((w.nodes[1].disk.get(FAR), w.nodes[1].disk.get(FAR + 1)), (33, 34));
    assert!(!w.peer(0, 1).resynced);
}

#[test]
fn the_protocol_of_a_node_changes_while_it_is_in_use() {
    let mut w = World::with_idle(2, SIZE, 4, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    reach(&mut w, Protocol::A);
    assert!(!w.peer(0, 1).resynced, "the agent takes it out of the set now");
    // Until then it is waited for: what is acknowledged is there.
    w.stalled.insert((0, 1));
    assert!(!w.write(0, FAR, 33));
    w.desire(0, Role::Primary, 1, Vec::new(), false);
    w.run_for(100 * MS);
    assert!(w.write(0, FAR + 1, 34));
    w.mend(0, 1);
    reach(&mut w, Protocol::B);
    w.admit(0, 1, 1);
    assert!(w.write(0, FAR + 2, 35));
    assert_eq!(w.nodes[1].disk.get(FAR + 2), 35, "B is no weaker than C");
}

#[test]
fn a_slow_one_is_given_its_time_and_a_stuck_one_is_not() {
    for (protocol, patience) in [(Protocol::A, 7), (Protocol::C, 1)] {
        let mut w = pair(5);
        reach(&mut w, protocol);
        // beta answers pings and writes nothing.
        w.nodes[1].store_held = true;
        let begun = w.now;
        w.request(0, 77, FrontOp::Write(FAR * BLOCK, data(33, 1)));
        w.until("the answer", LONG, |w| w.reply(0, 77).is_some());
        w.until("patience ends", LONG, |w| w.peer(0, 1).connection != ConnectionState::Connected);
        let took = w.now.since(begun);
        assert!(took > 500 * MS * patience && took < 500 * MS * (patience + 1), "{protocol:?}: {took:?}");
        assert_eq!(w.peer(0, 1).dirty_bytes, BLOCK);
    }
}

/// The only disk is at a node that nobody is to wait for: it is waited for all the same, until somebody has taken it out, and the
/// agents take out no last member with a disk.
#[test]
fn a_diskless_leader_waits_for_its_last_member_even_if_that_is_reached_by_a() {
    let mut w = World::with_idle(2, SIZE, 7, 100 * MS);
    w.promote_first(0);
    w.admit(0, 1, 1);
    assert!(w.write(0, 1, 11));
    w.nodes[0].broken = true;
    w.request(0, 50, FrontOp::Write(2 * BLOCK, data(22, 1)));
    w.until("diskless", LONG, |w| w.engine(0).status().disk == DiskState::Diskless);
    w.nodes[0].membership = Membership::Left;
    let beta = vec![w.member(1)];
    w.desire(0, Role::Primary, 1, beta, false);
    w.until("its answer", LONG, |w| w.reply(0, 50).is_some());
    reach(&mut w, Protocol::A);
    assert!(!w.peer(0, 1).resynced, "an agent that looks for a successor is told");
    assert!(w.write(0, 3, 33) && w.flush(0));
    assert_eq!(w.nodes[1].disk.durable(3), 33);
    w.request(0, 51, FrontOp::Read(w.range(3, 1)));
    w.until("a read through beta", LONG, |w| w.reply(0, 51).is_some_and(|r| r == Ok(data(33, 1))));
    w.stalled.insert((0, 1));
    w.request(0, 52, FrontOp::Write(4 * BLOCK, data(44, 1)));
    w.run_for(3000 * MS);
    assert!(w.nodes[0].replies.is_empty(), "not acknowledged anywhere but in this process");
    w.mend(0, 1);
    w.until("its answer", LONG, |w| w.reply(0, 52).is_some_and(|r| r.is_ok()));
    assert_eq!(w.nodes[1].disk.get(4), 44);
}

/// beta, a member, has got eight writes and put none of them on its disk when its process dies, and alpha's host right after it.
/// Says what was acknowledged, and what beta has when it leads: an agent may promote it, for a process that restarts
/// keeps its boot id.
fn received_and_not_written(bug: Option<Bug>) -> (Vec<u64>, World) {
    let mut w = World::with_idle(2, SIZE, 6, 100 * MS);
    reach(&mut w, Protocol::B);
    w.bug = bug;
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.nodes[1].store_held = true;
    for block in 0..8 {
        w.request(0, block, FrontOp::Write((FAR + block) * BLOCK, data(40 + block, 1)));
    }
    w.until("beta has got them", LONG, |w| w.nodes[1].store.len() == 8);
    w.run_for(100 * MS);
    let acknowledged = (0..8).filter(|id| w.reply(0, *id).is_some()).collect();
    let member = w.member(1);
    w.crash(1, false);
    w.crash(0, true);
    w.nodes[1].store_held = false;
    w.start(1);
    w.until("attached", LONG, |w| w.is_attached(1));
    assert_eq!(w.member(1), member, "still in etcd's in-sync set");
    let token = w.desire(1, Role::Primary, 2, Vec::new(), false);
    w.serve(1, 2, Duration::from_secs(999));
    w.until("promotion", LONG, |w| w.nodes[1].done.contains_key(&token));
    assert_eq!(w.nodes[1].done[&token], Ok(()));
    (acknowledged, w)
}

/// Decision 0016: DESIGN's invariant 2 with an acknowledgement on receipt, and with what B is served as.
#[test]
fn an_acknowledgement_on_receipt_loses_what_a_restarted_member_had_not_written() {
    let (acknowledged, w) = received_and_not_written(Some(Bug::AcknowledgedOnReceipt));
    assert_eq!(acknowledged.len(), 8, "DRBD's B answers");
    let lost = acknowledged.iter().filter(|block| w.nodes[1].disk.get(FAR + **block) == 0).count();
    assert!(lost > 0, "a member survives with its disk, is promoted, and lacks what was acknowledged");

    let (acknowledged, _) = received_and_not_written(None);
    assert_eq!(acknowledged, Vec::<u64>::new(), "Baton's B waits until they are written");
}
