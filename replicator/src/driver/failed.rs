//! The status of a volume that could not be opened: nothing is known of it but why.

use crate::api::{VolumeConfig, VolumeStatus};
use crate::types::DiskState;

/// Status of a volume that could not be opened.
pub(super) fn status(config: &VolumeConfig, why: &str) -> VolumeStatus {
    VolumeStatus {
        size_bytes: config.size_bytes,
        disk: DiskState::Failed,
        disk_reason: Some(why.to_owned()),
        alarms: vec![why.to_owned()],
        ..VolumeStatus::unknown(config.volume.clone(), config.group.clone())
    }
}
