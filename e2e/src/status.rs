//! What the agents say about the cluster (`GET /v1/status`), read as JSON.
//!
//! The suite does not use the operator's types: it reads the documented fields, as any other client would, and a
//! missing field is "not there", never a crash.

use crate::config::{GROUP, VOLUME};
use serde_json::Value;
use std::collections::BTreeMap;

/// One agent's snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(pub Value);

impl Status {
    fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
        let found = list.as_array().into_iter().flatten().find(|e| e[key] == name);
        found.unwrap_or(&Value::Null)
    }

    /// The demo's group.
    #[must_use]
    pub fn group(&self) -> &Value {
        Self::named(&self.0["groups"], "name", GROUP)
    }

    /// Its volume, as the answering node's replicator sees it.
    #[must_use]
    pub fn volume(&self) -> &Value {
        Self::named(&self.group()["volumes"], "volume", VOLUME)
    }

    /// A node's entry.
    #[must_use]
    pub fn node(&self, name: &str) -> &Value {
        Self::named(&self.0["nodes"], "name", name)
    }

    /// A node's part in the group.
    #[must_use]
    pub fn group_node(&self, name: &str) -> &Value {
        Self::named(&self.group()["nodes"], "node", name)
    }

    /// A peer of the answering node's replica.
    #[must_use]
    pub fn peer(&self, name: &str) -> &Value {
        Self::named(&self.volume()["peers"], "node", name)
    }

    /// The group's leader.
    #[must_use]
    pub fn leader(&self) -> Option<&str> {
        self.group()["leader"].as_str()
    }

    /// Number of the group's epoch; 0 if it never had one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.group()["epoch"]["number"].as_u64().unwrap_or(0)
    }

    /// The group's state, e.g. `serving`.
    #[must_use]
    pub fn state(&self) -> &str {
        self.group()["state"].as_str().unwrap_or("")
    }

    /// Names in the in-sync set.
    #[must_use]
    pub fn in_sync(&self) -> Vec<&str> {
        self.group()["in_sync"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// What the agent advises, one text.
    #[must_use]
    pub fn advice(&self) -> String {
        let all = self.0["advice"].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.collect::<Vec<_>>().join("\n")
    }
}

/// What all agents say at one moment; none for those that do not answer.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By host.
    pub of: BTreeMap<String, Option<Status>>,
}

impl View {
    /// One agent's snapshot.
    ///
    /// # Errors
    /// A sentence, if it does not answer.
    pub fn of(&self, host: &str) -> Result<&Status, String> {
        let status = self.of.get(host).and_then(Option::as_ref);
        status.ok_or_else(|| format!("the agent of {host} does not answer"))
    }

    /// The host whose own agent says that it leads and serves.
    #[must_use]
    pub fn serving(&self) -> Option<&str> {
        let mut own = self.of.iter().filter_map(|(host, s)| s.as_ref().map(|s| (host.as_str(), s)));
        own.find(|(host, s)| s.leader() == Some(host) && s.state() == "serving").map(|(host, _)| host)
    }

    /// Exactly one host serves, both are in sync and online, and the standby could take over.
    ///
    /// # Errors
    /// What is still missing, as one sentence.
    pub fn healthy(&self) -> Result<&str, String> {
        let leader = self.serving().ok_or("no host serves")?;
        let own = self.of(leader)?;
        let without_data = own.group()["volumes"].as_array().is_some_and(Vec::is_empty);
        for host in self.of.keys() {
            let status = self.of(host)?;
            if status.leader() != Some(leader) || status.epoch() != own.epoch() {
                let (who, epoch) = (status.leader(), status.epoch());
                return Err(format!("{host} says {who:?} leads in epoch {epoch}, {leader} says it does"));
            }
            if !own.in_sync().contains(&host.as_str()) {
                return Err(format!("{host} is not in the in-sync set {:?}", own.in_sync()));
            }
            if status.node(host)["mode"] != "online" {
                return Err(format!("{host} is in mode {}", status.node(host)["mode"]));
            }
            if !without_data && status.volume()["disk"] != "UpToDate" {
                return Err(format!("the replica of {host} is {}", status.volume()["disk"]));
            }
            if host != leader && own.group_node(host)["ready"] != true {
                return Err(format!("{host} is not ready: {}", own.group_node(host)["reason"]));
            }
        }
        for service in own.group()["services"].as_array().into_iter().flatten() {
            let health = service["health"].as_str().unwrap_or("healthy");
            if service["state"] != "running" || health != "healthy" {
                return Err(format!("{} is {} and {health}", service["name"], service["state"]));
            }
        }
        Ok(leader)
    }

    /// The snapshots, for people.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (host, status) in &self.of {
            let status = status.as_ref().map(|s| &s.0);
            let json = status
                .map_or("no answer".to_owned(), |s| serde_json::to_string_pretty(s).unwrap_or_default());
            text += &format!("--- status of {host} ---\n{json}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn healthy_view() -> View {
        let status = |me: &str| {
            Status(json!({
                "advice": ["a", "b"],
                "nodes": [{ "name": "alpha", "mode": "online" }, { "name": "beta", "mode": "online" }],
                "groups": [{
                    "name": "web", "leader": "alpha", "epoch": { "number": 7, "term": "1f" }, "in_sync": ["alpha", "beta"],
                    "state": if me == "alpha" { "serving" } else { "standby" },
                    "nodes": [{ "node": "beta", "ready": true, "reason": "" }],
                    "services": [{ "name": "apache", "state": "running", "health": null }],
                    "volumes": [{ "volume": "webstore", "disk": "UpToDate", "peers": [{ "node": "beta", "dirty_bytes": 5 }] }],
                }],
            }))
        };
        View { of: ["alpha", "beta"].into_iter().map(|h| (h.to_owned(), Some(status(h)))).collect() }
    }

    fn broken(host: &str, pointer: &str, value: Value) -> Result<String, String> {
        let mut view = healthy_view();
        let status = view.of.get_mut(host).and_then(Option::as_mut).unwrap();
        *status.0.pointer_mut(pointer).unwrap() = value;
        view.healthy().map(str::to_owned)
    }

    #[test]
    fn a_healthy_view_names_its_leader() {
        let view = healthy_view();
        assert_eq!(view.healthy(), Ok("alpha"));
        let alpha = view.of("alpha").unwrap();
        assert_eq!((alpha.epoch(), alpha.advice().as_str()), (7, "a\nb"));
        assert_eq!(alpha.peer("beta")["dirty_bytes"], 5);
    }

    #[test]
    fn a_group_without_volumes_has_no_replica_to_wait_for() {
        let mut view = healthy_view();
        for status in view.of.values_mut().flatten() {
            *status.0.pointer_mut("/groups/0/volumes").unwrap() = json!([]);
        }
        assert_eq!(view.healthy(), Ok("alpha"));
        let status = view.of.get_mut("alpha").and_then(Option::as_mut).unwrap();
        *status.0.pointer_mut("/groups/0/volumes").unwrap() = Value::Null;
        assert!(view.healthy().is_err(), "unknown volumes are not none");
    }

    #[test]
    fn everything_that_is_missing_is_said() {
        let g = |rest: &str| format!("/groups/0/{rest}");
        let said =
            |r: Result<String, String>, what: &str| assert!(r.clone().unwrap_err().contains(what), "{r:?}");
        said(broken("alpha", &g("state"), json!("waiting")), "no host serves");
        said(broken("alpha", &g("in_sync"), json!(["alpha"])), "not in the in-sync set");
        said(broken("beta", &g("leader"), json!("beta")), "beta says");
        said(broken("beta", &g("epoch/number"), json!(6)), "epoch 6");
        said(broken("beta", &g("volumes/0/disk"), json!("Inconsistent")), "Inconsistent");
        said(broken("alpha", &g("nodes/0/ready"), json!(false)), "not ready");
        said(broken("alpha", &g("services/0/state"), json!("exited")), "apache");
        said(broken("beta", "/nodes/1/mode", json!("standby")), "mode");
        let mut view = healthy_view();
        view.of.insert("beta".into(), None);
        said(view.healthy().map(str::to_owned), "does not answer");
    }
}
