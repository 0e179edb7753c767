//! Against real etcd members on loopback, with members killed and frozen.
//!
//! Without an `etcd` binary these tests fail, unless BATON_TEST_NO_ETCD=1 says that this is meant.

use super::*;
use crate::core::record::{
    GroupWish, Guard, InSync, LeaderKey, LeaderWrite, LeaseRef, ModeWish, Outcome, StoredNote, Txn, TxnKind,
};
use crate::status::{Event, FenceRecord, NodeMode};
use baton_replicator::types::{BootId, Epoch, GroupName, Member, NodeName, TermId};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Everything here is over in a few seconds; this is when a test is stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of one request, where etcd answers: a machine that stands still for a second or two is no reason for another outcome.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same where it is known not to.
const HASTE: Duration = Duration::from_secs(1);
/// Of the leases here: what keeps them may stand still, too.
const TTL: Duration = Duration::from_secs(6);

pub(crate) struct Cluster {
    members: Vec<Child>,
    urls: Vec<String>,
    _dir: TempDir,
}

impl Cluster {
    /// None only where the absence of etcd was announced.
    pub(crate) async fn start(size: usize) -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(
                std::env::var("BATON_TEST_NO_ETCD").is_ok_and(|v| v == "1"),
                "no etcd binary: install etcd-server, or set BATON_TEST_NO_ETCD=1 to go without these tests"
            );
            eprintln!("SKIPPED: BATON_TEST_NO_ETCD=1, nothing about etcd is tested");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let listeners: Vec<_> = (0..size * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let urls: Vec<String> = listeners[..size].iter().map(url).collect();
        let peers: Vec<String> = listeners[size..].iter().map(url).collect();
        drop(listeners);
        let initial =
            peers.iter().enumerate().map(|(i, p)| format!("m{i}={p}")).collect::<Vec<_>>().join(",");
        let members = (0..size)
            .map(|i| {
                Command::new("etcd")
                    .args(["--name", &format!("m{i}"), "--data-dir"])
                    .arg(dir.path().join(format!("m{i}")))
                    .args(["--listen-client-urls", &urls[i], "--advertise-client-urls", &urls[i]])
                    .args(["--listen-peer-urls", &peers[i], "--initial-advertise-peer-urls", &peers[i]])
                    .args(["--initial-cluster", &initial, "--initial-cluster-state", "new"])
                    .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("etcd starts")
            })
            .collect();
        let cluster = Self { members, urls, _dir: dir };
        let etcd = cluster.etcd("starter").await;
        let begin = Instant::now();
        // Every member must have a leader, or the tests would measure its start.
        while etcd.members().await.iter().any(|m| m.id.is_none()) || etcd.spec().await.is_err() {
            assert!(begin.elapsed() < PATIENCE, "etcd does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(cluster)
    }

    pub(crate) async fn etcd(&self, node: &str) -> Etcd {
        self.etcd_within(node, TIMEOUT).await
    }

    /// One that is soon done with an etcd that does not answer.
    pub(crate) async fn hasty(&self, node: &str) -> Etcd {
        self.etcd_within(node, HASTE).await
    }

    async fn etcd_within(&self, node: &str, timeout: Duration) -> Etcd {
        Etcd::new(&self.urls, "test", NodeName::new(node).unwrap(), timeout).await.unwrap()
    }

    /// A key as it stands, and as another program would write it.
    async fn value(&self, key: &str) -> Option<String> {
        let mut client = etcd_client::Client::connect(&self.urls, None).await.unwrap();
        let found = client.get(key, None).await.unwrap();
        found.kvs().first().map(|kv| kv.value_str().unwrap().to_owned())
    }

    async fn put(&self, key: &str, value: &str) {
        let mut client = etcd_client::Client::connect(&self.urls, None).await.unwrap();
        client.put(key, value, None).await.unwrap();
    }

    /// Deletes everything, as an administrator with the wrong prefix would.
    pub(crate) async fn empty(&self) {
        let mut client = etcd_client::Client::connect(&self.urls, None).await.unwrap();
        let all = etcd_client::DeleteOptions::new().with_all_keys();
        client.delete("", Some(all)).await.unwrap();
    }

    fn signal(&self, member: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.members[member]), signal).unwrap();
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].kill().unwrap();
        self.members[member].wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn group() -> GroupName {
    GroupName::new("web").unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn alive() -> Alive {
    Alive { addresses: vec!["10.0.0.1".into()], version: "1".into(), incarnation: "i".into() }
}

fn epoch(number: u64) -> Epoch {
    Epoch { number, term: TermId(number << 40) }
}

fn insync(number: u64) -> InSync {
    let members = vec![Member { node: node("a"), boot: BootId(7) }];
    InSync { epoch: epoch(number), members, candidates: vec![node("a"), node("b")], fresh: false }
}

/// A takeover by `a` with these guards.
fn takeover(number: u64, leader: i64, insync_rev: i64, fence: i64) -> Txn {
    let key = LeaderKey { node: node("a"), epoch: epoch(number), handed: false };
    Txn {
        id: number,
        kind: TxnKind::Takeover,
        guard: Guard { leader, insync: insync_rev, fence: Some(fence) },
        cluster: 0,
        leader: LeaderWrite::Put(key, LeaseRef::Mine),
        insync: Some(insync(number)),
        clear_target: false,
    }
}

async fn granted(etcd: &Etcd) -> (LeaseTask, tokio::sync::mpsc::Receiver<LeaseEvent>) {
    let (task, mut events) = etcd.keep_lease(TTL, alive());
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("a grant in time").unwrap();
    let LeaseEvent::Granted { lease, ttl, .. } = event else { panic!("{event:?}") };
    assert_eq!(lease, task.id());
    assert!(ttl >= TTL);
    (task, events)
}

#[tokio::test]
async fn a_record_is_written_read_and_guarded() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let empty = etcd.read(&group()).await.unwrap();
    assert!(
        empty.leader.is_none() && empty.insync.is_none() && empty.fence_rev == 0 && empty.cluster_id != 0
    );
    let (lease, _events) = granted(&etcd).await;

    let fence = etcd.write_fence(&group()).await.unwrap();
    let Outcome::Committed { revision } =
        etcd.transact(&group(), &takeover(1, 0, 0, fence), lease.id()).await
    else {
        panic!("the first record is written")
    };
    let record = etcd.read(&group()).await.unwrap();
    let leader = record.leader.clone().unwrap();
    assert_eq!((leader.value.node, leader.value.epoch, leader.lease), (node("a"), epoch(1), lease.id()));
    assert_eq!((leader.revision, record.insync.clone().unwrap().revision), (revision, revision));
    assert_eq!(record.insync.unwrap().value, insync(1));
    assert_eq!((record.fence_rev, record.revision, record.cluster_id), (fence, revision, empty.cluster_id));
    assert_eq!(record.nodes[&node("a")].lease, Some(lease.id()));

    for (what, wrong) in [
        ("leader", takeover(2, 0, revision, fence)),
        ("insync", takeover(2, revision, 0, fence)),
        ("fence", takeover(2, revision, revision, fence - 1)),
    ] {
        assert_eq!(etcd.transact(&group(), &wrong, lease.id()).await, Outcome::GuardFailed, "{what}");
    }
    // Another node's fence key is not ours.
    cluster.etcd("b").await.write_fence(&group()).await.unwrap();
    let delete = Txn { leader: LeaderWrite::Delete, insync: None, ..takeover(2, revision, revision, fence) };
    assert!(matches!(etcd.transact(&group(), &delete, lease.id()).await, Outcome::Committed { .. }));
    let record = etcd.read(&group()).await.unwrap();
    assert!(record.leader.is_none() && record.insync.is_some());
}

#[tokio::test]
async fn a_lease_that_is_gone_fails_the_guard_and_writes_nothing() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let fence = etcd.write_fence(&group()).await.unwrap();
    assert_eq!(etcd.transact(&group(), &takeover(1, 0, 0, fence), 0x1234).await, Outcome::GuardFailed);
    let record = etcd.read(&group()).await.unwrap();
    assert!(record.leader.is_none() && record.insync.is_none());
}

#[tokio::test]
async fn what_another_cluster_answers_to_a_transaction_says_nothing() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let (lease, _events) = granted(&etcd).await;
    let fence = etcd.write_fence(&group()).await.unwrap();
    let own = etcd.read(&group()).await.unwrap().cluster_id;
    // Guards that hold, and guards that do not.
    for leader in [0, 7] {
        let meant_for_another = Txn { cluster: own ^ 1, ..takeover(1, leader, 0, fence) };
        assert_eq!(etcd.transact(&group(), &meant_for_another, lease.id()).await, Outcome::Unknown);
    }
    let record = etcd.read(&group()).await.unwrap();
    let (leader, insync) = (record.leader.map_or(0, |l| l.revision), record.insync.map_or(0, |i| i.revision));
    let meant = Txn { cluster: own, ..takeover(2, leader, insync, fence) };
    let outcome = etcd.transact(&group(), &meant, lease.id()).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test]
async fn the_successors_lease_carries_a_handover() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let (a, b) = (cluster.etcd("a").await, cluster.etcd("b").await);
    let (lease_a, _events_a) = granted(&a).await;
    let (lease_b, _events_b) = granted(&b).await;
    let fence = a.write_fence(&group()).await.unwrap();
    a.put_target(&group(), Some(&node("b"))).await.unwrap();
    let seen = a.read(&group()).await.unwrap();
    assert_eq!(seen.target, Some(node("b")));
    let successor = seen.nodes[&node("b")].lease.unwrap();
    let key = LeaderKey { node: node("b"), epoch: epoch(2), handed: true };
    let leader = LeaderWrite::Put(key, LeaseRef::Of(successor));
    let txn = Txn { leader, clear_target: true, ..takeover(2, 0, 0, fence) };
    assert!(matches!(a.transact(&group(), &txn, lease_a.id()).await, Outcome::Committed { .. }));
    let record = b.read(&group()).await.unwrap();
    assert_eq!((record.leader.unwrap().lease, record.target), (lease_b.id(), None));
    // The key goes with the lease that carries it.
    lease_b.revoke().await.unwrap();
    assert!(a.read(&group()).await.unwrap().leader.is_none());
}

#[tokio::test]
async fn a_wish_is_changed_only_at_the_version_that_was_seen() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    assert_eq!(etcd.mode(&node("b")).await.unwrap(), (NodeMode::Online.into(), 0), "never expressed");
    assert_eq!(etcd.put_mode_if(&node("b"), &NodeMode::Standby.into(), 7).await, Outcome::GuardFailed);
    assert!(matches!(
        etcd.put_mode_if(&node("b"), &NodeMode::Standby.into(), 0).await,
        Outcome::Committed { .. }
    ));
    let (mode, version) = etcd.mode(&node("b")).await.unwrap();
    assert_eq!(mode, NodeMode::Standby.into());
    assert_eq!(
        etcd.put_mode_if(&node("b"), &NodeMode::Online.into(), 0).await,
        Outcome::GuardFailed,
        "somebody was faster"
    );
    assert!(matches!(
        etcd.put_mode_if(&node("b"), &NodeMode::Maintenance.into(), version).await,
        Outcome::Committed { .. }
    ));
    assert!(etcd.mode(&node("b")).await.unwrap().1 > version);

    assert_eq!(etcd.target(&group()).await.unwrap(), (None, 0));
    assert!(matches!(etcd.put_target_if(&group(), Some(&node("b")), 0).await, Outcome::Committed { .. }));
    let (target, version) = etcd.target(&group()).await.unwrap();
    assert_eq!(target, Some(node("b")));
    assert_eq!(etcd.put_target_if(&group(), None, version - 1).await, Outcome::GuardFailed);
    assert!(matches!(etcd.put_target_if(&group(), None, version).await, Outcome::Committed { .. }));
    assert_eq!(etcd.target(&group()).await.unwrap(), (None, 0), "taken back");
    assert!(etcd.answered().is_some_and(|at| crate::heartbeat::clock::now().since(at) < PATIENCE));
}

#[tokio::test]
async fn a_pin_and_its_move_are_one_transaction_and_part_of_the_record() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    assert_eq!(etcd.group_wish(&group()).await.unwrap(), (GroupWish::default(), 0), "never expressed");
    let note = StoredNote { owner: "ada".into(), reason: "audit".into(), since: 7, until: None };
    let pinned = GroupWish { pinned: Some(note), disabled: None };
    let put = etcd.put_group_wish_if(&group(), &pinned, Some(&node("b")), 0).await;
    assert!(matches!(put, Outcome::Committed { .. }));
    let record = etcd.read(&group()).await.unwrap();
    assert_eq!((record.wish, record.target), (pinned.clone(), Some(node("b"))));
    assert_eq!(
        etcd.put_group_wish_if(&group(), &GroupWish::default(), None, 0).await,
        Outcome::GuardFailed,
        "somebody was faster"
    );
    let (wish, version) = etcd.group_wish(&group()).await.unwrap();
    assert_eq!(wish, pinned);
    let put = etcd.put_group_wish_if(&group(), &GroupWish::default(), None, version).await;
    assert!(matches!(put, Outcome::Committed { .. }));
    let record = etcd.read(&group()).await.unwrap();
    assert_eq!(
        (record.wish, record.target),
        (GroupWish::default(), Some(node("b"))),
        "the move is another wish"
    );
}

#[tokio::test]
async fn a_frozen_or_dead_member_costs_little() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    let (lease, _events) = granted(&etcd).await;
    let mut leader = 0;
    let mut insync = 0;
    let mut fence = etcd.write_fence(&group()).await.unwrap();
    for (round, frozen) in [(1, true), (2, false)] {
        // The member that is asked first, unless it leads etcd: an election takes longer, whoever is asked.
        let members = etcd.members().await;
        let victim =
            etcd.order().into_iter().find(|&i| members[i].id.is_some() && !members[i].leads).unwrap();
        etcd.succeeded(victim);
        tokio::time::sleep(Duration::from_millis(150)).await;
        if frozen {
            cluster.signal(victim, Signal::STOP);
        } else {
            cluster.kill(victim);
        }
        let begin = Instant::now();
        etcd.read(&group()).await.unwrap();
        // Without a second member asked meanwhile it takes all of the timeout.
        assert!(begin.elapsed() < TIMEOUT / 2, "read took {:?}", begin.elapsed());
        etcd.succeeded(victim);
        tokio::time::sleep(Duration::from_millis(150)).await;
        let begin = Instant::now();
        let outcome = etcd.transact(&group(), &takeover(round, leader, insync, fence), lease.id()).await;
        let Outcome::Committed { revision } = outcome else { panic!("round {round}: {outcome:?}") };
        assert!(begin.elapsed() < TIMEOUT / 2, "transaction took {:?}", begin.elapsed());
        (leader, insync) = (revision, revision);
        if frozen {
            cluster.signal(victim, Signal::CONT);
        }
        fence = etcd.write_fence(&group()).await.unwrap();
    }
}

/// What TRAPS calls late-commit: the outcome is unknown, and the fence key decides it once and for all.
#[tokio::test]
async fn an_unknown_outcome_is_settled_by_the_fence_key() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    let (lease, _events) = granted(&etcd).await;
    let fence = etcd.write_fence(&group()).await.unwrap();
    let members = etcd.members().await;
    let leading = members.iter().position(|m| m.leads).unwrap();
    let followers: Vec<usize> = (0..3).filter(|i| *i != leading).collect();
    // The leader takes the request and cannot commit it; it was fresh a moment ago, so it is not asked first.
    followers.iter().for_each(|&f| cluster.signal(f, Signal::STOP));
    etcd.succeeded(leading);
    let txn = takeover(1, 0, 0, fence);
    let hasty = cluster.hasty("a").await;
    hasty.succeeded(leading);
    let begin = Instant::now();
    assert_eq!(hasty.transact(&group(), &txn, lease.id()).await, Outcome::Unknown);
    let took = begin.elapsed();
    assert!(took >= HASTE && took < TIMEOUT, "bounded by the timeout: {took:?}");
    assert!(hasty.write_fence(&group()).await.is_err(), "nothing is settled without a quorum");
    followers.iter().for_each(|&f| cluster.signal(f, Signal::CONT));
    let begin = Instant::now();
    while let Err(error) = etcd.write_fence(&group()).await {
        assert!(begin.elapsed() < PATIENCE, "{error}");
    }
    let settled = etcd.read(&group()).await.unwrap();
    // Whatever happened to it, it has happened: the same request cannot take effect any more.
    assert_eq!(etcd.transact(&group(), &txn, lease.id()).await, Outcome::GuardFailed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let later = etcd.read(&group()).await.unwrap();
    assert_eq!((&settled.leader, &settled.insync), (&later.leader, &later.insync));
    let fresh = takeover(
        2,
        later.leader.as_ref().map_or(0, |l| l.revision),
        later.insync.as_ref().map_or(0, |i| i.revision),
        later.fence_rev,
    );
    let outcome = etcd.transact(&group(), &fresh, lease.id()).await;
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

#[tokio::test]
async fn the_lease_is_renewed_and_begun_again_when_lost() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let before = crate::heartbeat::clock::now();
    let (task, mut events) = granted(&etcd).await;
    let first = task.id();
    task.renew_now();
    let renewed = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    let LeaseEvent::Renewed { lease, sent, .. } = renewed else { panic!("{renewed:?}") };
    assert!(lease == first && sent > before && sent <= crate::heartbeat::clock::now());
    // Someone takes the lease away.
    cluster.etcd("b").await.client(0).lease_revoke(first).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("a new lease").unwrap();
        seen.push(event.clone());
        if let LeaseEvent::Granted { lease, .. } = event {
            assert!(lease != first && lease == task.id());
            assert!(seen.contains(&LeaseEvent::Lost { lease: first }), "{seen:?}");
            break;
        }
    }
    let (keys, alive_nodes) = etcd.nodes().await.unwrap();
    assert_eq!(keys[&node("a")].lease, Some(task.id()));
    assert_eq!(alive_nodes[&node("a")], alive());
}

#[tokio::test]
async fn a_node_s_key_that_was_deleted_stands_under_the_same_lease_again() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let (task, _events) = granted(&etcd).await;
    let lease = task.id();
    etcd.client(0).delete(etcd.keys().alive(&node("a")), None).await.unwrap();
    let (found, _) = etcd.nodes().await.unwrap();
    assert!(found.get(&node("a")).is_none_or(|keys| keys.lease.is_none()), "{found:?}");
    task.put_alive();
    let deadline = Instant::now() + PATIENCE;
    while etcd.nodes().await.unwrap().0.get(&node("a")).and_then(|keys| keys.lease) != Some(lease) {
        assert!(Instant::now() < deadline, "the key is not back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(task.id(), lease);
}

#[tokio::test]
async fn a_lease_outlives_a_frozen_member() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    let (task, mut events) = granted(&etcd).await;
    let members = etcd.members().await;
    let victim = etcd.order().into_iter().find(|&i| !members[i].leads).unwrap();
    etcd.succeeded(victim);
    cluster.signal(victim, Signal::STOP);
    let begin = Instant::now();
    // Longer than the lease lives.
    while begin.elapsed() < TTL + Duration::from_secs(2) {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert!(matches!(event, LeaseEvent::Renewed { .. }), "{event:?}");
    }
    assert_eq!(etcd.nodes().await.unwrap().0[&node("a")].lease, Some(task.id()));
}

/// An agent of before writes one word and knows no notes: both directions have to go well while both kinds run.
#[tokio::test]
async fn a_note_belongs_to_its_mode_and_is_nothing_to_older_agents() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let b = node("b");
    let note =
        StoredNote { owner: "ada".into(), reason: "new disk".into(), since: 1_000, until: Some(8_200) };
    let wish = ModeWish { mode: NodeMode::Maintenance, note: Some(note.clone()) };
    etcd.put_mode(&b, &wish).await.unwrap();
    let (found, version) = etcd.mode(&b).await.unwrap();
    assert_eq!(found, wish);
    assert_eq!(etcd.read(&group()).await.unwrap().nodes[&b].note, Some(note.clone()));
    let plain = cluster.value(&etcd.keys().mode(&b)).await;
    assert_eq!(plain.as_deref(), Some("\"maintenance\""), "what an older agent reads");

    // Its end is told once for each time it is set.
    let told = || etcd.tell_mode_expired(&b, version);
    assert!(matches!(told().await, Outcome::Committed { .. }));
    assert_eq!(told().await, Outcome::GuardFailed, "by whomever");
    assert_eq!(etcd.mode(&b).await.unwrap(), (wish.clone(), version), "which changes nothing");
    assert!(matches!(etcd.put_mode_if(&b, &wish, version).await, Outcome::Committed { .. }));
    assert_eq!(told().await, Outcome::GuardFailed, "another one by now");
    let (_, version) = etcd.mode(&b).await.unwrap();
    assert!(matches!(etcd.tell_mode_expired(&b, version).await, Outcome::Committed { .. }));

    // An older agent sets the mode: the note beside it is about another one.
    cluster.put(&etcd.keys().mode(&b), "\"standby\"").await;
    assert_eq!(etcd.mode(&b).await.unwrap().0, NodeMode::Standby.into());
    assert_eq!(etcd.read(&group()).await.unwrap().nodes[&b].note, None);
    // And nonsense in it stops nothing.
    etcd.put_mode(&b, &wish).await.unwrap();
    cluster.put(&etcd.keys().mode_note(&b), "no JSON").await;
    assert_eq!(etcd.read(&group()).await.unwrap().mode(&b), NodeMode::Maintenance);
}

#[tokio::test]
async fn a_watch_wakes_up_also_when_its_member_died() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    let mut watch = etcd.watch_prefix(etcd.keys().prefix().to_owned(), PATIENCE * 2);
    // The first wake-up says that the watch stands.
    tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
    for kill in [false, true] {
        if kill {
            cluster.kill(etcd.order()[0]);
        }
        let mode = if kill { NodeMode::Maintenance } else { NodeMode::Standby };
        // The member killed may have led etcd: an election may outlast one request.
        let begin = Instant::now();
        while let Err(error) = etcd.put_mode(&node("b"), &mode.into()).await {
            assert!(begin.elapsed() < PATIENCE, "{error}");
        }
        // Not the periodic look, which is far away here.
        loop {
            tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
            if etcd.read(&group()).await.unwrap().mode(&node("b")) == mode {
                break;
            }
        }
    }
}

/// A watch is opened at the present revision, so there is nothing that a compaction could take from it; what was
/// missed is found by reading.
#[tokio::test]
async fn a_watch_and_a_read_outlive_a_compaction() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let mut watch = etcd.watch_prefix(etcd.keys().prefix().to_owned(), PATIENCE * 2);
    tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
    for mode in [NodeMode::Standby, NodeMode::Online, NodeMode::Maintenance] {
        let revision = etcd.put_mode(&node("b"), &mode.into()).await.unwrap();
        etcd.client(0).compact(revision, None).await.unwrap();
        // Not the periodic look, which is far away here.
        tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap();
        assert_eq!(etcd.read(&group()).await.unwrap().mode(&node("b")), mode);
    }
}

#[tokio::test]
async fn members_without_a_leader_are_told_from_members_that_are_away() {
    use crate::status::EtcdState;
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    let state = |look: &Look, confirms| {
        let answers: Vec<_> = look.members.iter().map(|m| m.id.map(|_| m.leader.is_some())).collect();
        EtcdState::of(confirms, None, &answers)
    };
    let look = etcd.look().await;
    assert_eq!((state(&look, true), look.voters()), (EtcdState::Answers, Some(3)));
    assert!(look.listed.iter().all(|m| m.name.starts_with('m') && m.hosts.contains(&"127.0.0.1".to_owned())));
    let before = etcd.read(&group()).await.unwrap().revision;
    for _ in 0..3 {
        etcd.look().await;
    }
    assert_eq!(etcd.read(&group()).await.unwrap().revision, before, "a look writes nothing");
    assert!(etcd.latency().is_some_and(|l| l < TIMEOUT), "{:?}", etcd.latency());
    // The leader and a follower die: the third one lives on without a leader, and says so when asked without requiring one.
    let leading = look.members.iter().position(|m| m.leads).unwrap();
    let other = (0..3).find(|m| *m != leading).unwrap();
    cluster.kill(leading);
    cluster.kill(other);
    let etcd = cluster.hasty("a").await;
    let begin = Instant::now();
    loop {
        let look = etcd.look().await;
        if state(&look, etcd.spec().await.is_ok()) == EtcdState::NoLeader {
            assert_eq!(look.members.iter().filter(|m| m.id.is_some()).count(), 1);
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{look:?}");
    }
    cluster.kill((0..3).find(|m| ![leading, other].contains(m)).unwrap());
    assert_eq!(state(&etcd.look().await, false), EtcdState::Unreachable);
}

#[tokio::test]
async fn the_specification_is_replaced_only_as_last_read() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    assert_eq!(etcd.spec().await.unwrap(), None);
    let entry = |text: &str| SpecEntry { text: text.into(), by: "anna".into(), ..SpecEntry::default() };
    let Outcome::Committed { revision } = etcd.put_spec(&entry("cluster: x\n"), 0).await else {
        panic!("is new")
    };
    assert_eq!(etcd.spec().await.unwrap(), Some(("cluster: x\n".into(), revision)));
    assert_eq!(etcd.spec_version().await.unwrap(), Some(revision));
    assert_eq!(etcd.put_spec(&entry("cluster: y\n"), 0).await, Outcome::GuardFailed);
    let mut last = revision;
    for n in 0..SPECS_KEPT + 5 {
        let Outcome::Committed { revision } = etcd.put_spec(&entry(&format!("cluster: y{n}\n")), last).await
        else {
            panic!("version {last} is in force")
        };
        last = revision;
    }
    let history = etcd.spec_history().await.unwrap();
    assert_eq!(history.len(), SPECS_KEPT, "the oldest are dropped");
    assert_eq!(history.last().map(|e| (e.version, e.text.as_str())), Some((last, "cluster: y54\n")));
    assert!(history.windows(2).all(|w| w[0].version < w[1].version));
}

/// The lock is one for the cluster, goes with its owner's lease, and is had only as long as the group is as it was read.
#[tokio::test]
async fn one_node_at_a_time_fences() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let (a, b) = (cluster.etcd("a").await, cluster.etcd("b").await);
    let lease = a.client(0).lease_grant(60, None).await.unwrap().id();
    let other = b.client(0).lease_grant(60, None).await.unwrap().id();
    let lock = |by: &str, target: &str| FenceLock { by: node(by), target: node(target), id: 1 };
    let Outcome::Committed { revision } = a.lock_fencing(&lock("a", "b"), None, lease).await else {
        panic!("is free")
    };
    assert_eq!(b.lock_fencing(&lock("b", "a"), None, other).await, Outcome::GuardFailed, "never both");
    assert_eq!(b.fencing_lock().await.unwrap(), Some((lock("a", "b"), revision)));
    b.unlock_fencing(revision).await;
    assert_eq!(a.lock_fencing(&lock("a", "b"), None, 0).await, Outcome::GuardFailed, "0 is no lease");
    assert_eq!(b.fencing_lock().await.unwrap(), None, "it would stand for ever");
    let again = a.lock_fencing(&lock("a", "b"), None, lease).await;
    assert!(matches!(again, Outcome::Committed { .. }), "{again:?}");
    a.client(0).lease_revoke(lease).await.unwrap();
    assert_eq!(b.fencing_lock().await.unwrap(), None, "whoever is cut off loses it");
    assert_eq!(a.lock_fencing(&lock("a", "b"), None, lease).await, Outcome::GuardFailed, "no lease, no lock");

    // Somebody has taken the group over meanwhile.
    cluster.put(&b.keys().insync(&group()), "{}").await;
    let read = (group(), 0, 0);
    assert_eq!(b.lock_fencing(&lock("b", "a"), Some(&read), other).await, Outcome::GuardFailed);
    let Outcome::Committed { revision } = b.lock_fencing(&lock("b", "a"), None, other).await else {
        panic!("is free")
    };
    assert_eq!(b.unlock_fencing(revision + 1).await, Outcome::GuardFailed, "not another one's");
    assert!(matches!(b.unlock_fencing(revision).await, Outcome::Committed { .. }));

    let record = FenceRecord { id: 7, ok: true, action: "off".into(), ..FenceRecord::of(node("b")) };
    b.put_fence_record(&node("a"), &record).await.unwrap();
    assert_eq!(a.fence_records().await.unwrap(), [(node("a"), record)].into());
}

/// An etcd that was emptied has not revoked anybody's token.
#[tokio::test]
async fn tokens_outlive_an_emptied_etcd_and_not_a_revocation() {
    use crate::security::Role;
    use crate::security::token::generate;
    use crate::security::tokens::{Tokens, Vault};
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let spec = || SpecEntry { text: "cluster: x\n".into(), by: "anna".into(), ..SpecEntry::default() };
    assert!(matches!(etcd.put_spec(&spec(), 0).await, Outcome::Committed { .. }));
    let (record, token) = generate("monitor", Role::Viewer, "root", 0, None);
    etcd.add(record.clone()).await.unwrap();
    let tokens = std::sync::Arc::new(Tokens::in_memory());
    let task = tokio::spawn(etcd.clone().follow_tokens(std::sync::Arc::clone(&tokens)));
    let begin = Instant::now();
    while tokens.recognise(token.reveal(), 1).is_err() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.empty().await;
    // Longer than the copy goes without being compared.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(tokens.recognise(token.reveal(), 1).is_ok(), "nobody revoked it");
    assert_eq!(tokens.all(), std::slice::from_ref(&record));
    // Written back, and then revoked by a person.
    assert!(matches!(etcd.put_spec(&spec(), 0).await, Outcome::Committed { .. }));
    etcd.add(record.clone()).await.unwrap();
    assert!(Vault::remove(&etcd, record.id).await.unwrap());
    let begin = Instant::now();
    while tokens.recognise(token.reveal(), 1).is_ok() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    task.abort();
}

/// A person writes the record of a group anew: only over what was read, and nobody leads by it.
#[tokio::test]
async fn a_record_that_etcd_lost_is_written_anew_once() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let (a, b) = (cluster.etcd("a").await, cluster.etcd("b").await);
    let empty = a.read(&group()).await.unwrap();
    assert!(matches!(a.restore_record(&group(), &insync(7), &empty).await, Outcome::Committed { .. }));
    assert_eq!(b.restore_record(&group(), &insync(9), &empty).await, Outcome::GuardFailed, "never two");
    let read = b.read(&group()).await.unwrap();
    assert_eq!((read.epoch(), read.leader.is_none()), (epoch(7), true));
    // An old one, as of a backup, that names a leader.
    let lease = a.client(0).lease_grant(60, None).await.unwrap().id();
    let fence = a.write_fence(&group()).await.unwrap();
    let txn = takeover(8, 0, read.insync.as_ref().unwrap().revision, fence);
    assert!(matches!(a.transact(&group(), &txn, lease).await, Outcome::Committed { .. }));
    let read = a.read(&group()).await.unwrap();
    assert!(matches!(a.restore_record(&group(), &insync(9), &read).await, Outcome::Committed { .. }));
    let read = a.read(&group()).await.unwrap();
    assert_eq!((read.epoch(), read.leader), (epoch(9), None));
}

#[tokio::test]
async fn the_history_keeps_its_newest_entries() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let etcd = cluster.etcd("a").await;
    let event = |message: &str| Event {
        n: 0,
        at: "2026-01-01T00:00:00Z".into(),
        node: node("a"),
        group: Some(group()),
        volume: None,
        severity: "info".into(),
        message: message.into(),
        takeover: None,
    };
    assert_eq!(etcd.append_event(&event("one")).await.unwrap(), 1);
    assert_eq!(etcd.append_event(&event("two")).await.unwrap(), 2);
    let late = Event { n: events::KEEP + 1, ..event("late") };
    etcd.client(0).put(etcd.keys().event(late.n), serde_json::to_vec(&late).unwrap(), None).await.unwrap();
    let racers = futures::future::join_all((0..4).map(|i| {
        let (etcd, event) = (etcd.clone(), event(&format!("racer {i}")));
        async move { etcd.append_event(&event).await.unwrap() }
    }));
    let mut numbers = racers.await;
    numbers.sort_unstable();
    assert_eq!(numbers, [1002, 1003, 1004, 1005], "each has a number of its own");
    let kept: Vec<u64> = etcd.events(100).await.unwrap().iter().map(|e| e.n).collect();
    assert_eq!(kept, [1001, 1002, 1003, 1004, 1005], "1 and 2 are more than 1000 back");
    assert_eq!(etcd.events(2).await.unwrap().iter().map(|e| e.n).collect::<Vec<_>>(), [1004, 1005]);
}

#[tokio::test]
async fn members_say_who_leads_and_leadership_moves() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let etcd = cluster.etcd("a").await;
    // etcd may elect another one by itself at any moment, and gives a move up that takes too long.
    let begin = Instant::now();
    loop {
        let members = etcd.members().await;
        assert!(members.iter().all(|m| m.warning == version_warning(m.version.as_deref().unwrap())));
        let leads: Vec<_> = members.iter().filter(|m| m.leads).collect();
        let other = members.iter().find(|m| !m.leads).unwrap().id.unwrap();
        if leads.len() == 1 && etcd.move_leader(other).await.is_ok() {
            let now = etcd.members().await;
            if now.iter().filter(|m| m.leads).map(|m| m.id).eq([Some(other)]) {
                break;
            }
        }
        assert!(begin.elapsed() < PATIENCE, "{members:?}");
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_an_error_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let urls = [format!("http://{free}")];
    let etcd = Etcd::new(&urls, "test", node("a"), HASTE).await.unwrap();
    let begin = Instant::now();
    let error = etcd.read(&group()).await.unwrap_err();
    assert!(begin.elapsed() < TIMEOUT, "{:?}", begin.elapsed());
    assert!(error.to_string().contains("etcd does not answer"), "{error}");
    let txn = takeover(1, 0, 0, 1);
    assert_eq!(etcd.transact(&group(), &txn, 1).await, Outcome::Unknown);
}

#[tokio::test]
async fn a_notification_is_claimed_by_one_node_and_released_by_one() {
    use crate::notify::core::Claim;
    use crate::notify::what::What;
    let Some(cluster) = Cluster::start(1).await else { return };
    let (a, b) = (cluster.etcd("a").await, cluster.etcd("b").await);
    let claim = |by: &str, reminders| Claim {
        what: What::NoStandby(group()),
        node: node(by),
        since: "2026-11-21T03:10:00Z".into(),
        reminders,
    };
    let Outcome::Committed { revision } = a.claim("operators", &claim("a", 0), None).await else {
        panic!("the first one gets it")
    };
    assert_eq!(b.claim("operators", &claim("b", 0), None).await, Outcome::GuardFailed);
    let found = b.claims("operators").await.unwrap();
    assert_eq!(found, [("web/no-standby".to_owned(), (claim("a", 0), revision))].into());
    assert!(b.claims("others").await.unwrap().is_empty(), "targets are apart");
    assert!(matches!(b.claim("operators", &claim("b", 1), Some(revision)).await, Outcome::Committed { .. }));
    assert_eq!(
        a.claim("operators", &claim("a", 1), Some(revision)).await,
        Outcome::GuardFailed,
        "a reminder"
    );
    assert!(matches!(a.release_claim("operators", "web/no-standby").await, Outcome::Committed { .. }));
    assert_eq!(b.release_claim("operators", "web/no-standby").await, Outcome::GuardFailed);
    assert!(matches!(a.claim_once("operators", "web/leader/8").await, Outcome::Committed { .. }));
    assert_eq!(b.claim_once("operators", "web/leader/8").await, Outcome::GuardFailed);
    assert!(matches!(b.claim_once("pager", "web/leader/8").await, Outcome::Committed { .. }));
    assert!(a.claims("operators").await.unwrap().is_empty(), "what happened is no state");
}
