//! Processes, loop devices and mounts of the bench: started with an end in sight, gone when their value is dropped.
//!
//! Ctrl-C and SIGTERM set a flag that every wait looks at, so that the values are dropped in order. Children are in process
//! groups of their own: a terminal's Ctrl-C must not end a replicator under a mounted filesystem. What a bench that was
//! killed has left [`sweep`] takes away, at the start and at the end.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
/// How often the end of something is looked for.
const POLL: Duration = Duration::from_millis(5);
/// A process that was asked to end and has not is killed after this: the replicator's own limit is 5 s.
const END_LIMIT: Duration = Duration::from_secs(8);

/// From now on the first Ctrl-C ends the run in order.
///
/// # Errors
/// No thread or no signal handler.
pub fn catch_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            STOP.store(true, Ordering::SeqCst);
            // A second one is not lost on us either: the handlers stay, and the end is near.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(())
}

/// Whether the run goes on.
///
/// # Errors
/// It was interrupted.
pub fn go_on() -> Result<()> {
    if STOP.load(Ordering::SeqCst) { bail!("interrupted") } else { Ok(()) }
}

/// Looks until something is found.
///
/// # Errors
/// Not within `limit`, or interrupted.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        go_on()?;
        if Instant::now() >= end {
            bail!("waited {limit:?} for {what}");
        }
        thread::sleep(POLL);
    }
}

/// Waits, unless interrupted.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        go_on()?;
        thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed. Interrupted, it is killed.
///
/// # Errors
/// It cannot be started, fails, or does not end within `limit`.
pub fn run(limit: Duration, command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    // Files, not pipes: nobody has to empty them while the command runs.
    let (out, err) = (scratch()?, scratch()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
    let mut child = Ended(command.spawn().with_context(|| format!("start {shown}"))?);
    let status = wait_for(&shown, limit, || child.0.try_wait().ok().flatten())?;
    let text = |mut file: std::fs::File| -> Result<String> {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (out, err) = (text(out)?, text(err)?);
    if !status.success() {
        bail!("{shown} failed ({status}): {} {}", out.trim(), err.trim());
    }
    Ok(out)
}

/// An ordinary command that takes less than a minute.
///
/// # Errors
/// As [`run`].
pub fn quick(program: &str, arguments: &[&str]) -> Result<String> {
    run(Duration::from_secs(60), Command::new(program).args(arguments))
}

fn scratch() -> Result<std::fs::File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    Ok(memfd_create("bench", MemfdFlags::CLOEXEC).context("no memory for a command's output")?.into())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that serves until it is dropped: SIGTERM, and SIGKILL if that is not enough.
pub struct Server {
    child: Child,
    name: String,
}

impl Server {
    /// Starts it, its output in a file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &Command, log: &Path) -> Result<Self> {
        let name = format!("{command:?}");
        // It ends with us, even if we are killed.
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        let file = std::fs::File::options().create(true).append(true).open(log)?;
        let child = tied
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child, name })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    pub fn lives(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = Instant::now() + END_LIMIT;
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A file attached to a loop device, with direct I/O and blocks of 4096 bytes.
pub struct Loop(pub PathBuf);

impl Loop {
    /// Attaches it.
    ///
    /// # Errors
    /// `losetup` fails.
    pub fn attach(file: &Path) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--direct-io=on", "--sector-size", "4096"]).arg(file);
        let device = run(Duration::from_secs(60), &mut command)?;
        let this = Self(PathBuf::from(device.trim()));
        // Without direct I/O, losetup attaches it all the same, and its cache would be measured.
        let shown = quick("losetup", &["--noheadings", "--output", "DIO", &this.0.display().to_string()])?;
        if shown.trim() != "1" {
            bail!("{} has no direct I/O on {}", this.0.display(), file.display());
        }
        Ok(this)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).stderr(Stdio::null()).status();
    }
}

/// A mounted filesystem.
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// Makes an ext4 on the device and mounts it.
    ///
    /// # Errors
    /// Either fails.
    pub fn ext4(device: &Path, dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let device = device.display().to_string();
        // Everything at once: a filesystem that completes itself in the background would be measured.
        let extended = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
        quick("mkfs.ext4", &["-q", "-F", "-b", "4096", "-E", extended, &device])?;
        quick("mount", &[&device, &dir.display().to_string()])?;
        Ok(Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let busy = Command::new("umount").arg(&self.0).stderr(Stdio::null()).status();
        if !busy.is_ok_and(|s| s.success()) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
        }
    }
}

/// Unmounts and detaches all that belongs to files below `dir` in this mount namespace.
pub fn sweep(dir: &Path) {
    let ours = |path: &str| Path::new(path).starts_with(dir);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().rev().filter_map(|l| l.split(' ').nth(1)).filter(|p| ours(p)) {
        let _ = Command::new("umount").args(["--lazy", point]).stderr(Stdio::null()).status();
    }
    let listed =
        quick("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).unwrap_or_default();
    for line in listed.lines() {
        let mut words = line.split_whitespace();
        if let (Some(device), Some(file)) = (words.next(), words.next())
            && ours(file)
        {
            let _ = Command::new("losetup").args(["--detach", device]).stderr(Stdio::null()).status();
        }
    }
}
