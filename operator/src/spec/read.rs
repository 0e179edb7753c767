//! From the tree to the typed specification, collecting what is wrong instead of stopping at it.
//!
//! The [`Reader`] remembers the line of every field it has seen, so that [`super::validate`] can point at them. A
//! value that cannot be read is reported and replaced by its default: later checks may then speak of the default,
//! but never of a field that was right.

use super::tree::{Entry, Node, Value};
use super::{SpecError, Timers, parse_duration, parse_size};
use baton_replicator::types::Transport;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

pub(super) struct Reader<'e> {
    errors: &'e mut Vec<SpecError>,
    pub(super) lines: HashMap<String, usize>,
    /// Of lists from which unreadable items were left out: where the others had stood.
    positions: HashMap<String, Vec<usize>>,
    /// Of the cluster; volumes may have another one.
    pub(super) peer_timeout: Duration,
    /// The same.
    pub(super) transport: Transport,
}

/// The fields of one mapping. Dropping what was not taken is an error: see [`Reader::finish`].
pub(super) struct Fields<'n> {
    pub path: String,
    pub(super) entries: &'n [Entry],
    pub(super) known: Vec<&'static str>,
}

pub(super) fn join(path: &str, field: impl Display) -> String {
    if path.is_empty() { field.to_string() } else { format!("{path}.{field}") }
}

impl<'e> Reader<'e> {
    pub fn new(errors: &'e mut Vec<SpecError>) -> Self {
        Self {
            errors,
            lines: HashMap::new(),
            positions: HashMap::new(),
            peer_timeout: Timers::default().peer_timeout,
            transport: Transport::default(),
        }
    }

    /// Reports an error at a field read before; if it was absent, at the nearest one above it.
    pub fn at(&mut self, path: &str, message: impl Into<String>) {
        let path = self.as_written(path);
        let mut above = path.as_str();
        let line = loop {
            if let Some(&line) = self.lines.get(above) {
                break line;
            }
            match above.rfind(['.', '[']) {
                Some(end) => above = &above[..end],
                None => break self.lines.get("").copied().unwrap_or(0),
            }
        };
        self.error(line, &path, message);
    }

    /// The path with the index that the item had in the document.
    pub fn as_written(&self, path: &str) -> String {
        let translated = path.split_once('[').and_then(|(list, rest)| {
            let (index, rest) = rest.split_once(']')?;
            let index = self.positions.get(list)?.get(index.parse::<usize>().ok()?)?;
            Some(format!("{list}[{index}]{rest}"))
        });
        translated.unwrap_or_else(|| path.to_owned())
    }

    pub fn error(&mut self, line: usize, path: &str, message: impl Into<String>) {
        self.errors.push(SpecError { line, column: 0, path: path.into(), message: message.into() });
    }

    pub fn fields<'n>(&mut self, node: &'n Node, path: &str, what: &str) -> Fields<'n> {
        self.lines.insert(path.into(), node.line);
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                self.error(node.line, path, format!("must be a mapping ({what}), not {}", other.kind()));
                &[]
            }
        };
        Fields { path: path.into(), entries, known: Vec::new() }
    }

    /// The value of a field, if it is there and not null.
    pub fn take<'n>(&mut self, fields: &mut Fields<'n>, name: &'static str) -> Option<&'n Node> {
        fields.known.push(name);
        let entry = fields.entries.iter().find(|e| e.key == name)?;
        self.lines.insert(join(&fields.path, name), entry.line);
        (!matches!(entry.value.value, Value::Null)).then_some(&entry.value)
    }

    /// Reports every field that nobody asked for.
    pub fn finish(&mut self, fields: Fields<'_>) {
        for entry in fields.entries {
            if !fields.known.contains(&entry.key.as_str()) && !entry.key.starts_with("x-") {
                let mut known = fields.known.clone();
                known.sort_unstable();
                let path = join(&fields.path, &entry.key);
                self.error(entry.line, &path, format!("unknown field; known here are {}", known.join(", ")));
            }
        }
    }

    pub fn get<'n, T>(
        &mut self,
        fields: &mut Fields<'n>,
        name: &'static str,
        read: impl FnOnce(&mut Self, &'n Node, &str) -> Option<T>,
    ) -> Option<T> {
        let node = self.take(fields, name)?;
        let path = join(&fields.path, name);
        read(self, node, &path)
    }

    pub fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        match &node.value {
            Value::Scalar(text) if !text.is_empty() => Some(text.clone()),
            Value::Scalar(_) | Value::Null => {
                self.error(node.line, path, "must not be empty");
                None
            }
            other => {
                self.error(node.line, path, format!("must be a single value, not {}", other.kind()));
                None
            }
        }
    }

    /// A scalar read by a function that says what is wrong.
    pub fn scalar<T, E: Display>(
        &mut self,
        node: &Node,
        path: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node, path)?;
        read(&text).map_err(|e| self.error(node.line, path, e.to_string())).ok()
    }

    pub fn parsed<T: FromStr<Err: Display>>(&mut self, node: &Node, path: &str) -> Option<T> {
        self.scalar(node, path, str::parse)
    }

    pub fn duration(&mut self, node: &Node, path: &str) -> Option<Duration> {
        self.scalar(node, path, parse_duration)
    }

    pub fn size(&mut self, node: &Node, path: &str) -> Option<u64> {
        self.scalar(node, path, parse_size)
    }

    pub fn boolean(&mut self, node: &Node, path: &str) -> Option<bool> {
        self.scalar(node, path, |text| match text {
            "true" | "True" | "TRUE" | "yes" | "on" => Ok(true),
            "false" | "False" | "FALSE" | "no" | "off" => Ok(false),
            other => Err(format!("'{other}' is neither true nor false")),
        })
    }

    pub fn number(&mut self, node: &Node, path: &str) -> Option<u32> {
        self.scalar(node, path, |text| text.parse().map_err(|_| format!("'{text}' is not a whole number")))
    }

    pub fn list<'n, T>(
        &mut self,
        node: &'n Node,
        path: &str,
        mut read: impl FnMut(&mut Self, &'n Node, &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.lines.insert(path.into(), node.line);
        let Value::Seq(items) = &node.value else {
            self.error(node.line, path, format!("must be a list, not {}", node.value.kind()));
            return None;
        };
        let mut out = Vec::with_capacity(items.len());
        let mut positions = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            self.lines.insert(path.clone(), item.line);
            if let Some(value) = read(self, item, &path) {
                out.push(value);
                positions.push(i);
            }
        }
        if positions.len() < items.len() {
            self.positions.insert(path.into(), positions);
        }
        Some(out)
    }

    pub fn texts(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        self.list(node, path, Self::text)
    }

    /// One value or a list of them.
    pub fn one_or_more<'n, T>(
        &mut self,
        node: &'n Node,
        path: &str,
        mut read: impl FnMut(&mut Self, &'n Node, &str) -> Option<T>,
    ) -> Option<Vec<T>> {
        match &node.value {
            Value::Seq(_) => self.list(node, path, read),
            _ => Some(read(self, node, path).into_iter().collect()),
        }
    }

    /// A mapping whose keys are names.
    pub fn map<'n, K: FromStr<Err: Display> + Ord, T>(
        &mut self,
        node: &'n Node,
        path: &str,
        mut read: impl FnMut(&mut Self, &'n Node, &str) -> Option<T>,
    ) -> Option<BTreeMap<K, T>> {
        self.lines.insert(path.into(), node.line);
        let Value::Map(entries) = &node.value else {
            self.error(node.line, path, format!("must be a mapping from names, not {}", node.value.kind()));
            return None;
        };
        let mut out = BTreeMap::new();
        for entry in entries {
            let path = join(path, &entry.key);
            self.lines.insert(path.clone(), entry.line);
            match entry.key.parse::<K>() {
                Err(e) => self.error(entry.line, &path, e.to_string()),
                Ok(key) => {
                    if let Some(value) = read(self, &entry.value, &path) {
                        out.insert(key, value);
                    }
                }
            }
        }
        Some(out)
    }
}
