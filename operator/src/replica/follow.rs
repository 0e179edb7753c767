//! Follows the replicator's status by long polls and publishes the newest in a watch channel.
//!
//! The channel holds `None` while the replicator is unreachable: facts that cannot be confirmed are not shown
//! as current. A watch only wakes the driver; it reads the newest value and compares. If this task dies the
//! channel closes, which the driver sees as an error of `changed()`.

use super::ReplicaClient;
use baton_replicator::api::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Byte counters and resync progress do not raise the version, so a poll is answered at least this often.
const REFRESH: Duration = Duration::from_millis(500);
/// Pause after a failed poll: half a keepalive, so that a restarted replicator is back within a heartbeat.
const RETRY: Duration = Duration::from_millis(50);

/// The newest status, `None` while the replicator is unreachable.
pub type Followed = watch::Receiver<Option<Arc<Status>>>;

/// Starts following; ends when every receiver is gone. Returns the channel and the task.
#[must_use]
pub fn follow(client: ReplicaClient) -> (Followed, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = watch::channel(None);
    (receiver, tokio::spawn(run(client, sender)))
}

async fn run(client: ReplicaClient, sender: watch::Sender<Option<Arc<Status>>>) {
    let mut after = 0;
    loop {
        let polled = tokio::select! {
            polled = client.status(after, REFRESH) => polled,
            () = sender.closed() => return,
        };
        match polled {
            Ok(status) => {
                // A restarted replicator counts from the beginning again: its version is taken as it is.
                after = status.version;
                let status = Arc::new(status);
                let was_none = sender.borrow().is_none();
                if was_none {
                    tracing::info!(socket = %client.socket().display(), "the replicator answers");
                }
                sender.send_if_modified(|held| {
                    let changed = held.as_deref() != Some(&*status);
                    *held = Some(status);
                    changed
                });
            }
            Err(error) => {
                after = 0;
                let newly = sender.send_if_modified(|held| held.take().is_some());
                if newly {
                    tracing::warn!(%error, "the replicator is unreachable");
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => {}
                    () = sender.closed() => return,
                }
            }
        }
    }
}
