//! The replicator's process is killed, replaced and fenced while a filesystem on its device is in use: real processes,
//! FUSE, loop devices and ext4. Needs root and /dev/fuse.

mod backup;
#[path = "../rig/mod.rs"]
#[allow(dead_code, reason = "the crash tests use the rest")]
mod rig;
#[path = "../standstill/mod.rs"]
mod standstill;

use baton_replicator::types::Role;
use rig::{Pair, WAIT, available, run, wait_for};
use rustix::process::Signal;
use standstill::Canary;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the pause may be.
const PAUSE: Duration = Duration::from_secs(2);
const BLOCK: usize = 16 << 10;
const BLOCKS: u64 = 512;

/// Writes blocks that say where and when they were written, each followed by fsync.
struct Writer {
    stop: Arc<AtomicBool>,
    /// How many were confirmed.
    count: Arc<AtomicU64>,
    thread: JoinHandle<std::io::Result<Written>>,
    canary: Canary,
    path: PathBuf,
}

#[derive(Default)]
struct Written {
    /// By block: the newest round that was confirmed.
    rounds: Vec<u64>,
    count: u64,
    longest: Duration,
}

fn block(at: u64, round: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        bytes.extend((at << 32 | round).to_le_bytes());
    }
    bytes
}

impl Writer {
    fn start(path: PathBuf, direct: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (on, counter, file) = (Arc::clone(&stop), Arc::clone(&count), path.clone());
        let thread = thread::spawn(move || {
            let flags = if direct { libc::O_DIRECT } else { 0 };
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(file)?;
            let mut written = Written { rounds: vec![0; BLOCKS as usize], ..Written::default() };
            let mut aligned = baton_replicator::store::AlignedBuf::zeroed(BLOCK);
            for turn in 0_u64.. {
                if on.load(Ordering::SeqCst) {
                    break;
                }
                let (at, round) = (turn * 7919 % BLOCKS, turn / BLOCKS + 1);
                aligned.copy_from_slice(&block(at, round));
                let began = Instant::now();
                file.write_all_at(&aligned, at * BLOCK as u64)?;
                file.sync_all()?;
                written.longest = written.longest.max(began.elapsed());
                written.rounds[at as usize] = round;
                written.count += 1;
                counter.fetch_add(1, Ordering::SeqCst);
            }
            Ok(written)
        });
        Self { stop, count, thread, canary: Canary::start(), path }
    }

    /// No error, no pause that was too long; what was confirmed is there once the filesystem is mounted anew.
    fn end(self) -> (PathBuf, Written) {
        self.stop.store(true, Ordering::SeqCst);
        let written = self.thread.join().unwrap().expect("no I/O error");
        let standstill = self.canary.end();
        let pause = written.longest.saturating_sub(standstill);
        assert!(pause <= PAUSE, "a write took {:?}, of which {standstill:?} a standstill", written.longest);
        (self.path, written)
    }

    /// What waits for the device is told, in time, that it failed.
    fn fails(self) {
        let end = Instant::now() + WAIT;
        while !self.thread.is_finished() {
            assert!(Instant::now() < end, "the writer still waits");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(self.thread.join().unwrap().is_err());
    }
}

fn check(path: &Path, written: &Written) {
    let file = File::open(path).unwrap();
    let mut found = vec![0; BLOCK];
    for (at, round) in written.rounds.iter().enumerate().filter(|(_, round)| **round > 0) {
        file.read_exact_at(&mut found, at as u64 * BLOCK as u64).unwrap();
        assert!(found == block(at as u64, *round), "block {at}, round {round}");
    }
}

#[test]
fn a_worker_killed_under_load_twenty_times_is_a_pause_each_time() {
    if !available() {
        return;
    }
    let mut pair = Pair::start();
    let dir = pair.mounted.as_ref().unwrap().0.clone();
    let writers = [("buffered", false), ("direct", true), ("more", false), ("again", true)]
        .map(|(name, direct)| Writer::start(dir.join(name), direct));
    let generation = pair.alpha.volume().unwrap().generation;
    for restarts in 1..=20 {
        thread::sleep(Duration::from_millis(1050 + restarts % 5 * 61));
        pair.alpha.kill_worker();
        pair.flows(restarts);
    }
    let written = writers.map(Writer::end);
    for (path, w) in &written {
        println!("{}: {} writes, the longest {:?}", path.display(), w.count, w.longest);
    }
    assert!(written.iter().all(|(_, w)| w.count > 20), "they went on all the time");
    let volume = pair.alpha.volume().unwrap();
    assert_eq!((volume.generation, volume.required.len()), (generation, 1), "nobody left the set");
    drop(pair.mounted.take());
    pair.assert_equal();
    run("fsck.ext4", &["-fn", pair.device.to_str().unwrap()]);
    pair.mounted = Some(rig::Mounted::new(&pair.device, dir));
    for (path, w) in &written {
        check(path, w);
    }
}

#[test]
fn a_binary_is_replaced_under_load_and_a_broken_one_is_not() {
    if !available() {
        return;
    }
    let pair = Pair::start();
    let writer = Writer::start(pair.mounted.as_ref().unwrap().0.join("file"), false);
    let first = pair.alpha.worker();
    let (program, aside) = (&pair.alpha.program, pair.alpha.dir.join("aside"));
    std::fs::rename(program, &aside).unwrap();
    std::fs::write(program, "#!/bin/sh\nexit 1\n").unwrap();
    run("chmod", &["755", program.to_str().unwrap()]);
    pair.alpha.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(pair.alpha.worker(), first, "one that cannot say its version replaces nothing");
    std::fs::rename(&aside, program).unwrap();
    pair.alpha.signal(Signal::HUP);
    wait_for("another worker", || (pair.alpha.worker() != first).then_some(()));
    pair.flows(1);
    let (path, written) = writer.end();
    check(&path, &written);
}

#[test]
fn a_fenced_node_stays_frozen_when_its_worker_is_started_again() {
    if !available() {
        return;
    }
    let pair = Pair::start();
    let writer = Writer::start(pair.mounted.as_ref().unwrap().0.join("file"), true);
    pair.agent.vouches.store(false, Ordering::SeqCst);
    wait_for("the permission to run out", || pair.alpha.volume()?.frozen);
    // What was answered just before is counted a moment later.
    let mut confirmed = writer.count.load(Ordering::SeqCst);
    let mut since = Instant::now();
    wait_for("the last answers to be counted", || {
        let now = writer.count.load(Ordering::SeqCst);
        if now != confirmed {
            (confirmed, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(())
    });
    pair.alpha.kill_worker();
    wait_for("it to be primary again", || {
        let status = pair.alpha.status()?;
        let volume = status.volumes.first()?;
        (status.worker_restarts == 1 && volume.role == Role::Primary && volume.device.is_some()).then_some(())
    });
    thread::sleep(Duration::from_millis(300));
    assert!(pair.alpha.volume().unwrap().frozen.is_some());
    assert!(!writer.thread.is_finished(), "frozen, not failed");
    assert_eq!(writer.count.load(Ordering::SeqCst), confirmed);
    pair.agent.vouches.store(true, Ordering::SeqCst);
    pair.flows(1);
    writer.stop.store(true, Ordering::SeqCst);
    let written = writer.thread.join().unwrap().expect("frozen, not failed");
    check(&writer.path, &written);
}

#[test]
fn nothing_is_served_before_the_agent_decides_and_a_deposed_leader_gets_errors() {
    if !available() {
        return;
    }
    let pair = Pair::start();
    let writer = Writer::start(pair.mounted.as_ref().unwrap().0.join("file"), true);
    *pair.agent.wanted.lock().unwrap() = None;
    pair.alpha.kill_worker();
    let held = || pair.alpha.volume().filter(|v| v.held);
    let volume = wait_for("the next worker to find the device", held);
    assert_eq!((volume.role, volume.counters.writes), (Role::Secondary, 0));
    thread::sleep(Duration::from_millis(200));
    assert!(!writer.thread.is_finished(), "it waits");
    *pair.agent.wanted.lock().unwrap() = Some((Role::Secondary, 2));
    wait_for("the device to be taken away", || {
        pair.alpha.volume().filter(|v| !v.held && v.epoch.number == 2)
    });
    writer.fails();
}

#[test]
fn a_volume_that_cannot_be_opened_again_fails_what_waits() {
    if !available() {
        return;
    }
    let pair = Pair::start();
    let writer = Writer::start(pair.mounted.as_ref().unwrap().0.join("file"), true);
    *pair.agent.wanted.lock().unwrap() = None;
    std::fs::write(pair.alpha.dir.join("webstore.meta"), vec![0x55; 1 << 20]).unwrap();
    pair.alpha.kill_worker();
    writer.fails();
}

#[test]
fn a_worker_that_cannot_start_again_is_given_up_and_io_fails() {
    if !available() {
        return;
    }
    let pair = Pair::start();
    let writer = Writer::start(pair.mounted.as_ref().unwrap().0.join("file"), false);
    std::fs::remove_file(pair.alpha.dir.join("secret")).unwrap();
    pair.alpha.kill_worker();
    let began = Instant::now();
    writer.fails();
    // Five pauses of 1.5 s together, and six starts on a machine that may be busy.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let status = wait_for("the holder to end", || pair.alpha.ended());
    assert_eq!(status.code(), Some(70));
}
