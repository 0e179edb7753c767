//! The gate against a real kernel: what a neighbour gets to hear of an address after serve-until, with the address
//! still on the interface.

use crate::fixture::{
    self, Answers, Ask, Heartbeat, Net, OWN, TABLE, VIP4, VIP6, clock, group, ip, run, vips, wait_for,
};
use crate::undisturbed::undisturbed_as_root;
use crate::{Reaped, SOON};
use baton_operator::net::gate::{self, GateEvent, GateState};
use baton_operator::net::{GateConfig, KeeperEvent};
use baton_replicator::types::Instant;
use futures::executor::block_on;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// The kernel's clock for timeouts ticks every 4 ms where this was written, 10 ms at most; the rest is for a machine
/// with more to do than cores.
const EXACT: Duration = Duration::from_millis(50);
/// A fencetime that ends well before a lifetime of the kernel does.
const SHORT: Duration = Duration::from_millis(500);
/// The documented bound of bringing rules back.
const RESTORED: Duration = Duration::from_millis(500);

fn nft(net: &Net, command: &str) -> String {
    run(&format!("ip netns exec {} nft {command}", net.here))
}

fn gate_event(event: &KeeperEvent, wanted: &GateEvent) -> bool {
    matches!(event, KeeperEvent::Gate(e) if e == wanted)
}

/// Trap `frozen-vip`: the whole process stops; nobody hears of its addresses after serve-until, although both still
/// stand on the interface for about a second.
#[test]
fn a_frozen_process_falls_silent_at_serve_until() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("gfrozen");
        let exe = std::env::current_exe().expect("this test");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &net.here])
            .arg(exe)
            .args(["--exact", "gate::child_that_says_its_serve_until", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .map(Reaped)
            .expect("child");
        let lines = BufReader::new(child.0.stdout.take().expect("stdout"));
        let last = Arc::new(std::sync::Mutex::new(Instant::ZERO));
        let sink = Arc::clone(&last);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some(until) = line.strip_prefix("until ").and_then(|n| n.parse().ok()) {
                    *sink.lock().expect("until") = Instant(until);
                }
            }
        });
        net.wait(VIP4, true, Duration::from_secs(10));
        net.wait(VIP6, true, SOON);
        let answers =
            [Ask::Echo4, Ask::Echo6, Ask::Arp, Ask::Neighbour].map(|ask| (ask, Answers::start(&net, ask)));
        std::thread::sleep(Duration::from_millis(700));
        let pid = rustix::process::Pid::from_child(&child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
        let stopped = clock();
        // What it had written before it stopped is read by then.
        std::thread::sleep(Duration::from_millis(200));
        let until = *last.lock().expect("until");
        assert!(until > stopped && until < stopped.plus(SHORT), "serve-until is ahead");
        while clock() < until.plus(EXACT) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let heard: Vec<(Ask, usize)> = answers.iter().map(|(ask, a)| (*ask, a.count())).collect();
        let (four, six) = (net.has(VIP4), net.has(VIP6));
        std::thread::sleep(Duration::from_millis(100));
        for ((ask, answers), (_, before)) in answers.iter().zip(heard) {
            assert_eq!(answers.count(), before, "{ask:?}: nothing more is heard {EXACT:?} after serve-until");
            let last = answers.last();
            let early = until.since(last);
            eprintln!(
                "{ask:?}: {before} answers, the last {early:?} before serve-until, {:?} after",
                last.since(until)
            );
            assert!(before > 50, "{ask:?} was answered before: {before}");
            // The gate is moved on every 100 ms.
            assert!(early < Duration::from_millis(250), "{ask:?}: not early either: {early:?}");
        }
        assert!(four && six, "the addresses were still there: it was not their lifetime");
    });
}

/// Run by the test above in a process of its own, inside the namespace. Ends by itself.
#[test]
#[ignore = "the child of another test"]
fn child_that_says_its_serve_until() {
    let gate = Some(fixture::gate());
    let keeper = baton_operator::net::AddressKeeper::start(ip(OWN), SHORT, clock, gate, |_| {});
    let keeper = Arc::new(keeper.expect("keeper"));
    keeper.set_until(&group(), clock().plus(SHORT));
    drop(keeper.hold(group(), vips()));
    let start = clock();
    while clock().since(start) < Duration::from_secs(20) {
        let until = clock().plus(SHORT);
        // Said first: what is in force is never later than what was said last.
        println!("until {}", until.0);
        keeper.set_until(&group(), until);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn whoever_flushes_the_rules_finds_them_back_and_nothing_stops() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("gflush");
        let (keeper, events) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");
        let answers = Answers::start(&net, Ask::Echo4);
        let whole = |rules: &str| rules.matches("counter").count() == 6 && rules.matches(VIP4).count() == 4;
        wait_for(RESTORED, "the rules", || whole(&nft(&net, "list ruleset")));
        let commands = [
            "flush ruleset".to_owned(),
            format!("delete table arp {TABLE}"),
            format!("flush table inet {TABLE}"),
            format!("flush chain inet {TABLE} from"),
            format!("flush set inet {TABLE} guarded4"),
        ];
        for (n, command) in commands.iter().enumerate() {
            nft(&net, command);
            wait_for(RESTORED, command, || whole(&nft(&net, "list ruleset")));
            wait_for(SOON, "reported", || events.count(|e| gate_event(e, &GateEvent::Restored)) == n + 1);
        }
        // Elements come back with the next transaction, and that somebody removed them is no reason for an alarm.
        nft(&net, &format!("flush set inet {TABLE} live4"));
        wait_for(RESTORED, "an element", || whole(&nft(&net, "list ruleset")));
        assert_eq!(keeper.gate().0, GateState::InForce);
        // What others keep is not ours.
        nft(&net, "add table inet other");
        std::thread::sleep(RESTORED);
        assert!(nft(&net, "list tables").contains("inet other"));
        assert_eq!(events.count(|e| gate_event(e, &GateEvent::Restored)), commands.len());
        assert!(
            answers.longest_gap() < Duration::from_millis(400),
            "{:?} without an answer",
            answers.longest_gap()
        );
    });
}

#[test]
fn an_address_elsewhere_is_none_of_its_business() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("gelse");
        let (keeper, _) = net.keeper();
        let answered = |from: &str, interface, ask| {
            let answers = Answers::to(from, interface, ask);
            std::thread::sleep(Duration::from_millis(300));
            answers.count() > 0
        };
        // On this host, and not to be served here.
        run(&format!(
            "ip -n {0} addr add {VIP4}/24 dev va; ip -n {0} addr add {VIP6}/64 dev va nodad",
            net.here
        ));
        for ask in [Ask::Echo4, Ask::Echo6, Ask::Arp, Ask::Neighbour] {
            assert!(!answered(&net.there, "vb", ask), "{ask:?}");
        }
        assert!(!answered(&net.here, "lo", Ask::Echo4), "local traffic is subject, too");
        assert!(answered(&net.there, "vb", Ask::Own), "what is no address of a group is not guarded");
        // At the neighbour's: this host is a client as any other.
        run(&format!(
            "ip -n {0} addr del {VIP4}/24 dev va; ip -n {0} addr del {VIP6}/64 dev va
             ip -n {1} addr add {VIP4}/24 dev vb; ip -n {1} addr add {VIP6}/64 dev vb nodad",
            net.here, net.there
        ));
        for ask in [Ask::Echo4, Ask::Echo6, Ask::Arp, Ask::Neighbour] {
            assert!(answered(&net.here, "va", ask), "{ask:?}");
        }
        // An address that left the specification.
        keeper.guard([ip(VIP6)]);
        wait_for(SOON, "guarded no more", || !nft(&net, "list ruleset").contains(VIP4));
        drop(Arc::into_inner(keeper).expect("last handle"));
        assert_eq!(nft(&net, "list tables").trim(), "", "nothing is held: nothing is left");
    });
}

#[test]
fn a_restart_leaves_the_gate_open_and_a_new_agent_finds_it() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("grestart");
        let (first, _) = net.keeper();
        let heartbeat = Heartbeat::start(&first);
        block_on(first.hold(group(), vips())).expect("hold");
        let answers = [Ask::Echo4, Ask::Echo6, Ask::Arp].map(|ask| (ask, Answers::start(&net, ask)));
        std::thread::sleep(SOON);
        heartbeat.stop();
        first.set_until(&group(), clock().plus(Duration::from_millis(4500)));
        block_on(first.linger(group(), Duration::from_secs(8))).expect("linger");
        drop(Arc::into_inner(first).expect("last handle"));
        assert!(nft(&net, "list tables").contains(TABLE));
        std::thread::sleep(Duration::from_millis(1500));
        let (second, events) = net.keeper();
        let up = second.hold(group(), vips());
        std::thread::sleep(Duration::from_millis(500));
        let heartbeat = Heartbeat::start(&second);
        block_on(up).expect("taken over");
        std::thread::sleep(Duration::from_secs(3));
        for (ask, answers) in &answers {
            let gap = answers.longest_gap();
            assert!(gap < Duration::from_millis(200), "{ask:?}: {gap:?} without an answer");
            assert!(answers.count() > 100, "{ask:?}");
        }
        assert_eq!(events.count(|e| gate_event(e, &GateEvent::InForce)), 1);

        // Released, it closes at once, whatever serve-until says.
        heartbeat.stop();
        second.set_until(&group(), clock().plus(Duration::from_secs(60)));
        block_on(second.release(group())).expect("release");
        run(&format!("ip -n {} addr add {VIP4}/24 dev va", net.here));
        wait_for(SOON, "closed", || nft(&net, "list ruleset").matches(VIP4).count() == 2);
        let silent = answers[0].1.count();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(answers[0].1.count(), silent);
    });
}

/// Serve-until that is pulled in closes the gate although the element would have stood for long.
#[test]
fn fencing_closes_at_once() {
    undisturbed_as_root(|| {
        let net = Net::with_neighbour("gclose");
        let (keeper, _) = net.keeper();
        keeper.set_until(&group(), clock().plus(Duration::from_secs(60)));
        block_on(keeper.hold(group(), vips())).expect("hold");
        assert_eq!(nft(&net, "list ruleset").matches(VIP6).count(), 2);
        keeper.set_until(&group(), Instant::ZERO);
        wait_for(SOON, "closed", || nft(&net, "list ruleset").matches(VIP6).count() == 1);
        keeper.set_until(&group(), clock().plus(Duration::from_secs(60)));
        net.wait(VIP4, true, SOON);
        assert_eq!(
            nft(&net, "list ruleset").matches(VIP6).count(),
            2,
            "open before the address is announced"
        );
    });
}

/// Names of tables have a limit in the kernel, which stands in here for any reason to refuse.
#[test]
fn where_the_kernel_refuses_it_says_so_and_lifetimes_are_the_fence() {
    undisturbed_as_root(|| {
        let net = Net::new("gnone");
        let table = "x".repeat(400);
        Net::inside(&net.here, || {
            assert!(gate::probe(&"x".repeat(400)).is_err());
            gate::probe(TABLE).expect("a probe");
        });
        assert_eq!(nft(&net, "list tables").trim(), "", "a probe leaves nothing");
        let (keeper, events) = net.keeper_behind(GateConfig { table, guarded: vec![ip(VIP4)] });
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");
        assert!(net.has(VIP4) && net.has(VIP6));
        assert!(matches!(keeper.gate(), (GateState::Missing(why), 0) if why.contains("nftables")));
        assert_eq!(events.count(|e| matches!(e, KeeperEvent::Gate(GateEvent::Missing(_)))), 1, "said once");
    });
}
