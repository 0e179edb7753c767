//! Which states hold now, by one snapshot. Pure: no memory, no time but what the snapshot says.

use super::message::spoken;
use super::what::{What, of_mode};
use crate::security::pki::RENEW_WITHIN_DAYS;
use crate::status::{ClusterStatus, GroupState, GroupStatus, NodeMode, NodeStatus};
use baton_replicator::types::{ConnectionState, DiskState, GroupName, NodeName, Role};
use std::collections::BTreeSet;
use std::time::Duration;

/// A group on its way somewhere is given this much more before it counts as down: a cold start of a database takes
/// some ten seconds.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// A state that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which.
    pub what: What,
    /// One line.
    pub title: String,
    /// What is known, one sentence each.
    pub facts: Vec<String>,
    /// What Baton does about it.
    pub done: Vec<String>,
    /// What a person should do.
    pub advice: Vec<String>,
    /// Wait this much longer than the target asks for.
    pub patience: Duration,
}

impl Condition {
    fn new(what: What, title: String) -> Self {
        Self {
            what,
            title,
            facts: Vec::new(),
            done: Vec::new(),
            advice: Vec::new(),
            patience: Duration::ZERO,
        }
    }

    fn fact(mut self, text: impl Into<String>) -> Self {
        self.facts.push(text.into());
        self
    }

    fn done(mut self, text: impl Into<String>) -> Self {
        self.done.push(text.into());
        self
    }

    fn advice(mut self, text: impl Into<String>) -> Self {
        self.advice.push(text.into());
        self
    }
}

/// Everything that holds. `with_volumes` are the groups that the specification gives volumes.
#[must_use]
pub fn conditions(status: &ClusterStatus, with_volumes: &BTreeSet<GroupName>) -> Vec<Condition> {
    let mut found = Vec::new();
    for group in &status.groups {
        of_group(status, group, &mut found);
    }
    for node in &status.nodes {
        of_node(status, node, &mut found);
    }
    etcd(status, &mut found);
    certificates(status, &mut found);
    let blind = |g: &GroupStatus| with_volumes.contains(&g.name) && g.volumes.is_empty();
    if status.groups.iter().any(blind) {
        let me = &status.node;
        let title = format!("the replicator on {me} does not answer");
        found.push(
            Condition::new(What::Replicator(me.clone()), title)
                .fact(format!(
                    "{me}'s agent cannot reach it over its socket; {me} cannot take groups with volumes over"
                ))
                .advice(format!("look at the log of the replicator on {me} and start it")),
        );
    }
    found
}

fn of_group(status: &ClusterStatus, group: &GroupStatus, found: &mut Vec<Condition>) {
    let g = &group.name;
    let leader = group.leader.as_ref();
    let on = leader.map_or_else(String::new, |l| format!(" on {l}"));
    let because = |c: Condition| {
        if group.reason.is_empty() { c } else { c.fact(capital(&group.reason)) }
    };
    // Advice names the group or its volumes; what concerns others is theirs.
    let advised = |mut c: Condition| {
        let name = format!("{g}");
        let words =
            |a: &String| a.split(|x: char| !x.is_alphanumeric() && x != '-' && x != '_').any(|w| w == name);
        c.advice.extend(status.advice.iter().filter(|a| words(a)).cloned());
        c
    };
    let resting = group.rests() || group.leader.is_none() && all_by_wish(status);
    match group.state {
        GroupState::Serving => {}
        GroupState::Failed => {
            let title = format!("{g}: does not run{on}, start or stop failed");
            found.push(advised(
                because(Condition::new(What::Failed(g.clone()), title))
                    .done("Baton moves the group if another node is ready for it")
                    .advice(format!("see 'baton status' for the reason and the service's log{on}")),
            ));
        }
        GroupState::Fenced => {
            let title = format!("{g}: fenced{on}, serves nobody");
            found.push(advised(because(Condition::new(What::Fenced(g.clone()), title)).done(
                "addresses are removed, writes stopped, containers paused; it goes on here if the node is entitled \
                 again, else another node takes over",
            )));
        }
        state => {
            if !resting {
                let title = format!("{g}: nobody serves");
                let mut c = advised(because(Condition::new(What::NobodyServes(g.clone()), title)));
                if !matches!(state, GroupState::Unknown | GroupState::Standby) {
                    c.patience = ON_ITS_WAY;
                }
                if c.advice.is_empty() {
                    c = c.advice("see 'baton status': it names what is waited for");
                }
                found.push(c);
            }
        }
    }
    if group.state == GroupState::Serving {
        no_standby(group, found);
        services(group, found);
    }
    for node in &group.nodes {
        if let Some(percent) = node.resync_percent {
            let title = format!("{g}: resync of {} begun", node.node);
            found.push(
                Condition::new(What::Resync(g.clone(), node.node.clone()), title)
                    .fact(format!("{percent:.1} % done{}", time_left(group, &node.node)))
                    .done("only blocks that differ are copied, at a rate that yields to the application"),
            );
        }
        if matches!(node.disk, Some(DiskState::Failed | DiskState::Diskless)) {
            let title = format!("{g}: {} has lost its disk", node.node);
            found.push(advised(
                Condition::new(What::Disk(g.clone(), node.node.clone()), title)
                    .done("that disk counts for nothing any more; a leader goes on through its peers and the group is handed over if a standby is ready")
                    .advice(format!(
                        "replace the disk of {}, restart its replicator, and see 'baton volume list'",
                        node.node
                    )),
            ));
        }
    }
    volumes(status, group, found);
}

fn all_by_wish(status: &ClusterStatus) -> bool {
    status.nodes.iter().all(|n| n.mode != NodeMode::Online)
}

fn no_standby(group: &GroupStatus, found: &mut Vec<Condition>) {
    let others: Vec<_> = group.nodes.iter().filter(|n| Some(&n.node) != group.leader.as_ref()).collect();
    if others.iter().any(|n| n.ready) {
        return;
    }
    let g = &group.name;
    let leader = group.leader.as_ref().map_or("its node", NodeName::as_str);
    let title = format!("{g}: runs on {leader} alone, nobody could take over");
    let mut c = Condition::new(What::NoStandby(g.clone()), title);
    for n in others {
        let why = if n.reason.is_empty() { "not ready" } else { n.reason.as_str() };
        c = c.fact(format!("{}: {why}", n.node));
    }
    c = c.done(format!(
        "{leader} serves on; a node that returns is brought up to date and may take over then"
    ));
    found.push(c.advice(format!("bring the missing node back; do not stop {leader} before that")));
}

fn services(group: &GroupStatus, found: &mut Vec<Condition>) {
    for s in &group.services {
        let unhealthy = s.health.as_deref() == Some("unhealthy");
        if s.state == "running" && !unhealthy {
            continue;
        }
        let state = if unhealthy { "unhealthy" } else { s.state.as_str() };
        let on = group.leader.as_ref().map_or_else(String::new, |l| format!(" on {l}"));
        let title = format!("{}: service {} is {state}{on}", group.name, s.name);
        let mut c = Condition::new(What::Service(group.name.clone(), s.name.clone()), title);
        if let Some(error) = &s.error {
            c = c.fact(first_line(error));
        }
        found.push(
            c.done(
                "it is restarted in place, and the group moves if that does not help and a standby is better",
            )
            .advice(format!("docker logs {}", s.container)),
        );
    }
}

fn volumes(status: &ClusterStatus, group: &GroupStatus, found: &mut Vec<Condition>) {
    for v in &group.volumes {
        let torn = v.peers.iter().find(|p| {
            p.connection == ConnectionState::StandAlone
                && p.reason.as_ref().is_some_and(|r| r.contains("split brain"))
        });
        if let Some(peer) = torn {
            let what = What::SplitBrain(group.name.clone(), v.volume.clone());
            let title = format!("{}: split brain of volume {} with {}", group.name, v.volume, peer.node);
            let victim = peer.apart.as_ref().map_or(&peer.node, |a| &a.discard);
            let command = format!("baton volume resolve {} --discard {victim}", v.volume);
            found.push(
                Condition::new(what, title)
                    .fact(capital(peer.reason.as_deref().unwrap_or_default()))
                    .done("the replicas stay apart: nothing is overwritten")
                    .advice("decide whose writes are given up: only those of a node that does not lead can be; a copy is kept")
                    .advice(command),
            );
        }
        if let (Role::Primary, Some(why)) = (v.role, &v.frozen) {
            let what = What::Frozen(group.name.clone(), v.volume.clone(), status.node.clone());
            let title = format!("{}: I/O of volume {} on {} is frozen", group.name, v.volume, status.node);
            found.push(
                Condition::new(what, title).fact(capital(why)).done(
                    "requests wait; they are answered when the cause is gone or the group is handed over",
                ),
            );
        }
    }
}

fn of_node(status: &ClusterStatus, node: &NodeStatus, found: &mut Vec<Condition>) {
    let n = &node.name;
    if let Some(what) = of_mode(n, node.mode) {
        let (title, meaning, end) = match node.mode {
            NodeMode::Maintenance => (
                format!("node {n} is in maintenance"),
                "nothing is moved or restarted there by itself",
                format!("'baton online {n}' ends it"),
            ),
            NodeMode::Standby | NodeMode::Online => (
                format!("node {n} is in standby mode"),
                "it replicates and leads nothing",
                format!("'baton online {n}' ends it"),
            ),
        };
        let mut c = Condition::new(what, title).fact(capital(meaning));
        if let Some(note) = &node.mode_note {
            let until = note.until.as_ref().map(|u| format!(", to end at {u}")).unwrap_or_default();
            let reason = if note.reason.is_empty() { String::new() } else { format!(": {}", note.reason) };
            c = c.fact(format!("By {}{until}{reason}", note.owner));
        }
        found.push(c.advice(end));
    }
    // Who takes a host out for maintenance switches it off, too.
    if node.alive || node.mode == NodeMode::Maintenance {
        return;
    }
    let heard = match node.age_ms {
        Some(ms) => format!("Last heard {} ago, at {}", spoken(Duration::from_millis(ms)), node.address),
        None => format!("Never heard at {} since {}'s agent started", node.address, status.node),
    };
    let replicates = status.groups.iter().flat_map(|g| &g.volumes).flat_map(|v| &v.peers).any(|p| {
        p.node == *n
            && matches!(
                p.connection,
                ConnectionState::Connected | ConnectionState::SyncSource | ConnectionState::SyncTarget
            )
    });
    let mut c = if replicates {
        let title = format!("the agent of {n} is not heard, its replicator is");
        Condition::new(What::NodeLost(n.clone()), title)
            .fact(heard)
            .advice(format!("look at the agent's log on {n}"))
    } else {
        let title = format!("node {n} is lost");
        Condition::new(What::NodeLost(n.clone()), title)
            .fact(heard)
            .advice(format!("see whether {n} has power and network, and whether its agent runs"))
    };
    for g in status.groups.iter().filter(|g| g.state == GroupState::Serving) {
        if let Some(leader) = g.leader.as_ref().filter(|l| *l != n) {
            c = c.fact(format!("Group {} runs on {leader}", g.name));
        }
    }
    found.push(c);
}

fn certificates(status: &ClusterStatus, found: &mut Vec<Condition>) {
    let me = &status.node;
    for c in status.certificates.iter().filter(|c| c.days_left <= RENEW_WITHIN_DAYS) {
        let when = if c.days_left < 0 {
            "has expired".to_owned()
        } else {
            format!("expires in {} days", c.days_left)
        };
        let title = format!("certificate {} of {me} {when}", c.name);
        found.push(
            Condition::new(What::Certificate(me.clone(), c.name.clone()), title)
                .fact(format!("Valid until {}", c.expires))
                .advice("renew it with 'baton cert renew'; agents read it anew without a restart"),
        );
    }
}

fn etcd(status: &ClusterStatus, found: &mut Vec<Condition>) {
    let says = |n: &NodeStatus| if n.name == status.node { Some(status.etcd.reachable) } else { n.etcd };
    let living: Vec<&NodeStatus> = status.nodes.iter().filter(|n| n.alive).collect();
    let without: Vec<&NodeStatus> = living.iter().filter(|n| says(n) == Some(false)).copied().collect();
    if without.is_empty() {
        return;
    }
    let why = |c: Condition| match &status.etcd.error {
        Some(error) => c.fact(format!("{}: {}", status.node, first_line(error))),
        None => c,
    };
    if living.iter().all(|n| says(n) != Some(true)) {
        let c = Condition::new(What::EtcdLost, "etcd is lost: leadership cannot change".into())
            .fact(format!("No node that lives reaches any of {}", status.etcd.endpoints.join(", ")))
            .done("services go on while leader and standbys hear each other")
            .advice(
                "bring a majority of the etcd members back; until then do not stop a host that leads a group",
            );
        found.push(why(c));
        return;
    }
    for node in without {
        let n = &node.name;
        let c = Condition::new(What::EtcdOutOfReach(n.clone()), format!("{n} does not reach etcd"))
            .fact("Other nodes do")
            .done(format!("{n} can take nothing over and its commands are refused until it does"))
            .advice(format!("look at the network between {n} and the etcd members"));
        found.push(if *n == status.node { why(c) } else { c });
    }
}

fn time_left(group: &GroupStatus, node: &NodeName) -> String {
    let all = group.volumes.iter().flat_map(|v| &v.peers).filter(|p| p.node == *node);
    match all.filter_map(|p| p.resync?.eta_s).max() {
        Some(s) => format!(", about {} left", spoken(Duration::from_secs(s))),
        None => String::new(),
    }
}

/// A sentence's first letter as a capital.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(300).collect()
}
