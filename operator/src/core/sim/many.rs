//! Many groups on a few nodes: who leads what, which groups go together and which keep apart. Cores, heartbeats and records
//! are the production ones; what a group consists of is a stand-in that starts and stops in a moment. There are no volumes:
//! what belongs to data is the business of the other simulation.

use super::Dice;
use super::etcd::{Answer, Etcd, Request};
use crate::core::beat::HeartbeatMsg;
use crate::core::group::{Action, EtcdFacts, Event, Facts, GroupConfig, GroupCore, Placing, State, Told};
use crate::core::promises::{HeartbeatCore, Intent, Verdict};
use crate::core::record::Durable;
use crate::core::rules::Rules;
use crate::core::runtime::{Goal, Phase, RunReport};
use crate::core::timing::Timers;
use baton_replicator::types::{Epoch, GroupName, Instant, NodeName};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// One step, milliseconds.
const STEP: u64 = 20;
/// What a start or a stop takes, milliseconds.
const TAKES: u64 = 200;
/// Interval of heartbeats, milliseconds.
const BEAT: u64 = 100;

/// One group on one node.
struct Seat {
    core: GroupCore,
    intent: Intent,
    run: RunReport,
    due: u64,
    lease: i64,
    queue: VecDeque<Event>,
    others: BTreeMap<GroupName, Told>,
}

struct Node {
    name: NodeName,
    /// Its agent, while it runs.
    agent: Option<(HeartbeatCore, BTreeMap<GroupName, Seat>)>,
    inbox: Vec<(usize, HeartbeatMsg)>,
    lives: u64,
}

struct Many {
    now: u64,
    dice: Dice,
    timers: Timers,
    nodes: Vec<Node>,
    groups: BTreeMap<GroupName, (Vec<usize>, Placing)>,
    etcd: BTreeMap<GroupName, Etcd>,
    /// The largest heartbeat so far, bytes.
    largest: usize,
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("name")
}

impl Many {
    /// `groups` with the nodes they prefer, and how they stand to others.
    fn new(nodes: usize, groups: Vec<(String, Vec<usize>, Placing)>, seed: u64) -> Self {
        let name = |i| NodeName::new(format!("n{i}")).expect("name");
        let node = |i| Node { name: name(i), agent: None, inbox: Vec::new(), lives: 0 };
        let groups: BTreeMap<_, _> =
            groups.into_iter().map(|(g, prefer, p)| (group(&g), (prefer, p))).collect();
        let mut world = Self {
            now: 1000,
            dice: Dice::new(seed),
            timers: Timers::default().check().expect("defaults"),
            nodes: (0..nodes).map(node).collect(),
            etcd: groups.keys().map(|g| (g.clone(), Etcd::new())).collect(),
            groups,
            largest: 0,
        };
        (0..nodes).for_each(|i| world.start(i));
        world
    }

    fn at(&self) -> Instant {
        Instant(self.now * 1_000_000)
    }

    fn start(&mut self, i: usize) {
        if self.nodes[i].agent.is_some() {
            return;
        }
        let (now, timers) = (self.at(), self.timers);
        let names: Vec<NodeName> = self.nodes.iter().map(|n| n.name.clone()).collect();
        let seat = |(name, (prefer, placing)): (&GroupName, &(Vec<usize>, Placing))| {
            let cfg = GroupConfig {
                group: name.clone(),
                me: names[i].clone(),
                nodes: names.clone(),
                prefer: prefer.iter().map(|p| names[*p].clone()).collect(),
                volumes: Vec::new(),
                placing: placing.clone(),
                failure_timeout: Duration::from_secs(600),
                stop_timeout: Duration::from_secs(10),
                hot: false,
                gateway_hold: Duration::from_secs(10),
                fencing: Default::default(),
                after_power_loss: Default::default(),
                timers,
                retire: None,
            };
            let run = RunReport { phase: Phase::Stopped, free: true, prepared: true, ..RunReport::default() };
            let seat = Seat {
                core: GroupCore::new(cfg, Durable::default(), Rules::default(), now),
                intent: Intent::silent(),
                run: run.clone(),
                due: 0,
                lease: 0,
                queue: VecDeque::from([Event::Replicas(Some(Vec::new())), Event::Run(run)]),
                others: BTreeMap::new(),
            };
            (name.clone(), seat)
        };
        let seats: BTreeMap<GroupName, Seat> = self.groups.iter().map(seat).collect();
        let promised = self.groups.keys().map(|g| (g.clone(), Instant::ZERO));
        let life = self.dice.roll();
        let beats = HeartbeatCore::new(
            names[i].clone(),
            life,
            timers,
            Rules::default(),
            names.clone(),
            promised,
            now,
        );
        let node = &mut self.nodes[i];
        node.lives += 1;
        node.inbox.clear();
        node.agent = Some((beats, seats));
    }

    fn power_cut(&mut self, i: usize) {
        self.nodes[i].agent = None;
    }

    fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.step();
        }
    }

    fn until(&mut self, ms: u64, what: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while self.now < end && !what(self) {
            self.step();
        }
        what(self)
    }

    fn step(&mut self) {
        self.now += STEP;
        let now = self.at();
        let mut changed: Vec<GroupName> = Vec::new();
        for (name, etcd) in &mut self.etcd {
            if etcd.expire(self.now) {
                changed.push(name.clone());
            }
        }
        let mut mail: Vec<(usize, usize, HeartbeatMsg)> = Vec::new();
        for i in 0..self.nodes.len() {
            let Some((mut beats, mut seats)) = self.nodes[i].agent.take() else { continue };
            for (from, msg) in std::mem::take(&mut self.nodes[i].inbox) {
                if beats.on_datagram(&self.nodes[from].name, msg, now) == Verdict::Answer {
                    mail.push((i, from, beats.answer(now)));
                }
            }
            beats.vouch(now, true);
            if self.now.is_multiple_of(BEAT) {
                for (to, msg) in beats.tick(now) {
                    let to = self.nodes.iter().position(|n| n.name == to).expect("known");
                    self.largest = self.largest.max(postcard::to_stdvec(&msg).map_or(0, |b| b.len()));
                    mail.push((i, to, msg));
                }
            }
            let told: BTreeMap<GroupName, Told> =
                seats.iter().map(|(g, s)| (g.clone(), s.core.told())).collect();
            let peers = Arc::new(beats.peers());
            for (name, seat) in &mut seats {
                let etcd = self.etcd.get_mut(name).expect("known");
                if self.now.is_multiple_of(1000) || seat.lease == 0 {
                    seat.lease = etcd.keep_alive(&self.nodes[i].name, seat.lease, self.now, 5000);
                }
                let placing = &self.groups[name].1;
                let concerns = |g: &GroupName, t: &Told| {
                    placing.with.as_ref() == Some(g)
                        || placing.apart_from.contains(g)
                        || t.with.as_ref() == Some(name)
                };
                let others: BTreeMap<GroupName, Told> = told
                    .iter()
                    .filter(|(g, t)| concerns(g, t))
                    .map(|(g, t)| (g.clone(), t.clone()))
                    .collect();
                if others != seat.others {
                    seat.others.clone_from(&others);
                    seat.queue.push_back(Event::Others(others));
                }
                let facts = EtcdFacts {
                    reachable: true,
                    lease: seat.lease,
                    lease_until: now.plus(Duration::from_secs(4)),
                };
                let tick = |beats: &HeartbeatCore| {
                    let beats = beats.facts(name, now);
                    Event::Tick(Box::new(Facts { beats, peers: Arc::clone(&peers), etcd: facts }))
                };
                if seat.serve(self.now) {
                    seat.queue.push_back(Event::Run(seat.run.clone()));
                }
                let mut events: VecDeque<Event> = std::mem::take(&mut seat.queue);
                events.push_back(tick(&beats));
                for _ in 0..64 {
                    let Some(event) = events.pop_front() else { break };
                    for action in seat.core.handle(event, now, self.dice.roll()) {
                        let request = match action {
                            Action::Read(id) => Request::Read(id),
                            Action::WriteFence(id) => Request::Fence(id),
                            Action::Txn(txn) => Request::Txn(Box::new(txn)),
                            Action::Persist(_)
                            | Action::SetVolume(..)
                            | Action::FenceNode { .. }
                            | Action::Event(..) => continue,
                        };
                        if matches!(request, Request::Txn(_)) {
                            changed.push(name.clone());
                        }
                        // The answer comes a step later.
                        seat.queue.push_back(match etcd.apply(&self.nodes[i].name, &request, self.now) {
                            Answer::Read(id, record) => Event::Record(id, record),
                            Answer::Fence(id, written) => Event::Fence(id, written),
                            Answer::Txn(id, outcome) => Event::Txn(id, outcome),
                        });
                    }
                    let intent = seat.core.intent();
                    if intent != seat.intent {
                        beats.set_intent(name, intent.clone());
                        seat.intent = intent;
                        events.push_back(tick(&beats));
                    }
                }
            }
            self.nodes[i].agent = Some((beats, seats));
        }
        for (from, to, msg) in mail {
            self.nodes[to].inbox.push((from, msg));
        }
        for name in changed {
            self.wake(&name);
        }
        self.check();
    }

    fn wake(&mut self, name: &GroupName) {
        for (_, seats) in self.nodes.iter_mut().filter_map(|n| n.agent.as_mut()) {
            seats.get_mut(name).expect("known").queue.push_back(Event::Changed);
        }
    }

    fn order_move(&mut self, name: &str, to: usize) {
        let target = self.nodes[to].name.clone();
        let etcd = self.etcd.get_mut(&group(name)).expect("known");
        (etcd.target, etcd.revision) = (Some(target), etcd.revision + 1);
        self.wake(&group(name));
    }

    fn state(&self, i: usize, name: &GroupName) -> Option<State> {
        self.nodes[i].agent.as_ref().map(|(_, seats)| seats[name].core.state())
    }

    /// The nodes that serve a group: never two.
    fn serving(&self, name: &GroupName) -> Option<usize> {
        (0..self.nodes.len()).find(|i| self.state(*i, name) == Some(State::Serving))
    }

    fn on(&self, name: &str) -> Option<usize> {
        self.serving(&group(name))
    }

    fn all_serve(&self) -> bool {
        self.groups.keys().all(|g| self.serving(g).is_some())
    }

    fn epochs(&self) -> BTreeMap<GroupName, Epoch> {
        let epoch = |e: &Etcd| e.insync.as_ref().map(|i| i.value.epoch).unwrap_or_default();
        self.etcd.iter().map(|(g, e)| (g.clone(), epoch(e))).collect()
    }

    fn check(&self) {
        for (name, (_, placing)) in &self.groups {
            let entitled = |i: &usize| {
                let serves = self.state(*i, name) == Some(State::Serving);
                let until = |(beats, _): &(HeartbeatCore, _)| beats.serve_until(name, self.at());
                let until = self.nodes[*i].agent.as_ref().and_then(until);
                serves && until.is_some_and(|(_, until)| until > self.at())
            };
            let all: Vec<usize> = (0..self.nodes.len()).filter(entitled).collect();
            assert!(all.len() <= 1, "{} ms: {name} is served by {all:?}\n{}", self.now, self.story());
            let Some(i) = all.first() else { continue };
            if let Some(lead) = &placing.with {
                let together = self.state(*i, lead).is_some_and(State::leads);
                let moved = self.serving(lead).is_some();
                assert!(together || !moved, "{} ms: {name} without {lead}\n{}", self.now, self.story());
            }
        }
    }

    fn story(&self) -> String {
        let mut out = format!("at {} ms\n", self.now);
        for name in self.groups.keys() {
            for (i, node) in self.nodes.iter().enumerate() {
                let Some((_, seats)) = &node.agent else { continue };
                let view = seats[name].core.view_of();
                out += &format!("{name} n{i}: {:?}: {}\n", view.state, view.reason);
            }
        }
        out
    }
}

impl Seat {
    /// Does what the core wants; true if there is something to report.
    fn serve(&mut self, now: u64) -> bool {
        let (goal, phase) = (self.core.goal(), self.run.phase);
        let next = match (goal, phase) {
            (Goal::Run { .. }, Phase::Running) | (Goal::Hold, _) => phase,
            (Goal::Run { .. }, Phase::Starting) if now >= self.due => Phase::Running,
            (Goal::Run { .. }, Phase::Starting) => phase,
            (Goal::Run { .. }, _) => Phase::Starting,
            (Goal::Fence, Phase::Running | Phase::Starting) => Phase::Fenced,
            (Goal::Fence, _) => phase,
            (Goal::Stop { .. } | Goal::Standby, Phase::Stopped) => phase,
            (Goal::Stop { .. } | Goal::Standby, Phase::Stopping) if now >= self.due => Phase::Stopped,
            (Goal::Stop { .. } | Goal::Standby, Phase::Stopping) => phase,
            (Goal::Stop { .. } | Goal::Standby, _) => Phase::Stopping,
        };
        if next == phase {
            return false;
        }
        self.due = now + TAKES;
        (self.run.phase, self.run.free) = (next, next == Phase::Stopped);
        true
    }
}

fn with(lead: &str) -> Placing {
    Placing { with: Some(group(lead)), ..Placing::default() }
}

fn apart(others: &[&str]) -> Placing {
    Placing { apart_from: others.iter().map(|g| group(g)).collect(), ..Placing::default() }
}

fn hundred() -> Many {
    let one = |i: usize| (format!("g{i:02}"), vec![i % 3], Placing::default());
    Many::new(3, (0..100).map(one).collect(), 1)
}

#[test]
fn a_hundred_groups_start_where_they_prefer_and_a_dead_node_costs_only_its_own() {
    let mut w = hundred();
    assert!(w.until(15_000, Many::all_serve), "{}", w.story());
    let prefer = |w: &Many, g: &GroupName| w.groups[g].0.first().copied();
    assert!(w.groups.keys().all(|g| w.serving(g) == prefer(&w, g)), "{}", w.story());
    assert!(w.largest <= crate::heartbeat::wire::MAX_DATAGRAM, "a heartbeat of {} bytes", w.largest);
    w.run(3000);
    let before = w.epochs();
    w.power_cut(0);
    w.run(2000);
    assert!(w.until(6000, Many::all_serve), "{}", w.story());
    let moved = w.epochs();
    for (g, (prefer, _)) in &w.groups {
        assert_eq!(moved[g] != before[g], prefer[0] == 0, "{g}: {:?} {:?}", before[g], moved[g]);
    }
}

/// DESIGN §4: a joining node never triggers an election.
#[test]
fn a_joining_node_takes_no_group_and_interrupts_none_of_a_hundred() {
    let mut w = hundred();
    w.power_cut(2);
    assert!(w.until(30_000, Many::all_serve), "{}", w.story());
    w.run(3000);
    let before = w.epochs();
    w.start(2);
    for _ in 0..1000 {
        w.step();
        assert!(w.all_serve(), "{}", w.story());
    }
    assert_eq!(w.epochs(), before, "nobody was elected");
    let led = |g: &GroupName| w.state(2, g).is_some_and(State::leads);
    assert!(!w.groups.keys().any(led));
}

fn shop() -> Many {
    let groups = vec![
        ("db".to_owned(), vec![0], Placing::default()),
        ("web".to_owned(), vec![], with("db")),
        ("proxy".to_owned(), vec![], with("web")),
        ("reports".to_owned(), vec![1], apart(&["db"])),
    ];
    Many::new(3, groups, 7)
}

#[test]
fn what_goes_together_moves_and_is_taken_over_together() {
    let mut w = shop();
    assert!(w.until(20_000, Many::all_serve), "{}", w.story());
    assert_eq!(
        (w.on("db"), w.on("web"), w.on("proxy"), w.on("reports")),
        (Some(0), Some(0), Some(0), Some(1))
    );
    w.run(3000);
    w.order_move("db", 2);
    let there = |i| move |w: &Many| ["db", "web", "proxy"].iter().all(|g| w.on(g) == Some(i));
    assert!(w.until(10_000, there(2)), "{}", w.story());
    w.run(5000);
    w.power_cut(2);
    // The other node with room: reports is on n1.
    assert!(w.until(15_000, there(0)), "{}", w.story());
    assert_eq!(w.on("reports"), Some(1));
}

#[test]
fn what_keeps_apart_runs_together_on_the_last_node_and_parts_when_another_one_is_back() {
    let mut w = shop();
    assert!(w.until(20_000, Many::all_serve), "{}", w.story());
    w.run(3000);
    w.power_cut(1);
    assert!(w.until(15_000, |w| w.on("reports") == Some(2)), "{}", w.story());
    w.run(5000);
    w.power_cut(2);
    assert!(w.until(15_000, |w| w.on("reports") == Some(0)), "{}", w.story());
    w.run(2000);
    let said = |w: &Many| {
        let (_, seats) = w.nodes[0].agent.as_ref().expect("lives");
        seats[&group("reports")].core.view_of().reason
    };
    assert!(said(&w).contains("beside db"), "{}", said(&w));
    w.start(2);
    assert!(w.until(30_000, |w| w.on("reports") == Some(2) && w.on("db") == Some(0)), "{}", w.story());
    let before = w.epochs();
    w.run(60_000);
    assert_eq!(w.epochs(), before, "nothing goes back and forth");
}

/// Both keep away from each other: one moves, not both.
#[test]
fn two_that_keep_away_from_each_other_do_not_chase_each_other() {
    let groups = vec![("a".to_owned(), vec![0], apart(&["b"])), ("b".to_owned(), vec![0], apart(&["a"]))];
    let mut w = Many::new(2, groups, 3);
    assert!(w.until(90_000, |w| w.all_serve() && w.on("a") != w.on("b")), "{}", w.story());
    w.run(2000);
    let before = w.epochs();
    w.run(60_000);
    assert_eq!(w.epochs(), before, "{}", w.story());
}

/// Four that all keep away from each other, on two nodes: two and two, and no further move.
#[test]
fn four_that_keep_away_from_each_other_on_two_nodes_come_to_rest() {
    let one = |g: &&str| {
        let others: Vec<&str> = ["a", "b", "c", "d"].into_iter().filter(|o| o != g).collect();
        ((*g).to_owned(), vec![0], apart(&others))
    };
    let mut w = Many::new(2, ["a", "b", "c", "d"].iter().map(one).collect(), 5);
    w.run(20_000);
    w.power_cut(1);
    w.run(20_000);
    w.start(1);
    w.run(120_000);
    assert!(w.all_serve(), "{}", w.story());
    let there = ["a", "b", "c", "d"].iter().filter(|g| w.on(g) == Some(1)).count();
    assert_eq!(there, 2, "{}", w.story());
    let before = w.epochs();
    w.run(60_000);
    assert_eq!(w.epochs(), before, "{}", w.story());
}

/// Hosts come and go under groups with every relation; once all are there, everything serves, what goes together is together,
/// and nothing moves any more.
#[test]
fn relations_survive_hosts_that_come_and_go_and_end_in_rest() {
    // Unoptimised code gets a taste of it.
    for seed in 1..=if cfg!(debug_assertions) { 2 } else { 12 } {
        let mut groups = Vec::new();
        for i in 0..4 {
            let failback = (i % 2 == 0).then_some(Duration::from_secs(10));
            groups.push((format!("db{i}"), vec![i % 3], Placing { failback, ..Placing::default() }));
            groups.push((format!("web{i}"), vec![], with(&format!("db{i}"))));
            groups.push((
                format!("rep{i}"),
                vec![0],
                apart(&[&format!("db{i}"), &format!("rep{}", (i + 1) % 4)]),
            ));
        }
        let mut w = Many::new(3, groups, seed);
        w.run(20_000);
        for _ in 0..8 {
            let i = w.dice.below(3) as usize;
            match w.dice.below(3) {
                0 if w.nodes.iter().filter(|n| n.agent.is_some()).count() > 1 => w.power_cut(i),
                1 => w.start(i),
                _ => {
                    let g = format!("db{}", w.dice.below(4));
                    w.order_move(&g, i);
                }
            }
            let pause = 500 + w.dice.below(6000);
            w.run(pause);
        }
        (0..3).for_each(|i| w.start(i));
        w.run(180_000);
        assert!(w.all_serve(), "seed {seed}: {}", w.story());
        let before = w.epochs();
        w.run(60_000);
        assert_eq!(w.epochs(), before, "seed {seed}: {}", w.story());
        for i in 0..4 {
            assert_eq!(w.on(&format!("web{i}")), w.on(&format!("db{i}")), "seed {seed}: {}", w.story());
        }
    }
}
