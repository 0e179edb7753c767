//! A value that must not be printed by accident.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Text that shows as `…` in logs, errors and `{:?}`. It is serialised in full: only what is meant to be handed over once
/// (a new token) carries one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(String);

impl Sensitive {
    /// Wraps it.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this says with it that the text leaves on purpose.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(…)")
    }
}
