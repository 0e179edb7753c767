//! Services in Compose syntax. Fields that Compose knows and Baton must refuse are named, with what to do instead.

use super::model::{Condition, HealthTest, Healthcheck, Mount, MountSource, Service, Ulimit};
use super::read::{Fields, Reader, join};
use super::tree::{Node, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Fields of Compose that make no sense here, and why.
const REFUSED: &[(&str, &str)] = &[
    ("build", "images are not built here; build it and name it under image"),
    ("container_name", "Baton names containers <cluster>-<node>-<group>-<service>; remove this"),
    ("deploy", "a service runs once, on the group's leader; remove this"),
    ("env_file", "the file would have to be the same on every node; write the variables under environment"),
    (
        "network_mode",
        "services share their host's network so that they answer on the group's addresses; remove this",
    ),
    (
        "networks",
        "services share their host's network so that they answer on the group's addresses; remove this",
    ),
    (
        "ports",
        "services share their host's network: what listens is reachable on the group's addresses; remove this",
    ),
    ("privileged", "privileged containers are refused; name what it needs under cap_add and devices"),
    ("restart", "the agent restarts services (migration_threshold, failure_timeout); remove this"),
];

/// Engines before API 1.45 (Docker 26) cannot mount a directory of a volume.
const SUBPATH: &str = "a directory in a volume cannot be mounted; mount the whole volume and tell the service which directory to use";

impl Reader<'_> {
    pub(super) fn service(&mut self, node: &Node, path: &str) -> Option<Service> {
        let mut f = self.fields(node, path, "a service in Compose syntax");
        for (name, why) in REFUSED {
            if let Some(node) = self.take(&mut f, name) {
                self.error(node.line, &join(path, name), *why);
            }
        }
        let image = self.get(&mut f, "image", Self::text);
        if image.is_none() {
            self.at(&join(path, "image"), "is missing; name the image, with a tag or digest");
        }
        let service = Service {
            image: image.unwrap_or_default(),
            command: self.get(&mut f, "command", Self::command),
            entrypoint: self.get(&mut f, "entrypoint", Self::command),
            environment: self.get(&mut f, "environment", Self::assignments).unwrap_or_default(),
            volumes: self.get(&mut f, "volumes", |r, n, p| r.list(n, p, Self::mount)).unwrap_or_default(),
            depends_on: self.get(&mut f, "depends_on", Self::dependencies).unwrap_or_default(),
            healthcheck: self.get(&mut f, "healthcheck", Self::healthcheck),
            user: self.get(&mut f, "user", Self::text),
            working_dir: self.get(&mut f, "working_dir", Self::absolute),
            cap_add: self.strings(&mut f, "cap_add"),
            cap_drop: self.strings(&mut f, "cap_drop"),
            devices: self.strings(&mut f, "devices"),
            ulimits: self.get(&mut f, "ulimits", |r, n, p| r.map(n, p, Self::ulimit)).unwrap_or_default(),
            tmpfs: self.get(&mut f, "tmpfs", |r, n, p| r.one_or_more(n, p, Self::text)).unwrap_or_default(),
            shm_size: self.get(&mut f, "shm_size", Self::size),
            hostname: self.get(&mut f, "hostname", Self::text),
            stop_grace_period: self
                .get(&mut f, "stop_grace_period", Self::duration)
                .unwrap_or(Duration::from_secs(10)),
            stop_signal: self.get(&mut f, "stop_signal", Self::text),
            labels: self.get(&mut f, "labels", Self::assignments).unwrap_or_default(),
            init: self.get(&mut f, "init", Self::boolean),
            read_only: self.get(&mut f, "read_only", Self::boolean).unwrap_or(false),
            security_opt: self.strings(&mut f, "security_opt"),
        };
        self.finish(f);
        Some(service)
    }

    fn strings(&mut self, fields: &mut Fields<'_>, name: &'static str) -> Vec<String> {
        self.get(fields, name, Self::texts).unwrap_or_default()
    }

    /// A list of words, or one string that is split as a shell would.
    pub(super) fn command(&mut self, node: &Node, path: &str) -> Option<Vec<String>> {
        match &node.value {
            // An empty argument is legal here.
            Value::Seq(_) => self.list(node, path, |r, n, p| match &n.value {
                Value::Scalar(text) => Some(text.clone()),
                Value::Null => Some(String::new()),
                _ => r.text(n, p),
            }),
            _ => self.scalar(node, path, split_words),
        }
    }

    /// `{A: b}` or `[A=b]`.
    fn assignments(&mut self, node: &Node, path: &str) -> Option<BTreeMap<String, String>> {
        if let Value::Seq(_) = node.value {
            let pairs = self.list(node, path, |r, n, p| {
                let text = r.text(n, p)?;
                match text.split_once('=') {
                    Some((key, value)) if !key.is_empty() => Some((key.to_owned(), value.to_owned())),
                    _ => {
                        r.error(n.line, p, no_value(&text));
                        None
                    }
                }
            })?;
            return Some(pairs.into_iter().collect());
        }
        self.map(node, path, |r, n, p| match &n.value {
            Value::Scalar(text) => Some(text.clone()),
            Value::Null => {
                r.error(n.line, p, no_value(p.rsplit('.').next().unwrap_or(p)));
                None
            }
            _ => r.text(n, p),
        })
    }

    fn dependencies(&mut self, node: &Node, path: &str) -> Option<BTreeMap<String, Condition>> {
        if let Value::Seq(_) = node.value {
            let names = self.texts(node, path)?;
            return Some(names.into_iter().map(|name| (name, Condition::ServiceStarted)).collect());
        }
        self.map(node, path, |r, n, p| {
            let mut f = r.fields(n, p, "condition");
            let condition = r.get(&mut f, "condition", |r, n, p| {
                r.scalar(n, p, |text| match text {
                    "service_started" => Ok(Condition::ServiceStarted),
                    "service_healthy" => Ok(Condition::ServiceHealthy),
                    "service_completed_successfully" => Ok(Condition::ServiceCompletedSuccessfully),
                    other => Err(format!(
                        "'{other}' is not known; write service_started, service_healthy or \
                         service_completed_successfully"
                    )),
                })
            });
            r.finish(f);
            Some(condition.unwrap_or_default())
        })
    }

    fn healthcheck(&mut self, node: &Node, path: &str) -> Option<Healthcheck> {
        let mut f = self.fields(node, path, "test, interval, …");
        let disabled = self.get(&mut f, "disable", Self::boolean).unwrap_or(false);
        let test = self.get(&mut f, "test", Self::health_test);
        let check = Healthcheck {
            test: if disabled { Some(HealthTest::Disabled) } else { test },
            interval: self.get(&mut f, "interval", Self::duration).unwrap_or(Duration::from_secs(30)),
            timeout: self.get(&mut f, "timeout", Self::duration).unwrap_or(Duration::from_secs(30)),
            retries: self.get(&mut f, "retries", Self::number).unwrap_or(3),
            start_period: self.get(&mut f, "start_period", Self::duration).unwrap_or(Duration::ZERO),
        };
        self.finish(f);
        Some(check)
    }

    fn health_test(&mut self, node: &Node, path: &str) -> Option<HealthTest> {
        if !matches!(node.value, Value::Seq(_)) {
            return self.text(node, path).map(HealthTest::Shell);
        }
        let words = self.command(node, path)?;
        match words.split_first() {
            Some((first, [])) if first == "NONE" => Some(HealthTest::Disabled),
            Some((first, rest)) if first == "CMD" && !rest.is_empty() => {
                Some(HealthTest::Command(rest.to_vec()))
            }
            Some((first, [script])) if first == "CMD-SHELL" => Some(HealthTest::Shell(script.clone())),
            _ => {
                self.error(
                    node.line,
                    path,
                    "a list must begin with CMD, CMD-SHELL or NONE, e.g. [CMD, healthcheck.sh]",
                );
                None
            }
        }
    }

    fn ulimit(&mut self, node: &Node, path: &str) -> Option<Ulimit> {
        let limit = |r: &mut Self, n: &Node, p: &str| {
            r.scalar(n, p, |text| match text.parse::<i64>() {
                Ok(limit) if limit >= -1 => Ok(limit),
                _ => Err(format!("'{text}' is not a limit; write a number, or -1 for unlimited")),
            })
        };
        if !matches!(node.value, Value::Map(_)) {
            return limit(self, node, path).map(|both| Ulimit { soft: both, hard: both });
        }
        let mut f = self.fields(node, path, "soft, hard");
        let soft = self.get(&mut f, "soft", limit);
        let hard = self.get(&mut f, "hard", limit);
        self.finish(f);
        if soft.is_none() || hard.is_none() {
            self.error(node.line, path, "needs soft and hard");
        }
        soft.zip(hard).map(|(soft, hard)| Ulimit { soft, hard })
    }

    fn mount(&mut self, node: &Node, path: &str) -> Option<Mount> {
        if !matches!(node.value, Value::Map(_)) {
            return self.scalar(node, path, short_mount);
        }
        let mut f = self.fields(node, path, "type, source, target");
        let kind = self.get(&mut f, "type", Self::text);
        let source = self.get(&mut f, "source", Self::text);
        let target = self.get(&mut f, "target", Self::absolute);
        let read_only = self.get(&mut f, "read_only", Self::boolean).unwrap_or(false);
        if let Some(options) = self.take(&mut f, "volume") {
            self.error(options.line, &join(path, "volume"), SUBPATH);
        }
        self.finish(f);
        let (Some(source), Some(target)) = (source, target) else {
            self.error(node.line, path, "needs source and target");
            return None;
        };
        let source = match kind.as_deref() {
            Some("volume") | None if !source.starts_with('/') => volume_source(&source),
            Some("bind") | None => host_source(&source),
            Some("volume") => Err(format!("'{source}' is not a volume's name")),
            Some(other) => Err(format!(
                "type '{other}' is not known here; write volume or bind (tmpfs has its own field)"
            )),
        };
        match source {
            Ok(source) => Some(Mount { source, target, read_only }),
            Err(message) => {
                self.error(node.line, path, message);
                None
            }
        }
    }
}

fn no_value(name: &str) -> String {
    format!("'{name}' has no value; write one (\"\" for empty): the agents' own environment is not handed on")
}

/// `source:target[:ro|rw]`.
fn short_mount(text: &str) -> Result<Mount, String> {
    let bad =
        || format!("'{text}' is not a mount; write volume:/path or /host/path:/path, with :ro if wanted");
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else { return Err(bad()) };
    let mut read_only = false;
    for option in parts.flat_map(|p| p.split(',')) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // Labels for SELinux: the engine would relabel; nothing here needs it.
            other => return Err(format!("mount option '{other}' is not supported; ro and rw are")),
        }
    }
    if source.is_empty() || !target.starts_with('/') {
        return Err(bad());
    }
    let source =
        if source.starts_with(['/', '.', '~']) { host_source(source)? } else { volume_source(source)? };
    Ok(Mount { source, target: PathBuf::from(target), read_only })
}

fn host_source(text: &str) -> Result<MountSource, String> {
    if text.starts_with('/') {
        Ok(MountSource::Host(PathBuf::from(text)))
    } else {
        Err(format!(
            "'{text}' is relative; a path of the host must be absolute, because it has to be the same on every node"
        ))
    }
}

fn volume_source(text: &str) -> Result<MountSource, String> {
    if text.contains('/') {
        return Err(format!("'{text}': {SUBPATH}"));
    }
    let volume = text.parse().map_err(|e: baton_replicator::types::BadName| e.to_string())?;
    Ok(MountSource::Volume { volume })
}

/// Splits a command line as a shell would, without expanding anything.
pub(super) fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let into = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(format!("a quote ({c}) is not closed in '{text}'")),
                        Some(next) if next == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => into.push(escaped),
                            Some(other) => into.extend(['\\', other]),
                            None => return Err(format!("'{text}' ends with a backslash")),
                        },
                        Some(next) => into.push(next),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err(format!("'{text}' ends with a backslash")),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}
