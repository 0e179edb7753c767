//! What operators see: planned moves, restarts, lost nodes, outages of etcd.

use super::world::{Options, World};
use crate::core::group::State;
use crate::status::NodeMode;
use baton_replicator::types::BootId;

/// A cluster that serves on n0 with everyone in sync.
pub(super) fn settled(opts: Options) -> World {
    let nodes = if opts.newcomer { opts.nodes - 1 } else { opts.nodes };
    let mut w = World::new(opts);
    assert!(w.until(8000, |w| w.server() == Some(0) && w.in_sync().len() == nodes), "{}", w.story());
    w.run(300);
    w
}

pub(super) fn judge(w: &World, ok: bool, what: &str) -> Result<(), String> {
    match &w.violation {
        Some(v) => Err(format!("{v}\n{}", w.story())),
        None if !ok => Err(format!("{what}\n{}", w.story())),
        None => Ok(()),
    }
}

/// Everything heals, and one node serves with everyone in sync.
pub(super) fn heals(w: &mut World) -> Result<(), String> {
    w.heal();
    let nodes = w.hosts.len();
    let ok = w.until(60_000, |w| w.server().is_some() && w.in_sync().len() == nodes);
    judge(w, ok, "does not heal")
}

#[test]
fn first_start_serves_and_admits_the_standby() {
    let mut w = World::new(Options::default());
    assert!(w.until(6000, |w| w.server().is_some()), "{}", w.story());
    assert!(w.until(6000, |w| w.in_sync() == ["n0", "n1"]), "{}", w.story());
    assert!(w.until(1000, |w| w.acked.len() > 20), "writes are acknowledged\n{}", w.story());
}

#[test]
fn power_cut_of_the_leader_is_over_in_two_seconds() {
    let mut w = settled(Options::default());
    w.power_cut(0);
    assert!(w.until(2000, |w| w.server() == Some(1)), "{}", w.story());
    w.power_on(0);
    assert!(w.until(10_000, |w| w.in_sync().len() == 2), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn a_lost_standby_is_removed_within_warntime_and_comes_back() {
    let mut w = settled(Options::default());
    w.power_cut(1);
    assert!(w.until(800, |w| w.in_sync() == ["n0"]), "{}", w.story());
    let (before, served) = (w.acked.len(), w.served);
    w.run(2000);
    assert!(w.acked.len() > before, "writes go on alone");
    assert_eq!(w.served - served, 2000, "no gap in service\n{}", w.story());
    w.power_on(1);
    assert!(w.until(10_000, |w| w.in_sync().len() == 2), "{}", w.story());
}

#[test]
fn etcd_down_for_a_minute_stops_nothing() {
    for volume in [true, false] {
        let mut w = settled(Options { volume, ..Options::default() });
        w.etcd_up = false;
        let (served, acked) = (w.served, w.acked.len());
        w.run(60_000);
        assert_eq!(w.served - served, 60_000, "volume={volume}\n{}", w.story());
        assert!(!volume || w.acked.len() > acked + 100);
        w.etcd_up = true;
        w.run(6000);
        assert_eq!(w.state(0), Some(State::Serving), "{}", w.story());
        judge(&w, w.etcd.leader.is_some(), "the key is there again").expect("harmless");
    }
}

#[test]
fn pulled_cable_fences_before_the_other_serves() {
    let mut w = settled(Options::default());
    w.isolate(0, true, true);
    assert!(w.until(2500, |w| w.server() == Some(1)), "{}", w.story());
    heals(&mut w).expect("heals");
}

#[test]
fn agent_restarts_move_nothing() {
    for i in [0, 1] {
        let mut w = settled(Options::default());
        let served = w.served;
        w.crash_agent(i);
        w.run(300);
        w.start_agent(i);
        w.run(12_000);
        assert_eq!(w.served - served, 12_300, "agent {i}: no gap\n{}", w.story());
        assert_eq!(
            w.etcd.insync.as_ref().map(|r| r.value.epoch.number),
            Some(1),
            "no takeover\n{}",
            w.story()
        );
    }
}

#[test]
fn an_orderly_restart_may_take_seconds() {
    let mut w = settled(Options::default());
    w.restarting(0);
    assert!(w.until(1000, |w| w.restart_covered(0)), "promises are long\n{}", w.story());
    let served = w.served;
    w.crash_agent(0);
    w.run(6000);
    w.start_agent(0);
    w.run(6000);
    assert_eq!(w.served - served, 12_000, "no gap\n{}", w.story());
    assert_eq!(w.state(0), Some(State::Serving), "{}", w.story());
}

#[test]
fn a_standby_that_restarts_remembers_its_long_promise() {
    let mut w = settled(Options::default());
    w.restarting(0);
    assert!(w.until(1000, |w| w.restart_covered(0)), "{}", w.story());
    w.crash_agent(0);
    w.run(500);
    w.crash_agent(1);
    w.run(100);
    w.start_agent(1);
    w.run(6000);
    assert_ne!(w.server(), Some(1), "the leader still serves on that promise\n{}", w.story());
    assert!(w.until(8000, |w| w.server() == Some(1)), "it does not come back: taken over\n{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn move_there_and_back() {
    let mut w = settled(Options::default());
    for (from, to) in [(0, 1), (1, 0)] {
        let served = w.served;
        w.order_move(to);
        assert!(w.until(3000, |w| w.server() == Some(to)), "{from} to {to}\n{}", w.story());
        assert!(w.served - served > 0);
        assert!(w.until(2000, |w| w.in_sync().len() == 2 && w.etcd.target.is_none()), "{}", w.story());
        w.run(1000);
    }
    judge(&w, true, "").expect("harmless");
}

#[test]
fn standby_mode_drains_and_online_does_not_move_back() {
    let mut w = settled(Options::default());
    w.set_mode(0, NodeMode::Standby);
    assert!(w.until(3000, |w| w.server() == Some(1)), "{}", w.story());
    w.set_mode(0, NodeMode::Online);
    w.run(3000);
    assert_eq!(w.server(), Some(1), "{}", w.story());
}

/// A group that is disabled is stopped in order, and stays stopped whoever restarts or dies, until it is enabled.
#[test]
fn what_is_disabled_stays_stopped_through_restarts_and_starts_when_it_is_enabled() {
    let mut w = settled(Options::default());
    w.disable(true);
    assert!(w.until(3000, |w| w.etcd.leader.is_none()), "{}", w.story());
    let served = w.served;
    w.crash_agent(0);
    w.crash_agent(1);
    w.run(3000);
    w.start_agent(0);
    w.start_agent(1);
    w.run(15_000);
    w.power_cut(0);
    w.run(15_000);
    w.power_on(0);
    w.start_agent(0);
    w.run(15_000);
    assert!(w.etcd.leader.is_none() && w.served == served, "{}", w.story());
    w.disable(false);
    assert!(w.until(30_000, |w| w.server().is_some() && w.in_sync().len() == 2), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

/// Its leader's agent dies while it stops: what was resumed in place is stopped, and nobody else takes it over.
#[test]
fn a_leader_that_restarts_while_it_is_disabled_stops_what_it_finds() {
    let mut w = settled(Options::default());
    let leader = w.server().expect("serves");
    w.crash_agent(leader);
    w.disable(true);
    w.run(300);
    w.start_agent(leader);
    assert!(w.until(20_000, |w| w.etcd.leader.is_none()), "{}", w.story());
    let served = w.served;
    w.run(10_000);
    assert_eq!(w.served, served, "{}", w.story());
    w.disable(false);
    assert!(w.until(30_000, |w| w.server().is_some()), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn a_node_that_is_not_in_sync_is_not_promoted() {
    let mut w = settled(Options::default());
    w.repl_cut.insert((0, 1));
    assert!(w.until(2000, |w| w.in_sync() == ["n0"]), "{}", w.story());
    w.run(500);
    w.power_cut(0);
    w.run(8000);
    assert_eq!(w.server(), None, "{}", w.story());
    let view = w.view(1).expect("agent");
    assert!(view.reason.contains("not in sync: only n0 may lead"), "{}", view.reason);
    assert!(view.advice.is_some_and(|a| a.contains("start n0")));
    heals(&mut w).expect("the leader comes back");
}

#[test]
fn cold_start_waits_for_the_preferred_node_up_to_initdead() {
    let mut w = World::new(Options::default());
    w.power_cut(0);
    w.run(9000);
    assert_eq!(w.server(), None, "{}", w.story());
    assert!(w.until(4000, |w| w.server() == Some(1)), "{}", w.story());
}

#[test]
fn three_nodes_lose_two_one_after_the_other() {
    let mut w = settled(Options { nodes: 3, ..Options::default() });
    w.power_cut(0);
    assert!(w.until(3000, |w| w.server().is_some() && w.in_sync().len() == 2), "{}", w.story());
    w.run(2000);
    let second = w.server().expect("serves");
    w.power_cut(second);
    assert!(w.until(3000, |w| w.server().is_some()), "{}", w.story());
    heals(&mut w).expect("heals");
}

#[test]
fn nobody_in_sync_is_left_behind_by_a_changed_boot_id() {
    let mut w = settled(Options::default());
    // Only the replica of the standby reboots: it is no member any more, at once.
    w.hosts[1].replica.boot = BootId(9999);
    assert!(w.until(600, |w| w.in_sync() == ["n0"]), "{}", w.story());
    assert!(w.until(5000, |w| w.in_sync().len() == 2), "{}", w.story());
}

#[test]
fn a_leader_whose_disk_fails_leaves_the_set_goes_on_and_hands_over() {
    let mut w = settled(Options::default());
    w.run(500);
    w.fail_disk(0);
    assert!(w.until(500, |w| w.in_sync() == ["n1"]), "{}", w.story());
    assert_eq!(w.server(), Some(0), "it goes on through its peer");
    assert!(w.until(3000, |w| w.server() == Some(1)), "{}", w.story());
    assert_eq!(w.state(0), Some(State::Standby), "{}", w.story());
    w.run(3000);
    assert_eq!(w.in_sync(), ["n1"], "nothing of it counts");
    // A power cycle brings the old disk back, with old data: it is brought up to date first.
    w.power_cut(0);
    w.run(300);
    w.power_on(0);
    assert!(w.until(10_000, |w| w.in_sync().len() == 2), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn a_leader_without_a_disk_serves_while_nobody_is_ready_to_take_over() {
    let mut w = settled(Options::default());
    w.set_mode(1, NodeMode::Standby);
    w.run(500);
    w.fail_disk(0);
    w.run(3000);
    let (served, acked) = (w.served, w.acked.len());
    w.run(5000);
    assert_eq!(w.served - served, 5000, "{}", w.story());
    assert!(w.acked.len() > acked + 20, "writes are acknowledged by the peer alone");
    let reason = w.view(0).expect("agent").reason;
    assert!(reason.contains("should move") && reason.contains("n1 is not online"), "{reason}");
    w.set_mode(1, NodeMode::Online);
    assert!(w.until(3000, |w| w.server() == Some(1)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn a_leader_without_a_disk_whose_agent_restarts_gives_way() {
    let mut w = settled(Options::default());
    w.set_mode(1, NodeMode::Standby);
    w.run(300);
    w.fail_disk(0);
    assert!(w.until(1000, |w| w.in_sync() == ["n1"]), "{}", w.story());
    w.crash_agent(0);
    w.run(300);
    w.set_mode(1, NodeMode::Online);
    w.start_agent(0);
    assert!(w.until(10_000, |w| w.server() == Some(1)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn a_leader_without_a_disk_whose_peer_goes_makes_room_for_it() {
    let mut w = settled(Options::default());
    w.set_mode(1, NodeMode::Standby);
    w.run(300);
    w.fail_disk(0);
    assert!(w.until(1000, |w| w.in_sync() == ["n1"]), "{}", w.story());
    w.power_cut(1);
    assert!(w.until(10_000, |w| w.state(0) == Some(State::Standby)), "{}", w.story());
    assert_eq!(w.in_sync(), ["n1"], "the last member with a disk stays");
    w.set_mode(1, NodeMode::Online);
    w.power_on(1);
    assert!(w.until(15_000, |w| w.server() == Some(1)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn three_nodes_one_without_a_disk_and_one_gone() {
    let mut w = settled(Options { nodes: 3, ..Options::default() });
    w.set_mode(1, NodeMode::Standby);
    w.set_mode(2, NodeMode::Standby);
    w.run(300);
    w.fail_disk(0);
    assert!(w.until(1000, |w| w.in_sync() == ["n1", "n2"]), "{}", w.story());
    w.power_cut(1);
    assert!(w.until(2000, |w| w.in_sync() == ["n2"]), "one with a disk is left\n{}", w.story());
    let acked = w.acked.len();
    w.run(2000);
    assert!(w.acked.len() > acked, "{}", w.story());
    w.set_mode(2, NodeMode::Online);
    assert!(w.until(3000, |w| w.server() == Some(2)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}
