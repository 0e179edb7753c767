//! The node's lease, on a task of its own: grant, put `alive` under it, renew, and begin again when it is lost.
//!
//! Every acknowledged renewal is reported with the time it was *sent*: only from there may the receiver count.
//! Whether a lease is lost is asked of etcd (its time to live), never read from an error text.

use super::pool::{Etcd, EtcdError};
use super::records::to_json;
use crate::heartbeat::clock;
use baton_replicator::types::Instant;
use etcd_client::{Client, PutOptions};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

/// Pause after a failed grant or renewal; the requests themselves are bounded.
const RETRY: Duration = Duration::from_millis(200);
/// Events that wait for a receiver that is busy; beyond, the task waits, and what it reports is late but right.
const QUEUE: usize = 16;

/// What a node says about itself under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Its heartbeat addresses.
    pub addresses: Vec<String>,
    /// Version of its agent.
    pub version: String,
    /// Changes with every agent start.
    pub incarnation: String,
}

/// What happened to the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A new lease, with `alive` under it.
    Granted {
        /// Its id.
        lease: i64,
        /// When the grant was sent.
        sent: Instant,
        /// What etcd granted; may be more than was asked for.
        ttl: Duration,
    },
    /// A renewal was acknowledged.
    Renewed {
        /// The lease.
        lease: i64,
        /// When the renewal was sent.
        sent: Instant,
        /// The time to live, counted from `sent` at the earliest.
        ttl: Duration,
    },
    /// A renewal failed; the lease may live on.
    Late {
        /// The lease.
        lease: i64,
        /// Why.
        error: String,
    },
    /// etcd says that the lease is gone, and with it every key under it. A new one follows.
    Lost {
        /// The lease.
        lease: i64,
    },
}

/// The running task. Dropping it stops the renewals; the lease then runs out.
pub struct LeaseTask {
    etcd: Etcd,
    task: JoinHandle<()>,
    refresh: Arc<Notify>,
    missing: Arc<Notify>,
    current: watch::Receiver<i64>,
    ttl: watch::Sender<Duration>,
}

impl LeaseTask {
    /// Another time to live, asked for with the next lease: the one in force carries the leader keys and stays.
    pub fn ask_for(&self, ttl: Duration) {
        self.ttl.send_replace(ttl);
    }

    /// Id of the lease in force; 0 before the first grant and after a loss.
    #[must_use]
    pub fn id(&self) -> i64 {
        *self.current.borrow()
    }

    /// Renews at once, e.g. because a handover is about to use the lease.
    pub fn renew_now(&self) {
        self.refresh.notify_one();
    }

    /// Puts `alive` under the lease once more: somebody has deleted it, or all that etcd held, and the lease lives on.
    pub fn put_alive(&self) {
        self.missing.notify_one();
    }

    /// Stops the renewals and gives the lease back: `alive` and leader keys under it vanish at once. For a node
    /// that leaves for good; an agent that restarts drops the task instead.
    ///
    /// # Errors
    /// Not confirmed: the lease runs out by itself.
    pub async fn revoke(self) -> Result<(), EtcdError> {
        self.task.abort();
        let lease = self.id();
        if lease == 0 {
            return Ok(());
        }
        self.etcd
            .hedged(|mut client: Client| async move { client.lease_revoke(lease).await })
            .await
            .map(|_| ())
    }
}

impl Drop for LeaseTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Etcd {
    /// Starts to hold a lease of `ttl`, with `alive` under it, for ever. Ends when the receiver is dropped.
    #[must_use]
    pub fn keep_lease(&self, ttl: Duration, alive: Alive) -> (LeaseTask, mpsc::Receiver<LeaseEvent>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let (current_tx, current) = watch::channel(0);
        let [refresh, missing] = [(), ()].map(|()| Arc::new(Notify::new()));
        let (ttl, wanted) = watch::channel(ttl);
        let keeper = Keeper {
            etcd: self.clone(),
            ttl: wanted,
            alive,
            events,
            current: current_tx,
            refresh: refresh.clone(),
            missing: missing.clone(),
        };
        let task = tokio::spawn(async move {
            // The only error is that nobody listens any more.
            let _ = keeper.run().await;
        });
        (LeaseTask { etcd: self.clone(), task, refresh, missing, current, ttl }, receiver)
    }
}

struct Keeper {
    etcd: Etcd,
    ttl: watch::Receiver<Duration>,
    alive: Alive,
    events: mpsc::Sender<LeaseEvent>,
    current: watch::Sender<i64>,
    refresh: Arc<Notify>,
    missing: Arc<Notify>,
}

type Closed = mpsc::error::SendError<LeaseEvent>;

impl Keeper {
    async fn run(&self) -> Result<(), Closed> {
        loop {
            let (lease, sent, ttl) = match self.grant().await {
                Ok(granted) => granted,
                Err(error) => {
                    if self.events.is_closed() {
                        return Ok(());
                    }
                    tracing::debug!(%error, "no lease yet");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.current.send_replace(lease);
            self.events.send(LeaseEvent::Granted { lease, sent, ttl }).await?;
            self.renew_while_it_lives(lease, ttl).await?;
            self.current.send_replace(0);
            self.events.send(LeaseEvent::Lost { lease }).await?;
        }
    }

    async fn grant(&self) -> Result<(i64, Instant, Duration), EtcdError> {
        let ttl_s = i64::try_from(self.ttl.borrow().as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        // A hedged grant may leave a second lease behind; nothing stands under it, and it runs out.
        let grant = |mut client: Client| async move {
            let sent = clock::now();
            client.lease_grant(ttl_s, None).await.map(|granted| (granted.id(), sent, granted.ttl()))
        };
        let ((lease, sent, ttl_s), _) = self.etcd.hedged(grant).await?;
        self.put_alive(lease).await?;
        Ok((lease, sent, Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0))))
    }

    async fn put_alive(&self, lease: i64) -> Result<(), EtcdError> {
        let key = self.etcd.keys().alive(self.etcd.me());
        let put = |mut client: Client| {
            let (key, value) = (key.clone(), to_json(&self.alive));
            async move { client.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
        };
        self.etcd.hedged(put).await.map(drop)
    }

    /// Returns when the lease is gone.
    async fn renew_while_it_lives(&self, lease: i64, ttl: Duration) -> Result<(), Closed> {
        // Five chances per time to live, and at least one per second: a shorter loss of etcd goes unnoticed.
        let interval = (ttl / 5).min(Duration::from_secs(1));
        let mut pause = interval;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.refresh.notified() => {}
                () = self.missing.notified() => {
                    // If it fails it is still missed, and the next read of a record says so again.
                    if let Err(error) = self.put_alive(lease).await {
                        tracing::debug!(%error, "the node's key is not back yet");
                    }
                }
                () = self.events.closed() => return Err(mpsc::error::SendError(LeaseEvent::Lost { lease })),
            }
            let renew = |mut client: Client| async move {
                let sent = clock::now();
                client.lease_keep_alive(lease).await.map(|_| sent)
            };
            match self.etcd.hedged(renew).await {
                Ok((sent, _)) => {
                    pause = interval;
                    self.events.send(LeaseEvent::Renewed { lease, sent, ttl }).await?;
                }
                Err(error) => {
                    pause = RETRY;
                    let ask =
                        |mut client: Client| async move { client.lease_time_to_live(lease, None).await };
                    if self.etcd.hedged(ask).await.is_ok_and(|(left, _)| left.ttl() <= 0) {
                        return Ok(());
                    }
                    self.events.send(LeaseEvent::Late { lease, error: error.to_string() }).await?;
                }
            }
        }
    }
}
