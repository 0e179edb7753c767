//! The device: opened, fed, disarmed, and asked for a timeout.
#![allow(unsafe_code)] // The watchdog's ioctl has no safe wrapper among our dependencies.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `WDIOC_SETTIMEOUT`: `_IOWR('W', 6, int)`. Sets the timeout in seconds, and says what was granted.
const SET_TIMEOUT: libc::Ioctl = 0xc004_5706_u32 as libc::Ioctl;

/// The device cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the watchdog {}: is it handed to this container, and fed by no other program?", path.display())]
pub struct DeviceError {
    /// The device.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

pub(super) struct Device(File);

impl Device {
    /// Opening arms it.
    pub(super) fn open(path: &Path) -> Result<Self, DeviceError> {
        let opened = OpenOptions::new().append(true).open(path);
        opened.map(Self).map_err(|source| DeviceError { path: path.into(), source })
    }

    /// The timeout that is in force, if the device says. Whole seconds, at least one.
    pub(super) fn set_timeout(&mut self, timeout: Duration) -> Option<Duration> {
        let mut seconds = libc::c_int::try_from(timeout.as_secs().max(1)).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel reads and writes one int, which outlives the call; other files refuse the request.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_TIMEOUT, &raw mut seconds) };
        (done == 0).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
    }

    /// One that cannot be written to resets the host by itself, which nobody here can help.
    pub(super) fn feed(&mut self) {
        let _ = self.0.write_all(&[0]);
    }

    /// The magic character, right before it is closed.
    pub(super) fn disarm(mut self) {
        let _ = self.0.write_all(b"V");
    }
}
