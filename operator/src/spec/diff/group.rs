//! What changes in the groups: addresses, volumes, services, checks, policies.

use super::{Diff, Impact, differences};
use crate::spec::model::{Condition, FAILBACK_AFTER, Group, Service, Volume};
use crate::spec::{Cidr, StandbyMode, format_duration, format_size};
use baton_replicator::types::{FrontEndKind, GroupName, NodeName, VolumeName};
use std::collections::{BTreeMap, BTreeSet};

/// What follows from another protocol.
const PROTOCOL: &str = "a node that is reached by A from now on leaves the in-sync set and cannot take over; one that was \
                        joins it when it holds everything";

impl Diff<'_> {
    pub(super) fn groups(&mut self) {
        let (old, new) = (self.old, self.new);
        for (name, group) in &new.groups {
            match old.groups.get(name) {
                None => self.group_begins(name, group),
                Some(before) => self.group_changes(name, before, group),
            }
        }
        for (name, group) in old.groups.iter().filter(|(n, _)| !new.groups.contains_key(*n)) {
            self.group_ends(name, group);
        }
    }

    fn leader(&self, group: &GroupName) -> Option<&NodeName> {
        self.facts.groups.get(group)?.leader.as_ref()
    }

    /// "on alpha", or where it runs if that is not known.
    fn on(&self, group: &GroupName) -> String {
        self.leader(group).map_or_else(|| "where the group runs".into(), |leader| format!("on {leader}"))
    }

    fn group_begins(&mut self, name: &GroupName, group: &Group) {
        let path = format!("groups.{name}");
        let what = format!("group {name} is new");
        for volume in group.volumes.keys() {
            let owner = self.old.groups.iter().find(|(_, g)| g.volumes.contains_key(volume)).map(|(n, _)| n);
            if let Some(owner) = owner {
                let instead = format!(
                    "volume {volume} belongs to group {owner}, whose epochs its data carry: a volume cannot move to \
                     another group, and a group cannot be renamed; copy the data with the services' own tools"
                );
                return self.refuse(path, what, instead);
            }
        }
        let first = group.prefer.first().or(self.new.nodes.keys().next());
        let first = first.map(ToString::to_string).unwrap_or_default();
        let volumes: Vec<String> =
            group.volumes.iter().map(|(n, v)| format!("{n} ({})", format_size(v.size_bytes))).collect();
        let makes = match volumes.as_slice() {
            [] => String::new(),
            all => format!("makes volume {} on every node, ", all.join(", ")),
        };
        self.live(path, what, format!("{makes}starts on {first}; the other groups do not notice"));
    }

    fn group_ends(&mut self, name: &GroupName, group: &Group) {
        let mut stopped: Vec<String> = group.services.keys().cloned().collect();
        stopped.extend(group.addresses.iter().map(ToString::to_string));
        let data = match group.volumes.len() {
            0 => String::new(),
            _ => format!("; its data stay on every node: {}", self.backing(&group.volumes)),
        };
        let consequence = format!(
            "stops it in order {} ({}) and removes its containers; nobody takes it over{data}; adding it again brings \
             it back",
            self.on(name),
            stopped.join(", ")
        );
        self.add(Impact::Stops, format!("groups.{name}"), format!("group {name} is gone"), consequence);
    }

    fn backing(&self, volumes: &BTreeMap<VolumeName, Volume>) -> String {
        let dir = &self.facts.volumes_dir;
        let place = |(name, v): (&VolumeName, &Volume)| {
            let devices: BTreeSet<String> = v
                .backing
                .all
                .iter()
                .chain(v.backing.by_node.values())
                .map(|d| d.display().to_string())
                .collect();
            match devices.len() {
                0 => dir.join(format!("{name}.img")).display().to_string(),
                _ => devices.into_iter().collect::<Vec<_>>().join(" or "),
            }
        };
        volumes.iter().map(place).collect::<Vec<_>>().join(", ")
    }

    fn group_changes(&mut self, name: &GroupName, a: &Group, b: &Group) {
        let path = format!("groups.{name}");
        self.placement(name, &path, a, b);
        self.addresses(name, &path, &a.addresses, &b.addresses);
        for (volume, after) in &b.volumes {
            match a.volumes.get(volume) {
                Some(before) => self.volume(name, &path, volume, before, after),
                None => self.refuse(
                    format!("{path}.volumes.{volume}"),
                    format!("volume {volume} is added to group {name}"),
                    "a volume cannot join a group that has run: its members would not be in sync with it; put it \
                     into a new group, with the services that use it",
                ),
            }
        }
        for volume in a.volumes.keys().filter(|v| !b.volumes.contains_key(*v)) {
            self.refuse(
                format!("{path}.volumes.{volume}"),
                format!("volume {volume} is taken out of group {name}"),
                "a volume cannot leave a group that has run: keep it in the specification and mount it nowhere; \
                 removing the whole group keeps its data, too",
            );
        }
        self.services(name, &path, a, b);
        if a.checks != b.checks {
            let what = format!("checks of {name}: {} become {}", a.checks.len(), b.checks.len());
            self.live(format!("{path}.checks"), what, "in force at once; nothing restarts");
        }
        for (field, before, after) in [
            ("failure_timeout", a.failure_timeout, b.failure_timeout),
            ("start_timeout", a.start_timeout, b.start_timeout),
            (
                "takeover_timeout",
                a.takeover_timeout.unwrap_or(a.start_timeout),
                b.takeover_timeout.unwrap_or(b.start_timeout),
            ),
            ("stop_timeout", a.stop_timeout, b.stop_timeout),
            ("engine_timeout", a.engine_timeout, b.engine_timeout),
        ] {
            if before != after {
                let what = format!(
                    "{field} of {name} {} becomes {}",
                    format_duration(before),
                    format_duration(after)
                );
                self.live(format!("{path}.{field}"), what, "in force at once; nothing restarts");
            }
        }
        if a.migration_threshold != b.migration_threshold {
            let what = format!(
                "migration_threshold of {name} {} becomes {}",
                a.migration_threshold, b.migration_threshold
            );
            self.live(format!("{path}.migration_threshold"), what, "in force at once; nothing restarts");
        }
        if a.standby != b.standby {
            let (word, what) = match b.standby {
                StandbyMode::Hot => ("hot", "its services without a volume are started on the standbys"),
                StandbyMode::Cold => {
                    ("cold", "its services end on the standbys, which keep containers created")
                }
            };
            let consequence = format!("{what}; what runs on {} goes on", self.on(name));
            self.live(format!("{path}.standby"), format!("standby of {name} becomes {word}"), &consequence);
        }
        const KNOWN: [&str; 16] = [
            "prefer",
            "auto_failback",
            "stickiness",
            "with",
            "apart_from",
            "addresses",
            "volumes",
            "services",
            "checks",
            "failure_timeout",
            "start_timeout",
            "takeover_timeout",
            "stop_timeout",
            "engine_timeout",
            "standby",
            "migration_threshold",
        ];
        for field in differences(a, b).into_iter().filter(|f| !KNOWN.contains(&f.as_str())) {
            let what = format!("{field} of {name} changes");
            self.live(format!("{path}.{field}"), what, "in force at once; nothing restarts");
        }
    }

    fn together(&mut self, name: &GroupName, path: &str, a: &Group, b: &Group) {
        if let Some(lead) = b.with.as_ref().filter(|_| a.with != b.with) {
            let what = format!("{name} goes with {lead}");
            let path = format!("{path}.with");
            match (self.leader(name).cloned(), self.leader(lead).cloned()) {
                (Some(here), Some(there)) if here != there => self.add(
                    Impact::Stops,
                    path,
                    what,
                    format!("hands the group over from {here} to {there}, where {lead} is"),
                ),
                _ => self.live(path, what, "in force at once; nothing restarts"),
            }
        } else if a.with != b.with {
            let what = format!("{name} goes with no other group");
            self.live(format!("{path}.with"), what, "in force at once; nothing restarts");
        }
        if a.apart_from != b.apart_from {
            let names: Vec<&str> = b.apart_from.iter().map(GroupName::as_str).collect();
            let names = if names.is_empty() { "no other group".to_owned() } else { names.join(", ") };
            self.live(
                format!("{path}.apart_from"),
                format!("{name} keeps apart from {names}"),
                "beside one of them it moves, once another node has been ready for 10 s",
            );
        }
    }

    fn placement(&mut self, name: &GroupName, path: &str, a: &Group, b: &Group) {
        self.together(name, path, a, b);
        if (&a.prefer, a.auto_failback, a.stickiness) == (&b.prefer, b.auto_failback, b.stickiness) {
            return;
        }
        let order: Vec<&str> = b.prefer.iter().map(NodeName::as_str).collect();
        let order = if order.is_empty() { "none".to_owned() } else { order.join(", ") };
        let back = b.auto_failback.map_or("off".to_owned(), |after| match after == FAILBACK_AFTER {
            true => "on".to_owned(),
            false => format!("after {}", format_duration(after)),
        });
        let sticky = if b.stickiness == 0 { String::new() } else { format!(", stickiness {}", b.stickiness) };
        let what = format!("preferred nodes of {name}: {order}, auto_failback {back}{sticky}");
        let place = |n: &NodeName| b.prefer.iter().position(|p| p == n).unwrap_or(b.prefer.len());
        let ahead = |leader: &NodeName| place(leader) > usize::try_from(b.stickiness).unwrap_or(usize::MAX);
        match (b.auto_failback, b.prefer.first(), self.leader(name).cloned()) {
            (Some(after), Some(best), Some(leader)) if ahead(&leader) => self.add(
                Impact::Stops,
                format!("{path}.prefer"),
                what,
                format!(
                    "hands the group over from {leader} to {best} once that has been ready for {}",
                    format_duration(after)
                ),
            ),
            _ => self.live(
                format!("{path}.prefer"),
                what,
                "counts from the next change of leader on; moves nothing",
            ),
        }
    }

    fn addresses(&mut self, name: &GroupName, path: &str, a: &[Cidr], b: &[Cidr]) {
        let at = self.on(name);
        let path = format!("{path}.addresses");
        let at_both =
            |x: &Cidr, of: &[Cidr]| of.iter().any(|y| (y.address, y.prefix) == (x.address, x.prefix));
        for address in b.iter().filter(|x| !at_both(x, a)) {
            let what = format!("address {address} joins group {name}");
            self.live(&path, what, format!("added {at} and announced; services go on"));
        }
        for address in a.iter().filter(|x| !at_both(x, b)) {
            let what = format!("address {address} leaves group {name}");
            self.add(
                Impact::Interrupts,
                &path,
                what,
                format!("removed {at}: connections to it end; services and other addresses go on"),
            );
        }
        for address in b.iter().filter(|x| at_both(x, a) && !a.contains(x)) {
            let what = format!("options of address {address} of group {name} change");
            self.live(&path, what, "in force at once; the address stays");
        }
        let same = |x: &&Cidr| a.contains(x) && b.contains(x);
        if !a.iter().filter(same).eq(b.iter().filter(same)) {
            self.live(&path, format!("order of the addresses of {name} changes"), "checks use the first one");
        }
    }

    fn volume(&mut self, group: &GroupName, path: &str, name: &VolumeName, a: &Volume, b: &Volume) {
        let path = format!("{path}.volumes.{name}");
        if b.size_bytes != a.size_bytes {
            let (from, to) = (format_size(a.size_bytes), format_size(b.size_bytes));
            let what = format!("volume {name} {from} becomes {to}");
            if b.size_bytes < a.size_bytes {
                let why = "a volume never shrinks: the filesystem in it would be cut off";
                self.refuse(format!("{path}.size"), what, why);
            } else {
                let then = match b.front_end {
                    FrontEndKind::Fuse => {
                        "then the block device and the filesystem get larger under the services"
                    }
                    FrontEndKind::Nbd => "an NBD client sees the new size when it connects again",
                };
                let how = format!(
                    "grows while it is in use: every node makes room first, and it waits until all of them are \
                     connected and in sync; {then}; 'baton status' says what it waits for"
                );
                self.live(format!("{path}.size"), what, how);
            }
        }
        if a.filesystem != b.filesystem {
            let what = format!("filesystem of {name} {} becomes {}", a.filesystem, b.filesystem);
            let why = "that would format it, and its data would be lost: add another group for it instead";
            self.refuse(format!("{path}.filesystem"), what, why);
        }
        if a.front_end != b.front_end {
            let what = format!("front end of {name} {} becomes {}", a.front_end.word(), b.front_end.word());
            let why = "it is fixed while the volume is attached: take the group out, apply, and add it again with the \
                       new front end; its data stay";
            self.refuse(format!("{path}.front_end"), what, why);
        }
        if a.protocol != b.protocol {
            let what = format!("protocol of {name} {:?} becomes {:?}", a.protocol, b.protocol);
            self.live(format!("{path}.protocol"), what, PROTOCOL);
        }
        if a.protocols != b.protocols {
            let what = format!("the protocols by which nodes are reached for {name} change");
            self.live(format!("{path}.protocols"), what, PROTOCOL);
        }
        let both = self.old.nodes.keys().filter(|n| self.new.nodes.contains_key(*n));
        let moved: Vec<String> =
            both.filter(|n| a.backing.on(n) != b.backing.on(n)).map(ToString::to_string).collect();
        if !moved.is_empty() {
            let what = format!("the backing store of {name} on {} changes", moved.join(", "));
            let why = "a replica does not move by itself: take the node out of the specification and add it again \
                       with the new device, which is then filled by a full sync";
            self.refuse(format!("{path}.backing"), what, why);
        }
        if a.mount_options != b.mount_options {
            let what = format!("mount options of {name} become '{}'", b.mount_options);
            let how =
                format!("used when group {group} starts on a node the next time; what is mounted stays");
            self.live(format!("{path}.mount_options"), what, how);
        }
        if a.transport != b.transport {
            let what = format!("transport of {name} {} becomes {}", a.transport.word(), b.transport.word());
            let how =
                "replicas connect anew, each with what its own node has read; writes wait for that a moment";
            self.live(format!("{path}.transport"), what, how);
        }
        let shared = a.peer_timeout == self.old.heartbeat.peer_timeout
            && b.peer_timeout == self.new.heartbeat.peer_timeout;
        if a.peer_timeout != b.peer_timeout && !shared {
            let (from, to) = (format_duration(a.peer_timeout), format_duration(b.peer_timeout));
            let how = "replicas connect anew; writes wait for that a moment";
            self.live(
                format!("{path}.peer_timeout"),
                format!("peer_timeout of {name} {from} becomes {to}"),
                how,
            );
        }
        if a.disk_timeout != b.disk_timeout {
            let (from, to) = (format_duration(a.disk_timeout), format_duration(b.disk_timeout));
            let what = format!("disk_timeout of {name} {from} becomes {to}");
            self.live(format!("{path}.disk_timeout"), what, "in force at once, for what is under way too");
        }
        if a.after_split_brain != b.after_split_brain {
            let what = format!("what resolves a split brain of {name} changes");
            let how = "in force when every node has read it; a split brain that stands is judged by it too";
            self.live(format!("{path}.after_split_brain"), what, how);
        }
        if a.verify != b.verify {
            let what = format!("the schedule of {name}'s verify changes");
            self.live(format!("{path}.verify"), what, "counts from the next verify on");
        }
        if (a.resync.min, a.resync.target_latency) != (b.resync.min, b.resync.target_latency) {
            let what = format!("what resync and verify of {name} leave to the application changes");
            self.live(format!("{path}.resync"), what, "in force at once, for running ones too");
        }
        if a.resync.rate != b.resync.rate {
            let rate = |r| if r == 0 { "unbounded".to_owned() } else { format!("{}/s", format_size(r)) };
            let what =
                format!("resync rate of {name} {} becomes {}", rate(a.resync.rate), rate(b.resync.rate));
            self.live(format!("{path}.resync_rate"), what, "in force at once, for a running resync too");
        }
    }

    fn services(&mut self, group: &GroupName, path: &str, a: &Group, b: &Group) {
        let at = self.on(group);
        for (name, after) in &b.services {
            let path = format!("{path}.services.{name}");
            match a.services.get(name) {
                None => {
                    let what = format!("service {name} joins group {group}");
                    self.live(
                        path,
                        what,
                        format!("started {at} after what it depends on; nothing else restarts"),
                    );
                }
                Some(before) => self.service(group, &path, name, (before, after), b),
            }
        }
        for name in a.services.keys().filter(|n| !b.services.contains_key(*n)) {
            self.add(
                Impact::Interrupts,
                format!("{path}.services.{name}"),
                format!("service {name} leaves group {group}"),
                format!(
                    "stopped {at} within its grace period and its container removed; nothing else restarts"
                ),
            );
        }
    }

    fn service(&mut self, group: &GroupName, path: &str, name: &str, pair: (&Service, &Service), b: &Group) {
        let (before, after) = pair;
        // These are the agent's business, not the container's.
        let (live, made): (Vec<String>, Vec<String>) = differences(before, after)
            .into_iter()
            .partition(|f| matches!(f.as_str(), "depends_on" | "stop_grace_period"));
        if !live.is_empty() {
            let what = format!("{} of service {name}", live.join(", "));
            self.live(path, what, "in force at once; nothing restarts");
        }
        if made.is_empty() {
            return;
        }
        let fields: Vec<String> = made
            .iter()
            .map(|field| match field.as_str() {
                "environment" => format!("environment ({})", keys(&before.environment, &after.environment)),
                "image" => format!("image {}", after.image),
                other => other.to_owned(),
            })
            .collect();
        let what = format!("{} of service {name}", fields.join(", "));
        let job = b
            .services
            .values()
            .any(|s| s.depends_on.get(name) == Some(&Condition::ServiceCompletedSuccessfully));
        if job {
            return self.live(
                path,
                what,
                "it runs again when the group starts the next time; nothing restarts",
            );
        }
        let image = if made.iter().any(|f| f == "image") { "pulls the image, then " } else { "" };
        let at = self.on(group);
        let dependants: Vec<&str> = b
            .services
            .iter()
            .filter(|(_, s)| s.depends_on.contains_key(name))
            .map(|(n, _)| n.as_str())
            .collect();
        let dependants = match dependants.as_slice() {
            [] => String::new(),
            all => format!("; {} go on meanwhile", all.join(", ")),
        };
        let consequence = format!("{image}restarts {name} {at}; moves nothing{dependants}");
        self.add(Impact::Interrupts, path, what, consequence);
    }
}

/// Names only: values may be secrets.
fn keys(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> String {
    let mut words = Vec::new();
    for (key, value) in b {
        match a.get(key) {
            None => words.push(format!("{key} added")),
            Some(before) if before != value => words.push(format!("{key} changed")),
            Some(_) => {}
        }
    }
    words.extend(a.keys().filter(|k| !b.contains_key(*k)).map(|k| format!("{k} removed")));
    words.join(", ")
}
