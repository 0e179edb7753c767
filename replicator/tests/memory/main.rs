//! What a replicator's processes hold in memory: doing nothing, and under load with little memory to have. Real processes,
//! FUSE and loop devices; needs root and /dev/fuse.

mod limit;
#[path = "../rig/mod.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod rig;

use baton_replicator::core::meta::{BITMAP_AT, MAX_PEERS, file_bytes};
use baton_replicator::types::{NodeName, Role};
use limit::Limit;
use rig::{Host, Pair, Replica, available, wait_for};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
/// An idle replicator with a volume of 1 TiB that has one peer, holder included: 30 MiB, and 32 MiB per TiB and peer.
const IDLE_MOST: u64 = 62 * MIB;
/// How long nothing has happened then.
const QUIET: Duration = Duration::from_secs(2);

/// Resident bytes of these processes: all, or the part that this line of their status counts.
fn resident_as(pids: &[u32], what: &str) -> u64 {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = text.lines().find_map(|l| l.strip_prefix(what)).expect("such a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    pids.iter().map(of).sum()
}

fn resident(pids: &[u32]) -> u64 {
    resident_as(pids, "VmRSS:")
}

/// The same, with what both processes share, the program, counted once.
fn proportional(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).expect("a line Pss");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    pids.iter().map(of).sum()
}

/// What it holds once it has held the same, within a MiB, for a while.
fn settled(host: &Host) -> u64 {
    let pids = host.processes();
    let (mut last, mut since) = (proportional(&pids), Instant::now());
    wait_for("resident memory to stay as it is", || {
        let now = proportional(&pids);
        if now.abs_diff(last) > MIB {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > QUIET).then_some(now)
    })
}

/// A host whose volume of 1 TiB, a sparse file, has a peer that is away.
fn alone(dir: &Path, name: &str) -> Host {
    let host = Host::start(dir, name, Replica { size_bytes: TIB, ..Replica::default() });
    let peer = NodeName::new(if name == "alpha" { "beta" } else { "alpha" }).unwrap();
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    wait_for("the volume", || {
        host.configure(&[(&peer, nobody)]);
        host.volume()
    });
    host
}

fn report(what: &str, host: &Host) {
    let bytes = settled(host);
    let parts = host.processes().map(|pid| {
        let part = |what| resident_as(&[pid], what) as f64 / MIB as f64;
        format!("{:.1} MiB of its own and {:.1} MiB of files", part("RssAnon:"), part("RssFile:"))
    });
    println!("{what}: {:.1} MiB; holder and worker: {parts:?}", bytes as f64 / MIB as f64);
    assert!(bytes <= IDLE_MOST, "{what}: {bytes} bytes resident");
}

/// Issue 4: at most 30 MiB, plus 32 MiB per TiB and peer.
#[test]
fn an_idle_replicator_of_a_tebibyte_holds_no_more_than_it_may() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let beta = alone(dir.path(), "beta");
    report("a standby, just made", &beta);
    let alpha = alone(dir.path(), "alpha");
    report("a replica, just made", &alpha);
    wait_for("alpha to lead", || {
        (alpha.desire(Role::Primary, 1, Vec::new(), false) == Some(200)).then_some(())
    });
    report("a leader", &alpha);
    drop(alpha);
    // Pages of the bitmap that do not verify count as dirty, all of them.
    let metadata = dir.path().join("alpha/webstore.meta");
    let file = std::fs::OpenOptions::new().write(true).open(metadata).unwrap();
    let zeroes = vec![0; file_bytes(TIB) as usize / MAX_PEERS];
    file.write_all_at(&zeroes, BITMAP_AT).unwrap();
    let alpha = alone(dir.path(), "alpha");
    wait_for("every bit", || (alpha.volume()?.peers[0].dirty_bytes == TIB).then_some(()));
    report("a replica with every bit set", &alpha);
    let said = alpha.status().expect("it answers").memory.expect("it says").resident_bytes;
    let measured = resident(&alpha.processes()[1..]);
    assert!(said.abs_diff(measured) < 4 * MIB, "status says {said}, the kernel {measured}");
}

/// Of the leader's processes under load: 30 MiB, and what decision 0018 bounds: 32 MiB of requests, 64 MiB queued for the
/// peer, 12 MiB of kept buffers; the data of reads and of what is being freed is in the difference.
const BUSY_MOST: u64 = 160 * MIB;
/// Each load runs so long.
const LOAD_S: u64 = 6;

fn fio(device: &Path, name: &str, more: &[&str]) -> std::process::Child {
    let file = format!("--filename={}", device.display());
    let run_time = format!("--runtime={LOAD_S}");
    let name = format!("--name={name}");
    let mut line = vec![name.as_str(), &file, &run_time];
    line.extend([
        "--time_based",
        "--direct=1",
        "--ioengine=libaio",
        "--output-format=terse",
        "--end_fsync=1",
    ]);
    line.extend(more);
    std::process::Command::new("fio")
        .args(line)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("fio is installed")
}

/// With no more memory than its bounds add up to, a leader serves a load of more than that, also while its standby takes
/// nothing for a moment, and is not killed for it.
#[test]
fn under_load_a_leader_keeps_to_its_bounds_and_is_served_on() {
    if !available() {
        return;
    }
    let replica = || Replica { size_bytes: 256 * MIB, ..Replica::default() };
    // Dropped after the pair: a control group goes when nobody is in it.
    let limit;
    let pair = Pair::bare([replica(), replica()], 1);
    let pids = pair.alpha.processes();
    limit = Limit::of(&pids, BUSY_MOST);
    let mut loads = [
        fio(&pair.device, "large", &["--rw=randwrite", "--bs=1m", "--iodepth=32", "--size=128m"]),
        fio(
            &pair.device,
            "small",
            &["--rw=randrw", "--bs=4k", "--iodepth=64", "--offset=128m", "--size=64m"],
        ),
    ];
    let (begun, beta) = (Instant::now(), pair.beta.worker());
    let (mut most, mut stopped, mut resumed) = (0, false, false);
    while loads.iter_mut().any(|load| load.try_wait().expect("fio").is_none()) {
        assert!(begun.elapsed() < rig::WAIT, "I/O stands still");
        most = most.max(resident(&pids));
        // Shorter than peer_timeout: everything waits, as much as may.
        if !stopped && begun.elapsed() > Duration::from_secs(2) {
            rustix::process::kill_process(beta, rustix::process::Signal::STOP).unwrap();
            stopped = true;
        }
        if stopped && !resumed && begun.elapsed() > Duration::from_secs(4) {
            rustix::process::kill_process(beta, rustix::process::Signal::CONT).unwrap();
            resumed = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for mut load in loads {
        assert!(load.wait().expect("fio").success(), "no error reaches an application");
    }
    println!("at most {:.1} MiB resident, {}", most as f64 / MIB as f64, limit.name());
    assert!(resumed && most <= BUSY_MOST, "{most} bytes");
    let status = pair.alpha.status().expect("it answers");
    assert_eq!((status.worker_restarts, pair.alpha.processes()), (0, pids), "nobody was killed");
    pair.assert_equal();
}
