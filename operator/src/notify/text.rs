//! A message as a mail: subject, text, headers that make a thread of an incident. Pure; held by golden files.

use super::message::{Kind, Message, severity_word, spoken, wall};
use crate::causes::one_line;
use std::fmt::Write;
use std::time::Duration;

/// Width of the text: what the oldest terminal and a quoted reply show without folding.
const WIDTH: usize = 76;
/// Longest subject; more is cut. RFC 5322 allows 998 bytes a line, people read some 100 characters.
const SUBJECT: usize = 160;

/// `[baton demo] web: beta took over from alpha in 1.7 s`.
#[must_use]
pub fn subject(m: &Message) -> String {
    let mark = match m.kind {
        Kind::End => "OK: ",
        Kind::Event | Kind::Begin | Kind::Reminder | Kind::Digest | Kind::Test => "",
    };
    let whole = format!("[baton {}] {mark}{}", m.cluster, one_line(&m.title));
    if whole.chars().count() <= SUBJECT {
        return whole;
    }
    whole.chars().take(SUBJECT - 1).chain(['…']).collect()
}

/// The mail's text.
#[must_use]
pub fn body(m: &Message) -> String {
    let mut text = String::new();
    if m.parts.is_empty() {
        one(&mut text, m);
    } else {
        wrapped(&mut text, "", &format!("{} messages came at once, oldest first.", m.parts.len()));
        for part in &m.parts {
            let _ = writeln!(text, "\n* {}  {}", clock(&part.at), one_line(&part.title));
            for line in part.facts.iter().chain(&part.done).chain(&part.advice) {
                wrapped(&mut text, "    ", line);
            }
        }
    }
    for note in &m.notes {
        text.push('\n');
        wrapped(&mut text, "Note: ", note);
    }
    let _ = write!(
        text,
        "\nTo look:  baton status\n          baton events\n\n-- \nCluster {}, told by {} at {}, severity {}\n",
        m.cluster,
        m.node,
        m.at,
        severity_word(m.severity)
    );
    text
}

fn one(text: &mut String, m: &Message) {
    wrapped(text, "", &format!("{}.", m.title.trim_end_matches('.')));
    if let Some(ms) = m.lasted_ms.filter(|_| m.kind == Kind::Event) {
        let _ = writeln!(text, "It took {} ms ({}).", ms, spoken(Duration::from_millis(ms)));
    }
    let doing =
        if matches!(m.kind, Kind::Begin | Kind::Reminder) { "What Baton does" } else { "What Baton did" };
    for (heading, lines) in [("What is known", &m.facts), (doing, &m.done), ("What to do now", &m.advice)] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{heading}:");
        }
        for line in lines {
            wrapped(text, "  - ", line);
        }
    }
    if m.advice.is_empty() && m.kind != Kind::Test {
        let _ = writeln!(text, "\nNothing has to be done.");
    }
}

/// Folds a line at words; what follows the first line is indented like it.
fn wrapped(text: &mut String, lead: &str, line: &str) {
    let indent = " ".repeat(lead.chars().count());
    let mut row = lead.to_owned();
    let mut empty = true;
    for word in line.split_whitespace() {
        if !empty && row.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{row}");
            row.clone_from(&indent);
            empty = true;
        }
        if !empty {
            row.push(' ');
        }
        row.push_str(word);
        empty = false;
    }
    let _ = writeln!(text, "{row}");
}

/// Hours, minutes and seconds of a time, as it was written.
fn clock(at: &str) -> &str {
    at.get(11..19).unwrap_or(at)
}

/// `Message-ID` of a message: the same word on every node, so that answers and reminders find it.
#[must_use]
pub fn message_id(m: &Message) -> String {
    format!("<{}@{}.baton>", m.id(), m.cluster)
}

/// `References` and `In-Reply-To`: the first message of the incident, unless this is it.
#[must_use]
pub fn references(m: &Message) -> Option<String> {
    (m.sequence > 0).then(|| format!("<{}@{}.baton>", m.first_id(), m.cluster))
}

/// The mail as it goes to the server.
///
/// # Errors
/// An address that is none: the specification is checked, so this is a sender made of odd names.
pub fn mail(m: &Message, from: &str, to: &[String]) -> Result<lettre::Message, String> {
    use lettre::message::header::{ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0};
    let address = |text: &str| text.parse().map_err(|e| format!("'{text}' is not a mail address: {e}"));
    let mut builder = lettre::Message::builder().from(address(from)?).subject(subject(m));
    for recipient in to {
        builder = builder.to(address(recipient)?);
    }
    builder = builder.date(wall(&m.at).ok_or_else(|| format!("'{}' is no time", m.at))?);
    builder = builder.message_id(Some(message_id(m)));
    if let Some(first) = references(m) {
        builder = builder.references(first.clone()).in_reply_to(first);
    }
    for (name, value) in [
        // Nobody's holiday reply comes back (RFC 3834).
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("X-Baton-Severity", severity_word(m.severity)),
        ("X-Baton-Key", m.key.as_str()),
    ] {
        let name = HeaderName::new_from_ascii_str(name);
        builder = builder.raw_header(HeaderValue::new(name, value.to_owned()));
    }
    builder.header(MIME_VERSION_1_0).header(ContentType::TEXT_PLAIN).body(body(m)).map_err(|e| e.to_string())
}

/// A test message.
#[must_use]
pub fn test_message(
    cluster: &str,
    node: &baton_replicator::types::NodeName,
    target: &str,
    at: &str,
) -> Message {
    Message {
        cluster: cluster.to_owned(),
        node: node.clone(),
        group: None,
        severity: crate::spec::Severity::Info,
        kind: Kind::Test,
        key: format!("test/{target}"),
        incident: format!("test/{target}/{node}@{at}"),
        sequence: 0,
        at: at.to_owned(),
        title: format!("test of the target {target} from {node}"),
        lasted_ms: None,
        facts: vec![
            format!("Somebody asked for it: 'baton notify test {target}'"),
            "If you read this, real messages arrive here as well".into(),
        ],
        done: Vec::new(),
        advice: Vec::new(),
        notes: Vec::new(),
        parts: Vec::new(),
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
