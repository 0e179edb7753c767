//! How a read command shows what it read: text for people, JSON or YAML for programs. Pure.

use clap::Args;
use serde::Serialize;

/// The forms of a read command's output.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// As JSON, with every field.
    #[arg(long, conflicts_with = "yaml")]
    pub json: bool,
    /// As YAML, with every field.
    #[arg(long)]
    pub yaml: bool,
}

impl Format {
    /// The value in the form asked for.
    #[must_use]
    pub fn show<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> String {
        if self.json {
            json(value)
        } else if self.yaml {
            yaml(value)
        } else {
            text(value)
        }
    }

    /// JSON or YAML was asked for: a program reads it.
    #[must_use]
    pub fn for_programs(self) -> bool {
        self.json || self.yaml
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> String {
    // Status documents hold text keys only: they serialise.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

pub(super) fn yaml<T: Serialize>(value: &T) -> String {
    // By way of JSON, so that both forms have the same shape (numbers in keys, flattened fields).
    let document = serde_json::to_value(value).unwrap_or_default();
    let text = serde_saphyr::to_string(&document).unwrap_or_default();
    if text.ends_with('\n') { text } else { text + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;
    use crate::status::ClusterStatus;

    #[test]
    fn json_and_yaml_say_the_same() {
        for status in [fixture::healthy(), fixture::resyncing(), fixture::down()] {
            let format = |json, yaml| Format { json, yaml };
            let text = format(false, true).show(&status, |_| unreachable!());
            let from_yaml: ClusterStatus = serde_saphyr::from_str(&text).unwrap();
            let from_json: ClusterStatus =
                serde_json::from_str(&format(true, false).show(&status, |_| unreachable!())).unwrap();
            assert_eq!(from_yaml, status);
            assert_eq!(from_json, status);
            assert_eq!(format(false, false).show(&status, |s| s.cluster.clone()), "demo");
        }
        // What YAML would read as something else stays text.
        for text in ["no", "1.0", "", "a: b", "- x", "two\nlines", "null", "# x"] {
            let back: String = serde_saphyr::from_str(&yaml(&text)).unwrap();
            assert_eq!(back, text);
        }
    }
}
