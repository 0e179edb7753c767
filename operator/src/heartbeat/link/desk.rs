//! Opens links that are not open, looks after interfaces that come and go, and closes what is no longer used: on a
//! thread of its own, because each of these may wait.
//!
//! Shares a mutex with the heartbeat thread that nobody holds over a system call. If this thread dies the process dies
//! (a panic aborts it).

use super::Port;
use super::udp::index_of;
use crate::spec::HeartbeatLink;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A link that is not there is tried, and an interface looked at, this often.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum State {
    /// To be opened.
    Wanted,
    /// Open: the interface it is bound to, with its index.
    Open(Option<(String, u32)>),
}

#[derive(Debug, Default)]
struct Inside {
    port: u16,
    links: BTreeMap<HeartbeatLink, State>,
    ready: Vec<(HeartbeatLink, Result<Port, String>)>,
    closing: Vec<Port>,
    stop: bool,
}

type Shared = Arc<(Mutex<Inside>, Condvar)>;

/// Where the heartbeat thread gets open links and leaves used ones.
#[derive(Debug)]
pub(in crate::heartbeat) struct Desk {
    shared: Shared,
    handle: Option<JoinHandle<()>>,
}

impl Desk {
    /// Starts the thread.
    pub fn start(port: u16) -> std::io::Result<Self> {
        let shared: Shared = Arc::default();
        lock(&shared).port = port;
        let its = Arc::clone(&shared);
        let handle = std::thread::Builder::new().name("heartbeat-links".into()).spawn(move || run(&its))?;
        Ok(Self { shared, handle: Some(handle) })
    }

    /// These links, and no others, are to be open; those already open stay so.
    pub fn want(&self, links: impl IntoIterator<Item = HeartbeatLink>) {
        let mut inside = lock(&self.shared);
        let mut before = std::mem::take(&mut inside.links);
        for link in links {
            let state = before.remove(&link).unwrap_or(State::Wanted);
            inside.links.insert(link, state);
        }
        drop(inside);
        self.shared.1.notify_one();
    }

    /// What was opened, or why it could not be. Empty while the other thread has the list.
    pub fn ready(&self) -> Vec<(HeartbeatLink, Result<Port, String>)> {
        self.shared.0.try_lock().map(|mut inside| std::mem::take(&mut inside.ready)).unwrap_or_default()
    }

    /// A link that failed is opened again.
    pub fn lost(&self, link: &HeartbeatLink) {
        if let Some(state) = lock(&self.shared).links.get_mut(link) {
            *state = State::Wanted;
        }
    }

    /// Closes what is not used any more.
    pub fn close(&self, port: Port) {
        lock(&self.shared).closing.push(port);
        self.shared.1.notify_one();
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        self.shared.1.notify_one();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Inside> {
    // A panic aborts the process, so a poisoned mutex cannot be met.
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &Shared) {
    loop {
        let (wanted, open, port, closing) = {
            let mut inside = lock(shared);
            if inside.stop {
                return;
            }
            let closing = std::mem::take(&mut inside.closing);
            let wanted: Vec<HeartbeatLink> = inside
                .links
                .iter()
                .filter(|(_, s)| matches!(s, State::Wanted))
                .map(|(l, _)| l.clone())
                .collect();
            let open: Vec<_> = inside.links.iter().filter_map(|(l, s)| bound(l, s)).collect();
            (wanted, open, inside.port, closing)
        };
        drop(closing);
        for (link, (interface, index)) in open {
            // Gone, or another one of that name: the socket hears nothing any more.
            if index_of(&interface) != Some(index) {
                let mut inside = lock(shared);
                let gone = format!("interface {interface} is gone or another one");
                if let Some(state) = inside.links.get_mut(&link) {
                    *state = State::Wanted;
                    inside.ready.push((link, Err(gone)));
                }
            }
        }
        for link in wanted {
            let opened = Port::open(&link, port).map_err(|e| explain(&link, &e));
            let mut inside = lock(shared);
            // Another specification may have come meanwhile: what nobody wants is dropped.
            if let Some(state) = inside.links.get_mut(&link) {
                if let Ok(port) = &opened {
                    *state = State::Open(interface_of(port));
                }
                inside.ready.push((link, opened));
            }
        }
        let inside = lock(shared);
        if !inside.stop && inside.closing.is_empty() {
            // Woken early or late, the loop only looks again.
            let _ = shared.1.wait_timeout(inside, AGAIN);
        }
    }
}

fn bound(link: &HeartbeatLink, state: &State) -> Option<(HeartbeatLink, (String, u32))> {
    match state {
        State::Open(Some(interface)) => Some((link.clone(), interface.clone())),
        State::Open(None) | State::Wanted => None,
    }
}

fn interface_of(port: &Port) -> Option<(String, u32)> {
    match port {
        Port::Udp(udp) => udp.interface_of(),
        Port::Line(_) => None,
    }
}

fn explain(link: &HeartbeatLink, error: &std::io::Error) -> String {
    match link {
        HeartbeatLink::Broadcast { interface } | HeartbeatLink::Multicast { interface, .. } => {
            format!("cannot be opened on {interface}: {error}")
        }
        HeartbeatLink::Serial { device, .. } => format!("{} cannot be opened: {error}", device.display()),
        HeartbeatLink::Unicast(_) | HeartbeatLink::None => error.to_string(),
    }
}
