//! Online verify: a primary compares its blocks with those of every connected peer, digests only.
//!
//! ```text
//! chunk ─ locked, both sides read ─► equal ─────────────────────────────────────────────────► checked
//!                                └─► different ─ locked, both read again, by block ─► equal ─► checked (unconfirmed)
//!                                                                                └─► marked ─► (mend) ─► checked
//! ```
//! There are no false alarms by construction: the question for a range is sent while the range is locked here, after
//! everything older that overlaps and before everything younger, and the peer reads in that order too. Both sides see
//! the same moment of the range, however busy it is; a write waits for one local read of 128 KiB at most. What differs
//! is looked at again all the same, since memory and disks err too.
//!
//! What differs is marked in the peer's dirty bitmap and counted. The peer stays what it was (see
//! `docs/decisions/0008-verify-marks.md`); a resync copies what is marked, and so does a verify that repairs.
//!
//! A peer that is lost is waited for; the comparison goes on where it was. If the primary dies, the run is gone and
//! the marks are in the metadata; the next primary's agent begins anew.

use super::io::{Origin, Work};
use super::journal::Transaction;
use super::mend::Mend;
use super::peer::Link;
use super::{Action, Engine, SessionId, Token};
use crate::api::{Mismatch, VerifyRequest, VerifyState, VerifyStatus};
use crate::core::digest::DIGEST_BYTES;
use crate::core::frame::{Message, PROTOCOL_VERIFY};
use crate::core::meta::BLOCK_BYTES;
use crate::core::range::Range;
use crate::types::{Instant, NodeName, Role};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Chunks under way per peer: 1 MiB keeps two disks busy.
const WINDOW: usize = 8;
/// The same while the application is active.
const BUSY_WINDOW: usize = 2;
/// A peer that is away for longer is given up: a reboot fits in.
const AWAY_LIMIT: Duration = Duration::from_secs(600);
/// An answer that takes longer will not come: a peer's disk that hangs is given up by itself earlier.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Ranges that are named in the status.
const NAMED: usize = 16;

/// A verify, running or ended.
#[derive(Clone, Debug)]
pub(super) struct Verify {
    /// Tells its reads from those of a run before.
    run: u64,
    request: VerifyRequest,
    started: Instant,
    ended: Option<(Instant, VerifyState, Option<String>)>,
    peers: BTreeMap<usize, Comparison>,
    named: Vec<(NodeName, Range)>,
    /// Marks that are only in memory.
    unsaved: bool,
}

/// One peer's part.
#[derive(Clone, Debug)]
struct Comparison {
    /// Its slot may be given to another node meanwhile.
    node: NodeName,
    /// The questions belong to this session.
    session: Option<SessionId>,
    away_since: Option<Instant>,
    cursor: u64,
    /// Asked in an earlier session and not answered.
    again: VecDeque<Range>,
    asks: BTreeMap<u64, Ask>,
    checked: u64,
    mismatched: u64,
    unconfirmed: u64,
    mend: Mend,
}

/// A question and what is known of its answer.
#[derive(Clone, Debug)]
struct Ask {
    range: Range,
    by_block: bool,
    since: Instant,
    here: Option<Bytes>,
    there: Option<Bytes>,
}

impl Verify {
    fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    fn state(&self) -> VerifyState {
        match &self.ended {
            Some((_, state, _)) => *state,
            None if self.peers.values().all(|c| c.away_since.is_some()) => VerifyState::Waiting,
            None => VerifyState::Running,
        }
    }

    /// What an agent reacts to.
    pub fn digest(&self) -> (u64, u8, u64) {
        (self.request.id, self.state() as u8, self.peers.values().map(|c| c.mismatched).sum())
    }
}

impl Engine {
    pub(super) fn is_verifying(&self) -> bool {
        self.verify.as_ref().is_some_and(Verify::is_running)
    }

    /// The run under way.
    pub(super) fn verify_run(&self) -> Option<u64> {
        self.verify.as_ref().filter(|v| v.is_running()).map(|v| v.run)
    }

    /// Begins a run.
    pub(super) fn verify(&mut self, token: Token, request: VerifyRequest) {
        if let Some(known) = &self.verify {
            if known.request.id == request.id {
                return self.done(token, Ok(()));
            }
            if known.is_running() {
                let detail = "a verify of this volume is running; stop it first".into();
                return self.refuse(token, "verify-running", "Verify is running", detail);
            }
        }
        if !self.has_disk() {
            let detail = "its disk failed: there is nothing to compare with".into();
            return self.refuse(token, "disk-failed", "Disk failed", detail);
        }
        if self.role != Role::Primary || self.transition.is_some() || self.stopping {
            let detail = "only the primary verifies, and not while it changes its role".into();
            return self.refuse(token, "not-primary", "Not primary", detail);
        }
        let able = |i: &usize| self.can_compare(*i);
        let peers: Vec<usize> = (0..self.peers.len()).filter(able).collect();
        if peers.is_empty() {
            let detail = self.why_none();
            return self.refuse(token, "no-peer", "No peer to compare with", detail);
        }
        let repair = request.repair;
        let compare = |i: usize| {
            let comparison = Comparison {
                node: self.peers[i].node.clone(),
                session: None,
                away_since: None,
                cursor: 0,
                again: VecDeque::new(),
                asks: BTreeMap::new(),
                checked: 0,
                mismatched: 0,
                unconfirmed: 0,
                mend: Mend::new(repair),
            };
            (i, comparison)
        };
        let peers = peers.into_iter().map(compare).collect();
        self.verify = Some(Verify {
            run: self.next_id(),
            request,
            started: self.now,
            ended: None,
            peers,
            named: Vec::new(),
            unsaved: false,
        });
        self.out.push(Action::Note("verify begins".into()));
        self.done(token, Ok(()));
    }

    /// Ends a run.
    pub(super) fn stop_verify(&mut self, token: Token) {
        self.end_verify(VerifyState::Stopped, Some("by command".into()));
        self.done(token, Ok(()));
    }

    /// Connected, and of a version that knows the question.
    fn can_compare(&self, peer: usize) -> bool {
        self.peers[peer].link == Link::Connected && self.peers[peer].protocol >= PROTOCOL_VERIFY
    }

    fn why_none(&self) -> String {
        let why = |p: &super::peer::Peer| match p.link {
            Link::Connected => format!(
                "{}'s replicator speaks version {} of the protocol, verify needs {PROTOCOL_VERIFY}: upgrade it",
                p.node, p.protocol
            ),
            Link::Down
            | Link::TimedOut
            | Link::StandAlone
            | Link::Greeting
            | Link::Reading
            | Link::Deciding
            | Link::Syncing
            | Link::Finishing => format!("{} is not connected and in sync", p.node),
        };
        let all: Vec<String> = self.peers.iter().map(why).collect();
        if all.is_empty() { "the volume has no peers".into() } else { all.join("; ") }
    }

    /// It is no peer of this volume any more: nothing waits for it.
    pub(super) fn leave_verify(&mut self, peer: usize) {
        let Some(v) = self.verify.as_mut().filter(|v| v.is_running()) else { return };
        let Some(gone) = v.peers.remove(&peer) else { return };
        if v.peers.is_empty() {
            // It was compared in part; status goes on saying with whom.
            let reason = format!("{} is no peer of this volume any more", gone.node);
            v.peers.insert(peer, gone);
            self.end_verify(VerifyState::Aborted, Some(reason));
        }
    }

    fn end_verify(&mut self, state: VerifyState, reason: Option<String>) {
        let Some(v) = self.verify.as_mut().filter(|v| v.is_running()) else { return };
        v.ended = Some((self.now, state, reason.clone()));
        v.peers.values_mut().for_each(|c| c.asks.clear());
        let sum = |of: fn(&Comparison) -> u64| v.peers.values().map(of).sum::<u64>();
        let (checked, differ, mended) = (sum(|c| c.checked), sum(|c| c.mismatched), sum(|c| c.mend.repaired));
        let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
        let ended = format!("{state:?}").to_lowercase();
        let text = format!(
            "verify {ended}{reason}: {checked} bytes compared, {differ} differed, {mended} repaired, in {:?}",
            self.now.since(v.started)
        );
        self.out.push(Action::Note(text));
        self.save_marks();
    }

    /// Goes on with every peer that is connected.
    pub(super) fn pump_verify(&mut self) {
        if !self.is_verifying() {
            return;
        }
        if self.role != Role::Primary || self.deposed.is_some() || self.stopping {
            return self
                .end_verify(VerifyState::Aborted, Some("this node is not the primary any more".into()));
        }
        if !self.has_disk() {
            return self.end_verify(VerifyState::Aborted, Some("the disk failed".into()));
        }
        let Some(mut v) = self.verify.take() else { return };
        for (peer, c) in &mut v.peers {
            if self.can_compare(*peer) && self.peers[*peer].node == c.node {
                self.go_on(v.run, *peer, c);
            } else if c.away_since.is_none() {
                c.away_since = Some(self.now);
            }
        }
        let size = self.superblock.offered;
        let complete =
            |c: &Comparison| c.cursor >= size && c.again.is_empty() && c.asks.is_empty() && c.mend.is_idle();
        let done = v.peers.values().all(complete);
        self.verify = Some(v);
        if done {
            self.end_verify(VerifyState::Done, None);
        }
    }

    fn go_on(&mut self, run: u64, peer: usize, c: &mut Comparison) {
        let Some(session) = self.peers[peer].session else { return };
        if c.session != Some(session) {
            if c.session.is_some() {
                // The handshake's resync has copied everything that was marked.
                c.again.extend(std::mem::take(&mut c.asks).into_values().map(|ask| ask.range));
                c.mend.begin_anew(c.mismatched);
            }
            c.session = Some(session);
        }
        c.away_since = None;
        self.pump_mend(run, peer, session, &mut c.mend);
        if !c.mend.has_room() {
            return;
        }
        let (now, limits, size) = (self.now, self.limits(), self.superblock.offered);
        let (chunk, window) = (self.verify_chunk, if self.is_busy() { BUSY_WINDOW } else { WINDOW });
        while c.asks.len() < window {
            let next = c
                .again
                .front()
                .copied()
                .or_else(|| Range::new(c.cursor, chunk.min(size.saturating_sub(c.cursor))));
            let Some(range) = next.filter(|r| self.pace.grant(now, &limits, r.bytes())) else { break };
            if c.again.pop_front().is_none() {
                c.cursor = range.end;
            }
            self.look(peer, session, c, range, false);
        }
    }

    fn look(&mut self, peer: usize, session: SessionId, c: &mut Comparison, range: Range, by_block: bool) {
        let id = self.enqueue(range, Work::Digest { by_block }, Origin::Verify { peer, session });
        c.asks.insert(id, Ask { range, by_block, since: self.now, here: None, there: None });
    }

    /// The range is locked: ask the peer.
    pub(super) fn ask_digest(
        &mut self,
        peer: usize,
        session: SessionId,
        id: u64,
        range: Range,
        by_block: bool,
    ) {
        if self.peers[peer].session == Some(session) {
            self.send(session, Message::Digest { id, range, by_block });
        }
    }

    /// The local answer.
    pub(super) fn digest_here(&mut self, peer: usize, id: u64, digests: Bytes) {
        if self.compared_here(peer, id, &digests) {
            return;
        }
        if let Some(ask) = self.ask(peer, id) {
            ask.here = Some(digests);
        }
        self.judge(peer, id);
    }

    /// The peer's answer. False if it makes no sense; one to a run that has ended does.
    pub(super) fn digest_there(&mut self, peer: usize, id: u64, digests: Bytes) -> bool {
        let Some(ask) = self.ask(peer, id) else { return true };
        let count = if ask.by_block { ask.range.bytes() / BLOCK_BYTES } else { 1 };
        if ask.there.is_some() || digests.len() as u64 != count * DIGEST_BYTES as u64 {
            return false;
        }
        ask.there = Some(digests);
        self.judge(peer, id);
        true
    }

    fn ask(&mut self, peer: usize, id: u64) -> Option<&mut Ask> {
        self.verify.as_mut()?.peers.get_mut(&peer)?.asks.get_mut(&id)
    }

    /// Both answers are there: equal, to be looked at again, or different.
    fn judge(&mut self, peer: usize, id: u64) {
        let Some(mut v) = self.verify.take() else { return };
        if let Some(c) = v.peers.get_mut(&peer)
            && c.asks.get(&id).is_some_and(|ask| ask.here.is_some() && ask.there.is_some())
            && let Some(Ask { range, by_block, here: Some(here), there: Some(there), .. }) =
                c.asks.remove(&id)
        {
            let differ = differing(range, by_block, &here, &there);
            if differ.is_empty() {
                c.checked += range.bytes();
                c.unconfirmed += u64::from(by_block);
            } else if let (false, Some(session)) = (by_block, c.session) {
                self.look(peer, session, c, range, true);
            } else {
                c.checked += range.bytes();
                for run in differ {
                    c.mismatched += run.bytes();
                    self.peers[peer].bitmap.mark(run);
                    c.mend.found(run);
                    if v.named.len() < NAMED {
                        v.named.push((c.node.clone(), run));
                    }
                    let (node, bytes) = (&self.peers[peer].node, run.bytes());
                    let text = format!("verify: {bytes} bytes at {} differ from {node}'s", run.start);
                    self.out.push(Action::Note(text));
                }
                v.unsaved = true;
            }
        }
        self.verify = Some(v);
    }

    pub(super) fn tick_verify(&mut self) {
        self.save_marks();
        let Some(v) = self.verify.as_ref().filter(|v| v.is_running()) else { return };
        let late = |since: Instant, limit| self.now.since(since) > limit;
        let mut lost = None;
        for c in v.peers.values() {
            let node = &c.node;
            if c.away_since.is_some_and(|since| late(since, AWAY_LIMIT)) {
                lost = Some(format!("{node} has been away for more than {} min", AWAY_LIMIT.as_secs() / 60));
            } else if c.away_since.is_none() && c.asks.values().any(|ask| late(ask.since, ANSWER_LIMIT)) {
                lost = Some(format!("{node} did not answer within {} s", ANSWER_LIMIT.as_secs()));
            }
        }
        if let Some(reason) = lost {
            self.end_verify(VerifyState::Aborted, Some(reason));
        }
    }

    /// At most one transaction per tick for the marks of a replica that differs everywhere.
    fn save_marks(&mut self) {
        if let Some(v) = self.verify.as_mut()
            && std::mem::take(&mut v.unsaved)
        {
            self.transact(Transaction { pages: true, ..Transaction::default() });
        }
    }

    /// What the run with this peer repairs.
    pub(super) fn mend_of(&mut self, peer: usize) -> Option<&mut Mend> {
        self.verify.as_mut()?.peers.get_mut(&peer).map(|c| &mut c.mend)
    }

    /// For status.
    pub(super) fn verify_status(&self) -> Option<VerifyStatus> {
        let v = self.verify.as_ref()?;
        let sum = |of: fn(&Comparison) -> u64| v.peers.values().map(of).sum::<u64>();
        let state = v.state();
        let end = v.ended.as_ref().map_or(self.now, |(at, ..)| *at);
        let took = end.since(v.started);
        let (total, checked) = (self.superblock.offered * v.peers.len() as u64, sum(|c| c.checked));
        let millis = took.as_millis().max(1);
        let bytes_per_s = u64::try_from(u128::from(checked) * 1000 / millis).unwrap_or(u64::MAX);
        let away = || {
            let waiting = v.peers.values().filter(|c| c.away_since.is_some());
            let names: Vec<&str> = waiting.map(|c| c.node.as_str()).collect();
            (!names.is_empty()).then(|| format!("waiting for {}", names.join(", ")))
        };
        Some(VerifyStatus {
            id: v.request.id,
            repair: v.request.repair,
            state,
            reason: v.ended.as_ref().map_or_else(away, |(_, _, reason)| reason.clone()),
            peers: v.peers.values().map(|c| c.node.clone()).collect(),
            total_bytes: total,
            checked_bytes: checked,
            mismatched_bytes: sum(|c| c.mismatched),
            repaired_bytes: sum(|c| c.mend.repaired),
            unconfirmed: sum(|c| c.unconfirmed),
            mismatches: v
                .named
                .iter()
                .map(|(peer, run)| Mismatch { peer: peer.clone(), offset: run.start, len: run.bytes() })
                .collect(),
            bytes_per_s,
            eta_s: if state.is_running() { (total - checked).checked_div(bytes_per_s) } else { None },
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            by: None,
            asked_at: None,
            ended_at: None,
        })
    }
}

/// The runs whose digests differ.
pub(super) fn differing(range: Range, by_block: bool, here: &[u8], there: &[u8]) -> Vec<Range> {
    if !by_block {
        return if here == there { Vec::new() } else { vec![range] };
    }
    let mut runs: Vec<Range> = Vec::new();
    let pairs = here.chunks(DIGEST_BYTES).zip(there.chunks(DIGEST_BYTES));
    for (block, _) in range.blocks().zip(pairs).filter(|(_, (a, b))| a != b) {
        let start = block * BLOCK_BYTES;
        let end = start + BLOCK_BYTES;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(Range { start, end }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_differ_become_runs() {
        let range = Range { start: 8 * BLOCK_BYTES, end: 13 * BLOCK_BYTES };
        let here = vec![0u8; 5 * DIGEST_BYTES];
        let mut there = here.clone();
        for block in [1, 2, 4] {
            there[block * DIGEST_BYTES + 31] = 1;
        }
        let runs = differing(range, true, &here, &there);
        let blocks = |a, b| Range { start: a * BLOCK_BYTES, end: b * BLOCK_BYTES };
        assert_eq!(runs, [blocks(9, 11), blocks(12, 13)]);
        assert!(differing(range, true, &here, &here).is_empty());
        assert_eq!(differing(range, false, &here[..32], &there[32..64]), [range]);
    }
}
