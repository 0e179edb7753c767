//! The words for states, as the API, the CLI and the metrics write them, and the lists of all of them.
//!
//! Matches are exhaustive, so that a new state cannot be forgotten here; a test holds the lists to the matches.

use crate::status::{
    FenceStatus, FencedBy, FencingStatus, GroupState, GroupStatus, Health, NodeMode, Safety,
};
use baton_replicator::types::{ConnectionState, DiskState, Role};
use std::time::Duration;

/// What fences a node, as a sentence.
#[must_use]
pub fn fencing(fencing: &FencingStatus) -> String {
    let by = match fencing.by {
        FencedBy::Nftables => "nftables",
        FencedBy::AddressLifetime => "address lifetime",
    };
    let seconds = Duration::from_millis(fencing.bound_ms).as_secs_f64();
    let why = fencing.reason.as_ref().map(|why| format!("; nftables: {why}")).unwrap_or_default();
    let watchdog = if fencing.watchdog { "; a watchdog behind it" } else { "" };
    format!(
        "{by}: an address answers {seconds:.2} s at most past the moment until which the node may \
         serve{why}{watchdog}"
    )
}

/// A node's external fence devices, as a sentence.
#[must_use]
pub fn fence(fence: &FenceStatus) -> String {
    let devices: Vec<String> = fence
        .devices
        .iter()
        .map(|d| {
            let answers = if d.answers == Some(false) { ", DOES NOT ANSWER" } else { "" };
            format!("{} (level {}{answers})", d.name, d.level)
        })
        .collect();
    let off = if fence.off { "; switched off, and not heard since" } else { "" };
    let devices = if devices.is_empty() { "none any more".into() } else { devices.join(", ") };
    format!("{devices}{off}")
}

/// Whether somebody has pinned or disabled a group, since when and why: `pinned for 20 min, by ada: audit`; and whether it
/// stands still with another one.
pub fn placement<'g>(group: &'g GroupStatus, now: &'g str) -> impl Iterator<Item = String> + 'g {
    let with = group.rests_with.as_ref().map(|lead| format!("goes with {lead}, which is disabled"));
    let both = [("disabled", &group.disabled), ("pinned", &group.pinned)];
    let notes = both.into_iter().filter_map(move |(word, note)| {
        let note = note.as_ref()?;
        let age = super::paint::age(&note.since, now).map(|age| format!(" for {age}")).unwrap_or_default();
        let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
        Some(format!("{word}{age}, by {}{reason}", note.owner))
    });
    notes.chain(with)
}

/// What is in force on a group's leader, as a list.
#[must_use]
pub fn safety(levels: &[Safety]) -> String {
    levels.iter().map(|level| level.words()).collect::<Vec<_>>().join(", ")
}

macro_rules! words {
    ($(#[$doc:meta])* $function:ident, $all:ident, $type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[must_use]
        pub fn $function(value: $type) -> &'static str {
            match value {
                $($type::$variant => $word),+
            }
        }

        /// All of them, in order.
        pub const $all: [$type; words!(@count $($variant)+)] = [$($type::$variant),+];
    };
    (@count) => { 0 };
    (@count $head:ident $($tail:ident)*) => { 1 + words!(@count $($tail)*) };
}

words! {
    /// Health of the cluster.
    health, ALL_HEALTH, Health { Ok => "ok", Degraded => "degraded", Down => "down" }
}
words! {
    /// Mode of a node.
    mode, ALL_MODES, NodeMode { Online => "online", Standby => "standby", Maintenance => "maintenance" }
}
words! {
    /// State of a group on a node.
    group_state, ALL_GROUP_STATES, GroupState {
        Unknown => "unknown",
        Standby => "standby",
        Campaigning => "campaigning",
        Waiting => "waiting",
        Starting => "starting",
        Serving => "serving",
        Fenced => "fenced",
        Stopping => "stopping",
        HandingOver => "handing_over",
        Failed => "failed",
    }
}
words! {
    /// Role of a replica.
    role, ALL_ROLES, Role { Primary => "Primary", Secondary => "Secondary" }
}
words! {
    /// State of a replica's data.
    disk, ALL_DISK_STATES, DiskState {
        Diskless => "Diskless",
        Attaching => "Attaching",
        Failed => "Failed",
        Inconsistent => "Inconsistent",
        Outdated => "Outdated",
        Consistent => "Consistent",
        UpToDate => "UpToDate",
        DUnknown => "DUnknown",
    }
}
words! {
    /// State of a connection.
    connection, ALL_CONNECTIONS, ConnectionState {
        StandAlone => "StandAlone",
        Connecting => "Connecting",
        Handshake => "Handshake",
        Connected => "Connected",
        SyncSource => "SyncSource",
        SyncTarget => "SyncTarget",
        Timeout => "Timeout",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are those of the JSON documents.
    #[test]
    fn words_are_the_same_as_in_json() {
        fn same<T: serde::Serialize + Copy>(all: &[T], word: fn(T) -> &'static str) {
            for value in all {
                assert_eq!(serde_json::to_value(value).unwrap(), word(*value));
            }
        }
        same(&ALL_HEALTH, health);
        same(&ALL_MODES, mode);
        same(&ALL_GROUP_STATES, group_state);
        same(&ALL_ROLES, role);
        same(&ALL_DISK_STATES, disk);
        same(&ALL_CONNECTIONS, connection);
    }
}
