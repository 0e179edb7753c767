//! Volumes as text: a short form for the status page, a list, and everything about one. Pure.

use super::paint::{Cell, Paint, Tone, bytes, cell, duration_ms, hanging, table};
use super::words;
use baton_replicator::api::{PeerStatus, ResyncProgress, VolumeStatus};
use baton_replicator::types::{ConnectionState, DiskState};
use std::fmt::Write;

/// Characters of a sync bar, as in /proc/drbd.
const BAR: u64 = 20;

/// The lines of a volume on the status page.
#[must_use]
pub fn render_short(volume: &VolumeStatus, paint: Paint) -> String {
    let mut out = String::new();
    let disk = paint.tone(disk_tone(volume.disk), words::disk(volume.disk));
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        out,
        "  volume {}: {}, {}/{disk}",
        volume.volume,
        bytes(volume.size_bytes),
        words::role(volume.role)
    );
    if let Some(reason) = &volume.frozen {
        out.push_str(&paint.tone(Tone::Bad, hanging("    FROZEN: ", reason).trim_end()));
        out.push('\n');
    }
    for peer in &volume.peers {
        out.push_str(&peer_lines(peer, paint));
    }
    for alarm in &volume.alarms {
        out.push_str(&paint.tone(Tone::Bad, hanging("    alarm: ", alarm).trim_end()));
        out.push('\n');
    }
    out
}

fn peer_lines(peer: &PeerStatus, paint: Paint) -> String {
    let connection = paint.tone(connection_tone(peer.connection), words::connection(peer.connection));
    let disk = paint.tone(disk_tone(peer.disk), words::disk(peer.disk));
    let mut line = format!("    {}: {connection}, {disk}", peer.node);
    if peer.dirty_bytes > 0 {
        let _ = write!(line, ", {} out of sync", bytes(peer.dirty_bytes));
    }
    let mut out = format!("{line}\n");
    if let Some(reason) = &peer.reason {
        out.push_str(&hanging("      because ", reason));
    }
    if let Some(resync) = &peer.resync {
        let _ = writeln!(out, "      {}", sync_bar(resync));
    }
    out
}

/// `[=====>..............] sync'ed: 28.1% (92.0 MiB left of 128 MiB)  finish: 0:00:18  15.0 MiB/s`
#[must_use]
pub fn sync_bar(resync: &ResyncProgress) -> String {
    // Nothing to copy is done.
    let total = resync.total_bytes.max(1);
    let done = if resync.total_bytes == 0 { total } else { resync.done_bytes.min(total) };
    // Tenths of a per cent, rounded down: 100 % is shown only when it is done.
    let permille = u128::from(done) * 1000 / u128::from(total);
    let filled = usize::try_from(u128::from(done) * u128::from(BAR) / u128::from(total)).unwrap_or(0);
    let width = usize::try_from(BAR).unwrap_or(20);
    let bar = if filled >= width {
        "=".repeat(width)
    } else {
        format!("{}>{}", "=".repeat(filled), ".".repeat(width - filled - 1))
    };
    let left = bytes(total - done);
    let finish = match resync.eta_s {
        Some(s) => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        None => "stalled".to_owned(),
    };
    format!(
        "[{bar}] {}.{}% ({left} left)  finish: {finish}  {}/s",
        permille / 10,
        permille % 10,
        bytes(resync.bytes_per_s)
    )
}

/// `baton volume list`.
#[must_use]
pub fn render_list(volumes: &[VolumeStatus], paint: Paint) -> String {
    if volumes.is_empty() {
        return "This node has no replicated volume.\n".to_owned();
    }
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for volume in volumes {
        let own = |peer: [Cell; 4]| {
            let state = format!("{}/{}", words::role(volume.role), words::disk(volume.disk));
            let mut row = vec![cell(volume.volume.as_str()), (state, disk_tone(volume.disk))];
            row.extend(peer);
            row
        };
        if volume.peers.is_empty() {
            rows.push(own([cell("-"), cell("-"), cell("-"), cell("-")]));
        }
        for peer in &volume.peers {
            rows.push(own([
                cell(peer.node.as_str()),
                (words::connection(peer.connection).to_owned(), connection_tone(peer.connection)),
                (words::disk(peer.disk).to_owned(), disk_tone(peer.disk)),
                cell(bytes(peer.dirty_bytes)),
            ]));
        }
    }
    table(paint, 0, &["VOLUME", "HERE", "PEER", "CONNECTION", "PEER DATA", "DIRTY"], &rows)
}

/// `baton volume show`.
#[must_use]
pub fn render_show(volume: &VolumeStatus, paint: Paint) -> String {
    let mut out = render_short(volume, paint);
    let device = volume.device.as_ref().map_or("none (not primary)".to_owned(), |d| d.display().to_string());
    let c = &volume.counters;
    let facts: [(&str, String); 8] = [
        ("group", volume.group.to_string()),
        ("epoch", volume.epoch.number.to_string()),
        ("generation", volume.generation.to_string()),
        ("boot id", volume.boot.to_string()),
        ("device", device),
        ("filesystem", volume.filesystem.clone().unwrap_or("not known".into())),
        ("activity log", format!("{} extents of 4 MiB", volume.activity_log_extents)),
        (
            "answered",
            format!(
                "{} reads ({}), {} writes ({}), {} flushes, {} discards",
                c.reads,
                bytes(c.read_bytes),
                c.writes,
                bytes(c.written_bytes),
                c.flushes,
                c.discards
            ),
        ),
    ];
    for (name, value) in facts {
        out.push_str(&hanging(&format!("  {name:<13}"), &value));
    }
    for peer in &volume.peers {
        let text = format!(
            "lag {}, {} unacknowledged for {}, {}",
            lag(peer.lag_us),
            bytes(peer.unacked_bytes),
            duration_ms(peer.oldest_unacked_ms),
            if volume.required.iter().any(|member| member.node == peer.node) {
                "required"
            } else {
                "not required"
            }
        );
        out.push_str(&hanging(&format!("  to {:<10}", peer.node), &text));
    }
    out
}

fn lag(us: u64) -> String {
    if us < 10_000 { format!("{us} us") } else { duration_ms(us / 1000) }
}

/// How a state of data is meant.
#[must_use]
pub fn disk_tone(disk: DiskState) -> Tone {
    match disk {
        DiskState::UpToDate => Tone::Good,
        DiskState::Consistent | DiskState::Attaching | DiskState::DUnknown => Tone::Plain,
        DiskState::Inconsistent | DiskState::Outdated => Tone::Warn,
        DiskState::Diskless | DiskState::Failed => Tone::Bad,
    }
}

fn connection_tone(connection: ConnectionState) -> Tone {
    match connection {
        ConnectionState::Connected => Tone::Good,
        ConnectionState::SyncSource
        | ConnectionState::SyncTarget
        | ConnectionState::Connecting
        | ConnectionState::Handshake => Tone::Warn,
        ConnectionState::StandAlone | ConnectionState::Timeout => Tone::Bad,
    }
}
