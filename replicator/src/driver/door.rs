//! The way into a volume: a queue, and whoever brings something works it off, unless somebody does already.
//!
//! Requests, frames and completions come on many threads. Handing each to a thread of the volume's own would wake that one
//! up four times in the course of a replicated write, which takes longer than all the rest of Baton's work on it. So
//! whoever has queued one of them takes the volume's lock, if it is free, and carries out what is queued (flat combining:
//! Hendler, Incze, Shavit and Tzafrir, SPAA 2010). What is rare, and what ends a volume, is left to the volume's thread, which
//! also sees to the time.
//!
//! What need not be done under the lock (sending what was queued for peers) is done after it was let go, before the thread looks
//! into the queue once more.
//!
//! Invariants: inputs are carried out one at a time, in the order in which they were queued; none stays in the queue while
//! nobody works; nobody who queues one waits for the lock.

use super::handle::Input;
use crate::frontend::FrontEndEvent;
use crate::transport::TransportEvent;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Inputs of a volume that may wait: the front end's requests (at most 256), completions, and frames; a full
/// queue slows down whoever reads the network.
const QUEUE: usize = 1024;
/// Inputs that one thread carries out before the volume's own goes on: a reader has its connection to read.
pub(super) const TURN: usize = 64;

/// The volume has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// Who carries inputs out.
pub(super) trait Owner: Send {
    /// What a turn leaves to be done without the lock.
    type Errands: Errands;

    /// Carries out at most [`TURN`] inputs; with `own` on the volume's thread, where all kinds may be. Whether there may be more
    /// for that thread.
    fn turn(&mut self, own: bool) -> (bool, Self::Errands);
}

/// What a turn leaves to be done.
pub(super) trait Errands {
    /// Does it, on the thread whose turn it was.
    fn run(self);
}

/// The way in; clones lead to the same volume.
pub(super) struct Door<O> {
    sender: Sender<Input>,
    inner: Arc<Inner<O>>,
}

struct Inner<O> {
    owner: Mutex<Option<O>>,
    thread: OnceLock<Thread>,
}

impl<O> Clone for Door<O> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), inner: self.inner.clone() }
    }
}

impl<O: Owner> Door<O> {
    /// A way in, before there is anybody inside, and where what came in is taken from. When that is dropped, the volume
    /// has ended.
    pub fn new() -> (Self, Receiver<Input>) {
        let (sender, receiver) = bounded(QUEUE);
        (
            Self { sender, inner: Arc::new(Inner { owner: Mutex::new(None), thread: OnceLock::new() }) },
            receiver,
        )
    }

    /// Puts the owner in, on what will be the volume's thread.
    pub fn move_in(&self, owner: O) {
        let _ = self.inner.thread.set(thread::current());
        *self.owner() = Some(owner);
    }

    /// Takes the owner out: the volume's thread is about to end it. What comes later waits in the queue.
    pub fn move_out(&self) -> Option<O> {
        self.owner().take()
    }

    /// The volume's thread: carries out what there is. Whether there may be more. `then` looks at the owner afterwards.
    pub fn turn<R>(&self, then: impl FnOnce(&mut O) -> R) -> Option<(bool, R)> {
        let mut slot = self.owner();
        let owner = slot.as_mut()?;
        let (more, errands) = owner.turn(true);
        let found = then(owner);
        drop(slot);
        errands.run();
        // Who came meanwhile found the lock taken, and relies on this.
        Some((more || !self.sender.is_empty(), found))
    }

    /// Waits for something that only the volume's thread does.
    pub fn rest(limit: Duration) {
        thread::park_timeout(limit);
    }

    /// Queues an input; waits while the queue is full.
    pub fn send(&self, input: Input) -> Result<(), Gone> {
        let anywhere = input.is_for_any_thread();
        self.sender.send(input).map_err(|_| Gone)?;
        self.queued(anywhere);
        Ok(())
    }

    /// Queues several inputs of a kind, which one turn can carry out; waits while the queue is full.
    pub fn send_all(&self, inputs: &mut dyn Iterator<Item = Input>) -> Result<(), Gone> {
        let mut anywhere = None;
        for input in inputs {
            anywhere = Some(input.is_for_any_thread());
            match self.sender.try_send(input) {
                Ok(()) => {}
                Err(TrySendError::Full(input)) => self.send(input)?,
                Err(TrySendError::Disconnected(_)) => return Err(Gone),
            }
        }
        if let Some(anywhere) = anywhere {
            self.queued(anywhere);
        }
        Ok(())
    }

    /// Queues an input that may be lost if there is no room.
    pub fn offer(&self, input: Input) -> Result<(), Gone> {
        let anywhere = input.is_for_any_thread();
        match self.sender.try_send(input) {
            Ok(()) => self.queued(anywhere),
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return Err(Gone),
        }
        Ok(())
    }

    fn queued(&self, anywhere: bool) {
        if !anywhere {
            return self.wake();
        }
        loop {
            let (more, errands) = match self.inner.owner.try_lock() {
                Ok(mut slot) => match slot.as_mut() {
                    Some(owner) => owner.turn(false),
                    // Not in yet, or on the way out: the volume's thread takes what is queued.
                    None => return,
                },
                // Whoever has it looks into the queue once more afterwards.
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(_)) => return self.wake(),
            };
            errands.run();
            if more {
                return self.wake();
            }
            if self.sender.is_empty() {
                return;
            }
        }
    }

    fn wake(&self) {
        if let Some(thread) = self.inner.thread.get() {
            thread.unpark();
        }
    }

    fn owner(&self) -> MutexGuard<'_, Option<O>> {
        self.inner.owner.lock().expect("no panic under this lock")
    }
}

impl Input {
    /// Whether any thread may carry it out: what comes with every request, and costs little.
    pub(super) fn is_for_any_thread(&self) -> bool {
        match self {
            Self::Store(_) | Self::Meta(_) => true,
            Self::Transport(event) => matches!(event, TransportEvent::Frame { .. }),
            Self::Front(_, event) => matches!(event, FrontEndEvent::Request(_)),
            Self::Desired(..)
            | Self::Verify(..)
            | Self::PauseResync(..)
            | Self::Export(..)
            | Self::ExportDone(..)
            | Self::ServeUntil(..)
            | Self::Reconfigure(..)
            | Self::Discard(..)
            | Self::Kept(_)
            | Self::Ended(_)
            | Self::Look(_)
            | Self::Stop(..) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Completion;
    use crate::types::{Epoch, Instant};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant as Clock;

    /// Writes down what it carries out, and on which thread.
    struct Clerk {
        receiver: Receiver<Input>,
        kept_back: Option<Input>,
        seen: Arc<Mutex<Vec<(u64, bool)>>>,
        inside: Arc<AtomicBool>,
    }

    impl Errands for () {
        fn run(self) {}
    }

    impl Owner for Clerk {
        type Errands = ();

        fn turn(&mut self, own: bool) -> (bool, ()) {
            assert!(!self.inside.swap(true, Ordering::SeqCst), "one at a time");
            let mut more = true;
            for _ in 0..TURN {
                if self.kept_back.is_some() && !own {
                    break;
                }
                let Some(input) = self.kept_back.take().or_else(|| self.receiver.try_recv().ok()) else {
                    more = false;
                    break;
                };
                match input {
                    Input::Store(done) => self.seen.lock().unwrap().push((done.tag, own)),
                    Input::ServeUntil(epoch, _) if own => self.seen.lock().unwrap().push((epoch.number, own)),
                    rare => self.kept_back = Some(rare),
                }
            }
            self.inside.store(false, Ordering::SeqCst);
            (more, ())
        }
    }

    fn done(tag: u64) -> Input {
        Input::Store(Completion { tag, result: Ok(None) })
    }

    fn rare(number: u64) -> Input {
        Input::ServeUntil(Epoch { number, ..Epoch::ZERO }, Instant(0))
    }

    struct Rig {
        door: Door<Clerk>,
        seen: Arc<Mutex<Vec<(u64, bool)>>>,
        stop: Arc<AtomicBool>,
        thread: thread::JoinHandle<()>,
    }

    /// A volume whose own thread works too, and never because of the time.
    fn rig() -> Rig {
        let (door, receiver) = Door::new();
        let (seen, stop) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<AtomicBool>::default());
        let clerk = Clerk { receiver, kept_back: None, seen: seen.clone(), inside: Arc::default() };
        let (way, end) = (door.clone(), stop.clone());
        let thread = thread::spawn(move || {
            way.move_in(clerk);
            while !end.load(Ordering::SeqCst) {
                let Some((more, ())) = way.turn(|_| ()) else { return };
                if !more {
                    Door::<Clerk>::rest(Duration::from_secs(3600));
                }
            }
            drop(way.move_out());
        });
        Rig { door, seen, stop, thread }
    }

    impl Rig {
        fn wait_for(&self, count: usize) {
            let deadline = Clock::now() + Duration::from_secs(30);
            while self.seen.lock().unwrap().len() < count {
                assert!(Clock::now() < deadline, "an input was left in the queue");
                thread::yield_now();
            }
        }

        fn end(self) -> Vec<(u64, bool)> {
            self.stop.store(true, Ordering::SeqCst);
            self.door.wake();
            self.thread.join().unwrap();
            assert_eq!(self.door.send(done(0)), Err(Gone));
            let seen = self.seen.lock().unwrap();
            seen.clone()
        }
    }

    #[test]
    fn everything_is_carried_out_once_and_in_the_order_of_each_thread() {
        const EACH: u64 = 20_000;
        let rig = rig();
        thread::scope(|scope| {
            for from in 0..4 {
                let door = rig.door.clone();
                scope.spawn(move || {
                    for i in from * EACH..(from + 1) * EACH {
                        // Every hundredth is for the volume's thread.
                        let input = if i % 100 == 99 { rare(i) } else { done(i) };
                        door.send(input).unwrap();
                    }
                });
            }
        });
        rig.wait_for(4 * EACH as usize);
        let seen = rig.end();
        for from in 0..4 {
            let of_one = seen.iter().map(|(i, _)| *i).filter(|i| i / EACH == from);
            assert!(of_one.eq(from * EACH..(from + 1) * EACH), "thread {from}");
        }
        assert!(seen.iter().all(|(i, own)| i % 100 != 99 || *own), "what is rare is for the volume's thread");
    }

    #[test]
    fn whoever_brings_it_carries_it_out() {
        let rig = rig();
        rig.door.send(rare(1)).unwrap();
        rig.wait_for(1);
        let own = |rig: &Rig| rig.seen.lock().unwrap().iter().filter(|(_, own)| *own).count();
        // The volume's thread sleeps, or is about to: at least the last of many is carried out here.
        for i in 2..1002 {
            rig.door.send(done(i)).unwrap();
        }
        rig.wait_for(1001);
        assert!(own(&rig) < 1001, "the volume's thread did everything");
        rig.end();
    }

    #[test]
    fn what_comes_before_the_owner_waits_for_it() {
        let (door, receiver) = Door::new();
        door.send(done(1)).unwrap();
        let seen = Arc::<Mutex<Vec<_>>>::default();
        door.move_in(Clerk { receiver, kept_back: None, seen: seen.clone(), inside: Arc::default() });
        assert_eq!(door.turn(|_| 7), Some((false, 7)));
        assert_eq!(*seen.lock().unwrap(), [(1, true)]);
    }
}
