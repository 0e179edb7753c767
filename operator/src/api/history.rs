//! `GET /v1/series`, the memory behind the charts, and `GET /v1/whoami`, who the agent takes the caller for.

use super::ApiState;
use super::problem::ApiError;
use crate::security::{Principal, Role, Via};
use crate::series::{SeriesAnswer, SeriesQuery};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::{Extension, Json};

/// What this agent remembers of the last hour or day, for charts.
///
/// Lag, dirty bytes, heartbeat gaps, write rates and availability, sampled every five seconds for an hour, as means of a
/// minute for a day. Memory only: a restart of the agent begins anew.
#[utoipa::path(
    get,
    path = "/v1/series",
    operation_id = "getSeries",
    tag = "monitoring",
    params(SeriesQuery),
    responses(
        (status = 200, description = "The series.", body = SeriesAnswer),
        (status = 404, description = "There is no such group.", body = super::problem::ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn series(
    State(api): State<ApiState>,
    query: Result<Query<SeriesQuery>, QueryRejection>,
) -> Result<Json<SeriesAnswer>, ApiError> {
    let Query(query) = query.map_err(|error| {
        ApiError::bad_request(format!("{}. Ask with ?range=1h or 24h, and ?group=NAME.", error.body_text()))
    })?;
    let status = api.snapshot();
    if let Some(group) = &query.group
        && !status.groups.iter().any(|g| g.name == *group)
    {
        return Err(ApiError::unknown("group", group.as_str(), status.groups.iter().map(|g| &g.name)));
    }
    Ok(Json(api.series.answer(&status, &query)))
}

/// Who the agent takes you for, and what you may do.
///
/// With authentication switched off everybody may do everything, and this says so.
#[utoipa::path(
    get,
    path = "/v1/whoami",
    operation_id = "whoAmI",
    tag = "agent",
    responses((status = 200, description = "Name and role of the caller.", body = Principal))
)]
pub(super) async fn whoami(principal: Option<Extension<Principal>>) -> Json<Principal> {
    Json(principal.map_or_else(
        || Principal { name: "anyone".into(), role: Role::Admin, via: Via::Nothing, from: "unknown".into() },
        |Extension(principal)| principal,
    ))
}
