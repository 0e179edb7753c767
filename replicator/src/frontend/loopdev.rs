//! Loop devices: attach, detach, and find out what is attached.
//!
//! Two nodes of a demonstration share one kernel, so every free device may be taken by somebody else before we
//! have it, and no device is ever detached that does not carry our own file.
//!
//! Whatever may wait for the file's server, which is this very process, runs [`sys::apart`].
//!
//! What is attached is read from sysfs, never asked of the device: that would ask the file, whose server may
//! be dead.

use super::{FrontEndError, sys};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// What the kernel calls major 7 and 10.
const LOOP_MAJOR: u32 = 7;
const LOOP_CONTROL: (u32, u32) = (10, 237);
/// The volume's block: bitmap granularity and O_DIRECT alignment everywhere. ext4, xfs and InnoDB accept it.
const BLOCK_SIZE: u32 = 4096;
/// Tries to get a free device. Each failure means that somebody else got one, so progress is being made.
const TRIES: u32 = 64;
/// How often the end of something is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A loop device by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LoopDevice {
    pub number: u32,
    /// Where this process can open it.
    pub node: PathBuf,
}

impl LoopDevice {
    /// The device with this number.
    pub fn numbered(number: u32, private_dir: &Path) -> Result<Self, FrontEndError> {
        let node = sys::device_node(
            &format!("loop{number}"),
            FileType::BlockDevice,
            (LOOP_MAJOR, number),
            private_dir,
        )?;
        Ok(Self { number, node })
    }

    /// Attaches the file at `path`, called `name`, to a free device. The file is open only meanwhile.
    pub fn attach(
        path: &Path,
        name: &str,
        private_dir: &Path,
        limit: Duration,
    ) -> Result<Self, FrontEndError> {
        let (path, name, private_dir) = (path.to_path_buf(), name.to_string(), private_dir.to_path_buf());
        sys::apart("attaching a loop device", limit, move || Self::attach_here(&path, &name, &private_dir))?
    }

    fn attach_here(path: &Path, name: &str, private_dir: &Path) -> Result<Self, FrontEndError> {
        let fail = |what, path: &Path, source| FrontEndError::Sys { what, path: path.into(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let control = sys::device_node("loop-control", FileType::CharacterDevice, LOOP_CONTROL, private_dir)?;
        let control_file = options.open(&control).map_err(|e| fail("open", &control, e))?;
        let backing = options.custom_flags(libc::O_DIRECT).open(path).map_err(|e| fail("open", path, e))?;
        for attempt in 0..TRIES {
            let number = sys::loop_get_free(&control_file)
                .map_err(|e| fail("find a free device with", &control, e))?;
            let device = Self::numbered(number, private_dir)?;
            let file = device.open(false).map_err(|e| fail("open", &device.node, e))?;
            match sys::loop_configure(&file, backing.as_fd(), BLOCK_SIZE, name) {
                Ok(()) => return Ok(device),
                // Somebody else got it. The pause grows so that two rivals do not run in step.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    thread::sleep(Duration::from_micros(u64::from(attempt * 137 + std::process::id() % 97)));
                }
                Err(e) => return Err(fail("configure", &device.node, e)),
            }
        }
        Err(FrontEndError::NoLoopDevice { tries: TRIES })
    }

    /// The path that the host's engine opens.
    pub fn host_path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Detaches the file of this name. With `claim`, only if nobody has the device mounted, after waiting for so
    /// long. An Err is a device that is still attached.
    pub fn detach(&self, name: &str, claim: Option<Duration>, limit: Duration) -> Result<(), FrontEndError> {
        let deadline = Instant::now() + claim.unwrap_or_default() + limit;
        let (this, wanted) = (self.clone(), name.to_string());
        let left = deadline.saturating_duration_since(Instant::now());
        sys::apart("detaching a loop device", left, move || this.clear_here(&wanted, claim))??;
        // Somebody may still have it open for a moment (udev looks at every device that changes).
        while self.carries(name) {
            if Instant::now() >= deadline {
                return Err(FrontEndError::Busy { path: self.node.clone() });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets the device have the size of the file at `path`, which must be `size`, while it is in use.
    pub fn resize(&self, path: &Path, size: u64, limit: Duration) -> Result<(), FrontEndError> {
        let (this, path) = (self.clone(), path.to_path_buf());
        sys::apart("resizing a loop device", limit, move || this.resize_here(&path, size))?
    }

    fn resize_here(&self, path: &Path, wanted: u64) -> Result<(), FrontEndError> {
        let fail = |what, path: &Path, source| FrontEndError::Sys { what, path: path.into(), source };
        // Asks the file's server, whatever the kernel remembers; from then on the kernel remembers the new size.
        let flags = AtFlags::STATX_FORCE_SYNC;
        statx(CWD, path, flags, StatxFlags::SIZE).map_err(|e| fail("look at", path, e.into()))?;
        let device = self.open(false).map_err(|e| fail("open", &self.node, e))?;
        sys::loop_set_capacity(&device).map_err(|e| fail("resize", &self.node, e))?;
        let sectors = std::fs::read_to_string(format!("/sys/block/loop{}/size", self.number));
        let sectors = sectors.map_err(|e| fail("measure", &self.node, e))?;
        let found = sectors.trim().parse::<u64>().unwrap_or(0) * 512;
        if found == wanted {
            Ok(())
        } else {
            Err(FrontEndError::Size { path: self.node.clone(), found, wanted })
        }
    }

    fn clear_here(&self, name: &str, claim: Option<Duration>) -> Result<(), FrontEndError> {
        let fail = |what, source| FrontEndError::Sys { what, path: self.node.clone(), source };
        let file = match claim {
            Some(patience) => self.claim(patience)?,
            None => self.open(false).map_err(|e| fail("open", e))?,
        };
        // While we have it open, nobody else can free it and take it: what it carries now stays true.
        if !self.carries(name) {
            return Ok(());
        }
        match sys::loop_clear(&file) {
            // ENXIO: it was detached already.
            Err(e) if e.raw_os_error() != Some(libc::ENXIO) => Err(fail("detach", e)),
            _ => Ok(()),
        }
    }

    /// Opens the device; exclusively, it fails with EBUSY while it is mounted anywhere.
    fn open(&self, exclusive: bool) -> io::Result<File> {
        let flags = libc::O_CLOEXEC | if exclusive { libc::O_EXCL } else { 0 };
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(&self.node)
    }

    /// Opens it exclusively, waiting at most `limit` for mounts to go.
    fn claim(&self, limit: Duration) -> Result<File, FrontEndError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.open(true) {
                Ok(file) => return Ok(file),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    thread::sleep(POLL)
                }
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(FrontEndError::Busy { path: self.node.clone() });
                }
                Err(source) => {
                    return Err(FrontEndError::Sys { what: "open", path: self.node.clone(), source });
                }
            }
        }
    }

    /// Whether the file of this name is attached.
    pub fn carries(&self, name: &str) -> bool {
        backing_name(self.number).is_some_and(|n| n == name)
    }
}

/// The name (without directories) of the file under a loop device. The directories depend on who asks, and are
/// gone when the file's mount is.
pub(super) fn backing_name(number: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()?;
    let text = text.trim_end();
    let text = text.strip_suffix(" (deleted)").unwrap_or(text);
    text.rsplit('/').next().map(str::to_owned)
}

/// All attached loop devices with their file's name.
pub(super) fn attached() -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let mut all: Vec<(u32, String)> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_prefix("loop")?.parse().ok())
        .filter_map(|n| Some((n, backing_name(n)?)))
        .collect();
    all.sort();
    all
}
