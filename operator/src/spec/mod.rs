//! The cluster specification: one YAML document, read into [`Spec`], checked as a whole.
//!
//! [`Spec::parse`] either returns a specification in which every reference exists and every timer fits, or
//! [`SpecErrors`]: *all* that is wrong, each entry with its line and the path of the field, so that a person
//! corrects the file once. The document that a spec came from (with variables already replaced) is kept in
//! [`Spec::text`]: that is what is stored in etcd, and parsing it again gives the same spec on every node.
//!
//! Nothing here does I/O: the environment comes in as a function.

mod check;
pub mod diff;
mod document;
mod fence;
mod interpolate;
pub mod link;
mod masked;
mod model;
mod notify;
mod read;
pub mod reference;
mod service;
mod timers;
mod tree;
mod units;
mod validate;
mod volume;

#[cfg(test)]
mod tests;

pub use diff::{Change, Facts, GroupFacts, Impact, Plan};
pub use fence::{FenceDevice, bound as fence_bound, delay as fence_delay};
pub use link::HeartbeatLink;
pub use masked::{HIDDEN, masked};
pub use model::{
    AfterPowerLoss, Channel, Check, CheckProbe, Condition, Exec, FAILBACK_AFTER, FencePolicy, Group,
    HealthTest, Healthcheck, Mail, MailTls, Mount, MountSource, Node, NotifyTarget, Service, Severity, Spec,
    StandbyMode, Ulimit, Volume, VolumeBacking, Webhook,
};
pub use timers::{Profile, Timers};
pub use units::{Cidr, format_duration, format_size, parse_duration, parse_size};
pub use volume::ResyncLimits;

use std::fmt;

/// One thing that is wrong with a specification.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpecError {
    /// Line in the document, from 1; 0 if it concerns the document as a whole.
    pub line: usize,
    /// Column in that line, from 1; 0 if it is not known.
    pub column: usize,
    /// The field, e.g. `groups.web.volumes.webstore.size`; empty for a syntax error.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// Everything that is wrong with a specification, in the order of the lines. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecErrors {
    /// Name of the file as it is shown.
    pub file: String,
    /// The errors.
    pub errors: Vec<SpecError>,
}

impl SpecErrors {
    /// The same errors under the name of the file they came from.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file = file.into();
        self
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file)?;
            if error.line > 0 {
                write!(f, "{}:", error.line)?;
                if error.column > 0 {
                    write!(f, "{}:", error.column)?;
                }
            }
            if !error.path.is_empty() {
                write!(f, " {}:", error.path)?;
            }
            write!(f, " {}", error.message)?;
        }
        Ok(())
    }
}

/// Where the field stands in its line: its key, or else whatever the line begins with.
fn column(line: &str, path: &str) -> usize {
    let key = path.rsplit('.').next().unwrap_or(path);
    let key = key.split('[').next().unwrap_or(key);
    let is_key = |at: &usize| {
        let before = line[..*at].chars().next_back();
        let after = line[at + key.len()..].trim_start_matches(['"', '\'']);
        after.starts_with(':') && before.is_none_or(|c| !(c.is_alphanumeric() || "_-.".contains(c)))
    };
    let found = if key.is_empty() { None } else { line.match_indices(key).map(|(at, _)| at).find(is_key) };
    let at = found.or_else(|| line.find(|c: char| !c.is_whitespace() && c != '-')).unwrap_or(0);
    line[..at].chars().count() + 1
}

impl Spec {
    /// The addresses of all groups.
    pub fn vips(&self) -> impl Iterator<Item = std::net::IpAddr> + '_ {
        self.groups.values().flat_map(|g| &g.addresses).map(|a| a.address)
    }

    /// Whether any group has one.
    pub fn has_volumes(&self) -> bool {
        self.groups.values().any(|g| !g.volumes.is_empty())
    }

    /// Reads a specification. `env` answers `${NAME}` and `${NAME:-default}` (for the text kept in etcd, where
    /// nothing is left to replace, `|_| None`).
    ///
    /// # Errors
    /// Everything that is wrong with it. The file is called `cluster.yaml` until [`SpecErrors::in_file`].
    pub fn parse(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, SpecErrors> {
        let mut errors = Vec::new();
        let text = interpolate::interpolate(text, &env, &mut errors);
        let spec = match tree::parse(&text) {
            Err(error) => {
                errors.push(error);
                None
            }
            Ok(root) => {
                let mut reader = read::Reader::new(&mut errors);
                let draft = reader.spec(&root, &text);
                validate::validate(&draft, &mut reader);
                Some(draft)
            }
        };
        errors.sort();
        errors.dedup();
        let lines: Vec<&str> = text.lines().collect();
        for error in errors.iter_mut().filter(|e| e.column == 0 && !e.path.is_empty()) {
            error.column = lines.get(error.line.wrapping_sub(1)).map_or(0, |line| column(line, &error.path));
        }
        match spec {
            Some(spec) if errors.is_empty() => Ok(spec),
            _ => Err(SpecErrors { file: "cluster.yaml".into(), errors }),
        }
    }
}
