//! Asks for real-time scheduling and locked memory, and goes on without. What was granted is reported once, in
//! words, so that it can be shown.
//!
//! A heartbeat that waits behind a compile job or a page that was swapped out looks like a dead node.
#![allow(unsafe_code)] // sched_setscheduler has no safe wrapper among our dependencies

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};
use std::io;

/// What was granted. An error says why not and what would change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realtime {
    /// SCHED_FIFO for the calling thread.
    pub scheduling: Result<(), String>,
    /// Memory of the process locked.
    pub memory: Result<(), String>,
}

/// Above every ordinary thread, below the kernel's own real-time threads (50).
const PRIORITY: i32 = 10;
/// CAP_IPC_LOCK in the capability masks of /proc.
const CAP_IPC_LOCK: u32 = 14;

/// Asks for both, for the calling thread and its process.
#[must_use]
pub fn ask() -> Realtime {
    Realtime { scheduling: ask_scheduling(), memory: ask_memory() }
}

/// SCHED_FIFO for the calling thread; threads that it starts do not inherit it.
///
/// # Errors
/// Why not, in words.
pub fn ask_scheduling() -> Result<(), String> {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: 0 names the calling thread, `param` lives through the call and is not kept by the kernel.
    let code = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const param)
    };
    if code == 0 {
        Ok(())
    } else {
        let error = io::Error::last_os_error();
        Err(format!("no real-time priority ({error}); capability SYS_NICE would give it"))
    }
}

fn ask_memory() -> Result<(), String> {
    // With MCL_FUTURE under a small limit it is not this call that fails but some later allocation.
    if !unlimited() {
        return Err(
            "memory not locked (RLIMIT_MEMLOCK is limited); capability IPC_LOCK would allow it".into()
        );
    }
    // ONFAULT: pages are locked as they are touched, so that thread stacks do not cost their full size.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|e| format!("memory not locked ({e})"))
}

fn unlimited() -> bool {
    if getrlimit(Resource::Memlock).current.is_none() {
        return true;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn says_what_was_granted_or_why_not() {
        std::thread::spawn(|| {
            let granted = super::ask();
            // SAFETY: reads the policy of the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            assert_eq!(granted.scheduling.is_ok(), policy == libc::SCHED_FIFO, "{granted:?}");
            if let Err(why) = granted.scheduling {
                assert!(why.contains("SYS_NICE"), "{why}");
            }
        })
        .join()
        .unwrap();
    }
}
