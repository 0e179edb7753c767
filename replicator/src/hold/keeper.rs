//! The holder's loop: starts the worker, keeps what it hands in, starts it again when it dies.
//!
//! | what | reaction |
//! | --- | --- |
//! | worker killed or crashed | the next one at once, with all that is kept; after five in a row that did not work for a second: give up |
//! | worker ends with an error and nothing is kept | end with the same code: a bad configuration is no crash |
//! | SIGTERM, SIGINT | handed on; the worker's end is the holder's |
//! | SIGHUP | the program's file is tried (`--version`); if it runs, the worker is replaced by it |

use super::process::{self, Exit, lock_memory};
use super::restarts::Restarts;
use super::wire::{self, Message, Outgoing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Descriptors kept: more volumes than a node can have.
const MAX_KEPT: usize = 256;
/// For a new binary to say its version.
const TRY_LIMIT: Duration = Duration::from_secs(3);
/// Exit code after giving up.
const GAVE_UP: u8 = 70;

struct Keeper {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// When the worker said that it has started.
    up: Option<Instant>,
    kept: BTreeMap<String, (Vec<u8>, OwnedFd)>,
    worker: Option<(Pid, OwnedFd)>,
    starts: u64,
    restarts: Restarts,
    /// When the next worker is due.
    due: Option<Instant>,
    stopping: bool,
    replacing: bool,
}

/// Runs this program as a worker, again and again, until told to stop; returns the exit code.
///
/// # Errors
/// Signals cannot be received, or the first worker cannot be started.
pub fn run() -> io::Result<u8> {
    let signals = process::signal_descriptor()?;
    if let Err(error) = lock_memory() {
        tracing::warn!(%error, "the holder's memory is not locked");
    }
    let mut keeper = Keeper {
        program: std::env::current_exe()?,
        arguments: std::env::args_os().skip(1).collect(),
        up: None,
        kept: BTreeMap::new(),
        worker: None,
        starts: 0,
        restarts: Restarts::default(),
        due: None,
        stopping: false,
        replacing: false,
    };
    keeper.start()?;
    loop {
        keeper.wait(&signals)?;
        keeper.hear();
        while let Some(signal) = process::next_signal(&signals) {
            match signal {
                libc::SIGTERM | libc::SIGINT => keeper.stop(),
                libc::SIGHUP => keeper.replace(),
                _ => {} // SIGCHLD: see below.
            }
        }
        while let Some((pid, exit)) = process::reap() {
            if keeper.worker.as_ref().is_some_and(|w| w.0 == pid)
                && let Some(code) = keeper.ended(exit)
            {
                return Ok(code);
            }
        }
        if keeper.stopping && keeper.worker.is_none() {
            return Ok(0);
        }
        if keeper.due.is_some_and(|due| Instant::now() >= due) {
            keeper.due = None;
            if let Err(error) = keeper.start() {
                tracing::error!(%error, program = %keeper.program.display(), "cannot start the replicator");
                if let Some(code) = keeper.ended(Exit::Code(GAVE_UP.into())) {
                    return Ok(code);
                }
            }
        }
    }
}

impl Keeper {
    fn start(&mut self) -> io::Result<()> {
        let (pid, socket) = process::spawn(&self.program, &self.arguments, self.starts)?;
        self.starts += 1;
        self.up = None;
        for (key, (state, descriptor)) in &self.kept {
            let message = Outgoing::Keep { key, state, descriptor: descriptor.as_fd() };
            if let Err(error) = wire::send(socket.as_fd(), &message) {
                tracing::error!(key, %error, "cannot hand over what was kept");
            }
        }
        if let Err(error) = wire::send(socket.as_fd(), &Outgoing::End) {
            tracing::error!(%error, "cannot greet the replicator");
        }
        self.worker = Some((pid, socket));
        Ok(())
    }

    fn wait(&self, signals: &OwnedFd) -> io::Result<()> {
        let limit = self.due.map(|due| {
            let left = due.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some((_, socket)) = &self.worker {
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Everything the worker has said so far.
    fn hear(&mut self) {
        while let Some((_, socket)) = &self.worker {
            match wire::receive(socket.as_fd()) {
                Ok(Some(Message::Keep { key, state, descriptor })) => {
                    if self.kept.len() < MAX_KEPT || self.kept.contains_key(&key) {
                        self.kept.insert(key, (state, descriptor));
                    } else {
                        tracing::error!(key, "too many devices: this one is not kept");
                    }
                }
                Ok(Some(Message::Drop { key })) => drop(self.kept.remove(&key)),
                Ok(Some(Message::Up)) => self.up = Some(Instant::now()),
                Ok(Some(Message::End)) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "the replicator said something strange");
                }
                Ok(None) | Err(_) => {
                    // It is ending: its end is what counts, and is waited for without spinning.
                    std::thread::sleep(Duration::from_millis(1));
                    return;
                }
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.due = None;
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some((pid, _)) = &self.worker
            && let Err(error) = kill_process(*pid, signal)
        {
            tracing::error!(%error, "cannot signal the replicator");
        }
    }

    /// A new binary lies where the old one did.
    fn replace(&mut self) {
        if self.stopping {
            return;
        }
        match self.try_program() {
            Ok(version) => {
                tracing::info!(version, "replaces the running replicator; I/O pauses meanwhile");
                self.replacing = true;
                self.signal(Signal::KILL);
            }
            Err(why) => tracing::error!("keeps the running replicator: {why}"),
        }
    }

    fn try_program(&self) -> Result<String, String> {
        let name = self.program.display();
        let mut child = Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name} cannot be started: {e}"))?;
        let end = Instant::now() + TRY_LIMIT;
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => break,
                Ok(Some(status)) => return Err(format!("{name} --version: {status}")),
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{name} did not say its version within {TRY_LIMIT:?}"));
                }
            }
        }
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            let _ = io::Read::read_to_string(&mut out, &mut said);
        }
        Ok(said.trim().to_owned())
    }

    /// The worker has ended; an exit code if the holder ends too.
    fn ended(&mut self, exit: Exit) -> Option<u8> {
        self.hear();
        self.worker = None;
        let code = match exit {
            Exit::Code(code) => u8::try_from(code).unwrap_or(1),
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(1),
        };
        if self.stopping {
            return Some(code);
        }
        if std::mem::take(&mut self.replacing) {
            self.due = Some(Instant::now());
            return None;
        }
        if self.kept.is_empty()
            && let Exit::Code(_) = exit
        {
            return Some(code);
        }
        let held = self.kept.len();
        match self.restarts.after_death(self.up.map(|at| at.elapsed()).unwrap_or_default()) {
            Some(pause) => {
                tracing::error!(?exit, held, ?pause, "the replicator died; it is started again");
                self.due = Some(Instant::now() + pause);
                None
            }
            None => {
                tracing::error!(
                    ?exit,
                    held,
                    "the replicator died too often: gives up, the devices' I/O fails"
                );
                Some(GAVE_UP)
            }
        }
    }
}
