//! What is told: one message, before it becomes a mail, a POST or the input of a command. Plain data; what is
//! serialised here is the JSON of webhooks and commands, of the queue on disk, and of nothing else.

use crate::spec::Severity;
use baton_replicator::types::{GroupName, NodeName};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};

/// Which part of a story a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Happened, and that was it.
    Event,
    /// A state has begun.
    Begin,
    /// It still lasts.
    Reminder,
    /// It is over.
    End,
    /// Several at once, in `parts`.
    Digest,
    /// `baton notify test`.
    Test,
}

impl Kind {
    /// The word in JSON and environment.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Begin => "begin",
            Self::Reminder => "reminder",
            Self::End => "end",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }
}

/// The word in JSON and environment.
#[must_use]
pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// One message to one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The cluster.
    pub cluster: String,
    /// The node that tells it.
    pub node: NodeName,
    /// The group it concerns; none = the cluster as a whole.
    pub group: Option<GroupName>,
    /// How bad.
    pub severity: Severity,
    /// Which part of a story.
    pub kind: Kind,
    /// What it is about, e.g. `web/no-standby`: the same at begin, reminder and end.
    pub key: String,
    /// Names this one occurrence; the same on every node. Mails of one incident form a thread.
    pub incident: String,
    /// 0 for the first message of an incident.
    pub sequence: u32,
    /// When it happened, wall clock of `node`, RFC 3339.
    pub at: String,
    /// One line.
    pub title: String,
    /// How long a state has lasted, or a change of leadership has taken, milliseconds.
    pub lasted_ms: Option<u64>,
    /// What is known, one sentence each.
    pub facts: Vec<String>,
    /// What Baton did or does about it.
    pub done: Vec<String>,
    /// What a person should do.
    pub advice: Vec<String>,
    /// About the telling itself.
    pub notes: Vec<String>,
    /// Of a digest, oldest first; never digests themselves.
    pub parts: Vec<Message>,
}

impl Message {
    /// The incident's name and the message's number as one word of harmless characters, unique in the cluster.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", slug(&self.incident), self.sequence)
    }

    /// The same of the first message of the incident.
    #[must_use]
    pub fn first_id(&self) -> String {
        format!("{}.0", slug(&self.incident))
    }
}

fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '.' };
    text.chars().map(plain).collect()
}

/// A duration for people: `1.7 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`.
#[must_use]
pub fn spoken(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        10..60 => format!("{s} s"),
        60..3600 if s.is_multiple_of(60) => format!("{} min", s / 60),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// Time between two wall clock times (RFC 3339); none if one cannot be read or they are in the wrong order.
#[must_use]
pub fn between(from: &str, to: &str) -> Option<Duration> {
    wall(to)?.duration_since(wall(from)?).ok()
}

/// A wall clock time (RFC 3339).
#[must_use]
pub fn wall(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339_weak(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spoken() {
        for (ms, text) in [
            (1_740, "1.7 s"),
            (12_900, "12 s"),
            (180_000, "3 min"),
            (200_400, "3 min 20 s"),
            (7_500_000, "2 h 5 min"),
            (356_400_000, "4 d 3 h"),
        ] {
            assert_eq!(spoken(Duration::from_millis(ms)), text);
        }
        assert_eq!(
            between("2026-11-21T02:00:00.5Z", "2026-11-21T02:00:02Z"),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(between("2026-11-21T02:00:02Z", "2026-11-21T02:00:00Z"), None);
    }
}
