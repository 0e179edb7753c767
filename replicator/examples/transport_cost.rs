//! What TLS costs, against plain, on this machine: two pairs of replicators in one process, one with each transport,
//! measured in turns. A write is answered when it is in both backing files.
//!
//! ```sh
//! cargo run --release -p baton-replicator --example transport_cost [DIRECTORY]
//! ```
//!
//! In a directory in memory (`/dev/shm`) no disk hides anything.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

use baton_replicator::frontend::Op;
use baton_replicator::types::Transport;
use bytes::Bytes;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Host, LIMIT, two};

const SIZE: u64 = 64 << 20;
/// Turns; in each, each pair does its share.
const TURNS: usize = 30;

struct Pair {
    transport: Transport,
    alpha: Host,
    _beta: Host,
    id: u64,
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn new(dir: &Path, transport: Transport) -> Self {
        let dir = tempfile::tempdir_in(dir).expect("a directory");
        let (alpha, beta, _pki) = two(dir.path(), SIZE);
        alpha.configure(&beta, &[beta.replicator.address()], transport).await;
        beta.configure(&alpha, &[alpha.replicator.address()], transport).await;
        alpha.lead_with(&beta).await;
        Self { transport, alpha, _beta: beta, id: 0, _dir: dir }
    }

    /// `count` writes of `size` bytes, `depth` of them under way; the time of each batch of `depth`.
    fn batches(&mut self, count: u64, size: u64, depth: u64) -> Vec<Duration> {
        let data = Bytes::from(vec![0x5a; usize::try_from(size).expect("small")]);
        let mut times = Vec::new();
        for _ in 0..count / depth {
            let began = Instant::now();
            let first = self.id + 1;
            for _ in 0..depth {
                self.id += 1;
                let offset = self.id * size % SIZE;
                self.alpha.direct.ask(self.id, Op::Write { offset, data: data.clone() });
            }
            for id in first..=self.id {
                assert!(self.alpha.direct.answer(id, LIMIT).is_some_and(|r| r.is_ok()), "write {id}");
            }
            times.push(began.elapsed());
        }
        times
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn measure(pairs: &mut [Pair; 2], count: u64, size: u64, depth: u64) {
    let mut all = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        // Neither is always the first.
        for i in [turn % 2, 1 - turn % 2] {
            all[i].extend(pairs[i].batches(count, size, depth));
        }
    }
    let [plain, tls] = all.map(median);
    println!(
        "| {} KiB | {depth} | {plain:?} | {tls:?} | {:.2} |",
        size >> 10,
        tls.as_secs_f64() / plain.as_secs_f64()
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let dir = Path::new(&dir);
    let mut pairs = [Pair::new(dir, Transport::Plain).await, Pair::new(dir, Transport::Tls).await];
    for pair in &pairs {
        println!("{}: {:?}", pair.transport.word(), pair.alpha.status().await.peers[0].link);
    }
    println!("| write | at once | plain, median | TLS, median | ratio |\n| --- | --- | --- | --- | --- |");
    tokio::task::block_in_place(|| {
        for (count, size, depth) in [(200, 4096, 1), (200, 65_536, 1), (16, 1 << 20, 1), (32, 1 << 20, 4)] {
            measure(&mut pairs, count, size, depth);
        }
    });
}
