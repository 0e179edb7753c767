//! What the layers around the handlers do: versions, repetitions, limits, streams.

use super::tests::Bench;
use super::*;
use crate::cli::fixture;
use crate::security::{Principal, Via};
use crate::status::{GroupState, NodeMode};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, StatusCode, header};
use futures::StreamExt;
use serde_json::Value;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use tower::ServiceExt;

/// A request with headers, and its answer.
async fn ask(
    bench: &Bench,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn tag_of(bench: &Bench, path: &str) -> String {
    let (status, headers, _) = ask(bench, "GET", path, &[], "").await;
    assert_eq!(status, StatusCode::OK, "{path}");
    headers[header::ETAG].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_read_has_a_strong_tag_and_answers_if_none_match() {
    let bench = Bench::new(fixture::healthy());
    for path in [
        "/v1/status",
        "/v1/groups",
        "/v1/groups/web",
        "/v1/groups/web/target",
        "/v1/nodes",
        "/v1/nodes/beta",
        "/v1/nodes/beta/mode",
        "/v1/volumes",
        "/v1/volumes/webstore",
        "/v1/events?n=2",
        "/v1/spec",
        "/v1/version",
        "/v1/prometheus/targets",
        "/openapi.json",
    ] {
        let tag = tag_of(&bench, path).await;
        assert!(tag.starts_with('"') && tag.len() > 2, "{path}: {tag}");
        let (head, headers, body) = ask(&bench, "HEAD", path, &[], "").await;
        assert_eq!((head, body.as_str()), (StatusCode::OK, ""), "{path}");
        assert_eq!(headers[header::ETAG], tag.as_str(), "HEAD {path}");
        assert!(headers[header::CONTENT_LENGTH].to_str().unwrap().parse::<u64>().unwrap() > 10, "{path}");
        if path == "/openapi.json" {
            continue;
        }
        assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{path}");
        let weak = format!("W/{tag}");
        for known in [tag.as_str(), weak.as_str(), "*", &format!("\"other\", {tag}")] {
            let (status, headers, body) = ask(&bench, "GET", path, &[("if-none-match", known)], "").await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path} {known}");
            assert_eq!(headers[header::ETAG], tag.as_str());
        }
        let (status, ..) = ask(&bench, "GET", path, &[("if-none-match", "\"other\"")], "").await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_tag_of_status_covers_what_happened_and_not_what_was_measured() {
    let bench = Bench::new(fixture::healthy());
    let paths = ["/v1/status", "/v1/groups/web", "/v1/groups", "/v1/nodes/beta", "/v1/volumes/webstore"];
    let mut before = Vec::new();
    for path in paths {
        before.push(tag_of(&bench, path).await);
    }
    let mut later = fixture::healthy();
    later.at = "2026-11-21T03:10:01Z".into();
    later.etcd.revision += 1;
    later.nodes[1].age_ms = Some(99);
    later.nodes[1].longest_gap_ms = 400;
    later.groups[0].nodes[1].age_ms = Some(99);
    later.groups[0].fresh.record_ms = Some(1);
    let volume = &mut later.groups[0].volumes[0];
    volume.counters.writes += 10;
    volume.peers[0].lag_us = 90;
    volume.peers[0].unacked_bytes = 0;
    bench.status.send_replace(later.clone());
    for (path, before) in paths.into_iter().zip(&before) {
        assert_eq!(tag_of(&bench, path).await, *before, "{path}");
    }
    later.nodes[1].mode = NodeMode::Standby;
    later.groups[0].nodes[1].ready = false;
    later.groups[0].volumes[0].peers[0].settled = false;
    bench.status.send_replace(later);
    for (path, before) in paths.into_iter().zip(&before) {
        assert_ne!(tag_of(&bench, path).await, *before, "{path}");
    }
}

/// The names left out of tags are names of fields that exist.
#[test]
fn measured_fields_exist() {
    let document = openapi::text(&described(&Arc::new(Gate::new(Limits::default()))).1);
    for field in etag::MEASURED {
        assert!(document.contains(&format!("\"{field}\": {{")), "{field}");
    }
}

#[tokio::test]
async fn a_change_depends_on_the_version_it_names() {
    let patient = Limits { commands_per_s: NonZeroU32::MAX, ..Limits::default() };
    let bench = Bench::within(fixture::healthy(), patient);
    // The fake's mode is at version 17, its target at 23.
    let mode = ("PUT", "/v1/nodes/beta/mode", r#"{"mode":"standby"}"#, "17", "beta Standby");
    let go = ("POST", "/v1/groups/web/move", r#"{"to":"beta"}"#, "23", "move web Some(beta)");
    let cancel = ("DELETE", "/v1/groups/web/target", "", "23", "cancel web");
    for (method, path, body, version, call) in [mode, go, cancel] {
        bench.fake.calls.lock().unwrap().clear();
        let current = format!("\"{version}\"");
        for stale in ["\"16\"", &format!("W/{current}"), "nonsense", "\"\"", ""] {
            let (status, headers, text) = ask(&bench, method, path, &[("if-match", stale)], body).await;
            assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{path} {stale}: {text}");
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(problem["current"], current.as_str());
            assert_eq!(headers[header::ETAG], current.as_str());
        }
        assert!(bench.calls().is_empty(), "{path}: nothing of that reached the driver");
        for given in [current.as_str(), "*", &format!("\"16\", {current}")] {
            let (status, _, text) = ask(&bench, method, path, &[("if-match", given)], body).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{path} {given}: {text}");
        }
        let at = format!("{call} at {version}");
        assert_eq!(bench.calls(), [at.as_str(), call, at.as_str()], "'*' asks for existence only");
    }
    // Somebody else is faster between the look and etcd's transaction.
    let detail = "the mode of beta was changed by somebody else just now".to_owned();
    *bench.fake.answer.lock().unwrap() = Some(CommandError::Changed { detail, current: Some(18) });
    let (status, _, text) = ask(&bench, mode.0, mode.1, &[("if-match", "\"17\"")], mode.2).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert!(text.contains(r#""current":"\"18\"""#), "{text}");
}

#[tokio::test]
async fn a_dry_run_reaches_the_driver_as_one() {
    let bench = Bench::new(fixture::healthy());
    for (method, path, body) in [
        ("PUT", "/v1/nodes/beta/mode", r#"{"mode":"standby"}"#),
        ("POST", "/v1/groups/web/move", ""),
        ("POST", "/v1/groups/web/recover", ""),
        ("DELETE", "/v1/groups/web/target", ""),
    ] {
        let (status, _, text) = ask(&bench, method, &format!("{path}?dry_run=true"), &[], body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        assert!(text.contains(r#""dry_run":true"#), "{text}");
        let (status, ..) = ask(&bench, method, &format!("{path}?dry_run=false"), &[], body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}");
        let (status, ..) = ask(&bench, method, &format!("{path}?dry_run=perhaps"), &[], body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
    let dry = bench.calls().iter().filter(|call| call.starts_with("dry: ")).count();
    assert_eq!((dry, bench.calls().len()), (4, 8));
}

#[tokio::test]
async fn a_post_with_a_key_is_carried_out_once() {
    let bench = Bench::new(fixture::healthy());
    let path = "/v1/groups/web/move";
    let key = [("idempotency-key", "8e03978e-40d5-43dd-bc93-6894a57f9324")];
    let first = ask(&bench, "POST", path, &key, "{}").await;
    let second = ask(&bench, "POST", path, &key, "{}").await;
    assert_eq!((first.0, &first.2), (StatusCode::ACCEPTED, &second.2));
    assert_eq!(second.0, StatusCode::ACCEPTED);
    assert!(!first.1.contains_key("idempotent-replayed"));
    assert_eq!(second.1["idempotent-replayed"], "true");
    assert_eq!(second.1[header::CONTENT_TYPE], "application/json");
    assert_eq!(bench.calls().len(), 1);

    for (path, body) in [(path, r#"{"to":"beta"}"#), ("/v1/groups/web/recover", "{}")] {
        let (status, _, text) = ask(&bench, "POST", path, &key, body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    }
    let conditional = [key[0], ("if-match", "\"16\"")];
    assert_eq!(ask(&bench, "POST", path, &conditional, "{}").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let long = "x".repeat(200);
    for key in [long.as_str(), "two words", ""] {
        let (status, ..) = ask(&bench, "POST", path, &[("idempotency-key", key)], "{}").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "'{key}'");
    }
    assert_eq!(bench.calls().len(), 1);

    // A refusal is an answer; an etcd that is away is not.
    *bench.fake.answer.lock().unwrap() = Some(CommandError::Refused("not now".into()));
    for _ in 0..2 {
        assert_eq!(
            ask(&bench, "POST", path, &[("idempotency-key", "b")], "{}").await.0,
            StatusCode::CONFLICT
        );
    }
    assert_eq!(bench.calls().len(), 2);
    *bench.fake.answer.lock().unwrap() = Some(CommandError::Unavailable("etcd is away".into()));
    for _ in 0..2 {
        let (status, headers, _) = ask(&bench, "POST", path, &[("idempotency-key", "c")], "{}").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(headers[header::RETRY_AFTER], "1");
    }
    assert_eq!(bench.calls().len(), 4);
}

#[tokio::test]
async fn a_repetition_during_the_first_is_told_so_and_a_lost_one_is_forgotten() {
    let bench = Bench::new(fixture::healthy());
    bench.fake.hang.store(true, Ordering::SeqCst);
    let path = "/v1/groups/web/move";
    let key = [("idempotency-key", "a")];
    {
        let mut first = Box::pin(ask(&bench, "POST", path, &key, "{}"));
        assert!(futures::poll!(&mut first).is_pending());
        let (status, headers, text) = ask(&bench, "POST", path, &key, "{}").await;
        assert_eq!(status, StatusCode::CONFLICT, "{text}");
        assert!(text.contains("/problems/in-progress") && headers.contains_key(header::RETRY_AFTER));
        // The client hangs up.
    }
    bench.fake.hang.store(false, Ordering::SeqCst);
    assert_eq!(ask(&bench, "POST", path, &key, "{}").await.0, StatusCode::ACCEPTED);
}

fn few() -> Limits {
    let n = |n| NonZeroU32::new(n).unwrap();
    let stall = Duration::from_millis(100);
    Limits { reads_per_s: n(2), commands_per_s: n(1), in_flight: 2, streams: 3, streams_per_client: 2, stall }
}

/// A request from somebody.
async fn from(bench: &Bench, who: &str, method: Method, path: &str) -> (StatusCode, HeaderMap) {
    let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let (name, from) = (who.to_owned(), "192.0.2.1".to_owned());
    request.extensions_mut().insert(Principal { name, role: Role::Admin, via: Via::Token, from });
    let response = bench.router.clone().oneshot(request).await.unwrap();
    (response.status(), response.headers().clone())
}

#[tokio::test]
async fn who_asks_too_much_waits_and_nobody_else_does() {
    let bench = Bench::within(fixture::healthy(), few());
    let mut last = None;
    for _ in 0..8 {
        last = Some(from(&bench, "ci", Method::GET, "/v1/nodes").await);
    }
    let (status, headers) = last.unwrap();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(from(&bench, "root", Method::GET, "/v1/nodes").await.0, StatusCode::OK);
    // Commands have an allowance of their own, a smaller one.
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(from(&bench, "ci", Method::POST, "/v1/groups/web/move").await.0.as_u16());
    }
    assert_eq!(answers, [202, 202, 429, 429]);
    for path in ["/livez", "/readyz", "/leader?group=web", "/healthz"] {
        for _ in 0..20 {
            assert_eq!(from(&bench, "ci", Method::GET, path).await.0, StatusCode::OK, "{path}");
        }
    }
}

#[tokio::test]
async fn requests_in_flight_are_bounded_and_health_is_answered_all_the_same() {
    let plenty = NonZeroU32::new(1000).unwrap();
    let limits = Limits { commands_per_s: plenty, reads_per_s: plenty, ..few() };
    let bench = Bench::within(fixture::healthy(), limits);
    bench.fake.hang.store(true, Ordering::SeqCst);
    let mut hanging: Vec<_> =
        (0..2).map(|_| Box::pin(ask(&bench, "POST", "/v1/groups/web/move", &[], ""))).collect();
    for request in &mut hanging {
        assert!(futures::poll!(request).is_pending());
    }
    let (status, headers, text) = ask(&bench, "GET", "/v1/status", &[], "").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{text}");
    assert_eq!(headers[header::RETRY_AFTER], "1");
    assert_eq!(ask(&bench, "GET", "/livez", &[], "").await.0, StatusCode::OK);
    assert_eq!(ask(&bench, "GET", "/leader", &[], "").await.0, StatusCode::OK);
    drop(hanging);
    assert_eq!(ask(&bench, "GET", "/v1/status", &[], "").await.0, StatusCode::OK, "places are given back");
}

struct Stream {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Stream {
    async fn open(bench: &Bench, path: &str) -> Result<Self, StatusCode> {
        let request = Request::builder().uri(path).header(header::ACCEPT, "text/event-stream");
        let request = request.body(Body::empty()).unwrap();
        let response = bench.router.clone().oneshot(request).await.unwrap();
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Ok(Self { body: response.into_body().into_data_stream(), text: String::new() })
    }

    /// The next event: its name and its data; none at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
                let found = field("event:").zip(field("data:"));
                let found = found.map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()));
                self.text = rest.to_owned();
                match found {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let more =
                tokio::time::timeout(Duration::from_secs(60), self.body.next()).await.expect("bounded");
            self.text.push_str(std::str::from_utf8(&more?.unwrap()).unwrap());
        }
    }
}

#[tokio::test]
async fn status_comes_live_and_a_slow_client_finds_the_newest() {
    let bench = Bench::new(fixture::healthy());
    let mut stream = Stream::open(&bench, "/v1/status").await.unwrap();
    let (name, first) = stream.next().await.unwrap();
    assert_eq!(name, "status");
    assert_eq!(first, serde_json::to_value(fixture::healthy()).unwrap());
    // Many publications while the client is busy: at most one old one was waiting for it.
    for revision in 100..140 {
        let mut status = fixture::healthy();
        status.etcd.revision = revision;
        bench.status.send_replace(status);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut revisions = Vec::new();
    while revisions.last() != Some(&139) {
        revisions.push(stream.next().await.unwrap().1["etcd"]["revision"].as_i64().unwrap());
    }
    assert!(revisions.len() <= 2, "{revisions:?}");
}

#[tokio::test]
async fn at_most_four_snapshots_a_second() {
    let bench = Bench::new(fixture::healthy());
    let mut stream = Stream::open(&bench, "/v1/status").await.unwrap();
    stream.next().await.unwrap();
    let begin = tokio::time::Instant::now();
    let publish = async {
        while begin.elapsed() < Duration::from_millis(2300) {
            bench.status.send_modify(|status| status.etcd.revision += 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut seen = 0;
    let count = async {
        while begin.elapsed() < Duration::from_secs(2) {
            stream.next().await.unwrap();
            seen += 1;
        }
    };
    tokio::join!(publish, count);
    // A loaded machine may make them fewer, never more.
    assert!((2..=9).contains(&seen), "{seen} in two seconds");
}

#[tokio::test]
async fn a_groups_stream_ends_with_the_group_and_a_client_that_hangs_is_let_go() {
    let bench = Bench::within(fixture::healthy(), Limits { reads_per_s: NonZeroU32::MAX, ..few() });
    let mut group = Stream::open(&bench, "/v1/groups/web").await.unwrap();
    let (name, web) = group.next().await.unwrap();
    assert_eq!((name.as_str(), &web["name"]), ("group", &Value::from("web")));
    bench.status.send_modify(|status| status.groups[0].state = GroupState::Fenced);
    assert_eq!(group.next().await.unwrap().1["state"], "fenced");
    assert_eq!(Stream::open(&bench, "/v1/groups/db").await.err(), Some(StatusCode::NOT_FOUND));

    let hung = Stream::open(&bench, "/v1/status").await.unwrap();
    assert_eq!(Stream::open(&bench, "/v1/events").await.err(), Some(StatusCode::TOO_MANY_REQUESTS));
    let given_back = async {
        loop {
            bench.status.send_modify(|status| status.etcd.revision += 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if Stream::open(&bench, "/v1/events").await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), given_back).await.expect("who takes nothing is let go");
    drop((hung, group));

    let bench = Bench::new(fixture::healthy());
    let mut group = Stream::open(&bench, "/v1/groups/web").await.unwrap();
    group.next().await.unwrap();
    bench.status.send_modify(|status| status.groups.clear());
    assert_eq!(group.next().await, None);
}

#[tokio::test]
async fn wrong_methods_types_and_bodies_are_problems() {
    let bench = Bench::new(fixture::healthy());
    let (status, headers, text) = ask(&bench, "DELETE", "/v1/nodes/beta/mode", &[], "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{text}");
    let allow = headers[header::ALLOW].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("PUT") && allow.contains("HEAD"), "{allow}");
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(headers["baton-node"], "alpha");

    let form = [("content-type", "application/x-www-form-urlencoded")];
    let (status, _, text) = ask(&bench, "PUT", "/v1/nodes/beta/mode", &form, "mode=standby").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{text}");
    assert!(text.contains("application/json"), "{text}");
    let json = [("content-type", "Application/JSON; charset=utf-8")];
    let (status, ..) = ask(&bench, "PUT", "/v1/nodes/beta/mode", &json, r#"{"mode":"standby"}"#).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let (status, ..) = ask(&bench, "POST", "/v1/groups/web/move", &[], "null").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    for broken in ["{", "[]", "\u{0}", r#"{"to": 3}"#] {
        let (status, _, text) = ask(&bench, "POST", "/v1/groups/web/move", &[], broken).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{broken}: {text}");
    }
}

#[tokio::test]
async fn prometheus_finds_every_node_and_the_agent_says_what_it_is() {
    let mut status = fixture::healthy();
    status.nodes[1].address = "2001:db8::12".into();
    let bench = Bench::new(status);
    let targets: Value =
        serde_json::from_str(&ask(&bench, "GET", "/v1/prometheus/targets", &[], "").await.2).unwrap();
    let expected = serde_json::json!([
        {"targets": ["10.77.0.11:7480"], "labels": {"cluster": "demo", "node": "alpha"}},
        {"targets": ["[2001:db8::12]:7480"], "labels": {"cluster": "demo", "node": "beta"}}
    ]);
    assert_eq!(targets, expected);
    let version: Value = serde_json::from_str(&ask(&bench, "GET", "/v1/version", &[], "").await.2).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&version["api"], &version["node"]), (&Value::from("v1"), &Value::from("alpha")));
}
