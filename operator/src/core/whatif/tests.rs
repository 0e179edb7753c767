//! What is foreseen is what DESIGN's rules say, in their own figures.

use super::*;

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

fn scene(names: &[&str], data: bool) -> Scene {
    let one = |name: &&str| SceneNode {
        name: node(name),
        up: true,
        etcd: true,
        mode: NodeMode::Online,
        disk: DiskState::UpToDate,
        same_boot: true,
    };
    Scene {
        timers: Timers::default().check().expect("defaults"),
        nodes: names.iter().map(one).collect(),
        prefer: vec![node(names[0])],
        placing: Default::default(),
        failure_timeout: Duration::from_secs(600),
        after_power_loss: AfterPowerLoss::Wait,
        data,
        addresses: true,
        leader: Some(node(names[0])),
        members: names.iter().map(|n| node(n)).collect(),
        target: None,
        wish: Default::default(),
    }
}

fn see(scene: &Scene, cut: &Cut) -> Outlook {
    let group = GroupName::new("web").expect("a name");
    foresee(&group, &VolumeName::new("store").expect("a name"), scene, cut)
}

fn hosts(names: &[&str]) -> Cut {
    Cut { hosts: names.iter().map(|n| node(n)).collect(), ..Cut::default() }
}

fn no_etcd() -> Cut {
    Cut { all_etcd: true, ..Cut::default() }
}

fn deaf(a: &str, b: &str) -> Cut {
    Cut { beats: [(node(a), node(b)), (node(b), node(a))].into(), ..Cut::default() }
}

#[track_caller]
fn near(found: u64, expected: u64, slack: u64) {
    assert!((expected..=expected + slack).contains(&found), "{found} is not within {slack} after {expected}");
}

#[test]
fn without_a_fault_nothing_happens() {
    for data in [true, false] {
        let seen = see(&scene(&["alpha", "beta"], data), &Cut::default());
        assert_eq!((seen.before, seen.after), (Some(node("alpha")), Some(node("alpha"))));
        assert_eq!((seen.gaps, seen.won, seen.moments), (vec![], None, vec![]));
    }
}

#[test]
fn the_standby_of_a_dead_leader_takes_over_after_deadtime() {
    for data in [true, false] {
        let seen = see(&scene(&["alpha", "beta"], data), &hosts(&["alpha"]));
        let won = seen.won.expect("a takeover");
        assert_eq!((won.node, won.way), (node("beta"), Way::Silence));
        near(won.at_ms, 1500, 60);
        assert_eq!((seen.after, seen.members), (Some(node("beta")), vec![node("beta")]));
        assert_eq!(seen.gaps.len(), 1);
        assert_eq!(seen.gaps[0].0, 0);
        assert!(seen.moments.iter().any(|m| m.text.contains("the leader is silent")), "{:?}", seen.moments);
    }
}

#[test]
fn times_follow_the_timers() {
    let mut slow = scene(&["alpha", "beta"], true);
    let deadtime = Duration::from_secs(6);
    slow.timers = Timers { deadtime, fencetime: Timers::default_fencetime(deadtime), ..slow.timers };
    near(see(&slow, &hosts(&["alpha"])).won.expect("a takeover").at_ms, 6000, 60);
}

#[test]
fn a_standby_that_is_not_in_sync_waits() {
    let mut behind = scene(&["alpha", "beta"], true);
    behind.members = vec![node("alpha")];
    behind.nodes[1].disk = DiskState::Inconsistent;
    let seen = see(&behind, &hosts(&["alpha"]));
    assert_eq!((seen.before, seen.after, seen.won), (Some(node("alpha")), None, None));
    assert_eq!(seen.gaps, [(0, None)]);
    assert!(seen.reasons[&node("beta")].contains("not in sync"), "{:?}", seen.reasons);
}

#[test]
fn losing_etcd_stops_nothing_but_a_takeover() {
    for data in [true, false] {
        let seen = see(&scene(&["alpha", "beta"], data), &no_etcd());
        assert_eq!((seen.after, seen.gaps), (Some(node("alpha")), vec![]), "data {data}");
        let both = Cut { all_etcd: true, ..hosts(&["alpha"]) };
        let seen = see(&scene(&["alpha", "beta"], data), &both);
        assert_eq!((seen.after, seen.won), (None, None));
        assert!(seen.reasons[&node("beta")].contains("etcd"), "{:?}", seen.reasons);
        // The leader cannot remove a dead standby either: it fences itself.
        let standby = Cut { all_etcd: true, ..hosts(&["beta"]) };
        let seen = see(&scene(&["alpha", "beta"], data), &standby);
        assert_eq!(seen.after, None);
        near(seen.gaps[0].0, 900, 110);
    }
}

#[test]
fn what_is_lost_already_counts() {
    let mut now = scene(&["alpha", "beta"], true);
    for n in &mut now.nodes {
        n.etcd = false;
    }
    let seen = see(&now, &Cut::default());
    assert_eq!((seen.before, seen.gaps), (Some(node("alpha")), vec![]), "etcd is away, service goes on");
    assert_eq!(see(&now, &hosts(&["alpha"])).after, None);
    let mut alone = scene(&["alpha", "beta"], true);
    alone.nodes[1].up = false;
    let seen = see(&alone, &Cut::default());
    assert_eq!((seen.before, seen.members), (Some(node("alpha")), vec![node("alpha")]));
    assert_eq!(see(&alone, &hosts(&["alpha"])).after, None);
}

#[test]
fn a_silent_standby_is_removed_after_warntime_and_service_goes_on() {
    for cut in [hosts(&["beta"]), deaf("alpha", "beta")] {
        let seen = see(&scene(&["alpha", "beta"], true), &cut);
        assert_eq!((seen.after, seen.gaps.len(), seen.won), (Some(node("alpha")), 0, None));
        assert_eq!(seen.removed.len(), 1);
        assert_eq!(seen.removed[0].0, node("beta"));
        near(seen.removed[0].1, 490, 60);
    }
}

#[test]
fn an_isolated_leader_fences_itself_before_another_serves() {
    let mut cut = deaf("alpha", "beta");
    cut.blocks.insert((node("alpha"), node("beta")));
    cut.etcd.insert(node("alpha"));
    let seen = see(&scene(&["alpha", "beta"], true), &cut);
    assert_eq!(seen.after, Some(node("beta")));
    let (from, to) = seen.gaps[0];
    near(from, 900, 110);
    assert!(to.expect("an end") >= 1500, "{:?}", seen.gaps);
}

#[test]
fn a_dead_agent_is_taken_for_a_dead_host() {
    let seen =
        see(&scene(&["alpha", "beta"], true), &Cut { agents: [node("alpha")].into(), ..Cut::default() });
    assert_eq!(seen.after, Some(node("beta")));
    near(seen.gaps[0].0, 900, 110);
}

#[test]
fn of_three_the_preferred_one_wins_and_two_may_go() {
    let mut three = scene(&["alpha", "beta", "gamma"], true);
    three.prefer = vec![node("alpha"), node("gamma")];
    let seen = see(&three, &hosts(&["alpha"]));
    assert!(seen.after.is_some());
    let seen = see(&three, &hosts(&["alpha", "beta"]));
    assert_eq!((seen.after, seen.members), (Some(node("gamma")), vec![node("gamma")]));
}

#[test]
fn a_node_in_standby_mode_takes_nothing_over() {
    let mut now = scene(&["alpha", "beta"], true);
    now.nodes[1].mode = NodeMode::Standby;
    let seen = see(&now, &hosts(&["alpha"]));
    assert_eq!(seen.after, None);
    assert!(seen.reasons[&node("beta")].contains("standby mode"), "{:?}", seen.reasons);
}

type Figure = fn(&Timers) -> Duration;

/// The timers of the two columns of docs/timing.md.
fn documented() -> [Timers; 2] {
    [Timers::default(), Timers::fast()].map(|t| t.check().expect("they hold"))
}

#[test]
fn the_figures_of_the_timing_page_are_computed() {
    let page = include_str!("../../../../docs/timing.md");
    let zero = baton_replicator::types::Instant::ZERO;
    let figures: [(&str, Figure); 9] = [
        ("a leader without promises serves at most", |t| t.fencetime),
        ("a standby takes over, from the last heartbeat", |t| t.deadtime),
        ("nobody serves in between for at least", |t| t.deadtime - t.fencetime),
        ("of that, clocks that run apart by a quarter may use up", |t| t.fencetime / 4),
        ("and what is left for fencing itself is", |t| t.deadtime - t.fencetime * 5 / 4),
        ("writes wait for a standby that is lost, at most", |t| t.warntime),
        ("an election of etcd meanwhile must end within", |t| t.fencetime - t.warntime),
        ("a promise for a restart counts", |t| t.good_for(t.restart_window)),
        ("a host that dies right after a restart is taken over after at most", |t| {
            t.restart_window + t.deadtime * 2
        }),
    ];
    let row = |what: &str| page.lines().find(|l| l.starts_with(&format!("| {what} |"))).expect("a row");
    let shown = |what: &str, figures: [Duration; 2]| {
        let [default, fast] = figures.map(|d| d.as_millis());
        let end = format!("| {default} ms | {fast} ms |");
        assert!(row(what).ends_with(&end), "{} should end with {end}", row(what));
    };
    for (what, compute) in figures {
        shown(what, documented().map(|t| compute(&t)));
    }
    let lease = documented().map(|t| t.lease_until(zero, t.ttl).since(zero));
    shown("a lease counts, for a group without volumes", lease);
}

/// What the page says is what the cores do.
#[test]
fn the_cores_keep_the_documented_times() {
    for t in documented() {
        let ms = |d: Duration| u64::try_from(d.as_millis()).expect("small");
        let beat = ms(t.keepalive);
        let at = |cut: &Cut| see(&Scene { timers: t, ..scene(&["alpha", "beta"], true) }, cut);
        near(at(&hosts(&["alpha"])).won.expect("a takeover").at_ms, ms(t.deadtime), 60);
        near(at(&hosts(&["beta"])).removed[0].1, ms(t.warntime) - 10, 60);
        let mut cable = deaf("alpha", "beta");
        cable.blocks.insert((node("alpha"), node("beta")));
        cable.etcd.insert(node("alpha"));
        let seen = at(&cable);
        let (from, to) = seen.gaps[0];
        near(from, ms(t.fencetime) - beat, beat + 10);
        let between = to.expect("an end") - from;
        assert!(between >= ms(t.deadtime - t.fencetime), "{between} ms between one and the other");
    }
}
