//! What happened: one line in the log, one entry in etcd's bounded history, one message to whoever follows.
//!
//! Entries that cannot be written to etcd are kept in memory and written when it is back, oldest dropped first:
//! nothing that matters waits for them.

use crate::core::group::Severity;
use crate::status::{Event, Takeover};
use baton_replicator::types::{GroupName, NodeName};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, mpsc};

/// Entries waiting for etcd.
const QUEUE: usize = 256;
/// Entries a slow follower may lag behind.
const FOLLOWERS: usize = 256;

/// Where entries go in.
#[derive(Clone, Debug)]
pub struct History {
    node: NodeName,
    live: broadcast::Sender<Event>,
    queue: mpsc::Sender<Event>,
}

impl History {
    /// The history and the end that writes to etcd.
    #[must_use]
    pub fn new(node: NodeName) -> (Self, mpsc::Receiver<Event>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { node, live: broadcast::channel(FOLLOWERS).0, queue }, receiver)
    }

    /// Records what happened to a group, or to the node.
    pub fn record(&self, group: Option<&GroupName>, severity: Severity, message: &str) {
        let word = match severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        let name = group.map_or("", GroupName::as_str);
        match severity {
            Severity::Info => tracing::info!(group = name, "{message}"),
            Severity::Warning => tracing::warn!(group = name, "{message}"),
            Severity::Critical => tracing::error!(group = name, "{message}"),
        }
        self.put(group, word, message.to_owned(), None);
    }

    /// Records the timeline of a change of leadership that ended in serving here.
    pub fn timeline(&self, group: &GroupName, takeover: Takeover) {
        let words: Vec<String> = takeover.steps.iter().map(|s| format!("{} {} ms", s.step, s.ms)).collect();
        let message = format!("{} done in {} ms: {}", takeover.kind, takeover.total_ms, words.join(", "));
        tracing::info!(%group, total_ms = takeover.total_ms, "{message}");
        self.put(Some(group), "info", message, Some(takeover));
    }

    fn put(
        &self,
        group: Option<&GroupName>,
        word: &'static str,
        message: String,
        takeover: Option<Takeover>,
    ) {
        crate::metrics::live().event(word);
        let event = Event {
            n: 0,
            at: rfc3339(SystemTime::now()),
            node: self.node.clone(),
            group: group.cloned(),
            volume: None,
            severity: word.into(),
            message,
            takeover,
        };
        let _ = self.live.send(event.clone());
        if self.queue.try_send(event).is_err() {
            tracing::debug!("the history's queue is full: an entry is only in the log");
        }
    }

    /// Follows what is recorded here from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
}

/// A wall clock time for people, UTC with milliseconds (RFC 3339).
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at =
        UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_entry_reaches_followers_and_the_queue() {
        let (history, mut queue) = History::new(NodeName::new("alpha").unwrap());
        let mut follower = history.subscribe();
        let web = GroupName::new("web").unwrap();
        history.record(Some(&web), Severity::Warning, "something");
        let event = queue.try_recv().unwrap();
        assert_eq!((event.severity.as_str(), event.message.as_str()), ("warning", "something"));
        assert_eq!(follower.try_recv().unwrap(), event);
    }

    #[tokio::test]
    async fn a_timeline_is_an_entry_that_carries_its_steps() {
        let (history, mut queue) = History::new(NodeName::new("alpha").unwrap());
        let step =
            |step: &str, ms| crate::status::TakeoverStep { step: step.into(), ms, ..Default::default() };
        let steps = vec![step("detect", 1500), step("services", 400)];
        let takeover = Takeover { kind: "takeover".into(), steps, total_ms: 1900, ..Takeover::default() };
        history.timeline(&GroupName::new("web").unwrap(), takeover.clone());
        let event = queue.try_recv().unwrap();
        assert_eq!(event.message, "takeover done in 1900 ms: detect 1500 ms, services 400 ms");
        let kept: Event = serde_json::from_slice(&serde_json::to_vec(&event).unwrap()).unwrap();
        assert_eq!(kept.takeover, Some(takeover));
        let old = r#"{"n":1,"at":"","node":"a","group":null,"volume":null,"severity":"info","message":"m"}"#;
        assert_eq!(
            serde_json::from_str::<Event>(old).unwrap().takeover,
            None,
            "as earlier releases wrote it"
        );
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
