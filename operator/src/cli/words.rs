//! The words for states, as the API, the CLI and the metrics write them, and the lists of all of them.
//!
//! Matches are exhaustive, so that a new state cannot be forgotten here; a test holds the lists to the matches.

use crate::status::{GroupState, Health, NodeMode};
use baton_replicator::types::{ConnectionState, DiskState, Role};

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
