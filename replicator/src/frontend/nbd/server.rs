//! All clients of one export: who is connected, and which request of the engine belongs to whom.
//!
//! Invariants: a request is answered at most once; [`Server::reply`] never blocks; at most [`MAX_CLIENTS`] clients.

use super::Map;
use super::connection::{Connection, negotiate};
use super::job::Job;
use super::proto::Export;
use crate::frontend::{Errno, EventSink, FrontEndEvent, Op, Request};
use bytes::Bytes;
use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at the same time: `nbdcopy` opens four, `fio` one per job. Each may hold 8 MiB (`connection::BUDGET`) and
/// has two threads. One more is closed at once, and its client says so.
const MAX_CLIENTS: usize = 16;
const POLL: Duration = Duration::from_millis(5);
/// Before accepting is tried again after it failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Server {
    export: Export,
    /// Of the export, for whoever connects from now on.
    size_bytes: AtomicU64,
    map: Option<Arc<dyn Map>>,
    sink: EventSink,
    pending: Mutex<HashMap<u64, Piece>>,
    next_id: AtomicU64,
    clients: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Connections, also those that are still negotiating.
    connections: AtomicUsize,
    /// Nobody new may come.
    closed: AtomicBool,
    read_bytes: AtomicU64,
}

/// A request of the engine.
struct Piece {
    job: Arc<Job>,
    index: usize,
    /// Bytes that its answer must have.
    wanted: usize,
}

impl Server {
    pub fn new(export: Export, map: Option<Arc<dyn Map>>, sink: EventSink) -> Arc<Self> {
        Arc::new(Self {
            size_bytes: AtomicU64::new(export.size_bytes),
            export,
            map,
            sink,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
            clients: Mutex::default(),
            connections: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            read_bytes: AtomicU64::new(0),
        })
    }

    /// What a client that connects now is served. It keeps that: the protocol has no word for a size that changes.
    pub fn export(&self) -> Export {
        Export { size_bytes: self.size_bytes.load(Ordering::SeqCst), ..self.export.clone() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.export.name
    }

    pub fn resize(&self, size_bytes: u64) {
        self.size_bytes.fetch_max(size_bytes, Ordering::SeqCst);
    }

    /// Accepts clients until the listener is shut down.
    pub fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for number in 0.. {
            let stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept an NBD client");
                        thread::sleep(ACCEPT_PAUSE);
                    }
                }
            };
            if self.connections.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
                self.connections.fetch_sub(1, Ordering::SeqCst);
                tracing::warn!(
                    export = self.export.name,
                    "refused an NBD client: {MAX_CLIENTS} are connected"
                );
                continue;
            }
            let server = self.clone();
            let run = move || {
                server.serve(number, stream);
                server.connections.fetch_sub(1, Ordering::SeqCst);
            };
            if let Err(error) = thread::Builder::new().name("nbd-in".into()).spawn(run) {
                self.connections.fetch_sub(1, Ordering::SeqCst);
                tracing::warn!(%error, "cannot start a thread for an NBD client");
            }
        }
    }

    fn serve(self: &Arc<Self>, number: u64, stream: UnixStream) {
        let name = &self.export.name;
        let agreed = match negotiate(&stream, self) {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return tracing::debug!(export = name, number, "an NBD client did not go on"),
            Err(error) => return tracing::debug!(export = name, number, %error, "an NBD client broke off"),
        };
        let connection = Arc::new(Connection::new(stream, agreed));
        {
            let mut clients = self.clients();
            if self.closed.load(Ordering::SeqCst) {
                return;
            }
            clients.insert(number, connection.clone());
        }
        tracing::info!(export = name, number, "NBD client connected");
        let (writer, server) = (connection.clone(), self.clone());
        let run = move || writer.write_answers(&server);
        let why = match thread::Builder::new().name("nbd-out".into()).spawn(run) {
            Ok(writer) => {
                let why = connection.read_requests(self);
                connection.close();
                // It does not panic, and its socket is shut.
                let _ = writer.join();
                why
            }
            Err(_) => "there is no thread for it",
        };
        connection.close();
        self.clients().remove(&number);
        tracing::info!(export = name, number, why, "NBD client gone");
    }

    /// Hands the pieces of a request to the engine.
    pub fn hand_out(&self, job: &Arc<Job>, ops: Vec<Op>) {
        let first = self.next_id.fetch_add(ops.len() as u64, Ordering::SeqCst);
        {
            let mut pending = self.pending();
            for (index, op) in ops.iter().enumerate() {
                let wanted = if let Op::Read { len, .. } = op { *len as usize } else { 0 };
                pending.insert(first + index as u64, Piece { job: job.clone(), index, wanted });
            }
        }
        for (id, op) in (first..).zip(ops) {
            (self.sink)(FrontEndEvent::Request(Request { id, op }));
        }
    }

    pub fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        // Removed first: of two answers, only one finds it.
        let Some(piece) = self.pending().remove(&id) else { return };
        piece.job.answered(piece.index, piece.wanted, result);
    }

    pub fn pending_len(&self) -> usize {
        self.pending().len()
    }

    /// Clients past their negotiation.
    pub fn client_count(&self) -> usize {
        self.clients().len()
    }

    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    pub fn count_read(&self, len: u32) {
        self.read_bytes.fetch_add(len.into(), Ordering::Relaxed);
    }

    /// Lets nobody new in if nobody is connected within `limit`; otherwise everything stays as it was.
    pub fn close_if_unused(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let clients = self.clients();
            if clients.is_empty() {
                self.closed.store(true, Ordering::SeqCst);
                return true;
            }
            drop(clients);
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
    }

    /// Closes all connections and waits at most `limit` for their threads; false: some are still there.
    pub fn close(&self, limit: Duration) -> bool {
        let clients: Vec<_> = {
            let clients = self.clients();
            self.closed.store(true, Ordering::SeqCst);
            clients.values().cloned().collect()
        };
        clients.iter().for_each(|c| c.close());
        let deadline = Instant::now() + limit;
        while self.client_count() > 0 && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.pending().clear();
        self.client_count() == 0
    }

    /// Nothing but a hole, as far as is known.
    pub fn is_hole(&self, offset: u64, len: u32) -> bool {
        self.map.as_ref().is_some_and(|_| self.ranges(offset, len, 1) == [(len, true)])
    }

    /// What of this range is allocated, from its beginning; at most `limit` ranges, and at least one.
    pub fn ranges(&self, offset: u64, len: u32, limit: usize) -> Vec<(u32, bool)> {
        let Some(map) = &self.map else { return vec![(len, false)] };
        let end = offset + u64::from(len);
        let mut ranges: Vec<(u32, bool)> = Vec::new();
        let mut at = offset;
        while at < end && ranges.len() < limit {
            let (until, hole) = map.range(at);
            let until = until.clamp(at + 1, end);
            ranges.push(((until - at) as u32, hole));
            at = until;
        }
        ranges
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Piece>> {
        self.pending.lock().expect("no panic under this lock")
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.clients.lock().expect("no panic under this lock")
    }
}
