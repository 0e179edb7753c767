//! What others write into etcd and say in heartbeats, and what the replicator reports, as a script tells it.

use super::scene::{ME, epoch, group, node};
use super::script::{Script, TICK};
use baton_operator::core::beat::{Ack, GroupBeat, HeartbeatMsg};
use baton_operator::core::group::{Event, GroupCore};
use baton_operator::core::record::{
    Durable, InSync, LeaderKey, LeaderWrite, NodeKeys, Outcome, Txn, Versioned,
};
use baton_operator::core::rules::Rules;
use baton_operator::status::NodeMode;
use baton_replicator::api::{PeerStatus, VolumeStatus};
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Generation, GroupName, Instant, Member, NodeName, Role,
    VolumeName,
};

/// A lease of its own for each node.
pub fn lease_of(name: &NodeName) -> i64 {
    match name.as_str() {
        ME => 7,
        "alpha" => 8,
        _ => 9,
    }
}

/// The boot id that a node's replicas have until it reboots.
pub fn usual_boot(name: &str) -> u64 {
    match name {
        ME => 0xb,
        "alpha" => 0xa,
        _ => 0xc,
    }
}

pub fn replica(volume: VolumeName) -> VolumeStatus {
    VolumeStatus {
        size_bytes: 4096,
        disk: DiskState::Consistent,
        boot: BootId(0xb),
        filesystem: Some("ext4".into()),
        ..VolumeStatus::unknown(volume, group())
    }
}

pub fn peer_status(name: &str, connection: ConnectionState, boot: u64) -> PeerStatus {
    PeerStatus { connection, boot: (boot != 0).then_some(BootId(boot)), ..PeerStatus::unknown(node(name)) }
}

pub fn mode(word: &str) -> NodeMode {
    match word {
        "standby" => NodeMode::Standby,
        "maintenance" => NodeMode::Maintenance,
        "online" => NodeMode::Online,
        other => panic!("unknown mode {other}"),
    }
}

pub fn connection(word: &str) -> ConnectionState {
    match word {
        "connected" => ConnectionState::Connected,
        "connecting" => ConnectionState::Connecting,
        "timeout" => ConnectionState::Timeout,
        "standalone" => ConnectionState::StandAlone,
        "handshake" => ConnectionState::Handshake,
        "sync-source" => ConnectionState::SyncSource,
        other => panic!("unknown connection {other}"),
    }
}

pub fn disk(word: &str) -> DiskState {
    match word {
        "uptodate" => DiskState::UpToDate,
        "consistent" => DiskState::Consistent,
        "inconsistent" => DiskState::Inconsistent,
        "outdated" => DiskState::Outdated,
        "failed" => DiskState::Failed,
        "diskless" => DiskState::Diskless,
        "attaching" => DiskState::Attaching,
        other => panic!("unknown disk state {other}"),
    }
}

impl Script {
    pub fn settle(&mut self, how: &str) {
        self.record.revision += 1;
        let revision = self.record.revision;
        let txn = self.sent.take().expect("a transaction was sent");
        if matches!(how, "committed" | "late") {
            self.commit(&txn, revision);
        }
        let outcome = match how {
            "committed" => Outcome::Committed { revision },
            "guard-failed" => Outcome::GuardFailed,
            "unknown" | "late" => Outcome::Unknown,
            other => panic!("unknown outcome {other}"),
        };
        self.feed(Event::Txn(txn.id, outcome));
    }

    fn commit(&mut self, txn: &Txn, revision: i64) {
        match &txn.leader {
            LeaderWrite::Keep => {}
            LeaderWrite::Delete => self.record.leader = None,
            LeaderWrite::Put(key, _) => {
                let lease = lease_of(&key.node);
                self.record.leader = Some(Versioned { value: key.clone(), revision, lease });
            }
        }
        if let Some(value) = txn.insync.clone() {
            self.record.insync = Some(Versioned { value, revision, lease: 0 });
        }
        if txn.clear_target {
            self.record.target = None;
        }
    }

    pub fn set_record(&mut self, fields: &[&str]) {
        self.record.revision += 1;
        let revision = self.record.revision;
        let (mut members, mut number, mut candidates) = (Vec::new(), Epoch::ZERO, self.cfg.nodes.clone());
        for field in fields {
            let (key, value) = field.split_once('=').expect("key=value");
            match key {
                "leader" if value == "none" => self.record.leader = None,
                "leader" => {
                    let parts: Vec<&str> = value.split(':').collect();
                    let lease = lease_of(&node(parts[0]));
                    let value =
                        LeaderKey { node: node(parts[0]), epoch: epoch(parts[1]), handed: parts.len() > 2 };
                    self.record.leader = Some(Versioned { value, revision, lease });
                }
                "members" => {
                    members = value
                        .split(',')
                        .map(|m| m.split_once(':').expect("NODE:BOOT"))
                        .map(|(n, b)| Member { node: node(n), boot: self.group_boot(b) })
                        .collect();
                }
                "epoch" => number = epoch(value),
                "candidates" => candidates = super::scene::nodes(value),
                "target" => self.record.target = Some(node(value)),
                "etcd" => self.record.cluster_id = value.parse().expect("a number"),
                "revision" => self.record.revision = value.parse().expect("a number"),
                other => {
                    let name = node(other.strip_prefix("mode.").expect("mode.NODE"));
                    self.record.nodes.entry(name).or_default().mode = mode(value);
                }
            }
        }
        for name in self.cfg.nodes.clone() {
            let lease = Some(lease_of(&name));
            self.record.nodes.entry(name).or_insert_with(|| NodeKeys { lease, ..NodeKeys::default() });
        }
        let value = InSync { epoch: number, members, candidates, fresh: false };
        self.record.insync = (number != Epoch::ZERO).then_some(Versioned { value, revision, lease: 0 });
        self.rewritten();
    }

    /// In a `given` scene the watch tells of every change at once.
    pub fn rewritten(&mut self) {
        if self.given {
            self.feed(Event::Changed);
        }
    }

    /// The group's boot id of a node whose replicas all have this one.
    pub fn group_boot(&self, boot: &str) -> BootId {
        let boot: BootId = boot.parse().expect("hexadecimal");
        let mut other = GroupCore::new(self.cfg.clone(), Durable::default(), Rules::default(), Instant::ZERO);
        let replicas = self.cfg.volumes.iter().cloned().map(|v| VolumeStatus { boot, ..replica(v) });
        other.handle(Event::Replicas(Some(replicas.collect())), Instant::ZERO, 0);
        other.view_of().boot.expect("all volumes are there")
    }

    pub fn hear_the_usual(&mut self) {
        if !self.now.0.is_multiple_of(2 * TICK) {
            return;
        }
        for (from, said) in self.keeps.clone() {
            let said: Vec<&str> = said.iter().map(String::as_str).collect();
            self.take_beat(&from, &said);
        }
    }

    pub fn heard(&mut self, from: &str, said: &[&str]) {
        self.take_beat(&node(from), said);
        self.tick();
    }

    fn take_beat(&mut self, from: &NodeName, said: &[&str]) {
        let mut beat = GroupBeat {
            group: group(),
            epoch: self.beats.facts(&group(), self.now).highest,
            leading: false,
            holds: false,
            released: None,
            ask_ms: None,
            ready: false,
            state: 0,
            boot: self.group_boot(&format!("{:x}", usual_boot(from.as_str()))),
            insync_rev: self.record.insync.as_ref().map_or(0, |i| i.revision),
            ack: None,
        };
        let ack = Ack {
            leader: node(ME),
            incarnation: 1,
            epoch: self.intent.epoch,
            sent: self.now,
            promise_ms: 1500,
        };
        let (mut etcd, mut incarnation, mut others) = (true, 2, Vec::new());
        for word in said {
            match word.split_once('=') {
                Some(("leads", n)) => (beat.leading, beat.epoch) = (true, epoch(n)),
                Some(("released", n)) => beat.released = Some(epoch(n)),
                Some(("boot", b)) => beat.boot = self.group_boot(b),
                Some(("knows", n)) => beat.epoch = epoch(n),
                Some(("ask", ms)) => beat.ask_ms = Some(ms.parse().expect("milliseconds")),
                Some(("can", name)) => {
                    others.push(GroupName::new(name).expect("a group name"));
                }
                Some(("incarnation", n)) => incarnation = n.parse().expect("a number"),
                Some(("acks-of-epoch", n)) => beat.ack = Some(Ack { epoch: epoch(n), ..ack.clone() }),
                Some(("acks-of-life", n)) => {
                    beat.ack = Some(Ack { incarnation: n.parse().expect("a number"), ..ack.clone() });
                }
                None if *word == "holds" => beat.holds = true,
                None if *word == "ready" => beat.ready = true,
                None if *word == "no-etcd" => etcd = false,
                None if *word == "acks" => beat.ack = Some(ack.clone()),
                None if *word == "acks-long" => beat.ack = Some(Ack { promise_ms: 10_000, ..ack.clone() }),
                _ => panic!("unknown word {word}"),
            }
        }
        let other = |name| GroupBeat { group: name, ready: true, leading: false, ack: None, ..beat.clone() };
        let others: Vec<GroupBeat> = others.into_iter().map(other).collect();
        self.seq += 1;
        let msg = HeartbeatMsg {
            incarnation,
            seq: self.seq,
            sent: self.now,
            echo: false,
            etcd,
            groups: [vec![beat], others].concat(),
            summary: Vec::new(),
        };
        self.beats.on_datagram(from, msg, self.now);
    }

    pub fn set_replica(&mut self, fields: &[&str]) {
        let epoch_now = self.core.view_of().epoch;
        for r in &mut self.replicas {
            r.frozen_since = None;
            r.frozen = None;
            for field in fields {
                match field.split_once('=') {
                    Some(("role", "primary")) => r.role = Role::Primary,
                    Some(("role", _)) => r.role = Role::Secondary,
                    Some(("epoch", n)) => (r.epoch, r.generation) = (epoch(n), Generation(1)),
                    Some(("disk", word)) => r.disk = disk(word),
                    Some(("boot", b)) => r.boot = b.parse().expect("hexadecimal"),
                    Some(("required", "")) => r.required.clear(),
                    Some(("required", list)) => {
                        r.required =
                            list.split(',').map(|n| Member { node: node(n), boot: BootId(0xa) }).collect();
                    }
                    Some(("peer", text)) => {
                        let parts: Vec<&str> = text.split(':').collect();
                        let boot: BootId = parts[2].parse().expect("hexadecimal");
                        let settled = parts.contains(&"settled");
                        let resynced = settled || parts.contains(&"resynced");
                        let status = peer_status(parts[0], connection(parts[1]), boot.0);
                        r.peers = vec![PeerStatus { resynced, settled, ..status }];
                    }
                    None if *field == "frozen" => {
                        r.frozen = Some("a peer does not answer".into());
                        r.frozen_since = Some(self.now);
                    }
                    _ => panic!("unknown field {field}"),
                }
            }
            // Once this node led, the term is the one it drew itself.
            if r.role == Role::Primary {
                r.epoch = epoch_now;
            }
        }
        self.feed(Event::Replicas(Some(self.replicas.clone())));
    }
}
