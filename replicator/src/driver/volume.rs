//! One volume's owner: inputs become events, actions become calls.
//!
//! Everything arrives by one door ([`super::door`]), whose threads take turns; nothing called from here blocks. The clock is
//! read once per event, right before the engine decides, so an answer leaves at most one event's work after it was judged.

mod exporting;
mod growing;

use super::door::{self, Door, TURN};
use super::export;
use super::handle::{Input, Published, Volume};
use super::{Answer, Shared};
use crate::api::{Problem, VolumeConfig};
use crate::clock;
use crate::control::problem;
use crate::core::engine::{
    Action, Engine, Event, Fault, FrontOp, SessionId as CoreSession, StoreOp as CoreStoreOp, Token,
};
use crate::core::frame::Frame;
use crate::core::range::Range;
use crate::frontend::probe::{Signature, probe};
use crate::frontend::{Begin, Errno, FrontEnd, FrontEndEvent, Op};
use crate::store::{BackingStore, Completion, MetaFile, StoreError, StoreOp, keep};
use crate::transport::{Dialer, DialerConfig, RawFrame, Session, TransportEvent};
use crate::types::{FrontEndKind, Generation, Instant, NodeName};
use crossbeam_channel::Receiver;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The engine's clock hand: timeouts are judged this often; a tenth of the shortest useful peer_timeout.
const TICK: Duration = Duration::from_millis(50);
/// For what the store and the metadata file still do at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What a volume is started with.
pub(super) struct Parts {
    pub engine: Engine,
    pub actions: Vec<Action>,
    pub store: Arc<BackingStore>,
    pub meta: MetaFile,
    pub door: Door<Owner>,
    pub receiver: Receiver<Input>,
}

/// Starts the volume's thread.
pub(super) fn start(shared: &Arc<Shared>, parts: Parts) -> std::io::Result<Volume> {
    let Parts { engine, actions, store, meta, door, receiver } = parts;
    let (config, status) = (engine.config().clone(), engine.status());
    let published = Published { config, status, snapshots: Vec::new(), device: None };
    let node = shared.options.node.clone();
    let published = Arc::new(Mutex::new(published));
    let handle = Volume { door: door.clone(), published, node };
    handle.look_for_snapshots();
    let mut owner = Owner {
        shared: shared.clone(),
        handle: handle.clone(),
        engine,
        store,
        meta,
        sessions: HashMap::new(),
        dialers: HashMap::new(),
        front: None,
        fronts: 0,
        answers: HashMap::new(),
        looks: Vec::new(),
        tokens: 0,
        own: VecDeque::new(),
        stopping: None,
        stopped: None,
        export: export::State::None,
        receiver,
        kept_back: None,
        next_tick: clock::now().plus(TICK),
        errands: Errands::default(),
    };
    std::thread::Builder::new().name("volume".into()).spawn(move || {
        owner.carry_out(actions);
        door.move_in(owner);
        run(&door);
    })?;
    Ok(handle)
}

/// The volume's thread: does what other threads leave to it, and what the time asks for.
fn run(door: &Door<Owner>) {
    loop {
        let looked = door.turn(|owner| (owner.stopped.is_some(), owner.next_tick));
        let Some((more, (stopped, next_tick))) = looked else { return };
        if stopped {
            if let Some(owner) = door.move_out() {
                owner.end();
            }
            return;
        }
        if !more {
            Door::<Owner>::rest(next_tick.since(clock::now()));
        }
    }
}

/// What the threads of a volume share, one at a time.
pub(super) struct Owner {
    shared: Arc<Shared>,
    handle: Volume,
    engine: Engine,
    store: Arc<BackingStore>,
    meta: MetaFile,
    sessions: HashMap<CoreSession, Session>,
    dialers: HashMap<NodeName, Dialer>,
    front: Option<Arc<dyn FrontEnd>>,
    fronts: u64,
    answers: HashMap<Token, Answer>,
    looks: Vec<Answer>,
    tokens: u64,
    /// Events of our own: never through the channel, which might be full.
    own: VecDeque<Event>,
    stopping: Option<Token>,
    stopped: Option<Result<(), Problem>>,
    export: export::State,
    receiver: Receiver<Input>,
    /// Taken from the queue by a thread that may not carry it out: the next input.
    kept_back: Option<Input>,
    next_tick: Instant,
    /// What was queued in this turn and is to be sent, or begun, after it.
    errands: Errands,
}

/// What a turn leaves to be done.
#[derive(Default)]
pub(super) struct Errands {
    /// Sessions with frames to send.
    sessions: Vec<Session>,
    /// The store, if it has something to begin.
    store: Option<Arc<BackingStore>>,
}

impl Errands {
    fn flush(&mut self, session: &Session) {
        if !self.sessions.iter().any(|s| s.id() == session.id()) {
            self.sessions.push(session.clone());
        }
    }
}

impl door::Errands for Errands {
    /// The peer first: its way is the longer one, and waking up a thread here takes as long as sending.
    fn run(self) {
        self.sessions.iter().for_each(Session::flush);
        if let Some(store) = self.store {
            store.begin();
        }
    }
}

impl door::Owner for Owner {
    type Errands = Errands;

    fn turn(&mut self, own: bool) -> (bool, Errands) {
        self.tick_if_due();
        let more = self.inputs(own);
        (more, std::mem::take(&mut self.errands))
    }
}

impl Owner {
    fn inputs(&mut self, own: bool) -> bool {
        for _ in 0..TURN {
            if self.stopped.is_some() || (self.kept_back.is_some() && !own) {
                return true;
            }
            let Some(input) = self.kept_back.take().or_else(|| self.receiver.try_recv().ok()) else {
                return false;
            };
            if own || input.is_for_any_thread() {
                self.input(input);
            } else {
                self.kept_back = Some(input);
            }
        }
        true
    }

    fn tick_if_due(&mut self) {
        let now = clock::now();
        if now >= self.next_tick {
            self.next_tick = now.plus(TICK);
            self.engine.wall_clock(clock::unix_seconds());
            self.give(Event::Tick);
            self.look_at_export();
            self.publish();
        }
    }

    /// The engine has stopped: the device goes, then the files, and whoever asked for it is told.
    fn end(mut self) {
        self.dialers.clear();
        self.end_export(None);
        if let Some(front) = &self.front {
            front.stop(true);
        }
        let deadline = clock::now().plus(CLOSE_LIMIT);
        while self.front.is_some() {
            match self.receiver.recv_timeout(deadline.since(clock::now())) {
                Ok(input @ Input::Front(..)) => self.input(input),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        door::Errands::run(std::mem::take(&mut self.errands));
        for closed in [self.store.close(CLOSE_LIMIT), self.meta.close(CLOSE_LIMIT)] {
            if !closed {
                tracing::error!(volume = %self.handle.status().volume, "a disk command still hangs at the end");
            }
        }
        let answer = self.stopping.and_then(|token| self.answers.remove(&token));
        if let (Some(answer), Some(result)) = (answer, self.stopped.take()) {
            let _ = answer.send(result);
        }
    }

    fn give(&mut self, event: Event) {
        let actions = self.engine.handle(event, clock::now());
        self.carry_out(actions);
        while let Some(event) = self.own.pop_front() {
            let actions = self.engine.handle(event, clock::now());
            self.carry_out(actions);
        }
    }

    fn token(&mut self, answer: Answer) -> Token {
        self.tokens += 1;
        self.answers.insert(Token(self.tokens), answer);
        Token(self.tokens)
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Store(Completion { tag, result }) => {
                let result = result.map(Option::unwrap_or_default).map_err(|e| fault(&e));
                self.give(Event::StoreDone { tag, result });
            }
            Input::Meta(Completion { tag, result }) => {
                let result = result.map(|_| ()).map_err(|e| e.to_string());
                self.give(Event::MetaDone { tag, result });
            }
            Input::Transport(event) => self.transport(event),
            Input::Front(number, event) if number == self.fronts => self.front_end(event),
            Input::Front(..) => {}
            Input::Desired(desired, answer) => {
                let token = self.token(answer);
                self.give(Event::Desired { token, desired });
            }
            Input::Verify(request, answer) => {
                let token = self.token(answer);
                self.give(match request {
                    Some(request) => Event::Verify { token, request },
                    None => Event::StopVerify { token },
                });
            }
            Input::PauseResync(paused, answer) => {
                let token = self.token(answer);
                self.give(Event::PauseResync { token, paused });
            }
            Input::Discard(request, answer) => {
                let token = self.token(answer);
                self.give(Event::Discard { token, request });
            }
            Input::Kept(result) => {
                self.handle.look_for_snapshots();
                self.give(Event::Kept(result));
            }
            Input::Ended(event) => self.give(event),
            Input::Export(true, answer) => self.begin_export(answer),
            Input::Export(false, answer) => self.end_export(Some(answer)),
            Input::ExportDone(outcome, answer) => self.export_done(outcome, answer),
            Input::ServeUntil(epoch, until) => self.give(Event::ServeUntil { epoch, until }),
            Input::Reconfigure(config, answer) => {
                let before = self.engine.config().clone();
                let result = match self.engine.reconfigure(config, clock::now()) {
                    Err(why) => Err(problem(409, "configuration", "Cannot change while attached", why)),
                    Ok(actions) => {
                        self.handle.published().config = self.engine.config().clone();
                        // What goes on as it was must not lose its session.
                        for node in self.redial(&before) {
                            self.dial(&node, true);
                        }
                        self.carry_out(actions);
                        Ok(())
                    }
                };
                let _ = answer.send(result);
            }
            Input::Look(answer) => {
                self.looks.push(answer);
                self.give(Event::Probe);
            }
            Input::Stop(even_primary, answer) => {
                let token = self.token(answer);
                self.stopping = Some(token);
                self.give(Event::Stop { token, even_primary });
                if !self.answers.contains_key(&token) {
                    self.stopping = None; // Refused.
                }
            }
        }
    }

    fn transport(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Opened(session) => {
                let (id, peer) = (CoreSession(session.id().0), session.peer().clone());
                tracing::info!(%peer, volume = %session.volume(), session = id.0, "session opened");
                self.sessions.insert(id, session);
                self.give(Event::SessionOpened { session: id, peer });
            }
            TransportEvent::Frame { session, frame } => {
                let session = CoreSession(session.0);
                self.give(match Frame::decode(frame.kind, &frame.head, frame.body) {
                    Ok(frame) => Event::Frame { session, frame },
                    Err(bad) => Event::Nonsense { session, reason: bad.to_string() },
                });
            }
            TransportEvent::Closed { session, reason } => {
                let session = CoreSession(session.0);
                if let Some(ended) = self.sessions.remove(&session) {
                    tracing::info!(peer = %ended.peer(), volume = %ended.volume(), session = session.0, %reason, "session closed");
                }
                self.give(Event::SessionClosed { session, reason: reason.to_string() });
            }
            TransportEvent::DialFailed { peer, reason, .. }
            | TransportEvent::Refused { peer, reason, .. } => self.give(Event::DialFailed { peer, reason }),
        }
    }

    fn front_end(&mut self, event: FrontEndEvent) {
        match event {
            FrontEndEvent::Request(request) => {
                let range = |offset: u64, len: u64| Range::new(offset, len);
                let op = match request.op {
                    Op::Read { offset, len } => range(offset, len.into()).map(FrontOp::Read),
                    Op::Write { offset, data } => Some(FrontOp::Write(offset, data)),
                    Op::Flush => Some(FrontOp::Flush),
                    Op::Discard { offset, len } => range(offset, len).map(FrontOp::Discard),
                    Op::WriteZeroes { offset, len } => range(offset, len).map(FrontOp::Zero),
                };
                match op {
                    Some(op) => self.give(Event::Request { id: request.id, op }),
                    None => self.reply(request.id, Err(Errno::INVAL)),
                }
            }
            FrontEndEvent::Ready(device) => {
                let config = self.engine.config();
                let seen = match config.front_end {
                    FrontEndKind::Fuse => self.shared.options.host_device_dir.join(config.volume.as_str()),
                    FrontEndKind::Nbd => device.host_path.clone(),
                };
                tracing::info!(device = %device.host_path.display(), symlink = %device.symlink.display(), "device ready");
                self.handle.published().device = Some(device);
                self.give(Event::FrontEndStarted(Ok(seen)));
            }
            FrontEndEvent::Failed(error) => {
                self.front = None;
                self.handle.published().device = None;
                self.give(Event::FrontEndStarted(Err(chain(&error))));
            }
            FrontEndEvent::Resized(result) => {
                self.give(Event::Resized(result.map_err(|e| chain(&e))));
            }
            FrontEndEvent::StopRefused(error) => self.give(Event::FrontEndStopped(Err(chain(&error)))),
            FrontEndEvent::Stopped { problems } => {
                for text in problems {
                    tracing::warn!(volume = %self.engine.config().volume, "{text}");
                }
                self.front = None;
                self.handle.published().device = None;
                self.give(Event::FrontEndStopped(Ok(())));
            }
        }
    }

    fn reply(&self, id: u64, result: Result<bytes::Bytes, Errno>) {
        if let Some(front) = &self.front {
            front.reply(id, result);
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Store { tag, op } => {
                    self.store.queue(tag, store_op(op));
                    self.errands.store.get_or_insert_with(|| self.store.clone());
                }
                Action::Meta { tag, writes } => self.meta.submit(tag, writes),
                Action::MetaReplace { tag, len, writes } => self.meta.submit_whole(tag, len, writes),
                Action::Grow { size, meta } => self.grow(size, meta),
                Action::Resize(size) => match &self.front {
                    Some(front) => front.resize(size),
                    None => self.own.push_back(Event::Resized(Err("the device has just gone".into()))),
                },
                Action::GrowFilesystem(name) => self.grow_filesystem(name),
                Action::Send { session, frame } => {
                    let (kind, head, body) = frame.encode();
                    if let Some(session) = self.sessions.get(&session) {
                        match session.queue(RawFrame { kind, head: head.into(), body }) {
                            Ok(()) => self.errands.flush(session),
                            // Its Closed event tells the engine.
                            Err(error) => tracing::debug!(peer = %session.peer(), %error, "not sent"),
                        }
                    }
                }
                Action::Close { session, reason } => {
                    if let Some(session) = self.sessions.remove(&session) {
                        tracing::info!(peer = %session.peer(), volume = %session.volume(), %reason, "session ended");
                        // What was said before is to be heard.
                        session.flush();
                        session.close(&reason);
                    }
                }
                Action::Dial { peer, wanted } => self.dial(&peer, wanted),
                Action::Reply { id, result } => self.reply(id, result.map_err(|()| Errno::IO)),
                Action::StartFrontEnd if self.is_left() => self.start_front_end(Begin::TakeOver),
                Action::StartFrontEnd => self.start_front_end(Begin::Make),
                Action::StopFrontEnd { force } => match &self.front {
                    Some(front) => front.stop(force),
                    None if self.is_left() => self.start_front_end(Begin::Release),
                    None => self.own.push_back(Event::FrontEndStopped(Ok(()))),
                },
                Action::Probe(head) => {
                    let found = match probe(&head) {
                        Signature::Blank => None,
                        Signature::Known(name) => Some(name.to_owned()),
                        Signature::Unknown => Some("unknown".to_owned()),
                    };
                    self.give(Event::Probed(found));
                    self.publish();
                    for answer in self.looks.drain(..) {
                        let _ = answer.send(Ok(()));
                    }
                }
                Action::Keep(generation) => self.keep(generation),
                Action::Done { token, result } => {
                    self.publish();
                    if self.stopping == Some(token) && result.is_ok() {
                        self.stopped = Some(result); // Answered when everything is closed.
                    } else if let Some(answer) = self.answers.remove(&token) {
                        // Whoever asked may have given up.
                        let _ = answer.send(result);
                    }
                }
                Action::StatusChanged => {
                    self.publish();
                    self.shared.version.send_modify(|v| *v += 1);
                }
                Action::Alarm(text) => tracing::warn!(volume = %self.engine.config().volume, "{text}"),
                Action::Note(text) => tracing::info!(volume = %self.engine.config().volume, "{text}"),
            }
        }
    }

    fn publish(&self) {
        let mut status = self.engine.status();
        for peer in &mut status.peers {
            // The newest: an older one is about to end.
            let newest =
                self.sessions.iter().filter(|(_, s)| *s.peer() == peer.node).max_by_key(|(id, _)| **id);
            peer.link = newest.map(|(_, session)| session.link());
        }
        let mut published = self.handle.published();
        status.snapshots.clone_from(&published.snapshots);
        status.export = match &self.export {
            export::State::Serving(export) => Some(export.status()),
            export::State::None | export::State::Busy => None,
        };
        status.clients = self.front.as_ref().and_then(|f| f.clients()).map(|n| n as u64);
        published.status = status;
    }

    /// Copies the backing store, on a thread of its own: it may take as long as the disk needs for all of it.
    fn keep(&mut self, generation: Generation) {
        let backing = self.engine.config().backing.clone();
        let door = self.handle.door.clone();
        let made = std::thread::Builder::new().name("keep".into()).spawn(move || {
            let kept = keep::keep(&backing, generation, clock::unix_seconds()).map_err(|e| e.to_string());
            // An error means that the volume was detached meanwhile; the copy is listed when it is attached again.
            let _ = door.send(Input::Kept(kept));
        });
        if let Err(error) = made {
            self.own.push_back(Event::Kept(Err(error.to_string())));
        }
    }

    fn dial(&mut self, peer: &NodeName, wanted: bool) {
        if !wanted {
            self.dialers.remove(peer);
            return;
        }
        let config = self.engine.config();
        let Some(known) = config.peers.iter().find(|p| p.node == *peer) else { return };
        let dialer = DialerConfig {
            addresses: std::iter::once(known.address).chain(known.alternatives.iter().copied()).collect(),
            transport: config.transport,
            secret: self.shared.options.secret.clone(),
            node: self.shared.options.node.clone(),
            peer: peer.clone(),
            volume: config.volume.clone(),
            peer_timeout: Duration::from_millis(config.peer_timeout_ms),
            credentials: self.shared.credentials.clone(),
            log: self.shared.handshakes.clone(),
        };
        let door = self.handle.door.clone();
        let sink = Arc::new(move |event| {
            let _ = door.send(Input::Transport(event));
        });
        self.dialers.insert(peer.clone(), Dialer::start(dialer, sink));
    }

    /// Peers that are dialed in another way than before.
    fn redial(&self, before: &VolumeConfig) -> Vec<NodeName> {
        let now = self.engine.config();
        let at = |config: &VolumeConfig, node: &NodeName| {
            let peer = config.peers.iter().find(|p| p.node == *node)?;
            Some((peer.clone(), config.transport, config.peer_timeout_ms))
        };
        self.dialers.keys().filter(|n| at(before, n) != at(now, n)).cloned().collect()
    }

    /// An earlier process left the device.
    fn is_left(&self) -> bool {
        self.shared.options.holder.has(self.engine.config().volume.as_str())
    }

    fn start_front_end(&mut self, begin: Begin) {
        self.fronts += 1;
        let number = self.fronts;
        let door = self.handle.door.clone();
        let mut config = self.shared.front_end_config(self.engine.config(), begin);
        config.size_bytes = self.engine.exportable();
        let sink = Arc::new(move |event| {
            let _ = door.send(Input::Front(number, event));
        });
        self.front = Some((self.shared.options.front_end)(config, sink));
    }
}

fn store_op(op: CoreStoreOp) -> StoreOp {
    match op {
        CoreStoreOp::Read(range) => {
            StoreOp::Read { offset: range.start, len: u32::try_from(range.bytes()).unwrap_or(u32::MAX) }
        }
        CoreStoreOp::Digest(range, piece) => StoreOp::Digest {
            offset: range.start,
            len: u32::try_from(range.bytes()).unwrap_or(u32::MAX),
            piece: u32::try_from(piece).unwrap_or(u32::MAX),
        },
        CoreStoreOp::Write(offset, data) => StoreOp::Write { offset, data },
        CoreStoreOp::Flush => StoreOp::Flush,
        CoreStoreOp::Discard(range) => StoreOp::Discard { offset: range.start, len: range.bytes() },
        CoreStoreOp::Zero(range) => StoreOp::WriteZeroes { offset: range.start, len: range.bytes() },
    }
}

/// A store without space is told from one that is broken.
fn fault(error: &StoreError) -> Fault {
    match error.errno() {
        libc::ENOSPC | libc::EDQUOT => Fault::Full(error.to_string()),
        _ => Fault::Failed(error.to_string()),
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
