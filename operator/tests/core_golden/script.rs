//! One node with its heartbeats, and the words with which a script tells it what happens.

use super::facts::replica;
use super::scene::{DRAWN, ME, Scene, group, node};
use super::show;
use baton_operator::core::group::{
    Action, EtcdFacts, Event, Facts, FenceOutcome, GroupConfig, GroupCore, Told,
};
use baton_operator::core::promises::{HeartbeatCore, Intent};
use baton_operator::core::record::{Durable, Record, Txn};
use baton_operator::core::rules::Rules;
use baton_operator::core::runtime::{Goal, Phase, RunReport};
use baton_replicator::api::VolumeStatus;
use baton_replicator::types::{GroupName, Instant, NodeName};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// Time passes in these steps, nanoseconds.
pub const TICK: u64 = 50_000_000;

pub struct Script {
    pub cfg: GroupConfig,
    pub core: GroupCore,
    pub beats: HeartbeatCore,
    pub now: Instant,
    pub etcd: EtcdFacts,
    pub record: Record,
    pub replicas: Vec<VolumeStatus>,
    pub run: RunReport,
    /// A `given` scene: reads are answered, the replicator obeys, peers go on talking.
    pub given: bool,
    pub replicator: bool,
    pub keeps: BTreeMap<NodeName, Vec<String>>,
    pub out: String,
    pub sent: Option<Txn>,
    pub seq: u64,
    read: u64,
    unanswered: bool,
    fence: u64,
    fenced: u64,
    pub intent: Intent,
    goal: Goal,
    remembered: Durable,
    pub others: BTreeMap<GroupName, Told>,
}

impl Script {
    pub fn new(scene: &Scene) -> Self {
        let now = Instant(0);
        let timers = scene.cfg.timers;
        let promised = scene.durable.promise.as_ref().map_or(Instant::ZERO, |p| p.until);
        let peers = scene.cfg.nodes.clone();
        Self {
            cfg: scene.cfg.clone(),
            core: GroupCore::new(scene.cfg.clone(), scene.durable.clone(), Rules::default(), now),
            beats: HeartbeatCore::new(
                node(ME),
                1,
                timers,
                Rules::default(),
                peers,
                [(group(), promised)],
                now,
            ),
            now,
            etcd: EtcdFacts { reachable: true, lease: 7, lease_until: Instant(u64::MAX) },
            record: Record { cluster_id: 1, revision: 100, fence_rev: 5, ..Record::default() },
            replicas: scene.cfg.volumes.iter().cloned().map(replica).collect(),
            run: RunReport { phase: Phase::Stopped, free: true, prepared: true, ..RunReport::default() },
            given: false,
            replicator: true,
            keeps: BTreeMap::new(),
            out: String::new(),
            sent: None,
            seq: 0,
            read: 0,
            unanswered: false,
            fence: 0,
            fenced: 0,
            intent: Intent::silent(),
            goal: Goal::Hold,
            remembered: Durable::default(),
            others: BTreeMap::new(),
        }
    }

    /// One line of a script:
    ///
    /// * `at MS`: time passes in ticks of 50 ms
    /// * `etcd up|down`; `fence ok|failed`
    /// * `record leader=NODE:EPOCH[:handed]|none members=NODE:BOOT,… epoch=N [candidates=A,…] [target=NODE]
    ///   [mode.NODE=MODE] [etcd=N] [revision=N]`: what the next read finds; `read ok|failed` answers it; `changed` is
    ///   the watch
    /// * `txn committed|guard-failed|unknown`; `txn late` = etcd says nothing, but it was committed
    /// * `heard NODE [leads=N] [holds] [acks] [ready] [can=GROUP] [released=N] [boot=N] [knows=N] [ask=MS] [no-etcd]
    ///   [incarnation=N]`; acknowledgements that do not count: `acks-of-epoch=N`, `acks-of-life=N`
    /// * `replica [role=R] [epoch=N] [disk=D] [boot=N] [frozen] [peer=NODE:CONNECTION:BOOT[:resynced][:settled]]`
    /// * `fenced off|failed WHY|busy WHY`: what became of the switch that was asked for
    /// * `volume-set ok|refused`; `run PHASE [reason]`; `restarting`; `recover`
    /// * `status` shows state, reason and advice; `says` the next heartbeat
    pub fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().expect("not empty");
        match (*verb, rest) {
            ("status", []) => {
                let text = show::status(&self.core);
                self.tell(&text);
            }
            ("says", []) => {
                let said = self.beats.answer(self.now);
                let text = show::beat(&said.groups[0]);
                self.tell(&text);
            }
            ("at", [ms]) => {
                let end = self.until(ms);
                while self.now < end {
                    self.now = Instant((self.now.0 + TICK).min(end.0));
                    self.hear_the_usual();
                    self.tick();
                }
            }
            ("etcd", [state]) => {
                self.etcd.reachable = *state == "up";
                self.tick();
            }
            ("fence", [how]) => {
                self.record.revision += 1;
                if *how == "ok" {
                    self.record.fence_rev = self.record.revision;
                }
                self.feed(Event::Fence(self.fence, *how == "ok"));
            }
            ("record", fields) => self.set_record(fields),
            ("read", ["ok"]) => self.feed(Event::Record(self.read, Some(Box::new(self.record.clone())))),
            ("read", _) => self.feed(Event::Record(self.read, None)),
            ("changed", _) => self.feed(Event::Changed),
            ("txn", [how]) => self.settle(how),
            ("heard", [from, said @ ..]) => self.heard(from, said),
            ("replica", fields) => self.set_replica(fields),
            ("volume-set", [how]) => {
                let result = if *how == "ok" { Ok(()) } else { Err("refused".to_owned()) };
                let volume = self.cfg.volumes[0].clone();
                self.feed(Event::VolumeSet(volume, result));
            }
            ("run", [phase, reason @ ..]) => self.set_run(phase, &reason.join(" ")),
            ("fenced", [how, why @ ..]) => {
                let why = why.join(" ");
                let outcome = match *how {
                    "off" => FenceOutcome::Off,
                    "failed" => FenceOutcome::Failed(why),
                    "busy" => FenceOutcome::Busy(why),
                    other => panic!("unknown outcome {other}"),
                };
                self.feed(Event::NodeFenced(self.fenced, outcome));
            }
            ("restarting", _) => self.feed(Event::Restarting),
            ("recover", _) => self.feed(Event::Recover),
            _ => self.given_line(line, verb, rest),
        }
    }

    pub fn tell(&mut self, text: &str) {
        let _ = writeln!(self.out, "  -> {text}");
    }

    pub fn until(&self, ms: &str) -> Instant {
        let end = Instant(ms.parse::<u64>().expect("milliseconds") * 1_000_000);
        assert!(end > self.now, "time does not go back: {ms}");
        end
    }

    fn set_run(&mut self, phase: &str, reason: &str) {
        self.run.phase = match phase {
            "stopped" => Phase::Stopped,
            "starting" => Phase::Starting,
            "running" => Phase::Running,
            "stopping" => Phase::Stopping,
            "fenced" => Phase::Fenced,
            "failed" => Phase::Failed,
            other => panic!("unknown phase {other}"),
        };
        self.run.free = self.run.phase == Phase::Stopped;
        self.run.reason = reason.to_owned();
        self.feed(Event::Run(self.run.clone()));
    }

    fn facts(&self) -> Event {
        let beats = self.beats.facts(&group(), self.now);
        Event::Tick(Box::new(Facts { beats, peers: self.beats.peers().into(), etcd: self.etcd }))
    }

    pub fn tick(&mut self) {
        self.beats.vouch(self.now, self.etcd.reachable);
        self.beats.tick(self.now);
        self.feed(self.facts());
    }

    pub fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        let mut answered = false;
        for _ in 0..32 {
            // One answer at a time: what is asked for again at the same moment is answered at the next.
            if queue.is_empty() && !answered && std::mem::take(&mut self.unanswered) {
                let record = self.etcd.reachable.then(|| Box::new(self.record.clone()));
                queue.push_back(Event::Record(self.read, record));
                answered = true;
            }
            let Some(event) = queue.pop_front() else { return };
            for action in self.core.handle(event, self.now, DRAWN) {
                self.carry_out(&action, &mut queue);
            }
            let goal = self.core.goal();
            if goal != self.goal {
                self.goal = goal;
                self.tell(&format!("group: {}", show::goal(goal)));
            }
            let intent = self.core.intent();
            if intent != self.intent {
                if intent.part != self.intent.part {
                    let part = show::part(&intent.part);
                    if part != show::part(&self.intent.part) {
                        self.tell(&format!("heartbeats: {part}"));
                    }
                }
                self.beats.set_intent(&group(), intent.clone());
                self.intent = intent;
                queue.push_front(self.facts());
            }
        }
        panic!("the core does not come to rest: {}", self.out);
    }

    fn carry_out(&mut self, action: &Action, queue: &mut VecDeque<Event>) {
        match action {
            Action::Persist(d) => {
                let same = show::memory(&self.remembered) == show::memory(d);
                self.remembered = d.clone();
                // The rest is the highest revision seen: of no interest to a reader, except in the full stories.
                if same && self.given {
                    return;
                }
            }
            Action::Read(id) => {
                self.read = *id;
                if self.given {
                    self.unanswered = true;
                    return;
                }
            }
            Action::WriteFence(id) => self.fence = *id,
            Action::Txn(txn) => self.sent = Some(txn.clone()),
            Action::SetVolume(volume, desired) => self.obey(volume, desired, queue),
            Action::FenceNode { id, .. } => self.fenced = *id,
            Action::Event(..) => {}
        }
        self.tell(&show::action(action));
    }
}
