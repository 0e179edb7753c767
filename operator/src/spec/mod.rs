//! The cluster specification: one YAML document, read into [`Spec`], checked as a whole.
//!
//! [`Spec::parse`] either returns a specification in which every reference exists and every timer fits, or
//! [`SpecErrors`]: *all* that is wrong, each entry with its line and the path of the field, so that a person
//! corrects the file once. The document that a spec came from (with variables already replaced) is kept in
//! [`Spec::text`]: that is what is stored in etcd, and parsing it again gives the same spec on every node.
//!
//! Nothing here does I/O: the environment comes in as a function.

mod document;
mod interpolate;
mod model;
mod read;
mod service;
mod timers;
mod tree;
mod units;
mod validate;

#[cfg(test)]
mod tests;

pub use model::{
    AfterPowerLoss, Check, CheckProbe, Condition, Group, HealthTest, Healthcheck, Mount, MountSource, Node,
    NotifyTarget, Service, Spec, Ulimit, Volume, VolumeBacking,
};
pub use timers::Timers;
pub use units::{Cidr, format_duration, format_size, parse_duration, parse_size};

use std::fmt;

/// One thing that is wrong with a specification.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpecError {
    /// Line in the document, from 1; 0 if it concerns the document as a whole.
    pub line: usize,
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
            }
            if !error.path.is_empty() {
                write!(f, " {}:", error.path)?;
            }
            write!(f, " {}", error.message)?;
        }
        Ok(())
    }
}

impl Spec {
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
        match spec {
            Some(spec) if errors.is_empty() => Ok(spec),
            _ => Err(SpecErrors { file: "cluster.yaml".into(), errors }),
        }
    }
}
