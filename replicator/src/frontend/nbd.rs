//! The `nbd` front end: a server of the Network Block Device protocol on a Unix socket.
//!
//! It serves what FUSE and loop cannot: virtual machines, and backup programs that read a volume without mounting it.
//! The same server is behind a primary volume with `front_end: nbd`, whose requests go to the engine, and behind the
//! read-only export of a snapshot ([`crate::store::Snapshot`]).
//!
//! ```text
//!  start ──bind──► ready ──stop──► Stopped
//!    │              ▲  │
//!    └─► Failed     └──┘ StopRefused (clients are connected, without force)
//! ```
//!
//! One thread owns the socket's life, one accepts, and each client has two of its own. If the process dies, clients
//! see their connection end; there is nothing to take over. The socket is replaced at the next start.

mod connection;
mod job;
mod negotiate;
mod proto;
mod server;

use super::{Begin, Device, Errno, EventSink, FrontEnd, FrontEndConfig, FrontEndError, FrontEndEvent};
use crate::control::bind_private;
use bytes::Bytes;
pub use proto::Export;
use rustix::net::{Shutdown, shutdown};
use server::Server;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// How long a stop without force waits for clients to go: one that was just told to stop needs a moment.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// For the threads of closed connections.
const STEP_LIMIT: Duration = Duration::from_secs(3);

/// What is allocated in something that is exported.
pub trait Map: Send + Sync {
    /// Until where what is at `offset` goes on, and whether it is a hole, which reads as zeroes.
    fn range(&self, offset: u64) -> (u64, bool);
}

/// The socket of a volume's front end.
#[must_use]
pub fn socket(run_dir: &Path, volume: &str) -> PathBuf {
    run_dir.join(format!("{volume}.nbd"))
}

/// Removes sockets that an earlier process left: whoever finds one must be able to connect.
pub fn clean(run_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(run_dir) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.extension().is_some_and(|e| e == "nbd") && UnixStream::connect(&path).is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// As clients take it: `nbd+unix:///NAME?socket=PATH`.
#[must_use]
pub fn uri(socket: &Path, volume: &str) -> String {
    // Names of volumes need no escapes; a path may.
    let path: String = socket
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                char::from(*b).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!("nbd+unix:///{volume}?socket={path}")
}

/// Starts serving a volume's requests. Returns at once; [`FrontEndEvent::Ready`] or `Failed` follows.
#[must_use]
pub fn start(config: FrontEndConfig, sink: EventSink) -> Arc<dyn FrontEnd> {
    let volume = config.volume.to_string();
    match config.begin {
        Begin::Make => {}
        Begin::TakeOver => {
            let detail = "an NBD server leaves nothing that could be taken over".into();
            sink(FrontEndEvent::Failed(FrontEndError::TakeOver { volume: config.volume, detail }));
            return Arc::new(NbdFrontEnd::ended());
        }
        // Nothing of it outlives its process.
        Begin::Release => {
            sink(FrontEndEvent::Stopped { problems: Vec::new() });
            return Arc::new(NbdFrontEnd::ended());
        }
    }
    // A device of another front end, from before the specification changed: its I/O fails when nobody holds it.
    if config.holder.has(&volume) {
        drop(config.holder.take(&volume));
        config.holder.drop_kept(&volume);
    }
    let export = Export {
        description: format!("volume {volume} of Baton"),
        name: volume,
        size_bytes: config.size_bytes,
        read_only: false,
        has_map: false,
    };
    serve(socket(&config.run_dir, config.volume.as_str()), export, None, sink)
}

/// Serves an export on a socket; `map` says what is allocated in it. Like [`start`].
pub fn serve(
    socket: PathBuf,
    export: Export,
    map: Option<Arc<dyn Map>>,
    sink: EventSink,
) -> Arc<NbdFrontEnd> {
    let (commands, inbox) = channel();
    let server = Server::new(export, map, sink.clone());
    let front_end =
        Arc::new(NbdFrontEnd { server: Some(server.clone()), commands, sink: Some(sink.clone()) });
    let events = sink.clone();
    let spawned =
        thread::Builder::new().name("front-end".into()).spawn(move || own(&server, &socket, &events, &inbox));
    if let Err(source) = spawned {
        let error = FrontEndError::Sys { what: "start a thread for", path: "the front end".into(), source };
        sink(FrontEndEvent::Failed(error));
    }
    front_end
}

/// A running NBD server.
pub struct NbdFrontEnd {
    /// None: it never began.
    server: Option<Arc<Server>>,
    /// Stop; with or without force.
    commands: Sender<bool>,
    /// None: it never began.
    sink: Option<EventSink>,
}

impl NbdFrontEnd {
    fn ended() -> Self {
        Self { server: None, commands: channel().0, sink: None }
    }

    /// Bytes that clients have read.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.server.as_ref().map_or(0, |s| s.read_bytes())
    }
}

impl FrontEnd for NbdFrontEnd {
    fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        if let Some(server) = &self.server {
            server.reply(id, result);
        }
    }

    fn stop(&self, force: bool) {
        // Fails only after the end, when there is nothing to stop.
        let _ = self.commands.send(force);
    }

    fn resize(&self, size_bytes: u64) {
        if let (Some(server), Some(sink)) = (&self.server, &self.sink) {
            server.resize(size_bytes);
            sink(FrontEndEvent::Resized(Ok(())));
        }
    }

    fn pending(&self) -> usize {
        self.server.as_ref().map_or(0, |s| s.pending_len())
    }

    fn clients(&self) -> Option<usize> {
        self.server.as_ref().map(|s| s.client_count())
    }
}

fn own(server: &Arc<Server>, socket: &Path, sink: &EventSink, inbox: &Receiver<bool>) {
    let alive = |p: &Path| UnixStream::connect(p).is_ok();
    let started = bind_private(socket, alive, |p| UnixListener::bind(p)).and_then(|listener| {
        let (accepting, listens) = (server.clone(), listener.try_clone()?);
        thread::Builder::new().name("nbd-accept".into()).spawn(move || accepting.accept(&listens))?;
        Ok(listener)
    });
    let listener = match started {
        Ok(listener) => listener,
        Err(source) => {
            let error = FrontEndError::Sys { what: "serve NBD on", path: socket.into(), source };
            return sink(FrontEndEvent::Failed(error));
        }
    };
    let name = server.name();
    tracing::info!(export = name, socket = %socket.display(), "serving NBD");
    let path = socket.to_path_buf();
    sink(FrontEndEvent::Ready(Device { host_path: path.clone(), local_path: path.clone(), symlink: path }));
    // An error means that nobody can stop it any more: then it ends.
    while let Ok(false) = inbox.recv() {
        if server.close_if_unused(BUSY_WAIT) {
            break;
        }
        sink(FrontEndEvent::StopRefused(FrontEndError::Clients {
            path: socket.into(),
            clients: server.client_count(),
        }));
    }
    let problems = end(server, socket, &listener);
    tracing::info!(export = name, ?problems, "NBD server ended");
    sink(FrontEndEvent::Stopped { problems });
}

fn end(server: &Server, socket: &Path, listener: &UnixListener) -> Vec<String> {
    let mut problems = Vec::new();
    let complain = |what: &str, error: io::Error| format!("cannot {what} {}: {error}", socket.display());
    if let Err(error) = std::fs::remove_file(socket) {
        problems.push(complain("remove", error));
    }
    // Its thread ends: accepting fails from now on.
    if let Err(error) = shutdown(listener, Shutdown::Both) {
        problems.push(complain("shut down", error.into()));
    }
    if !server.close(STEP_LIMIT) {
        problems.push(format!("threads of clients of {} still run", socket.display()));
    }
    problems
}

#[cfg(test)]
mod tests;
