//! A client's request on its way through the engine: in pieces, and for FUA with a flush after them.

use super::connection::{Answer, Connection};
use super::proto::Failure;
use crate::frontend::Errno;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};

/// What is answered in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// These bytes.
    Read { offset: u64, len: u32 },
    /// That there is nothing but a hole.
    Hole { offset: u64, len: u32 },
    /// Done; with `fua` only when it is durable. `bytes`: of its payload.
    Change { fua: bool, bytes: usize },
}

impl Kind {
    /// What it counts for in the connection's account.
    pub fn bytes(self) -> usize {
        match self {
            Self::Read { len, .. } | Self::Hole { len, .. } => len as usize,
            Self::Change { bytes, .. } => bytes,
        }
    }
}

/// One request of a client.
pub(super) struct Job {
    connection: Arc<Connection>,
    pub cookie: u64,
    pub kind: Kind,
    state: Mutex<State>,
}

struct State {
    /// Pieces that were not answered.
    left: usize,
    failure: Option<Failure>,
    /// Data of a read, by piece.
    data: Vec<Bytes>,
    /// A flush has to follow.
    unflushed: bool,
}

impl Job {
    pub fn new(connection: Arc<Connection>, cookie: u64, kind: Kind, pieces: usize) -> Self {
        let data = match kind {
            Kind::Read { .. } => vec![Bytes::new(); pieces],
            Kind::Hole { .. } | Kind::Change { .. } => Vec::new(),
        };
        let unflushed = matches!(kind, Kind::Change { fua: true, .. });
        Self {
            connection,
            cookie,
            kind,
            state: Mutex::new(State { left: pieces, failure: None, data, unflushed }),
        }
    }

    /// A piece was answered; with the last one the writer gets to work. Never blocks.
    pub fn answered(self: Arc<Self>, piece: usize, wanted: usize, result: Result<Bytes, Errno>) {
        let mut state = self.lock();
        match result {
            Ok(data) if data.len() == wanted => {
                if let Some(place) = state.data.get_mut(piece) {
                    *place = data;
                }
            }
            Ok(data) => {
                tracing::error!(got = data.len(), wanted, "a request was answered with the wrong length");
                state.failure = Some(Failure::Io);
            }
            // The first failure stays: a later success must not cover it.
            Err(errno) => {
                state.failure.get_or_insert(Failure::of_errno(errno.raw_os_error()));
            }
        }
        state.left -= 1;
        let done = state.left == 0;
        drop(state);
        if done {
            let connection = self.connection.clone();
            connection.push(Answer::Done(self));
        }
    }

    /// It was written and has to be durable: true once, and then a flush is its last piece.
    pub fn begin_flush(&self) -> bool {
        let mut state = self.lock();
        let wanted = std::mem::take(&mut state.unflushed) && state.failure.is_none();
        state.left = usize::from(wanted);
        wanted
    }

    pub fn take_result(&self) -> (Option<Failure>, Vec<Bytes>) {
        let mut state = self.lock();
        (state.failure, std::mem::take(&mut state.data))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }
}
