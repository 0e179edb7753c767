//! What one target is told, and when: hold-down, claims, reminders, recoveries, digests. Pure.
//!
//! One core per target and agent; all agents' cores see the same states and agree through one key per told state in
//! etcd. Per state:
//!
//! ```text
//!           lasts for hold         etcd: mine, or nobody answers
//! Pending ───────────────► Asking ───────────────────────────────► Told ◄────────────┐
//!    │ gone                  │ etcd: somebody else's                 │ gone      back │
//!    ▼                       └──────────────────────────────────►    ▼                │
//!  (forgotten)                                                     Ending ────────────┘
//!                  (forgotten) ◄── Releasing ◄── over for hold ──────┘
//! ```
//!
//! The agent that concerns it most goes first: a group's leader, else the first living node by name. The others follow
//! one after another, [`GRACE`] apart, and find the key there if the first one did its part. Without etcd only the first
//! one tells, and says that another may have done so, too. What an answer of etcd would let out ([`Core::intents`]) is on
//! disk before etcd is asked: an agent that dies in between tells it when it is back.

use super::conditions::Condition;
use super::message::{Kind, Message, between, spoken};
use super::news::News;
use super::outbox::Outbox;
use super::what::What;
use crate::spec::Severity;
use crate::status::ClusterStatus;
use baton_replicator::types::{GroupName, Instant, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between one agent's turn and the next one's: several rounds of etcd's slowest answers and of [`super::task`]'s reads.
pub const GRACE: Duration = Duration::from_secs(15);
/// After an agent's start states are only watched: peers are heard and volumes attached within seconds.
const SETTLE: Duration = Duration::from_secs(5);
/// News that could not be told for so long by a node whose turn it was not are old.
const STALE: Duration = Duration::from_secs(600);
/// News that wait for their turn; the oldest is dropped.
const NEWS: usize = 200;

/// What the core has to know about its target.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub cluster: String,
    /// This node.
    pub me: NodeName,
    /// Groups that the target hears about.
    pub groups: BTreeSet<GroupName>,
    /// And what concerns the cluster as a whole.
    pub whole: bool,
    /// What is less severe is not told.
    pub severity: Severity,
    /// See [`crate::spec::NotifyTarget::alert_every`].
    pub alert_every: Option<Duration>,
    /// Tell the end of what was told.
    pub recovery: bool,
    /// Hold-down in both directions.
    pub hold: Duration,
    /// Limit of messages.
    pub max_per_hour: u32,
}

/// The key of a told state in etcd holds this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The state.
    pub what: What,
    /// Who told it.
    pub node: NodeName,
    /// Since when it holds, wall clock of that node.
    pub since: String,
    /// Messages about it so far, without the first.
    pub reminders: u32,
}

/// Something to do, in this order. Each but [`Action::Send`] is answered with [`Core::answered`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the key if it is as expected: revision, or absent.
    Claim(Claim, Option<i64>),
    /// Write a key that goes by itself after an hour, if it is absent.
    Once(String),
    /// Remove the key of a state.
    Release(String),
    /// Deliver.
    Send(Box<Message>),
}

/// etcd's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, with this revision.
    Won(i64),
    /// Somebody else was first.
    Lost,
    /// etcd did not answer.
    Unknown,
}

/// One look at the world.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// This node's clock.
    pub now: Instant,
    /// The wall clock, for people.
    pub at: &'a str,
    /// The newest snapshot.
    pub status: &'a ClusterStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pending,
    Asking,
    Told,
    Ending(Instant),
    Releasing(Instant),
}

#[derive(Clone, Debug)]
struct Entry {
    condition: Condition,
    phase: Phase,
    /// When it was first seen here; none if it is known from etcd only.
    since: Option<Instant>,
    since_at: String,
    /// Of the key in etcd; none while it has none.
    revision: Option<i64>,
    told: Instant,
    reminders: u32,
    /// The key is only made up for: nothing is to be told when it is won.
    adopting: bool,
}

#[derive(Clone, Debug)]
struct Waiting {
    news: News,
    since: Instant,
    asked: bool,
}

/// What one target has been told and will be.
#[derive(Clone, Debug)]
pub struct Core {
    settings: Settings,
    started: Instant,
    /// The keys in etcd have been read since the start.
    loaded: bool,
    entries: BTreeMap<String, Entry>,
    /// Keys of states whose end was told without etcd.
    leftovers: BTreeSet<String>,
    waiting: Vec<Waiting>,
    outbox: Outbox,
    /// Ids of what was restored, until the keys in etcd have been read. Not of what was told without etcd.
    restored: BTreeSet<String>,
}

impl Core {
    /// A core that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, now: Instant) -> Self {
        let outbox = Outbox::new(settings.max_per_hour);
        Self {
            settings,
            started: now,
            loaded: false,
            entries: BTreeMap::new(),
            leftovers: BTreeSet::new(),
            waiting: Vec::new(),
            outbox,
            restored: BTreeSet::new(),
        }
    }

    /// States that have been told and not yet ended, by key.
    pub fn told(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, e)| e.phase != Phase::Pending).map(|(k, _)| k.as_str())
    }

    /// What is to be told and has not gone out: the task keeps it on disk, so that a restart does not lose it.
    #[must_use]
    pub fn unsent(&self) -> &[Message] {
        self.outbox.waiting()
    }

    /// What is to be told if etcd agrees to these actions, besides what is to be told anyway.
    #[must_use]
    pub fn intents(&self, actions: &[Action], look: Look<'_>) -> Vec<Message> {
        let mut agreed = self.clone();
        actions.iter().for_each(|action| agreed.answered(action, Answer::Won(0), look));
        agreed.outbox.waiting().to_vec()
    }

    /// What an earlier run of the agent had kept.
    pub fn restore(&mut self, unsent: Vec<Message>, now: Instant) {
        self.restored = unsent.iter().filter(|m| m.notes.is_empty()).map(Message::id).collect();
        unsent.into_iter().for_each(|m| self.outbox.push(m, now));
    }

    /// A begin that another node has claimed, or nobody (it is told anew if it still holds), or whose end another node has
    /// told meanwhile (it says when it began), is not for this node to tell any more.
    fn withdraw_restored(&mut self, claims: &BTreeMap<String, (Claim, i64)>) {
        let restored = std::mem::take(&mut self.restored);
        let ends = self.settings.recovery;
        self.outbox.withdraw(|m| {
            let others = claims.get(&m.key).map_or(ends, |(claim, _)| claim.node != m.node);
            others && matches!(m.kind, Kind::Begin | Kind::Reminder) && restored.contains(&m.id())
        });
    }

    /// Looks at what holds and what happened; called at every snapshot.
    pub fn look(&mut self, look: Look<'_>, conditions: &[Condition], news: &[News]) -> Vec<Action> {
        let mut out = Vec::new();
        for n in news {
            if n.severity < self.settings.severity || !self.hears(n.group.as_ref()) {
                continue;
            }
            if self.waiting.len() >= NEWS {
                self.waiting.remove(0);
            }
            self.waiting.push(Waiting { news: n.clone(), since: look.now, asked: false });
        }
        self.news_due(look, &mut out);
        self.take(look, conditions);
        let due: Vec<String> = self.entries.keys().cloned().collect();
        for key in due {
            self.step(&key, look, &mut out);
        }
        out.extend(self.flush(look));
        out
    }

    /// The told states as etcd has them now.
    pub fn claims(&mut self, claims: &BTreeMap<String, (Claim, i64)>, now: Instant) -> Vec<Action> {
        self.loaded = true;
        self.withdraw_restored(claims);
        let mut out = Vec::new();
        for (key, (claim, revision)) in claims {
            if self.leftovers.remove(key) && !self.entries.contains_key(key) {
                out.push(Action::Release(key.clone()));
                continue;
            }
            if !self.wants(&claim.what) {
                continue;
            }
            let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
                condition: Condition {
                    what: claim.what.clone(),
                    title: claim.what.key(),
                    facts: Vec::new(),
                    done: Vec::new(),
                    advice: Vec::new(),
                    patience: Duration::ZERO,
                },
                phase: Phase::Told,
                since: None,
                since_at: claim.since.clone(),
                revision: None,
                told: now,
                reminders: claim.reminders,
                adopting: false,
            });
            if entry.phase == Phase::Pending {
                entry.phase = Phase::Told;
            }
            if entry.revision != Some(*revision) && matches!(entry.phase, Phase::Told | Phase::Ending(_)) {
                entry.revision = Some(*revision);
                entry.told = now;
                entry.since_at.clone_from(&claim.since);
                entry.reminders = claim.reminders;
            }
        }
        // A key that has gone: another node told the end.
        let gone = |(key, e): (&String, &Entry)| {
            (e.revision.is_some() && !claims.contains_key(key)).then(|| (key.clone(), e.phase))
        };
        for (key, phase) in self.entries.iter().filter_map(gone).collect::<Vec<_>>() {
            match phase {
                Phase::Ending(_) => drop(self.entries.remove(&key)),
                Phase::Told => {
                    if let Some(entry) = self.entries.get_mut(&key) {
                        (entry.phase, entry.revision, entry.since) = (Phase::Pending, None, Some(now));
                    }
                }
                Phase::Pending | Phase::Asking | Phase::Releasing(_) => {}
            }
        }
        out
    }

    /// etcd's answer to an action.
    pub fn answered(&mut self, action: &Action, answer: Answer, look: Look<'_>) {
        match action {
            Action::Claim(claim, expected) => {
                self.claimed(&claim.what.key(), expected.is_some(), answer, look)
            }
            Action::Release(key) => self.released(key, answer, look),
            Action::Once(key) => {
                let Some(i) = self.waiting.iter().position(|w| w.asked && w.news.key == *key) else { return };
                let first = self.rank(self.waiting[i].news.group.as_ref(), look.status) == 0;
                match answer {
                    Answer::Won(_) => {
                        let news = self.waiting.remove(i).news;
                        self.outbox.push(self.message_of(news, false), look.now);
                    }
                    Answer::Lost => drop(self.waiting.remove(i)),
                    Answer::Unknown if first => {
                        let news = self.waiting.remove(i).news;
                        self.outbox.push(self.message_of(news, true), look.now);
                    }
                    Answer::Unknown => self.waiting[i].asked = false,
                }
            }
            Action::Send(_) => {}
        }
    }

    /// What may be delivered now.
    pub fn flush(&mut self, look: Look<'_>) -> Vec<Action> {
        let (cluster, me) = (&self.settings.cluster, &self.settings.me);
        let due = self.outbox.due(look.now, look.at, cluster, me);
        due.into_iter().map(|m| Action::Send(Box::new(m))).collect()
    }

    fn hears(&self, group: Option<&GroupName>) -> bool {
        group.map_or(self.settings.whole, |g| self.settings.groups.contains(g))
    }

    fn wants(&self, what: &What) -> bool {
        what.severity() >= self.settings.severity && self.hears(what.group())
    }

    /// Whose turn it is: 0 = this node's, 1 = after one other's, …
    fn rank(&self, group: Option<&GroupName>, status: &ClusterStatus) -> u32 {
        let me = &self.settings.me;
        let alive = |n: &NodeName| n == me || status.nodes.iter().any(|s| s.name == *n && s.alive);
        let group = group.and_then(|g| status.groups.iter().find(|s| s.name == *g));
        let leader = group.and_then(|g| g.leader.as_ref()).filter(|l| alive(l));
        let mut order: Vec<&NodeName> = leader.into_iter().collect();
        order.extend(status.nodes.iter().map(|n| &n.name).filter(|n| alive(n) && Some(*n) != leader));
        u32::try_from(order.iter().position(|n| *n == me).unwrap_or(0)).unwrap_or(0)
    }

    fn rank_of(&self, what: &What, status: &ClusterStatus) -> Option<u32> {
        match what.seen_by() {
            Some(node) if *node == self.settings.me => Some(0),
            Some(_) => None,
            None => Some(self.rank(what.group(), status)),
        }
    }

    fn news_due(&mut self, look: Look<'_>, out: &mut Vec<Action>) {
        let etcd = look.status.etcd.reachable;
        let mut at = 0;
        while let Some(w) = self.waiting.get(at) {
            let rank = self.rank(w.news.group.as_ref(), look.status);
            let waited = look.now.since(w.since);
            if w.news.local || (rank == 0 && !etcd && !w.asked) {
                let unsure = !w.news.local;
                let news = self.waiting.remove(at).news;
                self.outbox.push(self.message_of(news, unsure), look.now);
                continue;
            }
            if waited > STALE {
                self.waiting.remove(at);
                continue;
            }
            if etcd && !w.asked && waited >= GRACE * rank {
                out.push(Action::Once(w.news.key.clone()));
                self.waiting[at].asked = true;
            }
            at += 1;
        }
    }

    /// Takes over what holds now.
    fn take(&mut self, look: Look<'_>, conditions: &[Condition]) {
        let mut seen = BTreeSet::new();
        for c in conditions {
            if !self.wants(&c.what) {
                continue;
            }
            let key = c.what.key();
            let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
                condition: c.clone(),
                phase: Phase::Pending,
                since: Some(look.now),
                since_at: look.at.to_owned(),
                revision: None,
                told: look.now,
                reminders: 0,
                adopting: false,
            });
            entry.condition = c.clone();
            match entry.phase {
                Phase::Ending(_) => entry.phase = Phase::Told,
                Phase::Pending | Phase::Asking | Phase::Told | Phase::Releasing(_) => {}
            }
            seen.insert(key);
        }
        self.entries.retain(|key, e| seen.contains(key) || e.phase != Phase::Pending);
        for (_, e) in self.entries.iter_mut().filter(|(key, _)| !seen.contains(*key)) {
            if e.phase == Phase::Told {
                e.phase = Phase::Ending(look.now);
            }
        }
    }

    fn step(&mut self, key: &str, look: Look<'_>, out: &mut Vec<Action>) {
        let etcd = look.status.etcd.reachable;
        let settled = look.now.since(self.started) >= SETTLE && (self.loaded || !etcd);
        let Some(entry) = self.entries.get(key) else { return };
        let Some(rank) = self.rank_of(&entry.condition.what, look.status).filter(|_| settled) else { return };
        let turn = GRACE * rank;
        let hold = if entry.condition.what.at_once() { Duration::ZERO } else { self.settings.hold };
        match entry.phase {
            Phase::Pending => {
                let lasted = entry.since.map_or(Duration::ZERO, |s| look.now.since(s));
                if lasted >= hold + entry.condition.patience + turn {
                    self.begin(key, Kind::Begin, etcd, rank, look, out);
                }
            }
            Phase::Told => {
                let again = self.settings.alert_every;
                if etcd && entry.revision.is_none() {
                    // Told while etcd was away: now it gets its key.
                    self.ask(key, true, out);
                } else if again.is_some_and(|every| look.now.since(entry.told) >= every + turn) {
                    self.begin(key, Kind::Reminder, etcd, rank, look, out);
                }
            }
            Phase::Ending(since) => {
                // An end is never told sooner than a flapping state would be back.
                if look.now.since(since) >= self.settings.hold + turn {
                    self.end(key, since, etcd, rank, look, out);
                }
            }
            Phase::Asking | Phase::Releasing(_) => {}
        }
    }

    fn ask(&mut self, key: &str, adopting: bool, out: &mut Vec<Action>) {
        let me = self.settings.me.clone();
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.phase = Phase::Asking;
        entry.adopting = adopting;
        let reminders = entry.reminders + u32::from(entry.revision.is_some());
        let claim =
            Claim { what: entry.condition.what.clone(), node: me, since: entry.since_at.clone(), reminders };
        out.push(Action::Claim(claim, entry.revision));
    }

    fn begin(&mut self, key: &str, kind: Kind, etcd: bool, rank: u32, look: Look<'_>, out: &mut Vec<Action>) {
        if etcd {
            self.ask(key, false, out);
        } else if rank == 0 {
            self.say(key, kind, true, look);
        }
    }

    fn end(
        &mut self,
        key: &str,
        since: Instant,
        etcd: bool,
        rank: u32,
        look: Look<'_>,
        out: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if etcd && entry.revision.is_some() {
            entry.phase = Phase::Releasing(since);
            out.push(Action::Release(key.to_owned()));
        } else if etcd || rank == 0 {
            let has_key = entry.revision.is_some();
            self.over(key, since, !etcd, look);
            if has_key {
                self.leftovers.insert(key.to_owned());
            }
        }
    }

    fn claimed(&mut self, key: &str, renewal: bool, answer: Answer, look: Look<'_>) {
        let Some(entry) = self.entries.get_mut(key).filter(|e| e.phase == Phase::Asking) else { return };
        entry.phase = Phase::Told;
        entry.told = look.now;
        let adopting = std::mem::take(&mut entry.adopting);
        let kind = if renewal { Kind::Reminder } else { Kind::Begin };
        match answer {
            Answer::Won(revision) => {
                entry.revision = Some(revision);
                if !adopting {
                    self.say(key, kind, false, look);
                }
            }
            // The next reading of the keys brings the true revision.
            Answer::Lost => entry.revision = entry.revision.or(Some(0)),
            Answer::Unknown if adopting => {}
            Answer::Unknown => self.say(key, kind, true, look),
        }
    }

    fn released(&mut self, key: &str, answer: Answer, look: Look<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Phase::Releasing(since) = entry.phase else { return };
        match answer {
            Answer::Won(_) => self.over(key, since, false, look),
            Answer::Lost => drop(self.entries.remove(key)),
            Answer::Unknown => entry.phase = Phase::Ending(since),
        }
    }

    fn say(&mut self, key: &str, kind: Kind, unsure: bool, look: Look<'_>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.phase = Phase::Told;
        entry.told = look.now;
        if kind == Kind::Reminder {
            entry.reminders += 1;
        }
        let entry = &self.entries[key];
        let c = entry.condition.clone();
        let lasted = entry.lasted(look);
        let mut m = self.message(entry, kind, look.at, c.title);
        (m.facts, m.done, m.advice) = (c.facts, c.done, c.advice);
        if kind == Kind::Reminder {
            m.title = format!("{}, for {} now", m.title, spoken(lasted));
        }
        m.facts.insert(0, format!("Since {}", entry.since_at));
        m.lasted_ms = Some(millis(lasted));
        m.notes.extend(unsure.then(unsure_note));
        self.outbox.push(m, look.now);
    }

    fn over(&mut self, key: &str, since: Instant, unsure: bool, look: Look<'_>) {
        let Some(entry) = self.entries.remove(key) else { return };
        if !self.settings.recovery {
            return;
        }
        let lasted = entry.lasted(look).saturating_sub(look.now.since(since));
        let title = format!("{}, after {}", entry.condition.what.over(look.status), spoken(lasted));
        let mut m = self.message(&entry, Kind::End, look.at, title);
        m.sequence = entry.reminders + 1;
        m.facts.push(format!("It had begun {} and lasted {}", entry.since_at, spoken(lasted)));
        m.lasted_ms = Some(millis(lasted));
        m.notes.extend(unsure.then(unsure_note));
        self.outbox.push(m, look.now);
    }

    fn message(&self, entry: &Entry, kind: Kind, at: &str, title: String) -> Message {
        let what = &entry.condition.what;
        let key = what.key();
        Message {
            cluster: self.settings.cluster.clone(),
            node: self.settings.me.clone(),
            group: what.group().cloned(),
            severity: what.severity(),
            kind,
            incident: format!("{key}@{}", entry.since_at),
            key,
            sequence: entry.reminders,
            at: at.to_owned(),
            title,
            lasted_ms: None,
            facts: Vec::new(),
            done: Vec::new(),
            advice: Vec::new(),
            notes: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn message_of(&self, news: News, unsure: bool) -> Message {
        Message {
            cluster: self.settings.cluster.clone(),
            node: self.settings.me.clone(),
            group: news.group,
            severity: news.severity,
            kind: Kind::Event,
            // Only one node tells it; the time keeps clusters apart that were made anew under the same name.
            incident: format!("{}@{}", news.key, news.at),
            key: news.key,
            sequence: 0,
            at: news.at,
            title: news.title,
            lasted_ms: news.took_ms,
            facts: news.facts,
            done: news.done,
            advice: news.advice,
            notes: unsure.then(unsure_note).into_iter().collect(),
            parts: Vec::new(),
        }
    }
}

impl Entry {
    fn lasted(&self, look: Look<'_>) -> Duration {
        match self.since {
            Some(since) => look.now.since(since),
            None => between(&self.since_at, look.at).unwrap_or_default(),
        }
    }
}

fn unsure_note() -> String {
    "etcd did not answer, so another node may have told the same".into()
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
