use super::*;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

const WAIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

struct Rig {
    store: BackingStore,
    done: Receiver<Completion>,
}

impl Rig {
    fn open(path: &Path, size: u64) -> Self {
        let (tx, done) = channel();
        let store = BackingStore::open(&Backing::File(path.into()), size, move |done| {
            done.for_each(|c| drop(tx.send(c)))
        })
        .unwrap();
        Self { store, done }
    }

    fn create(path: &Path, size: u64) -> Self {
        BackingStore::create(&Backing::File(path.into()), size).unwrap();
        Self::open(path, size)
    }

    fn run(&self, op: StoreOp) -> Result<Option<Bytes>, StoreError> {
        self.store.submit(99, op);
        let done = self.done.recv_timeout(WAIT).unwrap();
        assert_eq!(done.tag, 99);
        done.result
    }

    fn read(&self, offset: u64, len: u32) -> Bytes {
        self.run(StoreOp::Read { offset, len }).unwrap().unwrap()
    }
}

fn block(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 4096])
}

/// A filesystem in memory of `size`, unmounted at the end; none without the right to mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let ok = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir.path()).status();
        if ok.is_ok_and(|s| s.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn reads_what_was_written_and_zeroes_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volumes/web.img");
    let rig = Rig::create(&path, 64 * MIB);
    // Unaligned memory is copied, aligned memory is not; both arrive.
    let unaligned = Bytes::from(vec![5; 8193]).slice(1..);
    rig.run(StoreOp::Write { offset: 8192, data: unaligned }).unwrap();
    rig.run(StoreOp::Write { offset: MIB, data: AlignedBuf::copy_of(&[6; 4096]).into_bytes() }).unwrap();
    assert!(rig.run(StoreOp::Flush).unwrap().is_none());
    let data = rig.read(4096, 16384);
    assert!(AlignedBuf::is_aligned(&data));
    assert!(data[..4096].iter().all(|b| *b == 0));
    assert!(data[4096..12288].iter().all(|b| *b == 5));
    assert!(data[12288..].iter().all(|b| *b == 0));
    assert_eq!(rig.read(MIB, 4096), block(6));
    assert!(rig.store.close(WAIT));
    assert!(matches!(rig.run(StoreOp::Flush), Err(StoreError::Closed { .. })));
    assert_eq!(Rig::open(&path, 64 * MIB).read(MIB, 4096), block(6));
}

#[test]
fn overlapping_commands_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), MIB);
    for round in 0..200u64 {
        rig.store.submit(round, StoreOp::Write { offset: 0, data: Bytes::from(vec![round as u8; 65536]) });
        rig.store.submit(1000 + round, StoreOp::Read { offset: 4096, len: 4096 });
        rig.store.submit(2000 + round, StoreOp::WriteZeroes { offset: 8192, len: 4096 });
    }
    for _ in 0..600 {
        let done = rig.done.recv_timeout(WAIT).unwrap();
        if let (1000..2000, data) = (done.tag, done.result.unwrap()) {
            assert_eq!(
                data.unwrap()[0],
                (done.tag - 1000) as u8,
                "a read saw another write than the one before it"
            );
        }
    }
    assert_eq!(rig.read(0, 12288)[8192], 0);
    assert_eq!(rig.read(0, 12288)[8191], 199);
}

impl Rig {
    fn wait(&self, count: usize) -> Vec<Completion> {
        (0..count).map(|_| self.done.recv_timeout(WAIT).unwrap()).collect()
    }
}

/// All of it is there when threads look: the kernel gets what it can, and what overlaps waits for its turn.
#[test]
fn what_is_handed_over_together_keeps_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), MIB);
    // In the first round of writes the blocks are holes, which the kernel cannot fill without waiting.
    for round in 0..100u64 {
        for n in 0..64 {
            let offset = n * 4096;
            rig.store.queue(round, StoreOp::Write { offset, data: block(round as u8) });
            rig.store.queue(1000 + round, StoreOp::Read { offset, len: 4096 });
        }
        if round % 10 == 0 {
            rig.store.queue(2000, StoreOp::Flush);
        }
        rig.store.begin();
    }
    for done in rig.wait(100 * 128 + 10) {
        let data = done.result.unwrap();
        if let (1000..2000, Some(data)) = (done.tag, data) {
            assert_eq!(data[0], (done.tag - 1000) as u8, "a read saw another write than the one before it");
            assert_eq!(data, block(data[0]));
        }
    }
    assert!(rig.read(0, 64 * 4096).iter().all(|b| *b == 99));
}

#[test]
fn a_store_that_is_closed_has_ended_all_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let rig = Rig::create(&path, MIB);
    for round in 1..=20u8 {
        for n in 0..100u64 {
            rig.store.queue(n, StoreOp::Write { offset: n * 4096, data: block(round) });
        }
    }
    rig.store.begin();
    assert!(rig.store.close(WAIT));
    assert_eq!(rig.done.try_iter().filter(|done| done.result.is_ok()).count(), 2000);
    assert!(Rig::open(&path, MIB).read(0, 100 * 4096).iter().all(|b| *b == 20));
}

#[test]
fn without_the_kernels_help_threads_do_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), MIB);
    rig.store.shared.lock().asynchronous = false;
    for n in 0..100u64 {
        rig.store.queue(n, StoreOp::Write { offset: n * 4096, data: block(7) });
    }
    rig.store.begin();
    assert!(rig.wait(100).iter().all(|done| done.result.is_ok()));
    assert!(rig.read(0, 100 * 4096).iter().all(|b| *b == 7));
}

#[test]
fn what_comes_back_from_the_kernel_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), MIB);
    let judged = |outcome: i64| {
        let op = StoreOp::Read { offset: 0, len: 4096 };
        let Ok(command) = command((0, Job { tag: 5, op })) else { panic!("a read is handed over") };
        rig.store.shared.judged(command, outcome)
    };
    let errno = |e: i32| -i64::from(e);
    assert!(judged(4096).is_ok_and(|done| done.tag == 5 && done.result.unwrap().unwrap().len() == 4096));
    let error = judged(errno(libc::EIO)).ok().and_then(|done| done.result.err()).unwrap();
    assert_eq!(error.errno(), libc::EIO);
    assert!(error.to_string().contains("read 4096 bytes at 0 of"), "{error}");
    // A thread finds out about the rest of it.
    for came in [512, 0, errno(libc::EAGAIN)] {
        assert!(judged(came).is_err_and(|job| job.tag == 5));
    }
    let before = rig.store.shared.lock().asynchronous;
    assert_eq!(before, rig.store.shared.ring.is_some());
    assert!(judged(errno(libc::EOPNOTSUPP)).is_err());
    assert!(!rig.store.shared.lock().asynchronous, "this filesystem is not asked again");
}

#[test]
fn discard_and_zeroes_read_as_zeroes_and_holes_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), 64 * MIB);
    assert_eq!(rig.store.allocated_ranges().unwrap(), vec![]);
    let data = Bytes::from(vec![9; MIB as usize]);
    for offset in [0, 10 * MIB, 63 * MIB] {
        rig.run(StoreOp::Write { offset, data: data.clone() }).unwrap();
    }
    assert_eq!(rig.store.allocated_ranges().unwrap(), vec![0..MIB, 10 * MIB..11 * MIB, 63 * MIB..64 * MIB]);
    rig.run(StoreOp::Discard { offset: 0, len: 5 * MIB }).unwrap();
    rig.run(StoreOp::WriteZeroes { offset: 10 * MIB, len: 4096 }).unwrap();
    assert_eq!(rig.read(0, 4096), block(0));
    assert_eq!(rig.read(10 * MIB, 4096), block(0));
    assert_eq!(rig.read(10 * MIB + 4096, 4096), block(9));
    let ranges = rig.store.allocated_ranges().unwrap();
    assert!(
        ranges.iter().all(|r| r.start >= 10 * MIB) && ranges.last() == Some(&(63 * MIB..64 * MIB)),
        "{ranges:?}"
    );
}

#[test]
fn where_holes_cannot_be_punched_zeroes_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), 4 * MIB);
    rig.run(StoreOp::Write { offset: 0, data: Bytes::from(vec![9; 4 * MIB as usize]) }).unwrap();
    // Inserting a range and keeping the size is a combination that no filesystem takes.
    let impossible = FallocateFlags::INSERT_RANGE | FallocateFlags::KEEP_SIZE;
    rig.store.shared.make_zero(impossible, 4096, 3 * MIB).unwrap();
    assert_eq!(rig.read(0, 4096), block(9));
    assert!(rig.read(4096, 3 * MIB as u32).iter().all(|b| *b == 0));
    assert_eq!(rig.read(3 * MIB + 4096, 4096), block(9));
}

#[test]
fn a_full_disk_is_an_error_that_names_file_and_place() {
    let Some(tmpfs) = Tmpfs::new("1m") else { return };
    let path = tmpfs.0.path().join("web.img");
    let rig = Rig::create(&path, 64 * MIB);
    rig.run(StoreOp::Write { offset: 0, data: block(1) }).unwrap();
    let error = rig
        .run(StoreOp::Write { offset: 4 * MIB, data: Bytes::from(vec![2; 2 * MIB as usize]) })
        .unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
    let text = error.to_string();
    assert!(
        text.contains("write 2097152 bytes at 4194304 of") && text.contains(path.to_str().unwrap()),
        "{text}"
    );
    assert_eq!(rig.read(0, 4096), block(1), "what was there stays");
    // Space given back can be used again.
    rig.run(StoreOp::Discard { offset: 0, len: 64 * MIB }).unwrap();
    rig.run(StoreOp::Write { offset: 0, data: block(3) }).unwrap();
    assert!(rig.store.close(WAIT));
}

#[test]
fn a_store_is_opened_once_and_only_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let backing = Backing::File(path.clone());
    assert!(!BackingStore::exists(&backing));
    assert!(BackingStore::open(&backing, MIB, |_| ()).is_err());
    let rig = Rig::create(&path, MIB);
    assert!(BackingStore::exists(&backing));
    assert!(BackingStore::create(&backing, MIB).is_err(), "an existing file is never replaced");
    assert!(matches!(BackingStore::open(&backing, MIB, |_| ()), Err(StoreError::Locked { .. })));
    assert!(matches!(BackingStore::open(&backing, 2 * MIB, |_| ()), Err(StoreError::Size { .. })));
    assert!(matches!(rig.run(StoreOp::Read { offset: MIB, len: 4096 }), Err(StoreError::BadRange { .. })));
    assert!(matches!(rig.run(StoreOp::Discard { offset: 1, len: 4096 }), Err(StoreError::BadRange { .. })));
    drop(rig);
    Rig::open(&path, MIB);
}

#[test]
fn flushes_that_wait_together_all_complete() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::create(&dir.path().join("v"), MIB);
    for tag in 0..40 {
        rig.store.submit(tag, StoreOp::Flush);
    }
    let mut tags: Vec<u64> = (0..40).map(|_| rig.done.recv_timeout(WAIT).unwrap().tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..40).collect::<Vec<_>>());
}

#[test]
fn a_store_grows_under_its_commands_and_only_a_file_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let rig = Rig::create(&path, MIB);
    rig.run(StoreOp::Write { offset: 0, data: block(3) }).unwrap();
    assert!(rig.run(StoreOp::Read { offset: MIB, len: 4096 }).is_err());
    rig.store.grow(2 * MIB).unwrap();
    rig.store.grow(MIB).unwrap();
    assert_eq!((rig.store.size_bytes(), std::fs::metadata(&path).unwrap().len()), (2 * MIB, 2 * MIB));
    assert_eq!(rig.run(StoreOp::Read { offset: MIB, len: 4096 }).unwrap(), Some(block(0)));
    rig.run(StoreOp::Write { offset: 2 * MIB - 4096, data: block(4) }).unwrap();
    drop(rig);

    // A growth that was interrupted left it longer than its metadata say; no longer than was asked for.
    let backing = Backing::File(path.clone());
    assert!(matches!(BackingStore::open(&backing, MIB, |_| ()), Err(StoreError::Size { .. })));
    assert!(BackingStore::open_growing(&backing, MIB, 2 * MIB - 4096, |_| ()).is_err());
    let store = BackingStore::open_growing(&backing, MIB, 2 * MIB, |_| ()).unwrap();
    assert_eq!(store.size_bytes(), MIB);
    drop(store);
    // Nobody makes a device larger from here; a file stands in for one that has the size it has.
    let device = BackingStore::open(&Backing::Device(path), 2 * MIB, |_| ()).unwrap();
    let error = device.grow(3 * MIB).unwrap_err().to_string();
    assert!(error.contains("has 2097152 bytes, the volume 3145728"), "{error}");
}
