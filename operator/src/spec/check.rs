//! The checks of a group: reading them, and what must hold for each.

use super::model::{Check, CheckProbe, Group, MountSource, Service};
use super::read::{Fields, Reader, join};
use super::tree::Node;
use super::validate::{at_least, unknown};
use crate::core::checks::OnFailure;
use std::path::Path;
use std::time::Duration;

/// All kinds, in the order of the reference.
const KINDS: [&str; 7] = ["http", "tcp", "exec", "sql", "docker", "write", "ping"];
/// Longest name of a check: it is a label of metrics.
const NAME_MAX: usize = 64;

impl Reader<'_> {
    pub(super) fn check(&mut self, node: &Node, path: &str) -> Option<Check> {
        let mut outer = self.fields(node, path, "one of http, tcp, exec, sql, docker, write, ping");
        let mut checks = Vec::new();
        for kind in KINDS {
            if let Some(inner) = self.take(&mut outer, kind) {
                checks.extend(self.check_of(kind, inner, &join(path, kind)));
            }
        }
        let given = outer.entries.iter().filter(|e| outer.known.contains(&e.key.as_str())).count();
        if given != 1 {
            self.error(node.line, path, format!("a check is one of {}", KINDS.join(", ")));
        }
        self.finish(outer);
        checks.pop()
    }

    fn check_of(&mut self, kind: &str, node: &Node, path: &str) -> Option<Check> {
        let mut f = self.fields(node, path, "interval, timeout, …");
        let probe = match kind {
            "http" => self.http(&mut f),
            "tcp" => self.get(&mut f, "address", Self::text).map(|address| CheckProbe::Tcp { address }),
            "exec" => {
                let service = self.get(&mut f, "service", Self::text);
                let command = self.get(&mut f, "command", Self::command);
                service.zip(command).map(|(service, command)| CheckProbe::Exec { service, command })
            }
            "sql" => self.sql(&mut f),
            "docker" => self.get(&mut f, "service", Self::text).map(|service| CheckProbe::Docker { service }),
            "write" => {
                let service = self.get(&mut f, "service", Self::text);
                let path = self.get(&mut f, "path", Self::absolute);
                let min_free = self.get(&mut f, "min_free", Self::size).unwrap_or(1 << 20);
                service.zip(path).map(|(service, path)| CheckProbe::Write { service, path, min_free })
            }
            _ => {
                let address = self.get(&mut f, "address", Self::address);
                let hold = self.get(&mut f, "hold", Self::duration).unwrap_or(Duration::from_secs(10));
                address.map(|address| CheckProbe::Ping { address, hold })
            }
        };
        if probe.is_none() {
            self.error(node.line, path, needs(kind));
        }
        // What goes through a disk takes longer, and costs more.
        let slow = matches!(kind, "sql" | "write");
        let seconds = |n| Duration::from_secs(n);
        let default = seconds(if slow { 5 } else { 1 });
        let name = self.get(&mut f, "name", |r, n, p| {
            r.scalar(n, p, |text| match text.chars().count() {
                1..=NAME_MAX => Ok(text.to_owned()),
                _ => Err(format!("is longer than {NAME_MAX} characters")),
            })
        });
        let interval = self.get(&mut f, "interval", Self::duration).unwrap_or(default);
        let timeout = self.get(&mut f, "timeout", Self::duration).unwrap_or(default);
        let jitter = self.get(&mut f, "jitter", Self::duration).unwrap_or(interval);
        // `retries` is the word of the first release.
        let retries = self.get(&mut f, "retries", Self::number);
        let fall = self.get(&mut f, "fall", Self::counted).or(retries).unwrap_or(3);
        let rise = self.get(&mut f, "rise", Self::counted).unwrap_or(1);
        let (mut on_failure, mut start_period) = (OnFailure::default(), seconds(10));
        if kind != "ping" {
            on_failure = self.get(&mut f, "on_failure", Self::on_failure).unwrap_or_default();
            start_period = self.get(&mut f, "start_period", Self::duration).unwrap_or(start_period);
        }
        let service = match &probe {
            Some(
                CheckProbe::Exec { service, .. }
                | CheckProbe::Docker { service }
                | CheckProbe::Write { service, .. },
            ) => Some(service.clone()),
            Some(CheckProbe::Ping { .. }) | None => None,
            Some(CheckProbe::Http { .. } | CheckProbe::Tcp { .. } | CheckProbe::Sql { .. }) => {
                self.get(&mut f, "service", Self::text)
            }
        };
        self.finish(f);
        probe.map(|probe| Check {
            name,
            probe,
            interval,
            timeout,
            jitter,
            rise,
            retries: fall,
            start_period,
            on_failure,
            service,
        })
    }

    fn http(&mut self, f: &mut Fields<'_>) -> Option<CheckProbe> {
        self.get(f, "url", Self::text).map(|url| {
            let status = self
                .get(f, "status", |r, n, p| {
                    r.one_or_more(n, p, |r, n, p| {
                        r.scalar(n, p, |text| match text.parse::<u16>() {
                            Ok(status) if (100..600).contains(&status) => Ok(status),
                            _ => Err(format!("'{text}' is not an HTTP status")),
                        })
                    })
                })
                .unwrap_or_default();
            CheckProbe::Http { url, status }
        })
    }

    fn sql(&mut self, f: &mut Fields<'_>) -> Option<CheckProbe> {
        let address = self.get(f, "address", Self::text);
        let user = self.get(f, "user", Self::text);
        let password_file = self.get(f, "password_file", Self::absolute);
        let database = self.get(f, "database", Self::text);
        let statement = self.get(f, "statement", Self::text);
        let (address, user, database) = (address?, user?, database?);
        Some(CheckProbe::Sql { address, user, password_file, database, statement })
    }

    fn counted(&mut self, node: &Node, path: &str) -> Option<u32> {
        self.scalar(node, path, |text| match text.parse::<u32>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("'{text}' is not a whole number of 1 or more")),
        })
    }

    fn on_failure(&mut self, node: &Node, path: &str) -> Option<OnFailure> {
        self.scalar(node, path, |text| match text {
            "restart" => Ok(OnFailure::Restart),
            "move" => Ok(OnFailure::Move),
            "alarm" => Ok(OnFailure::Alarm),
            other => Err(format!("'{other}' is not known; write restart, move or alarm")),
        })
    }
}

fn needs(kind: &str) -> &'static str {
    match kind {
        "http" => "needs url, e.g. \"http://{address}/\"",
        "tcp" => "needs address, e.g. \"{address}:3306\"",
        "exec" => "needs service and command",
        "sql" => "needs address, user and database, e.g. \"{address}:3306\"",
        "docker" => "needs service",
        "write" => "needs service and path",
        _ => "needs address, e.g. that of the gateway",
    }
}

/// What must hold between the checks of a group and the rest of it.
pub(super) fn validate(path: &str, group: &Group, r: &mut Reader<'_>) {
    for (i, check) in group.checks.iter().enumerate() {
        let at = format!("{path}.checks[{i}]");
        let service = check.service.as_ref();
        if let Some(service) = service.filter(|s| !group.services.contains_key(*s)) {
            r.at(&at, unknown("service of this group", service, group.services.keys()));
        }
        if let Some(name) = &check.name
            && group.checks[..i].iter().any(|c| c.name.as_ref() == Some(name))
        {
            r.at(&at, format!("the name '{name}' is taken by a check above"));
        }
        let text = match &check.probe {
            CheckProbe::Http { url, .. } => {
                if !url.starts_with("http://") {
                    r.at(&at, format!("'{url}' must begin with http://"));
                }
                url
            }
            CheckProbe::Tcp { address } | CheckProbe::Sql { address, .. } => {
                if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
                    r.at(&at, format!("'{address}' needs a port, e.g. \"{{address}}:3306\""));
                }
                address
            }
            // The first release did not look at the times of these.
            CheckProbe::Exec { .. } => continue,
            CheckProbe::Docker { .. } | CheckProbe::Ping { .. } => "",
            CheckProbe::Write { service, path, .. } => {
                if let Some(s) = group.services.get(service).filter(|s| !on_a_volume(s, path)) {
                    let places: Vec<String> = volumes(s).map(|t| t.display().to_string()).collect();
                    let places = if places.is_empty() { "none".into() } else { places.join(", ") };
                    r.at(
                        &at,
                        format!(
                            "{} is on no replicated volume of {service} (mounted there: {places})",
                            path.display()
                        ),
                    );
                }
                ""
            }
        };
        if text.contains("{address}") && group.addresses.is_empty() {
            r.at(&at, "uses {address}, but the group has no addresses");
        }
        at_least(r, &format!("{at}.interval"), check.interval, Duration::from_millis(50));
        at_least(r, &format!("{at}.timeout"), check.timeout, Duration::from_millis(10));
    }
}

/// Where a service has replicated volumes that it may write to.
fn volumes(service: &Service) -> impl Iterator<Item = &Path> {
    let replicated =
        |m: &&super::model::Mount| matches!(m.source, MountSource::Volume { .. }) && !m.read_only;
    service.volumes.iter().filter(replicated).map(|m| m.target.as_path())
}

/// The innermost mount around the path is a replicated volume, and the path a file in it.
fn on_a_volume(service: &Service, path: &Path) -> bool {
    let around =
        service.volumes.iter().map(|m| m.target.as_path()).filter(|t| path != *t && path.starts_with(t));
    let inner = around.max_by_key(|t| t.components().count());
    let plain = path.components().all(|c| !matches!(c, std::path::Component::ParentDir));
    plain && inner.is_some_and(|inner| volumes(service).any(|v| v == inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Spec, SpecErrors};

    fn read(group: &str, check: &str) -> Result<Check, SpecErrors> {
        let text = format!(
            "cluster: c\nnodes: {{ a: {{ address: 10.0.0.1 }}, b: {{ address: 10.0.0.2 }} }}\ngroups:\n  web:\n    \
             addresses: [10.0.0.9/24]\n    volumes: {{ store: {{ size: 1GiB }} }}\n    {group}\n    services:\n      \
             front: {{ image: x }}\n      db: {{ image: y, volumes: [\"store:/data\", \"/srv:/data/host\"] }}\n    \
             checks: [{check}]\n"
        );
        let mut spec = Spec::parse(&text, |_| None)?;
        let (_, mut group) = spec.groups.pop_first().expect("a group");
        Ok(group.checks.pop().expect("a check"))
    }

    fn good(check: &str) -> Check {
        read("", check).unwrap_or_else(|e| panic!("{e}"))
    }

    fn refused(group: &str, check: &str) -> String {
        read(group, check).expect_err("must be refused").to_string()
    }

    /// The words of the first release mean what they meant.
    #[test]
    fn a_check_of_the_first_release_reads_as_before() {
        let check = good(
            "{ tcp: { address: \"{address}:80\", interval: 2s, timeout: 3s, retries: 5, service: front } }",
        );
        assert_eq!((check.retries, check.rise, check.on_failure), (5, 1, OnFailure::Restart));
        assert_eq!((check.interval, check.timeout), (Duration::from_secs(2), Duration::from_secs(3)));
        assert_eq!((check.jitter, check.service.as_deref()), (Duration::from_secs(2), Some("front")));
        let exec = good("{ exec: { service: db, command: [ok], interval: 0 } }");
        assert_eq!(exec.service.as_deref(), Some("db"));
    }

    #[test]
    fn every_kind_is_read_with_its_settings() {
        let all = "fall: 4, rise: 2, jitter: 1s, start_period: 20s, on_failure: alarm, name: mine";
        let sql =
            good(&format!("{{ sql: {{ address: \"{{address}}:3306\", user: u, database: d, {all} }} }}"));
        assert_eq!((sql.retries, sql.rise, sql.on_failure), (4, 2, OnFailure::Alarm));
        assert_eq!((sql.name.as_deref(), sql.interval), (Some("mine"), Duration::from_secs(5)));
        assert_eq!((sql.jitter, sql.start_period), (Duration::from_secs(1), Duration::from_secs(20)));
        assert_eq!(good("{ docker: { service: front, on_failure: move } }").on_failure, OnFailure::Move);
        let write = good("{ write: { service: db, path: /data/f, min_free: 1GiB } }");
        assert!(matches!(write.probe, CheckProbe::Write { min_free: 0x4000_0000, .. }), "{write:?}");
        let ping = good("{ ping: { address: \"fd00::1\", hold: 30s } }");
        assert!(matches!(ping.probe, CheckProbe::Ping { hold, .. } if hold.as_secs() == 30), "{ping:?}");
    }

    #[test]
    fn what_a_check_cannot_do_is_refused_with_the_reason() {
        for (check, word) in [
            ("{ write: { service: front, path: /data/f } }", "mounted there: none"),
            ("{ write: { service: db, path: /tmp/f } }", "mounted there: /data"),
            ("{ write: { service: db, path: /data } }", "is on no replicated volume"),
            ("{ write: { service: db, path: /data/host/f } }", "is on no replicated volume"),
            ("{ write: { service: db, path: /data/../etc/f } }", "is on no replicated volume"),
            ("{ docker: { service: gone } }", "there is no service of this group called gone"),
            ("{ sql: { address: \"{address}\", user: u, database: d } }", "needs a port"),
            ("{ sql: { address: \"x:1\", user: u } }", "needs address, user and database"),
            ("{ ping: { address: gateway } }", "is not an IP address"),
            ("{ ping: { address: 10.0.0.254, on_failure: move } }", "unknown field"),
            ("{ tcp: { address: \"x:1\", fall: 0 } }", "1 or more"),
            ("{ tcp: { address: \"x:1\", on_failure: panic } }", "restart, move or alarm"),
            ("{ tcp: { address: \"x:1\", name: a } }, { tcp: { address: \"y:1\", name: a } }", "is taken"),
        ] {
            let said = refused("", check);
            assert!(said.contains(word), "{check}: {said}");
        }
    }

    #[test]
    fn only_what_needs_no_volume_runs_on_standbys() {
        let tcp = "{ tcp: { address: \"x:1\" } }";
        assert!(read("standby: hot", tcp).is_ok());
        assert!(refused("standby: warm", tcp).contains("cold or hot"));
        let text = |front: &str| {
            format!(
                "cluster: c\nnodes: {{ a: {{ address: 10.0.0.1 }}, b: {{ address: 10.0.0.2 }} }}\ngroups:\n  web:\n    \
                 standby: hot\n    volumes: {{ store: {{ size: 1GiB }} }}\n    services:\n      {front}\n      \
                 db: {{ image: y, volumes: [\"store:/data\"] }}\n"
            )
        };
        let error = |front| Spec::parse(&text(front), |_| None).expect_err("must be refused").to_string();
        assert!(error("front: { image: x, depends_on: [db] }").contains("runs on the leader only"));
        assert!(error("x-front: { image: x, volumes: [\"store:/data\"] }").contains("every service"));
    }
}
