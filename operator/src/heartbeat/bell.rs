//! Wakes the heartbeat thread out of its wait for the next heartbeat.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Rung by whoever has something that should not wait for the next heartbeat. However often it was rung meanwhile, the
/// thread wakes up once.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Never blocks.
    pub(super) fn ring(&self) {
        // It fails only where it has been rung 2^64 - 2 times and not been heard: then it rings already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Whether it was rung since it was asked last.
    pub(super) fn was_rung(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rings_are_heard_once() {
        let bell = Bell::new().unwrap();
        assert!(!bell.was_rung());
        (0..3).for_each(|_| bell.ring());
        assert!(bell.was_rung());
        assert!(!bell.was_rung());
    }
}
