//! The status of a volume that could not be opened: nothing is known of it but why.

use crate::api::{Counters, VolumeConfig, VolumeStatus};
use crate::types::{BootId, DiskState, Epoch, Generation, Role};

/// Status of a volume that could not be opened; its boot id is zero, so that nobody takes it for a replica.
pub(super) fn status(config: &VolumeConfig, why: &str) -> VolumeStatus {
    VolumeStatus {
        volume: config.volume.clone(),
        group: config.group.clone(),
        size_bytes: config.size_bytes,
        role: Role::Secondary,
        epoch: Epoch::ZERO,
        disk: DiskState::Failed,
        disk_reason: Some(why.to_owned()),
        full: false,
        membership: None,
        generation: Generation(0),
        boot: BootId(0),
        device: None,
        held: false,
        filesystem: None,
        frozen: None,
        frozen_since: None,
        required: Vec::new(),
        peers: Vec::new(),
        activity_log_extents: 0,
        counters: Counters::default(),
        alarms: vec![why.to_owned()],
        verify: None,
        resync_paused: false,
        snapshots: Vec::new(),
        export: None,
        clients: None,
    }
}
