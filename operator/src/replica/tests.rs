//! The client against a fake replicator on a Unix socket.

use super::*;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use baton_replicator::api::Backing;
use baton_replicator::types::{BootId, DiskState, Epoch, Generation, GroupName, Protocol, Role, TermId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

#[derive(Clone)]
struct Fake {
    version: watch::Sender<u64>,
    calls: Arc<Mutex<Vec<String>>>,
}

fn volume(epoch: u64) -> VolumeStatus {
    VolumeStatus {
        size_bytes: 4096,
        role: Role::Primary,
        epoch: Epoch { number: epoch, term: TermId(7) },
        disk: DiskState::UpToDate,
        generation: Generation(1),
        boot: BootId(9),
        ..VolumeStatus::unknown(VolumeName::new("webstore").unwrap(), GroupName::new("web").unwrap())
    }
}

async fn status(State(fake): State<Fake>, Query(q): Query<HashMap<String, u64>>) -> Json<Status> {
    let mut version = fake.version.subscribe();
    let wait = Duration::from_millis(q["wait_ms"]);
    let _ = tokio::time::timeout(wait, version.wait_for(|v| *v > q["after"])).await;
    let version = *version.borrow();
    Json(Status { version, volumes: vec![volume(version)], ..Status::default() })
}

async fn desired(UrlPath(_): UrlPath<String>, Json(desired): Json<Desired>) -> axum::response::Response {
    if desired.epoch.number < 5 {
        let problem = Problem {
            kind: "/problems/epoch-too-old".into(),
            title: "Epoch too old".into(),
            status: 409,
            detail: "epoch 5 was seen".into(),
        };
        return (StatusCode::CONFLICT, Json(problem)).into_response();
    }
    Json(volume(desired.epoch.number)).into_response()
}

/// A volume `old` is of a release without exports.
async fn exported(UrlPath(name): UrlPath<String>) -> Json<VolumeStatus> {
    let export =
        (name != "old").then(|| ExportStatus { uri: "nbd+unix:///x".into(), ..ExportStatus::default() });
    Json(VolumeStatus { export, ..volume(6) })
}

/// Serves until the returned task is aborted.
fn serve(dir: &Path) -> (Fake, ReplicaClient, tokio::task::JoinHandle<()>) {
    let fake = Fake { version: watch::channel(1).0, calls: Arc::default() };
    let log = |name: &'static str| {
        let fake = fake.clone();
        move || async move { fake.calls.lock().unwrap().push(name.into()) }
    };
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/volumes/{volume}", put(log("configure")))
        .route("/v1/volumes/{volume}/desired", put(desired))
        .route("/v1/volumes/{volume}/format", post(|| async { (StatusCode::BAD_GATEWAY, "no json") }))
        .route("/v1/volumes/{volume}/detach", post(log("detach")))
        .route("/v1/volumes/{volume}/export", post(exported).delete(log("end export")))
        .with_state(fake.clone());
    let socket = dir.join("replicator.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (fake, ReplicaClient::new(socket), task)
}

fn wish(number: u64) -> Desired {
    Desired {
        epoch: Epoch { number, term: TermId(7) },
        role: Role::Primary,
        required: vec![],
        accept_data_loss: false,
        order: 0,
        force: false,
        membership: Default::default(),
    }
}

#[tokio::test]
async fn commands_reach_the_replicator_and_its_refusals_come_back_in_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, client, _task) = serve(dir.path());
    let name = VolumeName::new("webstore").unwrap();
    let config = VolumeConfig {
        volume: name.clone(),
        group: GroupName::new("web").unwrap(),
        size_bytes: 4096,
        backing: Backing::File("/x".into()),
        metadata: "/y".into(),
        peers: vec![],
        protocol: Protocol::C,
        protocols: Default::default(),
        after_split_brain: Default::default(),
        transport: Default::default(),
        peer_timeout_ms: 1000,
        resync_rate: 0,
        resync_min_rate: 4 << 20,
        target_latency_us: 0,
        disk_timeout_ms: 30_000,
        front_end: Default::default(),
    };
    client.configure(&config).await.unwrap();
    client.detach(&name).await.unwrap();
    assert_eq!(*fake.calls.lock().unwrap(), ["configure", "detach"]);

    let answered = client.desired(&name, &wish(6), Duration::from_secs(5)).await.unwrap();
    assert_eq!(answered.epoch.number, 6);

    let refused = client.desired(&name, &wish(4), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(refused.problem().unwrap().detail, "epoch 5 was seen");

    assert_eq!(client.export(&name).await.unwrap().uri, "nbd+unix:///x");
    let old = client.export(&VolumeName::new("old").unwrap()).await.unwrap_err();
    assert!(old.to_string().contains("older release"), "{old}");
    client.end_export(&name).await.unwrap();
    assert_eq!(fake.calls.lock().unwrap().last().unwrap(), "end export");

    let nonsense = client.format(&name, "ext4").await.unwrap_err();
    assert!(matches!(nonsense, ReplicaError::Nonsense { status: 502, .. }), "{nonsense}");
}

#[tokio::test]
async fn a_long_poll_waits_for_a_newer_version_and_not_longer_than_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, client, _task) = serve(dir.path());
    assert_eq!(client.status(0, Duration::from_secs(5)).await.unwrap().version, 1);

    let started = std::time::Instant::now();
    assert_eq!(client.status(1, Duration::from_millis(100)).await.unwrap().version, 1);
    assert!(started.elapsed() >= Duration::from_millis(100));

    let poll = tokio::spawn({
        let client = client.clone();
        async move { client.status(1, Duration::from_secs(20)).await.unwrap().version }
    });
    fake.version.send_replace(2);
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), poll).await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn a_replicator_that_accepts_and_says_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("mute.sock");
    let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let client = ReplicaClient::new(socket);
    let name = VolumeName::new("webstore").unwrap();
    let error = client.desired(&name, &wish(6), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ReplicaError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn following_reports_none_while_the_replicator_is_away_and_finds_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, client, task) = serve(dir.path());
    let (mut followed, _follower) = follow(client);
    let bound = Duration::from_secs(10);
    let seen = |v: u64| move |s: &Option<Arc<Status>>| s.as_ref().is_some_and(|s| s.version == v);

    tokio::time::timeout(bound, followed.wait_for(seen(1))).await.unwrap().unwrap();
    fake.version.send_replace(8);
    tokio::time::timeout(bound, followed.wait_for(seen(8))).await.unwrap().unwrap();

    task.abort();
    let _ = task.await;
    std::fs::remove_file(dir.path().join("replicator.sock")).unwrap();
    tokio::time::timeout(bound, followed.wait_for(Option::is_none)).await.unwrap().unwrap();

    // The new one counts from 1 again, below the 8 seen before.
    let (_fake, _client, _task) = serve(dir.path());
    tokio::time::timeout(bound, followed.wait_for(seen(1))).await.unwrap().unwrap();
}
