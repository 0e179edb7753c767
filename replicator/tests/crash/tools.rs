//! fio and fsx on the device and on filesystems on it, with the workers of both hosts killed meanwhile; then both replicas
//! are compared byte by byte.

use crate::image::{Filesystem, unmount};
use crate::rig::{Mounted, Pair};
use crate::{available, rounds, seed};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Between two deaths of a worker: longer than it takes until everything flows again.
const LIFE: Duration = Duration::from_millis(500);
/// Then the rest runs undisturbed: on a busy machine little is done between two deaths.
const DEATHS: u64 = 6;

/// Runs a program to its end, kills one worker after the other meanwhile. It must succeed and see no error.
fn run_while_workers_die(pair: &Pair, command: &mut Command) -> u64 {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut kills = 0;
    loop {
        thread::sleep(LIFE);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        if kills < DEATHS * rounds() {
            [&pair.alpha, &pair.beta][kills as usize % 2].kill_worker();
            kills += 1;
        }
    }
    let output = child.wait_with_output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b).into_owned());
    assert!(output.status.success(), "{command:?}: {out}{err}");
    kills
}

fn sync(device: &Path) {
    std::fs::File::open(device).unwrap().sync_all().unwrap();
}

#[test]
fn fio_finds_what_it_wrote_though_workers_die_and_both_replicas_are_equal() {
    if !available() {
        return;
    }
    let pair = Pair::bare(Default::default(), 1);
    let seed = seed();
    let mut fio = Command::new("fio");
    fio.args(["--name=verify", "--ioengine=libaio", "--direct=1", "--rw=randtrimwrite", "--bsrange=4k-128k"])
        .arg(format!("--filename={}", pair.device.display()))
        .args(["--iodepth=16", "--fsync=24", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256"])
        // Trimmed before it is written; and some of it afterwards, which must then read as zeroes.
        .args(["--trim_percentage=10", "--trim_backlog=64", "--trim_verify_zero=1"])
        .args(["--randrepeat=0", "--size=100%", "--verify_state_save=0"])
        .args([format!("--randseed={seed}"), format!("--loops={}", 2 * rounds())]);
    let kills = run_while_workers_die(&pair, &mut fio);
    assert!(kills > 0, "it ended before a worker died");
    sync(&pair.device);
    pair.assert_equal();
}

/// fsx takes its settings from a file.
fn fsx(dir: &Path, target: &Path, settings: &str, operations: u64, seed: u64) -> Command {
    let program = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.build/fsx/bin/fsx"));
    assert!(program.exists(), "{} is missing; compose/scripts/setup.sh test installs it", program.display());
    let (config, artifacts) = (dir.join("fsx.toml"), dir.join("artifacts"));
    std::fs::create_dir_all(&artifacts).unwrap();
    std::fs::write(&config, settings).unwrap();
    let mut command = Command::new(program);
    command.arg("-f").arg(config).arg("-P").arg(artifacts);
    command.args(["-N".into(), operations.to_string(), "-S".into(), seed.to_string()]).arg(target);
    command
}

/// Whole blocks of a device, which is never shortened.
const OF_DEVICE: &str = "
    blockmode = true
    nosizechecks = true
    flen = 4194304
    [opsize]
    min = 4096
    max = 131072
    align = 4096
    [weights]
    close_open = 0.0
    truncate = 0.0
    posix_fallocate = 0.0
    invalidate = 1.0
    read = 10.0
    write = 10.0
    mapread = 5.0
    mapwrite = 5.0
    fsync = 3.0
    fdatasync = 3.0
    punch_hole = 3.0
    posix_fadvise = 5.0
";

const OF_FILE: &str = "
    flen = 2097152
    [opsize]
    min = 1
    max = 65536
    [weights]
    close_open = 1.0
    invalidate = 1.0
    truncate = 3.0
    read = 10.0
    write = 10.0
    mapread = 5.0
    mapwrite = 5.0
    fsync = 2.0
    fdatasync = 2.0
    posix_fallocate = 1.0
    punch_hole = 3.0
    posix_fadvise = 3.0
    sendfile = 1.0
    copy_file_range = 2.0
";

#[test]
fn fsx_finds_what_it_wrote_on_the_device_and_on_filesystems_and_both_replicas_are_equal() {
    if !available() {
        return;
    }
    let pair = Pair::bare(Default::default(), 1);
    let (seed, operations, dir) = (seed(), 1000 * rounds(), tempfile::tempdir().unwrap());
    run_while_workers_die(&pair, &mut fsx(dir.path(), &pair.device, OF_DEVICE, operations, seed));
    for filesystem in [Filesystem::Ext4, Filesystem::Xfs] {
        filesystem.make(&pair.device);
        let root = dir.path().join("mnt");
        let mounted = Mounted::new(&pair.device, root.clone());
        run_while_workers_die(&pair, &mut fsx(dir.path(), &root.join("file"), OF_FILE, operations, seed));
        unmount(&root).unwrap();
        drop(mounted);
        filesystem.check(&pair.device).unwrap();
    }
    sync(&pair.device);
    pair.assert_equal();
}
