//! What is asked of volumes: a comparison of their replicas and its end, a pause of their resyncs and its end.

use super::problem::ApiError;
use super::write::{Answer, DryRun, answer};
use super::{Accepted, ApiState, How};
use axum::extract::{Path, Query, State};
use baton_replicator::types::VolumeName;
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct VerifyQuery {
    #[serde(default)]
    repair: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Compares the replicas of a volume, block by block, while it is in use.
///
/// The primary compares digests with every connected peer, at a rate that yields to the application. What differs is
/// marked and counted; with `repair=true` it is copied from the primary, what earlier runs marked first. Progress and
/// result stand in the volume's status. Refused (409) while one runs.
#[utoipa::path(
    post,
    path = "/v1/volumes/{volume}/verify",
    operation_id = "verifyVolume",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("repair" = Option<bool>, Query, description = "Copy what differs from the primary."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the agent beside the primary begins.", body = Accepted)
    )
)]
pub(super) async fn verify(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
    Query(query): Query<VerifyQuery>,
) -> Answer {
    let volume = known_volume(&api, &volume)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.verify(volume, query.repair, how).await?)
}

/// Stops a verify.
///
/// What it found stays marked. Without effect if none runs.
#[utoipa::path(
    delete,
    path = "/v1/volumes/{volume}/verify",
    operation_id = "stopVerify",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the agent beside the primary stops it.", body = Accepted)
    )
)]
pub(super) async fn stop_verify(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
    Query(query): Query<DryRun>,
) -> Answer {
    let volume = known_volume(&api, &volume)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.stop_verify(volume, how).await?)
}

/// Lets the resyncs of a volume stand still.
///
/// Application writes go on and reach the target; what it lacks stays marked, and it cannot take over before the resync has
/// ended. The catching up of a replica that acknowledgements wait for is not paused. The pause stands until it is taken
/// back, across restarts and takeovers. Without effect if it is paused already.
#[utoipa::path(
    post,
    path = "/v1/volumes/{volume}/pause-sync",
    operation_id = "pauseSync",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; every agent tells its replicator.", body = Accepted)
    )
)]
pub(super) async fn pause(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
    Query(query): Query<DryRun>,
) -> Answer {
    resyncs(&api, &volume, true, &query).await
}

/// Lets the resyncs of a volume go on.
///
/// Without effect if they are not paused.
#[utoipa::path(
    post,
    path = "/v1/volumes/{volume}/resume-sync",
    operation_id = "resumeSync",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; every agent tells its replicator.", body = Accepted)
    )
)]
pub(super) async fn resume(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
    Query(query): Query<DryRun>,
) -> Answer {
    resyncs(&api, &volume, false, &query).await
}

async fn resyncs(api: &ApiState, volume: &str, paused: bool, query: &DryRun) -> Answer {
    let volume = known_volume(api, volume)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.pause_resync(volume, paused, how).await?)
}

pub(super) fn known_volume(api: &ApiState, name: &str) -> Result<VolumeName, ApiError> {
    let status = api.snapshot();
    let all = || status.groups.iter().flat_map(|g| g.volumes.iter().map(|v| &v.volume));
    let found = all().find(|v| v.as_str() == name).cloned();
    found.ok_or_else(|| ApiError::unknown("volume", name, all()))
}
