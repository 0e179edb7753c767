//! Against real processes: a small agent of ours in the ClusterLabs convention, whose power is a file, and ones that are
//! slow, hang, lie, fail and chatter.

use super::agent::{Call, Ended, run};
use super::levels::{Action, carry_out};
use super::{Because, Fencer, Parts};
use crate::core::group::FenceOutcome;
use crate::core::record::Outcome;
use crate::driver::history::History;
use crate::etcd::tests::Cluster;
use crate::spec::{FenceDevice, Spec};
use crate::status::ClusterStatus;
use baton_replicator::types::{GroupName, NodeName};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

/// As `fence_dummy`: the power's state is a file; `mode` makes it misbehave.
const AGENT: &str = include_str!("testdata/fence_file");

struct Rack {
    dir: TempDir,
}

impl Rack {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fence_file");
        std::fs::write(&program, AGENT).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn power(&self, plug: &str) -> String {
        std::fs::read_to_string(self.path().join(plug)).unwrap_or_else(|_| "on".into()).trim().to_owned()
    }

    /// What the agents were asked, in order.
    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }

    fn device(&self, plug: &str, mode: &str) -> FenceDevice {
        let options = [("status_file", self.path().join(plug)), ("log_file", self.path().join("log"))];
        let mut options: BTreeMap<String, String> =
            options.into_iter().map(|(k, v)| (k.to_owned(), v.display().to_string())).collect();
        options.insert("plug".into(), plug.into());
        options.insert("mode".into(), mode.into());
        FenceDevice {
            agent: "fence_file".into(),
            options,
            password_file: None,
            timeout: Duration::from_secs(20),
            retries: 0,
            delay: Duration::ZERO,
            verify: true,
        }
    }

    async fn carry_out(&self, levels: &[Vec<FenceDevice>], action: Action) -> Result<String, String> {
        let call = |device, call| async move { run(self.path(), &device, &beta(), call).await };
        carry_out(levels, action, call, || std::future::ready(Ok(()))).await
    }
}

fn beta() -> NodeName {
    NodeName::new("beta").unwrap()
}

#[tokio::test]
async fn an_agent_is_told_by_lines_and_answers_by_its_exit_code() {
    let rack = Rack::new();
    let device = rack.device("one", "good");
    assert_eq!(run(rack.path(), &device, &beta(), Call::Monitor).await, Ended::Code(0, String::new()));
    assert!(matches!(run(rack.path(), &device, &beta(), Call::Status).await, Ended::Code(0, _)), "on");
    assert!(run(rack.path(), &device, &beta(), Call::Off).await.ok());
    assert!(matches!(run(rack.path(), &device, &beta(), Call::Status).await, Ended::Code(2, _)), "off");
    assert_eq!(rack.power("one"), "off");
    assert!(run(rack.path(), &device, &beta(), Call::On).await.ok());
    assert_eq!(rack.power("one"), "on");
    assert_eq!(rack.log()[2], "off plug=one nodename=beta");
}

#[tokio::test]
async fn what_hangs_is_killed_with_its_children_and_what_is_not_there_is_said() {
    let rack = Rack::new();
    let hangs = FenceDevice { timeout: Duration::from_secs(1), ..rack.device("one", "hangs") };
    let began = Instant::now();
    let Ended::Not(why) = run(rack.path(), &hangs, &beta(), Call::Off).await else { panic!("it was killed") };
    assert!(why.contains("killed after 1 s") && began.elapsed() < Duration::from_secs(10), "{why}");
    // Its child holds the log's name in its arguments; gone within a moment, as the kernel reaps it.
    let child = std::fs::read_to_string(rack.path().join("one.child")).expect("it started a child");
    let deadline = Instant::now() + Duration::from_secs(10);
    let runs = || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z")
    };
    while runs() {
        assert!(Instant::now() < deadline, "the child of the agent is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let gone = FenceDevice { agent: "fence_nowhere".into(), ..rack.device("one", "good") };
    let Ended::Not(why) = run(rack.path(), &gone, &beta(), Call::Off).await else {
        panic!("it is not there")
    };
    assert!(why.contains("cannot run") && why.contains("fence_nowhere"), "{why}");
    let slow = rack.device("one", "slow");
    assert!(run(rack.path(), &slow, &beta(), Call::Off).await.ok(), "slow is not hanging");
}

#[tokio::test]
async fn what_says_more_than_a_pipe_holds_is_heard_to_its_end() {
    let rack = Rack::new();
    let floods = FenceDevice { timeout: Duration::from_secs(5), ..rack.device("one", "floods") };
    let ended = run(rack.path(), &floods, &beta(), Call::Off).await;
    let Ended::Code(0, said) = &ended else { panic!("{ended:?}") };
    assert!(said.starts_with("xxx") && said.len() <= 400, "{said}");
    assert_eq!(rack.power("one"), "off");
}

#[tokio::test]
async fn a_password_comes_from_a_file_and_is_shown_nowhere() {
    let rack = Rack::new();
    let file = rack.path().join("password");
    std::fs::write(&file, "s3cret word\n").unwrap();
    let device = FenceDevice { password_file: Some(file.clone()), ..rack.device("one", "chatters") };
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let Ended::Not(why) = run(rack.path(), &device, &beta(), Call::Off).await else { panic!("refused") };
    assert!(why.contains("chmod 600"), "{why}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    // It repeats everything that it was told, and fails.
    let ended = run(rack.path(), &device, &beta(), Call::Off).await;
    let Ended::Code(1, said) = &ended else { panic!("{ended:?}") };
    assert!(said.contains("plug=one") && said.contains("password=(hidden)"), "{said}");
    assert!(!ended.words().contains("s3cret"), "{ended:?}");
}

#[tokio::test]
async fn off_counts_when_the_device_says_that_it_is_off() {
    let rack = Rack::new();
    let lies = rack.device("one", "lies");
    let why = rack.carry_out(&[vec![lies.clone()]], Action::Off).await.expect_err("a lie");
    assert!(why.contains("still says that the power is on"), "{why}");
    let trusted = FenceDevice { verify: false, ..lies };
    assert!(rack.carry_out(&[vec![trusted]], Action::Off).await.is_ok(), "asked not to look");
    let mute = rack.device("two", "mute");
    let why = rack.carry_out(&[vec![mute]], Action::Off).await.expect_err("nobody knows");
    assert!(why.contains("not that the power is off"), "{why}");
    let said = rack.carry_out(&[vec![rack.device("three", "good")]], Action::Off).await.expect("off");
    assert!(said.contains("is off"), "{said}");
}

#[tokio::test]
async fn levels_are_tried_in_order_and_of_one_every_device_must_succeed() {
    let rack = Rack::new();
    let board = rack.device("board", "fails");
    let outlets = vec![rack.device("left", "good"), rack.device("right", "good")];
    let said = rack.carry_out(&[vec![board.clone()], outlets.clone()], Action::Off).await.expect("level 2");
    assert!(said.starts_with("level 2"), "{said}");
    assert_eq!((rack.power("left"), rack.power("right")), ("off".into(), "off".into()));

    let half = vec![rack.device("third", "good"), rack.device("fourth", "fails")];
    let why = rack.carry_out(&[half], Action::Off).await.expect_err("one of two power supplies is on");
    assert!(why.contains("fourth"), "{why}");

    let before = rack.log().len();
    let patient = FenceDevice { retries: 2, ..board };
    rack.carry_out(&[vec![patient]], Action::Off).await.expect_err("fails");
    assert_eq!(rack.log().len() - before, 3, "once, and two retries");
}

#[tokio::test]
async fn a_reboot_switches_all_supplies_off_before_one_is_on_again() {
    let rack = Rack::new();
    let level = vec![rack.device("left", "good"), rack.device("right", "good")];
    rack.carry_out(&[level], Action::Reboot).await.expect("reboot");
    let all = rack.log();
    let told: Vec<&str> = all
        .iter()
        .filter(|l| !l.starts_with("status"))
        .map(|l| l.split(" nodename").next().unwrap())
        .collect();
    assert_eq!(told, ["off plug=left", "off plug=right", "on plug=left", "on plug=right"]);
    let said = rack.carry_out(&[vec![rack.device("left", "good")]], Action::Status).await.expect("status");
    assert!(said.contains("says on"), "{said}");
}

#[tokio::test]
async fn who_has_lost_the_lock_switches_nothing_off_any_more() {
    let rack = Rack::new();
    let levels = [vec![rack.device("one", "fails")], vec![rack.device("two", "good")]];
    let left = std::sync::atomic::AtomicU32::new(1);
    let allowed = || {
        let still = left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1;
        std::future::ready(if still { Ok(()) } else { Err("the lock is gone".to_owned()) })
    };
    let path = rack.path();
    let call = |device, call| async move { run(path, &device, &beta(), call).await };
    let why = carry_out(&levels, Action::Off, call, allowed).await.expect_err("stops");
    assert_eq!(why, "the lock is gone");
    assert_eq!(rack.power("two"), "on");
}

/// Two nodes with the same rack, each with a lease in etcd.
struct Site {
    rack: Rack,
    _told: watch::Sender<Arc<Spec>>,
    alpha: Fencer,
    beta: Fencer,
}

impl Site {
    async fn new(cluster: &Cluster, mode: &str) -> Self {
        let rack = Rack::new();
        let device = |name: &str| {
            let dir = rack.path().display();
            format!(
                "[{{ agent: fence_file, retries: 0, options: {{ plug: {name}, mode: {mode}, status_file: {dir}/{name}, \
                 log_file: {dir}/log }} }}]"
            )
        };
        let text = format!(
            "cluster: demo\nnodes:\n  alpha: {{ address: 10.0.0.1, fence: {} }}\n  beta: {{ address: 10.0.0.2, fence: {} }}\n\
             groups:\n  web: {{ addresses: [10.0.0.9/24] }}\n",
            device("alpha"),
            device("beta")
        );
        let spec = Spec::parse(&text, |_| None).expect("valid");
        let (told, in_force) = watch::channel(Arc::new(spec));
        let mut fencers = Vec::new();
        for me in ["alpha", "beta"] {
            let etcd = cluster.etcd(me).await;
            let lease = etcd.client(0).lease_grant(60, None).await.unwrap().id();
            let fencer = Fencer::start(Parts {
                me: NodeName::new(me).unwrap(),
                dir: rack.path().to_path_buf(),
                records: rack.path().join("records").join(me),
                in_force: in_force.clone(),
                etcd,
                history: History::new(NodeName::new(me).unwrap()).0,
            });
            fencer.lease(lease);
            fencers.push(fencer);
        }
        let beta = fencers.pop().unwrap();
        Self { rack, _told: told, alpha: fencers.pop().unwrap(), beta }
    }
}

fn takeover() -> Because {
    Because::Takeover(GroupName::new("web").unwrap(), 0, 0)
}

fn seen_by(fencer: &Fencer) -> ClusterStatus {
    let mut status = crate::cli::fixture::healthy();
    status.nodes[1].alive = false;
    fencer.put_into(&mut status);
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_switch_each_other_off_one_does() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let site = Site::new(&cluster, "slow").await;
    let alpha = NodeName::new("alpha").unwrap();
    let (one, other) = tokio::join!(
        site.alpha.fence(beta(), Action::Off, takeover()),
        site.beta.fence(alpha.clone(), Action::Off, takeover())
    );
    let off = [&one, &other].iter().filter(|o| ***o == FenceOutcome::Off).count();
    let busy = [&one, &other].iter().filter(|o| matches!(o, FenceOutcome::Busy(_))).count();
    assert_eq!((off, busy), (1, 1), "{one:?}, {other:?}");
    let on = ["alpha", "beta"].iter().filter(|n| site.rack.power(n) == "on").count();
    assert_eq!(on, 1, "one of them goes on");
    assert_eq!(cluster.etcd("x").await.fencing_lock().await.unwrap(), None, "the lock is given back");
    assert!(matches!(
        site.alpha.fence(alpha, Action::Off, takeover()).await,
        FenceOutcome::Failed(why) if why.contains("does not fence itself")
    ));
}

/// etcd did not answer when the lock was asked for, or given back, and did it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_left_over_is_given_back_by_its_owner_alone() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let site = Site::new(&cluster, "good").await;
    let etcd = cluster.etcd("x").await;
    let lease = etcd.client(0).lease_grant(60, None).await.unwrap().id();
    let lock = site.alpha.lock_of(&beta(), 7);
    assert!(matches!(etcd.lock_fencing(&lock, None, lease).await, Outcome::Committed { .. }));
    // Nobody knows it for left over: somebody else, or another attempt of this agent, may be using it.
    let outcome = site.alpha.fence(beta(), Action::Off, takeover()).await;
    assert!(matches!(outcome, FenceOutcome::Busy(_)), "{outcome:?}");
    site.alpha.leave(site.alpha.lock_of(&beta(), 8));
    site.beta.give_back().await;
    site.alpha.give_back().await;
    assert!(etcd.fencing_lock().await.unwrap().is_some(), "not that one");
    site.alpha.leave(lock);
    assert_eq!(site.alpha.fence(beta(), Action::Off, takeover()).await, FenceOutcome::Off);
    assert_eq!(etcd.fencing_lock().await.unwrap(), None);
    assert_eq!(site.alpha.left().len(), 1, "the other one may come yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_switched_off_is_known_to_all_until_it_is_heard() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let site = Site::new(&cluster, "good").await;
    assert_eq!(site.alpha.fence(beta(), Action::Off, takeover()).await, FenceOutcome::Off);
    let mine = seen_by(&site.alpha);
    let fence = mine.nodes[1].fence.as_ref().expect("has devices");
    assert!(fence.off && fence.done == 1, "{fence:?}");
    let last = fence.last.clone().expect("a deed");
    assert_eq!((last.action.as_str(), last.by.as_str(), last.ok), ("off", "alpha", true));
    assert!(last.because.contains("web"), "{last:?}");
    let etcd = cluster.etcd("x").await;
    let deadline = Instant::now() + Duration::from_secs(15);
    while seen_by(&site.beta).nodes[1].fence.as_ref().is_none_or(|f| !f.off) {
        assert!(Instant::now() < deadline, "the other agent does not learn of it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Its agent is heard: a moment later it is not certain to be off, and never again by this deed.
    while !etcd.fence_records().await.unwrap()[&beta()].over {
        assert!(Instant::now() < deadline, "the return is not noticed");
        let mut status = crate::cli::fixture::healthy();
        site.alpha.put_into(&mut status);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!seen_by(&site.alpha).nodes[1].fence.as_ref().unwrap().off);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nobody_is_switched_off_but_by_a_person() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let site = Site::new(&cluster, "good").await;
    cluster.kill(0);
    let outcome = site.alpha.fence(beta(), Action::Off, takeover()).await;
    assert!(matches!(outcome, FenceOutcome::Busy(_)), "{outcome:?}");
    assert_eq!(site.alpha.left().len(), 1, "it may be committed yet");
    assert_eq!(site.rack.power("beta"), "on");
    let person = Because::Person("ada".into());
    assert_eq!(site.alpha.fence(beta(), Action::Off, person).await, FenceOutcome::Off);
    assert_eq!(site.rack.power("beta"), "off");
    assert!(site.rack.path().join("records/alpha/beta.json").exists(), "remembered on this node meanwhile");
}
