//! Real FUSE mounts, loop devices and filesystems, with a volume in memory. Needs root and /dev/fuse.

use super::*;
use crate::frontend::probe::{PROBE_LEN, Signature, probe};
use crate::frontend::{Op, mkfs};
use crate::hold::Holder;
use crate::store::AlignedBuf;
use crate::types::VolumeName;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command as Program, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

const WAIT: Duration = Duration::from_secs(15);
const SIZE: u64 = 64 << 20;

fn available() -> bool {
    let ok = Path::new("/dev/fuse").exists();
    if !ok {
        eprintln!("SKIPPED: no /dev/fuse here");
    }
    ok
}

/// What answers requests: memory, or nobody while frozen.
#[derive(Default)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    frozen: AtomicBool,
    flushes: AtomicU64,
    discards: AtomicU64,
    zeroes: AtomicU64,
    unaligned: AtomicU64,
}

impl Memory {
    fn execute(&self, op: &Op) -> Bytes {
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let mut bytes = self.bytes.lock().unwrap();
        let range = |offset: u64, len: u64| offset as usize..(offset + len) as usize;
        match op {
            Op::Read { offset, len } => {
                return Bytes::copy_from_slice(&bytes[range(*offset, u64::from(*len))]);
            }
            Op::Write { offset, data } => {
                if !AlignedBuf::is_aligned(data) {
                    count(&self.unaligned);
                }
                bytes[range(*offset, data.len() as u64)].copy_from_slice(data);
            }
            Op::Flush => count(&self.flushes),
            Op::Discard { offset, len } => {
                count(&self.discards);
                bytes[range(*offset, *len)].fill(0);
            }
            Op::WriteZeroes { offset, len } => {
                count(&self.zeroes);
                bytes[range(*offset, *len)].fill(0);
            }
        }
        Bytes::new()
    }
}

/// A volume in memory behind a front end.
struct Rig {
    front_end: Arc<dyn FrontEnd>,
    events: Receiver<FrontEndEvent>,
    memory: Arc<Memory>,
    config: FrontEndConfig,
}

impl Rig {
    fn start(dir: &Path) -> Self {
        Self::start_as(dir, &format!("test-{:08x}", rand::random::<u32>()), false)
    }

    fn start_frozen(dir: &Path) -> Self {
        Self::start_as(dir, &format!("test-{:08x}", rand::random::<u32>()), true)
    }

    fn start_as(dir: &Path, tag: &str, frozen: bool) -> Self {
        let config = FrontEndConfig {
            volume: VolumeName::new("webstore").unwrap(),
            size_bytes: SIZE,
            tag: tag.into(),
            run_dir: dir.join("run"),
            device_dir: dir.join("dev"),
            holder: Holder::none(),
            begin: Begin::Make,
        };
        let (tx, events) = channel();
        let (requests, inbox) = channel();
        let sink: EventSink = Arc::new(move |event| match event {
            FrontEndEvent::Request(request) => drop(requests.send(request)),
            other => drop(tx.send(other)),
        });
        let memory = Arc::new(Memory {
            bytes: Mutex::new(vec![0; SIZE as usize]),
            frozen: frozen.into(),
            ..Memory::default()
        });
        let front_end = start(config.clone(), sink);
        let (server, served) = (front_end.clone(), memory.clone());
        // Not joined: it ends with the front end's threads.
        thread::spawn(move || {
            for request in inbox {
                if !served.frozen.load(Ordering::SeqCst) {
                    server.reply(request.id, Ok(served.execute(&request.op)));
                }
            }
        });
        Self { front_end, events, memory, config }
    }

    fn event(&self) -> FrontEndEvent {
        self.events.recv_timeout(WAIT).expect("an event in time")
    }

    fn ready(&self) -> Device {
        match self.event() {
            FrontEndEvent::Ready(device) => device,
            other => panic!("expected Ready, got {other:?}"),
        }
    }

    fn stop(&self, force: bool) -> Vec<String> {
        self.front_end.stop(force);
        match self.event() {
            FrontEndEvent::Stopped { problems } => problems,
            other => panic!("expected Stopped, got {other:?}"),
        }
    }

    fn name(&self) -> String {
        format!("{}webstore", stale::file_prefix(&self.config.tag))
    }

    /// Nothing of this volume is left on the machine.
    fn assert_gone(&self) {
        let name = self.name();
        wait_for("the loop device to go", || {
            !super::super::loopdev::attached().iter().any(|(_, n)| *n == name)
        });
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&stale::mount_source(&self.config.tag)), "{mounts}");
        assert!(!self.config.device_dir.join("webstore").is_symlink());
    }
}

fn wait_for(what: &str, mut predicate: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !predicate() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(POLL);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Program::new(program).args(arguments).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
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
        let _ = Program::new("umount").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_filesystem_lives_on_it_and_nothing_is_left() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path());
    let device = rig.ready();
    assert_eq!(std::fs::read_link(&device.symlink).unwrap(), device.host_path);
    assert_eq!(device.symlink, dir.path().join("dev/webstore"));

    // Every size up to the largest, at both ends, with direct I/O: what is read is what was written.
    let file = open_direct(&device.local_path).unwrap();
    for (i, len) in [4096, 8192, 65536, 1 << 20, 4 << 20].into_iter().enumerate() {
        let data = AlignedBuf::copy_of(&(0..len).map(|b| (b / 512 + i) as u8).collect::<Vec<_>>());
        for offset in [0, SIZE - len as u64] {
            file.write_all_at(&data, offset).unwrap();
            let mut back = AlignedBuf::zeroed(len);
            file.read_exact_at(&mut back, offset).unwrap();
            assert!(back[..] == data[..], "{len} bytes at {offset}");
        }
    }
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > 0);
    rig.memory.bytes.lock().unwrap().fill(0);
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
    std::fs::write(&path, vec![7; 8 << 20]).unwrap();
    let flushes = rig.memory.flushes.load(Ordering::SeqCst);
    File::open(&path).unwrap().sync_all().unwrap();
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > flushes, "fsync arrives as a flush");
    std::fs::remove_file(&path).unwrap();
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
    let rig = Rig::start(dir.path());
    let device = rig.ready();
    mkfs::make_filesystem(&device.local_path, "ext4", WAIT).unwrap();
    let mounted = Mounted::new(&device.local_path, &dir.path().join("mnt"));
    std::fs::write(mounted.0.join("kept"), "x").unwrap();
    rig.front_end.stop(false);
    match rig.event() {
        FrontEndEvent::StopRefused(FrontEndError::Busy { path }) => assert_eq!(path, device.local_path),
        other => panic!("{other:?}"),
    }
    let write = |name: &str| {
        let file = File::create(mounted.0.join(name))?;
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_all()
    };
    write("still works").unwrap();
    assert!(device.symlink.is_symlink());

    let began = Instant::now();
    let problems = rig.stop(true);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(problems.len() == 1 && problems[0].contains("still mounted"), "{problems:?}");
    assert!(write("fails").is_err());
    assert!(!device.symlink.is_symlink());
    drop(mounted);
    rig.assert_gone();
}

#[test]
fn a_frozen_engine_holds_up_neither_start_nor_stop() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start_frozen(dir.path());
    let device = rig.ready();
    let path = device.local_path.clone();
    let reader = thread::spawn(move || open_direct(&path)?.read_exact_at(&mut AlignedBuf::zeroed(4096), 0));
    let (path, written) = (device.local_path.clone(), AlignedBuf::copy_of(&[1; 65536]));
    let writer = thread::spawn(move || open_direct(&path)?.write_all_at(&written, 0));
    wait_for("both requests to be stuck", || rig.front_end.pending() == 2);
    rig.front_end.stop(false);
    assert!(matches!(rig.event(), FrontEndEvent::StopRefused(_)));
    rig.stop(true);
    assert!(reader.join().unwrap().is_err());
    assert!(writer.join().unwrap().is_err());
    wait_for("no request to be pending", || rig.front_end.pending() == 0);
    rig.assert_gone();
}

#[test]
fn errors_reach_the_application_and_late_or_double_answers_do_no_harm() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Rig::start(dir.path());
    let device = config.ready();
    assert!(config.stop(false).is_empty());
    drop(device);
    // A server that answers by hand.
    let (tx, events) = channel();
    let front_end = start(config.config.clone(), Arc::new(move |e| drop(tx.send(e))));
    let next = || events.recv_timeout(WAIT).unwrap();
    let FrontEndEvent::Ready(device) = next() else { panic!() };
    let path = device.local_path.clone();
    let (answers, results) = channel();
    thread::spawn(move || {
        let file = open_direct(&path).unwrap();
        for _ in 0..3 {
            let mut buf = AlignedBuf::zeroed(4096);
            let result = file.read_exact_at(&mut buf, 0).map(|()| buf[0]);
            answers.send(result.map_err(|e| e.raw_os_error())).unwrap();
        }
    });
    let request = |expected: &Op| match next() {
        FrontEndEvent::Request(r) if r.op == *expected => r.id,
        other => panic!("{other:?}"),
    };
    let read = Op::Read { offset: 0, len: 4096 };
    let outcome = || results.recv_timeout(WAIT).unwrap();
    front_end.reply(request(&read), Err(Errno::IO));
    assert_eq!(outcome(), Err(Some(libc::EIO)));
    let id = request(&read);
    front_end.reply(id, Ok(Bytes::from(vec![9; 4096])));
    front_end.reply(id, Err(Errno::IO));
    front_end.reply(123_456_789, Ok(Bytes::new()));
    assert_eq!(outcome(), Ok(9));
    front_end.reply(request(&read), Ok(Bytes::from_static(b"short")));
    assert_eq!(outcome(), Err(Some(libc::EIO)));
    front_end.stop(true);
    assert!(matches!(next(), FrontEndEvent::Stopped { .. }));
    config.assert_gone();
}

#[test]
fn a_failed_start_leaves_nothing() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    // The symlink, the last step, cannot be made over a directory.
    std::fs::create_dir_all(dir.path().join("dev/webstore/occupied")).unwrap();
    let rig = Rig::start(dir.path());
    match rig.event() {
        FrontEndEvent::Failed(error) => assert!(error.to_string().contains("dev/webstore"), "{error}"),
        other => panic!("{other:?}"),
    }
    rig.assert_gone();
}

#[test]
fn many_start_at_once() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rigs: Vec<Rig> = (0..6).map(|i| Rig::start(&dir.path().join(i.to_string()))).collect();
    let mut devices: Vec<PathBuf> = rigs.iter().map(|r| r.ready().host_path).collect();
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 6);
    for rig in &rigs {
        assert!(rig.stop(false).is_empty());
        rig.assert_gone();
    }
}

#[test]
fn a_connection_that_the_kernel_ends_is_reported() {
    if !available() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(dir.path());
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
