//! Versions of what is read, and conditions on what is changed.
//!
//! Every JSON answer to a GET carries a strong entity tag; `If-None-Match` with it is answered by 304 without a body.
//!
//! * What is kept in etcd (specification, node mode, target) is tagged with the version of its key, `"17"`, which is the
//!   same at every agent. `If-Match` on PUT, POST and DELETE compares it and is compared once more by etcd's transaction.
//! * Status is tagged by what a decision rests on: [`Tag::of_facts`] leaves out [`MEASURED`]. Ages, lags, counters and
//!   progress change with every look; a tag over them would never match. So 304 on status means "nothing happened", not
//!   "the same bytes", and answers carry `Cache-Control: no-store`, so that no cache serves old figures on its own.
//! * Everything else is tagged by its bytes.

use super::problem::ApiError;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;

/// Answers longer than this are not tagged by content. The status of 100 groups on three nodes has about half a MiB.
const TAGGED_MAX: u64 = 16 << 20;
/// Fields of status that are measured rather than decided: they do not count for a tag.
pub(super) const MEASURED: [&str; 24] = [
    "activity_log_extents",
    "age_ms",
    "at",
    "availability",
    "copied_bytes",
    "counters",
    "dirty_bytes",
    "entitlement",
    "fresh",
    "frozen_since",
    "lag_us",
    "late_heartbeats",
    "longest_gap_ms",
    "measured",
    "notifications",
    "oldest_unacked_ms",
    "reason",
    "refused_datagrams",
    "resync",
    "resync_percent",
    "revision",
    "spared_bytes",
    "unacked_bytes",
    "under_way",
];

/// A strong entity tag, with its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    /// The version of a key in etcd.
    pub(super) fn of_version(version: i64) -> Self {
        Self(format!("\"{version}\""))
    }

    /// The bytes of an answer.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        use std::fmt::Write;
        let mut text = String::from("\"");
        // Half of the digest is plenty to tell versions of one resource apart.
        for byte in &Sha256::digest(bytes)[..16] {
            // Writing to a string has no way to fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('"');
        Self(text)
    }

    /// What a decision rests on: everything but [`MEASURED`].
    pub(super) fn of_facts<T: Serialize>(facts: &T) -> Self {
        // Plain data with text keys: serialisation has no way to fail.
        let mut value = serde_json::to_value(facts).unwrap_or_default();
        prune(&mut value);
        Self::of_bytes(value.to_string().as_bytes())
    }

    /// As a header.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !MEASURED.contains(&name.as_str()));
            fields.values_mut().for_each(prune);
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An answer with its tag.
pub(super) struct Tagged<T>(pub(super) Tag, pub(super) T);

impl<T: IntoResponse> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        ([(header::ETAG, self.0.header())], self.1).into_response()
    }
}

/// Holds `If-Match`, if the request has it, against the version in force. `what` begins the explanation.
///
/// # Errors
/// 412 with the version in force.
pub(super) fn if_match(headers: &HeaderMap, current: &Tag, what: &str) -> Result<(), ApiError> {
    match listed(headers, header::IF_MATCH) {
        Some(wanted) if !wanted.matches(current) => Err(ApiError::changed(
            format!(
                "{what} has changed since you read it: it is at version {current} now. Look again, then repeat."
            ),
            Some(current.to_string()),
        )),
        _ => Ok(()),
    }
}

/// Whether the request makes its effect depend on a version. `*` only asks for existence.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    matches!(listed(headers, header::IF_MATCH), Some(List::Tags(_)))
}

enum List {
    Any,
    Tags(Vec<String>),
}

impl List {
    /// Strong comparison: a weak tag matches nothing.
    fn matches(&self, tag: &Tag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.contains(&tag.0),
        }
    }
}

fn listed(headers: &HeaderMap, name: header::HeaderName) -> Option<List> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    if lines.is_empty() {
        return None;
    }
    let text: Vec<&str> = lines.iter().filter_map(|line| line.to_str().ok()).collect();
    let tags: Vec<String> =
        text.iter().flat_map(|line| line.split(',')).map(|tag| tag.trim().to_owned()).collect();
    Some(if tags.iter().any(|tag| tag == "*") { List::Any } else { List::Tags(tags) })
}

/// Tags JSON answers that have no tag of their own, answers `If-None-Match`, and keeps answers out of caches.
pub(super) async fn tag(mut request: Request, next: Next) -> Response {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    // Weak comparison is asked for here: proxies that compress an answer weaken its tag.
    let known = listed(request.headers(), header::IF_NONE_MATCH).map(|list| match list {
        List::Any => List::Any,
        List::Tags(tags) => {
            List::Tags(tags.into_iter().map(|tag| tag.trim_start_matches("W/").to_owned()).collect())
        }
    });
    // So that HEAD is tagged like GET; axum takes the body off further out.
    if request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if !read || response.status() != StatusCode::OK {
        return response;
    }
    if !response.headers().contains_key(header::ETAG) {
        response = tag_by_content(response).await;
    }
    let Some(tag) = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok()) else {
        return response;
    };
    if known.is_some_and(|known| known.matches(&Tag(tag.to_owned()))) {
        let (mut parts, _) = response.into_parts();
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    response
}

async fn tag_by_content(response: Response) -> Response {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    // Streams and what has no known size are let through as they are.
    if !json || response.body().size_hint().exact().is_none_or(|size| size > TAGGED_MAX) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(bytes) => {
            parts.headers.insert(header::ETAG, Tag::of_bytes(&bytes).header());
            Response::from_parts(parts, Body::from(bytes))
        }
        Err(_) => {
            ApiError::unavailable("The answer could not be put together; repeat the request.".to_owned())
                .into_response()
        }
    }
}
