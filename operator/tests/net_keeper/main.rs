//! The address keeper against real kernels' network namespaces.

mod answers;
mod claims;
mod fixture;
mod gate;
#[path = "../undisturbed/mod.rs"]
mod undisturbed;

use baton_operator::net::{KeeperError, KeeperEvent, NetError, RemovalReason};
use baton_replicator::types::{GroupName, Instant};
use fixture::{
    Capture, FENCETIME, Heard, Heartbeat, Net, OWN, VIP4, VIP6, clock, group, ip, run, vips, wait_for, wanted,
};
use futures::executor::block_on;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use undisturbed::undisturbed_as_root;

const SOON: Duration = Duration::from_millis(400);
/// The kernel ends a lifetime of 1 s within 1.3 s; the rest is for a machine with more to do than cores.
const BY_KERNEL: Duration = Duration::from_millis(1600);

fn removed(reason: RemovalReason) -> impl Fn(&KeeperEvent) -> bool {
    move |e| matches!(e, KeeperEvent::Removed { why, .. } if *why == reason)
}

#[test]
fn held_addresses_are_up_extended_and_announced() {
    undisturbed_as_root(|| {
        let net = Net::new("up");
        let capture = Capture::start(&net);
        let routes = || run(&format!("ip -n {0} route; ip -n {0} -6 route", net.here));
        let before = routes();
        let (keeper, events) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");

        assert!(keeper.addresses().iter().all(|a| a.up && a.carrier && a.interface.as_deref() == Some("va")));
        let (four, six) = (net.line(VIP4).expect("IPv4 address"), net.line(VIP6).expect("IPv6 address"));
        assert!(four.contains("noprefixroute") && !four.contains("forever"), "{four}");
        assert!(
            six.contains("nodad") && six.contains("deprecated") && six.contains("preferred_lft 0sec"),
            "{six}"
        );
        wait_for(SOON, "the first announcement", || {
            let Heard { requests, replies, advertisements } = capture.heard();
            requests >= 1 && replies >= 1 && advertisements >= 1
        });
        wait_for(Duration::from_secs(3), "the whole burst", || {
            capture.heard() == Heard { requests: 5, replies: 5, advertisements: 5 }
        });

        // Longer than any lifetime given so far.
        let start = clock();
        while clock().since(start) < Duration::from_secs(2) {
            assert!(net.has(VIP4) && net.has(VIP6), "extended in time");
        }
        assert_eq!(capture.heard().requests, 5, "no announcement between burst and refresh");
        assert_eq!(routes(), before, "no route comes with an address of a connected subnet");

        block_on(keeper.release(group())).expect("release");
        assert!(!net.has(VIP4) && !net.has(VIP6) && net.has(OWN));
        assert!(keeper.addresses().is_empty());
        assert_eq!(events.count(|e| matches!(e, KeeperEvent::Up { .. })), 2);
        assert_eq!(events.count(removed(RemovalReason::Released)), 2);
        assert_eq!(
            events.count(|e| matches!(e, KeeperEvent::Failed { .. } | KeeperEvent::Vanished { .. })),
            0
        );
    });
}

/// The kernel's own flag says whether it may choose the address as a source; a change of mind comes with the next lifetime.
#[test]
fn the_host_prefers_an_address_only_where_that_is_asked_for() {
    undisturbed_as_root(|| {
        let net = Net::new("prefer");
        let (keeper, _) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        let deprecated = |address: &str| {
            let line = net.line(address).expect("the address");
            line.contains("deprecated") && line.contains("preferred_lft 0sec")
        };
        let source = || run(&format!("ip -n {} -6 route get fd00:79::77", net.here));
        block_on(keeper.hold(group(), vec![wanted(VIP4, 24, false), wanted(VIP6, 64, true)])).expect("hold");
        assert!(deprecated(VIP4), "{:?}", net.line(VIP4));
        assert!(!deprecated(VIP6), "{:?}", net.line(VIP6));

        // The same addresses, the other way round, without taking them away.
        block_on(keeper.hold(group(), vips())).expect("hold");
        wait_for(SOON, "said with the next lifetime", || !deprecated(VIP4) && deprecated(VIP6));
        // fd00:79::5 is the node's own address.
        assert!(source().contains("src fd00:79::5"), "{}", source());
    });
}

#[test]
fn fenced_at_serve_until_and_back_when_it_moves_on() {
    undisturbed_as_root(|| {
        let net = Net::new("fence");
        let (keeper, events) = net.keeper();
        let heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");
        let until = heartbeat.stop();
        assert!(net.has(VIP4) && clock() < until);
        net.wait(VIP4, false, FENCETIME + SOON);
        let gone = clock();
        assert!(gone >= until, "not before serve-until");
        assert!(gone.since(until) < Duration::from_millis(200), "{:?} after serve-until", gone.since(until));
        net.wait(VIP6, false, SOON);
        wait_for(SOON, "reported", || events.count(removed(RemovalReason::Fenced)) == 2);
        assert!(keeper.addresses().iter().all(|a| !a.up), "still held");

        let capture = Capture::start(&net);
        let heartbeat = Heartbeat::start(&keeper);
        net.wait(VIP4, true, SOON);
        wait_for(SOON, "announced again", || capture.heard().requests >= 1);

        // Nobody vouches again meanwhile, and it does not last until serve-until.
        let until = heartbeat.stop();
        keeper.set_until(&group(), Instant::ZERO);
        net.wait(VIP4, false, SOON);
        assert!(clock() < until, "taken away by the word, not by the time");
    });
}

#[test]
fn not_added_when_serve_until_is_too_close() {
    undisturbed_as_root(|| {
        let net = Net::new("close");
        let (keeper, _) = net.keeper();
        let pending = keeper.hold(group(), vips());
        let start = clock();
        while clock().since(start) < SOON {
            keeper.set_until(&group(), clock().plus(FENCETIME * 7 / 10));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!net.has(VIP4));
        }
        drop(keeper.release(group()));
        assert!(matches!(block_on(pending), Err(KeeperError::Released)));
    });
}

#[test]
fn an_address_taken_by_somebody_else_comes_back() {
    undisturbed_as_root(|| {
        let net = Net::new("vanish");
        let (keeper, events) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vips())).expect("hold");
        run(&format!("ip -n {} addr del {VIP4}/24 dev va", net.here));
        net.wait(VIP4, true, SOON);
        wait_for(SOON, "reported", || events.count(|e| matches!(e, KeeperEvent::Vanished { .. })) == 1);
        wait_for(SOON, "up again", || events.count(|e| matches!(e, KeeperEvent::Up { .. })) == 3);
    });
}

#[test]
fn restart_leaves_no_gap() {
    undisturbed_as_root(|| {
        let net = Net::new("linger");
        let (first, _) = net.keeper();
        let heartbeat = Heartbeat::start(&first);
        block_on(first.hold(group(), vips())).expect("hold");
        let mut monitor = Watch::start(&net);
        heartbeat.stop();
        first.set_until(&group(), clock().plus(Duration::from_millis(3900)));
        assert_eq!(
            block_on(first.linger(group(), Duration::from_secs(8))).expect("linger"),
            3,
            "bounded by serve-until"
        );
        let strays = block_on(first.strays(vec![ip(VIP4)])).expect("strays");
        assert!(strays.is_empty(), "lingering addresses are no strays: {strays:?}");
        drop(Arc::into_inner(first).expect("last handle"));
        assert!(net.has(VIP4) && net.has(VIP6));

        let (second, _) = net.keeper();
        let up = second.hold(group(), vips());
        // Longer than a lifetime: without serve-until the addresses are neither extended nor removed.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(net.has(VIP4) && second.addresses().iter().all(|a| !a.up));
        let _heartbeat = Heartbeat::start(&second);
        block_on(up).expect("taken over");
        std::thread::sleep(Duration::from_secs(3));
        assert!(net.has(VIP4) && net.has(VIP6));
        assert_eq!(monitor.deletions(), 0);
    });
}

#[test]
fn strays_go_and_foreign_addresses_stay() {
    undisturbed_as_root(|| {
        let net = Net::new("stray");
        let (keeper, _) = net.keeper();
        let _heartbeat = Heartbeat::start(&keeper);
        block_on(keeper.hold(group(), vec![wanted(VIP6, 64, false)])).expect("hold");
        run(&format!(
            "ip -n {0} addr add 10.79.0.101/24 dev va valid_lft 60 preferred_lft 60; ip -n {0} addr add {VIP4}/24 dev va",
            net.here
        ));
        let set = ["10.79.0.101", VIP4, VIP6, OWN].map(ip).to_vec();
        assert_eq!(block_on(keeper.strays(set)).expect("strays"), [ip("10.79.0.101")]);
        assert!(net.has(VIP4) && net.has(VIP6) && net.has(OWN) && !net.has("10.79.0.101"));

        let refused = block_on(keeper.hold(group(), vips()));
        assert!(
            matches!(&refused, Err(KeeperError::Net(NetError::Foreign { interface, .. })) if interface == "va"),
            "{refused:?}"
        );
        block_on(keeper.release(group())).expect("release");
        assert!(net.line(VIP4).is_some_and(|l| l.contains("forever")), "not ours to touch");
        assert!(!net.has(VIP6));

        let other = GroupName::new("db").expect("group");
        keeper.set_until(&other, clock().plus(Duration::from_secs(60)));
        run(&format!("ip -n {} addr del {OWN}/24 dev va", net.here));
        let nowhere = block_on(keeper.hold(other, vec![wanted("192.0.2.1", 32, true)]));
        assert!(matches!(nowhere, Err(KeeperError::Net(NetError::NoInterface { .. }))), "{nowhere:?}");
    });
}

#[test]
fn carrier_is_watched() {
    undisturbed_as_root(|| {
        let net = Net::new("link");
        let capture = Capture::start(&net);
        let (keeper, events) = net.keeper();
        keeper.set_until(&group(), clock().plus(Duration::from_secs(60)));
        block_on(keeper.hold(group(), vips())).expect("hold");
        wait_for(Duration::from_secs(3), "the whole burst", || capture.heard().requests == 5);
        let carrier = || keeper.own_link().map(|l| (l.interface, l.carrier));
        wait_for(SOON, "carrier", || carrier() == Some(("va".into(), true)));
        run(&format!("ip -n {} link set vb down", net.there));
        // The kernel reports a lost carrier at most once a second.
        let reported = Duration::from_millis(2500);
        wait_for(reported, "no carrier", || carrier() == Some(("va".into(), false)));
        run(&format!("ip -n {} link set vb up", net.there));
        wait_for(reported, "carrier again", || carrier() == Some(("va".into(), true)));
        assert_eq!(events.count(|e| matches!(e, KeeperEvent::Link(_))), 2, "down once, up once");
        wait_for(Duration::from_secs(3), "a new burst", || capture.heard().requests >= 9);
    });
}

#[test]
fn dropping_the_keeper_removes_what_it_holds() {
    undisturbed_as_root(|| {
        let net = Net::new("drop");
        let (keeper, _) = net.keeper();
        keeper.set_until(&group(), clock().plus(Duration::from_secs(60)));
        block_on(keeper.hold(group(), vips())).expect("hold");
        drop(Arc::into_inner(keeper).expect("last handle"));
        assert!(!net.has(VIP4) && !net.has(VIP6));
    });
}

/// Trap `frozen-vip`: the whole process stops, heartbeat thread and keeper with it.
#[test]
fn a_frozen_process_loses_its_addresses_by_kernel_lifetime() {
    undisturbed_as_root(|| {
        let net = Net::new("frozen");
        let exe = std::env::current_exe().expect("this test");
        let child = Command::new("ip")
            .args(["netns", "exec", &net.here])
            .arg(exe)
            .args(["--exact", "child_that_holds", "--ignored", "--nocapture"])
            .stdout(Stdio::null())
            .spawn()
            .expect("child");
        let child = Reaped(child);
        net.wait(VIP4, true, Duration::from_secs(10));
        net.wait(VIP6, true, SOON);
        // Well into the second lifetime, so that it has been extended.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(net.has(VIP4));
        let pid = rustix::process::Pid::from_child(&child.0);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stop");
        let four = net.wait(VIP4, false, BY_KERNEL);
        let six = four + net.wait(VIP6, false, SOON);
        eprintln!("frozen: IPv4 gone after {four:?}, IPv6 after {six:?}");
    });
}

/// Run by the test above in a process of its own, inside the namespace. Ends by itself.
#[test]
#[ignore = "the child of another test"]
fn child_that_holds() {
    let keeper =
        baton_operator::net::AddressKeeper::start(ip(OWN), FENCETIME, clock, Some(fixture::gate()), |_| {});
    let keeper = Arc::new(keeper.expect("keeper"));
    let _heartbeat = Heartbeat::start(&keeper);
    block_on(keeper.hold(group(), vips())).expect("hold");
    std::thread::sleep(Duration::from_secs(20));
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Counts removals of addresses as the kernel reports them.
struct Watch(Option<Reaped>);

impl Watch {
    fn start(net: &Net) -> Self {
        let monitor = Command::new("ip")
            .args(["-n", &net.here, "monitor", "address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip monitor");
        let mut watch = Self(Some(Reaped(monitor)));
        // It listens once it reports something.
        watch.wait_ready(net);
        watch
    }

    /// Provokes reports until the monitor has written one.
    fn wait_ready(&mut self, net: &Net) {
        use std::io::Read;
        let output = self.0.as_mut().and_then(|c| c.0.stdout.as_mut()).expect("stdout");
        run(&format!("ip -n {} addr show >/dev/null", net.here));
        // The keeper's extensions are reports.
        output.read_exact(&mut [0; 1]).expect("a report");
    }

    fn deletions(&mut self) -> usize {
        use std::io::Read;
        let mut child = self.0.take().expect("running");
        let _ = child.0.kill();
        let mut text = String::new();
        child.0.stdout.take().expect("stdout").read_to_string(&mut text).expect("output");
        assert!(text.contains(VIP4), "the monitor saw the extensions: {text}");
        text.lines().filter(|l| l.contains("Deleted") && (l.contains(VIP4) || l.contains(VIP6))).count()
    }
}
