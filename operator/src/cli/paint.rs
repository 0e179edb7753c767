//! Text for terminals: colours, tables, wrapping, human units. Pure: what is shown depends on the arguments
//! alone, so that golden tests can hold it.

use std::fmt::Write;

/// Width that everything fits; a longer word is broken.
pub const WIDTH: usize = 80;

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Plain.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
    /// A heading.
    Head,
    /// Of little weight.
    Dim,
}

/// With colours or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// ANSI colours.
    pub color: bool,
}

impl Paint {
    /// Colours on a terminal unless NO_COLOR is set (to anything but nothing, as no-color.org asks).
    #[must_use]
    pub fn for_stdout() -> Self {
        use std::io::IsTerminal;
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { color: std::io::stdout().is_terminal() && !refused }
    }

    /// The text in its tone.
    #[must_use]
    pub fn tone(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Head => "1",
            Tone::Dim => "2",
        };
        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A cell: text and how it is meant.
pub type Cell = (String, Tone);

/// A plain cell.
pub fn cell(text: impl Into<String>) -> Cell {
    (text.into(), Tone::Plain)
}

/// Narrowest a column is squeezed to when a table does not fit.
const COLUMN_MIN: usize = 6;

/// Lines of a table with a heading, indented, that fit the width: the last column is wrapped, and if that is not
/// enough the widest other columns are narrowed and wrapped too. Nothing is cut off.
#[must_use]
pub fn table(paint: Paint, indent: usize, heading: &[&str], rows: &[Vec<Cell>]) -> String {
    table_within(paint, indent, heading, rows, WIDTH)
}

fn table_within(paint: Paint, indent: usize, heading: &[&str], rows: &[Vec<Cell>], total: usize) -> String {
    let widths = column_widths(indent, heading, rows, total);
    let heading: Vec<Cell> = heading.iter().map(|h| ((*h).to_owned(), Tone::Dim)).collect();
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<(Vec<String>, Tone)> =
            row.iter().zip(&widths).map(|((text, tone), width)| (wrap(text, *width), *tone)).collect();
        let height = cells.iter().map(|(lines, _)| lines.len()).max().unwrap_or(0);
        for i in 0..height {
            let mut line = " ".repeat(indent);
            // Blanks before a piece are written with it, so that no line ends with any.
            let mut gap = 0;
            for ((lines, tone), width) in cells.iter().zip(&widths) {
                let piece = lines.get(i).map_or("", String::as_str);
                if !piece.is_empty() {
                    line.push_str(&" ".repeat(gap));
                    line.push_str(&paint.tone(*tone, piece));
                    gap = 0;
                }
                gap += width + 2 - piece.chars().count();
            }
            // Writing to a string does not fail, here and below.
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// What each column gets of the width.
fn column_widths(indent: usize, heading: &[&str], rows: &[Vec<Cell>], total: usize) -> Vec<usize> {
    let Some(last) = heading.len().checked_sub(1) else { return Vec::new() };
    let natural = |i: usize| {
        let longest = rows.iter().map(|row| row[i].0.chars().count()).max().unwrap_or(0);
        longest.max(heading[i].chars().count())
    };
    let mut widths: Vec<usize> = (0..=last).map(natural).collect();
    let room = total.saturating_sub(indent + 2 * last);
    // The last column holds sentences: it gives way first, but not below 20 characters.
    let others: usize = widths[..last].iter().sum();
    widths[last] = widths[last].min(room.saturating_sub(others).max(20));
    loop {
        let sum: usize = widths.iter().sum();
        let widest = (0..=last).max_by_key(|i| widths[*i]).unwrap_or(last);
        if sum <= room || widths[widest] <= COLUMN_MIN {
            return widths;
        }
        // Headings do not break: `STATE` in two pieces helps nobody. If only they are left, so be it.
        let fixed = heading[widest].chars().count();
        let shrunk = (0..=last)
            .filter(|i| widths[*i] > heading[*i].chars().count().max(COLUMN_MIN))
            .max_by_key(|i| widths[*i]);
        match shrunk {
            Some(i) => widths[i] -= 1,
            None if widths[widest] > fixed => widths[widest] -= 1,
            None => return widths,
        }
    }
}

/// A head so long that too little room is left beside it gets the text on lines of its own.
const HEAD_MAX: usize = 48;

/// `first` and then `text` wrapped under it.
#[must_use]
pub fn hanging(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let mut out = String::new();
    if indent > HEAD_MAX {
        let lead = first.chars().take_while(|c| *c == ' ').count();
        for line in wrap(first.trim(), WIDTH.saturating_sub(lead)) {
            let _ = writeln!(out, "{}{line}", " ".repeat(lead));
        }
        let indent = " ".repeat(lead + 4);
        for line in wrap(text, WIDTH - indent.len()) {
            let _ = writeln!(out, "{}", format!("{indent}{line}").trim_end());
        }
        return out;
    }
    for (i, line) in wrap(text, WIDTH.saturating_sub(indent).max(20)).iter().enumerate() {
        let lead = if i == 0 { first.to_owned() } else { " ".repeat(indent) };
        let _ = writeln!(out, "{}", format!("{lead}{line}").trim_end());
    }
    out
}

/// Pieces of one sentence, each in its tone, wrapped: the first line begins at `lead`, the others at `hang`.
#[must_use]
pub fn flow(paint: Paint, lead: usize, hang: usize, pieces: &[Cell]) -> String {
    let text: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
    let mut tones =
        pieces.iter().flat_map(|(text, tone)| text.chars().filter(|c| !c.is_whitespace()).map(|_| *tone));
    let mut out = String::new();
    for (i, line) in wrap(&text, WIDTH.saturating_sub(hang.max(lead))).iter().enumerate() {
        out.push_str(&" ".repeat(if i == 0 { lead } else { hang }));
        let mut run = String::new();
        let mut run_tone = Tone::Plain;
        for c in line.chars() {
            let tone = if c == ' ' { run_tone } else { tones.next().unwrap_or_default() };
            if tone != run_tone {
                // A blank between two tones belongs to neither.
                let trimmed = run.trim_end();
                out.push_str(&paint.tone(run_tone, trimmed));
                out.push_str(&run[trimmed.len()..]);
                run.clear();
                run_tone = tone;
            }
            run.push(c);
        }
        out.push_str(&paint.tone(run_tone, &run));
        out.push('\n');
    }
    out
}

/// Lines of at most `width` characters; a word that is longer is broken, at best after a sign.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= width {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.push_str(word);
            }
            used += 1 + length;
            continue;
        }
        if used > 0 {
            lines.push(String::new());
        }
        let mut rest: Vec<char> = word.chars().collect();
        while rest.len() > width {
            let cut = (width / 2..width).rev().find(|i| !rest[*i].is_alphanumeric()).map_or(width, |i| i + 1);
            let tail = rest.split_off(cut);
            if let Some(line) = lines.last_mut() {
                line.extend(rest.iter());
            }
            lines.push(String::new());
            rest = tail;
        }
        used = rest.len();
        if let Some(line) = lines.last_mut() {
            line.extend(rest);
        }
    }
    lines
}

/// Bytes with a binary unit, three digits.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{n} B"),
        (_, v) if v < 10.0 => format!("{v:.2} {}", UNITS[unit]),
        (_, v) if v < 100.0 => format!("{v:.1} {}", UNITS[unit]),
        (_, v) => format!("{v:.0} {}", UNITS[unit]),
    }
}

/// Milliseconds as a length of time.
#[must_use]
pub fn duration_ms(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1000..=9_999 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        10_000..=119_999 => format!("{} s", ms / 1000),
        120_000..=7_199_999 => format!("{} min", ms / 60_000),
        7_200_000..=172_799_999 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// How long before `now` the moment `at` was, both RFC 3339; none if one of them is not.
#[must_use]
pub fn age(at: &str, now: &str) -> Option<String> {
    let then = humantime::parse_rfc3339_weak(at).ok()?;
    let now = humantime::parse_rfc3339_weak(now).ok()?;
    let ms = now.duration_since(then).ok()?.as_millis();
    Some(duration_ms(u64::try_from(ms).ok()?))
}

/// An RFC 3339 time for people: no fraction, no T, no Z.
#[must_use]
pub fn clock(at: &str) -> String {
    at.split('.').next().unwrap_or(at).trim_end_matches('Z').replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (4096, "4.00 KiB"),
            (1 << 30, "1.00 GiB"),
            (285_212_672, "272 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in
            [(41, "41 ms"), (2080, "2.08 s"), (18_000, "18 s"), (754_000, "12 min"), (7_200_000, "2 h")]
        {
            assert_eq!(duration_ms(ms), text);
        }
        assert_eq!(age("2026-11-21T02:58:11Z", "2026-11-21T03:10:00Z").unwrap(), "11 min");
        assert_eq!(age("soon", "2026-11-21T03:10:00Z"), None);
        assert_eq!(clock("2026-11-21T02:58:11.123Z"), "2026-11-21 02:58:11");
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        assert_eq!(Paint { color: false }.tone(Tone::Bad, "x"), "x");
        assert_eq!(Paint { color: true }.tone(Tone::Bad, "x"), "\x1b[1;31mx\x1b[0m");
    }

    #[test]
    fn tables_wrap_their_last_column_and_ignore_colours_in_widths() {
        let rows = vec![vec![("ab".to_owned(), Tone::Good), cell("word ".repeat(20).trim())]];
        let plain = table(Paint { color: false }, 2, &["A", "B"], &rows);
        assert!(plain.lines().all(|l| l.chars().count() <= WIDTH) && plain.lines().count() == 3, "{plain}");
        assert!(plain.lines().nth(2).unwrap().starts_with("      word"), "{plain}");
        let colored = table(Paint { color: true }, 2, &["A", "B"], &rows);
        assert!(colored.contains("\x1b[32mab\x1b[0m  word"), "{colored}");
    }

    #[test]
    fn long_words_are_broken_and_nothing_is_lost() {
        let name = "a-very-long-name-of-a-node".repeat(2);
        let rows = vec![vec![cell(&name), cell("online"), cell(&name), cell("10.77.0.11")]];
        let text = table(Paint { color: false }, 2, &["NODE", "STATE", "GROUP", "ADDRESS"], &rows);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        for column in [2..28, 38..64] {
            let glued: String =
                text.lines().skip(1).map(|l| l.get(column.clone()).unwrap_or("").trim()).collect();
            assert!(glued.starts_with("a-very-long-name-of-a-"), "{text}");
        }
        assert_eq!(wrap("10.77.0.11:7480/abc", 8), ["10.77.0.", "11:7480/", "abc"]);
        assert_eq!(wrap("", 8), [""]);
        let long = hanging(&format!("  {name}: "), "because of it");
        assert!(long.lines().count() > 1 && long.lines().all(|l| l.chars().count() <= WIDTH), "{long}");
    }

    #[test]
    fn a_sentence_keeps_its_tones_when_it_wraps() {
        let pieces = [cell("state "), ("word ".repeat(20), Tone::Bad), cell("end")];
        let plain = flow(Paint { color: false }, 0, 4, &pieces);
        assert!(plain.lines().all(|l| l.chars().count() <= WIDTH) && plain.lines().count() == 2, "{plain}");
        let colored = flow(Paint { color: true }, 0, 4, &pieces);
        assert!(
            colored.starts_with("state \x1b[1;31mword") && colored.ends_with("word\x1b[0m end\n"),
            "{colored}"
        );
    }
}
