//! Between "is to be told" and "goes out": messages of one moment go together, and a bad night does not fill a mailbox.
//! Pure.
//!
//! Up to [`SINGLY`] messages of one moment go out one by one, more as one digest. Of the messages an hour may have, the
//! first half goes out as it comes; the second half is spaced evenly over the hour, so that in the worst storm something
//! critical waits for minutes, never for the rest of the hour.

use super::message::{Kind, Message};
use crate::spec::Severity;
use baton_replicator::types::{Instant, NodeName};
use std::collections::VecDeque;
use std::time::Duration;

/// What belongs together happens within two seconds: a takeover, the host that was lost.
const COLLECT: Duration = Duration::from_secs(2);
/// As many mails of one moment are still read one by one.
const SINGLY: usize = 3;
/// Messages in one digest; the least severe of more are only counted.
const MOST: usize = 100;
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(super) struct Outbox {
    max_per_hour: usize,
    waiting: Vec<Message>,
    since: Option<Instant>,
    dropped: u32,
    /// When messages went out in the last hour.
    sent: VecDeque<Instant>,
}

impl Outbox {
    pub(super) fn new(max_per_hour: u32) -> Self {
        let max_per_hour = usize::try_from(max_per_hour.max(1)).unwrap_or(usize::MAX);
        Self { max_per_hour, waiting: Vec::new(), since: None, dropped: 0, sent: VecDeque::new() }
    }

    pub(super) fn push(&mut self, mut message: Message, now: Instant) {
        // An end that meets its begin here makes one message of both.
        if message.kind == Kind::End {
            let before = self.waiting.len();
            self.waiting.retain(|m| m.incident != message.incident);
            if self.waiting.len() < before {
                message.notes.push("Its begin was not told before: too much was happening at once".into());
                message.sequence = 0;
            }
        }
        if self.waiting.len() >= MOST
            && let Some(least) =
                self.waiting.iter().enumerate().min_by_key(|(_, m)| m.severity).map(|(i, _)| i)
        {
            self.waiting.remove(least);
            self.dropped += 1;
        }
        self.waiting.push(message);
        self.since.get_or_insert(now);
    }

    pub(super) fn withdraw(&mut self, which: impl Fn(&Message) -> bool) {
        self.waiting.retain(|m| !which(m));
    }

    pub(super) fn waiting(&self) -> &[Message] {
        &self.waiting
    }

    /// What goes out now.
    pub(super) fn due(&mut self, now: Instant, at: &str, cluster: &str, me: &NodeName) -> Vec<Message> {
        while self.sent.front().is_some_and(|t| now.since(*t) >= HOUR) {
            self.sent.pop_front();
        }
        if self.since.is_none_or(|since| now.since(since) < COLLECT) {
            return Vec::new();
        }
        let first_half = self.max_per_hour / 2;
        let room = if self.sent.len() < first_half {
            first_half - self.sent.len()
        } else {
            let second_half = u32::try_from(self.max_per_hour - first_half).unwrap_or(u32::MAX);
            let spaced = self.sent.back().is_none_or(|last| now.since(*last) >= HOUR / second_half);
            usize::from(spaced && self.sent.len() < self.max_per_hour)
        };
        if room == 0 {
            return Vec::new();
        }
        self.since = None;
        let mut all = std::mem::take(&mut self.waiting);
        let dropped = std::mem::take(&mut self.dropped);
        if all.len() > SINGLY.min(room) || dropped > 0 {
            all = vec![digest(all, dropped, at, cluster, me)];
        }
        self.sent.extend(all.iter().map(|_| now));
        all
    }
}

/// The worst of them gives the digest its title.
fn digest(parts: Vec<Message>, dropped: u32, at: &str, cluster: &str, me: &NodeName) -> Message {
    let worst = parts.iter().rev().max_by_key(|m| (m.severity, m.kind != Kind::End));
    let severity = worst.map_or(Severity::Info, |m| m.severity);
    let title = worst.map_or_else(String::new, |m| m.title.clone());
    let more = parts.len().saturating_sub(1) + usize::try_from(dropped).unwrap_or(0);
    let mut groups: Vec<_> = parts.iter().map(|m| m.group.clone()).collect();
    groups.dedup();
    let first = parts.first().map_or_else(|| at.to_owned(), |m| m.at.clone());
    let mut notes = Vec::new();
    if dropped > 0 {
        notes.push(format!("{dropped} more, none of them worse, are only counted"));
    }
    Message {
        cluster: cluster.to_owned(),
        node: me.clone(),
        group: if groups.len() == 1 { groups.pop().flatten() } else { None },
        severity,
        kind: Kind::Digest,
        key: "digest".into(),
        incident: format!("digest@{me}@{first}@{}", parts.len()),
        sequence: 0,
        at: at.to_owned(),
        title: format!("{title} (and {more} more)"),
        lasted_ms: None,
        facts: Vec::new(),
        done: Vec::new(),
        advice: Vec::new(),
        notes,
        parts,
    }
}
