//! The newest status snapshot and what was made of it, once per publication rather than once per request.
//!
//! The driver publishes four times a second and at each transition; pollers and event streams share one copy, its JSON
//! and its tag.

use super::etag::Tag;
use crate::status::ClusterStatus;
use bytes::Bytes;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::watch;

/// One publication.
pub(super) struct View {
    pub(super) status: Arc<ClusterStatus>,
    json: OnceLock<Bytes>,
    tag: OnceLock<Tag>,
}

impl View {
    fn of(status: ClusterStatus) -> Arc<Self> {
        Arc::new(Self { status: Arc::new(status), json: OnceLock::new(), tag: OnceLock::new() })
    }

    /// The whole snapshot as JSON.
    pub(super) fn json(&self) -> Bytes {
        // Plain data with text keys: serialisation has no way to fail.
        self.json.get_or_init(|| serde_json::to_vec(&self.status).unwrap_or_default().into()).clone()
    }

    /// Its entity tag.
    pub(super) fn tag(&self) -> Tag {
        self.tag.get_or_init(|| Tag::of_facts(&*self.status)).clone()
    }
}

/// Follows the driver's channel.
pub(super) struct Views {
    newest: Mutex<(watch::Receiver<ClusterStatus>, Arc<View>)>,
}

impl Views {
    pub(super) fn new(mut status: watch::Receiver<ClusterStatus>) -> Self {
        let view = View::of(status.borrow_and_update().clone());
        Self { newest: Mutex::new((status, view)) }
    }

    /// The newest publication.
    pub(super) fn newest(&self) -> Arc<View> {
        // What stands behind the lock is replaced in one step, so it is whole even after a panic.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // An error means that the driver has ended: its last word stays.
        if newest.0.has_changed().unwrap_or(false) {
            let status = newest.0.borrow_and_update().clone();
            newest.1 = View::of(status);
        }
        Arc::clone(&newest.1)
    }

    /// A channel that wakes at each publication.
    pub(super) fn follow(&self) -> watch::Receiver<ClusterStatus> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}
