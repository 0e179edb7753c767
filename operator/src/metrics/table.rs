//! The list of all metrics.

use std::fmt::Write;

/// What kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows while the process it counts for lives.
    Counter,
    /// Observations sorted into buckets.
    Histogram,
}

impl Kind {
    /// Prometheus' word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, in base units.
    pub name: &'static str,
    /// Gauge, counter or histogram.
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

/// All metrics made of the status snapshot, in the order of the documentation. Those that the process counts itself are
/// in [`LIVE`](super::LIVE).
pub const METRICS: &[Metric] = &[
    gauge("baton_build_info", &["cluster", "node", "version"], "Always 1; the labels say who answers."),
    gauge("baton_health", &["health"], "1 for the cluster's present health (ok, degraded, down), else 0."),
    gauge("baton_etcd_reachable", &[], "The agent's last request to etcd succeeded."),
    gauge(
        "baton_etcd_state",
        &["state"],
        "1 for how etcd is, for this agent (unknown, answers, slow, no_leader, unreachable), 0 for the others.",
    ),
    gauge("baton_etcd_voters", &[], "Members of etcd that vote; absent before that is known."),
    gauge(
        "baton_etcd_member_known_bugs",
        &["endpoint"],
        "Bugs that matter here and that the member's version is known to have; `baton doctor` names them.",
    ),
    gauge(
        "baton_certificate_expires_timestamp_seconds",
        &["certificate"],
        "When the certificate that this agent uses (api, ca, etcd, etcd-ca) expires, seconds since 1970.",
    ),
    gauge(
        "baton_snapshot_timestamp_seconds",
        &[],
        "Wall clock of the newest status snapshot: one that stands still is that of an agent that hangs.",
    ),
    gauge("baton_replicator_reachable", &[], "The replicator of this node answers its agent."),
    gauge("baton_replicator_resident_bytes", &[], "Resident memory of the replicator of this node."),
    gauge(
        "baton_replicator_memory_locked",
        &[],
        "The replicator's pages stay in memory (mlockall); 0: the kernel refused it, IPC_LOCK is missing.",
    ),
    gauge(
        "baton_replicator_io_flusher",
        &[],
        "The replicator's allocations do not wait for write-back (PR_SET_IO_FLUSHER); 0: refused, SYS_RESOURCE is missing.",
    ),
    counter(
        "baton_replicator_memory_waits_total",
        &[],
        "How often the replicator left requests or frames waiting because those under way held as many bytes as they may.",
    ),
    counter(
        "baton_replication_handshakes_total",
        &[],
        "Connections with other replicators in which both sides proved who they are; a session has two.",
    ),
    counter(
        "baton_replication_handshake_failures_total",
        &["reason"],
        "Connections with other replicators that came to nothing: certificate, wrong_node, secret, transport, version, not_admitted, refused (by the peer, which counts its reason), busy, broken.",
    ),
    gauge("baton_node_alive", &["node"], "The node was heard within warntime."),
    gauge("baton_node_mode", &["node", "mode"], "1 for the node's present mode, else 0."),
    gauge(
        "baton_node_mode_since_timestamp_seconds",
        &["node"],
        "When the node's present mode was set, as etcd keeps it, seconds since 1970; absent if it never was.",
    ),
    gauge(
        "baton_node_maintenance_until_timestamp_seconds",
        &["node"],
        "When the node's maintenance is to be over, seconds since 1970; absent without maintenance or end.",
    ),
    gauge(
        "baton_node_version_info",
        &["node", "version"],
        "Always 1; the agent version that the node tells.",
    ),
    gauge(
        "baton_node_fencing",
        &["node", "by"],
        "1 for what keeps the node's addresses from answering when it may not serve (nftables, address_lifetime), else 0.",
    ),
    gauge("baton_node_watchdog", &["node"], "A watchdog device resets the node if its agent hangs."),
    counter(
        "baton_fencing_rules_restored_total",
        &[],
        "How often somebody else removed this node's nftables rules, and the agent made them again.",
    ),
    gauge(
        "baton_fence_device_up",
        &["node", "level", "device"],
        "The fence device of the node answered this agent when it was asked last (every 5 min).",
    ),
    counter(
        "baton_fence_actions_total",
        &["node", "result"],
        "Attempts of this agent to switch the node off or on by its fence devices, by result (done, failed).",
    ),
    gauge(
        "baton_fence_off",
        &["node"],
        "The node was switched off by fence devices and has not been heard since.",
    ),
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
    gauge(
        "baton_heartbeat_link_up",
        &["node", "address"],
        "The node was heard on the link within warntime; labels as of baton_heartbeats_received_total.",
    ),
    gauge(
        "baton_heartbeat_link_one_way",
        &["node", "address"],
        "Only one of the two hears the other on the link, for at least deadtime.",
    ),
    counter(
        "baton_heartbeat_link_lost_total",
        &["node", "address"],
        "Heartbeats that the node sent on the link and that did not come, by their numbers.",
    ),
    counter(
        "baton_heartbeat_link_late_total",
        &["node", "address"],
        "Heartbeats of the node that came later than warntime on the link.",
    ),
    counter("baton_heartbeat_link_sent_total", &["link"], "Heartbeats sent on the link."),
    counter(
        "baton_heartbeat_link_dropped_total",
        &["link"],
        "Heartbeats that the kernel would not take, or that a serial line had no room for.",
    ),
    counter(
        "baton_heartbeat_link_refused_total",
        &["link", "reason"],
        "Datagrams refused on the link: malformed, version, other_cluster, forged, replayed, stranger.",
    ),
    gauge(
        "baton_heartbeat_suggested_seconds",
        &["timer"],
        "Timers (warntime, deadtime) that the gaps of the last day would allow; absent while too few were measured.",
    ),
    gauge("baton_group_leader", &["group", "node"], "1 for the node that leads the group, else 0."),
    gauge("baton_group_epoch", &["group"], "Number of the group's epoch."),
    gauge(
        "baton_group_state",
        &["group", "node", "state"],
        "1 for the state of the group on the node, else 0.",
    ),
    gauge(
        "baton_group_in_sync",
        &["group", "node"],
        "The node is in the group's in-sync set; absent for one that is reached by protocol A.",
    ),
    gauge("baton_group_ready", &["group", "node"], "The node could take the group over now."),
    gauge(
        "baton_group_safety",
        &["group", "level"],
        "What keeps the group's leader from serving beside another node, beside promises (kernel_gate, address_lifetime_only, watchdog, external_agent).",
    ),
    gauge("baton_group_pinned", &["group"], "Somebody has pinned it: it leaves its node only when it must."),
    gauge(
        "baton_group_disabled",
        &["group"],
        "Somebody has disabled it, or the group that it goes with: it is stopped, and nobody starts it.",
    ),
    gauge("baton_group_ready_standbys", &["group"], "Nodes that could take the group over now."),
    gauge(
        "baton_last_takeover_seconds",
        &["group", "kind", "step"],
        "Duration of the newest change of leadership by step; step \"total\" is all until it serves, \"answer\" the first good answer after that.",
    ),
    counter(
        "baton_group_observed_seconds_total",
        &["group"],
        "Seconds for which this agent has watched the group since its start.",
    ),
    counter(
        "baton_group_unavailable_seconds_total",
        &["group"],
        "Seconds of these in which nobody served it; from the last sign of life of a leader that fell silent.",
    ),
    counter("baton_group_outages_total", &["group"], "Times it stopped serving, planned moves included."),
    gauge("baton_service_running", &["group", "service"], "The service's container runs on this node."),
    counter(
        "baton_service_restarts_total",
        &["group", "service"],
        "Restarts in place since the group started here.",
    ),
    gauge("baton_volume_role", &["volume", "role"], "1 for the role of this node's replica, else 0."),
    gauge("baton_volume_disk_state", &["volume", "state"], "1 for the state of this node's data, else 0."),
    gauge("baton_volume_frozen", &["volume"], "The volume's I/O is frozen."),
    gauge("baton_volume_full", &["volume"], "The backing store has no space: writes wait for some."),
    gauge("baton_volume_size_bytes", &["volume"], "Size of the volume."),
    gauge(
        "baton_volume_wanted_bytes",
        &["volume"],
        "Size that the volume is to have: larger than its size while it grows.",
    ),
    gauge(
        "baton_volume_growing",
        &["volume"],
        "The volume is being made larger, its device or its filesystem; status says what it waits for.",
    ),
    gauge("baton_activity_log_extents", &["volume"], "Extents of 4 MiB in the activity log."),
    gauge("baton_volume_alarms", &["volume"], "Alarms held: nonsense from a peer or the disk."),
    counter("baton_volume_reads_total", &["volume"], "Reads answered."),
    counter("baton_volume_read_bytes_total", &["volume"], "Bytes read."),
    counter("baton_volume_writes_total", &["volume"], "Writes acknowledged."),
    counter("baton_volume_written_bytes_total", &["volume"], "Bytes written."),
    counter("baton_volume_flushes_total", &["volume"], "Flushes acknowledged."),
    counter("baton_volume_discards_total", &["volume"], "Discards and write-zeroes acknowledged."),
    gauge(
        "baton_volume_snapshot_bytes",
        &["volume", "node", "snapshot"],
        "What a copy of data that was given up after a split brain occupies; absent when it is released.",
    ),
    gauge(
        "baton_replication_connection_state",
        &["volume", "peer", "state"],
        "1 for the state of the connection to the peer, else 0.",
    ),
    gauge(
        "baton_replication_link_info",
        &["volume", "peer", "transport", "address"],
        "1 for the way blocks go: TLS 1.3 or plain, and the peer's address of the link in use.",
    ),
    gauge(
        "baton_replication_split_brain",
        &["volume", "peer"],
        "This node's replica and the peer's stay apart because both, or the wrong one, have data of their own.",
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
    gauge(
        "baton_resync_bytes_per_second",
        &["volume", "peer"],
        "Speed of the running resync over the last 16 seconds.",
    ),
    gauge("baton_resync_total_bytes", &["volume", "peer"], "Bytes that the running resync has to copy."),
    gauge("baton_resync_done_bytes", &["volume", "peer"], "Bytes of it that are done."),
    gauge(
        "baton_resync_eta_seconds",
        &["volume", "peer"],
        "Estimated time until the running resync ends; absent if it does not move.",
    ),
    gauge(
        "baton_resync_stalled_seconds",
        &["volume", "peer"],
        "For how long the running resync has not moved although nothing holds it.",
    ),
    gauge(
        "baton_resync_paused",
        &["volume"],
        "1 while resyncs of the volume stand still by command, else 0.",
    ),
    counter(
        "baton_resync_copied_bytes_total",
        &["volume", "peer"],
        "Bytes that resyncs have copied to the peer.",
    ),
    counter(
        "baton_resync_spared_bytes_total",
        &["volume", "peer"],
        "Bytes that resyncs compared and did not copy because the peer had the same.",
    ),
    counter(
        "baton_notifications_total",
        &["target", "result"],
        "Notifications of this node: delivered, attempts that failed, messages given_up.",
    ),
    gauge(
        "baton_notification_queue",
        &["target"],
        "Notifications of this node that wait for their delivery.",
    ),
    gauge(
        "baton_volume_nbd_clients",
        &["volume"],
        "NBD clients of a primary volume with front_end: nbd; absent for others.",
    ),
    gauge(
        "baton_export_clients",
        &["volume"],
        "NBD clients of the snapshot that is exported here for backup; absent if none is.",
    ),
    gauge(
        "baton_export_copied_bytes",
        &["volume"],
        "Bytes of that snapshot that were copied because they changed since.",
    ),
    gauge("baton_export_broken", &["volume"], "1 if that snapshot cannot be read any more, else 0."),
    gauge("baton_verify_running", &["volume"], "1 while the replicas are being compared, else 0."),
    gauge(
        "baton_verify_progress_ratio",
        &["volume"],
        "Part of the running or last verify that is done, 0 to 1.",
    ),
    gauge("baton_verify_mismatched_bytes", &["volume"], "Bytes that differed in the running or last verify."),
    gauge(
        "baton_verify_repaired_bytes",
        &["volume"],
        "Bytes that the running or last verify copied from the primary because they differed.",
    ),
    gauge(
        "baton_verify_last_timestamp_seconds",
        &["volume"],
        "When the last verify that compared everything ended, seconds since 1970; absent if it was stopped or none ran.",
    ),
];

/// The table of `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in METRICS.iter().chain(super::LIVE) {
        let kind = metric.kind.word();
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
    }
    text
}
