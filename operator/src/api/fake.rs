//! A driver for tests of the API and of its client.

use super::{Accepted, CommandError, Commands, SpecDocument};
use crate::cli::fixture;
use crate::status::{Event, NodeMode};
use baton_replicator::types::{GroupName, NodeName};
use futures::future::{BoxFuture, FutureExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::broadcast;

/// Records calls; answers as it is told.
pub(crate) struct Fake {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) answer: Mutex<Option<CommandError>>,
    pub(crate) hang: AtomicBool,
    pub(crate) alive: AtomicBool,
    pub(crate) live: broadcast::Sender<Event>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            calls: Mutex::default(),
            answer: Mutex::default(),
            hang: AtomicBool::new(false),
            alive: AtomicBool::new(true),
            live: broadcast::channel(8).0,
        }
    }
}

impl Fake {
    fn record(&self, call: String) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        async move {
            self.calls.lock().unwrap().push(call.clone());
            if self.hang.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            match self.answer.lock().unwrap().clone() {
                Some(error) => Err(error),
                None => Ok(Accepted { message: call }),
            }
        }
        .boxed()
    }
}

impl Commands for Fake {
    fn set_mode(&self, node: NodeName, mode: NodeMode) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("{node} {mode:?}"))
    }
    fn move_group(
        &self,
        group: GroupName,
        to: Option<NodeName>,
    ) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("move {group} {to:?}"))
    }
    fn recover(&self, group: GroupName) -> BoxFuture<'_, Result<Accepted, CommandError>> {
        self.record(format!("recover {group}"))
    }
    fn events(&self, last: usize) -> BoxFuture<'_, Result<Vec<Event>, CommandError>> {
        let all = fixture::history();
        async move { Ok(all[all.len().saturating_sub(last)..].to_vec()) }.boxed()
    }
    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
    fn spec(&self) -> BoxFuture<'_, Result<SpecDocument, CommandError>> {
        async { Ok(SpecDocument { text: "cluster: demo\n".into(), version: 12 }) }.boxed()
    }
    fn core_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }
}
