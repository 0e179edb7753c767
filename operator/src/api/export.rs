//! Serving a snapshot of the replica beside the answering agent, for backup.

use super::ApiState;
use super::problem::ApiError;
use super::verify::known_volume;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use baton_replicator::api::ExportStatus;
use baton_replicator::types::VolumeName;

/// Serves a snapshot of the replica on the answering node read-only by NBD, for backup.
///
/// It is served on a Unix socket of that node until it is ended, or for an hour after its last client has gone, and is
/// what the volume held at one moment, as after a power cut. It costs that node a copy of every block that changes meanwhile.
/// The one that is served already stays. Refused (409) unless the replica there is UpToDate.
#[utoipa::path(
    post,
    path = "/v1/volumes/{volume}/export",
    operation_id = "exportVolume",
    tag = "volumes",
    params(("volume" = VolumeName, Path, description = "Name of the volume.")),
    responses((status = 200, description = "It is served.", body = ExportStatus))
)]
pub(super) async fn export(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
) -> Result<Json<ExportStatus>, ApiError> {
    let volume = known_volume(&api, &volume)?;
    Ok(Json(api.commands.export(volume).await?))
}

/// Ends the export on the answering node.
///
/// Its clients are disconnected. Without effect if there is none.
#[utoipa::path(
    delete,
    path = "/v1/volumes/{volume}/export",
    operation_id = "endExport",
    tag = "volumes",
    params(("volume" = VolumeName, Path, description = "Name of the volume.")),
    responses((status = 204, description = "There is none any more."))
)]
pub(super) async fn end_export(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
) -> Result<StatusCode, ApiError> {
    let volume = known_volume(&api, &volume)?;
    api.commands.end_export(volume).await?;
    Ok(StatusCode::NO_CONTENT)
}
