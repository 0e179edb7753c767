//! Heartbeat threads in namespaces of their own, on real bridges; and serial lines made of pseudo terminals.

use baton_operator::core::links::{Hearing, Link, Links, PeerOnLink, Refusal};
use baton_operator::core::promises::HeartbeatCore;
use baton_operator::core::rules::Rules;
use baton_operator::core::timing::Timers;
use baton_operator::heartbeat::wire::Sealer;
use baton_operator::heartbeat::{HeartbeatConfig, HeartbeatThread, SharedCore, clock};
use baton_operator::spec::HeartbeatLink;
use baton_replicator::transport::secret::Secret;
use baton_replicator::types::{GroupName, Instant, NodeName};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub const PORT: u16 = 694;
pub const KEEPALIVE: Duration = Duration::from_millis(50);
pub const WARNTIME: Duration = Duration::from_millis(500);
pub const DEADTIME: Duration = Duration::from_millis(1500);
/// For whatever a machine with more to do than cores has to reach.
pub const SOON: Duration = Duration::from_secs(20);

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

pub fn sealer(secret: u8, cluster: &str) -> Sealer {
    Sealer::new(&Secret::new([secret; 32]).expect("secret"), cluster)
}

pub fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !reached() {
        assert!(std::time::Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A node's heartbeat thread with its core.
pub struct Node {
    pub core: SharedCore,
    pub thread: HeartbeatThread,
}

pub fn config(
    me: &str,
    keepalive: Duration,
    all: &[(&str, Vec<HeartbeatLink>)],
    port: u16,
) -> HeartbeatConfig {
    let links = |name: &str| all.iter().find(|(n, _)| *n == name).expect("a node").1.clone();
    let peers = all.iter().filter(|(n, _)| *n != me).map(|(n, l)| (node(n), l.clone())).collect();
    HeartbeatConfig {
        node: node(me),
        links: links(me),
        peers,
        port,
        keepalive,
        warntime: WARNTIME,
        deadtime: DEADTIME,
    }
}

impl Node {
    pub fn start(config: HeartbeatConfig, groups: usize) -> Self {
        let now = clock::now();
        let groups =
            (0..groups).map(|i| (GroupName::new(format!("group-{i:03}")).expect("name"), Instant::ZERO));
        let peers: Vec<NodeName> = config.peers.keys().cloned().collect();
        let incarnation = u64::from(std::process::id()) << 32 | now.0 & 0xffff_ffff;
        let core = HeartbeatCore::new(
            config.node.clone(),
            incarnation,
            Timers::default(),
            Rules::default(),
            peers,
            groups,
            now,
        );
        let core = Arc::new(Mutex::new(core));
        let (thread, _) =
            HeartbeatThread::start(config, sealer(7, "demo"), Arc::clone(&core), |_, _, _| {}, || {})
                .expect("the thread starts");
        Self { core, thread }
    }

    fn board<T>(&self, f: impl FnOnce(&Links) -> T) -> T {
        f(&self.thread.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn link(&self, number: usize) -> Link {
        self.board(|b| b.links()[number].clone())
    }

    pub fn links(&self) -> usize {
        self.board(|b| b.links().len())
    }

    pub fn peer(&self, link: usize, name: &str) -> PeerOnLink {
        self.link(link).peers[&node(name)].clone()
    }

    pub fn refused(&self, link: usize, why: Refusal) -> u64 {
        self.link(link).refused.get(&why).copied().unwrap_or(0)
    }

    /// Every peer is heard on these links, and says that it hears this node there.
    pub fn hears_all(&self, links: &[usize]) -> bool {
        let both = |p: &PeerOnLink| p.hearing == Hearing::Up && p.hears_us == Some(true) && !p.one_way;
        links.iter().all(|l| self.link(*l).peers.values().all(both))
    }

    pub fn hearing(&self) -> BTreeMap<NodeName, u32> {
        self.board(|b| b.hears().into_iter().collect())
    }
}

pub fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().expect("sh");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Hosts `0..n`, each in a namespace with `e0` (10.80.0.N) and `e1` (10.81.0.N), on two bridges in a namespace of their
/// own, where `br1` has 10.81.0.99: another machine on the second network.
pub struct Lan {
    pub hub: String,
    hosts: Vec<String>,
}

impl Lan {
    pub fn new(name: &str, hosts: usize) -> Self {
        let base = format!("links{}{name}", std::process::id());
        let lan = Self { hub: format!("{base}h"), hosts: (0..hosts).map(|i| format!("{base}{i}")).collect() };
        run(&format!(
            "set -e; ip netns add {h}; for b in 0 1; do ip -n {h} link add br$b type bridge; ip -n {h} link set br$b up; done
             ip -n {h} link set lo up; ip -n {h} addr add 10.81.0.99/24 dev br1",
            h = lan.hub
        ));
        for (i, host) in lan.hosts.iter().enumerate() {
            run(&format!("ip netns add {host} && ip -n {host} link set lo up"));
            lan.plug(i, 0);
            lan.plug(i, 1);
        }
        lan
    }

    pub fn host(&self, i: usize) -> &str {
        &self.hosts[i]
    }

    /// Gives host `i` the interface `eN`.
    pub fn plug(&self, i: usize, n: usize) {
        let (hub, host) = (&self.hub, &self.hosts[i]);
        run(&format!(
            "set -e; ip -n {hub} link add v{n}x{i} type veth peer name e{n} netns {host}
             ip -n {hub} link set v{n}x{i} master br{n} up; ip -n {host} link set e{n} up
             ip -n {host} addr add 10.8{n}.0.{a}/24 dev e{n}; ip -n {host} addr add fe80::{a}/64 dev e{n} nodad",
            a = i + 1
        ));
    }

    /// Takes it away.
    pub fn unplug(&self, i: usize, n: usize) {
        run(&format!("ip -n {} link del e{n}", self.hosts[i]));
    }

    /// Starts a heartbeat thread in host `i`.
    pub fn start(&self, i: usize, config: HeartbeatConfig) -> Node {
        inside(&self.hosts[i], move || Node::start(config, 1))
    }
}

/// Runs `f` on a thread inside the namespace `name`; threads it starts are inside, too.
pub fn inside<T: Send + 'static>(name: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{name}");
    let body = move || {
        let file = File::open(path).expect("namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
        f()
    };
    std::thread::spawn(body).join().expect("thread in the namespace")
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.hub]) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}
