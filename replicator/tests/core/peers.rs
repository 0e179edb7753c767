//! The set of peers changes while the volume is attached and written to: one joins, one leaves, one takes another's place.

use crate::world::{BLOCK, World, data, name};
use baton_replicator::api::VerifyState;
use baton_replicator::core::engine::{Event, FrontOp, SessionId};
use baton_replicator::types::{DiskState, Role};
use std::collections::BTreeSet;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SIZE: u64 = 16 << 20;
/// A block in an extent that nothing else touches.
const FAR: u64 = 3000;
/// Slots of a replica's metadata.
const SLOTS: usize = 8;

fn set(peers: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
    peers.into_iter().collect()
}

fn wait(w: &mut World, what: &str, done: impl FnMut(&mut World) -> bool) {
    w.until(what, Duration::from_secs(20), done);
}

/// alpha leads at epoch 1, beta (and gamma) must acknowledge.
fn group(nodes: usize) -> World {
    let mut w = World::with_idle(nodes, SIZE, 23, 100 * MS);
    w.promote_first(0);
    for peer in 1..nodes {
        w.admit(0, peer, 1);
    }
    assert!(w.write(0, 1, 11) && w.flush(0));
    w
}

/// The agent takes everybody else out of the set.
fn require(w: &mut World, members: &[usize]) {
    let required = members.iter().map(|m| w.member(*m)).collect();
    let token = w.desire(0, Role::Primary, 1, required, false);
    wait(w, "the set in force", |w| w.nodes[0].done.contains_key(&token));
    assert_eq!(w.nodes[0].done[&token], Ok(()));
}

fn named(w: &World, i: usize) -> Vec<String> {
    w.engine(i).status().peers.into_iter().map(|p| p.node.to_string()).collect()
}

#[test]
fn a_peer_that_joins_is_filled_in_full_and_not_promotable_before() {
    let mut w = group(2);
    let gamma = w.join(set([0, 1]));
    w.start(gamma);
    assert_eq!(w.reconfigure(0, set([1, gamma])), Ok(true));
    assert_eq!(w.reconfigure(1, set([0, gamma])), Ok(true));
    let mut value = 100;
    let mut early = 0;
    wait(&mut w, "resynced", |w| {
        value += 1;
        assert!(w.write(0, value % 4000, value), "beta is enough");
        let status = w.engine(gamma).status();
        if status.disk == DiskState::Inconsistent && status.generation.0 != 0 {
            assert!(!w.peer(0, gamma).resynced && !w.peer(0, gamma).settled);
            let token = w.desire(gamma, Role::Primary, 1, Vec::new(), false);
            let refused = w.nodes[gamma].done.get(&token).cloned().unwrap_or(Ok(()));
            assert!(refused.is_err_and(|why| why.contains("unfinished resync")));
            early += 1;
        }
        w.peer(0, gamma).resynced
    });
    assert!(early > 0, "it was asked for while it was being filled");
    w.admit(0, gamma, 1);
    assert!(w.write(0, FAR, 33));
    w.crash(0, true);
    w.desire(gamma, Role::Primary, 2, Vec::new(), false);
    w.serve(gamma, 2, Duration::from_secs(99));
    wait(&mut w, "gamma leads", |w| w.nodes[gamma].device);
    for block in (0..4000).chain([FAR]) {
        assert_eq!(w.nodes[gamma].disk.get(block), w.nodes[0].disk.get(block), "block {block}");
    }
    assert_eq!(w.nodes[gamma].disk.get(FAR), 33);
}

#[test]
fn a_peer_that_must_acknowledge_is_not_left_out() {
    let mut w = group(2);
    let refused = w.reconfigure(0, set([])).expect_err("refused");
    assert!(refused.contains("beta") && refused.contains("take it out of the set first"), "{refused}");
    assert_eq!(named(&w, 0), ["beta"], "nothing was changed");
    assert!(w.write(0, 2, 22));
    assert_eq!(w.nodes[1].disk.get(2), 22);
}

#[test]
fn what_cannot_change_while_attached_is_refused() {
    let w = group(2);
    let engine = || w.engine(0).config().clone();
    let refused = |config| {
        let mut w = group(2);
        let now = w.now;
        w.nodes[0].engine.as_mut().and_then(|e| e.reconfigure(config, now).err()).unwrap_or_default()
    };
    let mut config = engine();
    config.size_bytes /= 2;
    assert!(refused(config).contains("shrinks"));
    let mut config = engine();
    config.metadata = "/elsewhere".into();
    assert!(refused(config).contains("metadata"));
    let mut config = engine();
    config.peer_timeout_ms = 900;
    assert_eq!(refused(config), "", "what can change does");
}

#[test]
fn a_peer_left_out_in_the_middle_of_writes_takes_nothing_along_and_comes_back_with_a_bitmap() {
    let mut w = group(3);
    w.stalled.insert((0, 1));
    let ids: Vec<u64> = (0..5).collect();
    for id in &ids {
        w.request(0, *id, FrontOp::Write((FAR + id) * BLOCK, data(500 + id, 1)));
    }
    w.run_for(100 * MS);
    assert!(ids.iter().all(|id| w.reply(0, *id).is_none()), "beta has not answered");
    assert!(w.reconfigure(0, set([2])).is_err(), "while it must acknowledge");
    // The agent takes it out of the set; the replicator hears of that and of the peers at the same moment.
    let required = vec![w.member(2)];
    w.desire(0, Role::Primary, 1, required, false);
    assert_eq!(w.reconfigure(0, set([2])), Ok(true));
    wait(&mut w, "the answers", |w| ids.iter().all(|id| w.nodes[0].replies.iter().any(|(r, _)| r == id)));
    assert!(ids.iter().all(|id| w.reply(0, *id).is_some_and(|r| r.is_ok())));
    assert_eq!(named(&w, 0), ["gamma"]);
    assert!(!w.nodes[0].dials.contains(&1), "it is not dialed any more");
    w.mend(0, 1);
    w.run_for(200 * MS);
    assert!(!w.links.iter().any(|l| l.open[0] && l.open[1] && l.ends.iter().any(|e| e.0 == 1)));
    assert!(w.write(0, 7, 77));
    assert_eq!((w.nodes[1].disk.get(7), w.nodes[2].disk.get(7)), (0, 77));
    assert!(ids.iter().all(|id| w.nodes[2].disk.get(FAR + id) == 500 + id));
    // It comes back: what it lacks is known.
    assert_eq!(w.reconfigure(0, set([1, 2])), Ok(true));
    assert!(w.peer(0, 1).dirty_bytes >= BLOCK && !w.peer(0, 1).resynced);
    wait(&mut w, "a resync", |w| w.peer(0, 1).resync.is_some());
    let total = w.peer(0, 1).resync.expect("a resync").total_bytes;
    assert!(total < SIZE, "not in full: {total}");
    w.admit(0, 1, 1);
    for block in (0..8).chain(FAR..FAR + 5) {
        assert_eq!(w.nodes[1].disk.get(block), w.nodes[0].disk.get(block), "block {block}");
    }
}

#[test]
fn leaving_a_peer_out_that_is_away_is_a_change_of_status() {
    let mut w = group(2);
    w.cut(0, 1);
    require(&mut w, &[]);
    assert_eq!(w.reconfigure(0, set([])), Ok(true), "or the agent would go on showing it");
    assert!(named(&w, 0).is_empty());
    assert_eq!(w.reconfigure(0, set([])), Ok(false), "nothing changes");
}

#[test]
fn a_session_of_a_peer_that_was_left_out_is_closed() {
    let mut w = group(2);
    require(&mut w, &[]);
    assert_eq!(w.reconfigure(0, set([])), Ok(true));
    // It was let in a moment before the configuration changed.
    let session = SessionId(1_000_000);
    let engine = w.nodes[0].engine.as_mut().expect("it runs");
    let actions = engine.handle(Event::SessionOpened { session, peer: name(1) }, w.now);
    assert!(format!("{actions:?}").contains("not a peer of this volume"), "{actions:?}");
}

#[test]
fn a_verify_does_not_wait_for_a_peer_that_was_left_out() {
    let mut w = World::with(3, SIZE, 29, 100 * MS, 64 << 10);
    w.promote_first(0);
    w.admit(0, 1, 1);
    w.admit(0, 2, 1);
    assert_eq!(w.verify(0, 7, false), Ok(()));
    require(&mut w, &[2]);
    assert!(w.verified(0).state.is_running(), "the test is too slow for the volume");
    assert_eq!(w.reconfigure(0, set([2])), Ok(true));
    wait(&mut w, "the end", |w| !w.verified(0).state.is_running());
    assert_eq!(w.verified(0).state, VerifyState::Done, "gamma was compared");
    assert_eq!(w.verify(0, 8, false), Ok(()));
    require(&mut w, &[]);
    assert_eq!(w.reconfigure(0, set([])), Ok(true));
    let v = w.verified(0);
    assert_eq!(v.state, VerifyState::Aborted);
    assert!(v.reason.is_some_and(|r| r.contains("gamma is no peer")), "nobody is left to compare with");
}

/// alpha leads with beta; gamma was in sync, was left out, and lacks block FAR. Six more, who never come, fill the
/// slots.
fn full() -> World {
    let mut w = group(3);
    require(&mut w, &[1]);
    assert_eq!(w.reconfigure(0, set([1])), Ok(true));
    assert!(w.write(0, FAR, 33) && w.flush(0));
    wait(&mut w, "an empty log", |w| w.engine(0).status().activity_log_extents == 0);
    for _ in 0..SLOTS - 2 {
        w.join(set([]));
    }
    assert_eq!(w.reconfigure(0, set([1].into_iter().chain(3..3 + SLOTS - 2))), Ok(true));
    w.run_for(100 * MS);
    w
}

#[test]
fn there_is_room_for_eight_peers_and_slots_of_those_left_out_are_given_on() {
    let mut w = full();
    let last = w.join(set([0]));
    w.start(last);
    let refused = w.reconfigure(0, set(1..=last)).expect_err("nine peers");
    assert!(refused.contains("no room"), "{refused}");
    let seven = [1].into_iter().chain(3..3 + SLOTS - 2);
    assert_eq!(w.reconfigure(0, set(seven.chain([last]))), Ok(true), "in gamma's place");
    wait(&mut w, "resync", |w| w.peer(0, last).resync.is_some());
    assert_eq!(w.peer(0, last).resync.map(|r| r.total_bytes), Some(SIZE));
    w.admit(0, last, 1);
    assert_eq!((w.nodes[last].disk.get(1), w.nodes[last].disk.get(FAR)), (11, 33));
}

#[test]
fn a_crash_while_a_slot_is_given_on_does_not_make_its_old_owner_clean() {
    for durable in 0..3 {
        let mut w = full();
        let last = w.join(set([0]));
        w.nodes[0].meta_held = true;
        let seven = [1].into_iter().chain(3..3 + SLOTS - 2);
        assert_eq!(w.reconfigure(0, set(seven.chain([last]))), Ok(true));
        for _ in 0..durable {
            assert!(w.finish_meta(0), "pages, then the superblock");
        }
        w.nodes[0].metas.clear();
        w.crash(0, false);
        w.nodes[0].meta_held = false;
        // Meanwhile somebody has put gamma back into the specification.
        w.nodes[0].peers = set([1, 2]);
        w.start(0);
        wait(&mut w, "attached", |w| w.is_attached(0));
        w.desire(0, Role::Primary, 2, Vec::new(), false);
        w.serve(0, 2, Duration::from_secs(99));
        wait(&mut w, "gamma is back", |w| w.peer(0, 2).resynced);
        assert_eq!(w.nodes[2].disk.get(FAR), 33, "{durable} transactions were durable");
    }
}

#[test]
fn a_replica_with_every_slot_taken_attaches_with_a_peer_that_is_new() {
    let mut w = full();
    let last = w.join(set([0]));
    w.crash(0, false);
    w.nodes[0].peers = set([1, last]);
    w.start(0);
    w.start(last);
    wait(&mut w, "attached", |w| w.is_attached(0) && w.is_attached(last));
    w.desire(0, Role::Primary, 2, Vec::new(), false);
    w.serve(0, 2, Duration::from_secs(99));
    w.admit(0, last, 2);
    assert_eq!(w.nodes[last].disk.get(FAR), 33);
}
