//! `baton status`: everything on one page, like crm_mon, with resyncs as /proc/drbd shows them. Pure.

use super::paint::{Cell, Paint, Tone, age, cell, clock, duration_ms, hanging, table};
use super::{volume_page, words};
use crate::status::{
    ClusterStatus, GroupNode, GroupState, GroupStatus, Health, NodeMode, NodeStatus, ServiceStatus, Takeover,
};
use std::fmt::Write;

/// The page.
#[must_use]
pub fn render(status: &ClusterStatus, paint: Paint) -> String {
    let mut out = String::new();
    let health = paint.tone(health_tone(status.health), words::health(status.health));
    let name = paint.tone(Tone::Head, &format!("Cluster {}", status.cluster));
    // Writing to a string does not fail, here and below.
    let _ = writeln!(out, "{name}: {health} (seen by {}, {})", status.node, clock(&status.at));
    out.push_str(&etcd(status, paint));
    out.push('\n');
    out.push_str(&nodes(status, paint));
    for group in &status.groups {
        out.push('\n');
        out.push_str(&render_group(group, &status.at, paint));
    }
    if !status.advice.is_empty() {
        let _ = writeln!(out, "\n{}", paint.tone(Tone::Warn, "What to do"));
        for advice in &status.advice {
            out.push_str(&hanging("  * ", advice));
        }
    }
    out
}

fn etcd(status: &ClusterStatus, paint: Paint) -> String {
    let etcd = &status.etcd;
    if etcd.reachable {
        return format!("etcd: {}, revision {}\n", paint.tone(Tone::Good, "reachable"), etcd.revision);
    }
    let why = etcd.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
    let text = format!("UNREACHABLE{why}. Services go on; leadership cannot change.");
    paint.tone(Tone::Bad, hanging("etcd: ", &text).trim_end()) + "\n"
}

fn nodes(status: &ClusterStatus, paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> = status
        .nodes
        .iter()
        .map(|node| {
            vec![
                cell(node.name.as_str()),
                node_state(node),
                cell(heard(node, node.name == status.node)),
                cell(duration_ms(node.longest_gap_ms)),
                (node.late_heartbeats.to_string(), Tone::Plain),
                (node.refused_datagrams.to_string(), tone_if(node.refused_datagrams > 0, Tone::Warn)),
                cell(node.version.as_deref().unwrap_or("?")),
                cell(&node.address),
            ]
        })
        .collect();
    table(paint, 2, &["NODE", "STATE", "HEARD", "GAP", "LATE", "REFUSED", "VERSION", "ADDRESS"], &rows)
}

fn node_state(node: &NodeStatus) -> Cell {
    match (node.alive, node.mode) {
        (false, NodeMode::Online) => ("OFFLINE".into(), Tone::Bad),
        (false, mode) => (format!("OFFLINE ({})", words::mode(mode)), Tone::Bad),
        (true, NodeMode::Online) => ("online".into(), Tone::Good),
        (true, mode) => (words::mode(mode).into(), Tone::Warn),
    }
}

fn heard(node: &NodeStatus, here: bool) -> String {
    match node.age_ms {
        _ if here => "here".into(),
        Some(ms) => format!("{} ago", duration_ms(ms)),
        None => "never".into(),
    }
}

/// One group. `now` is the snapshot's time.
#[must_use]
pub fn render_group(group: &GroupStatus, now: &str, paint: Paint) -> String {
    let mut out = headline(group, now, paint);
    if !group.reason.is_empty() {
        out.push_str(&hanging("  because ", &group.reason));
    }
    if let Some(target) = &group.target {
        let _ = writeln!(out, "  asked to move to {target}");
    }
    if !group.addresses.is_empty() {
        out.push_str(&hanging("  at ", &group.addresses.join(", ")));
    }
    let names: Vec<&str> = group.in_sync.iter().map(|n| n.as_str()).collect();
    let alone = names.len() < 2 && group.nodes.len() > 1;
    let in_sync = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    let _ = writeln!(out, "  in sync: {}", paint.tone(tone_if(alone, Tone::Warn), &in_sync));
    let rows: Vec<Vec<Cell>> = group.nodes.iter().map(|part| part_row(group, part)).collect();
    out.push_str(&table(paint, 2, &["NODE", "STATE", "DATA", "COULD TAKE OVER"], &rows));
    if !group.services.is_empty() {
        let rows: Vec<Vec<Cell>> = group.services.iter().map(service_row).collect();
        out.push_str(&table(paint, 2, &["SERVICE", "STATE", "HEALTH", "RESTARTS", "NOTE"], &rows));
    }
    for volume in &group.volumes {
        out.push_str(&volume_page::render_short(volume, paint));
    }
    if let Some(takeover) = &group.last_takeover {
        out.push_str(&hanging("  ", &takeover_line(takeover)));
    }
    out
}

fn headline(group: &GroupStatus, now: &str, paint: Paint) -> String {
    let name = paint.tone(Tone::Head, &format!("Group {}", group.name));
    let state = paint.tone(state_tone(group.state), words::group_state(group.state));
    let place = match &group.leader {
        Some(leader) => format!("{state} on {leader}"),
        None => format!("{state}, {}", paint.tone(Tone::Bad, "no leader")),
    };
    let serving = group.state == GroupState::Serving;
    let since = group.last_takeover.as_ref().filter(|t| serving && t.epoch == group.epoch).map(|takeover| {
        let age = age(&takeover.at, now).map(|age| format!(" ({age})")).unwrap_or_default();
        format!(" since {}{age}", clock(&takeover.at))
    });
    format!("{name}: {place}{}, epoch {}\n", since.unwrap_or_default(), group.epoch.number)
}

fn part_row(group: &GroupStatus, part: &GroupNode) -> Vec<Cell> {
    let data = match (part.disk, part.resync_percent) {
        (Some(disk), Some(percent)) => (format!("{} {percent:.1} %", words::disk(disk)), Tone::Warn),
        (Some(disk), None) => (words::disk(disk).to_owned(), volume_page::disk_tone(disk)),
        (None, _) => cell("-"),
    };
    let leads = group.leader.as_ref() == Some(&part.node);
    let ready = match (leads, part.ready) {
        (true, _) => (part.reason.clone(), Tone::Warn),
        (false, true) => ("yes".into(), Tone::Good),
        (false, false) if part.reason.is_empty() => ("no".into(), Tone::Warn),
        (false, false) => (format!("no: {}", part.reason), Tone::Warn),
    };
    let ready = if leads && ready.0.is_empty() { cell("leads") } else { ready };
    let state = (words::group_state(part.state).to_owned(), state_tone(part.state));
    vec![cell(part.node.as_str()), state, data, ready]
}

fn service_row(service: &ServiceStatus) -> Vec<Cell> {
    let running = service.state == "running";
    let health = match service.health.as_deref() {
        Some("healthy") => ("healthy".into(), Tone::Good),
        Some("starting") => ("starting".into(), Tone::Plain),
        Some(other) => (other.to_owned(), Tone::Bad),
        None => cell("-"),
    };
    vec![
        cell(&service.name),
        (service.state.clone(), if running { Tone::Good } else { Tone::Bad }),
        health,
        (service.restarts.to_string(), tone_if(service.restarts > 0, Tone::Warn)),
        (service.error.clone().unwrap_or_default(), Tone::Bad),
    ]
}

fn takeover_line(takeover: &Takeover) -> String {
    let steps: Vec<String> =
        takeover.steps.iter().map(|step| format!("{} {}", step.step, duration_ms(step.ms))).collect();
    let steps = if steps.is_empty() { String::new() } else { format!(": {}", steps.join(", ")) };
    format!("last {} took {}{steps}", takeover.kind, duration_ms(takeover.total_ms))
}

fn health_tone(health: Health) -> Tone {
    match health {
        Health::Ok => Tone::Good,
        Health::Degraded => Tone::Warn,
        Health::Down => Tone::Bad,
    }
}

fn state_tone(state: GroupState) -> Tone {
    match state {
        GroupState::Serving => Tone::Good,
        GroupState::Standby => Tone::Plain,
        GroupState::Unknown
        | GroupState::Campaigning
        | GroupState::Waiting
        | GroupState::Starting
        | GroupState::Stopping
        | GroupState::HandingOver => Tone::Warn,
        GroupState::Fenced | GroupState::Failed => Tone::Bad,
    }
}

fn tone_if(condition: bool, tone: Tone) -> Tone {
    if condition { tone } else { Tone::Plain }
}
