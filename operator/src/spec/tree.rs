//! YAML text as a tree of nodes that know their line.
//!
//! Scalars keep their text (`1.10` stays `1.10`, `0755` stays `0755`): what a value means is decided by the field
//! it stands in, not by its looks. Anchors, aliases and merge keys work as in Compose files. The tree is bounded:
//! a document that unfolds to more than [`MAX_NODES`] is refused.

use super::SpecError;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::collections::HashMap;

/// A specification of a hundred groups has some ten thousand nodes; more is an alias bomb.
const MAX_NODES: usize = 100_000;

/// A node of the document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `~`, `null` or nothing at all.
    Null,
    /// Any scalar as it was written.
    Scalar(String),
    Seq(Vec<Node>),
    /// In document order. Keys are unique.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub line: usize,
    pub value: Node,
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::Seq(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads the one document in `text`.
pub(super) fn parse(text: &str) -> Result<Node, SpecError> {
    let mut builder = Builder { events: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    let root = builder.document()?;
    Ok(root.unwrap_or(Node { line: 1, value: Value::Null }))
}

struct Builder<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> {
    events: I,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

fn error(line: usize, message: impl Into<String>) -> SpecError {
    SpecError { line, column: 0, path: String::new(), message: message.into() }
}

impl<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> Builder<'a, I> {
    fn next(&mut self) -> Result<(Event<'a>, usize), SpecError> {
        loop {
            match self.events.next() {
                None => return Ok((Event::StreamEnd, 0)),
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span.start.line())),
                Some(Err(e)) => {
                    let at = e.marker();
                    let error = error(at.line(), format!("not valid YAML: {}", e.info()));
                    return Err(SpecError { column: at.col() + 1, ..error });
                }
            }
        }
    }

    fn document(&mut self) -> Result<Option<Node>, SpecError> {
        let mut root = None;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(error(
                        line,
                        "a second document begins here; a specification is one document",
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, line) = self.next()?;
                    root = Some(self.node(event, line)?);
                }
                Event::StreamEnd => return Ok(root),
                other => return Err(error(line, format!("unexpected {other:?}"))),
            }
        }
    }

    /// Reads the node that `event` begins. The parser bounds the nesting, so the recursion is bounded too.
    fn node(&mut self, event: Event<'a>, line: usize) -> Result<Node, SpecError> {
        let before = self.nodes;
        self.count(1, line)?;
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let (node, size) =
                    self.anchors.get(&id).cloned().ok_or_else(|| error(line, "unknown alias"))?;
                self.count(size, line)?;
                return Ok(Node { line, value: node.value });
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL");
                // `$$` is a dollar sign, as in Compose; it is kept doubled in the text until here, so that the
                // stored document can be read again.
                let text = text.replace("$$", "$");
                (anchor, if null { Value::Null } else { Value::Scalar(text) })
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => items.push(self.node(event, line)?),
                    }
                }
                (anchor, Value::Seq(items))
            }
            Event::MappingStart(_, anchor, _) => (anchor, Value::Map(self.mapping()?)),
            other => return Err(error(line, format!("unexpected {other:?}"))),
        };
        let node = Node { line, value };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn mapping(&mut self) -> Result<Vec<Entry>, SpecError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(error(line, "a key must be a single value")),
            };
            let (event, value_line) = self.next()?;
            let value = self.node(event, value_line)?;
            if key == "<<" {
                merge(&mut merged, value)?;
            } else if let Some(first) = entries.iter().find(|e| e.key == key) {
                return Err(error(line, format!("'{key}' is given twice, first in line {}", first.line)));
            } else {
                entries.push(Entry { key, line, value });
            }
        }
        merged.retain(|m| entries.iter().all(|e| e.key != m.key));
        entries.extend(merged);
        Ok(entries)
    }

    fn count(&mut self, n: usize, line: usize) -> Result<(), SpecError> {
        self.nodes += n;
        if self.nodes > MAX_NODES {
            return Err(error(line, format!("the document unfolds to more than {MAX_NODES} values")));
        }
        Ok(())
    }
}

/// `<<: *a` and `<<: [*a, *b]`: earlier ones win.
fn merge(into: &mut Vec<Entry>, from: Node) -> Result<(), SpecError> {
    match from.value {
        Value::Map(entries) => {
            for entry in entries {
                if into.iter().all(|e| e.key != entry.key) {
                    into.push(entry);
                }
            }
            Ok(())
        }
        Value::Seq(nodes) => nodes.into_iter().try_for_each(|node| merge(into, node)),
        other => Err(error(from.line, format!("'<<' merges a mapping, not {}", other.kind()))),
    }
}
