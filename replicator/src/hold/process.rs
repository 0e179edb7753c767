//! System calls of holder and worker: signals as a descriptor, starting a worker, taking the socket over.

#![allow(unsafe_code)] // sigprocmask, signalfd and taking over an inherited descriptor.

use rustix::io::FdFlags;
use rustix::mm::MlockAllFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

/// The socket to the holder, by number.
const SOCKET: &str = "BATON_HOLDER_SOCKET";
/// How often a worker was started again.
const RESTARTS: &str = "BATON_HOLDER_RESTARTS";
/// The signals that the holder acts upon.
const SIGNALS: [libc::c_int; 4] = [libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// What a process that was started by a holder has from it.
#[derive(Debug)]
pub struct Worker {
    /// To the holder.
    pub socket: OwnedFd,
    /// How often a worker was started again.
    pub restarts: u64,
}

impl Worker {
    /// None if this process was not started by a holder. To be called once, at the start of `main`, before there are
    /// threads: the signals that the holder blocks are unblocked, and the holder's end becomes this process's end.
    ///
    /// # Errors
    /// The descriptor is not there.
    pub fn take() -> io::Result<Option<Self>> {
        let Some(number) = std::env::var_os(SOCKET) else { return Ok(None) };
        let bad =
            || io::Error::new(io::ErrorKind::InvalidInput, format!("{SOCKET} is for a holder's worker"));
        let number: i32 = number.to_str().and_then(|n| n.parse().ok()).filter(|n| *n > 2).ok_or_else(bad)?;
        // SAFETY: fcntl with F_GETFD takes and returns a number.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(bad());
        }
        // SAFETY: it is open (see above), was inherited for us, and is taken only here.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        signals(libc::SIG_UNBLOCK)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let restarts = std::env::var(RESTARTS).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        Ok(Some(Self { socket, restarts }))
    }
}

fn signals(how: libc::c_int) -> io::Result<libc::sigset_t> {
    // SAFETY: the set is initialised by sigemptyset before anything reads it; the calls take valid pointers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
        match libc::sigprocmask(how, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The holder's signals as a descriptor to be read.
pub(super) fn signal_descriptor() -> io::Result<OwnedFd> {
    let set = signals(libc::SIG_BLOCK)?;
    // SAFETY: `set` is initialised; the call makes a new descriptor, which is ours alone.
    unsafe {
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The next signal that has arrived; none if there is none.
pub(super) fn next_signal(descriptor: &OwnedFd) -> Option<i32> {
    // struct signalfd_siginfo: the number comes first.
    let mut info = [0; 128];
    match rustix::io::read(descriptor, &mut info) {
        Ok(n) if n >= 4 => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        Ok(_) | Err(_) => None,
    }
}

/// Starts a worker; returns its id and the holder's end of the socket.
pub(super) fn spawn(program: &Path, arguments: &[OsString], restarts: u64) -> io::Result<(Pid, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Only this one is inherited; there is one thread, so nobody else can start a process just now.
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let child = Command::new(program)
        .args(arguments)
        .env(SOCKET, theirs.as_raw_fd().to_string())
        .env(RESTARTS, restarts.to_string())
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    Ok((pid, ours))
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    Code(i32),
    Signal(i32),
}

/// A child that has ended, whichever; none if none has.
pub(super) fn reap() -> Option<(Pid, Exit)> {
    let (pid, status) = wait(WaitOptions::NOHANG).ok().flatten()?;
    let exit = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(1),
    };
    Some((pid, exit))
}

/// Keeps this process in memory: one that is swapped out while its device waits for it would wait for itself.
///
/// # Errors
/// Without CAP_IPC_LOCK: worth a warning, no more.
pub fn lock_memory() -> io::Result<()> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(rustix::mm::mlockall(flags)?)
}
