//! Two checked specifications → what changes, in words, and what each change means for what runs.
//!
//! A pure function of the two and of a few facts about the cluster ([`Facts`]). It decides nothing by itself: agents
//! reconcile to the new specification whatever this says; but `apply` refuses what [`Change::refused`] marks, and asks
//! before what interrupts. Values of environments are never shown: they hold passwords.
//!
//! Never part of a plan: destroying data. What leaves the specification is stopped and stays where it is.

mod group;
#[cfg(test)]
mod tests;

use super::{Profile, Spec, format_duration, model};
use baton_replicator::types::{GroupName, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::PathBuf;

/// How much a change is felt, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// Taken over while everything runs.
    Live,
    /// A service is restarted or stopped where it is, or an address goes.
    Interrupts,
    /// A group stops or moves to another node.
    Stops,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    /// The field, e.g. `groups.web.services.apache`.
    pub path: String,
    /// What changes, a few words.
    pub what: String,
    /// What follows from it; for a refused change, why it is refused and what to do instead.
    pub consequence: String,
    /// How much it is felt.
    pub impact: Impact,
    /// It cannot be applied.
    pub refused: bool,
}

/// All differences, in the order of the document. Empty if only comments or layout differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// The differences.
    pub changes: Vec<Change>,
}

/// What is known about a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    /// Who leads it.
    pub leader: Option<NodeName>,
    /// Who has every acknowledged write.
    pub in_sync: Vec<NodeName>,
}

/// What is known about the cluster; by default nothing, then only the documents speak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Groups.
    pub groups: BTreeMap<GroupName, GroupFacts>,
    /// Where nodes keep the files of their volumes.
    pub volumes_dir: PathBuf,
}

impl Plan {
    /// Changes that cannot be applied.
    pub fn refused(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|c| c.refused)
    }

    /// The heaviest impact; none if nothing changes.
    #[must_use]
    pub fn impact(&self) -> Option<Impact> {
        self.changes.iter().map(|c| c.impact).max()
    }

    /// One line for the history.
    #[must_use]
    pub fn summary(&self) -> String {
        let words: Vec<&str> = self.changes.iter().map(|c| c.what.as_str()).collect();
        match words.as_slice() {
            [] => "only comments or layout changed".into(),
            few if few.len() <= 4 => few.join(", "),
            many => format!("{}, and {} more", many[..3].join(", "), many.len() - 3),
        }
    }

    /// For people: a line per change, its consequence below.
    #[must_use]
    pub fn render(&self) -> String {
        if self.changes.is_empty() {
            return "Nothing changes but comments or layout.\n".into();
        }
        let mut out = String::new();
        for change in &self.changes {
            let mark = match (change.refused, change.impact) {
                (true, _) => "REFUSED",
                (false, Impact::Live) => "      -",
                (false, Impact::Interrupts) => "      !",
                (false, Impact::Stops) => "     !!",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{mark} {}", change.what);
            for line in wrap(&change.consequence, 70) {
                let _ = writeln!(out, "          {line}");
            }
        }
        out
    }
}

/// Breaks at spaces; longer words stay whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|l| l.chars().count() + 1 + word.chars().count() <= width) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Compares two specifications.
#[must_use]
pub fn plan(old: &Spec, new: &Spec, facts: &Facts) -> Plan {
    let mut d = Diff { old, new, facts, changes: Vec::new() };
    if old.cluster != new.cluster {
        d.refuse(
            "cluster",
            format!("cluster {} becomes {}", old.cluster, new.cluster),
            "a running cluster cannot be renamed: keys in etcd and containers carry the name; stop it and set up one \
             with the new name",
        );
    }
    d.timers();
    d.etcd();
    d.nodes();
    d.groups();
    d.notify();
    d.rest();
    Plan { changes: d.changes }
}

struct Diff<'a> {
    old: &'a Spec,
    new: &'a Spec,
    facts: &'a Facts,
    changes: Vec<Change>,
}

impl Diff<'_> {
    fn add(
        &mut self,
        impact: Impact,
        path: impl Display,
        what: impl Into<String>,
        consequence: impl Into<String>,
    ) {
        let (what, consequence) = (what.into(), consequence.into());
        self.changes.push(Change { path: path.to_string(), what, consequence, impact, refused: false });
    }

    fn live(&mut self, path: impl Display, what: impl Into<String>, consequence: impl Into<String>) {
        self.add(Impact::Live, path, what, consequence);
    }

    fn refuse(&mut self, path: impl Display, what: impl Into<String>, instead: impl Into<String>) {
        self.add(Impact::Live, path, what, instead);
        if let Some(last) = self.changes.last_mut() {
            last.refused = true;
        }
    }

    fn timers(&mut self) {
        let (a, b) = (&self.old.heartbeat, &self.new.heartbeat);
        if a.profile != b.profile {
            let election = b.fencetime.saturating_sub(b.warntime);
            let consequence = match b.profile {
                Profile::Default => "timers that are not given are the default ones again".to_owned(),
                Profile::Fast => format!(
                    "timers that are not given are those of a fast takeover: a leader that is late for {} fences itself, \
                     one that is late for {} loses its groups, and an election of etcd that lasts longer than {} fences \
                     a leader whose standby died with etcd's leader until it is over; 'baton links' says how late \
                     these hosts were",
                    format_duration(b.fencetime),
                    format_duration(b.deadtime),
                    format_duration(election)
                ),
            };
            let what = format!("profile {} becomes {}", a.profile.word(), b.profile.word());
            self.live("heartbeat.profile", what, consequence);
        }
        for (name, old, new) in [
            ("keepalive", a.keepalive, b.keepalive),
            ("warntime", a.warntime, b.warntime),
            ("fencetime", a.fencetime, b.fencetime),
            ("deadtime", a.deadtime, b.deadtime),
            ("initdead", a.initdead, b.initdead),
            ("ttl", a.lease_ttl, b.lease_ttl),
            ("restart_window", a.restart_window, b.restart_window),
            ("peer_timeout", a.peer_timeout, b.peer_timeout),
            ("fence_stop", a.fence_stop, b.fence_stop),
            ("etcd_timeout", a.etcd_timeout, b.etcd_timeout),
        ] {
            if old != new {
                let consequence = match name {
                    "ttl" => {
                        "asked for with each agent's next lease, after its next restart; leases in force stay"
                    }
                    _ => "in force on every node within a second; agents, services and addresses go on",
                };
                let what = format!("{name} {} becomes {}", format_duration(old), format_duration(new));
                self.live(format!("heartbeat.{name}"), what, consequence);
            }
        }
    }

    fn etcd(&mut self) {
        let (a, b) = (self.old.etcd, self.new.etcd);
        if a.two_members != b.two_members {
            let (what, then) = if b.two_members {
                ("an etcd of two members is accepted", "nothing is advised against it any more")
            } else {
                (
                    "an etcd of two members is not accepted any more",
                    "agents that run go on, and advise a third",
                )
            };
            self.live("etcd.two_members", what, then);
        }
        if a.leader_away != b.leader_away {
            let (what, then) = if b.leader_away {
                ("etcd's leader is kept off hosts that lead groups", "it may move within half a minute")
            } else {
                ("etcd's leader is left where it is", "nothing moves")
            };
            self.live("etcd.leader_away", what, then);
        }
    }

    fn nodes(&mut self) {
        let (old, new) = (self.old, self.new);
        for (name, node) in &new.nodes {
            match old.nodes.get(name) {
                None => self.node_joins(name),
                Some(before) if before != node => self.node_changes(name, before, node),
                Some(_) => {}
            }
        }
        for name in old.nodes.keys().filter(|n| !new.nodes.contains_key(*n)) {
            self.node_leaves(name);
        }
    }

    fn node_joins(&mut self, name: &NodeName) {
        let volumes: Vec<String> =
            self.new.groups.values().flat_map(|g| g.volumes.keys()).map(ToString::to_string).collect();
        let sync = match volumes.as_slice() {
            [] => "it may take groups over as soon as its agent runs".to_owned(),
            all => format!(
                "its replica of {} is filled by a full sync while everything runs; it may take groups over once it \
                 is in sync",
                all.join(", ")
            ),
        };
        self.live(format!("nodes.{name}"), format!("node {name} joins"), format!("{sync}; moves nothing"));
    }

    fn node_leaves(&mut self, name: &NodeName) {
        let path = format!("nodes.{name}");
        let what = format!("node {name} leaves");
        let facts = &self.facts.groups;
        let led: Vec<&str> =
            facts.iter().filter(|(_, g)| g.leader.as_ref() == Some(name)).map(|(n, _)| n.as_str()).collect();
        let stays = |n: &NodeName| n != name && self.new.nodes.contains_key(n);
        let has_data = |group: &GroupName| self.old.groups.get(group).is_some_and(|g| !g.volumes.is_empty());
        let last = |group: &GroupName, g: &GroupFacts| {
            has_data(group) && g.in_sync.contains(name) && !g.in_sync.iter().any(stays)
        };
        if let Some((group, _)) = facts.iter().find(|(n, g)| g.leader.as_ref() == Some(name) && last(n, g)) {
            let instead = format!(
                "it leads {group}, and of the nodes that have every write of it none would stay: wait until another one \
                 is in sync ('baton volume wait --node NODE'), then 'baton standby {name}', and apply this when that one \
                 serves"
            );
            return self.refuse(path, what, instead);
        }
        if !led.is_empty() {
            let instead = format!(
                "it leads {}: 'baton standby {name}' first, and apply this when another node serves",
                led.join(", ")
            );
            return self.refuse(path, what, instead);
        }
        for (group, g) in facts {
            if last(group, g) {
                let instead = format!(
                    "of the nodes that have every write of {group} none would stay: wait until another one is in sync \
                     ('baton volume wait --node NODE')"
                );
                return self.refuse(path, what, instead);
            }
        }
        let alone: Vec<String> = facts
            .iter()
            .filter(|(group, g)| has_data(group) && g.in_sync.iter().filter(|n| stays(n)).count() == 1)
            .map(|(group, _)| group.to_string())
            .collect();
        let alone = match alone.as_slice() {
            [] => String::new(),
            all => format!("; until another node is in sync only one has every write of {}", all.join(", ")),
        };
        let consequence = format!(
            "it is taken out of every in-sync set, its agent stops its part in order and stays up idle; its data stay \
             in {} on {name}; moves nothing{alone}",
            self.facts.volumes_dir.display()
        );
        self.live(path, what, consequence);
    }

    fn node_changes(&mut self, name: &NodeName, before: &model::Node, after: &model::Node) {
        let path = format!("nodes.{name}");
        if !before.heartbeat.iter().any(|link| link.is_there() && after.heartbeat.contains(link)) {
            return self.refuse(
                format!("{path}.heartbeat"),
                format!("heartbeats of {name} leave {}", words(&before.heartbeat)),
                "every link would change at once, and the nodes would not hear each other for a moment: list the new \
                 link under heartbeat beside an old one, apply, then take the old one out",
            );
        }
        if before.heartbeat != after.heartbeat {
            self.live(
                format!("{path}.heartbeat"),
                format!("heartbeat links of {name} become {}", words(&after.heartbeat)),
                "links that stay go on without a gap",
            );
        }
        if before.fence != after.fence {
            let devices = after.fence.iter().flatten().map(crate::spec::FenceDevice::name);
            let names = words(&devices.collect::<Vec<_>>());
            self.live(
                format!("{path}.fence"),
                format!("fence devices of {name} become {}", if names.is_empty() { "none" } else { &names }),
                "asked for its state at once, used when needed; nothing restarts",
            );
        }
        if before.address != after.address {
            self.live(
                format!("{path}.address"),
                format!("address of {name} {} becomes {}", before.address, after.address),
                "nothing restarts; the interface of the groups' addresses is chosen by it from now on",
            );
        }
        if before.replication != after.replication {
            self.live(
                format!("{path}.replication"),
                format!(
                    "replication links of {name} {} become {}",
                    words(&before.replication),
                    words(&after.replication)
                ),
                "replicas connect anew; writes wait for that, at most peer_timeout",
            );
        }
    }

    fn notify(&mut self) {
        let (old, new) = (self.old, self.new);
        for (name, target) in &new.notify {
            let path = format!("notify.{name}");
            match old.notify.get(name) {
                None => self.live(path, format!("target {name} is new"), "told from now on"),
                Some(before) if before != target => {
                    self.live(path, format!("target {name} changes"), "in force at once");
                }
                Some(_) => {}
            }
        }
        for name in old.notify.keys().filter(|n| !new.notify.contains_key(*n)) {
            self.live(format!("notify.{name}"), format!("target {name} is gone"), "not told any more");
        }
    }

    /// Sections that this comparison knows nothing special about.
    fn rest(&mut self) {
        const KNOWN: [&str; 5] = ["cluster", "heartbeat", "nodes", "groups", "notify"];
        for section in differences(self.old, self.new).into_iter().filter(|s| !KNOWN.contains(&s.as_str())) {
            let what = format!("{section} changes");
            self.live(section, what, "in force at once where it can be, else with each agent's next restart");
        }
    }
}

/// Names of the fields in which two values differ as documents.
fn differences<T: Serialize>(a: &T, b: &T) -> Vec<String> {
    // Plain data with text keys: it serialises.
    let fields = |v: &T| match serde_json::to_value(v) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (a, b) = (fields(a), fields(b));
    let mut names: Vec<String> = a.keys().chain(b.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|n| a.get(n) != b.get(n));
    names
}

fn words<T: ToString>(links: &[T]) -> String {
    links.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
