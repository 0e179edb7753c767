//! Wakes its owner when the kernel reports a change of links, or that an address went away.
//!
//! Only a wake-up: who is woken reads what is. A report that is lost (the socket's buffer overran) costs the time
//! until the owner's next look. Dropping the monitor ends its task.

use super::NetError;
use futures::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A subscription to the kernel's reports.
pub struct Monitor {
    changed: Arc<Notify>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Monitor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Monitor {
    /// Subscribes, in the network namespace of this thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NetError::Socket`].
    pub fn open() -> Result<Self, NetError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, mut reports) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|e| NetError::Socket { what: "netlink monitor", source: Arc::new(e) })?;
        let changed = Arc::new(Notify::new());
        let waker = Arc::clone(&changed);
        let reading = tokio::spawn(connection);
        let sorting = tokio::spawn(async move {
            while let Some((report, _)) = reports.next().await {
                if matters(&report) {
                    waker.notify_one();
                }
            }
        });
        Ok(Self { changed, tasks: [reading, sorting] })
    }

    /// Waits until something changed since the last call. Cancel safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Added addresses do not matter: every extension of a lifetime is reported as one.
fn matters(report: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    matches!(
        &report.payload,
        NetlinkPayload::Overrun(_)
            | NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::DelAddress(_)
                    | RouteNetlinkMessage::NewLink(_)
                    | RouteNetlinkMessage::DelLink(_)
            )
    )
}
