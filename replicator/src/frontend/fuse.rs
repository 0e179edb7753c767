//! The `fuse` front end: our own FUSE filesystem with one file, attached to a loop device.
//!
//! One thread owns the life of the device:
//!
//! ```text
//!  start ──► attaching ──ok──► ready ──stop──► stopping ──► Stopped
//!    │          │               ▲ ▲               │
//!    │          └─► Failed      │ └─ StopRefused ─┘ (mounted, without force)
//!    └─► taking over ──ok───────┘
//! ```
//!
//! Attaching asks nothing of the engine, so that it works while the engine is frozen: names, attributes and the
//! sync with which the kernel sets up a loop device are answered here, and there is no partition scan.
//!
//! The process never keeps a file descriptor into its own filesystem, never mounts its own device, and uses both
//! only on threads apart (`sys::apart`): otherwise its end would wait for itself.
//!
//! A device that is ready is kept by the holder: when the process dies, the next one takes it over. While it is being
//! attached or stopped it is not kept, because those threads may wait for it in the kernel, and a process whose threads
//! wait for it could not end. What is not kept the kernel closes when the process dies, and all I/O fails; the loop
//! device stays attached to the dead file until [`super::stale::clean`] frees it.

#[cfg(any(test, fuzzing))]
mod fuzz;
mod kept;
mod proto;
mod server;

use super::loopdev::{LoopDevice, attached};
use super::{
    Begin, Device, Errno, EventSink, FrontEnd, FrontEndConfig, FrontEndError, FrontEndEvent, stale, sys,
};
use crate::hold::Kept;
use bytes::Bytes;
#[cfg(any(test, fuzzing))]
pub use fuzz::fuzz_requests;
use kept::Session;
pub use kept::left;
use proto::Tree;
use rustix::fs::FileType;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use server::{Origin, Server};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const DEV_FUSE: (u32, u32) = (10, 229);
/// How long a stop without force waits for mounts to go: a container's mount namespace outlives it for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// For each step of a stop that depends on others (write-back of the device's cache, udev, our own threads).
const STEP_LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);

/// Starts a FUSE file on a loop device. Returns at once; [`super::FrontEndEvent::Ready`] or `Failed` follows.
#[must_use]
pub fn start(config: FrontEndConfig, sink: EventSink) -> Arc<dyn FrontEnd> {
    let (commands, inbox) = channel();
    let front_end = Arc::new(FuseFrontEnd { server: OnceLock::new(), commands: commands.clone() });
    let (this, events) = (front_end.clone(), sink.clone());
    let mut config = config;
    let spawned = thread::Builder::new()
        .name("front-end".into())
        .spawn(move || own(&this, &mut config, &events, commands, &inbox));
    if let Err(source) = spawned {
        let error = FrontEndError::Sys { what: "start a thread for", path: "the front end".into(), source };
        sink(FrontEndEvent::Failed(error));
    }
    front_end
}

struct FuseFrontEnd {
    server: OnceLock<Arc<Server>>,
    commands: Sender<Command>,
}

enum Command {
    Stop {
        force: bool,
    },
    Resize(u64),
    /// The kernel has closed the connection.
    Ended,
}

impl FrontEnd for FuseFrontEnd {
    fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        if let Some(server) = self.server.get() {
            server.reply(id, result);
        }
    }

    fn stop(&self, force: bool) {
        // Fails only after the end, when there is nothing to stop.
        let _ = self.commands.send(Command::Stop { force });
    }

    fn resize(&self, size_bytes: u64) {
        let _ = self.commands.send(Command::Resize(size_bytes));
    }

    fn pending(&self) -> usize {
        self.server.get().map_or(0, |s| s.pending())
    }
}

/// What has been made so far, to be undone in reverse.
struct Made {
    /// Name of the FUSE file, which no other volume of any node has.
    name: String,
    dir: PathBuf,
    symlink: PathBuf,
    mounted: bool,
    device: Option<LoopDevice>,
    linked: bool,
    /// The holder keeps the connection.
    kept: bool,
}

fn own(
    front_end: &FuseFrontEnd,
    config: &mut FrontEndConfig,
    sink: &EventSink,
    commands: Sender<Command>,
    inbox: &Receiver<Command>,
) {
    let mut made = Made {
        name: format!("{}{}", stale::file_prefix(&config.tag), config.volume),
        dir: stale::mount_point(&config.run_dir, &config.tag, config.volume.as_str()),
        symlink: config.device_dir.join(config.volume.as_str()),
        mounted: false,
        device: None,
        linked: false,
        kept: false,
    };
    let left = config.holder.take(config.volume.as_str());
    let begun = match (config.begin, left) {
        (Begin::Release, left) => {
            let problems = made.discard(config, left);
            tracing::info!(volume = %config.volume, ?problems, "took away what an earlier process left");
            return sink(FrontEndEvent::Stopped { problems });
        }
        (Begin::TakeOver, Some(left)) => made.take_over(left, front_end, config, sink, commands),
        (Begin::TakeOver, None) => Err(not_taken(config, "nothing is kept of it".into())),
        (Begin::Make, left) => {
            if left.is_some() {
                let problems = made.discard(config, left);
                tracing::warn!(volume = %config.volume, ?problems, "discarded what an earlier process left");
            }
            made.attach(front_end, config, sink, commands)
        }
    };
    match begun {
        Ok(device) => {
            tracing::info!(volume = %config.volume, device = %device.host_path.display(), "block device attached");
            sink(FrontEndEvent::Ready(device));
        }
        Err(error) => {
            for problem in made.detach_by_force(config) {
                tracing::warn!(volume = %config.volume, problem, "left over after a failed attach");
            }
            return sink(FrontEndEvent::Failed(error));
        }
    }
    loop {
        let problems = match inbox.recv() {
            Ok(Command::Stop { force: false }) => match made.detach_gently(inbox, config) {
                Ok(problems) => problems,
                Err(error) => {
                    made.keep(front_end, config);
                    sink(FrontEndEvent::StopRefused(error));
                    continue;
                }
            },
            Ok(Command::Resize(size)) => {
                sink(FrontEndEvent::Resized(made.resize(size, front_end, config)));
                continue;
            }
            Ok(Command::Stop { force: true }) => made.detach_by_force(config),
            Ok(Command::Ended) | Err(_) => {
                let mut problems = vec!["the kernel closed the FUSE connection".to_string()];
                problems.extend(made.detach_by_force(config));
                problems
            }
        };
        tracing::info!(volume = %config.volume, ?problems, "block device detached");
        return sink(FrontEndEvent::Stopped { problems });
    }
}

impl Made {
    fn attach(
        &mut self,
        front_end: &FuseFrontEnd,
        config: &FrontEndConfig,
        sink: &EventSink,
        commands: Sender<Command>,
    ) -> Result<Device, FrontEndError> {
        let private = stale::private_dir(&config.run_dir);
        make_dir(&self.dir)?;
        make_dir(&config.device_dir)?;
        let node = sys::device_node("fuse", FileType::CharacterDevice, DEV_FUSE, &private)?;
        let fuse =
            OpenOptions::new().read(true).write(true).open(&node).map_err(|e| fail("open", &node, e))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
        let options = CString::new(options).expect("no zero byte");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(stale::mount_source(&config.tag), &self.dir, "fuse.baton", flags, Some(options.as_c_str()))
            .map_err(|e| fail("mount a FUSE filesystem on", &self.dir, e.into()))?;
        self.mounted = true;
        let tree = Tree::new(self.name.clone(), config.size_bytes);
        let ended = move || drop(commands.send(Command::Ended));
        let server = Server::start(fuse, Origin::New, tree, sink.clone(), ended)
            .map_err(|e| fail("serve", &self.dir, e))?;
        let _ = front_end.server.set(server);

        let device = LoopDevice::attach(&self.dir.join(&self.name), &self.name, &private, STEP_LIMIT)?;
        self.device = Some(device.clone());
        if let Some(server) = front_end.server.get() {
            server.attached();
        }
        let made = self.link(config, device)?;
        self.keep(front_end, config);
        Ok(made)
    }

    /// Goes on where an earlier process stopped.
    fn take_over(
        &mut self,
        left: Kept,
        front_end: &FuseFrontEnd,
        config: &FrontEndConfig,
        sink: &EventSink,
        commands: Sender<Command>,
    ) -> Result<Device, FrontEndError> {
        // Whatever fails from here on, all of it has to go.
        (self.mounted, self.linked, self.kept) = (true, true, true);
        let session = Session::decode(&left.state).map_err(|why| not_taken(config, why))?;
        // A smaller one has not become larger any more, in the time of the earlier process.
        if session.name != self.name || session.size_bytes > config.size_bytes {
            let detail = format!("it is {} of {} bytes", session.name, session.size_bytes);
            return Err(not_taken(config, detail));
        }
        let private = stale::private_dir(&config.run_dir);
        let device = kept::device(&session, &private).map_err(|why| not_taken(config, why))?;
        self.device = Some(device.clone());
        let tree = Tree::new(self.name.clone(), config.size_bytes);
        let ended = move || drop(commands.send(Command::Ended));
        let server = Server::start(File::from(left.descriptor), Origin::TakenOver, tree, sink.clone(), ended)
            .map_err(|e| not_taken(config, format!("the kernel does not resend: {e}")))?;
        let _ = front_end.server.set(server);
        tracing::info!(volume = %config.volume, device = %device.host_path().display(), "took over the device of an earlier process");
        if session.size_bytes < config.size_bytes {
            self.resize(config.size_bytes, front_end, &mut config.clone())?;
        }
        self.link(config, device)
    }

    /// Makes the device larger under whoever uses it.
    fn resize(
        &mut self,
        size_bytes: u64,
        front_end: &FuseFrontEnd,
        config: &mut FrontEndConfig,
    ) -> Result<(), FrontEndError> {
        let (Some(server), Some(device)) = (front_end.server.get(), &self.device) else { return Ok(()) };
        server.resize(size_bytes);
        device.resize(&self.dir.join(&self.name), size_bytes, STEP_LIMIT)?;
        config.size_bytes = size_bytes;
        tracing::info!(volume = %config.volume, size_bytes, "block device resized");
        self.keep(front_end, config);
        Ok(())
    }

    /// From now on the death of this process is a pause, if there is a holder and the kernel can resend.
    fn keep(&mut self, front_end: &FuseFrontEnd, config: &FrontEndConfig) {
        let (Some(server), Some(device)) = (front_end.server.get(), &self.device) else { return };
        if !config.holder.is_there() {
            return;
        }
        if !server.resends() {
            tracing::warn!(
                volume = %config.volume,
                "this kernel cannot resend FUSE requests (Linux 6.9 can): if the replicator dies, I/O fails and the group fails over"
            );
            return;
        }
        let session = Session::new(self.name.clone(), config.size_bytes, device.number);
        match config.holder.keep(config.volume.as_str(), &session.encode(), server.descriptor()) {
            Ok(kept) => self.kept = kept,
            Err(error) => {
                tracing::warn!(volume = %config.volume, %error, "not kept: if the replicator dies, I/O fails");
            }
        }
    }

    /// The holder lets go, so that nothing but this process keeps the connection.
    fn let_go(&mut self, config: &FrontEndConfig) {
        if std::mem::take(&mut self.kept) {
            config.holder.drop_kept(config.volume.as_str());
        }
    }

    /// Takes away what an earlier process left: all I/O that waits for it fails.
    fn discard(&mut self, config: &FrontEndConfig, left: Option<Kept>) -> Vec<String> {
        let Some(left) = left else { return Vec::new() };
        (self.mounted, self.linked, self.kept) = (true, true, true);
        drop(left.descriptor);
        self.detach_by_force(config)
    }

    fn link(&mut self, config: &FrontEndConfig, device: LoopDevice) -> Result<Device, FrontEndError> {
        // Made under another name and renamed, so that an old link is replaced without a gap.
        let temp = config.device_dir.join(format!(".{}.new", config.volume));
        let _ = std::fs::remove_file(&temp);
        std::os::unix::fs::symlink(device.host_path(), &temp)
            .map_err(|e| fail("make the symlink", &temp, e))?;
        std::fs::rename(&temp, &self.symlink).map_err(|e| fail("make the symlink", &self.symlink, e))?;
        self.linked = true;
        Ok(Device { host_path: device.host_path(), local_path: device.node, symlink: self.symlink.clone() })
    }

    /// Only if nobody uses the device: nothing is lost. After an Err requests are still served.
    fn detach_gently(
        &mut self,
        inbox: &Receiver<Command>,
        config: &FrontEndConfig,
    ) -> Result<Vec<String>, FrontEndError> {
        self.let_go(config);
        if let Some(device) = &self.device {
            // With the claim held, nobody can mount it any more.
            // Fails also if somebody without a claim holds it open, or if its cache cannot be written back.
            device.detach(&self.name, Some(BUSY_WAIT), STEP_LIMIT)?;
            self.device = None;
        }
        self.unlink();
        let mut problems = self.unmount(UnmountFlags::empty());
        // Our threads end with the last reference to the filesystem.
        let deadline = Instant::now() + STEP_LIMIT;
        while Instant::now() < deadline {
            match inbox.try_recv() {
                Ok(Command::Ended) => return Ok(problems),
                Ok(Command::Stop { .. } | Command::Resize(_)) => {}
                Err(_) => thread::sleep(POLL),
            }
        }
        problems.push("the FUSE connection did not end".into());
        Ok(problems)
    }

    /// Fails all I/O first; then nothing can hold up the rest.
    fn detach_by_force(&mut self, config: &FrontEndConfig) -> Vec<String> {
        self.let_go(config);
        self.unlink();
        // FORCE aborts the connection although the loop device holds the file; DETACH gets rid of the mount.
        let mut problems = self.unmount(UnmountFlags::FORCE | UnmountFlags::DETACH);
        // An attach that took too long may have come about after all.
        let late = || {
            let (number, _) = attached().into_iter().find(|(_, name)| *name == self.name)?;
            LoopDevice::numbered(number, self.dir.parent()?).ok()
        };
        if let Some(device) = self.device.take().or_else(late) {
            match device.detach(&self.name, None, STEP_LIMIT / 3) {
                Ok(()) => {}
                Err(FrontEndError::Busy { path }) => problems
                    .push(format!("{} is still mounted; it is freed when it is unmounted", path.display())),
                Err(error) => problems.push(with_source(&error)),
            }
        }
        problems
    }

    fn unlink(&mut self) {
        if std::mem::take(&mut self.linked) {
            let _ = std::fs::remove_file(&self.symlink);
        }
    }

    fn unmount(&mut self, flags: UnmountFlags) -> Vec<String> {
        let mut problems = Vec::new();
        if std::mem::take(&mut self.mounted)
            && let Err(e) = unmount(&self.dir, flags)
        {
            problems.push(format!("cannot unmount {}: {e}", self.dir.display()));
            // A connection that cannot be unmounted must at least not hold up anybody.
            let _ = unmount(&self.dir, UnmountFlags::FORCE | UnmountFlags::DETACH);
        }
        let _ = std::fs::remove_dir(&self.dir);
        problems
    }
}

fn make_dir(path: &Path) -> Result<(), FrontEndError> {
    std::fs::create_dir_all(path).map_err(|e| fail("make the directory", path, e))
}

fn fail(what: &'static str, path: &Path, source: io::Error) -> FrontEndError {
    FrontEndError::Sys { what, path: path.into(), source }
}

fn not_taken(config: &FrontEndConfig, detail: String) -> FrontEndError {
    FrontEndError::TakeOver { volume: config.volume.clone(), detail }
}

fn with_source(error: &FrontEndError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
