//! The primary's part of a session, second half: what is in flight, and losing the peer.
//!
//! `required` is never shrunk here: a lost member freezes acknowledgements until it is back or the agent takes
//! it out.

use super::journal::Transaction;
use super::link::ASK_AGAIN;
use super::peer::{Link, Sent};
use super::{Action, Engine, SessionId};
use crate::core::frame::Message;
use crate::core::range::Range;
use crate::types::{DiskState, Generation, Instant};
use std::time::Duration;

/// A peer that nobody waits for may be this many peer_timeouts behind (DRBD's ko-count): its queue holds up to 64 MiB, and a
/// slow line needs its time for that. Unless writes wait for the activity log, which cannot be cleaned before it answers.
const PATIENCE: u32 = 7;
/// A handshake or the end of a resync that takes longer is begun anew: a flush of a slow disk fits in.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Sends something that is numbered and must be acknowledged.
    pub(super) fn send_counted(&mut self, peer: usize, seq: u64, range: Range, copy: bool, message: Message) {
        let at = self.now;
        let p = &mut self.peers[peer];
        let Some(session) = p.session else { return };
        p.inflight.insert(seq, Sent { range, at, copy });
        p.last_sent = at;
        self.send(session, message);
    }

    pub(super) fn acked(&mut self, peer: usize, seq: u64) -> bool {
        let now = self.now;
        let p = &mut self.peers[peer];
        let Some(sent) = p.inflight.remove(&seq) else { return false };
        let took = u64::try_from(now.since(sent.at).as_micros()).unwrap_or(u64::MAX);
        p.lag_us = if p.lag_us == 0 { took } else { (p.lag_us * 7).saturating_add(took) / 8 };
        if sent.copy {
            match p.resync {
                Some(_) => self.copy_acked(peer, sent.range),
                None => self.mend_acked(peer, seq),
            }
        } else {
            p.unflushed.insert(sent.range);
            self.op_acked(peer, seq);
        }
        true
    }

    /// The resync is over, durably, on the other side.
    pub(super) fn peer_synced(&mut self, peer: usize, generation: Generation) {
        let p = &mut self.peers[peer];
        p.bitmap.clear_all();
        p.resync = None;
        p.resumed = false;
        p.disk = DiskState::UpToDate;
        p.adopted = generation;
        self.set_base(peer, generation);
        self.transact(Transaction { superblock: true, pages: true, ..Transaction::default() });
        self.set_link(peer, Link::Connected, None);
        self.progress();
    }

    /// Something that acknowledgements wait for may have come.
    pub(super) fn progress(&mut self) {
        self.check_ops();
        self.check_flushes();
    }

    pub(super) fn close(&mut self, session: SessionId, reason: &str) {
        self.out.push(Action::Close { session, reason: reason.to_owned() });
        self.session_closed(session, reason);
    }

    pub(super) fn close_all_sessions(&mut self, reason: &str) {
        let all: Vec<SessionId> = self.sessions.keys().copied().collect();
        all.into_iter().for_each(|session| self.close(session, reason));
    }

    pub(super) fn session_closed(&mut self, session: SessionId, reason: &str) {
        let Some(peer) = self.sessions.remove(&session) else { return };
        if self.peers[peer].session == Some(session) {
            self.unanswered_hello(peer);
            self.lose_peer(peer, Link::Down, reason);
        }
        if self.upstream.as_ref().is_some_and(|u| u.session == session) {
            self.lose_upstream(reason);
        }
    }

    /// The session to a peer is over. What it may lack is remembered: as dirty bits if it is not required, else
    /// as operations to be sent again and ranges it still owes.
    pub(super) fn lose_peer(&mut self, peer: usize, link: Link, reason: &str) {
        let required = self.is_required(peer);
        let by_seq = &self.by_seq;
        let p = &mut self.peers[peer];
        if required {
            p.unflushed = p.owed();
            p.flushing.clear();
            let inflight = std::mem::take(&mut p.inflight);
            for (seq, sent) in inflight {
                if !sent.copy && !by_seq.contains_key(&seq) {
                    p.bitmap.mark(sent.range); // Complete without it: it became required later.
                }
            }
        } else {
            p.write_off();
        }
        p.resync = None;
        p.settled = false;
        p.settling = None;
        p.told = (Generation(0), false);
        p.adopted = Generation(0);
        (p.asked, p.agreed) = (0, 0);
        p.disk = DiskState::DUnknown;
        let session = p.session.take();
        self.ask_elsewhere(peer);
        self.set_link(peer, link, Some(reason.to_owned()));
        if let Some(session) = session
            && self.sessions.remove(&session).is_some()
        {
            self.out.push(Action::Close { session, reason: reason.to_owned() });
        }
        self.progress();
    }

    pub(super) fn tick_links(&mut self) {
        let timeout = self.peer_timeout();
        let mut ask_again = false;
        for peer in 0..self.peers.len() {
            let p = &self.peers[peer];
            let Some(session) = p.session else {
                ask_again |= p.link == Link::StandAlone && self.now.since(p.since) >= ASK_AGAIN;
                continue;
            };
            let late = |since: Instant, limit: Duration| self.now.since(since) > limit;
            let waited_for = self.is_required(peer) || !self.is_asynchronous(peer) || self.clean_wanted;
            let patience = if waited_for { timeout } else { timeout * PATIENCE };
            let step = match p.link {
                Link::Greeting | Link::Reading | Link::Deciding | Link::Finishing => {
                    late(p.since, STEP_TIMEOUT)
                }
                Link::Down | Link::TimedOut | Link::StandAlone | Link::Syncing | Link::Connected => false,
            };
            if late(p.last_heard, timeout) {
                self.lose_peer(peer, Link::TimedOut, &format!("nothing heard for {timeout:?}"));
            } else if p.oldest().into_iter().chain(self.oldest_far_read(peer)).any(|at| late(at, patience)) {
                self.lose_peer(
                    peer,
                    Link::TimedOut,
                    &format!("it answers, but a request is older than {patience:?}"),
                );
            } else if step {
                self.lose_peer(
                    peer,
                    Link::TimedOut,
                    &format!("the handshake has taken longer than {STEP_TIMEOUT:?}"),
                );
            } else if late(p.last_sent, timeout / 4) {
                self.peers[peer].last_sent = self.now;
                self.send(session, Message::Ping);
            }
        }
        if ask_again {
            self.dial_all();
        }
    }
}
