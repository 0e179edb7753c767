//! Snapshots for tests of the API, the metrics and the CLI: the demo when all is well, while the standby
//! resyncs, and after both failed.

use crate::basis::{Entitlement, GroupSettings, PromiseStatus, TimersStatus};
use crate::status::{
    Availability, ClusterStatus, EtcdStatus, Event, FencedBy, FencingStatus, Freshness, GapBucket, GroupNode,
    GroupState, GroupStatus, Health, HeardNode, HearingStatus, HeartbeatLinkCounters, HeartbeatLinkStatus,
    HeartbeatPeerCounters, HeartbeatPeerStatus, HeartbeatStatus, LinkState, MeasuredGaps, ModeNote, NodeMode,
    NodeStatus, NotificationStatus, Outage, RefusedDatagrams, Safety, ServiceStatus, Takeover, TakeoverStep,
};
use baton_replicator::api::{
    Counters, LinkStatus, MemoryStatus, PeerStatus, ResyncProgress, VerifyState, VerifyStatus, VolumeStatus,
};
use baton_replicator::transport::HandshakeLog;
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Generation, GroupName, Member, NodeName, Role, TermId,
    VolumeName,
};

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(0xab12_cd34_0000_0000) }
}

/// Two links, both well.
pub(crate) fn heartbeat() -> HeartbeatStatus {
    let link = |link, kind: &str, name: &str, address: &str| HeartbeatLinkStatus {
        link,
        kind: kind.into(),
        name: name.into(),
        error: None,
        turns: 1,
        counters: HeartbeatLinkCounters {
            sent: 864_000,
            dropped: 2,
            refused: vec![
                RefusedDatagrams { reason: "forged".into(), datagrams: 3 },
                RefusedDatagrams { reason: "replayed".into(), datagrams: 0 },
            ],
        },
        peers: vec![HeartbeatPeerStatus {
            node: node("beta"),
            address: address.into(),
            state: LinkState::Up,
            hears_us: Some(true),
            one_way: false,
            crossed: None,
            counters: HeartbeatPeerCounters {
                state_ms: 86_400_000,
                age_ms: Some(41),
                received: 863_990,
                lost: 10,
                late: 1,
                longest_gap_ms: 640,
                gaps: vec![
                    GapBucket { up_to_ms: Some(110), gaps: 863_000 },
                    GapBucket { up_to_ms: None, gaps: 989 },
                ],
            },
        }],
    };
    let hearing = |who: &str, other: &str| HearingStatus {
        node: node(who),
        hears: vec![HeardNode { node: node(other), links: vec![1, 2] }],
    };
    HeartbeatStatus {
        links: vec![
            link(1, "unicast", "10.77.0.11", "10.77.0.12"),
            link(2, "broadcast", "broadcast eth1", "broadcast eth1"),
        ],
        hearing: vec![hearing("alpha", "beta"), hearing("beta", "alpha")],
        measured: MeasuredGaps {
            worst_ms: 140,
            gaps: 863_989,
            silences: 0,
            over_s: 86_400,
            warntime_ms: 500,
            deadtime_ms: 1500,
            suggested_warntime_ms: Some(300),
            suggested_deadtime_ms: Some(600),
        },
    }
}

/// All is well: alpha serves, beta is a ready standby.
pub(crate) fn healthy() -> ClusterStatus {
    let node_status = |name: &str, address: &str| NodeStatus {
        name: node(name),
        alive: true,
        age_ms: Some(if name == "alpha" { 0 } else { 41 }),
        mode: NodeMode::Online,
        mode_note: None,
        address: address.into(),
        version: Some("0.1.0".into()),
        incarnation: Some("0011223344556677".into()),
        longest_gap_ms: if name == "alpha" { 0 } else { 113 },
        late_heartbeats: 0,
        refused_datagrams: 0,
        spec_version: Some(12),
        etcd: Some(true),
        fencing: Some(FencingStatus {
            by: FencedBy::Nftables,
            bound_ms: 50,
            reason: None,
            restored: 0,
            watchdog: false,
        }),
        fence: None,
        replicator_memory: (name == "alpha").then_some(MemoryStatus {
            locked: true,
            io_flusher: true,
            problem: None,
            resident_bytes: 25 << 20,
            waits: 3,
        }),
        heartbeat: vec![address.into(), address.replace("10.77.0.", "10.0.0.")],
        replication: vec![address.replace("10.77.0.", "10.0.0.")],
    };
    let part = |name: &str, state, ready, reason: &str| GroupNode {
        node: node(name),
        state,
        age_ms: Some(41),
        epoch: epoch(7),
        disk: Some(DiskState::UpToDate),
        boot: Some(BootId(if name == "alpha" { 1 } else { 2 })),
        ready,
        reason: reason.into(),
        resync_percent: None,
        asynchronous: false,
    };
    let service = |name: &str, health: Option<&str>| ServiceStatus {
        name: name.into(),
        container: format!("demo-alpha-web-{name}"),
        state: "running".into(),
        health: health.map(str::to_owned),
        restarts: 0,
        error: None,
    };
    let step = |step: &str, ms, at_ms| TakeoverStep { step: step.into(), ms, at_ms };
    ClusterStatus {
        cluster: "demo".into(),
        node: node("alpha"),
        version: "0.1.0".into(),
        at: "2026-11-21T03:10:00Z".into(),
        health: Health::Ok,
        advice: vec![],
        etcd: EtcdStatus {
            reachable: true,
            endpoints: vec!["http://10.77.0.21:2379".into(), "http://10.77.0.22:2379".into()],
            lease: Some("694d8c1f".into()),
            ttl_s: Some(5),
            revision: 42,
            error: None,
            age_ms: Some(180),
            state: crate::status::EtcdState::Answers,
            latency_ms: Some(3.2),
            voters: Some(3),
            members: vec![crate::status::EtcdMember {
                endpoint: "http://10.77.0.21:2379".into(),
                name: Some("alpha".into()),
                on: Some(node("alpha")),
                answers: true,
                leads: true,
                version: Some("3.6.5".into()),
                warnings: Vec::new(),
            }],
        },
        nodes: vec![node_status("alpha", "10.77.0.11"), node_status("beta", "10.77.0.12")],
        certificates: vec![crate::status::CertificateStatus {
            name: "api".into(),
            subject: "O=demo, OU=node, CN=alpha".into(),
            expires: "2027-12-23T03:10:00Z".into(),
            expires_unix_s: 1_829_531_400,
            days_left: 397,
        }],
        notifications: targets(),
        groups: vec![GroupStatus {
            name: group("web"),
            leader: Some(node("alpha")),
            epoch: epoch(7),
            state: GroupState::Serving,
            reason: String::new(),
            in_sync: vec![node("alpha"), node("beta")],
            members: vec![
                Member { node: node("alpha"), boot: BootId(1) },
                Member { node: node("beta"), boot: BootId(2) },
            ],
            target: None,
            pinned: None,
            disabled: None,
            rests_with: None,
            memory: Some(crate::status::GroupMemory {
                known: epoch(7),
                served: epoch(7),
                record: Some(epoch(7)),
                complete: true,
                leads: true,
                ..Default::default()
            }),
            addresses: vec!["10.77.0.100/24".into()],
            nodes: vec![
                part("alpha", GroupState::Serving, false, ""),
                part("beta", GroupState::Standby, true, ""),
            ],
            volumes: vec![volume()],
            services: vec![service("mysql", Some("healthy")), service("apache", None)],
            checks: vec![crate::status::CheckStatus {
                name: "check http://{address}/healthz".into(),
                kind: "http".into(),
                service: Some("apache".into()),
                on_failure: "restart".into(),
                state: crate::status::CheckState::Passing,
                since: "2026-11-21T02:58:12Z".into(),
                last_error: None,
                unknown: false,
                duration_ms: Some(3),
                age_ms: Some(420),
            }],
            last_takeover: Some(Takeover {
                kind: "takeover".into(),
                epoch: epoch(7),
                at: "2026-11-21T02:58:11Z".into(),
                steps: vec![
                    step("detect", 1502, 1502),
                    step("decide", 14, 1516),
                    step("promote", 35, 1551),
                    step("mount", 120, 1671),
                    step("address", 6, 1677),
                    step("services", 403, 2080),
                ],
                total_ms: 2080,
            }),
            fresh: Freshness {
                record_ms: Some(640),
                volumes_from: Some(node("alpha")),
                volumes_ms: Some(120),
                services_from: Some(node("alpha")),
                services_ms: Some(310),
            },
            under_way: None,
            availability: Availability {
                observed_seconds: 86_400.0,
                unavailable_seconds: 2.08,
                outages: 1,
                last_outage: Some(Outage { noticed_at: "2026-11-21T02:58:09Z".into(), seconds: Some(2.08) }),
            },
            safety: vec![Safety::KernelGate],
            settings: GroupSettings {
                prefer: vec![node("alpha")],
                failure_timeout_ms: 600_000,
                data: true,
                checks: true,
                ..GroupSettings::default()
            },
            entitlement: Some(Entitlement {
                serve_ms: 934,
                promises: vec![PromiseStatus { node: node("beta"), good_ms: Some(934) }],
                lease_ms: Some(3710),
            }),
        }],
        replicator_reachable: true,
        handshakes: HandshakeLog::default().counts(),
        heartbeat: heartbeat(),
        timers: TimersStatus::default(),
    }
}

fn volume() -> VolumeStatus {
    VolumeStatus {
        size_bytes: 1 << 30,
        role: Role::Primary,
        epoch: epoch(7),
        disk: DiskState::UpToDate,
        generation: Generation(0xfeed),
        boot: BootId(1),
        device: Some("/dev/baton/webstore".into()),
        filesystem: Some("ext4".into()),
        required: vec![Member { node: node("beta"), boot: BootId(2) }],
        peers: vec![PeerStatus {
            connection: ConnectionState::Connected,
            boot: Some(BootId(2)),
            disk: DiskState::UpToDate,
            resynced: true,
            settled: true,
            unacked_bytes: 4096,
            oldest_unacked_ms: 1,
            lag_us: 412,
            link: Some(LinkStatus {
                transport: "TLS 1.3".into(),
                cipher: Some("TLS13_AES_128_GCM_SHA256".into()),
                address: "10.0.0.12".into(),
            }),
            ..PeerStatus::unknown(node("beta"))
        }],
        activity_log_extents: 12,
        counters: Counters {
            reads: 100,
            read_bytes: 409_600,
            writes: 2000,
            written_bytes: 8_192_000,
            flushes: 300,
            discards: 4,
        },
        verify: Some(baton_replicator::api::VerifyStatus {
            id: 3,
            state: baton_replicator::api::VerifyState::Done,
            peers: vec![node("beta")],
            total_bytes: 1 << 30,
            checked_bytes: 1 << 30,
            bytes_per_s: 100 << 20,
            took_ms: 10_240,
            by: Some("schedule".into()),
            asked_at: Some("2026-11-21T02:00:00Z".into()),
            ended_at: Some("2026-11-21T02:00:10Z".into()),
            ..Default::default()
        }),
        export: Some(baton_replicator::api::ExportStatus {
            uri: "nbd+unix:///webstore?socket=/run/baton/webstore.snapshot.nbd".into(),
            socket: "/run/baton/webstore.snapshot.nbd".into(),
            taken_at_s: 1_795_219_200,
            clients: 4,
            read_bytes: 200 << 20,
            data_bytes: 600 << 20,
            copied_bytes: 3 << 20,
            broken: None,
        }),
        ..VolumeStatus::unknown(VolumeName::new("webstore").unwrap(), group("web"))
    }
}

/// Beta is back after a power cut and resyncs: it may not take over.
pub(crate) fn resyncing() -> ClusterStatus {
    let mut status = healthy();
    status.health = Health::Degraded;
    status.advice = vec![
        "Group web runs without a standby until beta's resync ends, in about 18 s: do not stop alpha before."
            .into(),
    ];
    status.nodes[1].late_heartbeats = 12;
    let web = &mut status.groups[0];
    web.in_sync = vec![node("alpha")];
    web.members.truncate(1);
    web.entitlement = Some(Entitlement { serve_ms: 998, lease_ms: Some(3710), ..Entitlement::default() });
    web.nodes[1].ready = false;
    web.nodes[1].reason = "its replica of webstore is Inconsistent: the resync is at 46.9 %".into();
    web.nodes[1].disk = Some(DiskState::Inconsistent);
    web.nodes[1].resync_percent = Some(46.9);
    let volume = &mut web.volumes[0];
    volume.required.clear();
    let peer = &mut volume.peers[0];
    peer.connection = ConnectionState::SyncSource;
    peer.disk = DiskState::Inconsistent;
    peer.resynced = false;
    peer.settled = false;
    peer.dirty_bytes = 285_212_672;
    peer.resync = Some(ResyncProgress {
        total_bytes: 536_870_912,
        done_bytes: 251_658_240,
        bytes_per_s: 15_728_640,
        eta_s: Some(18),
        average_bytes_per_s: 12_582_912,
        spared_bytes: 4_194_304,
        paused: false,
        stalled_s: 0,
    });
    (peer.copied_bytes, peer.spared_bytes) = (247_463_936, 4_194_304);
    status
}

/// All is well, and webstore is being compared and repaired.
pub(crate) fn verifying() -> ClusterStatus {
    let mut status = healthy();
    status.groups[0].volumes[0].verify = Some(VerifyStatus {
        id: 5,
        repair: true,
        state: VerifyState::Running,
        peers: vec![node("beta")],
        total_bytes: 1 << 30,
        checked_bytes: 301_989_888,
        mismatched_bytes: 8192,
        repaired_bytes: 4096,
        bytes_per_s: 15_728_640,
        eta_s: Some(49),
        ..VerifyStatus::default()
    });
    status
}

/// Ada changes a disk of beta.
pub(crate) fn maintained() -> ClusterStatus {
    let mut status = healthy();
    status.nodes[1].mode = NodeMode::Maintenance;
    status.nodes[1].mode_note = Some(ModeNote {
        owner: "ada".into(),
        reason: "new disk".into(),
        since: "2026-11-21T02:50:00Z".into(),
        until: Some("2026-11-21T04:50:00Z".into()),
        expired: false,
    });
    status
}

/// Alpha, the only in-sync node, is gone; beta says why it must not take over. Seen from beta, etcd is away.
pub(crate) fn down() -> ClusterStatus {
    let mut status = resyncing();
    status.node = node("beta");
    status.health = Health::Down;
    status.advice = vec![
        "Bring alpha back: only it holds every acknowledged write of group web.".into(),
        "If alpha is lost for good: 'baton move web --to beta --accept-data-loss' gives up what beta lacks."
            .into(),
    ];
    status.etcd.reachable = false;
    status.etcd.error = Some("deadline exceeded".into());
    status.nodes[0].alive = false;
    status.nodes[0].age_ms = Some(754_000);
    status.nodes[1].mode = NodeMode::Standby;
    let reason = Some("cannot make nftables rules: Operation not permitted".into());
    status.nodes[1].fencing = Some(FencingStatus {
        by: FencedBy::AddressLifetime,
        bound_ms: 2250,
        reason,
        restored: 0,
        watchdog: true,
    });
    let web = &mut status.groups[0];
    web.state = GroupState::Unknown;
    web.entitlement = None;
    web.reason = "alpha leads and is silent; beta is not in sync".into();
    web.nodes[0].state = GroupState::Unknown;
    web.nodes[0].reason = "not heard for 12 min".into();
    web.nodes[0].age_ms = Some(754_000);
    web.services.clear();
    web.last_takeover = None;
    let volume = &mut web.volumes[0];
    volume.role = Role::Secondary;
    volume.disk = DiskState::Inconsistent;
    volume.device = None;
    volume.frozen = Some("no primary".into());
    volume.alarms = vec!["metadata block 3 had a bad checksum, its twin was used".into()];
    let peer = &mut volume.peers[0];
    peer.node = node("alpha");
    peer.connection = ConnectionState::Connecting;
    peer.reason = Some("connection refused by 10.77.0.11:7788".into());
    peer.disk = DiskState::DUnknown;
    peer.resync = None;
    status
}

/// Three nodes and so many groups, one of ten without a standby, leaders in turn.
pub(crate) fn large(groups: usize) -> ClusterStatus {
    let mut status = healthy();
    let mut gamma = status.nodes[1].clone();
    gamma.name = node("gamma");
    gamma.address = "10.77.0.13".into();
    status.nodes.push(gamma);
    let names = ["alpha", "beta", "gamma"];
    let web = status.groups.remove(0);
    for i in 0..groups {
        let mut one = web.clone();
        one.name = group(&format!("shop-{i:03}"));
        one.leader = Some(node(names[i % 3]));
        one.epoch = epoch(i as u64 + 1);
        let part = one.nodes[1].clone();
        one.nodes = names.iter().map(|n| GroupNode { node: node(n), ..part.clone() }).collect();
        one.nodes[i % 3].state = GroupState::Serving;
        one.nodes[i % 3].ready = false;
        if i % 10 == 3 {
            for other in one.nodes.iter_mut() {
                other.ready = false;
                other.reason = "the image is not on this host".into();
            }
        }
        status.groups.push(one);
    }
    status.health = if groups > 3 { Health::Degraded } else { Health::Ok };
    status
}

/// The same cluster with the longest names there are.
pub(crate) fn renamed(status: &ClusterStatus, longer: impl Fn(&str) -> String) -> ClusterStatus {
    let mut document = serde_json::to_value(status).unwrap();
    fn walk(value: &mut serde_json::Value, longer: &impl Fn(&str) -> String) {
        match value {
            serde_json::Value::String(text) => {
                const NAMES: [&str; 7] = ["alpha", "beta", "gamma", "web", "webstore", "mysql", "apache"];
                if NAMES.contains(&text.as_str()) || text.starts_with("shop-") {
                    *text = longer(text);
                }
            }
            serde_json::Value::Array(all) => all.iter_mut().for_each(|v| walk(v, longer)),
            serde_json::Value::Object(all) => all.values_mut().for_each(|v| walk(v, longer)),
            _ => {}
        }
    }
    walk(&mut document, &longer);
    serde_json::from_value(document).unwrap()
}

/// A short history.
pub(crate) fn history() -> Vec<Event> {
    let event = |n, severity: &str, message: &str| Event {
        n,
        at: format!("2026-11-21T02:58:{:02}Z", 10 + n),
        node: node("alpha"),
        group: Some(group("web")),
        volume: None,
        severity: severity.into(),
        message: message.into(),
        takeover: None,
    };
    vec![
        event(1, "warning", "beta has not been heard for 1500 ms"),
        event(2, "critical", "alpha took group web over from beta, epoch 7, in 2080 ms"),
        event(3, "info", "beta is in sync again"),
    ]
}

/// Two targets of notifications, one of which cannot be reached.
pub(crate) fn targets() -> Vec<NotificationStatus> {
    let good = NotificationStatus {
        target: "operators".into(),
        channel: "mail to sip@tholdi.com, night@tholdi.com, boss@tholdi.com via smtp://10.77.0.41:587".into(),
        severity: "warning".into(),
        groups: vec![group("web")],
        delivered: 12,
        last_success: Some("2026-11-21T03:09:41.120Z".into()),
        ..NotificationStatus::default()
    };
    let bad = NotificationStatus {
        target: "pager".into(),
        channel: "webhook https://hook.example.org".into(),
        severity: "critical".into(),
        queued: 2,
        failed: 9,
        given_up: 1,
        failing_since: Some("2026-11-21T02:40:00.000Z".into()),
        last_error: Some("HTTP 503 Service Unavailable come back later".into()),
        ..NotificationStatus::default()
    };
    vec![good, bad]
}
