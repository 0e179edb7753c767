//! The document from the top down: cluster, timers, nodes, groups, volumes. Services, checks and whom to
//! tell have files of their own.

use super::model::{
    AfterPowerLoss, EtcdSettings, FAILBACK_AFTER, Group, Node as NodeSpec, Spec, StandbyMode, Volume,
    VolumeBacking,
};
use super::read::{Reader, join};
use super::tree::{Node, Value};
use super::volume::{DISK_TIMEOUT, ResyncLimits};
use super::{Cidr, Profile, Timers, parse_duration};
use baton_replicator::types::{Protocol, Transport};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

impl Reader<'_> {
    pub fn spec(&mut self, root: &Node, text: &str) -> Spec {
        let mut fields = self.fields(root, "", "cluster, nodes, groups, …");
        self.lines.insert(String::new(), root.line);
        let cluster = self.get(&mut fields, "cluster", Self::text).unwrap_or_default();
        let heartbeat = self.get(&mut fields, "heartbeat", Self::timers).unwrap_or_default();
        // Before the groups, whose volumes may say otherwise.
        self.transport = self.get(&mut fields, "transport", Self::transport_word).unwrap_or_default();
        let nodes = self.get(&mut fields, "nodes", |r, n, p| r.map(n, p, Self::node)).unwrap_or_default();
        let groups = self.get(&mut fields, "groups", |r, n, p| r.map(n, p, Self::group)).unwrap_or_default();
        let etcd = self.get(&mut fields, "etcd", Self::etcd_settings).unwrap_or_default();
        let notify =
            self.get(&mut fields, "notify", |r, n, p| r.map(n, p, Self::notify_target)).unwrap_or_default();
        self.finish(fields);
        Spec { cluster, heartbeat, nodes, groups, etcd, notify, text: text.into() }
    }

    fn etcd_settings(&mut self, node: &Node, path: &str) -> Option<EtcdSettings> {
        let mut fields = self.fields(node, path, "two_members, leader_away");
        let default = EtcdSettings::default();
        let settings = EtcdSettings {
            two_members: self.get(&mut fields, "two_members", Self::boolean).unwrap_or(default.two_members),
            leader_away: self.get(&mut fields, "leader_away", Self::boolean).unwrap_or(default.leader_away),
        };
        self.finish(fields);
        Some(settings)
    }

    fn timers(&mut self, node: &Node, path: &str) -> Option<Timers> {
        let mut fields = self.fields(node, path, "profile, keepalive, warntime, deadtime, …");
        let profile = self.get(&mut fields, "profile", Self::profile).unwrap_or_default();
        let mut timers = Timers::of(profile);
        let mut given = Vec::new();
        for (name, timer) in [
            ("keepalive", &mut timers.keepalive),
            ("warntime", &mut timers.warntime),
            ("fencetime", &mut timers.fencetime),
            ("deadtime", &mut timers.deadtime),
            ("initdead", &mut timers.initdead),
            ("ttl", &mut timers.lease_ttl),
            ("restart_window", &mut timers.restart_window),
            ("peer_timeout", &mut timers.peer_timeout),
            ("fence_stop", &mut timers.fence_stop),
            ("etcd_timeout", &mut timers.etcd_timeout),
        ] {
            if let Some(value) = self.get(&mut fields, name, Self::duration) {
                *timer = value;
                given.push(name);
            }
        }
        self.finish(fields);
        timers.derive(&given);
        self.peer_timeout = timers.peer_timeout;
        Some(timers)
    }

    fn profile(&mut self, node: &Node, path: &str) -> Option<Profile> {
        self.scalar(node, path, |text| {
            let known = Profile::ALL.into_iter().find(|p| p.word() == text);
            known.ok_or_else(|| format!("'{text}' is not known; write default or fast"))
        })
    }

    pub(super) fn address(&mut self, node: &Node, path: &str) -> Option<IpAddr> {
        self.scalar(node, path, |text| match text.parse::<IpAddr>() {
            Ok(a) if a.is_unspecified() || a.is_multicast() => Err(format!("'{text}' is not the address of a host")),
            Ok(address) => Ok(address),
            Err(_) => Err(format!("'{text}' is not an IP address; names are not looked up, because DNS may be down when it matters")),
        })
    }

    fn transport_word(&mut self, node: &Node, path: &str) -> Option<Transport> {
        self.scalar(node, path, |text| match text {
            "tls" => Ok(Transport::Tls),
            "plain" => Ok(Transport::Plain),
            other => Err(format!(
                "'{other}' is not known; write tls, or plain for a cable that only the hosts are on"
            )),
        })
    }

    fn node(&mut self, node: &Node, path: &str) -> Option<NodeSpec> {
        let mut fields = self.fields(node, path, "address, replication");
        let address = self.get(&mut fields, "address", Self::address);
        if address.is_none() && fields.entries.iter().all(|e| e.key != "address") {
            self.error(node.line, &join(path, "address"), "is missing; give the node's IP address");
        }
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut replication = self
            .get(&mut fields, "replication", |r, n, p| r.one_or_more(n, p, Self::address))
            .unwrap_or_default();
        if replication.is_empty() {
            replication.push(address);
        }
        let mut listed = replication.clone();
        listed.sort_unstable();
        if listed.windows(2).any(|pair| pair[0] == pair[1]) {
            self.error(
                node.line,
                &join(path, "replication"),
                "has an address twice; each is a link of its own",
            );
        }
        let mut heartbeat = self
            .get(&mut fields, "heartbeat", |r, n, p| r.one_or_more(n, p, Self::heartbeat_link))
            .unwrap_or_else(|| [&[address][..], &replication].concat().into_iter().map(Into::into).collect());
        let mut seen = Vec::new();
        // An address twice is one link; of other kinds the validation speaks.
        heartbeat.retain(|link| {
            link.address().is_none_or(|a| {
                !seen.contains(&a) && {
                    seen.push(a);
                    true
                }
            })
        });
        if heartbeat.is_empty() {
            heartbeat.push(address.into());
        }
        let fence = self.get(&mut fields, "fence", |r, n, p| r.list(n, p, Self::fence_level));
        self.finish(fields);
        Some(NodeSpec { address, replication, heartbeat, fence: fence.unwrap_or_default() })
    }

    fn group(&mut self, node: &Node, path: &str) -> Option<Group> {
        let mut f = self.fields(node, path, "addresses, volumes, services, …");
        let group = Group {
            prefer: self
                .get(&mut f, "prefer", |r, n, p| r.one_or_more(n, p, Self::parsed))
                .unwrap_or_default(),
            auto_failback: self.get(&mut f, "auto_failback", Self::failback).flatten(),
            stickiness: self.get(&mut f, "stickiness", Self::number).unwrap_or(0),
            with: self.get(&mut f, "with", Self::parsed),
            apart_from: self
                .get(&mut f, "apart_from", |r, n, p| r.one_or_more(n, p, Self::parsed))
                .unwrap_or_default(),
            addresses: self.get(&mut f, "addresses", |r, n, p| r.list(n, p, Self::cidr)).unwrap_or_default(),
            volumes: self.get(&mut f, "volumes", |r, n, p| r.map(n, p, Self::volume)).unwrap_or_default(),
            services: self.get(&mut f, "services", |r, n, p| r.map(n, p, Self::service)).unwrap_or_default(),
            checks: self.get(&mut f, "checks", |r, n, p| r.list(n, p, Self::check)).unwrap_or_default(),
            migration_threshold: self.get(&mut f, "migration_threshold", Self::number).unwrap_or(3),
            failure_timeout: self
                .get(&mut f, "failure_timeout", Self::duration)
                .unwrap_or(Duration::from_secs(600)),
            start_timeout: self
                .get(&mut f, "start_timeout", Self::duration)
                .unwrap_or(Duration::from_secs(120)),
            takeover_timeout: self.get(&mut f, "takeover_timeout", Self::duration),
            stop_timeout: self.get(&mut f, "stop_timeout", Self::duration).unwrap_or(Duration::from_secs(60)),
            engine_timeout: self
                .get(&mut f, "engine_timeout", Self::duration)
                .unwrap_or(Duration::from_secs(60)),
            standby: self
                .get(&mut f, "standby", |r, n, p| {
                    r.scalar(n, p, |text| match text {
                        "cold" => Ok(StandbyMode::Cold),
                        "hot" => Ok(StandbyMode::Hot),
                        other => Err(format!("'{other}' is not known; write cold or hot")),
                    })
                })
                .unwrap_or_default(),
            after_power_loss: self
                .get(&mut f, "after_power_loss", |r, n, p| {
                    r.scalar(n, p, |text| match text {
                        "wait" => Ok(AfterPowerLoss::Wait),
                        "start" => Ok(AfterPowerLoss::Start),
                        other => Err(format!("'{other}' is not known; write wait or start")),
                    })
                })
                .unwrap_or_default(),
            fence: self.get(&mut f, "fence", Self::fence_policy).unwrap_or_default(),
            notify: self.get(&mut f, "notify", |r, n, p| r.one_or_more(n, p, Self::text)).unwrap_or_default(),
        };
        self.finish(f);
        Some(group)
    }

    /// `true`, `false`, or how long a node that comes back must have been ready.
    fn failback(&mut self, node: &Node, path: &str) -> Option<Option<Duration>> {
        self.scalar(node, path, |text| match text {
            "true" | "True" | "TRUE" | "yes" | "on" => Ok(Some(FAILBACK_AFTER)),
            "false" | "False" | "FALSE" | "no" | "off" => Ok(None),
            time => parse_duration(time)
                .map(Some)
                .map_err(|_| format!("'{time}' is neither true nor false nor a time like 10m")),
        })
    }

    fn cidr(&mut self, node: &Node, path: &str) -> Option<Cidr> {
        if !matches!(node.value, Value::Map(_)) {
            return self.parsed(node, path);
        }
        let mut fields = self.fields(node, path, "address, interface, preferred");
        let cidr = self.get(&mut fields, "address", Self::parsed::<Cidr>);
        let interface = self.get(&mut fields, "interface", Self::text);
        let preferred = self.get(&mut fields, "preferred", Self::boolean);
        self.finish(fields);
        if cidr.is_none() {
            self.error(node.line, path, "needs an address with a prefix length");
        }
        cidr.map(|cidr| Cidr { interface, preferred, ..cidr })
    }

    fn volume(&mut self, node: &Node, path: &str) -> Option<Volume> {
        let mut f = self.fields(node, path, "size, filesystem, …");
        if f.entries.iter().all(|e| e.key != "size") {
            self.error(node.line, &join(path, "size"), "is missing; give the volume's size, e.g. 1GiB");
        }
        let volume = Volume {
            // A missing or unreadable size has been reported; the default only keeps later checks quiet.
            size_bytes: self.get(&mut f, "size", Self::size).unwrap_or(1 << 30),
            filesystem: self.get(&mut f, "filesystem", Self::text).unwrap_or_else(|| "ext4".into()),
            protocol: self.get(&mut f, "protocol", Self::protocol).unwrap_or_default(),
            protocols: self
                .get(&mut f, "protocols", |r, n, p| r.map(n, p, Self::protocol))
                .unwrap_or_default(),
            transport: self.get(&mut f, "transport", Self::transport_word).unwrap_or(self.transport),
            front_end: self.get(&mut f, "front_end", Self::front_end).unwrap_or_default(),
            backing: self.get(&mut f, "backing", Self::backing).unwrap_or_default(),
            mount_options: self
                .get(&mut f, "mount_options", |r, n, p| r.one_or_more(n, p, Self::text))
                .unwrap_or_default()
                .join(","),
            peer_timeout: self.get(&mut f, "peer_timeout", Self::duration).unwrap_or(self.peer_timeout),
            disk_timeout: self.get(&mut f, "disk_timeout", Self::duration).unwrap_or(DISK_TIMEOUT),
            resync: {
                // The word of the first release; `resync: { rate: … }` since.
                let rate = self.get(&mut f, "resync_rate", Self::size);
                let limits = self.get(&mut f, "resync", Self::resync_limits);
                limits.unwrap_or_else(|| ResyncLimits { rate: rate.unwrap_or(0), ..ResyncLimits::default() })
            },
            verify: self.get(&mut f, "verify", Self::verify_schedule),
            after_split_brain: self
                .get(&mut f, "after_split_brain", Self::after_split_brain)
                .unwrap_or_default(),
        };
        self.finish(f);
        Some(volume)
    }

    fn protocol(&mut self, node: &Node, path: &str) -> Option<Protocol> {
        self.scalar(node, path, |text| match text {
            "A" => Ok(Protocol::A),
            "B" => Ok(Protocol::B),
            "C" => Ok(Protocol::C),
            other => Err(format!("'{other}' is not known; write A, B or C (C if in doubt)")),
        })
    }

    fn backing(&mut self, node: &Node, path: &str) -> Option<VolumeBacking> {
        if matches!(node.value, Value::Map(_)) {
            let by_node = self.map(node, path, Self::absolute)?;
            Some(VolumeBacking { all: None, by_node })
        } else {
            Some(VolumeBacking { all: self.absolute(node, path), by_node: BTreeMap::new() })
        }
    }

    pub fn absolute(&mut self, node: &Node, path: &str) -> Option<PathBuf> {
        self.scalar(node, path, |text| {
            if text.starts_with('/') {
                Ok(PathBuf::from(text))
            } else {
                Err(format!("'{text}' must be an absolute path"))
            }
        })
    }
}
