//! The system calls that no crate wraps: the kernel's opinion of its clock, and "do not fragment" on a socket.

#![allow(unsafe_code)] // adjtimex and setsockopt take pointers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the kernel says of its wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KernelClock {
    /// Somebody (NTP) keeps it right.
    pub synchronised: bool,
    /// Largest possible error, microseconds, as that somebody estimates it.
    pub max_error_us: i64,
}

/// Asks without changing anything; needs no privilege.
pub(super) fn kernel_clock() -> io::Result<KernelClock> {
    // SAFETY: all fields of timex are integers, for which zero is valid; zero modes change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` is a valid timex for the kernel to fill.
    let said = unsafe { libc::adjtimex(&raw mut state) };
    if said < 0 {
        return Err(io::Error::last_os_error());
    }
    let synchronised = said != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    Ok(KernelClock { synchronised, max_error_us: state.maxerror })
}

/// Sends whole datagrams or none, whatever the kernel believes of the path.
pub(super) fn do_not_fragment(socket: BorrowedFd<'_>) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_PROBE;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option takes an int, and `value` is one of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
