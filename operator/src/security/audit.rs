//! The audit trail: who asked for what, from where, and what came of it, as entries of the cluster's history.
//!
//! Every changing request that was tried leaves one. Of refused ones only some: `DENIED_BURST` at once and one every
//! `DENIED_EVERY`, with the number of those left out, because the history is bounded and a stranger must not be able
//! to push the last takeover out of it. Bodies are never recorded (a specification holds passwords): of an answer only
//! `message` or `detail`, the sentence meant for people.

use super::principal::{Principal, Via};
use crate::core::group::Severity;
use axum::body::{Body, HttpBody, to_bytes};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Refused requests recorded at once.
const DENIED_BURST: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// And then one in this time: at most 144 a day, in a history of 1000.
const DENIED_EVERY: Duration = Duration::from_secs(600);
/// Largest answer that is looked into for its sentence.
const ANSWER_MAX: u64 = 16 << 10;
/// Longest path and longest sentence recorded, in characters.
const TEXT_MAX: usize = 300;

/// Writes an entry of the history.
pub type Recorder = Box<dyn Fn(Severity, &str) + Send + Sync>;

/// The trail.
pub struct Audit {
    record: Recorder,
    denied: DefaultDirectRateLimiter,
    left_out: AtomicU64,
}

impl Audit {
    /// Writes by `record`.
    #[must_use]
    pub fn new(record: Recorder) -> Self {
        let quota = Quota::with_period(DENIED_EVERY).unwrap_or(Quota::per_hour(DENIED_BURST));
        Self {
            record,
            denied: RateLimiter::direct(quota.allow_burst(DENIED_BURST)),
            left_out: AtomicU64::new(0),
        }
    }

    /// A request of somebody who is known was answered. Recorded if it changes something or was refused. Returns the
    /// answer, unchanged.
    pub async fn answered(
        &self,
        who: &Principal,
        method: &Method,
        path: &str,
        response: Response,
    ) -> Response {
        let status = response.status();
        let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !changes && status != StatusCode::FORBIDDEN {
            return response;
        }
        let (text, response) = sentence(response).await;
        // Refused by the cluster's state is an answer; refused for what it is may come a hundred times a second.
        let tried = !status.is_client_error()
            || matches!(status, StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED);
        if !tried {
            self.denied(&whom(who), method, path, status, &clean(text.as_deref().unwrap_or("no reason")));
            return response;
        }
        let severity = if status.is_server_error() { Severity::Warning } else { Severity::Info };
        let text = text.map(|t| format!(": {}", clean(&t))).unwrap_or_default();
        let line =
            format!("audit: {}: {method} {} answered {}{text}", whom(who), clean(path), status.as_u16());
        (self.record)(severity, &line);
        response
    }

    /// Somebody was refused.
    pub fn denied(&self, who: &str, method: &Method, path: &str, status: StatusCode, why: &str) {
        let line = format!("audit: {who}: {method} {} refused with {}: {why}", clean(path), status.as_u16());
        if self.denied.check().is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("{line}");
            return;
        }
        let more = match self.left_out.swap(0, Ordering::Relaxed) {
            0 => String::new(),
            n => format!(" ({n} more refusals since the last entry are not recorded)"),
        };
        (self.record)(Severity::Warning, &format!("{line}{more}"));
    }
}

/// A principal for people: `root (admin, socket, local)`.
#[must_use]
pub fn whom(who: &Principal) -> String {
    let via = match who.via {
        Via::Socket => "Unix socket",
        Via::Token => "token",
        Via::Certificate => "certificate",
        Via::Nothing => "not authenticated",
    };
    format!("{} ({}, {via}, from {})", clean(&who.name), who.role, who.from)
}

/// Printable and short.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

async fn sentence(response: Response) -> (Option<String>, Response) {
    let (parts, body) = response.into_parts();
    let small = body.size_hint().exact().is_some_and(|length| length <= ANSWER_MAX);
    if !small {
        return (None, Response::from_parts(parts, body));
    }
    let bytes = match to_bytes(body, usize::try_from(ANSWER_MAX).unwrap_or(usize::MAX)).await {
        Ok(bytes) => bytes,
        // A body of known length is in memory: it does not fail.
        Err(_) => return (None, Response::from_parts(parts, Body::empty())),
    };
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = json["message"].as_str().or_else(|| json["detail"].as_str()).map(str::to_owned);
    (text, Response::from_parts(parts, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::super::principal::Role;
    use super::*;
    use axum::Json;
    use axum::response::IntoResponse;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    fn audit() -> (Audit, Arc<Mutex<Vec<String>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let into = seen.clone();
        (Audit::new(Box::new(move |_, line| into.lock().unwrap().push(line.to_owned()))), seen)
    }

    fn paul() -> Principal {
        Principal { name: "paul".into(), role: Role::Operator, via: Via::Token, from: "10.0.0.9".into() }
    }

    #[tokio::test]
    async fn an_entry_says_who_what_and_the_result_and_nothing_secret() {
        let (audit, seen) = audit();
        let answer = (StatusCode::CREATED, Json(json!({ "message": "made", "token": "baton_x_y" })));
        let answer = audit.answered(&paul(), &Method::POST, "/v1/tokens", answer.into_response()).await;
        let body = to_bytes(answer.into_body(), 1000).await.unwrap();
        assert!(body.windows(9).any(|w| w == b"baton_x_y"), "the answer passes unchanged");
        let problem = (StatusCode::CONFLICT, Json(json!({ "detail": "beta is not\nin sync" })));
        audit.answered(&paul(), &Method::POST, "/v1/groups/web/move", problem.into_response()).await;
        assert_eq!(
            *seen.lock().unwrap(),
            [
                "audit: paul (operator, token, from 10.0.0.9): POST /v1/tokens answered 201: made",
                "audit: paul (operator, token, from 10.0.0.9): POST /v1/groups/web/move answered 409: beta is notin sync",
            ]
        );
    }

    #[test]
    fn refusals_cannot_fill_the_history() {
        let (audit, seen) = audit();
        for _ in 0..1000 {
            audit.denied("10.0.0.66", &Method::GET, "/v1/spec", StatusCode::UNAUTHORIZED, "no token");
        }
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 5);
        assert_eq!(seen[0], "audit: 10.0.0.66: GET /v1/spec refused with 401: no token");
        assert_eq!(audit.left_out.load(Ordering::Relaxed), 995);
    }
}
