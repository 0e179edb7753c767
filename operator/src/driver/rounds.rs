//! The rounds of a task that looks in etcd for what is asked of volumes: one a second, none while there are no volumes.

use crate::spec::Spec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

/// Between two looks: a person waits for the beginning.
const LOOK: Duration = Duration::from_secs(1);

/// When to look, and whether.
pub(super) struct Rounds {
    look: Interval,
    in_force: watch::Receiver<Arc<Spec>>,
}

impl Rounds {
    pub(super) fn of(in_force: watch::Receiver<Arc<Spec>>) -> Self {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { look, in_force }
    }

    /// Waits until it is time to look. Without volumes it is not, and nothing is shown.
    pub(super) async fn next<K, V>(&mut self, shown: &watch::Sender<BTreeMap<K, V>>) {
        loop {
            self.look.tick().await;
            if self.in_force.borrow().has_volumes() {
                return;
            }
            shown.send_if_modified(|all| !std::mem::take(all).is_empty());
        }
    }
}
