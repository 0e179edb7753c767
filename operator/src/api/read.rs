//! Reads: parts of the status snapshot.

use super::problem::ApiError;
use super::{ApiState, SpecDocument};
use crate::status::{ClusterStatus, GroupStatus, NodeStatus};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use baton_replicator::api::VolumeStatus;

pub(super) async fn status(State(api): State<ApiState>) -> Json<ClusterStatus> {
    Json(api.snapshot())
}

pub(super) async fn groups(State(api): State<ApiState>) -> Json<Vec<GroupStatus>> {
    Json(api.snapshot().groups)
}

pub(super) async fn group(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<GroupStatus>, ApiError> {
    let status = api.snapshot();
    match status.groups.iter().find(|g| g.name.as_str() == name) {
        Some(group) => Ok(Json(group.clone())),
        None => Err(ApiError::unknown("group", &name, status.groups.iter().map(|g| &g.name))),
    }
}

pub(super) async fn nodes(State(api): State<ApiState>) -> Json<Vec<NodeStatus>> {
    Json(api.snapshot().nodes)
}

pub(super) async fn node(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<NodeStatus>, ApiError> {
    let status = api.snapshot();
    match status.nodes.iter().find(|n| n.name.as_str() == name) {
        Some(node) => Ok(Json(node.clone())),
        None => Err(ApiError::unknown("node", &name, status.nodes.iter().map(|n| &n.name))),
    }
}

pub(super) async fn volumes(State(api): State<ApiState>) -> Json<Vec<VolumeStatus>> {
    Json(api.snapshot().groups.into_iter().flat_map(|g| g.volumes).collect())
}

pub(super) async fn volume(
    State(api): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<VolumeStatus>, ApiError> {
    let status = api.snapshot();
    let mut volumes = status.groups.iter().flat_map(|g| &g.volumes);
    match volumes.find(|v| v.volume.as_str() == name) {
        Some(volume) => Ok(Json(volume.clone())),
        None => {
            let known = status.groups.iter().flat_map(|g| &g.volumes).map(|v| &v.volume);
            Err(ApiError::unknown("volume with a replica on this node", &name, known))
        }
    }
}

pub(super) async fn spec(State(api): State<ApiState>) -> Result<Json<SpecDocument>, ApiError> {
    Ok(Json(api.commands.spec().await?))
}

pub(super) async fn metrics(State(api): State<ApiState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], crate::metrics::render(&api.snapshot()))
}
