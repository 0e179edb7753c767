//! Whom the cluster tells, and a test of it.

use super::ApiState;
use super::problem::ApiError;
use crate::notify::TestOutcome;
use crate::status::NotificationStatus;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

/// What to test.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRequest {
    /// The target; without it all of them.
    #[serde(default)]
    target: Option<String>,
}

/// Whom the cluster tells.
///
/// The targets of the specification, and how the answering node's deliveries to them go.
#[utoipa::path(
    get,
    path = "/v1/notify",
    operation_id = "getNotify",
    tag = "notifications",
    responses((status = 200, description = "The targets, by name.", body = Vec<NotificationStatus>))
)]
pub(super) async fn targets(State(api): State<ApiState>) -> Json<Vec<NotificationStatus>> {
    Json(api.snapshot().notifications.clone())
}

/// Sends a test message.
///
/// From the answering node, past thresholds, limits and queue; the answer says what became of it. An attempt without an
/// end after 8 s counts as failed.
#[utoipa::path(
    post,
    path = "/v1/notify/test",
    operation_id = "testNotify",
    tag = "notifications",
    request_body(content = Option<TestRequest>, example = json!({"target": "operators"})),
    responses((status = 200, description = "What became of it, per target.", body = Vec<TestOutcome>))
)]
pub(super) async fn test(
    State(api): State<ApiState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Vec<TestOutcome>>, ApiError> {
    let request: TestRequest = match body.is_empty() {
        true => TestRequest::default(),
        false => super::write::parse::<Option<_>>(&headers, &body, r#"{} or {"target": "NAME"}"#)?
            .unwrap_or_default(),
    };
    Ok(Json(api.commands.notify_test(request.target).await?))
}
