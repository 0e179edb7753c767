//! Errors of the API as RFC 9457 problem documents, whoever raised them.

use super::CommandError;
use axum::Json;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use baton_replicator::api::Problem;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// Longest plain-text error of a layer that is taken over as a detail.
const DETAIL_MAX: usize = 4096;

/// A problem on its way to the client.
#[derive(Debug)]
pub(super) struct ApiError(Problem);

impl ApiError {
    fn new(status: StatusCode, kind: &str, title: &str, detail: String) -> Self {
        Self(Problem {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
        })
    }

    pub(super) fn bad_request(detail: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request does not make sense", detail)
    }

    pub(super) fn not_found(detail: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such thing", detail)
    }

    pub(super) fn unavailable(detail: String) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not possible right now", detail)
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
            CommandError::Unavailable(detail) => Self::unavailable(detail),
            CommandError::Internal(detail) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The agent failed", detail)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], Json(self.0)).into_response().fix_type()
    }
}

/// `Json` sets its own content type; a problem has another.
trait FixType {
    fn fix_type(self) -> Self;
}

impl FixType for Response {
    fn fix_type(mut self) -> Self {
        self.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        self
    }
}

/// Makes problem documents of the plain errors that axum and the layers raise (no such route, wrong method,
/// body too large, …). Role questions keep their one-line text.
pub(super) async fn as_problem(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = next.run(request).await;
    let status = response.status();
    let typed = response.headers().get(header::CONTENT_TYPE) == Some(&PROBLEM_JSON);
    let role = matches!(path.as_str(), "/leader" | "/standby" | "/livez" | "/readyz");
    if typed || role || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, DETAIL_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (kind, title, detail) = match status {
        StatusCode::NOT_FOUND => {
            ("not-found", "No such thing", format!("There is nothing at {path}. Start at /v1/status."))
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method", "Wrong method", format!("{path} does not know {method}; see the Allow header."))
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("too-large", "The request is too large", "Send at most 64 KiB.".to_owned())
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
