//! The history as text, and the reading of server-sent events. Pure.

use super::paint::{Paint, Tone, clock, hanging};
use crate::status::Event;

/// One entry, wrapped under its head.
#[must_use]
pub fn render_event(event: &Event, paint: Paint) -> String {
    let what = match (&event.group, &event.volume) {
        (_, Some(volume)) => format!("{volume}: "),
        (Some(group), None) => format!("{group}: "),
        (None, None) => String::new(),
    };
    let tone = match event.severity.as_str() {
        "critical" => Tone::Bad,
        "warning" => Tone::Warn,
        _ => Tone::Plain,
    };
    let head = format!("{}  {:<8}  {:<8}  ", clock(&event.at), event.node, event.severity);
    let text = hanging(&head, &format!("{what}{}", event.message));
    if tone == Tone::Plain { text } else { paint.tone(tone, text.trim_end()) + "\n" }
}

/// Collects a stream's bytes and yields the complete events in it.
#[derive(Debug, Default)]
pub struct SseReader {
    buffer: Vec<u8>,
}

/// Longest event; more is not our agent.
const EVENT_MAX: usize = 1 << 20;

impl SseReader {
    /// Adds what has arrived; returns the data of every event that is complete now.
    ///
    /// # Errors
    /// If an event does not end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, &'static str> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&block);
            let data: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
            if !data.is_empty() {
                events.push(data.join("\n"));
            }
        }
        if self.buffer.len() > EVENT_MAX { Err("an event does not end") } else { Ok(events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let stream =
            b": keep-alive\n\nid: 1\nevent: baton\ndata: {\"n\":1}\n\nid: 2\ndata: {\"n\":2}\n\nid: 3\nda";
        for size in 1..stream.len() {
            let mut reader = SseReader::default();
            let seen: Vec<String> =
                stream.chunks(size).flat_map(|piece| reader.push(piece).unwrap()).collect();
            assert_eq!(seen, [r#"{"n":1}"#, r#"{"n":2}"#], "pieces of {size}");
        }
        let mut reader = SseReader::default();
        assert!(reader.push(&vec![b'x'; EVENT_MAX + 1]).is_err());
    }
}
