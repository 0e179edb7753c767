//! Golden transcripts: what one node hears, line by line, and what it decides. Each file under `golden/` is a
//! story that an operator can read; lines that begin with `->` are decisions. After an intended change run
//! `BATON_BLESS=1 cargo test -p baton-operator --test core_golden` and read the difference.
//!
//! The words of the script are listed at [`Script::line`].

use baton_operator::core::beat::{Ack, GroupBeat, HeartbeatMsg};
use baton_operator::core::group::{Action, AfterPowerLoss, EtcdFacts, Event, Facts, GroupConfig, GroupCore};
use baton_operator::core::promises::{HeartbeatCore, Intent, Part};
use baton_operator::core::record::{
    Durable, InSync, LeaderKey, LeaderWrite, NodeKeys, Outcome, Record, Txn, Versioned,
};
use baton_operator::core::rules::Rules;
use baton_operator::core::runtime::{Goal, Phase, RunReport};
use baton_operator::core::timing::Timers;
use baton_operator::status::NodeMode;
use baton_replicator::api::{PeerStatus, VolumeStatus};
use baton_replicator::types::{
    BootId, ConnectionState, DiskState, Epoch, Generation, GroupName, Instant, Member, NodeName, Role,
    TermId, VolumeName,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const ME: &str = "beta";
const DRAWN: u64 = 0xfeed_f00d_0000_0000;

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a node name")
}

fn group() -> GroupName {
    GroupName::new("web").expect("a group name")
}

fn store() -> VolumeName {
    VolumeName::new("store").expect("a volume name")
}

/// `4` is an epoch of another node, `4*` one that this node drew.
fn epoch(number: &str) -> Epoch {
    if let Some(number) = number.strip_suffix('*') {
        return Epoch { number: number.parse().expect("an epoch's number"), term: TermId(DRAWN) };
    }
    let number: u64 = number.parse().expect("an epoch's number");
    Epoch { number, term: TermId(number << 32) }
}

struct Script {
    core: GroupCore,
    beats: HeartbeatCore,
    now: Instant,
    etcd: EtcdFacts,
    record: Record,
    replica: VolumeStatus,
    run: RunReport,
    seq: u64,
    asked: (u64, u64, u64),
    intent: Intent,
    goal: Goal,
    out: String,
}

fn replica() -> VolumeStatus {
    VolumeStatus {
        volume: store(),
        group: group(),
        size_bytes: 4096,
        role: Role::Secondary,
        epoch: Epoch::ZERO,
        disk: DiskState::Consistent,
        generation: Generation(0),
        boot: BootId(0xb),
        device: None,
        held: false,
        filesystem: Some("ext4".into()),
        frozen: None,
        frozen_since: None,
        required: Vec::new(),
        peers: Vec::new(),
        activity_log_extents: 0,
        counters: Default::default(),
        alarms: Vec::new(),
        verify: None,
    }
}

impl Script {
    fn new(served: Option<&str>, policy: AfterPowerLoss) -> Self {
        let now = Instant(0);
        let timers = Timers::default().check().expect("defaults hold");
        let nodes = vec![node("alpha"), node(ME)];
        let cfg = GroupConfig {
            group: group(),
            me: node(ME),
            nodes: nodes.clone(),
            prefer: vec![node("alpha")],
            volumes: vec![store()],
            auto_failback: false,
            after_power_loss: policy,
            timers,
            retire: None,
        };
        let served = served.map(epoch).unwrap_or_default();
        let durable = Durable { served, known: served, ..Durable::default() };
        let groups = [(group(), Instant::ZERO)];
        Self {
            core: GroupCore::new(cfg, durable, Rules::default(), now),
            beats: HeartbeatCore::new(node(ME), 1, timers, Rules::default(), nodes, groups, now),
            now,
            etcd: EtcdFacts { reachable: true, lease: 7, lease_until: Instant(u64::MAX) },
            record: Record { cluster_id: 1, revision: 100, fence_rev: 5, ..Record::default() },
            replica: replica(),
            run: RunReport { phase: Phase::Stopped, free: true, prepared: true, ..RunReport::default() },
            seq: 0,
            asked: (0, 0, 0),
            intent: Intent::silent(),
            goal: Goal::Hold,
            out: String::new(),
        }
    }

    /// One line of a script:
    ///
    /// * `at MS`: time passes in ticks of 50 ms
    /// * `etcd up|down`; `fence ok|failed`
    /// * `record leader=NODE:EPOCH[:handed]|none members=NODE:BOOT,… epoch=N [target=NODE] [mode.NODE=MODE]`:
    ///   what the next read finds; `read ok|failed` answers it; `changed` is the watch
    /// * `txn committed|guard-failed|unknown`
    /// * `heard NODE [leads=N] [holds] [acks] [ready] [released=N] [boot=N] [knows=N]`
    /// * `replica [role=R] [epoch=N] [disk=D] [boot=N] [frozen] [peer=NODE:CONNECTION:BOOT[:resynced][:settled]]`
    /// * `status` shows state, reason and advice; `served N` and `after_power_loss start` at the top set the scene
    /// * `volume-set ok|refused`; `run PHASE [reason]`; `restarting`; `recover`
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().expect("not empty");
        match (*verb, rest) {
            ("at", [ms]) => {
                let end = Instant(ms.parse::<u64>().expect("milliseconds") * 1_000_000);
                assert!(end > self.now, "time does not go back: {line}");
                while self.now < end {
                    self.now = Instant((self.now.0 + 50_000_000).min(end.0));
                    self.tick();
                }
            }
            ("etcd", [state]) => {
                self.etcd.reachable = *state == "up";
                self.tick();
            }
            ("fence", [how]) => self.feed(Event::Fence(self.asked.1, *how == "ok")),
            ("record", fields) => self.set_record(fields),
            ("read", ["ok"]) => self.feed(Event::Record(self.asked.0, Some(Box::new(self.record.clone())))),
            ("read", _) => self.feed(Event::Record(self.asked.0, None)),
            ("changed", _) => self.feed(Event::Changed),
            ("txn", [how]) => {
                self.record.revision += 1;
                let outcome = match *how {
                    "committed" => Outcome::Committed { revision: self.record.revision },
                    "guard-failed" => Outcome::GuardFailed,
                    "unknown" => Outcome::Unknown,
                    other => panic!("unknown outcome {other}"),
                };
                self.feed(Event::Txn(self.asked.2, outcome));
            }
            ("heard", [from, said @ ..]) => self.heard(from, said),
            ("replica", fields) => self.set_replica(fields),
            ("volume-set", [how]) => {
                let result = if *how == "ok" { Ok(()) } else { Err("refused".to_owned()) };
                self.feed(Event::VolumeSet(store(), result));
            }
            ("run", [phase, reason @ ..]) => {
                self.run.phase = match *phase {
                    "stopped" => Phase::Stopped,
                    "starting" => Phase::Starting,
                    "running" => Phase::Running,
                    "stopping" => Phase::Stopping,
                    "fenced" => Phase::Fenced,
                    "failed" => Phase::Failed,
                    other => panic!("unknown phase {other}"),
                };
                self.run.free = self.run.phase == Phase::Stopped;
                self.run.reason = reason.join(" ");
                self.feed(Event::Run(self.run.clone()));
            }
            ("restarting", _) => self.feed(Event::Restarting),
            ("recover", _) => self.feed(Event::Recover),
            _ => panic!("cannot read '{line}'"),
        }
    }

    fn set_record(&mut self, fields: &[&str]) {
        self.record.revision += 1;
        let revision = self.record.revision;
        let (mut members, mut number) = (Vec::new(), Epoch::ZERO);
        for field in fields {
            let (key, value) = field.split_once('=').expect("key=value");
            match key {
                "leader" if value == "none" => self.record.leader = None,
                "leader" => {
                    let parts: Vec<&str> = value.split(':').collect();
                    let value =
                        LeaderKey { node: node(parts[0]), epoch: epoch(parts[1]), handed: parts.len() > 2 };
                    self.record.leader = Some(Versioned { value, revision, lease: 7 });
                }
                "members" => {
                    members = value
                        .split(',')
                        .map(|m| m.split_once(':').expect("NODE:BOOT"))
                        .map(|(n, b)| Member { node: node(n), boot: b.parse().expect("hexadecimal") })
                        .collect();
                }
                "epoch" => number = epoch(value),
                "target" => self.record.target = Some(node(value)),
                "etcd" => self.record.cluster_id = value.parse().expect("a number"),
                mode => {
                    let name = node(mode.strip_prefix("mode.").expect("mode.NODE"));
                    let mode = match value {
                        "standby" => NodeMode::Standby,
                        "maintenance" => NodeMode::Maintenance,
                        _ => NodeMode::Online,
                    };
                    self.record.nodes.entry(name).or_default().mode = mode;
                }
            }
        }
        for name in ["alpha", ME] {
            self.record
                .nodes
                .entry(node(name))
                .or_insert_with(|| NodeKeys { lease: Some(7), ..NodeKeys::default() });
        }
        let candidates = vec![node("alpha"), node(ME)];
        let value = InSync { epoch: number, members, candidates, fresh: false };
        self.record.insync = (number != Epoch::ZERO).then_some(Versioned { value, revision, lease: 0 });
    }

    fn heard(&mut self, from: &str, said: &[&str]) {
        let known = self.beats.facts(&group(), self.now).highest;
        let mut beat = GroupBeat {
            group: group(),
            epoch: known,
            leading: false,
            holds: false,
            released: None,
            ask_ms: None,
            ready: false,
            state: 0,
            boot: BootId(0xa),
            insync_rev: self.record.insync.as_ref().map_or(0, |i| i.revision),
            ack: None,
        };
        for word in said {
            match word.split_once('=') {
                Some(("leads", n)) => (beat.leading, beat.epoch) = (true, epoch(n)),
                Some(("released", n)) => beat.released = Some(epoch(n)),
                Some(("boot", b)) => beat.boot = b.parse().expect("hexadecimal"),
                Some(("knows", n)) => beat.epoch = epoch(n),
                Some(("ask", ms)) => beat.ask_ms = Some(ms.parse().expect("milliseconds")),
                None if *word == "holds" => beat.holds = true,
                None if *word == "ready" => beat.ready = true,
                None if *word == "acks" || *word == "acks-long" => {
                    let promise_ms = if *word == "acks" { 1500 } else { 10_000 };
                    let epoch = self.intent.epoch;
                    beat.ack =
                        Some(Ack { leader: node(ME), incarnation: 1, epoch, sent: self.now, promise_ms });
                }
                _ => panic!("unknown word {word}"),
            }
        }
        self.seq += 1;
        let msg = HeartbeatMsg {
            incarnation: 2,
            seq: self.seq,
            sent: self.now,
            echo: false,
            etcd: true,
            groups: vec![beat],
            summary: Vec::new(),
        };
        self.beats.on_datagram(&node(from), msg, self.now);
        self.tick();
    }

    fn set_replica(&mut self, fields: &[&str]) {
        let r = &mut self.replica;
        r.frozen_since = None;
        r.frozen = None;
        for field in fields {
            match field.split_once('=') {
                Some(("role", "primary")) => r.role = Role::Primary,
                Some(("role", _)) => r.role = Role::Secondary,
                Some(("epoch", n)) => (r.epoch, r.generation) = (epoch(n), Generation(1)),
                Some(("disk", "inconsistent")) => r.disk = DiskState::Inconsistent,
                Some(("disk", "failed")) => r.disk = DiskState::Failed,
                Some(("disk", _)) => r.disk = DiskState::UpToDate,
                Some(("boot", b)) => r.boot = b.parse().expect("hexadecimal"),
                Some(("required", "")) => r.required.clear(),
                Some(("required", list)) => {
                    r.required =
                        list.split(',').map(|n| Member { node: node(n), boot: BootId(0xa) }).collect();
                }
                Some(("peer", text)) => {
                    let parts: Vec<&str> = text.split(':').collect();
                    let connection = match parts[1] {
                        "connected" => ConnectionState::Connected,
                        "timeout" => ConnectionState::Timeout,
                        _ => ConnectionState::Connecting,
                    };
                    r.peers = vec![PeerStatus {
                        node: node(parts[0]),
                        connection,
                        reason: None,
                        boot: Some(parts[2].parse().expect("hexadecimal")),
                        disk: DiskState::DUnknown,
                        resynced: parts.contains(&"resynced") || parts.contains(&"settled"),
                        settled: parts.contains(&"settled"),
                        dirty_bytes: 0,
                        unacked_bytes: 0,
                        oldest_unacked_ms: 0,
                        lag_us: 0,
                        resync: None,
                        link: None,
                    }];
                }
                None if *field == "frozen" => {
                    (r.frozen, r.frozen_since) = (Some("a peer does not answer".into()), Some(self.now));
                }
                _ => panic!("unknown field {field}"),
            }
        }
        // Once this node led, the term is the one it drew itself.
        if self.replica.role == Role::Primary {
            self.replica.epoch = self.core.view_of().epoch;
        }
        self.feed(Event::Replicas(Some(vec![self.replica.clone()])));
    }

    fn facts(&self) -> Event {
        let beats = self.beats.facts(&group(), self.now);
        Event::Tick(Box::new(Facts { beats, peers: self.beats.peers().into(), etcd: self.etcd }))
    }

    fn tick(&mut self) {
        self.beats.vouch(self.now, self.etcd.reachable);
        self.beats.tick(self.now);
        self.feed(self.facts());
    }

    fn feed(&mut self, event: Event) {
        let mut next = Some(event);
        for _ in 0..8 {
            let Some(event) = next.take() else { return };
            for action in self.core.handle(event, self.now, DRAWN) {
                self.show(&action);
            }
            let goal = self.core.goal();
            if goal != self.goal {
                self.goal = goal;
                let _ = writeln!(self.out, "  -> group: {}", show_goal(goal));
            }
            let intent = self.core.intent();
            if intent != self.intent {
                if intent.part != self.intent.part {
                    let _ = writeln!(self.out, "  -> heartbeats: {}", show_part(&intent.part));
                }
                self.beats.set_intent(&group(), intent.clone());
                self.intent = intent;
                next = Some(self.facts());
            }
        }
        panic!("the core does not come to rest: {}", self.out);
    }

    fn show(&mut self, action: &Action) {
        let text = match action {
            Action::Persist(d) => {
                format!("remember: knows {}, served {}, released {}", d.known, d.served, d.released)
            }
            Action::Read(id) => {
                self.asked.0 = *id;
                "etcd: read".into()
            }
            Action::WriteFence(id) => {
                self.asked.1 = *id;
                "etcd: write the fence key".into()
            }
            Action::Txn(txn) => {
                self.asked.2 = txn.id;
                show_txn(txn)
            }
            Action::SetVolume(volume, d) => {
                let required: Vec<&str> = d.required.iter().map(|m| m.node.as_str()).collect();
                let force = if d.force { ", by force" } else { "" };
                format!("volume {volume}: {:?} in epoch {}, required {required:?}{force}", d.role, d.epoch)
            }
            Action::Event(severity, text) => format!("{severity:?}: {text}"),
        };
        let _ = writeln!(self.out, "  -> {text}");
    }
}

fn show_goal(goal: Goal) -> String {
    match goal {
        Goal::Hold => "leave as it is".into(),
        Goal::Run { epoch, .. } => format!("run in epoch {epoch}"),
        Goal::Fence => "fence".into(),
        Goal::Stop { force: true } => "stop at once".into(),
        Goal::Stop { force: false } => "stop in order".into(),
    }
}

fn show_part(part: &Part) -> String {
    match part {
        Part::Standby { acknowledge: true, long_promise } if !long_promise.is_zero() => {
            format!("acknowledge, promising up to {} s", long_promise.as_secs())
        }
        Part::Standby { acknowledge: true, .. } => "acknowledge".into(),
        Part::Standby { acknowledge: false, .. } => "acknowledge nobody".into(),
        Part::Leader { members, serve, busy, ask, .. } => {
            let names: Vec<&str> = members.iter().map(NodeName::as_str).collect();
            let busy = if *busy { ", busy" } else { "" };
            let ask = ask.map_or(String::new(), |d| format!(", asks for {} s", d.as_secs()));
            format!(
                "lead with E = {names:?}, {}{busy}{ask}",
                if *serve { "may serve" } else { "may not serve yet" }
            )
        }
    }
}

fn show_txn(txn: &Txn) -> String {
    let kind = format!("{:?}", txn.kind);
    let leader = match &txn.leader {
        LeaderWrite::Keep => String::new(),
        LeaderWrite::Delete => ", no leader".into(),
        LeaderWrite::Put(key, _) => format!(", leader {} in epoch {}", key.node, key.epoch),
    };
    let insync = txn.insync.as_ref().map_or(String::new(), |i| {
        let names: Vec<&str> = i.members.iter().map(|m| m.node.as_str()).collect();
        format!(", in sync {names:?}")
    });
    format!("etcd: {}{leader}{insync}", kind.split('(').next().unwrap_or_default())
}

/// Runs a script and returns it with the decisions as they are now.
fn replay(text: &str) -> String {
    let has = |word: &str| text.lines().find_map(|l| l.strip_prefix(word)).map(str::trim);
    let policy =
        if has("after_power_loss ") == Some("start") { AfterPowerLoss::Start } else { AfterPowerLoss::Wait };
    let mut script = Script::new(has("served "), policy);
    let mut shown = String::new();
    for line in text.lines().filter(|l| !l.trim_start().starts_with("->")) {
        let _ = writeln!(shown, "{line}");
        let plain = line.trim();
        let setting = plain.starts_with("served ") || plain.starts_with("after_power_loss ");
        if plain.is_empty() || plain.starts_with('#') || setting {
            continue;
        }
        if plain == "status" {
            let view = script.core.view_of();
            let advice = view.advice.map_or(String::new(), |a| format!(" | advice: {a}"));
            let _ = writeln!(shown, "  -> {}: {}{advice}", view.state.word(), view.reason);
            continue;
        }
        script.line(plain);
        shown.push_str(&std::mem::take(&mut script.out));
    }
    shown
}

#[test]
fn every_transcript_is_what_the_core_decides() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut files: BTreeMap<String, std::path::PathBuf> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("golden directory") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "txt") {
            files.insert(path.file_name().expect("name").to_string_lossy().into_owned(), path);
        }
    }
    assert!(files.len() >= 15, "the transcripts are there");
    let mut wrong = Vec::new();
    for (name, path) in files {
        let text = std::fs::read_to_string(&path).expect("readable");
        let now = replay(&text);
        if now != text && std::env::var_os("BATON_BLESS").is_some() {
            std::fs::write(&path, &now).expect("writable");
        } else if now != text {
            let first = now.lines().zip(text.lines()).find(|(a, b)| a != b);
            wrong.push(format!(
                "{name}: decided {:?}, the file says {:?}",
                first.map(|f| f.0),
                first.map(|f| f.1)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
