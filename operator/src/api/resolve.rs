//! Resolving a split brain by a person's word, and releasing the copies that are kept of what was given up.

use super::write::{Answer, DryRun, answer, known_node, parse};
use super::{Accepted, ApiState, How, Resolve};
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use baton_replicator::types::{NodeName, VolumeName};
use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct ReleaseQuery {
    node: Option<NodeName>,
    #[serde(default)]
    dry_run: bool,
}

/// Resolves a split brain: gives the data of one node up.
///
/// The node keeps a copy of its data beside the backing file (or nothing is given up, unless `snapshot` is false), and
/// the leader then copies everything to it. Only data of a node that does not lead can be given up. Refused (409) if the
/// replicas are not at odds, as far as this agent knows. Asked of any agent; the one beside the data carries it out.
#[utoipa::path(
    post,
    path = "/v1/volumes/{volume}/resolve",
    operation_id = "resolveVolume",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    request_body(content = Resolve, example = json!({"discard": "beta"})),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the node gives its data up when a copy is kept.", body = Accepted)
    )
)]
pub(super) async fn resolve(
    State(api): State<ApiState>,
    Path(volume): Path<String>,
    Query(query): Query<DryRun>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let request: Resolve = parse(&headers, &body, r#"{"discard": "NODE"}"#)?;
    known_node(&api, request.discard.as_str())?;
    let volume = super::verify::known_volume(&api, &volume)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.resolve(volume, request, how).await?)
}

/// Removes a copy of data that was given up.
///
/// The copies of a volume stand in its status, with their node, size and date.
#[utoipa::path(
    delete,
    path = "/v1/volumes/{volume}/snapshots/{snapshot}",
    operation_id = "releaseSnapshot",
    tag = "volumes",
    params(
        ("volume" = VolumeName, Path, description = "Name of the volume."),
        ("snapshot" = String, Path, description = "Name of the copy."),
        ("node" = Option<NodeName>, Query, description = "The node that holds it, if several hold one of that name."),
        ("dry_run" = Option<bool>, Query, description = "Say what would happen and whether it would be refused; change nothing.")
    ),
    responses(
        (status = 200, description = "Dry run: what would happen.", body = Accepted),
        (status = 202, description = "Written; the node that holds it removes it.", body = Accepted)
    )
)]
pub(super) async fn release(
    State(api): State<ApiState>,
    Path((volume, snapshot)): Path<(String, String)>,
    Query(query): Query<ReleaseQuery>,
) -> Answer {
    let volume = super::verify::known_volume(&api, &volume)?;
    let how = How { dry_run: query.dry_run, expected: None };
    answer(api.commands.release(volume, snapshot, query.node, how).await?)
}
