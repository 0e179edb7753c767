//! Whole replicators on disks that fail or are full: real files, real sockets, real errors of the kernel.

#[allow(dead_code, reason = "others use the rest")]
mod support;

use baton_replicator::frontend::Op;
use baton_replicator::types::{DiskState, Transport};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Host, LIMIT, two};

const SIZE: u64 = 24 << 20;
const MIB: u64 = 1 << 20;

async fn configure(alpha: &Host, beta: &Host) {
    alpha.configure(beta, &[beta.replicator.address()], Transport::Plain).await;
    beta.configure(alpha, &[alpha.replicator.address()], Transport::Plain).await;
}

fn same(a: &Host, b: &Host) -> bool {
    std::fs::read(a.image()).unwrap() == std::fs::read(b.image()).unwrap()
}

fn answer(host: &Host, id: u64) -> Bytes {
    host.direct.answer(id, LIMIT).expect("in time").expect("no error reaches the application")
}

/// The leader's backing file loses its second half: reads of it are errors, as from a device with bad blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_errs_reads_and_writes_through_its_peer() {
    let dir = tempfile::tempdir().unwrap();
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    for id in 1..=20 {
        assert!(alpha.write(id, id * MIB, vec![id as u8; MIB as usize]));
    }
    std::fs::OpenOptions::new().write(true).open(alpha.image()).unwrap().set_len(SIZE / 2).unwrap();
    for id in 13..=20 {
        alpha.direct.ask(100 + id, Op::Read { offset: id * MIB, len: MIB as u32 });
    }
    alpha.until("diskless", |s| s.disk == DiskState::Diskless).await;
    assert!(alpha.direct.answer(113, Duration::from_millis(300)).is_none(), "not before it has left the set");
    alpha.leave_set().await;
    for id in 13..=20 {
        assert!(answer(&alpha, 100 + id).iter().all(|b| *b == id as u8), "MiB {id}");
    }
    assert!(alpha.write(200, 14 * MIB, vec![77; 8192]));
    alpha.direct.ask(201, Op::Flush);
    answer(&alpha, 201);
    alpha.direct.ask(202, Op::Read { offset: 14 * MIB, len: 16384 });
    let data = answer(&alpha, 202);
    assert!(data[..8192].iter().all(|b| *b == 77) && data[8192..].iter().all(|b| *b == 14));
    let status = alpha.status().await;
    assert_eq!(status.frozen, None);
    assert!(status.disk_reason.is_some_and(|r| r.contains("webstore.img")), "it names the file");
}

/// A small filesystem, and a file that takes most of it.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=14m", "tmpfs"]).arg(&at).status().unwrap();
        assert!(done.success(), "mounts");
        std::fs::write(at.join("ballast"), vec![1; 8 << 20]).unwrap();
        Self(at)
    }

    fn make_space(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn volumes(dir: &Path, host: &str) -> PathBuf {
    dir.join(host).join("volumes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_leader_waits_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::new(volumes(dir.path(), "alpha"));
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    for id in 1..=9 {
        alpha.direct.ask(id, Op::Write { offset: id * MIB, data: vec![id as u8; MIB as usize].into() });
    }
    let status = alpha.until("full", |s| s.full).await;
    assert_eq!(status.disk, DiskState::UpToDate);
    let frozen = alpha.until("a reason", |s| s.frozen.is_some()).await.frozen.unwrap();
    assert!(frozen.contains("the backing store is full") && frozen.contains("webstore.img"), "{frozen}");
    let waiting: Vec<u64> =
        (1..=9).filter(|id| alpha.direct.answer(*id, Duration::from_millis(50)).is_none()).collect();
    assert!(!waiting.is_empty(), "9 MiB do not fit");
    small.make_space();
    waiting.iter().for_each(|id| drop(answer(&alpha, *id)));
    let status = alpha.until("space", |s| !s.full).await;
    assert_eq!((status.frozen, status.disk_reason), (None, None));
    assert!(same(&alpha, &beta), "nothing was cut short");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_standby_drops_out_and_comes_back_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::new(volumes(dir.path(), "beta"));
    let (alpha, beta, _pki) = two(dir.path(), SIZE);
    configure(&alpha, &beta).await;
    alpha.lead_with(&beta).await;
    for id in 1..=9 {
        alpha.direct.ask(id, Op::Write { offset: id * MIB, data: vec![id as u8; MIB as usize].into() });
    }
    beta.until("full", |s| s.full).await;
    let why = "its backing store is full";
    alpha.until(why, |s| s.peers[0].reason.as_ref().is_some_and(|r| r.contains(why))).await;
    // The agent takes it out; the leader goes on.
    alpha.lead_alone().await;
    for id in 1..=9 {
        answer(&alpha, id);
    }
    assert!(alpha.write(20, 0, vec![20; 4096]));
    small.make_space();
    alpha.lead_with(&beta).await;
    assert!(same(&alpha, &beta));
    assert!(!beta.status().await.full);
}
