//! `baton explain` as text. What it says is [`crate::explain`]'s.

use super::paint::{Paint, Tone, cell, flow, hanging};
use super::words;
pub use crate::explain::{Explanation, explain};
use crate::status::Health;

/// The explanation as text.
#[must_use]
pub fn render(explanation: &Explanation, paint: Paint) -> String {
    let tone = match explanation.health {
        Health::Ok => Tone::Good,
        Health::Degraded => Tone::Warn,
        Health::Down => Tone::Bad,
    };
    let mut out = flow(
        paint,
        0,
        2,
        &[
            (format!("Group {}", explanation.group), Tone::Head),
            cell(": "),
            (words::health(explanation.health).to_owned(), tone),
        ],
    );
    let none = ["(nothing is known to be wrong)".to_owned()];
    let because = if explanation.because.is_empty() { &none[..] } else { &explanation.because };
    for (title, lines) in [
        ("What is", explanation.facts.as_slice()),
        ("What is lost", &explanation.lost),
        ("What is not known here", &explanation.unknown),
        ("The rule in force", &explanation.rule),
        ("Because", because),
        ("What would change it", explanation.changes.as_slice()),
    ] {
        if lines.is_empty() {
            continue;
        }
        out.push_str(&format!("  {title}\n"));
        for line in lines {
            out.push_str(&hanging("    * ", line));
        }
    }
    out
}
