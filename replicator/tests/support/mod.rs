//! Two replicators of one process, with certificates, real files and real TCP; requests are handed in directly.

mod direct;
#[path = "../../src/transport/tests/pki.rs"]
mod pki;

use baton_replicator::api::{
    Backing, Desired, Membership, PeerConfig, ServeUntil, VolumeConfig, VolumeStatus,
};
use baton_replicator::control::Controller;
use baton_replicator::driver::{Options, Replicator};
use baton_replicator::frontend::Op;
use baton_replicator::hold::Holder;
use baton_replicator::tls::TlsFiles;
use baton_replicator::transport::Secret;
use baton_replicator::types::{
    Epoch, GroupName, Instant, Member, NodeName, Protocol, Role, TermId, Transport, VolumeName,
};
use bytes::Bytes;
use direct::Direct;
pub use pki::Pki;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(20);
const EPOCH: Epoch = Epoch { number: 1, term: TermId(1) };

/// One replicator.
pub struct Host {
    pub node: NodeName,
    pub direct: Arc<Direct>,
    pub replicator: Replicator,
    dir: PathBuf,
    size: u64,
}

pub fn volume() -> VolumeName {
    VolumeName::new("webstore").unwrap()
}

impl Host {
    pub fn start(dir: &Path, name: &str, size: u64) -> Self {
        let (pki, dir) = (dir.join("pki"), dir.join(name));
        std::fs::create_dir_all(dir.join("run")).unwrap();
        std::fs::create_dir_all(dir.join("dev")).unwrap();
        let node = NodeName::new(name).unwrap();
        let direct = Arc::<Direct>::default();
        let replicator = Replicator::start(Options {
            node: node.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: Secret::new("a secret of more than thirty-two bytes, for tests").unwrap(),
            certificate: TlsFiles::of_node(&pki, name),
            accept_before: false,
            state_dir: dir.clone(),
            run_dir: dir.join("run"),
            device_dir: dir.join("dev"),
            host_device_dir: dir.join("dev"),
            host_boot: "first".into(),
            front_end: direct.front_end(),
            holder: Holder::none(),
        })
        .unwrap();
        Self { node, direct, replicator, dir, size }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.join("volumes/webstore.img")
    }

    pub async fn configure(&self, peer: &Host, addresses: &[SocketAddr], transport: Transport) {
        let config = VolumeConfig {
            volume: volume(),
            group: GroupName::new("web").unwrap(),
            size_bytes: self.size,
            backing: Backing::File(self.image()),
            metadata: self.dir.join("volumes/webstore.meta"),
            peers: vec![PeerConfig {
                node: peer.node.clone(),
                address: addresses[0],
                alternatives: addresses[1..].to_vec(),
            }],
            protocol: Protocol::C,
            protocols: Default::default(),
            after_split_brain: Default::default(),
            transport,
            peer_timeout_ms: 10_000,
            resync_rate: 0,
            resync_min_rate: 4 << 20,
            target_latency_us: 0,
            disk_timeout_ms: 30_000,
            front_end: Default::default(),
        };
        self.replicator.configure(config).await.unwrap();
    }

    pub async fn status(&self) -> VolumeStatus {
        self.replicator.status(None, Duration::ZERO).await.volumes.remove(0)
    }

    async fn lead(&self, required: Vec<Member>, membership: Membership) {
        self.becomes(Role::Primary, EPOCH, required, membership).await;
    }

    async fn becomes(&self, role: Role, epoch: Epoch, required: Vec<Member>, membership: Membership) {
        let (accept_data_loss, force, order) = (false, false, 0);
        let desired = Desired { epoch, role, required, accept_data_loss, force, order, membership };
        tokio::time::timeout(LIMIT, self.replicator.desired(volume(), desired))
            .await
            .expect("in time")
            .unwrap();
        let (group, until) = (GroupName::new("web").unwrap(), Instant(u64::MAX));
        self.replicator.serve_until(&ServeUntil { group, epoch, until });
    }

    /// Takes a role in the epoch of this number, with nobody that must have what it writes.
    pub async fn alone_in(&self, number: u64, role: Role) {
        let epoch = Epoch { number, term: TermId(number) };
        self.becomes(role, epoch, Vec::new(), Membership::Member).await;
    }

    /// Waits by polling, with a deadline: what is waited for here does not always raise the status' version.
    pub async fn until(&self, what: &str, wanted: impl Fn(&VolumeStatus) -> bool) -> VolumeStatus {
        let end = std::time::Instant::now() + LIMIT;
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(std::time::Instant::now() < end, "{what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Becomes primary, and the peer a member.
    pub async fn lead_with(&self, peer: &Host) {
        self.lead(Vec::new(), Membership::Member).await;
        self.until("resync", |s| s.peers[0].resynced).await;
        let member = Member { node: peer.node.clone(), boot: peer.status().await.boot };
        self.lead(vec![member], Membership::Member).await;
        self.until("settling", |s| s.peers[0].settled).await;
    }

    /// Becomes primary alone.
    pub async fn lead_alone(&self) {
        self.lead(Vec::new(), Membership::Member).await;
    }

    /// What the agent says when etcd's in-sync set is without this node.
    pub async fn leave_set(&self) {
        let required = self.status().await.required;
        self.lead(required, Membership::Left).await;
    }

    /// A write that is on both before it is answered.
    pub fn write(&self, id: u64, offset: u64, data: impl Into<Bytes>) -> bool {
        self.direct.ask(id, Op::Write { offset, data: data.into() });
        self.direct.answer(id, LIMIT).is_some_and(|r| r.is_ok())
    }
}

/// Two nodes with certificates of one authority.
pub fn two(dir: &Path, size: u64) -> (Host, Host, Pki) {
    let pki = Pki::new(&dir.join("pki"));
    pki.node("alpha");
    pki.node("beta");
    (Host::start(dir, "alpha", size), Host::start(dir, "beta", size), pki)
}
