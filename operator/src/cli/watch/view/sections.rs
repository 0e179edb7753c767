//! The sections of the overview as lines of text. Pure.

use super::super::model::{Item, Model};
use super::Theme;
use crate::cli::paint::{bytes, clock, duration_ms};
use crate::cli::status_page::group_health;
use crate::cli::{volume_page, words};
use crate::status::{ClusterStatus, Event, GroupState, GroupStatus, NodeMode, NodeStatus, Takeover};
use baton_replicator::api::{VerifyStatus, VolumeStatus};
use baton_replicator::types::{ConnectionState, DiskState, NodeName};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

/// Longest name in a column; the end is cut, the details page has it in full.
const NAME: usize = 16;
/// Characters of a bar.
const BAR: u64 = 20;

/// A title and lines; `least` are needed for it to make sense, `focus` is kept visible.
pub(super) struct Section {
    pub title: String,
    pub lines: Vec<Line<'static>>,
    pub least: usize,
    pub focus: Option<usize>,
}

impl Section {
    fn new(title: impl Into<String>, lines: Vec<Line<'static>>, least: usize) -> Self {
        Self { title: title.into(), lines, least, focus: None }
    }

    /// So many lines around the focus. The first one is the heading of a table if `focus` is set, and stays.
    pub fn window(&self, height: usize) -> Vec<Line<'static>> {
        let Some(focus) = self.focus.filter(|_| height > 1) else {
            return self.lines.iter().take(height).cloned().collect();
        };
        let first = (focus + 2).saturating_sub(height).max(1).min(self.lines.len());
        let rows = self.lines[first..].iter().take(height - 1);
        self.lines.first().into_iter().chain(rows).cloned().collect()
    }
}

type Cell = (String, Style);

/// Text cut to a width.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['~']).collect()
}

/// Rows as lines; columns as wide as their longest cell, the last one takes the rest and is cut.
fn columns(heading: &[&str], rows: Vec<Vec<Cell>>, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let last = heading.len() - 1;
    let wide = |i: usize| {
        let longest = rows.iter().map(|row| row[i].0.chars().count().min(NAME)).max().unwrap_or(0);
        longest.max(heading[i].len())
    };
    let widths: Vec<usize> = (0..last).map(wide).collect();
    let rest = usize::from(width).saturating_sub(widths.iter().sum::<usize>() + 2 * last).max(1);
    let head: Vec<Cell> = heading.iter().map(|h| ((*h).to_owned(), theme.dim())).collect();
    std::iter::once(head)
        .chain(rows)
        .map(|row| {
            let mut spans = Vec::new();
            for (i, (text, style)) in row.into_iter().enumerate() {
                let width = widths.get(i).copied().unwrap_or(rest);
                let text = cut(&text, width);
                let pad = if i == last { 0 } else { width + 2 - text.chars().count() };
                spans.push(Span::styled(text, style));
                spans.push(Span::raw(" ".repeat(pad)));
            }
            Line::from(spans)
        })
        .collect()
}

fn mark(lines: &mut [Line<'static>], at: Option<usize>, theme: Theme) {
    if let Some(line) = at.and_then(|at| lines.get_mut(at)) {
        *line = line.clone().style(theme.selected());
    }
}

pub(super) fn nodes(model: &Model, status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let plain = Style::new();
    let rows = status
        .nodes
        .iter()
        .map(|node| {
            let (state, style) = node_state(node, theme);
            let leads: Vec<&str> = status
                .groups
                .iter()
                .filter(|g| g.leader.as_ref() == Some(&node.name))
                .map(|g| g.name.as_str())
                .collect();
            vec![
                (node.name.to_string(), plain),
                (state, style),
                (node.version.clone().unwrap_or("?".into()), plain),
                (node.address.clone(), plain),
                (
                    match leads.as_slice() {
                        [] => "-".into(),
                        few if few.len() <= 3 => few.join(" "),
                        many => format!("{} groups", many.len()),
                    },
                    plain,
                ),
            ]
        })
        .collect();
    let mut lines = columns(&["NODE", "STATE", "VERSION", "ADDRESS", "LEADS"], rows, width, theme);
    let heads = lines.len();
    let at = match model.item() {
        Some(Item::Node(name)) => status.nodes.iter().position(|n| n.name == name).map(|i| i + 1),
        _ => None,
    };
    mark(&mut lines, at, theme);
    for node in &status.nodes {
        let Some(text) = crate::cli::mode::sentence(node, &status.at) else { continue };
        let style =
            if node.mode_note.as_ref().is_some_and(|n| n.expired) { theme.bad() } else { theme.warn() };
        let text = format!("{}: {text}", node.name);
        lines.extend(super::dialog::wrapped(&text, width).into_iter().map(|line| Line::styled(line, style)));
    }
    let least = lines.len().min(heads.min(4) + 2);
    Section { focus: at, ..Section::new("Hosts", lines, least) }
}

fn node_state(node: &NodeStatus, theme: Theme) -> Cell {
    match (node.alive, node.mode) {
        (false, _) => ("OFFLINE".into(), theme.bad()),
        (true, NodeMode::Online) => ("online".into(), theme.good()),
        (true, mode) => (words::mode(mode).into(), theme.warn()),
    }
}

pub(super) fn groups(model: &Model, status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let plain = Style::new();
    let rows = status
        .groups
        .iter()
        .map(|group| {
            let ready: Vec<&str> = group.ready_standbys().map(NodeName::as_str).collect();
            let standby = if ready.is_empty() { "nobody".to_owned() } else { ready.join(" ") };
            vec![
                (group.name.to_string(), plain),
                (words::group_state(group.state).to_owned(), theme.health(group_health(group))),
                (group.leader.as_ref().map_or("nobody".into(), NodeName::to_string), plain),
                (group.epoch.number.to_string(), plain),
                (standby, if ready.is_empty() { theme.warn() } else { plain }),
                note(group, theme),
            ]
        })
        .collect();
    let mut lines = columns(&["GROUP", "STATE", "LEADER", "EPOCH", "STANDBY", "ADDRESS"], rows, width, theme);
    let at = match model.item() {
        Some(Item::Group(name)) => status.groups.iter().position(|g| g.name == name).map(|i| i + 1),
        _ => None,
    };
    mark(&mut lines, at, theme);
    let total = status.groups.len();
    let title = if total > 1 { format!("Groups ({total})") } else { "Groups".to_owned() };
    let least = lines.len().min(6);
    Section { focus: at, ..Section::new(title, lines, least) }
}

/// What is wrong or wanted, else the addresses.
fn note(group: &GroupStatus, theme: Theme) -> Cell {
    match &group.target {
        Some(target) => (format!("asked to move to {target}"), theme.warn()),
        None if !group.reason.is_empty() => (group.reason.clone(), theme.warn()),
        None => (group.addresses.join(" "), Style::new()),
    }
}

/// `takeover: detect 1.50 s, decide 14 ms, ... starting`.
pub(super) fn steps(running: &Takeover, state: GroupState) -> String {
    let done: Vec<String> =
        running.steps.iter().map(|s| format!("{} {}", s.step, duration_ms(s.ms))).collect();
    let comma = if done.is_empty() { "" } else { ", " };
    format!("{}: {}{comma}{}...", running.kind, done.join(", "), words::group_state(state))
}

/// The steps of each change of leadership that runs now.
pub(super) fn under_way(model: &Model, status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let lines: Vec<Line<'static>> = status
        .groups
        .iter()
        .filter_map(|group| {
            Some(format!("{}: {}", group.name, steps(model.under_way(&group.name)?, group.state)))
        })
        .flat_map(|text| super::dialog::wrapped(&text, width))
        .map(|line| Line::styled(line, theme.warn()))
        .collect();
    let least = lines.len().min(4);
    Section::new("Under way", lines, least)
}

pub(super) fn volumes(status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let mut lines = Vec::new();
    let mut all: Vec<&VolumeStatus> = status.groups.iter().flat_map(|g| &g.volumes).collect();
    // Those with something going on come first: on a small screen the others are below its edge.
    all.sort_by_key(|v| !troubled(v));
    for volume in all {
        let role = words::role(volume.role);
        lines.push(Line::from(vec![
            Span::styled(cut(volume.volume.as_str(), 24), theme.head()),
            Span::raw(format!("  {}  {role}/", bytes(volume.size_bytes))),
            Span::styled(words::disk(volume.disk), disk_style(volume.disk, theme)),
        ]));
        if let Some(growth) = &volume.growth {
            let text = format!("  grows to {}: {}", bytes(growth.to_bytes), growth.waits);
            lines.push(Line::raw(cut(&text, width.into())));
        }
        if let Some(frozen) = &volume.frozen {
            lines.push(Line::styled(cut(&format!("  FROZEN: {frozen}"), width.into()), theme.bad()));
        }
        for peer in &volume.peers {
            let dirty = match peer.dirty_bytes {
                0 => String::new(),
                n => format!(", {} out of sync", bytes(n)),
            };
            lines.push(Line::from(vec![
                Span::raw(format!("  {}: ", cut(peer.node.as_str(), 24))),
                Span::styled(
                    volume_page::connection_word(volume, peer),
                    connection_style(peer.connection, theme),
                ),
                Span::raw("/"),
                Span::styled(words::disk(peer.disk), disk_style(peer.disk, theme)),
                Span::raw(dirty),
            ]));
            if let Some(resync) = &peer.resync {
                let long = format!("  {}", volume_page::sync_bar(resync));
                let (bar, percent) = volume_page::bar(resync.done_bytes, resync.total_bytes, BAR);
                let left = match resync.eta_s {
                    _ if resync.paused => "paused".to_owned(),
                    Some(s) => format!("{s} s left"),
                    None => "stalled".to_owned(),
                };
                let brief = format!("  [{bar}] {percent}  {left}");
                let fits = long.chars().count() <= usize::from(width);
                lines.push(Line::from(if fits { long } else { brief }));
            }
        }
        if let Some(verify) = volume.verify.as_ref().filter(|v| v.state.is_running()) {
            lines.extend(verify_lines(verify, theme, width));
        }
    }
    let least = lines.len().min(3);
    Section::new(format!("Volumes on {}", status.node), lines, least)
}

/// The verify that runs: against whom, its bar, what it has found and repaired.
fn verify_lines(v: &VerifyStatus, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let peers: Vec<&str> = v.peers.iter().map(NodeName::as_str).collect();
    let against = if peers.is_empty() { String::new() } else { format!(" against {}", peers.join(" ")) };
    let repair = if v.repair { ", with repair" } else { "" };
    let waits = v.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let (bar, percent) = volume_page::bar(v.checked_bytes, v.total_bytes, BAR);
    let left = v.eta_s.map_or("stalled".to_owned(), |s| format!("{s} s left"));
    let mut lines = vec![
        Line::from(cut(&format!("  verify{against}{repair}{waits}"), width.into())),
        Line::from(cut(&format!("  [{bar}] {percent}  {left}  {}/s", bytes(v.bytes_per_s)), width.into())),
    ];
    if let Some(found) = volume_page::verify_found(v) {
        let style = if v.repaired_bytes >= v.mismatched_bytes { theme.good() } else { theme.bad() };
        lines.push(Line::styled(format!("  {found}"), style));
    }
    lines
}

fn troubled(volume: &VolumeStatus) -> bool {
    volume.frozen.is_some()
        || volume.verify.as_ref().is_some_and(|v| v.state.is_running())
        || volume.disk != DiskState::UpToDate
        || volume.peers.iter().any(|p| p.connection != ConnectionState::Connected)
}

fn disk_style(disk: DiskState, theme: Theme) -> Style {
    match disk {
        DiskState::UpToDate => theme.good(),
        DiskState::Consistent | DiskState::Attaching | DiskState::DUnknown => Style::new(),
        DiskState::Inconsistent | DiskState::Outdated => theme.warn(),
        DiskState::Diskless | DiskState::Failed => theme.bad(),
    }
}

fn connection_style(connection: ConnectionState, theme: Theme) -> Style {
    match connection {
        ConnectionState::Connected => theme.good(),
        ConnectionState::StandAlone | ConnectionState::Timeout => theme.bad(),
        ConnectionState::SyncSource
        | ConnectionState::SyncTarget
        | ConnectionState::Connecting
        | ConnectionState::Handshake => theme.warn(),
    }
}

/// Who hears whom: a line per direction, told by the one that listens.
pub(super) fn links(model: &Model, status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let plain = Style::new();
    let mut rows = Vec::new();
    for listener in &status.nodes {
        let told = if listener.name == status.node { Some(status) } else { model.others.get(&listener.name) };
        for talker in status.nodes.iter().filter(|n| n.name != listener.name) {
            let heard = told.and_then(|s| s.nodes.iter().find(|n| n.name == talker.name));
            let who = (
                format!("{} hears {}", cut(listener.name.as_str(), 12), cut(talker.name.as_str(), 12)),
                plain,
            );
            rows.push(match heard {
                None => {
                    vec![who, ("not known".into(), theme.dim()), ("-".into(), plain), ("-".into(), plain)]
                }
                Some(n) => {
                    let age = n.age_ms.map_or("never".to_owned(), |ms| format!("{} ago", duration_ms(ms)));
                    let state =
                        if n.alive { ("yes".into(), theme.good()) } else { ("NO".into(), theme.bad()) };
                    let late = format!("{:<4}  {age}", n.late_heartbeats);
                    vec![who, state, (duration_ms(n.longest_gap_ms), plain), (late, plain)]
                }
            });
        }
    }
    // The first column holds two names.
    let wide = rows.iter().map(|r| r[0].0.chars().count()).max().unwrap_or(0);
    for row in &mut rows {
        row[0].0 = format!("{:<wide$}  {}", row[0].0, row[1].0);
        let style = row[1].1;
        row[0].1 = style;
        row.remove(1);
    }
    let title = "Links: who hears whom, longest gap (1 min), late, last";
    let lines = rows
        .into_iter()
        .map(|row| {
            let text = format!("{}  gap {:<7}  late {}", row[0].0, row[1].0, row[2].0);
            Line::styled(cut(&text, width.into()), row[0].1)
        })
        .collect::<Vec<_>>();
    let least = lines.len().min(2);
    Section::new(title, lines, least)
}

pub(super) fn advice(status: &ClusterStatus, theme: Theme, width: u16) -> Section {
    let mut lines = Vec::new();
    for advice in &status.advice {
        for (i, line) in super::dialog::wrapped(advice, width.saturating_sub(2)).into_iter().enumerate() {
            let lead = if i == 0 { "* " } else { "  " };
            lines.push(Line::styled(format!("{lead}{line}"), theme.warn()));
        }
    }
    let least = lines.len().min(4);
    Section::new("What to do", lines, least)
}

/// Newest first: the edge of a small screen then hides the oldest.
pub(super) fn events(events: &[Event], theme: Theme, width: u16) -> Section {
    let line = |event: &Event| {
        let style = match event.severity.as_str() {
            "critical" => theme.bad(),
            "warning" => theme.warn(),
            _ => Style::new(),
        };
        let about = match (&event.group, &event.volume) {
            (_, Some(volume)) => format!("{volume}: "),
            (Some(group), None) => format!("{group}: "),
            (None, None) => String::new(),
        };
        let at = clock(&event.at);
        let time = at.split(' ').next_back().unwrap_or(&at).to_owned();
        // Severity is told by a sign as well as by colour.
        let sign = match event.severity.as_str() {
            "critical" => '!',
            "warning" => '*',
            _ => ' ',
        };
        let text = format!("{time} {sign} {} {about}{}", event.node, event.message);
        Line::styled(cut(&text, width.into()), style)
    };
    let lines: Vec<Line<'static>> = events.iter().rev().map(line).collect();
    let least = lines.len().min(2);
    Section::new("Events, newest first", lines, least)
}
