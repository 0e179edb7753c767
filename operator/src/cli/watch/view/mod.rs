//! Draws the model: a head line, as many sections as fit, a foot line, and a dialog on top. Pure.
//!
//! Wide terminals (from 110 columns) get two columns; small ones drop the least important sections first, and shrink
//! the others around the selection. No meaning is carried by colour alone.

mod dialog;
mod sections;

use super::feed::short;
use super::model::{Model, Picture};
use crate::cli::paint::{clock, duration_ms};
use crate::cli::words;
use crate::status::Health;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use sections::Section;
use std::time::{Duration, Instant};

/// From here on there is room for two columns of 55.
const TWO_COLUMNS: u16 = 110;
/// Too small for anything but a word.
const SMALLEST: (u16, u16) = (40, 8);
/// An older picture is called old: live ones come several times a second, asked ones every second.
const OLD: Duration = Duration::from_secs(4);

/// How things are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    color: bool,
}

impl Theme {
    fn of(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }
    fn good(self) -> Style {
        self.of(Color::Green)
    }
    fn warn(self) -> Style {
        self.of(Color::Yellow)
    }
    fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }
    fn dim(self) -> Style {
        self.of(Color::DarkGray)
    }
    fn head(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
    fn health(self, health: Health) -> Style {
        match health {
            Health::Ok => self.good(),
            Health::Degraded => self.warn(),
            Health::Down => self.bad(),
        }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, now: Instant, color: bool) {
    let (area, theme) = (frame.area(), Theme { color });
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("{} by {} is too small; q ends.", area.width, area.height);
        frame.render_widget(Line::from(text), area);
        return;
    }
    let row = |y: u16| Rect { y, height: 1, ..area };
    frame.render_widget(head(model, now, theme, area.width), row(area.y));
    let body = Rect { y: area.y + 1, height: area.height - 2, ..area };
    match &model.picture {
        None => {
            let waited = now.saturating_duration_since(model.started).as_secs();
            let text = match &model.trouble {
                Some(why) => format!("No agent has answered for {waited} s: {why}"),
                None => "Asking...".to_owned(),
            };
            for (i, line) in dialog::wrapped(&text, body.width).into_iter().enumerate() {
                dialog::put(frame, body, i, Line::from(line));
            }
        }
        Some(picture) => overview(frame, model, picture, theme, body),
    }
    frame.render_widget(foot(model, theme, area.width), row(area.bottom() - 1));
    if let Some(open) = &model.dialog {
        dialog::draw(frame, model, open, theme, body);
    }
}

fn head<'a>(model: &Model, now: Instant, theme: Theme, width: u16) -> Line<'a> {
    let Some(picture) = &model.picture else {
        return Line::styled("baton watch", theme.head());
    };
    let status = &picture.status;
    let age = now.saturating_duration_since(picture.received);
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let mut spans = vec![
        Span::styled(format!("Cluster {}", status.cluster), theme.head()),
        Span::raw(": "),
        Span::styled(words::health(status.health), theme.health(status.health)),
    ];
    if let Some(why) = &model.trouble {
        spans.push(Span::styled(format!("  {} OLD, lost {why}", duration_ms(age_ms)), theme.bad()));
        return Line::from(spans);
    }
    let freshness = match (age >= OLD, picture.live) {
        (true, _) => Span::styled(format!("{} old", duration_ms(age_ms)), theme.warn()),
        (false, true) => Span::styled("live", theme.good()),
        (false, false) => Span::raw("asked"),
    };
    let at = clock(&status.at);
    // The date is for wide terminals.
    let at = if width >= 100 { at.as_str() } else { at.split(' ').next_back().unwrap_or(&at) };
    let seen = if width >= 76 {
        format!("  seen by {} ({})  {at}  ", status.node, short(&picture.from))
    } else {
        format!("  by {}  ", status.node)
    };
    spans.extend([Span::raw(seen), freshness]);
    if !status.etcd.reachable {
        spans.push(Span::styled("  etcd UNREACHABLE", theme.bad()));
    }
    Line::from(spans)
}

fn foot<'a>(model: &Model, theme: Theme, width: u16) -> Line<'a> {
    if let Some(note) = &model.note {
        let text: String = note.chars().take(usize::from(width)).collect();
        return Line::styled(text, theme.selected());
    }
    Line::styled("q quit  Enter details  m move  s standby/online  ? help", theme.dim())
}

fn overview(frame: &mut Frame<'_>, model: &Model, picture: &Picture, theme: Theme, body: Rect) {
    let status = &picture.status;
    let sections = |width: u16| {
        [
            sections::nodes(model, status, theme, width),
            sections::groups(model, status, theme, width),
            sections::under_way(model, status, theme, width),
            sections::volumes(status, theme, width),
            sections::links(model, status, theme, width),
            sections::advice(status, theme, width),
            sections::events(&model.events, theme, width),
        ]
    };
    if body.width >= TWO_COLUMNS {
        let half = body.width / 2;
        let left = Rect { width: half - 1, ..body };
        let right = Rect { x: body.x + half + 1, width: body.width - half - 1, ..body };
        let [nodes, groups, under_way, volumes, ..] = sections(left.width);
        stack(frame, left, &[nodes, groups, under_way, volumes], theme);
        let [_, _, _, _, links, advice, events] = sections(right.width);
        stack(frame, right, &[advice, links, events], theme);
    } else {
        let [nodes, groups, under_way, volumes, links, advice, events] = sections(body.width);
        stack(frame, body, &[nodes, groups, under_way, advice, volumes, links, events], theme);
    }
}

/// Draws sections below each other. Room goes first to what each needs at least, in order, then to the rest of each.
fn stack(frame: &mut Frame<'_>, area: Rect, sections: &[Section], theme: Theme) {
    let heights = share(usize::from(area.height), sections);
    let mut y = area.y;
    for (section, height) in sections.iter().zip(heights) {
        if height == 0 {
            continue;
        }
        let title: String = format!("-- {} ", section.title).chars().take(usize::from(area.width)).collect();
        let rule = "-".repeat(usize::from(area.width).saturating_sub(title.chars().count()));
        frame.render_widget(Line::styled(title + &rule, theme.dim()), Rect { y, height: 1, ..area });
        for (i, line) in section.window(height - 1).iter().enumerate() {
            let y = y + 1 + u16::try_from(i).unwrap_or(0);
            frame.render_widget(line.clone(), Rect { y, height: 1, ..area });
        }
        y += u16::try_from(height).unwrap_or(0);
    }
}

/// Lines for each section, its title included; 0 = not shown.
fn share(room: usize, sections: &[Section]) -> Vec<usize> {
    let mut left = room;
    let mut heights = vec![0; sections.len()];
    for (height, section) in heights.iter_mut().zip(sections) {
        let least = section.lines.len().min(section.least) + 1;
        if !section.lines.is_empty() && left >= least {
            *height = least;
            left -= least;
        }
    }
    for (height, section) in heights.iter_mut().zip(sections) {
        if *height > 0 {
            let more = left.min(section.lines.len() + 1 - *height);
            *height += more;
            left -= more;
        }
    }
    heights
}
