//! A mount namespace for each test.
//!
//! Without it, whatever starts in a mount namespace of its own meanwhile (a replicator of another test, a container) takes a
//! copy of this test's mounts along, and the device stays in use after it was unmounted here.

#![allow(unsafe_code)] // unshare can break the sharing of descriptors; not as it is called here.

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// From now on, mounts of this thread, and of what it starts, are its own. They go when the last of those ends.
pub fn own() {
    // SAFETY: descriptors stay shared; mounts, and with them the working directory, are nobody's but the kernel's.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}
