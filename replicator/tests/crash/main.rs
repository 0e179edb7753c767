//! Crash consistency on the real device: replicators as processes, FUSE, loop devices, filesystems and MariaDB.
//!
//! * `blocks`, `files`, `mariadb`: both replicas lie on disks that record what they are asked (`disk`, `log`). The power
//!   is cut at random moments (`cut` has the rules), and what each disk may then hold is looked at.
//! * `power`: the power of all hosts is cut, and replicators start on what is left.
//! * `takeover`: a leader with three standbys dies in the middle of writes; each standby has missed something else.
//! * `tools`: fio and fsx on the device and on filesystems, then both replicas are compared byte by byte.
//!
//! Needs root, /dev/fuse and what `compose/scripts/setup.sh test` installs. `BATON_CRASH_ROUNDS=10` does ten times as much,
//! `BATON_CRASH_SEED` repeats what a failing test printed (the workload's choices and the cuts; not the timing).

mod blocks;
mod cut;
mod disk;
mod files;
mod image;
mod log;
mod mariadb;
mod mounts;
mod power;
#[path = "../rig/mod.rs"]
#[allow(dead_code, reason = "the worker's tests use the rest")]
mod rig;
mod takeover;
mod tools;

use cut::Cuts;
use disk::Disk;
use image::Filesystem;
use log::{Log, Tick};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rig::{Mounted, Pair, Replica};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How many times as much as `make test` does.
fn rounds() -> u64 {
    std::env::var("BATON_CRASH_ROUNDS").map_or(1, |n| n.parse().expect("BATON_CRASH_ROUNDS is a number"))
}

/// Whether this machine can do it; then with mounts that are this test's own.
fn available() -> bool {
    let available = rig::available();
    if available {
        mounts::own();
    }
    available
}

/// Printed, and settable. Small enough for every program that takes one.
fn seed() -> u64 {
    let seed = std::env::var("BATON_CRASH_SEED").map_or_else(
        |_| u64::from(rand::random::<u16>()),
        |n| n.parse().expect("BATON_CRASH_SEED is a number"),
    );
    println!("BATON_CRASH_SEED={seed}");
    seed
}

/// A workload ends here even if the machine is too busy for as many requests as it should make.
const WORK_LIMIT: Duration = Duration::from_secs(15);

/// Runs a workload until the disks were asked for so many things since then, and kills each host's worker once meanwhile.
/// Returns what it says, and from when to when it ran.
fn work_while_workers_die<T: Send>(
    pair: &Pair,
    log: &Log,
    requests: u64,
    work: impl FnOnce(&AtomicBool) -> T + Send,
) -> (T, (Tick, Tick)) {
    let (stop, first, before) = (AtomicBool::new(false), log.tick(), log.len());
    let (end, requests) = (Instant::now() + WORK_LIMIT * rounds() as u32, requests * rounds());
    let done = thread::scope(|scope| {
        let working = scope.spawn(|| work(&stop));
        let reached = |share: u64| {
            while log.len() - before < requests * share / 3 && Instant::now() < end && !working.is_finished()
            {
                thread::sleep(Duration::from_millis(10));
            }
        };
        reached(1);
        pair.alpha.kill_worker();
        reached(2);
        pair.secondaries().iter().for_each(|host| host.kill_worker());
        reached(3);
        stop.store(true, Ordering::SeqCst);
        working.join().unwrap()
    });
    println!("the disks were asked for {} things", log.len() - before);
    (done, (first, log.tick()))
}

/// A pair whose replicas lie on disks that record. Dropped in this order.
struct Stage {
    pair: Pair,
    _disks: Vec<Disk>,
    log: Arc<Log>,
    size_bytes: u64,
    dir: tempfile::TempDir,
}

/// The disks' numbers in the log.
const REPLICAS: [&str; 3] =
    ["the primary's replica", "the secondary's replica", "the other secondary's replica"];

impl Stage {
    fn start(hosts: usize, size_bytes: u64, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::<Log>::default();
        let disk = |n| Disk::start(dir.path(), &log, n, size_bytes, seed + n as u64);
        let disks: Vec<Disk> = (0..hosts).map(disk).collect();
        let on = |disk: &Disk| Replica { size_bytes, device: Some(disk.device.clone()), dir: None };
        let pair = Pair::of(disks.iter().map(on).collect(), 1);
        Self { pair, _disks: disks, log, size_bytes, dir }
    }

    /// The replicators end; their logs and a directory stay.
    fn end(self) -> Recording {
        let Self { log, size_bytes, dir, _disks: disks, .. } = self;
        Recording { log, hosts: disks.len(), size_bytes, dir }
    }
}

/// What is left of a stage.
struct Recording {
    log: Arc<Log>,
    hosts: usize,
    size_bytes: u64,
    dir: tempfile::TempDir,
}

impl Recording {
    /// Opens what each replica's disk holds after `count` cuts between two ticks, half of them just after the workload was
    /// told that something is durable. The first problem is the error.
    fn cut(
        &self,
        ticks: (Tick, Tick),
        confirmed: &[Tick],
        count: u64,
        seed: u64,
        filesystem: Filesystem,
        look: impl Fn(&Path, Tick) -> Result<(), String>,
    ) -> Result<(), String> {
        for (disk, name) in REPLICAS.iter().enumerate().take(self.hosts) {
            let mut random = StdRng::seed_from_u64(seed + disk as u64);
            let mut cuts = Cuts::new(&self.log, disk, self.size_bytes);
            let moments = cuts.moments(confirmed);
            let at = |n| match moments.choose(&mut random) {
                Some(tick) if n % 2 == 0 => *tick,
                _ => random.random_range(ticks.0..=ticks.1),
            };
            let mut at: Vec<Tick> = (0..count).map(at).collect();
            at.sort_unstable();
            for tick in at {
                let image = cuts.at(tick, &mut random);
                image::open(&image, filesystem, self.dir.path(), |root| look(root, tick))
                    .map_err(|e| format!("{name}, cut at {tick}: {e}"))?;
            }
        }
        Ok(())
    }
}

fn each_replica_holds_what_a_flush_confirmed(hosts: usize) {
    if !available() {
        return;
    }
    let (seed, size_bytes) = (seed(), 8 << 20);
    let stage = Stage::start(hosts, size_bytes, seed);
    let device = stage.pair.device.clone();
    let (history, _) = work_while_workers_die(&stage.pair, &stage.log, 2000, |stop| {
        blocks::write(&device, size_bytes / baton_replicator::store::BLOCK, seed, &stage.log, stop)
    });
    std::fs::File::open(&device).unwrap().sync_all().unwrap();
    let last = stage.log.tick();
    let log = stage.end().log;
    for (disk, name) in REPLICAS.iter().enumerate().take(hosts) {
        let ops = log.of(disk);
        let cut = |ops: Vec<_>| history.cut(Cuts::of(ops, size_bytes), last, 100 * rounds(), seed);
        println!("{name}: {} requests", ops.len());
        cut(ops.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        // The oracle notices a disk that was not flushed, and one that was not written to.
        let unflushed =
            ops.iter().filter(|r| r.op != baton_replicator::frontend::Op::Flush).cloned().collect();
        println!("{name}, without flushes: {}", cut(unflushed).expect_err("a missing flush is noticed"));
        let skipped = ops.iter().enumerate().filter(|(n, _)| n % 10 != 0).map(|(_, r)| r.clone()).collect();
        println!("{name}, every tenth missing: {}", cut(skipped).expect_err("a missing write is noticed"));
    }
}

#[test]
fn each_replica_holds_what_a_flush_confirmed_after_a_power_cut_at_any_moment() {
    each_replica_holds_what_a_flush_confirmed(2);
}

#[test]
fn each_of_three_replicas_holds_what_a_flush_confirmed_after_a_power_cut_at_any_moment() {
    each_replica_holds_what_a_flush_confirmed(3);
}

fn files_survive(filesystem: Filesystem) {
    if !available() {
        return;
    }
    let seed = seed();
    let stage = Stage::start(2, 64 << 20, seed);
    filesystem.make(&stage.pair.device);
    let root = stage.dir.path().join("mnt");
    let mounted = Mounted::new(&stage.pair.device, root.clone());
    let (history, ticks) = work_while_workers_die(&stage.pair, &stage.log, 2000, |stop| {
        files::write(&root, seed, &stage.log, stop)
    });
    drop(mounted);
    println!("{filesystem:?}: {} states of files", history.confirmed().len());
    let look = |root: &Path, tick| history.check(root, tick);
    stage.end().cut(ticks, &history.confirmed(), 8 * rounds(), seed, filesystem, look).unwrap();
}

#[test]
fn ext4_mounts_is_clean_and_holds_what_was_synced_after_a_power_cut_at_any_moment() {
    files_survive(Filesystem::Ext4);
}

#[test]
fn xfs_mounts_is_clean_and_holds_what_was_synced_after_a_power_cut_at_any_moment() {
    files_survive(Filesystem::Xfs);
}

#[test]
fn mariadb_opens_and_knows_every_commit_after_a_power_cut_at_any_moment() {
    if !available() {
        return;
    }
    let (seed, filesystem) = (seed(), Filesystem::Ext4);
    let stage = Stage::start(2, 96 << 20, seed);
    filesystem.make(&stage.pair.device);
    let (root, scratch) = (stage.dir.path().join("mnt"), stage.dir.path().join("scratch"));
    let mounted = Mounted::new(&stage.pair.device, root.clone());
    let server = mariadb::Server::start(&root.join("data"), &scratch).unwrap();
    server.make_tables();
    let (history, ticks) =
        work_while_workers_die(&stage.pair, &stage.log, 3000, |stop| server.write(seed, &stage.log, stop));
    drop(server);
    drop(mounted);
    println!("{} transactions", history.confirmed().len());
    let look = |root: &Path, tick| history.check(&root.join("data"), &scratch, tick);
    stage.end().cut(ticks, &history.confirmed(), 5 * rounds(), seed, filesystem, look).unwrap();
}
