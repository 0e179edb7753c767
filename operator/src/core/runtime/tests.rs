//! The runtime against a small model of the engine: every plan is also replayed from after each of its steps.

mod hot;

use super::*;
use crate::core::checks::OnFailure;
use baton_replicator::types::{BootId, DiskState, Epoch, Generation, GroupName, Role, TermId, VolumeName};

const EPOCH: Epoch = Epoch { number: 3, term: TermId(3) };
const RUN: Goal = Goal::Run { epoch: EPOCH, format: false, takeover: false };
const FIRST: Goal = Goal::Run { epoch: EPOCH, format: true, takeover: false };
const STOP: Goal = Goal::Stop { force: false };
const KILL: Goal = Goal::Stop { force: true };

fn store() -> VolumeName {
    VolumeName::new("store").expect("name")
}

fn config() -> RuntimeConfig {
    let service = |name: &str, after: &[(&str, Need)]| ServicePlan {
        name: name.into(),
        after: after.iter().map(|(n, need)| ((*n).to_owned(), *need)).collect(),
        leaving: false,
        hot: false,
        judged: false,
    };
    RuntimeConfig {
        volumes: vec![VolumePlan { volume: store(), filesystem: Some("ext4".into()) }],
        addresses: true,
        services: vec![
            service("web", &[("db", Need::Healthy), ("init", Need::Completed)]),
            service("db", &[]),
            service("init", &[("db", Need::Started)]),
            service("cron", &[]),
        ],
        migration_threshold: 3,
        failure_timeout: Duration::from_secs(200),
        start_timeout: Duration::from_secs(30),
        takeover_timeout: Duration::from_secs(90),
        engine_timeout: Duration::from_secs(60),
    }
}

/// The outside world: carries steps out and is observed.
#[derive(Clone, Default)]
struct Engine {
    now: u64,
    containers: BTreeMap<String, ContainerState>,
    addresses: bool,
    primary: bool,
    held: bool,
    filesystem: bool,
    done: Vec<String>,
    broken: Vec<Step>,
    outdated: Vec<String>,
}

impl Engine {
    fn at(&self) -> Instant {
        Instant(self.now * 1_000_000)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.done.push(match step.service() {
            Some(service) => format!("{} {service}", step.word()),
            None => step.word().into(),
        });
        if self.broken.contains(step) {
            return Err("it is broken".into());
        }
        let mut set = |name: &str, state| self.containers.insert(name.to_owned(), state);
        match step {
            Step::Format(_) => self.filesystem = true,
            Step::AddAddresses => self.addresses = true,
            Step::RemoveAddresses => self.addresses = false,
            Step::Prepare => {
                for name in ["web", "db", "init", "cron"] {
                    self.containers.entry(name.into()).or_insert(ContainerState::Created);
                }
            }
            Step::Start(s) if s == "init" => drop(set(s, ContainerState::Exited(0))),
            Step::Start(s) | Step::Restart(s) | Step::Unpause(s) => {
                set(s, ContainerState::Running);
                self.outdated.retain(|o| o != s);
            }
            Step::Discard(s) => drop(self.containers.remove(s)),
            Step::Stop(s) | Step::Kill(s) => drop(set(s, ContainerState::Exited(143))),
            Step::Pause(s) => drop(set(s, ContainerState::Paused)),
        }
        Ok(())
    }

    fn observed(&self) -> BTreeMap<String, Container> {
        let health = |name: &str, s: ContainerState| match (name, s) {
            ("db", ContainerState::Running) => Health::Healthy,
            _ => Health::None,
        };
        self.containers
            .iter()
            .map(|(n, s)| {
                (
                    n.clone(),
                    Container { state: *s, health: health(n, *s), outdated: self.outdated.contains(n) },
                )
            })
            .collect()
    }

    fn volumes(&self) -> Vec<VolumeStatus> {
        vec![VolumeStatus {
            size_bytes: 4096,
            role: if self.primary { Role::Primary } else { Role::Secondary },
            epoch: EPOCH,
            disk: DiskState::UpToDate,
            generation: Generation(1),
            boot: BootId(1),
            device: self.primary.then(|| "/dev/baton/store".into()),
            held: self.held,
            filesystem: self.filesystem.then(|| "ext4".into()),
            ..VolumeStatus::unknown(store(), GroupName::new("web").expect("name"))
        }]
    }

    /// Runs until nothing more happens, or until `limit` steps were carried out.
    fn drive(&mut self, runtime: &mut Runtime, goal: Goal, limit: usize) {
        let mut steps = runtime.handle(RunEvent::Goal(goal), self.at());
        let mut carried_out = 0;
        for _ in 0..300 {
            self.now += 100;
            steps.extend(runtime.handle(RunEvent::Volumes(self.volumes()), self.at()));
            steps.extend(runtime.handle(RunEvent::Containers(Some(self.observed())), self.at()));
            steps.extend(runtime.handle(RunEvent::Tick, self.at()));
            for step in std::mem::take(&mut steps) {
                if carried_out == limit {
                    return;
                }
                carried_out += 1;
                let result = self.step(&step);
                steps.extend(runtime.handle(RunEvent::Done(step, result), self.at()));
            }
        }
    }
}

fn started() -> (Engine, Runtime) {
    let mut engine = Engine { primary: true, filesystem: true, ..Engine::default() };
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(runtime.report().phase, Phase::Running, "{:?}", engine.done);
    engine.done.clear();
    (engine, runtime)
}

#[test]
fn starts_in_dependency_order_and_stops_in_reverse() {
    let mut engine = Engine { primary: true, ..Engine::default() };
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert!(runtime.report().prepared);
    assert_eq!(engine.done, ["remove addresses", "prepare containers"]);
    engine.done.clear();
    engine.drive(&mut runtime, FIRST, usize::MAX);
    assert_eq!(engine.done, ["format", "add addresses", "start db", "start cron", "start init", "start web"]);
    assert_eq!(runtime.report().phase, Phase::Running);
    let marks: Vec<&str> = runtime.marks().iter().map(|m| m.0).collect();
    assert_eq!(marks, ["begin", "volumes", "addresses", "services"]);
    engine.done.clear();
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert_eq!(engine.done, ["stop web", "stop cron", "stop db", "remove addresses"]);
    assert!(runtime.report().free && runtime.report().phase == Phase::Stopped);
}

#[test]
fn nothing_starts_before_the_volume_is_primary_in_this_epoch() {
    let mut engine = Engine { filesystem: true, ..Engine::default() };
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert!(engine.done.is_empty(), "{:?}", engine.done);
    let report = runtime.report();
    assert_eq!(
        (report.phase, report.reason.contains("waits for the volumes")),
        (Phase::Failed, true),
        "{report:?}"
    );
}

#[test]
fn a_blank_volume_is_formatted_at_the_first_start_only() {
    let mut engine = Engine { primary: true, ..Engine::default() };
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert!(engine.done.is_empty(), "{:?}", engine.done);
    assert!(runtime.report().reason.contains("has no filesystem"), "{}", runtime.report().reason);
}

#[test]
fn a_fence_takes_addresses_first_and_a_resume_brings_everything_back() {
    let (mut engine, mut runtime) = started();
    engine.drive(&mut runtime, Goal::Fence, usize::MAX);
    assert_eq!(engine.done, ["remove addresses", "pause web", "pause db", "pause cron"]);
    assert_eq!(runtime.report().phase, Phase::Fenced);
    assert!(!runtime.report().free, "paused containers still hold the volume");
    engine.done.clear();
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(engine.done, ["add addresses", "unpause web", "unpause db", "unpause cron"]);
    assert_eq!(runtime.report().phase, Phase::Running);
}

#[test]
fn a_forced_stop_removes_addresses_and_kills_everything_at_once() {
    let (mut engine, mut runtime) = started();
    engine.drive(&mut runtime, KILL, usize::MAX);
    assert_eq!(engine.done, ["remove addresses", "kill web", "kill db", "kill cron", "prepare containers"]);
    assert_eq!(runtime.report().phase, Phase::Stopped);
}

#[test]
fn a_stop_that_fails_becomes_a_kill() {
    let (mut engine, mut runtime) = started();
    engine.broken = vec![Step::Stop("web".into())];
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert!(engine.done.contains(&"kill web".to_owned()), "{:?}", engine.done);
    assert_eq!(runtime.report().phase, Phase::Stopped);
}

#[test]
fn a_service_that_dies_is_restarted_in_place_until_the_group_wants_to_move() {
    let (mut engine, mut runtime) = started();
    for n in 1..=3 {
        engine.containers.insert("db".into(), ContainerState::Exited(1));
        engine.drive(&mut runtime, RUN, usize::MAX);
        assert_eq!(engine.containers["db"], ContainerState::Running);
        assert_eq!(runtime.report().phase, Phase::Running);
        assert_eq!(runtime.report().wants_move.is_some(), n == 3, "after {n} failures");
    }
    assert_eq!(runtime.restarts("db"), 3);
    let why = runtime.report().wants_move.expect("wants to move");
    assert!(why.starts_with("db failed 3 times within 200 s"), "{why}");
    engine.now += 201_000;
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(runtime.report().wants_move, None, "old failures are forgotten");
}

#[test]
fn a_service_that_is_unhealthy_is_restarted_once_for_it() {
    let (mut engine, mut runtime) = started();
    let at = |engine: &mut Engine, health| {
        engine.now += 1000;
        let mut all = engine.observed();
        all.get_mut("db").expect("db").health = health;
        RunEvent::Containers(Some(all))
    };
    let restart = Step::Restart("db".into());
    for n in 1..=3 {
        let sick = at(&mut engine, Health::Unhealthy);
        let mut steps = runtime.handle(sick, engine.at());
        engine.now += 5000;
        steps.extend(runtime.handle(RunEvent::Tick, engine.at()));
        assert_eq!(steps, std::slice::from_ref(&restart));
        // Until it is looked at again, its health is not known.
        assert_eq!(runtime.handle(RunEvent::Done(restart.clone(), Ok(())), engine.at()), []);
        engine.now += 5000;
        assert_eq!(runtime.handle(RunEvent::Tick, engine.at()), []);
        for health in [Health::Starting, Health::Healthy] {
            let well = at(&mut engine, health);
            assert_eq!(runtime.handle(well, engine.at()), []);
        }
        assert_eq!((runtime.restarts("db"), runtime.report().wants_move.is_some()), (n, n == 3));
    }
}

/// Its end, the checks that fail with it, and the restart that one of them asks for are one failure.
#[test]
fn a_service_that_comes_back_is_not_counted_twice() {
    let (mut engine, mut runtime) = started();
    let fails = |of: Option<&str>, check: &str| {
        let (check, service) = (check.into(), of.map(Into::into));
        RunEvent::CheckFailed(CheckFailure { check, service, on_failure: OnFailure::Restart })
    };
    engine.now += 1000;
    engine.containers.insert("db".into(), ContainerState::Exited(1));
    let began = engine.at();
    let observed = RunEvent::Containers(Some(engine.observed()));
    let mut steps = runtime.handle(observed, began);
    assert_eq!(runtime.disturbed().get("db"), Some(&began));
    engine.now += 5000;
    for check in [fails(Some("db"), "sql"), fails(None, "page")] {
        steps.extend(runtime.handle(check, engine.at()));
    }
    steps.extend(runtime.handle(RunEvent::Tick, engine.at()));
    let start = Step::Start("db".into());
    assert_eq!(steps, std::slice::from_ref(&start));
    engine.step(&start).expect("started");
    runtime.handle(RunEvent::Done(start, Ok(())), engine.at());
    assert_eq!(runtime.disturbed().get("db"), Some(&engine.at()), "it gets its time from now on");
    assert_eq!((runtime.failures_of("db"), runtime.failures_of("page")), (1, 0));

    // It hangs: the first check that says so counts, the next one finds it about to be restarted.
    engine.now += 60_000;
    let restart = Step::Restart("db".into());
    let mut steps = runtime.handle(fails(Some("db"), "sql"), engine.at());
    engine.now += 5000;
    for event in [fails(Some("db"), "tcp"), RunEvent::Tick] {
        steps.extend(runtime.handle(event, engine.at()));
    }
    assert_eq!((steps, runtime.failures_of("db")), (vec![restart.clone()], 2));
    runtime.handle(RunEvent::Done(restart, Ok(())), engine.at());
    assert_eq!(runtime.report().wants_move, None);
    // What runs has no excuse.
    engine.now += 60_000;
    runtime.handle(fails(Some("db"), "tcp"), engine.at());
    assert!(runtime.report().wants_move.is_some_and(|why| why.starts_with("db failed 3 times")));
}

#[test]
fn failures_of_an_earlier_stay_do_not_count() {
    let (mut engine, mut runtime) = started();
    let die = |engine: &mut Engine, runtime: &mut Runtime| {
        engine.containers.insert("db".into(), ContainerState::Exited(1));
        engine.drive(runtime, RUN, usize::MAX);
        runtime.report()
    };
    for _ in 0..3 {
        die(&mut engine, &mut runtime);
    }
    assert!(runtime.report().wants_move.is_some());
    // A standby is told to stop; elected again it looks around first, and then runs.
    for goal in [STOP, Goal::Hold, RUN] {
        engine.drive(&mut runtime, goal, usize::MAX);
    }
    assert_eq!(runtime.report().phase, Phase::Running, "{}", runtime.report().reason);
    assert_eq!((runtime.restarts("db"), runtime.report().wants_move), (0, None));
    for n in 1..=3 {
        assert_eq!(die(&mut engine, &mut runtime).wants_move.is_some(), n == 3, "after {n} failures");
    }
}

/// An agent that is restarted finds its group running, and goes on counting where it was.
#[test]
fn failures_count_on_after_a_restart_of_the_agent() {
    let (mut engine, mut runtime) = started();
    let die = |engine: &mut Engine, runtime: &mut Runtime| {
        engine.containers.insert("db".into(), ContainerState::Exited(1));
        engine.drive(runtime, RUN, usize::MAX);
        runtime.report()
    };
    for _ in 0..2 {
        assert_eq!(die(&mut engine, &mut runtime).wants_move, None);
    }
    let kept = runtime.failures().clone();
    let mut again = Runtime::new(runtime.cfg.clone(), engine.at());
    again.remember_failures(kept.clone());
    for goal in [Goal::Hold, RUN] {
        engine.drive(&mut again, goal, usize::MAX);
    }
    assert_eq!(
        (again.report().phase, again.restarts("db")),
        (Phase::Running, 2),
        "{}",
        again.report().reason
    );
    assert!(die(&mut engine, &mut again).wants_move.is_some(), "the third one within failure_timeout");
    // Without them it would be the first.
    let mut forgetful = Runtime::new(runtime.cfg.clone(), engine.at());
    for goal in [Goal::Hold, RUN] {
        engine.drive(&mut forgetful, goal, usize::MAX);
    }
    assert_eq!(die(&mut engine, &mut forgetful).wants_move, None);
}

/// A group that runs with as many failures as are allowed, and could not move: the restart of its agent stops nothing.
#[test]
fn remembered_failures_alone_stop_nothing_that_runs() {
    let (mut engine, mut runtime) = started();
    for _ in 0..3 {
        engine.containers.insert("db".into(), ContainerState::Exited(1));
        engine.drive(&mut runtime, RUN, usize::MAX);
    }
    assert_eq!(runtime.report().phase, Phase::Running);
    let kept = runtime.failures().clone();
    assert_eq!(kept.failures["db"].len(), 3);
    let again = |engine: &mut Engine| {
        let mut again = Runtime::new(runtime.cfg.clone(), engine.at());
        again.remember_failures(kept.clone());
        engine.drive(&mut again, Goal::Hold, usize::MAX);
        again
    };
    let before = engine.done.len();
    let mut running = again(&mut engine);
    engine.drive(&mut running, RUN, usize::MAX);
    assert_eq!(running.report().phase, Phase::Running, "{}", running.report().reason);
    let stopped = engine.done[before..].iter().any(|d| d.contains("stop") || d.contains("kill"));
    assert!(!stopped, "{:?}", &engine.done[before..]);
    // The next failure counts with those before it, also while it starts.
    engine.containers.insert("db".into(), ContainerState::Exited(1));
    engine.broken = vec![Step::Start("db".into())];
    let mut starting = again(&mut engine);
    engine.drive(&mut starting, RUN, usize::MAX);
    assert_eq!(starting.report().phase, Phase::Failed);
    assert!(starting.report().reason.contains("db failed"), "{}", starting.report().reason);
}

/// A leader in maintenance is told to hold: nothing is started or restarted, and nothing counts as a failure.
#[test]
fn a_group_that_is_left_alone_is_not_restarted_and_what_fails_meanwhile_does_not_count() {
    let (mut engine, mut runtime) = started();
    assert_eq!(runtime.handle(RunEvent::Goal(Goal::Hold), engine.at()), []);
    let before = engine.done.len();
    engine.containers.insert("cron".into(), ContainerState::Exited(0));
    for _ in 0..5 {
        engine.now += 1000;
        let observed = engine.observed();
        assert_eq!(runtime.handle(RunEvent::Containers(Some(observed)), engine.at()), []);
        let failed = CheckFailure { check: "http".into(), service: None, on_failure: OnFailure::Restart };
        assert_eq!(runtime.handle(RunEvent::CheckFailed(failed), engine.at()), []);
    }
    assert_eq!(engine.done.len(), before, "{:?}", engine.done);
    // The maintenance is over: what somebody stopped is started, and the group has no reason to leave.
    engine.drive(&mut runtime, RUN, 60);
    assert_eq!(engine.containers["cron"], ContainerState::Running);
    let report = runtime.report();
    assert_eq!((report.phase, report.wants_move), (Phase::Running, None));
    assert_eq!(engine.done[before..], ["start cron"]);
}

#[test]
fn what_runs_on_a_device_that_is_gone_ends_before_anything_starts() {
    let (mut engine, _) = started();
    // Agent and replicator are new, what they started is not; the device of before went with its replicator.
    engine.primary = false;
    let mut runtimes = [Runtime::new(config(), engine.at()), Runtime::new(config(), engine.at())];
    for runtime in &mut runtimes {
        engine.drive(runtime, Goal::Hold, usize::MAX);
    }
    assert!(engine.done.is_empty(), "{:?}", engine.done);
    engine.primary = true;
    let [mut runtime, mut halted] = runtimes;
    engine.drive(&mut halted, RUN, 0);
    assert_eq!(halted.report().phase, Phase::Starting, "they run, and get errors");
    engine.drive(&mut runtime, RUN, usize::MAX);
    let (killed, started): (Vec<_>, Vec<_>) = engine.done.iter().partition(|step| step.starts_with("kill"));
    assert!(engine.done[..killed.len()].iter().all(|step| step.starts_with("kill")), "{:?}", engine.done);
    assert_eq!((killed.len(), engine.done.len()), (3, 3 + started.len()), "{:?}", engine.done);
    assert!(
        ["start db", "start cron", "start web"].iter().all(|s| started.iter().any(|d| d == s)),
        "{started:?}"
    );
    assert_eq!(runtime.report().phase, Phase::Running, "{}", runtime.report().reason);
    assert_eq!((runtime.report().wants_move, runtime.restarts("db")), (None, 0));
    // An agent alone that is replaced finds the device there, and ends nothing.
    engine.done.clear();
    let mut runtime = Runtime::new(config(), engine.at());
    for goal in [Goal::Hold, RUN] {
        engine.drive(&mut runtime, goal, usize::MAX);
    }
    assert!(!engine.done.iter().any(|step| step.starts_with("kill")), "{:?}", engine.done);
    assert_eq!(runtime.report().phase, Phase::Running);
}

#[test]
fn what_runs_on_a_device_that_is_held_goes_on() {
    for state in [ContainerState::Running, ContainerState::Paused] {
        let (mut engine, _) = started();
        for name in ["web", "db", "cron"] {
            engine.containers.insert(name.into(), state);
        }
        // The replicator's worker died, the agent is new, or the group was fenced: a holder keeps the device meanwhile.
        (engine.primary, engine.held) = (false, true);
        let mut runtime = Runtime::new(config(), engine.at());
        engine.drive(&mut runtime, Goal::Hold, usize::MAX);
        // Primary again, and the device is shown a moment later.
        (engine.primary, engine.held) = (true, false);
        let mut volumes = engine.volumes();
        volumes[0].device = None;
        runtime.handle(RunEvent::Volumes(volumes), engine.at());
        engine.drive(&mut runtime, RUN, usize::MAX);
        let changed: Vec<_> =
            engine.done.iter().filter(|d| d.starts_with("kill") || d.starts_with("start")).collect();
        assert!(changed.is_empty(), "{state:?}: {:?}", engine.done);
        assert_eq!(runtime.report().phase, Phase::Running, "{}", runtime.report().reason);
    }
}

#[test]
fn a_service_that_never_starts_fails_the_start_with_its_reason() {
    let mut engine = Engine { primary: true, filesystem: true, ..Engine::default() };
    engine.broken = vec![Step::Start("db".into())];
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, RUN, usize::MAX);
    let report = runtime.report();
    assert_eq!(report.phase, Phase::Failed);
    assert!(
        report.reason.contains("db failed 3 times") && report.reason.contains("it is broken"),
        "{}",
        report.reason
    );
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert_eq!(runtime.report().phase, Phase::Stopped);
}

/// A log that is replayed takes longer than a planned move's start.
#[test]
fn a_start_after_a_takeover_has_a_budget_of_its_own() {
    let at = |ms: u64| Instant(ms * 1_000_000);
    for (takeover, limit) in [(false, 30_000), (true, 90_000)] {
        let waiting = Engine::default();
        let mut runtime = Runtime::new(config(), at(0));
        runtime.handle(RunEvent::Goal(Goal::Run { epoch: EPOCH, format: false, takeover }), at(0));
        runtime.handle(RunEvent::Volumes(waiting.volumes()), at(1));
        runtime.handle(RunEvent::Containers(Some(waiting.observed())), at(limit - 1));
        assert_eq!(runtime.report().phase, Phase::Starting, "takeover={takeover}");
        runtime.handle(RunEvent::Tick, at(limit));
        assert_eq!(runtime.report().phase, Phase::Failed, "takeover={takeover}");
    }
}

#[test]
fn a_silent_engine_is_no_stopped_engine() {
    let mut runtime = Runtime::new(config(), Instant::ZERO);
    runtime.handle(RunEvent::Goal(KILL), Instant::ZERO);
    runtime.handle(RunEvent::Containers(None), Instant::ZERO);
    assert_eq!(runtime.report().phase, Phase::Stopping);
    assert!(!runtime.report().free);
}

/// A changed specification: the services whose definition changed are restarted where they are, in the order of
/// their dependencies; those that are gone are stopped and removed; the rest does not notice.
#[test]
fn a_change_restarts_only_what_it_must() {
    let (mut engine, mut runtime) = started();
    engine.outdated = vec!["web".into(), "db".into()];
    runtime.reconfigure(config(), false);
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(engine.done, ["restart db", "restart web"]);
    assert_eq!((runtime.report().phase, runtime.report().wants_move), (Phase::Running, None));
    engine.done.clear();

    let mut fewer = config();
    fewer.services.retain(|s| s.name != "cron");
    runtime.reconfigure(fewer.clone(), true);
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert_eq!(engine.done, ["add addresses", "stop cron", "remove cron"]);
    assert!(!engine.containers.contains_key("cron"));
    assert_eq!(runtime.report().phase, Phase::Running);
    engine.done.clear();

    // Nothing changed: nothing happens.
    runtime.reconfigure(fewer, false);
    engine.drive(&mut runtime, RUN, usize::MAX);
    assert!(engine.done.is_empty(), "{:?}", engine.done);
}

/// On a standby, where nothing runs, what changed is only prepared anew.
#[test]
fn a_change_on_a_standby_prepares_and_removes() {
    let mut engine = Engine { filesystem: true, ..Engine::default() };
    let mut runtime = Runtime::new(config(), engine.at());
    engine.drive(&mut runtime, STOP, usize::MAX);
    engine.done.clear();
    let mut fewer = config();
    fewer.services.retain(|s| s.name != "cron");
    runtime.reconfigure(fewer, false);
    assert!(!runtime.report().prepared);
    engine.drive(&mut runtime, STOP, usize::MAX);
    assert_eq!(engine.done, ["remove cron", "prepare containers"]);
}

/// Every sequence of two goals, interrupted after each step, by a change of mind or by the death of the agent,
/// reaches the last goal.
#[test]
fn any_interrupted_sequence_reaches_its_goal() {
    let goals = [RUN, STOP, KILL, Goal::Fence, Goal::Standby];
    let reached = |goal: Goal, phase: Phase| match goal {
        Goal::Run { .. } => phase == Phase::Running,
        Goal::Fence => phase == Phase::Fenced,
        Goal::Standby | Goal::Stop { .. } => phase == Phase::Stopped,
        Goal::Hold => true,
    };
    let mut sequences = 0;
    for first in goals {
        for second in goals {
            for after in 0..9 {
                for crash in [false, true] {
                    for from_running in [false, true] {
                        let (mut engine, mut runtime) = started();
                        if !from_running {
                            engine.drive(&mut runtime, KILL, usize::MAX);
                        }
                        engine.drive(&mut runtime, first, after);
                        if crash {
                            runtime = Runtime::new(config(), engine.at());
                        }
                        // Steps that were begun and not reported back are reported now.
                        let mut begun: Vec<Step> = runtime.busy.keys().cloned().collect();
                        while let Some(step) = begun.pop() {
                            let result = engine.step(&step);
                            begun.extend(runtime.handle(RunEvent::Done(step, result), engine.at()));
                        }
                        engine.drive(&mut runtime, second, usize::MAX);
                        let phase = runtime.report().phase;
                        let case = format!(
                            "{first:?} {after} steps, crash {crash}, then {second:?}: {:?}",
                            engine.done
                        );
                        assert!(reached(second, phase), "{phase:?} after {case}");
                        let running = engine.containers.values().any(|s| *s == ContainerState::Running);
                        match second {
                            Goal::Run { .. } => assert!(running && engine.addresses, "{case}"),
                            Goal::Fence | Goal::Standby | Goal::Stop { .. } | Goal::Hold => {
                                assert!(!running && !engine.addresses, "{case}");
                            }
                        }
                        sequences += 1;
                    }
                }
            }
        }
    }
    assert_eq!(sequences, 5 * 5 * 9 * 4);
}
