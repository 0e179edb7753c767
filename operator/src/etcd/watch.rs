//! A watch over everything of the cluster that only ever says "look again".
//!
//! It is opened again for ever, on the next member, and says so by a wake-up: what happened in between is found by
//! reading. Because a member that hangs sends nothing, there is also a wake-up every [`REFRESH`].

use super::pool::Etcd;
use etcd_client::{Client, WatchOptions};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The longest that a change goes unseen when the watch hangs with its member. Each costs a read per group.
const REFRESH: Duration = Duration::from_secs(5);
/// Between two attempts to open it.
const RETRY: Duration = Duration::from_millis(200);

/// The running watch. Dropping it ends it.
pub struct Watch {
    changes: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Waits until something may have changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        // The sender lives as long as the task; if that is gone, the runtime is shutting down.
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.changes.mark_unchanged();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Etcd {
    /// Watches all keys of the cluster.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watch_prefix(self.keys().prefix().to_owned(), REFRESH)
    }

    /// Watches the keys that begin with `prefix`; wakes up at least every `refresh`.
    #[must_use]
    pub fn watch_prefix(&self, prefix: String, refresh: Duration) -> Watch {
        let (wake, changes) = watch::channel(0_u64);
        let etcd = self.clone();
        let task = tokio::spawn(async move {
            loop {
                watch_once(&etcd, &prefix, refresh, &wake).await;
                wake.send_modify(|n| *n += 1);
                tokio::time::sleep(RETRY).await;
            }
        });
        Watch { changes, task }
    }
}

/// Watches until the watch ends for whatever reason.
async fn watch_once(etcd: &Etcd, prefix: &str, refresh: Duration, wake: &watch::Sender<u64>) {
    let open = |mut client: Client| {
        let prefix = prefix.to_owned();
        async move { client.watch(prefix, Some(WatchOptions::new().with_prefix())).await }
    };
    let mut stream = match etcd.hedged(open).await {
        Ok((stream, _)) => stream,
        Err(error) => {
            tracing::debug!(%error, "no watch");
            return;
        }
    };
    // What changed before the watch stood is found by reading once more.
    wake.send_modify(|n| *n += 1);
    loop {
        match tokio::time::timeout(refresh, stream.message()).await {
            Ok(Ok(Some(message))) if !message.canceled() => {}
            Ok(_) => return,
            Err(_) => {}
        }
        wake.send_modify(|n| *n += 1);
    }
}
