//! The task that delivers to one target. A server that hangs costs nothing but this task: nobody waits for it.
//!
//! If it dies with the process, what it had not delivered is on disk and goes out at the next start.

use super::deliver::{Failure, deliver};
use super::message::{Message, wall};
use super::queue::{Item, Queue, Verdict};
use super::spool::Spool;
use crate::heartbeat::clock;
use crate::spec::Channel;
use crate::status::NotificationStatus;
use baton_replicator::types::NodeName;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};

/// Longest sleep of the task; a new message wakes it anyway.
const NAP: Duration = Duration::from_secs(3600);
/// A target that fails longer needs a person: a mail server that is restarted or lists its clients grey is back before.
const LONG: Duration = Duration::from_secs(900);

/// How the deliveries to all targets go, for status.
pub type Board = watch::Sender<Vec<NotificationStatus>>;

struct Inner {
    queue: Queue,
    in_flight: Option<u64>,
}

/// The letter box of one target: what is put in is delivered.
pub struct Mailbox {
    name: String,
    channel: Channel,
    me: NodeName,
    spool: Option<Spool>,
    inner: Mutex<Inner>,
    /// Queue and disk change together: a message is tried only once its file is there.
    gate: tokio::sync::Mutex<()>,
    wake: Notify,
    board: Arc<Board>,
}

impl Mailbox {
    /// A letter box with what an earlier run left in it.
    pub fn new(name: &str, channel: Channel, me: NodeName, spool: Option<Spool>, board: Arc<Board>) -> Self {
        let queue = Queue::of(spool.as_ref().map(Spool::load).unwrap_or_default());
        let mailbox = Self {
            name: name.to_owned(),
            channel,
            me,
            spool,
            inner: Mutex::new(Inner { queue, in_flight: None }),
            gate: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            board,
        };
        mailbox.report(|_| {});
        mailbox
    }

    /// The way there.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Puts a message in; on disk when this returns, unless the disk refuses.
    pub async fn put(self: &Arc<Self>, message: Message) {
        let gate = self.gate.lock().await;
        let (item, replaced, given_up) = {
            let mut inner = self.lock();
            let in_flight = inner.in_flight;
            inner.queue.push(message, in_flight, clock::now())
        };
        let many = given_up.len() as u64;
        self.on_disk(move |spool| {
            spool.keep(&item)?;
            spool.forget(&replaced);
            spool.give_up(&given_up);
            Ok(())
        })
        .await;
        drop(gate);
        self.report(|s| s.given_up += many);
        self.wake.notify_one();
    }

    /// Keeps what the core has not let out yet.
    pub async fn keep_unsent(self: &Arc<Self>, messages: Vec<Message>) {
        self.on_disk(move |spool| spool.keep_unsent(&messages)).await;
    }

    /// What an earlier run kept that way.
    pub fn unsent(&self) -> Vec<Message> {
        self.spool.as_ref().map(Spool::unsent).unwrap_or_default()
    }

    /// Delivers, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let due = {
                let _gate = self.gate.lock().await;
                let mut inner = self.lock();
                let due = inner.queue.due(clock::now()).cloned();
                inner.in_flight = due.as_ref().map(|i| i.id);
                due
            };
            let Some(item) = due else {
                let next = self.lock().queue.next();
                let nap = next.map_or(NAP, |at| at.since(clock::now()).min(NAP));
                tokio::select! {
                    () = tokio::time::sleep(nap) => {}
                    () = self.wake.notified() => {}
                }
                continue;
            };
            let result = deliver(&self.channel, &item.message, &self.me).await;
            self.settle(item, result).await;
        }
    }

    async fn settle(self: &Arc<Self>, item: Item, result: Result<(), Failure>) {
        let at = now();
        match result {
            Ok(()) => {
                {
                    let mut inner = self.lock();
                    inner.in_flight = None;
                    inner.queue.delivered(item.id);
                }
                tracing::info!(target_name = %self.name, title = %item.message.title, "notification delivered");
                self.on_disk(move |spool| {
                    spool.forget(&[item]);
                    Ok(())
                })
                .await;
                self.report(|s| {
                    s.delivered += 1;
                    s.last_success = Some(at);
                    s.failing_since = None;
                    s.last_error = None;
                });
            }
            Err(failure) => {
                let verdict = {
                    let mut inner = self.lock();
                    inner.in_flight = None;
                    inner.queue.failed(item.id, failure.fatal, clock::now(), &at)
                };
                let given_up = verdict == Verdict::GivenUp;
                tracing::warn!(target_name = %self.name, title = %item.message.title, given_up, "notification not delivered: {failure}");
                if given_up {
                    self.on_disk(move |spool| {
                        spool.give_up(&[item]);
                        Ok(())
                    })
                    .await;
                }
                self.report(|s| {
                    s.failed += 1;
                    s.given_up += u64::from(given_up);
                    s.failing_since.get_or_insert(at);
                    s.last_error = Some(failure.text);
                });
            }
        }
    }

    fn report(&self, edit: impl FnOnce(&mut NotificationStatus)) {
        let queued = self.lock().queue.len() as u64;
        self.board.send_modify(|all| {
            if let Some(status) = all.iter_mut().find(|s| s.target == self.name) {
                status.queued = queued;
                edit(status);
            }
        });
    }

    async fn on_disk(self: &Arc<Self>, job: impl FnOnce(&Spool) -> io::Result<()> + Send + 'static) {
        let Some(spool) = self.spool.clone() else { return };
        let done = tokio::task::spawn_blocking(move || job(&spool)).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(target_name = %self.name, %error, "a notification cannot be kept on disk: a restart would lose it");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic aborts the process, so a poisoned mutex cannot be met.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock, RFC 3339.
pub(super) fn now() -> String {
    crate::driver::rfc3339(SystemTime::now())
}

/// What a person should do about targets that have failed for a quarter of an hour.
#[must_use]
pub fn advice(all: &[NotificationStatus], at: SystemTime) -> Vec<String> {
    let long = |s: &&NotificationStatus| {
        let since = s.failing_since.as_deref().and_then(wall);
        since.is_some_and(|since| at.duration_since(since).is_ok_and(|d| d >= LONG))
    };
    let words = |s: &NotificationStatus| {
        format!(
            "notifications to {} fail since {} ({} wait): {}; mend it and see 'baton notify test {}'",
            s.target,
            s.failing_since.as_deref().unwrap_or_default(),
            s.queued,
            s.last_error.as_deref().unwrap_or_default(),
            s.target
        )
    };
    all.iter().filter(long).map(words).collect()
}
