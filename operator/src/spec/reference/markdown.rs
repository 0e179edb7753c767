//! The reference for people.

use super::{Kind, sections};
use std::fmt::Write;

/// `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(HEAD);
    for section in sections() {
        let at = if section.path.is_empty() { String::new() } else { format!(" (`{}`)", section.path) };
        // Writing to a string cannot fail.
        let _ = write!(out, "\n## {}{at}\n", section.title);
        if !section.intro.is_empty() {
            let _ = write!(out, "\n{}\n", section.intro);
        }
        if !section.one_of.is_empty() {
            let _ = write!(out, "\nExactly one of `{}`.\n", section.one_of.join("`, `"));
        }
        out += "\n| field | type | if left out | meaning | example |\n| --- | --- | --- | --- | --- |\n";
        for f in section.fields {
            let default = match (f.default, section.one_of.contains(&f.name)) {
                (_, true) => "another one is there",
                ("", false) => "**required**",
                (default, false) => default,
            };
            let example = f.example.replace('|', "\\|");
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {} | `{example}` |",
                f.name,
                words(&f.kind),
                f.meaning
            );
        }
    }
    out
}

fn words(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Pattern(_) => "text".into(),
        Kind::Duration => "duration".into(),
        Kind::Size => "size".into(),
        Kind::Boolean => "`true` or `false`".into(),
        Kind::Whole => "whole number".into(),
        Kind::Address => "IP address".into(),
        Kind::Cidr => "address/prefix, or a mapping".into(),
        Kind::Path => "absolute path".into(),
        Kind::Word(all) => format!("`{}`", all.join("`, `")),
        Kind::OneOrMore(one) => format!("{}, or a list", words(one)),
        Kind::List(one) => format!("list of: {}", words(one)),
        Kind::Command => "list of words, or a line".into(),
        Kind::Assignments => "`NAME: value`, or a list of `NAME=value`".into(),
        Kind::Map(one) => format!("by name: {}", words(one)),
        Kind::Either(a, b) => format!("{}; or {}", words(a), words(b)),
        Kind::Section(section) => format!("[{}](#{})", section.title.to_lowercase(), anchor(section)),
    }
}

/// As the usual renderers make it of the heading.
fn anchor(section: &super::Section) -> String {
    let heading = match section.path {
        "" => section.title.to_owned(),
        path => format!("{} ({path})", section.title),
    };
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

const HEAD: &str = "# Configuration reference

<!-- Made from operator/src/spec/reference/table.rs: `baton spec reference > docs/configuration.md`. -->

The cluster specification: one YAML document, the same for all nodes, kept in etcd. `baton check FILE` checks it as a whole and
names line, column and field of everything that is wrong; `baton apply FILE` says what a change means, and puts it into force
while everything runs. `baton spec schema` prints a JSON Schema for editors:

```yaml
# yaml-language-server: $schema=cluster.schema.json
```

* **Durations** are numbers with a unit: `us`, `ms`, `s`, `m`, `h`, `d`, also in a row (`1m30s`). A bare number is refused.
* **Sizes** are bytes, or numbers with `KiB`, `MiB`, `GiB`, `TiB`; `k`, `m`, `g`, `t` mean the same, as in Compose.
* **Variables** as in Compose: `${NAME}`, `${NAME:-default}`, `${NAME:?why}`, `$$` for a dollar sign. `baton apply` replaces
  them from *its own* environment; what the cluster keeps has the values in it, passwords included: whoever may read the
  specification may read them.
* **Anchors** and merge keys (`<<`) work as in Compose files.
";
