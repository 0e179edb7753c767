//! The list of all metrics.

use std::fmt::Write;

/// What kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows while the process it counts for lives.
    Counter,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, in base units.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

/// All metrics, in the order of the documentation.
pub const METRICS: &[Metric] = &[
    gauge("baton_build_info", &["cluster", "node", "version"], "Always 1; the labels say who answers."),
    gauge("baton_health", &["health"], "1 for the cluster's present health (ok, degraded, down), else 0."),
    gauge("baton_etcd_reachable", &[], "The agent's last request to etcd succeeded."),
    gauge("baton_node_alive", &["node"], "The node was heard within warntime."),
    gauge("baton_node_mode", &["node", "mode"], "1 for the node's present mode, else 0."),
    gauge(
        "baton_heartbeat_longest_gap_seconds",
        &["node"],
        "Longest silence between two heartbeats of the node in the last minute.",
    ),
    counter(
        "baton_heartbeats_late_total",
        &["node"],
        "Heartbeats of the node that came later than warntime.",
    ),
    counter(
        "baton_heartbeats_refused_total",
        &["node"],
        "Datagrams refused (bad authentication, replay, other cluster).",
    ),
    gauge("baton_group_leader", &["group", "node"], "1 for the node that leads the group, else 0."),
    gauge("baton_group_epoch", &["group"], "Number of the group's epoch."),
    gauge(
        "baton_group_state",
        &["group", "node", "state"],
        "1 for the state of the group on the node, else 0.",
    ),
    gauge("baton_group_in_sync", &["group", "node"], "The node is in the group's in-sync set."),
    gauge("baton_group_ready", &["group", "node"], "The node could take the group over now."),
    gauge(
        "baton_last_takeover_seconds",
        &["group", "kind", "step"],
        "Duration of the newest change of leadership by step; step \"total\" is all of it.",
    ),
    gauge("baton_service_running", &["group", "service"], "The service's container runs on this node."),
    counter(
        "baton_service_restarts_total",
        &["group", "service"],
        "Restarts in place since the group started here.",
    ),
    gauge("baton_volume_role", &["volume", "role"], "1 for the role of this node's replica, else 0."),
    gauge("baton_volume_disk_state", &["volume", "state"], "1 for the state of this node's data, else 0."),
    gauge("baton_volume_frozen", &["volume"], "The volume's I/O is frozen."),
    gauge("baton_volume_size_bytes", &["volume"], "Size of the volume."),
    gauge("baton_activity_log_extents", &["volume"], "Extents of 4 MiB in the activity log."),
    gauge("baton_volume_alarms", &["volume"], "Alarms held: nonsense from a peer or the disk."),
    counter("baton_volume_reads_total", &["volume"], "Reads answered."),
    counter("baton_volume_read_bytes_total", &["volume"], "Bytes read."),
    counter("baton_volume_writes_total", &["volume"], "Writes acknowledged."),
    counter("baton_volume_written_bytes_total", &["volume"], "Bytes written."),
    counter("baton_volume_flushes_total", &["volume"], "Flushes acknowledged."),
    counter("baton_volume_discards_total", &["volume"], "Discards and write-zeroes acknowledged."),
    gauge(
        "baton_replication_connection_state",
        &["volume", "peer", "state"],
        "1 for the state of the connection to the peer, else 0.",
    ),
    gauge(
        "baton_replication_lag_seconds",
        &["volume", "peer"],
        "Smoothed time from sending a write to the peer's acknowledgement.",
    ),
    gauge(
        "baton_replication_oldest_unacked_seconds",
        &["volume", "peer"],
        "Age of the oldest request that the peer has not acknowledged.",
    ),
    gauge(
        "baton_replication_unacked_bytes",
        &["volume", "peer"],
        "Bytes sent to the peer and not acknowledged.",
    ),
    gauge("baton_dirty_bytes", &["volume", "peer"], "Bytes that differ or may differ from the peer's."),
    gauge(
        "baton_resync_progress_ratio",
        &["volume", "peer"],
        "Part of the running resync that is done, 0 to 1.",
    ),
    gauge("baton_resync_bytes_per_second", &["volume", "peer"], "Speed of the running resync."),
];

/// The table of `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
    text
}
