//! What lies on top of the overview: details, choices, confirmations, help. Pure.

use super::super::model::{Action, Dialog, Item, Model};
use super::Theme;
use super::sections::steps;
use crate::cli::explain::{self, explain};
use crate::cli::paint::{self, Paint};
use crate::cli::{render_event, status_page, words};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Widget};

const PLAIN: Paint = Paint { color: false };

const HELP: [&str; 16] = [
    "Up, Down, PgUp, PgDn, Home, End   select a host or a group",
    "Enter   everything about it; again, or Esc, goes back",
    "m       move the selected group to another host",
    "s       put the selected host into standby, or back online",
    "q, Esc  leave",
    "",
    "Moving and standby first say what will happen; only y does it.",
    "",
    "Links are told by the host that listens: 'alpha hears beta NO' and",
    "'beta hears alpha yes' is a link that works in one direction.",
    "Gap is the longest silence of the last minute; late counts",
    "heartbeats later than warntime.",
    "",
    "If the agent that tells all this dies, the next one is asked; until",
    "one answers, the last picture stays, with its age in the first line.",
    "The first letter of an event: ! critical, * warning.",
];

/// Lines of at most so many characters.
pub(super) fn wrapped(text: &str, width: u16) -> Vec<String> {
    paint::wrap(text, usize::from(width))
}

/// One line of an area, if it is inside.
pub(super) fn put(frame: &mut Frame<'_>, area: Rect, row: usize, line: Line<'_>) {
    if let Ok(row) = u16::try_from(row)
        && row < area.height
    {
        frame.render_widget(line, Rect { y: area.y + row, height: 1, ..area });
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, open: &Dialog, theme: Theme, body: Rect) {
    match open {
        Dialog::Details { item, scroll } => details(frame, model, item, *scroll, theme, body),
        Dialog::Choose { group, nodes, at } => {
            let mut lines = vec![format!("Move group {group} to:"), String::new()];
            lines.extend(nodes.iter().enumerate().map(|(i, node)| {
                let ready = model.group(group).and_then(|g| g.nodes.iter().find(|p| p.node == *node));
                let state = match ready {
                    Some(part) if part.ready => "could take over".to_owned(),
                    Some(part) if !part.reason.is_empty() => part.reason.clone(),
                    _ => "not ready".to_owned(),
                };
                format!("{} {node}  ({state})", if i == *at { ">" } else { " " })
            }));
            lines.extend([String::new(), "Enter chooses, Esc leaves it.".to_owned()]);
            boxed(frame, " Move ", &lines, theme, body);
        }
        Dialog::Confirm { action, consequences } => {
            let (title, question) = match action {
                Action::Move { group, to } => (" Move ", format!("Move group {group} to {to}?")),
                Action::Mode { node, mode } => {
                    (" Mode ", format!("Put {node} {}?", mode_phrase(words::mode(*mode))))
                }
            };
            let mut lines = vec![question, String::new()];
            lines.extend(consequences.iter().map(|c| format!("* {c}")));
            lines.extend([String::new(), "y does it, n or Esc leaves it.".to_owned()]);
            boxed(frame, title, &lines, theme, body);
        }
        Dialog::Help => boxed(frame, " Help ", &HELP.map(str::to_owned), theme, body),
    }
}

fn mode_phrase(mode: &str) -> String {
    if mode == "online" { "online".into() } else { format!("into {mode}") }
}

/// A box in the middle, as large as its text needs and the screen allows.
fn boxed(frame: &mut Frame<'_>, title: &str, lines: &[String], theme: Theme, body: Rect) {
    let widest = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0).max(30);
    let width = u16::try_from(widest + 4).unwrap_or(u16::MAX).min(body.width).min(76);
    let text: Vec<String> = lines
        .iter()
        .flat_map(|line| if line.is_empty() { vec![String::new()] } else { lead(line, width - 4) })
        .collect();
    let height = u16::try_from(text.len() + 2).unwrap_or(u16::MAX).min(body.height);
    let area =
        Rect { x: body.x + (body.width - width) / 2, y: body.y + (body.height - height) / 2, width, height };
    Clear.render(area, frame.buffer_mut());
    let block = Block::bordered().title(title).border_style(theme.head());
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let inner = Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner };
    // What does not fit is cut in the middle: the last line says which keys there are.
    let (room, last) = (usize::from(inner.height), text.len().saturating_sub(1));
    for (row, line) in text.iter().enumerate() {
        if row + 1 < room || row == last {
            put(frame, inner, row.min(room.saturating_sub(1)), Line::from(line.clone()));
        }
    }
}

/// Wrapped, keeping the blanks a line begins with.
fn lead(line: &str, width: u16) -> Vec<String> {
    let blanks = line.chars().take_while(|c| *c == ' ').count();
    if line.chars().count() <= usize::from(width) {
        return vec![line.to_owned()];
    }
    let room = width.saturating_sub(u16::try_from(blanks).unwrap_or(0));
    wrapped(line, room).into_iter().map(|l| format!("{}{l}", " ".repeat(blanks))).collect()
}

fn details(frame: &mut Frame<'_>, model: &Model, item: &Item, scroll: u16, theme: Theme, body: Rect) {
    let text = page(model, item).unwrap_or_else(|| "It is not in the cluster any more.\n".to_owned());
    let lines: Vec<String> = text.lines().flat_map(|line| lead(line, body.width)).collect();
    Clear.render(body, frame.buffer_mut());
    let room = usize::from(body.height - 1);
    let first = usize::from(scroll).min(lines.len().saturating_sub(room));
    for (row, line) in lines.iter().skip(first).take(room).enumerate() {
        let style = if row + first == 0 { theme.head() } else { ratatui::style::Style::new() };
        put(frame, body, row, Line::styled(line.clone(), style));
    }
    let shown = (first + room).min(lines.len());
    let foot = format!("-- lines {} to {shown} of {}; Esc goes back --", first + 1, lines.len());
    put(frame, body, room, Line::styled(foot, theme.dim()));
}

fn page(model: &Model, item: &Item) -> Option<String> {
    let status = model.status()?;
    match item {
        Item::Node(name) => Some(status_page::render_node(status, model.node(name)?, PLAIN)),
        Item::Group(name) => {
            let group = model.group(name)?;
            let mut text = status_page::render_group(group, &status.at, PLAIN);
            if let Some(running) = model.under_way(name) {
                text.push_str(&paint::hanging("  now ", &steps(running, group.state)));
            }
            let explained = explain::render(&explain(status, group), PLAIN);
            // Its headline repeats the page's.
            text.push_str(explained.split_once('\n').map_or("", |(_, rest)| rest));
            let events: Vec<String> = model
                .events
                .iter()
                .rev()
                .filter(|e| e.group.as_ref() == Some(name))
                .map(|e| render_event(e, PLAIN))
                .collect();
            if !events.is_empty() {
                text.push_str(&format!("\nEvents, newest first\n{}", events.concat()));
            }
            Some(text)
        }
    }
}
