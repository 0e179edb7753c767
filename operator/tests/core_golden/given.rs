//! Scenes that a script can begin with, and the words that make sense only there. How a node gets into such a scene is
//! told once, in `restart_in_place.txt` and `takeover_fast.txt`; here it is not shown again.

use super::facts::{connection, disk, lease_of, mode, peer_status, usual_boot};
use super::scene::{ME, epoch, group, node, volume};
use super::script::Script;
use super::show;
use baton_operator::core::group::{Event, Leaving, Retire, Told};
use baton_operator::core::record::{GroupWish, StoredNote};
use baton_replicator::api::{Desired, Membership, VolumeStatus};
use baton_replicator::types::{DiskState, Generation, GroupName, Instant, Role, VolumeName};
use std::collections::VecDeque;
use std::fmt::Write as _;

fn group_named(name: &str) -> GroupName {
    GroupName::new(name).expect("a group name")
}

fn other(words: &[&str]) -> Told {
    let mut told = Told { idle: true, ..Told::default() };
    for word in words {
        match word.split_once('=') {
            Some(("leader", "none")) => {}
            Some(("leader", name)) => {
                told.here = name == ME;
                told.leader = Some(node(name));
            }
            Some(("leaving", "stop")) => told.leaving = Some(Leaving::Stop),
            Some(("leaving", name)) => told.leaving = Some(Leaving::To(node(name))),
            Some(("holders", name)) => told.holders = vec![node(name)],
            None if *word == "disabled" => told.disabled = true,
            None if *word == "serves" => (told.serves, told.idle) = (true, false),
            None if *word == "running" => told.idle = false,
            None if *word == "with" => told.with = Some(group()),
            None if *word == "apart" => told.apart_from = vec![group()],
            None if *word == "trouble" => told.trouble = Some("its start failed".into()),
            _ => panic!("unknown word {word}"),
        }
    }
    told
}

impl Script {
    /// The words of a `given` scene:
    ///
    /// * `given serving N`: beta leads epoch N and serves, every other node is in sync, promises and is ready; 2 s
    /// * `given alone N`: the same, but beta alone is in sync and nobody else is heard
    /// * `given standby N`: alpha leads epoch N and serves, everyone is in sync, this node stands by; 2 s
    /// * `given new`: nothing was ever started, everyone is there, this node stands by; 2 s
    ///
    /// From then on reads are answered from the record, a watch tells of its changes, committed transactions change it, the
    /// replicator does what it is told, and peers go on saying what they said:
    ///
    /// * `keeps NODE …` what it says every 100 ms from now on (words of `heard`); `silent NODE` ends that
    /// * `target NODE|none`, `mode NODE MODE`, `wish pinned|disabled|none`, `key gone`, `alive NODE gone`: somebody changes
    ///   that in etcd
    /// * `other GROUP leader=NODE|none [serves] [running] [leaving=NODE|stop] [with] [apart] [trouble] [disabled] [holders=NODE]`: what
    ///   the core of another group on this node says; `with`: it goes with this one, `apart`: it keeps apart from it
    /// * `link NODE CONNECTION [resynced] [settled] [boot=N] [volume=V]`: what the volumes say of a peer
    /// * `disk STATE [volume=V]`, `frozen`, `thawed`, `held`: what they say of themselves
    /// * `replicator silent|refuses|obeys`; `containers missing|prepared`
    /// * `wants-move TEXT`, `unusable TEXT`, `usable`: what the runtime says of a group that runs
    /// * `engine-silent TEXT`: the same, and it can stop nothing; `unready TEXT|no`: what it says of a standby
    /// * `gateways [NODE=N] …`: how many each node reaches; one that is not named does not say
    /// * `lease none|N`, `lease-until MS`: this node's lease in etcd
    /// * `asleep MS`: until then nothing happens here, the clock goes on; `hangs MS`: only the heartbeat thread runs
    /// * `spec nodes=…`, `spec prefer=…`, `spec auto_failback=on`, `spec without-group`, `spec without-node`,
    ///   `spec again`: another specification
    /// * `serves-until`: until when it may serve, as the replicator and the kernel are told; `ready`: what it says of itself
    pub fn given_line(&mut self, line: &str, verb: &str, rest: &[&str]) {
        match (verb, rest) {
            ("given", [scene, number @ ..]) => self.scene(scene, number.first().copied().unwrap_or("0")),
            ("keeps", [from, said @ ..]) => {
                self.keeps.insert(node(from), said.iter().map(|s| (*s).to_owned()).collect());
            }
            ("silent", [from]) => {
                self.keeps.remove(&node(from));
            }
            ("target", [name]) => {
                self.record.target = (*name != "none").then(|| node(name));
                self.bump();
            }
            ("mode", [name, word]) => {
                self.record.nodes.entry(node(name)).or_default().mode = mode(word);
                self.bump();
            }
            ("wish", [what]) => {
                let note =
                    || Some(StoredNote { owner: "ada".into(), reason: String::new(), since: 1, until: None });
                self.record.wish = match *what {
                    "pinned" => GroupWish { pinned: note(), disabled: None },
                    "disabled" => GroupWish { pinned: None, disabled: note() },
                    _ => GroupWish::default(),
                };
                self.bump();
            }
            ("other", [name, words @ ..]) => {
                let told = other(words);
                self.beats.add_group(group_named(name), Instant::ZERO, self.now);
                self.others.insert(group_named(name), told);
                self.feed(Event::Others(self.others.clone()));
            }
            ("key", ["gone"]) => {
                self.record.leader = None;
                self.bump();
            }
            ("alive", [name, "gone"]) => {
                self.record.nodes.entry(node(name)).or_default().lease = None;
                self.bump();
            }
            ("link", [name, word, fields @ ..]) => self.link(name, word, fields),
            ("disk", [state, which @ ..]) => {
                let state = disk(state);
                self.each_volume(which, |v| {
                    v.disk = state;
                    v.disk_reason =
                        (state == DiskState::Diskless).then(|| "the disk failed: an I/O error".into());
                    v.membership = v.disk_reason.as_ref().map(|_| Membership::Member);
                });
            }
            ("frozen", []) => {
                let now = self.now;
                self.each_volume(&[], |v| {
                    v.frozen = Some("a peer does not answer".into());
                    v.frozen_since = Some(now);
                });
            }
            ("thawed", []) => self.each_volume(&[], |v| (v.frozen, v.frozen_since) = (None, None)),
            ("held", []) => self.each_volume(&[], |v| (v.role, v.held) = (Role::Secondary, true)),
            ("replicator", ["silent"]) => self.feed(Event::Replicas(None)),
            ("replicator", [how]) => {
                self.replicator = *how == "obeys";
                self.feed(Event::Replicas(Some(self.replicas.clone())));
            }
            ("containers", [how]) => {
                self.run.prepared = *how == "prepared";
                self.feed(Event::Run(self.run.clone()));
            }
            ("wants-move", why) => {
                self.run.wants_move = Some(why.join(" "));
                self.feed(Event::Run(self.run.clone()));
            }
            ("engine-silent", why) => {
                self.run.stuck = Some(why.join(" "));
                self.feed(Event::Run(self.run.clone()));
            }
            ("unready", why) => {
                self.run.unready = (*why != ["no"]).then(|| why.join(" "));
                self.feed(Event::Run(self.run.clone()));
            }
            ("gateways", counts) => {
                let count =
                    |c: &&str| c.split_once('=').map(|(n, c)| (node(n), c.parse().expect("a number")));
                let mut all: std::collections::BTreeMap<_, u8> = counts.iter().filter_map(count).collect();
                let own = all.remove(&node(ME));
                self.feed(Event::Gateways(own, all));
            }
            ("unusable", why) => {
                self.run.unusable = Some(why.join(" "));
                self.feed(Event::Run(self.run.clone()));
            }
            ("usable", []) => {
                (self.run.unusable, self.run.wants_move, self.run.stuck) = (None, None, None);
                self.feed(Event::Run(self.run.clone()));
            }
            ("lease", [id]) => {
                self.etcd.lease = id.parse().unwrap_or(0);
                self.tick();
            }
            ("lease-until", [ms]) => {
                self.etcd.lease_until = self.until(ms);
                self.tick();
            }
            ("asleep", [ms]) => {
                // What others said meanwhile is heard a moment later, and answers nothing that was sent just now.
                self.now = self.until(ms);
                self.tick();
            }
            ("hangs", [ms]) => {
                let end = self.until(ms);
                while self.now < end {
                    self.now = Instant((self.now.0 + 50_000_000).min(end.0));
                    self.hear_the_usual();
                    self.beats.tick(self.now);
                }
            }
            ("spec", [change]) => self.spec(change),
            ("serves-until", []) => {
                let until = self.beats.serve_until(&group(), self.now);
                let text = until.map_or("serves until: not at all".into(), |(epoch, until)| {
                    format!("serves until: {} ms in epoch {epoch}", until.0 / 1_000_000)
                });
                self.tell(&text);
            }
            ("ready", []) => {
                let text = match self.core.view_of().ready {
                    Ok(()) => "ready".into(),
                    Err(why) => format!("not ready: {why}"),
                };
                self.tell(&text);
            }
            _ => panic!("cannot read '{line}'"),
        }
    }

    fn bump(&mut self) {
        self.record.revision += 1;
        self.rewritten();
    }

    fn scene(&mut self, scene: &str, number: &str) {
        let others: Vec<String> =
            self.cfg.nodes.iter().map(ToString::to_string).filter(|n| n != ME).collect();
        let all = self.cfg.nodes.iter().map(|n| format!("{n}:{:x}", usual_boot(n.as_str())));
        let members = if scene == "alone" { "beta:b".into() } else { all.collect::<Vec<_>>().join(",") };
        let leader = if scene == "standby" { "alpha" } else { ME };
        if scene != "new" {
            self.line(&format!("record leader={leader}:{number} members={members} epoch={number}"));
            let boot = self.group_boot("b");
            for v in &mut self.replicas {
                (v.epoch, v.generation, v.disk) = (epoch(number), Generation(1), DiskState::UpToDate);
            }
            assert!(!self.replicas.is_empty() || boot.0 == 1, "no volume, no boot id");
        } else {
            self.replicas.iter_mut().for_each(|v| v.disk = DiskState::Inconsistent);
        }
        let leads = matches!(scene, "serving" | "alone");
        for name in others.iter().filter(|_| scene != "alone") {
            let said = match (scene, name == leader) {
                ("serving", _) => "acks ready".into(),
                (_, true) => format!("leads={number} holds"),
                (_, false) => String::new(),
            };
            self.given_line(
                "",
                "keeps",
                &[&[name.as_str()], &said.split_whitespace().collect::<Vec<_>>()[..]].concat(),
            );
        }
        for name in &others {
            let state = if scene == "alone" { "connecting" } else { "connected" };
            self.link(name, state, &["resynced", "settled"]);
        }
        self.given = true;
        self.tick();
        self.line("fence ok");
        if leads {
            self.hear_the_usual();
            self.line("at 100");
            self.line("run running");
        } else {
            self.line("run stopped");
        }
        self.line("at 2000");
        self.out.clear();
        let text = show::status(&self.core);
        let _ = writeln!(self.out, "  -> {text}");
    }

    fn link(&mut self, name: &str, state: &str, fields: &[&str]) {
        let (mut boot, mut only) = (usual_boot(name), None);
        for field in fields {
            match field.split_once('=') {
                Some(("boot", b)) => boot = u64::from_str_radix(b, 16).expect("hexadecimal"),
                Some(("volume", v)) => only = Some(volume(v)),
                _ => assert!(["resynced", "settled"].contains(field), "unknown field {field}"),
            }
        }
        let mut status = peer_status(name, connection(state), boot);
        status.settled = fields.contains(&"settled");
        status.resynced = status.settled || fields.contains(&"resynced");
        for v in self.replicas.iter_mut().filter(|v| only.as_ref().is_none_or(|o| v.volume == *o)) {
            v.peers.retain(|p| p.node != status.node);
            v.peers.push(status.clone());
        }
        self.feed(Event::Replicas(Some(self.replicas.clone())));
    }

    fn each_volume(&mut self, which: &[&str], change: impl Fn(&mut VolumeStatus)) {
        let only = which.iter().find_map(|w| w.strip_prefix("volume=")).map(volume);
        self.replicas.iter_mut().filter(|v| only.as_ref().is_none_or(|o| v.volume == *o)).for_each(change);
        self.feed(Event::Replicas(Some(self.replicas.clone())));
    }

    /// The replicator does what it is told.
    pub fn obey(&mut self, volume: &VolumeName, desired: &Desired, queue: &mut VecDeque<Event>) {
        if !self.given {
            return;
        }
        let result = if self.replicator { Ok(()) } else { Err("refused".into()) };
        if let Some(v) = self.replicas.iter_mut().find(|v| v.volume == *volume && self.replicator) {
            (v.role, v.held) = (desired.role, false);
            v.required.clone_from(&desired.required);
            if desired.role == Role::Primary {
                v.epoch = desired.epoch;
                match v.disk {
                    DiskState::Diskless => v.membership = Some(desired.membership),
                    _ => v.disk = DiskState::UpToDate,
                }
            }
        }
        queue.push_back(Event::Replicas(Some(self.replicas.clone())));
        queue.push_back(Event::VolumeSet(volume.clone(), result));
    }

    fn spec(&mut self, change: &str) {
        self.cfg.retire = None;
        match change.split_once('=') {
            Some(("nodes", list)) => self.cfg.nodes = super::scene::nodes(list),
            Some(("prefer", list)) => self.cfg.prefer = super::scene::nodes(list),
            Some(("auto_failback", word)) => {
                self.cfg.placing.failback = (word == "on").then_some(std::time::Duration::from_secs(10));
            }
            None if change == "without-group" => self.cfg.retire = Some(Retire::Group),
            None if change == "without-node" => {
                self.cfg.nodes.retain(|n| n.as_str() != ME);
                self.cfg.retire = Some(Retire::Node);
            }
            None if change == "again" => {}
            _ => panic!("unknown change {change}"),
        }
        for name in self.cfg.nodes.clone() {
            let keys = self.record.nodes.entry(name.clone()).or_default();
            keys.lease = keys.lease.or(Some(lease_of(&name)));
        }
        self.core_counts();
        self.feed(Event::Configured(Box::new(self.cfg.clone())));
    }

    /// Who is gone from the specification is listened to for as long as the record names it.
    fn core_counts(&mut self) {
        let mut peers = self.cfg.nodes.clone();
        peers.extend(self.core.counts_on());
        self.beats.reconfigure(self.cfg.timers, peers, self.now);
    }
}
