//! Pausing resyncs, as desired state: what a person wants stands in etcd, and every agent tells its replicator. Pure.
//!
//! So a pause outlives restarts of agents and replicators and holds on the next primary too, as DRBD's does not: it ends
//! when a person says so. A replicator that starts hears of it within about a second; what it copies until then is good.

use baton_replicator::api::VolumeStatus;
use baton_replicator::types::VolumeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key `volumes/<volume>/resync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseRecord {
    /// Resyncs of this volume stand still.
    pub paused: bool,
    /// The node whose agent was asked.
    #[serde(default)]
    pub by: String,
    /// When, seconds since 1970.
    #[serde(default)]
    pub at: u64,
}

/// What the replicator here has to be told: the volumes that are not as they should be, and how they should be.
#[must_use]
pub fn to_tell(
    wanted: &BTreeMap<VolumeName, (PauseRecord, i64)>,
    here: &[VolumeStatus],
) -> Vec<(VolumeName, bool)> {
    let paused = |name: &VolumeName| wanted.get(name).is_some_and(|(record, _)| record.paused);
    let differs = |v: &&VolumeStatus| v.resync_paused != paused(&v.volume);
    here.iter().filter(differs).map(|v| (v.volume.clone(), !v.resync_paused)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[test]
    fn the_replicator_is_told_what_it_does_not_do_already() {
        let mut volume = fixture::healthy().groups.remove(0).volumes.remove(0);
        let name = volume.volume.clone();
        let wish = |paused| {
            let record = PauseRecord { paused, ..PauseRecord::default() };
            BTreeMap::from([
                (name.clone(), (record, 3)),
                (VolumeName::new("other").unwrap(), Default::default()),
            ])
        };
        let mut told = |wanted: &_, now| {
            volume.resync_paused = now;
            to_tell(wanted, std::slice::from_ref(&volume))
        };
        for now in [false, true] {
            assert_eq!(told(&wish(now), now), []);
            assert_eq!(told(&wish(!now), now), [(name.clone(), !now)]);
        }
        assert_eq!(told(&BTreeMap::new(), false), []);
        assert_eq!(told(&BTreeMap::new(), true), [(name.clone(), false)], "a wish that was never there");
    }
}
