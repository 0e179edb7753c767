//! A disk in memory that writes down what it is asked: Baton's own front end, with this test as what answers it.
//!
//! It is a block device like any other to the replicator that has its replica on it. It answers what waits in any order,
//! as disks do, so that requests in flight at the same time really overtake each other, and takes its time for some flushes,
//! so that now the one replica, now the other is durable first.

use crate::log::Log;
use crate::rig::WAIT;
use baton_replicator::frontend::fuse;
use baton_replicator::frontend::{Begin, EventSink, FrontEnd, FrontEndConfig, FrontEndEvent, Op, Request};
use baton_replicator::hold::Holder;
use baton_replicator::types::{FrontEndKind, VolumeName};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Of all answers, one in so many is held back for [`GATHER`], so that several requests wait together.
const LATE_ONE_IN: u32 = 8;
const GATHER: Duration = Duration::from_micros(300);
/// One flush in so many takes this long: more than the way to the peer and back, on a busy machine too.
const SLOW_FLUSH_ONE_IN: u32 = 8;
const SLOW_FLUSH: Duration = Duration::from_millis(15);

/// A block device of this machine until it is dropped.
pub struct Disk {
    /// `/dev/loopN`.
    pub device: PathBuf,
    front_end: Arc<dyn FrontEnd>,
    events: Receiver<FrontEndEvent>,
}

impl Disk {
    /// Disk number `index` of a log.
    pub fn start(dir: &Path, log: &Arc<Log>, index: usize, size_bytes: u64, seed: u64) -> Self {
        let dir = dir.join(format!("disk{index}"));
        let config = FrontEndConfig {
            kind: FrontEndKind::Fuse,
            volume: VolumeName::new("disk").unwrap(),
            size_bytes,
            tag: format!("crash-{:08x}", rand::random::<u32>()),
            run_dir: dir.join("run"),
            device_dir: dir.join("dev"),
            holder: Holder::none(),
            begin: Begin::Make,
        };
        let (tx, events) = channel();
        let (requests, inbox) = channel();
        let notes = Arc::clone(log);
        let sink: EventSink = Arc::new(move |event| match event {
            FrontEndEvent::Request(request) => {
                let number = note(&notes, index, &request.op);
                drop(requests.send((request, number)));
            }
            other => drop(tx.send(other)),
        });
        let front_end = fuse::start(config, sink);
        let server = Server {
            front_end: Arc::clone(&front_end),
            log: Arc::clone(log),
            bytes: vec![0; size_bytes as usize],
            random: StdRng::seed_from_u64(seed),
        };
        // Not joined: it ends with the front end's threads.
        thread::spawn(move || server.serve(&inbox));
        match events.recv_timeout(WAIT) {
            Ok(FrontEndEvent::Ready(device)) => Self { device: device.host_path, front_end, events },
            other => panic!("no disk: {other:?}"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.front_end.stop(true);
        while let Ok(event) = self.events.recv_timeout(WAIT) {
            if matches!(event, FrontEndEvent::Stopped { .. }) {
                return;
            }
        }
    }
}

/// Data is copied: the front end's buffer may be much larger than what it holds.
fn note(log: &Log, disk: usize, op: &Op) -> Option<usize> {
    let op = match op {
        Op::Read { .. } => return None,
        Op::Write { offset, data } => Op::Write { offset: *offset, data: Bytes::copy_from_slice(data) },
        Op::Flush | Op::Discard { .. } | Op::WriteZeroes { .. } => op.clone(),
    };
    Some(log.begin(disk, op))
}

struct Server {
    front_end: Arc<dyn FrontEnd>,
    log: Arc<Log>,
    bytes: Vec<u8>,
    random: StdRng,
}

impl Server {
    fn serve(mut self, inbox: &Receiver<(Request, Option<usize>)>) {
        let mut waiting = Vec::new();
        loop {
            let late = self.random.random_ratio(1, LATE_ONE_IN);
            if waiting.is_empty() {
                let Ok(first) = inbox.recv() else { return };
                waiting.push(first);
            }
            if late
                && matches!(
                    inbox.recv_timeout(GATHER).map(|r| waiting.push(r)),
                    Err(RecvTimeoutError::Disconnected)
                )
            {
                return;
            }
            waiting.extend(inbox.try_iter());
            let (request, number) = waiting.swap_remove(self.random.random_range(0..waiting.len()));
            if request.op == Op::Flush && self.random.random_ratio(1, SLOW_FLUSH_ONE_IN) {
                thread::sleep(SLOW_FLUSH);
            }
            let answer = self.execute(&request.op);
            if let Some(number) = number {
                self.log.end(number);
            }
            self.front_end.reply(request.id, Ok(answer));
        }
    }

    fn execute(&mut self, op: &Op) -> Bytes {
        if let Op::Read { offset, len } = op {
            return Bytes::copy_from_slice(&self.bytes[*offset as usize..][..*len as usize]);
        }
        apply(&mut self.bytes, op);
        Bytes::new()
    }
}

/// Carries out a request that changes something, on an image.
pub fn apply(image: &mut [u8], op: &Op) {
    match op {
        Op::Write { offset, data } => image[*offset as usize..][..data.len()].copy_from_slice(data),
        Op::Discard { offset, len } | Op::WriteZeroes { offset, len } => {
            image[*offset as usize..][..*len as usize].fill(0);
        }
        Op::Read { .. } | Op::Flush => {}
    }
}
