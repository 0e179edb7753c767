//! The prober: a fresh HTTP connection every 10 ms, whatever became of the earlier ones.
//!
//! Slot n belongs to thread n modulo the number of threads, and a request is bounded to less than one turn of a
//! thread: a service that hangs delays no later probe.

use crate::gaps;
use crate::http;
use crate::netns::{self, Netns};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two probes.
pub const CADENCE: Duration = Duration::from_millis(10);
/// One turn of all threads: longer than a request may last.
const TURN: Duration = Duration::from_millis(800);
/// A SYN to nobody is given up after this; the next slots try anew meanwhile.
const CONNECT: Duration = Duration::from_millis(250);
/// Bound of the whole request: less than [`TURN`].
const WHOLE: Duration = Duration::from_millis(700);

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// When it was begun.
    pub begin: Instant,
    /// When its answer was complete, or given up.
    pub end: Instant,
    /// The header `X-Served-By` of a complete answer with status 200; why there is none.
    pub served_by: Result<String, String>,
}

/// A running prober.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    probes: Arc<Mutex<Vec<Probe>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Prober {
    /// Starts probing `http://<at><path>` once per `cadence`, from inside a namespace if one is given.
    #[must_use]
    pub fn start(at: SocketAddr, path: &str, cadence: Duration, namespace: Option<&Netns>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let probes = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now() + cadence;
        let turns = u32::try_from(TURN.as_millis().div_ceil(cadence.as_millis().max(1))).unwrap_or(1);
        let threads = (0..turns).map(|n| {
            let (stop, probes, path, namespace) =
                (stop.clone(), probes.clone(), path.to_owned(), namespace.cloned());
            std::thread::spawn(move || {
                netns::enter(namespace.as_ref());
                let mut slot = start + cadence * n;
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(slot.saturating_duration_since(Instant::now()));
                    let probe = probe(at, &path);
                    probes.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
                    slot += cadence * turns;
                }
            })
        });
        let threads = threads.collect();
        Self { stop, probes, threads }
    }

    /// What was seen so far, in the order of completion.
    #[must_use]
    pub fn history(&self) -> History {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        probes.sort_by_key(|p| p.end);
        History(probes)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn probe(at: SocketAddr, path: &str) -> Probe {
    let begin = Instant::now();
    let answer = http::get(at, path, CONNECT, WHOLE);
    let served_by = match answer {
        Ok(answer) if answer.status != 200 => Err(format!("status {}", answer.status)),
        Ok(answer) => answer.header("x-served-by").map(str::to_owned).ok_or("no X-Served-By".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Probe { begin, end: Instant::now(), served_by }
}

/// What a prober saw, in the order of completion.
#[derive(Clone, Debug, Default)]
pub struct History(pub Vec<Probe>);

impl History {
    /// The successes.
    pub fn ok(&self) -> impl Iterator<Item = &Probe> {
        self.0.iter().filter(|p| p.served_by.is_ok())
    }

    /// Longest time between two successes, edges included.
    #[must_use]
    pub fn gap(&self, from: Instant, to: Instant) -> Duration {
        gaps::longest(self.ok().map(|p| p.end), from, to)
    }

    /// The first success of a host after a moment.
    #[must_use]
    pub fn first_from(&self, host: &str, after: Instant) -> Option<&Probe> {
        self.ok().find(|p| p.end > after && p.served_by.as_deref() == Ok(host))
    }

    /// The last success of a host.
    #[must_use]
    pub fn last_from(&self, host: &str) -> Option<&Probe> {
        self.ok().filter(|p| p.served_by.as_deref() == Ok(host)).last()
    }

    /// What failed probes said after a moment, each kind with its count.
    #[must_use]
    pub fn failures(&self, after: Instant) -> String {
        let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
        for error in self.0.iter().filter(|p| p.end > after).filter_map(|p| p.served_by.as_ref().err()) {
            *kinds.entry(error).or_default() += 1;
        }
        kinds.iter().map(|(kind, n)| format!("{n} × {kind}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers until told otherwise; from then on accepts and stays silent.
    fn server(silent: Arc<AtomicBool>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if silent.load(Ordering::Relaxed) {
                    held.push(stream);
                    continue;
                }
                held.clear();
                let _ = stream.read(&mut [0; 512]);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nX-Served-By: here\r\nContent-Length: 0\r\n\r\n");
            }
        });
        at
    }

    #[test]
    fn a_hanging_server_is_a_gap_of_its_length_and_no_probe_is_delayed() {
        let silent = Arc::new(AtomicBool::new(false));
        let prober = Prober::start(server(silent.clone()), "/", CADENCE, None);
        std::thread::sleep(Duration::from_millis(300));
        let from = Instant::now();
        silent.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(400));
        silent.store(false, Ordering::Relaxed);
        let back = Instant::now();
        let end = back + Duration::from_secs(20);
        while prober.history().first_from("here", back).is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(900));
        let to = Instant::now();
        let history = prober.history();
        let gap = history.gap(from - Duration::from_millis(100), to);
        // Bounds wide enough for a busy machine, narrow enough to notice a prober that waits for its answers.
        assert!(gap >= Duration::from_millis(390) && gap < Duration::from_secs(3), "{gap:?}");
        assert!(history.failures(from).contains(" × "), "{}", history.failures(from));
        assert!(history.first_from("here", back).is_some() && history.first_from("there", from).is_none());
        assert!(history.last_from("here").is_some_and(|p| p.end > back));
        let begun = history.0.iter().filter(|p| p.begin > from && p.begin < back).count();
        assert!(begun > 5, "only {begun} probes in 400 ms of silence");
    }
}
