//! What a disk was asked, in order: the write log, and the one clock that everything in a test is noted by.
//!
//! The clock counts events. A disk takes a tick when a request arrives and another one just before it is answered; a
//! workload takes one before it asks for something and one after it was told that it is done. So whatever a workload
//! saw as done has a smaller tick than anything that it asked for afterwards, on every disk.

use baton_replicator::frontend::Op;
use std::sync::{Mutex, MutexGuard};

/// The moment of an event.
pub type Tick = u64;

/// A request that changes a disk, or a flush.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Which disk.
    pub disk: usize,
    pub op: Op,
    /// When it arrived.
    pub begin: Tick,
    /// When it was answered; none: the log ended first.
    pub end: Option<Tick>,
}

/// The write log of all disks of a test.
#[derive(Default)]
pub struct Log(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    clock: Tick,
    ops: Vec<Recorded>,
}

impl Inner {
    fn tick(&mut self) -> Tick {
        self.clock += 1;
        self.clock
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Now.
    pub fn tick(&self) -> Tick {
        self.lock().tick()
    }

    /// A request has arrived. Returns its number.
    pub fn begin(&self, disk: usize, op: Op) -> usize {
        let mut inner = self.lock();
        let begin = inner.tick();
        inner.ops.push(Recorded { disk, op, begin, end: None });
        inner.ops.len() - 1
    }

    /// Request `number` is about to be answered.
    pub fn end(&self, number: usize) {
        let mut inner = self.lock();
        inner.ops[number].end = Some(inner.clock + 1);
        inner.clock += 1;
    }

    /// How many requests have arrived.
    pub fn len(&self) -> u64 {
        self.lock().ops.len() as u64
    }

    /// What one disk was asked, in the order in which it was carried out; what was not answered is last.
    pub fn of(&self, disk: usize) -> Vec<Recorded> {
        let mut ops: Vec<Recorded> = self.lock().ops.iter().filter(|r| r.disk == disk).cloned().collect();
        ops.sort_by_key(|r| r.end.unwrap_or(Tick::MAX));
        ops
    }
}
