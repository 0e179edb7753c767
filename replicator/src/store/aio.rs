//! Reads and writes that the kernel carries out without a thread of ours waiting for each (io_submit(2), Linux AIO).
//!
//! Many are handed over by one system call, and the disk is told once of all; many that have ended are collected by one. Docker's
//! default seccomp profile allows it, unlike io_uring.
//!
//! Everything is asked for with `RWF_NOWAIT`: what would have to wait for anything but the disk (a block that is to be allocated, a
//! queue that is full) comes back with EAGAIN and is for a thread.
//!
//! If the process dies, the kernel finishes what was handed over before its files are closed, as with a thread in the middle of
//! a write.

#![allow(unsafe_code)] // The kernel is told addresses of buffers.

use super::AlignedBuf;
use bytes::Bytes;
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::{Mutex, MutexGuard};

/// Commands that may be under way: what a loop device has in its queue.
pub(super) const DEPTH: usize = 128;
/// Commands that are handed over, or collected, by one system call.
pub(super) const BATCH: usize = 32;
/// Stands for the end, in place of a command's number.
const END: u64 = u64::MAX;

const CMD_PREAD: u16 = 0;
const CMD_PWRITE: u16 = 1;
const CMD_POLL: u16 = 5;

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: u32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved2: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// The memory of a read or write.
pub(super) enum Buffer {
    /// It is read into this.
    Into(AlignedBuf),
    /// It is written from this, whose address is a multiple of 4096.
    From(Bytes),
}

/// A read or write.
pub(super) struct Command<T> {
    /// No other that is under way has it.
    pub number: u64,
    pub offset: u64,
    pub buffer: Buffer,
    /// What it is for.
    pub of: T,
}

/// A queue in the kernel.
pub(super) struct Ring<T> {
    context: libc::c_ulong,
    stop: OwnedFd,
    /// Memory that the kernel uses: nobody touches it until the command has ended.
    under_way: Mutex<HashMap<u64, Command<T>>>,
}

impl Buffer {
    pub fn len(&self) -> usize {
        match self {
            Self::Into(buffer) => buffer.len(),
            Self::From(data) => data.len(),
        }
    }
}

impl<T> Command<T> {
    fn iocb(&mut self, file: BorrowedFd<'_>) -> Iocb {
        let (opcode, address) = match &mut self.buffer {
            Buffer::Into(buffer) => (CMD_PREAD, buffer.as_mut_ptr().expose_provenance()),
            Buffer::From(data) => (CMD_PWRITE, data.as_ptr().expose_provenance()),
        };
        Iocb {
            data: self.number,
            rw_flags: libc::RWF_NOWAIT.cast_unsigned(),
            opcode,
            fildes: file.as_raw_fd().cast_unsigned(),
            buf: address as u64,
            nbytes: self.buffer.len() as u64,
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            ..Iocb::default()
        }
    }
}

impl<T> Ring<T> {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel has none, may not be asked for one (seccomp), or all that there may be (`fs.aio-max-nr`) are taken.
    pub fn new() -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context, and takes nothing else.
        check(unsafe { libc::syscall(libc::SYS_io_setup, DEPTH + 1, &raw mut context) })?;
        let ring = Self { context, stop, under_way: Mutex::default() };
        let end = Iocb {
            data: END,
            buf: u64::from(libc::POLLIN.cast_unsigned()),
            opcode: CMD_POLL,
            fildes: ring.stop.as_raw_fd().cast_unsigned(),
            ..Iocb::default()
        };
        match ring.hand_over(&[end]) {
            1 => Ok(ring),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Hands commands over, in their order; returns those that were not taken, and not begun.
    pub fn submit(&self, file: BorrowedFd<'_>, mut commands: Vec<Command<T>>) -> Vec<Command<T>> {
        let iocbs: Vec<Iocb> = commands.iter_mut().map(|c| c.iocb(file)).collect();
        // Before they can end. The memory itself stays where it is.
        self.lock().extend(commands.into_iter().map(|c| (c.number, c)));
        let taken = self.hand_over(&iocbs);
        if taken == iocbs.len() {
            return Vec::new();
        }
        let mut under_way = self.lock();
        iocbs[taken..].iter().filter_map(|iocb| under_way.remove(&iocb.data)).collect()
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.lock().len()
    }

    /// Each buffer that a control block names belongs to a command under way.
    fn hand_over(&self, iocbs: &[Iocb]) -> usize {
        let pointers: Vec<*const Iocb> = iocbs.iter().map(ptr::from_ref).collect();
        loop {
            // SAFETY: the kernel copies the control blocks. The buffers stay until it has said that it is done with them: they are
            // under way, and a ring that is dropped waits.
            let n = unsafe {
                libc::syscall(libc::SYS_io_submit, self.context, pointers.len(), pointers.as_ptr())
            };
            match check(n) {
                Ok(n) => return n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return 0,
            }
        }
    }

    /// Waits until some have ended and adds them, with the bytes or the negative error number. False after [`Self::stop`].
    pub fn wait(&self, ended: &mut Vec<(Command<T>, i64)>) -> bool {
        let mut events = [IoEvent::default(); BATCH];
        // SAFETY: there is room for so many events.
        let n = unsafe {
            let none = ptr::null_mut::<libc::timespec>();
            libc::syscall(libc::SYS_io_getevents, self.context, 1, BATCH, events.as_mut_ptr(), none)
        };
        let events = match check(n) {
            Ok(n) => &events[..n],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => &[],
            Err(_) => return false,
        };
        let mut under_way = self.lock();
        ended.extend(events.iter().filter_map(|e| Some((under_way.remove(&e.data)?, e.res))));
        events.iter().all(|e| e.data != END)
    }

    /// Nothing is under way any more, and nothing will be.
    pub fn stop(&self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Command<T>>> {
        self.under_way.lock().expect("no panic under this lock")
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: nobody uses the context after this. It waits for what is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

fn check(n: libc::c_long) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    use std::sync::Arc;

    #[test]
    fn the_kernels_layouts() {
        assert_eq!((size_of::<Iocb>(), size_of::<IoEvent>()), (64, 32));
    }

    #[test]
    fn many_at_once_and_each_ends_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&vec![1; 64 * 4096], 0).unwrap();
        file.as_file().sync_all().unwrap();
        let mut how = std::fs::OpenOptions::new();
        let direct = how.read(true).write(true).custom_flags(libc::O_DIRECT).open(file.path()).unwrap();
        let ring = Ring::new().unwrap();
        let round = |buffer: &dyn Fn() -> Buffer| -> Vec<(Command<&str>, i64)> {
            let command = |number| Command { number, offset: number * 4096, buffer: buffer(), of: "a test" };
            assert!(ring.submit(direct.as_fd(), (0..64).map(command).collect()).is_empty());
            let mut ended = Vec::new();
            while ended.len() < 64 {
                assert!(ring.wait(&mut ended));
            }
            assert_eq!(ring.under_way(), 0);
            ended.sort_unstable_by_key(|(command, _)| command.number);
            assert!(ended.iter().map(|(command, _)| command.number).eq(0..64));
            // What a filesystem cannot do without waiting is refused, not waited for.
            let refused = [libc::EAGAIN, libc::EOPNOTSUPP].map(|e| -i64::from(e));
            assert!(ended.iter().all(|(_, came)| *came == 4096 || refused.contains(came)));
            ended
        };
        let written = round(&|| Buffer::From(AlignedBuf::copy_of(&[7; 4096]).into_bytes()));
        let read = round(&|| Buffer::Into(AlignedBuf::zeroed(4096)));
        for ((_, wrote), (command, came)) in written.iter().zip(&read) {
            let Buffer::Into(buffer) = &command.buffer else { panic!("a read") };
            let wanted = if *wrote == 4096 { 7 } else { 1 };
            assert!(*came != 4096 || buffer.iter().all(|byte| *byte == wanted), "block {}", command.number);
        }
    }

    #[test]
    fn a_stop_wakes_up_who_waits() {
        let ring = Arc::new(Ring::<()>::new().unwrap());
        let waits = std::thread::spawn({
            let ring = ring.clone();
            move || ring.wait(&mut Vec::new())
        });
        ring.stop();
        assert!(!waits.join().unwrap());
    }
}
