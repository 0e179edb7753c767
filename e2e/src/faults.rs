//! The faults. Each is undone when its guard is dropped; what a power cut did is undone by [`power_on`] or the
//! healing at the next scenario's start.
//!
//! All of them act from outside the hosts (engine, veth, kernel), as bad luck does: no cooperation of the
//! processes under test is needed.

use crate::cluster::Cluster;
use crate::config::{ETCD_PORT, HEARTBEAT_PORT, REPLICATION_PORT};
use crate::docker::{self, Container, Role};
use crate::shell;
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::net::Ipv4Addr;
use std::time::Instant;

/// Rounds in which containers that an agent was starting while it died are looked for.
const LATE: usize = 5;

/// SIGKILLs everything that runs on a host. Returns the moment before.
///
/// The engine takes some 200 ms to kill six containers, in which one part could react to the death of another. No
/// part of a host without power does: all processes are stopped within microseconds first.
///
/// # Errors
/// If the engine refuses, or the host does not stay dead.
pub fn power_cut(cluster: &Cluster, host: &str) -> Result<Instant> {
    let running = || -> Result<Vec<Container>> {
        Ok(docker::of_host(&cluster.config, host)?.into_iter().filter(|c| c.running).collect())
    };
    let mut doomed = running()?;
    let mut pids = Vec::new();
    // One that ends by itself meanwhile is dead already, for the engine an error.
    for container in &doomed {
        pids.extend(docker::processes(container).unwrap_or_default());
    }
    let at = Instant::now();
    signal(&pids, Signal::STOP);
    for _ in 0..LATE {
        let killed = docker::all(&["kill", "-s", "KILL"], &doomed);
        doomed = running()?;
        if doomed.is_empty() {
            return Ok(at);
        }
        killed?;
    }
    bail!("host {host} does not stay dead: {doomed:?}")
}

/// Starts what Compose owns on a host, in the order of a boot: namespace, etcd, replicator, agent. Containers of
/// the group are the agents' business.
///
/// # Errors
/// If the engine refuses.
pub fn power_on(cluster: &Cluster, host: &str) -> Result<()> {
    for container in docker::of_host(&cluster.config, host)? {
        if !container.running && container.role < Role::Service {
            docker::all(&["start"], &[container])?;
        }
    }
    Ok(())
}

/// Runs a command in a host's network namespace (only that: files and binaries are the machine's).
///
/// # Errors
/// If the host is off or the command fails.
pub fn in_namespace(cluster: &Cluster, host: &str, argv: &[&str]) -> Result<String> {
    within(namespace_pid(cluster, host)?, argv)
}

/// The same, in the namespace of a process.
fn within(pid: u32, argv: &[&str]) -> Result<String> {
    let pid = pid.to_string();
    let mut whole = vec!["nsenter", "-t", &pid, "-n", "--"];
    whole.extend(argv);
    shell::run(&whole)
}

/// Init of the container that holds a host's network namespace.
///
/// # Errors
/// If the host is off.
pub fn namespace_pid(cluster: &Cluster, host: &str) -> Result<u32> {
    let container = docker::part(&cluster.config, host, Role::Namespace)?;
    if container.pid == 0 { Err(anyhow!("host {host} is off")) } else { Ok(container.pid) }
}

/// A host's pulled cable: the machine's end of its veth pair is down. Its addresses stay, its carrier goes.
#[derive(Debug)]
pub struct CableCut {
    veth: String,
    /// The moment after.
    pub at: Instant,
}

/// Pulls a host's cable.
///
/// # Errors
/// If the host is off or has no veth.
pub fn cut_cable(cluster: &Cluster, host: &str) -> Result<CableCut> {
    let veth = veth(namespace_pid(cluster, host)?, host)?;
    shell::run(&["ip", "link", "set", &veth, "down"])?;
    Ok(CableCut { veth, at: Instant::now() })
}

impl Drop for CableCut {
    fn drop(&mut self) {
        // Healing sets it up again if this fails.
        let _ = shell::run(&["ip", "link", "set", &self.veth, "up"]);
    }
}

/// Name, on the machine, of the other end of a host's cable.
///
/// # Errors
/// As [`cut_cable`].
pub fn link_of(cluster: &Cluster, host: &str) -> Result<String> {
    veth(namespace_pid(cluster, host)?, host)
}

/// Name, on the machine, of the other end of the host's only Ethernet link.
fn veth(namespace: u32, host: &str) -> Result<String> {
    let inside: serde_json::Value = serde_json::from_str(&within(namespace, &["ip", "-j", "link"])?)?;
    let peer = inside.as_array().into_iter().flatten().find(|l| l["link_type"] == "ether");
    let peer = peer.and_then(|l| l["link_index"].as_u64()).ok_or_else(|| anyhow!("{host} has no veth"))?;
    let outside: serde_json::Value = serde_json::from_str(&shell::run(&["ip", "-j", "link"])?)?;
    let found = outside.as_array().into_iter().flatten().find(|l| l["ifindex"].as_u64() == Some(peer));
    let name = found.and_then(|l| l["ifname"].as_str()).map(str::to_owned);
    name.with_context(|| format!("the machine has no interface {peer}, the other end of {host}'s link"))
}

/// Packets are dropped in a host's namespace; others pass.
#[derive(Debug)]
pub struct ReplicationBlock {
    cluster: Cluster,
    host: String,
    /// The moment after.
    pub at: Instant,
}

/// Not one of the names that agents use: `baton_` and the cluster.
const TABLE: &str = "faults_of_e2e";

/// Blocks replication at a host.
///
/// # Errors
/// If the host is off or the kernel lacks nftables.
pub fn block_replication(cluster: &Cluster, host: &str) -> Result<ReplicationBlock> {
    block(cluster, host, "tcp", REPLICATION_PORT)
}

/// Blocks heartbeats at a host, both ways; replication and everything else pass.
///
/// # Errors
/// As [`block_replication`].
pub fn block_heartbeats(cluster: &Cluster, host: &str) -> Result<ReplicationBlock> {
    block(cluster, host, "udp", HEARTBEAT_PORT)
}

/// Cuts a host off from an address, both ways; the rest of the network reaches it.
///
/// # Errors
/// As [`block_replication`].
pub fn block_address(cluster: &Cluster, host: &str, address: Ipv4Addr) -> Result<ReplicationBlock> {
    filter(cluster, host, &format!("ip saddr {address} drop"), &format!("ip daddr {address} drop"))
}

/// A host hears nothing of an address, which hears it.
///
/// # Errors
/// As [`block_replication`].
pub fn deaf_to(cluster: &Cluster, host: &str, address: Ipv4Addr) -> Result<ReplicationBlock> {
    filter(cluster, host, &format!("ip saddr {address} drop"), "")
}

/// A host hears no heartbeats, and its own are heard.
///
/// # Errors
/// As [`block_replication`].
pub fn deaf_to_heartbeats(cluster: &Cluster, host: &str) -> Result<ReplicationBlock> {
    filter(cluster, host, &format!("udp dport {HEARTBEAT_PORT} drop"), "")
}

/// A host does not reach etcd, wherever its members are.
///
/// # Errors
/// As [`block_replication`].
pub fn block_etcd(cluster: &Cluster, host: &str) -> Result<ReplicationBlock> {
    block(cluster, host, "tcp", ETCD_PORT)
}

fn block(cluster: &Cluster, host: &str, protocol: &str, port: u16) -> Result<ReplicationBlock> {
    let both = format!("{protocol} dport {port} drop\n {protocol} sport {port} drop");
    filter(cluster, host, &both, &both)
}

/// Rules for what comes to a host and for what it sends.
fn filter(cluster: &Cluster, host: &str, input: &str, output: &str) -> Result<ReplicationBlock> {
    let chain =
        |hook, rules| format!("chain {hook} {{\n type filter hook {hook} priority -150;\n {rules}\n}}\n");
    let table = format!("table inet {TABLE} {{\n{}{}}}", chain("input", input), chain("output", output));
    in_namespace(cluster, host, &["nft", &table])?;
    Ok(ReplicationBlock { cluster: cluster.clone(), host: host.to_owned(), at: Instant::now() })
}

impl Drop for ReplicationBlock {
    fn drop(&mut self) {
        // Healing removes it if this fails.
        let _ = in_namespace(&self.cluster, &self.host, &["nft", "delete", "table", "inet", TABLE]);
    }
}

/// Limits the rate at which a host sends replication traffic, so that a resync takes long enough to be hit by the next
/// fault; everything else passes as before. Lasts until [`mend_links`] or the host's next power cut.
///
/// # Errors
/// If the host is off or the kernel lacks the HTB scheduler.
pub fn slow_replication(cluster: &Cluster, host: &str, rate: &str) -> Result<()> {
    let tc = |args: &str| {
        let whole = format!("tc {args}");
        in_namespace(cluster, host, &whole.split(' ').collect::<Vec<_>>()).map(drop)
    };
    tc("qdisc replace dev eth0 root handle 1: htb default 0")?;
    tc(&format!("class add dev eth0 parent 1: classid 1:20 htb rate {rate} burst 256kb"))?;
    for end in ["dport", "sport"] {
        let port = REPLICATION_PORT;
        tc(&format!(
            "filter add dev eth0 protocol ip parent 1: u32 match ip {end} {port} 0xffff flowid 1:20"
        ))?;
    }
    Ok(())
}

/// Undoes what the link faults did to a host. Nothing is wrong if there is nothing to undo.
///
/// # Errors
/// If the host is off or its veth cannot be set up.
pub fn mend_links(cluster: &Cluster, host: &str) -> Result<()> {
    let namespace = namespace_pid(cluster, host)?;
    shell::run(&["ip", "link", "set", &veth(namespace, host)?, "up"])?;
    let _ = within(namespace, &["nft", "delete", "table", "inet", TABLE]);
    let _ = within(namespace, &["tc", "qdisc", "del", "dev", "eth0", "root"]);
    Ok(())
}

/// Bytes that a host has sent on its Ethernet link since its boot.
///
/// # Errors
/// If the host is off.
pub fn sent_bytes(cluster: &Cluster, host: &str) -> Result<u64> {
    let text = in_namespace(cluster, host, &["ip", "-j", "-s", "link", "show", "eth0"])?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["tx"]["bytes"].as_u64().ok_or_else(|| anyhow!("no counters in {text}"))
}

/// Containers whose every process is stopped (SIGSTOP).
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<i32>,
    /// The moment before.
    pub at: Instant,
}

/// Stops every process of these containers, all in one go.
///
/// # Errors
/// If one of them does not run.
pub fn freeze(containers: &[Container]) -> Result<Frozen> {
    let mut pids = Vec::new();
    for container in containers {
        pids.extend(docker::processes(container)?);
    }
    let at = Instant::now();
    signal(&pids, Signal::STOP);
    // What was forked between listing and stopping: its parent is stopped by now, so a second list is complete.
    for container in containers {
        let late: Vec<_> = docker::processes(container)?.into_iter().filter(|p| !pids.contains(p)).collect();
        signal(&late, Signal::STOP);
        pids.extend(late);
    }
    Ok(Frozen { pids, at })
}

impl Frozen {
    /// Lets them run again. Returns the moment before.
    #[must_use]
    pub fn thaw(self) -> Instant {
        Instant::now()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal(&self.pids, Signal::CONT);
    }
}

/// Lets every process of these containers run, whether stopped or not. One that has ended meanwhile has none.
pub fn thaw(containers: &[Container]) {
    for container in containers {
        signal(&docker::processes(container).unwrap_or_default(), Signal::CONT);
    }
}

/// Signals processes; one that has ended meanwhile is none to signal.
pub fn signal(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|p| Pid::from_raw(*p)) {
        let _ = kill_process(pid, signal);
    }
}

/// All members of etcd are down.
#[derive(Debug)]
pub struct EtcdDown {
    members: Vec<Container>,
    /// The moment before.
    pub at: Instant,
}

/// SIGKILLs all members of etcd.
///
/// # Errors
/// If the engine refuses.
pub fn etcd_down(cluster: &Cluster) -> Result<EtcdDown> {
    let members =
        docker::containers(&cluster.config)?.into_iter().filter(|c| c.role == Role::Etcd && c.running);
    let down = EtcdDown { members: members.collect(), at: Instant::now() };
    docker::all(&["kill", "-s", "KILL"], &down.members)?;
    Ok(down)
}

impl Drop for EtcdDown {
    fn drop(&mut self) {
        // Healing starts them if this fails.
        let _ = docker::all(&["start"], &self.members);
    }
}
