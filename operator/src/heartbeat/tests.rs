//! Two heartbeat threads on loopback.

use super::*;
use baton_replicator::api::ServeUntil;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName, TermId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEEPALIVE: Duration = Duration::from_millis(20);

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn codec(key: u8) -> Codec {
    Codec::new(Secret::new([key; 32]).unwrap(), "test")
}

/// Says (n, false) at every tick, answers what is not an answer with (n, true).
#[derive(Default)]
struct Chatter {
    peer: String,
    ticks: u64,
    heard: Vec<(u64, bool)>,
    until: Option<Instant>,
}

impl HeartbeatLogic for Chatter {
    type Message = (u64, bool);
    fn on_datagram(
        &mut self,
        from: &NodeName,
        message: Self::Message,
        _: Instant,
    ) -> Vec<(NodeName, Self::Message)> {
        self.heard.push(message);
        if message.1 { vec![] } else { vec![(from.clone(), (message.0, true))] }
    }
    fn tick(&mut self, _: Instant) -> Vec<(NodeName, Self::Message)> {
        self.ticks += 1;
        vec![(node(&self.peer), (self.ticks, false))]
    }
    fn serve_until(&mut self, _: Instant) -> Vec<ServeUntil> {
        let epoch = Epoch { number: 1, term: TermId(1) };
        let group = GroupName::new("web").unwrap();
        self.until.map(|until| ServeUntil { group, epoch, until }).into_iter().collect()
    }
}

struct Collect(Arc<Mutex<Vec<ServeUntil>>>);

impl ServeUntilSink for Collect {
    fn serve_until(&mut self, until: &ServeUntil) {
        self.0.lock().unwrap().push(until.clone());
    }
}

struct Agent {
    logic: Arc<Mutex<Chatter>>,
    thread: HeartbeatThread,
    sent: Arc<Mutex<Vec<ServeUntil>>>,
}

fn agent(name: &str, peer: &str, key: u8) -> Agent {
    let logic = Arc::new(Mutex::new(Chatter { peer: peer.into(), ..Chatter::default() }));
    let sent = Arc::default();
    let config = HeartbeatConfig {
        node: node(name),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        peers: BTreeMap::from([(node(peer), vec![])]),
        keepalive: KEEPALIVE,
    };
    let sinks: Vec<Box<dyn ServeUntilSink>> = vec![Box::new(Collect(Arc::clone(&sent)))];
    let thread = HeartbeatThread::start(config, codec(key), logic.clone(), sinks).unwrap();
    Agent { logic, thread, sent }
}

fn introduce(a: &Agent, a_name: &str, b: &Agent, b_name: &str) {
    let to = |name: &str, other: &Agent| BTreeMap::from([(node(name), other.thread.addresses().to_vec())]);
    a.thread.handle().set_peers(to(b_name, b), KEEPALIVE);
    b.thread.handle().set_peers(to(a_name, a), KEEPALIVE);
}

#[track_caller]
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn peers_hear_and_answer_each_other() {
    let (a, b) = (agent("a", "b", 1), agent("b", "a", 1));
    introduce(&a, "a", &b, "b");
    eventually("answers on both sides", || {
        [&a, &b].iter().all(|x| x.logic.lock().unwrap().heard.iter().filter(|m| m.1).count() >= 3)
    });
    let handle = a.thread.handle();
    assert_eq!(handle.counters().refused(), 0);
    let links = handle.links();
    let link = &links[&(node("b"), b.thread.addresses()[0])];
    assert!(link.sent >= 3 && link.error.is_none(), "{link:?}");
}

#[test]
fn a_kick_ticks_before_the_keepalive() {
    let a = agent("a", "b", 1);
    a.thread.handle().set_peers(BTreeMap::from([(node("b"), vec![])]), Duration::from_secs(3600));
    // The tick of set_peers starts the long interval.
    std::thread::sleep(KEEPALIVE * 3);
    let before = a.logic.lock().unwrap().ticks;
    a.thread.handle().kick();
    eventually("a tick after the kick", || a.logic.lock().unwrap().ticks == before + 1);
}

#[test]
fn what_is_not_a_peers_heartbeat_is_counted_and_dropped() {
    let a = agent("a", "b", 1);
    let to: SocketAddr = a.thread.addresses()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |bytes: &[u8]| _ = socket.send_to(bytes, to).unwrap();
    send(b"hello");
    send(&codec(2).seal(&node("b"), &(1_u64, true)).unwrap());
    send(&codec(1).seal(&node("c"), &(1_u64, true)).unwrap());
    send(&codec(1).seal(&node("a"), &(1_u64, true)).unwrap());
    send(&codec(1).seal(&node("b"), &"other").unwrap());
    send(&Codec::new(Secret::new([1; 32]).unwrap(), "elsewhere").seal(&node("b"), &(1_u64, true)).unwrap());
    let counters = a.thread.handle();
    let counters = counters.counters();
    eventually("six refusals", || counters.refused() == 6);
    assert_eq!(counters.refused_garbage.load(Relaxed), 1);
    assert_eq!(counters.refused_authentication.load(Relaxed), 1);
    assert_eq!(counters.refused_stranger.load(Relaxed), 2, "an unknown node, and our own datagram reflected");
    assert_eq!(counters.refused_message.load(Relaxed), 1);
    assert_eq!(counters.refused_foreign.load(Relaxed), 1);
    assert!(a.logic.lock().unwrap().heard.is_empty());
    send(&codec(1).seal(&node("b"), &(9_u64, true)).unwrap());
    eventually("the good one", || a.logic.lock().unwrap().heard == [(9, true)]);
}

#[test]
fn serve_until_is_repeated_every_keepalive_and_withdrawn_at_once() {
    let a = agent("a", "b", 1);
    let until = clock::now().plus(Duration::from_secs(60));
    a.logic.lock().unwrap().until = Some(until);
    eventually("repeated", || a.sent.lock().unwrap().iter().filter(|s| s.until == until).count() >= 4);
    let later = until.plus(Duration::from_millis(20));
    a.logic.lock().unwrap().until = Some(later);
    eventually("grown", || a.sent.lock().unwrap().last().unwrap().until == later);
    a.logic.lock().unwrap().until = None;
    eventually("withdrawn", || a.sent.lock().unwrap().last().unwrap().until <= clock::now());
}

#[test]
fn a_taken_port_is_named() {
    let a = agent("a", "b", 1);
    let config = HeartbeatConfig {
        node: node("b"),
        listen: a.thread.addresses().to_vec(),
        peers: BTreeMap::new(),
        keepalive: KEEPALIVE,
    };
    let logic = Arc::new(Mutex::new(Chatter::default()));
    let error = HeartbeatThread::start(config, codec(1), logic, vec![]).err().expect("the port is taken");
    let address = a.thread.addresses()[0].to_string();
    assert!(error.to_string().contains(&address), "{error}");
}

#[test]
fn listens_on_the_families_its_peers_have() {
    let peers = BTreeMap::from([(node("b"), vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()])]);
    let config = HeartbeatConfig::new(node("a"), 694, peers, KEEPALIVE);
    assert_eq!(config.listen, ["0.0.0.0:694".parse().unwrap(), "[::]:694".parse().unwrap()]);
    assert_eq!(config.peers[&node("b")], ["10.0.0.2:694".parse().unwrap(), "[fd00::2]:694".parse().unwrap()]);
}
