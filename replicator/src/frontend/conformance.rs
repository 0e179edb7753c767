//! What every front end promises, as tests that run for each of them, with a volume in memory in place of an engine.
//!
//! `fuse` is used as the block device that it is (root and /dev/fuse needed), by a process apart, `nbd` by a client of our own. What only one
//! of them has is tested beside it.

mod device;
mod disk;

use super::*;
use crate::hold::Holder;
use crate::store::AlignedBuf;
pub use disk::{Disk, NbdClient, open};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

pub const WAIT: Duration = Duration::from_secs(15);
pub const SIZE: u64 = 64 << 20;
const POLL: Duration = Duration::from_millis(5);

pub fn available(kind: FrontEndKind) -> bool {
    let ok = kind == FrontEndKind::Nbd || Path::new("/dev/fuse").exists();
    if !ok {
        eprintln!("SKIPPED: no /dev/fuse here");
    }
    ok
}

/// What answers requests: memory, or nobody while frozen.
#[derive(Default)]
pub struct Memory {
    pub bytes: Mutex<Vec<u8>>,
    pub frozen: AtomicBool,
    pub flushes: AtomicU64,
    pub discards: AtomicU64,
    pub zeroes: AtomicU64,
    /// Requests that are not what a front end promises: not in whole blocks, too long, or in a buffer of no use.
    pub unaligned: AtomicU64,
}

impl Memory {
    pub fn execute(&self, op: &Op) -> Bytes {
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        let mut bytes = self.bytes.lock().unwrap();
        let range = |offset: u64, len: u64, most: u64| {
            if !offset.is_multiple_of(4096) || !len.is_multiple_of(4096) || len == 0 || len > most {
                count(&self.unaligned);
            }
            offset as usize..(offset + len) as usize
        };
        match op {
            Op::Read { offset, len } => {
                return Bytes::copy_from_slice(&bytes[range(*offset, u64::from(*len), 1 << 20)]);
            }
            Op::Write { offset, data } => {
                if !AlignedBuf::is_aligned(data) {
                    count(&self.unaligned);
                }
                bytes[range(*offset, data.len() as u64, 1 << 20)].copy_from_slice(data);
            }
            Op::Flush => count(&self.flushes),
            Op::Discard { offset, len } => {
                count(&self.discards);
                bytes[range(*offset, *len, SIZE)].fill(0);
            }
            Op::WriteZeroes { offset, len } => {
                count(&self.zeroes);
                bytes[range(*offset, *len, SIZE)].fill(0);
            }
        }
        Bytes::new()
    }
}

/// A volume in memory behind a front end.
pub struct Rig {
    pub front_end: Arc<dyn FrontEnd>,
    pub events: Receiver<FrontEndEvent>,
    pub memory: Arc<Memory>,
    pub config: FrontEndConfig,
}

pub fn config(kind: FrontEndKind, dir: &Path, tag: &str) -> FrontEndConfig {
    FrontEndConfig {
        kind,
        volume: VolumeName::new("webstore").unwrap(),
        size_bytes: SIZE,
        tag: tag.into(),
        run_dir: dir.join("run"),
        device_dir: dir.join("dev"),
        holder: Holder::none(),
        begin: Begin::Make,
    }
}

pub fn any_tag() -> String {
    format!("test-{:08x}", rand::random::<u32>())
}

impl Rig {
    pub fn start(kind: FrontEndKind, dir: &Path) -> Self {
        Self::start_as(kind, dir, &any_tag(), false)
    }

    pub fn start_frozen(kind: FrontEndKind, dir: &Path) -> Self {
        Self::start_as(kind, dir, &any_tag(), true)
    }

    pub fn start_as(kind: FrontEndKind, dir: &Path, tag: &str, frozen: bool) -> Self {
        let config = config(kind, dir, tag);
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

    pub fn event(&self) -> FrontEndEvent {
        self.events.recv_timeout(WAIT).expect("an event in time")
    }

    pub fn ready(&self) -> Device {
        match self.event() {
            FrontEndEvent::Ready(device) => device,
            other => panic!("expected Ready, got {other:?}"),
        }
    }

    pub fn stop(&self, force: bool) -> Vec<String> {
        self.front_end.stop(force);
        match self.event() {
            FrontEndEvent::Stopped { problems } => problems,
            other => panic!("expected Stopped, got {other:?}"),
        }
    }

    /// The name of its FUSE file.
    pub fn name(&self) -> String {
        format!("{}webstore", stale::file_prefix(&self.config.tag))
    }

    /// Nothing of this volume is left on the machine.
    pub fn assert_gone(&self) {
        let name = self.name();
        wait_for("the loop device to go", || !loopdev::attached().iter().any(|(_, n)| *n == name));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&stale::mount_source(&self.config.tag)), "{mounts}");
        assert!(!self.config.device_dir.join("webstore").is_symlink());
        let socket = nbd::socket(&self.config.run_dir, "webstore");
        assert!(std::os::unix::net::UnixStream::connect(&socket).is_err());
        assert!(!socket.exists() || socket.is_dir(), "a test's obstacle may stay");
    }
}

impl Drop for Rig {
    /// A test that failed leaves nothing that waits for its device: the connection is aborted.
    fn drop(&mut self) {
        self.front_end.stop(true);
        if thread::panicking() {
            let deadline = Instant::now() + WAIT;
            let left = || deadline.saturating_duration_since(Instant::now());
            while let Ok(event) = self.events.recv_timeout(left()) {
                if matches!(event, FrontEndEvent::Stopped { .. } | FrontEndEvent::Failed(_)) {
                    break;
                }
            }
        }
    }
}

pub fn wait_for(what: &str, predicate: impl FnMut() -> bool) {
    assert!(wait_at_most(WAIT, predicate), "waited too long for {what}");
}

/// Whether it came true in time.
pub fn wait_at_most(limit: Duration, mut predicate: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if predicate() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}

/// `len` bytes that tell where they stand.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|b| (b / 512 + seed) as u8).collect()
}

fn what_is_read_was_written(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(kind, dir.path());
    let mut disk = open(kind, &rig.front_end, &rig.ready());
    // Every size up to the largest, at both ends.
    for (i, len) in [4096, 8192, 65536, 1 << 20, 4 << 20].into_iter().enumerate() {
        let data = pattern(i, len);
        for offset in [0, SIZE - len as u64] {
            disk.write(offset, &data).unwrap();
            assert!(disk.read(offset, len).unwrap() == data, "{len} bytes at {offset}");
            let at = offset as usize;
            assert!(rig.memory.bytes.lock().unwrap()[at..at + len] == data[..], "{len} bytes at {offset}");
        }
    }
    let flushes = rig.memory.flushes.load(Ordering::SeqCst);
    disk.flush().unwrap();
    assert!(rig.memory.flushes.load(Ordering::SeqCst) > flushes, "a flush arrives as one");
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
    assert_eq!(rig.front_end.pending(), 0);
    drop(disk);
    assert_eq!(rig.stop(false), Vec::<String>::new());
    rig.assert_gone();
}

fn discards_and_zeroes_arrive_as_what_they_are(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(kind, dir.path());
    let mut disk = open(kind, &rig.front_end, &rig.ready());
    rig.memory.bytes.lock().unwrap().fill(7);
    disk.discard(4096, 8192).unwrap();
    assert_eq!(rig.memory.discards.load(Ordering::SeqCst), 1);
    disk.zero(1 << 20, 16 << 20).unwrap();
    assert!(rig.memory.zeroes.load(Ordering::SeqCst) > 0);
    assert_eq!(rig.memory.unaligned.load(Ordering::SeqCst), 0);
    for (offset, len) in [(4096, 8192), (1 << 20, 1 << 20), (16 << 20, 1 << 20)] {
        assert!(disk.read(offset, len).unwrap().iter().all(|b| *b == 0));
    }
    for (offset, len) in [(0, 4096), (12288, 4096), (17 << 20, 4096)] {
        assert!(disk.read(offset, len).unwrap().iter().all(|b| *b == 7));
    }
    drop(disk);
    assert_eq!(rig.stop(false), Vec::<String>::new());
}

fn one_that_is_in_use_is_given_up_only_by_force(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start(kind, dir.path());
    let device = rig.ready();
    let mut disk = open(kind, &rig.front_end, &device);
    disk.write(0, &pattern(1, 4096)).unwrap();
    rig.front_end.stop(false);
    match rig.event() {
        FrontEndEvent::StopRefused(FrontEndError::Busy { path } | FrontEndError::Clients { path, .. }) => {
            assert_eq!(path, device.local_path);
        }
        // Open and not mounted: the device cannot be cleared as long as it is.
        FrontEndEvent::StopRefused(other) => assert!(kind == FrontEndKind::Fuse, "{other}"),
        other => panic!("{other:?}"),
    }
    disk.write(4096, &pattern(2, 4096)).expect("it still works");
    assert!(device.symlink.symlink_metadata().is_ok());

    let began = Instant::now();
    rig.stop(true);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(disk.write(0, &pattern(3, 4096)).is_err());
    assert!(disk.read(0, 4096).is_err());
    drop(disk);
    rig.assert_gone();
}

fn a_frozen_engine_holds_up_neither_start_nor_stop(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::start_frozen(kind, dir.path());
    let device = rig.ready();
    let (mut one, mut other) = (open(kind, &rig.front_end, &device), open(kind, &rig.front_end, &device));
    let reader = thread::spawn(move || one.read(0, 4096));
    let writer = thread::spawn(move || other.write(0, &[1; 65536]));
    wait_for("both requests to be stuck", || rig.front_end.pending() == 2);
    rig.front_end.stop(false);
    assert!(matches!(rig.event(), FrontEndEvent::StopRefused(_)));
    rig.stop(true);
    assert!(reader.join().unwrap().is_err());
    assert!(writer.join().unwrap().is_err());
    wait_for("no request to be pending", || rig.front_end.pending() == 0);
    rig.assert_gone();
}

/// A front end whose requests the test answers by hand.
pub fn by_hand(config: FrontEndConfig) -> (ByHand, Receiver<FrontEndEvent>) {
    let (tx, events) = channel();
    (ByHand(start(config, Arc::new(move |e| drop(tx.send(e))))), events)
}

/// Stops by force at the latest when it is dropped.
pub struct ByHand(Arc<dyn FrontEnd>);

impl std::ops::Deref for ByHand {
    type Target = Arc<dyn FrontEnd>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.0.stop(true);
    }
}

fn next_request(events: &Receiver<FrontEndEvent>) -> Request {
    match events.recv_timeout(WAIT).unwrap() {
        FrontEndEvent::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

fn errors_reach_the_application_and_late_or_double_answers_do_no_harm(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let (front_end, events) = by_hand(config(kind, dir.path(), &any_tag()));
    let FrontEndEvent::Ready(device) = events.recv_timeout(WAIT).unwrap() else { panic!() };
    let mut disk = open(kind, &front_end, &device);
    let (answers, results) = channel();
    thread::spawn(move || {
        for _ in 0..4 {
            answers.send(disk.read(0, 4096).map(|data| data[0])).unwrap();
        }
    });
    let request = || {
        let request = next_request(&events);
        assert_eq!(request.op, Op::Read { offset: 0, len: 4096 });
        request.id
    };
    let outcome = || results.recv_timeout(WAIT).unwrap();
    front_end.reply(request(), Err(Errno::IO));
    assert_eq!(outcome(), Err(libc::EIO));
    let id = request();
    front_end.reply(id, Ok(Bytes::from(vec![9; 4096])));
    front_end.reply(id, Err(Errno::IO));
    front_end.reply(123_456_789, Ok(Bytes::new()));
    assert_eq!(outcome(), Ok(9));
    front_end.reply(request(), Ok(Bytes::from_static(b"short")));
    assert_eq!(outcome(), Err(libc::EIO));
    front_end.reply(request(), Err(Errno::NOSPC));
    assert_eq!(outcome(), Err(libc::ENOSPC));
    front_end.stop(true);
    assert!(matches!(events.recv_timeout(WAIT).unwrap(), FrontEndEvent::Stopped { .. }));
}

fn answers_in_any_order_find_who_asked(kind: FrontEndKind) {
    const READERS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let (front_end, events) = by_hand(config(kind, dir.path(), &any_tag()));
    let FrontEndEvent::Ready(device) = events.recv_timeout(WAIT).unwrap() else { panic!() };
    let readers: Vec<_> = (0..READERS)
        .map(|i| {
            let mut disk = open(kind, &front_end, &device);
            thread::spawn(move || disk.read((i * 4096) as u64, 4096).unwrap())
        })
        .collect();
    let mut requests: Vec<Request> = (0..READERS).map(|_| next_request(&events)).collect();
    // The last first.
    requests.sort_by_key(|r| {
        if let Op::Read { offset, .. } = r.op { std::cmp::Reverse(offset) } else { panic!() }
    });
    for request in requests {
        let Op::Read { offset, len } = request.op else { panic!() };
        front_end.reply(request.id, Ok(Bytes::from(vec![(offset / 4096) as u8 + 1; len as usize])));
    }
    for (i, reader) in readers.into_iter().enumerate() {
        assert!(reader.join().unwrap().iter().all(|b| usize::from(*b) == i + 1));
    }
    front_end.stop(true);
    assert!(matches!(events.recv_timeout(WAIT).unwrap(), FrontEndEvent::Stopped { .. }));
}

fn what_is_beyond_the_end_is_refused_and_never_asked_for(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let (front_end, events) = by_hand(config(kind, dir.path(), &any_tag()));
    let FrontEndEvent::Ready(device) = events.recv_timeout(WAIT).unwrap() else { panic!() };
    let mut disk = open(kind, &front_end, &device);
    assert!(disk.read(SIZE, 4096).is_err());
    assert!(disk.write(SIZE, &[1; 4096]).is_err());
    // blkdiscard does not even ask for what is beyond the end.
    assert!(kind == FrontEndKind::Fuse || disk.discard(SIZE, 4096).is_err());
    // Of what begins before the end the kernel asks for the part that is there.
    let across = if kind == FrontEndKind::Fuse { (SIZE, 4096) } else { (SIZE - 4096, 8192) };
    assert!(disk.zero(across.0, across.1).is_err());
    drop(disk);
    front_end.stop(true);
    assert!(matches!(events.recv_timeout(WAIT).unwrap(), FrontEndEvent::Stopped { .. }));
}

fn a_failed_start_leaves_nothing(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    // What is made last cannot be made over a directory.
    let obstacle = match kind {
        FrontEndKind::Fuse => "dev/webstore",
        FrontEndKind::Nbd => "run/webstore.nbd",
    };
    std::fs::create_dir_all(dir.path().join(obstacle).join("occupied")).unwrap();
    let rig = Rig::start(kind, dir.path());
    match rig.event() {
        FrontEndEvent::Failed(error) => assert!(error.to_string().contains(obstacle), "{error}"),
        other => panic!("{other:?}"),
    }
    rig.assert_gone();
}

fn many_start_at_once(kind: FrontEndKind) {
    let dir = tempfile::tempdir().unwrap();
    let rigs: Vec<Rig> = (0..6).map(|i| Rig::start(kind, &dir.path().join(i.to_string()))).collect();
    let mut devices: Vec<PathBuf> = rigs.iter().map(|r| r.ready().host_path).collect();
    devices.sort();
    devices.dedup();
    assert_eq!(devices.len(), 6);
    for rig in &rigs {
        assert!(rig.stop(false).is_empty());
        rig.assert_gone();
    }
}

/// Each of these for each front end.
macro_rules! conform {
    ($($test:ident),* $(,)?) => {
        mod fuse_conforms {
            $(#[test] fn $test() {
                if super::available(super::FrontEndKind::Fuse) {
                    super::$test(super::FrontEndKind::Fuse);
                }
            })*
        }
        mod nbd_conforms {
            $(#[test] fn $test() {
                super::$test(super::FrontEndKind::Nbd);
            })*
        }
    };
}

conform!(
    what_is_read_was_written,
    discards_and_zeroes_arrive_as_what_they_are,
    one_that_is_in_use_is_given_up_only_by_force,
    a_frozen_engine_holds_up_neither_start_nor_stop,
    errors_reach_the_application_and_late_or_double_answers_do_no_harm,
    answers_in_any_order_find_who_asked,
    what_is_beyond_the_end_is_refused_and_never_asked_for,
    a_failed_start_leaves_nothing,
    many_start_at_once,
);
