//! Hot standbys, checks, and an engine that does not answer.

use super::*;

/// `web` and `cron` may run anywhere; `db` has the volume. With `volume` false there is none, and everything may.
fn hot(volume: bool) -> RuntimeConfig {
    let service = |name: &str, hot: bool| ServicePlan {
        name: name.into(),
        after: vec![],
        leaving: false,
        hot,
        judged: false,
    };
    let (volumes, db) = if volume { (config().volumes, Some(service("db", false))) } else { (vec![], None) };
    let mut services = vec![service("web", true), service("cron", true)];
    services.extend(db);
    RuntimeConfig { volumes, services, ..config() }
}

fn standing_by(volume: bool) -> (Engine, Runtime) {
    let mut engine = Engine { filesystem: true, ..Engine::default() };
    let mut runtime = Runtime::new(hot(volume), engine.at());
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    engine.done.clear();
    (engine, runtime)
}

#[test]
fn a_takeover_of_a_hot_group_only_moves_the_address() {
    let (mut engine, mut runtime) = standing_by(false);
    assert_eq!((engine.containers["web"], engine.addresses), (ContainerState::Running, false));
    let report = runtime.report();
    assert_eq!(
        (report.phase, report.free, report.prepared, report.unready),
        (Phase::Stopped, true, true, None)
    );
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(
        (runtime.report().phase, &engine.done[..]),
        (Phase::Running, &["add addresses".to_owned()][..])
    );
    // Handed on in order: the address goes, what runs goes on.
    engine.done.clear();
    for goal in [STOP, Goal::Standby] {
        engine.drive(&mut runtime, goal, usize::MAX);
        assert_eq!((runtime.report().phase, runtime.report().free), (Phase::Stopped, true));
    }
    assert_eq!(engine.done, ["remove addresses"]);
    // A person takes the node out of service: everything ends, in good order.
    engine.done.clear();
    engine.drive(&mut runtime, KILL, usize::MAX);
    engine.done.sort();
    assert_eq!(engine.done, ["stop cron", "stop web"]);
    assert_eq!(runtime.report().phase, Phase::Stopped);
}

#[test]
fn beside_a_volume_only_what_needs_none_runs_on_a_standby() {
    let (mut engine, mut runtime) = standing_by(true);
    assert_eq!(
        (engine.containers["web"], engine.containers["db"]),
        (ContainerState::Running, ContainerState::Created)
    );
    engine.primary = true;
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(engine.done, ["add addresses", "start db"], "nothing that ran was ended for its volume");
    engine.done.clear();
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert_eq!(engine.done, ["stop db", "remove addresses"]);
    // Deposed: what uses the volume dies, the rest goes on.
    engine.drive(&mut runtime, RUN, usize::MAX);
    engine.done.clear();
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    engine.done.sort();
    assert_eq!(engine.done, ["kill db", "remove addresses"]);
}

/// What a fence has paused must not answer while an address is still here.
#[test]
fn what_was_fenced_goes_on_only_when_the_address_is_gone() {
    let (mut engine, mut runtime) = standing_by(false);
    engine.drive(&mut runtime, RUN, usize::MAX);
    engine.done.clear();
    engine.broken = vec![Step::RemoveAddresses];
    engine.drive(&mut runtime, Goal::Fence, usize::MAX);
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    assert_eq!(engine.containers["web"], ContainerState::Paused, "{:?}", engine.done);
    engine.broken.clear();
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    assert_eq!((engine.containers["web"], engine.addresses), (ContainerState::Running, false));
}

#[test]
fn a_standby_whose_containers_do_not_run_is_not_ready_and_starts_them_again() {
    let (mut engine, mut runtime) = standing_by(false);
    engine.containers.insert("web".into(), ContainerState::Exited(1));
    assert_eq!(
        runtime.handle(RunEvent::Containers(Some(engine.observed())), engine.at()),
        [],
        "after a pause"
    );
    assert_eq!(runtime.report().unready.as_deref(), Some("web does not run yet"));
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    assert_eq!((engine.containers["web"], runtime.report().unready), (ContainerState::Running, None));
    // What failed on the standby does not count against the leader that it becomes.
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!((runtime.report().phase, runtime.report().wants_move), (Phase::Running, None));
}

fn check(on_failure: OnFailure, service: Option<&str>) -> RunEvent {
    RunEvent::CheckFailed(CheckFailure {
        check: "page".into(),
        service: service.map(str::to_owned),
        on_failure,
    })
}

#[test]
fn a_check_that_fails_on_a_standby_makes_it_unready_until_it_passes() {
    let (mut engine, mut runtime) = standing_by(false);
    let steps = runtime.handle(check(OnFailure::Restart, Some("web")), engine.at());
    assert_eq!(steps, [], "restarts have a pause");
    assert_eq!(runtime.report().unready.as_deref(), Some("page fails"));
    engine.drive(&mut runtime, Goal::Standby, usize::MAX);
    assert_eq!(engine.done, ["restart web"]);
    assert_eq!(runtime.report().unready.as_deref(), Some("page fails"), "the check has the last word");
    runtime.handle(RunEvent::CheckPassed("page".into()), engine.at());
    assert_eq!(runtime.report().unready, None);
}

/// DESIGN §7: restarted in place, and after `migration_threshold` failures the group would be better off elsewhere.
#[test]
fn a_failed_check_restarts_what_it_blames_and_then_wants_to_move() {
    let (mut engine, mut runtime) = started();
    for n in 1..=3 {
        let steps = runtime.handle(check(OnFailure::Restart, Some("db")), engine.at());
        assert!(steps.is_empty());
        assert_eq!(runtime.report().wants_move.is_some(), n == 3, "after {n}");
        engine.drive(&mut runtime, RUN, usize::MAX);
        assert_eq!(engine.done, ["restart db"], "after {n}");
        engine.done.clear();
    }
}

/// Nobody is restarted on top of something that is about to be restarted.
#[test]
fn a_check_that_blames_nobody_restarts_all_services_in_their_order() {
    let (mut engine, mut runtime) = started();
    for step in runtime.handle(check(OnFailure::Restart, None), engine.at()) {
        let result = engine.step(&step);
        assert_eq!(runtime.handle(RunEvent::Done(step, result), engine.at()), []);
    }
    assert!(!engine.done.contains(&"restart web".to_owned()), "its database is not healthy yet");
    engine.drive(&mut runtime, RUN, usize::MAX);
    let at = |what: &str| {
        engine.done.iter().position(|d| d == what).unwrap_or_else(|| panic!("{:?}", engine.done))
    };
    assert!(at("restart db") < at("restart web"));
    assert_eq!(engine.done.len(), 3, "{:?}: init has completed and is left alone", engine.done);
    assert_eq!(runtime.report().wants_move, None);
}

#[test]
fn a_check_may_ask_for_a_move_at_once_or_for_nothing() {
    let (engine, mut runtime) = started();
    assert_eq!(runtime.handle(check(OnFailure::Alarm, Some("db")), engine.at()), []);
    assert_eq!(runtime.report().wants_move, None);
    assert_eq!(runtime.handle(check(OnFailure::Move, Some("db")), engine.at()), []);
    assert_eq!(runtime.report().wants_move.as_deref(), Some("page failed"));
    runtime.handle(RunEvent::CheckPassed("page".into()), engine.at());
    assert_eq!(runtime.report().wants_move, None, "it came back before anybody could take the group");
}

/// With a `docker` check the check decides what an unhealthy container means.
#[test]
fn health_that_a_check_judges_restarts_nothing_by_itself() {
    for judged in [false, true] {
        let mut config = config();
        for service in &mut config.services {
            service.judged = judged;
        }
        let (mut engine, _) = started();
        let mut runtime = Runtime::new(config, engine.at());
        engine.drive(&mut runtime, RUN, usize::MAX);
        let mut seen = engine.observed();
        seen.get_mut("db").expect("db").health = Health::Unhealthy;
        let mut steps = Vec::new();
        for _ in 0..20 {
            engine.now += 1000;
            steps.extend(runtime.handle(RunEvent::Containers(Some(seen.clone())), engine.at()));
        }
        assert_eq!(steps.contains(&Step::Restart("db".into())), !judged, "{steps:?}");
    }
}

/// Docker Engine down is unknown, not stopped.
#[test]
fn a_silent_engine_stops_nothing_until_its_time_is_over() {
    let (mut engine, mut runtime) = started();
    let silent = |engine: &Engine, runtime: &mut Runtime| {
        let steps = runtime.handle(RunEvent::Containers(None), engine.at());
        assert_eq!(steps, []);
        (runtime.report().phase, runtime.report().stuck)
    };
    let begun = engine.now;
    let says = "the Docker engine has not answered for 60 s";
    for (after, stuck) in [(0, None), (30_000, None), (59_900, None), (60_000, Some(says))] {
        engine.now = begun + after;
        assert_eq!(
            silent(&engine, &mut runtime),
            (Phase::Running, stuck.map(str::to_owned)),
            "after {after} ms"
        );
    }
    // It is back: nothing was lost, nothing is restarted.
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!((runtime.report().stuck, &engine.done[..]), (None, &[][..]));
    assert_eq!(silent(&engine, &mut runtime).1, None, "a new silence counts from its own beginning");
}

/// While the probes pass the group stays; when they fail, what cannot be stopped in order is not waited for.
#[test]
fn a_check_that_fails_while_the_engine_is_silent_ends_the_patience() {
    let (mut engine, mut runtime) = started();
    let _ = runtime.handle(RunEvent::Containers(None), engine.at());
    engine.now += 6_000;
    assert_eq!(runtime.report().stuck, None);
    let _ = runtime.handle(check(OnFailure::Move, None), engine.at());
    let stuck = runtime.report().stuck.expect("cannot be moved in order");
    assert!(stuck.contains("page failed") && stuck.contains("does not answer"), "{stuck}");
    assert!(runtime.report().unready.is_some(), "nor would this node be a good successor");
}
