//! The owner of one volume: a thread that feeds its engine and carries out what it says, in order.
//!
//! Everything arrives by one channel, so that the engine never sees two things at once. Nothing here blocks but
//! that channel: store, metadata, peers and front end have threads of their own and answer by it. If this thread
//! dies the process dies; the metadata file has what the next start needs.

use super::Shared;
use crate::api::{Desired, Problem, VolumeStatus};
use crate::clock;
use crate::control::problem;
use crate::core::engine::{Action, Engine, Event, FrontOp, SessionId, StoreOp, Token};
use crate::core::frame::Frame;
use crate::core::range::Range;
use crate::frontend::{Errno, FrontEnd, FrontEndConfig, FrontEndEvent, Op, fuse, probe};
use crate::store::{self, BackingStore, Completion, MetaFile};
use crate::transport::{Dialer, DialerConfig, RawFrame, Session, TransportEvent};
use crate::types::{Epoch, Instant, NodeName};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Interval of [`Event::Tick`]: half a keepalive; timeouts are late by at most this.
const TICK: Duration = Duration::from_millis(50);
/// Closing store and metadata at the end; after it, the process goes anyway.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Who waits for a command.
pub(super) type Waiter = oneshot::Sender<Result<VolumeStatus, Problem>>;

/// What the owner is told.
pub(super) enum Input {
    /// By the front end of that number.
    Front(u64, FrontEndEvent),
    /// By the backing store.
    Store(Completion),
    /// By the metadata file.
    Meta(Completion),
    /// By a peer's session, or a dialer.
    Transport(TransportEvent),
    /// By the heartbeat thread of the agent.
    ServeUntil(Epoch, Instant),
    /// By the agent.
    Desired(Desired, Waiter),
    /// By whoever made a filesystem.
    Probe,
    /// Stop in order and end.
    Stop { even_primary: bool, waiter: Waiter },
}

/// What an owner is made from.
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) first: Vec<Action>,
    pub(super) store: BackingStore,
    pub(super) meta: MetaFile,
    pub(super) shared: Arc<Shared>,
    pub(super) to_self: Sender<Input>,
}

pub(super) struct Owner {
    engine: Engine,
    store: BackingStore,
    meta: MetaFile,
    shared: Arc<Shared>,
    to_self: Sender<Input>,
    front: Option<(u64, Arc<dyn FrontEnd>)>,
    fronts: u64,
    sessions: BTreeMap<SessionId, Session>,
    dialers: BTreeMap<NodeName, Dialer>,
    waiters: BTreeMap<Token, Waiter>,
    last_token: u64,
    ending: Option<Token>,
    changed: bool,
}

impl Owner {
    /// Runs until the volume has been stopped.
    pub(super) fn run(parts: Parts, inputs: &Receiver<Input>) {
        let Parts { engine, first, store, meta, shared, to_self } = parts;
        let mut owner = Self {
            engine,
            store,
            meta,
            shared,
            to_self,
            front: None,
            fronts: 0,
            sessions: BTreeMap::new(),
            dialers: BTreeMap::new(),
            waiters: BTreeMap::new(),
            last_token: 0,
            ending: None,
            changed: true,
        };
        owner.perform(first);
        owner.publish();
        let mut next_tick = std::time::Instant::now() + TICK;
        loop {
            match inputs.recv_deadline(next_tick) {
                Ok(input) => owner.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if std::time::Instant::now() >= next_tick {
                next_tick = std::time::Instant::now() + TICK;
                owner.feed(Event::Tick);
                owner.publish();
            } else if owner.changed {
                owner.publish();
            }
            if owner.ending.is_some_and(|token| !owner.waiters.contains_key(&token)) {
                owner.store.close(CLOSE_LIMIT);
                owner.meta.close(CLOSE_LIMIT);
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Front(number, event) => self.front_event(number, event),
            Input::Store(Completion { tag, result }) => {
                let result = result.map(Option::unwrap_or_default).map_err(|e| e.to_string());
                self.feed(Event::StoreDone { tag, result });
            }
            Input::Meta(Completion { tag, result }) => {
                self.feed(Event::MetaDone { tag, result: result.map(drop).map_err(|e| e.to_string()) });
            }
            Input::Transport(event) => self.transport_event(event),
            Input::ServeUntil(epoch, until) => self.feed(Event::ServeUntil { epoch, until }),
            Input::Desired(desired, waiter) => {
                let token = self.token(waiter);
                self.feed(Event::Desired { token, desired });
            }
            Input::Probe => self.feed(Event::Probe),
            Input::Stop { even_primary, waiter } => {
                let token = self.token(waiter);
                self.ending = Some(token);
                self.feed(Event::Stop { token, even_primary });
            }
        }
    }

    fn token(&mut self, waiter: Waiter) -> Token {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.waiters.insert(token, waiter);
        token
    }

    fn front_event(&mut self, number: u64, event: FrontEndEvent) {
        if self.front.as_ref().is_none_or(|(current, _)| *current != number) {
            return;
        }
        match event {
            FrontEndEvent::Ready(device) => {
                let name = &self.engine.config().volume;
                let seen = self.shared.config.engine_device_dir().join(name.as_str());
                self.shared.set_device(name, Some(device.local_path));
                self.feed(Event::FrontEndStarted(Ok(seen)));
            }
            FrontEndEvent::Request(request) => match front_op(request.op) {
                Some(op) => self.feed(Event::Request { id: request.id, op }),
                None => self.reply(request.id, Err(Errno::INVAL)),
            },
            FrontEndEvent::Failed(error) => {
                self.front = None;
                self.feed(Event::FrontEndStarted(Err(chain(&error))));
            }
            FrontEndEvent::StopRefused(error) => self.feed(Event::FrontEndStopped(Err(chain(&error)))),
            FrontEndEvent::Stopped { problems } => {
                for problem in problems {
                    tracing::warn!(volume = %self.engine.config().volume, "{problem}");
                }
                self.front = None;
                self.shared.set_device(&self.engine.config().volume, None);
                self.feed(Event::FrontEndStopped(Ok(())));
            }
        }
    }

    fn transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Opened(session) => {
                let id = SessionId(session.id().0);
                let peer = session.peer().clone();
                self.sessions.insert(id, session);
                self.feed(Event::SessionOpened { session: id, peer });
            }
            TransportEvent::Frame { session, frame } => {
                let session = SessionId(session.0);
                match Frame::decode(frame.kind, &frame.head, frame.body) {
                    Ok(frame) => self.feed(Event::Frame { session, frame }),
                    Err(bad) => self.feed(Event::Nonsense { session, reason: bad.to_string() }),
                }
            }
            TransportEvent::Closed { session, reason } => {
                let session = SessionId(session.0);
                self.sessions.remove(&session);
                self.feed(Event::SessionClosed { session, reason: reason.to_string() });
            }
            TransportEvent::DialFailed { peer, reason, .. } => self.feed(Event::DialFailed { peer, reason }),
        }
    }

    fn feed(&mut self, event: Event) {
        let actions = self.engine.handle(event, clock::now());
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            if let Some(event) = self.act(action) {
                queue.extend(self.engine.handle(event, clock::now()));
            }
        }
    }

    /// Carries out one action; some are answered at once.
    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Store { tag, op } => self.store.submit(tag, store_op(op)),
            Action::Meta { tag, writes } => self.meta.submit(tag, writes),
            Action::Send { session, frame } => self.send(session, &frame),
            Action::Close { session, reason } => {
                if let Some(session) = self.sessions.get(&session) {
                    session.close(&reason);
                }
            }
            Action::Dial { peer, wanted } => self.dial(peer, wanted),
            Action::Reply { id, result } => self.reply(id, result.map_err(|()| Errno::IO)),
            Action::StartFrontEnd => self.start_front_end(),
            Action::StopFrontEnd { force } => match &self.front {
                Some((_, front)) => front.stop(force),
                None => return Some(Event::FrontEndStopped(Ok(()))),
            },
            Action::Probe(bytes) => return Some(Event::Probed(found(&bytes))),
            Action::Done { token, result } => {
                if let Some(waiter) = self.waiters.remove(&token) {
                    let status = self.engine.status();
                    self.publish();
                    let _ = waiter.send(result.map(|()| status));
                }
            }
            Action::StatusChanged => self.changed = true,
            Action::Alarm(text) => tracing::warn!(volume = %self.engine.config().volume, "{text}"),
        }
        None
    }

    fn send(&mut self, session: SessionId, frame: &Frame) {
        let Some(session) = self.sessions.get(&session) else { return };
        let (kind, head, body) = frame.encode();
        // A session that does not take it is closed, and says so by its own event.
        if let Err(error) = session.send(RawFrame { kind, head: head.into(), body }) {
            tracing::debug!(peer = %session.peer(), %error, "a frame was not sent");
        }
    }

    fn dial(&mut self, peer: NodeName, wanted: bool) {
        if !wanted {
            self.dialers.remove(&peer);
            return;
        }
        let config = self.engine.config();
        let Some(known) = config.peers.iter().find(|p| p.node == peer) else { return };
        if self.dialers.contains_key(&peer) {
            return;
        }
        let dialer = DialerConfig {
            address: known.address,
            secret: self.shared.secret.clone(),
            node: self.shared.config.node.clone(),
            peer: peer.clone(),
            volume: config.volume.clone(),
            peer_timeout: Duration::from_millis(config.peer_timeout_ms),
        };
        let to_self = self.to_self.clone();
        let sink = Arc::new(move |event| drop(to_self.send(Input::Transport(event))));
        self.dialers.insert(peer, Dialer::start(dialer, sink));
    }

    fn start_front_end(&mut self) {
        self.fronts += 1;
        let number = self.fronts;
        let config = self.engine.config();
        let wanted = FrontEndConfig {
            volume: config.volume.clone(),
            size_bytes: config.size_bytes,
            tag: self.shared.tag.clone(),
            run_dir: self.shared.config.run_dir.clone(),
            device_dir: self.shared.config.device_dir.clone(),
        };
        let to_self = self.to_self.clone();
        let sink = Arc::new(move |event| drop(to_self.send(Input::Front(number, event))));
        self.front = Some((number, fuse::start(wanted, sink)));
    }

    fn reply(&self, id: u64, result: Result<Bytes, Errno>) {
        if let Some((_, front)) = &self.front {
            front.reply(id, result);
        }
    }

    fn publish(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        self.shared.publish(self.engine.status(), changed);
    }
}

fn front_op(op: Op) -> Option<FrontOp> {
    Some(match op {
        Op::Read { offset, len } => FrontOp::Read(Range::new(offset, len.into())?),
        Op::Write { offset, data } => FrontOp::Write(offset, data),
        Op::Flush => FrontOp::Flush,
        Op::Discard { offset, len } => FrontOp::Discard(Range::new(offset, len)?),
        Op::WriteZeroes { offset, len } => FrontOp::Zero(Range::new(offset, len)?),
    })
}

fn store_op(op: StoreOp) -> store::StoreOp {
    let parts = |range: Range| (range.start, range.bytes());
    match op {
        StoreOp::Read(range) => {
            let (offset, len) = parts(range);
            store::StoreOp::Read { offset, len: u32::try_from(len).unwrap_or(u32::MAX) }
        }
        StoreOp::Write(offset, data) => store::StoreOp::Write { offset, data },
        StoreOp::Flush => store::StoreOp::Flush,
        StoreOp::Discard(range) => {
            let (offset, len) = parts(range);
            store::StoreOp::Discard { offset, len }
        }
        StoreOp::Zero(range) => {
            let (offset, len) = parts(range);
            store::StoreOp::WriteZeroes { offset, len }
        }
    }
}

/// An error with all its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    text
}

/// What the first bytes are, as a word; none if blank.
fn found(bytes: &[u8]) -> Option<String> {
    match probe::probe(bytes) {
        probe::Signature::Blank => None,
        probe::Signature::Known(name) => Some(name.to_owned()),
        probe::Signature::Unknown => Some("unknown".to_owned()),
    }
}

/// A problem document for a volume that is not attached.
pub(super) fn not_attached(name: &crate::types::VolumeName) -> Problem {
    problem(404, "no-such-volume", "No such volume", format!("volume {name} is not attached here: configure it first"))
}
