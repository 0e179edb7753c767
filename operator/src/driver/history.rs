//! What happened: one line in the log, one entry in etcd's bounded history, one message to whoever follows.
//!
//! Entries that cannot be written to etcd are kept in memory and written when it is back, oldest dropped first:
//! nothing that matters waits for them.

use crate::core::group::Severity;
use crate::status::Event;
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
        crate::metrics::live().event(word);
        let event = Event {
            n: 0,
            at: rfc3339(SystemTime::now()),
            node: self.node.clone(),
            group: group.cloned(),
            volume: None,
            severity: word.into(),
            message: message.to_owned(),
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

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
    }
}
