use crate::api::Backing;
use crate::store::{BackingStore, Completion, Snapshot, StoreError, StoreOp};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SIZE: u64 = 16 << 20;
const MIB: u64 = 1 << 20;

struct Rig {
    store: BackingStore,
    done: Receiver<Completion>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backing = Backing::File(dir.path().join("v.img"));
        BackingStore::create(&backing, SIZE).unwrap();
        let (tx, done) = channel();
        let store =
            BackingStore::open(&backing, SIZE, move |done| done.for_each(|c| drop(tx.send(c)))).unwrap();
        Self { store, done, dir }
    }

    fn run(&self, op: StoreOp) -> Bytes {
        self.store.submit(1, op);
        self.done.recv_timeout(Duration::from_secs(10)).unwrap().result.unwrap().unwrap_or_default()
    }

    fn write(&self, offset: u64, byte: u8, len: usize) {
        self.run(StoreOp::Write { offset, data: Bytes::from(vec![byte; len]) });
    }

    fn all(&self) -> Vec<u8> {
        (0..SIZE / MIB).flat_map(|m| self.run(StoreOp::Read { offset: m * MIB, len: 1 << 20 })).collect()
    }

    fn snapshot(&self) -> Result<Arc<Snapshot>, StoreError> {
        self.store.snapshot(self.dir.path())
    }
}

fn content(snapshot: &Snapshot) -> Vec<u8> {
    (0..SIZE / MIB).flat_map(|m| snapshot.read(m * MIB, 1 << 20).unwrap()).collect()
}

#[test]
fn it_stays_what_it_was_whatever_is_changed_afterwards() {
    let rig = Rig::new();
    rig.write(0, 1, 1 << 20);
    rig.write(5 * MIB + 4096, 2, 8192);
    let before = rig.all();
    let snapshot = rig.snapshot().unwrap();
    assert!(content(&snapshot) == before);
    rig.write(4096, 9, 4096);
    rig.write(4096, 8, 4096);
    rig.write(MIB - 4096, 7, 8192);
    rig.run(StoreOp::Discard { offset: 5 * MIB, len: 2 * MIB });
    rig.run(StoreOp::WriteZeroes { offset: 16384, len: 4096 });
    rig.write(9 * MIB, 6, 1 << 20);
    assert!(content(&snapshot) == before);
    assert_ne!(rig.all(), before);
    // Once each, and nothing of what was zero; the MiB with data that was discarded in one piece.
    assert_eq!(snapshot.copied_bytes(), 3 * 4096 + MIB);
    assert!(snapshot.read(0, 100).is_err() && snapshot.read(SIZE, 4096).is_err());
    // Nothing of it has a name.
    assert_eq!(rig.dir.path().read_dir().unwrap().count(), 1);
    rig.store.end_snapshot();
    assert!(snapshot.read(0, 4096).is_err(), "ended");
    drop(snapshot);
    let second = rig.snapshot().unwrap();
    assert!(content(&second) == rig.all());
}

#[test]
fn holes_are_those_of_the_moment() {
    let rig = Rig::new();
    rig.write(4 * MIB, 1, 1 << 20);
    rig.write(12 * MIB, 1, 1 << 20);
    let snapshot = rig.snapshot().unwrap();
    // Data that is punched later is still data, and what is written later is still a hole.
    rig.run(StoreOp::Discard { offset: 4 * MIB, len: MIB });
    rig.write(8 * MIB, 1, 1 << 20);
    let holes = |from: u64, to: u64| {
        let mut at = from;
        let mut found = Vec::new();
        while at < to {
            let (end, hole) = snapshot.range(at);
            assert!(end > at);
            found.push((at / MIB, hole));
            at = end;
        }
        found
    };
    assert_eq!(holes(0, SIZE), [(0, true), (4, false), (5, true), (12, false), (13, true)]);
    assert_eq!(snapshot.data_bytes(), 2 * MIB);
}

#[test]
fn there_is_one_at_a_time() {
    let rig = Rig::new();
    let snapshot = rig.snapshot().unwrap();
    assert!(rig.snapshot().err().unwrap().to_string().contains("there is a snapshot already"));
    drop(snapshot);
    assert!(rig.snapshot().is_ok(), "one that nobody holds is no obstacle");
}

#[test]
fn a_copy_that_cannot_be_made_breaks_the_snapshot_and_not_the_write() {
    let rig = Rig::new();
    rig.write(0, 1, 1 << 20);
    let snapshot = rig.snapshot().unwrap();
    // As on a disk that is full.
    snapshot.copies_fail.store(true, Ordering::SeqCst);
    rig.write(0, 2, 4096);
    assert_eq!(rig.run(StoreOp::Read { offset: 0, len: 4096 })[0], 2);
    assert!(snapshot.broken().unwrap().contains("could not be copied"));
    assert!(snapshot.read(0, 4096).is_err() && snapshot.read(8 * MIB, 4096).is_err());
    rig.write(0, 3, 4096);
}

#[test]
fn readers_and_writers_at_once_see_what_they_should() {
    let rig = Rig::new();
    for m in 0..SIZE / MIB {
        rig.write(m * MIB, m as u8 + 1, 1 << 20);
    }
    let snapshot = rig.snapshot().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (snapshot, done) = (snapshot.clone(), done.clone());
            std::thread::spawn(move || {
                let mut rounds = 0;
                while !done.load(Ordering::SeqCst) || rounds == 0 {
                    for m in 0..SIZE / MIB {
                        let read = snapshot.read(m * MIB, 1 << 20).unwrap();
                        assert!(read.iter().all(|b| *b == m as u8 + 1), "MiB {m}");
                    }
                    rounds += 1;
                }
            })
        })
        .collect();
    for i in 0..2000u64 {
        let block = i.wrapping_mul(0x9E37_79B9) % (SIZE / 4096);
        rig.store.submit(1, StoreOp::Write { offset: block * 4096, data: Bytes::from(vec![0xff; 4096]) });
    }
    for _ in 0..2000 {
        rig.done.recv_timeout(Duration::from_secs(30)).unwrap().result.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    readers.into_iter().for_each(|r| r.join().unwrap());
    assert!(snapshot.copied_bytes() > MIB);
}

/// What the kernel was handed before the moment is in it, and what is written after it is not.
#[test]
fn it_stands_still_while_many_blocks_are_written_at_once() {
    let rig = Rig::new();
    rig.write(0, 1, 1 << 20);
    let (store, stop, blocks) = (&rig.store, AtomicBool::new(false), MIB / 4096);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut value, begun) = (1u8, Instant::now());
            // Also if the test fails.
            while !stop.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                value = value.wrapping_add(1);
                for n in 0..blocks {
                    let data = Bytes::from(vec![value; 4096]);
                    store.queue(1, StoreOp::Write { offset: n * 4096, data });
                }
                store.begin();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for round in 0..20 {
            let snapshot = rig.snapshot().unwrap();
            let first = snapshot.read(0, 1 << 20).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert!(first == snapshot.read(0, 1 << 20).unwrap(), "round {round}: it has changed");
            store.end_snapshot();
        }
        stop.store(true, Ordering::SeqCst);
    });
}
