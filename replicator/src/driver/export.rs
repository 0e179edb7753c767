//! A volume's snapshot, served read-only by NBD on a Unix socket: for backups.
//!
//! It is the replica here at the moment of the command, whatever its role, and stays that while replication goes on,
//! also if this node is promoted or demoted meanwhile: nobody can write to it, and nobody takes it for the volume.
//! See [`crate::store::Snapshot`] for what that costs, and when it breaks.
//!
//! It ends by command, with the volume, with the process, or an hour after its last client has gone. Nothing that
//! happens to it or to its clients is waited for by replication.

use crate::api::{ExportStatus, VolumeConfig};
use crate::clock;
use crate::frontend::nbd::{self, Export as Served, Map, NbdFrontEnd};
use crate::frontend::{Errno, EventSink, FrontEnd, FrontEndEvent, Op, Request};
use crate::store::{BackingStore, Snapshot};
use crate::types::{DiskState, Instant, Role};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// A forgotten export costs every write a copy; whoever backs up connects sooner than this.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// Threads that read for clients: two keep a disk busy and leave it to the application.
const READERS: usize = 2;
/// For binding the socket, and for the end of its clients' threads.
const STEP_LIMIT: Duration = Duration::from_secs(5);

/// A snapshot that is served.
pub(super) struct Export {
    snapshot: Arc<Snapshot>,
    front: Arc<NbdFrontEnd>,
    /// Says when nothing serves any more.
    ended: Receiver<()>,
    socket: PathBuf,
    volume: String,
    taken_at_s: u64,
    used: Instant,
}

/// Where the export of a volume stands.
#[derive(Default)]
pub(super) enum State {
    /// There is none.
    #[default]
    None,
    /// It is being made or ended.
    Busy,
    /// Clients may come.
    Serving(Box<Export>),
}

/// Whether this replica is one to take a backup of; the reason if not.
pub(super) fn allowed(role: Role, disk: DiskState, frozen: Option<&str>) -> Result<(), String> {
    match (disk, role, frozen) {
        (DiskState::UpToDate, Role::Primary, Some(why)) => {
            Err(format!("I/O is frozen here ({why}), so another node may have newer data; export it there"))
        }
        (DiskState::UpToDate, _, _) => Ok(()),
        (
            DiskState::Diskless
            | DiskState::Attaching
            | DiskState::Failed
            | DiskState::Inconsistent
            | DiskState::Outdated
            | DiskState::Consistent
            | DiskState::DUnknown,
            ..,
        ) => Err(format!(
            "the replica here is {disk:?}, only one that is UpToDate is exported; see 'baton status' for such a \
             node, or wait until this one is in sync"
        )),
    }
}

impl Export {
    /// Takes the snapshot and begins to serve it. Blocks: not for a volume's thread.
    pub fn start(store: &BackingStore, config: &VolumeConfig, run_dir: &Path) -> Result<Self, String> {
        let dir = config.metadata.parent().unwrap_or(Path::new("/"));
        let snapshot = store.snapshot(dir).map_err(|e| e.to_string())?;
        let taken_at_s = clock::unix_seconds();
        let served = serve(&snapshot, config, run_dir, taken_at_s);
        served
            .map(|(front, ended, socket)| Self {
                snapshot,
                front,
                ended,
                socket,
                volume: config.volume.to_string(),
                taken_at_s,
                used: clock::now(),
            })
            .inspect_err(|_| store.end_snapshot())
    }

    /// Disconnects the clients and gives the copies' space back. Blocks: not for a volume's thread.
    pub fn end(self, store: &BackingStore) {
        self.front.stop(true);
        // Whoever is just being answered gets an error; the next export needs the socket's path.
        if self.ended.recv_timeout(STEP_LIMIT).is_err() {
            tracing::warn!(volume = self.volume, "the export's server does not end");
        }
        store.end_snapshot();
    }

    /// Nobody has used it for long.
    pub fn is_forgotten(&mut self, now: Instant) -> bool {
        forgotten(&mut self.used, self.front.clients().unwrap_or(0), now)
    }

    pub fn status(&self) -> ExportStatus {
        ExportStatus {
            uri: nbd::uri(&self.socket, &self.volume),
            socket: self.socket.clone(),
            taken_at_s: self.taken_at_s,
            clients: self.front.clients().unwrap_or(0) as u64,
            read_bytes: self.front.read_bytes(),
            data_bytes: self.snapshot.data_bytes(),
            copied_bytes: self.snapshot.copied_bytes(),
            broken: self.snapshot.broken().map(str::to_owned),
        }
    }
}

fn forgotten(used: &mut Instant, clients: usize, now: Instant) -> bool {
    if clients > 0 {
        *used = now;
    }
    now.since(*used) >= IDLE_LIMIT
}

struct SnapshotMap(Arc<Snapshot>);

impl Map for SnapshotMap {
    fn range(&self, offset: u64) -> (u64, bool) {
        self.0.range(offset)
    }
}

fn serve(
    snapshot: &Arc<Snapshot>,
    config: &VolumeConfig,
    run_dir: &Path,
    taken_at_s: u64,
) -> Result<(Arc<NbdFrontEnd>, Receiver<()>, PathBuf), String> {
    let socket = run_dir.join(format!("{}.snapshot.nbd", config.volume));
    let export = Served {
        name: config.volume.to_string(),
        description: format!(
            "snapshot of volume {} of Baton, taken at {taken_at_s} s after 1970",
            config.volume
        ),
        size_bytes: config.size_bytes,
        read_only: true,
        has_map: true,
    };
    // Bounded by what the server takes from its clients.
    let (work, requests) = crossbeam_channel::unbounded::<Option<Request>>();
    let (begun, outcome) = channel();
    let (end, ended) = channel();
    let sink: EventSink = Arc::new(move |event| match event {
        FrontEndEvent::Request(request) => drop(work.send(Some(request))),
        FrontEndEvent::Ready(_) => drop(begun.send(Ok(()))),
        FrontEndEvent::Failed(error) => {
            (0..READERS).for_each(|_| drop(work.send(None)));
            drop(begun.send(Err(super::volume::chain(&error))));
        }
        FrontEndEvent::Stopped { .. } => {
            (0..READERS).for_each(|_| drop(work.send(None)));
            // Nobody waits for the end of what never began.
            let _ = end.send(());
        }
        FrontEndEvent::StopRefused(_) | FrontEndEvent::Resized(_) => {}
    });
    let front = nbd::serve(socket.clone(), export, Some(Arc::new(SnapshotMap(snapshot.clone()))), sink);
    for _ in 0..READERS {
        let (snapshot, server, requests) = (snapshot.clone(), front.clone(), requests.clone());
        let read = move || {
            while let Ok(Some(Request { id, op })) = requests.recv() {
                server.reply(id, answer(&snapshot, &op));
            }
        };
        if let Err(error) = thread::Builder::new().name("snapshot".into()).spawn(read) {
            front.stop(true);
            return Err(format!("cannot start a thread for the export: {error}"));
        }
    }
    match outcome.recv_timeout(STEP_LIMIT) {
        Ok(result) => result.map(|()| (front, ended, socket)),
        Err(_) => {
            front.stop(true);
            Err(format!("{} was not served within {} s", socket.display(), STEP_LIMIT.as_secs()))
        }
    }
}

fn answer(snapshot: &Snapshot, op: &Op) -> Result<bytes::Bytes, Errno> {
    match op {
        Op::Read { offset, len } => snapshot.read(*offset, *len as usize).map_err(|error| {
            tracing::debug!(%error, offset, "a snapshot could not be read");
            Errno::IO
        }),
        // Nothing is cached that could be flushed.
        Op::Flush => Ok(bytes::Bytes::new()),
        Op::Write { .. } | Op::Discard { .. } | Op::WriteZeroes { .. } => Err(Errno::PERM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_nobody_uses_is_forgotten_after_an_hour() {
        let at = |s: u64| Instant(s * 1_000_000_000);
        let mut used = at(0);
        assert!(!forgotten(&mut used, 0, at(3599)));
        assert!(!forgotten(&mut used, 1, at(4000)), "somebody reads");
        assert!(!forgotten(&mut used, 0, at(4000 + 3599)));
        assert!(forgotten(&mut used, 0, at(4000 + 3600)));
    }

    #[test]
    fn only_a_replica_that_has_everything_is_exported() {
        assert!(allowed(Role::Secondary, DiskState::UpToDate, None).is_ok());
        assert!(allowed(Role::Primary, DiskState::UpToDate, None).is_ok());
        let frozen = allowed(Role::Primary, DiskState::UpToDate, Some("past serve-until")).unwrap_err();
        assert!(frozen.contains("past serve-until"));
        for disk in [
            DiskState::Diskless,
            DiskState::Attaching,
            DiskState::Failed,
            DiskState::Inconsistent,
            DiskState::Outdated,
            DiskState::Consistent,
            DiskState::DUnknown,
        ] {
            let why = allowed(Role::Secondary, disk, None).unwrap_err();
            assert!(why.contains(&format!("{disk:?}")) && why.contains("baton status"), "{why}");
        }
    }
}
