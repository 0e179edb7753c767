//! Memory: what the process asks of the kernel, and the bounds of what it holds for requests under way.
//!
//! The replicator serves a block device that the kernel writes its caches back to when memory runs short. If the
//! replicator then waited for memory, it would wait for itself. So (decision 0018):
//! * its pages stay in memory (`mlockall`), those it has yet to touch included, once they are touched;
//! * its allocations in the kernel never wait for write-back (`PR_SET_IO_FLUSHER`);
//! * what requests hold is bounded, per volume and per session ([`Budget`]); at the bound whoever reads requests stops
//!   reading them, so that they wait in the kernel's queue or at the peer;
//! * buffers of large requests are kept and used again ([`Pool`]).
//!
//! Both calls need a capability. Without it the replicator runs, and says so in log, status and metrics.

#![allow(unsafe_code)] // malloc_trim is a call into the C library.

mod budget;
mod pool;

pub use budget::{Budget, Charge};
pub use pool::Pool;

use crate::api::MemoryStatus;
use crate::frontend::set_io_flusher;
use crate::hold::lock_memory;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static GRANTED: OnceLock<(bool, bool, Option<String>)> = OnceLock::new();
/// How often reading requests stopped because a bound was reached.
static WAITS: AtomicU64 = AtomicU64::new(0);

/// Asks for both; called at the start of `main` while there is one thread, since threads inherit them. Warns of what
/// is not granted.
pub fn prepare() {
    let mut problems = Vec::new();
    let locked = lock_memory().map_err(|e| {
        problems.push(format!("memory is not locked ({e}): a replicator that is swapped out slows down its own device; give it IPC_LOCK"));
    });
    let flusher = set_io_flusher().map_err(|e| {
        problems.push(format!("PR_SET_IO_FLUSHER is refused ({e}): a replicator that needs memory may wait for its own device; give it SYS_RESOURCE"));
    });
    if flusher.is_ok() {
        give_up_resource();
    }
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    let _ = GRANTED.set((locked.is_ok(), flusher.is_ok(), problem));
}

/// The capability is for this one call: what else it allows (quotas, reserved space, limits) is not for a replicator.
fn give_up_resource() {
    let given_up = capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets)
    });
    if let Err(error) = given_up {
        tracing::warn!(%error, "SYS_RESOURCE is not needed any more and cannot be given up");
    }
}

/// Gives memory that was needed for a moment back to the kernel: locked memory that nobody uses is taken from others.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes a number and touches only the allocator's own free memory, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// For status.
#[must_use]
pub fn status() -> MemoryStatus {
    let (locked, io_flusher, problem) =
        GRANTED.get().cloned().unwrap_or((false, false, Some("nothing was asked of the kernel".into())));
    let waits = WAITS.load(Ordering::Relaxed);
    MemoryStatus { locked, io_flusher, problem, resident_bytes: resident_bytes(), waits }
}

/// Resident memory of this process; zero if the kernel does not say.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
