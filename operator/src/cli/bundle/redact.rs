//! Takes secrets out of text before it goes into a bundle. Pure.
//!
//! Two nets: what is known to be secret (the cluster's secret, tokens, values of environments) is removed wherever it
//! stands; what looks like one (a password in a URL, `token=…`, a private key) is removed by its looks. Rather too much
//! than too little: a bundle is mailed. But what everybody may know is no secret, whatever a variable that holds it is
//! called: names of hosts, groups, containers and projects stay, or nobody could read the rest.

use regex::{Captures, Regex};
use std::borrow::Cow;

/// What stands in the place of a secret.
pub(super) const REMOVED: &str = "(removed)";
/// A known secret shorter than this would take words of ordinary text with it.
const KNOWN_MIN: usize = 6;

/// Removes secrets.
#[derive(Debug)]
pub(super) struct Redactor {
    known: Vec<String>,
    rules: Vec<(Regex, Rule)>,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Everything.
    All,
    /// The first group stays.
    KeepFirst,
    /// The first group stays, and all of it if the value is a path: that is where a secret is, not what it is.
    KeepFirstUnlessPath,
}

/// Names whose value is secret. `key` alone is not among them: a primary key is none.
const NAMES: &str = "[a-z0-9_.-]*(?:password|passwd|passphrase|passwort|_pw|secret|token|credential|api[_-]?key|\
                     private[_-]?key|access[_-]?key|authorization|cookie)[a-z0-9_.-]*";

impl Redactor {
    /// With these known secrets; `names` are public and stay.
    pub fn new(known: impl IntoIterator<Item = String>, names: &[String]) -> Result<Self, regex::Error> {
        let rule = |pattern: &str, rule| Regex::new(pattern).map(|r| (r, rule));
        let rules = vec![
            rule(
                r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
                Rule::All,
            )?,
            rule(r"(?i)([a-z][a-z0-9+.-]*://)[^\s/@'\x22]+@", Rule::KeepFirst)?,
            rule(r"(?i)\b((?:bearer|basic)\s+)[a-z0-9._~+/=-]{6,}", Rule::KeepFirst)?,
            // --password VALUE, --password=VALUE
            rule(
                &format!(r"(?i)(--{NAMES}(?:\s+|=))(?:'[^']*'|\x22[^\x22]*\x22|\S+)"),
                Rule::KeepFirstUnlessPath,
            )?,
            // In JSON: "name": "value", also with escaped quotes inside a string.
            rule(
                &format!(r"(?i)(\\?\x22{NAMES}\\?\x22\s*:\s*\\?\x22)(?:[^\x22\\]|\\[^\x22])*"),
                Rule::KeepFirstUnlessPath,
            )?,
            // NAME=value, name: value
            rule(
                &format!(r"(?i)\b({NAMES}\s*[=:]\s*)(?:'[^']*'|\x22[^\x22]*\x22|[^\s,;&'\x22\\]+)"),
                Rule::KeepFirstUnlessPath,
            )?,
            // What mysql and friends take: -pVALUE after the program's name.
            rule(
                r"(?i)(\b(?:mysql|mariadb|mysqldump|mysqladmin|mariadb-admin)\b[^\n]*?\s-p)[^\s]+",
                Rule::KeepFirst,
            )?,
        ];
        let mut known: Vec<String> = known
            .into_iter()
            .map(|k| k.trim().to_owned())
            .filter(|k| k.chars().count() >= KNOWN_MIN && !names.iter().any(|name| part_of(k, name)))
            .collect();
        // Longer ones first, so that one which contains another goes as a whole.
        known.sort_by_key(|k| std::cmp::Reverse(k.len()));
        known.dedup();
        Ok(Self { known, rules })
    }

    /// The text without secrets, and how many were removed.
    pub fn text(&self, text: &str) -> (String, usize) {
        let mut removed = 0;
        let mut text = Cow::Borrowed(text);
        for secret in &self.known {
            let found = text.matches(secret.as_str()).count();
            if found > 0 {
                removed += found;
                text = Cow::Owned(text.replace(secret.as_str(), REMOVED));
            }
        }
        for (pattern, rule) in &self.rules {
            let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                let all = &found[0];
                let first = found.get(1).map_or("", |m| m.as_str());
                let value = all[first.len()..].trim_start_matches(['"', '\'']);
                if value.starts_with(REMOVED)
                    || (matches!(rule, Rule::KeepFirstUnlessPath) && value.starts_with('/'))
                {
                    return all.to_owned();
                }
                removed += 1;
                match rule {
                    Rule::All => REMOVED.to_owned(),
                    // The sign before the host stays, too.
                    Rule::KeepFirst if all.ends_with('@') => format!("{first}{REMOVED}@"),
                    Rule::KeepFirst | Rule::KeepFirstUnlessPath => format!("{first}{REMOVED}"),
                }
            });
            text = Cow::Owned(replaced.into_owned());
        }
        (text.into_owned(), removed)
    }
}

/// Whether `name` is `value`, or has it among its parts: `baton-e2e` is one of `baton-e2e-alpha-agent`.
fn part_of(value: &str, name: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    let bounded = |(at, _): (usize, &str)| {
        edge(name[..at].chars().next_back()) && edge(name[at + value.len()..].chars().next())
    };
    name.match_indices(value).any(bounded)
}

/// Whether a variable of this name holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = ["pin", "pw", "pwd"];
    ["pass", "secret", "token", "key", "credential"].iter().any(|w| name.contains(w))
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| parts.contains(&part))
}

/// Whether a value looks made up: long enough, and of more than one kind of sign. A word or a number is in every other
/// line of a log.
fn looks_secret(value: &str) -> bool {
    const LONG: usize = 8;
    let kinds: [fn(char) -> bool; 3] = [char::is_lowercase, char::is_uppercase, char::is_numeric];
    let found = kinds.iter().filter(|kind| value.chars().any(**kind)).count();
    value.chars().count() >= LONG && found >= 2 && !value.chars().any(char::is_whitespace)
}

/// Values of environments in a specification: removed from the document, and returned, so that they are known. A
/// document that is no YAML is left to the other rules. Only what a name or its looks call secret is removed elsewhere, too.
pub(super) fn specification(text: &str) -> (String, Vec<String>) {
    let Ok(mut document) = serde_saphyr::from_str::<serde_json::Value>(text) else {
        return (text.to_owned(), Vec::new());
    };
    let mut values = Vec::new();
    environments(&mut document, &mut values);
    if values.is_empty() {
        // As it was written, comments included.
        return (text.to_owned(), Vec::new());
    }
    let secret = |(name, value): &(String, String)| is_secret(name) || looks_secret(value);
    let secrets = values.into_iter().filter(secret).map(|(_, value)| value).collect();
    (crate::cli::format::yaml(&document), secrets)
}

fn environments(value: &mut serde_json::Value, values: &mut Vec<(String, String)>) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), &mut *field) {
                    ("environment", Value::Object(pairs)) => {
                        for (name, value) in pairs {
                            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                            values.push((name.clone(), text));
                            *value = Value::from(REMOVED);
                        }
                    }
                    ("environment", Value::Array(pairs)) => {
                        for pair in pairs {
                            let text = pair.as_str().unwrap_or_default().to_owned();
                            let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                            values.push((name.to_owned(), value.to_owned()));
                            *pair = Value::from(format!("{name}={REMOVED}"));
                        }
                    }
                    _ => environments(field, values),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|v| environments(v, values)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        Redactor::new(["k3pt-quiet".to_owned(), "on".to_owned()], &[]).unwrap().text(text).0
    }

    #[test]
    fn secrets_go_by_their_looks() {
        for text in [
            "postgres://root:hunter2@db:5432/x",
            "connecting to http://hunter2@host/",
            "MYSQL_ROOT_PASSWORD=hunter2",
            "mysql_password: 'hunter2 and more'",
            "Authorization: Bearer hunter2hunter2",
            "authorization: Basic aHVudGVyMg==hunter2",
            r#"{"token": "hunter2"}"#,
            r#"{"env": "{\"db_password\": \"hunter2\"}"}"#,
            "mysqld --password=hunter2 --port 3306",
            "client --api-token hunter2",
            "mysqladmin -u root -phunter2 status",
            "?access_key=hunter2&x=1",
            "Set-Cookie: hunter2",
            "-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\nhunter2 cut off",
            "WP_DB_PW=hunter2",
        ] {
            let cleaned = clean(text);
            assert!(!cleaned.contains("hunter2") && cleaned.contains(REMOVED), "{text} became {cleaned}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "BATON_SECRET_FILE=/etc/baton/secret",
            "--token-file /etc/baton/token",
            "secret_file: /etc/baton/secret",
            "group web: serving on alpha, epoch 7",
            "http://10.77.0.100:7480/v1/status?n=3",
            "primary key: 7",
            "the cluster secret differs between the hosts",
            "mail to sip@tholdi.com",
            "on",
        ] {
            assert_eq!(clean(text), text);
        }
        assert_eq!(clean("a k3pt-quiet b"), "a (removed) b", "known, whatever it looks like");
    }

    /// ETCD_INITIAL_CLUSTER_TOKEN of the end-to-end cluster was the name of its project.
    #[test]
    fn public_names_stay_whatever_holds_them() {
        let names = ["baton-e2e-alpha-agent", "e2e", "tholdi/mariadb:10.11"].map(str::to_owned);
        let known = ["baton-e2e", "mariadb", "K9-baton-e2e"].map(str::to_owned);
        let clean = |text: &str| Redactor::new(known.clone(), &names).unwrap().text(text).0;
        for text in ["baton-e2e-alpha-agent exited", "network baton-e2e", "image tholdi/mariadb:10.11"] {
            assert_eq!(clean(text), text);
        }
        assert_eq!(clean("token K9-baton-e2e"), format!("token {REMOVED}"), "longer than the name");
        assert!(part_of("mariadb", "tholdi/mariadb:10.11") && !part_of("maria", "tholdi/mariadb:10.11"));
    }

    #[test]
    fn variables_are_secret_by_name_or_by_the_looks_of_their_value() {
        for name in ["MYSQL_ROOT_PASSWORD", "ODD_PIN", "WP_DB_PW", "api-key", "GITHUB_TOKEN"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PING_INTERVAL", "DATABASE", "MAPPING", "PORT"] {
            assert!(!is_secret(name), "{name}");
        }
        for value in ["hQ7b2kKp0", "Zebra-Quartz-77"] {
            assert!(looks_secret(value), "{value}");
        }
        for value in ["cluster", "production", "3306", "10.77.0.100", "Europe", "two words 7"] {
            assert!(!looks_secret(value), "{value}");
        }
    }

    #[test]
    fn values_of_environments_go_whatever_their_names() {
        let spec = "cluster: demo\ngroups:\n  web:\n    services:\n      db:\n        image: mariadb\n        environment:\n\
                    \x20         PIN: zebra-9\n          PORT: 3306\n      app:\n        environment: [\"A=lion-7\"]\n";
        let (text, mut values) = specification(spec);
        values.sort();
        assert_eq!(
            values,
            ["zebra-9"],
            "a port is everywhere, and neither name nor looks call the other one secret"
        );
        assert!(!text.contains("zebra-9") && !text.contains("lion-7") && text.contains("PIN: "), "{text}");
        assert!(text.contains("image: mariadb"), "{text}");
        let plain = "cluster: demo # a comment\n";
        assert_eq!(specification(plain).0, plain);
        assert_eq!(specification("a: [").0, "a: [");
    }
}
