//! An agent that says what a test tells it to say, and remembers what it was asked.
//!
//! The page comes from the real router; everything under `/v1` is made up here.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use baton_operator::status::ClusterStatus;
use futures::stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// As often as a real agent publishes.
const PUBLISH: Duration = Duration::from_millis(250);

/// What the agent says and was asked.
pub(crate) struct Script {
    /// The snapshot; its `at` moves by itself unless `hangs`.
    pub(crate) snapshot: Value,
    pub(crate) events: Vec<Value>,
    pub(crate) series: Value,
    /// Answers the live status as a stream.
    pub(crate) streams: bool,
    /// Says the same again and again.
    pub(crate) hangs: bool,
    /// Tokens with their roles; none: no login is needed.
    pub(crate) tokens: BTreeMap<String, String>,
    /// Answers to commands by path; 202 without one.
    pub(crate) answers: BTreeMap<String, (u16, Value)>,
    /// How long a command takes to be answered.
    pub(crate) takes: Duration,
    /// What rehearsals answer: consequences, or why not; none: this agent knows no rehearsals.
    pub(crate) consequences: Option<Result<Vec<String>, String>>,
    /// How many rehearsals were asked for.
    pub(crate) rehearsals: usize,
    /// Commands: method, path, body. Rehearsals are none.
    pub(crate) commands: Vec<(String, String, Value)>,
    /// `Authorization` of everything under `/v1`, in order.
    pub(crate) authorisations: Vec<Option<String>>,
}

/// The agent.
pub(crate) struct Agent {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    server: Mutex<Option<JoinHandle<()>>>,
    page: watch::Sender<ClusterStatus>,
}

type Shared = Arc<Mutex<Script>>;

impl Agent {
    pub(crate) async fn start(snapshot: Value) -> Self {
        let page = watch::channel(checked(&snapshot)).0;
        let script = Script {
            snapshot,
            events: crate::snapshots::events(),
            series: crate::snapshots::series(),
            streams: true,
            hangs: false,
            tokens: BTreeMap::new(),
            answers: BTreeMap::new(),
            takes: Duration::ZERO,
            consequences: Some(Ok(Vec::new())),
            rehearsals: 0,
            commands: Vec::new(),
            authorisations: Vec::new(),
        };
        let agent = Self {
            address: ([127, 0, 0, 1], 0).into(),
            script: Arc::new(Mutex::new(script)),
            server: Mutex::new(None),
            page,
        };
        agent.serve().await
    }

    async fn serve(mut self) -> Self {
        self.address = self.listen(self.address).await;
        self
    }

    async fn listen(&self, at: SocketAddr) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(api)
            .with_state(self.script.clone())
            .merge(baton_operator::web::router(self.page.subscribe()));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        *self.server.lock().unwrap() = Some(server);
        address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// From now on this is how things stand.
    pub(crate) fn say(&self, snapshot: Value) {
        self.page.send_replace(checked(&snapshot));
        self.script().snapshot = snapshot;
    }

    /// Changes how things stand.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut snapshot = self.script().snapshot.clone();
        change(&mut snapshot);
        self.say(snapshot);
    }

    /// Nobody listens any more, and open connections end with the runtime's tasks.
    pub(crate) async fn die(&self) {
        self.script().hangs = true;
        self.script().streams = false;
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.abort();
            let _ = server.await;
        }
    }

    /// Listens again at the same address.
    pub(crate) async fn come_back(&self) {
        self.script().hangs = false;
        self.script().streams = true;
        self.listen(self.address).await;
    }

    pub(crate) fn commands(&self) -> Vec<(String, String, Value)> {
        self.script().commands.clone()
    }
}

/// A snapshot that a real agent could give.
fn checked(snapshot: &Value) -> ClusterStatus {
    serde_json::from_value(snapshot.clone()).expect("the snapshot fits the contract")
}

fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // Milliseconds of one hour: enough to move, and the same day in every test.
    let (s, ms) = (since.as_secs() % 3600, since.subsec_millis());
    format!("2026-11-21T03:{:02}:{:02}.{ms:03}Z", s / 60, s % 60)
}

fn fresh(script: &mut Script) -> String {
    if !script.hangs {
        script.snapshot["at"] = json!(now());
    }
    script.snapshot.to_string()
}

async fn api(State(script): State<Shared>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let command = parts.method != Method::GET && !rehearses(&parts);
    let takes = if command { script.lock().unwrap().takes } else { Duration::ZERO };
    let answer = answer(script, &parts, &body);
    tokio::time::sleep(takes).await;
    answer
}

fn rehearses(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.split('&').any(|q| q == "dry_run=true"))
}

fn answer(script: Shared, parts: &Parts, body: &[u8]) -> Response {
    let path = parts.uri.path().to_owned();
    let header =
        |name| parts.headers.get(name).and_then(|v: &header::HeaderValue| v.to_str().ok()).map(str::to_owned);
    let authorisation = header(header::AUTHORIZATION);
    let live = header(header::ACCEPT).is_some_and(|accept| accept.contains("event-stream"));
    let shared = script.clone();
    let mut script = script.lock().unwrap();
    if path.starts_with("/v1") {
        script.authorisations.push(authorisation.clone());
        if !script.tokens.is_empty() {
            let token = authorisation.as_deref().and_then(|a| a.strip_prefix("Bearer "));
            let Some(role) = token.and_then(|token| script.tokens.get(token)).cloned() else {
                let detail = "Send a token: Authorization: Bearer TOKEN.";
                return problem(
                    401,
                    json!({"type": "/problems/unauthenticated", "title": "Who are you?", "status": 401, "detail": detail}),
                );
            };
            if path == "/v1/whoami" {
                return Json(json!({"name": format!("{role}-token"), "role": role, "via": "token", "from": "127.0.0.1"})).into_response();
            }
        }
    }
    if parts.method != Method::GET && rehearses(parts) {
        script.rehearsals += 1;
        let Some(says) = script.consequences.clone() else {
            return problem(
                404,
                json!({"title": "No such thing", "status": 404, "detail": "knows no rehearsal"}),
            );
        };
        return match says {
            Ok(consequences) => {
                Json(json!({"message": path, "dry_run": true, "consequences": consequences})).into_response()
            }
            Err(why) => problem(409, json!({"title": "Refused", "status": 409, "detail": why})),
        };
    }
    if parts.method != Method::GET {
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        let asked = parts.uri.path_and_query().map_or(path.clone(), ToString::to_string);
        script.commands.push((parts.method.to_string(), asked, body));
        let answer = script.answers.get(&path).cloned();
        let (code, body) = answer.unwrap_or((202, json!({"message": format!("accepted: {path}")})));
        return if code < 400 {
            (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
        } else {
            problem(code, body)
        };
    }
    match path.as_str() {
        "/v1/status" if live && script.streams => {
            drop(script);
            stream_of(shared)
        }
        "/v1/status" => ([(header::CONTENT_TYPE, "application/json")], fresh(&mut script)).into_response(),
        "/v1/whoami" => {
            Json(json!({"name": "anyone", "role": "admin", "via": "nothing", "from": "127.0.0.1"}))
                .into_response()
        }
        "/v1/events" => Json(json!(script.events)).into_response(),
        "/v1/series" => Json(script.series.clone()).into_response(),
        "/livez" => "ok\n".into_response(),
        _ => problem(
            404,
            json!({"type": "/problems/not-found", "title": "No such thing", "status": 404, "detail": path}),
        ),
    }
}

/// The live status as the API's contract has it: event `status`, the snapshot as JSON.
fn stream_of(script: Shared) -> Response {
    let events = stream::unfold(script, |script| async move {
        tokio::time::sleep(PUBLISH).await;
        let text = {
            let mut script = script.lock().unwrap();
            if !script.streams {
                return None;
            }
            format!("event: status\ndata: {}\n\n", fresh(&mut script))
        };
        Some((Ok::<_, std::convert::Infallible>(text), script))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn problem(code: u16, body: Value) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    (
        code,
        [
            (header::CONTENT_TYPE, "application/problem+json"),
            (header::HeaderName::from_static("x-request-id"), "4711"),
        ],
        body.to_string(),
    )
        .into_response()
}
