//! The specification as somebody sees it who is no administrator: without what may be a secret.
//!
//! Hidden are all values of a service's `environment` and of a webhook's `headers` (nobody can tell which of them is a
//! password), values of keys that are called like one, passwords in URLs, and arguments like `--password=…`. Comments,
//! anchors and `x-` fields are left out: they may repeat any of it. The copy is made from the parsed document, never by
//! searching its text, and cannot be applied: its first field is unknown to the parser.

use super::tree::{self, Entry, Value};
use std::fmt::Write;

/// What stands in the place of a hidden value.
pub const HIDDEN: &str = "(hidden)";
/// Mappings and lists whose every value is hidden.
const ALL_OF: [&str; 3] = ["environment", "headers", "build_args"];
/// Parts of a key's name that make its value a secret, unless it names a file.
const WORDS: [&str; 6] = ["password", "passwd", "secret", "token", "credential", "private_key"];

/// A copy of `text` without secrets.
#[must_use]
pub fn masked(text: &str) -> String {
    let mut out = String::from(
        "# Values that may be secret are hidden; an administrator sees them. Comments are left out.\nmasked: this copy \
         cannot be applied\n",
    );
    match tree::parse(text).map(|root| root.value) {
        Ok(Value::Map(entries)) => mapping(&mut out, &entries, 0, false),
        // What is in force was read once; if it cannot be read again, nobody knows what is in it.
        Ok(_) | Err(_) => out.push_str("# The document cannot be read, so all of it is hidden.\n"),
    }
    out
}

fn mapping(out: &mut String, entries: &[Entry], depth: usize, hide: bool) {
    for entry in entries.iter().filter(|e| !e.key.starts_with("x-")) {
        let hide = hide || ALL_OF.contains(&entry.key.as_str()) || secret(&entry.key);
        // Writing to a string does not fail.
        let _ = write!(out, "{:indent$}{}:", "", scalar(&entry.key), indent = 2 * depth);
        value(out, &entry.value.value, depth, hide);
    }
}

/// The value after `key:` or `-`, with the end of its line.
fn value(out: &mut String, value: &Value, depth: usize, hide: bool) {
    match value {
        Value::Null => out.push_str(" null\n"),
        Value::Scalar(text) => {
            let shown = if hide { hidden(text) } else { clean(text) };
            let _ = writeln!(out, " {}", scalar(&shown));
        }
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Value::Seq(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(entries) => {
            out.push('\n');
            mapping(out, entries, depth + 1, hide);
        }
        Value::Seq(items) => {
            out.push('\n');
            for item in items {
                let _ = write!(out, "{:indent$}-", "", indent = 2 * (depth + 1));
                self::value(out, &item.value, depth + 1, hide);
            }
        }
    }
}

fn secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    WORDS.iter().any(|word| key.contains(word)) && !key.ends_with("_file")
}

/// A hidden value; of `NAME=value` in a list the name stays.
fn hidden(text: &str) -> String {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match text.split_once('=') {
        Some((before, _)) if !before.is_empty() && before.chars().all(name) => format!("{before}={HIDDEN}"),
        _ => HIDDEN.to_owned(),
    }
}

/// A value that is shown, without the password of a URL and without an argument that carries one.
fn clean(text: &str) -> String {
    if let Some((before, _)) = text.split_once('=')
        && secret(before)
    {
        return format!("{before}={HIDDEN}");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{HIDDEN}@{host}{}", &rest[authority.len()..]),
        None => text.to_owned(),
    }
}

/// A scalar in YAML: plain where that is certain to read the same, else in double quotes.
fn scalar(text: &str) -> String {
    let text = text.replace('$', "$$");
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '/');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ' | '$');
    let null = ["null", "Null", "NULL"].contains(&text.as_str());
    if first && text.chars().all(plain) && !text.ends_with(' ') && !null {
        return text;
    }
    // JSON's quoting is YAML's.
    serde_json::Value::String(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::*;

    const DOCUMENT: &str = r#"
x-db: &db { PASSWORD: s3cret-anchor }   # password was s3cret-comment
cluster: demo
nodes:
  alpha: { address: 10.77.0.11 }
  beta: { address: 10.77.0.12 }
groups:
  web:
    services:
      mysql:
        image: "mariadb:10.11"
        command: [mysqld, "--password=s3cret-argument", --verbose]
        environment: { <<: *db, USER: s3cret-user, "ODD KEY": "s3cret: [x]\n" }
      apache:
        image: httpd
        environment: ["TOKEN=s3cret-list", "s3cret bare"]
        labels: { price: "5 $$", note: "a: b # c", api_token: s3cret-key, token_file: /run/token }
    checks:
      - http: { url: "http://admin:s3cret-url@10.0.0.1/x?y=1", interval: 1s, headers: { Authorization: s3cret-header } }
"#;

    #[test]
    fn nothing_secret_is_left_and_the_rest_reads_the_same() {
        let text = masked(DOCUMENT);
        assert!(!text.contains("s3cret"), "{text}");
        for kept in [
            "cluster: demo",
            "image: \"mariadb:10.11\"",
            "PASSWORD: \"(hidden)\"",
            "- \"TOKEN=(hidden)\"",
            "- \"--password=(hidden)\"",
            "price: 5 $$",
            "note: \"a: b # c\"",
            "token_file: /run/token",
            "http://(hidden)@10.0.0.1/x?y=1",
        ] {
            assert!(text.contains(kept), "{kept} in\n{text}");
        }
        let again = tree::parse(&text).expect("it is YAML");
        let Value::Map(entries) = again.value else { panic!("{text}") };
        let keys: Vec<&str> = entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["masked", "cluster", "nodes", "groups"]);
    }

    #[test]
    fn a_masked_copy_cannot_be_applied_by_mistake() {
        let text = "cluster: demo\nnodes: { a: { address: 10.0.0.1 } }\ngroups: {}\n";
        let error = Spec::parse(&masked(text), |_| None).unwrap_err().to_string();
        assert!(error.contains("masked"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_is_hidden_as_a_whole() {
        for broken in ["password: [s3cret", "- s3cret", "s3cret", ""] {
            assert!(!masked(broken).contains("s3cret"), "{broken}");
        }
    }
}
