//! Prometheus, Alertmanager, the mail server and the webhook of the cluster under test: what they say, and waiting for
//! them to say it.

use crate::config::Config;
use crate::http;
use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Longest wait for an answer; a query over two days of the demo takes milliseconds.
const ASK: Duration = Duration::from_secs(5);
/// Between two looks of a wait. Prometheus itself looks every 5 s.
const LOOK: Duration = Duration::from_millis(500);

/// How far an alert got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// From the cause to firing in Prometheus.
    pub fired: Option<Duration>,
    /// Alertmanager had it, and kept it from people because its cause is told already.
    pub silenced: bool,
    /// From the cause to the mail server.
    pub mailed: Option<Duration>,
    /// From the cause to the webhook.
    pub called: Option<Duration>,
}

impl Seen {
    /// It went all the way.
    #[must_use]
    pub fn arrived(&self) -> bool {
        self.fired.is_some() && (self.silenced || (self.mailed.is_some() && self.called.is_some()))
    }
}

/// The demo's monitoring.
#[derive(Clone, Debug)]
pub struct Monitoring {
    /// Prometheus.
    pub prometheus: SocketAddr,
    /// Alertmanager.
    pub alertmanager: SocketAddr,
    project: String,
}

impl Monitoring {
    /// Of this cluster.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let [a, b, c, _] = config.vip.octets();
        let at = |last, port| SocketAddr::from((Ipv4Addr::new(a, b, c, last), port));
        Self { prometheus: at(31, 9090), alertmanager: at(32, 9093), project: config.project.clone() }
    }

    fn json(at: SocketAddr, path: &str) -> Result<Value> {
        let answer = http::get(at, path, ASK, ASK).with_context(|| format!("GET {path} at {at}"))?;
        let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if answer.status != 200 {
            bail!("{path} at {at} answered {}: {}", answer.status, answer.text());
        }
        Ok(body)
    }

    /// The result of an instant query.
    ///
    /// # Errors
    /// If Prometheus does not answer or refuses the query; the text is its own.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = Self::json(self.prometheus, &format!("/api/v1/query?query={}", encode(expression)))?;
        let result = &answer["data"]["result"];
        Ok(match answer["data"]["resultType"].as_str() {
            Some("scalar" | "string") => vec![result.clone()],
            _ => result.as_array().cloned().unwrap_or_default(),
        })
    }

    /// Names of the alerts that fire.
    ///
    /// # Errors
    /// As [`Monitoring::query`].
    pub fn firing(&self) -> Result<BTreeSet<String>> {
        let alerts = Self::json(self.prometheus, "/api/v1/alerts")?;
        let all = alerts["data"]["alerts"].as_array().into_iter().flatten();
        let firing = all.filter(|a| a["state"] == "firing");
        Ok(firing.filter_map(|a| a["labels"]["alertname"].as_str()).map(str::to_owned).collect())
    }

    /// Names of the alerts that Alertmanager has, and whether all of that name are silenced by their cause.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn managed(&self) -> Result<BTreeMap<String, bool>> {
        let alerts = Self::json(self.alertmanager, "/api/v2/alerts")?;
        let mut all: BTreeMap<String, bool> = BTreeMap::new();
        for alert in alerts.as_array().into_iter().flatten() {
            let Some(name) = alert["labels"]["alertname"].as_str() else { continue };
            let silenced = alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty());
            *all.entry(name.to_owned()).or_insert(true) &= silenced;
        }
        Ok(all)
    }

    fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.project)
    }

    /// All mails that the mail server keeps, as they came.
    ///
    /// # Errors
    /// If it does not run.
    pub fn mails(&self) -> Result<String> {
        shell::run(&["docker", "exec", &self.container("mail"), "mails", "last", "10000"])
    }

    /// Everything that the webhook was called with, one call per line.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn calls(&self) -> Result<String> {
        shell::run(&["docker", "logs", &self.container("webhook")])
    }

    /// Stops the webhook's receiver until the guard is dropped.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn webhook_down(&self) -> Result<WebhookDown> {
        let container = self.container("webhook");
        shell::run(&["docker", "stop", &container])?;
        Ok(WebhookDown(container))
    }

    /// Waits until each of these alerts has fired since `begin` and reached people by both ways, as far as its cause does
    /// not silence it; whoever is silent at the end of `limit` has not. `before` is what there was at the cause.
    #[must_use]
    pub fn watch(
        &self,
        names: &[&str],
        before: &Before,
        begin: Instant,
        limit: Duration,
    ) -> BTreeMap<String, Seen> {
        let mut seen: BTreeMap<String, Seen> =
            names.iter().map(|n| ((*n).to_owned(), Seen::default())).collect();
        loop {
            // What cannot be asked just now is asked again; at the end it counts as silent.
            let firing = self.firing().unwrap_or_default();
            let managed = self.managed().unwrap_or_default();
            let mails = self.mails().unwrap_or_default();
            let calls = self.calls().unwrap_or_default();
            for (name, seen) in &mut seen {
                let took = begin.elapsed();
                if firing.contains(name) {
                    seen.fired.get_or_insert(took);
                }
                seen.silenced |= managed.get(name).copied().unwrap_or(false);
                if mails.matches(&mail_mark(name)).count() > before.mails(name) {
                    seen.mailed.get_or_insert(took);
                }
                if calls.matches(&call_mark(name)).count() > before.calls(name) {
                    seen.called.get_or_insert(took);
                }
            }
            if begin.elapsed() >= limit || seen.values().all(Seen::arrived) {
                return seen;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What has been told so far.
    ///
    /// # Errors
    /// If mail server or webhook cannot be read.
    pub fn before(&self) -> Result<Before> {
        Ok(Before { mails: self.mails()?, calls: self.calls()? })
    }

    /// Waits until none of these fires, so that a later one is a new one.
    ///
    /// # Errors
    /// If one still does at the end.
    pub fn wait_quiet(&self, names: &[&str], limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let firing = self.firing()?;
            let left: Vec<_> = names.iter().filter(|n| firing.contains(**n)).collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("still firing after {limit:?}: {left:?}");
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Mails and calls at the time of a cause.
#[derive(Clone, Debug)]
pub struct Before {
    mails: String,
    calls: String,
}

impl Before {
    fn mails(&self, name: &str) -> usize {
        self.mails.matches(&mail_mark(name)).count()
    }

    fn calls(&self, name: &str) -> usize {
        self.calls.matches(&call_mark(name)).count()
    }
}

/// How a mail names an alert that fires, by the template in alertmanager.yml.
fn mail_mark(name: &str) -> String {
    format!("\nfiring {name}:")
}

/// How a call does. Labels are sorted by name; none that the fired alerts have comes before.
fn call_mark(name: &str) -> String {
    format!("{{\"status\":\"firing\",\"labels\":{{\"alertname\":\"{name}\"")
}

/// The webhook's receiver is down.
#[derive(Debug)]
pub struct WebhookDown(String);

impl Drop for WebhookDown {
    fn drop(&mut self) {
        let _ = shell::run(&["docker", "start", &self.0]);
    }
}

/// A query as a part of a URL.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_survives_the_url() {
        assert_eq!(encode("up{job=\"a b\"} == 1"), "up%7Bjob%3D%22a%20b%22%7D%20%3D%3D%201");
    }

    #[test]
    fn an_alert_has_arrived_by_both_ways_or_is_silenced_by_its_cause() {
        let way = Some(Duration::ZERO);
        let mut seen = Seen { fired: way, mailed: way, ..Seen::default() };
        assert!(!seen.arrived());
        seen.called = way;
        assert!(seen.arrived());
        assert!(Seen { fired: way, silenced: true, ..Seen::default() }.arrived());
        assert!(!Seen { silenced: true, ..Seen::default() }.arrived());
    }
}
