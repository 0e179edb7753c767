//! The router with a fake driver, without a socket.

use super::fake::Fake;
use super::*;
use crate::cli::fixture;
use crate::status::GroupState;
use axum::body::{Body, to_bytes};
use axum::http::{Method, StatusCode, header};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tower::ServiceExt;

pub(super) struct Bench {
    pub(super) fake: Arc<Fake>,
    pub(super) status: watch::Sender<ClusterStatus>,
    pub(super) router: Router,
}

impl Bench {
    pub(super) fn new(status: ClusterStatus) -> Self {
        Self::within(status, Limits::default())
    }

    pub(super) fn within(status: ClusterStatus, limits: Limits) -> Self {
        let fake = Arc::new(Fake::default());
        let (status, receiver) = watch::channel(status);
        let router = router(ApiState::new(receiver, fake.clone()).within(limits));
        Self { fake, status, router }
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.fake.calls.lock().unwrap().clone()
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (StatusCode, String, String) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert!(response.headers().contains_key("x-request-id"));
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let (status, kind, body) = self.send(Method::GET, path, "").await;
        assert!(kind.contains("json"), "{path}: {kind}: {body}");
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Sends and checks that the answer is a problem document of this status; returns its detail.
    async fn problem(&self, method: Method, path: &str, body: &str, expected: StatusCode) -> String {
        let (status, kind, body) = self.send(method, path, body).await;
        assert_eq!((status, kind.as_str()), (expected, "application/problem+json"), "{path}: {body}");
        let problem: baton_replicator::api::Problem = serde_json::from_str(&body).unwrap();
        assert_eq!(problem.status, expected.as_u16());
        assert!(problem.kind.starts_with("/problems/") && !problem.title.is_empty());
        problem.detail
    }
}

#[tokio::test]
async fn reads_answer_parts_of_the_newest_snapshot() {
    let bench = Bench::new(fixture::healthy());
    let (code, all) = bench.get("/v1/status").await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(all, serde_json::to_value(fixture::healthy()).unwrap());

    let (_, web) = bench.get("/v1/groups/web").await;
    assert_eq!(web["name"], "web");
    assert_eq!(web["leader"], "alpha");
    assert_eq!(web["epoch"]["number"], 7);
    assert_eq!(web["state"], "serving");
    assert_eq!(web["in_sync"], json!(["alpha", "beta"]));

    assert_eq!(bench.get("/v1/groups").await.1.as_array().unwrap().len(), 1);
    assert_eq!(bench.get("/v1/nodes").await.1.as_array().unwrap().len(), 2);
    assert_eq!(bench.get("/v1/nodes/beta").await.1["address"], "10.77.0.12");
    assert_eq!(bench.get("/v1/volumes").await.1[0]["volume"], "webstore");
    assert_eq!(bench.get("/v1/volumes/webstore").await.1["peers"][0]["lag_us"], 412);
    assert_eq!(bench.get("/v1/spec").await.1, json!({"text": "cluster: demo\n", "version": 12}));
    assert_eq!(bench.get("/v1/events?n=2").await.1[0]["n"], 2);

    let mut later = fixture::healthy();
    later.groups[0].state = GroupState::Fenced;
    bench.status.send_replace(later);
    assert_eq!(bench.get("/v1/groups/web").await.1["state"], "fenced");
    let (code, kind, text) = bench.send(Method::GET, "/metrics", "").await;
    assert_eq!(code, StatusCode::OK);
    assert!(kind.starts_with("text/plain; version=0.0.4"));
    assert!(text.contains("baton_group_leader"));
}

#[tokio::test]
async fn commands_reach_the_driver_once_they_make_sense() {
    let bench = Bench::new(fixture::healthy());
    for (method, path, body) in [
        (Method::PUT, "/v1/nodes/beta/mode", r#"{"mode":"standby"}"#),
        (Method::POST, "/v1/groups/web/move", ""),
        (Method::POST, "/v1/groups/web/move", r#"{"to":"beta"}"#),
        (Method::POST, "/v1/groups/web/recover", ""),
    ] {
        let (code, _, text) = bench.send(method, path, body).await;
        assert_eq!(code, StatusCode::ACCEPTED, "{path}: {text}");
    }
    let seen = ["beta Standby", "move web None", "move web Some(beta)", "recover web"];
    assert_eq!(*bench.fake.calls.lock().unwrap(), seen);

    let unknown =
        bench.problem(Method::PUT, "/v1/nodes/gamma/mode", r#"{"mode":"online"}"#, StatusCode::NOT_FOUND);
    assert_eq!(unknown.await, "There is no node 'gamma'. Known: alpha, beta.");
    for (method, path, body, code, word) in [
        (Method::PUT, "/v1/nodes/beta/mode", r#"{"mode":"asleep"}"#, StatusCode::BAD_REQUEST, "maintenance"),
        (Method::PUT, "/v1/nodes/beta/mode", "", StatusCode::BAD_REQUEST, "mode"),
        (Method::POST, "/v1/groups/web/move", r#"{"too":"beta"}"#, StatusCode::BAD_REQUEST, "too"),
        (Method::POST, "/v1/groups/web/move", r#"{"to":"gamma"}"#, StatusCode::NOT_FOUND, "beta"),
        (Method::POST, "/v1/groups/db/move", "", StatusCode::NOT_FOUND, "web"),
    ] {
        let detail = bench.problem(method, path, body, code).await;
        assert!(detail.contains(word), "{path} {body}: {detail}");
    }
    assert_eq!(bench.fake.calls.lock().unwrap().len(), 4, "nothing of that reached the driver");
}

#[tokio::test]
async fn refusals_of_the_driver_become_problems() {
    let bench = Bench::new(fixture::healthy());
    for (error, code) in [
        (CommandError::NotFound("x".into()), StatusCode::NOT_FOUND),
        (CommandError::Refused("beta is not in sync: wait for the resync".into()), StatusCode::CONFLICT),
        (CommandError::Unavailable("etcd is away".into()), StatusCode::SERVICE_UNAVAILABLE),
        (CommandError::Internal("oops".into()), StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let text = error.to_string();
        *bench.fake.answer.lock().unwrap() = Some(error);
        assert_eq!(bench.problem(Method::POST, "/v1/groups/web/move", "", code).await, text);
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_answered_within_the_bound() {
    let mut bench = Bench::new(fixture::healthy());
    let state = ApiState::new(bench.status.subscribe(), bench.fake.clone());
    bench.router = router_within(state, Duration::from_millis(50));
    bench.fake.hang.store(true, Ordering::SeqCst);
    let detail =
        bench.problem(Method::POST, "/v1/groups/web/move", "", StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(detail.contains("may have taken effect"), "{detail}");
}

#[tokio::test]
async fn errors_of_the_layers_are_problems_too() {
    let bench = Bench::new(fixture::healthy());
    let lost = bench.problem(Method::GET, "/v2/status", "", StatusCode::NOT_FOUND).await;
    assert!(lost.contains("/v1/status"), "{lost}");
    bench.problem(Method::DELETE, "/v1/status", "", StatusCode::METHOD_NOT_ALLOWED).await;
    bench.problem(Method::GET, "/v1/events?n=many", "", StatusCode::BAD_REQUEST).await;
    let large = format!(r#"{{"to":"{}"}}"#, "x".repeat(BODY_MAX));
    bench.problem(Method::POST, "/v1/groups/web/move", &large, StatusCode::PAYLOAD_TOO_LARGE).await;
}

#[tokio::test]
async fn role_questions_are_answered_by_status_code() {
    let bench = Bench::new(fixture::healthy());
    let ask = async |path: &str| bench.send(Method::GET, path, "").await;
    assert_eq!(ask("/leader?group=web").await.0, StatusCode::OK);
    assert_eq!(ask("/leader").await.0, StatusCode::OK, "there is only one group");
    assert_eq!(ask("/standby?group=web").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("/leader?group=db").await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("/livez").await.0, StatusCode::OK);
    assert_eq!(ask("/readyz").await.0, StatusCode::OK);

    // The same facts seen by beta.
    let mut as_beta = fixture::healthy();
    as_beta.node = fixture::node("beta");
    bench.status.send_replace(as_beta.clone());
    assert_eq!(ask("/leader?group=web").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask("/standby?group=web").await.0, StatusCode::OK);

    let mut resyncing = fixture::resyncing();
    resyncing.node = fixture::node("beta");
    bench.status.send_replace(resyncing);
    let (code, _, text) = ask("/standby?group=web").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("46.9 %"), "it says why: {text}");

    // A fenced leader does not serve.
    let mut fenced = fixture::healthy();
    fenced.groups[0].nodes[0].state = GroupState::Fenced;
    bench.status.send_replace(fenced);
    assert_eq!(ask("/leader?group=web").await.0, StatusCode::SERVICE_UNAVAILABLE);

    let mut two = as_beta;
    let mut other = two.groups[0].clone();
    other.name = fixture::group("db");
    other.nodes[1].state = GroupState::Unknown;
    two.groups.push(other);
    bench.status.send_replace(two);
    assert_eq!(ask("/leader").await.0, StatusCode::BAD_REQUEST, "which of the two?");
    assert_eq!(ask("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE, "db is not known yet");
    bench.fake.alive.store(false, Ordering::SeqCst);
    assert_eq!(ask("/livez").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_event_stream_continues_where_the_client_was_and_repeats_nothing() {
    let bench = Bench::new(fixture::healthy());
    let request = Request::builder()
        .uri("/v1/events")
        .header(header::ACCEPT, "text/event-stream")
        .header("last-event-id", "1")
        .body(Body::empty())
        .unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut fourth = fixture::history().remove(2);
    // What is recorded here has no number yet; the history gives it one. Another node's entry wakes nobody here.
    fourth.n = 4;
    let mut fifth = fourth.clone();
    fifth.n = 5;
    bench.fake.recorded.lock().unwrap().extend([fourth.clone(), fifth]);
    fourth.n = 0;
    bench.fake.live.send(fourth).unwrap();

    let mut text = String::new();
    let mut body = response.into_body().into_data_stream();
    let read = async {
        while !text.contains("id: 5") {
            text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    let ids: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["2", "3", "4", "5"], "{text}");
    assert!(text.contains(r#""message":"beta is in sync again""#));
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_shutdown() {
    let bench = Bench::new(fixture::healthy());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/events", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let state = ApiState::new(bench.status.subscribe(), bench.fake.clone());
    let server = tokio::spawn(serve(listener, state, async {
        let _ = stopped.await;
    }));
    crate::security::use_ring();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let _open = client.get(url).header("accept", "text/event-stream").send().await.unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(DRAIN * 5, server).await.expect("bounded").unwrap().unwrap();
}
