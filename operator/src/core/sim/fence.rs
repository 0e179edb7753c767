//! Power switches: a fence agent that works or fails, one at a time in the cluster, and what must hold with them.

use super::scenarios::{judge, settled};
use super::unit::Input;
use super::world::{Flight, Options, Switch, World};
use crate::core::group::{Event, FenceOutcome};
use baton_replicator::types::NodeName;

impl World {
    /// The lock in etcd, then the switch.
    pub(super) fn switch_off(
        &mut self,
        by: usize,
        incarnation: u64,
        id: u64,
        node: &NodeName,
        read: (i64, i64),
    ) {
        let leader = self.etcd.leader.as_ref().map_or(0, |l| l.revision);
        let insync = self.etcd.insync.as_ref().map_or(0, |l| l.revision);
        let target = self.hosts.iter().position(|h| h.name == *node).expect("a host");
        let free = self.switching.is_none() && self.reaches_etcd(by) && read == (leader, insync);
        let takes = self.opts.switch.map_or(0, |s| s.takes);
        if free {
            self.switching = Some(by);
            self.note(by, format_args!("switches {node} off"));
            self.send(takes, Flight::Switched { by, incarnation, id, target });
        } else {
            self.turn(by, Input::Group(Event::NodeFenced(id, FenceOutcome::Busy("not now".into()))));
        }
    }

    pub(super) fn switched(&mut self, by: usize, incarnation: u64, id: u64, target: usize) {
        self.switching = None;
        // An agent that died took the program that it ran with it.
        if self.hosts[by].agent.as_ref().is_none_or(|a| a.incarnation != incarnation) {
            return;
        }
        assert_ne!(by, target, "nobody switches himself off");
        let works = self.opts.switch.is_some_and(|s| s.works);
        let outcome = if works {
            self.power_cut(target);
            FenceOutcome::Off
        } else {
            FenceOutcome::Failed("no answer from the switch".into())
        };
        self.turn(by, Input::Group(Event::NodeFenced(id, outcome)));
    }
}

fn with(required: bool, works: bool) -> Options {
    Options { switch: Some(Switch { required, works, takes: 1500 }), ..Options::default() }
}

/// The leader's cables are pulled, its power is on.
fn cut_off(opts: Options) -> World {
    let mut w = settled(opts);
    w.isolate(0, true, true);
    w
}

#[test]
fn a_fast_takeover_waits_for_no_switch() {
    let mut w = cut_off(with(false, true));
    assert!(w.until(2500, |w| w.server() == Some(1)), "{}", w.story());
    assert!(w.hosts[0].power, "promises have settled it\n{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn where_it_is_required_nobody_serves_before_the_other_is_off() {
    for volume in [true, false] {
        let mut w = cut_off(Options { volume, ..with(true, true) });
        let mut both = false;
        for _ in 0..1200 {
            w.step();
            both |= w.server() == Some(1) && w.hosts[0].power;
        }
        let ok = w.server() == Some(1);
        assert!(ok && !both, "volume={volume}: off first\n{}", w.story());
        judge(&w, true, "").expect("harmless");
    }
}

#[test]
fn where_it_is_required_and_fails_nobody_takes_over_until_it_works() {
    // Its last write to etcd may not arrive late and remove the standby: nobody could take over then, switch or not.
    let mut w = settled(with(true, false));
    w.power_cut(0);
    w.run(60_000);
    assert_eq!(w.server(), None, "{}", w.story());
    let tried = w.trace.iter().filter(|l| l.contains("switches n0 off")).count();
    assert!((2..=6).contains(&tried), "tried {tried} times in a minute, with pauses\n{}", w.story());
    w.opts.switch = Some(Switch { required: true, works: true, takes: 1500 });
    assert!(w.until(60_000, |w| w.server() == Some(1)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn before_a_slow_takeover_the_former_leader_is_switched_off_and_a_dead_switch_holds_nothing_up() {
    for works in [true, false] {
        let mut w = settled(with(false, works));
        // The leader is gone and its key with it before the standby may try.
        w.power_cut(0);
        w.etcd.delete_leader();
        w.wake();
        assert!(w.until(8000, |w| w.server() == Some(1)), "works={works}\n{}", w.story());
        let tried = w.trace.iter().filter(|l| l.contains("switches n0 off")).count();
        assert_eq!(tried, 1, "works={works}\n{}", w.story());
        judge(&w, true, "").expect("harmless");
    }
}

/// Both hear nothing of each other and reach etcd: the classic fence race.
#[test]
fn two_nodes_never_switch_each_other_off() {
    for (volume, seed) in [(true, 1), (true, 2), (true, 3), (false, 1), (false, 2), (false, 3)] {
        let mut w = settled(Options { volume, seed, ..with(true, true) });
        w.isolate(0, true, false);
        w.run(20_000);
        let on = w.hosts.iter().filter(|h| h.power).count();
        assert!(on >= 1, "volume={volume}\n{}", w.story());
        assert!(w.server().is_some(), "volume={volume}\n{}", w.story());
        judge(&w, true, "").expect("harmless");
    }
}

#[test]
fn a_leader_that_handed_over_or_restarts_is_left_alone() {
    let mut w = settled(with(true, true));
    w.order_move(1);
    assert!(w.until(3000, |w| w.server() == Some(1)), "{}", w.story());
    w.run(10_000);
    assert!(w.hosts[0].power, "{}", w.story());
    judge(&w, true, "").expect("harmless");
}
