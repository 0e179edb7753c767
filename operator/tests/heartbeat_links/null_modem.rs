//! Two pseudo terminals joined as by a null-modem cable, which can be held, spoilt and pulled out.
#![allow(unsafe_code)] // Making a pseudo terminal has no safe wrapper among our dependencies.

use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A pseudo terminal: its master and the path of its tty.
fn pty() -> (OwnedFd, PathBuf) {
    // SAFETY: the flags are valid; the descriptor is owned from here on.
    let master = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK) };
    assert!(master >= 0, "posix_openpt: {}", std::io::Error::last_os_error());
    let mut name = [0; 128];
    // SAFETY: `master` is open, and `name` is as long as is said.
    let done = unsafe {
        libc::grantpt(master) == 0
            && libc::unlockpt(master) == 0
            && libc::ptsname_r(master, name.as_mut_ptr(), name.len()) == 0
    };
    assert!(done, "pty: {}", std::io::Error::last_os_error());
    // SAFETY: ptsname_r wrote a string with its end.
    let path = unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().expect("path").into();
    // SAFETY: opened above and nobody else's.
    (unsafe { OwnedFd::from_raw_fd(master) }, path)
}

/// The cable. `a` and `b` are links to the present ttys, like the names that udev gives.
pub struct NullModem {
    dir: tempfile::TempDir,
    held: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    noise: Arc<Mutex<Vec<u8>>>,
    pump: Option<JoinHandle<()>>,
}

impl NullModem {
    pub fn new() -> Self {
        let mut modem = Self {
            dir: tempfile::tempdir().expect("directory"),
            held: Arc::default(),
            stop: Arc::default(),
            noise: Arc::default(),
            pump: None,
        };
        modem.plug();
        modem
    }

    pub fn end(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Plugs it in.
    pub fn plug(&mut self) {
        let ((a, a_path), (b, b_path)) = (pty(), pty());
        let link = |name: &str, to: &Path| std::os::unix::fs::symlink(to, self.end(name)).expect("link");
        link("a", &a_path);
        link("b", &b_path);
        self.stop = Arc::default();
        let (stop, held, noise) = (Arc::clone(&self.stop), Arc::clone(&self.held), Arc::clone(&self.noise));
        let body = move || {
            while !stop.load(Ordering::Relaxed) {
                let held = held.load(Ordering::Relaxed);
                if held || (!carry(&a, &b, &noise) & !carry(&b, &a, &Mutex::default())) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        };
        self.pump = Some(std::thread::spawn(body));
    }

    /// Pulls it out: both ttys hang up and their names are gone.
    pub fn unplug(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pump) = self.pump.take() {
            pump.join().expect("pump");
        }
        for name in ["a", "b"] {
            std::fs::remove_file(self.end(name)).expect("link");
        }
    }

    /// Nothing gets through, and what is written waits, as with flow control that is stuck.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// These bytes go to `b` before anything else does.
    pub fn spoil(&self, bytes: &[u8]) {
        self.noise.lock().expect("noise").extend_from_slice(bytes);
    }
}

impl Drop for NullModem {
    fn drop(&mut self) {
        if self.pump.is_some() {
            self.unplug();
        }
    }
}

/// Carries what waits; false if nothing did.
fn carry(from: &OwnedFd, to: &OwnedFd, noise: &Mutex<Vec<u8>>) -> bool {
    let mut bytes = std::mem::take(&mut *noise.lock().expect("noise"));
    let mut buffer = [0; 512];
    match rustix::io::read(from, &mut buffer) {
        Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        // EIO: nobody has opened the tty yet.
        Err(Errno::AGAIN | Errno::IO | Errno::INTR) => {}
        Err(e) => panic!("read: {e}"),
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::AGAIN | Errno::IO | Errno::INTR) => break,
            Err(e) => panic!("write: {e}"),
        }
    }
    !bytes.is_empty()
}
