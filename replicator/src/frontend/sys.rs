//! The system calls that no crate wraps: loop ioctls, device nodes and the I/O flusher flag.

#![allow(unsafe_code)] // ioctl and prctl take numbers and pointers.

use super::FrontEndError;
use rustix::fs::{FileType, Mode, makedev, mknodat};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

// linux/loop.h
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LO_FLAGS_DIRECT_IO: u32 = 16;

// linux/prctl.h
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// `struct loop_config` of linux/loop.h with its `struct loop_info64`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// Runs `work` on a thread that has none of this process's file descriptors, and waits at most `limit` for it.
///
/// Opening the FUSE file, configuring the loop device (which syncs the file) and closing it (which writes back
/// its cache) wait in the kernel for the FUSE server, which is this process. If it is killed at that moment, its
/// `/dev/fuse` must close for the wait to end; a waiting thread that shares the table of file descriptors would
/// keep it open for ever. So the thread has a table of its own. `work` must neither take nor return anything
/// that owns a descriptor.
pub(super) fn apart<T: Send + 'static>(
    what: &str,
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FrontEndError> {
    let (done, outcome) = channel();
    let isolated = move || {
        // SAFETY: only this thread gets a table of its own; it has taken no descriptor with it (see above).
        let unshared = unsafe { libc::unshare(libc::CLONE_FILES) == 0 };
        if unshared {
            // SAFETY: closes descriptors of this thread's private table, which nothing here refers to.
            unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
        } else {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "cannot unshare file descriptors: if killed just now, this process may hang");
        }
        let _ = done.send(work());
    };
    thread::Builder::new().name("apart".into()).spawn(isolated).map_err(|source| FrontEndError::Sys {
        what: "start a thread for",
        path: what.into(),
        source,
    })?;
    outcome
        .recv_timeout(limit)
        .map_err(|_| FrontEndError::Timeout { what: what.into(), seconds: limit.as_secs() })
}

/// The number of a loop device that nobody uses at this moment.
pub(super) fn loop_get_free(control: &File) -> io::Result<u32> {
    // SAFETY: the ioctl takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    u32::try_from(number).map_err(|_| io::Error::last_os_error())
}

/// Puts `backing` under the loop device, with direct I/O; `EBUSY` if somebody else was faster.
pub(super) fn loop_configure(
    device: &File,
    backing: BorrowedFd<'_>,
    block_size: u32,
    name: &str,
) -> io::Result<()> {
    let mut file_name = [0; 64];
    let n = name.len().min(63);
    file_name[..n].copy_from_slice(&name.as_bytes()[..n]);
    let config = LoopConfig {
        fd: backing.as_raw_fd() as u32,
        block_size,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        // No autoclear: the device must not vanish between two mounts. No partition scan: it would read.
        flags: LO_FLAGS_DIRECT_IO,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads a loop_config, whose layout LoopConfig has (size checked above).
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the backing file away, at the latest when the last opener (a mount too) is gone.
pub(super) fn loop_clear(device: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the device the size that its file has now.
pub(super) fn loop_set_capacity(device: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_CAPACITY) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel that this thread, and those it starts, serve block I/O: their memory allocations must not
/// wait for write-back to our own device. To be called at the start of `main`.
///
/// # Errors
/// EPERM without CAP_SYS_RESOURCE: worth a warning, no more.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: this option takes a number; the remaining arguments must be zero.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1 as libc::c_ulong, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A device that this process can open: the node in `/dev`, or one that is made there, or in `private_dir`. A
/// container has a `/dev` of its own in which most nodes are missing.
pub(super) fn device_node(
    name: &str,
    kind: FileType,
    (major, minor): (u32, u32),
    private_dir: &Path,
) -> Result<PathBuf, FrontEndError> {
    let device = makedev(major, minor);
    let wanted = |path: &Path| {
        path.metadata().is_ok_and(|m| {
            let same_kind = if kind == FileType::BlockDevice {
                m.file_type().is_block_device()
            } else {
                m.file_type().is_char_device()
            };
            same_kind && m.rdev() == device
        })
    };
    let mut failed = None;
    for dir in [Path::new("/dev"), private_dir] {
        let path = dir.join(name);
        if wanted(&path) {
            return Ok(path);
        }
        let made = mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR | Mode::WUSR, device);
        // Somebody else may have made it in between.
        if wanted(&path) {
            return Ok(path);
        }
        if let Err(e) = made {
            failed = Some(FrontEndError::Sys { what: "make the device node", path, source: e.into() });
        }
    }
    Err(failed.unwrap_or_else(|| FrontEndError::Sys {
        what: "use the device node",
        path: private_dir.join(name),
        source: io::ErrorKind::InvalidData.into(),
    }))
}
