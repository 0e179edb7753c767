//! The engine adapter against the real Docker engine of this machine, with an image made of a static busybox.
//!
//! Every test uses a cluster name of its own and removes what it made, also when it fails. Without an engine
//! the tests fail; `BATON_TEST_NO_DOCKER=1` says on purpose that there is none.

use baton_operator::docker::{
    DockerError, Engine, Ensured, Health, HealthcheckSpec, Liveness, MountSpec, NetworkMode, Owner,
    ServiceSpec, VolumeSpec, Wake,
};
use std::process::Command;
use std::time::{Duration, Instant};

const SOCKET: &str = "unix:///var/run/docker.sock";
const NODE: &str = "unit";

/// Runs a program, panics with its error output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// One test's things in the engine.
struct Bench {
    engine: Engine,
    owner: Owner,
    image: String,
    loops: Vec<(String, tempfile::TempDir)>,
}

impl Bench {
    fn new(test: &str, network: NetworkMode) -> Option<Self> {
        if std::env::var_os("BATON_TEST_NO_DOCKER").is_some() {
            return None;
        }
        let owner = Owner { cluster: format!("t{}-{test}", std::process::id()), node: NODE.into() };
        let image = format!("baton-test-{}:{test}", std::process::id());
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bin")).unwrap();
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| std::path::Path::new(p).exists());
        std::fs::copy(busybox.expect("install busybox-static"), root.path().join("bin/busybox")).unwrap();
        for name in ["sh", "sleep", "cat", "touch"] {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name)).unwrap();
        }
        let tar = root.path().join("root.tar");
        let (tar, dir) = (tar.to_str().unwrap(), root.path().to_str().unwrap());
        run("tar", &["-C", dir, "-cf", tar, "bin"]);
        run("docker", &["import", tar, &image]);
        let engine = Engine::connect(SOCKET, owner.clone(), network).unwrap();
        Some(Self { engine, owner, image, loops: vec![] })
    }

    fn service(&self, name: &str, script: &str) -> ServiceSpec {
        ServiceSpec {
            container: self.owner.container_name("web", name),
            group: "web".into(),
            service: name.into(),
            image: self.image.clone(),
            command: Some(vec!["/bin/sh".into(), "-c".into(), script.into()]),
            ..Default::default()
        }
    }

    /// A loop device with a fresh ext4 on it.
    fn ext4(&mut self) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.img");
        std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let file = file.to_str().unwrap();
        run("mkfs.ext4", &["-q", file]);
        let device = run("losetup", &["--find", "--show", file]);
        self.loops.push((device.clone(), dir));
        device
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let filter = format!("label=baton.cluster={}", self.owner.cluster);
        let quiet = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        for id in quiet("docker", &["ps", "-aq", "--filter", &filter]).lines() {
            quiet("docker", &["unpause", id]);
            quiet("docker", &["rm", "-fv", id]);
        }
        for name in quiet("docker", &["volume", "ls", "-q", "--filter", &filter]).lines() {
            quiet("docker", &["volume", "rm", name]);
        }
        quiet("docker", &["rmi", "-f", &self.image]);
        for (device, _) in &self.loops {
            quiet("losetup", &["-d", device]);
        }
    }
}

#[tokio::test]
async fn a_service_lives_through_its_states_and_every_call_may_be_repeated() {
    let Some(bench) = Bench::new("life", NetworkMode::Host) else { return };
    let engine = &bench.engine;
    assert!(!engine.ping().await.unwrap().version.is_empty());
    assert!(engine.image_present(&bench.image).await.unwrap());
    assert!(!engine.image_present("baton-test-absent:1").await.unwrap());

    let spec = bench.service("app", "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
    let name = spec.container.as_str();
    assert!(engine.inspect(name).await.missing());
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Created);
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Unchanged);
    assert_eq!(engine.inspect(name).await.liveness, Liveness::Stopped);

    for _ in 0..2 {
        engine.start(name).await.unwrap();
    }
    assert_eq!(engine.inspect(name).await.state, "running");
    let command = ["/bin/sh".into(), "-c".into(), "echo hi; exit 3".into()];
    let done = engine.exec(name, &command, Duration::from_secs(10)).await.unwrap();
    assert_eq!((done.exit_code, done.output.trim()), (3, "hi"));

    // A running container is left alone, whatever the specification says now.
    let mut changed = spec.clone();
    changed.env.insert("A".into(), "1".into());
    assert_eq!(engine.ensure_created(&changed).await.unwrap(), Ensured::OutdatedRunning);
    assert_eq!(engine.inspect(name).await.liveness, Liveness::Running);

    let owned = engine.list_owned().await.unwrap();
    assert_eq!(owned.len(), 1);
    assert_eq!(
        (owned[0].name.as_str(), owned[0].group.as_str(), owned[0].service.as_str()),
        (name, "web", "app")
    );

    for _ in 0..2 {
        engine.stop(name, Duration::from_secs(10)).await.unwrap();
    }
    let stopped = engine.inspect(name).await;
    assert_eq!((stopped.state.as_str(), stopped.exit_code), ("exited", Some(7)), "TERM was heard");

    assert_eq!(engine.ensure_created(&changed).await.unwrap(), Ensured::Recreated);
    for _ in 0..2 {
        engine.remove(name).await.unwrap();
    }
    assert!(engine.inspect(name).await.missing());
}

#[tokio::test]
async fn a_deaf_service_is_killed_when_its_grace_ends() {
    let Some(bench) = Bench::new("deaf", NetworkMode::Host) else { return };
    let spec = bench.service("app", "trap '' TERM; while :; do sleep 1; done");
    bench.engine.ensure_created(&spec).await.unwrap();
    bench.engine.start(&spec.container).await.unwrap();
    let began = Instant::now();
    bench.engine.stop(&spec.container, Duration::from_millis(300)).await.unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(5), "the engine's whole second was not waited for: {took:?}");
    let found = bench.engine.inspect(&spec.container).await;
    assert_eq!((found.liveness, found.exit_code), (Liveness::Stopped, Some(137)));
}

#[tokio::test]
async fn a_frozen_service_can_be_thawed_started_and_killed() {
    let Some(bench) = Bench::new("frozen", NetworkMode::Host) else { return };
    let (engine, spec) = (&bench.engine, bench.service("app", "while :; do sleep 1; done"));
    let name = spec.container.as_str();
    engine.ensure_created(&spec).await.unwrap();
    // Nothing to freeze yet, which is as good as frozen.
    engine.pause(name).await.unwrap();
    engine.pause("t-no-such-container").await.unwrap();
    engine.start(name).await.unwrap();
    for _ in 0..2 {
        engine.pause(name).await.unwrap();
    }
    let frozen = engine.inspect(name).await;
    assert!(frozen.paused && frozen.liveness == Liveness::Running, "{frozen:?}");
    engine.start(name).await.unwrap();
    assert!(!engine.inspect(name).await.paused, "starting a frozen container thaws it");
    engine.unpause(name).await.unwrap();

    engine.pause(name).await.unwrap();
    engine.kill(name).await.unwrap();
    assert_eq!(engine.inspect(name).await.liveness, Liveness::Stopped);
    engine.kill(name).await.unwrap();

    engine.start(name).await.unwrap();
    engine.pause(name).await.unwrap();
    engine.stop(name, Duration::from_secs(5)).await.unwrap();
    assert_eq!(engine.inspect(name).await.liveness, Liveness::Stopped);
}

#[tokio::test]
async fn the_engine_mounts_the_device_and_a_missing_one_is_named() {
    let Some(mut bench) = Bench::new("mount", NetworkMode::Host) else { return };
    let device = bench.ext4();
    let volume = |device: &str| VolumeSpec {
        name: bench.owner.volume_name("webstore"),
        filesystem: "ext4".into(),
        device: device.into(),
        options: String::new(),
    };
    let mut spec = bench.service("db", "echo kept > /data/row; while :; do sleep 1; done");
    let target = MountSpec::Volume { name: volume("").name, target: "/data".into(), read_only: false };
    spec.mounts.push(target);
    let (engine, name) = (&bench.engine, spec.container.clone());

    let missing = engine.ensure_created(&spec).await.unwrap_err();
    assert!(matches!(missing, DockerError::VolumeMissing { .. }), "Docker must not invent one: {missing}");

    // As on a standby: the device is not there, and creating the container works nevertheless.
    engine.ensure_volume(&volume("/dev/baton-test-absent")).await.unwrap();
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Created);
    let failed = engine.start(&name).await.unwrap_err();
    assert!(matches!(failed, DockerError::MountFailed { .. }), "{failed:?}");
    assert!(failed.to_string().contains("primary on this node"), "{failed}");

    // Other options: the volume is made anew, and the stopped container that referred to it goes.
    for _ in 0..2 {
        engine.ensure_volume(&volume(&device)).await.unwrap();
    }
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Created);
    engine.start(&name).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let read = engine
            .exec(&name, &["/bin/cat".into(), "/data/row".into()], Duration::from_secs(10))
            .await
            .unwrap();
        if read.output.trim() == "kept" {
            break;
        }
        assert!(Instant::now() < deadline, "{read:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let in_use = engine.ensure_volume(&volume("/dev/other")).await.unwrap_err();
    assert!(
        matches!(in_use, DockerError::VolumeInUse { .. }) && in_use.to_string().contains(&name),
        "{in_use}"
    );

    engine.stop(&name, Duration::from_millis(100)).await.unwrap();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&format!("{device} ")), "the last stop unmounts");
    engine.remove(&name).await.unwrap();
    for _ in 0..2 {
        engine.remove_volume(&volume(&device).name).await.unwrap();
    }
    // What the service wrote is on the device and not in a directory of the engine.
    let seen = run("debugfs", &["-R", "cat /row", &device]);
    assert!(seen.contains("kept"), "{seen}");
}

#[tokio::test]
async fn a_namespace_made_anew_invalidates_what_joined_it() {
    let holder = format!("t{}-ns", std::process::id());
    let Some(bench) = Bench::new("ns", NetworkMode::Container(holder.clone())) else { return };
    let label = format!("baton.cluster={}", bench.owner.cluster);
    let hold = || {
        run(
            "docker",
            &[
                "run",
                "-d",
                "--name",
                &holder,
                "--label",
                &label,
                "--network",
                "none",
                &bench.image,
                "/bin/sleep",
                "1000",
            ],
        );
    };
    let (engine, spec) = (&bench.engine, bench.service("app", "while :; do sleep 1; done"));
    let gone = engine.ensure_created(&spec).await.unwrap_err();
    assert!(matches!(gone, DockerError::NamespaceGone { .. }), "{gone}");

    hold();
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Created);
    engine.start(&spec.container).await.unwrap();
    engine.stop(&spec.container, Duration::from_millis(100)).await.unwrap();

    run("docker", &["kill", &holder]);
    let stopped = engine.start(&spec.container).await.unwrap_err();
    assert!(matches!(stopped, DockerError::NamespaceGone { .. }), "{stopped:?}");

    run("docker", &["rm", "-f", &holder]);
    hold();
    let anew = engine.start(&spec.container).await.unwrap_err();
    assert!(matches!(anew, DockerError::NamespaceGone { .. }), "{anew:?}");
    assert_eq!(engine.ensure_created(&spec).await.unwrap(), Ensured::Recreated);
    engine.start(&spec.container).await.unwrap();
}

#[tokio::test]
async fn health_and_events_are_seen_and_strangers_are_left_alone() {
    let Some(bench) = Bench::new("health", NetworkMode::Host) else { return };
    let engine = &bench.engine;
    let mut events = engine.events();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), events.recv()).await.unwrap(),
        Some(Wake::Everything)
    );

    let mut spec = bench.service("app", "while :; do sleep 1; done");
    spec.healthcheck = Some(HealthcheckSpec {
        test: vec!["CMD".into(), "/bin/cat".into(), "/ok".into()],
        interval: Some(Duration::from_millis(200)),
        timeout: Some(Duration::from_secs(5)),
        retries: Some(1),
        start_period: None,
    });
    engine.ensure_created(&spec).await.unwrap();
    engine.start(&spec.container).await.unwrap();
    wait_health(engine, &spec.container, Health::Unhealthy).await;
    engine
        .exec(&spec.container, &["/bin/touch".into(), "/ok".into()], Duration::from_secs(10))
        .await
        .unwrap();
    wait_health(engine, &spec.container, Health::Healthy).await;

    // Killed behind our back: the event says so.
    run("docker", &["kill", &spec.container]);
    let died = Wake::Container { name: spec.container.clone(), action: "die".into() };
    let seen = async { while events.recv().await.as_ref() != Some(&died) {} };
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("a 'die' event");

    let stranger =
        Engine::connect(SOCKET, Owner { cluster: "other".into(), node: NODE.into() }, NetworkMode::Host);
    let stranger = stranger.unwrap();
    let refused = stranger.remove(&spec.container).await.unwrap_err();
    assert!(matches!(refused, DockerError::Foreign { .. }), "{refused}");
    assert!(stranger.list_owned().await.unwrap().is_empty());
}

async fn wait_health(engine: &Engine, container: &str, health: Health) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = engine.inspect(container).await;
        if found.health == Some(health) {
            return;
        }
        assert!(Instant::now() < deadline, "never {health:?}: {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_engine_that_does_not_answer_makes_nothing_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let owner = Owner { cluster: "mute".into(), node: NODE.into() };
    let url = format!("unix://{}", socket.display());
    let absent = Engine::connect(&url, owner.clone(), NetworkMode::Host).unwrap_err();
    assert!(matches!(absent, DockerError::Unreachable { .. }), "{absent}");

    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let engine = Engine::connect(&url, owner, NetworkMode::Host).unwrap();
    let began = Instant::now();
    let found = engine.inspect("anything").await;
    assert_eq!(found.liveness, Liveness::Unknown, "{found:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(listener);
    assert_eq!(engine.inspect("anything").await.liveness, Liveness::Unknown);
    let error = engine.start("anything").await.unwrap_err();
    assert!(error.no_answer(), "{error}");
}
