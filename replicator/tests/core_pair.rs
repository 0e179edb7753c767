//! Two whole replicators in one process: real files, real TCP on the loopback; first with requests handed in
//! directly, then, for root, with FUSE and a loop device.

#[path = "support/direct.rs"]
mod direct;
#[path = "core_pair/growth.rs"]
mod growth;

use baton_replicator::api::{
    Backing, Desired, Membership, PeerConfig, ResyncRequest, ServeUntil, VerifyRequest, VerifyState,
    VolumeConfig, VolumeStatus,
};
use baton_replicator::control::Controller;
use baton_replicator::driver::{FrontEndFactory, Options, Replicator};
use baton_replicator::frontend::{Op, fuse};
use baton_replicator::hold::Holder;
use baton_replicator::tls::TlsFiles;
use baton_replicator::transport::Secret;
use baton_replicator::types::{
    DiskState, Epoch, GroupName, Instant, Member, NodeName, Protocol, Role, TermId, Transport, VolumeName,
};
use bytes::Bytes;
use direct::Direct;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const SIZE: u64 = 24 << 20;
const LIMIT: Duration = Duration::from_secs(20);

struct Host {
    node: NodeName,
    dir: PathBuf,
    boot: String,
    size: u64,
    direct: Arc<Direct>,
    replicator: Option<Replicator>,
}

fn volume() -> VolumeName {
    VolumeName::new("webstore").unwrap()
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number) }
}

impl Host {
    fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(dir.join("run")).unwrap();
        std::fs::create_dir_all(dir.join("dev")).unwrap();
        let node = NodeName::new(name).unwrap();
        Self { node, dir, boot: "first".into(), size: SIZE, direct: Arc::default(), replicator: None }
    }

    fn start(&mut self, real: bool, listen: SocketAddr) -> SocketAddr {
        let front_end: FrontEndFactory = if real { Arc::new(fuse::start) } else { self.direct.front_end() };
        let replicator = Replicator::start(Options {
            node: self.node.clone(),
            listen,
            secret: Secret::new("a secret of more than thirty-two bytes, for tests").unwrap(),
            certificate: TlsFiles::of_node(&self.dir, "none"),
            accept_before: false,
            state_dir: self.dir.clone(),
            run_dir: self.dir.join("run"),
            device_dir: self.dir.join("dev"),
            host_device_dir: self.dir.join("dev"),
            host_boot: self.boot.clone(),
            front_end,
            holder: Holder::none(),
        })
        .unwrap();
        let address = replicator.address();
        self.replicator = Some(replicator);
        address
    }

    fn it(&self) -> &Replicator {
        self.replicator.as_ref().expect("it runs")
    }

    fn image(&self) -> PathBuf {
        self.dir.join("volumes/webstore.img")
    }

    async fn configure(&self, peer: &Host, address: SocketAddr) {
        let config = VolumeConfig {
            volume: volume(),
            group: GroupName::new("web").unwrap(),
            size_bytes: self.size,
            backing: Backing::File(self.image()),
            metadata: self.dir.join("volumes/webstore.meta"),
            peers: vec![PeerConfig { node: peer.node.clone(), address, alternatives: Vec::new() }],
            protocol: Protocol::C,
            protocols: Default::default(),
            after_split_brain: Default::default(),
            transport: Transport::Plain,
            peer_timeout_ms: 10_000,
            resync_rate: 0,
            resync_min_rate: 4 << 20,
            target_latency_us: 0,
            disk_timeout_ms: 30_000,
            front_end: Default::default(),
        };
        self.it().configure(config).await.unwrap();
    }

    async fn status(&self) -> VolumeStatus {
        self.it().status(None, Duration::ZERO).await.volumes.remove(0)
    }

    async fn desire(&self, role: Role, number: u64, required: Vec<Member>) -> VolumeStatus {
        let (epoch, accept_data_loss, force, order) = (epoch(number), false, false, 0);
        let desired =
            Desired { epoch, role, required, accept_data_loss, force, order, membership: Membership::Member };
        tokio::time::timeout(LIMIT, self.it().desired(volume(), desired)).await.expect("in time").unwrap()
    }

    fn serve(&self, number: u64) {
        let until = Instant(u64::MAX);
        self.it().serve_until(&ServeUntil {
            group: GroupName::new("web").unwrap(),
            epoch: epoch(number),
            until,
        });
    }

    async fn member(&self) -> Member {
        Member { node: self.node.clone(), boot: self.status().await.boot }
    }

    /// Waits, by the status' version and a deadline.
    async fn until(&self, what: &str, wanted: impl Fn(&VolumeStatus) -> bool) -> VolumeStatus {
        let end = std::time::Instant::now() + LIMIT;
        let mut version = None;
        loop {
            let status = self.it().status(version, Duration::from_millis(200)).await;
            version = Some(status.version);
            if let Some(found) = status.volumes.first().filter(|v| wanted(v)) {
                return found.clone();
            }
            assert!(std::time::Instant::now() < end, "{what}: {status:#?}");
        }
    }

    async fn admit(&self, peer: &Host, number: u64) {
        self.until("resync", |s| s.peers[0].resynced).await;
        self.desire(Role::Primary, number, vec![peer.member().await]).await;
        self.until("settling", |s| s.peers[0].settled).await;
    }

    fn write(&self, id: u64, offset: u64, byte: u8) -> bool {
        self.direct.ask(id, Op::Write { offset, data: vec![byte; 8192].into() });
        self.direct.answer(id, Duration::from_secs(5)).is_some_and(|r| r.is_ok())
    }

    fn flush(&self, id: u64) -> bool {
        self.direct.ask(id, Op::Flush);
        self.direct.answer(id, Duration::from_secs(5)).is_some_and(|r| r.is_ok())
    }
}

fn assert_equal(a: &Host, b: &Host) {
    let (one, other) = (std::fs::read(a.image()).unwrap(), std::fs::read(b.image()).unwrap());
    let differs = one.iter().zip(&other).position(|(x, y)| x != y);
    assert_eq!((one.len(), differs), (other.len(), None));
}

async fn pair(dir: &Path, real: bool) -> (Host, Host) {
    pair_of(dir, real, SIZE).await
}

async fn pair_of(dir: &Path, real: bool, size: u64) -> (Host, Host) {
    let (mut alpha, mut beta) = (Host::new(dir, "alpha"), Host::new(dir, "beta"));
    (alpha.size, beta.size) = (size, size);
    let any = "127.0.0.1:0".parse().unwrap();
    let at_alpha = alpha.start(real, any);
    let at_beta = beta.start(real, any);
    alpha.configure(&beta, at_beta).await;
    beta.configure(&alpha, at_alpha).await;
    let status = alpha.desire(Role::Primary, 1, Vec::new()).await;
    assert_eq!((status.role, status.disk), (Role::Primary, DiskState::UpToDate));
    alpha.serve(1);
    (alpha, beta)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_on_both_files_before_they_are_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, mut beta) = pair(dir.path(), false).await;
    assert!(alpha.write(1, 0, 7) && alpha.write(2, 20 << 20, 8), "alone");
    alpha.admit(&beta, 1).await;
    for id in 10..60 {
        assert!(alpha.write(id, (id % 13) * 8192 * 77, id as u8));
    }
    assert!(alpha.flush(60));
    assert_equal(&alpha, &beta);
    assert_eq!(beta.status().await.disk, DiskState::UpToDate);

    // The standby goes away: frozen until the agent says so.
    let at_beta = beta.it().address();
    beta.it().stop().await;
    drop(beta.replicator.take());
    alpha.direct.ask(70, Op::Write { offset: 0, data: vec![70; 4096].into() });
    assert!(alpha.direct.answer(70, Duration::from_millis(300)).is_none());
    alpha.until("frozen", |s| s.frozen.as_deref().is_some_and(|f| f.contains("waiting for beta"))).await;
    alpha.desire(Role::Primary, 1, Vec::new()).await;
    assert_eq!(alpha.direct.answer(70, LIMIT), Some(Ok(Bytes::new())));
    assert!(alpha.write(71, 3 << 20, 71));

    // And comes back: only what changed is copied.
    beta.start(false, at_beta);
    beta.configure(&alpha, alpha.it().address()).await;
    let synced = alpha.until("resync", |s| s.peers[0].resynced).await;
    assert_eq!(synced.peers[0].dirty_bytes, 0);
    alpha.admit(&beta, 1).await;
    assert!(alpha.flush(72));
    assert_equal(&alpha, &beta);

    // Handover: everything is there, and the old leader follows.
    alpha.desire(Role::Secondary, 1, Vec::new()).await;
    beta.desire(Role::Primary, 2, vec![alpha.member().await]).await;
    beta.serve(2);
    beta.direct.ask(80, Op::Read { offset: 0, len: 4096 });
    assert_eq!(beta.direct.answer(80, LIMIT), Some(Ok(Bytes::from(vec![70; 4096]))));
    assert!(beta.write(81, 5 << 20, 81) && beta.flush(82));
    assert_equal(&alpha, &beta);
    for host in [&alpha, &beta] {
        assert!(host.status().await.alarms.is_empty());
        host.it().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_flipped_in_a_backing_file_is_found_and_mended_while_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta) = pair(dir.path(), false).await;
    for id in 1..40 {
        assert!(alpha.write(id, id * 8192 * 31, id as u8));
    }
    alpha.admit(&beta, 1).await;
    assert!(alpha.flush(40));
    let verify = async |id: u64, repair: bool, load: bool| {
        let request = VerifyRequest { id, repair };
        alpha.it().verify(volume(), Some(request)).await.expect("begins");
        let mut writes = id * 100_000;
        loop {
            let status = alpha.status().await.verify.expect("one was begun");
            assert_eq!(status.id, id);
            if !status.state.is_running() {
                return (status, writes - id * 100_000);
            }
            if load {
                writes += 1;
                // Everywhere but in the first block, which rots.
                let at = 8192 + (writes * 7919 * 8192) % (SIZE - 16384);
                assert!(alpha.write(writes, at, writes as u8));
            } else {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let (clean, _) = verify(1, false, true).await;
    assert_eq!((clean.state, clean.checked_bytes), (VerifyState::Done, SIZE));
    assert_eq!((clean.mismatched_bytes, clean.unconfirmed), (0, 0), "{clean:?}");

    let file = std::fs::OpenOptions::new().read(true).write(true).open(beta.image()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1234).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 1234).unwrap();
    file.sync_all().unwrap();
    let (found, _) = verify(2, false, true).await;
    assert_eq!((found.mismatched_bytes, found.repaired_bytes), (4096, 0), "{found:?}");
    assert_eq!((found.mismatches[0].offset, &found.mismatches[0].peer), (0, &beta.node));
    let status = alpha.status().await;
    assert_eq!((status.peers[0].dirty_bytes, status.peers[0].settled), (4096, true));

    let (mended, _) = verify(3, true, true).await;
    assert_eq!((mended.mismatched_bytes, mended.repaired_bytes), (0, 4096), "{mended:?}");
    assert!(alpha.flush(50));
    assert_equal(&alpha, &beta);
    // A secondary has nothing to compare; stopping what does not run is no error.
    let refused = beta.it().verify(volume(), Some(VerifyRequest { id: 9, repair: false })).await;
    assert_eq!(refused.expect_err("refused").status, 409);
    alpha.it().verify(volume(), None).await.expect("nothing to stop");
    for host in [&alpha, &beta] {
        assert!(host.status().await.alarms.is_empty());
        host.it().stop().await;
    }
}

/// Bytes that a file takes up on its disk.
fn allocated(host: &Host) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(host.image()).unwrap().blocks() * 512
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sparse_replica_stays_sparse_and_a_pause_reaches_the_engine() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (alpha, mut beta) = pair(dir.path(), false).await;
    // 8 KiB in every 512 KiB: in a copy of 128 KiB there is more hole than data.
    for id in 1..48 {
        assert!(alpha.write(id, id << 19, id as u8));
    }
    alpha.admit(&beta, 1).await;
    assert!(alpha.flush(50));
    assert_equal(&alpha, &beta);
    let copied = alpha.status().await.peers[0].copied_bytes;
    assert_eq!(copied, SIZE, "a full sync");
    // With the filesystem's own blocks; copied as they were read it would be 6 MiB.
    assert!(allocated(&beta) <= MIB, "{} bytes, alpha {}", allocated(&beta), allocated(&alpha));

    // What was given back while it was away is given back there, too.
    for id in 100..612 {
        assert!(alpha.write(id, (8 << 20) + (id - 100) * 8192, 9));
    }
    assert!(alpha.flush(90) && allocated(&beta) >= 4 * MIB);
    let at_beta = beta.it().address();
    beta.it().stop().await;
    drop(beta.replicator.take());
    alpha.desire(Role::Primary, 1, Vec::new()).await;
    alpha.direct.ask(91, Op::Discard { offset: 8 << 20, len: 4 << 20 });
    assert_eq!(alpha.direct.answer(91, LIMIT), Some(Ok(Bytes::new())));
    let paused = alpha.it().resync(volume(), ResyncRequest { paused: true }).await.unwrap();
    assert!(paused.resync_paused);
    beta.start(false, at_beta);
    beta.configure(&alpha, alpha.it().address()).await;
    let held = alpha.until("a paused resync", |s| s.peers[0].resync.is_some_and(|r| r.paused)).await;
    assert!(held.peers[0].dirty_bytes >= 4 * MIB && !held.peers[0].resynced && allocated(&beta) >= 4 * MIB);
    alpha.it().resync(volume(), ResyncRequest { paused: false }).await.unwrap();
    alpha.admit(&beta, 1).await;
    assert!(alpha.flush(92));
    assert_equal(&alpha, &beta);
    assert!(allocated(&beta) <= MIB, "{} bytes", allocated(&beta));
    for host in [&alpha, &beta] {
        assert!(host.status().await.alarms.is_empty());
        host.it().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_replica_and_damaged_metadata_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta) = pair(dir.path(), false).await;
    let at_beta = beta.it().address();
    alpha.it().stop().await;
    drop((alpha.replicator, beta.replicator));
    let mut again = Host::new(dir.path(), "alpha");
    let meta = again.dir.join("volumes/webstore.meta");
    again.start(false, "127.0.0.1:0".parse().unwrap());
    let config = || VolumeConfig {
        volume: volume(),
        group: GroupName::new("web").unwrap(),
        size_bytes: SIZE,
        backing: Backing::File(again.image()),
        metadata: meta.clone(),
        peers: vec![PeerConfig { node: beta.node.clone(), address: at_beta, alternatives: Vec::new() }],
        protocol: Protocol::C,
        protocols: Default::default(),
        after_split_brain: Default::default(),
        transport: Transport::Plain,
        peer_timeout_ms: 2000,
        resync_rate: 0,
        resync_min_rate: 4 << 20,
        target_latency_us: 0,
        disk_timeout_ms: 30_000,
        front_end: Default::default(),
    };
    let good = std::fs::read(&meta).unwrap();
    let mut bad = good.clone();
    bad[..16384].fill(0x55);
    std::fs::write(&meta, &bad).unwrap();
    let error = again.it().configure(config()).await.expect_err("refused");
    assert!(
        error.detail.contains("webstore.meta") && error.detail.contains("block 0 at offset 0"),
        "{error}"
    );
    let moved = dir.path().join("elsewhere");
    std::fs::rename(&meta, &moved).unwrap();
    let error = again.it().configure(config()).await.expect_err("refused");
    assert!(error.detail.contains("webstore.meta is not"), "{error}");
    // One flipped bit is survived, and said.
    let mut flipped = good;
    flipped[70] ^= 1;
    std::fs::write(&meta, &flipped).unwrap();
    let status = again.it().configure(config()).await.expect("one copy is enough");
    assert!(status.alarms.iter().any(|a| a.contains("block 0 at offset 0")), "{:?}", status.alarms);
    again.it().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_device_is_replicated_and_read_back_on_the_other_side() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: needs root and /dev/fuse");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta) = pair(dir.path(), true).await;
    alpha.admit(&beta, 1).await;
    let device = alpha.status().await.device.expect("a device");
    let pattern: Vec<u8> = (0..SIZE).map(|i| (i / 4096 % 251) as u8).collect();
    let (path, data) = (device, pattern.clone());
    tokio::task::spawn_blocking(move || {
        let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&data).unwrap();
        file.sync_all().unwrap();
    })
    .await
    .unwrap();
    assert_equal(&alpha, &beta);
    alpha.desire(Role::Secondary, 1, Vec::new()).await;
    assert!(alpha.status().await.device.is_none());
    let status = beta.desire(Role::Primary, 2, vec![alpha.member().await]).await;
    beta.serve(2);
    let path = status.device.expect("a device");
    let found = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        let mut file = std::fs::File::open(path).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut found).unwrap();
        found
    })
    .await
    .unwrap();
    assert_eq!(found, pattern);
    for host in [&alpha, &beta] {
        host.it().stop().await;
    }
    assert!(std::fs::read_dir(beta.dir.join("dev")).unwrap().next().is_none(), "no symlink is left");
}
