//! The runtime against a small model of the engine: every plan is also replayed from after each of its steps.

use super::*;
use baton_replicator::types::{BootId, DiskState, Epoch, Generation, GroupName, Role, TermId, VolumeName};

const EPOCH: Epoch = Epoch { number: 3, term: TermId(3) };
const RUN: Goal = Goal::Run { epoch: EPOCH, format: false };
const FIRST: Goal = Goal::Run { epoch: EPOCH, format: true };
const STOP: Goal = Goal::Stop { force: false };
const KILL: Goal = Goal::Stop { force: true };

fn store() -> VolumeName {
    VolumeName::new("store").expect("name")
}

fn config() -> RuntimeConfig {
    let service = |name: &str, after: &[(&str, Need)]| ServicePlan {
        name: name.into(),
        after: after.iter().map(|(n, need)| ((*n).to_owned(), *need)).collect(),
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
    }
}

/// The outside world: carries steps out and is observed.
#[derive(Clone, Default)]
struct Engine {
    now: u64,
    containers: BTreeMap<String, ContainerState>,
    addresses: bool,
    primary: bool,
    filesystem: bool,
    done: Vec<String>,
    broken: Vec<Step>,
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
            Step::Start(s) | Step::Restart(s) | Step::Unpause(s) => drop(set(s, ContainerState::Running)),
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
            .map(|(n, s)| (n.clone(), Container { state: *s, health: health(n, *s) }))
            .collect()
    }

    fn volumes(&self) -> Vec<VolumeStatus> {
        vec![VolumeStatus {
            volume: store(),
            group: GroupName::new("web").expect("name"),
            size_bytes: 4096,
            role: if self.primary { Role::Primary } else { Role::Secondary },
            epoch: EPOCH,
            disk: DiskState::UpToDate,
            generation: Generation(1),
            boot: BootId(1),
            device: self.primary.then(|| "/dev/baton/store".into()),
            filesystem: self.filesystem.then(|| "ext4".into()),
            frozen: None,
            frozen_since: None,
            required: Vec::new(),
            peers: Vec::new(),
            activity_log_extents: 0,
            counters: Default::default(),
            alarms: Vec::new(),
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

#[test]
fn a_silent_engine_is_no_stopped_engine() {
    let mut runtime = Runtime::new(config(), Instant::ZERO);
    runtime.handle(RunEvent::Goal(KILL), Instant::ZERO);
    runtime.handle(RunEvent::Containers(None), Instant::ZERO);
    assert_eq!(runtime.report().phase, Phase::Stopping);
    assert!(!runtime.report().free);
}

/// Every sequence of two goals, interrupted after each step, by a change of mind or by the death of the agent,
/// reaches the last goal.
#[test]
fn any_interrupted_sequence_reaches_its_goal() {
    let goals = [RUN, STOP, KILL, Goal::Fence];
    let reached = |goal: Goal, phase: Phase| match goal {
        Goal::Run { .. } => phase == Phase::Running,
        Goal::Fence => phase == Phase::Fenced,
        Goal::Stop { .. } => phase == Phase::Stopped,
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
                            Goal::Fence | Goal::Stop { .. } | Goal::Hold => {
                                assert!(!running && !engine.addresses, "{case}");
                            }
                        }
                        sequences += 1;
                    }
                }
            }
        }
    }
    assert_eq!(sequences, 4 * 4 * 9 * 4);
}
