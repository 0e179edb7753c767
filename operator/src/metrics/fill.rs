//! From the snapshot to values. A state is a set of 0/1 series, one per possible value, so that a state which
//! ended is seen to end.

use super::Scrape;
use crate::cli::words;
use crate::status::{
    ClusterStatus, EtcdState, EtcdStatus, FencedBy, GroupStatus, HeartbeatStatus, LinkState, NodeMode,
    NodeStatus, Safety,
};
use baton_replicator::api::{PeerStatus, VerifyState, VerifyStatus, VolumeStatus};
use baton_replicator::types::ConnectionState;
use std::time::UNIX_EPOCH;

pub(super) fn fill(scrape: &mut Scrape, status: &ClusterStatus) {
    scrape.gauge("baton_build_info", &[&status.cluster, status.node.as_str(), &status.version], 1.0);
    for health in words::ALL_HEALTH {
        scrape.flag("baton_health", &[words::health(health)], status.health == health);
    }
    scrape.flag("baton_etcd_reachable", &[], status.etcd.reachable);
    fill_etcd(scrape, &status.etcd);
    for certificate in &status.certificates {
        #[allow(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
        let expires = certificate.expires_unix_s as f64;
        scrape.gauge("baton_certificate_expires_timestamp_seconds", &[&certificate.name], expires);
    }
    if let Some(at) = unix_seconds(&status.at) {
        scrape.gauge("baton_snapshot_timestamp_seconds", &[], at);
    }
    scrape.flag("baton_replicator_reachable", &[], status.replicator_reachable);
    let handshakes = &status.handshakes;
    scrape.counter("baton_replication_handshakes_total", &[], handshakes.completed);
    for (reason, failed) in &handshakes.failed {
        scrape.counter("baton_replication_handshake_failures_total", &[reason.word()], *failed);
    }
    let here = status.nodes.iter().find(|n| n.name == status.node);
    if let Some(memory) = here.and_then(|n| n.replicator_memory.as_ref()) {
        scrape.gauge("baton_replicator_resident_bytes", &[], number(memory.resident_bytes));
        scrape.flag("baton_replicator_memory_locked", &[], memory.locked);
        scrape.flag("baton_replicator_io_flusher", &[], memory.io_flusher);
        scrape.counter("baton_replicator_memory_waits_total", &[], memory.waits);
    }
    for node in &status.nodes {
        let name = node.name.as_str();
        scrape.flag("baton_node_alive", &[name], node.alive);
        for mode in words::ALL_MODES {
            scrape.flag("baton_node_mode", &[name, words::mode(mode)], node.mode == mode);
        }
        if let Some(note) = &node.mode_note {
            if let Some(since) = unix_seconds(&note.since) {
                scrape.gauge("baton_node_mode_since_timestamp_seconds", &[name], since);
            }
            let until = note.until.as_deref().filter(|_| node.mode == NodeMode::Maintenance);
            if let Some(until) = until.and_then(unix_seconds) {
                scrape.gauge("baton_node_maintenance_until_timestamp_seconds", &[name], until);
            }
        }
        if let Some(version) = &node.version {
            scrape.gauge("baton_node_version_info", &[name, version], 1.0);
        }
        if let Some(fencing) = &node.fencing {
            for (word, by) in
                [("nftables", FencedBy::Nftables), ("address_lifetime", FencedBy::AddressLifetime)]
            {
                scrape.flag("baton_node_fencing", &[name, word], fencing.by == by);
            }
            scrape.flag("baton_node_watchdog", &[name], fencing.watchdog);
            if node.name == status.node {
                scrape.counter("baton_fencing_rules_restored_total", &[], fencing.restored);
            }
        }
        fill_fence(scrape, node);
        scrape.gauge("baton_heartbeat_longest_gap_seconds", &[name], thousandths(node.longest_gap_ms));
        scrape.counter("baton_heartbeats_late_total", &[name], node.late_heartbeats);
        scrape.counter("baton_heartbeats_refused_total", &[name], node.refused_datagrams);
    }
    fill_heartbeat(scrape, &status.heartbeat);
    for group in &status.groups {
        fill_group(scrape, group);
        for volume in &group.volumes {
            fill_volume(scrape, volume);
        }
    }
    for target in &status.notifications {
        let name = target.target.as_str();
        for (result, value) in
            [("delivered", target.delivered), ("failed", target.failed), ("given_up", target.given_up)]
        {
            scrape.counter("baton_notifications_total", &[name, result], value);
        }
        scrape.gauge("baton_notification_queue", &[name], number(target.queued));
    }
}

fn fill_etcd(scrape: &mut Scrape, etcd: &EtcdStatus) {
    for state in EtcdState::ALL {
        scrape.flag("baton_etcd_state", &[state.word()], etcd.state == state);
    }
    if let Some(voters) = etcd.voters {
        scrape.gauge("baton_etcd_voters", &[], f64::from(voters));
    }
    for member in &etcd.members {
        if let Some(version) = &member.version {
            let bugs = u64::try_from(crate::etcd::known_bugs(version).len()).unwrap_or(u64::MAX);
            scrape.gauge("baton_etcd_member_known_bugs", &[&member.endpoint], number(bugs));
        }
    }
}

fn fill_fence(scrape: &mut Scrape, node: &NodeStatus) {
    let Some(fence) = &node.fence else { return };
    let name = node.name.as_str();
    for device in &fence.devices {
        if let Some(answers) = device.answers {
            let level = device.level.to_string();
            scrape.flag("baton_fence_device_up", &[name, &level, &device.name], answers);
        }
    }
    for (result, value) in [("done", fence.done), ("failed", fence.failed)] {
        scrape.counter("baton_fence_actions_total", &[name, result], value);
    }
    scrape.flag("baton_fence_off", &[name], fence.off);
}

fn fill_heartbeat(scrape: &mut Scrape, heartbeat: &HeartbeatStatus) {
    for link in heartbeat.links.iter().filter(|l| l.kind != "none") {
        let name = link.name.as_str();
        scrape.counter("baton_heartbeat_link_sent_total", &[name], link.counters.sent);
        scrape.counter("baton_heartbeat_link_dropped_total", &[name], link.counters.dropped);
        for refused in &link.counters.refused {
            let labels = [name, refused.reason.as_str()];
            scrape.counter("baton_heartbeat_link_refused_total", &labels, refused.datagrams);
        }
        for peer in &link.peers {
            let labels = [peer.node.as_str(), peer.address.as_str()];
            scrape.flag("baton_heartbeat_link_up", &labels, peer.state == LinkState::Up);
            scrape.flag("baton_heartbeat_link_one_way", &labels, peer.one_way);
            scrape.counter("baton_heartbeat_link_lost_total", &labels, peer.counters.lost);
            scrape.counter("baton_heartbeat_link_late_total", &labels, peer.counters.late);
        }
    }
    let measured = &heartbeat.measured;
    for (timer, ms) in
        [("warntime", measured.suggested_warntime_ms), ("deadtime", measured.suggested_deadtime_ms)]
    {
        if let Some(ms) = ms {
            scrape.gauge("baton_heartbeat_suggested_seconds", &[timer], thousandths(ms));
        }
    }
}

fn fill_group(scrape: &mut Scrape, group: &GroupStatus) {
    let name = group.name.as_str();
    scrape.gauge("baton_group_epoch", &[name], number(group.epoch.number));
    for part in &group.nodes {
        let node = part.node.as_str();
        scrape.flag("baton_group_leader", &[name, node], group.leader.as_ref() == Some(&part.node));
        if !part.asynchronous {
            scrape.flag("baton_group_in_sync", &[name, node], group.in_sync.contains(&part.node));
        }
        scrape.flag("baton_group_ready", &[name, node], part.ready);
        for state in words::ALL_GROUP_STATES {
            let labels = [name, node, words::group_state(state)];
            scrape.flag("baton_group_state", &labels, part.state == state);
        }
    }
    for level in Safety::ALL {
        let there = group.safety.contains(&level);
        scrape.flag("baton_group_safety", &[name, level.label()], there);
    }
    scrape.flag("baton_group_pinned", &[name], group.pinned.is_some());
    scrape.flag("baton_group_disabled", &[name], group.is_unwanted());
    let standbys = group.ready_standbys().count();
    scrape.gauge("baton_group_ready_standbys", &[name], number(standbys as u64));
    if let Some(takeover) = &group.last_takeover {
        for step in &takeover.steps {
            let labels = [name, takeover.kind.as_str(), step.step.as_str()];
            scrape.gauge("baton_last_takeover_seconds", &labels, thousandths(step.ms));
        }
        let labels = [name, takeover.kind.as_str(), "total"];
        scrape.gauge("baton_last_takeover_seconds", &labels, thousandths(takeover.total_ms));
    }
    let seen = &group.availability;
    scrape.seconds("baton_group_observed_seconds_total", &[name], seen.observed_seconds);
    scrape.seconds("baton_group_unavailable_seconds_total", &[name], seen.unavailable_seconds);
    scrape.counter("baton_group_outages_total", &[name], seen.outages);
    for service in &group.services {
        let labels = [name, service.name.as_str()];
        scrape.flag("baton_service_running", &labels, service.state == "running");
        scrape.counter("baton_service_restarts_total", &labels, u64::from(service.restarts));
    }
}

fn fill_volume(scrape: &mut Scrape, volume: &VolumeStatus) {
    let name = volume.volume.as_str();
    for role in words::ALL_ROLES {
        scrape.flag("baton_volume_role", &[name, words::role(role)], volume.role == role);
    }
    for state in words::ALL_DISK_STATES {
        scrape.flag("baton_volume_disk_state", &[name, words::disk(state)], volume.disk == state);
    }
    scrape.flag("baton_volume_frozen", &[name], volume.frozen.is_some());
    scrape.flag("baton_volume_full", &[name], volume.full);
    scrape.gauge("baton_volume_size_bytes", &[name], number(volume.size_bytes));
    let wanted = volume.growth.as_ref().map_or(volume.size_bytes, |g| g.to_bytes);
    scrape.gauge("baton_volume_wanted_bytes", &[name], number(wanted));
    scrape.flag("baton_volume_growing", &[name], volume.growth.is_some());
    scrape.gauge("baton_activity_log_extents", &[name], number(volume.activity_log_extents));
    scrape.gauge("baton_volume_alarms", &[name], number(volume.alarms.len() as u64));
    let counters = &volume.counters;
    for (metric, value) in [
        ("baton_volume_reads_total", counters.reads),
        ("baton_volume_read_bytes_total", counters.read_bytes),
        ("baton_volume_writes_total", counters.writes),
        ("baton_volume_written_bytes_total", counters.written_bytes),
        ("baton_volume_flushes_total", counters.flushes),
        ("baton_volume_discards_total", counters.discards),
    ] {
        scrape.counter(metric, &[name], value);
    }
    scrape.flag("baton_resync_paused", &[name], volume.resync_paused);
    for copy in &volume.snapshots {
        let labels = [name, copy.node.as_str(), copy.name.as_str()];
        scrape.gauge("baton_volume_snapshot_bytes", &labels, number(copy.bytes));
    }
    for peer in &volume.peers {
        fill_peer(scrape, name, peer);
    }
    if let Some(clients) = volume.clients {
        scrape.gauge("baton_volume_nbd_clients", &[name], number(clients));
    }
    if let Some(export) = &volume.export {
        scrape.gauge("baton_export_clients", &[name], number(export.clients));
        scrape.gauge("baton_export_copied_bytes", &[name], number(export.copied_bytes));
        scrape.flag("baton_export_broken", &[name], export.broken.is_some());
    }
    if let Some(verify) = &volume.verify {
        fill_verify(scrape, name, verify);
    }
}

fn fill_verify(scrape: &mut Scrape, volume: &str, verify: &VerifyStatus) {
    scrape.flag("baton_verify_running", &[volume], verify.state.is_running());
    let done = number(verify.checked_bytes) / number(verify.total_bytes.max(1));
    scrape.gauge("baton_verify_progress_ratio", &[volume], done.min(1.0));
    scrape.gauge("baton_verify_mismatched_bytes", &[volume], number(verify.mismatched_bytes));
    scrape.gauge("baton_verify_repaired_bytes", &[volume], number(verify.repaired_bytes));
    let ended = verify.ended_at.as_deref().and_then(|at| humantime::parse_rfc3339(at).ok());
    if let (VerifyState::Done, Some(ended)) = (verify.state, ended) {
        let since = ended.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        scrape.gauge("baton_verify_last_timestamp_seconds", &[volume], number(since.as_secs()));
    }
}

fn fill_peer(scrape: &mut Scrape, volume: &str, peer: &PeerStatus) {
    let labels = [volume, peer.node.as_str()];
    for state in words::ALL_CONNECTIONS {
        let labels = [volume, peer.node.as_str(), words::connection(state)];
        scrape.flag("baton_replication_connection_state", &labels, peer.connection == state);
    }
    // The word for replicas that refused each other's data; by no other way is a peer left alone.
    let apart = peer.connection == ConnectionState::StandAlone;
    scrape.flag("baton_replication_split_brain", &labels, apart);
    if let Some(link) = &peer.link {
        let labels = [volume, peer.node.as_str(), link.transport.as_str(), link.address.as_str()];
        scrape.gauge("baton_replication_link_info", &labels, 1.0);
    }
    scrape.gauge("baton_replication_lag_seconds", &labels, number(peer.lag_us) / 1e6);
    scrape.gauge("baton_replication_oldest_unacked_seconds", &labels, thousandths(peer.oldest_unacked_ms));
    scrape.gauge("baton_replication_unacked_bytes", &labels, number(peer.unacked_bytes));
    scrape.gauge("baton_dirty_bytes", &labels, number(peer.dirty_bytes));
    if let Some(resync) = &peer.resync {
        let ratio = if resync.total_bytes == 0 {
            1.0
        } else {
            (number(resync.done_bytes) / number(resync.total_bytes)).min(1.0)
        };
        scrape.gauge("baton_resync_progress_ratio", &labels, ratio);
        scrape.gauge("baton_resync_bytes_per_second", &labels, number(resync.bytes_per_s));
        scrape.gauge("baton_resync_total_bytes", &labels, number(resync.total_bytes));
        scrape.gauge("baton_resync_done_bytes", &labels, number(resync.done_bytes));
        scrape.gauge("baton_resync_stalled_seconds", &labels, number(resync.stalled_s));
        if let Some(eta) = resync.eta_s {
            scrape.gauge("baton_resync_eta_seconds", &labels, number(eta));
        }
    }
    scrape.counter("baton_resync_copied_bytes_total", &labels, peer.copied_bytes);
    scrape.counter("baton_resync_spared_bytes_total", &labels, peer.spared_bytes);
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus knows only doubles")]
fn number(value: u64) -> f64 {
    value as f64
}

fn thousandths(ms: u64) -> f64 {
    number(ms) / 1000.0
}

/// An RFC 3339 time as seconds since 1970.
fn unix_seconds(at: &str) -> Option<f64> {
    Some(humantime::parse_rfc3339(at).ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}
