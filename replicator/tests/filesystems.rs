//! Whole replicators on real filesystems that go wrong or can do more than others: an ext4 that its kernel makes read-only, an
//! xfs that shares blocks, an xfs that is full. Needs root and loop devices.

#[allow(dead_code, reason = "others use the rest")]
mod support;

use baton_replicator::api::DiscardRequest;
use baton_replicator::control::Controller;
use baton_replicator::frontend::Op;
use baton_replicator::types::{ConnectionState, DiskState, Role, Transport};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Host, LIMIT, two, volume};

const SIZE: u64 = 24 << 20;
const MIB: u64 = 1 << 20;

fn available() -> bool {
    let ok = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
    if !ok {
        eprintln!("SKIPPED: needs root and loop devices");
    }
    ok
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A filesystem in a file, mounted where a host's volumes are.
struct Filesystem {
    at: PathBuf,
}

impl Filesystem {
    fn new(dir: &Path, host: &str, size: u64, mkfs: &[&str], options: &str) -> Self {
        let (image, at) = (dir.join(format!("{host}.fs")), dir.join(host).join("volumes"));
        std::fs::create_dir_all(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(size).unwrap();
        let image = image.to_str().unwrap();
        run(mkfs[0], &[&mkfs[1..], &[image]].concat());
        run("mount", &["-o", options, image, at.to_str().unwrap()]);
        Self { at }
    }

    /// With errors=remount-ro, what most distributions mount with.
    fn ext4(dir: &Path, host: &str) -> Self {
        Self::new(dir, host, 64 * MIB, &["mkfs.ext4", "-q", "-F"], "loop,errors=remount-ro")
    }

    /// The smallest that an xfs for real use may be.
    fn xfs(dir: &Path, host: &str) -> Self {
        Self::new(dir, host, 304 * MIB, &["mkfs.xfs", "-q", "-m", "reflink=1"], "loop")
    }

    /// The kernel finds an error in it and makes it read-only, whoever has files open there.
    fn turn_read_only(&self) {
        let device = run("findmnt", &["-no", "SOURCE", self.at.to_str().unwrap()]);
        let name = Path::new(&device).file_name().unwrap().to_str().unwrap().to_owned();
        std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "1\n").unwrap();
    }

    fn free(&self) -> u64 {
        let stat = statvfs(&self.at).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Takes all space but so much of it.
    fn fill(&self, but: u64) {
        let file = std::fs::File::create(self.ballast()).unwrap();
        // What the filesystem keeps for itself is not always in the figure.
        let sizes = (0..32).map(|mib| self.free().saturating_sub(but + mib * MIB));
        let filled = sizes.clone().any(|size| fallocate(&file, FallocateFlags::empty(), 0, size).is_ok());
        assert!(filled, "{:?}", sizes.collect::<Vec<_>>());
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

async fn configure(alpha: &Host, beta: &Host) {
    alpha.configure(beta, &[beta.replicator.address()], Transport::Plain).await;
    beta.configure(alpha, &[alpha.replicator.address()], Transport::Plain).await;
}

fn same(a: &Host, b: &Host) -> bool {
    std::fs::read(a.image()).unwrap() == std::fs::read(b.image()).unwrap()
}

fn ask(host: &Host, id: u64, offset: u64, byte: u8) {
    host.direct.ask(id, Op::Write { offset, data: vec![byte; MIB as usize].into() });
}

fn answered(host: &Host, id: u64) -> bytes::Bytes {
    host.direct.answer(id, LIMIT).expect("in time").expect("no error reaches the application")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_filesystem_turns_read_only_goes_on_through_its_peer() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::ext4(dir.path(), "alpha");
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    assert!(alpha.write(1, MIB, vec![11; MIB as usize]));
    filesystem.turn_read_only();
    ask(&alpha, 2, MIB, 22);
    ask(&alpha, 3, 4 * MIB, 33);
    let status = alpha.until("diskless", |s| s.disk == DiskState::Diskless).await;
    let reason = status.disk_reason.unwrap();
    assert!(reason.contains("Read-only file system"), "{reason}");
    assert!(alpha.direct.answer(2, Duration::from_millis(300)).is_none(), "not before it has left the set");
    alpha.leave_set().await;
    answered(&alpha, 2);
    answered(&alpha, 3);
    alpha.direct.ask(4, Op::Flush);
    answered(&alpha, 4);
    alpha.direct.ask(5, Op::Read { offset: MIB, len: MIB as u32 });
    assert!(answered(&alpha, 5).iter().all(|b| *b == 22), "from beta");
    let there = std::fs::read(beta.image()).unwrap();
    assert!(there[MIB as usize..2 * MIB as usize].iter().all(|b| *b == 22));
    assert!(there[4 * MIB as usize..5 * MIB as usize].iter().all(|b| *b == 33));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_whose_filesystem_turns_read_only_is_left_behind() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::ext4(dir.path(), "beta");
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    assert!(alpha.write(1, MIB, vec![11; MIB as usize]));
    filesystem.turn_read_only();
    ask(&alpha, 2, 2 * MIB, 22);
    let status = beta.until("a failed disk", |s| s.disk == DiskState::Failed).await;
    assert!(status.disk_reason.is_some_and(|r| r.contains("Read-only file system")));
    alpha.until("a peer that does not count", |s| !s.peers[0].resynced).await;
    assert!(
        alpha.direct.answer(2, Duration::from_millis(300)).is_none(),
        "beta is a member until the agent says so"
    );
    alpha.lead_alone().await;
    answered(&alpha, 2);
    assert!(alpha.write(3, 3 * MIB, vec![33; MIB as usize]));
    assert_eq!(alpha.status().await.disk, DiskState::UpToDate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_xfs_waits_on_the_leader_and_goes_on_when_there_is_space() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::xfs(dir.path(), "alpha");
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    filesystem.fill(4 * MIB);
    for id in 1..=9 {
        ask(&alpha, id, id * MIB, id as u8);
    }
    let status = alpha.until("full", |s| s.full && s.frozen.is_some()).await;
    assert_eq!(status.disk, DiskState::UpToDate);
    let frozen = status.frozen.unwrap();
    assert!(frozen.contains("the backing store is full") && frozen.contains("No space left"), "{frozen}");
    let waiting: Vec<u64> =
        (1..=9).filter(|id| alpha.direct.answer(*id, Duration::from_millis(50)).is_none()).collect();
    assert!(!waiting.is_empty(), "9 MiB do not fit");
    std::fs::remove_file(filesystem.ballast()).unwrap();
    waiting.iter().for_each(|id| drop(answered(&alpha, *id)));
    let status = alpha.until("space", |s| !s.full).await;
    assert_eq!((status.frozen, status.disk_reason), (None, None));
    assert!(same(&alpha, &beta), "nothing was cut short");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_xfs_drops_the_standby_out_until_there_is_space() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::xfs(dir.path(), "beta");
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    filesystem.fill(4 * MIB);
    for id in 1..=9 {
        ask(&alpha, id, id * MIB, id as u8);
    }
    beta.until("full", |s| s.full).await;
    let why = "its backing store is full";
    alpha.until(why, |s| s.peers[0].reason.as_ref().is_some_and(|r| r.contains(why))).await;
    alpha.lead_alone().await;
    for id in 1..=9 {
        answered(&alpha, id);
    }
    std::fs::remove_file(filesystem.ballast()).unwrap();
    alpha.lead_with(&beta).await;
    assert!(same(&alpha, &beta));
    assert!(!beta.status().await.full);
}

/// Both went on alone. There is no room for a second copy of beta's data (it would have to leave 256 MiB), and none is needed:
/// the blocks are shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_blocks_can_be_shared_the_copy_of_the_discarded_side_needs_no_room() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let filesystem = Filesystem::xfs(dir.path(), "beta");
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    for id in 1..=20 {
        assert!(alpha.write(id, id * MIB, vec![id as u8; MIB as usize]));
    }
    beta.replicator.stop().await;
    drop(beta);
    alpha.until("beta is away", |s| s.peers[0].connection != ConnectionState::Connected).await;
    alpha.lead_alone().await;
    assert!(alpha.write(30, MIB, vec![77; MIB as usize]));
    // Where alpha does not look for it, beta leads as well: against all rules.
    let beta = Host::start(dir.path(), "beta", SIZE);
    beta.configure(&alpha, &[alpha.replicator.address()], Transport::Plain).await;
    beta.until("attached", |s| s.disk != DiskState::Attaching).await;
    beta.alone_in(2, Role::Primary).await;
    assert!(beta.write(1, 2 * MIB, vec![99; MIB as usize]));
    beta.alone_in(3, Role::Secondary).await;
    let before = std::fs::read(beta.image()).unwrap();
    alpha.configure(&beta, &[beta.replicator.address()], Transport::Plain).await;
    alpha.alone_in(3, Role::Primary).await;
    beta.until("at odds", |s| s.peers[0].apart.is_some()).await;
    filesystem.fill(16 * MIB);
    let free = filesystem.free();
    beta.replicator.discard(volume(), DiscardRequest { snapshot: true }).await.unwrap();
    assert!(filesystem.free() + MIB > free, "{} of {free} bytes are left", filesystem.free());
    std::fs::remove_file(filesystem.ballast()).unwrap();
    alpha.until("the resync", |s| s.peers[0].resynced).await;
    assert!(same(&alpha, &beta));
    let kept = beta.status().await.snapshots;
    assert_eq!(kept.len(), 1);
    let copy = beta.image().with_file_name(&kept[0].name);
    assert!(std::fs::read(copy).unwrap() == before, "what beta had, byte by byte");
}
