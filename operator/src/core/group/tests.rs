//! The table of states and the answer of every state to every event.

use super::volumes::fold_boots;
use super::*;
use crate::core::record::{InSync, LeaderKey, NodeKeys, Outcome, TxnKind, Versioned};
use crate::core::timing::Timers;
use baton_replicator::api::PeerStatus;
use baton_replicator::types::{ConnectionState, DiskState, Generation, GroupName, Role, TermId};
use std::sync::Arc;
use std::time::Duration;

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

const EPOCH: Epoch = Epoch { number: 3, term: TermId(3) };
const LAST: Epoch = Epoch { number: u64::MAX, term: TermId(9) };

fn config() -> GroupConfig {
    GroupConfig {
        group: GroupName::new("web").expect("name"),
        me: node("b"),
        nodes: vec![node("a"), node("b")],
        prefer: vec![],
        volumes: vec![VolumeName::new("store").expect("name")],
        placing: Default::default(),
        failure_timeout: Duration::from_secs(600),
        stop_timeout: Duration::from_secs(60),
        hot: false,
        gateway_hold: Duration::from_secs(10),
        fencing: Fencing::default(),
        after_power_loss: AfterPowerLoss::Wait,
        timers: Timers::default(),
        retire: None,
    }
}

fn member(name: &str, boot: u64) -> Member {
    Member { node: node(name), boot: BootId(boot) }
}

fn record(leader: Option<&str>, epoch: Epoch) -> Record {
    let key = |name: &str| Versioned {
        value: LeaderKey { node: node(name), epoch, handed: false },
        revision: 10,
        lease: 7,
    };
    let value = InSync {
        epoch,
        members: vec![member("a", 1), member("b", 2)],
        candidates: vec![node("a"), node("b")],
        fresh: false,
    };
    let keys = NodeKeys { lease: Some(7), ..NodeKeys::default() };
    Record {
        cluster_id: 1,
        revision: 20,
        leader: leader.map(key),
        insync: Some(Versioned { value, revision: 10, lease: 0 }),
        fence_rev: 5,
        target: None,
        wish: Default::default(),
        nodes: BTreeMap::from([(node("a"), keys.clone()), (node("b"), keys)]),
    }
}

fn replica(role: Role) -> VolumeStatus {
    let peer = PeerStatus {
        connection: ConnectionState::Connected,
        boot: Some(BootId(1)),
        disk: DiskState::UpToDate,
        resynced: true,
        settled: true,
        ..PeerStatus::unknown(node("a"))
    };
    VolumeStatus {
        size_bytes: 4096,
        role,
        epoch: EPOCH,
        disk: DiskState::UpToDate,
        generation: Generation(1),
        boot: BootId(2),
        required: vec![member("a", 1)],
        peers: vec![peer],
        ..VolumeStatus::unknown(VolumeName::new("store").expect("name"), GroupName::new("web").expect("name"))
    }
}

fn report(phase: Phase) -> Event {
    let free = phase == Phase::Stopped;
    Event::Run(RunReport { phase, free, prepared: true, ..RunReport::default() })
}

/// A tick: promises of `a` are good until then, silence began at `holds`, and so on.
fn tick(now: u64, serve_until: Option<u64>, holds: u64, highest: Epoch) -> Event {
    let promise = crate::core::promises::Promise { sent: ms(now), good_until: ms(now + 1000) };
    let beats = GroupFacts {
        promised_until: ms(0),
        last_holds: ms(holds),
        highest,
        promises: BTreeMap::from([(node("a"), promise)]),
        serve_until: serve_until.map(ms),
        ..GroupFacts::default()
    };
    let etcd = EtcdFacts { reachable: true, lease: 7, lease_until: ms(now + 4000) };
    Event::Tick(Box::new(Facts { beats, peers: Arc::default(), etcd }))
}

struct Stage {
    core: GroupCore,
    now: u64,
    actions: Vec<Action>,
}

impl Stage {
    fn feed(&mut self, event: Event) {
        self.actions = self.core.handle(event, ms(self.now), 0x5eed);
    }

    /// Time passes in which nothing happens, without a gap of the clock.
    fn pass(&mut self, to: u64) {
        self.now = to;
        self.core.now = ms(to);
    }

    fn asked(&self, which: fn(&Action) -> Option<u64>) -> u64 {
        self.actions.iter().find_map(which).expect("was asked")
    }

    fn join(served: Epoch, record: Record, role: Role) -> Self {
        let durable = Durable { served, known: EPOCH, ..Durable::default() };
        let core = GroupCore::new(config(), durable, Rules::default(), ms(0));
        let mut s = Self { core, now: 10, actions: Vec::new() };
        s.feed(Event::Replicas(Some(vec![replica(role)])));
        let id = s.asked(|a| if let Action::WriteFence(id) = a { Some(*id) } else { None });
        s.feed(tick(10, None, 10, EPOCH));
        s.feed(Event::Fence(id, true));
        let id = s.asked(|a| if let Action::Read(id) = a { Some(*id) } else { None });
        s.feed(Event::Record(id, Some(Box::new(record))));
        s
    }

    /// A node in the given state, reached by events alone.
    fn at(state: State) -> Self {
        let leading = || {
            let mut s = Self::join(EPOCH, record(Some("b"), EPOCH), Role::Primary);
            s.now = 100;
            s
        };
        let serving = || {
            let mut s = leading();
            s.feed(tick(100, Some(1100), 10, EPOCH));
            s.feed(report(Phase::Running));
            s
        };
        let s = match state {
            State::Joining => {
                let core = GroupCore::new(config(), Durable::default(), Rules::default(), ms(0));
                Self { core, now: 10, actions: Vec::new() }
            }
            State::Standby => {
                let mut s = Self::join(Epoch::ZERO, record(Some("a"), EPOCH), Role::Secondary);
                s.feed(report(Phase::Stopped));
                s
            }
            State::Campaigning => {
                let mut s = Self::at(State::Standby);
                s.pass(1700);
                s.feed(tick(1700, None, 10, EPOCH));
                s
            }
            State::Waiting => leading(),
            State::Starting => {
                let mut s = leading();
                s.feed(tick(100, Some(1100), 10, EPOCH));
                s
            }
            State::Serving => serving(),
            State::Fenced => {
                let mut s = serving();
                s.now = 1200;
                s.feed(tick(1200, Some(1100), 10, EPOCH));
                s
            }
            State::HandingOver => {
                let mut s = serving();
                s.core.handover = Some(Handover {
                    to: Some(node("a")),
                    stopped: None,
                    sent: false,
                    failed: None,
                    must: false,
                });
                s.core.become_(State::HandingOver, "a test");
                s
            }
            State::Failed => {
                let mut s = leading();
                s.feed(tick(100, Some(1100), 10, EPOCH));
                s.feed(report(Phase::Failed));
                s
            }
        };
        assert_eq!(s.core.state(), state);
        s
    }
}

fn configured(nodes: &[&str], retire: Option<Retire>) -> Event {
    let nodes = nodes.iter().map(|n| node(n)).collect();
    Event::Configured(Box::new(GroupConfig { nodes, retire, ..config() }))
}

fn events() -> Vec<(&'static str, Event)> {
    let higher = Epoch { number: 9, term: TermId(9) };
    let mut other = replica(Role::Primary);
    other.boot = BootId(99);
    vec![
        ("tick, entitled", tick(1500, Some(9000), 1500, EPOCH)),
        ("tick, not entitled", tick(1500, Some(100), 0, EPOCH)),
        ("tick, silence", tick(5000, None, 0, EPOCH)),
        ("tick, higher epoch", tick(1500, None, 1500, higher)),
        ("tick, the last epoch there is", tick(1500, None, 1500, LAST)),
        ("a record of the last epoch", Event::Record(999, Some(Box::new(record(None, LAST))))),
        ("no record", Event::Record(999, None)),
        ("a record nobody asked for", Event::Record(999, Some(Box::new(record(None, higher))))),
        ("fence written", Event::Fence(999, true)),
        ("fence failed", Event::Fence(999, false)),
        ("stray outcome", Event::Txn(999, Outcome::Committed { revision: 99 })),
        ("changed", Event::Changed),
        ("replicator gone", Event::Replicas(None)),
        ("no volumes", Event::Replicas(Some(Vec::new()))),
        ("secondary", Event::Replicas(Some(vec![replica(Role::Secondary)]))),
        ("primary", Event::Replicas(Some(vec![replica(Role::Primary)]))),
        ("another boot id", Event::Replicas(Some(vec![other]))),
        ("volume set", Event::VolumeSet(VolumeName::new("store").expect("name"), Ok(()))),
        ("volume refused", Event::VolumeSet(VolumeName::new("store").expect("name"), Err("no".into()))),
        ("stopped", report(Phase::Stopped)),
        ("starting", report(Phase::Starting)),
        ("running", report(Phase::Running)),
        ("fenced", report(Phase::Fenced)),
        ("failed", report(Phase::Failed)),
        ("restarting", Event::Restarting),
        ("recover", Event::Recover),
        ("configured", configured(&["a", "b"], None)),
        ("the other node is gone", configured(&["b", "c"], None)),
        ("the group is gone", configured(&["a", "b"], Some(Retire::Group))),
        ("this node is gone", configured(&["a", "c"], Some(Retire::Node))),
    ]
}

/// Something damaged names the last number there is: nobody counts past it, and status says why nobody leads.
/// What it knew is of before the gap: the leader may be heard at the next look, and etcd may have been restored.
#[test]
fn after_a_gap_and_when_etcd_is_back_the_record_is_read_before_anything_is_decided_on_it() {
    let reads = |s: &Stage| s.actions.iter().any(|a| matches!(a, Action::Read(_)));
    let mut s = Stage::at(State::Standby);
    s.now = 1700;
    s.feed(tick(1700, None, 10, EPOCH));
    assert!(s.core.state() == State::Standby && reads(&s), "{}", s.core.view_of().reason);

    let mut s = Stage::at(State::Standby);
    let Event::Tick(mut away) = tick(1600, None, 10, EPOCH) else { unreachable!() };
    away.etcd.reachable = false;
    s.pass(1600);
    s.feed(Event::Tick(away));
    assert!(s.core.state() == State::Standby && !reads(&s), "{}", s.core.view_of().reason);
    s.pass(1700);
    s.feed(tick(1700, None, 10, EPOCH));
    assert!(s.core.state() == State::Standby && reads(&s), "{}", s.core.view_of().reason);
}

#[test]
fn nobody_leads_after_the_last_epoch() {
    let stand = |last: Epoch| {
        let (mut s, mut sent) = (Stage::at(State::Standby), 0);
        for now in [1700, 1750, 9000, 9050, 9100] {
            s.pass(now);
            s.feed(tick(now, None, 10, last));
            sent += s.actions.iter().filter(|a| matches!(a, Action::Txn(_))).count();
            let read = s.actions.iter().find_map(|a| if let Action::Read(id) = a { Some(*id) } else { None });
            if let Some(id) = read {
                s.feed(Event::Record(id, Some(Box::new(record(None, last)))));
            }
        }
        (s, sent)
    };
    let (s, sent) = stand(LAST);
    assert_eq!((s.core.state(), sent), (State::Standby, 0));
    let reason = s.core.view_of().reason;
    assert!(reason.contains("no epoch can follow 18446744073709551615"), "{reason}");
    assert!(s.core.fit().is_err_and(|why| why == reason), "and it offers itself to nobody");
    let (s, sent) = stand(Epoch { number: u64::MAX - 1, ..LAST });
    assert_eq!((s.core.state(), sent), (State::Campaigning, 1), "one is left: {}", s.core.view_of().reason);
}

/// Every state takes every event, twice, without leaving the legality table (which `become_` asserts), and what
/// it says then fits where it stands.
#[test]
fn every_state_takes_every_event() {
    let mut cases = 0;
    for state in State::ALL {
        for (name, event) in events() {
            let mut s = Stage::at(state);
            for _ in 0..2 {
                let now = s.now.max(1500) + 50;
                s.pass(now);
                s.feed(event.clone());
                let core = &s.core;
                let intent = core.intent();
                let case = format!("{state:?} on {name}: {:?}", core.state());
                match (&intent.part, core.state().leads()) {
                    (Part::Leader { serve, .. }, true) => {
                        assert!(*serve || !core.guard_over(), "{case}");
                        assert_eq!(intent.epoch, EPOCH, "{case}");
                    }
                    (Part::Standby { acknowledge, .. }, false) => {
                        assert!(!*acknowledge || core.state() == State::Standby, "{case}");
                        assert!(!*acknowledge || !core.ledger.unsettled(), "{case}");
                    }
                    _ => panic!("{case}: {intent:?}"),
                }
                let runs = matches!(core.goal(), Goal::Run { .. });
                assert_eq!(runs, matches!(core.state(), State::Starting | State::Serving), "{case}");
                assert!(!core.view_of().reason.is_empty(), "{case}");
                let sent = s.actions.iter().filter(|a| matches!(a, Action::Txn(_))).count();
                assert!(sent <= 1, "{case}");
            }
            cases += 1;
        }
    }
    assert_eq!(cases, State::ALL.len() * events().len());
}

#[test]
fn a_higher_epoch_dethrones_from_every_leading_state() {
    let higher = Epoch { number: 9, term: TermId(9) };
    for state in State::ALL.into_iter().filter(|s| s.leads()) {
        let mut s = Stage::at(state);
        s.feed(tick(s.now, Some(s.now + 900), 0, higher));
        assert_eq!(s.core.state(), State::Standby, "{state:?}");
        assert_eq!(s.core.goal(), Goal::Stop { force: true });
    }
}

#[test]
fn the_legality_table_is_closed_and_every_state_is_reachable_and_left() {
    for from in State::ALL {
        assert!(!from.may_become(from), "{from:?} does not become itself");
        assert!(State::ALL.into_iter().any(|to| from.may_become(to)), "{from:?} can be left");
        assert!(
            from == State::Joining || State::ALL.into_iter().any(|s| s.may_become(from)),
            "{from:?} is reachable"
        );
        assert!(!from.leads() || from.may_become(State::Standby), "{from:?} can be deposed");
        assert!(!from.may_become(State::Joining));
    }
}

#[test]
fn serving_is_left_at_once_when_the_deadline_has_passed() {
    let mut s = Stage::at(State::Serving);
    s.now = 1100;
    s.feed(tick(1100, Some(1100), 10, EPOCH));
    assert_eq!((s.core.state(), s.core.goal()), (State::Fenced, Goal::Fence));
    s.now = 1100 + 10_000;
    s.feed(tick(s.now, Some(1100), 10, EPOCH));
    assert_eq!(s.core.goal(), Goal::Stop { force: true }, "stopped after fence_stop");
}

#[test]
fn without_a_lease_no_key_is_ever_written() {
    let mut s = Stage::at(State::Standby);
    s.pass(3000);
    let Event::Tick(mut facts) = tick(3000, None, 0, EPOCH) else { unreachable!() };
    facts.etcd.lease = 0;
    s.feed(Event::Tick(facts));
    assert_eq!(s.core.state(), State::Standby);
    assert!(s.core.view_of().reason.contains("lease"), "{}", s.core.view_of().reason);
}

#[test]
fn boot_ids_fold_to_one_that_changes_with_each() {
    let id = |n: u64| BootId(n);
    assert_eq!(fold_boots([id(7)]), Some(id(7)));
    assert_eq!(fold_boots([]), None);
    assert_eq!(fold_boots([id(7), id(0)]), None, "one is not known yet");
    let both = fold_boots([id(7), id(9)]);
    assert_ne!(both, fold_boots([id(9), id(7)]));
    assert_ne!(both, fold_boots([id(7), id(10)]));
    assert_ne!(both, fold_boots([id(8), id(9)]));
}

impl Stage {
    fn txn(&self) -> crate::core::record::Txn {
        let sent =
            self.actions.iter().find_map(|a| if let Action::Txn(txn) = a { Some(txn.clone()) } else { None });
        sent.expect("a transaction is sent")
    }

    /// Reads the record again and finds it so.
    fn look(&mut self, record: Record) {
        self.feed(Event::Changed);
        let id = self.asked(|a| if let Action::Read(id) = a { Some(*id) } else { None });
        self.feed(Event::Record(id, Some(Box::new(record))));
    }
}

#[test]
fn a_group_that_is_gone_is_stopped_in_order_and_nobody_takes_it_over() {
    let mut s = Stage::at(State::Serving);
    s.now = 200;
    s.feed(configured(&["a", "b"], Some(Retire::Group)));
    s.feed(tick(200, Some(1200), 10, EPOCH));
    assert_eq!((s.core.state(), s.core.goal()), (State::HandingOver, Goal::Stop { force: false }));
    assert!(!s.core.retired());
    s.feed(report(Phase::Stopped));
    s.feed(Event::Replicas(Some(vec![replica(Role::Secondary)])));
    let resign = s.txn();
    assert_eq!((resign.kind, resign.leader), (TxnKind::Resign, crate::core::record::LeaderWrite::Delete));
    s.feed(Event::Txn(resign.id, Outcome::Committed { revision: 30 }));
    assert_eq!(s.core.state(), State::Standby);
    s.look(Record { revision: 40, ..record(None, EPOCH) });
    assert!(s.core.retired());

    // The standby goes on acknowledging while the leader stops, and does not take over afterwards.
    let mut s = Stage::at(State::Standby);
    s.feed(configured(&["a", "b"], Some(Retire::Group)));
    assert!(matches!(s.core.intent().part, Part::Standby { acknowledge: true, .. }));
    assert!(!s.core.retired(), "the leader still counts on it");
    s.look(record(None, EPOCH));
    s.pass(9000);
    s.feed(tick(9000, None, 0, EPOCH));
    assert_eq!(s.core.state(), State::Standby, "{}", s.core.view_of().reason);
    assert!(s.core.retired());
    // Back in the specification, it is a standby like any other.
    s.feed(configured(&["a", "b"], None));
    s.feed(tick(9000, None, 0, EPOCH));
    assert_eq!(s.core.state(), State::Campaigning, "{}", s.core.view_of().reason);
}

#[test]
fn a_node_that_is_gone_leaves_when_nobody_counts_on_it() {
    let mut s = Stage::at(State::Standby);
    s.feed(configured(&["a", "c"], Some(Retire::Node)));
    assert!(!s.core.retired(), "it is in the in-sync set");
    assert!(matches!(s.core.intent().part, Part::Standby { acknowledge: true, .. }));
    let mut without = record(Some("a"), EPOCH);
    if let Some(insync) = &mut without.insync {
        insync.value.members.retain(|m| m.node != node("b"));
    }
    s.look(without.clone());
    assert!(!s.core.retired(), "it is a candidate");
    if let Some(insync) = &mut without.insync {
        insync.value.candidates = vec![node("a"), node("c")];
    }
    s.look(without);
    assert!(s.core.retired());

    // Its leader takes it out at once, and goes on without it only when that has committed.
    let mut s = Stage::at(State::Serving);
    s.feed(configured(&["b", "c"], None));
    assert_eq!(s.txn().kind, TxnKind::Remove(vec![node("a")]));
    assert!(s.core.counts_on().contains(&node("a")));
    assert!(matches!(s.core.intent().part, Part::Leader { members, .. } if members == [node("a")]));
}

/// A replicator that died and was started again has the device and is not primary yet.
#[test]
fn a_device_that_was_left_is_gone_on_with_by_its_leader_and_let_go_by_others() {
    let wanted = |state: State| {
        let mut s = Stage::at(state);
        s.feed(Event::Replicas(None));
        let mut left = replica(Role::Secondary);
        left.held = true;
        s.feed(Event::Replicas(Some(vec![left])));
        s.actions.iter().find_map(|a| match a {
            Action::SetVolume(_, d) => Some((d.role, d.epoch, d.force)),
            _ => None,
        })
    };
    for state in [State::Waiting, State::Starting, State::Serving, State::Fenced] {
        assert_eq!(wanted(state), Some((Role::Primary, EPOCH, false)), "{state:?}");
    }
    assert_eq!(wanted(State::Standby), Some((Role::Secondary, EPOCH, true)));
}

/// The replicator died after its disk had failed, before the set was left: its data are marked, and not led with.
#[test]
fn a_leader_whose_replica_came_back_marked_gives_way() {
    let mut s = Stage::at(State::Serving);
    s.now = 200;
    s.feed(tick(200, Some(1200), 10, EPOCH));
    let marked = VolumeStatus { disk: DiskState::Inconsistent, held: true, ..replica(Role::Secondary) };
    s.feed(Event::Replicas(Some(vec![marked])));
    let resign = s.txn();
    assert_eq!((resign.kind, resign.leader), (TxnKind::Resign, crate::core::record::LeaderWrite::Delete));
    s.feed(Event::Txn(resign.id, Outcome::Committed { revision: 30 }));
    assert_eq!((s.core.state(), s.core.goal()), (State::Standby, Goal::Stop { force: true }));
}

/// An emptied etcd, and nobody leads: a replica that lacks nothing says Consistent there.
#[test]
fn a_consistent_replica_is_complete_where_nobody_leads() {
    let complete = |disk: DiskState| {
        let mut s = Stage::join(EPOCH, record(None, EPOCH), Role::Secondary);
        s.feed(Event::Replicas(Some(vec![VolumeStatus { disk, ..replica(Role::Secondary) }])));
        let memory = s.core.memory();
        assert_eq!(memory.served, EPOCH, "{disk:?}");
        memory.complete
    };
    assert!(complete(DiskState::UpToDate) && complete(DiskState::Consistent));
    for disk in [DiskState::Outdated, DiskState::Inconsistent, DiskState::Diskless, DiskState::Failed] {
        assert!(!complete(disk), "{disk:?}");
    }
}

/// What was acknowledged after a leader had left the set is on others: it is not the one to start from, whatever its disk
/// says when it is back.
#[test]
fn a_leader_that_left_the_set_remembers_it() {
    let mut s = Stage::at(State::Serving);
    assert_eq!(s.core.memory().served, EPOCH);
    s.now = 200;
    let gone = VolumeStatus {
        disk: DiskState::Diskless,
        disk_reason: Some("Input/output error".into()),
        membership: Some(baton_replicator::api::Membership::Member),
        ..replica(Role::Primary)
    };
    s.feed(tick(200, Some(1200), 10, EPOCH));
    s.feed(Event::Replicas(Some(vec![gone])));
    assert_eq!(s.txn().kind, TxnKind::Remove(vec![node("b")]));
    let kept = s.actions.iter().position(|a| matches!(a, Action::Persist(d) if d.left == EPOCH));
    let sent = s.actions.iter().position(|a| matches!(a, Action::Txn(_)));
    assert!(kept.is_some_and(|at| Some(at) < sent), "durable before it is asked for: {:?}", s.actions);
    assert_eq!(s.core.memory().served, Epoch::ZERO);
}

/// A former leader that was heard to hold nothing, and falls silent much later, is switched off like any other.
#[test]
fn the_wait_for_a_fence_begins_anew_with_each_suspicion() {
    use super::standby::Path;
    use crate::core::promises::PeerFacts;
    let mut s = Stage::at(State::Standby);
    s.core.cfg.fencing.nodes.insert(node("a"), Duration::from_secs(20));
    assert!(s.core.fenced_first(Path::Slow).is_err(), "asks");
    s.core.on_fenced(1, FenceOutcome::Busy("somebody else fences".into()));
    let group = s.core.cfg.group.clone();
    let beat = crate::core::beat::GroupBeat {
        group: group.clone(),
        epoch: EPOCH,
        leading: false,
        holds: false,
        released: None,
        ask_ms: None,
        ready: false,
        state: 0,
        boot: BootId(1),
        insync_rev: 10,
        ack: None,
    };
    let groups = BTreeMap::from([(group, beat)]);
    let heard = PeerFacts { heard: Some(s.core.now), groups, ..PeerFacts::default() };
    s.core.facts.peers = Arc::new(BTreeMap::from([(node("a"), heard)]));
    assert_eq!(s.core.fenced_first(Path::Slow), Ok(()), "it gave up");
    s.core.now = ms(120_000);
    assert!(s.core.fenced_first(Path::Slow).is_err_and(|why| why.contains("switches a off")));
}
