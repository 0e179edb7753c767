//! A pair under load that compares its replicas all the while: nothing is reported that is not so, nothing grows, and a
//! byte that rots is found. Real processes, FUSE and loop devices; needs root, /dev/fuse and fio.
//!
//! Half a minute of it; `make soak MINUTES=60` is an hour.

#[path = "../rig/mod.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod rig;

use baton_replicator::api::VerifyState;
use rig::{Pair, Replica, WAIT, available};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 256 * MIB;
/// The load writes below this; what rots is above.
const LOADED: u64 = 224 * MIB;
/// What decision 0018 bounds for a leader under load, see `tests/memory`.
const MOST: u64 = 160 * MIB;
/// Between the first tenth and the end, no more than this: queues that are fuller at one moment than at another.
const GROWTH: u64 = 16 * MIB;
/// Between two looks at what the processes hold.
const PAUSE: Duration = Duration::from_millis(200);

fn minutes() -> f64 {
    std::env::var("BATON_SOAK_MINUTES").map_or(0.5, |n| n.parse().expect("BATON_SOAK_MINUTES is a number"))
}

/// What processes hold, together.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident: u64,
    threads: u64,
    files: u64,
}

impl Held {
    fn by(pids: &[u32]) -> Self {
        let mut held = Self::default();
        for pid in pids {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let number = |what: &str| {
                let line = text.lines().find_map(|l| l.strip_prefix(what)).expect("such a line");
                line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
            };
            held.resident += number("VmRSS:") << 10;
            held.threads += number("Threads:");
            held.files += std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count() as u64;
        }
        held
    }

    fn most(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            threads: self.threads.max(other.threads),
            files: self.files.max(other.files),
        }
    }
}

/// As a database: pages at random and a log that is flushed; and as a file server: long writes, reads and discards.
fn load(device: &Path, seconds: u64) -> Vec<Child> {
    let begin = |name: &str, offset: u64, size: u64, more: &[&str]| {
        Command::new("fio")
            .args([
                "--ioengine=libaio",
                "--direct=1",
                "--time_based",
                "--output-format=terse",
                "--end_fsync=1",
            ])
            .arg(format!("--name={name}"))
            .arg(format!("--filename={}", device.display()))
            .args([format!("--offset={offset}"), format!("--size={size}"), format!("--runtime={seconds}")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("fio is installed")
    };
    vec![
        begin("pages", 0, 96 * MIB, &["--rw=randrw", "--bs=16k", "--iodepth=8", "--rate_iops=200,200"]),
        begin("log", 96 * MIB, 32 * MIB, &["--rw=write", "--bs=4k", "--fdatasync=1", "--rate_iops=100"]),
        begin(
            "files",
            128 * MIB,
            LOADED - 128 * MIB,
            &["--rw=randtrimwrite", "--bs=256k", "--iodepth=4", "--rate_iops=10,10,10"],
        ),
    ]
}

/// Every replica holds what the others hold, says a verify of everything. How many ranges it had to look at twice.
fn verify(pair: &Pair, id: u64, mut meanwhile: impl FnMut()) -> baton_replicator::api::VerifyStatus {
    rig::wait_for("a verify to begin", || (pair.alpha.verify(id) == Some(200)).then_some(()));
    let end = Instant::now() + 5 * WAIT;
    loop {
        meanwhile();
        let status = pair.alpha.volume().and_then(|v| v.verify).filter(|v| v.id == id);
        match status {
            Some(status) if !status.state.is_running() => return status,
            status => assert!(Instant::now() < end, "it does not end: {status:?}"),
        }
        thread::sleep(PAUSE);
    }
}

#[test]
fn under_load_a_verify_finds_what_rots_and_nothing_else_and_nothing_grows() {
    if !available() {
        return;
    }
    let time = Duration::from_secs_f64(minutes() * 60.0);
    let replica = || Replica { size_bytes: SIZE, ..Replica::default() };
    let pair = Pair::bare([replica(), replica()], 1);
    let hosts = [&pair.alpha, &pair.beta];
    let pids = hosts.map(|host| host.processes());
    let mut loads = load(&pair.device, time.as_secs());
    let (begun, mut id, mut compared) = (Instant::now(), 0, 0);
    let (mut early, mut late) = ([Held::default(); 2], [Held::default(); 2]);
    let mut said = Instant::now();
    while begun.elapsed() < time {
        id += 1;
        let found = verify(&pair, id, || {
            let held = [0, 1].map(|n| Held::by(&pids[n]));
            let share = begun.elapsed().as_secs_f64() / time.as_secs_f64();
            let part = if share < 0.1 { &mut early } else { &mut late };
            *part = [0, 1].map(|n| part[n].most(held[n]));
            if said.elapsed() > Duration::from_secs(60) {
                println!("{:.0} s: {held:?}, {id} verifies", begun.elapsed().as_secs_f64());
                said = Instant::now();
            }
        });
        assert_eq!((found.state, found.checked_bytes), (VerifyState::Done, SIZE), "{found:?}");
        assert_eq!((found.mismatched_bytes, found.unconfirmed), (0, 0), "a false alarm: {found:?}");
        compared += found.checked_bytes;
    }
    for load in &mut loads {
        assert!(load.wait().expect("fio").success(), "no error reaches an application");
    }
    let volume = pair.alpha.volume().expect("it answers");
    println!(
        "{:.1} min: {id} verifies, {} MiB compared, {} writes, {} flushes; first tenth {early:?}, then {late:?}",
        begun.elapsed().as_secs_f64() / 60.0,
        compared / MIB,
        volume.counters.writes,
        volume.counters.flushes,
    );
    for n in [0, 1] {
        assert!(late[n].resident <= MOST, "{:?}", late[n]);
        assert!(late[n].resident <= early[n].resident + GROWTH, "{:?} after {:?}", late[n], early[n]);
        assert!(late[n].threads <= early[n].threads + 8 && late[n].files <= early[n].files + 16, "{late:?}");
        let status = hosts[n].status().expect("it answers");
        assert_eq!((status.worker_restarts, hosts[n].processes()), (0, pids[n]), "nobody died");
        assert_eq!(hosts[n].volume().expect("it answers").alarms, Vec::<String>::new());
    }
    pair.assert_equal();

    // It is no verify that sees nothing.
    let file = std::fs::OpenOptions::new().read(true).write(true).open(pair.beta.image()).unwrap();
    file.write_all_at(&[7], LOADED + 8 * MIB + 1234).unwrap();
    file.sync_all().unwrap();
    let found = verify(&pair, id + 1, || {});
    assert_eq!((found.state, found.mismatched_bytes), (VerifyState::Done, 4096), "{found:?}");
    assert_eq!(found.mismatches[0].offset, LOADED + 8 * MIB);
}
