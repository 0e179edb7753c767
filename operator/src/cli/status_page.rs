//! `baton status`: everything on one page, like crm_mon, with resyncs as /proc/drbd shows them. Pure.
//!
//! Few groups are shown in full; many get one line each, and those that need a person are shown in full below.

use super::paint::{Cell, Paint, Tone, age, bytes, cell, clock, duration_ms, flow, hanging, table};
use super::{mode, volume_page, words};
use crate::spec::Profile;
use crate::status::{
    CheckState, CheckStatus, ClusterStatus, EtcdState, FencedBy, GroupNode, GroupState, GroupStatus, Health,
    NodeMode, NodeStatus, Safety, ServiceStatus, Takeover,
};
use baton_replicator::api::MemoryStatus;
use baton_replicator::types::NodeName;
use std::collections::BTreeSet;

/// Up to so many groups are shown in full: they fill two screens of 50 lines.
pub const FULL_UP_TO: usize = 6;
/// In the short form so many groups that need attention are shown in full; the others have their line.
const ATTENTION_MAX: usize = 3;

/// How much of the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Full up to [`FULL_UP_TO`] groups, else short.
    #[default]
    Auto,
    /// Every group in full.
    Full,
    /// One line per group.
    Compact,
}

/// Which parts of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// etcd and the nodes.
    pub nodes: bool,
    /// The groups.
    pub groups: bool,
    /// How much of each group.
    pub detail: Detail,
}

impl Default for Parts {
    fn default() -> Self {
        Self { nodes: true, groups: true, detail: Detail::Auto }
    }
}

/// The whole page.
#[must_use]
pub fn render(status: &ClusterStatus, paint: Paint) -> String {
    render_parts(status, Parts::default(), paint)
}

/// Parts of the page. What to do is always part of it.
#[must_use]
pub fn render_parts(status: &ClusterStatus, parts: Parts, paint: Paint) -> String {
    let mut out = flow(
        paint,
        0,
        2,
        &[
            (format!("Cluster {}", status.cluster), Tone::Head),
            cell(": "),
            (words::health(status.health).to_owned(), health_tone(status.health)),
            cell(format!(" (seen by {}, {})", status.node, clock(&status.at))),
        ],
    );
    if parts.nodes {
        out.push_str(&etcd(status, paint));
        out.push_str(&timers(status));
        out.push('\n');
        out.push_str(&render_nodes(status, 2, paint));
        for node in &status.nodes {
            let lifetime = node.fencing.as_ref().filter(|f| f.by == FencedBy::AddressLifetime);
            if let Some(fencing) = lifetime {
                let text = format!("fenced by {}", words::fencing(fencing));
                out.push_str(&flow(paint, 2, 4, &[cell(format!("{}: ", node.name)), (text, Tone::Warn)]));
            }
            if let Some(text) = mode::sentence(node, &status.at) {
                let tone = if overdue(node) { Tone::Bad } else { Tone::Warn };
                out.push_str(&flow(paint, 2, 4, &[cell(format!("{}: ", node.name)), (text, tone)]));
            }
        }
    }
    if parts.groups {
        out.push_str(&groups(status, parts.detail, paint));
    }
    if !status.advice.is_empty() {
        out.push_str(&format!("\n{}\n", paint.tone(Tone::Warn, "What to do")));
        for advice in &status.advice {
            out.push_str(&hanging("  * ", advice));
        }
    }
    out
}

fn groups(status: &ClusterStatus, detail: Detail, paint: Paint) -> String {
    let compact = match detail {
        Detail::Auto => status.groups.len() > FULL_UP_TO,
        Detail::Full => false,
        Detail::Compact => true,
    };
    let in_full = |groups: &[&GroupStatus]| -> String {
        groups.iter().map(|group| format!("\n{}", render_group(group, &status.at, paint))).collect()
    };
    if !compact {
        return in_full(&status.groups.iter().collect::<Vec<_>>());
    }
    let mut out = format!("\n{}", render_groups(&status.groups, 2, paint));
    if detail == Detail::Auto {
        let troubled: Vec<&GroupStatus> =
            status.groups.iter().filter(|g| group_health(g) != Health::Ok).collect();
        out.push_str(&in_full(&troubled[..troubled.len().min(ATTENTION_MAX)]));
        if let Some(more) = troubled.len().checked_sub(ATTENTION_MAX).filter(|more| *more > 0) {
            let text = format!(
                "{more} more groups need attention; 'baton status --problems --full' shows them all."
            );
            out.push_str(&format!("\n{}", flow(paint, 0, 0, &[(text, Tone::Warn)])));
        }
    }
    out
}

/// Health of one group, in the cluster's words: does it serve, and would another node take over?
#[must_use]
pub fn group_health(group: &GroupStatus) -> Health {
    let covered = group.nodes.iter().any(|n| Some(&n.node) != group.leader.as_ref() && n.ready);
    match (group.state == GroupState::Serving, covered) {
        _ if group.rests() => Health::Ok,
        (false, _) => Health::Down,
        (true, false) => Health::Degraded,
        (true, true) => Health::Ok,
    }
}

/// One line per group.
#[must_use]
pub fn render_groups(groups: &[GroupStatus], indent: usize, paint: Paint) -> String {
    if groups.is_empty() {
        return format!("{}No group.\n", " ".repeat(indent));
    }
    let row = |group: &GroupStatus| {
        let health = group_health(group);
        let ready: Vec<&str> = group.ready_standbys().map(NodeName::as_str).collect();
        let standby = if ready.is_empty() { "nobody".to_owned() } else { ready.join(", ") };
        vec![
            cell(group.name.as_str()),
            (words::group_state(group.state).to_owned(), state_tone(group.state)),
            match &group.leader {
                Some(leader) => cell(leader.as_str()),
                None => ("nobody".into(), tone_if(!group.rests(), Tone::Bad)),
            },
            cell(group.epoch.number.to_string()),
            (standby, tone_if(ready.is_empty(), Tone::Warn)),
            (note(group), if health == Health::Down { Tone::Bad } else { Tone::Warn }),
        ]
    };
    let rows: Vec<Vec<Cell>> = groups.iter().map(row).collect();
    table(paint, indent, &["GROUP", "STATE", "LEADER", "EPOCH", "STANDBY", "NOTE"], &rows)
}

/// What a line about a group has to say beyond its columns; empty when all is well.
fn note(group: &GroupStatus) -> String {
    let syncing = group.nodes.iter().find_map(|n| n.resync_percent.map(|p| (n, p)));
    match (&group.target, syncing) {
        _ if !group.reason.is_empty() => group.reason.clone(),
        (Some(target), _) => format!("asked to move to {target}"),
        (None, Some((node, percent))) => format!("{} resyncs, {percent:.1} %", node.node),
        (None, None) if group_health(group) == Health::Degraded => group
            .nodes
            .iter()
            .find(|n| Some(&n.node) != group.leader.as_ref() && !n.reason.is_empty())
            .map_or_else(|| "no standby".to_owned(), |n| format!("{}: {}", n.node, n.reason)),
        (None, None) if group.pinned.is_some() => "pinned".to_owned(),
        (None, None) => String::new(),
    }
}

fn etcd(status: &ClusterStatus, paint: Paint) -> String {
    let etcd = &status.etcd;
    let mut out = if etcd.reachable && etcd.state == EtcdState::Slow {
        let took = etcd.latency_ms.map(|ms| format!(", {ms:.0} ms per request")).unwrap_or_default();
        paint.tone(Tone::Warn, &format!("etcd: SLOW{took}, revision {}", etcd.revision)) + "\n"
    } else if etcd.reachable {
        format!("etcd: {}, revision {}\n", paint.tone(Tone::Good, "reachable"), etcd.revision)
    } else {
        let word = match etcd.state {
            EtcdState::Slow => "DOES NOT CONFIRM in time, although it has a leader",
            EtcdState::NoLeader => "HAS NO LEADER",
            EtcdState::Unknown | EtcdState::Answers | EtcdState::Unreachable => "UNREACHABLE",
        };
        let why = etcd.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        let text = format!("{word}{why}. Services go on; leadership cannot change.");
        paint.tone(Tone::Bad, hanging("etcd: ", &text).trim_end()) + "\n"
    };
    // Members of one version have the same bugs: said once.
    let warnings: BTreeSet<&String> = etcd.members.iter().flat_map(|m| &m.warnings).collect();
    for warning in warnings {
        out.push_str(&paint.tone(Tone::Warn, hanging("  warning: ", warning).trim_end()));
        out.push('\n');
    }
    out
}

/// A line about timers that are not the ordinary ones.
fn timers(status: &ClusterStatus) -> String {
    match status.timers.profile {
        Profile::Default => String::new(),
        Profile::Fast => format!(
            "timers: profile fast, heartbeats every {}, takeover after {}\n",
            duration_ms(status.timers.keepalive_ms),
            duration_ms(status.timers.deadtime_ms)
        ),
    }
}

/// The table of nodes.
#[must_use]
pub fn render_nodes(status: &ClusterStatus, indent: usize, paint: Paint) -> String {
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
    table(paint, indent, &["NODE", "STATE", "HEARD", "GAP", "LATE", "REFUSED", "VERSION", "ADDRESS"], &rows)
}

/// One node: its facts, and its part in each group.
#[must_use]
pub fn render_node(status: &ClusterStatus, node: &NodeStatus, paint: Paint) -> String {
    let here = node.name == status.node;
    let (state, tone) = node_state(node);
    let mut out =
        flow(paint, 0, 2, &[(format!("Node {}", node.name), Tone::Head), cell(": "), (state, tone)]);
    let facts: [(&str, String); 7] = [
        ("address", node.address.clone()),
        ("version", node.version.clone().unwrap_or("not known".into())),
        ("incarnation", node.incarnation.clone().unwrap_or("not known".into())),
        ("heard", if here { "it answers itself".into() } else { heard(node, false) }),
        ("longest gap", format!("{} in the last minute", duration_ms(node.longest_gap_ms))),
        ("late", format!("{} heartbeats since the agent of {} started", node.late_heartbeats, status.node)),
        (
            "refused",
            format!("{} datagrams (bad authentication, replay, other cluster)", node.refused_datagrams),
        ),
    ];
    for (name, value) in facts {
        out.push_str(&hanging(&format!("  {name:<13}"), &value));
    }
    if let Some(fencing) = &node.fencing {
        out.push_str(&hanging(&format!("  {:<13}", "fencing"), &words::fencing(fencing)));
    }
    if let Some(text) = node.fence.as_ref().map(words::fence) {
        out.push_str(&hanging(&format!("  {:<13}", "fence devices"), &text));
    }
    if let Some(text) = mode::sentence(node, &status.at) {
        out.push_str(&hanging(&format!("  {:<13}", "mode"), &text));
    }
    if let Some(memory) = &node.replicator_memory {
        out.push_str(&hanging(&format!("  {:<13}", "replicator"), &memory_sentence(memory)));
    }
    let rows: Vec<Vec<Cell>> = status
        .groups
        .iter()
        .filter_map(|group| {
            let part = group.nodes.iter().find(|part| part.node == node.name)?;
            let mut row = part_row(group, part);
            row[0] = cell(group.name.as_str());
            Some(row)
        })
        .collect();
    if !rows.is_empty() {
        out.push_str(&table(paint, 2, &["GROUP", "STATE", "DATA", "COULD TAKE OVER"], &rows));
    }
    out
}

/// What the replicator here holds, and what the kernel refused it.
fn memory_sentence(memory: &MemoryStatus) -> String {
    let granted = match (memory.locked, memory.io_flusher) {
        (true, true) => "locked, never waits for write-back",
        (true, false) => "locked; may wait for write-back (PR_SET_IO_FLUSHER refused)",
        (false, true) => "NOT locked; never waits for write-back",
        (false, false) => "NOT locked; may wait for write-back (PR_SET_IO_FLUSHER refused)",
    };
    format!("{} resident, {granted}", bytes(memory.resident_bytes))
}

fn overdue(node: &NodeStatus) -> bool {
    node.mode_note.as_ref().is_some_and(|note| note.expired)
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
        out.push_str(&hanging("  ", &format!("asked to move to {target}")));
    }
    for text in words::placement(group, now) {
        out.push_str(&hanging("  ", &text));
    }
    if !group.addresses.is_empty() {
        out.push_str(&hanging("  at ", &group.addresses.join(", ")));
    }
    if !group.safety.is_empty() {
        let lifetime = group.safety.contains(&Safety::AddressLifetimeOnly);
        let levels = (words::safety(&group.safety), tone_if(lifetime, Tone::Warn));
        out.push_str(&flow(paint, 2, 10, &[cell("safety: "), levels]));
    }
    let names: Vec<&str> = group.in_sync.iter().map(|n| n.as_str()).collect();
    let alone = names.len() < 2 && group.nodes.len() > 1;
    let in_sync = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
    out.push_str(&flow(paint, 2, 11, &[cell("in sync: "), (in_sync, tone_if(alone, Tone::Warn))]));
    let rows: Vec<Vec<Cell>> = group.nodes.iter().map(|part| part_row(group, part)).collect();
    out.push_str(&table(paint, 2, &["NODE", "STATE", "DATA", "COULD TAKE OVER"], &rows));
    if !group.services.is_empty() {
        let rows: Vec<Vec<Cell>> = group.services.iter().map(service_row).collect();
        out.push_str(&table(paint, 2, &["SERVICE", "STATE", "HEALTH", "RESTARTS", "NOTE"], &rows));
    }
    for check in group.checks.iter().filter(|c| c.unknown || c.state != CheckState::Passing) {
        out.push_str(&hanging("  ", &check_line(check)));
    }
    for volume in &group.volumes {
        out.push_str(&volume_page::render_short(volume, paint));
    }
    if let Some(takeover) = &group.last_takeover {
        out.push_str(&hanging("  ", &takeover_line(takeover)));
    }
    out
}

/// A check that does not pass: what, since when, why, and what is done.
fn check_line(check: &CheckStatus) -> String {
    let state = match check.state {
        CheckState::Starting => "has not passed yet",
        CheckState::Passing => "passed last",
        CheckState::Failing => "fails",
        CheckState::Alarm => "ALARM",
    };
    let why = check.last_error.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    let unknown = if check.unknown { " (could not be found out)" } else { "" };
    let done = match (check.state, check.on_failure.as_str()) {
        (CheckState::Failing, "restart") => "; its service is restarted",
        (CheckState::Failing, "move") => "; the group should move",
        (CheckState::Alarm, _) => "; a person has to see to it",
        _ => "",
    };
    format!(
        "check {}: {state} since {}{why}{unknown}{done}",
        check.name.trim_start_matches("check "),
        clock(&check.since)
    )
}

fn headline(group: &GroupStatus, now: &str, paint: Paint) -> String {
    let serving = group.state == GroupState::Serving;
    let since = group.last_takeover.as_ref().filter(|t| serving && t.epoch == group.epoch).map(|takeover| {
        let age = age(&takeover.at, now).map(|age| format!(" ({age})")).unwrap_or_default();
        format!(" since {}{age}", clock(&takeover.at))
    });
    let (place, place_tone) = match &group.leader {
        Some(leader) => (format!(" on {leader}"), Tone::Plain),
        None => (", no leader".to_owned(), Tone::Bad),
    };
    flow(
        paint,
        0,
        2,
        &[
            (format!("Group {}", group.name), Tone::Head),
            cell(": "),
            (words::group_state(group.state).to_owned(), state_tone(group.state)),
            (place, place_tone),
            cell(format!("{}, epoch {}", since.unwrap_or_default(), group.epoch.number)),
        ],
    )
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
