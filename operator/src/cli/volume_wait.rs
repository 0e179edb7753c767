//! `baton volume wait`: until volumes are in sync, with a bar for each resync on a terminal, and a line per change
//! elsewhere. Judging is pure; the agent is asked again and again, by way of any address that answers.

use super::client::ApiClient;
use super::exit::{CliError, Exit};
use super::paint::bytes;
use super::{print, read, volume_page, words};
use crate::status::{ClusterStatus, GroupStatus};
use baton_replicator::api::{PeerStatus, VolumeStatus};
use baton_replicator::types::{ConnectionState, DiskState, NodeName, Role};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks; the agent's own figures change about as often.
const LOOK: Duration = Duration::from_millis(500);
/// In plain text a resync is told again when it has got so much further.
const STEP_PERCENT: u64 = 10;

/// Arguments of `volume wait`.
#[derive(Args, Clone, Debug)]
pub struct WaitArgs {
    /// The volume (default: all of the cluster).
    #[arg(value_name = "VOLUME", add = super::complete::volumes())]
    pub name: Option<String>,
    /// Only the replicas on this node: of a host that has just joined, whatever becomes of the others.
    #[arg(long, value_name = "NODE", add = super::complete::nodes())]
    pub node: Option<String>,
    /// How long to wait.
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// One replica of a volume as seen from the answering node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    /// `webstore -> beta`.
    name: String,
    node: NodeName,
    /// What it does, a few words.
    doing: String,
    /// Bytes done and to do, if it copies.
    copied: Option<(u64, u64)>,
    in_sync: bool,
}

/// What the answering node's replicator says of a peer's replica; of one that is no business of its own (two standbys
/// say nothing to each other), what the leader has recorded.
fn replica(group: &GroupStatus, volume: &VolumeStatus, peer: &PeerStatus) -> Replica {
    let beside =
        volume.role == Role::Secondary && group.leader.as_ref().is_some_and(|leader| *leader != peer.node);
    let recorded = group.in_sync.contains(&peer.node);
    let known = group.nodes.iter().find(|n| n.node == peer.node);
    let arrow = if peer.connection == ConnectionState::SyncTarget { "<-" } else { "->" };
    Replica {
        name: format!("{} {arrow} {}", volume.volume, peer.node),
        node: peer.node.clone(),
        doing: match (&peer.resync, &peer.reason, known) {
            (Some(resync), ..) if resync.paused => "paused".to_owned(),
            (Some(resync), ..) => format!("{}/s", bytes(resync.bytes_per_s)),
            (None, _, Some(known)) if beside => match known.resync_percent {
                Some(percent) => format!("copies, {percent:.0}%"),
                None => known.reason.clone(),
            },
            (None, Some(reason), _) => reason.clone(),
            (None, None, _) => {
                format!("{}, {}", words::connection(peer.connection), words::disk(peer.disk))
            }
        },
        copied: peer.resync.map(|r| (r.done_bytes.min(r.total_bytes), r.total_bytes)),
        in_sync: if beside {
            // Who is reached by protocol A is in no record.
            recorded || known.is_some_and(|n| n.asynchronous && n.disk == Some(DiskState::UpToDate))
        } else {
            volume.disk == DiskState::UpToDate
                && peer.connection == ConnectionState::Connected
                && peer.disk == DiskState::UpToDate
                && peer.dirty_bytes == 0
                && peer.resync.is_none()
        },
    }
}

/// The answering node's own replica.
fn own(me: &NodeName, volume: &VolumeStatus) -> Replica {
    let source = volume.peers.iter().find(|p| p.connection == ConnectionState::SyncTarget);
    Replica {
        name: format!("{} on {me}", volume.volume),
        node: me.clone(),
        doing: words::disk(volume.disk).to_owned(),
        copied: source.and_then(|p| p.resync).map(|r| (r.done_bytes.min(r.total_bytes), r.total_bytes)),
        in_sync: volume.disk == DiskState::UpToDate,
    }
}

/// Every replica that is waited for.
fn replicas(status: &ClusterStatus, args: &WaitArgs) -> Vec<Replica> {
    let me = &status.node;
    let volumes = status.groups.iter().flat_map(|g| g.volumes.iter().map(move |v| (g, v)));
    let wanted = |v: &VolumeStatus| args.name.as_ref().is_none_or(|n| n == v.volume.as_str());
    let mut all = Vec::new();
    for (group, volume) in volumes.filter(|(_, v)| wanted(v)) {
        let peers = volume.peers.iter().map(|peer| replica(group, volume, peer));
        match &args.node {
            Some(node) if node == me.as_str() => all.push(own(me, volume)),
            Some(node) => {
                let before = all.len();
                all.extend(peers.filter(|r| r.node.as_str() == node));
                if all.len() == before {
                    // The agent has it from the specification, its replicator not yet.
                    let doing = format!("{me} does not replicate to it yet");
                    let name = format!("{} -> {node}", volume.volume);
                    all.push(Replica { name, node: me.clone(), doing, copied: None, in_sync: false });
                }
            }
            None if volume.peers.is_empty() => all.push(own(me, volume)),
            None => all.extend(peers),
        }
    }
    all
}

/// The text of a replica where there is no terminal, and what it depends on: told again when that changes.
fn line(replica: &Replica) -> (String, String) {
    match replica.copied {
        Some((done, total)) => {
            let (_, percent) = volume_page::bar(done, total, 1);
            let step = done.saturating_mul(100) / total.max(1) / STEP_PERCENT;
            (
                format!("{}: {percent} of {}, {}", replica.name, bytes(total), replica.doing),
                format!("copies {step}"),
            )
        }
        None if replica.in_sync => (format!("{}: in sync", replica.name), "in sync".into()),
        None => (format!("{}: {}", replica.name, replica.doing), replica.doing.clone()),
    }
}

pub(super) async fn run(client: &ApiClient, args: &WaitArgs) -> Result<Exit, CliError> {
    let mut shown = Shown::new();
    let began = Instant::now();
    let mut last;
    loop {
        match client.get::<ClusterStatus>("/v1/status").await {
            Ok(status) => {
                let volumes: Vec<&VolumeStatus> = status.groups.iter().flat_map(|g| &g.volumes).collect();
                let wanted = |v: &&&VolumeStatus| args.name.as_ref().is_none_or(|n| n == v.volume.as_str());
                let chosen: Vec<&&VolumeStatus> = volumes.iter().filter(wanted).collect();
                if let (Some(name), true) = (&args.name, chosen.is_empty()) {
                    return Err(read::unknown("volume", name, volumes.iter().map(|v| v.volume.as_str())));
                }
                if let Some(node) =
                    args.node.as_ref().filter(|n| status.nodes.iter().all(|k| k.name.as_str() != *n))
                {
                    let known = status.nodes.iter().map(|n| n.name.as_str());
                    return Err(read::unknown("node", node, known));
                }
                let all = replicas(&status, args);
                shown.show(&all);
                if all.iter().all(|r| r.in_sync) {
                    shown.end();
                    let replicas = if all.len() == 1 { "replica" } else { "replicas" };
                    return print(&format!("{} {replicas} in sync.\n", all.len()));
                }
                let waiting: Vec<String> = all.iter().filter(|r| !r.in_sync).map(|r| line(r).0).collect();
                last = waiting.join("; ");
            }
            // The first answer must come; later an agent that is away is waited out.
            Err(error) if !shown.ever => return Err(error),
            Err(error) => last = error.message,
        }
        if began.elapsed() + LOOK > args.timeout {
            shown.end();
            let what = format!("not in sync after {}: {last}", humantime::format_duration(args.timeout));
            return Err(CliError::new(Exit::Timeout, what, "It goes on by itself: see 'baton volume list'."));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Progress on standard error.
struct Shown {
    bars: Option<MultiProgress>,
    by_name: BTreeMap<String, ProgressBar>,
    told: BTreeMap<String, String>,
    ever: bool,
}

impl Shown {
    fn new() -> Self {
        let bars = io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, by_name: BTreeMap::new(), told: BTreeMap::new(), ever: false }
    }

    fn show(&mut self, all: &[Replica]) {
        self.ever = true;
        let Some(bars) = &self.bars else {
            for replica in all {
                let (text, key) = line(replica);
                if self.told.get(&replica.name) != Some(&key) {
                    eprintln!("{text}");
                    self.told.insert(replica.name.clone(), key);
                }
            }
            return;
        };
        for replica in all {
            let bar =
                self.by_name.entry(replica.name.clone()).or_insert_with(|| bars.add(ProgressBar::new(1)));
            let copying = "{prefix} [{bar:20}] {percent}% of {binary_total_bytes} {msg} eta {eta}";
            let template = if replica.copied.is_some() { copying } else { "{prefix} {msg}" };
            // Both templates are valid: a test draws them.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=>."));
            }
            bar.set_prefix(replica.name.clone());
            if let Some((done, total)) = replica.copied {
                bar.set_length(total);
                bar.set_position(done);
            }
            bar.set_message(if replica.in_sync { "in sync".to_owned() } else { replica.doing.clone() });
            bar.tick();
        }
    }

    fn end(&self) {
        for bar in self.by_name.values() {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn of(status: &ClusterStatus) -> Vec<Replica> {
        on(status, None)
    }

    fn on(status: &ClusterStatus, node: Option<&str>) -> Vec<Replica> {
        let node = node.map(str::to_owned);
        replicas(status, &WaitArgs { name: None, node, timeout: Duration::ZERO })
    }

    #[test]
    fn of_one_node_only() {
        let mut status = fixture::resyncing();
        assert!(!on(&status, Some("beta"))[0].in_sync);
        assert!(on(&status, Some("alpha"))[0].in_sync, "its own is complete");
        // gamma has just been applied: nothing is known of it, and that is not in sync.
        let unknown = on(&status, Some("gamma"));
        assert_eq!((unknown.len(), unknown[0].in_sync), (1, false));
        // A third host that is away keeps nobody waiting who asks for another one.
        let mut gamma = status.groups[0].volumes[0].peers[0].clone();
        gamma.node = fixture::node("gamma");
        (gamma.connection, gamma.disk) = (ConnectionState::Connected, DiskState::UpToDate);
        (gamma.dirty_bytes, gamma.resync) = (0, None);
        status.groups[0].volumes[0].peers.push(gamma);
        assert!(on(&status, Some("gamma"))[0].in_sync);
        assert!(!on(&status, None).iter().all(|r| r.in_sync), "without a name all are waited for");
    }

    #[test]
    fn a_standby_says_of_another_one_what_the_leader_recorded() {
        let mut status = fixture::healthy();
        status.node = fixture::node("beta");
        let volume = &mut status.groups[0].volumes[0];
        volume.role = Role::Secondary;
        volume.peers[0].node = fixture::node("alpha");
        let mut gamma = volume.peers[0].clone();
        gamma.node = fixture::node("gamma");
        (gamma.connection, gamma.disk) = (ConnectionState::Connecting, DiskState::DUnknown);
        volume.peers.push(gamma);
        assert_eq!(of(&status).iter().map(|r| r.in_sync).collect::<Vec<_>>(), [true, false]);
        status.groups[0].in_sync.push(fixture::node("gamma"));
        assert!(of(&status).iter().all(|r| r.in_sync), "or it would be waited for without end");
    }

    #[test]
    fn in_sync_means_connected_up_to_date_and_clean() {
        assert!(of(&fixture::healthy())[0].in_sync);
        let resyncing = of(&fixture::resyncing());
        assert!(!resyncing[0].in_sync);
        assert_eq!(resyncing[0].copied, Some((251_658_240, 536_870_912)));
        assert!(!of(&fixture::down())[0].in_sync);
        let mut dirty = fixture::healthy();
        dirty.groups[0].volumes[0].peers[0].dirty_bytes = 4096;
        assert!(!of(&dirty)[0].in_sync, "connected, but not clean");
        let mut alone = fixture::healthy();
        alone.groups[0].volumes[0].peers.clear();
        assert!(of(&alone)[0].in_sync, "nobody to sync with");
    }

    #[test]
    fn a_line_is_told_again_every_ten_per_cent() {
        let mut replica = of(&fixture::resyncing()).remove(0);
        let key = |r: &Replica| line(r).1;
        let before = key(&replica);
        replica.copied = Some((260_000_000, 536_870_912));
        assert_eq!(key(&replica), before);
        replica.copied = Some((280_000_000, 536_870_912));
        assert_ne!(key(&replica), before);
        assert_eq!(line(&replica).0, "webstore -> beta: 52.1% of 512 MiB, 15.0 MiB/s");
        for template in
            ["{prefix} [{bar:20}] {percent}% of {binary_total_bytes} {msg} eta {eta}", "{prefix} {msg}"]
        {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
