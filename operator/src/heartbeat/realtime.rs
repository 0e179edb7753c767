//! Real-time priority and locked memory for the heartbeat thread, where the host allows them.
#![allow(unsafe_code)] // sched_setscheduler and mlockall have no safe wrapper among our dependencies.

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Realtime {
    /// SCHED_FIFO.
    pub priority: bool,
    /// mlockall.
    pub memory: bool,
}

/// Lowest real-time priorities are enough: above every ordinary process, below the kernel's own threads (50).
const PRIORITY: libc::c_int = 10;

/// Asks for both, for the calling thread (priority) and the process (memory).
pub(crate) fn ask() -> Realtime {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` outlives the call; 0 names the calling thread.
    let priority = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) } == 0;
    // SAFETY: takes flags only. ONFAULT locks pages as they are touched instead of populating every stack.
    let memory = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } == 0;
    Realtime { priority, memory }
}
