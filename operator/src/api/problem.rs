//! Errors of the API as RFC 9457 problem documents, whoever raised them.

use super::CommandError;
use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Longest plain-text error of a layer that is taken over as a detail.
const DETAIL_MAX: usize = 4096;
/// When to come back if nothing better is known: an election of etcd takes about as long.
const RETRY_AFTER_S: u64 = 1;

/// An RFC 9457 problem document: why a request was not done, and what to do next.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// Names the kind of problem; the same for every occurrence.
    #[serde(rename = "type")]
    #[schema(examples("/problems/refused"))]
    kind: String,
    /// Short text, the same for every occurrence.
    #[schema(examples("Refused"))]
    title: String,
    /// The HTTP status.
    #[schema(examples(409))]
    status: u16,
    /// What happened and what to do next.
    #[schema(examples(
        "beta cannot take web now: its replica of webstore is Inconsistent: the resync is at 46.9 %"
    ))]
    detail: String,
    /// The version that is in force, as an entity tag, where another one was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(examples("\"17\""))]
    current: Option<String>,
    /// A specification that is not valid: everything that is wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<super::spec::FieldError>,
    /// A specification of which something is refused: all its changes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<crate::spec::Change>,
}

/// A problem on its way to the client.
#[derive(Debug)]
pub(super) struct ApiError {
    document: Box<ProblemDocument>,
    headers: HeaderMap,
}

impl ApiError {
    fn new(status: StatusCode, kind: &str, title: &str, detail: String) -> Self {
        let document = Box::new(ProblemDocument {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            current: None,
            errors: Vec::new(),
            changes: Vec::new(),
        });
        Self { document, headers: HeaderMap::new() }
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(super) fn bad_request(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request does not make sense", detail)
    }

    pub(super) fn forbidden(detail: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    pub(super) fn not_found(detail: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such thing", detail)
    }

    pub(super) fn media_type(detail: String) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "Wrong content type", detail)
    }

    /// The `Idempotency-Key` is in use by a request that has not been answered yet.
    pub(super) fn in_progress(detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "in-progress", "Already being carried out", detail)
            .with(header::RETRY_AFTER, &RETRY_AFTER_S.to_string())
    }

    /// The `Idempotency-Key` belongs to another request.
    pub(super) fn key_reused(detail: String) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Key belongs to another request",
            detail,
        )
    }

    /// `If-Match` names another version than `current`, an entity tag.
    pub(super) fn changed(detail: String, current: Option<String>) -> Self {
        let mut error =
            Self::new(StatusCode::PRECONDITION_FAILED, "changed", "Changed by somebody else", detail);
        if let Some(current) = &current {
            error = error.with(header::ETAG, current);
        }
        error.document.current = current;
        error
    }

    /// A change that must say what it was made from did not.
    pub(super) fn unconditional(detail: String) -> Self {
        Self::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", "If-Match is missing", detail)
    }

    /// A specification that is not valid.
    pub(super) fn invalid_spec(detail: String, errors: Vec<super::spec::FieldError>) -> Self {
        let title = "The specification is not valid";
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-specification", title, detail);
        error.document.errors = errors;
        error
    }

    /// A specification that cannot be applied to the running cluster.
    pub(super) fn refused_spec(detail: String, current: String, changes: Vec<crate::spec::Change>) -> Self {
        let mut error = Self::new(StatusCode::CONFLICT, "refused", "Refused", detail);
        error.document.current = Some(current);
        error.document.changes = changes;
        error
    }

    pub(super) fn too_many(detail: String, wait: Duration) -> Self {
        // Rounded up: who comes back too early is refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "Too many requests", detail)
            .with(header::RETRY_AFTER, &seconds.max(RETRY_AFTER_S).to_string())
    }

    pub(super) fn unavailable(detail: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible right now", detail)
            .with(header::RETRY_AFTER, &RETRY_AFTER_S.to_string())
    }

    pub(super) fn refused(detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "refused", "Refused", detail)
    }

    /// `kind` with this name does not exist; the names that do are listed.
    pub(super) fn unknown<T: std::fmt::Display>(
        kind: &str,
        name: &str,
        known: impl Iterator<Item = T>,
    ) -> Self {
        let known: Vec<String> = known.map(|name| name.to_string()).collect();
        let detail = if known.is_empty() {
            format!("There is no {kind} '{name}', and the specification has none.")
        } else {
            format!("There is no {kind} '{name}'. Known: {}.", known.join(", "))
        };
        Self::not_found(detail)
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound(detail) => Self::not_found(detail),
            CommandError::Refused(detail) => Self::new(StatusCode::CONFLICT, "refused", "Refused", detail),
            CommandError::Changed { detail, current } => {
                Self::changed(detail, current.map(|version| format!("\"{version}\"")))
            }
            CommandError::Unavailable(detail) => Self::unavailable(detail),
            CommandError::Internal(detail) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The agent failed", detail)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.document)).into_response();
        response.headers_mut().extend(self.headers);
        // `Json` sets its own content type; a problem has another.
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        response
    }
}

/// Makes problem documents of the plain errors that axum and the layers raise (no such route, wrong method,
/// body too large, …). Role questions keep their one-line text.
pub(super) async fn as_problem(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let status = response.status();
    let typed = response.headers().get(header::CONTENT_TYPE) == Some(&PROBLEM_JSON);
    let asked = method == axum::http::Method::GET || method == axum::http::Method::HEAD;
    let role = asked && super::role::PATHS.contains(&path.as_str());
    if typed || role || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, DETAIL_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (kind, title, detail) = match status {
        StatusCode::NOT_FOUND => (
            "not-found",
            "No such thing",
            format!("There is nothing at {path}. Start at /v1/status; /docs describes everything."),
        ),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method", "Wrong method", format!("{path} does not know {method}; see the Allow header."))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("too-large", "The request is too large", "Send at most 512 KiB.".to_owned())
        }
        _ => (
            "bad-request",
            "The request does not make sense",
            format!("{}.", text.trim().trim_end_matches('.')),
        ),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    let problem = ApiError::new(status, kind, title, detail).into_response();
    let (problem_parts, problem_body) = problem.into_parts();
    parts.headers.extend(problem_parts.headers);
    Response::from_parts(parts, problem_body)
}
