//! Volumes as text: a short form for the status page, a list, and everything about one. Pure.

use super::paint::{Cell, Paint, Tone, bytes, cell, duration_ms, flow, hanging, table};
use super::words;
use baton_replicator::api::{PeerStatus, ResyncProgress, VerifyState, VerifyStatus, VolumeStatus};
use baton_replicator::core::split_brain::utc;
use baton_replicator::types::{ConnectionState, DiskState, Protocol};
use std::fmt::Write;

/// Characters of a sync bar, as in /proc/drbd.
const BAR: u64 = 20;

/// The lines of a volume on the status page.
#[must_use]
pub fn render_short(volume: &VolumeStatus, paint: Paint) -> String {
    let mut out = String::new();
    let what =
        format!("volume {}: {}, {}/", volume.volume, bytes(volume.size_bytes), words::role(volume.role));
    let disk = (words::disk(volume.disk).to_owned(), disk_tone(volume.disk));
    out.push_str(&flow(paint, 2, 4, &[cell(what), disk]));
    if let Some(growth) = &volume.growth {
        let text = format!("{} to {}: {}", bytes(growth.from_bytes), bytes(growth.to_bytes), growth.waits);
        out.push_str(&hanging("    grows: ", &text));
    }
    if let Some(reason) = volume.disk_reason.as_ref().filter(|r| volume.frozen.as_ref() != Some(*r)) {
        out.push_str(&paint.tone(Tone::Bad, hanging("    DISK: ", reason).trim_end()));
        out.push('\n');
    }
    if let Some(reason) = &volume.frozen {
        out.push_str(&paint.tone(Tone::Bad, hanging("    FROZEN: ", reason).trim_end()));
        out.push('\n');
    }
    for peer in &volume.peers {
        out.push_str(&peer_lines(volume, peer, paint));
    }
    if let Some(verify) = &volume.verify {
        out.push_str(&verify_lines(verify, paint));
    }
    for copy in &volume.snapshots {
        let text =
            format!("of {}, {} on {}: {}", utc(copy.made_at_s), bytes(copy.bytes), copy.node, copy.name);
        out.push_str(&hanging("    snapshot: ", &text));
    }
    for alarm in &volume.alarms {
        out.push_str(&paint.tone(Tone::Bad, hanging("    alarm: ", alarm).trim_end()));
        out.push('\n');
    }
    out
}

/// The connection in DRBD's words, a paused resync among them. A target knows only that it was told of the pause.
#[must_use]
pub fn connection_word(volume: &VolumeStatus, peer: &PeerStatus) -> &'static str {
    match peer.connection {
        ConnectionState::SyncSource if peer.resync.is_some_and(|r| r.paused) => "PausedSyncS",
        ConnectionState::SyncTarget if volume.resync_paused => "PausedSyncT",
        state => words::connection(state),
    }
}

fn peer_lines(volume: &VolumeStatus, peer: &PeerStatus, paint: Paint) -> String {
    let mut pieces = vec![
        cell(format!("{}: ", peer.node)),
        (connection_word(volume, peer).to_owned(), connection_tone(peer.connection)),
        cell(", "),
        (words::disk(peer.disk).to_owned(), disk_tone(peer.disk)),
    ];
    if peer.protocol != Protocol::C {
        pieces.push(cell(format!(", protocol {:?}", peer.protocol)));
    }
    if peer.dirty_bytes > 0 {
        pieces.push(cell(format!(", {} out of sync", bytes(peer.dirty_bytes))));
    }
    if let Some(link) = &peer.link {
        pieces.push(cell(format!(", {} with {}", link.transport, link.address)));
    }
    let mut out = flow(paint, 4, 6, &pieces);
    if let Some(reason) = &peer.reason {
        out.push_str(&hanging("      because ", reason));
    }
    if let Some(resync) = &peer.resync {
        // Writing to a string does not fail.
        let _ = writeln!(out, "      {}", sync_bar(resync));
        out.push_str(&hanging("      ", &sync_more(resync)));
    }
    out
}

/// The running verify with its bar, or what the last one found.
fn verify_lines(v: &VerifyStatus, paint: Paint) -> String {
    if v.state.is_running() {
        let reason = v.reason.as_ref().map(|r| hanging("      ", r)).unwrap_or_default();
        return format!("    verify: {}\n{reason}", verify_bar(v));
    }
    let when =
        v.ended_at.as_deref().map(|at| format!(" at {}", at.get(..16).unwrap_or(at))).unwrap_or_default();
    let (word, tone) = match v.state {
        VerifyState::Done if v.mismatched_bytes > v.repaired_bytes => ("done", Tone::Bad),
        VerifyState::Done => ("done", Tone::Good),
        VerifyState::Stopped => ("stopped", Tone::Plain),
        VerifyState::Aborted | VerifyState::Running | VerifyState::Waiting => ("aborted", Tone::Warn),
    };
    let reason = v.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    let found = match (v.mismatched_bytes, v.repaired_bytes) {
        (0, 0) => "nothing differs".to_owned(),
        (found, repaired) => format!("{} differed, {} repaired", bytes(found), bytes(repaired)),
    };
    let text = format!("{word}{when}{reason}, {} compared, {found}", bytes(v.checked_bytes));
    flow(paint, 4, 6, &[cell("verify: "), (text, tone)])
}

/// `[=====>..............] 28.1% (92.0 MiB left)  finish: 0:00:18  15.0 MiB/s, 4.00 KiB differ`
#[must_use]
pub fn verify_bar(v: &VerifyStatus) -> String {
    let bar = sync_bar(&ResyncProgress {
        total_bytes: v.total_bytes,
        done_bytes: v.checked_bytes,
        bytes_per_s: v.bytes_per_s,
        eta_s: v.eta_s,
        ..ResyncProgress::default()
    });
    match verify_found(v) {
        Some(found) => format!("{bar}, {found}"),
        None => bar,
    }
}

/// What a verify that runs has found and repaired so far; none as long as nothing differs.
#[must_use]
pub fn verify_found(v: &VerifyStatus) -> Option<String> {
    match (v.mismatched_bytes, v.repaired_bytes) {
        (0, 0) => None,
        (found, 0) => Some(format!("{} differ", bytes(found))),
        (found, repaired) => Some(format!("{} differ, {} repaired", bytes(found), bytes(repaired))),
    }
}

/// `36.0 MiB of 128 MiB done, 12.0 MiB/s on average`: what the bar has no room for.
#[must_use]
pub fn sync_more(resync: &ResyncProgress) -> String {
    let done = bytes(resync.done_bytes.min(resync.total_bytes));
    let mut parts = vec![format!("{done} of {} done", bytes(resync.total_bytes))];
    parts.push(format!("{}/s on average", bytes(resync.average_bytes_per_s)));
    if resync.spared_bytes > 0 {
        parts.push(format!("{} the same and not copied", bytes(resync.spared_bytes)));
    }
    if resync.stalled_s > 0 {
        parts.push(format!("nothing done for {} s", resync.stalled_s));
    }
    parts.join(", ")
}

/// `[=====>..............] 28.1% (92.0 MiB left)  finish: 0:00:18  15.0 MiB/s`, the speed of the last seconds.
#[must_use]
pub fn sync_bar(resync: &ResyncProgress) -> String {
    let (bar, percent) = bar(resync.done_bytes, resync.total_bytes, BAR);
    let left = bytes(resync.total_bytes.saturating_sub(resync.done_bytes));
    let finish = match resync.eta_s {
        _ if resync.paused => "paused".to_owned(),
        Some(s) => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        None => "stalled".to_owned(),
    };
    format!("[{bar}] {percent} ({left} left)  finish: {finish}  {}/s", bytes(resync.bytes_per_s))
}

/// `=====>....` of so many characters, and the per cent. 100 % is shown only when it is done.
#[must_use]
pub fn bar(done: u64, total: u64, width: u64) -> (String, String) {
    // Nothing to copy is done.
    let (done, total) = if total == 0 { (1, 1) } else { (done.min(total), total) };
    // Tenths of a per cent, rounded down.
    let permille = u128::from(done) * 1000 / u128::from(total);
    let filled = usize::try_from(u128::from(done) * u128::from(width) / u128::from(total)).unwrap_or(0);
    let width = usize::try_from(width).unwrap_or(0);
    let bar = if filled >= width {
        "=".repeat(width)
    } else {
        format!("{}>{}", "=".repeat(filled), ".".repeat(width - filled - 1))
    };
    (bar, format!("{}.{}%", permille / 10, permille % 10))
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
                (connection_word(volume, peer).to_owned(), connection_tone(peer.connection)),
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
    if let Some(clients) = volume.clients {
        out.push_str(&hanging("  clients      ", &clients.to_string()));
    }
    if let Some(export) = &volume.export {
        let state = export.broken.as_ref().map_or_else(String::new, |why| format!("; broken: {why}"));
        let text = format!("{} ({} clients{state})", export.uri, export.clients);
        out.push_str(&hanging("  export       ", &text));
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
        let cipher = peer.link.as_ref().and_then(|l| l.cipher.as_deref());
        let text = cipher.map_or(text.clone(), |cipher| format!("{text}, {cipher}"));
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
