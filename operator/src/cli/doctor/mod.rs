//! `baton doctor`: is this host fit for Baton, before it joins and later?
//!
//! One file per family of checks, each with its measurements and pure judgements apart; this file gathers what they
//! need to know, runs them, and shows the report. Nothing is changed on the host: what a check makes (a file, a
//! device, a socket) it takes away again.

mod clock;
mod device;
mod disk;
mod engine;
mod etcd;
mod kernel;
mod memory;
mod network;
mod ports;
mod report;
mod sys;

pub use report::{Finding, Report, Verdict, render};

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::format::Format;
use super::paint::Paint;
use super::print;
use crate::spec::{Spec, Timers};
use crate::status::{ClusterStatus, GroupState};
use baton_replicator::types::NodeName;
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The agent on this host answers in milliseconds, or is not there.
const AGENT: Duration = Duration::from_secs(2);
/// The sum of all bounds of one family is below this; a family that needs longer hangs (a dead disk).
const FAMILY: Duration = Duration::from_secs(60);

/// Families of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    /// The Docker engine.
    Engine,
    /// Kernel version, control groups, capabilities, the replicator's memory.
    Kernel,
    /// FUSE and loop devices.
    Devices,
    /// Own ports, and those of the peers.
    Ports,
    /// Wall clock and late wake-ups.
    Clock,
    /// Flush latency and space.
    Disk,
    /// etcd's members and versions.
    Etcd,
    /// Packet sizes and times towards the peers, duplicate addresses.
    Network,
    /// File modes of secrets.
    Secrets,
}

const ALL: [Family; 9] = [
    Family::Engine,
    Family::Kernel,
    Family::Devices,
    Family::Ports,
    Family::Clock,
    Family::Disk,
    Family::Etcd,
    Family::Network,
    Family::Secrets,
];

/// Arguments of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Only these families of checks.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Family>,
    /// Not these families.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub skip: Vec<Family>,
    /// Where things are on this host.
    #[command(flatten)]
    pub host: HostArgs,
    /// The form of the report.
    #[command(flatten)]
    pub format: Format,
}

/// Where things are on this host; what the agent is told too is read from the same environment.
#[derive(Args, Clone, Debug)]
pub struct HostArgs {
    /// The cluster specification; without it, and without an agent here, checks of peers and addresses are skipped.
    #[arg(long, env = "BATON_SPEC", default_value = "/etc/baton/cluster.yaml")]
    pub spec: PathBuf,
    /// This node's name in it.
    #[arg(long, env = "BATON_NODE")]
    pub node: Option<String>,
    /// Client URLs of the etcd members, separated by commas.
    #[arg(long, env = "BATON_ETCD", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// A directory on the disk that etcd uses, or will use (default: the state directory).
    #[arg(long)]
    pub etcd_dir: Option<PathBuf>,
    /// The cluster secret.
    #[arg(long, env = "BATON_SECRET_FILE", default_value = "/etc/baton/secret")]
    pub secret_file: PathBuf,
    /// Baton's state.
    #[arg(long, env = "BATON_STATE_DIR", default_value = "/var/lib/baton")]
    pub state_dir: PathBuf,
    /// Sockets and private mounts.
    #[arg(long, env = "BATON_RUN_DIR", default_value = "/run/baton")]
    pub run_dir: PathBuf,
    /// The Docker engine.
    #[arg(long, env = "BATON_DOCKER", default_value = "unix:///var/run/docker.sock")]
    pub docker: String,
}

/// What the checks know.
struct Known {
    spec: Option<Spec>,
    /// Why there is none.
    no_spec: String,
    /// What the agent on this host says.
    status: Option<ClusterStatus>,
    node: Option<NodeName>,
}

impl Known {
    fn timers(&self) -> Timers {
        self.spec.as_ref().map(|s| s.heartbeat).unwrap_or_default()
    }

    /// The specification and this node in it, or why not.
    fn own(&self) -> Result<(&Spec, &NodeName, &crate::spec::Node), String> {
        let spec = self.spec.as_ref().ok_or_else(|| self.no_spec.clone())?;
        let name = self.node.as_ref().ok_or("the node's name is not known: give --node or BATON_NODE")?;
        let node = spec.nodes.get(name).ok_or_else(|| format!("the specification has no node {name}"))?;
        Ok((spec, name, node))
    }
}

/// Runs the checks and shows what they found.
pub(super) async fn run(client: &ApiClient, args: &DoctorArgs, paint: Paint) -> Result<Exit, CliError> {
    let report = examine(client, args).await;
    print(&args.format.show(&report, |report| report::render(report, paint)))?;
    // Documented as codes of `doctor`: 1 = warnings, 2 = failed.
    Ok(match report.code() {
        0 => Exit::Ok,
        1 => Exit::Failed,
        _ => Exit::Usage,
    })
}

/// Runs the checks.
pub(super) async fn examine(client: &ApiClient, args: &DoctorArgs) -> Report {
    let known = know(client, args).await;
    let wanted =
        |family: &Family| (args.only.is_empty() || args.only.contains(family)) && !args.skip.contains(family);
    let mut findings = Vec::new();
    // One after the other: the disk's flushes would make the clock's wake-ups late.
    for family in ALL.into_iter().filter(wanted) {
        match tokio::time::timeout(FAMILY, one(family, client, args, &known)).await {
            Ok(found) => findings.extend(found),
            Err(_) => findings.push(Finding::failed(
                "doctor",
                format!("{family:?}").to_lowercase(),
                format!("did not end within {} s: something hangs", FAMILY.as_secs()),
                "Look at the kernel's log (dmesg) for a dead disk or network filesystem.",
            )),
        }
    }
    Report::new(known.node.map(|n| n.to_string()), findings)
}

async fn know(client: &ApiClient, args: &DoctorArgs) -> Known {
    let asked = tokio::time::timeout(AGENT, client.get::<ClusterStatus>("/v1/status")).await;
    let status = asked.ok().and_then(Result::ok);
    let (spec, no_spec) = match read_spec(&args.host.spec) {
        Ok(spec) => (Some(spec), String::new()),
        Err(why) => (None, why),
    };
    let named = args.host.node.as_deref().and_then(|n| NodeName::new(n).ok());
    let mut node = named;
    if node.is_none() {
        node = status.as_ref().map(|s| s.node.clone());
    }
    // An agent of another host (--api) says nothing of this one.
    let status = status.filter(|s| node.as_ref() == Some(&s.node));
    Known { spec, no_spec, status, node }
}

fn read_spec(path: &Path) -> Result<Spec, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("there is no specification ({}: {e}); give --spec", path.display()))?;
    Spec::parse(&text, |name| std::env::var(name).ok()).map_err(|errors| {
        format!("the specification is not valid (baton check {}): {}", path.display(), errors.errors.len())
    })
}

async fn one(family: Family, client: &ApiClient, args: &DoctorArgs, known: &Known) -> Vec<Finding> {
    match family {
        Family::Engine => engine::check(&args.host.docker).await,
        Family::Kernel => {
            let mut all = kernel::check();
            all.push(memory::check(known.status.as_ref()));
            all
        }
        Family::Devices => {
            let dir = args.host.run_dir.clone();
            blocking("devices", move || device::check(&dir)).await
        }
        Family::Ports => check_ports(client, args, known).await,
        Family::Clock => {
            let timers = known.timers();
            blocking("clock", move || clock::check(timers)).await
        }
        Family::Disk => {
            let dir = args.host.etcd_dir.clone().unwrap_or_else(|| args.host.state_dir.clone());
            let (state, volumes) = (args.host.state_dir.clone(), wanted_space(known));
            blocking("disk", move || vec![disk::fsync(&dir), disk::space(&state, volumes)]).await
        }
        Family::Etcd => etcd::check(&args.host.etcd).await,
        Family::Network => {
            let mut all = check_network(known).await;
            all.extend(network::fence_devices(known.status.as_ref()));
            all
        }
        Family::Secrets => disk::secrets(&args.host.secret_file),
    }
}

async fn blocking(
    family: &'static str,
    work: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| vec![Finding::skipped(family, "all", format!("the check itself broke: {e}"))])
}

/// Bytes of volumes that are kept in files here.
fn wanted_space(known: &Known) -> u64 {
    let Ok((spec, me, _)) = known.own() else { return 0 };
    let volumes = spec.groups.values().flat_map(|g| g.volumes.values());
    volumes.filter(|v| v.backing.on(me).is_none()).map(|v| v.size_bytes).sum()
}

async fn check_ports(client: &ApiClient, args: &DoctorArgs, known: &Known) -> Vec<Finding> {
    let api = client.bases().first().and_then(|b| reqwest::Url::parse(b).ok()).and_then(|u| u.port());
    let ports = ports::Ports { api: api.unwrap_or(super::AGENT_PORT), heartbeat: 694, replication: 7788 };
    let replicator = tokio::net::UnixStream::connect(args.host.run_dir.join("replicator.sock")).await.is_ok();
    let running = ports::Running { agent: known.status.is_some(), replicator };
    let mut all = ports::own(ports, running).await;
    match known.own() {
        Ok((spec, me, _)) => {
            for (name, node) in spec.nodes.iter().filter(|(name, _)| *name != me) {
                let status = known.status.as_ref();
                all.extend(ports::peer(name.as_str(), node.address, &node.replication, ports, status).await);
            }
        }
        Err(why) => all.push(Finding::skipped("ports", "peers", why)),
    }
    all
}

async fn check_network(known: &Known) -> Vec<Finding> {
    let (spec, me, node) = match known.own() {
        Ok(own) => own,
        Err(why) => return vec![Finding::skipped("network", "peers and addresses", why)],
    };
    let host = match network::interfaces().await {
        Ok(host) => host,
        Err(why) => return vec![Finding::skipped("network", "interfaces", why)],
    };
    let timers = known.timers();
    let (own, own_links) = (node.address, node.replication.clone());
    let peers: Vec<_> = spec.nodes.iter().filter(|(name, _)| *name != me).collect();
    let mut targets = Vec::new();
    for (name, peer) in peers {
        targets.push((name.to_string(), peer.address, own));
        for (link, to) in peer.replication.iter().enumerate().filter(|(_, to)| **to != peer.address) {
            // Links are listed alike on every node; one that is not is met from the first.
            let from = own_links.get(link).or(own_links.first()).copied().unwrap_or(own);
            targets.push((format!("{name} (replication)"), *to, from));
        }
    }
    let addresses: Vec<_> = spec
        .groups
        .iter()
        .flat_map(|(name, group)| group.addresses.iter().map(move |a| (name.to_string(), a.clone())))
        .map(|(group, address)| {
            let home = at_home(known.status.as_ref(), &group);
            (group, address, home)
        })
        .collect();
    let agent_runs = known.status.is_some();
    blocking("network", move || {
        let mut all = vec![network::own_address(own, &host), network::fencing()];
        for link in own_links.into_iter().filter(|link| *link != own) {
            all.push(network::own_address(link, &host));
        }
        for (name, to, own) in targets {
            all.extend(network::mtu(&name, to, own, &host, timers));
        }
        for (group, address, home) in addresses {
            // Without an agent here nobody says whether the group runs elsewhere: an answer may be its leader's.
            all.push(match (agent_runs, home) {
                (true, home) => network::duplicate(&group, &address, own, &host, home),
                (false, _) => unsure(network::duplicate(&group, &address, own, &host, None)),
            });
        }
        all
    })
    .await
}

/// Where a group is at home now, if anywhere.
fn at_home(status: Option<&ClusterStatus>, group: &str) -> Option<String> {
    let group = status?.groups.iter().find(|g| g.name.as_str() == group)?;
    let idle = matches!(group.state, GroupState::Standby) && group.leader.is_none();
    if idle { None } else { Some(group.leader.as_ref().map_or("some node".to_owned(), ToString::to_string)) }
}

/// A duplicate that may be the group's leader is no failure.
fn unsure(finding: Finding) -> Finding {
    if finding.verdict != Verdict::Failed || !finding.found.contains("answers for it") {
        return finding;
    }
    Finding::warning(
        finding.family,
        finding.check,
        finding.found.replace("although the group does not run", "which is right only if that is its leader"),
        "If the group does not run anywhere: find that machine and take the address off it.",
    )
}

#[cfg(test)]
mod tests;
