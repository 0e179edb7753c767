//! Two heartbeat threads over loopback.

use super::*;
use crate::core::links::{LinkBeat, Refusal};
use crate::core::promises::{Intent, Part};
use crate::core::rules::Rules;
use crate::core::timing::Timers;
use baton_replicator::transport::secret::Secret;
use baton_replicator::types::TermId;
use std::net::UdpSocket;

const DEADLINE: Duration = Duration::from_secs(10);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn sealer_of(byte: u8) -> Sealer {
    Sealer::new(&Secret::new([byte; 32]).unwrap(), "test")
}

fn web() -> GroupName {
    GroupName::new("web").unwrap()
}

fn core(me: &str, peer: &str) -> SharedCore {
    let now = clock::now();
    let groups = [(web(), Instant::ZERO)];
    let core =
        HeartbeatCore::new(node(me), 1, Timers::default(), Rules::default(), [node(peer)], groups, now);
    Arc::new(Mutex::new(core))
}

/// Leads, and needs b's promises.
fn leads(epoch: Epoch) -> Intent {
    let part = Part::Leader {
        members: vec![node("b")],
        others: vec![],
        lease_until: None,
        serve: true,
        busy: false,
        ask: None,
    };
    Intent { epoch, part, ..Intent::silent() }
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !check() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come in {DEADLINE:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_leader_gets_promises_and_serve_until_grows_only_while_the_core_is_vouched_for() {
    let (ip_a, ip_b): (IpAddr, IpAddr) = ("127.0.0.71".parse().unwrap(), "127.0.0.72".parse().unwrap());
    let port = 20_694;
    let sealer = sealer_of(3);
    let config = |me: &str, own, peer: &str, other| HeartbeatConfig {
        node: node(me),
        links: vec![HeartbeatLink::Unicast(own)],
        peers: BTreeMap::from([(node(peer), vec![HeartbeatLink::Unicast(other)])]),
        port,
        keepalive: Duration::from_millis(20),
        warntime: Duration::from_millis(500),
        deadtime: Duration::from_millis(1500),
    };
    let (a, b) = (core("a", "b"), core("b", "a"));
    let epoch = Epoch { number: 1, term: TermId(1) };
    a.lock().unwrap().set_intent(&web(), leads(epoch));
    let part = Part::Standby { acknowledge: true, long_promise: Duration::ZERO };
    b.lock().unwrap().set_intent(&web(), Intent { part, ..Intent::silent() });

    let (tell, told) = std::sync::mpsc::channel();
    let sink = move |_: &GroupName, e: Epoch, until: Instant| {
        let _ = tell.send((e, until));
    };
    let (thread_a, _) =
        HeartbeatThread::start(config("a", ip_a, "b", ip_b), sealer.clone(), Arc::clone(&a), sink, || {})
            .unwrap();
    let (_thread_b, _) = HeartbeatThread::start(
        config("b", ip_b, "a", ip_a),
        sealer.clone(),
        Arc::clone(&b),
        |_, _, _| {},
        || {},
    )
    .unwrap();

    eventually("a promise", || {
        let now = clock::now();
        a.lock().unwrap().vouch(now, true);
        a.lock().unwrap().facts(&web(), now).serve_until.is_some_and(|u| u > now)
    });
    let (e, until) = told.recv_timeout(DEADLINE).unwrap();
    assert_eq!(e, epoch);
    assert!(until <= clock::now().plus(Timers::default().fencetime));

    // Garbage and a datagram of another cluster are counted and change nothing.
    let stranger = UdpSocket::bind("127.0.0.73:0").unwrap();
    let other = sealer_of(4);
    let foreign = other.encode(&node("b"), &b.lock().unwrap().answer(clock::now())).unwrap();
    let foreign = other.seal(&foreign, &LinkBeat::default()).unwrap();
    stranger.send_to(b"hello", (ip_a, port)).unwrap();
    stranger.send_to(&foreign, (ip_a, port)).unwrap();
    eventually("two refusals", || thread_a.counters.refused.load(Ordering::Relaxed) == 2);
    let refused = thread_a.board.lock().unwrap().links()[0].refused.clone();
    assert_eq!(refused, BTreeMap::from([(Refusal::Malformed, 1), (Refusal::Forged, 1)]));

    // The core hangs: heartbeats stop speaking for it, b stops acknowledging, serve-until runs out.
    eventually("the end of serve-until", || {
        let now = clock::now();
        a.lock().unwrap().facts(&web(), now).serve_until.is_none_or(|u| u <= now)
    });
}

#[test]
fn a_hurried_heartbeat_does_not_wait_for_its_turn_and_what_it_brings_is_told() {
    let (ip_a, ip_b): (IpAddr, IpAddr) = ("127.0.0.74".parse().unwrap(), "127.0.0.75".parse().unwrap());
    let keepalive = Duration::from_secs(20);
    let config = |me: &str, own, peer: &str, other| HeartbeatConfig {
        node: node(me),
        links: vec![HeartbeatLink::Unicast(own)],
        peers: BTreeMap::from([(node(peer), vec![HeartbeatLink::Unicast(other)])]),
        port: 20_696,
        keepalive,
        warntime: 2 * keepalive,
        deadtime: 4 * keepalive,
    };
    let (a, b) = (core("a", "b"), core("b", "a"));
    let part = Part::Standby { acknowledge: true, long_promise: Duration::ZERO };
    b.lock().unwrap().set_intent(&web(), Intent { part, ..Intent::silent() });
    let (entitled, served) = std::sync::mpsc::channel();
    let sink = move |_: &GroupName, _: Epoch, until: Instant| {
        let _ = entitled.send(until);
    };
    let counter = || {
        let all = Arc::new(AtomicU64::new(0));
        let one = Arc::clone(&all);
        (all, move || _ = one.fetch_add(1, Ordering::Relaxed))
    };
    let ((news_a, tell_a), (news_b, tell_b)) = (counter(), counter());
    let start = std::time::Instant::now();
    let (_thread_b, _) = HeartbeatThread::start(
        config("b", ip_b, "a", ip_a),
        sealer_of(3),
        Arc::clone(&b),
        |_, _, _| {},
        tell_b,
    )
    .unwrap();
    let (thread_a, _) =
        HeartbeatThread::start(config("a", ip_a, "b", ip_b), sealer_of(3), Arc::clone(&a), sink, tell_a)
            .unwrap();
    // The first heartbeat of each goes at once; a's is heard, b's came before a was there.
    eventually("news of a's first heartbeat", || news_b.load(Ordering::Relaxed) == 1);

    let epoch = Epoch { number: 1, term: TermId(1) };
    a.lock().unwrap().vouch(clock::now(), true);
    assert!(a.lock().unwrap().set_intent(&web(), leads(epoch)));
    assert!(!a.lock().unwrap().set_intent(&web(), leads(epoch)), "nothing else is said");
    // Longer than a decision core is vouched for: it goes on living.
    eventually("serve-until", || {
        a.lock().unwrap().vouch(clock::now(), true);
        thread_a.hurry();
        served.try_recv().is_ok()
    });
    eventually("news of the leader and of the promise", || {
        news_b.load(Ordering::Relaxed) >= 2 && news_a.load(Ordering::Relaxed) >= 1
    });
    assert!(start.elapsed() < keepalive / 2, "in {:?}, with a keepalive of {keepalive:?}", start.elapsed());
    // A tenth of a keepalive apart, however often it is asked for: the first, and those of at most ten seconds.
    assert!(thread_a.counters.sent.load(Ordering::Relaxed) <= 7, "too many heartbeats");
}

#[test]
fn a_foreign_address_is_named() {
    let config = HeartbeatConfig {
        node: node("a"),
        links: vec![HeartbeatLink::Unicast("192.0.2.1".parse().unwrap())],
        peers: BTreeMap::new(),
        port: 20_695,
        keepalive: Duration::from_millis(20),
        warntime: Duration::from_millis(500),
        deadtime: Duration::from_millis(1500),
    };
    let error =
        HeartbeatThread::start(config, sealer_of(3), core("a", "b"), |_, _, _| {}, || {}).unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:20695"), "{error}");
}
