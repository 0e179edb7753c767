//! How many bytes may be held at a time, and waiting for room.

use super::WAITS;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// A bound on bytes; clones share it. One charge always fits, however large, if nothing else is held.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    held: Mutex<usize>,
    room: Condvar,
}

/// Bytes that are held; given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// At most `most` bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most, held: Mutex::new(0), room: Condvar::new() }))
    }

    /// Takes `bytes` as soon as they fit. `None` when `goes_on`, asked about every `pace` while it waits, says no.
    pub fn take(&self, bytes: usize, pace: Duration, mut goes_on: impl FnMut() -> bool) -> Option<Charge> {
        let mut held = self.held();
        let mut waits = false;
        while *held > 0 && *held + bytes > self.0.most {
            if !std::mem::replace(&mut waits, true) {
                WAITS.fetch_add(1, Ordering::Relaxed);
            }
            let (woken, slept) = self.0.room.wait_timeout(held, pace).expect("no panic under this lock");
            held = woken;
            if slept.timed_out() {
                drop(held);
                if !goes_on() {
                    return None;
                }
                held = self.held();
            }
        }
        *held += bytes;
        drop(held);
        Some(Charge { budget: self.clone(), bytes })
    }

    /// Bytes held now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        *self.held()
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.0.held.lock().expect("no panic under this lock")
    }
}

impl Charge {
    /// The same bytes; the charge is held as long as any part of them.
    #[must_use]
    pub fn on(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        *self.budget.held() -= self.bytes;
        self.budget.0.room.notify_all();
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    const PACE: Duration = Duration::from_millis(1);

    #[test]
    fn who_finds_no_room_waits_until_there_is() {
        let budget = Budget::new(10);
        let first = budget.take(6, PACE, || false).expect("room");
        let bytes = first.on(Bytes::from_static(b"sixsix"));
        let part = bytes.slice(2..3);
        drop(bytes);
        assert_eq!(budget.in_use(), 6, "a part of it is held");
        assert!(budget.take(5, PACE, || false).is_none());
        let (told, taken) = channel();
        let theirs = budget.clone();
        let waiter =
            thread::spawn(move || told.send(theirs.take(5, PACE, || true)).expect("somebody listens"));
        assert!(taken.recv_timeout(Duration::from_millis(20)).is_err(), "there is no room");
        drop(part);
        let second = taken.recv_timeout(Duration::from_secs(20)).expect("there is room");
        waiter.join().expect("it ends");
        drop(second);
        let large = budget.take(1 << 30, PACE, || false);
        assert!(large.is_some(), "one that never fits goes alone");
        drop(large);
        assert_eq!(budget.in_use(), 0);
    }
}
