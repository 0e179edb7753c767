//! Every trap that needs no data path, by its name in the list of traps: harmless with its rule, and a failure
//! without it.

use super::scenarios::{heals, judge, settled};
use super::world::{Late, Options};
use crate::core::group::{AfterPowerLoss, State};
use crate::core::record::TxnKind;
use crate::core::rules::{Detail, Rule, Rules};
use crate::status::NodeMode;

fn without(rule: Rule) -> Options {
    Options { rules: Rules::without(rule), ..Options::default() }
}

/// Runs a scenario with all rules, where it must succeed, and without one, where it must fail.
fn needs(rule: Rule, scenario: impl Fn(Options) -> Result<(), String>) {
    if let Err(why) = scenario(Options::default()) {
        panic!("with all rules: {why}");
    }
    assert!(scenario(without(rule)).is_err(), "the scenario must fail without {rule:?}");
}

#[test]
fn late_commit() {
    needs(Rule::Settle, |opts| {
        let mut w = settled(opts);
        // The handover reaches etcd long after it was given up.
        w.late.push(Late { node: 0, kind: "Handover", after: 3000 });
        w.order_move(1);
        let ok = w.until(2000, |w| w.state(0) == Some(State::HandingOver));
        judge(&w, ok, "stops for the handover")?;
        w.cancel_move();
        let ok = w.until(2500, |w| w.server() == Some(0) && w.state(0) == Some(State::Serving));
        judge(&w, ok, "resumes after the timeout")?;
        let served = w.served;
        w.run(5000);
        let gap = 5000 - (w.served - served);
        judge(&w, gap == 0, &format!("the late commit takes the group away for {gap} ms"))
    });
}

#[test]
fn own_late_exclusion() {
    needs(Rule::Reread, |opts| {
        let mut w = settled(opts);
        // What an earlier, late request of its own changed makes the guard of the next one fail.
        w.touch_insync();
        w.power_cut(1);
        let served = w.served;
        w.run(4000);
        judge(&w, w.in_sync() == ["n0"], "removes it in the end")?;
        judge(&w, w.served - served == 4000, "a failed guard is no deposition")
    });
}

#[test]
fn foreign_etcd_restored() {
    needs(Rule::Identity, |opts| {
        let mut w = settled(opts);
        let backup = w.etcd.clone();
        w.isolate(1, true, false);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "goes on alone")?;
        w.run(1000);
        // The leader dies, and someone restores etcd from a backup that says {n0, n1}.
        w.power_cut(0);
        w.restore(backup, 0xbad);
        w.run(15_000);
        judge(&w, w.server().is_none(), "n1 lacks acknowledged writes and may not serve")?;
        let advice = w.view(1).and_then(|v| v.advice).unwrap_or_default();
        judge(&w, advice.contains("baton recover"), "and says what to do")
    });
}

/// Found by the campaign: the leader reads the restored record, and dies before it has written its own there. The standby
/// took the revision in its heartbeats for that of a record it had written, and trusted the restored one.
#[test]
fn foreign_etcd_is_trusted_when_the_leader_has_written_its_record_not_before() {
    let scenario = |opts| {
        let mut w = settled(opts);
        let backup = w.etcd.clone();
        w.isolate(1, true, false);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "goes on alone")?;
        w.run(1000);
        w.isolate(1, false, false);
        w.repl_cut.insert((0, 1));
        w.late.push(Late { node: 0, kind: "Rewrite", after: 60_000 });
        w.restore(backup, 0xbad);
        w.run(400);
        w.power_cut(0);
        w.run(15_000);
        judge(&w, w.server().is_none(), "n1 lacks acknowledged writes and may not serve")
    };
    scenario(Options::default()).expect("nobody serves");
    let rules = Rules::bending(Detail::WrittenRecord);
    assert!(scenario(Options { rules, ..Options::default() }).is_err(), "that is what the rule is for");
}

/// Found by the campaign: an agent that was frozen wakes with the record and the silence of before, and etcd was restored to
/// just that record meanwhile. Its takeover passed all guards.
#[test]
fn foreign_etcd_restored_while_an_agent_was_frozen() {
    let mut w = settled(Options::default());
    let backup = w.etcd.clone();
    w.hosts[1].paused = true;
    assert!(w.until(2000, |w| w.in_sync() == ["n0"]), "{}", w.story());
    w.run(1000);
    w.etcd_up = false;
    w.run(1400);
    w.restore(backup, 0xbad);
    w.run(1400);
    w.etcd_up = true;
    w.hosts[1].paused = false;
    let served = w.served;
    w.run(10_000);
    assert_eq!(w.server(), Some(0), "{}", w.story());
    assert_eq!(w.served - served, 10_000, "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

/// Found by the campaign: a standby whose watch has died takes over by a record that etcd was restored to since it read it. All
/// guards held; only the answer says that it is another cluster's.
#[test]
fn foreign_etcd_restored_between_a_read_and_a_takeover() {
    // When the standby read last is a matter of chance.
    let scenario = |nameless, phase| {
        let mut w = settled(Options::default());
        w.etcd.nameless = nameless;
        let backup = w.etcd.clone();
        w.hosts[1].watch_lag = None;
        w.run(phase);
        w.isolate(0, true, false);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "goes on alone")?;
        w.etcd_cut.insert(0);
        w.restore(backup, 0xbad);
        w.run(15_000);
        judge(&w, w.server() == Some(0), "n1 lacks acknowledged writes and may not serve")
    };
    let phases = || (0..2000).step_by(100);
    for phase in phases() {
        scenario(false, phase).expect("n0 goes on");
    }
    assert!(phases().any(|phase| scenario(true, phase).is_err()), "that is what the name is looked at for");
}

#[test]
fn foreign_etcd_wiped_is_written_again_by_the_serving_leader() {
    let mut w = settled(Options::default());
    let mut empty = super::etcd::Etcd::new();
    empty.modes.clear();
    w.restore(empty, 0xf00);
    let served = w.served;
    w.run(10_000);
    assert_eq!(w.served - served, 10_000, "{}", w.story());
    assert_eq!(w.in_sync(), ["n0", "n1"], "{}", w.story());
    // And takeovers work again.
    w.power_cut(0);
    assert!(w.until(3000, |w| w.server() == Some(1)), "{}", w.story());
    judge(&w, true, "").expect("harmless");
}

#[test]
fn not_serving_promise() {
    needs(Rule::AnyAck, |opts| {
        let mut w = settled(opts);
        // n0 hears nothing of n1, cannot remove it, and fences; its heartbeats go on and say "not serving".
        w.etcd_cut.insert(0);
        w.cut.insert((1, 0));
        let ok = w.until(6000, |w| w.state(1) == Some(State::Campaigning));
        judge(&w, ok, "n1 counts the silence of a leader that serves")?;
        // Now the last acknowledgement gets through: n0 may serve on it for a while.
        w.deliver(1, 0);
        w.run(400);
        w.cut.clear();
        let ok = w.until(5000, |w| w.server().is_some());
        judge(&w, ok, "someone serves")?;
        w.run(3000);
        judge(&w, w.server().is_some(), "and goes on")
    });
}

#[test]
fn forgotten_promise() {
    needs(Rule::StartAck, |opts| {
        let mut w = settled(opts);
        // The standby restarts, and hears nothing from the moment it is up.
        w.etcd_cut.insert(0);
        w.cut.insert((0, 1));
        w.crash_agent(1);
        w.run(50);
        w.start_agent(1);
        w.run(900);
        judge(&w, true, "")?;
        w.run(3000);
        judge(&w, w.server() == Some(1), "it takes over in the end")
    });
}

#[test]
fn set_as_read() {
    needs(Rule::Union, |opts| {
        let mut w = settled(opts);
        w.power_cut(1);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "alone")?;
        // The admission commits; its answer, and everything else, stays away from n0.
        w.late.push(Late { node: 0, kind: "Admit", after: 10 });
        w.power_on(1);
        let ok = w.until(10_000, |w| w.in_sync().len() == 2);
        judge(&w, ok, "admitted")?;
        w.isolate(0, true, true);
        w.run(6000);
        judge(&w, w.server() == Some(1), "n1 takes over, n0 has fenced")
    });
}

#[test]
fn stale_echo() {
    needs(Rule::Incarnation, |opts| {
        let mut w = settled(opts);
        w.cut.extend([(0, 1), (1, 0)]);
        w.crash_agent(0);
        w.run(30);
        w.start_agent(0);
        let ok = w.until(400, |w| w.state(0) == Some(State::Waiting));
        judge(&w, ok, "resumes")?;
        w.etcd_cut.insert(0);
        let epoch = w.etcd.insync.as_ref().map(|i| i.value.epoch).unwrap_or_default();
        // Echoes of an earlier life, with send times of another clock, keep arriving.
        for _ in 0..60 {
            w.replay_ack(1, 0, epoch);
            w.run(50);
        }
        judge(&w, w.server() == Some(1), "n1 takes over; old echoes entitle nobody")
    });
}

#[test]
fn rebooted_leader() {
    needs(Rule::Boot, |opts| {
        let mut w = settled(opts);
        w.run(500);
        // Power-cycles within deadtime; what it had not flushed is gone, the standby still has it.
        w.power_cut(0);
        w.run(300);
        w.power_on(0);
        w.run(8000);
        judge(&w, w.server() == Some(1), "the one that has everything leads")
    });
}

#[test]
fn sole_survivor() {
    needs(Rule::PowerLoss, |opts| {
        let mut w = settled(opts);
        w.power_cut(1);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "alone")?;
        w.run(500);
        w.power_cut(0);
        w.run(2000);
        w.power_on(0);
        let ok = w.until(15_000, |w| w.server() == Some(0));
        judge(&w, ok, "the only in-sync node leads again")
    });
}

#[test]
fn site_wide_power_cut() {
    needs(Rule::PowerLoss, |opts| {
        let mut w = settled(opts);
        w.power_cut(0);
        w.power_cut(1);
        w.run(3000);
        w.power_on(0);
        w.power_on(1);
        let ok = w.until(20_000, |w| w.server().is_some() && w.in_sync().len() == 2);
        judge(&w, ok, "service comes back")
    });
}

#[test]
fn after_power_loss_decides_when_a_member_stays_away() {
    for (policy, serves) in [(AfterPowerLoss::Wait, false), (AfterPowerLoss::Start, true)] {
        let mut w = settled(Options { after_power_loss: policy, ..Options::default() });
        w.power_cut(0);
        w.power_cut(1);
        w.run(3000);
        w.power_on(1);
        w.run(9000);
        assert_eq!(w.server(), None, "nobody before initdead\n{}", w.story());
        w.run(8000);
        assert_eq!(w.server().is_some(), serves, "{policy:?}\n{}", w.story());
    }
}

#[test]
fn one_card_fails() {
    needs(Rule::Release, |opts| {
        let mut w = settled(opts);
        // The card with etcd and replication dies; heartbeats go on over another link.
        w.etcd_cut.insert(0);
        w.repl_cut.insert((0, 1));
        let ok = w.until(8000, |w| w.server() == Some(1));
        judge(&w, ok, "the other node serves")?;
        heals(&mut w)
    });
}

#[test]
fn hung_core() {
    needs(Rule::Vouch, |opts| {
        let mut w = settled(opts);
        w.hosts[0].hung = true;
        let ok = w.until(6000, |w| w.server() == Some(1));
        judge(&w, ok, "a hung core loses the group")?;
        heals(&mut w)
    });
}

#[test]
fn lease_reborn() {
    needs(Rule::LeaseKey, |opts| {
        let mut w = settled(Options { volume: false, nodes: 3, ..opts });
        // n2 is gone for good, so only the lease keeps it off the slow path.
        w.isolate(2, true, false);
        let ok = w.until(2000, |w| w.in_sync() == ["n0", "n1"]);
        judge(&w, ok, "n2 is removed")?;
        w.power_cut(1);
        let ok = w.until(2000, |w| w.in_sync() == ["n0"]);
        judge(&w, ok, "n1 is removed")?;
        // etcd loses the lease and the key; n0 gets a new lease, but its re-creation is stuck.
        w.late.push(Late { node: 0, kind: "Recreate", after: 60_000 });
        w.etcd.leases.clear();
        w.etcd.delete_leader();
        w.run(4000);
        judge(&w, w.server() != Some(0) || !w.entitled(2), "one at most")?;
        heals(&mut w)
    });
}

#[test]
fn new_candidate() {
    needs(Rule::Candidates, |opts| {
        // n2 is new: it knows the others, they do not know it.
        let mut w = settled(Options { volume: false, nodes: 3, newcomer: true, ..opts });
        // n0's lease runs out; it goes on with the promises of all candidates, which is n1.
        w.etcd_cut.insert(0);
        w.run(12_000);
        judge(&w, w.server() == Some(0), "n0 serves with n1's promise; n2 may not campaign")
    });
}

#[test]
fn lost_key() {
    needs(Rule::RecreateEpoch, |opts| {
        let mut w = settled(opts);
        // n0 sees nothing for a while; n1 takes over; then the key vanishes under n1.
        w.isolate(0, true, true);
        let ok = w.until(4000, |w| w.server() == Some(1));
        judge(&w, ok, "n1 took over")?;
        w.etcd_cut.insert(1);
        w.etcd.delete_leader();
        w.etcd_cut.remove(&0);
        w.run(1500);
        w.etcd_cut.remove(&1);
        w.run(3000);
        let stolen =
            w.etcd.log.iter().any(|(_, who, kind)| *who == w.hosts[0].name && *kind == TxnKind::Recreate);
        judge(&w, !stolen, "n0 does not write a key for an epoch that is over")?;
        judge(&w, w.server() == Some(1), "n1 goes on")
    });
}

#[test]
fn handover_race() {
    // The guard of the handover fails: the record changed while the group was being stopped.
    let mut w = settled(Options::default());
    w.order_move(1);
    w.until(2000, |w| w.state(0) == Some(State::HandingOver));
    w.run(30);
    w.touch_insync();
    w.etcd.target = None;
    let ok = w.until(3000, |w| w.server().is_some() && w.state(0) != Some(State::HandingOver));
    judge(&w, ok, "resumes or hands over").expect("serves");
    // The successor's agent is gone, and its lease with it: etcd refuses, the group is resumed.
    let mut w = settled(Options::default());
    let n1 = w.hosts[1].name.clone();
    w.order_move(1);
    w.until(2000, |w| w.state(0) == Some(State::HandingOver));
    let held = w.etcd.alive.get(&n1).copied().unwrap_or(0);
    w.etcd.leases.remove(&held);
    let ok = w.until(3000, |w| w.server().is_some());
    judge(&w, ok, "resumes").expect("serves");
    w.run(3000);
    judge(&w, w.server().is_some(), "goes on").expect("serves");
}

#[test]
fn slow_winner_keeps_loser() {
    needs(Rule::WinnerAlone, |opts| {
        let mut w = settled(opts);
        // n0 is cut off with a write that only it has; n1 wins on the slow path.
        w.isolate(0, true, true);
        w.etcd.delete_leader();
        let n1 = w.hosts[1].name.clone();
        let ok = w.until(8000, |w| w.etcd.leader.as_ref().is_some_and(|l| l.value.node == n1));
        judge(&w, ok, "n1 leads")?;
        judge(&w, w.in_sync() == ["n1"], "the set is the winner alone until the other has resynced")?;
        heals(&mut w)
    });
}

#[test]
fn clock_gap_standby() {
    needs(Rule::Gap, |opts| {
        let mut w = settled(opts);
        // n1 stands still; n0 cannot remove it and has to fence.
        w.etcd_cut.insert(0);
        w.hosts[1].paused = true;
        w.run(2000);
        // It wakes; its socket has overflowed, and its timers look as if everyone had been silent.
        w.hosts[1].paused = false;
        w.drop_inbox(1);
        w.run(3000);
        let took =
            w.etcd.log.iter().any(|(_, who, kind)| *who == w.hosts[1].name && *kind == TxnKind::Takeover);
        judge(&w, !took && w.server() == Some(0), "n1 promises again, n0 goes on")
    });
}

#[test]
fn diskless_member() {
    needs(Rule::LeaveDiskless, |opts| {
        let mut w = settled(opts);
        w.set_mode(1, NodeMode::Standby);
        w.run(300);
        w.fail_disk(0);
        // It goes on through n1; then n1 is lost, and n0's old disk comes back.
        w.run(2000);
        w.isolate(1, true, false);
        w.run(3000);
        judge(&w, w.in_sync().contains(&"n1".to_owned()), "the last member with a disk stays in the set")?;
        w.power_cut(0);
        w.run(300);
        w.power_on(0);
        w.run(5000);
        judge(&w, w.server() != Some(0), "what came back lacks acknowledged writes")?;
        w.set_mode(1, NodeMode::Online);
        heals(&mut w)
    });
}
