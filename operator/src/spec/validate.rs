//! What must hold between the fields of a specification: references exist, nothing is claimed twice, timers fit.

use super::model::{Condition, Group, HealthTest, MountSource, STICKINESS_MAX, Service, Spec, StandbyMode};
use super::read::Reader;
use super::{format_duration, format_size};
use baton_replicator::types::{FrontEndKind, GroupName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

/// The replicator's limit of peers per volume, plus the node itself.
const MAX_NODES: usize = 9;
/// The metadata of a replica keeps a bit per 4 KiB block.
const BLOCK: u64 = 4096;
/// Less than this cannot hold a filesystem with a journal.
const MIN_VOLUME: u64 = 8 << 20;

pub(super) fn validate(spec: &Spec, r: &mut Reader<'_>) {
    if spec.cluster.is_empty() {
        r.at("cluster", "is missing; give the cluster a name");
    } else if let Err(e) = GroupName::new(spec.cluster.as_str()) {
        r.at("cluster", e.to_string().replace("group name", "cluster name"));
    } else if spec.cluster.len() > 32 {
        r.at("cluster", "is longer than 32 characters; it becomes part of container names");
    }
    timers(spec, r);
    nodes(spec, r);
    if spec.groups.is_empty() {
        r.at("groups", "are missing; without a group there is nothing to keep alive");
    }
    let mut addresses: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, node) in &spec.nodes {
        for address in std::iter::once(node.address).chain(node.replication.iter().copied()) {
            addresses.entry(address).or_insert_with(|| format!("nodes.{name}"));
        }
    }
    let mut volumes: HashMap<&str, String> = HashMap::new();
    for (name, group) in &spec.groups {
        let path = format!("groups.{name}");
        for (i, cidr) in group.addresses.iter().enumerate() {
            let at = format!("{path}.addresses[{i}]");
            match addresses.get(&cidr.address) {
                Some(owner) => r.at(
                    &at,
                    format!("{} already belongs to {owner}; an address follows one group", cidr.address),
                ),
                None => _ = addresses.insert(cidr.address, r.as_written(&at)),
            }
        }
        for volume in group.volumes.keys() {
            let at = format!("{path}.volumes.{volume}");
            match volumes.get(volume.as_str()) {
                Some(owner) => r.at(
                    &at,
                    format!("the name is already taken by {owner}; names of volumes are unique in a cluster"),
                ),
                None => _ = volumes.insert(volume.as_str(), at),
            }
        }
        self::group(spec, &path, group, r);
        together(spec, name, &path, group, r);
    }
    super::fence::validate(spec, r);
    super::notify::validate(spec, r);
}

fn timers(spec: &Spec, r: &mut Reader<'_>) {
    if let Some((field, message)) = spec.heartbeat.check() {
        r.at(&format!("heartbeat.{field}"), message);
    }
}

fn nodes(spec: &Spec, r: &mut Reader<'_>) {
    if spec.nodes.len() < 2 {
        let has = spec.nodes.len();
        r.at("nodes", format!("a cluster needs at least two nodes, this one has {has}; name another host"));
    } else if spec.nodes.len() > MAX_NODES {
        r.at(
            "nodes",
            format!(
                "{} nodes are more than the {MAX_NODES} that a volume can be replicated to",
                spec.nodes.len()
            ),
        );
    }
    let mut seen: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (name, node) in &spec.nodes {
        for (field, address) in std::iter::once(("address", node.address))
            .chain(node.replication.iter().map(|a| ("replication", *a)))
            .chain(node.heartbeat.iter().filter_map(|l| Some(("heartbeat", l.address()?))))
        {
            if address.is_unspecified() {
                continue; // reported where it was read
            }
            match seen.get(&address) {
                Some(other) if *other != name.as_str() => {
                    r.at(
                        &format!("nodes.{name}.{field}"),
                        format!("{address} is also the address of {other}"),
                    );
                }
                _ => _ = seen.insert(address, name.to_string()),
            }
        }
    }
    super::link::validate(spec, r);
}

/// The groups that one goes with, nearest first; ends where it comes round.
fn leads<'s>(spec: &'s Spec, name: &'s GroupName) -> Vec<&'s GroupName> {
    let mut chain = vec![name];
    while let Some(next) = chain.last().and_then(|n| spec.groups.get(*n)).and_then(|g| g.with.as_ref()) {
        let round = chain.contains(&next);
        chain.push(next);
        if round {
            break;
        }
    }
    chain
}

/// Which groups are led on one node, and which rather not.
fn together(spec: &Spec, name: &GroupName, path: &str, group: &Group, r: &mut Reader<'_>) {
    if let Some(lead) = &group.with {
        let chain = leads(spec, name);
        if !spec.groups.contains_key(lead) {
            r.at(&format!("{path}.with"), unknown("group", lead, spec.groups.keys()));
        } else if chain.iter().skip(1).any(|n| *n == name) {
            let names: Vec<&str> = chain.iter().map(|n| n.as_str()).collect();
            r.at(
                &format!("{path}.with"),
                format!("goes round in a circle, each would wait for the other: {}", names.join(" with ")),
            );
        }
        let own = [
            ("prefer", !group.prefer.is_empty()),
            ("auto_failback", group.auto_failback.is_some()),
            ("stickiness", group.stickiness > 0),
            ("apart_from", !group.apart_from.is_empty()),
        ];
        for (field, _) in own.into_iter().filter(|(_, said)| *said) {
            r.at(&format!("{path}.{field}"), format!("{name} goes where {lead} goes: say it there"));
        }
    }
    let last = |n| leads(spec, n).last().copied();
    let mut seen = BTreeSet::new();
    for (i, other) in group.apart_from.iter().enumerate() {
        let at = format!("{path}.apart_from[{i}]");
        if !spec.groups.contains_key(other) {
            r.at(&at, unknown("group", other, spec.groups.keys()));
        } else if last(other) == last(name) {
            r.at(&at, format!("{name} and {other} are led on the same node"));
        } else if !seen.insert(other) {
            r.at(&at, format!("{other} is named twice"));
        }
    }
}

fn group(spec: &Spec, path: &str, group: &Group, r: &mut Reader<'_>) {
    let mut preferred = BTreeSet::new();
    for (i, node) in group.prefer.iter().enumerate() {
        let at = format!("{path}.prefer[{i}]");
        if !spec.nodes.contains_key(node) {
            r.at(&at, unknown("node", node, spec.nodes.keys()));
        } else if !preferred.insert(node) {
            r.at(&at, format!("{node} is named twice"));
        }
    }
    if group.auto_failback.is_some() && group.prefer.is_empty() {
        r.at(&format!("{path}.auto_failback"), "has nowhere to go back to; name nodes under prefer");
    }
    if group.stickiness > STICKINESS_MAX {
        r.at(&format!("{path}.stickiness"), format!("must be at most {STICKINESS_MAX}"));
    }
    if group.addresses.is_empty() && group.volumes.is_empty() && group.services.is_empty() {
        r.at(path, "is empty; give it addresses, volumes or services");
    }
    for (name, volume) in &group.volumes {
        let at = format!("{path}.volumes.{name}");
        if !volume.size_bytes.is_multiple_of(BLOCK) {
            let near = volume.size_bytes / BLOCK * BLOCK;
            r.at(
                &format!("{at}.size"),
                format!(
                    "{} bytes is not a multiple of 4 KiB; write {} or {}",
                    volume.size_bytes,
                    near,
                    near + BLOCK
                ),
            );
        } else if volume.size_bytes < MIN_VOLUME {
            let least = format_size(MIN_VOLUME);
            r.at(
                &format!("{at}.size"),
                format!(
                    "{} is too small for a filesystem; the least is {least}",
                    format_size(volume.size_bytes)
                ),
            );
        }
        if !matches!(volume.filesystem.as_str(), "ext4" | "xfs") {
            r.at(
                &format!("{at}.filesystem"),
                format!("'{}' is not supported; write ext4 or xfs", volume.filesystem),
            );
        }
        for node in volume.backing.by_node.keys().filter(|node| !spec.nodes.contains_key(*node)) {
            r.at(&format!("{at}.backing.{node}"), unknown("node", node, spec.nodes.keys()));
        }
        for node in volume.protocols.keys().filter(|node| !spec.nodes.contains_key(*node)) {
            r.at(&format!("{at}.protocols.{node}"), unknown("node", node, spec.nodes.keys()));
        }
        at_least(r, &format!("{at}.peer_timeout"), volume.peer_timeout, Duration::from_millis(100));
        at_least(r, &format!("{at}.disk_timeout"), volume.disk_timeout, super::volume::LEAST_DISK_TIMEOUT);
    }
    for (i, target) in group.notify.iter().enumerate().filter(|(_, t)| !spec.notify.contains_key(*t)) {
        r.at(&format!("{path}.notify[{i}]"), unknown("target under notify", target, spec.notify.keys()));
    }
    for field in [
        ("start_timeout", group.start_timeout),
        ("takeover_timeout", group.takeover_timeout.unwrap_or(group.start_timeout)),
        ("stop_timeout", group.stop_timeout),
        ("failure_timeout", group.failure_timeout),
        ("engine_timeout", group.engine_timeout),
    ] {
        at_least(r, &format!("{path}.{}", field.0), field.1, Duration::from_secs(1));
    }
    if group.migration_threshold == 0 {
        r.at(
            &format!("{path}.migration_threshold"),
            "must be at least 1: a failure is counted before the group moves",
        );
    }
    services(path, group, r);
    super::check::validate(path, group, r);
    hot(path, group, r);
}

/// What runs on a standby cannot have what only the leader has.
fn hot(path: &str, group: &Group, r: &mut Reader<'_>) {
    if group.standby != StandbyMode::Hot {
        return;
    }
    let at = format!("{path}.standby");
    let hot = |s: &Service| s.runs_on_standbys();
    if !group.services.values().any(hot) {
        r.at(&at, "hot: every service has a replicated volume, which only the leader has");
    }
    for (name, service) in group.services.iter().filter(|(_, s)| hot(s)) {
        for on in service.depends_on.keys().filter(|on| group.services.get(*on).is_some_and(|s| !hot(s))) {
            r.at(
                &at,
                format!(
                    "hot: {name} depends on {on}, which has a replicated volume and runs on the leader only"
                ),
            );
        }
    }
}

fn services(path: &str, group: &Group, r: &mut Reader<'_>) {
    for (name, service) in &group.services {
        let at = format!("{path}.services.{name}");
        if GroupName::new(name.as_str()).is_err() {
            r.at(&at, format!("'{name}' is not a valid service name: use a-z, 0-9, '-', '_' and '.', starting with a letter or digit"));
        }
        let mut targets = BTreeSet::new();
        for (i, mount) in service.volumes.iter().enumerate() {
            let at = format!("{at}.volumes[{i}]");
            if let MountSource::Volume { volume, .. } = &mount.source
                && !group.volumes.contains_key(volume)
            {
                r.at(&at, unknown("volume of this group", volume, group.volumes.keys()));
            }
            if let MountSource::Volume { volume, .. } = &mount.source
                && group.volumes.get(volume).is_some_and(|v| v.front_end == FrontEndKind::Nbd)
            {
                let text = format!(
                    "{volume} has front_end: nbd, so there is no device to mount; leave that out, or this"
                );
                r.at(&at, text);
            }
            if !targets.insert(&mount.target) {
                r.at(&at, format!("{} is mounted twice in this service", mount.target.display()));
            }
        }
        for (other, condition) in &service.depends_on {
            let at = format!("{at}.depends_on.{other}");
            match group.services.get(other) {
                None => r.at(&at, unknown("service of this group", other, group.services.keys())),
                Some(other_service)
                    if *condition == Condition::ServiceHealthy
                        && other_service
                            .healthcheck
                            .as_ref()
                            .is_some_and(|h| h.test == Some(HealthTest::Disabled)) =>
                {
                    r.at(&at, format!("waits for {other} to be healthy, whose health check is disabled"));
                }
                Some(_) => {}
            }
        }
        if service.stop_grace_period >= group.stop_timeout {
            r.at(
                &format!("{at}.stop_grace_period"),
                format!(
                    "{} is not shorter than the group's stop_timeout ({})",
                    format_duration(service.stop_grace_period),
                    format_duration(group.stop_timeout)
                ),
            );
        }
    }
    if let Some(cycle) = dependency_cycle(group) {
        r.at(
            &format!("{path}.services.{}.depends_on", cycle[0]),
            format!("goes in a circle: {}", cycle.join(" → ")),
        );
    }
}

/// A circle of dependencies, first service repeated at the end.
fn dependency_cycle(group: &Group) -> Option<Vec<String>> {
    fn visit<'g>(
        group: &'g Group,
        name: &'g str,
        trail: &mut Vec<&'g str>,
        done: &mut BTreeSet<&'g str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = trail.iter().position(|t| *t == name) {
            return Some(trail[start..].iter().copied().chain([name]).map(str::to_owned).collect());
        }
        if done.contains(name) {
            return None;
        }
        trail.push(name);
        let found = group
            .services
            .get(name)
            .and_then(|service| service.depends_on.keys().find_map(|next| visit(group, next, trail, done)));
        trail.pop();
        done.insert(name);
        found
    }
    let mut done = BTreeSet::new();
    group.services.keys().find_map(|name| visit(group, name, &mut Vec::new(), &mut done))
}

pub(super) fn at_least(r: &mut Reader<'_>, path: &str, value: Duration, least: Duration) {
    if value < least {
        r.at(
            path,
            format!("{} is too short; the least is {}", format_duration(value), format_duration(least)),
        );
    }
}

pub(super) fn unknown<K: Display>(what: &str, name: impl Display, known: impl Iterator<Item = K>) -> String {
    let known: Vec<String> = known.map(|k| k.to_string()).collect();
    if known.is_empty() {
        format!("there is no {what} called {name}; none is defined")
    } else {
        format!("there is no {what} called {name}; there is {}", known.join(", "))
    }
}
