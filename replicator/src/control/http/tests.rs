//! A fake controller behind a real socket, spoken to in plain HTTP/1.1.

use super::*;
use crate::api::{ResyncRequest, Status, VolumeStatus};
use crate::types::{Epoch, GroupName, Role};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Records what it is asked and answers from a script.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
    hang: bool,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

fn volume_status(volume: VolumeName) -> VolumeStatus {
    VolumeStatus {
        size_bytes: 4096,
        role: Role::Primary,
        ..VolumeStatus::unknown(volume, GroupName::new("web").unwrap())
    }
}

impl Controller for Fake {
    async fn status(&self, after: Option<u64>, wait: Duration) -> Status {
        self.note(format!("status {after:?} {wait:?}"));
        Status { version: 7, ..Status::default() }
    }
    async fn configure(&self, config: VolumeConfig) -> Result<VolumeStatus, Problem> {
        self.note(format!("configure {} {}", config.volume, config.size_bytes));
        Ok(volume_status(config.volume))
    }
    async fn desired(&self, volume: VolumeName, desired: Desired) -> Result<VolumeStatus, Problem> {
        self.note(format!("desired {volume} {:?}", desired.role));
        if self.hang {
            std::future::pending::<()>().await;
        }
        Err(problem(409, "epoch-too-old", "Epoch too old", "epoch 3 is in force"))
    }
    async fn format(&self, volume: VolumeName, format: Format) -> Result<VolumeStatus, Problem> {
        self.note(format!("format {volume} {}", format.filesystem));
        Ok(volume_status(volume))
    }
    async fn verify(
        &self,
        volume: VolumeName,
        request: Option<VerifyRequest>,
    ) -> Result<VolumeStatus, Problem> {
        self.note(format!("verify {volume} {:?}", request.map(|r| (r.id, r.repair))));
        Ok(volume_status(volume))
    }
    async fn resync(&self, volume: VolumeName, request: ResyncRequest) -> Result<VolumeStatus, Problem> {
        self.note(format!("resync {volume} paused {}", request.paused));
        Ok(volume_status(volume))
    }
    async fn discard(&self, volume: VolumeName, request: DiscardRequest) -> Result<VolumeStatus, Problem> {
        self.note(format!("discard {volume} {}", request.snapshot));
        Ok(volume_status(volume))
    }
    async fn release(&self, volume: VolumeName, snapshot: String) -> Result<VolumeStatus, Problem> {
        self.note(format!("release {volume} {snapshot}"));
        Ok(volume_status(volume))
    }
    async fn export(&self, volume: VolumeName, wanted: bool) -> Result<VolumeStatus, Problem> {
        self.note(format!("export {volume} {wanted}"));
        Ok(volume_status(volume))
    }
    async fn detach(&self, volume: VolumeName) -> Result<(), Problem> {
        self.note(format!("detach {volume}"));
        Ok(())
    }
}

async fn call(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: replicator\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The server may answer before it has read all of an oversized body.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn every_route_reaches_its_command_and_errors_are_problems() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/replicator.sock");
    std::fs::create_dir(dir.path().join("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // a dead socket is replaced
    let server = ControlServer::bind(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ControlServer::bind(&path).err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let fake = Arc::new(Fake::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(fake.clone(), async { drop(stopped.await) }));

    let (code, _, body) = call(&path, "GET", "/v1/status", "").await;
    assert_eq!((code, body["version"].as_u64()), (200, Some(7)));
    call(&path, "GET", "/v1/status?after=6&wait_ms=99999999", "").await;
    let config = json!({
        "volume": "webstore", "group": "web", "size_bytes": 4096, "backing": {"file": "/v.img"},
        "metadata": "/v.meta", "peers": [], "peer_timeout_ms": 1000
    });
    let (code, _, body) = call(&path, "PUT", "/v1/volumes/webstore", &config.to_string()).await;
    assert_eq!((code, body["volume"].as_str()), (200, Some("webstore")));
    let desired = json!({"epoch": {"number": 1, "term": "0a"}, "role": "Primary"});
    let (code, head, body) = call(&path, "PUT", "/v1/volumes/webstore/desired", &desired.to_string()).await;
    assert_eq!((code, body["type"].as_str()), (409, Some("/problems/epoch-too-old")));
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let (code, ..) = call(&path, "POST", "/v1/volumes/webstore/format", r#"{"filesystem":"ext4"}"#).await;
    assert_eq!(code, 200);
    let verify = "/v1/volumes/webstore/verify";
    assert_eq!(call(&path, "POST", verify, r#"{"id":5,"repair":true}"#).await.0, 200);
    assert_eq!(call(&path, "DELETE", verify, "").await.0, 200);
    let resync = "/v1/volumes/webstore/resync";
    assert_eq!(call(&path, "PUT", resync, r#"{"paused":true}"#).await.0, 200);
    assert_eq!(call(&path, "PUT", resync, r#"{"paused":3}"#).await.0, 400);
    let export = "/v1/volumes/webstore/export";
    assert_eq!(call(&path, "POST", export, "").await.0, 200);
    assert_eq!(call(&path, "DELETE", export, "").await.0, 200);
    let (code, ..) = call(&path, "POST", "/v1/volumes/webstore/detach", "").await;
    assert_eq!(code, 204);
    assert_eq!(
        *fake.calls.lock().unwrap(),
        [
            "status None 0ns",
            "status Some(6) 30s",
            "configure webstore 4096",
            "desired webstore Primary",
            "format webstore ext4",
            "verify webstore Some((5, true))",
            "verify webstore None",
            "resync webstore paused true",
            "export webstore true",
            "export webstore false",
            "detach webstore"
        ]
    );

    let config = config.to_string();
    let long = "x".repeat(MAX_BODY + 1);
    for (method, url, body, code, says) in [
        ("GET", "/v1/nothing", "", 404, "no such resource"),
        ("DELETE", "/v1/status", "", 405, "method"),
        ("GET", "/v1/status?after=x", "", 400, "after=x"),
        ("GET", "/v1/status?since=1", "", 400, "since"),
        ("PUT", "/v1/volumes/other", &config, 400, "other"),
        ("PUT", "/v1/volumes/UPPER", &config, 400, "UPPER"),
        ("PUT", "/v1/volumes/webstore", "{\"volume\"", 400, "the body is not"),
        ("PUT", "/v1/volumes/webstore/desired", "{}", 400, "epoch"),
        ("PUT", "/v1/volumes/webstore", &long, 413, "bytes"),
    ] {
        let (got, _, problem) = call(&path, method, url, body).await;
        assert_eq!(got, code, "{method} {url}");
        assert_eq!(problem["status"].as_u64(), Some(u64::from(code)), "{method} {url}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{method} {url}: {problem}");
    }
    assert_eq!(fake.calls.lock().unwrap().len(), 11, "nothing refused reached the controller");

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_hanging_command_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fake = Arc::new(Fake { hang: true, ..Fake::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving =
        tokio::spawn(ControlServer::bind(&path).unwrap().serve(fake.clone(), async { drop(stopped.await) }));
    let hung = path.clone();
    tokio::spawn(async move {
        let body = r#"{"epoch":{"number":1,"term":"0a"},"role":"Primary"}"#;
        call(&hung, "PUT", "/v1/volumes/webstore/desired", body).await
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while fake.calls.lock().unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    tokio::time::timeout(DRAIN_LIMIT * 3, serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_command_past_its_bound_is_a_problem() {
    let fake = Fake { hang: true, ..Fake::default() };
    let desired = Desired {
        epoch: Epoch::ZERO,
        role: Role::Secondary,
        required: vec![],
        accept_data_loss: false,
        order: 0,
        force: false,
        membership: Default::default(),
    };
    let volume = VolumeName::new("webstore").unwrap();
    let answer = bounded("the change", Duration::from_millis(1), fake.desired(volume, desired)).await;
    let refused = answer.err().unwrap().0;
    assert_eq!(refused.status, 504);
    assert!(refused.detail.contains("the change did not end within 0 s"));
}
