//! Real FUSE mounts, loop devices and filesystems, with a volume in memory. Needs root and /dev/fuse. What every front
//! end has to do is tested in [`crate::frontend::conformance`].
//!
//! Whatever waits for our own device is done by child processes, and waited for within a bound: a thread of this
//! process that waited for it would outlive even a kill. A test that fails drops its rig, which aborts the connection.

use super::*;
use crate::frontend::conformance::{self, Rig, WAIT, wait_for};
use crate::frontend::mkfs;
use crate::frontend::probe::{PROBE_LEN, Signature, probe};
use crate::types::FrontEndKind;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command as Program, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

fn available() -> bool {
    conformance::available(FrontEndKind::Fuse)
}

fn start(dir: &Path) -> Rig {
    Rig::start(FrontEndKind::Fuse, dir)
}

/// Whether the program succeeded, and what it said; none if it did not end in time.
fn attempt(program: &str, arguments: &[&str]) -> Option<(bool, String)> {
    let child = Program::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (ended, outcome) = channel();
    // Not joined: it waits as long as the child does.
    thread::spawn(move || drop(ended.send(child.wait_with_output())));
    let output = outcome.recv_timeout(WAIT).ok()?.unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

fn run(program: &str, arguments: &[&str]) {
    match attempt(program, arguments) {
        Some((true, _)) => {}
        Some((false, text)) => panic!("{program} {arguments:?}: {text}"),
        None => panic!("{program} {arguments:?} did not end within {WAIT:?}"),
    }
}

/// A mounted filesystem, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        run("mount", &[device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self(dir.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = attempt("umount", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_filesystem_lives_on_it_and_nothing_is_left() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = start(dir.path());
    let device = rig.ready();
    assert_eq!(std::fs::read_link(&device.symlink).unwrap(), device.host_path);
    assert_eq!(device.symlink, dir.path().join("dev/webstore"));

    let sysfs = |file: &str| {
        let name = device.host_path.file_name().unwrap().to_str().unwrap();
        std::fs::read_to_string(format!("/sys/block/{name}/{file}")).unwrap().trim().to_string()
    };
    assert_eq!(sysfs("loop/dio"), "1");
    assert_eq!(sysfs("queue/logical_block_size"), "4096");
    assert_eq!(sysfs("queue/write_cache"), "write back");

    mkfs::make_filesystem(&device.local_path, "ext4", WAIT).unwrap();
    assert!(rig.memory.zeroes.load(Ordering::SeqCst) + rig.memory.discards.load(Ordering::SeqCst) > 0);
    assert_eq!(probe(&rig.memory.bytes.lock().unwrap()[..PROBE_LEN]), Signature::Known("ext4"));
    let mounted = Mounted::new(&device.local_path, &dir.path().join("mnt"));
    let path = mounted.0.join("file");
    let path = path.to_str().unwrap();
    run("dd", &["if=/dev/urandom", &format!("of={path}"), "bs=1M", "count=8"]);
    let flushes = rig.memory.flushes.load(Ordering::SeqCst);
    run("sync", &[path]);
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > flushes, "fsync arrives as a flush");
    run("rm", &[path]);
    let discards = rig.memory.discards.load(Ordering::SeqCst);
    run("sync", &["-f", mounted.0.to_str().unwrap()]);
    run("fstrim", &[mounted.0.to_str().unwrap()]);
    assert!(rig.memory.discards.load(Ordering::SeqCst) > discards, "fstrim arrives as a discard");
    drop(mounted);
    run("fsck.ext4", &["-fn", device.local_path.to_str().unwrap()]);
    assert_eq!(rig.front_end.pending(), 0);

    assert_eq!(rig.stop(false), Vec::<String>::new());
    rig.assert_gone();
    assert!(!rig.config.run_dir.join("frontend").read_dir().unwrap().flatten().any(|e| e.path().is_dir()));
}

#[test]
fn a_mounted_device_is_given_up_only_by_force() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = start(dir.path());
    let device = rig.ready();
    mkfs::make_filesystem(&device.local_path, "ext4", WAIT).unwrap();
    let mounted = Mounted::new(&device.local_path, &dir.path().join("mnt"));
    run("touch", &[mounted.0.join("kept").to_str().unwrap()]);
    rig.front_end.stop(false);
    match rig.event() {
        FrontEndEvent::StopRefused(FrontEndError::Busy { path }) => assert_eq!(path, device.local_path),
        other => panic!("{other:?}"),
    }
    let write = |name: &str| {
        let of = format!("of={}", mounted.0.join(name).display());
        let (written, text) =
            attempt("dd", &["if=/dev/zero", &of, "bs=4096", "count=1", "conv=fsync"]).expect("dd ends");
        if written { Ok(()) } else { Err(text) }
    };
    write("still works").unwrap();
    assert!(device.symlink.is_symlink());

    let began = Instant::now();
    let problems = rig.stop(true);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(problems.len() == 1 && problems[0].contains("still mounted"), "{problems:?}");
    assert!(write("fails").is_err());
    assert!(!device.symlink.is_symlink());
    drop(mounted);
    rig.assert_gone();
}

#[test]
fn a_connection_that_the_kernel_ends_is_reported() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = start(dir.path());
    rig.ready();
    let mount_point = rig.config.run_dir.join(format!("frontend/{}-webstore", rig.config.tag));
    unmount(&mount_point, UnmountFlags::FORCE | UnmountFlags::DETACH).unwrap();
    match rig.event() {
        FrontEndEvent::Stopped { problems } => {
            assert!(problems[0].contains("the kernel closed"), "{problems:?}")
        }
        other => panic!("{other:?}"),
    }
    rig.assert_gone();
}

mod killed;
