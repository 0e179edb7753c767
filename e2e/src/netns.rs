//! Acting inside a host's network namespace, and watching which hosts hold the address.
//!
//! A thread that has entered a namespace sees that host's addresses and routes: it is how a client sits "on the
//! cut-off side". Only whole threads enter; none ever comes back.

use crate::cluster::Cluster;
use crate::faults;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the watch looks. It bounds the error of every statement about who held the address when.
const SAMPLE: Duration = Duration::from_millis(5);

/// A network namespace, kept open.
#[derive(Clone, Debug)]
pub struct Netns(Arc<File>);

impl Netns {
    /// The namespace of a host.
    ///
    /// # Errors
    /// If the host is off.
    pub fn of(cluster: &Cluster, host: &str) -> Result<Self> {
        let path = format!("/proc/{}/ns/net", faults::namespace_pid(cluster, host)?);
        Ok(Self(Arc::new(File::open(&path).with_context(|| path)?)))
    }

    /// Moves the calling thread into it, for good.
    ///
    /// # Errors
    /// If the kernel refuses (not root).
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

/// Moves the calling thread into a namespace if there is one to move into.
///
/// # Panics
/// If the kernel refuses: a client on the wrong side would prove nothing.
pub fn enter(namespace: Option<&Netns>) {
    if let Some(namespace) = namespace {
        namespace.enter().unwrap_or_else(|e| panic!("enter the namespace: {e}"));
    }
}

/// When an address came and went on one host: each change, the first entry being the state at the start.
pub type Held = Vec<(Instant, bool)>;

/// Watches whether a host holds an address, every 5 ms, from inside its namespace.
#[derive(Debug)]
pub struct HolderWatch {
    stop: Arc<AtomicBool>,
    held: Arc<Mutex<Held>>,
    thread: Option<JoinHandle<()>>,
}

impl HolderWatch {
    /// Starts watching; none: in the namespace of this process.
    #[must_use]
    pub fn start(address: Ipv4Addr, namespace: Option<Netns>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let held = Arc::new(Mutex::new(Held::new()));
        let (stopped, log) = (stop.clone(), held.clone());
        let thread = std::thread::spawn(move || {
            enter(namespace.as_ref());
            // A machine that stood still between two looks must not make it last longer than it was seen to.
            let mut seen = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let look = Instant::now();
                let holds = is_local(address);
                let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if log.last().is_none_or(|(_, before)| *before != holds) {
                    log.push((if holds { Instant::now() } else { seen }, holds));
                }
                drop(log);
                if holds {
                    seen = look;
                }
                std::thread::sleep(SAMPLE);
            }
        });
        Self { stop, held, thread: Some(thread) }
    }

    /// What was seen so far.
    #[must_use]
    pub fn held(&self) -> Held {
        self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for HolderWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Only an address of this namespace can be bound; asking the kernel so costs microseconds, `ip addr` a process.
fn is_local(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// When the address was last seen to go, if it is gone at the end.
#[must_use]
pub fn gone_at(held: &Held) -> Option<Instant> {
    held.last().filter(|(_, holds)| !holds).map(|(at, _)| *at)
}

/// For how long in `from..to` both held it.
#[must_use]
pub fn both(a: &Held, b: &Held, from: Instant, to: Instant) -> Duration {
    let spans = |held: &Held| {
        let ends = held.iter().skip(1).map(|(at, _)| *at).chain([to]);
        let spans =
            held.iter().zip(ends).filter(|((_, holds), _)| *holds).map(|((begin, _), end)| (*begin, end));
        spans.collect::<Vec<_>>()
    };
    let mut sum = Duration::ZERO;
    for (begin, end) in spans(a) {
        for (other_begin, other_end) in spans(b) {
            sum += end.min(other_end).min(to).saturating_duration_since(begin.max(other_begin).max(from));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_of_two_holders() {
        let t = Instant::now();
        let at = |ms| t + Duration::from_millis(ms);
        let old = vec![(at(0), true), (at(1000), false)];
        let new = vec![(at(0), false), (at(900), true)];
        assert_eq!(both(&old, &new, at(0), at(5000)), Duration::from_millis(100));
        assert_eq!(both(&old, &new, at(950), at(5000)), Duration::from_millis(50));
        assert_eq!(both(&old, &vec![(at(0), false), (at(1000), true)], at(0), at(5000)), Duration::ZERO);
        assert_eq!(both(&old, &vec![(at(0), true)], at(0), at(300)), Duration::from_millis(300));
        assert_eq!((gone_at(&old), gone_at(&new)), (Some(at(1000)), None));
    }

    #[test]
    fn the_watch_knows_a_local_address() {
        assert!(is_local(Ipv4Addr::LOCALHOST));
        // TEST-NET-1: never an address of a machine.
        assert!(!is_local(Ipv4Addr::new(192, 0, 2, 1)));
        let watch = HolderWatch::start(Ipv4Addr::LOCALHOST, None);
        let end = Instant::now() + Duration::from_secs(5);
        while watch.held().is_empty() && Instant::now() < end {
            std::thread::sleep(SAMPLE);
        }
        assert_eq!(watch.held().iter().map(|(_, holds)| *holds).collect::<Vec<_>>(), [true]);
    }
}
