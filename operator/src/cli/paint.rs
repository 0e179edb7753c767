//! Text for terminals: colours, tables, wrapping, human units. Pure: what is shown depends on the arguments
//! alone, so that golden tests can hold it.

use std::fmt::Write;

/// Width that everything fits unless a single word is longer.
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

/// Lines of a table with a heading, indented; the last column is wrapped at the width.
#[must_use]
pub fn table(paint: Paint, indent: usize, heading: &[&str], rows: &[Vec<Cell>]) -> String {
    let columns = heading.len();
    let width = |i: usize| {
        let longest = rows.iter().map(|row| row[i].0.chars().count()).max().unwrap_or(0);
        longest.max(heading[i].len())
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    let heading: Vec<Cell> = heading.iter().map(|h| ((*h).to_owned(), Tone::Dim)).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = " ".repeat(indent);
        let mut at = indent;
        for (i, (content, tone)) in row.iter().enumerate() {
            if i + 1 == columns {
                // A last column squeezed below 20 characters is not wrapped: a broken word helps nobody.
                let room = WIDTH.saturating_sub(at).max(20);
                let wrapped = wrap(content, room);
                let mut lines = wrapped.iter();
                line.push_str(&paint.tone(*tone, lines.next().map_or("", String::as_str)));
                for more in lines {
                    let _ = write!(line, "\n{}{}", " ".repeat(at), paint.tone(*tone, more));
                }
            } else {
                let pad = widths[i] + 2 - content.chars().count();
                line.push_str(&paint.tone(*tone, content));
                line.push_str(&" ".repeat(pad));
                at += widths[i] + 2;
            }
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// `first` and then `text` wrapped under it.
#[must_use]
pub fn hanging(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let mut out = String::new();
    for (i, line) in wrap(text, WIDTH.saturating_sub(indent).max(20)).iter().enumerate() {
        let lead = if i == 0 { first.to_owned() } else { " ".repeat(indent) };
        let _ = writeln!(out, "{}", format!("{lead}{line}").trim_end());
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("never empty");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
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
}
