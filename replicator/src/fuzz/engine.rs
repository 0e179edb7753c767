//! An engine and two peers that say anything in any order, a store that errs, an agent that changes its mind.
//!
//! Whatever they say the engine must not panic, and:
//! * a write is acknowledged when the local store and every required peer have it, while serve-until lasts, and by
//!   nobody who has heard of a higher epoch;
//! * a secondary answers for a write that is on its disk, for a flush that began after it was asked for one, and stores
//!   nothing of another epoch;
//! * what is no frame ends its session;
//! * commands to the store are whole blocks within the volume, and its own metadata can be opened again at any moment.

use super::bytes::Choices;
use super::metadata::{file, put, setup};
use super::peer::{BLOCK, Peer, data, value};
use crate::api::{Desired, DiscardRequest, Membership, VerifyRequest};
use crate::core::engine::{Action, Engine, Event, Fault, FrontOp, SessionId, StoreOp, Token};
use crate::core::frame::{Frame, Greeting, Message};
use crate::core::range::Range;
use crate::types::{BootId, DiskState, Epoch, EpochRelation, Instant, Member, NodeName, Role, TermId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

const SIZE: u64 = 128 << 20;
/// Longest range that one command to the store zeroes: 16 extents of the activity log.
const MOST: u64 = 64 << 20;
/// More would only be slower: what can go wrong goes wrong in few steps.
const STEPS: usize = 400;
/// More than any front end has.
const IN_FLIGHT: usize = 64;

/// Shows what happens, for whoever looks at one input.
const TRACE: bool = option_env!("BATON_FUZZ_TRACE").is_some();

fn cut(text: &str) -> String {
    text.chars().take(1500).collect::<String>().replace(", 0, 0, 0, 0", "").replace("\\0", "")
}

struct World {
    engine: Engine,
    now: Instant,
    meta: Vec<u8>,
    metas: VecDeque<(u64, Vec<(u64, Bytes)>)>,
    store: VecDeque<(u64, StoreOp, u64)>,
    events: VecDeque<Event>,
    peers: [Peer; 2],
    sessions: u64,
    /// Front end: writes by request, with their value and who has been required ever since; other requests.
    writes: BTreeMap<u64, (u64, Vec<Member>)>,
    requests: BTreeSet<u64>,
    last: u64,
    until: Instant,
    /// The epoch in which it was primary when somebody greeted it in a higher one.
    deposed: Option<Epoch>,
    stored: BTreeSet<u64>,
    /// (peer, sequence number) with the value that was sent under it; (peer, value) acknowledged.
    sent: BTreeMap<(usize, u64), u64>,
    acked: BTreeSet<(usize, u64)>,
    /// (session, sequence number) with the values that a primary sent under it; none: zeroes.
    received: BTreeMap<(SessionId, u64), Vec<Option<u64>>>,
    /// (session, flush) with the number of the store's next command when it was asked for.
    asked: BTreeMap<(SessionId, u64), u64>,
    commands: u64,
    flushed: u64,
}

/// Runs it.
pub fn run(bytes: &[u8]) {
    let mut c = Choices::new(bytes);
    let mut w = begun(&mut c);
    if c.rarely(2) {
        w.desired(&mut c, Role::Primary, 1, Vec::new());
        w.settle(&mut c);
        w.vouch(&mut c, 10_000);
    }
    let mut steps = 0;
    while !c.is_done() && steps < STEPS {
        w.step(&mut c);
        steps += 1;
    }
    w.reopens(c.byte());
}

/// A new replica, attached.
fn begun(c: &mut Choices<'_>) -> World {
    static NEW: OnceLock<Vec<u8>> = OnceLock::new();
    let meta = NEW.get_or_init(|| file(&setup(SIZE, 1))).clone();
    let now = Instant(1_000_000_000);
    let (engine, actions) = setup(SIZE, 2).attach(&meta, now).expect("a new replica's metadata");
    let mut w = World {
        engine,
        now,
        meta,
        metas: VecDeque::new(),
        store: VecDeque::new(),
        events: VecDeque::new(),
        peers: [Peer::new("beta"), Peer::new("gamma")],
        sessions: 0,
        writes: BTreeMap::new(),
        requests: BTreeSet::new(),
        last: 0,
        until: Instant::ZERO,
        deposed: None,
        stored: BTreeSet::new(),
        sent: BTreeMap::new(),
        acked: BTreeSet::new(),
        received: BTreeMap::new(),
        asked: BTreeMap::new(),
        commands: 0,
        flushed: 0,
    };
    w.carry_out(c, actions);
    w.settle(c);
    w
}

impl World {
    fn give(&mut self, c: &mut Choices<'_>, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let said = TRACE.then(|| format!("{event:?}"));
            let actions = self.engine.handle(event, self.now);
            if let Some(event) = said {
                eprintln!("{:?} {}\n    {}", self.now, cut(&event), cut(&format!("{actions:?}")));
            }
            self.carry_out(c, actions);
            if self.deposed.is_some() && self.engine.role() == Role::Secondary {
                // It was demoted. Whether it may lead this epoch once more is for the agent to know.
                self.deposed = None;
            }
        }
    }

    /// Whoever is not required any more was not required all the time.
    fn note_required(&mut self) {
        if !self.writes.is_empty() {
            let now = self.engine.status().required;
            self.writes.values_mut().for_each(|(_, required)| required.retain(|m| now.contains(m)));
        }
    }

    /// Everything on its way to the disk gets there.
    fn settle(&mut self, c: &mut Choices<'_>) {
        while !self.metas.is_empty() || !self.store.is_empty() {
            self.meta_done(c, true);
            self.store_done(c, 0, true);
        }
    }

    fn step(&mut self, c: &mut Choices<'_>) {
        let what = c.below(26);
        let k = usize::from(c.below(2));
        match what {
            0..=2 => self.store_done(c, 0, true),
            3 => {
                let (at, fine) = (usize::from(c.byte()), !c.rarely(32));
                self.store_done(c, at, fine);
            }
            4 | 5 => {
                let fine = !c.rarely(64);
                self.meta_done(c, fine);
            }
            6 => self.open(c, k, None),
            7 => {
                let epoch = self.near_epoch(c);
                self.open(c, k, Some(epoch));
            }
            8..=10 => {
                if let Some(message) = self.peers[k].owed.pop_front() {
                    self.says(c, k, message);
                }
            }
            11 => {
                // Out of order, twice, or never.
                let at = usize::from(c.byte());
                let owed = &mut self.peers[k].owed;
                if let Some(message) = owed.get(at % owed.len().max(1)).cloned() {
                    if c.rarely(2) {
                        owed.remove(at % owed.len());
                    }
                    self.says(c, k, message);
                }
            }
            12 => {
                let value = self.next();
                let message = self.peers[k].anything(c, SIZE, value);
                self.says(c, k, message);
            }
            13..=15 => {
                let value = self.next();
                let message = self.peers[k].leads_on(c, SIZE, value);
                self.says(c, k, message);
            }
            16 => self.raw(c, k),
            17 => {
                if let Some(session) = self.peers[k].session.take() {
                    self.give(c, Event::SessionClosed { session, reason: "cut".into() });
                }
            }
            18 => {
                self.now = self.now.plus(std::time::Duration::from_millis(1 << c.below(13)));
                self.give(c, Event::Tick);
            }
            19 => {
                let ms = u64::from(c.short());
                self.vouch(c, ms);
            }
            20 | 21 => self.write(c),
            22 => self.request(c),
            23 => {
                let (role, by) = (c.below(4), u64::from(c.below(2)));
                let members = c.below(4);
                let required = (0..2).filter(|i| members & 1 << i != 0).map(|i| self.member(i)).collect();
                let role = if role == 0 { Role::Secondary } else { Role::Primary };
                self.desired(c, role, by, required);
            }
            24 => {
                let token = Token(self.next());
                let request = VerifyRequest { id: u64::from(c.below(3)), repair: c.rarely(2) };
                let event =
                    if c.rarely(4) { Event::StopVerify { token } } else { Event::Verify { token, request } };
                self.give(c, event);
            }
            _ => {
                let peer = self.peers[k].node.clone();
                let event = match c.below(8) {
                    0 => Event::Stop { token: Token(self.next()), even_primary: c.rarely(2) },
                    1 => Event::Probe,
                    2 => Event::FrontEndStopped(Err("in use".into())),
                    3 => Event::Discard {
                        token: Token(self.next()),
                        request: DiscardRequest { snapshot: c.rarely(2) },
                    },
                    _ => Event::DialFailed { peer, reason: "nobody there".into() },
                };
                self.give(c, event);
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn near_epoch(&self, c: &mut Choices<'_>) -> Epoch {
        let epoch = self.engine.status().epoch;
        match c.below(8) {
            0 => Epoch { number: epoch.number.saturating_sub(1), term: TermId(1) },
            1 => Epoch { number: epoch.number, term: TermId(epoch.term.0 ^ 1) },
            2 => epoch,
            3 => Epoch { number: u64::MAX, term: TermId(9) },
            _ => Epoch { number: epoch.number.saturating_add(1), term: TermId(3) },
        }
    }

    fn member(&self, k: usize) -> Member {
        let node = self.peers[k].node.clone();
        let boot = self.engine.status().peers.iter().find(|p| p.node == node).and_then(|p| p.boot);
        Member { node, boot: boot.unwrap_or(BootId(7)) }
    }

    fn desired(&mut self, c: &mut Choices<'_>, role: Role, by: u64, required: Vec<Member>) {
        let now = self.engine.status().epoch;
        let term = if by == 0 { now.term } else { TermId(2) };
        let epoch = Epoch { number: now.number.saturating_add(by), term };
        let required = if role == Role::Primary { required } else { Vec::new() };
        let (force, membership) = (c.rarely(4), Membership::Untold);
        let accept_data_loss = true;
        let desired = Desired { epoch, role, required, accept_data_loss, force, order: 0, membership };
        let token = Token(self.next());
        self.give(c, Event::Desired { token, desired });
        self.note_required();
    }

    fn vouch(&mut self, c: &mut Choices<'_>, ms: u64) {
        let until = self.now.plus(std::time::Duration::from_millis(ms));
        self.until = self.until.max(until);
        self.give(c, Event::ServeUntil { epoch: self.engine.status().epoch, until });
    }

    fn open(&mut self, c: &mut Choices<'_>, k: usize, leads: Option<Epoch>) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let peer = self.peers[k].node.clone();
        self.peers[k].begin(c, session, leads);
        self.give(c, Event::SessionOpened { session, peer });
        if leads.is_some() {
            let greeting = self.peers[k].greeting(c, SIZE);
            self.says(c, k, Message::Hello(greeting));
        }
    }

    /// The peer says it, in its own epoch or the engine's, rarely another.
    fn says(&mut self, c: &mut Choices<'_>, k: usize, message: Message) {
        let Some(session) = self.peers[k].session else { return };
        let before = self.engine.status();
        let own = self.peers[k].leads.unwrap_or(before.epoch);
        let epoch = if c.rarely(32) { self.near_epoch(c) } else { own };
        match &message {
            Message::Ack(seq) => {
                if let Some(value) = self.sent.get(&(k, *seq)) {
                    self.acked.insert((k, *value));
                }
            }
            Message::Write { seq, data, .. } | Message::Copy { seq, data, .. } => {
                self.received.entry((session, *seq)).or_default().push(Some(value(data)));
            }
            Message::Zero { seq, .. } | Message::CopyZero { seq, .. } => {
                self.received.entry((session, *seq)).or_default().push(None);
            }
            Message::Flush(id) => {
                self.asked.entry((session, *id)).or_insert(self.commands);
            }
            Message::Hello(g)
                if before.role == Role::Primary
                    && self.is_meant(k, g)
                    && before.epoch.relation(epoch) == EpochRelation::Newer =>
            {
                self.deposed = Some(before.epoch);
            }
            _ => {}
        }
        let commands = self.commands;
        let stores = matches!(message, Message::Write { .. } | Message::Copy { .. } | Message::Zero { .. });
        self.give(c, Event::Frame { session, frame: Frame { epoch, message } });
        let foreign = before.epoch.relation(epoch) != EpochRelation::Same;
        assert!(!(stores && foreign && self.commands > commands), "stored a write of epoch {epoch}");
    }

    /// A greeting for somebody else, or of another volume, is nonsense whatever its epoch.
    fn is_meant(&self, k: usize, greeting: &Greeting) -> bool {
        let config = self.engine.config();
        greeting.from == self.peers[k].node
            && greeting.to.as_str() == "alpha"
            && greeting.volume == config.volume
    }

    /// What the transport gives, whatever it is.
    fn raw(&mut self, c: &mut Choices<'_>, k: usize) {
        let Some(session) = self.peers[k].session else { return };
        let (kind, len) = (u16::from(c.below(40)), usize::from(c.byte()));
        let head = c.take(len);
        match Frame::decode(kind, head, Bytes::new()) {
            Ok(Frame { message, .. }) => self.says(c, k, message),
            Err(bad) => {
                self.give(c, Event::Nonsense { session, reason: bad.to_string() });
                assert_eq!(self.peers[k].session, None, "nonsense ends a session");
            }
        }
    }

    fn write(&mut self, c: &mut Choices<'_>) {
        if self.writes.len() + self.requests.len() >= IN_FLIGHT {
            return;
        }
        let (id, value) = (self.next(), self.next());
        let offset = u64::from(c.short()) % (SIZE / BLOCK - 1) * BLOCK;
        let data = data(value, 1 + u64::from(c.below(2)));
        self.writes.insert(id, (value, self.engine.status().required));
        self.give(c, Event::Request { id, op: FrontOp::Write(offset, data) });
    }

    fn request(&mut self, c: &mut Choices<'_>) {
        if self.writes.len() + self.requests.len() >= IN_FLIGHT {
            return;
        }
        let start = u64::from(c.short()) % (SIZE / BLOCK) * BLOCK;
        let range = Range { start, end: (start + BLOCK * (1 + u64::from(c.byte()))).min(SIZE) };
        let op = match c.below(4) {
            0 => FrontOp::Read(range),
            1 => FrontOp::Discard(range),
            2 => FrontOp::Zero(range),
            _ => FrontOp::Flush,
        };
        let id = self.next();
        self.requests.insert(id);
        self.give(c, Event::Request { id, op });
    }

    fn store_done(&mut self, c: &mut Choices<'_>, at: usize, fine: bool) {
        if self.store.is_empty() {
            return;
        }
        let Some((tag, op, number)) = self.store.remove(at % self.store.len()) else { return };
        let result = match (&op, fine) {
            (_, false) => Err(Fault::Failed("input/output error".into())),
            (StoreOp::Read(range), true) => Ok(Bytes::from(vec![0; range.bytes() as usize])),
            (StoreOp::Digest(range, piece), true) => {
                Ok(Bytes::from(vec![0; range.bytes().div_ceil((*piece).max(1)) as usize * 32]))
            }
            (StoreOp::Write(_, data), true) => {
                self.stored.insert(value(data));
                Ok(Bytes::new())
            }
            (StoreOp::Flush, true) => {
                self.flushed = self.flushed.max(number);
                Ok(Bytes::new())
            }
            (StoreOp::Discard(_) | StoreOp::Zero(_), true) => Ok(Bytes::new()),
        };
        self.give(c, Event::StoreDone { tag, result });
        self.note_required();
    }

    fn meta_done(&mut self, c: &mut Choices<'_>, fine: bool) {
        let Some((tag, writes)) = self.metas.pop_front() else { return };
        if fine {
            writes.iter().for_each(|(at, bytes)| put(&mut self.meta, *at, bytes));
        }
        let result = if fine { Ok(()) } else { Err("input/output error".into()) };
        self.give(c, Event::MetaDone { tag, result });
        self.note_required();
    }

    fn carry_out(&mut self, c: &mut Choices<'_>, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Store { tag, op } => {
                    let range = match &op {
                        StoreOp::Read(r) | StoreOp::Discard(r) | StoreOp::Zero(r) | StoreOp::Digest(r, _) => {
                            *r
                        }
                        StoreOp::Write(at, data) => Range { start: *at, end: at + data.len() as u64 },
                        StoreOp::Flush => Range { start: 0, end: BLOCK },
                    };
                    let whole = range.start.is_multiple_of(BLOCK) && range.end.is_multiple_of(BLOCK);
                    assert!(whole && range.start < range.end && range.end <= SIZE, "{op:?}");
                    assert!(range.bytes() <= MOST, "{op:?}");
                    self.commands += 1;
                    self.store.push_back((tag, op, self.commands));
                }
                Action::Meta { tag, writes } => self.metas.push_back((tag, writes)),
                Action::Send { session, frame } => self.sent(c, session, &frame.message),
                Action::Close { session, .. } => {
                    for peer in self.peers.iter_mut().filter(|p| p.session == Some(session)) {
                        peer.session = None;
                    }
                    self.events.push_back(Event::SessionClosed { session, reason: "closed".into() });
                }
                Action::Reply { id, result } => self.replied(id, result.is_ok()),
                Action::StartFrontEnd => {
                    self.events.push_back(Event::FrontEndStarted(Ok("/dev/loop7".into())));
                }
                Action::StopFrontEnd { .. } => self.events.push_back(Event::FrontEndStopped(Ok(()))),
                Action::Probe(_) => self.events.push_back(Event::Probed(None)),
                Action::Keep(_) => self.events.push_back(Event::Kept(Ok("a copy".into()))),
                _ => {}
            }
        }
    }

    fn sent(&mut self, c: &mut Choices<'_>, session: SessionId, message: &Message) {
        match message {
            Message::Ack(seq) => {
                let all = self.received.get(&(session, *seq)).expect("an answer to nothing");
                let there = |v: &Option<u64>| v.is_none_or(|v| self.stored.contains(&v));
                assert!(all.iter().any(there), "answered for a write that is not on the disk");
            }
            Message::FlushAck(id) => {
                let asked = self.asked.get(&(session, *id)).expect("an answer to nothing");
                assert!(self.flushed > *asked, "answered for a flush that was not made");
            }
            _ => {}
        }
        for k in 0..2 {
            if self.peers[k].session == Some(session) {
                if let Message::Write { seq, data, .. } | Message::Copy { seq, data, .. } = message {
                    self.sent.insert((k, *seq), value(data));
                }
                self.peers[k].hears(c, message, SIZE);
            }
        }
    }

    fn replied(&mut self, id: u64, fine: bool) {
        let Some((value, required)) = self.writes.remove(&id) else {
            assert!(self.requests.remove(&id), "request {id} was answered twice");
            return;
        };
        if !fine {
            return;
        }
        let status = self.engine.status();
        let has =
            |node: &NodeName| (0..2).any(|k| self.peers[k].node == *node && self.acked.contains(&(k, value)));
        let here = self.stored.contains(&value);
        let elsewhere = status.disk == DiskState::Diskless && status.required.iter().any(|m| has(&m.node));
        assert!(here || elsewhere, "acknowledged and nowhere");
        // One that is required only since may lack it: it is not admitted before it has flushed it.
        for member in required.iter().filter(|m| status.required.contains(m)) {
            assert!(has(&member.node), "acknowledged without {}", member.node);
        }
        assert!(self.now < self.until, "acknowledged past serve-until");
        assert_ne!(Some(status.epoch), self.deposed, "acknowledged although it had heard of a higher epoch");
    }

    /// The process dies now, with an update of the metadata half done: what is there can be opened.
    fn reopens(&mut self, torn: u8) {
        if let Some((_, writes)) = self.metas.pop_front() {
            for (i, (at, bytes)) in writes.iter().enumerate() {
                if torn & 1 << (i % 8) != 0 {
                    put(&mut self.meta, *at, bytes);
                }
            }
        }
        if let Err(error) = setup(SIZE, 3).attach(&self.meta, self.now) {
            panic!("its own metadata is refused: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_that_is_longer_than_any_primary_sends_ends_its_session() {
        for (bytes, fits) in [(MOST, true), (MOST + BLOCK, false)] {
            let c = &mut Choices::new(&[]);
            let mut w = begun(c);
            w.open(c, 0, Some(Epoch { number: 1, term: TermId(1) }));
            w.settle(c);
            // Copy everything; the replica is ready for it.
            let decision = w.peers[0].owed.pop_front().expect("a decision");
            w.says(c, 0, decision);
            w.settle(c);
            let range = Range { start: 0, end: bytes };
            w.says(c, 0, Message::Zero { seq: 1, range, discard: true, durable: 0 });
            w.settle(c);
            assert_eq!(w.peers[0].session.is_some(), fits, "{bytes}");
            assert_eq!(w.commands > 0, fits, "{bytes}");
        }
    }
}
