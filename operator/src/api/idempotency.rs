//! `Idempotency-Key`: a POST that is repeated with its key is answered as the first time, and not carried out again.
//!
//! For clients that do not know whether their request arrived. The memory is this agent's own and bounded: a repetition
//! that goes to another agent, or comes after [`KEPT`] or a restart, is carried out. That does no harm for commands that
//! say what should be (`{"to": "beta"}`); it does for one that says "somewhere else" (`{}`).
//! An answer of 429 or above 500 is not kept: the repetition is then the wish to try again. Neither is 201: what is made
//! and answered once is a secret.

use super::access;
use super::problem::ApiError;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Answers kept. At some 300 bytes each the memory stays below a megabyte; the oldest is dropped for a new one.
const ANSWERS_MAX: usize = 1024;
/// How long an answer is kept: longer than any client goes on repeating.
const KEPT: Duration = Duration::from_secs(3600);
/// Longest key.
const KEY_MAX: usize = 128;
/// Longest answer that is kept; those of commands are short.
const ANSWER_MAX: usize = 16 << 10;
/// Largest body that is fingerprinted: the layer before this one lets no larger one pass.
const BODY_MAX: usize = super::BODY_MAX;

#[derive(Clone)]
struct Kept {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

struct Entry {
    /// Who, and their key.
    key: String,
    /// What was asked for.
    fingerprint: [u8; 32],
    at: Instant,
    /// None while it is being carried out.
    answer: Option<Kept>,
}

/// Answers by key, oldest first.
#[derive(Default)]
pub(super) struct Memory(Mutex<VecDeque<Entry>>);

enum Found {
    Nothing,
    InProgress,
    Other,
    Answer(Kept),
}

impl Memory {
    fn begin(&self, key: &str, fingerprint: [u8; 32], now: Instant) -> Found {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.front().is_some_and(|e| now.duration_since(e.at) >= KEPT)
            || entries.len() >= ANSWERS_MAX
        {
            entries.pop_front();
        }
        match entries.iter().find(|e| e.key == key) {
            Some(entry) if entry.fingerprint != fingerprint => Found::Other,
            Some(entry) => entry.answer.clone().map_or(Found::InProgress, Found::Answer),
            None => {
                entries.push_back(Entry { key: key.to_owned(), fingerprint, at: now, answer: None });
                Found::Nothing
            }
        }
    }

    fn end(&self, key: &str, answer: Option<Kept>) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => {
                if let Some(entry) = entries.iter_mut().find(|e| e.key == key) {
                    entry.answer = Some(answer);
                }
            }
            None => entries.retain(|e| e.key != key),
        }
    }
}

/// Forgets a key whose request ended without an answer that is kept, be it because the client hung up.
struct Pending<'a> {
    memory: &'a Memory,
    key: &'a str,
    answer: Option<Kept>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.memory.end(self.key, self.answer.take());
    }
}

/// Answers a repeated POST from memory.
pub(super) async fn once(
    State(memory): State<Arc<Memory>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = request.headers().get("idempotency-key").cloned();
    let (Some(key), &Method::POST) = (key, request.method()) else { return Ok(next.run(request).await) };
    let visible =
        |key: &&str| (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    let key = key.to_str().ok().filter(visible);
    let Some(key) = key else {
        let text = format!("Idempotency-Key is 1 to {KEY_MAX} visible ASCII characters, for example a UUID.");
        return Err(ApiError::bad_request(text));
    };
    // Two clients that happen to use the same key do not see each other's answers.
    let who = access::principal(request.extensions())?;
    let key = format!("{}\n{}\n{key}", who.name, who.role);
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_MAX)
        .await
        .map_err(|error| ApiError::bad_request(format!("The body could not be read to its end: {error}.")))?;
    let mut digest = Sha256::new();
    digest.update(parts.uri.path_and_query().map_or("", |p| p.as_str()));
    // A condition is part of what was asked: the answer must not pass for one to another condition.
    for condition in parts.headers.get_all(header::IF_MATCH) {
        digest.update([0]);
        digest.update(condition.as_bytes());
    }
    digest.update([0, 0]);
    digest.update(&body);
    match memory.begin(&key, digest.finalize().into(), Instant::now()) {
        Found::Nothing => {}
        Found::Answer(kept) => return Ok(replay(kept)),
        Found::InProgress => {
            return Err(ApiError::in_progress(
                "A request with this Idempotency-Key is being carried out; repeat it in a moment to get its answer."
                    .to_owned(),
            ));
        }
        Found::Other => {
            return Err(ApiError::key_reused(
                "This Idempotency-Key was used for another request; take a new one for each command."
                    .to_owned(),
            ));
        }
    }
    let mut pending = Pending { memory: &memory, key: &key, answer: None };
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    let status = response.status();
    let passing = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::CREATED);
    if status.is_server_error() || passing {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, ANSWER_MAX).await else {
        return Err(ApiError::unavailable(
            "The answer is too long to be kept; look at /v1/status.".to_owned(),
        ));
    };
    pending.answer = Some(Kept {
        status,
        content_type: parts.headers.get(header::CONTENT_TYPE).cloned(),
        body: body.clone(),
    });
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(kept: Kept) -> Response {
    let mut response = Response::new(Body::from(kept.body));
    *response.status_mut() = kept.status;
    if let Some(kind) = kept.content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_in_number_and_time() {
        let memory = Memory::default();
        let now = Instant::now();
        for n in 0..ANSWERS_MAX * 2 {
            assert!(matches!(memory.begin(&n.to_string(), [0; 32], now), Found::Nothing));
        }
        assert!(memory.0.lock().unwrap().len() <= ANSWERS_MAX);
        assert!(matches!(memory.begin("0", [0; 32], now), Found::Nothing), "the oldest was dropped");
        assert!(matches!(memory.begin("0", [0; 32], now), Found::InProgress));
        assert!(matches!(memory.begin("0", [1; 32], now), Found::Other));
        assert!(matches!(memory.begin("0", [1; 32], now + KEPT), Found::Nothing), "it was too old");
        memory.end("0", None);
        assert!(matches!(memory.begin("0", [0; 32], now + KEPT), Found::Nothing), "given up");
    }
}
